"""Many rows in one statement."""

from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from core import ids
from core.bulk import array, copy_rows
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
