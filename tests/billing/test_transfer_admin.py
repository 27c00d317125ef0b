"""The desk's pages of transfers: how one is found, and the records that it charged."""

import re

import pytest
from django.test import Client

from billing.models import Transfer, TransferKind
from core import ids
from metering.models import UsageRecord
from orgs.models import Organization
from tests import desk
from tests.billing.pages import acme, cells_of_page, charge, root

__all__ = ["acme", "root"]


def test_who_may_see_transfers_but_no_usage_sees_no_usage_on_a_transfer(acme: Organization) -> None:
    client = desk.clerk("view_transfer", "view_wallet")
    record, transfer = charge(acme)
    shown = desk.read(client, desk.page(transfer)).text
    assert "0.0003614" in shown
    assert str(record) not in shown


@pytest.mark.parametrize("text", ["{id}", "acme-labs {id}", "acme-labs {seq}", "acme-labs {reference}"])
def test_a_transfer_is_found_by_id_number_and_reference(root: Client, acme: Organization, text: str) -> None:
    desk.use(desk.organization("other"), 2)
    row = Transfer.objects.get(organization=acme, kind=TransferKind.GRANT)
    found = desk.read(root, desk.listing(Transfer), q=text.format(id=row, seq=row.seq, reference=row.reference))
    assert found.address == desk.page(row)
    assert cells_of_page(found.text, "cause") == "welcome:acme-labs"


def test_a_transfer_of_another_organization_is_not_found_under_this_one(root: Client, acme: Organization) -> None:
    other = desk.organization("other")
    theirs = Transfer.objects.get(organization=other)
    for text in (f"acme-labs {theirs}", f"acme-labs {theirs.reference}", "acme-labs 99"):
        assert desk.read(root, desk.listing(Transfer), q=text).address != desk.page(theirs)
    wrong = desk.page(theirs).replace(ids.show("org", other.pk), ids.show("org", acme.pk))
    assert root.get(wrong).status_code == 302


def test_a_transfer_shows_the_records_that_it_charged_and_a_record_its_transfer(root: Client) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 30, charges=10)
    record, transfer = charge(acme, "evt_7")
    shown = desk.read(root, desk.page(transfer)).text
    mine = UsageRecord.objects.filter(organization=acme, transfer_id=transfer.pk).order_by("id")
    assert re.findall(r"org_\w+:(usage_\w+)/change/", shown) == [str(row) for row in mine]
    assert len(mine) == 3
    assert desk.page(transfer) in desk.read(root, desk.page(record)).text


def test_a_transfer_of_many_records_shows_the_first_and_says_so(root: Client) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 25)
    shown = desk.read(root, desk.page(charge(acme)[1])).text
    assert len(re.findall(r"org_\w+:(usage_\w+)/change/", shown)) == 20
    assert "The first 20; there are more." in shown
