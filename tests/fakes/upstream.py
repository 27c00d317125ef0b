"""A FAKE provider for tests: OpenAI's protocol over real HTTP, and every way in which a provider can go wrong.

It answers no question. What it says and how is told to it beforehand, one ``Act`` for each request to come; the
last act stays. Each request is kept to be looked at.

    with Upstream() as fake:
        fake.then(Act(status=500), Act(words=["Hi"]))
        … http://127.0.0.1:{fake.port}/v1 …
        assert fake.bodies[0]["model"] == "up-1"
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

USAGE = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200,
         "prompt_tokens_details": {"cached_tokens": 640}}  # fmt: skip
STALL_SECONDS = 60


@dataclass
class Act:
    """What becomes of one request.

    ``words`` are the parts of the answer. ``at`` says behind how many of them of a stream something happens:
    ``reset`` cuts the line, ``truncate`` ends it without ``[DONE]``, ``stall`` says nothing more, ``pause``
    nothing until ``go`` is called, ``malformed`` sends no JSON, ``error`` sends an error as an event. Answers
    that come whole do the same at once. ``usage`` None: none is told. ``gap`` seconds pass between two words,
    ``delay`` before the answer begins. ``bare``: a stream's counts come without choices.
    """

    words: Sequence[str] = ("Two ", "wallets.")
    usage: Mapping[str, Any] | None = field(default_factory=lambda: USAGE)
    finish: str = "stop"
    status: int = 200
    error: str = "The fake refuses."
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    at: int = 0
    delay: float = 0
    gap: float = 0
    message: Mapping[str, Any] | None = None
    deltas: Sequence[Mapping[str, Any]] | None = None
    done: bool = True
    bare: bool = False


class Upstream:
    """The provider, in a thread with an event loop of its own."""

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self.port = 0
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.sent = 0
        self.hung_up = 0
        self._acts: list[Act] = [Act()]
        self._loop = asyncio.new_event_loop()
        self._free = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-upstream", daemon=True)

    @property
    def base_url(self) -> str:
        """What a channel is given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def then(self, *acts: Act) -> None:
        """What the next requests come to; the last stays."""
        self._acts = list(acts)
        self._loop.call_soon_threadsafe(self._free.clear)

    def go(self) -> None:
        """Go on with what pauses."""
        self._loop.call_soon_threadsafe(self._free.set)

    def __enter__(self) -> "Upstream":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_post("/v1/chat/completions", self._answer)
        application.router.add_post("/v1/responses", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if self._keep:
            self.bodies.append(body)
            self.keys.append(request.headers.get("Authorization", ""))
        act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
        try:
            if act.delay:
                await asyncio.sleep(act.delay)
            if act.status != 200:
                told = {"error": {"message": act.error, "type": "fake", "code": None}}
                return web.json_response(told, status=act.status, headers=act.headers)
            if request.path == "/v1/responses":
                return await self._respond(request, body, act)
            if body.get("stream"):
                return await self._stream(request, body, act)
            return await self._whole(request, body, act)
        except asyncio.CancelledError:
            self.hung_up += 1
            raise

    async def _whole(self, request: web.Request, body: Mapping[str, Any], act: Act) -> web.StreamResponse:
        if act.fault == "stall":
            await asyncio.sleep(STALL_SECONDS)
        if act.fault == "pause":
            await self._free.wait()
        if act.fault == "malformed":
            return web.Response(text="<html>", content_type="text/html")
        if act.fault == "error":
            return web.json_response({"error": {"message": act.error}})
        message = act.message or {"role": "assistant", "content": "".join(act.words)}
        choices = [
            {"index": index, "message": message, "finish_reason": act.finish} for index in range(body.get("n", 1))
        ]
        told: dict[str, Any] = {"id": "up-1", "object": "chat.completion", "created": 1, "model": body["model"],
                                "choices": choices}  # fmt: skip
        if act.usage is not None:
            told["usage"] = act.usage
        raw = json.dumps(told).encode()
        if act.fault in {"reset", "truncate"}:
            answer = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(raw))})
            await answer.prepare(request)
            await answer.write(raw[: len(raw) // 2])
            _cut(request)
            return answer
        self.sent += 1
        return web.Response(body=raw, content_type="application/json", headers=act.headers)

    async def _stream(self, request: web.Request, body: Mapping[str, Any], act: Act) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        deltas = act.deltas if act.deltas is not None else [{"content": word} for word in act.words]
        if not (act.fault and act.at == 0):
            await self._say(answer, {"role": "assistant", "content": ""})
        for number, delta in enumerate(deltas):
            if act.fault and number == act.at and await self._fault(request, answer, act):
                return answer
            if act.gap:
                await asyncio.sleep(act.gap)
            await self._say(answer, delta)
        if act.fault and act.at >= len(deltas) and await self._fault(request, answer, act):
            return answer
        await self._say(answer, {}, act.finish)
        asked = (body.get("stream_options") or {}).get("include_usage")
        if asked and act.usage is not None:
            choices: dict[str, Any] = {} if act.bare else {"choices": []}
            await self._write(answer, {"id": "up-1", **choices, "usage": act.usage})
        if act.done:
            await answer.write(b"data: [DONE]\n\n")
        self.sent += 1
        return answer

    async def _respond(self, request: web.Request, body: Mapping[str, Any], act: Act) -> web.StreamResponse:
        """An answer of the responses API, whole or as events; ``finish`` is its status."""
        text = "".join(act.words)
        output = [
            {"id": "rs_up", "type": "reasoning", "summary": [], "encrypted_content": "sealed"},
            {"id": "msg_up", "type": "message", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]},
        ]  # fmt: skip
        status = "completed" if act.finish == "stop" else act.finish
        told: dict[str, Any] = {"id": "resp_up", "object": "response", "created_at": 1, "status": status,
                                "model": body["model"], "output": output, "error": None}  # fmt: skip
        if status == "incomplete":
            told["incomplete_details"] = {"reason": "max_output_tokens"}
        if act.usage is not None:
            told["usage"] = {
                "input_tokens": act.usage["prompt_tokens"], "output_tokens": act.usage["completion_tokens"],
                "input_tokens_details": {"cached_tokens": 640, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 64},
            }  # fmt: skip
        if not body.get("stream"):
            self.sent += 1
            return web.json_response(told)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        begun = {**told, "status": "in_progress", "output": [], "usage": None}
        await self._write(answer, {"type": "response.created", "response": begun, "sequence_number": 0})
        at = {"item_id": "msg_up", "output_index": 1, "content_index": 0}
        for number, word in enumerate(act.words):
            if act.fault and number == act.at and await self._fault(request, answer, act):
                return answer
            delta = {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []}
            await self._write(answer, {**delta, "sequence_number": number + 1})
        await self._write(answer, {"type": f"response.{status}", "response": told, "sequence_number": 99})
        self.sent += 1
        return answer

    async def _fault(self, request: web.Request, answer: web.StreamResponse, act: Act) -> bool:
        """Whether that was all."""
        if act.fault == "pause":
            await self._free.wait()
            return False
        if act.fault == "stall":
            await asyncio.sleep(STALL_SECONDS)
        elif act.fault == "reset":
            _cut(request)
        elif act.fault == "malformed":
            await answer.write(b"data: {not json\n\n")
        elif act.fault == "error":
            await self._write(answer, {"error": {"message": act.error, "code": "server_error"}})
        return True

    async def _say(self, answer: web.StreamResponse, delta: Mapping[str, Any], finish: str | None = None) -> None:
        await self._write(
            answer,
            {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "up",
             "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]},
        )  # fmt: skip

    async def _write(self, answer: web.StreamResponse, value: Any) -> None:
        await answer.write(b"data: " + json.dumps(value).encode() + b"\n\n")


def _cut(request: web.Request) -> None:
    """Cut the line as a crash does."""
    assert request.transport is not None
    request.transport.abort()


def wait_for(condition: Any, *, seconds: float = 20) -> None:
    """Wait until a condition holds. Raises ``AssertionError``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def main() -> None:
    """``python -m tests.fakes.upstream '{"at": 1}'``: serve one ``Act`` until standard input ends; prints the port."""
    with Upstream(keep=False) as fake:
        fake.then(Act(**json.loads(sys.argv[1])))
        print(fake.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
