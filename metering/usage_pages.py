"""Pages of usage: the listing of ``GET /v1/usage`` (contract 8), for any door.

A page is one statement that also looks the cursor up, and its rows become JSON without a model in
between: PostgreSQL writes instants as Unix seconds and costs in plain digits. For a hundred rows that
measured a tenth of the work in Python that models took, and a fifth of what decimals and datetimes take.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from core import clock, errors, ids, lists, money, wire
from core.bulk import array
from metering import filters, rollups, usage
from metering.filters import NONE, Filters, Params
from orgs import permissions
from orgs.principals import Principal

# Planning grows with the months that a statement may reach, and most pages end within the nearest:
# with 28 months attached, a page that may reach them all took PostgreSQL three times the work.
_NEAR_MS = 31 * 86_400_000
# Matches that stand closer than this would lose by being looked up in the rollups.
_LOOK_ROWS = 2000
_EXPORT_ROWS = 1000

# Each begins with the id; money without idle zeros, as ``money.plain`` writes it.
_LISTED = (
    "id, model, source, input_tokens, output_tokens, floor(extract(epoch FROM recorded_at))::int8 AS created_at,"
    " floor(extract(epoch FROM occurred_at))::int8 AS occurred_at, trim_scale(cost_usd)::text AS cost_usd"
)
_EXPORTED = (
    "id, model, source, input_tokens, output_tokens, recorded_at, occurred_at, cost_usd, api_key_id, end_user,"
    " cached_input_tokens, reasoning_tokens, request_id"
)


class Shown(msgspec.Struct, frozen=True, gc=False):
    """A record in a list, as it stands on the wire."""

    id: str
    object: str
    model: str
    source: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    created_at: int
    occurred_at: int
    cost_usd: msgspec.Raw


class Listing(msgspec.Struct, frozen=True):
    """The list object of contract 8.1; ``complete_until`` only where it is read in order."""

    object: str
    data: Sequence[Shown]
    first_id: str | None
    last_id: str | None
    has_more: bool
    complete_until: int | msgspec.UnsetType = msgspec.UNSET


class Query(NamedTuple):
    """What a caller asks for. ``limit`` is None where none was named."""

    filters: Filters
    limit: int | None
    after: str | None
    ascending: bool


class Scope(NamedTuple):
    """What a caller may see: an organization's records, or only one member's."""

    organization_id: UUID
    member_id: UUID | None


class Page(NamedTuple):
    """Rows that begin with their id, whether more follow, and, oldest first, before when the page is complete."""

    rows: list[tuple[Any, ...]]
    has_more: bool
    final: datetime | None


class Clause(NamedTuple):
    """A condition in SQL and its values."""

    sql: str
    values: Sequence[Any] = ()


def answer(*, principal: Principal, params: Params) -> bytes:
    """A page as JSON. Raises ``InvalidType``, ``OutOfRange`` or ``InvalidCursor`` naming the parameter."""
    query = read(params)
    found = page(
        scope=scope_of(principal), matching=query.filters, columns=_LISTED,
        limit=query.limit or lists.LIMIT_DEFAULT, after=query.after, ascending=query.ascending,
    )  # fmt: skip
    data = [_shown(*row) for row in found.rows]
    return wire.encode(
        Listing(
            object="list",
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=found.has_more,
            complete_until=msgspec.UNSET if found.final is None else clock.to_unix(found.final),
        )
    )


def _shown(
    record_id: UUID,
    model: str,
    source: str,
    input_tokens: int,
    output_tokens: int,
    created: int,
    occurred: int,
    cost: str,
) -> Shown:
    """A row of ``_LISTED`` on the wire."""
    return Shown(
        ids.show("usage", record_id), "usage_record", model, source, input_tokens, output_tokens,
        input_tokens + output_tokens, created, occurred, msgspec.Raw(cost),
    )  # fmt: skip


COLUMNS = (
    "id", "model", "source", "input_tokens", "output_tokens", "total_tokens", "created_at", "occurred_at", "cost_usd",
    "api_key_id", "end_user", "cached_input_tokens", "reasoning_tokens", "request_id",
)  # fmt: skip


def export(*, principal: Principal, params: Params) -> Iterator[tuple[object, ...]]:
    """Rows of ``COLUMNS`` for all that matches, or for one page where a limit is named.

    The first rows are read here and now, so that a bad query is refused before anything was sent;
    the others as they are asked for, some at a time. Raises as ``answer`` does.
    """
    query, scope = read(params), scope_of(principal)

    def chunk(after: str | None, final: datetime | None) -> Page:
        return page(
            scope=scope, matching=query.filters, columns=_EXPORTED, limit=query.limit or _EXPORT_ROWS,
            after=after, ascending=query.ascending, final=final,
        )  # fmt: skip

    first = chunk(query.after, None)

    def rows() -> Iterator[tuple[object, ...]]:
        current = first
        yield from map(_exported, current.rows)
        while query.limit is None and current.has_more:
            current = chunk(ids.show("usage", current.rows[-1][0]), first.final)
            yield from map(_exported, current.rows)

    return rows()


def _exported(row: tuple[Any, ...]) -> tuple[object, ...]:
    """A row of ``_EXPORTED`` as cells; times in RFC 3339, UTC."""
    record_id, model, source, taken, given, recorded_at, occurred_at, cost_usd, key_id, *rest = row
    return (
        ids.show("usage", record_id), model, source, taken, given, taken + given, recorded_at.isoformat(),
        occurred_at.isoformat(), money.plain(cost_usd), None if key_id is None else ids.show("key", key_id), *rest,
    )  # fmt: skip


def read(params: Params) -> Query:
    """What a query asks for. Raises ``InvalidType`` or ``OutOfRange`` naming the parameter."""
    order = lists.last(params, "order") or "desc"
    if order not in {"asc", "desc"}:
        raise errors.OutOfRange("order must be asc or desc.", param="order")
    limit = lists.last(params, "limit")
    size = None if limit is None else lists.size(limit)
    return Query(filters.read(params), size, lists.last(params, "after") or None, order == "asc")


def scope_of(principal: Principal) -> Scope:
    """The records that a caller may see: all of the organization's, or only their own."""
    assert principal.organization_id is not None
    everything = permissions.USAGE_READ_ALL in principal.permissions
    return Scope(principal.organization_id, None if everything else principal.member_id)


