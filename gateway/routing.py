"""Who is asked for an answer, and in which order. Pure: what is known comes in, an order comes out (contract 14)."""

import random
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from gateway.channels import Board, By, ChannelFacts, Kind

# Beside the first that is asked (contract 14).
FALLBACKS_MAX = 3


class Candidate(NamedTuple):
    """A channel that can answer, what it calls the model, and the model of the catalog that it is."""

    channel: ChannelFacts
    upstream_id: str
    slug: str


class Seen(NamedTuple):
    """What is known of the choices: a model's price (None: unknown), a channel's time to begin in seconds."""

    price: Callable[[str], Decimal | None]
    latency: Callable[[Candidate], float]


def candidates(board: Board, *, slug: str, group: str) -> list[Candidate]:
    """Every channel that serves a model to a price group, in no order.

    The built-in echo never stands in for a provider: it is left out where anybody else serves the model.
    """
    route = board.routes.get(slug)
    names = (slug,) if route is None else (slug, *route.candidates)
    found = [
        Candidate(channel, upstream_id, name)
        for channel in board.channels
        if channel.serves(group)
        for name in names
        # Whoever serves every id knows no smart product of ours.
        if (upstream_id := channel.upstream_id(name)) is not None
        and not (route is not None and name == slug and channel.kind != Kind.ECHO and slug not in channel.models)
    ]
    real = [one for one in found if one.channel.kind != Kind.ECHO]
    echoes = [one for one in found if one.channel.kind == Kind.ECHO and one.slug == slug]
    return real or echoes


def order(
    found: Sequence[Candidate],
    *,
    by: str,
    seed: str,
    is_healthy: Callable[[Candidate], bool],
    seen: Seen,
) -> list[Candidate]:
    """Whom to ask, one after the other: the healthy of the highest priority first, at most ``FALLBACKS_MAX`` more.

    Within a priority by weight, chosen by ``seed``; what has no weight comes last, by id. A smart route looks at
    the price or the latency first. The same seed and the same knowledge give the same order.
    """
    healthy = [one for one in found if is_healthy(one)]
    if len(healthy) < 2:
        return healthy
    shuffled = _by_weight(healthy, seed)
    if by == By.PRICE:
        unknown = max((price for one in healthy if (price := seen.price(one.slug)) is not None), default=Decimal(0)) + 1
        prices = {one.slug: seen.price(one.slug) for one in healthy}
        shuffled.sort(key=lambda one: unknown if prices[one.slug] is None else prices[one.slug])  # type: ignore[arg-type,return-value]
    elif by == By.LATENCY:
        shuffled.sort(key=seen.latency)
    else:
        shuffled.sort(key=lambda one: -one.channel.priority)
    return shuffled[: FALLBACKS_MAX + 1]


def _by_weight(found: Iterable[Candidate], seed: str) -> list[Candidate]:
    """In an order in which each stands first as often as its weight says."""
    left = sorted(found, key=lambda one: (one.channel.id.int, one.slug))
    chance = random.Random(seed)
    chosen: list[Candidate] = []
    while left:
        weights = [one.channel.weight for one in left]
        if not any(weights):
            return chosen + left
        place = chance.choices(range(len(left)), weights)[0]
        chosen.append(left.pop(place))
    return chosen


def strategy(board: Board, slug: str) -> str:
    """How a model's candidates are chosen among."""
    route = board.routes.get(slug)
    return By.WEIGHT if route is None else route.by
