"""The desk's page of organizations with their wallet, documents and latest usage.

It replaces the page of ``orgs``, which knows no money.
"""

from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.closures_admin import CLOSING
from billing.invoice_admin import invoice_link
from billing.models import Invoice, Wallet
from billing.money_admin import PanelsAdmin, may
from billing.record_admin import newest_usage
from billing.transfer_admin import newest_transfers
from billing.wallet_admin import StateColumns, WithStates
from core import ids
from core.admin import ActsAdmin, QuickList, presence
from core.markup import link, paragraphs, stamp, table
from metering.rule_admin import SET_GROUP
from orgs.admin import OrganizationAdmin
from orgs.models import Organization

ROWS_SHOWN: Final = 20


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


admin.site.unregister(Organization)


@admin.register(Organization)
class OrganizationWithMoneyAdmin(StateColumns, PanelsAdmin, OrganizationAdmin, ActsAdmin[Organization]):
    """Organizations with their wallet, members, keys and latest usage, and the group whose prices they pay."""

    list_filter = (
        ("personal_of", presence("kind", absent="Shared", present="Personal")),
        ("closed_at", presence("state", absent="Open", present="Closed")),
    )
    sortable_by = ("slug", "created_at")
    search_help_text = "An organization's id, how its slug begins, its whole name, or a person's e-mail address."
    acts = (SET_GROUP, *CLOSING)
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
