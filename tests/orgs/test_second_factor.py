"""Devices of staff: how they are made, used and reset."""

import io

import pytest
from django.core.management import call_command
from django.test import override_settings
from django_otp.plugins.otp_static.models import StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from core import errors, ids
from orgs import second_factor
from orgs.models import AuditEntry, User
from orgs.second_factor import CodeTooSoon, EnrolledBefore, Standing, Unreadable, WrongCode
from tests import desk
from tests.billing.world import rows
from tests.books import Books
from tests.orgs.signing import code, enrolled, reaches, signed_in, staff
from tests.orgs.world import BY
from tests.proofs import proves


def enrol(person: User) -> tuple[str, list[str]]:
    secret = second_factor.new_secret()
    _, codes = second_factor.confirm(person=person, secret=secret, code=code(secret))
    return secret, codes


def test_the_secret_is_written_for_people_and_for_apps(db: None) -> None:
    person = staff()
    secret = "00" * 19 + "ff"
    assert second_factor.written(secret) == "AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAH7"
    assert second_factor.address(person=person, secret=secret) == (
        "otpauth://totp/Tollbook%3Aada%40example.com?secret=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAH7"
        "&algorithm=SHA1&digits=6&period=30&issuer=Tollbook"
    )
    assert len(second_factor.new_secret()) == 40


def test_a_device_is_kept_only_with_a_code_of_it_and_never_a_second_one(db: None) -> None:
    person, secret = staff(), second_factor.new_secret()
    for wrong in ("", "abc", "12345678901", code(secret, steps=4)):
        with pytest.raises(errors.OutOfRange):
            second_factor.confirm(person=person, secret=secret, code=wrong)
    assert second_factor.standing(person) == Standing(0, 0)
    second_factor.confirm(person=person, secret=secret, code=code(secret))
    assert second_factor.standing(person) == Standing(1, 10)
    other = second_factor.new_secret()
    with pytest.raises(EnrolledBefore):
        second_factor.confirm(person=person, secret=other, code=code(other))


def test_of_a_recovery_code_only_a_digest_is_kept(db: None) -> None:
    _, codes = enrol(staff())
    kept = set(StaticToken.objects.values_list("token", flat=True))
    assert len(kept) == 10
    plain = {each.replace(" ", "") for each in codes}
    assert not kept & (plain | {each.upper() for each in plain})


def test_the_secret_of_an_app_lies_sealed_and_still_opens_the_desk(db: None) -> None:
    person = staff()
    secret, _ = enrol(person)
    kept = TOTPDevice.objects.get()
    assert kept.key.startswith("sealed:")
    assert secret not in str(rows("SELECT t::text FROM otp_totp_totpdevice t"))
    assert second_factor.verify(person=person, code=code(secret, steps=1)).pk == kept.pk
    # What it is by then still stands sealed, and the code is used.
    assert TOTPDevice.objects.get().key == kept.key
    with pytest.raises(WrongCode):
        second_factor.verify(person=person, code=code(secret, steps=1))


def test_a_sealed_secret_is_of_its_person_only(db: None) -> None:
    ada, bob = staff(), staff("bob@example.com")
    secret, _ = enrol(ada)
    enrol(bob)
    TOTPDevice.objects.filter(user=bob).update(key=TOTPDevice.objects.get(user=ada).key)
    with pytest.raises(Unreadable, match="A superuser resets it"):
        second_factor.verify(person=bob, code=code(secret, steps=1))


def test_after_the_secret_key_was_replaced_apps_work_and_are_sealed_anew(db: None) -> None:
    person, before = staff(), "k" * 50
    with override_settings(SECRET_KEY=before):
        secret, _ = enrol(person)
    with override_settings(SECRET_KEY_FALLBACKS=[before]):
        second_factor.verify(person=person, code=code(secret, steps=1))
        told = io.StringIO()
        call_command("reseal_second_factors", stdout=told)
        assert told.getvalue() == "1 sealed anew, 0 cannot be opened\n"
    TOTPDevice.objects.update(last_t=-1)
    second_factor.verify(person=person, code=code(secret))
    assert second_factor.reseal(by=BY) == (0, 0)
    entry = AuditEntry.objects.get(verb="second_factor.sealed")
    assert (entry.actor_label, entry.subject_id) == ("reseal_second_factors", ids.show("user", person.pk))


