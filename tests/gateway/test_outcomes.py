"""Calls that nobody ended: finance is told once."""

from decimal import Decimal
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import holds
from billing.budgets import Counted
from core import errors, ids
from gateway import outcomes
from gateway.models import UnknownOutcome
from metering.models import UsageRecord
from orgs.models import AuditEntry, Organization, User
from tests.billing.test_grants import give
from tests.billing.world import record, rows
from tests.books import Books
from tests.metering.world import attributed, event
from tests.orgs import world
from tests.proofs import proves


def expired(of: Organization, *, placed_by: UUID | None = None) -> UUID:
    """A hold whose time is over."""
    key = world.organization_key(of).key
    whose = Counted(of.pk, None, None, key.pk, Decimal("0.5"), 100)
    with transaction.atomic():
        hold = holds.place(holds.Asked(whose, "gpt-4o", 50, 60, None, placed_by)).hold
    rows("UPDATE hold SET expires_at = created_at WHERE id = %s", hold.pk)
    assert holds.expire_due() == 1
    return UUID(str(hold.pk))


def arrive(of: Organization, event_id: str, hold_id: UUID) -> None:
    """The event of a call whose hold has run out."""
    (item,) = attributed(of, event(event_id=event_id))
    record([item._replace(authorization_id=hold_id)])


@pytest.fixture
def acme(books: Books) -> Organization:
    made = world.organization()
    give(made, "10", "gift")
    return made


@proves("G03", guard="lost_calls_are_looked_for")
def test_a_call_of_ours_whose_hold_ran_out_is_noted_once(acme: Organization) -> None:
    hold_id = expired(acme)
    assert outcomes.note_lost() == 1
    assert outcomes.note_lost() == 0
    noted = UnknownOutcome.objects.get()
    assert (noted.hold_id, noted.amount_usd, noted.model, noted.organization_id) == (
        hold_id, Decimal("0.5"), "gpt-4o", acme.pk,
    )  # fmt: skip


def test_what_is_charged_late_is_marked_as_such(acme: Organization) -> None:
    hold_id = expired(acme)
    assert outcomes.note_lost() == 1
    arrive(acme, "late", hold_id)
    assert outcomes.note_lost() == 0
    noted = UnknownOutcome.objects.get()
    assert noted.resolved_at is not None
    assert noted.resolution == f"Charged late: {ids.show('usage', UsageRecord.objects.get().pk)}."
    # Charged before it was noted, it is none.
    second = expired(acme)
    arrive(acme, "later", second)
    assert outcomes.note_lost() == 0


def test_many_are_noted_page_by_page(acme: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "CHUNK", 2)
    for _ in range(5):
        expired(acme)
    assert [outcomes.note_lost() for _ in range(4)] == [2, 2, 1, 0]


def test_however_many_calls_of_an_organization_are_unknown_its_records_are_read_once(acme: Organization) -> None:
    lost = [expired(acme) for _ in range(3)]
    assert outcomes.note_lost() == 3
    for number, hold_id in enumerate(lost[:2]):
        arrive(acme, f"late {number}", hold_id)
    with CaptureQueriesContext(connection) as seen:
        assert outcomes.note_lost() == 0
    assert sum('FROM "usage_record"' in query["sql"] for query in seen) == 1
    assert [one.resolved_at is not None for one in UnknownOutcome.objects.order_by("hold_id")] == [True, True, False]


def test_an_old_unknown_call_is_not_kept_from_its_charge_by_younger_ones(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "CHUNK", 1)
    lost = [expired(acme) for _ in range(2)]
    assert [outcomes.note_lost() for _ in range(2)] == [1, 1]
    arrive(acme, "late", lost[0])
    outcomes.note_lost()
    assert UnknownOutcome.objects.get(hold_id=lost[0]).resolution.startswith("Charged late")


def test_a_gateway_of_somebody_else_is_not_ours_to_tell_of(acme: Organization) -> None:
    expired(acme, placed_by=world.service_key().key.pk)
    assert outcomes.note_lost() == 0


def test_what_came_of_it_is_written_down_once(acme: Organization, client: Client) -> None:
    expired(acme)
    outcomes.note_lost()
    noted = UnknownOutcome.objects.get()
    with pytest.raises(errors.OutOfRange):
        outcomes.resolve(outcome=noted, resolution=" ", by=world.BY)
    client.force_login(User.objects.create_superuser("ada@example.com"))
    page = f"/admin/gateway/unknownoutcome/{noted.pk}/"
    assert b"Write down what came of it" in client.get(f"{page}change/").content
    assert client.post(f"{page}resolve/", {"resolution": "The provider had not begun."}).status_code == 302
    noted.refresh_from_db()
    assert noted.resolution == "The provider had not begun."
    assert AuditEntry.objects.filter(verb="unknown_outcome.resolved").count() == 1
    with pytest.raises(errors.Conflict):
        outcomes.resolve(outcome=noted, resolution="Again.", by=world.BY)
