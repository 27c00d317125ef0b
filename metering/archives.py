"""Archived months: old usage as files that finance keeps.

The only module that writes ``ArchivedMonth`` and ``ArchivedSum``.

A month goes out in this order, and may be interrupted anywhere: it is either in its table or in a
file that was read back and found equal to it, and running again finishes.

1. Its rows are copied into ``usage_record_2024_10.csv.gz.new``, which is brought to the disk and then renamed.
2. The file is read back, and its SHA-256 written beside it.
3. In one transaction, while nobody can write into the month: its rows are copied out once more and held against
   the file byte by byte (by digest), its sums by organization are held against those of the file, row and sums go
   into the books, and the month is detached. It stays as a table of its own.
4. Only when it is asked for: the file's SHA-256 is taken again, and the table is dropped.

The file is PostgreSQL's CSV, with a header, in UTC: NULL is nothing, an empty text is ``""``. It is lossless, and so
texts that a spreadsheet would take for formulas stand in it as they are; it is for ``COPY``, not for spreadsheets.
"""

import csv
import fcntl
import gzip
import hashlib
import io
import os
import random
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from django.db import OperationalError, connection, transaction
from psycopg import sql

from core import clock, failpoints, ids, money
from core.supervisor import write_private
from core.transactions import LOCK_NOT_AVAILABLE, sqlstate
from metering import partitions, rollups
from metering.models import ArchivedMonth, ArchivedSum

# Whole months before the present one that always stay attached (decisions 22).
KEEP_MONTHS_MIN = 24
# How often a month is asked for its lock, with a second or so between: half a minute in all.
DETACH_ATTEMPTS_MAX = 20
_CHUNK_BYTES = 1 << 20
# A month of any size is read within one statement.
_STATEMENT_TIMEOUT = "6h"
_GZIP_LEVEL = 6


class BadArchive(Exception):
    """A file that does not hold what it should, or is in use; the message says which and what to do."""


class Busy(BadArchive):
    """Somebody else is at work in the folder."""


class Sum(NamedTuple):
    """What an organization's rows come to."""

    rows: int
    cost_usd: Decimal


# By organization and payer.
Sums = Mapping[tuple[UUID, UUID], Sum]


class Content(NamedTuple):
    """What a file holds: digests of the file and of the text in it, its rows, its sums."""

    sha256: str
    text_sha256: str
    rows: int
    sums: Sums


class Done(NamedTuple):
    """A month that was taken out, or dropped."""

    book: str
    month: datetime
    file: str
    rows: int
    cost_usd: Decimal


def file_of(book: str, month: datetime) -> str:
    """The file's name: ``usage_record_2024_10.csv.gz``."""
    return f"{partitions.name(book, month)}.csv.gz"


def due(*, keep_months: int) -> list[datetime]:
    """Attached months beyond those that are kept, and folded into rollups, oldest first."""
    assert keep_months >= KEEP_MONTHS_MIN
    first_kept = min(
        partitions.month_start(clock.now(), plus=-keep_months), partitions.month_start(rollups.folded_until())
    )
    attached = {month for book in partitions.TABLES for month in partitions.months(book)}
    return sorted(month for month in attached if month < first_kept)


def archive(*, folder: Path, keep_months: int) -> list[Done]:
    """Take every month that is due out into files below ``folder``, oldest first; those taken out.

    Each is a transaction of its own. Raises ``BadArchive``, ``OSError``, and Django's ``OperationalError`` (55P03)
    when the table is read without a pause; what was done until then stays done.
    """
    done = []
    with _alone(folder):
        for month in due(keep_months=keep_months):
            # Usage first: what the books say of a month's failures is asked only where its usage is attached.
            for book in partitions.TABLES:
                if month in partitions.months(book):
                    done.append(_take_out(book, month, folder / file_of(book, month)))
    return done


def drop(*, folder: Path) -> list[Done]:
    """Drop the tables of archived months whose files are still what they were; those dropped.

    Raises ``BadArchive`` for a file that is missing or altered, ``OSError``.
    """
    done = []
    with _alone(folder):
        for row in ArchivedMonth.objects.filter(dropped_at__isnull=True).order_by("month", "book"):
            _check_sum(folder / row.file, row.sha256)
            failpoints.reach("archive.before_drop")
            _drop(row)
            month = datetime(row.month.year, row.month.month, 1, tzinfo=UTC)
            done.append(Done(row.book, month, row.file, row.rows, cost_of(row)))
    return done


