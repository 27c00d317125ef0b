"""What a document of the books says when it is printed, and where the records of a line are."""

from decimal import Decimal

import pytest

from billing import issued, profiles, rounding
from billing.documents.document import Document, check
from core import ids
from orgs import projects
from orgs.models import Organization
from tests.billing import papers
from tests.database import ROOT
from tests.orgs import world

D = Decimal


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def test_an_invoice_says_what_its_rows_say(acme: Organization) -> None:
    invoice = papers.invoice(acme)
    papers.pay(invoice, "119.00", "19.00")
    told = issued.document(invoice)
    check(told)
    assert (told.number, told.reference, told.state) == (invoice.number, ids.show("inv", invoice.pk), "open")
    assert [(line.text, line.detail, line.quantity, line.unit) for line in told.lines] == [
        ("deepseek-chat", "3,000 tokens in (600 cached), 900 out", 3, "requests"),
        ("gpt-4o", "batch, 3,000 tokens in (600 cached), 900 out", 3, "requests"),
    ]
    assert (told.exact_usd, told.carried_usd, told.total_usd) == (D("1000.004321"), D("0.004321"), D("1190.00"))
    assert (told.paid_usd, told.open_usd, told.credited_usd) == (D("119.00"), D("1071.00"), 0)
    assert [(each.text, each.amount_usd) for each in told.movements] == [("Bank transfer", D("-119.00"))]
    assert told.payment == "IBAN DE02 1203 0000 0000 2020 51"
    assert told.seller.vat_id == "DE123456789"


def test_nobody_is_asked_to_pay_what_was_paid(acme: Organization) -> None:
    invoice = papers.invoice(acme)
    papers.pay(invoice, "1190.00", "190.00")
    told = issued.document(invoice)
    assert (told.state, told.payment) == ("paid", "")


def test_keys_and_projects_of_lines_are_named(acme: Organization) -> None:
    key = world.organization_key(acme, name="Production").key
    project = projects.create(organization=acme, name="Search", by=world.BY)
    gone = ids.new()
    lines = (
        papers.usage("gpt-4o", "1", "1.00", api_key_id=key.pk, service_tier="flex"),
        papers.usage("gpt-4o", "1", "1.00", project_id=project.pk),
        papers.usage("gpt-4o", "1", "1.00", api_key_id=gone),
    )
    told = issued.document(papers.invoice(acme, lines=lines))
    assert [line.detail.partition(", 3,000")[0] for line in told.lines] == [
        "key Production, flex tier", "project Search", ids.show("key", gone),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("treatment", "said"),
    [
        ("off", ()),
        ("domestic", ()),
        (
            "eu_reverse_charge",
            ("Reverse charge: the recipient accounts for VAT (Directive 2006/112/EC, articles 44 and 196).",),
        ),
        ("outside", ("Not subject to tax in DE: the recipient is in another country.",)),
    ],
)
def test_a_tax_that_is_not_there_is_explained(acme: Organization, treatment: str, said: tuple[str, ...]) -> None:
    assert issued.document(papers.issue(papers.draft(acme), treatment=treatment)).notes == said


def test_every_kind_of_document_adds_up_and_can_be_printed(acme: Organization) -> None:
    invoice = papers.invoice(acme)
    made: list[Document] = []
    for each in (invoice, papers.statement(acme), papers.credit_note(invoice, "100.00")):
        assert issued.printed(each).startswith(b"%PDF-")
        made.append(issued.document(each))
    assert made[1].notes == ("This statement is no invoice: nothing is due on it.",)
    assert made[2].corrects == f"invoice {invoice.number}"
    assert profiles.of(acme.pk).legal_entity.name == "Tollbook"


def test_a_line_of_usage_leads_to_its_records(acme: Organization) -> None:
    key = ids.new()
    lines = (
        papers.usage("deepseek/chat v3", "1", "1.00", api_key_id=key),
        papers.other("carried", "0.001", "0.00"),
    )
    invoice = papers.invoice(acme, lines=lines)
    # January 2026, UTC.
    assert [issued.usage_query(invoice, line) for line in issued.lines(invoice)] == [
        f"model=deepseek%2Fchat+v3&start_time=1767225600&end_time=1769904000&api_key_id={ids.show('key', key)}",
        None,
    ]


GUIDE = ROOT / "docs" / "guides" / "invoices.md"


def test_the_worked_example_of_the_guide_is_what_the_product_does(acme: Organization) -> None:
    rows = [[cell.strip() for cell in row.split("|")] for row in GUIDE.read_text().splitlines() if row.count("|") == 4]
    table = {name: (exact, amount) for _, name, exact, amount, _ in rows}
    exact = {name: D(table[name][0]) for name in ("deepseek-chat", "gpt-4o", "o3", "Carried over")}
    cents = rounding.apportion(list(exact.values()))
    assert [f"{amount:.2f}" for amount in cents] == [table[name][1] for name in exact]
    lines = [
        papers.other("carried" if name == "Carried over" else "credit", str(told), str(amount), name)
        for (name, told), amount in zip(exact.items(), cents, strict=True)
    ]
    told = issued.document(papers.invoice(acme, lines=lines))
    check(told)
    # The figures of the guide, once more by hand.
    assert (told.subtotal_usd, told.exact_usd, told.carried_usd) == (D("500.01"), D("500.008158"), D("-0.001842"))
    assert (told.taxes[0].amount_usd, told.total_usd) == (D("95.00"), D("595.01"))
    assert table["Subtotal"] == ("500.008158", "500.01")
    assert (table["VAT 19 %"][1], table["Total"][1]) == ("95.00", "595.01")
    assert table["Carried to the next document"][0] == "−0.001842"
