"""Charging one organization's wallet against charging a hundred: the price of a mutex that everybody wants."""

import json
import statistics
import time
from collections.abc import Sequence
from functools import partial

from tests.benchmarks.stage import Figure, Stage, event, post, together

PROCESSES = 2
CONNECTIONS = 16
TURNS = 9
# Name, events a request, requests of a connection in each turn.
SETTINGS = (("hot_wallet", 1, 40), ("hot_wallet_10", 10, 24))


def _bodies(slugs: Sequence[str], *, size: int, count: int, start: int) -> list[bytes]:
    """Requests of ``size`` events, each event of the next organization; a single one stands bare."""
    now = int(time.time())
    made = []
    for place in range(count):
        first = start + place * size
        events = [event(slugs[number % len(slugs)], now=now) for number in range(first, first + size)]
        made.append(json.dumps({"events": events} if size > 1 else events[0]).encode())
    return made


def _taken(told: dict[str, object], *, size: int) -> bool:
    """Whether every event of a request was charged."""
    return told["created"] == size if size > 1 else told["status"] == "created"


def _turn(stage: Stage, port: int, slugs: Sequence[str], *, size: int, count: int) -> float:
    """Events a second that all connections got charged."""
    loads = [
        _bodies(slugs, size=size, count=count, start=number * len(slugs) // CONNECTIONS)
        for number in range(CONNECTIONS)
    ]
    check = partial(_taken, size=size)
    took = together([partial(post, port, stage.service_key, load, check=check) for load in loads])
    return CONNECTIONS * count * size / took


def figures(stage: Stage) -> list[Figure]:
    """Events a second with all of them one organization's; limit: the same load spread over all of them.

    Turns of both alternate on one server, and the one that begins changes; medians.
    """
    found = []
    for name, size, count in SETTINGS:
        hot: list[float] = []
        spread: list[float] = []
        with stage.server(workers=PROCESSES) as web:
            pairs = [(stage.slugs[-1:], hot), (stage.slugs, spread)]
            for slugs, _ in pairs:
                _turn(stage, web.port, slugs, size=size, count=count)
            for number in range(TURNS):
                for slugs, rates in pairs if number % 2 else reversed(pairs):
                    rates.append(_turn(stage, web.port, slugs, size=size, count=count))
        value, limit = statistics.median(hot), statistics.median(spread)
        ratios = sorted(one / other for one, other in zip(hot, spread, strict=True))
        detail = (
            f"{size} events a request, {CONNECTIONS} connections, {PROCESSES} processes; limit: over"
            f" {len(stage.slugs)} organizations; ratios of {TURNS} pairs of turns {ratios[0]:.2f} to {ratios[-1]:.2f}"
        )
        found.append(Figure(name, value, "events/s", limit, detail))
    return found
