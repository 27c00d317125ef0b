"""More requests than may wait: some are charged, the rest is told to come again, and nothing else happens."""

import socket
from contextlib import ExitStack
from pathlib import Path

import httpx

from core import processes
from tests.benchmarks import cast, overload
from tests.books import Books
from tests.journeys import traffic
from tests.server import HOST, WebServer

SECONDS = 3.0
CALM_CLIENTS = 32
CALM_SECONDS = 1.0
# Of each of two crowds, to a server where rivals.NARROW may wait.
CLIENTS = 300
# As many as a server with a backlog of 1,024 serves at most, and some.
IDLE = 1100
OTHER_FILES = 300


def test_more_than_may_wait_is_charged_or_told_to_come_again_and_nothing_acknowledged_is_lost(
    books: Books, tmp_path: Path
) -> None:
    stage = cast.stage(books.url, tmp_path)
    with stage.server(workers=1, rival="narrow") as web:
        found = overload.play(
            stage, web, seconds=SECONDS, clients=CLIENTS, calm_clients=CALM_CLIENTS, calm_seconds=CALM_SECONDS
        )
    assert set(found.statuses) == {"201", "503"}
    assert len(found.ids) >= found.statuses["201"]
    assert overload.kept(books.url, found.ids) == (0, 0)
    traffic.verify()


def test_connections_that_nobody_uses_keep_nobody_out(server: WebServer) -> None:
    # As many as this machine lets us open.
    count = min(IDLE, processes.allow_files(2 * IDLE) - OTHER_FILES)
    assert count > 0
    with ExitStack() as idle:
        for _ in range(count):
            idle.enter_context(socket.create_connection((HOST, server.port), timeout=30))
        assert httpx.get(f"{server.base_url}/healthz", timeout=30).status_code == 200
