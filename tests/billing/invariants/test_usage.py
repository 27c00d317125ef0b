"""Rollups against records and calendars: each corruption raises its invariant and no other."""

from collections.abc import Sequence
from datetime import timedelta
from unittest import mock

import pytest

from billing import invariants, seals
from metering import partitions, rollups
from orgs.models import Organization
from tests.billing.corruption import assert_only, broken, corrupt, name_of
from tests.billing.invariants.test_ledger import PICO, STARK, of
from tests.billing.world import assert_sound, charge, rows
from tests.books import Books
from tests.metering import records
from tests.metering.world import event
from tests.proofs import proves

ACME = of("acme")
# One of acme's rollups.
ONE = f"{ACME} AND place = (SELECT min(place) FROM usage_rollup WHERE {ACME} AND model = 'deepseek-chat')"
NAMES = "organization_id, place, api_key_id, member_id, project_id, model, source, service_tier, batch," \
    " other_payer_id, records, requests, input_tokens, cached_input_tokens, output_tokens, cost_usd," \
    " provider_cost_usd"  # fmt: skip


@pytest.fixture
def folded(past: Books) -> Books:
    """Everything is folded, this quarter too: nothing writes to it any more."""
    records.fold_everything()
    return past


def test_rollups_of_all_that_happened_are_sound_and_were_looked_at(folded: Books) -> None:
    assert_sound()
    seen = {name_of(one): one.seen for one in invariants.check()}
    assert seen["V13"] == seen["V14"] == rows("SELECT count(*) FROM usage_rollup")[0][0]
    assert seen["V13"] > 20
    assert rows("SELECT sum(records) FROM usage_rollup") == rows("SELECT count(*) FROM usage_record")


def test_what_is_not_folded_yet_is_no_rollups_fault(past: Books) -> None:
    assert_sound()
    assert {name_of(one): one.seen for one in invariants.check()}["V13"] == 0


@proves("V13", guard="rollups_are_held_against_records")
@pytest.mark.parametrize(
    "statement",
    [
        *(f"UPDATE usage_rollup SET {name} = {name} + {step} WHERE {ONE} RETURNING organization_id"
            for name, step in (("records", 1), ("requests", 1), ("input_tokens", 1), ("cached_input_tokens", -1),
            ("output_tokens", 1), ("cost_usd", PICO), ("provider_cost_usd", PICO))),
        *(f"UPDATE usage_rollup SET {change} WHERE {ONE} RETURNING organization_id"
            for change in ("model = 'another'", "source = 'dev_tools'", "batch = true", "service_tier = 'flex'",
            "api_key_id = gen_random_uuid()", "other_payer_id = organization_id",
            "starts_at = starts_at - interval '90 minutes'",
            "starts_at = starts_at - interval '1 day'")),
        f"UPDATE usage_rollup SET organization_id = gen_random_uuid() WHERE {ONE} RETURNING (SELECT id"
            " FROM organization WHERE slug = 'acme')",
        f"DELETE FROM usage_rollup WHERE {ONE} RETURNING organization_id",
        f"DELETE FROM usage_rollup WHERE {ACME} RETURNING organization_id",
        f"INSERT INTO usage_rollup ({NAMES}, starts_at) SELECT {NAMES.replace('place', 'place + 1000')}, starts_at"
            f" FROM usage_rollup WHERE {ONE} RETURNING organization_id",
    ],
)  # fmt: skip
def test_a_rollup_that_is_not_its_records_is_seen(folded: Books, statement: str) -> None:
    assert_only("V13", corrupt(folded, statement))


@proves("V13", guard="rollups_are_held_against_records")
def test_quarters_that_were_skipped_are_seen(past: Books) -> None:
    names = corrupt(past, "UPDATE rollup_mark SET folded_until = date_bin('15 minutes', now() + interval '16 minutes',"
        " 'epoch') RETURNING (SELECT max(organization_id::text) FROM usage_record WHERE model = 'gpt-4o')")  # fmt: skip
    assert names != ["None"]
    found = broken()
    assert found.keys() == {"V13"}
    assert "differ from their records by records -" in found["V13"]


@proves("V14", guard="quarters_are_held_against_days")
@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_on_quarter",
            f"UPDATE usage_rollup SET starts_at = starts_at + interval '1 minute' WHERE {ONE}"
            " RETURNING organization_id"],
        # Usage of before and after the turn of a quarter may stand at ``folded_until`` already.
        [f"INSERT INTO usage_rollup ({NAMES}, starts_at) SELECT {NAMES}, folded_until + interval '1 day'"
            f" FROM usage_rollup, rollup_mark WHERE {ONE} RETURNING organization_id"],
        ["UPDATE organization SET time_zone = 'Mars/Phobos' WHERE slug = 'acme' RETURNING time_zone"],
    ],
    ids=["no quarter's start", "beyond what is folded", "a zone without days"],
)  # fmt: skip
def test_a_quarter_that_lies_in_no_day_is_seen(folded: Books, statements: Sequence[str]) -> None:
    assert_only("V14", corrupt(folded, *statements))


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati", "Africa/Cairo"]
)
def test_days_are_those_of_postgresql_in_every_zone(folded: Books, zone: str) -> None:
    rows("UPDATE organization SET time_zone = %s", zone)
    # The same day's usage, in each quarter of a year.
    rows(f"INSERT INTO usage_rollup ({NAMES}, starts_at) SELECT {NAMES}, starts_at - place * interval '15 minutes'"
        " FROM (SELECT organization_id, api_key_id, member_id, project_id, model, source, service_tier, batch,"
        " other_payer_id, records, requests, input_tokens, cached_input_tokens, output_tokens, cost_usd,"
        " provider_cost_usd, starts_at,"
        f" generate_series(1, 35040) AS place FROM usage_rollup WHERE {ONE}) every_quarter"
        " ON CONFLICT DO NOTHING")  # fmt: skip
    with mock.patch.object(partitions, "months", return_value=[]):
        found = {name_of(one): one for one in invariants.check()}
    assert found["V14"].ok, found["V14"]
    assert found["V14"].seen > 35_040
    assert not found["V13"].ok


def test_a_run_of_what_is_new_looks_at_its_days_only(folded: Books) -> None:
    (sealed,) = rows("SELECT max(day) FROM ledger_head")[0]
    # All of it happened just now.
    (today,) = rows("SELECT max(starts_at AT TIME ZONE 'UTC')::date FROM usage_rollup")[0]
    assert sealed < today
    new = {name_of(one): one for one in invariants.check(seals.since_last())}
    assert new["V13"].ok
    assert new["V13"].seen == rows("SELECT count(*) FROM usage_rollup")[0][0]
    corrupt(folded, f"UPDATE usage_rollup SET requests = requests + 1 WHERE {STARK} RETURNING 1")
    before = {name_of(one): one for one in invariants.check(seals.of_day(today - timedelta(days=2)))}
    assert (before["V13"].ok, before["V13"].seen) == (True, 0)
    assert not {name_of(one): one for one in invariants.check(seals.of_day(today))}["V13"].ok


def test_usage_after_the_mark_makes_no_false_alarm(past: Books) -> None:
    rollups.fold()
    charge(Organization.objects.get(slug="acme"), event())
    assert_sound()
