"""Ids of other systems: whom they stand for, who may say so, and the command that says it."""

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from core import ids
from core.errors import Conflict, NotFound, OutOfRange
from orgs import externals, keys
from orgs.externals import ExternalFacts
from orgs.models import AuditEntry, ExternalId
from tests import desk
from tests.orgs import world

pytestmark = pytest.mark.django_db
NAME = ("team", "team-1")


def put(**told: Any) -> ExternalId:
    return externals.put(kind=NAME[0], value=NAME[1], by=world.BY, **told)


def known(reporter: Any = None) -> ExternalFacts | None:
    return externals.resolve([NAME], reporter=reporter).get(NAME)


def test_an_id_stands_for_an_organization_a_person_or_a_key() -> None:
    acme, ada = world.organization("acme-labs"), world.person("ada@example.com")
    own, mine = world.organization_key(acme).key, world.personal_key(ada).key
    put(organization=acme)
    assert known() == ExternalFacts(acme.pk)
    put(user=ada)
    assert known() == ExternalFacts(world.personal(ada).pk, user_id=ada.pk)
    put(api_key=own)
    assert known() == ExternalFacts(acme.pk, api_key_id=own.pk)
    put(api_key=mine)
    assert known() == ExternalFacts(world.personal(ada).pk, api_key_id=mine.pk, user_id=ada.pk)
    assert ExternalId.objects.count() == 1


def test_nobody_is_found_for_an_id_of_another_kind_or_one_that_was_dropped() -> None:
    row = put(organization=world.organization("acme-labs"))
    assert externals.resolve([("user", "team-1"), ("team", "team-2")], reporter=None) == {}
    externals.drop(external_id=row.pk, by=world.BY)
    assert known() is None
    with pytest.raises(NotFound):
        externals.drop(external_id=row.pk, by=world.BY)


def test_a_reporters_own_mapping_hides_the_general_one_for_it_alone() -> None:
    acme, other = world.organization("acme-labs"), world.organization("other-inc")
    one, two = world.service_key(name="one").key, world.service_key(name="two").key
    put(organization=acme)
    put(organization=other, reporter=one)
    assert known(one.pk) == ExternalFacts(other.pk)
    assert known(two.pk) == known() == ExternalFacts(acme.pk)


def test_every_change_is_in_the_audit_trail() -> None:
    acme = world.organization("acme-labs")
    key = world.organization_key(acme).key
    row = put(organization=acme)
    put(api_key=key)
    externals.drop(external_id=row.pk, by=world.BY)
    trail = AuditEntry.objects.filter(subject_id=ids.show("ext", row.pk)).order_by("id")
    org, shown = ids.show("org", acme.pk), ids.show("key", key.pk)
    assert [(each.verb, each.organization_id, each.details) for each in trail] == [
        ("external_id.mapped", acme.pk, {"kind": "team", "value": "team-1", "from": None, "to": org}),
        ("external_id.mapped", acme.pk, {"kind": "team", "value": "team-1", "from": org, "to": shown}),
        ("external_id.dropped", acme.pk, {"kind": "team", "value": "team-1", "from": shown}),
    ]


def test_what_cannot_be_mapped_is_refused_by_its_name() -> None:
    acme, gateway = world.organization("acme-labs"), world.service_key().key
    own = world.organization_key(acme).key
    good: dict[str, Any] = {"kind": "key", "value": "hash", "by": world.BY, "organization": acme}
    for wrong, param in (
        ({"kind": "project"}, "kind"), ({"value": ""}, "value"), ({"value": "a\nb"}, "value"),
        ({"value": "x" * 129}, "value"), ({"value": keys.new_secret()}, "value"), ({"value": " a"}, "value"),
        ({"organization": None}, "value"), ({"api_key": own}, "value"),
        ({"organization": None, "api_key": gateway}, "api_key"), ({"reporter": own}, "reporter"),
    ):  # fmt: skip
        with pytest.raises(OutOfRange) as refused:
            externals.put(**{**good, **wrong})
        assert refused.value.param == param, wrong


def test_the_database_keeps_one_target_for_each_id() -> None:
    acme = world.organization("acme-labs")
    put(organization=acme)
    for wrong in (
        ExternalId(kind="team", value="team-1", organization=acme),
        ExternalId(kind="team", value="none"),
        ExternalId(kind="team", value="two", organization=acme, user=world.person()),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            wrong.save(force_insert=True)


def test_two_who_map_an_id_at_once_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    acme = world.organization("acme-labs")
    put(organization=acme)
    # The one does not see the other's row yet.
    monkeypatch.setattr(ExternalId.objects, "select_for_update", lambda **_: ExternalId.objects.none())
    with pytest.raises(Conflict):
        put(organization=acme)


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("map_external", *words, stdout=out)
    return out.getvalue()


def test_the_command_maps_and_forgets() -> None:
    acme, ada = world.organization("acme-labs"), world.person("ada@example.com")
    key, gateway = world.organization_key(acme).key, world.service_key().key
    told = json.loads(run(*NAME, "--organization", "ACME-labs", "--json"))
    assert told["status"] == "mapped"
    assert ids.read("ext", told["external_id"]) == ExternalId.objects.get().pk
    assert known() == ExternalFacts(acme.pk)
    assert run(*NAME, "--user", "Ada@example.com") == "mapped: team team-1\n"
    assert known() == ExternalFacts(world.personal(ada).pk, user_id=ada.pk)
    run(*NAME, "--key", ids.show("key", key.pk), "--reporter", ids.show("key", gateway.pk))
    assert known(gateway.pk) == ExternalFacts(acme.pk, api_key_id=key.pk)
    run(*NAME, "--forget")
    assert (known(), ExternalId.objects.count()) == (None, 1)
    for words, said in (
        ((*NAME, "--forget"), "not mapped"),
        ((*NAME, "--organization", "nobody"), "no such organization"),
        ((*NAME, "--user", "nobody@example.com"), "no such user"),
        ((*NAME, "--key", "key_x"), "api_key is the id of a key"),
        ((*NAME, "--organization", "acme-labs", "--reporter", ids.show("key", ids.new())), "no such reporter"),
    ):
        with pytest.raises(CommandError, match=said):
            run(*words)


def test_the_desk_maps_and_forgets() -> None:
    acme = world.organization("acme-labs")
    client = desk.superuser()
    form = {"kind": "team", "value": "team-1", "user": "", "api_key": "", "reporter": ""}
    desk.send(client, "/admin/orgs/externalid/map/", **form, organization="acme-labs")
    assert known() == ExternalFacts(acme.pk)
    row = ExternalId.objects.get()
    assert "team-1" in desk.read(client, desk.listing(ExternalId)).text
    refused = desk.send(client, "/admin/orgs/externalid/map/", **form, organization="nobody")
    assert "There is no such organization." in desk.errors(refused)
    desk.send(client, desk.page(row, "forget"))
    assert known() is None
