"""Group commit: what is read and written together, what waits for what, and what is refused."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import OperationalError

from core import errors
from gateway import groups
from gateway.groups import Alone, Groups
from gateway.threads import Threads

SECONDS = 30
A, B, C = (UUID(int=number) for number in (1, 2, 3))


class Read(NamedTuple):
    """A request that has been read."""

    name: str
    owners: frozenset[UUID]
    weight: int = 1
    kin: Hashable = None


def of(name: str, *owners: UUID, **more: Any) -> Read:
    return Read(name, frozenset(owners), **more)


class Desk:
    """Writes groups, and notes which; ``held`` names keep a group until they are let go."""

    def __init__(self, *held: str) -> None:
        self.groups: list[list[str]] = []
        self._held = {name: threading.Event() for name in held}
        self.begun = {name: threading.Event() for name in held}
        self._lock = threading.Lock()

    def write(self, readings: Sequence[Read]) -> list[Any]:
        names = [one.name for one in readings]
        with self._lock:
            self.groups.append(names)
        for name in names:
            if name in self._held:
                self.begun[name].set()
                assert self._held[name].wait(SECONDS)
        if "poison" in names:
            raise RuntimeError("one of them cannot be written")
        return [f"{name} done" for name in names]

    def let_go(self, name: str) -> None:
        self._held[name].set()


@pytest.fixture
def threads() -> Iterator[Threads]:
    with closing(Threads(12)) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No group is stuck and nobody overdue, however slow the machine is."""
    monkeypatch.setattr(groups, "STUCK_SECONDS", 1000.0)
    monkeypatch.setattr(groups, "OVERDUE_SECONDS", 1000.0)


def play(
    desk: Desk,
    threads: Threads,
    story: Callable[["Groups[Read, Read, str]"], Any],
    read: Callable[[Read], Read] = lambda one: one,
) -> Any:
    """Run a story in an event loop of its own."""

    async def run() -> Any:
        return await asyncio.wait_for(
            story(Groups(read=read, write=desk.write, readers=threads, writers=threads)), SECONDS
        )

    return asyncio.run(run())


async def began(desk: Desk, name: str) -> None:
    assert await asyncio.to_thread(desk.begun[name].wait, SECONDS)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_one_request_that_nobody_is_in_the_way_of_is_a_group_of_its_own(threads: Threads) -> None:
    desk = Desk()
    assert play(desk, threads, lambda door: door.answer(of("a", A), size=10)) == "a done"
    assert desk.groups == [["a"]]


def test_what_comes_while_groups_are_written_is_the_next_group(threads: Threads) -> None:
    desk = Desk("first", "second")

    async def story(door: "Groups[Read, Read, str]") -> list[str]:
        first = asyncio.create_task(door.answer(of("first", A), size=1))
        await began(desk, "first")
        second = asyncio.create_task(door.answer(of("second", B), size=1))
        await began(desk, "second")
        others = [
            asyncio.create_task(door.answer(of(f"{number}", UUID(int=number)), size=1)) for number in range(9, 14)
        ]
        await until(lambda: len(door._waiting) == 5)
        desk.let_go("first")
        told = await asyncio.gather(*others)
        desk.let_go("second")
        await asyncio.gather(first, second)
        return told

    assert play(desk, threads, story) == [f"{number} done" for number in range(9, 14)]
    assert desk.groups[2:] == [["9", "10", "11", "12", "13"]]


def test_a_group_is_begun_beside_another_once_it_is_as_large(threads: Threads) -> None:
    desk = Desk("0", "5")

    async def story(door: "Groups[Read, Read, str]") -> None:
        # All that arrives at the same time is one group, though nothing is in its way from the first on.
        first = [asyncio.create_task(door.answer(of(f"{number}", UUID(int=number)), size=1)) for number in range(3)]
        await began(desk, "0")
        second = [asyncio.create_task(door.answer(of(f"{number}", UUID(int=number)), size=1)) for number in (3, 4)]
        await until(lambda: len(door._waiting) == 2)
        while door._soon:
            await asyncio.sleep(0)
        assert len(door._started) == 1
        second.append(asyncio.create_task(door.answer(of("5", UUID(int=5)), size=1)))
        await began(desk, "5")
        desk.let_go("5")
        await asyncio.gather(*second)
        assert not any(one.done() for one in first)
        desk.let_go("0")
        await asyncio.gather(*first)

    play(desk, threads, story)
    assert desk.groups == [["0", "1", "2"], ["3", "4", "5"]]


