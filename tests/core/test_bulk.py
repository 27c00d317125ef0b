"""Many rows in one statement."""

from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from core import ids
from core.bulk import array, copy_rows
from tests.billing import world
from tests.books import Books

COLUMNS = {"name": "text", "started_at": "timestamptz", "result": "text"}


def test_rows_are_copied_inside_the_callers_transaction_only(books: Books) -> None:
    with pytest.raises(AssertionError):
        copy_rows("job_run", COLUMNS, [])
    with transaction.atomic():
        copy_rows("job_run", COLUMNS, [("one", ids.instant(ids.new()), "ö\\n,"), ("two", ids.instant(ids.new()), "")])
    assert world.rows("SELECT name, result FROM job_run ORDER BY name") == [("one", "ö\\n,"), ("two", "")]


def test_an_error_of_the_driver_is_djangos_error(books: Books) -> None:
    row = ("one", ids.instant(ids.new()), "")
    with pytest.raises(IntegrityError), transaction.atomic():
        copy_rows("job_run", COLUMNS, [row, row])
    assert world.rows("SELECT count(*) FROM job_run") == [(0,)]


def test_an_array_as_text_is_read_back_as_it_was(books: Books) -> None:
    these = [ids.new(), ids.new()]
    assert world.rows("SELECT %s::uuid[]", array(these)) == [(these,)]
    amounts = [Decimal("0.000000000001"), Decimal("-1"), Decimal("1E+3")]
    assert world.rows("SELECT %s::numeric[]", array(amounts)) == [(amounts,)]
    assert world.rows("SELECT %s::int8[]", array([])) == [([],)]
