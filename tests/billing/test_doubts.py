"""Calls to Stripe of which nobody knows the outcome: nothing is charged twice, and nothing that was paid is lost."""

import ast
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError

from billing import payments, settlement
from billing.models import Payment, StripeCustomer, TopUp
from billing.processor import client
from core import failpoints
from tests.billing.paying import (
    DECLINED,
    again,
    asked,
    deliver,
    fake,
    intents,
    later,
    topup,
    with_card,
)
from tests.billing.world import assert_sound, organization, standing
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake
from tests.nursery import Nursery
from tests.proofs import proves
from tests.test_tidy import modules

__all__ = ["fake"]

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
CALL = "/v1/payment_intents"


def states() -> list[tuple[str, Decimal]]:
    """States of all payments and what each received."""
    return list(Payment.objects.order_by("pk").values_list("state", "received_usd"))


@proves("S05", guard="payments_are_looked_at")
def test_a_payment_whose_commit_failed_is_found_by_the_sweep(books: Books, fake_clock: Clock, fake: StripeFake) -> None:
    acme = with_card(fake)
    made = topup(acme, method="card")

    def fail() -> None:
        raise OperationalError("the connection broke")

    with failpoints.armed("payment.before_commit", fail), pytest.raises(OperationalError):
        settlement.ask(made.pk)
    assert (again(made).state, standing(acme).posted) == ("called", 0)
    assert [one["status"] for one in intents(fake)] == ["succeeded"]
    later(fake, fake_clock, 5 * MINUTE)
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)
    assert len(intents(fake)) == 1
    assert_sound()


@proves("S06", guard="the_payment_is_the_key")
@pytest.mark.parametrize("fault", ["hang", "reset"])
def test_an_answer_that_never_comes_is_asked_for_again_under_the_same_key(
    books: Books, fake_clock: Clock, fake: StripeFake, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = with_card(fake)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)
    client._stripe.cache_clear()
    fake.fail(fault, "POST", CALL, committed=True)
    made = topup(acme, method="card")
    settlement.ask(made.pk)
    assert again(made).state == "called"
    # While it is in doubt no other begins.
    settlement.sweep()
    assert len(intents(fake)) == 1
    later(fake, fake_clock, 5 * MINUTE)
    client._stripe.cache_clear()
    assert len(intents(fake)) == 1
    assert states() == [("succeeded", 50)]
    assert standing(acme).posted == 50
    assert_sound()


def test_a_call_that_never_arrived_is_made_again(books: Books, fake_clock: Clock, fake: StripeFake) -> None:
    acme = with_card(fake)
    fake.fail("lost", "POST", CALL)
    made = asked(acme, method="card")
    assert (made.state, len(intents(fake))) == ("called", 0)
    later(fake, fake_clock, 5 * MINUTE)
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)


@proves("S08", guard="forgotten_keys_are_not_used_again")
def test_a_key_that_stripe_may_have_forgotten_is_never_used_again(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = with_card(fake)
    fake.fail("reset", "POST", CALL, times=3)
    # Nor can it be found meanwhile.
    lists = fake.fail("500_once", "GET", CALL, times=100)
    made = asked(acme, method="card")
    for pause in (5 * MINUTE, HOUR, 21 * HOUR):
        later(fake, fake_clock, pause)
    assert (again(made).state, len(intents(fake))) == ("called", 1)
    fake.faults.clear()
    lists.let_go()
    later(fake, fake_clock, 3 * HOUR)
    calls = [one for one in fake.requests if (one.method, one.path) == ("POST", CALL)]
    assert (len(calls), len(intents(fake))) == (3, 1)
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)
    assert_sound()


def test_a_payment_that_never_began_fails_once_that_is_proven(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = with_card(fake)
    fake.fail("lost", "POST", CALL, times=10)
    made = asked(acme, method="card")
    for pause in (5 * MINUTE, HOUR, 21 * HOUR):
        later(fake, fake_clock, pause)
        assert again(made).state == "called"
    later(fake, fake_clock, HOUR)
    assert (again(made).state, again(made).failure_code) == ("failed", "never_made")
    assert TopUp.objects.get().state == "failed"
    assert_sound()


@proves("S09", guard="a_saved_error_says_nothing")
def test_an_error_saved_under_the_key_is_looked_through(books: Books, fake_clock: Clock, fake: StripeFake) -> None:
    acme = with_card(fake)
    fake.fail("sticky_500", "POST", CALL, committed=True)
    made = asked(acme, method="card")
    assert again(made).state == "called"
    later(fake, fake_clock, 5 * MINUTE)
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)
    assert len(intents(fake)) == 1


