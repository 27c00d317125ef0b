"""Payments that go back: the invoice is open again by what they had paid of it; a top-up's receipt is corrected."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from billing import dunning, invoices, issued, payments, profiles, refunds, settlement, topups
from billing.models import Dispute, DunningStep, Invoice, InvoiceSettlement, Payment, Refund, TopUp
from billing.processor import client, customers
from core import errors
from ops.models import OutboxMessage
from orgs.models import Organization
from tests.billing.months import ADA, DAY, balances, close, document, documents, go_to, lines, receive, sold, use
from tests.billing.paying import BY, clearing, deliver, paying, save_card
from tests.billing.world import assert_sound, rows, standing
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake

USD = Decimal


@pytest.fixture
def owing(calendar: Clock) -> tuple[Organization, Invoice]:
    """An organization in Germany with an invoice of 27.00 + 19 % = 32.13 USD, due on 17 June 2031."""
    acme = sold("acme", country="DE", name="Acme GmbH")
    profiles.set_entity(slug="default", fields={"country": "DE", "name": "Tollbook GmbH"}, by=ADA)
    profiles.set_rate(
        country="DE", valid_from=date(2031, 1, 1), percent=USD(19), name="USt", source="§ 12 UStG", by=ADA
    )
    use(acme, events=100)
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    return acme, document(acme)


@pytest.fixture
def fake(calendar: Clock, owing: tuple[Organization, Invoice]) -> Iterator[StripeFake]:
    """A fake Stripe whose clock shows the same, with a card of the organization's."""
    with paying() as made:
        made.move_clock(calendar.at - datetime.now(UTC))
        save_card(made, owing[0])
        yield made


def again(invoice: Invoice) -> Invoice:
    return Invoice.objects.get(pk=invoice.pk)


def pay(of: Invoice, *, method: str = "card") -> Payment:
    """Ask for what is open of an invoice."""
    now = again(of)
    with transaction.atomic():
        made = payments.open_one(
            organization_id=of.organization_id, purpose="invoice", subject_id=of.pk, amount_usd=now.open_usd,
            tax_usd=now.open_tax_usd, method=method,
            card=customers.default_card(of.organization_id) if method == "card" else None,
        )  # fmt: skip
    settlement.ask(made.pk)
    return Payment.objects.get(pk=made.pk)


def give_back(payment: Payment, usd: str) -> Refund:
    """A refund of ours that Stripe was asked for."""
    made = refunds.ask(payment_id=payment.pk, amount_usd=USD(usd), reason="a test", by=BY)
    refunds.call(made.pk, at=client.connect())
    return Refund.objects.get(pk=made.pk)


def amounts(of: Invoice) -> tuple[Any, ...]:
    """State, what is open and the tax in it, what is paid and the tax in it."""
    now = again(of)
    return now.state, now.open_usd, now.open_tax_usd, now.paid_usd, now.paid_tax_usd


def told() -> list[str]:
    kinds = OutboxMessage.objects.filter(kind__startswith="invoice.").order_by("pk").values_list("kind", flat=True)
    return [kind for kind in kinds if kind != "invoice.finalized"]


OPEN: tuple[Any, ...] = ("open", USD("32.13"), USD("5.13"), 0, 0)
PAID: tuple[Any, ...] = ("paid", 0, 0, USD("32.13"), USD("5.13"))


