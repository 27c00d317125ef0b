"""Money that goes back: ours and Stripe's desk's, in parts, twice, in doubt, and refunds that fail weeks later."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from billing import adjustments, payments, refunds, settlement, topups
from billing.models import Payment, PaymentCard, Refund, TopUp
from billing.processor import client, facts
from core import errors
from ops import approvals
from ops.models import Approval
from orgs.audit import Actor
from tests.billing.paying import (
    BY,
    account,
    again,
    asked,
    clearing,
    deliver,
    fake,
    later,
    with_card,
)
from tests.billing.world import assert_sound, organization, rows, standing
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake
from tests.nursery import Nursery
from tests.proofs import proves

__all__ = ["fake"]

OTHER = Actor(kind="user", id="user_2", label="bob@example.com")


def give_back(payment: Payment, usd: str) -> Refund:
    """A refund of ours that Stripe was asked for."""
    made = refunds.ask(payment_id=payment.pk, amount_usd=Decimal(usd), reason="a test", by=BY)
    refunds.call(made.pk, at=client.connect())
    return Refund.objects.get(pk=made.pk)


def test_a_refund_of_ours_leaves_the_wallet_and_reaches_the_card(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    assert give_back(made, "20.50").state == "succeeded"
    assert give_back(made, "29.50").state == "succeeded"
    assert (standing(acme).posted, again(made).refunded_usd) == (0, 50)
    deliver(fake)
    assert standing(acme).posted == 0
    # Stripe keeps its fee.
    assert clearing() * 100 == fake.balance() == -175
    assert_sound()


def test_no_more_goes_back_than_came_or_than_is_left_of_what_was_paid_for(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake, usd="100")
    made = asked(acme, method="card")
    with pytest.raises(errors.OutOfRange, match=r"Only 50 USD of this payment"):
        give_back(made, "50.01")
    give_back(made, "20")
    with pytest.raises(errors.OutOfRange, match=r"Only 30 USD of this payment"):
        give_back(made, "30.01")
    # Spent: what was given stays, and is not given back to a card.
    adjustments.ask(organization_id=acme.pk, kind="debit", amount_usd=Decimal(125), reason="spent", by=BY)
    assert standing(acme).posted == 5
    with pytest.raises(errors.OutOfRange, match=r"Only 5 USD of purchased credit"):
        give_back(made, "5.01")
    assert give_back(made, "5").state == "succeeded"
    assert_sound()


@pytest.mark.parametrize("usd", ["0", "-1", "0.001", "NaN"])
def test_an_amount_that_cannot_be_is_refused(books: Books, fake: StripeFake, usd: str) -> None:
    made = asked(with_card(fake), method="card")
    with pytest.raises(errors.OutOfRange):
        refunds.ask(payment_id=made.pk, amount_usd=Decimal(usd), reason="a test", by=BY)


def test_a_large_refund_waits_for_a_second_person(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, "600", method="card")
    row = refunds.ask(payment_id=made.pk, amount_usd=Decimal(600), reason="a test", by=BY)
    assert (row.state, standing(acme).posted) == ("waiting", 600)
    refunds.call(row.pk, at=client.connect())
    with pytest.raises(approvals.ApprovalNeeded):
        refunds.carry_out(refund_id=row.pk, by=OTHER)
    approvals.decide(approval_id=Approval.objects.get().pk, by=OTHER, grant=True)
    refunds.carry_out(refund_id=row.pk, by=OTHER)
    refunds.call(row.pk, at=client.connect())
    row.refresh_from_db()
    assert (row.state, standing(acme).posted) == ("succeeded", 0)


def test_a_large_refund_that_is_refused_moves_nothing(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, "600", method="card")
    row = refunds.ask(payment_id=made.pk, amount_usd=Decimal(600), reason="a test", by=BY)
    approvals.decide(approval_id=Approval.objects.get().pk, by=OTHER, grant=False)
    assert refunds.carry_out(refund_id=row.pk, by=OTHER).state == "refused"
    refunds.call(row.pk, at=client.connect())
    assert standing(acme).posted == 600
    assert_sound()


def test_a_refund_at_stripes_desk_is_taken_out_of_the_wallet_even_if_it_was_spent(
    books: Books, fake: StripeFake
) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    adjustments.ask(organization_id=acme.pk, kind="debit", amount_usd=Decimal(35), reason="spent", by=BY)
    fake.refund(made.intent_id or "", 2000)
    fake.refund(made.intent_id or "")
    deliver(fake)
    deliver(fake)
    assert (standing(acme).posted, standing(acme).overdraft) == (0, 35)
    assert sorted(Refund.objects.values_list("origin", "state", "amount_usd")) == [
        ("stripe", "succeeded", Decimal(20)),
        ("stripe", "succeeded", Decimal(30)),
    ]
    assert clearing() * 100 == fake.balance()
    assert_sound()


@proves("S12", guard="refunds_that_fail_come_back")
def test_a_refund_that_fails_later_becomes_credit_again(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    row = give_back(made, "30")
    assert standing(acme).posted == 20
    fake.fail_refund(row.stripe_id or "")
    deliver(fake)
    deliver(fake)
    row.refresh_from_db()
    assert (row.state, row.failure) == ("failed", "expired_or_canceled_card")
    assert (standing(acme).posted, again(made).refunded_usd) == (50, 0)
    assert rows("SELECT count(*) FROM outbox WHERE kind = 'refund.failed'") == [(1,)]
    # It may be tried again, and no more than all of it.
    assert give_back(made, "50").state == "succeeded"
    assert (standing(acme).posted, clearing() * 100) == (0, fake.balance())
    assert_sound()


def test_a_refund_is_known_before_the_success_that_it_follows(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    fake.pay(made.session_id or "")
    fake.refund(fake.webhooks._state.objects[made.session_id or ""]["payment_intent"], 1500)
    deliver(fake, *fake.webhooks.events("refund.created"))
    assert (again(made).state, standing(acme).posted) == ("succeeded", 35)
    deliver(fake)
    assert standing(acme).posted == 35
    assert_sound()


def test_a_refund_whose_answer_is_lost_is_asked_for_under_the_same_key(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    fake.fail("reset", "POST", "/v1/refunds")
    row = give_back(made, "30")
    assert (row.state, standing(acme).posted) == ("called", 20)
    later(fake, fake_clock, timedelta(minutes=5))
    row.refresh_from_db()
    assert (row.state, standing(acme).posted) == ("succeeded", 20)
    assert len(list(fake.state.all("re"))) == 1


def test_a_refund_is_searched_for_once_its_key_may_be_forgotten(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    fake.fail("reset", "POST", "/v1/refunds", times=3)
    row = give_back(made, "30")
    for pause in (5, 60, 60 * 24):
        later(fake, fake_clock, timedelta(minutes=pause))
    row.refresh_from_db()
    assert (row.state, standing(acme).posted) == ("succeeded", 20)
    assert len(list(fake.state.all("re"))) == 1


def test_a_refund_that_stripe_refuses_gives_the_money_back(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    fake.refund(made.intent_id or "")
    row = give_back(made, "30")
    assert (row.state, row.failure) == ("failed", "charge_already_refunded")
    assert standing(acme).posted == 50
    deliver(fake)
    assert (standing(acme).posted, again(made).refunded_usd) == (0, 50)
    assert_sound()


def test_the_tax_of_a_payment_goes_back_with_it_to_the_last_cent(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    with transaction.atomic():
        row = topups.open_one(organization_id=acme.pk, amount_usd=Decimal(10), by=BY)
        TopUp.objects.filter(pk=row.pk).update(tax_usd=Decimal("1.90"))
        made = payments.open_one(
            organization_id=acme.pk, purpose="topup", subject_id=row.pk, amount_usd=Decimal("11.90"),
            tax_usd=Decimal("1.90"), method="card", card=PaymentCard.objects.get(),
        )  # fmt: skip
    settlement.ask(made.pk)
    assert (standing(acme).posted, account("taxes")) == (10, Decimal("1.90"))
    for usd in ("3.97", "3.97"):
        give_back(made, usd)
    # A third of 1.90 is 0.633…, two thirds 1.266…
    assert list(Refund.objects.order_by("pk").values_list("tax_usd", flat=True)) == [Decimal("0.63"), Decimal("0.64")]
    give_back(made, "3.96")
    assert (standing(acme).posted, account("taxes")) == (0, 0)
    assert_sound()


def test_a_refund_that_does_not_fit_is_refused(books: Books, fake: StripeFake) -> None:
    made = asked(with_card(fake), method="card")
    row = give_back(made, "30")
    with fake.state.lock:
        told = dict(fake.state.objects[row.stripe_id or ""])
    for changed in ({"amount": 2999}, {"id": "re_other"}, {"id": "re_new", "metadata": {facts.REFUND: str(made.pk)}}):
        with pytest.raises(facts.Mismatch), transaction.atomic():
            refunds.follow(payments.locked(made.pk), [{**told, **changed}])
    with pytest.raises(facts.Mismatch, match="eur"), transaction.atomic():
        refunds.follow(payments.locked(made.pk), [{**told, "currency": "eur"}])
    # More than came in is no refund of this payment.
    with pytest.raises(facts.Mismatch, match="come to 60"), transaction.atomic():
        refunds.follow(payments.locked(made.pk), [{**told, "id": "re_new", "metadata": {}}])


@pytest.mark.parametrize("place", ["refund.before_call", "refund.after_call"])
def test_a_process_that_is_killed_while_it_refunds_refunds_once(
    books: Books, fake_clock: Clock, fake: StripeFake, nursery: Nursery, place: str
) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    row = refunds.ask(payment_id=made.pk, amount_usd=Decimal(30), reason="a test", by=BY)
    ended = nursery.run(
        "tests.billing.paying:refund_alone", dies_at=place, refund_id=str(row.pk), base=fake.base_url, key=fake.api_key
    )
    assert ended.died, ended.error
    assert standing(acme).posted == 20
    # That process went by the machine's clock.
    later(fake, fake_clock, timedelta(minutes=10))
    row.refresh_from_db()
    assert (row.state, standing(acme).posted) == ("succeeded", 20)
    assert len(list(fake.state.all("re"))) == 1
    assert_sound()
