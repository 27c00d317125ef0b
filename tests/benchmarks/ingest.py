"""Batches through HTTP against raw binary ``COPY`` of the same rows into the same indexes."""

import io
import json
import struct
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg

from tests.benchmarks.stage import BATCH, Figure, Stage, batches, post, together

ROUNDS = 30


def _all_created(told: dict[str, object]) -> bool:
    return told["created"] == BATCH


def over_http(stage: Stage, *, workers: int, clients: int) -> float:
    """Events a second through ``POST /v1/events``."""
    with stage.server(workers=workers) as web:
        for body in batches(stage.slugs, 3 * workers):
            post(web.port, stage.service_key, [body], check=_all_created)
        loads = [batches(stage.slugs, ROUNDS) for _ in range(clients)]
        took = together([partial(post, web.port, stage.service_key, load, check=_all_created) for load in loads])
    return clients * ROUNDS * BATCH / took


def _copies(stage: Stage, count: int) -> list[tuple[bytes, bytes]]:
    """For each batch, the bytes of its two binary COPY streams: records, and claims."""
    from core import ids, money
    from metering import attribution, catalog, events, rating, usage
    from orgs import organizations
    from tests.benchmarks.stage import event

    facts = organizations.find_slugs(stage.slugs)
    now = int(time.time())
    price = catalog.listing().price_at("deepseek-chat", datetime.fromtimestamp(now, UTC))
    assert price is not None
    limits = events.Limits(BATCH, datetime.now(UTC), timedelta(days=35), timedelta(minutes=5))
    made = []
    with psycopg.connect(stage.url) as raw, raw.cursor() as cursor:
        for _ in range(count):
            at = datetime.now(UTC)
            stamps = ids.run(at=at)
            records, claims = [], []
            for place in range(BATCH):
                slug = stage.slugs[place % len(stage.slugs)]
                read = events.decode(
                    json.dumps(event(slug, now=now)).encode(),
                    media_type="application/json",
                    limits=limits,
                ).items[0]
                assert isinstance(read, events.Event)
                owner = facts[slug].id
                story = events.fingerprint(read, organization=owner.bytes, key=None)
                item = attribution.Attributed(place, read, owner, owner, None, None, None, story)
                cost = rating.rate(price.card, read, read.occurred_at).cost_pico
                record_id = next(stamps)
                charged = usage.Charged(record_id, item, "deepseek-chat", money.from_pico(cost), price.id, uuid.uuid4())
                records.append(usage.record_row(charged, at=at, reported_by=None))
                claims.append((
                    owner, read.event_id, "recorded", record_id, charged.cost_usd, story, read.occurred_at,
                ))  # fmt: skip
            made.append((
                _encoded(cursor, list(usage.RECORD.values()), records),
                _encoded(cursor, list(usage.CLAIM.values()), claims),
            ))  # fmt: skip
    return made


def _encoded(cursor: psycopg.Cursor, types: Sequence[str], rows: Sequence[tuple[object, ...]]) -> bytes:
    """The bytes of a binary COPY, made before the clock starts."""
    from psycopg.adapt import PyFormat, Transformer

    out = io.BytesIO()
    out.write(b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0))
    transformer = Transformer(cursor)
    transformer.set_dumper_types([cursor.adapters.types[name].oid for name in types], psycopg.pq.Format.BINARY)
    for row in rows:
        out.write(struct.pack("!h", len(row)))
        for value in transformer.dump_sequence(row, [PyFormat.BINARY] * len(row)):
            out.write(struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + bytes(value))
    out.write(struct.pack("!h", -1))
    return out.getvalue()


def by_copy(stage: Stage, *, connections: int) -> float:
    """Rows a second when the same rows are only copied, a transaction a batch."""
    from metering import usage

    loads = [_copies(stage, ROUNDS) for _ in range(connections)]

    def copy(load: Sequence[tuple[bytes, bytes]]) -> None:
        with psycopg.connect(stage.url) as raw:
            for records, claims in load:
                with raw.transaction(), raw.cursor() as cursor:
                    for table, columns, data in (
                        ("usage_record", usage.RECORD, records),
                        ("usage_claim", usage.CLAIM, claims),
                    ):
                        with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)") as stream:
                            stream.write(data)

    took = together([partial(copy, load) for load in loads])
    return connections * ROUNDS * BATCH / took


def figures(stage: Stage) -> list[Figure]:
    """One process against one connection, two against two."""
    found = []
    for workers, clients in ((1, 1), (2, 2)):
        limit = by_copy(stage, connections=workers)
        value = over_http(stage, workers=workers, clients=clients)
        found.append(
            Figure(
                f"batch_ingest_{workers}", value, "events/s", limit,
                f"{BATCH} events over {len(stage.slugs)} organizations a batch, {workers} web processes;"
                f" limit: COPY of the same rows and claims on {workers} connections",
            )
        )  # fmt: skip
    return found
