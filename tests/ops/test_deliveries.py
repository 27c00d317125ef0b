"""Deliveries over real HTTP: signed, at least once, retried for three days, one slow receiver delaying nobody else."""

import base64
import hashlib
import hmac
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import override_settings

from core import clock, errors, ids
from ops import deliveries, egress, endpoints, outbox, signatures
from ops.models import OutboxMessage, WebhookDelivery, WebhookEndpoint
from orgs.models import AuditEntry, Organization
from tests import clocks
from tests.books import Books
from tests.clocks import Clock
from tests.nursery import Nursery
from tests.ops import hooks
from tests.ops.internet import OTHER, Answering, Internet, Receiver, Request
from tests.orgs import world
from tests.proofs import proves

State = WebhookDelivery.State
DOWN = Answering(500, b"out of order")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def net(receiver: Receiver) -> Iterator[Internet]:
    with Internet() as made:
        made.put("hooks.example.com", receiver)
        yield made


@pytest.fixture
def acme(books: Books) -> Organization:
    return world.organization("acme")


def only() -> WebhookDelivery:
    return WebhookDelivery.objects.select_related("endpoint", "message").get()


def attempt() -> deliveries.Outcome | None:
    """What came of whatever is due, to an endpoint that is well or to one that is failing."""
    return deliveries.send_next(calm=True) or deliveries.send_next(calm=False)


def due() -> None:
    """Let every pause be over."""
    WebhookDelivery.objects.filter(state=State.PENDING).update(next_attempt_at=clock.now() - timedelta(seconds=1))


def taken_by_hand(secret: str, request: Request, *, now: float) -> bool:
    """What a receiver does who has read the specification and none of our code."""
    headers = request.headers
    if abs(now - int(headers["webhook-timestamp"])) > 300:
        return False
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{request.body.decode()}".encode()
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}" in headers["webhook-signature"].split(" ")


@proves("A16", guard="messages_are_signed_with_the_endpoints_secret")
@proves("A16", guard="the_time_is_signed")
def test_a_receiver_knows_what_is_ours_and_what_is_not(acme: Organization, net: Internet, receiver: Receiver) -> None:
    secret = hooks.endpoint(acme).secret
    (delivery,) = hooks.hand_on(acme, "wallet.low", balance_usd="4.5", low_usd="5")
    outcome = attempt()
    assert outcome is not None
    assert outcome.taken
    (request,) = receiver.got
    assert request.told == {
        "id": str(delivery.message), "type": "wallet.low", "created_at": clock.to_unix(delivery.message.created_at),
        "organization": "acme", "data": {"balance_usd": "4.5", "low_usd": "5"},
    }  # fmt: skip
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == request.told["id"]
    at = int(request.headers["webhook-timestamp"])
    assert abs(at - time.time()) < 60
    assert taken_by_hand(secret, request, now=at)
    # Forged: other words, another id, another endpoint's secret.
    assert not taken_by_hand(secret, request._replace(body=request.body.replace(b"4.5", b"9.5")), now=at)
    assert not taken_by_hand(secret, request._replace(headers={**request.headers, "webhook-id": "evt_x"}), now=at)
    assert not taken_by_hand(signatures.new_secret(), request, now=at)
    # Replayed: as it was, too late; and with a new time, which is then not what was signed.
    assert not taken_by_hand(secret, request, now=at + 301)
    late = request._replace(headers={**request.headers, "webhook-timestamp": str(at + 301)})
    assert not taken_by_hand(secret, late, now=at + 301)
    done = only()
    assert (done.state, done.attempts, done.status, done.excerpt) == (State.SUCCEEDED, 1, 204, "")
    assert attempt() is None


def test_while_a_secret_is_replaced_a_receiver_may_know_either(
    acme: Organization, net: Internet, receiver: Receiver
) -> None:
    first = hooks.endpoint(acme)
    second = endpoints.rotate(organization_id=acme.pk, endpoint_id=first.endpoint.pk, by=world.BY)
    hooks.hand_on(acme)
    attempt()
    (request,) = receiver.got
    assert all(taken_by_hand(secret, request, now=time.time()) for secret in (first.secret, second.secret))


def test_a_message_becomes_one_delivery_for_each_endpoint_that_wants_it(acme: Organization) -> None:
    every, low = hooks.endpoint(acme).endpoint, hooks.endpoint(acme, kinds=["wallet.low"]).endpoint
    hooks.endpoint(acme, kinds=["wallet.empty"])
    hooks.endpoint(world.organization("other"))
    made = hooks.hand_on(acme)
    assert [each.endpoint_id for each in made] == [every.pk, low.pk]
    assert {each.organization_id for each in made} == {acme.pk}
    assert hooks.hand_on(acme, "something.internal") == []
    hooks.tell(None)
    assert outbox.hand_on() == 1
    assert WebhookDelivery.objects.count() == 2
    deliveries.derive(made[0].message)
    assert WebhookDelivery.objects.count() == 2
    with pytest.raises(IntegrityError, match="webhook_delivery_once"), transaction.atomic():
        WebhookDelivery.objects.filter(pk=made[0].pk).update(endpoint=low)


