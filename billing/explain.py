"""How a cost came about: pools, rates, price version, rule, tier, transfer, corrections.

Everything is derived again from what the record froze, and checked against what was charged.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from billing.models import Correction, Transfer
from core import money
from metering import catalog, rating, rules, usage
from metering.models import UsageRecord


class Part(NamedTuple):
    """One product of the sum: so many of something at so much each."""

    pool: str
    quantity: int
    rate_usd: Decimal
    per: int
    cost_usd: Decimal


class Explanation(NamedTuple):
    """A record's cost, taken apart. ``matches`` says whether the parts add up to what was charged."""

    record: UsageRecord
    parts: Sequence[Part]
    terms: rating.Terms | None
    price: Any
    rule: Any
    transfer: Transfer | None
    corrections: Sequence[Correction]
    net_usd: Decimal
    matches: bool


def explain(record: UsageRecord) -> Explanation:
    """Take a record's cost apart. A handful of queries, whatever the size of the books."""
    price = catalog.price(record.price_id)
    rule = None if record.rule_id is None else rules.row(record.rule_id)
    parts: list[Part] = []
    terms = None
    if record.corrects_id is None:
        card = rules.customer_card(price.id, rating.read_card(price.rates), rules.as_rule(rule))
        counts = usage.counts_of(record)
        terms = rating.choose(card, counts, record.occurred_at)
        parts = parts_of(card, terms, counts)
    corrections = list(
        Correction.objects.filter(organization_id=record.organization_id, record_id=record.id).order_by("id")
    )
    transfer = None
    if record.transfer_id is not None:
        transfer = Transfer.objects.get(organization_id=record.payer_id, id=record.transfer_id)
    summed = sum((part.cost_usd for part in parts), money.ZERO)
    return Explanation(
        record=record,
        parts=parts,
        terms=terms,
        price=price,
        rule=rule,
        transfer=transfer,
        corrections=corrections,
        net_usd=record.cost_usd + sum((one.cost_usd for one in corrections), money.ZERO),
        matches=record.corrects_id is not None or summed == record.cost_usd,
    )


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
    """The sum in one line: ``360 × 0.27/1M + 640 × 0.07/1M = 0.000142``."""
    terms = [f"{part.quantity} × {money.plain(part.rate_usd)}{'/1M' if part.per > 1 else ''}" for part in parts] or [
        "0"
    ]
    total = sum((part.cost_usd for part in parts), money.ZERO)
    return f"{' + '.join(terms)} = {money.plain(total)}"
