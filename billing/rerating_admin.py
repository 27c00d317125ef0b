"""The desk's pages of re-ratings: planned as a dry run, applied, undone; and what each means for whom."""

import re
from typing import Any, Final
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.db.models import F, QuerySet
from django.db.models.functions import Abs
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import rerating
from billing.models import Rerating, ReratingShare
from billing.money_admin import PanelsAdmin
from core import ids, money
from core.admin import Act, ActsAdmin, Done, Section
from core.markup import NOTHING, link, paragraphs, refer, signed, table
from core.reasons import ReasonForm
from metering.admin import When, find_organization
from ops.admin import RIGHTS, SUBJECTS
from orgs.admin import actor
from orgs.models import Organization

SHARES_SHOWN: Final = 100
NAMED_MAX: Final = 200
REFRESH_SECONDS: Final = 5


def words(text: str) -> list[str]:
    """What stands between commas, spaces and line ends, each once."""
    return list(dict.fromkeys(word for word in re.split(r"[\s,]+", text) if word))


class PlanForm(ReasonForm):
    """Which records to rate again."""

    field_order = ("start", "end", "models", "organizations", "reason")
    start = When(label="from (UTC)", help_text="Of when a record was made; inclusive.")
    end = When(label="until (UTC)", help_text="Exclusive, and at least a minute ago.")
    models = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Ids of the catalog, between commas, spaces or lines. None means all.",
    )
    organizations = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Slugs, org_ ids or people's e-mail addresses. None means all.",
    )

    def clean_models(self) -> list[str]:
        """The ids."""
        return words(self.cleaned_data["models"])

    def clean_organizations(self) -> list[UUID]:
        """The ids of those that are meant."""
        named = words(self.cleaned_data["organizations"])
        if len(named) > NAMED_MAX:
            raise forms.ValidationError(f"At most {NAMED_MAX} can be named.")
        found = {name: find_organization(name) for name in named}
        for name, organization in found.items():
            if organization is None:
                raise forms.ValidationError(f"No organization is called {name}.")
        return list({organization.pk for organization in found.values() if organization is not None})


def _plan(request: HttpRequest, _: None, told: dict[str, Any]) -> Done:
    act = rerating.plan(
        start=told["start"], end=told["end"], reason=told["reason"], by=actor(request),
        model_slugs=told["models"], organization_ids=told["organizations"],
    )  # fmt: skip
    return Done("A dry run: nothing is posted yet.", place=reverse("admin:billing_rerating_change", args=[act.pk]))


SUBJECTS[rerating.APPROVAL] = SUBJECTS[rerating.UNDO_APPROVAL] = ("billing_rerating", "rerate")
RIGHTS.update(dict.fromkeys((rerating.APPROVAL, rerating.UNDO_APPROVAL), "billing.change_rerating"))


def _apply(request: HttpRequest, row: Rerating, _: dict[str, Any]) -> Done:
    if not is_planned(row):
        return Done("It was begun before.", level=messages.WARNING)
    rerating.begin(row, by=actor(request))
    return Done("Begun: a worker posts the differences, and this page follows it.")


def _undo(request: HttpRequest, row: Rerating, told: dict[str, Any]) -> Done:
    back = rerating.take_back(row, reason=told["reason"], by=actor(request))
    place = reverse("admin:billing_rerating_change", args=[back.pk])
    return Done("Begun: this act takes the differences back, and this page follows it.", place=place)


def is_planned(row: Rerating) -> bool:
    """Whether an act is a dry run so far."""
    return row.state == Rerating.State.PLANNED


def undone_by(row: Rerating) -> Rerating | None:
    """The act that took another one's differences back."""
    return Rerating.objects.filter(undoes=row).first()


def share_table(row: Rerating) -> SafeString:
    """What an act means for each organization, the greatest difference first, and in all."""
    shares = ReratingShare.objects.filter(rerating=row).select_related("organization")
    found = list(shares.order_by(Abs(F("after_usd") - F("before_usd")).desc(), "pk")[: SHARES_SHOWN + 1])
    if not found:
        return paragraphs("Nothing changes for anybody.")
    rows = [
        (
            link("orgs_organization", share.organization_id, share.organization),
            f"{share.records:,}",
            money.plain(share.before_usd),
            money.plain(share.after_usd),
            signed(share.after_usd - share.before_usd),
            f"{share.unpriced:,}",
            "yes" if share.finished else "no",
        )
        for share in found[:SHARES_SHOWN]
    ]
    total = rerating.outcome(row)
    foot = (
        "all", f"{total.records:,}", money.plain(total.before_usd), money.plain(total.after_usd),
        signed(total.difference_usd), f"{total.unpriced:,}", "",
    )  # fmt: skip
    heads = ("organization", "records", "before (USD)", "after (USD)", "difference (USD)", "unpriced", "posted")
    told = "A positive difference is charged, a negative one is given back. Unpriced records are left alone."
    more = "" if len(found) <= SHARES_SHOWN else paragraphs(f"The first {SHARES_SHOWN}; the last line counts all.")
    return format_html("{}{}{}", paragraphs(told), table(heads, rows, foot=foot), more)


