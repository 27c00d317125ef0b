"""A process dies wherever an act can be interrupted: the books hold all of a transaction or nothing of it.

And the act, repeated, has its effect once.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from core import failpoints
from orgs.models import Organization
from tests.billing import acts, world
from tests.billing.acts import Effect, effect
from tests.books import Books
from tests.database import ROOT
from tests.metering import world as metering
from tests.nursery import Ended, Nursery
from tests.proofs import proves

USD = Decimal
NOTHING = Effect()
# Three events at 362 millionths of a dollar (tests/metering/world.py), one failure, one without a price.
CHARGED = Effect(claims=5, records=3, failures=1, waiting=1, charged=USD("0.001086"), spent=USD("0.001086"))
WAITING = Effect(claims=5, failures=1, waiting=4)
FOUR = Effect(claims=6, records=4, failures=1, waiting=1, charged=USD("0.001448"), spent=USD("0.001448"))


def newcomer(slug: str) -> dict[str, Any]:
    """An organization with money and a neighbour without, nothing else."""
    world.organization(slug, usd="1")
    world.organization(acts.neighbour(slug))
    return {"slug": slug}


def charged(slug: str) -> dict[str, Any]:
    """One that was charged, and so was its neighbour."""
    newcomer(slug)
    assert acts.charge(slug) == ["created", "created", "created", "quarantined", "created"]
    return {"slug": slug}


def unpriced(slug: str) -> dict[str, Any]:
    """One that was charged, and the event of it that nobody priced."""
    return {**charged(slug), "event_id": "unpriced"}


def waiting(slug: str) -> dict[str, Any]:
    """One whose events waited for a price, which is there now."""
    newcomer(slug)
    assert acts.charge(slug, f"new-{slug}") == ["quarantined", "quarantined", "created", "quarantined", "quarantined"]
    acts.publish(f"new-{slug}")
    return {}


def planned(slug: str) -> dict[str, Any]:
    """One that is about to be re-rated, with one record more than a transaction takes."""
    charged(slug)
    world.charge(Organization.objects.get(slug=slug), metering.event())
    return {"act": acts.plan(slug)}


class Case(NamedTuple):
    """An act to die in: its function, what comes before it, and what is there after each of its commits.

    ``reaches_all``: it does not stop at its own organization, so nothing may be left from one death to the next.
    """

    call: str
    prepare: Callable[[str], dict[str, Any]]
    states: tuple[Effect, ...]
    reaches_all: bool = False


CASES = {
    "charge": Case("charge", newcomer, (NOTHING, CHARGED)),
    "void": Case(
        "void", charged,
        (CHARGED, CHARGED._replace(records=4, corrections=1, given_back=USD("0.000362"), spent=USD("0.000724"))),
    ),
    "withdrawal": Case("void", unpriced, (CHARGED, CHARGED._replace(waiting=0))),
    "release": Case("release", waiting, (WAITING, CHARGED), reaches_all=True),
    # Each of its own three records costs as much again, two of them in the first transaction.
    "rerating": Case(
        "rerate", planned,
        (
            FOUR,
            FOUR._replace(records=6, corrections=2, charged=USD("0.002172"), spent=USD("0.002172")),
            FOUR._replace(records=7, corrections=3, charged=USD("0.002534"), spent=USD("0.002534")),
        ),
    ),
}  # fmt: skip


OTHERS = [name for name in CASES if name != "charge"]


def play(nursery: Nursery, name: str, slug: str, **fate: Any) -> tuple[Ended, dict[str, Any]]:
    """Prepare an act of this organization and run it in a process of its own; how that ended, and its arguments."""
    case = CASES[name]
    arguments = case.prepare(slug)
    assert effect(slug) == case.states[0]
    return nursery.run(f"tests.billing.acts:{case.call}", **fate, **arguments), arguments


def undisturbed(nursery: Nursery, name: str) -> Ended:
    """The act when nothing happens to it: which failpoints it reaches, and how many words it says."""
    ended, _ = play(nursery, name, f"{name}-undisturbed")
    assert ended.code == 0, ended.error
    assert effect(f"{name}-undisturbed") == CASES[name].states[-1]
    return ended


class Survivors:
    """The books after deaths: sound as they are, and with every act's effect, once, when the acts are repeated."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._left: list[tuple[str, dict[str, Any]]] = []

    def add(self, slug: str, arguments: dict[str, Any]) -> None:
        """Another act was interrupted."""
        self._left.append((slug, arguments))
        if CASES[self._name].reaches_all:
            self.recover()

    def recover(self) -> None:
        """Look, repeat each act in this process, and once more, and look again."""
        case = CASES[self._name]
        world.assert_sound()
        for slug, arguments in self._left:
            for _ in range(2):
                getattr(acts, case.call)(**arguments)
                assert effect(slug) == case.states[-1], slug
        self._left = []
        world.assert_sound()


