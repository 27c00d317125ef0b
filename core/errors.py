"""Every error an answer can carry, in one tree.

* ``ApiError``
    * ``InvalidRequest`` 400: ``InvalidJson``, ``InvalidType``, ``MissingParameter``, ``ModelNotFound``,
      ``InvalidCursor``, ``UnsupportedParameter``
    * ``InvalidApiKey`` 401
    * ``InsufficientQuota`` 402: ``OrgWalletEmpty``, ``BudgetExceeded`` 403
    * ``PermissionDenied`` 403: ``ModelNotAllowed``, ``IpNotAllowed``, ``OrgAccessDenied``, ``ScopeMissing``
    * ``NotFound`` 404: ``UnknownModel``, ``Archived``
    * ``MethodNotAllowed`` 405
    * ``NotAcceptable`` 406
    * ``Conflict`` 409: ``IdempotencyKeyInUse``, ``ReplayUnavailable``
    * ``LengthRequired`` 411
    * ``RequestTooLarge`` 413: ``TooManyEvents``
    * ``UnsupportedMediaType`` 415
    * ``OutOfRange`` 422: ``InconsistentUsage``, ``TooManyStops``
    * ``IdempotencyKeyReused`` 422
    * ``RateLimited`` 429
    * ``InternalError`` 500
    * ``UpstreamError`` 502: ``UpstreamDisconnected``
    * ``Unavailable`` 503: ``NoAvailableChannel``
    * ``UpstreamTimeout`` 504

Each class carries its status, code, family (``type``) and category as contract 9.2 lists them;
an instance adds the message, the parameter it is about and any headers. Bugs are not in the
tree: they are asserts and surface as ``InternalError``.
"""

from typing import ClassVar


class ApiError(Exception):
    """A refusal with a place in contract 9.2. ``str()`` is the message a person reads."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "api_error"
    category: ClassVar[str] = "platform_error"
    default: ClassVar[str] = "The request failed on our side."

    def __init__(self, message: str = "", *, param: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message or self.default)
        self.param = param
        self.headers = headers or {}


class InvalidRequest(ApiError):
    """The body or a parameter is malformed."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"
    category = "user_error"
    default = "The request is malformed."


class InvalidJson(InvalidRequest):
    """The body is not the JSON it should be."""

    code = "invalid_json"
    default = "The body is not valid JSON."


class InvalidType(InvalidRequest):
    """A field has the wrong JSON type."""

    code = "invalid_type"


class MissingParameter(InvalidRequest):
    """A required field is absent."""

    code = "missing_required_parameter"


class ModelNotFound(InvalidRequest):
    """No model with that id is in the catalog."""

    code = "model_not_found"


class InvalidCursor(InvalidRequest):
    """``after`` names nothing in the caller's scope; one message for foreign and made-up ids."""

    code = "invalid_cursor"
    default = "after is not the id of a record in this list."


class UnsupportedParameter(InvalidRequest):
    """A field that means something that is not done here; to drop it would change what was asked."""

    code = "unsupported_parameter"


class InvalidApiKey(ApiError):
    """No valid credential."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"
    category = "user_error"
    default = "The API key is missing, malformed, revoked or unknown."


class InsufficientQuota(ApiError):
    """No money left for this."""

    status = 402
    code = "insufficient_quota"
    type = "insufficient_quota"
    category = "quota_error"
    default = "The account has no credit left for this request."


class OrgWalletEmpty(InsufficientQuota):
    """A strict organization's wallet is empty."""

    code = "org_wallet_empty"


class PermissionDenied(ApiError):
    """The credential is good, the act is not allowed."""

    status = 403
    code = "permission_denied"
    type = "permission_error"
    category = "user_error"
    default = "This key may not do that."


class BudgetExceeded(InsufficientQuota):
    """A ceiling of the key, the member, the project or the organization is reached."""

    status = 403
    code = "budget_limit_exceeded"
    default = "A budget limit is reached."


class ScopeMissing(PermissionDenied):
    """The key lacks a scope or its owner's role a permission."""

    code = "scope_missing"


