"""What a chat request may say, and what becomes of it."""

import json
from typing import Any

import pytest

from core import errors
from gateway import chat, upstream
from gateway.calls import Prompt
from metering.models import CatalogModel
from orgs import caches

pytestmark = pytest.mark.django_db

MESSAGES = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}}


def read(**told: Any) -> Prompt:
    return chat.read(json.dumps({"model": "deepseek-chat", "messages": MESSAGES, **told}).encode())


INVALID = errors.InvalidType
MISSING = errors.MissingParameter
RANGE = errors.OutOfRange


@pytest.mark.parametrize(
    ("told", "error", "param"),
    [
        ({"model": None}, MISSING, "model"),
        ({"model": 5}, INVALID, "model"),
        ({"model": ""}, RANGE, "model"),
        ({"model": "gpt-9"}, errors.ModelNotFound, "model"),
        ({"messages": None}, MISSING, "messages"),
        ({"messages": "hi"}, INVALID, "messages"),
        ({"messages": []}, RANGE, "messages"),
        ({"messages": ["hi"]}, INVALID, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, MISSING, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, RANGE, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, INVALID, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, MISSING, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, INVALID, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, MISSING, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, MISSING,
         "messages[0].tool_calls[0].function.name"),
        ({"temperature": "hot"}, INVALID, "temperature"),
        ({"temperature": True}, INVALID, "temperature"),
        ({"temperature": 3}, RANGE, "temperature"),
        ({"top_p": 1.01}, RANGE, "top_p"),
        ({"frequency_penalty": -2.5}, RANGE, "frequency_penalty"),
        ({"presence_penalty": [1]}, INVALID, "presence_penalty"),
        ({"max_tokens": 0}, RANGE, "max_tokens"),
        ({"max_tokens": 1.5}, INVALID, "max_tokens"),
        ({"max_completion_tokens": -1}, RANGE, "max_completion_tokens"),
        ({"n": 129}, RANGE, "n"),
        ({"n": "2"}, INVALID, "n"),
        ({"seed": 0.5}, INVALID, "seed"),
        ({"stream": 1}, INVALID, "stream"),
        ({"stream": True, "stream_options": []}, INVALID, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, INVALID, "stream_options.include_usage"),
        ({"stop": 5}, INVALID, "stop"),
        ({"stop": ["a", 5]}, INVALID, "stop"),
        ({"stop": list("abcdefghi")}, errors.TooManyStops, "stop"),
        ({"model": "gpt-4o", "stop": list("abcde")}, errors.TooManyStops, "stop"),
        ({"top_logprobs": 3}, RANGE, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, RANGE, "top_logprobs"),
        ({"logit_bias": {"5": "x"}}, INVALID, "logit_bias"),
        ({"logit_bias": {"5": 101}}, RANGE, "logit_bias"),
        ({"response_format": "json"}, INVALID, "response_format"),
        ({"response_format": {"type": "xml"}}, RANGE, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, MISSING, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, MISSING, "response_format.json_schema.name"),
        ({"tools": {}}, INVALID, "tools"),
        ({"tools": [WEATHER] * 129}, RANGE, "tools"),
        ({"tools": [{"type": "web"}]}, RANGE, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, MISSING, "tools[0].function"),
        ({"tool_choice": "always"}, RANGE, "tool_choice"),
        ({"tool_choice": "required"}, RANGE, "tool_choice"),
        ({"tool_choice": 5}, INVALID, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"function": {"name": "x"}}}, RANGE, "tool_choice.function.name"),
        ({"parallel_tool_calls": "no"}, INVALID, "parallel_tool_calls"),
        ({"user": 5}, INVALID, "user"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_its_name(told: Any, error: type[errors.ApiError], param: str) -> None:
    with pytest.raises(errors.ApiError) as refusal:
        read(**told)
    assert (type(refusal.value), refusal.value.param) == (error, param)


def test_a_body_that_is_no_object_is_malformed() -> None:
    with pytest.raises(errors.InvalidJson):
        chat.read(b"{")
    with pytest.raises(errors.InvalidType):
        chat.read(b"[]")


def test_what_is_known_goes_on_and_everything_else_ends_here() -> None:
    prompt = read(
        temperature=0.25, top_p=1, stop=list("abcdefgh"), seed=7, n=2, user="cust-1", unknown={"x": 1}, max_tokens=9,
        max_completion_tokens=5, logprobs=None, service_tier="fast",
        messages=[
            {"role": "developer", "content": "be brief", "weight": 3},
            {"role": "user", "name": "ada", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "index": 0, "x": 1,
                 "function": {"name": "weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        tools=[{**WEATHER, "x": 1}], tool_choice={"type": "function", "function": {"name": "weather", "y": 2}},
        parallel_tool_calls=False, response_format={"type": "json_object", "z": 1},
    )  # fmt: skip
    assert (prompt.cap, prompt.n, prompt.end_user, prompt.stream, prompt.include_usage) == (
        5,
        2,
        "cust-1",
        False,
        False,
    )
    assert prompt.cap_name == "max_completion_tokens"
    assert json.loads(upstream.encode(prompt.body)) == {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "name": "ada", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        "temperature": 0.25, "top_p": 1, "stop": list("abcdefgh"), "seed": 7, "n": 2, "user": "cust-1",
        "tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False, "response_format": {"type": "json_object"},
    }  # fmt: skip


def test_what_the_model_does_not_support_is_dropped() -> None:
    # Its words are tools and json.
    assert "logprobs" not in read(logprobs=True, top_logprobs=2).body
    assert read(model="gpt-4o", logprobs=True, top_logprobs=2).body["top_logprobs"] == 2
    CatalogModel.objects.filter(slug="gpt-4o").update(capabilities=["logprobs"])
    caches.forget_all()
    told = read(model="gpt-4o", response_format={"type": "json_object"}, tools=[WEATHER], parallel_tool_calls=True)
    assert sorted(told.body) == ["messages", "tools"]
    CatalogModel.objects.filter(slug="gpt-4o").update(capabilities=[])
    caches.forget_all()
    assert "response_format" in read(model="gpt-4o", response_format={"type": "json_object"}).body


def test_stream_options_mean_nothing_without_a_stream() -> None:
    assert read(stream_options={"include_usage": True}).include_usage is False
    assert read(stream=True, stream_options={"include_usage": True}).include_usage is True
    assert read(stream=True, stream_options=None).include_usage is False
