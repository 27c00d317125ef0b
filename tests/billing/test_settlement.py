"""Payments followed to their end at a fake Stripe: the wallet is right to the last digit, whatever happens between."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from billing import payments, settlement, topups
from billing.models import Invoice, InvoiceSettlement, Payment, Recharge, Refund, TopUp
from billing.processor import inbox
from core import clock, errors
from orgs.models import Organization
from tests.billing import papers
from tests.billing.corruption import broken
from tests.billing.paying import (
    ASKS_ALWAYS,
    BY,
    DECLINED,
    PAYS,
    again,
    asked,
    at_stripe,
    clearing,
    deliver,
    fake,
    intents,
    later,
    post,
    shown,
    topup,
    with_card,
)
from tests.billing.world import assert_sound, organization, rows, standing
from tests.books import Books
from tests.clocks import Clock, age
from tests.fakes.stripe import StripeFake
from tests.proofs import proves

__all__ = ["fake"]

HOUR = timedelta(hours=1)


def test_a_page_that_is_paid_becomes_credit_and_the_fee_is_booked(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    assert (made.state, made.checkout_url[:4]) == ("requires_action", "http")
    assert list(TopUp.objects.values_list("state", flat=True)) == ["requires_action"]
    fake.pay(made.session_id or "")
    deliver(fake)
    # 2.9 % and 30 cents.
    assert (again(made).state, again(made).fee_usd) == ("succeeded", Decimal("1.75"))
    assert standing(acme).posted == 50
    assert clearing() == at_stripe(fake) == Decimal("48.25")
    assert rows("SELECT kind, data->>'amount_usd' FROM outbox WHERE kind LIKE 'topup.%'") == [("topup.succeeded", "50")]
    assert_sound()


def test_a_saved_card_pays_at_once(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    assert made.state == "succeeded"
    assert standing(acme).posted == 50
    deliver(fake)
    assert standing(acme).posted == 50
    assert clearing() == at_stripe(fake) == Decimal("48.25")
    assert_sound()


def test_a_declined_card_ends_the_top_up_and_nothing_can_be_charged_later(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake, number=DECLINED)
    made = asked(acme, method="card")
    assert (made.state, made.failure_code) == ("failed", "generic_decline")
    assert [one["status"] for one in intents(fake)] == ["canceled"]
    deliver(fake)
    assert again(made).state == "failed"
    assert TopUp.objects.get().failure == "generic_decline"
    assert standing(acme).posted == 0
    assert_sound()


def test_a_bank_that_asks_the_customer_is_answered_and_the_credit_comes(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake, number=ASKS_ALWAYS)
    made = asked(acme, method="card")
    assert made.state == "requires_action"
    assert "/fake/authenticate/" in made.next_action_url
    fake.authenticate(made.intent_id or "")
    deliver(fake)
    assert again(made).state == "succeeded"
    assert standing(acme).posted == 50
    assert_sound()


def test_a_bank_that_asks_a_customer_who_is_not_there_declines(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake, number=ASKS_ALWAYS)
    made = asked(acme, method="card", off_session=True)
    assert (made.state, made.failure_code) == ("failed", "authentication_required")
    assert standing(acme).posted == 0


def test_a_page_that_nobody_pays_on_is_over_within_the_hour(books: Books, fake_clock: Clock, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    later(fake, fake_clock, timedelta(minutes=44))
    assert again(made).state == "requires_action"
    later(fake, fake_clock, timedelta(minutes=6))
    assert (again(made).state, again(made).failure_code) == ("canceled", "expired")
    assert TopUp.objects.get().state == "canceled"
    assert standing(acme).posted == 0
    # The next one may begin.
    topup(acme)
    assert_sound()


@proves("S11", guard="waiting_has_an_end")
def test_a_customer_who_does_not_confirm_is_waited_for_half_an_hour(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = with_card(fake, number=ASKS_ALWAYS)
    made = asked(acme, method="card")
    later(fake, fake_clock, timedelta(minutes=31))
    assert again(made).state == "canceled"
    assert [one["status"] for one in intents(fake)] == ["canceled"]


def test_without_any_event_the_sweep_finds_the_payment(books: Books, fake_clock: Clock, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    fake.pay(made.session_id or "")
    later(fake, fake_clock, timedelta(minutes=5))
    assert again(made).state == "succeeded"
    assert standing(acme).posted == 50


def test_a_payment_that_nobody_asked_for_before_the_process_died_is_asked_for(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = with_card(fake)
    made = topup(acme, method="card")
    settlement.sweep()
    assert again(made).state == "pending"
    later(fake, fake_clock, timedelta(minutes=1))
    assert again(made).state == "succeeded"
    assert standing(acme).posted == 50
    assert Payment.objects.count() == 1


# Two payments for one thing (S10). The invoice is a stand-in: it takes whatever it is handed first.


def _invoice_payment(of: Invoice) -> Payment:
    with transaction.atomic():
        return payments.open_one(
            organization_id=of.organization_id, purpose="invoice", subject_id=of.pk, amount_usd=of.open_usd,
            tax_usd=of.open_tax_usd, method="checkout",
        )  # fmt: skip


@proves("S10", guard="what_was_paid_twice_goes_back")
def test_what_is_paid_twice_goes_back_by_itself(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    invoice = papers.invoice(acme)
    first = _invoice_payment(invoice)
    settlement.ask(first.pk)
    # We took it for ended, and so asked again; then the customer pays both pages at once.
    Payment.objects.filter(pk=first.pk).update(state="canceled", settled_at=clock.now())
    second = _invoice_payment(invoice)
    settlement.ask(second.pk)
    for one in (second, first):
        fake.pay(again(one).session_id or "")
    deliver(fake)
    deliver(fake)
    paid = InvoiceSettlement.objects.filter(invoice=invoice).values_list("payment_id", "amount_usd", "tax_usd")
    assert list(paid) == [(second.pk, 1190, 190)]
    assert (again(first).state, again(first).surplus, again(first).refunded_usd) == ("succeeded", True, 1190)
    assert (again(second).surplus, again(second).refunded_usd) == (False, 0)
    assert [(row.origin, row.state, row.amount_usd) for row in Refund.objects.all()] == [
        ("automatic", "succeeded", 1190)
    ]
    # The net part of the one that counted; nothing was owed here.
    assert standing(acme).posted == 1000
    assert clearing() * 100 == fake.balance()
    assert rows("SELECT count(*) FROM outbox WHERE kind = 'refund.automatic'") == [(1,)]


def test_while_a_payment_is_open_there_is_no_second_one(books: Books, fake: StripeFake) -> None:
    invoice = papers.invoice(organization("acme"))
    _invoice_payment(invoice)
    with pytest.raises(payments.PaymentOpen):
        _invoice_payment(invoice)
    assert Payment.objects.count() == 1


# A wallet that pays by itself (W17 is in test_topups.py).


def _recharging(fake: StripeFake, number: str = PAYS) -> Organization:
    acme = with_card(fake, number=number, usd="1")
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(20), monthly_cap_usd=Decimal(100), by=BY
    )
    return acme


def test_a_low_wallet_is_filled_from_its_card_once(books: Books, fake: StripeFake) -> None:
    acme = _recharging(fake)
    books.together([settlement.recharge] * 6)
    assert standing(acme).posted == 21
    assert [one["status"] for one in intents(fake)] == ["succeeded"]
    deliver(fake)
    settlement.recharge()
    assert standing(acme).posted == 21
    assert list(TopUp.objects.values_list("automatic", "state")) == [(True, "succeeded")]
    assert_sound()


def test_a_card_whose_bank_wants_the_customer_declines_and_is_switched_off_in_the_end(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = _recharging(fake, ASKS_ALWAYS)
    for _ in range(24):
        settlement.recharge()
        later(fake, fake_clock, HOUR)
    assert list(TopUp.objects.values_list("state", "failure")) == [("failed", "authentication_required")] * 4
    assert not Recharge.objects.get().enabled
    assert rows("SELECT data->>'failure' FROM outbox WHERE kind = 'recharge.stopped'") == [("authentication_required",)]
    assert [one["status"] for one in intents(fake)] == ["canceled"] * 4
    assert standing(acme).posted == 1


def test_a_wallet_without_a_card_rests_as_after_a_decline(books: Books, fake: StripeFake) -> None:
    acme = organization("acme", usd="1")
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(20), monthly_cap_usd=Decimal(100), by=BY
    )
    settlement.recharge()
    settlement.recharge()
    assert list(TopUp.objects.values_list("state", "failure")) == [("failed", "no_card")]
    assert intents(fake) == []


def test_a_wallet_asks_for_whole_cents(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake, usd="0.000000000001")
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(30), amount_usd=Decimal(20), monthly_cap_usd=Decimal(100), by=BY
    )
    settlement.recharge()
    assert list(TopUp.objects.values_list("amount_usd", "state")) == [(Decimal(30), "succeeded")]


def test_a_process_that_died_after_a_wallet_asked_leaves_it_to_the_next(books: Books, fake: StripeFake) -> None:
    acme = _recharging(fake)
    topups.open_due()
    assert Payment.objects.count() == 0
    settlement.recharge()
    assert standing(acme).posted == 21


def test_without_a_key_nothing_is_asked_and_the_books_are_sound(books: Books, settings: Any) -> None:
    settings.STRIPE_API_KEY = ""
    acme = organization("acme", usd="1")
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(20), monthly_cap_usd=Decimal(100), by=BY
    )
    assert (settlement.recharge(), settlement.sweep(), inbox.sweep()) == ("payments are off",) * 3
    assert not TopUp.objects.exists()
    assert_sound()


def test_wallets_may_be_limited_at_once_and_within_a_day(books: Books, fake_clock: Clock, fake: StripeFake) -> None:
    acme = with_card(fake)
    topups.set_limits(
        organization_id=acme.pk, topup_usd=Decimal(30), daily_usd=Decimal(45), reason="new customer", by=BY
    )
    with pytest.raises(errors.OutOfRange, match="at most 30 for"):
        topup(acme, "30.01")
    asked(acme, "30", method="card")
    with pytest.raises(errors.OutOfRange, match="at most 15 more"):
        topup(acme, "15.01")
    fake_clock.move(timedelta(hours=24))
    assert asked(acme, "30", method="card").state == "succeeded"


def test_one_top_up_of_a_wallet_is_open(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    first = asked(acme)
    with pytest.raises(topups.TopUpOpen, match=shown(first)):
        topup(acme)


@proves("V21", guard="payments_cannot_be_forgotten")
def test_verify_finds_a_payment_that_nobody_followed(books: Books, fake: StripeFake) -> None:
    made = topup(organization("acme"))
    assert_sound()
    age(books, "payment", by=timedelta(hours=25))
    assert broken() == {"V21": f"1 broken: {_line(made)}"}


def _line(made: Payment) -> str:
    return f"payment {made.pk} of {made.organization_id} is pending since {_since(made)}"


def _since(made: Payment) -> str:
    return str(rows("SELECT created_at::text FROM payment WHERE id = %s", made.pk)[0][0])


@proves("V22", guard="events_cannot_be_forgotten")
def test_verify_finds_an_event_that_nobody_handled(books: Books, fake: StripeFake) -> None:
    made = asked(organization("acme"))
    fake.pay(made.session_id or "")
    (event,) = fake.webhooks.events("payment_intent.succeeded")
    post(fake, event)
    assert_sound()
    age(books, "stripe_event", by=timedelta(minutes=11))
    assert set(broken()) == {"V22"}
    assert event in broken()["V22"]
