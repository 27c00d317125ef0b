"""Whose rows are whose, and amounts that are none: each corruption raises its invariant and no other."""

from collections.abc import Sequence

import pytest

from billing import invariants, seals
from billing.invariants import rows
from tests.billing.corruption import assert_only, broken, corrupt
from tests.billing.invariants.test_ledger import DAILY, STARK, WAYNE, of
from tests.books import Books
from tests.proofs import proves

ACME = of("acme")
RECORD = f"{ACME} AND event_id = 'one' AND corrects_id IS NULL"
OPEN = f"{WAYNE} AND state = 'open'"


@proves("V27", guard="rows_are_of_one_organization")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE usage_record SET api_key_id = (SELECT id FROM api_key WHERE {STARK}) WHERE {RECORD} RETURNING id"],
        [f"UPDATE usage_record SET member_id = (SELECT id FROM member WHERE {STARK} LIMIT 1) WHERE {RECORD}"
            " RETURNING id"],
        [f"UPDATE usage_record SET project_id = (SELECT id FROM project WHERE {STARK} LIMIT 1) WHERE {RECORD}"
            " RETURNING id"],
        [f"UPDATE hold SET project_id = (SELECT id FROM project WHERE {STARK} LIMIT 1) WHERE {OPEN} RETURNING id"],
        [f"UPDATE hold SET api_key_id = (SELECT id FROM api_key WHERE {STARK}) WHERE {OPEN} RETURNING id"],
        # A personal key speaks for its owner and for where its owner is a member.
        [f"UPDATE hold SET api_key_id = (SELECT id FROM api_key WHERE kind = 'personal') WHERE {OPEN} RETURNING id"],
        [f"UPDATE hold SET budget_ids = (SELECT array_agg(id) FROM budget WHERE {STARK} AND removed_at IS NOT NULL)"
            f" WHERE {OPEN} RETURNING id"],
        [f"UPDATE correction SET record_id = (SELECT id FROM usage_record WHERE {RECORD})"
            f" WHERE {WAYNE} AND kind = 'void' AND transfer_id IN (SELECT id FROM transfer WHERE kind = 'void')"
            f" AND record_id = (SELECT id FROM usage_record WHERE {WAYNE} AND event_id = 'brief'"
            " AND corrects_id IS NULL) RETURNING id, record_id"],
        [f"UPDATE budget SET subject_id = p.id FROM project p WHERE p.name = 'bats' AND budget.{STARK}"
            " AND subject = 'project' AND spent = 0 RETURNING budget.id"],
        [f"UPDATE hold SET payer_id = (SELECT id FROM organization WHERE personal_of_id IS NOT NULL AND id <> payer_id"
            f" LIMIT 1) WHERE {STARK} AND state = 'expired' RETURNING id, payer_id"],
    ],
    ids=["a key's record", "a member's record", "a project's record", "a project's hold", "a key's hold",
        "a person's hold", "a ceiling's hold", "a correction", "a ceiling", "another person's wallet"],
)  # fmt: skip
def test_a_row_that_hangs_on_anothers_is_seen(past: Books, statements: Sequence[str]) -> None:
    corrupt(past, "INSERT INTO project (id, organization_id, name, created_at) SELECT gen_random_uuid(), id, 'bats',"
        " now() FROM organization WHERE slug = 'wayne' RETURNING 1")  # fmt: skip
    assert_only("V27", corrupt(past, *statements))


@proves("V27", guard="rows_are_of_one_organization")
def test_a_grant_and_a_trace_row_of_another_organization_are_seen(past: Books) -> None:
    assert DAILY
    names = corrupt(past, f"UPDATE grant_use SET organization_id = (SELECT id FROM organization WHERE slug = 'daily')"
        f" WHERE {ACME} AND id = (SELECT id FROM grant_use WHERE {ACME} LIMIT 1) RETURNING id")  # fmt: skip
    assert broken().keys() == {"V06", "V07", "V27"}
    assert names[0] in broken()["V27"]


