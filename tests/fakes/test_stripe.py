"""The fake Stripe keeps Stripe's rules: seen through the real SDK over HTTP."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import stripe
from stripe._stripe_object import StripeObject

from tests.database import ROOT
from tests.fakes.stripe import Refusal, StripeFake, calls, money, wire
from tests.fakes.stripe.errors import Invalid

PAYS = "4242424242424242"
DECLINED = "4000000000000002"
WANTS_3DS = "4000002500003155"
FAILS_LATER = "4000000000000341"


class Desk:
    """A client of the fake, and its customer."""

    def __init__(self, fake: StripeFake) -> None:
        self.fake = fake
        self._keys = count(1)
        self.client = stripe.StripeClient(
            fake.api_key,
            base_addresses={"api": fake.base_url},
            http_client=stripe.RequestsClient(timeout=20),
            max_network_retries=0,
        )
        self.api = self.client.v1
        self.customer = self.api.customers.create({"email": "ada@example.com"}, self.key()).id

    def key(self, name: str = "") -> Any:
        """Options with an idempotency key, a fresh one unless named."""
        return {"idempotency_key": name or f"key-{next(self._keys)}"}

    def charge(self, cents: int = 5000, *, key: str = "", number: str = PAYS, off_session: bool = True) -> Any:
        """A payment with a new card."""
        card = self.fake.save_card(self.customer, number)
        return self.intend(cents, card, key=key, off_session=off_session)

    def intend(self, cents: int, card: str, *, key: str = "", off_session: bool = True) -> Any:
        """A payment with a saved card."""
        params: Any = {
            "amount": cents,
            "currency": "usd",
            "customer": self.customer,
            "payment_method": card,
            "confirm": True,
            "metadata": {"payment": "p-1"},
        }
        params |= {"off_session": True} if off_session else {"return_url": "http://127.0.0.1:9/back"}
        return self.api.payment_intents.create(params, self.key(key))

    def session(self, cents: int = 5000, **more: Any) -> Any:
        """A page to pay on."""
        params: Any = {
            "mode": "payment",
            "customer": self.customer,
            "client_reference_id": "ref-1",
            "success_url": "http://127.0.0.1:9/paid?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://127.0.0.1:9/back",
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": cents,
                        "product_data": {"name": "Credit"},
                    },
                }
            ],
            "payment_intent_data": {"metadata": {"payment": "p-2"}, "setup_future_usage": "off_session"},
        }
        return self.api.checkout.sessions.create(params | more, self.key())

    def setup(self) -> Any:
        """A page to save a card on."""
        params: Any = {
            "mode": "setup",
            "currency": "usd",
            "customer": self.customer,
            "success_url": "http://127.0.0.1:9/saved",
        }
        return self.api.checkout.sessions.create(params, self.key())

    def kinds(self) -> list[str]:
        """The types of all events, oldest first."""
        return [event.type for event in reversed(self.api.events.list({"limit": 100}).data)]


@pytest.fixture
def fake() -> Iterator[StripeFake]:
    with StripeFake(seed=7) as running:
        yield running


@pytest.fixture
def desk(fake: StripeFake) -> Desk:
    return Desk(fake)


# Idempotency keys


def test_a_key_used_again_answers_what_it_answered_first(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer)
    first = desk.intend(700, card, key="same")
    again = desk.intend(700, card, key="same")
    assert again.id == first.id
    assert again.last_response.body == first.last_response.body
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    assert [one.amount for one in desk.api.charges.list().data] == [700]


@pytest.mark.parametrize("where", ["parameters", "endpoint"])
def test_a_key_is_for_one_request(desk: Desk, where: str) -> None:
    card = desk.fake.save_card(desk.customer)
    desk.intend(700, card, key="same")
    other: dict[str, Callable[[], object]] = {
        "parameters": lambda: desk.intend(701, card, key="same"),
        "endpoint": lambda: desk.api.customers.create({}, desk.key("same")),
    }
    with pytest.raises(stripe.IdempotencyError, match=f"the same {where}") as refused:
        other[where]()
    assert refused.value.http_status == 400
    assert len(desk.api.charges.list().data) == 1


def test_a_key_in_use_is_a_conflict(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer)
    waiting = desk.fake.fail("wait", "POST", "/v1/payment_intents")
    thread = threading.Thread(target=desk.intend, args=(700, card), kwargs={"key": "same"})
    thread.start()
    assert waiting.met.wait(20)
    with pytest.raises(stripe.APIError) as refused:
        desk.intend(700, card, key="same")
    said: Any = refused.value.json_body
    assert (refused.value.http_status, said["error"]["code"]) == (409, "idempotency_key_in_use")
    waiting.let_go()
    thread.join(20)
    assert desk.intend(700, card, key="same").last_response.headers["Idempotent-Replayed"] == "true"
    assert len(desk.api.charges.list().data) == 1


def test_a_key_is_forgotten_after_a_day(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer)
    first = desk.intend(700, card, key="same")
    desk.fake.move_clock(timedelta(hours=23, minutes=59))
    assert desk.intend(700, card, key="same").id == first.id
    desk.fake.move_clock(timedelta(minutes=2))
    assert desk.intend(700, card, key="same").id != first.id
    assert len(desk.api.charges.list().data) == 2


def test_a_decline_is_kept_under_its_key(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer, FAILS_LATER)
    intents = set()
    for _ in range(2):
        with pytest.raises(stripe.CardError) as declined:
            desk.intend(700, card, key="same")
        error: Any = declined.value
        intents.add(error.error.payment_intent.id)
    assert len(intents) == 1
    assert error.headers["Idempotent-Replayed"] == "true"


def test_a_request_refused_for_its_parameters_leaves_its_key_free(desk: Desk) -> None:
    wrong: Any = {"e_mail": "x"}
    with pytest.raises(stripe.InvalidRequestError):
        desk.api.customers.create(wrong, desk.key("same"))
    made: Any = desk.api.customers.create({"email": "x@example.com"}, desk.key("same"))
    assert "Idempotent-Replayed" not in made.last_response.headers


def test_a_post_without_a_key_is_refused(desk: Desk) -> None:
    status, body = _raw(desk.fake, "POST", "/v1/customers", body="email=x%40example.com")
    assert (status, body["error"]["code"]) == (400, "idempotency_key_missing")
    assert sum(1 for _ in desk.fake.state.all("cus")) == 1


def test_every_request_is_seen_with_its_key(desk: Desk) -> None:
    desk.api.customers.update(desk.customer, {"name": "Ada"}, desk.key("mine"))
    seen = desk.fake.requests[-1]
    assert (seen.method, seen.path, seen.key) == ("POST", f"/v1/customers/{desk.customer}", "mine")
    assert seen.params == {"name": "Ada"}


def _raw(fake: StripeFake, method: str, path: str, *, body: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
    parts = urlsplit(fake.base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    with contextlib.closing(connection):
        given = {"Authorization": f"Bearer {fake.api_key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        connection.request(method, path, body=body, headers=given)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else {"text": text.decode()} | dict(
            answer.headers
        )


# Parameters


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"amount": 500, "currency": "usd", "colour": "red"}, "parameter_unknown", "colour"),
        ({"amount": 500, "currency": "usd", "shipping": {"planet": "x"}}, "parameter_unknown", "shipping[planet]"),
        ({"amount": 500}, "parameter_missing", "currency"),
        ({"amount": "many", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": 500, "currency": "usd", "capture_method": "never"}, None, "capture_method"),
        ({"amount": 500, "currency": "usd", "confirm": "perhaps"}, None, "confirm"),
        ({"amount": 500, "currency": "usd", "description": ""}, "parameter_invalid_empty", "description"),
        ({"amount": 49, "currency": "usd"}, "amount_too_small", "amount"),
        ({"amount": 100_000_000, "currency": "usd"}, "amount_too_large", "amount"),
        ({"amount": 500, "currency": "eur"}, None, "currency"),
        ({"amount": 500, "currency": "usd", "metadata": {"k" * 41: "v"}}, None, f"metadata[{'k' * 41}]"),
        ({"amount": 500, "currency": "usd", "off_session": True}, None, "off_session"),
        ({"amount": 500, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}, None, "return_url"),
    ],
)
def test_a_parameter_that_stripe_does_not_take_is_refused(
    desk: Desk, params: Any, code: str | None, param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        desk.api.payment_intents.create(params, desk.key())
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (400, code, param)
    assert list(desk.fake.state.all("pi")) == []


def test_every_call_refuses_what_the_sdk_does_not_know(desk: Desk) -> None:
    for call in calls.CALLS:
        path = call.path.pattern.replace(r"([\w]+)", desk.customer)
        query = "" if call.method == "POST" else "?nonsense=1"
        body = "nonsense=1" if call.method == "POST" else ""
        status, said = _raw(desk.fake, call.method, path + query, body=body, Idempotency_Key=f"try {path}")
        assert (status, said["error"]["code"]) == (400, "parameter_unknown"), (call.method, path)


def test_every_annotation_of_the_sdk_can_be_read() -> None:
    structs = [call.allowed for call in calls.CALLS]
    read = set()
    while structs:
        struct = structs.pop()
        if struct in read:
            continue
        read.add(struct)
        for hint in wire.fields(struct).values():
            for option in [hint, *typing.get_args(hint)]:
                inner = typing.get_args(option)[0] if typing.get_origin(option) is list else option
                if typing.is_typeddict(inner) or hasattr(inner, "__required_keys__"):
                    structs.append(inner)
    assert len(read) > len(calls.CALLS) + 100


def test_brackets_nest() -> None:
    assert wire.decode("a[b][0][c]=1&a[b][1][c]=2&d=x%20y&e[]=1&e[]=2") == {
        "a": {"b": [{"c": "1"}, {"c": "2"}]},
        "d": "x y",
        "e": ["1", "2"],
    }
    with pytest.raises(Invalid, match="twice"):
        wire.decode("a=1&a=2")


def test_a_path_that_we_do_not_call_says_so(desk: Desk) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="fake Stripe") as refused:
        desk.api.products.list()
    assert refused.value.http_status == 404


def test_an_id_nobody_knows_is_missing(desk: Desk) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        desk.api.payment_intents.retrieve("pi_nobody")
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (404, "resource_missing", "intent")


def test_another_key_version_or_account_is_refused(desk: Desk) -> None:
    with pytest.raises(stripe.AuthenticationError) as refused:
        desk.api.charges.list({}, {"api_key": "sk_test_other"})
    assert refused.value.http_status == 401
    with pytest.raises(stripe.InvalidRequestError, match="version"):
        desk.api.charges.list({}, {"stripe_version": "2020-08-27"})
    with pytest.raises(stripe.PermissionError):
        desk.api.charges.list({}, {"stripe_account": "acct_other"})


# Objects


def test_objects_hold_only_what_the_pinned_version_has(desk: Desk) -> None:
    desk.api.customers.create({"name": "Eve"}, desk.key())
    paid = desk.charge()
    desk.fake.refund(paid.id, 100)
    desk.fake.open_dispute(desk.charge(800).id)
    desk.fake.pay(desk.session().id)
    desk.fake.pay(desk.setup().id)
    desk.fake.move_clock(timedelta(days=3))
    desk.fake.pay_out()
    classes: dict[str, Any] = {
        "cus": stripe.Customer,
        "pm": stripe.PaymentMethod,
        "pi": stripe.PaymentIntent,
        "seti": stripe.SetupIntent,
        "ch": stripe.Charge,
        "re": stripe.Refund,
        "du": stripe.Dispute,
        "txn": stripe.BalanceTransaction,
        "cs": stripe.checkout.Session,
        "evt": stripe.Event,
        "po": stripe.Payout,
    }
    for prefix, known in classes.items():
        found = list(desk.fake.state.all(prefix))
        assert found, prefix
        for one in found:
            assert one["object"] == known.OBJECT_NAME
            assert _unknown(one, known) == []
            wanting = {
                name
                for name, hint in _hints(known).items()
                if not _optional(hint) and name not in one and name != "OBJECT_NAME"
            }
            assert wanting == set(), prefix


def _hints(known: type) -> dict[str, Any]:
    return {name: hint for name, hint in known.__annotations__.items() if not name.startswith("_")}


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) in {typing.Union, UnionType} and type(None) in typing.get_args(hint)


def _unknown(value: Any, known: type, path: str = "") -> list[str]:
    """Fields that the SDK's class, or one it names, does not have."""
    hints = _hints(known)
    found = [f"{path}{name}" for name in value if name not in hints]
    for name, item in value.items():
        options = [hints.get(name), *typing.get_args(hints.get(name))]
        inner = [one for one in options if isinstance(one, type) and issubclass(one, StripeObject)]
        if isinstance(item, dict) and len(inner) == 1 and inner[0].__annotations__:
            found += _unknown(item, inner[0], f"{path}{name}.")
    return found


