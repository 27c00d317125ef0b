"""Where the time goes: processor time of the web process and of its sessions in the database, an event."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from tests.benchmarks import crowd
from tests.benchmarks.stage import BATCH, Figure, Stage, batches, post
from tests.server import WebServer, living

ROUNDS = 30
CLIENTS = 64
SECONDS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


def _seconds(pids: Sequence[int]) -> float:
    """What processes have used so far, in user and in system mode (proc_pid_stat(5))."""
    used = 0
    for pid in pids:
        # After the name in parentheses, which may hold anything, the 12th and 13th field.
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(told[11]) + int(told[12])
    return used / _TICKS


def _sessions(stage: Stage) -> list[int]:
    with psycopg.connect(stage.url) as raw:
        return [
            pid
            for (pid,) in raw.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )
        ]


def _measured(stage: Stage, web: WebServer, name: str, work: Callable[[], int]) -> list[Figure]:
    """Do the work, which says how many events it was, with sessions that are open already."""
    work()
    processes, sessions = living(web.pid), _sessions(stage)
    before = _seconds(processes), _seconds(sessions)
    events = work()
    after = _seconds(processes), _seconds(sessions)
    return [
        Figure(f"{who}_{name}", (late - early) / events * 1e6, "µs/event", None, f"processor time of {what}")
        for who, what, early, late in zip(
            ("web", "database"), ("one web process", "its sessions in the database"), before, after, strict=True
        )
    ]


def figures(stage: Stage) -> list[Figure]:
    """Batches of one gateway, then single events of many connections."""
    bodies = batches(stage.slugs, 2 * ROUNDS)

    def batch() -> int:
        load = [bodies.pop() for _ in range(ROUNDS)]
        post(web.port, stage.service_key, load, check=lambda told: told["created"] == BATCH)
        return ROUNDS * BATCH

    def single() -> int:
        told = crowd.send(
            port=web.port, key=stage.service_key, slugs=stage.slugs, clients=CLIENTS, seconds=SECONDS, keep=True
        )
        return len(told.ids)

    with stage.server(workers=1) as web:
        return [*_measured(stage, web, "batch", batch), *_measured(stage, web, f"single_{CLIENTS}", single)]
