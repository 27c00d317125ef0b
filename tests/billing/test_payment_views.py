"""The doors for paying, over HTTP: a top-up once for each key, its states as they are shown, cards, webhooks."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from billing.models import Payment, Recharge, StripeCustomer, TopUp
from billing.processor import customers, inbox
from billing.processor.client import connect
from core import ids
from orgs.models import Organization
from tests.billing.paying import (
    ASKS_ALWAYS,
    DECLINED,
    cards_of,
    deliver,
    fake,
    handled,
    intents,
    send,
)
from tests.billing.world import assert_sound, rows, side_by_side, standing
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.journeys.neighbours import Caller
from tests.orgs import world

__all__ = ["fake"]


def caller(slug: str = "acme", scopes: tuple[str, ...] = ("billing:manage",)) -> Caller:
    """An organization's key."""
    return Caller(slug, world.organization_key(world.organization(slug), scopes=scopes).secret)


def buy(by: Caller, body: Mapping[str, Any] | None = None, *, key: str | None = "k1", **told: Any) -> Any:
    """The answer to ``POST /v1/topups``."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return by.post("/v1/topups", {"amount_usd": 50, **told} if body is None else body, headers=headers)


def save_card(fake: StripeFake, number: str) -> None:
    """A card of the one organization there is."""
    owner = Organization.objects.get(slug="acme")
    customer = customers.ensure(owner.pk, at=connect())
    fake.save_card(customer, number)
    customers.sync(customer, at=connect())


def test_a_top_up_is_shown_from_its_page_to_its_end(books: Books, fake: StripeFake) -> None:
    acme = caller()
    answer = buy(acme)
    made = dict(answer.json())
    assert answer.status_code == 201
    assert (made.pop("id")[:6], made.pop("checkout_url")[:7], made.pop("created_at") > 0) == ("topup_", "http://", True)
    assert made == {
        "object": "topup", "status": "requires_action", "amount_usd": 50, "tax_usd": 0, "total_usd": 50,
        "currency": "usd", "method": "checkout", "next_action_url": None, "failure": None, "receipt_id": None,
        "settled_at": None,
    }  # fmt: skip
    payment = Payment.objects.get()
    fake.pay(payment.session_id or "")
    deliver(fake)
    shown = acme.get(f"/v1/topups/{answer.json()['id']}").json()
    assert (shown["status"], shown["checkout_url"], shown["settled_at"] > 0) == ("succeeded", None, True)
    assert acme.get("/v1/wallet").json()["topped_up_usd"] == 50


def test_the_same_key_gets_the_same_top_up_as_it_stands_then(books: Books, fake: StripeFake) -> None:
    acme = caller()
    first = buy(acme).json()
    again = buy(acme)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json() == first
    fake.pay(Payment.objects.get().session_id or "")
    deliver(fake)
    assert buy(acme).json()["status"] == "succeeded"
    assert buy(acme, amount_usd=51).status_code == 422
    assert (TopUp.objects.count(), Payment.objects.count()) == (1, 1)


def test_a_key_sent_by_many_at_once_makes_one_top_up(books: Books, fake: StripeFake) -> None:
    acme = caller()
    save_card(fake, "4242424242424242")
    answers = side_by_side(books, *[partial(buy, acme, method="card")] * 8)
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len(intents(fake)) == TopUp.objects.count() == 1
    assert standing(TopUp.objects.get().organization).posted == 50
    assert_sound()


def test_a_repeat_after_a_crash_goes_on_with_the_same_payment(books: Books, fake: StripeFake) -> None:
    acme = caller()
    save_card(fake, "4242424242424242")
    fake.fail("reset", "POST", "/v1/payment_intents")
    assert buy(acme, method="card").json()["status"] == "processing"
    assert buy(acme, method="card").json()["status"] == "processing"
    deliver(fake)
    assert buy(acme, method="card").json()["status"] == "succeeded"
    assert len(intents(fake)) == 1


def test_a_saved_card_that_is_declined_says_why(books: Books, fake: StripeFake) -> None:
    acme = caller()
    save_card(fake, DECLINED)
    made = buy(acme, method="card").json()
    assert (made["status"], made["failure"]) == (
        "failed",
        {"code": "generic_decline", "message": "Your card was declined."},
    )


def test_a_bank_that_asks_is_where_the_customer_goes(books: Books, fake: StripeFake) -> None:
    acme = caller()
    save_card(fake, ASKS_ALWAYS)
    made = buy(acme, method="card").json()
    assert (made["status"], made["checkout_url"]) == ("requires_action", None)
    assert "/fake/authenticate/" in made["next_action_url"]


@pytest.mark.parametrize(
    ("told", "status", "named"),
    [
        ({"amount_usd": None}, 400, "amount_usd"),
        ({"amount_usd": "50"}, 400, "amount_usd"),
        ({"amount_usd": True}, 400, "amount_usd"),
        ({"amount_usd": 9.99}, 422, "amount_usd"),
        ({"amount_usd": 5000.01}, 422, "amount_usd"),
        ({"amount_usd": 10.001}, 422, "amount_usd"),
        ({"amount_usd": -50}, 422, "amount_usd"),
        ({"method": "cash"}, 422, "method"),
        ({"method": 5}, 400, "method"),
        ({"method": "card"}, 422, "method"),
        ({"method": "card", "payment_method_id": "card_none"}, 404, "payment_method_id"),
        ({"payment_method_id": "card_none"}, 422, "payment_method_id"),
        ({"success_url": "http://elsewhere.example/"}, 422, "success_url"),
        ({"success_url": "javascript:alert(1)"}, 422, "success_url"),
        ({"success_url": "https://tollbook.example@elsewhere.example/"}, 422, "success_url"),
        ({"success_url": "https:///nowhere"}, 422, "success_url"),
        ({"success_url": "https://a.example:99999/"}, 422, "success_url"),
        ({"success_url": "https://a.example/\nX: y"}, 422, "success_url"),
        ({"cancel_url": "https://a.example/" + "x" * 2000}, 422, "cancel_url"),
        ({"cancel_url": ["https://a.example/"]}, 400, "cancel_url"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    books: Books, fake: StripeFake, told: dict[str, Any], status: int, named: str
) -> None:
    answer = buy(caller(), **told)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, named)
    assert TopUp.objects.count() == 0
    assert not fake.requests


def test_browsers_come_back_to_https_or_to_us(books: Books, fake: StripeFake) -> None:
    answer = buy(caller(), success_url="https://shop.example/done?x=1", cancel_url="https://tollbook.example/back")
    assert answer.status_code == 201
    (session,) = fake.state.all("cs")
    assert (session["success_url"], session["cancel_url"]) == (
        "https://shop.example/done?x=1",
        "https://tollbook.example/back",
    )


def test_a_key_is_needed_and_a_scope(books: Books, fake: StripeFake) -> None:
    acme = caller()
    assert buy(acme, key=None).status_code == 400
    plain = Caller("plain", world.organization_key(Organization.objects.get(slug="acme")).secret)
    assert buy(plain).status_code == 403
    assert plain.get("/v1/payment_methods").status_code == 403
    assert TopUp.objects.count() == 0


def test_while_one_is_open_the_next_is_refused_and_names_it(books: Books, fake: StripeFake) -> None:
    acme = caller()
    first = buy(acme).json()["id"]
    answer = buy(acme, key="k2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "topup_open")
    assert first in answer.json()["error"]["message"]


def test_without_a_stripe_key_payments_are_off_and_say_so(books: Books, settings: Any) -> None:
    settings.STRIPE_API_KEY = ""
    acme = caller()
    told = {"threshold_usd": 5, "amount_usd": 20, "monthly_cap_usd": 100}
    for answer in (
        buy(acme),
        acme.post("/v1/payment_methods", {}),
        acme.call("PUT", "/v1/wallet/recharge", body=told),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "payments_off")
        assert answer.headers["x-should-retry"] == "false"
    assert send(b"{}", "t=1,v1=00") == 503
    assert acme.get("/v1/payment_methods").json() == {"object": "list", "data": []}
    assert TopUp.objects.count() == 0


def test_recharging_is_set_and_shown(books: Books, fake: StripeFake) -> None:
    acme = caller()
    off = acme.get("/v1/wallet/recharge").json()
    assert off == {
        "object": "recharge", "enabled": False, "threshold_usd": None, "amount_usd": None, "monthly_cap_usd": None,
        "failures": 0, "paused_until": None,
    }  # fmt: skip
    told = {"threshold_usd": 5, "amount_usd": 20, "monthly_cap_usd": 100.5}
    refused = acme.call("PUT", "/v1/wallet/recharge", body=told)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "enabled")
    save_card(fake, "4242424242424242")
    shown = acme.call("PUT", "/v1/wallet/recharge", body=told).json()
    assert shown == {**off, "enabled": True, **told}
    assert acme.call("PUT", "/v1/wallet/recharge", body={**told, "enabled": False}).json()["enabled"] is False
    assert not Recharge.objects.get().enabled
    assert acme.call("PUT", "/v1/wallet/recharge", body={**told, "enabled": "yes"}).status_code == 400


def test_a_card_is_saved_on_stripes_page_shown_and_let_go(books: Books, fake: StripeFake) -> None:
    acme = caller()
    setup = acme.post("/v1/payment_methods", {}).json()
    assert (setup["object"], setup["checkout_url"][:4]) == ("payment_method_setup", "http")
    (session,) = fake.state.all("cs")
    fake.pay(session["id"])
    deliver(fake)
    (card,) = acme.get("/v1/payment_methods").json()["data"]
    assert (card["brand"], card["last_four"], card["is_default"]) == ("visa", "4242", True)
    assert "received" not in handled().values()
    # A neighbour cannot name it.
    other = caller("other")
    assert other.call("DELETE", f"/v1/payment_methods/{card['id']}").status_code == 404
    assert buy(other, method="card", payment_method_id=card["id"]).status_code == 404
    gone = acme.call("DELETE", f"/v1/payment_methods/{card['id']}").json()
    assert gone == {"id": card["id"], "object": "payment_method.deleted", "deleted": True}
    deliver(fake)
    assert acme.get("/v1/payment_methods").json()["data"] == []
    assert acme.call("DELETE", f"/v1/payment_methods/{card['id']}").status_code == 404


def test_a_customer_deleted_at_stripe_is_made_anew(books: Books, fake: StripeFake) -> None:
    acme = caller()
    save_card(fake, "4242424242424242")
    owner = Organization.objects.get(slug="acme")
    customers._forget(StripeCustomer.objects.get(pk=owner.pk).stripe_id or "")
    assert cards_of(owner) == []
    assert buy(acme).json()["status"] == "requires_action"
    assert len(list(fake.state.all("cus"))) == 2


def test_the_webhook_takes_no_more_than_an_event_may_be(books: Books, fake: StripeFake) -> None:
    assert send(b"x" * (inbox.BODY_BYTES_MAX + 1), "t=1,v1=00") == 413
    answer = caller().post("/v1/webhooks/stripe", {"id": "evt_1"})
    assert answer.status_code == 400
    assert json.loads(answer.content)["error"]["message"] == "The request is malformed."


def test_a_made_up_top_up_is_not_there(books: Books, fake: StripeFake) -> None:
    acme = caller()
    for text in (ids.show("topup", ids.new()), "topup_1", "x"):
        assert acme.get(f"/v1/topups/{text}").status_code == 404


def test_no_answer_from_stripe_for_a_page_to_save_a_card_on_is_said_plainly(books: Books, fake: StripeFake) -> None:
    acme = caller()
    fake.fail("500_once", "POST", "/v1/checkout/sessions")
    answer = acme.post("/v1/payment_methods", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert rows("SELECT count(*) FROM payment") == [(0,)]
