"""Charging: one transaction for a batch, one verdict for an event, and no event twice."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import charges, ledger
from billing.models import Account, TransferKind
from core import clock, ids
from metering import catalog, partitions, usage
from metering.attribution import Attributed
from metering.events import Event
from metering.verdicts import Status, Verdict
from orgs.models import Organization
from tests.billing.world import (
    Standing,
    assert_all,
    assert_sound,
    charge,
    conflicts,
    counts,
    organization,
    organizations,
    record,
    rows,
    side_by_side,
    standing,
    statuses,
)
from tests.billing.world import (
    ledger as transfers_of,
)
from tests.books import Books
from tests.metering.test_events import BILLING
from tests.metering.world import COST, attributed, batch, event, told
from tests.proofs import proves

USD, ZERO = Decimal(COST), Decimal(0)


# Verdicts


def test_an_event_is_priced_recorded_and_debited_at_once(books: Books) -> None:
    acme = organization("acme", usd="1")
    (verdict,) = charge(acme, event(event_id="a"))
    assert (verdict.status, verdict.cost_usd, verdict.error) == (Status.CREATED, USD, None)
    found = rows("SELECT id, organization_id, payer_id, cost_usd, input_tokens, transfer_id FROM usage_record")
    (record_id, owner, payer, cost, tokens, transfer_id) = found[0]
    assert (record_id, owner, payer, cost, tokens) == (verdict.record_id, acme.pk, acme.pk, USD, 1000)
    assert rows("SELECT id, amount_usd, debit, credit FROM transfer WHERE kind = 'charge'") == [
        (transfer_id, USD, "wallet", "revenue")
    ]
    assert standing(acme)[:3] == (1 - USD, ZERO, USD)
    assert_sound()


def test_a_batch_is_one_charge_and_each_of_its_records_names_it(books: Books) -> None:
    acme = organization("acme", usd="1")
    assert_all(charge(acme, *(event() for _ in range(5))), Status.CREATED)
    assert transfers_of(acme) == [("grant", Decimal(1)), ("charge", 5 * USD)]
    assert rows("SELECT count(*), count(DISTINCT transfer_id) FROM usage_record") == [(5, 1)]


def test_an_event_sent_again_gets_its_first_answer_and_costs_nothing(books: Books) -> None:
    acme = organization("acme", usd="1")
    first = event(event_id="a")
    (created,) = charge(acme, first)
    before = counts()
    (again,) = charge(acme, first)
    assert again == created._replace(status=Status.DUPLICATE)
    assert counts() == before
    assert standing(acme).spent == USD


def test_the_same_id_of_another_organization_is_another_event(books: Books) -> None:
    acme, umbrella = organization("acme"), organization("umbrella")
    same = event(event_id="a")
    assert statuses(record(batch((acme, same), (umbrella, same)))) == ["created", "created"]
    assert standing(acme).spent == standing(umbrella).spent == USD


def test_verdicts_stand_in_the_order_of_the_events(books: Books) -> None:
    acme, umbrella = organization("acme"), organization("umbrella")
    known, other, new = event(event_id="known"), event(event_id="other"), event(event_id="new")
    record(batch((acme, known), (umbrella, other)))
    verdicts = record(
        batch(
            (umbrella, new),
            (acme, known),
            (umbrella, event(event_id="other", output_tokens=1)),
            (acme, event(event_id="unpriced", model="nobody-priced-this")),
            (acme, event(event_id="failure", status=429)),
            (umbrella, new),
            (umbrella, event(event_id="new", output_tokens=1)),
        )
    )
    assert [verdict.event_id for verdict in verdicts] == [
        "new", "known", "other", "unpriced", "failure", "new", "new",
    ]  # fmt: skip
    assert statuses(verdicts) == [
        "created", "duplicate", "conflict", "quarantined", "created", "duplicate", "conflict",
    ]  # fmt: skip
    assert verdicts[5].record_id == verdicts[0].record_id
    assert_sound()


def test_a_conflict_keeps_what_stands_and_says_which_field_is_to_blame(books: Books) -> None:
    acme = organization("acme")
    charge(acme, event(event_id="a"))
    before = counts()
    (verdict,) = charge(acme, event(event_id="a", output_tokens=1))
    assert (verdict.status, verdict.record_id, verdict.cost_usd) == (Status.CONFLICT, None, None)
    assert verdict.error is not None
    assert verdict.error.param == "event_id"
    assert counts() == before


def test_a_true_copy_behind_a_conflicting_one_is_still_a_duplicate(books: Books) -> None:
    acme = organization("acme")
    true, false = event(event_id="a"), event(event_id="a", output_tokens=1)
    (created,) = charge(acme, true)
    verdicts = charge(acme, false, true, false, true)
    assert statuses(verdicts) == ["conflict", "duplicate", "conflict", "duplicate"]
    assert verdicts[1].record_id == verdicts[3].record_id == created.record_id
    # Each conflict has an error of its own: a door may name the place in it.
    assert verdicts[0].error is not verdicts[2].error


def test_a_failure_goes_to_the_request_log_at_no_cost(books: Books) -> None:
    acme = organization("acme")
    failures = [event(status=429), event(status=502, output_tokens=0), event(outcome="upstream_error", output_tokens=0)]
    verdicts = charge(acme, *failures)
    assert_all(verdicts, Status.CREATED)
    assert [(verdict.record_id, verdict.cost_usd) for verdict in verdicts] == [(None, ZERO)] * 3
    assert counts() == {
        "usage_claim": 3, "usage_record": 0, "request_log": 3, "quarantine": 0, "transfer": 0, "wallet": 0,
    }  # fmt: skip
    assert statuses(charge(acme, *failures)) == ["duplicate"] * 3
    assert_sound()


def test_a_free_model_is_recorded_and_moves_no_money(books: Books) -> None:
    acme = organization("acme")
    (verdict,) = charge(acme, event(model="gemma-4-31b-it", cached_input_tokens=0))
    assert (verdict.status, verdict.cost_usd) == (Status.CREATED, ZERO)
    assert verdict.record_id is not None
    assert rows("SELECT cost_usd, transfer_id FROM usage_record") == [(0, None)]
    assert counts()["transfer"] == 0
    assert standing(acme) == Standing(ZERO, ZERO, ZERO, 0)
    assert_sound()


def test_free_and_priced_events_of_a_batch_are_kept_apart(books: Books) -> None:
    acme = organization("acme")
    assert_all(charge(acme, event(), event(model="gemma-4-31b-it", cached_input_tokens=0)), Status.CREATED)
    assert sorted(rows("SELECT cost_usd, transfer_id IS NULL FROM usage_record")) == [(0, True), (USD, False)]
    assert_sound()


@pytest.mark.parametrize(
    "fields",
    [{"model": "nobody-priced-this"}, {"units": {"moon_shots": 1}}, {"service_tier": "platinum"}, {"batch": True}],
    ids=str,
)
def test_what_has_no_price_is_kept_for_finance_and_not_charged(books: Books, fields: dict[str, Any]) -> None:
    acme = organization("acme")
    taken = event(event_id="a", **fields)
    (verdict,) = charge(acme, taken)
    assert (verdict.status, verdict.record_id, verdict.cost_usd) == (Status.QUARANTINED, None, None)
    assert rows("SELECT reason, event_id, organization_id FROM quarantine") == [("unpriced", "a", acme.pk)]
    assert statuses(charge(acme, taken)) == ["quarantined"]
    assert statuses(charge(acme, event(event_id="a"))) == ["conflict"]
    assert counts()["usage_record"] == counts()["transfer"] == 0
    assert_sound()


def test_usage_is_never_refused_for_lack_of_funds(books: Books) -> None:
    acme = organization("acme", usd="0.0005")
    assert_all(charge(acme, event()), Status.CREATED)
    assert_all(charge(acme, event()), Status.CREATED)
    assert standing(acme)[:3] == (ZERO, 2 * USD - Decimal("0.0005"), 2 * USD)
    assert [kind for kind, _ in transfers_of(acme)] == ["grant", "charge", "draw", "charge"]
    assert_sound()


def test_an_empty_batch_is_nothing(books: Books) -> None:
    assert record([]) == []


def test_the_price_is_the_one_in_force_when_the_event_happened(books: Books) -> None:
    acme = organization("acme")
    turn = clock.now() - timedelta(days=1)
    publish("dated", ("2020-01-01T00:00:00+00:00", turn.isoformat(), "1"), (turn.isoformat(), None, "2"))
    before, after = turn - timedelta(microseconds=1), turn
    counted = {"model": "dated", "input_tokens": 1_000_000, "cached_input_tokens": 0, "output_tokens": 0}
    verdicts = charge(acme, event(occurred_at=before, **counted), event(occurred_at=after, **counted))
    assert [verdict.cost_usd for verdict in verdicts] == [1, 2]
    assert rows("SELECT count(DISTINCT price_id) FROM usage_record") == [(2,)]


def publish(slug: str, *prices: tuple[str, str | None, str]) -> None:
    """A model whose input costs so much a million tokens from one instant to another."""
    catalog.load(
        {
            "format": catalog.FORMAT,
            "models": [
                {
                    "id": slug, "name": slug, "vendor": "v", "brand": "b", "provider": "p", "owned_by": "v",
                    "released_at": 0,
                    "prices": [
                        {
                            "effective_from": start, "effective_to": end, "source": "tests",
                            "rates": {"terms": [{"when": {}, "rates": {"input": rate, "output": "0"}}]},
                        }
                        for start, end, rate in prices
                    ],
                }
            ],
        }
    )  # fmt: skip


# Repeats


class Model:
    """What the books should hold, kept by the simplest means."""

    def __init__(self) -> None:
        self.stories: dict[tuple[UUID, str], int] = {}

    def expect(self, organization_id: UUID, event_id: str, story: int) -> str:
        """The verdict of one more copy."""
        key = (organization_id, event_id)
        if key not in self.stories:
            self.stories[key] = story
            return "created"
        return "duplicate" if self.stories[key] == story else "conflict"


COSTS = {story: USD + Decimal("0.0000011") * story for story in range(3)}
copies = st.tuples(st.integers(0, 1), st.sampled_from("abcd"), st.sampled_from([0, 0, 0, 1, 2]))


@proves("I01", guard="copies_stand_for_one_event")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(copies, min_size=1, max_size=12), min_size=1, max_size=3))
def test_batches_with_repeats_give_one_record_and_one_debit_an_id(
    books: Books, batches: list[list[tuple[int, str, int]]]
) -> None:
    model, when = Model(), clock.now()
    owners = [organization(f"repeats-{ids.new()}") for _ in range(2)]
    for chosen in batches:
        items = batch(
            *(
                (owners[of], event(event_id=name, output_tokens=200 + story, occurred_at=when))
                for of, name, story in chosen
            )
        )
        verdicts = record(items)
        assert statuses(verdicts) == [model.expect(owners[of].pk, name, story) for of, name, story in chosen]
        for item, verdict in zip(items, verdicts, strict=True):
            if verdict.status is not Status.CONFLICT:
                assert verdict.cost_usd == COSTS[model.stories[item.organization_id, item.event.event_id]]
    for owner in owners:
        stories = {name: story for (of, name), story in model.stories.items() if of == owner.pk}
        kept = rows("SELECT event_id, cost_usd FROM usage_record WHERE organization_id = %s", owner.pk)
        assert sorted(kept) == sorted((name, COSTS[story]) for name, story in stories.items())
        assert standing(owner).spent == sum(COSTS[story] for story in stories.values())
    assert_sound()


@proves("I02", guard="claims_are_unique")
def test_overlapping_batches_side_by_side_debit_each_event_once(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    owners = organizations(3)
    pool = [(owner, event(event_id=f"e{n}")) for owner in owners for n in range(40)]

    def post(seed: int) -> list[tuple[Attributed, Verdict]]:
        chance, found = random.Random(seed), []
        for _ in range(4):
            items = batch(*chance.sample(pool, 60))
            found += list(zip(items, record(items), strict=True))
        return found

    with conflicts(caplog) as met:
        told = [pair for part in side_by_side(books, *(partial(post, seed) for seed in range(6))) for pair in part]
    assert {verdict.status for _, verdict in told} <= {Status.CREATED, Status.DUPLICATE}
    created = Counter(item.key for item, verdict in told if verdict.status is Status.CREATED)
    assert set(created.values()) == {1}
    assert created.keys() == {item.key for item, _ in told}
    assert len({(item.key, verdict.record_id) for item, verdict in told}) == len(created)
    assert rows("SELECT count(*), count(DISTINCT (organization_id, event_id)) FROM usage_record") == [
        (len(created), len(created))
    ]
    assert sum(standing(owner).spent for owner in owners) == len(created) * USD
    assert met == [], "nobody waited in a circle"
    assert_sound()


def slow_claims(books: Books) -> None:
    """Make every claim take its time between its key and the next one's, and deadlocks show soon."""
    with books.connect() as raw:
        raw.execute(
            "CREATE FUNCTION slowly(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS"
            " $$BEGIN PERFORM pg_sleep(0.03); RETURN $1; END$$"
        )
        raw.execute("CREATE INDEX ON usage_claim (slowly(event_id))")
    see_deadlocks_soon(books)


