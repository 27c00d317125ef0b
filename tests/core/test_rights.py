"""Who may change the books: nobody by the triggers, and the runtime role not even without them (W15)."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from django.db.utils import IntegrityError
from psycopg.errors import InsufficientPrivilege, IntegrityConstraintViolation

from billing import corrections, invariants
from billing.models import Transfer
from core import clock, ids, rights
from metering import partitions
from metering.models import Price, RequestLog, UsageRecord
from orgs.models import AuditEntry
from tests import books as own_books
from tests.billing.world import charge, counts, organization, record, rows, standing, statuses
from tests.books import Books
from tests.metering.world import batch, event
from tests.orgs import world
from tests.proofs import proves

# What rows of the books may be tried on, without a WHERE: the first row meets the refusal.
CHANGES: dict[str, str] = {
    "usage_record": "end_user = 'somebody'",
    "request_log": "status = 200",
    "transfer": "reason = 'other'",
    "price": "source = 'other'",
    "audit_entry": "verb = 'nothing'",
}
MODELS: list[Any] = [UsageRecord, RequestLog, Transfer, Price, AuditEntry]


def fill() -> None:
    """At least one row in each of these books."""
    acme = world.organization("acme")
    charge(acme, event(), event(status=429))
    assert all(rows(f"SELECT count(*) FROM {table}")[0][0] for table in CHANGES)


def parts(table: str) -> list[str]:
    """A table and its partition that has the rows, if it has partitions."""
    found = rows(f"SELECT DISTINCT tableoid::regclass::text FROM {table}")
    return sorted({table, *(name for (name,) in found)})


def attempts(table: str) -> list[str]:
    """Every statement that would change or remove what the books hold."""
    return [
        f"UPDATE {table} SET {CHANGES[table.split('_20')[0]]}",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
    ]


@proves("W15", guard="triggers_refuse_changes")
def test_nobody_changes_or_removes_what_the_books_hold(books: Books) -> None:
    fill()
    before = {table: rows(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t") for table in CHANGES}
    with books.connect() as owner:
        for table in CHANGES:
            for part in parts(table):
                for attempt in attempts(part):
                    with pytest.raises(IntegrityConstraintViolation, match="append-only"):
                        owner.execute(attempt)
    for model in MODELS:
        row = model.objects.all()[0]
        for change in (
            model.objects.all().delete,
            lambda model=model: model.objects.update(**{model._meta.pk.name: ids.new()}),
            row.save,
            row.delete,
        ):
            with pytest.raises(IntegrityError, match="append-only"):
                change()
    assert before == {
        table: rows(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t") for table in CHANGES
    }


def test_the_triggers_stand_where_the_models_say_so_and_on_every_partition(books: Books) -> None:
    found = rows(
        "SELECT c.relname, c.relispartition, bool_or(t.tgtype & 24 = 24), bool_or(t.tgtype & 32 = 32)"
        " FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE p.proname = 'refuse_change' GROUP BY c.relname, c.relispartition"
    )
    complete = {name for name, _, changes, truncate in found if changes and truncate}
    assert {name for name, is_part, *_ in found if not is_part and name in complete} == rights.books()
    months = {name for table in partitions.TABLES for name in partitions.existing(table)}
    assert months <= complete
    assert len(months) >= 2 * partitions.MONTHS_AHEAD
    # Wallets change, with their transfers; they are not removed.
    undeletable = {model._meta.db_table for model in apps.get_models() if getattr(model, "undeletable", False)}
    assert (
        {name for name, *_ in found} - complete
        == undeletable
        == {
            "adjustment",
            "archived_month",
            "claim_horizon",
            "credit_grant",
            "hold",
            "rollup_mark",
            "topup",
            "payment",
            "refund",
            "dispute",
            "stripe_event",
            "wallet",
            "difference",
            "provider_bill",
            "legal_entity",
            "number_series",
            "billing_period",
            "invoice",
            "bank_transfer",
            "dunning_step",
            "unknown_outcome",
        }
    )


@pytest.fixture
def runtime(books: Books) -> Iterator[str]:
    """A role that runs Tollbook, and its address."""
    role = f"{books.name}_runtime"
    with books.connect() as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'runtime'")
        try:
            yield role
        finally:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


def grant(role: str) -> str:
    """What the command says."""
    told = io.StringIO()
    call_command("grant_runtime_role", role, stdout=told)
    return told.getvalue()


@contextmanager
def acting_as(role: str) -> Iterator[None]:
    """Everything that this process's next connections do, they do as the role."""
    options = connection.settings_dict["OPTIONS"]
    before = options["options"]
    connection.close()
    options["options"] = f"{before} -c role={role}"
    try:
        yield
    finally:
        connection.close()
        options["options"] = before


