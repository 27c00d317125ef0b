"""Where tables stand on a Citus cluster: the lists, the rules that Citus makes, and the move itself.

The rules are read from the catalog of a migrated database. The move is played on a stand-in for
Citus: its two functions with the checks that they make, written from Citus's own source.
"""

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection

from billing import charges, distribution, wallets
from billing.distribution import COLUMN, DISTRIBUTED, LOCAL, REFERENCE, Unready
from billing.ledger import Terms
from billing.models import Wallet
from core import errors
from orgs import audit
from tests.billing.world import organization, organizations, record, rows, standing
from tests.books import Books
from tests.metering.world import batch, event
from tests.test_tidy import Module, module, modules, strings

# They say themselves what the database is.
pytestmark = pytest.mark.one_database

FINANCE = audit.system("tests")

CITUS = """
    CREATE TABLE pg_dist_node (groupid int, nodename text);
    CREATE TABLE pg_dist_partition (
        logicalrelid regclass PRIMARY KEY, partmethod "char", partkey text, repmodel "char", colocationid int
    );
    CREATE FUNCTION column_to_column_name(regclass, text) RETURNS text LANGUAGE sql AS 'SELECT $2';

    CREATE FUNCTION take_over(moved regclass, method "char", by text, model "char", together int)
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        filled boolean;
        other regclass;
    BEGIN
        IF EXISTS (SELECT 1 FROM pg_dist_partition WHERE logicalrelid = moved) THEN
            RAISE EXCEPTION 'table "%" is already distributed', moved;
        END IF;
        IF EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = moved AND NOT tgisinternal)
            AND coalesce(current_setting('citus.enable_unsafe_triggers', true), 'off') <> 'on' THEN
            RAISE EXCEPTION 'cannot distribute relation "%" because it has triggers', moved;
        END IF;
        FOR other IN SELECT confrelid FROM pg_constraint WHERE contype = 'f' AND conrelid = moved LOOP
            IF other <> moved AND NOT EXISTS (SELECT 1 FROM pg_dist_partition WHERE logicalrelid = other) THEN
                RAISE EXCEPTION 'referenced table "%" must be a distributed table or a reference table', other;
            END IF;
        END LOOP;
        -- The shards have the triggers already when the rows are copied into them.
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s)', moved) INTO filled;
        IF filled AND EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = moved AND NOT tgisinternal AND tgtype & 4 > 0)
        THEN
            RAISE EXCEPTION 'a trigger of "%" meets its rows', moved;
        END IF;
        INSERT INTO pg_dist_partition VALUES (moved, method, by, model, together);
    END $$;

    CREATE FUNCTION create_reference_table(moved regclass) RETURNS void LANGUAGE sql AS
        $$ SELECT take_over(moved, 'n', NULL, 't', 1) $$;

    CREATE FUNCTION create_distributed_table(moved regclass, by text, colocate_with text, shard_count int DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF colocate_with <> 'none' AND shard_count IS NOT NULL THEN
            RAISE EXCEPTION 'Cannot use colocate_with with a table and shard_count at the same time';
        END IF;
        IF colocate_with <> 'none' AND NOT EXISTS (
            SELECT 1 FROM pg_dist_partition WHERE logicalrelid = colocate_with::regclass AND partmethod = 'h'
        ) THEN
            RAISE EXCEPTION 'relation % is not distributed', colocate_with;
        END IF;
        PERFORM take_over(moved, 'h', by, 's', 2);
    END $$;
"""

MOVED = [*REFERENCE, *DISTRIBUTED]
# Statements that do not run on a cluster, told in docs/scaling.md. May only shrink.
REFUSED_YET = [
    "billing.holds: UPDATE hold",
    "billing.holds: UPDATE hold",
    "billing.ledger: UPDATE wallet",
    "billing.ledger: UPDATE wallet",
]


