"""Usage: claims, records and the log of failed requests. The only module that writes these tables.

The writing verbs run inside the caller's transaction, which also moves the money; nothing here
commits. Ids carry the database's clock at the start of that transaction (decisions 20).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import IntegrityError, connection, transaction
from django.db.models import Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from psycopg.types.json import Jsonb

from core import ids, packed, wire
from core.bulk import Statement, at_once, copy_packed, copy_rows
from core.transactions import UNIQUE_VIOLATION, sqlstate
from metering import partitions, rating
from metering.attribution import Attributed
from metering.models import UsageRecord

# Older than this every writing transaction has ended (they are bounded to 30 s), so what is
# there is all there will be (decisions 20).
FINAL_AFTER = timedelta(seconds=60)


class Claim(NamedTuple):
    """The right to an event id, with what its first answer said.

    ``cost_pico``: the cost again, where it is at hand, for that is packed faster.
    """

    organization_id: UUID
    event_id: str
    state: str
    record_id: UUID
    cost_usd: Decimal
    fingerprint: bytes
    occurred_at: datetime
    cost_pico: int | None = None


class Line(msgspec.Struct, frozen=True, gc=False):
    """One attributed event and what it will write if its claim succeeds; a thousand of them a batch.

    ``unpriced`` says why it cannot be priced; such an event is quarantined.
    """

    item: Attributed
    record_id: UUID
    state: str
    model: str
    cost_pico: int
    cost_usd: Decimal
    price_id: UUID | None
    rule_id: UUID | None
    unpriced: str | None

    @property
    def claim(self) -> Claim:
        """The claim on the event id, with what the first answer says."""
        item = self.item
        return Claim(
            item.organization_id, item.event.event_id, self.state, self.record_id, self.cost_usd, item.fingerprint,
            item.event.occurred_at, self.cost_pico,
        )  # fmt: skip


def started_at(*, lock_ms: int | None = None, flush: bool = True) -> datetime:
    """The database's clock at the start of the transaction we are in; from here on it waits ``lock_ms`` for a lock.

    Without ``flush`` its commit does not wait for the disk: a crash of the database may undo it, together with all
    that came after it.
    """
    chosen = {} if lock_ms is None else {"lock_timeout": f"{lock_ms}ms"}
    if not flush:
        chosen["synchronous_commit"] = "off"
    told = "".join(", set_config(%s, %s, true)" for _ in chosen)
    (row,) = at_once([Statement(f"SELECT now(){told}", [part for pair in chosen.items() for part in pair])])[0]
    at: datetime = row[0]
    return at


_CLAIM = """
    INSERT INTO usage_claim (organization_id, event_id, state, record_id, cost_usd, fingerprint, occurred_at)
    SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::uuid[], %s::numeric[], %s::bytea[], %s::timestamptz[])
        AS claim (organization_id, event_id, state, record_id, cost_usd, fingerprint, occurred_at)
    ON CONFLICT (organization_id, event_id) DO NOTHING
    RETURNING organization_id, event_id
