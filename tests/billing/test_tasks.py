"""Billing's jobs note what they did."""

from datetime import timedelta

import pytest

from billing import tasks
from billing.models import Rerating, ReratingShare
from core import clock
from core.celery import app
from ops.models import JobRun
from tests.billing import world
from tests.books import Books


def test_the_sweep_of_the_quarantine_says_what_it_charged(books: Books) -> None:
    assert tasks.release_quarantine() == "charged 0, 0 still wait"
    run = JobRun.objects.get(name="release_quarantine")
    assert (run.ok, run.result) == (True, "charged 0, 0 still wait")


def test_the_job_of_reratings_says_how_many_still_go_on(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now()
    act = Rerating.objects.create(start=now, end=now, reason="late", actor="ada", state=Rerating.State.APPLYING)
    ReratingShare.objects.create(rerating=act, organization=world.organization("acme"))
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "RERATING_RUN", timedelta(0))
        assert tasks.apply_reratings() == "1 acts still go on"
    assert tasks.apply_reratings() == "0 acts still go on"
    assert Rerating.objects.get().state == "applied"
    assert JobRun.objects.get(name="apply_reratings").result == "0 acts still go on"


def test_every_scheduled_job_of_billing_exists() -> None:
    names = {entry["task"] for entry in app.conf.beat_schedule.values() if entry["task"].startswith("billing.")}
    assert {"billing.tasks.apply_reratings", "billing.tasks.release_quarantine"} <= names
    assert names <= set(app.tasks)
