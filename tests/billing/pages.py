"""The pages of billing at the desk: an organization to look at, and what their tests read off them."""

import re
from decimal import Decimal

import pytest
from django.test import Client

from billing import corrections
from billing.models import Correction, Rerating, ReratingShare, Transfer
from core import clock
from metering.models import UsageRecord
from orgs.models import Organization
from tests import desk
from tests.orgs import world

NASTY = "<script>alert(1)</script>"


@pytest.fixture
def root(db: None) -> Client:
    return desk.superuser()


@pytest.fixture
def acme(db: None) -> Organization:
    made = desk.organization("acme-labs")
    desk.use(made, 3, charges=3)
    return made


def void(of: Organization, event_id: str = "evt_0") -> Correction:
    corrections.void(organization_id=of.pk, event_id=event_id, reason="sent by mistake", by=world.BY)
    return Correction.objects.get(organization=of)


def made_up(*of: Organization) -> Rerating:
    """An act with a share for each organization."""
    now = clock.now()
    act = Rerating.objects.create(start=now, end=now, reason="a late price", actor="tests", model_slugs=[desk.MODEL])
    for each in of:
        ReratingShare.objects.create(
            rerating=act, organization=each, records=1234, before_usd=Decimal("3.5"), after_usd=Decimal("1.25")
        )
    return act


def charge(of: Organization, event_id: str = "evt_1") -> tuple[UsageRecord, Transfer]:
    record = UsageRecord.objects.get(organization=of, event_id=event_id, corrects_id=None)
    assert record.transfer_id is not None
    return record, Transfer.objects.get(organization=of, id=record.transfer_id)


def cells(text: str, field: str) -> list[str]:
    """What a column of a list shows, without markup."""
    found = re.findall(rf'<t[dh] class="field-{field}\b[^>]*>(.*?)</t[dh]>', text)
    return [re.sub("<[^>]*>", "", cell) for cell in found]


def cells_of_page(text: str, field: str) -> str:
    """What a page shows for a field, without markup."""
    found = re.search(rf'field-{field} .*?<div class="readonly[^"]*">(.*?)</div>', text, re.DOTALL)
    assert found is not None, field
    return re.sub("<[^>]*>", "", found[1]).strip()


def explain_page(record: UsageRecord) -> str:
    return desk.page(record, "explain")
