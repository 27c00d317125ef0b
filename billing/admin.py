"""The desk's pages of who owes: wallets and transfers, organizations with their money, records with their transfer.

All of it is read only. Billing knows what an organization, a record and a wallet have to do with
each other, so the pages that show them together replace those of ``orgs`` and ``metering`` here.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import wallets
from billing.models import Correction, Rerating, ReratingShare, Transfer, TransferKind, Wallet
from core import ids, money
from core.admin import BooksAdmin, QuickList
from metering.admin import (
    NOTHING,
    KeyedAdmin,
    UsageRecordAdmin,
    address,
    find_organization,
    link,
    list_of,
    presence,
    stamp,
    table,
)
from metering.models import UsageRecord
from orgs.admin import OrganizationAdmin
from orgs.models import Organization, User

ROWS_SHOWN: Final = 20
SHARES_SHOWN: Final = 100
_MILLISECOND: Final = timedelta(milliseconds=1)


def transfer_link(organization_id: UUID, transfer_id: UUID | None) -> str:
    """A link to a transfer, if there is one."""
    if transfer_id is None:
        return NOTHING
    return link("billing_transfer", address("tr", organization_id, transfer_id), ids.show("tr", transfer_id))


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
            row.end_user,
        )
        for row in records
    ]
    return table(("record", "recorded (UTC)", "model", "input tokens", "output tokens", "cost (USD)", "end user"), rows)


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


def may(request: HttpRequest, right: str) -> bool:
    """Whether the person at the desk has a right such as ``billing.view_wallet``."""
    user = request.user
    return isinstance(user, User) and user.has_perm(right)


class PanelsAdmin(BooksAdmin[Any]):
    """Pages with panels of other tables, each for those who may see that table."""

    panels: Sequence[tuple[str, tuple[str, ...], str]] = ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """The page's own fields, then the panels: a heading, its fields and the right it takes."""
        shown = [(heading, {"fields": names}) for heading, names, right in self.panels if may(request, right)]
        return [*super().get_fieldsets(request, obj), *shown]


admin.site.unregister(Organization)


@admin.register(Organization)
class OrganizationWithMoneyAdmin(StateColumns, PanelsAdmin, OrganizationAdmin):
    """Organizations with their wallet, members, keys and latest usage."""

    list_filter = (
        ("personal_of", presence("kind", absent="Shared", present="Personal")),
        ("closed_at", presence("state", absent="Open", present="Closed")),
    )
    sortable_by = ("slug", "created_at")
    search_help_text = "An organization's id, how its slug begins, its whole name, or a person's e-mail address."
    panels = (
        (
            "Wallet",
            ("status", "balance", "available", "held", "overdraft", "credit_limit", "spent", "wallet_page"),
            "billing.view_wallet",
        ),
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
        """The wallet's own page, which exists from its first transfer on."""
        if not Wallet.objects.filter(pk=row.pk).exists():
            return "No money has moved yet."
        return link("billing_wallet", row.pk, "The wallet's page")

    @admin.display(description="newest first")
    def recent_usage(self, row: Organization) -> SafeString:
        """The last requests."""
        return newest_usage(row)

    @admin.display(description="newest first")
    def recent_transfers(self, row: Organization) -> SafeString:
        """The last movements of money."""
        return newest_transfers(row)


@admin.register(Wallet)
class WalletAdmin(StateColumns, PanelsAdmin):
    """Wallets: what stands, and the transfers that explain it."""

    list_display = ("organization", "balance", "available", "status", "overdraft", "credit_limit", "spent")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "An organization's slug or id, or a person's e-mail address."
    fields = (
        *("organization", "status", "balance", "available", "posted", "held", "overdraft", "credit_limit", "spent"),
        *("low", "seq", "frozen_at", "created_at"),
    )
    panels = (("Recent transfers", ("recent_transfers",), "billing.view_transfer"),)

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

    @admin.display(description="low below (USD)")
    def low(self, row: Wallet) -> str:
        """Where it begins to count as low."""
        return money.plain(row.low_usd)

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
        ("Cause", {"fields": ("reference", "actor", "reason")}),
    )
    panels = (("Its records", ("records",), "metering.view_usagerecord"),)

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

    @admin.display(description="records")
    def records(self, row: Transfer) -> SafeString | str:
        """The first records that name this transfer.

        They are written in its transaction, so their ids carry the same millisecond: a range of
        the key instead of a search.
        """
        at = ids.instant(row.pk)
        records = UsageRecord.objects.filter(
            organization_id=row.organization_id, pk__gte=ids.floor(at), pk__lt=ids.floor(at + _MILLISECOND)
        )
        found = list(records.filter(transfer_id=row.pk).order_by("pk").defer("metadata", "units")[: ROWS_SHOWN + 1])
        if not found:
            return "No usage record names it."
        more = "" if len(found) <= ROWS_SHOWN else f"The first {ROWS_SHOWN}; there are more."
        return format_html("{}{}", record_table(found[:ROWS_SHOWN]), more)


