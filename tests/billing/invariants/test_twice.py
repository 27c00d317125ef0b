"""Every scheduled job delivered twice at the same time: one run, and one effect where both run all the same."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest

from core import clock, failpoints
from core.celery import app
from core.schedule import JOBS
from ops import jobs
from tests.billing import history
from tests.billing.corruption import broken
from tests.billing.world import rows
from tests.books import Books
from tests.clocks import standing_still
from tests.database import Server
from tests.proofs import proves

# How far the clock moves, so that there is something to do: holds and grants end, usage becomes final.
LATER = timedelta(hours=80)
# Rows of the machinery itself, which tell how often something ran; and digests of what has ids of its own.
UNTOLD = {"job_run", "job_period", "check_run", "django_migrations", "django_content_type", "auth_permission"}
# What two runs of one story may differ in: what was made by chance, and what follows from it. Nor are times compared,
# which some clock went on to make, but those that say what a row is about.
BY_CHANCE = {"id", "digest", "head", "token"}
TIMES = {"bucket", "ends_at", "expires_at", "folded_until", "start", "end", "starts_at"}
UNLIKE = {"DateTimeField", "ForeignKey", "UUIDField"}


def deliver(name: str) -> Any:
    """Run a job's task as a worker does."""
    return app.tasks[JOBS[name].task].apply(throw=True).get()


@contextmanager
def later(books: Books, folder: Path, *, at: datetime) -> Iterator[None]:
    """At an instant in the future of these books, with a folder for what goes to files."""
    from django.test import override_settings

    with standing_still(books) as own, override_settings(LEDGER_HEADS_DIR=folder, USAGE_KEEP_MONTHS=None):
        own.move(at - own.at)
        app.loader.import_default_modules()
        yield


@pytest.mark.one_database
@proves("J03", guard="periods_are_begun_once")
def test_every_task_that_is_delivered_twice_at_once_runs_once(past: Books, tmp_path: Path) -> None:
    ran: Counter[str] = Counter()
    with later(past, tmp_path, at=clock.now() + LATER):
        for name in JOBS:
            with failpoints.armed("job.after_claim", partial(ran.update, [name])):
                past.together([partial(deliver, name)] * 2)
    assert ran == dict.fromkeys(JOBS, 1)


@contextmanager
def unclaimed() -> Iterator[None]:
    """Whoever is woken runs."""

    def claim(name: str, job: Any) -> jobs._Turn:
        return jobs._Turn(name, uuid4(), jobs.now(), 1, jobs.now())

    with mock.patch.object(jobs, "_claim", claim):
        yield


def effect() -> dict[str, Counter[tuple[Any, ...]]]:
    """All that the books hold, row by row, without what was made by chance."""
    from django.apps import apps

    found: dict[str, Counter[tuple[Any, ...]]] = {}
    for model in apps.get_models(include_auto_created=True):
        table = model._meta.db_table
        if table in UNTOLD:
            continue
        columns = [
            str(field.column)
            for field in model._meta.concrete_fields
            if field.column in TIMES or (field.column not in BY_CHANCE and field.get_internal_type() not in UNLIKE)
        ]
        if columns:
            quoted = ", ".join(f'"{column}"::text' for column in columns)
            found[table] = Counter(rows(f"SELECT {quoted} FROM {table}"))
        else:
            found[table] = Counter(rows(f"SELECT '' FROM {table}"))
    return found


@pytest.mark.one_database
def test_where_both_deliveries_of_every_task_run_the_effect_is_that_of_one(
    furnished: Server, django_db_blocker: Any, tmp_path: Path
) -> None:
    found = []
    at = clock.now() + LATER
    with django_db_blocker.unblock():
        for folder, times in (("once", 1), ("twice", 2)):
            (tmp_path / folder).mkdir()
            with ExitStack() as stack:
                books = stack.enter_context(history.opened(furnished))
                stack.enter_context(later(books, tmp_path / folder, at=at))
                before = effect()
                with unclaimed():
                    for name in JOBS:
                        books.together([partial(deliver, name)] * times)
                found.append(effect())
                assert broken() == {}
    once, twice = found
    changed = {table for table in once if once[table] != before[table]}
    assert changed >= {"hold", "wallet", "transfer", "usage_rollup", "ledger_head"}
    for table in once:
        assert twice[table] == once[table], table
