"""Every order in which the steps of two or three sessions can meet (the shape of PostgreSQL's isolation tester).

    def spend(pause):
        left = rows("SELECT usd FROM purse")[0][0]
        pause()
        rows("UPDATE purse SET usd = %s", left - 1)

    for played in play({"a": spend, "b": spend}, fresh=refill, outcome=counted):
        assert played.outcome == …, played

A session is a function with a thread and a Django connection of its own; ``pause()`` ends one of its
steps. A step that waits for another session's lock (``pg_blocking_pids`` says so) is left waiting
while the others go on. Nothing depends on how fast anything is.
"""

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psycopg

from core import failpoints
from tests import books

T = TypeVar("T")
Pause = Callable[[], None]
Script = Callable[[Pause], object]

ORDERS_MAX = 2_000
# Longer than any lock timeout; nothing that works waits so long.
STUCK_SECONDS = 30
POLL_SECONDS = 0.0005


@dataclass
class Played(Generic[T]):
    """One order of steps and what came of it.

    ``order`` names a session for each step as it was really made; ``blocked`` are the steps among
    them, by place, that had to wait for a lock. A session ends in a result or in an error.
    """

    order: list[str] = field(default_factory=list)
    blocked: list[int] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    outcome: T | None = None

    def __str__(self) -> str:
        steps = " ".join(f"{name}*" if place in self.blocked else name for place, name in enumerate(self.order))
        return f"[{steps}] results {self.results}, errors {self.errors}, outcome {self.outcome}"


def play(
    scripts: Mapping[str, Script],
    *,
    fresh: Callable[[], object],
    outcome: Callable[[], T],
    orders_max: int = ORDERS_MAX,
    seed: int = 0,
) -> list[Played[T]]:
    """Run the sessions in every order of their steps, or in ``orders_max`` orders by chance from ``seed``.

    ``fresh`` makes the state that each run begins with and ``outcome`` looks at what it ended with, both in
    this thread. Each session runs alone first, which counts its steps.
    """
    assert 1 < len(scripts) <= 3, f"{len(scripts)} sessions"
    with _stage(scripts) as stage:
        steps = {}
        for name in scripts:
            fresh()
            steps[name] = len(stage.run([name] * ORDERS_MAX, only=[name]).order)
        found: list[Played[T]] = []
        for order in orders(steps, at_most=orders_max, seed=seed):
            fresh()
            played: Played[T] = stage.run(order, only=list(scripts))
            played.outcome = outcome()
            found.append(played)
        return found


def orders(steps: Mapping[str, int], *, at_most: int, seed: int = 0) -> list[list[str]]:
    """All orders of so many steps of each session, or ``at_most`` different ones of them by chance."""
    count = math.factorial(sum(steps.values()))
    for own in steps.values():
        count //= math.factorial(own)
    if count <= at_most:
        return list(_all(Counter(steps), sum(steps.values())))
    chance = random.Random(seed)
    chosen: set[tuple[str, ...]] = set()
    bag = [name for name, own in steps.items() for _ in range(own)]
    while len(chosen) < at_most:
        chosen.add(tuple(chance.sample(bag, len(bag))))
    return [list(order) for order in sorted(chosen)]


def _all(left: Counter[str], length: int) -> Iterator[list[str]]:
    if not length:
        yield []
        return
    for name in sorted(left):
        if left[name]:
            yield from ([name, *rest] for rest in _all(left - Counter([name]), length - 1))


@contextmanager
def stepping(pause: Pause, *names: str) -> Iterator[None]:
    """In the block, this thread pauses whenever it reaches one of these failpoints: a verb in steps."""
    me = threading.get_ident()

    def wait() -> None:
        if threading.get_ident() == me:
            pause()

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(failpoints.armed(name, wait))
        yield


