"""The desk's pages of what others say of our money: Stripe's balance, providers' bills, and the differences."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Model
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import differences, provider_bills
from billing.models import BalanceTransaction, Difference, Dispute, Payment, ProviderBill, ProviderBillLine, Refund
from billing.money_admin import first
from core import money
from core.admin import Act, ActsAdmin, BooksAdmin, Done, Section
from core.markup import NOTHING, as_facts, link, paragraphs, table
from core.reasons import ReasonForm
from orgs.admin import actor

LINES_SHOWN = 200
# What a difference may be about, by how its subject begins.
SUBJECTS: dict[str, type[Model]] = {"payment": Payment, "refund": Refund, "dispute": Dispute}


def cents(value: int, currency: str) -> str:
    """Hundredths of a currency, with its name."""
    return f"{money.plain(Decimal(value).scaleb(-2))} {currency.upper()}"


def said(usd: Decimal | None) -> str:
    """What a side says."""
    return "nothing" if usd is None else money.plain(usd)


@admin.register(BalanceTransaction)
class BalanceTransactionAdmin(BooksAdmin[BalanceTransaction]):
    """What moved our balance at Stripe, as Stripe tells it."""

    list_display = ("stripe_id", "kind", "source_id", "amount", "fee", "net", "happened_at", "available_at")
    list_filter = ("kind",)
    sortable_by = ()
    ordering = ("-happened_at", "-pk")
    search_fields = ("=stripe_id", "=source_id")
    search_help_text = "Stripe's id of a balance transaction, a charge, a refund, a dispute or a payout."
    fields = (
        *("stripe_id", "kind", "category", "source_id", "what", "description", "amount", "fee", "net", "currency"),
        *("happened_at", "available_at", "fetched_at"),
    )

    @admin.display(description="amount")
    def amount(self, row: BalanceTransaction) -> str:
        """Before Stripe's fee."""
        return cents(row.amount_cents, row.currency)

    @admin.display(description="fee")
    def fee(self, row: BalanceTransaction) -> str:
        """Stripe's."""
        return cents(row.fee_cents, row.currency)

    @admin.display(description="net")
    def net(self, row: BalanceTransaction) -> str:
        """What came of it."""
        return cents(row.net_cents, row.currency)

    @admin.display(description="in our books")
    def what(self, row: BalanceTransaction) -> str:
        """What it belongs to here."""
        if not row.source_id:
            return NOTHING
        found = (
            Payment.objects.filter(charge_id=row.source_id).first()
            or Refund.objects.filter(stripe_id=row.source_id).first()
            or Dispute.objects.filter(stripe_id=row.source_id).first()
        )
        return NOTHING if found is None else paged(found)


def paged(row: Model) -> str:
    """A row by the id that people see, leading to its page if it has one."""
    if not admin.site.is_registered(type(row)):
        return str(row)
    return link(f"{row._meta.app_label}_{row._meta.model_name}", row.pk, row)


def _explain(request: HttpRequest, row: Difference, told: dict[str, Any]) -> Done:
    differences.explain(difference_id=row.pk, reason=told["reason"], by=actor(request))
    return Done("Explained. It is open again should either amount change.")


def _about(row: Difference) -> list[Section]:
    facts = {
        "about": row.subject,
        "by our books (USD)": said(row.ours_usd),
        f"by {row.get_side_display().lower()} (USD)": said(row.theirs_usd),
        "what is said": row.detail,
    }
    return [Section("What differs", as_facts(facts))]


