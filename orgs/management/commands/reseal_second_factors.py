"""``manage.py reseal_second_factors``: seal the secrets of authenticator apps under the ``SECRET_KEY`` of now.

After it, no device needs what ``SECRET_KEY_FALLBACKS`` holds any more.
"""

from typing import Any

from django.core.management.base import BaseCommand

from orgs import second_factor
from orgs.audit import system


class Command(BaseCommand):
    """Seal anew what an older key sealed, and what was never sealed."""

    help = "Encrypt the second factors of staff anew under SECRET_KEY, so that SECRET_KEY_FALLBACKS can be emptied."

    def handle(self, *args: Any, **options: Any) -> None:
        """Say how many there were, and how many no key opens: a superuser resets those."""
        done = second_factor.reseal(by=system("reseal_second_factors"))
        self.stdout.write(f"{done.sealed} sealed anew, {done.unreadable} cannot be opened")
