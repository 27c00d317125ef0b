"""What a document says, ready to be printed; and how amounts, instants and periods are written on it.

Amounts are US dollars. ``amount_usd`` of a line is in cents, ``exact_usd`` is what it was before rounding.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from zoneinfo import ZoneInfo

from billing import rounding
from core import money

MINUS = "\N{MINUS SIGN}"
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


class Contradiction(ValueError):
    """A document does not add up; the message says where."""


class Kind(StrEnum):
    """What a document is."""

    INVOICE = "invoice"
    STATEMENT = "statement"
    RECEIPT = "receipt"
    CREDIT_NOTE = "credit_note"


TITLES = {
    Kind.INVOICE: "Invoice",
    Kind.STATEMENT: "Statement",
    Kind.RECEIPT: "Receipt",
    Kind.CREDIT_NOTE: "Credit note",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Who sells or who buys. ``address`` may have several lines; ``country`` is an ISO 3166 code."""

    name: str
    address: str = ""
    country: str = ""
    vat_id: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: ``detail`` stands below its text in small; a line that is no count of anything has no quantity."""

    text: str
    amount_usd: Decimal
    exact_usd: Decimal
    detail: str = ""
    quantity: int | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tax:
    """A tax. ``amount_usd`` is ``percent`` of ``base_usd`` to within a cent: parts of a tax round apart.

    No ``percent``: it was worked out elsewhere.
    """

    name: str
    percent: Decimal | None
    base_usd: Decimal
    amount_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A payment or another thing that happened to what is due, or a movement of a statement."""

    at: datetime
    text: str
    amount_usd: Decimal
    balance_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """All that one document says. ``zone`` is the IANA zone its days are counted and shown in.

    ``number`` is empty where documents of its kind have none, ``reference`` is its id. ``exact_usd`` −
    ``subtotal_usd`` is less than what a document can ask for and is carried to the next one. A statement
    says how the balance went from ``opening_usd`` to ``closing_usd``.
    """

    kind: Kind
    reference: str
    seller: Party
    buyer: Party
    zone: str
    lines: tuple[Line, ...]
    subtotal_usd: Decimal
    total_usd: Decimal
    number: str = ""
    state: str = ""
    issued_at: datetime | None = None
    due_at: datetime | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    taxes: tuple[Tax, ...] = ()
    paid_usd: Decimal = money.ZERO
    open_usd: Decimal = money.ZERO
    opening_usd: Decimal | None = None
    closing_usd: Decimal | None = None
    corrects: str = ""
    reason: str = ""
    payment: str = ""
    pay_url: str = ""
    notes: tuple[str, ...] = ()
    movements: tuple[Movement, ...] = ()

    @property
    def exact_usd(self) -> Decimal:
        """The sum of the lines before rounding."""
        return sum((line.exact_usd for line in self.lines), money.ZERO)

    @property
    def carried_usd(self) -> Decimal:
        """What is carried to the next document; below zero it was asked for ahead."""
        return self.exact_usd - self.subtotal_usd

    @property
    def credited_usd(self) -> Decimal:
        """Of an invoice's total, what was neither paid nor is still open: credited, voided or given up."""
        return self.total_usd - self.paid_usd - self.open_usd

    @property
    def title(self) -> str:
        """``Invoice TB-2026-000001``."""
        return f"{TITLES[self.kind]} {self.number or self.reference}"


def check(document: Document) -> None:
    """Raise ``Contradiction`` unless every sum on the document is right and every amount asked for is in cents."""
    for line in document.lines:
        _in_cents(line.amount_usd, line.text)
    lines = sum((line.amount_usd for line in document.lines), money.ZERO)
    taxes = sum((tax.amount_usd for tax in document.taxes), money.ZERO)
    _same(lines, document.subtotal_usd, "the lines and the subtotal")
    _same(document.subtotal_usd + taxes, document.total_usd, "the subtotal with tax and the total")
    for tax in document.taxes:
        if tax.percent is not None and abs(tax.base_usd * tax.percent.scaleb(-2) - tax.amount_usd) >= rounding.CENT:
            raise Contradiction(f"{tax.amount_usd} is not {tax.percent} percent of {tax.base_usd}")
    if document.opening_usd is not None and document.closing_usd is not None:
        _same(document.opening_usd + lines, document.closing_usd, "the opening balance with the lines and the closing")
    for name in ("subtotal_usd", "total_usd", "paid_usd", "open_usd"):
        _in_cents(getattr(document, name), name)


