"""Quarantine: valid events that could not be charged. The only module that writes the table."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from django.db import connection
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
