"""Checkout: sessions, and what a person does on their page. Part of the fake Stripe."""

from tests.fakes.stripe import money, shapes
from tests.fakes.stripe.errors import Invalid, wrong_state
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.state import DAY_SECONDS, State

LIFE_SECONDS = DAY_SECONDS
LIFE_MIN_SECONDS = 30 * 60


def create(state: State, params: Json) -> Json:
    """A page to pay or to save a card on. Raises ``Refusal``."""
    mode = params.get("mode")
    if mode not in {"payment", "setup"}:
        raise Invalid("This fake knows the modes payment and setup", param="mode")
    if params.get("ui_mode", "hosted_page") != "hosted_page":
        raise Invalid("This fake has hosted pages only", param="ui_mode")
    if not params.get("success_url"):
        raise Invalid("Missing required param: success_url.", param="success_url", code="parameter_missing")
    now = state.clock.now()
    expires = params.get("expires_at", now + LIFE_SECONDS)
    if not now + LIFE_MIN_SECONDS <= expires <= now + LIFE_SECONDS:
        raise Invalid("The `expires_at` timestamp must be between 30 minutes and 24 hours from now", param="expires_at")
    if params.get("customer"):
        state.get(params["customer"], "cus", param="customer")
        if params.get("customer_email"):
            raise Invalid("You may only specify one of these parameters: customer, customer_email.", param="customer")
    id = state.new_id(f"cs_{'live' if state.livemode else 'test'}")
    made = shapes.session(
        id,
        mode=mode,
        created=now,
        expires_at=expires,
        livemode=state.livemode,
        url=f"{state.base_url}/fake/pay/{id}",
    )
    made |= {
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "customer": params.get("customer"),
        "customer_creation": params.get("customer_creation") if not params.get("customer") else None,
        "customer_email": params.get("customer_email"),
        "metadata": dict(params.get("metadata") or {}),
        "success_url": params["success_url"],
    }
    if mode == "payment":
        _price(made, params)
    else:
        if params.get("line_items"):
            raise Invalid("You can not pass `line_items` in `setup` mode.", param="line_items")
        _setup(state, made, params)
    lines = [
        (line["price_data"]["product_data"]["name"], line["price_data"]["unit_amount"] * line["quantity"])
        for line in params.get("line_items") or []
    ]
    state.aside[id] = {"intent_data": params.get("payment_intent_data") or {}, "lines": lines}
    return state.add(made)


def _price(made: Json, params: Json) -> None:
    """Add up the line items. Raises ``Refusal``."""
    total = 0
    for at, line in enumerate(params.get("line_items") or []):
        price = line.get("price_data")
        if price is None:
            raise Invalid("This fake knows line items with price_data only", param=f"line_items[{at}][price_data]")
        if "unit_amount" not in price or "product_data" not in price:
            raise Invalid(
                "Missing required param: unit_amount and product_data.",
                param=f"line_items[{at}][price_data]",
                code="parameter_missing",
            )
        if price["currency"].lower() != "usd":
            raise Invalid("This fake takes usd only", param=f"line_items[{at}][price_data][currency]")
        if price["unit_amount"] < 0 or line.get("quantity", 0) < 1:
            raise Invalid("Line items need a positive quantity and amount", param=f"line_items[{at}]")
        total += price["unit_amount"] * line["quantity"]
    if total < money.AMOUNT_MIN:
        raise Invalid(
            "The Checkout Session's total amount must convert to at least 50 cents.",
            param="line_items",
            code="amount_too_small",
        )
    made |= {"amount_subtotal": total, "amount_total": total, "currency": "usd"}


def _setup(state: State, made: Json, params: Json) -> None:
    data = params.get("setup_intent_data") or {}
    intent = shapes.setup_intent(
        state.new_id("seti"), secret=state.secret(), created=made["created"], livemode=state.livemode
    )
    intent |= {
        "customer": made["customer"],
        "description": data.get("description"),
        "metadata": dict(data.get("metadata") or {}),
    }
    state.add(intent)
    state.emit("setup_intent.created", intent)
    made |= {"setup_intent": intent["id"], "currency": params.get("currency")}


