"""Many gateways in one cheap process: ``python -m tests.benchmarks.crowd``, told what to do on standard input.

Each of ``clients`` connections posts one event after the other for ``seconds``, and not more often than every
``every`` seconds. Written on bare sockets, for it shares the machine with the server that it measures.
"""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from core import processes
from tests.benchmarks.stage import event

_MARK = "the-event-id"
WARM_SECONDS = 1.0
FILES = 8192


class Told(NamedTuple):
    """What a crowd saw: answers by status, how long charged ones took, and how long any answer took at most."""

    seconds: float
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    worst_ms: float
    ids: list[str]

    @property
    def rate(self) -> float:
        """Events a second that were charged."""
        return self.statuses.get("201", 0) / self.seconds


def send(
    *, port: int, key: str, slugs: Sequence[str], clients: int, seconds: float, path: str = "/v1/events",
    keep: bool = False, every: float = 0.0,
) -> Told:  # fmt: skip
    """Let a crowd loose in a process of its own. ``keep``: also tell the ids of events that were acknowledged."""
    asked = {"port": port, "key": key, "slugs": list(slugs), "clients": clients, "seconds": seconds, "path": path,
             "keep": keep, "every": every}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.crowd"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Told(**json.loads(done.stdout))


class _Client(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, asked: dict[str, Any], place: int, seen: "_Seen") -> None:
        slugs = asked["slugs"]
        self._seen = seen
        self._bodies = [
            json.dumps(event(slug, now=int(time.time()), event_id=_MARK)).encode().split(_MARK.encode())
            for slug in (slugs[place % len(slugs) :] + slugs[: place % len(slugs)])[:20]
        ]
        self._sent = 0
        self._every = asked["every"]
        # Who is paced does not begin with all the others at once.
        self._begin = self._every * place / asked["clients"]
        self._buffer = b""
        length = sum(map(len, self._bodies[0])) + 32
        assert all(sum(map(len, body)) + 32 == length for body in self._bodies), "slugs of one length"
        self._head = (
            f"POST {asked['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {asked['key']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        asyncio.get_running_loop().call_later(self._begin, self._next)

    def _next(self) -> None:
        self._started = time.perf_counter()
        if self._started >= self._seen.until:
            self._transport.close()
            return
        before, after = self._bodies[self._sent % len(self._bodies)]
        self._sent += 1
        self._id = uuid.uuid4().hex
        self._transport.write(b"%b%b%b%b" % (self._head, before, self._id.encode(), after))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length: ") + 16
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        status = self._buffer[9:12].decode()
        if status == "201":
            assert b'"created"' in self._buffer, self._buffer
        if status == "503":
            assert b"retry-after" in head, head
        self._buffer = self._buffer[end + 4 + length :]
        self._seen.note(status, time.perf_counter(), self._started, self._id)
        rest = self._started + self._every - time.perf_counter()
        if rest > 0:
            asyncio.get_running_loop().call_later(rest, self._next)
        else:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._seen.ended(early=time.perf_counter() < self._seen.until)


class _Seen:
    """What all connections saw after the first second."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.start = time.perf_counter() + WARM_SECONDS
        self.until = self.start + asked["seconds"]
        self.statuses: Counter[str] = Counter()
        self.times: list[float] = []
        self.ids: list[str] = []
        self.worst = 0.0
        self._keep = asked["keep"]
        self._left = asked["clients"]
        self.done = asyncio.get_running_loop().create_future()

    def note(self, status: str, now: float, started: float, event_id: str) -> None:
        if status == "201" and self._keep:
            self.ids.append(event_id)
        self.worst = max(self.worst, now - started)
        if self.start <= now <= self.until or status not in {"201", "503"}:
            self.statuses[status] += 1
            if status == "201":
                self.times.append(now - started)

    def ended(self, *, early: bool) -> None:
        if early:
            self.statuses["cut off"] += 1
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


async def _play(asked: dict[str, Any]) -> Told:
    loop = asyncio.get_running_loop()
    seen = _Seen(asked)
    for place in range(asked["clients"]):
        await loop.create_connection(lambda place=place: _Client(asked, place, seen), "127.0.0.1", asked["port"])  # type: ignore[misc]
    await seen.done
    times = sorted(seen.times) or [0.0]
    return Told(
        asked["seconds"], dict(seen.statuses), 1000 * times[len(times) // 2], 1000 * times[len(times) * 99 // 100],
        1000 * seen.worst, seen.ids,
    )  # fmt: skip


if __name__ == "__main__":
    processes.allow_files(FILES)
    print(json.dumps(asyncio.run(_play(json.load(sys.stdin)))._asdict()))