def _in_cents(amount: Decimal, what: str) -> None:
    if amount != rounding.to_cents(amount):
        raise Contradiction(f"{what}: {amount} is not in cents")


def _same(one: Decimal, other: Decimal, what: str) -> None:
    if one != other:
        raise Contradiction(f"{what} differ: {one} and {other}")


def cents(amount: Decimal) -> str:
    """An amount in cents as it is printed: ``−1,234.50``. Raises ``Contradiction`` for finer ones."""
    _in_cents(amount, "amount")
    text = f"{abs(amount):,.2f}"
    return f"{MINUS}{text}" if amount < 0 else text


def dollars(amount: Decimal) -> str:
    """An amount in cents with its sign before the dollar: ``−$1,234.50``."""
    text = cents(abs(amount))
    return f"{MINUS}${text}" if amount < 0 else f"${text}"


def exact(amount: Decimal) -> str:
    """An amount with all its decimals, two at least: ``1,234.50``, ``0.000362``."""
    text = f"{abs(amount):,.{money.DECIMALS}f}".rstrip("0")
    whole, _, rest = text.partition(".")
    text = f"{whole}.{rest:0<2}"
    return f"{MINUS}{text}" if amount < 0 else text


def count(number: int) -> str:
    """A count as it is printed: ``1,234,567``."""
    text = f"{abs(number):,}"
    return f"{MINUS}{text}" if number < 0 else text


def taxed(tax: Tax) -> str:
    """A tax in words: ``VAT 19 % of 1,000.00``."""
    rate = "" if tax.percent is None else f" {money.plain(tax.percent)} %"
    return f"{tax.name}{rate} of {cents(tax.base_usd)}"


def day(at: datetime, zone: str) -> str:
    """The day of an instant in a zone: ``1 October 2026``."""
    return _day(at.astimezone(ZoneInfo(zone)))


def _day(local: datetime) -> str:
    return f"{local.day} {_month(local)} {local.year}"


def _month(local: datetime) -> str:
    return _MONTHS[local.month - 1]


def moment(at: datetime, zone: str) -> str:
    """An instant to the minute in a zone: ``1 October 2026, 14:05``; the zone stands elsewhere."""
    return f"{day(at, zone)}, {at.astimezone(ZoneInfo(zone)):%H:%M}"


def last_day(at: datetime, zone: str) -> str:
    """The last day before an instant that ends a stretch of time: midnight belongs to the day before."""
    return day(_just_before(at), zone)


def period(starts_at: datetime, ends_at: datetime, zone: str) -> str:
    """A half-open stretch in words: whole days by their first and last one, anything else to the minute."""
    if _begins_a_day(starts_at, zone) and _begins_a_day(ends_at, zone):
        return _days(starts_at.astimezone(ZoneInfo(zone)), _just_before(ends_at).astimezone(ZoneInfo(zone)))
    return f"{moment(starts_at, zone)} to before {moment(ends_at, zone)}"


def _days(first: datetime, last: datetime) -> str:
    """From one day to another, both included; what they share is said once."""
    if first.date() == last.date():
        return _day(first)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day} to {_day(last)}"
    if first.year == last.year:
        return f"{first.day} {_month(first)} to {_day(last)}"
    return f"{_day(first)} to {_day(last)}"


def _begins_a_day(at: datetime, zone: str) -> bool:
    """Whether a day of the zone begins then: at midnight, or later where its clocks skip midnight."""
    return day(at, zone) != day(_just_before(at), zone)


def _just_before(at: datetime) -> datetime:
    # In UTC: with other zones Python counts on the wall's clock, not in time.
    return at.astimezone(UTC) - timedelta(microseconds=1)
