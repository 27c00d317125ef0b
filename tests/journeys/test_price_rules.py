"""A markup from the desk to a customer's bill: published by two, paid from its start on, explained to the digit."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from metering.models import PriceRule, UsageRecord
from ops.models import Approval
from orgs import caches
from tests import desk
from tests.clocks import Clock
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.metering.test_rule_admin import EMPTY, PUBLISH, done


def use(house: House, event_id: str, at: datetime) -> Any:
    """Report a request of 1,000 input tokens, 640 of them cached, and 200 output tokens; what the gateway is told."""
    answer = house.gateway.post(
        "/v1/events",
        {
            "event_id": event_id, "model": "deepseek-chat", "occurred_at": at.isoformat(), "input_tokens": 1000,
            "cached_input_tokens": 640, "output_tokens": 200,
        },
    )  # fmt: skip
    assert answer.status_code == 201, answer.content
    return answer.json(parse_float=Decimal)


def test_a_markup_for_a_group_is_published_by_two_and_paid_by_who_is_put_into_it(fake_clock: Clock) -> None:
    acme, other = neighbours.house("acme-labs", documented=False), neighbours.house("other", documented=False)
    ada, bob = desk.superuser("ada@example.com"), desk.superuser("bob@example.com")
    done(ada, PUBLISH, **{**EMPTY, "group": "partners", "factor": "20"})
    done(ada, desk.page(acme.organization, "price-group"), group="partners")
    for question in Approval.objects.filter(decided_at=None):
        desk.send(ada, desk.page(question, "grant"))
        assert Approval.objects.get(pk=question.pk).decided_at is None
        desk.send(bob, desk.page(question, "grant"))
    rule = PriceRule.objects.get()
    assert rule.effective_from > fake_clock.at + timedelta(minutes=5)
    before = use(acme, "before", fake_clock.at)
    # 360 × 0.27 + 640 × 0.07 + 200 × 1.10 = 97.2 + 44.8 + 220 = 362 millionths.
    assert before["cost_usd"] == Decimal("0.000362")

    fake_clock.move(rule.effective_from - fake_clock.at + timedelta(seconds=1))
    caches.forget_all()
    after, not_mine = use(acme, "after", fake_clock.at), use(other, "after", fake_clock.at)
    # 360 × 0.324 + 640 × 0.084 + 200 × 1.32 = 116.64 + 53.76 + 264 = 434.4 millionths.
    assert (after["cost_usd"], not_mine["cost_usd"]) == (Decimal("0.0004344"), Decimal("0.000362"))
    rows = dict(UsageRecord.objects.filter(organization=acme.organization).values_list("event_id", "rule_id"))
    assert (rows["before"], rows["after"]) == (None, rule.pk)

    told = acme.callers["organization"].get(f"/v1/usage/{after['usage_record_id']}/explain").json(parse_float=Decimal)
    assert (told["rule"]["id"], told["rule"]["factor"]) == (str(rule), Decimal("1.2"))
    assert (told["cost_usd"], told["matches"]) == (Decimal("0.0004344"), True)
