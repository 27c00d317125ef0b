"""The app of metering."""

from django.apps import AppConfig


class MeteringConfig(AppConfig):
    """Catalog, rating and usage."""

    name = "metering"
    verbose_name = "Metering"