def test_too_many_requests_are_asked_again_later(books: Books, fake_clock: Clock, fake: StripeFake) -> None:
    acme = with_card(fake)
    fake.fail("429", "POST", CALL)
    made = asked(acme, method="card")
    assert made.state == "called"
    later(fake, fake_clock, 5 * MINUTE)
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)


def test_a_refusal_ends_what_was_asked_for_once_and_not_what_is_in_doubt(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = with_card(fake)
    StripeCustomer.objects.update(stripe_id="cus_unknown")
    refused = asked(acme, method="card")
    assert (refused.state, refused.failure_code) == ("failed", "resource_missing")
    other = with_card(fake, "other")
    fake.fail("reset", "POST", CALL)
    made = asked(other, method="card")
    # The key is taken back before the second attempt: its refusal says nothing of the first one.
    with mock.patch.object(client.Client, "create_intent", side_effect=client.Refused("invalid_api_key", "no")):
        later(fake, fake_clock, 5 * MINUTE)
    assert (again(made).state, standing(other).posted) == ("succeeded", 50)


def test_an_event_before_our_own_record_settles_the_payment(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    fake.fail("reset", "POST", CALL)
    made = asked(acme, method="card")
    assert again(made).intent_id is None
    deliver(fake)
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)
    settlement.ask(made.pk)
    assert standing(acme).posted == 50


@proves("S07", guard="nothing_is_asked_without_a_key")
def test_no_call_goes_out_without_a_key(books: Books, fake: StripeFake) -> None:
    at = client.connect()
    with pytest.raises(ValueError, match="without an idempotency key"):
        at.post("/v1/customers", {"name": "acme"}, key="")
    acme = with_card(fake)
    asked(acme, method="card")
    sent = [(one.path, one.key) for one in fake.requests if one.method == "POST"]
    assert sent == [
        ("/v1/customers", f"customer:{acme.pk}:1"),
        ("/v1/payment_intents", str(Payment.objects.get().pk)),
    ]


def test_only_the_client_calls_the_sdk() -> None:
    importing = set()
    for source in modules():
        for node in ast.walk(source.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", "") or ""
            if module.split(".")[0] == "stripe" or "stripe" in names:
                importing.add((source.name, *sorted(names)))
    assert importing == {
        ("billing.processor.client", "stripe"),
        ("billing.processor.client", "RequestsClient", "StripeClient"),
        # Only to check a signature.
        ("billing.processor.inbox", "SignatureVerificationError", "WebhookSignature"),
    }


@pytest.mark.parametrize("place", ["payment.before_call", "payment.after_call", "payment.before_commit"])
def test_a_process_that_is_killed_anywhere_leaves_what_the_sweep_finishes(
    books: Books, fake_clock: Clock, fake: StripeFake, nursery: Nursery, place: str
) -> None:
    acme = with_card(fake)
    made = topup(acme, method="card")
    ended = nursery.run(
        "tests.billing.paying:ask_alone", dies_at=place, payment_id=str(made.pk), base=fake.base_url, key=fake.api_key
    )
    assert ended.died, ended.error
    assert (again(made).state, standing(acme).posted) == ("called", 0)
    # That process went by the machine's clock.
    later(fake, fake_clock, 10 * MINUTE)
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)
    assert len(intents(fake)) == 1
    assert_sound()


def test_a_process_that_is_killed_after_the_commit_has_settled(
    books: Books, fake: StripeFake, nursery: Nursery
) -> None:
    acme = with_card(fake, number=DECLINED)
    made = topup(acme, method="card")
    ended = nursery.run(
        "tests.billing.paying:ask_alone", dies_at="payment.after_commit", payment_id=str(made.pk), base=fake.base_url,
        key=fake.api_key,
    )  # fmt: skip
    assert ended.died, ended.error
    assert again(made).state == "failed"
    assert payments.of_subject("topup", made.subject_id) == made


def test_a_page_whose_answer_was_lost_is_found_again_by_its_key(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = organization("acme")
    fake.fail("lost", "POST", "/v1/checkout/sessions")
    made = asked(acme)
    assert (made.state, made.checkout_url) == ("called", "")
    later(fake, fake_clock, 5 * MINUTE)
    assert (again(made).state, again(made).checkout_url[:4]) == ("requires_action", "http")


def test_a_page_that_could_not_be_asked_for_in_an_hour_is_given_up(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = organization("acme")
    fake.fail("lost", "POST", "/v1/checkout/sessions", times=2)
    made = asked(acme)
    later(fake, fake_clock, 5 * MINUTE)
    # Its time is over by then, so Stripe refuses it; and it is not there.
    later(fake, fake_clock, HOUR)
    assert (again(made).state, again(made).failure_code) == ("failed", "never_made")
