"""ASGI entry point: the data plane's paths first, everything else to Django in threads."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

from a2wsgi import WSGIMiddleware

from core.web import capacity
from core.wsgi import application as _django

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# By name: the ground knows nobody above it.
plane = import_module("gateway.plane")
django: Any = _django
control: Any = WSGIMiddleware(django, workers=capacity().threads)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """One request, or the life of a worker."""
    if scope["type"] == "lifespan":
        await plane.live(receive, send)
        return
    if scope["type"] == "http":
        headers = plane.takes(scope)
        if headers is not None:
            await plane.application(scope, headers, receive, send)
            return

    async def received() -> MutableMapping[str, Any]:
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
