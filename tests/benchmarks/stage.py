"""The stage of a benchmark: a durable server of its own, real keys, real HTTP."""

import http.client
import json
import os
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.server import WebServer

ORGANIZATIONS = 100
BATCH = 1000


@dataclass
class Figure:
    """One line of the report: ``ratio`` is value ÷ limit, both measured in this run."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    detail: str = ""

    @property
    def ratio(self) -> float | None:
        """How much of the limit was reached."""
        return None if not self.limit else self.value / self.limit


@dataclass
class Stage:
    """Where the benchmarks play."""

    url: str
    folder: Path
    service_key: str
    customer_key: str
    slugs: list[str]
    # Copies of it before anything was played there, by name.
    spare: dict[str, "Stage"] = field(default_factory=dict)

    @contextmanager
    def server(self, *, workers: int, rival: str = "") -> Iterator[WebServer]:
        """The real web server with that many processes, or a rival that it is measured against."""
        environment = {**os.environ, "DATABASE_URL": self.url, "WEB_WORKERS": str(workers), "LOG_LEVEL": "WARNING"}
        if rival:
            environment["RIVAL"] = rival
        module = "tests.benchmarks.rivals" if rival else "core.web"
        web = WebServer(folder=self.folder, module=module, environment=environment)
        web.start()
        try:
            yield web
        finally:
            web.stop()


def event(slug: str, *, now: int, event_id: str | None = None) -> dict[str, Any]:
    """An event as gateways send it, with a random id."""
    return {
        "event_id": event_id or str(uuid.uuid4()),
        "occurred_at": now,
        "organization": slug,
        "model": "deepseek-chat",
        "routed_model": "deepseek-chat",
        "provider": "deepseek",
        "channel": "deepseek-eu-1",
        "endpoint": "/v1/chat/completions",
        "stream": True,
        "status": 200,
        "finish_reason": "stop",
        "input_tokens": 1000,
        "cached_input_tokens": 640,
        "output_tokens": 200,
        "latency_ms": 912,
        "ttft_ms": 210,
        "request_id": "req_" + uuid.uuid4().hex[:12],
    }


def batches(slugs: Sequence[str], count: int) -> list[bytes]:
    """Bodies of ``BATCH`` events spread over the organizations."""
    now = int(time.time())
    return [
        json.dumps({"events": [event(slugs[place % len(slugs)], now=now) for place in range(BATCH)]}).encode()
        for _ in range(count)
    ]


def post(port: int, key: str, bodies: Sequence[bytes], *, check: Callable[[dict[str, Any]], bool]) -> None:
    """Post each body over one kept connection. Raises ``AssertionError`` for an answer that is not as it should be.

    Gateways of a benchmark share the machine with what they measure, so they read answers as cheaply as they can.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for body in bodies:
        connection.request("POST", "/v1/events", body, headers)
        answer = connection.getresponse()
        told = msgspec.json.decode(answer.read())
        assert check(told), (answer.status, str(told)[:300])
    connection.close()


def together(works: Sequence[Callable[[], None]]) -> float:
    """Seconds that all works took side by side; the first failure is raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    if failures:
        raise failures[0]
    return took


def median_seconds(work: Callable[[], object], *, rounds: int) -> float:
    """The median time of one call."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
