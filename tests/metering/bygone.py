"""Books with usage of months that are long over, and their archiving as processes of their own play it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

from core import clock
from metering import archives, partitions, rollups
from metering.events import Event
from metering.verdicts import Verdict
from orgs.models import Organization
from tests.billing import world

# Months are kept for two years here; these are over for longer.
KEEP = archives.KEEP_MONTHS_MIN


def month(ago: int) -> datetime:
    """The first instant of a month so long ago."""
    return partitions.month_start(clock.now(), plus=-ago)


def open_month(ago: int) -> datetime:
    """Give both tables that month."""
    for book in partitions.TABLES:
        partitions.create(book, month(ago))
    return month(ago)


@contextmanager
def recorded_at(at: datetime) -> Iterator[None]:
    """What is charged meanwhile is recorded at an instant of the past."""
    with mock.patch("metering.usage.started_at", return_value=at):
        yield


def charge(of: Organization | UUID, *taken: Event, ago: int, days: float = 3) -> list[Verdict]:
    """Charge events so many days after a month of the past began."""
    at = month(ago) + timedelta(days=days)
    with recorded_at(at):
        told = world.charge(of, *taken)
    # Folding has long passed that time.
    rollups.refold(start=at, end=at + rollups.GRAIN)
    return told


def take_out(folder: str) -> list[Any]:
    """Archive what is due; for a process of its own."""
    return [(one.book, one.file, one.rows) for one in archives.archive(folder=Path(folder), keep_months=KEEP)]


def drop(folder: str) -> list[Any]:
    """Drop what was taken out; for a process of its own."""
    return [(one.book, one.file) for one in archives.drop(folder=Path(folder))]


def ids_of(book: str) -> set[UUID]:
    """The ids of the rows that stand in a table."""
    return {key for (key,) in world.rows(f"SELECT id FROM {book}")}
