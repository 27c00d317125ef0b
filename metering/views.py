"""Metering's doors: usage and the catalog."""

from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import clock, errors, lists
from core.http import JsonRenderer
from core.openapi import failures
from metering import catalog, usage, usage_pages
from metering.models import UsageRecord
from metering.serializers import (
    CatalogSerializer,
    ModelListSerializer,
    ModelSerializer,
    UsageDetailSerializer,
    UsagePageSerializer,
    show_catalog_entry,
    show_model,
    show_usage_detail,
)
from orgs import organizations, permissions
from orgs.authentication import principal_of
from orgs.principals import Principal


def _query(name: str, description: str, kind: Any = OpenApiTypes.STR, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=description, **more)


PAGING = [
    _query("limit", "1 to 100, 20 if absent", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    _query("after", "Id of the last item of the previous page"),
]


def visible(principal: Principal) -> QuerySet[UsageRecord]:
    """The records that a caller may see: all of the organization's, or only their own."""
    scope = usage_pages.scope_of(principal)
    return usage.for_caller(scope.organization_id, member_id=scope.member_id)


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
        principal, params = principal_of(request), dict(request.query_params.lists())
        if lists.wants_csv(request):
            return lists.csv_answer(
                "usage", usage_pages.COLUMNS, usage_pages.export(principal=principal, params=params)
            )
        return HttpResponse(usage_pages.answer(principal=principal, params=params), content_type="application/json")


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
            raise errors.NotFound("No usage record with that id is open to this key.", param="record_id")
        return Response(show_usage_detail(record))


def _group(principal: Principal) -> str:
    """The price group of the organization that a caller speaks for; nobody's is the shared one."""
    if principal.organization_id is None:
        return ""
    return organizations.find_ids([principal.organization_id])[principal.organization_id].price_group


class ModelList(APIView):
    """``GET /v1/models``."""

    needs = permissions.CALLS_MAKE

    @extend_schema(operation_id="list_models", responses={200: ModelListSerializer})
    def get(self, request: Request) -> Response:
        """The ids this key may call."""
        principal = principal_of(request)
        allowed = principal.models
        models = [model for model in catalog.offered(group=_group(principal)) if catalog.allows(allowed, model)]
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
        principal = principal_of(request)
        allowed = principal.models
        found = catalog.listing().find(model)
        is_open = found is not None and catalog.is_offered(found, group=_group(principal))
        if found is None or not is_open or not catalog.allows(allowed, found):
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
