"""The outbox: told once, by the transaction that made it true."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from core import clock, ids
from ops import deliveries, outbox
from ops.models import OutboxMessage
from ops.outbox import Message
from orgs.models import Organization
from tests import desk
from tests.billing import world as billing
from tests.books import JOIN_SECONDS, Books
from tests.clocks import Clock
from tests.nursery import Nursery
from tests.ops import hooks
from tests.orgs import world
from tests.proofs import proves

WAITING_FOR_LOCKS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def post(key: str = "1", *, to: UUID | None = None, kind: str = "wallet.low", **data: Any) -> bool:
    with transaction.atomic():
        return outbox.post(kind=kind, organization_id=to, key=key, data=data)


def post_many(messages: Sequence[Message]) -> list[bool]:
    with transaction.atomic():
        return outbox.post_many(messages)


def test_a_message_is_posted_in_the_transaction_of_what_it_tells_only(books: Books) -> None:
    with pytest.raises(AssertionError, match="needs the transaction"):
        outbox.post(kind="wallet.low", organization_id=None, key="1", data={})
    with transaction.atomic():
        assert outbox.post(kind="wallet.low", organization_id=None, key="1", data={})
        transaction.set_rollback(True)
    assert not OutboxMessage.objects.exists()
    assert post()


def test_the_same_happening_is_told_once_and_as_it_was_told_first(db: None) -> None:
    acme = world.organization().pk
    assert post("seq 7", to=acme, available_usd="4.5")
    assert not post("seq 7", to=acme, available_usd="3")
    message = OutboxMessage.objects.get()
    assert (message.kind, message.organization_id, message.key) == ("wallet.low", acme, "seq 7")
    assert message.data == {"available_usd": "4.5"}
    assert (message.delivered_at, message.attempts, message.next_attempt_at) == (None, 0, None)
    assert str(message).startswith("evt_")


def test_a_key_means_something_within_its_organization_and_kind_only(db: None) -> None:
    acme, umbrella = world.organization("acme").pk, world.organization("umbrella").pk
    assert [post(to=acme), post(to=umbrella), post(to=acme, kind="wallet.empty"), post(to=None)] == [True] * 4
    assert [post(to=acme), post(to=umbrella), post(to=acme, kind="wallet.empty")] == [False] * 3


def test_what_concerns_nobody_is_told_once_too(db: None) -> None:
    assert [post(to=None), post(to=None)] == [True, False]
    with pytest.raises(IntegrityError, match="outbox_once"), transaction.atomic():
        OutboxMessage.objects.create(organization=None, kind="wallet.low", key="1")


def test_many_messages_are_one_statement_and_each_says_whether_it_is_new(db: None) -> None:
    acme = world.organization().pk
    post("3", to=acme)
    batch = [Message("wallet.low", acme, str(number % 700), {"place": number}) for number in range(999, -1, -1)]
    with CaptureQueriesContext(connection) as seen, transaction.atomic():
        told = outbox.post_many(batch)
    assert len([query for query in seen if "outbox" in query["sql"]]) == 1
    # 999 to 700 are 299 to 0, all but 3 for the first time; 699 to 300 are new; 299 to 0 were told above.
    assert told == [number != 703 for number in range(999, 699, -1)] + [True] * 400 + [False] * 300
    assert OutboxMessage.objects.get(key="299").data == {"place": 999}
    assert OutboxMessage.objects.count() == 700
    assert post_many([]) == []


def test_eight_at_once_tell_it_once(books: Books) -> None:
    acme = world.organization().pk
    assert sorted(books.together([lambda: post(to=acme)] * 8)) == [False] * 7 + [True]
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize("differing", ["organization_id", "kind", "key"])
def test_batches_that_share_messages_in_another_order_do_not_deadlock(books: Books, differing: str) -> None:
    owners = [world.organization(slug).pk for slug in ("acme", "umbrella", "initech")]
    base = Message("wallet.low", owners[0], "1", {})
    values: Sequence[Any] = owners if differing == "organization_id" else "abc"
    one, middle, other = (base._replace(**{differing: value}) for value in values)
    held = threading.Event()

    def hold() -> list[bool]:
        """Keep both batches waiting, each with what it has by then, and let them go at once."""
        with transaction.atomic(), books.connect() as watching:
            outbox.post_many([middle])
            held.set()
            while watching.execute(WAITING_FOR_LOCKS).fetchone() != (2,):
                pass
            transaction.set_rollback(True)
        return []

    def tell(*messages: Message) -> list[bool]:
        assert held.wait(JOIN_SECONDS)
        return post_many(messages)

    _, *told = books.together([hold, lambda: tell(one, middle, other), lambda: tell(other, middle, one)])
    assert sorted(told) == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("data", [{"usd": Decimal("0.1")}, {"at": datetime.now(UTC)}, {"id": ids.new()}])
def test_what_is_no_plain_json_is_a_bug(db: None, data: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        post(**data)


def test_a_number_that_json_lacks_is_a_bug(db: None) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        post(usd=float("nan"))


def test_what_waits_is_what_is_not_delivered_and_due_oldest_first(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: now)
    for key in ("a", "b", "c", "d", "e"):
        post(key)
    delivered, due, later = (OutboxMessage.objects.filter(key=key) for key in ("b", "c", "d"))
    delivered.update(delivered_at=now)
    due.update(attempts=1, next_attempt_at=now)
    later.update(attempts=1, next_attempt_at=now + timedelta(seconds=1))
    assert [message.key for message in outbox.waiting(10)] == ["a", "c", "e"]
    assert [message.key for message in outbox.waiting(2)] == ["a", "c"]
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(seconds=1))
    assert [message.key for message in outbox.waiting(10)] == ["a", "c", "d", "e"]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One reader and no other; the keys of what it was handed."""
    seen: list[str] = []
    monkeypatch.setattr(outbox, "READERS", {"test": lambda message: seen.append(message.key)})
    return seen


