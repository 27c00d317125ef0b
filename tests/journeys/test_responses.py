"""The official ``openai`` SDK's responses, sync and async, against the real server with a fake provider behind it."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import openai
import pytest
from pydantic import BaseModel

from gateway import channels
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.orgs import world
from tests.server import WebServer

# 360 × 0.27 + 640 × 0.07 + 200 × 1.10 millionths of a dollar.
COST = Decimal("0.000362")


@pytest.fixture(scope="module")
def fake() -> Iterator[Upstream]:
    """A provider that has no /responses."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def acme(books: Books, fake: Upstream) -> House:
    """An organization with money, whose calls go to the fake."""
    fake.then(Act())
    models = {"deepseek-chat": "up-1", "gpt-4o": "up-2"}
    channels.keep(name="first", fields={"base_url": fake.base_url, "models": models}, by=world.BY)
    return neighbours.house("acme-labs")


@pytest.fixture
def client(acme: House, server: WebServer) -> Iterator[openai.OpenAI]:
    """A client as in every quick start."""
    with openai.OpenAI(
        api_key=acme.keys["organization"].secret, base_url=f"{server.base_url}/v1", max_retries=0
    ) as opened:
        yield opened


class Answer(BaseModel):
    """What a structured answer says."""

    wallets: int


def test_a_response_is_created_metered_and_billed_exactly(acme: House, client: openai.OpenAI) -> None:
    told = client.responses.create(
        model="deepseek-chat", input="Which wallet paid?", instructions="One line.", metadata={"trace": "7"}
    )
    assert (told.output_text, told.status, told.model) == ("Two wallets.", "completed", "deepseek-chat")
    assert told.id.startswith("resp_")
    assert told.metadata == {"trace": "7"}
    usage = told.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1000, 200, 1200)
    assert usage.input_tokens_details.cached_tokens == 640
    assert usage.model_extra is not None
    # As text: the client reads fractions as floats.
    assert Decimal(str(usage.model_extra["cost"]["total_cost"])) == COST
    record = acme.records[-1]
    assert (record.cost_usd, record.endpoint) == (COST, "/v1/responses")


def test_a_stream_is_read_to_its_final_response(acme: House, client: openai.OpenAI) -> None:
    with client.responses.stream(model="deepseek-chat", input="Which wallet paid?") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert texts == ["Two ", "wallets."]
    assert (final.output_text, final.status) == ("Two wallets.", "completed")
    assert final.usage is not None
    assert final.usage.total_tokens == 1200
    assert acme.records[-1].cost_usd == COST


def test_a_tool_is_called_and_answered_in_a_second_turn(acme: House, client: openai.OpenAI, fake: Upstream) -> None:
    calls = [{"id": "call_9", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}]
    fake.then(Act(message={"role": "assistant", "content": None, "tool_calls": calls}, finish="tool_calls"), Act())
    tool = openai.pydantic_function_tool(Answer, name="weather")["function"]
    first = client.responses.create(
        model="gpt-4o", input="Sun?", tools=[{"type": "function", "name": "weather", "strict": True,
                                             "parameters": tool["parameters"]}],
    )  # fmt: skip
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.call_id) == ("weather", '{"city":"Bonn"}', "call_9")
    second = client.responses.create(
        model="gpt-4o",
        input=[
            {"role": "user", "content": "Sun?"}, call.to_dict(),  # type: ignore[list-item]
            {"type": "function_call_output", "call_id": "call_9", "output": "rain"},
        ],
    )  # fmt: skip
    assert second.output_text == "Two wallets."
    roles = [message["role"] for message in fake.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "tool"]


def test_an_answer_in_a_schema_is_parsed(acme: House, client: openai.OpenAI, fake: Upstream) -> None:
    fake.then(Act(words=['{"wallets"', ": 2}"]))
    told = client.responses.parse(model="gpt-4o", input="How many?", text_format=Answer)
    assert told.output_parsed == Answer(wallets=2)
    assert fake.bodies[-1]["response_format"]["json_schema"]["name"] == "Answer"


def test_refusals_are_the_sdks_own_exceptions(acme: House, client: openai.OpenAI, fake: Upstream) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="deepseek-chat", input="x", previous_response_id="resp_1")
    assert refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.UnprocessableEntityError):
        client.responses.create(model="deepseek-chat", input="x", max_output_tokens=1)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="dtk_wrong").responses.create(model="deepseek-chat", input="x")
    fake.then(Act(status=500))
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="deepseek-chat", input="x")


def test_many_at_once_each_have_their_own_answer(acme: House, server: WebServer) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            api_key=acme.keys["organization"].secret, base_url=f"{server.base_url}/v1", max_retries=0
        ) as client:

            async def one(streamed: bool) -> str:
                if not streamed:
                    return (await client.responses.create(model="deepseek-chat", input="x")).output_text
                async with client.responses.stream(model="deepseek-chat", input="x") as stream:
                    return (await stream.get_final_response()).output_text

            return await asyncio.gather(*(one(number % 2 == 1) for number in range(10)))

    before = len(acme.records)
    assert asyncio.run(ask()) == ["Two wallets."] * 10
    records = acme.records[before:]
    assert [record.cost_usd for record in records] == [COST] * 10
