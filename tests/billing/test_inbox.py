"""Stripe's events: only genuine ones are kept, each has its effect once, in whatever order they come."""

import json
import random
from datetime import timedelta
from functools import partial
from itertools import permutations
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from billing.models import Payment, StripeCustomer, StripeEvent, TopUp
from billing.processor import client, facts, inbox
from core import clock, errors, failpoints
from orgs.models import AuditEntry
from tests.billing.paying import (
    ASKS_ALWAYS,
    BY,
    DECLINED,
    PAYS,
    again,
    asked,
    cards_of,
    clearing,
    deliver,
    fake,
    handled,
    paid,
    post,
    send,
    state_of,
    with_card,
)
from tests.billing.world import assert_sound, organization, rows, side_by_side, standing
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake
from tests.nursery import Nursery
from tests.proofs import proves

__all__ = ["fake"]

SECONDS = timedelta(seconds=1)


@proves("S01", guard="a_payment_is_credited_once")
def test_an_event_that_comes_ten_times_at_once_is_credited_once(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    fake.pay(made.session_id or "")
    (event,) = fake.webhooks.events("checkout.session.completed")

    def once_more() -> None:
        assert post(fake, event) == 200
        row = StripeEvent.objects.get(stripe_id=event)
        inbox.handle(row.pk)

    side_by_side(books, *([once_more] * 10))
    for name in fake.webhooks.events():
        for _ in range(3):
            post(fake, name)
        inbox.replay(event_id=StripeEvent.objects.get(stripe_id=name).pk, by=BY)
    assert standing(acme).posted == 50
    assert rows("SELECT count(*) FROM transfer WHERE kind = 'topup'") == [(1,)]
    assert "received" not in handled().values()
    assert_sound()


def test_two_types_for_one_payment_side_by_side_are_one_credit(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    fake.pay(made.session_id or "")
    names = fake.webhooks.events("checkout.session.completed", "payment_intent.succeeded", "charge.succeeded")
    assert len(names) == 3

    def take(name: str) -> None:
        post(fake, name)
        inbox.handle(StripeEvent.objects.get(stripe_id=name).pk)

    side_by_side(books, *(partial(take, name) for name in names))
    assert standing(acme).posted == 50
    assert set(handled().values()) == {"processed"}
    assert_sound()


def test_success_before_created_is_success(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    fake.pay(made.session_id or "")
    deliver(fake, *reversed(fake.webhooks.events()))
    assert (again(made).state, standing(acme).posted) == ("succeeded", 50)


@proves("S03", guard="events_are_signed")
def test_what_stripe_did_not_sign_is_refused_without_a_reason(books: Books, fake: StripeFake) -> None:
    made = asked(organization("acme"))
    fake.pay(made.session_id or "")
    (event,) = fake.webhooks.events("payment_intent.succeeded")
    genuine = fake.webhooks.sign(event)
    told = json.loads(genuine.body)
    stamp, _, mark = genuine.signature.partition(",")
    forged: list[tuple[bytes, str | None]] = [
        (genuine.body, None),
        (genuine.body, ""),
        (genuine.body, "nonsense"),
        (genuine.body, stamp),
        (genuine.body, mark),
        (genuine.body, f"{stamp},v0={mark[3:]}"),
        (genuine.body, f"{stamp},v1={'0' * 64}"),
        (genuine.body, fake.webhooks.sign(event, secrets=["whsec_other"]).signature),
        (genuine.body + b" ", genuine.signature),
        # The same event, written otherwise.
        (json.dumps(told).encode(), genuine.signature),
        (json.dumps({**told, "id": "evt_other"}, indent=2).encode(), genuine.signature),
        (b"\xff\xfe", genuine.signature),
    ]
    assert [send(*one) for one in forged] == [400] * len(forged)
    assert StripeEvent.objects.count() == 0
    assert send(genuine.body, genuine.signature) == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"livemode": True},
        {"account": "acct_somebody"},
        {"object": "list"},
        {"data": {}},
        {"id": 7},
        {"created": "now"},
        {"livemode": None},
    ],
)
def test_what_is_signed_and_not_for_us_is_refused(books: Books, fake: StripeFake, changed: dict[str, Any]) -> None:
    asked(organization("acme"))
    made = Payment.objects.get()
    fake.pay(made.session_id or "")
    event = fake.webhooks.events("payment_intent.succeeded")[0]
    with fake.state.lock:
        fake.state.objects[event].update(changed)
    assert post(fake, event) == 400
    assert StripeEvent.objects.count() == 0


