"""The app of the machinery."""

from django.apps import AppConfig


class OpsConfig(AppConfig):
    """Scheduled jobs and how their last run went."""

    name = "ops"
    verbose_name = "Operations"