def test_an_id_can_be_expanded_into_its_object(desk: Desk) -> None:
    paid = desk.charge(5000)
    found: Any = desk.api.payment_intents.retrieve(paid.id, {"expand": ["latest_charge.balance_transaction"]})
    assert (found.latest_charge.balance_transaction.amount, found.latest_charge.balance_transaction.fee) == (5000, 175)
    listed: Any = desk.api.payment_intents.list({"customer": desk.customer, "expand": ["data.latest_charge"]})
    assert listed.data[0].latest_charge.paid is True
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        desk.api.payment_intents.retrieve(paid.id, {"expand": ["nonsense"]})


def test_lists_page_by_cursor_and_time(desk: Desk) -> None:
    first = desk.charge(100).id
    desk.fake.move_clock(timedelta(hours=1))
    later = [desk.charge(cents).id for cents in (200, 300)]
    page = desk.api.payment_intents.list({"customer": desk.customer, "limit": 2})
    assert ([one.amount for one in page.data], page.has_more) == ([300, 200], True)
    rest = desk.api.payment_intents.list({"customer": desk.customer, "limit": 2, "starting_after": later[0]})
    assert ([one.id for one in rest.data], rest.has_more) == ([first], False)
    newer = desk.api.payment_intents.list({"ending_before": first, "limit": 1})
    assert ([one.id for one in newer.data], newer.has_more) == ([later[0]], True)
    since = page.data[0].created - 60
    assert [one.amount for one in desk.api.payment_intents.list({"created": {"gte": since}}).data] == [300, 200]
    assert [one.amount for one in desk.api.payment_intents.list({"created": {"lt": since}}).data] == [100]
    everything = desk.api.payment_intents.list({"limit": 1}).auto_paging_iter()
    assert [one.amount for one in everything] == [300, 200, 100]


