"""Databases for tests that commit: each its own copy of the template, dropped afterwards.

The books refuse TRUNCATE, so nothing here flushes: ``db`` rolls back, ``books`` copies.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from tests.database import Server

T = TypeVar("T")

THREADS_MAX = 64
JOIN_SECONDS = 30
STRAGGLER_SECONDS = 5

_open: list["Books"] = []


@dataclass
class Books:
    """A database of the test's own. Every thread's Django connection leads here."""

    name: str
    url: str
    threads: list[threading.Thread] = field(default_factory=list)

    def connect(self, **options: Any) -> psycopg.Connection:
        """A raw autocommitting connection; the test closes it (``with``)."""
        return psycopg.connect(self.url, autocommit=True, **options)

    def together(self, calls: Sequence[Callable[[], T]], *, seconds: float = JOIN_SECONDS) -> list[T]:
        """Run every call in a thread of its own, all released at once; their results in order.

        Raises ``ExceptionGroup`` of what the calls raised, ``AssertionError`` if one is not back in time.
        Connections that the threads opened are closed.
        """
        from django.db import connections

        assert 0 < len(calls) <= THREADS_MAX, f"{len(calls)} threads"
        barrier = threading.Barrier(len(calls), timeout=seconds)
        results: dict[int, T] = {}
        errors: list[Exception] = []

        def run(place: int, call: Callable[[], T]) -> None:
            try:
                barrier.wait()
                results[place] = call()
            except Exception as error:  # noqa: BLE001 - handed to the test below
                errors.append(error)
            finally:
                connections.close_all()

        threads = [
            threading.Thread(target=run, args=(place, call), name=f"together-{place}", daemon=True)
            for place, call in enumerate(calls)
        ]
        self.threads += threads
        end = time.monotonic() + seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        late = [thread.name for thread in threads if thread.is_alive()]
        assert not late, f"not back after {seconds} s: {', '.join(late)}"
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(calls)} concurrent calls failed", errors)
        return [results[place] for place in range(len(calls))]


def current() -> Books:
    """The books of the running test. Raises ``RuntimeError`` if it has none."""
    if not _open:
        raise RuntimeError("this needs the test's own database: ask for the `books` fixture")
    return _open[-1]


def point(*, database: str, url: str) -> None:
    """Lead Django, in every thread, and every child process to a database of the server."""
    from django.db import connections

    connections.close_all()
    connection = connections["default"]
    if connection.settings_dict["OPTIONS"].get("pool"):
        connection.close_pool()  # type: ignore[attr-defined]
    # One dict, shared by the connections of all threads.
    connection.settings_dict["NAME"] = database
    os.environ["DATABASE_URL"] = url


@contextmanager
def opened(*, server: "Server", number: int) -> Iterator[Books]:
    """A fresh copy of the template, in force until the end of the block."""
    own = Books(name=f"{server.prefix}books_{number}", url=server.url(f"{server.prefix}books_{number}"))
    clones.append(server.create(own.name, template=server.template))
    point(database=own.name, url=own.url)
    _open.append(own)
    try:
        yield own
    finally:
        _open.remove(own)
        point(database=server.main, url=server.url(server.main))
        server.drop(own.name)
        for thread in own.threads:
            thread.join(STRAGGLER_SECONDS)
        # One that lives on would write into the next test's database.
        stragglers = [thread.name for thread in own.threads if thread.is_alive()]
        assert not stragglers, f"still running though their database is gone: {', '.join(stragglers)}"


# Seconds each copy of this run took, for the report at its end.
clones: list[float] = []