"""


class Taken(Exception):
    """An event id is taken already. The transaction that found out is spoiled; the next one asks for each."""


def claim_new(claims: Sequence[Claim]) -> dict[tuple[UUID, str], Claim]:
    """As ``claim``, of event ids that are all new, as in nearly every batch: they are copied in. Raises ``Taken``."""
    assert connection.in_atomic_block
    if not claims:
        return {}
    ordered = _in_order(claims)
    # One organization's claims stand in one part, where rows follow each other anyway; Citus has no other way.
    several = ordered[0].organization_id != ordered[-1].organization_id
    try:
        copy_packed("usage_claim", CLAIM, _packed_claims(ordered), in_order=several)
    except IntegrityError as error:
        if sqlstate(error) != UNIQUE_VIOLATION:
            raise
        raise Taken from error
    return {}


def claim(claims: Sequence[Claim]) -> dict[tuple[UUID, str], Claim]:
    """Take event ids; the standing claims of those that were taken before. A rival's open claim is waited for.

    Sorted, so two batches that overlap in any order wait for each other instead of deadlocking.
    """
    assert connection.in_atomic_block
    if not claims:
        return {}
    ordered = _in_order(claims)
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, [list(column) for column in zip(*(one[:7] for one in ordered), strict=True)])
        free = set(cursor.fetchall())
    # A statement of its own: it sees what the rival committed while we waited.
    return standing([key for one in ordered if (key := _claim_key(one)) not in free])


def _in_order(claims: Sequence[Claim]) -> list[Claim]:
    # By the id's number: the same order in every process, and far cheaper to compare than the id.
    return sorted(claims, key=lambda one: (one.organization_id.int, one.event_id))


def _packed_claims(ordered: Iterable[Claim]) -> Iterator[bytes]:
    """Rows in the order of ``CLAIM``, of claims that come organization by organization."""
    owner, packed_owner = None, b""
    for organization_id, event_id, state, record_id, cost_usd, fingerprint, occurred_at, pico in ordered:
        if organization_id is not owner:
            owner, packed_owner = organization_id, packed.identity(organization_id)
        yield b"".join((
            packed_owner, packed.text(event_id), packed.label(state), packed.identity(record_id),
            packed.numeric(cost_usd) if pico is None else packed.usd(pico), packed.binary(fingerprint),
            packed.instant(occurred_at),
        ))  # fmt: skip


def _claim_key(one: Claim) -> tuple[UUID, str]:
    return (one.organization_id, one.event_id)


def reclaim(claims: Sequence[Claim]) -> set[tuple[UUID, str]]:
    """Turn claims that stand for quarantined events into claims for records; the keys that were turned."""
    assert connection.in_atomic_block
    if not claims:
        return set()
    ordered = sorted(claims, key=_claim_key)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE usage_claim c SET state = n.state, record_id = n.record_id, cost_usd = n.cost_usd"
            " FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::uuid[], %s::numeric[])"
            " AS n (organization_id, event_id, state, record_id, cost_usd)"
            " WHERE c.organization_id = n.organization_id AND c.event_id = n.event_id AND c.state = 'quarantined'"
            " RETURNING c.organization_id, c.event_id",
            [list(column) for column in zip(*(one[:5] for one in ordered), strict=True)],
        )
        return set(cursor.fetchall())


def standing(keys: Sequence[tuple[UUID, str]]) -> dict[tuple[UUID, str], Claim]:
    """The claims that stand on these (organization, event id) keys."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.organization_id, c.event_id, c.state, c.record_id, c.cost_usd, c.fingerprint, c.occurred_at"
            " FROM usage_claim c JOIN unnest(%s::uuid[], %s::text[]) AS wanted (organization_id, event_id)"
            " ON c.organization_id = wanted.organization_id AND c.event_id = wanted.event_id",
            [[key[0] for key in keys], [key[1] for key in keys]],
        )
        found = [Claim(*row)._replace(fingerprint=bytes(row[5])) for row in cursor.fetchall()]
    return {_claim_key(one): one for one in found}


# How many pages of claims are looked through in a transaction: about five thousand claims.
CLAIM_PAGES = 96


