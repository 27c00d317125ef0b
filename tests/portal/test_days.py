from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from portal import days

BERLIN = ZoneInfo("Europe/Berlin")


def test_the_last_days_end_with_the_midnight_after_now() -> None:
    now = datetime(2026, 3, 10, 15, 30, tzinfo=UTC)
    assert days.edges(now=now, zone=ZoneInfo("UTC"), days=2) == [
        datetime(2026, 3, 9, tzinfo=UTC),
        datetime(2026, 3, 10, tzinfo=UTC),
        datetime(2026, 3, 11, tzinfo=UTC),
    ]


def test_the_day_on_which_clocks_go_forward_has_23_hours() -> None:
    found = days.edges(now=datetime(2026, 3, 30, 8, tzinfo=UTC), zone=BERLIN, days=3)
    assert [f"{edge:%d %H:%M}" for edge in found] == ["27 23:00", "28 23:00", "29 22:00", "30 22:00"]


def test_midnight_itself_is_of_the_day_that_begins() -> None:
    midnight = datetime(2026, 3, 10, tzinfo=UTC)
    assert days.edges(now=midnight, zone=ZoneInfo("UTC"), days=1) == [midnight, datetime(2026, 3, 11, tzinfo=UTC)]


def test_a_day_that_a_zone_skipped_is_none_between_its_neighbours() -> None:
    apia = ZoneInfo("Pacific/Apia")
    # Samoa went from 29 December 2011 to the 31st.
    edges = days.between(date(2011, 12, 29), date(2011, 12, 31), apia)
    assert [f"{edge.astimezone(apia):%d %H:%M}" for edge in edges] == ["29 00:00", "31 00:00", "01 00:00"]
    assert days.start(date(2011, 12, 30), apia) == days.start(date(2011, 12, 31), apia)


def test_a_day_begins_at_its_first_midnight_of_two() -> None:
    havana = ZoneInfo("America/Havana")
    # Clocks went back from 1:00 to midnight.
    assert days.start(date(2026, 11, 1), havana) == datetime(2026, 11, 1, 4, tzinfo=UTC)
    assert days.month(date(2026, 11, 30)) == date(2026, 11, 1)
