"""The data plane's own edge: what it takes, what it leaves to Django, and bodies as they come from a socket."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from core import errors
from gateway import plane
from tests.books import Books

EVENTS, AUTHORIZATIONS, USAGE = "/v1/events", "/v1/authorizations", "/v1/usage"


def scope(path: str = EVENTS, *, method: str = "POST", **headers: str) -> dict[str, Any]:
    told = {"host": "testserver", "content-type": "application/json"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": path,
        "headers": pairs,
        "client": ("127.0.0.1", 1),
    }


@pytest.fixture(autouse=True)
def _fresh_hosts() -> Iterator[None]:
    """What a host is worth is remembered."""
    plane._is_ours.cache_clear()
    yield
    plane._is_ours.cache_clear()


@pytest.mark.parametrize(
    "asked",
    [
        scope(),
        scope(AUTHORIZATIONS),
        scope(accept="*/*"),
        scope(accept="application/json, text/plain;q=0.5"),
        scope(accept="application/problem+json"),
        scope(host="testserver:8000"),
        scope(content_type="application/x-ndjson"),
        scope(idempotency_key="same"),
        scope(USAGE, method="GET"),
        scope(USAGE, method="GET", content_length="0"),
        scope(AUTHORIZATIONS, content_type="Application/JSON; charset=utf-8"),
    ],
)  # fmt: skip
def test_what_is_plain_is_taken(asked: dict[str, Any]) -> None:
    assert plane.takes(asked)


@pytest.mark.parametrize(
    "asked",
    [
        scope(method="GET"),
        scope(method="OPTIONS"),
        scope("/v1/events/"),
        scope(USAGE),
        scope(USAGE, method="HEAD"),
        scope(USAGE, method="GET", accept="text/csv"),
        scope(USAGE, method="GET", content_length="2"),
        scope(USAGE, method="GET", transfer_encoding="chunked"),
        scope(host="evil.example"),
        scope(host=""),
        scope(accept="image/png"),
        scope(AUTHORIZATIONS, idempotency_key="same"),
        scope(AUTHORIZATIONS, content_type="text/plain"),
        scope(AUTHORIZATIONS, content_type=""),
    ],
)  # fmt: skip
def test_whatever_is_unusual_is_left_to_django(asked: dict[str, Any]) -> None:
    assert not plane.takes(asked)


def test_where_https_is_asked_for_plain_http_is_left_to_django_to_send_on() -> None:
    with override_settings(SECURE_SSL_REDIRECT=True, SECURE_PROXY_SSL_HEADER=None):
        assert not plane.takes(scope())
        assert plane.takes({**scope(), "scheme": "https"})
    with override_settings(SECURE_SSL_REDIRECT=True, SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
        assert plane.takes(scope(x_forwarded_proto="https"))
        assert plane.takes(scope(x_forwarded_proto="https, http"))
        assert not plane.takes(scope(x_forwarded_proto="http"))
        assert not plane.takes({**scope(), "scheme": "https"})


def test_a_header_that_is_sent_twice_reads_as_behind_wsgi() -> None:
    asked = scope()
    asked["headers"] += [(b"x-deeptoken-org", b"acme"), (b"x-deeptoken-org", b"umbrella")]
    assert plane.headers_of(asked)["x-deeptoken-org"] == "acme,umbrella"


def ask(asked: dict[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the plane sends for a body in these messages; ``AssertionError`` when it asks for more of them."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        assert messages, "nobody sends any more"
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(plane.application(asked, receive, send))
    return sent


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def code(sent: list[dict[str, Any]]) -> tuple[int, str]:
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


def test_who_leaves_before_the_body_is_whole_is_sent_nothing() -> None:
    gone = {"type": "http.disconnect"}
    assert ask(scope(content_length="10"), [part(b"{", more=True), gone]) == []
    # Also where the rest is only read to be dropped.
    assert ask(scope(content_length=str(9 * 1024 * 1024)), [part(b"{", more=True), gone]) == []


def test_a_body_that_is_too_long_is_refused_by_its_length_or_as_soon_as_it_shows() -> None:
    with override_settings(BODY_BYTES_MAX=100):
        rest = [part(b"x" * 60, more=True), part(b"x" * 41)]
        assert code(ask(scope(content_length="101"), rest)) == (413, "request_too_large")
        assert rest == []
        rest = [part(b"x" * 60, more=True), part(b"x" * 41, more=True), part(b"x")]
        assert code(ask(scope(transfer_encoding="chunked"), rest)) == (413, "request_too_large")
        assert rest == []
        rest = [part(b"")]
        assert code(ask(scope(content_length="many"), rest)) == (413, "request_too_large")


def test_who_asks_before_sending_and_may_not_is_told_before_sending(books: Books) -> None:
    asked = scope(content_length="100", expect="100-continue", authorization="Bearer dtk_wrong")
    # Nothing is received: there are no messages.
    assert code(ask(asked, [])) == (401, "invalid_api_key")


def test_what_cannot_wait_any_more_is_a_503_that_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size: int = 0) -> None:
        raise errors.Unavailable

    monkeypatch.setattr(plane._events, "check_room", full)
    sent = ask(scope(content_length="2"), [part(b"{}")])
    assert code(sent) == (503, "unavailable")
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"


def test_over_https_the_answer_says_to_stay_there() -> None:
    with override_settings(SECURE_SSL_REDIRECT=True, SECURE_PROXY_SSL_HEADER=None):
        sent = ask({**scope(content_length="0"), "scheme": "https"}, [])
    assert b"includeSubDomains" in dict(sent[0]["headers"])[b"strict-transport-security"]
