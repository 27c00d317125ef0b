"""Many rows in one statement: binary ``COPY``, and arrays as text."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection

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


def array(values: Iterable[UUID | Decimal | int]) -> str:
    """PostgreSQL's text for an array of values that need no quotes; the driver's own is ten times slower."""
    return f"{{{','.join(map(str, values))}}}"
