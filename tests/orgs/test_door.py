"""The staff's door by requests alone: what a password opens, what a code opens, and who closes what."""

import re
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib import admin
from django.test import Client
from django_otp.plugins.otp_totp.models import TOTPDevice

from orgs import second_factor
from orgs.models import AuditEntry, User
from tests.orgs.signing import (
    CODE,
    ENROL,
    PASSWORD,
    SIGN_IN,
    START,
    code,
    enrolled,
    offered_secret,
    reaches,
    send_password,
    signed_in,
    staff,
)
from tests.proofs import proves


def verbs() -> list[str]:
    return list(AuditEntry.objects.order_by("pk").values_list("verb", flat=True))


def test_the_first_sign_in_enrols_an_app_and_shows_recovery_codes_once(db: None) -> None:
    staff()
    client = Client()
    keys = [client.session.session_key]
    answer = send_password(client)
    assert (answer.status_code, answer["Location"]) == (302, f"{ENROL}?next=%2Fadmin%2F")
    keys.append(client.session.session_key)
    assert not reaches(client)
    page = client.get(ENROL).content.decode()
    secret = offered_secret(client)
    assert 'src="data:image/svg+xml' in page
    wrong = client.post(ENROL, {"code": "000000" if code(secret) != "000000" else "111111"})
    assert "This is not what the app shows now" in wrong.content.decode()
    assert not reaches(client)
    assert not TOTPDevice.objects.exists()
    done = client.post(ENROL, {"code": code(secret)})
    codes = re.findall(r"<code[^>]*>([a-z2-7 ]{19})</code>", done.content.decode())
    assert len(set(codes)) == 10
    assert "no-store" in done["Cache-Control"]
    keys.append(client.session.session_key)
    assert len(set(keys)) == 3
    assert reaches(client)
    assert client.get(ENROL)["Location"].startswith(SIGN_IN)
    assert verbs() == ["second_factor.enrolled", "desk.entered"]
    # Each of them opens the desk once.
    for opens in (True, False):
        other = Client()
        assert send_password(other)["Location"].startswith(CODE)
        answer = other.post(CODE, {"code": codes[3].upper().replace(" ", "-")})
        assert (answer.status_code == 302) is opens
        assert reaches(other) is opens
    assert verbs()[2:] == ["second_factor.recovery_code_used", "desk.entered"]


@proves("A14", guard="a_password_alone_opens_nothing")
def test_a_password_alone_reaches_no_page_of_the_desk(db: None) -> None:
    person = staff()
    places = [START, *(f"/admin/{model._meta.app_label}/{model._meta.model_name}/" for model in admin.site._registry)]
    assert len(places) > 40
    unenrolled, signed = Client(), Client()
    send_password(unenrolled)
    enrolled(person)
    send_password(signed)
    # What Django alone would take for signed in: the portal's session, or one that was stolen from there.
    customer = Client()
    customer.force_login(User.objects.get(pk=person.pk))
    session = customer.session
    for key in ("desk_since", "otp_device_id"):
        del session[key]
    session.save()
    for client in (unenrolled, signed, customer, Client()):
        assert [place for place in places if reaches(client, place)] == []


def test_a_code_opens_the_desk_once_and_leads_where_one_wanted_to_go(db: None) -> None:
    secret = enrolled(staff())
    first, second = Client(), Client()
    wanted = "/admin/orgs/user/"
    answer = first.post(f"{SIGN_IN}?next={wanted}", {"username": "ada@example.com", "password": PASSWORD})
    assert answer["Location"] == f"{CODE}?next=%2Fadmin%2Forgs%2Fuser%2F"
    before = first.session.session_key
    answer = first.post(answer["Location"], {"code": f" {code(secret)[:3]} {code(secret)[3:]} "})
    assert answer["Location"] == wanted
    assert first.session.session_key != before
    assert reaches(first, wanted)
    send_password(second)
    again = second.post(CODE, {"code": code(secret)})
    assert "was used before" in again.content.decode()
    assert not reaches(second)


