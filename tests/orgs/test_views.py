"""Keys over HTTP."""

import json
from typing import Any

import pytest
from django.test import Client

from core import ids
from orgs import keys
from orgs.keys import IssuedKey
from orgs.models import ApiKey, Organization
from tests.books import Books
from tests.orgs import world
from tests.proofs import proves


class Caller:
    """A client with a key."""

    def __init__(self, issued: IssuedKey, organization: str = "") -> None:
        self.headers = {"Authorization": f"Bearer {issued.secret}", "X-DeepToken-Org": organization}
        self.client = Client()

    def get(self, path: str, **query: str) -> Any:
        return self.client.get(path, query, headers=self.headers)

    def post(self, path: str, body: Any = None) -> Any:
        text = "" if body is None else json.dumps(body)
        return self.client.post(path, text, content_type="application/json", headers=self.headers)

    def delete(self, path: str) -> Any:
        return self.client.delete(path, headers=self.headers)


def manager(of: Organization) -> Caller:
    return Caller(world.organization_key(of, name="manager", scopes=["keys:manage"]))


def refusal(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.django_db
def test_a_made_key_works_and_its_secret_is_shown_this_once() -> None:
    caller = manager(world.organization())
    answer = caller.post("/v1/keys", {"name": "build", "scopes": ["keys:manage"], "models": ["gpt-5"]})
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    assert (made["object"], made["name"], made["kind"], made["status"]) == (
        "api_key",
        "build",
        "organization",
        "active",
    )
    assert (made["scopes"], made["models"], made["cidrs"]) == (["keys:manage"], ["gpt-5"], [])
    assert (made["expires_at"], made["project_id"]) == (None, None)
    assert made["last_four"] == made["secret"][-4:]
    assert isinstance(made["created_at"], int)
    assert ids.show("key", keys.verify(made["secret"]).id) == made["id"]
    listed = caller.get("/v1/keys")
    assert made["secret"] not in listed.content.decode()
    assert {name: value for name, value in made.items() if name != "secret"} in listed.json()["data"]


@pytest.mark.django_db
def test_the_list_has_the_lists_five_fields_and_pages() -> None:
    acme = world.organization()
    caller = manager(acme)
    for number in range(4):
        world.organization_key(acme, name=str(number))
    first = caller.get("/v1/keys", limit="2").json()
    assert set(first) == {"object", "data", "first_id", "last_id", "has_more"}
    assert (first["object"], first["has_more"]) == ("list", True)
    assert [first["first_id"], first["last_id"]] == [each["id"] for each in first["data"]]
    rest = caller.get("/v1/keys", limit="100", after=first["last_id"]).json()
    shown = [each["id"] for each in first["data"] + rest["data"]]
    assert shown == sorted(shown, reverse=True)
    assert {each["name"] for each in first["data"] + rest["data"]} == {"3", "2", "1", "0", "manager"}
    assert rest["has_more"] is False


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"limit": "0"}, (422, "value_out_of_range", "limit")),
        ({"limit": "101"}, (422, "value_out_of_range", "limit")),
        ({"limit": "9" * 5000}, (400, "invalid_type", "limit")),
        ({"limit": "two"}, (400, "invalid_type", "limit")),
        ({"limit": "1.5"}, (400, "invalid_type", "limit")),
        ({"limit": ""}, (400, "invalid_type", "limit")),
        ({"limit": "١"}, (400, "invalid_type", "limit")),
        ({"after": "key_nothing"}, (400, "invalid_cursor", "after")),
        ({"after": "\x00"}, (400, "invalid_cursor", "after")),
    ],
)
def test_a_wrong_query_is_refused_by_its_parameter(query: dict[str, str], expected: tuple[int, str, str]) -> None:
    assert refusal(manager(world.organization()).get("/v1/keys", **query)) == expected


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "missing_required_parameter", "name")),
        ({"name": None}, (400, "missing_required_parameter", "name")),
        ({"name": 7}, (400, "invalid_type", "name")),
        ({"name": ""}, (422, "value_out_of_range", "name")),
        ({"name": "x", "scopes": "keys:manage"}, (400, "invalid_type", "scopes")),
        ({"name": "x", "scopes": ["keys:manage", 1]}, (400, "invalid_type", "scopes[1]")),
        ({"name": "x", "scopes": ["everything"]}, (422, "value_out_of_range", "scopes")),
        ({"name": "x", "scopes": ["billing:manage"]}, (403, "scope_missing", "scopes")),
        ({"name": "x", "models": {"a": 1}}, (400, "invalid_type", "models")),
        ({"name": "x", "models": ["gpt-4o", "gpt-9"]}, (400, "model_not_found", "models")),
        ({"name": "x", "cidrs": [None]}, (400, "invalid_type", "cidrs[0]")),
        ({"name": "x", "cidrs": ["300.0.0.0/8"]}, (422, "value_out_of_range", "cidrs")),
        ({"name": "x", "expires_at": "tomorrow"}, (400, "invalid_type", "expires_at")),
        ({"name": "x", "expires_at": True}, (400, "invalid_type", "expires_at")),
        ({"name": "x", "expires_at": 1.5}, (400, "invalid_type", "expires_at")),
        ({"name": "x", "expires_at": 1}, (422, "value_out_of_range", "expires_at")),
        ({"name": "x", "expires_at": -1}, (422, "value_out_of_range", "expires_at")),
        ({"name": "x", "expires_at": 10**30}, (422, "value_out_of_range", "expires_at")),
        ([], (400, "invalid_type", None)),
        (None, (400, "missing_required_parameter", "name")),
    ],
)
def test_a_wrong_body_is_refused_by_its_field_and_makes_nothing(
    body: Any, expected: tuple[int, str, str | None]
) -> None:
    caller = manager(world.organization())
    assert refusal(caller.post("/v1/keys", body)) == expected
    assert ApiKey.objects.count() == 1


