"""Contested payments: frozen while they are open, taken back when lost, released when won."""

from decimal import Decimal

import pytest

from billing import adjustments, refunds, topups
from billing.models import Dispute
from core import errors
from tests.billing.paying import (
    BY,
    account,
    asked,
    clearing,
    deliver,
    fake,
    with_card,
)
from tests.billing.world import assert_sound, rows, standing
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.proofs import proves

__all__ = ["fake"]


def test_what_a_disputed_payment_still_holds_is_frozen_and_released_when_it_is_won(
    books: Books, fake: StripeFake
) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    adjustments.ask(organization_id=acme.pk, kind="debit", amount_usd=Decimal(20), reason="spent", by=BY)
    dispute = fake.open_dispute(made.intent_id or "")
    deliver(fake)
    row = Dispute.objects.get(organization=acme, state="open")
    assert (row.frozen_usd, standing(acme).posted, standing(acme).overdraft) == (30, 0, 0)
    # Stripe has taken the payment and 15 dollars.
    assert (account("disputes"), clearing() * 100) == (-20, fake.balance())
    fake.close_dispute(dispute, won=True)
    deliver(fake)
    assert (standing(acme).posted, account("disputes"), clearing() * 100) == (30, 0, fake.balance())
    row.refresh_from_db()
    assert row.state == "won"
    assert rows("SELECT kind FROM outbox WHERE kind LIKE 'dispute.%' ORDER BY id") == [
        ("dispute.opened",),
        ("dispute.closed",),
    ]
    assert_sound()


@proves("S13", guard="lost_disputes_are_taken_back")
def test_a_lost_dispute_is_taken_out_of_the_wallet_below_zero(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    adjustments.ask(organization_id=acme.pk, kind="debit", amount_usd=Decimal(20), reason="spent", by=BY)
    dispute = fake.open_dispute(made.intent_id or "")
    deliver(fake)
    fake.close_dispute(dispute, won=False)
    deliver(fake)
    assert (standing(acme).posted, standing(acme).overdraft) == (0, 20)
    assert (account("disputes"), clearing() * 100) == (0, fake.balance())
    assert Dispute.objects.get().state == "lost"
    assert_sound()


def test_a_dispute_that_is_first_heard_of_when_it_is_lost_ends_the_same(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake, usd="5")
    made = asked(acme, method="card")
    fake.close_dispute(fake.open_dispute(made.intent_id or "", amount=4000), won=False)
    deliver(fake)
    assert (standing(acme).posted, standing(acme).overdraft) == (15, 0)
    assert (account("disputes"), clearing() * 100) == (0, fake.balance())
    assert_sound()


def test_a_question_freezes_nothing_until_it_becomes_a_dispute(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    dispute = fake.open_dispute(made.intent_id or "", inquiry=True)
    deliver(fake)
    assert (Dispute.objects.get().state, standing(acme).posted) == ("inquiry", 50)
    fake.escalate_dispute(dispute)
    deliver(fake)
    assert (Dispute.objects.get().state, standing(acme).posted) == ("open", 0)
    assert_sound()


def test_what_is_disputed_is_not_refunded_too(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake, usd="100")
    made = asked(acme, method="card")
    fake.open_dispute(made.intent_id or "", amount=3000)
    deliver(fake)
    with pytest.raises(errors.OutOfRange, match=r"Only 20 USD of this payment"):
        refunds.ask(payment_id=made.pk, amount_usd=Decimal("20.01"), reason="a test", by=BY)


def test_a_wallet_does_not_buy_with_a_card_that_disputes(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(20), monthly_cap_usd=Decimal(100), by=BY
    )
    dispute = fake.open_dispute(made.intent_id or "")
    deliver(fake)
    assert standing(acme).posted == 0
    assert topups.open_due() == []
    fake.close_dispute(dispute, won=False)
    deliver(fake)
    assert len(topups.open_due()) == 1
