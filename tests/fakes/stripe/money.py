"""Cards, payments, refunds, disputes and the balance. Part of the fake Stripe.

Functions take the ``State`` and are called with its lock held. What Stripe or a bank does by itself
(a dispute, a refund that fails, a payout) stands here beside what a request does.
"""

import copy
from datetime import UTC, datetime
from typing import Any

from tests.fakes.stripe import shapes
from tests.fakes.stripe.cards import CARDS, TOKENS, Card
from tests.fakes.stripe.errors import Invalid, Refusal, wrong_state
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.state import DAY_SECONDS, State, merge_metadata

AMOUNT_MIN = 50
AMOUNT_MAX = 99_999_999
DISPUTE_FEE = 1500
SETTLE_SECONDS = 2 * DAY_SECONDS
OPEN = ("requires_payment_method", "requires_confirmation", "requires_action", "processing")


def fee(amount: int) -> int:
    """Stripe's price of a card payment in cents: 2.9 % and 30, half a cent up."""
    return (amount * 29 + 500) // 1000 + 30


def book(
    state: State,
    *,
    kind: str,
    category: str,
    amount: int,
    fee: int = 0,
    source: str | None,
    description: str | None = None,
) -> Json:
    """A balance transaction."""
    now = state.clock.now()
    return state.add(
        shapes.balance_transaction(
            state.new_id("txn"),
            kind=kind,
            category=category,
            amount=amount,
            fee=fee,
            currency="usd",
            source=source,
            description=description,
            created=now,
            available_on=now + (SETTLE_SECONDS if kind == "charge" else 0),
        )
    )


# Cards


def new_card(state: State, number: str) -> Json:
    """A payment method of a test card. Raises ``Refusal`` (402) for a number that is no test card."""
    card = CARDS.get(number.replace(" ", ""))
    if card is None:
        raise Refusal(402, kind="card_error", message="Your card number is incorrect.", code="incorrect_number")
    now = state.clock.now()
    year = datetime.fromtimestamp(now, UTC).year + 3
    method = shapes.payment_method(
        state.new_id("pm"), brand=card.brand, last4=card.last4, year=year, created=now, livemode=state.livemode
    )
    state.add(method)
    state.aside[method["id"]] = {"card": card, "set_up": False}
    return method


def method_of(state: State, id: str) -> Json:
    """A payment method by id, or a new one of Stripe's ready-made names (``pm_card_visa``)."""
    if id in TOKENS:
        return new_card(state, TOKENS[id].number)
    return state.get(id, "pm", param="payment_method")


def card_of(state: State, method: Json) -> Card:
    """The test card behind a payment method."""
    card: Card = state.aside[method["id"]]["card"]
    return card


def attach(state: State, method: Json, customer: Json) -> Json:
    """Save a card for a customer. Raises ``Refusal``."""
    card = card_of(state, method)
    if method["customer"] not in {None, customer["id"]}:
        raise wrong_state(
            "The payment method you provided has already been attached to a customer.",
            code="payment_method_unexpected_state",
        )
    if state.aside[method["id"]].get("detached"):
        raise wrong_state(
            "This PaymentMethod was previously used with a PaymentIntent without Customer attachment or was detached"
            " from a Customer, and may not be used again.",
            code="payment_method_unexpected_state",
        )
    if not card.attaches and card.decline:
        raise card_error(card, charge=None, intent=None, method=state.answer(method, None))
    if method["customer"] is None:
        method["customer"] = customer["id"]
        state.emit("payment_method.attached", method)
    return method


def detach(state: State, method: Json) -> Json:
    """Take a card from its customer, for good. Raises ``Refusal``."""
    if method["customer"] is None:
        raise wrong_state(
            "The payment method you provided is not attached to a customer so detachment is impossible.",
            code="payment_method_unexpected_state",
        )
    customer = state.objects[method["customer"]]
    previous = {"customer": method["customer"]}
    method["customer"] = None
    state.aside[method["id"]]["detached"] = True
    state.emit("payment_method.detached", method, previous=previous)
    settings = customer["invoice_settings"]
    if settings["default_payment_method"] == method["id"]:
        settings["default_payment_method"] = None
        state.emit(
            "customer.updated", customer, previous={"invoice_settings": {"default_payment_method": method["id"]}}
        )
    return method


def card_error(card: Card, *, charge: str | None, intent: Json | None, method: Json | None) -> Refusal:
    """402: the card was declined."""
    assert card.decline is not None
    code, decline_code, message = card.decline
    return Refusal(
        402,
        kind="card_error",
        message=message,
        code=code,
        decline_code=decline_code if code == "card_declined" else None,
        advice_code="try_again_later" if code == "card_declined" else None,
        charge=charge,
        payment_intent=intent,
        payment_method=method,
    )


