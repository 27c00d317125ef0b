"""The desk's pages of usage records with their money: the transfer, the cost taken apart, what was corrected since.

They replace the page of ``metering``, which knows no money.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import corrections, margins
from billing.correction_admin import correction_table
from billing.explain import Explanation, Part, arithmetic, explain
from billing.models import Correction
from billing.money_admin import may, record_link, transfer_link, wallet_link
from billing.sales_admin import SalesPages, dollars
from core import errors, ids, money
from core.admin import Act, ActsAdmin, Done, Section, Tool
from core.errors import ApiError
from core.http import from_exception
from core.markup import NOTHING, as_facts, link, link_to, paragraphs, refer, stamp, table
from core.reasons import ReasonForm
from metering import attempts, usage_pages
from metering.admin import UsageRecordAdmin, address, conditions, find_organization, list_of
from metering.filters import Filters
from metering.models import UsageRecord
from orgs.admin import actor
from orgs.models import Organization

ROWS_SHOWN: Final = 20
MATCHING_SHOWN: Final = 50


def explain_place(row: UsageRecord) -> str:
    """Where a record's cost is taken apart."""
    return reverse("admin:metering_usagerecord_explain", args=[address("usage", row.organization_id, row.pk)])


def record_table(records: Iterable[UsageRecord]) -> SafeString:
    """Usage records as a table."""
    rows = [
        (
            link("metering_usagerecord", address("usage", row.organization_id, row.pk), ids.show("usage", row.pk)),
            stamp(row.recorded_at),
            row.model,
            f"{row.input_tokens:,}",
            f"{row.output_tokens:,}",
            money.plain(row.cost_usd),
            link_to(explain_place(row), "explain"),
            row.end_user,
        )
        for row in records
    ]
    heads = ("record", "recorded (UTC)", "model", "input tokens", "output tokens", "cost (USD)", "how", "end user")
    return table(heads, rows)


def newest_usage(organization: Organization) -> SafeString:
    """An organization's last usage records, with the way to the others."""
    records = UsageRecord.objects.filter(organization=organization).order_by("-pk").defer("metadata", "units")
    rows = record_table(records[:ROWS_SHOWN])
    return format_html('{}<a href="{}">All usage</a>', rows, list_of("metering_usagerecord", organization))


def part_table(parts: Sequence[Part]) -> SafeString:
    """Pools × rates and what they come to."""
    if not parts:
        return paragraphs("Nothing was used that costs anything.")
    rows = [
        (
            part.pool.replace("_", " "),
            f"{part.quantity:,}",
            money.plain(part.rate_usd),
            "1M tokens" if part.per > 1 else "each",
            money.plain(part.cost_usd),
        )
        for part in parts
    ]
    total = money.plain(sum((part.cost_usd for part in parts), money.ZERO))
    return table(("pool", "quantity", "rate (USD)", "per", "cost (USD)"), rows, foot=("in all", "", "", "", total))


def explained(found: Explanation) -> list[Section]:
    """An explanation as a page shows it."""
    record, price, rule, transfer = found.record, found.price, found.rule, found.transfer
    sum_of = (
        "The parts add up to what was charged." if found.matches else "THE PARTS DO NOT ADD UP TO WHAT WAS CHARGED."
    )
    cost = {"cost (USD)": money.plain(record.cost_usd), "arithmetic": arithmetic(found.parts), "checked": sum_of}
    if found.corrections:
        cost["after corrections (USD)"] = money.plain(found.net_usd)
    if record.corrects_id is not None:
        place = address("usage", record.organization_id, record.corrects_id)
        cost["corrects"] = link("metering_usagerecord", place, ids.show("usage", record.corrects_id))
    served = {
        "rates": None if found.terms is None else conditions(found.terms),
        "service tier served": record.service_tier,
        "batch": record.batch,
        "input tokens in all": f"{record.input_tokens:,}",
        "occurred (UTC)": stamp(record.occurred_at),
        "counted by": record.usage_source,
    }
    version = {
        "price version": refer("metering_price", "price", price.id),
        "from (UTC)": stamp(price.effective_from),
        "source": price.source,
    }
    if rule is None:
        version["price rule"] = "none: the catalog's price"
    else:
        version["price rule"] = refer("metering_pricerule", "rule", rule.id)
        version["it says"] = (
            "its own rates" if rule.factor is None else f"{money.plain(rule.factor)} × the catalog's price"
        )
        version["because"] = rule.reason
    charge = {"transfer": "none: it cost nothing"}
    if transfer is not None:
        charge = {
            "transfer": transfer_link(record.payer_id, transfer.id),
            "kind": transfer.get_kind_display(),
            "amount, of its whole batch (USD)": money.plain(transfer.amount_usd),
            "posted (UTC)": stamp(transfer.created_at),
        }
    route = {
        "attempts": record.attempts,
        "served by": record.routed_model or record.model,
        "provider": record.provider,
        "channel": record.channel,
        "provider's own cost (USD)": dollars(record.provider_cost_usd),
        "margin (USD)": dollars(margins.of(record, corrected_usd=found.net_usd - record.cost_usd)),
    }
    for one in attempts.of_event(organization_id=record.organization_id, event_id=record.event_id):
        said = one.outcome if one.status is None else f"{one.outcome}, {one.status}"
        route[f"try {one.number}"] = f"{one.channel}, {one.model}: {said} after {one.latency_ms} ms"
    event = {
        "record": record_link(record.organization_id, record.id),
        "event id": record.event_id,
        "reported by": refer("orgs_apikey", "key", record.reported_by),
        "recorded (UTC)": stamp(record.recorded_at),
    }
    return [
        Section("Cost", as_facts(cost)),
        Section("Pools × rates", part_table(found.parts)),
        Section("Why these rates", as_facts({**served, **version})),
        Section("Charge", as_facts(charge)),
        Section("Route and margin", as_facts(route)),
        Section("Event", as_facts(event)),
    ]


