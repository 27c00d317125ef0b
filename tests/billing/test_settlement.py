"""Payments followed to their end at a fake Stripe: the wallet is right to the last digit, whatever happens between."""

from datetime import timedelta
from decimal import Decimal

from billing import settlement
from billing.models import Payment, TopUp
from tests.billing.paying import (
    ASKS_ALWAYS,
    DECLINED,
    again,
    asked,
    at_stripe,
    clearing,
    deliver,
    fake,
    intents,
    later,
    paid,
    topup,
    with_card,
)
from tests.billing.world import assert_sound, organization, rows, standing
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake

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
    later(fake, fake_clock, timedelta(minutes=34))
    assert again(made).state == "requires_action"
    later(fake, fake_clock, timedelta(minutes=6))
    assert (again(made).state, again(made).failure_code) == ("canceled", "expired")
    assert TopUp.objects.get().state == "canceled"
    assert standing(acme).posted == 0
    # The next one may begin.
    topup(acme)
    assert_sound()


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
    assert paid
