"""The app of billing."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """The ledger and the wallets."""

    name = "billing"
    verbose_name = "Billing"
