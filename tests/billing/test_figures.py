"""The figures of the first page, worked out by hand."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import figures, grants, holds
from billing.budgets import Counted
from billing.models import CheckRun, Difference, TopUp
from core import clock, errors
from ops import approvals
from ops.models import JobRun
from tests.billing.months import ADA, fold, go_to, sold, use
from tests.billing.paying import asked, deliver, fake, with_card
from tests.billing.world import charge, organization
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake
from tests.metering.world import event

__all__ = ["fake"]

DAY = timedelta(days=1)
GPT: dict[str, Any] = {"model": "gpt-4o", "input_tokens": 100_000, "cached_input_tokens": 0, "output_tokens": 0}


@pytest.fixture
def two_days(calendar: Clock) -> Clock:
    """On May 20th 2031: 4 requests of deepseek-chat for 0.27 USD each, of which 3 cost us 0.10; on the 21st one of
    gpt-4o for 0.25 USD that cost us 0.30."""
    acme, beta = sold("acme"), sold("beta")
    use(acme, events=3, provider_cost_usd=Decimal("0.1"))
    use(beta)
    go_to(calendar, "2031-05-21T12:00:00Z")
    use(beta, **GPT, provider_cost_usd=Decimal("0.3"))
    calendar.move(timedelta(hours=1))
    fold()
    return calendar


def test_sales_by_day_and_model_are_exact(two_days: Clock) -> None:
    found = figures.sales(start=date(2031, 5, 19), end=date(2031, 5, 22))
    first = figures.Sold(4, Decimal("1.08"), Decimal("0.3"))
    second = figures.Sold(1, Decimal("0.25"), Decimal("0.3"))
    assert found.days == [(date(2031, 5, 19), figures.Sold()), (date(2031, 5, 20), first), (date(2031, 5, 21), second)]
    assert found.models == [("deepseek-chat", first), ("gpt-4o", second)]
    assert found.total == figures.Sold(5, Decimal("1.33"), Decimal("0.6"))
    assert (first.margin_usd, second.margin_usd, found.total.margin_usd) == (
        Decimal("0.78"),
        Decimal("-0.05"),
        Decimal("0.73"),
    )
    assert found.until == two_days.at.replace(minute=45) - timedelta(hours=1)


def test_a_day_that_is_over_is_read_once_and_the_present_one_each_time(two_days: Clock) -> None:
    bounds = {"start": date(2031, 5, 20), "end": date(2031, 5, 22)}
    before = figures.sales(**bounds)
    use(sold("gamma"))
    two_days.move(timedelta(hours=1))
    fold()
    with CaptureQueriesContext(connection) as seen:
        after = figures.sales(**bounds)
    assert len(seen) == 2
    assert after.days[0] == before.days[0]
    assert after.days[1][1].revenue_usd == Decimal("0.52")
    with CaptureQueriesContext(connection) as seen:
        figures.sales(start=date(2031, 5, 20), end=date(2031, 5, 21))
    assert len(seen) == 1


def test_customers_are_told_apart_by_what_they_used_the_largest_first(two_days: Clock) -> None:
    found = figures.customers(start=date(2031, 5, 20), end=date(2031, 5, 22))
    assert [(one.slug, one.sold.requests, one.sold.revenue_usd) for one in found] == [
        ("acme", 3, Decimal("0.81")),
        ("beta", 2, Decimal("0.52")),
    ]
    only = figures.customers(start=date(2031, 5, 20), end=date(2031, 5, 22), model="gpt-4o")
    assert [(one.slug, one.sold) for one in only] == [("beta", figures.Sold(1, Decimal("0.25"), Decimal("0.3")))]
    assert figures.customers(start=date(2031, 5, 22), end=date(2031, 5, 23)) == []


@pytest.mark.parametrize("days", [0, figures.DAYS_MAX + 1])
def test_a_period_has_days_and_not_too_many(days: int) -> None:
    for verb in (figures.sales, figures.customers):
        with pytest.raises(errors.OutOfRange):
            verb(start=date(2031, 5, 20), end=date(2031, 5, 20) + days * DAY)


@pytest.mark.django_db
def test_wallets_are_told_by_what_was_bought_and_what_was_given() -> None:
    acme, poor = organization("acme", usd="2"), organization("poor")
    with transaction.atomic():
        grants.give(
            organization_id=acme.pk, kind="purchased", amount_usd=Decimal(5), reference="bought", actor="tests",
            reason="top-up",
        )  # fmt: skip
    # 0.27 USD of the 2 USD that were given, and 0.27 USD that nobody had.
    million = {"input_tokens": 1_000_000, "cached_input_tokens": 0, "output_tokens": 0}
    charge(acme, event(**million))
    charge(poor, event(**million))
    with transaction.atomic():
        holds.place(holds.Asked(Counted(acme.pk, None, None, None, Decimal("1.5"), 500), "deepseek-chat", 100, 600))
    found = figures.wallets()
    assert found == figures.Wallets(
        number=2, posted_usd=Decimal("6.73"), paid_usd=Decimal(5), given_usd=Decimal("1.73"),
        held_usd=Decimal("1.5"), overdraft_usd=Decimal("0.27"), overdrawn=1, frozen=0,
    )  # fmt: skip


@pytest.mark.django_db
def test_topups_are_counted_by_what_became_of_them_since_an_instant() -> None:
    before = clock.now()
    for place, (state, usd) in enumerate((("succeeded", 10), ("succeeded", 25), ("failed", 7), ("pending", 3))):
        settled = None if state == "pending" else timezone.now()
        TopUp.objects.create(
            organization=organization(f"org-{place}"), amount_usd=usd, tax_usd=1, state=state, settled_at=settled
        )
    assert figures.topups(since=before - timedelta(minutes=1)) == figures.TopUps(2, Decimal(35), 1, 1)
    assert figures.topups(since=before + timedelta(minutes=1)) == figures.TopUps(0, Decimal(0), 0, 0)


def test_disputes_that_are_over_are_none(books: Any, fake: StripeFake) -> None:
    assert figures.disputes() == figures.Disputes(0, Decimal(0), Decimal(0))
    made = asked(with_card(fake), method="card")
    dispute = fake.open_dispute(made.intent_id or "", amount=2000)
    deliver(fake)
    assert figures.disputes() == figures.Disputes(1, Decimal(20), Decimal(20))
    fake.close_dispute(dispute, won=True)
    deliver(fake)
    assert figures.disputes().number == 0


@pytest.mark.django_db
def test_what_waits_is_counted_and_named() -> None:
    now = clock.now()
    assert figures.checks() == figures.Checks(0, [], None)
    for name, ok, hours in (("V01 a", True, 1), ("V02 b", False, 3), ("V03 c", False, 2)):
        CheckRun.objects.create(
            name=name, ok=ok, seen=1, began_at=now - timedelta(hours=hours), took_ms=1, everything=True
        )
    assert figures.checks() == figures.Checks(3, ["V02 b", "V03 c"], now - timedelta(hours=3))
    for name, state, again in (("good", "done", None), ("bad", "failed", now), ("worse", "aside", None)):
        JobRun.objects.create(name=name, period=now, state=state, next_attempt_at=again)
    assert figures.failing_jobs() == ["bad", "worse"]
    assert (figures.questions(), figures.differences()) == (0, 0)
    approvals.ask(kind="credit", subject_id=organization("acme").pk, by=ADA, details={})
    Difference.objects.create(side="provider", subject="x", detail="apart")
    assert (figures.questions(), figures.differences()) == (1, 1)


@pytest.mark.django_db
def test_the_last_days_end_with_today() -> None:
    today = clock.now().date()
    assert figures.last_days(30) == (today - 29 * DAY, today + DAY)
