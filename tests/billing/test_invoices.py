"""Documents: issued once, paid in any way, taken back by others, and never changed."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from billing import invoices, profiles, topups
from billing.ledger import TransferConflict
from billing.models import Account, Invoice, TopUp
from core import errors
from ops import approvals
from ops.models import Approval, OutboxMessage
from orgs.models import Organization
from tests.billing.months import (
    ADA,
    GRACE,
    assert_nothing_is_left,
    balances,
    buy,
    close,
    document,
    documents,
    go_to,
    lines,
    receive,
    sold,
    taxed,
    use,
)
from tests.billing.world import assert_sound, organization, rows, standing
from tests.books import Books
from tests.clocks import Clock
from tests.nursery import Nursery

USD = Decimal


@pytest.fixture
def owing(calendar: Clock) -> tuple[Organization, Invoice]:
    """An organization in Germany with an invoice of 27.00 + 19 % = 32.13 USD."""
    acme = sold("acme", country="DE", name="Acme GmbH")
    profiles.set_entity(slug="default", fields={"country": "DE", "name": "Tollbook GmbH"}, by=ADA)
    profiles.set_rate(
        country="DE", valid_from=date(2031, 1, 1), percent=USD(19), name="USt", source="§ 12 UStG", by=ADA
    )
    use(acme, events=100)
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    return acme, document(acme)


def again(invoice: Invoice) -> Invoice:
    return Invoice.objects.get(pk=invoice.pk)


def test_an_invoice_says_what_is_due_and_when_with_its_tax(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    assert (invoice.subtotal_usd, invoice.tax_usd, invoice.total_usd) == (USD("27.00"), USD("5.13"), USD("32.13"))
    assert (invoice.open_usd, invoice.open_tax_usd, invoice.paid_usd) == (USD("32.13"), USD("5.13"), 0)
    assert (invoice.tax_percent, invoice.tax_name, invoice.tax_treatment) == (19, "USt", "domestic")
    # Issued on June 2nd; to be paid until the 16th is over.
    assert invoice.due_at is not None
    assert invoice.due_at.isoformat() == "2031-06-17T00:00:00+00:00"
    assert invoice.seller["name"] == "Tollbook GmbH"
    assert invoice.buyer["name"] == "Acme GmbH"
    assert balances(acme) == {"overdraft": USD(-27), "receivables": USD("-5.13"), "taxes": USD("5.13")}
    told = OutboxMessage.objects.get(kind="invoice.finalized")
    assert (told.data["number"], told.data["total_usd"]) == ("TB-2031-000001", "32.13")
    assert_sound()


def test_a_payment_pays_overdraft_and_tax_off(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    made = receive(invoice, "32.13", "pi_1")
    assert (made.amount_usd, made.tax_usd, made.over_usd) == (USD("32.13"), USD("5.13"), 0)
    paid = again(invoice)
    assert (paid.state, paid.open_usd, paid.paid_usd, paid.paid_tax_usd) == ("paid", 0, USD("32.13"), USD("5.13"))
    assert balances(acme) == {"stripe_clearing": USD("-32.13"), "taxes": USD("5.13")}
    assert standing(acme)[:2] == (0, 0)
    assert OutboxMessage.objects.filter(kind="invoice.paid").count() == 1
    assert_sound()


def test_parts_add_up_and_what_is_beyond_becomes_credit(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    assert receive(invoice, "10.00", "part 1").tax_usd == USD("1.60")
    assert again(invoice).state == "open"
    assert receive(invoice, "0.01", "part 2").tax_usd == 0
    assert receive(invoice, "30.00", "part 3", Account.BANK).over_usd == USD("7.88")
    assert again(invoice).state == "paid"
    assert balances(acme) == {"stripe_clearing": USD("-10.01"), "bank": USD("-30"), "taxes": USD("5.13")}
    assert standing(acme)[:2] == (USD("7.88"), 0)
    # Whoever pays once more has credit.
    assert receive(invoice, "5.00", "part 4").over_usd == 5
    assert standing(acme)[:2] == (USD("12.88"), 0)
    assert_sound()


def test_a_payment_counts_once_for_each_reference(owing: tuple[Organization, Invoice]) -> None:
    _, invoice = owing
    first = receive(invoice, "10.00", "pi_1")
    assert receive(invoice, "10.00", "pi_1").pk == first.pk
    assert again(invoice).open_usd == USD("22.13")
    with pytest.raises(TransferConflict):
        receive(invoice, "10.01", "pi_1")
    with pytest.raises(TransferConflict):
        receive(invoice, "10.00", "pi_1", Account.BANK)


@pytest.mark.one_database
def test_ten_at_once_are_one_payment(books: Books, owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    made = books.together([lambda: receive(invoice, "32.13", "pi_1").pk] * 6)
    assert len(set(made)) == 1
    assert balances(acme) == {"stripe_clearing": USD("-32.13"), "taxes": USD("5.13")}


def test_a_void_invoice_keeps_its_number_and_is_asked_for_again(
    calendar: Clock, owing: tuple[Organization, Invoice]
) -> None:
    acme, invoice = owing
    voided = invoices.void(invoice_id=invoice.pk, reason="wrong address", by=ADA)
    assert invoices.void(invoice_id=invoice.pk, reason="twice", by=ADA).pk == voided.pk
    assert (voided.state, voided.number, voided.open_usd) == ("void", "TB-2031-000001", 0)
    assert balances(acme) == {"overdraft": USD(-27)}
    go_to(calendar, "2031-07-01T00:00:00Z")
    close(calendar)
    second = documents(acme)[-1]
    assert (second.number, second.total_usd) == ("TB-2031-000002", USD("32.13"))
    assert lines(second) == [("credit", "27", "27.00")]
    receive(second, "1.00", "pi_1")
    with pytest.raises(errors.Conflict):
        invoices.void(invoice_id=second.pk, reason="too late", by=ADA)
    assert_nothing_is_left()
    assert_sound()


def test_a_credit_note_makes_less_of_what_is_open(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    note = invoices.credit(invoice_id=invoice.pk, amount_usd=USD("12.13"), reason="an outage", by=ADA)
    # 12.13 × 5.13 : 32.13 = 1.9367…
    assert (note.number, note.total_usd, note.tax_usd, note.subtotal_usd) == (
        "TB-2031-000002", USD("12.13"), USD("1.94"), USD("10.19"),
    )  # fmt: skip
    assert (note.kind, note.state, note.corrects_id) == ("credit_note", "issued", invoice.pk)
    assert lines(note) == [("correction", "10.19", "10.19")]
    assert (again(invoice).open_usd, again(invoice).open_tax_usd) == (USD("20.00"), USD("3.19"))
    assert balances(acme) == {
        "overdraft": USD("-16.81"), "adjustments": USD("-10.19"), "receivables": USD("-3.19"), "taxes": USD("3.19"),
    }  # fmt: skip
    receive(invoice, "20.00", "pi_1")
    assert again(invoice).state == "paid"
    assert standing(acme)[:2] == (0, 0)
    assert_sound()


def test_a_credit_note_on_a_paid_invoice_becomes_credit_with_its_tax(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    receive(invoice, "32.13", "pi_1")
    invoices.credit(invoice_id=invoice.pk, amount_usd=USD("32.12"), reason="an outage", by=ADA)
    assert standing(acme).posted == USD("32.12")
    with pytest.raises(errors.OutOfRange, match=r"0\.01"):
        invoices.credit(invoice_id=invoice.pk, amount_usd=USD("0.02"), reason="too much", by=ADA)
    invoices.credit(invoice_id=invoice.pk, amount_usd=USD("0.01"), reason="the rest", by=ADA)
    assert balances(acme) == {"stripe_clearing": USD("-32.13"), "adjustments": USD("-27")}
    assert again(invoice).state == "paid"
    assert_sound()


def test_half_paid_and_credited_the_open_half_goes_first(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    receive(invoice, "30.13", "pi_1")
    invoices.credit(invoice_id=invoice.pk, amount_usd=USD("5.00"), reason="an outage", by=ADA)
    found = again(invoice)
    assert (found.state, found.open_usd, found.paid_usd) == ("paid", 0, USD("27.13"))
    # Three dollars that were paid, and nothing is owed.
    assert standing(acme)[:2] == (USD(3), 0)
    assert_sound()


def test_what_is_given_up_is_forgiven(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    receive(invoice, "2.13", "pi_1")
    # A top-up pays some of the same overdraft.
    buy(acme, "20")
    given_up = invoices.give_up(invoice_id=invoice.pk, reason="insolvent", by=ADA)
    assert (given_up.state, given_up.open_usd) == ("uncollectible", 0)
    # 27 − 1.79 of the payment − 20
    assert balances(acme)["write_offs"] == USD("-5.21")
    assert standing(acme)[:2] == (0, 0)
    assert "receivables" not in balances(acme)
    assert receive(invoice, "3.00", "late").over_usd == 3
    assert standing(acme).posted == 3
    assert_sound()


def test_a_large_credit_note_needs_a_second_person_each_time(
    owing: tuple[Organization, Invoice], settings: Any
) -> None:
    settings.MONEY_APPROVAL_USD = 10
    _, invoice = owing

    def credit() -> Invoice:
        return invoices.credit(invoice_id=invoice.pk, amount_usd=USD("11.00"), reason="outage", by=ADA)

    for left in ("21.13", "10.13"):
        for _ in range(2):
            with pytest.raises(approvals.ApprovalNeeded):
                credit()
        question = Approval.objects.get(decided_at=None)
        approvals.decide(approval_id=question.pk, by=GRACE, grant=True)
        credit()
        assert again(invoice).open_usd == USD(left)


def test_no_more_is_given_up_than_was_open_when_it_was_asked_for(
    owing: tuple[Organization, Invoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, invoice = owing
    # As it was before a payment went back.
    seen = invoices.find(invoice.pk)
    seen.open_usd -= Decimal("0.01")
    monkeypatch.setattr(invoices, "find", lambda _: seen)
    with pytest.raises(errors.Conflict, match="More is open"):
        invoices.give_up(invoice_id=invoice.pk, reason="insolvent", by=ADA)
    assert Invoice.objects.get(pk=invoice.pk).state == "open"


def test_a_large_debt_is_given_up_by_two(owing: tuple[Organization, Invoice], settings: Any) -> None:
    settings.MONEY_APPROVAL_USD = 10
    _, invoice = owing
    with pytest.raises(approvals.ApprovalNeeded):
        invoices.give_up(invoice_id=invoice.pk, reason="insolvent", by=ADA)
    approvals.decide(approval_id=Approval.objects.get().pk, by=GRACE, grant=False)
    with pytest.raises(approvals.Refused):
        invoices.give_up(invoice_id=invoice.pk, reason="insolvent", by=ADA)
    assert again(invoice).state == "open"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE invoice SET total_usd = total_usd + 1, subtotal_usd = subtotal_usd + 1",
        "UPDATE invoice SET number = 'TB-1'",
        "UPDATE invoice SET buyer = '{}'",
        "UPDATE invoice SET state = 'draft', issued_at = NULL, number = NULL, year = NULL, sequence = NULL",
        "DELETE FROM invoice",
        "UPDATE invoice_line SET amount_usd = 0",
        "DELETE FROM invoice_line",
        "INSERT INTO invoice_line SELECT gen_random_uuid(), 99, kind, text, model, service_tier, batch, NULL, NULL,"
        " NULL, NULL, NULL, NULL, 1, 1, invoice_id, organization_id FROM invoice_line LIMIT 1",
        "UPDATE invoice_settlement SET amount_usd = 1",
        "UPDATE billing_period SET carried_usd = 0 WHERE state = 'finalized'",
        "UPDATE billing_period SET ends_at = ends_at + interval '1 hour'",
    ],
)
def test_what_was_issued_stays_as_it_is(owing: tuple[Organization, Invoice], change: str) -> None:
    receive(owing[1], "1.00", "pi_1")
    with pytest.raises(DatabaseError, match=r"stay|append-only"):
        rows(change)


def test_a_draft_cannot_be_paid_and_a_statement_neither(calendar: Clock) -> None:
    acme = organization("acme", usd="1")
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    with pytest.raises(errors.Conflict):
        receive(document(acme), "1.00", "pi_1")
    with pytest.raises(errors.Conflict):
        invoices.credit(invoice_id=document(acme).pk, amount_usd=USD(1), reason="none", by=ADA)
    with pytest.raises(errors.NotFound), transaction.atomic():
        invoices.receive(invoice_id=acme.pk, amount_usd=USD(1), reference="pi_1")


def test_each_paid_top_up_gets_one_receipt(books: Books) -> None:
    acme = organization("acme")
    made = TopUp.objects.create(organization=acme, amount_usd=USD("12.50"))
    assert invoices.issue_receipts() == 0
    profiles.of(acme.pk)
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=USD(1), amount_usd=USD(10), monthly_cap_usd=USD(100), by=ADA
    )
    topups.begin(topup_id=made.pk)
    topups.succeed(topup_id=made.pk)
    assert sum(books.together([invoices.issue_receipts] * 4)) == 1
    found = document(acme)
    assert (found.kind, found.state, found.number) == ("receipt", "issued", f"TB-{found.year}-000001")
    assert (found.total_usd, found.tax_usd) == (USD("12.50"), 0)
    assert lines(found) == [("topup", "12.5", "12.50")]
    assert_sound()


def test_a_receipt_says_what_tax_was_taken_and_why(calendar: Clock) -> None:
    acme = organization("acme")
    taxed("DE")
    profiles.set_profile(organization_id=acme.pk, fields={"country": "DE"}, by=ADA)
    paid = {"organization": acme, "amount_usd": USD("10.50"), "state": "succeeded", "settled_at": calendar.at}
    TopUp.objects.create(**paid, tax_usd=USD("2.00"), created_at=calendar.at)
    # Of one that was paid under another rule only the amount is known.
    TopUp.objects.create(**paid, tax_usd=USD("0.30"), created_at=calendar.at)
    assert invoices.issue_receipts() == 2
    first, second = sorted(documents(acme), key=lambda one: -one.tax_usd)
    assert (first.subtotal_usd, first.tax_usd, first.total_usd) == (USD("10.50"), USD("2.00"), USD("12.50"))
    assert (first.tax_percent, first.tax_name, first.tax_treatment) == (19, "VAT", "domestic")
    assert (second.total_usd, second.tax_percent, second.tax_treatment) == (USD("10.80"), 0, "")
    assert invoices.issue_receipts() == 0


def settle(kind: str, invoice: str) -> None:
    """One of the things that happen to an issued invoice, or the receipts."""
    found = Invoice.objects.get(pk=invoice)
    if kind == "receive":
        receive(found, "1.13", "pi_1")
    elif kind == "credit":
        invoices.credit(invoice_id=found.pk, amount_usd=USD("0.50"), reason="an outage", by=ADA)
    elif kind == "void":
        invoices.void(invoice_id=found.pk, reason="wrong address", by=ADA)
    else:
        invoices.issue_receipts()


def stand() -> list[Any]:
    """What killed acts must leave as it was."""
    tables = ("invoice", "invoice_line", "invoice_settlement", "number_series", "transfer", "wallet", "credit_grant")
    return [
        rows(f"SELECT md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM {table} t") for table in tables
    ]


@pytest.mark.parametrize(
    ("kind", "dies_at", "state", "number"),
    [
        ("receive", "receive.after_ledger", "open", 1), ("credit", "credit.after_ledger", "open", 2),
        ("void", "drop.after_ledger", "void", 1), ("receipt", "receipt.before_commit", "open", 2),
    ],
)  # fmt: skip
def test_who_is_killed_while_an_invoice_is_settled_leaves_nothing_half_done(
    owing: tuple[Organization, Invoice], calendar: Clock, nursery: Nursery, kind: str, dies_at: str, state: str,
    number: int,
) -> None:  # fmt: skip
    acme, invoice = owing
    paid = {"amount_usd": USD("10.00"), "state": "succeeded", "settled_at": calendar.at, "created_at": calendar.at}
    if kind == "receipt":
        TopUp.objects.create(organization=acme, **paid)
    before = stand()
    acting: dict[str, Any] = {"kind": kind, "invoice": str(invoice.pk)}
    ended = nursery.run("tests.billing.test_invoices:settle", dies_at=dies_at, **acting)
    assert ended.died, ended
    assert stand() == before
    for _ in range(2 if kind != "credit" else 1):
        settle(**acting)
    assert again(invoice).state == state
    assert Invoice.objects.filter(sequence__isnull=False).count() == number
    # A top-up without its payment is no sound one, as P01 says.
    assert_sound(but="none" if kind != "receipt" else "P01")
