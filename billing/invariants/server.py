"""Checks of what guards the books: rights, partitions, constraints and triggers, the server's settings.

``guards.txt`` lists the guards of this release, a line each; ``make guards`` writes it from what the
migrations make. Months have the same guards, so they stand in it once.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from django.db import connection

from billing.invariants.checks import SAMPLES_MAX, Check, Probe, Terms, told
from core import clock, rights
from metering import partitions

MANIFEST = Path(__file__).with_name("guards.txt")

# The values that durability and bounded waiting need; of timeouts any but none.
SETTINGS: dict[str, set[str]] = {
    "fsync": {"on"},
    "full_page_writes": {"on"},
    "synchronous_commit": {"on", "local", "remote_write", "remote_apply"},
    "data_checksums": {"on"},
    "ignore_checksum_failure": {"off"},
    "zero_damaged_pages": {"off"},
    "session_replication_role": {"origin"},
}
TIMEOUTS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")

# Django's own tables guard no books.
_INVENTORY = r"""
    WITH ours AS (
        SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
            AND relname NOT LIKE ALL (ARRAY['django\_%', 'auth\_%'])
    )
    SELECT o.relname, 'constraint', c.conname, pg_get_constraintdef(c.oid)
    FROM pg_constraint c JOIN ours o ON o.oid = c.conrelid WHERE c.contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT o.relname, 'index', i.relname, pg_get_indexdef(x.indexrelid)
        || CASE WHEN x.indisvalid THEN '' ELSE ' NOT VALID' END
    FROM pg_index x JOIN ours o ON o.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indisunique AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conindid = x.indexrelid)
    UNION ALL
    SELECT o.relname, 'trigger', t.tgname, regexp_replace(pg_get_triggerdef(t.oid), ' ON .* FOR EACH ', ' FOR EACH ')
        || CASE t.tgenabled WHEN 'O' THEN '' ELSE ' NOT ENABLED' END || ', body ' || md5(p.prosrc)
    FROM pg_trigger t JOIN ours o ON o.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT o.relname, 'foreign keys', 'NOT ENFORCED', ''
    FROM pg_trigger t JOIN ours o ON o.oid = t.tgrelid WHERE t.tgisinternal AND t.tgenabled <> 'O'
"""
_MONTH = re.compile(r"_\d{4}_\d{2}(?!\d)")
_PART = re.compile(r"\b(usage_claim)_\d{2}(?!\d)")


def inventory() -> dict[str, set[str]]:
    """The guards that stand in the database, by table: constraints, unique indexes, triggers."""
    found: dict[str, set[str]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_INVENTORY)
        for table, kind, name, definition in cursor.fetchall():
            # A month's bounds are its own.
            text = "" if name == "bounds" else " ".join(definition.split())
            found.setdefault(table, set()).add(_timeless(f"{kind} {name} {text}".rstrip()))
    return found


def _timeless(text: str) -> str:
    """A text in which months, and the parts of a table, are all called the same."""
    return _PART.sub(r"\1_part", _MONTH.sub("_month", text))


def manifest(found: dict[str, set[str]]) -> str:
    """An inventory as ``guards.txt`` has it."""
    lines = {f"{_timeless(table)}: {guard}" for table, guards in found.items() for guard in guards}
    return "".join(f"{line}\n" for line in sorted(lines))


def expected() -> dict[str, set[str]]:
    """What ``guards.txt`` lists, by table."""
    wanted: dict[str, set[str]] = {}
    for line in MANIFEST.read_text().splitlines():
        table, _, guard = line.partition(": ")
        wanted.setdefault(table, set()).add(guard)
    return wanted


def _differences(wanted: dict[str, set[str]], found: dict[str, set[str]]) -> Iterator[str]:
    """A line for each guard that is gone, changed, or there without being of this release."""
    for table in sorted(wanted.keys() - {_timeless(name) for name in found}):
        yield f"{table} has no guards at all"
    for name, guards in sorted(found.items()):
        # A table that the release does not know guards nothing of it.
        release = wanted.get(_timeless(name))
        if release is not None:
            yield from (f"{name} is without {guard}" for guard in sorted(release - guards))
            yield from (f"{name} has {guard}, which is not of this release" for guard in sorted(guards - release))


def _guards(_: Terms) -> tuple[int, int, str]:
    found = inventory()
    lines = list(_differences(expected(), found))
    return sum(map(len, found.values())), len(lines), told(len(lines), lines[:SAMPLES_MAX])


def _settings(_: Terms) -> tuple[int, int, str]:
    names = [*SETTINGS, *TIMEOUTS]
    with connection.cursor() as cursor:
        # What a session of ours begins with, whatever this transaction has set for itself.
        cursor.execute("SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)", [names])
        values = dict(cursor.fetchall())
        cursor.execute(
            "SELECT coalesce(d.datname, 'any database'), coalesce(r.rolname, 'any role'), s.setting"
            " FROM pg_db_role_setting c LEFT JOIN pg_database d ON d.oid = c.setdatabase"
            " LEFT JOIN pg_roles r ON r.oid = c.setrole CROSS JOIN unnest(c.setconfig) AS s (setting)"
            " WHERE c.setdatabase = 0 OR d.datname = current_database()"
        )
        for_some = cursor.fetchall()
    wrong = [f"{name} is {values.get(name)}" for name in names if not _fits(name, values.get(name))]
    for database, role, setting in for_some:
        name, _, value = setting.partition("=")
        if name in names and not _fits(name, value):
            wrong.append(f"{name} is set to {value} for {role} in {database}")
    return len(names), len(wrong), told(len(wrong), wrong)


def _fits(name: str, value: str | None) -> bool:
    if value is None:
        return False
    return value in SETTINGS[name] if name in SETTINGS else value.rstrip("msinhd ") != "0"


# What anybody but their owner was granted, on tables, on columns, and on the schema itself.
_GRANTED = """
    SELECT c.relname, c.relispartition, a.grantee, a.privilege_type
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.grantee <> c.relowner
    UNION
    SELECT c.relname, c.relispartition, a.grantee, a.privilege_type
    FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid CROSS JOIN LATERAL aclexplode(t.attacl) a
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.grantee <> c.relowner
    UNION
    SELECT 'public', false, a.grantee, a.privilege_type
    FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
    WHERE n.nspname = 'public' AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
    ORDER BY 1, 3, 4
