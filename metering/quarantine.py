"""Quarantine: valid events that could not be charged. The only module that writes the table."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from statistics import median_low
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection
from django.db.models import Q, QuerySet
from psycopg.types.json import Jsonb

from core import clock, money, wire
from metering import catalog, rating
from metering.events import Event
from metering.models import Quarantine


class Held(NamedTuple):
    """A row about to be written. ``scope`` and the event id make it unique."""

    id: UUID
    scope: str
    organization_id: UUID | None
    event: Event
    reason: Quarantine.Reason
    detail: str
    fingerprint: bytes


_HOLD = """
    INSERT INTO quarantine (id, organization_id, scope, event_id, reason, detail, model, occurred_at, recorded_at,
        reported_by, fingerprint, event)
    SELECT id, organization_id, scope, event_id, reason, detail, model, occurred_at, %s, %s, fingerprint, event
    FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::timestamptz[], %s::bytea[], %s::jsonb[])
        AS held (id, organization_id, scope, event_id, reason, detail, model, occurred_at, fingerprint, event)
    ORDER BY scope, event_id
    ON CONFLICT (scope, event_id) DO NOTHING
    RETURNING scope, event_id
"""


def hold(held: Sequence[Held], *, at: datetime, reported_by: UUID | None) -> set[tuple[str, str]]:
    """Keep events for finance, inside the caller's transaction; the keys that were new."""
    assert connection.in_atomic_block
    if not held:
        return set()
    columns = [
        (
            one.id, one.organization_id, one.scope, one.event.event_id, one.reason.value, one.detail[:500],
            one.event.model, one.event.occurred_at, one.fingerprint, Jsonb(_kept(one.event), dumps=wire.encode),
        )
        for one in held
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, [at, reported_by, *(list(column) for column in zip(*columns, strict=True))])
        return set(cursor.fetchall())


def stories(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """Fingerprints of the standing rows with these (scope, event id) keys."""
    wanted = list(keys)
    if not wanted:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT q.scope, q.event_id, q.fingerprint FROM quarantine q"
            " JOIN unnest(%s::text[], %s::text[]) AS wanted (scope, event_id)"
            " ON q.scope = wanted.scope AND q.event_id = wanted.event_id",
            [[key[0] for key in wanted], [key[1] for key in wanted]],
        )
        return {(row[0], row[1]): bytes(row[2]) for row in cursor.fetchall()}


def _kept(event: Event) -> dict[str, object]:
    """The event as stored: what rating and the record need later."""
    kept = msgspec.structs.asdict(event)
    kept["occurred_at"] = event.occurred_at.isoformat()
    cost = event.provider_cost_usd
    kept["provider_cost_usd"] = None if cost is None else format(cost, "f")
    return {name: value for name, value in kept.items() if value is not None}


def withdraw(row_id: UUID, *, at: datetime) -> bool:
    """Close a row without charging it, inside the caller's transaction; whether it was open."""
    assert connection.in_atomic_block
    return bool(Quarantine.objects.filter(pk=row_id, resolved_at__isnull=True).update(resolved_at=at))


def rows_of(organization_id: UUID, event_id: str) -> list[UUID]:
    """The rows, open or not, that keep an organization's event: one that also named an unknown key has its own."""
    rows = Quarantine.objects.filter(organization_id=organization_id, event_id=event_id).order_by("id")
    return list(rows.values_list("id", flat=True))


def open_of(organization_id: UUID) -> QuerySet[Quarantine]:
    """An organization's events that are still to be charged."""
    return Quarantine.objects.filter(organization_id=organization_id, resolved_at__isnull=True)


def row(row_id: UUID) -> Quarantine:
    """One row by id."""
    return Quarantine.objects.get(pk=row_id)


class Waiting(NamedTuple):
    """An open row, locked: the event as it was reported and where it was put."""

    id: UUID
    organization_id: UUID | None
    event: Event
    reported_by: UUID | None


def waiting(*, models: Sequence[str], after: UUID | None, limit: int) -> list[Waiting]:
    """Open rows to try again, inside the caller's transaction: unpriced ones of these models, and all orphans.

    Rows that another worker has are passed over.
    """
    assert connection.in_atomic_block
    rows = Quarantine.objects.filter(resolved_at__isnull=True).filter(
        Q(reason__in=_ORPHANED) | Q(model__in=list(models))
    )
    if after is not None:
        rows = rows.filter(id__gt=after)
    locked = rows.select_for_update(skip_locked=True, no_key=True).order_by("id")[:limit]
    return [Waiting(row.id, row.organization_id, _event(row.event), row.reported_by) for row in locked]


_ORPHANED = (
    Quarantine.Reason.UNKNOWN_ORGANIZATION,
    Quarantine.Reason.UNKNOWN_KEY,
    Quarantine.Reason.NOT_A_MEMBER,
)


def models_waiting() -> list[str]:
    """The models that open rows name."""
    return list(
        Quarantine.objects.filter(resolved_at__isnull=True).order_by("model").values_list("model", flat=True).distinct()
    )


class Wait(NamedTuple):
    """The open rows of one model: how many (``more``: at least so many), and when the first was recorded."""

    model: str
    events: int
    more: bool
    oldest: datetime


