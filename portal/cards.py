"""Saved cards: which there are, which pays by itself, one more by Stripe's page, one less."""

from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_http_methods, require_POST

from billing.models import PaymentCard
from billing.payment_views import not_now
from billing.processor import client, customers
from core import ids
from orgs import permissions
from portal import desk, onward
from portal.desk import Desk

# A card that was just saved is known here once Stripe has told of it; so often the page looks.
LOOKS_MAX: Final = 10


@require_http_methods(["GET", "HEAD", "POST"])
@desk.page(permissions.BILLING_MANAGE, writes=permissions.BILLING_MANAGE)
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``/portal/{slug}/credit/cards``: the cards; a POST leads to Stripe's page, on which one more is saved."""
    if request.method == "POST":
        back = f"{settings.PUBLIC_URL}{here.place('credit-cards')}"
        try:
            page = customers.begin_saving(
                organization_id=here.organization.pk, success_url=f"{back}?looks=1", cancel_url=back
            )
        except client.Failure as failure:
            raise not_now(failure) from failure
        return onward.lead(request, to=page, what="Go on to the page on which a card is saved")
    looks = request.GET.get("looks", "")
    again = int(looks) + 1 if looks.isascii() and looks.isdigit() and int(looks[:3]) < LOOKS_MAX else None
    cards = [(ids.show("card", card.pk), card) for card in customers.cards(here.organization.pk)]
    context = {"cards": cards, "payments_on": client.is_on(), "again": again}
    return desk.render(request, "credit_cards", context)


@require_POST
@desk.page(permissions.BILLING_MANAGE, writes=permissions.BILLING_MANAGE)
def prefer(request: HttpRequest, here: Desk, card_id: str) -> HttpResponse:
    """``POST …/credit/cards/{id}/prefer``: this one pays where none is chosen."""
    card = _card(here, card_id)
    customers.prefer(card=card, by=here.actor)
    desk.say(request, f"The card ending in {card.last_four} pays by itself from now on.")
    return HttpResponseRedirect(here.place("credit-cards"))


@require_POST
@desk.page(permissions.BILLING_MANAGE, writes=permissions.BILLING_MANAGE)
def remove(request: HttpRequest, here: Desk, card_id: str) -> HttpResponse:
    """``POST …/credit/cards/{id}/remove``: let it go, here and at Stripe."""
    card = _card(here, card_id)
    try:
        customers.remove(card=card, by=here.actor)
    except client.Failure as failure:
        raise not_now(failure) from failure
    desk.say(request, f"The card ending in {card.last_four} is removed.")
    return HttpResponseRedirect(here.place("credit-cards"))


def _card(here: Desk, card_id: str) -> PaymentCard:
    return customers.card(here.organization.pk, card_id, param="card_id")
