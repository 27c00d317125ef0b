"""The credential at the door."""

import http.client
import json
import socket
from typing import Any

import pytest
from django.test import Client, RequestFactory
from rest_framework.request import Request

from orgs import keys, permissions
from orgs.authentication import BearerKey, bearer, client_address
from tests.books import Books
from tests.orgs import world
from tests.proofs import proves
from tests.server import WebServer

PATH = "/v1/keys"


def get(client: Client, secret: str | None, **headers: str) -> Any:
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret}"
    return client.get(PATH, headers=headers)


def assert_refused(answer: Any, status: int, code: str) -> None:
    assert answer.status_code == status, answer.content
    assert answer.json()["error"]["code"] == code
    assert answer.headers["X-Gateway-Error-Category"] == "user_error"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer x y", "dtk_abc", "Token abc", "Bearer dtk_", "Bearer ключ"],
)
def test_whatever_is_no_key_is_a_401_that_asks_for_one(client: Client, authorization: str) -> None:
    value = authorization.encode().decode("latin-1")
    answer = client.get(PATH, headers={"Authorization": value})
    assert_refused(answer, 401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.django_db
def test_no_credential_and_an_unknown_and_a_revoked_one_are_one_answer(client: Client) -> None:
    issued = world.organization_key(world.organization(), scopes=["keys:manage"])
    keys.revoke(key_id=issued.key.pk, by=world.BY)
    answers = [get(client, None), get(client, keys.new_secret()), get(client, issued.secret)]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_schemes_name_has_no_case(client: Client, scheme: str) -> None:
    issued = world.organization_key(world.organization(), scopes=["keys:manage"])
    assert client.get(PATH, headers={"Authorization": f"{scheme} {issued.secret}"}).status_code == 200


@pytest.mark.django_db
def test_a_key_in_the_query_or_in_a_cookie_is_no_credential(client: Client) -> None:
    issued = world.organization_key(world.organization(), scopes=["keys:manage"])
    client.cookies["Authorization"] = f"Bearer {issued.secret}"
    answer = client.get(PATH, {"key": issued.secret, "api_key": issued.secret, "access_token": issued.secret})
    assert_refused(answer, 401, "invalid_api_key")


@pytest.mark.django_db
def test_the_error_never_holds_the_key(client: Client) -> None:
    issued = world.organization_key(world.organization())
    answers = [
        get(client, issued.secret),
        get(client, issued.secret, **{"X-DeepToken-Org": "other"}),
        get(client, issued.secret + "x"),
        client.get(f"/v1/keys/{issued.secret}", headers={"Authorization": f"Bearer {issued.secret}"}),
    ]
    for answer in answers:
        assert answer.status_code >= 400
        assert issued.secret[4:24] not in answer.content.decode() + str(dict(answer.headers))


@pytest.mark.django_db
def test_an_address_outside_the_keys_networks_is_refused(client: Client, settings: Any) -> None:
    issued = world.organization_key(world.organization(), scopes=["keys:manage"], cidrs=["203.0.113.0/24"])
    headers = {"Authorization": f"Bearer {issued.secret}"}
    assert client.get(PATH, headers=headers, REMOTE_ADDR="203.0.113.5").status_code == 200
    assert_refused(client.get(PATH, headers=headers, REMOTE_ADDR="203.0.114.5"), 403, "ip_not_allowed")
    claimed = {**headers, "X-Forwarded-For": "203.0.113.5"}
    assert_refused(client.get(PATH, headers=claimed, REMOTE_ADDR="203.0.114.5"), 403, "ip_not_allowed")
    settings.TRUSTED_PROXIES = 1
    assert client.get(PATH, headers=claimed, REMOTE_ADDR="127.0.0.1").status_code == 200
    forged = {**headers, "X-Forwarded-For": "203.0.113.5, 198.51.100.1"}
    assert_refused(client.get(PATH, headers=forged, REMOTE_ADDR="127.0.0.1"), 403, "ip_not_allowed")


@pytest.mark.django_db
def test_without_a_peer_there_is_no_address(settings: Any) -> None:
    request = RequestFactory().get("/")
    request.META["REMOTE_ADDR"] = ""
    assert client_address(request) is None


@pytest.mark.django_db
def test_the_slug_charged_is_left_for_the_response_header() -> None:
    ada = world.person()
    acme = world.organization("acme-labs", owner=ada)
    cases = [
        (world.organization_key(acme).secret, "", "acme-labs"),
        (world.personal_key(ada).secret, "ACME-labs", "acme-labs"),
        (world.personal_key(ada).secret, "", None),
        (world.service_key().secret, "", None),
        (world.service_key().secret, "acme-labs", "acme-labs"),
    ]
    for secret, header, slug in cases:
        request = RequestFactory().get("/", headers={"Authorization": f"Bearer {secret}", "X-DeepToken-Org": header})
        found = BearerKey().authenticate(Request(request))
        assert found is not None
        assert found[0] is found[1]
        assert request.tollbook_organization == slug  # type: ignore[attr-defined]


@pytest.mark.django_db
def test_a_view_may_take_a_service_keys_header_as_a_default() -> None:
    secret = world.service_key().secret
    raw = RequestFactory().get("/", headers={"Authorization": f"Bearer {secret}", "X-DeepToken-Org": "nobody"})
    view = type("Door", (), {"organization_is_default": True})()
    found = BearerKey().authenticate(Request(raw, parser_context={"view": view}))
    assert found is not None
    assert (found[0].default_slug, found[0].organization_id) == ("nobody", None)


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["other", "acme-labs,acme-labs", "acme_labs", "no-such", "%00"])
def test_a_header_that_names_no_organization_of_this_key_is_a_403(client: Client, header: str) -> None:
    acme = world.organization("acme-labs")
    world.organization("other")
    answer = get(client, world.organization_key(acme, scopes=["keys:manage"]).secret, **{"X-DeepToken-Org": header})
    assert_refused(answer, 403, "org_access_denied")