def claim_pages(part: int) -> int:
    """How many pages a part of the claims has."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int", [_claim_part(part)]
        )
        pages: int = cursor.fetchone()[0]
        return pages


@transaction.atomic(durable=True)
def forget_claims(part: int, *, pages: tuple[int, int], before: datetime) -> int:
    """Delete the claims on these pages of a part (from, until before) on what happened ``before``; how many went.

    What waits in quarantine keeps its claim. Waits for nobody: a claim that somebody has locked is left.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {_claim_part(part)} WHERE ctid = ANY (ARRAY("
            f"SELECT ctid FROM {_claim_part(part)} c WHERE ctid >= %s::tid AND ctid < %s::tid AND occurred_at < %s"
            " AND NOT (state = 'quarantined' AND EXISTS ("
            "SELECT 1 FROM quarantine q WHERE q.id = c.record_id AND q.resolved_at IS NULL))"
            " ORDER BY organization_id, event_id FOR NO KEY UPDATE OF c SKIP LOCKED))",
            [f"({pages[0]},0)", f"({pages[1]},0)", before],
        )
        forgotten: int = cursor.rowcount
        return forgotten


def _claim_part(part: int) -> str:
    return f"usage_claim_{part:02}"


# The columns of each table's COPY, with their types: whose it is, how it was served, and what it says alone.
_SHARED = {
    "recorded_at": "timestamptz", "reported_by": "uuid", "organization_id": "uuid", "api_key_id": "uuid",
    "member_id": "uuid", "project_id": "uuid",
    "source": "text", "model": "text", "routed_model": "text", "provider": "text", "channel": "text",
    "attempts": "int2", "endpoint": "text", "stream": "bool", "status": "int2", "finish_reason": "text",
    "outcome": "text",
    "id": "uuid", "event_id": "text", "occurred_at": "timestamptz", "end_user": "text", "request_id": "text",
    "provider_cost_usd": "numeric", "metadata": "jsonb", "ttft_ms": "int4", "latency_ms": "int4",
    "input_tokens": "int4", "output_tokens": "int4",
}  # fmt: skip
RECORD = _SHARED | {
    "cached_input_tokens": "int4", "cache_write_tokens": "int4", "cache_write_1h_tokens": "int4",
    "reasoning_tokens": "int4", "image_input_tokens": "int4", "audio_input_tokens": "int4",
    "cached_image_tokens": "int4", "cached_audio_tokens": "int4", "image_output_tokens": "int4",
    "audio_output_tokens": "int4", "units": "jsonb", "service_tier": "text", "batch": "bool", "usage_source": "text",
    "cost_usd": "numeric", "price_id": "uuid", "rule_id": "uuid", "authorization_id": "uuid", "payer_id": "uuid",
    "transfer_id": "uuid",
}  # fmt: skip

CLAIM = {
    "organization_id": "uuid", "event_id": "text", "state": "text", "record_id": "uuid", "cost_usd": "numeric",
    "fingerprint": "bytea", "occurred_at": "timestamptz",
}  # fmt: skip


class Charge(NamedTuple):
    """Lines that one transfer pays for; no transfer where nothing costs anything."""

    payer_id: UUID
    transfer_id: UUID | None
    lines: Sequence[Line]


def write(charges: Iterable[Charge], *, at: datetime, reported_by: UUID | None) -> None:
    """Append usage records by binary ``COPY``, payer by payer."""
    copy_packed("usage_record", RECORD, _packed_records(charges, at=at, reported_by=reported_by))


def write_failures(lines: Iterable[Line], *, at: datetime, reported_by: UUID | None) -> None:
    """Append rows to the log of failed requests by binary ``COPY``."""
    batch = packed.instant(at) + packed.optional(reported_by)
    copy_packed("request_log", _SHARED, (_packed_failure(line, batch + _whose(line.item)) for line in lines))


def _packed_records(charges: Iterable[Charge], *, at: datetime, reported_by: UUID | None) -> Iterator[bytes]:
    """Rows in the order of ``RECORD``."""
    batch = packed.instant(at) + packed.optional(reported_by)
    for payer_id, transfer_id, lines in charges:
        free = packed.identity(payer_id) + packed.NULL
        paid = packed.identity(payer_id) + packed.optional(transfer_id)
        # Lines of one payer are mostly of one key and one price, which are then packed once.
        last, whose = None, b""
        version, rule, prices = None, None, packed.NULL + packed.NULL
        for line in lines:
            item = line.item
            event = item.event
            owner = item[_OWNER]
            if owner != last:
                last, whose = owner, batch + _whose(item)
            if line.price_id is not version or line.rule_id is not rule:
                version, rule = line.price_id, line.rule_id
                prices = packed.optional(version) + packed.optional(rule)
            yield b"".join((
                _packed_request(line, whose),
                _TWELVE_COUNTS(
                    4, event.input_tokens, 4, event.output_tokens, 4, event.cached_input_tokens,
                    4, event.cache_write_tokens, 4, event.cache_write_1h_tokens, 4, event.reasoning_tokens,
                    4, event.image_input_tokens, 4, event.audio_input_tokens,
                    4, event.cached_image_tokens, 4, event.cached_audio_tokens, 4, event.image_output_tokens,
                    4, event.audio_output_tokens,
                ),
                packed.json(wire.encode(event.units)) if event.units else packed.NULL,
                _kind(event.service_tier, event.batch, event.usage_source),
                packed.usd(line.cost_pico),
                prices,
                packed.NULL if item.authorization_id is None else packed.identity(item.authorization_id),
                paid if line.cost_pico else free,
            ))  # fmt: skip


# What of an attributed event ``_whose`` packs.
_OWNER = slice(Attributed._fields.index("organization_id"), Attributed._fields.index("project_id") + 1)


def _whose(item: Attributed) -> bytes:
    """The fields that say whose an event is."""
    return b"".join((
        packed.identity(item.organization_id), packed.optional(item.api_key_id), packed.optional(item.member_id),
        packed.optional(item.project_id),
    ))  # fmt: skip


@lru_cache(maxsize=4096)
def _served(
    source: str, model: str, routed_model: str | None, provider: str | None, channel: str | None, attempts: int | None,
    endpoint: str | None, stream: bool | None, status: int | None, finish_reason: str | None, outcome: str,
) -> bytes:  # fmt: skip
    """The fields that say how a request was served; many events have the same."""
    return b"".join((
        packed.text(source), packed.text(model), packed.text(routed_model), packed.text(provider),
        packed.text(channel), packed.small(attempts), packed.text(endpoint), packed.flag(stream),
        packed.small(status), packed.text(finish_reason), packed.text(outcome),
    ))  # fmt: skip


@lru_cache(maxsize=4096)
def _kind(service_tier: str | None, batch: bool, usage_source: str) -> bytes:
    """The fields that say what kind of usage it was; many events have the same."""
    return packed.text(service_tier) + packed.flag(batch) + packed.text(usage_source)


# Counts with their lengths before them.
_TWO_COUNTS = struct.Struct("!4i").pack
_TWELVE_COUNTS = struct.Struct("!24i").pack


def _packed_failure(line: Line, whose: bytes) -> bytes:
    """A row in the order of ``_SHARED``; ``whose`` are the first six fields."""
    event = line.item.event
    return _packed_request(line, whose) + _TWO_COUNTS(4, event.input_tokens, 4, event.output_tokens)


def _packed_request(line: Line, whose: bytes) -> bytes:
    """The fields of ``_SHARED`` in its order but for the counts; ``whose`` are the first six."""
    event = line.item.event
    cost = event.provider_cost_usd
    return b"".join((
        whose,
        _served(
            event.source, line.model, event.routed_model, event.provider, event.channel, event.attempts,
            event.endpoint, event.stream, event.status, event.finish_reason, event.outcome,
        ),
        packed.identity(line.record_id),
        packed.text(event.event_id),
        packed.instant(event.occurred_at),
        packed.NULL if event.end_user is None else packed.text(event.end_user),
        packed.NULL if event.request_id is None else packed.text(event.request_id),
        packed.NULL if cost is None else packed.numeric(cost),
        packed.NULL if event.metadata is None else packed.json(wire.encode(event.metadata)),
        packed.NULL if event.ttft_ms is None else packed.integer(event.ttft_ms),
        packed.NULL if event.latency_ms is None else packed.integer(event.latency_ms),
    ))  # fmt: skip


def _json(value: object) -> Jsonb | None:
    return None if value is None else Jsonb(value, dumps=wire.encode)


def for_caller(organization_id: UUID, *, member_id: UUID | None) -> QuerySet[UsageRecord]:
    """What a caller may see: the organization's records, or only one member's."""
    records = UsageRecord.objects.filter(organization_id=organization_id)
    return records if member_id is None else records.filter(member_id=member_id)


def find(scope: QuerySet[UsageRecord], shown: str) -> UsageRecord | None:
    """The record with that id on the wire, if it is in ``scope``."""
    try:
        return scope.filter(id=ids.read("usage", shown)).first()
    except ValueError:
        return None


def is_archived(shown: str) -> bool:
    """Whether an id on the wire is from before every month that is still attached, whoever's record it names."""
    try:
        return partitions.is_archived("usage_record", ids.read("usage", shown))
    except ValueError:
        return False


def final_until() -> datetime:
    """The instant up to which no further record can appear, by the clock that ids carry: the database's."""
    return started_at() - FINAL_AFTER


def created_from(records: QuerySet[UsageRecord], at: datetime) -> QuerySet[UsageRecord]:
    """Records made at or after ``at``: by id, which carries the same instant and prunes partitions."""
    return records.filter(id__gte=ids.floor(at))


def created_before(records: QuerySet[UsageRecord], at: datetime) -> QuerySet[UsageRecord]:
    """Records made before ``at``."""
    return records.filter(id__lt=ids.floor(at))


def spent_by_key(organization_id: UUID, key_id: UUID, *, since: Sequence[datetime]) -> dict[datetime, Decimal]:
    """What a key's requests cost since each of these instants. One pass from the earliest."""
    sums: dict[str, Any] = {
        f"since_{place}": Coalesce(Sum("cost_usd", filter=Q(id__gte=ids.floor(at))), Decimal(0))
        for place, at in enumerate(since)
    }
    records = UsageRecord.objects.filter(organization_id=organization_id, api_key_id=key_id)
    found = created_from(records, min(since)).aggregate(**sums)
    return {at: found[f"since_{place}"] for place, at in enumerate(since)}


_COUNTS = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "reasoning_tokens", "image_input_tokens", "audio_input_tokens", "cached_image_tokens", "cached_audio_tokens",
    "image_output_tokens", "audio_output_tokens",
)  # fmt: skip
# A correction repeats whose and which request it is about, and what changed.
_CORRECTION = RECORD | {"corrects_id": "uuid"}