def page(
    *,
    scope: Scope,
    matching: Filters,
    columns: str,
    limit: int,
    after: str | None,
    ascending: bool,
    final: datetime | None = None,
) -> Page:
    """The next ``limit`` records beyond the one named ``after``, by id.

    The cursor must be in ``scope`` but need not match the filters. Oldest first, only what is final is read:
    what was made before ``final``, or before what is final now. Raises ``InvalidCursor``.
    """
    try:
        place = None if after is None else ids.read("usage", after)
    except ValueError as error:
        raise errors.InvalidCursor(param="after") from error
    if ascending and final is None:
        final = usage.final_until()
    asked = [whose(scope), *_wanted(matching)]
    if place is not None:
        asked += [beyond(place, ascending=ascending), cursor_in(scope, place)]
    rows: list[tuple[Any, ...]] = []
    for part in _parts(scope, matching, place, final, rows=limit + 1, ascending=ascending):
        found = _select(columns, asked, part, limit=limit + 1 - len(rows), ascending=ascending)
        if part.among and len(found) <= limit:
            # Where it ended is not known; the next part begins where this one did.
            continue
        rows += found
        if len(rows) > limit:
            break
        if not rows and place is not None and not _holds(cursor_in(scope, place)):
            raise errors.InvalidCursor(param="after")
    return Page(rows[:limit], len(rows) > limit, final)


_IS_THERE = "EXISTS (SELECT 1 FROM usage_record WHERE {} AND id = %s)"


def whose(scope: Scope) -> Clause:
    """Rows that the caller may see."""
    if scope.member_id is None:
        return Clause("organization_id = %s", [scope.organization_id])
    return Clause("organization_id = %s AND member_id = %s", [scope.organization_id, scope.member_id])


def cursor_in(scope: Scope, place: UUID) -> Clause:
    """Whether the record that a cursor names is one that the caller may see."""
    mine = whose(scope)
    return Clause(_IS_THERE.format(mine.sql), [*mine.values, place])


def beyond(place: UUID, *, ascending: bool) -> Clause:
    """Rows that follow the one with that id."""
    return Clause("id > %s" if ascending else "id < %s", [place])


def _wanted(matching: Filters) -> Iterator[Clause]:
    """Rows that match; times are bounds of where to look."""
    for name in ("model", "source", "api_key_id", "project_id", "member_id"):
        if (value := getattr(matching, name)) is not None:
            yield Clause(f"{name} IS NULL") if value == NONE else Clause(f"{name} = %s", [value])
    if matching.is_empty:
        yield Clause("false")
    elif matching.metadata:
        yield Clause("metadata @> %s::jsonb", [wire.encode(matching.metadata).decode()])


Range = tuple[UUID, UUID]


class _Part(NamedTuple):
    """Where to look: ranges of ids, half-open, in walking order.

    ``among``: only at so many records of the only range, those of these clauses, whether they match or not.
    """

    ranges: Sequence[Range]
    among: Sequence[Clause] = ()


_LAST_MS = (1 << 48) - 1
_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)


