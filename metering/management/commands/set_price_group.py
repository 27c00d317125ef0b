"""``manage.py set_price_group``: ask for an organization to be put into a price group; a second person does it."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core import errors
from metering import agreements
from orgs import audit
from orgs.models import Organization


class Command(BaseCommand):
    """Ask for another price group."""

    help = "Ask for an organization to pay by a group's rules. A second person grants it at the desk, under Approvals."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Whose, which, why and by whom."""
        parser.add_argument("organization", metavar="SLUG")
        parser.add_argument("group")
        parser.add_argument("--reason", required=True)
        parser.add_argument("--by", required=True, metavar="EMAIL", help="the person who asks")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask, and say so."""
        organization = Organization.objects.filter(slug=options["organization"]).first()
        if organization is None:
            raise CommandError(f"SLUG: No organization {options['organization']}.")
        try:
            asked = agreements.ask_group(
                organization=organization, group=options["group"], reason=options["reason"],
                by=audit.named(options["by"]),
            )  # fmt: skip
        except errors.ApiError as error:
            argument = {"email": "--by: ", "reason": "--reason: ", "group": "group: "}.get(error.param or "", "")
            raise CommandError(f"{argument}{error}") from error
        models = len(agreements.foresee_group(organization, options["group"]).lines)
        told = {"approval": str(asked), "organization": organization.slug, "state": "waiting", "models": models}
        if options["json"]:
            self.stdout.write(json.dumps({**told, "before": organization.price_group, "after": options["group"]}))
            return
        self.stdout.write(
            f"{organization.slug}: {organization.price_group} -> {options['group']}, {models} models change"
        )
        self.stdout.write(f"{asked}: waits for a second person, at the desk under Approvals.")
