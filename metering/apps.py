"""The app of metering."""

from typing import Any

from django.apps import AppConfig
from django.core import checks

from metering import tokens


class MeteringConfig(AppConfig):
    """Catalog, rating and usage."""

    name = "metering"
    verbose_name = "Metering"

    def ready(self) -> None:
        """``manage.py check`` also verifies what ships with this app.

        Keys are told which models there are; a second person's yes changes prices.
        """
        from metering import agreements, catalog
        from ops import approvals
        from orgs import keyring

        checks.register(verify_token_tables)
        keyring.learn_models(catalog.strangers)
        approvals.ON_GRANT.update(agreements.GRANTED)


def verify_token_tables(**_: Any) -> list[checks.CheckMessage]:
    """An error when tokens could not be counted: a table is missing or is another one."""
    try:
        tokens.check()
    except tokens.TableUnusable as error:
        return [checks.Error(str(error), hint="Install this release again.", id="metering.E001")]
    return []
