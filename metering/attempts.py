"""Tries of calls at upstreams: what failed before something answered. The only module that writes ``Attempt``.

A customer pays for the call once, whatever it took; these rows say what it took.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from core.bulk import array
from metering.models import Attempt


class Tried(NamedTuple):
    """A try: the channel, what it calls the model, what came of it."""

    channel: str
    model: str
    outcome: str
    status: int | None
    latency_ms: int
    at: datetime


def write(*, organization_id: UUID, event_id: str, tried: Sequence[Tried]) -> None:
    """Write the tries of one call, once: told again, nothing happens."""
    if not tried:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO attempt (organization_id, event_id, number, channel, model, outcome, status, latency_ms, at)"
            " SELECT %s, %s, number, channel, model, outcome, status, latency_ms, at"
            " FROM unnest(%s::int2[], %s::text[], %s::text[], %s::text[], %s::int2[], %s::int4[], %s::timestamptz[])"
            " AS one (number, channel, model, outcome, status, latency_ms, at) ON CONFLICT DO NOTHING",
            [
                organization_id, event_id, array(range(1, len(tried) + 1)), [one.channel for one in tried],
                [one.model for one in tried], [one.outcome for one in tried], [one.status for one in tried],
                [one.latency_ms for one in tried], [one.at for one in tried],
            ],
        )  # fmt: skip


def of_event(*, organization_id: UUID, event_id: str) -> list[Attempt]:
    """The tries of a call, in order; none where the first answered."""
    return list(Attempt.objects.filter(organization_id=organization_id, event_id=event_id).order_by("number"))
