"""Running a verb's transaction again when PostgreSQL asks for it; the clock that all transactions share."""

import logging
import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from django.db import Error, connection

T = TypeVar("T")

ATTEMPTS_MAX = 3
# PostgreSQL, appendix A: unique violation; serialization failure, deadlock, lock not available.
UNIQUE_VIOLATION = "23505"
LOCK_NOT_AVAILABLE = "55P03"
# A statement that took too long, which says nothing of others.
QUERY_CANCELED = "57014"
RETRYABLE = frozenset({"40001", "40P01", LOCK_NOT_AVAILABLE})

log = logging.getLogger(__name__)


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code behind a Django database error, if there is one."""
    return getattr(error.__cause__ or error, "sqlstate", None)


def is_outage(error: BaseException) -> bool:
    """Whether the database is gone, shutting down or full: whoever asks next will hear the same."""
    if not isinstance(error, Error):
        return False
    state = sqlstate(error)
    if state is None:
        # No code: the connection broke or none could be had.
        return type(error).__name__ in {"OperationalError", "InterfaceError"}
    return state[:2] in {"08", "53", "57"} and state != QUERY_CANCELED


def database_now() -> datetime:
    """The present instant by the database's clock; unlike the time of the transaction it goes on."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        at: datetime = cursor.fetchone()[0]
        return at


def retry(verb: Callable[[], T], *, passing: frozenset[str] = RETRYABLE) -> T:
    """Run ``verb``, a whole transaction, again on a conflict that is ``passing`` (SQLSTATEs).

    At most ``ATTEMPTS_MAX`` times with 20 to 200 ms between; the last error is the caller's.
    """
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return verb()
        except Error as error:
            code = sqlstate(error)
            if code not in passing or attempt == ATTEMPTS_MAX:
                raise
            log.warning("transaction runs again after %s (attempt %d)", code, attempt)
            time.sleep(random.uniform(0.02, 0.2))
    raise AssertionError("unreachable")