@admin.register(Difference)
class DifferenceAdmin(ActsAdmin[Any]):
    """Where the books and somebody else do not say the same."""

    list_display = ("shown_id", "side", "subject", "organization", "ours", "theirs", "detail", "state", "found_at")
    list_filter = ("state", "side")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("subject", "organization__slug")
    search_help_text = "A diff_ id, what it is about, or an organization's slug."
    fields = (
        *("shown_id", "side", "subject", "about", "organization", "ours", "theirs", "apart", "detail", "state"),
        *("reason", "explained_by", "found_at", "changed_at"),
    )
    acts = (
        Act(
            "explain",
            "Explain",
            "No money is moved. Say why both sides are right, or what is done about it elsewhere.",
            _explain,
            form=ReasonForm,
            facts=_about,
            possible=lambda row: row.state == Difference.State.OPEN,
        ),
    )

    @admin.display(description="by our books (USD)")
    def ours(self, row: Difference) -> str:
        """Exact."""
        return said(row.ours_usd)

    @admin.display(description="by the other side (USD)")
    def theirs(self, row: Difference) -> str:
        """Exact."""
        return said(row.theirs_usd)

    @admin.display(description="difference (USD)")
    def apart(self, row: Difference) -> str:
        """By how much the other side says more."""
        return money.plain((row.theirs_usd or money.ZERO) - (row.ours_usd or money.ZERO))

    @admin.display(description="in our books")
    def about(self, row: Difference) -> str:
        """The row that it is about, if there is one."""
        word, _, key = row.subject.partition(":")
        if row.side != Difference.Side.STRIPE or word not in SUBJECTS:
            return NOTHING
        found = SUBJECTS[word]._default_manager.filter(pk=key).first()
        return NOTHING if found is None else paged(found)


class BillForm(forms.Form):
    """A file."""

    file = forms.FileField(
        label="CSV file",
        max_length=provider_bills.TEXT_MAX,
        help_text="UTF-8 with the header provider,model,period,cost_usd; a period is a month such as 2026-10.",
    )


def _load(request: HttpRequest, _: None, told: dict[str, Any]) -> Done:
    file = told["file"]
    loaded = provider_bills.load(raw=file.read(), name=file.name, by=actor(request))
    if not loaded.is_new:
        return Done(f"This very file was loaded before: {loaded.bill.name}.", level=messages.WARNING)
    return Done(f"Loaded: {loaded.bill.name}. {provider_bills.compare()} differences with providers are open.")


def _withdraw(request: HttpRequest, row: ProviderBill, told: dict[str, Any]) -> Done:
    provider_bills.withdraw(bill_id=row.pk, reason=told["reason"], by=actor(request))
    return Done(f"Withdrawn. {provider_bills.compare()} differences with providers are open.")


def _bill(row: ProviderBill) -> list[Section]:
    return [Section("The bill", as_facts({"file": row.name, "loaded by": row.actor}))]


@admin.register(ProviderBill)
class ProviderBillAdmin(ActsAdmin[Any]):
    """Invoices and reports of providers."""

    list_display = ("shown_id", "name", "actor", "loaded_at", "withdrawn_at", "reason")
    sortable_by = ()
    search_fields = ("name",)
    search_help_text = "A bill_ id, or a part of the file's name."
    fields = ("shown_id", "name", "actor", "loaded_at", "withdrawn_at", "reason", "lines")
    list_acts = (
        Act(
            "load", "Load a bill", "The bill is held against what our records of these months cost us.", _load,
            form=BillForm, right="billing.add_providerbill",
        ),
    )  # fmt: skip
    acts = (
        Act(
            "withdraw",
            "Withdraw",
            "The bill stays here and does not count any more.",
            _withdraw,
            form=ReasonForm,
            facts=_bill,
            possible=lambda row: row.withdrawn_at is None,
        ),
    )

    @admin.display(description="lines")
    def lines(self, row: ProviderBill) -> SafeString:
        """What is asked for."""
        found, more = first(ProviderBillLine.objects.filter(bill=row).order_by("line"), LINES_SHOWN)
        rows = [
            (str(one.line), one.provider, one.model, f"{one.month:%Y-%m}", money.plain(one.cost_usd)) for one in found
        ]
        shown = table(("line", "provider", "model", "month", "cost (USD)"), rows) if rows else paragraphs("None.")
        return format_html("{}{}", shown, more)
