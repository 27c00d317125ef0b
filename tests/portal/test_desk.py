import html
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.urls import get_resolver

from core import clock, ids
from orgs import members
from orgs.models import ApiKey, AuditEntry, Role
from tests.billing.world import charge
from tests.metering.world import event
from tests.orgs import world
from tests.portal.world import PASSWORD, member, owner, signed_in, text


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


def test_a_part_of_a_page_that_is_asked_for_by_nobody_leads_the_page_to_the_door_and_back() -> None:
    asked = {"HX-Request": "true", "HX-Current-URL": "http://testserver/portal/acme-labs/usage?period=7"}
    answer = Client(headers=asked).get("/portal/acme-labs/usage", {"period": "30"})
    assert answer.status_code == 200
    assert answer["HX-Redirect"] == "/portal/sign-in?next=/portal/acme-labs/usage%3Fperiod%3D7"
    assert text(answer) == ""


@pytest.mark.parametrize(
    ("on", "back"),
    [
        ("http://testserver/portal/acme-labs/keys/key_1?tab=2", "/portal/acme-labs/keys/key_1?tab=2"),
        ("http://elsewhere.example/portal/acme-labs/keys", "/portal/"),
        ("http://testserver/admin/", "/portal/"),
        ("", "/portal/"),
    ],
)
def test_who_was_signed_out_before_a_form_was_sent_comes_back_to_the_page_it_was_on(
    db: None, on: str, back: str
) -> None:
    acme = world.organization()
    person = world.member(acme, "ada@example.com").user
    person.set_password(PASSWORD)
    person.save()
    client = Client(headers={"Referer": on} if on else {})
    door = client.post("/portal/acme-labs/keys/key_1/rotate")
    assert door.status_code == 302
    assert "You were signed out before this was sent" in text(client.get(door["Location"]))
    entered = client.post(
        door["Location"], {"email": "ada@example.com", "password": PASSWORD, "next": _next(door["Location"])}
    )
    assert entered["Location"] == back


def _next(place: str) -> str:
    return parse_qs(urlsplit(place).query)["next"][0]


@pytest.mark.parametrize("role", ["owner", "admin", "billing", "member", "viewer", "caller", "guest"])
def test_no_page_links_to_what_its_reader_may_not_see(db: None, role: str) -> None:
    Role.objects.create(name="caller", permissions=["calls:make"])
    Role.objects.create(name="guest", permissions=[])
    acme = world.organization()
    ada = world.member(acme, "ada@example.com", role)
    world.organization_key(acme)
    charge(acme, event())
    client = signed_in(ada.user)
    seen, found = {"/portal/acme-labs/"}, ["/portal/acme-labs/"]
    while found:
        place = found.pop()
        page = client.get(place)
        assert page.status_code == 200, f"{place} for {role}: {page.status_code}"
        if "text/html" not in page["Content-Type"]:
            continue
        for link in re.findall(r'href="(/portal/acme-labs/[^"#]*)', text(page)):
            plain = html.unescape(link)
            # One of each kind of page is enough.
            kind = re.sub(r"[?].*|/models/(?!calculator)[^/]+$", "", plain)
            if kind not in seen:
                seen.add(kind)
                found.append(plain)
    assert len(seen) > 5


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
