"""Payments, top-ups, refunds and Stripe's events: each corruption raises its invariant and no other."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from billing import refunds
from billing.processor import client
from tests.billing.corruption import assert_only, corrupt
from tests.billing.paying import BY, asked, deliver, fake, with_card
from tests.billing.world import assert_sound, organization
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.proofs import proves

__all__ = ["fake"]


@pytest.fixture
def bought(books: Books, fake: StripeFake) -> Books:
    """Books with a payment of which a part went back, one that failed, and one that is open."""
    acme = with_card(fake)
    made = asked(acme, method="card")
    row = refunds.ask(payment_id=made.pk, amount_usd=Decimal(20), reason="a test", by=BY)
    refunds.call(row.pk, at=client.connect())
    asked(with_card(fake, "poor", number="4000000000000341"), method="card")
    asked(organization("open"))
    deliver(fake)
    assert_sound()
    return books


@proves("V21", guard="payments_cannot_be_forgotten")
@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE payment SET state = 'called', called_at = now() - interval '24 hours 1 second'"
            " WHERE state = 'requires_action' RETURNING id"],
        ["DROP INDEX topup_one_open",
            "INSERT INTO topup (id, organization_id, amount_usd, tax_usd, automatic, state, failure, created_at)"
            " SELECT gen_random_uuid(), organization_id, 10, 0, false, 'pending', '', now() FROM topup"
            " WHERE state = 'requires_action' RETURNING organization_id"],
    ],
    ids=["called and forgotten", "two of a wallet"],
)  # fmt: skip
def test_a_payment_that_nobody_follows_is_seen(bought: Books, statements: Sequence[str]) -> None:
    assert_only("V21", corrupt(bought, *statements))


@proves("V22", guard="events_cannot_be_forgotten")
@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE stripe_event SET state = 'received', handled_at = NULL,"
            " received_at = now() - interval '10 minutes 1 second'"
            " WHERE kind = 'payment_intent.succeeded' RETURNING stripe_id"],
        ["UPDATE stripe_event SET state = 'received', handled_at = NULL, attempts = 1,"
            " received_at = now() - interval '11 minutes', next_attempt_at = now() + interval '1 hour'"
            " WHERE kind = 'payment_intent.succeeded' RETURNING stripe_id"],
        ["ALTER TABLE stripe_event DROP CONSTRAINT stripe_event_has_an_outcome",
            "UPDATE stripe_event SET outcome = '' WHERE kind = 'payment_intent.succeeded' RETURNING stripe_id"],
    ],
    ids=["never tried", "tried in vain", "no outcome"],
)  # fmt: skip
def test_an_event_that_nobody_handles_is_seen(bought: Books, statements: Sequence[str]) -> None:
    assert_only("V22", corrupt(bought, *statements))


@proves("P01", guard="payments_are_held_against_credit")
@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE topup SET amount_usd = amount_usd + 0.01 WHERE state = 'succeeded' RETURNING id"],
        ["UPDATE topup SET state = 'succeeded' WHERE state = 'failed' RETURNING id"],
        ["UPDATE topup SET state = 'failed' WHERE state = 'succeeded' RETURNING id"],
        ["UPDATE payment SET refunded_usd = 19.99 WHERE refunded_usd = 20 RETURNING id"],
        ["UPDATE refund SET state = 'failed' RETURNING id"],
        ["UPDATE refund SET amount_usd = 21 RETURNING id"],
    ],
    ids=["larger", "credited to nobody", "credited all the same", "a cent less back", "failed and kept", "more"],
)  # fmt: skip
def test_payments_that_are_not_what_was_credited_are_seen(bought: Books, statements: Sequence[str]) -> None:
    assert_only("P01", corrupt(bought, *statements))
