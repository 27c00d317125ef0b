"""Payments: what is asked of a customer through Stripe, followed to its end. The only module that writes ``Payment``.

A row is meant and committed first; its id is the key under which Stripe is asked, with parameters that are
written down before the first call and never change. What becomes of it is settled in ``billing.settlement``.

For whoever sells something (``purpose``): ``open_one`` inside your transaction, once your own row is there;
``settlement.ask`` after the commit, with no transaction open; then wait to be told. While a payment of a subject
is open there is no second one. Should two succeed all the same, the later one is given back.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from billing.models import Payment, PaymentCard
from billing.processor import facts
from billing.processor.client import KEY_HOURS
from billing.processor.facts import OPEN, Facts
from core import clock, errors, ids, money
from core.transactions import UNIQUE_VIOLATION, retry, sqlstate
from ops import outbox
from orgs import audit
from orgs.audit import Actor

Purpose = Payment.Purpose
Method = Payment.Method
State = Payment.State

# Stripe's pages live for half an hour at least, also one that is asked for again after five minutes; one that nobody
# pays on keeps others waiting for less than an hour.
PAGE_LIFE = timedelta(minutes=45)
# So long the customer has to confirm a charge with their bank.
ACTION_LIFE = timedelta(minutes=30)
# Whoever opened a payment asks at once; if they died before, the sweep does.
FIRST_LOOK = timedelta(minutes=1)
# How long nobody asks again after a call of which nothing is known: the same key each time.
DOUBT = (timedelta(minutes=5), timedelta(hours=1), timedelta(days=1))
# How often Stripe is asked about what it knows, should its events not come.
KNOWN = timedelta(minutes=5)
LATE = timedelta(hours=1)
# The fee of a payment is known within a day, or reconciliation says so.
FEE_LOOKS_MAX = 3
KEY_LIFE = timedelta(hours=KEY_HOURS)
SWEEP = 100


class PaymentOpen(errors.Conflict):
    """Another payment for the same thing is still open."""

    code = "payment_open"
    default = "A payment for this is open already."


def open_one(
    *,
    organization_id: UUID,
    purpose: str,
    subject_id: UUID,
    amount_usd: Decimal,
    tax_usd: Decimal = money.ZERO,
    method: str,
    card: PaymentCard | None = None,
    off_session: bool = False,
    success_url: str = "",
    cancel_url: str = "",
) -> Payment:
    """Mean a payment, inside the caller's transaction. ``amount_usd`` is all there is to pay, ``tax_usd`` of it tax.

    Both are whole cents. A ``card`` pays by the method of that name; ``off_session`` says that nobody is there to
    confirm. Raises ``PaymentOpen`` while one of the same subject is open.
    """
    assert connection.in_atomic_block, "a payment is meant together with what it is for"
    facts.cents(amount_usd)
    facts.cents(tax_usd)
    assert (card is not None) == (method == Method.CARD), "a saved card pays, or Stripe's page asks for one"
    now = clock.now()
    try:
        with transaction.atomic():
            return Payment.objects.create(
                organization_id=organization_id, purpose=purpose, subject_id=subject_id, amount_usd=amount_usd,
                tax_usd=tax_usd, method=method, card=card, off_session=off_session, success_url=success_url,
                cancel_url=cancel_url, created_at=now, next_look_at=now + FIRST_LOOK,
                deadline_at=now + (PAGE_LIFE if method == Method.CHECKOUT else ACTION_LIFE),
            )  # fmt: skip
    except Exception as error:
        if sqlstate(error) == UNIQUE_VIOLATION:
            raise PaymentOpen from error
        raise


def of_subject(purpose: str, subject_id: UUID) -> Payment | None:
    """The payment of a subject: the open one, else the last."""
    rows = list(Payment.objects.filter(purpose=purpose, subject_id=subject_id).order_by("-pk"))
    return next((row for row in rows if row.state in OPEN), rows[0] if rows else None)


def of_subjects(purpose: str, subject_ids: Collection[UUID]) -> dict[UUID, Payment]:
    """As ``of_subject``, for several. One query."""
    found: dict[UUID, Payment] = {}
    rows = Payment.objects.filter(purpose=purpose, subject_id__in=list(subject_ids)).select_related("card")
    for row in rows.order_by("pk"):
        known = found.get(row.subject_id)
        if known is None or known.state not in OPEN:
            found[row.subject_id] = row
    return found


def reference_of(payment: Payment) -> str:
    """What the credit that a payment becomes names as its cause."""
    return f"topup:{payment.subject_id}" if payment.purpose == Purpose.TOPUP else f"payment:{payment.pk}"


def key_of(row: Payment) -> str:
    """Under which Stripe is asked: the same for every attempt."""
    return str(row.pk)


def begin(payment_id: UUID, *, customer: str) -> Mapping[str, Any] | None:
    """Take the call on and write down its parameters; ``None`` if it is not to be made, or by somebody else.

    Made again under the same key after a pause, as long as Stripe is sure to remember the key.
    """
    asked: Mapping[str, Any] | None = retry(lambda: _begin(payment_id, customer))
    return asked


@transaction.atomic(durable=True)
def _begin(payment_id: UUID, customer: str) -> Mapping[str, Any] | None:
    row = Payment.objects.select_for_update(no_key=True).get(pk=payment_id)
    now = clock.now()
    if row.state == State.CALLED:
        asked_before = row.next_look_at is not None and row.next_look_at <= now and not row.intent_id
        if not asked_before or row.session_id or is_forgotten(row, now):
            return None
    elif row.state != State.PENDING:
        return None
    if row.request is None:
        # By the clock of the first call: a page must live half an hour from then.
        row.deadline_at = now + (PAGE_LIFE if row.method == Method.CHECKOUT else ACTION_LIFE)
        row.request = _parameters(row, customer)
    row.state, row.called_at = State.CALLED, row.called_at or now
    row.attempts += 1
    # Once Stripe may have forgotten the key, it is looked through at once.
    row.next_look_at = min(now + DOUBT[min(row.attempts, len(DOUBT)) - 1], row.called_at + KEY_LIFE)
    row.save(update_fields=["state", "called_at", "attempts", "next_look_at", "request", "deadline_at"])
    request: dict[str, Any] = row.request
    return request


def is_forgotten(row: Payment, now: datetime) -> bool:
    """Whether Stripe may have forgotten the key, so that asking again could charge again."""
    return row.called_at is not None and now - row.called_at >= KEY_LIFE


def _parameters(row: Payment, customer: str) -> dict[str, Any]:
    """What Stripe is asked for. Dollars alone, cards alone, and our id on everything that it makes of it."""
    marks = {facts.PAYMENT: str(row.pk)}
    amount, word = facts.cents(row.amount_usd), row.get_purpose_display().lower()
    back = f"{settings.PUBLIC_URL}/billing/payments/{ids.show('pay', row.pk)}"
    if row.method == Method.CHECKOUT:
        product = {
            "currency": facts.CURRENCY, "unit_amount": amount, "product_data": {"name": f"Tollbook {word}"},
        }  # fmt: skip
        return {
            "mode": "payment", "customer": customer, "client_reference_id": str(row.pk), "metadata": marks,
            "line_items": [{"quantity": 1, "price_data": product}], "payment_intent_data": {"metadata": marks},
            "allowed_payment_method_types": ["card"], "adaptive_pricing": {"enabled": False},
            "expires_at": clock.to_unix(row.deadline_at), "success_url": row.success_url or back,
            "cancel_url": row.cancel_url or back,
        }  # fmt: skip
    assert row.card is not None
    asked: dict[str, Any] = {
        "amount": amount, "currency": facts.CURRENCY, "customer": customer, "payment_method": row.card.stripe_id,
        "allowed_payment_method_types": ["card"], "confirm": True, "metadata": marks, "description": f"Tollbook {word}",
    }  # fmt: skip
    return {**asked, "off_session": True} if row.off_session else {**asked, "return_url": row.success_url or back}


def locked(payment_id: UUID) -> Payment:
    """The row under its lock, and before it those of the same subject: news about them waits for each other."""
    assert connection.in_atomic_block, "a lock needs a transaction"
    subject = Payment.objects.filter(pk=payment_id).values_list("purpose", "subject_id").get()
    rows = Payment.objects.select_for_update(no_key=True).filter(purpose=subject[0], subject_id=subject[1])
    return {row.pk: row for row in rows.order_by("pk")}[payment_id]


def advance(row: Payment, told: Facts) -> bool:
    """Take in what Stripe says, under the row's lock; whether the payment's state changed. Raises ``Mismatch``."""
    if row.request is None:
        raise facts.Mismatch("Stripe knows a payment that it was not asked for yet")
    facts.check(row, told)
    before, now = row.state, clock.now()
    row.state = facts.later(before, told.state)
    row.session_id = row.session_id or told.session_id or None
    row.intent_id = row.intent_id or told.intent_id or None
    row.charge_id = row.charge_id or told.charge_id or None
    row.checkout_url = told.checkout_url or row.checkout_url
    row.next_action_url = told.next_action_url or row.next_action_url
    if row.state == State.SUCCEEDED:
        row.received_usd, row.failure_code, row.failure_message = row.amount_usd, "", ""
    elif told.failure_code or told.failure_message:
        row.failure_code, row.failure_message = told.failure_code, told.failure_message
    elif row.state == State.CANCELED and before != row.state:
        row.failure_code, row.failure_message = "expired", "It was not paid in time."
    if row.state not in OPEN and (before != row.state or row.settled_at is None):
        row.settled_at, row.looks = now, 0
    row.parked = ""
    row.next_look_at = _next_look(row, now)
    row.save()
    return before != row.state


def fail(row: Payment, *, code: str, message: str) -> bool:
    """End a payment that Stripe never began, or refused, under the row's lock; whether it was open."""
    if row.state not in OPEN:
        return False
    row.state, row.failure_code, row.failure_message = State.FAILED, code, message
    row.settled_at, row.next_look_at = clock.now(), None
    row.save()
    return True


