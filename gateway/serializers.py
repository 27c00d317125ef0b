"""How authorizations look in the OpenAPI document; ``gateway.authorizations`` reads and shows them."""

from typing import Any

from rest_framework import serializers

from billing.admissions import CHOICES_MAX
from billing.holds import SECONDS_MAX, STATUS
from gateway.authorizations import SECONDS_DEFAULT
from metering.rating import COUNT_MAX
from metering.serializers import UsdNumber

_ANY = "Absent: any of it may be, where the model has a price for that"


def _count(**more: Any) -> serializers.IntegerField:
    return serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=COUNT_MAX, **more)


def _text(**more: Any) -> serializers.CharField:
    return serializers.CharField(required=False, allow_null=True, **more)


class AuthorizationRequestSerializer(serializers.Serializer[Any]):
    """A request that is about to be made, and what it may use at most."""

    key = _text(help_text="The customer's key, or api_key_id; verified and forgotten", write_only=True)
    api_key_id = _text(help_text="The id of the customer's key, where the gateway has verified it")
    organization = _text(help_text="X-DeepToken-Org of the customer's request")
    model = serializers.CharField(max_length=128)
    service_tier = _text(max_length=128)
    batch = serializers.BooleanField(required=False, allow_null=True)
    input_tokens = _count(help_text="Required unless messages or input_text is sent")
    image_input_tokens = _count(help_text=_ANY)
    audio_input_tokens = _count(help_text=_ANY)
    max_output_tokens = _count(help_text="The cap of each choice; absent: the default, which the answer names")
    image_output_tokens = _count(help_text=_ANY)
    audio_output_tokens = _count(help_text=_ANY)
    n = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=CHOICES_MAX, help_text="Choices; 1 if absent"
    )
    units = serializers.DictField(
        child=serializers.IntegerField(min_value=0, max_value=COUNT_MAX),
        required=False,
        allow_null=True,
        help_text="Other uses by name, at most so many",
    )
    messages = serializers.ListField(
        child=serializers.DictField(), required=False, allow_null=True, help_text="Counted and not kept"
    )
    tools = serializers.ListField(
        child=serializers.DictField(), required=False, allow_null=True, help_text="Counted with messages or input_text"
    )
    input_text = _text(help_text="In place of messages")
    client_ip = _text(help_text="Whom the customer's request came from; needed where the key is limited to networks")
    ttl_seconds = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=SECONDS_MAX,
        help_text=f"How long the hold lasts without an event; {SECONDS_DEFAULT} if absent",
    )


class PayingWalletSerializer(serializers.Serializer[Any]):
    """The wallet that pays."""

    organization = serializers.CharField(help_text="In fallback mode it may be the caller's personal one")
    status = serializers.ChoiceField(["active", "low", "empty", "frozen"])
    available_usd = UsdNumber(allow_null=True, help_text="Null where it is not the organization's own")


class AuthorizationSerializer(serializers.Serializer[Any]):
    """A hold."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["authorization"])
    status = serializers.ChoiceField(sorted(STATUS.values()))
    api_key_id = serializers.CharField(allow_null=True)
    organization = serializers.CharField(help_text="Slug; X-DeepToken-Org of whoever reads or releases it")
    wallet = PayingWalletSerializer()
    model = serializers.CharField()
    amount_usd = UsdNumber(help_text="Set aside")
    max_output_tokens = serializers.IntegerField()
    created_at = serializers.IntegerField()
    expires_at = serializers.IntegerField()
    settled_at = serializers.IntegerField(allow_null=True)
    usage_record_id = serializers.CharField(allow_null=True, help_text="The record that captured it")


class KeyQuestionSerializer(serializers.Serializer[Any]):
    """A customer's key, and what it is to be used for."""

    key = serializers.CharField(help_text="Verified and forgotten", write_only=True)
    organization = _text(help_text="X-DeepToken-Org of the customer's request")
    model = _text(max_length=128)
    client_ip = _text(help_text="Whom the customer's request came from; needed where the key is limited to networks")


class VerifiedKeySerializer(serializers.Serializer[Any]):
    """Who a key is."""

    api_key_id = serializers.CharField()
    organization = serializers.CharField(help_text="Slug")
    wallet = PayingWalletSerializer()
    models = serializers.ListField(child=serializers.CharField(), help_text="Empty: all")
    expires_at = serializers.IntegerField(allow_null=True)
    cache_seconds = serializers.IntegerField(help_text="How long this answer may be gone by")
