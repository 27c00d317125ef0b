"""Twice the load that a server takes: what is charged, what is refused, how long that takes, and what it occupies.

The load is paced and comes over more connections than requests may wait, so what the server cannot take is
refused and comes again, as gateways do it.
"""

import os
import statistics
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from tests.benchmarks import crowd
from tests.benchmarks.stage import Figure, Stage, together
from tests.server import WebServer, living

SECONDS = int(os.environ.get("BENCH_OVERLOAD_SECONDS", "20"))
# More get no more out of one process.
CALM_CLIENTS = 256
CALM_SECONDS = 4
CROWDS = 2
# Of each crowd: of both together twice what may wait in one process (gateway.groups.WAITING_MAX).
CLIENTS = 2048
TIMES = 2
SAMPLE_SECONDS = 0.5
MB = 1e6


@dataclass
class Outcome:
    """What came of it: ``memory`` holds megabytes of the web server's processes, sample by sample."""

    calm: float
    seconds: float
    told: list[crowd.Told]
    memory: list[float]

    @property
    def statuses(self) -> Counter[str]:
        """How many answers of each status, and connections that were cut off."""
        return sum((Counter(one.statuses) for one in self.told), Counter())

    @property
    def rate(self) -> float:
        """Events a second that were charged."""
        return self.statuses["201"] / self.seconds

    @property
    def p99_ms(self) -> float:
        """Of events that were charged; the worse crowd's."""
        return max(one.p99_ms for one in self.told)

    @property
    def worst_ms(self) -> float:
        """How long any answer took at most."""
        return max(one.worst_ms for one in self.told)

    @property
    def ids(self) -> list[str]:
        """Events that were acknowledged."""
        return [event_id for one in self.told for event_id in one.ids]

    @property
    def growth(self) -> float:
        """Memory over the last quarter ÷ over the second: by the end of the first all buffers are in use."""
        quarter = len(self.memory) // 4
        return statistics.median(self.memory[-quarter:]) / statistics.median(self.memory[quarter : 2 * quarter])


def play(
    stage: Stage,
    web: WebServer,
    *,
    seconds: float,
    clients: int,
    calm_clients: int = CALM_CLIENTS,
    calm_seconds: float = CALM_SECONDS,
) -> Outcome:
    """Measure what the server takes, then send ``TIMES`` as much over ``CROWDS`` times ``clients`` connections."""
    send = partial(crowd.send, port=web.port, key=stage.service_key, slugs=stage.slugs)
    calm = send(clients=calm_clients, seconds=calm_seconds)
    assert set(calm.statuses) == {"201"}, calm.statuses
    every = CROWDS * clients / (TIMES * calm.rate)
    told: list[crowd.Told] = []
    memory: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            memory.append(resident(web))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        together(
            [lambda: told.append(send(clients=clients, seconds=seconds, every=every, keep=True)) for _ in range(CROWDS)]
        )
    finally:
        over.set()
        watching.join()
    return Outcome(calm.rate, seconds, told, memory)


def resident(web: WebServer) -> float:
    """Megabytes of memory that the web server's processes occupy together."""
    found = 0
    for pid in living(web.pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return found * 1024 / MB


def kept(url: str, ids: Sequence[str]) -> tuple[int, int]:
    """How many of these events have no record or no claim, and how many have more than one record."""
    with psycopg.connect(url) as raw:
        raw.execute("CREATE TEMP TABLE acknowledged (event_id text)")
        with raw.cursor().copy("COPY acknowledged FROM STDIN") as copy:
            for event_id in ids:
                copy.write_row((event_id,))
        row = raw.execute(
            "SELECT count(*) FILTER (WHERE records = 0 OR claims = 0), count(*) FILTER (WHERE records > 1)"
            " FROM (SELECT a.event_id, count(DISTINCT r.id) AS records, count(DISTINCT c.record_id) AS claims"
            " FROM acknowledged a LEFT JOIN usage_record r USING (event_id) LEFT JOIN usage_claim c USING (event_id)"
            " GROUP BY a.event_id) found"
        ).fetchone()
        assert row is not None
        return row


def figures(stage: Stage) -> list[Figure]:
    """One process under twice its load."""
    with stage.server(workers=1) as web:
        found = play(stage, web, seconds=SECONDS, clients=CLIENTS)
    lost, twice = kept(stage.url, found.ids)
    assert not lost, f"{lost} acknowledged events are lost"
    assert not twice, f"{twice} events were charged twice"
    told = found.statuses
    assert set(told) <= {"201", "503"}, told
    asked = sum(told.values()) / found.seconds
    shape = f"{CROWDS * CLIENTS} connections to one process for {SECONDS} s"
    return [
        Figure(
            "overload", found.rate, "events/s", found.calm,
            f"{shape}, {asked:,.0f} requests/s answered, {told['503'] / found.seconds:,.0f} of them with 503; p99 of"
            f" charged ones {found.p99_ms:,.0f} ms, the longest wait of any {found.worst_ms:,.0f} ms; none of"
            f" {len(found.ids)} acknowledged lost or doubled; limit: {CALM_CLIENTS} connections",
        ),
        Figure("overload_memory", found.memory[-1], "MB", found.memory[-1] / found.growth,
               "all web processes at the end; limit: in the second quarter, where buffers still grow;"
               " make soak holds two minutes to it"),
    ]  # fmt: skip
