"""A page of usage at the end of a million records against the first page."""

import http.client
import json
import os
from contextlib import closing

from tests.benchmarks.stage import Figure, Stage, batches, median_seconds, post

RECORDS = int(os.environ.get("BENCH_RECORDS", "1000000"))
ROUNDS = 60


def fill(stage: Stage, records: int) -> str:
    """Copy records of the first organization straight in, oldest first; the id of the hundredth oldest."""
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
            "SELECT id FROM usage_record WHERE organization_id = %s ORDER BY id LIMIT 1 OFFSET 100", [organization]
        ).fetchone()
        assert cursor is not None
        raw.commit()
        raw.autocommit = True
        raw.execute("VACUUM ANALYZE usage_record")
        return ids.show("usage", cursor[0])


def figures(stage: Stage) -> list[Figure]:
    """The median time of a page of 100 at both ends, through HTTP."""
    with stage.server(workers=1) as web, closing(http.client.HTTPConnection("127.0.0.1", web.port)) as connection:
        # One real batch, whose record the rest are copies of.
        post(web.port, stage.service_key, batches(stage.slugs, 1), check=lambda told: told["rejected"] == 0)
        last = fill(stage, RECORDS)

        def page(path: str) -> None:
            connection.request("GET", path, headers={"Authorization": f"Bearer {stage.customer_key}"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            assert answer.status == 200, told
            assert len(told["data"]) == 100, told

        for _ in range(10):
            page("/v1/usage?limit=100")
        first = median_seconds(lambda: page("/v1/usage?limit=100"), rounds=ROUNDS)
        deep = median_seconds(lambda: page(f"/v1/usage?limit=100&after={last}"), rounds=ROUNDS)
    return [
        Figure(
            "page_at_depth", deep * 1000, "ms", first * 1000,
            f"a page of 100 at the end of {RECORDS} records; limit: the first page",
        )
    ]  # fmt: skip
