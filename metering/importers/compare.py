"""Two price lists, or two cards of one model, side by side. Exact: rates are whole pico-dollars."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from core import money
from metering import rating
from metering.importers.cards import PLAIN
from metering.importers.drafted import Drafted, DraftPrice
from metering.names import Name
from metering.rating import RateCard, Rates, Terms

# Lists that charge what the vendor charges: their prices ought to be the same.
_DIRECT = frozenset({"", "openrouter"})
# Pools that a card prices as input where its list is silent.
_CACHE = frozenset({"cached_input", "cache_write", "cache_write_1h", "cached_image_input", "cached_audio_input"})
_EARLIEST = datetime.min.replace(tzinfo=UTC)


class Pair(NamedTuple):
    """One rate in two cards, in pico-dollars a token or a use; ``place`` says which, in words."""

    place: str
    old: int
    new: int
    by_token: bool

    def usd(self, pico: int) -> Decimal:
        """USD per 1M tokens, or USD a use."""
        usd = rating.per_million(pico) if self.by_token else money.from_pico(pico)
        return Decimal(money.plain(usd))


class Jump(NamedTuple):
    """How far a rate moved: USD per 1M tokens, or USD a use."""

    place: str
    old_usd: Decimal
    new_usd: Decimal

    @property
    def factor(self) -> Fraction | None:
        """The larger over the smaller, 1 if nothing moved, ``None`` from or to 0."""
        low, high = sorted((Fraction(self.old_usd), Fraction(self.new_usd)))
        if low == high:
            return Fraction(1)
        return Fraction(high, low) if low else None

    def reaches(self, times: int) -> bool:
        """Whether the rate rose or fell at least so many times over; to and from 0 it always did."""
        return self.factor is None or self.factor >= times


class Disagreement(NamedTuple):
    """Two lists that tell one rate of one model differently: USD per 1M tokens, or USD a use.

    ``percent`` is the difference over the smaller of the two, to two decimals; ``None`` if that is 0.
    """

    model: str
    other_model: str
    place: str
    usd: Decimal
    other_usd: Decimal
    percent: Decimal | None

    @property
    def jump(self) -> Jump:
        """The same as a rate that moves from here to there."""
        return Jump(self.place, self.usd, self.other_usd)


def jump(old: RateCard, new: RateCard) -> Jump | None:
    """The rate that moves by the largest factor from one card to the other; ``None`` if they share no rate.

    What only one of them prices has not moved. Both directions count: a tenth is a factor of ten.
    """
    largest = max(_pairs(old, new), key=_distance, default=None)
    if largest is None:
        return None
    return Jump(largest.place, largest.usd(largest.old), largest.usd(largest.new))


def compare(one: Drafted, other: Drafted, *, limit_percent: Decimal = Decimal(1)) -> list[Disagreement]:
    """Rates that two lists tell differently by more than a limit, by model and pool.

    Compared are drafts of the same model, snapshot, region and variant by the same route, or of the
    vendor and OpenRouter. Of several versions the last to start counts. A list that is silent about a
    cache says nothing different of it.
    """
    others: dict[tuple[str, str, str], list[DraftPrice]] = {}
    for draft in _last(other):
        others.setdefault(_model(draft.name), []).append(draft)
    found = []
    for draft in _last(one):
        for partner in others.get(_model(draft.name), ()):
            if _are_alike(draft.name, partner.name):
                told = between(
                    draft.card(),
                    partner.card(),
                    model=draft.model,
                    other_model=partner.model,
                    limit_percent=limit_percent,
                )
                silent = _CACHE - (_stated(draft) & _stated(partner))
                found += [each for each in told if each.place.partition(", ")[0] not in silent]
    return found


def between(
    one: RateCard, other: RateCard, *, model: str, other_model: str, limit_percent: Decimal = Decimal(1)
) -> list[Disagreement]:
    """Rates that two cards of one model tell differently by more than a limit, by pool."""
    return [
        _disagreement(model, other_model, pair)
        for pair in _pairs(one, other)
        if Fraction(abs(pair.new - pair.old) * 100) > Fraction(limit_percent) * min(pair.old, pair.new)
    ]


def _stated(draft: DraftPrice) -> set[str]:
    """The pools that a draft's document prices, under whatever conditions."""
    return {pool for entry in draft.rates["terms"] for pool in entry["rates"]}


