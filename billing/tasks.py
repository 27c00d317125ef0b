"""Billing's jobs: each wakes up, calls one verb, and notes how it went."""

from celery import shared_task

from billing import releases
from ops import jobs


@shared_task
def release_quarantine() -> str:
    """Charge quarantined events that have become chargeable."""

    def work() -> str:
        done = releases.release()
        return f"charged {done.charged}, {done.left} still wait"

    return jobs.run("release_quarantine", work)
