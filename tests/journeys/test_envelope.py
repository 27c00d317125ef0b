"""What every answer carries, whatever happens: headers of contract 2.2, errors of contract 9."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.urls import get_resolver

from core import errors, ids
from orgs import keys
from tests import doors
from tests.billing import paying
from tests.billing.paying import fake
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.journeys.test_isolation import (
    AUTHORIZATION,
    AUTHORIZATIONS,
    ENDPOINTS,
    LITELLM,
    METHODS,
    NAMES,
    NEEDED,
    NOT_KEYED,
    PAY,
    RELEASE,
    VERIFY,
    VOID,
    Route,
    keyed,
    routes,
)
from tests.orgs import world
from tests.proofs import proves

__all__ = ["fake"]

# Every promise holds at both doors.
pytestmark = pytest.mark.usefixtures("both_doors")

# Proven by its signature, which only Stripe can make: tests/billing/test_payment_views.py.
WEBHOOK = "v1/webhooks/stripe"
OPEN = {"healthz", "readyz", WEBHOOK}
# What gateways call, about whichever organization, and about the one that the header names.
REPORTED = {"v1/events", LITELLM, VOID, AUTHORIZATIONS, VERIFY}
HELD = {AUTHORIZATION, RELEASE}
POSTS = [route for route in keyed() if "POST" in route.methods and route.path != WEBHOOK]
REQUEST_ID = re.compile(r"req_[0-9A-HJKMNP-TV-Z]{26}")
TYPES = {
    "invalid_request_error", "authentication_error", "permission_error", "insufficient_quota", "rate_limit_error",
    "idempotency_error", "api_error",
}  # fmt: skip
CATEGORIES = {"platform_error", "upstream_error", "quota_error", "user_error"}
# What an inside looks like from outside.
LEAK = "SELECT secret FROM usage_record WHERE organization = 'other-inc' -- in billing/charges.py, line 42"


def assert_common(answer: Any) -> None:
    """The headers of every answer."""
    assert answer.headers["x-request-id"]
    assert answer.headers["deepailab-processing-ms"].isdecimal()
    assert answer.headers["deepailab-version"] == "2026-11-01"


def assert_error(answer: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """The envelope, whole, and what goes with it; its inside."""
    assert answer.status_code == status, answer.content
    assert_common(answer)
    assert answer.headers["Content-Type"] == "application/json"
    body = json.loads(answer.content)
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code", "category"}
    assert error["message"]
    assert error["message"].endswith(".")
    assert error["type"] in TYPES
    assert error["category"] in CATEGORIES
    assert error["param"] is None or isinstance(error["param"], str)
    if code is not None:
        assert error["code"] == code
    assert answer.headers["X-Gateway-Error-Category"] == error["category"]
    assert (error["category"] == "platform_error") == (status >= 500)
    if status in {429, 503}:
        assert int(answer.headers["Retry-After"]) >= 1
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    # The SDK would repeat a 409 by itself, and nothing of these becomes possible by repeating it.
    assert (answer.headers.get("x-should-retry") == "false") == (status in {402, 403, 409})
    return error


def assert_problem(answer: Any, status: int, code: str) -> None:
    """The same refusal as RFC 9457 has it."""
    assert answer.status_code == status
    assert_common(answer)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.content)
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code"}
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["instance"] == f"/requests/{answer.headers['x-request-id']}"
    assert problem["type"].endswith(code.replace("_", "-"))
    assert problem["detail"]
    assert problem["title"]
    assert answer.headers["X-Gateway-Error-Category"] in CATEGORIES


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with usage."""
    return neighbours.house("acme-labs")


def whoever(house: House, route: Route) -> Caller:
    """Somebody whose key opens a route."""
    return house.gateway if route.path in REPORTED | HELD else house.callers["owner"]


def place(house: House, route: Route) -> str:
    """The route's path with something that is there."""
    if not route.parameters:
        return route.place("")
    names = NAMES[route.methods[0], route.path]
    own = {name: house.shown(kind)[0] for name, kind in names.items() if name in route.parameters and kind}
    return route.place(own.get(route.parameters[0], "gpt-4o"), own=own)


