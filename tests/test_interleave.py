"""The interleaving runner finds every order, sees who waits, and tells a right way to spend from a wrong one."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from core import failpoints
from tests.billing.world import rows
from tests.books import Books
from tests.interleave import Pause, Played, orders, play, stepping


@pytest.mark.parametrize(
    ("steps", "count"),
    [({"a": 2, "b": 2}, 6), ({"a": 4, "b": 4}, 70), ({"a": 3, "b": 3, "c": 3}, 1680), ({"a": 1, "b": 3}, 4)],
)
def test_all_orders_are_found_once_and_each_session_keeps_its_own(steps: dict[str, int], count: int) -> None:
    found = orders(steps, at_most=2_000)
    assert len({tuple(order) for order in found}) == len(found) == count
    assert all({name: order.count(name) for name in steps} == steps for order in found)


def test_too_many_orders_are_drawn_by_chance_and_the_same_again() -> None:
    steps = {"a": 6, "b": 6, "c": 6}
    found = orders(steps, at_most=50, seed=1)
    assert len({tuple(order) for order in found}) == 50
    assert found == orders(steps, at_most=50, seed=1)
    assert found != orders(steps, at_most=50, seed=2)


@pytest.fixture
def purse(books: Books) -> Books:
    rows("CREATE TABLE purse (name text PRIMARY KEY, usd int NOT NULL)")
    rows("INSERT INTO purse VALUES ('mine', 0), ('yours', 0)")
    return books


def filled(usd: int) -> Callable[[], Any]:
    """A switch that puts so much into every purse."""
    return lambda: rows("UPDATE purse SET usd = %s", usd)


def mine() -> int:
    """What is left."""
    left: int = rows("SELECT usd FROM purse WHERE name = 'mine'")[0][0]
    return left


def naive(pause: Pause) -> bool:
    """Read, check, write: what one-api and its kin do."""
    left = mine()
    pause()
    if left < 1:
        return False
    rows("UPDATE purse SET usd = %s WHERE name = 'mine'", left - 1)
    return True


def checked_first(pause: Pause) -> bool:
    """The change is relative; the check still stands before it."""
    left = mine()
    pause()
    if left < 1:
        return False
    rows("UPDATE purse SET usd = usd - 1 WHERE name = 'mine'")
    return True


def guarded(pause: Pause) -> bool:
    """The condition is in the update itself, which stays open for a step."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE purse SET usd = usd - 1 WHERE name = 'mine' AND usd >= 1")
        taken = cursor.rowcount == 1
        pause()
    return bool(taken)


def overspent(played: Played[int]) -> bool:
    """More was taken than the one dollar that was there."""
    return sum(map(bool, played.results.values())) > 1


def told(played: Played[int]) -> str:
    return "".join(played.order)


def test_reading_checking_and_writing_overspends_in_four_of_six_orders(purse: Books) -> None:
    found = play({"a": naive, "b": naive}, fresh=filled(1), outcome=mine)
    assert {told(one) for one in found} == {"aabb", "abab", "abba", "baab", "baba", "bbaa"}
    # Whenever both have read before one writes.
    assert {told(one) for one in found if overspent(one)} == {"abab", "abba", "baab", "baba"}
    # And the books do not even show it.
    assert {one.outcome for one in found} == {0}
    assert not any(one.blocked or one.errors for one in found)


def test_a_relative_change_behind_a_check_overspends_too_and_shows_it(purse: Books) -> None:
    found = play({"a": checked_first, "b": checked_first}, fresh=filled(1), outcome=mine)
    assert {told(one): one.outcome for one in found} == {
        "aabb": 0, "abab": -1, "abba": -1, "baab": -1, "baba": -1, "bbaa": 0,
    }  # fmt: skip


def test_a_guarded_update_overspends_in_no_order_and_is_seen_waiting(purse: Books) -> None:
    found = play({"a": guarded, "b": guarded}, fresh=filled(1), outcome=mine)
    assert len(found) == 6
    assert not any(overspent(one) or one.errors for one in found)
    assert {one.outcome for one in found} == {0}
    # Who comes second waits for the first, then finds nothing: its order is not the one asked for.
    assert sorted((told(one), tuple(one.blocked)) for one in found) == [
        ("aabb", ()), ("abab", (1,)), ("abab", (1,)), ("baba", (1,)), ("baba", (1,)), ("bbaa", ()),
    ]  # fmt: skip
    assert {one.results["a"] for one in found if told(one).startswith("a")} == {True}


def test_three_sessions_meet_in_ninety_orders(purse: Books) -> None:
    found = play(dict.fromkeys("abc", guarded), fresh=filled(2), outcome=mine)
    assert len(found) == 90
    assert {sum(one.results.values()) for one in found} == {2}
    assert {one.outcome for one in found} == {0}


def both(first: str, second: str) -> Callable[[Pause], None]:
    """Take from two purses in this order."""

    def take(pause: Pause) -> None:
        with transaction.atomic():
            rows("UPDATE purse SET usd = usd - 1 WHERE name = %s", first)
            pause()
            rows("UPDATE purse SET usd = usd - 1 WHERE name = %s", second)

    return take


def test_a_circle_of_waiting_sessions_is_broken_by_the_database_and_told(purse: Books) -> None:
    rows(f"ALTER DATABASE {purse.name} SET deadlock_timeout = '20ms'")
    found = play({"a": both("mine", "yours"), "b": both("yours", "mine")}, fresh=filled(5), outcome=mine)
    circles = [one for one in found if one.errors]
    # Each has one row and wants the other's.
    assert {"".join(one.order[:2]) for one in circles} == {"ab", "ba"}
    assert len(circles) == 4
    for one in circles:
        (error,) = one.errors.values()
        assert isinstance(error, OperationalError)
        assert "deadlock" in str(error)
        assert one.outcome == 4
    assert {one.outcome for one in found if not one.errors} == {3}


def test_sessions_that_take_locks_in_one_order_never_meet_in_a_circle(purse: Books) -> None:
    found = play({"a": both("mine", "yours"), "b": both("mine", "yours")}, fresh=filled(5), outcome=mine)
    assert not any(one.errors for one in found)
    assert {one.outcome for one in found} == {3}


def test_what_a_session_leaves_open_keeps_nobody_waiting(purse: Books) -> None:
    def forgets(pause: Pause) -> None:
        rows("BEGIN")
        rows("UPDATE purse SET usd = usd - 1 WHERE name = 'mine'")
        pause()

    found = play({"a": forgets, "b": guarded}, fresh=filled(1), outcome=mine)
    # Nothing of the open transaction stays.
    assert {one.outcome for one in found} == {0}
    assert {one.results["b"] for one in found} == {True}


def test_a_verb_is_taken_in_steps_at_its_failpoints_and_only_in_its_own_thread(purse: Books) -> None:
    def verb(pause: Pause) -> int:
        with stepping(pause, "charge.after_claims", "charge.before_commit"):
            for name in ("charge.after_claims", "charge.after_quarantine", "charge.before_commit"):
                failpoints.reach(name)
        return 1

    found = play({"a": verb, "b": verb}, fresh=list, outcome=mine)
    # Three steps each.
    assert len(found) == 20
    assert {tuple(one.results.values()) for one in found} == {(1, 1)}