@pytest.mark.django_db
def test_a_service_key_does_not_open_a_customers_door(client: Client) -> None:
    answer = get(client, world.service_key(*permissions.SERVICE_SCOPES).secret)
    assert_refused(answer, 403, "permission_denied")


def test_the_secret_is_what_follows_the_scheme() -> None:
    assert bearer("Bearer abc") == "abc"
    assert bearer("bearer   abc ") == "abc"


def raw(server: WebServer, *lines: str) -> tuple[int, dict[str, str], Any]:
    """What the real server answers to a list request with exactly these header lines."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        head = [f"GET {PATH} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]
        line.sendall("\r\n".join(head).encode("latin-1"))
        answer = http.client.HTTPResponse(line)
        answer.begin()
        body = answer.read()
        headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, json.loads(body) if "json" in headers.get("content-type", "") else body


@proves("A02", guard="own_slug_only")
def test_no_spelling_of_the_header_opens_another_organization(books: Books, server: WebServer) -> None:
    ada = world.person()
    acme, other = world.organization("acme-labs", owner=ada), world.organization("other")
    world.organization_key(other, name="theirs")
    theirs = {
        world.organization_key(acme, scopes=["keys:manage"]).secret: "acme-labs",
        world.personal_key(ada, scopes=["keys:manage"]).secret: None,
    }
    spellings = [
        ["X-DeepToken-Org: other"],
        ["x-deeptoken-org: OTHER"],
        ["X-DeepToken-Org: acme-labs", "X-DeepToken-Org: other"],
        ["X-DeepToken-Org: other", "X-DeepToken-Org: acme-labs"],
        ["X-DeepToken-Org: acme-labs", "X-DeepToken-Org: acme-labs"],
        ["X-DeepToken-Org: acme-labs,other"],
        ["X-DeepToken-Org: acme-labs other"],
        ["X-DeepToken-Org:\tother\t"],
        ["X-DeepToken-Org : other"],
        ["X-DeepToken-Org: acme-labs", " other"],
        ["X_DeepToken_Org: other"],
        ["X-DeepToken_Org: other"],
        ["X-DeepToken-Org: acme-labs", "X_DeepToken_Org: other"],
        ["X-DeepToken-Org: \xe9"],
        ["X-DeepToken-Org: other\x00"],
    ]
    for secret, own in theirs.items():
        status, headers, body = raw(server, f"Authorization: Bearer {secret}")
        assert (status, headers.get("deepailab-organization")) == (200, own)
        status, headers, body = raw(server, f"Authorization: Bearer {secret}", "X-DeepToken-Org: Acme-Labs")
        assert (status, headers.get("deepailab-organization")) == (200, "acme-labs")
        for lines in spellings:
            status, headers, body = raw(server, f"Authorization: Bearer {secret}", *lines)
            if status == 200:
                # No header of ours by its name, or of bytes that the server drops: the answer is the one without it.
                assert any("_" in line.split(":")[0] or not line.isascii() for line in lines), lines
                assert headers.get("deepailab-organization") in {own, "acme-labs"}, lines
                assert "theirs" not in [each["name"] for each in body["data"]]
            elif status == 403:
                assert body["error"]["code"] == "org_access_denied", lines
            else:
                assert status == 400, lines
