"""What becomes of payments: asking Stripe, and taking in what it says. Writes nothing itself.

Stripe is asked with no transaction open. What it says is taken in by one transaction, whoever brings the news: under
the payment's lock its state goes forward, what was bought is settled, refunds and disputes follow, and the event that
brought it is marked. The news is always the objects as they stand at Stripe, never an event's copy of them, so that
events may come in any order, twice, late, or not at all: then a sweep looks.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from billing import disputes, grants, invoices, ledger, payments, refunds, topups
from billing.ledger import Move
from billing.models import Account, Grant, Invoice, Payment, TopUp, TransferKind
from billing.payments import Method, Purpose, State
from billing.processor import client, customers, facts
from billing.processor.client import Client, Declined, Failure, InDoubt, Object, Refused
from billing.processor.facts import OPEN, Facts, Mismatch
from core import clock, errors, failpoints
from core.transactions import retry
from metering.usage import started_at

log = logging.getLogger(__name__)

# Clocks differ: a search begins so long before the call.
SKEW = timedelta(minutes=5)
# The sweep ends before the next one begins.
SWEEP_RUN = timedelta(seconds=45)

Mark = Callable[[str], None]


class News(NamedTuple):
    """All that Stripe says of a payment just now; without lists nothing is known of refunds and disputes."""

    told: Facts
    refunds: Sequence[Object] = ()
    disputes: Sequence[Object] = ()


def ask(payment_id: UUID) -> None:
    """Ask Stripe for a payment that is meant, and take in the answer. Raises ``Off``.

    With no transaction open. Whatever happens, the row says how things stand; who waits for it reads it again.
    """
    at = client.connect()
    row = Payment.objects.get(pk=payment_id)
    if row.state not in (State.PENDING, State.CALLED):
        return
    try:
        customer = customers.ensure(row.organization_id, at=at)
    except InDoubt as doubt:
        log.warning("payment %s waits: %s", row, doubt)
        return
    except Failure as refusal:
        if row.state == State.PENDING:
            _give_up(payment_id, refusal)
        return
    asked = payments.begin(payment_id, customer=customer)
    if asked is None:
        return
    if row.purpose == Purpose.TOPUP:
        topups.begin(topup_id=row.subject_id)
    failpoints.reach("payment.before_call")
    try:
        told = _call(row, asked, at)
    except InDoubt as doubt:
        log.warning("payment %s is in doubt: %s", row, doubt)
        if row.state == State.CALLED:
            # An error that was saved under the key is all that asking again would ever get.
            search(payment_id, at=at, is_proof=False)
        return
    except Failure as refusal:
        # A refusal is the answer to this call only: an earlier one may have gone through.
        if row.state == State.CALLED:
            search(payment_id, at=at)
        else:
            _give_up(payment_id, refusal)
        return
    failpoints.reach("payment.after_call")
    take_in_or_park(payment_id, News(told), at=at)


def _call(row: Payment, asked: object, at: Client) -> Facts:
    """The call itself, under the payment's id. A declined card is an answer too."""
    assert isinstance(asked, dict)
    key = payments.key_of(row)
    if row.method == Method.CHECKOUT:
        return facts.of_session(at.create_session(asked, key=key), None)
    try:
        return facts.of_intent(at.create_intent(asked, key=key))
    except Declined as decline:
        if decline.about is None:
            raise
        told = facts.of_intent(decline.about)
        # What was asked for and declined is over, whatever the intent could still become.
        state = facts.later(told.state, State.FAILED)
        return told._replace(
            state=state, failure_code=decline.code, failure_message=decline.message, cancelable=told.cancelable
        )


def _give_up(payment_id: UUID, failure: Failure) -> None:
    """End a payment that Stripe surely did not take on."""

    @transaction.atomic(durable=True)
    def settle() -> None:
        row = payments.locked(payment_id)
        if row.intent_id is None and row.session_id is None:
            code = failure.code or "refused"
            if payments.fail(row, code=code, message=failure.message):
                _close_subject(row)

    retry(settle)


def search(payment_id: UUID, *, at: Client, is_proof: bool = True) -> None:
    """Find a payment among all that its customer was asked for since; one that is not there never began.

    Unless that is no proof yet, because a call may still be on its way.
    """
    row = Payment.objects.get(pk=payment_id)
    assert row.request is not None
    assert row.called_at is not None
    look = at.sessions if row.method == Method.CHECKOUT else at.intents
    try:
        made = list(look(customer=row.request["customer"], since=row.called_at - SKEW))
    except (InDoubt, Refused) as doubt:
        log.warning("payment %s could not be searched for: %s", row, doubt)
        return
    mine = [one for one in made if (one.get("metadata") or {}).get(facts.PAYMENT) == str(row.pk)]
    if not mine and is_proof:
        _give_up(payment_id, Refused("never_made", "The payment never began."))
    for one in mine:
        session_id = one["id"] if row.method == Method.CHECKOUT else ""
        _look_or_park(row, at=at, session_id=session_id, intent_id="" if session_id else one["id"])


