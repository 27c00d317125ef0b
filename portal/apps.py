"""The app as Django knows it."""

from django.apps import AppConfig


class PortalConfig(AppConfig):
    """Customers' pages; no tables."""

    name = "portal"

    def ready(self) -> None:
        """Tell mails who makes the links in letters."""
        from ops import mails
        from portal import invitations

        mails.FILLINGS[invitations.LINK] = invitations.link
