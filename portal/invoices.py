"""Documents: invoices, statements, receipts and credit notes, what each line is made of, and paying what is open."""

import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_POST, require_safe

from billing import issued, payments, settlement
from billing.documents import csv
from billing.documents.document import Line
from billing.invoice_views import COLUMNS, csv_row, mean_payment
from billing.issued import Wanted
from billing.models import Invoice, InvoiceLine, Payment
from billing.payment_views import Way
from billing.payments import Method, Purpose
from billing.processor import client
from billing.processor.facts import OPEN
from core import errors, ids, lists, wire
from ops import idempotency
from ops.idempotency import Saved
from orgs import permissions
from portal import credit, desk, onward, periods, requests
from portal.desk import Desk

DOCUMENTS: Final = 25


class Choice(forms.Form):
    """Which documents a list shows."""

    kind = forms.ChoiceField(
        label="What", required=False,
        choices=[("", "Everything"), *((kind.value, kind.label.capitalize()) for kind in issued.KINDS)],
    )  # fmt: skip
    state = forms.ChoiceField(
        label="State", required=False,
        choices=[("", "Any"), *((state.value, state.label.split(",")[0].capitalize()) for state in issued.STATES)],
    )  # fmt: skip


class PayForm(forms.Form):
    """What pays an invoice. ``token`` makes a form that is sent twice one payment."""

    way = forms.ChoiceField(label="Pay with", widget=forms.RadioSelect)
    token = forms.RegexField("[A-Za-z0-9_-]{16,64}", widget=forms.HiddenInput)

    def __init__(self, *, ways: credit.Ways, data: Any = None) -> None:
        super().__init__(data, initial={"token": secrets.token_urlsafe(18), "way": ways.first})
        ways.fill(self.fields["way"])


@dataclass(frozen=True, slots=True)
class Row:
    """A document in a list, by the id that customers see."""

    invoice: Invoice
    shown: str

    @classmethod
    def of(cls, invoice: Invoice) -> "Row":
        """A document."""
        return cls(invoice, ids.show("inv", invoice.pk))

    @property
    def name(self) -> str:
        """Its number, or what it is where it has none."""
        return self.invoice.number or str(self.invoice.get_kind_display()).capitalize()

    @property
    def starts(self) -> datetime | None:
        """When its period begins, in its own zone; a receipt has none."""
        return self._local(self.invoice.starts_at)

    @property
    def ends(self) -> datetime | None:
        """When its period ends, exclusively."""
        return self._local(self.invoice.ends_at)

    def _local(self, at: datetime | None) -> datetime | None:
        if at is None or self.invoice.kind == Invoice.Kind.RECEIPT:
            return None
        return at.astimezone(ZoneInfo(self.invoice.zone))


class Shown(NamedTuple):
    """A line, and where the records are that it is made of."""

    line: Line
    place: str


@require_safe
@desk.page(permissions.BILLING_READ)
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``/portal/{slug}/invoices``: documents by pages, the one issued last first."""
    form = Choice(request.GET)
    wanted = _wanted(form)
    after = request.GET.get("after") or None
    page = issued.page(here.organization.pk, wanted=wanted, limit=DOCUMENTS, after=after)
    chosen = {name: value for name, value in (("kind", wanted.kind), ("state", wanted.state)) if value}
    query = urlencode(chosen)
    context = {
        "form": form, "rows": [Row.of(each) for each in page.invoices], "after": after,
        "older": ids.show("inv", page.invoices[-1].pk) if page.has_more else "", "query": f"{query}&" if query else "",
        "chosen": query,
    }  # fmt: skip
    return desk.render(request, "invoices", context)


@require_safe
@desk.page(permissions.BILLING_READ)
def csv_list(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/invoices.csv``: the columns of ``GET /v1/invoices``, of all that are chosen."""
    rows = (csv_row(each) for each in issued.every(here.organization.pk, wanted=_wanted(Choice(request.GET))))
    return lists.csv_answer(f"invoices-{here.organization.slug}", COLUMNS, rows)  # type: ignore[return-value]


def _wanted(form: Choice) -> Wanted:
    """What a list is to show; what nobody could have chosen is ignored."""
    form.is_valid()
    return Wanted(form.cleaned_data.get("kind") or None, form.cleaned_data.get("state") or None)


@require_safe
@desk.page(permissions.BILLING_READ)
def one(request: HttpRequest, here: Desk, invoice_id: str) -> HttpResponse:
    """``…/invoices/{id}``: what a document says, and where its lines come from."""
    return _one(request, here, issued.find(here.organization.pk, invoice_id))


