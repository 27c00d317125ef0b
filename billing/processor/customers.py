"""Organizations as Stripe's customers, and the cards they saved there.

Cards are a mirror: whatever news comes, the customer's cards are asked for and written down as they stand.
The only module that writes ``StripeCustomer`` and ``PaymentCard``.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing.models import PaymentCard, StripeCustomer
from billing.processor import client, facts
from billing.processor.client import Client, Object
from core import clock, errors, ids
from core.transactions import retry
from orgs import audit
from orgs.audit import Actor
from orgs.models import Organization

# What names an organization at Stripe.
ORGANIZATION = "tollbook_organization"


def ensure(organization_id: UUID, *, at: Client) -> str:
    """The organization's customer at Stripe, made if there is none. Raises as ``Client.post``."""
    row, _ = StripeCustomer.objects.get_or_create(organization_id=organization_id)
    if row.stripe_id:
        return str(row.stripe_id)
    owner = Organization.objects.get(pk=organization_id)
    made = at.create_customer(
        {"name": owner.name, "metadata": {ORGANIZATION: str(organization_id)}},
        key=f"customer:{organization_id}:{row.made}",
    )
    # Whoever came second got the same customer: the key is the same.
    StripeCustomer.objects.filter(pk=organization_id, stripe_id__isnull=True, made=row.made).update(
        stripe_id=made["id"]
    )
    return str(made["id"])


def find(stripe_id: str) -> StripeCustomer | None:
    """Whose customer this is, if it is one of ours."""
    return StripeCustomer.objects.filter(stripe_id=stripe_id).first()


def owner_of_card(stripe_id: str) -> str:
    """The customer whose card this is or was; empty if it is no card of ours."""
    owner = PaymentCard.objects.filter(stripe_id=stripe_id).values_list("organization_id", flat=True).first()
    row = StripeCustomer.objects.filter(pk=owner).first() if owner else None
    return row.stripe_id or "" if row else ""


def cards(organization_id: UUID) -> Sequence[PaymentCard]:
    """An organization's saved cards, newest first."""
    return list(PaymentCard.objects.filter(organization_id=organization_id, removed_at__isnull=True).order_by("-pk"))


def default_card(organization_id: UUID) -> PaymentCard | None:
    """The card that pays where none is chosen."""
    return PaymentCard.objects.filter(organization_id=organization_id, is_default=True).first()


def card(organization_id: UUID, text: str, *, param: str) -> PaymentCard:
    """A saved card by the id that customers see. Raises ``NotFound``, for a neighbour's as for a made-up one."""
    try:
        found = PaymentCard.objects.filter(
            organization_id=organization_id, pk=ids.read("card", text), removed_at__isnull=True
        ).first()
    except ValueError:
        found = None
    if found is None:
        raise errors.NotFound("No saved card with that id is open to this key.", param=param)
    return found


def sync(customer_id: str, *, at: Client) -> str:
    """Write down a customer's cards as they stand at Stripe; what was done. Raises as ``Client.get``.

    Asked first and written afterwards: of two that ask at once, the one that began later is kept.
    """
    asked_at = clock.now()
    owner = find(customer_id)
    if owner is None:
        return "no customer of ours"
    stands = at.customer(customer_id)
    if stands.get("deleted"):
        retry(lambda: _forget(customer_id))
        return "the customer is gone"
    found = at.cards(customer=customer_id)
    chosen = facts.id_of((stands.get("invoice_settings") or {}).get("default_payment_method"))
    retry(lambda: _mirror(customer_id, found, chosen=chosen, asked_at=asked_at))
    return f"{len(found)} cards"


@transaction.atomic(durable=True)
def _forget(customer_id: str) -> None:
    """A customer that was deleted at Stripe takes its cards along; the next payment makes a new one."""
    row = StripeCustomer.objects.select_for_update(no_key=True).filter(stripe_id=customer_id).first()
    if row is None:
        return
    row.stripe_id, row.made = None, row.made + 1
    row.save(update_fields=["stripe_id", "made"])
    there = PaymentCard.objects.filter(organization_id=row.pk, removed_at__isnull=True)
    _remove(list(there.values_list("pk", flat=True)))