class ModelNotAllowed(PermissionDenied):
    """A real model, not for this key."""

    code = "model_not_allowed"


class IpNotAllowed(PermissionDenied):
    """The client's address is outside the key's list."""

    code = "ip_not_allowed"
    default = "This key may not be used from this address."


class OrgAccessDenied(PermissionDenied):
    """Not a member, or no such organization: one answer for both."""

    code = "org_access_denied"
    default = "No organization with that slug is open to this key."


class NotFound(ApiError):
    """No such path or object."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"
    category = "user_error"
    default = "There is nothing here."


class UnknownModel(NotFound):
    """``GET /v1/models/{model}`` names none."""

    code = "model_not_found"


class Archived(NotFound):
    """What was there is kept elsewhere by now."""

    code = "archived"


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"
    category = "user_error"
    default = "This path does not take that method."


class NotAcceptable(ApiError):
    """No representation fits the ``Accept`` header."""

    status = 406
    code = "not_acceptable"
    type = "invalid_request_error"
    category = "user_error"
    default = "This path cannot answer in any of the accepted media types."


class Conflict(ApiError):
    """The request contradicts what is already recorded."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"
    category = "user_error"
    default = "This id was used with other content."


class IdempotencyKeyInUse(Conflict):
    """The first request with this key is still being worked on; the same request may be sent again."""

    code = "idempotency_key_in_use"
    type = "idempotency_error"
    default = "The first request with this Idempotency-Key is still running."


class ReplayUnavailable(Conflict):
    """A model call with this key has been made; answers are not kept, so it cannot be repeated."""

    code = "replay_unavailable"
    type = "idempotency_error"
    default = "The call with this Idempotency-Key has ended, and answers are not kept."


class LengthRequired(ApiError):
    """The body comes in chunks of which nobody says how much they are together."""

    status = 411
    code = "length_required"
    type = "invalid_request_error"
    category = "user_error"
    default = "The body needs a Content-Length; chunks without one are not taken."


class RequestTooLarge(ApiError):
    """The body is over its limit."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"
    category = "user_error"
    default = "The request body is too large."


class TooManyEvents(RequestTooLarge):
    """A batch holds more events than one request may."""

    code = "too_many_events"


class UnsupportedMediaType(ApiError):
    """The body's media type or encoding is not taken."""

    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"
    category = "user_error"
    default = "This media type is not taken here."


class OutOfRange(ApiError):
    """The right type, a value that is not allowed."""

    status = 422
    code = "value_out_of_range"
    type = "invalid_request_error"
    category = "user_error"


class InconsistentUsage(OutOfRange):
    """Parts exceed their whole, or pools do not add up to the totals."""

    code = "inconsistent_usage"


class TooManyStops(OutOfRange):
    """More stop sequences than the model takes."""

    code = "too_many_stop_sequences"


class IdempotencyKeyReused(ApiError):
    """The key stands for another request."""

    status = 422
    code = "idempotency_key_reused"
    type = "idempotency_error"
    category = "user_error"
    default = "This Idempotency-Key was used with a different request."


class RateLimited(ApiError):
    """Too much at once or in a minute; there is room again after ``Retry-After``."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    category = "user_error"
    default = "Too many requests."


class InternalError(ApiError):
    """A fault of ours."""


class Unavailable(ApiError):
    """Could not be done now; the same request may be sent again."""

    status = 503
    code = "unavailable"
    default = "The service cannot do this right now; send it again."


class NoAvailableChannel(Unavailable):
    """Nobody who serves the model can be asked right now."""

    code = "no_available_channel"


class UpstreamError(ApiError):
    """The provider failed, and so did whoever was asked instead."""

    status = 502
    code = "upstream_error"
    category = "upstream_error"
    default = "The upstream provider failed to answer this request."


class UpstreamDisconnected(UpstreamError):
    """The provider ended an answer before it was whole."""

    code = "upstream_disconnected"
    default = "The upstream provider closed the stream before it finished."


class UpstreamTimeout(ApiError):
    """The provider did not answer in time."""

    status = 504
    code = "upstream_timeout"
    category = "upstream_error"
    default = "The upstream provider did not answer in time."
