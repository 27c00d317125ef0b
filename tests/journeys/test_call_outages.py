"""A model call while a part of it fails at each stage: the database, the provider, the client's line.

Everything runs over real lines with a proxy in each. The broker is gone all the time, for a call has no use for one
at any stage. After each the record, the hold and the wallet are right.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from billing import holds
from billing.models import Hold, Wallet
from core.embedded import Valkey
from gateway import outcomes
from metering.models import RequestLog
from tests.billing.world import rows
from tests.books import Books
from tests.chaos import Chaos, Speaker, cut, nothing, socket_of
from tests.fakes.upstream import Act, Upstream, wait_for
from tests.gateway import callers
from tests.gateway.callers import House
from tests.journeys.test_outages import fault
from tests.journeys.traffic import verify
from tests.server import running

# 360 × 0.27 + 640 × 0.07 + 200 × 1.10 millionths of a dollar.
COST = Decimal("0.000362")
PATH = "/v1/chat/completions"
BODY = callers.HELLO
MOMENTS = ("before", "during", "after")


class Lines(NamedTuple):
    """A call's three lines, each through a proxy, and who is at their ends."""

    acme: House
    fake: Upstream
    database: Chaos
    provider: Chaos
    client: Chaos
    http: httpx.Client

    def spent(self) -> Decimal:
        """What the wallet has paid."""
        spent: Decimal = Wallet.objects.get(pk=self.acme.organization.pk).spent_usd
        return spent

    def settled(self, count: int) -> None:
        """So many records, each the whole cost, and nothing set aside."""
        wait_for(lambda: len(self.acme.records) == count)
        wait_for(lambda: Wallet.objects.get(pk=self.acme.organization.pk).held_usd == 0)


@pytest.fixture
def lines(books: Books, tmp_path: Path) -> Iterator[Lines]:
    """The product with a provider behind it and a client before it."""
    with (
        Upstream() as fake,
        Chaos(("127.0.0.1", fake.port)) as provider,
        Chaos(socket_of(books.url)) as database,
        Valkey(data_dir=tmp_path / "broker", durable=False) as valkey,
        Chaos(valkey.url().removeprefix("redis+socket://")) as broker,
    ):
        fake.then(Act())
        callers.channel(fake, base_url=f"http://127.0.0.1:{provider.port}/v1")
        acme = callers.house()
        headers = {"Authorization": f"Bearer {acme.keys['organization'].secret}"}
        settings = {"WEB_WORKERS": "1", "CELERY_BROKER_URL": f"redis://127.0.0.1:{broker.port}/0"}
        with (
            running(folder=tmp_path, url=database.database_url(books.url), **settings) as web,
            Chaos(("127.0.0.1", web.port)) as client,
            httpx.Client(base_url=f"http://127.0.0.1:{client.port}", headers=headers, timeout=30) as http,
        ):
            broker.fault, before = cut(Speaker.CLIENT), broker.links
            yield Lines(acme, fake, database, provider, client, http)
            assert broker.links == before, "a call asked the broker"


def test_the_database_goes_while_the_money_is_set_aside(lines: Lines) -> None:
    before, asked = len(lines.acme.records), len(lines.fake.bodies)
    for moment in MOMENTS:
        lines.database.fault = fault(moment)
        told = lines.http.post(PATH, json=BODY)
        assert (told.status_code, told.json()["error"]["code"]) == (503, "unavailable"), moment
        lines.database.fault = nothing
    # Nobody was asked, and what may stay set aside ends with its time.
    assert len(lines.fake.bodies) == asked
    assert len(lines.acme.records) == before
    rows("UPDATE hold SET expires_at = created_at WHERE state = 'open' AND placed_by IS NULL")
    left = holds.expire_due()
    assert left in {1, 2}
    assert outcomes.note_lost() == left
    assert lines.http.post(PATH, json=BODY).status_code == 200
    lines.settled(before + 1)
    verify()


