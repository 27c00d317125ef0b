"""What Stripe's objects say about a payment, and how two things said become one. Pure.

States only go forward, in the order of ``_ORDER``: whatever order news comes in, however often, and however late,
the end is the same. A payment that went through after all outranks every other end, for the money is there.
"""

from decimal import Decimal
from typing import Any, NamedTuple

from billing.models import Dispute, Payment, Refund
from core import clock

Object = dict[str, Any]
State = Payment.State

# What our objects at Stripe carry, so that they can be told from all others and found without their ids.
PAYMENT = "tollbook_payment"
REFUND = "tollbook_refund"
CURRENCY = "usd"
CENTS_PER_USD = 100

_ORDER = (
    State.PENDING, State.CALLED, State.REQUIRES_ACTION, State.PROCESSING, State.CANCELED, State.FAILED, State.SUCCEEDED,
)  # fmt: skip
OPEN = frozenset({State.PENDING, State.CALLED, State.REQUIRES_ACTION, State.PROCESSING})

_REFUND_ORDER = (
    Refund.State.WAITING, Refund.State.REFUSED, Refund.State.PENDING, Refund.State.CALLED, Refund.State.PROCESSING,
    Refund.State.SUCCEEDED, Refund.State.FAILED,
)  # fmt: skip
_DISPUTE_ORDER = (Dispute.State.INQUIRY, Dispute.State.OPEN, Dispute.State.LOST, Dispute.State.WON)


class Mismatch(Exception):
    """What Stripe says does not fit what was asked for: nothing is credited until a person has looked."""


class Facts(NamedTuple):
    """What is known of a payment at Stripe. ``asked_cents`` to ``payment_id`` say whose it is and over how much."""

    state: str
    asked_cents: int
    currency: str
    customer: str
    payment_id: str
    received_cents: int = 0
    session_id: str = ""
    intent_id: str = ""
    charge_id: str = ""
    checkout_url: str = ""
    next_action_url: str = ""
    failure_code: str = ""
    failure_message: str = ""
    fee_cents: int | None = None
    cancelable: bool = False


def later(one: str, other: str) -> str:
    """The later of two states of a payment."""
    return max(one, other, key=lambda state: _ORDER.index(State(state)))


def later_refund(one: str, other: str) -> str:
    """The later of two states of a refund: one that failed after all has failed."""
    return max(one, other, key=lambda state: _REFUND_ORDER.index(Refund.State(state)))


def later_dispute(one: str, other: str) -> str:
    """The later of two states of a dispute; one that was lost may be won after all, on appeal."""
    return max(one, other, key=lambda state: _DISPUTE_ORDER.index(Dispute.State(state)))


def cents(usd: Decimal) -> int:
    """Whole cents of an amount. Raises ``ValueError`` for one that has finer parts."""
    scaled = usd * CENTS_PER_USD
    whole = int(scaled)
    if whole != scaled:
        raise ValueError(f"{usd} USD is not a whole number of cents")
    return whole


def dollars(whole_cents: int) -> Decimal:
    """Dollars of whole cents."""
    return Decimal(whole_cents).scaleb(-2)


