"""Billing periods: from one anchor day to the next in a zone's calendar, as half-open instants of UTC. Pure.

An anchor day of 31 is the last day of a shorter month and the 31st of the next long one: it is clamped, never
moved. A period begins where the one before it ended, whatever has become of zone and anchor since, so periods
tile. An edge too near to that beginning is the same one seen from another zone or anchor, and is passed over.
"""

import calendar
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

# Zones differ by 26 hours at most.
SHORTEST = timedelta(hours=36)


class Period(NamedTuple):
    """From ``starts_at`` until before ``ends_at``."""

    starts_at: datetime
    ends_at: datetime


def containing(at: datetime, *, anchor_day: int, zone: ZoneInfo) -> Period:
    """The period that an instant lies in, from anchor to anchor."""
    local = at.astimezone(zone).date()
    edge = _edge(local.year, local.month, anchor_day, zone)
    start = edge if edge <= at else _edge(*_month_before(local.year, local.month), anchor_day, zone)
    return Period(start, _after(start, anchor_day=anchor_day, zone=zone))


def following(ends_at: datetime, *, anchor_day: int, zone: ZoneInfo) -> Period:
    """The period that begins where another one ended."""
    end = _after(ends_at, anchor_day=anchor_day, zone=zone)
    while end - ends_at < SHORTEST:
        end = _after(end, anchor_day=anchor_day, zone=zone)
    return Period(ends_at, end)


def _after(at: datetime, *, anchor_day: int, zone: ZoneInfo) -> datetime:
    """The first anchor after an instant."""
    local = at.astimezone(zone).date()
    edge = _edge(local.year, local.month, anchor_day, zone)
    return edge if edge > at else _edge(*_month_after(local.year, local.month), anchor_day, zone)


def _edge(year: int, month: int, anchor_day: int, zone: ZoneInfo) -> datetime:
    """Where the anchor day of a month begins: its first midnight, or the instant at which clocks skip it."""
    day = date(year, month, min(anchor_day, calendar.monthrange(year, month)[1]))
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _month_after(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)


def _month_before(year: int, month: int) -> tuple[int, int]:
    return (year - 1, 12) if month == 1 else (year, month - 1)
