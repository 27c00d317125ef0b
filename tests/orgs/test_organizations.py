"""People and organizations: how they come to be and how they are found."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from core.errors import Conflict, OutOfRange
from orgs import members, organizations
from orgs.models import AuditEntry, Member, Organization, User
from tests.books import Books
from tests.orgs import world


@pytest.mark.django_db
def test_the_creator_is_the_owner() -> None:
    ada = world.person()
    acme = organizations.create(slug="acme-labs", name="Acme", owner=ada, by=world.BY, time_zone="Europe/Berlin")
    assert (acme.slug, acme.name, acme.time_zone, acme.is_personal) == ("acme-labs", "Acme", "Europe/Berlin", False)
    found = members.find(organization_id=acme.pk, user_id=ada.pk)
    assert found is not None
    assert found.role == "owner"
    verbs = AuditEntry.objects.for_org(acme.pk).order_by("at").values_list("verb", flat=True)
    assert list(verbs) == ["organization.created", "member.added"]


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ["a", "0", "acme", "acme-labs", "a--b", "a" * 63])
def test_a_slug_is_up_to_63_letters_digits_and_inner_hyphens(slug: str) -> None:
    assert organizations.create(slug=slug, owner=world.person(), by=world.BY).slug == slug


@pytest.mark.django_db
@pytest.mark.parametrize(
    "slug", ["", "-a", "a-", "A", "a_b", "a b", "a.b", "a" * 64, "é", "a\n", "personal-x", "a/b", "а"]
)
def test_other_slugs_are_refused(slug: str) -> None:
    with pytest.raises(OutOfRange) as refusal:
        organizations.create(slug=slug, owner=world.person(), by=world.BY)
    assert refusal.value.param == "slug"


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ["A", "-a", "a" * 64, "", "a\n"])
def test_the_database_refuses_a_bad_slug_too(slug: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Organization.objects.create(slug=slug, name="x")


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "localtime", "../etc/passwd", "utc", "UTC+2"])
def test_a_time_zone_is_an_iana_name(zone: str) -> None:
    with pytest.raises(OutOfRange) as refusal:
        organizations.create(slug="acme", owner=world.person(), by=world.BY, time_zone=zone)
    assert refusal.value.param == "time_zone"


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["x" * 101, "two\nlines", "nul\x00"])
def test_a_name_is_short_and_printable(name: str) -> None:
    with pytest.raises(OutOfRange) as refusal:
        organizations.create(slug="acme", name=name, owner=world.person(), by=world.BY)
    assert refusal.value.param == "name"


@pytest.mark.django_db
def test_a_slug_is_taken_once() -> None:
    world.organization("acme-labs")
    with pytest.raises(Conflict):
        world.organization("acme-labs", owner=world.person())
    assert Organization.objects.filter(slug="acme-labs").count() == 1


def test_two_who_want_the_same_slug_at_once_get_one(books: Books) -> None:
    people = [world.person(f"p{number}@example.com") for number in range(4)]

    def want(person: User) -> bool:
        try:
            organizations.create(slug="acme-labs", owner=person, by=world.BY)
        except Conflict:
            return False
        return True

    assert sum(books.together([lambda each=each: want(each) for each in people])) == 1  # type: ignore[misc]


@pytest.mark.django_db
def test_a_person_comes_with_a_personal_organization_of_which_they_are_the_owner() -> None:
    ada = organizations.ensure_user(" Ada@Example.COM ", by=world.BY)
    assert ada.email == "ada@example.com"
    assert not ada.has_usable_password()
    own = Organization.objects.get(personal_of=ada)
    assert own.is_personal
    assert own.slug.startswith("personal-")
    assert Member.objects.get(organization=own).role.name == "owner"


@pytest.mark.django_db
def test_the_same_person_is_made_once() -> None:
    first = organizations.ensure_user("ada@example.com", by=world.BY)
    again = organizations.ensure_user("ADA@example.com", by=world.BY)
    assert first.pk == again.pk
    assert Organization.objects.filter(personal_of=first).count() == 1
    assert AuditEntry.objects.filter(verb="user.created").count() == 1


def test_a_person_wanted_by_many_at_once_is_made_once(books: Books) -> None:
    made = books.together([lambda: organizations.ensure_user("ada@example.com", by=world.BY)] * 6)
    assert len({person.pk for person in made}) == 1
    assert Organization.objects.filter(personal_of=made[0]).count() == 1
    assert Member.objects.count() == 1


@pytest.mark.django_db
def test_a_person_without_a_personal_organization_gets_one() -> None:
    root = User.objects.create_superuser("root@example.com", "correct horse battery")
    own = organizations.ensure_personal(root, by=world.BY)
    assert own.personal_of_id == root.pk


@pytest.mark.django_db
@pytest.mark.parametrize("email", ["", "ada", "ada@", "a b@example.com", "ada@example.com\n\nx"])
def test_what_is_no_address_is_no_person(email: str) -> None:
    with pytest.raises(OutOfRange):
        organizations.ensure_user(email, by=world.BY)
    assert not User.objects.exists()


@pytest.mark.django_db
def test_the_database_keeps_addresses_in_lower_case() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create(email="Ada@example.com")


@pytest.mark.django_db
def test_a_person_signs_in_with_an_address_in_any_case() -> None:
    made = User.objects.create_user("Ada@Example.com", "correct horse battery")
    assert User.objects.get_by_natural_key("ADA@example.com") == made
    assert made.check_password("correct horse battery")


@pytest.mark.django_db
def test_organizations_are_found_by_slug_and_by_id_in_one_query(django_assert_num_queries: Any) -> None:
    made = [world.organization(f"acme-{number}") for number in range(3)]
    with django_assert_num_queries(1):
        by_slug = organizations.find_slugs(["acme-0", "acme-1", "acme-2", "none"])
    with django_assert_num_queries(1):
        by_id = organizations.find_ids([each.pk for each in made])
    assert {slug: facts.id for slug, facts in by_slug.items()} == {each.slug: each.pk for each in made}
    assert set(by_id.values()) == set(by_slug.values())


def test_a_new_organization_is_found_at_once_though_it_was_looked_for_before(books: Books) -> None:
    assert organizations.find_slugs(["acme-labs"]) == {}
    acme = world.organization("acme-labs")
    assert organizations.find_slugs(["acme-labs"])["acme-labs"].id == acme.pk
