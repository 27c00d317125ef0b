"""Upstreams that have ``/responses`` themselves: what they say, beside what a call needs to know of it.

An answer or a part of one comes as a chat's, so that its text, its end and its usage are seen like any
other's, with what the upstream really said under ``NATIVE``: that is what goes out.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from gateway import upstream
from gateway.channels import ChannelFacts
from gateway.upstream import Failed

PATH = "/responses"
NATIVE = "native"
# The events that an answer ends with.
LAST = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "response.cancelled", "error"})
_SAID = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
}
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}

Json = Mapping[str, Any]


async def complete(channel: ChannelFacts, body: Json) -> dict[str, Any]:
    """A whole answer. Raises ``Failed``, also for one that says that it failed."""
    told = await upstream.complete(channel, body, path=PATH)
    if str(told.get("status")) not in {"completed", "incomplete"}:
        raise Failed("refused" if "status" in told or told.get("error") else "malformed")
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    for item in _objects(told.get("output")):
        if item.get("type") == "function_call":
            message["tool_calls"].append({"function": item})
        for part in (*_objects(item.get("content")), *_objects(item.get("summary"))):
            name = {"output_text": "content", "refusal": "refusal"}.get(str(part.get("type")), "reasoning")
            text = part.get("refusal" if name == "refusal" else "text")
            if type(text) is str:
                message[name] = (message.get(name) or "") + text
    choice = {"index": 0, "message": message, "finish_reason": _finish(told)}
    return {"choices": [choice], "usage": _usage(told), NATIVE: told}


async def stream(channel: ChannelFacts, body: Json) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a streamed answer. Raises ``Failed`` where it fails or breaks off before the last."""
    async with contextlib.aclosing(upstream.stream(channel, body, path=PATH)) as events:
        async for event in events:
            kind = event.get("type")
            if type(kind) is not str:
                raise Failed("malformed")
            if kind in _FAILED:
                raise Failed("refused")
            choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": None}
            part: dict[str, Any] = {"choices": [choice], NATIVE: event}
            if kind in _SAID:
                choice["delta"] = {_SAID[kind]: event.get("delta")}
            elif kind == "response.function_call_arguments.delta":
                choice["delta"] = {"tool_calls": [{"function": {"arguments": event.get("delta")}}]}
            elif kind == "response.output_item.added" and _object(event.get("item")).get("type") == "function_call":
                choice["delta"] = {"tool_calls": [{"function": {"name": _object(event["item"]).get("name")}}]}
            elif kind in LAST:
                told = event["response"] = _object(event.get("response"))
                choice["finish_reason"] = _finish(told)
                part["usage"] = _usage(told)
            yield part
            if kind in LAST:
                return


def _finish(told: Json) -> str:
    """How it ended, as a chat says it."""
    reason = _object(told.get("incomplete_details")).get("reason")
    if told.get("status") == "incomplete":
        return _REASONS.get(str(reason), "length")
    called = any(item.get("type") == "function_call" for item in _objects(told.get("output")))
    return "tool_calls" if called else "stop"


def _usage(told: Json) -> dict[str, Any] | None:
    """The usage with a chat's names; none where there is none."""
    usage = told.get("usage")
    if type(usage) is not dict:
        return None
    return {
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": usage.get("input_tokens_details"),
        "completion_tokens_details": usage.get("output_tokens_details"),
    }


def _object(value: Any) -> dict[str, Any]:
    return value if type(value) is dict else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if type(one) is dict] if type(value) is list else []
