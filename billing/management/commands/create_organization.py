"""``manage.py create_organization``: an organization with its owner, a customer key and perhaps credit."""

import json
from argparse import ArgumentParser
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from billing import grants
from core import errors, ids, money
from orgs import keys, organizations, permissions
from orgs.audit import system
from orgs.models import Kind


def _amount(text: str) -> Decimal:
    amount = money.parse(text)
    if amount < 0:
        raise ValueError("an amount is at least 0")
    return amount


class Command(BaseCommand):
    """Make an organization that can be called for at once."""

    help = "Create an organization, its owner if new, and a customer key; the key is shown once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Who, whose, how much."""
        parser.add_argument("slug")
        parser.add_argument("--owner", required=True, metavar="EMAIL")
        parser.add_argument("--name", default="")
        parser.add_argument("--time-zone", default="UTC")
        parser.add_argument("--grant-usd", type=_amount, default=Decimal(0), metavar="N")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """All of it in one transaction."""
        by = system("create_organization")
        try:
            with transaction.atomic():
                owner = organizations.ensure_user(options["owner"], by=by)
                organization = organizations.create(
                    slug=options["slug"], owner=owner, by=by, name=options["name"], time_zone=options["time_zone"]
                )
                issued = keys.issue(
                    kind=Kind.ORGANIZATION,
                    name="first key",
                    by=by,
                    organization=organization,
                    scopes=sorted(permissions.MANAGE),
                )
                if options["grant_usd"]:
                    grants.promote(
                        organization_id=organization.pk,
                        amount_usd=options["grant_usd"],
                        reference=f"created:{organization.slug}",
                        actor=by.label,
                        reason="granted at creation",
                    )
        except errors.ApiError as error:
            raise CommandError(str(error)) from error
        made = {
            "organization": organization.slug,
            "customer_key": issued.secret,
            "api_key_id": ids.show("key", issued.key.pk),
            "owner": owner.email,
        }
        if options["json"]:
            self.stdout.write(json.dumps(made))
        else:
            for name, value in made.items():
                self.stdout.write(f"{name}: {value}")
