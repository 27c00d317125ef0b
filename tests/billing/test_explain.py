"""How a cost came about: parts that add up to what was charged, derived again from what was frozen."""

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import corrections, rerating
from billing.explain import arithmetic, explain
from core import clock, errors, ids
from metering import rules, usage
from metering.models import UsageRecord
from orgs import caches
from orgs.audit import system
from orgs.models import Organization
from tests.billing import world
from tests.books import Books
from tests.metering import world as metering
from tests.metering.test_rules import later

BY = system("tests")


def record(of: Organization) -> UsageRecord:
    """The first record of an organization."""
    found = UsageRecord.objects.filter(organization_id=of.pk).order_by("id").first()
    assert found is not None
    return found


def test_a_cost_is_the_sum_of_its_parts_in_plain_digits(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, metering.event())
    found = explain(record(acme))
    assert [(part.pool, part.quantity, part.rate_usd, part.per) for part in found.parts] == [
        ("input", 360, Decimal("0.27"), 1_000_000),
        ("cached_input", 640, Decimal("0.07"), 1_000_000),
        ("output", 200, Decimal("1.1"), 1_000_000),
    ]
    assert arithmetic(found.parts) == "360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362"
    assert found.matches
    assert found.transfer is not None
    assert found.transfer.amount_usd == found.net_usd == Decimal("0.000362")


def test_the_rule_that_applied_is_part_of_the_story(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    rule = rules.publish(by=BY, reason="half", effective_from=later(), organization=acme, factor=Decimal("0.5"))
    caches.forget_all()
    world.charge(acme, metering.event(occurred_at=later(minutes=1)))
    found = explain(record(acme))
    assert found.rule == rule
    assert found.matches
    assert [part.rate_usd for part in found.parts] == [Decimal("0.135"), Decimal("0.035"), Decimal("0.55")]


def test_a_cost_that_its_frozen_price_does_not_give_is_said_to_differ(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, metering.event())
    told = record(acme)
    told.cost_usd += Decimal("0.000000000001")
    assert not explain(told).matches


def test_corrections_are_named_and_counted(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    event = metering.event()
    world.charge(acme, event)
    done = corrections.void(organization_id=acme.pk, event_id=event.event_id, reason="gone", by=BY)
    found = explain(record(acme))
    assert [one.id for one in found.corrections] == [done.record_id]
    assert found.net_usd == 0
    assert done.record_id is not None
    back = UsageRecord.objects.get(organization_id=acme.pk, id=done.record_id)
    told = explain(back)
    assert arithmetic(told.parts) == "-360 × 0.27/1M - 640 × 0.07/1M - 200 × 1.1/1M = -0.000362"
    assert (told.matches, told.net_usd, told.corrections) == (True, Decimal("-0.000362"), [])


def test_a_re_rating_its_undoing_and_a_void_after_it_are_told_by_what_stood_before(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "FINAL_AFTER", timedelta(seconds=-1))
    acme = world.organization("acme", usd="1")
    event = metering.event(occurred_at=later(minutes=1))
    world.charge(acme, event, metering.event(occurred_at=later(minutes=1)))
    rules.publish(by=BY, reason="half", effective_from=later(), organization=acme, factor=Decimal("0.5"))
    caches.forget_all()
    now = clock.now()
    act = rerating.plan(start=now - timedelta(hours=1), end=now + timedelta(milliseconds=500), reason="half", by=BY)
    rerating.apply(act, by=BY)
    corrections.void(organization_id=acme.pk, event_id=event.event_id, reason="gone", by=BY)
    rerating.undo(act, reason="not half", by=BY)

    records = list(UsageRecord.objects.filter(organization_id=acme.pk).order_by("id"))
    told = [(arithmetic(explain(each).parts), explain(each).matches) for each in records]
    charged = ("360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362", True)
    halved = ("360 × 0.135/1M + 640 × 0.035/1M + 200 × 0.55/1M - 1 × 0.000362 = -0.000181", True)
    voided = ("-360 × 0.27/1M - 640 × 0.07/1M - 200 × 1.1/1M + 1 × 0.000181 = -0.000181", True)
    undone = ("1 × 0.000181 = 0.000181", True)
    assert told == [charged, charged, halved, halved, voided, undone]
    assert [explain(each).parts[-1].pool for each in records[2:]] == [
        "charged_before", "charged_before", "corrected_before", "undone",
    ]  # fmt: skip
    assert [explain(each).net_usd for each in records[:2]] == [Decimal(0), Decimal("0.000362")]
    assert [[one.kind for one in explain(each).corrections] for each in records[:2]] == [
        ["rerating", "void"], ["rerating", "rerating"],
    ]  # fmt: skip


def test_a_correction_that_started_from_another_cost_is_said_to_differ(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    event = metering.event()
    world.charge(acme, event)
    done = corrections.void(organization_id=acme.pk, event_id=event.event_id, reason="gone", by=BY)
    assert done.record_id is not None
    back = UsageRecord.objects.get(organization_id=acme.pk, id=done.record_id)
    back.cost_usd += Decimal("0.000000000001")
    found = explain(back)
    assert not found.matches
    assert sum(part.cost_usd for part in found.parts) == back.cost_usd


def test_a_correction_of_an_archived_record_cannot_be_taken_apart(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    event = metering.event()
    world.charge(acme, event)
    done = corrections.void(organization_id=acme.pk, event_id=event.event_id, reason="gone", by=BY)
    assert done.record_id is not None
    back = UsageRecord.objects.get(organization_id=acme.pk, id=done.record_id)
    back.corrects_id = ids.floor(clock.now() - timedelta(days=900))
    with pytest.raises(errors.Archived):
        explain(back)


def test_a_record_without_cost_is_explained_too(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, metering.event(input_tokens=0, cached_input_tokens=0, output_tokens=0))
    found = explain(record(acme))
    assert (found.parts, found.transfer, found.matches) == ([], None, True)
