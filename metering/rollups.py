"""Rollups: usage by the quarter of an hour. The only module that writes ``UsageRollup`` and ``RollupMark``.

A worker folds records that are final (decisions 20) into rows by organization, key, member, project,
model, source, tier and batch (decisions 21), and by who paid where that was another wallet. One mark
says before which instant everything is folded, for every organization: a quarter without rows there is
one in which nothing was used, also for an organization that was made later. A quarter is counted again
as a whole and replaced, never added to.

Whoever reads takes what is folded from here and the rest from the records. The records stay after
they were folded, so any instant that is not past the mark parts the two, also while the mark moves on.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection, transaction

from core import failpoints, ids
from metering import partitions, usage
from metering.filters import NONE

GRAIN = timedelta(minutes=15)
# What one transaction folds, and how long a run goes on taking up further ones.
STEP = 4 * GRAIN
STEPS_MAX = 5_000
RUN_SECONDS = 45

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = UUID(int=(1 << 128) - 1)
# Ids reach beyond the years that a datetime can name.
_LAST_MS = 253_402_300_799_000

# A correction that takes counts back is a request less, one that changes only the cost is none.
_REQUESTS = (
    "CASE WHEN corrects_id IS NULL THEN 1"
    " WHEN input_tokens < 0 OR output_tokens < 0 OR units IS NOT NULL THEN -1 ELSE 0 END"
)
_DIMENSIONS = "api_key_id, member_id, project_id, model, source, service_tier, batch"
_APART = f"{_DIMENSIONS}, other_payer_id"


def floor(at: datetime) -> datetime:
    """The start of the quarter that ``at`` lies in."""
    return at - (at - _EPOCH) % GRAIN


def _ceiling(at: datetime) -> datetime:
    """The first start of a quarter that is not before ``at``."""
    return floor(at + GRAIN - timedelta(microseconds=1))


def folded_until() -> datetime:
    """The instant before which everything is folded."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT folded_until FROM rollup_mark WHERE id = 1")
        until: datetime = cursor.fetchone()[0]
        return until


class Folded(NamedTuple):
    """Up to where a run left everything folded, and in how many steps; None where another run is at it."""

    until: datetime | None
    steps: int


def fold(*, seconds: float = RUN_SECONDS) -> Folded:
    """Fold what is final and was not folded yet, step by step, for about so many seconds.

    Each step is a transaction: killed at any time, it is done or not begun. Of several runs at
    once one folds and the others leave it to that one.
    """
    end = time.monotonic() + seconds
    steps = 0
    while True:
        step = _step()
        failpoints.reach("fold.after_commit")
        if step is None:
            return Folded(None, steps)
        steps += step.moved
        if not step.more or steps >= STEPS_MAX or time.monotonic() >= end:
            return Folded(step.until, steps)


class _Step(NamedTuple):
    """Where a step ended, whether it moved the mark, and whether more is final."""

    until: datetime
    moved: bool
    more: bool


# The lease: it ends with the transaction, however that ends. Both instants are the database's.
_LEASE = """
    SELECT folded_until, date_bin(%(grain)s, now() - %(final_after)s, timestamptz '1970-01-01 00:00:00+00')
    FROM rollup_mark WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED
"""


@transaction.atomic(durable=True)
def _step() -> _Step | None:
    """Fold the next quarters and move the mark past them; None where another transaction has the lease."""
    values: dict[str, Any] = {"grain": GRAIN, "final_after": usage.FINAL_AFTER}
    with connection.cursor() as cursor:
        cursor.execute(_LEASE, values)
        row = cursor.fetchone()
    if row is None:
        return None
    start, final = row
    end = min(final, start + STEP)
    if end <= start:
        return _Step(start, False, False)
    _replace(start, end)
    failpoints.reach("fold.after_rows")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE rollup_mark SET folded_until = %s WHERE id = 1", [end])
    return _Step(end, True, end < final)