def test_a_large_request_is_not_kept_back_for_company(threads: Threads) -> None:
    desk = Desk("0", "large")

    async def story(door: "Groups[Read, Read, str]") -> None:
        first = [asyncio.create_task(door.answer(of(f"{number}", UUID(int=number)), size=1)) for number in range(3)]
        await began(desk, "0")
        large = asyncio.create_task(door.answer(of("large", UUID(int=9), weight=groups.LARGE_WEIGHT + 1), size=1))
        await began(desk, "large")
        desk.let_go("large")
        desk.let_go("0")
        await asyncio.gather(large, *first)

    play(desk, threads, story)
    assert desk.groups == [["0", "1", "2"], ["large"]]


def test_an_organization_is_in_one_group_at_a_time_and_the_others_pass_it(threads: Threads) -> None:
    desk = Desk("slow")

    async def story(door: "Groups[Read, Read, str]") -> None:
        slow = asyncio.create_task(door.answer(of("slow", A), size=1))
        await began(desk, "slow")
        same = asyncio.create_task(door.answer(of("same", A), size=1))
        assert await door.answer(of("other", B), size=1) == "other done"
        assert not same.done()
        desk.let_go("slow")
        assert await same == "same done"
        await slow

    play(desk, threads, story)
    assert desk.groups == [["slow"], ["other"], ["same"]]


def test_groups_that_are_stuck_do_not_keep_the_others_waiting(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "STUCK_SECONDS", 0.1)
    names = [f"stuck-{number}" for number in range(groups.WRITERS)]
    desk = Desk(*names)

    async def story(door: "Groups[Read, Read, str]") -> None:
        stuck = []
        for number, name in enumerate(names):
            stuck.append(asyncio.create_task(door.answer(of(name, UUID(int=100 + number)), size=1)))
            await began(desk, name)
        assert await door.answer(of("other", B), size=1) == "other done"
        assert not any(each.done() for each in stuck)
        for name in names:
            desk.let_go(name)
        await asyncio.gather(*stuck)

    play(desk, threads, story)


def test_requests_of_different_kin_share_no_group(threads: Threads) -> None:
    desk = Desk("slow", "slower")

    async def story(door: "Groups[Read, Read, str]") -> None:
        tasks = [asyncio.create_task(door.answer(of("slow", A), size=1))]
        await began(desk, "slow")
        tasks.append(asyncio.create_task(door.answer(of("slower", B), size=1)))
        await began(desk, "slower")
        for number, kin in enumerate("xyxy"):
            tasks.append(asyncio.create_task(door.answer(of(f"{kin}{number}", UUID(int=9 + number), kin=kin), size=1)))
        await until(lambda: len(door._waiting) == 4)
        desk.let_go("slow")
        desk.let_go("slower")
        await asyncio.gather(*tasks)

    play(desk, threads, story)
    assert sorted(desk.groups[2:]) == [["x0", "x2"], ["y1", "y3"]]


def test_a_group_holds_no_more_events_than_a_request_may(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "WEIGHT_MAX", 100)
    desk = Desk("slow", "slower")

    async def story(door: "Groups[Read, Read, str]") -> None:
        tasks = [asyncio.create_task(door.answer(of("slow", A), size=1))]
        await began(desk, "slow")
        tasks.append(asyncio.create_task(door.answer(of("slower", B), size=1)))
        await began(desk, "slower")
        for number in range(5):
            tasks.append(asyncio.create_task(door.answer(of(f"{number}", UUID(int=9 + number), weight=40), size=1)))
        await until(lambda: len(door._waiting) == 5)
        desk.let_go("slow")
        desk.let_go("slower")
        await asyncio.gather(*tasks)

    play(desk, threads, story)
    assert sorted(desk.groups[2:]) == [["0", "1"], ["2", "3"], ["4"]]


