"""Seals: where each wallet stood when a day was found clean. The only module that writes ``LedgerHead``.

A day (UTC) is sealed once it is final and the books up to its end have passed every check of theirs.
The heads are taken from the snapshot that was checked. Later runs of ``verify`` start from them, and
they are exported, so that a copy elsewhere tells whether the past was rewritten.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

from django.db import connection, transaction

from billing import invariants
from billing.invariants import Finding, Scope, heads
from billing.invariants.heads import Head
from core import clock, ids
from core.supervisor import write_private
from metering.usage import FINAL_AFTER

ADVISORY_CLASS = 7006
DAY = timedelta(days=1)


class Unclean(Exception):
    """A day that cannot be sealed: checks of the books fail. ``broken`` are their findings."""

    def __init__(self, day: date, broken: Sequence[Finding]) -> None:
        super().__init__(f"{day} is not sealed; " + "; ".join(f"{one.name}: {one.detail}" for one in broken))
        self.broken = broken


class Sealed(NamedTuple):
    """A day that was sealed, and how many wallets had moved since the seal before."""

    day: date
    wallets: int


def last_day() -> date | None:
    """The last day that is sealed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(day) FROM ledger_head")
        day: date | None = cursor.fetchone()[0]
        return day


def start(day: date) -> datetime:
    """The first instant of a day (UTC)."""
    return datetime.combine(day, time(), UTC)


def since_last() -> Scope:
    """What is new since the last sealed day; everything before there is one."""
    day = last_day()
    return Scope() if day is None else Scope(first=ids.floor(start(day + DAY)), sealed=True, deep=False)


def of_day(day: date) -> Scope:
    """One day's records; wallets from their last seals on."""
    return Scope(first=ids.floor(start(day)), last=ids.floor(start(day + DAY)), sealed=last_day() is not None)


def due() -> date | None:
    """The last day that is final, if it is not sealed."""
    day = (clock.now() - FINAL_AFTER).date() - DAY
    sealed = last_day()
    return day if sealed is None or sealed < day else None


def seal(day: date) -> Sealed:
    """Check all that is new up to the end of a day, and seal it. Raises ``Unclean``.

    A day without a transfer since the seal before leaves nothing to seal.
    """
    assert start(day + DAY) + FINAL_AFTER <= clock.now(), f"{day} is not final"
    with invariants.snapshot():
        before = last_day()
        scope = since_last()._replace(last=ids.floor(start(day + DAY)), deep=True)
        broken = [finding for finding in invariants.each(scope) if not finding.ok]
        if broken:
            raise Unclean(day, broken)
        moved = _moved()
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, 0)", [ADVISORY_CLASS])
        # Somebody else sealed meanwhile: their snapshot counts, and ours is not mixed into it.
        if last_day() != before:
            return Sealed(day, 0)
        cursor.executemany(
            "INSERT INTO ledger_head (organization_id, day, seq, digest, posted_usd, overdraft_usd, spent_usd,"
            " sealed_at) VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp())",
            [head._replace(day=day) for head in moved],
        )
    return Sealed(day, len(moved))


def _moved() -> list[Head]:
    """Where the wallets stand that moved since their last seal."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT w.organization_id, current_date, w.seq, w.head, w.posted_usd, w.overdraft_usd, w.spent_usd"
            " FROM wallet w LEFT JOIN LATERAL (SELECT seq FROM ledger_head h"
            " WHERE h.organization_id = w.organization_id ORDER BY day DESC LIMIT 1) h ON true"
            " WHERE w.seq > coalesce(h.seq, 0) ORDER BY w.organization_id"
        )
        return [_head(row) for row in cursor.fetchall()]


def _head(row: Sequence[object]) -> Head:
    head = Head._make(row)
    return head._replace(digest=bytes(head.digest))


def file_of(day: date, *, folder: Path) -> Path:
    """Where a day's heads are exported."""
    return folder.joinpath(f"heads-{day}.jsonl")


def export(*, folder: Path) -> Path | None:
    """Write every organization's last head to the file of the last sealed day, unless it is there; the file.

    Raises ``OSError``.
    """
    day = last_day()
    if day is None:
        return None
    path = file_of(day, folder=folder)
    if path.exists():
        return path
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT h.* FROM organization o CROSS JOIN LATERAL (SELECT organization_id, day, seq, digest, posted_usd,"
            " overdraft_usd, spent_usd FROM ledger_head WHERE organization_id = o.id AND day <= %s"
            " ORDER BY day DESC LIMIT 1) h ORDER BY h.organization_id",
            [day],
        )
        text = heads.write([_head(row) for row in cursor.fetchall()], sealed=day)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, text)
    return path
