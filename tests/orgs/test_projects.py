"""Projects: made, renamed and archived in the open, and what keys may belong to."""

import json
from typing import Any

import pytest
from django.test import Client

from core import clock, ids
from core.errors import Conflict, NotFound, OutOfRange, ScopeMissing
from orgs import keyring, keys, projects
from orgs.keyring import Wish
from orgs.models import ApiKey, AuditEntry, Organization, Project
from tests.orgs import world
from tests.orgs.test_keyring import manager, speak

pytestmark = pytest.mark.django_db


def made(of: Organization, name: str = "apollo") -> Project:
    return projects.create(organization=of, name=name, by=world.BY)


def shown(project: Project) -> str:
    return ids.show("proj", project.pk)


def test_a_project_is_made_and_the_trail_says_by_whom() -> None:
    acme = world.organization()
    project = made(acme, "  Apollo 11 ")
    stands = Project.objects.get()
    assert (stands.pk, stands.organization_id, stands.name, stands.archived_at) == (
        project.pk, acme.pk, "Apollo 11", None,
    )  # fmt: skip
    row = AuditEntry.objects.get(subject_id=shown(project))
    assert (row.verb, row.organization_id, row.actor_label, row.details) == (
        "project.created", acme.pk, "tests", {"name": "Apollo 11"},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines", keys.new_secret()])
def test_a_name_is_printable_short_and_no_secret(name: str) -> None:
    acme = world.organization()
    project = made(acme)
    with pytest.raises(OutOfRange) as caught:
        made(acme, name)
    assert caught.value.param == "name"
    with pytest.raises(OutOfRange):
        projects.rename(organization=acme, project_id=project.pk, name=name, by=world.BY)
    assert Project.objects.get().name == "apollo"


def test_a_name_stands_once_in_an_organization_until_it_is_archived() -> None:
    acme, other = world.organization(), world.organization("other")
    first, second = made(acme), made(acme, "gemini")
    made(other)
    with pytest.raises(Conflict):
        made(acme)
    with pytest.raises(Conflict):
        projects.rename(organization=acme, project_id=second.pk, name="apollo", by=world.BY)
    projects.archive(organization=acme, project_id=first.pk, by=world.BY)
    projects.rename(organization=acme, project_id=second.pk, name="apollo", by=world.BY)
    trail = AuditEntry.objects.filter(subject_id=shown(second)).order_by("at")
    assert [(row.verb, row.details) for row in trail] == [
        ("project.created", {"name": "gemini"}), ("project.renamed", {"from": "gemini", "to": "apollo"}),
    ]  # fmt: skip


def test_what_changes_nothing_leaves_no_trail() -> None:
    acme = world.organization()
    project = made(acme)
    projects.rename(organization=acme, project_id=project.pk, name="apollo", by=world.BY)
    first = projects.archive(organization=acme, project_id=project.pk, by=world.BY)
    again = projects.archive(organization=acme, project_id=project.pk, by=world.BY)
    assert first.archived_at == again.archived_at is not None
    verbs = AuditEntry.objects.filter(subject_id=shown(project)).order_by("at").values_list("verb", flat=True)
    assert list(verbs) == ["project.created", "project.archived"]


def test_a_project_is_found_within_its_organization_only() -> None:
    acme, other = world.organization(), world.organization("other")
    theirs, archived = made(other), made(acme)
    projects.archive(organization=acme, project_id=archived.pk, by=world.BY)
    for verb in (projects.rename, projects.archive):
        more: Any = {"name": "mine"} if verb is projects.rename else {}
        with pytest.raises(NotFound):
            verb(organization=acme, project_id=theirs.pk, by=world.BY, **more)
    told = set()
    for text in (shown(theirs), shown(archived), ids.show("proj", ids.new()), "apollo", "", ids.show("key", theirs.pk)):
        with pytest.raises(OutOfRange) as caught:
            projects.find_open(organization_id=acme.pk, shown=text)
        told.add((str(caught.value), caught.value.param))
    assert told == {("There is no such project.", "project")}
    assert projects.find_open(organization_id=other.pk, shown=shown(theirs)).pk == theirs.pk


def test_a_person_alone_has_no_projects() -> None:
    ada = world.person()
    with pytest.raises(Conflict):
        made(world.personal(ada))
    own = speak(world.personal_key(ada, scopes=["keys:manage"]))
    with pytest.raises(OutOfRange):
        keyring.issue(principal=own, wish=Wish(name="new", project=ids.show("proj", ids.new())))


def test_a_key_is_made_in_a_project_and_the_trail_says_which() -> None:
    acme = world.organization()
    project = made(acme)
    issued = keyring.issue(principal=manager(acme), wish=Wish(name="new", project=shown(project)))
    assert keys.verify(issued.secret).project_id == project.pk
    row = AuditEntry.objects.get(subject_id=ids.show("key", issued.key.pk))
    assert row.details["project"] == shown(project)
    plain = keyring.issue(principal=manager(acme), wish=Wish(name="plain"))
    assert AuditEntry.objects.get(subject_id=ids.show("key", plain.key.pk)).details["project"] is None


def test_a_projects_key_makes_keys_of_its_project_and_of_no_other() -> None:
    acme = world.organization()
    own, other = made(acme), made(acme, "gemini")
    who = manager(acme, project_id=own.pk)
    assert keyring.issue(principal=who, wish=Wish(name="a", project=shown(own))).key.project_id == own.pk
    with pytest.raises(ScopeMissing) as caught:
        keyring.issue(principal=who, wish=Wish(name="b", project=shown(other)))
    assert caught.value.param == "project"


def test_an_archived_project_keeps_its_keys_and_takes_no_new_ones() -> None:
    acme = world.organization()
    project = made(acme)
    key = keyring.issue(principal=manager(acme), wish=Wish(name="old", project=shown(project)))
    projects.archive(organization=acme, project_id=project.pk, by=world.BY)
    assert keys.verify(key.secret).project_id == project.pk
    with pytest.raises(OutOfRange):
        keyring.issue(principal=manager(acme), wish=Wish(name="new", project=shown(project)))
    assert ApiKey.objects.filter(project=project).count() == 1


def test_the_body_of_a_new_key_names_its_project() -> None:
    acme = world.organization()
    project = made(acme)
    secret = world.organization_key(acme, name="manager", scopes=["keys:manage"]).secret

    def post(named: object) -> Any:
        return Client().post(
            "/v1/keys", json.dumps({"name": "new", "project": named}), content_type="application/json",
            headers={"Authorization": f"Bearer {secret}"},
        )  # fmt: skip

    assert post(shown(project)).json()["project_id"] == shown(project)
    assert post(None).json()["project_id"] is None
    for named, status, code in ((7, 400, "invalid_type"), ("proj_x", 422, "value_out_of_range")):
        error = post(named).json()["error"]
        assert (post(named).status_code, error["code"], error["param"]) == (status, code, "project")


def test_the_time_of_archiving_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    acme = world.organization()
    project = made(acme)
    then = clock.now()
    monkeypatch.setattr(clock, "now", lambda: then)
    assert projects.archive(organization=acme, project_id=project.pk, by=world.BY).archived_at == then
