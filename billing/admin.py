"""The desk's pages of who owes: wallets and transfers, organizations with their money, records with their transfer.

All of it is read only; wallets and re-ratings have buttons for what can be done about them. What a
wallet is made of has its pages in ``billing.money_admin``, invoicing in ``billing.invoice_admin``, what
others say of our money in ``billing.reconciliation_admin``. Billing knows
what an organization, a record and a wallet have to do with each other, so the pages that show them
together replace those of ``orgs`` and ``metering`` here.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Abs
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

import billing.reconciliation_admin  # noqa: F401 - registers its pages
from billing import closing, corrections, figures, margins, payments_admin, rerating, wallets  # noqa: F401
from billing.closures_admin import CLOSING
from billing.explain import Explanation, Part, arithmetic, explain
from billing.invoice_admin import InvoiceAdmin, invoice_link
from billing.models import (
    CheckRun,
    Correction,
    Invoice,
    Recharge,
    Rerating,
    ReratingShare,
    TopUp,
    Transfer,
    TransferKind,
    Wallet,
)
from billing.money_admin import (
    ACTS,
    PanelsAdmin,
    adjustment_table,
    cause_link,
    ceiling_table,
    grant_table,
    head_table,
    hold_table,
    may,
    record_link,
    records_place,
    terms_of,
    transfer_link,
    uses_of,
    wallet_link,
)
from billing.start_page import SOLD_HEADS, sold_cells
from core import clock, errors, ids, money
from core.admin import Act, ActsAdmin, BooksAdmin, Done, QuickList, Section, Tool, presence
from core.errors import ApiError
from core.http import from_exception
from core.markup import NOTHING, as_facts, link, link_to, paragraphs, percent, refer, signed, stamp, table
from core.reasons import ReasonForm
from metering import attempts, usage_pages
from metering.admin import KeyedAdmin, UsageRecordAdmin, When, address, conditions, find_organization, list_of
from metering.filters import Filters
from metering.models import UsageRecord
from ops.admin import RIGHTS, SUBJECTS
from orgs.admin import OrganizationAdmin, actor
from orgs.models import Member, Organization

# The pages of invoicing stand beside these.
__all__ = ["InvoiceAdmin"]

ROWS_SHOWN: Final = 20
SHARES_SHOWN: Final = 100
NAMED_MAX: Final = 200
REFRESH_SECONDS: Final = 5
DETAIL_SHOWN: Final = 200
MATCHING_SHOWN: Final = 50
_MILLISECOND: Final = timedelta(milliseconds=1)
# How far a transfer's own time may be from its id's.
SLACK: Final = closing.SLACK


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


def transfer_table(transfers: Iterable[Transfer]) -> SafeString:
    """Transfers as a table."""
    rows = [
        (
            transfer_link(row.organization_id, row.pk),
            stamp(row.created_at),
            row.get_kind_display(),
            f"{row.get_debit_display()} → {row.get_credit_display()}",
            money.plain(row.amount_usd),
            None if row.balance_after_usd is None else money.plain(row.balance_after_usd),
        )
        for row in transfers
    ]
    return table(("transfer", "at (UTC)", "kind", "from → to", "amount (USD)", "balance after (USD)"), rows)


def newest_transfers(organization: Organization) -> SafeString:
    """An organization's last transfers, with the way to the others."""
    rows = transfer_table(Transfer.objects.filter(organization=organization).order_by("-pk")[:ROWS_SHOWN])
    return format_html('{}<a href="{}">All transfers</a>', rows, list_of("billing_transfer", organization))


def newest_usage(organization: Organization) -> SafeString:
    """An organization's last usage records, with the way to the others."""
    records = UsageRecord.objects.filter(organization=organization).order_by("-pk").defer("metadata", "units")
    rows = record_table(records[:ROWS_SHOWN])
    return format_html('{}<a href="{}">All usage</a>', rows, list_of("metering_usagerecord", organization))


