"""The page that Stripe's sends people back to: what became of their payment.

Whoever has the address has come from there: its id cannot be guessed, and it shows no more than the
amount and how it went. A payment under way is looked at again by the page itself.
"""

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing.models import Payment
from billing.processor.facts import OPEN
from core import errors, ids, money

State = Payment.State
AGAIN_SECONDS: Final = 3
_HEADS: Final = {
    State.SUCCEEDED: "Thank you, your payment was received",
    State.FAILED: "Your payment did not go through",
    State.CANCELED: "Your payment was canceled",
}


@require_safe
@never_cache
def payment(request: HttpRequest, payment_id: str) -> HttpResponse:
    """``GET /billing/payments/{id}``. Raises ``NotFound`` for an id that is no payment's."""
    try:
        row = Payment.objects.filter(pk=ids.read("pay", payment_id)).first()
    except ValueError:
        row = None
    if row is None:
        raise errors.NotFound
    shown = {
        "head": _HEADS.get(State(row.state), "Your payment is on its way"),
        "amount": money.display(row.amount_usd),
        "purpose": row.get_purpose_display().lower(),
        "failure": row.failure_message if row.state in {State.FAILED, State.CANCELED} else "",
        "action_url": row.checkout_url or row.next_action_url if row.state == State.REQUIRES_ACTION else "",
        "again": AGAIN_SECONDS if row.state in OPEN else None,
    }
    return render(request, "billing/payment.html", shown)


@require_safe
def card(request: HttpRequest) -> HttpResponse:
    """``GET /billing/cards``: back from the page on which a card is saved, or not."""
    return render(request, "billing/card.html")
