"""The invariants of the books, checked on a live system: what ``manage.py verify`` runs.

Read-only, in one snapshot, set-based: each check is a count of what it looked at and a query for
what breaks it. The ids are those of docs/reliability.md. Cost grows with the books; the checks
by month touch only attached partitions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from django.db import connection, transaction

SAMPLES_MAX = 5


class Check(NamedTuple):
    """One invariant: ``seen`` counts what is looked at, ``broken`` yields a line for each violation."""

    name: str
    seen: str
    broken: str


class Finding(NamedTuple):
    """What a check found."""

    name: str
    ok: bool
    seen: int
    detail: str


CHECKS = (
    Check(
        "V01 wallet = transfers",
        "SELECT count(*) FROM wallet",
        """
        SELECT format('wallet %s: posted %s, overdraft %s, spent %s; transfers say %s, %s, %s', w.organization_id,
            w.posted_usd, w.overdraft_usd, w.spent_usd, s.posted, s.overdraft, s.spent)
        FROM wallet w LEFT JOIN (
            SELECT organization_id,
                sum(CASE 'wallet' WHEN credit THEN amount_usd WHEN debit THEN -amount_usd ELSE 0 END) AS posted,
                sum(CASE 'overdraft' WHEN debit THEN amount_usd WHEN credit THEN -amount_usd ELSE 0 END) AS overdraft,
                sum(CASE WHEN debit = 'wallet' AND credit = 'revenue' THEN amount_usd ELSE 0 END) AS spent
            FROM transfer GROUP BY organization_id
        ) s USING (organization_id)
        WHERE (w.posted_usd, w.overdraft_usd, w.spent_usd)
            IS DISTINCT FROM (coalesce(s.posted, 0), coalesce(s.overdraft, 0), coalesce(s.spent, 0))
        """,
    ),
    Check(
        "V02 transfers in order",
        "SELECT count(*) FROM transfer",
        """
        SELECT format('transfer %s of %s: seq %s after %s, balance %s, should be %s',
            id, organization_id, seq, before, balance_after_usd, running)
        FROM (
            SELECT id, organization_id, seq, balance_after_usd,
                lag(seq, 1, 0::bigint) OVER of_wallet AS before,
                sum(CASE WHEN kind IN ('draw', 'repayment') THEN 0 WHEN credit = 'wallet' THEN amount_usd
                    ELSE -amount_usd END) OVER of_wallet AS running
            FROM transfer WHERE seq IS NOT NULL WINDOW of_wallet AS (PARTITION BY organization_id ORDER BY seq)
        ) t
        WHERE seq <> before + 1 OR balance_after_usd IS DISTINCT FROM running
        UNION ALL
        SELECT format('wallet %s stands at seq %s, its transfers at %s', w.organization_id, w.seq, max(t.seq))
        FROM wallet w LEFT JOIN transfer t USING (organization_id)
        GROUP BY w.organization_id, w.seq HAVING w.seq <> coalesce(max(t.seq), 0)
        UNION ALL
        SELECT format('transfer %s of %s has no wallet', t.id, t.organization_id)
        FROM transfer t LEFT JOIN wallet w USING (organization_id) WHERE w.organization_id IS NULL
        """,
    ),
    Check(
        "V05 wallet in range",
        "SELECT count(*) FROM wallet",
        """
        SELECT format('wallet %s: posted %s, held %s, overdraft %s',
            organization_id, posted_usd, held_usd, overdraft_usd)
        FROM wallet
        WHERE NOT (posted_usd >= 0 AND held_usd >= 0 AND overdraft_usd >= 0) OR posted_usd > 0 AND overdraft_usd > 0
        """,
    ),
    Check(
        "V09 each record charged once",
        "SELECT count(*) FROM usage_record",
        """
        SELECT format('transfer %s of %s is %s; its records sum to %s',
            coalesce(t.id, r.transfer_id), coalesce(t.organization_id, r.payer_id), t.amount_usd, r.cost)
        FROM (SELECT * FROM transfer WHERE kind = 'charge') t
        FULL JOIN (
            SELECT payer_id, transfer_id, sum(cost_usd) AS cost FROM usage_record
            WHERE transfer_id IS NOT NULL GROUP BY payer_id, transfer_id
        ) r ON r.payer_id = t.organization_id AND r.transfer_id = t.id
        WHERE t.amount_usd IS DISTINCT FROM r.cost
        UNION ALL
        SELECT format('record %s of %s costs %s and names no transfer', id, organization_id, cost_usd)
        FROM usage_record WHERE transfer_id IS NULL AND cost_usd <> 0
        """,
    ),
    Check(
        "V10 claims = records",
        "SELECT count(*) FROM usage_claim",
        """
        SELECT format('record %s of %s (%s) and its claim disagree', r.id, r.organization_id, r.event_id)
        FROM usage_record r LEFT JOIN usage_claim c USING (organization_id, event_id)
        WHERE r.corrects_id IS NULL
            AND (c.record_id, c.state, c.cost_usd) IS DISTINCT FROM (r.id, 'recorded', r.cost_usd)
        UNION ALL
        SELECT format('claim %s of %s stands for %s %s, which is not there',
            c.event_id, c.organization_id, c.state, c.record_id)
        FROM usage_claim c
        LEFT JOIN usage_record r ON r.organization_id = c.organization_id AND r.id = c.record_id
        LEFT JOIN request_log l ON l.organization_id = c.organization_id AND l.id = c.record_id
        LEFT JOIN quarantine q ON q.id = c.record_id
        WHERE CASE c.state WHEN 'recorded' THEN r.id WHEN 'logged' THEN l.id ELSE q.id END IS NULL
        UNION ALL
        SELECT format('log row %s of %s (%s) and its claim disagree', l.id, l.organization_id, l.event_id)
        FROM request_log l LEFT JOIN usage_claim c USING (organization_id, event_id)
        WHERE (c.record_id, c.state) IS DISTINCT FROM (l.id, 'logged')
        """,
    ),
    Check(
        "V30 money is a number in range",
        "SELECT (SELECT count(*) FROM transfer) + (SELECT count(*) FROM usage_record)",
        """
        SELECT format('transfer %s of %s: %s', id, organization_id, amount_usd) FROM transfer
        WHERE NOT (amount_usd > 0 AND amount_usd < 100000000000)
        UNION ALL
        SELECT format('record %s of %s: %s', id, organization_id, cost_usd) FROM usage_record
        WHERE NOT (cost_usd > -100000000000 AND cost_usd < 100000000000)
        """,
    ),
)


def check() -> list[Finding]:
    """Run every check in one read-only snapshot; writers are not held up."""
    with _snapshot():
        return [_run(one) for one in CHECKS]


@contextmanager
def _snapshot() -> Iterator[None]:
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL statement_timeout = '10min'")
        yield


def _run(one: Check) -> Finding:
    with connection.cursor() as cursor:
        cursor.execute(one.seen)
        seen: int = cursor.fetchone()[0]
        cursor.execute(f"SELECT count(*) OVER (), line FROM ({one.broken}) AS broken (line) LIMIT {SAMPLES_MAX}")
        rows = cursor.fetchall()
    detail = f"{rows[0][0]} broken: " + "; ".join(row[1] for row in rows) if rows else ""
    return Finding(one.name, not rows, seen, detail)
