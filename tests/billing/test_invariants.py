"""Checks of the books: quiet on sound ones, and each raises its voice for what it is there to see."""

import ast
import io
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from billing import invariants
from billing.invariants import usage
from core import clock
from metering import catalog
from metering.models import CatalogModel, Price
from orgs.models import Organization
from tests.billing import corruption, history
from tests.billing.corruption import broken, corrupt
from tests.billing.world import assert_all, assert_sound, charge, organization, rows, standing
from tests.books import Books
from tests.database import Server
from tests.metering.world import MODEL, event
from tests.proofs import proves


@pytest.fixture(scope="module")
def furnished(database_server: Server, template: str, django_db_blocker: Any) -> Iterator[Server]:
    """Books in which everything has happened, to be copied."""
    with django_db_blocker.unblock(), history.template(database_server) as server:
        yield server


@pytest.fixture
def past(furnished: Server, django_db_blocker: Any) -> Iterator[Books]:
    """A copy of them, the test's own."""
    with django_db_blocker.unblock(), history.opened(furnished) as own:
        yield own


def assert_only(id: str, books: Books, statements: Sequence[str]) -> None:
    """The corruption is seen by this check and by no other, and what it says names the row."""
    corruption.assert_only(id, corrupt(books, *statements))


def acme() -> Organization:
    """The organization that most happened to."""
    return Organization.objects.get(slug="acme")


KINDS = {"charge", "draw", "grant", "repayment", "rerate_down", "rerate_up", "void"}


def test_books_in_which_everything_happened_are_sound_and_each_check_has_looked_at_something(past: Books) -> None:
    assert_sound()
    # Of holds, ceilings, seals, rollups, documents and payments there is more in tests/billing/invariants.
    unseen = {finding.name.split()[0] for finding in invariants.check() if not finding.seen}
    assert unseen == {
        "V04", "V13", "V14", "V15", "V16", "V17", "V19", "V20", "V21", "V22", "V23", "V32", "B01", "P01",
    }  # fmt: skip
    assert {kind for (kind,) in rows("SELECT DISTINCT kind FROM transfer")} == KINDS


def test_empty_books_are_sound(books: Books) -> None:
    assert_sound()


def exactly_proven() -> set[str]:
    """The checks that have a proof in which a corruption is seen by them and by no other check."""
    found = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        for test in ast.walk(ast.parse(path.read_text())):
            if isinstance(test, ast.FunctionDef):
                proven = [one for mark in test.decorator_list for one in _first_argument(mark, "proves")]
                found |= {one for call in ast.walk(test) for one in _first_argument(call, "assert_only")} & set(proven)
    return found


def _first_argument(node: ast.AST, name: str) -> list[str]:
    """The text that a function of this name is called with, if the node is such a call."""
    match node:
        case ast.Call(func=ast.Name(id=called), args=[ast.Constant(value=str(text)), *_]) if called == name:
            return [text]
    return []


def test_every_check_has_corruptions_that_it_alone_sees() -> None:
    names = {one.name.split()[0] for one in invariants.CHECKS}
    assert names >= {"V01", "V02", "V03", "V04", "V05", "V06", "V07", "V08", "V09", "V10", "V11", "V12", "V13", "V14",
        "V23", "V26", "V27", "V28", "V30", "V31", "V32", "V33", "V34", "V35", "B01"}  # fmt: skip
    # Where a table for the rest stands in for a month, it lacks the guards of its kind too (V34).
    assert names - exactly_proven() == {"V29"}


def of(slug: str) -> str:
    """Rows of an organization."""
    return f"organization_id = (SELECT id FROM organization WHERE slug = '{slug}')"


def charged(event_id: str, slug: str = "acme") -> str:
    """The record that an event was charged by."""
    return f"{of(slug)} AND event_id = '{event_id}' AND corrects_id IS NULL"


ONE = charged("one")
CLAIM = f"{of('acme')} AND event_id = 'one'"
WALLET, OWING = of("acme"), of("umbrella")
# Acme's last transfer is a charge, of one record.
LAST = f"{WALLET} AND seq = (SELECT seq FROM wallet WHERE {WALLET})"
PICO = "0.000000000001"
OF_LAST = f"WHERE {WALLET} AND transfer_id = (SELECT id FROM transfer WHERE {LAST})"


def taken(usd: str) -> list[str]:
    """Acme's one grant gave so much more, and the trace of its last charge says so."""
    return [
        f"UPDATE credit_grant SET remaining_usd = remaining_usd - {usd} WHERE {WALLET}",
        f"UPDATE grant_use SET amount_usd = amount_usd + {usd} {OF_LAST}",
    ]


