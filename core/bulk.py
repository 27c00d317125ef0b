"""Many rows in one statement, many statements in one message: binary ``COPY``, and arrays as text."""

import hashlib
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.backends.utils import CursorWrapper

# COPY collects rows by partition and writes index entries a partition at a time, so whom a row waits
# for would not follow the order of the rows. A condition that it must ask of each row, and that
# holds of all, makes it take row after row; measured, that costs nothing for rows of this size.
_ROW_BY_ROW = " WHERE random() >= 0"


def copy_rows(
    table: str, columns: Mapping[str, str], rows: Iterable[tuple[Any, ...]], *, in_order: bool = False
) -> None:
    """Append rows by binary ``COPY``, inside the caller's transaction.

    ``columns`` maps names to PostgreSQL types; values stand in its order. ``in_order``: each row
    takes its place in every index before the next one does.
    """
    assert connection.in_atomic_block
    order = _ROW_BY_ROW if in_order else ""
    with (
        # The driver's COPY bypasses Django's cursor, and with it the translation of errors.
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary){order}") as copy,
    ):
        copy.set_types(list(columns.values()))
        for row in rows:
            copy.write_row(row)


# PostgreSQL's binary COPY: signature, flags and extension; rows, each with its number of fields; the end.
_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL = b"\xff\xff"
# So many rows are made while the server reads those before them.
_ROWS_AT_ONCE = 200


def copy_packed(table: str, columns: Collection[str], rows: Iterable[bytes], *, in_order: bool = False) -> None:
    """``copy_rows`` of rows whose fields are ``packed`` already, in the order of ``columns``."""
    assert connection.in_atomic_block
    order = _ROW_BY_ROW if in_order else ""
    # Stands before each row, and so between any two.
    count = struct.pack("!h", len(columns))
    coming = iter(rows)
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary){order}") as copy,
    ):
        data = _HEAD
        while some := list(islice(coming, _ROWS_AT_ONCE)):
            data += count + count.join(some)
            if len(some) == _ROWS_AT_ONCE:
                copy.write(data)
                data = b""
        # A few rows are one piece from the first byte to the last.
        copy.write(data + _TAIL)


class Statement(NamedTuple):
    """SQL without a semicolon, and its values by position."""

    query: str
    values: Sequence[Any]


def at_once(statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
    """Run statements in one message, so under a lock the server is waited for once; the rows of each.

    Each runs after the one before it and sees what it would see if it were sent alone. Each is parsed and planned once
    a connection (``DATABASE_PREPARE``), so its text should be one of few: what changes belongs into its values.
    """
    found = []
    with connection.cursor() as cursor:
        queries = [_prepared(cursor, one.query) for one in statements]
        cursor.execute("; ".join(queries), [value for one in statements for value in one.values])
        for _ in statements:
            # The driver's description would be made anew for each, column by column.
            found.append(cursor.fetchall() if cursor.pgresult.nfields else [])
            cursor.nextset()
    return found


def _prepared(cursor: CursorWrapper, query: str) -> str:
    """What runs a query that this connection knows by name from now on."""
    if not settings.DATABASE_PREPARE:
        return query
    named = _named(query)
    # A name is known for as long as the connection lasts, whatever becomes of the transaction.
    known: set[str] = connection.connection.__dict__.setdefault(_KNOWN, set())
    if named.name not in known:
        cursor.execute(named.prepare)
        known.add(named.name)
    return named.execute


# The attribute of the driver's connection that holds what it knows.
_KNOWN = "tollbook_statements"


class _Named(NamedTuple):
    """A query's name in the server, and what makes it known and runs it."""

    name: str
    prepare: str
    execute: str


@lru_cache(maxsize=256)
def _named(query: str) -> _Named:
    name = f"tollbook_{hashlib.sha256(query.encode()).hexdigest()[:16]}"
    first, *rest = query.split("%s")
    numbered = first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
    values = f"({', '.join(['%s'] * len(rest))})" if rest else ""
    return _Named(name, f"PREPARE {name} AS {numbered}", f"EXECUTE {name}{values}")


def array(values: Iterable[UUID | Decimal | int]) -> str:
    """PostgreSQL's text for an array of values that need no quotes; the driver's own is ten times slower."""
    # An id's digits alone are read as well, and written in half the time.
    texts = [f"{value.int:032x}" if type(value) is UUID else str(value) for value in values]
    return f"{{{','.join(texts)}}}"


def quoted(values: Iterable[object | None]) -> str:
    """PostgreSQL's text for an array of anything whose ``str`` it reads; ``None`` is NULL."""
    given = list(values)
    if None not in given:
        # Together, where no text holds a quote or a backslash of its own.
        text = '","'.join(map(str, given))
        if "\\" not in text and text.count('"') == 2 * (len(given) - 1):
            return f'{{"{text}"}}'
    return f"{{{','.join(map(_quote, given))}}}"


def _quote(value: object | None) -> str:
    if value is None:
        return "NULL"
    text = str(value)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
