"""Ten million records: what ingest, sums by day and processes' memory are with them, beside what they are without.

Two databases of one server, copies of the stage's as it was made: an empty one and one that is
filled here. So turns of both alternate, and what else the machine does meets both.
"""

import http.client
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import psycopg
from psycopg import sql

from tests.benchmarks.stage import BATCH, Figure, Stage, batches, median_seconds, post, together
from tests.books import point
from tests.server import WebServer, living

ROWS = int(os.environ.get("BENCH_ROWS", "10000000"))
# The present one and the whole ones before it; each has as many rows.
MONTHS = 3
CHUNK = 250_000
TURNS = 9
ROUNDS = 20
WORKERS = 2
MB = 1e6

# Ids as core.ids makes them: 48 bits of milliseconds, the version, and what follows it in a random UUID.
_FILL = """
WITH drawn AS MATERIALIZED (
    SELECT *,
        (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::int8), 12, '0') || '7' || substr(dice::text, 16))::uuid
        AS id, gen_random_uuid()::text AS event_id, (taken * 270 + given * 1100) * 0.000000001 AS cost_usd
    FROM (
        SELECT %(start)s::timestamptz + %(step)s * (number - random()) AS at, gen_random_uuid() AS dice,
            (%(owners)s::uuid[])[1 + floor(random() * %(count)s)::int] AS organization_id,
            100 + floor(random() * 4000)::int AS taken, 20 + floor(random() * 800)::int AS given,
            (%(keys)s::text[])[1 + floor(random() * cardinality(%(keys)s::text[]))::int] AS key,
            (%(models)s::text[])[1 + floor(random() * cardinality(%(models)s::text[]))::int] AS model
        FROM generate_series(1, %(rows)s) AS number OFFSET 0
    ) dealt
), record AS (
    INSERT INTO usage_record (organization_id, id, event_id, occurred_at, recorded_at, api_key_id, reported_by, source,
        model, routed_model, provider, channel, endpoint, stream, status, finish_reason, outcome, ttft_ms, latency_ms,
        request_id, input_tokens, output_tokens, payer_id, transfer_id, cached_input_tokens, cache_write_tokens,
        cache_write_1h_tokens, reasoning_tokens, image_input_tokens, audio_input_tokens, cached_image_tokens,
        cached_audio_tokens, image_output_tokens, audio_output_tokens, batch, usage_source, cost_usd, price_id)
    SELECT organization_id, id, event_id, at - interval '2 s', at, md5(organization_id || key)::uuid, dice, 'api_key',
        model, model, 'deepseek', 'deepseek-eu-1', '/v1/chat/completions', true, 200, 'stop', 'success',
        200 + taken / 20, 400 + given * 3, 'req_' || substr(event_id, 1, 12), taken, given, organization_id, dice,
        taken / 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 'provider', cost_usd, %(price)s
    FROM drawn
)
INSERT INTO usage_claim (organization_id, event_id, state, record_id, cost_usd, fingerprint, occurred_at)
SELECT organization_id, event_id, 'recorded', id, cost_usd, sha256(event_id::bytea), at - interval '2 s' FROM drawn
"""
# Most of an organization's requests go through one key and to one model.
_KEYS = ["a"] * 7 + ["b"] * 2 + ["c"]
_filled: list[list[str]] = []
_MODELS = ["deepseek-chat"] * 12 + ["gpt-4o"] * 5 + ["gpt-4o-mini"] * 2 + ["claude-sonnet-4"]


def spare(stage: Stage) -> dict[str, Stage]:
    """Copies of the stage as it was made, ``empty`` and ``full``: databases of their own on the same server."""
    from django.db import connections

    connections.close_all()
    here, _, name = stage.url.rpartition("/")
    with psycopg.connect(f"{here}/postgres", autocommit=True) as raw:
        for copy in ("empty", "full"):
            raw.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(copy), sql.Identifier(name)))
    return {copy: replace(stage, url=f"{here}/{copy}") for copy in ("empty", "full")}