@pytest.fixture
def citus(books: Books) -> Iterator[Books]:
    """A database that looks like one with the extension, on a cluster of two workers and their coordinator."""
    with connection.cursor() as cursor:
        cursor.execute(CITUS)
        cursor.execute("INSERT INTO pg_dist_node VALUES (0, 'coordinator'), (1, 'one'), (2, 'two')")
    distribution.forget()
    yield books
    distribution.forget()


def parts() -> dict[str, list[str]]:
    """By distributed table: itself and its partitions, which Citus distributes with it."""
    return {
        table: [table, *(name for (name,) in rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1", table
        ))]
        for table in DISTRIBUTED
    }  # fmt: skip


def told(*arguments: str, **options: Any) -> list[str]:
    """The lines of ``manage.py distribute``."""
    out = io.StringIO()
    call_command("distribute", *arguments, stdout=out, skip_checks=True, **options)
    return out.getvalue().splitlines()


def test_every_table_stands_in_exactly_one_list(db: None) -> None:
    listed = [*REFERENCE, *DISTRIBUTED, *LOCAL]
    assert len(listed) == len(set(listed))
    models = {model._meta.db_table for model in apps.get_models(include_auto_created=True) if model._meta.managed}
    there = {
        name
        for (name,) in rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'p') AND NOT relispartition"
        )
    }
    assert set(listed) == models | there, "say in billing/distribution.py where it stands"


def unkeyed() -> list[str]:
    """Primary keys of distributed tables that do not begin with the organization, unique indexes without it."""
    found = []
    for table, names in parts().items():
        for name in names:
            keys = rows(
                "SELECT i.relname, x.indisprimary, ARRAY(SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY"
                " AS k (number, place) LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number"
                " WHERE k.place <= x.indnkeyatts ORDER BY k.place)"
                " FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid"
                " WHERE x.indrelid = %s::regclass AND (x.indisunique OR x.indisexclusion) ORDER BY 1",
                name,
            )
            if not any(primary for _, primary, _ in keys):
                found.append(f"{table}: {name} has no primary key")
            for index, primary, columns in keys:
                if COLUMN not in (columns[:1] if primary else columns):
                    found.append(f"{table}: {index} ({', '.join(map(str, columns))})")
    return found


def test_keys_and_unique_indexes_of_distributed_tables_hold_the_organization(db: None) -> None:
    assert unkeyed() == []
    # 11 tables with a key each; the partitions have theirs besides.
    assert {len(names) > 1 for table, names in parts().items() if table in {"usage_record", "usage_claim"}} == {True}


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        ("CREATE UNIQUE INDEX bad ON transfer (reference)", "transfer: bad (reference)"),
        ("CREATE UNIQUE INDEX bad ON usage_claim_00 (event_id)", "usage_claim: bad (event_id)"),
        ("CREATE UNIQUE INDEX bad ON hold ((organization_id::text))", "hold: bad (None)"),
        ("CREATE UNIQUE INDEX bad ON hold (id) INCLUDE (organization_id)", "hold: bad (id)"),
        ("ALTER TABLE wallet DROP CONSTRAINT wallet_pkey CASCADE", "wallet: wallet has no primary key"),
    ],
)
def test_a_key_without_the_organization_is_seen(db: None, change: str, breach: str) -> None:
    if "usage_claim_00" in change:
        change = change.replace("usage_claim_00", parts()["usage_claim"][1])
    rows(change)
    assert unkeyed() == [breach]


def test_every_distributed_row_has_an_organization(db: None) -> None:
    columns = rows(
        "SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = %s AND attnotnull AND attgenerated = ''"
        " AND atttypid = 'uuid'::regtype AND attrelid = ANY(%s::regclass[])",
        COLUMN,
        list(DISTRIBUTED),
    )
    assert {name for (name,) in columns} == set(DISTRIBUTED)


