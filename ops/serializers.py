"""Webhook endpoints and deliveries on the wire."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.errors import InvalidType, MissingParameter
from ops import egress, happenings
from ops.models import WebhookDelivery, WebhookEndpoint
from orgs.serializers import ShownId, UnixSeconds


class EndpointSerializer(serializers.Serializer[WebhookEndpoint]):
    """An endpoint without its secret."""

    id = ShownId("we")
    object = serializers.SerializerMethodField()
    url = serializers.CharField(read_only=True)
    events = serializers.ListField(
        child=serializers.CharField(), source="kinds", read_only=True, help_text="Empty for all."
    )
    enabled = serializers.BooleanField(read_only=True)
    disabled_reason = serializers.SerializerMethodField()
    disabled_at = UnixSeconds(allow_null=True)
    failing_since = UnixSeconds(allow_null=True, help_text="The first failure since the last success.")
    created_at = UnixSeconds()

    @extend_schema_field({"type": "string", "enum": ["webhook_endpoint"]})
    def get_object(self, row: WebhookEndpoint) -> str:
        """The kind of object."""
        return "webhook_endpoint"

    @extend_schema_field({"type": ["string", "null"]})
    def get_disabled_reason(self, row: WebhookEndpoint) -> str | None:
        """Why nothing is sent there."""
        return row.disabled_reason or None


class IssuedEndpointSerializer(EndpointSerializer):
    """An endpoint with its secret, which is shown in this answer and never again."""

    secret = serializers.SerializerMethodField()

    def get_secret(self, row: WebhookEndpoint) -> str:
        """What the view just issued."""
        secret: str = self.context["secret"]
        return secret


class EndpointListSerializer(serializers.Serializer[Any]):
    """All endpoints, newest first."""

    object = serializers.ChoiceField(["list"])
    data = EndpointSerializer(many=True)  # type: ignore[assignment]
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
    has_more = serializers.BooleanField()


class DeletedEndpointSerializer(serializers.Serializer[Any]):
    """What is left of a deleted endpoint."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["webhook_endpoint.deleted"])
    deleted = serializers.BooleanField()


class DeliverySerializer(serializers.Serializer[WebhookDelivery]):
    """A message on its way to an endpoint."""

    id = ShownId("wd")
    object = serializers.SerializerMethodField()
    message_id = ShownId("evt", help_text="The id of the message, which is its webhook-id.")
    type = serializers.CharField(source="message.kind", read_only=True)
    status = serializers.ChoiceField(WebhookDelivery.State.values, source="state", read_only=True)
    attempts = serializers.IntegerField(read_only=True)
    status_code = serializers.IntegerField(
        source="status", read_only=True, allow_null=True, help_text="The last answer; null if there was none."
    )
    failure = serializers.SerializerMethodField()
    excerpt = serializers.SerializerMethodField()
    created_at = UnixSeconds()
    last_attempt_at = UnixSeconds(allow_null=True)
    next_attempt_at = UnixSeconds(allow_null=True)

    @extend_schema_field({"type": "string", "enum": ["webhook_delivery"]})
    def get_object(self, row: WebhookDelivery) -> str:
        """The kind of object."""
        return "webhook_delivery"

    @extend_schema_field({"type": ["string", "null"], "description": "Why there was no answer."})
    def get_failure(self, row: WebhookDelivery) -> str | None:
        """None if there was an answer."""
        return row.failure or None

    @extend_schema_field({"type": ["string", "null"], "description": "The first words of a refusal."})
    def get_excerpt(self, row: WebhookDelivery) -> str | None:
        """None if there were none."""
        return row.excerpt or None


class DeliveryListSerializer(serializers.Serializer[Any]):
    """A page of deliveries, newest first."""

    object = serializers.ChoiceField(["list"])
    data = DeliverySerializer(many=True)  # type: ignore[assignment]
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
    has_more = serializers.BooleanField()


_EVENTS = "Kinds of event to be told of; empty or absent for all: " + ", ".join(happenings.KINDS) + "."


class NewEndpointSerializer(serializers.Serializer[Any]):
    """An endpoint to be made."""

    # For the document only: ``read_change`` reads the body.

    url = serializers.CharField(
        max_length=egress.URL_CHARS_MAX, help_text="https:// and a domain name; port 443 or above 1023."
    )
    events = serializers.ListField(
        child=serializers.ChoiceField(list(happenings.KINDS)), required=False, allow_null=True, help_text=_EVENTS
    )


class EndpointChangeSerializer(serializers.Serializer[Any]):
    """What to change of an endpoint; absent or null leaves as it is."""

    url = serializers.CharField(max_length=egress.URL_CHARS_MAX, required=False, allow_null=True)
    events = serializers.ListField(
        child=serializers.ChoiceField(list(happenings.KINDS)), required=False, allow_null=True, help_text=_EVENTS
    )
    enabled = serializers.BooleanField(
        required=False, allow_null=True, help_text="false cancels what waits; true forgets past failures."
    )


class Change(NamedTuple):
    """What a body asks for; None leaves as it is."""

    url: str | None
    kinds: list[str] | None
    enabled: bool | None


def read_change(body: Mapping[str, Any], *, new: bool) -> Change:
    """The change asked for; unknown fields are dropped.

    Raises ``MissingParameter`` or ``InvalidType`` with the field.
    """
    url = body.get("url")
    if url is None and new:
        raise MissingParameter("url is required.", param="url")
    if url is not None and not isinstance(url, str):
        raise InvalidType("url must be a string.", param="url")
    kinds = body.get("events")
    if kinds is not None and not isinstance(kinds, list):
        raise InvalidType("events must be an array of strings.", param="events")
    for place, kind in enumerate(kinds or ()):
        if not isinstance(kind, str):
            raise InvalidType(f"events[{place}] must be a string.", param=f"events[{place}]")
    # A new endpoint is on; its body does not say.
    enabled = None if new else body.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise InvalidType("enabled must be a boolean.", param="enabled")
    return Change(url, kinds, enabled)
