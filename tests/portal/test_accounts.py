import re
from typing import Any

import pytest
from django.core import mail
from django.test import Client

from ops import mails
from ops.models import Mail
from orgs.models import AuditEntry, Organization, User
from tests.orgs import signing, world
from tests.portal.world import PASSWORD, signed_in

LINK = re.compile(r"/portal/welcome/\S+")


def letter(to: str) -> str:
    """The place that the last letter to an address leads to, as the mail server gets it."""
    row = Mail.objects.filter(recipient=to).latest("created_at")
    assert LINK.search(row.text) is None
    found = LINK.search(str(mails._message(row, mail.get_connection()).body))
    assert found is not None
    return found.group()


def test_a_new_person_makes_an_account_by_a_letter(db: None, settings: Any) -> None:
    settings.SIGN_UP = True
    client = Client()
    assert "on its way" in client.post("/portal/sign-up", {"email": "Eve@Example.com"}).content.decode()
    assert not User.objects.filter(email="eve@example.com").exists()
    place = letter("eve@example.com")
    assert "eve@example.com" in client.get(place).content.decode()
    inside = client.post(place, {"password": PASSWORD}, follow=True)
    eve = User.objects.get(email="eve@example.com")
    assert inside.redirect_chain[-1][0] == f"/portal/{Organization.objects.get(personal_of=eve).slug}/"
    assert AuditEntry.objects.filter(verb="user.password_chosen").count() == 1
    spent = Client().get(place)
    assert spent.status_code == 400
    assert '<a href="/portal/forgotten">Ask for a new link</a>' in spent.content.decode()
    entered = Client().post("/portal/sign-in", {"email": "eve@example.com", "password": PASSWORD})
    assert entered.status_code == 302


def test_the_answer_is_the_same_for_whom_we_know_and_whom_we_do_not(db: None, settings: Any) -> None:
    settings.SIGN_UP = False
    world.person("ada@example.com")
    said = [
        Client().post("/portal/forgotten", {"email": email}).content.decode().replace(email, "")
        for email in ("ada@example.com", "nobody@example.com")
    ]
    assert said[0] == said[1]
    assert list(Mail.objects.values_list("recipient", flat=True)) == ["ada@example.com"]


def test_a_letter_is_sent_once_in_five_minutes(db: None) -> None:
    world.person("ada@example.com")
    for _ in range(3):
        Client().post("/portal/forgotten", {"email": "ada@example.com"})
    assert Mail.objects.count() == 1


def test_a_wrong_password_and_a_wrong_address_are_told_alike(db: None) -> None:
    User.objects.create_user("ada@example.com", PASSWORD)
    pages = [
        Client().post("/portal/sign-in", {"email": email, "password": "no such password"})
        for email in ("ada@example.com", "nobody@example.com")
    ]
    assert [page.status_code for page in pages] == [403, 403]
    assert all("do not belong together" in page.content.decode() for page in pages)


def test_an_easy_password_is_refused_at_its_field(db: None, settings: Any) -> None:
    settings.SIGN_UP = True
    Client().post("/portal/sign-up", {"email": "eve@example.com"})
    page = Client().post(letter("eve@example.com"), {"password": "short"})
    assert "at least 12 characters" in page.content.decode()
    assert not User.objects.filter(email="eve@example.com").exists()


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_after_signing_in_nobody_is_sent_elsewhere(db: None, wanted: str) -> None:
    user = world.person()
    user.set_password(PASSWORD)
    user.save()
    page = Client().post("/portal/sign-in", {"email": user.email, "password": PASSWORD, "next": wanted})
    assert page["Location"].startswith("/portal/personal-")


def test_a_person_makes_an_organization_and_owns_it(db: None) -> None:
    client = signed_in(world.person())
    made = client.post("/portal/organizations", {"name": "Acme", "slug": "acme", "time_zone": "Europe/Berlin"})
    assert made["Location"] == "/portal/acme/"
    assert "owner" in client.get("/portal/acme/").content.decode()
    again = client.post("/portal/organizations", {"name": "Acme", "slug": "acme", "time_zone": "UTC"})
    assert "This slug is taken." in again.content.decode()


def test_who_is_not_signed_in_comes_back_to_the_page_afterwards(db: None) -> None:
    world.organization()
    assert Client().get("/portal/acme-labs/")["Location"] == "/portal/sign-in?next=/portal/acme-labs/"


def test_after_five_failures_the_right_password_waits_too(db: None) -> None:
    User.objects.create_user("ada@example.com", PASSWORD)
    tried = [Client().post("/portal/sign-in", {"email": "ada@example.com", "password": "wrong"}) for _ in range(5)]
    assert [page.status_code for page in tried] == [403, 403, 403, 403, 429]
    right = Client().post("/portal/sign-in", {"email": "ada@example.com", "password": PASSWORD})
    assert right.status_code == 429
    assert "Too many failed attempts. Try again after" in right.content.decode()


def test_who_has_a_second_factor_is_asked_for_its_code_whichever_way_they_came(db: None, settings: Any) -> None:
    staff = User.objects.create_user("ada@example.com", PASSWORD, is_staff=True)
    secret = signing.enrolled(staff)
    client = Client()
    asked = client.post("/portal/sign-in", {"email": "ada@example.com", "password": PASSWORD})
    assert asked["Location"].startswith("/admin/sign-in/code/?next=%2Fportal%2Fpersonal-")
    assert client.get("/portal/organizations")["Location"] == "/portal/sign-in?next=/portal/organizations"
    Client().post("/portal/forgotten", {"email": "ada@example.com"})
    reset = Client().post(letter("ada@example.com"), {"password": "a wholly different phrase"})
    assert reset["Location"].startswith("/admin/sign-in/code/")
    # A new password ends what was half open.
    assert client.get("/admin/sign-in/code/")["Location"].startswith("/admin/login/")
    again = client.post("/portal/sign-in", {"email": "ada@example.com", "password": "a wholly different phrase"})
    opened = client.post(again["Location"], {"code": signing.code(secret)})
    assert opened["Location"].startswith("/portal/personal-")
    assert client.get("/portal/organizations").status_code == 200


def test_a_form_that_has_gone_stale_is_told_so(db: None) -> None:
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/portal/sign-in", {"email": "ada@example.com", "password": PASSWORD})
    assert answer.status_code == 403
    assert "gone stale" in answer.content.decode()


def test_an_address_below_the_portal_that_is_none_says_so(db: None) -> None:
    answer = Client().get("/portal/acme-labs/no/such/page")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")
    assert "There is no such page" in answer.content.decode()
