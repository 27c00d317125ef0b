"""``POST /v1/events`` and ``/v1/events/litellm``: who, parse, one verb, render (contract 16)."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings

from billing import batches, charges, corrections, wallets
from core import clock, errors, ids, wire
from gateway import litellm
from gateway.compression import Inflating
from gateway.groups import GROUP_LOCK_MS
from metering import attribution, events, horizon, usage
from metering.events import Limits, Rejection
from metering.models import UsageClaim
from metering.verdicts import Status, Verdict
from orgs import organizations
from orgs.principals import ORGANIZATION_HEADER, Principal, may_name

_STATUS = {
    Status.CREATED: 201,
    Status.DUPLICATE: 200,
    Status.QUARANTINED: 202,
    Status.CONFLICT: 409,
    Status.REJECTED: 422,
    Status.FAILED: 503,
}
# Of a LiteLLM call's id, so that more may follow.
_OWN_ID_MAX = 64
_EVENT_ID = re.compile(r"[!-~]{1,128}")
_COUNTED = {
    "created": Status.CREATED,
    "duplicates": Status.DUPLICATE,
    "quarantined": Status.QUARANTINED,
    "conflicts": Status.CONFLICT,
    "rejected": Status.REJECTED,
    "failed": Status.FAILED,
}


def void(event_id: str, body: Mapping[str, Any], *, reporter: Principal) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer to a void. Raises an ``ApiError``."""
    reason = body.get("reason")
    if reason is None:
        raise errors.MissingParameter("reason is required.", param="reason")
    if type(reason) is not str:
        raise errors.InvalidType("reason must be a string.", param="reason")
    named = body.get("organization")
    if named is not None and type(named) is not str:
        raise errors.InvalidType("organization must be a string.", param="organization")
    slug = (named or reporter.default_slug or "").strip().lower()
    if not slug:
        raise errors.MissingParameter("organization is required, or X-DeepToken-Org.", param="organization")
    owner = organizations.find_slugs([slug]).get(slug)
    if owner is None or not may_name(reporter.organizations, owner.id):
        raise errors.OrgAccessDenied(param="organization" if named else ORGANIZATION_HEADER)
    if not _EVENT_ID.fullmatch(event_id):
        raise errors.NotFound(corrections.UNKNOWN_EVENT, param="event_id")
    done = corrections.void(organization_id=owner.id, event_id=event_id, reason=reason, by=reporter.actor)
    told = {
        "object": "event_void",
        "event_id": event_id,
        "status": "voided",
        "usage_record_id": None if done.record_id is None else ids.show("usage", done.record_id),
        "corrects": None if done.corrects is None else ids.show("usage", done.corrects),
        "cost_usd": wire.number(done.cost_usd),
        "wallet": _wallets({owner.id.int: owner.id}, {})[owner.id.int],
    }
    return 201 if done.first else 200, told


def _name_places(verdicts: Sequence[Verdict]) -> None:
    """In a batch every error names its field by index; reading and attribution have done so already."""
    for place, verdict in enumerate(verdicts):
        error = verdict.error
        if error is not None and error.param is not None and not error.param.startswith("events["):
            error.param = f"events[{place}].{error.param}"


class Answer(NamedTuple):
    """What to send back; ``error`` is set when the one event of the request was refused."""

    status: int
    body: dict[str, Any]
    error: errors.ApiError | None = None


class Reading(NamedTuple):
    """A body that has been read: each event with whose it is, or why it was refused; who reports them."""

    outcomes: Sequence[attribution.Outcome]
    single: bool
    reporter: Principal

    @property
    def items(self) -> list[charges.Item]:
        """The events that may be charged."""
        return [outcome for outcome in self.outcomes if not isinstance(outcome, Rejection)]

    @property
    def owners(self) -> frozenset[UUID]:
        """Whose wallets may be charged; of what nobody is charged for, whoever reported it."""
        found = frozenset(one.organization_id for one in self.outcomes if isinstance(one, attribution.Attributed))
        return found or frozenset([self.reporter.key_id])

    @property
    def weight(self) -> int:
        """How many events they are."""
        return len(self.outcomes)

    @property
    def kin(self) -> UUID:
        """A transaction has one reporter."""
        return self.reporter.key_id


def _limits() -> Limits:
    """What holds for a request that is read now. Usually without a query."""
    now = clock.now()
    return Limits(
        events=settings.EVENTS_MAX,
        now=now,
        age=horizon.age_max(now),
        ahead=timedelta(seconds=settings.EVENT_AHEAD_MAX_SECONDS),
    )


