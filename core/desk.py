"""The desk: the admin's site, and its menu by what finance does."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite
else:
    # Unfold has no types; what it adds is not called from here.
    from unfold.sites import UnfoldAdminSite as AdminSite


class Desk(AdminSite):
    """The admin's site. Which class it is says ``core.apps.AdminConfig``."""

    site_header = site_title = "Tollbook"
    index_title = "Today"
    # What it shows is put together in ``billing.start_page``.
    index_template = "billing/start.html"
    # There is no site beside the API to view.
    site_url = None


class Entry(NamedTuple):
    """A page in the menu: a list of rows, or what stands beside one.

    ``model`` is app and model as in ``billing.Wallet``: who may see its list sees the entry.
    ``page`` is another page's name, after ``admin:``. ``title`` is the model's plural unless given.
    """

    model: str
    icon: str
    title: str = ""
    page: str = ""


MENU: Final[Mapping[str, Sequence[Entry]]] = {
    "Money": (
        Entry("billing.Wallet", "account_balance_wallet"),
        Entry("billing.Transfer", "swap_horiz"),
        Entry("billing.Grant", "redeem"),
        Entry("billing.GrantUse", "receipt"),
        Entry("billing.Hold", "front_hand"),
        Entry("billing.Budget", "speed"),
        Entry("billing.Adjustment", "edit_note"),
        Entry("ops.Approval", "how_to_reg"),
    ),
    "Money in": (
        Entry("billing.TopUp", "add_card"),
        Entry("billing.Payment", "payments"),
        Entry("billing.Refund", "undo"),
        Entry("billing.Dispute", "gavel"),
        Entry("billing.Recharge", "autorenew"),
        Entry("billing.TopUpLimit", "vertical_align_top"),
        Entry("billing.PaymentCard", "credit_card"),
        Entry("billing.StripeCustomer", "person"),
        Entry("billing.StripeEvent", "webhook"),
        Entry("billing.BalanceTransaction", "account_balance"),
        Entry("billing.BankTransfer", "assured_workload"),
        Entry("billing.Difference", "difference"),
    ),
    "Invoices": (
        Entry("billing.Invoice", "description"),
        Entry("billing.BillingPeriod", "calendar_month"),
        Entry("billing.DunningStep", "notification_important"),
        Entry("billing.BillingProfile", "badge"),
        Entry("billing.TaxRate", "percent"),
        Entry("billing.LegalEntity", "apartment"),
    ),
    "Usage": (
        Entry("metering.UsageRecord", "data_usage"),
        Entry("metering.Quarantine", "report"),
        Entry("billing.Correction", "build"),
        Entry("metering.RequestLog", "error"),
        Entry("gateway.UnknownOutcome", "help"),
        Entry("metering.ArchivedMonth", "inventory_2"),
    ),
    "Prices": (
        Entry("metering.CatalogModel", "category"),
        Entry("metering.Price", "sell"),
        Entry("metering.PriceDraft", "edit"),
        Entry("metering.PriceRule", "rule"),
        Entry("billing.Rerating", "calculate"),
        Entry("billing.ProviderBill", "request_quote"),
    ),
    "Customers": (
        Entry("orgs.Organization", "corporate_fare"),
        Entry("orgs.User", "group", "people"),
        Entry("orgs.Member", "card_membership"),
        Entry("orgs.Project", "folder"),
        Entry("orgs.ApiKey", "key", "API keys"),
        Entry("orgs.RateLimit", "timer"),
        Entry("orgs.ExternalId", "link"),
        Entry("gateway.CallTerms", "handshake"),
        Entry("orgs.Role", "admin_panel_settings", "customers' roles"),
        Entry("ops.WebhookEndpoint", "hub"),
        Entry("ops.WebhookDelivery", "send"),
        Entry("ops.Mail", "mail"),
    ),
    "Machinery": (
        Entry("orgs.AuditEntry", "history", "audit trail"),
        Entry("billing.CheckRun", "fact_check"),
        Entry("ops.JobRun", "play_circle"),
        Entry("ops.JobPeriod", "event_repeat"),
        Entry("ops.OutboxMessage", "outbox"),
        Entry("ops.IdempotencyKey", "fingerprint"),
        Entry("gateway.Channel", "router"),
        Entry("gateway.Route", "alt_route"),
        Entry("auth.Group", "groups", "staff roles"),
        Entry("otp_totp.TOTPDevice", "phonelink_lock", "second factors"),
    ),
}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The menu as unfold draws it: for each person what they may see."""
    here = request.path
    start = reverse("admin:index")
    first = {"title": admin.site.index_title, "icon": "today", "link": start, "active": here == start}
    groups: list[dict[str, Any]] = [{"items": [first]}]
    for title, entries in MENU.items():
        items = [_item(entry, here) for entry in entries if _may_see(request, entry)]
        if items:
            # Only the group that one is in stands open, so that the menu fits a screen.
            groups.append({"title": title, "collapsible": True, "items": items})
    return groups


def _item(entry: Entry, here: str) -> dict[str, Any]:
    app, name = entry.model.lower().split(".")
    place = reverse(f"admin:{entry.page or f'{app}_{name}_changelist'}")
    title = entry.title or str(apps.get_model(entry.model)._meta.verbose_name_plural)
    return {"title": title[:1].upper() + title[1:], "icon": entry.icon, "link": place, "active": here.startswith(place)}


def _may_see(request: HttpRequest, entry: Entry) -> bool:
    page = admin.site._registry.get(apps.get_model(entry.model))
    return page is not None and page.has_view_or_change_permission(request)
