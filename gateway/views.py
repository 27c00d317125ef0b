"""The door's DRF views."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, PolymorphicProxySerializer, extend_schema
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import errors
from core.http import error_headers
from core.openapi import ERRORS, ErrorSerializer, failures
from gateway import authorizations, events
from gateway.compression import inflate
from gateway.events import Answer
from gateway.openapi import BODIES, LITELLM_BODIES
from gateway.serializers import (
    AuthorizationRequestSerializer,
    AuthorizationSerializer,
    KeyQuestionSerializer,
    VerifiedKeySerializer,
)
from metering.serializers import UsdNumber
from ops.idempotency import HEADER
from ops.views import once
from orgs import permissions
from orgs.authentication import principal_of


class Untouched(BaseParser):
    """Leaves the body to the view, which reads it itself."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """Nothing is parsed here."""
        raise errors.UnsupportedMediaType


class WalletBriefSerializer(serializers.Serializer[Any]):
    """A wallet as an answer to events tells it."""

    organization = serializers.CharField()
    balance_usd = UsdNumber()
    status = serializers.ChoiceField(["active", "low", "empty", "frozen"])


class EventErrorSerializer(serializers.Serializer[Any]):
    """One event's error inside a batch."""

    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField(allow_null=True)


class VerdictSerializer(serializers.Serializer[Any]):
    """One event's verdict."""

    event_id = serializers.CharField(allow_null=True)
    status = serializers.ChoiceField(["created", "duplicate", "quarantined", "conflict", "rejected", "failed"])
    usage_record_id = serializers.CharField(allow_null=True, required=False)
    cost_usd = UsdNumber(required=False)
    error = EventErrorSerializer(required=False)


class SingleSerializer(VerdictSerializer):
    """The answer to one bare event."""

    wallet = WalletBriefSerializer(required=False)


class RefusalSerializer(serializers.Serializer[Any]):
    """A refused body, or one event that was refused: the envelope, with the event's verdict beside it."""

    event_id = serializers.CharField(allow_null=True, required=False)
    status = serializers.CharField(required=False)
    wallet = WalletBriefSerializer(required=False)
    error = ErrorSerializer()


class BatchSerializer(serializers.Serializer[Any]):
    """The answer to a batch."""

    object = serializers.CharField()
    created = serializers.IntegerField()
    duplicates = serializers.IntegerField()
    quarantined = serializers.IntegerField()
    conflicts = serializers.IntegerField()
    rejected = serializers.IntegerField()
    failed = serializers.IntegerField()
    data = VerdictSerializer(many=True)  # type: ignore[assignment]
    wallets = WalletBriefSerializer(many=True)


_ANSWERS: dict[int, Any] = {
    200: PolymorphicProxySerializer(
        "EventsAnswer", serializers=[BatchSerializer, SingleSerializer], resource_type_field_name=None
    ),
    201: SingleSerializer,
    202: SingleSerializer,
    **{status: OpenApiResponse(RefusalSerializer, ERRORS[status]) for status in (409, 422, 503)},
    **failures(400, 413, 415),
}


class Events(APIView):
    """``POST /v1/events``: finished requests of a gateway."""

    kinds = permissions.SERVICE
    scope = permissions.EVENTS_WRITE
    organization_is_default = True
    parser_classes = [Untouched]

    @extend_schema(operation_id="post_events", request=BODIES, responses=_ANSWERS)
    def post(self, request: Request) -> Response:
        """Take events; each has its verdict, and what is ``created`` is already durable."""
        return _receive(request, events.receive)


class LiteLLMEvents(APIView):
    """``POST /v1/events/litellm``: what a LiteLLM proxy logs."""

    kinds = permissions.SERVICE
    scope = permissions.EVENTS_WRITE
    organization_is_default = True
    parser_classes = [Untouched]

    @extend_schema(
        operation_id="post_litellm_events",
        summary="Finished requests of a LiteLLM proxy, as its generic_api callback sends them",
        request=LITELLM_BODIES,
        responses=_ANSWERS,
    )
    def post(self, request: Request) -> Response:
        """Take a proxy's log; each call in it has its verdict, and what is ``created`` is already durable."""
        return _receive(request, events.receive_litellm)


class VoidSerializer(serializers.Serializer[Any]):
    """Why, and for whom if the header does not say."""

    reason = serializers.CharField(max_length=500)
    organization = serializers.CharField(required=False, help_text="The slug, if X-DeepToken-Org is not sent")


class VoidedSerializer(serializers.Serializer[Any]):
    """What a void came to."""

    object = serializers.ChoiceField(["event_void"])
    event_id = serializers.CharField()
    status = serializers.ChoiceField(["voided"])
    usage_record_id = serializers.CharField(allow_null=True, help_text="The record that takes the charge back")
    corrects = serializers.CharField(allow_null=True, help_text="The record that was wrong")
    cost_usd = UsdNumber()
    wallet = WalletBriefSerializer()


