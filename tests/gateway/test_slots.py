"""Numbers that processes share: seen by all, and taken back from those that die."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from gateway import slots
from gateway.slots import FRESH, Numbers, Table

NAME, OTHER = b"a" * 16, b"b" * 16
SECONDS = 60
spawned = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the table is."""
    return tmp_path / "deep" / "limits"


@pytest.fixture
def table(path: Path) -> Iterator[Table]:
    """This process's view of it."""
    made = Table(path)
    yield made
    made.close()


def opened(path: Path, name: bytes, calls: int, told: Connection) -> None:
    """A process that opens calls and then waits to be ended."""
    table = Table(path)
    with table.locked():
        place = table.find(name)
        for _ in range(calls):
            table.count(place, 1)
        seen = table.read(place)
        table.write(place, Numbers(seen.requests + 1, 7, 9))
    told.send(seen)
    told.recv()


def test_what_one_process_writes_the_others_read(table: Table, path: Path) -> None:
    with table.locked():
        place = table.find(NAME)
        assert table.read(place) == FRESH
        table.write(place, Numbers(5, 6, 7))
    here, there = spawned.Pipe()
    child = spawned.Process(target=opened, args=(path, NAME, 3, there))
    child.start()
    assert here.poll(SECONDS)
    assert here.recv() == Numbers(5, 6, 7)
    with table.locked():
        assert table.find(NAME) == place
        assert table.read(place) == Numbers(6, 7, 9)
        table.count(place, 1)
        assert table.open_calls(place) == 4
        # It lives, so its calls stay.
        table.forget_dead(place)
        assert table.open_calls(place) == 4
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(SECONDS)
    with table.locked():
        assert table.open_calls(place) == 4
        table.forget_dead(place)
        assert table.open_calls(place) == 1


def test_a_new_process_starts_without_the_calls_of_the_one_whose_number_it_has(table: Table, path: Path) -> None:
    for calls in (2, 3):
        here, there = spawned.Pipe()
        child = spawned.Process(target=opened, args=(path, NAME, calls, there))
        child.start()
        assert here.poll(SECONDS)
        here.recv()
        with table.locked():
            assert table.open_calls(table.find(NAME)) == calls
        here.send("end")
        child.join(SECONDS)


def test_the_lock_is_not_waited_for_when_its_holder_has_been_stopped(table: Table, path: Path) -> None:
    holder = Table(path)
    with holder.locked(), table.locked():
        place = table.find(NAME)
        table.write(place, Numbers(1, 1, 1))
    with table.locked():
        assert table.read(place) == Numbers(1, 1, 1)
    holder.close()


def test_calls_are_never_fewer_than_none(table: Table) -> None:
    with table.locked():
        place = table.find(NAME)
        table.count(place, -1)
        assert table.open_calls(place) == 0


def test_the_longest_unused_slot_makes_room_and_none_with_open_calls(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "PROBES", 2)
    names = [bytes(8) + bytes([number]) * 8 for number in range(1, 5)]
    with table.locked():
        first = table.find(names[0])
        table.write(first, Numbers(1, 1, 10))
        second = table.find(names[1])
        table.write(second, Numbers(2, 2, 20))
        assert (table.find(names[0]), table.find(names[1])) == (first, second)
        assert table.find(names[2]) == first
        assert table.read(first) == FRESH
        assert not table.has(first, names[0])
        table.write(first, Numbers(3, 3, 30))
        table.count(second, 1)
        # The second is older, but has a call open.
        assert table.find(names[3]) == first
        table.count(first, 1)
        # Both are in use: the first place is counted anew.
        assert table.find(names[0]) == first
        assert table.open_calls(first) == 0


def test_what_is_no_table_is_made_one(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else")
    table = Table(path)
    assert table.is_shared
    with table.locked():
        assert table.read(table.find(NAME)) == FRESH
    table.close()
    # And kept by who comes later.
    table = Table(path)
    with table.locked():
        assert table.has(table.find(NAME), NAME)
    table.close()


def test_where_no_file_can_be_had_a_process_counts_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    table = Table(tmp_path / "file" / "limits")
    assert not table.is_shared
    assert "counted by each process alone" in caplog.text
    with table.locked():
        place = table.find(OTHER)
        table.count(place, 1)
        assert table.open_calls(place) == 1
    table.close()
