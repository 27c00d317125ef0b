"""A price list's card over the card in force: what the list tells is taken, what it is silent about stays.

Lists of other houses know less than a card says: no batches, no faster tiers, no searches. Silence
is no price. A line made of such a list alone would take those rates away, and what uses them would
wait in quarantine.
"""

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from metering import rating
from metering.importers.cards import ORDER, PLAIN

# The conditions of a card's entry, and its rates.
_Entry = tuple[Mapping[str, Any], Mapping[str, str]]


class Overlaid(NamedTuple):
    """A card's document, and what of it stands as it stood before, in words."""

    document: dict[str, Any]
    kept: tuple[str, ...]


def lay_over(before: Mapping[str, Any], told: Mapping[str, Any], *, implied: Sequence[Collection[str]]) -> Overlaid:
    """A published card with what a price list tells instead; what the list is silent about stays.

    ``implied`` are the pools of each of ``told``'s terms that the list does not state: they give way to
    the rate of the published entry or, where that is none, of the entry that would hold without this one.
    A rate that only repeats its plain one goes on doing so. A threshold that differs by one token means
    the same.
    """
    old = [_entry(entry) for entry in before["terms"]]
    left = list(old)
    terms: list[dict[str, Any]] = []
    kept: list[str] = []
    for (when, stated), filled in zip(map(_entry, told["terms"]), implied, strict=True):
        same = next((entry for entry in old if _mean_the_same(entry[0], when)), None)
        if same in left:
            left.remove(same)
        held, published = same or (when, _held([*map(_entry, terms), *left], when))
        if same is None and published and stated.keys() <= set(filled):
            continue  # nothing is told of these requests
        rates = {pool: rate for pool, rate in stated.items() if pool not in filled or pool not in published}
        silent = []
        for pool in ORDER:
            if pool in rates or pool not in published:
                continue
            if _repeats(published, pool) and PLAIN[pool] in rates:
                rates[pool] = rates[PLAIN[pool]]
            else:
                rates[pool] = published[pool]
                silent.append(pool)
        if published and "reasoning" not in published and _repeats(rates, "reasoning"):
            del rates["reasoning"]  # without a rate of its own it costs the same
        if silent and same is not None:
            kept.append(f"{_words(held)}: {', '.join(silent)}")
        terms.append({"when": dict(held), "rates": rates})
    for when, rates_before in left:
        terms.append({"when": dict(when), "rates": dict(rates_before)})
        kept.append(f"{_words(when)}: all rates")
    units = {**before.get("units", {}), **told.get("units", {})}
    kept += [unit for unit in units if unit not in told.get("units", {})]
    request = told.get("request", "0")
    if not Decimal(request) and Decimal(before.get("request", "0")):
        request = before["request"]
        kept.append("request")
    return Overlaid({"terms": terms, "units": units, "request": request}, tuple(kept))


def _entry(entry: Mapping[str, Any]) -> _Entry:
    return entry.get("when", {}), entry["rates"]


def _condition(when: Mapping[str, Any]) -> tuple[str | None, bool, int, list[Any]]:
    tier = rating.ordinary(when.get("service_tier"))
    return tier, when.get("batch", False), when.get("above_input_tokens", 0), when.get("windows", [])


def _mean_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries hold for the same requests, but for one token more or less."""
    (tier, batch, length, windows), (other_tier, other_batch, other_length, other_windows) = map(
        _condition, (one, other)
    )
    return (
        (tier, batch, windows, not length) == (other_tier, other_batch, other_windows, not other_length)
        and abs(length - other_length) <= 1
    )  # fmt: skip


def _held(entries: Sequence[_Entry], when: Mapping[str, Any]) -> Mapping[str, str]:
    """The rates that requests have which meet ``when``, an entry that the card does not have."""
    tier, batch, length, windows = _condition(when)
    found: Mapping[str, str] = {}
    best = (-1, False)
    for conditions, rates in entries:
        own_tier, own_batch, own_length, own_windows = _condition(conditions)
        rank = (own_length, bool(own_windows))
        fits = own_length <= length + 1 and own_windows in ([], windows)
        if (own_tier, own_batch) == (tier, batch) and fits and rank > best:
            found, best = rates, rank
    return found


def _repeats(rates: Mapping[str, str], pool: str) -> bool:
    """Whether a pool has a rate, and the same as its plain one."""
    plain = PLAIN.get(pool, "")
    return pool in rates and plain in rates and Decimal(rates[pool]) == Decimal(rates[plain])


def _words(when: Mapping[str, Any]) -> str:
    tier, batch, length, windows = _condition(when)
    parts = [tier or "", "batch" if batch else "", f"above {length} input tokens" if length else ""]
    parts += [f"{window['start']} to {window['end']} {window['zone']}" for window in windows]
    return ", ".join(filter(None, parts)) or "base"
