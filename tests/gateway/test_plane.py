"""The data plane's own edge: what it takes, what it leaves to Django, and bodies as they come from a socket."""

import asyncio
import gzip
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zstandard
from django.db import connections
from django.test import override_settings

from core import errors
from gateway import events, groups, plane
from orgs import keys
from orgs.models import ApiKey
from tests import doors
from tests.billing.world import rows
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.orgs import world

MIB = 1024 * 1024
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


def headed(asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A request's scope and headers, as ``takes`` gives them."""
    return asked, plane.headers_of(asked)


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
        scope(USAGE, method="GET", accept="text/csv, */*;q=0.1"),
        {**scope(USAGE, method="GET"), "query_string": b"limit=1&metadata[team]=a"},
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


@pytest.mark.parametrize(
    "body", [{"messages": []}, {"input_text": "x"}, {"output_text": "x"}, {"m\u00e9ssages": 1}, {"tools": "\u00e9"}]
)
def test_what_may_hold_text_to_count_is_not_read_on_the_spot(body: dict[str, Any]) -> None:
    assert plane._has_text(json.dumps(body).encode())
    assert not plane._has_text(json.dumps({"model": "deepseek-chat", "input_tokens": 1}).encode())


def test_a_header_that_is_sent_twice_reads_as_behind_wsgi() -> None:
    asked = scope()
    asked["headers"] += [(b"x-deeptoken-org", b"acme"), (b"x-deeptoken-org", b"umbrella")]
    assert plane.headers_of(asked)["x-deeptoken-org"] == "acme,umbrella"


def ask(asked: dict[str, Any], messages: list[Any]) -> list[dict[str, Any]]:
    """What the plane sends for a body in these messages; ``AssertionError`` when it asks for more of them.

    A message may be a function, which is called in a thread with what was sent so far and makes it.
    """
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        assert messages, "nobody sends any more"
        message = messages.pop(0)
        made: dict[str, Any] = await asyncio.to_thread(message, sent) if callable(message) else message
        return made

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(plane.application(*headed(asked), receive, send))
    return sent


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def code(sent: list[dict[str, Any]]) -> tuple[int, str]:
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


def test_who_leaves_before_the_body_is_whole_is_sent_nothing() -> None:
    gone = {"type": "http.disconnect"}
    assert ask(scope(content_length="10"), [part(b"{", more=True), gone]) == []


def test_who_leaves_while_the_rest_is_only_read_to_be_dropped_was_told_before() -> None:
    gone = {"type": "http.disconnect"}
    rest = [part(b"{", more=True), gone]
    assert code(ask(scope(content_length=str(9 * MIB)), rest)) == (413, "request_too_large")
    assert rest == []


def test_who_neither_sends_the_rest_nor_leaves_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "_DROP_SECONDS", 0.01)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    # More often than so many at once are waited for.
    for _ in range(2 * plane._DROPPING_MAX):
        asyncio.run(plane.application(*headed(scope(content_length=str(9 * MIB))), receive, send))
    assert len(sent) == 4 * plane._DROPPING_MAX
    rest = [part(b"x", more=True), part(b"x")]
    assert code(ask(scope(content_length=str(9 * MIB)), rest)) == (413, "request_too_large")
    assert rest == []


def test_a_body_that_is_too_long_is_refused_by_its_length_or_as_soon_as_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plane, "_gateway", lambda *_, **__: None)
    with override_settings(BODY_BYTES_MAX=100):
        rest = [part(b"x" * 60, more=True), part(b"x" * 41)]
        assert code(ask(scope(content_length="101"), rest)) == (413, "request_too_large")
        assert rest == []
        rest = [part(b"x" * 60, more=True), part(b"x" * 41, more=True), part(b"x")]
        assert code(ask(scope(transfer_encoding="chunked"), rest)) == (413, "request_too_large")
        assert rest == []
        rest = [part(b"")]
        assert code(ask(scope(content_length="many"), rest)) == (413, "request_too_large")


