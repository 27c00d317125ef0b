import ast
import re
from pathlib import Path

import pytest

from core import ids
from ops.models import Mail
from orgs import members, organizations, projects, ratelimits
from orgs.audit import user
from orgs.models import AuditEntry, Member, Organization, Project, User
from orgs.ratelimits import Limits
from portal import invitations
from portal import members as pages
from portal.members import VERBS
from tests.ops import hooks
from tests.orgs import world
from tests.portal.world import assert_refused, count_queries, member, owner, signed_in

PLACE = "/portal/acme-labs/members"


def one(of: Member, act: str) -> str:
    return f"{PLACE}/{ids.show('mem', of.pk)}/{act}"


def role_of(email: str) -> str | None:
    """The role of a person at Acme, None for who is no member."""
    found = Member.objects.filter(user__email=email, organization__slug="acme-labs", removed_at=None)
    return found.values_list("role__name", flat=True).first()


def test_somebody_new_is_invited_and_told(db: None) -> None:
    acme = world.organization()
    page = owner(acme).post(f"{PLACE}/new", {"email": "Eve@Example.com", "role": "viewer"}, follow=True)
    assert page.redirect_chain == [(PLACE, 302)]
    assert "eve@example.com is a member now, as viewer" in page.content.decode()
    assert role_of("eve@example.com") == "viewer"
    letter = Mail.objects.get()
    assert (letter.recipient, letter.subject) == ("eve@example.com", "You are now a member of acme-labs")
    assert "owner@acme-labs.example has added you." in letter.text
    assert AuditEntry.objects.get(verb="member.added", details__role="viewer").actor_label == "owner@acme-labs.example"


def test_who_is_a_member_already_is_told_at_the_form_and_gets_no_letter(db: None) -> None:
    acme = world.organization()
    world.member(acme, "ada@example.com")
    again = owner(acme).post(f"{PLACE}/new", {"email": "ada@example.com", "role": "admin"})
    assert again.status_code == 422
    assert "This person is a member already." in again.content.decode()
    assert (role_of("ada@example.com"), Mail.objects.count()) == ("member", 0)