@transaction.atomic(durable=True)
def _mirror(customer_id: str, found: Sequence[Object], *, chosen: str, asked_at: datetime) -> None:
    row = StripeCustomer.objects.select_for_update(no_key=True).filter(stripe_id=customer_id).first()
    if row is None or (row.synced_at is not None and row.synced_at > asked_at):
        return
    row.synced_at = asked_at
    row.save(update_fields=["synced_at"])
    told = sorted((facts.of_card(one) for one in found), key=lambda one: (one.created_at, one.stripe_id))
    mine = PaymentCard.objects.filter(organization_id=row.pk)
    gone = mine.filter(removed_at__isnull=True).exclude(stripe_id__in=[one.stripe_id for one in told])
    _remove(list(gone.values_list("pk", flat=True)))
    for one in told:
        PaymentCard.objects.update_or_create(
            stripe_id=one.stripe_id,
            defaults={
                "organization_id": row.pk, "brand": one.brand, "last_four": one.last_four, "removed_at": None,
                "expires_month": one.expires_month, "expires_year": one.expires_year,
            },
        )  # fmt: skip
    _choose(row.pk, chosen)


def _remove(keys: Sequence[UUID]) -> None:
    PaymentCard.objects.filter(pk__in=list(keys)).update(removed_at=clock.now(), is_default=False)


def _choose(organization_id: UUID, chosen: str) -> None:
    """Stripe's own default, else the one that is the default already, else the newest."""
    there = PaymentCard.objects.filter(organization_id=organization_id, removed_at__isnull=True)
    default = (
        there.filter(stripe_id=chosen).first() or there.filter(is_default=True).first() or there.order_by("-pk").first()
    )
    if default is not None:
        there.filter(is_default=True).exclude(pk=default.pk).update(is_default=False)
        there.filter(pk=default.pk).update(is_default=True)


def remove(*, card: PaymentCard, by: Actor) -> None:
    """Let a saved card go, at Stripe and here. Raises ``Off`` and as ``Client.post``."""
    at = client.connect()
    try:
        at.detach(card.stripe_id, key=f"{card.pk}:detach")
    except client.Refused:
        # Gone at Stripe already, then.
        if not any(one["id"] == card.stripe_id for one in at.cards(customer=_customer_of(card))):
            _note_removal(card, by)
            return
        raise
    _note_removal(card, by)


@transaction.atomic(durable=True)
def prefer(*, card: PaymentCard, by: Actor) -> None:
    """Have a saved card pay where none is chosen, until a default is set at Stripe itself. Raises ``NotFound``."""
    row = StripeCustomer.objects.select_for_update(no_key=True).get(pk=card.organization_id)
    there = PaymentCard.objects.filter(organization_id=row.pk, removed_at__isnull=True)
    if not there.filter(pk=card.pk).exists():
        raise errors.NotFound
    there.filter(is_default=True).exclude(pk=card.pk).update(is_default=False)
    there.filter(pk=card.pk).update(is_default=True)
    audit.note(actor=by, verb="card.preferred", subject=card, organization=row.organization, details={})


def _customer_of(card: PaymentCard) -> str:
    row = StripeCustomer.objects.get(pk=card.organization_id)
    return str(row.stripe_id or "")


@transaction.atomic(durable=True)
def _note_removal(card: PaymentCard, by: Actor) -> None:
    row = StripeCustomer.objects.select_for_update(no_key=True).get(pk=card.organization_id)
    _remove([card.pk])
    _choose(row.pk, "")
    audit.note(actor=by, verb="card.removed", subject=card, organization=row.organization, details={})


def begin_saving(*, organization_id: UUID, success_url: str, cancel_url: str) -> str:
    """Open a page on which the customer saves a card; its address. No money moves. Raises as ``Client.post``."""
    at, back = client.connect(), f"{settings.PUBLIC_URL}/billing/cards"
    session = at.create_session(
        {
            "mode": "setup", "customer": ensure(organization_id, at=at), "currency": facts.CURRENCY,
            "allowed_payment_method_types": ["card"], "success_url": success_url or back,
            "cancel_url": cancel_url or back,
        },
        key=f"setup:{ids.new()}",
    )  # fmt: skip
    return str(session["url"])