UNUSED = "model_id = (SELECT id FROM model WHERE slug = 'unused-1')"
FIRST = f"{UNUSED} AND effective_to IS NOT NULL"


@proves("V10", guard="claims_are_held_against_records")
@pytest.mark.parametrize(
    "statements",
    [
        [f"DELETE FROM usage_claim WHERE {CLAIM} RETURNING record_id"],
        [f"UPDATE usage_claim SET cost_usd = cost_usd + 1 WHERE {CLAIM} RETURNING record_id"],
        [f"UPDATE usage_claim SET record_id = gen_random_uuid() WHERE {CLAIM} RETURNING record_id"],
        [f"DELETE FROM usage_claim WHERE event_id = 'failure' AND {WALLET} RETURNING record_id"],
        [f"DELETE FROM usage_claim WHERE event_id = 'unpriced' AND {WALLET} RETURNING event_id"],
        [f"DELETE FROM request_log WHERE {WALLET} RETURNING id"],
        [f"DELETE FROM quarantine WHERE {WALLET} AND event_id = 'unpriced' RETURNING id"],
        # What waits is charged already, and by another event's record.
        ["UPDATE usage_claim c SET state = 'recorded', record_id = r.id FROM usage_record r"
                f" WHERE c.event_id = 'unpriced' AND r.organization_id = c.organization_id AND r.event_id = 'one'"
                f" AND r.{WALLET} RETURNING c.event_id, c.record_id"],
        # What was charged waits again.
        [f"UPDATE usage_claim SET state = 'quarantined' WHERE {CLAIM} RETURNING record_id"],
   ],
)  # fmt: skip
def test_a_claim_that_protects_nothing_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V10", past, statements)


@proves("V09", guard="transfers_are_held_against_usage")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE usage_record SET payer_id = gen_random_uuid() WHERE {ONE} RETURNING transfer_id, payer_id"],
        [f"UPDATE usage_record SET transfer_id = gen_random_uuid() WHERE {ONE} RETURNING transfer_id"],
        [f"UPDATE usage_record SET transfer_id = (SELECT transfer_id FROM usage_record WHERE {charged('smart')})"
            f" WHERE {ONE} RETURNING transfer_id"],
        ["ALTER TABLE usage_record DROP CONSTRAINT usage_record_cost_has_transfer",
            f"UPDATE usage_record SET transfer_id = NULL WHERE {ONE} RETURNING id"],
        # Twice the counts at twice the price, and its claim says so too: only the transfer knows better.
        [f"UPDATE usage_claim SET cost_usd = 2 * cost_usd WHERE {CLAIM}",
            "UPDATE usage_record SET cost_usd = 2 * cost_usd, input_tokens = 2 * input_tokens, cached_input_tokens ="
            f" 2 * cached_input_tokens, output_tokens = 2 * output_tokens WHERE {ONE} RETURNING transfer_id"],
        [f"DELETE FROM usage_claim WHERE {CLAIM}", f"DELETE FROM usage_record WHERE {ONE} RETURNING transfer_id"],
        # The ledger, the wallet and the grant agree with each other, and with nothing that was used.
        [*taken(PICO),
            f"UPDATE wallet SET posted_usd = posted_usd - {PICO}, spent_usd = spent_usd + {PICO} WHERE {WALLET}",
            f"UPDATE transfer SET amount_usd = amount_usd + {PICO}, balance_after_usd = balance_after_usd - {PICO}"
            f" WHERE {LAST} RETURNING id"],
        [f"UPDATE wallet SET posted_usd = posted_usd - 0.5, spent_usd = spent_usd + 0.5, seq = seq + 1 WHERE {WALLET}",
            "INSERT INTO transfer SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(),"
            " 'amount_usd', 0.5, 'reference', 'made up', 'seq', w.seq, 'balance_after_usd', w.posted_usd))).*"
            f" FROM transfer t JOIN wallet w USING (organization_id) WHERE {WALLET} AND t.seq = w.seq - 1",
            f"UPDATE credit_grant SET remaining_usd = remaining_usd - 0.5 WHERE {WALLET}",
            "INSERT INTO grant_use SELECT g.organization_id, gen_random_uuid(), t.id, g.id, 0.5 FROM credit_grant g"
            " JOIN transfer t USING (organization_id) WHERE t.reference = 'made up'",
            "SELECT id FROM transfer WHERE reference = 'made up'"],
        [f"UPDATE credit_grant SET remaining_usd = remaining_usd + (SELECT amount_usd FROM transfer WHERE {LAST})"
            f" WHERE {WALLET}",
            f"DELETE FROM grant_use {OF_LAST}",
            f"WITH gone AS (DELETE FROM transfer WHERE {LAST} RETURNING *)"
            " UPDATE wallet w SET posted_usd = posted_usd + amount_usd, spent_usd = spent_usd - amount_usd,"
            " seq = w.seq - 1 FROM gone WHERE w.organization_id = gone.organization_id RETURNING gone.id"],
    ],
    ids=[
        "another payer", "a transfer that is not there", "the transfer of another", "no transfer", "twice the cost",
        "a record gone", "a larger transfer", "a transfer for nothing", "a transfer gone",
    ],
)  # fmt: skip
def test_usage_that_is_not_its_transfers_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V09", past, statements)


