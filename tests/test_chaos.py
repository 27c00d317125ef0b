"""The misbehaving network, between a client and a server that repeats what it hears."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import psycopg
import pytest

from tests.books import Books
from tests.chaos import Chaos, Speaker, cut, delay, drip, drop, nothing, silence, socket_of
from tests.server import HOST

SECONDS = 10
CLIENT, SERVER = Speaker.CLIENT, Speaker.SERVER


class Echo:
    """Says what it hears, in capitals, and remembers both what it heard and how each client left."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.left = threading.Semaphore(0)
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while said := client.recv(4096):
                self.heard.append(said)
                client.sendall(said.upper())
        self.left.release()

    def close(self) -> None:
        """Take no more clients."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Chaos]:
    with Chaos((HOST, echo.port)) as made:
        yield made


@pytest.fixture
def client(proxy: Chaos) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.port), timeout=SECONDS) as made:
        yield made


def hear(client: socket.socket, count: int) -> bytes:
    """The next bytes, fewer if the connection ends."""
    found = b""
    while len(found) < count and (part := client.recv(count - len(found))):
        found += part
    return found


def say(client: socket.socket, text: bytes) -> bytes:
    """What comes back, as far as it does."""
    client.sendall(text)
    return hear(client, len(text))


def test_without_a_fault_all_passes_both_ways_and_so_does_the_end(
    echo: Echo, proxy: Chaos, client: socket.socket
) -> None:
    assert say(client, b"hello") == b"HELLO"
    assert say(client, b"x" * 1_000_000) == b"X" * 1_000_000
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert echo.left.acquire(timeout=SECONDS)
    assert proxy.links == 1


def test_a_cut_at_a_pattern_lets_pass_what_came_before_and_no_more(
    echo: Echo, proxy: Chaos, client: socket.socket
) -> None:
    proxy.fault = cut(CLIENT, at=b"COMMIT")
    assert say(client, b"BEGIN;") == b"BEGIN;"
    client.sendall(b"DO;COM")
    assert hear(client, 6) == b"DO;COM"
    with pytest.raises(ConnectionResetError):
        say(client, b"MIT;")
    assert echo.left.acquire(timeout=SECONDS)
    assert b"".join(echo.heard) == b"BEGIN;DO;COM"


def test_a_cut_after_a_pattern_lets_it_pass_and_loses_the_answer(
    echo: Echo, proxy: Chaos, client: socket.socket
) -> None:
    proxy.fault = cut(CLIENT, at=b"commit", forward=True)
    with pytest.raises(ConnectionResetError):
        say(client, b"commit;")
    assert echo.left.acquire(timeout=SECONDS)
    assert echo.heard == [b"commit;"]


def test_an_answer_is_withheld_when_it_begins(echo: Echo, proxy: Chaos, client: socket.socket) -> None:
    assert say(client, b"one") == b"ONE"
    proxy.fault = cut(SERVER, at=b"TW")
    with pytest.raises(ConnectionResetError):
        say(client, b"two")
    assert echo.heard == [b"one", b"two"]


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_a_cut_after_so_many_bytes_lets_these_pass(echo: Echo, proxy: Chaos, client: socket.socket, count: int) -> None:
    proxy.fault = cut(CLIENT, after=count)
    with suppress(ConnectionResetError):
        client.sendall(b"123456")
        client.sendall(b"789")
        hear(client, 9)
    assert echo.left.acquire(timeout=SECONDS)
    assert b"".join(echo.heard) == b"123456789"[:count]


def test_a_fault_that_happens_once_spares_the_next_link(echo: Echo, proxy: Chaos, client: socket.socket) -> None:
    proxy.fault = cut(CLIENT, at=b"x", times=1)
    with pytest.raises(ConnectionResetError):
        say(client, b"x")
    with socket.create_connection((HOST, proxy.port), timeout=SECONDS) as other:
        assert say(other, b"x") == b"X"


def test_links_can_have_faults_of_their_own(echo: Echo) -> None:
    with Chaos((HOST, echo.port), choose=lambda number: cut(CLIENT) if number == 0 else None) as proxy:
        with (
            socket.create_connection((HOST, proxy.port), timeout=SECONDS) as first,
            pytest.raises(ConnectionResetError),
        ):
            say(first, b"x")
        with socket.create_connection((HOST, proxy.port), timeout=SECONDS) as second:
            assert say(second, b"x") == b"X"


@pytest.mark.parametrize(("of", "heard"), [(CLIENT, []), (SERVER, [b"a"])])
def test_what_a_side_says_is_lost_while_the_connection_stands(
    echo: Echo, proxy: Chaos, client: socket.socket, of: Speaker, heard: list[bytes]
) -> None:
    proxy.fault = drop(of)
    client.sendall(b"a")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.shutdown(socket.SHUT_WR)
    # The end is told all the same.
    assert echo.left.acquire(timeout=SECONDS)
    assert echo.heard == heard


def test_a_half_open_link_hears_of_no_end(echo: Echo, proxy: Chaos, client: socket.socket) -> None:
    assert say(client, b"a") == b"A"
    proxy.fault = silence
    client.sendall(b"b")
    client.shutdown(socket.SHUT_WR)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert not echo.left.acquire(blocking=False)
    assert echo.heard == [b"a"]


def test_late_and_dripping_bytes_all_arrive(echo: Echo, proxy: Chaos, client: socket.socket) -> None:
    proxy.fault = delay(0.01)
    assert say(client, b"late") == b"LATE"
    proxy.fault = drip(0.001, of=CLIENT)
    assert say(client, b"slowly") == b"SLOWLY"
    # It came in more than one piece.
    assert len(echo.heard) > 2


def test_the_end_of_the_proxy_ends_its_links(echo: Echo) -> None:
    with Chaos((HOST, echo.port)) as proxy:
        client = socket.create_connection((HOST, proxy.port), timeout=SECONDS)
        proxy.fault = silence
        client.sendall(b"x")
    with client, suppress(ConnectionResetError):
        assert client.recv(1) == b""
    assert echo.left.acquire(timeout=SECONDS)


def test_a_server_that_is_not_there_is_a_cut(echo: Echo) -> None:
    echo.close()
    with (
        Chaos((HOST, echo.port)) as proxy,
        socket.create_connection((HOST, proxy.port), timeout=SECONDS) as client,
        suppress(ConnectionResetError),
    ):
        assert client.recv(1) == b""


def test_postgresql_is_reached_through_the_proxy_and_a_commit_can_be_cut(books: Books) -> None:
    with Chaos(socket_of(books.url)) as proxy, psycopg.connect(proxy.database_url(books.url)) as raw:
        raw.execute("CREATE TABLE kept (place int)")
        raw.commit()
        for place, fault in enumerate((cut(CLIENT, at=b"COMMIT\0"), cut(SERVER, at=b"COMMIT\0"))):
            with psycopg.connect(proxy.database_url(books.url)) as doomed:
                doomed.execute("INSERT INTO kept VALUES (%s)", [place])
                proxy.fault = fault
                with pytest.raises(psycopg.OperationalError):
                    doomed.commit()
            proxy.fault = nothing
        # The first never arrived, the second's answer got lost.
        assert raw.execute("SELECT place FROM kept").fetchall() == [(1,)]
