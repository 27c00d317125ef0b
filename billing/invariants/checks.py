"""What a check is, which part of the books it looks at, and what it finds.

A check is SQL: a count of what it looks at, and a query with a line for each violation. Both may
name parts of the books by ``$`` terms, which stand for all of them or for what is new:

* ``$heads``: where each wallet stood when it was last sealed; nothing, where a run begins at the beginning;
* ``$transfers``: transfers after those heads; ``$sealed``: the heads to compare with their transfers;
* ``$records``, ``$logs``, ``$uses``, ``$holds``: rows of the scope, by their time-ordered ids;
* ``$rollups``: rollups of the scope's time, but of no month whose records are not attached;
* ``$used``: what each transfer ``t`` took from grants;
* ``$forgotten``: before which instant claims may be gone;
* ``$first``, ``$last``: the ids between which the scope lies, ``$since`` its first instant; ``$whole``: whether it is
  all there is; ``$deep``: whether tables may be read that have no index by time.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from string import Template
from typing import NamedTuple
from uuid import UUID

from django.db import Error, connection, transaction

from core import ids
from metering import horizon, partitions

SAMPLES_MAX = 5
FIRST = UUID(int=0)
LAST = UUID(int=(1 << 128) - 1)
# A hold lasts an hour at most, so what was settled in a scope was placed at most that long before.
HOLD_LIFE = timedelta(hours=2)

Terms = Mapping[str, str]


class Scope(NamedTuple):
    """Which part of the books a run looks at; by default all of it.

    Rows with ids from ``first`` on, below ``last``. ``sealed``: wallets are followed from their last
    sealed heads instead of from their first transfers. ``deep``: what has no index by time is read too.
    """

    first: UUID = FIRST
    last: UUID = LAST
    sealed: bool = False
    deep: bool = True

    @property
    def whole(self) -> bool:
        """Whether no row is left out for its age."""
        return self.first == FIRST and self.last == LAST


EVERYTHING = Scope()


class Finding(NamedTuple):
    """What a check found (contract 22). Where all is well the detail says what there is to know, if anything."""

    name: str
    ok: bool
    seen: int
    detail: str


class Check(NamedTuple):
    """One invariant: ``seen`` counts what is looked at, ``broken`` yields a line for each violation.

    ``more`` yields lines for what SQL cannot see. ``server``: it is about what guards the books
    rather than about the books.
    """

    name: str
    seen: str
    broken: str
    more: Callable[[], Iterable[str]] | None = None
    server: bool = False

    def look(self, terms: Terms) -> Finding:
        """Run it in the transaction we are in."""
        with connection.cursor() as cursor:
            cursor.execute(Template(self.seen).substitute(terms))
            seen: int = cursor.fetchone()[0]
            broken = Template(self.broken).substitute(terms)
            cursor.execute(f"SELECT count(*) OVER (), line FROM ({broken}) AS broken (line) LIMIT {SAMPLES_MAX}")
            rows = cursor.fetchall()
        lines = [row[1] for row in rows]
        count = rows[0][0] if rows else 0
        for line in self.more() if self.more else ():
            count += 1
            if len(lines) < SAMPLES_MAX:
                lines.append(line)
        return Finding(self.name, not count, seen, told(count, lines))


class Probe(NamedTuple):
    """One invariant that is judged in Python."""

    name: str
    find: Callable[[Terms], tuple[int, int, str]]
    server: bool = False

    def look(self, terms: Terms) -> Finding:
        """Run it in the transaction we are in: how many were seen, how many of them broken, and what to say."""
        seen, count, detail = self.find(terms)
        return Finding(self.name, not count, seen, detail)


def run(one: Check | Probe, terms: Terms) -> Finding:
    """Run a check in the transaction we are in. One that the database refuses has failed; the others go on."""
    try:
        with transaction.atomic():
            return one.look(terms)
    except Error as error:
        return Finding(one.name, False, 0, f"could not be run: {str(error).splitlines()[0]}")


def told(count: int, lines: Iterable[str]) -> str:
    """What is broken, in a line."""
    return f"{count} broken: " + "; ".join(lines) if count else ""


# The index on (organization, day) leads to each organization's last head.
_LAST_HEADS = (
    "(SELECT h.* FROM organization o CROSS JOIN LATERAL (SELECT * FROM ledger_head"
    " WHERE organization_id = o.id ORDER BY day DESC LIMIT 1) h)"
)
_AFTER_HEADS = (
    f"(SELECT t.* FROM organization o LEFT JOIN {_LAST_HEADS} h ON h.organization_id = o.id CROSS JOIN LATERAL"
    " (SELECT * FROM transfer WHERE organization_id = o.id AND seq > coalesce(h.seq, 0)) t)"
)
# What each transfer ``t`` took from grants: all at once, or through the index for a few.
_USED = "(SELECT organization_id, transfer_id, sum(amount_usd) AS used FROM grant_use GROUP BY 1, 2)"
_USED_BY_EACH = (
    "LATERAL (SELECT t.organization_id, t.id AS transfer_id, sum(x.amount_usd) AS used FROM grant_use x"
    " WHERE x.organization_id = t.organization_id AND x.transfer_id = t.id)"
)


def _rollups(since: datetime, until: datetime | None) -> str:
    """Rollups from one instant to before another; their key begins with the organization as well."""
    before = "" if until is None else f" AND starts_at < '{until.isoformat()}'"
    return (
        "(SELECT x.* FROM organization o CROSS JOIN LATERAL (SELECT * FROM usage_rollup WHERE organization_id = o.id"
        f" AND starts_at >= '{since.isoformat()}'{before}) x)"
    )


def terms_of(scope: Scope) -> Terms:
    """What the terms of checks stand for in a scope. Months that were detached are in none."""
    attached = partitions.months("usage_record")
    first = max(scope.first, ids.floor(attached[0])) if attached else scope.first
    placed = max(0, (scope.first.int >> 80) - HOLD_LIFE // timedelta(milliseconds=1)) << 80

    def rows(table: str, low: UUID = first) -> str:
        """Rows of the scope; the keys begin with the organization, so their index is asked for each."""
        if scope.whole:
            return table
        return (
            f"(SELECT x.* FROM organization o CROSS JOIN LATERAL (SELECT * FROM {table} WHERE organization_id = o.id"
            f" AND id >= '{low}' AND id < '{scope.last}') x)"
        )

    return {
        "heads": _LAST_HEADS if scope.sealed else "(SELECT * FROM ledger_head WHERE false)",
        "transfers": _AFTER_HEADS if scope.sealed else "transfer",
        "sealed": _LAST_HEADS if scope.sealed else "ledger_head",
        "records": rows("usage_record"),
        "logs": rows("request_log"),
        "uses": rows("grant_use"),
        "holds": rows("hold", UUID(int=placed)),
        "rollups": _rollups(ids.instant(first), None if scope.last == LAST else ids.instant(scope.last)),
        "first": f"'{first}'::uuid",
        "last": f"'{scope.last}'::uuid",
        "forgotten": f"'{horizon.standing().isoformat()}'::timestamptz",
        "used": _USED if scope.whole else _USED_BY_EACH,
        "since": f"'{ids.instant(first).isoformat()}'::timestamptz",
        "deep": str(scope.deep).lower(),
        "whole": str(scope.whole).lower(),
    }
