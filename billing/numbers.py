"""Numbers of documents: one series for each legal entity and year, without a gap.

The only module that writes ``NumberSeries``.

A number is given in the transaction that issues the document, last, under the lock of its series: whoever fails
gives it back with everything else, so none is skipped and none is used twice. The instant of issue is taken
under the same lock, so later numbers are of later instants.
"""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection

from billing.models import LegalEntity
from core.transactions import database_now

_LOCK = """
    SELECT last_issued_at FROM number_series WHERE legal_entity_id = %s AND year = %s FOR NO KEY UPDATE
"""
_MAKE = """
    INSERT INTO number_series (legal_entity_id, year, last_number) VALUES (%s, %s, 0) ON CONFLICT DO NOTHING
"""
_GIVE = """
    UPDATE number_series SET last_number = last_number + 1, last_issued_at = %s
    WHERE legal_entity_id = %s AND year = %s RETURNING last_number
"""


class Number(NamedTuple):
    """A document's number, as printed too, and the instant of its issue."""

    year: int
    sequence: int
    text: str
    issued_at: datetime


def give(entity: LegalEntity) -> Number:
    """The next number of a legal entity, in the caller's transaction, which ends soon after."""
    assert connection.in_atomic_block, "a number is given with its document"
    zone = ZoneInfo(entity.time_zone)
    year = database_now().astimezone(zone).year
    while True:
        last = _lock(entity.pk, year)
        # Others may have kept us waiting until after New Year, or the clock may stand still.
        issued_at = database_now()
        if last is not None and issued_at <= last:
            issued_at = last + timedelta(microseconds=1)
        if issued_at.astimezone(zone).year == year:
            break
        year = issued_at.astimezone(zone).year
    with connection.cursor() as cursor:
        cursor.execute(_GIVE, [issued_at, entity.pk, year])
        (sequence,) = cursor.fetchone()
    return Number(year, sequence, f"{entity.number_prefix}-{year}-{sequence:06}", issued_at)


def _lock(entity_id: UUID, year: int) -> datetime | None:
    """Lock a series, making it first if there is none; when its last number was given."""
    with connection.cursor() as cursor:
        for _ in range(2):
            cursor.execute(_LOCK, [entity_id, year])
            row = cursor.fetchone()
            if row is not None:
                last: datetime | None = row[0]
                return last
            cursor.execute(_MAKE, [entity_id, year])
    # Unreachable: a series is never deleted.
    raise AssertionError(f"no series of {entity_id} for {year}")
