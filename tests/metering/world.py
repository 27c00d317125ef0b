"""Events for tests: as gateways tell them, and as the books take them."""

import itertools
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from core import clock
from metering import events
from metering.attribution import Attributed
from metering.events import Body, Event, Limits, Rejection
from orgs.models import Organization

# Its price in the seed: 0.27 input, 0.07 cached, 1.10 output USD per 1M tokens.
MODEL = "deepseek-chat"
# 360 × 0.27 + 640 × 0.07 + 200 × 1.10 = 362 millionths of a dollar (contract 16.3).
COUNTS = {"input_tokens": 1000, "cached_input_tokens": 640, "output_tokens": 200}
COST = "0.000362"

_numbers = itertools.count(1)


def limits(*, now: datetime | None = None) -> Limits:
    """What a request may hold by default."""
    return Limits(events=1000, now=now or clock.now(), age=timedelta(days=35), ahead=timedelta(minutes=5))


def told(**fields: Any) -> dict[str, Any]:
    """An event as a gateway would put it into JSON, with a fresh id."""
    return {
        "event_id": f"event-{next(_numbers)}",
        "model": MODEL,
        "occurred_at": clock.to_unix(clock.now()),
        **COUNTS,
        **fields,
    }


def event(**fields: Any) -> Event:
    """An event as the books take it, a second ago."""
    chosen = {"occurred_at": clock.now() - timedelta(seconds=1), **fields}
    return Event(**{**told(), **chosen})


def read(value: Any, *, media_type: str = "application/json", now: datetime | None = None) -> Body:
    """The events of a body; ``value`` goes as JSON unless it is bytes."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return events.decode(raw, media_type=media_type, limits=limits(now=now))


def refusal(value: Mapping[str, Any], **options: Any) -> Rejection:
    """Why the one event of a body is refused; it must be."""
    (item,) = read(value, **options).items
    assert isinstance(item, Rejection), f"{value} was taken"
    return item


def accepted(value: Mapping[str, Any], **options: Any) -> Event:
    """The one event of a body; it must be taken."""
    (item,) = read(value, **options).items
    assert isinstance(item, Event), f"{value} was not taken: {item}"
    return item


def attributed(of: Organization | UUID, *taken: Event, place: int = 0) -> list[Attributed]:
    """Events of an organization without keys, at consecutive places of a batch."""
    organization_id = of if isinstance(of, UUID) else of.pk
    return [
        Attributed(
            place=place + offset,
            event=one,
            organization_id=organization_id,
            payer_id=organization_id,
            api_key_id=None,
            member_id=None,
            project_id=None,
            fingerprint=events.fingerprint(one, organization=organization_id.bytes, key=None),
        )
        for offset, one in enumerate(taken)
    ]


def batch(*parts: tuple[Organization | UUID, Event]) -> list[Attributed]:
    """A batch of several organizations' events, in that order."""
    return [item for place, (of, one) in enumerate(parts) for item in attributed(of, one, place=place)]
