"""Closing an organization at the desk, and opening it again."""

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest

from billing import closures
from core.admin import Act, Done, Section
from core.markup import paragraphs
from orgs.admin import actor
from orgs.models import Organization


def _close(request: HttpRequest, row: Organization, told: dict[str, Any]) -> Done:
    closures.close(organization_id=row.pk, reason=told["reason"], by=actor(request))
    return Done(f"{row} is closed: its keys have stopped, and nobody signs in to it.")


def _reopen(request: HttpRequest, row: Organization, told: dict[str, Any]) -> Done:
    closures.reopen(organization_id=row.pk, reason=told["reason"], by=actor(request))
    return Done(f"{row} is open again. Automatic top-up stays off until somebody turns it on.")


def _in_the_way(row: Organization) -> Sequence[Section]:
    return [Section(f"In the way of closing {row}", paragraphs(*(closures.obstacles(row.pk) or ["Nothing."])))]


CLOSING = (
    Act(
        "close",
        "Close",
        "Its keys stop, its people do not find it any more, and it buys nothing by itself. The books stay, and "
        "documents of open periods are still made. It can be opened again.",
        _close,
        facts=_in_the_way,
        possible=lambda row: row.closed_at is None and not row.is_personal,
    ),
    Act(
        "reopen",
        "Reopen",
        "Its keys and its people are let in again.",
        _reopen,
        possible=lambda row: row.closed_at is not None,
    ),
)
