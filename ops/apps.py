"""The app of the machinery."""

from django.apps import AppConfig


class OpsConfig(AppConfig):
    """Scheduled jobs, what others are to be told, and the way there."""

    name = "ops"
    verbose_name = "Operations"

    def ready(self) -> None:
        """Have messages become deliveries when they are handed on."""
        from ops import deliveries, outbox

        outbox.READERS["webhooks"] = deliveries.derive
