"""Time that a test sets: one instant for the product and for its database, until the test moves on.

SQL asks ``now()`` and ``clock_timestamp()`` without a schema, so functions of these names in a schema
before ``pg_catalog`` answer instead, to every session of the test's own database, whichever process has it.
What a test would rather have lie in the past is moved there by ``age``.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from unittest import mock

import pytest
from psycopg import sql

from tests.books import Books

_FROZEN = """
    CREATE SCHEMA frozen;
    CREATE TABLE frozen.moment (at timestamptz NOT NULL);
    INSERT INTO frozen.moment VALUES (pg_catalog.clock_timestamp());
    CREATE FUNCTION frozen.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM frozen.moment';
    CREATE FUNCTION frozen.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT at FROM frozen.moment';
"""


class Clock:
    """The instant at which everything stands. It goes forward, unless somebody sets it back."""

    def __init__(self, books: Books) -> None:
        self._connection = books.connect()
        self.at: datetime = self._ask("SELECT at FROM frozen.moment")

    def _ask(self, query: str, *values: object) -> datetime:
        row = self._connection.execute(query, values).fetchone()
        assert row is not None
        found: datetime = row[0]
        return found

    def move(self, by: timedelta) -> None:
        """Let that much time pass."""
        assert by >= timedelta(0)
        self.at = self._ask("UPDATE frozen.moment SET at = at + %s RETURNING at", by)

    def set_back(self, by: timedelta) -> None:
        """Set it back, as somebody who corrects a clock does; ids that were made stay ahead."""
        assert by > timedelta(0)
        self.at = self._ask("UPDATE frozen.moment SET at = at - %s RETURNING at", by)

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


@contextmanager
def standing_still(books: Books) -> Iterator[Clock]:
    """A database in which time stands still from now on, and the process with it until the end of the block."""
    from django.db import connection

    with books.connect() as own:
        own.execute(_FROZEN)
        own.execute(f'ALTER DATABASE "{books.name}" SET search_path = public, frozen, pg_catalog')
    connection.close()
    clock = Clock(books)
    with ExitStack() as stack:
        stack.callback(clock.close)
        stack.callback(connection.close)
        # Ids never fall behind those made before: those of a future that is over must not count.
        stack.enter_context(mock.patch("core.ids._last", 0))
        # Below ``clock.now``, which models keep as the default of their columns.
        stack.enter_context(mock.patch("core.clock.datetime", _telling(clock)))
        yield clock


def _telling(clock: Clock) -> type[datetime]:
    """A ``datetime`` whose present is the clock's."""

    class Now(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            assert tz is UTC, "the one clock is in UTC"
            return clock.at

    return Now


@pytest.fixture
def fake_clock(books: Books) -> Iterator[Clock]:
    """Time stands still in the test's own database and in this process, and goes on when the test says so."""
    with standing_still(books) as clock:
        yield clock


def age(books: Books, table: str, *, by: timedelta, where: str = "true", columns: tuple[str, ...] = ()) -> int:
    """Make rows older: move all their times, or the named ones, into the past, behind the triggers.

    How many rows that were; there must be some. Times within ids stay.
    """
    with books.connect() as own, own.transaction():
        times = columns or tuple(
            row[0]
            for row in own.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s"
                " AND data_type = 'timestamp with time zone' ORDER BY 1",
                [table],
            )
        )
        assert times, f"{table} has no times"
        name = sql.Identifier(table)
        own.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
        changes = sql.SQL(", ").join(
            sql.SQL("{} = {} - {}").format(sql.Identifier(column), sql.Identifier(column), sql.Literal(by))
            for column in times
        )
        done = own.execute(sql.SQL("UPDATE {} SET {} WHERE {}").format(name, changes, sql.SQL(where)))
        own.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(name))
    assert done.rowcount > 0, f"{table} has no rows where {where}"
    return done.rowcount
