"""Keys over HTTP."""

from typing import Any, cast

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import ids, lists
from core.openapi import failures
from orgs import keyring, permissions
from orgs.authentication import principal_of
from orgs.keys import IssuedKey
from orgs.serializers import (
    DeletedKeySerializer,
    IssuedKeySerializer,
    KeyListSerializer,
    KeySerializer,
    NewKeySerializer,
    read_wish,
)

KEY_ID = OpenApiParameter("key_id", str, OpenApiParameter.PATH, description="The id of a key, key_…")


class Keys(APIView):
    """``GET`` and ``POST /v1/keys``."""

    needs = permissions.KEYS_MANAGE

    @extend_schema(
        operation_id="list_keys",
        summary="Keys of the organization, newest first",
        parameters=[
            OpenApiParameter(
                "limit", {"type": "integer", "minimum": 1, "maximum": lists.LIMIT_MAX, "default": lists.LIMIT_DEFAULT}
            ),
            OpenApiParameter("after", str, description="The id of the last key of the page before."),
        ],
        responses={200: KeyListSerializer, **failures(400, 422)},
    )
    def get(self, request: Request) -> Response:
        """A page of keys."""
        found, has_more = keyring.page(
            principal=principal_of(request),
            limit=lists.limit(request),
            after=lists.after(request),
        )
        return Response(lists.page([KeySerializer(key).data for key in found], has_more=has_more))

    @extend_schema(
        operation_id="create_key",
        summary="Make a key; its secret is in this answer only",
        request=NewKeySerializer,
        responses={201: IssuedKeySerializer, **failures(400, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """A new key with its secret."""
        issued = keyring.issue(principal=principal_of(request), wish=read_wish(cast(dict[str, Any], request.data)))
        return _answer(issued, status=201)


class Key(APIView):
    """``DELETE /v1/keys/{id}``."""

    needs = permissions.KEYS_MANAGE

    @extend_schema(
        operation_id="delete_key",
        summary="Delete a key; it stops at once, its usage stays",
        parameters=[KEY_ID],
        responses={200: DeletedKeySerializer, **failures(404)},
    )
    def delete(self, request: Request, key_id: str) -> Response:
        """What is left of the key."""
        key = keyring.delete(principal=principal_of(request), key_id=key_id)
        return Response({"id": ids.show("key", key.pk), "object": "api_key.deleted", "deleted": True})


class Rotation(APIView):
    """``POST /v1/keys/{id}/rotate``."""

    needs = permissions.KEYS_MANAGE

    @extend_schema(
        operation_id="rotate_key",
        summary="Replace a key's secret; the old one stops at once",
        parameters=[KEY_ID],
        request=None,
        responses={200: IssuedKeySerializer, **failures(400, 404, 409, 413, 415)},
    )
    def post(self, request: Request, key_id: str) -> Response:
        """The key with its new secret."""
        # A body says nothing here, but it is read as strictly as any other.
        request.data  # noqa: B018
        return _answer(keyring.rotate(principal=principal_of(request), key_id=key_id), status=200)


def _answer(issued: IssuedKey, *, status: int) -> Response:
    answer = Response(IssuedKeySerializer(issued.key, context={"secret": issued.secret}).data, status=status)
    # A secret must not stay in anybody's cache.
    answer["Cache-Control"] = "no-store"
    return answer
