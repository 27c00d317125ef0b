"""Days of an organization's zone, for charts and sums."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from metering import buckets

_DAY = timedelta(days=1)


def edges(*, now: datetime, zone: ZoneInfo, days: int) -> list[datetime]:
    """Where the last ``days`` days begin, today's among them, and where today ends: one instant more than days."""
    # A day more than asked, because a day with a clock change is longer or shorter than 24 hours.
    found = [buckets.next_day(now - timedelta(days=days + 1), zone)]
    while found[-1] <= now:
        found.append(buckets.next_day(found[-1], zone))
    return found[-days - 1 :]


def start(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a calendar day; of one that a zone skipped, the next day's."""
    # Where clocks go over midnight, Python's answer is the first of two, or the instant at which they skip it.
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def between(first: date, last: date, zone: ZoneInfo) -> list[datetime]:
    """Where the days from ``first`` to ``last`` begin, and where the last ends."""
    found, end = [start(first, zone)], start(last + _DAY, zone)
    while found[-1] < end:
        found.append(buckets.next_day(found[-1], zone))
    return found


def month(day: date) -> date:
    """The first day of a day's month."""
    return day.replace(day=1)
