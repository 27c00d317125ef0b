"""The desk's pages of the door: channels, routes, terms of calls, calls of unknown outcome."""

import json
from typing import Any

from django import forms
from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest

from core.admin import Act, ActsAdmin, Done, VerbAdmin, presence
from gateway import channels, outcomes, terms
from gateway.models import CallTerms, Channel, Route, UnknownOutcome
from orgs.admin import actor
from orgs.models import Organization


class ChannelForm(ModelForm[Channel]):
    """A channel's fields, its models as JSON. Its key goes in and never comes out."""

    key = forms.CharField(
        required=False,
        max_length=channels.KEY_CHARS_MAX,
        # Never with a value, so that a form that is shown again has none.
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=False),
        help_text="Kept encrypted and never shown again. Empty: what is kept stays.",
    )
    forget_key = forms.BooleanField(required=False, help_text="Take away the key that is kept here")

    class Meta:
        model = Channel
        fields = ("name", *(field if field != "models" else "serves" for field in channels.FIELDS))
        widgets = {
            "name": forms.TextInput,
            "base_url": forms.TextInput,
            "key_env": forms.TextInput,
            "serves": forms.Textarea(attrs={"rows": 6}),
        }


@admin.register(Channel)
class ChannelAdmin(VerbAdmin[Channel]):
    """Upstreams. A key is in the environment or kept here, encrypted; nobody is shown it."""

    form = ChannelForm
    list_display = ("name", "kind", "base_url", "key_is", "priority", "weight", "number_of_models", "enabled")
    list_filter = ("enabled", "kind")
    search_fields = ("=name",)
    ordering = ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Channel | None = None) -> tuple[str, ...]:
        """Its name is what records and files know a channel by."""
        return ("name",) if obj else ()

    @admin.display(description="models")
    def number_of_models(self, row: Channel) -> str:
        """How many ids it serves."""
        return "any" if channels.ANY in row.serves else str(len(row.serves))

    @admin.display(description="key")
    def key_is(self, row: Channel) -> str:
        """Where its key is."""
        return "kept here" if row.sealed_key is not None else row.key_env or "none"

    def get_fields(self, request: HttpRequest, obj: Channel | None = None) -> list[Any]:
        """The key after the variable that may hold it instead; forgotten is only what there is."""
        found = [str(name) for name in super().get_fields(request, obj) if name not in {"key", "forget_key"}]
        at = found.index("key_env") + 1
        kept = ["forget_key"] if obj is not None and obj.sealed_key is not None else []
        return [*found[:at], "key", *kept, *found[at:]]

    def keep(self, request: HttpRequest, row: Channel, *, form: ModelForm[Channel], new: bool) -> Channel:
        """Save by the verb."""
        told = {field: getattr(row, "serves" if field == "models" else field) for field in channels.FIELDS}
        if type(told["models"]) is str:
            told["models"] = json.loads(told["models"])
        told_key = form.cleaned_data.get("key") or ("" if form.cleaned_data.get("forget_key") else None)
        return channels.keep(name=row.name, fields=told, key=told_key, by=actor(request))[0]


@admin.register(Route)
class RouteAdmin(VerbAdmin[Route]):
    """How smart products choose."""

    list_display = ("model", "by", "candidates")
    fields = ("model", "by", "candidates")
    search_fields = ("=model",)
    ordering = ("model",)

    def get_readonly_fields(self, request: HttpRequest, obj: Route | None = None) -> tuple[str, ...]:
        """A route is of one model."""
        return ("model",) if obj else ()

    def keep(self, request: HttpRequest, row: Route, *, form: ModelForm[Route], new: bool) -> Route:
        """Save by the verb."""
        channels.keep_route(model=row.model, by=row.by, candidates=list(row.candidates), actor=actor(request))
        return Route.objects.get(model=row.model)


class TermsForm(forms.Form):
    """What to do when a client hangs up."""

    organization = forms.CharField(help_text="Slug")
    on_hang_up = forms.ChoiceField(choices=terms.HangUp.choices)


def _change(request: HttpRequest, _: None, told: dict[str, Any]) -> Done:
    found = Organization.objects.filter(slug=told["organization"]).first()
    if found is None:
        return Done("No organization has this slug.", level=40)
    terms.change(organization_id=found.pk, on_hang_up=told["on_hang_up"], reason=told["reason"], by=actor(request))
    return Done(f"{found.slug}: {told['on_hang_up']}.")


@admin.register(CallTerms)
class CallTermsAdmin(ActsAdmin[CallTerms]):
    """What organizations have agreed to for calls whose client hangs up."""

    list_display = ("organization", "on_hang_up")
    list_select_related = ("organization",)
    list_acts = (
        Act(
            "change", "Set the terms of an organization", "Calls that begin afterwards are billed by it.", _change,
            TermsForm,
        ),
    )  # fmt: skip


class ResolutionForm(forms.Form):
    """What came of it."""

    resolution = forms.CharField(max_length=500, widget=forms.Textarea(attrs={"rows": 3}))


def _resolve(request: HttpRequest, row: UnknownOutcome, told: dict[str, Any]) -> Done:
    outcomes.resolve(outcome=row, resolution=told["resolution"], by=actor(request))
    return Done("Written down.")


@admin.register(UnknownOutcome)
class UnknownOutcomeAdmin(ActsAdmin[UnknownOutcome]):
    """Calls that nobody ended: the provider may have been paid, the customer was not charged."""

    list_display = ("shown_id", "organization", "model", "amount_usd", "began_at", "expired_at", "resolved_at")
    list_select_related = ("organization",)
    list_filter = (("resolved_at", presence("resolved", absent="open", present="resolved")),)
    acts = (
        Act(
            "resolve", "Write down what came of it", "Nothing is charged by this.", _resolve, ResolutionForm,
            possible=lambda row: row.resolved_at is None, why="resolution",
        ),
    )  # fmt: skip
