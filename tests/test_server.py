"""The real web server as a fixture: it serves the test's books and leaves nothing behind."""

import http.client
import socket

import pytest

from tests.books import Books
from tests.server import HOST, WebServer, living


def status(server: WebServer, path: str) -> int:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_server_serves_the_books_of_its_test(books: Books, server: WebServer) -> None:
    assert status(server, "/readyz") == 200
    with books.connect() as raw:
        served = raw.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", (books.name,)
        ).fetchone()
    assert served is not None
    assert served[0] >= 1


def test_a_killed_server_is_gone_whole_and_comes_back_on_its_port(server: WebServer) -> None:
    before, port = server.pid, server.port
    assert len(living(before)) >= 2
    server.kill9()
    assert living(before) == []
    with pytest.raises(ConnectionRefusedError), socket.create_connection((HOST, port), timeout=2):
        pass
    server.restart()
    assert server.pid != before
    assert server.port == port
    assert status(server, "/healthz") == 200


def test_a_stopped_server_leaves_no_process(server: WebServer) -> None:
    before = server.pid
    server.stop()
    assert living(before) == []
    server.stop()


def test_a_server_that_cannot_start_says_why(server: WebServer) -> None:
    server.stop()
    server.environment["DATABASE_URL"] = "mysql://elsewhere/books"
    with pytest.raises(RuntimeError, match="DATABASE_URL should look like"):
        server.start()
    server.stop()
