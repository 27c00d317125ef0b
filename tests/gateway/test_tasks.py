"""The gateway's jobs run, say what they did, and are scheduled."""

from typing import Any

import pytest

from core.celery import app
from gateway import tasks
from ops.models import JobRun
from tests.books import Books


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [(tasks.note_lost_calls, "note_lost_calls", "noted 0"), (tasks.trim_call_keys, "trim_call_keys", "forgot 0")],
)
def test_a_job_notes_how_it_went(books: Books, task: Any, name: str, said: str) -> None:
    assert task() == said
    run = JobRun.objects.get(name=name)
    assert (run.ok, run.result) == (True, said)
    assert app.conf.beat_schedule[name]["task"] == f"gateway.tasks.{name}"
