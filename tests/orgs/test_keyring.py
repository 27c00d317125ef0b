"""Keys managed with a key: nothing is handed on that the managing key does not have."""

from typing import Any

import pytest

from core import ids
from core.errors import Conflict, InvalidApiKey, InvalidCursor, ModelNotFound, NotFound, OutOfRange, ScopeMissing
from orgs import addresses, audit, keyring, keys, permissions, principals
from orgs.keyring import Person, Wish
from orgs.keys import IssuedKey
from orgs.models import ApiKey, Member, Organization, Project
from orgs.principals import Principal
from tests.orgs import world


def speak(issued: IssuedKey, header: str | None = None) -> Principal:
    return principals.identify(secret=issued.secret, header=header, address=None)


def manager(of: Organization, **options: Any) -> Principal:
    return speak(world.organization_key(of, name="manager", scopes=["keys:manage"], **options))


def shown(issued: IssuedKey) -> str:
    return ids.show("key", issued.key.pk)


@pytest.mark.django_db
def test_an_organizations_key_makes_keys_of_the_organization() -> None:
    acme = world.organization()
    made = keyring.issue(principal=manager(acme), wish=Wish(name="new"))
    facts = keys.verify(made.secret)
    assert (facts.kind, facts.organization_id, facts.user_id) == ("organization", acme.pk, None)


@pytest.mark.django_db
def test_a_personal_key_makes_personal_keys_and_an_organizations_where_the_header_says() -> None:
    ada = world.person()
    acme = world.organization("acme-labs", owner=ada)
    hers = world.personal_key(ada, scopes=["keys:manage"])
    own = keyring.issue(principal=speak(hers), wish=Wish(name="own")).key
    shared = keyring.issue(principal=speak(hers, "acme-labs"), wish=Wish(name="shared")).key
    assert (own.kind, own.organization_id, own.user_id) == ("personal", world.personal(ada).pk, ada.pk)
    assert (shared.kind, shared.organization_id, shared.user_id) == ("organization", acme.pk, None)
    assert own.created_by_id == shared.created_by_id == ada.pk


@pytest.mark.django_db
def test_a_key_passes_on_no_scope_that_it_lacks() -> None:
    acme = world.organization()
    with pytest.raises(ScopeMissing):
        keyring.issue(principal=manager(acme), wish=Wish(name="new", scopes=["billing:manage"]))
    made = keyring.issue(principal=manager(acme), wish=Wish(name="new", scopes=["keys:manage"]))
    assert made.key.scopes == ["keys:manage"]


@pytest.mark.django_db
def test_rotating_a_stronger_key_would_hand_its_scopes_on_so_it_is_refused() -> None:
    acme = world.organization()
    strong = world.organization_key(acme, scopes=["billing:manage"])
    with pytest.raises(ScopeMissing):
        keyring.rotate(principal=manager(acme), key_id=shown(strong))
    keys.verify(strong.secret)
    keyring.delete(principal=manager(acme), key_id=shown(strong))
    with pytest.raises(InvalidApiKey):
        keys.verify(strong.secret)


@pytest.mark.django_db
def test_limits_of_models_and_networks_are_inherited_and_may_only_be_narrowed() -> None:
    acme = world.organization()
    # One of them has left the catalog since.
    key = world.organization_key(acme, scopes=["keys:manage"], models=["gone", "gpt-4o"], cidrs=["10.0.0.0/8"])
    who = principals.identify(secret=key.secret, header=None, address=addresses.read("10.1.1.1"))
    same = keyring.issue(principal=who, wish=Wish(name="same")).key
    assert (same.allowed_models, same.cidrs) == (["gone", "gpt-4o"], ["10.0.0.0/8"])
    narrow = keyring.issue(principal=who, wish=Wish(name="narrow", models=["gpt-4o"], cidrs=["10.2.0.0/16"])).key
    assert (narrow.allowed_models, narrow.cidrs) == (["gpt-4o"], ["10.2.0.0/16"])
    beyond = Wish(name="wide", models=["gpt-4o", "deepseek-chat"]), Wish(name="wide", cidrs=["10.0.0.0/8", "::1"])
    for wish in beyond:
        with pytest.raises(ScopeMissing):
            keyring.issue(principal=who, wish=wish)
    with pytest.raises(ScopeMissing):
        keyring.rotate(principal=who, key_id=shown(world.organization_key(acme)))


@pytest.mark.django_db
def test_a_key_names_only_models_that_there_are() -> None:
    who = manager(world.organization())
    # An id, an alias, a route of ours.
    told = ["gpt-4o", "gpt-5-2025-08-07", "deepai-chat"]
    assert keyring.issue(principal=who, wish=Wish(name="new", models=told)).key.allowed_models == [
        "deepai-chat", "gpt-4o", "gpt-5-2025-08-07",
    ]  # fmt: skip
    for wrong in ("gpt-9", "GPT-4o", "gpt-4o ", "*", "gpt-*"):
        with pytest.raises(ModelNotFound) as refused:
            keyring.issue(principal=who, wish=Wish(name="typo", models=["gpt-4o", wrong]))
        assert (refused.value.param, str(refused.value)) == (
            "models", f"No model with the id {wrong} is in the catalog.",
        )  # fmt: skip
    assert not ApiKey.objects.filter(name="typo").exists()


@pytest.mark.django_db
def test_what_looks_like_a_secret_is_not_repeated_as_a_models_name() -> None:
    with pytest.raises(OutOfRange) as refused:
        keyring.issue(principal=manager(world.organization()), wish=Wish(name="new", models=[keys.new_secret()]))
    assert str(refused.value) == "models holds what looks like a secret."


