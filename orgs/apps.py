"""The Django application."""

from django.apps import AppConfig


class OrgsConfig(AppConfig):
    """Organizations, members, keys."""

    name = "orgs"
    verbose_name = "Organizations"

    def ready(self) -> None:
        """Make the OpenAPI document know the bearer key."""
        from orgs import openapi  # noqa: F401
