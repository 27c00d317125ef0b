"""What was acknowledged is recorded and charged exactly once, and no hold outlives its end, whatever is killed.

Five kills: of the worker, of the server, and three of PostgreSQL; ``tests.soak`` has fifty.
"""

from functools import partial
from pathlib import Path
from typing import Any

from tests import worker
from tests.books import Books
from tests.journeys import kills, traffic
from tests.proofs import proves
from tests.server import WebServer, living

SECONDS = 120


def test_a_server_and_a_worker_killed_under_load_lose_nothing_charge_nothing_twice_and_leak_no_hold(
    books: Books, server: WebServer, tmp_path: Path
) -> None:
    cast = traffic.cast(organizations=kills.ORGANIZATIONS)
    with worker.running(folder=tmp_path, url=books.url) as working:
        working.await_work()
        accidents = [partial(kills.kill_worker, books, working), partial(kills.kill_server, server)]
        told = kills.play(
            books, server, cast, log=tmp_path / "acks", events=5_000, accidents=accidents, seconds=SECONDS
        )  # fmt: skip
    print(told)
    # The gateways met closed doors, and answers that never came.
    assert told.posted.refused_connections > 0
    assert told.reckoning.in_doubt > 0
    assert told.reckoning.replayed > 0
    # Holds of every end, and requests that no wallet covered.
    assert told.reckoning.held.keys() == {"captured", "released", "expired", "refused"}


@proves("D01", guard="commits_wait_for_the_disk")
def test_a_database_killed_under_load_loses_nothing_and_the_server_comes_back_by_itself(
    tmp_path: Path, django_db_blocker: Any, disabled_guard: str | None
) -> None:
    with (
        django_db_blocker.unblock(),
        kills.durable(tmp_path, without=disabled_guard) as (postgres, books, server, _),
    ):
        cast = traffic.cast(organizations=kills.ORGANIZATIONS)
        kills.keep(books)
        processes = living(server.pid)
        put_off = partial(kills.assert_all_is_put_off, books, server, cast)
        accidents = [
            partial(kills.kill_database, postgres),
            partial(kills.kill_session, books),
            partial(kills.kill_database, postgres, meanwhile=put_off),
        ]
        told = kills.play(
            books, server, cast, log=tmp_path / "acks", events=2_000, accidents=accidents, seconds=SECONDS
        )  # fmt: skip
        assert living(server.pid) == processes, server.log
    print(told)
    # Anything but 200, 201 and a 503 that says when to come back has failed its gateway before.
    assert told.posted.statuses[503] > 0
    assert told.posted.refused_connections == 0
