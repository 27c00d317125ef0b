"""How times are written in the admin."""

from datetime import UTC, datetime

from django.utils.formats import localize


def test_times_are_written_to_the_second_with_their_zone_and_sort_as_text() -> None:
    assert localize(datetime(2026, 3, 1, 13, 7, 9, tzinfo=UTC)) == "2026-03-01 13:07:09 UTC"
    assert localize(datetime(2026, 3, 1, 13, 7, 9, tzinfo=UTC).date()) == "2026-03-01"
