"""Checks of usage: records and what they cost, claims, quarantine, prices, rollups."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain
from string import Template
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.db import connection

from billing.invariants.checks import SAMPLES_MAX, Check, Probe, Terms, told
from core import clock, ids, money
from metering import buckets, catalog, quarantine, rating, rules

# Every record is derived again while it is new, by a run each day with an hour to spare; later one in a hundred.
NEW = timedelta(hours=25)
OLD_PERCENT = 1
_CHUNK = 2000


def _altered_prices() -> Iterator[str]:
    """A line for each published version that is not what it was."""
    for price in catalog.altered():
        yield f"price {price.id} of {price.model.slug} from {price.effective_from} is not what was published"


class _Record(NamedTuple):
    """What a cost is derived from, and whose it is."""

    id: UUID
    organization_id: UUID
    occurred_at: datetime
    model: str
    price_id: UUID
    rule_id: UUID | None
    cost_usd: Decimal
    counts: rating.Counts


def _derive(terms: Terms) -> tuple[int, int, str]:
    """V11: records cost what their counts come to by their frozen price and rule: each new one, a sample of the old."""
    frozen: dict[tuple[UUID, UUID | None], _Frozen] = {}
    wrong: list[str] = []
    seen = count = 0
    for record in _chosen(terms):
        seen += 1
        said = _wrong_with(record, frozen)
        if said is not None:
            count += 1
            if len(wrong) < SAMPLES_MAX:
                wrong.append(f"record {record.id} of {record.organization_id} {said}")
    return seen, count, told(count, wrong)


def _chosen(terms: Terms) -> Iterator[_Record]:
    """The records of the scope; where that is everything, the newest of them. Of older ones, a few."""
    if terms["whole"] == "true":
        first = f"'{ids.floor(clock.now() - NEW)}'::uuid"
        new = _records("usage_record", f"id >= {first}")
    else:
        first = terms["first"]
        new = _records(f"{terms['records']} x", "true")
    if terms["deep"] == "false":
        return new
    # Block sampling reads a few pages wherever they lie, however large the books are.
    return chain(new, _records(f"usage_record TABLESAMPLE SYSTEM ({OLD_PERCENT})", f"id < {first}"))


def _records(source: str, condition: str) -> Iterator[_Record]:
    """Charged records, a chunk in memory at a time."""
    own, counts = _Record._fields[:-1], rating.Counts.__struct_fields__
    with connection.chunked_cursor() as cursor:
        cursor.execute(f"SELECT {', '.join((*own, *counts))} FROM {source} WHERE corrects_id IS NULL AND {condition}")
        while rows := cursor.fetchmany(_CHUNK):
            for row in rows:
                used: dict[str, Any] = dict(zip(counts, row[len(own) :], strict=True))
                used["units"] = json.loads(used["units"]) if used["units"] else {}
                yield _Record._make((*row[: len(own)], rating.Counts(**used)))


class _Frozen(NamedTuple):
    """A price version and a rule on it as the books keep them, and the card they make."""

    model: str
    rule: rules.Rule | None
    card: rating.RateCard


def _wrong_with(record: _Record, frozen: dict[tuple[UUID, UUID | None], _Frozen]) -> str | None:
    """What is wrong with a record's cost, if anything; ``frozen`` keeps what was read for others."""
    key = (record.price_id, record.rule_id)
    try:
        if key not in frozen:
            rule = None if record.rule_id is None else rules.as_rule(rules.row(record.rule_id))
            price = catalog.price(record.price_id)
            card = rules.derive_card(rating.read_card(price.rates), rule)
            frozen[key] = _Frozen(price.model.slug, rule, card)
        model, rule, card = frozen[key]
        derived = money.from_pico(rating.rate(card, record.counts, record.occurred_at).cost_pico)
    except (rating.Unpriced, rating.Inconsistent, ObjectDoesNotExist) as error:
        return f"costs {money.plain(record.cost_usd)}, by its price and rule nothing: {error}"
    if derived != record.cost_usd:
        return f"costs {money.plain(record.cost_usd)}, by its price and rule {money.plain(derived)}"
    if record.model != model:
        return f"is of {record.model} and was rated by price {record.price_id} of {model}"
    if rule is not None and not rule.holds(record.occurred_at):
        return f"was rated by rule {rule.id}, which did not hold at {record.occurred_at}"
    return None


