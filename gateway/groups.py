"""Group commit: requests that arrive side by side are written as one group.

What comes while groups are being written is the next group: nobody waits where nobody is in the
way. A group is one call of one verb, so one transaction and one flush, and every answer comes after
its own commit. An organization is in one group at a time, so groups do not wait for each other's
wallets; where a wallet is held by somebody else, its group falls apart after a moment, and what is
for that organization waits on its own.

All of this runs in one event loop. What may wait for the database runs in threads: ``write``, and
``read`` where the caches of this process do not know enough.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from django.core.exceptions import SynchronousOnlyOperation

from core import errors
from core.transactions import is_outage
from gateway.threads import Threads

log = logging.getLogger(__name__)

# What may wait in a process, in requests and in bytes of their bodies; the rest is told to come again.
WAITING_MAX = 2048
WAITING_BYTES_MAX = 64 * 1024 * 1024
# One organization may take this part of what may wait, and of a group, so that there is room for the others.
EACH_PART = 4
SHARE_MAX = 250
# Events of a group, as of a request.
WEIGHT_MAX = 1000
# A request with more is a group already: it goes alone, and beside others for the same organizations, for what it
# does before it takes their wallets is most of its work.
LARGE_WEIGHT = 100
LARGE_EACH_MAX = 2
LARGE_MAX = 3
# So does one for several organizations that have not all been free for so long.
OVERDUE_SECONDS = 0.25
# While one group waits for the disk another is written. More at once only make the groups smaller.
WRITERS = 2
# For the same reason the second waits until it is as large as the first, or has so many requests.
ENOUGH = 32
# A group that takes this long waits for somebody; others need not wait with it.
STUCK_SECONDS = 0.1
WRITERS_MAX = 5
# How long a group waits for one of its wallets before it falls apart.
GROUP_LOCK_MS = 250
# A body this small is read on the spot, as far as nothing is asked of the database.
SMALL_BYTES = 8 * 1024


class Alone(Exception):
    """Given by ``write`` in place of an answer: this one must be written by itself, after the others."""


class Reading(Protocol):
    """A request that has been read: which organizations it is about, and how much it is.

    Only requests of the same ``kin`` share a group.
    """

    @property
    def owners(self) -> frozenset[UUID]:
        """Organizations."""

    @property
    def weight(self) -> int:
        """Events."""

    @property
    def kin(self) -> Hashable:
        """What must be the same."""


Q = TypeVar("Q")
R = TypeVar("R", bound=Reading)
A = TypeVar("A")


class _Job(Generic[Q, R, A]):
    """A request on its way. ``alone``: it is a group of its own; ``large``: and waits for nobody's turn."""

    __slots__ = ("alone", "future", "large", "owners", "reading", "request", "since", "size")

    def __init__(self, request: Q, size: int, future: "asyncio.Future[A]") -> None:
        self.request = request
        self.size = size
        self.future = future
        self.reading: R | None = None
        self.owners: frozenset[UUID] = frozenset()
        self.since = 0.0
        self.alone = False
        self.large = False


