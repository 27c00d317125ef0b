"""Every scheduled job, in one table: what wakes it, when, in which queue, and how long it may take. Pure.

What beat sends, which queue and time limits a task has (``core.celery``), and what the sweep finds
overdue (``ops.jobs``) all follow from here. A job is due once in each of its slots: stretches of
``every``, half-open, that begin ``at`` after midnight UTC of the first of January 1970 and follow each other.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# What moves money, or lets somebody wait; and what is long, or can wait. Each has workers of its own.
MONEY: Final = "money"
BULK: Final = "bulk"


class Limits(NamedTuple):
    """How long a task may run: after ``soft`` it gets an exception, after ``hard`` its process is killed."""

    soft: timedelta
    hard: timedelta


LIMITS: Final = {
    MONEY: Limits(100 * SECOND, 120 * SECOND),
    BULK: Limits(9 * MINUTE, 10 * MINUTE),
}
# A month is as large as it is; a killed run loses nothing, and would begin again.
ARCHIVE: Final = Limits(6 * HOUR - MINUTE, 6 * HOUR)
# A job of shorter slots keeps one row, the others one for each slot they have done.
OFTEN: Final = 5 * MINUTE
# A worker that runs a job says so again and again; one that said nothing for so long is taken for dead.
LEASE: Final = 30 * SECOND
# What the broker hands out late, the sweep has long sent anew.
EXPIRES_MAX: Final = MINUTE


class Job(NamedTuple):
    """A scheduled job: its task, its slots, its queue."""

    task: str
    every: timedelta
    at: timedelta = timedelta(0)
    queue: str = BULK
    limits: Limits | None = None

    @property
    def often(self) -> bool:
        """Whether a row a slot would be too many."""
        return self.every < OFTEN

    def slot(self, now: datetime) -> datetime:
        """When the slot began that an instant lies in."""
        return _EPOCH + self.at + (now - _EPOCH - self.at) // self.every * self.every

    @property
    def expires(self) -> timedelta:
        """How long a message that wakes it means anything."""
        return min(self.every, EXPIRES_MAX)


JOBS: Final[dict[str, Job]] = {
    "sweep": Job("ops.tasks.sweep", 10 * SECOND, at=5 * SECOND, queue=MONEY),
    "trim_job_periods": Job("ops.tasks.trim_job_periods", DAY, at=2 * HOUR + 11 * MINUTE),
    "deliver_webhooks": Job("ops.tasks.deliver_webhooks", 10 * SECOND),
    "deliver_to_failing": Job("ops.tasks.deliver_to_failing", 10 * SECOND),
    "send_mails": Job("ops.tasks.send_mails", 10 * SECOND),
    "trim_messages": Job("ops.tasks.trim_messages", HOUR, at=13 * MINUTE),
    "trim_idempotency_keys": Job("ops.tasks.trim_idempotency_keys", HOUR, at=41 * MINUTE),
    "trim_sign_ins": Job("ops.tasks.trim_sign_ins", HOUR, at=19 * MINUTE),
    "partitions": Job("metering.tasks.create_partitions", 6 * HOUR, at=17 * MINUTE),
    "trim_claims": Job("metering.tasks.trim_claims", HOUR, at=53 * MINUTE),
    "archive_months": Job("metering.tasks.archive_months", DAY, at=3 * HOUR + 47 * MINUTE, limits=ARCHIVE),
    "fold_rollups": Job("metering.tasks.fold_rollups", MINUTE),
    "publish_prices": Job("metering.tasks.publish_prices", MINUTE),
    "expire_holds": Job("billing.tasks.expire_holds", 10 * SECOND, queue=MONEY),
    "settle_grants": Job("billing.tasks.settle_grants", 10 * SECOND, queue=MONEY),
    "handle_stripe_events": Job("billing.tasks.handle_stripe_events", 3 * SECOND, queue=MONEY),
    "look_at_payments": Job("billing.tasks.look_at_payments", 10 * SECOND, queue=MONEY),
    "trim_stripe_events": Job("billing.tasks.trim_stripe_events", DAY, at=2 * HOUR + 23 * MINUTE),
    "recharge": Job("billing.tasks.recharge", 10 * SECOND, queue=MONEY),
    "close_periods": Job("billing.tasks.close_periods", 15 * MINUTE),
    "finalize_invoices": Job("billing.tasks.finalize_invoices", 15 * MINUTE, at=5 * MINUTE),
    "issue_receipts": Job("billing.tasks.issue_receipts", MINUTE),
    "dun": Job("billing.tasks.dun", HOUR, at=33 * MINUTE),
    "note_lost_calls": Job("gateway.tasks.note_lost_calls", MINUTE),
    "trim_call_keys": Job("gateway.tasks.trim_call_keys", HOUR, at=29 * MINUTE),
    "reconcile_stripe": Job("billing.tasks.reconcile_stripe", DAY, at=5 * HOUR + 13 * MINUTE),
    "compare_provider_bills": Job("billing.tasks.compare_provider_bills", DAY, at=5 * HOUR + 43 * MINUTE),
    "apply_reratings": Job("billing.tasks.apply_reratings", MINUTE),
    "release_quarantine": Job("billing.tasks.release_quarantine", 5 * MINUTE),
    "trim_ceilings": Job("billing.tasks.trim_ceilings", HOUR, at=23 * MINUTE),
    "verify": Job("billing.tasks.verify", HOUR, at=7 * MINUTE),
    "seal_ledger": Job("billing.tasks.seal_ledger", HOUR, at=37 * MINUTE),
}
# Tasks without a schedule, which somebody wakes for one row (``ops.jobs.wake``), and their queue.
WOKEN: Final[dict[str, str]] = {}


def queue_of(task: str) -> str:
    """A task's queue. Raises ``LookupError`` for one that is not listed."""
    for job in JOBS.values():
        if job.task == task:
            return job.queue
    if task not in WOKEN:
        raise LookupError(f"no task is named {task!r}; core/schedule.py lists them")
    return WOKEN[task]


def tasks() -> dict[str, tuple[str, Limits]]:
    """Every task with its queue and its limits."""
    woken = {task: (queue, LIMITS[queue]) for task, queue in WOKEN.items()}
    return {**woken, **{job.task: (job.queue, job.limits or LIMITS[job.queue]) for job in JOBS.values()}}


def longest() -> timedelta:
    """How long the longest task may run."""
    return max(limits.hard for _, limits in tasks().values())
