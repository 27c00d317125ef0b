"""Monthly partitions of the tables that grow by id: made ahead, on the spot when missing, and taken out again.

A new month is built as a plain table and attached in a transaction of its own, which takes no
lock that stops writers. There is no DEFAULT partition: rows in one would block the next month.

Taking a month out does stop writers, for the milliseconds between its lock and its commit, and
while it waits for that lock behind a long reader. So it waits briefly, and asks again later.
DETACH CONCURRENTLY would not stop them, but it commits in two halves of its own: between them a
month would be neither attached nor in the books as archived, and without its triggers.
"""

import re
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from django.db import connection, transaction
from psycopg import sql

from core import clock, ids
from core.transactions import retry

TABLES = ("usage_record", "request_log")
MONTHS_AHEAD = 3
# Fewer days than these without a gap are an alarm: a job that fails, and V29.
RUNWAY_DAYS_MIN = 35
# How long a statement that changes tables may wait, with every writer that comes after it (D05).
LOCK_TIMEOUT_MS = 2_000
# Waiting to take a month out keeps writers of all months waiting.
DETACH_LOCK_TIMEOUT_MS = 200
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
    """Make sure the month of ``at`` and the ``ahead`` months after it exist; the names made.

    Each month is a transaction of its own, tried again when it waited too long for a lock.
    """
    first = at or clock.now()
    made = []
    for table in TABLES:
        there = existing(table)
        for plus in range(ahead + 1):
            month = month_start(first, plus=plus)
            if name(table, month) not in there:
                retry(partial(create, table, month))
                made.append(name(table, month))
    return made


@transaction.atomic
def create(table: str, month: datetime) -> None:
    """Build and attach one month; doing it twice, or from two processes, is one partition."""
    assert table in TABLES
    part = name(table, month)
    low, high = ids.floor(month), ids.floor(month_start(month, plus=1))
    with connection.cursor() as cursor:
        wait_at_most(LOCK_TIMEOUT_MS)
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


def wait_at_most(milliseconds: int) -> None:
    """For the rest of the transaction no statement waits longer for a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [str(milliseconds)])


def detach(table: str, month: datetime) -> None:
    """Take a month out of its table, inside the caller's transaction and as its last act but for its rows.

    It stays as a table that refuses changes. Raises Django's ``OperationalError`` (55P03) when somebody reads
    for longer than ``DETACH_LOCK_TIMEOUT_MS``.
    """
    assert table in TABLES
    assert connection.in_atomic_block
    part = name(table, month)
    wait_at_most(DETACH_LOCK_TIMEOUT_MS)
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER TABLE "{table}" DETACH PARTITION "{part}"')
        # What came with attaching goes with detaching.
        cursor.execute(
            f'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON "{part}"'
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )


def drop(table: str, month: datetime) -> None:
    """Drop a month that was taken out, inside the caller's transaction. Its attached namesake stays."""
    assert connection.in_atomic_block
    part = name(table, month)
    assert part not in existing(table), f"{part} is attached"
    wait_at_most(LOCK_TIMEOUT_MS)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(part)))


def days_covered(table: str, at: datetime) -> int:
    """For how many days from ``at`` partitions stand without a gap."""
    there = existing(table)
    plus = 0
    while name(table, month_start(at, plus=plus)) in there:
        plus += 1
    return max((month_start(at, plus=plus) - at).days, 0) if plus else 0


def runway() -> int:
    """For how many days from now every table has its months."""
    return min(days_covered(table, clock.now()) for table in TABLES)


def are_ours() -> bool:
    """Whether this role may change the tables: where two roles run the product, only the owner may (decisions 23)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class WHERE oid = ANY (%s::regclass[])",
            [[*TABLES]],
        )
        ours: bool = cursor.fetchone()[0]
        return ours


def is_archived(table: str, row_id: UUID) -> bool:
    """Whether a row with this id would stand before every month that is attached, so that it is read no more."""
    attached = months(table)
    return bool(attached) and row_id < ids.floor(attached[0])


def months(table: str) -> list[datetime]:
    """Starts of the attached months, oldest first."""
    found = [_NAME.search(part) for part in existing(table)]
    return sorted(datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC) for match in found if match)
