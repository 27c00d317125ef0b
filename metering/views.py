"""Metering's doors: usage and the catalog."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import clock, errors, ids, lists, money
from core.http import JsonRenderer
from core.openapi import failures
from metering import catalog, usage
from metering.filters import UsageFilter
from metering.models import UsageRecord
from metering.serializers import (
    CatalogSerializer,
    ModelListSerializer,
    ModelSerializer,
    UsageDetailSerializer,
    UsagePageSerializer,
    show_catalog_entry,
    show_model,
    show_usage,
    show_usage_detail,
)
from orgs import permissions
from orgs.authentication import principal_of
from orgs.principals import Principal

CSV_COLUMNS = (
    "id", "model", "source", "input_tokens", "output_tokens", "total_tokens", "created_at", "occurred_at", "cost_usd",
    "api_key_id", "end_user", "cached_input_tokens", "reasoning_tokens", "request_id",
)  # fmt: skip
_CSV_CHUNK = 1000


def _query(name: str, description: str, kind: Any = OpenApiTypes.STR, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=description, **more)


PAGING = [
    _query("limit", "1 to 100, 20 if absent", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    _query("after", "Id of the last item of the previous page"),
]


def visible(principal: Principal) -> QuerySet[UsageRecord]:
    """The records that a caller may see: all of the organization's, or only their own."""
    assert principal.organization_id is not None
    everything = permissions.USAGE_READ_ALL in principal.permissions
    return usage.for_caller(principal.organization_id, member_id=None if everything else principal.member_id)


