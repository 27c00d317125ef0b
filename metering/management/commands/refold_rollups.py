"""``manage.py refold_rollups``: count quarters of an hour again where records came or went behind the mark."""

from argparse import ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from core import clock
from metering import rollups


class Command(BaseCommand):
    """What ``verify`` (V13) asks for after a clock went back or a table was repaired by hand."""

    help = "Count the rollups of a time again from its records, and replace them."

    def add_arguments(self, parser: CommandParser) -> None:
        """From when, and until when."""
        parser.add_argument("--since", type=_instant, required=True, metavar="TIME", help="RFC 3339 with a zone")
        parser.add_argument("--until", type=_instant, default=None, metavar="TIME", help="now if absent")

    def handle(self, *args: Any, **options: Any) -> None:
        """Whoever reads meanwhile sees each quarter as it was or as it is."""
        counted = rollups.refold(start=options["since"], end=options["until"] or clock.now())
        self.stdout.write(f"{counted} quarters of an hour were counted again")


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text} is no time like 2026-11-01T00:00:00Z") from error
    if at.tzinfo is None:
        raise ArgumentTypeError(f"{text} has no zone")
    return at
