"""The table of jobs: its slots, and that beat, queues and limits follow from it."""

import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import schedule
from core.celery import Slots, app
from core.schedule import BULK, DAY, HOUR, JOBS, LIMITS, MINUTE, MONEY, SECOND, WOKEN, Job

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
jobs = st.builds(
    Job,
    task=st.just("tests.nothing"),
    every=st.sampled_from([SECOND, 10 * SECOND, MINUTE, 5 * MINUTE, HOUR, 6 * HOUR, DAY]),
    at=st.integers(0, 3600).map(lambda seconds: seconds * SECOND),
)


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("expire_holds", datetime(2026, 11, 21, 12, 34, 50, tzinfo=UTC)),
        ("sweep", datetime(2026, 11, 21, 12, 34, 45, tzinfo=UTC)),
        ("fold_rollups", datetime(2026, 11, 21, 12, 34, tzinfo=UTC)),
        ("release_quarantine", datetime(2026, 11, 21, 12, 30, tzinfo=UTC)),
        ("verify", datetime(2026, 11, 21, 12, 7, tzinfo=UTC)),
        ("seal_ledger", datetime(2026, 11, 21, 11, 37, tzinfo=UTC)),
        ("partitions", datetime(2026, 11, 21, 12, 17, tzinfo=UTC)),
        ("archive_months", datetime(2026, 11, 21, 3, 47, tzinfo=UTC)),
    ],
)
def test_a_slot_begins_when_the_table_says(name: str, slot: datetime) -> None:
    assert JOBS[name].slot(datetime(2026, 11, 21, 12, 34, 54, 999999, tzinfo=UTC)) == slot


@given(job=jobs, at=st.integers(10**15, 4 * 10**15).map(lambda us: EPOCH + timedelta(microseconds=us)))
def test_slots_tile_time(job: Job, at: datetime) -> None:
    slot = job.slot(at)
    assert slot <= at < slot + job.every
    assert job.slot(slot) == slot
    assert job.slot(slot - timedelta(microseconds=1)) == slot - job.every


def test_beat_wakes_each_job_by_its_task_and_saves_nothing_up() -> None:
    entries = app.conf.beat_schedule
    assert {name: entry["task"] for name, entry in entries.items()} == {name: job.task for name, job in JOBS.items()}
    assert (entries["expire_holds"]["options"], entries["verify"]["options"]) == ({"expires": 10.0}, {"expires": 60.0})


def test_beat_finds_a_slot_due_once() -> None:
    at = NOON
    slots = Slots(Job("tests.nothing", MINUTE, at=20 * SECOND), nowfun=lambda: at)
    assert slots.is_due(NOON) == (False, 20.0)
    at = NOON + 25 * SECOND
    assert slots.is_due(NOON) == (True, 55.0)
    assert slots.is_due(at) == (False, 55.0)
    assert (slots.remaining_estimate(NOON), slots.remaining_estimate(at)) == (timedelta(0), 55 * SECOND)
    # What another process noted by a clock that was an hour ahead.
    assert slots.is_due(NOON + HOUR).is_due


def test_beat_remembers_slots_between_its_runs() -> None:
    slots = app.conf.beat_schedule["verify"]["schedule"]
    again = pickle.loads(pickle.dumps(slots))
    assert again == slots
    assert again != app.conf.beat_schedule["seal_ledger"]["schedule"]
    assert again.now().tzinfo is UTC


def test_every_task_of_the_product_has_its_queue_and_its_limits() -> None:
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if not name.startswith(("celery.", "tests."))}
    assert ours == schedule.tasks().keys()
    assert not WOKEN.keys() & {job.task for job in JOBS.values()}
    for name, (queue, limits) in schedule.tasks().items():
        assert app.amqp.router.route({}, name)["queue"].name == queue == schedule.queue_of(name)
        assert app.tasks[name].soft_time_limit == limits.soft.total_seconds()
        assert app.tasks[name].time_limit == limits.hard.total_seconds()
        assert limits.soft < limits.hard
    assert {queue for queue, _ in schedule.tasks().values()} == set(LIMITS) == {MONEY, BULK}
    assert app.tasks["metering.tasks.archive_months"].time_limit == 21_600


def test_a_task_that_nobody_listed_is_refused() -> None:
    with pytest.raises(LookupError, match=r"core/schedule.py"):
        schedule.queue_of("billing.tasks.unheard_of")


def test_no_task_is_handed_out_again_while_it_runs_and_a_dead_worker_loses_none() -> None:
    assert app.conf.broker_transport_options["visibility_timeout"] == 21_900
    # Whoever publishes tries twice at once and leaves the rest to the sweep: kombu's own patience is six seconds.
    assert app.conf.broker_transport_options["max_retries"] == 1
    assert app.conf.task_acks_late is True
    assert app.conf.task_reject_on_worker_lost is True
    assert app.conf.worker_prefetch_multiplier == 1
