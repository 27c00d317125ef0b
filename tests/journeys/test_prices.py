"""Prices change while events arrive: against the real server, whose two workers keep the catalog in their caches."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from time import sleep
from typing import Any, NamedTuple

import pytest
from django.test import override_settings

from core import clock
from metering import catalog
from metering.models import CatalogModel, Price
from tests.billing import history
from tests.books import Books
from tests.journeys import traffic
from tests.journeys.traffic import MODEL, Caller, Cast, Event, chance
from tests.proofs import proves
from tests.server import WebServer

POSTERS = 4
BATCH = 20
VERSIONS = 5
TRIES = 50
# Of a cache life. Workers ask for changes more rarely than that, so they learn of one by forgetting only.
LIFE_SECONDS = 1
# Events may carry a time up to 300 seconds ahead, and so reach boundaries that the clock has not reached.
AHEAD = timedelta(seconds=299.9)
TICK = timedelta(microseconds=1)
SECONDS = 60


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Caches live for a second, in the server to come and for whoever publishes here."""
    monkeypatch.setenv("CACHE_SECONDS", str(LIFE_SECONDS))
    monkeypatch.setenv("CACHE_POLL_MS", "10000")
    with override_settings(CACHE_SECONDS=LIFE_SECONDS):
        yield


class Boundaries:
    """When the versions that were published begin, and whether more are to come."""

    def __init__(self) -> None:
        self.starts: list[datetime] = []
        self.published = threading.Event()

    def within_reach(self) -> list[datetime]:
        """Those that an event may carry a time beyond by now."""
        latest = clock.now() + AHEAD
        return [start for start in self.starts if start < latest]

    def all_within_reach(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.published.is_set() and len(self.within_reach()) == len(self.starts)


def at(chosen: random.Random, *, slug: str, when: datetime) -> Event:
    """An event of that instant."""
    return traffic.event(chosen, slug=slug, occurred_at=when.isoformat(timespec="microseconds"))


def post(server: WebServer, cast: Cast, *events: Event) -> None:
    """Post a batch, over a connection of its own: either worker may get it. Each event must be new and priced."""
    with closing(Caller(port=server.port, key=cast.service_key)) as caller:
        told = caller.post(f"[{','.join(event.text for event in events)}]".encode())
    assert [one["status"] for one in told.body["data"]] == ["created"] * len(events)


def go_on_posting(server: WebServer, cast: Cast, boundaries: Boundaries, chosen: random.Random) -> int:
    """Post batches whose times lie on both sides of the boundaries, until all can be reached; how many events."""
    slugs = list(cast.granted)
    posted = 0
    while not boundaries.all_within_reach():
        near = [clock.now(), clock.now() + AHEAD, *boundaries.within_reach()]
        times = [min(chosen.choice(near) + timedelta(seconds=chosen.uniform(-0.2, 0.2)), near[1]) for _ in range(BATCH)]
        post(server, cast, *(at(chosen, slug=chosen.choice(slugs), when=when) for when in times))
        posted += BATCH
    return posted


def go_on_publishing(server: WebServer, cast: Cast, boundaries: Boundaries, chosen: random.Random) -> int:
    """Publish versions at random moments, each after an event that lies as far ahead as events may; how many."""
    try:
        for number in range(VERSIONS):
            sleep(chosen.uniform(0, 0.2))
            post(server, cast, at(chosen, slug="traffic-000", when=clock.now() + AHEAD))
            rates = {"input": f"{number + 2}.27", "cached_input": f"{number + 1}.07", "output": f"{number + 3}.1"}
            boundaries.starts.append(publish(rates, chosen))
    finally:
        boundaries.published.set()
    return VERSIONS


def publish(rates: dict[str, str], chosen: random.Random) -> datetime:
    """Publish a version from as early as it may, which on a busy machine can be too late by then: then once more."""
    model = CatalogModel.objects.get(slug=MODEL)
    for _ in range(TRIES):
        start = catalog.earliest_start() + timedelta(seconds=chosen.uniform(0.02, 0.3))
        card = {"terms": [{"when": {}, "rates": rates}]}
        with suppress(catalog.BadCatalog):
            history.append(Price(model=model, effective_from=start, rates=card, source="tests"))
            return start
    raise AssertionError(f"no version could be published in {TRIES} tries")


class Version(NamedTuple):
    """A price of the model as its row says."""

    id: Any
    start: datetime
    rates: dict[str, str]

    def cost(self, input_tokens: int, cached: int, output: int) -> Fraction:
        """Dollars, by arithmetic of our own."""
        pools = {"input": input_tokens - cached, "cached_input": cached, "output": output}
        return sum((Fraction(self.rates[name]) * count / 1_000_000 for name, count in pools.items()), Fraction(0))


def versions(books: Books) -> list[Version]:
    """All of the model's, by start."""
    with books.connect() as own:
        rows = own.execute(
            "SELECT p.id, p.effective_from, p.rates::text FROM price p JOIN model m ON m.id = p.model_id"
            " WHERE m.slug = %s ORDER BY p.effective_from",
            [MODEL],
        ).fetchall()
    return [Version(row[0], row[1], json.loads(row[2])["terms"][0]["rates"]) for row in rows]


@proves("I12", guard="changes_start_beyond_what_was_charged")
@proves("I12", guard="prices_go_by_when_it_happened")
def test_prices_that_change_under_load_rate_each_event_by_the_version_in_force_when_it_happened(
    short_lives: None, books: Books, server: WebServer
) -> None:
    cast, boundaries, chosen = traffic.cast(organizations=3), Boundaries(), chance()
    chances = [random.Random(chosen.random()) for _ in range(POSTERS + 1)]
    posted = books.together(
        [
            partial(go_on_publishing, server, cast, boundaries, chances.pop()),
            *(partial(go_on_posting, server, cast, boundaries, each) for each in chances),
        ],
        seconds=SECONDS,
    )
    edges = [start + shift for start in boundaries.starts for shift in (-TICK, timedelta(0), TICK)]
    post(server, cast, *(at(chosen, slug="traffic-001", when=when) for when in edges))

    known = versions(books)
    assert [version.start for version in known[1:]] == sorted(boundaries.starts)
    with books.connect() as own:
        records = own.execute(
            "SELECT id, occurred_at, price_id, cost_usd, input_tokens, cached_input_tokens, output_tokens"
            " FROM usage_record"
        ).fetchall()
    assert len(records) == sum(posted) + len(edges)
    by_id = {version.id: version for version in known}
    in_force = {row[0]: [version for version in known if version.start <= row[1]][-1] for row in records}
    rated_by_another = [row for row in records if row[2] != in_force[row[0]].id]
    assert rated_by_another == []
    derived = {row[0]: by_id[row[2]].cost(*row[4:]) for row in records}
    assert [row for row in records if Fraction(Decimal(row[3])) != derived[row[0]]] == []
    # None of it is empty talk: every version rated some of them, the first included.
    assert {row[2] for row in records} == by_id.keys()
    traffic.verify()
