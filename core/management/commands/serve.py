"""``manage.py serve``: the web server alone, as a container runs it."""

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Becomes the web server's process (``core.web``)."""

    help = "Serve HTTP on HOST:PORT until SIGTERM. Migrate first (manage.py prepare)."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Hand the process over: Django is to be loaded in the workers, not here."""
        os.chdir(settings.BASE_DIR)
        os.execv(sys.executable, [sys.executable, "-m", "core.web"])  # noqa: S606 - our own command line