def cost_of(row: ArchivedMonth) -> Decimal:
    """What an archived month's rows come to."""
    costs = ArchivedSum.objects.filter(archived=row).values_list("cost_usd", flat=True)
    return sum(costs, money.ZERO)


@transaction.atomic(durable=True)
def _drop(row: ArchivedMonth) -> None:
    month = datetime(row.month.year, row.month.month, 1, tzinfo=UTC)
    partitions.drop(row.book, month)
    ArchivedMonth.objects.filter(pk=row.pk).update(dropped_at=clock.now())


def _take_out(book: str, month: datetime, path: Path) -> Done:
    if not path.exists():
        _export(book, month, path)
    content = read(path)
    write_private(path.with_name(f"{path.name}.sha256"), f"{content.sha256}  {path.name}\n")
    _sync_folder(path.parent)
    failpoints.reach("archive.after_checksum")
    _detach(book, month, path, content)
    failpoints.reach("archive.after_commit")
    return Done(book, month, path.name, content.rows, sum((one.cost_usd for one in content.sums.values()), money.ZERO))


def _export(book: str, month: datetime, path: Path) -> None:
    """Write a month's rows to a file that appears under its name when it is whole and on the disk."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        # Without a name and a time in it, the same rows make the same file.
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed, transaction.atomic():
            _unhurried()
            for chunk in _rows(book, month):
                packed.write(chunk)
        failpoints.reach("archive.after_write")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)
    failpoints.reach("archive.after_rename")


@transaction.atomic(durable=True)
def _detach(book: str, month: datetime, path: Path, content: Content) -> None:
    """Hold a file against its month and take the month out. Raises ``BadArchive`` where they differ."""
    part = partitions.name(book, month)
    _unhurried()
    with connection.cursor() as cursor:
        partitions.wait_at_most(partitions.LOCK_TIMEOUT_MS)
        # Readers go on; a writer whose clock has gone back two years would wait, and so does who archives elsewhere.
        cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(sql.Identifier(part)))
    if part not in partitions.existing(book):
        raise BadArchive(f"{part} was taken out by somebody else meanwhile; run again.")
    text = hashlib.sha256()
    for chunk in _rows(book, month):
        text.update(chunk)
    if (text.hexdigest(), sums_of(book, month)) != (content.text_sha256, content.sums):
        raise BadArchive(f"{path} does not hold the rows of {part}: move it away and run again.")
    row = ArchivedMonth.objects.create(
        book=book, month=month.date(), first_id=ids.floor(month),
        end_id=ids.floor(partitions.month_start(month, plus=1)), file=path.name, sha256=content.sha256,
        rows=content.rows, detached_at=clock.now(),
    )  # fmt: skip
    ArchivedSum.objects.bulk_create(
        [
            ArchivedSum(archived=row, organization_id=owner, payer_id=payer, rows=one.rows, cost_usd=one.cost_usd)
            for (owner, payer), one in sorted(content.sums.items())
        ],
        batch_size=1000,
    )
    failpoints.reach("archive.before_detach")
    _detach_patiently(book, month)
    failpoints.reach("archive.before_commit")


def _detach_patiently(book: str, month: datetime) -> None:
    """Take the month out between two long readers, without keeping writers waiting behind them."""
    for attempt in range(1, DETACH_ATTEMPTS_MAX + 1):
        try:
            with transaction.atomic():
                partitions.detach(book, month)
                return
        except OperationalError as error:
            if sqlstate(error) != LOCK_NOT_AVAILABLE or attempt == DETACH_ATTEMPTS_MAX:
                raise
            _pause()


def _pause() -> None:
    """Let the writers go on that waited meanwhile."""
    time.sleep(random.uniform(0.5, 1.5))


def _unhurried() -> None:
    """Let this transaction read a month of any size, and write texts that say the same everywhere."""
    with connection.cursor() as cursor:
        for name, value in (
            ("statement_timeout", _STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", "1min"),
            ("timezone", "UTC"),
            ("datestyle", "ISO"),
            # Two readings of a table begin at its first page.
            ("synchronize_seqscans", "off"),
        ):
            cursor.execute("SELECT set_config(%s, %s, true)", [name, value])


def _rows(book: str, month: datetime) -> Iterator[bytes]:
    """A month as CSV, row after row in the order in which it lies in the table; inside the caller's transaction."""
    copy_out = sql.SQL("COPY {} TO STDOUT (FORMAT csv, HEADER, ENCODING 'UTF8')")
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(copy_out.format(sql.Identifier(partitions.name(book, month)))) as copy,
    ):
        for data in copy:
            yield bytes(data)


