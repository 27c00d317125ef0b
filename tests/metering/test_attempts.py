"""Tries of a call are kept once, in order."""

from datetime import UTC, datetime

import pytest
from django.test import Client

from metering import attempts
from metering.attempts import Tried
from metering.models import UsageRecord
from orgs.models import User
from tests import desk
from tests.billing.world import charge
from tests.books import Books
from tests.metering.world import event
from tests.orgs import world

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.django_db
def test_tries_are_kept_once_and_in_order() -> None:
    acme = world.organization()
    tried = [Tried("first", "up-1", "status", 500, 12, AT), Tried("second", "up-2", "answered", 200, 30, AT)]
    for _ in range(2):
        attempts.write(organization_id=acme.pk, event_id="call-1", tried=tried)
    attempts.write(organization_id=acme.pk, event_id="call-2", tried=[])
    kept = attempts.of_event(organization_id=acme.pk, event_id="call-1")
    assert [(one.number, one.channel, one.outcome, one.status) for one in kept] == [
        (1, "first", "status", 500), (2, "second", "answered", 200),
    ]  # fmt: skip
    assert attempts.of_event(organization_id=acme.pk, event_id="call-2") == []


def test_finance_sees_the_tries_beside_the_cost(books: Books, client: Client) -> None:
    acme = world.organization()
    charge(acme, event(event_id="call-1", attempts=2))
    tried = [Tried("first", "up-1", "status", 500, 12, AT), Tried("second", "up-2", "answered", 200, 30, AT)]
    attempts.write(organization_id=acme.pk, event_id="call-1", tried=tried)
    client.force_login(User.objects.create_superuser("desk@example.com"))
    record = UsageRecord.objects.get()
    page = client.get(desk.page(record, "explain")).content.decode()
    assert "first, up-1: status, 500 after 12 ms" in page
    assert "second, up-2: answered, 200 after 30 ms" in page
