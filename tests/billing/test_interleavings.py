"""Acts on one wallet meet in every order of their steps: what is there afterwards does not depend on it."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from metering import catalog
from metering.events import Event
from orgs.models import Organization
from tests.billing import acts
from tests.billing.world import assert_sound, charge, counts, organization, standing, statuses
from tests.billing.world import ledger as transfers_of
from tests.books import Books
from tests.interleave import Pause, Played, play, stepping
from tests.metering.world import COST, event
from tests.proofs import proves

USD = Decimal(COST)
CHARGE = ("charge.after_claims", "book.after_records", "charge.before_commit")
VOID = ("correction.after_rows", "void.before_commit")


class Fresh:
    """An organization of its own for each run, with so much money; ``made`` does the rest."""

    def __init__(self, *, usd: str, made: Callable[[Organization], object] = lambda _: None) -> None:
        # Loaded before any session is in the middle of a transaction.
        catalog.listing()
        self.owner: Organization
        self._usd = usd
        self._made = made
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        self.owner = organization(f"run-{self._count}", usd=self._usd)
        self._made(self.owner)

    def charging(self, event_id: str) -> Callable[[Pause], list[str]]:
        """A session that charges an event in steps."""

        def script(pause: Pause) -> list[str]:
            with stepping(pause, *CHARGE):
                return statuses(charge(self.owner, self.event(event_id)))

        return script

    def voiding(self, event_id: str) -> Callable[[Pause], str]:
        """A session that voids an event in steps."""

        def script(pause: Pause) -> str:
            with stepping(pause, *VOID):
                return acts.void(self.owner.slug, event_id)

        return script

    def event(self, event_id: str) -> Event:
        """The same event each time it is asked for in a run."""
        return event(event_id=event_id, occurred_at=self.owner.created_at)


def orders_in_which(found: list[Played[Any]], wrong: Callable[[Played[Any]], bool]) -> list[str]:
    """The runs that went wrong, for a person to read."""
    return [str(one) for one in found if one.errors or wrong(one)]


@proves("W02", guard="balances_are_read_under_their_lock")
def test_in_no_order_do_two_charges_spend_the_same_money(books: Books) -> None:
    fresh = Fresh(usd=COST)

    def outcome() -> Any:
        # The balance pays for one of them; the other draws all that it costs.
        return standing(fresh.owner)[:3], Counter(transfers_of(fresh.owner))

    found = play({"a": fresh.charging("a"), "b": fresh.charging("b")}, fresh=fresh, outcome=outcome)
    right = (Decimal(0), USD, 2 * USD), Counter({("grant", USD): 1, ("charge", USD): 2, ("draw", USD): 1})
    assert orders_in_which(found, lambda one: one.outcome != right) == []
    assert {tuple(one.results["a"] + one.results["b"]) for one in found} == {("created", "created")}
    # Four steps each: 70 orders, and one waits for the other's wallet wherever they overlap.
    assert len(found) == 70
    assert sum(bool(one.blocked) for one in found) > 0
    assert_sound()


@proves("I02", guard="claims_are_unique")
def test_in_no_order_is_an_event_charged_by_both_who_send_it(books: Books) -> None:
    fresh = Fresh(usd="1")
    before: list[dict[str, int]] = []

    def begin() -> None:
        fresh()
        before.append(counts())

    def outcome() -> Any:
        written = {table: count - before[-1][table] for table, count in counts().items()}
        return standing(fresh.owner).spent, written["usage_claim"], written["usage_record"], written["transfer"]

    found = play({"a": fresh.charging("same"), "b": fresh.charging("same")}, fresh=begin, outcome=outcome)
    assert orders_in_which(found, lambda one: one.outcome != (USD, 1, 1, 1)) == []
    assert {tuple(sorted(one.results["a"] + one.results["b"])) for one in found} == {("created", "duplicate")}
    assert_sound()


def test_in_no_order_does_an_event_come_back_twice_by_two_voids(books: Books) -> None:
    fresh = Fresh(usd="1", made=lambda owner: charge(owner, event(event_id="same", occurred_at=owner.created_at)))

    def outcome() -> Any:
        return standing(fresh.owner)[:3], Counter(kind for kind, _ in transfers_of(fresh.owner))

    found = play({"a": fresh.voiding("same"), "b": fresh.voiding("same")}, fresh=fresh, outcome=outcome)
    right = (Decimal(1), Decimal(0), Decimal(0)), Counter({"grant": 1, "charge": 1, "void": 1})
    assert orders_in_which(found, lambda one: one.outcome != right) == []
    assert {tuple(sorted(one.results.values())) for one in found} == {("-0.000362000000", "again")}
    assert_sound()


def test_in_no_order_is_an_event_lost_between_its_charge_and_its_void(books: Books) -> None:
    fresh = Fresh(usd="1", made=lambda owner: charge(owner, event(event_id="known", occurred_at=owner.created_at)))

    def outcome() -> Any:
        return standing(fresh.owner)[:3], Counter(kind for kind, _ in transfers_of(fresh.owner))

    found = play({"a": fresh.charging("new"), "b": fresh.voiding("known")}, fresh=fresh, outcome=outcome)
    # One was charged and taken back, the other charged.
    right = (1 - USD, Decimal(0), USD), Counter({"grant": 1, "charge": 2, "void": 1})
    assert orders_in_which(found, lambda one: one.outcome != right) == []
    assert_sound()
