"""The OpenAPI document: its view, and what every operation has in common."""

from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
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
CATEGORIES = ["platform_error", "upstream_error", "quota_error", "user_error"]
_PROBLEM = "application/problem+json"


class ErrorSerializer(serializers.Serializer[Any]):
    """The inside of the error envelope."""

    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField(allow_null=True)
    category = serializers.ChoiceField(CATEGORIES)


class ProblemSerializer(serializers.Serializer[Any]):
    """The same as problem details (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField()
    code = serializers.CharField()


class ErrorEnvelopeSerializer(serializers.Serializer[Any]):
    """Every error, unless problem details are asked for."""

    error = ErrorSerializer()


def failures(*statuses: int) -> dict[int, OpenApiResponse]:
    """Responses of an operation that refuses with these statuses."""
    return {status: OpenApiResponse(ErrorEnvelopeSerializer, ERRORS[status]) for status in statuses}


class Number(serializers.Field[Any, Any, Any, Any]):
    """An exact decimal shown as a plain JSON number."""

    def to_representation(self, value: Any) -> Any:
        """Plain digits."""
        return wire.number(value)


ORGANIZATION = OpenApiParameter(
    "X-DeepToken-Org", str, OpenApiParameter.HEADER, description="Slug of the organization to speak for"
)
_HEADERS: dict[str, Any] = {
    "x-request-id": {"description": "Id of this request", "required": True, "schema": {"type": "string"}},
    "deepailab-processing-ms": {"required": True, "schema": {"type": "integer"}},
    "deepailab-version": {"description": "Version of the API", "required": True, "schema": {"type": "string"}},
}
_CHARGED = {"description": "Slug of the organization charged; absent for a personal call", "schema": {"type": "string"}}
_CATEGORY = {"required": True, "schema": {"type": "string", "enum": CATEGORIES}}
_RETRY_AFTER = {"description": "Seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}


class Schema(AutoSchema):
    """Adds what any operation has: the organization's header, common refusals, headers of every answer."""

    def get_override_parameters(self) -> list[Any]:
        """The operation's own parameters and, where there is a credential, for whom it speaks."""
        own: list[Any] = super().get_override_parameters()
        return [ORGANIZATION, *own] if self.get_auth() else own

    def _get_request_body(self, direction: Literal["request", "response"] = "request") -> Any:
        """The operation's body; where there is one, it must be sent."""
        body: Any = super()._get_request_body(direction)  # type: ignore[no-untyped-call]
        return body and {**body, "required": True}

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> Any:
        """The operation's own responses plus the common refusals.

        Not ``get_response_serializers``: ``extend_schema(responses=…)`` would replace that.
        """
        bodies = super()._get_response_bodies(direction)
        keyed = bool(self.get_auth())
        for common, refusal in failures(*((401, 403, 406, 503) if keyed else (406,))).items():
            bodies.setdefault(str(common), self._body(refusal, str(common)))
        for status, body in bodies.items():
            body["headers"] = {**_HEADERS, **({"deepailab-organization": _CHARGED} if keyed else {})}
            if int(status) >= 400:
                problem = self._body(OpenApiResponse(ProblemSerializer), status, _PROBLEM)["content"]
                body["content"] = {"application/json": body["content"]["application/json"], **problem}
                body["headers"]["X-Gateway-Error-Category"] = _CATEGORY
            if status == "503":
                body["headers"]["Retry-After"] = _RETRY_AFTER
        return bodies

    def _body(self, response: OpenApiResponse, status: str, *media_types: str) -> Any:
        """One response object."""
        return self._get_response_for_code(response, status, list(media_types) or None)  # type: ignore[no-untyped-call]


def tidy(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Take out what the generator notes for its own hooks (``POSTPROCESSING_HOOKS``)."""
    _forget(result)
    return result


def _forget(part: Any) -> None:
    if isinstance(part, dict):
        part.pop("x-spec-enum-id", None)
    if isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            _forget(inner)
