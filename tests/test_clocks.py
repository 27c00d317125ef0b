"""A clock that stands still does so for Python and SQL, in every process; aging moves rows."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from core import clock, ids
from metering import usage
from orgs.models import Organization
from tests.billing.world import assert_sound, charge, organization, rows
from tests.books import Books
from tests.clocks import Clock, age
from tests.metering.world import event
from tests.nursery import Nursery
from tests.test_tidy import modules

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
DAYS = timedelta(days=3)


# What another process runs.


def database_says() -> list[str]:
    """What SQL takes for the present, by both its names."""
    now, really = rows("SELECT now(), clock_timestamp()")[0]
    return [now.isoformat(), really.isoformat()]


def test_time_stands_still_for_everybody_and_goes_on_when_it_is_told_to(
    books: Books, fake_clock: Clock, nursery: Nursery
) -> None:
    assert abs(datetime.now(UTC) - fake_clock.at) < timedelta(minutes=1)
    for _ in range(2):
        shown = fake_clock.at.isoformat()
        assert clock.now() == fake_clock.at
        assert database_says() == [shown, shown]
        # Another process's Python keeps the real time, its SQL does not.
        assert nursery.run("tests.test_clocks:database_says").result == [shown, shown]
        before = fake_clock.at
        fake_clock.move(HOUR)
        assert fake_clock.at == before + HOUR


def test_what_is_written_carries_that_time(books: Books, fake_clock: Clock) -> None:
    fake_clock.move(DAYS)
    at = fake_clock.at
    acme = organization("acme", usd="1")
    # A column's default, kept by the model when it was made.
    assert acme.created_at == at
    (verdict,) = charge(acme, event())
    assert verdict.record_id is not None
    assert ids.instant(verdict.record_id) == at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert rows("SELECT recorded_at FROM usage_record") == [(at,)]
    assert usage.final_until() == at - timedelta(seconds=60)
    assert_sound()


def test_after_the_test_the_clock_is_real(books: Books) -> None:
    assert abs(clock.now() - datetime.now(UTC)) < SECOND
    assert rows("SELECT clock_timestamp() > now()") == [(True,)]


def test_rows_of_the_books_are_made_older_behind_their_triggers(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="1")
    before = dict(rows("SELECT organization_id, created_at FROM transfer"))
    assert age(books, "transfer", by=HOUR, where=f"organization_id = '{acme.pk}'") == 1
    assert dict(rows("SELECT organization_id, created_at FROM transfer")) == {
        acme.pk: before[acme.pk] - HOUR, umbrella.pk: before[umbrella.pk],
    }  # fmt: skip
    with books.connect() as own, pytest.raises(psycopg.Error, match="append-only"):
        own.execute("UPDATE transfer SET amount_usd = %s", [Decimal(2)])


def test_only_the_named_columns_are_moved_and_nothing_at_all_is_an_error(books: Books) -> None:
    acme = organization("acme")
    age(books, "organization", by=HOUR, columns=("created_at",))
    assert Organization.objects.get().created_at == acme.created_at - HOUR
    with pytest.raises(AssertionError, match="no rows"):
        age(books, "organization", by=HOUR, where="slug = 'nobody'")
    with pytest.raises(AssertionError, match="no times"):
        age(books, "cache_epoch", by=HOUR)


def test_nothing_of_the_product_asks_another_clock() -> None:
    found = {
        source.name
        for source in modules()
        for said in ("datetime.now(", "timezone.now(", "time.time(", "utcnow(", "date.today(")
        if said in source.text
    }
    assert found == {"core.clock"}
