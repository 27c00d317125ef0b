"""Side by side, against the real server with two workers: one record, one debit, one story per event id."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from functools import partial
from time import monotonic, sleep
from typing import Any

from core import ids
from orgs import keys
from tests.books import Books
from tests.journeys import traffic
from tests.journeys.traffic import MEDIA_TYPES, PICO, Caller, Cast, Delivery, Reply
from tests.orgs import world
from tests.proofs import proves
from tests.server import WebServer

THREADS = 16
ROUNDS = 10
SLUG = "traffic-000"
SHAPES = list(MEDIA_TYPES)
SECONDS = 60


def post(server: WebServer, cast: Cast, delivery: Delivery) -> Reply:
    """Post once, over a connection of its own."""
    with closing(Caller(port=server.port, key=cast.service_key)) as caller:
        return caller.post(delivery.body(), media_type=MEDIA_TYPES[delivery.shape])


def verdicts(reply: Reply) -> list[dict[str, Any]]:
    """What was said of each event, whether it came alone or in a batch."""
    found: list[dict[str, Any]] = reply.body.get("data", [reply.body])
    return found


def recorded(books: Books, organization: str = SLUG) -> dict[str, tuple[str, Decimal]]:
    """Record id and cost by event id. Raises ``AssertionError`` if an event has two records."""
    with books.connect() as own:
        rows = own.execute(
            "SELECT r.event_id, r.id, r.cost_usd FROM usage_record r JOIN organization o ON o.id = r.organization_id"
            " WHERE o.slug = %s",
            [organization],
        ).fetchall()
    found = {row[0]: (ids.show("usage", row[1]), row[2]) for row in rows}
    assert len(found) == len(rows)
    return found


def spent(books: Books, organization: str = SLUG) -> Decimal:
    """What the wallet says has been charged, which its charges must say too."""
    with books.connect() as own:
        row = own.execute(
            "SELECT w.spent_usd, (SELECT sum(amount_usd) FROM transfer t WHERE t.organization_id = o.id"
            " AND kind = 'charge') FROM organization o JOIN wallet w ON w.organization_id = o.id WHERE o.slug = %s",
            [organization],
        ).fetchone()
    assert row is not None
    assert row[0] == row[1]
    return Decimal(row[0])


def test_one_event_posted_sixteen_times_at_once_is_one_record_and_one_debit(books: Books, server: WebServer) -> None:
    cast = traffic.cast(organizations=1)
    chosen = random.Random("at once")
    for number in range(ROUNDS):
        event = traffic.event(chosen, slug=SLUG)
        # Alone and in batches, in every shape.
        deliveries = [Delivery((event,), SHAPES[place % len(SHAPES)]) for place in range(THREADS)]
        before = spent(books) if number else Decimal(0)
        replies = books.together([partial(post, server, cast, delivery) for delivery in deliveries], seconds=SECONDS)
        told = [verdict for reply in replies for verdict in verdicts(reply)]
        assert Counter(each["status"] for each in told) == {"created": 1, "duplicate": THREADS - 1}
        assert {reply.status for reply in replies} <= {200, 201}
        cost = event.cost_pico * PICO
        assert {(each["usage_record_id"], each["cost_usd"]) for each in told} == {recorded(books)[event.id]}
        assert recorded(books)[event.id][1] == cost
        assert spent(books) - before == cost
    assert len(recorded(books)) == ROUNDS
    traffic.verify()


def test_one_id_with_sixteen_contents_at_once_is_one_record_and_conflicts(books: Books, server: WebServer) -> None:
    cast = traffic.cast(organizations=1)
    chosen = random.Random("contents")
    total = Decimal(0)
    for number in range(ROUNDS):
        events = [
            traffic.event(chosen, slug=SLUG, event_id=f"contested-{number}", input_tokens=20_000 + place)
            for place in range(THREADS)
        ]
        deliveries = [Delivery((event,), SHAPES[place % len(SHAPES)]) for place, event in enumerate(events)]
        replies = books.together([partial(post, server, cast, delivery) for delivery in deliveries], seconds=SECONDS)
        told = [verdicts(reply)[0] for reply in replies]
        assert Counter(each["status"] for each in told) == {"created": 1, "conflict": THREADS - 1}
        alone = {
            reply.status for reply, delivery in zip(replies, deliveries, strict=True) if delivery.shape == "single"
        }
        assert alone <= {201, 409}
        winner = next(place for place, each in enumerate(told) if each["status"] == "created")
        cost = events[winner].cost_pico * PICO
        assert recorded(books)[f"contested-{number}"] == (told[winner]["usage_record_id"], cost)
        total += cost
        assert spent(books) == total
    assert len(recorded(books)) == ROUNDS
    traffic.verify()


def test_overlapping_batches_in_any_order_over_many_organizations_charge_each_event_once(
    books: Books, server: WebServer
) -> None:
    organizations, threads, batches = 40, 8, 12
    cast = traffic.cast(organizations=organizations)
    chosen = random.Random("overlapping")
    events = [traffic.event(chosen, slug=slug) for slug in cast.granted for _ in range(15)]

    def route() -> list[Delivery]:
        """Every thread posts every event, in batches and an order of its own, some twice in one batch."""
        order = chosen.sample(events, len(events))
        size = len(events) // batches
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return [Delivery((*part, part[0]), chosen.choice(SHAPES[1:])) for part in parts]

    def run(deliveries: Sequence[Delivery]) -> list[Reply]:
        return [post(server, cast, delivery) for delivery in deliveries]

    routes = [route() for _ in range(threads)]
    runs = books.together([partial(run, deliveries) for deliveries in routes], seconds=SECONDS)
    told = [verdict for run in runs for reply in run for verdict in verdicts(reply)]
    assert {reply.status for run in runs for reply in run} == {200}
    # No lock timeout or deadlock made it to a caller.
    assert Counter(each["status"] for each in told) == {
        "created": len(events),
        "duplicate": threads * (len(events) + batches) - len(events),
    }
    # And none was broken up on the way: ids and wallets are taken in one order by all.
    assert "40P01" not in server.log
    by_event: dict[str, set[tuple[str, Decimal]]] = {}
    for each in told:
        by_event.setdefault(each["event_id"], set()).add((each["usage_record_id"], each["cost_usd"]))
    kept = {slug: recorded(books, slug) for slug in cast.granted}
    assert by_event == {event_id: {row} for rows in kept.values() for event_id, row in rows.items()}
    for slug, rows in kept.items():
        mine = {event.id: event.cost_pico * PICO for event in events if event.organization == slug}
        assert {event_id: cost for event_id, (_, cost) in rows.items()} == mine
        assert spent(books, slug) == sum(mine.values())
    traffic.verify()


class Calls:
    """Threads that call with a key all the time: when each call began and ended, and its status."""

    def __init__(self, server: WebServer, key: str) -> None:
        self.made: list[tuple[float, float, int]] = []
        self._stop = threading.Event()
        self._work = partial(self._call, server, key)

    @contextmanager
    def going_on(self, *, threads: int) -> Iterator[None]:
        """They call in the block."""
        running = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in running:
                thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in running)

    def _call(self, server: WebServer, key: str) -> None:
        while not self._stop.is_set():
            # A connection each: the system hands them to both workers.
            with closing(Caller(port=server.port, key=key)) as caller:
                began = monotonic()
                status = caller.get("/v1/models").status
            self.made.append((began, monotonic(), status))


def wait_until(true: Callable[[], bool]) -> None:
    end = monotonic() + SECONDS
    while not true():
        assert monotonic() < end
        sleep(0.01)


@proves("A08", guard="revocation_reaches_every_process")
def test_a_key_revoked_in_one_process_stops_within_a_second_in_the_others(books: Books, server: WebServer) -> None:
    issued = world.organization_key(world.organization())
    calls = Calls(server, issued.secret)
    with calls.going_on(threads=4):
        # Both workers know the key well by then.
        wait_until(lambda: len(calls.made) >= 40)
        before = monotonic()
        keys.revoke(key_id=issued.key.pk, by=world.BY)
        revoked = monotonic()
        wait_until(lambda: sum(began > revoked + 1 for began, _, _ in calls.made) >= 40)
    assert {status for _, ended, status in calls.made if ended < before} == {200}
    late = [round(began - revoked, 3) for began, _, status in calls.made if status == 200 and began > revoked + 1]
    assert late == [], f"the key still worked, seconds after it was revoked: {late}"
    assert {status for _, _, status in calls.made} == {200, 401}
