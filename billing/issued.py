"""Documents as their organization sees them: a listing, one by its id, and what each says when it is printed.

A draft is nobody's business but finance's: nothing here finds one for a customer.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Q, QuerySet

from billing import profiles, taxes
from billing.documents import pdf
from billing.documents.document import Document, Kind, Line, Movement, Party, Tax, cents, count
from billing.models import Account, Invoice, InvoiceLine, InvoiceSettlement
from core import clock, errors, ids
from orgs.models import ApiKey, Project

STATES = tuple(state for state in Invoice.State if state != Invoice.State.DRAFT)
KINDS = tuple(Invoice.Kind)
PAGE = 500


class Wanted(NamedTuple):
    """Which documents: of a kind, in a state, issued from ``start`` until before ``end``."""

    kind: str | None = None
    state: str | None = None
    start: datetime | None = None
    end: datetime | None = None


class Page(NamedTuple):
    """A page of documents, and whether more follow."""

    invoices: list[Invoice]
    has_more: bool


def of(organization_id: UUID) -> QuerySet[Invoice]:
    """An organization's documents, the one issued last first."""
    issued = Invoice.objects.filter(organization_id=organization_id).exclude(state=Invoice.State.DRAFT)
    return issued.order_by("-issued_at", "-id")


def page(organization_id: UUID, *, wanted: Wanted, limit: int, after: str | None) -> Page:
    """The next ``limit`` documents that follow the one named ``after``. Raises ``InvalidCursor``."""
    found = of(organization_id)
    if after is not None:
        try:
            last = find(organization_id, after)
        except errors.NotFound as error:
            raise errors.InvalidCursor(param="after") from error
        # By when it was issued, not by its id: a draft that is issued late must not slip behind a reader's back.
        found = found.filter(Q(issued_at__lt=last.issued_at) | Q(issued_at=last.issued_at, pk__lt=last.pk))
    for name, value in (
        ("kind", wanted.kind), ("state", wanted.state), ("issued_at__gte", wanted.start), ("issued_at__lt", wanted.end),
    ):  # fmt: skip
        if value is not None:
            found = found.filter(**{name: value})
    invoices = list(found[: limit + 1])
    return Page(invoices[:limit], len(invoices) > limit)


def every(organization_id: UUID, *, wanted: Wanted) -> Iterator[Invoice]:
    """All documents that are wanted, read page by page."""
    after = None
    while True:
        found = page(organization_id, wanted=wanted, limit=PAGE, after=after)
        yield from found.invoices
        if not found.has_more:
            return
        after = ids.show("inv", found.invoices[-1].pk)


def find(organization_id: UUID, shown: str) -> Invoice:
    """The document with that id. Raises ``NotFound``, for another organization's and a draft alike."""
    try:
        found = of(organization_id).filter(pk=ids.read("inv", shown)).first()
    except ValueError:
        found = None
    if found is None:
        raise errors.NotFound("No invoice with that id is open to this key.", param="invoice_id")
    return found


def lines(invoice: Invoice) -> list[InvoiceLine]:
    """A document's lines in their order."""
    return list(InvoiceLine.objects.filter(invoice=invoice).order_by("place"))


def settlements(invoice: Invoice) -> list[InvoiceSettlement]:
    """What made the open amount smaller, oldest first."""
    return list(InvoiceSettlement.objects.filter(invoice=invoice).order_by("id"))


def credit_notes(invoice: Invoice) -> list[Invoice]:
    """The credit notes that correct an invoice, oldest first."""
    corrections = Invoice.objects.filter(corrects=invoice, organization_id=invoice.organization_id)
    return list(corrections.exclude(state=Invoice.State.DRAFT).order_by("id"))


def receipt_of(topup_id: UUID) -> str | None:
    """The id on the wire of a top-up's receipt, once it is issued."""
    return receipts_of([topup_id]).get(topup_id)


def receipts_of(topup_ids: Collection[UUID]) -> dict[UUID, str]:
    """The ids on the wire of receipts that are issued, by top-up. One query."""
    found = Invoice.objects.filter(topup_id__in=list(topup_ids)).exclude(state=Invoice.State.DRAFT)
    return {topup_id: ids.show("inv", pk) for topup_id, pk in found.values_list("topup_id", "pk") if topup_id}


def usage_query(invoice: Invoice, line: InvoiceLine) -> str | None:
    """The query of ``GET /v1/usage`` that lists a line's records; none for a line that is not of usage.

    Tier, batch and project are no filters there: a line that is told apart by them is a part of what is listed.
    """
    if line.kind != InvoiceLine.Kind.USAGE or invoice.starts_at is None or invoice.ends_at is None:
        return None
    asked = {
        "model": line.model, "start_time": clock.to_unix(invoice.starts_at), "end_time": clock.to_unix(invoice.ends_at),
    }  # fmt: skip
    if line.api_key_id is not None:
        asked["api_key_id"] = ids.show("key", line.api_key_id)
    return urlencode(asked)


def file_name(invoice: Invoice) -> str:
    """What a file of it is called, without an ending: its number (a prefix, a year and digits), or its id."""
    return invoice.number or ids.show("inv", invoice.pk)


def printed(invoice: Invoice) -> bytes:
    """A document as PDF. Raises ``Contradiction`` for one that does not add up."""
    return pdf.draw(document(invoice))


