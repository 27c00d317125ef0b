"""The machinery's jobs note what they did, and beat knows them."""

from core.celery import app
from ops import tasks
from ops.models import JobRun
from tests.books import Books


def test_trimming_says_how_many_answers_it_forgot(books: Books) -> None:
    assert tasks.trim_idempotency_keys() == "forgot 0"
    run = JobRun.objects.get(name="trim_idempotency_keys")
    assert (run.ok, run.result) == (True, "forgot 0")


def test_beat_wakes_it_by_its_name() -> None:
    assert app.conf.beat_schedule["trim_idempotency_keys"]["task"] == tasks.trim_idempotency_keys.name
