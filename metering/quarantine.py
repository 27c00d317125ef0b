"""Quarantine: valid events that could not be charged. The only module that writes the table."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection
from django.db.models import Q
from psycopg.types.json import Jsonb

from core import wire
from metering.events import Event
from metering.models import Quarantine


class Held(NamedTuple):
    """A row about to be written. ``scope`` and the event id make it unique."""

    id: UUID
    scope: str
    organization_id: UUID | None
    event: Event
    reason: Quarantine.Reason
    detail: str
    fingerprint: bytes


_HOLD = """
    INSERT INTO quarantine (id, organization_id, scope, event_id, reason, detail, model, occurred_at, recorded_at,
        reported_by, fingerprint, event)
    SELECT id, organization_id, scope, event_id, reason, detail, model, occurred_at, %s, %s, fingerprint, event
    FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::timestamptz[], %s::bytea[], %s::jsonb[])
        AS held (id, organization_id, scope, event_id, reason, detail, model, occurred_at, fingerprint, event)
    ORDER BY scope, event_id
    ON CONFLICT (scope, event_id) DO NOTHING
    RETURNING scope, event_id
"""


def hold(held: Sequence[Held], *, at: datetime, reported_by: UUID | None) -> set[tuple[str, str]]:
    """Keep events for finance, inside the caller's transaction; the keys that were new."""
    assert connection.in_atomic_block
    if not held:
        return set()
    columns = [
        (
            one.id, one.organization_id, one.scope, one.event.event_id, one.reason.value, one.detail[:500],
            one.event.model, one.event.occurred_at, one.fingerprint, Jsonb(_kept(one.event), dumps=wire.encode),
        )
        for one in held
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, [at, reported_by, *(list(column) for column in zip(*columns, strict=True))])
        return set(cursor.fetchall())


def stories(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """Fingerprints of the standing rows with these (scope, event id) keys."""
    wanted = list(keys)
    if not wanted:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT q.scope, q.event_id, q.fingerprint FROM quarantine q"
            " JOIN unnest(%s::text[], %s::text[]) AS wanted (scope, event_id)"
            " ON q.scope = wanted.scope AND q.event_id = wanted.event_id",
            [[key[0] for key in wanted], [key[1] for key in wanted]],
        )
        return {(row[0], row[1]): bytes(row[2]) for row in cursor.fetchall()}


def _kept(event: Event) -> dict[str, object]:
    """The event as stored: what rating and the record need later."""
    kept = msgspec.structs.asdict(event)
    kept["occurred_at"] = event.occurred_at.isoformat()
    cost = event.provider_cost_usd
    kept["provider_cost_usd"] = None if cost is None else format(cost, "f")
    return {name: value for name, value in kept.items() if value is not None}


def withdraw(row_id: UUID, *, at: datetime) -> bool:
    """Close a row without charging it, inside the caller's transaction; whether it was open."""
    assert connection.in_atomic_block
    return bool(Quarantine.objects.filter(pk=row_id, resolved_at__isnull=True).update(resolved_at=at))


def row(row_id: UUID) -> Quarantine:
    """One row by id."""
    return Quarantine.objects.get(pk=row_id)


class Waiting(NamedTuple):
    """An open row, locked: the event as it was reported and where it was put."""

    id: UUID
    organization_id: UUID | None
    event: Event
    reported_by: UUID | None


def waiting(*, models: Sequence[str], after: UUID | None, limit: int) -> list[Waiting]:
    """Open rows to try again, inside the caller's transaction: unpriced ones of these models, and all orphans.

    Rows that another worker has are passed over.
    """
    assert connection.in_atomic_block
    rows = Quarantine.objects.filter(resolved_at__isnull=True).filter(
        Q(reason__in=_ORPHANED) | Q(model__in=list(models))
    )
    if after is not None:
        rows = rows.filter(id__gt=after)
    locked = rows.select_for_update(skip_locked=True, no_key=True).order_by("id")[:limit]
    return [Waiting(row.id, row.organization_id, _event(row.event), row.reported_by) for row in locked]


_ORPHANED = (
    Quarantine.Reason.UNKNOWN_ORGANIZATION,
    Quarantine.Reason.UNKNOWN_KEY,
    Quarantine.Reason.NOT_A_MEMBER,
)


def models_waiting() -> list[str]:
    """The models that open rows name."""
    return list(
        Quarantine.objects.filter(resolved_at__isnull=True).order_by("model").values_list("model", flat=True).distinct()
    )


def resolve(row_ids: Collection[UUID], *, at: datetime) -> None:
    """Close rows that were charged, inside the caller's transaction."""
    assert connection.in_atomic_block
    Quarantine.objects.filter(pk__in=list(row_ids)).update(resolved_at=at)


def _event(kept: Mapping[str, Any]) -> Event:
    fields = dict(kept)
    if fields.get("provider_cost_usd") is not None:
        fields["provider_cost_usd"] = Decimal(fields["provider_cost_usd"])
    return msgspec.convert(fields, Event)
