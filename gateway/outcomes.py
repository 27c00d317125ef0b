"""Calls whose process died with the upstream paid. The only module that writes ``UnknownOutcome``.

A call's hold is renewed while the call runs and ends with it, so one of ours that ran out is a call that nobody
ended. Finance is told by a row, once.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction

from core import clock, errors, ids
from core.transactions import retry
from gateway.models import UnknownOutcome
from metering.models import UsageRecord
from metering.usage import created_from, started_at
from orgs import audit
from orgs.audit import Actor

CHUNK = 200
# Holds that ran out longer ago have been looked at.
REACH = timedelta(days=7)


class _Lost(NamedTuple):
    """A hold that ran out."""

    organization_id: UUID
    hold_id: UUID
    api_key_id: UUID | None
    model: str
    amount_usd: Decimal
    began_at: datetime
    expired_at: datetime


def note_lost() -> int:
    """Note the calls of this gateway whose holds have run out without an event; how many are new.

    What was noted before and has been charged since, late, is marked as such.
    """
    retry(_close)
    return retry(_note)


@transaction.atomic(durable=True)
def _note() -> int:
    at = started_at()
    stamps = ids.run(at=at)
    noted = 0
    last = UUID(int=0)
    while noted < CHUNK and (found := _expired(at, after=last)):
        last = found[-1].hold_id
        known = set(
            UnknownOutcome.objects.filter(hold_id__in=[one.hold_id for one in found]).values_list("hold_id", flat=True)
        )
        for one in found:
            if one.hold_id in known or _record_of(one.organization_id, one.hold_id, began=one.began_at) is not None:
                continue
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO unknown_outcome (organization_id, hold_id, api_key_id, model, amount_usd, began_at,"
                    " expired_at, id, noted_at, resolution) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '')"
                    " ON CONFLICT (hold_id) DO NOTHING",
                    [*one, next(stamps), at],
                )
                noted += cursor.rowcount
    return noted


def _expired(at: datetime, *, after: UUID) -> list[_Lost]:
    """Holds of ours that ran out lately, the first ``CHUNK`` behind an id. Of that table alone, as a cluster asks."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT organization_id, id, api_key_id, model, amount_usd, created_at, settled_at FROM hold"
            " WHERE state = 'expired' AND placed_by IS NULL AND settled_at > %s AND id > %s ORDER BY id LIMIT %s",
            [at - REACH, after, CHUNK],
        )
        return [_Lost(*row) for row in cursor.fetchall()]


@transaction.atomic(durable=True)
def _close() -> None:
    """Mark what was charged after all: the database was away for longer than the hold lasted."""
    waiting = UnknownOutcome.objects.select_for_update(no_key=True, skip_locked=True).filter(resolved_at__isnull=True)
    for one in waiting.order_by("-id")[:CHUNK]:
        record_id = _record_of(one.organization_id, one.hold_id, began=one.began_at)
        if record_id is not None:
            one.resolved_at, one.resolution = clock.now(), f"Charged late: {ids.show('usage', record_id)}."
            one.save(update_fields=["resolved_at", "resolution"])


def _record_of(owner: UUID, hold_id: UUID, *, began: datetime) -> UUID | None:
    """The usage record that names a hold."""
    records = UsageRecord.objects.filter(organization_id=owner, authorization_id=hold_id)
    return created_from(records, began).values_list("id", flat=True).first()


@transaction.atomic
def resolve(*, outcome: UnknownOutcome, resolution: str, by: Actor) -> None:
    """Write down what came of one, once. Raises ``Conflict`` and ``OutOfRange``."""
    if not resolution.strip():
        raise errors.OutOfRange("Say what came of it.", param="resolution")
    locked = UnknownOutcome.objects.select_for_update(no_key=True).get(pk=outcome.pk)
    if locked.resolved_at is not None:
        raise errors.Conflict("This has been resolved.", param="resolution")
    locked.resolved_at, locked.resolution = clock.now(), resolution.strip()
    locked.save(update_fields=["resolved_at", "resolution"])
    audit.note(
        actor=by, verb="unknown_outcome.resolved", subject=locked, organization=locked.organization,
        details={"resolution": locked.resolution},
    )  # fmt: skip