def document(invoice: Invoice) -> Document:
    """What a document says: the parties as they were when it was issued, payments as they are now.

    A draft names the parties as they would stand on it now, and no tax yet.
    """
    rows = lines(invoice)
    seller, buyer = _parties(invoice)
    names = _names(rows)
    corrected = invoice.corrects
    return Document(
        kind=Kind(invoice.kind),
        number=invoice.number or "",
        reference=ids.show("inv", invoice.pk),
        state=invoice.state,
        seller=_party(seller),
        buyer=_party(buyer),
        zone=invoice.zone,
        issued_at=invoice.issued_at,
        due_at=invoice.due_at,
        starts_at=invoice.starts_at,
        ends_at=invoice.ends_at,
        lines=tuple(_line(row, names) for row in rows),
        subtotal_usd=Decimal(invoice.subtotal_usd),
        taxes=_taxes(invoice),
        total_usd=Decimal(invoice.total_usd),
        paid_usd=Decimal(invoice.paid_usd),
        open_usd=Decimal(invoice.open_usd),
        opening_usd=invoice.opening_usd,
        closing_usd=invoice.closing_usd,
        corrects="" if corrected is None else f"{corrected.get_kind_display().lower()} {corrected.number}",
        reason=invoice.reason,
        payment=invoice.seller.get("bank_details", "") if invoice.open_usd else "",
        notes=_notes(invoice),
        movements=tuple(_movement(row) for row in settlements(invoice)),
    )


def _parties(invoice: Invoice) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Who sells and who buys."""
    if invoice.state != Invoice.State.DRAFT:
        return invoice.seller, invoice.buyer
    profile = profiles.of(invoice.organization_id)
    return vars(profile.legal_entity), {**vars(profile), "name": profile.name or profile.organization.name}


def _party(told: Mapping[str, Any]) -> Party:
    return Party(**{name: told.get(name) or "" for name in ("name", "address", "country", "vat_id", "email")})


def _taxes(invoice: Invoice) -> tuple[Tax, ...]:
    if not invoice.tax_percent and not invoice.tax_usd:
        return ()
    # A receipt whose tax was worked out by rules that changed meanwhile has an amount and no rate.
    rate = invoice.tax_percent or None
    return (
        Tax(
            name=invoice.tax_name or "Tax", percent=rate, base_usd=invoice.subtotal_usd,
            amount_usd=invoice.tax_usd,
        ),
    )  # fmt: skip


def _notes(invoice: Invoice) -> tuple[str, ...]:
    """What has to be said of tax that is not there."""
    if invoice.state == Invoice.State.DRAFT and invoice.kind == Invoice.Kind.INVOICE:
        return ("This is a draft. It may change, and tax is added when it is finalized.",)
    if invoice.kind == Invoice.Kind.STATEMENT:
        return ("This statement is no invoice: nothing is due on it.",)
    if invoice.tax_treatment == taxes.REVERSE_CHARGE:
        return ("Reverse charge: the recipient accounts for VAT (Directive 2006/112/EC, articles 44 and 196).",)
    if invoice.tax_treatment == taxes.OUTSIDE:
        return (f"Not subject to tax in {invoice.seller.get('country', '')}: the recipient is in another country.",)
    return ()


_PAID_FROM = {
    Account.STRIPE_CLEARING: "Payment by card", Account.DISPUTES: "Payment by card", Account.BANK: "Bank transfer",
}  # fmt: skip


def told(row: InvoiceSettlement) -> str:
    """A settlement in words, with what of it became credit."""
    text = row.get_kind_display().capitalize()
    if row.kind == InvoiceSettlement.Kind.PAYMENT and row.source:
        text = _PAID_FROM.get(Account(row.source), text)
    if row.over_usd < 0:
        return f"{text}; {cents(-row.over_usd)} of it had become credit"
    return f"{text}; {cents(row.over_usd)} became credit" if row.over_usd else text


def _movement(row: InvoiceSettlement) -> Movement:
    return Movement(at=row.at, text=told(row), amount_usd=-row.amount_usd)


def _names(rows: Iterable[InvoiceLine]) -> dict[UUID, str]:
    """What keys and projects of lines are called."""
    keys = {row.api_key_id for row in rows if row.api_key_id is not None}
    projects = {row.project_id for row in rows if row.project_id is not None}
    found: dict[UUID, str] = {}
    for model, prefix, wanted in ((ApiKey, "key", keys), (Project, "project", projects)):
        if wanted:
            named = model._default_manager.filter(pk__in=wanted).values_list("pk", "name")
            found |= {pk: f"{prefix} {name}" for pk, name in named}
    return found


def _line(row: InvoiceLine, names: Mapping[UUID, str]) -> Line:
    if row.kind != InvoiceLine.Kind.USAGE:
        text = row.text or row.get_kind_display().capitalize()
        return Line(text=text, exact_usd=row.exact_usd, amount_usd=row.amount_usd)
    # Its name may be gone, its id stays.
    apart = [
        names.get(one, ids.show(prefix, one))
        for prefix, one in (("key", row.api_key_id), ("proj", row.project_id))
        if one is not None
    ]
    return Line(
        text=row.model or "",
        detail=", ".join([*apart, *_conditions(row), *_tokens(row)]),
        quantity=row.requests,
        unit="request" if row.requests == 1 else "requests",
        exact_usd=row.exact_usd,
        amount_usd=row.amount_usd,
    )


def _conditions(row: InvoiceLine) -> Sequence[str]:
    return [*([f"{row.service_tier} tier"] if row.service_tier else []), *(["batch"] if row.batch else [])]


def _tokens(row: InvoiceLine) -> Sequence[str]:
    """Its tokens in words; requests priced by anything else have none."""
    if not row.input_tokens and not row.output_tokens:
        return []
    cached = f" ({count(row.cached_input_tokens)} cached)" if row.cached_input_tokens else ""
    return [f"{count(row.input_tokens or 0)} tokens in{cached}", f"{count(row.output_tokens or 0)} out"]