def newest_documents(organization: Organization) -> SafeString:
    """An organization's last documents, with the way to the others and to its periods."""
    found = Invoice.objects.filter(organization=organization).order_by("-pk")[:ROWS_SHOWN]
    rows = [
        (
            invoice_link(one),
            one.get_kind_display(),
            one.get_state_display(),
            None if one.starts_at is None else stamp(one.starts_at),
            f"{one.total_usd:.2f}",
            f"{one.open_usd:.2f}",
        )
        for one in found
    ]
    heads = ("document", "kind", "state", "from (UTC)", "total (USD)", "open (USD)")
    asked = urlencode({"q": organization.slug})
    return format_html(
        '{}<a href="{}?{}">All documents</a> <a href="{}?{}">Billing periods</a>',
        table(heads, rows) if rows else paragraphs("None yet."),
        reverse("admin:billing_invoice_changelist"),
        asked,
        reverse("admin:billing_billingperiod_changelist"),
        asked,
    )


class WithStates(QuickList):
    """A list whose rows know how their wallets stand: one query for the page."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page and its wallets."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        states = wallets.states([row.pk for row in self.result_list])
        for row in self.result_list:
            row.state = states[row.pk]


def state_of(row: Any) -> wallets.State:
    """How the wallet of an organization stands; ``row`` is either of them."""
    known: wallets.State | None = getattr(row, "state", None)
    if known is None:
        known = row.state = wallets.state(row.pk)
    return known


class StateColumns:
    """What pages of wallets and of organizations show of a wallet."""

    @admin.display(description="balance (USD)")
    def balance(self, row: Any) -> str:
        """Posted less overdraft."""
        return money.plain(state_of(row).balance_usd)

    @admin.display(description="available (USD)")
    def available(self, row: Any) -> str:
        """With the credit limit, less holds."""
        return money.plain(state_of(row).available_usd)

    @admin.display(description="held (USD)")
    def held(self, row: Any) -> str:
        """What open holds reserve."""
        return money.plain(state_of(row).held_usd)

    @admin.display(description="overdraft (USD)")
    def overdraft(self, row: Any) -> str:
        """What usage took beyond the wallet."""
        return money.plain(state_of(row).overdraft_usd)

    @admin.display(description="spent (USD)")
    def spent(self, row: Any) -> str:
        """All charges ever."""
        return money.plain(state_of(row).spent_usd)

    @admin.display(description="credit limit (USD)")
    def credit_limit(self, row: Any) -> str:
        """How far usage may go below zero."""
        return money.plain(state_of(row).credit_limit_usd)

    @admin.display(description="status")
    def status(self, row: Any) -> str:
        """As gateways are told."""
        return state_of(row).status


admin.site.unregister(Organization)


@admin.register(Organization)
class OrganizationWithMoneyAdmin(StateColumns, PanelsAdmin, OrganizationAdmin, ActsAdmin[Any]):
    """Organizations with their wallet, members, keys and latest usage."""

    list_filter = (
        ("personal_of", presence("kind", absent="Shared", present="Personal")),
        ("closed_at", presence("state", absent="Open", present="Closed")),
    )
    sortable_by = ("slug", "created_at")
    search_help_text = "An organization's id, how its slug begins, its whole name, or a person's e-mail address."
    acts = CLOSING
    panels = (
        (
            "Wallet",
            ("status", "balance", "available", "held", "overdraft", "credit_limit", "spent", "wallet_page"),
            "billing.view_wallet",
        ),
        ("Invoices", ("documents",), "billing.view_invoice"),
        ("Recent usage", ("recent_usage",), "metering.view_usagerecord"),
        ("Recent transfers", ("recent_transfers",), "billing.view_transfer"),
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """With wallets, for those who may see them."""
        return WithStates if may(request, "billing.view_wallet") else QuickList

    def get_list_display(self, request: HttpRequest) -> Any:
        """Money only for those who may see wallets."""
        money_columns = ("balance", "status") if may(request, "billing.view_wallet") else ()
        return ("slug", "name", *money_columns, "personal_of", "created_at", "closed_at")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Organization], search_term: str
    ) -> tuple[QuerySet[Organization], bool]:
        """By id, address or slug, each through its index; a name only when none of these is meant."""
        text = search_term.strip()
        if not text:
            return queryset, False
        if "@" in text:
            return queryset.filter(personal_of__email=text.lower()), False
        beginning = queryset.filter(slug__startswith=text.lower())
        if beginning.order_by().exists():
            return beginning, False
        try:
            return queryset.filter(pk=ids.read("org", text)), False
        except ValueError:
            return queryset.filter(name__iexact=text), False

    @admin.display(description="more")
    def wallet_page(self, row: Organization) -> SafeString | str:
        """The wallet's own page; its row exists from its first transfer on."""
        shown = link("billing_wallet", row.pk, "The wallet's page")
        return shown if Wallet.objects.filter(pk=row.pk).exists() else format_html("No money has moved yet. {}", shown)

    @admin.display(description="newest first")
    def documents(self, row: Organization) -> SafeString:
        """Its last documents, with the way to the others and to its periods."""
        return newest_documents(row)

    @admin.display(description="newest first")
    def recent_usage(self, row: Organization) -> SafeString:
        """The last requests."""
        return newest_usage(row)

    @admin.display(description="newest first")
    def recent_transfers(self, row: Organization) -> SafeString:
        """The last movements of money."""
        return newest_transfers(row)


