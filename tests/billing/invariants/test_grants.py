"""Credit and its trace: each corruption raises its invariant and no other."""

from collections.abc import Sequence

import pytest

from tests.billing.corruption import assert_only, corrupt
from tests.billing.invariants.test_ledger import DAILY, OSCORP, PICO, STARK, WAYNE
from tests.books import Books
from tests.proofs import proves


def grant(reference: str) -> str:
    """One of wayne's grants."""
    return f"{WAYNE} AND reference = '{reference}'"


def id_of(reference: str) -> str:
    """Its id."""
    return f"(SELECT id FROM credit_grant WHERE {grant(reference)})"


# The grant of an act that a second person agreed to; nothing was taken from it.
UNUSED = f"{WAYNE} AND amount_usd = 501"


@proves("V06", guard="wallets_are_held_against_grants")
@pytest.mark.parametrize(
    "statements",
    [
        # The grant and its trace agree on more than the charge was.
        [f"UPDATE credit_grant SET remaining_usd = remaining_usd - {PICO} WHERE {grant('bought')}",
            f"UPDATE grant_use SET amount_usd = amount_usd + {PICO} WHERE id = (SELECT u.id FROM grant_use u"
            f" JOIN transfer t ON t.id = u.transfer_id WHERE u.grant_id = {id_of('bought')} AND t.kind = 'charge'"
            " ORDER BY t.seq DESC LIMIT 1)",
            "SELECT id FROM organization WHERE slug = 'wayne'"],
        [f"UPDATE wallet SET has_scoped = NOT has_scoped WHERE {WAYNE} RETURNING organization_id"],
        [f"UPDATE wallet SET next_change = NULL WHERE {WAYNE} RETURNING organization_id"],
        [f"UPDATE wallet SET next_change = now() + interval '1 day' WHERE {DAILY} RETURNING organization_id"],
    ],
    ids=["more than was charged", "scope unknown to the wallet", "an end unknown to it", "an end that is none"],
)  # fmt: skip
def test_a_wallet_that_is_not_its_grants_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V06", corrupt(past, *statements))


@proves("V07", guard="grants_are_held_against_their_trace")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE credit_grant SET remaining_usd = remaining_usd + CASE reference WHEN 'bought' THEN {PICO}"
            f" ELSE -{PICO} END WHERE {WAYNE} AND reference IN ('bought', 'scoped') RETURNING id"],
        [f"UPDATE grant_use SET grant_id = {id_of('scoped')} WHERE id = (SELECT u.id FROM grant_use u"
            f" JOIN transfer t ON t.id = u.transfer_id WHERE u.grant_id = {id_of('bought')} AND t.kind = 'charge'"
            " ORDER BY t.seq DESC LIMIT 1) RETURNING grant_id"],
        [f"UPDATE credit_grant SET expires_at = now() - interval '16 minutes', effective_at = now() - interval '1 hour'"
            f" WHERE {UNUSED}",
            f"UPDATE wallet SET next_change = (SELECT expires_at FROM credit_grant WHERE {UNUSED}) WHERE {WAYNE}",
            f"SELECT id FROM credit_grant WHERE {UNUSED}"],
        [f"UPDATE credit_grant SET effective_at = now() - interval '16 minutes' WHERE {grant('later')}",
            f"UPDATE wallet SET next_change = (SELECT effective_at FROM credit_grant WHERE {grant('later')})"
            f" WHERE {WAYNE}",
            f"SELECT id FROM credit_grant WHERE {grant('later')}"],
        [f"UPDATE credit_grant SET remaining_usd = 1 WHERE {grant('later')} RETURNING id"],
    ],
    ids=["one has what another lacks", "taken from another", "over and still there", "due and not begun",
        "less before it began"],
)  # fmt: skip
def test_a_grant_that_its_trace_does_not_explain_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V07", corrupt(past, *statements))


@proves("V08", guard="grants_are_held_against_their_time")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE credit_grant SET expires_at = effective_at + interval '1 us' WHERE {grant('first')} RETURNING id"],
        [f"UPDATE credit_grant SET effective_at = now() + interval '1 day' WHERE {grant('bought')} RETURNING id"],
        [f"UPDATE credit_grant SET expires_at = now() + interval '1 day' WHERE {grant('brief')} RETURNING id"],
    ],
    ids=["after its end", "before its beginning", "ended before its end"],
)
def test_a_grant_that_was_used_out_of_its_time_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V08", corrupt(past, *statements))


def test_one_trace_row_is_missed_by_the_grant_and_by_its_transfer(past: Books) -> None:
    names = corrupt(past, f"DELETE FROM grant_use WHERE {STARK} AND amount_usd > 0.005 RETURNING grant_id")
    assert_only({"V06", "V07"}, names)
    assert OSCORP != STARK
