"""Metering's jobs: each wakes up, calls one verb, and notes how it went."""

from celery import shared_task

from metering import partitions, pricebook
from ops import jobs
from orgs.audit import system


@shared_task
def create_partitions() -> str:
    """Make the months ahead that are missing."""
    return jobs.run("partitions", lambda: f"made {', '.join(partitions.ensure()) or 'none: all stand'}")


@shared_task
def publish_prices() -> str:
    """Publish the scheduled drafts that are due and approved."""

    def work() -> str:
        return f"published {len(pricebook.publish_due(by=system('schedule')))} drafts"

    return jobs.run("publish_prices", work)