def test_what_another_cannot_read_is_delivered_once_all_the_same(
    acme: Organization, books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: OutboxMessage) -> None:
        raise RuntimeError("no template")

    hooks.endpoint(acme)
    hooks.tell(acme)
    with monkeypatch.context() as patch:
        patch.setitem(outbox.READERS, "broken", fail)
        assert outbox.hand_on() == 0
    assert "to broken" in caplog.text
    assert OutboxMessage.objects.get().delivered_at is None
    assert WebhookDelivery.objects.count() == 1
    clocks.age(books, "outbox", by=outbox.PAUSE, columns=("next_attempt_at",))
    assert outbox.hand_on() == 1
    assert WebhookDelivery.objects.count() == 1


def test_a_failure_is_tried_again_over_three_days_and_then_given_up(
    acme: Organization, fake_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.endpoint(acme)
    hooks.hand_on(acme)
    began = fake_clock.at
    monkeypatch.setattr(deliveries, "_attempt", lambda _: deliveries.Outcome(503, 12, excerpt="busy"))
    pauses = []
    while True:
        assert attempt() is not None
        row = only()
        if row.next_attempt_at is None:
            break
        pauses.append(row.next_attempt_at - fake_clock.at)
        fake_clock.move(pauses[-1] - timedelta(milliseconds=1))
        assert attempt() is None
        fake_clock.move(timedelta(milliseconds=1))
    hours = [5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24]
    assert len(pauses) == len(hours)
    for pause, hour in zip(pauses, hours, strict=True):
        assert timedelta(hours=hour) <= pause <= timedelta(hours=hour * 1.1)
    assert timedelta(days=3) < fake_clock.at - began < timedelta(days=3.6)
    assert (row.state, row.attempts, row.status, row.excerpt) == (State.FAILED, 10, 503, "busy")
    assert attempt() is None
    assert row.endpoint.enabled


def test_pauses_differ_from_delivery_to_delivery_and_never_for_the_same_one() -> None:
    seeds = [ids.new() for _ in range(50)]
    assert all(deliveries.pause(3, seed=each) == deliveries.pause(3, seed=each) for each in seeds)
    assert len({deliveries.pause(3, seed=each) for each in seeds}) > 25


def test_the_same_bytes_go_out_at_every_attempt_under_the_same_id(
    acme: Organization, net: Internet, receiver: Receiver
) -> None:
    hooks.endpoint(acme)
    hooks.hand_on(acme, balance_usd="0.000000000001")
    receiver.behave = lambda _: DOWN
    outcome = attempt()
    assert outcome == deliveries.Outcome(500, outcome and outcome.took_ms, excerpt="out of order")
    due()
    receiver.behave = lambda _: Answering(202)
    assert attempt() is not None
    first, second = receiver.got
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    row = only()
    assert (row.state, row.attempts, row.status, row.excerpt) == (State.SUCCEEDED, 2, 202, "")
    assert row.endpoint.failing_since is None


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1"])
def test_a_name_that_has_come_to_lead_inside_is_a_failure_that_says_so(
    acme: Organization, net: Internet, receiver: Receiver, address: str
) -> None:
    hooks.endpoint(acme)
    hooks.hand_on(acme)
    net.resolve("hooks.example.com", [address])
    assert attempt() is not None
    row = only()
    assert (row.state, row.status) == (State.PENDING, None)
    assert row.failure == "hooks.example.com leads to an address that is not public"
    assert receiver.connections == 0


def test_a_secret_that_cannot_be_read_is_a_failure_that_says_so(acme: Organization, net: Internet) -> None:
    hooks.endpoint(acme)
    hooks.hand_on(acme)
    with override_settings(SECRET_KEY="another" * 8):
        assert attempt() is not None
    assert "SECRET_KEY" in only().failure
    assert net.dialled == []


def test_an_endpoint_that_says_it_is_gone_gets_nothing_more(
    acme: Organization, net: Internet, receiver: Receiver
) -> None:
    made = hooks.endpoint(acme).endpoint
    hooks.hand_on(acme)
    hooks.hand_on(acme, key="2")
    receiver.behave = lambda _: Answering(410)
    assert attempt() is not None
    assert attempt() is None
    assert not WebhookEndpoint.objects.get(pk=made.pk).enabled
    assert deliveries.send_due(calm=True, senders=1) == "sent 0, failed 0, canceled 1"
    assert set(WebhookDelivery.objects.values_list("state", flat=True)) == {State.CANCELED}
    other = hooks.endpoint(acme, "https://hooks.example.net/").endpoint
    assert outbox.hand_on() == 1
    told = WebhookDelivery.objects.get(endpoint=other)
    assert told.message.kind == "webhook_endpoint.disabled"
    with pytest.raises(endpoints.Disabled):
        deliveries.redeliver(delivery=WebhookDelivery.objects.filter(endpoint=made)[0], by=world.BY)
    with pytest.raises(endpoints.Disabled):
        deliveries.ping(endpoint=made, by=world.BY)


def test_nothing_is_sent_inside_a_transaction_and_an_endpoint_has_one_sender_at_a_time(
    acme: Organization, books: Books, net: Internet, receiver: Receiver
) -> None:
    hooks.endpoint(acme)
    for key in "1234":
        hooks.hand_on(acme, key=key)
    going, most = [0], [0]
    lock = threading.Lock()

    def behave(_: Request) -> Answering:
        with lock:
            going[0] += 1
            most[0] = max(most[0], going[0])
        with books.connect() as own:
            open_ones = own.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            ).fetchone()
        with lock:
            going[0] -= 1
        return Answering(200 if open_ones == (0,) else 500)

    receiver.behave = behave
    books.together([lambda: deliveries.send_due(calm=True, senders=1)] * 4)
    assert Counter(WebhookDelivery.objects.values_list("state", "attempts")) == {(State.SUCCEEDED, 1): 4}
    assert most == [1]
    assert [each.told["id"] for each in receiver.got] == sorted(each.told["id"] for each in receiver.got)