def _parts(
    scope: Scope, matching: Filters, place: UUID | None, final: datetime | None, *, rows: int, ascending: bool
) -> Iterator[_Part]:
    """Where to look, in walking order, each part only if those before did not fill the page.

    Times are bounds by id, which carries the same instant.
    """
    low = _FIRST if matching.start is None else ids.floor(matching.start)
    high = _LAST if matching.end is None else ids.floor(matching.end)
    if final is not None:
        high = min(high, ids.floor(final))
    near, rest = _split(low, high, place, ascending=ascending)
    if _is_counted(scope, matching):
        everyones = [whose(scope._replace(member_id=None))]
        if place is not None:
            everyones.append(beyond(place, ascending=ascending))
        # What is common is found sooner without the rollups.
        yield _Part([near], among=everyones)
        stretches = _stretches(scope, matching, low, high, place, rows=rows, ascending=ascending)
        # The cursor is looked up even where there is nothing to look for.
        yield _Part(stretches or [(low, low)])
        return
    yield _Part([near])
    if rest is not None:
        yield _Part([rest])


def _split(low: UUID, high: UUID, place: UUID | None, *, ascending: bool) -> tuple[Range, Range | None]:
    """The part of a range that is near the place or the start, in walking order, and the rest, if there is one."""
    if ascending:
        begin = low if place is None else max(low, place)
        # Of the months before the first record nothing is known.
        turn = high if begin == _FIRST else _shifted(begin, _NEAR_MS)
    else:
        begin = min(high, place or ids.floor(clock.now()))
        turn = _shifted(begin, -_NEAR_MS)
    if not low < turn < high:
        return (low, high), None
    below, above = (low, turn), (turn, high)
    return (below, above) if ascending else (above, below)


def _is_counted(scope: Scope, matching: Filters) -> bool:
    """Whether the rollups count what matches: they know nothing of metadata."""
    asked = (
        matching.model, matching.source, matching.api_key_id, matching.project_id, matching.member_id,
        scope.member_id,
    )  # fmt: skip
    return not matching.metadata and any(each is not None for each in asked)


def _stretches(
    scope: Scope, matching: Filters, low: UUID, high: UUID, place: UUID | None, *, rows: int, ascending: bool
) -> list[Range] | None:
    """Where the rollups say that the next ``rows`` matches are."""
    if place is not None:
        low, high = (max(low, place), high) if ascending else (low, min(high, place))
    return rollups.stretches(
        organization_id=scope.organization_id, model=matching.model, source=matching.source,
        api_key_id=matching.api_key_id, project_id=matching.project_id,
        member_id=scope.member_id or matching.member_id, above=None if low == _FIRST else low,
        below=None if high == _LAST else high, rows=rows, ascending=ascending,
    )  # fmt: skip


def _shifted(bound: UUID, ms: int) -> UUID:
    """The bound that many milliseconds away; none is below the first."""
    return UUID(int=min(max((bound.int >> 80) + ms, 0), _LAST_MS) << 80)


_ROWS = """
    SELECT {columns} FROM usage_record WHERE {conditions} ORDER BY id {direction} LIMIT %s
"""
_ROWS_OF_RANGES = """
    SELECT page.* FROM unnest(%s::uuid[], %s::uuid[]) AS stretch (low, high) CROSS JOIN LATERAL (
        SELECT {columns} FROM usage_record
        WHERE {conditions} AND id >= stretch.low AND id < stretch.high
        ORDER BY id {direction} LIMIT %s
    ) page ORDER BY page.id {direction} LIMIT %s
"""
_ROWS_AMONG = """
    SELECT {columns} FROM (
        SELECT * FROM usage_record WHERE {among} ORDER BY id {direction} LIMIT %s
    ) record WHERE {conditions} ORDER BY id {direction} LIMIT %s
"""


def _select(
    columns: str, asked: Sequence[Clause], part: _Part, *, limit: int, ascending: bool
) -> list[tuple[Any, ...]]:
    """The first ``limit`` rows of a part for which every clause holds."""
    lows, highs = zip(*part.ranges, strict=True)
    # In the text of each statement: months beyond the bounds are not even planned for.
    bounds = list(_between(min(lows), max(highs)))
    inner: Sequence[Clause] = ()
    if part.among:
        inner, outer = [*part.among, *bounds], asked
        statement, values = _ROWS_AMONG, [*_values(inner), _LOOK_ROWS, *_values(outer), limit]
    else:
        outer = [*asked, *bounds]
        statement, values = _ROWS, [*_values(outer), limit]
        if len(lows) > 1:
            statement, values = _ROWS_OF_RANGES, [array(lows), array(highs), *values, limit]
    text = statement.format(
        columns=columns, conditions=_all(outer), among=_all(inner), direction="ASC" if ascending else "DESC"
    )
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _between(low: UUID, high: UUID) -> Iterator[Clause]:
    """Rows from ``low`` to below ``high``; each bound costs a page a tenth of its planning, so open ones are none."""
    if low != _FIRST:
        yield Clause("id >= %s", [low])
    if high != _LAST:
        yield Clause("id < %s", [high])


def _values(clauses: Sequence[Clause]) -> list[Any]:
    return [value for clause in clauses for value in clause.values]


def _all(clauses: Sequence[Clause]) -> str:
    return " AND ".join(clause.sql for clause in clauses)


def _holds(clause: Clause) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {clause.sql}", clause.values)
        return bool(cursor.fetchone()[0])