WAITS_MAX = 100
COUNTED_MAX = 10_000
# From model to model through the index of open rows, and no further into any of them than is counted:
# an unpriced model can leave millions.
_WAITS = """
    WITH RECURSIVE named (model) AS (
        (SELECT model FROM quarantine WHERE resolved_at IS NULL ORDER BY model LIMIT 1)
        UNION ALL
        SELECT (
            SELECT q.model FROM quarantine q
            WHERE q.resolved_at IS NULL AND q.model > named.model ORDER BY q.model LIMIT 1
        )
        FROM named WHERE named.model IS NOT NULL
    )
    SELECT listed.model, counted.events, counted.oldest
    FROM (SELECT model FROM named WHERE model IS NOT NULL LIMIT %s) AS listed
    CROSS JOIN LATERAL (
        SELECT count(*), min(waiting.recorded_at) FROM (
            SELECT q.recorded_at FROM quarantine q
            WHERE q.resolved_at IS NULL AND q.model = listed.model ORDER BY q.id LIMIT %s
        ) AS waiting
    ) AS counted (events, oldest)
    ORDER BY listed.model
"""


def waits() -> list[Wait]:
    """What open rows wait for, by model: the first ``WAITS_MAX`` models, each counted up to ``COUNTED_MAX``."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITS, [WAITS_MAX, COUNTED_MAX + 1])
        return [
            Wait(model, min(events, COUNTED_MAX), events > COUNTED_MAX, oldest)
            for model, events, oldest in cursor.fetchall()
        ]


def resolve(row_ids: Collection[UUID], *, at: datetime) -> None:
    """Close rows that were charged, inside the caller's transaction."""
    assert connection.in_atomic_block
    Quarantine.objects.filter(pk__in=list(row_ids)).update(resolved_at=at)


class Backlog(NamedTuple):
    """The open rows together.

    ``orphans`` are those with nobody to charge. ``worth_usd`` is an estimate, None where there is no price at all.
    """

    rows: int
    orphans: int
    oldest: datetime | None
    worth_usd: Decimal | None

    def told(self, now: datetime) -> str:
        """In words, for finance."""
        if self.oldest is None:
            return "none wait"
        age = now - self.oldest
        worth = "an unknown amount" if self.worth_usd is None else f"about {money.plain(self.worth_usd)} USD"
        return (
            f"{self.rows} wait ({self.orphans} with nobody to charge), the oldest for {age.days} d"
            f" {age.seconds // 3600} h, worth {worth} at median prices"
        )


# Sums instead of counts, so that ``most`` bounds all that is read.
_BACKLOG = """
    SELECT model, sum(1), sum((reason = ANY(%s))::int), min(recorded_at),
        sum((event ->> 'input_tokens')::bigint)::bigint, sum((event ->> 'output_tokens')::bigint)::bigint
    FROM (SELECT * FROM quarantine WHERE resolved_at IS NULL LIMIT %s) AS waiting GROUP BY model
"""


def backlog(*, most: int | None = None) -> Backlog:
    """How much waits, since when, and what it may be worth; of the first ``most`` open rows or of all.

    An event's tokens are valued at the median of the ordinary input and output rates of its model's
    versions, or of the whole catalog as it is in force when its model has none.
    """
    with connection.cursor() as cursor:
        cursor.execute(_BACKLOG, [[reason.value for reason in _ORPHANED], most])
        groups = cursor.fetchall()
    listing, now = catalog.listing(), clock.now()
    usual = _median_rates([version for slug in listing.versions if (version := listing.price_at(slug, now))])
    worth = 0
    for model, _, _, _, input_tokens, output_tokens in groups:
        found = listing.find(model)
        rates = (_median_rates(listing.versions[found.slug]) if found else None) or usual
        worth += input_tokens * rates.input + output_tokens * rates.output if rates else 0
    return Backlog(
        rows=sum(group[1] for group in groups),
        orphans=sum(group[2] for group in groups),
        oldest=min((group[3] for group in groups), default=None),
        worth_usd=None if usual is None and groups else money.from_pico(worth),
    )


class _Rates(NamedTuple):
    """Pico-dollars a token."""

    input: int
    output: int


def _median_rates(versions: Sequence[catalog.Version]) -> _Rates | None:
    """The medians of the ordinary rates of some versions; None without any."""
    if not versions:
        return None
    rates = [next(filter(rating.is_base, version.card.terms)).rates for version in versions]
    return _Rates(median_low(one.input or 0 for one in rates), median_low(one.output or 0 for one in rates))


class Late(NamedTuple):
    """Open rows that have waited too long: how many, and the first of them."""

    rows: int
    oldest: list[Quarantine]


def late(*, before: datetime, limit: int) -> Late:
    """The open rows received before an instant."""
    found = Quarantine.objects.filter(resolved_at__isnull=True, recorded_at__lt=before)
    return Late(found.count(), list(found.order_by("recorded_at", "id")[:limit]))


def _event(kept: Mapping[str, Any]) -> Event:
    fields = dict(kept)
    if fields.get("provider_cost_usd") is not None:
        fields["provider_cost_usd"] = Decimal(fields["provider_cost_usd"])
    return msgspec.convert(fields, Event)