def test_eight_senders_send_each_message_once(
    acme: Organization, books: Books, net: Internet, receiver: Receiver
) -> None:
    for _ in range(4):
        hooks.endpoint(acme)
    for number in range(5):
        hooks.hand_on(acme, key=str(number))
    told = books.together([lambda: deliveries.send_due(calm=True, senders=2)] * 4)
    assert sum(int(each.split(",")[0].removeprefix("sent ")) for each in told) == 20
    assert Counter(each.headers["webhook-id"] for each in receiver.got) == dict.fromkeys(
        map(str, OutboxMessage.objects.all()), 4
    )


def test_one_slow_endpoint_delays_no_other(acme: Organization, net: Internet, receiver: Receiver) -> None:
    slow_name = "https://hooks.example.net/"
    release = threading.Event()
    with Receiver() as slow:
        net.put("hooks.example.net", slow, address=OTHER)
        slow.behave = lambda _: Answering(204) if release.wait(20) else DOWN
        for _ in range(3):
            hooks.endpoint(acme, slow_name)
        hooks.endpoint(acme)
        for number in range(3):
            hooks.hand_on(acme, key=str(number))
        quick = WebhookDelivery.objects.filter(endpoint__url=hooks.URL)

        def last_arrived(_: Request) -> Answering:
            if len(receiver.got) == 3:
                # All of the quick one's are through; only now may the slow ones answer.
                release.set()
            return Answering(204)

        receiver.behave = last_arrived
        deliveries.send_due(calm=True, senders=4)
    assert set(quick.values_list("state", flat=True)) == {State.SUCCEEDED}
    assert WebhookDelivery.objects.filter(state=State.SUCCEEDED).count() == 12


def test_endpoints_that_fail_have_senders_of_their_own(acme: Organization) -> None:
    failing, working = hooks.endpoint(acme).endpoint, hooks.endpoint(acme).endpoint
    WebhookEndpoint.objects.filter(pk=failing.pk).update(failing_since=clock.now())
    hooks.hand_on(acme)
    for calm, expected in ((True, working.pk), (True, None), (False, failing.pk), (False, None)):
        with transaction.atomic():
            assert endpoints.take(lease=timedelta(minutes=1), calm=calm) == expected


def test_a_sender_that_dies_after_the_receiver_took_it_is_followed_by_one_who_sends_it_again(
    acme: Organization, books: Books, nursery: Nursery
) -> None:
    with Receiver(tls=False) as receiver, override_settings(WEBHOOKS_ALLOW_LOCAL=True):
        hooks.endpoint(acme, f"{receiver.local}/in")
        hooks.hand_on(acme)
        assert nursery.run("tests.ops.hooks:send_next", dies_at="delivery.after_post").died
        assert attempt() is None, "the turn is not over yet"
        for table in ("webhook_endpoint", "webhook_delivery"):
            clocks.age(books, table, by=deliveries.LEASE)
        assert attempt() is not None
    assert len(receiver.got) == 2
    assert receiver.got[0].headers["webhook-id"] == receiver.got[1].headers["webhook-id"]
    assert (only().state, only().attempts) == (State.SUCCEEDED, 2)


