"""Calls whose process died with the upstream paid. The only module that writes ``UnknownOutcome``.

A call's hold is renewed while the call runs and ends with it, so one of ours that ran out is a call that nobody
ended. Finance is told by a row, once.
"""

from collections.abc import Sequence
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
# Holds that ran out longer ago have been looked at, and so have charges.
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
        unknown = [one for one in found if one.hold_id not in known]
        charged = _charged([(one.organization_id, one.hold_id, one.began_at) for one in unknown])
        for one in unknown:
            if one.hold_id in charged:
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
    waiting = UnknownOutcome.objects.filter(resolved_at__isnull=True)
    # What was charged before was found by the runs before: nobody's whole history is read each minute.
    since = clock.now() - REACH
    calls = waiting.values_list("organization_id", "hold_id", "began_at")
    charged = _charged([(owner, hold_id, max(began, since)) for owner, hold_id, began in calls])
    locked = waiting.select_for_update(no_key=True, skip_locked=True).filter(hold_id__in=[*charged])
    for one in locked.order_by("id"):
        one.resolved_at, one.resolution = clock.now(), f"Charged late: {ids.show('usage', charged[one.hold_id])}."
        one.save(update_fields=["resolved_at", "resolution"])


def _charged(calls: Sequence[tuple[UUID, UUID, datetime]]) -> dict[UUID, UUID]:
    """The usage record that names each hold, where there is one: one query for each organization.

    A call is its organization, its hold and the instant from which its record may have been written.
    """
    by_owner: dict[UUID, list[tuple[UUID, datetime]]] = {}
    for owner, hold_id, since in calls:
        by_owner.setdefault(owner, []).append((hold_id, since))
    charged: dict[UUID, UUID] = {}
    for owner, holds in by_owner.items():
        records = UsageRecord.objects.filter(
            organization_id=owner, authorization_id__in=[hold_id for hold_id, _ in holds]
        )
        written = created_from(records, min(since for _, since in holds))
        found = written.order_by("-id").values_list("authorization_id", "id")
        charged.update((hold_id, record_id) for hold_id, record_id in found if hold_id is not None)
    return charged


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