class StandingFilter(admin.SimpleListFilter):
    """Wallets that somebody asks about: the start page's figures are sums of these."""

    title = "how they stand"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """In words."""
        return [("owes", "Owes"), ("held", "With open holds"), ("frozen", "Frozen")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those."""
        asked = {"owes": Q(overdraft_usd__gt=0), "held": Q(held_usd__gt=0), "frozen": Q(frozen_at__isnull=False)}
        return queryset.filter(asked.get(self.value() or "", Q()))


@admin.register(Wallet)
class WalletAdmin(StateColumns, PanelsAdmin, ActsAdmin[Any]):
    """Wallets: what stands, what it is made of, the transfers that explain it, and what finance does about it."""

    list_display = ("organization", "balance", "available", "status", "overdraft", "credit_limit", "spent")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "An organization's slug or id, or a person's e-mail address."
    fields = (
        *("organization", "status", "balance", "available", "posted", "held", "overdraft", "spent"),
        *("terms", "seq", "since"),
    )
    list_filter = (StandingFilter,)
    panels = (
        ("Credit, in the order in which it is spent", ("credit",), "billing.view_grant"),
        ("Ceilings", ("ceilings",), "billing.view_budget"),
        ("Open holds", ("open_holds",), "billing.view_hold"),
        ("Money by hand", ("by_hand",), "billing.view_adjustment"),
        ("Recent transfers", ("recent_transfers",), "billing.view_transfer"),
        ("Sealed days", ("sealed",), "billing.view_ledgerhead"),
    )
    acts = ACTS

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Wallet | None:
        """The wallet; one that was never touched stands at zero, so that something can be done about it too."""
        found: Wallet | None = super().get_object(request, object_id, from_field)
        if found is not None:
            return found
        try:
            owner = Organization.objects.filter(pk=UUID(object_id)).first()
        except ValueError:
            return None
        return None if owner is None else Wallet(organization=owner)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Wallet]:
        """With the organization's name, which is the wallet's."""
        return super().get_queryset(request).select_related("organization")

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """Each row as gateways are told."""
        return WithStates

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Wallet], search_term: str
    ) -> tuple[QuerySet[Wallet], bool]:
        """The wallet of an organization."""
        if not search_term.strip():
            return queryset, False
        found = find_organization(search_term)
        return (queryset.none() if found is None else queryset.filter(pk=found.pk)), False

    @admin.display(description="posted (USD)")
    def posted(self, row: Wallet) -> str:
        """What the wallet account holds."""
        return money.plain(row.posted_usd)

    @admin.display(description="terms")
    def terms(self, row: Wallet) -> SafeString:
        """What people have set."""
        return as_facts(terms_of(row))

    @admin.display(description="first touched")
    def since(self, row: Wallet) -> str:
        """When its row was made."""
        return NOTHING if row._state.adding else stamp(row.created_at)

    @admin.display(description="grants")
    def credit(self, row: Wallet) -> SafeString:
        """What is left, by grant."""
        return grant_table(row.organization)

    @admin.display(description="in force")
    def ceilings(self, row: Wallet) -> SafeString:
        """As they stand now."""
        return ceiling_table(row.organization)

    @admin.display(description="oldest first")
    def open_holds(self, row: Wallet) -> SafeString:
        """What is set aside."""
        return hold_table(row.organization)

    @admin.display(description="newest first")
    def by_hand(self, row: Wallet) -> SafeString:
        """What finance has moved or means to."""
        return adjustment_table(row.organization)

    @admin.display(description="newest first")
    def sealed(self, row: Wallet) -> SafeString:
        """Where it stood at the end of days."""
        return head_table(row.organization)

    @admin.display(description="newest first")
    def recent_transfers(self, row: Wallet) -> SafeString:
        """The last movements of money."""
        return newest_transfers(row.organization)


@admin.register(Transfer)
class TransferAdmin(PanelsAdmin, KeyedAdmin[Transfer]):
    """Transfers of an organization."""

    list_display = ("shown_id", "at", "kind", "amount", "balance_after", "accounts", "seq", "actor", "reason")
    search_help_text = (
        "A tr_ id, or a slug for an organization's transfers; the slug with a reference or a number of its "
        "statement for one of them, such as “acme-labs 17”."
    )
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "organization", "wallet", "created_at")}),
        ("Money", {"fields": ("kind", "debit", "credit", "amount", "balance_after", "seq")}),
        ("Cause", {"fields": ("cause", "actor", "reason")}),
    )
    panels = (
        ("Grants that it took from, or gave back to", ("uses",), "billing.view_grantuse"),
        ("Its records", ("records",), "metering.view_usagerecord"),
    )

    def get_urls(self) -> list[URLPattern]:
        """With those of a stretch of time."""
        between = self.admin_site.admin_view(self.between_view)
        return [path("between/", between, name=f"{self.page}_between"), *super().get_urls()]

    def between_view(self, request: HttpRequest) -> HttpResponse:
        """An organization's transfers of a stretch of time, of some kinds or of all: a page after another."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = BetweenForm(request.GET)
        sections: list[Section] = []
        if form.is_valid():
            told = form.cleaned_data
            # A transfer's id carries the instant that its row does, or nearly: a range of the key.
            rows = Transfer.objects.filter(
                organization=told["organization"], created_at__gte=told["start"], created_at__lt=told["end"],
                pk__gte=ids.floor(told["start"] - SLACK), pk__lt=ids.floor(told["end"] + SLACK),
            )  # fmt: skip
            if told["kind"]:
                rows = rows.filter(kind__in=told["kind"])
            try:
                after = request.GET.get("after")
                rows = rows.filter(pk__lt=ids.read("tr", after)) if after else rows
            except ValueError:
                form.add_error(None, "That is not where a page begins.")
            else:
                sections = [self._between(request, list(rows.order_by("-pk")[: MATCHING_SHOWN + 1]))]
        return self.show(request, "Transfers of a time", sections, template="admin/ask.html", form=form)

    def _between(self, request: HttpRequest, found: list[Transfer]) -> Section:
        shown = transfer_table(found[:MATCHING_SHOWN]) if found else paragraphs("No transfer matches.")
        if len(found) <= MATCHING_SHOWN:
            return Section("", shown)
        asked = request.GET.copy()
        asked["after"] = ids.show("tr", found[MATCHING_SHOWN - 1].pk)
        return Section("", format_html("{}{}", shown, paragraphs(link_to(f"?{asked.urlencode()}", "Older"))))

    def find_in(self, organization: Organization, text: str) -> str | None:
        """By reference or by number, each through its unique key."""
        transfers = Transfer.objects.filter(organization_id=organization.pk).order_by()
        found = transfers.filter(kind__in=TransferKind.values, reference=text).first()
        if found is None and text.isascii() and text.isdigit() and len(text) < 19:
            found = transfers.filter(seq=int(text)).first()
        return None if found is None else self.url_of(organization.pk, found.pk)

    @admin.display(description="at (UTC)")
    def at(self, row: Transfer) -> str:
        """When it was posted."""
        return stamp(row.created_at)

    @admin.display(description="from → to")
    def accounts(self, row: Transfer) -> str:
        """Both accounts."""
        return f"{row.get_debit_display()} → {row.get_credit_display()}"

    @admin.display(description="amount (USD)")
    def amount(self, row: Transfer) -> str:
        """Exact."""
        return money.plain(row.amount_usd)

    @admin.display(description="balance after (USD)")
    def balance_after(self, row: Transfer) -> str:
        """Of the wallet."""
        return NOTHING if row.balance_after_usd is None else money.plain(row.balance_after_usd)

    @admin.display(description="wallet")
    def wallet(self, row: Transfer) -> SafeString:
        """The wallet that it moved."""
        return link("billing_wallet", row.organization_id, f"wallet of {row.organization}")

    @admin.display(description="reference")
    def cause(self, row: Transfer) -> str:
        """What moved it."""
        return cause_link(row.reference)

    @admin.display(description="uses")
    def uses(self, row: Transfer) -> SafeString:
        """What it took from which grant."""
        return uses_of(row)

    @admin.display(description="records")
    def records(self, row: Transfer) -> SafeString | str:
        """The first records that name this transfer.

        They are written in its transaction, so their ids carry the same millisecond: a range of
        the key instead of a search.
        """
        at = ids.instant(row.pk)
        # A person's own wallet may have paid for calls in an organization that they are or were a member of.
        person = row.organization.personal_of_id
        others = Member.objects.filter(user_id=person).values_list("organization_id", flat=True) if person else ()
        records = UsageRecord.objects.filter(
            organization_id__in={row.organization_id, *others}, pk__gte=ids.floor(at),
            pk__lt=ids.floor(at + _MILLISECOND),
        )  # fmt: skip
        found = list(records.filter(transfer_id=row.pk).order_by("pk").defer("metadata", "units")[: ROWS_SHOWN + 1])
        if not found:
            return "No usage record names it."
        more = "" if len(found) <= ROWS_SHOWN else f"The first {ROWS_SHOWN}; there are more."
        return format_html("{}{}", record_table(found[:ROWS_SHOWN]), more)


admin.site.unregister(UsageRecord)


def _usd(amount: Decimal | None) -> str | None:
    """Plain digits, or nothing."""
    return None if amount is None else money.plain(amount)


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
        "provider's own cost (USD)": _usd(record.provider_cost_usd),
        "margin (USD)": _usd(margins.of(record, corrected_usd=found.net_usd - record.cost_usd)),
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


def correction_table(found: Sequence[Correction], payer_id: UUID) -> str:
    """What was posted about a record afterwards."""
    rows = [
        (
            link("billing_correction", one.pk, one.get_kind_display()),
            stamp(one.created_at),
            money.plain(one.cost_usd),
            transfer_link(payer_id, one.transfer_id),
            one.reason,
        )
        for one in found[:ROWS_SHOWN]
    ]
    return table(("correction", "at (UTC)", "difference (USD)", "transfer", "reason"), rows) if rows else NOTHING


MARGIN_HEADS = (
    *("model", "served by", "records", "cost (USD)", "provider's cost (USD)", "margin (USD)", "of cost"),
    *("apart: records", "apart: cost (USD)", "corrections"),
)


def margin_cells(one: margins.Margin) -> tuple[object, ...]:
    """A margin in the columns of ``MARGIN_HEADS``; what is unknown is left out, not zero."""
    known = one.known
    return (
        one.model,
        one.routed_model,
        f"{one.records:,}",
        _usd(one.cost_usd if known else None),
        _usd(one.provider_cost_usd if known else None),
        _usd(one.margin_usd),
        percent(one.margin_usd, one.cost_usd) if one.margin_usd is not None else None,
        f"{one.unknown_records:,}",
        money.plain(one.unknown_cost_usd),
        f"{one.corrections:,}",
    )


def margin_sections(found: margins.Margins) -> list[Section]:
    """Margins of a period as a page shows them."""
    foot = ("all", *margin_cells(found.total)[1:])
    by_model = table(MARGIN_HEADS, map(margin_cells, found.by_model), foot=foot)
    by_day = table(("day (UTC)", *MARGIN_HEADS), [(one.day, *margin_cells(one)) for one in found.by_day])
    told = [
        "The margin is what customers paid for records whose gateway said what they cost, less that. Corrections are "
        "in it on the day on which they were posted; failed requests are not."
    ]
    if found.total.unknown_records:
        apart = f"Of {found.total.unknown_records:,} records nobody said what they cost us"
        told.append(f"{apart}; they are counted apart and are in no margin.")
    more = paragraphs("The latest; for the others choose a shorter period.") if found.has_more else ""
    return [
        Section("By model", format_html("{}{}", paragraphs(*told), by_model)),
        Section("By day", format_html("{}{}", by_day, more)),
    ]


class PeriodForm(forms.Form):
    """Days, and whose records."""

    first = forms.DateField(label="from (UTC)", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="to, inclusive", widget=forms.DateInput(attrs={"type": "date"}))
    organization = forms.CharField(
        required=False, help_text="A slug, an org_ id or a person's e-mail address; everybody's records without one."
    )

    def clean_organization(self) -> Organization | None:
        """The one that is meant."""
        text = self.cleaned_data["organization"]
        found = find_organization(text)
        if text and found is None:
            raise forms.ValidationError("No organization has that name.")
        return found


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


class BetweenForm(forms.Form):
    """Whose transfers, of which time, and of which kinds."""

    organization = forms.CharField(help_text="A slug, an org_ id or a person's e-mail address.")
    kind = forms.MultipleChoiceField(
        required=False, choices=TransferKind.choices, widget=forms.SelectMultiple(attrs={"size": 5}),
        help_text="Every kind without one.",
    )  # fmt: skip
    start = forms.DateTimeField(label="from (UTC)")
    end = forms.DateTimeField(label="until before (UTC)")

    clean_organization = MatchingForm.clean_organization

    def clean(self) -> dict[str, Any]:
        """An end after the beginning, both of this age."""
        told: dict[str, Any] = super().clean() or self.cleaned_data
        start, end = told.get("start"), told.get("end")
        if start is not None and end is not None and not clock.from_unix(0) + SLACK <= start < end:
            self.add_error("end", "The end is after the beginning, and both are of this age.")
        return told


class SalesForm(forms.Form):
    """Days, and of which model."""

    first = forms.DateField(label="from (UTC)", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="to, inclusive", widget=forms.DateInput(attrs={"type": "date"}))
    model = forms.CharField(required=False, help_text="A model's id; all of them without one.")


def sales_sections(found: Sequence[figures.Customer], first: date, after: date, model: str) -> list[Section]:
    """Who used how much, each with the way to the records."""
    total = figures.Sold()
    rows = []
    for customer in found:
        total = total.plus(customer.sold)
        name = link("orgs_organization", customer.organization_id, customer.slug)
        start, end = (datetime.combine(day, time(), UTC) for day in (first, after))
        records = records_place(customer.slug, start, end, **({"model": model} if model else {}))
        rows.append((name, *sold_cells(customer.sold), link_to(records, "records")))
    if not rows:
        return [Section("", paragraphs("Nothing was used, or it is not folded yet."))]
    told = "Where a gateway said nothing of its cost, it counts as nothing here."
    if len(found) == figures.CUSTOMERS_MAX:
        told = f"The first {figures.CUSTOMERS_MAX}, the largest first. {told}"
    shown = table(("organization", *SOLD_HEADS, "what"), rows, foot=("all", *sold_cells(total), ""))
    return [Section("", format_html("{}{}", shown, paragraphs(told)))]


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


@admin.register(UsageRecord)
class ChargedRecordAdmin(UsageRecordAdmin, ActsAdmin[UsageRecord]):
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
        """With the explanation of a record, and margins in sum."""
        framed = self.admin_site.admin_view
        return [
            path("margins/", framed(self.margins_view), name=f"{self.page}_margins"),
            path("matching/", framed(self.matching_view), name=f"{self.page}_matching"),
            path("sales/", framed(self.sales_view), name=f"{self.page}_sales"),
            path("<path:object_id>/explain/", framed(self.explain_view), name=f"{self.page}_explain"),
            *super().get_urls(),
        ]

    def tools(self, request: HttpRequest, row: UsageRecord) -> list[Tool]:
        """The way to the explanation, and what can be done."""
        return [Tool("Explain the cost", explain_place(row)), *super().tools(request, row)]

    def list_tools(self, request: HttpRequest) -> list[Tool]:
        """The ways to what they come to."""
        if not may(request, "billing.view_providerbill"):
            return []
        return [
            Tool("Margins", reverse(f"admin:{self.page}_margins")),
            Tool("Sales by organization", reverse(f"admin:{self.page}_sales")),
        ]

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
        return _usd(margins.of(row)) or NOTHING

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

    def margins_view(self, request: HttpRequest) -> HttpResponse:
        """Margins by model and day; of the last week unless other days are asked for."""
        # What providers cost us is more than what customers used.
        if not may(request, "billing.view_providerbill"):
            raise PermissionDenied
        today = clock.now().date()
        form = PeriodForm(request.GET or {"first": today - timedelta(days=6), "last": today})
        sections: list[Section] = []
        if form.is_valid():
            told = form.cleaned_data
            owner = told["organization"]
            try:
                found = margins.between(
                    start=told["first"],
                    end=_day_after(told["last"]),
                    organization_id=None if owner is None else owner.pk,
                )
            except ApiError as error:
                form.add_error("last", str(error))
            except DatabaseError as error:
                form.add_error(
                    None, f"It could not be worked out, perhaps for a shorter period: {from_exception(error)}"
                )
            else:
                sections = margin_sections(found)
        return self.show(request, "Margins", sections, template="admin/ask.html", form=form)

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

    def sales_view(self, request: HttpRequest) -> HttpResponse:
        """Who used how much on some days, of one model or of all; today's unless others are asked for."""
        # What providers cost us is more than what customers used.
        if not may(request, "billing.view_providerbill"):
            raise PermissionDenied
        today = clock.now().date()
        form = SalesForm(request.GET or {"first": today, "last": today})
        sections: list[Section] = []
        if form.is_valid():
            told = form.cleaned_data
            try:
                found = figures.customers(start=told["first"], end=_day_after(told["last"]), model=told["model"])
            except ApiError as error:
                form.add_error("last", str(error))
            else:
                sections = sales_sections(found, told["first"], _day_after(told["last"]), told["model"])
        return self.show(request, "Sales by organization", sections, template="admin/ask.html", form=form)


def _day_after(day: date) -> date:
    """The next day; the last one there is has none."""
    return min(day, date.max - timedelta(days=1)) + timedelta(days=1)


@admin.register(Correction)
class CorrectionAdmin(BooksAdmin[Correction]):
    """Voids and the differences of re-ratings."""

    list_display = ("shown_id", "organization", "kind", "difference", "record", "actor", "reason", "created_at")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "The usage_ id of a correcting record, or an organization's slug."
    fields = (
        *("shown_id", "organization", "kind", "record", "difference", "transfer"),
        *("cause", "actor", "reason", "created_at"),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Correction], search_term: str
    ) -> tuple[QuerySet[Correction], bool]:
        """By id or by organization."""
        if not search_term.strip():
            return queryset, False
        if named := find_organization(search_term):
            return queryset.filter(organization_id=named.pk), False
        try:
            return queryset.filter(pk=ids.read("usage", search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description="difference (USD)")
    def difference(self, row: Correction) -> str:
        """Negative gives back."""
        return money.plain(row.cost_usd)

    @admin.display(description="corrected record")
    def record(self, row: Correction) -> SafeString:
        """The record as it was charged."""
        place = address("usage", row.organization_id, row.record_id)
        return link("metering_usagerecord", place, ids.show("usage", row.record_id))

    @admin.display(description="transfer")
    def transfer(self, row: Correction) -> str:
        """What moved the difference, in the payer's books."""
        if row.transfer_id is None:
            return NOTHING
        corrected = UsageRecord.objects.filter(organization_id=row.organization_id, pk=row.pk)
        payer = corrected.values_list("payer_id", flat=True).first()
        return transfer_link(payer or row.organization_id, row.transfer_id)


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


@admin.register(CheckRun)
class CheckRunAdmin(BooksAdmin[CheckRun]):
    """What each check of the books last found, run from the schedule; those that fail come first."""

    list_display = ("name", "ok", "seen", "what", "scope", "began_at", "took")
    list_filter = ("ok",)
    ordering = ("ok", "name")
    sortable_by = ()
    search_fields = ("name",)
    search_help_text = "An id such as V09, or what is checked."
    fields = ("name", "ok", "seen", "detail", "scope", "began_at", "took")

    @admin.display(description="what it says")
    def what(self, row: CheckRun) -> str:
        """The beginning of the detail."""
        return Truncator(row.detail).chars(DETAIL_SHOWN) or NOTHING

    @admin.display(description="looked at")
    def scope(self, row: CheckRun) -> str:
        """How far back it went."""
        return "everything" if row.everything else "what is new since the last sealed day"

    @admin.display(description="took")
    def took(self, row: CheckRun) -> str:
        """Milliseconds."""
        return f"{row.took_ms:,} ms"


@admin.register(TopUp)
class TopUpAdmin(BooksAdmin[TopUp]):
    """Purchases of credit, and what became of each."""

    list_display = ("shown_id", "organization", "amount", "state", "failure", "created_at", "settled_at")
    list_filter = ("state",)
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug",)
    search_help_text = "A topup_ id, or an organization's slug."
    fields = ("shown_id", "organization", "amount", "state", "failure", "created_at", "settled_at")

    @admin.display(description="amount")
    def amount(self, row: TopUp) -> str:
        """Dollars."""
        return money.plain(row.amount_usd)


@admin.register(Recharge)
class RechargeAdmin(BooksAdmin[Recharge]):
    """Wallets that ask for a top-up by themselves."""

    list_display = ("organization", "threshold", "amount", "monthly_cap", "enabled", "failures", "paused_until")
    list_filter = ("enabled",)
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug",)
    search_help_text = "An organization's slug."
    fields = ("organization", "threshold", "amount", "monthly_cap", "enabled", "failures", "paused_until")

    @admin.display(description="below")
    def threshold(self, row: Recharge) -> str:
        """Dollars."""
        return money.plain(row.threshold_usd)

    @admin.display(description="asks for")
    def amount(self, row: Recharge) -> str:
        """Dollars."""
        return money.plain(row.amount_usd)

    @admin.display(description="a month at most")
    def monthly_cap(self, row: Recharge) -> str:
        """Dollars."""
        return money.plain(row.monthly_cap_usd)
