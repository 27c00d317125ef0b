"""Payments that the card's owner contests. The only module that writes ``Dispute``.

When a dispute is opened, what the payment's credit still holds is set aside. What Stripe takes meanwhile stands in
the account ``disputes``: won, all of it comes back; lost, the rest of the payment is taken out of the wallet, into
the overdraft if it must be. Either way that account ends at zero. An invoice that the lost payment had paid is open
again.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from billing import invoices, ledger, payments
from billing.ledger import Back, Move
from billing.lots import Given
from billing.models import Account, Dispute, Grant, Payment, TransferKind
from billing.processor import facts
from billing.processor.client import Object
from billing.processor.facts import DisputeFacts, Mismatch
from core import clock, ids, money
from metering.usage import started_at
from ops import outbox

State = Dispute.State

# What is told of each state.
_KINDS = {
    State.INQUIRY: "dispute.inquiry",
    State.OPEN: "dispute.opened",
    State.WON: "dispute.closed",
    State.LOST: "dispute.closed",
}


def follow(payment: Payment, found: Sequence[Object]) -> None:
    """Take in disputes as Stripe tells them, under the payment's lock. Raises ``Mismatch`` for what cannot be."""
    for told in sorted((facts.of_dispute(one) for one in found), key=lambda one: one.stripe_id):
        _follow(payment, told)


def _follow(payment: Payment, one: DisputeFacts) -> None:
    row = Dispute.objects.select_for_update(no_key=True).filter(stripe_id=one.stripe_id).first()
    is_new = row is None
    if row is None:
        row = _begin(payment, one)
    if (row.payment_id, facts.cents(row.amount_usd)) != (payment.pk, one.amount_cents):
        raise Mismatch(f"dispute {one.stripe_id} is over {one.amount_cents} cents, which {row} is not")
    before, now = row.state, facts.later_dispute(row.state, one.state)
    posting = _Posting(row)
    posting.freeze(now, payment)
    posting.move_at_stripe(one)
    posting.close(before, now, payment)
    row.state = now
    if now in (State.WON, State.LOST) and before != now:
        row.closed_at = clock.now()
    row.save()
    if posting.moves:
        ledger.post(posting.moves, at=started_at())
    if before != now or is_new:
        outbox.post(
            kind=_KINDS[State(now)], organization_id=row.organization_id, key=f"{row.pk}:{now}",
            data={
                "dispute_id": ids.show("dispute", row.pk), "payment_id": ids.show("pay", payment.pk),
                "amount_usd": money.plain(row.amount_usd), "frozen_usd": money.plain(row.frozen_usd),
                "reason": row.reason, "outcome": str(now) if now in (State.WON, State.LOST) else None,
            },
        )  # fmt: skip


