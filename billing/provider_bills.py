"""What providers say that we owe them, held against what our records say that their answers cost us.

A bill is a CSV file in UTF-8 with the header ``provider,model,period,cost_usd``, its columns in any order:

    provider,model,period,cost_usd
    openai,gpt-4o,2026-10,1234.56

``period`` is a month, ``cost_usd`` an amount in dollars without signs or separators, from zero up. Each model of a
provider stands once a month. The same file is read once. The only module that writes ``ProviderBill`` and
``ProviderBillLine``; differences go to ``billing.differences``.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction

from billing import differences
from billing.corrections import check_reason
from billing.differences import Found, Side
from billing.models import ProviderBill, ProviderBillLine
from core import clock, errors, money
from metering import provider_costs
from orgs import audit
from orgs.audit import Actor

COLUMNS = ("provider", "model", "period", "cost_usd")
BYTES_MAX = 4 * 1024 * 1024
LINES_MAX = 50_000
TEXT_MAX = 200
FAULTS_SHOWN = 20
# Providers round to cents, and ask for no less.
CENT = Decimal("0.01")
_MONTH = re.compile(r"(20[0-9]{2})-(0[1-9]|1[0-2])")


class BadBill(errors.OutOfRange):
    """A file that is no bill; the message names every fault by its line and column."""

    code = "bad_provider_bill"

    def __init__(self, faults: list[str]) -> None:
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        super().__init__("; ".join(faults[:FAULTS_SHOWN]) + more, param="file")


class Line(NamedTuple):
    """A line of a bill."""

    number: int
    provider: str
    model: str
    month: date
    cost_usd: Decimal


class Loaded(NamedTuple):
    """A bill, and whether it was new."""

    bill: ProviderBill
    is_new: bool


def load(*, raw: bytes, name: str, by: Actor) -> Loaded:
    """Read a bill and keep it; one that was read before stays as it is. Raises ``BadBill``."""
    digest = hashlib.sha256(raw).digest()
    known = ProviderBill.objects.filter(digest=digest).first()
    if known is not None:
        return Loaded(known, False)
    found = read(raw)
    with transaction.atomic():
        # Whoever loads the same file at the same time waits here, and finds it.
        bill, is_new = ProviderBill.objects.get_or_create(
            digest=digest, defaults={"name": name[:TEXT_MAX], "actor": by.label, "loaded_at": clock.now()}
        )
        if is_new:
            ProviderBillLine.objects.bulk_create(
                ProviderBillLine(
                    bill=bill, line=one.number, provider=one.provider, model=one.model, month=one.month,
                    cost_usd=one.cost_usd,
                )
                for one in found
            )  # fmt: skip
            details = {"name": bill.name, "lines": len(found), "cost_usd": money.plain(_total(found))}
            audit.note(actor=by, verb="provider_bill.loaded", subject=bill, details=details)
    return Loaded(bill, is_new)


def withdraw(*, bill_id: UUID, reason: str, by: Actor) -> ProviderBill:
    """Note that a bill does not count. Raises ``OutOfRange`` for no reason, ``Conflict`` for one withdrawn before."""
    reason = check_reason(reason)
    with transaction.atomic():
        bill = ProviderBill.objects.select_for_update(no_key=True).get(pk=bill_id)
        if bill.withdrawn_at is not None:
            raise errors.Conflict("This bill was withdrawn before.")
        bill.withdrawn_at, bill.reason = clock.now(), reason
        bill.save(update_fields=["withdrawn_at", "reason"])
        audit.note(
            actor=by, verb="provider_bill.withdrawn", subject=bill, details={"name": bill.name, "reason": reason}
        )
    return bill


def read(raw: bytes) -> list[Line]:
    """The lines of a bill. Pure. Raises ``BadBill``."""
    if len(raw) > BYTES_MAX:
        raise BadBill([f"the file has more than {BYTES_MAX} bytes"])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise BadBill([f"line {number}: this is not UTF-8"]) from error
    # It counts lines too; a field may hold several.
    rows: Any = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if sorted(header) != sorted(COLUMNS):
            raise BadBill([f"line 1: the header is {','.join(COLUMNS)}, not {','.join(header) or 'nothing'}"])
        faults: list[str] = []
        lines = list(_lines(rows, header, faults))
    except csv.Error as error:
        raise BadBill([f"line {rows.line_num}: {error}"]) from error
    if not lines and not faults:
        faults.append("line 2: there is nothing below the header")
    if faults:
        raise BadBill(faults)
    return lines


def _lines(rows: Any, header: list[str], faults: list[str]) -> Iterator[Line]:
    first_seen: dict[tuple[str, str, date], int] = {}
    for row in rows:
        number: int = rows.line_num
        if not any(cell.strip() for cell in row):
            continue
        if len(first_seen) >= LINES_MAX:
            faults.append(f"line {number}: a bill has at most {LINES_MAX} lines")
            return
        if len(row) != len(header):
            faults.append(f"line {number}: {len(row)} columns instead of {len(header)}")
            continue
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        own: list[str] = []
        provider = _text(cells, "provider", own).lower()
        model = _text(cells, "model", own)
        month = _month(cells["period"], own)
        cost = _cost(cells["cost_usd"], own)
        if month is not None and not own:
            key = provider, model, month
            if key in first_seen:
                own.append(
                    f"column model: {model} of {provider} stands in line {first_seen[key]} for this period already"
                )
            first_seen.setdefault(key, number)
        faults += [f"line {number}, {fault}" for fault in own]
        if not own and month is not None and cost is not None:
            yield Line(number, provider, model, month, cost)


def _text(cells: dict[str, str], name: str, faults: list[str]) -> str:
    value = cells[name]
    if not value or len(value) > TEXT_MAX or not value.isprintable():
        faults.append(f"column {name}: {value[:40]!r} is no name")
    return value


def _month(text: str, faults: list[str]) -> date | None:
    match = _MONTH.fullmatch(text)
    if match is None:
        faults.append(f"column period: {text[:40]!r} is no month such as 2026-10")
        return None
    return date(int(match[1]), int(match[2]), 1)


def _cost(text: str, faults: list[str]) -> Decimal | None:
    try:
        cost = money.parse(text)
    except ValueError:
        faults.append(f"column cost_usd: {text[:40]!r} is no amount such as 1234.56")
        return None
    if not money.holds(cost):
        faults.append(f"column cost_usd: {text[:40]!r} is below zero, too large or too fine")
        return None
    return cost


def _total(found: list[Line]) -> Decimal:
    return sum((one.cost_usd for one in found), money.ZERO)


class Compared(NamedTuple):
    """What a provider asks for a model in a month and what our records say; ``None`` where a side knows nothing."""

    provider: str
    model: str
    month: date
    billed_usd: Decimal | None
    recorded_usd: Decimal | None
    unknown_records: int

    @property
    def apart(self) -> bool:
        """Whether it is a cent or more."""
        return abs((self.billed_usd or money.ZERO) - (self.recorded_usd or money.ZERO)) >= CENT


def comparison() -> list[Compared]:
    """Every model of each provider and month that a bill tells of, in the order of months."""
    billed: dict[tuple[str, str, date], Decimal] = {}
    for provider, model, month, cost in ProviderBillLine.objects.filter(bill__withdrawn_at__isnull=True).values_list(
        "provider", "model", "month", "cost_usd"
    ):
        billed[provider, model, month] = billed.get((provider, model, month), money.ZERO) + cost
    if not billed:
        return []
    told = {(provider, month) for provider, _, month in billed}
    months = [month for _, month in told]
    recorded = {
        (one.provider, one.model, one.month): one
        for one in provider_costs.of_months(min(months), max(months))
        if (one.provider, one.month) in told
    }
    return [
        Compared(
            *key, billed.get(key), recorded[key].cost_usd if key in recorded else None,
            recorded[key].unknown if key in recorded else 0,
        )
        for key in sorted({*billed, *recorded}, key=lambda key: (key[2], key[0], key[1]))
    ]  # fmt: skip


def compare() -> int:
    """List where bills and records differ by a cent or more; how many of these differences are open."""
    found = [_found(one) for one in comparison() if one.apart]
    return differences.keep(Side.PROVIDER, found)


def told(one: Compared) -> str:
    """A comparison in a line."""
    return f"{_subject(one)}: {_said(one)}"


def _subject(one: Compared) -> str:
    return f"bill:{one.provider}/{one.model}/{one.month:%Y-%m}"


def _said(one: Compared) -> str:
    billed = "nothing" if one.billed_usd is None else money.plain(one.billed_usd)
    recorded = "nothing" if one.recorded_usd is None else money.plain(one.recorded_usd)
    unknown = f"; of {one.unknown_records} records the cost is unknown" if one.unknown_records else ""
    return f"{recorded} by our records, {billed} billed{unknown}"


def _found(one: Compared) -> Found:
    return Found(_subject(one), one.recorded_usd, one.billed_usd, _said(one))