def see_deadlocks_soon(books: Books) -> None:
    """Look for circles after 50 ms, not a second, where we may say so."""
    with books.connect() as raw, suppress(psycopg.errors.InsufficientPrivilege):
        raw.execute(f"ALTER DATABASE {books.name} SET deadlock_timeout = '50ms'")
    connection.close()


@proves("I02", guard="claims_are_sorted")
def test_two_batches_in_opposite_orders_do_not_wait_for_each_other_in_a_circle(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    slow_claims(books)
    acme = organization("acme")
    shared = [event(event_id=name) for name in "abcdef"]
    with conflicts(caplog) as met:
        told = side_by_side(books, lambda: charge(acme, *shared), lambda: charge(acme, *shared[::-1]))
    assert met == []
    assert Counter(statuses(told[0] + told[1])) == {"created": 6, "duplicate": 6}


@pytest.mark.one_database
@proves("I02", guard="claims_are_taken_one_by_one")
def test_partitions_do_not_change_the_order_in_which_claims_are_taken(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    slow_claims(books)
    first, second, third = split_by_partition()
    shared = [(owner, event(event_id=f"{n}")) for owner in (second, third) for n in range(3)]
    # With ``first`` in front, COPY by itself would take ``third`` before ``second``.
    wider = [(first, event()), *shared]
    with conflicts(caplog) as met:
        told = side_by_side(books, lambda: record(batch(*wider)), lambda: record(batch(*shared)))
    assert met == []
    assert Counter(statuses(told[0] + told[1])) == {"created": 7, "duplicate": 6}


def split_by_partition() -> tuple[Organization, Organization, Organization]:
    """Three organizations in the order of their ids: the first and the last share a partition, the middle does not."""
    owners = organizations(24)
    of = {
        owner.pk: rows("SELECT %s::uuid, p.part FROM generate_series(0, 15) p (part)"
            " WHERE satisfies_hash_partition('usage_claim'::regclass, 16, p.part, %s::uuid)", owner.pk, owner.pk)[0][1]
        for owner in owners
    }  # fmt: skip
    return next(
        (a, b, c)
        for place, a in enumerate(owners)
        for offset, b in enumerate(owners[place + 1 :], place + 1)
        for c in owners[offset + 1 :]
        if of[a.pk] == of[c.pk] != of[b.pk]
    )


CHANGED = {name: value for name, value in BILLING.items() if name != "occurred_at"} | {
    "occurred_at": clock.now() - timedelta(seconds=90)
}


@proves("I04", guard="stories_are_compared")
def test_the_same_id_with_any_billing_field_changed_is_a_conflict_and_changes_nothing(books: Books) -> None:
    acme = organization("acme", usd="1")
    when = clock.now()
    (created,) = charge(acme, event(event_id="a", occurred_at=when))
    before, wallet = counts(), standing(acme)
    for field, value in CHANGED.items():
        other = event(**{"event_id": "a", "occurred_at": when, field: value})
        assert statuses(charge(acme, other)) == ["conflict"], field
    assert (counts(), standing(acme)) == (before, wallet)
    assert charge(acme, event(event_id="a", occurred_at=when)) == [created._replace(status=Status.DUPLICATE)]


@proves("I05", guard="claims_know_no_time")
def test_an_event_on_both_sides_of_a_months_end_is_one_record(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = organization("acme")
    year = datetime(2027, 1, 1, tzinfo=UTC)
    partitions.ensure(at=year, ahead=12)
    for month in range(12):
        turn = partitions.month_start(year, plus=month + 1)
        taken = event(event_id=f"month-{month}", occurred_at=turn - timedelta(seconds=5))
        told = []
        for at in (turn - timedelta(milliseconds=1), turn, turn + timedelta(hours=3)):
            monkeypatch.setattr(usage, "started_at", lambda at=at, **_: at)
            told += charge(acme, taken)
        assert statuses(told) == ["created", "duplicate", "duplicate"], turn
        assert len({verdict.record_id for verdict in told}) == 1
    assert rows("SELECT count(*), count(DISTINCT tableoid) FROM usage_record") == [(12, 12)]
    assert standing(acme).spent == 12 * USD
    monkeypatch.undo()
    assert_sound()


# Failures of a part


POISON = {"model": "poison", "input_tokens": 2_147_483_647, "cached_input_tokens": 0, "output_tokens": 0}


@proves("I14", guard="bad_content_is_cornered_by_halves")
def test_one_event_that_the_database_refuses_hurts_no_other_wherever_it_stands(books: Books) -> None:
    # Its cost is beyond what the books hold, which only the database notices.
    publish("poison", ("2020-01-01T00:00:00Z", None, "99999999999.999999"))
    owners = organizations(2)
    size = 7
    for place in range(size):
        chosen = [(owners[n % 2], event(**(POISON if n == place else {}))) for n in range(size)]
        told = record(batch(*chosen))
        assert statuses(told) == ["failed" if n == place else "created" for n in range(size)], place
        again = record(batch(*chosen))
        assert statuses(again) == ["failed" if n == place else "duplicate" for n in range(size)], place
    assert counts()["usage_record"] == size * (size - 1)
    assert sum(standing(owner).spent for owner in owners) == size * (size - 1) * USD
    assert_sound()


def test_copies_of_an_event_that_failed_have_failed_too(books: Books) -> None:
    publish("poison", ("2020-01-01T00:00:00Z", None, "99999999999.999999"))
    acme = organization("acme")
    told = charge(acme, *(event(event_id="a", **{**POISON, "input_tokens": 2_147_483_647 - n}) for n in (0, 0, 1)))
    assert statuses(told) == ["failed"] * 3


@contextmanager
def locked(books: Books, owner: Organization) -> Iterator[None]:
    """Somebody holds the wallet's row."""
    with books.connect() as raw, raw.transaction():
        held = raw.execute("SELECT 1 FROM wallet WHERE organization_id = %s FOR NO KEY UPDATE", [owner.pk]).fetchall()
        assert len(held) == 1
        yield


def wait_briefly() -> None:
    """Let this thread's connection wait 50 ms for a lock."""
    rows("SET lock_timeout = '50ms'")


@pytest.mark.one_database
@proves("I15", guard="a_failed_group_falls_apart")
def test_an_organization_that_cannot_be_charged_now_hurts_no_other(books: Books) -> None:
    owners = organizations(3, usd="1")
    blocked = owners[1]
    chosen = [(owner, event()) for owner in owners for _ in range(2)]
    wait_briefly()
    with locked(books, blocked):
        told = record(batch(*chosen))
    assert statuses(told) == ["created", "created", "failed", "failed", "created", "created"]
    assert [standing(owner).spent for owner in owners] == [2 * USD, 0, 2 * USD]
    assert statuses(record(batch(*chosen))) == [
        "duplicate", "duplicate", "created", "created", "duplicate", "duplicate",
    ]  # fmt: skip
    assert_sound()


def test_a_database_that_is_gone_fails_every_event_and_loses_none(books: Books) -> None:
    acme = organization("acme")
    taken = [event() for _ in range(3)]
    charge(acme, event())
    with books.connect() as raw:
        # The next statement meets a cut connection.
        raw.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()")  # fmt: skip
    told = charge(acme, *taken)
    assert statuses(told) == ["failed"] * 3
    assert all(verdict.error is not None and verdict.error.status == 503 for verdict in told)
    assert statuses(charge(acme, *taken)) == ["created"] * 3


@pytest.mark.parametrize(
    "state", ["08006", "25006", "42501", "42P01", "53100", "53300", "57014", "57P01"]
)  # fmt: skip
def test_what_is_wrong_for_every_part_is_not_tried_for_each(
    books: Books, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    tries = []

    def refuse(*_: Any, **__: Any) -> Any:
        tries.append(1)
        error = psycopg.errors.lookup(state)("deliberate") if state != "08006" else psycopg.OperationalError("gone")
        from django.db import OperationalError

        raise OperationalError("deliberate") from error

    monkeypatch.setattr(charges, "_transaction", refuse)
    assert statuses(charge(organization("acme"), *(event() for _ in range(16)))) == ["failed"] * 16
    assert len(tries) == 1


# Wallets


@proves("W01", guard="wallets_are_locked")
def test_many_debits_of_one_wallet_at_once_leave_what_the_transfers_say(books: Books) -> None:
    acme = organization("acme", usd="0.01")

    def debit(thread: int) -> list[Verdict]:
        return [verdict for n in range(6) for verdict in charge(acme, *(event() for _ in range(1 + (thread + n) % 3)))]

    told = [verdict for part in side_by_side(books, *(partial(debit, t) for t in range(8))) for verdict in part]
    assert_all(told, Status.CREATED)
    spent = len(told) * USD
    assert standing(acme)[:3] == (ZERO, spent - Decimal("0.01"), spent)
    assert rows("SELECT count(*), min(seq), max(seq) FROM transfer") == [(standing(acme).seq, 1, standing(acme).seq)]
    assert_sound()


@proves("W02", guard="balances_are_read_under_their_lock")
def test_nobody_takes_from_a_balance_what_another_has_taken_meanwhile(books: Books) -> None:
    for _ in range(3):
        acme = organization(f"racing-{ids.new()}", usd=str(4 * USD))
        told = side_by_side(books, *(partial(charge, acme, event()) for _ in range(10)))
        assert_all([verdict for part in told for verdict in part], Status.CREATED)
        # Four found money there; each of the others drew all that it cost, to the last digit.
        assert Counter(kind for kind, _ in transfers_of(acme)) == {"grant": 1, "charge": 10, "draw": 6}
        assert {amount for kind, amount in transfers_of(acme) if kind == "draw"} == {USD}
        assert standing(acme)[:3] == (ZERO, 6 * USD, 10 * USD)
    assert_sound()


@pytest.mark.one_database
@proves("W03", guard="wallets_are_locked_in_order")
def test_batches_over_overlapping_wallets_never_deadlock(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    see_deadlocks_soon(books)
    owners = organizations(12, usd="1")
    circle = threading.Event()

    def post(seed: int) -> list[Verdict]:
        chance = random.Random(seed)
        told: list[Verdict] = []
        for _ in range(12):
            if circle.is_set():
                break
            told += record(batch(*((owner, event()) for owner in chance.sample(owners, 6))))
            if any(entry.name == "core.transactions" for entry in caplog.records):
                circle.set()
        return told

    with conflicts(caplog) as met:
        told = [verdict for part in side_by_side(books, *map(partial, [post] * 8, range(8))) for verdict in part]
    assert met == []
    assert_all(told, Status.CREATED)
    assert sum(standing(owner).spent for owner in owners) == len(told) * USD
    assert_sound()


@proves("W16", guard="no_row_is_shared")
def test_two_organizations_never_wait_for_each_other(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="1")
    for busy, free in ((acme, umbrella), (umbrella, acme)):
        ready, done = threading.Event(), threading.Event()

        def hold(owner: Organization = busy, ready: threading.Event = ready, done: threading.Event = done) -> None:
            """A charge that is written and not yet committed: every row that charging locks is locked."""
            with transaction.atomic():
                move = ledger.Move(
                    owner.pk, TransferKind.CHARGE, Account.WALLET, Account.REVENUE, USD,
                    id=ids.new(),
                )  # fmt: skip
                ledger.post([move], at=usage.started_at())
                ready.set()
                done.wait(10)
                transaction.set_rollback(True)

        def pass_by(owner: Organization = free, ready: threading.Event = ready, done: threading.Event = done) -> Any:
            assert ready.wait(10)
            try:
                wait_briefly()
                return charge(owner, event(), event(status=429), event(model="nobody-priced-this"))
            finally:
                done.set()

        told = books.together([hold, pass_by])[1]
        assert statuses(told) == ["created", "created", "quarantined"]
    assert_sound()


# Promises of size


@contextmanager
def words() -> Iterator[list[str]]:
    """Every statement that charging sends meanwhile, COPY too."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("execute", "copy"):
            send = getattr(psycopg.Cursor, name)

            def counted(self: Any, query: Any, *args: Any, send: Any = send, **options: Any) -> Any:
                # Processes ask now and then, whatever else they do, whether what they cache has changed.
                if "cache_epoch" not in str(query):
                    said.append(str(query))
                return send(self, query, *args, **options)

            patch.setattr(psycopg.Cursor, name, counted)
        yield said


def sent(call: Callable[[], list[Verdict]], status: Status) -> int:
    """How many statements a batch takes; all its verdicts must be these."""
    with words() as said:
        told = call()
    assert_all(told, status)
    return len(said)


def test_the_number_of_statements_does_not_depend_on_the_size_of_a_batch(books: Books) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event())
    sizes = {size: [event() for _ in range(size)] for size in (1, 200, 1000)}
    new = {size: sent(partial(charge, acme, *sizes[size]), Status.CREATED) for size in sizes}
    assert len(set(new.values())) == 1, new
    # The clock, the claims, the records, the locks with what lies behind them, and all that is written there.
    assert new[1] == 5, "a statement more is a round trip more for everybody"
    again = {size: sent(partial(charge, acme, *sizes[size]), Status.DUPLICATE) for size in sizes}
    assert len(set(again.values())) == 1, again
    aside = {
        size: sent(partial(charge, acme, *(event(model="nobody-priced-this") for _ in range(size))), Status.QUARANTINED)
        for size in (1, 200)
    }
    assert len(set(aside.values())) == 1, aside
    failures = {
        size: sent(partial(charge, acme, *(event(status=429) for _ in range(size))), Status.CREATED)
        for size in (1, 200)
    }
    assert len(set(failures.values())) == 1, failures


@pytest.mark.one_database
def test_the_number_of_statements_does_not_depend_on_the_number_of_organizations(books: Books) -> None:
    owners = organizations(50)
    # From here on no wallet crosses a line, which would be told.
    record(batch(*((owner, event()) for owner in owners)))
    one = sent(lambda: charge(owners[0], *(event() for _ in range(50))), Status.CREATED)
    fifty = sent(lambda: record(batch(*((owner, event()) for owner in owners))), Status.CREATED)
    assert one == fifty


def test_organizations_are_taken_apart_in_the_order_of_their_first_event() -> None:
    a, b = UUID(int=1), UUID(int=2)
    items = [*attributed(b, event()), *attributed(a, event()), *attributed(b, event())]
    assert [[item.organization_id for item in group] for group in charges.by_organization(items)] == [[b, b], [a]]
    assert charges.by_organization([]) == []


def test_an_event_told_in_json_is_charged_as_it_was_told(books: Books) -> None:
    fields: dict[str, Any] = {
        "end_user": "u", "source": "dev_tools", "routed_model": "r", "provider": "p", "channel": "c", "attempts": 2,
        "endpoint": "/v1/x", "stream": True, "status": 200, "finish_reason": "stop", "ttft_ms": 1, "latency_ms": 2,
        "request_id": "req", "metadata": {"a": "b"}, "reasoning_tokens": 3,
    }  # fmt: skip
    taken = event(**told(**fields, occurred_at=clock.now(), provider_cost_usd=Decimal("0.1")))
    assert isinstance(taken, Event)
    charge(organization("acme"), taken)
    names = [*fields, "provider_cost_usd", "event_id", "model", "input_tokens"]
    (kept,) = rows(f"SELECT {', '.join(names)} FROM usage_record")
    assert dict(zip(names, kept, strict=True)) == fields | {
        "provider_cost_usd": Decimal("0.1"), "event_id": taken.event_id, "model": taken.model, "input_tokens": 1000,
        "metadata": '{"a": "b"}',
    }  # fmt: skip


# USD a million tokens: input, cached input, output.
RATES = {
    "deepseek-chat": ("0.27", "0.07", "1.10"),
    "gpt-4.1-nano": ("0.1", "0.025", "0.4"),
    "mistral-small-2506": ("0.1", "0.1", "0.3"),
}
amounts = st.integers(0, 3_000_000)


@proves("W13", guard="costs_are_exact")
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from(sorted(RATES)), amounts, amounts, amounts), min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_charged_is_to_the_pico_dollar_what_fractions_come_to(
    books: Books, batches: list[list[tuple[str, int, int, int]]]
) -> None:
    acme = organization(f"exact-{ids.new()}")
    total = Fraction(0)
    for sent in batches:
        taken = [
            event(model=model, input_tokens=plain + cached, cached_input_tokens=cached, output_tokens=output)
            for model, plain, cached, output in sent
        ]
        exact = [
            sum((Fraction(rate) * count for rate, count in zip(RATES[model], counts, strict=True)), Fraction(0)) / 10**6
            for model, *counts in sent
        ]
        assert [Fraction(verdict.cost_usd or 0) for verdict in charge(acme, *taken)] == exact
        total += sum(exact, Fraction(0))
    told = "SELECT coalesce(sum(cost_usd), 0) FROM usage_record WHERE organization_id = %s"
    assert Fraction(rows(told, acme.pk)[0][0]) == total
    assert Fraction(standing(acme).spent) == Fraction(-standing(acme).balance) == total
    assert_sound()
