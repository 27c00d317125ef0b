"""The desk's pages of who: read without counting, changed only through verbs, without secrets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from core import ids
from core.admin import ANSWERED
from orgs import audit, externals, keys, members, ratelimits
from orgs.models import ApiKey, AuditEntry, ExternalId, Member, Organization, Project, RateLimit, Role, User
from orgs.ratelimits import Limits
from tests.books import Books
from tests.desk import WHY, Desk
from tests.orgs import world
from tests.proofs import proves

PASSWORD = "correct horse battery staple"
# The page that asks about the rows that were chosen is answered.
CHOSEN = {ANSWERED: "1"}
PAGES = [User, Organization, Member, Role, Project, ApiKey, ExternalId, RateLimit, AuditEntry]


@pytest.fixture
def desk(db: None) -> Client:
    return open_desk()


def open_desk() -> Client:
    root = User.objects.create_superuser("root@example.com", PASSWORD)
    client = Desk()
    client.force_login(root)
    return client


def page(model: type, kind: str = "changelist", *args: Any) -> str:
    return reverse(f"admin:orgs_{model.__name__.lower()}_{kind}", args=args)


@contextmanager
def queries() -> Iterator[list[str]]:
    seen: list[str] = []
    with CaptureQueriesContext(connection) as captured:
        yield seen
    seen += [query["sql"] for query in captured]


def fill(count: int, *, prefix: str) -> Organization:
    """An organization with that many members, keys and projects, and what they leave in the trail."""
    acme = world.organization(f"{prefix}-labs")
    for number in range(count):
        member = world.member(acme, f"{prefix}{number}@example.com")
        key = world.organization_key(acme, name=f"{prefix} {number}").key
        world.personal_key(member.user)
        externals.put(kind="key", value=f"{prefix}{number}", api_key=key, by=world.BY)
        ratelimits.put(subject=key, limits=Limits(requests=number + 1), by=world.BY)
        Project.objects.create(organization=acme, name=f"{prefix} {number}")
    return acme


@pytest.mark.parametrize("model", PAGES)
def test_a_list_costs_the_same_queries_for_many_rows_as_for_few_and_counts_none(desk: Client, model: type) -> None:
    fill(2, prefix="few")
    # What a connection prepares at first use is no statement of the list.
    desk.get(page(model))
    with queries() as few:
        assert desk.get(page(model)).status_code == 200
    fill(8, prefix="many")
    with queries() as many:
        assert desk.get(page(model)).status_code == 200
    assert len(many) == len(few), many
    assert not [query for query in many if "COUNT(" in query.upper()]


def test_an_organizations_page_shows_members_and_keys_in_as_many_queries_for_many(desk: Client) -> None:
    few, many = fill(2, prefix="few"), fill(9, prefix="many")
    # What every process asks once is none of the page's.
    desk.get(page(Organization, "change", few.pk))
    with queries() as first:
        answer = desk.get(page(Organization, "change", few.pk))
    with queries() as second:
        other = desk.get(page(Organization, "change", many.pk))
    assert len(first) == len(second)
    text, of_many = answer.content.decode(), other.content.decode()
    assert "few0@example.com" in text
    assert "few 1" in text
    assert "many8@example.com" in of_many
    assert "many 8" in of_many
    assert "many0@example.com" not in text


@pytest.mark.parametrize("model", [Organization, ApiKey, AuditEntry])
def test_what_is_only_read_cannot_be_added_changed_or_deleted(desk: Client, model: Any) -> None:
    fill(1, prefix="x")
    row = model.objects.first()
    before = list(model.objects.order_by("pk").values())
    assert desk.get(page(model, "add")).status_code == 403
    assert desk.post(page(model, "change", row.pk), {"name": "changed"}).status_code == 403
    assert desk.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    desk.post(page(model), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert list(model.objects.order_by("pk").values()) == before


@pytest.mark.parametrize("model", [Member, Project, Role, User])
def test_nothing_else_is_deleted_either(desk: Client, model: Any) -> None:
    fill(1, prefix="x")
    row = model.objects.order_by("pk").first()
    assert desk.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=row.pk).exists()


def test_a_row_is_found_by_the_id_that_customers_see(desk: Client) -> None:
    acme = fill(3, prefix="x")
    key = ApiKey.objects.for_org(acme.pk)[0]
    found = desk.get(page(ApiKey), {"q": ids.show("key", key.pk)}).context["cl"].result_list
    assert [row.pk for row in found] == [key.pk]
    assert len(desk.get(page(ApiKey), {"q": "x-labs"}).context["cl"].result_list) == 3
    assert len(desk.get(page(ApiKey), {"q": "key_nothing"}).context["cl"].result_list) == 0


def test_the_trail_is_searched_by_subject_and_by_organization(desk: Client) -> None:
    acme, _ = fill(1, prefix="x"), fill(1, prefix="y")
    key = ApiKey.objects.for_org(acme.pk)[0]
    keys.revoke(key_id=key.pk, by=world.BY)
    by_subject = desk.get(page(AuditEntry), {"q": ids.show("key", key.pk)}).context["cl"].result_list
    assert {row.verb for row in by_subject} == {"key.issued", "key.revoked", "rate_limit.changed"}
    by_slug = desk.get(page(AuditEntry), {"q": "x-labs"}).context["cl"].result_list
    assert {row.organization_id for row in by_slug} == {acme.pk}


def test_keys_are_revoked_by_an_action_that_calls_the_verb(desk: Client) -> None:
    acme = fill(2, prefix="x")
    chosen = [key.pk for key in ApiKey.objects.for_org(acme.pk)]
    desk.post(page(ApiKey), {**CHOSEN, "action": "revoke", "_selected_action": chosen})
    assert all(key.revoked_at for key in ApiKey.objects.filter(pk__in=chosen))
    rows = AuditEntry.objects.filter(verb="key.revoked")
    assert rows.count() == 2
    assert {row.actor_label for row in rows} == {"root@example.com"}


def test_staff_without_the_right_to_change_keys_cannot_revoke_them(db: None) -> None:
    from django.contrib.auth.models import Permission

    clerk = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client = Desk()
    client.force_login(clerk)
    key = ApiKey.objects.for_org(fill(1, prefix="x").pk)[0]
    assert client.get(page(ApiKey)).status_code == 200
    client.post(page(ApiKey), {**CHOSEN, "action": "revoke", "_selected_action": [key.pk]})
    key.refresh_from_db()
    assert key.revoked_at is None
    assert client.get(page(AuditEntry)).status_code == 403


def test_what_is_chosen_in_a_list_is_shown_first_and_done_for_a_reason_only(desk: Client) -> None:
    acme = fill(2, prefix="x")
    chosen = {"action": "revoke", "_selected_action": [str(key.pk) for key in ApiKey.objects.for_org(acme.pk)]}
    asked = desk.post(page(ApiKey), chosen).content.decode()
    assert "It stops working within a second" in asked
    for key in ApiKey.objects.for_org(acme.pk):
        assert f'name="_selected_action" value="{key.pk}"' in asked
        assert ids.show("key", key.pk) in asked
    answered = desk.post(page(ApiKey), {**chosen, **CHOSEN, "reason": " "}).content.decode()
    assert "This field is required." in answered
    assert not ApiKey.objects.filter(revoked_at__isnull=False).exists()
    answer = desk.post(page(ApiKey), {**chosen, **CHOSEN, "reason": "laptop stolen"}, follow=True)
    assert "Done for 2." in answer.content.decode()
    assert {row.details["reason"] for row in AuditEntry.objects.filter(verb="key.revoked")} == {"laptop stolen"}
    assert "laptop stolen" in desk.get(page(AuditEntry)).content.decode()


def test_one_key_is_stopped_from_its_own_page(desk: Client) -> None:
    (key,) = ApiKey.objects.for_org(fill(1, prefix="x").pk)
    place = page(ApiKey, "revoke", key.pk)
    assert place in desk.get(page(ApiKey, "change", key.pk)).content.decode()
    assert desk.post(place, {"reason": ""}).status_code == 200
    assert desk.post(place, {"reason": "laptop stolen"}).status_code == 302
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert AuditEntry.objects.get(verb="key.revoked").details == {"reason": "laptop stolen"}
    assert place not in desk.get(page(ApiKey, "change", key.pk)).content.decode()


def test_no_form_is_saved_without_a_reason(desk: Client) -> None:
    acme, ada = world.organization(), world.person()
    role = Role.objects.get(name="member")
    sent = {"organization": acme.pk, "user": ada.pk, "role": role.pk}
    refused = desk.post(page(Member, "add"), {**sent, "reason": ""})
    assert (refused.status_code, Member.objects.filter(user=ada, organization=acme).exists()) == (200, False)
    desk.post(page(Member, "add"), {**sent, "reason": "joins the team"})
    told = AuditEntry.objects.get(verb="member.added", organization=acme, details__role="member").details
    assert told == {"user": ids.show("user", ada.pk), "role": "member", "reason": "joins the team"}
    sent = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true", "reason": ""}
    place = f"/admin/orgs/user/{ada.pk}/password/"
    assert 'name="reason"' in desk.get(place).content.decode()
    assert desk.post(place, sent).status_code == 200
    assert not AuditEntry.objects.filter(verb="user.password_set").exists()


def test_a_member_is_added_changed_and_removed_through_the_verbs(desk: Client) -> None:
    acme, ada = world.organization(), world.person()
    roles = {role.name: role.pk for role in Role.objects.all()}
    answer = desk.post(page(Member, "add"), {"organization": acme.pk, "user": ada.pk, "role": roles["member"]})
    assert answer.status_code == 302, answer.content
    member = Member.objects.get(organization=acme, user=ada)
    desk.post(page(Member, "change", member.pk), {"role": roles["admin"]})
    member.refresh_from_db()
    assert member.role.name == "admin"
    desk.post(page(Member), {**CHOSEN, "action": "remove", "_selected_action": [member.pk]})
    member.refresh_from_db()
    assert member.removed_at is not None
    trail = AuditEntry.objects.filter(subject_id=ids.show("mem", member.pk)).order_by("at")
    assert [row.verb for row in trail] == ["member.added", "member.role_changed", "member.removed"]
    assert {row.actor_label for row in trail} == {"root@example.com"}
    assert desk.post(page(Member, "change", member.pk), {"role": roles["owner"]}).status_code == 403


def test_a_project_is_made_renamed_and_archived_through_the_verbs(desk: Client) -> None:
    acme = world.organization()
    assert desk.post(page(Project, "add"), {"organization": acme.pk, "name": "apollo"}).status_code == 302
    project = Project.objects.get(organization=acme)
    refused = desk.post(page(Project, "add"), {"organization": acme.pk, "name": " apollo "}, follow=True)
    assert "project of that name exists" in refused.content.decode().lower()
    desk.post(page(Project, "change", project.pk), {"name": "gemini"})
    desk.post(page(Project), {**CHOSEN, "action": "archive", "_selected_action": [project.pk]})
    project.refresh_from_db()
    assert (project.name, project.archived_at is not None, Project.objects.count()) == ("gemini", True, 1)
    trail = AuditEntry.objects.filter(subject_id=ids.show("proj", project.pk)).order_by("at")
    assert [(row.verb, row.actor_label, row.organization_id) for row in trail] == [
        ("project.created", "root@example.com", acme.pk),
        ("project.renamed", "root@example.com", acme.pk),
        ("project.archived", "root@example.com", acme.pk),
    ]
    assert desk.post(page(Project, "change", project.pk), {"name": "mercury"}).status_code == 403


def test_what_a_verb_refuses_is_said_and_nothing_is_stored(desk: Client) -> None:
    acme = world.organization()
    owner = Member.objects.get(organization=acme)
    viewer = Role.objects.get(name="viewer")
    answer = desk.post(page(Member, "change", owner.pk), {"role": viewer.pk}, follow=True)
    assert "keeps at least one owner" in answer.content.decode()
    answer = desk.post(page(Member), {**CHOSEN, "action": "remove", "_selected_action": [owner.pk]}, follow=True)
    assert "keeps at least one owner" in answer.content.decode()
    form = {"organization": acme.pk, "user": owner.user_id, "role": viewer.pk}
    answer = desk.post(page(Member, "add"), form, follow=True)
    assert "a member already" in answer.content.decode()
    owner.refresh_from_db()
    assert (owner.role.name, owner.removed_at) == ("owner", None)


def test_a_role_is_made_and_changed_through_the_verb(desk: Client) -> None:
    assert desk.post(page(Role, "add"), {"name": "auditor", "permissions": ["billing:read"]}).status_code == 302
    role = Role.objects.get(name="auditor")
    desk.post(page(Role, "change", role.pk), {"permissions": ["billing:read", "usage:read_all"]})
    role.refresh_from_db()
    assert role.permissions == ["billing:read", "usage:read_all"]
    assert desk.post(page(Role, "add"), {"name": "root", "permissions": ["everything"]}).status_code == 200
    assert not Role.objects.filter(name="root").exists()
    owner = Role.objects.get(name="owner")
    desk.post(page(Role, "change", owner.pk), {"permissions": []})
    owner.refresh_from_db()
    assert owner.permissions
    verbs = AuditEntry.objects.filter(subject_type="role").order_by("at").values_list("verb", flat=True)
    assert list(verbs) == ["role.created", "role.changed"]


def test_a_person_is_made_with_a_personal_organization_and_can_be_stopped(desk: Client) -> None:
    form = {"email": "Ada@Example.com", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    assert desk.post(page(User, "add"), form).status_code == 302
    ada = User.objects.get(email="ada@example.com")
    assert ada.check_password(PASSWORD)
    assert members.find(organization_id=world.personal(ada).pk, user_id=ada.pk) is not None
    issued = world.personal_key(ada)
    answer = desk.post(page(User, "change", ada.pk), {"email": "ADA@example.com", "first_name": "Ada"})
    assert answer.status_code == 302
    ada.refresh_from_db()
    assert (ada.email, ada.first_name, ada.is_active) == ("ada@example.com", "Ada", False)
    assert keys.find([issued.key.pk])[issued.key.pk].revoked
    trail = AuditEntry.objects.filter(subject_id=ids.show("user", ada.pk)).order_by("at")
    assert [(row.verb, row.actor_label) for row in trail] == [
        ("user.created", "root@example.com"),
        ("user.changed", "root@example.com"),
    ]
    assert "is_active" in trail[1].details["changed"]


def test_a_second_person_with_the_same_address_is_refused_by_the_form(desk: Client) -> None:
    world.person("ada@example.com")
    form = {"email": "ADA@example.com", "usable_password": "false"}
    answer = desk.post(page(User, "add"), form)
    assert answer.status_code == 200
    assert "already exists" in answer.content.decode()


@proves("A06", guard="only_the_digest_is_stored")
def test_no_page_holds_a_secret_or_its_digest(books: Books) -> None:
    desk = open_desk()
    ada = world.person()
    acme = world.organization(owner=ada)
    issued = [world.organization_key(acme), world.personal_key(ada), world.service_key()]
    stored = {each.key.pk: bytes(ApiKey.objects.get(pk=each.key.pk).digest) for each in issued}
    pages = [page(model) for model in PAGES]
    pages += [page(Organization, "change", acme.pk)]
    pages += [page(ApiKey, "change", each.key.pk) for each in issued]
    pages += [page(AuditEntry, "change", row.pk) for row in AuditEntry.objects.all()]
    # What somebody who reads the table could do with it: nothing.
    for each in issued:
        assert each.secret[4:36].encode() != stored[each.key.pk]
    for path in pages:
        text = desk.get(path).content.decode()
        assert "</html>" in text
        for each in issued:
            assert each.secret[4:24] not in text
            assert stored[each.key.pk].hex() not in text
    assert issued[0].key.last_four in desk.get(page(ApiKey)).content.decode()


def test_markup_in_a_name_is_shown_as_text(desk: Client) -> None:
    hostile = "<script>alert(1)</script>"
    acme = world.organization()
    world.organization_key(acme, name=hostile)
    Project.objects.create(organization=acme, name=hostile)
    audit_actor = audit.Actor(kind="key", id="", label=hostile)
    keys.revoke(key_id=ApiKey.objects.for_org(acme.pk)[0].pk, by=audit_actor)
    for path in (page(ApiKey), page(Project), page(AuditEntry), page(Organization, "change", acme.pk)):
        text = desk.get(path).content.decode()
        assert hostile not in text
    assert "&lt;script&gt;alert" in desk.get(page(ApiKey)).content.decode()


def test_every_table_of_who_has_a_page() -> None:
    registered = {model._meta.db_table for model in admin.site._registry if model._meta.app_label == "orgs"}
    assert registered == {model._meta.db_table for model in PAGES}


def test_the_pages_are_closed_to_customers(db: None) -> None:
    client = Client()
    client.force_login(User.objects.create_user("ada@example.com", PASSWORD))
    for model in PAGES:
        answer = client.get(page(model))
        assert answer.status_code == 302
        assert re.search("/admin/login/", answer.headers["Location"])


def test_the_trail_is_searched_by_person_and_by_act(desk: Client) -> None:
    acme = fill(1, prefix="x")
    desk.post(page(ApiKey), {**CHOSEN, "action": "revoke", "_selected_action": [ApiKey.objects.for_org(acme.pk)[0].pk]})
    for asked in ("ROOT@example.com", "key.revoked"):
        found = desk.get(page(AuditEntry), {"q": asked}).context["cl"].result_list
        assert [(row.verb, row.actor_label) for row in found] == [("key.revoked", "root@example.com")], asked
    assert len(desk.get(page(AuditEntry), {"q": "nobody@example.com"}).context["cl"].result_list) == 0
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        for column in ("actor_id", "verb"):
            cursor.execute(f"EXPLAIN SELECT * FROM audit_entry WHERE {column} = 'x' ORDER BY id DESC LIMIT 50")
            assert "Index" in str(cursor.fetchall())


def test_what_a_person_may_is_told_before_and_after_and_changed_by_superusers_only(desk: Client) -> None:
    from django.contrib.auth.models import Group, Permission

    ada = User.objects.create_user("ada@example.com", PASSWORD)
    filled = {"email": "ada@example.com", "is_active": "on", "is_staff": "on"}
    support = Group.objects.get(name="Support")
    assert desk.post(page(User, "change", ada.pk), {**filled, "groups": [support.pk]}).status_code == 302
    changed = AuditEntry.objects.get(verb="user.changed")
    rights = AuditEntry.objects.get(verb="user.rights_changed")
    assert (changed.details["before"], changed.details["after"]) == ({"is_staff": False}, {"is_staff": True})
    assert rights.details == {
        "before": {"roles": [], "rights": []},
        "after": {"roles": ["Support"], "rights": []},
        "reason": WHY,
    }
    fresh = "a wholly different phrase"
    sent = {"password1": fresh, "password2": fresh, "usable_password": "true"}
    assert desk.post(f"/admin/orgs/user/{ada.pk}/password/", sent).status_code == 302
    told = AuditEntry.objects.get(verb="user.password_set")
    assert (told.actor_label, told.details) == ("root@example.com", {"reason": WHY})
    # Nobody lifts themselves up by a right to change accounts.
    ada.refresh_from_db()
    ada.user_permissions.set(Permission.objects.filter(codename__in=("change_user", "view_user", "add_user")))
    client = Client()
    client.force_login(ada)
    assert client.get(page(User, "change", ada.pk)).status_code == 200
    for kind, args in (("change", (ada.pk,)), ("add", ())):
        assert client.post(page(User, kind, *args), {**filled, "is_superuser": "on"}).status_code == 403
    assert client.post(f"/admin/orgs/user/{ada.pk}/password/", sent).status_code == 403
