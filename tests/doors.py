"""The two doors of the busiest paths, for suites that must hold at both.

    pytestmark = pytest.mark.usefixtures("both_doors")

``doors.client()`` is then Django's test client in one run, and in the other one that asks the data
plane first, as ``core.asgi`` does, in a thread with an event loop. Either reads an answer's fractions as
``Decimal``: money is compared to its last digit.
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from functools import partial
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlencode, urlsplit

import httpx
import pytest
from django.db import connections
from django.test import Client

SECONDS = 60


class ViewsClient(Client):
    """Django's test client."""

    def request(self, **request: Any) -> Any:
        """The answer to one request."""
        answer = super().request(**request)
        answer.json = partial(answer.json, parse_float=Decimal)  # type: ignore[method-assign, call-arg]
        return answer


class PlaneClient:
    """As much of Django's test client as the suites use; what the data plane does not take goes to Django."""

    def __init__(self) -> None:
        self._django = ViewsClient()
        self.taken = 0

    def generic(
        self,
        method: str,
        path: str,
        data: str | bytes = "",
        content_type: str = "application/octet-stream",
        *,
        query_params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer to one request."""
        from gateway import plane

        body = data.encode() if isinstance(data, str) else data
        asked = urlsplit(path)
        query = asked.query or urlencode(dict(query_params or {}), doseq=True)
        sent = {"Host": "testserver", "Content-Length": str(len(body)), **(headers or {})}
        if body:
            sent["Content-Type"] = content_type
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": unquote(asked.path),
            "raw_path": asked.path.encode(),
            "query_string": query.encode(),
            "client": ("127.0.0.1", 50000),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
        }
        headed = plane.takes(scope)
        if headed is None:
            return self._django.generic(
                method, path, data, content_type, query_params=dict(query_params or {}), headers=dict(headers or {})
            )
        self.taken += 1
        return asyncio.run_coroutine_threadsafe(_ask(plane, scope, headed, body), _loop()).result(SECONDS)

    def post(self, path: str, data: str | bytes = "", content_type: str = "application/json", **options: Any) -> Any:
        """A POST."""
        return self.generic("POST", path, data, content_type, **options)

    def get(self, path: str, **options: Any) -> Any:
        """A GET."""
        return self.generic("GET", path, **options)


class Answer(httpx.Response):
    """An answer with what else the suites ask of Django's."""

    def getvalue(self) -> bytes:
        """All of the body."""
        return self.content

    def json(self, **options: Any) -> Any:
        """The body's JSON."""
        return super().json(**{"parse_float": Decimal, **options})


async def _ask(plane: Any, scope: dict[str, Any], headed: dict[str, str], body: bytes) -> httpx.Response:
    # In parts, as they come from a socket.
    parts = [body[at : at + 65536] for at in range(0, len(body), 65536)] or [b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        assert parts, "the body was whole"
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await plane.application(scope, headed, receive, send)
    start, *rest = sent
    content = b"".join(part.get("body", b"") for part in rest)
    return Answer(start["status"], headers=start["headers"], content=content)


_running: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    if not _running:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="plane-loop", daemon=True).start()
        _running.append(loop)
    return _running[0]


_chosen: list[type[Any]] = [ViewsClient]


def client() -> Any:
    """A client at the door that is being tested."""
    return _chosen[-1]()


@contextmanager
def plane_door() -> Iterator[None]:
    """Clients that are made meanwhile ask the data plane."""
    from gateway import calls, plane, refusals, threads

    _chosen.append(PlaneClient)
    with (
        closing(threads.Threads(6)) as pool,
        # Threads must leave no connection behind to a database that will be dropped.
        mock.patch.object(threads, "settle_connection", connections.close_all),
        mock.patch.object(plane, "_readers", pool),
        mock.patch.object(plane, "_pagers", pool),
        mock.patch.multiple(plane._events, _readers=pool, _writers=pool),
        mock.patch.multiple(plane._authorizations, _readers=pool, _writers=pool),
        mock.patch.multiple(calls._holds, _readers=pool, _writers=pool),
        mock.patch.multiple(calls._settlements, _readers=pool, _writers=pool),
        mock.patch.multiple(refusals, _writers=pool, _kept=refusals.Kept()),
    ):
        try:
            yield
        finally:
            _chosen.remove(PlaneClient)
            # What is written a while later must not come into another test's database.
            asyncio.run_coroutine_threadsafe(refusals.drain(), _loop()).result(SECONDS)


@pytest.fixture(params=["views", "plane"])
def both_doors(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test once at Django's views and once at the data plane."""
    if request.param == "views":
        yield
        return
    with plane_door():
        yield
