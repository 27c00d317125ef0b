"""``POST /v1/chat/completions``: read by contract 3, answer by contract 4.

Reading rebuilds the request of what the contract knows: unknown fields end here, and so do known ones that the
model does not support. A wrong type is a 400, a value out of range a 422, each naming its field. No error
repeats any text of the body.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal
from typing import Any

from billing import admissions
from core import errors, http, wire
from gateway import calls, counts
from gateway.calls import Call, Prompt
from metering.models import CatalogModel
from metering.rating import COUNT_MAX

PATHS = ("/v1/chat/completions", "/chat/completions")
ENDPOINT = PATHS[0]
MESSAGES_MAX = 10_000
TOOLS_MAX = 128
TOP_LOGPROBS_MAX = 20
BIASES_MAX = 1024
ROLES = ("system", "user", "assistant", "tool", "developer")
FORMATS = ("text", "json_object", "json_schema")
TOOL_CHOICES = ("none", "auto", "required")
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

Json = Mapping[str, Any]


def read(raw: bytes) -> Prompt:
    """A body as a checked request. Raises an ``ApiError`` that names the field."""
    return read_body(http.json_object(raw), digest=hashlib.sha256(raw).digest())


def read_body(body: Json, *, digest: bytes) -> Prompt:
    """The same of a decoded body; ``digest`` stands for what was said."""
    told = {name: value for name, value in body.items() if value is not None}
    name = _text(told, "model", required=True)
    assert name is not None
    if not 0 < len(name) <= 128:
        raise errors.OutOfRange("model must be a string of 1 to 128 characters.", param="model")
    model = admissions.find_model(name)
    if model.retired_at is not None:
        raise errors.ModelNotFound("No model with this id is in the catalog.", param="model")
    stream = _flag(told, "stream") or False
    options = _object(told, "stream_options") or {}
    include_usage = _flag(options, "include_usage", "stream_options.include_usage") or False
    told_max, told_cap = _whole(told, "max_tokens", 1, COUNT_MAX), _whole(told, "max_completion_tokens", 1, COUNT_MAX)
    count = _whole(told, "n", 1, admissions.CHOICES_MAX) or 1
    sent: dict[str, Any] = {"messages": _messages(told)}
    for field, low, high in (
        ("temperature", 0, 2), ("top_p", 0, 1), ("frequency_penalty", -2, 2), ("presence_penalty", -2, 2),
    ):  # fmt: skip
        if (value := _number(told, field, low, high)) is not None:
            sent[field] = value
    if (stop := _stop(told, model)) is not None:
        sent["stop"] = stop
    if (seed := _whole(told, "seed", -(2**63), 2**63 - 1)) is not None:
        sent["seed"] = seed
    if count > 1:
        sent["n"] = count
    _read_logprobs(told, sent)
    _read_tools(told, sent)
    if (form := _format(told)) is not None:
        sent["response_format"] = form
    end_user = _text(told, "user")
    if end_user is not None:
        sent["user"] = end_user
    # The newer name wins (contract 3.1), and what is sent on goes under the name that counted.
    cap, cap_name = (told_max, "max_tokens") if told_cap is None else (told_cap, "max_completion_tokens")
    return Prompt(
        model, name, _supported(sent, model), stream, include_usage and stream, cap, count, end_user, digest,
        cap_name="" if cap is None else cap_name,
    )  # fmt: skip


# What of a request needs a word among a model's capabilities; a model without any takes everything.
_NEEDS = {"logprobs": "logprobs", "top_logprobs": "logprobs", "parallel_tool_calls": "tools", "response_format": "json"}


def _supported(sent: dict[str, Any], model: CatalogModel) -> dict[str, Any]:
    if not model.capabilities:
        return sent
    able = set(model.capabilities)
    return {name: value for name, value in sent.items() if name not in _NEEDS or _NEEDS[name] in able}


def _messages(told: Json) -> list[dict[str, Any]]:
    found = told.get("messages")
    if found is None:
        raise errors.MissingParameter("messages is required.", param="messages")
    if type(found) is not list:
        raise errors.InvalidType("messages must be an array.", param="messages")
    if not 0 < len(found) <= MESSAGES_MAX:
        raise errors.OutOfRange(f"messages holds 1 to {MESSAGES_MAX} messages.", param="messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(found)]


def _message(message: Any, place: str) -> dict[str, Any]:
    if type(message) is not dict:
        raise errors.InvalidType(f"{place} must be an object.", param=place)
    told = {name: value for name, value in message.items() if value is not None}
    role = _text(told, "role", f"{place}.role", required=True)
    if role not in ROLES:
        raise errors.OutOfRange(f"{place}.role must be one of {', '.join(ROLES)}.", param=f"{place}.role")
    made: dict[str, Any] = {"role": "system" if role == "developer" else role}
    for name in ("name", "tool_call_id", "refusal"):
        if (text := _text(told, name, f"{place}.{name}")) is not None:
            made[name] = text
    if role == "tool" and "tool_call_id" not in made:
        raise errors.MissingParameter(f"{place}.tool_call_id is required.", param=f"{place}.tool_call_id")
    if role == "assistant" and "tool_calls" in told:
        made["tool_calls"] = _tool_calls(told["tool_calls"], f"{place}.tool_calls")
    content = told.get("content")
    if content is None:
        if role != "assistant" or not ("tool_calls" in made or "refusal" in made):
            raise errors.MissingParameter(f"{place}.content is required.", param=f"{place}.content")
        made["content"] = None
    elif type(content) is str:
        made["content"] = content
    elif type(content) is list:
        for index, part in enumerate(content):
            if type(part) is not dict:
                raise errors.InvalidType(
                    f"{place}.content[{index}] must be an object.", param=f"{place}.content[{index}]"
                )
            _text(part, "type", f"{place}.content[{index}].type", required=True)
        made["content"] = content
    else:
        raise errors.InvalidType(f"{place}.content must be a string or an array.", param=f"{place}.content")
    return made


def _tool_calls(found: Any, place: str) -> list[dict[str, Any]]:
    if type(found) is not list:
        raise errors.InvalidType(f"{place} must be an array.", param=place)
    made = []
    for index, call in enumerate(found):
        at = f"{place}[{index}]"
        if type(call) is not dict:
            raise errors.InvalidType(f"{at} must be an object.", param=at)
        function = _object(call, "function", f"{at}.function") or {}
        made.append({
            "id": _text(call, "id", f"{at}.id", required=True),
            "type": "function",
            "function": {
                "name": _text(function, "name", f"{at}.function.name", required=True),
                "arguments": _text(function, "arguments", f"{at}.function.arguments") or "",
            },
        })  # fmt: skip
    return made


def _read_logprobs(told: Json, sent: dict[str, Any]) -> None:
    logprobs = _flag(told, "logprobs")
    top = _whole(told, "top_logprobs", 0, TOP_LOGPROBS_MAX)
    if top is not None and not logprobs:
        raise errors.OutOfRange("top_logprobs needs logprobs: true.", param="top_logprobs")
    if logprobs is not None:
        sent["logprobs"] = logprobs
    if top is not None:
        sent["top_logprobs"] = top
    bias = _object(told, "logit_bias")
    if bias is not None:
        if len(bias) > BIASES_MAX:
            raise errors.OutOfRange(f"logit_bias holds at most {BIASES_MAX} tokens.", param="logit_bias")
        for value in bias.values():
            if not _is_number(value):
                raise errors.InvalidType("logit_bias maps token ids to numbers.", param="logit_bias")
            if not -100 <= value <= 100:
                raise errors.OutOfRange("logit_bias must lie between -100 and 100.", param="logit_bias")
        sent["logit_bias"] = bias


def _read_tools(told: Json, sent: dict[str, Any]) -> None:
    tools = told.get("tools")
    names = set()
    if tools is not None:
        if type(tools) is not list:
            raise errors.InvalidType("tools must be an array.", param="tools")
        if len(tools) > TOOLS_MAX:
            raise errors.OutOfRange(f"tools holds at most {TOOLS_MAX} tools.", param="tools")
        made = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
        names = {tool["function"]["name"] for tool in made}
        if made:
            sent["tools"] = made
    choice = told.get("tool_choice")
    if type(choice) is str:
        if choice not in TOOL_CHOICES:
            raise errors.OutOfRange(
                f"tool_choice must be one of {', '.join(TOOL_CHOICES)}, or a tool.", param="tool_choice"
            )
        if choice == "required" and not names:
            raise errors.OutOfRange("tool_choice: required needs tools.", param="tool_choice")
    elif choice is not None:
        if type(choice) is not dict:
            raise errors.InvalidType("tool_choice must be a string or an object.", param="tool_choice")
        function = _object(choice, "function", "tool_choice.function") or {}
        name = _text(function, "name", "tool_choice.function.name", required=True)
        if name not in names:
            raise errors.OutOfRange("tool_choice must name one of tools.", param="tool_choice.function.name")
        choice = {"type": "function", "function": {"name": name}}
    if choice is not None and names:
        sent["tool_choice"] = choice
    if (parallel := _flag(told, "parallel_tool_calls")) is not None and names:
        sent["parallel_tool_calls"] = parallel


def _tool(tool: Any, place: str) -> dict[str, Any]:
    if type(tool) is not dict:
        raise errors.InvalidType(f"{place} must be an object.", param=place)
    if _text(tool, "type", f"{place}.type", required=True) != "function":
        raise errors.OutOfRange(f"{place}.type must be function.", param=f"{place}.type")
    function = _object(tool, "function", f"{place}.function")
    if function is None:
        raise errors.MissingParameter(f"{place}.function is required.", param=f"{place}.function")
    made: dict[str, Any] = {"name": _text(function, "name", f"{place}.function.name", required=True)}
    if (description := _text(function, "description", f"{place}.function.description")) is not None:
        made["description"] = description
    if (parameters := _object(function, "parameters", f"{place}.function.parameters")) is not None:
        made["parameters"] = parameters
    if (strict := _flag(function, "strict", f"{place}.function.strict")) is not None:
        made["strict"] = strict
    return {"type": "function", "function": made}


def _format(told: Json) -> dict[str, Any] | None:
    form = _object(told, "response_format")
    if form is None:
        return None
    kind = _text(form, "type", "response_format.type", required=True)
    if kind not in FORMATS:
        raise errors.OutOfRange(
            f"response_format.type must be one of {', '.join(FORMATS)}.", param="response_format.type"
        )
    if kind != "json_schema":
        return {"type": kind}
    place = "response_format.json_schema"
    schema = _object(form, "json_schema", place)
    if schema is None:
        raise errors.MissingParameter(f"{place} is required.", param=place)
    made: dict[str, Any] = {"name": _text(schema, "name", f"{place}.name", required=True)}
    if (description := _text(schema, "description", f"{place}.description")) is not None:
        made["description"] = description
    if (body := _object(schema, "schema", f"{place}.schema")) is not None:
        made["schema"] = body
    if (strict := _flag(schema, "strict", f"{place}.strict")) is not None:
        made["strict"] = strict
    return {"type": kind, "json_schema": made}


def _stop(told: Json, model: CatalogModel) -> Any:
    stop = told.get("stop")
    if stop is None or type(stop) is str:
        return stop
    if type(stop) is not list or not all(type(one) is str for one in stop):
        raise errors.InvalidType("stop must be a string or an array of strings.", param="stop")
    if len(stop) > model.max_stop_sequences:
        raise errors.TooManyStops(
            f"{model.slug} takes at most {model.max_stop_sequences} stop sequences.", param="stop"
        )
    return stop or None


def _text(told: Json, name: str, param: str = "", *, required: bool = False) -> str | None:
    value = told.get(name)
    param = param or name
    if value is None:
        if required:
            raise errors.MissingParameter(f"{param} is required.", param=param)
        return None
    if type(value) is not str:
        raise errors.InvalidType(f"{param} must be a string.", param=param)
    return value


def _flag(told: Json, name: str, param: str = "") -> bool | None:
    value = told.get(name)
    if value is not None and type(value) is not bool:
        raise errors.InvalidType(f"{param or name} must be true or false.", param=param or name)
    return value


def _object(told: Json, name: str, param: str = "") -> dict[str, Any] | None:
    value = told.get(name)
    if value is not None and type(value) is not dict:
        raise errors.InvalidType(f"{param or name} must be an object.", param=param or name)
    return value


def _whole(told: Json, name: str, low: int, high: int) -> int | None:
    value = told.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise errors.InvalidType(f"{name} must be an integer.", param=name)
    if not low <= value <= high:
        raise errors.OutOfRange(f"{name} must lie between {low} and {high}.", param=name)
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, Decimal)


def _number(told: Json, name: str, low: int, high: int) -> int | Decimal | None:
    value: int | Decimal | None = told.get(name)
    if value is None:
        return None
    if not _is_number(value):
        raise errors.InvalidType(f"{name} must be a number.", param=name)
    if not low <= value <= high:
        raise errors.OutOfRange(f"{name} must lie between {low} and {high}.", param=name)
    return value


# Answers


def whole(call: Call, answer: Json) -> bytes:
    """The answer to a call that has ended (contract 4.1)."""
    assert call.settled is not None
    choices = [
        {
            "index": index,
            "message": _said(choice["message"]),
            "logprobs": choice.get("logprobs"),
            "finish_reason": choice.get("finish_reason") or "stop",
        }
        for index, choice in enumerate(answer["choices"])
    ]
    return wire.encode(
        {
            "id": call.id,
            "object": "chat.completion",
            "created": call.created,
            "model": call.prompt.name,
            "choices": choices,
            "usage": counts.show(call.settled.event, call.settled.cost_usd),
            "system_fingerprint": call.fingerprint,
        }
    )


def _said(message: Json) -> dict[str, Any]:
    made: dict[str, Any] = {
        "role": "assistant", "content": message.get("content"), "refusal": message.get("refusal"),
    }  # fmt: skip
    _add_more(message, made)
    return made


def _add_more(message: Json, made: dict[str, Any]) -> None:
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if reasoning is not None:
        made["reasoning"] = reasoning
    if message.get("reasoning_details"):
        made["reasoning_details"] = message["reasoning_details"]
    called = message.get("tool_calls")
    if called:
        made["tool_calls"] = [
            {**one, "index": one.get("index", index)} if type(one) is dict else one for index, one in enumerate(called)
        ]


async def parts(call: Call) -> AsyncIterator[bytes]:
    """A stream's events as they go out (contract 4.5), ``[DONE]`` at the end whatever happened."""
    head = {
        "id": call.id, "object": "chat.completion.chunk", "created": call.created, "model": call.prompt.name,
        "system_fingerprint": call.fingerprint,
    }  # fmt: skip
    usage = {"usage": None} if call.prompt.include_usage else {}
    roles: set[int] = set()
    try:
        async for part in call.chunks():
            head["system_fingerprint"] = call.fingerprint
            choices = [_choice(one, place, roles) for place, one in enumerate(part["choices"])]
            yield _event({**head, "choices": choices, **usage})
    except errors.ApiError as error:
        yield _event(http.error_body(error))
    else:
        if call.prompt.include_usage and call.settled is not None:
            told = counts.show(call.settled.event, call.settled.cost_usd)
            yield _event({**head, "choices": [], "usage": told})
    yield DONE


def _choice(one: Json, place: int, roles: set[int]) -> dict[str, Any]:
    index = one.get("index")
    index = index if type(index) is int else place
    delta = one.get("delta")
    delta = delta if type(delta) is dict else {}
    made = {name: delta[name] for name in ("content", "refusal") if delta.get(name) is not None}
    _add_more(delta, made)
    if index not in roles:
        roles.add(index)
        made = {"role": "assistant", "content": "", **made} if not made else {"role": "assistant", **made}
    return {
        "index": index, "delta": made, "logprobs": one.get("logprobs"), "finish_reason": one.get("finish_reason"),
    }  # fmt: skip


def _event(value: object) -> bytes:
    return b"data: " + wire.encode(value) + b"\n\n"


Who = Callable[[], Any]


async def begin(raw: bytes, *, who: Who, request_id: str, key: str | None, long: bool) -> Call:
    """A call for a body. Raises an ``ApiError``."""
    asking = calls.Asking(who, lambda: read(raw), ENDPOINT, request_id, key, raw)
    return await calls.make(asking, size=len(raw), long=long)
