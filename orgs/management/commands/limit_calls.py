"""Say how much a key or an organization may ask of the gateway."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.errors import ApiError
from orgs import audit, ratelimits
from orgs.ratelimits import Limits


class Command(BaseCommand):
    """``manage.py limit_calls --organization SLUG --requests 600``: what is not named is without a limit."""

    help = "Set the limits of an organization or of a key; those that are not named end."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose limits, and which."""
        subject = parser.add_mutually_exclusive_group(required=True)
        subject.add_argument("--organization", default="", metavar="SLUG")
        subject.add_argument("--key", default="", metavar="KEY_ID", help="key_…")
        parser.add_argument("--requests", type=int, help="requests a minute")
        parser.add_argument("--tokens", type=int, help="tokens a minute")
        parser.add_argument("--concurrency", type=int, help="calls at once")

    def handle(self, *args: Any, **options: Any) -> None:
        """Set them or say what is wrong with the wish."""
        limits = Limits(options["requests"], options["tokens"], options["concurrency"])
        try:
            subject = ratelimits.find_subject(organization=options["organization"], api_key=options["key"])
            ratelimits.put(subject=subject, limits=limits, by=audit.system("limit_calls"))
        except ApiError as error:
            raise CommandError(str(error)) from error
        told = ", ".join(f"{name} {'any' if limit is None else limit}" for name, limit in limits._asdict().items())
        self.stdout.write(f"{subject}: {told}")
