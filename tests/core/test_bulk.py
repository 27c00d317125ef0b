"""Many rows in one statement."""

from contextlib import suppress
from decimal import Decimal, DivisionByZero

import pytest
from django.db import IntegrityError, ProgrammingError, connection, transaction
from django.test import override_settings

from core import ids
from core.bulk import Statement, array, at_once, copy_rows
from tests.billing import world
from tests.books import Books

COLUMNS = {"name": "text", "period": "timestamptz", "state": "text", "attempts": "int2", "result": "text"}


def row(name: str, result: str) -> tuple[object, ...]:
    return (name, ids.instant(ids.new()), "due", 0, result)


def test_rows_are_copied_inside_the_callers_transaction_only(books: Books) -> None:
    with pytest.raises(AssertionError):
        copy_rows("job_run", COLUMNS, [])
    with transaction.atomic():
        copy_rows("job_run", COLUMNS, [row("one", "ö\\n,"), row("two", "")])
    assert world.rows("SELECT name, result FROM job_run ORDER BY name") == [("one", "ö\\n,"), ("two", "")]


def test_an_error_of_the_driver_is_djangos_error(books: Books) -> None:
    one = row("one", "")
    with pytest.raises(IntegrityError), transaction.atomic():
        copy_rows("job_run", COLUMNS, [one, one])
    assert world.rows("SELECT count(*) FROM job_run") == [(0,)]


def test_an_array_as_text_is_read_back_as_it_was(books: Books) -> None:
    these = [ids.new(), ids.new()]
    assert world.rows("SELECT %s::uuid[]", array(these)) == [(these,)]
    amounts = [Decimal("0.000000000001"), Decimal("-1"), Decimal("1E+3")]
    assert world.rows("SELECT %s::numeric[]", array(amounts)) == [(amounts,)]
    assert world.rows("SELECT %s::int8[]", array([])) == [([],)]


def prepared() -> list[tuple[object, ...]]:
    """What this session knows by name, and how often it ran that with one plan for all and with one of its own."""
    return world.rows("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements ORDER BY 1")


def test_a_statement_is_planned_once_a_connection_whatever_becomes_of_a_transaction(books: Books) -> None:
    twice = Statement("SELECT %s::int * 2, %s::text", [21, "it's"])
    with suppress(DivisionByZero), transaction.atomic():
        assert at_once([twice]) == [[(42, "it's")]]
        raise DivisionByZero
    assert at_once([Statement("SELECT %s::int * 2, %s::text", [4, None]), twice]) == [[(8, None)], [(42, "it's")]]
    (known,) = [row for row in prepared() if "* 2" in str(row[0])]
    assert str(known[0]).endswith("AS SELECT $1::int * 2, $2::text")
    assert known[1:] == (3, 0)
    connection.close()
    assert [row for row in prepared() if "* 2" in str(row[0])] == []
    assert at_once([twice]) == [[(42, "it's")]]


def test_nothing_is_prepared_where_a_pooler_stands_between(books: Books) -> None:
    with override_settings(DATABASE_PREPARE=False):
        assert at_once([Statement("SELECT %s::int + 1", [1])]) == [[(2,)]]
    assert [row for row in prepared() if "+ 1" in str(row[0])] == []


def test_a_statement_that_cannot_be_prepared_is_tried_again(books: Books) -> None:
    asking = Statement("SELECT name FROM not_made_yet", [])
    with pytest.raises(ProgrammingError), transaction.atomic():
        at_once([asking])
    world.rows("CREATE TABLE not_made_yet (name text)")
    assert at_once([asking]) == [[]]
