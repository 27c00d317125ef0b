"""Months: made ahead, made on the spot, made once, and never in a writer's way."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st
from psycopg.errors import CheckViolation

from core import clock, ids
from metering import partitions, usage
from tests.billing.world import assert_sound, charge, counts, organization, rows, side_by_side, statuses
from tests.books import Books
from tests.metering.world import event


def this_month(plus: int = 0) -> datetime:
    return partitions.month_start(clock.now(), plus=plus)


def drop(*names: str) -> None:
    for name in names:
        rows(f"DROP TABLE {name}")


def test_a_new_database_has_this_month_and_those_ahead(db: None) -> None:
    for table in partitions.TABLES:
        ahead = {partitions.name(table, this_month(plus)) for plus in range(partitions.MONTHS_AHEAD + 1)}
        assert partitions.existing(table) == ahead
        assert partitions.days_covered(table, clock.now()) > 35


def test_no_table_has_a_default_partition(db: None) -> None:
    found = rows("SELECT partrelid::regclass::text, partdefid FROM pg_partitioned_table")
    assert {name for name, _ in found} == {"usage_record", "request_log", "usage_claim"}
    assert {default for _, default in found} == {0}


def test_claims_are_partitioned_by_organization_and_never_by_time(db: None) -> None:
    (definition,) = rows("SELECT pg_get_partkeydef('usage_claim'::regclass)")
    assert definition == ("HASH (organization_id)",)


def test_months_that_stand_are_left_alone(books: Books) -> None:
    assert partitions.ensure() == []
    later = clock.now() + timedelta(days=400)
    made = partitions.ensure(at=later, ahead=1)
    assert made == [
        partitions.name(table, partitions.month_start(later, plus=plus))
        for table in partitions.TABLES
        for plus in (0, 1)
    ]
    assert partitions.ensure(at=later, ahead=1) == []


def test_a_month_has_the_key_the_checks_and_the_triggers_of_its_table(books: Books) -> None:
    later = datetime(2031, 2, 1, tzinfo=UTC)
    partitions.create("usage_record", later)
    name = partitions.name("usage_record", later)
    assert name == "usage_record_2031_02"

    def constraints(table: str) -> set[str]:
        return {
            definition
            for (definition,) in rows(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE conrelid = %s::regclass AND contype IN ('c', 'p')",
                table,
            )
        }

    bounds = constraints(name) - constraints("usage_record")
    assert len(bounds) == 1
    assert constraints("usage_record") <= constraints(name)
    triggers = rows("SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass ORDER BY 1", name)
    assert triggers == [("append_only",), ("no_truncate",)]
    assert rows("SELECT relpersistence FROM pg_class WHERE relname = %s", name) == [("p",)]


def test_a_missing_month_is_made_on_the_spot_and_the_events_are_taken(books: Books) -> None:
    drop(*(partitions.name(table, this_month()) for table in partitions.TABLES))
    acme = organization("acme")
    told = charge(acme, event(), event(status=429))
    assert statuses(told) == ["created", "created"]
    assert {partitions.name(table, this_month()) for table in partitions.TABLES} <= {
        *partitions.existing("usage_record"),
        *partitions.existing("request_log"),
    }
    assert (counts()["usage_record"], counts()["request_log"]) == (1, 1)
    assert_sound()


def test_events_fail_and_none_is_lost_while_a_month_cannot_be_made(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(partitions.name("usage_record", this_month()))
    acme = organization("acme")
    taken = [event() for _ in range(8)]
    tries: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(partitions, "ensure", lambda: tries.append(1))
        assert statuses(charge(acme, *taken)) == ["failed"] * 8
    assert len(tries) == 1, "what no part can be written into is not tried for each"
    assert sum(counts().values()) == 0
    assert statuses(charge(acme, *taken)) == ["created"] * 8
    assert_sound()


def test_two_who_make_the_same_month_at_once_make_one(books: Books) -> None:
    month = datetime(2031, 5, 1, tzinfo=UTC)
    side_by_side(books, *(partial(partitions.ensure, at=month, ahead=0) for _ in range(6)))
    assert partitions.name("usage_record", month) in partitions.existing("usage_record")


def test_making_a_month_waits_for_no_writer_and_keeps_none_waiting(books: Books) -> None:
    acme = organization("acme")
    charge(acme, event())

    def make() -> list[str]:
        rows("SET lock_timeout = '300ms'")
        return partitions.ensure(at=datetime(2031, 7, 1, tzinfo=UTC), ahead=0)

    with transaction.atomic():
        # A writer that has not committed holds its lock on the table.
        rows("INSERT INTO usage_record SELECT (jsonb_populate_record(r, jsonb_build_object('id', %s::text))).*"
            " FROM usage_record r LIMIT 1", ids.new())  # fmt: skip
        (made,) = books.together([make])
    assert len(made) == 2

    def write() -> Any:
        rows("SET lock_timeout = '300ms'")
        return charge(acme, event(), event(status=429))

    with transaction.atomic():
        # A month that is built and attached, and not committed.
        partitions.create("usage_record", datetime(2031, 8, 1, tzinfo=UTC))
        partitions.create("request_log", datetime(2031, 8, 1, tzinfo=UTC))
        (told,) = books.together([write])
    assert statuses(told) == ["created", "created"]


def test_an_id_of_another_month_does_not_get_in(books: Books) -> None:
    acme = organization("acme")
    charge(acme, event())
    part = partitions.name("usage_record", this_month(1))
    with books.connect() as raw, pytest.raises(CheckViolation):
        raw.execute(f"INSERT INTO {part} SELECT * FROM usage_record")


def test_the_last_and_the_first_millisecond_lie_in_their_months(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = organization("acme")
    turn = this_month(1)
    for at, month in ((turn - timedelta(microseconds=1), this_month()), (turn, turn)):
        monkeypatch.setattr(usage, "started_at", lambda at=at: at)
        (told,) = charge(acme, event())
        found = rows("SELECT tableoid::regclass::text FROM usage_record WHERE id = %s", told.record_id)
        assert found == [(partitions.name("usage_record", month),)]


@given(
    at=st.datetimes(datetime(1999, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()),  # noqa: DTZ001
    plus=st.integers(0, 30),
)
def test_months_are_utc_and_follow_each_other(at: datetime, plus: int) -> None:
    start = partitions.month_start(at, plus=plus)
    assert (start.day, start.hour, start.minute, start.second, start.microsecond, start.tzinfo) == (1, 0, 0, 0, 0, UTC)
    assert partitions.month_start(start - timedelta(microseconds=1), plus=1) == start
    assert partitions.month_start(at) <= at < partitions.month_start(at, plus=1)


def test_the_days_covered_end_at_the_first_gap(books: Books) -> None:
    at = this_month() + timedelta(days=3, hours=5)
    full = partitions.days_covered("usage_record", at)
    assert full == (this_month(partitions.MONTHS_AHEAD + 1) - at).days
    drop(partitions.name("usage_record", this_month(2)))
    assert partitions.days_covered("usage_record", at) == (this_month(2) - at).days
    drop(partitions.name("usage_record", this_month()))
    assert partitions.days_covered("usage_record", at) == 0
    assert partitions.months("usage_record") == [this_month(1), this_month(3)]
