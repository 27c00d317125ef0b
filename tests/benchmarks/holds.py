"""Holds under load: the verb against its two statements sent bare, and through HTTP."""

import http.client
import json
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from multiprocessing.connection import Connection
from uuid import UUID, uuid4

import psycopg

from tests.benchmarks.stage import Figure, Stage, together

# As the web server is shipped, less threads than it may have: processes, and connections in each.
PROCESSES = 2
THREADS = 8
TURNS = 7
COUNT = 120
HTTP_TURNS = 3
HTTP_COUNT = 40
AMOUNT = Decimal("0.00038")
SECONDS = 600

Place = Callable[[UUID], None]


def _verb() -> Place:
    """A hold as the door places it: the verb in a transaction."""
    from django.db import transaction

    from billing import holds
    from billing.budgets import Counted

    def place(organization_id: UUID) -> None:
        whose = Counted(organization_id, None, None, None, AMOUNT, 1100)
        with transaction.atomic():
            holds.place(holds.Asked(whose, "deepseek-chat", 100, SECONDS))

    return place


def _bare(url: str) -> Place:
    """The hold's row and the guarded update of the wallet, in the verb's order, by the driver as it comes."""
    raw = psycopg.connect(url)

    def place(organization_id: UUID) -> None:
        with raw.transaction():
            raw.execute(
                "INSERT INTO hold (organization_id, id, payer_id, model, amount_usd, tokens, max_output_tokens,"
                " budget_ids, state, created_at, expires_at) VALUES (%s, %s, %s, 'deepseek-chat', %s, 1100, 100, '{}',"
                " 'open', clock_timestamp(), clock_timestamp() + make_interval(secs => %s))",
                [organization_id, uuid4(), organization_id, AMOUNT, SECONDS],
            )
            done = raw.execute(
                "UPDATE wallet SET held_usd = held_usd + %(amount)s WHERE organization_id = %(organization)s"
                " AND enforcement = 'strict' AND frozen_at IS NULL AND overdraft_usd <= credit_limit_usd"
                " AND posted_usd - overdraft_usd + credit_limit_usd - held_usd >= %(amount)s AND NOT has_scoped"
                " AND (next_change IS NULL OR next_change > clock_timestamp() + make_interval(secs => %(seconds)s))",
                {"organization": organization_id, "amount": AMOUNT, "seconds": SECONDS},
            )
            assert done.rowcount == 1

    return place


def _gateway(pipe: Connection, url: str) -> None:
    """A process that places holds on ``THREADS`` connections of each kind as it is told, until it is told nothing.

    Told (bare or not, organizations) it answers with the seconds that each hold took.
    """
    import django

    django.setup()
    from core.web import SWITCH_SECONDS

    sys.setswitchinterval(SWITCH_SECONDS)
    order: list[tuple[bool, list[UUID]]] = []
    begin, end = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)
    took: list[list[float]] = [[] for _ in range(THREADS)]

    def run(places: list[float], first: int) -> None:
        works = {True: _bare(url), False: _verb()}
        while True:
            begin.wait()
            bare, organizations = order[-1]
            work = works[bare]
            for number in range(first, first + COUNT):
                started = time.perf_counter()
                work(organizations[number % len(organizations)])
                places.append(time.perf_counter() - started)
            end.wait()

    for place, places in enumerate(took):
        threading.Thread(target=run, args=(places, place * 7), daemon=True).start()
    while True:
        told = pipe.recv()
        if told is None:
            return
        order.append(told)
        for places in took:
            places.clear()
        begin.wait()
        end.wait()
        pipe.send([seconds for places in took for seconds in places])


@contextmanager
def _gateways(url: str) -> Iterator[list[Connection]]:
    """The processes, by the pipes to tell them what to do."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(PROCESSES)]
    processes = [context.Process(target=_gateway, args=(theirs, url), daemon=True) for _, theirs in pairs]
    for process in processes:
        process.start()
    try:
        yield [ours for ours, _ in pairs]
        for ours, _ in pairs:
            ours.send(None)
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def _turn(pipes: Sequence[Connection], *, bare: bool, organizations: list[UUID]) -> list[float]:
    """The seconds of each hold that all processes placed side by side."""
    for pipe in pipes:
        pipe.send((bare, organizations))
    return [seconds for pipe in pipes for seconds in pipe.recv()]


def _p99(seconds: Sequence[float]) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=100)[98] * 1000


def _against_bare(stage: Stage, name: str, organizations: list[UUID], pipes: Sequence[Connection]) -> Figure:
    """The verb's p99; limit: the bare statements', turns alternating on as many connections."""
    taken: dict[bool, list[list[float]]] = {True: [], False: []}
    for bare in (True, False):
        _turn(pipes, bare=bare, organizations=organizations)
    for number in range(TURNS):
        for bare in (True, False) if number % 2 else (False, True):
            taken[bare].append(_turn(pipes, bare=bare, organizations=organizations))
    value, limit = (statistics.median(_p99(turn) for turn in taken[bare]) for bare in (False, True))
    middle, least = (statistics.median(seconds for turn in taken[bare] for seconds in turn) for bare in (False, True))
    detail = (
        f"p99 of {len(taken[False][0])} holds, medians of {TURNS} turns; {PROCESSES} processes, {THREADS} connections"
        f" each, {len(organizations)} organizations; limit: the same statements bare;"
        f" medians {middle * 1000:.2f} and {least * 1000:.2f} ms"
    )
    return Figure(name, value, "ms", limit, detail)


def _over_http(stage: Stage) -> Figure:
    """The p99 of ``POST /v1/authorizations`` for one organization on as many connections."""
    body = json.dumps({
        "key": stage.customer_key, "organization": stage.slugs[0], "model": "deepseek-chat",
        "input_tokens": 1000, "max_output_tokens": 100,
    }).encode()  # fmt: skip
    headers = {"Authorization": f"Bearer {stage.service_key}", "Content-Type": "application/json"}

    def ask(port: int, places: list[float]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(HTTP_COUNT):
            started = time.perf_counter()
            connection.request("POST", "/v1/authorizations", body, headers)
            answer = connection.getresponse()
            told = answer.read()
            places.append(time.perf_counter() - started)
            assert answer.status == 201, told
        connection.close()

    turns: list[list[float]] = []
    with stage.server(workers=PROCESSES) as web:
        for _ in range(HTTP_TURNS + 1):
            places: list[float] = []
            together([partial(ask, web.port, places) for _ in range(PROCESSES * THREADS)])
            turns.append(places)
    middle = statistics.median(seconds for turn in turns[1:] for seconds in turn)
    detail = (
        f"p99 of {len(turns[1])} holds of one organization, median of {HTTP_TURNS} turns; {PROCESSES} processes,"
        f" {PROCESSES * THREADS} connections; median {middle * 1000:.2f} ms"
    )
    return Figure("hold_p99_http", statistics.median(map(_p99, turns[1:])), "ms", None, detail)


def figures(stage: Stage) -> list[Figure]:
    """Milliseconds that the slowest hundredth of holds take at least: on many wallets, on one, and through HTTP."""
    from orgs import organizations

    facts = organizations.find_slugs(stage.slugs)
    everyone = [facts[slug].id for slug in stage.slugs]
    with _gateways(stage.url) as pipes:
        found = [
            _against_bare(stage, "hold_p99", everyone, pipes),
            _against_bare(stage, "hold_p99_hot", everyone[:1], pipes),
        ]
    return [*found, _over_http(stage)]
