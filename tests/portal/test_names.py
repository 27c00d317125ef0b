from core import ids
from orgs import keys, members, projects
from portal import names
from tests.orgs import world
from tests.orgs.world import BY


def test_keys_are_called_by_name_and_personal_ones_by_whose_they_are(db: None) -> None:
    acme = world.organization()
    ours, gone = (world.organization_key(acme, name=name).key for name in ("server", "old"))
    mine = world.personal_key(world.member(acme, "ada@example.com").user, name="evening").key
    keys.revoke(key_id=gone.id, by=BY)
    keys.delete(key_id=gone.id, by=BY)
    assert names.keys([ours.id, gone.id, mine.id], of=acme) == {
        ours.id: f"server (…{ours.last_four})",
        gone.id: f"old (…{gone.last_four})",
        mine.id: f"personal key of ada@example.com (…{mine.last_four})",
    }


def test_who_left_and_what_is_archived_says_so(db: None) -> None:
    acme = world.organization()
    ada = world.member(acme, "ada@example.com")
    members.remove(organization=acme, member_id=ada.pk, by=BY)
    ada.refresh_from_db()
    site = projects.create(organization=acme, name="site", by=BY)
    projects.archive(organization=acme, project_id=site.pk, by=BY)
    assert names.members([ada.pk], of=acme) == {ada.pk: f"ada@example.com (left {ada.removed_at:%-d %B %Y})"}
    assert names.projects([site.pk], of=acme) == {site.pk: "site (archived)"}


def test_what_is_not_of_the_organization_keeps_its_id(db: None) -> None:
    acme, other = world.organization(), world.organization("other")
    eve = world.member(other, "eve@example.com")
    key, personal = world.organization_key(other).key, world.personal_key(eve.user).key
    site = projects.create(organization=other, name="site", by=BY)
    assert names.keys([key.id, personal.id], of=acme) == {one.id: ids.show("key", one.id) for one in (key, personal)}
    assert names.members([eve.pk], of=acme) == {eve.pk: ids.show("mem", eve.pk)}
    assert names.projects([site.pk], of=acme) == {site.pk: ids.show("proj", site.pk)}
