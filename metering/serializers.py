"""How metering's nouns look on the wire. Each ``show_`` function gives what its serializer declares."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core import clock, ids, wire
from metering import rating
from metering.catalog import Listing
from metering.models import CatalogModel, UsageRecord


@extend_schema_field({"type": "number", "format": "decimal"})
class UsdNumber(serializers.DecimalField):
    """Exact dollars as a JSON number."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=24, decimal_places=12, coerce_to_string=False, **options)


class UsageSerializer(serializers.Serializer[Any]):
    """A usage record."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["usage_record"])
    model = serializers.CharField()
    source = serializers.ChoiceField(["api_key", "product_call", "dev_tools"])  # type: ignore[assignment]
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    created_at = serializers.IntegerField()
    occurred_at = serializers.IntegerField()
    cost_usd = UsdNumber()


class UsageDetailSerializer(UsageSerializer):
    """A usage record alone: what a customer may know of its request."""

    event_id = serializers.CharField()
    request_id = serializers.CharField(allow_null=True)
    api_key_id = serializers.CharField(allow_null=True)
    end_user = serializers.CharField(allow_null=True)
    endpoint = serializers.CharField(allow_null=True)
    stream = serializers.BooleanField(allow_null=True)
    status = serializers.IntegerField(allow_null=True)
    finish_reason = serializers.CharField(allow_null=True)
    outcome = serializers.CharField()
    ttft_ms = serializers.IntegerField(allow_null=True)
    latency_ms = serializers.IntegerField(allow_null=True)
    cached_input_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    cache_write_1h_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()
    image_input_tokens = serializers.IntegerField()
    audio_input_tokens = serializers.IntegerField()
    image_output_tokens = serializers.IntegerField()
    audio_output_tokens = serializers.IntegerField()
    units = serializers.DictField(child=serializers.IntegerField())
    service_tier = serializers.CharField(allow_null=True)
    batch = serializers.BooleanField()
    usage_source = serializers.CharField()
    corrects = serializers.CharField(allow_null=True)
    metadata = serializers.DictField(child=serializers.CharField())


class UsagePageSerializer(serializers.Serializer[Any]):
    """A page of usage records."""

    object = serializers.ChoiceField(["list"])
    data = UsageSerializer(many=True)  # type: ignore[assignment]
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
    has_more = serializers.BooleanField()
    complete_until = serializers.IntegerField(
        required=False, help_text="With order=asc: no record before this instant can still appear"
    )


class GroupSerializer(serializers.Serializer[Any]):
    """What a result is told apart by; null unless grouped by it, or where nothing is known of it."""

    project_id = serializers.CharField(allow_null=True)
    api_key_id = serializers.CharField(allow_null=True)


class CompletionsResultSerializer(GroupSerializer):
    """Usage of a group in a bucket. Negative where more was taken back in it than used."""

    object = serializers.ChoiceField(["organization.usage.completions.result"])
    input_tokens = serializers.IntegerField(help_text="Cached ones too")
    input_cached_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    num_model_requests = serializers.IntegerField(help_text="Net of voids")
    user_id = serializers.CharField(allow_null=True)
    model = serializers.CharField(allow_null=True)
    batch = serializers.BooleanField(allow_null=True)
    service_tier = serializers.CharField(allow_null=True)


class AmountSerializer(serializers.Serializer[Any]):
    """An amount of money."""

    value = UsdNumber()
    currency = serializers.ChoiceField(["usd"])


class CostsResultSerializer(GroupSerializer):
    """What a group cost in a bucket."""

    object = serializers.ChoiceField(["organization.costs.result"])
    amount = AmountSerializer()
    line_item = serializers.CharField(allow_null=True, help_text="The model")
    quantity = serializers.IntegerField(allow_null=True)
    quantity_unit = serializers.CharField(allow_null=True)


class BucketSerializer(serializers.Serializer[Any]):
    """A bucket of time, half-open."""

    object = serializers.ChoiceField(["bucket"])
    start_time = serializers.IntegerField()
    end_time = serializers.IntegerField()


class CompletionsBucketSerializer(BucketSerializer):
    """Usage in a bucket."""

    results = CompletionsResultSerializer(many=True)


class CostsBucketSerializer(BucketSerializer):
    """Costs in a bucket."""

    results = CostsResultSerializer(many=True)


class RollupPageSerializer(serializers.Serializer[Any]):
    """A page of buckets."""

    object = serializers.ChoiceField(["page"])
    has_more = serializers.BooleanField()
    next_page = serializers.CharField(allow_null=True)


class CompletionsPageSerializer(RollupPageSerializer):
    """``GET /v1/organization/usage/completions``."""

    data = CompletionsBucketSerializer(many=True)  # type: ignore[assignment]


class CostsPageSerializer(RollupPageSerializer):
    """``GET /v1/organization/costs``."""

    data = CostsBucketSerializer(many=True)  # type: ignore[assignment]


class ModelSerializer(serializers.Serializer[Any]):
    """A model as OpenAI's clients list it."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["model"])
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


