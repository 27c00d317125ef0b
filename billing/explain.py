"""How a cost came about: pools, rates, price version, rule, tier, transfer, corrections.

Everything is derived again from what the record froze, and checked against what was charged.
"""

from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

from billing import holds
from billing.models import Correction, Hold, Rerating, Transfer
from core import errors, ids, money
from metering import catalog, rating, rules, usage
from metering.models import UsageRecord

# Parts of a correction that are no product of counts and rates.
CHARGED_BEFORE = "charged_before"
CORRECTED_BEFORE = "corrected_before"
UNDONE = "undone"


class Part(NamedTuple):
    """One product of the sum: so many of something at so much each; what a correction takes back is negative."""

    pool: str
    quantity: int
    rate_usd: Decimal
    per: int
    cost_usd: Decimal


class Authorization(NamedTuple):
    """The authorization that an event named. ``hold`` is None for one that is not its organization's.

    ``settled``: this record ended the hold. Where it did not, the money was debited all the same and the
    hold, whatever became of it, was left alone.
    """

    id: UUID
    hold: Hold | None
    settled: bool


class Explanation(NamedTuple):
    """A record's cost, taken apart: the parts add up to it.

    ``matches`` says whether the frozen price gives them, and for a correction whether it started from what was
    charged until then. ``corrections`` are those of this record.
    """

    record: UsageRecord
    parts: Sequence[Part]
    terms: rating.Terms | None
    price: Any
    rule: Any
    transfer: Transfer | None
    corrections: Sequence[Correction]
    net_usd: Decimal
    matches: bool
    authorization: Authorization | None = None


def explain(record: UsageRecord) -> Explanation:
    """Take a record's cost apart. A handful of queries, whatever the size of the books.

    Raises ``Archived`` for a correction whose record cannot be read any more.
    """
    root = record if record.corrects_id is None else _corrected(record)
    price = catalog.price(record.price_id)
    rule = None if record.rule_id is None else rules.row(record.rule_id)
    card = rules.derive_card(rating.read_card(price.rates), rules.as_rule(rule))
    counts = usage.counts_of(root)
    terms = rating.choose(card, counts, root.occurred_at)
    family = list(Correction.objects.filter(organization_id=root.organization_id, record_id=root.id).order_by("id"))
    parts = parts_of(card, terms, counts)
    if record is root:
        told = _Sum(parts, _total(parts) == record.cost_usd)
    else:
        told = _sum_of_correction(record, root, family, parts)
    transfer = None
    if record.transfer_id is not None:
        transfer = Transfer.objects.get(organization_id=record.payer_id, id=record.transfer_id)
    corrections = family if record is root else []
    return Explanation(
        record=record,
        parts=told.parts,
        terms=terms,
        price=price,
        rule=rule,
        transfer=transfer,
        corrections=corrections,
        net_usd=record.cost_usd + sum((one.cost_usd for one in corrections), money.ZERO),
        matches=told.matches,
        authorization=_authorization(record),
    )


def _authorization(record: UsageRecord) -> Authorization | None:
    """What became of the authorization that a record names, if it names one."""
    if record.authorization_id is None:
        return None
    hold = holds.find(organization_id=record.organization_id, hold_id=record.authorization_id)
    return Authorization(record.authorization_id, hold, hold is not None and hold.record_id == record.id)


class _Sum(NamedTuple):
    """The parts of a cost, and whether the books bear them out."""

    parts: Sequence[Part]
    matches: bool


def _sum_of_correction(
    record: UsageRecord, root: UsageRecord, family: Sequence[Correction], parts: Sequence[Part]
) -> _Sum:
    """A correction's cost: what the corrected record comes to now (``parts``), less what it came to before."""
    (own,) = (one for one in family if one.id == record.id)
    others = [one for one in family if one.id != record.id]
    if own.kind == Correction.Kind.VOID:
        back = [part._replace(quantity=-part.quantity, cost_usd=-part.cost_usd) for part in parts]
        rest = record.cost_usd - _total(back)
        return _Sum(_with(back, CORRECTED_BEFORE, rest), rest == -sum(one.cost_usd for one in others))
    cause = _undone_cause(own)
    if cause is not None:
        undone = sum((one.cost_usd for one in others if one.cause == cause), money.ZERO)
        return _Sum(_with([], UNDONE, record.cost_usd), record.cost_usd == -undone)
    before = _total(parts) - record.cost_usd
    # Two acts at once may be applied in another order than that of their ids.
    known = accumulate((one.cost_usd for one in others), initial=root.cost_usd)
    return _Sum(_with(parts, CHARGED_BEFORE, -before), before in known)


def _with(parts: Sequence[Part], name: str, amount: Decimal) -> list[Part]:
    """The parts and one more, unless it is nothing."""
    return [*parts, Part(name, 1, amount, 1, amount)] if amount else list(parts)


def _total(parts: Sequence[Part]) -> Decimal:
    return sum((part.cost_usd for part in parts), money.ZERO)


def _corrected(record: UsageRecord) -> UsageRecord:
    """The record that a correction is about. Raises ``Archived``."""
    assert record.corrects_id is not None
    found = UsageRecord.objects.filter(organization_id=record.organization_id, id=record.corrects_id).first()
    if found is None:
        raise errors.Archived("The record that this one corrects is archived.", param="record_id")
    return found


def _undone_cause(correction: Correction) -> str | None:
    """What posted the difference that a correction takes back; None unless an act of re-rating was undone."""
    act = Rerating.objects.filter(pk=ids.read("rerate", correction.cause)).first()
    return None if act is None or act.undoes_id is None else ids.show("rerate", act.undoes_id)


def parts_of(card: rating.RateCard, terms: rating.Terms, counts: rating.Counts) -> list[Part]:
    """The products that the cost is the sum of; pools with nothing in them are left out."""
    pools = rating.pools(counts, reasoning_apart=terms.reasoning_apart)
    parts = [
        Part(name, tokens, rating.per_million(rate), 1_000_000, money.from_pico(tokens * rate))
        for name, tokens, rate in zip(pools._fields, pools, terms.rates, strict=True)
        if tokens and rate is not None
    ]
    parts += [
        Part(name, uses, money.from_pico(card.units[name]), 1, money.from_pico(uses * card.units[name]))
        for name, uses in counts.units.items()
        if uses
    ]
    if card.request:
        parts.append(Part("request", 1, money.from_pico(card.request), 1, money.from_pico(card.request)))
    return parts


def arithmetic(parts: Sequence[Part]) -> str:
    """The sum in one line: ``360 × 0.27/1M + 640 × 0.07/1M = 0.000142``; of a correction also with minus signs."""
    line = ""
    for part in parts:
        negative = (part.quantity < 0) != (part.rate_usd < 0)
        sign = ("-", " - ") if negative else ("", " + ")
        term = f"{abs(part.quantity)} × {money.plain(abs(part.rate_usd))}{'/1M' if part.per > 1 else ''}"
        line += sign[bool(line)] + term
    return f"{line or '0'} = {money.plain(_total(parts))}"
