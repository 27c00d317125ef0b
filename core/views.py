"""Views of the ground: liveness, readiness, the OpenAPI document, and paths that do not exist."""

from functools import cache
from typing import Any

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import OpenApiResponse, extend_schema
from kombu import Connection
from kombu.exceptions import KombuError
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import errors
from core.http import JsonRenderer, error_body, error_headers
from core.openapi import ErrorSerializer


class HealthSerializer(serializers.Serializer[Any]):
    """What stands and what does not."""

    status = serializers.CharField()
    checks = serializers.DictField(child=serializers.CharField(), required=False)


class UnreadySerializer(HealthSerializer):
    """What is missing, in the envelope of every error."""

    error = ErrorSerializer()


class Open(APIView):
    """A view anyone may call."""

    authentication_classes = []
    permission_classes = []


class Alive(Open):
    """``GET /healthz``: the process answers."""

    @extend_schema(operation_id="healthz", responses={200: HealthSerializer}, auth=[])
    def get(self, request: Request) -> Response:
        """Always ok while the process lives."""
        return Response({"status": "ok"})


class Ready(Open):
    """``GET /readyz``: database, migrations and broker."""

    @extend_schema(
        operation_id="readyz",
        responses={200: HealthSerializer, 503: OpenApiResponse(UnreadySerializer, "Something is missing")},
        auth=[],
    )
    def get(self, request: Request) -> Response:
        """200 when all stand, else 503 and which do not."""
        checks = {"database": _database(), "broker": _broker()}
        if all(found == "ok" for found in checks.values()):
            return Response({"status": "ok", "checks": checks})
        error = errors.Unavailable()
        body = {"status": "unavailable", "checks": checks, **error_body(error)}
        return Response(body, status=error.status, headers=error_headers(error))


def _database() -> str:
    """Whether the database answers and every migration is applied."""
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Error as error:
        return f"unreachable ({type(error).__name__})"
    return f"{len(pending)} migrations to apply" if pending else "ok"


def _broker() -> str:
    """Whether the broker takes a connection within two seconds."""
    try:
        with Connection(settings.CELERY_BROKER_URL, connect_timeout=2) as broker:
            broker.ensure_connection(max_retries=1, timeout=2, interval_start=0)
    except (KombuError, OSError, ValueError) as error:
        return f"unreachable ({type(error).__name__})"
    return "ok"


class Nowhere(Open):
    """Any path that nothing else takes."""

    @extend_schema(exclude=True)
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """404 for every method."""
        raise errors.NotFound


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document. Making it takes a third of a second, which nobody may ask for again and again."""
    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


class OpenApiRenderer(JsonRenderer):
    """The document's own media type."""

    media_type = "application/vnd.oai.openapi+json"
    format = "openapi"


class Document(Open):
    """``GET /v1/openapi.json``."""

    renderer_classes = [JsonRenderer, OpenApiRenderer]

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        """The document, the same for everybody."""
        return Response(document())
