"""The built-in channel ``echo``: no model and no network. It repeats the last message, and says so.

For a first call right after the start; routing asks it only where nobody else serves a model.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from metering import tokens

LABEL = "[echo, no model was asked]"
ENCODING = tokens.DEFAULT_ENCODING
WORDS_MAX = 2000


def _text(body: Mapping[str, Any]) -> str:
    content = body["messages"][-1].get("content")
    if isinstance(content, list):
        content = " ".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return f"{LABEL} {content or ''}".strip()


def _answer(body: Mapping[str, Any]) -> tuple[list[str], str, dict[str, int]]:
    """Words, why they end, and what they come to."""
    words = _text(body).split(" ")
    # Whichever name the cap goes by: what was set aside for the call is for no more.
    cap = min(body.get("max_completion_tokens", WORDS_MAX), body.get("max_tokens", WORDS_MAX), WORDS_MAX)
    finish = "stop" if len(words) <= cap else "length"
    words = words[:cap]
    # Words stand for tokens, so a cap is kept to the letter.
    made = len(words) * body.get("n", 1)
    told = tokens.count_messages(body["messages"], encoding=ENCODING, tools=body.get("tools"))
    return words, finish, {"prompt_tokens": told, "completion_tokens": made, "total_tokens": told + made}


def complete(body: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer."""
    words, finish, usage = _answer(body)
    choices = [
        {"index": index, "message": {"role": "assistant", "content": " ".join(words)}, "finish_reason": finish}
        for index in range(body.get("n", 1))
    ]
    return {"choices": choices, "usage": usage}


async def stream(body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The same answer, word by word."""
    words, finish, usage = _answer(body)
    for index in range(body.get("n", 1)):
        for place, word in enumerate(words):
            delta = {"content": word if place == 0 else f" {word}"}
            yield _part(index, {"role": "assistant", **delta} if place == 0 else delta)
        yield _part(index, {}, finish)
    yield {"choices": [], "usage": usage}


def _part(index: int, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