RULED = charged("ruled", "initech")
MARKUP = "SELECT id FROM price_rule WHERE factor IS NOT NULL"


@proves("V11", guard="costs_are_derived_again")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE usage_record SET output_tokens = output_tokens + 1 WHERE {ONE} RETURNING id"],
        [f"UPDATE usage_record SET input_tokens = 1 WHERE {ONE} RETURNING id"],
        [f"UPDATE usage_record SET service_tier = 'platinum' WHERE {ONE} RETURNING id"],
        [f"UPDATE usage_record SET units = '{{\"toasts\": 1}}' WHERE {ONE} RETURNING id"],
        [f"UPDATE usage_record SET rule_id = NULL WHERE {RULED} RETURNING id"],
        [f"UPDATE usage_record SET rule_id = gen_random_uuid() WHERE {ONE} RETURNING id"],
        [f"UPDATE usage_record SET occurred_at = occurred_at - interval '2 s' WHERE {RULED} RETURNING id"],
        ["UPDATE price_rule SET factor = 1.3 WHERE factor IS NOT NULL",
            f"SELECT id FROM usage_record WHERE rule_id = ({MARKUP}) AND corrects_id IS NULL"],
        [f"UPDATE usage_record SET model = 'gpt-4o' WHERE {charged('free')} RETURNING id"],
        # Record, claim, ledger and wallet tell one story, and the price another.
        [*taken(PICO), f"UPDATE usage_claim SET cost_usd = cost_usd + {PICO} WHERE {WALLET} AND event_id = 'five'",
            f"UPDATE wallet SET posted_usd = posted_usd - {PICO}, spent_usd = spent_usd + {PICO} WHERE {WALLET}",
            f"UPDATE transfer SET amount_usd = amount_usd + {PICO}, balance_after_usd = balance_after_usd - {PICO}"
            f" WHERE {LAST}",
            f"UPDATE usage_record SET cost_usd = cost_usd + {PICO} WHERE {charged('five')} RETURNING id"],
    ],
    ids=[
        "more tokens", "parts beyond the whole", "a tier without a price", "a use without a price", "no rule",
        "a rule that is not there", "before its rule", "another factor", "another model", "a pico-dollar",
    ],
)  # fmt: skip
def test_a_cost_that_its_versions_do_not_explain_is_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V11", past, statements)


# 4 organizations × (one, two, late, free, smart, two of ended-1, three, four, ruled) and acme's five.
CHARGED = 41


def derived() -> invariants.Finding:
    """What V11 finds."""
    (finding,) = [finding for finding in invariants.check() if finding.name.startswith("V11")]
    return finding


