"""Months: made ahead, made on the spot, made once, and never in a writer's way."""

import os
import re
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest
from django.db import OperationalError, transaction
from hypothesis import given
from hypothesis import strategies as st
from psycopg.errors import CheckViolation

from core import clock, ids
from core.transactions import sqlstate
from metering import partitions, tasks, usage
from ops.models import JobRun
from tests.billing.corruption import broken
from tests.billing.world import (
    assert_sound,
    charge,
    counts,
    organization,
    organizations,
    record,
    rows,
    side_by_side,
    statuses,
)
from tests.books import Books
from tests.metering.world import batch, event
from tests.nursery import Nursery, wait_until_stopped
from tests.proofs import proves


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


@proves("I06", guard="missing_months_are_made")
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


@pytest.mark.one_database
@proves("I06", guard="claim_and_debit_commit_together")
def test_where_making_a_month_fails_too_it_is_told_and_every_event_is_taken_later(
    books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drop(partitions.name("usage_record", this_month()))
    owners = organizations(3)
    taken = [(owner, event()) for owner in owners for _ in range(4)]
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_MS", 50)
    with books.connect() as busy, busy.transaction():
        # As a rebuild of statistics holds it, and whoever else changes the table.
        busy.execute("LOCK TABLE usage_record IN SHARE UPDATE EXCLUSIVE MODE")
        assert statuses(record(batch(*taken))) == ["failed"] * 12
        with pytest.raises(OperationalError):
            tasks.create_partitions()
    # Once for all of the group, three tries each.
    assert [line.getMessage() for line in caplog.records if line.name == "billing.charges"] == [
        "a month that is missing could not be made", ANY,
    ]  # fmt: skip
    assert JobRun.objects.values_list("ok", "result").get(name="partitions")[0] is False
    assert "V29" in broken(server=True)
    assert sum(counts().values()) == 0
    assert statuses(record(batch(*taken))) == ["created"] * 12
    assert counts()["usage_record"] == 12
    assert tasks.create_partitions().startswith("made none: months for ")
    assert_sound()


@proves("D05", guard="changes_of_tables_wait_briefly")
def test_a_transaction_that_is_kept_open_does_not_keep_a_change_of_tables_waiting(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (partitions.LOCK_TIMEOUT_MS, partitions.DETACH_LOCK_TIMEOUT_MS) == (2000, 200)
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_MS", 100)
    month = datetime(2031, 7, 1, tzinfo=UTC)
    create_old()

    @transaction.atomic
    def take_out() -> None:
        partitions.detach("usage_record", OLD)

    def refused(change: Callable[[], object]) -> str:
        # Of other statements this deployment lets each wait for an hour.
        rows("SET lock_timeout = '1h'")
        with pytest.raises(OperationalError) as error:
            change()
        return str(sqlstate(error.value))

    with books.connect() as kept, kept.transaction():
        kept.execute("LOCK TABLE usage_record IN SHARE UPDATE EXCLUSIVE MODE")
        changes = (partial(partitions.ensure, at=month, ahead=0), take_out)
        for change in changes:
            assert books.together([partial(refused, change)], seconds=10) == ["55P03"]
    assert len(partitions.ensure(at=month, ahead=0)) == 2
    take_out()
    assert OLD not in partitions.months("usage_record")


@proves("D05", guard="conflicts_are_tried_again")
def test_a_change_of_tables_is_tried_again_when_it_waited_too_long(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_MS", 100)
    with books.connect() as kept:
        kept.execute("BEGIN")
        kept.execute("LOCK TABLE usage_record IN SHARE UPDATE EXCLUSIVE MODE")
        # It ends between the first try and the second.
        monkeypatch.setattr("core.transactions.time.sleep", lambda seconds: kept.execute("COMMIT"))
        assert len(partitions.ensure(at=datetime(2031, 7, 1, tzinfo=UTC), ahead=0)) == 2


@proves("D05", guard="idle_transactions_are_ended")
def test_a_transaction_that_nobody_goes_on_with_keeps_dead_rows_for_seconds_only(
    books: Books, nursery: Nursery, disabled_guard: str | None
) -> None:
    charge(organization("acme", usd="1"), event())
    chosen = {"IDLE_IN_TRANSACTION_TIMEOUT_MS": 1000}
    zombie = nursery.start("tests.billing.acts:charge_one", stops_at="charge.before_commit", settings=chosen,
        without=disabled_guard, slug="acme", event_id="zombie")  # fmt: skip
    try:
        wait_until_stopped(zombie)
        charge(organization("other", usd="1"), event())
        with books.connect() as own:
            kept: list[int] = []
            own.add_notice_handler(lambda notice: kept.extend(undead(str(notice.message_primary))))
            own.execute("VACUUM (VERBOSE) wallet")
            # Its TOAST table has a line of its own.
            assert sum(kept) > 0
            kept.clear()
            end = time.monotonic() + 15
            while time.monotonic() < end and own.execute(OPEN).fetchall():
                time.sleep(0.05)
            own.execute("VACUUM (VERBOSE) wallet")
            assert kept
            assert sum(kept) == 0, "the zombie's transaction is still open"
    finally:
        os.kill(zombie, signal.SIGCONT)
        nursery.wait(zombie)
    assert_sound()


# Sessions in the middle of a transaction that have nothing to say.
OPEN = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
OLD = datetime(2021, 3, 1, tzinfo=UTC)


def create_old() -> None:
    for table in partitions.TABLES:
        partitions.create(table, OLD)


def undead(message: str) -> list[int]:
    """How many dead rows VACUUM says that it had to leave."""
    return [int(count) for count in re.findall(r"(\d+) are dead but not yet removable", message)]


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
        monkeypatch.setattr(usage, "started_at", lambda at=at, **_: at)
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