def read(raw: bytes, *, media_type: str, reporter: Principal) -> Reading:
    """A body of events, read. Raises an ``ApiError`` when the body as a whole cannot be taken."""
    return _read(events.decode(raw, media_type=media_type, limits=_limits()), reporter)


def read_litellm(raw: bytes, *, media_type: str, reporter: Principal) -> Reading:
    """A body of a LiteLLM proxy, read. Raises an ``ApiError`` when it as a whole cannot be taken."""
    body = litellm.decode(raw, media_type=media_type, limits=_limits(), trusted=reporter.trust_client_header)
    return _read(body, reporter)


def _read(body: events.Body, reporter: Principal) -> Reading:
    outcomes = attribution.attribute(
        body.items,
        single=body.single,
        default_slug=reporter.default_slug,
        limits=reporter.organizations,
        reporter=reporter.key_id,
    )
    return Reading(outcomes, body.single, reporter)


class Arriving:
    """An NDJSON body that is unpacked and decoded as it arrives; ``size`` counts the bytes unpacked so far.

    Raises ``UnsupportedMediaType`` for an encoding that is none of ours.
    """

    def __init__(self, *, encoding: str) -> None:
        self._plain = Inflating(encoding=encoding, limit=settings.BODY_BYTES_MAX)
        self._lines = events.Lines()
        self.size = 0

    def feed(self, raw: bytes) -> None:
        """Take the next bytes. Raises an ``ApiError`` as soon as the body as a whole cannot be taken."""
        # An event's time is held against that of its line: a body may come as its events happen.
        limits = _limits()
        for piece in self._plain.feed(raw):
            self.size += len(piece)
            self._lines.feed(piece, limits=limits)

    def read(self, *, reporter: Principal) -> Reading:
        """The whole body, read. Raises an ``ApiError`` when it cannot be taken."""
        self._plain.close()
        return _read(self._lines.finish(limits=_limits()), reporter)


def receive(raw: bytes, *, media_type: str, reporter: Principal) -> Answer:
    """The answer to a body of events; whatever it calls ``created`` is durable.

    Raises an ``ApiError`` when the body as a whole cannot be taken.
    """
    return _receive(read(raw, media_type=media_type, reporter=reporter))


def receive_litellm(raw: bytes, *, media_type: str, reporter: Principal) -> Answer:
    """As ``receive``, of a LiteLLM proxy."""
    return _receive(read_litellm(raw, media_type=media_type, reporter=reporter))


def _receive(reading: Reading) -> Answer:
    record = partial(batches.record, reported_by=reading.reporter.key_id)
    return _answers([reading], _tell_apart(reading.items, record(reading.items), record=record), {})[0]


def write(readings: Sequence[Reading]) -> list[Answer]:
    """The answers to bodies of one reporter that came side by side, charged as one batch.

    A wallet that is locked is not waited for by several: then the database's error is raised.
    """
    items: list[charges.Item] = []
    for reading in readings:
        items.extend(reading.items)
    if len(readings) > 1:
        items = [item._replace(place=place) for place, item in enumerate(items)]
    lock_ms = GROUP_LOCK_MS if len(readings) > 1 else None
    charged: charges.Wallets = {}
    record = partial(charges.record, reported_by=readings[0].reporter.key_id, lock_ms=lock_ms, wallets=charged)
    return _answers(readings, _tell_apart(items, record(items), record=record), charged)


def _tell_apart(
    items: Sequence[charges.Item],
    given: Sequence[Verdict],
    *,
    record: Callable[[Sequence[charges.Item]], Sequence[Verdict]],
) -> Sequence[Verdict]:
    """Verdicts in which no call of a LiteLLM proxy is taken for another one.

    There a call keeps its id when it is tried again after a failure, and a client may choose the id:
    so an id may stand for several calls, and all but the first would be conflicts and never be charged.
    What began at another time, or succeeded where the first had failed, is another call, and takes an id
    of its own, the same whenever it is sent.
    """
    conflicts = [
        (place, item)
        for place, (item, verdict) in enumerate(zip(items, given, strict=True))
        if verdict.status is Status.CONFLICT
        and isinstance(item, attribution.Attributed)
        and item.event.external is not None
    ]
    if not conflicts:
        return given
    standing = usage.standing([(item.organization_id, item.event.event_id) for _, item in conflicts])
    others: dict[int, charges.Item] = {}
    for place, item in conflicts:
        claim = standing.get((item.organization_id, item.event.event_id))
        recovered = claim is not None and claim.state == UsageClaim.State.LOGGED and item.event.billed
        if claim is not None and (recovered or claim.occurred_at != item.event.occurred_at):
            event = msgspec.structs.replace(item.event, event_id=_other_id(item.event))
            others[place] = item._replace(place=len(others), event=event)
    if not others:
        return given
    told = dict(zip(others, record(list(others.values())), strict=True))
    return [told.get(place, verdict) for place, verdict in enumerate(given)]


