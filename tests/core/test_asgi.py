"""Two applications on one port, bodies that are waited for, and an end at which nobody is left without an answer."""

import asyncio
import http.client
import json
import os
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from core import asgi
from metering.models import UsageRecord
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.server import HOST, WebServer, running

REQUESTS = 24
SECONDS = 30


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with usage and a gateway."""
    return neighbours.house("acme-labs")


def test_both_applications_answer_on_one_port(acme: House, server: WebServer) -> None:
    with httpx.Client(base_url=server.base_url, headers=acme.gateway.headers) as client:
        assert client.post("/v1/events", json=neighbours.event("e-1")).status_code == 201
        assert client.post("/v1/authorizations", json=neighbours.authorization(acme)).status_code == 201
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/v1/events").status_code == 405
        assert client.get("/admin/login/").headers["content-type"].startswith("text/html")


def begin(acme: House, server: WebServer, number: int) -> socket.socket:
    """A request that the server has begun to read: it has asked for the body, and has it."""
    body = json.dumps(neighbours.event(f"last-{number}")).encode()
    line = socket.create_connection((HOST, server.port), timeout=SECONDS)
    told = {**acme.gateway.headers, "Host": "localhost", "Content-Type": "application/json",
            "Content-Length": str(len(body)), "Expect": "100-continue"}  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    line.sendall(f"POST /v1/events HTTP/1.1\r\n{head}\r\n".encode())
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        said += line.recv(1)
    assert said.startswith(b"HTTP/1.1 100 ")
    line.sendall(body)
    return line


def end_of(line: socket.socket) -> tuple[int, str]:
    """Status and verdict of the answer."""
    answer = http.client.HTTPResponse(line, method="POST")
    answer.begin()
    with closing(line), closing(answer):
        return answer.status, json.load(answer)["status"]


def test_at_the_end_whatever_was_taken_is_answered_and_durable(acme: House, books: Books, server: WebServer) -> None:
    before = UsageRecord.objects.count()
    with books.connect() as raw:
        with raw.transaction():
            # Whoever charges the wallet waits for us.
            raw.execute("SELECT 1 FROM wallet WHERE organization_id = %s FOR UPDATE", [acme.organization.pk])
            lines = [begin(acme, server, number) for number in range(REQUESTS)]
            os.kill(server.pid, signal.SIGTERM)
        answers = [end_of(line) for line in lines]
    assert answers == [(201, "created")] * REQUESTS
    assert UsageRecord.objects.count() == before + REQUESTS


def test_without_the_data_plane_django_answers_all_of_it(books: Books, acme: House, tmp_path: Path) -> None:
    with running(folder=tmp_path, url=books.url, WEB_INTERFACE="wsgi", WEB_WORKERS="1") as web:
        with httpx.Client(base_url=web.base_url, timeout=SECONDS, headers=acme.gateway.headers) as client:
            assert client.post("/v1/events", json=neighbours.event("e-1")).status_code == 201
            assert client.post("/v1/authorizations", json=neighbours.authorization(acme)).status_code == 201
            # Only the data plane takes chunks.
            assert client.post("/v1/events", content=iter([b"{}"])).status_code == 411
        with httpx.Client(base_url=web.base_url, timeout=SECONDS, headers=acme.callers["plain"].headers) as client:
            assert client.get("/v1/usage").status_code == 200


def asked(*parts: bytes, length: int) -> list[dict[str, Any]]:
    """What is sent to somebody whose body for Django comes in these parts, and then no further."""
    pairs = [(b"host", b"testserver"), (b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/nowhere", "query_string": b"", "headers": pairs}
    left, sent = list(parts), []

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left) or length > sum(map(len, parts))}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(asgi.application(scope, receive, send))
    return sent


def refusal(sent: list[dict[str, Any]]) -> tuple[int, str]:
    """Status and code of a refusal that ends the connection."""
    start, body = sent
    assert (b"connection", b"close") in start["headers"]
    assert asgi.waiting.kept == 0
    return start["status"], json.loads(body["body"])["error"]["code"]


def test_a_body_that_does_not_come_to_its_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.05)
    assert refusal(asked(b"half", length=8)) == (400, "invalid_request")


def test_bodies_that_are_kept_have_a_limit_for_all_of_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "KEPT_BYTES_MAX", 5)
    assert refusal(asked(b"half", b"half", length=8)) == (503, "unavailable")


def test_bodies_too_large_to_be_kept_wait_for_few_threads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi.waiting, "large", asgi.LARGE_MAX)
    assert refusal(asked(length=9 * 1024 * 1024)) == (503, "unavailable")
