"""Issued documents without the months and payments behind them: rows as ``billing.invoices`` leaves them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing import profiles, rounding
from billing.models import BillingPeriod, Invoice, InvoiceLine, InvoiceSettlement
from core import ids
from orgs.models import Organization

D = Decimal
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
ISSUED = datetime(2026, 11, 2, 9, tzinfo=UTC)
SELLER = {
    "name": "Tollbook GmbH", "address": "Münzstraße 12\n10178 Berlin", "country": "DE", "vat_id": "DE123456789",
    "email": "billing@tollbook.example", "bank_details": "IBAN DE02 1203 0000 0000 2020 51",
}  # fmt: skip


def usage(model: str, exact: str, amount: str, **more: Any) -> dict[str, Any]:
    """A line of usage: 3 requests of 3,000 tokens in, 600 of them cached, 900 out."""
    return {
        "kind": "usage", "model": model, "batch": False, "requests": 3, "input_tokens": 3000,
        "cached_input_tokens": 600, "output_tokens": 900, "exact_usd": D(exact), "amount_usd": D(amount), **more,
    }  # fmt: skip


def other(kind: str, exact: str, amount: str, text: str = "") -> dict[str, Any]:
    """A line of something else."""
    return {"kind": kind, "exact_usd": D(exact), "amount_usd": D(amount), "text": text}


LINES = (usage("deepseek-chat", "700.003621", "700.00"), usage("gpt-4o", "300.0007", "300.00", batch=True))


def draft(of: Organization, *, kind: str = "invoice", lines: Sequence[dict[str, Any]] = LINES, **more: Any) -> Invoice:
    """A draft with its lines; invoices and statements get a month each, one after the other from 2026 on."""
    profile = profiles.of(of.pk)
    period = _month(of) if kind in {"invoice", "statement"} else None
    if period is not None:
        more = {"starts_at": period.starts_at, "ends_at": period.ends_at, **more}
    made = Invoice.objects.create(
        organization=of, legal_entity=profile.legal_entity, kind=kind, period=period,
        exact_usd=sum(line["exact_usd"] for line in lines), subtotal_usd=sum(line["amount_usd"] for line in lines),
        total_usd=sum(line["amount_usd"] for line in lines), **more,
    )  # fmt: skip
    for place, line in enumerate(lines, start=1):
        InvoiceLine.objects.create(organization=of, invoice=made, place=place, **line)
    return made


def issue(made: Invoice, *, percent: str = "0", treatment: str = "off", at: datetime = ISSUED) -> Invoice:
    """Issue a draft: tax, a number that nobody else has, its state."""
    made.seller, made.buyer = SELLER, {"name": made.organization.name, "address": "", "country": "PL", "vat_id": ""}
    made.tax_percent, made.tax_treatment = D(percent), treatment
    made.tax_name = "VAT" if D(percent) else ""
    made.tax_usd = rounding.percentage(made.subtotal_usd, D(percent))
    made.total_usd = made.subtotal_usd + made.tax_usd
    made.state, made.issued_at = Invoice.State.ISSUED, at
    if made.kind == Invoice.Kind.INVOICE:
        made.state, made.due_at = Invoice.State.OPEN, at + timedelta(days=14)
        made.open_usd, made.open_tax_usd = made.total_usd, made.tax_usd
    if made.kind != Invoice.Kind.STATEMENT:
        made.year, made.sequence = 2026, Invoice.objects.filter(year=2026).count() + 1
        made.number = f"TB-2026-{made.sequence:06}"
    made.save()
    return made


def invoice(of: Organization, **more: Any) -> Invoice:
    """An invoice of 1000.004321 USD, of which 1000.00 is asked for, and 19 % on it."""
    return issue(draft(of, **more), percent="19", treatment="domestic")


def statement(of: Organization) -> Invoice:
    """A statement from 10.00 to 7.65: usage of 12.35, a top-up of 10."""
    lines = (other("topup", "10", "10.00"), usage("deepseek-chat", "-12.345678901234", "-12.35"))
    return issue(draft(of, kind="statement", lines=lines, opening_usd=D("10.00"), closing_usd=D("7.65")))


def credit_note(of: Invoice, net: str) -> Invoice:
    """A credit note over part of an invoice."""
    made = draft(
        of.organization, kind="credit_note", lines=(other("correction", net, net, "A price was wrong."),), corrects=of,
        reason="A price was wrong.", starts_at=of.starts_at, ends_at=of.ends_at,
    )  # fmt: skip
    return issue(made, percent="19", treatment="domestic")


def pay(of: Invoice, usd: str, tax: str) -> None:
    """A bank transfer for an invoice, in whole or in part; ``tax`` is the part of it that is."""
    InvoiceSettlement.objects.create(
        organization=of.organization, invoice=of, kind="payment", amount_usd=D(usd), tax_usd=D(tax), source="bank",
        reference=f"bank:{ids.new()}", actor="tests", at=ISSUED + timedelta(days=3),
    )  # fmt: skip
    of.open_usd, of.open_tax_usd = of.open_usd - D(usd), of.open_tax_usd - D(tax)
    of.paid_usd, of.paid_tax_usd = of.paid_usd + D(usd), of.paid_tax_usd + D(tax)
    if not of.open_usd:
        of.state, of.settled_at = Invoice.State.PAID, ISSUED + timedelta(days=3)
    of.save()


def _month(of: Organization) -> BillingPeriod:
    """The next month of an organization, finalized."""
    last = BillingPeriod.objects.filter(organization=of).order_by("-starts_at").first()
    start = FIRST if last is None else last.ends_at
    end = (start + timedelta(days=31)).replace(day=1)
    return BillingPeriod.objects.create(
        organization=of, starts_at=start, ends_at=end, follows=None if last is None else start, zone="UTC",
        anchor_day=1, state="finalized", finalized_at=ISSUED,
    )  # fmt: skip


def shown(of: Invoice) -> str:
    """Its id on the wire."""
    pk: UUID = of.pk
    return ids.show("inv", pk)
