"""The official ``openai`` SDK, sync and async, against the real server with a fake provider over real HTTP."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from billing import holds
from billing.models import Hold, Transfer, TransferKind
from core import ids
from gateway import channels, outcomes
from gateway.models import UnknownOutcome
from metering.models import UsageRecord
from tests.billing.world import rows
from tests.books import Books
from tests.fakes.upstream import Act, Upstream, wait_for
from tests.gateway import callers
from tests.gateway.callers import House
from tests.journeys.traffic import verify
from tests.orgs import world
from tests.server import WebServer, running

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
    return callers.house()


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


WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Today's", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Oslo"}'}}


def test_streams_tools_and_schemas_work_through_the_sdk(acme: House, client: openai.OpenAI, fake: Upstream) -> None:
    said: Any = [{"role": "user", "content": SAID}]
    with client.chat.completions.create(
        model="deepseek-chat", messages=said, stream=True, stream_options={"include_usage": True}
    ) as stream:
        parts = list(stream)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "Two wallets."
    assert parts[-1].usage is not None
    assert parts[-1].usage.model_extra is not None
    assert Decimal(str(parts[-1].usage.model_extra["cost"]["total_cost"])) == last(acme).cost_usd == COST

    fake.then(Act(message={"role": "assistant", "content": None, "tool_calls": [CALL]}, finish="tool_calls"))
    answer = client.chat.completions.create(model="gpt-4o", messages=said, tools=[WEATHER], tool_choice="auto")
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert answer.choices[0].message.tool_calls is not None
    called = answer.choices[0].message.tool_calls[0]
    assert called.type == "function"
    assert (called.id, called.function.name, called.function.arguments) == ("call_1", "weather", '{"in": "Oslo"}')
    assert fake.bodies[-1]["tools"] == [WEATHER]
    told: Any = answer.choices[0].message
    fake.then(Act(words=["Rain."]))
    again = client.chat.completions.create(
        model="gpt-4o", messages=[*said, told, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}]
    )
    assert again.choices[0].message.content == "Rain."
    assert fake.bodies[-1]["messages"][1]["tool_calls"] == [CALL]

    fake.then(Act(words=['{"wallets": 2}']))

    class Count(openai.BaseModel):
        wallets: int

    parsed = client.chat.completions.parse(model="gpt-4o", messages=said, response_format=Count)
    assert parsed.choices[0].message.parsed == Count(wallets=2)
    assert fake.bodies[-1]["response_format"]["json_schema"]["name"] == "Count"

    begun = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"in": ', '"Oslo"}')]
    fake.then(Act(deltas=[{"tool_calls": [one]} for one in (begun, *rest)], finish="tool_calls"))
    with client.chat.completions.stream(model="gpt-4o", messages=said, tools=[WEATHER]) as following:
        whole = following.get_final_completion()
    assert whole.choices[0].message.tool_calls is not None
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"in": "Oslo"}'
    assert {model.id for model in client.models.list()} == {"deepseek-chat", "gpt-4o"}
    verify()


async def talk(server: WebServer, secret: str) -> list[str]:
    """Eight calls side by side by the asynchronous SDK, half of them streams."""
    said: Any = [{"role": "user", "content": SAID}]
    async with openai.AsyncOpenAI(api_key=secret, base_url=f"{server.base_url}/v1", max_retries=0) as client:

        async def whole() -> str:
            answer = await client.chat.completions.create(model="deepseek-chat", messages=said)
            return answer.choices[0].message.content or ""

        async def streamed() -> str:
            parts = await client.chat.completions.create(model="deepseek-chat", messages=said, stream=True)
            return "".join([part.choices[0].delta.content or "" async for part in parts])

        return await asyncio.gather(*(whole() for _ in range(4)), *(streamed() for _ in range(4)))


REFUSALS: list[tuple[dict[str, Any], Act, type[openai.APIError], str]] = [
    ({"model": "gpt-9"}, Act(), openai.BadRequestError, "model_not_found"),
    ({"temperature": 3}, Act(), openai.UnprocessableEntityError, "value_out_of_range"),
    ({"extra_body": {"temperature": "hot"}}, Act(), openai.BadRequestError, "invalid_type"),
    ({"stop": list("abcdefghi")}, Act(), openai.UnprocessableEntityError, "too_many_stop_sequences"),
    ({"model": "gpt-4o-mini"}, Act(), openai.InternalServerError, "no_available_channel"),
    ({}, Act(status=400, error="No."), openai.BadRequestError, "invalid_request"),
    ({}, Act(status=500), openai.InternalServerError, "upstream_error"),
    ({"stream": True}, Act(status=500), openai.InternalServerError, "upstream_error"),
]


def test_the_asynchronous_sdk_works_too_and_refusals_are_its_own_exceptions(
    acme: House, client: openai.OpenAI, server: WebServer, fake: Upstream
) -> None:
    before = len(acme.records)
    assert asyncio.run(talk(server, acme.keys["organization"].secret)) == ["Two wallets."] * 8
    assert len(acme.records) == before + 8
    said: Any = [{"role": "user", "content": SAID}]
    patient = client.with_options(max_retries=2)
    for told, act, error, code in REFUSALS:
        fake.then(act)
        asked = len(fake.bodies)
        body: Any = {"model": "deepseek-chat", "messages": said, **told}
        with pytest.raises(openai.APIStatusError) as refusal:
            (client if code == "no_available_channel" else patient).chat.completions.create(**body)
        assert (type(refusal.value), refusal.value.code) == (error, code)
        assert (refusal.value.request_id or "").startswith("req_")
        assert len(fake.bodies) - asked == (code in {"invalid_request", "upstream_error"})
    fake.then(Act(fault="reset", at=1))
    with pytest.raises(openai.APIError, match="closed the stream"):
        list(client.chat.completions.create(model="deepseek-chat", messages=said, stream=True))
    assert last(acme).outcome == "upstream_error"
    poor = world.organization_key(world.organization("poor"))
    with pytest.raises(openai.APIStatusError) as empty:
        client.with_options(api_key=poor.secret).chat.completions.create(model="deepseek-chat", messages=said)
    assert (empty.value.status_code, empty.value.code) == (402, "org_wallet_empty")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="dtk_wrong").chat.completions.create(model="deepseek-chat", messages=said)
    limited = world.organization_key(acme.organization, models=["gpt-4o"])
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key=limited.secret).chat.completions.create(model="deepseek-chat", messages=said)
    verify()


def listening(server: WebServer, secret: str, count: int) -> list[httpx.Response]:
    """So many streams of which each has begun."""
    opened = []
    for _ in range(count):
        client = httpx.Client(base_url=server.base_url, headers={"Authorization": f"Bearer {secret}"}, timeout=30)
        body = {
            "model": "deepseek-chat",
            "messages": [{"role": "user", "content": SAID}],
            "stream": True,
            "max_tokens": 9,
        }
        answer = client.send(client.build_request("POST", "/v1/chat/completions", json=body), stream=True)
        assert answer.status_code == 200
        opened.append(answer)
    return opened


def test_killed_with_streams_open_every_hold_ends_and_finance_is_told(
    acme: House, fake: Upstream, books: Books, server: WebServer
) -> None:
    fake.then(Act(words=["Two "] * 3, fault="stall", at=1))
    before = len(acme.records)
    opened = listening(server, acme.keys["organization"].secret, 12)
    server.kill9()
    for answer in opened:
        answer.close()
    assert Hold.objects.filter(state="open", placed_by=None).count() == 12
    rows("UPDATE hold SET expires_at = created_at WHERE state = 'open' AND placed_by IS NULL")
    assert (holds.expire_due(), outcomes.note_lost()) == (12, 12)
    assert UnknownOutcome.objects.count() == 12
    assert len(acme.records) == before
    server.restart()
    fake.then(Act())
    with openai.OpenAI(api_key=acme.keys["organization"].secret, base_url=f"{server.base_url}/v1") as client:
        client.chat.completions.create(model="deepseek-chat", messages=[{"role": "user", "content": SAID}])
    assert last(acme).cost_usd == COST
    verify()


def test_stopped_with_streams_open_each_is_billed_before_the_end(
    acme: House, fake: Upstream, books: Books, tmp_path: Path
) -> None:
    fake.then(Act(words=["Two "] * 3, fault="stall", at=2))
    before = len(acme.records)
    with running(folder=tmp_path, url=books.url, CALL_STOP_SECONDS="1") as web:
        opened = listening(web, acme.keys["organization"].secret, 8)
        # What has begun goes on to its end.
        fake.then(Act(words=["Two "] * 8, gap=0.05))
        opened += listening(web, acme.keys["organization"].secret, 4)
        web.stop()
        for answer in opened:
            answer.close()
    assert Hold.objects.filter(state="open", placed_by=None).count() == 0
    outcomes_told = sorted(one.outcome for one in acme.records[before:])
    assert outcomes_told == ["completed"] * 4 + ["upstream_error"] * 8
    verify()


def test_who_hangs_up_on_a_real_line_before_a_whole_answer_is_not_waited_for_to_its_end(
    acme: House, fake: Upstream, books: Books, tmp_path: Path
) -> None:
    fake.then(Act(fault="stall"))
    before = len(acme.records)
    with running(folder=tmp_path, url=books.url, CALL_DRAIN_SECONDS="1") as web:
        bearer = {"Authorization": f"Bearer {acme.keys['organization'].secret}"}
        asked = {"model": "deepseek-chat", "messages": [{"role": "user", "content": SAID}], "max_tokens": 300}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{web.base_url}/v1/chat/completions", json=asked, headers=bearer, timeout=0.5)
        wait_for(lambda: len(acme.records) == before + 1)
    kept = acme.records[-1]
    assert (kept.outcome, kept.output_tokens, kept.usage_source) == ("client_aborted", 0, "estimated")
    verify()


def test_who_hangs_up_on_a_real_line_is_billed_by_the_provider_s_counts(
    acme: House, fake: Upstream, server: WebServer
) -> None:
    fake.then(Act(words=["Two "] * 3, fault="pause", at=1))
    before = len(acme.records)
    opened = listening(server, acme.keys["organization"].secret, 5)
    for answer in opened:
        next(answer.iter_raw())
        answer.close()
    fake.go()
    wait_for(lambda: len(acme.records) == before + 5)
    told = {(one.input_tokens, one.output_tokens, one.cost_usd, one.usage_source) for one in acme.records[before:]}
    assert told == {(1000, 200, COST, "provider")}
    # Whether it was noticed before the answer had ended is the network's to say.
    assert {one.outcome for one in acme.records[before:]} <= {"client_aborted", "completed"}
    verify()
