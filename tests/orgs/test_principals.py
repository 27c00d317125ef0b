"""Whom a request speaks for: contract 12, and headers that lie."""

from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest

from core import clock
from core.errors import InvalidApiKey, IpNotAllowed, OrgAccessDenied
from orgs import keys, members, permissions, principals
from orgs.models import Kind, Organization
from orgs.principals import Principal
from tests.books import Books
from tests.orgs import world
from tests.proofs import proves

MALFORMED = [
    "acme-labs,acme-labs",
    "acme-labs, other",
    "acme-labs,",
    ",",
    "acme_labs",
    "acme labs",
    "-acme",
    "acme-",
    "a" * 64,
    "acme-labs\n",
    "*",
    "%",
    "acme-labs'--",
    "ａcme",
    "acme\u212a",
]


def resolve(secret: str, header: str | None = None, **options: Any) -> Principal:
    return principals.identify(secret=secret, header=header, address=None, **options)


@pytest.mark.django_db
@pytest.mark.parametrize("header", [None, "", "   ", "acme-labs", "ACME-Labs", " acme-labs "])
def test_an_organizations_key_charges_it_with_its_own_slug_or_none(header: str | None) -> None:
    acme = world.organization("acme-labs")
    found = resolve(world.organization_key(acme).secret, header)
    assert (found.organization_id, found.organization_slug, found.is_personal) == (acme.pk, "acme-labs", False)
    assert (found.user_id, found.member_id, found.kind) == (None, None, Kind.ORGANIZATION)


@proves("A02", guard="own_slug_only")
def test_an_organizations_key_with_another_slug_is_refused(books: Books) -> None:
    acme, _ = world.organization("acme-labs"), world.organization("other")
    secret = world.organization_key(acme).secret
    for slug in ("other", "no-such-organization"):
        with pytest.raises(OrgAccessDenied):
            resolve(secret, slug)


@pytest.mark.django_db
@pytest.mark.parametrize("header", [None, "", "  "])
def test_a_personal_key_without_a_header_charges_its_person(header: str | None) -> None:
    ada = world.person()
    found = resolve(world.personal_key(ada).secret, header)
    assert found.organization_id == world.personal(ada).pk
    assert (found.organization_slug, found.is_personal, found.user_id) == (None, True, ada.pk)
    assert found.member_id is not None


@pytest.mark.django_db
def test_a_personal_key_with_its_own_personal_slug_is_a_personal_call() -> None:
    ada = world.person()
    found = resolve(world.personal_key(ada).secret, world.personal(ada).slug)
    assert (found.organization_id, found.is_personal) == (world.personal(ada).pk, True)


@pytest.mark.django_db
def test_a_personal_key_of_a_member_charges_the_organization_that_the_header_names() -> None:
    acme = world.organization("acme-labs")
    member = world.member(acme, "ada@example.com")
    found = resolve(world.personal_key(member.user).secret, "Acme-Labs")
    assert (found.organization_id, found.organization_slug, found.is_personal) == (acme.pk, "acme-labs", False)
    assert (found.user_id, found.member_id) == (member.user_id, member.pk)


@proves("A02", guard="membership_is_required")
def test_a_personal_key_of_somebody_else_is_refused(books: Books) -> None:
    acme = world.organization("acme-labs")
    gone = world.member(acme, "gone@example.com")
    members.remove(organization=acme, member_id=gone.pk, by=world.BY)
    for person in (world.person("stranger@example.com"), gone.user):
        with pytest.raises(OrgAccessDenied):
            resolve(world.personal_key(person).secret, "acme-labs")


@pytest.mark.django_db
def test_not_a_member_and_no_such_organization_and_somebodys_own_are_one_answer() -> None:
    world.organization("acme-labs")
    closed = world.organization("closed")
    Organization.objects.filter(pk=closed.pk).update(closed_at=clock.now())
    neighbour = world.personal(world.person("neighbour@example.com")).slug
    secret = world.personal_key(world.person()).secret
    answers = set()
    for slug in ("acme-labs", "no-such-organization", "closed", neighbour, "a,b"):
        with pytest.raises(OrgAccessDenied) as refusal:
            resolve(secret, slug)
        answers.add((str(refusal.value), refusal.value.param, refusal.value.code, refusal.value.status))
    assert len(answers) == 1


def test_a_member_who_is_removed_is_refused_at_once(books: Books) -> None:
    acme = world.organization("acme-labs")
    member = world.member(acme, "ada@example.com")
    secret = world.personal_key(member.user).secret
    resolve(secret, "acme-labs")
    members.remove(organization=acme, member_id=member.pk, by=world.BY)
    with pytest.raises(OrgAccessDenied):
        resolve(secret, "acme-labs")


@proves("A02", guard="one_slug_in_the_header")
def test_a_header_that_is_not_one_slug_is_refused_for_every_kind_of_key(books: Books) -> None:
    ada = world.person()
    acme = world.organization("acme-labs", owner=ada)
    secrets = [world.organization_key(acme).secret, world.personal_key(ada).secret, world.service_key().secret]
    for secret in secrets:
        for header in MALFORMED:
            for default_only in (False, True):
                with pytest.raises(OrgAccessDenied):
                    resolve(secret, header, default_only=default_only)


