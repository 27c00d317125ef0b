"""The desk's page of wallets: what stands, the transfers that explain it, and what finance does about it.

What a wallet is made of, and its acts, are in ``billing.money_admin``.
"""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing import wallets
from billing.models import Wallet
from billing.money_admin import (
    ACTS,
    PanelsAdmin,
    adjustment_table,
    ceiling_table,
    grant_table,
    head_table,
    hold_table,
    terms_of,
)
from billing.transfer_admin import newest_transfers
from core import money
from core.admin import ActsAdmin, QuickList
from core.markup import NOTHING, as_facts, stamp
from metering.admin import find_organization
from orgs.models import Organization


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