class _Session:
    """A thread that runs a script a step at a time, again and again."""

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.pid = 0
        # Whether it is between its first step and its last, and whether in the middle of one.
        self.begun = self.busy = False
        self.ready = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self._script = script
        self._go = threading.Semaphore(0)
        self._over = False
        self.thread = threading.Thread(target=self._live, name=f"session-{name}", daemon=True)

    def step(self) -> None:
        """Let it make its next step; it does so by itself."""
        self.begun = self.busy = True
        self._go.release()

    def end(self) -> None:
        """Let the thread end."""
        self._over = True
        self._go.release()

    def _pause(self) -> None:
        self.busy = False
        self.ready.set()
        self._go.acquire()
        if self._over:
            raise SystemExit

    def _live(self) -> None:
        from django.db import connection

        try:
            while True:
                self._pause()
                self.result = self.error = None
                try:
                    connection.ensure_connection()
                    self.pid = connection.connection.info.backend_pid
                    self.result = self._script(self._pause)
                except Exception as error:  # noqa: BLE001 - told by ``Played.errors``
                    self.error = error
                # What it left open would keep everybody else waiting.
                open_ = connection.connection is not None and connection.connection.info.transaction_status
                if connection.in_atomic_block or open_:
                    connection.close()
                self.begun = False
        except SystemExit:
            pass
        finally:
            connection.close()


class _Stage:
    """The sessions, and somebody who sees which of them wait."""

    def __init__(self, sessions: Sequence[_Session], watcher: psycopg.Connection) -> None:
        self._sessions = {session.name: session for session in sessions}
        self._watcher = watcher

    def run(self, order: Sequence[str], *, only: Sequence[str]) -> Played[Any]:
        """One run of these sessions: steps in this order, passing over those that cannot be made yet."""
        played: Played[Any] = Played()
        left = list(order)
        open_ = set(only)
        waiting: dict[str, int] = {}
        while open_:
            free = [name for name in [*left, *sorted(open_)] if name in open_ and name not in waiting]
            if free:
                name = free[0]
                if name in left:
                    left.remove(name)
                self._sessions[name].step()
                waiting[name] = len(played.order)
                played.order.append(name)
            self._settle(waiting, played, somebody=not free)
            for name in [name for name in waiting if not self._sessions[name].busy]:
                del waiting[name]
            over = set(played.order) & open_ - waiting.keys()
            for name in [name for name in over if not self._sessions[name].begun]:
                open_.remove(name)
                session = self._sessions[name]
                if session.error is None:
                    played.results[name] = session.result
                else:
                    played.errors[name] = session.error
        return played

    def _settle(self, waiting: Mapping[str, int], played: Played[Any], *, somebody: bool) -> None:
        """Wait until every step that was begun is made or blocked; ``somebody``: until one of the blocked is made."""
        end = time.monotonic() + STUCK_SECONDS
        while True:
            busy = [self._sessions[name] for name in waiting if self._sessions[name].busy]
            blocked = [session for session in busy if self._is_blocked(session)]
            # Those that were let go meanwhile are looked at again.
            if not any(session.busy for session in busy if session not in blocked) and not (
                somebody and len(blocked) == len(waiting)
            ):
                for session in blocked:
                    if waiting[session.name] not in played.blocked:
                        played.blocked.append(waiting[session.name])
                return
            assert time.monotonic() < end, f"stuck: {played}, waiting {dict(waiting)}"
            time.sleep(POLL_SECONDS)

    def _is_blocked(self, session: _Session) -> bool:
        """Whether its connection waits for another's lock."""
        row = self._watcher.execute("SELECT pg_blocking_pids(%s) <> '{}'", [session.pid]).fetchone()
        assert row is not None
        return bool(row[0]) and session.busy


@contextmanager
def _stage(scripts: Mapping[str, Script]) -> Iterator[_Stage]:
    sessions = [_Session(name, script) for name, script in scripts.items()]
    with closing(books.current().connect()) as watcher:
        for session in sessions:
            books.current().threads.append(session.thread)
            session.thread.start()
        try:
            for session in sessions:
                assert session.ready.wait(STUCK_SECONDS), f"{session.name} does not start"
            yield _Stage(sessions, watcher)
        finally:
            for session in sessions:
                session.end()
            for session in sessions:
                session.thread.join(STUCK_SECONDS)