@proves("I17", guard="claim_and_debit_commit_together")
def test_a_charge_interrupted_at_any_failpoint_is_whole_or_not_there(
    books: Books, nursery: Nursery, disabled_guard: str | None
) -> None:
    sweep(nursery, "charge", without=disabled_guard)


@pytest.mark.parametrize("name", OTHERS)
def test_an_act_interrupted_at_any_failpoint_is_whole_or_not_there(books: Books, nursery: Nursery, name: str) -> None:
    sweep(nursery, name)


def sweep(nursery: Nursery, name: str, *, without: str | None = None) -> None:
    """Die at each failpoint that the act reaches, each time that it does, the last first; look, and repeat the acts."""
    path = undisturbed(nursery, name).reached
    survivors = Survivors(name)
    for place, point in reversed(list(enumerate(path))):
        so_far = path[: place + 1]
        slug = f"{name}-{place}"
        ended, arguments = play(nursery, name, slug, dies_at=point, nth=so_far.count(point), without=without)
        assert ended.died, f"{point}: {ended}"
        commits = sum(each.endswith(".after_commit") for each in so_far)
        assert effect(slug) == CASES[name].states[commits], point
        survivors.add(slug, arguments)
    survivors.recover()


def test_every_failpoint_is_one_that_some_act_dies_at(books: Books, nursery: Nursery) -> None:
    reached = {point for name in CASES for point in undisturbed(nursery, name).reached}
    told = "".join(path.read_text() for path in ROOT.joinpath("tests").rglob("test_*.py"))
    # Those of other acts have their proofs beside what they are about; of months and rollups in a loop over all.
    elsewhere = {point for point in failpoints.NAMES if f'"{point}"' in told}
    in_loops = {point for point in failpoints.NAMES if point.startswith(("archive.", "fold."))}
    assert set(failpoints.NAMES) - reached - elsewhere - in_loops == set()


@proves("I17", guard="claim_and_debit_commit_together")
def test_a_charge_interrupted_before_any_word_to_the_database_is_whole_or_not_there(
    books: Books, nursery: Nursery, disabled_guard: str | None
) -> None:
    interrupt(nursery, "charge", without=disabled_guard)


@pytest.mark.soak
@pytest.mark.parametrize("name", OTHERS)
def test_an_act_interrupted_before_any_word_to_the_database_is_whole_or_not_there(
    books: Books, nursery: Nursery, name: str
) -> None:
    interrupt(nursery, name)


def interrupt(nursery: Nursery, name: str, *, without: str | None = None) -> None:
    """Die before each statement and each COMMIT, the last first; look, and repeat the acts."""
    words = undisturbed(nursery, name).words
    assert words > 5
    states = CASES[name].states
    survivors = Survivors(name)
    seen = len(states) - 1
    for word in range(words, 0, -1):
        slug = f"{name}-{word}"
        ended, arguments = play(nursery, name, slug, dies_before_word=word, without=without)
        assert ended.died, f"word {word}: {ended}"
        # Who died earlier has done no more, and no commit is passed over.
        left = effect(slug)
        assert left in states[max(seen - 1, 0) : seen + 1], f"word {word}"
        seen = states.index(left)
        survivors.add(slug, arguments)
    assert seen == 0
    survivors.recover()
