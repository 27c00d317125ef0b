"""``manage.py apply_staff_roles``: make the groups of staff say what ``orgs.roles`` says; ``prepare`` runs it."""

from typing import Any

from django.core.management.base import BaseCommand

from orgs import roles


class Command(BaseCommand):
    """After every release: models of its own migrations have their permissions by then."""

    help = "Make the roles of staff (groups) what orgs/roles.py says. Safe to run again."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Apply the table."""
        roles.apply()
