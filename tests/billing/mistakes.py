"""Deliberate mistakes in the arithmetic and the locks of wallets, by name: the machine must find each.

Unlike those of ``tests/bugs.py`` they leave books that add up: only who knows what should have happened objects.
"""

import importlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from tests.bugs import BUGS
from tests.guards import Disabled, patched, rewritten


class Mistake(NamedTuple):
    """A context in which the product makes a mistake, and the rules that show it soonest."""

    made: Callable[[], Disabled]
    acts: tuple[str, ...]


ALONE: dict[str, Mistake] = {}
# What goes wrong only where several act at once.
AT_ONCE: dict[str, Mistake] = {
    "wallets_are_not_locked": Mistake(BUGS["wallets_are_not_locked"].made, ("events_arrive_at_once",))
}


def mistake(kinds: dict[str, Mistake], *acts: str) -> Callable[[Callable[[], Disabled]], Callable[[], Disabled]]:
    """Register a mistake under its function's name; its docstring says what goes wrong."""

    def register(make: Callable[[], Disabled]) -> Callable[[], Disabled]:
        assert make.__doc__, f"{make.__name__} does not say what goes wrong"
        assert make.__name__ not in ALONE.keys() | AT_ONCE.keys(), f"two mistakes are named {make.__name__}"
        kinds[make.__name__] = Mistake(make, acts)
        return make

    return register


def _module(name: str) -> Any:
    return importlib.import_module(name)


@mistake(ALONE, "credit_is_given", "an_event_arrives")
def lots_are_spent_as_they_came() -> Disabled:
    """Among lots of one priority the oldest is spent first, not the one that ends first."""
    return patched("billing.books.order", lambda lot: (lot.priority, lot.id))


@mistake(ALONE, "credit_is_given", "an_event_arrives")
def paid_credit_is_spent_first() -> Disabled:
    """What was paid for is spent before what was given."""
    return patched("billing.books._RANKS", {"purchased": 0, "promotional": 1, "adjustment": 2})


@mistake(ALONE, "credit_is_given", "an_event_arrives")
def scopes_are_ignored() -> Disabled:
    """Credit for certain models pays for all."""
    return patched("billing.books.pays", lambda lot, model: True)


@mistake(ALONE, "credit_is_given", "an_event_arrives")
def what_is_owed_is_not_repaid() -> Disabled:
    """Money comes in and the overdraft stays."""
    return patched("billing.books.repay", lambda steps: steps)


@mistake(ALONE, "credit_is_given", "something_is_about_to_end")
def credit_ends_a_microsecond_late() -> Disabled:
    """Credit still counts at the instant of its end: ``<`` for ``<=``."""
    expire = _module("billing.books").expire
    return patched("billing.books.expire", lambda standing, *, at: expire(standing, at=at - timedelta(microseconds=1)))


@mistake(ALONE, "a_hold_is_placed", "something_is_about_to_end")
def holds_end_a_microsecond_early() -> Disabled:
    """A hold is swept at the instant of its end: ``<=`` for ``<``."""
    return rewritten("expires_at < clock_timestamp()", "expires_at <= clock_timestamp()")


@mistake(ALONE, "credit_is_given", "an_event_arrives", "a_charge_is_rated_anew")
def less_returns_to_the_first_that_paid() -> Disabled:
    """What is given back of a charge, not of all of it, goes to the lot that paid first."""
    shares = _module("billing.tracing").shares

    def backwards(*told: Any) -> Any:
        return {record: dict(reversed(paid.items())) for record, paid in shares(*told).items()}

    return patched("billing.tracing.shares", backwards)


@mistake(ALONE, "credit_is_given", "finance_acts")
def refunds_take_what_was_given() -> Disabled:
    """A refund is paid from any credit."""
    spend = _module("billing.ledger")._Entry._spend
    return patched(
        "billing.ledger._Entry._spend", lambda self, standing, move: spend(self, standing, move._replace(only=None))
    )


@mistake(ALONE, "a_hold_is_placed", "a_hold_is_released")
def released_holds_stay_set_aside() -> Disabled:
    """A hold that ends without its event leaves its money set aside."""
    return patched("billing.holds._free", lambda ended: None)


@mistake(ALONE, "terms_change", "a_hold_is_placed")
def frozen_wallets_hold() -> Disabled:
    """The one statement that reserves does not ask whether the wallet is frozen."""
    return rewritten(" AND frozen_at IS NULL AND overdraft_usd <= credit_limit_usd", "")


@mistake(ALONE, "credit_is_given", "a_hold_is_placed")
def holds_count_on_credit_that_ends_before() -> Disabled:
    """The one statement that reserves does not ask what ends before the hold does."""
    return rewritten(
        " AND (next_change IS NULL OR next_change > clock_timestamp() + make_interval(secs => wanted.seconds))", ""
    )


@mistake(ALONE, "an_event_arrives", "a_hold_is_placed")
def everybody_falls_back() -> Disabled:
    """A person's wallet pays for organizations that do not want it to."""
    return patched("billing.wallets.falling_back", set)


@mistake(ALONE, "a_ceiling_is_set_or_lifted", "an_event_arrives", "a_charge_is_voided")
def voids_leave_ceilings_as_they_are() -> Disabled:
    """What is taken back goes on counting against ceilings."""
    counted = _module("billing.corrections")._counted
    return patched(
        "billing.corrections._counted", lambda change: counted(change)._replace(usd=change.cost_usd * 0, tokens=0)
    )


@mistake(AT_ONCE, "holds_are_placed_at_once")
def holds_are_decided_before_they_are_set_aside() -> Disabled:
    """Whether there is enough is asked first, and reserved by a statement of its own."""
    ledger = _module("billing.ledger")

    def look_and_leap(wanted: Sequence[Any], *, after: Sequence[Any] = ()) -> Any:
        others = _module("core.bulk").at_once(after) if after else []
        found = {}
        for organization_id, amount_usd, _ in wanted:
            wallet = _module("billing.models").Wallet.objects.filter(pk=organization_id, has_scoped=False).first()
            if wallet is None or wallet.enforcement != "strict" or wallet.frozen_at or wallet.next_change:
                continue
            room = wallet.posted_usd - wallet.overdraft_usd + wallet.credit_limit_usd - wallet.held_usd
            if wallet.overdraft_usd > wallet.credit_limit_usd or room < amount_usd:
                continue
            locked = ledger.lock([organization_id])[organization_id]
            ledger.reserve({organization_id: amount_usd})
            found[organization_id] = locked._replace(held=locked.held + amount_usd)
        return found, others

    return patched("billing.ledger.reserve_at_once", look_and_leap)
