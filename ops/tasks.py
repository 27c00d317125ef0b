"""The machinery's own jobs: each wakes up, calls one verb, and notes how it went."""

from celery import shared_task

from ops import idempotency, jobs


@shared_task
def sweep() -> str:
    """Wake what is due and has not run."""
    return jobs.run("sweep", lambda: f"woke {', '.join(jobs.sweep()) or 'none'}")


@shared_task
def trim_job_periods() -> str:
    """Forget periods of jobs that are long over."""
    return jobs.run("trim_job_periods", lambda: f"forgot {jobs.trim()}")


@shared_task
def trim_idempotency_keys() -> str:
    """Forget the answers that nobody may ask for again."""
    return jobs.run("trim_idempotency_keys", lambda: f"forgot {idempotency.trim()}")
