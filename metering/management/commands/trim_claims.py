"""``manage.py trim_claims``: forget the claims that no event can meet any more."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core import clock
from metering import horizon, partitions

RUN = timedelta(hours=6)


class Command(BaseCommand):
    """What the schedule does in a day of hourly runs, for an owner whose schedule runs under a role that may not."""

    help = (
        "Delete the claims that were announced at least ten minutes ago, a few pages a transaction, and announce"
        " those that are older than CLAIM_KEEP_DAYS now."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Trim, announce, tell. Raises ``CommandError`` for a role that may not."""
        if not partitions.are_ours():
            raise CommandError("Claims are trimmed by the owner of the tables; DATABASE_URL names another role.")
        done = horizon.trim(until=clock.now() + RUN, runs=1)
        self.stdout.write(
            f"Forgot {done.forgotten} claims. What happened before {done.horizon.isoformat()} is accepted no more."
        )