class Void(APIView):
    """``POST /v1/events/{event_id}/void``."""

    kinds = permissions.SERVICE
    scope = permissions.EVENTS_WRITE
    organization_is_default = True

    @extend_schema(
        operation_id="void_event",
        request=VoidSerializer,
        responses={
            200: OpenApiResponse(VoidedSerializer, "Voided before: the first answer again"),
            201: VoidedSerializer,
            **failures(400, 404, 409, 413, 415, 422),
        },
    )
    def post(self, request: Request, event_id: str) -> Response:
        """Take an event's charge back, once; the first record stays and a second one corrects it."""
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        status, told = events.void(event_id, body, reporter=principal_of(request))
        return Response(told, status=status)


# An authorization sent again is the same hold.
_ONCE = OpenApiParameter(HEADER, str, OpenApiParameter.HEADER, description="A request with the same key is done once")


class Authorizations(APIView):
    """``POST /v1/authorizations``."""

    kinds = permissions.SERVICE
    scope = permissions.AUTHORIZATIONS_WRITE
    organization_is_default = True

    @extend_schema(
        operation_id="create_authorization",
        summary="May this request be made? Sets aside what it may cost",
        parameters=[_ONCE],
        request=AuthorizationRequestSerializer,
        responses={201: AuthorizationSerializer, **failures(400, 402, 403, 409, 413, 415, 422, 503)},
    )
    def post(self, request: Request) -> HttpResponse:
        """The hold. Refusals carry the statuses and codes that the customer is to be answered with."""
        asker = principal_of(request)
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        admission = authorizations.admit(body, asker=asker)
        owner = admission.customer.organization

        def place() -> tuple[int, object]:
            return 201, authorizations.place(admission, asker=asker)

        return once(request, organization_id=owner.id, organization_slug=owner.slug, work=place, required=False)


class Authorization(APIView):
    """``GET /v1/authorizations/{id}``."""

    kinds = permissions.SERVICE
    scope = permissions.AUTHORIZATIONS_WRITE

    @extend_schema(
        operation_id="get_authorization",
        summary="An authorization of the organization that X-DeepToken-Org names",
        responses={200: AuthorizationSerializer, **failures(400, 404)},
    )
    def get(self, request: Request, authorization_id: str) -> Response:
        """How it stands."""
        return Response(authorizations.find(authorization_id, owner=authorizations.named(principal_of(request))))


class Release(APIView):
    """``POST /v1/authorizations/{id}/release``."""

    kinds = permissions.SERVICE
    scope = permissions.AUTHORIZATIONS_WRITE

    @extend_schema(
        operation_id="release_authorization",
        summary="Give an authorization up; one that has ended stays as it ended",
        parameters=[_ONCE],
        request=None,
        responses={200: AuthorizationSerializer, **failures(400, 404, 409, 413, 415, 422, 503)},
    )
    def post(self, request: Request, authorization_id: str) -> HttpResponse:
        """How it stands now."""
        owner = authorizations.named(principal_of(request))

        def release() -> tuple[int, object]:
            return 200, authorizations.release(authorization_id, owner=owner)

        return once(request, organization_id=owner.id, organization_slug=owner.slug, work=release, required=False)


class KeyCheck(APIView):
    """``POST /v1/keys/verify``."""

    kinds = permissions.SERVICE
    scope = permissions.AUTHORIZATIONS_WRITE
    organization_is_default = True

    @extend_schema(
        operation_id="verify_key",
        summary="Who a customer's key is, without a hold; an empty wallet is told, not refused",
        request=KeyQuestionSerializer,
        responses={200: VerifiedKeySerializer, **failures(400, 403, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Whose the key is, what it may call, and how its wallet stands."""
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        answer = Response(authorizations.verify(body, asker=principal_of(request)))
        # Ours to say how long it holds (cache_seconds), not any cache's on the way.
        answer["Cache-Control"] = "no-store"
        return answer


def _receive(request: Request, take: Callable[..., Answer]) -> Response:
    """What a verb of ``gateway.events`` answers to a body."""
    raw = inflate(
        _body(request),
        encoding=request.headers.get("Content-Encoding", "").strip().lower(),
        limit=settings.BODY_BYTES_MAX,
    )
    media_type = (request.content_type or "application/json").split(";")[0].strip().lower()
    answer = take(raw, media_type=media_type, reporter=principal_of(request))
    headers = error_headers(answer.error) if answer.error else None
    return Response(answer.body, status=answer.status, headers=headers)


def _body(request: Request) -> bytes:
    """The raw body, refused by its declared length before a byte of it is read."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > settings.BODY_BYTES_MAX:
        raise errors.RequestTooLarge(f"A body has at most {settings.BODY_BYTES_MAX} bytes.")
    return request._request.body
