"""Fifty kills under load: the long versions of ``tests/journeys/test_durability.py``.

``SOAK_KILLS`` sets another number. Each test ends by itself, says one line of figures, and on a
failure the seed that repeats it.
"""

import os
import time
from contextlib import closing
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from tests import worker
from tests.books import Books
from tests.journeys import kills, traffic
from tests.journeys.traffic import Caller
from tests.server import WebServer

KILLS = int(os.environ.get("SOAK_KILLS") or 50)
EVENTS_A_KILL = 1_000
SECONDS = 120 + 30 * KILLS
OUTAGE_SECONDS = 20
BACK_SECONDS = 5
POLL_SECONDS = 0.05

pytestmark = pytest.mark.soak


def test_a_server_and_a_worker_killed_again_and_again_lose_nothing_charge_nothing_twice_and_leak_no_hold(
    books: Books, server: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cast = traffic.cast(organizations=kills.ORGANIZATIONS)
    started = time.monotonic()
    with worker.running(folder=tmp_path, url=books.url) as working:
        working.await_work()
        kinds = [partial(kills.kill_server, server), partial(kills.kill_worker, books, working)]
        told = kills.play(
            books, server, cast, log=tmp_path / "acks", events=EVENTS_A_KILL * KILLS,
            accidents=list(islice(cycle(kinds), KILLS)), seconds=SECONDS,
        )  # fmt: skip
    with capsys.disabled():
        print(f"\nserver or worker killed {KILLS} times: {told.reckoning}, {time.monotonic() - started:.0f} s")
    assert told.reckoning.in_doubt > 0


def test_whatever_is_killed_again_and_again_nothing_is_lost_or_charged_twice_and_no_hold_leaks(
    tmp_path: Path, django_db_blocker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with django_db_blocker.unblock(), kills.durable(tmp_path) as (postgres, books, server, working):
        cast = traffic.cast(organizations=kills.ORGANIZATIONS)
        kinds = [
            partial(kills.kill_session, books),
            partial(kills.kill_database, postgres),
            partial(kills.kill_server, server),
            partial(kills.kill_worker, books, working),
        ]
        accidents = list(islice(cycle(kinds), KILLS))
        started = time.monotonic()
        told = kills.play(
            books,
            server,
            cast,
            log=tmp_path / "acks",
            events=EVENTS_A_KILL * KILLS,
            accidents=accidents,
            seconds=SECONDS,
        )
    with capsys.disabled():
        print(f"\nanything killed {KILLS} times: {told.reckoning}, {time.monotonic() - started:.0f} s")
    assert told.reckoning.in_doubt > 0


def test_the_server_is_back_soon_after_a_long_outage_of_its_database(
    tmp_path: Path, django_db_blocker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with django_db_blocker.unblock(), kills.durable(tmp_path) as (postgres, _, server, _):
        cast = traffic.cast(organizations=1)

        def status() -> int:
            with closing(Caller(port=server.port, key=cast.reader_key)) as caller:
                return caller.get("/v1/usage").status

        def outage() -> None:
            end = time.monotonic() + OUTAGE_SECONDS
            while time.monotonic() < end:
                assert status() == 503

        assert status() == 200
        kills.kill_database(postgres, meanwhile=outage)
        started = time.monotonic()
        while (found := status()) != 200:
            assert found == 503
            assert time.monotonic() - started < BACK_SECONDS, "it is not back"
            time.sleep(POLL_SECONDS)
    with capsys.disabled():
        print(f"\nback {time.monotonic() - started:.1f} s after an outage of {OUTAGE_SECONDS} s")
