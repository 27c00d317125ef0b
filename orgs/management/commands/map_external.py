"""Say whom an id of another system stands for."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core import ids
from core.errors import ApiError
from orgs import audit, externals
from orgs.models import ExternalId


class Command(BaseCommand):
    """``manage.py map_external KIND VALUE --organization SLUG``: or ``--user``, ``--key`` or ``--forget``."""

    help = "Map an id that a proxy reports (a key's hash, a user, a team, an organization) to whom we charge for it."

    def add_arguments(self, parser: CommandParser) -> None:
        """One id, and one of ours that it stands for."""
        parser.add_argument("kind", choices=ExternalId.Kind.values, help="what it is there")
        parser.add_argument("value", help="the id there; of a key its hash, never the key")
        target = parser.add_mutually_exclusive_group(required=True)
        target.add_argument("--organization", default="", metavar="SLUG", help="the organization that pays")
        target.add_argument("--user", default="", metavar="EMAIL", help="a person here")
        target.add_argument("--key", default="", metavar="KEY_ID", help="a customer's key here: key_…")
        target.add_argument("--forget", action="store_true", help="it stands for nobody any more")
        parser.add_argument("--reporter", default="", metavar="KEY_ID", help="only for what this service key reports")
        parser.add_argument("--json", action="store_true", help="answer as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Map it or say what is wrong with the wish."""
        kind, value, by = options["kind"], options["value"], audit.system("map_external")
        try:
            if options["forget"]:
                row = externals.find_shown(kind=kind, value=value, reporter=options["reporter"])
                externals.drop(external_id=row.pk, by=by)
            else:
                row = externals.put_shown(
                    kind=kind,
                    value=value,
                    by=by,
                    organization=options["organization"],
                    user=options["user"],
                    api_key=options["key"],
                    reporter=options["reporter"],
                )
        except ApiError as error:
            raise CommandError(str(error)) from error
        done = "forgotten" if options["forget"] else "mapped"
        if options["json"]:
            self.stdout.write(json.dumps({"external_id": ids.show("ext", row.pk), "status": done}))
        else:
            self.stdout.write(f"{done}: {row}")
