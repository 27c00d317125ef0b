"""Checks of the books: quiet on sound ones, and each raises its voice for what it is there to see."""

import io
import json
from collections.abc import Sequence
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection

from billing import corrections, invariants
from orgs.models import Organization
from tests.billing.world import assert_all, assert_sound, charge, organization, rows, standing
from tests.books import Books
from tests.metering.world import event
from tests.orgs import world


@pytest.fixture
def acme(books: Books) -> Organization:
    """Books in which everything has happened: charges, an overdraft, failures, quarantine, a void."""
    acme, umbrella = organization("acme", usd="1"), organization("umbrella")
    for of in (acme, umbrella):
        charge(of, event(event_id="one"), event(event_id="two"), event(event_id="failure", status=429))
        charge(of, event(event_id="unpriced", model="nobody-priced-this"))
        charge(of, event(event_id="free", model="gemma-4-31b-it", cached_input_tokens=0))
        charge(of, event(event_id="three"))
        corrections.void(organization_id=of.pk, event_id="three", reason="tests", by=world.BY)
    return acme


def broken() -> set[str]:
    """Ids of the checks that fail."""
    return {finding.name.split()[0] for finding in invariants.check() if not finding.ok}


def corrupt(books: Books, *statements: str) -> None:
    """Change the books behind their triggers."""
    with books.connect() as raw:
        raw.execute("SET session_replication_role = replica")
        for statement in statements:
            assert raw.execute(statement).rowcount != 0, f"nothing was changed by {statement}"


def test_sound_books_pass_every_check_and_each_has_looked_at_something(acme: Organization) -> None:
    assert_sound()
    assert [finding.name for finding in invariants.check() if not finding.seen] == []


def test_empty_books_are_sound(books: Books) -> None:
    assert_sound()


ONE = "(organization_id, event_id) = (SELECT id, 'one' FROM organization WHERE slug = 'acme') AND corrects_id IS NULL"
CLAIM = ONE.removesuffix(" AND corrects_id IS NULL")
WALLET = "organization_id = (SELECT id FROM organization WHERE slug = 'acme')"
OWING = "organization_id = (SELECT id FROM organization WHERE slug = 'umbrella')"

