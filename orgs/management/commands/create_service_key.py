"""Make a key for a gateway."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core import ids
from core.errors import ApiError
from orgs import audit, keys, organizations, permissions
from orgs.models import Kind


class Command(BaseCommand):
    """``manage.py create_service_key NAME --scopes …``: a gateway's key, its secret shown once."""

    help = "Make a key for a gateway and show its secret, once."

    def add_arguments(self, parser: CommandParser) -> None:
        """As the operating contract lists them."""
        known = ", ".join(sorted(permissions.SERVICE_SCOPES))
        parser.add_argument("name", help="what the key is for")
        parser.add_argument("--scopes", nargs="+", required=True, help=f"what it may do: {known}")
        parser.add_argument("--organizations", nargs="+", default=[], metavar="SLUG", help="limit it to these")
        parser.add_argument("--cidrs", nargs="+", default=[], metavar="CIDR", help="limit it to these networks")
        parser.add_argument(
            "--trust-client-header",
            action="store_true",
            help="its proxy has checked the X-DeepToken-Org header of its own clients",
        )
        parser.add_argument("--json", action="store_true", help="answer as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Issue the key or say what is wrong with the wish."""
        slugs = _words(options["organizations"])
        found = organizations.find_slugs(slugs)
        if missing := [slug for slug in slugs if slug not in found]:
            raise CommandError(f"There is no organization {missing[0]}.")
        try:
            issued = keys.issue(
                kind=Kind.SERVICE,
                name=options["name"],
                by=audit.system("create_service_key"),
                scopes=_words(options["scopes"]),
                organizations=[found[slug].id for slug in slugs],
                cidrs=_words(options["cidrs"]),
                trust_client_header=options["trust_client_header"],
            )
        except ApiError as error:
            raise CommandError(str(error)) from error
        key_id = ids.show("key", issued.key.pk)
        if options["json"]:
            self.stdout.write(json.dumps({"service_key": issued.secret, "api_key_id": key_id}))
        else:
            self.stdout.write(f"{key_id}\n{issued.secret}\nThe second line is the secret; it is not shown again.")


def _words(values: list[str]) -> list[str]:
    """Words that stood apart or with commas between."""
    return [word for value in values for word in value.split(",") if word]