def sums_of(book: str, month: datetime) -> Sums:
    """What a month's rows in the table come to, by organization and payer."""
    payer, cost = ("payer_id", "sum(cost_usd)") if book == "usage_record" else ("organization_id", "0")
    query = sql.SQL("SELECT organization_id, {}, count(*), {} FROM {} GROUP BY 1, 2").format(
        sql.Identifier(payer), sql.SQL(cost), sql.Identifier(partitions.name(book, month))
    )
    with connection.cursor() as cursor:
        cursor.execute(query)
        return {(owner, paid_by): Sum(rows, Decimal(usd)) for owner, paid_by, rows, usd in cursor.fetchall()}


class _Hashed(io.RawIOBase):
    """A file that is read, and the SHA-256 of what was read of it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read, and count it in."""
        count: int = self._inner.readinto(buffer) or 0
        self.digest.update(memoryview(buffer)[:count])
        return count


def read(path: Path) -> Content:
    """Read a file to its end. Raises ``BadArchive`` for one that cannot be read as what it should be, ``OSError``."""
    with path.open("rb", buffering=0) as raw:
        file = _Hashed(raw)
        buffered = io.BufferedReader(file, _CHUNK_BYTES)
        try:
            with gzip.GzipFile(fileobj=buffered) as packed:
                text = _Hashed(packed)
                rows, sums = _add_up(io.BufferedReader(text, _CHUNK_BYTES))
        except (EOFError, gzip.BadGzipFile, zlib.error, csv.Error, ValueError, IndexError, StopIteration) as error:
            raise BadArchive(f"{path} cannot be read, move it away and run again: {error}") from error
    return Content(file.digest.hexdigest(), text.digest.hexdigest(), rows, sums)


def _add_up(lines: io.BufferedReader) -> tuple[int, Sums]:
    """Rows and sums of CSV. Only these grow with the number of organizations; nothing grows with the rows."""
    table = csv.reader((line.decode() for line in lines), strict=True)
    columns = next(table)
    owner_at = columns.index("organization_id")
    payer_at = columns.index("payer_id") if "payer_id" in columns else owner_at
    cost_at = columns.index("cost_usd") if "cost_usd" in columns else None
    found: dict[tuple[str, str], list[int]] = {}
    rows = 0
    for row in table:
        rows += 1
        entry = found.setdefault((row[owner_at], row[payer_at]), [0, 0])
        entry[0] += 1
        if cost_at is not None:
            # All twelve decimals always stand there, so without the point it is a number of pico-dollars.
            entry[1] += int(row[cost_at].replace(".", ""))
    sums = {
        (UUID(owner), UUID(payer)): Sum(count, money.from_pico(pico)) for (owner, payer), (count, pico) in found.items()
    }
    return rows, sums


def _check_sum(path: Path, sha256: str) -> None:
    """Raises ``BadArchive`` unless the file is there and is what it was."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError as error:
        raise BadArchive(f"{path} is not there; its month is kept in the database.") from error
    if digest.hexdigest() != sha256:
        raise BadArchive(f"{path} is not what was archived (SHA-256 {sha256}); its month is kept in the database.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder meanwhile. Raises ``Busy`` if somebody does."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"Somebody else is archiving into {folder}.") from error
        yield


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def told(done: Sequence[Done]) -> str:
    """What was done, in a line."""
    if not done:
        return "nothing was due"
    return "; ".join(
        f"{partitions.name(one.book, one.month)}: {one.rows} rows, {money.plain(one.cost_usd)} USD" for one in done
    )
