"""Scheduled jobs as rows: each period once, leases, pauses, what is put aside, and what the sweep finds."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest import mock

import pytest
from celery import shared_task
from django.db import IntegrityError, transaction
from kombu.exceptions import OperationalError

from core import schedule
from core.celery import Slots, app
from core.errors import Conflict
from core.schedule import DAY, HOUR, JOBS, MINUTE, SECOND, WOKEN, Job
from ops import backoff, jobs
from ops.models import JobPeriod, JobRun, OutboxMessage
from orgs.models import AuditEntry
from tests import desk
from tests.books import Books
from tests.clocks import Clock
from tests.orgs.world import BY
from tests.proofs import proves

OFTEN, HOURLY = "often", "hourly"
SLOT = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def two_jobs() -> Iterator[None]:
    """A schedule of two jobs, which a test may change; the real one stands in its own order afterwards."""
    two = {OFTEN: Job("tests.ops.often", 10 * SECOND), HOURLY: Job("tests.ops.hourly", HOUR, at=7 * MINUTE)}
    with mock.patch.dict(JOBS, two, clear=True):
        yield


@shared_task(name="tests.ops.any")
def any_task(name: str) -> str:
    return jobs.run(name, lambda: said(name))


def said(name: str) -> str:
    return "done"


def woken(name: str, work: Callable[[], str] = lambda: "done", *, haste: bool = False) -> str:
    """Run a job as a worker does that a message woke."""
    with mock.patch(f"{__name__}.said", side_effect=lambda _: work()):
        answer: str = any_task.apply((name,), headers={jobs.HASTE: "1"} if haste else None, throw=True).get()
        return answer


def fail(why: str = "no disk") -> str:
    raise RuntimeError(why)


def at(clock: Clock, instant: datetime) -> None:
    clock.move(instant - clock.at)


def row(name: str = OFTEN) -> JobRun:
    return JobRun.objects.get(name=name)


def periods(name: str) -> list[tuple[datetime, str]]:
    return list(JobPeriod.objects.filter(name=name).order_by("period").values_list("period", "state"))


@pytest.fixture
def clock(fake_clock: Clock) -> Clock:
    """Noon, and three seconds into a slot of ten."""
    fake_clock.move(SLOT + DAY * ((fake_clock.at - SLOT) // DAY + 1) + 3 * SECOND - fake_clock.at)
    return fake_clock


# Periods


def test_a_message_runs_a_period_once(clock: Clock) -> None:
    noon = clock.at - 3 * SECOND
    assert [woken(OFTEN) for _ in range(3)] == ["done", jobs.NOT_DUE, jobs.NOT_DUE]
    assert (row().period, row().done_period, row().state, row().attempts, row().ok) == (noon, noon, "done", 1, True)
    clock.move(6 * SECOND)
    assert woken(OFTEN) == jobs.NOT_DUE
    clock.move(SECOND)
    assert [woken(OFTEN), woken(OFTEN)] == ["done", jobs.NOT_DUE]
    assert row().period == noon + 10 * SECOND
    assert JobPeriod.objects.count() == 0


def test_slots_begin_where_the_table_says_and_each_is_kept(clock: Clock) -> None:
    noon = clock.at - 3 * SECOND
    assert woken(HOURLY) == "done"
    clock.move(6 * MINUTE + 56 * SECOND)
    assert woken(HOURLY) == jobs.NOT_DUE
    clock.move(SECOND)
    assert woken(HOURLY) == "done"
    assert periods(HOURLY) == [(noon - 53 * MINUTE, "done"), (noon + 7 * MINUTE, "done")]
    assert JobPeriod.objects.values_list("result", "attempts").first() == ("done", 1)


def test_one_run_makes_up_for_the_periods_that_were_missed(clock: Clock) -> None:
    woken(HOURLY)
    clock.move(30 * HOUR)
    assert jobs.standings() == [jobs.Standing(HOURLY, 29 * HOUR + 53 * MINUTE + 3 * SECOND, False)]
    assert [woken(HOURLY), woken(HOURLY)] == ["done", jobs.NOT_DUE]
    assert jobs.standings() == [jobs.Standing(HOURLY, timedelta(0), False)]


def test_of_workers_that_are_woken_at_once_one_runs(books: Books) -> None:
    ran: list[str] = []

    def work() -> str:
        ran.append("once")
        return "done"

    with mock.patch(f"{__name__}.said", side_effect=lambda _: work()):
        answers = books.together([lambda: any_task.apply((HOURLY,), throw=True).get()] * 8)
    assert sorted(answers) == ["done", *[jobs.NOT_DUE] * 7]
    assert ran == ["once"]


def test_haste_runs_a_period_again_but_neither_beside_a_run_nor_in_a_pause(clock: Clock) -> None:
    assert [woken(OFTEN), woken(OFTEN, haste=True)] == ["done", "done"]
    assert woken(OFTEN, lambda: woken(OFTEN, haste=True), haste=True) == jobs.NOT_DUE
    clock.move(10 * SECOND)
    with pytest.raises(RuntimeError):
        woken(OFTEN, fail)
    assert woken(OFTEN, haste=True) == jobs.NOT_DUE


def test_a_person_who_calls_it_runs_it_now_unless_it_runs(clock: Clock) -> None:
    assert [jobs.run(OFTEN, lambda: "one"), jobs.run(OFTEN, lambda: "two")] == ["one", "two"]
    with pytest.raises(RuntimeError):
        jobs.run(OFTEN, fail)
    assert jobs.run(OFTEN, lambda: jobs.run(OFTEN, lambda: "beside it")) == jobs.NOT_DUE


def test_a_job_that_nobody_listed_is_refused(db: None) -> None:
    with pytest.raises(LookupError, match=r"core/schedule\.py"):
        jobs.run("unheard_of", lambda: "done")


def test_what_it_said_is_cut(db: None) -> None:
    jobs.run(OFTEN, lambda: "x" * 3000)
    assert row().result == "x" * 2000


def test_no_secret_is_kept_of_what_it_said_nor_of_why_it_failed(db: None) -> None:
    secret = "sk_live_" + "a" * 24
    jobs.run(OFTEN, lambda: f"sent with {secret}")
    assert row().result == "sent with sk_live_[redacted]"
    with pytest.raises(RuntimeError):
        jobs.run(HOURLY, lambda: fail(f"Invalid API Key provided: {secret}\x00"))
    assert row(HOURLY).result == "RuntimeError: Invalid API Key provided: sk_live_[redacted]\N{REPLACEMENT CHARACTER}"


class Beat:
    """What beat would send: each job as one of its slots begins that it has not sent yet."""

    def __init__(self, clock: Clock) -> None:
        self._slots = {name: Slots(job, nowfun=lambda: clock.at) for name, job in JOBS.items()}
        self.restart()

    def restart(self) -> None:
        """Forget what was sent."""
        self._last = dict.fromkeys(self._slots, datetime(1970, 1, 1, tzinfo=UTC))

    def due(self) -> list[str]:
        """What it sends now."""
        found = [name for name, slots in self._slots.items() if slots.is_due(self._last[name]).is_due]
        self._last |= {name: self._slots[name].now() for name in found}
        return found


@proves("J06", guard="periods_are_begun_once")
def test_two_beats_through_an_hour_run_each_period_once(
    books: Books, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    JOBS[OFTEN] = JOBS[OFTEN]._replace(every=MINUTE)
    noon = clock.at - 3 * SECOND
    beats = Beat(clock), Beat(clock)
    ran: Counter[tuple[str, datetime]] = Counter()

    def count(name: str) -> str:
        ran[name, row(name).period] += 1
        return "done"

    monkeypatch.setattr(f"{__name__}.said", count)
    for step in range(121):
        # One of them is started again now and then, and sends all that is due once more.
        if step % 17 == 0:
            beats[1].restart()
        if sent := [name for beat in beats for name in beat.due()]:
            books.together([partial(any_task.apply, (name,), throw=True) for name in sent])
        clock.move(30 * SECOND)
    assert set(ran.values()) == {1}
    minutes = [(OFTEN, noon + number * MINUTE) for number in range(61)]
    assert set(ran) == {*minutes, (HOURLY, noon - 53 * MINUTE), (HOURLY, noon + 7 * MINUTE)}


@proves("J09", guard="clocks_may_go_back")
@proves("J09", guard="durations_are_monotonic")
def test_a_clock_that_is_set_back_in_the_middle_of_a_run_stops_no_job_and_makes_no_negative_duration(
    clock: Clock,
) -> None:
    def set_back() -> str:
        clock.set_back(HOUR)
        return "done"

    with pytest.raises(RuntimeError):
        woken(HOURLY, fail)
    assert woken(OFTEN, set_back) == "done"
    took = row().took_ms
    assert took is not None
    assert took >= 0
    # A pause, a lease and a period that lie an hour ahead keep nobody.
    assert jobs.sweep() == [HOURLY, OFTEN]
    assert [woken(HOURLY), woken(OFTEN), woken(OFTEN)] == ["done", "done", jobs.NOT_DUE]
    clock.move(HOUR)
    with pytest.raises(KeyboardInterrupt):
        woken(OFTEN, die)
    clock.set_back(HOUR)
    assert woken(OFTEN) == "done"
    assert [found.ok for found in JobRun.objects.all()] == [True, True]


# Leases


def test_a_run_whose_worker_died_is_begun_again_when_its_lease_is_over(clock: Clock) -> None:
    noon = clock.at - 3 * SECOND
    with pytest.raises(KeyboardInterrupt):
        woken(OFTEN, die)
    assert (row().state, row().lease_until, row().ok) == ("running", clock.at + schedule.LEASE, None)
    clock.move(29 * SECOND)
    assert woken(OFTEN) == jobs.NOT_DUE
    clock.move(SECOND)
    assert woken(OFTEN) == "done"
    assert (row().period, row().attempts) == (noon, 2)
    # What became due meanwhile.
    assert woken(OFTEN) == "done"
    assert row().period == noon + 30 * SECOND


def die() -> str:
    """As SIGKILL: nothing is noted. ``run`` catches what a job raises, and no more."""
    raise KeyboardInterrupt


def test_a_lease_is_renewed_as_long_as_the_work_takes(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "LEASE", 300 * timedelta(milliseconds=1))
    seen: set[datetime | None] = set()

    def work() -> str:
        while len(seen) < 4:
            seen.add(row().lease_until)
            if len(seen) == 3:
                assert woken(OFTEN) == jobs.NOT_DUE
        return "done"

    assert jobs.run(OFTEN, work) == "done"


def test_who_lost_the_lease_notes_nothing_over_who_has_it(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def overtaken() -> str:
        clock.move(31 * SECOND)
        assert woken(OFTEN, lambda: "second") == "second"
        return "first"

    assert woken(OFTEN, overtaken) == "first"
    assert (row().result, row().state) == ("second", "done")
    assert "job often went on although its lease had run out" in caplog.text


def test_a_lease_without_a_holder_and_a_holder_without_a_lease_cannot_be_written(db: None) -> None:
    for state, token in (("running", None), ("done", "00000000-0000-0000-0000-000000000001")):
        with pytest.raises(IntegrityError), transaction.atomic():
            JobRun.objects.create(name=OFTEN, period=SLOT, state=state, token=token)


# Failures


@proves("J13", guard="failing_jobs_are_put_aside")
@proves("J13", guard="failing_jobs_wait")
def test_what_fails_is_tried_again_with_growing_pauses_and_put_aside_after_eight(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = []
    for attempt in range(1, 9):
        with pytest.raises(RuntimeError):
            woken(OFTEN, fail)
        found = row()
        assert (found.attempts, found.result, found.ok) == (attempt, "RuntimeError: no disk", False)
        if attempt < 8:
            assert found.next_attempt_at is not None
            pauses.append(found.next_attempt_at - clock.at)
            clock.move(pauses[-1] - timedelta(microseconds=1))
            assert woken(OFTEN) == jobs.NOT_DUE
            clock.move(timedelta(microseconds=1))
    assert all(5 * 2**place <= pause / SECOND <= 10 * 2**place for place, pause in enumerate(pauses))
    assert (row().state, OutboxMessage.objects.count()) == ("aside", 1)
    told = OutboxMessage.objects.get()
    assert (told.kind, told.organization_id) == ("job.put_aside", None)
    assert told.data == {
        "job": OFTEN, "period": row().period.isoformat(), "attempts": 8, "result": "RuntimeError: no disk",
    }  # fmt: skip
    assert "job often is put aside after 8 attempts: RuntimeError: no disk" in caplog.text
    assert periods(OFTEN) == [(row().period, "aside")]
    # It begins anew in an hour, with eight attempts.
    clock.move(HOUR - timedelta(microseconds=1))
    assert woken(OFTEN) == jobs.NOT_DUE
    clock.move(timedelta(microseconds=1))
    assert woken(OFTEN) == "done"
    assert row().attempts == 1


def aside(name: str, clock: Clock) -> None:
    """Let a job fail until it is put aside."""
    for _ in range(backoff.ATTEMPTS_MAX):
        with pytest.raises(RuntimeError):
            woken(name, fail)
        clock.move((row(name).next_attempt_at or clock.at) - clock.at)


def test_a_later_period_of_a_job_that_was_put_aside_begins_anew_and_leaves_it_aside(clock: Clock) -> None:
    aside(HOURLY, clock)
    first = row(HOURLY).period
    clock.move(HOUR)
    assert woken(HOURLY) == "done"
    assert periods(HOURLY) == [(first, "aside"), (first + 2 * HOUR, "done")]


def test_a_job_that_kills_its_worker_each_time_is_put_aside_by_the_sweep(clock: Clock) -> None:
    for _ in range(backoff.ATTEMPTS_MAX):
        with pytest.raises(KeyboardInterrupt):
            woken(OFTEN, die)
        assert (row().state, jobs.sweep()) == ("running", [HOURLY])
        clock.move(schedule.LEASE)
    assert woken(OFTEN) == jobs.NOT_DUE
    assert jobs.sweep() == [HOURLY]
    assert (row().state, row().result) == ("aside", "its worker died, each time")
    assert OutboxMessage.objects.get().data["attempts"] == 8


def test_what_was_put_aside_is_run_again_when_a_person_says_so(clock: Clock) -> None:
    aside(HOURLY, clock)
    client = desk.superuser()
    shown = desk.read(client, desk.page(row(HOURLY)))
    assert "put aside" in shown.text
    assert "Run again" in shown.text
    assert "is due now" in desk.send(client, desk.page(row(HOURLY), "again")).text
    assert (AuditEntry.objects.get().verb, AuditEntry.objects.get().actor_label) == (
        "job.run_again",
        "root@example.com",
    )
    assert jobs.sweep() == [HOURLY, OFTEN]
    assert woken(HOURLY) == "done"
    assert periods(HOURLY) == [(row(HOURLY).period, "done")]
    assert "Run again" not in desk.read(client, desk.page(row(HOURLY))).text
    with pytest.raises(Conflict):
        jobs.again(name=HOURLY, by=BY)


def test_a_job_of_short_slots_that_is_run_again_leaves_nothing_aside(clock: Clock) -> None:
    aside(OFTEN, clock)
    jobs.again(name=OFTEN, by=BY)
    assert woken(OFTEN) == "done"
    assert periods(OFTEN) == []


# The sweep


@pytest.fixture
def sent() -> Iterator[list[tuple[str, tuple[Any, ...], dict[str, Any]]]]:
    """What would have gone to the broker."""
    found: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def send(task: str, args: Any = (), **options: Any) -> None:
        found.append((task, tuple(args), options))

    with mock.patch.object(app, "send_task", send):
        yield found


def test_the_sweep_wakes_what_is_due_and_nothing_else(clock: Clock, sent: list[Any]) -> None:
    assert jobs.sweep() == [HOURLY, OFTEN]
    assert [task for task, *_ in sent] == ["tests.ops.hourly", "tests.ops.often"]
    assert sent[0][2] == {"expires": 60.0, "retry": False, "headers": None}
    assert (row().state, row().due_since, row().ok) == ("due", clock.at, None)
    assert [woken(OFTEN), woken(HOURLY)] == ["done", "done"]
    assert (jobs.sweep(), row().due_since) == ([], None)
    clock.move(10 * SECOND)
    assert jobs.sweep() == [OFTEN]
    since = clock.at
    clock.move(5 * SECOND)
    assert jobs.sweep() == [OFTEN]
    assert row().due_since == since
    assert jobs.standings() == [
        jobs.Standing(HOURLY, timedelta(0), False), jobs.Standing(OFTEN, 8 * SECOND, False),
    ]  # fmt: skip


def test_the_sweep_takes_as_many_queries_for_sixty_jobs_as_for_two(
    db: None, sent: list[Any], django_assert_num_queries: Any
) -> None:
    for count in (2, 62):
        # A savepoint and its release stand for the transaction.
        with django_assert_num_queries(4):
            assert len(jobs.sweep()) == count
        for number in range(60):
            JOBS[f"job {number}"] = Job("tests.nothing", DAY)


def test_a_run_that_is_due_again_and_again_takes_three_statements(db: None, django_assert_num_queries: Any) -> None:
    jobs.run(OFTEN, lambda: "done")
    with django_assert_num_queries(7) as seen:
        jobs.run(OFTEN, lambda: "done")
    assert len([query for query in seen if "SAVEPOINT" not in query["sql"]]) == 3


def test_old_periods_and_jobs_that_are_no_more_are_forgotten(clock: Clock) -> None:
    woken(HOURLY)
    woken(OFTEN)
    clock.move(13 * DAY)
    woken(HOURLY)
    del JOBS[OFTEN]
    assert jobs.trim() == 0
    clock.move(DAY + SECOND)
    assert jobs.trim() == 2
    assert (len(periods(HOURLY)), JobRun.objects.count()) == (1, 1)


# Waking


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WOKEN, "tests.ops.row", "money")
    monkeypatch.setattr(jobs, "_deaf_until", float("-inf"))


@proves("J05", guard="tasks_are_sent_on_commit")
def test_a_worker_is_woken_when_the_row_is_committed_and_not_before(
    books: Books, listed: None, sent: list[Any]
) -> None:
    with transaction.atomic():
        jobs.wake("tests.ops.row", 7)
        assert sent == []
    assert sent == [("tests.ops.row", (7,), {"expires": 60.0, "retry": False, "headers": {"haste": "1"}})]
    with transaction.atomic():
        jobs.wake("tests.ops.row", 8)
        transaction.set_rollback(True)
    jobs.wake("tests.ops.row")
    assert [args for _, args, _ in sent] == [(7,), ()]


def test_a_broker_that_is_gone_is_told_of_once_and_raises_nothing(
    books: Books, listed: None, caplog: pytest.LogCaptureFixture
) -> None:
    gone = mock.Mock(side_effect=OperationalError("refused"))
    with mock.patch.object(app, "send_task", gone), caplog.at_level(logging.WARNING):
        for _ in range(3):
            jobs.wake("tests.ops.row")
    assert gone.call_count == 1
    assert [record.getMessage() for record in caplog.records] == [
        "no broker to wake tests.ops.row, which the sweep will find: refused"
    ]


def test_a_task_that_nobody_listed_is_not_woken(db: None) -> None:
    with pytest.raises(LookupError):
        jobs.wake("tests.ops.row")