def _next_look(row: Payment, now: datetime) -> datetime | None:
    """When Stripe is asked about a payment next, if its events say nothing."""
    if row.state in OPEN:
        return min(now + KNOWN, max(row.deadline_at, now)) if now < row.deadline_at else now + _pause(row.looks)
    if row.state == State.SUCCEEDED and row.fee_usd is None and row.looks < FEE_LOOKS_MAX:
        return now + DOUBT[row.looks]
    return None


def _pause(looks: int) -> timedelta:
    return KNOWN if looks < 24 else LATE


def take_fee(row: Payment, fee_usd: Decimal) -> bool:
    """Note what Stripe kept of a payment, under the row's lock; whether that is news."""
    if row.fee_usd is not None:
        return False
    row.fee_usd = fee_usd
    row.next_look_at = None
    row.save(update_fields=["fee_usd", "next_look_at"])
    return True


def mark_surplus(row: Payment) -> None:
    """Note, under the row's lock, that what a payment was for had been paid already."""
    row.surplus = True
    row.save(update_fields=["surplus"])


def count_refund(row: Payment, change_usd: Decimal) -> None:
    """Add to what went back of a payment, under its row's lock; below zero takes off. Raises ``Mismatch``."""
    if not 0 <= row.refunded_usd + change_usd <= row.received_usd:
        raise facts.Mismatch(f"refunds would come to {row.refunded_usd + change_usd} of {row.received_usd} USD")
    row.refunded_usd += change_usd
    row.save(update_fields=["refunded_usd"])


