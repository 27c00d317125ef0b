"""``POST /v1/events``: who, parse, one verb, render (contract 16)."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings

from billing import batches, corrections, wallets
from core import clock, errors, ids, wire
from metering import attribution, events, horizon
from metering.events import Limits, Rejection
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
        "wallet": _wallets([owner.id])[0],
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


def receive(raw: bytes, *, media_type: str, reporter: Principal) -> Answer:
    """The answer to a body of events; whatever it calls ``created`` is durable.

    Raises an ``ApiError`` when the body as a whole cannot be taken.
    """
    now = clock.now()
    limits = Limits(
        events=settings.EVENTS_MAX,
        now=now,
        age=horizon.age_max(now),
        ahead=timedelta(seconds=settings.EVENT_AHEAD_MAX_SECONDS),
    )
    body = events.decode(raw, media_type=media_type, limits=limits)
    outcomes = attribution.attribute(
        body.items, single=body.single, default_slug=reporter.default_slug, limits=reporter.organizations
    )
    items = [outcome for outcome in outcomes if not isinstance(outcome, Rejection)]
    given = iter(batches.record(items, reported_by=reporter.key_id))
    verdicts = [
        Verdict(outcome.event_id, Status.REJECTED, error=outcome.error)
        if isinstance(outcome, Rejection)
        else next(given)
        for outcome in outcomes
    ]
    if not body.single:
        _name_places(verdicts)
    # Where nothing could be written, asking for wallets would only wait for the database once more.
    payers = {
        # By the id's number, which is hashed and compared many times as fast as the id.
        outcome.payer_id.int: outcome.payer_id
        for outcome, verdict in zip(outcomes, verdicts, strict=True)
        if isinstance(outcome, attribution.Attributed) and verdict.status is not Status.FAILED
    }
    states = _wallets([payers[number] for number in sorted(payers)])
    if body.single:
        return _single(verdicts[0], states)
    return Answer(200, _batch(verdicts, states))


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


def _wallets(payers: Sequence[UUID]) -> list[dict[str, Any]]:
    """What gateways are told of the wallets their events touched, so that they can stop in time."""
    facts = organizations.find_ids(payers)
    return [
        {
            "organization": facts[payer].slug,
            "balance_usd": wire.number(state.balance_usd),
            "status": state.status,
        }
        for payer, state in wallets.states(payers).items()
        if payer in facts
    ]
