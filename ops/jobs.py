"""Scheduled jobs: what is due is found in rows, and each period is run once.

The only module that writes ``JobRun`` and ``JobPeriod``, and the only one that sends messages to workers.

A message says no more than "look": from beat when a slot begins, from the sweep for what was due and did
not run, from ``wake`` after a commit. Which period is due, by the database's clock, and who runs it,
one guarded UPDATE of the job's row decides. Who runs it holds a lease and renews it; where the
lease ran out the worker is dead and the period is begun again. What fails is tried again with growing
pauses and put aside for a person after ``backoff.ATTEMPTS_MAX`` of them; a later period begins anew.
A run finds everything there is to do, so one makes up for all the periods that were missed before it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from celery import current_task
from django.db import Error, connection, transaction
from django.db.models import DateTimeField, Func
from kombu.exceptions import KombuError

from core import clock, failpoints, ids, logs, schedule
from core.errors import Conflict
from core.schedule import JOBS, SECOND, Job, queue_of
from core.transactions import retry
from ops import backoff, outbox
from ops.models import JobPeriod, JobRun
from orgs import audit
from orgs.audit import Actor

NOT_DUE = "not due, or another run is at it"
RESULT_CHARS_MAX = 2000
PAUSE_FIRST = timedelta(seconds=10)
PAUSE_MOST = timedelta(minutes=30)
# A job that was put aside begins a later period no sooner than after this long.
REST = timedelta(hours=1)
# No clock is ahead of another by more, unless it was set.
AHEAD = timedelta(minutes=1)
# A lease is renewed this often before it would be over.
LEASE_PARTS = 3
# Finished periods are kept for so long, and so is the row of a job that a release no longer has.
KEEP = timedelta(days=14)
TRIM_ROWS = 10_000
# After a failure to reach the broker nobody tries again for this long: rows wait for the sweep meanwhile.
DEAF_SECONDS = 5.0
# On a message from ``wake``: run although the slot is done.
HASTE = "haste"

log = logging.getLogger(__name__)
_deaf_until = float("-inf")

_SLOT = "to_timestamp(floor((extract(epoch FROM now()) - {at}) / {every}) * {every} + {at})"
# An instant that lies further ahead than it can was written before somebody set the clock back, and binds nobody.
_LAPSED = "(j.lease_until <= now() OR j.lease_until > now() + %(lease)s + %(ahead)s)"
# Whether job ``j`` is due in the slot that ``excluded.period`` is.
_DUE = f"""(
    j.state = 'due'
    OR j.state = 'running' AND j.attempts < %(attempts_max)s AND {_LAPSED}
    OR j.state = 'failed' AND (j.next_attempt_at <= now() OR j.next_attempt_at > now() + %(most)s + %(ahead)s)
    OR j.state = 'done' AND (j.period < excluded.period OR j.period > now() + %(ahead)s)
    OR j.state = 'aside' AND (j.period < excluded.period OR j.period > now() + %(ahead)s)
        AND (j.finished_at <= now() - %(rest)s OR j.finished_at > now() + %(ahead)s)
)"""
_CLAIM = f"""
    INSERT INTO job_run AS j (name, period, state, attempts, token, lease_until, started_at, result)
    SELECT %(name)s, {_SLOT.format(at="%(at)s", every="%(every)s")}, 'running', 1, %(token)s, now() + %(lease)s,
        now(), ''
    ON CONFLICT (name) DO UPDATE SET
        period = CASE WHEN j.state IN ('running', 'failed') THEN j.period ELSE excluded.period END,
        attempts = CASE WHEN j.state IN ('running', 'failed') THEN j.attempts + 1 ELSE 1 END,
        state = 'running', token = excluded.token, lease_until = excluded.lease_until, next_attempt_at = NULL,
        started_at = excluded.started_at, finished_at = NULL, took_ms = NULL, result = ''
    WHERE {_DUE} OR %(haste)s AND j.state = 'done' OR %(by_hand)s AND (j.state <> 'running' OR {_LAPSED})
    RETURNING period, attempts, started_at
