"""One call of a provider: how its answer is taken apart, and what is made of its faults."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway import upstream
from gateway.upstream import Failed
from tests.gateway.test_routing import channel


def against(answer: bytes, *, status: int = 200, cut: int = 0, content_type: str = "text/event-stream",
            headers: dict[str, str] | None = None, pause: float = 0,
            ) -> Callable[[Callable[[Any], Awaitable[Any]]], Any]:  # fmt: skip
    """Run a coroutine with a channel at a server that answers this, ``cut`` bytes at a time with pauses between."""

    async def handle(request: web.Request) -> web.StreamResponse:
        told = web.StreamResponse(status=status, headers={"Content-Type": content_type, **(headers or {})})
        await told.prepare(request)
        size = cut or len(answer) or 1
        for at in range(0, len(answer), size):
            await told.write(answer[at : at + size])
            await asyncio.sleep(pause)
        return told

    async def run(work: Callable[[Any], Awaitable[Any]]) -> Any:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            where = channel(
                1, base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", key="sk-x", first_byte_seconds=5.0,
                idle_seconds=5.0, connect_seconds=5.0,
            )  # fmt: skip
            return await work(where)
        finally:
            await upstream.close()
            await runner.cleanup()

    return lambda work: asyncio.run(run(work))


async def parts(where: Any) -> list[Any]:
    return [part async for part in upstream.stream(where, {"stream": True})]


@pytest.mark.parametrize("cut", [0, 1, 7])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_stream_is_the_same_wherever_it_is_cut(cut: int, end: bytes) -> None:
    raw = b': hello\n\nevent: x\ndata: {"a": 1}\n\ndata:{"b":\ndata: "\xc3\xa9"}\n\nid: 5\n\ndata: [DONE]\n\n'
    assert against(raw.replace(b"\n", end), cut=cut)(parts) == [{"a": 1}, {"b": "\u00e9"}]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "reset"),
        (b'data: {"a": 1}\n\n', "reset"),
        (b"data: [1]\n\ndata: [DONE]\n\n", "malformed"),
        (b"data: {\n\ndata: [DONE]\n\n", "malformed"),
        (b"data: \xff\n\ndata: [DONE]\n\n", "malformed"),
        (b"data: " + b"[" * 200_000 + b"\n\n", "malformed"),
        (b"data: " + b"x" * (2 * upstream.LINE_BYTES_MAX), "malformed"),
        (b'data: "xxxxxxxxxxxxxxx"\n' * 80_000, "malformed"),
    ],
    ids=range(8),
)
def test_a_stream_that_is_none_is_a_fault(raw: bytes, kind: str) -> None:
    with pytest.raises(Failed) as failure:
        against(raw)(parts)
    assert failure.value.kind == kind


def test_an_end_mark_without_its_empty_line_is_one() -> None:
    assert against(b'data: {"a": 1}\n\ndata: [DONE]\n')(parts) == [{"a": 1}]


@pytest.mark.parametrize(
    ("status", "of_request"), [(400, True), (413, True), (422, True), (401, False), (404, False), (500, False)]
)
def test_a_refusal_is_the_request_s_or_not(status: int, of_request: bool) -> None:
    async def whole(where: Any) -> Any:
        return await upstream.complete(where, {})

    raw = b'{"error": {"message": "no\\u0007 sk-x"}}'
    with pytest.raises(Failed) as failure:
        against(raw, status=status, cut=20, pause=0.02, content_type="application/json")(whole)
    told = failure.value
    assert (told.kind, told.status, told.of_request) == ("status", status, of_request)
    assert told.message == ("no  [redacted]" if of_request else "")
    assert str(told) == f"status {status}"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("9999999", 120.0), ("soon", 1.0)])
def test_who_says_when_to_come_again_is_believed_within_bounds(header: str, seconds: float) -> None:
    async def whole(where: Any) -> Any:
        return await upstream.complete(where, {})

    with pytest.raises(Failed) as failure:
        against(b"", status=429, headers={"Retry-After": header})(whole)
    assert failure.value.retry_after == seconds


def test_an_answer_is_bounded_and_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    async def whole(where: Any) -> Any:
        return await upstream.complete(where, {})

    assert against(b'{"a": 0.1}', cut=3, content_type="application/json")(whole) == {"a": 0.1}
    monkeypatch.setattr(upstream, "ANSWER_BYTES_MAX", 5)
    for raw in (b'{"a": 0.1}', b"[]", b"{", b""):
        with pytest.raises(Failed, match="malformed"):
            against(raw, content_type="application/json")(whole)


def test_a_redirect_is_not_followed() -> None:
    with pytest.raises(Failed, match="status 307"):
        against(b"", status=307, headers={"Location": "http://elsewhere.example/"})(parts)
