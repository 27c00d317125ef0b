"""``manage.py archive_months``: old months go out to files; with ``--drop`` their tables go for good."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from core import money
from metering import archives, partitions


class Command(BaseCommand):
    """Detach and drop are two steps, so that somebody may copy the files elsewhere in between."""

    help = (
        "Take the months before the last USAGE_KEEP_MONTHS out of usage_record and request_log, each to a file in"
        " ARCHIVE_DIR that was read back and found equal to it. Run again, it goes on where it was interrupted."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Only one question."""
        parser.add_argument(
            "--drop",
            action="store_true",
            help="drop the tables of months that were taken out earlier, if their files are what they were",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Take out or drop, and tell. Raises ``CommandError``."""
        keep: int | None = settings.USAGE_KEEP_MONTHS
        if keep is None and not options["drop"]:
            raise CommandError("USAGE_KEEP_MONTHS says how many months stay attached; it is not set.")
        try:
            if options["drop"] or keep is None:
                done = archives.drop(folder=settings.ARCHIVE_DIR)
            else:
                done = archives.archive(folder=settings.ARCHIVE_DIR, keep_months=keep)
        except (archives.BadArchive, OSError, Error) as error:
            raise CommandError(str(error)) from error
        for one in done:
            self.stdout.write(
                f"{partitions.name(one.book, one.month)}: {one.rows} rows, {money.plain(one.cost_usd)} USD,"
                f" {'dropped, is in' if options['drop'] else 'taken out to'} {settings.ARCHIVE_DIR / one.file}"
            )
        if not done:
            self.stdout.write("Nothing to drop." if options["drop"] else "No month is due.")