class UsageList(APIView):
    """``GET /v1/usage``."""

    needs = permissions.USAGE_READ_OWN
    renderer_classes = [JsonRenderer, lists.CsvRenderer]

    @extend_schema(
        operation_id="list_usage",
        parameters=[
            *PAGING,
            _query("model", "Exact model id"),
            _query("source", "Where the call came from", enum=["api_key", "product_call", "dev_tools"]),
            _query("api_key_id", "Id of a key"),
            _query("start_time", "Unix seconds, inclusive, by created_at", {"type": "integer", "minimum": 0}),
            _query("end_time", "Unix seconds, exclusive, by created_at", {"type": "integer", "minimum": 0}),
            OpenApiParameter(
                "metadata",
                {"type": "object", "additionalProperties": {"type": "string"}},
                description="metadata[name]=value: records that carry these pairs",
                style="deepObject",
                explode=True,
            ),
            _query("order", "Newest first, or oldest first up to complete_until", enum=["desc", "asc"]),
        ],
        responses={(200, "application/json"): UsagePageSerializer, (200, "text/csv"): str, **failures(400, 422)},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Records of the account, newest first; CSV of all that match with ``Accept: text/csv``."""
        scope = visible(principal_of(request))
        order = request.query_params.get("order") or "desc"
        if order not in {"asc", "desc"}:
            raise errors.OutOfRange("order must be asc or desc.", param="order")
        ascending = order == "asc"
        limit = lists.limit(request)
        matching = _filtered(request, scope)
        final = usage.final_until()
        if ascending:
            matching = usage.created_before(matching, final)
        after = lists.after(request)
        if lists.wants_csv(request):
            whole = "limit" not in request.query_params
            found = _walk(matching, scope, after, ascending, limit=_CSV_CHUNK if whole else limit, whole=whole)
            return lists.csv_answer("usage", CSV_COLUMNS, (_csv_row(record) for record in found))
        page = usage.page(matching, scope=scope, limit=limit, after=after, ascending=ascending)
        shown = lists.page([show_usage(record) for record in page.records], has_more=page.has_more)
        if ascending:
            shown["complete_until"] = clock.to_unix(final)
        return Response(shown)


def _filtered(request: Request, scope: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
    """The records that the query asks for. Raises ``OutOfRange`` or ``InvalidType`` naming the parameter."""
    filters = UsageFilter(request.query_params, queryset=scope)
    if not filters.is_valid():
        param = next(iter(filters.errors))
        raise errors.OutOfRange(f"{param} is not valid.", param=param)
    matching: QuerySet[UsageRecord] = filters.qs
    return matching


def _walk(
    matching: QuerySet[UsageRecord],
    scope: QuerySet[UsageRecord],
    after: str | None,
    ascending: bool,
    *,
    limit: int,
    whole: bool,
) -> Iterator[UsageRecord]:
    """Records page by page. The first page is read here and now, so that a bad cursor is still an error answer."""
    page = usage.page(matching, scope=scope, limit=limit, after=after, ascending=ascending)

    def rows() -> Iterator[UsageRecord]:
        current = page
        yield from current.records
        while whole and current.has_more:
            last = ids.show("usage", current.records[-1].id)
            current = usage.page(matching, scope=scope, limit=limit, after=last, ascending=ascending)
            yield from current.records

    return rows()


def _csv_row(record: UsageRecord) -> tuple[object, ...]:
    """The cells of ``CSV_COLUMNS``; times in RFC 3339, UTC."""
    return (
        ids.show("usage", record.id), record.model, record.source, record.input_tokens, record.output_tokens,
        record.total_tokens, record.recorded_at.isoformat(), record.occurred_at.isoformat(),
        money.plain(record.cost_usd), None if record.api_key_id is None else ids.show("key", record.api_key_id),
        record.end_user, record.cached_input_tokens, record.reasoning_tokens, record.request_id,
    )  # fmt: skip


class UsageDetail(APIView):
    """``GET /v1/usage/{id}``."""

    needs = permissions.USAGE_READ_OWN

    @extend_schema(
        operation_id="get_usage",
        responses={200: UsageDetailSerializer, **failures(404)},
    )
    def get(self, request: Request, record_id: str) -> Response:
        """One record, readable as soon as its event was answered."""
        record = usage.find(visible(principal_of(request)), record_id)
        if record is None:
            raise errors.NotFound
        return Response(show_usage_detail(record))


class ModelList(APIView):
    """``GET /v1/models``."""

    needs = permissions.CALLS_MAKE

    @extend_schema(operation_id="list_models", responses={200: ModelListSerializer})
    def get(self, request: Request) -> Response:
        """The ids this key may call."""
        allowed = principal_of(request).models
        models = [model for model in catalog.offered() if not allowed or model.slug in allowed]
        return Response({"object": "list", "data": [show_model(model) for model in models]})


class BareModelList(ModelList):
    """``GET /models``, for clients whose base URL ends at the host."""

    @extend_schema(operation_id="list_models_bare", responses={200: ModelListSerializer})
    def get(self, request: Request) -> Response:
        """The same list."""
        return super().get(request)


class ModelDetail(APIView):
    """``GET /v1/models/{model}``."""

    needs = permissions.CALLS_MAKE

    @extend_schema(operation_id="get_model", responses={200: ModelSerializer, **failures(404)})
    def get(self, request: Request, model: str) -> Response:
        """One model that this key may call."""
        allowed = principal_of(request).models
        found = catalog.listing().find(model)
        if found is None or found.retired_at is not None or (allowed and found.slug not in allowed):
            raise errors.UnknownModel(f"No model with the id {model} is open to this key.", param="model")
        return Response(show_model(found))


class Catalog(APIView):
    """``GET /v1/models/catalog``."""

    def get_permissions(self) -> list[BasePermission]:
        """None where the operator opened the catalog to the public."""
        return [] if settings.CATALOG_PUBLIC else super().get_permissions()  # type: ignore[return-value]

    @extend_schema(
        operation_id="get_catalog",
        parameters=[
            _query("provider", "Exact provider name, any case"),
            _query("search", "Part of an id, name or provider, any case"),
        ],
        responses={200: CatalogSerializer},
    )
    def get(self, request: Request) -> Response:
        """The live catalog with today's rates."""
        provider = request.query_params.get("provider", "").casefold()
        search = request.query_params.get("search", "").casefold()
        listing, at = catalog.listing(), clock.now()
        models = [
            model
            for model in catalog.offered()
            if (not provider or model.provider.casefold() == provider)
            and (not search or any(search in text.casefold() for text in (model.slug, model.name, model.provider)))
        ]
        return Response({"object": "list", "data": [show_catalog_entry(model, listing, at) for model in models]})
