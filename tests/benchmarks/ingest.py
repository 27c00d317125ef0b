"""Batches through HTTP against raw binary ``COPY`` of the same rows into the same indexes."""

import io
import json
import statistics
import struct
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg

from tests.benchmarks.stage import BATCH, Figure, Stage, batches, post, together

ROUNDS = 20
TURNS = 3
# Name, web processes, gateways, copying connections.
# Two gateways a process: with one, both may land at the same process.
SETTINGS = (("batch_ingest", 2, 4, 1), ("batch_ingest_1", 1, 2, 1), ("batch_ingest_2", 2, 4, 2))


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


Rows = list[tuple[object, ...]]


def _rows(stage: Stage, count: int) -> list[tuple[Rows, Rows]]:
    """For each batch, the rows of its records and of its claims."""
    from core import ids, money
    from metering import catalog, events, rating, usage
    from orgs import organizations
    from tests.benchmarks.stage import event

    facts = organizations.find_slugs(stage.slugs)
    now = int(time.time())
    price = catalog.listing().price_at("deepseek-chat", datetime.fromtimestamp(now, UTC))
    assert price is not None
    limits = events.Limits(BATCH, datetime.now(UTC), timedelta(days=35), timedelta(minutes=5))
    made = []
    for _ in range(count):
        at = datetime.now(UTC)
        stamps = ids.run(at=at)
        records: Rows = []
        claims: Rows = []
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
            cost = rating.rate(price.card, read, read.occurred_at).cost_pico
            record_id = next(stamps)
            cost_usd = money.from_pico(cost)
            told = {name: getattr(read, name) for name in usage.RECORD if name in events.Event.__struct_fields__}
            told.update(
                organization_id=owner, id=record_id, recorded_at=at, model="deepseek-chat", units=None,
                usage_source=read.usage_source, cost_usd=cost_usd, price_id=price.id, payer_id=owner,
                transfer_id=uuid.uuid4(), api_key_id=None, authorization_id=None,
            )  # fmt: skip
            records.append(tuple(told.get(name) for name in usage.RECORD))
            claims.append((owner, read.event_id, "recorded", record_id, cost_usd, story, read.occurred_at))
        made.append((records, claims))
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


def by_copy(stage: Stage, *, connections: int, encoded: bool) -> float:
    """Rows a second when the same rows are only copied, a transaction a batch.

    ``encoded``: the bytes of the streams are made before the clock starts, so this is what the server
    alone can take; else the driver makes them from Python's values, as any program has to.
    """
    from metering import usage

    loads = [_rows(stage, ROUNDS) for _ in range(connections)]
    streams = (("usage_record", usage.RECORD), ("usage_claim", usage.CLAIM))
    with psycopg.connect(stage.url) as raw, raw.cursor() as cursor:
        ready = [
            [[_encoded(cursor, list(columns.values()), part) for part, (_, columns) in zip(batch, streams, strict=True)]
             for batch in load]
            for load in loads
        ]  # fmt: skip

    def copy(place: int) -> None:
        with psycopg.connect(stage.url) as raw:
            for batch, data in zip(loads[place], ready[place], strict=True):
                with raw.transaction(), raw.cursor() as cursor:
                    for (table, columns), rows, made in zip(streams, batch, data, strict=True):
                        with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)") as stream:
                            if encoded:
                                stream.write(made)
                                continue
                            stream.set_types(list(columns.values()))
                            for row in rows:
                                stream.write_row(row)

    took = together([partial(copy, place) for place in range(connections)])
    return connections * ROUNDS * BATCH / took


def figures(stage: Stage) -> list[Figure]:
    """The product as it ships against one raw stream, and like against like; medians of alternating turns.

    ``batch_ingest``: two web processes, against one connection that only copies.
    ``batch_ingest_1`` and ``_2``: as many processes as copying connections.
    """
    found = []
    for name, workers, clients, connections in SETTINGS:
        turns = [
            (
                over_http(stage, workers=workers, clients=clients),
                by_copy(stage, connections=connections, encoded=False),
                by_copy(stage, connections=connections, encoded=True),
            )
            for _ in range(TURNS)
        ]
        value, limit, bare = (statistics.median(column) for column in zip(*turns, strict=True))
        detail = (
            f"{BATCH} events over {len(stage.slugs)} organizations a batch; {workers} processes, {clients} gateways;"
            f" limit: the same rows and claims copied by the driver on {connections} connections;"
            f" from ready-made bytes {bare:,.0f} rows/s, ratio {value / bare:.3f}"
        )
        found.append(Figure(name, value, "events/s", limit, detail))
    return found