def good_body(house: House, route: Route) -> Any:
    """What a POST takes."""
    bodies = {
        "v1/events": neighbours.event(f"good-{ids.new()}"),
        LITELLM: neighbours.payload(f"good-{ids.new()}"),
        "v1/estimate": {"model": "gpt-4o", "input_tokens": 1},
        "v1/keys": {"name": "good"},
        "v1/topups": {"amount_usd": 10},
        ENDPOINTS: {"url": "https://hooks.example.com/tollbook"},
        "v1/wallet/recharge": {"threshold_usd": 5, "amount_usd": 20, "monthly_cap_usd": 100},
        VOID: {"reason": "good"},
        AUTHORIZATIONS: neighbours.authorization(house),
        VERIFY: {"key": house.keys["plain"].secret},
    }
    return bodies.get(route.path, {})


def each_operation(house: House) -> Iterator[tuple[Caller, str, Route, str]]:
    """Caller, method, route and path of every keyed operation."""
    for route in keyed():
        for method in route.methods if route.path != WEBHOOK else ():
            query = f"?{urlencode(NEEDED[route.path])}" if route.path in NEEDED else ""
            yield whoever(house, route), method, route, place(house, route) + query


def test_every_operation_answers_with_the_common_headers_and_the_organization(acme: House, fake: StripeFake) -> None:
    paying.save_card(fake, acme.organization)
    # The deletion last: it takes away what the others ask for.
    for caller, method, route, path in sorted(each_operation(acme), key=lambda each: each[1] == "DELETE"):
        body = good_body(acme, route) if method in {"POST", "PUT"} else None
        path = place(acme, route) if method == "DELETE" else path
        headers = {"Idempotency-Key": "good"} if route.path in {"v1/topups", PAY} else {}
        answer = caller.call(method, path, body=body, headers=headers)
        assert 200 <= answer.status_code < 300, (method, path, answer.content)
        assert_common(answer)
        assert "X-Gateway-Error-Category" not in answer.headers
        charged = None if route.path in OPEN | REPORTED else "acme-labs"
        assert answer.headers.get("deepailab-organization") == charged, (method, path)
    personal = acme.callers["alone"].get("/v1/wallet")
    assert (personal.status_code, "deepailab-organization" in personal.headers) == (200, False)
    refused = acme.callers["plain"].get("/v1/keys")
    assert_error(refused, 403, "scope_missing")
    assert refused.headers["deepailab-organization"] == "acme-labs"


