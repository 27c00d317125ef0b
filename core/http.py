"""The door's frame: what every answer carries, how errors look, how JSON goes in and out.

``Envelope`` is the outermost middleware, so a 404, a refused host or a crash gets the same
envelope and headers (contract 2.2 and 9.1) as an answer of ours.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import Error as DatabaseError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework import exceptions as drf
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.response import Response

from core import errors, ids, wire
from core.transactions import QUERY_CANCELED, RETRYABLE, is_outage, sqlstate

log = logging.getLogger(__name__)

# A client's own correlation id is echoed only if it is tame enough for a header and a log line.
_CORRELATION = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Pages for people: what Django shows there stays HTML.
_PAGES = re.compile(r"/(?:admin|portal|static)/|/(?:docs)?\Z")
PROBLEM = "application/problem+json"
_BY_STATUS: dict[int, type[errors.ApiError]] = {
    400: errors.InvalidRequest,
    401: errors.InvalidApiKey,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    406: errors.NotAcceptable,
    411: errors.LengthRequired,
    413: errors.RequestTooLarge,
    415: errors.UnsupportedMediaType,
    503: errors.Unavailable,
}
# How much of an unread body is read after all, and by how many requests of a process at once: slow senders must
# not hold every thread.
_DRAIN_BYTES_MAX = 64 * 1024 * 1024
_DRAIN_CHUNK = 64 * 1024
_draining = threading.BoundedSemaphore(4)
# The OpenAI SDK repeats a 409 by itself unless told that it cannot help (contract 9.3).
_NOT_AGAIN = frozenset({402, 403, 409, 502, 504})


def correlation(offered: str) -> str:
    """The id of a request: the client's own if it can be echoed, else a new one."""
    return offered if _CORRELATION.fullmatch(offered) else ids.show("req", ids.new())


def request_id(request: HttpRequest) -> str:
    """The id of this request, made on first sight."""
    known: str | None = getattr(request, "tollbook_request_id", None)
    if known is None:
        known = correlation(request.headers.get("X-Request-Id", ""))
        request.tollbook_request_id = known  # type: ignore[attr-defined]
    return known


def error_body(error: errors.ApiError) -> dict[str, Any]:
    """The envelope of contract 9.1."""
    return {
        "error": {
            "message": str(error),
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "category": error.category,
        }
    }


class Refusal(NamedTuple):
    """A refusal on the wire, whatever serves it."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


def refusal(error: errors.ApiError, *, accept: str, correlation: str) -> Refusal:
    """The envelope, or RFC 9457 for clients whose ``Accept`` asks for only that."""
    headers = error_headers(error)
    accept = accept.lower()
    if PROBLEM not in accept or "application/json" in accept:
        return Refusal(error.status, "application/json", wire.encode(error_body(error)), headers)
    code = error.code
    problem = {
        "type": f"urn:tollbook:problem:{code.replace('_', '-')}",
        "title": code.replace("_", " ").capitalize(),
        "status": error.status,
        "detail": str(error),
        "instance": f"/requests/{correlation}",
        "code": code,
    }
    return Refusal(error.status, PROBLEM, wire.encode(problem), headers)


def render_error(request: HttpRequest, error: errors.ApiError) -> HttpResponse:
    """The answer for a refusal."""
    told = refusal(error, accept=request.headers.get("Accept", ""), correlation=request_id(request))
    return HttpResponse(told.body, status=told.status, content_type=told.content_type, headers=told.headers)


def error_headers(error: errors.ApiError) -> dict[str, str]:
    """The headers that go with a refusal."""
    headers = {"X-Gateway-Error-Category": error.category, **error.headers}
    if error.status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    if error.status == 503 or isinstance(error, errors.IdempotencyKeyInUse):
        headers.setdefault("Retry-After", "1")
    elif error.status in _NOT_AGAIN:
        headers.setdefault("x-should-retry", "false")
    return headers


def from_exception(exception: BaseException) -> errors.ApiError:
    """The tree's member for whatever was raised; anything unforeseen is logged and a 500."""
    if isinstance(exception, errors.ApiError):
        return exception
    if isinstance(exception, drf.APIException):
        return _of_status(exception.status_code)
    if isinstance(exception, Http404):
        return errors.NotFound()
    if isinstance(exception, DjangoPermissionDenied):
        return errors.PermissionDenied()
    if isinstance(exception, RequestDataTooBig):
        return errors.RequestTooLarge()
    if isinstance(exception, SuspiciousOperation):
        return errors.InvalidRequest()
    if isinstance(exception, DatabaseError) and (passing := _passing(exception)):
        log.warning("database refused for now: %s", passing)
        return errors.Unavailable()
    log.error("unforeseen failure", exc_info=exception)
    return errors.InternalError()


