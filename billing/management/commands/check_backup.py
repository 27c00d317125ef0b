"""``manage.py check_backup``: whether a dump can be restored, and is sound."""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from billing import backups
from billing.invariants import heads


class Command(BaseCommand):
    """Changes nothing in the books; exit status 1 if the copy is not sound."""

    help = "Restore a dump into a database of its own, run every check of verify there, and drop it again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which dump, and against which heads."""
        parser.add_argument("dump", type=Path, help="made by pg_dump --format=custom")
        parser.add_argument(
            "--heads", type=Path, metavar="FILE", help="exported heads that the copy must not lie behind"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Restore, check, tell, exit. Raises ``CommandError``."""
        try:
            exported = [] if options["heads"] is None else heads.read(options["heads"])
            findings = backups.check(options["dump"], exported=exported)
        except (heads.BadHeads, backups.BadBackup, DatabaseError) as error:
            raise CommandError(str(error).strip().splitlines()[0]) from error
        broken = [finding for finding in findings if not finding.ok]
        for finding in broken:
            self.stdout.write(f"{finding.name:<34} BROKEN {finding.detail}")
        self.stdout.write(
            f"{options['dump']}: restored; {len(findings) - len(broken)} of {len(findings)} checks passed"
        )
        if broken:
            sys.exit(1)