def _other_id(event: events.Event) -> str:
    """An id for a call whose own stands for another: with when it began and whether it is billed."""
    own = event.event_id
    if len(own) > _OWN_ID_MAX:
        own = hashlib.sha256(own.encode()).hexdigest()
    return f"{own}~{event.occurred_at:%Y%m%dT%H%M%S.%f}{'' if event.billed else '~failed'}"


def _answers(readings: Sequence[Reading], given: Sequence[Verdict], charged: charges.Wallets) -> list[Answer]:
    """Take the verdicts apart again. ``given``: for all events that were not refused, in order.

    ``charged``: the wallets of which it is known where they stand.
    """
    left = iter(given)
    told = [
        [
            Verdict(outcome.event_id, Status.REJECTED, error=outcome.error)
            if isinstance(outcome, Rejection)
            else next(left)
            for outcome in reading.outcomes
        ]
        for reading in readings
    ]
    # Where nothing could be written, asking for wallets would only wait for the database once more.
    payers = [
        {
            # By the id's number, which is hashed and compared many times as fast as the id.
            outcome.payer_id.int: outcome.payer_id
            for outcome, verdict in zip(reading.outcomes, verdicts, strict=True)
            if isinstance(outcome, attribution.Attributed) and verdict.status is not Status.FAILED
        }
        for reading, verdicts in zip(readings, told, strict=True)
    ]
    states = _wallets({number: payer for those in payers for number, payer in those.items()}, charged)
    answers = []
    for reading, verdicts, those in zip(readings, told, payers, strict=True):
        wallets_told = [states[number] for number in sorted(those) if number in states]
        if reading.single:
            answers.append(_single(verdicts[0], wallets_told))
        else:
            _name_places(verdicts)
            answers.append(Answer(200, _batch(verdicts, wallets_told)))
    return answers


def _single(verdict: Verdict, states: Sequence[Mapping[str, Any]]) -> Answer:
    """One event's answer stands at the top level (decisions 14); a refusal is an error envelope as well."""
    told = msgspec.to_builtins(_told(verdict), builtin_types=(msgspec.Raw,))
    if states:
        told["wallet"] = states[0]
    if verdict.error is not None:
        told["error"]["category"] = verdict.error.category
    return Answer(_STATUS[verdict.status], told, verdict.error)


def _batch(verdicts: Sequence[Verdict], states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = [verdict.status for verdict in verdicts]
    counts = {name: found.count(status) for name, status in _COUNTED.items()}
    return {"object": "list", **counts, "data": [_told(verdict) for verdict in verdicts], "wallets": states}


class _Told(msgspec.Struct, omit_defaults=True):
    """A verdict on the wire; a thousand of them an answer, so not a dict each."""

    event_id: str | None
    status: str
    usage_record_id: str | msgspec.UnsetType | None = msgspec.UNSET
    cost_usd: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


def _told(verdict: Verdict) -> _Told:
    event_id, status, record_id, cost_usd, refusal = verdict
    error = msgspec.UNSET if refusal is None else error_body(refusal)
    if cost_usd is None:
        return _Told(event_id, status, error=error)
    shown = None if record_id is None else ids.show("usage", record_id)
    return _Told(event_id, status, shown, wire.number(cost_usd), error)


def error_body(error: errors.ApiError) -> dict[str, Any]:
    """An event's error inside a batch's answer."""
    return {"message": str(error), "type": error.type, "param": error.param, "code": error.code}


def _wallets(payers: Mapping[int, UUID], charged: charges.Wallets) -> dict[int, dict[str, Any]]:
    """What gateways are told of the wallets their events touched, to stop in time; by the ids' numbers.

    ``charged`` are those of which that is known; the others are asked for.
    """
    known = {wallet.int: (locked.standing.balance, locked.status) for wallet, locked in charged.items()}
    others = [payer for number, payer in payers.items() if number not in known]
    if others:
        known |= {payer.int: (state.balance_usd, state.status) for payer, state in wallets.states(others).items()}
    facts = organizations.find_ids(list(payers.values()))
    told = {}
    for number, payer in payers.items():
        balance, status = known[number]
        if payer in facts:
            told[number] = {"organization": facts[payer].slug, "balance_usd": wire.number(balance), "status": status}
    return told
