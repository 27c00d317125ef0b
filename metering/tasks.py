"""Metering's jobs: each wakes up, calls one verb, and notes how it went."""

from datetime import timedelta

from celery import shared_task
from django.conf import settings

from core import clock
from metering import archives, horizon, partitions, pricebook, rollups
from ops import jobs
from orgs.audit import system

# A run ends before its task is ended for taking too long, and before the next one begins.
TRIM_RUN = timedelta(minutes=8)
NOT_OURS = "left to the owner of the tables"


@shared_task
def create_partitions() -> str:
    """Make the months ahead that are missing."""

    def work() -> str:
        made = partitions.ensure()
        return f"made {', '.join(made) or 'none'}: months for {partitions.runway()} days"

    return jobs.run("partitions", work)


@shared_task
def trim_claims() -> str:
    """Forget claims that no event can meet any more, and announce which go next."""

    def work() -> str:
        if not partitions.are_ours():
            return f"{NOT_OURS}: manage.py trim_claims"
        done = horizon.trim(until=clock.now() + TRIM_RUN)
        return f"forgot {done.forgotten}; what happened before {done.horizon.isoformat()} is accepted no more"

    return jobs.run("trim_claims", work)


@shared_task
def archive_months() -> str:
    """Take old months out to files, if the house keeps only some attached."""

    def work() -> str:
        keep = settings.USAGE_KEEP_MONTHS
        if keep is None:
            return "off: USAGE_KEEP_MONTHS is not set"
        if not partitions.are_ours():
            return f"{NOT_OURS}: manage.py archive_months"
        try:
            return archives.told(archives.archive(folder=settings.ARCHIVE_DIR, keep_months=keep))
        except archives.Busy as busy:
            # The broker hands a long task out again while it still runs.
            return str(busy)

    return jobs.run("archive_months", work)


@shared_task
def publish_prices() -> str:
    """Publish the scheduled drafts that are due and approved."""

    def work() -> str:
        return f"published {len(pricebook.publish_due(by=system('schedule')))} drafts"

    return jobs.run("publish_prices", work)


@shared_task
def fold_rollups() -> str:
    """Fold the usage that is final by now."""

    def work() -> str:
        until, steps = rollups.fold()
        return "another run is at it" if until is None else f"folded until {until:%Y-%m-%d %H:%M} in {steps} steps"

    return jobs.run("fold_rollups", work)
