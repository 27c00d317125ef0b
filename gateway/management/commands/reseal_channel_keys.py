"""``manage.py reseal_channel_keys``: seal channels' keys under the ``SECRET_KEY`` of now.

After it, no channel needs what ``SECRET_KEY_FALLBACKS`` holds any more.
"""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core.sealing import Unreadable
from gateway import channels
from orgs.audit import system


class Command(BaseCommand):
    """Seal anew what an older key sealed."""

    help = "Encrypt the keys of channels anew under SECRET_KEY, so that SECRET_KEY_FALLBACKS can be emptied."

    def handle(self, *args: Any, **options: Any) -> None:
        """Say how many there were. Raises ``CommandError`` for one that no key opens."""
        try:
            count = channels.reseal(by=system("reseal_channel_keys"))
        except Unreadable as reason:
            raise CommandError(f"nothing was changed: a channel's key was {reason}.") from reason
        self.stdout.write(f"{count} sealed anew")
