"""``manage.py verify``: every invariant of the books, and of what guards them."""

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import invariants, seals
from billing.invariants import EVERYTHING, heads


class Command(BaseCommand):
    """Read-only; exit status 1 if an invariant fails."""

    help = (
        "Check every invariant of the books: what is new since the last sealed day, or everything."
        " Reads only and runs beside a live system."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How far back, against which heads, and output for machines."""
        parser.add_argument("--json", action="store_true")
        part = parser.add_mutually_exclusive_group()
        part.add_argument("--full", action="store_true", help="from the first transfer and record on")
        part.add_argument("--day", type=_day, help="the records of one day (UTC), such as 2026-11-21")
        parser.add_argument("--heads", type=Path, metavar="FILE", help="also hold the books against exported heads")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check, tell, exit. Raises ``CommandError`` for a file that is no export."""
        try:
            exported = () if options["heads"] is None else heads.against(heads.read(options["heads"]))
        except heads.BadHeads as error:
            raise CommandError(str(error)) from error
        if options["full"]:
            scope = EVERYTHING
        elif options["day"] is not None:
            scope = seals.of_day(options["day"])
        else:
            scope = seals.since_last()
        findings = invariants.check(scope, server=True, more=exported)
        good = all(finding.ok for finding in findings)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": good, "checks": [finding._asdict() for finding in findings]}))
        else:
            for finding in findings:
                told = f"ok     {finding.seen:>12} seen" if finding.ok else "BROKEN"
                told += f" {finding.detail}" if finding.detail else ""
                self.stdout.write(f"{finding.name:<34} {told}")
        if not good:
            sys.exit(1)


def _day(text: str) -> date:
    """A day as argparse wants it."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no day such as 2026-11-21") from error
