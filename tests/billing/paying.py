"""Organizations that pay a fake Stripe, over HTTP and with the real SDK, and what their books say then."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.test import Client, override_settings

from billing import payments, refunds, settlement, topups
from billing.models import Dispute, Payment, PaymentCard, Refund, TopUp
from billing.processor import client, customers, inbox
from core import ids
from orgs.audit import system
from orgs.models import Organization
from tests.billing.world import organization, rows, standing
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake

BY = system("tests")
HOOK = "/v1/webhooks/stripe"
PAYS = "4242424242424242"
DECLINED = "4000000000000341"
ASKS_ALWAYS = "4000002760003184"


@contextmanager
def paying() -> Iterator[StripeFake]:
    """A fake Stripe that the product is led to; its events wait to be delivered."""
    with (
        StripeFake(seed=7) as fake,
        override_settings(
            STRIPE_API_KEY=fake.api_key,
            STRIPE_WEBHOOK_SECRETS=[fake.secret],
            STRIPE_API_BASE=fake.base_url,
            STRIPE_ACCOUNT="",
            PUBLIC_URL="https://tollbook.example",
        ),
    ):
        yield fake


@pytest.fixture
def fake() -> Iterator[StripeFake]:
    """A fake Stripe."""
    with paying() as made:
        yield made


def with_card(fake: StripeFake, slug: str = "acme", *, number: str = PAYS, usd: str = "0") -> Organization:
    """An organization with a saved card."""
    owner = organization(slug, usd=usd)
    save_card(fake, owner, number)
    return owner


def save_card(fake: StripeFake, owner: Organization, number: str = PAYS, *, count: int = 1) -> None:
    """Cards of an organization, saved at Stripe and known here; others that it had here are gone."""
    at = client.connect()
    customer = customers.ensure(owner.pk, at=at)
    for _ in range(count):
        fake.save_card(customer, number)
    customers.sync(customer, at=at)


def topup(owner: Organization, usd: str = "50", *, method: str = "checkout", off_session: bool = False) -> Payment:
    """A top-up that is meant; Stripe has not been asked."""
    from django.db import transaction

    with transaction.atomic():
        row = topups.open_one(organization_id=owner.pk, amount_usd=Decimal(usd), by=BY)
        return payments.open_one(
            organization_id=owner.pk, purpose="topup", subject_id=row.pk, amount_usd=row.amount_usd + row.tax_usd,
            tax_usd=row.tax_usd, method=method, off_session=off_session,
            card=customers.default_card(owner.pk) if method == "card" else None,
        )  # fmt: skip


def asked(owner: Organization, usd: str = "50", *, method: str = "checkout", off_session: bool = False) -> Payment:
    """A top-up that Stripe has been asked for."""
    made = topup(owner, usd, method=method, off_session=off_session)
    settlement.ask(made.pk)
    return again(made)


def paid(fake: StripeFake, owner: Organization, usd: str = "50") -> Payment:
    """A top-up that was paid on Stripe's page, and credited."""
    made = asked(owner, usd)
    fake.pay(made.session_id or "")
    deliver(fake)
    return again(made)


def again(payment: Payment) -> Payment:
    """The payment as it stands now."""
    return Payment.objects.get(pk=payment.pk)


def post(fake: StripeFake, event_id: str, **signed: Any) -> int:
    """Deliver one event to the door; the status."""
    delivery = fake.webhooks.sign(event_id, **signed)
    return send(delivery.body, delivery.signature)


def send(body: bytes, signature: str | None) -> int:
    """Post a body to the webhook's door; the status."""
    headers = {} if signature is None else {"Stripe-Signature": signature}
    return Client().generic("POST", HOOK, body, "application/json", headers=headers).status_code


def deliver(fake: StripeFake, *event_ids: str) -> None:
    """Deliver these events, or all, in this order, each handled before the next comes."""
    for event_id in event_ids or fake.webhooks.events():
        assert post(fake, event_id) == 200
        inbox.sweep()


def handled() -> dict[str, str]:
    """What became of each event."""
    return dict(rows("SELECT stripe_id, state FROM stripe_event ORDER BY id"))


def later(fake: StripeFake, clock: Clock, by: timedelta) -> None:
    """Let time pass here and at Stripe, and have the sweep look."""
    clock.move(by)
    fake.move_clock(by)
    settlement.sweep()


def clearing() -> Decimal:
    """What lies at Stripe by our books."""
    (found,) = rows(
        "SELECT coalesce(sum(CASE WHEN debit = 'stripe_clearing' THEN amount_usd ELSE -amount_usd END), 0)"
        " FROM transfer WHERE 'stripe_clearing' IN (debit, credit)"
    )
    return Decimal(found[0])


def at_stripe(fake: StripeFake) -> Decimal:
    """What lies at Stripe by Stripe's."""
    return Decimal(fake.balance()).scaleb(-2)


def account(name: str) -> Decimal:
    """What lies in an account of all organizations."""
    (found,) = rows(
        "SELECT coalesce(sum(CASE WHEN credit = %s THEN amount_usd WHEN debit = %s THEN -amount_usd END), 0)"
        " FROM transfer",
        name,
        name,
    )
    return Decimal(found[0])


def state_of(owner: Organization) -> dict[str, Any]:
    """Where an organization stands with its payments: what every order of the same news must come to."""
    return {
        "wallet": standing(owner)[:3],
        "payments": list(
            Payment.objects.order_by("pk").values_list("state", "received_usd", "refunded_usd", "fee_usd")
        ),
        "topups": list(TopUp.objects.order_by("pk").values_list("state", flat=True)),
        "refunds": sorted(Refund.objects.values_list("state", "amount_usd", "tax_usd")),
        "disputes": sorted(Dispute.objects.values_list("state", "amount_usd", "withdrawn_usd", "reinstated_usd")),
        "clearing": clearing(),
        "disputed": account("disputes"),
    }


def cards_of(owner: Organization) -> list[tuple[str, bool]]:
    """Saved cards by their last digits, and whether each is the default."""
    there = PaymentCard.objects.filter(organization=owner, removed_at__isnull=True).order_by("pk")
    return list(there.values_list("last_four", "is_default"))


def intents(fake: StripeFake) -> list[Any]:
    """Every PaymentIntent that Stripe has."""
    with fake.state.lock:
        return [json.loads(json.dumps(one)) for one in fake.state.all("pi")]


def shown(payment: Payment) -> str:
    """The top-up's id on the wire."""
    return ids.show("topup", UUID(str(payment.subject_id)))


def own(books: Books) -> None:
    """Only says that the test's own database is there."""
    assert books.name


def ask_alone(payment_id: str, base: str, key: str) -> str:
    """Ask for a payment in a process of its own; its state afterwards."""
    with _led_to(base, key):
        settlement.ask(UUID(payment_id))
    return str(Payment.objects.get(pk=payment_id).state)


@contextmanager
def _led_to(base: str, key: str) -> Iterator[None]:
    with override_settings(STRIPE_API_KEY=key, STRIPE_API_BASE=base, PUBLIC_URL="https://tollbook.example"):
        yield


def refund_alone(refund_id: str, base: str, key: str) -> str:
    """Ask for a refund in a process of its own; its state afterwards."""
    with _led_to(base, key):
        refunds.call(UUID(refund_id), at=client.connect())
    return str(Refund.objects.get(pk=refund_id).state)


def handle_alone(event_id: str, base: str, key: str) -> str:
    """Handle an event in a process of its own; its state afterwards."""
    with _led_to(base, key):
        return inbox.handle(UUID(event_id))