def look(state: State, session: Json) -> Json:
    """A session as it stands, expired if its time is over."""
    if session["status"] == "open" and state.clock.now() >= session["expires_at"]:
        _end(state, session)
    return session


def expire(state: State, session: Json) -> Json:
    """Close an open page. Raises ``Refusal``."""
    if look(state, session)["status"] != "open":
        raise wrong_state(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of'
            f" {session['status']}.",
            code="checkout_session_unexpected_state",
        )
    return _end(state, session)


def _end(state: State, session: Json) -> Json:
    session |= {"status": "expired", "url": None}
    intent = state.objects.get(session["payment_intent"] or "")
    if intent is not None and intent["status"] in money.OPEN:
        money.drop(state, intent, "automatic")
    state.emit("checkout.session.expired", session)
    return session


class NeedsPerson(Exception):
    """The card's bank wants 3-D Secure: the person goes on to that page."""


def pay(state: State, session: Json, number: str, *, email: str | None = None, authenticated: bool = False) -> Json:
    """A person enters a card on the page. Raises ``NeedsPerson`` and ``Refusal`` (402: the page shows it)."""
    if look(state, session)["status"] != "open":
        raise wrong_state("This Checkout Session is not open.", code="checkout_session_unexpected_state")
    aside = state.aside[session["id"]]
    aside["email"] = email
    if authenticated:
        method = state.objects[aside["method"]]
    else:
        method = money.new_card(state, number)
        method["billing_details"]["email"] = email
        aside["method"] = method["id"]
    if session["mode"] == "setup":
        return _save(state, session, method, authenticated=authenticated)
    intent = _intent(state, session)
    if authenticated:
        money.authenticate(state, intent, passed=True)
    else:
        money.confirm(state, intent, {"payment_method": method["id"], "return_url": session["url"]})
    if intent["status"] == "requires_action":
        raise NeedsPerson
    session["payment_status"] = "paid"
    return _complete(state, session, method)


def refuse(state: State, session: Json) -> None:
    """The person did not pass 3-D Secure: the page stays open for another card."""
    if session["mode"] == "payment":
        money.authenticate(state, _intent(state, session), passed=False)


def _intent(state: State, session: Json) -> Json:
    """The session's payment; Stripe makes it when the person first tries to pay."""
    if session["payment_intent"] is None:
        data = state.aside[session["id"]]["intent_data"]
        intent = money.new_intent(
            state,
            data
            | {"amount": session["amount_total"], "currency": session["currency"], "customer": session["customer"]},
        )
        state.aside.setdefault(intent["id"], {})["session"] = session["id"]
        session["payment_intent"] = intent["id"]
    found: Json = state.objects[session["payment_intent"]]
    return found


def _save(state: State, session: Json, method: Json, *, authenticated: bool) -> Json:
    intent = state.objects[session["setup_intent"]]
    card = money.card_of(state, method)
    if card.decline is not None and not card.attaches:
        error = money.card_error(card, charge=None, intent=None, method=state.answer(method, None))
        intent["last_setup_error"] = error.body["error"]
        state.emit("setup_intent.setup_failed", intent)
        raise error
    if card.authenticate != "never" and not authenticated:
        intent["status"] = "requires_action"
        raise NeedsPerson
    if session["customer"]:
        money.attach(state, method, state.objects[session["customer"]])
    state.aside[method["id"]]["set_up"] = True
    intent |= {"status": "succeeded", "payment_method": method["id"], "last_setup_error": None}
    state.emit("setup_intent.succeeded", intent)
    return _complete(state, session, method)


def _complete(state: State, session: Json, method: Json) -> Json:
    email = state.aside[session["id"]].get("email")
    if session["customer"]:
        email = state.objects[session["customer"]]["email"] or email
    session |= {
        "customer_details": {
            "address": method["billing_details"]["address"],
            "business_name": None,
            "email": email,
            "individual_name": None,
            "name": None,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        },
        "status": "complete",
        "url": None,
    }
    state.emit("checkout.session.completed", session)
    return session
