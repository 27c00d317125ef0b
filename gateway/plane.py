"""The data plane: what gateways call with every request, as an ASGI callable ahead of Django.

It answers the busiest paths only, and only requests of the plainest form; for anything else ``takes``
is false and Django's views, over the same verbs, answer. What an answer carries, how errors look and
who may call is the same on both sides (``core.http``, ``orgs``); one suite of tests asks both.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from core import errors, http, wire
from gateway import authorizations, calls, chat, events, groups, responses, threads
from gateway.compression import inflate
from gateway.groups import Groups
from metering import tokens, usage_pages
from metering.events import NDJSON
from ops import idempotency
from orgs import addresses, permissions, principals
from orgs.authentication import bearer
from orgs.principals import ORGANIZATION_HEADER, Principal

Scope = Mapping[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Mapping[str, str]

EVENTS = "/v1/events"
LITELLM = "/v1/events/litellm"
AUTHORIZATIONS = "/v1/authorizations"
USAGE = "/v1/usage"
IDEMPOTENCY = idempotency.HEADER.lower()

# After the answer an unread body is read and dropped so that the answer is seen, by so many requests at once.
_DROP_BYTES_MAX = 64 * 1024 * 1024
_DROP_SECONDS = 60
_DROPPING_MAX = 4
# How many requests may wait for a page.
_PAGES_MAX = 256
# Within which a body must be whole.
_BODY_SECONDS = 60
# So long a call that comes whole is waited for without looking whether its client is still there.
_ALONE_SECONDS = 1.0
# What Django's middleware puts on every answer of ours.
_ALWAYS = (
    (b"x-frame-options", settings.X_FRAME_OPTIONS.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", settings.SECURE_REFERRER_POLICY.encode()),
    (b"cross-origin-opener-policy", settings.SECURE_CROSS_ORIGIN_OPENER_POLICY.encode()),
    (b"deepailab-version", settings.API_VERSION.encode()),
)
_ALWAYS_SECURE = (
    *_ALWAYS,
    (b"strict-transport-security", f"max-age={settings.SECURE_HSTS_SECONDS}; includeSubDomains; preload".encode()),
)


class Gone(Exception):
    """Who asked has left before the body was whole."""


class Call(NamedTuple):
    """A request: its head as text, and its body as it came, or what was made of it as it came."""

    headers: Headers
    peer: str
    raw: bytes
    path: str
    arrived: events.Arriving | None = None


class Told(NamedTuple):
    """An answer, ready for the wire."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Flow(NamedTuple):
    """An answer that goes out part by part; whoever stops listening is told of by ``leave``.

    After ``quiet`` seconds without a part, ``pulse`` is sent in its place.
    """

    parts: AsyncIterator[bytes]
    leave: Callable[[], None]
    quiet: float
    pulse: bytes
    content_type: str = "text/event-stream"
    headers: Mapping[str, str] = {}


def takes(scope: Scope) -> dict[str, str] | None:
    """The headers of a request for the data plane: one of its operations, in plain form; or a model call in any."""
    calls_model = scope["path"] in _CALLS
    if not calls_model and (scope["method"], scope["path"]) not in _DOORS:
        return None
    headers = headers_of(scope)
    return headers if _is_ours_to_answer(scope, headers, calls_model=calls_model) else None


def _is_ours_to_answer(scope: Scope, headers: Headers, *, calls_model: bool) -> bool:
    if calls_model:
        return _is_ours(headers.get("host", "")) and (not settings.SECURE_SSL_REDIRECT or _is_secure(scope, headers))
    if scope["method"] == "GET" and ("transfer-encoding" in headers or headers.get("content-length", "0") != "0"):
        # Nobody reads that body here.
        return False
    if scope["path"] == USAGE and b"metadata" in scope.get("query_string", b""):
        # No index and no rollup knows these: such a page may take long.
        return False
    if scope["path"] == AUTHORIZATIONS and (IDEMPOTENCY in headers or not _is_json(headers.get("content-type", ""))):
        return False
    return (
        _is_ours(headers.get("host", ""))
        and _takes_json(headers.get("accept", ""))
        # Django sends whoever comes over plain HTTP to HTTPS.
        and (not settings.SECURE_SSL_REDIRECT or _is_secure(scope, headers))
    )