class ModelListSerializer(serializers.Serializer[Any]):
    """``GET /v1/models``."""

    object = serializers.ChoiceField(["list"])
    data = ModelSerializer(many=True)  # type: ignore[assignment]


class PricingSerializer(serializers.Serializer[Any]):
    """The ordinary rates now, USD per 1M tokens."""

    currency = serializers.ChoiceField(["USD"])
    input_per_1m = UsdNumber()
    cached_input_per_1m = UsdNumber(required=False)
    output_per_1m = UsdNumber(required=False)


class RoutingSerializer(serializers.Serializer[Any]):
    """How calls to the model find their provider."""

    mode = serializers.ChoiceField(["direct", "smart", "system"])
    fallback = serializers.BooleanField(required=False)


class LimitsSerializer(serializers.Serializer[Any]):
    """Limits of a model's parameters."""

    max_stop_sequences = serializers.IntegerField()


class CatalogEntrySerializer(serializers.Serializer[Any]):
    """A model of the catalog."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["model"])
    name = serializers.CharField()
    provider = serializers.CharField()
    vendor = serializers.CharField()
    brand = serializers.CharField()
    kind = serializers.ChoiceField(CatalogModel.Kind.values)
    category = serializers.ListField(child=serializers.CharField())
    context_window = serializers.IntegerField(required=False)
    max_output_tokens = serializers.IntegerField(required=False)
    pricing = PricingSerializer(allow_null=True)
    routing = RoutingSerializer()
    capabilities = serializers.ListField(child=serializers.CharField())
    limits = LimitsSerializer()


class CatalogSerializer(serializers.Serializer[Any]):
    """``GET /v1/models/catalog``."""

    object = serializers.ChoiceField(["list"])
    data = CatalogEntrySerializer(many=True)  # type: ignore[assignment]


def show_usage(record: UsageRecord) -> dict[str, Any]:
    """A record in a list."""
    return {
        "id": ids.show("usage", record.id),
        "object": "usage_record",
        "model": record.model,
        "source": record.source,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "total_tokens": record.total_tokens,
        "created_at": clock.to_unix(record.recorded_at),
        "occurred_at": clock.to_unix(record.occurred_at),
        "cost_usd": wire.number(record.cost_usd),
    }


_PLAIN = (
    "event_id", "request_id", "end_user", "endpoint", "stream", "status", "finish_reason", "outcome", "ttft_ms",
    "latency_ms", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens",
    "image_input_tokens", "audio_input_tokens", "image_output_tokens", "audio_output_tokens", "service_tier", "batch",
    "usage_source",
)  # fmt: skip


def show_usage_detail(record: UsageRecord) -> dict[str, Any]:
    """A record alone; what it cost us and who served it stays inside."""
    return {
        **show_usage(record),
        **{name: getattr(record, name) for name in _PLAIN},
        "api_key_id": None if record.api_key_id is None else ids.show("key", record.api_key_id),
        "units": record.units or {},
        "corrects": None if record.corrects_id is None else ids.show("usage", record.corrects_id),
        "metadata": record.metadata or {},
    }


def show_model(model: CatalogModel) -> dict[str, Any]:
    """A model as OpenAI's clients list it."""
    return {
        "id": model.slug,
        "object": "model",
        "created": clock.to_unix(model.released_at),
        "owned_by": model.owned_by,
    }


_MODES = {"vendor_model": "direct", "smart_route": "smart", "system_route": "system"}


def show_catalog_entry(model: CatalogModel, listing: Listing, at: datetime) -> dict[str, Any]:
    """A model of the catalog with its ordinary rates at an instant; absent limits are left out."""
    version = listing.price_at(model.slug, at)
    routing: dict[str, Any] = {"mode": _MODES[model.kind]}
    if model.kind != CatalogModel.Kind.VENDOR:
        routing["fallback"] = True
    shown = {
        "id": model.slug,
        "object": "model",
        "name": model.name,
        "provider": model.provider,
        "vendor": model.vendor,
        "brand": model.brand,
        "kind": model.kind,
        "category": model.categories,
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
        "pricing": None if version is None else _pricing(version.card),
        "routing": routing,
        "capabilities": model.capabilities,
        "limits": {"max_stop_sequences": model.max_stop_sequences},
    }
    return {name: value for name, value in shown.items() if value is not None or name == "pricing"}


def _pricing(card: rating.RateCard) -> Mapping[str, Any]:
    base = next(terms for terms in card.terms if rating.is_base(terms))
    rates = {
        "input_per_1m": base.rates.input,
        "cached_input_per_1m": base.rates.cached_input,
        "output_per_1m": base.rates.output,
    }
    numbers = {name: wire.number(rating.per_million(rate)) for name, rate in rates.items() if rate is not None}
    return {"currency": "USD", **numbers}