def test_the_same_seed_makes_the_same_ids() -> None:
    made = []
    for _ in range(2):
        with StripeFake(seed=11) as running:
            made.append(Desk(running).customer)
    assert made[0] == made[1]


# Cards and payments


def test_a_saved_card_pays(desk: Desk) -> None:
    paid = desk.charge(5000)
    assert (paid.status, paid.amount_received, paid.metadata["payment"]) == ("succeeded", 5000, "p-1")
    taken = desk.api.charges.retrieve(paid.latest_charge)
    assert (taken.paid, taken.captured, taken.amount, taken.payment_intent) == (True, True, 5000, paid.id)
    assert desk.kinds()[-3:] == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]


def test_a_declined_card_is_a_card_error_with_the_payment_inside(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer, FAILS_LATER)
    with pytest.raises(stripe.CardError) as declined:
        desk.intend(700, card)
    error: Any = declined.value
    assert (error.http_status, error.code, error.error.decline_code) == (402, "card_declined", "generic_decline")
    found = desk.api.payment_intents.retrieve(error.error.payment_intent.id)
    assert (found.status, found.payment_method, found.amount_received) == ("requires_payment_method", None, 0)
    assert found.last_payment_error is not None
    assert found.last_payment_error.decline_code == "generic_decline"
    assert desk.kinds()[-3:] == ["payment_intent.created", "charge.failed", "payment_intent.payment_failed"]
    assert desk.fake.balance() == 0
    good = desk.fake.save_card(desk.customer)
    assert (
        desk.api.payment_intents.confirm(found.id, {"payment_method": good, "off_session": True}, desk.key()).status
        == "succeeded"
    )


