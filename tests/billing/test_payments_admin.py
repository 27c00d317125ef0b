"""The desk's pages of payments: read whole, and what can be done about them."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from billing import refunds
from billing.models import Payment, Refund, StripeEvent, TopUpLimit
from billing.processor import inbox
from core import clock
from ops.models import Approval
from orgs.models import AuditEntry
from tests import desk
from tests.billing.paying import asked, deliver, fake, with_card
from tests.billing.world import standing
from tests.books import Books
from tests.fakes.stripe import StripeFake

__all__ = ["fake"]


@pytest.fixture
def root(books: Books) -> Client:
    return desk.superuser()


def page(row: Any, act: str = "change") -> str:
    return reverse(f"admin:billing_{row._meta.model_name}_{act}", args=[row.pk])


def do(client: Client, row: Any, act: str, **told: str) -> str:
    """Press an act's button and answer its page; what is said then."""
    return client.post(page(row, act), told, follow=True).content.decode()


def test_every_page_shows_what_there_is(root: Client, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    fake.refund(made.intent_id or "", 1000)
    fake.open_dispute(made.intent_id or "", amount=2000)
    deliver(fake)
    for model in ("payment", "refund", "dispute", "stripeevent", "stripecustomer", "paymentcard", "topuplimit"):
        shown = desk.read(root, reverse(f"admin:billing_{model}_changelist"))
        assert "acme" in shown.text or model in {"stripeevent", "topuplimit"}
        for row in shown.rows[:3]:
            assert desk.read(root, page(row)).text
    shown = desk.read(root, page(made))
    for text in ("1.75", made.intent_id or "", "payment fee", "made at Stripe"):
        assert text in shown.text


def test_finance_gives_a_payment_back_with_a_reason(root: Client, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, method="card")
    assert "Only 50 USD" in do(root, made, "refund", amount_usd="51", reason="too much")
    assert Refund.objects.count() == 0
    assert "Succeeded: 20 USD." in do(root, made, "refund", amount_usd="20", reason="as agreed")
    assert standing(acme).posted == 30
    assert AuditEntry.objects.get(verb="refund.asked").details["reason"] == "as agreed"
    clerk = desk.clerk("view_payment", "change_payment")
    assert clerk.get(page(made, "refund")).status_code == 403


def test_a_large_refund_is_carried_out_when_a_second_person_agrees(root: Client, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme, "600", method="card")
    assert "second person" in do(root, made, "refund", amount_usd="600", reason="as agreed")
    row = Refund.objects.get()
    assert "waits until a second person" in do(root, row, "carry-out")
    other = desk.superuser("other@example.com")
    other.post(reverse("admin:ops_approval_grant", args=[Approval.objects.get().pk]))
    assert "Succeeded: 600 USD." in do(root, row, "carry-out")
    assert standing(acme).posted == 0


def test_an_event_is_replayed_and_a_payment_looked_at_again(root: Client, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = asked(acme)
    fake.pay(made.session_id or "")
    assert "Stripe was asked: succeeded." in do(root, made, "look")
    assert standing(acme).posted == 50
    deliver(fake)
    event = StripeEvent.objects.get(kind="payment_intent.succeeded")
    assert "Processed:" in do(root, event, "replay")
    assert standing(acme).posted == 50
    assert AuditEntry.objects.filter(verb="stripe_event.replayed").count() == 1
    assert Payment.objects.get(pk=made.pk).state == "succeeded"
    inbox.trim(at=clock.now() + timedelta(days=401))
    assert "No longer kept." in desk.read(root, page(event)).text
    assert "no longer kept" in do(root, event, "replay")


def test_a_limit_is_set_for_an_organization(root: Client, fake: StripeFake) -> None:
    with_card(fake)
    place = reverse("admin:billing_topuplimit_set")
    told = {"organization": "acme", "topup_usd": "100", "daily_usd": "200", "reason": "new customer"}
    assert "at most 100 USD" in root.post(place, told, follow=True).content.decode()
    assert (TopUpLimit.objects.get().topup_usd, TopUpLimit.objects.get().daily_usd) == (Decimal(100), Decimal(200))
    assert "No organization" in root.post(place, {**told, "organization": "nobody"}).content.decode()
    assert "at most 5000" in root.post(place, {**told, "topup_usd": "5001"}, follow=True).content.decode()


def test_without_a_stripe_key_the_desk_says_so(root: Client, fake: StripeFake, settings: Any) -> None:
    made = asked(with_card(fake), method="card")
    settings.STRIPE_API_KEY = ""
    for act in ("look", "refund"):
        assert "switched off" in do(root, made, act, amount_usd="1", reason="as agreed")
    assert refunds.due() == []
