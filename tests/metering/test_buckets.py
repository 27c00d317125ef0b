"""Buckets tile time: aligned, half-open, by any zone's calendar."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import buckets
from metering.buckets import Window, window

HOUR = timedelta(hours=1)
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Pacific/Apia", "America/Sao_Paulo", "America/Havana", "Africa/Cairo", "Asia/Beirut", "America/St_Johns",
)  # fmt: skip
FIRST, LAST = datetime(2009, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def edges_of(start: str, end: str, *, width: str = "1d", zone: str = "UTC", limit: int = 50) -> list[str]:
    found = window(start=at(start), end=at(end), width=width, zone=ZoneInfo(zone), limit=limit)
    assert found is not None
    return [f"{edge:%m-%d %H:%M:%S}" for edge in found.edges]


@pytest.mark.parametrize(
    ("width", "start", "end", "edges"),
    [
        ("1m", "2026-03-01T10:00:30", "2026-03-01T10:02", ["10:00:30", "10:01:00", "10:02:00"]),
        ("1h", "2026-03-01T10:00", "2026-03-01T12:30", ["10:00:00", "11:00:00", "12:00:00", "12:30:00"]),
        ("1d", "2026-03-01T00:00", "2026-03-01T23:59:59", ["00:00:00", "23:59:59"]),
    ],
)
def test_only_the_first_and_the_last_bucket_may_be_cut(width: str, start: str, end: str, edges: list[str]) -> None:
    assert edges_of(start, end, width=width) == [f"03-01 {edge}" for edge in edges]


def test_a_day_has_the_hours_that_its_zone_gives_it() -> None:
    # Clocks go forward on March 29th and back on October 25th.
    assert edges_of("2026-03-27T23:00", "2026-03-30T22:00", zone="Europe/Berlin") == [
        "03-27 23:00:00", "03-28 23:00:00", "03-29 22:00:00", "03-30 22:00:00",
    ]  # fmt: skip
    assert edges_of("2026-10-23T22:00", "2026-10-26T23:00", zone="Europe/Berlin") == [
        "10-23 22:00:00", "10-24 22:00:00", "10-25 23:00:00", "10-26 23:00:00",
    ]  # fmt: skip


def test_a_day_without_midnight_begins_when_its_clocks_skip_it() -> None:
    # Cairo: from 00:00 to 01:00 on April 24th 2026, two hours ahead of UTC before.
    assert edges_of("2026-04-22T22:00", "2026-04-24T21:00", zone="Africa/Cairo") == [
        "04-22 22:00:00", "04-23 22:00:00", "04-24 21:00:00",
    ]  # fmt: skip


def test_a_day_that_never_was_has_no_bucket() -> None:
    # Samoa went from December 29th to 31st, across the date line.
    assert edges_of("2011-12-29T10:00", "2011-12-31T10:00", zone="Pacific/Apia") == [
        "12-29 10:00:00", "12-30 10:00:00", "12-31 10:00:00",
    ]  # fmt: skip


def test_quarters_of_an_hour_part_the_days_of_every_zone() -> None:
    assert edges_of("2026-05-01T18:15", "2026-05-02T18:15", zone="Asia/Kathmandu", limit=1) == [
        "05-01 18:15:00", "05-02 18:15:00",
    ]  # fmt: skip
    quarter = timedelta(minutes=15)
    for zone in ZONES:
        midnight = datetime(2012, 1, 1, tzinfo=UTC)
        for _ in range(366):
            midnight = buckets.next_day(midnight, ZoneInfo(zone))
            assert not (midnight - datetime(1970, 1, 1, tzinfo=UTC)) % quarter


instants = st.integers(int(FIRST.timestamp()), int(LAST.timestamp())).map(
    lambda second: datetime.fromtimestamp(second, UTC)
)


@given(
    instants,
    st.integers(1, 40 * 86_400),
    st.sampled_from(("1m", "1h", "1d")),
    st.sampled_from(ZONES),
    st.integers(1, 9),
)
def test_pages_tile_what_was_asked_for(start: datetime, seconds: int, width: str, zone: str, limit: int) -> None:
    end = start + timedelta(seconds=min(seconds, 7200) if width == "1m" else seconds)
    seen = [start]
    page = None
    more = True
    while more:
        found = window(start=start, end=end, width=width, zone=ZoneInfo(zone), limit=limit, page=page)
        assert found is not None
        assert found.edges[0] == seen[-1]
        assert 1 <= len(found.edges) - 1 <= limit
        seen += found.edges[1:]
        page, more = found.edges[-1], found.has_more
    assert seen[-1] == end
    assert all(early < late for early, late in pairwise(seen))
    if width == "1d":
        # Each inner edge is the first instant of its date.
        for edge in seen[1:-1]:
            assert _date(edge, zone) != _date(edge - timedelta(seconds=1), zone)


def _date(instant: datetime, zone: str) -> date:
    return instant.astimezone(ZoneInfo(zone)).date()


@pytest.mark.parametrize("page", ["2026-03-01T00:00", "2026-03-02T00:00:01", "2026-03-09T00:00", "2026-02-28T00:00"])
def test_a_page_begins_at_an_edge_of_the_query(page: str) -> None:
    asked = {"start": at("2026-03-01T00:00"), "end": at("2026-03-09T00:00"), "width": "1d", "zone": ZoneInfo("UTC")}
    assert window(**asked, limit=2, page=at(page)) is None  # type: ignore[arg-type]
    following = window(**asked, limit=2, page=at("2026-03-07T00:00"))  # type: ignore[arg-type]
    assert following == Window([at("2026-03-07T00:00"), at("2026-03-08T00:00"), at("2026-03-09T00:00")], False)


def test_there_is_no_bucket_where_nothing_lies_between() -> None:
    now = at("2026-03-01T00:00")
    assert window(start=now, end=now, width="1h", zone=ZoneInfo("UTC"), limit=5) == Window([now], False)


def test_the_last_instant_has_a_day_in_every_zone() -> None:
    for zone in ZONES:
        assert buckets.next_day(buckets.LAST, ZoneInfo(zone)) > buckets.LAST
