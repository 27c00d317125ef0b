"""Caches: no query while they hold, no stale entry once they do not."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from orgs import caches
from orgs.caches import Cached
from orgs.models import CacheEpoch, Role
from tests.books import Books


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    chosen = Clock()
    monkeypatch.setattr(caches, "monotonic", chosen)
    return chosen


class Source:
    """A loader over a dict that counts how often and for what it is asked."""

    def __init__(self, **rows: int) -> None:
        self.rows = rows
        self.asked: list[set[str]] = []

    def __call__(self, keys: Collection[str]) -> Mapping[str, int]:
        self.asked.append(set(keys))
        return {key: self.rows[key] for key in keys if key in self.rows}


@contextmanager
def queries(count: int) -> Iterator[None]:
    with CaptureQueriesContext(connection) as seen:
        yield
    assert len(seen) == count, [query["sql"] for query in seen]


def bump_elsewhere(books: Books) -> None:
    """What a verb in another process does to the epoch."""
    with books.connect() as other:
        other.execute("UPDATE cache_epoch SET value = value + 1")


def test_a_value_is_loaded_once_and_then_answered_without_a_query(books: Books, clock: Clock) -> None:
    source = Source(a=1)
    cache = Cached(source)
    assert cache.get("a") == 1
    with queries(0):
        assert [cache.get("a") for _ in range(100)] == [1] * 100
    assert source.asked == [{"a"}]


def test_all_misses_are_loaded_in_one_call_and_hits_are_left_out(books: Books, clock: Clock) -> None:
    source = Source(a=1, b=2, c=3)
    cache = Cached(source)
    cache.get("a")
    assert cache.get_many(["a", "b", "c", "none"]) == {"a": 1, "b": 2, "c": 3}
    assert source.asked == [{"a"}, {"b", "c", "none"}]


def test_nothing_asked_is_nothing_loaded(books: Books, clock: Clock) -> None:
    source = Source(a=1)
    with queries(0):
        assert Cached(source).get_many([]) == {}
    assert source.asked == []


def test_the_epoch_is_asked_for_at_most_once_in_a_poll_interval(books: Books, clock: Clock) -> None:
    cache = Cached(Source(a=1))
    cache.get("a")
    clock.now += 0.499
    with queries(0):
        cache.get("a")
    clock.now += 0.002
    with queries(1):
        for _ in range(10):
            cache.get("a")


def test_a_change_in_another_process_is_seen_after_a_poll_interval(books: Books, clock: Clock) -> None:
    source = Source(a=1)
    cache = Cached(source)
    assert cache.get("a") == 1
    source.rows["a"] = 2
    bump_elsewhere(books)
    assert cache.get("a") == 1
    clock.now += 0.501
    assert cache.get("a") == 2


def test_a_change_in_this_process_is_seen_as_soon_as_it_has_committed(books: Books, clock: Clock) -> None:
    source = Source(a=1)
    cache = Cached(source)
    assert cache.get("a") == 1
    with transaction.atomic():
        caches.bump()
    source.rows["a"] = 2
    # Time may stand still between the commit and the next read.
    assert cache.get("a") == 2


def test_without_a_change_an_entry_still_ends(books: Books, clock: Clock) -> None:
    source = Source(a=1)
    cache = Cached(source)
    cache.get("a")
    source.rows["a"] = 2
    clock.now += 29
    assert cache.get("a") == 1
    clock.now += 2
    assert cache.get("a") == 2


def test_what_does_not_exist_is_remembered_briefly(books: Books, clock: Clock) -> None:
    source = Source()
    cache = Cached(source)
    assert cache.get("a") is None
    source.rows["a"] = 1
    clock.now += 1
    assert cache.get("a") is None
    clock.now += 1.1
    assert cache.get("a") == 1
    assert len(source.asked) == 2


def test_a_change_that_commits_while_a_value_is_being_loaded_makes_it_be_loaded_again(
    books: Books, clock: Clock
) -> None:
    asked = 0

    def slow(keys: Collection[str]) -> Mapping[str, int]:
        nonlocal asked
        asked += 1
        if asked == 1:
            # The old value is in hand when the change commits.
            bump_elsewhere(books)
        return dict.fromkeys(keys, asked)

    cache = Cached(slow)
    assert cache.get("a") == 1
    clock.now += 0.501
    assert cache.get("a") == 2


def test_what_a_transaction_saw_of_its_own_changes_is_not_kept_when_it_rolls_back(books: Books, clock: Clock) -> None:
    cache = Cached(_roles)

    def change_and_fail() -> None:
        with transaction.atomic():
            caches.bump()
            Role.objects.filter(name="viewer").update(permissions=["calls:make"])
            assert cache.get("viewer") == ("calls:make",)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    # The next writer's epoch is the number that the rolled back one had seen.
    with transaction.atomic():
        caches.bump()
    assert cache.get("viewer") == ("usage:read_all", "wallet:read", "billing:read")


def test_other_threads_do_not_see_what_a_transaction_has_not_committed(books: Books, clock: Clock) -> None:
    cache = Cached(_roles)
    with transaction.atomic():
        caches.bump()
        Role.objects.filter(name="viewer").update(permissions=["calls:make"])
        assert cache.get("viewer") == ("calls:make",)
        assert books.together([lambda: cache.get("viewer")]) == [("usage:read_all", "wallet:read", "billing:read")]
    assert cache.get("viewer") == ("calls:make",)


def test_a_bump_outside_a_transaction_is_a_bug(books: Books) -> None:
    with pytest.raises(AssertionError, match="needs a transaction"):
        caches.bump()


def test_the_oldest_entries_make_room(books: Books, clock: Clock) -> None:
    source = Source(**{f"k{number}": number for number in range(20)})
    cache = Cached(source, size_max=5)
    for key in source.rows:
        cache.get(key)
    assert len(cache._present) == 5
    source.asked.clear()
    assert cache.get("k19") == 19
    assert source.asked == []
    assert cache.get("k0") == 0
    assert source.asked == [{"k0"}]


def test_made_up_keys_do_not_push_out_real_ones(books: Books, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "ABSENT_SIZE_MAX", 10)
    source = Source(real=1)
    cache = Cached(source, size_max=5)
    cache.get("real")
    cache.get_many([f"made-up-{number}" for number in range(1000)])
    source.asked.clear()
    assert cache.get("real") == 1
    assert source.asked == []
    assert len(cache._absent) == 10


def test_of_many_threads_one_asks_for_the_epoch_while_the_others_go_on(
    books: Books, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cached(Source(a=1))
    cache.get("a")
    clock.now += 0.6
    asking, answered = threading.Event(), threading.Event()
    polls = 0
    objects = CacheEpoch.objects

    class Slow:
        """The table, slow to answer."""

        def values_list(self, *fields: str, flat: bool) -> object:
            nonlocal polls
            polls += 1
            asking.set()
            assert answered.wait(10)
            return objects.values_list(*fields, flat=flat)

    monkeypatch.setattr(CacheEpoch, "objects", Slow())

    def first() -> int | None:
        return cache.get("a")

    def later() -> int | None:
        assert asking.wait(10)
        try:
            return cache.get("a")
        finally:
            if threading.current_thread().name == "together-1":
                answered.set()

    calls: list[Callable[[], int | None]] = [first, later]
    assert books.together(calls) == [1, 1]
    assert polls == 1


def test_nobody_goes_on_for_long_when_the_answer_does_not_come(
    books: Books, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = caches._Epoch()
    epoch.current()
    clock.now += 0.6
    # Someone asked at this moment and has not come back.
    epoch._asking_since = clock.now
    with queries(0):
        epoch.current()
    clock.now += 0.45
    with queries(1):
        epoch.current()


def test_a_poll_interval_of_nothing_asks_every_time(books: Books, clock: Clock, settings: object) -> None:
    settings.CACHE_POLL_MS = 0  # type: ignore[attr-defined]
    cache = Cached(Source(a=1))
    cache.get("a")
    with queries(3):
        for _ in range(3):
            cache.get("a")


def _roles(names: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    return {row.name: tuple(row.permissions) for row in Role.objects.filter(name__in=list(names))}
