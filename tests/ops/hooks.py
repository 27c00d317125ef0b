"""Endpoints and messages for tests of what we send, made the way the product makes them."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db import transaction
from django.test import override_settings

from ops import deliveries, endpoints, mails, outbox
from ops.endpoints import Issued
from ops.models import OutboxMessage, WebhookDelivery
from orgs.models import Organization
from tests.orgs import world

URL = "https://hooks.example.com/in"


def endpoint(of: Organization, url: str = URL, *, kinds: Collection[str] = ()) -> Issued:
    """An endpoint and its secret."""
    return endpoints.create(organization_id=of.pk, url=url, kinds=kinds, by=world.BY)


# What every message about a wallet says.
BALANCE = {"balance_usd": "4.5", "low_usd": "5"}


def tell(of: Organization | None, kind: str = "wallet.low", key: str = "1", **data: Any) -> UUID:
    """A message that waits; its id."""
    with transaction.atomic():
        assert outbox.post(kind=kind, organization_id=None if of is None else of.pk, key=key, data={**BALANCE, **data})
    found: UUID = OutboxMessage.objects.get(organization=of, kind=kind, key=key).pk
    return found


def hand_on(of: Organization, kind: str = "wallet.low", key: str = "1", **data: Any) -> list[WebhookDelivery]:
    """A message that was handed on; the deliveries that came of it."""
    message_id = tell(of, kind, key, **data)
    assert outbox.hand_on() == 1
    return list(WebhookDelivery.objects.filter(message_id=message_id).order_by("id"))


def charge(slug: str) -> list[str]:
    """Charge what an organization has no money for, in a process of its own; the verdict's word."""
    from tests.billing import acts

    return [acts.charge_one(slug, "more than there is")]


def send_next() -> str:
    """One attempt to send a webhook to this machine, in a process of its own."""
    with override_settings(WEBHOOKS_ALLOW_LOCAL=True):
        return str(deliveries.send_next())


def send_mails(folder: str) -> str:
    """Send the mails that are due into a folder, in a process of its own."""
    with into(folder):
        return mails.send_due()


def into(folder: str) -> Any:
    """Mails are files in a folder, in the block."""
    backend = "django.core.mail.backends.filebased.EmailBackend"
    return override_settings(EMAIL_BACKEND=backend, EMAIL_FILE_PATH=folder)
