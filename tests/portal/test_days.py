from datetime import UTC, datetime
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
