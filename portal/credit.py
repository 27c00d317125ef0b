"""Credit: what is left and of what, every movement of it, buying more, and having more bought by itself."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_http_methods, require_safe

from billing import books, issued, payments, settlement, statement, taxes, topups, wallets
from billing.models import Grant, Payment, PaymentCard, Recharge, TopUp, Transfer
from billing.payment_views import Wanted, Way, mean_topup
from billing.payments import Method, Purpose
from billing.processor import client, customers
from billing.serializers import signed
from billing.views import CSV_COLUMNS, csv_row
from core import clock, errors, ids, lists, wire
from ops import idempotency
from ops.idempotency import Saved
from orgs import permissions
from portal import desk, onward, usage
from portal.accounts import fault
from portal.desk import Desk

LINES: Final = 50
LINES_FIRST: Final = 10
TOPUPS: Final = 25
TOPUPS_FIRST: Final = 5
GRANTS_MAX: Final = 100
PAGE: Final = "checkout"
# A receipt is written by a sweep; so long the page of a top-up looks out for it.
RECEIPT_WAIT: Final = timedelta(minutes=5)
_DOLLARS: Final = {"inputmode": "decimal", "autocomplete": "off"}


def dollars(label: str, **more: Any) -> forms.DecimalField:
    """A field for an amount as the books hold it."""
    # Typed as text: a browser's own number fields change with the wheel and refuse what is not a whole step.
    widget = forms.TextInput(attrs=_DOLLARS)
    return forms.DecimalField(label=label, max_digits=24, decimal_places=12, widget=widget, **more)


@dataclass(frozen=True, slots=True)
class Ways:
    """What can pay: the saved cards, or one that is entered on Stripe's page."""

    choices: tuple[tuple[str, str], ...]
    first: str

    @classmethod
    def of(cls, organization_id: UUID) -> "Ways":
        """An organization's; the default card is chosen at first."""
        return cls.among(customers.cards(organization_id))

    @classmethod
    def among(cls, cards: Sequence[PaymentCard]) -> "Ways":
        """Those with these cards."""
        chosen = next((ids.show("card", card.pk) for card in cards if card.is_default), PAGE)
        saved = ((ids.show("card", card.pk), name_of(card)) for card in cards)
        return cls((*saved, (PAGE, "A card that I enter on Stripe's page")), chosen)

    def fill(self, field: forms.Field) -> None:
        """Offer them in a field."""
        assert isinstance(field, forms.ChoiceField)
        field.choices = list(self.choices)


class BuyForm(forms.Form):
    """How much, and what pays. ``token`` makes a form that is sent twice one top-up."""

    amount_usd = dollars("Amount (USD)", help_text="From $10 to $5,000.")
    way = forms.ChoiceField(label="Pay with", widget=forms.RadioSelect)
    token = forms.RegexField("[A-Za-z0-9_-]{16,64}", widget=forms.HiddenInput)

    def __init__(self, *, ways: Ways, data: Any = None) -> None:
        super().__init__(data, initial={"token": secrets.token_urlsafe(18), "way": ways.first})
        ways.fill(self.fields["way"])


class RechargeForm(forms.Form):
    """When the wallet asks for a top-up by itself."""

    enabled = forms.BooleanField(label="Top up by itself", required=False)
    threshold_usd = dollars("When the balance falls below (USD)")
    amount_usd = dollars(
        "Buy (USD)", help_text="From $10 to $5,000, or more where that takes to get back above the line."
    )
    monthly_cap_usd = dollars("At most in a calendar month (USD)", help_text="Counts every top-up, also your own.")


def name_of(card: PaymentCard) -> str:
    """A saved card in words."""
    until = f"until {card.expires_month:02}/{card.expires_year}"
    default = ", the default" if card.is_default else ""
    return f"{card.brand.capitalize() or 'Card'} ending in {card.last_four}, {until}{default}"


class Line(NamedTuple):
    """A line of the statement, with the amount as the wallet sees it."""

    transfer: Transfer
    amount_usd: Decimal
    why: str


@dataclass(frozen=True, slots=True)
class Bought:
    """A top-up, its payment, and the id of its receipt."""

    row: TopUp
    shown: str
    payment: Payment | None
    receipt: str | None

    @property
    def total_usd(self) -> Decimal:
        """With its tax."""
        return Decimal(self.row.amount_usd + self.row.tax_usd)

    @property
    def is_open(self) -> bool:
        """Whether it may still be paid."""
        return self.row.state in topups.OPEN

    @property
    def action_url(self) -> str:
        """Where the customer has to go so that it goes on."""
        if self.row.state != TopUp.State.REQUIRES_ACTION or self.payment is None:
            return ""
        return self.payment.checkout_url or self.payment.next_action_url