def test_an_invitation_is_all_or_nothing(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = world.organization()
    monkeypatch.setattr(invitations, "INVITED_MAX", 1)
    owner(acme).post(f"{PLACE}/new", {"email": "first@example.com", "role": "member"})
    full = owner(acme).post(f"{PLACE}/new", {"email": "second@example.com", "role": "member"})
    assert "Enough people were invited" in full.content.decode()
    owner(acme).post(f"{PLACE}/new", {"email": "owner@acme-labs.example", "role": "owner"})
    assert not User.objects.filter(email="second@example.com").exists()
    assert list(Mail.objects.values_list("recipient", flat=True)) == ["first@example.com"]


def test_an_admin_makes_nobody_an_owner_and_removes_none(db: None) -> None:
    acme = world.organization()
    ada = world.member(acme, "ada@example.com", "admin")
    world.member(acme, "second@example.com", "owner")
    second = Member.objects.get(user__email="second@example.com", organization=acme)
    client = signed_in(ada.user)
    assert_refused(client, one(ada, "role"), role="owner")
    assert_refused(client, one(second, "role"), role="member")
    assert_refused(client, one(second, "remove"))
    invited = client.post(f"{PLACE}/new", {"email": "eve@example.com", "role": "owner"})
    assert invited.status_code == 422
    assert not User.objects.filter(email="eve@example.com").exists()
    assert (role_of("ada@example.com"), role_of("second@example.com")) == ("admin", "owner")
    page = client.get(PLACE).content.decode()
    assert one(second, "remove") not in page
    assert '<option value="owner">' not in page
    assert client.post(one(ada, "role"), {"role": "viewer"}).status_code == 302
    assert role_of("ada@example.com") == "viewer"


def test_roles_are_changed_members_removed_and_the_last_owner_stays(db: None) -> None:
    acme = world.organization()
    ada = world.member(acme, "ada@example.com")
    first = Member.objects.get(user__email="owner@acme-labs.example", organization=acme)
    client = owner(acme)
    changed = client.post(one(ada, "role"), {"role": "billing"}, follow=True).content.decode()
    assert "ada@example.com is billing now." in changed
    assert "There is no such role." in client.post(one(ada, "role"), {"role": "king"}, follow=True).content.decode()
    for act, told in (("role", {"role": "member"}), ("remove", {})):
        kept = client.post(one(first, act), told, follow=True).content.decode()
        assert "An organization keeps at least one owner." in kept
    assert "at least one owner" in client.post(f"{PLACE}/leave", follow=True).content.decode()
    client.post(one(ada, "remove"))
    assert (role_of("ada@example.com"), role_of("owner@acme-labs.example")) == (None, "owner")
    assert client.post(one(ada, "remove")).status_code == 404


def test_everybody_may_leave(db: None) -> None:
    acme = world.organization()
    client = member(acme, "viewer", "ada@example.com")
    assert client.get(f"{PLACE}/leave")["Location"] == PLACE
    assert role_of("ada@example.com") == "viewer"
    left = client.post(f"{PLACE}/leave", follow=True)
    assert "You have left acme-labs." in left.content.decode()
    assert role_of("ada@example.com") is None
    assert client.get(PLACE).status_code == 404


@pytest.mark.parametrize("role", ["billing", "member", "viewer"])
def test_who_does_not_manage_members_sees_them_and_changes_nothing(db: None, role: str) -> None:
    acme = world.organization()
    ada = world.member(acme, "ada@example.com")
    search = projects.create(organization=acme, name="Search", by=world.BY)
    client = member(acme, role)
    assert "ada@example.com" in client.get(PLACE).content.decode()
    assert_refused(client, f"{PLACE}/new", email="eve@example.com", role="member")
    assert_refused(client, one(ada, "role"), role="viewer")
    assert_refused(client, one(ada, "remove"))
    assert_refused(client, f"{PLACE}/projects", name="More")
    assert_refused(client, f"{PLACE}/projects/{ids.show('proj', search.pk)}", name="Less")
    assert_refused(client, f"{PLACE}/projects/{ids.show('proj', search.pk)}", archive="yes")
    assert client.get(f"{PLACE}/history").status_code == 403


def test_members_and_projects_of_others_are_not_there(db: None) -> None:
    acme, other = world.organization(), world.organization("other")
    eve = world.member(other, "eve@example.com")
    theirs = projects.create(organization=other, name="Theirs", by=world.BY)
    client = owner(acme)
    before = AuditEntry.objects.count()
    for shown in (ids.show("mem", eve.pk), ids.show("mem", ids.new()), "mem_1"):
        assert client.post(f"{PLACE}/{shown}/role", {"role": "viewer"}).status_code == 404
        assert client.post(f"{PLACE}/{shown}/remove").status_code == 404
    for shown in (ids.show("proj", theirs.pk), ids.show("proj", ids.new()), "proj_1"):
        assert client.get(f"{PLACE}/projects/{shown}").status_code == 404
        assert client.post(f"{PLACE}/projects/{shown}", {"archive": "yes"}).status_code == 404
    assert AuditEntry.objects.count() == before


def test_a_personal_organization_has_one_member_and_no_projects(db: None) -> None:
    ada = world.person()
    home = f"/portal/{world.personal(ada).slug}/members"
    client = signed_in(ada)
    assert "it has no members but you" in client.get(home).content.decode()
    refused = client.post(f"{home}/new", {"email": "eve@example.com", "role": "member"})
    assert "no members but its person" in refused.content.decode()
    assert client.post(f"{home}/projects", {"name": "Search"}).status_code == 422
    assert not Project.objects.exists()
    assert "at least one owner" in client.post(f"{home}/leave", follow=True).content.decode()
    assert not User.objects.filter(email="eve@example.com").exists()


def test_projects_are_made_renamed_and_archived(db: None) -> None:
    acme = world.organization()
    client = owner(acme)
    client.post(f"{PLACE}/projects", {"name": "Search"})
    taken = client.post(f"{PLACE}/projects", {"name": "Search"})
    assert taken.status_code == 422
    assert "A project of that name exists." in taken.content.decode()
    place = f"{PLACE}/projects/{ids.show('proj', Project.objects.get().pk)}"
    assert client.post(place, {"name": "Find"}).status_code == 302
    assert client.post(place, {"archive": "yes"}).status_code == 302
    assert Project.objects.get().name == "Find"
    assert Project.objects.get().archived_at is not None
    assert "archived" in client.get(f"{PLACE}/projects").content.decode()


def test_the_history_says_who_did_what_and_keeps_what_staff_wrote(db: None) -> None:
    acme = world.organization()
    ada = world.member(acme, "ada@example.com", "admin")
    boss = world.person("boss@tollbook.example")
    key = world.organization_key(acme, name="nightly").key
    ratelimits.put(subject=key, limits=Limits(600, None, 3), by=user(ada.user))
    organizations.set_price_group(organization=acme, group="secret-deal", by=user(boss))
    hooks.endpoint(acme)
    members.change_role(organization=acme, member_id=ada.pk, role="owner", by=user(ada.user))
    page = owner(acme).get(f"{PLACE}/history").content.decode()
    for told in ("ada@example.com", "changed limits", "nightly", "600 requests/min, 3 at once", hooks.URL):
        assert told in page
    assert re.search(r"who runs this installation</td>\s*<td[^>]*>changed the price group", page)
    for untold in ("boss@tollbook.example", "secret-deal", "owner@other.example"):
        assert untold not in page


def test_the_history_is_ones_own_and_has_pages(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "HISTORY_ROWS", 4)
    acme, other = world.organization(), world.organization("other")
    world.organization_key(other, name="theirs")
    client = owner(acme)
    world.organization_key(acme)
    world.member(acme, "ada@example.com")
    few = count_queries(client, f"{PLACE}/history")
    for place in range(3):
        world.organization_key(acme, name=f"key {place}")
        world.member(acme, f"person{place}@example.com")
    assert count_queries(client, f"{PLACE}/history") == few
    first = client.get(f"{PLACE}/history").content.decode()
    after = re.search(r"\?after=(aud_\w{26})", first)
    assert after is not None
    rest = client.get(f"{PLACE}/history", {"after": after.group(1)}).content.decode()
    assert "theirs" not in first + rest
    for told, page in (("key 2", first), ("key 1", first), ("key 0", rest), ("ada@example.com", rest)):
        assert (told in first, told in rest) == (page is first, page is rest)
    foreign = ids.show("aud", AuditEntry.objects.filter(organization=other).latest("id").pk)
    assert client.get(f"{PLACE}/history", {"after": foreign}).status_code == 400


def test_every_act_of_an_organization_is_told_in_words() -> None:
    root = Path(__file__).parents[2]
    told = set()
    for app in ("orgs", "ops", "metering", "billing", "gateway", "portal"):
        for file in (root / app).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text())):
                if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "audit.note"):
                    continue
                given = {each.arg: each.value for each in call.keywords}
                verb = given["verb"]
                if "organization" in given and isinstance(verb, ast.Constant):
                    told.add(str(verb.value))
    assert len(told) > 40
    assert told - set(VERBS) == set()


def test_the_lists_take_as_many_queries_for_many_as_for_few(db: None) -> None:
    acme = world.organization()
    client = owner(acme)
    few = [count_queries(client, place) for place in (PLACE, f"{PLACE}/projects")]
    for place in range(5):
        world.member(acme, f"person{place}@example.com")
        projects.create(organization=acme, name=f"Project {place}", by=world.BY)
    assert [count_queries(client, place) for place in (PLACE, f"{PLACE}/projects")] == few


def test_names_are_text(db: None) -> None:
    acme = world.organization()
    Organization.objects.filter(pk=acme.pk).update(name="<img src=x>")
    projects.create(organization=acme, name="<script>1</script>", by=world.BY)
    client = owner(acme)
    for place in (PLACE, f"{PLACE}/projects", f"{PLACE}/history", "/portal/acme-labs/keys/new"):
        page = client.get(place).content.decode()
        assert "<img src=x>" not in page
        assert "<script>1" not in page
