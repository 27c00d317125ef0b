"""``POST /v1/responses``: requests as a chat's, answers and streams as OpenAI's own types read them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from core.errors import ApiError, UnsupportedParameter
from gateway import responses
from gateway.responses import Said
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.gateway import callers
from tests.gateway.callers import Heard, House

PATH = "/v1/responses"
ASK = {"model": "deepseek-chat", "input": "Which error did this account hit last?"}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function", "name": "weather", "description": "Of a city", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"minimum": 0.5}}},
}  # fmt: skip


@pytest.fixture
def fake() -> Iterator[Upstream]:
    """A provider that has no /responses."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def acme(books: Books, fake: Upstream) -> Iterator[House]:
    """An organization whose calls go to the fake."""
    with callers.gateway():
        callers.channel(fake)
        fake.then(Act())
        yield callers.house()


def ask(of: House, *, leave_after: int | None = None, **told: Any) -> Heard:
    return callers.ask(of, {**ASK, **told}, path=PATH, leave_after=leave_after)


def events(heard: Heard) -> list[dict[str, Any]]:
    """A stream's events: each is what its line says, numbered from 0, and one of OpenAI's types."""
    found = []
    for number, block in enumerate(each for each in heard.body.decode().split("\n\n") if each.startswith("event")):
        name, data = block.split("\n")
        told = json.loads(data.removeprefix("data: "), parse_float=Decimal)
        assert name == f"event: {told['type']}"
        assert told["sequence_number"] == number
        EVENT.validate_python(told)
        found.append(told)
    return found


def kinds(told: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each["type"].removeprefix("response.") for each in told]


# Requests


def test_what_a_request_says_is_what_a_chat_is_asked(acme: House, fake: Upstream) -> None:
    heard = ask(
        acme, instructions="Answer in one line.", temperature=0.25, top_p=1, max_output_tokens=64, user="cust-1",
        metadata={"a": "b"}, tools=[WEATHER], tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False, unknown={"deep": 1}, store=True, reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}},
    )  # fmt: skip
    assert heard.status == 200, heard.body
    function = {name: value for name, value in WEATHER.items() if name != "type"}
    assert fake.bodies[-1] == {
        "model": "up-1",
        "messages": [
            {"role": "system", "content": "Answer in one line."},
            {"role": "user", "content": "Which error did this account hit last?"},
        ],
        "temperature": 0.25, "top_p": 1, "user": "cust-1", "parallel_tool_calls": False, "max_tokens": 64,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }  # fmt: skip
    told = heard.told
    assert (told["instructions"], told["temperature"], told["max_output_tokens"]) == (
        "Answer in one line.",
        0.25,
        64,
    )
    assert (told["metadata"], told["tools"], told["store"]) == ({"a": "b"}, [WEATHER], False)
    assert told["tool_choice"] == {"type": "function", "name": "weather"}
    assert told["reasoning"] == {"effort": "low", "summary": None}
    assert (told["parallel_tool_calls"], told["user"]) == (False, "cust-1")
    assert told["text"]["format"]["name"] == "answer"


def test_items_are_the_messages_of_a_chat(acme: House, fake: Upstream) -> None:
    heard = ask(
        acme,
        input=[
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            ]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
                {"type": "output_text", "text": "Let me ", "annotations": []}, {"type": "output_text", "text": "look."},
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "[]"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
            {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "rain"}]},
            {"type": "function_call", "call_id": "call_3", "name": "weather", "arguments": ""},
            {"type": "function_call_output", "call_id": "call_3", "output": "wind"},
            {"role": "user", "content": "Well?"},
        ],
    )  # fmt: skip
    assert heard.status == 200, heard.body

    def called(number: int, arguments: str) -> dict[str, Any]:
        return {
            "id": f"call_{number}", "type": "function", "function": {"name": "weather", "arguments": arguments},
        }  # fmt: skip

    assert fake.bodies[-1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        ]},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [called(1, "{}"), called(2, "[]")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "rain"}]},
        {"role": "assistant", "content": None, "tool_calls": [called(3, "")]},
        {"role": "tool", "tool_call_id": "call_3", "content": "wind"},
        {"role": "user", "content": "Well?"},
    ]  # fmt: skip


ITEM = {"role": "user", "content": "x"}


@pytest.mark.parametrize("told", [{"tools": [{"type": "web_search"}]}, {"tool_choice": {"type": "web_search"}}])
def test_of_a_tool_that_would_run_elsewhere_it_is_said_that_only_functions_are_taken(told: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter, match=r"\.type must be function: tools do not run here\."):
        responses._chat({"model": "gpt-4o", "input": "x", **told})


