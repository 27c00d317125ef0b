"""Model calls: admitted, held for, routed, answered, settled. What every surface of the gateway is made of.

    call = await calls.make(asking, size=len(raw))
    answer = await call.answer()                    # a whole answer, or
    async for chunk in call.chunks(): ...           # its parts
    call.settled                                    # counts, cost, the usage record

The work runs in a task of its own: who hangs up (``call.leave``) does not stop the settlement. Money goes the
ways of the other doors: the hold is the one of ``/v1/authorizations``, the charge the one of ``/v1/events``, each
by group commit; the call's id is the event's. Texts are counted and forgotten: none is stored, none is logged.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing import admissions, charges, distribution, holds
from billing.budgets import Counted
from core import clock, errors, ids, money
from core.transactions import LOCK_NOT_AVAILABLE, RETRYABLE, retry
from gateway import (
    channels,
    counts,
    echo,
    groups,
    health,
    limits,
    native,
    refusals,
    replays,
    routing,
    terms,
    threads,
    upstream,
)
from gateway.channels import CapName, Kind
from gateway.groups import GROUP_LOCK_MS, Groups
from gateway.limits import Permit
from gateway.routing import Candidate
from gateway.upstream import Failed
from metering import attempts, catalog, events, pricing, rating, tokens
from metering.attempts import Tried
from metering.attribution import Attributed
from metering.events import Event
from metering.models import CatalogModel
from metering.verdicts import Status
from orgs import keys, organizations, permissions
from orgs.keys import mentions
from orgs.organizations import OrganizationFacts
from orgs.principals import Principal

log = logging.getLogger(__name__)

# Parts of an answer that wait for a client that reads slowly.
BUFFER_MAX = 32
# Text of an answer that is kept to be counted should the upstream not do so; beyond it, by the rule of thumb.
TEXT_CHARS_MAX = 4_000_000
# How long a client waits for its call to be on disk before it has its answer without.
SETTLE_WAIT_SECONDS = 10
SETTLE_SECONDS_MAX = 600
SETTLE_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0)
# What a process that stops has for the last settlements.
LAST_SECONDS = 5
END_USER_CHARS_MAX = 128
INSUFFICIENT = "insufficient_system_resource"


class Prompt(NamedTuple):
    """A request that has been read: what is sent on, but for the model, the cap and how the answer comes.

    ``digest`` stands for all that it says. ``cap`` is on the tokens of each of ``n`` choices, ``cap_name`` what a
    chat's client called it. ``native`` is the same as a request for a response, for upstreams that take those.
    """

    model: CatalogModel
    name: str
    body: Mapping[str, Any]
    stream: bool
    include_usage: bool
    cap: int | None
    n: int
    end_user: str | None
    digest: bytes
    native: Mapping[str, Any] | None = None
    cap_name: str = ""


class Asking(NamedTuple):
    """A request as it came: who asks, and what. Both raise an ``ApiError``. ``key`` is its ``Idempotency-Key``.

    ``raw`` is its body.
    """

    who: Callable[[], Principal]
    read: Callable[[], Prompt]
    endpoint: str
    request_id: str
    key: str | None = None
    raw: bytes = b""
    trail: "Trail | None" = None


class Trail:
    """How far a request has come, for who must clear up behind one that is refused."""

    __slots__ = ("permit", "principal", "prompt")

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self.prompt: Prompt | None = None
        # The room that it has been given within its limits.
        self.permit: Permit | None = None


class Admitted(NamedTuple):
    """A request that may be made, what it can cost at most, and whom to ask."""

    id: str
    asking: Asking
    principal: Principal
    owner: OrganizationFacts
    fallback_id: UUID | None
    prompt: Prompt
    most: admissions.Most
    order: Sequence[Candidate]
    on_hang_up: str
    at: datetime
    card: rating.RateCard

    @property
    def owners(self) -> frozenset[UUID]:
        """Whose wallet it is about."""
        return frozenset([self.owner.id])

    @property
    def weight(self) -> int:
        """One hold."""
        return 1

    @property
    def kin(self) -> None:
        """Any."""
        return None

    @property
    def asked(self) -> holds.Asked:
        """The hold that it needs."""
        who, most = self.principal, self.most
        whose = Counted(self.owner.id, who.project_id, who.member_id, who.key_id, most.amount_usd, most.tokens)
        return holds.Asked(
            whose, most.model, most.max_output_tokens, settings.CALL_HOLD_SECONDS, self.fallback_id,
            sees_wallet=permissions.WALLET_READ in who.permissions,
        )  # fmt: skip

    @property
    def input_tokens(self) -> int:
        """The estimate that the hold rests on."""
        return self.most.tokens - self.prompt.n * self.most.max_output_tokens


class Held(NamedTuple):
    """An admitted request with its hold."""

    admitted: Admitted
    hold_id: UUID
    enforcement: str


class Settled(NamedTuple):
    """What a call came to: its event with all counts, what was debited, the record (None: nothing was billed)."""

    event: Event
    cost_usd: Decimal
    record_id: UUID | None


class Settlement(NamedTuple):
    """A finished call on its way into the books. ``texts`` are what was produced, where nobody counted it."""

    admitted: Admitted
    hold_id: UUID
    event: Event
    tried: Sequence[Tried]
    texts: tuple[str, ...] | None = None
    absent: Sequence[str] = ()

    @property
    def owners(self) -> frozenset[UUID]:
        """Whose wallet it is about."""
        return self.admitted.owners

    @property
    def weight(self) -> int:
        """One event."""
        return 1

    @property
    def kin(self) -> None:
        """Any."""
        return None


def about(principal: Principal) -> dict[str, str]:
    """The headers that say who is charged."""
    return {"deepailab-organization": principal.organization_slug} if principal.organization_slug else {}


def _admit(asking: Asking) -> Admitted:
    """Whether a request may be made, whatever its wallet holds. Raises an ``ApiError``."""
    principal = asking.who()
    if asking.trail is not None:
        asking.trail.principal = principal
    try:
        return _admit_of(asking, principal)
    except errors.ApiError as refusal:
        refusal.headers = refusal.headers | about(principal)
        raise


def _admit_of(asking: Asking, principal: Principal) -> Admitted:
    permissions.check(principal, kinds=permissions.CUSTOMER, needs=permissions.CALLS_MAKE, scope=None)
    assert principal.organization_id is not None
    owner = organizations.find_ids([principal.organization_id])[principal.organization_id]
    prompt = asking.read()
    if asking.trail is not None:
        asking.trail.prompt = prompt
    model = prompt.model
    catalog.check_allowed(principal.models, model)
    call_id = f"chatcmpl-{ids.new().hex}"
    order = _order(model.slug, owner, seed=call_id)
    if not order:
        raise errors.NoAvailableChannel(f"No healthy channel serves {model.slug} right now.", param="model")
    form = prompt.body.get("response_format")
    asked = admissions.Request(
        model=prompt.name, messages=prompt.body["messages"], max_output_tokens=prompt.cap, n=prompt.n,
        # A schema is part of what the model reads.
        tools=[*prompt.body.get("tools", ()), *([form] if form else ())],
    )  # fmt: skip
    most = admissions.most(asked, model=model, organization_id=owner.id, seconds=settings.CALL_HOLD_SECONDS)
    at = clock.now()
    offer = pricing.book().offer(model, organization_id=owner.id, group=owner.price_group, at=at)
    assert offer is not None, "what has no price was refused"
    key = keys.find([principal.key_id])[principal.key_id]
    personal = key.user_id is not None and key.organization_id != owner.id
    on_hang_up = terms.on_hang_up(owner.id)
    if asking.trail is not None:
        # Last: whatever else refuses it has taken no room.
        asking.trail.permit = limits.enter(principal, tokens=most.tokens)
    return Admitted(
        call_id, asking, principal, owner, key.organization_id if personal else None, prompt, most, order,
        on_hang_up, at, offer.card,
    )  # fmt: skip


def _order(slug: str, owner: OrganizationFacts, *, seed: str) -> list[Candidate]:
    """Whom to ask for a model, one after the other."""
    board = channels.board()
    found = routing.candidates(board, slug=slug, group=owner.price_group)
    return routing.order(
        found,
        by=routing.strategy(board, slug),
        seed=seed,
        is_healthy=_is_open,
        seen=routing.Seen(_price, lambda one: _health.latency(one.channel.id)),
    )


def _is_open(one: Candidate) -> bool:
    return _health.is_open(one.channel.id, limit=one.channel.concurrency_max)


def _price(slug: str) -> Decimal | None:
    """What a model of the catalog costs now: a token in and a token out, by its first terms."""
    version = pricing.book().listing.price_at(slug, clock.now())
    if version is None or not version.card.terms:
        return None
    rates = version.card.terms[0].rates
    return None if rates.input is None or rates.output is None else Decimal(rates.input + rates.output)


def _place(readings: Sequence[Admitted]) -> list[Held | Exception]:
    """Holds for requests that came side by side."""
    if len(readings) == 1:
        return [_place_alone(readings[0])]
    plain = [] if distribution.is_spread() else [one for one in readings if one.asking.key is None]

    @transaction.atomic(durable=True)
    def work() -> list[holds.Placed | None]:
        return holds.place_together([one.asked for one in plain], lock_ms=GROUP_LOCK_MS, flush=False)

    placed = iter(retry(work, passing=RETRYABLE - {LOCK_NOT_AVAILABLE}) if plain else ())
    alone = {id(one) for one in readings} - {id(one) for one in plain}
    found: list[Held | Exception] = []
    for one in readings:
        got = None if id(one) in alone else next(placed)
        found.append(groups.Alone() if got is None else Held(one, got.hold.pk, got.wallet.enforcement))
    return found


def _place_alone(one: Admitted) -> Held:
    """A hold, with the request's key where it has one. Raises what ``holds.place`` and ``replays.enter`` do."""

    @transaction.atomic(durable=True)
    def work() -> holds.Placed:
        keyed = _keyed(one)
        if keyed is not None:
            replays.enter(keyed)
        # A crash of the database may take the hold back, but never a charge without it. A key must be found afterwards.
        placed = holds.place(one.asked, flush=keyed is not None)
        if keyed is not None:
            replays.keep(keyed, hold_id=placed.hold.pk)
        return placed

    try:
        hold, wallet = retry(work)
    except errors.ApiError as refusal:
        refusal.headers = refusal.headers | about(one.principal)
        raise
    return Held(one, hold.pk, wallet.enforcement)