CORRUPTIONS: list[tuple[str, Sequence[str]]] = [
    ("V01", [f"UPDATE wallet SET posted_usd = posted_usd + 0.000000000001 WHERE {WALLET}"]),
    ("V01", [f"UPDATE wallet SET overdraft_usd = overdraft_usd - 0.000000000001 WHERE {OWING}"]),
    ("V01", [f"UPDATE wallet SET spent_usd = 0 WHERE {WALLET}"]),
    ("V02", [f"UPDATE transfer SET balance_after_usd = balance_after_usd + 1 WHERE {WALLET} AND kind = 'grant'"]),
    ("V02", [f"UPDATE transfer SET seq = seq + 10 WHERE {WALLET} AND seq = 2"]),
    ("V02", [f"UPDATE wallet SET seq = seq + 1 WHERE {WALLET}"]),
    ("V05", ["ALTER TABLE wallet DROP CONSTRAINT wallet_held_in_range",
        f"UPDATE wallet SET held_usd = -1 WHERE {WALLET}"]),
    ("V09", [f"UPDATE usage_record SET payer_id = gen_random_uuid() WHERE {ONE}"]),
    ("V09", [f"UPDATE usage_record SET transfer_id = gen_random_uuid() WHERE {ONE}"]),
    ("V10", [f"DELETE FROM usage_claim WHERE {CLAIM}"]),
    ("V10", [f"UPDATE usage_claim SET cost_usd = cost_usd + 1 WHERE {CLAIM}"]),
    ("V10", [f"UPDATE usage_claim SET record_id = gen_random_uuid() WHERE {CLAIM}"]),
    ("V10", ["DELETE FROM usage_claim WHERE event_id = 'failure'"]),
    ("V10", ["DELETE FROM usage_claim WHERE event_id = 'unpriced'"]),
    ("V10", [f"DELETE FROM request_log WHERE {WALLET}"]),
    ("V10", [f"DELETE FROM quarantine WHERE {WALLET}"]),
    ("V11", [f"UPDATE usage_record SET output_tokens = output_tokens + 1 WHERE {ONE}"]),
    ("V11", [f"UPDATE usage_record SET input_tokens = 1 WHERE {ONE}"]),
    ("V11", [f"UPDATE usage_record SET service_tier = 'platinum' WHERE {ONE}"]),
    (
        "V12",
        [
            "UPDATE usage_claim c SET state = 'recorded', record_id = r.id FROM usage_record r"
            " WHERE c.event_id = 'unpriced' AND r.organization_id = c.organization_id AND r.event_id = 'one'"
        ],
    ),
    ("V26", [f"UPDATE usage_record SET occurred_at = '2001-01-01' WHERE {ONE}"]),
    ("V30", ["ALTER TABLE wallet DROP CONSTRAINT wallet_credit_limit_in_range",
        f"UPDATE wallet SET credit_limit_usd = 'NaN' WHERE {WALLET}"]),
    ("V30", ["ALTER TABLE usage_record DROP CONSTRAINT usage_record_provider_cost_usd_check",
        f"UPDATE usage_record SET provider_cost_usd = 'NaN' WHERE {ONE}"]),
    ("V30", ["ALTER TABLE usage_claim DROP CONSTRAINT usage_claim_cost_in_range",
        "UPDATE usage_claim SET cost_usd = 'NaN' WHERE event_id = 'failure'"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "statements"), CORRUPTIONS)
def test_a_corruption_is_seen_by_its_check_and_by_no_other(
    books: Books, acme: Organization, name: str, statements: Sequence[str]
) -> None:
    corrupt(books, *statements)
    assert broken() == {name}


MANY: list[tuple[set[str], str]] = [
    ({"V01", "V02", "V09"}, f"UPDATE transfer SET amount_usd = amount_usd * 2 WHERE {WALLET} AND kind = 'charge'"),
    ({"V09", "V10", "V11"}, f"UPDATE usage_record SET cost_usd = cost_usd * 2 WHERE {ONE}"),
    ({"V09", "V10"}, f"DELETE FROM usage_record WHERE {ONE}"),
    ({"V01", "V02", "V09"}, f"DELETE FROM transfer WHERE {WALLET} AND kind = 'charge'"),
    ({"V02"}, f"DELETE FROM wallet WHERE {WALLET}"),
    ({"V11", "V26"}, f"UPDATE usage_record SET price_id = gen_random_uuid() WHERE {ONE}"),
]


@pytest.mark.parametrize(("names", "statement"), MANY)
def test_what_breaks_several_promises_is_seen_by_each(
    books: Books, acme: Organization, names: set[str], statement: str
) -> None:
    corrupt(books, statement)
    assert broken() >= names


def test_a_finding_names_what_is_wrong_and_counts_it(books: Books, acme: Organization) -> None:
    for _ in range(6):
        charge(organization(f"more-{_}", usd="1"), event())
    corrupt(books, "UPDATE wallet SET spent_usd = spent_usd + 1")
    (finding,) = [finding for finding in invariants.check() if not finding.ok]
    assert finding.detail.startswith("8 broken: wallet ")
    assert finding.detail.count("wallet ") == invariants.SAMPLES_MAX
    corrupt(books, f"UPDATE wallet SET spent_usd = spent_usd - 1 WHERE NOT {WALLET}")
    (finding,) = [finding for finding in invariants.check() if not finding.ok]
    assert str(acme.pk) in finding.detail


def verify(*options: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    told = io.StringIO()
    try:
        call_command("verify", *options, stdout=told)
    except SystemExit as end:
        return int(str(end.code)), told.getvalue()
    return 0, told.getvalue()


def test_the_command_fails_when_an_invariant_does(books: Books, acme: Organization) -> None:
    assert verify()[0] == 0
    code, told = verify("--json")
    assert (code, json.loads(told)["ok"]) == (0, True)
    corrupt(books, f"UPDATE wallet SET posted_usd = posted_usd + 1 WHERE {WALLET}")
    code, told = verify()
    assert code == 1
    assert "BROKEN" in told
    assert str(acme.pk) in told
    code, told = verify("--json")
    assert (code, json.loads(told)["ok"]) == (1, False)
    assert {check["name"].split()[0] for check in json.loads(told)["checks"] if not check["ok"]} == {"V01"}


def test_verify_only_reads(books: Books, acme: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = invariants.Check("V00 writes", "SELECT 1", "UPDATE wallet SET low_usd = 1 RETURNING 'x'")
    monkeypatch.setattr(invariants, "CHECKS", (writing,))
    monkeypatch.setattr(invariants, "_run", lambda one: rows(one.broken))
    with pytest.raises(DatabaseError, match="read-only"):
        invariants.check()
    assert rows("SELECT count(*) FROM wallet WHERE low_usd = 1") == [(0,)]


def test_verify_sees_one_moment_and_holds_up_no_writer(books: Books, acme: Organization) -> None:
    with invariants._snapshot():
        before = rows("SELECT count(*) FROM usage_record")

        def write() -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '200ms'")
            told = charge(acme, event(), event(status=429), event(model="nobody-priced-this"))
            assert_all(told[:2], told[0].status)
            assert told[0].error is None

        for finding in map(invariants._run, invariants.CHECKS):
            assert finding.ok, finding
        books.together([write])
        assert rows("SELECT count(*) FROM usage_record") == before
    assert rows("SELECT count(*) FROM usage_record")[0][0] == before[0][0] + 1
    assert standing(acme).spent > Decimal(0)
    assert_sound()
