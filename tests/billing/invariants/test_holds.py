"""What is set aside, and ceilings: each corruption raises its invariant and no other."""

from collections.abc import Sequence

import pytest

from tests.billing.corruption import assert_only, corrupt
from tests.billing.invariants.test_ledger import PICO, STARK, WAYNE
from tests.books import Books
from tests.proofs import proves

# Wayne's hold is counted by no ceiling.
OPEN = f"{WAYNE} AND state = 'open'"
CAPTURED = "(SELECT h.id FROM hold h WHERE h.state = 'captured' AND h.payer_id = h.organization_id)"
USED = f"{STARK} AND subject = 'key' AND \"window\" = '5h'"


@proves("V04", guard="held_is_held_against_holds")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE wallet SET held_usd = held_usd + {PICO} WHERE {STARK} RETURNING organization_id"],
        [f"UPDATE hold SET state = 'released', settled_at = now() WHERE {OPEN} RETURNING payer_id"],
        [f"UPDATE hold SET amount_usd = amount_usd * 2 WHERE {OPEN} RETURNING payer_id"],
        ["UPDATE hold SET state = 'open', settled_at = NULL, expires_at = now() + interval '1 hour', budget_ids = '{}'"
            f" WHERE {STARK} AND state = 'released' RETURNING payer_id"],
    ],
    ids=["more held", "a hold that leaked", "a larger hold", "released twice"],
)  # fmt: skip
def test_a_wallet_that_holds_what_no_hold_does_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V04", corrupt(past, *statements))


@proves("V23", guard="holds_are_held_against_their_end")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE hold SET expires_at = now() - interval '5 minutes 1 second' WHERE {OPEN} RETURNING id"],
        [f"UPDATE hold SET record_id = NULL WHERE id = {CAPTURED} RETURNING id"],
        [f"UPDATE hold SET record_id = (SELECT id FROM usage_record WHERE {STARK} AND event_id = 'larger')"
            f" WHERE id = {CAPTURED} RETURNING id, record_id"],
        [f"UPDATE usage_record SET authorization_id = NULL"
            f" WHERE id = (SELECT record_id FROM hold WHERE id = {CAPTURED}) RETURNING id"],
        [f"UPDATE usage_record SET authorization_id = (SELECT id FROM hold WHERE {OPEN})"
            f" WHERE {WAYNE} AND event_id = 'last' RETURNING id, authorization_id"],
    ],
    ids=["past its end", "captured by nobody", "captured by another", "not named by its record", "named and open"],
)  # fmt: skip
def test_a_hold_that_did_not_end_once_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V23", corrupt(past, *statements))


@proves("B01", guard="ceilings_are_held_against_records")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE budget SET spent = spent + {PICO} WHERE {USED} RETURNING id"],
        [f"UPDATE budget SET spent = 0 WHERE {USED} RETURNING id"],
        [f"UPDATE budget SET held = held - {PICO} WHERE {USED} RETURNING id"],
        ["UPDATE budget SET held = 1 WHERE removed_at IS NOT NULL RETURNING id"],
        # The row and its bucket agree, and the records know better.
        [f"UPDATE budget SET spent = spent + 1 WHERE {USED}",
            f"UPDATE budget_spend SET amount = amount + 1 WHERE budget_id = (SELECT id FROM budget WHERE {USED})"
            " RETURNING budget_id"],
        [f"UPDATE budget SET spent = spent - 1 WHERE {STARK} AND \"window\" = 'month' AND unit = 'tokens'",
            "UPDATE budget_spend SET amount = amount - 1 WHERE budget_id = (SELECT id FROM budget"
            f" WHERE {STARK} AND \"window\" = 'month' AND unit = 'tokens') RETURNING budget_id"],
        [f"DELETE FROM budget_spend WHERE budget_id = (SELECT id FROM budget WHERE {USED}) RETURNING budget_id"],
        [f"UPDATE wallet SET has_budgets = false WHERE {STARK} RETURNING organization_id"],
        [f"UPDATE wallet SET has_budgets = true WHERE {WAYNE} RETURNING organization_id"],
    ],
    ids=["a pico-dollar", "nothing spent", "less held", "held for nobody", "more than was used", "a token less",
        "a bucket gone", "ceilings unknown to the wallet", "ceilings that are none"],
)  # fmt: skip
def test_a_ceiling_that_counted_something_else_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("B01", corrupt(past, *statements))
