"""The door's frame in its parts; on every route: tests/journeys/test_envelope.py."""

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.core import exceptions as django
from django.db import IntegrityError, InterfaceError, OperationalError, ProgrammingError
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from rest_framework import exceptions as drf

from core import errors, http
from core.http import Envelope, JsonRenderer, StrictJsonParser


def caused(error: Exception, cause: type[psycopg.Error] | None) -> Exception:
    """A database error as Django wraps it."""
    error.__cause__ = None if cause is None else cause("detail that nobody outside sees")
    return error


@pytest.mark.parametrize(
    ("raised", "member"),
    [
        (errors.OutOfRange("x"), errors.OutOfRange),
        (Http404("a/path.py"), errors.NotFound),
        (drf.NotFound(), errors.NotFound),
        (drf.MethodNotAllowed("GET"), errors.MethodNotAllowed),
        (drf.UnsupportedMediaType("x"), errors.UnsupportedMediaType),
        (drf.NotAcceptable(), errors.NotAcceptable),
        (drf.NotAuthenticated(), errors.InvalidApiKey),
        (drf.AuthenticationFailed(), errors.InvalidApiKey),
        (drf.PermissionDenied(), errors.PermissionDenied),
        (drf.ParseError("x"), errors.InvalidRequest),
        (drf.ValidationError({"a": "b"}), errors.InvalidRequest),
        (drf.APIException("inside"), errors.InternalError),
        (django.PermissionDenied("x"), errors.PermissionDenied),
        (django.RequestDataTooBig("x"), errors.RequestTooLarge),
        (django.DisallowedHost("evil"), errors.InvalidRequest),
        (django.SuspiciousOperation("x"), errors.InvalidRequest),
        (caused(OperationalError(), psycopg.OperationalError), errors.Unavailable),
        (caused(OperationalError(), None), errors.Unavailable),
        (caused(InterfaceError(), None), errors.Unavailable),
        (caused(OperationalError(), psycopg.errors.LockNotAvailable), errors.Unavailable),
        (caused(OperationalError(), psycopg.errors.DeadlockDetected), errors.Unavailable),
        (caused(OperationalError(), psycopg.errors.QueryCanceled), errors.Unavailable),
        (caused(OperationalError(), psycopg.errors.TooManyConnections), errors.Unavailable),
        (caused(OperationalError(), psycopg.errors.DiskFull), errors.Unavailable),
        (caused(OperationalError(), psycopg.errors.AdminShutdown), errors.Unavailable),
        (caused(OperationalError(), psycopg.errors.ConnectionFailure), errors.Unavailable),
        (caused(IntegrityError(), psycopg.errors.UniqueViolation), errors.InternalError),
        (caused(ProgrammingError(), psycopg.errors.UndefinedTable), errors.InternalError),
        (ValueError("secret"), errors.InternalError),
        (RecursionError(), errors.InternalError),
    ],
)
def test_whatever_is_raised_has_its_member_of_the_tree_and_says_no_more(
    raised: Exception, member: type[errors.ApiError]
) -> None:
    found = http.from_exception(raised)
    assert type(found) is member
    if found is not raised:
        assert str(found) == member.default or not member.default


def test_only_what_nobody_foresaw_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    http.from_exception(errors.NotFound())
    http.from_exception(caused(OperationalError(), None))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    http.from_exception(KeyError("x"))
    assert [record.exc_info is not None for record in caplog.records] == [False, True]


def test_the_headers_of_a_refusal_can_be_its_own() -> None:
    own = errors.Conflict(headers={"x-should-retry": "true", "Retry-After": "1"})
    assert http.error_headers(own)["x-should-retry"] == "true"
    assert http.error_headers(errors.Unavailable(headers={"Retry-After": "7"}))["Retry-After"] == "7"
    assert http.error_headers(errors.Unavailable())["Retry-After"] == "1"
    assert "x-should-retry" not in http.error_headers(errors.InternalError())


@pytest.mark.parametrize("answer", [HttpResponse(b"12345"), StreamingHttpResponse([b"1", b"2"])])
def test_an_answer_of_known_length_says_it(answer: Any) -> None:
    framed = Envelope(lambda _: answer)(RequestFactory().get("/v1/x"))
    assert framed.headers.get("Content-Length") == (None if answer.streaming else "5")


def test_a_status_that_no_class_has_keeps_its_family() -> None:
    for status, member in ((418, errors.InvalidRequest), (431, errors.InvalidRequest), (599, errors.InternalError)):
        page = HttpResponse("<h1>", status=status, content_type="text/html")
        framed = Envelope(lambda _, page=page: page)(RequestFactory().get("/v1/x"))  # type: ignore[misc]
        assert framed.status_code == member.status
        assert framed.headers["Content-Type"] == "application/json"


class Sender(io.BytesIO):
    """A body that counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.taken += len(part)
        return part


def post(body: bytes, answer: HttpResponse | None = None, **more: Any) -> tuple[Sender, Any]:
    """A request whose view reads nothing, after the frame has answered it."""
    request = RequestFactory().post("/v1/x", b"", content_type="application/json")
    sender = Sender(body)
    request.META.update({"CONTENT_LENGTH": str(len(body)), **more})
    request._stream = sender
    return sender, Envelope(lambda _: answer or HttpResponse(status=404, content_type="text/html"))(request)


def test_a_body_that_nobody_read_is_read_before_the_answer_goes_out() -> None:
    sender, answer = post(b"x" * 300_000)
    assert (sender.taken, answer.status_code) == (300_000, 404)


def test_a_sender_who_asks_first_is_not_asked_for_the_body() -> None:
    assert post(b"x" * 1000, HTTP_EXPECT="100-continue")[0].taken == 0


def test_of_a_body_without_end_only_so_much_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_DRAIN_BYTES_MAX", 100_000)
    assert post(b"x" * 300_000)[0].taken == 100_000


def test_slow_senders_of_unread_bodies_hold_only_so_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def held(places: threading.BoundedSemaphore) -> Iterator[None]:
        assert places.acquire(blocking=False)
        yield
        places.release()

    places = threading.BoundedSemaphore(1)
    monkeypatch.setattr(http, "_draining", places)
    with held(places):
        assert post(b"x" * 1000)[0].taken == 0
    assert post(b"x" * 1000)[0].taken == 1000


def test_a_sender_who_is_gone_harms_nobody() -> None:
    class Gone(Sender):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("connection reset")

    request = RequestFactory().post("/v1/x", b"abc", content_type="application/json")
    request._stream = Gone()
    assert Envelope(lambda _: HttpResponse(b"x"))(request).status_code == 200


def test_nothing_is_rendered_as_nothing() -> None:
    assert JsonRenderer().render(None) == b""
    assert JsonRenderer().render({"a": [1]}) == b'{"a":[1]}'


def test_no_more_of_a_body_is_read_than_it_may_have(settings: Any) -> None:
    settings.BODY_BYTES_MAX = 10
    assert StrictJsonParser().parse(Sender(b'{"a": 1}')) == {"a": 1}
    endless = Sender(b" " * 1000)
    with pytest.raises(errors.RequestTooLarge):
        StrictJsonParser().parse(endless)
    assert endless.taken == 11
