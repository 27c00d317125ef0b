"""What an upstream says was used, as events have it, and back as an answer of ours shows it.

Only absent is absent: a count that is there is believed, zero included (contract 16.2). What is no count at all
is as absent. Parts that cannot be parts of their wholes are left out: the wholes are billed.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from core import wire
from metering import rating
from metering.events import WHOLES, Event
from metering.rating import COUNT_MAX, Counts

_INPUT, _OUTPUT = "prompt_tokens_details", "completion_tokens_details"
# Where an upstream may say each count; the first that is there counts.
_WHERE: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "cached_input_tokens": (
        (_INPUT, "cached_tokens"), (_INPUT, "cached_read_tokens"), ("prompt_cache_hit_tokens",),
        ("input_tokens_details", "cached_tokens"),
    ),
    "cache_write_tokens": ((_INPUT, "cache_write_tokens"), ("cache_creation_input_tokens",)),
    "reasoning_tokens": ((_OUTPUT, "reasoning_tokens"), ("output_tokens_details", "reasoning_tokens")),
    "image_input_tokens": ((_INPUT, "image_tokens"),),
    "audio_input_tokens": ((_INPUT, "audio_tokens"),),
    "image_output_tokens": ((_OUTPUT, "image_tokens"),),
    "audio_output_tokens": ((_OUTPUT, "audio_tokens"),),
}  # fmt: skip


class Reported(NamedTuple):
    """Counts by the name of their field, and whether their parts made sense."""

    values: Mapping[str, int]
    sound: bool

    @property
    def absent(self) -> list[str]:
        """The wholes that were not told."""
        return [name for name in WHOLES if name not in self.values]


# A count of nothing is a count.
_LEAST = 0
# The same as outer and inner name, which a look-up needs.
_PLACES = tuple(
    (name, tuple((place[0], place[1] if len(place) > 1 else None) for place in places))
    for name, places in _WHERE.items()
)


def read(usage: Any) -> Reported:
    """What an upstream's ``usage`` says."""
    if type(usage) is not dict:
        return Reported({}, sound=True)
    told: dict[str, int] = {}
    for name, places in _PLACES:
        for outer, inner in places:
            value = usage.get(outer)
            if inner is not None:
                value = value.get(inner) if type(value) is dict else None
            if type(value) is int and _LEAST <= value <= COUNT_MAX:
                told[name] = value
                break
    try:
        if all(name in told for name in WHOLES):
            rating.split(msgspec.structs.replace(Counts(), **told), reasoning_apart=True)
    except rating.Inconsistent:
        return Reported({name: told[name] for name in WHOLES}, sound=False)
    if not all(name in told for name in WHOLES):
        # A part without its whole says nothing that could be billed.
        return Reported({name: told[name] for name in WHOLES if name in told}, sound=not told)
    return Reported(told, sound=True)


def show(event: Event, cost_usd: Decimal) -> dict[str, Any]:
    """``usage`` of a chat answer (contract 4.2)."""
    cached = event.cached_input_tokens
    return {
        "prompt_tokens": event.input_tokens,
        "completion_tokens": event.output_tokens,
        "total_tokens": event.input_tokens + event.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": cached,
            "cached_read_tokens": cached,
            "image_tokens": event.image_input_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": event.reasoning_tokens,
            "image_tokens": event.image_output_tokens,
        },
        "prompt_cache_hit_tokens": cached,
        "prompt_cache_miss_tokens": event.input_tokens - cached,
        "cost": {"total_cost": wire.number(cost_usd)},
    }


def put(event: Event, values: Mapping[str, int]) -> Event:
    """The event with these counts."""
    return msgspec.structs.replace(event, **values)