def _one(request: HttpRequest, here: Desk, invoice: Invoice, *, form: PayForm | None = None) -> HttpResponse:
    told, rows = issued.document(invoice), issued.lines(invoice)
    manages, is_open = here.may(permissions.BILLING_MANAGE), invoice.state == Invoice.State.OPEN
    under_way = payments.of_subject(Purpose.INVOICE, invoice.pk) if invoice.kind == Invoice.Kind.INVOICE else None
    if form is None and manages and is_open and client.is_on():
        form = PayForm(ways=credit.Ways.of(here.organization.pk))
    context = {
        "invoice": invoice, "this": Row.of(invoice), "shown": ids.show("inv", invoice.pk), "told": told,
        "lines": [Shown(line, _usage(here, invoice, row)) for row, line in zip(rows, told.lines, strict=True)],
        "notes": [Row.of(note) for note in issued.credit_notes(invoice)],
        "corrects": Row.of(invoice.corrects) if invoice.corrects else None,
        "form": form, "manages": manages, "is_open": is_open, "payments_on": client.is_on(), "payment": under_way,
        "is_under_way": under_way is not None and under_way.state in OPEN,
        "action_url": _action(under_way) if manages else "",
        "places": max([requests.DECIMALS_MIN, *(requests.decimals(line.exact_usd) for line in told.lines)]),
        "carried_usd": invoice.exact_usd - invoice.subtotal_usd,
    }  # fmt: skip
    wrong = form is not None and bool(form.errors)
    if wrong:
        context["form_at"] = here.place("invoices-one", context["shown"])
    return desk.render(request, "invoice", context, status=422 if wrong else 200)


def _usage(here: Desk, invoice: Invoice, row: InvoiceLine) -> str:
    """The page that lists the records of a line; empty where a line is of none, or may not be looked into."""
    if issued.usage_query(invoice, row) is None or not here.may(permissions.USAGE_READ_ALL):
        return ""
    days = Row.of(invoice)
    assert days.starts is not None
    assert days.ends is not None
    asked = {
        "period": periods.CHOSEN, "first": days.starts.date().isoformat(),
        "last": (days.ends - timedelta(microseconds=1)).date().isoformat(), "model": row.model,
    }  # fmt: skip
    for name, prefix, key in (("key", "key", row.api_key_id), ("project", "proj", row.project_id)):
        if key is not None:
            asked[name] = ids.show(prefix, key)
    return f"{here.place('requests')}?{urlencode(asked)}"


def _action(payment: Payment | None) -> str:
    """Where the customer has to go so that a payment goes on."""
    if payment is None or payment.state != Payment.State.REQUIRES_ACTION:
        return ""
    return payment.checkout_url or payment.next_action_url


@require_safe
@desk.page(permissions.BILLING_READ)
def csv_one(_: HttpRequest, here: Desk, invoice_id: str) -> HttpResponse:
    """``…/invoices/{id}.csv``: its lines, tax and total."""
    invoice = issued.find(here.organization.pk, invoice_id)
    return lists.csv_answer(issued.file_name(invoice), csv.COLUMNS, csv.rows(issued.document(invoice)))  # type: ignore[return-value]


@require_safe
@desk.page(permissions.BILLING_READ)
def pdf_one(_: HttpRequest, here: Desk, invoice_id: str) -> HttpResponse:
    """``…/invoices/{id}.pdf``: as it is printed."""
    invoice = issued.find(here.organization.pk, invoice_id)
    answer = HttpResponse(issued.printed(invoice), content_type="application/pdf")
    answer["Content-Disposition"] = f'attachment; filename="{issued.file_name(invoice)}.pdf"'
    return answer


@require_POST
@desk.page(permissions.BILLING_READ, writes=permissions.BILLING_MANAGE)
def pay(request: HttpRequest, here: Desk, invoice_id: str) -> HttpResponse:
    """``POST …/invoices/{id}/pay``: what is open of it, with a saved card or on Stripe's page."""
    owner = here.organization
    invoice = issued.find(owner.pk, invoice_id)
    client.connect()
    form = PayForm(ways=credit.Ways.of(owner.pk), data=request.POST)
    if not form.is_valid():
        return _one(request, here, invoice, form=form)
    card = "" if form.cleaned_data["way"] == credit.PAGE else form.cleaned_data["way"]
    back = f"{settings.PUBLIC_URL}{here.place('invoices-one', invoice_id)}"
    way = Way(Method.CARD.value if card else Method.CHECKOUT.value, card, f"{back}?paid=1", back)

    def mean() -> Saved:
        meant = mean_payment(issued.find(owner.pk, invoice_id), way)
        return Saved(201, wire.encode({"id": ids.show("pay", meant.pk)}))

    try:
        saved = idempotency.once(
            organization_id=owner.pk, organization_slug=owner.slug, method="POST", path=request.path,
            key=form.cleaned_data["token"], body={"way": form.cleaned_data["way"]}, work=mean,
        )  # fmt: skip
    except errors.ApiError as error:
        desk.complain(request, error)
        return HttpResponseRedirect(here.place("invoices-one", invoice_id))
    payment_id = ids.read("pay", json.loads(saved.body)["id"])
    # Committed; whoever comes again finds it begun.
    settlement.ask(payment_id)
    action = _action(Payment.objects.get(pk=payment_id))
    if action:
        return onward.lead(request, to=action, what="Go on to the payment page")
    return HttpResponseRedirect(here.place("invoices-one", invoice_id))
