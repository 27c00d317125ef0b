"""Metering's jobs: each wakes up, calls one verb, and notes how it went."""

from celery import shared_task

from metering import partitions
from ops import jobs


@shared_task
def create_partitions() -> str:
    """Make the months ahead that are missing."""
    return jobs.run("partitions", lambda: f"made {', '.join(partitions.ensure()) or 'none: all stand'}")
