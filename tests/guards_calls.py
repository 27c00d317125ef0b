"""Guards of model calls."""

from typing import Any

from tests.guards import Disabled, guard, patched


@guard("calls_outlive_their_clients")
def _() -> Disabled:
    """A client that hangs up does not end the task that reads and settles its call."""

    def stop(call: Any) -> None:
        call.task.cancel()

    return patched("gateway.calls.Call.leave", stop)


@guard("keys_of_calls_are_looked_up")
def _() -> Disabled:
    """Before a hold is placed, its call's key is looked for among those of calls that were begun."""
    return patched("gateway.replays.enter", lambda call: None)


@guard("lost_calls_are_looked_for")
def _() -> Disabled:
    """Holds of ours that ran out are looked for."""
    return patched("gateway.outcomes._note", lambda: 0)


@guard("a_reported_zero_is_a_count")
def _() -> Disabled:
    """A count of 0 is believed like any other."""
    return patched("gateway.counts._LEAST", 1)


@guard("charges_of_calls_are_tried_again")
def _() -> Disabled:
    """A settlement that could not be written is tried again."""
    return patched("gateway.calls.SETTLE_SECONDS_MAX", -1)


@guard("holds_of_calls_are_renewed")
def _() -> Disabled:
    """The hold of a call is renewed while the call runs."""
    return patched("gateway.calls._renew_some", lambda named: None)
