"""Money of a payment that goes back to the card. The only module that writes ``Refund``.

What goes back leaves the wallet first, in the transaction that means the refund; then Stripe is asked, with the
refund's id as the key; if it fails, now or weeks later, the money comes back as credit. A refund that somebody
makes at Stripe's own desk is found and taken out of the wallet all the same, into the overdraft if it must be.
An invoice whose payment goes back is open again; what it asks for is owed then, so it needs no credit that is left.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing import grants, invoices, ledger, payments
from billing.corrections import check_reason
from billing.ledger import Move
from billing.lots import Given
from billing.models import Account, Dispute, Grant, Payment, Refund, TransferKind
from billing.payments import DOUBT, KEY_LIFE
from billing.processor import facts
from billing.processor.client import Client, Declined, InDoubt, Object, Refused
from billing.processor.facts import Mismatch, RefundFacts
from core import clock, errors, failpoints, ids, money
from core.transactions import retry
from metering.usage import started_at
from ops import approvals, outbox
from orgs import audit
from orgs.audit import Actor

APPROVAL = "refund"
State = Refund.State
Origin = Refund.Origin
# Of these the money has left the wallet.
TAKEN = (State.PENDING, State.CALLED, State.PROCESSING, State.SUCCEEDED)
SWEEP = 100


def ask(*, payment_id: UUID, amount_usd: Decimal, reason: str, by: Actor) -> Refund:
    """Mean to give back a part of a payment, or all of it; a large one waits for a second person.

    Stripe is asked by ``call`` once this is committed. Raises ``OutOfRange`` for an amount or a reason that cannot
    be: more than is left of the payment, or of credit that was paid for.
    """
    reason = check_reason(reason)
    if not money.holds(amount_usd) or not amount_usd or amount_usd * facts.CENTS_PER_USD % 1:
        raise errors.OutOfRange("amount_usd is more than zero and in whole cents.", param="amount_usd")

    @transaction.atomic
    def mean() -> Refund:
        payment = payments.locked(payment_id)
        _check_left(payment, amount_usd)
        waits = amount_usd > settings.MONEY_APPROVAL_USD
        row = _create(
            payment, amount_usd, origin=Origin.DESK, reason=reason, actor=by.label,
            state=State.WAITING if waits else State.PENDING,
        )  # fmt: skip
        audit.note(actor=by, verb="refund.asked", subject=row, organization=row.organization, details=told(row))
        if waits:
            approvals.ask(kind=APPROVAL, subject_id=row.pk, by=by, details=told(row))
        else:
            _take(row, payment, capped=True)
        return row

    return retry(mean)


def _check_left(payment: Payment, amount_usd: Decimal) -> None:
    """Raise ``OutOfRange`` unless so much of a payment can go back: not what went back, nor what is disputed."""
    contested = Dispute.objects.filter(payment=payment).exclude(state=Dispute.State.WON)
    left = payment.received_usd - payment.refunded_usd - sum((one.amount_usd for one in contested), money.ZERO)
    if amount_usd > left:
        left = max(left, money.ZERO)
        raise errors.OutOfRange(f"Only {money.plain(left)} USD of this payment are left.", param="amount_usd")


def carry_out(*, refund_id: UUID, by: Actor) -> Refund:
    """Go on with a refund that a second person granted; close one that was refused. Then ``call``.

    Raises ``ApprovalNeeded`` while nobody has decided, ``OutOfRange`` as ``ask`` does.
    """

    @transaction.atomic
    def settle() -> Refund:
        payment = payments.locked(Refund.objects.values_list("payment_id", flat=True).get(pk=refund_id))
        row = Refund.objects.select_for_update(no_key=True).get(pk=refund_id)
        if row.state != State.WAITING:
            return row
        decided = approvals.decision(kind=APPROVAL, subject_id=row.pk)
        if decided is None:
            raise approvals.ApprovalNeeded
        if decided:
            _check_left(payment, row.amount_usd)
            row.state, row.next_look_at = State.PENDING, clock.now() + payments.FIRST_LOOK
            row.tax_usd = _tax_of(payment, row.amount_usd)
            row.save()
            _take(row, payment, capped=True)
        else:
            row.state, row.settled_at = State.REFUSED, clock.now()
            row.save()
        verb = "refund.granted" if decided else "refund.refused"
        audit.note(actor=by, verb=verb, subject=row, organization=row.organization, details=told(row))
        return row

    return retry(settle)


def give_all_back(payment: Payment, *, reason: str) -> Refund:
    """Mean to give a whole payment back, under its row's lock: what it was for had been paid already."""
    row = _create(
        payment, payment.received_usd - payment.refunded_usd, origin=Origin.AUTOMATIC, reason=reason, actor="system",
        state=State.PENDING,
    )  # fmt: skip
    _take(row, payment, capped=False)
    outbox.post(kind="refund.automatic", organization_id=row.organization_id, key=str(row.pk), data=told(row))
    return row