"""
_LATE = f"""
    INSERT INTO job_run AS j (name, period, state, attempts, due_since, result)
    SELECT name, {_SLOT.format(at="at", every="every")}, 'due', 0, now(), ''
    FROM unnest(%(names)s::text[], %(every)s::int[], %(at)s::int[]) AS job (name, every, at)
    ORDER BY name
    ON CONFLICT (name) DO UPDATE SET due_since = coalesce(j.due_since, now()) WHERE {_DUE}
    RETURNING name
"""
# Of a job whose worker died each time there is nobody left to say so.
_LOST = f"""
    UPDATE job_run AS j SET state = 'aside', token = NULL, lease_until = NULL, finished_at = now(),
        result = 'its worker died, each time'
    WHERE j.state = 'running' AND j.attempts >= %(attempts_max)s AND {_LAPSED}
    RETURNING name, period, attempts, started_at, result
"""
_KEEP = """
    INSERT INTO job_period AS p (id, name, period, state, attempts, started_at, finished_at, took_ms, result)
    VALUES (%(id)s, %(name)s, %(period)s, %(state)s, %(attempts)s, %(started_at)s, now(), %(took_ms)s, %(result)s)
    ON CONFLICT (name, period) DO UPDATE SET state = excluded.state, attempts = excluded.attempts,
        started_at = excluded.started_at, finished_at = excluded.finished_at, took_ms = excluded.took_ms,
        result = excluded.result
    WHERE p.state = 'aside'
"""


def _now() -> Func:
    """The clock that slots go by, the start of the transaction; Django's own ``Now`` is another."""
    return Func(template="now()", output_field=DateTimeField())


class _Turn(NamedTuple):
    """A period of a job that is ours to run until the lease is over."""

    name: str
    token: UUID
    period: datetime
    attempts: int
    started_at: datetime


def run(name: str, work: Callable[[], str]) -> str:
    """Do ``work`` if a period of the job is due and nobody is at it, and note how it went.

    A failure is noted and raised again. Called by a message, it answers ``NOT_DUE`` when there is
    nothing to run. Called as a function, by a person or a test, it runs whatever the slot, unless
    somebody is at it. Raises ``LookupError`` for a job that is not listed.
    """
    job = _job(name)
    turn = retry(lambda: _claim(name, job))
    if turn is None:
        return NOT_DUE
    before = time.monotonic()
    try:
        with _renewed(turn):
            failpoints.reach("job.after_claim")
            result = work()
    except Exception as error:
        try:
            _fail(turn, took=time.monotonic() - before, result=_kept(f"{type(error).__name__}: {error}"))
        except Error:
            # The lease will run out instead, which counts as well.
            log.exception("job %s failed and that could not be noted", name)
        raise
    _finish(turn, job, took=time.monotonic() - before, result=_kept(result))
    return result


def _kept(said: str) -> str:
    """What is kept of what a run said: it is shown, mailed and logged, so no secret stays in it."""
    return logs.redact(said).replace("\x00", "\N{REPLACEMENT CHARACTER}")[:RESULT_CHARS_MAX]


def _job(name: str) -> Job:
    if name not in JOBS:
        raise LookupError(f"no job is named {name!r}; core/schedule.py lists them")
    return JOBS[name]


def _terms() -> dict[str, Any]:
    """What the statements above are told alike."""
    return {
        "lease": schedule.LEASE, "attempts_max": backoff.ATTEMPTS_MAX, "most": PAUSE_MOST, "rest": REST, "ahead": AHEAD,
    }  # fmt: skip