@contextmanager
def pointed(stage: Stage) -> Iterator[None]:
    """In the block, Django's connections of this process lead to the stage."""
    before = os.environ["DATABASE_URL"]
    try:
        point(database=stage.url.rpartition("/")[2], url=stage.url)
        yield
    finally:
        point(database=before.rpartition("/")[2], url=before)


def _spans() -> list[tuple[datetime, datetime]]:
    """The months to fill, as far as they are over by the mark of the rollups."""
    from metering import partitions, rollups

    until = rollups.folded_until()
    starts = [partitions.month_start(until, plus=plus) for plus in range(1 - MONTHS, 1)]
    return [*pairwise(starts), (starts[-1], max(until, starts[-1] + rollups.GRAIN))]


def fill(stage: Stage) -> tuple[datetime, datetime]:
    """Write ``ROWS`` records with their claims, all guards in force, and fold them; the last whole month. Once."""
    from metering import partitions, rollups

    with pointed(stage):
        spans = _spans()
        if stage.slugs in _filled:
            return spans[-2]
        _filled.append(stage.slugs)
        partitions.ensure(at=spans[0][0], ahead=MONTHS - 1)
    with psycopg.connect(stage.url, autocommit=True) as raw:
        raw.execute("SET work_mem = '256MB'")
        owners = [row[0] for row in raw.execute("SELECT id FROM organization WHERE slug LIKE 'bench-%'")]
        price = raw.execute("SELECT id FROM price LIMIT 1").fetchone()
        assert price is not None
        per_month = ROWS // MONTHS
        for start, end in spans:
            for place in range(0, per_month, CHUNK):
                count, step = min(CHUNK, per_month - place), (end - start) / per_month
                raw.execute(
                    _FILL,
                    {
                        "start": start + step * place, "step": step, "rows": count, "owners": owners,
                        "count": len(owners), "keys": _KEYS, "models": _MODELS, "price": price[0],
                    },
                )  # fmt: skip
        raw.execute("VACUUM ANALYZE usage_record, usage_claim")
    with pointed(stage):
        assert rollups.refold(start=spans[0][0], end=spans[-1][1]) > 0
    with psycopg.connect(stage.url, autocommit=True) as raw:
        raw.execute("VACUUM ANALYZE usage_rollup")
        raw.execute("CHECKPOINT")
    return spans[-2]


class Memory(NamedTuple):
    """Megabytes that are each process's own part (PSS): the largest web worker, the largest backend, all of both."""

    worker: float
    backend: float
    all: float


def memory(stage: Stage, web: WebServer) -> Memory:
    """What the web server's processes and its sessions in the database occupy now."""
    with psycopg.connect(stage.url) as raw:
        backends = raw.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()"
        ).fetchall()
        sessions = [_megabytes(pid) for (pid,) in backends]
    processes = [_megabytes(pid) for pid in living(web.pid)]
    return Memory(max(processes), max(sessions), sum(processes) + sum(sessions))


