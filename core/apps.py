"""The app of the ground: commands, no tables."""

from django.apps import AppConfig


class CoreConfig(AppConfig):
    """Commands that run the house."""

    name = "core"
    verbose_name = "Core"
