"""Monthly partitions of the tables that grow by id: made ahead, and on the spot when missing.

A new month is built as a plain table and attached in a transaction of its own, which takes no
lock that stops writers. There is no DEFAULT partition: rows in one would block the next month.
"""

import re
from datetime import UTC, datetime
from uuid import UUID

from django.db import connection, transaction

from core import clock, ids

TABLES = ("usage_record", "request_log")
MONTHS_AHEAD = 3
# Keeps these advisory locks apart from every other kind.
ADVISORY_CLASS = 7001
_NAME = re.compile(r"_(\d{4})_(\d{2})$")


def month_start(at: datetime, *, plus: int = 0) -> datetime:
    """The first instant (UTC) of the month ``plus`` months after the one of ``at``."""
    months = at.astimezone(UTC).year * 12 + at.astimezone(UTC).month - 1 + plus
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def name(table: str, month: datetime) -> str:
    """The partition's name: ``usage_record_2026_11``."""
    return f"{table}_{month:%Y_%m}"


def existing(table: str) -> set[str]:
    """Names of the partitions attached to ``table``."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = %s::regclass",
            [table],
        )
        return {row[0] for row in cursor.fetchall()}


def ensure(*, at: datetime | None = None, ahead: int = MONTHS_AHEAD) -> list[str]:
    """Make sure the month of ``at`` and the ``ahead`` months after it exist; the names made."""
    first = at or clock.now()
    made = []
    for table in TABLES:
        there = existing(table)
        for plus in range(ahead + 1):
            month = month_start(first, plus=plus)
            if name(table, month) not in there:
                create(table, month)
                made.append(name(table, month))
    return made


@transaction.atomic
def create(table: str, month: datetime) -> None:
    """Build and attach one month; doing it twice, or from two processes, is one partition."""
    assert table in TABLES
    part = name(table, month)
    low, high = ids.floor(month), ids.floor(month_start(month, plus=1))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [ADVISORY_CLASS, part])
        cursor.execute("SELECT to_regclass(%s)", [part])
        if cursor.fetchone()[0] is not None:
            return
        cursor.execute(f'CREATE TABLE "{part}" (LIKE "{table}" INCLUDING DEFAULTS INCLUDING CONSTRAINTS)')
        # Proves the bounds before attaching, so attaching need not read the table.
        cursor.execute(
            f"ALTER TABLE \"{part}\" ADD CONSTRAINT bounds CHECK (id >= '{low}' AND id < '{high}'),"
            " ADD PRIMARY KEY (organization_id, id)"
        )
        cursor.execute(f"ALTER TABLE \"{table}\" ATTACH PARTITION \"{part}\" FOR VALUES FROM ('{low}') TO ('{high}')")
        # Row triggers come with attaching; a statement trigger does not.
        cursor.execute(
            f'CREATE TRIGGER no_truncate BEFORE TRUNCATE ON "{part}"'
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def days_covered(table: str, at: datetime) -> int:
    """For how many days from ``at`` partitions stand without a gap."""
    there = existing(table)
    plus = 0
    while name(table, month_start(at, plus=plus)) in there:
        plus += 1
    return max((month_start(at, plus=plus) - at).days, 0) if plus else 0


def is_archived(table: str, row_id: UUID) -> bool:
    """Whether a row with this id would stand before every month that is attached, so that it is read no more."""
    attached = months(table)
    return bool(attached) and row_id < ids.floor(attached[0])


def months(table: str) -> list[datetime]:
    """Starts of the attached months, oldest first."""
    found = [_NAME.search(part) for part in existing(table)]
    return sorted(datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC) for match in found if match)
