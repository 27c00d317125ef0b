"""Ids and money as columns: every amount that the schema can hold is a number in range (I10)."""

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import Error
from django.db.models import Q
from psycopg.errors import CheckViolation, NumericValueOutOfRange

from billing.models import Transfer, Wallet
from core import clock, fields, ids
from core.fields import IdField, UsdField
from core.money import USD_MAX
from metering.models import UsageRecord
from tests.billing.world import charge, counts, organization, rows
from tests.books import Books
from tests.metering.world import event
from tests.proofs import proves

# Sorted above every number by PostgreSQL, so that ``>= 0`` alone lets it in.
NOT_IN_RANGE = ["NaN", "100000000000", "999999999999.999999999999"]
NOT_IN_COLUMN = ["Infinity", "-Infinity", "1000000000000", "1e30"]


def money_columns() -> list[tuple[str, str]]:
    """Every column of the schema that holds dollars, by table; partitions are their tables'."""
    return [
        (table, column)
        for table, column in rows(
            "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            " AND a.attnum > 0 AND NOT a.attisdropped AND format_type(a.atttypid, a.atttypmod) = 'numeric(24,12)'"
            " ORDER BY 1, 2"
        )
    ]


def probe(raw: psycopg.Connection, table: str) -> str:
    """An empty table with the same bounds on amounts, whose other columns may be left out."""
    name = f"probe_{table}"
    raw.execute(f"CREATE TEMP TABLE {name} (LIKE {table} INCLUDING CONSTRAINTS)")
    for (column,) in raw.execute(
        "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnotnull AND attnum > 0"
        " AND attgenerated = ''",
        [name],
    ).fetchall():
        raw.execute(f"ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL")
    for (other,) in raw.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'"
        " AND pg_get_constraintdef(oid) NOT LIKE %s",
        [name, f"%{USD_MAX}%"],
    ).fetchall():
        raw.execute(f"ALTER TABLE {name} DROP CONSTRAINT {other}")
    return name


@proves("I10", guard="money_is_in_range")
def test_every_money_column_refuses_what_is_no_amount_in_range(books: Books) -> None:
    found = money_columns()
    assert {table for table, _ in found} >= {"wallet", "transfer", "usage_record", "request_log", "usage_claim"}
    with books.connect() as raw:
        probes = {table: probe(raw, table) for table in {table for table, _ in found}}
        for table, column in found:
            for value in NOT_IN_RANGE:
                with pytest.raises(CheckViolation, match=f"probe_{table}"):
                    raw.execute(f"INSERT INTO {probes[table]} ({column}) VALUES (%s::numeric)", [Decimal(value)])
            for value in NOT_IN_COLUMN:
                with pytest.raises(NumericValueOutOfRange):
                    raw.execute(f"INSERT INTO {probes[table]} ({column}) VALUES ('{value}')")
            assert raw.execute(f"SELECT count(*) FROM {probes[table]}").fetchone() == (0,)


@proves("I10", guard="money_is_in_range")
def test_nan_gets_into_no_book_by_sql_by_copy_or_by_the_orm(books: Books) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event(provider_cost_usd=Decimal(1)), event(status=429))
    before = counts()
    with books.connect() as raw:
        for table, column in (
            ("transfer", "amount_usd"),
            ("transfer", "balance_after_usd"),
            ("usage_record", "cost_usd"),
            ("usage_record", "provider_cost_usd"),
            ("request_log", "provider_cost_usd"),
            ("usage_claim", "cost_usd"),
        ):
            names = [name for (name,) in rows(f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass"
                " AND attnum > 0 ORDER BY attnum")]  # fmt: skip
            picked = ", ".join(f"'NaN'::numeric AS {name}" if name == column else fresh(name) for name in names)
            with pytest.raises(CheckViolation):
                raw.execute(f"INSERT INTO {table} ({', '.join(names)}) SELECT {picked} FROM {table} LIMIT 1")
            line = raw.execute(
                f"SELECT {', '.join(f'({part})::text' for part in picked_values(names, column))} FROM {table} LIMIT 1"
            ).fetchone()
            assert line is not None
            with (
                pytest.raises(CheckViolation),
                raw.cursor().copy(f"COPY {table} ({', '.join(names)}) FROM STDIN") as copy,
            ):
                copy.write_row(line)
        for column in ("posted_usd", "held_usd", "overdraft_usd", "spent_usd", "credit_limit_usd", "low_usd"):
            with pytest.raises(CheckViolation):
                raw.execute(f"UPDATE wallet SET {column} = 'NaN'")
    for model, column in ((Transfer, "amount_usd"), (UsageRecord, "cost_usd"), (Wallet, "credit_limit_usd")):
        row: Any = model.objects.all()[0]
        for value in (Decimal("NaN"), Decimal("Infinity"), USD_MAX, Decimal("1e20")):
            setattr(row, column, value)
            with pytest.raises((Error, ValidationError, ArithmeticError)):
                row.save(force_insert=not isinstance(row, Wallet))
    assert counts() == before


def fresh(name: str) -> str:
    """A column of a copied row, with another identity where the table has one."""
    return {
        "id": "gen_random_uuid() AS id",
        "reference": "'other' AS reference",
        "seq": "seq + 1000 AS seq",
        "event_id": "'other' AS event_id",
    }.get(name, name)


def picked_values(names: list[str], column: str) -> list[str]:
    """The same without names, for text."""
    return ["'NaN'" if name == column else fresh(name).partition(" AS ")[0] for name in names]


def test_every_money_column_of_a_model_is_one_of_the_schema(db: None) -> None:
    of_models = {
        (model._meta.db_table, field.column)
        for model in apps.get_models()
        for field in model._meta.concrete_fields
        if isinstance(field, UsdField)
    }
    assert of_models == set(money_columns())


def test_an_id_column_makes_time_ordered_ids_and_knows_its_prefix() -> None:
    field = Transfer._meta.get_field("id")
    assert isinstance(field, IdField)
    assert (field.prefix, field.primary_key, field.editable) == ("tr", True, False)
    before = clock.now()
    assert ids.instant(field.get_default()) >= before.replace(microsecond=before.microsecond // 1000 * 1000)


@pytest.mark.parametrize("field", [IdField("tr"), UsdField(null=True), UsdField(default=0)], ids=repr)
def test_a_field_survives_a_migration(field: IdField | UsdField) -> None:
    _, path, args, options = field.deconstruct()
    assert path == f"core.fields.{type(field).__name__}"
    again = type(field)(*args, **options)
    assert again.deconstruct()[1:] == (path, args, options)
    if isinstance(field, UsdField):
        assert (again.max_digits, again.decimal_places) == (24, 12)  # type: ignore[union-attr]
        assert not {"max_digits", "decimal_places"} & options.keys()
    else:
        assert options["prefix"] == "tr"


def test_a_range_has_both_its_ends() -> None:
    assert fields.within("x") == Q(x__gte=0, x__lt=USD_MAX)
    assert fields.within("x", low="gt") == Q(x__gt=0, x__lt=USD_MAX)