def look_at(
    payment_id: UUID, *, at: Client, session_id: str = "", intent_id: str = "", mark: Mark | None = None
) -> None:
    """Take in how a payment stands at Stripe, by the ids that are known of it or these.

    Raises ``Mismatch``, and ``Refused`` or ``InDoubt`` where Stripe does not say.
    """
    row = Payment.objects.get(pk=payment_id)
    session_id, intent_id = row.session_id or session_id, intent_id or row.intent_id or ""
    told = _see(row, session_id, intent_id, at)
    if row.state in OPEN and told.state in (State.REQUIRES_ACTION, State.CALLED) and clock.now() >= row.deadline_at:
        told = _end_at_stripe(row, told, at)
    if told.state == State.SUCCEEDED:
        news = News(told, at.refunds(intent=told.intent_id), at.disputes(intent=told.intent_id))
    else:
        news = News(told)
    take_in(payment_id, news, at=at, mark=mark)


def _see(row: Payment, session_id: str, intent_id: str, at: Client) -> Facts:
    if not session_id:
        return facts.of_intent(at.intent(intent_id), on_page=row.method == Method.CHECKOUT)
    session = at.session(session_id)
    behind = facts.id_of(session.get("payment_intent"))
    if intent_id and behind and intent_id != behind:
        raise Mismatch(f"{intent_id} is not the PaymentIntent of {session_id}")
    return facts.of_session(session, at.intent(behind) if behind else None)


def _end_at_stripe(row: Payment, told: Facts, at: Client) -> Facts:
    """End what has waited for the customer for too long; how it stands then. They may just have paid."""
    try:
        if told.session_id:
            at.expire_session(told.session_id, key=f"{row.pk}:expire")
        elif row.method == Method.CARD:
            at.cancel_intent(told.intent_id, key=f"{row.pk}:cancel")
    except (Refused, InDoubt) as doubt:
        log.warning("payment %s could not be ended: %s", row, doubt)
    return _see(row, told.session_id, told.intent_id, at)


def take_in(payment_id: UUID, news: News, *, at: Client, mark: Mark | None = None) -> None:
    """Take news of a payment in, in one transaction; then ask for the refunds that follow from it.

    ``mark`` is called at the end of that transaction with what was done. Raises ``Mismatch``: nothing is taken in.
    """
    retry(lambda: _take_in(payment_id, news, mark))
    failpoints.reach("payment.after_commit")
    row = Payment.objects.get(pk=payment_id)
    if row.surplus:
        for refund_id in refunds.unasked(payment_id):
            refunds.call(refund_id, at=at)
    if row.state == State.FAILED and news.told.cancelable and row.method == Method.CARD:
        _cancel(row, at)


@transaction.atomic(durable=True)
def _take_in(payment_id: UUID, news: News, mark: Mark | None) -> None:
    row = payments.locked(payment_id)
    if row.purpose == Purpose.INVOICE:
        # What follows may lock the wallet first and then need the invoice.
        invoices.lock(row.subject_id)
    changed = payments.advance(row, news.told)
    if changed and row.state == State.SUCCEEDED:
        _settle(row)
    elif changed and row.state in OPEN:
        if row.purpose == Purpose.TOPUP:
            state = State.PROCESSING if row.state == State.CALLED else row.state
            topups.go_on(topup_id=row.subject_id, state=state)
    elif changed:
        _close_subject(row)
    if row.state == State.SUCCEEDED and news.told.fee_cents is not None:
        _take_fee(row, news.told.fee_cents)
    refunds.follow(row, news.refunds)
    disputes.follow(row, news.disputes)
    if mark is not None:
        mark(f"{row} is {row.state}")
    failpoints.reach("payment.before_commit")


def _settle(row: Payment) -> None:
    """Money has come: it goes to what it was for, or back if that had been paid already."""
    if row.purpose == Purpose.TOPUP:
        topups.settle_success(row.subject_id)
    elif not _is_paid(row):
        invoices.receive(
            invoice_id=row.subject_id, amount_usd=row.amount_usd, reference=payments.reference_of(row),
            source=Account.STRIPE_CLEARING, payment_id=row.pk, at=started_at(),
        )  # fmt: skip
    else:
        payments.mark_surplus(row)
        grants.give(
            organization_id=row.organization_id, kind=Grant.Kind.PURCHASED, amount_usd=row.amount_usd,
            reference=payments.reference_of(row), actor="system", reason="paid twice",
        )  # fmt: skip
        refunds.give_all_back(row, reason="what it was for had been paid already")


def _is_paid(row: Payment) -> bool:
    """Whether the same thing was paid before: by another payment, all of which are locked, or at a bank.

    An invoice says so itself: one whose payment was taken back is to be paid again.
    """
    if row.purpose == Purpose.INVOICE:
        closed = (Invoice.State.PAID, Invoice.State.VOID)
        return Invoice.objects.filter(pk=row.subject_id, state__in=closed).exists()
    others = Payment.objects.filter(purpose=row.purpose, subject_id=row.subject_id, state=State.SUCCEEDED)
    return others.filter(surplus=False).exclude(pk=row.pk).exists()


