"""The app of the door."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """What gateways and LLM clients call on every request."""

    name = "gateway"
    verbose_name = "Gateway"

    def ready(self) -> None:
        """Tell the catalog which models lead somewhere."""
        from gateway import channels
        from metering import catalog

        catalog.learn_routes(channels.routable)