# Payments


def new_intent(state: State, params: Json) -> Json:
    """A payment intent, not confirmed. Raises ``Refusal``."""
    amount, currency = params["amount"], params["currency"]
    if currency.lower() != "usd":
        raise Invalid(f"This fake takes usd only, not {currency}", param="currency")
    if amount < AMOUNT_MIN:
        raise Invalid("Amount must be at least $0.50 usd", param="amount", code="amount_too_small")
    if amount > AMOUNT_MAX:
        raise Invalid("Amount must be no more than $999,999.99", param="amount", code="amount_too_large")
    customer = params.get("customer")
    if customer:
        state.get(customer, "cus", param="customer")
    intent = shapes.payment_intent(
        state.new_id("pi"),
        secret=state.secret(),
        amount=amount,
        currency="usd",
        created=state.clock.now(),
        livemode=state.livemode,
    )
    intent |= {
        "customer": customer,
        "description": params.get("description"),
        "metadata": dict(params.get("metadata") or {}),
        "receipt_email": params.get("receipt_email"),
        "setup_future_usage": params.get("setup_future_usage"),
        "statement_descriptor_suffix": params.get("statement_descriptor_suffix"),
    }
    if params.get("automatic_payment_methods"):
        intent["automatic_payment_methods"] = {"allow_redirects": "always"} | params["automatic_payment_methods"]
    if params.get("payment_method"):
        _take(state, intent, method_of(state, params["payment_method"]))
        intent["status"] = "requires_confirmation"
    state.add(intent)
    state.emit("payment_intent.created", intent)
    return intent


def _take(state: State, intent: Json, method: Json) -> None:
    """Use a card for a payment. Raises ``Refusal``."""
    if method["customer"] != intent["customer"] and method["customer"] is not None:
        raise wrong_state(
            f"The PaymentMethod {method['id']} belongs to another customer than the PaymentIntent.",
            code="payment_method_unexpected_state",
            param="payment_method",
        )
    if state.aside[method["id"]].get("detached"):
        raise wrong_state(
            "The provided PaymentMethod was detached from a Customer and may not be used again.",
            code="payment_method_unexpected_state",
            param="payment_method",
        )
    intent["payment_method"] = method["id"]


def confirm(state: State, intent: Json, params: Json) -> Json:
    """Try to take the money. Raises ``Refusal``: 402 with the intent inside when the card does not pay."""
    if intent["status"] not in {"requires_payment_method", "requires_confirmation", "requires_action"}:
        raise _unexpected(state, intent, "confirm")
    if params.get("payment_method"):
        _take(state, intent, method_of(state, params["payment_method"]))
    if intent["payment_method"] is None:
        raise wrong_state(
            "You cannot confirm this PaymentIntent because it's missing a payment method.",
            code="payment_intent_unexpected_state",
            payment_intent=state.answer(intent, None),
        )
    check_return(intent["automatic_payment_methods"], params)
    off_session = bool(params.get("off_session"))
    intent["next_action"] = None
    method = state.objects[intent["payment_method"]]
    card = card_of(state, method)
    if _must_authenticate(state, card, method):
        if off_session:
            return _not_authenticated_off_session(state, intent, method)
        intent["status"] = "requires_action"
        intent["next_action"] = _action(state, intent, params.get("return_url"))
        state.emit("payment_intent.requires_action", intent)
        if params.get("error_on_requires_action"):
            raise Refusal(
                402,
                kind="card_error",
                message="This payment required an authentication action to complete, but"
                " `error_on_requires_action` was set.",
                code="authentication_required",
                payment_intent=state.answer(intent, None),
            )
        return intent
    return charge(state, intent, method)


def check_return(automatic: Json | None, params: Json) -> None:
    """A person who pays may be sent elsewhere and must come back. Raises ``Invalid``."""
    redirects = (automatic or {}).get("allow_redirects") != "never"
    only_cards = params.get("allowed_payment_method_types") == ["card"]
    told = params.get("off_session") or params.get("return_url") or params.get("use_stripe_sdk")
    if redirects and not only_cards and not told:
        raise Invalid(
            "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of"
            " these payment methods might redirect your customer off of your page, you must provide a `return_url`.",
            param="return_url",
        )


def _must_authenticate(state: State, card: Card, method: Json) -> bool:
    return card.authenticate == "always" or (
        card.authenticate == "unless_set_up" and not state.aside[method["id"]]["set_up"]
    )


