"""The machinery's jobs note what they did, and beat knows them."""

from core.celery import app
from ops import tasks
from ops.models import JobRun
from tests.books import Books


def test_trimming_says_how_many_answers_it_forgot(books: Books) -> None:
    assert tasks.trim_idempotency_keys() == "forgot 0"
    run = JobRun.objects.get(name="trim_idempotency_keys")
    assert (run.ok, run.result) == (True, "forgot 0")


def test_the_jobs_of_telling_others_say_what_they_did(books: Books) -> None:
    assert tasks.deliver_webhooks() == "handed on 0, sent 0, failed 0, canceled 0"
    assert tasks.deliver_to_failing() == "sent 0, failed 0, canceled 0"
    assert tasks.send_mails() == "sent 0, again later 0, given up 0"
    assert tasks.trim_messages() == "forgot 0 deliveries, 0 messages, 0 mails"
    assert JobRun.objects.filter(ok=True).count() == 4
    for job in ("deliver_webhooks", "deliver_to_failing", "send_mails", "trim_messages"):
        assert app.conf.beat_schedule[job]["task"] == f"ops.tasks.{job}"


def test_beat_wakes_it_by_its_name() -> None:
    assert app.conf.beat_schedule["trim_idempotency_keys"]["task"] == tasks.trim_idempotency_keys.name
