"""Keys on the wire."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core import clock, ids
from core.errors import InvalidType, MissingParameter, OutOfRange
from orgs.keyring import Wish
from orgs.models import ApiKey

# The end of the year 9999, the last that a timestamp can name.
UNIX_SECONDS_MAX = 253_402_300_799


@extend_schema_field({"type": "string"})
class ShownId(serializers.Field[UUID, Any, str, Any]):
    """An id as customers see it, with its prefix."""

    def __init__(self, prefix: str, **options: Any) -> None:
        self.prefix = prefix
        super().__init__(read_only=True, **options)

    def to_representation(self, value: UUID) -> str:
        """``key_01K6Z7…``."""
        return ids.show(self.prefix, value)


@extend_schema_field({"type": "integer"})
class UnixSeconds(serializers.Field[datetime, Any, int, Any]):
    """An instant as whole Unix seconds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(read_only=True, **options)

    def to_representation(self, value: datetime) -> int:
        """Rounded down."""
        return ids.milliseconds(value) // 1000


class KeySerializer(serializers.Serializer[ApiKey]):
    """A key without its secret."""

    id = ShownId("key")
    object = serializers.SerializerMethodField()
    kind = serializers.ChoiceField(["organization", "personal"], read_only=True)
    name = serializers.CharField(read_only=True)
    last_four = serializers.CharField(read_only=True)
    status = serializers.SerializerMethodField()
    scopes = serializers.ListField(child=serializers.CharField(), read_only=True)
    models = serializers.ListField(child=serializers.CharField(), source="allowed_models", read_only=True)
    cidrs = serializers.ListField(child=serializers.CharField(), read_only=True)
    project_id = ShownId("proj", allow_null=True)
    created_at = UnixSeconds()
    expires_at = UnixSeconds(allow_null=True)

    @extend_schema_field({"type": "string", "enum": ["api_key"]})
    def get_object(self, key: ApiKey) -> str:
        """The kind of object."""
        return "api_key"

    @extend_schema_field({"type": "string", "enum": ["active", "expired", "revoked"]})
    def get_status(self, key: ApiKey) -> str:
        """Whether it works."""
        if key.revoked_at is not None:
            return "revoked"
        return "expired" if key.expires_at is not None and key.expires_at <= clock.now() else "active"


class IssuedKeySerializer(KeySerializer):
    """A key with its secret, which is shown in this answer and never again."""

    secret = serializers.SerializerMethodField()

    def get_secret(self, key: ApiKey) -> str:
        """What the view just issued."""
        secret: str = self.context["secret"]
        return secret


class KeyListSerializer(serializers.Serializer[Any]):
    """A page of keys, newest first."""

    object = serializers.ChoiceField(["list"])
    data = KeySerializer(many=True)  # type: ignore[assignment]
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
    has_more = serializers.BooleanField()


class DeletedKeySerializer(serializers.Serializer[Any]):
    """What is left of a deleted key."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["api_key.deleted"])
    deleted = serializers.BooleanField()


class NewKeySerializer(serializers.Serializer[Any]):
    """A key to be made."""

    # For the document only: ``read_wish`` reads the body.

    name = serializers.CharField(max_length=100, help_text="What the key is for.")
    scopes = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        allow_null=True,
        help_text="What the key may manage: keys:manage, billing:manage, webhooks:manage. "
        "Calling models and reading usage, wallet and invoices come with every key.",
    )
    models = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        allow_null=True,
        help_text="Ids of the models it may call; empty for all.",
    )
    cidrs = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        allow_null=True,
        help_text="Networks it may be used from, as 203.0.113.0/24; empty for all.",
    )
    expires_at = serializers.IntegerField(required=False, allow_null=True, help_text="Unix seconds; absent: never.")
    project = serializers.CharField(
        required=False, allow_null=True, help_text="Id of the project it belongs to; absent: that of the calling key."
    )


def read_wish(body: Mapping[str, Any]) -> Wish:
    """The key asked for; unknown fields are dropped.

    Raises ``MissingParameter``, ``InvalidType`` or ``OutOfRange`` with the field.
    """
    name = body.get("name")
    if name is None:
        raise MissingParameter("name is required.", param="name")
    if not isinstance(name, str):
        raise InvalidType("name must be a string.", param="name")
    return Wish(
        name=name,
        scopes=_texts(body, "scopes"),
        models=_texts(body, "models"),
        cidrs=_texts(body, "cidrs"),
        expires_at=_instant(body, "expires_at"),
        project=_text(body, "project"),
    )


def _text(body: Mapping[str, Any], field: str) -> str | None:
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise InvalidType(f"{field} must be a string.", param=field)
    return value


def _texts(body: Mapping[str, Any], field: str) -> list[str]:
    value = body.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidType(f"{field} must be an array of strings.", param=field)
    for place, item in enumerate(value):
        if not isinstance(item, str):
            raise InvalidType(f"{field}[{place}] must be a string.", param=f"{field}[{place}]")
    return value


def _instant(body: Mapping[str, Any], field: str) -> datetime | None:
    value = body.get(field)
    if value is None:
        return None
    if type(value) is not int:
        raise InvalidType(f"{field} must be an integer of Unix seconds.", param=field)
    if not 0 <= value <= UNIX_SECONDS_MAX:
        raise OutOfRange(f"{field} must be between 1970 and the year 9999.", param=field)
    return datetime.fromtimestamp(value, UTC)
