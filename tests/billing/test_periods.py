"""Periods: from anchor to anchor in any zone, without gap or overlap."""

import calendar as months
import random
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from billing.periods import Period, containing, following
from tests.billing.months import at
from tests.proofs import proves

ZONES = [
    ZoneInfo(name)
    for name in (
        "Pacific/Pago_Pago", "America/Havana", "America/New_York", "America/St_Johns", "America/Santiago",
        "Europe/Berlin", "Africa/Cairo", "Asia/Kathmandu", "Asia/Tokyo", "Australia/Lord_Howe", "Pacific/Chatham",
        "Pacific/Kiritimati",
    )
]  # fmt: skip
# Those at which months differ; all of them in the long run.
ANCHORS = (1, 15, 29, 31)
MICROSECOND = timedelta(microseconds=1)
FIRST = datetime(2023, 12, 31, 12, tzinfo=UTC)
LAST = datetime(2033, 1, 1, 12, tzinfo=UTC)


def chain(anchor_day: int, zone: ZoneInfo, *, until: datetime) -> list[Period]:
    """Periods from the one that ``FIRST`` lies in."""
    found = [containing(FIRST, anchor_day=anchor_day, zone=zone)]
    while found[-1].ends_at < until:
        found.append(following(found[-1].ends_at, anchor_day=anchor_day, zone=zone))
    return found


@proves("J08", guard="anchors_are_kept")
@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_periods_tile_and_begin_with_the_anchor_day_in_every_zone(zone: ZoneInfo) -> None:
    assert_tiles(zone, ANCHORS)


def assert_tiles(zone: ZoneInfo, anchors: Iterable[int]) -> None:
    """Nine years of periods, seen through the zone's own calendar."""
    for anchor_day in anchors:
        found = chain(anchor_day, zone, until=LAST)
        assert len(found) in {109, 110}
        assert all(before.ends_at == after.starts_at for before, after in pairwise(found))
        for one in found:
            # The first instant of a day that is the anchor's, or the last of a month that has no such day.
            day = one.starts_at.astimezone(zone).date()
            assert (one.starts_at - MICROSECOND).astimezone(zone).date() == day - timedelta(days=1)
            assert day.day == min(anchor_day, months.monthrange(day.year, day.month)[1])
            assert timedelta(days=27, hours=23) <= one.ends_at - one.starts_at <= timedelta(days=31, hours=1)
            assert one.starts_at.second == one.starts_at.microsecond == 0
            assert one.starts_at.minute % 15 == 0
            assert one == containing(one.starts_at, anchor_day=anchor_day, zone=zone)
            assert one == containing(one.ends_at - MICROSECOND, anchor_day=anchor_day, zone=zone)


@pytest.mark.soak
@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_every_day_of_nine_years_lies_in_one_period(zone: ZoneInfo) -> None:
    assert_tiles(zone, range(1, 32))
    for anchor_day in range(1, 32):
        found = chain(anchor_day, zone, until=LAST)
        day = datetime(2024, 1, 1, 0, 30, tzinfo=UTC)
        while day < LAST:
            assert [one for one in found if one.starts_at <= day < one.ends_at] == [
                containing(day, anchor_day=anchor_day, zone=zone)
            ]
            day += timedelta(days=1)


def test_periods_tile_whatever_becomes_of_zone_and_anchor() -> None:
    chosen = random.Random(8)
    for _ in range(200):
        place = containing(FIRST, anchor_day=chosen.randint(1, 31), zone=chosen.choice(ZONES))
        while place.ends_at < datetime(2026, 1, 1, tzinfo=UTC):
            zone, anchor_day = chosen.choice(ZONES), chosen.randint(1, 31)
            after = following(place.ends_at, anchor_day=anchor_day, zone=zone)
            assert after.starts_at == place.ends_at
            assert timedelta(hours=36) <= after.ends_at - after.starts_at < timedelta(days=64)
            day = after.ends_at.astimezone(zone).date()
            assert day.day == min(anchor_day, months.monthrange(day.year, day.month)[1])
            place = after


def test_the_month_of_another_zone_is_not_begun_twice() -> None:
    # It ended with January in Tokyo, which is not over yet in New York.
    found = following(at("2031-01-31T15:00:00Z"), anchor_day=1, zone=ZoneInfo("America/New_York"))
    assert found == Period(at("2031-01-31T15:00:00Z"), at("2031-03-01T05:00:00Z"))


@pytest.mark.parametrize(
    ("instant", "anchor_day", "zone", "starts_at", "ends_at"),
    [
        ("2032-02-29T10:00:00Z", 31, "UTC", "2032-02-29T00:00:00Z", "2032-03-31T00:00:00Z"),
        ("2031-02-28T10:00:00Z", 31, "UTC", "2031-02-28T00:00:00Z", "2031-03-31T00:00:00Z"),
        ("2031-02-27T10:00:00Z", 30, "UTC", "2031-01-30T00:00:00Z", "2031-02-28T00:00:00Z"),
        ("2031-03-15T00:00:00Z", 1, "Europe/Berlin", "2031-02-28T23:00:00Z", "2031-03-31T22:00:00Z"),
        ("2031-01-31T10:30:00Z", 1, "Pacific/Kiritimati", "2031-01-31T10:00:00Z", "2031-02-28T10:00:00Z"),
        ("2031-02-01T10:30:00Z", 1, "Pacific/Pago_Pago", "2031-01-01T11:00:00Z", "2031-02-01T11:00:00Z"),
        # Clocks skip this midnight: the day begins at one.
        ("2026-04-24T12:00:00Z", 24, "Africa/Cairo", "2026-04-23T22:00:00Z", "2026-05-23T21:00:00Z"),
    ],
)
def test_a_period_is_what_a_calendar_says(
    instant: str, anchor_day: int, zone: str, starts_at: str, ends_at: str
) -> None:
    found = containing(at(instant), anchor_day=anchor_day, zone=ZoneInfo(zone))
    assert found == Period(at(starts_at), at(ends_at))


def test_a_leap_day_is_an_anchor_each_year() -> None:
    found = chain(29, ZoneInfo("UTC"), until=at("2029-01-01T00:00:00Z"))
    edges = {one.starts_at.date() for one in found}
    assert date(2024, 2, 29) in edges
    assert date(2025, 2, 28) in edges
    assert date(2028, 2, 29) in edges