def _megabytes(pid: int) -> float:
    """The proportional set size: pages that several processes share count in parts (proc_pid_smaps(5))."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / MB
    raise AssertionError(f"process {pid} has no memory")


def _created(told: dict[str, Any]) -> bool:
    return bool(told["created"] == BATCH)


def _ingest(stage: Stage) -> tuple[float, Memory, Memory]:
    """Events a second of batches through HTTP, and memory before and after."""
    with stage.server(workers=WORKERS) as web:
        for body in batches(stage.slugs, 3 * WORKERS):
            post(web.port, stage.service_key, [body], check=_created)
        before = memory(stage, web)
        loads = [batches(stage.slugs, ROUNDS) for _ in range(WORKERS)]
        took = together([partial(post, web.port, stage.service_key, load, check=_created) for load in loads])
        return WORKERS * ROUNDS * BATCH / took, before, memory(stage, web)


def _full_against_empty(stages: dict[str, Stage]) -> list[Figure]:
    """The rate with all rows present; limit: without, turns alternating."""
    empty: list[float] = []
    full: list[float] = []
    seen: list[tuple[Memory, Memory]] = []
    for number in range(TURNS):
        for name in ("empty", "full") if number % 2 else ("full", "empty"):
            rate, before, after = _ingest(stages[name])
            if name == "full":
                full.append(rate)
                seen.append((before, after))
            else:
                empty.append(rate)
    ratios = sorted(one / other for one, other in zip(full, empty, strict=True))
    detail = (
        f"{ROWS} records and claims against an empty database of the same server, {WORKERS} processes and gateways,"
        f" right after a checkpoint; ratios of {TURNS} pairs of turns {ratios[0]:.2f} to {ratios[-1]:.2f}"
    )
    told = f"PSS after {ROUNDS * WORKERS} batches of {BATCH}; limit: before"
    return [
        Figure("ingest_full", statistics.median(full), "events/s", statistics.median(empty), detail),
        *(
            Figure(
                f"memory_{name}", statistics.median(getattr(after, name) for _, after in seen), "MB",
                statistics.median(getattr(before, name) for before, _ in seen), f"{which}, {told}",
            )
            for name, which in (
                ("worker", "the largest web process"), ("backend", "the largest session of the database"),
                ("all", "all of both"),
            )
        ),
    ]  # fmt: skip


def _month(stage: Stage, start: datetime, end: datetime) -> list[Figure]:
    """A month of one organization by day and model, through HTTP; limit: a scan of that month's records of all."""
    from metering import partitions

    part = partitions.name("usage_record", start)
    columns = "count(*), sum(input_tokens)::int8, sum(output_tokens)::int8"
    path = "/v1/organization/usage/completions?" + urlencode(
        {
            "start_time": int(start.timestamp()), "end_time": int(end.timestamp()), "bucket_width": "1d", "limit": 31,
            "group_by": "model",
        }
    )  # fmt: skip
    with (
        stage.server(workers=1) as web,
        closing(http.client.HTTPConnection("127.0.0.1", web.port)) as connection,
        psycopg.connect(stage.url, autocommit=True) as raw,
    ):

        def ask() -> bytes:
            connection.request("GET", path, headers={"Authorization": f"Bearer {stage.customer_key}"})
            answer = connection.getresponse()
            told = answer.read()
            assert answer.status == 200, told
            return told

        def scan() -> int:
            found = raw.execute(
                f"SELECT date_trunc('day', recorded_at, 'UTC') AS day, model, {columns} FROM {part} GROUP BY 1, 2"
            ).fetchall()
            return len(found)

        own = raw.execute(
            f"SELECT {columns} FROM {part} WHERE organization_id = (SELECT id FROM organization WHERE slug = %s)",
            [stage.slugs[0]],
        ).fetchone()
        results = [result for bucket in json.loads(ask())["data"] for result in bucket["results"]]
        sums = tuple(
            sum(result[name] for result in results) for name in ("num_model_requests", "input_tokens", "output_tokens")
        )
        assert sums == own, (sums, own)
        asked, scanned = median_seconds(ask, rounds=50), median_seconds(scan, rounds=5)
        row = raw.execute(
            "SELECT count(*) FROM usage_rollup WHERE starts_at >= %s AND starts_at < %s AND organization_id ="
            " (SELECT id FROM organization WHERE slug = %s)",
            [start, end, stage.slugs[0]],
        ).fetchone()
        assert row is not None
    detail = (
        f"one of {len(stage.slugs)} organizations of {ROWS} records, through HTTP, from {row[0]} rollups of"
        f" {sums[0]} records; limit: the month's {ROWS // MONTHS} records of all organizations read and summed by SQL"
    )
    return [Figure("month_by_day_and_model", asked * 1000, "ms", scanned * 1000, detail)]


def figures(stage: Stage) -> list[Figure]:
    """Fill, then measure. ``BENCH_ROWS`` sets how many; ten million take some 8 GB of disk."""
    stages = stage.spare
    began = time.perf_counter()
    month = fill(stages["full"])
    took = time.perf_counter() - began
    with psycopg.connect(stages["full"].url) as raw:
        row = raw.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
    filled = Figure("filled", ROWS / took, "rows/s", None, f"{row[0] / MB:,.0f} MB on disk, filled and folded")
    return [filled, *_month(stages["full"], *month), *_full_against_empty(stages)]
