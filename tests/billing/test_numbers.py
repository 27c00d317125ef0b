"""Numbers of documents: without gaps, whoever fails and whoever waits."""

from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from django.db import transaction

from billing import numbers, profiles
from billing.models import LegalEntity, NumberSeries
from tests.billing.world import rows
from tests.books import Books
from tests.proofs import proves


def give(entity: LegalEntity) -> int:
    """A number in a transaction of its own."""
    with transaction.atomic():
        return numbers.give(entity).sequence


class Lost(Exception):
    """The transaction that had a number fails."""


def lose(entity: LegalEntity) -> None:
    """A number is given, and its document fails."""
    with transaction.atomic():
        assert numbers.give(entity).sequence == 2
        raise Lost


@proves("V17", guard="numbers_are_given_with_their_documents")
def test_a_number_whose_document_fails_is_given_again(books: Books) -> None:
    entity = profiles.default_entity()
    assert give(entity) == 1
    with pytest.raises(Lost):
        lose(entity)
    assert give(entity) == 2


@pytest.mark.one_database
def test_many_at_once_get_each_number_once(books: Books) -> None:
    entity = profiles.default_entity()
    found = books.together([lambda: [give(entity) for _ in range(10)]] * 6)
    assert sorted(number for each in found for number in each) == list(range(1, 61))
    assert all(each == sorted(each) for each in found)


def test_each_entity_and_year_counts_for_itself(db: None) -> None:
    entity = profiles.default_entity()
    other = LegalEntity.objects.create(slug="other", name="other", number_prefix="OT", time_zone="Asia/Tokyo")
    for at, text, abroad in (
        (datetime(2031, 12, 31, 12, tzinfo=UTC), "TB-2031-000001", "OT-2031-000001"),
        # It is New Year in Tokyo already.
        (datetime(2031, 12, 31, 20, tzinfo=UTC), "TB-2031-000002", "OT-2032-000001"),
        (datetime(2032, 1, 1, tzinfo=UTC), "TB-2032-000001", "OT-2032-000002"),
    ):
        with mock.patch.object(numbers, "database_now", return_value=at):
            assert numbers.give(entity).text == text
            assert numbers.give(other).text == abroad
    assert NumberSeries.objects.count() == 4


def test_who_waited_past_new_year_gets_a_number_of_the_new_one(db: None) -> None:
    entity = profiles.default_entity()
    eve, year = datetime(2031, 12, 31, 23, 59, tzinfo=UTC), datetime(2032, 1, 1, tzinfo=UTC)
    with mock.patch.object(numbers, "database_now", side_effect=[eve, year, year]):
        assert numbers.give(entity).text == "TB-2032-000001"


def test_a_clock_that_stands_or_goes_back_does_not_turn_the_order(db: None) -> None:
    entity = profiles.default_entity()
    at = datetime(2031, 5, 1, tzinfo=UTC)
    given = []
    for now in (at, at, at - timedelta(hours=1)):
        with mock.patch.object(numbers, "database_now", return_value=now):
            given.append(numbers.give(entity).issued_at)
    assert given == [at, at + timedelta(microseconds=1), at + timedelta(microseconds=2)]


@pytest.mark.parametrize(
    "change", ["last_number = 5, last_issued_at = now()", "last_number = 0", "year = 2000", "last_issued_at = NULL"]
)
def test_a_series_rises_by_one_only(books: Books, change: str) -> None:
    give(profiles.default_entity())
    with pytest.raises(Exception, match="numbers follow each other"):
        rows(f"UPDATE number_series SET {change}")
    with pytest.raises(Exception, match="append-only"):
        rows("DELETE FROM number_series")