"""
_ROLES = """
    SELECT r.oid, r.rolname, r.rolsuper, r.rolbypassrls, (
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND NOT r.rolsuper
            AND pg_has_role(r.oid, relowner, 'MEMBER') ORDER BY relname LIMIT 1)
    FROM pg_roles r WHERE r.oid = ANY (%s) ORDER BY r.rolname
"""
_POLICIES = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE p.relrowsecurity AND NOT c.relrowsecurity OR p.relforcerowsecurity AND NOT c.relforcerowsecurity
    ORDER BY c.relname
"""
_EVERYBODY = 0


def _rights(_: Terms) -> tuple[int, int, str]:
    """Rights beyond those of ``core.rights``. Where one role owns everything and runs it nothing was granted."""
    allowed = rights.of_tables()
    with connection.cursor() as cursor:
        cursor.execute(_GRANTED)
        granted = cursor.fetchall()
        cursor.execute(_ROLES, [sorted({grantee for _, _, grantee, _ in granted} - {_EVERYBODY})])
        roles = cursor.fetchall()
        cursor.execute(_POLICIES)
        unguarded = [row[0] for row in cursor.fetchall()]
    names = {_EVERYBODY: "everybody", **{oid: name for oid, name, *_ in roles}}
    lines = []
    for _, name, is_super, passes_policies, owned in roles:
        if is_super:
            lines.append(f"{name} is a superuser, whom no right binds")
        elif passes_policies:
            lines.append(f"{name} passes by row policies")
        if owned is not None:
            lines.append(f"{name} owns {owned} or belongs to its owner")
    for table, is_part, grantee, privilege in granted:
        if privilege not in (rights.READ if is_part else allowed.get(table, rights.READ)):
            lines.append(f"{names[grantee]} may {privilege} {table}")
    lines += [f"{table} is without the row policies of its table" for table in unguarded]
    return len(allowed), len(lines), told(len(lines), lines[:SAMPLES_MAX])


def _runway() -> Iterable[str]:
    """A line for each table whose months end too soon."""
    for table in partitions.TABLES:
        days = partitions.days_covered(table, clock.now())
        if days < partitions.RUNWAY_DAYS_MIN:
            yield f"{table} has months for {days} days"


CHECKS: Sequence[Check | Probe] = (
    Probe("V28 rights of the runtime role", _rights, server=True),
    Check(
        "V29 partitions stand ahead",
        "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relispartition",
        """
        SELECT format('%s is a DEFAULT partition', relname)
        FROM pg_class WHERE relispartition AND pg_get_expr(relpartbound, oid) = 'DEFAULT'
        UNION ALL
        SELECT format('%s has %s of %s parts', parent, count(*), max(modulus))
        FROM (
            SELECT i.inhparent::regclass AS parent,
                substring(pg_get_expr(c.relpartbound, c.oid) FROM 'modulus ([0-9]+)')::int AS modulus
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relispartition AND c.relkind = 'r'
        ) part
        WHERE modulus IS NOT NULL GROUP BY parent HAVING count(*) <> max(modulus)
        """,
        more=_runway,
        server=True,
    ),
    Probe("V34 guards of the release", _guards, server=True),
    Probe("V35 settings of the server", _settings, server=True),
)