def _waiting(_: Terms) -> tuple[int, int, str]:
    """V12: what waits in quarantine: how much, how long, worth what; nothing for longer than finance has set."""
    limit = timedelta(days=settings.QUARANTINE_ALERT_DAYS)
    backlog = quarantine.backlog()
    late = quarantine.late(before=clock.now() - limit, limit=SAMPLES_MAX)
    detail = backlog.told(clock.now())
    if late.rows:
        lines = [
            f"quarantined event {row.event_id} of {row.organization_id or row.scope} waits since {row.recorded_at}"
            for row in late.oldest
        ]
        detail = f"{late.rows} wait for more than {limit.days} days: {'; '.join(lines)}. In all {detail}"
    return backlog.rows, late.rows, detail


# A quarter of an hour by arithmetic of its own, not by what folding uses.
_QUARTER = "to_timestamp(floor(extract(epoch FROM {0}) / 900) * 900)"
_APART = "api_key_id, member_id, project_id, model, source, service_tier, batch, other_payer_id"
_SUMMED = ("records", "requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd",
    "provider_cost_usd")  # fmt: skip
_ROLLUPS_DIFFER = f"""
    SELECT format('rollups of %s at %s (%s) differ from their records by %s', organization_id, quarter,
        concat_ws(', ', {_APART}), concat_ws(', ', {", ".join(f"'{name} ' || sum({name})" for name in _SUMMED)}))
    FROM (
        SELECT organization_id, {_QUARTER.format("starts_at")} AS quarter, {_APART}, {", ".join(_SUMMED)}
        FROM $rollups u WHERE starts_at < (SELECT folded_until FROM rollup_mark)
        UNION ALL
        SELECT organization_id, {_QUARTER.format("recorded_at")},
            {_APART.replace("other_payer_id", "NULLIF(payer_id, organization_id)")}, -1,
            CASE WHEN corrects_id IS NULL THEN -1
                ELSE -least(sign(input_tokens), sign(output_tokens), CASE WHEN units IS NULL THEN 0 ELSE -1 END) END,
            -input_tokens, -cached_input_tokens, -output_tokens, -cost_usd, -coalesce(provider_cost_usd, 0)
        FROM $records r WHERE recorded_at < (SELECT folded_until FROM rollup_mark)
    ) both_ways
    GROUP BY organization_id, quarter, {_APART}
    HAVING {" OR ".join(f"sum({name}) <> 0" for name in _SUMMED)}
"""


_ASTRAY = """
    SELECT format('rollup %s of %s at %s %s', place, organization_id, starts_at, wrong) FROM (
        SELECT u.*, CASE
            WHEN extract(epoch FROM starts_at) % 900 <> 0 THEN 'begins with no quarter of an hour'
            WHEN starts_at >= folded_until THEN 'lies beyond ' || folded_until || ', where folding ends' END AS wrong
        FROM $rollups u CROSS JOIN rollup_mark
    ) judged WHERE wrong IS NOT NULL
"""
_ZONES = """
    SELECT o.time_zone, count(*), min(starts_at), max(starts_at)
    FROM $rollups u JOIN organization o ON o.id = u.organization_id GROUP BY o.time_zone ORDER BY o.time_zone
"""
# PostgreSQL has a calendar of its own.
_OTHER_DAYS = """
    SELECT format('quarter %%s of %%s lies in no day of %%s, or in another', starts_at, organization_id, o.time_zone)
    FROM $rollups u JOIN organization o ON o.id = u.organization_id
    WHERE o.time_zone = %s AND (%s::date[])[width_bucket(starts_at, %s::timestamptz[])]
        IS DISTINCT FROM (starts_at AT TIME ZONE o.time_zone)::date
"""


