"""Bank transfers: entered once, and by two people where they are large."""

from decimal import Decimal
from typing import Any

import pytest

from billing import bank
from billing.models import BankTransfer, Invoice
from core import errors
from ops import approvals
from ops.models import Approval
from orgs.models import Organization
from tests.billing.months import ADA, GRACE, balances, close, document, go_to, sold, use
from tests.billing.world import assert_sound, standing
from tests.clocks import Clock


@pytest.fixture
def owing(calendar: Clock) -> tuple[Organization, Invoice]:
    """An organization that owes 2.70 USD."""
    acme = sold("acme")
    use(acme, events=10)
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    return acme, document(acme)


def enter(invoice: Invoice, usd: str, line: str = "SEPA 4711") -> BankTransfer:
    return bank.record(
        invoice_id=invoice.pk, amount_usd=Decimal(usd), statement_reference=line, reason="came in", by=ADA
    )


def test_a_transfer_pays_an_invoice_once(owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    assert enter(invoice, "2.00").state == "posted"
    with pytest.raises(errors.Conflict, match="entered before"):
        enter(invoice, "0.70")
    enter(invoice, "0.80", "SEPA 4712")
    assert Invoice.objects.get(pk=invoice.pk).state == "paid"
    assert balances(acme) == {"bank": Decimal("-2.80")}
    assert standing(acme).posted == Decimal("0.10")
    assert_sound()


def test_a_large_one_waits_for_a_second_person(owing: tuple[Organization, Invoice], settings: Any) -> None:
    settings.MONEY_APPROVAL_USD = 2
    acme, invoice = owing
    row = enter(invoice, "2.70")
    assert row.state == "waiting"
    with pytest.raises(approvals.ApprovalNeeded):
        bank.carry_out(transfer_id=row.pk, by=ADA)
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=Approval.objects.get().pk, by=ADA, grant=True)
    approvals.decide(approval_id=Approval.objects.get().pk, by=GRACE, grant=True)
    for _ in range(2):
        assert bank.carry_out(transfer_id=row.pk, by=ADA).state == "posted"
    assert balances(acme) == {"bank": Decimal("-2.70")}


def test_one_that_was_refused_may_be_entered_again(owing: tuple[Organization, Invoice], settings: Any) -> None:
    settings.MONEY_APPROVAL_USD = 2
    acme, invoice = owing
    row = enter(invoice, "2.70")
    approvals.decide(approval_id=Approval.objects.get().pk, by=GRACE, grant=False)
    assert bank.carry_out(transfer_id=row.pk, by=ADA).state == "refused"
    assert balances(acme) == {"overdraft": Decimal("-2.70")}
    assert enter(invoice, "1.00").state == "posted"


@pytest.mark.parametrize(
    ("usd", "line", "param"),
    [("0.001", "a", "amount_usd"), ("0", "a", "amount_usd"), ("1", " ", "statement_reference"),
        ("1", "x" * 141, "statement_reference")],
)  # fmt: skip
def test_what_cannot_be_names_its_field(owing: tuple[Organization, Invoice], usd: str, line: str, param: str) -> None:
    with pytest.raises(errors.OutOfRange) as raised:
        enter(owing[1], usd, line)
    assert raised.value.param == param
