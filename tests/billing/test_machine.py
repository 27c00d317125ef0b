"""The machine of ``tests/billing/machine.py`` plays against the product, and finds each mistake made in it.

A checker that finds nothing proves nothing, so mistakes are planted (``tests/billing/mistakes.py``),
one at a time. ``tests/soak/test_machine.py`` plays for longer.
"""

import pytest

from tests.billing import mistakes
from tests.billing.machine import Crowd, Machine, cast, objections, objections_at_once, play, play_at_once
from tests.books import Books
from tests.clocks import standing_still

# Batches name several organizations.
pytestmark = pytest.mark.one_database


def test_books_equal_the_model_after_every_act(books: Books) -> None:
    with standing_still(books) as clock:
        assert play(cast(Machine, books=books, clock=clock), examples=60) > 1_500


def test_books_equal_the_model_after_acts_that_happen_at_once_in_some_order(books: Books) -> None:
    with standing_still(books) as clock:
        assert play_at_once(cast(Crowd, books=books, clock=clock), acts=400) >= 400


@pytest.mark.parametrize("name", mistakes.ALONE)
def test_a_mistake_is_found(books: Books, name: str) -> None:
    mistake = mistakes.ALONE[name]
    with standing_still(books) as clock, mistake.made():
        assert objections(cast(Machine, books=books, clock=clock, only=mistake.acts), examples=100)


@pytest.mark.parametrize("name", mistakes.AT_ONCE)
def test_a_mistake_among_those_who_act_at_once_is_found(books: Books, name: str) -> None:
    mistake = mistakes.AT_ONCE[name]
    with standing_still(books) as clock, mistake.made():
        assert objections_at_once(cast(Crowd, books=books, clock=clock, only=mistake.acts))


def test_a_mistake_says_what_goes_wrong() -> None:
    with pytest.raises(AssertionError, match="does not say"):
        mistakes.mistake({})(lambda: mistakes.scopes_are_ignored())
