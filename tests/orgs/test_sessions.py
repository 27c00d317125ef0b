"""Signing in under attack, and sessions that end."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.sessions.models import Session
from django.test import Client, RequestFactory
from django.utils import timezone

from core import clock
from orgs import sessions
from orgs.models import User
from orgs.sessions import CodeNeeded, SignInLocked, SignInRefused
from tests import quick
from tests.books import Books
from tests.orgs.signing import CODE, PASSWORD, code, enrolled, reaches, send_password, signed_in, staff
from tests.proofs import proves

ONE, OTHER = "203.0.113.7", "203.0.113.8"
PROXY = "10.0.0.1"


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """Then."""
    with mock.patch.object(clock, "now", return_value=moment):
        yield


def fail(email: str = "ada@example.com", *, times: int = 1, **meta: Any) -> Any:
    """Wrong passwords from fresh browsers; the last answer."""
    for number in range(times):
        answer = send_password(Client(), email, f"wrong {number}", HTTP_USER_AGENT=f"browser {number}", **meta)
    return answer


def says(answer: Any) -> str:
    return " ".join(map(str, answer.context["form"].non_field_errors()))


@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com"])
def test_the_fifth_failure_shuts_the_door_and_says_until_when_whoever_it_names(db: None, email: str) -> None:
    secret = enrolled(staff())
    fourth = fail(email, times=4)
    assert (fourth.status_code, says(fourth)) == (200, SignInRefused.default)
    fifth = fail(email)
    named = re.fullmatch(
        r"Too many failed attempts\. Try again after (\d\d):(\d\d) UTC, in (\d+) minutes\.", says(fifth)
    )
    assert fifth.status_code == 429
    assert named is not None
    assert 15 <= int(named[3]) <= 16
    # What was right is wrong now, and says no more than that.
    client = Client()
    assert says(send_password(client, email))[:24] == "Too many failed attempts"
    assert not client.session.keys()
    with mock.patch("axes.handlers.proxy.now", return_value=timezone.now() + timedelta(minutes=int(named[3]))):
        again = send_password(client, email)
        assert (again.status_code == 302) is (email == "ada@example.com")
    if again.status_code == 302:
        client.post(CODE, {"code": code(secret)})
        assert reaches(client)
        assert not AccessAttempt.objects.exists()


def test_one_name_however_it_is_typed_has_one_count(db: None) -> None:
    staff()
    for email in ("ada@example.com", "ADA@example.com", " Ada@Example.com", "aDa@example.com "):
        assert fail(email).status_code == 200
    assert fail("adA@EXAMPLE.com").status_code == 429


def test_a_customers_password_at_the_staffs_door_counts_as_a_failure(db: None) -> None:
    User.objects.create_user("customer@example.com", PASSWORD)
    answers = [send_password(Client(), "customer@example.com").status_code for _ in range(6)]
    assert answers == [200, 200, 200, 200, 429, 429]


@proves("A14", guard="our_proxies_say_where_from")
def test_only_our_own_proxies_say_where_somebody_is(db: None, settings: Any) -> None:
    staff()
    settings.TRUSTED_PROXIES = 1
    # Five from one place, each of which claims to come from another.
    for number in range(5):
        answer = fail(REMOTE_ADDR=PROXY, HTTP_X_FORWARDED_FOR=f"198.51.100.{number}, {ONE}")
    assert answer.status_code == 429
    assert fail(REMOTE_ADDR=PROXY, HTTP_X_FORWARDED_FOR=f"192.0.2.77, {ONE}").status_code == 429
    # Others behind the same proxy are not shut out with them.
    assert send_password(Client(), REMOTE_ADDR=PROXY, HTTP_X_FORWARDED_FOR=OTHER).status_code == 302
    settings.TRUSTED_PROXIES = 0
    assert fail(REMOTE_ADDR=OTHER, HTTP_X_FORWARDED_FOR=ONE).status_code == 200
    assert {row.ip_address for row in AccessAttempt.objects.all()} == {ONE, OTHER}


def test_nothing_that_was_typed_as_a_password_is_kept(db: None) -> None:
    staff()
    send_password(Client(), password="my other secret")
    kept = AccessAttempt.objects.values().get()
    assert "my other secret" not in str(kept)
    assert kept["username"] == "ada@example.com"


@pytest.mark.parametrize("email", ["", "a\0b@example.com", f"{'a' * 300}@example.com"])
def test_what_can_be_nobodys_name_is_refused_without_a_trace(db: None, email: str) -> None:
    request = RequestFactory().post("/")
    with pytest.raises(SignInRefused):
        sessions.authenticate(request, email=email, password=PASSWORD)
    assert not AccessAttempt.objects.exists()


@proves("A14", guard="tries_wait_for_each_other")
def test_many_tries_at_once_are_no_more_than_five(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    # As slow as in production: only then do tries that do not wait overlap.
    monkeypatch.setattr(PBKDF2PasswordHasher, "iterations", quick.ITERATIONS)
    staff()
    compared: list[str] = []
    real = ModelBackend.authenticate

    def counting(self: Any, request: Any, **told: Any) -> Any:
        compared.append(told["password"])
        return real(self, request, **told)

    def attempt(password: str) -> Callable[[], str]:
        def run() -> str:
            try:
                sessions.authenticate(RequestFactory().post("/"), email="ada@example.com", password=password)
            except (SignInRefused, SignInLocked) as error:
                return error.code
            return "in"

        return run

    with mock.patch.object(ModelBackend, "authenticate", counting):
        answers = books.together([attempt(f"guess {number}") for number in range(16)])
    assert 1 <= len(compared) <= 5, compared
    assert answers.count("sign_in_refused") < 5
    assert "in" not in answers


@proves("A14", guard="a_desk_left_alone_closes")
def test_a_desk_that_is_left_alone_closes_after_a_quarter_of_an_hour(db: None) -> None:
    staff()
    client, _ = signed_in()
    now = datetime.now(UTC)
    # Somebody works: each page is a visit.
    for minutes in (10, 20, 30, 40):
        with at(now + timedelta(minutes=minutes)):
            assert reaches(client)
    row = Session.objects.get(session_key=client.session.session_key)
    assert row.expire_date <= timezone.now() + timedelta(minutes=15)
    assert client.cookies["sessionid"]["max-age"] == 900
    with at(now + timedelta(minutes=54)):
        assert reaches(client)
    with at(now + timedelta(minutes=69, seconds=1)):
        assert not reaches(client)
    # It does not open again by itself.
    with at(now + timedelta(minutes=69)):
        assert not reaches(client)


@proves("A14", guard="a_desk_closes_in_the_evening")
def test_a_desk_closes_after_twelve_hours_however_busy(db: None) -> None:
    staff()
    client, _ = signed_in()
    now = datetime.now(UTC)
    for minutes in range(14, 12 * 60 - 5, 14):
        with at(now + timedelta(minutes=minutes)):
            sessions_open = reaches(client)
            assert sessions_open, minutes
    with at(now + timedelta(hours=12, seconds=1)):
        assert not reaches(client)


def test_half_a_sign_in_is_forgotten_after_ten_minutes(db: None) -> None:
    secret = enrolled(staff())
    client = Client()
    send_password(client)
    now = datetime.now(UTC)
    with at(now + timedelta(minutes=9)):
        assert client.get(CODE).status_code == 200
    with at(now + timedelta(minutes=10, seconds=1)):
        assert client.get(CODE)["Location"].startswith("/admin/login/")
        assert client.post(CODE, {"code": code(secret)})["Location"].startswith("/admin/login/")


def portal(client: Client, email: str) -> str | None:
    """What a page of the portal does with the right password; the key of the session."""
    from django.contrib.auth.models import AnonymousUser

    request = RequestFactory().post("/")
    request.session, request.user = client.session, AnonymousUser()
    person = sessions.authenticate(request, email=email, password=PASSWORD)
    sessions.open_portal(request, person)
    request.session.save()
    client.cookies["sessionid"] = request.session.session_key or ""
    return request.session.session_key


def test_a_customer_stays_signed_in_until_fourteen_days_after_the_last_visit(db: None) -> None:
    User.objects.create_user("customer@example.com", PASSWORD)
    client = Client()
    before = client.session.session_key
    after = portal(client, "customer@example.com")
    assert after not in {None, before}
    session = Session.objects.get(session_key=after)
    assert timedelta(days=13, hours=23) < session.expire_date - timezone.now() <= timedelta(days=14)
    Session.objects.update(expire_date=timezone.now() + timedelta(days=1))
    with at(datetime.now(UTC) + timedelta(days=13)):
        answer = client.get("/healthz")
    assert answer.cookies["sessionid"]["max-age"] == 14 * 24 * 3600
    assert answer.cookies["sessionid"]["samesite"] == "Lax"
    assert answer.cookies["sessionid"]["httponly"] is True
    session.refresh_from_db()
    assert session.expire_date - timezone.now() > timedelta(days=13)
    assert not reaches(client)


def test_the_portal_opens_to_nobody_with_a_second_factor_by_the_password_alone(db: None) -> None:
    enrolled(staff())
    with pytest.raises(CodeNeeded):
        portal(Client(), "ada@example.com")


def test_signing_out_ends_the_session_on_our_side(db: None) -> None:
    staff()
    client, _ = signed_in()
    stolen = client.cookies["sessionid"].value
    assert client.post("/admin/logout/").status_code == 200
    thief = Client()
    thief.cookies["sessionid"] = stolen
    assert not reaches(thief)


def test_what_is_over_is_trimmed_and_nothing_else(db: None) -> None:
    staff()
    client, _ = signed_in()
    fail("old@example.com")
    fail("new@example.com")
    AccessAttempt.objects.filter(username="old@example.com").update(attempt_time=timezone.now() - timedelta(days=8))
    Session.objects.create(session_key="over", session_data="", expire_date=timezone.now() - timedelta(minutes=1))
    assert sessions.trim() == "forgot 1 sessions, 1 attempts"
    assert reaches(client)
    assert [row.username for row in AccessAttempt.objects.all()] == ["new@example.com"]
    assert sessions.trim() == "forgot 0 sessions, 0 attempts"
