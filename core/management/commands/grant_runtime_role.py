"""``manage.py grant_runtime_role``: let a role run Tollbook without being able to change the books."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core import rights


class Command(BaseCommand):
    """Run by the owner of the tables, after every migration; the role must exist.

    In production two roles share the database. The *owner* migrates, makes months ahead
    (``create_partitions``) and trims; the *runtime role*, named in ``DATABASE_URL`` of web
    servers and workers, gets what ``core.rights`` lists: the books (usage records, the request
    log, transfers, corrections, prices and rules, the audit trail) it may read and append to and
    never change, wallets it may change and never delete, everything else it may write; it may
    define nothing.

    Triggers refuse changes of the books to everybody, the owner too; rights refuse them even where
    a trigger is missing. A runtime role cannot make a month that is missing, so events meeting one
    answer ``failed`` and may be sent again once the owner's ``create_partitions`` has run.

    Running it again is harmless: rights that are no longer listed are taken back.
    """

    help = "Grant an existing role what running Tollbook needs: no DDL, and no change of the books."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The role."""
        parser.add_argument("role")

    def handle(self, *args: Any, **options: Any) -> None:
        """Grant, and tell what."""
        try:
            given = rights.grant(role=options["role"])
        except rights.UnfitRole as error:
            raise CommandError(str(error)) from error
        for table, words in given.items():
            self.stdout.write(f"{table:<32} {', '.join(words)}")
