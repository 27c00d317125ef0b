"""The nursery's processes: how each way of ending is told."""

import os
import signal
import time

import pytest

from core import failpoints
from tests.billing.world import rows
from tests.books import Books
from tests.nursery import Nursery, wait_until_stopped

HERE = "tests.test_nursery"
NAMES = ["charge.after_claims", "charge.before_commit", "charge.after_claims"]


# What the processes run.


def add(left: int, right: int) -> int:
    return left + right


def fail() -> None:
    raise RuntimeError("deliberate")


def linger() -> None:
    time.sleep(600)


def walk() -> str:
    for name in NAMES:
        failpoints.reach(name)
    return "arrived"


def note(text: str) -> None:
    for place in range(3):
        rows("INSERT INTO noted VALUES (%s)", f"{text} {place}")


def lock_timeout() -> str:
    return str(rows("SHOW lock_timeout")[0][0])


def forget_rights() -> list[str]:
    from orgs import caches

    return [caches.bump.__name__]


def test_what_a_function_returns_comes_back(books: Books, nursery: Nursery) -> None:
    ended = nursery.run(f"{HERE}:add", left=2, right=3)
    assert (ended.code, ended.result, ended.error, ended.died) == (0, 5, "", False)


def test_what_it_raises_is_told_and_is_no_death(books: Books, nursery: Nursery) -> None:
    ended = nursery.run(f"{HERE}:fail")
    assert (ended.code, ended.died) == (1, False)
    assert "RuntimeError: deliberate" in ended.error


def test_a_function_that_is_not_there_is_told(books: Books, nursery: Nursery) -> None:
    assert "AttributeError" in nursery.run(f"{HERE}:nothing").error


def test_what_takes_too_long_is_killed(books: Books, nursery: Nursery) -> None:
    ended = nursery.run(f"{HERE}:linger", seconds=0.1)
    assert (ended.code, ended.died) == (-signal.SIGKILL, False)
    assert "not done" in ended.error


def test_the_failpoints_on_the_way_are_told(books: Books, nursery: Nursery) -> None:
    ended = nursery.run(f"{HERE}:walk")
    assert (ended.code, ended.result, ended.reached) == (0, "arrived", NAMES)


@pytest.mark.parametrize(
    ("point", "nth", "died"),
    [(NAMES[0], 1, True), (NAMES[0], 2, True), (NAMES[0], 3, False), (NAMES[1], 1, True), (NAMES[1], 2, False)],
)
def test_it_dies_where_it_is_told_to(books: Books, nursery: Nursery, point: str, nth: int, died: bool) -> None:
    ended = nursery.run(f"{HERE}:walk", dies_at=point, nth=nth)
    assert (ended.died, ended.code) == (died, 137 if died else 0)


def test_it_dies_instead_of_saying_a_word_and_all_its_words_are_counted(books: Books, nursery: Nursery) -> None:
    rows("CREATE TABLE noted (text text)")
    ended = nursery.run(f"{HERE}:note", text="whole")
    assert ended.code == 0
    # What connecting takes, and three.
    first = ended.words - 2
    for place in range(3):
        assert nursery.run(f"{HERE}:note", text=str(place), dies_before_word=first + place).died
    assert [text for (text,) in rows("SELECT text FROM noted ORDER BY 1")] == [
        "1 0", "2 0", "2 1", "whole 0", "whole 1", "whole 2",
    ]  # fmt: skip


def test_one_that_stops_goes_on_when_it_is_let(books: Books, nursery: Nursery) -> None:
    started = nursery.start(f"{HERE}:walk", stops_at=NAMES[0], nth=2)
    wait_until_stopped(started)
    # Another lives and ends meanwhile.
    assert nursery.run(f"{HERE}:add", left=1, right=1).result == 2
    os.kill(started, signal.SIGCONT)
    ended = nursery.wait(started)
    assert (ended.code, ended.result) == (0, "arrived")


def test_waiting_for_a_stop_of_what_has_ended_is_an_error(books: Books, nursery: Nursery) -> None:
    started = nursery.start(f"{HERE}:walk")
    with pytest.raises(AssertionError, match="has ended"):
        wait_until_stopped(started)
    assert nursery.wait(started).code == 0


def test_it_has_the_settings_it_is_given(books: Books, nursery: Nursery) -> None:
    assert nursery.run(f"{HERE}:lock_timeout").result == "2s"
    assert nursery.run(f"{HERE}:lock_timeout", settings={"LOCK_TIMEOUT_MS": 70}).result == "70ms"
    assert "core.settings has no" in nursery.run(f"{HERE}:lock_timeout", settings={"NO_SUCH": 1}).error


def test_it_goes_without_a_guards_code(books: Books, nursery: Nursery) -> None:
    assert nursery.run(f"{HERE}:forget_rights").result == ["bump"]
    assert nursery.run(f"{HERE}:forget_rights", without="revocation_reaches_every_process").result == ["<lambda>"]


def test_each_is_led_to_the_books_of_the_test_that_starts_it(books: Books, nursery: Nursery) -> None:
    rows("CREATE TABLE noted (text text)")
    nursery.run(f"{HERE}:note", text="mine")
    assert rows("SELECT count(*) FROM noted") == [(3,)]