def test_every_new_record_is_derived_again_and_a_sample_of_the_old(
    past: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert derived().seen == CHARGED
    monkeypatch.setattr(usage, "NEW", timedelta(0))
    monkeypatch.setattr(usage, "OLD_PERCENT", 0)
    assert derived().seen == 0
    monkeypatch.setattr(usage, "OLD_PERCENT", 100)
    assert derived().seen == CHARGED
    assert derived().ok
    (record,) = corrupt(past, f"UPDATE usage_record SET input_tokens = input_tokens + 1 WHERE {ONE} RETURNING id")
    assert record in derived().detail


def waiting() -> invariants.Finding:
    """What V12 finds."""
    (finding,) = [finding for finding in invariants.check() if finding.name.startswith("V12")]
    return finding


HELD = "UPDATE quarantine SET recorded_at = recorded_at - interval"


@proves("V12", guard="quarantine_has_an_alarm")
@pytest.mark.parametrize(
    "statement",
    [
        f"{HELD} '7 days 1 hour' WHERE event_id = 'unpriced' AND {WALLET} RETURNING organization_id, event_id",
        f"{HELD} '100 days' WHERE event_id = 'orphan' RETURNING event_id, scope",
    ],
    ids=["unpriced", "nobody to charge"],
)
def test_usage_that_waits_too_long_in_quarantine_is_seen(past: Books, statement: str) -> None:
    assert_only("V12", past, [statement])


def test_what_was_charged_or_withdrawn_waits_no_more_however_old(past: Books) -> None:
    corrupt(past, f"{HELD} '100 days' WHERE resolved_at IS NOT NULL RETURNING id")
    assert_sound()


def test_what_waits_is_counted_with_its_age_and_valued_at_median_prices(books: Books) -> None:
    acme = organization("acme", usd="1")
    assert waiting()[1:] == (True, 0, "none wait")
    history.publish(
        history.entry(
            "tried-1",
            *(
                (clock.now() - timedelta(days=days), clock.now() - timedelta(days=days - 1), rate)
                for days, rate in ((9, "2"), (8, "10"), (7, "3"))
            ),
        )
    )
    # 2,000,000 tokens at the median of 2, 10 and 3 dollars a million.
    charge(acme, *(event(model="tried-1", input_tokens=1_000_000, cached_input_tokens=0) for _ in range(2)))
    corrupt(books, f"{HELD} '6 days 5 hours 30 minutes' WHERE event_id IS NOT NULL RETURNING id")
    assert waiting()[1:] == (
        True, 2, "2 wait (0 with nobody to charge), the oldest for 6 d 5 h, worth about 6 USD at median prices",
    )  # fmt: skip
    with override_settings(QUARANTINE_ALERT_DAYS=6):
        ok, seen, detail = waiting()[1:]
    assert (ok, seen) == (False, 2)
    assert detail.startswith("2 wait for more than 6 days: quarantined event event-")
    assert detail.endswith(". In all 2 wait (0 with nobody to charge), the oldest for 6 d 5 h, worth about 6 USD"
        " at median prices")  # fmt: skip


@proves("V26", guard="published_prices_are_checked")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE usage_record SET occurred_at = '2001-01-01' WHERE {ONE} RETURNING id"],
        [f"UPDATE usage_record SET occurred_at = occurred_at + interval '1 s' WHERE {charged('before')} RETURNING id"],
        ["ALTER TABLE price DROP CONSTRAINT price_once_per_start",
            "INSERT INTO price (id, model_id, effective_from, effective_to, revision, rates, source, created_at,"
            " digest) SELECT gen_random_uuid(), model_id, effective_from, effective_to, revision, rates, source,"
            f" created_at, digest FROM price WHERE {FIRST} RETURNING id"],
        [f"UPDATE price SET effective_to = effective_to - interval '1 day' WHERE {FIRST} RETURNING id"],
        ["UPDATE price SET revision = 3 WHERE revision = 2 AND model_id = (SELECT id FROM model WHERE slug = 'gpt-4o')"
            " RETURNING id"],
    ],
    ids=["before its price", "after its price", "two at once", "a gap", "a revision gone"],
)  # fmt: skip
def test_prices_out_of_order_and_records_beside_them_are_seen(past: Books, statements: Sequence[str]) -> None:
    assert_only("V26", past, statements)


def insert(slug: str, **fields: Any) -> Price:
    """Publish a version by the back door, with its digest."""
    price = Price(model=CatalogModel.objects.get(slug=slug), rates=history.card("1", "1"), source="tests", **fields)
    catalog._insert(price)
    return price


@proves("V26", guard="published_prices_are_checked")
def test_a_version_that_slipped_into_time_already_charged_is_seen(past: Books) -> None:
    insert(MODEL, effective_from=clock.now() - timedelta(hours=1))
    found = broken()
    assert found.keys() == {"V26"}
    (count,) = rows("SELECT count(*) FROM usage_record WHERE model = %s", MODEL)[0]
    assert found["V26"].startswith(f"{count} broken: record ")
    assert "which did not hold at" in found["V26"]


@proves("V26", guard="published_prices_are_checked")
def test_a_gap_between_two_versions_is_seen(past: Books) -> None:
    start = clock.now()
    before = insert("deepai-coder", effective_from=start, effective_to=start + timedelta(days=1))
    assert broken() == {}
    insert("deepai-coder", effective_from=start + timedelta(days=2))
    found = broken()
    assert found.keys() == {"V26"}
    assert found["V26"].startswith(f"1 broken: price {before.id} of deepai-coder ends at ")


