"""Margins: what requests cost customers less what they cost us. Reads only.

What a request cost us is what its gateway said (``provider_cost_usd``). Where it said nothing the
margin is unknown, not the whole price: such records are counted apart. A correction changes what
the customer paid and not what we did; it counts on the day on which it was posted, as it does in
every other sum of the books, with the record that it corrects. Failed requests are no records, so
what they cost us is not in here.
"""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from core import errors, ids, money
from metering.models import UsageRecord

DAYS_MAX = 92
ROWS_MAX = 2_000
_EPOCH = date(1970, 1, 1)


class Margin(NamedTuple):
    """What the records of a day and a model come to; a sum over days or models has none.

    ``routed_model`` is what served it, where the gateway said so: the margin of a smart route hangs
    on it. ``records``, ``cost_usd`` and ``provider_cost_usd`` are of the records whose provider cost
    is known, with what was corrected about them; the ``unknown_`` fields are of the others.
    ``known`` says whether there is anything of the first kind.
    """

    day: date | None
    model: str | None
    routed_model: str | None
    known: bool
    records: int
    cost_usd: Decimal
    provider_cost_usd: Decimal
    unknown_records: int
    unknown_cost_usd: Decimal
    corrections: int

    @property
    def margin_usd(self) -> Decimal | None:
        """Cost less provider cost; ``None`` where no provider cost is known."""
        return self.cost_usd - self.provider_cost_usd if self.known else None


class Margins(NamedTuple):
    """Margins of a period: in all, by model, and by day and model, the newest day first.

    ``has_more`` says that there are older days or further models than those in ``by_day``; the sums
    are whole all the same.
    """

    total: Margin
    by_model: list[Margin]
    by_day: list[Margin]
    has_more: bool


# Corrections are few beside records: they are found by their own table, and each looks up two rows by key.
_MARGINS = """
    SELECT grouping(day, model), day, model, routed_model,
        coalesce(bool_or(known), false),
        coalesce(sum(records) FILTER (WHERE known), 0),
        coalesce(sum(cost) FILTER (WHERE known), 0),
        coalesce(sum(provider_cost), 0),
        coalesce(sum(records) FILTER (WHERE NOT known), 0),
        coalesce(sum(cost) FILTER (WHERE NOT known), 0),
        coalesce(sum(corrections), 0)
    FROM (
        SELECT (recorded_at AT TIME ZONE 'UTC')::date, model, routed_model, provider_cost_usd IS NOT NULL,
            cost_usd, provider_cost_usd, 1, 0
        FROM usage_record
        WHERE id >= %(low)s AND id < %(high)s AND corrects_id IS NULL
            AND (%(organization)s::uuid IS NULL OR organization_id = %(organization)s::uuid)
        UNION ALL
        SELECT (own.recorded_at AT TIME ZONE 'UTC')::date, own.model, own.routed_model,
            first.provider_cost_usd IS NOT NULL, own.cost_usd, NULL, 0, 1
        FROM correction c
        JOIN usage_record own ON own.organization_id = c.organization_id AND own.id = c.id
        LEFT JOIN usage_record first ON first.organization_id = c.organization_id AND first.id = c.record_id
        WHERE c.id >= %(low)s AND c.id < %(high)s AND own.id >= %(low)s AND own.id < %(high)s
            AND (%(organization)s::uuid IS NULL OR c.organization_id = %(organization)s::uuid)
    ) AS moved (day, model, routed_model, known, cost, provider_cost, records, corrections)
    GROUP BY GROUPING SETS ((day, model, routed_model), (model, routed_model), ())
    ORDER BY 1 DESC, day DESC, model, routed_model NULLS FIRST
    LIMIT %(limit)s
"""
# What ``grouping(day, model)`` says of a row: a bit for each column that was summed over.
_ALL, _MODEL, _DAY = 3, 2, 0


def between(*, start: date, end: date, organization_id: UUID | None = None) -> Margins:
    """Margins of the UTC days from ``start`` until before ``end``: one query over the records of these days.

    Raises ``OutOfRange`` for no day at all, more than ``DAYS_MAX``, or days before computers count time.
    """
    if not timedelta(0) < end - start <= timedelta(days=DAYS_MAX) or start < _EPOCH:
        raise errors.OutOfRange(f"A period has 1 to {DAYS_MAX} days.", param="end")
    bounds = {"low": ids.floor(_midnight(start)), "high": ids.floor(_midnight(end))}
    rows: dict[int, list[Margin]] = {_ALL: [], _MODEL: [], _DAY: []}
    with connection.cursor() as cursor:
        cursor.execute(_MARGINS, {**bounds, "organization": organization_id, "limit": ROWS_MAX + 1})
        found = cursor.fetchall()
    for kind, *row in found[:ROWS_MAX]:
        rows[kind].append(Margin(*row))
    return Margins(rows[_ALL][0], rows[_MODEL], rows[_DAY], len(found) > ROWS_MAX)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def of(record: UsageRecord, *, corrected_usd: Decimal = money.ZERO) -> Decimal | None:
    """The margin of one record with what corrections add to its cost; ``None`` where its provider cost is unknown.

    A correction has no margin of its own: it is part of its record's.
    """
    if record.corrects_id is not None or record.provider_cost_usd is None:
        return None
    margin: Decimal = record.cost_usd + corrected_usd - record.provider_cost_usd
    return margin