def _last(drafted: Drafted) -> list[DraftPrice]:
    """The last version of each model."""
    last: dict[str, DraftPrice] = {}
    for draft in drafted.prices:
        known = last.get(draft.model)
        if known is None or (known.effective_from or _EARLIEST) < (draft.effective_from or _EARLIEST):
            last[draft.model] = draft
    return list(last.values())


def _model(name: Name) -> tuple[str, str, str]:
    return name.base, name.date, name.variant


def _are_alike(one: Name, other: Name) -> bool:
    """Whether two names of the same snapshot ought to have the same price."""
    return (
        one.region.replace("global", "") == other.region.replace("global", "")
        and (one.vendor == other.vendor or not one.vendor or not other.vendor)
        and (one.route == other.route or {one.route, other.route} == _DIRECT)
    )


def _disagreement(model: str, other_model: str, pair: Pair) -> Disagreement:
    low, high = sorted((pair.old, pair.new))
    percent = Decimal(round(Fraction((high - low) * 10_000, low))).scaleb(-2) if low else None
    return Disagreement(model, other_model, pair.place, pair.usd(pair.old), pair.usd(pair.new), percent)


def _distance(pair: Pair) -> tuple[bool, Fraction]:
    """How far a rate moved, to and from 0 the farthest."""
    low, high = sorted((pair.old, pair.new))
    if low == high:
        return False, Fraction(1)
    return not low, Fraction(high, low or 1)


def _pairs(old: RateCard, new: RateCard) -> Iterator[Pair]:
    """Every rate that both cards have, each entry against the one that the other card would choose."""
    seen = set()
    entries: list[tuple[Terms, Terms | None, Terms | None]] = []
    entries += [(terms, terms, _chosen(new, terms)) for terms in old.terms]
    entries += [(terms, _chosen(old, terms), terms) for terms in new.terms]
    for told, before, after in entries:
        if before is None or after is None or (id(before), id(after)) in seen:
            continue
        seen.add((id(before), id(after)))
        rates = {pool: (was, now) for pool, was, now in zip(Rates._fields, _rates(before), _rates(after), strict=True)}
        for pool, (was, now) in rates.items():
            # A rate that only repeats its plain one in both cards would say the same thing twice.
            if was is not None and now is not None and rates.get(PLAIN.get(pool, "")) != (was, now):
                yield Pair(_place(pool, told), was, now, by_token=True)
    for unit in sorted(old.units.keys() & new.units.keys()):
        yield Pair(unit, old.units[unit], new.units[unit], by_token=False)
    yield Pair("request", old.request, new.request, by_token=False)


def _chosen(card: RateCard, terms: Terms) -> Terms | None:
    """The entry that a card has for a request under another card's conditions, the most specific first.

    A threshold that is reached and one that is exceeded differ by one token and mean the same.
    """
    for entry in card.terms:
        if (
            entry.service_tier == terms.service_tier
            and entry.batch == terms.batch
            and entry.above_input_tokens <= terms.above_input_tokens + 1
            and entry.windows in ((), terms.windows)
        ):
            return entry
    return None


def _rates(terms: Terms) -> Rates:
    """The rates with thinking at its price, its own or that of output."""
    rates = terms.rates
    return rates if terms.reasoning_apart else rates._replace(reasoning=rates.output)


def _place(pool: str, terms: Terms) -> str:
    parts = [
        pool,
        terms.service_tier or "",
        "batch" if terms.batch else "",
        f"above {terms.above_input_tokens} input tokens" if terms.above_input_tokens else "",
        *(f"{window.start:%H:%M} to {window.end:%H:%M} {window.zone}" for window in terms.windows),
    ]
    return ", ".join(filter(None, parts))
