"""What waits for too long is seen, and nothing else is."""

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import pytest

from ops.idempotency import ADVISORY_CLASS
from tests.billing.corruption import assert_only, broken, corrupt
from tests.books import Books
from tests.clocks import standing_still
from tests.proofs import proves


@proves("V24", guard="keys_in_use_are_watched")
def test_a_request_that_keeps_its_key_for_minutes_is_seen(past: Books) -> None:
    with standing_still(past) as clock, closing(past.connect()) as own:
        own.execute("BEGIN")
        own.execute("SELECT pg_try_advisory_xact_lock(%s, 4711)", [ADVISORY_CLASS])
        clock.move(timedelta(minutes=4, seconds=59))
        assert broken(server=True) == {}
        clock.move(timedelta(minutes=1))
        assert_only("V24", ["key 4711 is in use since"], server=True)


@proves("V24", guard="keys_in_use_are_watched")
@pytest.mark.parametrize(
    ("statements", "seen"),
    [
        (["ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_done",
            "UPDATE idempotency_key SET status = 503 RETURNING id"], {"V24", "V34"}),
        (["ALTER TABLE idempotency_key ALTER body DROP NOT NULL",
            "UPDATE idempotency_key SET body = NULL RETURNING id"], {"V24"}),
    ],
    ids=["a failure", "no body"],
)  # fmt: skip
def test_a_key_without_an_answer_is_seen(past: Books, statements: Sequence[str], seen: set[str]) -> None:
    assert_only(seen, corrupt(past, *statements), server=True)


ONE = "WHERE name = 'expire_holds' RETURNING name"


@proves("V25", guard="queues_are_watched")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE outbox SET delivered_at = NULL, created_at = now() - interval '61 seconds'"
            " WHERE id = (SELECT min(id::text)::uuid FROM outbox) RETURNING id",
        "UPDATE outbox SET delivered_at = NULL, next_attempt_at = now() - interval '61 seconds'"
            " WHERE id = (SELECT min(id::text)::uuid FROM outbox) RETURNING id",
        f"UPDATE job_run SET due_since = now() - interval '301 seconds', state = 'due' {ONE}",
        f"UPDATE job_run SET due_since = now() - interval '301 seconds' {ONE}",
        f"UPDATE job_run SET state = 'aside' {ONE}",
        "UPDATE job_run SET name = 'sweep', started_at = now() - interval '301 seconds'"
            " WHERE name = 'expire_holds' RETURNING name",
        "UPDATE job_period SET period = now() + interval '1 minute' WHERE name = 'seal_ledger' RETURNING name",
    ],
    ids=["a message", "a message tried before", "never run", "due and not run", "put aside", "no sweep", "ahead"],
)  # fmt: skip
def test_what_waits_for_too_long_is_seen(past: Books, statement: str) -> None:
    assert_only("V25", corrupt(past, statement), server=True)


@proves("V25", guard="queues_are_watched")
def test_a_period_that_was_done_twice_is_seen(past: Books) -> None:
    names = corrupt(
        past,
        "ALTER TABLE job_period DROP CONSTRAINT job_period_once",
        "INSERT INTO job_period SELECT gen_random_uuid(), name, period, state, attempts, started_at, finished_at,"
        " took_ms, result FROM job_period WHERE name = 'seal_ledger' RETURNING name",
    )
    assert_only({"V25", "V34"}, names, server=True)


def test_what_is_young_or_waits_for_its_pause_is_no_fault(past: Books) -> None:
    corrupt(
        past,
        "UPDATE outbox SET delivered_at = NULL, created_at = now() - interval '59 seconds' RETURNING id",
        "UPDATE outbox SET next_attempt_at = now() + interval '1 hour', created_at = now() - interval '1 day'"
        " WHERE id = (SELECT min(id::text)::uuid FROM outbox) RETURNING id",
        f"UPDATE job_run SET due_since = now() - interval '299 seconds' {ONE}",
    )
    assert broken(server=True) == {}
