"""How much a request may hold: just under, at, just over and far over each limit, and what that costs the server."""

import gzip
import http.client
import json
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from tests.billing.world import assert_sound, organization, rows
from tests.books import Books
from tests.metering.world import told
from tests.orgs import world
from tests.proofs import proves
from tests.server import HOST, WebServer, living

MIB = 1024 * 1024
# Contract 16.1.
EVENTS_MAX = 1000
BODY_MAX = 8 * MIB
# What the whole server may grow by while it refuses a hundred times what a body may hold, in every way.
GROWTH_MAX = 160 * MIB
SECONDS = 30


class Answer(NamedTuple):
    """What came back: its status and its body, which must be JSON."""

    status: int
    body: Any

    @property
    def refusal(self) -> tuple[int, str | None]:
        """The status and the code of the envelope, if it is one."""
        return self.status, self.body.get("error", {}).get("code")


class Gateway:
    """Posts bodies of any size, a piece at a time, and hears an answer that comes before the end."""

    def __init__(self, server: WebServer, secret: str) -> None:
        self._port = server.port
        self._secret = secret

    def post(self, pieces: Iterator[bytes], size: int, *, encoding: str = "identity") -> Answer:
        """Say how long the body is, then send it."""
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._secret}\r\n"
            f"Content-Type: application/json\r\nContent-Encoding: {encoding}\r\nContent-Length: {size}\r\n"
            "Connection: close\r\n\r\n"
        )
        with socket.create_connection((HOST, self._port), timeout=SECONDS) as line:
            line.sendall(head.encode())
            sending = threading.Thread(target=self._send, args=(line, pieces), daemon=True)
            sending.start()
            with closing(http.client.HTTPResponse(line, method="POST")) as answer:
                answer.begin()
                found = Answer(answer.status, json.load(answer))
            # Whoever still sends then finds nobody there.
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            sending.join(SECONDS)
            assert not sending.is_alive()
            return found

    @staticmethod
    def _send(line: socket.socket, pieces: Iterator[bytes]) -> None:
        with suppress(OSError):
            for piece in pieces:
                line.sendall(piece)


@pytest.fixture
def gateway(books: Books, server: WebServer) -> Gateway:
    organization("acme")
    return Gateway(server, world.service_key().secret)


def spaced(text: bytes, size: int) -> Iterator[bytes]:
    """The text, and spaces behind it, up to that size."""
    yield text
    left = size - len(text)
    while left:
        step = min(left, MIB)
        yield b" " * step
        left -= step


def one() -> bytes:
    """A fresh event, as an array."""
    return json.dumps([told(organization="acme")]).encode()


def plainly(gateway: Gateway, size: int) -> Answer:
    """A body of that size."""
    return gateway.post(spaced(one(), size), size)


def compressed(gateway: Gateway, size: int) -> Answer:
    """A body that unpacks to that size."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    packed = b"".join([*(packer.compress(piece) for piece in spaced(one(), size)), packer.flush()])
    assert len(packed) < MIB
    return gateway.post(iter([packed]), len(packed), encoding="zstd")


def peaks(server: WebServer) -> int:
    """The most memory that each process of the server ever had, together, in bytes."""
    found = [
        re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in living(server.pid)
    ]  # fmt: skip
    assert all(found)
    return sum(int(each[1]) * 1024 for each in found if each)


@proves("I16", guard="bodies_have_a_limit")
def test_a_body_is_taken_up_to_eight_mebibytes_and_refused_beyond_at_no_cost(
    gateway: Gateway, server: WebServer
) -> None:
    ways: list[Callable[[Gateway, int], Answer]] = [plainly, compressed]
    for send in ways:
        for size in (BODY_MAX * 9 // 10, BODY_MAX):
            answer = send(gateway, size)
            assert (answer.status, answer.body["created"]) == (200, 1), size
    before = peaks(server)
    for send in ways:
        for size in (BODY_MAX + 1, BODY_MAX * 11 // 10, BODY_MAX * 100):
            assert send(gateway, size).refusal == (413, "request_too_large"), size
    assert peaks(server) - before < GROWTH_MAX
    assert rows("SELECT count(*) FROM usage_record") == [(4,)]
    assert_sound()


@proves("I16", guard="batches_have_a_limit")
def test_a_batch_is_taken_up_to_a_thousand_events_and_refused_beyond_as_a_whole(gateway: Gateway) -> None:
    for count in (EVENTS_MAX * 9 // 10, EVENTS_MAX):
        events = json.dumps([told(organization="acme") for _ in range(count)]).encode()
        answer = gateway.post(iter([events]), len(events))
        assert (answer.status, answer.body["created"]) == (200, count)
    for count in (EVENTS_MAX + 1, EVENTS_MAX * 11 // 10):
        events = json.dumps([told(organization="acme") for _ in range(count)]).encode()
        assert gateway.post(iter([events]), len(events)).refusal == (413, "too_many_events"), count
    # A hundred times as many, each as small as can be.
    events = b"[" + b",".join([b"{}"] * EVENTS_MAX * 100) + b"]"
    assert gateway.post(iter([events]), len(events)).refusal == (413, "too_many_events")
    assert rows("SELECT count(*) FROM usage_record") == [(1900,)]
    assert_sound()


def bomb(encoding: str, size: int) -> bytes:
    """A small body that unpacks to ``size`` zeros: one piece again and again, which both formats allow."""
    piece = b"\0" * (16 * MIB)
    if encoding == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
        head = gzip.compress(b"")[:10]
    else:
        packed, head = zstandard.ZstdCompressor().compress(piece), b""
    return head + packed * (size // len(piece))


@proves("A10", guard="unpacking_stops_at_the_limit")
def test_a_small_body_that_unpacks_into_gigabytes_is_refused_and_costs_no_memory(
    gateway: Gateway, server: WebServer
) -> None:
    for encoding in ("gzip", "zstd"):
        packed = bomb(encoding, BODY_MAX)
        assert gateway.post(iter([packed]), len(packed), encoding=encoding).status == 400
    before = peaks(server)
    # First one that a machine survives if nothing stops it.
    for size in (384 * MIB, 8192 * MIB):
        for encoding in ("gzip", "zstd"):
            packed = bomb(encoding, size)
            assert len(packed) <= BODY_MAX + 4096
            packed = packed[:BODY_MAX]
            answer = gateway.post(iter([packed]), len(packed), encoding=encoding)
            assert answer.refusal == (413, "request_too_large"), (encoding, size)
    assert peaks(server) - before < GROWTH_MAX
    for encoding in ("br", "deflate", "gzip, gzip"):
        answer = gateway.post(iter([b"{}"]), 2, encoding=encoding)
        assert answer.refusal == (415, "unsupported_media_type"), encoding