def _action(state: State, intent: Json, return_url: str | None) -> Json:
    state.aside.setdefault(intent["id"], {})["return_url"] = return_url
    if return_url is None:
        return {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
    url = f"{state.base_url}/fake/authenticate/{intent['id']}"
    return {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": url}}


def _not_authenticated_off_session(state: State, intent: Json, method: Json) -> Json:
    """The bank wants to see a person and there is none."""
    card = Card(
        "",
        "",
        decline=(
            "authentication_required",
            "authentication_required",
            "Your card was declined. This transaction requires authentication.",
        ),
    )
    return _decline(state, intent, method, card)


def charge(state: State, intent: Json, method: Json) -> Json:
    """Take the money now, or fail. Raises ``Refusal`` (402)."""
    card = card_of(state, method)
    if card.decline is not None:
        return _decline(state, intent, method, card)
    now = state.clock.now()
    made = state.add(
        shapes.charge(state.new_id("ch"), intent=intent, method=method, created=now, livemode=state.livemode)
    )
    if not state.balance_waits:
        _settle_charge(state, made)
    intent |= {
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "latest_charge": made["id"],
        "next_action": None,
        "status": "succeeded",
    }
    state.emit("charge.succeeded", made)
    if intent["setup_future_usage"] and intent["customer"] and method["customer"] is None:
        attach(state, method, state.objects[intent["customer"]])
    if intent["setup_future_usage"] == "off_session":
        state.aside[method["id"]]["set_up"] = True
    state.emit("payment_intent.succeeded", intent)
    return intent


def _settle_charge(state: State, made: Json) -> None:
    transaction = book(
        state, kind="charge", category="charge", amount=made["amount"], fee=fee(made["amount"]), source=made["id"]
    )
    made["balance_transaction"] = transaction["id"]


def settle_charges(state: State) -> int:
    """What waited for its balance transaction gets one; how many those were."""
    waiting = [one for one in state.all("ch") if one["paid"] and one["balance_transaction"] is None]
    for made in waiting:
        _settle_charge(state, made)
        state.emit("charge.updated", made, previous={"balance_transaction": None})
    return len(waiting)


def _decline(state: State, intent: Json, method: Json, card: Card) -> Json:
    assert card.decline is not None
    code, decline_code, message = card.decline
    now = state.clock.now()
    made = shapes.charge(state.new_id("ch"), intent=intent, method=method, created=now, livemode=state.livemode)
    shapes.declined(made, code=code, decline_code=decline_code, message=message)
    state.add(made)
    shown = state.answer(method, None)
    error = card_error(card, charge=made["id"], intent=None, method=shown)
    if code == "authentication_required":
        error.error["decline_code"] = decline_code
    intent |= {
        "last_payment_error": error.body["error"],
        "latest_charge": made["id"],
        "next_action": None,
        "payment_method": None,
        "status": "requires_payment_method",
    }
    state.emit("charge.failed", made)
    state.emit("payment_intent.payment_failed", intent)
    error.error["payment_intent"] = state.answer(intent, None)
    raise error


def authenticate(state: State, intent: Json, *, passed: bool) -> Json:
    """The person passed 3-D Secure or did not. Raises ``Refusal`` (402) when the card does not pay then."""
    if intent["status"] != "requires_action":
        raise _unexpected(state, intent, "authenticate")
    method = state.objects[intent["payment_method"]]
    if passed:
        return charge(state, intent, method)
    intent |= {
        "last_payment_error": {
            "code": "payment_intent_authentication_failure",
            "doc_url": "https://stripe.com/docs/error-codes/payment-intent-authentication-failure",
            "message": "The provided PaymentMethod has failed authentication. You can provide payment_method_data or"
            " a new PaymentMethod to attempt to fulfill this PaymentIntent again.",
            "payment_method": state.answer(method, None),
            "type": "invalid_request_error",
        },
        "next_action": None,
        "payment_method": None,
        "status": "requires_payment_method",
    }
    state.emit("payment_intent.payment_failed", intent)
    return intent


def cancel(state: State, intent: Json, reason: str | None) -> Json:
    """Give up a payment that has not succeeded. Raises ``Refusal``."""
    if state.aside.get(intent["id"], {}).get("session"):
        raise wrong_state(
            "You cannot cancel this PaymentIntent because it belongs to a Checkout Session."
            " Expire the session instead.",
            code="payment_intent_unexpected_state",
        )
    if intent["status"] not in OPEN:
        raise _unexpected(state, intent, "cancel")
    return drop(state, intent, reason)


def drop(state: State, intent: Json, reason: str | None) -> Json:
    """Mark a payment canceled."""
    intent |= {
        "canceled_at": state.clock.now(),
        "cancellation_reason": reason,
        "next_action": None,
        "status": "canceled",
    }
    state.emit("payment_intent.canceled", intent)
    return intent


def _unexpected(state: State, intent: Json, what: str) -> Refusal:
    return wrong_state(
        f"You cannot {what} this PaymentIntent because it has a status of {intent['status']}.",
        code="payment_intent_unexpected_state",
        payment_intent=state.answer(intent, None),
    )


# Refunds


def new_refund(state: State, params: Json) -> Json:
    """Give money back. Raises ``Refusal``: more than is left, disputed, nothing taken."""
    if bool(params.get("charge")) == bool(params.get("payment_intent")):
        raise Invalid("You must provide either a charge or a payment_intent.", param="charge")
    if params.get("charge"):
        taken = state.get(params["charge"], "ch", param="charge")
    else:
        intent = state.get(params["payment_intent"], "pi", param="payment_intent")
        if intent["status"] != "succeeded":
            raise wrong_state(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
                code="charge_not_refundable",
            )
        taken = state.objects[intent["latest_charge"]]
    if not taken["paid"]:
        raise wrong_state(f"Charge {taken['id']} has not succeeded.", code="charge_not_refundable")
    left = taken["amount"] - taken["amount_refunded"]
    if left == 0:
        raise wrong_state(f"Charge {taken['id']} has already been refunded.", code="charge_already_refunded")
    if taken["disputed"]:
        raise wrong_state(f"Charge {taken['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    amount = params.get("amount", left)
    if amount < 1:
        raise Invalid("Invalid positive integer", param="amount", code="parameter_invalid_integer")
    if amount > left:
        raise wrong_state(
            f"Refund amount (${amount // 100}.{amount % 100:02}) is greater than unrefunded amount on charge"
            f" (${left // 100}.{left % 100:02})",
            code="amount_too_large",
            param="amount",
        )
    made = shapes.refund(
        state.new_id("re"), charge=taken, amount=amount, reason=params.get("reason"), created=state.clock.now()
    )
    made["metadata"] = dict(params.get("metadata") or {})
    state.add(made)
    transaction = book(state, kind="refund", category="refund", amount=-amount, source=made["id"])
    made["balance_transaction"] = transaction["id"]
    if state.refunds_wait:
        made["pending_reason"] = "processing"
    else:
        made["status"] = "succeeded"
    previous = {"amount_refunded": taken["amount_refunded"], "refunded": taken["refunded"]}
    taken["amount_refunded"] += amount
    taken["refunded"] = taken["amount_refunded"] == taken["amount"]
    state.emit("refund.created", made)
    state.emit("charge.refunded", taken, previous=previous)
    return made


def settle_refund(state: State, refund: Json) -> Json:
    """A pending refund arrives."""
    assert refund["status"] == "pending", "only a pending refund settles"
    refund["status"] = "succeeded"
    refund.pop("pending_reason", None)
    state.emit("refund.updated", refund, previous={"status": "pending"})
    return refund


def fail_refund(state: State, refund: Json, *, reason: str) -> Json:
    """The bank sends a refund back, which may be days after it succeeded."""
    assert refund["status"] in {"pending", "succeeded"}, "a refund fails once"
    previous = {"status": refund["status"]}
    transaction = book(
        state, kind="refund_failure", category="refund_failure", amount=refund["amount"], source=refund["id"]
    )
    refund |= {
        "failure_balance_transaction": transaction["id"],
        "failure_reason": reason,
        "status": "failed",
    }
    taken = state.objects[refund["charge"]]
    taken["amount_refunded"] -= refund["amount"]
    taken["refunded"] = False
    state.emit("refund.updated", refund, previous=previous)
    state.emit("charge.refund.updated", refund, previous=previous)
    state.emit("refund.failed", refund, previous=previous)
    return refund


# Disputes


def open_dispute(
    state: State, taken: Json, *, amount: int | None = None, reason: str = "fraudulent", inquiry: bool = False
) -> Json:
    """The card's holder tells the bank that the charge is wrong. An inquiry takes no money yet."""
    assert taken["paid"], "only a paid charge is disputed"
    assert not taken["disputed"], "a charge is disputed once"
    amount = taken["amount"] - taken["amount_refunded"] if amount is None else amount
    status = "warning_needs_response" if inquiry else "needs_response"
    made = state.add(
        shapes.dispute(
            state.new_id("du"),
            charge=taken,
            amount=amount,
            reason=reason,
            status=status,
            created=state.clock.now(),
            livemode=state.livemode,
        )
    )
    taken["disputed"] = True
    if inquiry:
        state.emit("charge.dispute.created", made)
    else:
        _withdraw(state, made)
        state.emit("charge.dispute.created", made)
        state.emit("charge.dispute.funds_withdrawn", made)
    return made


def _withdraw(state: State, dispute: Json) -> None:
    transaction = book(
        state,
        kind="adjustment",
        category="dispute",
        amount=-dispute["amount"],
        fee=DISPUTE_FEE,
        source=dispute["id"],
        description=f"Chargeback withdrawal for {dispute['charge']}",
    )
    dispute["balance_transactions"].append(transaction)


def escalate_dispute(state: State, dispute: Json) -> Json:
    """An inquiry becomes a dispute that takes the money."""
    assert dispute["status"].startswith("warning"), "only an inquiry escalates"
    previous = {"status": dispute["status"]}
    dispute["status"] = "needs_response"
    _withdraw(state, dispute)
    state.emit("charge.dispute.updated", dispute, previous=previous)
    state.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def close_dispute(state: State, dispute: Json, *, won: bool) -> Json:
    """The bank has decided; won gives the amount back, the fee stays with Stripe. Raises ``Refusal``."""
    if dispute["status"] in {"won", "lost", "warning_closed"}:
        raise wrong_state("This dispute is already closed", code="dispute_closed")
    previous = {"status": dispute["status"]}
    if dispute["status"].startswith("warning"):
        dispute["status"] = "warning_closed"
        state.objects[dispute["charge"]]["disputed"] = False
    elif won:
        dispute["status"] = "won"
        transaction = book(
            state,
            kind="adjustment",
            category="dispute_reversal",
            amount=dispute["amount"],
            source=dispute["id"],
            description=f"Chargeback reversal for {dispute['charge']}",
        )
        dispute["balance_transactions"].append(transaction)
    else:
        dispute["status"] = "lost"
    state.emit("charge.dispute.closed", dispute, previous=previous)
    if dispute["status"] == "won":
        state.emit("charge.dispute.funds_reinstated", dispute)
    return dispute


# The balance


def charge_fee(state: State, amount: int, *, description: str) -> Json:
    """Stripe takes a fee that belongs to no payment."""
    return book(state, kind="stripe_fee", category="fee", amount=-amount, source=None, description=description)


def pay_out(state: State) -> Json | None:
    """Send what is available to our bank; nothing if nothing is."""
    now = state.clock.now()
    total = sum(one["net"] for one in state.all("txn") if one["available_on"] <= now)
    if total <= 0:
        return None
    id = state.new_id("po")
    transaction = book(state, kind="payout", category="payout", amount=-total, source=id, description="STRIPE PAYOUT")
    made = shapes.payout(
        id, amount=total, currency="usd", transaction=transaction["id"], created=now, livemode=state.livemode
    )
    state.add(made)
    state.emit("payout.created", made)
    return made


def balance(state: State) -> int:
    """What lies at Stripe, in cents: the sum of all that moved it."""
    total: int = sum(one["net"] for one in state.all("txn"))
    return total


def update_customer(state: State, customer: Json, params: Json) -> Json:
    """Change what is named; keep the rest. Raises ``Refusal``."""
    before = copy.deepcopy(customer)
    change_customer(state, customer, params)
    previous: dict[str, Any] = {key: value for key, value in before.items() if customer[key] != value}
    if previous:
        state.emit("customer.updated", customer, previous=previous)
    return customer


def change_customer(state: State, customer: Json, params: Json) -> None:
    """Set a customer's fields from parameters. Raises ``Refusal``."""
    for name in ("address", "business_name", "description", "email", "individual_name", "name", "phone", "shipping"):
        if name in params:
            customer[name] = params[name] or None
    if "preferred_locales" in params:
        customer["preferred_locales"] = params["preferred_locales"]
    if params.get("tax_exempt"):
        customer["tax_exempt"] = params["tax_exempt"]
    if "metadata" in params:
        merge_metadata(customer, params["metadata"])
    default = (params.get("invoice_settings") or {}).get("default_payment_method")
    if default is not None:
        if (
            default
            and state.get(default, "pm", param="invoice_settings[default_payment_method]")["customer"] != customer["id"]
        ):
            raise wrong_state(
                f"The customer does not have a payment method with the ID {default}. The payment method must be"
                " attached to the customer.",
                code="resource_missing",
                param="invoice_settings[default_payment_method]",
            )
        customer["invoice_settings"]["default_payment_method"] = default or None