def misled() -> list[str]:
    """Foreign keys that Citus does not allow between tables that stand where the lists say."""
    found = []
    keys = rows(
        "SELECT conname, conrelid::regclass::text, confrelid::regclass::text, confdeltype::text, confupdtype::text,"
        " (SELECT attnum FROM pg_attribute WHERE attrelid = conrelid AND attname = %s), conkey,"
        " (SELECT attnum FROM pg_attribute WHERE attrelid = confrelid AND attname = %s), confkey"
        " FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND conparentid = 0",
        COLUMN,
        COLUMN,
    )
    for name, table, target, on_delete, on_update, ours, from_columns, theirs, to_columns in keys:
        if table not in MOVED:
            if target in DISTRIBUTED:
                found.append(f"{name}: {table} stays and refers to {target}, which does not")
        elif target not in MOVED or MOVED.index(target) > MOVED.index(table):
            found.append(f"{name}: {target} is not moved before {table}")
        elif not {on_delete, on_update} <= {"a", "r"}:
            found.append(f"{name}: {target} changes {table}")
        elif target in DISTRIBUTED and (ours, theirs) not in zip(from_columns, to_columns, strict=True):
            found.append(f"{name}: its organizations do not match")
    return found


def test_foreign_keys_stay_inside_an_organization_or_lead_to_reference_tables(db: None) -> None:
    assert misled() == []


@pytest.mark.parametrize(
    ("key", "breach"),
    [
        ("topup (organization_id) REFERENCES wallet", "topup stays and refers to wallet, which does not"),
        ("organization (id) REFERENCES wallet (organization_id)", "wallet is not moved before organization"),
        ("hold (id) REFERENCES budget (id)", "budget is not moved before hold"),
        ("wallet (organization_id) REFERENCES organization (id) ON DELETE SET NULL", "organization changes wallet"),
        ("hold (payer_id) REFERENCES wallet (organization_id)", "its organizations do not match"),
        ("hold (id, organization_id) REFERENCES credit_grant (organization_id, id)", "its organizations do not match"),
    ],
)  # fmt: skip
def test_a_foreign_key_that_citus_refuses_is_seen(db: None, key: str, breach: str) -> None:
    table, rest = key.split(" ", 1)
    rows(f"ALTER TABLE {table} ADD CONSTRAINT bad FOREIGN KEY {rest}")
    assert misled() == [f"bad: {breach}"]


def test_partitions_of_distributed_tables_have_none_of_their_own(db: None) -> None:
    nested = (
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'p' AND relnamespace = 'public'::regnamespace"
    )
    assert rows(nested) == []
    rows("CREATE TABLE nested PARTITION OF usage_record FOR VALUES FROM (%s) TO (%s) PARTITION BY HASH (id)",
         "ffffffff-0000-0000-0000-000000000000", "ffffffff-1000-0000-0000-000000000000")  # fmt: skip
    assert rows(nested) == [("nested",)]


def evaluated_anew(source: Module) -> list[str]:
    """Changes of distributed and reference tables that ask for something new for each row, which Citus refuses."""
    found = []
    for text in strings(source.tree):
        for change in re.finditer(r"\b(?:UPDATE|DELETE\s+FROM)\s+(?:ONLY\s+)?\"?(\w+)", text):
            if change[1] in MOVED and re.search(r"\b(?:clock_timestamp|random|gen_random_uuid|nextval)\(", text):
                found.append(f"{source.name}: {' '.join(change[0].split())}")
    return found


def test_what_a_cluster_would_still_refuse_is_known() -> None:
    found = [breach for source in modules() for breach in evaluated_anew(source)]
    assert sorted(found) == REFUSED_YET


@pytest.mark.parametrize(
    ("code", "breaches"),
    [
        ("run('UPDATE hold SET ended_at = clock_timestamp()')", ["billing.example: UPDATE hold"]),
        ("run('WITH x AS (SELECT 1) DELETE FROM usage_claim WHERE random() < 1')",
         ["billing.example: DELETE FROM usage_claim"]),
        ("run('UPDATE hold SET ended_at = statement_timestamp()')", []),
        ("run('UPDATE topup SET ended_at = clock_timestamp()')", []),
        ("run('INSERT INTO hold (id, made_at) VALUES (%s, clock_timestamp())')", []),
    ],
)  # fmt: skip
def test_a_change_with_a_volatile_function_is_seen(code: str, breaches: list[str]) -> None:
    assert evaluated_anew(module(code)) == breaches


