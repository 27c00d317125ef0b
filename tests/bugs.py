"""Deliberate bugs, by name: each must be noticed by the checker that is there to notice it.

A checker that nobody has seen to object proves nothing. A bug here is what a mistake in the product
would be: a lock, a claim or a commit that is missing, money that moves twice, an answer that is not
true. Where the database itself would refuse what the bug does, that wall is taken away too: the
question is what the checkers see.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from core import ids
from tests.guards import GUARDS, Disabled, all_of, patched, without_constraint, without_trigger

# What the client wrote down, held against the books (tests/acks.py); all others are invariants of the books.
HISTORY = "history"


@dataclass(frozen=True)
class Bug:
    """A mistake, who has to notice it, and a context in which the product makes it."""

    name: str
    about: str
    noticed_by: frozenset[str]
    made: Callable[[], Disabled]


BUGS: dict[str, Bug] = {}


def bug(*noticed_by: str) -> Callable[[Callable[[], Disabled]], Callable[[], Disabled]]:
    """Register a mistake under its function's name; its docstring says what goes wrong."""

    def register(make: Callable[[], Disabled]) -> Callable[[], Disabled]:
        assert make.__doc__, f"{make.__name__} does not say what goes wrong"
        assert make.__name__ not in BUGS, f"two bugs are named {make.__name__}"
        BUGS[make.__name__] = Bug(make.__name__, " ".join(make.__doc__.split()), frozenset(noticed_by), make)
        return make

    return register


def _module(name: str) -> Any:
    return importlib.import_module(name)


@bug(HISTORY, "V10")
def copies_are_charged() -> Disabled:
    """An event that stands twice in a batch is charged twice: each copy takes a claim of its own."""
    return all_of(
        GUARDS["copies_stand_for_one_event"].disabled(), without_constraint("usage_claim", "usage_claim_pkey")
    )


@bug(HISTORY, "V10")
def repeats_are_charged() -> Disabled:
    """An event that is sent again is charged again: nobody claims its id."""
    return GUARDS["event_ids_are_claimed"].disabled()


@bug(HISTORY, "V10")
def claims_are_committed_first() -> Disabled:
    """An id is claimed for good before its event is written: what fails in between is a duplicate for ever."""
    return GUARDS["claim_and_debit_commit_together"].disabled()


@bug("V01", "V02")
def wallets_are_not_locked() -> Disabled:
    """Two charges read the same balance, and the later one writes over the earlier."""
    return all_of(
        GUARDS["wallets_are_locked"].disabled(),
        without_constraint("transfer", "transfer_seq_once"),
        without_trigger("wallet", "explained"),
    )


@bug("V09")
def charges_are_posted_twice() -> Disabled:
    """Each charge of a batch moves its money twice; the records are there once."""
    ledger, models = _module("billing.ledger"), _module("billing.models")
    post = ledger.post

    def twice(moves: Sequence[Any], **more: Any) -> Any:
        done = post(moves, **more)
        again = [move._replace(id=ids.new()) for move in moves if move.kind == models.TransferKind.CHARGE]
        return post(again, at=more["at"]) if again else done

    return patched("billing.ledger.post", twice)


@bug(HISTORY)
def credit_is_given_twice() -> Disabled:
    """A grant is posted again under another cause; the books balance all the same."""
    ledger, models = _module("billing.ledger"), _module("billing.models")
    post = ledger.post

    def twice(moves: Sequence[Any], **more: Any) -> Any:
        done = post(moves, **more)
        again = [_again(move) for move in moves if move.kind == models.TransferKind.GRANT]
        return post(again, at=more["at"]) if again else done

    return patched("billing.ledger.post", twice)


def _again(move: Any) -> Any:
    """A grant's move as another one's."""
    cause = f"{move.reference} again"
    return move._replace(reference=cause, given=move.given._replace(id=ids.new(), reference=cause))


@bug(HISTORY)
def what_is_acknowledged_is_dropped() -> Disabled:
    """Some events are answered as created and written by nobody."""
    charges, verdicts = _module("billing.charges"), _module("metering.verdicts")
    record = charges.record

    def forgetful(items: Sequence[Any], **more: Any) -> Any:
        return [
            verdicts.Verdict(item.event.event_id, verdicts.Status.CREATED, ids.new(), Decimal("0.000362"))
            if item.event.event_id == "forgettable"
            else record([item._replace(place=0)], **more)[0]
            for item in items
        ]

    return patched("billing.charges.record", forgetful)


@bug(HISTORY, "V10")
def conflicts_are_charged() -> Disabled:
    """An event id that comes again with other content is charged again."""
    claim = _module("metering.usage").claim

    def lenient(claims: Sequence[Any]) -> Any:
        stories = {(one.organization_id, one.event_id): one.fingerprint for one in claims}
        return {key: one for key, one in claim(claims).items() if one.fingerprint == stories[key]}

    return patched("metering.usage.claim", lenient)


@bug(HISTORY)
def answers_name_another_cost() -> Disabled:
    """The first answer to an event names twice what it cost."""
    charges = _module("billing.charges")
    created = charges._created

    def doubled(line: Any) -> Any:
        verdict = created(line)
        return verdict._replace(cost_usd=verdict.cost_usd and verdict.cost_usd * 2)

    return patched("billing.charges._created", doubled)


@bug("V11")
def costs_are_a_little_off() -> Disabled:
    """Each cost is a trillionth of a dollar too high, as a float would have it."""
    charges = _module("billing.charges")

    class Floating:
        """``metering.rating`` with a rounding error."""

        Unpriced = charges.rating.Unpriced

        @staticmethod
        def rate(*told: Any) -> Any:
            rated = _module("metering.rating").rate(*told)
            return type(rated)(rated.cost_pico + 1, rated.terms) if rated.cost_pico else rated

    return patched("billing.charges.rating", Floating)


@bug(HISTORY)
def voids_give_back_twice() -> Disabled:
    """An event that is voided again is given back again."""
    corrections = _module("billing.corrections")
    post = corrections.post

    def once_more(*told: Any, cause: str, **more: Any) -> Any:
        return post(*told, cause=f"{cause} {ids.new()}", **more)

    return all_of(
        patched("billing.corrections.post", once_more),
        patched("billing.corrections.corrected_by", lambda records: dict.fromkeys((one.id for one in records), 0)),
    )