@pytest.mark.parametrize(
    ("told", "status", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, 400, "unsupported_parameter", "previous_response_id"),
        ({"conversation": "conv_1"}, 400, "unsupported_parameter", "conversation"),
        ({"background": True}, 400, "unsupported_parameter", "background"),
        ({"prompt": {"id": "pmpt_1"}}, 400, "unsupported_parameter", "prompt"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "unsupported_parameter", "input[0].type"),
        ({"tools": [{"type": "web_search"}]}, 400, "unsupported_parameter", "tools[0].type"),
        ({"tool_choice": {"type": "web_search"}}, 400, "unsupported_parameter", "tool_choice.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            400, "unsupported_parameter", "input[0].content[0]",
        ),
        ({"input": None}, 400, "missing_required_parameter", "input"),
        ({"model": None}, 400, "missing_required_parameter", "model"),
        ({"model": "gpt-9"}, 400, "model_not_found", "model"),
        ({"input": 7}, 400, "invalid_type", "input"),
        ({"input": []}, 422, "value_out_of_range", "input"),
        ({"input": ["x"]}, 400, "invalid_type", "input[0]"),
        ({"input": [{"role": "user"}]}, 400, "missing_required_parameter", "input[0].content"),
        ({"input": [{"role": "tool", "content": "x"}]}, 422, "value_out_of_range", "input[0].role"),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, 400, "missing_required_parameter",
         "input[0].content[0].type"),
        ({"input": [ITEM, {"type": "function_call", "name": "f", "arguments": ""}]}, 400,
         "missing_required_parameter", "input[1].call_id"),
        ({"max_output_tokens": 15}, 422, "value_out_of_range", "max_output_tokens"),
        ({"max_output_tokens": "many"}, 400, "invalid_type", "max_output_tokens"),
        ({"temperature": 3}, 422, "value_out_of_range", "temperature"),
        ({"temperature": "hot"}, 400, "invalid_type", "temperature"),
        ({"instructions": ["x"]}, 400, "invalid_type", "instructions"),
        ({"metadata": {"a": 1}}, 400, "invalid_type", "metadata"),
        ({"metadata": {"a": "x" * 513}}, 422, "value_out_of_range", "metadata"),
        ({"metadata": {str(number): "x" for number in range(17)}}, 422, "value_out_of_range", "metadata"),
        ({"text": "json"}, 400, "invalid_type", "text"),
        ({"text": {"format": "json"}}, 400, "invalid_type", "text.format"),
        ({"text": {"format": {"type": "xml"}}}, 422, "value_out_of_range", "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, 400, "missing_required_parameter", "text.format.name"),
        ({"tools": {"type": "function"}}, 400, "invalid_type", "tools"),
        ({"tools": [{"type": "function"}]}, 400, "missing_required_parameter", "tools[0].name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "no"}}, 422, "value_out_of_range",
         "tool_choice.name"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_name(
    db: None, told: dict[str, Any], status: int, code: str, param: str
) -> None:
    with pytest.raises(ApiError) as refused:
        responses.Request(json.dumps({**ASK, **told}).encode()).read()
    found = refused.value
    assert (found.status, found.code, found.param) == (status, code, param)
    assert "messages" not in str(found)
    assert "function." not in str(found)


# Answers


def test_the_answer_of_the_contract(acme: House, fake: Upstream) -> None:
    heard = ask(acme)
    told = heard.told
    Response.model_validate(told)
    stem = told["id"].removeprefix("resp_")
    assert told == {
        "id": f"resp_{stem}", "object": "response", "created_at": told["created_at"], "status": "completed",
        "completed_at": told["completed_at"], "error": None, "incomplete_details": None, "instructions": None,
        "max_output_tokens": None, "model": "deepseek-chat",
        "output": [{
            "id": f"msg_{stem}", "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Two wallets.", "annotations": [], "logprobs": []}],
        }],
        "output_text": "Two wallets.", "parallel_tool_calls": True, "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None}, "store": False, "temperature": 1,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 1000, "input_tokens_details": {"cached_tokens": 640, "cache_write_tokens": 0},
            "output_tokens": 200, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 1200,
            "cost": {"total_cost": Decimal("0.000362")},
        },
        "metadata": {},
    }  # fmt: skip
    assert told["created_at"] <= told["completed_at"]
    record = acme.records[-1]
    assert (record.endpoint, str(record.cost_usd), record.event_id) == (
        "/v1/responses", "0.000362000000", f"chatcmpl-{stem}",
    )  # fmt: skip