@pytest.mark.django_db
def test_null_is_absent_and_unknown_fields_are_dropped() -> None:
    caller = manager(world.organization())
    body = {"name": "x", "scopes": None, "models": None, "cidrs": None, "expires_at": None, "colour": {"deep": [1]}}
    assert caller.post("/v1/keys", body).status_code == 201


@pytest.mark.django_db
def test_no_column_can_be_set_that_the_body_does_not_document() -> None:
    acme, other = world.organization("acme-labs"), world.organization("other")
    body = {
        **{field.name: "x" for field in ApiKey._meta.get_fields()},
        "id": ids.show("key", ids.new()),
        "kind": "service",
        "trust_client_header": True,
        "organization": str(other.pk),
        "organization_id": str(other.pk),
        "organizations": [str(other.pk)],
        "user_id": str(ids.new()),
        "project_id": str(ids.new()),
        "last_four": "0000",
        "digest": "0" * 32,
        "revoked_at": 1,
        "deleted_at": 1,
        "created_at": 1,
        "allowed_models": ["x"],
        "name": "x",
        "scopes": [],
        "cidrs": [],
        "expires_at": None,
        "project": None,
    }
    answer = manager(acme).post("/v1/keys", body)
    assert answer.status_code == 201, answer.content
    made = ApiKey.objects.get(name="x")
    assert (made.kind, made.organization_id, made.trust_client_header) == ("organization", acme.pk, False)
    assert (made.user_id, made.project_id, made.organizations, made.allowed_models) == (None, None, [], [])
    assert (made.revoked_at, made.deleted_at) == (None, None)
    assert ids.show("key", made.pk) != body["id"]
    assert made.created_at.year > 2000


@pytest.mark.django_db
def test_a_rotated_key_has_a_new_secret_under_its_old_id() -> None:
    acme = world.organization()
    old = world.organization_key(acme)
    path = f"/v1/keys/{ids.show('key', old.key.pk)}/rotate"
    answer = manager(acme).post(path)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["secret"] != old.secret
    assert keys.verify(answer.json()["secret"]).id == old.key.pk
    assert Caller(old).get("/v1/keys").status_code == 401