def test_a_card_that_wants_its_holder_does_not_pay_without_them(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer, "4000002760003184")
    with pytest.raises(stripe.CardError) as declined:
        desk.intend(700, card)
    error: Any = declined.value
    assert (error.code, error.error.decline_code) == ("authentication_required", "authentication_required")
    assert error.error.payment_intent.status == "requires_payment_method"


def test_three_d_secure_sends_the_person_away_and_back(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer, "4000002760003184")
    waiting = desk.intend(700, card, off_session=False)
    assert (waiting.status, waiting.next_action.type) == ("requires_action", "redirect_to_url")
    page = urlsplit(waiting.next_action.redirect_to_url.url).path
    status, shown = _raw(desk.fake, "GET", page)
    assert status == 200
    assert "fake Stripe" in shown["text"]
    status, sent = _raw(desk.fake, "POST", page, body="act=pass")
    assert status == 303
    assert sent["Location"] == f"http://127.0.0.1:9/back?payment_intent={waiting.id}&redirect_status=succeeded"
    assert desk.api.payment_intents.retrieve(waiting.id).status == "succeeded"
    assert desk.kinds()[-2:] == ["charge.succeeded", "payment_intent.succeeded"]


def test_three_d_secure_not_passed_takes_nothing(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer, "4000002760003184")
    waiting = desk.intend(700, card, off_session=False)
    desk.fake.authenticate(waiting.id, passed=False)
    found = desk.api.payment_intents.retrieve(waiting.id)
    assert (found.status, found.latest_charge) == ("requires_payment_method", None)
    assert found.last_payment_error is not None
    assert found.last_payment_error.code == "payment_intent_authentication_failure"
    assert desk.kinds()[-1] == "payment_intent.payment_failed"


def test_a_payment_is_canceled_unless_it_succeeded(desk: Desk) -> None:
    params: Any = {"amount": 500, "currency": "usd", "customer": desk.customer}
    intent = desk.api.payment_intents.create(params, desk.key())
    gone = desk.api.payment_intents.cancel(intent.id, {"cancellation_reason": "abandoned"}, desk.key())
    assert (gone.status, gone.cancellation_reason) == ("canceled", "abandoned")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        desk.api.payment_intents.cancel(desk.charge().id, {}, desk.key())
    assert refused.value.code == "payment_intent_unexpected_state"


def test_cards_are_saved_made_the_default_and_let_go(desk: Desk) -> None:
    card = desk.api.payment_methods.attach("pm_card_visa", {"customer": desk.customer}, desk.key())
    desk.api.customers.update(desk.customer, {"invoice_settings": {"default_payment_method": card.id}}, desk.key())
    found: Any = desk.api.customers.retrieve(desk.customer)
    assert found.invoice_settings.default_payment_method == card.id
    assert [one.id for one in desk.api.payment_methods.list({"customer": desk.customer}).data] == [card.id]
    assert [one.id for one in desk.api.customers.payment_methods.list(desk.customer).data] == [card.id]
    desk.api.payment_methods.detach(card.id, {}, desk.key())
    found = desk.api.customers.retrieve(desk.customer)
    assert found.invoice_settings.default_payment_method is None
    assert desk.api.payment_methods.list({"customer": desk.customer}).data == []
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        desk.api.payment_methods.attach(card.id, {"customer": desk.customer}, desk.key())
    assert desk.kinds()[-4:] == [
        "payment_method.attached",
        "customer.updated",
        "payment_method.detached",
        "customer.updated",
    ]


def test_a_card_of_another_customer_does_not_pay(desk: Desk) -> None:
    other = desk.api.customers.create({}, desk.key()).id
    card = desk.fake.save_card(other)
    with pytest.raises(stripe.InvalidRequestError, match="another customer"):
        desk.intend(700, card)


