"""Billing's jobs note what they did."""

import os
import signal
from datetime import timedelta
from unittest import mock

import pytest

from billing import tasks
from billing.models import Rerating, ReratingShare
from core import clock, schedule
from core.celery import app
from ops import jobs
from ops.models import JobRun
from tests.billing import world
from tests.billing.invariants.fortunes import give
from tests.books import Books
from tests.clocks import age
from tests.nursery import Nursery, wait_until_stopped
from tests.proofs import proves


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


@proves("J04", guard="what_is_due_is_swept")
def test_what_was_decided_by_a_process_that_died_before_it_could_wake_a_worker_is_done_in_a_minute(
    books: Books, nursery: Nursery
) -> None:
    now = clock.now()
    act = Rerating.objects.create(start=now, end=now, reason="late", actor="ada", state=Rerating.State.PLANNED)
    ReratingShare.objects.create(rerating=act, organization=world.organization("acme"))
    tasks.apply_reratings()
    assert nursery.run("tests.billing.acts:begin_rerating", dies_at="wake.before_send").died
    act.refresh_from_db()
    assert act.state == "applying"
    with mock.patch.object(app, "send_task") as send:
        jobs.sweep()
        assert [call.args[0] for call in send.call_args_list if call.args[0] == tasks.apply_reratings.name] == []
    # As soon as its next slot has begun.
    age(books, "job_run", by=timedelta(minutes=1), where="name = 'apply_reratings'")
    with mock.patch.object(app, "send_task") as send:
        jobs.sweep()
        for call in send.call_args_list:
            if call.args[0] == tasks.apply_reratings.name:
                tasks.apply_reratings.apply(throw=True)
    act.refresh_from_db()
    assert act.state == "applied"


@proves("J12", guard="leases_end")
def test_a_job_whose_process_was_killed_with_its_locks_is_begun_again_and_finds_them_free(
    books: Books, nursery: Nursery
) -> None:
    give(world.organization("acme"), "1", "ending", expires_at=clock.now() + timedelta(days=1))
    world.rows(
        "UPDATE credit_grant SET effective_at = now() - interval '2 hours', expires_at = now() - interval '1 second'"
    )
    world.rows("UPDATE wallet SET next_change = now() - interval '1 second'")
    holder = nursery.start("tests.billing.acts:settle_grants", stops_at="ledger.after_lock")
    wait_until_stopped(holder)
    # It holds the wallet, and the period.
    assert world.rows("SELECT state, attempts FROM job_run") == [("running", 1)]
    assert tasks.settle_grants.apply(throw=True).get() == jobs.NOT_DUE
    os.kill(holder, signal.SIGKILL)
    assert nursery.wait(holder).code == -signal.SIGKILL
    assert tasks.settle_grants.apply(throw=True).get() == jobs.NOT_DUE
    age(books, "job_run", by=schedule.LEASE, columns=("lease_until",))
    assert tasks.settle_grants.apply(throw=True).get() == "touched 1 wallets"
    assert world.rows("SELECT state, attempts FROM job_run") == [("done", 2)]
    assert world.rows("SELECT posted_usd FROM wallet") == [(0,)]


def test_every_scheduled_job_of_billing_exists() -> None:
    names = {entry["task"] for entry in app.conf.beat_schedule.values() if entry["task"].startswith("billing.")}
    assert {"billing.tasks.apply_reratings", "billing.tasks.release_quarantine"} <= names
    assert names <= set(app.tasks)
