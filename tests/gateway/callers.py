"""Clients of model calls, against the data plane in this process: they can hang up at an exact point."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gateway import calls, channels, health, plane, upstream
from metering.models import UsageRecord
from orgs.keys import IssuedKey
from orgs.models import Organization
from tests import doors
from tests.fakes.upstream import Upstream, wait_for
from tests.journeys import neighbours
from tests.orgs import world

SECONDS = 30
PATH = "/v1/chat/completions"
HELLO = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 300}


@dataclass
class House:
    """An organization with its key and its usage."""

    organization: Organization
    keys: dict[str, IssuedKey]

    @property
    def records(self) -> list[UsageRecord]:
        """Its usage, oldest first."""
        return list(UsageRecord.objects.filter(organization=self.organization).order_by("id"))


@dataclass
class Heard:
    """What a client has got before it ended or hung up."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def told(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body, parse_float=Decimal)

    @property
    def code(self) -> tuple[int, str | None]:
        """Status and code of a refusal; of an answer there is none."""
        return self.status, self.told.get("error", {}).get("code")

    @property
    def events(self) -> list[Any]:
        """The events of a stream, ``[DONE]`` as its text."""
        found = [each[6:] for each in self.body.decode().split("\n\n") if each.startswith("data: ")]
        return [each if each == "[DONE]" else json.loads(each, parse_float=Decimal) for each in found]

    @property
    def text(self) -> str:
        """What a stream said."""
        choices = [one for event in self.events if event != "[DONE]" for one in event.get("choices", ())]
        return "".join(one["delta"].get("content") or "" for one in choices)


class Calling:
    """A call in the loop of the data plane; ``wait`` for what came of it, or ``hang_up``."""

    def __init__(
        self, secret: str, body: Any, *, leave_after: int | None = None, path: str = PATH, **headers: str
    ) -> None:
        self.heard = Heard()
        self._events = 0
        self._leave_after = leave_after
        self._path = path
        self._future = asyncio.run_coroutine_threadsafe(self._run(secret, body, headers), doors._loop())

    def wait(self) -> Heard:
        """What was heard, once the application has let go."""
        self._future.result(SECONDS)
        return self.heard

    def hang_up(self) -> None:
        """Leave now."""
        doors._loop().call_soon_threadsafe(self._gone.set)

    async def _run(self, secret: str, body: Any, headers: Mapping[str, str]) -> None:
        self._gone = asyncio.Event()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"host": "testserver", "content-type": "application/json", "content-length": str(len(raw))}
        told |= {"authorization": f"Bearer {secret}"}
        told |= {name.replace("_", "-"): each for name, each in headers.items()}
        scope = {
            "type": "http", "method": "POST", "scheme": "http", "path": self._path, "query_string": b"",
            "client": ("127.0.0.1", 50000), "headers": [(name.encode(), each.encode()) for name, each in told.items()],
        }  # fmt: skip
        taken = plane.takes(scope)
        assert taken is not None
        messages = [{"type": "http.request", "body": raw}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await self._gone.wait()
            return {"type": "http.disconnect"}

        await plane.application(scope, taken, receive, self._take)

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.heard.status = message["status"]
            self.heard.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.heard.body += message.get("body", b"")
            self._events += message.get("body", b"").startswith((b"data: ", b"event: "))
        if self._leave_after is not None and self.heard.status and self._events >= self._leave_after:
            self._gone.set()


@contextmanager
def gateway() -> Iterator[None]:
    """The data plane, with nothing known of any channel; at the end every call has ended."""
    calls._health = health.Health()
    with doors.plane_door():
        try:
            yield
        finally:
            # What a test that failed has left behind.
            for call in list(calls._open):
                doors._loop().call_soon_threadsafe(call.cut)
            settled()
            asyncio.run_coroutine_threadsafe(upstream.close(), doors._loop()).result(SECONDS)


def settled() -> None:
    """Wait until no call is open."""
    wait_for(lambda: not calls._open, seconds=SECONDS)


def channel(fake: Upstream, name: str = "first", **fields: Any) -> None:
    """A channel that leads to the fake."""
    told = {"base_url": fake.base_url, "models": {"deepseek-chat": "up-1", "gpt-4o": "up-2"}, **fields}
    channels.keep(name=name, fields=told, by=world.BY)


def house(slug: str = "acme-labs") -> House:
    """An organization with ten dollars."""
    made = world.organization(slug)
    neighbours.give(made, "10")
    return House(made, {"organization": world.organization_key(made)})


def ask(of: House, body: Any = None, *, key: str = "organization", **options: Any) -> Heard:
    """The answer to a call."""
    return Calling(of.keys[key].secret, HELLO if body is None else body, **options).wait()


def stream(of: House, *, leave_after: int | None = None, **told: Any) -> Heard:
    """A streamed answer."""
    return ask(of, {**HELLO, "stream": True, **told}, leave_after=leave_after)


def alone(*, secret: str, body: Any, key: str) -> tuple[int, str | None]:
    """A call in a process of its own, under an ``Idempotency-Key``: its status and the code of a refusal."""
    raw = json.dumps(body).encode()
    told = {"host": "testserver", "content-type": "application/json", "content-length": str(len(raw))}
    told |= {"authorization": f"Bearer {secret}", "idempotency-key": key}
    scope = {
        "type": "http", "method": "POST", "scheme": "http", "path": PATH, "query_string": b"",
        "client": ("127.0.0.1", 50000), "headers": [(name.encode(), each.encode()) for name, each in told.items()],
    }  # fmt: skip
    heard = Heard()

    async def send(message: dict[str, Any]) -> None:
        heard.status = message.get("status", heard.status)
        heard.body += message.get("body", b"")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw}

    async def run() -> None:
        headers = plane.takes(scope)
        assert headers is not None
        await plane.application(scope, headers, receive, send)
        await upstream.close()

    asyncio.run(run())
    return heard.code
