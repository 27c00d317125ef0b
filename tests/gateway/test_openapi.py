"""The documented body of events, held against the reader of events."""

import json
from datetime import timedelta
from typing import Any

import jsonschema
import pytest

from core import clock, errors, views
from gateway import openapi
from metering import events
from metering.events import INTERNAL, MEDIA_TYPES, Event, Limits, Rejection
from tests.gateway.test_views import cloud
from tests.journeys import neighbours


def documented(media_type: str) -> Any:
    """The validator of a body of that media type, as the document has it."""
    document = views.document()
    schema = document["paths"]["/v1/events"]["post"]["requestBody"]["content"][media_type]["schema"]
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def taken(body: Any, media_type: str) -> bool:
    """Whether the reader refuses nothing of a body."""
    limits = Limits(events=1000, now=clock.now(), age=timedelta(days=35), ahead=timedelta(seconds=300))
    try:
        read = events.decode(json.dumps(body).encode(), media_type=media_type, limits=limits)
    except errors.ApiError:
        return False
    return not any(isinstance(item, Rejection) for item in read.items)


def test_every_media_type_that_is_read_is_described() -> None:
    content = views.document()["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(content) == set(MEDIA_TYPES)
    assert all(each["schema"] for each in content.values())


def test_every_field_that_is_read_is_described_and_none_of_ours() -> None:
    assert set(openapi.event()["properties"]) >= set(Event.__struct_fields__) - INTERNAL
    assert not INTERNAL & set(openapi.event()["properties"])
    assert set(openapi.cloud_event()["properties"]["data"]["properties"]) >= set(Event.__struct_fields__) - INTERNAL - {
        "event_id"
    }


GOOD = neighbours.event("gw-1")
BODIES: list[Any] = [GOOD, [GOOD], {"events": [GOOD]}, {**GOOD, "unknown": {"a": 1}}, {**GOOD, "end_user": None}]
WRONG: list[Any] = [
    [], {"events": []}, 3, "x", None, {}, {"event_id": "x"}, [3], {"events": 3},
    *({**GOOD, name: value} for name, value in {
        "event_id": "", "model": 7, "occurred_at": True, "input_tokens": -1, "output_tokens": "5", "batch": "yes",
        "source": "cli", "status": 99, "units": {"a": -1}, "metadata": {"a": 1}, "end_user": "x" * 129,
        "cached_input_tokens": 2**31, "attempts": 40_000, "stream": 1, "outcome": "lost",
    }.items()),
    {**GOOD, "event_id": "with space"}, {**GOOD, "metadata": {str(place): "" for place in range(17)}},
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_what_the_document_allows_is_taken(body: Any) -> None:
    documented("application/json").validate(body)
    assert taken(body, "application/json")


@pytest.mark.parametrize("body", WRONG)
def test_what_the_document_forbids_is_refused(body: Any) -> None:
    assert not documented("application/json").is_valid(body)
    assert not taken(body, "application/json")


def test_cloudevents_are_described_like_the_events_in_them() -> None:
    one = {**cloud({**GOOD, "organization": "acme-labs"}), "time": clock.now().isoformat()}
    for media_type, body in ((events.CLOUDEVENT, one), (events.CLOUDEVENTS, [one])):
        documented(media_type).validate(body)
        assert taken(body, media_type)
    changes: list[dict[str, Any]] = [
        {"id": ""},
        {"source": 7},
        {"specversion": "0.3"},
        {"data": []},
        {"data": {"model": ""}},
    ]
    for change in changes:
        assert not documented(events.CLOUDEVENT).is_valid({**one, **change})
        assert not taken({**one, **change}, events.CLOUDEVENT)