def park(payment_id: UUID, *, reason: str) -> None:
    """Leave a payment for a person to look at, and tell them; nothing of it is credited meanwhile."""

    @transaction.atomic(durable=True)
    def note() -> None:
        row = Payment.objects.select_for_update(no_key=True).get(pk=payment_id)
        row.parked, row.next_look_at = reason, None
        row.save(update_fields=["parked", "next_look_at"])
        outbox.post(
            kind="payment.parked", organization_id=row.organization_id, key=f"{row.pk}:{reason}",
            data={"payment_id": ids.show("pay", row.pk), "reason": reason},
        )  # fmt: skip

    retry(note)


def claim(payment_id: UUID) -> Payment | None:
    """A payment whose time to be looked at has come, for whoever asks first; later the others see it again."""
    now = clock.now()
    taken = Payment.objects.filter(pk=payment_id, next_look_at__lte=now).update(next_look_at=now + KNOWN)
    if not taken:
        return None
    row = Payment.objects.get(pk=payment_id)
    Payment.objects.filter(pk=payment_id).update(looks=row.looks + 1)
    return row


def due() -> list[tuple[UUID, str]]:
    """Payments to be looked at now, the longest waiting first, with their states."""
    rows = Payment.objects.filter(next_look_at__lte=clock.now()).order_by("next_look_at")
    return list(rows.values_list("pk", "state")[:SWEEP])


def find(*, payment_id: str = "", intent_id: str = "", session_id: str = "") -> Payment | None:
    """The payment that Stripe speaks of: by its own ids, else by ours on its object."""
    known = Q()
    if intent_id:
        known |= Q(intent_id=intent_id)
    if session_id:
        known |= Q(session_id=session_id)
    row = Payment.objects.filter(known).order_by("pk").first() if known else None
    if row is not None or not payment_id:
        return row
    try:
        return Payment.objects.filter(pk=UUID(payment_id)).first()
    except ValueError:
        return None


def give_up(*, payment_id: UUID, by: Actor) -> None:
    """Note that the customer does not want to pay any more what waits for them: whoever looks next ends it at Stripe.

    Raises ``Conflict`` where nothing waits for the customer.
    """
    with transaction.atomic():
        row = Payment.objects.select_for_update(no_key=True).get(pk=payment_id)
        if row.state != State.REQUIRES_ACTION:
            raise errors.Conflict("This payment does not wait for you any more.")
        row.deadline_at = row.next_look_at = clock.now()
        row.save(update_fields=["deadline_at", "next_look_at"])
        audit.note(actor=by, verb="payment.given_up", subject=row, organization=row.organization, details={})


def look_again(*, payment_id: UUID, by: Actor) -> None:
    """Note that a person wants Stripe asked again, of a parked payment too."""
    with transaction.atomic():
        row = Payment.objects.select_for_update(no_key=True).get(pk=payment_id)
        row.next_look_at = clock.now()
        row.save(update_fields=["next_look_at"])
        audit.note(
            actor=by, verb="payment.looked_at", subject=row, organization=row.organization,
            details={"state": row.state, "parked": row.parked},
        )  # fmt: skip
