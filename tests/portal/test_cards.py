"""Saved cards at the customers' pages, with a fake Stripe at the other end."""

import re
from typing import Any

import pytest

from billing.models import PaymentCard
from billing.processor import client as stripe
from core import ids
from orgs.models import AuditEntry, Organization
from tests.billing.paying import PAYS, cards_of, deliver, fake, save_card
from tests.fakes.stripe import StripeFake
from tests.orgs import world
from tests.portal.world import member, owner

__all__ = ["fake"]

CARDS = "/portal/acme-labs/credit/cards"
OTHER = "5555555555554444"


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def places(of: Organization) -> dict[str, str]:
    """The place of each saved card by its last digits."""
    rows = PaymentCard.objects.filter(organization=of).values_list("last_four", "pk")
    return {last: f"/portal/{of.slug}/credit/cards/{ids.show('card', pk)}" for last, pk in rows}


def test_a_card_is_saved_on_stripes_page(acme: Organization, fake: StripeFake) -> None:
    client = owner(acme)
    page = client.post(CARDS).content.decode()
    led = re.search(r'content="0;url=([^"]+)"', page)
    assert led is not None
    assert led[1].startswith(fake.base_url)
    fake.pay(led[1].rsplit("/", 1)[1], PAYS)
    waiting = client.get(CARDS, {"looks": "1"}).content.decode()
    assert f'hx-get="{CARDS}?looks=2"' in waiting
    deliver(fake)
    assert "Visa ending in 4242" in client.get(CARDS).content.decode()
    assert 'hx-get="' not in client.get(CARDS, {"looks": "10"}).content.decode()


def test_another_card_becomes_the_default_and_goes_again(acme: Organization, fake: StripeFake) -> None:
    save_card(fake, acme)
    save_card(fake, acme, OTHER)
    client = owner(acme)
    assert cards_of(acme) == [("4242", True), ("4444", False)]
    assert client.post(f"{places(acme)['4444']}/prefer")["Location"] == CARDS
    assert cards_of(acme) == [("4242", False), ("4444", True)]
    assert client.post(f"{places(acme)['4444']}/remove")["Location"] == CARDS
    assert cards_of(acme) == [("4242", True)]
    assert client.post(f"{places(acme)['4444']}/prefer").status_code == 404
    assert list(AuditEntry.objects.filter(verb__startswith="card.").values_list("verb", flat=True).order_by("pk")) == [
        "card.preferred",
        "card.removed",
    ]


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_who_does_not_manage_billing_touches_no_card(acme: Organization, fake: StripeFake, role: str) -> None:
    save_card(fake, acme)
    save_card(fake, acme, OTHER)
    asked = len(fake.requests)
    client = member(acme, role)
    assert client.get(CARDS).status_code == 403
    there = places(acme)["4444"]
    assert [client.post(at).status_code for at in (CARDS, f"{there}/prefer", f"{there}/remove")] == [403] * 3
    assert (cards_of(acme), len(fake.requests)) == ([("4242", True), ("4444", False)], asked)


def test_another_organizations_card_is_not_there(acme: Organization, fake: StripeFake) -> None:
    save_card(fake, acme)
    other = owner(world.organization("other"))
    there = places(acme)["4242"]
    for act in ("prefer", "remove"):
        assert other.post(f"{there}/{act}").status_code == 404
        assert other.post(f"{there.replace('acme-labs', 'other')}/{act}").status_code == 404
    assert cards_of(acme) == [("4242", True)]


def test_a_stripe_that_is_silent_or_off_is_told_and_nothing_changes(
    acme: Organization, fake: StripeFake, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    save_card(fake, acme)
    client = owner(acme)

    def silent(*_: object, **__: object) -> None:
        raise stripe.InDoubt("timeout", "inside")

    monkeypatch.setattr(stripe.Client, "post", silent)
    for at in (CARDS, f"{places(acme)['4242']}/remove"):
        refused = client.post(at)
        assert (refused.status_code, b"inside" in refused.content) == (503, False)
    settings.STRIPE_API_KEY = ""
    assert client.post(CARDS).status_code == 503
    assert b"switched off" in client.get(CARDS).content
    assert cards_of(acme) == [("4242", True)]
