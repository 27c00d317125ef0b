"""What requests cost us, by provider, model and month."""

from datetime import date, timedelta
from decimal import Decimal

from core import clock
from metering import provider_costs
from metering.verdicts import Status
from tests.billing.world import assert_all, charge, organization
from tests.metering.world import event


def test_costs_are_told_apart_by_who_served_and_corrections_are_none(db: None) -> None:
    from billing import corrections
    from orgs.audit import system

    acme = organization("acme", usd="50")
    told = (
        ("one", "Azure", None, "0.3"), ("two", "azure", None, "0.2"), ("three", None, None, "0.125"),
        ("four", None, "gpt-4o", "1"), ("five", None, None, None),
    )  # fmt: skip
    for name, provider, routed, cost in told:
        made = event(organization="acme", event_id=name, provider=provider, routed_model=routed)
        made.provider_cost_usd = None if cost is None else Decimal(cost)
        assert_all(charge(acme, made), Status.CREATED)
    corrections.void(organization_id=acme.pk, event_id="one", reason="tests", by=system("tests"))
    today = clock.now().date()
    month = today.replace(day=1)
    found = provider_costs.of_months(today, today)
    known = [one for one in found if one.model == "deepseek-chat"]
    assert [(one.provider, one.month, one.records, one.unknown, one.cost_usd) for one in known] == [
        ("azure", month, 2, 0, Decimal("0.5")),
        ("deepseek", month, 1, 1, Decimal("0.125")),
    ]
    assert [(one.model, one.provider, one.cost_usd) for one in found if one.model != "deepseek-chat"] == [
        ("gpt-4o", "openai", Decimal(1))
    ]


def test_months_end_with_their_last_instant(db: None) -> None:
    acme = organization("acme", usd="50")
    made = event(organization="acme", event_id="one")
    made.provider_cost_usd = Decimal("0.5")
    assert_all(charge(acme, made), Status.CREATED)
    month = clock.now().date().replace(day=1)
    before = month - timedelta(days=1)
    assert provider_costs.of_months(before, before) == []
    assert [one.cost_usd for one in provider_costs.of_months(before, month)] == [Decimal("0.5")]
    # December is followed by January of the next year.
    assert provider_costs.of_months(date(2025, 12, 1), date(2025, 12, 31)) == []
