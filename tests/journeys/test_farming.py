"""Somebody who makes accounts by a script for what a new account might be given."""

from typing import Any

import pytest
from django.test import Client

from ops.models import Mail
from orgs import keys
from orgs.models import Kind, Organization
from portal import invitations
from tests.billing.world import rows
from tests.journeys.neighbours import Caller
from tests.orgs.world import BY
from tests.portal.world import PASSWORD
from tests.proofs import proves

ADDRESSES = 10
ACCOUNTS = 2


@proves("A20", guard="strangers_have_a_limit")
def test_whoever_makes_accounts_by_the_hundred_gets_letters_for_some_and_credit_for_none(
    db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SIGN_UP = True
    # 200 an hour: a fiftieth of it, and of the farm.
    monkeypatch.setattr(invitations, "STRANGERS_MAX", invitations.STRANGERS_MAX // 50)
    farm = [f"farmer+{number}@example.com" for number in range(ADDRESSES)]
    client = Client()
    for email in farm:
        # Everybody is told the same.
        assert client.post("/portal/sign-up", {"email": email}).status_code == 200
    assert Mail.objects.count() == 4
    for number, email in enumerate(farm[:ACCOUNTS]):
        browser = Client()
        place = f"/portal/welcome/{invitations.token(email)}"
        assert browser.post(place, {"password": PASSWORD}).status_code == 302
        for part in range(2):
            told = {"slug": f"farm-{number}-{part}", "name": "Farm", "time_zone": "UTC"}
            assert browser.post("/portal/organizations", told).status_code == 302
    made = list(Organization.objects.all())
    # Their own one each, and two more.
    assert len(made) == ACCOUNTS * 3
    for organization in made:
        issued = keys.issue(kind=Kind.ORGANIZATION, name="first", by=BY, organization=organization)
        assert Caller("farmer", issued.secret).get("/v1/wallet").json()["available_usd"] == 0
    assert rows("SELECT count(*) FROM credit_grant") == [(0,)]
    assert rows("SELECT count(*) FROM transfer") == [(0,)]


def test_an_address_is_one_account_however_it_is_spelled(db: None, settings: Any) -> None:
    settings.SIGN_UP = True
    for spelled in ("Ada@Example.com", " ada@example.com", "ADA@EXAMPLE.COM "):
        assert Client().post("/portal/sign-up", {"email": spelled}).status_code == 200
    assert [mail.recipient for mail in Mail.objects.all()] == ["ada@example.com"]