def test_a_single_database_is_left_as_it_is(books: Books) -> None:
    distribution.forget()
    assert told() == ["nothing to distribute: this database has no Citus extension"]
    assert distribution.distribute() == 0
    assert distribution.is_spread() is False
    assert rows("SELECT count(*) FROM pg_db_role_setting WHERE setdatabase <> 0") == [(0,)]


def test_the_statements_can_be_read_without_a_cluster(db: None) -> None:
    lines = told("--sql", "--shards", "8")
    assert lines[1:6] == [
        "SELECT create_reference_table('account_user');",
        "SELECT create_reference_table('organization');",
        "SELECT create_reference_table('model');",
        "SELECT create_reference_table('price');",
        "SELECT create_reference_table('price_rule');",
    ]
    assert lines[6:12] == [
        "BEGIN;",
        "SET LOCAL citus.multi_shard_modify_mode = 'sequential';",
        'DROP TRIGGER "explained_from_birth" ON "wallet";',
        "SELECT create_distributed_table('wallet', 'organization_id', colocate_with => 'none', shard_count => 8);",
        "CREATE TRIGGER explained_from_birth AFTER INSERT ON public.wallet FOR EACH ROW"
        " EXECUTE FUNCTION wallet_is_explained();",
        "COMMIT;",
    ]
    assert lines[0].startswith("ALTER DATABASE ")
    assert lines[12] == "SELECT create_distributed_table('transfer', 'organization_id', colocate_with => 'wallet');"
    assert len(lines) == 6 + 6 + 12


@pytest.mark.parametrize("shards", ["0", "-1", "1025"])
def test_a_count_of_shards_that_makes_no_sense_is_refused(db: None, shards: str) -> None:
    with pytest.raises(CommandError, match=r"--shards should be 1 to 1024"):
        told("--shards", shards)


def test_books_with_money_in_them_move_as_a_whole_and_only_once(citus: Books) -> None:
    acme = organization("acme", usd="5")
    record(batch((acme, event())))
    triggers = (
        "SELECT tgname, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE tgrelid = 'wallet'::regclass ORDER BY 1"
    )
    before = rows(triggers)
    first = told()
    assert first[-1] == "distributed; restart the processes"
    # One for the database, 5 reference tables, 11 distributed ones, 3 more lines for the trigger that steps aside.
    assert len(first) - 1 == 1 + 5 + 13 + 3
    assert rows("SELECT partmethod::text, count(*) FROM pg_dist_partition GROUP BY 1 ORDER BY 1") == [
        ("h", 13),
        ("n", 5),
    ]
    assert rows(triggers) == before
    assert told() == ["all tables are where they should be"]
    assert told("--sql") == []


def test_every_later_connection_may_put_triggers_on_a_new_month(citus: Books) -> None:
    told()
    with citus.connect() as later:
        assert later.execute("SHOW citus.enable_unsafe_triggers").fetchone() == ("on",)


def test_a_move_that_was_broken_off_goes_on_where_it_stopped(citus: Books) -> None:
    rows("ALTER TABLE hold RENAME TO elsewhere")
    with pytest.raises(CommandError, match=r"not distributed to the end, run it again: relation .hold. does not exist"):
        told()
    done = rows("SELECT count(*) FROM pg_dist_partition")
    assert done == [(5 + DISTRIBUTED.index("hold"),)]
    rows("ALTER TABLE elsewhere RENAME TO hold")
    assert told()[:-1] == [
        f"SELECT create_distributed_table('{table}', 'organization_id', colocate_with => 'wallet')"
        for table in DISTRIBUTED[DISTRIBUTED.index("hold") :]
    ]
    assert rows("SELECT count(*) FROM pg_dist_partition") == [(18,)]