admin.site.unregister(UsageRecord)


@admin.register(UsageRecord)
class ChargedRecordAdmin(UsageRecordAdmin):
    """Usage records with the transfer that charged them and what was corrected since."""

    def get_fieldsets(self, request: HttpRequest, obj: UsageRecord | None = None) -> Any:
        """The money, with whose it was."""
        more = ("payer", "transfer", *(("corrections",) if may(request, "billing.view_correction") else ()))
        return [
            (heading, {**options, "fields": (*options["fields"], *more)} if heading == "Money" else options)
            for heading, options in super().get_fieldsets(request, obj)
        ]

    @admin.display(description="paid by")
    def payer(self, row: UsageRecord) -> SafeString:
        """The wallet that paid."""
        return link("billing_wallet", row.payer_id, ids.show("org", row.payer_id))

    @admin.display(description="transfer")
    def transfer(self, row: UsageRecord) -> str:
        """The charge that it is part of."""
        return transfer_link(row.payer_id, row.transfer_id)

    @admin.display(description="corrections")
    def corrections(self, row: UsageRecord) -> str:
        """What was posted about it afterwards."""
        found = Correction.objects.filter(organization_id=row.organization_id, record_id=row.pk).order_by("pk")
        rows = [
            (
                link("billing_correction", one.pk, one.get_kind_display()),
                stamp(one.created_at),
                money.plain(one.cost_usd),
                transfer_link(row.payer_id, one.transfer_id),
                one.reason,
            )
            for one in found[:ROWS_SHOWN]
        ]
        return table(("correction", "at (UTC)", "difference (USD)", "transfer", "reason"), rows) if rows else NOTHING


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


@admin.register(Rerating)
class ReratingAdmin(PanelsAdmin):
    """Acts of re-rating, and what each means for whom."""

    list_display = ("shown_id", "state", "start", "end", "actor", "reason", "created_at", "applied_at")
    list_filter = ("state",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A rerate_ id."
    fields = (
        *("shown_id", "state", "start", "end", "models_text", "organizations_text", "undoes"),
        *("reason", "actor", "created_at", "applied_at"),
    )
    panels = (("By organization", ("shares",), "billing.view_reratingshare"),)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Rerating], search_term: str
    ) -> tuple[QuerySet[Rerating], bool]:
        """By id."""
        try:
            return queryset.filter(pk=ids.read("rerate", search_term.strip())), False
        except ValueError:
            return (queryset.none() if search_term.strip() else queryset), False

    @admin.display(description="models")
    def models_text(self, row: Rerating) -> str:
        """Which models' records."""
        return ", ".join(row.model_slugs) or "all"

    @admin.display(description="organizations")
    def organizations_text(self, row: Rerating) -> str:
        """Whose records."""
        return ", ".join(ids.show("org", each) for each in row.organization_ids) or "all"

    @admin.display(description="shares")
    def shares(self, row: Rerating) -> str:
        """What it means for the first organizations."""
        found = list(
            ReratingShare.objects.filter(rerating=row).select_related("organization").order_by("pk")[: SHARES_SHOWN + 1]
        )
        rows = [
            (
                link("orgs_organization", share.organization_id, share.organization),
                f"{share.records:,}",
                money.plain(share.before_usd),
                money.plain(share.after_usd),
                money.plain(share.after_usd - share.before_usd),
                f"{share.unpriced:,}",
                "yes" if share.finished else "no",
            )
            for share in found[:SHARES_SHOWN]
        ]
        heads = ("organization", "records", "before (USD)", "after (USD)", "difference (USD)", "unpriced", "finished")
        more = "" if len(found) <= SHARES_SHOWN else f"The first {SHARES_SHOWN}; there are more."
        return format_html("{}{}", table(heads, rows), more) if rows else NOTHING
