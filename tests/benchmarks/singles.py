"""Single events side by side, against the same server without work and with a transaction for each."""

import statistics

from tests.benchmarks import crowd
from tests.benchmarks.stage import Figure, Stage

CLIENTS = (1, 16, 64, 256)
SECONDS = 4
TURNS = 3


def _rate(stage: Stage, *, clients: int, rival: str = "") -> crowd.Told:
    with stage.server(workers=1, rival=rival) as web:
        told = crowd.send(port=web.port, key=stage.service_key, slugs=stage.slugs, clients=clients, seconds=SECONDS)
    assert set(told.statuses) == {"201"}, told.statuses
    return told


def figures(stage: Stage) -> list[Figure]:
    """Events a second of one process; medians of alternating turns."""
    found = []
    for clients in CLIENTS:
        turns = [(_rate(stage, clients=clients), _rate(stage, clients=clients, rival="idle")) for _ in range(TURNS)]
        value, limit = (statistics.median(one.rate for one in column) for column in zip(*turns, strict=True))
        ours = [mine for mine, _ in turns]
        detail = (
            f"{clients} connections, one process, {len(stage.slugs)} organizations; p50"
            f" {statistics.median(one.p50_ms for one in ours):.1f} ms, p99"
            f" {statistics.median(one.p99_ms for one in ours):.1f} ms; limit: the same server answering without work"
        )
        found.append(Figure(f"single_{clients}", value, "events/s", limit, detail))
    turns = [(_rate(stage, clients=64), _rate(stage, clients=64, rival="alone")) for _ in range(TURNS)]
    value, limit = (statistics.median(one.rate for one in column) for column in zip(*turns, strict=True))
    found.append(
        Figure("single_64_grouped", value, "events/s", limit, "limit: the same handler with a transaction a request")
    )
    return found