def test_a_cluster_that_cannot_reach_its_coordinator_is_refused(citus: Books) -> None:
    rows("DELETE FROM pg_dist_node WHERE groupid = 0")
    with pytest.raises(CommandError, match="citus_set_coordinator_host"):
        told()
    assert rows("SELECT count(*) FROM pg_dist_partition") == [(0,)]


def test_a_cluster_of_one_node_makes_itself_known(citus: Books) -> None:
    rows("DELETE FROM pg_dist_node")
    assert distribution.distribute() == 19


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("('wallet', 'h', 'level', 's')", "wallet is distributed by level, which it should not be"),
        ("('wallet', 'n', NULL, 't')", "wallet is a reference table, which it should not be"),
        ("('organization', 'h', 'id', 's')", "organization is distributed by id, which it should not be"),
    ],
)
def test_a_table_that_stands_elsewhere_is_refused(citus: Books, taken: str, message: str) -> None:
    rows(f"INSERT INTO pg_dist_partition VALUES {taken}")
    with pytest.raises(Unready, match=message):
        distribution.distribute()


def test_a_table_that_citus_only_knows_of_is_moved_all_the_same(citus: Books) -> None:
    """Citus takes note of local tables that refer to a reference table: 'n', but kept in one copy."""
    rows("INSERT INTO pg_dist_partition VALUES ('topup', 'n', NULL, 's', 0)")
    assert distribution.distribute() == 19
    assert "topup" not in distribution.placed()


def transactions() -> int:
    """How many transactions wrote the records of this database."""
    ((count,),) = rows("SELECT count(DISTINCT xmin::text) FROM usage_record")
    return int(count)


def test_a_batch_over_organizations_is_one_transaction_on_a_single_database(books: Books) -> None:
    distribution.forget()
    record(batch(*((owner, event()) for owner in organizations(3))))
    assert transactions() == 1


def test_a_batch_over_organizations_is_one_transaction_each_once_distributed(citus: Books) -> None:
    distribution.distribute()
    owners = organizations(3)
    given = record(batch(*((owner, event()) for owner in [*owners, *owners])))
    assert [verdict.status for verdict in given] == ["created"] * 6
    assert transactions() == 3
    assert [standing(owner).seq for owner in owners] == [standing(owners[0]).seq] * 3


def test_whether_tables_are_distributed_is_asked_once(citus: Books) -> None:
    assert distribution.is_spread() is False
    rows("INSERT INTO pg_dist_partition VALUES ('wallet', 'h', 'organization_id', 's', 2)")
    assert distribution.is_spread() is False
    distribution.forget()
    assert distribution.is_spread() is True
    rows("DROP TABLE pg_dist_partition")
    assert distribution.is_spread() is True


def test_a_database_that_is_away_is_asked_again(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution.forget()
    place = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = "nobody_made_this"
    try:
        assert distribution.is_spread() is False
        assert distribution._spread is None
    finally:
        connection.close()
        connection.settings_dict["NAME"] = place
    assert distribution.is_spread() is False
    assert distribution._spread is False


def test_an_empty_batch_is_no_group(db: None) -> None:
    assert charges.together([]) == []


def test_fallback_mode_and_a_cluster_exclude_each_other(citus: Books) -> None:
    acme = organization("acme", usd="1")
    fallback = Terms(mode=Wallet.Mode.FALLBACK)
    wallets.change_terms(organization_id=acme.pk, terms=fallback, reason="wanted", by=FINANCE)
    with pytest.raises(Unready, match="1 wallets are in fallback mode"):
        distribution.distribute()
    strict = Terms(mode=Wallet.Mode.STRICT)
    wallets.change_terms(organization_id=acme.pk, terms=strict, reason="moving", by=FINANCE)
    distribution.distribute()
    with pytest.raises(errors.OutOfRange) as refusal:
        wallets.change_terms(organization_id=acme.pk, terms=fallback, reason="wanted", by=FINANCE)
    assert refusal.value.param == "mode"
    wallets.change_terms(organization_id=acme.pk, terms=strict, reason="still", by=FINANCE)