@require_http_methods(["GET", "HEAD", "POST"])
@desk.page(permissions.WALLET_READ, writes=permissions.BILLING_MANAGE)
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``/portal/{slug}/credit``: all of it on one page; a POST buys."""
    owner = here.organization.pk
    manages = here.may(permissions.BILLING_MANAGE)
    form, cards = None, customers.cards(owner) if manages else []
    if request.method == "POST":
        client.connect()
    if manages and client.is_on():
        form = BuyForm(ways=Ways.among(cards), data=request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                return HttpResponseRedirect(_buy(request, here, form.cleaned_data))
            except (errors.IdempotencyKeyInUse, errors.IdempotencyKeyReused):
                # The same form once more, while or after the first one was answered.
                desk.say(request, "This form was sent before; here is how things stand.")
                return HttpResponseRedirect(here.place("credit"))
            except errors.ApiError as error:
                fault(form, error)
    page = statement.page(owner, limit=LINES_FIRST, after=None)
    bought = _topups(TopUp.objects.filter(organization_id=owner).order_by("-pk")[:TOPUPS_FIRST])
    context = {
        "state": wallets.state(owner),
        "grants": left(owner),
        "grants_max": GRANTS_MAX,
        "lines": _lines(page),
        "places": places(_lines(page)),
        "more": page.has_more,
        "payments_on": client.is_on(),
        "form": form,
        "cards": cards,
        "manages": manages,
        "reads": here.may(permissions.BILLING_READ),
        "recharge": topups.recharge_of(owner) if here.may(permissions.BILLING_READ) else None,
        "bought": bought if here.may(permissions.BILLING_READ) else [],
        "tax": _tax(owner) if form is not None else None,
    }
    return desk.render(request, "credit", context, status=422 if form is not None and form.errors else 200)


def _buy(request: HttpRequest, here: Desk, given: Mapping[str, Any]) -> str:
    """Mean a top-up, ask for the money, and say where to go."""
    card = "" if given["way"] == PAGE else given["way"]
    owner, way = here.organization, Method.CARD.value if card else Method.CHECKOUT.value

    def mean() -> Saved:
        back = f"{settings.PUBLIC_URL}{here.place('credit')}"
        wanted = Wanted(given["amount_usd"], Way(way, card, f"{back}/paid", back))
        made = mean_topup(organization_id=owner.pk, wanted=wanted, by=here.actor)
        return Saved(201, wire.encode({"id": ids.show("topup", made.pk)}))

    saved = idempotency.once(
        organization_id=owner.pk, organization_slug=owner.slug, method="POST", path=request.path,
        key=given["token"], body={"amount_usd": given["amount_usd"], "way": given["way"]}, work=mean,
    )  # fmt: skip
    made = json.loads(saved.body)["id"]
    waiting = payments.of_subject(Purpose.TOPUP, ids.read("topup", made))
    if waiting is not None:
        # Committed; whoever comes again finds it begun.
        settlement.ask(waiting.pk)
    return f"{here.place('credit-topup', made)}?go=1"


@require_safe
@desk.page(permissions.BILLING_MANAGE)
def paid(_: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/credit/paid``: back from Stripe's page; to the top-up that was bought there, the last one."""
    last = TopUp.objects.filter(organization_id=here.organization.pk, automatic=False).order_by("-pk").first()
    if last is None:
        return HttpResponseRedirect(here.place("credit"))
    return HttpResponseRedirect(here.place("credit-topup", ids.show("topup", last.pk)))


@require_safe
@desk.page(permissions.BILLING_MANAGE)
def topup(request: HttpRequest, here: Desk, topup_id: str) -> HttpResponse:
    """``GET …/credit/topups/{id}``: how it stands; on to Stripe's page where it has just been asked for."""
    row = topups.find(here.organization.pk, topup_id)
    if row is None:
        raise errors.NotFound
    (bought,) = _topups([row])
    if bought.action_url and "go" in request.GET:
        return onward.lead(request, to=bought.action_url, what="Go on to the payment page")
    # The receipt follows the money by a moment.
    settled = row.state == TopUp.State.SUCCEEDED
    fresh = row.settled_at is not None and clock.now() - row.settled_at < RECEIPT_WAIT
    waits = bought.is_open or (settled and fresh and bought.receipt is None)
    failed = row.state in (TopUp.State.FAILED, TopUp.State.CANCELED)
    context = {
        "one": bought, "waits": waits, "settled": settled, "failed": failed,
        "state": wallets.state(here.organization.pk),
    }  # fmt: skip
    return desk.render(request, "credit_topup", context)


@require_http_methods(["POST"])
@desk.page(permissions.BILLING_MANAGE, writes=permissions.BILLING_MANAGE)
def cancel(_: HttpRequest, here: Desk, topup_id: str) -> HttpResponse:
    """``POST …/credit/topups/{id}/cancel``: give up a top-up that waits for the customer."""
    row = topups.find(here.organization.pk, topup_id)
    payment = None if row is None else payments.of_subject(Purpose.TOPUP, row.pk)
    if row is None or payment is None:
        raise errors.NotFound
    client.connect()
    payments.give_up(payment_id=payment.pk, by=here.actor)
    settlement.look(payment.pk)
    return HttpResponseRedirect(here.place("credit-topup", topup_id))