def test_what_no_key_opens_is_left_for_a_reset(db: None) -> None:
    person = staff()
    with override_settings(SECRET_KEY="k" * 50):
        secret, _ = enrol(person)
    kept = TOTPDevice.objects.get().key
    with pytest.raises(Unreadable):
        second_factor.verify(person=person, code=code(secret, steps=1))
    assert second_factor.reseal(by=BY) == (0, 1)
    assert TOTPDevice.objects.get().key == kept


def test_a_secret_of_before_is_read_and_sealed_by_the_next_preparation(books: Books) -> None:
    person = staff()
    secret = enrolled(person)
    second_factor.verify(person=person, code=code(secret))
    call_command("prepare", stdout=io.StringIO())
    assert TOTPDevice.objects.get().key.startswith("sealed:")
    second_factor.verify(person=person, code=code(secret, steps=1))


def test_one_code_lets_one_of_many_in(books: Books) -> None:
    person = staff()
    secret, codes = enrol(person)
    for one in (code(secret, steps=1), codes[0]):

        def attempt(one: str = one) -> bool:
            try:
                second_factor.verify(person=person, code=one)
            except (WrongCode, CodeTooSoon):
                return False
            return True

        assert sum(books.together([attempt] * 6)) == 1


def test_somebody_without_a_device_has_no_code(db: None) -> None:
    person = staff()
    for one in ("123456", "aaaa aaaa aaaa aaaa"):
        with pytest.raises(WrongCode):
            second_factor.verify(person=person, code=one)


def test_another_persons_code_is_no_code(db: None) -> None:
    ada, bob = staff(), staff("bob@example.com")
    secret, codes = enrol(ada)
    enrol(bob)
    for one in (code(secret, steps=1), codes[0]):
        with pytest.raises(WrongCode):
            second_factor.verify(person=bob, code=one)


@proves("A14", guard="only_superusers_reset")
def test_only_a_superuser_resets_and_only_somebody_elses(db: None) -> None:
    ada, clerk, gone = staff(), staff("clerk@example.com", is_superuser=False), staff("x@example.com", is_active=False)
    enrolled(ada)
    for by in (clerk, gone, ada):
        with pytest.raises(errors.PermissionDenied):
            second_factor.reset(person=ada, by=by, reason="lost")
    assert second_factor.is_enrolled(ada)


def test_a_reset_is_an_act_with_a_reason_that_closes_what_is_open(db: None) -> None:
    person = staff()
    theirs, shown_once = signed_in()
    device = TOTPDevice.objects.get(user=person)
    root = desk.superuser()
    place = f"/admin/otp_totp/totpdevice/{device.pk}/reset/"
    shown = desk.read(root, f"/admin/otp_totp/totpdevice/{device.pk}/change/")
    for secret in (device.key, shown_once, second_factor.written(shown_once).replace(" ", "")):
        assert secret not in shown.text
    exported = root.get("/admin/otp_totp/totpdevice/export/")
    assert exported.status_code == 403
    assert device.key not in exported.content.decode()
    assert root.post(place, {"reason": ""}).status_code == 200
    assert reaches(theirs)
    assert root.post(place, {"reason": "lost the phone"}).status_code == 302
    assert not reaches(theirs)
    entry = AuditEntry.objects.get(verb="second_factor.reset")
    assert (entry.actor_label, entry.details) == (
        "root@example.com",
        {
            "reason": "lost the phone",
            "before": {"apps": 1, "recovery codes": 10},
            "after": {"apps": 0, "recovery codes": 0},
        },
    )
    # Whoever may change devices by a right of Django's still may not.
    enrolled(person)
    clerk = desk.clerk("view_totpdevice", "change_totpdevice", "delete_totpdevice")
    again = TOTPDevice.objects.get(user=person).pk
    assert clerk.post(f"/admin/otp_totp/totpdevice/{again}/reset/", {"reason": "x"}).status_code == 403
    assert second_factor.is_enrolled(person)