@proves("W15", guard="rights_spare_the_books")
def test_the_runtime_role_has_no_right_to_change_the_books(books: Books, runtime: str) -> None:
    fill()
    grant(runtime)
    before = counts()
    with books.connect() as owner, owner.transaction(force_rollback=True):
        # Triggers are the other wall: this one stands alone here.
        for table in CHANGES:
            owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        owner.execute(f"SET LOCAL ROLE {runtime}")
        for table in CHANGES:
            for part in parts_as(owner, table):
                for attempt in attempts(part):
                    with pytest.raises(InsufficientPrivilege), owner.transaction():
                        owner.execute(attempt)
    assert counts() == before


def parts_as(asking: psycopg.Connection, table: str) -> list[str]:
    """As ``parts``, by a connection in a transaction of its own."""
    found = asking.execute(f"SELECT DISTINCT tableoid::regclass::text FROM {table}").fetchall()
    return sorted({table, *(name for (name,) in found)})


DEFINING = [
    "CREATE TABLE mine (id int)",
    "CREATE TABLE mine PARTITION OF usage_record DEFAULT",
    "ALTER TABLE transfer DISABLE TRIGGER append_only",
    "DROP TRIGGER append_only ON transfer",
    "ALTER TABLE wallet DROP CONSTRAINT wallet_posted_in_range",
    "ALTER TABLE usage_record DETACH PARTITION usage_record_2026_11",
    "DROP TABLE transfer",
    "CREATE FUNCTION public.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE OR REPLACE FUNCTION wallet_is_explained() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE RULE quiet AS ON INSERT TO transfer DO INSTEAD NOTHING",
    "CREATE INDEX ON transfer (amount_usd)",
    "CREATE VIEW mine AS SELECT 1",
    "SET session_replication_role = replica",
    "DELETE FROM wallet",
    "TRUNCATE wallet",
    "DELETE FROM usage_claim",
    "TRUNCATE usage_claim",
    "TRUNCATE quarantine",
    "INSERT INTO django_migrations (app, name, applied) VALUES ('x', 'y', now())",
    "COPY transfer TO PROGRAM 'true'",
]


def test_the_runtime_role_defines_nothing_and_empties_nothing(books: Books, runtime: str) -> None:
    fill()
    grant(runtime)
    part = partitions.name("usage_record", partitions.month_start(clock.now()))
    with acting_as(runtime):
        for attempt in DEFINING:
            with pytest.raises(Error) as refusal:
                rows(attempt.replace("usage_record_2026_11", part))
            assert isinstance(refusal.value.__cause__, InsufficientPrivilege), attempt


def test_everything_a_running_service_does_works_with_the_runtime_role(books: Books, runtime: str) -> None:
    grant(runtime)
    with acting_as(runtime):
        acme, umbrella = world.organization("acme"), world.organization("umbrella")
        issued = world.service_key()
        chosen = [(acme, event()), (umbrella, event(status=429)), (umbrella, event(model="nobody-priced-this"))]
        told = record(batch(*chosen))
        assert statuses(told) == ["created", "created", "quarantined"]
        assert statuses(record(batch(*chosen))) == ["duplicate", "duplicate", "quarantined"]
        corrections.void(organization_id=acme.pk, event_id=chosen[0][1].event_id, reason="tests", by=world.BY)
        assert all(finding.ok for finding in invariants.check())
        assert standing(acme).balance == 0
        assert issued.secret.startswith("dtk_")


