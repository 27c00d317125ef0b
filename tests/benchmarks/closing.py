"""Closing a month: organizations a second, drafted and finalized, and what it takes of memory.

In a database of its own, filled by SQL, whose clock stands in June 2031. ``BENCH_ORGANIZATIONS`` sets how many there
are, each with ``RECORDS`` records; several workers share the work as they do in production.
"""

import multiprocessing
import os
import time
from multiprocessing.queues import SimpleQueue

import psycopg
from psycopg import sql

from tests.benchmarks.stage import Figure, Stage
from tests.books import Books, point

ORGANIZATIONS = int(os.environ.get("BENCH_ORGANIZATIONS", "2000"))
CHARGES = 10
RECORDS = 500
WORKERS = 2


def _work(verb: str, url: str, told: "SimpleQueue[int]") -> None:
    """One worker's run, in a process of its own; by how many MB it grew."""
    from billing import closing
    from tests.billing import many

    point(database=url.rpartition("/")[2], url=url)
    before = many.peak_mb()
    getattr(closing, verb)()
    told.put(many.peak_mb() - before)


def _together(verb: str, url: str) -> tuple[float, int]:
    """Seconds that the workers took, and by how many MB the largest grew."""
    from django.db import connections

    connections.close_all()
    context = multiprocessing.get_context("fork")
    told: SimpleQueue[int] = context.SimpleQueue()
    workers = [context.Process(target=_work, args=(verb, url, told)) for _ in range(WORKERS)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    return took, max(told.get() for _ in workers)


def figures(stage: Stage) -> list[Figure]:
    """Fill, draft, finalize."""
    from tests.billing import many
    from tests.billing.months import go_to
    from tests.clocks import standing_still

    here, _, name = stage.url.rpartition("/")
    home = os.environ["DATABASE_URL"]
    own = Books(name="closing", url=f"{here}/closing")
    spare = stage.spare["empty"].url.rpartition("/")[2] if stage.spare else name
    with psycopg.connect(f"{here}/postgres", autocommit=True) as raw:
        raw.execute(sql.SQL("CREATE DATABASE closing TEMPLATE {}").format(sql.Identifier(spare)))
    point(database=own.name, url=own.url)
    try:
        with standing_still(own) as clock:
            go_to(clock, "2031-06-03T12:00:00Z")
            began = time.perf_counter()
            many.fill(own.url, organizations=ORGANIZATIONS, charges=CHARGES, records=RECORDS // CHARGES)
            filled = time.perf_counter() - began
            drafting, grown = _together("close_due", own.url)
            finalizing, more = _together("finalize_due", own.url)
    finally:
        point(database=home.rpartition("/")[2], url=home)
    detail = f"{ORGANIZATIONS:,} organizations, {ORGANIZATIONS * RECORDS:,} records, {WORKERS} workers"
    return [
        Figure("months_filled", ORGANIZATIONS * RECORDS / filled, "records/s", None, "by SQL, and folded"),
        Figure("drafted", ORGANIZATIONS / drafting, "orgs/s", None, detail),
        Figure("finalized", ORGANIZATIONS / finalizing, "orgs/s", None, detail),
        Figure("closing_grown", max(grown, more), "MB", None, "the largest worker, beyond what it began with"),
    ]