def _begin(payment: Payment, one: DisputeFacts) -> Dispute:
    amount = facts.dollars(one.amount_cents)
    if amount > payment.received_usd:
        raise Mismatch(f"dispute {one.stripe_id} is over more than was paid")
    total, tax = facts.cents(payment.amount_usd), facts.cents(payment.tax_usd)
    share = facts.dollars((2 * one.amount_cents * tax + total) // (2 * total))
    return Dispute.objects.create(
        organization_id=payment.organization_id, payment=payment, stripe_id=one.stripe_id, amount_usd=amount,
        tax_usd=money.ZERO if payment.surplus else min(share, amount), reason=one.reason, state=State.INQUIRY,
    )  # fmt: skip


class _Posting:
    """What news of one dispute moves. Each amount is posted as far as it has not been before."""

    def __init__(self, row: Dispute) -> None:
        self.row = row
        self.moves: list[Move] = []
        self._reference = f"dispute:{row.pk}"

    @property
    def _net(self) -> Decimal:
        """The part of what is disputed that is credit, and not tax."""
        return Decimal(self.row.amount_usd - self.row.tax_usd)

    def _move(self, kind: TransferKind, debit: Account, credit: Account, usd: Decimal, at: str, **more: Any) -> None:
        self.moves.append(
            Move(
                self.row.organization_id, kind, debit, credit, usd, f"{self._reference}/{at}", "stripe",
                f"dispute {at}", **more,
            )
        )  # fmt: skip

    def freeze(self, state: str, payment: Payment) -> None:
        """Set aside what is left of the payment's credit. An inquiry takes nothing, so it freezes nothing."""
        row = self.row
        if row.state != State.INQUIRY or state == State.INQUIRY:
            return
        ledger.lock([row.organization_id])
        grant = Grant.objects.filter(
            organization_id=row.organization_id, reference=payments.reference_of(payment)
        ).first()
        if grant is None:
            return
        row.grant_id = grant.pk
        # One that is decided already freezes nothing any more.
        if state == State.OPEN and grant.remaining_usd:
            row.frozen_usd = min(grant.remaining_usd, self._net)
            self._move(TransferKind.DISPUTE, Account.WALLET, Account.DISPUTES, row.frozen_usd, "frozen", claw=grant.pk)

    def move_at_stripe(self, one: DisputeFacts) -> None:
        """What Stripe took, gave back and kept for its trouble. Its list only grows: a shorter one is old."""
        row = self.row
        if one.moves <= row.moves:
            return
        sums = (
            ("withdrawn_usd", one.withdrawn_cents, TransferKind.DISPUTE, Account.DISPUTES, Account.STRIPE_CLEARING),
            ("reinstated_usd", one.reinstated_cents, TransferKind.DISPUTE, Account.STRIPE_CLEARING, Account.DISPUTES),
            ("fee_usd", one.fee_cents, TransferKind.FEE, Account.PAYMENT_FEES, Account.STRIPE_CLEARING),
        )
        for name, told, kind, debit, credit in sums:
            change = facts.dollars(told) - getattr(row, name)
            if change:
                way = (debit, credit) if change > 0 else (credit, debit)
                self._move(kind, *way, abs(change), f"{name.removesuffix('_usd')} {one.moves}")
                setattr(row, name, facts.dollars(told))
        row.moves = one.moves

    def close(self, before: str, state: str, payment: Payment) -> None:
        """Give back what was set aside, or take the rest of the payment."""
        row = self.row
        if before == state or state not in (State.LOST, State.WON):
            return
        if state == State.WON and before != State.LOST:
            self._release(row.frozen_usd, "released")
            return
        self._follow_invoice(state, payment)
        rest = self._net - row.frozen_usd
        tax = Account.TAXES if payment.purpose == Payment.Purpose.TOPUP else Account.RECEIVABLES
        if state == State.LOST:
            if rest > 0:
                self._move(
                    TransferKind.CLAWBACK, Account.WALLET, Account.DISPUTES, rest, "lost", claw=row.grant_id or row.pk
                )
            self._release(-rest, "freed")
            if row.tax_usd:
                self._move(TransferKind.TAX, tax, Account.DISPUTES, row.tax_usd, "lost")
            return
        self._release(min(row.frozen_usd, self._net), "released")
        if rest > 0:
            given = Given(
                ids.new(), row.organization_id, Grant.Kind.PURCHASED, rest, started_at(), f"{self._reference}/won",
                Account.DISPUTES, "stripe", "dispute won after all",
            )  # fmt: skip
            self._move(TransferKind.DISPUTE, Account.DISPUTES, Account.WALLET, rest, "won", given=given)
        if row.tax_usd:
            self._move(TransferKind.TAX, Account.DISPUTES, tax, row.tax_usd, "won")

    def _release(self, usd: Decimal, at: str) -> None:
        """Give back so much of what was set aside, if it is anything."""
        if usd > 0:
            self._move(
                TransferKind.DISPUTE, Account.DISPUTES, Account.WALLET, usd, at, back=[Back(self.row.grant_id, usd)]
            )

    def _follow_invoice(self, state: str, payment: Payment) -> None:
        """Open the invoice of a payment that is lost, count one that is won after all as paid; the tax goes with it."""
        row = self.row
        if payment.purpose != Payment.Purpose.INVOICE or payment.surplus:
            return
        about = {
            "invoice_id": payment.subject_id, "payment_id": payment.pk, "amount_usd": row.amount_usd,
            "reference": f"{self._reference}/{state}", "source": Account.DISPUTES, "actor": "stripe",
            "reason": f"dispute {state}", "at": started_at(),
        }  # fmt: skip
        row.tax_usd = invoices.take_back(**about).tax_usd if state == State.LOST else invoices.take_again(**about)
