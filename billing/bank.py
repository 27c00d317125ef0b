"""Bank transfers that finance found on an account, for invoices. The only module that writes ``BankTransfer``.

The row commits first and its id is the cause of the payment. One above ``MONEY_APPROVAL_USD`` waits until a second
person has agreed; then it is posted once, whoever carries it out. What the bank's statement calls it is
unique, so a line of a statement is entered once.
"""

from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing import invoices, rounding
from billing.corrections import check_reason
from billing.models import Account, BankTransfer, Invoice
from core import clock, errors, money
from core.transactions import retry
from ops import approvals
from orgs import audit
from orgs.audit import Actor

APPROVAL = "bank_transfer"
REFERENCE_MAX = 140
State = BankTransfer.State


def record(*, invoice_id: UUID, amount_usd: Decimal, statement_reference: str, reason: str, by: Actor) -> BankTransfer:
    """Enter a transfer, and pay the invoice with it if no second person is needed; the transfer as it stands then.

    ``amount_usd`` is in cents; it may be a part, or more than is open, which becomes credit. Raises ``OutOfRange``,
    ``NotFound``, ``Conflict`` for a line of a statement that was entered before, or for a draft.
    """
    reason = check_reason(reason)
    line = statement_reference.strip()
    if not line or len(line) > REFERENCE_MAX or "\x00" in line:
        raise errors.OutOfRange(
            f"statement_reference has 1 to {REFERENCE_MAX} characters.", param="statement_reference"
        )
    if not rounding.is_cents(amount_usd) or not amount_usd:
        raise errors.OutOfRange("amount_usd is more than zero, in cents.", param="amount_usd")
    invoice = invoices.find(invoice_id)
    if invoice.kind != Invoice.Kind.INVOICE or invoice.state == Invoice.State.DRAFT:
        raise errors.Conflict(f"{invoice} is no invoice that was issued.")

    def enter() -> BankTransfer:
        with transaction.atomic(durable=True):
            row, new = BankTransfer.objects.exclude(state=State.REFUSED).get_or_create(
                statement_reference=line,
                defaults={
                    "organization_id": invoice.organization_id, "invoice": invoice, "amount_usd": amount_usd,
                    "actor": by.label, "reason": reason,
                },
            )  # fmt: skip
            if not new:
                raise errors.Conflict(f"“{line}” was entered before, for {row.invoice}.", param="statement_reference")
            audit.note(
                actor=by, verb="bank_transfer.recorded", subject=row, organization=invoice.organization,
                details=_told(row),
            )  # fmt: skip
            if amount_usd > settings.MONEY_APPROVAL_USD:
                approvals.ask(kind=APPROVAL, subject_id=row.pk, by=by, details=_told(row))
                return row
            return _post(row)

    return retry(enter)


def carry_out(*, transfer_id: UUID, by: Actor) -> BankTransfer:
    """Post a transfer that a second person agreed to, once; close one that was refused. Raises ``ApprovalNeeded``."""

    def settle() -> BankTransfer:
        with transaction.atomic(durable=True):
            row = BankTransfer.objects.select_for_update(no_key=True).get(pk=transfer_id)
            if row.state != State.WAITING:
                return row
            decided = approvals.decision(kind=APPROVAL, subject_id=row.pk)
            if decided is None:
                raise approvals.ApprovalNeeded
            audit.note(
                actor=by, verb=f"bank_transfer.{'posted' if decided else 'refused'}", subject=row,
                organization=row.organization, details=_told(row),
            )  # fmt: skip
            return _post(row) if decided else _close(row, State.REFUSED)

    return retry(settle)


def _post(row: BankTransfer) -> BankTransfer:
    """Pay the invoice, as the last act of the caller's transaction."""
    closed = _close(row, State.POSTED)
    invoices.receive(
        invoice_id=row.invoice_id, amount_usd=row.amount_usd, reference=f"bank_transfer:{row.pk}", source=Account.BANK,
        actor=row.actor, reason=row.reason,
    )  # fmt: skip
    return closed


def _close(row: BankTransfer, state: str) -> BankTransfer:
    row.state, row.settled_at = state, clock.now()
    row.save(update_fields=["state", "settled_at"])
    return row


def _told(row: BankTransfer) -> dict[str, Any]:
    return {
        "organization": row.organization.slug, "invoice": str(row.invoice), "amount_usd": money.plain(row.amount_usd),
        "statement_reference": row.statement_reference, "reason": row.reason,
    }  # fmt: skip
