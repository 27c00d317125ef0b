"""Jobs with the real worker, beat and broker: what was due is done, whatever is lost or killed on the way."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import kombu

from billing import rerating
from billing.models import Rerating, ReratingShare
from core import clock
from core.celery import app
from ops import jobs
from tests import worker
from tests.billing import history
from tests.billing.invariants.fortunes import give
from tests.billing.test_holds import place
from tests.billing.world import assert_sound, charge, organizations, rows
from tests.books import Books
from tests.metering.world import event
from tests.orgs.world import BY
from tests.proofs import proves

ORGANIZATIONS = 30
FOUND = ("sweep", "release_quarantine", "apply_reratings", "trim_ceilings")
# Within so many looks of the sweep everything must be done.
SWEEPS = 8
POLL_SECONDS = 0.02


def furnish() -> None:
    """Organizations of whom each has something for every job: credit that ended, an overdue hold, quarantined usage."""
    owners = organizations(ORGANIZATIONS, usd="1")
    for owner in owners:
        give(owner, "0.5", "ending", expires_at=clock.now() + timedelta(days=1))
        place(owner, "0.25")
        charge(owner, event(event_id="late", model="late-1"))
    rows(
        "UPDATE credit_grant SET effective_at = now() - interval '2 hours', expires_at = now() - interval '1 second'"
        " WHERE reference = 'ending'"
    )
    rows("UPDATE wallet SET next_change = now() - interval '1 second'")
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 second'")
    # 1,000 tokens come to 0.0025 USD.
    history.publish(history.entry("late-1", (clock.now() - timedelta(days=3), None, "2.5")))
    now = clock.now()
    act = Rerating.objects.create(start=now, end=now, reason="late", actor="ada", state=Rerating.State.PLANNED)
    ReratingShare.objects.bulk_create(ReratingShare(rerating=act, organization=owner) for owner in owners)
    rerating.begin(act, by=BY)


def books_say() -> dict[str, list[tuple[object, ...]]]:
    """What the jobs must come to, in a few figures."""
    return {
        "wallets": rows("SELECT posted_usd, held_usd, spent_usd, count(*) FROM wallet GROUP BY 1, 2, 3"),
        "holds": rows("SELECT state, count(*) FROM hold GROUP BY 1"),
        "records": rows("SELECT cost_usd, count(*) FROM usage_record GROUP BY 1"),
        "quarantine": rows("SELECT count(*) FROM quarantine WHERE resolved_at IS NULL"),
        "transfers": rows("SELECT kind, amount_usd, count(*) FROM transfer GROUP BY 1, 2 ORDER BY 1, 2"),
        "reratings": rows("SELECT state FROM rerating"),
    }


def swept() -> int:
    """When the sweep last began, in whole seconds: it looks once a second."""
    found = rows("SELECT extract(epoch FROM max(period))::int FROM job_run WHERE name = 'sweep' AND state = 'done'")
    return found[0][0] or 0


def await_fact(fact: Callable[[], bool], *, sweeps: int = SWEEPS) -> None:
    """Wait for it. Raises ``AssertionError`` once the sweep has looked so many times and it is still none."""
    end = time.monotonic() + worker.READY_SECONDS
    looks: set[int] = set()
    while not fact():
        looks.add(swept())
        assert len(looks) <= sweeps, f"not done after {sweeps} sweeps"
        assert time.monotonic() < end, "nothing is swept"
        time.sleep(POLL_SECONDS)


def stopped(working: worker.Worker) -> int | None:
    """A process of the worker that has stopped where it was told to."""
    for pid in working.children():
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return pid
    return None


def empty(broker_url: str) -> None:
    """Lose everything that the broker has."""
    with kombu.Connection(broker_url) as broker:
        channel: Any = broker.default_channel
        channel.client.flushall()


@proves("J02", guard="what_is_due_is_swept")
def test_a_broker_that_is_emptied_and_workers_that_are_killed_in_the_middle_of_everything_change_nothing(
    books: Books, tmp_path: Path, disabled_guard: str | None
) -> None:
    furnish()
    with worker.running(
        folder=tmp_path, url=books.url, without=disabled_guard, found=FOUND, failpoint="release.after_claims:stop"
    ) as working:
        working.await_work()
        # One is in the middle of charging what was quarantined, and has committed none of it.
        await_fact(lambda: stopped(working) is not None)
        child = stopped(working)
        assert child is not None
        empty(working.broker.url())
        os.kill(child, signal.SIGKILL)
        empty(working.broker.url())
        working.kill9()
        assert rows("SELECT state FROM job_run WHERE name = 'release_quarantine'") == [("running",)]
        working.launch()
        working.await_work()
        empty(working.broker.url())
        await_fact(partial(all_done, FOUND))
    assert books_say() == {
        # A dollar less what was quarantined; the hold and the half dollar are over.
        "wallets": [(Decimal("0.9975"), 0, Decimal("0.0025"), 30)],
        "holds": [("expired", 30)],
        "records": [(Decimal("0.0025"), 30)],
        "quarantine": [(0,)],
        "transfers": [
            ("charge", Decimal("0.0025"), 30), ("expiry", Decimal("0.5"), 30), ("grant", Decimal("0.5"), 30),
            ("grant", Decimal(1), 30),
        ],
        "reratings": [("applied",)],
    }  # fmt: skip
    assert_sound()


def all_done(names: tuple[str, ...]) -> bool:
    """Whether each of these jobs has done a period."""
    found = rows("SELECT count(*) FROM job_run WHERE name = ANY(%s) AND done_period IS NOT NULL", list(names))
    return bool(found[0][0] == len(names))


def test_a_worker_that_is_woken_after_a_commit_runs_a_job_between_its_slots_and_outlives_its_broker(
    books: Books, tmp_path: Path
) -> None:
    with worker.running(folder=tmp_path, url=books.url, found=FOUND) as working:
        working.await_work()
        await_fact(partial(all_done, FOUND))
        began = rows("SELECT started_at, period FROM job_run WHERE name = 'trim_ceilings'")
        with (
            kombu.Connection(working.broker.url()) as broker,
            mock.patch.object(app, "send_task", partial(app.send_task, connection=broker)),
        ):
            jobs.wake("billing.tasks.trim_ceilings")
        await_fact(lambda: rows("SELECT started_at, period FROM job_run WHERE name = 'trim_ceilings'") != began)
        assert rows("SELECT period FROM job_run WHERE name = 'trim_ceilings'") == [(began[0][1],)]
        # A broker that dies and comes back empty is found again.
        assert working.broker.process is not None
        working.broker.process.kill()
        working.broker.stop()
        working.broker.start()
        before = swept()
        await_fact(lambda: swept() > before)
