"""Which table stands where on a Citus cluster, and putting it there (docs/adr/0014-scaling-out-by-organization.md).

Every table is in exactly one of the three lists below; a test fails for one that is in none.

* ``REFERENCE``: a whole copy on every node. What rows of all organizations refer to.
* ``DISTRIBUTED``: spread over the nodes by ``organization_id``, all alike, so that what belongs to
  one organization stands together. What grows with traffic. The key and every unique index of such
  a table contain the organization; so do foreign keys between two of them.
* ``LOCAL``: stays on the coordinator. What grows with people and their acts.

Without the Citus extension a database is a single one, and nothing here changes it.
"""

from collections.abc import Callable

from django.db import Error, connection, transaction
from psycopg import sql

from billing.models import Wallet

# A table stands behind those that its foreign keys name, for Citus checks them when it moves a table.
REFERENCE = ("account_user", "organization", "model", "price", "price_rule")
DISTRIBUTED = (
    "wallet",
    "transfer",
    "ledger_head",
    "credit_grant",
    "grant_use",
    "hold",
    "idempotency_key",
    "usage_record",
    "request_log",
    "usage_claim",
    "usage_rollup",
    "attempt",
    "call_key",
)
LOCAL = (
    "account_user_groups",
    "account_user_user_permissions",
    "adjustment",
    "api_key",
    "approval",
    "archived_month",
    "archived_sum",
    "audit_entry",
    "auth_group",
    "auth_group_permissions",
    "auth_permission",
    "axes_accessattempt",
    "axes_accessattemptexpiration",
    "axes_accessfailurelog",
    "axes_accesslog",
    "balance_transaction",
    "bank_transfer",
    "billing_period",
    "billing_profile",
    # Ceilings and what counts against them are read and changed in one statement, by the ceiling's id alone.
    "budget",
    "budget_spend",
    "cache_epoch",
    "call_terms",
    "channel",
    "check_run",
    "claim_horizon",
    "correction",
    "difference",
    "django_admin_log",
    "django_content_type",
    "django_migrations",
    "django_session",
    "dispute",
    "dunning_step",
    "invoice",
    "invoice_line",
    "invoice_settlement",
    "job_period",
    "external_id",
    "job_run",
    "legal_entity",
    "mail",
    "member",
    "number_series",
    "otp_static_staticdevice",
    "otp_static_statictoken",
    "otp_totp_totpdevice",
    "outbox",
    "payment",
    "payment_card",
    "price_draft",
    "price_draft_line",
    "project",
    "provider_bill",
    "provider_bill_line",
    "quarantine",
    "rate_limit",
    "recharge",
    "reconciliation_mark",
    "refund",
    "rerating",
    "rerating_share",
    "role",
    "rollup_mark",
    "tax_rate",
    "stripe_customer",
    "stripe_event",
    "topup",
    "topup_limit",
    "route",
    "unknown_outcome",
    "webhook_delivery",
    "webhook_endpoint",
)
COLUMN = "organization_id"
# Shards of each distributed table: the most nodes that it can be spread over later without splitting any.
SHARDS = 32
SHARDS_MAX = 1024
# The append-only triggers are refused on distributed tables without it, also on each month that is attached later.
TRIGGERS = "citus.enable_unsafe_triggers"
SEQUENTIALLY = "SET LOCAL citus.multi_shard_modify_mode = 'sequential'"

# Statements of one transaction.
Step = tuple[str, ...]

# Whether charges find the tables spread; None until somebody asked.
_spread: bool | None = None


class Unready(Exception):
    """A cluster or a database whose tables cannot be distributed; the message says what to do."""


def is_spread() -> bool:
    """Whether the tables are distributed, so that one transaction should be about one organization.

    Asked of the database once a process. A process that asked before they were is told by Citus,
    which refuses its statements over several organizations: its batches then fall apart one by one.
    """
    global _spread
    if _spread is None:
        try:
            _spread = available() and placed().get("wallet") == COLUMN
        except Error:
            # A database that is away answers nothing, and whoever writes to it next finds out.
            return False
    return _spread


def forget() -> None:
    """Ask the database again."""
    global _spread
    _spread = None


