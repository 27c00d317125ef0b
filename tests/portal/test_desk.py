import re

from django.test import Client
from django.urls import get_resolver

from core import clock, ids
from orgs import members
from orgs.models import ApiKey, AuditEntry
from tests.orgs import world
from tests.portal.world import member, owner, signed_in


def test_the_menu_shows_what_a_role_may_see(db: None) -> None:
    acme = world.organization()
    mine = owner(acme).get("/portal/acme-labs/").content.decode()
    theirs = member(acme, "member").get("/portal/acme-labs/").content.decode()
    assert ">Webhooks</a>" in mine
    assert ">Webhooks</a>" not in theirs
    assert ">Keys</a>" in theirs


def test_who_has_left_finds_nothing(db: None) -> None:
    acme = world.organization()
    joined = world.member(acme, "bob@acme-labs.example", "viewer")
    client = signed_in(joined.user)
    assert client.get("/portal/acme-labs/").status_code == 200
    members.remove(organization=acme, member_id=joined.pk, by=world.BY)
    assert client.get("/portal/acme-labs/").status_code == 404


def test_a_closed_organization_is_gone(db: None) -> None:
    acme = world.organization()
    client = owner(acme)
    acme.closed_at = clock.now()
    acme.save()
    assert client.get("/portal/acme-labs/").status_code == 404


def test_pages_are_kept_by_no_cache(db: None) -> None:
    page = owner(world.organization()).get("/portal/acme-labs/")
    assert {"private", "no-store"} <= set(page["Cache-Control"].replace(" ", "").split(","))


def test_the_root_leads_to_the_door_or_to_ones_own(db: None) -> None:
    assert Client().get("/")["Location"] == "/portal/sign-in"
    assert owner(world.organization()).get("/")["Location"] == "/portal/acme-labs/"


def test_a_page_that_is_not_there_says_so(db: None) -> None:
    answer = owner(world.organization()).get("/portal/acme-labs/nothing-here")
    assert answer.status_code == 404


_OPEN = {
    "", "portal/", "portal/sign-in", "portal/sign-out", "portal/sign-up", "portal/forgotten",
    "portal/welcome/<str:token>", "portal/organizations", "portal/<path:rest>",
}  # fmt: skip


def addresses() -> list[str]:
    """Every path of an organization, by the URL configuration, with ids that are somebody's."""
    acme = world.organization()
    key = ids.show("key", world.organization_key(acme).key.pk)
    found = []
    for pattern in get_resolver("portal.urls").url_patterns:
        path = str(pattern.pattern)
        if path in _OPEN:
            continue
        assert path.startswith("portal/<slug:slug>/"), f"{path} is of no organization"
        path = path.replace("<slug:slug>", acme.slug).replace("<str:key_id>", key)
        found.append("/" + re.sub(r"<\w+:\w+>", "01K00000000000000000000000", path))
    return found


def test_who_is_no_member_finds_nothing_anywhere_and_changes_nothing(db: None) -> None:
    paths = addresses()
    assert len(paths) > 50
    outsider, nobody = owner(world.organization("other")), Client()
    before = AuditEntry.objects.count()
    for path in paths:
        for method in ("get", "post"):
            assert getattr(outsider, method)(path).status_code in {404, 405}, (method, path)
            answer = getattr(nobody, method)(path)
            assert answer.status_code == 405 or answer["Location"].startswith("/portal/sign-in?next="), (method, path)
    assert AuditEntry.objects.count() == before
    assert ApiKey.objects.get().revoked_at is None
