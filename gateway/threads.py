"""Threads that may wait for the database, for an event loop that may not."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.conf import settings
from django.db import connections

from core.transactions import is_outage
from core.web import PLANE_THREADS

T = TypeVar("T")

log = logging.getLogger(__name__)

# After so long without work a thread asks whether its connection still stands.
IDLE_SECONDS = 1.0


class Threads:
    """So many threads, each with a connection that it keeps: the pool takes several queries to hand one out."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._gone_at = float("-inf")
        self._gone: Exception | None = None
        self._pool = ThreadPoolExecutor(max_workers=number, thread_name_prefix="plane")

    def start(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do the work in a thread, then go on in this event loop with what came of it, an exception or not.

        What waits for a thread while another finds that the database cannot be had is told the same at once.
        """
        loop = asyncio.get_running_loop()
        asked_at = time.monotonic()

        def run() -> None:
            found: Any
            try:
                if self._gone is not None and asked_at < self._gone_at:
                    raise self._gone
                check_connection()
                found = work()
            except Exception as error:  # noqa: BLE001 - it is the request's to answer for, not the thread's
                if is_outage(error) and error is not self._gone:
                    self._gone, self._gone_at = error, time.monotonic()
                found = error
            except BaseException as error:  # whoever waits must be told, whatever it was
                log.exception("a thread was stopped")
                found = RuntimeError(f"{type(error).__name__} in a thread")
            settle_connection()
            loop.call_soon_threadsafe(then, found)

        self._pool.submit(run)

    async def call(self, work: Callable[[], T]) -> T:
        """What the work comes to, done in a thread. Raises what it raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(found: Any) -> None:
            if future.cancelled():
                return
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found)

        self.start(work, done)
        return await future

    def close(self) -> None:
        """Wait for what is being done, and end."""
        self._pool.shutdown()


def check_connection() -> None:
    """Before this thread works: a connection that has been idle may have been cut off meanwhile."""
    kept = connections["default"]
    idle = time.monotonic() - getattr(_thread, "used", 0.0) > IDLE_SECONDS
    if kept.connection is not None and idle and not kept.is_usable():
        kept.close()


def settle_connection() -> None:
    """After this thread worked: keep its connection unless it is broken, or there are too few to keep any."""
    _thread.used = time.monotonic()
    try:
        kept = connections["default"]
        broken = kept.errors_occurred and kept.connection is not None and not kept.is_usable()
        if broken or not _may_keep():
            kept.close()
        kept.errors_occurred = False
    except Exception:
        log.exception("a broken connection is left behind")
        del connections["default"]


def _may_keep() -> bool:
    """Whether every thread of the data plane may have a connection to itself and leave as many for the others."""
    return not settings.DATABASE_POOL_MAX or settings.DATABASE_POOL_MAX >= 2 * PLANE_THREADS


_thread = threading.local()

# Threads for each kind of work, so that none waits for another: writing through the doors, reading what cannot
# be read on the spot, pages. Model calls write through the same ones as events and authorizations.
writers = Threads(10)
readers = Threads(3)
pagers = Threads(3)
assert writers.number + readers.number + pagers.number == PLANE_THREADS, "each may need a connection"