def available() -> bool:
    """Whether this database has the Citus extension."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pg_dist_partition') IS NOT NULL")
        found: bool = cursor.fetchone()[0]
        return found


def placed() -> dict[str, str]:
    """What Citus has taken over: by table the column it is distributed by, or nothing for a reference table."""
    with connection.cursor() as cursor:
        # By its catalog: partmethod 'h' is distributed by hash, 'n' with repmodel 't' a reference table.
        # 'n' with another repmodel is local and only known to the cluster, for the sake of its foreign keys.
        cursor.execute(
            "SELECT c.relname, CASE WHEN p.partmethod = 'n' THEN ''"
            " ELSE column_to_column_name(p.logicalrelid, p.partkey) END"
            " FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid"
            " WHERE NOT c.relispartition AND (p.partmethod <> 'n' OR p.repmodel = 't')"
        )
        return dict(cursor.fetchall())


def plan(*, shards: int = SHARDS) -> list[Step]:
    """The steps that are left to do here, in order; on a single database all of them.

    Raises ``Unready`` for a table that stands elsewhere than its list says.
    """
    assert 0 < shards <= SHARDS_MAX
    there = placed() if available() else {}
    _refuse_misplaced(there)
    steps = [] if _triggers_are_allowed() else [_allow_triggers()]
    steps += [_lifting(table, f"create_reference_table('{table}')") for table in REFERENCE if table not in there]
    first = DISTRIBUTED[0]
    for table in DISTRIBUTED:
        # The first one opens a group of its own; the others join it, shard beside shard.
        beside = f"'{first}'" if table != first else f"'none', shard_count => {shards}"
        if table not in there:
            steps.append(_lifting(table, f"create_distributed_table('{table}', '{COLUMN}', colocate_with => {beside})"))
    return steps


def distribute(*, shards: int = SHARDS, tell: Callable[[str], object] = lambda _: None) -> int:
    """Carry out the plan, each step in a transaction of its own; how many there were.

    None on a database without Citus. What is done already is left alone, so it may be broken off
    and run again, and runs again after a migration that adds a table. A table refuses writes while it moves.
    Raises ``Unready``.
    """
    assert not connection.in_atomic_block, "each table moves in a transaction of its own"
    if not available():
        return 0
    _refuse_unready()
    steps = plan(shards=shards)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', '0', false), set_config(%s, 'on', false)", [TRIGGERS])
        for step in steps:
            with transaction.atomic():
                for statement in step:
                    tell(statement)
                    cursor.execute(statement)
    forget()
    return len(steps)


def _lifting(table: str, call: str) -> Step:
    """A table's move. Its shards have its triggers before they get its rows, so those about new rows step aside."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger"
            # Bit 2 of its type: on INSERT.
            " WHERE tgrelid = to_regclass(%s) AND NOT tgisinternal AND tgtype & 4 > 0 ORDER BY tgname",
            [table],
        )
        triggers = cursor.fetchall()
    if not triggers:
        return (f"SELECT {call}",)
    lifted = [f'DROP TRIGGER "{name}" ON "{table}"' for name, _ in triggers]
    # One connection to a node for all of it: each must see what the one before it did.
    return (SEQUENTIALLY, *lifted, f"SELECT {call}", *(again for _, again in triggers))


def _refuse_unready() -> None:
    """Raise ``Unready`` for what would fail half-way, or would work no more afterwards."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(*) FILTER (WHERE groupid = 0) FROM pg_dist_node")
        nodes, coordinators = cursor.fetchone()
    if nodes and not coordinators:
        # Local tables refer to organizations, which Citus then must reach from the coordinator like from a worker.
        raise Unready("the coordinator is no node of the cluster: SELECT citus_set_coordinator_host('its name') first")
    paying_from_two = Wallet.objects.filter(mode=Wallet.Mode.FALLBACK).count()
    if paying_from_two:
        raise Unready(
            f"{paying_from_two} wallets are in fallback mode, which takes the locks of two organizations at once;"
            " a cluster refuses that: make them strict first"
        )


def _refuse_misplaced(there: dict[str, str]) -> None:
    wanted = {**dict.fromkeys(REFERENCE, ""), **dict.fromkeys(DISTRIBUTED, COLUMN)}
    for table, column in sorted(there.items()):
        if table in wanted and column != wanted[table]:
            found = f"is distributed by {column}" if column else "is a reference table"
            raise Unready(f"{table} {found}, which it should not be: SELECT undistribute_table('{table}') first")


def _triggers_are_allowed() -> bool:
    """Whether every connection to this database may put triggers on distributed tables."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
            " WHERE d.datname = current_database() AND s.setrole = 0 AND %s = ANY(s.setconfig))",
            [f"{TRIGGERS}=on"],
        )
        found: bool = cursor.fetchone()[0]
        return found


def _allow_triggers() -> Step:
    name = connection.settings_dict["NAME"]
    return (sql.SQL("ALTER DATABASE {} SET {} = 'on'").format(sql.Identifier(name), sql.SQL(TRIGGERS)).as_string(),)
