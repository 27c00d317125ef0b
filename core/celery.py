"""The Celery application. Its messages only wake workers: what there is to do is in the database."""

import logging
import os
import time
from datetime import datetime, timedelta
from typing import Any

from celery import Celery, signals
from celery.schedules import BaseSchedule, schedstate

from core import clock
from core.schedule import JOBS, LIMITS, MONEY, Job, tasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

_STARTED = clock.now()
_STARTED_MONOTONIC = time.monotonic()


def _beats_clock() -> datetime:
    """A clock that nobody sets: beat would wait for an hour that is turned back to be over."""
    return _STARTED + timedelta(seconds=time.monotonic() - _STARTED_MONOTONIC)


class Slots(BaseSchedule):
    """When beat wakes a job: as each of its slots begins (``core.schedule``)."""

    def __init__(self, job: Job, nowfun: Any = None, app: Celery | None = None) -> None:
        super().__init__(nowfun=nowfun or _beats_clock, app=app)
        self.job = job

    def is_due(self, last_run_at: datetime) -> Any:
        """Whether a slot has begun since, and how many seconds until the next one does."""
        now = self.now()
        slot = self.job.slot(now)
        # A time that lies ahead was noted by another clock.
        due = last_run_at < slot or last_run_at > now + self.job.every
        return schedstate(due, (slot + self.job.every - now).total_seconds())

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until it is due."""
        is_due, seconds = self.is_due(last_run_at)
        return timedelta(0) if is_due else timedelta(seconds=seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slots) and other.job == self.job

    def __hash__(self) -> int:
        return hash(self.job)

    def __reduce__(self) -> Any:
        """Without its clock: another process keeps its own."""
        return Slots, (self.job,)

    def __repr__(self) -> str:
        return f"<slots of {self.job.every} at {self.job.at}>"


@signals.setup_logging.connect
def keep_logging(*, loglevel: int, **_: Any) -> None:
    """Leave logging as the settings have it, whose handlers redact: Celery would put its own in their place."""
    logging.getLogger().setLevel(loglevel)


app = Celery("tollbook")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    # What runs every few seconds is not saved up while no worker takes it: the next run finds it all.
    name: {"task": job.task, "schedule": Slots(job), "options": {"expires": job.expires.total_seconds()}}
    for name, job in JOBS.items()
}
app.conf.task_default_queue = MONEY
app.conf.task_routes = {task: {"queue": queue} for task, (queue, _) in tasks().items()}
app.conf.task_annotations = {
    task: {"soft_time_limit": limits.soft.total_seconds(), "time_limit": limits.hard.total_seconds()}
    for task, (_, limits) in tasks().items()
}
# A worker that is told nothing takes from all of them.
app.conf.task_queues = {name: {"exchange": name, "routing_key": name} for name in LIMITS}
