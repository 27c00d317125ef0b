"""One call of an upstream over HTTP, by OpenAI's protocol: whole or as a stream, with bounds on time and size.

What comes from there is material: it is parsed strictly, bounded, and never logged. Every failure is a
``Failed`` that says what may be done about it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import msgspec

from gateway.channels import ChannelFacts

# A line of a stream, an answer as a whole, what is read of a refusal.
LINE_BYTES_MAX = 1024 * 1024
ANSWER_BYTES_MAX = 32 * 1024 * 1024
REFUSAL_BYTES_MAX = 64 * 1024
# How long the end of a line is waited for behind the last part, so that the connection can be used again.
_LAST_SECONDS = 0.02
MESSAGE_CHARS_MAX = 500
RETRY_AFTER_MAX = 120
# Statuses by which an upstream refuses the request and not us (contract 14); any other is its own fault or ours.
_OF_THE_REQUEST = frozenset({400, 413, 415, 422})

log = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder()


@dataclass
class Failed(Exception):
    """A call that came to nothing, or broke off.

    ``kind``: ``connect``, ``timeout``, ``reset``, ``status``, ``malformed``. ``of_request``: the upstream refuses
    the request itself, so nobody else need be asked; ``message`` is what it said.
    """

    kind: str
    status: int | None = None
    of_request: bool = False
    message: str = ""
    retry_after: float | None = None

    def __str__(self) -> str:
        """Without anything that the upstream said."""
        return self.kind if self.status is None else f"{self.kind} {self.status}"


def encode(body: Mapping[str, Any]) -> bytes:
    """A request's JSON."""
    return _encoder.encode(body)


# A loop's session, made on first use: connections belong to the loop that opened them.
_sessions: "WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession]" = WeakKeyDictionary()


def _session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        found = _sessions[loop] = aiohttp.ClientSession(
            # Channels have limits of their own.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "tollbook"},
            read_bufsize=32 * 1024,
        )
    return found


async def close() -> None:
    """Close this loop's connections."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()


@lru_cache(maxsize=256)
def _connecting(seconds: float) -> aiohttp.ClientTimeout:
    """Bounds the connecting alone: the rest is bounded here."""
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds)


@contextlib.asynccontextmanager
async def _post(
    channel: ChannelFacts, path: str, body: Mapping[str, Any], *, accept: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer that has begun, with status 200. Raises ``Failed``."""
    headers = {"Content-Type": "application/json", "Accept": accept}
    if channel.key:
        headers["Authorization"] = f"Bearer {channel.key}"
    try:
        async with asyncio.timeout(channel.first_byte_seconds):
            answer = await _session().post(
                channel.base_url + path,
                data=encode(body),
                headers=headers,
                allow_redirects=False,
                timeout=_connecting(channel.connect_seconds),
            )
    except TimeoutError as error:
        raise Failed("timeout") from error
    except aiohttp.ClientConnectorError as error:
        raise Failed("connect") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Failed("reset") from error
    try:
        if answer.status != 200:
            raise await _refusal(channel, answer)
        yield answer
    finally:
        # Not released: what is left unread of it is not waited for.
        if not answer.content.at_eof():
            answer.close()
        else:
            answer.release()


async def _refusal(channel: ChannelFacts, answer: aiohttp.ClientResponse) -> Failed:
    of_request = answer.status in _OF_THE_REQUEST
    said = bytearray()
    if of_request:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(channel.idle_seconds):
                # It may come in parts, of which a read gives the next.
                while part := await answer.content.read(REFUSAL_BYTES_MAX - len(said)):
                    said += part
    message = _message(bytes(said), channel.key) if said else ""
    return Failed("status", answer.status, of_request, message, _retry_after(answer) if answer.status == 429 else None)


def _message(raw: bytes, key: str) -> str:
    """What a refusal says to a person, without our key."""
    try:
        value = _decoder.decode(raw)
        text = value["error"]["message"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, LookupError):
        return ""
    if type(text) is not str:
        return ""
    if key:
        text = text.replace(key, "[redacted]")
    return "".join(letter if letter.isprintable() else " " for letter in text[:MESSAGE_CHARS_MAX])


def _retry_after(answer: aiohttp.ClientResponse) -> float:
    text = answer.headers.get("Retry-After", "")
    return float(min(int(text), RETRY_AFTER_MAX)) if text.isdecimal() and len(text) < 10 else 1.0


async def complete(
    channel: ChannelFacts, body: Mapping[str, Any], *, path: str = "/chat/completions"
) -> dict[str, Any]:
    """The whole answer. Raises ``Failed``; also when it is no JSON object."""
    async with _post(channel, path, body, accept="application/json") as answer:
        parts: list[bytes] = []
        size = 0
        while part := await _read(channel, answer):
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                raise Failed("malformed")
            parts.append(part)
    return _object(b"".join(parts))


async def stream(
    channel: ChannelFacts, body: Mapping[str, Any], *, path: str = "/chat/completions"
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a streamed answer, up to ``[DONE]``. Raises ``Failed`` where it breaks off before.

    Whoever stops reading closes the iterator (``aclose``), which hangs up.
    """
    async with _post(channel, path, body, accept="text/event-stream") as answer:
        if answer.content_type == "application/json":
            # Some answer a request for a stream as a whole.
            raise Failed("malformed")
        rest = bytearray()
        event: list[bytes] = []
        size = 0
        while part := await _read(channel, answer):
            rest += part
            at = 0
            while (end := rest.find(b"\n", at)) >= 0:
                line = bytes(rest[at:end]).rstrip(b"\r")
                at = end + 1
                if line.startswith(b"data:"):
                    size += len(line)
                    event.append(line[5:].strip())
                elif not line and event:
                    data = event[0] if len(event) == 1 else b"\n".join(event)
                    event, size = [], 0
                    if data == b"[DONE]":
                        # What may still follow is nothing; to its end the connection can be used again.
                        with contextlib.suppress(Failed):
                            await _read(channel, answer, seconds=_LAST_SECONDS)
                        return
                    yield _object(data)
                if size > LINE_BYTES_MAX:
                    raise Failed("malformed")
            del rest[:at]
            if len(rest) > LINE_BYTES_MAX:
                raise Failed("malformed")
        if event != [b"[DONE]"]:
            raise Failed("reset")


async def _read(channel: ChannelFacts, answer: aiohttp.ClientResponse, *, seconds: float | None = None) -> bytes:
    """What comes next, nothing at the end. Raises ``Failed``."""
    if answer.content.is_eof() and answer.content.exception() is None:
        # All of it has come, as a short answer's mostly has with its head: nothing is waited for.
        return answer.content.read_nowait()
    try:
        async with asyncio.timeout(seconds or channel.idle_seconds):
            return await answer.content.readany()
    except TimeoutError as error:
        raise Failed("timeout") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Failed("reset") from error


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failed("malformed") from error
    if type(value) is not dict:
        raise Failed("malformed")
    return value
