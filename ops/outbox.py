"""What others are to be told: rows of the transaction that made it true. The only module that writes ``OutboxMessage``.

Nothing is sent from here. Who delivers finds the rows that wait, so a crash between the commit and
the sending loses nothing.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Q

from core import clock, ids
from ops.models import OutboxMessage

_POST = """
    INSERT INTO outbox (id, organization_id, kind, key, data, created_at, attempts)
    SELECT id, organization_id, kind, key, data::jsonb, %s, 0
    FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[])
        AS message (id, organization_id, kind, key, data)
    ON CONFLICT (organization_id, kind, key) DO NOTHING
    RETURNING id
"""


class Message(NamedTuple):
    """A happening: its kind (``wallet.low``), whose (None: nobody's), which one of them, and what to say about it."""

    kind: str
    organization_id: UUID | None
    key: str
    data: Mapping[str, Any]


def post(*, kind: str, organization_id: UUID | None, key: str, data: Mapping[str, Any]) -> bool:
    """Write one message inside the caller's transaction; whether it is the first of its organization, kind and key."""
    return post_many([Message(kind, organization_id, key, data)])[0]


def post_many(messages: Sequence[Message]) -> list[bool]:
    """Write messages in one statement inside the caller's transaction; for each, whether it is the first of its key.

    ``data`` is plain JSON, money in it as text (``core.money.plain``): a ``Decimal`` is a ``TypeError``.
    A rival's uncommitted message under the same key is waited for, so post last, under the lock of
    what the message is about.
    """
    assert connection.in_atomic_block, "outbox.post needs the transaction of what it tells"
    if not messages:
        return []
    rows = [
        (ids.new(), message.organization_id, message.kind, message.key, json.dumps(message.data, allow_nan=False))
        for message in messages
    ]
    # In one order everywhere: batches that share messages wait for each other instead of deadlocking.
    ordered = sorted(rows, key=lambda row: (row[1].int if row[1] else -1, row[2], row[3]))
    with connection.cursor() as cursor:
        cursor.execute(_POST, [clock.now(), *(list(column) for column in zip(*ordered, strict=True))])
        made = {row_id for (row_id,) in cursor.fetchall()}
    return [row[0] in made for row in rows]


def waiting(limit: int) -> list[OutboxMessage]:
    """Messages that are to be delivered now, oldest first."""
    open_rows = OutboxMessage.objects.filter(delivered_at__isnull=True)
    due = open_rows.filter(Q(next_attempt_at__isnull=True) | Q(next_attempt_at__lte=clock.now()))
    return list(due.order_by("id")[:limit])
