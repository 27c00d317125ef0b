"""Voids: a charge taken back in the open, once."""

from datetime import datetime
from decimal import Decimal
from typing import cast
from uuid import UUID

import pytest

from billing import charges, corrections, releases
from billing.models import Correction
from core import errors, ids
from metering import attribution, quarantine
from metering.attribution import Attributed, Orphan
from metering.models import UsageRecord
from metering.verdicts import Status
from orgs.audit import system
from orgs.models import AuditEntry, Organization
from tests.billing import world
from tests.billing.test_releases import MODEL, publish
from tests.books import Books
from tests.metering import world as metering

BY = system("tests")


def charged(of: Organization, **fields: object) -> Attributed:
    """An event that was just charged."""
    (item,) = metering.attributed(of, metering.event(**fields))
    (verdict,) = charges.record([item], reported_by=None)
    assert verdict.status is Status.CREATED
    return item


def void(of: Organization, event_id: str, reason: str = "sent by mistake") -> corrections.Voided:
    return corrections.void(organization_id=of.pk, event_id=event_id, reason=reason, by=BY)


def test_a_void_gives_the_money_back_by_a_record_that_names_the_first(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    item = charged(acme)
    assert world.standing(acme).balance == Decimal("0.999638")

    done = void(acme, item.event.event_id)

    assert (done.first, done.cost_usd) == (True, Decimal("-0.000362"))
    assert world.standing(acme).balance == 1
    assert world.standing(acme).spent == 0
    first, back = UsageRecord.objects.filter(organization_id=acme.pk).order_by("id")
    assert (back.id, back.corrects_id) == (done.record_id, first.id)
    assert (back.input_tokens, back.cached_input_tokens, back.output_tokens) == (-1000, -640, -200)
    assert back.cost_usd == -first.cost_usd
    assert AuditEntry.objects.filter(verb="usage.voided").count() == 1
    world.assert_sound()


def test_voiding_twice_is_one_void(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    item = charged(acme)
    first = void(acme, item.event.event_id)
    second = void(acme, item.event.event_id, "again")
    assert (second.record_id, second.cost_usd, second.first) == (first.record_id, first.cost_usd, False)
    assert world.standing(acme).balance == 1
    world.assert_sound()


def test_sixteen_voids_at_once_are_one_void(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    event_id = charged(acme).event.event_id
    done = books.together([lambda: void(acme, event_id) for _ in range(16)])
    assert sum(one.first for one in done) == 1
    assert len({one.record_id for one in done}) == 1
    assert world.standing(acme).balance == 1
    assert Correction.objects.count() == 1
    world.assert_sound()


def test_a_voided_event_sent_again_stays_voided(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    item = charged(acme)
    void(acme, item.event.event_id)
    (verdict,) = charges.record([item], reported_by=None)
    assert verdict.status is Status.DUPLICATE
    assert world.standing(acme).balance == 1


def test_a_void_in_overdraft_repays_it_first(books: Books) -> None:
    acme = world.organization("acme")
    item = charged(acme)
    assert world.standing(acme).overdraft == Decimal("0.000362")
    void(acme, item.event.event_id)
    assert set(world.standing(acme)[:3]) == {Decimal(0)}
    world.assert_sound()


def test_a_quarantined_event_is_withdrawn_and_never_charged(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    (item,) = metering.attributed(acme, metering.event(model="nobody-knows-it"))
    charges.record([item], reported_by=None)
    assert void(acme, item.event.event_id).first
    assert not void(acme, item.event.event_id).first
    assert world.rows("SELECT count(*) FROM quarantine WHERE resolved_at IS NULL") == [(0,)]
    world.assert_sound()


def test_an_event_that_named_an_unknown_key_is_withdrawn_too(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    event = metering.event(organization="acme", api_key_id=ids.show("key", ids.new()))
    (orphan,) = attribution.attribute([event])
    (verdict,) = charges.record([cast(Orphan, orphan)], reported_by=None)
    assert verdict.status is Status.QUARANTINED
    first, again = void(acme, event.event_id), void(acme, event.event_id)
    assert (first.record_id, first.cost_usd, first.first) == (None, Decimal(0), True)
    assert (again.record_id, again.first) == (None, False)
    assert world.rows("SELECT count(*) FROM quarantine WHERE resolved_at IS NULL") == [(0,)]
    assert releases.release() == (0, 0)
    assert AuditEntry.objects.filter(verb="event.voided").count() == 1
    world.assert_sound()


def test_an_event_that_is_charged_while_its_void_waits_is_voided_all_the_same(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = world.organization("acme", usd="10")
    item = metering.attributed(acme, metering.event(model=MODEL, input_tokens=1_000_000, cached_input_tokens=0))[0]
    charges.record([item], reported_by=None)
    publish(("2025-01-01T00:00:00+00:00", "2.5"))
    withdraw = quarantine.withdraw

    def late(row_id: UUID, *, at: datetime) -> bool:
        assert [one.charged for one in books.together([releases.release])] == [1]
        return withdraw(row_id, at=at)

    monkeypatch.setattr(quarantine, "withdraw", late)
    done = void(acme, item.event.event_id)
    assert (done.cost_usd, done.first) == (Decimal("-2.5"), True)
    assert done.corrects is not None
    assert world.standing(acme).balance == 10
    world.assert_sound()


def test_a_free_record_is_voided_without_a_transfer(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    item = charged(acme, input_tokens=0, cached_input_tokens=0, output_tokens=0)
    done = void(acme, item.event.event_id)
    assert done.first
    assert done.cost_usd == 0
    assert not void(acme, item.event.event_id).first
    world.assert_sound()


def test_an_event_of_a_neighbour_is_as_unknown_as_a_made_up_one(books: Books) -> None:
    acme, umbrella = world.organization("acme", usd="1"), world.organization("umbrella", usd="1")
    item = charged(acme)
    answers = []
    for event_id in (item.event.event_id, "made-up"):
        with pytest.raises(errors.NotFound) as refused:
            void(umbrella, event_id)
        answers.append(str(refused.value))
    assert answers[0] == answers[1]
    assert world.standing(acme).balance == Decimal("0.999638")


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501, "with a \x00"])
def test_a_void_says_why(books: Books, reason: str) -> None:
    acme = world.organization("acme", usd="1")
    item = charged(acme)
    with pytest.raises(errors.OutOfRange) as refused:
        void(acme, item.event.event_id, reason)
    assert refused.value.param == "reason"
    assert Correction.objects.count() == 0
