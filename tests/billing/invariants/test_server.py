"""Partitions, guards of the release, settings: each loss raises its invariant and no other."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, LiteralString

import pytest
from django.core.management import call_command
from django.db import connection

from billing import invariants
from billing.invariants import server
from core import clock
from core.embedded import Postgres
from metering import partitions
from tests.billing.corruption import assert_only, broken
from tests.books import Books
from tests.core.test_rights import grant, runtime
from tests.database import FOLDER_PREFIX
from tests.journeys.kills import _led_to
from tests.metering import records
from tests.proofs import proves

__all__ = ["runtime"]

ELSEWHERE = {"V15", "V16", "V17", "V19", "V20", "V21", "V22", "P01"}
# `make guards` sets it.
WRITE = "WRITE_GUARDS"


def test_the_listed_guards_are_those_that_the_migrations_make(books: Books) -> None:
    made = server.manifest(server.inventory())
    if WRITE in os.environ:
        server.MANIFEST.write_text(made)
    assert server.MANIFEST.read_text() == made, "run make guards"


def test_the_books_and_what_guards_them_are_sound(past: Books) -> None:
    records.fold_everything()
    findings = invariants.check(server=True)
    assert [finding for finding in findings if not finding.ok] == []
    # Of documents and payments there is more in test_invoices, test_payments and test_clearing.
    assert {finding.name.split()[0] for finding in findings if not finding.seen} == ELSEWHERE
    assert broken(server=True) == {}


MONTH = "usage_record_" + f"{clock.now():%Y_%m}"
NEXT = "usage_record_" + f"{partitions.month_start(clock.now(), plus=1):%Y_%m}"


@proves("V29", guard="partitions_stand_ahead")
@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["ALTER TABLE usage_record DETACH PARTITION {next}"], r"usage_record has months for \d+ days"),
        (["CREATE TABLE rest PARTITION OF request_log DEFAULT"], "rest is a DEFAULT partition"),
        (["ALTER TABLE usage_claim DETACH PARTITION usage_claim_07"], "usage_claim has 15 of 16 parts"),
    ],
    ids=["a month gone", "a DEFAULT", "a part gone"],
)
def test_a_month_without_its_table_is_seen(books: Books, statements: Sequence[str], said: str) -> None:
    change(books, *(statement.format(next=NEXT) for statement in statements))
    found = broken(server=True)
    # A table for the rest comes without the guards of its kind.
    assert found.keys() - {"V34"} == {"V29"}
    assert re.search(said, found["V29"])


def change(books: Books, *statements: str) -> None:
    """Change the database as its owner could."""
    with books.connect() as raw:
        for statement in statements:
            raw.execute(statement)


@proves("V28", guard="rights_are_compared")
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("GRANT UPDATE ON transfer TO {role}", "{role} may UPDATE transfer"),
        ("GRANT UPDATE (reason) ON transfer TO {role}", "{role} may UPDATE transfer"),
        ("GRANT DELETE ON wallet TO PUBLIC", "everybody may DELETE wallet"),
        (f"GRANT INSERT ON {MONTH} TO {{role}}", f"{{role}} may INSERT {MONTH}"),
        ("GRANT CREATE ON SCHEMA public TO {role}", "{role} may CREATE public"),
        ("ALTER TABLE wallet OWNER TO {role}", "{role} owns wallet or belongs to its owner"),
        ("ALTER ROLE {role} SUPERUSER", "{role} is a superuser, whom no right binds"),
        ("ALTER ROLE {role} BYPASSRLS", "{role} passes by row policies"),
        ("ALTER TABLE usage_record ENABLE ROW LEVEL SECURITY", f"{MONTH} is without the row policies of its table"),
    ],
    ids=["a book", "a column of a book", "everybody", "a month", "the schema", "an owner", "a superuser",
        "past policies", "a month without policies"],
)  # fmt: skip
def test_a_right_beyond_those_of_a_runtime_role_is_seen(books: Books, runtime: str, statement: str, said: str) -> None:
    grant(runtime)
    change(books, statement.format(role=runtime))
    assert_only("V28", [said.format(role=runtime)], server=True)


def test_a_runtime_role_with_its_rights_and_one_that_only_reads_are_sound(books: Books, runtime: str) -> None:
    grant(runtime)
    assert broken(server=True) == {}
    change(books, f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {runtime}")
    change(books, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {runtime}")
    assert broken(server=True) == {}


@proves("V34", guard="guards_are_of_the_release")
@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["ALTER TABLE wallet DROP CONSTRAINT wallet_posted_in_range"],
            "wallet is without constraint wallet_posted_in_range CHECK"),
        (["ALTER TABLE usage_record DROP CONSTRAINT usage_record_cost_in_range"],
            "usage_record is without constraint usage_record_cost_in_range"),
        (["ALTER TABLE hold DROP CONSTRAINT hold_in_range",
            "ALTER TABLE hold ADD CONSTRAINT hold_in_range CHECK (amount_usd >= 0)"],
            "hold has constraint hold_in_range CHECK ((amount_usd >= (0)::numeric)), which is not of this release"),
        (["ALTER TABLE grant_use DROP CONSTRAINT grant_use_organization_id_grant_id_fkey"],
            "grant_use is without constraint grant_use_organization_id_grant_id_fkey FOREIGN KEY"),
        (["DROP INDEX transfer_seq_once"], "transfer is without index transfer_seq_once CREATE UNIQUE INDEX"),
        (["DROP INDEX budget_once", "CREATE UNIQUE INDEX budget_once ON budget (id)"],
            "budget is without index budget_once"),
        (["DROP TRIGGER append_only ON transfer"], "transfer is without trigger append_only"),
        (["ALTER TABLE transfer DISABLE TRIGGER append_only"], "NOT ENABLED"),
        (["ALTER TABLE wallet DISABLE TRIGGER ALL"], "wallet has foreign keys NOT ENFORCED"),
        (["CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"],
            "adjustment is without trigger no_delete"),
        ([f"DROP TRIGGER no_truncate ON {MONTH}"], f"{MONTH} is without trigger no_truncate"),
        ([f"ALTER TABLE {MONTH} DISABLE TRIGGER append_only"], f"{MONTH} has trigger append_only"),
        (["CREATE TRIGGER quiet BEFORE INSERT ON transfer FOR EACH ROW EXECUTE FUNCTION refuse_change()"],
            "transfer has trigger quiet"),
    ],
    ids=["a check", "a check of all months", "a weaker check", "a foreign key", "a unique index",
        "another unique index", "a trigger", "a trigger that sleeps", "keys that sleep", "a trigger that does nothing",
        "a trigger of one month", "one that sleeps in one month", "one too many"],
)  # fmt: skip
def test_a_guard_that_is_gone_or_changed_is_seen(past: Books, statements: Sequence[str], said: str) -> None:
    change(past, *statements)
    assert_only("V34", [said], server=True)


def test_a_check_that_cannot_be_run_fails_and_the_others_go_on(past: Books) -> None:
    change(past, "DROP TABLE budget_spend")
    found = broken(server=True)
    assert found.keys() == {"B01", "V30", "V34"}
    assert found["B01"] == 'could not be run: relation "budget_spend" does not exist'
    assert found["V34"] == "1 broken: budget_spend has no guards at all"


def test_a_month_made_later_has_the_guards_of_its_kind(books: Books) -> None:
    partitions.ensure(ahead=9)
    assert broken(server=True) == {}


def test_a_table_that_the_release_does_not_know_is_nobodys_guard(books: Books) -> None:
    change(books, "CREATE TABLE notes (id int PRIMARY KEY, text text CHECK (text <> ''))")
    assert broken(server=True) == {}


@pytest.fixture(scope="module")
def durable(django_db_blocker: Any) -> Iterator[Books]:
    """A PostgreSQL as production has it, with empty books."""
    with TemporaryDirectory(prefix=FOLDER_PREFIX) as folder, Postgres(data_dir=Path(folder), durable=True) as own:
        made = Books(name="tollbook", url=own.url())
        with django_db_blocker.unblock(), _led_to(made.url):
            call_command("migrate", verbosity=0, interactive=False)
        yield made


@pytest.fixture
def production(durable: Books, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """It, as the place where the product is; settings are put back afterwards."""
    monkeypatch.setitem(server.SETTINGS, "fsync", {"on"})
    with django_db_blocker.unblock(), _led_to(durable.url):
        yield durable
    change(durable, "ALTER SYSTEM RESET ALL", "ALTER DATABASE tollbook RESET ALL", "SELECT pg_reload_conf()")
    until(durable, "SELECT bool_and(reset_val = 'on') FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')")


def until(there: Books, question: LiteralString) -> None:
    """Wait for a setting to reach new sessions."""
    end = time.monotonic() + 30
    while True:
        with there.connect() as raw:
            if raw.execute(question).fetchone() == (True,):
                return
        assert time.monotonic() < end, question


def test_a_server_as_production_has_it_is_sound(production: Books) -> None:
    assert broken(server=True) == {}


@proves("V35", guard="settings_are_durable")
@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_a_server_that_forgets_is_seen(production: Books, name: str) -> None:
    change(production, f"ALTER SYSTEM SET {name} = off", "SELECT pg_reload_conf()")
    until(production, f"SELECT current_setting('{name}') = 'off'")
    connection.close()
    assert_only("V35", [f"{name} is off"], server=True)


@proves("V35", guard="settings_are_durable")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("synchronous_commit = off", "synchronous_commit is set to off for any role in tollbook"),
        ("lock_timeout = 0", "lock_timeout is set to 0 for any role in tollbook"),
        ("statement_timeout = '0ms'", "statement_timeout is set to 0ms for any role in tollbook"),
        ("session_replication_role = replica", "session_replication_role is set to replica for any role in tollbook"),
        ("zero_damaged_pages = on", "zero_damaged_pages is set to on for any role in tollbook"),
    ],
)
def test_a_setting_made_for_a_database_is_seen(production: Books, setting: str, said: str) -> None:
    change(production, f"ALTER DATABASE tollbook SET {setting}")
    assert_only("V35", [said], server=True)


@proves("V35", guard="settings_are_durable")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-c synchronous_commit=off -c statement_timeout=1000 -c lock_timeout=1000"
            " -c idle_in_transaction_session_timeout=1000", "synchronous_commit is off"),
        ("-c synchronous_commit=on -c statement_timeout=1000 -c lock_timeout=1000",
            "idle_in_transaction_session_timeout is 0"),
    ],
)  # fmt: skip
def test_a_session_without_its_settings_is_seen(production: Books, options: str, said: str) -> None:
    chosen = connection.settings_dict["OPTIONS"]
    before = chosen["options"]
    connection.close()
    chosen["options"] = options
    try:
        assert_only("V35", [said], server=True)
    finally:
        connection.close()
        chosen["options"] = before
