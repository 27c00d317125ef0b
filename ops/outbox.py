"""What others are to be told: rows of the transaction that made it true. The only module that writes ``OutboxMessage``.

Nothing is sent from here. A message that waits is handed on (``hand_on``) to all who make something of it: the
deliveries to customers' endpoints, and mails. What they make are rows too, written in the one transaction that
marks the message, so each is made exactly once, and a crash between a commit and the next step loses nothing:
whoever comes by next finds the rows that wait.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import Error, connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from core import clock, ids
from core.transactions import is_outage
from ops.models import OutboxMessage, WebhookDelivery

log = logging.getLogger(__name__)

# Who makes something of messages, by name: each is called with every message, inside the transaction that hands it on,
# and writes rows only, under unique keys: where another reader fails, all are called again. ``ops`` puts its own in
# here; apps above add theirs when they are ready.
READERS: Final[dict[str, Callable[[OutboxMessage], None]]] = {}

# A message that a reader could not take is handed on again after this, twice as long each time, up to an hour.
PAUSE = timedelta(seconds=10)
_DOUBLINGS_MAX = 8
KEEP = timedelta(days=30)
TRIM_ROWS = 1000
TRIM_ROUNDS_MAX = 1000

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
    """Messages that are to be handed on now, oldest first."""
    return list(_waiting()[:limit])


def _waiting() -> QuerySet[OutboxMessage]:
    open_rows = OutboxMessage.objects.filter(delivered_at__isnull=True)
    due = open_rows.filter(Q(next_attempt_at__isnull=True) | Q(next_attempt_at__lte=clock.now()))
    return due.order_by("id")


def post_handed_on(*, kind: str, organization_id: UUID, key: str, data: Mapping[str, Any]) -> UUID:
    """Write a message inside the caller's transaction for which the caller makes all that follows; its id."""
    assert connection.in_atomic_block, "a message needs the transaction of what it tells"
    now = clock.now()
    made = OutboxMessage.objects.create(
        organization_id=organization_id, kind=kind, key=key, data=dict(data), created_at=now, delivered_at=now
    )
    found: UUID = made.pk
    return found


def hand_on(limit: int = 1000) -> int:
    """Hand on what waits, oldest first, at most ``limit`` messages; how many. Any number may run it at once.

    A message that a reader fails at is logged, waits, and holds up no other.
    """
    done = 0
    for _ in range(limit):
        handed = _hand_on_one()
        if handed is None:
            break
        done += handed
    return done


def _hand_on_one() -> bool | None:
    """Whether one message was handed on; None if none waits that nobody else is at."""
    with transaction.atomic(durable=True):
        message = _waiting().select_for_update(no_key=True, skip_locked=True).first()
        if message is None:
            return None
        # All of them, whoever fails: what one cannot take must not keep it from the others.
        failed = [name for name, reader in READERS.items() if not _read(name, reader, message)]
        row = OutboxMessage.objects.filter(pk=message.pk)
        if not failed:
            row.update(delivered_at=clock.now(), next_attempt_at=None)
        else:
            due = clock.now() + PAUSE * (1 << min(message.attempts, _DOUBLINGS_MAX))
            row.update(attempts=F("attempts") + 1, next_attempt_at=due)
    return not failed


def _read(name: str, reader: Callable[[OutboxMessage], None], message: OutboxMessage) -> bool:
    """Whether a reader took a message; if not, nothing of what it wrote stays."""
    try:
        with transaction.atomic():
            reader(message)
    except Exception as error:
        # Whatever is wrong with one message must not stop all others; a database that is away is everybody's.
        if isinstance(error, Error) and is_outage(error):
            raise
        log.exception("message %s could not be handed on to %s", ids.show("evt", message.pk), name)
        return False
    return True


def trim(*, at: datetime | None = None) -> int:
    """Forget messages that were handed on ``KEEP`` before an instant (now) and are on their way nowhere; how many.

    From then on the same happening could be told a second time: who posts must not come back to it so late.
    """
    end = (at or clock.now()) - KEEP
    trimmed = 0
    for _ in range(TRIM_ROUNDS_MAX):
        sent = WebhookDelivery.objects.filter(message_id=OuterRef("pk"))
        # Looked up for each message: ``NOT IN`` would compare each with all deliveries there are.
        old = OutboxMessage.objects.filter(~Exists(sent), pk__lt=ids.floor(end), delivered_at__lt=end)
        done, _rows = OutboxMessage.objects.filter(
            pk__in=list(old.order_by("pk").values_list("pk", flat=True)[:TRIM_ROWS])
        ).delete()
        trimmed += done
        if done < TRIM_ROWS:
            break
    return trimmed