@pytest.mark.django_db
def test_a_deleted_key_is_gone_and_deleting_it_again_finds_nothing() -> None:
    acme = world.organization()
    caller = manager(acme)
    shown = ids.show("key", world.organization_key(acme).key.pk)
    answer = caller.delete(f"/v1/keys/{shown}")
    assert (answer.status_code, answer.json()) == (200, {"id": shown, "object": "api_key.deleted", "deleted": True})
    assert refusal(caller.delete(f"/v1/keys/{shown}")) == (404, "not_found", "key_id")
    assert refusal(caller.post(f"/v1/keys/{shown}/rotate")) == (404, "not_found", "key_id")


@pytest.mark.django_db
def test_a_revoked_key_is_shown_as_such_and_a_conflict_to_rotate() -> None:
    acme = world.organization()
    caller = manager(acme)
    issued = world.organization_key(acme)
    keys.revoke(key_id=issued.key.pk, by=world.BY)
    status = {each["id"]: each["status"] for each in caller.get("/v1/keys").json()["data"]}
    assert status[ids.show("key", issued.key.pk)] == "revoked"
    assert refusal(caller.post(f"/v1/keys/{ids.show('key', issued.key.pk)}/rotate")) == (409, "conflict", None)


@proves("A01", guard="keys_are_read_within_the_organization")
def test_a_neighbours_key_answers_exactly_like_a_made_up_one(books: Books) -> None:
    acme, other = world.organization("acme-labs"), world.organization("other")
    caller = manager(acme)
    neighbours = world.organization_key(other)
    strangers = world.personal_key(world.person("stranger@example.com"))
    gateways = world.service_key()
    made_up = [ids.show("key", ids.new()), "key_", "x", "%00", ids.show("org", acme.pk)]
    for method in ("delete", "rotate"):
        answers = set()
        for shown in [*(ids.show("key", each.key.pk) for each in (neighbours, strangers, gateways)), *made_up]:
            path = f"/v1/keys/{shown}"
            answer = caller.delete(path) if method == "delete" else caller.post(f"{path}/rotate")
            answers.add((answer.status_code, answer.content))
        assert len(answers) == 1
        assert next(iter(answers))[0] == 404
    for each in (neighbours, strangers, gateways):
        keys.verify(each.secret)
    assert [each["name"] for each in caller.get("/v1/keys").json()["data"]] == ["manager"]


@pytest.mark.django_db
def test_keys_are_managed_only_with_the_scope_and_the_role() -> None:
    ada = world.person()
    acme = world.organization("acme-labs", owner=ada)
    plain = Caller(world.organization_key(acme))
    assert refusal(plain.get("/v1/keys")) == (403, "scope_missing", None)
    member = world.member(acme, "member@example.com")
    scoped = world.personal_key(member.user, scopes=["keys:manage"])
    assert refusal(Caller(scoped, "acme-labs").get("/v1/keys")) == (403, "scope_missing", None)
    assert Caller(scoped).get("/v1/keys").status_code == 200
    owner = world.personal_key(ada, scopes=["keys:manage"])
    assert Caller(owner, "acme-labs").get("/v1/keys").status_code == 200


@pytest.mark.django_db
def test_methods_that_a_path_does_not_have_are_405_and_form_bodies_415() -> None:
    caller = manager(world.organization())
    assert refusal(caller.delete("/v1/keys")) == (405, "method_not_allowed", None)
    assert refusal(caller.get(f"/v1/keys/{ids.show('key', ids.new())}")) == (405, "method_not_allowed", None)
    form = caller.client.post("/v1/keys", {"name": "x"}, headers=caller.headers)
    assert refusal(form) == (415, "unsupported_media_type", None)


@pytest.mark.django_db
def test_the_list_takes_as_many_queries_for_a_hundred_keys_as_for_one(django_assert_max_num_queries: Any) -> None:
    acme = world.organization()
    caller = manager(acme)
    for number in range(30):
        world.organization_key(acme, name=str(number))
    # In a transaction that has bumped, the caches are read past: key, organization and then the list.
    with django_assert_max_num_queries(3):
        assert len(caller.get("/v1/keys", limit="100").json()["data"]) == 31
