"""``manage.py up``: everything on this machine, in the foreground. ``make up`` ends here."""

import sys
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from core import env, supervisor, web
from core.embedded import EmbeddedError
from core.management.commands import prepare


class Command(BaseCommand):
    """Starts, watches and stops all processes (``core.supervisor``)."""

    help = "Run PostgreSQL, Valkey, web, worker and beat until SIGINT or SIGTERM. PORT, HOST, DATA_DIR."
    # A check of the database would come before there is one.
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until a signal; what prevents the start is one line and exit code 1."""
        try:
            if not settings.EMBEDDED:
                prepare.connect()
                connection.close()
            supervisor.up(
                data_dir=settings.DATA_DIR,
                embedded=settings.EMBEDDED,
                broker=env.text("CELERY_BROKER_URL", ""),
                prepare=self._prepare,
            )
        except (supervisor.StartError, EmbeddedError, CommandError) as error:
            self.stderr.write(f"tollbook: {error}")
            sys.exit(1)

    def _prepare(self) -> None:
        base_url = f"http://{web.address().netloc}"
        call_command("prepare", **({"demo": base_url} if settings.EMBEDDED else {}), stdout=self.stdout)
