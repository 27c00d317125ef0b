"""What a view asks for and what a key has."""

from typing import Any
from uuid import UUID

import pytest
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from core.errors import InvalidApiKey, PermissionDenied, ScopeMissing
from orgs import permissions
from orgs.models import Kind
from orgs.permissions import Allowed
from orgs.principals import Principal


def principal(kind: Kind, *, granted: set[str] | None = None, scopes: set[str] | None = None) -> Principal:
    return Principal(
        key_id=UUID(int=1),
        kind=kind,
        key_name="x",
        organization_id=None,
        organization_slug=None,
        is_personal=False,
        user_id=None,
        member_id=None,
        project_id=None,
        permissions=frozenset(granted or ()),
        scopes=frozenset(scopes or ()),
        models=frozenset(),
        networks=(),
        organizations=frozenset(),
        trust_client_header=False,
    )


def admitted(who: Principal | None, **words: Any) -> bool:
    """What ``Allowed`` says of a view with these words."""
    request = APIView().initialize_request(APIRequestFactory().get("/"))
    request.auth = who
    view = type("View", (APIView,), words)()
    return Allowed().has_permission(request, view)


def test_nobody_is_a_401() -> None:
    with pytest.raises(InvalidApiKey):
        admitted(None)


def test_a_view_takes_customers_keys_unless_it_says_otherwise() -> None:
    assert admitted(principal(Kind.ORGANIZATION))
    assert admitted(principal(Kind.PERSONAL))
    with pytest.raises(PermissionDenied, match="an organization's or a personal key"):
        admitted(principal(Kind.SERVICE, scopes={"events:write"}))


def test_a_gateways_view_takes_no_customers_key_whatever_its_scopes() -> None:
    words = {"kinds": permissions.SERVICE, "scope": permissions.EVENTS_WRITE}
    assert admitted(principal(Kind.SERVICE, scopes={"events:write"}), **words)
    for kind in (Kind.ORGANIZATION, Kind.PERSONAL):
        with pytest.raises(PermissionDenied, match="service key"):
            admitted(principal(kind, granted=set(permissions.ALL), scopes={"events:write"}), **words)


def test_a_service_key_without_the_scope_is_refused_by_its_name() -> None:
    with pytest.raises(ScopeMissing, match="events:write"):
        admitted(
            principal(Kind.SERVICE, scopes={"authorizations:write"}),
            kinds=permissions.SERVICE,
            scope=permissions.EVENTS_WRITE,
        )


def test_a_customers_key_needs_the_permission_that_the_view_names() -> None:
    assert admitted(principal(Kind.PERSONAL, granted={"wallet:read"}), needs=permissions.WALLET_READ)
    with pytest.raises(ScopeMissing, match="keys:manage"):
        admitted(principal(Kind.PERSONAL, granted={"wallet:read"}), needs=permissions.KEYS_MANAGE)


def test_a_view_for_both_asks_each_for_its_own() -> None:
    words = {
        "kinds": permissions.CUSTOMER | permissions.SERVICE,
        "needs": permissions.CALLS_MAKE,
        "scope": permissions.AUTHORIZATIONS_WRITE,
    }
    assert admitted(principal(Kind.SERVICE, scopes={"authorizations:write"}), **words)
    assert admitted(principal(Kind.ORGANIZATION, granted={"calls:make"}), **words)
    with pytest.raises(ScopeMissing):
        admitted(principal(Kind.ORGANIZATION, scopes={"authorizations:write"}), **words)


def test_a_scope_gives_a_customers_key_nothing_but_what_scopes_are_for() -> None:
    asked = permissions.ALL | permissions.SERVICE_SCOPES
    assert permissions.effective(scopes=asked, role=None) == permissions.CUSTOMER_SCOPES


def test_a_role_only_takes_away() -> None:
    assert permissions.effective(scopes=[], role=permissions.ALL) == permissions.BASE
    assert permissions.effective(scopes=["keys:manage"], role=["keys:manage"]) == {"keys:manage"}
    assert permissions.effective(scopes=["keys:manage"], role=[]) == frozenset()


def test_who_reads_all_usage_reads_their_own() -> None:
    assert "usage:read_own" in permissions.effective(scopes=[], role=["usage:read_all"])
    assert "usage:read_all" not in permissions.effective(scopes=[], role=["usage:read_own"])
