"""The built-in channel: it repeats, says so, and counts what it can count."""

import asyncio
from typing import Any

from gateway import echo

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
# 3 for the message, 3 for the reply, one for the role, one for the word.
PROMPT = 8


def test_it_repeats_the_last_message_and_says_that_it_is_no_model() -> None:
    told = echo.complete(BODY)
    (choice,) = told["choices"]
    assert choice["message"]["content"] == "[echo, no model was asked] hello"
    assert choice["finish_reason"] == "stop"
    # Six words.
    assert told["usage"] == {"prompt_tokens": PROMPT, "completion_tokens": 6, "total_tokens": PROMPT + 6}


def test_it_keeps_to_a_cap_and_makes_as_many_choices_as_asked() -> None:
    told = echo.complete({**BODY, "max_tokens": 2, "n": 3})
    assert [one["message"]["content"] for one in told["choices"]] == ["[echo, no"] * 3
    assert {one["finish_reason"] for one in told["choices"]} == {"length"}
    assert told["usage"]["completion_tokens"] == 6


def test_it_keeps_to_a_cap_that_goes_by_its_newer_name() -> None:
    told = echo.complete({**BODY, "max_completion_tokens": 2})
    assert told["choices"][0]["message"]["content"] == "[echo, no"
    assert told["usage"]["completion_tokens"] == 2


def test_parts_of_a_message_are_read_as_text() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "b"},
    ]
    told = echo.complete({"messages": [{"role": "user", "content": parts}]})
    assert told["choices"][0]["message"]["content"].endswith("] a b")


def test_a_stream_says_the_same() -> None:
    async def listen() -> list[Any]:
        return [part async for part in echo.stream(BODY)]

    parts = asyncio.run(listen())
    said = "".join(one["delta"].get("content", "") for part in parts for one in part["choices"])
    assert said == "[echo, no model was asked] hello"
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-2]["choices"][0]["finish_reason"] == "stop"
    assert parts[-1] == {"choices": [], "usage": echo.complete(BODY)["usage"]}
