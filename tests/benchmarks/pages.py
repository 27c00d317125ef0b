"""Pages of usage: at the end of a million records against the first, and through HTTP against SQL and JSON by hand."""

import http.client
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import msgspec

from tests.benchmarks.stage import Figure, Stage, batches, post

RECORDS = int(os.environ.get("BENCH_RECORDS", "1000000"))
ROUNDS = 200
WARM_ROUNDS = 20
# A page further on there is nothing left, and looking for that is work that the first page has not.
FROM_THE_END = 200


def fill(stage: Stage, records: int) -> str:
    """Copy records of the first organization straight in, oldest first; the id of one near the oldest."""
    import psycopg

    from core import ids

    with psycopg.connect(stage.url) as raw:
        row = raw.execute("SELECT id FROM organization WHERE slug = %s", [stage.slugs[0]]).fetchone()
        assert row is not None
        organization = row[0]
        template = raw.execute("SELECT * FROM usage_record WHERE organization_id = %s LIMIT 1", [organization])
        names = [column.name for column in template.description or ()]
        first = template.fetchone()
        assert first is not None
        values = dict(zip(names, first, strict=True))
        stamps = ids.run(at=values["recorded_at"])
        raw.execute("CREATE TEMP TABLE stamp (n int, id uuid)")
        with raw.cursor().copy("COPY stamp FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "uuid"])
            for place, stamp in zip(range(records), stamps, strict=False):
                copy.write_row((place, stamp))
        others = [name for name in names if name != "id"]
        raw.execute(
            f"INSERT INTO usage_record (id, {', '.join(others)})"
            f" SELECT stamp.id, {', '.join(f'u.{name}' for name in others)} FROM stamp, usage_record u"
            " WHERE u.organization_id = %s AND u.id = %s ORDER BY stamp.n",
            [organization, values["id"]],
        )
        cursor = raw.execute(
            "SELECT id FROM usage_record WHERE organization_id = %s ORDER BY id LIMIT 1 OFFSET %s",
            [organization, FROM_THE_END],
        ).fetchone()
        assert cursor is not None
        raw.commit()
        raw.autocommit = True
        raw.execute("VACUUM ANALYZE usage_record")
        return ids.show("usage", cursor[0])


@contextmanager
def by_hand(stage: Stage) -> Iterator[Callable[[], bytes]]:
    """The first page as bytes, by one statement and an encoder: no door, no filters, no authentication."""
    import psycopg

    from core import ids

    with psycopg.connect(stage.url, autocommit=True) as raw:
        row = raw.execute("SELECT id FROM organization WHERE slug = %s", [stage.slugs[0]]).fetchone()
        assert row is not None
        # As the product sends its statements: with the values in the text, not prepared.
        statement = (
            "SELECT id, model, source, input_tokens, output_tokens, floor(extract(epoch FROM recorded_at))::int8,"
            " floor(extract(epoch FROM occurred_at))::int8, trim_scale(cost_usd)::text FROM usage_record"
            f" WHERE organization_id = '{row[0]}' ORDER BY id DESC LIMIT 101"
        ).encode()

        def page() -> bytes:
            found = raw.execute(statement, prepare=False).fetchall()
            data = [
                {
                    "id": ids.show("usage", record_id), "object": "usage_record", "model": model, "source": source,
                    "input_tokens": taken, "output_tokens": given, "total_tokens": taken + given,
                    "created_at": created, "occurred_at": occurred, "cost_usd": msgspec.Raw(cost.encode()),
                }
                for record_id, model, source, taken, given, created, occurred, cost in found[:100]
            ]  # fmt: skip
            return msgspec.json.encode(
                {
                    "object": "list", "data": data, "first_id": data[0]["id"], "last_id": data[-1]["id"],
                    "has_more": len(found) > 100,
                }
            )  # fmt: skip

        yield page


def in_turn(works: Sequence[Callable[[], object]]) -> list[float]:
    """The median seconds of each, called one after the other so that all see the same machine."""
    times: list[list[float]] = [[] for _ in works]
    for each in range(WARM_ROUNDS + ROUNDS):
        for place, work in enumerate(works):
            started = time.perf_counter()
            work()
            if each >= WARM_ROUNDS:
                times[place].append(time.perf_counter() - started)
    return [statistics.median(measured) for measured in times]


def figures(stage: Stage) -> list[Figure]:
    """The median times of a page of 100: the first and one at the end through HTTP, the first by hand."""
    with stage.server(workers=1) as web, closing(http.client.HTTPConnection("127.0.0.1", web.port)) as connection:
        # One real batch, whose record the rest are copies of.
        post(web.port, stage.service_key, batches(stage.slugs, 1), check=lambda told: told["rejected"] == 0)
        last = fill(stage, RECORDS)

        def page(path: str) -> bytes:
            connection.request("GET", path, headers={"Authorization": f"Bearer {stage.customer_key}"})
            answer = connection.getresponse()
            told = answer.read()
            assert answer.status == 200, told
            return told

        start, end = "/v1/usage?limit=100", f"/v1/usage?limit=100&after={last}"
        with by_hand(stage) as own:
            assert page(start) == own()
            assert len(json.loads(page(end))["data"]) == 100
            first, deep, hand = in_turn([lambda: page(start), lambda: page(end), own])
    return [
        Figure(
            "page_at_depth", deep * 1000, "ms", first * 1000,
            f"a page of 100 at the end of {RECORDS} records; limit: the first page",
        ),
        Figure(
            "page_through_http", 1 / first, "pages/s", 1 / hand,
            "a page of 100, one client; limit: the same SQL and JSON in a process of its own, without a door",
        ),
    ]  # fmt: skip
