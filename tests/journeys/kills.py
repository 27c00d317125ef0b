"""Accidents: kill -9 of the server, of the worker, of a session, of PostgreSQL, while gateways post.

PostgreSQL is one of the test's own that syncs to the disk: the run's own never syncs and belongs
to all tests.
"""

import io
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from psycopg import OperationalError

from core.embedded import Postgres
from tests import worker
from tests.acks import AckLog
from tests.books import Books
from tests.database import ROOT
from tests.journeys import traffic
from tests.journeys.traffic import Caller, Cast, Reckoning, Traffic
from tests.server import WebServer, running
from tests.worker import Worker

SEED = ROOT / "metering" / "seed" / "catalog.json"
SETTINGS = {
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    # Nothing but the commits themselves writes the log out: one that does not wait for that loses what it acknowledged.
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "wal_buffers": "64MB",
}
GATEWAYS = 16
ORGANIZATIONS = 9
# Between which shares of the deliveries accidents happen.
WITHIN = (0.1, 0.75)
# Where in its part of that each happens: gateways are under way before it and after it.
WITHIN_STEP = (0.1, 0.6)
AFTER_MARK_SECONDS = 0.02
TASK_SECONDS = 2
BACK_SECONDS = 30

Accident = Callable[[], None]


class Outcome(NamedTuple):
    """What became of the traffic, and at which shares of it the accidents happened."""

    reckoning: Reckoning
    posted: Traffic
    when: list[str]

    def __str__(self) -> str:
        return (
            f"{self.reckoning}; {len(self.when)} kills at {', '.join(self.when)}; statuses {dict(self.posted.statuses)}"
        )


def play(
    books: Books,
    server: WebServer,
    cast: Cast,
    *,
    log: Path,
    events: int,
    accidents: Sequence[Accident],
    seconds: float,
) -> Outcome:
    """Gateways post, accidents happen at moments by chance, gateways finish, and the books are held against it all.

    A worker is at work meanwhile. The gateways' log is that file. Raises ``AssertionError`` for anything
    lost, doubled, leaked or answered as it should not be.
    """
    chosen = traffic.chance()
    plan = traffic.plan(chosen, cast=cast, events=events, gateways=GATEWAYS)
    posted = Traffic(port=server.port, service_key=cast.service_key, plan=plan, log=AckLog(log))
    posted.start(seconds=seconds)
    try:
        when = _strike(books, posted, accidents, chosen)
    except BaseException:
        posted.give_up()
        raise
    posted.finish()
    posted.log.close()
    # Nothing but what the gateways wrote down, and what is there.
    posted.log = AckLog.read(log)
    # The last ones that were forgotten have yet to run out.
    traffic.await_sweep(books, forgotten_too=True)
    return Outcome(traffic.reckon(books, cast, posted), posted, when)


def _strike(books: Books, posted: Traffic, accidents: Sequence[Accident], chosen: random.Random) -> list[str]:
    """One accident after the other, while gateways are under way; at which share of the deliveries each was.

    After each, with everything back, whatever had been acknowledged before it must still be there, no
    hold be open beyond its end, and every invariant of the books hold. The gateways go on meanwhile, up
    to where the next accident may happen, so that each happens under load however long that takes.
    """
    low, high = WITHIN
    step = (high - low) / len(accidents)
    when = []
    for place, accident in enumerate(accidents):
        share = low + (place + chosen.uniform(*WITHIN_STEP)) * step
        posted.let_pass(low + (place + 1) * step)
        posted.wait_for(share)
        if posted.over():
            # They failed, and say why.
            posted.finish()
            raise AssertionError(f"the gateways were done before accident {place + 1}")
        # Between two answers, not just after one.
        time.sleep(chosen.uniform(0, AFTER_MARK_SECONDS))
        acknowledged = posted.log.acknowledged()
        accident()
        lost = acknowledged - _kept(books)
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged are gone after accident {place + 1}"
        traffic.await_sweep(books)
        traffic.verify()
        when.append(f"{share:.0%}")
    posted.let_pass(1.0)
    return when


def _kept(books: Books) -> set[str]:
    """The ids of what is there, as soon as the database says so again."""
    end = time.monotonic() + BACK_SECONDS
    while True:
        try:
            with books.connect() as own:
                return {row.id for row in traffic.kept(own)}
        except OperationalError:
            assert time.monotonic() < end, "the database does not come back"
            time.sleep(AFTER_MARK_SECONDS)


def kill_server(server: WebServer) -> None:
    """Every process of the server at once, and a start."""
    server.kill9()
    server.start()