def _create(payment: Payment, amount_usd: Decimal, *, origin: str, reason: str, actor: str, state: str) -> Refund:
    now = clock.now()
    return Refund.objects.create(
        organization_id=payment.organization_id, payment=payment, origin=origin, amount_usd=amount_usd,
        tax_usd=_tax_of(payment, amount_usd), reason=reason, actor=actor, state=state, created_at=now,
        next_look_at=now + payments.FIRST_LOOK if state == State.PENDING else None,
    )  # fmt: skip


def _tax_of(payment: Payment, amount_usd: Decimal) -> Decimal:
    """How much of a refund is tax: of all that went back the tax's share, rounded half up, less what went before.

    So parts of any size add up, and with the last cent of a payment the last cent of its tax goes back. Of what was
    paid twice nothing had been taken for tax.
    """
    if not payment.tax_usd or payment.surplus:
        return money.ZERO
    before = sum(Refund.objects.filter(payment=payment, state__in=TAKEN).values_list("tax_usd", flat=True), money.ZERO)
    back = facts.cents(payment.refunded_usd + amount_usd)
    total, tax = facts.cents(payment.amount_usd), facts.cents(payment.tax_usd)
    share = facts.dollars((2 * back * tax + total) // (2 * total)) - before
    return min(max(share, money.ZERO), amount_usd)


def _take(row: Refund, payment: Payment, *, capped: bool) -> None:
    """Take a refund's money out of the wallet, under the payment's lock.

    ``capped``: only credit that was paid for goes back; else whatever there is, and the overdraft.
    """
    payments.count_refund(payment, row.amount_usd)
    owner, at, owed = row.organization_id, started_at(), money.ZERO
    if _paid_invoice(payment):
        back = invoices.take_back(
            invoice_id=payment.subject_id, payment_id=payment.pk, amount_usd=row.amount_usd,
            reference=reference_of(row), source=Account.STRIPE_CLEARING, actor=row.actor, reason=row.reason, at=at,
        )  # fmt: skip
        owed, row.tax_usd = back.opened_usd - back.tax_usd, back.tax_usd
        row.save(update_fields=["tax_usd"])
    net = row.amount_usd - row.tax_usd
    moves = []
    if net:
        ledger.lock([owner])
        left = grants.left(owner).paid_usd
        if capped and left < net - owed:
            raise errors.OutOfRange(
                f"Only {money.plain(left)} USD of purchased credit are left to refund.", param="amount_usd"
            )
        kind = TransferKind.REFUND if capped and not owed else TransferKind.CLAWBACK
        moves.append(
            Move(
                owner, kind, Account.WALLET, Account.STRIPE_CLEARING, net, reference_of(row), row.actor, row.reason,
                claw=_grant_of(payment) or row.pk,
            )
        )  # fmt: skip
    if row.tax_usd:
        moves.append(
            Move(
                owner, TransferKind.TAX, _tax_account(payment), Account.STRIPE_CLEARING, row.tax_usd,
                reference_of(row), row.actor, row.reason,
            )
        )  # fmt: skip
    ledger.post(moves, at=at)


def _give_back(row: Refund, payment: Payment) -> None:
    """Put the money of a refund that failed back into the wallet, as credit that was paid for."""
    payments.count_refund(payment, -row.amount_usd)
    owner, at = row.organization_id, started_at()
    reference, reason = f"{reference_of(row)}/failed", "the refund failed"
    if _paid_invoice(payment):
        row.tax_usd = invoices.take_again(
            invoice_id=payment.subject_id, payment_id=payment.pk, amount_usd=row.amount_usd, reference=reference,
            source=Account.STRIPE_CLEARING, actor=row.actor, reason=reason, at=at,
        )  # fmt: skip
        row.save(update_fields=["tax_usd"])
    net = row.amount_usd - row.tax_usd
    moves = []
    if net:
        given = Given(
            ids.new(), owner, Grant.Kind.PURCHASED, net, at, reference, Account.STRIPE_CLEARING, row.actor, reason
        )
        moves.append(
            Move(
                owner, TransferKind.REFUND, Account.STRIPE_CLEARING, Account.WALLET, net, reference, row.actor, reason,
                given=given,
            )
        )  # fmt: skip
    if row.tax_usd:
        moves.append(
            Move(
                owner, TransferKind.TAX, Account.STRIPE_CLEARING, _tax_account(payment), row.tax_usd, reference,
                row.actor, reason,
            )
        )  # fmt: skip
    ledger.post(moves, at=at)


def _paid_invoice(payment: Payment) -> bool:
    """Whether an invoice was paid by it, and not only a wallet."""
    return payment.purpose == Payment.Purpose.INVOICE and not payment.surplus


def _grant_of(payment: Payment) -> UUID | None:
    """The credit that a payment became."""
    found = Grant.objects.filter(organization_id=payment.organization_id, reference=payments.reference_of(payment))
    return found.values_list("pk", flat=True).first()


def _tax_account(payment: Payment) -> Account:
    """Where the tax of a payment went: an invoice's had been owed before it was paid."""
    return Account.TAXES if payment.purpose == Payment.Purpose.TOPUP else Account.RECEIVABLES


def reference_of(row: Refund) -> str:
    """What the transfers of a refund name as their cause."""
    return f"refund:{row.pk}"


def told(row: Refund) -> dict[str, Any]:
    """A refund as the audit trail and whoever decides read it."""
    return {
        "payment": ids.show("pay", row.payment_id), "refund": ids.show("refund", row.pk),
        "amount_usd": money.plain(row.amount_usd), "reason": row.reason,
    }  # fmt: skip


# Asking Stripe.


def call(refund_id: UUID, *, at: Client) -> None:
    """Ask Stripe for a refund that is meant, with no transaction open, and record what it says.

    Of no answer nothing follows: the same is asked again under the same key, and once Stripe may have forgotten
    the key, its refunds of the payment are looked through instead.
    """
    row = _begin(refund_id)
    if row is None:
        return
    if row.called_at is not None and clock.now() - row.called_at >= KEY_LIFE:
        _look_through(row, at=at)
        return
    failpoints.reach("refund.before_call")
    params = {
        "payment_intent": row.payment.intent_id, "amount": facts.cents(row.amount_usd),
        "metadata": {facts.REFUND: str(row.pk), facts.PAYMENT: str(row.payment_id)},
    }  # fmt: skip
    try:
        told = at.create_refund(params, key=str(row.pk))
    except InDoubt:
        return
    except (Declined, Refused) as error:
        if row.attempts > 1:
            _look_through(row, at=at)
        else:
            _end(row.pk, failure=error.code or "refused")
        return
    failpoints.reach("refund.after_call")
    retry(lambda: _record(row.payment_id, [told]))


@transaction.atomic(durable=True)
def _begin(refund_id: UUID) -> Refund | None:
    """Take a refund on, for whoever asks first; ``None`` if there is nothing to ask for."""
    row = Refund.objects.select_for_update(no_key=True).get(pk=refund_id)
    now = clock.now()
    if row.state not in (State.PENDING, State.CALLED) or row.stripe_id:
        return None
    if row.state == State.CALLED and (row.next_look_at is None or row.next_look_at > now):
        return None
    row.state, row.called_at = State.CALLED, row.called_at or now
    row.attempts += 1
    row.next_look_at = max(
        now + DOUBT[0], min(now + DOUBT[min(row.attempts, len(DOUBT)) - 1], row.called_at + KEY_LIFE)
    )
    row.save()
    return row


def _look_through(row: Refund, *, at: Client) -> None:
    """Find a refund among those that Stripe knows; one that is not there has not happened."""
    intent_id = row.payment.intent_id
    assert intent_id is not None
    try:
        found = at.refunds(intent=intent_id)
    except (InDoubt, Refused):
        return
    retry(lambda: _record(row.payment_id, found))
    if not any(facts.of_refund(one).refund_id == str(row.pk) for one in found):
        _end(row.pk, failure="never_made")


def _end(refund_id: UUID, *, failure: str) -> None:
    """A refund that did not happen: its money comes back."""

    @transaction.atomic(durable=True)
    def settle() -> None:
        payment = payments.locked(Refund.objects.values_list("payment_id", flat=True).get(pk=refund_id))
        row = Refund.objects.select_for_update(no_key=True).get(pk=refund_id)
        if row.state in (State.PENDING, State.CALLED):
            _fail(row, payment, failure)

    retry(settle)


@transaction.atomic(durable=True)
def _record(payment_id: UUID, found: Sequence[Object]) -> None:
    follow(payments.locked(payment_id), found)


def follow(payment: Payment, found: Sequence[Object]) -> None:
    """Take in refunds as Stripe tells them, under the payment's lock: ours, and those made at Stripe's desk.

    Raises ``Mismatch`` for one that does not fit what was asked for.
    """
    for told in sorted((facts.of_refund(one) for one in found), key=lambda one: one.stripe_id):
        _follow(payment, told)


def _follow(payment: Payment, one: RefundFacts) -> None:
    row = _find(payment, one)
    if row is None:
        row = _create(
            payment, facts.dollars(one.amount_cents), origin=Origin.STRIPE, reason="made at Stripe", actor="stripe",
            state=State.PROCESSING,
        )  # fmt: skip
        row.stripe_id = one.stripe_id
        _take(row, payment, capped=False)
    if (row.payment_id, facts.cents(row.amount_usd)) != (payment.pk, one.amount_cents):
        raise Mismatch(f"refund {one.stripe_id} is of {one.amount_cents} cents, which {row} is not")
    row.stripe_id = row.stripe_id or one.stripe_id
    state = facts.later_refund(row.state, one.state)
    if state == State.FAILED and row.state != State.FAILED:
        _fail(row, payment, one.failure or "failed")
        return
    if state == State.SUCCEEDED and row.state != State.SUCCEEDED:
        row.settled_at = clock.now()
    row.state, row.next_look_at = state, None
    row.save()


def _find(payment: Payment, one: RefundFacts) -> Refund | None:
    row = Refund.objects.filter(stripe_id=one.stripe_id).first()
    if row is None and one.refund_id:
        try:
            row = Refund.objects.filter(pk=UUID(one.refund_id), payment=payment).first()
        except ValueError:
            row = None
        if row is None:
            raise Mismatch(f"refund {one.stripe_id} names {one.refund_id!r}, which is no refund of this payment")
        if row.stripe_id not in (None, one.stripe_id) or row.state not in (*TAKEN, State.FAILED):
            raise Mismatch(f"refund {one.stripe_id} names {row}, which was not asked for")
        if row.state == State.FAILED:
            raise Mismatch(f"refund {one.stripe_id} was given up, and happened")
    return row


def _fail(row: Refund, payment: Payment, failure: str) -> None:
    row.state, row.failure, row.settled_at, row.next_look_at = State.FAILED, failure, clock.now(), None
    row.save()
    _give_back(row, payment)
    outbox.post(
        kind="refund.failed",
        organization_id=row.organization_id,
        key=str(row.pk),
        data={**told(row), "failure": failure},
    )


def due() -> list[UUID]:
    """Refunds that Stripe is to be asked for, the longest waiting first."""
    rows = Refund.objects.filter(next_look_at__lte=clock.now(), state__in=(State.PENDING, State.CALLED))
    return list(rows.order_by("next_look_at").values_list("pk", flat=True)[:SWEEP])


def unasked(payment_id: UUID) -> list[UUID]:
    """Refunds of a payment that Stripe has not been asked for yet."""
    return list(Refund.objects.filter(payment_id=payment_id, state=State.PENDING).values_list("pk", flat=True))