# Checkout


def _form(fake: StripeFake, url: str, **fields: str) -> tuple[int, dict[str, Any]]:
    return _raw(fake, "POST", urlsplit(url).path, body=urlencode(fields))


def test_a_person_pays_on_the_page(desk: Desk) -> None:
    page = desk.session(5000)
    assert (page.status, page.payment_status, page.payment_intent) == ("open", "unpaid", None)
    status, shown = _raw(desk.fake, "GET", urlsplit(page.url).path)
    assert status == 200
    assert "fake Stripe" in shown["text"]
    assert "$50.00" in shown["text"]
    status, sent = _form(desk.fake, page.url, act="pay", card=PAYS)
    assert (status, sent["Location"]) == (303, f"http://127.0.0.1:9/paid?session={page.id}")
    found: Any = desk.api.checkout.sessions.retrieve(page.id, {"expand": ["payment_intent"]})
    assert (found.status, found.payment_status, found.url) == ("complete", "paid", None)
    assert found.client_reference_id == "ref-1"
    assert found.payment_intent.metadata["payment"] == "p-2"
    assert found.payment_intent.amount_received == 5000
    saved = desk.api.payment_methods.list({"customer": desk.customer}).data
    assert [one.card.last4 for one in saved if one.card] == ["4242"]
    assert desk.kinds()[-5:] == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_method.attached",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]
    assert _form(desk.fake, page.url, act="pay", card=PAYS)[0] == 410
    assert desk.fake.balance() == 4825


def test_a_declined_card_leaves_the_page_open(desk: Desk) -> None:
    page = desk.session()
    status, shown = _form(desk.fake, page.url, act="pay", card=DECLINED)
    assert status == 200
    assert "Your card was declined." in shown["text"]
    found: Any = desk.api.checkout.sessions.retrieve(page.id)
    assert (found.status, found.payment_status) == ("open", "unpaid")
    assert _form(desk.fake, page.url, act="pay", card=PAYS)[0] == 303
    again: Any = desk.api.checkout.sessions.retrieve(page.id)
    assert (again.status, again.payment_intent) == ("complete", found.payment_intent)
    assert len(desk.api.payment_intents.list().data) == 1


def test_a_page_asks_the_bank_first_and_the_card_then_pays_by_itself(desk: Desk) -> None:
    page = desk.session()
    status, sent = _form(desk.fake, page.url, act="pay", card=WANTS_3DS)
    assert (status, sent["Location"]) == (303, f"{desk.fake.base_url}/fake/authenticate/{page.id}")
    assert _form(desk.fake, sent["Location"], act="fail")[1]["Location"] == page.url
    assert desk.api.checkout.sessions.retrieve(page.id).status == "open"
    sent = _form(desk.fake, page.url, act="pay", card=WANTS_3DS)[1]
    back = _form(desk.fake, sent["Location"], act="pass")[1]["Location"]
    assert back == f"http://127.0.0.1:9/paid?session={page.id}"
    [card] = desk.api.payment_methods.list({"customer": desk.customer}).data
    assert desk.intend(700, card.id).status == "succeeded"


def test_a_person_goes_back_without_paying(desk: Desk) -> None:
    page = desk.session()
    assert _form(desk.fake, page.url, act="cancel")[1]["Location"] == "http://127.0.0.1:9/back"
    assert desk.api.checkout.sessions.retrieve(page.id).status == "open"


def test_a_card_is_saved_without_a_payment(desk: Desk) -> None:
    page = desk.setup()
    assert _form(desk.fake, page.url, act="pay", card=FAILS_LATER)[0] == 303
    found: Any = desk.api.checkout.sessions.retrieve(page.id, {"expand": ["setup_intent"]})
    assert (found.status, found.payment_status) == ("complete", "no_payment_required")
    assert found.setup_intent.status == "succeeded"
    with pytest.raises(stripe.CardError):
        desk.intend(700, found.setup_intent.payment_method)
    with pytest.raises(Refusal, match="declined"):
        desk.fake.pay(desk.setup().id, DECLINED)


def test_a_page_closes_when_told_and_after_a_day(desk: Desk) -> None:
    page = desk.session()
    assert desk.api.checkout.sessions.expire(page.id, {}, desk.key()).status == "expired"
    with pytest.raises(stripe.InvalidRequestError):
        desk.api.checkout.sessions.expire(page.id, {}, desk.key())
    later = desk.session()
    with pytest.raises(Refusal):
        desk.fake.pay(later.id, DECLINED)
    desk.fake.move_clock(timedelta(hours=24))
    found: Any = desk.api.checkout.sessions.retrieve(later.id)
    assert (found.status, found.url) == ("expired", None)
    assert desk.api.payment_intents.retrieve(found.payment_intent).status == "canceled"
    assert desk.kinds()[-2:] == ["payment_intent.canceled", "checkout.session.expired"]
    assert [one.id for one in desk.api.checkout.sessions.list({"status": "expired"}).data] == [later.id, page.id]


# Refunds and disputes