def _claim(name: str, job: Job) -> _Turn | None:
    """The period that is due, if it is nobody else's."""
    message = current_task.request if current_task and not current_task.request.called_directly else None
    token = uuid4()
    terms = {
        **_terms(), "name": name, "token": token, "every": job.every // SECOND, "at": job.at // SECOND,
        "by_hand": message is None, "haste": message is not None and HASTE in (message.headers or {}),
    }  # fmt: skip
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_CLAIM, terms)
        row = cursor.fetchone()
    return None if row is None else _Turn(name, token, *row)


@contextmanager
def _renewed(turn: _Turn) -> Iterator[None]:
    """Hold the lease in the block, however long it takes: a thread of its own says that we live.

    A process that is killed, or stopped, says nothing.
    """
    over = threading.Event()

    def renew() -> None:
        try:
            while not over.wait(schedule.LEASE / LEASE_PARTS / SECOND):
                _renew(turn)
        finally:
            connection.close()

    thread = threading.Thread(target=renew, name=f"lease-{turn.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _renew(turn: _Turn) -> None:
    try:
        JobRun.objects.filter(name=turn.name, token=turn.token).update(lease_until=_now() + schedule.LEASE)
    except Error as error:
        log.warning("the lease of job %s could not be renewed: %s", turn.name, error)


def _finish(turn: _Turn, job: Job, *, took: float, result: str) -> None:
    """The period is done."""
    took_ms = round(took * 1000)

    def note() -> None:
        with transaction.atomic():
            ours = JobRun.objects.filter(name=turn.name, token=turn.token).update(
                state=JobRun.State.DONE, token=None, lease_until=None, due_since=None, finished_at=_now(),
                done_period=turn.period, took_ms=took_ms, result=result,
            )  # fmt: skip
            if not ours:
                log.warning("job %s went on although its lease had run out", turn.name)
            elif job.often:
                JobPeriod.objects.filter(name=turn.name, period=turn.period, state=JobRun.State.ASIDE).delete()
            else:
                _keep(turn, state=JobRun.State.DONE, took_ms=took_ms, result=result)

    retry(note)


def _fail(turn: _Turn, *, took: float, result: str) -> None:
    """The period failed: again after a pause, or put aside."""
    took_ms = round(took * 1000)
    aside = turn.attempts >= backoff.ATTEMPTS_MAX
    state = JobRun.State.ASIDE if aside else JobRun.State.FAILED
    pause = backoff.after(turn.attempts, first=PAUSE_FIRST, most=PAUSE_MOST, jitter_seed=(turn.name, turn.period))

    def note() -> None:
        with transaction.atomic():
            ours = JobRun.objects.filter(name=turn.name, token=turn.token).update(
                state=state, token=None, lease_until=None, finished_at=_now(), took_ms=took_ms, result=result,
                next_attempt_at=None if aside else _now() + pause,
            )  # fmt: skip
            if ours and aside:
                _put_aside(turn, took_ms=took_ms, result=result)

    retry(note)


def _keep(turn: _Turn, *, state: str, took_ms: int | None, result: str) -> None:
    terms = turn._asdict() | {"id": ids.new(), "state": state, "took_ms": took_ms, "result": result}
    with connection.cursor() as cursor:
        cursor.execute(_KEEP, terms)


def _put_aside(turn: _Turn, *, took_ms: int | None, result: str) -> None:
    """Keep the period for a person, and report it."""
    _keep(turn, state=JobRun.State.ASIDE, took_ms=took_ms, result=result)
    outbox.post(
        kind="job.put_aside",
        organization_id=None,
        key=f"{turn.name} {turn.period.isoformat()}",
        data={
            "job": turn.name, "period": turn.period.isoformat(), "attempts": turn.attempts, "result": result,
        },
    )  # fmt: skip
    log.error("job %s is put aside after %d attempts: %s", turn.name, turn.attempts, result)


def again(*, name: str, by: Actor) -> None:
    """Let the sweep begin a period anew that was put aside. Raises ``Conflict`` if it is not."""
    with transaction.atomic(durable=True):
        row = JobRun.objects.select_for_update(no_key=True).get(name=name)
        if row.state != JobRun.State.ASIDE:
            raise Conflict(f"The job is {row.get_state_display()}.")
        JobRun.objects.filter(name=name).update(state=JobRun.State.FAILED, attempts=0, next_attempt_at=_now())
        put = JobPeriod.objects.get(name=name, period=row.period)
        before = {"attempts": row.attempts, "result": row.result}
        audit.note(actor=by, verb="job.run_again", subject=put, details={"job": name, "before": before})


def sweep() -> list[str]:
    """Wake every job that is due, in case nobody did: the broker or beat may be lost. Which ones those were.

    A job whose worker died each time is put aside.
    """
    terms = {
        **_terms(), "names": list(JOBS), "every": [job.every // SECOND for job in JOBS.values()],
        "at": [job.at // SECOND for job in JOBS.values()],
    }  # fmt: skip

    def find() -> list[str]:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_LOST, terms)
            for name, period, attempts, started_at, result in cursor.fetchall():
                turn = _Turn(name, UUID(int=0), period, attempts, started_at)
                _put_aside(turn, took_ms=None, result=result)
            cursor.execute(_LATE, terms)
            return sorted(name for (name,) in cursor.fetchall())

    late = retry(find)
    for name in late:
        _send(JOBS[name].task, (), haste=False)
    return late


class Standing(NamedTuple):
    """How late a job is: since the slot began that ought to be done by now; zero if it is."""

    name: str
    lag: timedelta
    aside: bool


def now() -> datetime:
    """The clock that slots go by: the database's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        at: datetime = cursor.fetchone()[0]
        return at


def standings() -> list[Standing]:
    """How every job of the schedule stands that has a row."""
    at = now()
    rows = JobRun.objects.filter(name__in=JOBS).order_by("name")
    return [Standing(row.name, lag(row, now=at), row.state == JobRun.State.ASIDE) for row in rows]


def lag(row: JobRun, *, now: datetime) -> timedelta:
    """How long ago the first slot began that is not done yet; zero if there is none, or no such job any more."""
    job = JOBS.get(row.name)
    if job is None:
        return timedelta(0)
    first = row.period if row.done_period is None else row.done_period + job.every
    return max(timedelta(0), now - first) if first <= job.slot(now) else timedelta(0)


def trim() -> int:
    """Forget periods that were over ``KEEP`` ago, and jobs that are no more; how many."""

    def forget() -> int:
        with transaction.atomic(durable=True):
            old = JobPeriod.objects.filter(id__lt=ids.floor(clock.now() - KEEP)).order_by("id").values("id")[:TRIM_ROWS]
            gone = JobPeriod.objects.filter(id__in=old).delete()[0]
            return gone + JobRun.objects.exclude(name__in=JOBS).filter(started_at__lt=_now() - KEEP).delete()[0]

    return retry(forget)


def wake(task: str, *args: Any) -> None:
    """Have a worker look at once, when and if the caller's transaction commits. ``args`` are plain JSON.

    Only haste: the row that the caller wrote is found by a sweep as well, so that nothing is raised
    when the broker is gone. Of a scheduled job it is a run between its slots, unless one is at it.
    Raises ``LookupError`` for a task that ``core/schedule.py`` does not list.
    """
    queue_of(task)
    transaction.on_commit(lambda: _send(task, args, haste=True), robust=True)


def _send(task: str, args: Sequence[Any], *, haste: bool) -> None:
    """Send a message, or let it be."""
    from core.celery import app

    failpoints.reach("wake.before_send")
    global _deaf_until
    if time.monotonic() < _deaf_until:
        return
    try:
        app.send_task(
            task, args, expires=schedule.EXPIRES_MAX / SECOND, retry=False, headers={HASTE: "1"} if haste else None
        )
    except (KombuError, OSError) as error:
        _deaf_until = time.monotonic() + DEAF_SECONDS
        log.warning("no broker to wake %s, which the sweep will find: %s", task, error)
