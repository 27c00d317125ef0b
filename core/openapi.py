"""The OpenAPI document: its view, and what every operation has in common."""

from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

from core import wire

ERRORS = {
    400: "Malformed body or parameter",
    401: "No valid credential",
    402: "No money",
    403: "Not allowed",
    404: "Nothing here",
    405: "Method not taken",
    406: "No acceptable representation",
    409: "Contradicts what is recorded",
    413: "Body too large",
    415: "Media type not taken",
    422: "Value not allowed",
    503: "Not now; send it again",
}


class ErrorSerializer(serializers.Serializer[Any]):
    """The inside of the error envelope."""

    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField(allow_null=True)
    category = serializers.CharField()


class ErrorEnvelopeSerializer(serializers.Serializer[Any]):
    """Contract 9.1."""

    error = ErrorSerializer()


def failures(*statuses: int) -> dict[int, OpenApiResponse]:
    """Responses of an operation that refuses with these statuses."""
    return {status: OpenApiResponse(ErrorEnvelopeSerializer, ERRORS[status]) for status in statuses}


class Number(serializers.Field[Any, Any, Any, Any]):
    """An exact decimal shown as a plain JSON number."""

    def to_representation(self, value: Any) -> Any:
        """Plain digits."""
        return wire.number(value)


class Schema(AutoSchema):
    """Adds what any authenticated operation may answer."""

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> Any:
        """The operation's own responses plus the common refusals.

        Not ``get_response_serializers``: ``extend_schema(responses=…)`` would replace that.
        """
        bodies = super()._get_response_bodies(direction)
        for status, refusal in failures(*((401, 403, 406) if self.get_auth() else (406,))).items():
            if str(status) not in bodies:
                body = self._get_response_for_code(refusal, str(status), direction=direction)  # type: ignore[no-untyped-call]
                bodies[str(status)] = body
        return bodies
