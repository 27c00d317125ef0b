"""``manage.py verify``: every invariant of the books."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from billing import invariants


class Command(BaseCommand):
    """Read-only; exit status 1 if an invariant fails."""

    help = "Check every invariant of the books. Reads only and runs beside a live system."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Output for machines."""
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check, tell, exit."""
        findings = invariants.check()
        good = all(finding.ok for finding in findings)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": good, "checks": [finding._asdict() for finding in findings]}))
        else:
            for finding in findings:
                told = f"ok     {finding.seen:>12} seen" if finding.ok else f"BROKEN {finding.detail}"
                self.stdout.write(f"{finding.name:<34} {told}")
        if not good:
            sys.exit(1)
