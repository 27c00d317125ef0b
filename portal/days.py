"""Days of an organization's zone, for charts and sums."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from metering import buckets


def edges(*, now: datetime, zone: ZoneInfo, days: int) -> list[datetime]:
    """Where the last ``days`` days begin, today's among them, and where today ends: one instant more than days."""
    # A day more than asked, because a day with a clock change is longer or shorter than 24 hours.
    found = [buckets.next_day(now - timedelta(days=days + 1), zone)]
    while found[-1] <= now:
        found.append(buckets.next_day(found[-1], zone))
    return found[-days - 1 :]