CALLS = [
    {"id": "call_9", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    {"id": "call_8", "type": "function", "function": {"name": "weather", "arguments": "[]"}},
]


def test_reasoning_text_refusals_and_calls_are_items(acme: House, fake: Upstream) -> None:
    fake.then(
        Act(message={"role": "assistant", "content": None, "tool_calls": CALLS}, finish="tool_calls"),
        Act(message={"role": "assistant", "content": "So.", "reasoning_content": "Hm."}),
        Act(message={"role": "assistant", "content": None, "refusal": "No."}),
        Act(message={"role": "assistant", "content": ""}),
    )
    outputs = []
    for _ in range(4):
        told = ask(acme).told
        Response.model_validate(told)
        assert told["status"] == "completed"
        outputs.append(
            [{name: value for name, value in item.items() if name not in {"id", "status"}} for item in told["output"]]
        )
    said = {"type": "output_text", "annotations": [], "logprobs": []}
    assert outputs == [
        [
            {"type": "function_call", "call_id": "call_9", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "call_8", "name": "weather", "arguments": "[]"},
        ],
        [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{**said, "text": "So."}]},
        ],
        [{"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        [{"type": "message", "role": "assistant", "content": []}],
    ]


@pytest.mark.parametrize(
    ("finish", "status", "details", "error"),
    [
        ("length", "incomplete", {"reason": "max_output_tokens"}, None),
        ("content_filter", "incomplete", {"reason": "content_filter"}, None),
        ("insufficient_system_resource", "failed", None, "server_error"),
        ("stop", "completed", None, None),
    ],
)
def test_how_an_answer_ended_is_its_status(
    acme: House, fake: Upstream, finish: str, status: str, details: Any, error: str | None
) -> None:
    fake.then(Act(finish=finish))
    told = ask(acme).told
    Response.model_validate(told)
    assert (told["status"], told["incomplete_details"]) == (status, details)
    assert (told["error"] and told["error"]["code"]) == error
    assert (told["completed_at"] is None) == (status != "completed")
    assert told["output"][0]["status"] == ("completed" if status == "completed" else "incomplete")
    streamed = events(ask(acme, stream=True))[-1]
    assert streamed["type"] == f"response.{status}"
    assert (streamed["response"]["status"], streamed["response"]["incomplete_details"]) == (status, details)


# Streams


def test_the_stream_of_the_contract(acme: House, fake: Upstream) -> None:
    heard = ask(acme, stream=True)
    assert heard.headers["content-type"].startswith("text/event-stream")
    told = events(heard)
    assert kinds(told) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    first, _, added, part, one, two, text, part_done, done, last = told
    assert (first["response"]["status"], first["response"]["usage"], first["response"]["output"]) == (
        "in_progress", None, [],
    )  # fmt: skip
    item = added["item"]
    assert (item["status"], item["content"], added["output_index"]) == ("in_progress", [], 0)
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert (part["item_id"], part["part"]) == (item["id"], empty)
    assert [one["delta"], two["delta"], text["text"]] == ["Two ", "wallets.", "Two wallets."]
    assert part_done["part"] == {**empty, "text": "Two wallets."}
    assert done["item"] == last["response"]["output"][0]
    # The last event is what would have been the answer.
    plain = ask(acme).told
    fresh = {"id", "created_at", "completed_at", "output"}
    assert {name: value for name, value in last["response"].items() if name not in fresh} == {
        name: value for name, value in plain.items() if name not in fresh
    }
    assert last["response"]["usage"]["cost"] == {"total_cost": Decimal("0.000362")}
    assert len({record.cost_usd for record in acme.records[-2:]}) == 1


def delta(**told: Any) -> dict[str, Any]:
    return told


def tool(index: int, call_id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"index": index, "function": function} | ({} if call_id is None else {"id": call_id, "type": "function"})


def test_a_stream_that_thinks_speaks_and_calls_two_tools(acme: House, fake: Upstream) -> None:
    fake.then(
        Act(
            deltas=[
                delta(role="assistant", content=""), delta(reasoning="H"), delta(reasoning="m."), delta(content="So."),
                delta(tool_calls=[tool(0, "call_9", "weather")]), delta(tool_calls=[tool(0, arguments='{"a"')]),
                delta(tool_calls=[tool(0, arguments=":1}"), tool(1, "call_8", "weather", "[]")]),
            ],
            finish="tool_calls",
        )
    )  # fmt: skip
    told = events(ask(acme, stream=True))
    assert kinds(told) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    finished = [each["item"] for each in told if each["type"] == "response.output_item.done"]
    assert finished == told[-1]["response"]["output"]
    assert [each["type"] for each in finished] == ["reasoning", "message", "function_call", "function_call"]
    assert [(each["call_id"], each["arguments"]) for each in finished[2:]] == [("call_9", '{"a":1}'), ("call_8", "[]")]
    arguments = [each for each in told if each["type"] == "response.function_call_arguments.done"]
    assert [(each["name"], each["output_index"]) for each in arguments] == [("weather", 2), ("weather", 3)]
    assert len({each["id"] for each in finished}) == 4


def test_a_stream_that_breaks_off_says_so_and_what_came_is_billed(acme: House, fake: Upstream) -> None:
    fake.then(Act(words=["Two ", "more ", "words."], fault="reset", at=2, usage=None))
    heard = ask(acme, stream=True)
    callers.settled()
    told = events(heard)
    assert kinds(told)[-5:] == ["output_text.done", "content_part.done", "output_item.done", "error", "failed"]
    error, last = told[-2:]
    assert (error["code"], error["param"]) == ("upstream_disconnected", None)
    body = last["response"]
    assert (body["status"], body["error"]["code"], body["output_text"]) == ("failed", "server_error", "Two more ")
    assert body["output"][0]["status"] == "incomplete"
    record = acme.records[-1]
    assert (record.outcome, record.usage_source) == ("upstream_error", "estimated")
    assert body["usage"]["output_tokens"] == record.output_tokens > 0
    assert body["usage"]["cost"]["total_cost"] == record.cost_usd > 0


def test_a_client_that_leaves_a_stream_anywhere_is_billed_the_providers_counts(acme: House, fake: Upstream) -> None:
    for point in range(20):
        fake.then(Act(words=["Two "] * 20, fault="pause", at=point + 1))
        ask(acme, stream=True, leave_after=point)
        fake.go()
        callers.settled()
        assert len(acme.records) == point + 1
        record = acme.records[-1]
        assert (record.outcome, record.output_tokens, str(record.cost_usd)) == (
            "client_aborted", 200, "0.000362000000",
        ), point  # fmt: skip


def test_a_failure_before_the_first_word_is_a_plain_error(acme: House, fake: Upstream) -> None:
    fake.then(Act(status=500))
    assert ask(acme, stream=True).code == (502, "upstream_error")


ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
TOLD = st.fixed_dictionaries(
    {},
    optional={
        "content": ODD, "refusal": ODD, "reasoning": ODD, "reasoning_content": ODD,
        "tool_calls": st.one_of(ODD, st.lists(st.fixed_dictionaries({}, optional={
            "index": ODD, "id": ODD, "function": st.one_of(ODD, st.fixed_dictionaries({"name": ODD, "arguments": ODD})),
        }), max_size=3)),
    },
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(TOLD, ODD), max_size=6))
def test_whatever_an_upstream_says_is_a_stream_of_openais_types_that_ends_with_what_it_said(told: Any) -> None:
    said = Said("chatcmpl-abc")
    found = []
    for message, finish in told:
        found += said.add(message, finish)
    found += said.close()
    for number, event in enumerate(found):
        EVENT.validate_python({**event, "sequence_number": number})
    begun = [event["item"]["id"] for event in found if event["type"] == "response.output_item.added"]
    ended = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert len(set(begun)) == len(begun) == len(ended)
    assert sorted(ended, key=lambda item: str(item["id"])) == sorted(said.items, key=lambda item: str(item["id"]))
    deltas = [event["delta"] for event in found if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == said.text


def test_what_a_tool_call_lacks_is_made_up_and_parts_that_are_none_are_passed_over() -> None:
    said = Said("chatcmpl-abc")
    said.add({"tool_calls": [{"function": {"arguments": "{"}}, "odd"], "content": 7, "refusal": []})
    said.add({"tool_calls": [{"index": 0, "function": {"name": "late", "arguments": "}"}}, {"index": 1}]}, "tool_calls")
    said.close()
    assert [(item["call_id"], item["name"], item["arguments"]) for item in said.items] == [
        ("call_abc0", "late", "{}"), ("call_abc1", "", ""),
    ]  # fmt: skip
    assert said.text == ""