def _keyed(one: Admitted) -> replays.Keyed | None:
    if one.asking.key is None:
        return None
    story = replays.fingerprint(endpoint=one.asking.endpoint, slug=one.owner.slug, digest=one.prompt.digest)
    return replays.Keyed(one.owner.id, one.asking.key, story, one.id)


def _count(settlement: Settlement) -> Settlement:
    """With the counts that nobody reported, estimated; the text ends here."""
    admitted, event, model = settlement.admitted, settlement.event, settlement.admitted.prompt.model
    values: dict[str, int] = {}
    digests: dict[str, str] = {}
    for name in settlement.absent:
        if name == "input_tokens":
            values[name] = max(admitted.input_tokens, events.least_input(event))
            digests[name] = hashlib.sha256(admitted.prompt.digest).hexdigest()
        else:
            text = tokens.Text(settlement.texts or ())
            try:
                told = tokens.estimate(text, encoding=model.encoding, vendor=model.owned_by)
            except (tokens.TableUnusable, tokens.UnknownEncoding):
                told = -(-sum(map(len, text.pieces)) // tokens.CHARS_PER_TOKEN)
            values[name] = max(told, events.least_output(event))
            digests[name] = text.digest()
    estimated = counts.put(event, values)
    estimated.estimated = digests
    return settlement._replace(event=estimated, texts=None, absent=())


def _settle(readings: Sequence[Settlement]) -> list[Settled | Exception]:
    """Charge finished calls as one batch of events; each on disk on return, or an error."""
    for one in readings:
        if one.tried:
            attempts.write(organization_id=one.admitted.owner.id, event_id=one.event.event_id, tried=one.tried)
    items = [_attributed(place, one) for place, one in enumerate(readings)]
    lock_ms = GROUP_LOCK_MS if len(readings) > 1 else None
    found: list[Settled | Exception] = []
    for one, verdict in zip(readings, charges.record(items, reported_by=None, lock_ms=lock_ms), strict=True):
        if verdict.status in {Status.CREATED, Status.DUPLICATE, Status.QUARANTINED}:
            found.append(Settled(one.event, verdict.cost_usd or money.ZERO, verdict.record_id))
        else:
            found.append(verdict.error or errors.Unavailable())
    return found


def _attributed(place: int, one: Settlement) -> Attributed:
    who, owner = one.admitted.principal, one.admitted.owner
    return Attributed(
        place, one.event, owner.id, owner.id, who.key_id, who.member_id, who.project_id,
        events.fingerprint(one.event, organization=owner.id.bytes, key=who.key_id.bytes), one.hold_id,
        one.admitted.fallback_id,
    )  # fmt: skip


_health = health.Health()
_holds: Groups[Asking, Admitted, Held] = Groups(
    read=_admit, write=_place, readers=threads.readers, writers=threads.writers
)
_settlements: Groups[Settlement, Settlement, Settled] = Groups(
    read=lambda one: one, write=_settle, readers=threads.readers, writers=threads.writers
)
_open: "set[Call]" = set()
_closing = False


async def make(asking: Asking, *, size: int, long: bool = False) -> "Call":
    """Begin a call: admitted, with its hold, and on its way. ``long``: to read it may take a while.

    Raises an ``ApiError``; then nothing is held.
    """
    if _closing:
        raise errors.Unavailable("This process is stopping; send it again.")
    trail = Trail()
    try:
        held = await _holds.answer(asking._replace(trail=trail), size=size, long=long)
    except BaseException as error:
        if trail.permit is not None:
            limits.leave(trail.permit, tokens=0)
        _note_refusal(asking, trail, error)
        raise
    assert trail.permit is not None
    call = Call(held, trail.permit)
    _open.add(call)
    call.task.add_done_callback(lambda _: _open.discard(call))
    _keep_holds()
    return call


def _note_refusal(asking: Asking, trail: Trail, error: BaseException) -> None:
    """For the log of failed requests, where it is known whose it is; what came at a bad moment may come again."""
    who, prompt = trail.principal, trail.prompt
    if who is None or who.organization_id is None or not isinstance(error, errors.ApiError):
        return
    if type(error) is errors.Unavailable:
        return
    refusals.note(refusals.Refused(
        who, error.status, error.code or "", asking.endpoint, asking.request_id, clock.now(),
        prompt.name if prompt else "", prompt.stream if prompt else None, b"" if prompt else asking.raw,
    ))  # fmt: skip


class Call:
    """A call on its way. ``id`` and ``created`` stand in its answer; ``settled`` is there when it has ended."""

    def __init__(self, held: Held, permit: Permit) -> None:
        admitted = held.admitted
        self.permit = permit
        self.id = admitted.id
        self.prompt = admitted.prompt
        self.principal = admitted.principal
        self.created = clock.to_unix(admitted.at)
        self.settled: Settled | None = None
        self.held = held
        self.renewed_at = self._began_at = time.monotonic()
        self._left = False
        self._cut = False
        self._deadline: asyncio.Timeout | None = None
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may ask.
        self._begun.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._buffer: deque[dict[str, Any]] = deque()
        self._ready = asyncio.Event()
        self._space = asyncio.Event()
        self._ended = False
        self._failure: errors.ApiError | None = None
        self._answer: dict[str, Any] | None = None
        self._usage: Any = None
        self._texts: list[str] = []
        self._chars = 0
        self._finishes: dict[int, str] = {}
        self._candidate: Candidate | None = None
        self._ttft_ms: int | None = None
        self._tried: list[Tried] = []
        self._has_output = False
        self.task = asyncio.get_running_loop().create_task(self._run())

    @property
    def headers(self) -> dict[str, str]:
        """Who is charged, and what is left of the limits: of an answer that is whole, with what it used."""
        return about(self.principal) | self.permit.headers()

    @property
    def fingerprint(self) -> str:
        """The build and the kind of channel that answered."""
        kind = self._candidate.channel.kind if self._candidate else ""
        return f"fp_{kind or 'gw'}_{_BUILD}"

    async def begin(self) -> None:
        """Wait until the answer begins; for one that comes whole, until it is there and settled.

        Raises an ``ApiError`` where it failed before.
        """
        await asyncio.shield(self._begun)

    async def answer(self) -> dict[str, Any]:
        """The whole answer, as the upstream told it. Raises an ``ApiError``."""
        await self.begin()
        assert self._answer is not None
        return self._answer

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The parts of the answer. Raises an ``ApiError`` where it broke off."""
        while True:
            while self._buffer:
                one = self._buffer.popleft()
                self._space.set()
                yield one
            if self._ended:
                break
            self._ready.clear()
            await self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """The client has gone: by its organization's terms the rest is read, or nothing more is."""
        if self._left or self.task.done():
            return
        self._left = True
        self._buffer.clear()
        self._space.set()
        if self.held.admitted.on_hang_up == terms.HangUp.ESTIMATE and self.prompt.stream:
            self.cut()
        else:
            self._hurry(settings.CALL_DRAIN_SECONDS)

    def cut(self) -> None:
        """Stop reading from the upstream; what was produced so far is billed."""
        self._cut = True
        self._hurry(0)

    def _hurry(self, seconds: float) -> None:
        """Let the upstream go on for so long at most."""
        if self._deadline is not None and not self._deadline.expired():
            end = asyncio.get_running_loop().time() + seconds
            current = self._deadline.when()
            with contextlib.suppress(RuntimeError):
                self._deadline.reschedule(end if current is None else min(current, end))

    async def _run(self) -> None:
        """From the first upstream that is asked to the books."""
        failure: Failed | None = None
        try:
            failure = await self._ask_all()
        except Exception:
            log.exception("call %s was stopped", self.id)
            failure = Failed("fault")
        try:
            await self._settle(failure)
        finally:
            limits.leave(self.permit)
            self._end(failure)

    async def _ask_all(self) -> Failed | None:
        """Ask one upstream after the other until one has begun to answer; the failure that it all ended with."""
        failure: Failed | None = None
        for candidate in self.held.admitted.order:
            # Nobody is asked anew on behalf of somebody who has gone.
            if (self._left or self._cut) and failure is not None:
                break
            if not _is_open(candidate):
                continue
            failure = await self._ask(candidate)
            if failure is None or failure.of_request or self._has_begun():
                break
        return failure if self._candidate is not None else Failed("none")

    def _has_begun(self) -> bool:
        return self._ttft_ms is not None

    async def _ask(self, candidate: Candidate) -> Failed | None:
        """One try. What was reported or produced by an earlier one is none of its business."""
        channel = candidate.channel
        self._candidate = candidate
        self._usage, self._texts, self._chars, self._finishes = None, [], 0, {}
        self._has_output = False
        began = time.monotonic()
        failure: Failed | None = None
        _health.begin(channel.id)
        try:
            async with asyncio.timeout(channel.total_seconds) as self._deadline:
                if self._left:
                    self._hurry(settings.CALL_DRAIN_SECONDS)
                if self._cut:
                    self._hurry(0)
                if self.prompt.stream:
                    await self._read_stream(candidate)
                else:
                    await self._read_whole(candidate)
        except TimeoutError:
            failure = None if self._left else Failed("stopped" if self._cut else "timeout")
        except Failed as error:
            failure = error
        finally:
            self._deadline = None
            if failure is None or failure.of_request:
                _health.succeed(channel.id, seconds=None if self._ttft_ms is None else self._ttft_ms / 1000)
            else:
                _health.fail(channel.id, rest=failure.retry_after)
            _health.end(channel.id)
        if failure is not None:
            log.info("call %s: channel %s: %s", self.id, channel.name, failure)
        self._tried.append(
            Tried(
                channel.name, candidate.upstream_id, "answered" if failure is None else failure.kind,
                200 if failure is None else failure.status, _milliseconds(began), clock.now(),
            )
        )  # fmt: skip
        return failure

    def _sent(self, candidate: Candidate, *, is_native: bool) -> dict[str, Any]:
        """The request as the upstream gets it."""
        admitted = self.held.admitted
        said = self.prompt.native if is_native and self.prompt.native is not None else self.prompt.body
        body = {**said, "model": candidate.upstream_id}
        if self.prompt.cap is not None or self.held.enforcement == holds.Enforcement.STRICT:
            # What was held for is what may be made.
            name = candidate.channel.cap_name or self.prompt.cap_name or CapName.MAX_TOKENS.value
            body["max_output_tokens" if is_native else name] = admitted.most.max_output_tokens
        if is_native:
            # Nothing of a customer's is kept for us elsewhere.
            body["store"] = False
            if self.prompt.stream:
                body["stream"] = True
            return body
        if self.prompt.stream:
            body["stream"] = True
            if candidate.channel.has_stream_usage:
                body["stream_options"] = {"include_usage": True}
        return body

    def _is_native(self, candidate: Candidate) -> bool:
        return self.prompt.native is not None and candidate.channel.has_responses

    async def _read_whole(self, candidate: Candidate) -> None:
        is_native = self._is_native(candidate)
        body = self._sent(candidate, is_native=is_native)
        if candidate.channel.kind == Kind.ECHO:
            answer = echo.complete(body)
        elif is_native:
            answer = await native.complete(candidate.channel, body)
        else:
            answer = await upstream.complete(candidate.channel, body)
        found = answer.get("choices")
        if "error" in answer and not found:
            raise Failed("refused")
        if type(found) is not list or not found or not all(type(one) is dict for one in found):
            raise Failed("malformed")
        for index, choice in enumerate(found):
            message = choice.get("message")
            if type(message) is not dict:
                raise Failed("malformed")
            self._note(index, message, choice.get("finish_reason"))
        if not self._has_output and INSUFFICIENT in self._finishes.values():
            raise Failed("refused")
        self._usage = answer.get("usage")
        self._answer = answer
        self._ttft_ms = _milliseconds(self._began_at)

    async def _read_stream(self, candidate: Candidate) -> None:
        is_native = self._is_native(candidate)
        body = self._sent(candidate, is_native=is_native)
        parts: AsyncGenerator[dict[str, Any], None]
        if candidate.channel.kind == Kind.ECHO:
            parts = echo.stream(body)
        else:
            parts = (native if is_native else upstream).stream(candidate.channel, body)
        # Parts without a token wait: until there is one, somebody else may be asked.
        waiting: list[dict[str, Any]] = []
        async with contextlib.aclosing(parts):
            try:
                async for part in parts:
                    if part.get("error") is not None and not part.get("choices"):
                        raise Failed("refused")
                    if type(part.get("usage")) is dict:
                        self._usage = part["usage"]
                    found = part.get("choices")
                    if not found and (found is not None or "usage" in part):
                        continue
                    if type(found) is not list or not all(type(one) is dict for one in found):
                        raise Failed("malformed")
                    says = False
                    for choice in found:
                        delta = choice.get("delta")
                        index = choice.get("index")
                        says |= self._note(
                            index if type(index) is int else 0,
                            delta if type(delta) is dict else {},
                            choice.get("finish_reason"),
                        )
                    if self._has_begun():
                        await self._put(part)
                        continue
                    if not says:
                        # The first of them may tell the role; more of nothing need not be kept.
                        waiting = waiting or [part]
                        continue
                    if not self._has_output and INSUFFICIENT in self._finishes.values():
                        raise Failed("refused")
                    self._ttft_ms = _milliseconds(self._began_at)
                    if not self._begun.done():
                        self._begun.set_result(None)
                    for one in (*waiting, part):
                        await self._put(one)
                    waiting = []
            except Failed:
                # Some close the line behind the last part and do not say that it was the last.
                if not self._has_begun() or not self._finishes:
                    raise
        if not self._has_begun():
            raise Failed("reset")

    def _note(self, index: int, said: Mapping[str, Any], finish: Any) -> bool:
        """Take in what a choice says; whether it is anything."""
        says = False
        if type(finish) is str and finish:
            self._finishes[index] = _tame(finish)
            says = True
        texts = [said.get(name) for name in _TEXTS]
        calls = said.get("tool_calls")
        if type(calls) is list:
            functions = [one.get("function") for one in calls if type(one) is dict]
            texts += [one.get(name) for one in functions if type(one) is dict for name in ("name", "arguments")]
            says |= bool(calls)
        for text in texts:
            if type(text) is str and text:
                says = self._has_output = True
                self._chars += len(text)
                if self._chars <= TEXT_CHARS_MAX:
                    self._texts.append(text)
        return says

    async def _put(self, part: dict[str, Any]) -> None:
        """Give a part to whoever reads; while too many wait, wait too."""
        while len(self._buffer) >= BUFFER_MAX and not self._left:
            self._space.clear()
            await self._space.wait()
        if not self._left:
            self._buffer.append(part)
            self._ready.set()

    def _event(self, failure: Failed | None, told: counts.Reported) -> Event:
        """The call as an event, with the counts that were told."""
        admitted, candidate = self.held.admitted, self._candidate
        status = 200
        outcome: Literal["completed", "client_aborted", "upstream_error"] = "completed"
        if failure is not None and self._has_begun():
            outcome = "upstream_error"
        elif failure is not None:
            status = _answer_to(failure).status
            outcome = "completed" if failure.of_request else "upstream_error"
        elif self._left or self._cut:
            outcome = "client_aborted"
        if not told.sound and self._usage is not None:
            log.warning(
                "call %s: the usage that channel %s told makes no sense", self.id, candidate and candidate.channel.name
            )
        finish = next(iter(self._finishes.values()), None)
        event = Event(
            event_id=self.id, model=admitted.prompt.name, occurred_at=admitted.at,
            end_user=_user(admitted.prompt.end_user), routed_model=candidate and _tame(candidate.upstream_id),
            channel=candidate and candidate.channel.name, attempts=len(self._tried),
            endpoint=admitted.asking.endpoint, stream=self.prompt.stream, status=status, finish_reason=finish,
            outcome=outcome, ttft_ms=self._ttft_ms, latency_ms=_milliseconds(self._began_at),
            request_id=admitted.asking.request_id,
        )  # fmt: skip
        return counts.put(event, told.values)

    async def _settle(self, failure: Failed | None) -> None:
        """Into the books, however often that takes; whoever waits is told after a while what it will come to."""
        told = counts.read(self._usage)
        event, absent = self._event(failure, told), told.absent
        if failure is not None and not self._has_begun():
            # It failed for nothing, and nothing is counted.
            event, absent = counts.put(event, dict.fromkeys(events.WHOLES, 0)), []
        spare = max(self._chars - TEXT_CHARS_MAX, 0)
        texts = ("".join(self._texts), "x " * (spare // tokens.CHARS_PER_TOKEN)) if absent else None
        self._texts = []
        tried = self._tried if failure is not None or len(self._tried) > 1 else []
        settlement = Settlement(self.held.admitted, self.held.hold_id, event, tried, texts, absent)
        if absent:
            settlement = await asyncio.to_thread(_count, settlement)
        limits.leave(self.permit, tokens=settlement.event.input_tokens + settlement.event.output_tokens)
        writing = asyncio.get_running_loop().create_task(self._write(settlement))
        await asyncio.wait([writing], timeout=SETTLE_WAIT_SECONDS)
        if not writing.done() or (settled := writing.result()) is None:
            self._end(failure, owed=_owed(settlement))
            settled = await writing
        self.settled = settled or self.settled

    async def _write(self, settlement: Settlement) -> Settled | None:
        """Once on disk; None where it could not be for too long: then the hold expires and finance is told."""
        end = time.monotonic() + SETTLE_SECONDS_MAX
        for number in range(1_000_000):
            try:
                return await _settlements.answer(settlement, size=512)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                delay = SETTLE_DELAYS[min(number, len(SETTLE_DELAYS) - 1)]
                if time.monotonic() + delay > end:
                    log.critical("call %s could not be charged: %s", self.id, type(error).__name__)
                    return None
                log.warning("call %s is charged again in %s s: %s", self.id, delay, type(error).__name__)
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
        raise AssertionError("unreachable")

    def _end(self, failure: Failed | None, *, owed: Settled | None = None) -> None:
        """Tell whoever waits that this is all."""
        if owed is not None and self.settled is None:
            self.settled = owed
        if failure is not None and self._failure is None:
            self._failure = errors.UpstreamDisconnected() if self._has_begun() else _answer_to(failure)
            self._failure.headers = self._failure.headers | about(self.principal)
        if not self._begun.done():
            if self._failure is not None:
                self._begun.set_exception(self._failure)
            elif self._has_begun():
                self._begun.set_result(None)
            else:
                self._begun.set_exception(errors.Unavailable())
        self._ended = True
        self._ready.set()


_TEXTS = ("content", "refusal", "reasoning", "reasoning_content")
_BUILD = hashlib.sha256(settings.VERSION.encode()).hexdigest()[:4]


def _owed(settlement: Settlement) -> Settled:
    """What a call will come to once it can be written, by the debit's own pricing."""
    event, cost = settlement.event, money.ZERO
    if event.billed:
        with contextlib.suppress(rating.Unpriced):
            cost = money.from_pico(rating.rate(settlement.admitted.card, event, event.occurred_at).cost_pico)
    return Settled(event, cost, None)


def _answer_to(failure: Failed) -> errors.ApiError:
    """What the customer is told of a call that failed before it began."""
    if failure.of_request:
        message = failure.message or "The upstream provider refused this request."
        family = {413: errors.RequestTooLarge, 422: errors.OutOfRange}.get(failure.status or 400, errors.InvalidRequest)
        return family(message)
    if failure.kind == "none":
        return errors.NoAvailableChannel("No healthy channel serves this model right now.", param="model")
    if failure.kind == "fault":
        return errors.InternalError()
    if failure.kind == "stopped":
        return errors.Unavailable("This process is stopping; send it again.")
    return errors.UpstreamTimeout() if failure.kind == "timeout" else errors.UpstreamError()


def _milliseconds(since: float) -> int:
    return int((time.monotonic() - since) * 1000)


def _tame(text: str) -> str:
    """A word of somebody else's as a column takes it."""
    return "".join(letter for letter in text[:128] if letter.isprintable())


def _user(text: str | None) -> str | None:
    """Whom the customer calls the end user, cut to a column's length; what may not be kept, as its digest."""
    if text is None:
        return None
    if not text.isprintable() or mentions(text):
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return text[:END_USER_CHARS_MAX]


# Holds that last as long as their calls

_keeper: "asyncio.Task[None] | None" = None


def _keep_holds() -> None:
    """Renew the holds of open calls until there are none."""
    global _keeper
    if _keeper is None or _keeper.done():
        _keeper = asyncio.get_running_loop().create_task(_renew())


async def _renew() -> None:
    while _open:
        await asyncio.sleep(settings.CALL_HOLD_SECONDS / 6)
        now = time.monotonic()
        due = [call for call in _open if now - call.renewed_at > settings.CALL_HOLD_SECONDS / 3]
        for some in _lots(due):
            named = [(call.held.admitted.owner.id, call.held.hold_id) for call in some]
            try:
                await threads.readers.call(partial(_renew_some, named))
            except Exception as error:  # noqa: BLE001 - it is tried again while there is time
                log.warning("holds of %d calls are not renewed: %s", len(some), type(error).__name__)
                continue
            for call in some:
                call.renewed_at = now


def _renew_some(named: Sequence[tuple[UUID, UUID]]) -> None:
    if not distribution.is_spread():
        holds.renew(named, seconds=settings.CALL_HOLD_SECONDS)
        return
    for owner in {owner for owner, _ in named}:
        holds.renew([pair for pair in named if pair[0] == owner], seconds=settings.CALL_HOLD_SECONDS)


def _lots(due: "Sequence[Call]", size: int = 500) -> "list[Sequence[Call]]":
    return [due[at : at + size] for at in range(0, len(due), size)]


async def drain() -> None:
    """The process stops: take no more, let calls go on for a while, then bill what there is. More than once is fine."""
    global _closing
    _closing = True
    end = asyncio.get_running_loop().time() + settings.CALL_STOP_SECONDS
    while _open and (left := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait([call.task for call in _open], timeout=left)
    for call in list(_open):
        call.cut()
    if _open:
        await asyncio.wait([call.task for call in _open], timeout=LAST_SECONDS)
    if _open:
        log.critical("%d calls are left without a settlement", len(_open))
    await refusals.drain()
    await upstream.close()