def _id_field(prefix: str) -> Any:
    """A field for an id."""

    class IdInput(forms.CharField):
        """An id as it is shown."""

        def clean(self, value: Any) -> UUID | None:
            """The key; none where nothing is asked."""
            text = super().clean(value)
            try:
                return ids.read(prefix, text) if text else None
            except ValueError as error:
                raise forms.ValidationError(f"An id begins with {prefix}_.") from error

    return IdInput(required=False, help_text=f"{prefix}_…")


class MatchingForm(forms.Form):
    """Whose records, of which time, and of what."""

    organization = forms.CharField(help_text="A slug, an org_ id or a person's e-mail address.")
    model = forms.CharField(required=False, help_text="As it was called.")
    key = _id_field("key")
    project = _id_field("proj")
    start = forms.DateTimeField(label="from (UTC)", required=False)
    end = forms.DateTimeField(label="until before (UTC)", required=False)

    def clean_organization(self) -> Organization:
        """The one that is meant."""
        found = find_organization(self.cleaned_data["organization"])
        if found is None:
            raise forms.ValidationError("No organization has that name.")
        return found


def _void(request: HttpRequest, row: UsageRecord, told: dict[str, Any]) -> Done:
    # Nobody moves so much alone; such a record is balanced on the wallet's page, where a second person agrees.
    if row.cost_usd > settings.MONEY_APPROVAL_USD:
        raise errors.Conflict(
            f"It cost more than {settings.MONEY_APPROVAL_USD} USD, which one person does not move: use Move money."
        )
    done = corrections.void(
        organization_id=row.organization_id, event_id=row.event_id, reason=told["reason"], by=actor(request)
    )
    return Done(f"Voided: {money.plain(-done.cost_usd)} USD went back." if done.first else "It was voided before.")


def is_voided(row: UsageRecord) -> bool:
    """Whether all of what a record was charged went back."""
    about = Correction.objects.filter(organization_id=row.organization_id, record_id=row.pk)
    return about.filter(kind=Correction.Kind.VOID).exists()


admin.site.unregister(UsageRecord)