def _drain(request: HttpRequest) -> None:
    """Read and drop what nobody read of the body.

    The server closes a connection with unread bytes in it, and a sender who is cut off never sees
    the answer: a refused batch of 5 MB would look like a network failure and be sent again.
    """
    stream = getattr(request, "_stream", None)
    # A sender who asks first has sent nothing yet.
    if stream is None or hasattr(request, "_body") or request.META.get("CONTENT_LENGTH") in {None, "", "0"}:
        return
    if "HTTP_EXPECT" in request.META or not _draining.acquire(blocking=False):
        return
    try:
        left = _DRAIN_BYTES_MAX
        while left > 0 and (part := stream.read(min(left, _DRAIN_CHUNK))):
            left -= len(part)
    except OSError:
        log.debug("the sender of an unread body is gone")
    finally:
        _draining.release()


def _of_status(status: int) -> errors.ApiError:
    """The member for an error of which only the status is known."""
    return _BY_STATUS.get(status, errors.InvalidRequest if 400 <= status < 500 else errors.InternalError)()


def _passing(exception: DatabaseError) -> str | None:
    """Why a database error is one that the same request may survive later, if it is."""
    state = sqlstate(exception)
    if state in RETRYABLE or state == QUERY_CANCELED or is_outage(exception):
        return state or type(exception).__name__
    return None


def answer_exception(exception: Exception, context: Mapping[str, Any]) -> Response:
    """Hand DRF's exceptions to ``Envelope``, which renders every error of the product."""
    if isinstance(exception, drf.MethodNotAllowed):
        # RFC 9110, 15.5.6: a 405 lists what the path takes.
        taken = [method for method in context["view"].allowed_methods if method != "OPTIONS"]
        raise errors.MethodNotAllowed(headers={"Allow": ", ".join(taken)})
    raise exception


class Envelope:
    """Adds the common headers and turns every failure below it into the error envelope."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, frame the answer."""
        started = time.monotonic_ns()
        if "HTTP_TRANSFER_ENCODING" in request.META:
            # WSGI knows bodies by their length only; one without would be taken for none.
            answer: HttpResponseBase = render_error(request, errors.LengthRequired())
        else:
            answer = self._own_shape(request, self.get_response(request))
        _drain(request)
        answer["x-request-id"] = request_id(request)
        answer["deepailab-processing-ms"] = str((time.monotonic_ns() - started) // 1_000_000)
        answer["deepailab-version"] = settings.API_VERSION
        if answer.status_code >= 400 and "X-Gateway-Error-Category" not in answer:
            # An HTML page of Django's.
            answer["X-Gateway-Error-Category"] = _of_status(answer.status_code).category
        if isinstance(answer, HttpResponse) and "Content-Length" not in answer:
            # Errors that were rendered here passed none of Django's middleware.
            answer["Content-Length"] = str(len(answer.content))
        charged = getattr(request, "tollbook_organization", None)
        if charged is not None:
            answer["deepailab-organization"] = charged
        return answer

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Django calls this for what a view raised; on pages for people Django shows what is Django's."""
        if _PAGES.match(request.path) and not isinstance(exception, errors.ApiError | drf.APIException):
            return None
        return render_error(request, from_exception(exception))

    def _own_shape(self, request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
        """Replace an HTML error page of Django's by the envelope."""
        is_html = answer.get("Content-Type", "").startswith("text/html")
        if answer.status_code < 400 or not is_html or _PAGES.match(request.path):
            return answer
        return render_error(request, _of_status(answer.status_code))


class Negotiation(DefaultContentNegotiation):
    """Who asks for problem details asks for JSON where there is no problem."""

    def get_accept_list(self, request: Any) -> list[str]:
        """The media types of ``Accept``, with JSON beside ``application/problem+json``; an empty header is none."""
        accepted: list[str] = [each for each in super().get_accept_list(request) if each] or ["*/*"]
        takes_problems = any(PROBLEM in each.lower() for each in accepted)
        return [*accepted, "application/json"] if takes_problems else accepted


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises ``InvalidJson`` or ``InvalidType``."""
    try:
        value = wire.decode(raw)
    except wire.Malformed as error:
        raise errors.InvalidJson(f"The body is not valid JSON: {error}.") from error
    if type(value) is not dict:
        raise errors.InvalidType("The body must be a JSON object.")
    return value


class StrictJsonParser(BaseParser):
    """A JSON object or nothing. Raises ``InvalidJson``, ``InvalidType`` or ``RequestTooLarge``."""

    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Decode the body strictly (``core.wire``); no more of it is read than it may have."""
        raw = stream.read(settings.BODY_BYTES_MAX + 1)
        if len(raw) > settings.BODY_BYTES_MAX:
            raise errors.RequestTooLarge(f"A body has at most {settings.BODY_BYTES_MAX} bytes.")
        return json_object(raw)


class JsonRenderer(BaseRenderer):
    """JSON by ``core.wire``: plain decimals."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        """Bytes of the answer; nothing for an empty one."""
        return b"" if data is None else wire.encode(data)
