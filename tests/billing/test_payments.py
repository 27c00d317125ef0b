"""Rows of payments: meant in whole cents, one open for each thing, asked for once, parked where they do not fit."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction

from billing import payments
from billing.models import Payment
from billing.processor import facts
from core import clock, ids
from orgs.models import Organization
from tests.billing.paying import BY, again, asked, deliver, fake, topup
from tests.billing.world import organization, rows, side_by_side, standing
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.proofs import proves

__all__ = ["fake"]


def mean(owner: Organization, subject: UUID, usd: str = "10") -> Payment:
    """A payment for an invoice."""
    with transaction.atomic():
        return payments.open_one(
            organization_id=owner.pk, purpose="invoice", subject_id=subject, amount_usd=Decimal(usd), method="checkout"
        )


@proves("S10", guard="one_payment_is_open")
def test_many_that_ask_for_the_same_at_once_get_one_payment(books: Books) -> None:
    acme, invoice = organization("acme"), ids.new()

    def ask() -> bool:
        try:
            mean(acme, invoice)
        except payments.PaymentOpen:
            return False
        return True

    assert sum(side_by_side(books, *([ask] * 8))) == 1
    assert Payment.objects.count() == 1


def test_a_call_is_taken_on_by_one(books: Books) -> None:
    made = topup(organization("acme"))
    told = side_by_side(books, *([partial(payments.begin, made.pk, customer="cus_1")] * 8))
    (request,) = [one for one in told if one is not None]
    assert request["client_reference_id"] == str(made.pk)
    assert request["line_items"][0]["price_data"]["unit_amount"] == 5000
    assert (again(made).attempts, again(made).state) == (1, "called")
    # The parameters never change, whoever the customer is by then.
    Payment.objects.update(next_look_at=clock.now() - timedelta(seconds=1))
    repeated = payments.begin(made.pk, customer="cus_2")
    assert repeated == request


def test_amounts_are_whole_cents(books: Books) -> None:
    acme = organization("acme")
    with pytest.raises(ValueError, match="whole number of cents"):
        mean(acme, ids.new(), "10.001")
    with pytest.raises(IntegrityError, match="payment_positive"):
        mean(acme, ids.new(), "0")
    with pytest.raises(IntegrityError, match="payment_tax_is_a_part"), transaction.atomic():
        payments.open_one(
            organization_id=acme.pk, purpose="topup", subject_id=ids.new(), amount_usd=Decimal(1), tax_usd=Decimal(1),
            method="checkout",
        )  # fmt: skip


def test_a_payment_is_never_deleted_and_never_half_received(books: Books) -> None:
    made = topup(organization("acme"))
    with pytest.raises(Exception, match="payment"), transaction.atomic():
        rows("DELETE FROM payment")
    for broken in ("received_usd = 1", "received_usd = amount_usd", "state = 'succeeded', settled_at = NULL"):
        with pytest.raises(IntegrityError), transaction.atomic():
            rows(f"UPDATE payment SET {broken} WHERE id = %s", made.pk)


def test_what_stripe_knows_before_it_was_asked_does_not_fit(books: Books) -> None:
    made = topup(organization("acme"))
    told = facts.Facts("succeeded", 5000, "usd", "", str(made.pk), 5000, intent_id="pi_1")
    with pytest.raises(facts.Mismatch), transaction.atomic():
        payments.advance(payments.locked(made.pk), told)


def test_a_parked_payment_waits_for_a_person_who_has_it_looked_at_again(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    payments.park(made.pk, reason="it looks strange")
    payments.park(made.pk, reason="it looks strange")
    assert (again(made).parked, payments.due()) == ("it looks strange", [])
    assert rows("SELECT data->>'reason' FROM outbox WHERE kind = 'payment.parked'") == [("it looks strange",)]
    payments.look_again(payment_id=made.pk, by=BY)
    assert payments.due() == [(made.pk, "requires_action")]
    fake.pay(made.session_id or "")
    deliver(fake)
    assert (again(made).parked, standing(acme).posted) == ("", 50)


def test_a_payment_is_found_by_stripes_ids_and_by_ours(books: Books, fake: StripeFake) -> None:
    made = asked(organization("acme"))
    assert payments.find(session_id=made.session_id or "") == made
    assert payments.find(payment_id=str(made.pk)) == made
    assert payments.find(payment_id="nonsense") is None
    assert payments.find(payment_id=str(ids.new()), intent_id="pi_none") is None
    assert payments.find() is None