def test_no_key_a_bad_one_and_a_revoked_one_are_401_everywhere(acme: House) -> None:
    revoked = acme.keys["viewer"]
    keys.revoke(key_id=revoked.key.pk, by=world.BY)
    credentials = [
        {},
        {"Authorization": f"Bearer {keys.new_secret()}"},
        {"Authorization": f"Bearer {revoked.secret}"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer "},
    ]
    for _, method, route, path in each_operation(acme):
        for headers in credentials:
            answer = doors.client().generic(method, path, "{}", content_type="application/json", headers=headers)
            if route.path in OPEN:
                assert_common(answer)
                assert answer.status_code == 200
                continue
            assert_error(answer, 401, "invalid_api_key")
            assert "deepailab-organization" not in answer.headers
            accept = {**headers, "Accept": "application/problem+json"}
            problem = doors.client().generic(method, path, "{}", content_type="application/json", headers=accept)
            assert_problem(problem, 401, "invalid_api_key")


def test_a_method_that_a_path_does_not_take_is_a_405_that_lists_the_others(acme: House) -> None:
    for route in keyed():
        taken = set(route.methods) | ({"HEAD"} if "GET" in route.methods else set())
        for method in {*METHODS, "HEAD", "OPTIONS", "TRACE", "PROPFIND"} - taken:
            caller, path = whoever(acme, route), place(acme, route)
            answer = caller.call(method, path, body={})
            if method == "HEAD":
                assert (answer.status_code, answer.content) == (405, b"")
                assert answer.headers["X-Gateway-Error-Category"] == "user_error"
            else:
                assert_error(answer, 405, "method_not_allowed")
                asked = caller.call(method, path, body={}, headers={"Accept": "application/problem+json"})
                assert_problem(asked, 405, "method_not_allowed")
            assert set(answer.headers["Allow"].split(", ")) == taken, (method, path)


def test_head_is_get_without_its_body(acme: House) -> None:
    for caller, method, route, path in each_operation(acme):
        if method != "GET":
            continue
        got, head = caller.get(path, accept="*/*"), caller.call("HEAD", path)
        assert (head.status_code, head.content) == (200, b""), route
        assert_common(head)
        assert head.headers["Content-Type"] == got.headers["Content-Type"]


UNKNOWN = [
    "/v1", "/v1/", "/v2/usage", "/v1/usage/", "/v1/keys/", "/v1/models/catalog/x/", "/healthz/", "/v1/usage/a/b",
    "/v1//usage", "/V1/usage", "/docsx", "/docs/x", "/administrator", "/static", "/static/none.js", "/favicon.ico",
    "/v1/%00", "/%0a", "/v1/%ff%fe", "/..%2f..%2fetc/passwd", "/v1/usage;x=1", "/.env", "/v1/events/",
]  # fmt: skip


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_path_that_does_not_exist_is_a_404_for_every_method_and_everybody(db: None, path: str) -> None:
    if path == "/v1/models/catalog/x/":
        # A model's id may hold slashes, so this names a model, and needs a key.
        assert_error(Client().get(path), 401, "invalid_api_key")
        return
    for method in (*METHODS, "OPTIONS"):
        answer = Client().generic(method, path, "{", content_type="text/plain")
        assert_error(answer, 404, "not_found")
        assert_problem(Client().generic(method, path, headers={"Accept": "application/problem+json"}), 404, "not_found")


@pytest.mark.parametrize("path", ["/docs", "/admin/", "/v1/openapi.json"])
def test_pages_for_people_and_the_document_refuse_in_the_same_words(db: None, path: str) -> None:
    assert_common(Client().get(path))
    if path != "/admin/":
        assert_error(Client().post(path, {}), 405, "method_not_allowed")
        assert_error(Client().get(path, headers={"Accept": "image/png"}), 406, "not_acceptable")


def test_an_html_page_of_an_error_has_the_headers_too(db: None) -> None:
    from orgs.models import User

    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com", "a long enough password"))
    answer = client.get("/admin/no/such/page")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert_common(answer)
    assert answer.headers["X-Gateway-Error-Category"] == "user_error"


def test_a_malformed_body_is_a_400_everywhere(acme: House) -> None:
    for route in POSTS:
        caller, path = whoever(acme, route), place(acme, route)
        # A proxy writes NaN where its customer did; what is none of Python's JSON is refused there too.
        nan = [] if route.path == LITELLM else [b'{"a": NaN}']
        for raw in (b"{", b"nonsense", b'{"a": 1,}', b"\xff\xfe", b"[1", *nan):
            assert_error(caller.call("POST", path, raw=raw), 400, "invalid_json")
            asked = caller.call("POST", path, raw=raw, headers={"Accept": "application/problem+json"})
            assert_problem(asked, 400, "invalid_json")
        for raw in (b"3", b'"text"', b"null", b"true"):
            assert_error(caller.call("POST", path, raw=raw), 400, "invalid_type")


def test_a_media_type_that_is_not_taken_is_a_415_everywhere(acme: House) -> None:
    for route in POSTS:
        caller, path = whoever(acme, route), place(acme, route)
        for media_type in ("text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = caller.call("POST", path, raw=b'{"name": "x"}', content_type=media_type)
            assert_error(answer, 415, "unsupported_media_type")


def test_a_body_over_the_limit_is_a_413_everywhere(acme: House, settings: Any) -> None:
    settings.BODY_BYTES_MAX, settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000, 1001
    for route in POSTS:
        caller, path = whoever(acme, route), place(acme, route)
        for size in (1002, 50_000):
            raw = json.dumps({"name": "x", "pad": "x" * size})
            assert_error(caller.call("POST", path, raw=raw), 413, "request_too_large")


@pytest.mark.parametrize("accept", ["image/png", "text/html, application/xml;q=0.9", "application/vnd.api+json"])
def test_what_cannot_be_accepted_is_a_406_everywhere(acme: House, accept: str) -> None:
    for caller, method, _, path in each_operation(acme):
        answer = caller.call(method, path, body={}, headers={"Accept": accept})
        assert_error(answer, 406, "not_acceptable")
    # The deletion among them was refused before it happened.
    assert acme.callers["organization"].get("/v1/keys").status_code == 200


@pytest.mark.parametrize(
    "accept",
    ["*/*", "application/*", "application/json; charset=utf-8", "", "APPLICATION/JSON", "text/html, */*;q=0.1"],
)
def test_whatever_includes_json_is_answered_with_json(acme: House, accept: str) -> None:
    answer = acme.callers["owner"].call("GET", "/v1/wallet", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize("accept", [";;;", "a", "a/b/c", ",", "*/json", "text/html;q=x", "\xe9/\xe9", "x" * 5000])
def test_an_accept_header_that_is_none_is_no_failure_of_ours(acme: House, accept: str) -> None:
    answer = acme.callers["owner"].call("GET", "/v1/wallet", headers={"Accept": accept})
    assert answer.status_code in {200, 406}
    assert_common(answer)


def test_problem_details_come_only_to_who_asks_for_nothing_else(acme: House) -> None:
    caller = acme.callers["owner"]
    for accept in ("application/problem+json", "Application/Problem+JSON", "application/problem+json, text/html"):
        assert_problem(caller.call("GET", "/v1/usage/none", headers={"Accept": accept}), 404, "not_found")
        wallet = caller.call("GET", "/v1/wallet", headers={"Accept": accept})
        assert (wallet.status_code, wallet.headers["Content-Type"]) == (200, "application/json")
    for accept in ("application/problem+json, application/json", "application/json", "*/*", "text/csv"):
        path = "/v1/usage?after=none"
        assert_error(caller.call("GET", path, headers={"Accept": accept}), 400, "invalid_cursor")


def test_a_host_that_is_not_ours_is_refused_in_the_envelope(acme: House) -> None:
    for _, method, _, path in each_operation(acme):
        answer = doors.client().generic(method, path, headers={"Host": "evil.example"})
        assert_error(answer, 400, "invalid_request")
        assert "evil.example" not in answer.content.decode()


def crash(*_: Any, **__: Any) -> Any:
    """A bug that tells everything."""
    raise RuntimeError(LEAK)


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every view of the API has a bug, and so has the data plane."""
    for verb in (
        "gateway.events.read",
        "gateway.events.read_litellm",
        "gateway.authorizations.admit",
        "metering.usage_pages.answer",
    ):
        monkeypatch.setattr(verb, crash)
    for pattern in _patterns(get_resolver().url_patterns):
        view = getattr(pattern.callback, "cls", None)
        for method in METHODS:
            if view is not None and hasattr(view, method.lower()):
                monkeypatch.setattr(view, method.lower(), crash)


def _patterns(patterns: Any) -> Iterator[Any]:
    for pattern in patterns:
        inner = getattr(pattern, "url_patterns", None)
        yield from [pattern] if inner is None else _patterns(inner)


@proves("A19", guard="unforeseen_failures_say_nothing")
def test_a_bug_is_a_500_that_says_nothing_of_its_cause(acme: House, crashing: None) -> None:
    for caller, method, route, path in each_operation(acme):
        body = good_body(acme, route) if method == "POST" else None
        answer = caller.call(method, path, body=body)
        said = answer.content.decode() + str(dict(answer.headers))
        for part in ("SELECT", "usage_record", "other-inc", "billing/", "RuntimeError", "Traceback"):
            assert part not in said, (method, path)
        assert_error(answer, 500, "internal_error")
        asked = caller.call(method, path, body=body, headers={"Accept": "application/problem+json"})
        assert_problem(asked, 500, "internal_error")


def test_a_bug_is_written_down_with_its_traceback_for_us(
    acme: House, crashing: None, caplog: pytest.LogCaptureFixture
) -> None:
    acme.callers["owner"].get("/v1/wallet")
    record = next(each for each in caplog.records if each.levelname == "ERROR")
    assert record.exc_info is not None
    assert LEAK in str(record.exc_info[1])


@pytest.fixture
def away(acme: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """An organization whose database cannot be reached any more."""
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "HOST", "/nowhere")
    from tests.conftest import forget_caches

    forget_caches()
    return acme


def test_without_a_database_everything_is_a_503_that_says_when_to_come_back(away: House) -> None:
    # Looked up before: the test itself has no database either.
    asked = [(route, method) for route in keyed() for method in route.methods if route.path not in OPEN]
    for route, method in asked:
        caller = whoever(away, route)
        path = route.place(ids.show("usage", ids.new()))
        answer = caller.call(method, path, body=good_body(away, route) if method == "POST" else None)
        error = assert_error(answer, 503, "unavailable")
        assert "nowhere" not in answer.content.decode()
        assert "again" in error["message"]
        problem = caller.call(method, path, headers={"Accept": "application/problem+json"})
        assert_problem(problem, 503, "unavailable")
    assert Client().get("/healthz").status_code == 200
    ready = Client().get("/readyz")
    assert_error(ready, 503, "unavailable")
    assert ready.json()["status"] == "unavailable"
    assert ready.json()["checks"]["database"] == "unreachable (OperationalError)"


def test_every_members_place_in_the_table_is_what_the_contract_says() -> None:
    table: dict[type[errors.ApiError], tuple[int, str, str]] = {
        errors.InvalidRequest: (400, "invalid_request_error", "user_error"),
        errors.InvalidApiKey: (401, "authentication_error", "user_error"),
        errors.InsufficientQuota: (402, "insufficient_quota", "quota_error"),
        errors.BudgetExceeded: (403, "insufficient_quota", "quota_error"),
        errors.PermissionDenied: (403, "permission_error", "user_error"),
        errors.NotFound: (404, "invalid_request_error", "user_error"),
        errors.MethodNotAllowed: (405, "invalid_request_error", "user_error"),
        errors.NotAcceptable: (406, "invalid_request_error", "user_error"),
        errors.Conflict: (409, "invalid_request_error", "user_error"),
        errors.IdempotencyKeyInUse: (409, "idempotency_error", "user_error"),
        errors.ReplayUnavailable: (409, "idempotency_error", "user_error"),
        errors.LengthRequired: (411, "invalid_request_error", "user_error"),
        errors.RequestTooLarge: (413, "invalid_request_error", "user_error"),
        errors.UnsupportedMediaType: (415, "invalid_request_error", "user_error"),
        errors.OutOfRange: (422, "invalid_request_error", "user_error"),
        errors.IdempotencyKeyReused: (422, "idempotency_error", "user_error"),
        errors.RateLimited: (429, "rate_limit_error", "user_error"),
        errors.InternalError: (500, "api_error", "platform_error"),
        errors.UpstreamError: (502, "api_error", "upstream_error"),
        errors.Unavailable: (503, "api_error", "platform_error"),
        errors.UpstreamTimeout: (504, "api_error", "upstream_error"),
    }
    seen = set()
    for family, (status, kind, category) in table.items():
        # A member with a row of its own differs from its family.
        for member in (family, *(each for each in _members(family) if each not in table)):
            assert (member.status, member.type, member.category) == (status, kind, category), member
            assert re.fullmatch(r"[a-z_]+", member.code)
            seen.add(member)
    assert seen == set(_members(errors.ApiError))


def _members(family: type[errors.ApiError]) -> Iterator[type[errors.ApiError]]:
    for member in family.__subclasses__():
        yield member
        yield from _members(member)


def test_a_request_has_an_id_of_its_own_or_the_tame_one_it_brought(db: None) -> None:
    made = [Client().get("/healthz").headers["x-request-id"] for _ in range(3)]
    assert len(set(made)) == 3
    assert all(REQUEST_ID.fullmatch(each) for each in made)
    brought = Client().get("/healthz", headers={"X-Request-Id": "gw-7:a.b_c"})
    assert brought.headers["x-request-id"] == "gw-7:a.b_c"
    for wild in ("", "a b", "a" * 129, "a\tb", "é", "<script>", "a,b", "%0d%0a"):
        answer = Client().get("/healthz", headers={"X-Request-Id": wild})
        assert REQUEST_ID.fullmatch(answer.headers["x-request-id"]), wild


def test_the_routes_of_this_table_are_all_there_are() -> None:
    assert {route.path for route in routes()} == {route.path for route in keyed()} | NOT_KEYED
    assert {route.path for route in POSTS} >= {
        "v1/events",
        LITELLM,
        VOID,
        "v1/estimate",
        "v1/keys",
        AUTHORIZATIONS,
        VERIFY,
    }


def test_the_refusals_of_the_contract_are_worded_as_there(acme: House) -> None:
    wrong = Client().get("/v1/usage", headers={"Authorization": "Bearer dtk_wrong"})
    assert wrong.json() == {
        "error": {
            "message": "The API key is missing, malformed, revoked or unknown.", "type": "authentication_error",
            "param": None, "code": "invalid_api_key", "category": "user_error",
        }
    }  # fmt: skip
    other = acme.callers["owner"].call("GET", "/v1/usage", headers={"X-DeepToken-Org": "other-inc"})
    assert (other.status_code, other.json()) == (403, {
        "error": {
            "message": "No organization with that slug is open to this key.", "type": "permission_error",
            "param": "X-DeepToken-Org", "code": "org_access_denied", "category": "user_error",
        }
    })  # fmt: skip
    assert other.headers["x-should-retry"] == "false"
