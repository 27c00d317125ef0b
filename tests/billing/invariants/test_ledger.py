"""Wallets, transfers, the chain and the seals: each corruption raises its invariant and no other."""

from collections.abc import Sequence

import pytest

from tests.billing.corruption import assert_only, broken, corrupt, rechain, tamper
from tests.books import Books
from tests.proofs import proves

PICO = "0.000000000001"


def of(slug: str) -> str:
    """Rows of an organization."""
    return f"organization_id = (SELECT id FROM organization WHERE slug = '{slug}')"


WAYNE, STARK, OSCORP, DAILY = of("wayne"), of("stark"), of("oscorp"), of("daily")
# Wayne's last transfer is a charge of one record, and no seal knows it yet.
LAST = f"{WAYNE} AND seq = (SELECT seq FROM wallet WHERE {WAYNE})"


@proves("V01", guard="wallets_are_held_against_transfers")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE wallet SET spent_usd = spent_usd + {PICO} WHERE {WAYNE} RETURNING organization_id"],
        [f"UPDATE wallet SET spent_usd = 0 WHERE {OSCORP} RETURNING organization_id"],
    ],
    ids=["a pico-dollar", "nothing spent"],
)
def test_a_wallet_that_its_transfers_do_not_explain_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V01", corrupt(past, *statements))


def test_a_balance_stands_against_the_transfers_and_against_the_grants(past: Books) -> None:
    names = corrupt(past, f"UPDATE wallet SET posted_usd = posted_usd + {PICO} WHERE {WAYNE} RETURNING organization_id")
    assert_only({"V01", "V06"}, names)


@proves("V02", guard="transfers_are_counted")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE transfer SET balance_after_usd = balance_after_usd + {PICO} WHERE {LAST} RETURNING id"],
        [f"UPDATE transfer SET seq = seq + 10 WHERE {LAST} RETURNING id"],
        [f"UPDATE wallet SET seq = seq + 1 WHERE {WAYNE} RETURNING organization_id"],
        [f"UPDATE transfer SET seq = CASE kind WHEN 'void' THEN seq + 1 ELSE seq - 1 END"
            f" WHERE {WAYNE} AND reference LIKE (SELECT reference || '%' FROM transfer WHERE {WAYNE} AND kind = 'void'"
            " ORDER BY seq DESC LIMIT 1) AND kind IN ('void', 'expiry') RETURNING id"],
    ],
    ids=["another balance", "a gap", "a wallet ahead", "two exchanged"],
)  # fmt: skip
def test_transfers_out_of_order_are_seen(past: Books, statements: Sequence[str]) -> None:
    if "CASE" in statements[0]:
        with past.connect() as raw:
            raw.execute("DROP INDEX transfer_seq_once")
    assert_only("V02", corrupt(past, *statements))


@proves("V03", guard="transfers_have_causes")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE transfer SET kind = 'refund' WHERE {LAST} RETURNING id"],
        ["UPDATE transfer SET credit = 'taxes' WHERE kind = 'refund' RETURNING id"],
        [f"UPDATE transfer SET reference = '' WHERE {DAILY} AND reference = 'kept' RETURNING id"],
        ["DELETE FROM correction WHERE kind = 'void' AND"
            f" {WAYNE} AND record_id = (SELECT id FROM usage_record WHERE {WAYNE} AND event_id = 'brief'"
            " AND corrects_id IS NULL) RETURNING transfer_id"],
        ["UPDATE adjustment SET state = 'posted' WHERE state = 'waiting' RETURNING id"],
        ["UPDATE adjustment SET state = 'refused' WHERE kind = 'write_off'",
            "SELECT id FROM transfer WHERE kind = 'write_off'"],
        ["UPDATE adjustment SET amount_usd = amount_usd + 1 WHERE kind = 'refund'",
            "SELECT id FROM transfer WHERE kind = 'refund'"],
    ],
    ids=["a kind that goes elsewhere", "an unknown way", "no reference", "no correction", "never posted",
        "refused and posted", "another amount"],
)  # fmt: skip
def test_a_transfer_without_its_cause_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V03", corrupt(past, *statements))


@proves("V05", guard="wallets_are_in_range")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE wallet SET overdraft_usd = overdraft_usd - {PICO} WHERE {OSCORP} RETURNING organization_id"],
        [f"UPDATE wallet SET has_scoped = false WHERE {OSCORP}",
            f"UPDATE credit_grant SET model_slugs = '{{}}' WHERE {OSCORP} RETURNING organization_id"],
        [f"UPDATE wallet SET level = 'empty' WHERE {WAYNE} RETURNING organization_id"],
        [f"UPDATE wallet SET credit_limit_usd = 0 WHERE {OSCORP} RETURNING organization_id"],
    ],
    ids=["an overdraft never drawn", "credit beside a debt", "a false alarm", "a limit that was passed unheard"],
)  # fmt: skip
def test_a_wallet_that_cannot_stand_so_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V05", corrupt(past, *statements))


