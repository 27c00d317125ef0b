"""Fields packed here are what PostgreSQL reads as the values they stand for."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import DataError, IntegrityError, transaction

from core import packed
from core.bulk import copy_packed
from tests.billing import world
from tests.books import Books

COLUMNS = (
    "name", "story", "told", "own", "other", "is_on", "small", "whole", "at", "amount",
)  # fmt: skip
TABLE = (
    "CREATE TABLE field (name text, story bytea, told jsonb, own uuid, other uuid, is_on boolean, small smallint,"
    " whole integer, at timestamptz, amount numeric(24,12) CHECK (amount > -100000000000))"
)
OWN = UUID("01a1ff48-ea6d-76d2-87f5-7746d5e00b94")
AT = datetime(2026, 11, 21, 8, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def table(books: Books) -> None:
    world.rows(TABLE)


def row(**fields: bytes) -> bytes:
    """A row of the table; what is not given is NULL."""
    return b"".join(fields.get(name, packed.NULL) for name in COLUMNS)


def copy(*rows: bytes, in_order: bool = False) -> None:
    with transaction.atomic():
        copy_packed("field", COLUMNS, rows, in_order=in_order)


def read(name: str) -> list[Any]:
    return [found for (found,) in world.rows(f"SELECT {name} FROM field ORDER BY ctid")]


def test_a_value_of_every_type_is_read_back(table: None) -> None:
    copy(
        row(
            name=packed.text("ö\n,\\N\"'"), story=packed.binary(b"\0\xff"), told=packed.json(b'{"a":["b"]}'),
            own=packed.identity(OWN), other=packed.optional(OWN), is_on=packed.flag(True), small=packed.small(32_767),
            whole=packed.integer(2_147_483_647), at=packed.instant(AT), amount=packed.numeric(Decimal("0.000362")),
        ),
        row(
            name=packed.label(""), story=packed.binary(b""), told=packed.json(b"{}"), is_on=packed.flag(False),
            small=packed.small(0), whole=packed.integer(-1), amount=packed.numeric(Decimal(0)),
        ),
        row(
            name=packed.text(None), other=packed.optional(None), is_on=packed.flag(None), small=packed.small(None),
            whole=packed.integer(None),
        ),
    )  # fmt: skip
    assert world.rows("SELECT *, told->'a'->>0 FROM field ORDER BY ctid") == [
        ("ö\n,\\N\"'", b"\0\xff", '{"a": ["b"]}', OWN, OWN, True, 32_767, 2_147_483_647, AT, Decimal("0.000362"), "b"),
        ("", b"", "{}", None, None, False, 0, -1, None, Decimal(0), None),
        (None, None, None, None, None, None, None, None, None, None, None),
    ]


def test_amounts_are_exact_from_the_finest_to_the_largest(table: None) -> None:
    amounts = [
        Decimal(text)
        for text in (
            "0.000000000001", "0.0001", "1", "9999", "10000", "99999999999.999999999999", "-0.000362", "1E+3", "1E-12",
        )
    ]  # fmt: skip
    copy(*(row(amount=packed.numeric(amount)) for amount in amounts))
    assert read("amount") == amounts


def test_pico_dollars_are_exact_from_the_finest_to_the_largest(table: None) -> None:
    picos = [0, 1, 10_000, 362_000_000, 10**12, 9_999 * 10**12, 10**16, 10**23 - 1, 10**23]
    copy(*(row(amount=packed.usd(pico)) for pico in picos))
    assert read("amount") == [
        Decimal(text)
        for text in (
            "0", "0.000000000001", "0.00000001", "0.000362", "1", "9999", "10000", "99999999999.999999999999",
            "100000000000",
        )
    ]  # fmt: skip


def test_instants_are_exact_whatever_their_zone_and_century(table: None) -> None:
    instants = [
        datetime(1970, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2000, 1, 1, tzinfo=UTC), datetime(2026, 11, 21, 8, tzinfo=timezone(timedelta(hours=-7))),
    ]  # fmt: skip
    copy(*(row(at=packed.instant(at)) for at in instants))
    assert read("at") == instants


def test_more_rows_than_are_made_at_once_all_arrive_in_their_order(table: None) -> None:
    copy(*(row(whole=packed.integer(number)) for number in range(401)), in_order=True)
    assert read("whole") == list(range(401))
    copy()
    assert read("whole") == list(range(401))


def test_rows_are_copied_inside_the_callers_transaction_only(table: None) -> None:
    with pytest.raises(AssertionError):
        copy_packed("field", COLUMNS, [row()])


def test_what_the_database_refuses_is_djangos_error_and_leaves_nothing(table: None) -> None:
    with pytest.raises(DataError):
        copy(row(), row(name=packed.text("a\0b")))
    with pytest.raises(DataError):
        copy(row(), row(amount=packed.numeric(Decimal("1E+12"))))
    for pico in (10**24, 10**40):
        with pytest.raises(DataError):
            copy(row(), row(amount=packed.usd(pico)))
    with pytest.raises(IntegrityError):
        copy(row(), row(amount=packed.numeric(Decimal("-1E+11"))))
    assert read("whole") == []


def test_a_row_that_fails_to_be_made_leaves_nothing(table: None) -> None:
    def rows() -> Any:
        yield row()
        raise LookupError

    with pytest.raises(LookupError), transaction.atomic():
        copy_packed("field", COLUMNS, rows())
    assert read("whole") == []
