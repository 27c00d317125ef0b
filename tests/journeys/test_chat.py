"""The official ``openai`` SDK, sync and async, against the real server with a fake provider over real HTTP."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest

from billing.models import Hold, Transfer, TransferKind
from core import ids
from gateway import channels
from metering.models import UsageRecord
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.journeys.traffic import verify
from tests.orgs import world
from tests.server import WebServer

SAID = "Which wallet paid for this call?"
# 360 × 0.27 + 640 × 0.07 + 200 × 1.10 millionths of a dollar.
COST = Decimal("0.000362")


@pytest.fixture(scope="module")
def fake() -> Iterator[Upstream]:
    """A provider."""
    with Upstream() as upstream:
        yield upstream


def channel(fake: Upstream, name: str = "first", **fields: Any) -> None:
    told = {"base_url": fake.base_url, "models": {"deepseek-chat": "up-1", "gpt-4o": "up-2"}, **fields}
    channels.keep(name=name, fields=told, by=world.BY)


@pytest.fixture
def acme(books: Books, fake: Upstream) -> House:
    """An organization with money, whose calls go to the fake."""
    fake.then(Act())
    channel(fake)
    return neighbours.house("acme-labs")


@pytest.fixture
def client(acme: House, server: WebServer) -> Iterator[openai.OpenAI]:
    """A client as in every quick start."""
    with openai.OpenAI(
        api_key=acme.keys["organization"].secret, base_url=f"{server.base_url}/v1", max_retries=0
    ) as opened:
        yield opened


def last(house: House) -> UsageRecord:
    """The newest record, whose hold has ended and whose cost is its debit."""
    record = house.records[-1]
    assert record.authorization_id is not None
    assert record.transfer_id is not None
    hold = Hold.objects.get(pk=record.authorization_id, organization=house.organization)
    assert (hold.state, hold.record_id) == ("captured", record.pk)
    transfer = Transfer.objects.get(pk=record.transfer_id, organization=house.organization)
    assert transfer.kind == TransferKind.CHARGE
    assert transfer.amount_usd == record.cost_usd
    return record


def test_a_call_is_answered_metered_and_billed_exactly(acme: House, client: openai.OpenAI, fake: Upstream) -> None:
    answer = client.chat.completions.create(
        model="deepseek-chat", messages=[{"role": "user", "content": SAID}], max_tokens=300, temperature=0.2,
        stop=["\n\n"], extra_body={"unknown": {"deep": 1}},
    )  # fmt: skip
    assert answer.choices[0].message.content == "Two wallets."
    assert (answer.model, answer.object, answer.choices[0].finish_reason) == (
        "deepseek-chat",
        "chat.completion",
        "stop",
    )
    assert answer.usage is not None
    assert answer.usage.model_extra is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1000, 200, 1200)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 640
    assert Decimal(str(answer.usage.model_extra["cost"]["total_cost"])) == COST
    record = last(acme)
    assert (record.cost_usd, record.event_id, record.model, record.routed_model, record.channel) == (
        COST, answer.id, "deepseek-chat", "up-1", "first",
    )  # fmt: skip
    assert fake.bodies[-1] == {
        "model": "up-1", "messages": [{"role": "user", "content": SAID}], "max_tokens": 300, "temperature": 0.2,
        "stop": ["\n\n"],
    }  # fmt: skip
    walked = client.get("/usage?limit=1", cast_to=httpx.Response).json()
    assert walked["data"][0]["id"] == ids.show("usage", record.pk)
    verify()
