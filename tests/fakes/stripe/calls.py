"""The calls that the product makes, and no others. Part of the fake Stripe."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stripe import params as known
from stripe.params import checkout

from tests.fakes.stripe import money, sessions, shapes
from tests.fakes.stripe.errors import Invalid, Refusal
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.state import State, merge_metadata

Act = Callable[[State, Json, str], Json]


@dataclass(frozen=True)
class Call:
    """One endpoint: what it takes (a TypedDict of the SDK) and what it does."""

    method: str
    path: re.Pattern[str]
    allowed: Any
    act: Act


def find(method: str, path: str) -> tuple[Call, str]:
    """The call for a request and the id in its path. Raises ``Refusal`` (404)."""
    for call in CALLS:
        if call.method == method and (match := call.path.fullmatch(path)):
            return call, match[1] if match.groups() else ""
    raise Refusal(404, message=f"Unrecognized request URL ({method}: {path}). This is a fake Stripe: see calls.py.")


def _create_customer(state: State, params: Json, _: str) -> Json:
    made = shapes.customer(state.new_id("cus"), created=state.clock.now(), livemode=state.livemode)
    money.change_customer(state, made, params)
    state.add(made)
    state.emit("customer.created", made)
    return made


def _update_customer(state: State, params: Json, id: str) -> Json:
    return money.update_customer(state, state.get(id, "cus"), params)


def _create_session(state: State, params: Json, _: str) -> Json:
    return sessions.create(state, params)


def _session(state: State, _: Json, id: str) -> Json:
    return sessions.look(state, state.get(id, "cs"))


def _sessions(state: State, params: Json, _: str) -> Json:
    found = [sessions.look(state, one) for one in state.all("cs")]
    return _list(state, found, params, ("customer", "payment_intent", "status"), "/v1/checkout/sessions")


def _expire_session(state: State, _: Json, id: str) -> Json:
    return sessions.expire(state, state.get(id, "cs"))


def _create_intent(state: State, params: Json, _: str) -> Json:
    if not params.get("confirm"):
        for name in ("off_session", "return_url", "error_on_requires_action"):
            if name in params:
                raise Invalid(f"`{name}` can only be used with `confirm`.", param=name)
        return money.new_intent(state, params)
    automatic = {"allow_redirects": "always"} | (params.get("automatic_payment_methods") or {})
    money.check_return(automatic, params)
    if not params.get("payment_method"):
        raise Invalid("You cannot confirm this PaymentIntent because it's missing a payment method.", param="confirm")
    return money.confirm(
        state, money.new_intent(state, params), {key: params[key] for key in params if key != "payment_method"}
    )


def _confirm_intent(state: State, params: Json, id: str) -> Json:
    return money.confirm(state, state.get(id, "pi", param="intent"), params)


def _cancel_intent(state: State, params: Json, id: str) -> Json:
    return money.cancel(state, state.get(id, "pi", param="intent"), params.get("cancellation_reason"))


def _update_intent(state: State, params: Json, id: str) -> Json:
    intent = state.get(id, "pi", param="intent")
    for name in params:
        if name not in {"metadata", "description", "expand"}:
            raise Refusal(400, message=f"This fake updates metadata and description only, not {name}", param=name)
    if "metadata" in params:
        merge_metadata(intent, params["metadata"])
    if "description" in params:
        intent["description"] = params["description"]
    return intent


def _intents(state: State, params: Json, _: str) -> Json:
    return _list(state, list(state.all("pi")), params, ("customer",), "/v1/payment_intents")


def _methods(state: State, params: Json, _: str) -> Json:
    if not params.get("customer"):
        raise Invalid("Missing required param: customer.", param="customer", code="parameter_missing")
    state.get(params["customer"], "cus", param="customer")
    return _list(state, list(state.all("pm")), params, ("customer", "type"), "/v1/payment_methods")


def _methods_of(state: State, params: Json, id: str) -> Json:
    state.get(id, "cus", param="customer")
    found = [method for method in state.all("pm") if method["customer"] == id]
    return _list(state, found, params, ("type",), f"/v1/customers/{id}/payment_methods")


def _attach(state: State, params: Json, id: str) -> Json:
    if not params.get("customer"):
        raise Invalid("Missing required param: customer.", param="customer", code="parameter_missing")
    customer = state.get(params["customer"], "cus", param="customer")
    return money.attach(state, money.method_of(state, id), customer)


def _detach(state: State, _: Json, id: str) -> Json:
    return money.detach(state, state.get(id, "pm"))


def _charges(state: State, params: Json, _: str) -> Json:
    return _list(state, list(state.all("ch")), params, ("customer", "payment_intent"), "/v1/charges")


def _create_refund(state: State, params: Json, _: str) -> Json:
    return money.new_refund(state, params)


def _refunds(state: State, params: Json, _: str) -> Json:
    return _list(state, list(state.all("re")), params, ("charge", "payment_intent"), "/v1/refunds")


def _disputes(state: State, params: Json, _: str) -> Json:
    return _list(state, list(state.all("du")), params, ("charge", "payment_intent"), "/v1/disputes")


def _close_dispute(state: State, _: Json, id: str) -> Json:
    """Our own closing gives the dispute up."""
    return money.close_dispute(state, state.get(id, "du"), won=False)


def _transactions(state: State, params: Json, _: str) -> Json:
    if "payout" in params:
        raise Refusal(400, message="This fake does not say which payout a transaction left with", param="payout")
    return _list(state, list(state.all("txn")), params, ("currency", "source", "type"), "/v1/balance_transactions")


def _events(state: State, params: Json, _: str) -> Json:
    if "delivery_success" in params:
        raise Refusal(400, message="This fake does not list by delivery", param="delivery_success")
    found = [one for one in state.all("evt") if "types" not in params or one["type"] in params["types"]]
    return _list(state, found, params, ("type",), "/v1/events")


def _retrieve(prefix: str, *, param: str = "id") -> Act:
    def act(state: State, _: Json, id: str) -> Json:
        return state.get(id, prefix, param=param)

    return act


def _list(state: State, found: list[Json], params: Json, filters: tuple[str, ...], url: str) -> Json:
    rows = [one for one in found if all(name not in params or one[name] == params[name] for name in filters)]
    return state.page(rows, params, url=url)


def _call(method: str, path: str, allowed: Any, act: Act) -> Call:
    return Call(method, re.compile(path.replace("{}", r"([\w]+)")), allowed, act)


CALLS = (
    _call("POST", "/v1/customers", known.CustomerCreateParams, _create_customer),
    _call("GET", "/v1/customers/{}", known.CustomerRetrieveParams, _retrieve("cus")),
    _call("POST", "/v1/customers/{}", known.CustomerUpdateParams, _update_customer),
    _call("GET", "/v1/customers/{}/payment_methods", known.CustomerPaymentMethodListParams, _methods_of),
    _call("POST", "/v1/checkout/sessions", checkout.SessionCreateParams, _create_session),
    _call("GET", "/v1/checkout/sessions", checkout.SessionListParams, _sessions),
    _call("GET", "/v1/checkout/sessions/{}", checkout.SessionRetrieveParams, _session),
    _call("POST", "/v1/checkout/sessions/{}/expire", checkout.SessionExpireParams, _expire_session),
    _call("POST", "/v1/payment_intents", known.PaymentIntentCreateParams, _create_intent),
    _call("GET", "/v1/payment_intents", known.PaymentIntentListParams, _intents),
    _call("GET", "/v1/payment_intents/{}", known.PaymentIntentRetrieveParams, _retrieve("pi", param="intent")),
    _call("POST", "/v1/payment_intents/{}", known.PaymentIntentUpdateParams, _update_intent),
    _call("POST", "/v1/payment_intents/{}/confirm", known.PaymentIntentConfirmParams, _confirm_intent),
    _call("POST", "/v1/payment_intents/{}/cancel", known.PaymentIntentCancelParams, _cancel_intent),
    _call("GET", "/v1/setup_intents/{}", known.SetupIntentRetrieveParams, _retrieve("seti", param="intent")),
    _call("GET", "/v1/payment_methods", known.PaymentMethodListParams, _methods),
    _call("GET", "/v1/payment_methods/{}", known.PaymentMethodRetrieveParams, _retrieve("pm")),
    _call("POST", "/v1/payment_methods/{}/attach", known.PaymentMethodAttachParams, _attach),
    _call("POST", "/v1/payment_methods/{}/detach", known.PaymentMethodDetachParams, _detach),
    _call("GET", "/v1/charges", known.ChargeListParams, _charges),
    _call("GET", "/v1/charges/{}", known.ChargeRetrieveParams, _retrieve("ch")),
    _call("POST", "/v1/refunds", known.RefundCreateParams, _create_refund),
    _call("GET", "/v1/refunds", known.RefundListParams, _refunds),
    _call("GET", "/v1/refunds/{}", known.RefundRetrieveParams, _retrieve("re")),
    _call("GET", "/v1/disputes", known.DisputeListParams, _disputes),
    _call("GET", "/v1/disputes/{}", known.DisputeRetrieveParams, _retrieve("du")),
    _call("POST", "/v1/disputes/{}/close", known.DisputeCloseParams, _close_dispute),
    _call("GET", "/v1/balance_transactions", known.BalanceTransactionListParams, _transactions),
    _call("GET", "/v1/balance_transactions/{}", known.BalanceTransactionRetrieveParams, _retrieve("txn")),
    _call("GET", "/v1/events", known.EventListParams, _events),
    _call("GET", "/v1/events/{}", known.EventRetrieveParams, _retrieve("evt")),
)