def kill_worker(books: Books, working: Worker) -> None:
    """Every process of the worker at once, in the middle of a task if one begins soon, and a start."""
    end = time.monotonic() + TASK_SECONDS
    with books.connect() as own:
        while time.monotonic() < end:
            row = own.execute("SELECT 1 FROM job_run WHERE finished_at IS NULL").fetchone()
            if row is not None:
                break
    working.kill9()
    working.start()


def kill_session(books: Books) -> None:
    """One session of the product, a busy one if there is any.

    PostgreSQL then ends all others, for the memory they share may be damaged, and recovers from its log.
    """
    with books.connect() as own:
        found = own.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'tollbook' AND pid <> pg_backend_pid()"
            " ORDER BY state = 'idle', random() LIMIT 1"
        ).fetchone()
        assert found is not None, "the product has no session"
        os.kill(found[0], signal.SIGKILL)
        # It is over with what was before as soon as our own session is; until then it may still answer.
        end = time.monotonic() + BACK_SECONDS
        with suppress(OperationalError):
            while own.execute("SELECT 1"):
                assert time.monotonic() < end, "the database goes on as if nothing were"


def kill_database(postgres: Postgres, *, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Every process of PostgreSQL at once, as a machine dies, and a start after ``meanwhile``."""
    for pid in [postgres.pid, *_children(postgres.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    postgres.stop()
    meanwhile()
    postgres.start()


def _children(parent: int) -> list[int]:
    """Its living children; PostgreSQL's have process groups of their own."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name in parentheses may hold anything; after it come state and parent.
            if (place / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(place.name))
    return found


def keep(books: Books) -> None:
    """Have all that is there survive a kill, however it was committed: what follows is what is at stake."""
    with books.connect() as own:
        own.execute("CHECKPOINT")


def assert_all_is_put_off(books: Books, server: WebServer, cast: Cast) -> None:
    """Without its database the server answers every request that needs it: later. It is alive all the same."""
    slug = next(iter(cast.granted))
    event = traffic.event(random.Random(), slug=slug)
    hold = traffic.ask(random.Random(), number=0, slug=slug, key=cast.keys[slug], end="captured", event=event)
    bodies = {"/v1/events": event.text.encode(), "/v1/authorizations": hold.text.encode()}

    def ask(method: str, path: str, key: str) -> tuple[int, bool]:
        with closing(Caller(port=server.port, key=key)) as caller:
            caller.send(method, path, bodies.get(path))
            reply = caller.read()
        return reply.status, "retry-after" in reply.headers

    asked = [("POST", path) for path in bodies] + [("GET", "/v1/usage"), ("GET", "/v1/wallet"), ("GET", "/readyz")]
    keys = {"POST": cast.service_key, "GET": cast.reader_key}
    answers = books.together([partial(ask, method, path, keys[method]) for method, path in asked])
    assert dict(zip(asked, answers, strict=True)) == dict.fromkeys(asked, (503, True))
    assert ask("GET", "/healthz", cast.reader_key) == (200, False)


@contextmanager
def durable(folder: Path, *, without: str | None = None) -> Iterator[tuple[Postgres, Books, WebServer, Worker]]:
    """A durable PostgreSQL below ``folder``, books in it, server and worker; Django leads there in the block."""
    from django.core.management import call_command

    with Postgres(data_dir=folder / "data", durable=True, settings=SETTINGS) as postgres:
        books = Books(name="tollbook", url=postgres.url())
        with _led_to(books.url):
            call_command("migrate", verbosity=0, interactive=False)
            call_command("load_prices", str(SEED), "--publish", verbosity=0, stdout=io.StringIO())
            with (
                worker.running(folder=folder, url=books.url, without=without) as working,
                running(folder=folder, url=books.url, without=without) as server,
            ):
                working.await_work()
                yield postgres, books, server, working


@contextmanager
def _led_to(url: str) -> Iterator[None]:
    """Lead Django, in every thread, and every child process to another server."""
    import dj_database_url
    from django.db import connections

    connections.close_all()
    # One dict, shared by the connections of all threads.
    chosen = connections["default"].settings_dict
    before = {name: chosen[name] for name in ("NAME", "HOST", "PORT", "USER", "PASSWORD")}
    address = os.environ["DATABASE_URL"]
    parsed = dj_database_url.parse(url)
    chosen.update({name: parsed.get(name, "") for name in before})
    os.environ["DATABASE_URL"] = url
    try:
        yield
    finally:
        connections.close_all()
        chosen.update(before)
        os.environ["DATABASE_URL"] = address
