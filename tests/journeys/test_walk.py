"""Walking ``GET /v1/usage`` while records arrive: nothing twice, nothing missed."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connections
from django.test import Client

from billing import ledger
from core import clock
from metering import usage
from tests.books import Books
from tests.journeys import traffic
from tests.journeys.traffic import Caller, Delivery, Event, Reply
from tests.orgs import world
from tests.proofs import proves
from tests.server import WebServer

SLUG = "traffic-000"
WRITERS = 4
ARRIVAL_SECONDS = 20
# A transaction may stay idle for ten.
PAUSE_SECONDS = 8

Post = Callable[[bytes], Reply]
Get = Callable[[str], Reply]


def post_all(post: Post, events: Sequence[Event]) -> list[str]:
    """Post events in batches; the ids of their records in that order."""
    found = []
    for start in range(0, len(events), 250):
        reply = post(Delivery(tuple(events[start : start + 250]), "events").body())
        assert reply.status == 200
        assert reply.body["created"] == len(reply.body["data"]), reply.body
        found += [told["usage_record_id"] for told in reply.body["data"]]
    return found


def made(name: str, count: int) -> list[Event]:
    """Events of that name: the same each time, and no other's."""
    chosen = random.Random(name)
    return [traffic.event(chosen, slug=SLUG) for _ in range(count)]


