"""What Stripe's objects say, read from golden payloads of the pinned version, and how news adds up in any order.

The payloads in ``tests/billing/golden`` were made by the fake Stripe, whose shapes are those of the pinned SDK.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from itertools import chain, permutations
from typing import Any

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.models import Payment
from billing.processor import client, facts
from billing.processor.facts import Mismatch, State
from tests.billing.paying import asked, fake
from tests.billing.world import organization
from tests.books import Books
from tests.database import ROOT
from tests.fakes.stripe import StripeFake
from tests.proofs import proves

__all__ = ["fake"]

OURS = "01a1fff3-43fb-797a-bc57-132c7238c3d3"
# What is read of each object, by the SDK's class for it.
READ = {
    stripe.PaymentIntent: (
        "id", "amount", "amount_received", "currency", "customer", "metadata", "status", "last_payment_error",
        "next_action", "latest_charge",
    ),
    stripe.checkout.Session: (
        "id", "amount_total", "currency", "customer", "metadata", "mode", "payment_intent", "status", "url",
    ),
    stripe.Charge: ("id", "balance_transaction", "payment_intent"),
    stripe.BalanceTransaction: ("id", "amount", "currency", "fee"),
    stripe.Refund: ("id", "amount", "currency", "failure_reason", "metadata", "payment_intent", "status"),
    stripe.Dispute: ("id", "amount", "balance_transactions", "currency", "payment_intent", "reason", "status"),
    stripe.PaymentMethod: ("id", "card", "created", "customer"),
    stripe.Customer: ("id", "invoice_settings", "deleted"),
    stripe.Event: ("id", "account", "api_version", "created", "data", "livemode", "object", "type"),
}  # fmt: skip


def golden(name: str) -> Any:
    """A payload as Stripe sends it."""
    return json.loads((ROOT / "tests" / "billing" / "golden" / f"{name}.json").read_text())


def test_a_payment_reads_as_what_was_paid_and_what_it_cost() -> None:
    told = facts.of_intent(golden("intent"))
    assert told._replace(intent_id="", charge_id="", customer="") == facts.Facts(
        state=State.SUCCEEDED, asked_cents=5000, currency="usd", customer="", payment_id=OURS, received_cents=5000,
        fee_cents=175,
    )  # fmt: skip
    assert (told.intent_id[:3], told.charge_id[:3], told.customer[:4]) == ("pi_", "ch_", "cus_")
    page = facts.of_session(golden("session"), golden("intent"))
    assert (page.state, page.received_cents, page.payment_id) == (State.SUCCEEDED, 5000, OURS)


def test_what_went_back_reads_as_refund_and_as_dispute() -> None:
    refund = facts.of_refund(golden("refund"))
    assert (refund.state, refund.amount_cents, refund.refund_id) == ("succeeded", 1000, "")
    dispute = facts.of_dispute(golden("dispute"))
    assert dispute._replace(stripe_id="", intent_id="") == facts.DisputeFacts(
        stripe_id="", state="won", amount_cents=4000, intent_id="", reason="fraudulent", withdrawn_cents=4000,
        reinstated_cents=4000, fee_cents=1500, moves=2,
    )  # fmt: skip
    card = facts.of_card(golden("card"))
    assert (card.brand, card.last_four) == ("visa", "4242")


@proves("S16", guard="the_version_is_pinned")
def test_every_payload_is_read_in_the_version_that_is_asked_for(books: Books, fake: StripeFake) -> None:
    client._stripe.cache_clear()
    assert golden("event")["api_version"] == stripe.api_version == "2026-10-28.endive"
    # The fake refuses every other version, as Stripe would change what it says.
    assert asked(organization("acme")).state == "requires_action"
    client._stripe.cache_clear()


def test_what_is_read_exists_in_the_pinned_version() -> None:
    missing = {
        f"{kind.__name__}.{name}"
        for kind, names in READ.items()
        for name in names
        if name not in set(chain.from_iterable(getattr(one, "__annotations__", {}) for one in kind.__mro__))
    }
    assert missing == set()


@pytest.mark.parametrize(
    ("status", "failed", "on_page", "state"),
    [
        ("requires_payment_method", False, False, State.CALLED),
        ("requires_payment_method", True, False, State.FAILED),
        # On a page another card may follow.
        ("requires_payment_method", True, True, State.REQUIRES_ACTION),
        ("requires_action", False, False, State.REQUIRES_ACTION),
        ("requires_confirmation", False, False, State.CALLED),
        ("processing", False, False, State.PROCESSING),
        ("canceled", False, False, State.CANCELED),
        ("canceled", True, False, State.FAILED),
        ("succeeded", False, False, State.SUCCEEDED),
        ("succeeded", False, True, State.SUCCEEDED),
    ],
)
def test_an_intents_status_is_a_state(status: str, failed: bool, on_page: bool, state: str) -> None:
    told = {**golden("intent"), "status": status, "last_payment_error": {"code": "card_declined"} if failed else None}
    assert facts.of_intent(told, on_page=on_page).state == state


@pytest.mark.parametrize(
    ("status", "intent", "state"),
    [
        ("open", None, State.REQUIRES_ACTION),
        ("open", "requires_payment_method", State.REQUIRES_ACTION),
        ("expired", None, State.CANCELED),
        ("expired", "canceled", State.CANCELED),
        # Paid in the last moment.
        ("expired", "succeeded", State.SUCCEEDED),
        ("complete", "processing", State.PROCESSING),
        ("complete", "requires_payment_method", State.FAILED),
        ("complete", "succeeded", State.SUCCEEDED),
    ],
)
def test_a_pages_status_is_a_state(status: str, intent: str | None, state: str) -> None:
    behind = None if intent is None else {**golden("intent"), "status": intent}
    assert facts.of_session({**golden("session"), "status": status}, behind).state == state


def test_a_page_and_an_intent_that_do_not_say_the_same_do_not_fit() -> None:
    for name, value in (("amount", 1), ("currency", "eur"), ("customer", "cus_other"), ("metadata", {})):
        with pytest.raises(Mismatch):
            facts.of_session(golden("session"), {**golden("intent"), name: value})


LIVES: Sequence[Sequence[str]] = (
    # As Stripe goes through them; each with the state that it ends in, last.
    ("pending", "called", "requires_action", "processing", "succeeded"),
    ("called", "processing", "failed"),
    ("called", "requires_action", "canceled"),
    ("called", "requires_action", "failed", "succeeded"),
    ("called", "failed", "canceled", "failed"),
    ("pending", "called", "requires_action", "processing", "canceled", "succeeded"),
)


@proves("S02", guard="states_only_go_forward")
def test_every_order_of_the_same_news_ends_in_one_state() -> None:
    seen = 0
    for life in LIVES:
        last = life[-1]
        for order in permutations(life):
            state = "pending"
            for told in order:
                state = facts.later(state, told)
            assert state == last, order
            seen += 1
    assert seen == 120 + 6 + 6 + 24 + 24 + 720
    for later, life in (
        (facts.later_refund, ("pending", "called", "processing", "succeeded", "failed")),
        (facts.later_dispute, ("inquiry", "open", "lost", "won")),
    ):
        for order in permutations(life):
            state = life[0]
            for told in order:
                state = later(state, told)
            assert state == life[-1]


@given(st.lists(st.sampled_from([state.value for state in State]), max_size=12), st.randoms())
@settings(max_examples=200, deadline=None)
def test_news_may_come_twice_and_in_any_order(told: list[str], chance: Any) -> None:
    def fold(news: Sequence[str]) -> str:
        state = "pending"
        for one in news:
            after = facts.later(state, one)
            # Never back.
            assert facts.later(after, state) == after
            state = after
        return state

    mixed = [*told, *told]
    chance.shuffle(mixed)
    assert fold(mixed) == fold(told)


@pytest.mark.parametrize(("usd", "cents"), [("0.01", 1), ("50", 5000), ("10.10", 1010), ("50.000000000000", 5000)])
def test_cents_are_whole(usd: str, cents: int) -> None:
    assert facts.cents(Decimal(usd)) == cents
    assert facts.dollars(cents) == Decimal(usd)


def test_a_fraction_of_a_cent_is_no_amount_of_cents() -> None:
    with pytest.raises(ValueError, match="whole number of cents"):
        facts.cents(Decimal("0.011"))


def test_a_payment_fits_itself_and_nothing_else() -> None:
    payment = Payment(
        id=OURS, amount_usd=Decimal(50), request={"customer": "cus_1"}, intent_id="pi_1", method="card", state="called"
    )
    fits = facts.Facts(State.SUCCEEDED, 5000, "usd", "cus_1", OURS, 5000, intent_id="pi_1", charge_id="ch_1")
    facts.check(payment, fits)
    wrong: list[dict[str, Any]] = [
        {"asked_cents": 4999}, {"currency": "eur"}, {"customer": "cus_2"}, {"payment_id": ""}, {"intent_id": "pi_2"},
        {"received_cents": 4999}, {"received_cents": 0},
    ]  # fmt: skip
    for changed in wrong:
        with pytest.raises(Mismatch):
            facts.check(payment, fits._replace(**changed))