def test_nobody_is_led_to_another_host(db: None) -> None:
    secret = enrolled(staff())
    client = Client()
    answer = client.post(f"{SIGN_IN}?next=https://evil.example/", {"username": "ada@example.com", "password": PASSWORD})
    assert answer["Location"] == f"{CODE}?next=%2Fadmin%2F"
    answer = client.post(f"{CODE}?next=//evil.example/", {"code": code(secret)})
    assert answer["Location"] == START


@proves("A14", guard="an_app_belongs_to_its_sign_in")
def test_of_two_sign_ins_with_one_password_one_enrols_and_the_other_reaches_nothing(db: None) -> None:
    staff()
    owner, thief = Client(), Client()
    send_password(owner)
    send_password(thief)
    mine, theirs = offered_secret(owner), offered_secret(thief)
    assert mine != theirs
    assert owner.post(ENROL, {"code": code(mine)}).status_code == 200
    answer = thief.post(ENROL, {"code": code(theirs)})
    assert answer.get("Location", "").startswith(SIGN_IN)
    ada = User.objects.get()
    assert TOTPDevice.objects.count() == 1
    assert second_factor.verify(person=ada, code=code(mine, steps=1)).user == ada
    assert not reaches(thief)
    send_password(thief)
    assert thief.get(ENROL)["Location"].startswith(CODE)


def test_codes_that_are_wrong_make_the_next_one_wait(db: None) -> None:
    secret = enrolled(staff())
    client = Client()
    send_password(client)
    wrong = f"{(int(code(secret)) + 1) % 1_000_000:06}"
    assert client.post(CODE, {"code": wrong}).status_code == 200
    for _ in range(3):
        TOTPDevice.objects.update(throttling_failure_count=5)
        answer = client.post(CODE, {"code": code(secret)})
        assert answer.status_code == 429
        assert re.search(r"Try again after \d\d:\d\d:\d\d UTC", answer.content.decode())
    assert not reaches(client)


def test_a_device_that_is_gone_closes_what_it_opened(db: None) -> None:
    staff()
    client, _ = signed_in()
    assert reaches(client)
    TOTPDevice.objects.all().delete()
    assert not reaches(client)


def test_a_new_password_ends_every_other_session_and_is_in_the_trail(db: None) -> None:
    person = staff()
    here, secret = signed_in()
    there = Client()
    send_password(there)
    there.post(CODE, {"code": code(secret, steps=1)})
    assert reaches(there)
    fresh = "a wholly different phrase"
    filled = {"old_password": PASSWORD, "new_password1": fresh, "new_password2": fresh}
    assert here.post("/admin/password_change/", filled).status_code == 302
    assert reaches(here)
    assert not reaches(there)
    assert verbs()[-1] == "user.password_changed"
    # What was only half signed in ends too.
    half = Client()
    send_password(half, password=fresh)
    person.refresh_from_db()
    person.set_password("yet another phrase")
    person.save()
    assert half.get(CODE)["Location"].startswith(SIGN_IN)


def test_customers_and_people_who_left_do_not_get_in(db: None) -> None:
    staff("left@example.com", is_active=False)
    User.objects.create_user("customer@example.com", PASSWORD)
    said = set()
    for email in ("left@example.com", "customer@example.com", "nobody@example.com"):
        client = Client()
        answer = send_password(client, email)
        assert answer.status_code == 200
        said.add(re.sub(re.escape(email), "", "".join(map(str, answer.context["form"].non_field_errors()))))
        assert not reaches(client)
    assert said == {"This e-mail address and password do not belong together, or may not sign in here."}


@pytest.fixture
def trying_out(settings: Any) -> None:
    """What `make up` runs."""
    settings.ADMIN_TWO_FACTOR = False


def test_where_it_is_not_required_the_password_opens_for_who_has_no_app_and_for_nobody_else(
    db: None, trying_out: None
) -> None:
    person = staff()
    client = Client()
    assert send_password(client)["Location"] == START
    assert reaches(client)
    secret = enrolled(person)
    assert not reaches(client)
    assert send_password(client)["Location"].startswith(CODE)
    assert not reaches(client)
    client.post(CODE, {"code": code(secret)})
    assert reaches(client)


def test_tests_run_with_the_second_factor_on() -> None:
    assert django_settings.ADMIN_TWO_FACTOR is True