def test_refunds_never_exceed_the_charge(desk: Desk) -> None:
    paid = desk.charge(5000)
    desk.api.refunds.create({"payment_intent": paid.id, "amount": 2000}, desk.key())
    with pytest.raises(stripe.InvalidRequestError, match=r"\(\$30\.01\).*\(\$30\.00\)") as refused:
        desk.api.refunds.create({"payment_intent": paid.id, "amount": 3001}, desk.key())
    assert refused.value.code == "amount_too_large"
    rest = desk.api.refunds.create({"charge": paid.latest_charge}, desk.key())
    assert (rest.amount, rest.status) == (3000, "succeeded")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        desk.api.refunds.create({"charge": paid.latest_charge, "amount": 1}, desk.key())
    assert refused.value.code == "charge_already_refunded"
    taken = desk.api.charges.retrieve(paid.latest_charge)
    assert (taken.amount_refunded, taken.refunded) == (5000, True)
    assert sum(one.amount for one in desk.api.refunds.list({"payment_intent": paid.id}).data) == 5000
    assert desk.fake.balance() == -175


def test_a_refund_that_fails_puts_the_money_back(desk: Desk) -> None:
    desk.fake.state.refunds_wait = True
    paid = desk.charge(5000)
    made = desk.api.refunds.create({"payment_intent": paid.id, "amount": 2000}, desk.key())
    assert made.status == "pending"
    desk.fake.settle_refund(made.id)
    desk.fake.fail_refund(made.id)
    found = desk.api.refunds.retrieve(made.id)
    assert (found.status, found.failure_reason) == ("failed", "expired_or_canceled_card")
    taken = desk.api.charges.retrieve(paid.latest_charge)
    assert (taken.amount_refunded, taken.refunded) == (0, False)
    assert desk.kinds()[-6:] == [
        "refund.created",
        "charge.refunded",
        "refund.updated",
        "refund.updated",
        "charge.refund.updated",
        "refund.failed",
    ]
    moved = desk.api.balance_transactions.list({"source": made.id}).data
    assert [(one.type, one.amount) for one in moved] == [("refund_failure", 2000), ("refund", -2000)]
    assert desk.fake.balance() == 4825


def test_a_lost_dispute_keeps_the_money_and_the_fee(desk: Desk) -> None:
    paid = desk.charge(5000)
    id = desk.fake.open_dispute(paid.id)
    found = desk.api.disputes.retrieve(id)
    assert (found.status, found.amount, found.charge) == ("needs_response", 5000, paid.latest_charge)
    assert [(one.amount, one.fee, one.net) for one in found.balance_transactions] == [(-5000, 1500, -6500)]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        desk.api.refunds.create({"payment_intent": paid.id}, desk.key())
    assert refused.value.code == "charge_disputed"
    assert desk.api.disputes.close(id, {}, desk.key()).status == "lost"
    assert desk.kinds()[-3:] == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
    ]
    assert desk.fake.balance() == 5000 - 175 - 6500


def test_a_won_dispute_gives_the_money_back_without_the_fee(desk: Desk) -> None:
    paid = desk.charge(5000)
    id = desk.fake.open_dispute(paid.id)
    desk.fake.close_dispute(id, won=True)
    moved = desk.api.balance_transactions.list({"source": id}).data
    assert [(one.type, one.reporting_category, one.net) for one in moved] == [
        ("adjustment", "dispute_reversal", 5000),
        ("adjustment", "dispute", -6500),
    ]
    assert desk.kinds()[-2:] == ["charge.dispute.closed", "charge.dispute.funds_reinstated"]
    assert desk.fake.balance() == 5000 - 175 - 1500
    with pytest.raises(stripe.InvalidRequestError, match="already closed"):
        desk.api.disputes.close(id, {}, desk.key())


def test_an_inquiry_takes_nothing_until_it_escalates(desk: Desk) -> None:
    id = desk.fake.open_dispute(desk.charge(5000).id, inquiry=True)
    assert desk.api.disputes.retrieve(id).status == "warning_needs_response"
    assert desk.fake.balance() == 4825
    desk.fake.escalate_dispute(id)
    assert desk.fake.balance() == 4825 - 6500
    assert [one.id for one in desk.api.disputes.list().data] == [id]


# The balance


def test_fees_are_rounded_half_a_cent_up() -> None:
    # 2.9 % of 5,000 is 145; of 50 it is 1.45, of 1,017 it is 29.493, of 500 it is 14.5.
    assert [money.fee(cents) for cents in (5000, 50, 1017, 500)] == [175, 31, 59, 45]


def test_a_charge_may_wait_for_what_stripe_kept_of_it(desk: Desk) -> None:
    desk.fake.state.balance_waits = True
    paid = desk.charge(5000)
    assert desk.api.charges.retrieve(paid.latest_charge).balance_transaction is None
    assert desk.api.balance_transactions.list().data == []
    assert (desk.fake.settle_charges(), desk.fake.settle_charges()) == (1, 0)
    [kept] = desk.api.balance_transactions.list().data
    assert desk.api.charges.retrieve(paid.latest_charge).balance_transaction == kept.id
    assert desk.kinds()[-2:] == ["payment_intent.succeeded", "charge.updated"]
    assert desk.fake.balance() == 4825


