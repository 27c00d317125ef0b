"""ASGI entry point: the data plane's paths first, everything else to Django in threads.

Threads are few and clients may be slow, so Django gets a request when its body is here, as a whole.
"""

import asyncio
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

from a2wsgi import WSGIMiddleware
from django.conf import settings

from core import errors
from core.web import capacity
from core.wsgi import application as _django

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# By name: the ground knows nobody above it.
plane = import_module("gateway.plane")
django: Any = _django
control: Any = WSGIMiddleware(django, workers=capacity().threads)

# Within which a body for Django must be whole, and how much of such bodies a process keeps meanwhile.
BODY_SECONDS = 60
KEPT_BYTES_MAX = 64 * 1024 * 1024
# Bodies that are too large to be kept are read by their threads, so many at a time.
LARGE_MAX = 4


class Waiting:
    """What this process holds for Django: bytes of bodies, and requests whose body is too large for that."""

    def __init__(self) -> None:
        self.kept = 0
        self.large = 0


waiting = Waiting()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """One request, or the life of a worker."""
    if scope["type"] == "lifespan":
        await plane.live(receive, send)
        return
    if scope["type"] == "http":
        if _in_chunks(scope):
            # The server drops a length beside them, by which whoever stands between may have gone: what follows
            # the last chunk is then no request of anybody's.
            send = _ending(send)
        headers = plane.takes(scope)
        if headers is not None:
            await plane.application(scope, headers, receive, send)
            return
        await _serve_whole(scope, receive, send)
        return
    await _serve(scope, receive, send)


def _in_chunks(scope: Scope) -> bool:
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _ending(send: Send) -> Send:
    """Answers after which the connection ends."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return sent


async def _serve_whole(scope: Scope, receive: Receive, send: Send) -> None:
    """Give a request to Django once its body is here; one that is too large for that if there is room."""
    length = _length(scope)
    if length > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        if waiting.large >= LARGE_MAX:
            await plane.refuse(errors.Unavailable(), scope, _ending(send))
            return
        waiting.large += 1
        try:
            await _serve(scope, receive, send)
        finally:
            waiting.large -= 1
        return
    body = bytearray()
    try:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = length > 0
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    part = message.get("body", b"")
                    body += part
                    waiting.kept += len(part)
                    if waiting.kept > KEPT_BYTES_MAX:
                        await plane.refuse(errors.Unavailable(), scope, _ending(send))
                        return
                    more = message.get("more_body", False)
        except TimeoutError:
            late = errors.InvalidRequest(f"The body was not whole within {BODY_SECONDS} seconds.")
            await plane.refuse(late, scope, _ending(send))
            return
        await _serve(scope, _told(bytes(body), receive), send)
    finally:
        waiting.kept -= len(body)


def _length(scope: Scope) -> int:
    """What the sender of a body declared, in bytes; 0 without one."""
    told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(told) if told.isdigit() else 0


def _told(body: bytes, receive: Receive) -> Receive:
    """A body that is here, then whatever the server says."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return whole.pop() if whole else await receive()

    return received


async def _serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Give a request to Django, in a thread."""

    async def received() -> Message:
        # The bridge asks from a thread, which takes a coroutine; the server's own is a bare awaitable.
        return await receive()

    await control(_tame(scope), received, send)


def _tame(scope: Scope) -> Scope:
    """The request as Django may see it: WSGI cannot tell ``X_Forwarded_For`` from the header that a proxy sets."""
    if scope["type"] != "http":
        return scope
    query: bytes = scope["query_string"]
    return {
        **scope,
        "headers": [(name, value) for name, value in scope["headers"] if b"_" not in name],
        # The bridge reads ASCII.
        "query_string": query if query.isascii() else b"".join(b"%c" % c if c < 128 else b"%%%02X" % c for c in query),
    }