def test_what_arrives_is_counted_as_it_arrives_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "_gateway", lambda *_, **__: None)
    monkeypatch.setattr(groups, "WAITING_BYTES_MAX", 100)
    rest = [part(b"x" * 60, more=True), part(b"x" * 41, more=True), part(b"x")]
    assert code(ask(scope(transfer_encoding="chunked"), rest)) == (503, "unavailable")
    assert plane._events.bytes == 0


def test_a_body_that_does_not_come_to_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "_gateway", lambda *_, **__: None)
    monkeypatch.setattr(plane, "_BODY_SECONDS", 0.01)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return part(b"")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    monkeypatch.setattr(plane.Body, "drop", lambda self: asyncio.sleep(0))
    asyncio.run(plane.application(*headed(scope(transfer_encoding="chunked")), receive, send))
    assert code(sent) == (400, "invalid_request")
    assert plane._events.bytes == 0


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


# NDJSON as it arrives


@pytest.fixture
def acme(books: Books, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """An organization whose gateway sends lines, of which nothing is small enough to be read whole."""
    monkeypatch.setattr(groups, "SMALL_BYTES", 0)
    with doors.plane_door():
        yield neighbours.house("acme-labs")


def lines_scope(house: House, **headers: str) -> dict[str, Any]:
    return scope(
        content_type="application/x-ndjson",
        authorization=f"Bearer {house.gateway.secret}",
        **(headers or {"transfer_encoding": "chunked"}),
    )


def lines(house: House, *names: str) -> bytes:
    told = [neighbours.event(name, organization=house.slug, end_user="Zoë 🎟") for name in names]
    return b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in told)


def parts(raw: bytes, size: int) -> list[dict[str, Any]]:
    """The body in parts of a size, and the empty one with which the server ends it."""
    return [*(part(raw[at : at + size], more=True) for at in range(0, len(raw), size)), part(b"")]


def answered(sent: list[dict[str, Any]]) -> Any:
    assert sent[0]["status"] == 200, sent
    return json.loads(sent[1]["body"])


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("encoding", PACKINGS)
def test_lines_may_come_in_any_parts_and_packed(acme: House, encoding: str) -> None:
    raw = PACKINGS[encoding](lines(acme, "a", "b", "c") + b"{}\n" + lines(acme, "d")[:-1])
    length, chunks = {"content_length": str(len(raw))}, {"transfer_encoding": "chunked"}
    # Also in the middle of a letter, and of a head of gzip's.
    for number, (size, said) in enumerate([(1, chunks), (7, length), (100, chunks), (len(raw), length)]):
        told = answered(ask(lines_scope(acme, content_encoding=encoding, **said), parts(raw, size)))
        counts = {"created": 4, "duplicates": 0} if number == 0 else {"created": 0, "duplicates": 4}
        assert {name: told[name] for name in counts} == counts
        assert [verdict["event_id"] for verdict in told["data"]] == ["a", "b", "c", None, "d"]
        assert told["data"][3]["error"]["param"] == "events[3].occurred_at"
    taken = rows("SELECT event_id, end_user FROM usage_record WHERE end_user IS NOT NULL ORDER BY event_id")
    assert [pair for pair in taken if pair[0] in set("abcd")] == [(name, "Zoë 🎟") for name in "abcd"]


def test_few_lines_are_read_on_the_spot_however_they_come(acme: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "SMALL_BYTES", 8192)
    monkeypatch.delattr(events, "Arriving")
    raw = lines(acme, "a", "b")
    assert answered(ask(lines_scope(acme), parts(raw, 100)))["created"] == 2
    assert answered(ask(lines_scope(acme, content_length=str(len(raw))), parts(raw, 100)))["duplicates"] == 2


def test_who_leaves_in_the_middle_of_the_lines_is_charged_nothing(acme: House) -> None:
    before = rows("SELECT count(*) FROM usage_record")
    messages = [part(lines(acme, "a", "b"), more=True), {"type": "http.disconnect"}]
    assert ask(lines_scope(acme), messages) == []
    assert rows("SELECT count(*) FROM usage_record") == before
    assert (plane._events.jobs, plane._events.bytes) == (0, 0)