def test_funds_become_available_and_leave_for_the_bank(desk: Desk) -> None:
    desk.charge(5000)
    desk.fake.charge_fee(200)
    assert desk.fake.pay_out() is None
    [fee, charge] = desk.api.balance_transactions.list().data
    assert (fee.type, fee.net, fee.source, charge.status) == ("stripe_fee", -200, None, "pending")
    desk.fake.move_clock(timedelta(days=2, seconds=1))
    assert desk.api.balance_transactions.retrieve(charge.id).status == "available"
    sent = desk.fake.pay_out()
    assert sent is not None
    assert sent["amount"] == 4625
    [left] = desk.api.balance_transactions.list({"type": "payout"}).data
    assert (left.amount, left.source) == (-4625, sent["id"])
    assert desk.fake.balance() == 0


# Webhooks


def test_a_delivery_is_signed_as_the_sdk_expects(desk: Desk) -> None:
    desk.charge(5000)
    [id] = desk.fake.webhooks.events("payment_intent.succeeded")
    sealed = desk.fake.webhooks.sign(id)
    event: Any = stripe.Webhook.construct_event(sealed.body, sealed.signature, desk.fake.secret)
    assert (event.id, event.type, event.data.object.amount) == (id, "payment_intent.succeeded", 5000)
    assert event.api_version == stripe.api_version
    made = stripe.WebhookSignature.generate_signature_header(
        sealed.body.decode(), desk.fake.secret, timestamp=int(sealed.signature[2:].split(",")[0])
    )
    assert made == sealed.signature


@pytest.mark.parametrize("how", ["wrong secret", "changed bytes", "written anew", "late", "unsigned"])
def test_a_forged_or_late_delivery_is_told_from_a_good_one(desk: Desk, how: str) -> None:
    hooks = desk.fake.webhooks
    id = hooks.events()[0]
    good = hooks.sign(id)
    forged = {
        "wrong secret": hooks.sign(id, secrets=["whsec_other"]),
        "changed bytes": good.with_body(good.body.replace(b"ada@", b"eve@")),
        "written anew": good.with_body(json.dumps(json.loads(good.body)).encode()),
        "late": hooks.sign(id, late_seconds=301),
        "unsigned": hooks.sign(id, secrets=[]),
    }[how]
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(forged.body, forged.signature, desk.fake.secret)


def test_a_delivery_can_come_from_the_future_and_under_two_secrets() -> None:
    with StripeFake(secret="whsec_new,whsec_old") as running:
        desk = Desk(running)
        id = running.webhooks.events()[0]
        sealed = running.webhooks.sign(id, late_seconds=-600)
        assert sealed.signature.count("v1=") == 2
        assert int(sealed.signature[2:].split(",")[0]) > time.time() + 500
        for secret in ("whsec_new", "whsec_old"):
            assert stripe.Webhook.construct_event(sealed.body, sealed.signature, secret).id == id
        assert desk.fake.webhooks.answers == []


