"""``manage.py distribute``: spread the tables over a Citus cluster by organization."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from billing import distribution
from core.supervisor import one_line


class Command(BaseCommand):
    """Run by the owner of the tables on the coordinator, after migrating; docs/scaling.md says how.

    A database without the Citus extension is left as it is. Running it again is harmless: it goes on where it
    was broken off, and moves what a later migration added. Restart the processes afterwards, for they
    look once whether the tables are distributed.
    """

    help = "Distribute the tables over a Citus cluster by organization; does nothing without the extension."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How finely, and whether to tell only."""
        parser.add_argument(
            "--shards",
            type=int,
            default=distribution.SHARDS,
            metavar="N",
            help=f"shards of each table, fixed from then on (default: {distribution.SHARDS})",
        )
        parser.add_argument(
            "--sql", action="store_true", help="print the statements that are left to do, and do nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Distribute, and tell each statement before it runs."""
        shards = options["shards"]
        if not 0 < shards <= distribution.SHARDS_MAX:
            raise CommandError(f"--shards should be 1 to {distribution.SHARDS_MAX}, not {shards}")
        try:
            if options["sql"]:
                for step in distribution.plan(shards=shards):
                    self.stdout.write(told(step))
                return
            if not distribution.available():
                self.stdout.write("nothing to distribute: this database has no Citus extension")
                return
            done = distribution.distribute(shards=shards, tell=self.stdout.write)
        except distribution.Unready as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(f"not distributed to the end, run it again: {one_line(error)}") from error
        self.stdout.write("distributed; restart the processes" if done else "all tables are where they should be")


def told(step: distribution.Step) -> str:
    """A step as a script for ``psql``."""
    statements = step if len(step) == 1 else ("BEGIN", *step, "COMMIT")
    return "".join(f"{statement};\n" for statement in statements).rstrip("\n")