@proves("V30", guard="amounts_are_numbers")
@pytest.mark.parametrize(
    ("table", "constraint", "statement"),
    [
        ("wallet", "wallet_credit_limit_in_range",
            f"UPDATE wallet SET credit_limit_usd = 'NaN' WHERE {WAYNE} RETURNING organization_id"),
        ("wallet", "wallet_low_in_range",
            f"UPDATE wallet SET low_usd = -1 WHERE {WAYNE} RETURNING organization_id"),
        ("usage_record", "usage_record_provider_cost_usd_check",
            f"UPDATE usage_record SET provider_cost_usd = 'NaN' WHERE {RECORD} RETURNING organization_id"),
        ("request_log", "request_log_provider_cost_usd_check",
            f"UPDATE request_log SET provider_cost_usd = 'NaN' WHERE {ACME} RETURNING organization_id"),
        ("usage_claim", "usage_claim_cost_in_range",
            f"UPDATE usage_claim SET cost_usd = 'NaN' WHERE event_id = 'failure' AND {ACME} RETURNING organization_id"),
        ("budget", "budget_ceiling_in_range",
            f"UPDATE budget SET ceiling = 100000000000 WHERE {STARK} AND \"window\" = '7d' RETURNING organization_id"),
        ("adjustment", "adjustment_positive",
            "UPDATE adjustment SET amount_usd = 'NaN' WHERE state = 'waiting' RETURNING organization_id"),
        ("hold", "hold_in_range",
            f"UPDATE hold SET amount_usd = -1 WHERE {STARK} AND state = 'expired' RETURNING organization_id"),
    ],
)  # fmt: skip
def test_an_amount_that_is_none_is_seen(past: Books, table: str, constraint: str, statement: str) -> None:
    names = corrupt(past, f"ALTER TABLE {table} DROP CONSTRAINT {constraint}", statement)
    assert_only("V30", names)


def test_every_column_of_money_is_looked_at(db: None) -> None:
    found = rows.amounts()
    assert found["wallet"] == [
        ("posted_usd", False), ("held_usd", False), ("overdraft_usd", False), ("spent_usd", False),
        ("credit_limit_usd", False), ("low_usd", False),
    ]  # fmt: skip
    assert found["usage_record"] == [("provider_cost_usd", True), ("cost_usd", False)]
    assert found.keys() >= {
        "adjustment", "budget", "budget_spend", "correction", "credit_grant", "grant_use", "hold", "ledger_head",
        "request_log", "rerating_share", "transfer", "usage_claim",
    }  # fmt: skip


KEY = "'dtk_' || repeat('x', 49)"


@proves("V33", guard="keys_in_plain_text_are_looked_for")
@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE api_key SET name = 'ours: ' || {KEY} WHERE {STARK} RETURNING id",
        f"UPDATE usage_record SET metadata = jsonb_build_object('sent', 'Bearer ' || {KEY}) WHERE {RECORD}"
            " RETURNING id",
        f"UPDATE audit_entry SET details = jsonb_build_object({KEY}, 1)"
            " WHERE id = (SELECT id FROM audit_entry LIMIT 1) RETURNING id",
        f"UPDATE transfer SET reason = {KEY} WHERE {ACME} AND seq = 1 RETURNING id",
        "INSERT INTO idempotency_key (id, organization_id, method, path, key, fingerprint, status, content_type, body,"
            " created_at) SELECT gen_random_uuid(), id, 'POST', '/v1/keys', 'made', sha256('x'), 201, 'text/plain',"
            f" convert_to('made ' || {KEY}, 'UTF8'), now() FROM organization WHERE slug = 'acme' RETURNING id",
    ],
    ids=["a name", "what came with an event", "the trail", "a reason", "a kept answer"],
)  # fmt: skip
def test_a_key_that_somebody_wrote_down_is_seen(past: Books, statement: str) -> None:
    assert_only("V33", corrupt(past, statement), server=True)


def test_the_hourly_run_looks_through_what_people_write_too(past: Books) -> None:
    corrupt(past, f"UPDATE api_key SET name = {KEY} WHERE {STARK} RETURNING id")
    hourly = invariants.check(seals.since_last(), server=True)
    assert [finding.name.split()[0] for finding in hourly if not finding.ok] == ["V33"]


def test_what_only_begins_like_a_key_is_none(past: Books) -> None:
    corrupt(past, f"UPDATE api_key SET name = 'dtk_ and dtk_' || repeat('x', 48) WHERE {STARK} RETURNING id")
    assert broken(server=True) == {}
