"""The desk's page of corrections, and the ways between one and what it corrects."""

from decimal import Decimal

from django.test import Client

from billing import corrections
from billing.models import Correction, Transfer, TransferKind
from metering.models import UsageRecord
from orgs.models import Organization
from tests import desk
from tests.billing import world as books
from tests.billing.pages import NASTY, acme, charge, explain_page, root, void
from tests.metering import world as metering
from tests.orgs import world

__all__ = ["acme", "root"]


def test_a_void_is_shown_on_the_record_and_leads_to_its_transfer(root: Client, acme: Organization) -> None:
    correction = void(acme)
    record, _ = charge(acme, "evt_0")
    text = desk.read(root, desk.page(record)).text
    assert "-0.0003614" in text
    assert "sent by mistake" in text
    assert desk.page(correction) in text
    back = Transfer.objects.get(organization=acme, kind=TransferKind.VOID)
    assert back.pk == correction.transfer_id
    shown = desk.read(root, desk.page(correction)).text
    assert desk.page(back) in shown
    assert desk.page(record) in shown
    assert str(correction) in desk.read(root, desk.page(back)).text
    assert [row.pk for row in desk.read(root, desk.listing(Correction), q="acme-labs").rows] == [correction.pk]
    assert [row.pk for row in desk.read(root, desk.listing(Correction), q=str(correction)).rows] == [correction.pk]


def test_a_void_is_explained_from_both_ends(root: Client, acme: Organization) -> None:
    books.charge(acme, metering.event(event_id="gone", provider_cost_usd=Decimal("0.0001"), channel=NASTY))
    record, _ = charge(acme, "gone")
    corrections.void(organization_id=acme.pk, event_id="gone", reason=NASTY, by=world.BY)
    correction = Correction.objects.get()
    shown = desk.read(root, explain_page(record))
    lines = desk.cells(shown.text)
    assert ["after corrections (USD)", "0"] in lines
    assert ["margin (USD)", "-0.0001"] in lines
    assert any(line[:1] == ["Void"] and line[2] == "-0.000362" for line in lines)
    back = UsageRecord.objects.get(organization=acme, id=correction.pk)
    taken = desk.read(root, explain_page(back))
    assert ["cost (USD)", "-0.000362"] in desk.cells(taken.text)
    assert ["margin (USD)", "-"] in desk.cells(taken.text)
    assert f'<a href="{desk.page(record)}">' in taken.text
    assert "<script>alert" not in shown.text + taken.text
    assert "&lt;script&gt;" in shown.text
