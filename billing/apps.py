"""The app of billing."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """The ledger and the wallets."""

    name = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        """Have messages become mails when they are handed on, and documents attachments when mails are sent."""
        from billing import notices
        from ops import mails, outbox

        outbox.READERS["notices"] = notices.write
        mails.ATTACHMENTS[notices.PDF] = notices.attachment
