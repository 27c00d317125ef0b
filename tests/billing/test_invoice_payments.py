"""Paying an invoice over HTTP: on a page of the fake Stripe's or with a saved card, once, whoever asks how often."""

import json
from collections.abc import Iterator
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from django.test import Client
from pypdf import PdfReader

from billing import invoices
from billing.models import Invoice, InvoiceSettlement, Payment, Transfer
from billing.processor import client, customers, inbox
from core import ids
from orgs.models import Organization
from tests.billing import papers
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.journeys.neighbours import Caller
from tests.orgs import world

D = Decimal
PAYS = "4242424242424242"
DECLINED = "4000000000000341"


@pytest.fixture
def fake(settings: Any) -> Iterator[StripeFake]:
    """A fake Stripe that the product is led to."""
    with StripeFake(seed=7) as made:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = made.api_key, made.base_url
        settings.STRIPE_WEBHOOK_SECRETS, settings.STRIPE_ACCOUNT = [made.secret], ""
        settings.PUBLIC_URL = "https://tollbook.example"
        yield made


@pytest.fixture
def acme(books: Books) -> Organization:
    return world.organization("acme-labs")


@pytest.fixture
def caller(acme: Organization) -> Caller:
    """A key that may manage billing."""
    return Caller("organization", world.organization_key(acme, scopes=["billing:manage"]).secret)


def pay(caller: Caller, invoice: Invoice, key: str = "one", **body: Any) -> Any:
    """Ask to pay an invoice."""
    path = f"/v1/invoices/{papers.shown(invoice)}/pay"
    return caller.post(path, body, headers={"Idempotency-Key": key})


def told(answer: Any) -> Any:
    """The payment in an answer."""
    assert answer.status_code == 201, answer.content
    return json.loads(answer.content, parse_float=Decimal)


def deliver(fake: StripeFake) -> None:
    """Deliver every event that waits, each handled before the next comes."""
    for event_id in fake.webhooks.events():
        sent = fake.webhooks.sign(event_id)
        headers = {"Stripe-Signature": sent.signature}
        answer = Client().generic("POST", "/v1/webhooks/stripe", sent.body, "application/json", headers=headers)
        assert answer.status_code == 200
        inbox.sweep()


def with_card(fake: StripeFake, owner: Organization, number: str) -> None:
    """Save a card."""
    at = client.connect()
    customer = customers.ensure(owner.pk, at=at)
    fake.save_card(customer, number)
    customers.sync(customer, at=at)


def sessions(fake: StripeFake) -> int:
    """How many of its pages were asked for."""
    return len([each for each in fake.requests if (each.method, each.path) == ("POST", "/v1/checkout/sessions")])


def again(invoice: Invoice) -> Invoice:
    """The invoice as it stands now."""
    return Invoice.objects.get(pk=invoice.pk)


def moved(owner: Organization) -> set[tuple[str, str, str, Decimal]]:
    """What moved in the ledger."""
    return set(Transfer.objects.filter(organization=owner).values_list("kind", "debit", "credit", "amount_usd"))


def test_an_invoice_is_paid_on_stripes_page(fake: StripeFake, acme: Organization, caller: Caller) -> None:
    invoice = papers.invoice(acme)
    asked = told(pay(caller, invoice))
    assert (asked["status"], asked["amount_usd"], asked["tax_usd"]) == ("requires_action", 1190, 190)
    assert asked["invoice_id"] == papers.shown(invoice)
    assert asked["checkout_url"].startswith("http")
    (payment,) = Payment.objects.all()
    fake.pay(payment.session_id or "")
    deliver(fake)
    assert (again(invoice).state, again(invoice).open_usd, again(invoice).paid_usd) == ("paid", 0, 1190)
    # The tax was owed beside the wallet; the net part is credit, for nothing was owed here.
    assert moved(acme) == {
        ("tax", "stripe_clearing", "receivables", D(190)),
        ("invoice", "stripe_clearing", "wallet", D(1000)),
        ("fee", "payment_fees", "stripe_clearing", D("34.81")),
    }
    # The same key once more tells how it ended; another one finds nothing to pay.
    assert told(pay(caller, invoice))["status"] == "succeeded"
    assert pay(caller, invoice, "two").status_code == 409
    assert Payment.objects.count() == 1