@pytest.mark.django_db
def test_a_header_with_a_nul_never_reaches_the_database() -> None:
    for secret in (world.personal_key(world.person()).secret, world.service_key().secret):
        with pytest.raises(OrgAccessDenied):
            resolve(secret, "acme-labs\x00")


@pytest.mark.django_db
def test_a_service_key_speaks_for_nobody_until_the_request_names_an_organization() -> None:
    acme = world.organization("acme-labs")
    secret = world.service_key().secret
    nobody = resolve(secret)
    assert (nobody.organization_id, nobody.organization_slug, nobody.default_slug) == (None, None, None)
    named = resolve(secret, "ACME-labs")
    assert (named.organization_id, named.organization_slug, named.default_slug) == (acme.pk, "acme-labs", "acme-labs")
    assert named.permissions == frozenset()


@proves("A02", guard="service_keys_have_limits")
def test_a_service_key_names_only_the_organizations_it_was_made_for(books: Books) -> None:
    acme, _ = world.organization("acme-labs"), world.organization("other")
    secret = world.service_key(organizations=[acme.pk]).secret
    assert resolve(secret, "acme-labs").organization_id == acme.pk
    with pytest.raises(OrgAccessDenied):
        resolve(secret, "other")


@pytest.mark.django_db
def test_a_service_key_that_names_no_organization_we_know_is_refused() -> None:
    with pytest.raises(OrgAccessDenied):
        resolve(world.service_key().secret, "no-such-organization")


@pytest.mark.django_db
def test_for_events_a_service_keys_header_is_a_default_that_nobody_looks_up() -> None:
    secret = world.service_key(organizations=[UUID(int=1)]).secret
    found = resolve(secret, "No-Such-Organization", default_only=True)
    assert (found.organization_id, found.default_slug) == (None, "no-such-organization")


@pytest.mark.django_db
def test_a_personal_key_may_in_an_organization_what_its_owners_role_may_and_no_more() -> None:
    acme = world.organization("acme-labs")
    scopes = ["keys:manage", "billing:manage", "webhooks:manage"]
    seen = {}
    for role in ("owner", "admin", "billing", "member", "viewer"):
        member = world.member(acme, f"{role}@example.com", role)
        secret = world.personal_key(member.user, scopes=scopes).secret
        seen[role] = resolve(secret, "acme-labs").permissions
        assert resolve(secret).permissions == permissions.BASE | set(scopes)
    assert seen["member"] == {"calls:make", "usage:read_own", "wallet:read"}
    assert seen["viewer"] == {"usage:read_own", "usage:read_all", "wallet:read", "billing:read"}
    assert seen["billing"] == seen["viewer"] | {"billing:manage"}
    assert seen["admin"] == seen["owner"] == permissions.BASE | set(scopes)


@pytest.mark.django_db
def test_a_key_manages_nothing_that_its_scopes_do_not_name() -> None:
    ada = world.person()
    acme = world.organization("acme-labs", owner=ada)
    assert resolve(world.personal_key(ada).secret, "acme-labs").permissions == permissions.BASE
    assert resolve(world.organization_key(acme).secret).permissions == permissions.BASE
    scoped = world.organization_key(acme, scopes=["keys:manage"]).secret
    assert resolve(scoped).permissions == permissions.BASE | {"keys:manage"}


@pytest.mark.django_db
def test_a_key_with_networks_is_refused_from_elsewhere_and_from_nowhere() -> None:
    secret = world.organization_key(world.organization(), cidrs=["203.0.113.0/24"]).secret
    inside = principals.identify(secret=secret, header=None, address=ip_address("203.0.113.9"))
    assert inside.kind == Kind.ORGANIZATION
    for address in (ip_address("203.0.114.9"), ip_address("2001:db8::1"), None):
        with pytest.raises(IpNotAllowed):
            principals.identify(secret=secret, header=None, address=address)


@pytest.mark.django_db
def test_an_unknown_key_is_refused_before_its_header_is_looked_at() -> None:
    with pytest.raises(InvalidApiKey):
        resolve(keys.new_secret(), "a,b")


def test_a_known_principal_costs_no_query(books: Books, django_assert_num_queries: Any) -> None:
    acme = world.organization("acme-labs")
    member = world.member(acme, "ada@example.com")
    secrets = [
        (world.personal_key(member.user).secret, "acme-labs"),
        (world.organization_key(acme).secret, None),
        (world.service_key().secret, "acme-labs"),
    ]
    first = [resolve(*each) for each in secrets]
    with django_assert_num_queries(0):
        again = [resolve(*each) for each in secrets]
    assert again == first


@pytest.mark.django_db
def test_a_principal_shows_who_acts_and_no_secret() -> None:
    issued = world.organization_key(world.organization())
    found = resolve(issued.secret)
    assert found.actor.label == "ours"
    assert found.actor.id.startswith("key_")
    assert issued.secret[4:24] not in repr(found)
