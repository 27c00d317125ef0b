"""A network that misbehaves on purpose: a TCP proxy before the server, or between the server and PostgreSQL.

    with Chaos(to=("127.0.0.1", server.port)) as proxy:
        proxy.fault = cut(Speaker.SERVER, at=b"HTTP/1.1", times=1)

A fault is asked for every piece of bytes that passes, on open and on new connections alike, so it
may be set at any time. Nothing here waits by itself: what is cut is cut when the bytes come by.
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

HOST = "127.0.0.1"
PIECE_BYTES = 65_536
# A pattern may begin in one piece and end in the next, if it is no longer than this.
TAIL_BYTES = 256
STOP_SECONDS = 10
# Closing with this set tells the other side at once (RST) instead of saying goodbye.
_ABRUPTLY = struct.pack("ii", 1, 0)


class Speaker(Enum):
    """Whose bytes are passing."""

    CLIENT = "client"
    SERVER = "server"


class Link:
    """One connection through the proxy. ``passed`` counts what each side has said so far."""

    def __init__(self, number: int, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.number = number
        self.passed: Counter[Speaker] = Counter()
        self.silent = False
        self._listeners = {Speaker.CLIENT: server, Speaker.SERVER: client}
        self._tails = {Speaker.CLIENT: b"", Speaker.SERVER: b""}

    async def forward(self, speaker: Speaker, piece: bytes) -> None:
        """Give a piece to the other side."""
        listener = self._listeners[speaker]
        listener.write(piece)
        await listener.drain()

    def end(self, speaker: Speaker) -> None:
        """Tell the other side that this one has no more to say."""
        if not self.silent:
            with suppress(OSError):
                self._listeners[speaker].write_eof()

    def close(self) -> None:
        """Let the connection go, once all is delivered."""
        for writer in self._listeners.values():
            writer.close()

    def cut(self) -> None:
        """End the connection on both sides, without a goodbye."""
        for writer in self._listeners.values():
            plug = writer.get_extra_info("socket")
            if plug is not None and plug.family == socket.AF_INET:
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPTLY)
            writer.transport.abort()

    def seen(self, speaker: Speaker, piece: bytes, pattern: bytes) -> int | None:
        """Where in this piece a pattern begins, negative if in what passed before; None if it is not there."""
        tail = self._tails[speaker][-(len(pattern) - 1) :] if len(pattern) > 1 else b""
        place = (tail + piece).find(pattern)
        return None if place < 0 else place - len(tail)

    def note(self, speaker: Speaker, piece: bytes) -> None:
        """Remember what has passed."""
        self.passed[speaker] += len(piece)
        self._tails[speaker] = (self._tails[speaker] + piece)[-TAIL_BYTES:]


# Forwards a piece, changes it, delays it, cuts the link or does nothing with it.
Fault = Callable[[Link, Speaker, bytes], Awaitable[None]]


async def nothing(link: Link, speaker: Speaker, piece: bytes) -> None:
    """No fault."""
    await link.forward(speaker, piece)


def delay(seconds: float, *, of: Speaker | None = None) -> Fault:
    """Every piece of a side (of both) comes late."""

    async def late(link: Link, speaker: Speaker, piece: bytes) -> None:
        if of in {None, speaker}:
            await asyncio.sleep(seconds)
        await link.forward(speaker, piece)

    return late


def drip(seconds: float, *, of: Speaker, size: int = 1) -> Fault:
    """A side's bytes come a few at a time."""

    async def slow(link: Link, speaker: Speaker, piece: bytes) -> None:
        if speaker is not of:
            return await link.forward(speaker, piece)
        for start in range(0, len(piece), size):
            await link.forward(speaker, piece[start : start + size])
            await asyncio.sleep(seconds)
        return None

    return slow


def drop(of: Speaker) -> Fault:
    """What a side says is lost, though the connection stands."""

    async def lost(link: Link, speaker: Speaker, piece: bytes) -> None:
        if speaker is not of:
            await link.forward(speaker, piece)

    return lost


async def silence(link: Link, speaker: Speaker, piece: bytes) -> None:
    """Half-open: neither side hears from the other any more, not even that it has gone."""
    link.silent = True


def cut(of: Speaker, *, at: bytes = b"", after: int = 0, forward: bool = False, times: int = 0) -> Fault:
    """Cut the link when a side says ``at``, or has said ``after`` bytes; every time, or that many times.

    What comes before is forwarded; what is said then only if ``forward``. A cut at the first byte
    of an answer loses the answer to what was surely done.
    """
    done = 0

    async def sever(link: Link, speaker: Speaker, piece: bytes) -> None:
        nonlocal done
        place = _place(link, piece) if speaker is of and (not times or done < times) else None
        if place is None:
            return await link.forward(speaker, piece)
        done += 1
        if kept := piece if forward else piece[: max(place, 0)]:
            await link.forward(speaker, kept)
        link.cut()
        return None

    def _place(link: Link, piece: bytes) -> int | None:
        if at:
            return link.seen(of, piece, at)
        return after - link.passed[of] if link.passed[of] + len(piece) >= after else None

    return sever


class Chaos:
    """The proxy, in a thread of its own. ``to``: a host and port, or the path of a Unix socket.

    ``fault`` is in force for every link; ``choose`` may give links, by number from 0, one of their own.
    """

    def __init__(self, to: tuple[str, int] | str, *, choose: Callable[[int], Fault | None] = lambda _: None) -> None:
        self.fault: Fault = nothing
        self.links = 0
        self.port = 0
        self._to = to
        self._choose = choose
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._carry, HOST, 0), self._loop).result(
            STOP_SECONDS
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def database_url(self, url: str) -> str:
        """The address of a database by way of this proxy."""
        parts = conninfo_to_dict(url)
        password = f":{quote(str(parts['password']), safe='')}" if parts.get("password") else ""
        user = quote(str(parts.get("user", "postgres")), safe="")
        # A cut is to be seen in the protocol itself, not in what encrypts it.
        return f"postgresql://{user}{password}@{HOST}:{self.port}/{parts['dbname']}?sslmode=disable&gssencmode=disable"

    async def _carry(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.links = self.links, self.links + 1
        own = self._choose(number)
        link = None
        try:
            answers, server = await self._connect()
            link = Link(number, client, server)
            await asyncio.gather(
                self._pass(link, Speaker.CLIENT, reader, own), self._pass(link, Speaker.SERVER, answers, own)
            )
            link.close()
        except (OSError, asyncio.CancelledError):
            link.cut() if link else client.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._to, str):
            return await asyncio.open_unix_connection(self._to)
        return await asyncio.open_connection(*self._to)

    async def _pass(self, link: Link, speaker: Speaker, reader: asyncio.StreamReader, own: Fault | None) -> None:
        """Pass a side's bytes on until it ends, and then the news of its end."""
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await (own or self.fault)(link, speaker, piece)
                link.note(speaker, piece)
        link.end(speaker)

    async def _end(self) -> None:
        # Nobody new is taken, and who was just taken comes as far as having a task of ours: closing the server
        # in between would leave that connection to nobody.
        for listener in self._server.sockets:
            self._loop.remove_reader(listener.fileno())
        for _ in range(10):
            await asyncio.sleep(0)
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def socket_of(url: str) -> tuple[str, int] | str:
    """Where a database's server listens: what ``Chaos`` takes for ``to``."""
    parts = conninfo_to_dict(url)
    host, port = str(parts.get("host", HOST)), int(str(parts.get("port", 5432)))
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