def test_a_missing_month_fails_the_runtime_roles_events_until_the_owner_has_made_it(books: Books, runtime: str) -> None:
    acme = organization("acme", usd="1")
    grant(runtime)
    month = partitions.name("usage_record", partitions.month_start(clock.now()))
    with books.connect() as owner:
        owner.execute(f"DROP TABLE {month}")
    taken = [event() for _ in range(5)]
    with acting_as(runtime):
        assert statuses(charge(acme, *taken)) == ["failed"] * 5
    assert counts()["usage_claim"] == 0
    assert month in partitions.ensure()
    with acting_as(runtime):
        assert statuses(charge(acme, *taken)) == ["created"] * 5


def test_a_month_made_after_the_grant_needs_no_grant_of_its_own(books: Books, runtime: str) -> None:
    grant(runtime)
    later = clock.now() + timedelta(days=400)
    (made, *_) = partitions.ensure(at=later, ahead=0)
    with acting_as(runtime), transaction.atomic():
        rows("SET CONSTRAINTS ALL IMMEDIATE")
        assert rows("SELECT count(*) FROM usage_record WHERE id >= %s", ids.floor(later)) == [(0,)]
        with pytest.raises(Error), transaction.atomic():
            rows(f"SELECT count(*) FROM {made}")


def test_the_command_tells_what_it_granted_and_takes_back_what_is_no_longer_listed(books: Books, runtime: str) -> None:
    with books.connect() as owner:
        owner.execute(f"GRANT ALL ON transfer, wallet TO {runtime}")
        owner.execute("GRANT SELECT ON transfer TO PUBLIC")
    told = dict(line.split(maxsplit=1) for line in grant(runtime).splitlines())
    assert grant(runtime), "a second time"
    assert told["transfer"] == told["usage_record"] == told["price"] == told["audit_entry"] == "SELECT, INSERT"
    assert told["wallet"] == told["usage_claim"] == "SELECT, INSERT, UPDATE"
    assert told["organization"] == "SELECT, INSERT, UPDATE, DELETE"
    assert told["django_migrations"] == "SELECT"
    assert not any(name.startswith(("usage_record_2", "request_log_2", "usage_claim_")) for name in told)
    held = rows(
        "SELECT string_agg(privilege_type, ', ' ORDER BY privilege_type) FROM information_schema.role_table_grants"
        " WHERE table_name = 'transfer' AND grantee IN (%s, 'PUBLIC')",
        runtime,
    )
    assert held == [("INSERT, SELECT",)]


def no_such_role(books: Books) -> str:
    return "nobody"


def superuser(books: Books) -> str:
    return str(rows("SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY oid LIMIT 1")[0][0])


def member_of_the_owner(books: Books) -> str:
    role = f"{books.name}_member"
    rows(f"CREATE ROLE {role}_owner")
    rows(f"CREATE ROLE {role} IN ROLE {role}_owner")
    rows(f"ALTER TABLE transfer OWNER TO {role}_owner")
    return role


@pytest.mark.parametrize(
    ("make", "why"),
    [(no_such_role, "no role"), (superuser, "superuser"), (member_of_the_owner, "owns transfer")],
)
def test_a_role_that_could_get_around_its_rights_is_refused(
    books: Books, make: Callable[[Books], str], why: str
) -> None:
    role = make(books)
    try:
        with pytest.raises(CommandError, match=why):
            grant(role)
    finally:
        rows("ALTER TABLE transfer OWNER TO CURRENT_USER")
        rows(f"DROP ROLE IF EXISTS {books.name}_member, {books.name}_member_owner")
    assert own_books.current() is books


def test_a_detached_month_is_still_a_book(books: Books, runtime: str) -> None:
    organization("acme", usd=str(Decimal(1)))
    month = partitions.name("usage_record", partitions.month_start(clock.now()))
    with books.connect() as owner:
        owner.execute(f"ALTER TABLE usage_record DETACH PARTITION {month}")
    told = dict(line.split(maxsplit=1) for line in grant(runtime).splitlines())
    assert told[month] == "SELECT"