@pytest.mark.django_db
def test_a_projects_key_sees_and_makes_only_keys_of_its_project() -> None:
    acme = world.organization()
    project = Project.objects.create(organization=acme, name="apollo")
    who = manager(acme, project_id=project.pk)
    other = world.organization_key(acme)
    made = keyring.issue(principal=who, wish=Wish(name="new"))
    assert made.key.project_id == project.pk
    found, _ = keyring.page(principal=who, limit=100, after=None)
    assert {key.project_id for key in found} == {project.pk}
    with pytest.raises(NotFound):
        keyring.delete(principal=who, key_id=shown(other))


@pytest.mark.django_db
def test_a_wrong_value_is_out_of_range_before_anything_is_stored() -> None:
    with pytest.raises(OutOfRange):
        keyring.issue(principal=manager(world.organization()), wish=Wish(name="new", cidrs=["everywhere"]))


@pytest.mark.django_db
def test_a_walk_over_pages_sees_every_key_once_newest_first() -> None:
    acme = world.organization()
    who = manager(acme)
    made = [world.organization_key(acme, name=str(number)) for number in range(7)]
    seen: list[ApiKey] = []
    after = None
    more = True
    while more:
        found, more = keyring.page(principal=who, limit=3, after=after)
        seen += found
        after = ids.show("key", found[-1].pk)
    assert [key.pk for key in seen] == sorted([who.key_id, *(each.key.pk for each in made)], reverse=True)


@pytest.mark.django_db
def test_the_last_page_is_known_to_be_the_last() -> None:
    acme = world.organization()
    who = manager(acme)
    world.organization_key(acme)
    assert keyring.page(principal=who, limit=2, after=None)[1] is False
    assert keyring.page(principal=who, limit=1, after=None)[1] is True


@pytest.mark.django_db
def test_a_deleted_key_leaves_the_list_and_remains_a_cursor() -> None:
    acme = world.organization()
    who = manager(acme)
    made = [world.organization_key(acme) for _ in range(3)]
    every = sorted([who.key_id, *(each.key.pk for each in made)], reverse=True)
    gone = every[1] if every[1] != who.key_id else every[2]
    keyring.delete(principal=who, key_id=ids.show("key", gone))
    found = [key.pk for key in keyring.page(principal=who, limit=10, after=None)[0]]
    assert found == [each for each in every if each != gone]
    found = [key.pk for key in keyring.page(principal=who, limit=10, after=ids.show("key", gone))[0]]
    assert found == [each for each in every if each < gone]


@pytest.mark.django_db
def test_a_foreign_cursor_and_a_made_up_one_are_the_same() -> None:
    acme, other = world.organization("acme-labs"), world.organization("other")
    who = manager(acme)
    foreign = shown(world.organization_key(other))
    answers = set()
    for after in (foreign, ids.show("key", ids.new()), "key_1", "usage_" + foreign[4:], " ", "\x00"):
        with pytest.raises(InvalidCursor) as refusal:
            keyring.page(principal=who, limit=10, after=after)
        answers.add(str(refusal.value))
    assert len(answers) == 1


@pytest.mark.django_db
def test_a_revoked_key_is_listed_and_not_rotated() -> None:
    acme = world.organization()
    who = manager(acme)
    old = world.organization_key(acme, name="old")
    keys.revoke(key_id=old.key.pk, by=world.BY)
    assert "old" in [key.name for key in keyring.page(principal=who, limit=10, after=None)[0]]
    with pytest.raises(Conflict):
        keyring.rotate(principal=who, key_id=shown(old))


def person_of(of: Organization, member: Member) -> Person:
    return Person(
        organization_id=of.pk, is_personal=of.is_personal, user_id=member.user_id,
        permissions=permissions.of_role(member.role.permissions), actor=audit.user(member.user),
    )  # fmt: skip


@pytest.mark.django_db
def test_a_person_makes_keys_of_the_organization_within_their_role() -> None:
    acme = world.organization()
    admin = person_of(acme, world.member(acme, "ada@example.com", "admin"))
    made = keyring.issue(principal=admin, wish=Wish(name="new", scopes=["billing:manage"])).key
    assert (made.kind, made.organization_id, made.user_id, made.created_by_id) == (
        "organization", acme.pk, None, admin.user_id,
    )  # fmt: skip
    weak = person_of(acme, world.member(acme, "bob@example.com"))
    with pytest.raises(ScopeMissing):
        keyring.issue(principal=weak, wish=Wish(name="new"))
    with pytest.raises(ScopeMissing):
        keyring.rotate(principal=weak, key_id=ids.show("key", made.pk))


@pytest.mark.django_db
def test_a_person_at_home_makes_personal_keys() -> None:
    ada = world.person()
    home = world.personal(ada)
    here = person_of(home, Member.objects.for_org(home.pk).get())
    made = keyring.issue(principal=here, wish=Wish(name="mine")).key
    assert (made.kind, made.organization_id, made.user_id) == ("personal", home.pk, ada.pk)


@pytest.mark.django_db
def test_a_key_is_revoked_by_its_organization_only_and_stays_listed() -> None:
    acme, other = world.organization(), world.organization("other")
    issued = world.organization_key(acme)
    with pytest.raises(NotFound):
        keyring.revoke(principal=manager(other), key_id=shown(issued))
    with pytest.raises(NotFound):
        keyring.find(principal=manager(other), key_id=shown(issued))
    own = manager(acme)
    assert keyring.revoke(principal=own, key_id=shown(issued)).revoked_at is not None
    assert keyring.find(principal=own, key_id=shown(issued)).revoked_at is not None
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)
