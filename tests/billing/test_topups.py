"""Wallets that ask for money by themselves: once for each gap, within their cap, and never again and again."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from billing import adjustments, topups, wallets
from billing.models import Grant, Recharge, TopUp
from core import errors
from orgs.audit import system
from orgs.models import AuditEntry, Organization
from tests.billing.world import assert_sound, organization, rows, side_by_side, standing
from tests.books import Books
from tests.clocks import Clock
from tests.proofs import proves

BY = system("tests")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def recharging(
    slug: str, *, usd: str = "1", below: str = "5", by: str = "20", cap: str = "1000", time_zone: str = "UTC"
) -> Organization:
    """An organization with that much money that asks for more below a line."""
    made = organization(slug, usd=usd)
    if time_zone != "UTC":
        Organization.objects.filter(pk=made.pk).update(time_zone=time_zone)
    topups.set_recharge(
        organization_id=made.pk, threshold_usd=Decimal(below), amount_usd=Decimal(by), monthly_cap_usd=Decimal(cap),
        by=BY,
    )  # fmt: skip
    return made


def asked() -> list[tuple[Decimal, str]]:
    """Every top-up there is: how much, and what became of it."""
    return [(row[0], row[1]) for row in rows("SELECT amount_usd, state FROM topup ORDER BY id")]


@proves("W17", guard="one_topup_is_open")
def test_fifty_workers_that_see_a_wallet_cross_its_line_ask_once(books: Books) -> None:
    recharging("acme")
    told = side_by_side(books, *(topups.open_due for _ in range(50)))
    assert sum(map(len, told)) == 1
    assert asked() == [(20, "pending")]


def test_the_index_lets_one_through_whoever_writes(books: Books) -> None:
    acme = recharging("acme")
    topups.open_due()
    with pytest.raises(IntegrityError, match="topup_one_open"):
        TopUp.objects.create(organization=acme, amount_usd=Decimal(10))


def test_a_payment_becomes_purchased_credit_once_however_often_it_is_told(books: Books) -> None:
    acme = recharging("acme")
    (made,) = topups.open_due()
    assert topups.begin(topup_id=made)
    assert not topups.begin(topup_id=made)
    assert topups.open_due() == []
    side_by_side(books, *(partial(topups.succeed, topup_id=made) for _ in range(8)))
    assert standing(acme).posted == 21
    assert rows("SELECT kind, amount_usd, reference FROM credit_grant WHERE kind = 'purchased'") == [
        (Grant.Kind.PURCHASED, 20, f"topup:{made}")
    ]
    assert rows("SELECT debit, credit FROM transfer WHERE kind = 'topup'") == [("stripe_clearing", "wallet")]
    assert asked() == [(20, "succeeded")]
    assert_sound()


def test_the_whole_gap_is_closed_at_once(books: Books, fake_clock: Clock) -> None:
    acme = recharging("acme", usd="0", below="75", by="10")
    (made,) = topups.open_due()
    topups.succeed(topup_id=made)
    fake_clock.move(DAY)
    assert topups.open_due() == []
    assert standing(acme).posted == 75


def test_a_wallet_at_its_line_asks_for_nothing_and_one_a_pico_below_does(books: Books) -> None:
    recharging("at", usd="5")
    below = recharging("below", usd="4.999999999999")
    topups.open_due()
    assert list(TopUp.objects.values_list("organization_id", flat=True)) == [below.pk]


def test_a_wallet_that_nobody_touched_yet_asks_too(books: Books) -> None:
    acme = organization("acme")
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(10), monthly_cap_usd=Decimal(100), by=BY
    )
    assert len(topups.open_due()) == 1


def test_a_frozen_wallet_and_one_switched_off_ask_for_nothing(books: Books) -> None:
    frozen, off = recharging("frozen"), recharging("off")
    wallets.freeze(organization_id=frozen.pk, reason="a dispute", by=BY)
    Recharge.objects.filter(pk=off.pk).update(enabled=False)
    assert topups.open_due() == []
    # Nor if they change between the look and the lock.
    assert topups.open_recharge(frozen.pk) is None
    assert topups.open_recharge(off.pk) is None


@proves("W17", guard="declined_cards_rest")
def test_a_card_that_declines_all_day_is_asked_four_times_and_never_again(books: Books, fake_clock: Clock) -> None:
    acme = recharging("acme")
    attempts: list[timedelta] = []
    start = fake_clock.at
    for _ in range(24 * 4):
        for made in topups.open_due():
            attempts.append(fake_clock.at - start)
            topups.begin(topup_id=made)
            topups.decline(topup_id=made, failure="card_declined")
        fake_clock.move(HOUR / 4)
    # After a rest of one hour, of two, of four; then somebody must look.
    assert attempts == [timedelta(0), HOUR, 3 * HOUR, 7 * HOUR]
    assert asked() == [(20, "failed")] * 4
    assert not Recharge.objects.get().enabled
    assert rows("SELECT data->>'failure', data->>'failures' FROM outbox WHERE kind = 'recharge.stopped'") == [
        ("card_declined", "4")
    ]
    assert standing(acme).posted == 1


def test_terms_that_are_set_again_forget_the_declines(books: Books) -> None:
    acme = recharging("acme")
    (made,) = topups.open_due()
    topups.decline(topup_id=made, failure="card_declined")
    assert topups.open_due() == []
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(30), monthly_cap_usd=Decimal(100), by=BY
    )
    topups.open_due()
    assert asked() == [(20, "failed"), (30, "pending")]
    assert AuditEntry.objects.filter(verb="recharge.set").count() == 2


def test_a_wallet_that_somebody_switched_off_stays_off_when_its_last_payment_is_declined(books: Books) -> None:
    acme = recharging("acme")
    (made,) = topups.open_due()
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(20), monthly_cap_usd=Decimal(1000),
        enabled=False, by=BY,
    )  # fmt: skip
    topups.decline(topup_id=made, failure="card_declined")
    assert not Recharge.objects.get().enabled
    # It was not the declines that stopped it.
    assert rows("SELECT kind FROM outbox WHERE kind = 'recharge.stopped'") == []


def test_a_payment_that_came_after_all_is_credit_although_it_was_called_failed(books: Books) -> None:
    acme = recharging("acme")
    (made,) = topups.open_due()
    topups.decline(topup_id=made, failure="timeout")
    topups.succeed(topup_id=made)
    topups.decline(topup_id=made, failure="late news")
    assert asked() == [(20, "succeeded")]
    assert standing(acme).posted == 21
    assert Recharge.objects.get().failures == 0
    assert_sound()


def test_a_month_buys_no_more_than_its_cap_and_begins_in_the_organizations_zone(
    books: Books, fake_clock: Clock
) -> None:
    recharging("acme", usd="0", below="1000", by="20", cap="30", time_zone="Pacific/Auckland")
    topups.succeed(topup_id=topups.open_due()[0])
    # The gap is far more than what a month allows.
    assert asked() == [(30, "succeeded")]
    fake_clock.move(HOUR)
    assert topups.open_due() == []
    month = rows("SELECT date_trunc('month', clock_timestamp() AT TIME ZONE 'Pacific/Auckland') + interval '1 month'")[
        0
    ][0]
    begins = rows("SELECT %s::timestamp AT TIME ZONE 'Pacific/Auckland'", month)[0][0]
    fake_clock.move(begins - fake_clock.at - timedelta(microseconds=1))
    assert topups.open_due() == []
    fake_clock.move(timedelta(microseconds=1))
    assert len(topups.open_due()) == 1


def test_less_than_anybody_may_pay_is_not_bought_although_the_cap_would_allow_it(
    books: Books, fake_clock: Clock
) -> None:
    acme = recharging("acme", usd="0", below="20", by="20", cap="29.99")
    topups.succeed(topup_id=topups.open_due()[0])
    adjustments.ask(organization_id=acme.pk, kind="debit", amount_usd=Decimal(20), reason="spent it all", by=BY)
    fake_clock.move(HOUR)
    assert topups.open_due() == []
    Recharge.objects.update(monthly_cap_usd=30)
    topups.open_due()
    assert asked() == [(20, "succeeded"), (10, "pending")]


def test_after_a_payment_the_next_one_waits_a_little(books: Books, fake_clock: Clock) -> None:
    acme = recharging("acme")
    topups.succeed(topup_id=topups.open_due()[0])
    Recharge.objects.filter(pk=acme.pk).update(threshold_usd=100)
    assert topups.open_due() == []
    fake_clock.move(topups.COOL_DOWN - timedelta(microseconds=1))
    assert topups.open_due() == []
    fake_clock.move(timedelta(microseconds=1))
    assert len(topups.open_due()) == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"threshold_usd": Decimal(-1)}, "threshold_usd"),
        ({"threshold_usd": Decimal("NaN")}, "threshold_usd"),
        ({"amount_usd": Decimal("9.99")}, "amount_usd"),
        ({"amount_usd": Decimal("5000.01")}, "amount_usd"),
        ({"amount_usd": Decimal("20.0000000000001")}, "amount_usd"),
        ({"monthly_cap_usd": Decimal("19.99")}, "monthly_cap_usd"),
        ({"monthly_cap_usd": Decimal("Infinity")}, "monthly_cap_usd"),
    ],
)
def test_terms_that_cannot_be_are_refused_by_name(books: Books, changed: dict[str, Decimal], named: str) -> None:
    acme = organization("acme")
    terms: dict[str, Any] = {
        "threshold_usd": Decimal(5),
        "amount_usd": Decimal(20),
        "monthly_cap_usd": Decimal(100),
    } | changed
    with pytest.raises(errors.OutOfRange) as refused:
        topups.set_recharge(organization_id=acme.pk, **terms, by=BY)
    assert refused.value.param == named
    assert not Recharge.objects.exists()


def test_a_topup_is_never_deleted(books: Books) -> None:
    recharging("acme")
    topups.open_due()
    with pytest.raises(Exception, match="topup"), transaction.atomic():
        rows("DELETE FROM topup")