def test_an_invoice_is_paid_with_the_saved_card_at_once(fake: StripeFake, acme: Organization, caller: Caller) -> None:
    invoice = papers.invoice(acme)
    papers.pay(invoice, "119.00", "19.00")
    with_card(fake, acme, PAYS)
    paid = told(pay(caller, invoice, method="card"))
    # What is left of it, and the tax in that.
    assert (paid["status"], paid["amount_usd"], paid["tax_usd"]) == ("succeeded", 1071, 171)
    assert again(invoice).state == "paid"
    settled = InvoiceSettlement.objects.filter(invoice=invoice).order_by("id")
    assert list(settled.values_list("amount_usd", "tax_usd", "source")) == [
        (D(119), D(19), "bank"), (D(1071), D(171), "stripe_clearing"),
    ]  # fmt: skip
    deliver(fake)
    assert InvoiceSettlement.objects.count() == 2


def test_a_declined_card_leaves_the_invoice_open_and_another_try_is_another_payment(
    fake: StripeFake, acme: Organization, caller: Caller
) -> None:
    invoice = papers.invoice(acme)
    with_card(fake, acme, DECLINED)
    declined = told(pay(caller, invoice, method="card"))
    assert (declined["status"], declined["failure"]["code"]) == ("failed", "generic_decline")
    assert again(invoice).open_usd == 1190
    assert told(pay(caller, invoice, method="card"))["id"] == declined["id"]
    assert told(pay(caller, invoice, "two"))["id"] != declined["id"]


def test_while_a_payment_is_under_way_who_asks_again_gets_that_one(
    fake: StripeFake, acme: Organization, caller: Caller
) -> None:
    invoice = papers.invoice(acme)
    first, second = told(pay(caller, invoice, "one")), told(pay(caller, invoice, "two"))
    assert (first["id"], first["checkout_url"]) == (second["id"], second["checkout_url"])
    assert sessions(fake) == 1
    # It asks for more than is open now: it has to end first.
    papers.pay(again(invoice), "119.00", "19.00")
    refused = pay(caller, invoice, "three")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "payment_open")


def test_what_cannot_be_paid_is_refused_before_anybody_is_asked(
    fake: StripeFake, acme: Organization, caller: Caller
) -> None:
    for document in (papers.statement(acme), papers.credit_note(papers.invoice(acme), "100.00")):
        refused = pay(caller, document, key=str(document.pk))
        assert (refused.status_code, refused.json()["error"]["param"]) == (409, "invoice_id")
    theirs = papers.invoice(world.organization("other-inc"))
    assert pay(caller, theirs, "x").status_code == 404
    assert pay(caller, papers.draft(acme), "y").status_code == 404
    open_one = papers.invoice(acme)
    for body, param in (
        ({"method": "cash"}, "method"), ({"method": "card"}, "method"), ({"success_url": "ftp://x"}, "success_url"),
    ):  # fmt: skip
        refused = pay(caller, open_one, "z", **body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)
    path = f"/v1/invoices/{papers.shown(open_one)}/pay"
    assert caller.post(path, {}).status_code == 400
    reader = Caller("reader", world.organization_key(acme, name="reader").secret)
    assert reader.post(path, {}, headers={"Idempotency-Key": "k"}).status_code == 403
    assert Payment.objects.count() == 0
    assert sessions(fake) == 0


def test_without_stripe_payments_are_off_and_say_so(acme: Organization, caller: Caller) -> None:
    refused = pay(caller, papers.invoice(acme))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "payments_off")
    made_up = f"/v1/invoices/{ids.show('inv', ids.new())}/pay"
    assert caller.post(made_up, {}, headers={"Idempotency-Key": "k"}).status_code == 404


def test_a_paid_top_up_names_its_receipt_which_can_be_printed(
    fake: StripeFake, acme: Organization, caller: Caller
) -> None:
    asked = caller.post("/v1/topups", {"amount_usd": 50}, headers={"Idempotency-Key": "top"})
    assert asked.status_code == 201, asked.content
    (payment,) = Payment.objects.all()
    fake.pay(payment.session_id or "")
    deliver(fake)
    path = f"/v1/topups/{asked.json()['id']}"
    assert caller.get(path).json()["receipt_id"] is None
    assert invoices.issue_receipts() == 1
    receipt = caller.get(f"/v1/invoices/{caller.get(path).json()['receipt_id']}").json()
    assert (receipt["kind"], receipt["status"], receipt["total_usd"]) == ("receipt", "issued", 50)
    assert [(line["kind"], line["amount_usd"], line["usage_query"]) for line in receipt["lines"]] == [
        ("topup", 50, None)
    ]
    pdf = caller.get(receipt["pdf_path"], accept="application/pdf")
    text = PdfReader(BytesIO(pdf.content)).pages[0].extract_text()
    for part in ("Receipt", receipt["number"], "$50.00 received", "Top-ups"):
        assert part in text, part