@proves("V26", guard="published_prices_have_digests")
@pytest.mark.parametrize(
    "change",
    [
        "rates = jsonb_set(rates, '{terms,0,rates,input}', '\"0.9\"')",
        "source = source || ' '",
        "effective_from = effective_from - interval '1 us'",
        "created_at = created_at + interval '1 us'",
        "model_id = (SELECT id FROM model WHERE slug = 'deepai-coder')",
        "id = gen_random_uuid()",
        "digest = decode(repeat('00', 32), 'hex')",
    ],
)
def test_a_published_version_that_was_rewritten_is_seen(past: Books, change: str) -> None:
    assert_only("V26", past, [f"UPDATE price SET {change} WHERE {FIRST} RETURNING id"])


MANY: list[tuple[set[str], str]] = [
    ({"V01", "V02", "V09"}, f"UPDATE transfer SET amount_usd = amount_usd * 2 WHERE {WALLET} AND kind = 'charge'"),
    ({"V09", "V10", "V11"}, f"UPDATE usage_record SET cost_usd = cost_usd * 2 WHERE {ONE}"),
    ({"V09", "V10"}, f"DELETE FROM usage_record WHERE {ONE}"),
    ({"V01", "V02", "V09"}, f"DELETE FROM transfer WHERE {WALLET} AND kind = 'charge'"),
    ({"V02"}, f"DELETE FROM wallet WHERE {WALLET}"),
    ({"V11", "V26"}, f"UPDATE usage_record SET price_id = gen_random_uuid() WHERE {ONE}"),
    ({"V11", "V26"}, "UPDATE price SET rates = jsonb_set(rates, '{terms,0,rates,input}', '\"0.9\"')"),
]


@pytest.mark.parametrize(("names", "statement"), MANY)
def test_what_breaks_several_promises_is_seen_by_each(past: Books, names: set[str], statement: str) -> None:
    corrupt(past, f"{statement} RETURNING 1")
    assert broken().keys() >= names


def test_a_finding_names_what_is_wrong_and_counts_it(past: Books) -> None:
    for place in range(4):
        charge(organization(f"more-{place}", usd="1"), event())
    corrupt(past, "UPDATE wallet SET spent_usd = spent_usd + 1 RETURNING 1")
    (detail,) = broken().values()
    assert detail.startswith("8 broken: wallet ")
    assert detail.count("wallet ") == invariants.SAMPLES_MAX
    corrupt(past, f"UPDATE wallet SET spent_usd = spent_usd - 1 WHERE NOT {WALLET} RETURNING 1")
    (detail,) = broken().values()
    assert str(acme().pk) in detail


def verify(*options: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    told = io.StringIO()
    try:
        call_command("verify", *options, stdout=told)
    except SystemExit as end:
        return int(str(end.code)), told.getvalue()
    return 0, told.getvalue()


def test_the_command_fails_when_an_invariant_does(past: Books) -> None:
    code, told = verify()
    assert code == 0
    assert "5 wait (1 with nobody to charge), the oldest for 0 d" in told
    code, told = verify("--json")
    assert (code, json.loads(told)["ok"]) == (0, True)
    corrupt(past, f"UPDATE wallet SET spent_usd = spent_usd + 1 WHERE {WALLET} RETURNING 1")
    code, told = verify()
    assert code == 1
    assert "BROKEN" in told
    assert str(acme().pk) in told
    code, told = verify("--json")
    assert (code, json.loads(told)["ok"]) == (1, False)
    assert {check["name"].split()[0] for check in json.loads(told)["checks"] if not check["ok"]} == {"V01"}


def test_verify_only_reads(past: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = invariants.Check("V00 writes", "UPDATE wallet SET low_usd = 1 RETURNING 1", "SELECT 'x' WHERE false")
    monkeypatch.setattr(invariants, "CHECKS", (writing,))
    (finding,) = invariants.check()
    assert finding == ("V00 writes", False, 0, "could not be run: cannot execute UPDATE in a read-only transaction")
    assert rows("SELECT count(*) FROM wallet WHERE low_usd = 1") == [(0,)]


def test_verify_sees_one_moment_and_holds_up_no_writer(past: Books) -> None:
    with invariants.snapshot():
        before = rows("SELECT count(*) FROM usage_record")

        def write() -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '200ms'")
            told = charge(acme(), event(), event(status=429), event(model="nobody-priced-this"))
            assert_all(told[:2], told[0].status)
            assert told[0].error is None

        for finding in invariants.each():
            assert finding.ok, finding
        past.together([write])
        assert rows("SELECT count(*) FROM usage_record") == before
    assert rows("SELECT count(*) FROM usage_record")[0][0] == before[0][0] + 1
    assert standing(acme()).spent > Decimal(0)
    assert_sound()