def _days(terms: Terms) -> tuple[int, int, str]:
    """V14: each folded quarter lies in one day, and so in one month, of its organization's zone."""
    lines: list[str] = []
    seen = 0
    with connection.cursor() as cursor:
        cursor.execute(Template(_ASTRAY).substitute(terms))
        lines += [line for (line,) in cursor.fetchall()]
        cursor.execute(Template(_ZONES).substitute(terms))
        for name, count, first, last in cursor.fetchall():
            seen += count
            try:
                zone = ZoneInfo(name)
            except (ValueError, KeyError, OSError):
                lines.append(f"{count} rollups are of organizations whose zone is {name}, which has no days")
                continue
            edges = [first]
            while edges[-1] <= last:
                edges.append(buckets.next_day(edges[-1], zone))
            # An edge is the first instant of its date; what the first quarter's is, the edge after it says too.
            dates = [edge.astimezone(zone).date() for edge in edges]
            cursor.execute(Template(_OTHER_DAYS).substitute(terms), [name, dates, edges])
            lines += [line for (line,) in cursor.fetchall()]
    return seen, len(lines), told(len(lines), lines[:SAMPLES_MAX])


CHECKS: Sequence[Check | Probe] = (
    Check(
        "V09 each record charged once",
        "SELECT count(*) FROM $records r",
        """
        SELECT format('transfer %s of %s is %s; its records sum to %s',
            coalesce(t.id, r.transfer_id), coalesce(t.organization_id, r.payer_id), t.amount_usd, r.cost)
        FROM (
            SELECT id, organization_id, CASE debit WHEN 'revenue' THEN -amount_usd ELSE amount_usd END AS amount_usd
            FROM transfer WHERE 'revenue' IN (debit, credit) AND id >= $first AND id < $last
        ) t
        FULL JOIN (
            SELECT payer_id, transfer_id, sum(cost_usd) AS cost FROM $records r
            WHERE transfer_id IS NOT NULL GROUP BY payer_id, transfer_id
        ) r ON r.payer_id = t.organization_id AND r.transfer_id = t.id
        WHERE t.amount_usd IS DISTINCT FROM r.cost
        UNION ALL
        SELECT format('record %s of %s costs %s and names no transfer', id, organization_id, cost_usd)
        FROM $records r WHERE transfer_id IS NULL AND cost_usd <> 0
        UNION ALL
        -- Of a month that was taken out the sums are left; a batch's records and its transfers are of one month.
        SELECT * FROM (
            WITH looked_at AS (
                SELECT * FROM archived_month WHERE book = 'usage_record' AND ($whole OR detached_at >= $since)
            ), moved AS (
                SELECT m.id, t.organization_id AS payer_id,
                    sum(CASE t.debit WHEN 'revenue' THEN -t.amount_usd ELSE t.amount_usd END) AS amount
                FROM transfer t JOIN looked_at m ON t.id >= m.first_id AND t.id < m.end_id
                -- Asked once: where no month is looked at, transfers are not read.
                WHERE EXISTS (SELECT 1 FROM looked_at) AND 'revenue' IN (t.debit, t.credit)
                GROUP BY m.id, t.organization_id
            ), used AS (
                SELECT m.id, s.payer_id, sum(s.cost_usd) AS cost
                FROM archived_sum s JOIN looked_at m ON m.id = s.archived_id GROUP BY m.id, s.payer_id
            )
            SELECT format('archived %s: transfers of %s come to %s, its records came to %s',
                to_char(m.month, 'YYYY-MM'), payer_id, coalesce(amount, 0), coalesce(cost, 0))
            FROM moved FULL JOIN used USING (id, payer_id) JOIN looked_at m USING (id)
            WHERE coalesce(amount, 0) <> coalesce(cost, 0)
        ) archived
        UNION ALL
        SELECT format('archived %s of %s has %s rows, by organization %s', m.book, to_char(m.month, 'YYYY-MM'),
            m.rows, s.rows)
        FROM archived_month m CROSS JOIN LATERAL (
            SELECT coalesce(sum(rows), 0) AS rows FROM archived_sum WHERE archived_id = m.id
        ) s
        WHERE m.rows <> s.rows
        UNION ALL
        SELECT format('transfer %s of %s is of a month that is neither attached nor archived', id, organization_id)
        FROM transfer t
        WHERE $whole AND 'revenue' IN (debit, credit) AND id < $first AND NOT EXISTS (
            SELECT 1 FROM archived_month m WHERE m.book = 'usage_record' AND t.id >= m.first_id AND t.id < m.end_id)
        """,
    ),
    Check(
        "V10 claims = records",
        "SELECT count(*) FROM $records r",
        """
        SELECT format('record %s of %s (%s) and its claim disagree', r.id, r.organization_id, r.event_id)
        FROM $records r LEFT JOIN usage_claim c USING (organization_id, event_id)
        WHERE r.corrects_id IS NULL
            AND (c.record_id, c.state, c.cost_usd) IS DISTINCT FROM (r.id, 'recorded', r.cost_usd)
            AND (c.record_id IS NOT NULL OR r.occurred_at >= $forgotten)
        UNION ALL
        SELECT format('claim %s of %s stands for %s %s, which is not there',
            c.event_id, c.organization_id, c.state, c.record_id)
        FROM usage_claim c
        LEFT JOIN usage_record r ON r.organization_id = c.organization_id AND r.id = c.record_id
        LEFT JOIN request_log l ON l.organization_id = c.organization_id AND l.id = c.record_id
        LEFT JOIN quarantine q ON q.id = c.record_id
        -- Claims have no index by time.
        WHERE $deep AND c.record_id >= $first AND c.record_id < $last
            AND CASE c.state WHEN 'recorded' THEN r.id WHEN 'logged' THEN l.id ELSE q.id END IS NULL
        UNION ALL
        SELECT format('log row %s of %s (%s) and its claim disagree', l.id, l.organization_id, l.event_id)
        FROM $logs l LEFT JOIN usage_claim c USING (organization_id, event_id)
        WHERE (c.record_id, c.state) IS DISTINCT FROM (l.id, 'logged')
            AND (c.record_id IS NOT NULL OR l.occurred_at >= $forgotten)
        UNION ALL
        SELECT format('quarantined event %s of %s waits while its claim stands for %s %s',
            q.event_id, q.organization_id, coalesce(c.state, 'nothing'), c.record_id)
        FROM quarantine q LEFT JOIN usage_claim c USING (organization_id, event_id)
        WHERE q.reason = 'unpriced' AND q.resolved_at IS NULL
            AND (c.state, c.record_id) IS DISTINCT FROM ('quarantined', q.id)
        """,
    ),
    Check(
        "V26 prices as published",
        "SELECT count(*) FROM price",
        """
        WITH start AS (
            SELECT model_id, effective_from, max(revision) AS revisions,
                lead(effective_from) OVER (PARTITION BY model_id ORDER BY effective_from) AS next
            FROM price GROUP BY model_id, effective_from
        )
        SELECT format('price %s of %s: revision %s of %s stands alone', p.id, m.slug, p.revision, p.effective_from)
        FROM (
            SELECT *, row_number() OVER (PARTITION BY model_id, effective_from ORDER BY revision, id) AS place
            FROM price
        ) p JOIN model m ON m.id = p.model_id
        WHERE p.revision <> p.place OR (p.revision > 1) <> (p.active_from IS NOT NULL)
        UNION ALL
        SELECT format('price %s of %s ends at %s and the next begins at %s', p.id, m.slug, p.effective_to, s.next)
        FROM start s JOIN model m ON m.id = s.model_id CROSS JOIN LATERAL (
            SELECT id, effective_to FROM price
            WHERE model_id = s.model_id AND effective_from = s.effective_from
                AND (active_from IS NULL OR active_from <= now())
            ORDER BY revision DESC LIMIT 1
        ) p
        WHERE p.effective_to < s.next
        UNION ALL
        SELECT format('record %s of %s names price %s, which is not there', r.id, r.organization_id, r.price_id)
        FROM $records r LEFT JOIN price p ON p.id = r.price_id WHERE p.id IS NULL
        UNION ALL
        -- Where a version was corrected, another may have taken a part of its time since.
        SELECT format('record %s of %s was rated by price %s, which did not hold at %s',
            r.id, r.organization_id, p.id, r.occurred_at)
        FROM $records r JOIN price p ON p.id = r.price_id JOIN start s USING (model_id, effective_from)
        WHERE r.occurred_at < p.effective_from
            OR r.occurred_at >= least(p.effective_to, CASE s.revisions WHEN 1 THEN s.next END)
        """,
        more=_altered_prices,
    ),
    Check("V13 rollups = records", "SELECT count(*) FROM $rollups u", _ROLLUPS_DIFFER),
    Probe("V14 days = quarters", _days),
    Probe("V11 cost = frozen price", _derive),
    Probe("V12 quarantine is dealt with", _waiting),
)