def _close_subject(row: Payment) -> None:
    """Tell what a payment was for that it will not be paid by this one."""
    if row.purpose == Purpose.TOPUP:
        state = topups.State.CANCELED if row.state == State.CANCELED else topups.State.FAILED
        topups.settle_failure(row.subject_id, state=state, failure=row.failure_code or "failed")


def _take_fee(row: Payment, fee_cents: int) -> None:
    fee = facts.dollars(fee_cents)
    if payments.take_fee(row, fee) and fee:
        move = Move(
            row.organization_id, TransferKind.FEE, Account.PAYMENT_FEES, Account.STRIPE_CLEARING, fee,
            f"payment:{row.pk}", reason="fee of a payment",
        )  # fmt: skip
        ledger.post([move], at=started_at())


def _cancel(row: Payment, at: Client) -> None:
    """What was declined is not to be paid later by accident. If Stripe refuses, its events will say why."""
    assert row.intent_id is not None
    try:
        at.cancel_intent(row.intent_id, key=f"{row.pk}:cancel")
    except Failure as failure:
        log.warning("payment %s was declined and could not be canceled: %s", row, failure)


def take_in_or_park(payment_id: UUID, news: News, *, at: Client) -> None:
    """As ``take_in``; what does not fit leaves the payment to a person."""
    try:
        take_in(payment_id, news, at=at)
    except (Mismatch, errors.ApiError) as mismatch:
        payments.park(payment_id, reason=str(mismatch))


def look(payment_id: UUID) -> None:
    """Find out what became of a payment whose time to be looked at has come. Raises ``Off``."""
    at = client.connect()
    row = Payment.objects.get(pk=payment_id)
    if row.state == State.CALLED and not (row.session_id or row.intent_id):
        if not payments.is_forgotten(row, clock.now()):
            # Taking the call on is what lets one through.
            ask(payment_id)
        elif payments.claim(payment_id):
            search(payment_id, at=at)
        return
    if payments.claim(payment_id) is None:
        return
    if row.state == State.PENDING:
        ask(payment_id)
        return
    if not (row.session_id or row.intent_id):
        return
    _look_or_park(row, at=at)


def _look_or_park(row: Payment, *, at: Client, session_id: str = "", intent_id: str = "") -> None:
    """As ``look_at``; what does not fit leaves the payment to a person, and silence leaves it for later."""
    try:
        look_at(row.pk, at=at, session_id=session_id, intent_id=intent_id)
    except (Mismatch, errors.ApiError) as mismatch:
        payments.park(row.pk, reason=str(mismatch))
    except (Refused, InDoubt) as doubt:
        log.warning("payment %s could not be looked at: %s", row, doubt)


def sweep(*, until: datetime | None = None) -> str:
    """Look at every payment and ask for every refund whose time has come; what was done. Many workers may run it."""
    if not client.is_on():
        return "payments are off"
    at, end = client.connect(), until or clock.now() + SWEEP_RUN
    looked = asked = 0
    for payment_id, _ in payments.due():
        if clock.now() >= end:
            break
        looked += _one(payment_id, look)
    for refund_id in refunds.due():
        if clock.now() >= end:
            break
        asked += _one(refund_id, lambda one: refunds.call(one, at=at))
    return f"looked at {looked} payments, asked for {asked} refunds"


def _one(subject_id: UUID, work: Callable[[UUID], None]) -> int:
    """Do one of many, so that none keeps the others waiting; how many were done."""
    try:
        work(subject_id)
    except Exception:
        log.exception("%s could not be dealt with and is left for later", subject_id)
        return 0
    return 1


def recharge() -> str:
    """Open top-ups for wallets below their line and ask their cards for the money. Many workers may run it."""
    if not client.is_on():
        return "payments are off"
    opened = topups.open_due()
    asked = 0
    for topup_id in topups.unpaid():
        payment_id = retry(lambda one=topup_id: _open_recharge_payment(one))  # type: ignore[misc]
        if payment_id is not None:
            ask(payment_id)
            asked += 1
    return f"opened {len(opened)}, asked for {asked}"


@transaction.atomic(durable=True)
def _open_recharge_payment(topup_id: UUID) -> UUID | None:
    """Mean the payment of a top-up that a wallet asked for; ``None`` if it has one, or there is no card."""
    row = TopUp.objects.get(pk=topup_id)
    ledger.lock([row.organization_id])
    row.refresh_from_db()
    if row.state != topups.State.PENDING or payments.of_subject(Purpose.TOPUP, topup_id) is not None:
        return None
    card = customers.default_card(row.organization_id)
    if card is None:
        topups.settle_failure(topup_id, state=topups.State.FAILED, failure="no_card")
        return None
    made = payments.open_one(
        organization_id=row.organization_id, purpose=Purpose.TOPUP, subject_id=topup_id,
        amount_usd=row.amount_usd + row.tax_usd, tax_usd=row.tax_usd, method=Method.CARD, card=card, off_session=True,
    )  # fmt: skip
    return UUID(str(made.pk))
