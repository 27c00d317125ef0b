"""Buckets of time: minutes and hours of UTC, days of any zone. Pure.

Buckets are half-open and tile: each ends where the next begins. A day is what a zone's calendar
says, so it may have 23 or 25 hours. A first bucket may begin late and a last one end early, as the
caller's bounds say.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIXED = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1)}
# Beyond it a calendar has no next day to name.
LAST = datetime(9999, 12, 1, tzinfo=UTC)


class Window(NamedTuple):
    """The edges of consecutive buckets, one more than buckets, and whether others follow."""

    edges: list[datetime]
    has_more: bool


def window(
    *, start: datetime, end: datetime, width: str, zone: ZoneInfo, limit: int, page: datetime | None = None
) -> Window | None:
    """The first ``limit`` buckets of ``width`` (1m, 1h, 1d) between ``start`` and ``end``, from ``page`` on.

    ``page`` is where a later bucket begins; None for one that is no such edge. Where ``end`` is not after
    ``start`` there is no bucket. Instants are UTC, in whole seconds and not after ``LAST``.
    """
    first = start if page is None else page
    if page is not None and not (start < page < end and following(page - _SECOND, width, zone) == page):
        return None
    edges = [first]
    while edges[-1] < end and len(edges) <= limit:
        edges.append(min(following(edges[-1], width, zone), end))
    return Window(edges, edges[-1] < end)


def following(at: datetime, width: str, zone: ZoneInfo) -> datetime:
    """The first edge of buckets of ``width`` after an instant."""
    if width == "1d":
        return next_day(at, zone)
    step = _FIXED[width]
    return at + step - (at - _EPOCH) % step


def next_day(at: datetime, zone: ZoneInfo) -> datetime:
    """The first midnight of a zone after ``at``; where clocks skip midnight, the instant they skip it."""
    day = at.astimezone(zone).date()
    while True:
        day += timedelta(days=1)
        # The first of two midnights, where clocks go back over one; of a day that never was, its neighbour's.
        midnight = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        if midnight > at:
            return midnight
