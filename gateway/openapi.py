"""How the OpenAPI document describes a body of events: from the struct that decodes it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from django.conf import settings
from drf_spectacular.extensions import OpenApiSerializerExtension
from rest_framework import serializers

from metering.events import CLOUDEVENT, CLOUDEVENTS, INTERNAL, NDJSON, PAIRS_MAX, Event
from metering.tokens import MESSAGES_MAX

_INSTANT = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}],
    "description": "Unix seconds or RFC 3339 with a zone: when the request was accepted; it chooses the price",
}
_COST = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}, {"type": "null"}]}
_COUNTED = {"description": "Required unless the request failed without output, or a text to count it from is given"}
_FROM = "looked at only where {} is absent, counted and not kept"
_TEXTS = {
    "messages": {
        "type": ["array", "null"],
        "items": {"type": "object"},
        "minItems": 1,
        "maxItems": MESSAGES_MAX,
        "description": f"The chat's messages; {_FROM.format('input_tokens')}",
    },
    "input_text": {"type": ["string", "null"], "description": f"In place of messages; {_FROM.format('input_tokens')}"},
    "output_text": {"type": ["string", "null"], "description": f"The answer; {_FROM.format('output_tokens')}"},
}


class EventSerializer(serializers.Serializer[Any]):
    """One finished request; described by ``event``."""


class CloudEventSerializer(serializers.Serializer[Any]):
    """The same in a CloudEvents 1.0 envelope; described by ``cloud_event``."""


class EventsSerializer(serializers.Serializer[Any]):
    """A JSON body: one event, an array of them, or an object that holds the array."""


class CloudEventsSerializer(serializers.Serializer[Any]):
    """An array of CloudEvents."""


class LiteLLMEventsSerializer(serializers.Serializer[Any]):
    """A LiteLLM proxy's payloads; described by ``litellm_payload``."""


# The request by media type.
BODIES: dict[str, Any] = {
    "application/json": EventsSerializer,
    NDJSON: {"type": "string", "description": "One event object a line"},
    CLOUDEVENT: CloudEventSerializer,
    CLOUDEVENTS: CloudEventsSerializer,
}

LITELLM_BODIES: dict[str, Any] = {
    "application/json": LiteLLMEventsSerializer,
    NDJSON: {"type": "string", "description": "One payload a line"},
}


def litellm_payload() -> dict[str, Any]:
    """The JSON Schema of as much of a StandardLoggingPayload as is read; all else in it is passed over."""
    text, count = {"type": ["string", "null"]}, {"type": ["integer", "null"], "minimum": 0}
    instant, flag = {"type": ["number", "null"], "minimum": 0}, {"type": ["boolean", "null"]}
    inner = {"type": ["object", "null"]}
    return {
        "type": "object",
        "description": "LiteLLM's StandardLoggingPayload. Texts in it are neither read nor kept.",
        "properties": {
            "litellm_call_id": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
            **dict.fromkeys(("model", "model_group", "model_id", "custom_llm_provider", "call_type"), text),
            **dict.fromkeys(("trace_id", "status", "end_user"), text),
            "startTime": {"type": "number", "minimum": 0, "description": "Unix seconds; it chooses the price"},
            **dict.fromkeys(("endTime", "completionStartTime"), instant),
            **dict.fromkeys(("stream", "cache_hit"), flag),
            **dict.fromkeys(("prompt_tokens", "completion_tokens"), count),
            "response_cost": {"type": ["number", "null"], "description": "What the provider charged, in USD"},
            "metadata": {
                "type": ["object", "null"],
                "description": "usage_object: the counts; user_api_key_hash, user_api_key_user_id,"
                " user_api_key_team_id, user_api_key_org_id: whom we charge, as mapped here",
            },
            **dict.fromkeys(("hidden_params", "error_information"), inner),
            "response": {"description": "Only its usage, service tier and finish reasons are read"},
        },
        "required": ["litellm_call_id", "startTime"],
    }


def event() -> dict[str, Any]:
    """The JSON Schema of an event. ``null`` is the same as absent for every field but the required ones."""
    schema = dict(msgspec.json.schema(Event)["$defs"]["Event"])
    required = set(schema["required"])
    fields = {
        name: field if name in required else _or_null(field)
        for name, field in schema["properties"].items()
        if name not in INTERNAL
    } | _TEXTS
    fields["event_id"] = {**fields["event_id"], "pattern": "^[!-~]+$"}
    fields["occurred_at"], fields["provider_cost_usd"] = _INSTANT, _COST
    for name in ("input_tokens", "output_tokens"):
        fields[name] = {key: value for key, value in fields[name].items() if key != "default"} | _COUNTED
    for name in ("units", "metadata"):
        fields[name] = {**fields[name], "maxProperties": PAIRS_MAX}
    return {
        "type": "object",
        "description": "One finished request. Unknown fields are dropped.",
        "properties": fields,
        "required": sorted(required),
    }


def cloud_event() -> dict[str, Any]:
    """The JSON Schema of an event in its envelope: id within source is the event id, subject the organization."""
    inner = event()
    data = {name: field for name, field in inner["properties"].items() if name != "event_id"}
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "description": "CloudEvents 1.0. Without time, data holds occurred_at.",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": text,
            "source": text,
            "type": {"type": "string"},
            "time": {"type": ["string", "null"], "format": "date-time"},
            "subject": {"type": ["string", "null"], "description": "Slug of the organization"},
            "datacontenttype": {"type": "string"},
            "data": {"type": "object", "properties": data, "required": ["model"]},
        },
        "required": ["data", "id", "source", "specversion"],
    }


def _or_null(field: Mapping[str, Any]) -> dict[str, Any]:
    """A field that may also be null."""
    if "anyOf" in field:
        return dict(field)
    if "enum" in field:
        return {**field, "enum": [*field["enum"], None]}
    return {**field, "type": [field["type"], "null"]}


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": settings.EVENTS_MAX}


class _Event(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    target_class = EventSerializer

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        return event()


class _CloudEvent(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    target_class = CloudEventSerializer

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        return cloud_event()


class _Events(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    target_class = EventsSerializer

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        one = auto_schema.resolve_serializer(EventSerializer, direction).ref
        batch = _array(one)
        return {"anyOf": [one, {"type": "object", "properties": {"events": batch}, "required": ["events"]}, batch]}


class _CloudEvents(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    target_class = CloudEventsSerializer

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        return _array(auto_schema.resolve_serializer(CloudEventSerializer, direction).ref)


class _LiteLLMEvents(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    target_class = LiteLLMEventsSerializer

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        one = litellm_payload()
        return {"anyOf": [one, _array(one)]}