def test_less_than_nothing_held_is_seen(past: Books) -> None:
    statements = (
        "ALTER TABLE wallet DROP CONSTRAINT wallet_held_in_range",
        f"UPDATE wallet SET held_usd = -1 WHERE {OSCORP} RETURNING organization_id",
    )
    assert_only({"V04", "V05"}, corrupt(past, *statements))


@proves("V31", guard="transfers_are_chained")
@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE transfer SET reason = reason || '.' WHERE {DAILY} AND reference = 'kept' RETURNING id",
        f"UPDATE transfer SET actor = 'nobody' WHERE {LAST} RETURNING id",
        f"UPDATE transfer SET created_at = created_at + interval '1 us' WHERE {LAST} RETURNING id",
        f"UPDATE transfer SET digest = sha256(digest) WHERE {LAST} RETURNING organization_id",
        f"UPDATE transfer SET id = gen_random_uuid() WHERE {DAILY} AND reference = 'kept' RETURNING seq",
        f"UPDATE wallet SET head = sha256(head) WHERE {DAILY} RETURNING organization_id",
        f"UPDATE ledger_head SET digest = sha256(digest) WHERE {DAILY} RETURNING seq",
    ],
    ids=["reason", "actor", "time", "digest", "id", "the wallet's head", "a seal"],
)
def test_a_transfer_that_is_not_what_was_posted_is_seen(past: Books, statement: str) -> None:
    if "gen_random" in statement:
        # The grant goes with it, so that only the chain knows.
        tamper(past, statement)
        statement = (
            f"UPDATE credit_grant g SET transfer_id = t.id FROM transfer t WHERE t.{DAILY} AND t.reference = 'kept'"
            " AND g.organization_id = t.organization_id AND g.reference = t.reference RETURNING t.organization_id"
        )
    assert_only("V31", tamper(past, statement))


@proves("V31", guard="transfers_are_chained")
def test_a_chain_that_was_made_anew_is_seen_by_its_seals(past: Books) -> None:
    names = tamper(past, f"UPDATE transfer SET reason = 'another' WHERE {DAILY} AND reference = 'kept' RETURNING id")
    with past.connect() as raw:
        raw.execute("SET session_replication_role = replica")
        rechain(raw, sealed=False)
        (later,) = raw.execute(f"SELECT id FROM transfer WHERE {DAILY} AND reference = 'newest'").fetchone() or ()
    assert names
    assert_only("V31", [str(later)])


@proves("V32", guard="seals_are_compared")
@pytest.mark.parametrize(
    "statements",
    [
        # As if the newest grant had never been, in every table but the seal's.
        [f"DELETE FROM credit_grant WHERE {DAILY} AND reference = 'newest'",
            f"DELETE FROM transfer WHERE {DAILY} AND reference = 'newest'",
            f"UPDATE wallet SET posted_usd = 1, seq = 1, level = 'low', head = (SELECT digest FROM transfer"
            f" WHERE {DAILY}) WHERE {DAILY} RETURNING organization_id"],
        [f"UPDATE ledger_head SET spent_usd = {PICO} WHERE {DAILY} RETURNING organization_id"],
        ["INSERT INTO ledger_head (organization_id, day, seq, digest, posted_usd, overdraft_usd, spent_usd, sealed_at)"
            " SELECT organization_id, day - 1, seq, digest, posted_usd, overdraft_usd, spent_usd, sealed_at"
            f" FROM ledger_head WHERE {DAILY} RETURNING organization_id"],
    ],
    ids=["the newest gone", "other totals", "a seal that did not rise"],
)  # fmt: skip
def test_books_that_went_back_behind_their_seals_are_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V32", corrupt(past, *statements))


MANY: list[tuple[set[str], str]] = [
    ({"V01", "V02", "V06", "V09", "V31"}, f"UPDATE transfer SET amount_usd = amount_usd * 2 WHERE {LAST}"),
    ({"V01", "V02", "V09", "V27", "V31"}, f"DELETE FROM transfer WHERE {LAST}"),
    ({"V02", "V06", "V32"}, f"DELETE FROM wallet WHERE {DAILY}"),
    ({"V03", "V06", "V07"},
        "DELETE FROM grant_use WHERE transfer_id IN (SELECT id FROM transfer WHERE kind = 'expiry')"),
]  # fmt: skip


@pytest.mark.parametrize(("ids", "statement"), MANY)
def test_what_breaks_several_promises_is_seen_by_each(past: Books, ids: set[str], statement: str) -> None:
    tamper(past, f"{statement} RETURNING 1")
    assert broken().keys() >= ids
