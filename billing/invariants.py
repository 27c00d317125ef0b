"""The invariants of the books, checked on a live system: what ``manage.py verify`` runs.

Read-only, in one snapshot, set-based: each check is a count of what it looked at and a query for
what breaks it. The ids are those of docs/reliability.md. Cost grows with the books; the checks
by month touch only attached partitions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.core.exceptions import ObjectDoesNotExist
from django.db import connection, transaction

from billing.models import Correction, Transfer, Wallet
from core import money
from core.fields import UsdField
from metering import catalog, rating, rules, usage
from metering.models import RequestLog, UsageClaim, UsageRecord

SAMPLES_MAX = 5
RERATED_MAX = 1000


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


# Every table with amounts, and the columns that hold them.
AMOUNTS: dict[str, list[str]] = {
    model._meta.db_table: [field.name for field in model._meta.concrete_fields if isinstance(field, UsdField)]
    for model in (Transfer, Wallet, Correction, UsageRecord, RequestLog, UsageClaim)
}


def _in_range(column: str) -> str:
    """A condition that NaN does not meet."""
    return f"{column} > -{money.USD_MAX} AND {column} < {money.USD_MAX}"


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
                sum(CASE WHEN debit = 'wallet' AND credit = 'revenue' THEN amount_usd
                    WHEN debit = 'revenue' AND credit = 'wallet' THEN -amount_usd ELSE 0 END) AS spent
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
        FROM (
            SELECT id, organization_id, CASE debit WHEN 'revenue' THEN -amount_usd ELSE amount_usd END AS amount_usd
            FROM transfer WHERE 'revenue' IN (debit, credit)
        ) t
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
        UNION ALL
        SELECT format('quarantined event %s of %s has no claim', q.event_id, q.organization_id)
        FROM quarantine q LEFT JOIN usage_claim c USING (organization_id, event_id)
        WHERE q.reason = 'unpriced' AND q.resolved_at IS NULL AND c.event_id IS NULL
        """,
    ),
    Check(
        "V12 quarantine is not charged",
        "SELECT count(*) FROM quarantine",
        """
        SELECT format('quarantined event %s of %s stands in the books as %s', q.event_id, q.organization_id, c.state)
        FROM quarantine q JOIN usage_claim c ON c.organization_id = q.organization_id AND c.event_id = q.event_id
        WHERE q.reason = 'unpriced' AND q.resolved_at IS NULL AND c.state <> 'quarantined'
        UNION ALL
        SELECT format('record %s of %s was charged by a claim that stands for quarantine', r.id, r.organization_id)
        FROM usage_record r JOIN usage_claim c USING (organization_id, event_id)
        WHERE r.corrects_id IS NULL AND c.state = 'quarantined'
        """,
    ),
    Check(
        "V26 prices in order",
        "SELECT count(*) FROM price",
        """
        SELECT format('price %s of model %s: revision %s of %s stands alone', id, model_id, revision, effective_from)
        FROM (
            SELECT id, model_id, revision, effective_from, active_from,
                row_number() OVER (PARTITION BY model_id, effective_from ORDER BY revision) AS place FROM price
        ) p
        WHERE revision <> place OR (revision > 1) <> (active_from IS NOT NULL)
        UNION ALL
        SELECT format('record %s of %s names a price that is not there', r.id, r.organization_id)
        FROM usage_record r LEFT JOIN price p ON p.id = r.price_id WHERE p.id IS NULL
        UNION ALL
        SELECT format('record %s of %s was rated before its price held', r.id, r.organization_id)
        FROM usage_record r JOIN price p ON p.id = r.price_id
        WHERE r.occurred_at < p.effective_from OR r.occurred_at >= coalesce(p.effective_to, 'infinity')
        """,
    ),
    Check(
        "V30 money is a number in range",
        f"SELECT {' + '.join(f'(SELECT count(*) FROM {table})' for table in AMOUNTS)}",
        " UNION ALL ".join(
            f"SELECT format('{table} of %s: %s', organization_id, concat_ws(', ', {', '.join(columns)})) FROM {table}"
            f" WHERE NOT ({' AND '.join(map(_in_range, columns))})"
            for table, columns in AMOUNTS.items()
        ),
    ),
)


def check() -> list[Finding]:
    """Run every check in one read-only snapshot; writers are not held up."""
    with _snapshot():
        return [*map(_run, CHECKS), _rerate()]


def _rerate() -> Finding:
    """V11: records cost what their frozen price and rule say. The newest ``RERATED_MAX``, and as many at random."""
    charged = UsageRecord.objects.filter(corrects_id__isnull=True)
    newest = list(charged.order_by("-id")[:RERATED_MAX])
    # Block sampling reads a few pages wherever they lie, however large the books are.
    sampled = UsageRecord.objects.raw(
        "SELECT * FROM usage_record TABLESAMPLE SYSTEM (0.1) WHERE corrects_id IS NULL LIMIT %s", [RERATED_MAX]
    )
    wrong, seen = [], 0
    cards: dict[tuple[UUID, UUID | None], rating.RateCard] = {}
    for record in {record.id: record for record in (*newest, *sampled)}.values():
        seen += 1
        try:
            cost = money.plain(_cost(record, cards))
        except (rating.Unpriced, rating.Inconsistent, ObjectDoesNotExist) as error:
            cost = f"nothing: {error}"
        if cost != money.plain(record.cost_usd):
            wrong.append(
                f"record {record.id} of {record.organization_id} costs {record.cost_usd}, by its price and rule {cost}"
            )
    detail = f"{len(wrong)} broken: " + "; ".join(wrong[:SAMPLES_MAX]) if wrong else ""
    return Finding("V11 cost = frozen price", not wrong, seen, detail)


def _cost(record: UsageRecord, cards: dict[tuple[UUID, UUID | None], rating.RateCard]) -> Decimal:
    """What a record costs by its frozen versions. Raises ``Unpriced``, ``Inconsistent`` or ``ObjectDoesNotExist``."""
    key = (record.price_id, record.rule_id)
    if key not in cards:
        rule = None if record.rule_id is None else rules.as_rule(rules.row(record.rule_id))
        base = rating.read_card(catalog.price(record.price_id).rates)
        cards[key] = rules.customer_card(record.price_id, base, rule)
    return money.from_pico(rating.rate(cards[key], usage.counts_of(record), record.occurred_at).cost_pico)


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
