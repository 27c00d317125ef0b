"""The machinery's own jobs: each wakes up, calls one verb, and notes how it went."""

from celery import shared_task

from ops import idempotency, jobs


@shared_task
def trim_idempotency_keys() -> str:
    """Forget the answers that nobody may ask for again."""
    return jobs.run("trim_idempotency_keys", lambda: f"forgot {idempotency.trim()}")