def test_a_refunded_invoice_is_open_again_and_can_be_paid_again(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    first = pay(invoice)
    assert (amounts(invoice), standing(acme).overdraft) == (PAID, 0)
    with pytest.raises(DatabaseError, match="stays"):
        # Not without what took the payment back.
        rows("UPDATE invoice SET state = 'open', settled_at = NULL, open_usd = total_usd")
    made = give_back(first, "32.13")
    assert (made.state, made.tax_usd) == ("succeeded", USD("5.13"))
    # It is owed as before, with its tax.
    assert (amounts(invoice), standing(acme).overdraft) == (OPEN, 27)
    assert balances(acme)["receivables"] == USD("-5.13")
    deliver(fake)
    assert amounts(invoice) == OPEN
    assert_sound()
    second = pay(invoice)
    assert (second.state, second.surplus, standing(acme).overdraft) == ("succeeded", False, 0)
    assert (amounts(invoice), balances(acme).get("receivables")) == (PAID, None)
    assert told() == ["invoice.paid", "invoice.reopened", "invoice.paid"]
    found = InvoiceSettlement.objects.filter(invoice=invoice).order_by("pk")
    assert list(found.values_list("kind", "amount_usd", "tax_usd", "payment_id")) == [
        ("payment", USD("32.13"), USD("5.13"), first.pk), ("return", USD("-32.13"), USD("-5.13"), first.pk),
        ("payment", USD("32.13"), USD("5.13"), second.pk),
    ]  # fmt: skip
    deliver(fake)
    assert clearing() * 100 == fake.balance()
    assert_sound()


def test_a_part_that_goes_back_opens_that_part_and_the_next_invoice_asks_for_its_own_only(
    calendar: Clock, owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    made = pay(invoice)
    # Of the tax 5.13 × 10 / 32.13 = 1.5966…, then 3.53 × 7.13 / 22.13 = 1.1373…
    assert give_back(made, "10").tax_usd == USD("1.60")
    assert give_back(made, "7.13").tax_usd == USD("1.14")
    assert amounts(invoice) == ("open", USD("17.13"), USD("2.74"), USD("15"), USD("2.39"))
    assert standing(acme).overdraft == USD("14.39")
    with pytest.raises(errors.OutOfRange, match=r"Only 15 USD of this payment"):
        give_back(made, "15.01")
    use(acme, events=10)
    go_to(calendar, "2031-07-01T00:00:00Z")
    close(calendar)
    _, following = documents(acme)
    assert (following.kind, following.subtotal_usd) == ("invoice", USD("2.70"))
    assert lines(following)[0] == ("deepseek-chat", "2.7", "2.70")
    assert_sound()


def test_what_came_beyond_the_open_amount_goes_back_first(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    made = pay(invoice, method="checkout")
    receive(invoice, "12.13", "a bank transfer")
    fake.pay(made.session_id or "")
    deliver(fake)
    # 20.00 were open, so 12.13 became credit.
    assert (amounts(invoice), standing(acme).posted) == (PAID, USD("12.13"))
    row = give_back(made, "12.13")
    assert (row.tax_usd, amounts(invoice), standing(acme).posted) == (0, PAID, 0)
    assert give_back(made, "5").state == "succeeded"
    # 5.13 × 5 / 32.13 = 0.798…
    assert amounts(invoice) == ("open", 5, USD("0.80"), USD("27.13"), USD("4.33"))
    assert standing(acme).overdraft == USD("4.20")
    assert_sound()


def test_what_was_credited_since_is_not_owed_again(owing: tuple[Organization, Invoice], fake: StripeFake) -> None:
    acme, invoice = owing
    made = pay(invoice)
    invoices.credit(invoice_id=invoice.pk, amount_usd=USD("12.13"), reason="a price was wrong", by=ADA)
    assert standing(acme).posted == USD("12.13")
    fake.refund(made.intent_id or "")
    deliver(fake)
    # 27 used, 12.13 credited: with the tax in the 20.00 that are open, that is all there is to pay.
    assert amounts(invoice) == ("open", 20, USD("3.19"), 0, 0)
    assert standing(acme).overdraft == USD("16.81")
    assert_sound()
    pay(invoice)
    assert (again(invoice).state, standing(acme).posted, standing(acme).overdraft) == ("paid", 0, 0)
    assert_sound()


def test_a_refund_that_fails_pays_the_invoice_again(owing: tuple[Organization, Invoice], fake: StripeFake) -> None:
    acme, invoice = owing
    row = give_back(pay(invoice), "32.13")
    assert amounts(invoice) == OPEN
    fake.fail_refund(row.stripe_id or "")
    deliver(fake)
    deliver(fake)
    assert (amounts(invoice), standing(acme).overdraft, standing(acme).posted) == (PAID, 0, 0)
    assert clearing() * 100 == fake.balance()
    assert_sound()


def test_a_refund_that_fails_after_the_invoice_was_paid_otherwise_is_credit(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    row = give_back(pay(invoice), "32.13")
    receive(invoice, "32.13", "a bank transfer")
    fake.fail_refund(row.stripe_id or "")
    deliver(fake)
    assert (amounts(invoice), standing(acme).posted) == (PAID, USD("32.13"))
    assert_sound()


def test_a_payment_that_comes_twice_still_goes_back_and_opens_nothing(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    page = pay(invoice, method="checkout")
    receive(invoice, "32.13", "a bank transfer")
    fake.pay(page.session_id or "")
    deliver(fake)
    assert Payment.objects.get(pk=page.pk).surplus
    assert (amounts(invoice), standing(acme).posted, told()) == (PAID, 0, ["invoice.paid"])
    assert_sound()


def test_a_lost_dispute_opens_the_invoice_and_one_won_after_all_pays_it(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    made = pay(invoice)
    dispute = fake.open_dispute(made.intent_id or "")
    deliver(fake)
    assert amounts(invoice) == PAID
    fake.close_dispute(dispute, won=False)
    deliver(fake)
    assert (Dispute.objects.get().state, Dispute.objects.get().tax_usd) == ("lost", USD("5.13"))
    assert (amounts(invoice), standing(acme).overdraft, balances(acme).get("disputes")) == (OPEN, 27, None)
    assert_sound()
    with fake.state.lock:
        # The bank looks at it once more.
        fake.state.objects[dispute]["status"] = "under_review"
    fake.close_dispute(dispute, won=True)
    deliver(fake)
    assert (Dispute.objects.get().state, balances(acme).get("disputes")) == ("won", None)
    assert (amounts(invoice), standing(acme).overdraft) == (PAID, 0)
    assert clearing() * 100 == fake.balance()
    assert_sound()


def test_a_dispute_that_is_won_leaves_the_invoice_paid(owing: tuple[Organization, Invoice], fake: StripeFake) -> None:
    acme, invoice = owing
    dispute = fake.open_dispute(pay(invoice).intent_id or "")
    deliver(fake)
    fake.close_dispute(dispute, won=True)
    deliver(fake)
    assert (amounts(invoice), standing(acme).overdraft, told()) == (PAID, 0, ["invoice.paid"])
    assert_sound()


def test_dunning_begins_anew_when_the_invoice_is_open_again(
    calendar: Clock, owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    _, invoice = owing
    go_to(calendar, "2031-07-30T00:00:00Z")
    fake.move_clock(timedelta(days=58))
    # 43 days late: the last reminder, the stop and the freeze.
    assert dunning.run() == 3
    made = pay(invoice)
    assert (again(invoice).state, dunning.run()) == ("paid", 0)
    give_back(made, "32.13")
    assert again(invoice).state == "open"
    assert dunning.run() == 0
    calendar.move(3 * DAY)
    assert dunning.run() == 1
    calendar.move(21 * DAY)
    # 24 days: the third reminder, and the stop.
    assert dunning.run() == 2
    steps = DunningStep.objects.order_by("pk").values_list("step", flat=True)
    assert list(steps) == ["reminder_3", "stop", "freeze", "reminder_1", "reminder_3", "stop"]
    assert OutboxMessage.objects.filter(kind="invoice.overdue").count() == 6
    assert_sound()


def test_what_comes_after_an_invoice_was_given_up_goes_back_as_credit(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    made = pay(invoice, method="checkout")
    fake.pay(made.session_id or "")
    invoices.give_up(invoice_id=invoice.pk, reason="insolvent", by=ADA)
    assert again(invoice).state == "uncollectible"
    # What comes all the same is credit, and goes back as credit.
    deliver(fake)
    assert standing(acme).posted == USD("32.13")
    give_back(made, "32.13")
    assert (again(invoice).state, standing(acme).posted) == ("uncollectible", 0)
    assert_sound()


def buy(owner: Organization, usd: str, tax: str) -> Payment:
    """A top-up that was paid with the card, with its receipt."""
    with transaction.atomic():
        row = topups.open_one(organization_id=owner.pk, amount_usd=USD(usd), by=BY)
        TopUp.objects.filter(pk=row.pk).update(tax_usd=USD(tax))
        made = payments.open_one(
            organization_id=owner.pk, purpose="topup", subject_id=row.pk, amount_usd=USD(usd) + USD(tax),
            tax_usd=USD(tax), method="card", card=customers.default_card(owner.pk),
        )  # fmt: skip
    settlement.ask(made.pk)
    return Payment.objects.get(pk=made.pk)


def test_what_goes_back_of_a_top_up_has_a_credit_note_that_corrects_its_receipt(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    receive(invoice, "32.13", "a bank transfer")
    made = buy(acme, "100.00", "19.00")
    first = give_back(made, "39.67")
    # Not before there is something to correct.
    assert (invoices.issue_notes_of_receipts(), invoices.issue_receipts()) == (0, 1)
    fake.close_dispute(fake.open_dispute(made.intent_id or "", amount=5000), won=False)
    deliver(fake)
    assert (invoices.issue_notes_of_receipts(), invoices.issue_notes_of_receipts()) == (2, 0)
    _, receipt, *notes = documents(acme)
    assert (receipt.kind, receipt.total_usd, {note.corrects for note in notes}) == ("receipt", 119, {receipt})
    back, lost = sorted(notes, key=lambda one: one.total_usd)
    assert (back.refund_id, back.dispute_id, lost.refund_id) == (first.pk, None, None)
    assert lost.dispute == Dispute.objects.get()
    # 19.00 × 39.67 / 119 = 6.3338…, 19.00 × 50 / 119 = 7.983…
    assert (back.kind, back.subtotal_usd, back.tax_usd, back.total_usd) == (
        "credit_note", USD("33.34"), USD("6.33"), USD("39.67"),
    )  # fmt: skip
    assert (lost.subtotal_usd, lost.tax_usd, lost.total_usd) == (USD("42.02"), USD("7.98"), 50)
    assert {note.number for note in notes} == {"TB-2031-000003", "TB-2031-000004"}
    assert (back.tax_percent, back.tax_name, back.tax_treatment) == (19, "USt", "domestic")
    assert issued.document(back).corrects == "receipt TB-2031-000002"
    assert issued.printed(back).startswith(b"%PDF-")
    assert [lines(note) for note in (back, lost)] == [[("refund", "33.34", "33.34")], [("refund", "42.02", "42.02")]]
    assert_sound()


def test_a_refund_under_way_has_no_credit_note_yet_and_one_that_failed_gets_none(
    owing: tuple[Organization, Invoice], fake: StripeFake
) -> None:
    acme, invoice = owing
    receive(invoice, "32.13", "a bank transfer")
    made = buy(acme, "10.00", "1.90")
    assert invoices.issue_receipts() == 1
    row = refunds.ask(payment_id=made.pk, amount_usd=USD("11.90"), reason="a test", by=BY)
    assert invoices.issue_notes_of_receipts() == 0
    refunds.call(row.pk, at=client.connect())
    fake.fail_refund(Refund.objects.get().stripe_id or "")
    deliver(fake)
    assert (Refund.objects.get().state, invoices.issue_notes_of_receipts()) == ("failed", 0)


def test_a_receipt_whose_parts_round_otherwise_names_no_rate(owing: tuple[Organization, Invoice]) -> None:
    _, invoice = owing
    assert invoices._rate_of(invoice, net=USD("10.00"), tax=USD("1.90")) == {"tax_percent": 19, "tax_name": "USt"}
    assert invoices._rate_of(invoice, net=USD("10.00"), tax=USD("1.91")) == {}
    assert invoices._rate_of(invoice, net=USD("10.00"), tax=USD("1.89")) == {}