@admin.register(UsageRecord)
class ChargedRecordAdmin(SalesPages, UsageRecordAdmin, ActsAdmin[UsageRecord]):
    """Usage records with the transfer that charged them, what was corrected since, and what is left of it."""

    acts = (
        Act(
            "void",
            "Void",
            "All of what its event was charged goes back to where it came from, corrections included. It cannot be "
            "charged again under the same event id.",
            _void,
            form=ReasonForm,
            possible=lambda row: row.corrects_id is None and not is_voided(row),
            right="billing.add_adjustment",
        ),
    )

    list_display: Any = (
        *("shown_id", "recorded", "model", "cost", "margin", "in_and_out", "status", "end_user", "event_id", "key"),
    )

    def get_urls(self) -> list[URLPattern]:
        """With the explanation of a record, and the records of a stretch of time."""
        framed = self.admin_site.admin_view
        return [
            path("matching/", framed(self.matching_view), name=f"{self.page}_matching"),
            path("<path:object_id>/explain/", framed(self.explain_view), name=f"{self.page}_explain"),
            *super().get_urls(),
        ]

    def tools(self, request: HttpRequest, row: UsageRecord) -> list[Tool]:
        """The way to the explanation, and what can be done."""
        return [Tool("Explain the cost", explain_place(row)), *super().tools(request, row)]

    def get_fieldsets(self, request: HttpRequest, obj: UsageRecord | None = None) -> Any:
        """The money, with whose it was."""
        more = (
            "margin_now",
            "payer",
            "transfer",
            *(("corrections",) if may(request, "billing.view_correction") else ()),
        )
        return [
            (heading, {**options, "fields": (*options["fields"], *more)} if heading == "Money" else options)
            for heading, options in super().get_fieldsets(request, obj)
        ]

    @admin.display(description="margin (USD)")
    def margin(self, row: UsageRecord) -> str:
        """As it was charged."""
        return dollars(margins.of(row)) or NOTHING

    @admin.display(description="margin (USD)")
    def margin_now(self, row: UsageRecord) -> str:
        """As it was charged, and with what was corrected since."""
        charged = margins.of(row)
        if charged is None:
            return "part of the corrected record's" if row.corrects_id else "unknown: nobody said what it cost us"
        corrected = corrections.corrected_by([row])[row.pk]
        if not corrected:
            return money.plain(charged)
        return f"{money.plain(charged)} as charged, {money.plain(charged + corrected)} with its corrections"

    @admin.display(description="paid by")
    def payer(self, row: UsageRecord) -> SafeString:
        """The wallet that paid."""
        payer = row.organization if row.payer_id == row.organization_id else Organization.objects.get(pk=row.payer_id)
        return wallet_link(payer)

    @admin.display(description="transfer")
    def transfer(self, row: UsageRecord) -> str:
        """The charge that it is part of."""
        return transfer_link(row.payer_id, row.transfer_id)

    @admin.display(description="corrections")
    def corrections(self, row: UsageRecord) -> str:
        """What was posted about it afterwards."""
        found = Correction.objects.filter(organization_id=row.organization_id, record_id=row.pk).order_by("pk")
        return correction_table(list(found[:ROWS_SHOWN]), row.payer_id)

    def explain_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """How a record's cost came about."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        try:
            found = explain(row)
        except ApiError as error:
            self.message_user(request, str(error), messages.WARNING)
            return HttpResponseRedirect(self.place_of(row))
        sections = explained(found)
        if found.corrections and may(request, "billing.view_correction"):
            sections.append(Section("Corrections", correction_table(found.corrections, row.payer_id)))
        return self.show(request, "How its cost came about", sections, row=row)

    def matching_view(self, request: HttpRequest) -> HttpResponse:
        """An organization's records of a stretch of time, of a model, a key or a project: a page after another."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = MatchingForm(request.GET)
        sections: list[Section] = []
        if form.is_valid():
            told = form.cleaned_data
            matching = Filters(
                model=told["model"] or None, api_key_id=told["key"], project_id=told["project"],
                start=told["start"], end=told["end"],
            )  # fmt: skip
            scope = usage_pages.Scope(told["organization"].pk, None)
            try:
                found = usage_pages.page(
                    scope=scope, matching=matching, columns="id", limit=MATCHING_SHOWN,
                    after=request.GET.get("after") or None, ascending=False,
                )  # fmt: skip
            except ApiError as error:
                form.add_error(None, str(error))
            except DatabaseError as error:
                form.add_error(None, f"It could not be read, perhaps for a shorter time: {from_exception(error)}")
            else:
                sections = [
                    self._matching(request, told["organization"], [row[0] for row in found.rows], found.has_more)
                ]
        return self.show(request, "Records that match", sections, template="admin/ask.html", form=form)

    def _matching(self, request: HttpRequest, owner: Organization, found: Sequence[UUID], more: bool) -> Section:
        records = UsageRecord.objects.filter(organization=owner, pk__in=found).order_by("-pk")
        shown = record_table(records.defer("metadata", "units")) if found else paragraphs("No record matches.")
        if not more:
            return Section("", shown)
        asked = request.GET.copy()
        asked["after"] = ids.show("usage", found[-1])
        return Section("", format_html("{}{}", shown, paragraphs(link_to(f"?{asked.urlencode()}", "Older"))))