def test_a_large_request_goes_alone_and_waits_for_no_organization(threads: Threads) -> None:
    desk = Desk("slow")

    async def story(door: "Groups[Read, Read, str]") -> None:
        slow = asyncio.create_task(door.answer(of("slow", A), size=1))
        await began(desk, "slow")
        assert await door.answer(of("large", A, B, weight=groups.LARGE_WEIGHT + 1), size=1) == "large done"
        desk.let_go("slow")
        await slow

    play(desk, threads, story)
    assert desk.groups == [["slow"], ["large"]]


def test_of_large_requests_for_one_organization_few_are_written_at_once(threads: Threads) -> None:
    names = [f"large-{number}" for number in range(groups.LARGE_EACH_MAX)]
    desk = Desk(*names)

    async def story(door: "Groups[Read, Read, str]") -> None:
        weight = groups.LARGE_WEIGHT + 1
        tasks = []
        for name in names:
            tasks.append(asyncio.create_task(door.answer(of(name, A, weight=weight), size=1)))
            await began(desk, name)
        tasks.append(asyncio.create_task(door.answer(of("one more", A, weight=weight), size=1)))
        await until(lambda: len(door._waiting) == 1)
        # Nobody waits for it, not even another of its kind.
        door._started = dict.fromkeys(door._started, (float("-inf"), 1))
        assert await door.answer(of("large of another", B, weight=weight), size=1) == "large of another done"
        assert await door.answer(of("small of the same", A), size=1) == "small of the same done"
        for name in names:
            desk.let_go(name)
        await asyncio.gather(*tasks)
        assert (door._larges, +door._large) == (0, Counter())

    play(desk, threads, story)
    assert desk.groups[-1] == ["one more"]


def test_a_request_for_several_waits_a_moment_for_all_of_them_to_be_free_and_no_longer(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "OVERDUE_SECONDS", 0.05)
    monkeypatch.setattr(groups, "STUCK_SECONDS", 0.02)
    desk = Desk("slow")

    async def story(door: "Groups[Read, Read, str]") -> None:
        slow = asyncio.create_task(door.answer(of("slow", A), size=1))
        await began(desk, "slow")
        assert await door.answer(of("both", A, B), size=1) == "both done"
        assert not slow.done()
        desk.let_go("slow")
        await slow

    play(desk, threads, story)


def test_where_the_database_is_gone_nobody_is_written_again(threads: Threads) -> None:
    desk = Desk("slow", "slower")
    write = desk.write

    def gone(readings: Sequence[Read]) -> list[Any]:
        told = write(readings)
        if len(readings) > 1:
            raise OperationalError("the connection is lost")
        return told

    desk.write = gone  # type: ignore[method-assign]

    async def story(door: "Groups[Read, Read, str]") -> list[Any]:
        tasks = [asyncio.create_task(door.answer(of("slow", A), size=1))]
        await began(desk, "slow")
        tasks.append(asyncio.create_task(door.answer(of("slower", B), size=1)))
        await began(desk, "slower")
        tasks += [asyncio.create_task(door.answer(of(f"{number}", UUID(int=9 + number)), size=1)) for number in (0, 1)]
        await until(lambda: len(door._waiting) == 2)
        desk.let_go("slow")
        desk.let_go("slower")
        return list(await asyncio.gather(*tasks, return_exceptions=True))[2:]

    assert [type(one) for one in play(desk, threads, story)] == [OperationalError, OperationalError]
    assert desk.groups[2:] == [["0", "1"]]