def test_what_waits_is_handed_on_once_oldest_first(books: Books, reader: list[str]) -> None:
    for key in "abc":
        post(key)
    assert outbox.hand_on(2) == 2
    assert outbox.hand_on() == 1
    assert outbox.hand_on() == 0
    assert reader == ["a", "b", "c"]
    assert not OutboxMessage.objects.filter(delivered_at=None).exists()


def test_a_message_that_a_reader_fails_at_waits_and_holds_up_no_other(
    books: Books,
    fake_clock: Clock,
    reader: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    acme = world.organization()

    def fail(message: OutboxMessage) -> None:
        Organization.objects.filter(pk=acme.pk).update(name=f"by {message.key}")
        if message.key == "bad":
            raise RuntimeError("no template")

    monkeypatch.setitem(outbox.READERS, "bad", fail)
    for key in ("bad", "good"):
        post(key)
    assert outbox.hand_on() == 1
    assert Organization.objects.get(pk=acme.pk).name == "by good"
    waits = OutboxMessage.objects.get(key="bad")
    assert (waits.delivered_at, waits.attempts) == (None, 1)
    assert waits.next_attempt_at == fake_clock.at + timedelta(seconds=10)
    assert "RuntimeError: no template" in caplog.text
    fake_clock.move(timedelta(seconds=9))
    assert outbox.hand_on() == 0
    assert OutboxMessage.objects.get(key="bad").attempts == 1
    fake_clock.move(timedelta(seconds=1))
    assert outbox.hand_on() == 0
    assert OutboxMessage.objects.get(key="bad").next_attempt_at == fake_clock.at + timedelta(seconds=20)
    fake_clock.move(timedelta(seconds=20))
    outbox.READERS.pop("bad")
    assert outbox.hand_on() == 1


def test_eight_at_once_hand_each_message_on_once(books: Books, reader: list[str]) -> None:
    for number in range(24):
        post(str(number))
    assert sum(books.together([outbox.hand_on] * 8)) == 24
    assert sorted(reader) == sorted(map(str, range(24)))


@proves("J04", guard="messages_commit_with_their_cause")
def test_a_process_that_dies_right_after_its_commit_has_left_what_is_to_be_told(
    books: Books, nursery: Nursery, reader: list[str], disabled_guard: str | None
) -> None:
    billing.organization("acme-labs")
    ended = nursery.run(
        "tests.ops.hooks:charge", dies_at="charge.after_commit", without=disabled_guard, slug="acme-labs"
    )
    assert ended.died, ended
    assert outbox.hand_on() == 1
    assert [message.kind for message in OutboxMessage.objects.all()] == ["wallet.empty"]
    assert len(reader) == 1


def test_what_is_long_done_is_forgotten_and_what_is_under_way_is_not(books: Books, reader: list[str]) -> None:
    acme = world.organization()
    kept = hooks.endpoint(acme)
    for key in ("done", "waits", "sent"):
        post(key, to=acme.pk)
    outbox.hand_on(2)
    sent = OutboxMessage.objects.get(key="waits")
    deliveries._add(sent.pk, acme.pk, [kept.endpoint.pk])
    later = clock.now() + timedelta(days=30)
    assert outbox.trim(at=later - timedelta(minutes=1)) == 0
    assert outbox.trim(at=later + timedelta(minutes=1)) == 1
    assert sorted(OutboxMessage.objects.values_list("key", flat=True)) == ["sent", "waits"]


def test_forgetting_looks_each_message_up_instead_of_comparing_it_with_every_delivery(db: None) -> None:
    with CaptureQueriesContext(connection) as seen:
        outbox.trim()
    plan = billing.rows(f"EXPLAIN {seen[0]['sql']}")
    # A subplan that is too large to be hashed is read anew for each message.
    assert not any("SubPlan" in line for (line,) in plan)


def test_the_desk_reads_what_is_told_by_id_and_organization_and_changes_nothing(db: None) -> None:
    root = desk.superuser()
    acme, umbrella = (Organization.objects.create(slug=slug, name=slug) for slug in ("acme", "umbrella"))
    post("<b>1</b>", to=acme.pk, why="<i>low</i>")
    post("2", to=umbrella.pk)
    (first,) = OutboxMessage.objects.filter(organization=acme)
    few = desk.read(root, desk.listing(OutboxMessage))
    assert [row.key for row in few.rows] == ["2", "<b>1</b>"]
    assert "<b>1</b>" not in few.text
    assert [row.pk for row in desk.read(root, desk.listing(OutboxMessage), q=str(first)).rows] == [first.pk]
    assert [row.pk for row in desk.read(root, desk.listing(OutboxMessage), q="acme").rows] == [first.pk]
    assert desk.read(root, desk.listing(OutboxMessage), q="no such").rows == []
    shown = desk.read(root, desk.page(first))
    assert "&lt;i&gt;low&lt;/i&gt;" in shown.text
    for number in range(58):
        post(f"more {number}", to=acme.pk)
    many = desk.read(root, desk.listing(OutboxMessage))
    assert (len(few.rows), len(many.rows)) == (2, 50)
    assert len(few.queries) == len(many.queries)
    assert desk.counting([few, many, shown]) == []
    OutboxMessage.objects.exclude(pk=first.pk).update(delivered_at=clock.now())
    waiting = desk.read(root, desk.listing(OutboxMessage), delivered_at__isempty="1")
    assert [row.pk for row in waiting.rows] == [first.pk]
    assert root.post(desk.page(first), {"key": "x"}).status_code == 403
    assert root.post(desk.page(first, "delete"), {"post": "yes"}).status_code == 403
    assert root.post(desk.listing(OutboxMessage) + "add/", {"kind": "x"}).status_code == 403
    assert OutboxMessage.objects.get(pk=first.pk).key == "<b>1</b>"
