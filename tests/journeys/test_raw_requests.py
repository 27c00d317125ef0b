"""Requests that no client library sends: with two lengths, in halves, and never to the end."""

import json
import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from metering.models import UsageRecord
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.proofs import proves
from tests.server import HOST, WebServer, running

ANSWER_SECONDS = 5
# What an attacker hopes for: that this is taken for the next request of somebody who shares the connection.
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: smuggled\r\nConnection: close\r\n\r\n"


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with a gateway."""
    return neighbours.house("acme-labs")


class Said(NamedTuple):
    """What came back on a connection until it ended: the statuses, and all of it."""

    statuses: list[int]
    text: str


def say(port: int, request: bytes) -> Said:
    """Send bytes on a connection of their own and read until the server ends it."""
    said = b""
    with closing(socket.create_connection((HOST, port), timeout=ANSWER_SECONDS)) as line:
        line.sendall(request)
        try:
            while part := line.recv(65536):
                said += part
        except (TimeoutError, ConnectionResetError):
            # What the server left open, or cut off with our bytes unread.
            pass
    text = said.decode("latin-1")
    return Said([int(part[:3]) for part in text.split("HTTP/1.1 ")[1:]], text)


def posted(acme: House, event_id: str, *lengths: str, chunked: bool = True, version: str = "1.1") -> bytes:
    """An event with these lines about its length, and a second request right behind it."""
    body = json.dumps(neighbours.event(event_id)).encode()
    if chunked:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    told = [f"{name}: {value}" for name, value in acme.gateway.headers.items()]
    told += [line.replace("LENGTH", str(len(body))) for line in lengths]
    head = "".join(f"{line}\r\n" for line in ("Host: localhost", "Content-Type: application/json", *told))
    return f"POST /v1/events HTTP/{version}\r\n{head}\r\n".encode() + body + SMUGGLED


CHUNKS = "Transfer-Encoding: chunked"
REFUSED = {
    "two lengths": ["Content-Length: LENGTH", "Content-Length: 3"],
    "a list of lengths": ["Content-Length: LENGTH, 3"],
    "a signed length": ["Content-Length: +LENGTH"],
    "a negative length": ["Content-Length: -1"],
    "a length in hexadecimal": ["Content-Length: 0x10"],
    "a coding that is none": ["Transfer-Encoding: xchunked"],
    "another coding behind chunks": ["Transfer-Encoding: chunked, identity"],
    "another coding behind chunks, in a line of its own": [CHUNKS, "Transfer-Encoding: identity"],
    "a space before the colon": ["Transfer-Encoding : chunked"],
    "a folded line": ["X-Note: one\r\n Transfer-Encoding: chunked", "Content-Length: LENGTH"],
    "another blank in the coding": ["Transfer-Encoding: \x0bchunked", "Content-Length: LENGTH"],
}
# The length counts for nothing then (RFC 9112, 6.3).
READ_BY_CHUNKS = (
    ["Content-Length: LENGTH", CHUNKS], ["Content-Length: 3", CHUNKS], [CHUNKS, "Content-Length: 3"], [CHUNKS],
)  # fmt: skip


@proves("A18", guard="chunks_end_their_connection")
def test_what_two_readers_would_read_differently_is_refused_or_ends_its_connection(
    books: Books, acme: House, tmp_path: Path, disabled_guard: str | None
) -> None:
    with running(folder=tmp_path, url=books.url, without=disabled_guard, WEB_WORKERS="1") as server:
        tell_apart(acme, server)


def tell_apart(acme: House, server: WebServer) -> None:
    """Ask all of it."""
    before = UsageRecord.objects.count()
    for name, lengths in REFUSED.items():
        said = say(server.port, posted(acme, "refused", *lengths))
        assert said.statuses == [400], (name, said)
        assert "smuggled" not in said.text, name
    assert say(server.port, posted(acme, "refused", CHUNKS, version="1.0")).statuses == [400]
    assert UsageRecord.objects.count() == before
    for number, lengths in enumerate(READ_BY_CHUNKS):
        for path, status in {"/v1/events": 201, "/v1/keys": 411}.items():
            raw = posted(acme, f"read-{number}", *lengths).replace(b"/v1/events", path.encode(), 1)
            said = say(server.port, raw)
            assert said.statuses == [status], (path, lengths, said)
            assert "smuggled" not in said.text
    assert UsageRecord.objects.count() == before + len(READ_BY_CHUNKS)
    # A length alone leaves the connection to the next request.
    said = say(server.port, posted(acme, "plain", "Content-Length: LENGTH", chunked=False))
    assert said.statuses == [201, 200]


HALF = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 1000\r\n%s\r\n"
FORM, JSON, PARTS = b"application/x-www-form-urlencoded", b"application/json", b"multipart/form-data; boundary=x"
SLOW = [
    (b"/portal/sign-in", FORM), (b"/admin/login/", FORM), (b"/admin/login/", PARTS), (b"/v1/keys", JSON),
    (b"/v1/events", JSON), (b"/v1/authorizations", JSON),
]  # fmt: skip


@proves("A09", guard="threads_wait_for_no_body")
def test_clients_that_stop_in_the_middle_hold_nobody_up(
    books: Books, acme: House, tmp_path: Path, disabled_guard: str | None
) -> None:
    """Two threads, and twenty clients that sent part of a head or of a body."""
    owner, gateway = acme.callers["owner"].headers, acme.gateway.headers
    bearer = f"Authorization: {owner['Authorization']}\r\n".encode()
    with (
        running(folder=tmp_path, url=books.url, without=disabled_guard, WEB_WORKERS="1", WEB_THREADS="2") as server,
        ExitStack() as lines,
    ):
        # Threads that wait for a body would not stop when they are asked to.
        lines.callback(server.kill9)

        def begin(raw: bytes) -> socket.socket:
            line = lines.enter_context(closing(socket.create_connection((HOST, server.port), timeout=ANSWER_SECONDS)))
            line.sendall(raw)
            return line

        for _ in range(2):
            # Whoever asks first hears when somebody has begun to read: it is being waited for.
            asking = begin(HALF % (b"/v1/keys", JSON, bearer + b"Expect: 100-continue\r\n"))
            assert asking.recv(12) == b"HTTP/1.1 100"
        for path, kind in SLOW:
            begin(HALF % (path, kind, bearer) + b"half of it")
            begin(HALF % (path, kind, bearer))
            begin(b"POST %s HTTP/1.1\r\nHost: loc" % path)

        def ask(client: httpx.Client, method: str, path: str, **told: object) -> int | None:
            """The status; None for somebody who waits in vain."""
            try:
                return client.request(method, path, **told).status_code  # type: ignore[arg-type]
            except httpx.TimeoutException:
                return None

        with httpx.Client(base_url=server.base_url, timeout=ANSWER_SECONDS) as client:
            assert ask(client, "GET", "/admin/login/") == 200
            assert ask(client, "POST", "/v1/keys", headers=owner, json={"name": "made"}) == 201
            assert ask(client, "GET", "/v1/wallet", headers=owner) == 200
            assert ask(client, "POST", "/v1/events", headers=gateway, json=neighbours.event("e-1")) == 201