def was_told(sent: list[dict[str, Any]]) -> dict[str, Any]:
    """The next part of a body, of somebody who has already seen the answer."""
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return part(b"x" * 100, more=True)


@pytest.mark.parametrize(
    ("raw", "headers", "refused"),
    [
        (b"{}\n" * 1001, {}, (413, "too_many_events")),
        (b"{}\n" * 1001, {"expect": "100-continue"}, (413, "too_many_events")),
        # What it ends in nobody unpacks.
        (gzip.compress(b"{}\n" * 1001 + os.urandom(9000))[:-8], {"content_encoding": "gzip"}, (413, "too_many_events")),
        (PACKINGS["zstd"](bytes(9 * MIB)), {"content_encoding": "zstd"}, (413, "request_too_large")),
        (b"x" * (8 * MIB + 1), {}, (413, "request_too_large")),
        (b"{}", {"content_encoding": "gzip"}, (400, "invalid_request")),
        (b"{}", {"content_encoding": "br"}, (415, "unsupported_media_type")),
    ],
    ids=["lines", "lines asked for", "packed lines", "bomb", "bytes", "no gzip", "encoding"],
)  # fmt: skip
def test_lines_are_refused_in_their_middle_and_the_rest_is_dropped(
    acme: House, raw: bytes, headers: dict[str, str], refused: tuple[int, str]
) -> None:
    rest = [*parts(raw, 65536)[:-1], was_told, was_told, part(b"")]
    assert code(ask(lines_scope(acme, **headers | {"transfer_encoding": "chunked"}), rest)) == refused
    assert rest == []


@pytest.mark.parametrize(
    ("raw", "encoding", "refused"),
    [
        (b"\n \n", "identity", (422, "value_out_of_range")),
        (gzip.compress(b"{}\n")[:-1], "gzip", (400, "invalid_request")),
    ],
)  # fmt: skip
def test_lines_that_end_too_early_are_refused(acme: House, raw: bytes, encoding: str, refused: tuple[int, str]) -> None:
    assert (
        code(ask(lines_scope(acme, content_encoding=encoding, transfer_encoding="chunked"), parts(raw, 2))) == refused
    )


def test_who_may_not_send_lines_is_told_so_before_having_sent_them(acme: House) -> None:
    unknown = {"content_type": "application/x-ndjson", "authorization": "Bearer dtk_wrong"}
    rest = [was_told, part(b"")]
    assert code(ask(scope(content_length="9000", **unknown), rest)) == (401, "invalid_api_key")
    assert rest == []
    # Chunks could be few, so the first is heard.
    rest = [part(b"{}\n", more=True), was_told, part(b"")]
    assert code(ask(scope(transfer_encoding="chunked", **unknown), rest)) == (401, "invalid_api_key")
    assert rest == []


def test_lines_that_wait_count_as_what_they_unpack_to(acme: House, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = lines(acme, *(f"{number}" for number in range(40)))
    packed = gzip.compress(raw)
    assert len(packed) < 2000 < len(raw)
    monkeypatch.setattr(groups, "WAITING_BYTES_MAX", 2000)
    asked = lines_scope(acme, content_encoding="gzip", content_length=str(len(packed)))
    assert code(ask(asked, parts(packed, 100))) == (503, "unavailable")
    monkeypatch.setattr(groups, "WAITING_BYTES_MAX", len(raw))
    assert answered(ask(asked, parts(packed, 100)))["created"] == 40


def test_a_key_that_is_revoked_while_its_lines_come_reports_none_of_them(acme: House) -> None:
    before = rows("SELECT count(*) FROM usage_record")

    def revoked(sent: list[dict[str, Any]]) -> dict[str, Any]:
        assert sent == []
        keys.revoke(key_id=ApiKey.objects.get(kind="service").pk, by=world.BY)
        connections.close_all()
        return part(b"")

    assert code(ask(lines_scope(acme), [part(lines(acme, "a"), more=True), revoked])) == (401, "invalid_api_key")
    assert rows("SELECT count(*) FROM usage_record") == before