def test_an_answer_that_comes_after_the_turn_was_over_changes_nothing(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.endpoint(acme)
    hooks.hand_on(acme)

    def overtaken(_: Any) -> deliveries.Outcome:
        WebhookDelivery.objects.update(attempts=2)
        return deliveries.Outcome(200)

    monkeypatch.setattr(deliveries, "_attempt", overtaken)
    attempt()
    assert (only().state, only().attempts) == (State.PENDING, 2)


def test_a_ping_goes_to_its_endpoint_alone_whatever_that_wants(
    acme: Organization, net: Internet, receiver: Receiver
) -> None:
    made = hooks.endpoint(acme, kinds=["wallet.low"]).endpoint
    hooks.endpoint(acme)
    deliveries.ping(endpoint=made, by=world.BY)
    with pytest.raises(errors.Conflict, match="on its way"):
        deliveries.ping(endpoint=made, by=world.BY)
    assert outbox.hand_on() == 0
    assert deliveries.send_due(calm=True, senders=1) == "sent 1, failed 0, canceled 0"
    (request,) = receiver.got
    assert (request.told["type"], request.told["data"]) == ("ping", {"webhook_endpoint": str(made)})
    deliveries.ping(endpoint=made, by=world.BY)
    assert AuditEntry.objects.filter(verb="webhook_endpoint.tested").count() == 2


def test_a_message_is_sent_again_by_hand_under_its_id(acme: Organization, net: Internet, receiver: Receiver) -> None:
    hooks.endpoint(acme)
    (delivery,) = hooks.hand_on(acme)
    attempt()
    assert only().state == State.SUCCEEDED
    deliveries.redeliver(delivery=delivery, by=world.BY)
    assert (only().state, only().attempts) == (State.PENDING, 0)
    attempt()
    assert [each.headers["webhook-id"] for each in receiver.got] == [str(delivery.message)] * 2
    assert only().state == State.SUCCEEDED
    # While an attempt is going on there is nothing to begin again.
    WebhookDelivery.objects.update(
        state=State.PENDING, next_attempt_at=clock.now(), done_at=None, leased_until=clock.now() + timedelta(minutes=1)
    )
    deliveries.redeliver(delivery=delivery, by=world.BY)
    assert only().attempts == 1


def test_switching_an_endpoint_off_cancels_what_waits(acme: Organization, net: Internet, receiver: Receiver) -> None:
    made = hooks.endpoint(acme).endpoint
    (delivery,) = hooks.hand_on(acme)
    known: dict[str, Any] = {"organization_id": acme.pk, "endpoint_id": made.pk, "by": world.BY}
    endpoints.change(**known, enabled=False)
    assert hooks.hand_on(acme, key="2") == []
    assert deliveries.send_due(calm=True, senders=1) == "sent 0, failed 0, canceled 1"
    endpoints.change(**known, enabled=True)
    assert attempt() is None
    deliveries.redeliver(delivery=delivery, by=world.BY)
    assert attempt() is not None
    assert len(receiver.got) == 1


def test_deliveries_are_paged_by_id_within_their_endpoint(acme: Organization) -> None:
    made, other = hooks.endpoint(acme).endpoint, hooks.endpoint(acme).endpoint
    for number in range(5):
        hooks.hand_on(acme, key=str(number))
    newest = list(WebhookDelivery.objects.filter(endpoint=made).order_by("-id"))
    found, more = deliveries.page(endpoint=made, limit=2, after=None)
    assert (found, more) == (newest[:2], True)
    found, more = deliveries.page(endpoint=made, limit=3, after=str(newest[1]))
    assert (found, more) == (newest[2:], False)
    theirs = WebhookDelivery.objects.filter(endpoint=other)[0]
    for shown in (str(theirs), ids.show("wd", ids.new()), "x"):
        with pytest.raises(errors.InvalidCursor):
            deliveries.page(endpoint=made, limit=2, after=shown)
        with pytest.raises(errors.NotFound):
            deliveries.find(endpoint=made, shown=shown)
    assert deliveries.find(endpoint=other, shown=str(theirs)) == theirs


def test_what_is_long_over_is_forgotten_and_what_is_under_way_is_not(acme: Organization) -> None:
    hooks.endpoint(acme)
    hooks.hand_on(acme)
    WebhookDelivery.objects.update(state=State.SUCCEEDED, next_attempt_at=None, done_at=clock.now())
    hooks.hand_on(acme, key="2")
    later = clock.now() + timedelta(days=30, minutes=1)
    assert deliveries.trim() == 0
    assert deliveries.trim(at=later) == 1
    assert outbox.trim(at=later) == 1
    assert only().message.key == "2"


def test_a_turn_outlasts_any_attempt() -> None:
    assert deliveries.LEASE.seconds > egress.RESOLVE_SECONDS + egress.DEADLINE_SECONDS
    assert not connection.in_atomic_block
