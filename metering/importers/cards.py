"""A rate card's document from the rates that a price list states under each condition.

A card inherits nothing: each of its entries is complete. Price lists do inherit: what they do not
state for a tier or a long context is left to a less specific rate. ``lay_out`` settles that, once.
"""

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from core import money
from metering import rating

Rates = Mapping[str, Decimal]

# What a pool costs where nobody prices it apart: a list that states the same rate for both only repeats it.
PLAIN = {
    "cached_input": "input", "cache_write": "input", "cache_write_1h": "cache_write",
    "image_input": "input", "audio_input": "input",
    "cached_image_input": "cached_input", "cached_audio_input": "cached_input",
    "reasoning": "output", "image_output": "output", "audio_output": "output",
}  # fmt: skip
# Every pool after the one it may repeat.
ORDER = ("input", "output", *PLAIN)


class Hours(NamedTuple):
    """A stretch of the day in UTC as a card writes it: ``01:00`` to ``04:00`` on weekdays from 0, Monday."""

    days: tuple[int, ...]
    start: str
    end: str


class Cell(NamedTuple):
    """The conditions of an entry; without any, the base."""

    service_tier: str = ""
    batch: bool = False
    above_input_tokens: int = 0
    hours: tuple[Hours, ...] = ()

    def when(self) -> dict[str, Any]:
        """The conditions as a card writes them."""
        told: dict[str, Any] = {}
        if self.service_tier:
            told["service_tier"] = self.service_tier
        if self.batch:
            told["batch"] = True
        if self.above_input_tokens:
            told["above_input_tokens"] = self.above_input_tokens
        if self.hours:
            told["windows"] = [
                {"zone": "UTC", "days": list(hours.days), "start": hours.start, "end": hours.end}
                for hours in self.hours
            ]
        return told

    def __str__(self) -> str:
        parts = [self.service_tier, "batch" if self.batch else ""]
        parts.append(f"above {self.above_input_tokens} input tokens" if self.above_input_tokens else "")
        parts += [f"{hours.start} to {hours.end} UTC" for hours in self.hours]
        return ", ".join(filter(None, parts)) or "base"


BASE = Cell()


class Laid(NamedTuple):
    """A card's document, the pools of each entry that have a less specific rate, and all that nobody stated.

    ``implied`` has the same order as the document's terms.
    """

    document: dict[str, Any]
    inherited: Mapping[Cell, tuple[str, ...]]
    implied: tuple[frozenset[str], ...]


def lay_out(
    stated: Mapping[Cell, Rates],
    *,
    units: Mapping[str, str],
    request: str = "0",
    added: Collection[str] = frozenset(),
) -> Laid:
    """The card for rates in USD per 1M tokens and fees in USD; ``stated`` has the base.

    ``added`` are pools of the base that its list does not state.

    What an entry does not state, it takes from the ordinary tier's entry of the same length, if that
    states it, then from its own entry of any length, then from the base. But a rate that only
    repeats its plain one there (thinking at the price of output) follows its plain one here.
    """
    rates: dict[Cell, dict[str, Decimal]] = {}
    inherited: dict[Cell, tuple[str, ...]] = {}
    for cell in sorted(stated):  # the base first, shorter before longer
        parent = rates.get(_any_length(cell)) or rates.get(BASE, {})
        ordinary = stated.get(Cell(above_input_tokens=cell.above_input_tokens), {})
        rates[cell] = entry = {}
        left = []
        for pool in ORDER:
            plain = PLAIN.get(pool)
            if pool in stated[cell]:
                entry[pool] = stated[cell][pool]
            elif pool in parent and plain in parent and parent[pool] == parent[plain]:
                entry[pool] = entry[plain]
            elif pool in parent or pool in ordinary:
                entry[pool] = ordinary[pool] if pool in ordinary else parent[pool]
                left.append(pool)
        if left:
            inherited[cell] = tuple(left)
    terms = [
        {
            "when": cell.when(),
            "rates": {pool: money.plain(entry[pool]) for pool in rating.Rates._fields if pool in entry},
        }
        for cell, entry in rates.items()
    ]
    implied = {cell: frozenset(entry) - frozenset(stated[cell]) for cell, entry in rates.items()}
    implied[BASE] = implied[BASE] | frozenset(added)
    return Laid({"terms": terms, "units": dict(units), "request": request}, inherited, tuple(implied.values()))


def add_images(rates: dict[str, Decimal]) -> frozenset[str]:
    """Price a vision model's images as text where nothing else is said; the pools that this added.

    The vendors that price images apart say so; the others count an image as so many tokens of text.
    """
    added = {}
    if "image_input" not in rates:
        added["image_input"] = rates["input"]
    if (rates | added)["image_input"] == rates["input"] and "cached_input" in rates:
        added["cached_image_input"] = rates["cached_input"]
    added = {pool: rate for pool, rate in added.items() if pool not in rates}
    rates.update(added)
    return frozenset(added)


def _any_length(cell: Cell) -> Cell:
    """The entry that would hold without the long context, or without any condition."""
    return cell._replace(above_input_tokens=0) if cell.above_input_tokens else BASE