def _shares(row: Rerating) -> list[Section]:
    return [Section("What it changes" if is_planned(row) else "What it changed", share_table(row))]


@admin.register(Rerating)
class ReratingAdmin(PanelsAdmin, ActsAdmin[Any]):
    """Acts of re-rating: planned as a dry run, applied, undone; and what each means for whom."""

    list_display = ("shown_id", "state", "start", "end", "actor", "reason", "created_at", "applied_at")
    list_filter = ("state",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A rerate_ id."
    fields = (
        *("shown_id", "state_now", "start", "end", "models_text", "organizations_text", "undoing", "undone"),
        *("reason", "actor", "created_at", "applied_at"),
    )
    panels = (("By organization", ("shares",), "billing.view_reratingshare"),)
    list_acts = (
        Act(
            "plan",
            "Plan a re-rating",
            "What records of a period would cost by the price book of now. This is a dry run: it is written down, "
            "organization by organization, and posts nothing.",
            _plan,
            form=PlanForm,
        ),
    )
    acts = (
        Act(
            "apply",
            "Apply",
            "The differences are posted to everybody's books as new records and transfers. It is counted again "
            "while it is posted, so corrections since the dry run are taken into account.",
            _apply,
            facts=_shares,
            possible=is_planned,
            known=lambda row: row.reason,
        ),
        Act(
            "undo",
            "Undo",
            "Another act takes every difference back; both stay in the books. It can be done once.",
            _undo,
            form=ReasonForm,
            facts=_shares,
            possible=lambda row: row.state == Rerating.State.APPLIED and undone_by(row) is None,
        ),
    )

    def refresh(self, row: Rerating) -> int | None:
        """Often, while it is posted."""
        return REFRESH_SECONDS if row.state == Rerating.State.APPLYING else None

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Rerating], search_term: str
    ) -> tuple[QuerySet[Rerating], bool]:
        """By id."""
        try:
            return queryset.filter(pk=ids.read("rerate", search_term.strip())), False
        except ValueError:
            return (queryset.none() if search_term.strip() else queryset), False

    @admin.display(description="state")
    def state_now(self, row: Rerating) -> str:
        """How far it is."""
        if is_planned(row):
            return "planned: a dry run, nothing is posted"
        if row.state == Rerating.State.APPLIED:
            return "applied"
        finished = list(ReratingShare.objects.filter(rerating=row).values_list("finished", "records"))
        done = sum(whole for whole, _ in finished)
        records = sum(count for _, count in finished)
        return (
            f"being applied: {done:,} of {len(finished):,} organizations done, {records:,} records corrected so far. "
            "A worker goes on with it every minute; this page is read again by itself."
        )

    @admin.display(description="models")
    def models_text(self, row: Rerating) -> str:
        """Which models' records."""
        return ", ".join(row.model_slugs) or "all"

    @admin.display(description="organizations")
    def organizations_text(self, row: Rerating) -> str:
        """Whose records."""
        if row.undoes_id is not None:
            return "those of the act that it undoes"
        known = dict(Organization.objects.filter(pk__in=row.organization_ids).values_list("pk", "slug"))
        return ", ".join(known.get(each, ids.show("org", each)) for each in row.organization_ids) or "all"

    @admin.display(description="undoes")
    def undoing(self, row: Rerating) -> str:
        """The act whose differences it takes back."""
        return refer("billing_rerating", "rerate", row.undoes_id)

    @admin.display(description="undone by")
    def undone(self, row: Rerating) -> str:
        """The act that takes its differences back."""
        back = undone_by(row)
        return NOTHING if back is None else refer("billing_rerating", "rerate", back.pk)

    @admin.display(description="shares")
    def shares(self, row: Rerating) -> str:
        """What it means for the first organizations."""
        return share_table(row)
