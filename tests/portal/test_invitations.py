from datetime import timedelta
from typing import Any

import pytest

from core import errors
from ops.models import Mail
from orgs.models import User
from portal import invitations
from tests.orgs import world
from tests.portal.world import PASSWORD


def test_a_link_is_for_one_password(db: None) -> None:
    world.person("ada@example.com")
    secret = invitations.token("ada@example.com")
    assert invitations.read(secret) == "ada@example.com"
    person = User.objects.get(email="ada@example.com")
    person.set_password(PASSWORD)
    person.save()
    with pytest.raises(invitations.LinkSpent):
        invitations.read(secret)


@pytest.mark.parametrize("spoil", [str.swapcase, lambda text: text[:-1], lambda text: "x", lambda text: ""])
def test_a_link_that_is_not_ours_is_refused(db: None, spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(invitations.LinkSpent):
        invitations.read(spoil(invitations.token("ada@example.com")))


def test_a_link_ends_after_a_day(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = invitations.token("ada@example.com")
    monkeypatch.setattr(invitations, "LIFE", timedelta(seconds=-1))
    with pytest.raises(invitations.LinkSpent):
        invitations.read(secret)


def test_who_was_made_inactive_gets_no_letter(db: None) -> None:
    person = world.person("ada@example.com")
    person.is_active = False
    person.save()
    invitations.ask(email="ada@example.com")
    assert Mail.objects.count() == 0


def test_what_is_no_address_is_refused_by_name(db: None) -> None:
    with pytest.raises(errors.OutOfRange) as refused:
        invitations.checked("nobody")
    assert refused.value.param == "email"


def test_strangers_get_so_many_letters_an_hour(db: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SIGN_UP = True
    monkeypatch.setattr(invitations, "STRANGERS_MAX", 2)
    for number in range(4):
        invitations.ask(email=f"new{number}@example.com")
    assert Mail.objects.count() == 2
