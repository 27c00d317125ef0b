"""Limits of requests over HTTP, against the real server with several processes."""

import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from gateway import channels
from orgs import ratelimits
from orgs.ratelimits import Limits
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.orgs import world
from tests.server import WebServer

BODY = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


@pytest.fixture
def acme(books: Books) -> Iterator[House]:
    """An organization that may make five calls a minute."""
    with Upstream() as fake:
        fake.then(Act())
        channels.keep(name="first", fields={"base_url": fake.base_url, "models": {"*": "*"}}, by=world.BY)
        made = neighbours.house("acme-labs")
        ratelimits.put(subject=made.organization, limits=Limits(requests=5), by=world.BY)
        yield made


def test_all_processes_together_let_in_what_the_limit_says(acme: House, server: WebServer) -> None:
    key = {"Authorization": f"Bearer {acme.keys['organization'].secret}"}
    began = time.monotonic()
    answers = [
        # A connection each, so that they come to different processes.
        httpx.post(f"{server.base_url}/v1/chat/completions", json=BODY, headers=key, timeout=60)
        for _ in range(16)
    ]
    # Five, and one more for every twelve seconds that it took.
    more = int(time.monotonic() - began) // 12 + 1
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429}
    assert 5 <= counts[200] <= 5 + more
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limit_exceeded"}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 12 for answer in refused)
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"5"}
    called = [record for record in acme.records if record.endpoint == "/v1/chat/completions"]
    assert len(called) == counts[200]
