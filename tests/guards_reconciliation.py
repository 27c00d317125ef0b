"""Guards of the money that lies at Stripe. Registered by tests/guards.py."""

from tests.guards import Disabled, guard, patched, unchecked


@guard("late_news_is_looked_up")
def _() -> Disabled:
    """What Stripe has and the books have not is looked at anew and taken in."""
    return patched("billing.processor.reconciliation.catch_up", lambda at: 0)


@guard("payments_at_stripe_are_compared")
def _() -> Disabled:
    """What the books moved for each payment, refund and dispute is held against Stripe's balance transactions."""
    return unchecked("V19")


@guard("clearing_is_stripes_balance")
def _() -> Disabled:
    """The clearing account is held against the sum of Stripe's balance transactions."""
    return unchecked("V20")


@guard("missed_events_are_fetched")
def _() -> Disabled:
    """Events that Stripe has and that never came are kept as if they had."""
    return patched("billing.processor.inbox.keep_missed", lambda event: False)