def test_the_database_goes_while_the_call_is_charged(lines: Lines) -> None:
    before, spent = len(lines.acme.records), lines.spent()
    with ThreadPoolExecutor(1) as pool:
        for number, moment in enumerate(MOMENTS):
            lines.fake.then(Act(fault="pause"))
            asked = len(lines.fake.bodies)
            waiting = pool.submit(lines.http.post, PATH, json=BODY)
            wait_for(lambda asked=asked: len(lines.fake.bodies) > asked)
            lines.database.fault = fault(moment)
            lines.fake.go()
            told = waiting.result(30)
            lines.database.fault = nothing
            assert told.status_code == 200, moment
            assert Decimal(str(told.json()["usage"]["cost"]["total_cost"])) == COST
            lines.settled(before + number + 1)
    assert lines.spent() == spent + 3 * COST
    assert set(Hold.objects.filter(placed_by=None).values_list("state", flat=True)) == {"captured"}
    verify()


def test_the_provider_s_line_goes_before_in_and_behind_its_answer(lines: Lines) -> None:
    before = len(lines.acme.records)
    for body in (BODY, {**BODY, "stream": True}):
        lines.provider.fault = cut(Speaker.SERVER, at=b"HTTP/1.1")
        told = lines.http.post(PATH, json=body)
        assert (told.status_code, told.json()["error"]["code"]) == (502, "upstream_error")
    lines.settled(before)
    assert set(RequestLog.objects.values_list("status", flat=True)) == {502}
    lines.provider.fault = cut(Speaker.SERVER, at=b"wallets.")
    told = lines.http.post(PATH, json={**BODY, "stream": True})
    assert '"code":"upstream_disconnected"' in told.text
    assert told.text.endswith("data: [DONE]\n\n")
    lines.settled(before + 1)
    assert (lines.acme.records[-1].outcome, lines.acme.records[-1].usage_source) == ("upstream_error", "estimated")
    # The counts are the last that it says; whoever has them needs no more.
    lines.provider.fault = cut(Speaker.SERVER, at=b"[DONE]")
    told = lines.http.post(PATH, json={**BODY, "stream": True})
    assert told.text.endswith('"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    lines.settled(before + 2)
    assert (lines.acme.records[-1].outcome, lines.acme.records[-1].cost_usd) == ("completed", COST)
    verify()


def test_the_client_s_line_goes_before_the_answer_and_in_it(lines: Lines) -> None:
    before = len(lines.acme.records)
    for number, body in enumerate((BODY, {**BODY, "stream": True})):
        lines.client.fault = cut(Speaker.SERVER, at=b"HTTP/1.1", times=1)
        with pytest.raises(httpx.TransportError):
            lines.http.post(PATH, json=body)
        lines.settled(before + number + 1)
        assert lines.acme.records[-1].cost_usd == COST
    lines.fake.then(Act(words=["Two "] * 5, fault="pause", at=2))
    lines.client.fault = cut(Speaker.SERVER, at=b"Two ", times=1)
    with pytest.raises(httpx.TransportError), lines.http.stream("POST", PATH, json={**BODY, "stream": True}) as told:
        list(told.iter_raw())
    # Nobody listens any more; the provider says the rest all the same.
    lines.fake.go()
    lines.settled(before + 3)
    # Whether it was noticed before the answer had ended is the network's to say; what it costs is not.
    assert lines.acme.records[-1].outcome in {"client_aborted", "completed"}
    assert (lines.acme.records[-1].cost_usd, lines.acme.records[-1].usage_source) == (COST, "provider")
    # A request that is cut off while it is sent is none.
    lines.client.fault = cut(Speaker.CLIENT, at=b"messages", times=1)
    with pytest.raises(httpx.TransportError):
        lines.http.post(PATH, json=BODY)
    lines.client.fault = nothing
    assert lines.http.post(PATH, json=BODY).status_code == 200
    lines.settled(before + 4)
    verify()