def test_a_set_that_cannot_be_read_because_the_database_is_gone_asks_for_it_once(threads: Threads) -> None:
    asked: list[str] = []

    def read(one: Read) -> Read:
        if threading.current_thread() is threading.main_thread():
            raise SynchronousOnlyOperation
        asked.append(one.name)
        raise OperationalError("nobody answers")

    async def story(door: "Groups[Read, Read, str]") -> list[Any]:
        door._reads = True
        told = [asyncio.create_task(door.answer(of(f"{number}", A), size=1)) for number in range(5)]
        await until(lambda: len(door._arrived) == 5)
        door._reads = False
        door._read_next()
        return list(await asyncio.gather(*told, return_exceptions=True))

    assert {type(one) for one in play(Desk(), threads, story, read)} == {OperationalError}
    assert asked == ["0"]


def test_one_organization_takes_its_share_of_a_group_and_no_more(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "SHARE_MAX", 2)
    desk = Desk("slow", "slower")

    async def story(door: "Groups[Read, Read, str]") -> None:
        tasks = [asyncio.create_task(door.answer(of("slow", A), size=1))]
        await began(desk, "slow")
        tasks.append(asyncio.create_task(door.answer(of("slower", B), size=1)))
        await began(desk, "slower")
        for name in ("loud0", "loud1", "loud2", "loud3"):
            tasks.append(asyncio.create_task(door.answer(of(name, C), size=1)))
        tasks.append(asyncio.create_task(door.answer(of("quiet", UUID(int=9)), size=1)))
        await until(lambda: len(door._waiting) == 5)
        desk.let_go("slow")
        await asyncio.gather(*tasks[2:])
        desk.let_go("slower")
        await asyncio.gather(*tasks)

    play(desk, threads, story)
    assert desk.groups[2:] == [["loud0", "loud1", "quiet"], ["loud2", "loud3"]]


def test_a_group_that_fails_is_written_one_by_one_and_only_the_poison_fails(threads: Threads) -> None:
    desk = Desk("slow", "slower")

    async def story(door: "Groups[Read, Read, str]") -> list[Any]:
        tasks = [asyncio.create_task(door.answer(of("slow", A), size=1))]
        await began(desk, "slow")
        tasks.append(asyncio.create_task(door.answer(of("slower", B), size=1)))
        await began(desk, "slower")
        for number, name in enumerate(["good", "poison", "fine"]):
            tasks.append(asyncio.create_task(door.answer(of(name, UUID(int=9 + number)), size=1)))
        await until(lambda: len(door._waiting) == 3)
        desk.let_go("slow")
        desk.let_go("slower")
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert door.jobs == door.bytes == 0
        assert not door._busy
        return told[2:]

    good, poison, fine = play(desk, threads, story)
    assert (good, fine) == ("good done", "fine done")
    assert isinstance(poison, RuntimeError)
    assert desk.groups[2] == ["good", "poison", "fine"]
    assert sorted(desk.groups[3:]) == [["fine"], ["good"], ["poison"]]


def test_what_asks_to_be_written_alone_is_written_again_after_the_others_are_answered(
    threads: Threads,
) -> None:
    desk = Desk()
    written: list[list[str]] = []

    def write(readings: Sequence[Read]) -> list[Any]:
        written.append([one.name for one in readings])
        if len(readings) == 1:
            return [f"{readings[0].name} alone"]
        return [Alone() if one.name == "hard" else f"{one.name} together" for one in readings]

    desk.write = write  # type: ignore[method-assign]

    async def story(door: "Groups[Read, Read, str]") -> list[str]:
        door._started = dict.fromkeys(range(groups.WRITERS_MAX), (0.0, 1))
        tasks = [
            asyncio.create_task(door.answer(of(name, owner), size=1))
            for name, owner in (("easy", A), ("hard", B), ("simple", C))
        ]
        await until(lambda: len(door._waiting) == 3)
        door._started = {}
        door._write_next()
        return list(await asyncio.gather(*tasks))

    assert play(desk, threads, story) == ["easy together", "hard alone", "simple together"]
    assert written == [["easy", "hard", "simple"], ["hard"]]