@require_safe
@desk.page(permissions.BILLING_READ)
def topups_page(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/credit/topups``: all of them, newest first, by pages."""
    rows = TopUp.objects.filter(organization_id=here.organization.pk).order_by("-pk")
    after = request.GET.get("after")
    if after:
        last = topups.find(here.organization.pk, after)
        if last is None:
            raise errors.InvalidCursor(param="after")
        rows = rows.filter(pk__lt=last.pk)
    found = list(rows[: TOPUPS + 1])
    context = {
        "bought": _topups(found[:TOPUPS]), "older": ids.show("topup", found[TOPUPS - 1].pk) if found[TOPUPS:] else "",
        "after": after, "manages": here.may(permissions.BILLING_MANAGE),
    }  # fmt: skip
    return desk.render(request, "credit_topups", context)


@require_safe
@desk.page(permissions.WALLET_READ)
def statement_page(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/credit/statement``: every movement with the balance after it, by pages."""
    after = request.GET.get("after") or None
    page = statement.page(here.organization.pk, limit=LINES, after=after)
    older, lines = ids.show("tr", page.transfers[-1].pk) if page.has_more else "", _lines(page)
    context = {"lines": lines, "places": places(lines), "older": older, "after": after}
    return desk.render(request, "credit_statement", context)


@require_safe
@desk.page(permissions.WALLET_READ)
def statement_csv(_: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/credit/statement.csv``: the columns of ``GET /v1/wallet/transactions``."""
    rows = (csv_row(line) for line in statement.every(here.organization.pk))
    return lists.csv_answer(f"statement-{here.organization.slug}", CSV_COLUMNS, rows)  # type: ignore[return-value]


@require_http_methods(["GET", "HEAD", "POST"])
@desk.page(permissions.BILLING_MANAGE, writes=permissions.BILLING_MANAGE)
def recharge(request: HttpRequest, here: Desk) -> HttpResponse:
    """``/portal/{slug}/credit/recharge``: the terms on which the wallet buys by itself."""
    owner = here.organization.pk
    terms, card = topups.recharge_of(owner), customers.default_card(owner)
    form = RechargeForm(request.POST or None, initial=_terms(terms))
    if request.method == "POST":
        client.connect()
        if form.is_valid():
            try:
                if form.cleaned_data["enabled"] and card is None:
                    raise errors.OutOfRange("There is no saved card to pay with; save one first.", param="enabled")
                topups.set_recharge(organization_id=owner, by=here.actor, **form.cleaned_data)
            except errors.ApiError as error:
                fault(form, error)
            else:
                how = "tops itself up from now on" if form.cleaned_data["enabled"] else "does not top itself up"
                desk.say(request, f"The wallet {how}.")
                return HttpResponseRedirect(here.place("credit"))
    context = {"form": form, "terms": terms, "card": card, "payments_on": client.is_on(), "now": clock.now(),
               "stops_after": topups.FAILURES_MAX}  # fmt: skip
    return desk.render(request, "credit_recharge", context, status=422 if form.errors else 200)


def _terms(terms: Recharge | None) -> dict[str, Any]:
    """What a form begins with."""
    if terms is None:
        return {"enabled": True, "threshold_usd": "10", "amount_usd": "50", "monthly_cap_usd": "200"}
    amounts = ("threshold_usd", "amount_usd", "monthly_cap_usd")
    return {"enabled": terms.enabled, **{name: f"{getattr(terms, name).normalize():f}" for name in amounts}}


def _lines(page: statement.Page) -> list[Line]:
    return [Line(transfer, signed(transfer), _why(transfer)) for transfer in page.transfers]


def places(lines: Sequence[Line]) -> int:
    """How many decimals a statement's amounts have: so many that each line is told from the one below it."""
    return usage.places(line.amount_usd for line in lines)


def _why(transfer: Transfer) -> str:
    """The reason, where it says more than the kind."""
    return "" if transfer.reason == transfer.get_kind_display() else transfer.reason


def left(owner: UUID) -> list[Grant]:
    """Credit with anything left, in the order in which it is spent; what begins later is last. One query."""
    found = Grant.objects.filter(organization_id=owner, remaining_usd__gt=0).order_by("-pk")[:GRANTS_MAX]
    return sorted(found, key=lambda row: (row.transfer_id is None, books.order(lot(row))))


def lot(row: Grant) -> books.Lot:
    """A grant as the arithmetic of books takes it."""
    return books.Lot(row.pk, row.kind, row.remaining_usd, row.priority, row.expires_at, frozenset(row.model_slugs))


def _topups(rows: Any) -> list[Bought]:
    found: list[TopUp] = list(rows)
    keys = [row.pk for row in found]
    paying, receipts = payments.of_subjects(Purpose.TOPUP, keys), issued.receipts_of(keys)
    return [Bought(row, ids.show("topup", row.pk), paying.get(row.pk), receipts.get(row.pk)) for row in found]


def _tax(owner: UUID) -> taxes.Tax | None:
    """What is added to a purchase; none where the rate is missing, which the purchase itself will say."""
    try:
        return taxes.on(organization_id=owner, amount_usd=Decimal(100))
    except taxes.RateMissing:
        return None
