"""The app of the door."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """What gateways and LLM clients call on every request."""

    name = "gateway"
    verbose_name = "Gateway"