async def application(scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
    """Answer one request that ``takes`` gave the headers of."""
    started = time.monotonic_ns()
    # One id for the answer, for what is logged and for what is recorded.
    correlation = headers["x-request-id"] = http.correlation(headers.get("x-request-id", ""))
    body = Body(headers, receive)
    try:
        try:
            told = await _door(scope)(scope, headers, body)
        except Gone:
            raise
        except Exception as error:  # noqa: BLE001 - every failure is an answer
            told = _refused(http.from_exception(error), accept=headers.get("accept", ""), correlation=correlation)
    except Gone:
        return
    await send(_start(told, correlation=correlation, started=started))
    if isinstance(told, Flow):
        await _pour(told, receive, send)
        return
    await send({"type": "http.response.body", "body": told.body})
    await body.drop()


async def refuse(error: errors.ApiError, scope: Scope, send: Send) -> None:
    """Answer a request that nobody is to read."""
    started = time.monotonic_ns()
    headers = headers_of(scope)
    correlation = http.correlation(headers.get("x-request-id", ""))
    told = _refused(error, accept=headers.get("accept", ""), correlation=correlation)
    await send(_start(told, correlation=correlation, started=started))
    await send({"type": "http.response.body", "body": told.body})


def _start(told: "Told | Flow", *, correlation: str, started: int) -> Message:
    """The head of an answer."""
    return {
        "type": "http.response.start",
        "status": 200 if isinstance(told, Flow) else told.status,
        "headers": [
            (b"content-type", told.content_type.encode()),
            (b"cache-control", b"no-store") if isinstance(told, Flow) else (b"content-length", b"%d" % len(told.body)),
            (b"x-request-id", correlation.encode()),
            (b"deepailab-processing-ms", b"%d" % ((time.monotonic_ns() - started) // 1_000_000)),
            *(_ALWAYS_SECURE if settings.SECURE_SSL_REDIRECT else _ALWAYS),
            *((name.lower().encode(), value.encode("latin-1")) for name, value in told.headers.items()),
        ],
    }


def _door(scope: Scope) -> "Door":
    """What answers. Raises ``MethodNotAllowed``."""
    if scope["path"] in _CALLS:
        if scope["method"] != "POST":
            raise errors.MethodNotAllowed(headers={"Allow": "POST"})
        return _CALLS[scope["path"]]
    return _DOORS[scope["method"], scope["path"]]


async def _pour(flow: Flow, receive: Receive, send: Send) -> None:
    """Send part after part for as long as somebody listens."""
    gone = asyncio.ensure_future(_listen(receive, flow.leave))
    try:
        parts = aiter(flow.parts)
        coming: asyncio.Task[bytes | None] | None = None
        while True:
            coming = coming or asyncio.ensure_future(_next(parts))
            await asyncio.wait([coming, gone], timeout=flow.quiet, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                coming.cancel()
                return
            if not coming.done():
                await send({"type": "http.response.body", "body": flow.pulse, "more_body": True})
                continue
            part = coming.result()
            coming = None
            if part is None:
                break
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except Exception:
        # Whatever it was, nobody reads on.
        flow.leave()
        raise
    finally:
        gone.cancel()


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    """What goes out next; None at the end."""
    return await anext(parts, None)


async def _listen(receive: Receive, leave: Callable[[], None]) -> None:
    """Wait until the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    leave()


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers as WSGI has them: text, and one that was sent twice joined by a comma."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


@lru_cache(maxsize=256)
def _is_ours(host: str) -> bool:
    """Whether the host is one that Django would serve."""
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


def _is_secure(scope: Scope, headers: Headers) -> bool:
    """As Django's ``request.is_secure``."""
    if settings.SECURE_PROXY_SSL_HEADER is None:
        return bool(scope["scheme"] == "https")
    name, value = settings.SECURE_PROXY_SSL_HEADER
    told = headers.get(name.removeprefix("HTTP_").lower().replace("_", "-"))
    return told is not None and told.split(",", 1)[0].strip() == value


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    return content_type.split(";")[0].strip().lower() == "application/json"


@lru_cache(maxsize=256)
def _takes_json(accept: str) -> bool:
    """Whether an ``Accept`` plainly takes JSON; Django's view negotiates about the rest."""
    told = {part.split(";")[0].strip().lower() for part in accept.split(",")}
    return not accept.strip() or (
        "text/csv" not in told and not told.isdisjoint({"*/*", "application/*", "application/json", http.PROBLEM})
    )


def _refused(error: errors.ApiError, *, accept: str, correlation: str) -> Told:
    refusal = http.refusal(error, accept=accept, correlation=correlation)
    return Told(refusal.status, refusal.body, refusal.content_type, refusal.headers)


class Body:
    """A request's body as it comes in; ``length`` is what its sender declared, in bytes, 0 for chunks.

    ``size`` bytes of it have come.
    """

    def __init__(self, headers: Headers, receive: Receive) -> None:
        self._headers = headers
        self._receive = receive
        told = headers.get("content-length", "0")
        # What is no length is too much.
        self.length = int(told) if told.isdecimal() else settings.BODY_BYTES_MAX + 1
        self._left = self.length > 0 or "transfer-encoding" in headers
        self.size = 0

    def is_whole(self) -> bool:
        """Whether all of it has come."""
        return not self._left

    async def part(self) -> bytes:
        """Its next bytes. Raises ``RequestTooLarge`` when they are too many, or ``Gone``."""
        part = await self._receive_part()
        self.size += len(part)
        if self.size > settings.BODY_BYTES_MAX:
            raise _too_large(settings.BODY_BYTES_MAX)
        return part

    async def left(self) -> None:
        """Wait until its sender hangs up; all of it has come."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def drop(self) -> None:
        """Read what nobody has read: who is cut off while sending may never see the answer.

        Who asks first, and was not answered by reading, has sent nothing.
        """
        asks = "expect" in self._headers and self.size == 0
        if not self._left or asks or not _dropping.acquire(blocking=False):
            return
        try:
            size = 0
            async with asyncio.timeout(_DROP_SECONDS):
                while self._left and size < _DROP_BYTES_MAX:
                    size += len(await self._receive_part())
        except (Gone, TimeoutError):
            return
        finally:
            _dropping.release()

    async def _receive_part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Gone
        self._left = message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


_dropping = threading.BoundedSemaphore(_DROPPING_MAX)


def _too_large(limit: int) -> errors.RequestTooLarge:
    return errors.RequestTooLarge(f"A body has at most {limit} bytes.")


def _gateway(headers: Headers, peer: str, *, scope: str) -> Principal:
    """Who calls, if a gateway may do so there. Raises an ``ApiError``."""
    principal = _identify(headers, peer, default_only=True)
    permissions.check(principal, kinds=permissions.SERVICE, needs=None, scope=scope)
    return principal


def _identify(headers: Headers, peer: str, *, default_only: bool) -> Principal:
    """Whose key a request carries. Raises an ``ApiError``."""
    authorization = headers.get("authorization")
    if authorization is None:
        raise errors.InvalidApiKey
    return principals.identify(
        secret=bearer(authorization),
        header=headers.get(_ORGANIZATION),
        address=addresses.client(
            peer=peer, forwarded=headers.get("x-forwarded-for", ""), proxies=settings.TRUSTED_PROXIES
        ),
        default_only=default_only,
    )


_ORGANIZATION = ORGANIZATION_HEADER.lower()


def _read_events(call: Call) -> events.Reading:
    reporter = _gateway(call.headers, call.peer, scope=_SCOPES[EVENTS])
    if call.arrived is not None:
        return call.arrived.read(reporter=reporter)
    raw = inflate(call.raw, encoding=_encoding(call.headers), limit=settings.BODY_BYTES_MAX)
    read = events.read_litellm if call.path == LITELLM else events.read
    return read(raw, media_type=_media_type(call.headers), reporter=reporter)


def _encoding(headers: Headers) -> str:
    return headers.get("content-encoding", "").strip().lower()


def _media_type(headers: Headers) -> str:
    return (headers.get("content-type") or "application/json").split(";")[0].strip().lower()


def _write_events(readings: Sequence[events.Reading]) -> list[Told | Exception]:
    return [_told(answer) for answer in events.write(readings)]


def _told(answer: events.Answer) -> Told:
    headers = http.error_headers(answer.error) if answer.error else {}
    return Told(answer.status, wire.encode(answer.body), headers=headers)


def _read_authorization(call: Call) -> authorizations.Reading:
    asker = _gateway(call.headers, call.peer, scope=_SCOPES[AUTHORIZATIONS])
    return authorizations.Reading(authorizations.admit(http.json_object(call.raw), asker=asker), asker)


def _write_authorizations(readings: Sequence[authorizations.Reading]) -> list[Told | Exception]:
    if len(readings) == 1:
        return [_created(authorizations.place_alone(readings[0]))]
    placed = authorizations.place_together(readings)
    return [groups.Alone() if told is None else _created(told) for told in placed]


def _created(told: Mapping[str, Any]) -> Told:
    return Told(201, wire.encode(told))


_writers, _readers, _pagers = threads.writers, threads.readers, threads.pagers
assert _writers.number >= 2 * groups.WRITERS_MAX
_events: Groups[Call, events.Reading, Told] = Groups(
    read=_read_events, write=_write_events, readers=_readers, writers=_writers
)
_authorizations: Groups[Call, authorizations.Reading, Told] = Groups(
    read=_read_authorization, write=_write_authorizations, readers=_readers, writers=_writers
)
_SCOPES = {
    EVENTS: permissions.EVENTS_WRITE,
    LITELLM: permissions.EVENTS_WRITE,
    AUTHORIZATIONS: permissions.AUTHORIZATIONS_WRITE,
}


async def _chat(scope: Scope, headers: Headers, body: Body) -> "Told | Flow":
    """``POST /v1/chat/completions``. Raises an ``ApiError``."""
    raw, key = await _call_body(headers, body), idempotency.read_key(headers.get(IDEMPOTENCY))
    who = partial(_identify, headers, _peer(scope), default_only=False)
    call = await chat.begin(
        raw, who=who, request_id=headers["x-request-id"], key=key, long=_encoding(headers) not in {"", "identity"}
    )
    if not call.prompt.stream:
        await _attend(call, body)
        return Told(200, chat.whole(call, await call.answer()), headers=call.headers)
    quiet = settings.CALL_KEEP_ALIVE_MS / 1000
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(quiet):
            await call.begin()
    return Flow(chat.parts(call), call.leave, quiet, chat.KEEP_ALIVE, headers=call.headers)


async def _responses(scope: Scope, headers: Headers, body: Body) -> "Told | Flow":
    """``POST /v1/responses``. Raises an ``ApiError``."""
    request_id = http.correlation(headers.get("x-request-id", ""))
    raw, key = await _call_body(headers, body), idempotency.read_key(headers.get(IDEMPOTENCY))
    who = partial(_identify, headers, _peer(scope), default_only=False)
    call, request = await responses.begin(
        raw, who=who, request_id=request_id, key=key, long=_encoding(headers) not in {"", "identity"}
    )
    if not call.prompt.stream:
        await _attend(call, body)
        return Told(200, responses.whole(call, request, await call.answer()), headers=call.headers)
    quiet = settings.CALL_KEEP_ALIVE_MS / 1000
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(quiet):
            await call.begin()
    return Flow(responses.parts(call, request), call.leave, quiet, responses.KEEP_ALIVE, headers=call.headers)


async def _attend(call: calls.Call, body: Body) -> None:
    """Wait for an answer that comes whole while somebody waits for it. Raises what ``begin`` raises, or ``Gone``."""
    # Most calls are over by then; a client that has left by then is still seen to have left.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ALONE_SECONDS):
            await call.begin()
            return
    gone = asyncio.ensure_future(body.left())
    begun = asyncio.ensure_future(call.begin())
    try:
        await asyncio.wait([begun, gone], return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            call.leave()
            raise Gone
        begun.result()
    finally:
        gone.cancel()
        begun.cancel()


async def _call_body(headers: Headers, body: Body) -> bytes:
    """All of a model call's body. Raises an ``ApiError``."""
    if not _is_json(headers.get("content-type", "")):
        raise errors.UnsupportedMediaType("A model call's body is application/json.")
    if body.length > settings.BODY_BYTES_MAX:
        raise _too_large(settings.BODY_BYTES_MAX)
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while not body.is_whole():
                parts.append(await body.part())
    except TimeoutError as error:
        raise errors.InvalidRequest(f"The body was not whole within {_BODY_SECONDS} seconds.") from error
    raw = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = _encoding(headers)
    if encoding in {"", "identity"}:
        return raw
    return await _readers.call(partial(inflate, raw, encoding=encoding, limit=settings.BODY_BYTES_MAX))


async def _post(door: Groups[Call, Any, Told], scope: Scope, headers: Headers, body: Body) -> Told:
    """Take the body in and wait for the answer. Raises what is raised on the way."""
    if body.length > settings.BODY_BYTES_MAX:
        raise _too_large(settings.BODY_BYTES_MAX)
    door.check_room(body.length)
    peer = _peer(scope)
    lines = scope["path"] == EVENTS and _media_type(headers) == NDJSON
    if "expect" in headers or "transfer-encoding" in headers or body.length > groups.SMALL_BYTES:
        # Who may not send it is told so before having sent it, or very much of it.
        await _readers.call(partial(_gateway, headers, peer, scope=_SCOPES[scope["path"]]))
    held = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            raw = b""
            arriving: events.Arriving | None = None
            parts: list[bytes] = []
            while not body.is_whole():
                part = await body.part()
                if not part:
                    continue
                door.hold(len(part))
                held += len(part)
                if arriving is not None:
                    # Nobody sends faster than this is decoded: what is not asked for waits at the sender's.
                    await _readers.call(partial(arriving.feed, part))
                    continue
                parts.append(part)
                if lines and body.size > groups.SMALL_BYTES and not body.is_whole():
                    arriving = events.Arriving(encoding=_encoding(headers))
                    await _readers.call(partial(arriving.feed, b"".join(parts)))
            raw = parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError as error:
        raise errors.InvalidRequest(f"The body was not whole within {_BODY_SECONDS} seconds.") from error
    finally:
        door.give_back(held)
    if arriving is not None:
        return await door.answer(Call(headers, peer, b"", scope["path"], arriving), size=arriving.size)
    return await door.answer(
        Call(headers, peer, raw, scope["path"]),
        size=len(raw),
        long=_encoding(headers) not in {"", "identity"} or _has_text(raw),
    )


def _has_text(raw: bytes) -> bool:
    """Whether a body may hold text whose tokens are to be counted; the tables for it are large."""
    return b'"messages"' in raw or b'_text"' in raw or b"\\u" in raw


def _peer(scope: Scope) -> str:
    peer: str = (scope.get("client") or ("", 0))[0]
    return peer


_pages = 0


async def _list_usage(scope: Scope, headers: Headers, _body: Body) -> Told:
    """``GET /v1/usage`` as JSON. Raises an ``ApiError``."""
    global _pages
    if _pages >= _PAGES_MAX:
        raise groups.too_much()
    _pages += 1
    try:
        return await _pagers.call(partial(_usage_page, headers, _peer(scope), scope["query_string"]))
    finally:
        _pages -= 1


def _params(query: bytes) -> dict[str, list[str]]:
    """The parameters as Django reads them. Raises ``InvalidRequest`` when they are too many."""
    try:
        text = query.decode()
    except UnicodeDecodeError:
        text = query.decode("latin-1")
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=settings.DATA_UPLOAD_MAX_NUMBER_FIELDS)
    except ValueError as error:
        raise errors.InvalidRequest from error


def _usage_page(headers: Headers, peer: str, query: bytes) -> Told:
    principal = _identify(headers, peer, default_only=False)
    about = {"deepailab-organization": principal.organization_slug} if principal.organization_slug else {}
    try:
        permissions.check(principal, kinds=permissions.CUSTOMER, needs=permissions.USAGE_READ_OWN, scope=None)
        params = _params(query)
        return Told(200, usage_pages.answer(principal=principal, params=params), headers=about)
    except Exception as error:
        refusal = http.from_exception(error)
        refusal.headers = refusal.headers | about
        raise refusal from error


Door = Callable[[Scope, Headers, Body], Awaitable[Told | Flow]]
_CALLS: Mapping[str, Door] = {**dict.fromkeys(chat.PATHS, _chat), responses.PATH: _responses}
_DOORS: Mapping[tuple[str, str], Door] = {
    ("POST", EVENTS): partial(_post, _events),
    ("POST", LITELLM): partial(_post, _events),
    ("POST", AUTHORIZATIONS): partial(_post, _authorizations),
    ("GET", USAGE): _list_usage,
}


async def live(receive: Receive, send: Send) -> None:
    """The life of a worker (ASGI's lifespan): at its end, calls that are under way are brought into the books."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            _drain_on_stop()
            # The first request need not wait for the token tables.
            threading.Thread(target=tokens.warm, name="tables", daemon=True).start()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await calls.drain()
            await send({"type": "lifespan.shutdown.complete"})
            return


def _drain_on_stop() -> None:
    """Begin to drain with the signal to stop: the server waits for open streams before it says that it shuts down."""
    loop = asyncio.get_running_loop()

    def begin() -> None:
        _draining.append(loop.create_task(calls.drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        known = signal.getsignal(number)

        def stop(signum: int, frame: Any, known: Any = known) -> None:
            loop.call_soon_threadsafe(begin)
            # The server's own handler is the loop's, which hears of the signal all the same.
            if callable(known):
                known(signum, frame)

        with contextlib.suppress(ValueError):
            # Not in the main thread: then nobody sends signals here.
            signal.signal(number, stop)


_draining: "list[asyncio.Task[None]]" = []