def refold(*, start: datetime, end: datetime) -> int:
    """Count the quarters from ``start`` to ``end`` again and replace them, as far as they are folded; how many.

    For when records came or went behind the mark, which only happens to a database whose clock went
    back or that was repaired by hand. Step by step, like folding. Months whose records are not attached
    keep their rollups.
    """
    attached = partitions.months("usage_record")
    first = place = max([floor(start), *attached[:1]])
    end = min(_ceiling(end), folded_until())
    while place < end:
        _again(place, min(place + STEP, end))
        place += STEP
    return max(0, (end - first) // GRAIN)


@transaction.atomic(durable=True)
def _again(start: datetime, end: datetime) -> None:
    """Replace quarters that lie behind the mark, while nobody folds."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM rollup_mark WHERE id = 1 FOR NO KEY UPDATE")
    _replace(start, end)


_ORGANIZATIONS = "organization_id = ANY (ARRAY(SELECT id FROM organization))"
_REMOVE = f"DELETE FROM usage_rollup WHERE {_ORGANIZATIONS} AND starts_at >= %s AND starts_at < %s"
_COUNT = f"""
    INSERT INTO usage_rollup (organization_id, starts_at, place, {_APART}, records, requests, input_tokens,
        cached_input_tokens, output_tokens, cost_usd, provider_cost_usd)
    SELECT organization_id, starts_at, row_number() OVER (PARTITION BY organization_id, starts_at), {_APART},
        count(*), sum(requests), sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(cost_usd),
        coalesce(sum(provider_cost_usd), 0)
    FROM (
        SELECT *, {_REQUESTS} AS requests, NULLIF(payer_id, organization_id) AS other_payer_id,
            date_bin(%(grain)s, recorded_at, timestamptz '1970-01-01 00:00:00+00') AS starts_at
        FROM usage_record WHERE {_ORGANIZATIONS} AND id >= %(low)s AND id < %(high)s
    ) record
    GROUP BY organization_id, starts_at, {_APART}
"""


def _replace(start: datetime, end: datetime) -> None:
    """Count whole quarters anew, in the transaction we are in."""
    with connection.cursor() as cursor:
        # The keys begin with the organization: each one's range is looked up, never a month read for a quarter of it.
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL statement_timeout = '5min'")
        cursor.execute(_REMOVE, [start, end])
        values: dict[str, Any] = {"grain": GRAIN, "low": ids.floor(start), "high": ids.floor(end)}
        cursor.execute(_COUNT, values)


class Only(NamedTuple):
    """Which records count; of each list any, None is all. ``user_ids`` are people, in whatever membership."""

    member_id: UUID | None = None
    models: Sequence[str] | None = None
    project_ids: Sequence[UUID] | None = None
    user_ids: Sequence[UUID] | None = None
    api_key_ids: Sequence[UUID] | None = None
    batch: bool | None = None


EVERYTHING = Only()


class Sum(NamedTuple):
    """What a group used in a bucket, counted from 0. ``group`` is what it is told apart by, in the order asked for."""

    bucket: int
    group: tuple[Any, ...]
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: Decimal


# What sums can be told apart by: the column of a part, or of the member it was used by.
_GROUPS = {
    "project_id": "part.project_id", "user_id": "member.user_id", "member_id": "part.member_id",
    "api_key_id": "part.api_key_id", "model": "part.model", "batch": "part.batch", "service_tier": "part.service_tier",
}  # fmt: skip
_SUMS = ("requests", "input_tokens", "cached_input_tokens", "output_tokens")
_PART = f"{{at}} AS at, {_DIMENSIONS}, {{requests}} AS requests, {', '.join(_SUMS[1:])}, cost_usd"
_FOLDED = f"SELECT {_PART.format(at='starts_at', requests='requests')} FROM usage_rollup"
_RECORDS = f"SELECT {_PART.format(at='recorded_at', requests=_REQUESTS)} FROM usage_record"


def sums(
    *,
    organization_id: UUID,
    edges: Sequence[datetime],
    by: Sequence[str] = (),
    only: Only = EVERYTHING,
    rows: int,
    dearest_first: bool = False,
) -> list[Sum]:
    """Sums of each bucket between two ``edges``, told apart by some of ``_GROUPS``: the first ``rows`` of them.

    By bucket, then by group, or ``dearest_first``; a bucket in which nothing was used has none. Quarters that
    lie between the first and the last edge as a whole are read from rollups as far as they are folded, the rest,
    or all of it where edges part a quarter, from the records: exact at any moment. At most two queries.
    """
    raw = any((edge - _EPOCH) % GRAIN for edge in edges[1:-1])
    parts, values = _parts(organization_id, edges[0], edges[-1], only, raw=raw)
    groups = [_GROUPS[name] for name in by]
    member = " LEFT JOIN member ON member.id = part.member_id" if "user_id" in by else ""
    columns = ["width_bucket(at, %s::timestamptz[]) - 1", *groups]
    places = ", ".join(str(place) for place in range(1, len(columns) + 1))
    order = f"1, cost_usd DESC, {places}" if dearest_first else places
    with connection.cursor() as cursor:
        # Summed by hashing, then sorted: planned as one, every rollup was sorted first, at four times the cost.
        cursor.execute(
            f"WITH summed AS MATERIALIZED (SELECT {', '.join(columns)},"
            f" {', '.join(f'sum(part.{name})::int8' for name in _SUMS)}, sum(part.cost_usd) AS cost_usd"
            f" FROM ({' UNION ALL '.join(parts)}) part{member} GROUP BY {places})"
            f" SELECT * FROM summed ORDER BY {order} LIMIT %s",
            [list(edges), *values, rows],
        )
        found = cursor.fetchall()
    last = len(columns)
    return [Sum(row[0], row[1:last], *row[last:]) for row in found]


def _parts(
    organization_id: UUID, start: datetime, end: datetime, only: Only, *, raw: bool
) -> tuple[list[str], list[Any]]:
    """What to add up from ``start`` to ``end``: statements that have no record in common, and their values."""
    conditions, wanted = _wanted(organization_id, only)
    # A statement of its own: whatever is folded meanwhile, what lies before this stays folded and what follows stays
    # among the records.
    until = start if raw else folded_until()
    first = _ceiling(start)
    last = min(floor(end), until)
    statements: list[str] = []
    values: list[Any] = []

    def add(statement: str, column: str, low: datetime | UUID, high: datetime | UUID) -> None:
        statements.append(f"{statement} WHERE {' AND '.join((*conditions, f'{column} >= %s', f'{column} < %s'))}")
        values.extend((*wanted, low, high))

    if first < last:
        add(_FOLDED, "starts_at", first, last)
    else:
        first = last = start
    for low, high in ((start, first), (last, end)):
        if low < high or not statements:
            add(_RECORDS, "id", ids.floor(low), ids.floor(high))
    return statements, values


def _wanted(organization_id: UUID, only: Only) -> tuple[list[str], list[Any]]:
    """Conditions that rollups and records share, and their values."""
    conditions, values = ["organization_id = %s"], [organization_id]
    lists: tuple[tuple[str, Sequence[Any] | None], ...] = (
        ("model = ANY (%s)", only.models),
        ("project_id = ANY (%s)", only.project_ids),
        ("member_id = ANY (ARRAY(SELECT id FROM member WHERE user_id = ANY (%s)))", only.user_ids),
        ("api_key_id = ANY (%s)", only.api_key_ids),
    )
    asked: list[tuple[str, Any]] = [(condition, list(chosen)) for condition, chosen in lists if chosen is not None]
    if only.member_id is not None:
        asked.append(("member_id = %s", only.member_id))
    if only.batch is not None:
        asked.append(("batch = %s", only.batch))
    return [*conditions, *(one for one, _ in asked)], [*values, *(value for _, value in asked)]


class Window(NamedTuple):
    """A stretch of time of one payer's, from ``start`` until before ``end``; both on quarters of an hour."""

    payer_id: UUID
    start: datetime
    end: datetime
    by_key: bool = False
    by_project: bool = False


class Paid(NamedTuple):
    """What a payer paid for in its window, told apart by all but the sums."""

    payer_id: UUID
    model: str
    service_tier: str | None
    batch: bool
    api_key_id: UUID | None
    project_id: UUID | None
    records: int
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: Decimal


_PAID = """
    WITH asked AS (
        SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::bool[], %s::bool[])
            AS w (payer_id, first, beyond, by_key, by_project)
    ), part AS (
        SELECT w.*, r.* FROM asked w CROSS JOIN LATERAL (
            SELECT * FROM usage_rollup WHERE organization_id = w.payer_id AND starts_at >= w.first
                AND starts_at < w.beyond AND other_payer_id IS NULL
        ) r
        UNION ALL
        SELECT w.*, r.* FROM asked w CROSS JOIN LATERAL (
            SELECT * FROM usage_rollup WHERE other_payer_id = w.payer_id AND starts_at >= w.first
                AND starts_at < w.beyond
        ) r
    ), summed AS (
        SELECT payer_id, model, service_tier, batch, CASE WHEN by_key THEN api_key_id END AS key,
            CASE WHEN by_project THEN project_id END AS project, sum(records)::int8, sum(requests)::int8,
            sum(input_tokens)::int8, sum(cached_input_tokens)::int8, sum(output_tokens)::int8, sum(cost_usd)
        FROM part GROUP BY 1, 2, 3, 4, 5, 6
    )
    SELECT s.* FROM (SELECT *, row_number() OVER (PARTITION BY payer_id) AS place FROM summed) s WHERE s.place <= %s
    ORDER BY payer_id, model, service_tier NULLS FIRST, batch, key NULLS FIRST, project NULLS FIRST
"""


def paid(windows: Sequence[Window], *, rows: int) -> list[Paid]:
    """What each payer paid for in its window, at most ``rows`` sums of each; one statement for all of them.

    Also what it paid for of another organization's usage, and not what another wallet paid of its own. Only what is
    folded: whoever asks has seen that ``folded_until`` is not before any window's end.
    """
    for window in windows:
        assert (floor(window.start), floor(window.end)) == (window.start, window.end), "a window is of quarters"
    with connection.cursor() as cursor:
        cursor.execute(_PAID, [*(list(column) for column in zip(*windows, strict=True)), rows])
        return [Paid(*row[:-1]) for row in cursor.fetchall()]


def stretches(
    *,
    organization_id: UUID,
    model: str | None = None,
    source: str | None = None,
    api_key_id: UUID | None = None,
    project_id: UUID | None = None,
    member_id: UUID | None = None,
    below: UUID | None,
    above: UUID | None,
    rows: int,
    ascending: bool,
) -> list[tuple[UUID, UUID]] | None:
    """Where in the listing the next ``rows`` matching records lie: id ranges [low, high) in walking order.

    Together they are certain to hold the next ``rows`` records that match and have ids between
    ``above`` and ``below`` (both exclusive, None is open), if there are that many; whoever reads them
    still filters. What is not folded yet is one range that may hold any. None: nothing is filtered on,
    so there is nothing to skip. Two queries, whatever the size of the books.
    """
    wanted = {
        "model": model, "source": source, "api_key_id": api_key_id, "project_id": project_id, "member_id": member_id,
    }  # fmt: skip
    matching = {name: value for name, value in wanted.items() if value is not None}
    if not matching:
        return None
    first = None if above is None else floor(_instant(above))
    if ascending and (attached := partitions.months("usage_record")):
        # Of months that are not attached the rollups stand and the records do not.
        first = max(first or attached[0], attached[0])
    until, found = _matching(
        organization_id, matching, first=first, last=None if below is None else _instant(below),
        # The quarters at both ends may hold what matches beyond the bounds.
        limit=rows + 2, ascending=ascending,
    )  # fmt: skip
    tail = (ids.floor(until), _LAST)
    ranges: list[tuple[UUID, UUID]] = []
    certain = 0
    if not ascending and (below is None or tail[0] < below):
        ranges.append(tail)
    for starts_at, records in found:
        if certain >= rows:
            break
        low, high = ids.floor(starts_at), ids.floor(starts_at + GRAIN)
        _extend(ranges, low, high)
        if (above is None or above < low) and (below is None or high <= below):
            certain += records
    if ascending and certain < rows and (below is None or tail[0] < below):
        _extend(ranges, *tail)
    cut = ((max(low, above or low), min(high, below or high)) for low, high in ranges)
    return [(low, high) for low, high in cut if low < high]


def _matching(
    organization_id: UUID,
    matching: dict[str, Any],
    *,
    first: datetime | None,
    last: datetime | None,
    limit: int,
    ascending: bool,
) -> tuple[datetime, list[tuple[datetime, int]]]:
    """The mark, and the next quarters in walking order that hold records which match, with how many."""
    conditions = ["organization_id = %s", "starts_at < mark.folded_until"]
    values: list[Any] = [organization_id]
    for name, value in matching.items():
        conditions.append(f"{name} IS NULL" if value == NONE else f"{name} = %s")
        values += [] if value == NONE else [value]
    if first is not None:
        conditions.append("starts_at >= %s")
        values.append(first)
    if last is not None:
        conditions.append("starts_at <= %s")
        values.append(last)
    direction = "ASC" if ascending else "DESC"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT mark.folded_until, found.* FROM rollup_mark mark LEFT JOIN LATERAL ("
            f"SELECT starts_at, sum(records)::int8 FROM usage_rollup WHERE {' AND '.join(conditions)}"
            f" GROUP BY starts_at ORDER BY starts_at {direction} LIMIT %s) found ON true"
            f" WHERE mark.id = 1 ORDER BY found.starts_at {direction}",
            [*values, limit],
        )
        found = cursor.fetchall()
    return found[0][0], [(starts_at, records) for _, starts_at, records in found if starts_at is not None]


def _extend(ranges: list[tuple[UUID, UUID]], low: UUID, high: UUID) -> None:
    """Add a range to the end; one that touches the last becomes a part of it."""
    if ranges and ranges[-1][0] == high:
        ranges[-1] = (low, ranges[-1][1])
    elif ranges and ranges[-1][1] == low:
        ranges[-1] = (ranges[-1][0], high)
    else:
        ranges.append((low, high))


def _instant(value: UUID) -> datetime:
    """The instant that an id or a bound carries, the last there is for those beyond it."""
    return _EPOCH + timedelta(milliseconds=min(value.int >> 80, _LAST_MS))