class Groups(Generic[Q, R, A]):
    """One kind of request: ``read`` makes a reading of one, ``write`` answers for many.

    ``write`` gives for each reading its answer or the refusal. Where it raises, it must have left nothing
    behind, and each is written again alone; but where the database is gone, which leaves that in doubt,
    all are answered with that.
    """

    def __init__(
        self,
        *,
        read: Callable[[Q], R],
        write: Callable[[Sequence[R]], Sequence[A | Exception]],
        readers: Threads,
        writers: Threads,
    ) -> None:
        self._read = read
        self._write = write
        self._readers = readers
        self._writers = writers
        self._arrived: list[_Job[Q, R, A]] = []
        self._waiting: list[_Job[Q, R, A]] = []
        self._busy: set[UUID] = set()
        # By number: since when each group is being written, and how many requests it has.
        self._started: dict[int, tuple[float, int]] = {}
        self._each: Counter[UUID] = Counter()
        self._large: Counter[UUID] = Counter()
        self._larges = 0
        self._reads = False
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self._number = 0
        self.jobs = 0
        self.bytes = 0

    async def answer(self, request: Q, *, size: int, long: bool = False) -> A:
        """The answer to a request whose body has ``size`` bytes; ``long``: to read it may take a while.

        Raises ``Unavailable`` when too much waits already, and what reading and writing it raise. Whoever
        stops waiting for the answer does not stop the work.
        """
        self.check_room(size)
        job: _Job[Q, R, A] = _Job(request, size, asyncio.get_running_loop().create_future())
        self.jobs += 1
        self.bytes += size
        if long or size > SMALL_BYTES:
            self._start_read([job], self._have_read_one)
            return await job.future
        try:
            reading = self._read(request)
        except SynchronousOnlyOperation:
            # It needs the database, for which an event loop must not wait.
            self._arrived.append(job)
            self._read_next()
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._finish(job, error)
        else:
            self._have_read_one([job], [reading])
        return await job.future

    def check_room(self, size: int = 0) -> None:
        """Raise ``Unavailable`` when too much waits for a body of ``size`` bytes to wait too."""
        if self.jobs >= WAITING_MAX or self.bytes + size > WAITING_BYTES_MAX:
            raise too_much()

    def hold(self, size: int) -> None:
        """Count bytes of a body that is still arriving. Raises ``Unavailable`` when there is no room for them."""
        self.check_room(size)
        self.bytes += size

    def give_back(self, size: int) -> None:
        """What ``hold`` counted."""
        self.bytes -= size

    def _read_next(self) -> None:
        if self._reads or not self._arrived:
            return
        jobs, self._arrived = self._arrived, []
        self._reads = True
        self._start_read(jobs, self._have_read_set)

    def _start_read(self, jobs: "list[_Job[Q, R, A]]", then: "Callable[[list[_Job[Q, R, A]], Any], None]") -> None:
        self._readers.start(partial(self._read_all, jobs), partial(then, jobs))

    def _read_all(self, jobs: "Sequence[_Job[Q, R, A]]") -> list[R | Exception]:
        found: list[R | Exception] = []
        for job in jobs:
            try:
                found.append(self._read(job.request))
            except Exception as error:  # noqa: BLE001 - one request's failure is its own
                found.append(error)
                if is_outage(error):
                    # The others would each wait for the same.
                    return found + [error] * (len(jobs) - len(found))
        return found

    def _have_read_set(self, jobs: "list[_Job[Q, R, A]]", found: Any) -> None:
        self._reads = False
        self._have_read_one(jobs, found)
        self._read_next()

    def _have_read_one(self, jobs: "list[_Job[Q, R, A]]", found: Any) -> None:
        loop = jobs[0].future.get_loop()
        now = loop.time()
        for job, reading in zip(jobs, _each(jobs, found), strict=True):
            if isinstance(reading, Exception):
                self._finish(job, reading)
                continue
            owners = reading.owners
            if any(self._each[owner] >= WAITING_MAX // EACH_PART for owner in owners):
                self._finish(job, too_much())
                continue
            for owner in owners:
                self._each[owner] += 1
            job.reading, job.owners, job.since = reading, owners, now
            job.large = reading.weight > LARGE_WEIGHT
            self._waiting.append(job)
        if self._waiting and not self._soon:
            # What has arrived with this one is read first.
            self._soon = True
            loop.call_soon(self._look_at_all)

    def _look_at_all(self) -> None:
        self._soon = False
        self._write_next()

    def _write_next(self) -> None:
        """Start groups while there is something to write and a place to do so."""
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        while len(self._started) < WRITERS_MAX:
            going = [size for since, size in self._started.values() if now - since < STUCK_SECONDS]
            if len(going) >= WRITERS or (going and not self._is_enough(beside=min(going))):
                break
            group = self._take(now)
            if not group:
                break
            self._start_write(group, now)
        if self._timer is None and self._waiting:
            self._timer = loop.call_later(STUCK_SECONDS, self._look_again)

    def _is_enough(self, *, beside: int) -> bool:
        """Whether what waits is worth a transaction while another one with so many requests is going on."""
        return len(self._waiting) >= min(beside, ENOUGH) or any(job.large for job in self._waiting)

    def _look_again(self) -> None:
        self._timer = None
        self._write_next()

    def _take(self, now: float) -> "list[_Job[Q, R, A]]":
        """The next group, in the order of arrival as far as organizations in other groups allow."""
        group: list[_Job[Q, R, A]] = []
        left: list[_Job[Q, R, A]] = []
        shares: Counter[UUID] = Counter()
        weight = 0
        for place, job in enumerate(self._waiting):
            assert job.reading is not None
            if job.large or (len(job.owners) > 1 and now - job.since > OVERDUE_SECONDS):
                job.large = True
                fits = not group and self._has_room_for_large(job)
            else:
                fits = (
                    self._busy.isdisjoint(job.owners)
                    and weight + job.reading.weight <= WEIGHT_MAX
                    and not (group and (job.alone or job.reading.kin != group[0].reading.kin))  # type: ignore[union-attr]
                    and all(shares[owner] < SHARE_MAX for owner in job.owners)
                )
            if not fits:
                left.append(job)
                continue
            group.append(job)
            for owner in job.owners:
                shares[owner] += 1
            weight += job.reading.weight
            if job.alone or job.large or weight >= WEIGHT_MAX:
                left.extend(self._waiting[place + 1 :])
                break
        self._waiting = left
        return group

    def _has_room_for_large(self, job: "_Job[Q, R, A]") -> bool:
        return self._larges < LARGE_MAX and all(self._large[owner] < LARGE_EACH_MAX for owner in job.owners)

    def _start_write(self, group: "list[_Job[Q, R, A]]", now: float) -> None:
        if group[0].large:
            self._larges += 1
            self._large.update(group[0].owners)
        else:
            self._busy.update(*(job.owners for job in group))
        self._number += 1
        self._started[self._number] = now, len(group)
        readings = [job.reading for job in group if job.reading is not None]
        self._writers.start(partial(self._written, readings), partial(self._have_written, self._number, group))

    def _written(self, readings: Sequence[R]) -> Sequence[A | Exception]:
        answers = self._write(readings)
        assert len(answers) == len(readings), "an answer for each"
        return answers

    def _have_written(self, number: int, group: "list[_Job[Q, R, A]]", found: Any) -> None:
        del self._started[number]
        if group[0].large:
            self._larges -= 1
            self._large.subtract(group[0].owners)
            self._large += Counter()
        else:
            self._busy.difference_update(*(job.owners for job in group))
        if isinstance(found, Exception) and len(group) > 1 and not is_outage(found):
            log.warning("a group of %d requests falls apart: %s", len(group), found)
            for job in group:
                job.alone = True
            self._waiting[:0] = group
        else:
            for job, answer in zip(group, _each(group, found), strict=True):
                if isinstance(answer, Alone):
                    job.alone = True
                    self._waiting.append(job)
                    continue
                for owner in job.owners:
                    self._each[owner] -= 1
                    if not self._each[owner]:
                        del self._each[owner]
                self._finish(job, answer)
        self._write_next()

    def _finish(self, job: "_Job[Q, R, A]", answer: A | Exception) -> None:
        self.jobs -= 1
        self.bytes -= job.size
        if isinstance(answer, StopIteration):
            # A future takes every exception but this.
            answer = RuntimeError("a request was stopped")
        if job.future.done():
            return
        if isinstance(answer, Exception):
            job.future.set_exception(answer)
            # Whoever asked may be gone, and an error that nobody reads is logged by asyncio.
            job.future.exception()
        else:
            job.future.set_result(answer)


def _each(jobs: Sequence[Any], found: Any) -> Sequence[Any]:
    """What came of each job, where an error is that of all."""
    return [found] * len(jobs) if isinstance(found, Exception) else found


def too_much() -> errors.Unavailable:
    """The refusal of what would have to wait too long."""
    return errors.Unavailable("More arrives than can be written now; send it again.")
