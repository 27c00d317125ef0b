"""Calls whose process died with the upstream paid. The only module that writes ``UnknownOutcome``.

A call's hold is renewed while the call runs and ends with it, so one of ours that ran out is a call that nobody
ended. Finance is told by a row, once.
"""

from datetime import datetime
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
REACH_DAYS = 7


def note_lost() -> int:
    """Note the calls of this gateway whose holds have run out without an event; how many are new."""
    return retry(_note)


@transaction.atomic(durable=True)
def _note() -> int:
    at = started_at()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT h.organization_id, h.id, h.api_key_id, h.model, h.amount_usd, h.created_at, h.settled_at"
            " FROM hold h WHERE h.state = 'expired' AND h.placed_by IS NULL"
            " AND h.settled_at > %s - make_interval(days => %s)"
            " AND NOT EXISTS (SELECT 1 FROM unknown_outcome o WHERE o.hold_id = h.id) ORDER BY h.id LIMIT %s",
            [at, REACH_DAYS, CHUNK],
        )
        found = [row for row in cursor.fetchall() if not _has_ended(*row[:2], began=row[5])]
        stamps = ids.run(at=at)
        for owner, hold_id, key_id, model, amount, began, expired in found:
            cursor.execute(
                "INSERT INTO unknown_outcome (id, organization_id, hold_id, api_key_id, model, amount_usd, began_at,"
                " expired_at, noted_at, resolution) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '')"
                " ON CONFLICT (hold_id) DO NOTHING",
                [next(stamps), owner, hold_id, key_id, model, amount, began, expired, at],
            )
    return len(found)


def _has_ended(owner: UUID, hold_id: UUID, *, began: datetime) -> bool:
    """Whether an event came after all, later than the hold lasted."""
    records = UsageRecord.objects.filter(organization_id=owner, authorization_id=hold_id)
    return created_from(records, began).exists()


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