class Writers:
    """Threads that post until they are told to stop; the ids of what they had recorded."""

    def __init__(self, poster: Callable[[], AbstractContextManager[Post]]) -> None:
        self.ids: list[str] = []
        self._poster = poster
        self._stop = threading.Event()
        self._arrived = threading.Condition()
        self._errors: list[Exception] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """They write in the block. Raises what went wrong with them."""
        threads = [threading.Thread(target=self._write, args=(place,), daemon=True) for place in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(ARRIVAL_SECONDS)
        assert not any(thread.is_alive() for thread in threads)
        if self._errors:
            raise ExceptionGroup("writers failed", self._errors)

    def wait_for_more(self) -> None:
        """Wait until another record has been acknowledged."""
        with self._arrived:
            known = len(self.ids)
            assert self._arrived.wait_for(lambda: len(self.ids) > known or self._errors, ARRIVAL_SECONDS)

    def _write(self, place: int) -> None:
        try:
            with self._poster() as post:
                for number in itertools.count(1):
                    if self._stop.is_set():
                        return
                    # Batches of one to three, from all threads into one organization.
                    found = post_all(post, made(f"writer {place}, batch {number}", 1 + number % 3))
                    with self._arrived:
                        self.ids += found
                        self._arrived.notify_all()
        except Exception as error:  # noqa: BLE001 - raised again when the block ends
            self._errors.append(error)


def walk(get: Get, *, limit: int, after: str | None = None, between: Callable[[], None], **query: str) -> list[str]:
    """The ids of all pages; ``between`` runs after each."""
    found: list[str] = []
    while True:
        chosen = {"limit": str(limit), **query, **({"after": after} if after else {})}
        reply = get(f"/v1/usage?{urlencode(chosen)}")
        assert reply.status == 200
        page = [row["id"] for row in reply.body["data"]]
        assert len(page) == limit or not reply.body["has_more"]
        assert (reply.body["first_id"], reply.body["last_id"]) == ((page[0], page[-1]) if page else (None, None))
        found += page
        between()
        if not reply.body["has_more"]:
            return found
        after = found[-1]


@proves("A04", guard="pages_are_keyed_on_ids")
@pytest.mark.parametrize(("limit", "at_start"), [(100, 1_000), (7, 350)])
def test_a_walk_from_the_newest_shows_nothing_twice_and_misses_nothing_that_was_there(
    books: Books, server: WebServer, limit: int, at_start: int
) -> None:
    cast = traffic.cast(organizations=1)

    @contextmanager
    def poster() -> Iterator[Post]:
        with closing(Caller(port=server.port, key=cast.service_key)) as caller:
            yield caller.post

    with poster() as post:
        there = post_all(post, made("there", at_start))
    writers = Writers(poster)
    with closing(Caller(port=server.port, key=cast.reader_key)) as reader:
        with writers.at_work():
            writers.wait_for_more()
            # At least one record arrives between any two pages.
            found = walk(reader.get, limit=limit, between=writers.wait_for_more)
        # Afterwards, in peace, a walk shows all there is.
        everything = walk(reader.get, limit=100, between=lambda: None)
    assert len(found) == len(set(found))
    assert set(there) <= set(found)
    assert found == sorted(found, reverse=True)
    assert len(writers.ids) > at_start // limit
    assert set(writers.ids) - set(found)
    assert everything == sorted({*there, *writers.ids}, reverse=True)


def inside(key: str) -> tuple[Post, Get]:
    """Requests to the application in this process, where a test can move its clock."""
    client = Client(headers={"Authorization": f"Bearer {key}"})

    def post(body: bytes) -> Reply:
        return read(client.post("/v1/events", body, content_type="application/json"))

    def get(path: str) -> Reply:
        return read(client.get(path))

    def read(answer: Any) -> Reply:
        return Reply(answer.status_code, dict(answer.headers), answer.json())

    return post, get


@contextmanager
def posting_inside(key: str) -> Iterator[Post]:
    """Posting from a thread of its own, whose connection to the database is closed afterwards."""
    try:
        yield inside(key)[0]
    finally:
        connections.close_all()


def read_at(monkeypatch: pytest.MonkeyPatch, at: datetime) -> None:
    """Have who reads in order think that it is then; ids go on carrying the database's clock."""
    monkeypatch.setattr(usage, "final_until", lambda: at - usage.FINAL_AFTER)


@pytest.mark.parametrize("limit", [100, 7])
def test_a_walk_from_the_oldest_ends_at_complete_until_and_goes_on_from_there_without_a_gap(
    books: Books, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    cast = traffic.cast(organizations=1)
    post, _ = inside(cast.service_key)
    _, get = inside(cast.reader_key)
    there = post_all(post, made("there", 150))
    # Ids are stamped to the millisecond.
    time.sleep(0.002)
    complete = clock.now()
    time.sleep(0.002)
    read_at(monkeypatch, complete + usage.FINAL_AFTER)
    writers = Writers(partial(posting_inside, cast.service_key))
    with writers.at_work():
        writers.wait_for_more()
        found = walk(get, limit=limit, between=writers.wait_for_more, order="asc")
    assert found == sorted(there)
    assert get("/v1/usage?order=asc").body["complete_until"] == clock.to_unix(complete)
    read_at(monkeypatch, clock.now() + usage.FINAL_AFTER + timedelta(seconds=1))
    found += walk(get, limit=limit, after=found[-1], between=lambda: None, order="asc")
    assert found == sorted({*there, *writers.ids})


def test_who_reads_in_order_while_others_write_misses_nothing_and_sees_nothing_twice(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast = traffic.cast(organizations=1)
    _, get = inside(cast.reader_key)
    moves, chosen = ledger.post, random.Random(20)
    lock = threading.Lock()
    begun: dict[int, datetime] = {}

    def dawdling(*args: Any, **options: Any) -> Any:
        # Transactions have their ids by now, and are committed in another order.
        time.sleep(chosen.uniform(0, 0.03))
        return moves(*args, **options)

    @contextmanager
    def poster() -> Iterator[Post]:
        with posting_inside(world.service_key().secret) as post:

            def noted(body: bytes) -> Reply:
                with lock:
                    begun[threading.get_ident()] = clock.now()
                reply = post(body)
                with lock:
                    del begun[threading.get_ident()]
                return reply

            yield noted

    def bring_up_to_date() -> None:
        # As if no transaction ever lasted longer than the oldest of those that are open now.
        with lock:
            oldest = min([*begun.values(), clock.now()])
        read_at(monkeypatch, oldest + usage.FINAL_AFTER)
        found.extend(walk(get, limit=7, after=found[-1] if found else None, between=lambda: None, order="asc"))

    found: list[str] = []
    monkeypatch.setattr(ledger, "post", dawdling)
    writers = Writers(poster)
    with writers.at_work():
        for _ in range(30):
            writers.wait_for_more()
            bring_up_to_date()
    seen_at_work = len(found)
    time.sleep(0.002)
    bring_up_to_date()
    assert found == sorted(writers.ids)
    assert seen_at_work > 0
    assert writers.ids != found


@proves("A04", guard="what_is_read_in_order_is_final")
def test_a_record_that_is_committed_late_is_not_passed_over_by_who_reads_in_order(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast = traffic.cast(organizations=1)
    post, _ = inside(cast.service_key)
    _, get = inside(cast.reader_key)
    begun, go_on = threading.Event(), threading.Event()
    moves = ledger.post

    def pausing(*args: Any, **options: Any) -> Any:
        if threading.current_thread() is late:
            begun.set()
            assert go_on.wait(PAUSE_SECONDS)
        return moves(*args, **options)

    recorded: list[str] = []

    def write() -> None:
        # Another gateway's: what one gateway sends side by side is charged together.
        with posting_inside(world.service_key().secret) as own:
            recorded.extend(post_all(own, made("late", 1)))

    # One transaction has its ids and waits; others begin after it and are committed before it.
    monkeypatch.setattr(ledger, "post", pausing)
    late = threading.Thread(target=write, daemon=True)
    late.start()
    assert begun.wait(PAUSE_SECONDS)
    time.sleep(0.002)
    quick = post_all(post, made("quick", 5))
    newest_first = walk(get, limit=100, between=lambda: None)
    in_order = walk(get, limit=100, between=lambda: None, order="asc")
    go_on.set()
    late.join(ARRIVAL_SECONDS)
    assert not late.is_alive()
    assert newest_first == sorted(quick, reverse=True)
    assert recorded[0] < min(quick)
    read_at(monkeypatch, clock.now() + usage.FINAL_AFTER + timedelta(seconds=1))
    in_order += walk(get, limit=100, after=in_order[-1] if in_order else None, between=lambda: None, order="asc")
    assert in_order == [*recorded, *sorted(quick)]
