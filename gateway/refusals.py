"""Model calls that were refused before anything was set aside, as rows of the log of failed requests (decisions 15).

A refusal's row is for whoever looks into it later, so it must never cost more than the refusal did. Rows are written
behind the answers, many in one transaction, at zero cost by the verb of every failed event. A key has
``EACH_A_MINUTE`` of one code, a process ``ALL_A_MINUTE`` of all; what is beyond is counted, and the next row of its
kind says how many (``also_refused``). So a flood of 429s is a few rows.

No row: a caller who could not be identified (401: it is in nobody's log), a body that could not be taken in, and what
is refused because too much waits. Rows that wait are lost with their process.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from billing import charges
from core import clock, errors, http, ids
from gateway import threads
from metering import events
from metering.attribution import Attributed
from metering.events import Event
from metering.verdicts import Status
from orgs.keys import mentions
from orgs.principals import Principal

log = logging.getLogger(__name__)

EACH_A_MINUTE = 10
ALL_A_MINUTE = 1000
# Rows that may wait to be written, and how many are written together.
WAITING_MAX = 1000
TOGETHER_MAX = 200
# Kinds of refusals of which a process remembers how many had no row.
KINDS_MAX = 10_000
WRITE_SECONDS = 1.0
# After a failure, so that a database that is away is not asked all the time.
AGAIN_SECONDS = 10.0
TRIES_MAX = 30
# What a process that stops has for the last rows.
LAST_SECONDS = 2.0
# A body larger than this is not read a second time for the model that it names.
BODY_BYTES_MAX = 64 * 1024
# The model of a request that names none, or none that may be kept.
UNKNOWN = "unknown"


class Refused(NamedTuple):
    """A refusal as it is noted. ``body`` is what was asked, where nobody had read it; ``also``: how many had no row."""

    principal: Principal
    status: int
    code: str
    endpoint: str
    request_id: str
    at: datetime
    model: str
    stream: bool | None
    body: bytes = b""
    also: int = 0


class Kept:
    """How many rows there have been in this minute, and how many refusals went without."""

    def __init__(self) -> None:
        self._minute = -1
        self._all = 0
        self._each: Counter[tuple[UUID, str]] = Counter()
        self._without: Counter[tuple[UUID, str]] = Counter()

    def enter(self, key: UUID, code: str, *, minute: int, has_room: bool) -> int | None:
        """Room for a row: how many alike had none since the last; None where there is none for this one either."""
        if minute != self._minute:
            self._minute, self._all = minute, 0
            self._each.clear()
        kind = (key, code)
        if not has_room or self._all >= ALL_A_MINUTE or self._each[kind] >= EACH_A_MINUTE:
            if kind in self._without or len(self._without) < KINDS_MAX:
                self._without[kind] += 1
            return None
        self._all += 1
        self._each[kind] += 1
        return self._without.pop(kind, 0)


_kept = Kept()
_waiting: deque[Refused] = deque()
_writing: "asyncio.Task[None] | None" = None
_writers = threads.writers


def note(refused: Refused) -> None:
    """Keep a refusal for the log as far as there is room; in the event loop, and at once."""
    global _writing
    room = len(_waiting) < WAITING_MAX
    also = _kept.enter(refused.principal.key_id, refused.code, minute=_minute(refused.at), has_room=room)
    if also is None:
        return
    body = refused.body if len(refused.body) <= BODY_BYTES_MAX else b""
    _waiting.append(refused._replace(also=also, body=body))
    if _writing is None or _writing.done():
        _writing = asyncio.get_running_loop().create_task(_write_all())


def _minute(at: datetime) -> int:
    return clock.to_unix(at) // 60


async def _write_all() -> None:
    """Write what waits, a while after it came."""
    failures = 0
    while _waiting:
        await asyncio.sleep(AGAIN_SECONDS if failures else WRITE_SECONDS)
        failures = 0 if await _write_some(again=failures < TRIES_MAX) else failures + 1


async def _write_some(*, again: bool) -> bool:
    """Write the first that wait; whether that went well. If not they wait on, where it is to be tried ``again``."""
    some = [_waiting.popleft() for _ in range(min(len(_waiting), TOGETHER_MAX))]
    if not some:
        # They were written meanwhile, as the process stops.
        return True
    try:
        await _writers.call(partial(write, some))
    except Exception as error:  # noqa: BLE001 - nobody waits for it, and it is tried again
        log.warning("%d refusals are not in the log of failed requests: %s", len(some), type(error).__name__)
        if again:
            _waiting.extendleft(reversed(some))
        return not again
    return True


async def drain() -> None:
    """The process stops: write what waits, if that is done soon."""
    try:
        async with asyncio.timeout(LAST_SECONDS):
            while _waiting:
                await _write_some(again=False)
    except TimeoutError:
        log.warning("%d refusals are left out of the log of failed requests", len(_waiting))
        _waiting.clear()


def write(some: Sequence[Refused]) -> None:
    """Bring refusals into the log of failed requests, at no cost. Raises ``Unavailable`` where none could be."""
    told = charges.record([_attributed(place, one) for place, one in enumerate(some)], reported_by=None)
    if all(verdict.status is Status.FAILED for verdict in told):
        raise errors.Unavailable


def _attributed(place: int, one: Refused) -> Attributed:
    who = one.principal
    assert who.organization_id is not None, "who is nobody's has no log"
    model, stream = (one.model, one.stream) if one.model else _said(one.body)
    event = Event(
        event_id=f"refused-{ids.new().hex}", model=model, occurred_at=one.at, endpoint=one.endpoint, stream=stream,
        status=one.status, outcome="completed" if one.status < 500 else "upstream_error", attempts=0,
        request_id=one.request_id, input_tokens=0, output_tokens=0,
        metadata={"code": one.code} | ({"also_refused": str(one.also)} if one.also else {}),
    )  # fmt: skip
    fingerprint = events.fingerprint(event, organization=who.organization_id.bytes, key=who.key_id.bytes)
    return Attributed(
        place, event, who.organization_id, who.organization_id, who.key_id, who.member_id, who.project_id, fingerprint
    )


def _said(body: bytes) -> tuple[str, bool | None]:
    """The model that a body names, if it may be kept, and whether it asks for a stream."""
    try:
        told = http.json_object(body)
    except errors.ApiError:
        return UNKNOWN, None
    model, stream = told.get("model"), told.get("stream")
    if not isinstance(model, str) or not 0 < len(model) <= 128 or not model.isprintable() or mentions(model):
        model = UNKNOWN
    return model, stream if isinstance(stream, bool) else None
