"""The guards of scheduled jobs. Registered by ``tests.guards``."""

import importlib
from datetime import timedelta
from typing import Any

from tests.guards import Disabled, all_of, guard, patched, unchecked


def _statement(name: str, old: str, new: str) -> Disabled:
    """One of the statements of ``ops.jobs`` with something else in a place of it."""
    text = getattr(importlib.import_module("ops.jobs"), name)
    assert old in text, f"{name} does not hold {old!r}"
    return patched(f"ops.jobs.{name}", text.replace(old, new))


@guard("periods_are_begun_once")
def _() -> Disabled:
    """The statement that begins a job's period finds it due, and free, in the job's own row."""
    text = importlib.import_module("ops.jobs")._CLAIM
    return patched("ops.jobs._CLAIM", text[: text.index("    WHERE ")] + text[text.index("    RETURNING ") :])


@guard("leases_end")
def _() -> Disabled:
    """A run is held by a lease in its row, which ends by itself when nobody renews it."""
    return _statement("_CLAIM", "j.lease_until <= now()", "false")


@guard("clocks_may_go_back")
def _() -> Disabled:
    """An instant in a job's row that lies ahead of the clock by more than it can binds nobody."""
    return all_of(
        *(
            patched(f"ops.jobs.{name}", text.replace("> now() +", "> 'infinity'::timestamptz - 0 *"))
            for name in ("_CLAIM", "_LATE", "_LOST")
            if (text := getattr(importlib.import_module("ops.jobs"), name))
        )
    )


@guard("durations_are_monotonic")
def _() -> Disabled:
    """How long a job took is measured by a clock that nobody sets."""
    clock = importlib.import_module("core.clock")

    class Wall:
        """Seconds by the clock on the wall."""

        @staticmethod
        def monotonic() -> float:
            seconds: float = clock.now().timestamp()
            return seconds

    return patched("ops.jobs.time", Wall)


@guard("failing_jobs_are_put_aside")
def _() -> Disabled:
    """A job's attempts are counted in its row, and after eight a person is told."""
    return patched("ops.backoff.ATTEMPTS_MAX", 1000)


@guard("failing_jobs_wait")
def _() -> Disabled:
    """Each failure is followed by a longer pause."""
    return patched("ops.backoff.after", lambda *_, **__: timedelta(0))


@guard("what_is_due_is_swept")
def _() -> Disabled:
    """The sweep finds every job that is due, whoever should have woken it."""
    return _statement("_LATE", "ORDER BY name", "WHERE false ORDER BY name")


@guard("tasks_are_sent_on_commit")
def _() -> Disabled:
    """Workers are woken when the transaction has committed."""

    def at_once(call: Any, **_: Any) -> None:
        call()

    return patched("ops.jobs.transaction.on_commit", at_once)


@guard("keys_in_use_are_watched")
def _() -> Disabled:
    """``verify`` looks for requests that keep an idempotency key for too long, and for keys without an answer."""
    return unchecked("V24")


@guard("queues_are_watched")
def _() -> Disabled:
    """``verify`` looks for messages and jobs that wait for too long, and for a period that was done twice."""
    return unchecked("V25")