@proves("S04", guard="signatures_have_an_age")
def test_a_signature_counts_for_five_minutes_on_both_sides(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    made = asked(acme)
    fake.pay(made.session_id or "")
    (event,) = fake.webhooks.events("payment_intent.succeeded")
    # A second or two may pass between signing and looking.
    taken = [post(fake, event, late_seconds=late) for late in (1, 290, 310, 86_400, -290, -310, -86_400)]
    assert taken == [200, 200, 400, 400, 200, 400, 400]
    inbox.sweep()
    assert standing(acme).posted == 50


def test_while_one_secret_replaces_another_both_are_good(books: Books, fake: StripeFake, settings: Any) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new", fake.secret]
    asked(organization("acme"))
    fake.pay(Payment.objects.get().session_id or "")
    event = fake.webhooks.events()[0]
    assert post(fake, event) == 200
    assert post(fake, event, secrets=["whsec_new"]) == 200
    assert post(fake, event, secrets=["whsec_gone"]) == 400


def test_an_event_that_was_kept_and_not_handled_still_waits_when_it_comes_again(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    fake.pay(asked(acme).session_id or "")
    (event,) = fake.webhooks.events("payment_intent.succeeded")
    delivery = fake.webhooks.sign(event)
    first = inbox.store(delivery.body, delivery.signature)
    second = inbox.store(delivery.body, delivery.signature)
    assert (first.waits, second.waits, first.id) == (True, True, second.id)
    inbox.sweep()
    assert not inbox.store(delivery.body, delivery.signature).waits
    assert standing(acme).posted == 50


def test_an_event_whose_commit_fails_waits_and_is_handled_later(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = organization("acme")
    fake.pay(asked(acme).session_id or "")
    (event,) = fake.webhooks.events("payment_intent.succeeded")
    post(fake, event)

    def fail() -> None:
        raise OperationalError("the connection broke")

    with failpoints.armed("payment.before_commit", fail):
        inbox.sweep()
    assert (handled()[event], standing(acme).posted) == ("received", 0)
    fake_clock.move(9 * SECONDS)
    inbox.sweep()
    assert standing(acme).posted == 0
    fake_clock.move(SECONDS)
    inbox.sweep()
    assert (handled()[event], standing(acme).posted) == ("processed", 50)


def test_an_event_that_cannot_be_handled_is_parked_in_the_end_and_somebody_is_told(
    books: Books, fake_clock: Clock, fake: StripeFake
) -> None:
    acme = organization("acme")
    fake.pay(asked(acme).session_id or "")
    (event,) = fake.webhooks.events("payment_intent.succeeded")
    post(fake, event)
    fake.fail("500_once", "GET", "/v1/.*", times=100)
    for _ in range(12):
        inbox.sweep()
        fake_clock.move(timedelta(days=2))
    assert handled()[event] == "failed"
    assert StripeEvent.objects.get().attempts == 8
    assert rows("SELECT count(*) FROM outbox WHERE kind = 'stripe.event_parked'") == [(1,)]
    fake.faults.clear()
    inbox.replay(event_id=StripeEvent.objects.get().pk, by=BY)
    assert (handled()[event], standing(acme).posted) == ("processed", 50)
    assert AuditEntry.objects.filter(verb="stripe_event.replayed").count() == 1


def test_events_that_nobody_handles_and_other_peoples_objects_are_ignored(books: Books, fake: StripeFake) -> None:
    at = client.connect()
    other = at.create_customer({"name": "somebody else's"}, key="other")
    card = fake.save_card(other["id"])
    at.create_intent(
        {
            "amount": 900, "currency": "usd", "customer": other["id"], "payment_method": card, "confirm": True,
            "off_session": True,
        },
        key="elsewhere",
    )  # fmt: skip
    fake.pay_out()
    deliver(fake)
    assert set(handled().values()) <= {"ignored", "processed"}
    kinds = dict(rows("SELECT kind, state FROM stripe_event"))
    assert kinds["payment_intent.succeeded"] == kinds["charge.succeeded"] == kinds["customer.created"] == "ignored"
    assert rows("SELECT count(*) FROM transfer") == [(0,)]


@proves("S15", guard="payments_fit_what_was_asked")
@pytest.mark.parametrize(
    "changed",
    [
        {"currency": "eur"},
        {"amount": 100},
        {"metadata": {}},
        {"metadata": {facts.PAYMENT: "01a1fff3-43fb-797a-bc57-132c7238c3d3"}},
        {"customer": "cus_other"},
        {"amount_received": 4999},
    ],
)
def test_what_does_not_fit_is_parked_and_credited_to_nobody(
    books: Books, fake: StripeFake, changed: dict[str, Any]
) -> None:
    acme = with_card(fake)
    fake.fail("reset", "POST", "/v1/payment_intents")
    made = asked(acme, method="card")
    Payment.objects.filter(pk=made.pk).update(intent_id=_only(fake, "pi")["id"])
    with fake.state.lock:
        _only(fake, "pi").update(changed)
    deliver(fake, *fake.webhooks.events("payment_intent.succeeded"))
    assert standing(acme).posted == 0
    assert set(handled().values()) == {"failed"}
    assert again(made).parked != ""
    assert rows("SELECT count(*) FROM outbox WHERE kind IN ('payment.parked', 'stripe.event_parked')") == [(2,)]
    assert rows("SELECT count(*) FROM transfer") == [(0,)]


def _only(fake: StripeFake, kind: str) -> Any:
    (found,) = fake.state.all(kind)
    return found


def test_a_payment_of_our_customer_that_we_never_asked_for_is_for_a_person_to_look_at(
    books: Books, fake: StripeFake
) -> None:
    acme = with_card(fake)
    customer = StripeCustomer.objects.get(pk=acme.pk).stripe_id
    assert customer is not None
    card = fake.save_card(customer)
    client.connect().create_intent(
        {
            "amount": 900, "currency": "usd", "customer": customer, "payment_method": card, "confirm": True,
            "off_session": True,
        },
        key="by hand",
    )  # fmt: skip
    deliver(fake, *fake.webhooks.events("payment_intent.succeeded"))
    assert set(handled().values()) == {"failed"}


# A life: what happens at Stripe, one step after the other.


def _paid(fake: StripeFake) -> None:
    made = asked(with_card(fake, usd="7"))
    fake.pay(made.session_id or "")


def _confirmed(fake: StripeFake) -> None:
    made = asked(with_card(fake, number=ASKS_ALWAYS), method="card")
    fake.authenticate(made.intent_id or "")


def _declined(fake: StripeFake) -> None:
    asked(with_card(fake, number=DECLINED), method="card")


def _refunded(fake: StripeFake) -> None:
    made = asked(with_card(fake, number=PAYS), method="card")
    fake.refund(made.intent_id or "", 1000)
    fake.refund(made.intent_id or "", 1500)


def _refund_failed(fake: StripeFake) -> None:
    made = asked(with_card(fake), method="card")
    refund = fake.refund(made.intent_id or "", 2000)
    fake.fail_refund(refund["id"])


def _won(fake: StripeFake) -> None:
    made = asked(with_card(fake), method="card")
    fake.close_dispute(fake.open_dispute(made.intent_id or ""), won=True)


def _lost(fake: StripeFake) -> None:
    made = asked(with_card(fake), method="card")
    fake.close_dispute(fake.open_dispute(made.intent_id or "", amount=3000), won=False)


LIVES = {
    "paid": _paid, "confirmed": _confirmed, "declined": _declined, "refunded": _refunded,
    "refund failed": _refund_failed, "won": _won, "lost": _lost,
}  # fmt: skip


@pytest.mark.parametrize("life", LIVES)
def test_every_order_of_a_lifes_events_ends_in_one_state(books: Books, fake: StripeFake, life: str) -> None:
    LIVES[life](fake)
    names = [name for name in fake.webhooks.events() if _kind(fake, name) in inbox.HANDLERS]
    chosen = random.Random(life)
    orders = list(permutations(names)) if len(names) < 5 else [chosen.sample(names, len(names)) for _ in range(3)]
    owner = TopUp.objects.get().organization
    ends = []
    for order in chosen.sample(orders, min(len(orders), 3)):
        deliver(fake, *order, *chosen.sample(order, 2))
        ends.append(state_of(owner))
        # As if they had never come: nothing is done twice all the same.
        for row in StripeEvent.objects.all():
            inbox.replay(event_id=row.pk, by=BY)
    ends.append(state_of(owner))
    assert all(end == ends[0] for end in ends)
    assert set(handled().values()) == {"processed"}
    assert clearing() * 100 == fake.balance()
    assert_sound()


def _kind(fake: StripeFake, name: str) -> str:
    with fake.state.lock:
        return str(fake.state.objects[name]["type"])


def test_cards_follow_stripe(books: Books, fake: StripeFake) -> None:
    acme = with_card(fake)
    customer = StripeCustomer.objects.get(pk=acme.pk).stripe_id or ""
    assert cards_of(acme) == [("4242", True)]
    fake.save_card(customer, "5555555555554444", default=True)
    deliver(fake)
    assert cards_of(acme) == [("4242", False), ("4444", True)]
    at = client.connect()
    at.detach(at.cards(customer=customer)[0]["id"], key="detach")
    deliver(fake)
    assert len(cards_of(acme)) == 1
    assert [is_default for _, is_default in cards_of(acme)] == [True]


def test_the_books_are_right_to_the_cent_of_stripe_s(books: Books, fake: StripeFake) -> None:
    for name in ("a", "b", "c"):
        paid(fake, organization(name), "10.01")
    assert clearing() * 100 == fake.balance()
    assert_sound()


@pytest.mark.parametrize("place", ["event.before_handling", "payment.before_commit", "payment.after_commit"])
def test_a_process_that_is_killed_while_it_handles_an_event_leaves_it_waiting_or_done(
    books: Books, fake_clock: Clock, fake: StripeFake, nursery: Nursery, place: str
) -> None:
    acme = organization("acme")
    fake.pay(asked(acme).session_id or "")
    (event,) = fake.webhooks.events("payment_intent.succeeded")
    post(fake, event)
    ended = nursery.run(
        "tests.billing.paying:handle_alone", dies_at=place, event_id=str(StripeEvent.objects.get().pk),
        base=fake.base_url, key=fake.api_key,
    )  # fmt: skip
    assert ended.died, ended.error
    done = place == "payment.after_commit"
    assert (handled()[event], standing(acme).posted) == (("processed", 50) if done else ("received", 0))
    fake_clock.move(timedelta(minutes=10))
    inbox.sweep()
    assert (handled()[event], standing(acme).posted) == ("processed", 50)


def test_bodies_of_events_that_are_long_done_are_emptied_and_the_events_stay_known(
    books: Books, fake: StripeFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "TRIM_ROWS", 1)
    acme = organization("acme")
    fake.pay(asked(acme).session_id or "")
    deliver(fake)
    done = dict(handled())
    assert set(done.values()) == {"processed", "ignored"}
    parked, waiting = StripeEvent.objects.order_by("pk")[:2]
    StripeEvent.objects.filter(pk=parked.pk).update(state="failed")
    StripeEvent.objects.filter(pk=waiting.pk).update(state="received", outcome="", handled_at=None)
    later = clock.now() + timedelta(days=400)
    assert inbox.trim(at=later - timedelta(minutes=1)) == 0
    assert inbox.trim(at=later + timedelta(minutes=1)) == len(done) - 2
    assert inbox.trim(at=later + timedelta(minutes=1)) == 0
    assert set(StripeEvent.objects.exclude(payload="").values_list("pk", flat=True)) == {parked.pk, waiting.pk}
    row = StripeEvent.objects.filter(payload="", state="processed")[0]
    assert (row.outcome != "", row.kind != "") == (True, True)
    # It comes once more: it is known, and says no more than it did.
    assert post(fake, row.stripe_id) == 200
    assert (handled()[row.stripe_id], standing(acme).posted) == ("processed", 50)
    with pytest.raises(errors.Conflict, match="no longer kept"):
        inbox.replay(event_id=row.pk, by=BY)
    assert handled()[row.stripe_id] == "processed"


def test_the_events_to_be_emptied_are_found_by_an_index(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    with CaptureQueriesContext(connection) as seen:
        inbox.trim()
    assert any("stripe_event_whole" in line for (line,) in rows(f"EXPLAIN {seen[0]['sql']}"))
