"""Numbers that the web processes of one machine share: a table in a file that each of them maps into its memory.

A slot belongs to a 16-byte name and holds the levels of two buckets and, for each process, how many
calls it has open. Whoever reads or writes holds the one lock, which the kernel takes back from a
process that dies. Nothing here needs to survive: a slot that is lost or comes from before a restart
is a full bucket. Where the file cannot be had, a process counts on its own.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

SLOTS = 16_384
PROCESSES = 128
# A name is looked for in so many places in a row.
PROBES = 16
# What a level can be, and below zero as much.
LEVEL_MAX = 2**62
# How often the lock is asked for. Who holds it does so for microseconds, unless somebody has stopped that process:
# then it is not waited for, and numbers may be a little off.
_TRIES = 200
_TRY_SECONDS = 0.0001

_HEAD = 64
_MAGIC = b"tollbook slots 1"
_NAME = 16
_NUMBERS = struct.Struct("<qqq")
_COUNTS = struct.Struct(f"<{PROCESSES}H")
_COUNT = struct.Struct("<H")
_SIZE = _NAME + _NUMBERS.size + _COUNTS.size
_BYTES = _HEAD + SLOTS * _SIZE
_COUNT_MAX = 0xFFFF
_NOBODY = bytes(_NAME)


def now() -> int:
    """Microseconds of the clock that all processes of the machine share."""
    return time.monotonic_ns() // 1000


class Numbers(NamedTuple):
    """A slot's two levels and when they were so; None of them yet: ``at`` is -1."""

    requests: int
    tokens: int
    at: int


FRESH = Numbers(0, 0, -1)


class Table:
    """The table, as one process sees it. ``path`` None: its own, shared with nobody."""

    def __init__(self, path: Path | None) -> None:
        self._thread = threading.RLock()
        self._file: int | None = None
        self._map = self._open(path)
        self._me = self._enrol()

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the same numbers."""
        return self._file is not None

    def close(self) -> None:
        """Give the table back."""
        self._map.close()
        if self._file is not None:
            os.close(self._file)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else reads or writes meanwhile, in no process. Do not wait for anything inside."""
        with self._thread:
            if self._file is None:
                yield
                return
            has = self._lock(self._file)
            try:
                yield
            finally:
                if has:
                    fcntl.flock(self._file, fcntl.LOCK_UN)

    @staticmethod
    def _lock(file: int) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TRY_SECONDS)
            else:
                return True
        return False

    def find(self, name: bytes) -> int:
        """The place of a name's slot, made if there is none; the longest unused one near it makes room. Locked."""
        first = int.from_bytes(name[:8], "little")
        oldest, oldest_at = -1, LEVEL_MAX
        for step in range(PROBES):
            place = _HEAD + (first + step) % SLOTS * _SIZE
            found = self._map[place : place + _NAME]
            if found == name:
                return place
            if found == _NOBODY:
                oldest = place
                break
            at = self.read(place).at
            if at < oldest_at and not self.open_calls(place):
                oldest, oldest_at = place, at
        if oldest < 0:
            # Every place near it has open calls: the first of them is counted anew.
            oldest = _HEAD + first % SLOTS * _SIZE
        self._map[oldest : oldest + _SIZE] = name + _NUMBERS.pack(*FRESH) + bytes(_COUNTS.size)
        return oldest

    def has(self, place: int, name: bytes) -> bool:
        """Whether a place still belongs to a name. Locked."""
        return self._map[place : place + _NAME] == name

    def read(self, place: int) -> Numbers:
        """A slot's numbers. Locked."""
        return Numbers(*_NUMBERS.unpack_from(self._map, place + _NAME))

    def write(self, place: int, numbers: Numbers) -> None:
        """Keep a slot's numbers. Locked."""
        requests, tokens, at = numbers
        _NUMBERS.pack_into(self._map, place + _NAME, max(requests, -LEVEL_MAX), max(tokens, -LEVEL_MAX), at)

    def open_calls(self, place: int) -> int:
        """How many calls all processes have open. Locked."""
        return sum(_COUNTS.unpack_from(self._map, place + _NAME + _NUMBERS.size))

    def count(self, place: int, change: int) -> None:
        """Change how many calls this process has open. Locked."""
        at = self._count_at(place, self._me)
        (before,) = _COUNT.unpack_from(self._map, at)
        _COUNT.pack_into(self._map, at, min(max(0, before + change), _COUNT_MAX))

    def forget_dead(self, place: int) -> None:
        """Take back a slot's calls of processes that have died with them open. Locked."""
        counts = _COUNTS.unpack_from(self._map, place + _NAME + _NUMBERS.size)
        for process, calls in enumerate(counts):
            if calls and process != self._me and not self._lives(process):
                _COUNT.pack_into(self._map, self._count_at(place, process), 0)

    def _count_at(self, place: int, process: int) -> int:
        return place + _NAME + _NUMBERS.size + process * _COUNT.size

    def _open(self, path: Path | None) -> mmap.mmap:
        if path is None:
            return self._own()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("limits are counted by each process alone, which allows as many times as much: %s", error)
            return self._own()
        self._file = file
        with self.locked():
            if os.fstat(file).st_size != _BYTES or os.pread(file, len(_MAGIC), 0) != _MAGIC:
                os.ftruncate(file, 0)
                os.ftruncate(file, _BYTES)
                os.pwrite(file, _MAGIC, 0)
        return mmap.mmap(file, _BYTES)

    @staticmethod
    def _own() -> mmap.mmap:
        return mmap.mmap(-1, _BYTES)

    def _enrol(self) -> int:
        """This process's number: the first that no living one holds. What a dead one had open is taken back."""
        if self._file is None:
            return 0
        for process in range(PROCESSES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, process)
            except OSError:
                continue
            # Nobody else writes these, so the others need not wait meanwhile.
            for slot in range(SLOTS):
                _COUNT.pack_into(self._map, self._count_at(_HEAD + slot * _SIZE, process), 0)
            return process
        raise RuntimeError(f"more than {PROCESSES} processes share one table of limits")

    def _lives(self, process: int) -> bool:
        """Whether somebody holds that number: the kernel lets go of it for a process that died."""
        assert self._file is not None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, process)
        except OSError:
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, process)
        return False
