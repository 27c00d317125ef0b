from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from portal.periods import Chosen, Period, named, told

TODAY = date(2026, 3, 10)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("month", date(2026, 3, 1), TODAY),
        ("last-month", date(2026, 2, 1), date(2026, 2, 28)),
        ("1", TODAY, TODAY),
        ("7", date(2026, 3, 4), TODAY),
        ("90", date(2025, 12, 11), TODAY),
    ],
)
def test_names_stand_for_days(name: str, first: date, last: date) -> None:
    assert named(name, today=TODAY) == Period(first, last)


def test_the_month_before_january_is_december() -> None:
    assert named("last-month", today=date(2026, 1, 31)) == Period(date(2025, 12, 1), date(2025, 12, 31))


def chosen(**data: str) -> Chosen:
    """The form as somebody has filled it in."""
    return Chosen(data, today=TODAY)


def test_a_period_of_days_ends_today_at_the_latest() -> None:
    form = chosen(period="days", first="2026-03-01", last="2026-12-31")
    assert form.is_valid()
    assert form.cleaned_data["days"] == Period(date(2026, 3, 1), TODAY)


@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("period", {}),
        ("period", {"period": "year"}),
        ("first", {"period": "days", "last": "2026-03-01"}),
        ("last", {"period": "days", "first": "2026-03-01"}),
        ("first", {"period": "days", "first": "1999-12-31", "last": "2000-01-02"}),
        ("last", {"period": "days", "first": "2026-03-02", "last": "2026-03-01"}),
        ("last", {"period": "days", "first": "2025-03-09", "last": "2026-03-10"}),
        ("first", {"period": "days", "first": "2026-02-30", "last": "2026-03-10"}),
    ],
)
def test_what_is_wrong_with_days_is_said_at_their_field(field: str, data: dict[str, str]) -> None:
    form = chosen(**data)
    assert not form.is_valid()
    assert list(form.errors) == [field]


def test_a_year_and_a_day_can_be_chosen() -> None:
    assert chosen(period="days", first="2025-03-10", last="2026-03-10").is_valid()


def test_who_goes_on_to_choose_days_starts_from_those_that_are_shown() -> None:
    form: Any = chosen(period="7")
    assert form.is_valid()
    assert (form["first"].value(), form["last"].value()) == ("2026-03-04", "2026-03-10")


def test_days_begin_at_midnight_and_one_may_have_23_hours() -> None:
    edges = Period(date(2026, 3, 28), date(2026, 3, 29)).edges(ZoneInfo("Europe/Berlin"))
    assert edges == [
        datetime(2026, 3, 27, 23, tzinfo=UTC), datetime(2026, 3, 28, 23, tzinfo=UTC),
        datetime(2026, 3, 29, 22, tzinfo=UTC),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (TODAY, TODAY, "10 March 2026"),
        (date(2026, 3, 1), TODAY, "1–10 March 2026"),
        (date(2026, 2, 1), TODAY, "1 February – 10 March 2026"),
        (date(2025, 12, 31), TODAY, "31 December 2025 – 10 March 2026"),
    ],
)
def test_a_period_in_words(first: date, last: date, words: str) -> None:
    assert told(Period(first, last)) == words
