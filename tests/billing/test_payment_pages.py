"""The pages that Stripe's send people back to, and what they show to whoever has the address."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from billing.models import Payment
from core import clock, ids
from tests.billing.world import organization


def payment(state: str, **told: Any) -> str:
    """A payment of 25 dollars in a state; the path of its page."""
    asked = {} if state == "pending" else {"request": {}, "called_at": clock.now()}
    row = Payment.objects.create(
        organization=organization(f"payer-{state}".replace("_", "-")), purpose="topup", subject_id=ids.new(),
        amount_usd=Decimal(25), method="checkout", state=state, deadline_at=clock.now(), **(asked | told),
    )  # fmt: skip
    return f"/billing/payments/{ids.show('pay', row.pk)}"


@pytest.mark.parametrize(
    ("state", "told", "head", "looks_again"),
    [
        ("called", {}, "Your payment is on its way", True),
        ("processing", {}, "Your payment is on its way", True),
        ("succeeded", {"received_usd": Decimal(25)}, "Thank you, your payment was received", False),
        ("failed", {"failure_message": "Your card was <b>declined</b>."}, "Your payment did not go through", False),
        ("canceled", {"failure_message": "It was not paid in time."}, "Your payment was canceled", False),
    ],
)  # fmt: skip
def test_a_payments_page_says_how_it_went(
    db: None, state: str, told: dict[str, Any], head: str, looks_again: bool
) -> None:
    if state not in {"called", "processing"}:
        told = {**told, "settled_at": clock.now()}
    answer = Client().get(payment(state, **told))
    text = answer.content.decode()
    assert answer.status_code == 200
    assert f"<h1>{head}</h1>" in text
    assert "$25.00" in text
    assert ('http-equiv="refresh"' in text) == looks_again
    assert ("not paid in time" in text) == (state == "canceled")
    assert "<b>declined" not in text
    assert "payer-" not in text
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("name", ["pay_0", "inv_01M800HD45F2091XA2W4WMKSDM", "pay_01M800HD45F2091XA2W4WMKSDM"])
def test_what_is_no_payment_has_no_page(db: None, name: str) -> None:
    assert Client().get(f"/billing/payments/{name}").status_code == 404


def test_who_comes_back_from_saving_a_card_is_told_so() -> None:
    answer = Client().get("/billing/cards")
    assert answer.status_code == 200
    assert b"pays from now on" in answer.content