def id_of(value: Any) -> str:
    """The id in a field that holds one, or the object itself; empty where there is none."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) else ""


def of_intent(intent: Object, *, on_page: bool = False) -> Facts:
    """A PaymentIntent. ``on_page``: it belongs to a Checkout page, where a declined card may be followed by another."""
    failure = intent.get("last_payment_error") or {}
    action = intent.get("next_action") or {}
    redirect = action.get("redirect_to_url") or {}
    charge = intent.get("latest_charge")
    return Facts(
        state=_state_of_intent(intent, failed=bool(failure), on_page=on_page),
        asked_cents=intent["amount"],
        currency=intent["currency"],
        customer=id_of(intent.get("customer")),
        payment_id=(intent.get("metadata") or {}).get(PAYMENT, ""),
        received_cents=intent.get("amount_received") or 0,
        intent_id=intent["id"],
        charge_id=id_of(charge) if intent["status"] == "succeeded" else "",
        next_action_url=redirect.get("url") or "",
        failure_code=failure.get("decline_code") or failure.get("code") or "",
        failure_message=failure.get("message") or "",
        fee_cents=_fee(charge),
        cancelable=intent["status"] in {"requires_payment_method", "requires_confirmation", "requires_action"},
    )


def _state_of_intent(intent: Object, *, failed: bool, on_page: bool) -> str:
    status = intent["status"]
    if status == "succeeded":
        return State.SUCCEEDED
    if status == "canceled":
        return State.FAILED if failed and not on_page else State.CANCELED
    if status == "processing":
        return State.PROCESSING
    if on_page or status == "requires_action":
        return State.REQUIRES_ACTION
    if status == "requires_payment_method" and failed:
        return State.FAILED
    return State.CALLED


def _fee(charge: Any) -> int | None:
    """What Stripe kept of a charge, in cents; ``None`` while it has not said, or kept it in another currency."""
    kept = charge.get("balance_transaction") if isinstance(charge, dict) else None
    if not isinstance(kept, dict) or kept.get("currency") != CURRENCY:
        return None
    fee = kept.get("fee")
    return fee if isinstance(fee, int) else None


def of_session(session: Object, intent: Object | None) -> Facts:
    """A Checkout page and the PaymentIntent behind it, if there is one yet."""
    told = None if intent is None else of_intent(intent, on_page=True)
    if told is not None and (told.payment_id, told.asked_cents, told.currency, told.customer) != (
        (session.get("metadata") or {}).get(PAYMENT, ""), session["amount_total"], session["currency"],
        id_of(session.get("customer")),
    ):  # fmt: skip
        raise Mismatch(f"{session['id']} and {told.intent_id} do not say the same")
    state = State.REQUIRES_ACTION
    if told is not None and told.state == State.SUCCEEDED:
        state = State.SUCCEEDED
    elif session["status"] == "expired":
        state = State.CANCELED
    elif session["status"] == "complete":
        # Paid, but the intent does not say so yet; or paid later, and it may still fail.
        failed = intent is not None and intent["status"] in {"requires_payment_method", "canceled"}
        state = State.FAILED if failed else State.PROCESSING
    return Facts(
        state=state,
        asked_cents=session["amount_total"],
        currency=session["currency"],
        customer=id_of(session.get("customer")),
        payment_id=(session.get("metadata") or {}).get(PAYMENT, ""),
        received_cents=0 if told is None else told.received_cents,
        session_id=session["id"],
        intent_id=id_of(session.get("payment_intent")),
        charge_id="" if told is None else told.charge_id,
        checkout_url=session.get("url") or "",
        failure_code="" if told is None else told.failure_code,
        failure_message="" if told is None else told.failure_message,
        fee_cents=None if told is None else told.fee_cents,
    )


def check(payment: Payment, facts: Facts) -> None:
    """Raise ``Mismatch`` unless facts are about this payment, its customer, its amount in dollars and nothing else."""
    asked = cents(payment.amount_usd)
    customer = (payment.request or {}).get("customer", "")
    wanted: tuple[tuple[str, object, object], ...] = (
        ("metadata", str(payment.pk), facts.payment_id),
        ("currency", CURRENCY, facts.currency),
        ("customer", customer, facts.customer),
        ("amount", asked, facts.asked_cents),
        ("PaymentIntent", payment.intent_id or facts.intent_id, facts.intent_id or payment.intent_id or ""),
        ("Checkout session", payment.session_id or facts.session_id, facts.session_id or payment.session_id or ""),
    )
    for name, ours, theirs in wanted:
        if ours != theirs:
            raise Mismatch(f"{name}: {theirs!r} came for {ours!r}")
    if facts.state == State.SUCCEEDED and facts.received_cents != asked:
        raise Mismatch(f"received: {facts.received_cents} cents came for {asked}")


class RefundFacts(NamedTuple):
    """What is known of a refund at Stripe. ``refund_id`` is ours, of one that we asked for."""

    stripe_id: str
    state: str
    amount_cents: int
    intent_id: str
    refund_id: str
    failure: str


def of_refund(refund: Object) -> RefundFacts:
    """A refund. Raises ``Mismatch`` for one in another currency."""
    if refund["currency"] != CURRENCY:
        raise Mismatch(f"refund {refund['id']} is in {refund['currency']}")
    states = {"succeeded": Refund.State.SUCCEEDED, "failed": Refund.State.FAILED, "canceled": Refund.State.FAILED}
    return RefundFacts(
        stripe_id=refund["id"],
        state=states.get(refund["status"], Refund.State.PROCESSING),
        amount_cents=refund["amount"],
        intent_id=id_of(refund.get("payment_intent")),
        refund_id=(refund.get("metadata") or {}).get(REFUND, ""),
        failure=refund.get("failure_reason") or ("canceled" if refund["status"] == "canceled" else ""),
    )


class DisputeFacts(NamedTuple):
    """What is known of a dispute at Stripe; amounts in cents, sums of so many ``moves`` of its balance."""

    stripe_id: str
    state: str
    amount_cents: int
    intent_id: str
    reason: str
    withdrawn_cents: int
    reinstated_cents: int
    fee_cents: int
    moves: int


def of_dispute(dispute: Object) -> DisputeFacts:
    """A dispute. What it moved is what its balance transactions say. Raises ``Mismatch`` for another currency."""
    if dispute["currency"] != CURRENCY:
        raise Mismatch(f"dispute {dispute['id']} is in {dispute['currency']}")
    status = dispute["status"]
    moved = [one for one in dispute.get("balance_transactions") or () if one.get("currency") == CURRENCY]
    if status in {"won", "prevented"} or status == "warning_closed":
        state = Dispute.State.WON
    elif status == "lost":
        state = Dispute.State.LOST
    else:
        state = Dispute.State.INQUIRY if status.startswith("warning_") else Dispute.State.OPEN
    return DisputeFacts(
        stripe_id=dispute["id"],
        state=state,
        amount_cents=dispute["amount"],
        intent_id=id_of(dispute.get("payment_intent")),
        reason=dispute.get("reason") or "",
        withdrawn_cents=-sum(one["amount"] for one in moved if one["amount"] < 0),
        reinstated_cents=sum(one["amount"] for one in moved if one["amount"] > 0),
        fee_cents=sum(one.get("fee") or 0 for one in moved),
        moves=len(moved),
    )


class CardFacts(NamedTuple):
    """A saved card."""

    stripe_id: str
    brand: str
    last_four: str
    expires_month: int
    expires_year: int
    created_at: Any


def of_card(method: Object) -> CardFacts:
    """A payment method of the type card."""
    card = method.get("card") or {}
    return CardFacts(
        method["id"], card.get("brand") or "", card.get("last4") or "", card.get("exp_month") or 0,
        card.get("exp_year") or 0, clock.from_unix(method["created"]),
    )  # fmt: skip
