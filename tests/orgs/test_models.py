"""What the tables themselves refuse, and what a read of one organization sees."""

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from core import clock
from orgs.models import ApiKey, AuditEntry, CacheEpoch, Member, Organization, Project, Role
from tests.orgs import world


def refused(verb: Any) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        verb()


@pytest.mark.django_db
@pytest.mark.parametrize("model", [ApiKey, Member, Project, AuditEntry])
def test_the_rows_of_an_organization_are_its_own_and_no_others(model: Any) -> None:
    for slug in ("acme-labs", "other"):
        each = world.organization(slug)
        world.organization_key(each)
        Project.objects.create(organization=each, name="apollo")
    acme = Organization.objects.get(slug="acme-labs")
    rows = model.objects.for_org(acme.pk)
    assert rows.exists()
    assert {row.organization_id for row in rows} == {acme.pk}
    assert model.objects.exclude(organization=acme).exists()


@pytest.mark.django_db
def test_a_person_is_an_active_member_once_and_a_past_one_any_number_of_times() -> None:
    acme = world.organization()
    owner = Member.objects.get(organization=acme)
    again = {"organization": acme, "user": owner.user, "role": owner.role}
    refused(lambda: Member.objects.create(**again))
    for _ in range(2):
        Member.objects.create(**again, removed_at=clock.now())
    assert Member.objects.filter(organization=acme).count() == 3


@pytest.mark.django_db
def test_a_person_has_one_personal_organization() -> None:
    ada = world.person()
    refused(lambda: Organization.objects.create(slug="second", name="x", personal_of=ada))


@pytest.mark.django_db
def test_a_projects_name_is_free_again_once_it_is_archived() -> None:
    acme = world.organization()
    first = Project.objects.create(organization=acme, name="apollo")
    refused(lambda: Project.objects.create(organization=acme, name="apollo"))
    Project.objects.filter(pk=first.pk).update(archived_at=clock.now())
    Project.objects.create(organization=acme, name="apollo")


@pytest.mark.django_db
def test_the_cache_epoch_is_one_row() -> None:
    assert CacheEpoch.objects.count() == 1
    refused(lambda: CacheEpoch.objects.create(id=2))


@pytest.mark.django_db
def test_a_digest_stands_for_one_key() -> None:
    acme = world.organization()
    first, second = world.organization_key(acme).key, world.organization_key(acme).key
    refused(lambda: ApiKey.objects.filter(pk=second.pk).update(digest=first.digest))


@pytest.mark.django_db
def test_what_others_point_at_is_not_deleted() -> None:
    from django.db.models import ProtectedError

    acme = world.organization()
    for row in (acme, Member.objects.get(organization=acme).user, Role.objects.get(name="owner")):
        with pytest.raises(ProtectedError):
            row.delete()


@pytest.mark.django_db
def test_the_tables_have_the_names_that_others_script_against() -> None:
    names = {
        "account_user",
        "organization",
        "member",
        "role",
        "project",
        "api_key",
        "audit_entry",
        "cache_epoch",
    }
    assert names <= set(connection.introspection.table_names())
