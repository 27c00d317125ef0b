"""Documents at the customers' pages, and paying one, with a fake Stripe at the other end."""

import re
from datetime import timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from django.utils.html import escape
from pypdf import PdfReader

from billing.models import Invoice, Payment
from core import ids
from orgs.models import Organization
from tests import desk
from tests.billing import papers
from tests.billing.paying import deliver, fake, save_card
from tests.fakes.stripe import StripeFake
from tests.orgs import world
from tests.portal.test_credit import text
from tests.portal.world import member, owner

__all__ = ["fake"]

INVOICES = "/portal/acme-labs/invoices"
TOKEN = "A-token-of-the-test-1"


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def place(of: Invoice) -> str:
    """The page of a document."""
    return f"/portal/{of.organization.slug}/invoices/{papers.shown(of)}"


def whole(answer: Any) -> str:
    """What a download says."""
    return b"".join(answer).decode()


def test_the_list_tells_documents_apart_and_by_what_is_chosen(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.templatetags.portal.clock.now", lambda: papers.ISSUED)
    made = papers.invoice(acme)
    papers.statement(acme)
    client = owner(acme)
    told = text(client.get(INVOICES))
    assert "TB-2026-000001 Invoice, January 2026 $1,190.00 $0.00 $1,190.00 to be paid 2 Nov 2026 PDF CSV" in told
    assert "Statement February 2026 −$2.35 – – issued 2 Nov 2026" in told
    chosen = text(client.get(INVOICES, {"kind": "statement"}))
    assert ("TB-2026-000001" in chosen, "February 2026" in chosen) == (False, True)
    assert "No document is like this." in text(client.get(INVOICES, {"state": "void"}))
    assert "TB-2026-000001" in text(client.get(INVOICES, {"kind": "<script>"}))
    rows = whole(client.get("/portal/acme-labs/invoices.csv", {"state": "open"})).splitlines()
    assert len(rows) == 2
    assert rows[1].startswith(f"{papers.shown(made)},TB-2026-000001,invoice,open,")


def test_the_list_goes_by_pages(acme: Organization) -> None:
    for _ in range(27):
        papers.statement(acme)
    client = owner(acme)
    first = client.get(INVOICES, {"kind": "statement"}).content.decode()
    older = re.search(r'rel="next" href="([^"]*)"', first)
    assert older is not None
    second = client.get(older[1].replace("&amp;", "&"))
    assert [first.count("as PDF"), second.content.decode().count("as PDF")] == [25, 2]
    assert second.context["form"].cleaned_data["kind"] == "statement"


def test_an_invoice_says_what_it_is_made_of_to_the_last_digit(acme: Organization) -> None:
    made = papers.invoice(acme)
    papers.pay(made, "190", "30.33")
    note = papers.credit_note(made, "100")
    told = text(owner(acme).get(place(made)))
    assert "deepseek-chat 3,000 tokens in (600 cached), 900 out 3 requests $700.003621 $700.00" in told
    assert "Subtotal $1,000.004321 $1,000.00" in told
    assert "VAT 19 % $190.00" in told
    assert "Total $1,190.00" in told
    assert "0.004321 USD below a cent is carried to the next document." in told
    assert "Bank transfer −$190.00" in told
    assert "Still to be paid $1,000.00" in told
    assert f"{note.number} ($119.00)" in told
    assert "IBAN DE02 1203 0000 0000 2020 51" in told
    assert f"Corrects {made.number}" in text(owner(acme).get(place(note)))


def test_an_invoice_that_was_due_is_told_as_overdue(acme: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    made = papers.invoice(acme)
    assert made.due_at is not None
    client = owner(acme)
    for at, badge, said in (
        (made.due_at - timedelta(seconds=1), "to be paid", "$1,190.00 to be paid by"),
        (made.due_at, "overdue", "$1,190.00 to be paid; it was due by"),
    ):
        monkeypatch.setattr("portal.templatetags.portal.clock.now", lambda at=at: at)
        assert f"$1,190.00 {badge} 2 Nov 2026" in text(client.get(INVOICES))
        assert said in text(client.get(place(made)))


def test_a_line_leads_to_its_requests(acme: Organization) -> None:
    key = world.organization_key(acme).key
    lines = [papers.usage("deepseek-chat", "1", "1.00", api_key_id=key.pk), papers.other("carried", "0.004", "0.00")]
    made = papers.issue(papers.draft(acme, lines=lines), percent="19")
    page = owner(acme).get(place(made))
    query = f"period=days&first=2026-01-01&last=2026-01-31&model=deepseek-chat&key={ids.show('key', key.pk)}"
    assert [each.place for each in page.context["lines"]] == [f"/portal/acme-labs/requests?{query}", ""]
    assert escape(f"/portal/acme-labs/requests?{query}") in page.content.decode()
    there = owner(acme).get(f"/portal/acme-labs/requests?{query}")
    assert (there.status_code, "2026-01-31" in there.content.decode()) == (200, True)


def test_a_document_comes_as_a_pdf_and_as_a_table(acme: Organization) -> None:
    made = papers.invoice(acme)
    client = owner(acme)
    printed = client.get(f"{place(made)}.pdf")
    assert printed["Content-Type"] == "application/pdf"
    assert printed["Content-Disposition"] == 'attachment; filename="TB-2026-000001.pdf"'
    assert "TB-2026-000001" in PdfReader(BytesIO(printed.content)).pages[0].extract_text()
    rows = whole(client.get(f"{place(made)}.csv")).splitlines()
    assert rows[1].endswith("700.003621,700.00")
    assert rows[-1].endswith("1190.004321,1190.00")


def test_what_others_wrote_is_shown_and_not_run(acme: Organization) -> None:
    lines = [papers.usage("<img src=x onerror=alert(1)>", "1", "1.00")]
    made = papers.draft(acme, lines=lines, reason="<script>alert(2)</script>")
    papers.issue(made)
    page = owner(acme).get(place(made)).content.decode()
    assert ("<img src=x" in page, "<script>alert" in page) == (False, False)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_drafts_and_documents_of_others_are_not_there(acme: Organization) -> None:
    made, draft = papers.invoice(acme), papers.draft(acme)
    other = owner(world.organization("other"))
    for end in ("", ".pdf", ".csv"):
        assert owner(acme).get(f"{place(draft)}{end}").status_code == 404
        assert other.get(f"{place(made)}{end}").status_code == 404
        assert other.get(f"/portal/other/invoices/{papers.shown(made)}{end}").status_code == 404
    assert other.post(f"/portal/other/invoices/{papers.shown(made)}/pay", {"way": "checkout"}).status_code == 404
    assert other.get("/portal/other/invoices", {"after": papers.shown(made)}).status_code == 400
    assert Payment.objects.count() == 0


def test_a_list_and_a_document_ask_as_often_whatever_there_is(acme: Organization) -> None:
    made = papers.invoice(acme)
    client = owner(acme)
    few = [len(desk.read(client, each).queries) for each in (INVOICES, place(made))]
    for _ in range(10):
        papers.invoice(acme)
    many = papers.issue(
        papers.draft(acme, lines=[papers.usage(f"model-{number}", "1", "1.00") for number in range(30)]), percent="19"
    )
    assert [len(desk.read(client, each).queries) for each in (INVOICES, place(many))] == few
    assert max(few) < 25


def test_an_invoice_is_paid_on_stripes_page_once(acme: Organization, fake: StripeFake) -> None:
    made = papers.invoice(acme)
    client = owner(acme)
    assert "Pay $1,190.00" in text(client.get(place(made)))
    for _ in range(2):
        onward = client.post(f"{place(made)}/pay", {"way": "checkout", "token": TOKEN}).content.decode()
        assert f'content="0;url={escape(Payment.objects.get().checkout_url)}"' in onward
    # Another form while that page waits leads to the same one.
    client.post(f"{place(made)}/pay", {"way": "checkout", "token": "Another-token-of-tests"})
    payment = Payment.objects.get()
    assert (payment.amount_usd, payment.tax_usd) == (1190, 190)
    assert "A payment waits for you" in text(client.get(place(made)))
    fake.pay(payment.session_id or "")
    deliver(fake)
    told = text(client.get(place(made)))
    assert ("Pay $" in told, "Payment by card −$1,190.00" in told) == (False, True)
    assert client.post(f"{place(made)}/pay", {"way": "checkout", "token": "Third-token-of-tests"}).status_code == 302
    assert "Nothing is open on this document." in text(client.get(place(made)))
    assert Payment.objects.count() == 1


def test_a_saved_card_pays_an_invoice_at_once(acme: Organization, fake: StripeFake) -> None:
    made = papers.invoice(acme)
    save_card(fake, acme)
    client = owner(acme)
    card = client.get(place(made)).context["form"]["way"].initial
    assert client.post(f"{place(made)}/pay", {"way": card, "token": TOKEN})["Location"] == place(made)
    made.refresh_from_db()
    assert (made.state, made.paid_usd) == ("paid", Decimal(1190))


def test_a_way_to_pay_that_is_none_is_told_on_the_page_of_the_invoice(acme: Organization, fake: StripeFake) -> None:
    made = papers.invoice(acme)
    wrong = owner(acme).post(f"{place(made)}/pay", {"way": "barter", "token": TOKEN})
    assert wrong.status_code == 422
    assert f'data-place="{place(made)}"' in wrong.content.decode()


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_who_does_not_manage_billing_pays_nothing(acme: Organization, fake: StripeFake, role: str) -> None:
    made = papers.invoice(acme)
    client = member(acme, role)
    seen = 200 if role == "viewer" else 403
    for at in (INVOICES, "/portal/acme-labs/invoices.csv", place(made), f"{place(made)}.pdf", f"{place(made)}.csv"):
        assert client.get(at).status_code == seen
    assert client.post(f"{place(made)}/pay", {"way": "checkout", "token": TOKEN}).status_code == 403
    assert Payment.objects.count() == 0


def test_without_stripe_an_invoice_is_paid_at_the_bank(acme: Organization) -> None:
    made = papers.invoice(acme)
    client = owner(acme)
    told = text(client.get(place(made)))
    assert "By bank transfer, naming TB-2026-000001" in told
    assert client.post(f"{place(made)}/pay", {"way": "checkout", "token": TOKEN}).status_code == 503
