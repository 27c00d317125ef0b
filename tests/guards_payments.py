"""Guards of what is paid through Stripe; see ``tests/guards.py``."""

import importlib
from datetime import timedelta
from typing import Any
from uuid import uuid4

from tests.guards import Disabled, all_of, guard, patched, unchecked, without_constraint


@guard("a_payment_is_credited_once")
def _() -> Disabled:
    """A payment's state goes forward once, under its lock, and its credit's reference is its own."""
    found = importlib.import_module("billing.payments")
    advance = found.advance

    def changed(row: Any, told: Any) -> bool:
        advance(row, told)
        return True

    return all_of(
        patched("billing.payments.advance", changed),
        patched("billing.topups.reference_of", lambda topup_id: f"topup:{uuid4()}"),
    )


@guard("states_only_go_forward")
def _() -> Disabled:
    """Of two things that were said of a payment the later in its life counts, not the later to arrive."""
    return all_of(
        patched("billing.processor.facts.later", lambda one, other: other),
        patched("billing.processor.facts.later_refund", lambda one, other: other),
        patched("billing.processor.facts.later_dispute", lambda one, other: other),
    )


@guard("events_are_signed")
def _() -> Disabled:
    """A webhook's bytes carry a signature by one of our secrets, made within five minutes of now."""
    return patched("billing.processor.inbox._prove", lambda *_: None)


@guard("signatures_have_an_age")
def _() -> Disabled:
    """A signature is at most five minutes old, and at most five minutes ahead."""
    return patched("billing.processor.inbox.TOLERANCE", timedelta(days=3650))


@guard("payments_are_looked_at")
def _() -> Disabled:
    """A sweep asks Stripe about every payment that has not come to its end."""
    return patched("billing.payments.due", list)


@guard("the_payment_is_the_key")
def _() -> Disabled:
    """Stripe is asked under the payment's id, each time the same."""
    return patched("billing.payments.key_of", lambda row: str(uuid4()))


@guard("nothing_is_asked_without_a_key")
def _() -> Disabled:
    """A POST to Stripe takes a key from its caller."""

    def post(self: Any, path: str, params: Any, *, key: str) -> Any:
        return self._send("post", path, {**params, **({"idempotency_key": key} if key else {})})

    return patched("billing.processor.client.Client.post", post)


@guard("forgotten_keys_are_not_used_again")
def _() -> Disabled:
    """23 hours after the first call nothing is asked again under its key; Stripe is searched instead."""
    return patched("billing.payments.is_forgotten", lambda row, now: False)


class _Never(Exception):
    """Nothing raises it."""


@guard("a_saved_error_says_nothing")
def _() -> Disabled:
    """An error of Stripe's own leaves a payment in doubt instead of ending it."""
    return patched("billing.settlement.InDoubt", _Never)


@guard("what_was_paid_twice_goes_back")
def _() -> Disabled:
    """A second payment for the same thing is given back."""
    return patched("billing.settlement._is_paid", lambda row: False)


@guard("waiting_has_an_end")
def _() -> Disabled:
    """What waits for the customer is ended at Stripe after its deadline."""
    return patched("billing.settlement._end_at_stripe", lambda row, told, at: told)


@guard("refunds_that_fail_come_back")
def _() -> Disabled:
    """The money of a refund that fails becomes credit again."""
    return patched("billing.refunds._give_back", lambda row, payment: None)


@guard("lost_disputes_are_taken_back")
def _() -> Disabled:
    """A dispute that is lost takes the rest of the payment out of the wallet; one that is won gives back."""
    return patched("billing.disputes._Posting.close", lambda *_: None)


@guard("payments_fit_what_was_asked")
def _() -> Disabled:
    """What Stripe says is held against what was asked for: payment, customer, amount, currency."""
    return patched("billing.processor.facts.check", lambda payment, told: None)


@guard("the_version_is_pinned")
def _() -> Disabled:
    """Stripe is called in the one version that its objects are read in."""
    return patched("billing.processor.client.VERSION", "2019-12-03")


@guard("payments_cannot_be_forgotten")
def _() -> Disabled:
    """``verify`` finds payments that nobody followed to their end."""
    return unchecked("V21")


@guard("events_cannot_be_forgotten")
def _() -> Disabled:
    """``verify`` finds events that nobody handled."""
    return unchecked("V22")


@guard("one_payment_is_open")
def _() -> Disabled:
    """A partial unique index lets one payment of a subject be open."""
    return without_constraint("payment", "payment_one_open")


@guard("payments_are_held_against_credit")
def _() -> Disabled:
    """``verify`` holds top-ups, payments and refunds against the credit that they became."""
    return unchecked("P01")
