"""Usage's tables: claims taken once, rows as they were told, pages by id."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.db.utils import IntegrityError

from core import clock, ids
from metering import usage
from metering.events import Event
from metering.models import RequestLog, UsageRecord
from metering.usage import Claim
from orgs.models import Organization
from tests.billing.world import charge, organization, rows, side_by_side, statuses
from tests.books import Books
from tests.metering.world import COST, attributed, event

WHEN = datetime(2026, 11, 21, 8, tzinfo=UTC)
USD = Decimal(COST)


def claim_of(name: str, *, of: int = 1, state: str = "recorded", story: bytes = b"s", cost: str = "1") -> Claim:
    return Claim(UUID(int=of), name, state, ids.new(), Decimal(cost), story, WHEN)


def take(*claims: Claim) -> dict[tuple[UUID, str], Claim]:
    """Take claims in a transaction of their own."""
    with transaction.atomic():
        return usage.claim(claims)


@pytest.mark.one_database
def test_free_ids_are_taken_and_nothing_is_told(books: Books) -> None:
    first = claim_of("a", story=bytes(range(32)), cost="0.000000000001")
    assert take(first, claim_of("b"), claim_of("a", of=2)) == {}
    with transaction.atomic():
        assert usage.standing([(first.organization_id, "a"), (UUID(int=9), "a")]) == {
            (first.organization_id, "a"): first
        }


@pytest.mark.one_database
def test_a_taken_id_tells_what_stands_and_the_others_are_taken(books: Books) -> None:
    first = claim_of("a", state="logged", cost="0")
    take(first)
    other = claim_of("b")
    found = take(claim_of("a", story=b"other", cost="5"), other, claim_of("c", of=2))
    assert found == {(first.organization_id, "a"): first}
    assert rows("SELECT count(*) FROM usage_claim") == [(3,)]
    assert take(other) == {(other.organization_id, "b"): other}


def take_new(*claims: Claim) -> dict[tuple[UUID, str], Claim]:
    """Take claims that should all be new in a transaction of their own."""
    with transaction.atomic():
        return usage.claim_new(claims)


@pytest.mark.one_database
def test_ids_that_are_all_new_are_taken_together(books: Books) -> None:
    first = claim_of("a", story=bytes(range(32)), cost="0.000000000001")
    assert take_new(first, claim_of("b"), claim_of("a", of=2)) == {}
    with transaction.atomic():
        assert usage.standing([(first.organization_id, "a")]) == {(first.organization_id, "a"): first}
    assert rows("SELECT count(*) FROM usage_claim") == [(3,)]


@pytest.mark.one_database
def test_one_that_is_taken_keeps_all_of_them_from_being_taken_together(books: Books) -> None:
    take_new(claim_of("a"))
    with pytest.raises(usage.Taken):
        take_new(claim_of("b"), claim_of("a"), claim_of("c", of=2))
    assert rows("SELECT event_id FROM usage_claim") == [("a",)]


def test_nothing_is_claimed_for_an_empty_batch(books: Books) -> None:
    assert take() == {}
    assert take_new() == {}


def test_claiming_needs_a_transaction(books: Books) -> None:
    with pytest.raises(AssertionError):
        usage.claim([claim_of("a")])
    with pytest.raises(AssertionError):
        usage.claim_new([claim_of("a")])


@pytest.mark.parametrize("taking", [take, take_new])
def test_a_claim_that_cannot_be_is_not_taken_for_a_repeat(books: Books, taking: Callable[[Claim], object]) -> None:
    with pytest.raises(IntegrityError, match="usage_claim_cost_in_range"):
        taking(claim_of("a", cost="-1"))
    assert rows("SELECT count(*) FROM usage_claim") == [(0,)]


def test_claims_of_a_transaction_that_fails_are_free_again(books: Books) -> None:
    with transaction.atomic():
        assert usage.claim([claim_of("a")]) == {}
        transaction.set_rollback(True)
    assert take(claim_of("a")) == {}


def test_a_rivals_open_claim_is_waited_for(books: Books) -> None:
    claims = [claim_of("a", story=bytes([n])) for n in range(6)]
    told = side_by_side(books, *(partial(take, one) for one in claims))
    (standing,) = {one for part in told for one in part.values()}
    assert sorted(len(part) for part in told) == [0, 1, 1, 1, 1, 1]
    assert standing in claims


def test_the_database_says_when_a_transaction_began(books: Books) -> None:
    with transaction.atomic():
        first = usage.started_at()
        rows("SELECT pg_sleep(0.01)")
        assert usage.started_at() == first
    assert first.tzinfo is not None
    assert abs(first - clock.now()) < timedelta(minutes=1)


def test_records_carry_the_databases_clock_and_rise_within_their_batch(books: Books) -> None:
    acme = organization("acme")
    told = charge(acme, *(event() for _ in range(20)))
    record_ids = [verdict.record_id for verdict in told]
    assert record_ids == sorted(record_ids, key=str)
    for record_id, recorded_at in rows("SELECT id, recorded_at FROM usage_record"):
        assert ids.instant(record_id) == recorded_at.replace(microsecond=recorded_at.microsecond // 1000 * 1000)


EVERY_FIELD: dict[str, Any] = {
    "event_id": "e-1", "model": "deepseek-chat", "occurred_at": WHEN, "end_user": "u", "source": "product_call",
    "routed_model": "r", "provider": "p", "channel": "c", "attempts": 3, "endpoint": "/v1", "stream": True,
    "status": 201, "finish_reason": "stop", "outcome": "client_aborted", "ttft_ms": 17, "latency_ms": 18,
    "request_id": "q", "provider_cost_usd": Decimal("0.25"), "metadata": {"a": "b"}, "input_tokens": 1000,
    "output_tokens": 101, "cached_input_tokens": 102, "reasoning_tokens": 103, "cache_write_tokens": 104,
    "cache_write_1h_tokens": 105, "image_input_tokens": 106, "audio_input_tokens": 107, "cached_image_tokens": 108,
    "cached_audio_tokens": 109, "image_output_tokens": 110, "audio_output_tokens": 111, "units": {"web_search": 2},
    "service_tier": "flex", "batch": True,
}  # fmt: skip


def test_every_field_of_a_record_stands_in_its_own_column(books: Books) -> None:
    acme = organization("acme")
    key, member, project, reporter, price, rule, hold, transfer = (ids.new() for _ in range(8))
    made = Event(**EVERY_FIELD)
    (item,) = attributed(acme, made)
    item = item._replace(
        payer_id=UUID(int=7), api_key_id=key, member_id=member, project_id=project, authorization_id=hold
    )
    line = usage.Line(item, ids.new(), "recorded", "m", 362_000_000, USD, price, rule, None)
    (idle,) = attributed(acme, event(event_id="e-2"))
    free = usage.Line(idle, ids.new(), "recorded", "m", 0, Decimal(0), price, None, None)
    at = clock.now()
    with transaction.atomic():
        usage.write([usage.Charge(UUID(int=7), transfer, [line, free])], at=at, reported_by=reporter)
    record = UsageRecord.objects.get(event_id="e-1")
    for name, value in EVERY_FIELD.items():
        assert getattr(record, name) == ("m" if name == "model" else value), name
    told = (record.organization_id, record.id, record.recorded_at, record.reported_by, record.usage_source)
    assert told == (acme.pk, line.record_id, at, reporter, "provider")
    assert (record.api_key_id, record.member_id, record.project_id) == (key, member, project)
    assert (record.payer_id, record.transfer_id, record.authorization_id) == (UUID(int=7), transfer, hold)
    assert (record.cost_usd, record.price_id, record.rule_id, record.corrects_id) == (USD, price, rule, None)
    other = UsageRecord.objects.get(event_id="e-2")
    assert (other.id, other.cost_usd, other.transfer_id, other.rule_id) == (free.record_id, 0, None, None)
    assert (other.api_key_id, other.member_id, other.metadata, other.units) == (None, None, None, None)


def test_every_field_of_a_failure_stands_in_its_own_column(books: Books) -> None:
    acme = organization("acme")
    key, member, project, reporter = (ids.new() for _ in range(4))
    (item,) = attributed(acme, Event(**EVERY_FIELD))
    item = item._replace(api_key_id=key, member_id=member, project_id=project)
    line = usage.Line(item, ids.new(), "logged", "m", 0, Decimal(0), None, None, None)
    at = clock.now()
    with transaction.atomic():
        usage.write_failures([line], at=at, reported_by=reporter)
    row = RequestLog.objects.get()
    columns = {field.attname for field in RequestLog._meta.concrete_fields}
    for name in columns & EVERY_FIELD.keys():
        assert getattr(row, name) == ("m" if name == "model" else EVERY_FIELD[name]), name
    assert (row.organization_id, row.id, row.recorded_at, row.reported_by) == (acme.pk, line.record_id, at, reporter)
    assert (row.api_key_id, row.member_id, row.project_id) == (key, member, project)


def test_lines_of_one_payer_with_different_keys_keep_their_own(books: Books) -> None:
    acme = organization("acme")
    keys = [ids.new(), ids.new(), None, ids.new()]
    items = attributed(acme, *(event(event_id=f"e{place}") for place in range(4)))
    lines = [
        usage.Line(item._replace(api_key_id=key), ids.new(), "recorded", "m", 0, Decimal(0), ids.new(), None, None)
        for item, key in zip(items, keys, strict=True)
    ]
    with transaction.atomic():
        usage.write([usage.Charge(acme.pk, None, lines)], at=clock.now(), reported_by=None)
    assert rows("SELECT event_id, api_key_id FROM usage_record ORDER BY event_id") == [
        (f"e{place}", key) for place, key in enumerate(keys)
    ]
    assert rows("SELECT price_id FROM usage_record ORDER BY event_id") == [(line.price_id,) for line in lines]


def test_a_failure_keeps_who_and_how_and_its_counts(books: Books) -> None:
    acme = organization("acme")
    charge(acme, event(status=429, end_user="u", latency_ms=5, provider_cost_usd=Decimal("0.5"), metadata={"a": "b"}))
    found = rows(
        "SELECT status, end_user, latency_ms, provider_cost_usd, input_tokens, metadata->>'a' FROM request_log"
    )
    assert found == [(429, "u", 5, Decimal("0.5"), 1000, "b")]


@pytest.mark.parametrize(
    "change",
    [
        {"cost_usd": -1},
        {"cost_usd": 0},
        {"transfer_id": None},
        {"cost_usd": 100_000_000_000},
        {"output_tokens": -1},
        {"event_id": None},
        {"payer_id": None},
        {"price_id": None},
    ],
    ids=str,
)
def test_a_record_that_cannot_be_is_refused(books: Books, change: dict[str, Any]) -> None:
    charge(organization("acme"), event())
    record = UsageRecord.objects.get()
    record.id = ids.new()
    for name, value in change.items():
        setattr(record, name, value)
    with pytest.raises(IntegrityError):
        record.save(force_insert=True)
    assert UsageRecord.objects.count() == 1


# Reads


@pytest.fixture
def acme(books: Books) -> Organization:
    """An organization with seven records, in batches of their own."""
    acme = organization("acme")
    for n in range(7):
        charge(acme, event(event_id=f"e{n}", output_tokens=n))
    charge(organization("umbrella"), event())
    return acme


def test_a_member_sees_only_their_own_records(acme: Organization) -> None:
    member = ids.new()
    (item,) = attributed(acme, event(event_id="mine"))
    from billing import charges

    assert statuses(charges.record([item._replace(member_id=member)], reported_by=None)) == ["created"]
    assert [record.event_id for record in usage.for_caller(acme.pk, member_id=member)] == ["mine"]
    assert usage.for_caller(acme.pk, member_id=None).count() == 8
    assert usage.for_caller(acme.pk, member_id=ids.new()).count() == 0


def test_a_record_is_found_by_its_id_within_a_scope(acme: Organization) -> None:
    scope = usage.for_caller(acme.pk, member_id=None)
    record = scope.order_by("id")[0]
    shown = ids.show("usage", record.id)
    assert usage.find(scope, shown) == record
    assert usage.find(UsageRecord.objects.exclude(organization=acme), shown) is None
    assert usage.find(scope, "usage_nonsense") is None


def test_times_of_records_are_half_open(acme: Organization) -> None:
    scope = usage.for_caller(acme.pk, member_id=None)
    turn = scope.order_by("id")[3].recorded_at
    later, earlier = usage.created_from(scope, turn), usage.created_before(scope, turn)
    assert {record.event_id for record in later} == {"e3", "e4", "e5", "e6"}
    assert {record.event_id for record in earlier} == {"e0", "e1", "e2"}


def test_what_a_key_spent_is_summed_since_each_instant(acme: Organization) -> None:
    from billing import charges

    key = ids.new()
    made = []
    for n in range(3):
        (item,) = attributed(acme, event(event_id=f"k{n}"))
        charges.record([item._replace(api_key_id=key)], reported_by=None)
        made.append(UsageRecord.objects.get(event_id=f"k{n}").recorded_at)
    past, turn, future = made[0] - timedelta(days=1), made[1], clock.now() + timedelta(days=1)
    found = usage.spent_by_key(acme.pk, key, since=[past, turn, future])
    assert found == {past: 3 * USD, turn: 2 * USD, future: Decimal(0)}
    assert usage.spent_by_key(acme.pk, ids.new(), since=[past]) == {past: Decimal(0)}


def test_what_is_final_lies_behind_every_transaction_that_may_still_commit(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the clock that ids carry: one of ours that is ahead would call final what is still being written.
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + timedelta(hours=1))
    assert usage.final_until() == usage.started_at() - timedelta(seconds=60)
    assert timedelta(seconds=30) < usage.FINAL_AFTER