class Correcting(NamedTuple):
    """A record that says by how much another was wrong; ``negate`` also takes its counts back."""

    id: UUID
    record: UsageRecord
    cost_usd: Decimal
    price_id: UUID
    rule_id: UUID | None
    transfer_id: UUID | None
    negate: bool


def write_corrections(corrections: Iterable[Correcting], *, at: datetime) -> None:
    """Append correcting records by binary ``COPY``."""
    copy_rows("usage_record", _CORRECTION, (_correcting_row(one, at=at) for one in corrections))


def _correcting_row(one: Correcting, *, at: datetime) -> tuple[Any, ...]:
    """Values in the order of ``_CORRECTION``."""
    record = one.record
    values = {name: getattr(record, name) for name in RECORD}
    sign = -1 if one.negate else 0
    values.update({name: sign * values[name] for name in _COUNTS})
    units = {name: -count for name, count in record.units.items()} if one.negate and record.units else None
    values.update(
        id=one.id, recorded_at=at, cost_usd=one.cost_usd, price_id=one.price_id, rule_id=one.rule_id,
        transfer_id=one.transfer_id, provider_cost_usd=None, metadata=_json(record.metadata), units=_json(units),
    )  # fmt: skip
    return (*(values[name] for name in RECORD), record.id)


def counts_of(record: UsageRecord) -> rating.Counts:
    """What a record says was used, as rating reads it."""
    return rating.Counts(
        **{name: getattr(record, name) for name in rating.Counts.__struct_fields__ if name != "units"},
        units=record.units or {},
    )