def test_a_request_that_cannot_be_read_is_refused_and_its_neighbours_are_not(threads: Threads) -> None:
    desk = Desk()

    def read(one: Read) -> Read:
        if one.name == "bad":
            raise errors.InvalidJson
        return one

    async def story(door: "Groups[Read, Read, str]") -> list[Any]:
        asked = [door.answer(of(name, A), size=1) for name in ("good", "bad")]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    good, bad = play(desk, threads, story, read)
    assert good == "good done"
    assert isinstance(bad, errors.InvalidJson)


def test_what_does_not_fit_is_told_to_come_again_and_room_comes_back(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "WAITING_MAX", 2)
    monkeypatch.setattr(groups, "EACH_PART", 1)
    monkeypatch.setattr(groups, "WAITING_BYTES_MAX", 100)
    desk = Desk("slow")

    async def story(door: "Groups[Read, Read, str]") -> None:
        slow = asyncio.create_task(door.answer(of("slow", A), size=60))
        await began(desk, "slow")
        with pytest.raises(errors.Unavailable):
            await door.answer(of("large", B), size=41)
        small = asyncio.create_task(door.answer(of("small", A), size=40))
        await until(lambda: door.jobs == 2)
        with pytest.raises(errors.Unavailable):
            await door.answer(of("third", B), size=0)
        desk.let_go("slow")
        await asyncio.gather(slow, small)
        assert (door.jobs, door.bytes) == (0, 0)
        assert await door.answer(of("third", B), size=100) == "third done"

    play(desk, threads, story)


def test_one_organization_cannot_fill_the_queue_for_the_others(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "WAITING_MAX", 4)
    monkeypatch.setattr(groups, "EACH_PART", 2)
    desk = Desk("slow")

    async def story(door: "Groups[Read, Read, str]") -> None:
        tasks = [asyncio.create_task(door.answer(of("slow", A), size=1))]
        await began(desk, "slow")
        tasks.append(asyncio.create_task(door.answer(of("next", A), size=1)))
        await until(lambda: len(door._waiting) == 1)
        with pytest.raises(errors.Unavailable):
            await door.answer(of("one more", A), size=1)
        assert await door.answer(of("other", B), size=1) == "other done"
        desk.let_go("slow")
        await asyncio.gather(*tasks)
        assert not +door._each

    play(desk, threads, story)


def test_whoever_stops_waiting_does_not_stop_the_work(threads: Threads) -> None:
    desk = Desk("slow")

    async def story(door: "Groups[Read, Read, str]") -> None:
        slow = asyncio.create_task(door.answer(of("slow", A), size=1))
        await began(desk, "slow")
        slow.cancel()
        with suppress(asyncio.CancelledError):
            await slow
        next_one = asyncio.create_task(door.answer(of("next", A), size=1))
        desk.let_go("slow")
        assert await next_one == "next done"
        assert door.jobs == 0

    play(desk, threads, story)
    assert desk.groups == [["slow"], ["next"]]


def test_what_needs_the_database_to_be_read_is_read_in_a_thread_and_what_is_large_too(
    threads: Threads,
) -> None:
    desk = Desk()
    read_in: dict[str, bool] = {}

    def read(one: Read) -> Read:
        here = threading.current_thread() is threading.main_thread()
        if one.name == "unknown" and here:
            raise SynchronousOnlyOperation
        read_in[one.name] = here
        return one

    async def story(door: "Groups[Read, Read, str]") -> None:
        assert await door.answer(of("known", A), size=10) == "known done"
        assert await door.answer(of("unknown", A), size=10) == "unknown done"
        assert await door.answer(of("large", A), size=groups.SMALL_BYTES + 1) == "large done"
        assert await door.answer(of("wordy", A), size=10, long=True) == "wordy done"

    play(desk, threads, story, read)
    assert read_in == {"known": True, "unknown": False, "large": False, "wordy": False}
