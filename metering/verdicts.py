"""What became of an event (contract 16.3)."""

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from core import errors


class Status(StrEnum):
    """The verdicts that the books give; ``rejected`` comes from reading the event."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    FAILED = "failed"


class Verdict(NamedTuple):
    """One event's answer. ``record_id`` is set when a usage record stands for it."""

    event_id: str | None
    status: Status
    record_id: UUID | None = None
    cost_usd: Decimal | None = None
    error: errors.ApiError | None = None


def conflict(event_id: str) -> Verdict:
    """The same id with other content: nothing changes."""
    return Verdict(
        event_id,
        Status.CONFLICT,
        error=errors.Conflict("This event_id was used with other content.", param="event_id"),
    )


def failed(event_id: str) -> Verdict:
    """Not written for certain, for a commit may have happened whose answer got lost; it may be sent again."""
    return Verdict(
        event_id,
        Status.FAILED,
        error=errors.Unavailable("It is not certain that the event was written; send it again."),
    )