class _Receiver(HTTPServer):
    """A webhook that answers what it is told to."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[bytes, str]] = []
        super().__init__(("127.0.0.1", 0), _Receive)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/webhooks/stripe"


class _Receive(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((body, self.headers["Stripe-Signature"]))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextlib.contextmanager
def _receiving(*statuses: int) -> Iterator[_Receiver]:
    server = _Receiver(*statuses)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_events_are_posted_by_themselves_until_they_are_taken() -> None:
    with _receiving(500) as there, StripeFake(webhook=there.url) as running:
        desk = Desk(running)
        desk.charge(5000)
        running.webhooks.settle()
        kinds = [json.loads(body)["type"] for body, _ in there.got]
        assert kinds == [
            "customer.created",
            "customer.created",
            "payment_method.attached",
            "payment_intent.created",
            "charge.succeeded",
            "payment_intent.succeeded",
        ]
        for body, sign in there.got:
            stripe.Webhook.construct_event(body, sign, running.secret)
        assert [status for _, status in running.webhooks.answers] == [500, 200, 200, 200, 200, 200]


def test_held_events_are_delivered_in_any_order_and_again() -> None:
    with _receiving() as there, StripeFake(webhook=there.url, held=True) as running:
        desk = Desk(running)
        desk.charge(5000)
        assert there.got == []
        created, succeeded = running.webhooks.events("payment_intent.created", "payment_intent.succeeded")
        assert running.webhooks.deliver(succeeded, created, succeeded) == [200, 200, 200]
        assert [json.loads(body)["id"] for body, _ in there.got] == [succeeded, created, succeeded]
        # What an event tells is how things were then.
        assert json.loads(there.got[1][0])["data"]["object"]["status"] == "requires_confirmation"
    assert running.webhooks.post(running.webhooks.sign(created)) == 0


# Faults


def test_an_error_kept_under_its_key_comes_again(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer)
    desk.fake.fail("sticky_500", "POST", "/v1/payment_intents", committed=True)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as broken:
            desk.intend(700, card, key="same")
        assert broken.value.http_status == 500
    assert len(desk.api.charges.list().data) == 1
    desk.fake.fail("sticky_500", "POST", "/v1/payment_intents")
    with pytest.raises(stripe.APIError):
        desk.intend(700, card, key="another")
    assert len(desk.api.charges.list().data) == 1


@pytest.mark.parametrize(("kind", "status"), [("500_once", 500), ("429", 429), ("lost", None)])
def test_an_error_before_the_call_began_is_not_kept(desk: Desk, kind: Any, status: int | None) -> None:
    card = desk.fake.save_card(desk.customer)
    desk.fake.fail(kind, "POST", "/v1/payment_intents")
    with pytest.raises(stripe.StripeError) as broken:
        desk.intend(700, card, key="same")
    assert broken.value.http_status == status
    assert desk.api.charges.list().data == []
    assert "Idempotent-Replayed" not in desk.intend(700, card, key="same").last_response.headers


def test_a_reset_after_the_charge_loses_the_answer_only(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer)
    desk.fake.fail("reset", "POST", "/v1/payment_intents")
    with pytest.raises(stripe.APIConnectionError):
        desk.intend(700, card, key="same")
    again = desk.intend(700, card, key="same")
    assert (again.status, again.last_response.headers["Idempotent-Replayed"]) == ("succeeded", "true")
    assert len(desk.api.charges.list().data) == 1


def test_a_hang_after_the_charge_ends_when_the_client_gives_up(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer)
    hanging = desk.fake.fail("hang", "POST", "/v1/payment_intents")
    hasty = stripe.StripeClient(
        desk.fake.api_key,
        base_addresses={"api": desk.fake.base_url},
        http_client=stripe.RequestsClient(timeout=0.3),
        max_network_retries=0,
    )
    params: Any = {"amount": 700, "currency": "usd", "customer": desk.customer, "payment_method": card}
    params |= {"confirm": True, "off_session": True}
    with pytest.raises(stripe.APIConnectionError):
        hasty.v1.payment_intents.create(params, desk.key("same"))
    assert hanging.met.is_set()
    [paid] = desk.api.payment_intents.list().data
    assert paid.status == "succeeded"
    assert desk.api.payment_intents.create(params, desk.key("same")).id == paid.id


def test_a_slow_answer_is_still_the_answer(desk: Desk) -> None:
    slow = desk.fake.fail("slow", "GET", "/v1/customers/.*", seconds=0.01)
    assert desk.api.customers.retrieve(desk.customer).id == desk.customer
    assert slow.met.is_set()


# Time and the whole


def test_events_are_shown_for_thirty_days(desk: Desk) -> None:
    [id] = desk.fake.webhooks.events("customer.created")
    desk.fake.move_clock(timedelta(days=29, hours=23))
    assert desk.api.events.retrieve(id).id == id
    desk.fake.move_clock(timedelta(hours=2))
    with pytest.raises(stripe.InvalidRequestError):
        desk.api.events.retrieve(id)
    assert desk.api.events.list().data == []


def test_one_connection_carries_several_requests(desk: Desk) -> None:
    parts = urlsplit(desk.fake.base_url)
    with contextlib.closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)) as connection:
        connection.connect()
        opened = connection.sock
        for _ in range(3):
            connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {desk.fake.api_key}"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            assert connection.sock is opened


def test_many_clients_at_once_charge_once_each(desk: Desk) -> None:
    card = desk.fake.save_card(desk.customer)
    threads = [threading.Thread(target=desk.intend, args=(100 + n, card)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    amounts = sorted(one.amount for one in desk.api.charges.list({"limit": 100}).data)
    assert amounts == list(range(100, 116))


def test_everything_outlives_a_restart_in_a_file(tmp_path: Path) -> None:
    kept = tmp_path / "stripe"
    with StripeFake(keep=kept) as first:
        desk = Desk(first)
        paid = desk.charge(5000)
        first.save()
        first.move_clock(timedelta(days=1))
        page = desk.session()
    with StripeFake(keep=kept) as second:
        api = stripe.StripeClient(second.api_key, base_addresses={"api": second.base_url}).v1
        assert api.payment_intents.retrieve(paid.id).amount == 5000
        assert api.checkout.sessions.retrieve(page.id).created > paid.created + 86_000
        assert second.pay(page.id)["status"] == "complete"
        assert second.balance() == 2 * 4825


def test_live_mode_marks_everything_that_it_says() -> None:
    with StripeFake(livemode=True) as running:
        desk = Desk(running)
        assert desk.session().id.startswith("cs_live_")
        assert desk.charge().livemode is True
        assert {event.livemode for event in desk.api.events.list({"limit": 100}).data} == {True}


def test_it_runs_by_itself_and_says_that_it_is_a_fake() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.stripe", "--port", "0", "--key", "sk_test_own"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("FAKE STRIPE at http://127.0.0.1:")
        client = stripe.StripeClient("sk_test_own", base_addresses={"api": line.split()[-1]})
        assert client.v1.charges.list().data == []
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0
