"""Webhook endpoints over HTTP.

Answers with a secret in them do not pass through ``ops.views.once``: it would keep them. Making an
endpoint twice does no harm, and there are ten at most.
"""

from typing import Any, cast
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import ids, lists
from core.openapi import failures
from ops import deliveries, endpoints
from ops.endpoints import Issued
from ops.models import WebhookEndpoint
from ops.serializers import (
    DeletedEndpointSerializer,
    DeliveryListSerializer,
    DeliverySerializer,
    EndpointChangeSerializer,
    EndpointListSerializer,
    EndpointSerializer,
    IssuedEndpointSerializer,
    NewEndpointSerializer,
    read_change,
)
from orgs import permissions
from orgs.authentication import principal_of

ENDPOINT_ID = OpenApiParameter("endpoint_id", str, OpenApiParameter.PATH, description="The id of an endpoint, we_…")
DELIVERY_ID = OpenApiParameter("delivery_id", str, OpenApiParameter.PATH, description="The id of a delivery, wd_…")


class Endpoints(APIView):
    """``GET`` and ``POST /v1/webhook_endpoints``."""

    needs = permissions.WEBHOOKS_MANAGE

    @extend_schema(
        operation_id="list_webhook_endpoints",
        summary="Where the organization is told what happens, newest first",
        responses={200: EndpointListSerializer},
    )
    def get(self, request: Request) -> Response:
        """All of them: there are ten at most."""
        found = endpoints.of(_organization(request))
        return Response(lists.page([EndpointSerializer(row).data for row in found], has_more=False))

    @extend_schema(
        operation_id="create_webhook_endpoint",
        summary="Make an endpoint; its secret is in this answer only",
        request=NewEndpointSerializer,
        responses={201: IssuedEndpointSerializer, **failures(400, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """A new endpoint with its secret."""
        wish = read_change(_body(request), new=True)
        assert wish.url is not None
        issued = endpoints.create(
            organization_id=_organization(request), url=wish.url, kinds=wish.kinds or (), by=principal_of(request).actor
        )
        return _issued(issued, status=201)


class Endpoint(APIView):
    """``GET``, ``PATCH`` and ``DELETE /v1/webhook_endpoints/{id}``."""

    needs = permissions.WEBHOOKS_MANAGE

    @extend_schema(
        operation_id="get_webhook_endpoint",
        summary="An endpoint",
        parameters=[ENDPOINT_ID],
        responses={200: EndpointSerializer, **failures(404)},
    )
    def get(self, request: Request, endpoint_id: str) -> Response:
        """As it is."""
        return Response(EndpointSerializer(_find(request, endpoint_id)).data)

    @extend_schema(
        operation_id="change_webhook_endpoint",
        summary="Change an endpoint, switch it off or on",
        parameters=[ENDPOINT_ID],
        request=EndpointChangeSerializer,
        responses={200: EndpointSerializer, **failures(400, 404, 413, 415, 422)},
    )
    def patch(self, request: Request, endpoint_id: str) -> Response:
        """As it is now."""
        wish = read_change(_body(request), new=False)
        found = _find(request, endpoint_id)
        changed = endpoints.change(**_named(request, found), url=wish.url, kinds=wish.kinds, enabled=wish.enabled)
        return Response(EndpointSerializer(changed).data)

    @extend_schema(
        operation_id="delete_webhook_endpoint",
        summary="Delete an endpoint; nothing more is sent there",
        parameters=[ENDPOINT_ID],
        responses={200: DeletedEndpointSerializer, **failures(404)},
    )
    def delete(self, request: Request, endpoint_id: str) -> Response:
        """What is left of it."""
        found = _find(request, endpoint_id)
        endpoints.delete(**_named(request, found))
        return Response({"id": ids.show("we", found.pk), "object": "webhook_endpoint.deleted", "deleted": True})


class SecretRotation(APIView):
    """``POST /v1/webhook_endpoints/{id}/rotate_secret``."""

    needs = permissions.WEBHOOKS_MANAGE

    @extend_schema(
        operation_id="rotate_webhook_secret",
        summary="Replace an endpoint's secret; the old one signs as well for a day",
        parameters=[ENDPOINT_ID],
        request=None,
        responses={200: IssuedEndpointSerializer, **failures(400, 404, 413, 415)},
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """The endpoint with its new secret."""
        _read_nothing(request)
        return _issued(endpoints.rotate(**_named(request, _find(request, endpoint_id))), status=200)


class Test(APIView):
    """``POST /v1/webhook_endpoints/{id}/test``."""

    needs = permissions.WEBHOOKS_MANAGE

    @extend_schema(
        operation_id="test_webhook_endpoint",
        summary="Send an endpoint a ping",
        parameters=[ENDPOINT_ID],
        request=None,
        responses={200: DeliverySerializer, **failures(400, 404, 409, 413, 415)},
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """The delivery, which is on its way."""
        _read_nothing(request)
        made = deliveries.ping(endpoint=_find(request, endpoint_id), by=principal_of(request).actor)
        return Response(DeliverySerializer(made).data)


class Deliveries(APIView):
    """``GET /v1/webhook_endpoints/{id}/deliveries``."""

    needs = permissions.WEBHOOKS_MANAGE

    @extend_schema(
        operation_id="list_webhook_deliveries",
        summary="What was sent to an endpoint or is on its way, newest first; kept for 30 days",
        parameters=[
            ENDPOINT_ID,
            OpenApiParameter(
                "limit", {"type": "integer", "minimum": 1, "maximum": lists.LIMIT_MAX, "default": lists.LIMIT_DEFAULT}
            ),
            OpenApiParameter("after", str, description="The id of the last delivery of the page before."),
        ],
        responses={200: DeliveryListSerializer, **failures(400, 404, 422)},
    )
    def get(self, request: Request, endpoint_id: str) -> Response:
        """A page of them."""
        limit, after = lists.limit(request), lists.after(request)
        found, has_more = deliveries.page(endpoint=_find(request, endpoint_id), limit=limit, after=after)
        return Response(lists.page([DeliverySerializer(row).data for row in found], has_more=has_more))


class Redelivery(APIView):
    """``POST /v1/webhook_endpoints/{id}/deliveries/{id}/redeliver``."""

    needs = permissions.WEBHOOKS_MANAGE

    @extend_schema(
        operation_id="redeliver_webhook",
        summary="Send a message again now, under the same id",
        parameters=[ENDPOINT_ID, DELIVERY_ID],
        request=None,
        responses={200: DeliverySerializer, **failures(400, 404, 409, 413, 415)},
    )
    def post(self, request: Request, endpoint_id: str, delivery_id: str) -> Response:
        """The delivery, which is on its way again."""
        _read_nothing(request)
        found = deliveries.find(endpoint=_find(request, endpoint_id), shown=delivery_id)
        again = deliveries.redeliver(delivery=found, by=principal_of(request).actor)
        return Response(DeliverySerializer(again).data)


def _organization(request: Request) -> UUID:
    organization_id = principal_of(request).organization_id
    assert organization_id is not None, "a customer's key has an organization"
    return organization_id


def _find(request: Request, endpoint_id: str) -> WebhookEndpoint:
    return endpoints.find(organization_id=_organization(request), shown=endpoint_id)


def _named(request: Request, endpoint: WebhookEndpoint) -> dict[str, Any]:
    """Whose, which, by whom."""
    return {
        "organization_id": endpoint.organization_id, "endpoint_id": endpoint.pk, "by": principal_of(request).actor,
    }  # fmt: skip


def _body(request: Request) -> dict[str, Any]:
    return cast(dict[str, Any], request.data)


def _read_nothing(request: Request) -> None:
    """A body says nothing here, but it is read as strictly as any other."""
    request.data  # noqa: B018


def _issued(issued: Issued, *, status: int) -> Response:
    answer = Response(IssuedEndpointSerializer(issued.endpoint, context={"secret": issued.secret}).data, status=status)
    # A secret must not stay in anybody's cache.
    answer["Cache-Control"] = "no-store"
    return answer
