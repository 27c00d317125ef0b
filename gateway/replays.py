"""Model calls that are sent again under an ``Idempotency-Key``: never a second call, never a second debit.

The only module that writes ``CallKey``. Answers are not kept (decisions 10). The key is written in the
transaction of its hold, so a call that was begun is known however its process ended; one that failed for nothing
leaves its key free.
"""

import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction

from billing import holds
from core import clock, errors, ids
from core.transactions import retry
from gateway.models import CallKey
from metering import usage
from metering.models import UsageClaim
from ops.idempotency import HEADER

LIFE = timedelta(hours=24)
TRIM_ROWS = 1000
TRIM_ROUNDS_MAX = 1000
# Keeps these advisory locks apart from every other kind.
ADVISORY_CLASS = 7020


class Keyed(NamedTuple):
    """A call under a key: whose, the key, what was asked, and the id of the event that will settle it."""

    organization_id: UUID
    key: str
    fingerprint: bytes
    call_id: str


def fingerprint(*, endpoint: str, slug: str, digest: bytes) -> bytes:
    """What makes two calls the same: where they go, whom they charge, and the digest of what they say."""
    return hashlib.sha256(f"{endpoint}\n{slug}\n".encode() + digest).digest()


def enter(call: Keyed) -> None:
    """Claim the key for a call, inside the transaction that then places its hold and calls ``keep``.

    Raises ``IdempotencyKeyInUse`` while the first call runs, ``ReplayUnavailable`` once it has ended, and
    ``IdempotencyKeyReused`` for a key that stands for another request.
    """
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))",
            [ADVISORY_CLASS, f"{call.organization_id}\n{call.key}"],
        )
        free = cursor.fetchone()[0]
    # In a statement of its own, so that it sees what the last holder of the lock has committed.
    known = CallKey.objects.filter(organization_id=call.organization_id, key=call.key).first()
    if known is not None:
        _refuse(call, known)
    if not free:
        raise errors.IdempotencyKeyInUse(param=HEADER)


def _refuse(call: Keyed, known: CallKey) -> None:
    """Raise unless the first call came to nothing."""
    if bytes(known.fingerprint) != call.fingerprint:
        raise errors.IdempotencyKeyReused(param=HEADER)
    claim = usage.standing([(known.organization_id, known.call_id)]).get((known.organization_id, known.call_id))
    if claim is None:
        hold = holds.find(organization_id=known.organization_id, hold_id=known.hold_id)
        if hold is not None and hold.state == hold.State.OPEN:
            raise errors.IdempotencyKeyInUse(param=HEADER)
        raise errors.ReplayUnavailable("How the call with this Idempotency-Key ended is not known.", param=HEADER)
    if claim.state == UsageClaim.State.LOGGED:
        # It failed and cost nothing.
        return
    if claim.state != UsageClaim.State.RECORDED:
        raise errors.ReplayUnavailable(param=HEADER)
    shown = ids.show("usage", claim.record_id)
    raise errors.ReplayUnavailable(
        f"The call with this Idempotency-Key has ended; its usage record is {shown}.",
        param=HEADER,
        headers={"x-usage-record-id": shown},
    )


def keep(call: Keyed, *, hold_id: UUID) -> None:
    """Let the key stand for the call, after ``enter``."""
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO call_key (organization_id, key, fingerprint, call_id, hold_id, created_at)"
            " VALUES (%s, %s, %s, %s, %s, clock_timestamp()) ON CONFLICT (organization_id, key) DO UPDATE"
            " SET call_id = EXCLUDED.call_id, hold_id = EXCLUDED.hold_id, created_at = EXCLUDED.created_at",
            [call.organization_id, call.key, call.fingerprint, call.call_id, hold_id],
        )


def trim() -> int:
    """Forget keys older than ``LIFE``, oldest first, ``TRIM_ROWS`` a transaction; how many."""
    end = clock.now() - LIFE
    trimmed = 0
    for _ in range(TRIM_ROUNDS_MAX):
        done = retry(lambda: _trim_some(end))
        trimmed += done
        if done < TRIM_ROWS:
            break
    return trimmed


def _trim_some(end: datetime) -> int:
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(created_at) FROM (SELECT created_at FROM call_key WHERE created_at < %s"
            " ORDER BY created_at LIMIT %s) AS oldest",
            [end, TRIM_ROWS],
        )
        last = cursor.fetchone()[0]
        if last is None:
            return 0
        cursor.execute("DELETE FROM call_key WHERE created_at <= %s", [last])
        return int(cursor.rowcount)
