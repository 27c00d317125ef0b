"""``POST /v1/responses`` (contract 5): over chat completions, the request as a chat's, the answer as a response.

Reading makes a chat request of what a chat has, and refuses what only a server that keeps responses could
do: dropping that would change what was asked. What else is unknown is dropped, as in a chat. The answer is
``output`` and, beside it, ``output_text``; a stream is the events of contract 5.3. An upstream that has
/responses itself is asked there, and what it says is passed on (``gateway.native``).
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from core import clock, errors, http, wire
from gateway import calls, chat, native
from gateway.calls import INSUFFICIENT, Call, Prompt
from gateway.chat import Who
from metering.events import Event
from metering.rating import COUNT_MAX

PATH = "/v1/responses"
ITEMS_MAX = 10_000
# OpenAI's least.
OUTPUT_TOKENS_MIN = 16
PAIRS_MAX, NAME_MAX, VALUE_MAX = 16, 64, 512
ROLES = ("user", "assistant", "system", "developer")
KEEP_ALIVE = chat.KEEP_ALIVE
# What only a server could do that keeps responses.
STATEFUL = ("previous_response_id", "conversation", "prompt")
# What an upstream that has /responses is given as it came.
_PASSED = (
    "input", "instructions", "max_output_tokens", "temperature", "top_p", "tools", "tool_choice",
    "parallel_tool_calls", "text", "reasoning", "user",
)  # fmt: skip
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What an upstream's stream begins with; ours has begun before.
_BEGINS = frozenset({"response.created", "response.in_progress", "response.queued"})
_BROKE_OFF = "The upstream provider ran out of capacity before the answer was whole."

Json = Mapping[str, Any]

# What an answer repeats of its request may hold fractions, as they came.
_encoder = msgspec.json.Encoder(decimal_format="number")


class Request:
    """A request, read once: ``prompt`` is what is asked of the upstream, ``told`` what the answer repeats."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.told: dict[str, Any] = {}

    def read(self) -> Prompt:
        """The chat request that it comes to. Raises an ``ApiError`` that names the field."""
        body = {name: value for name, value in http.json_object(self._raw).items() if value is not None}
        asked = _chat(body)
        try:
            prompt = chat.read_body(asked, digest=hashlib.sha256(self._raw).digest())
        except errors.ApiError as error:
            raise _in_our_words(error) from error
        self.told = _repeated(body, asked)
        # The name of the cap was made up here.
        return prompt._replace(native={name: body[name] for name in _PASSED if name in body}, cap_name="")


async def begin(raw: bytes, *, who: Who, request_id: str, key: str | None, long: bool) -> tuple[Call, Request]:
    """A call for a body. Raises an ``ApiError``."""
    request = Request(raw)
    asking = calls.Asking(who, request.read, PATH, request_id, key, raw)
    return await calls.make(asking, size=len(raw), long=long), request


# Requests


def _chat(body: Json) -> dict[str, Any]:
    """The body of a chat. What is wrong in a place that a chat has too is said there."""
    for name in STATEFUL:
        if name in body:
            raise _unsupported(name)
    if body.get("background"):
        raise _unsupported("background")
    asked = {
        name: body[name]
        for name in ("model", "stream", "temperature", "top_p", "parallel_tool_calls", "user")
        if name in body
    }
    asked["messages"] = _messages(body)
    if (cap := body.get("max_output_tokens")) is not None:
        if type(cap) is not int:
            raise errors.InvalidType("max_output_tokens must be an integer.", param="max_output_tokens")
        if not OUTPUT_TOKENS_MIN <= cap <= COUNT_MAX:
            message = f"max_output_tokens must lie between {OUTPUT_TOKENS_MIN} and {COUNT_MAX}."
            raise errors.OutOfRange(message, param="max_output_tokens")
        asked["max_completion_tokens"] = cap
    if "tools" in body:
        asked["tools"] = _tools(body["tools"])
    if "tool_choice" in body:
        asked["tool_choice"] = _tool_choice(body["tool_choice"])
    text = body.get("text", {})
    if type(text) is not dict:
        raise errors.InvalidType("text must be an object.", param="text")
    form = text.get("format")
    if type(form) is dict:
        asked["response_format"] = {"type": form.get("type"), "json_schema": _but_type(form)}
    elif form is not None:
        raise errors.InvalidType("text.format must be an object.", param="text.format")
    _check_metadata(body.get("metadata"))
    return asked


def _unsupported(param: str, what: str = "") -> errors.UnsupportedParameter:
    return errors.UnsupportedParameter(f"{what or param} is not supported: responses are not kept here.", param=param)


def _no_function(param: str) -> errors.UnsupportedParameter:
    return errors.UnsupportedParameter(f"{param} must be function: tools do not run here.", param=param)


def _in_our_words(error: errors.ApiError) -> errors.ApiError:
    """A chat's refusal, with the field as a response's request names it."""
    message = str(error)
    param = error.param or ""
    for theirs, ours in (
        (".function.", "."), ("response_format.json_schema", "text.format"), ("response_format", "text.format"),
    ):  # fmt: skip
        message, param = message.replace(theirs, ours), param.replace(theirs, ours)
    if param.startswith("messages"):
        message, param = message.replace(param, "input"), "input"
    return type(error)(message, param=param or None, headers=error.headers)


def _messages(body: Json) -> list[Any]:
    found: list[Any] = []
    instructions = body.get("instructions")
    if instructions is not None:
        if type(instructions) is not str:
            raise errors.InvalidType("instructions must be a string.", param="instructions")
        found.append({"role": "system", "content": instructions})
    given = body.get("input")
    if given is None:
        raise errors.MissingParameter("input is required.", param="input")
    if type(given) is str:
        return [*found, {"role": "user", "content": given}]
    if type(given) is not list:
        raise errors.InvalidType("input must be a string or an array.", param="input")
    if not 0 < len(given) <= ITEMS_MAX:
        raise errors.OutOfRange(f"input holds 1 to {ITEMS_MAX} items.", param="input")
    for index, item in enumerate(given):
        _add_item(found, item, f"input[{index}]")
    return found


def _add_item(messages: list[Any], item: Any, place: str) -> None:
    """Put an item behind the messages before it. Calls of one turn are one message's, as a chat has them."""
    if type(item) is not dict:
        raise errors.InvalidType(f"{place} must be an object.", param=place)
    kind = item.get("type") or "message"
    if kind == "message":
        messages.append(_message(item, place))
    elif kind == "function_call":
        last = messages[-1] if messages else None
        if last is None or last["role"] != "assistant":
            last = {"role": "assistant", "content": None}
            messages.append(last)
        function = {"name": _text(item, "name", place), "arguments": _text(item, "arguments", place)}
        last.setdefault("tool_calls", []).append(
            {"id": _text(item, "call_id", place), "type": "function", "function": function}
        )
    elif kind == "function_call_output":
        output = item.get("output")
        content = output if type(output) is str else _parts(output, f"{place}.output")[0]
        messages.append({"role": "tool", "tool_call_id": _text(item, "call_id", place), "content": content})
    elif kind != "reasoning":
        # A chat has no place for what a model thought before; all else it would miss.
        raise _unsupported(f"{place}.type", f"An item of type {kind}" if type(kind) is str else "That type")


def _message(item: Json, place: str) -> dict[str, Any]:
    role = _text(item, "role", place)
    if role not in ROLES:
        raise errors.OutOfRange(f"{place}.role must be one of {', '.join(ROLES)}.", param=f"{place}.role")
    content = item.get("content")
    if type(content) is str:
        return {"role": role, "content": content}
    parts, refusal = _parts(content, f"{place}.content")
    if role == "assistant":
        # A chat's assistant speaks in text.
        said = "".join(part["text"] for part in parts if part["type"] == "text")
        return {"role": role, "content": said or None, **({"refusal": refusal} if refusal or not said else {})}
    return {"role": role, "content": parts}


def _parts(content: Any, place: str) -> tuple[list[dict[str, Any]], str]:
    """Parts of a content as a chat has them, and what of it refuses."""
    if content is None:
        raise errors.MissingParameter(f"{place} is required.", param=place)
    if type(content) is not list:
        raise errors.InvalidType(f"{place} must be a string or an array.", param=place)
    parts: list[dict[str, Any]] = []
    refusal = ""
    for index, part in enumerate(content):
        at = f"{place}[{index}]"
        if type(part) is not dict:
            raise errors.InvalidType(f"{at} must be an object.", param=at)
        kind = part.get("type")
        if kind in {"input_text", "output_text", "text"}:
            parts.append({"type": "text", "text": _text(part, "text", at)})
        elif kind == "refusal":
            refusal += _text(part, "refusal", at)
        elif kind == "input_image" and part.get("image_url") is not None:
            image = {"url": _text(part, "image_url", at)}
            if part.get("detail") is not None:
                image["detail"] = _text(part, "detail", at)
            parts.append({"type": "image_url", "image_url": image})
        elif kind == "input_file" and part.get("file_data") is not None:
            file = {"file_data": _text(part, "file_data", at)}
            if part.get("filename") is not None:
                file["filename"] = _text(part, "filename", at)
            parts.append({"type": "file", "file": file})
        elif kind == "input_audio" and type(part.get("input_audio")) is dict:
            parts.append({"type": "input_audio", "input_audio": part["input_audio"]})
        elif kind is None:
            raise errors.MissingParameter(f"{at}.type is required.", param=f"{at}.type")
        else:
            raise _unsupported(at, f"A part of type {kind} without its data" if type(kind) is str else "That type")
    return parts, refusal


def _tools(tools: Any) -> Any:
    if type(tools) is not list:
        return tools
    made: list[Any] = []
    for index, tool in enumerate(tools):
        if type(tool) is dict and tool.get("type") not in {None, "function"}:
            raise _no_function(f"tools[{index}].type")
        made.append({"type": "function", "function": _but_type(tool)} if type(tool) is dict else tool)
    return made


def _tool_choice(choice: Any) -> Any:
    if type(choice) is not dict:
        return choice
    if choice.get("type") != "function":
        raise _no_function("tool_choice.type")
    return {"type": "function", "function": _but_type(choice)}


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if type(metadata) is not dict:
        raise errors.InvalidType("metadata must be an object.", param="metadata")
    if len(metadata) > PAIRS_MAX:
        raise errors.OutOfRange(f"metadata holds at most {PAIRS_MAX} pairs.", param="metadata")
    for name, value in metadata.items():
        if type(value) is not str:
            raise errors.InvalidType("metadata holds strings.", param="metadata")
        if len(name) > NAME_MAX or len(value) > VALUE_MAX:
            message = f"metadata has names up to {NAME_MAX} and values up to {VALUE_MAX} characters."
            raise errors.OutOfRange(message, param="metadata")


def _text(told: Json, name: str, place: str) -> str:
    value = told.get(name)
    if value is None:
        raise errors.MissingParameter(f"{place}.{name} is required.", param=f"{place}.{name}")
    if type(value) is not str:
        raise errors.InvalidType(f"{place}.{name} must be a string.", param=f"{place}.{name}")
    return value


def _but_type(told: Json) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "type"}


def _repeated(body: Json, asked: Json) -> dict[str, Any]:
    """What an answer says again of what was asked, and what holds where nothing was."""
    text, reasoning = body.get("text") or {}, body.get("reasoning")
    reasoning = reasoning if type(reasoning) is dict else {}
    tools = [
        {"type": "function", "name": tool["name"], "description": tool.get("description"),
         "parameters": tool.get("parameters"), "strict": tool.get("strict")}
        for tool in body.get("tools") or ()
    ]  # fmt: skip
    return {
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": _word(reasoning.get("effort")), "summary": _word(reasoning.get("summary"))},
        "store": False,
        "temperature": asked.get("temperature", 1),
        "text": {"format": text.get("format") or {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": tools,
        "top_p": asked.get("top_p", 1),
        "truncation": "disabled",
        "metadata": body.get("metadata", {}),
    }


def _word(value: Any) -> str | None:
    return value if type(value) is str else None


# Answers


def whole(call: Call, request: Request, answer: Json) -> bytes:
    """The answer to a call that has ended (contract 5.2)."""
    choice = answer["choices"][0]
    said = Said(call.id)
    if native.NATIVE in answer:
        return _encoder.encode(_passed(call, request, said, answer[native.NATIVE]))
    message = choice["message"]
    said.add({**message, "tool_calls": message.get("tool_calls") or ()}, choice.get("finish_reason"))
    said.close()
    return _encoder.encode(response(call, request, said, completed=True))


def response(call: Call, request: Request, said: "Said", *, completed: bool) -> dict[str, Any]:
    """The object: while it comes in, or (``completed``) with how it ended and what it used."""
    status, error = ("in_progress", None) if not completed else said.outcome
    reason = _INCOMPLETE.get(said.finish) if status == "incomplete" else None
    usage = None if call.settled is None or not completed else show(call.settled.event, call.settled.cost_usd)
    told = {
        "id": f"resp_{said.stem}",
        "object": "response",
        "created_at": call.created,
        "status": status,
        "completed_at": clock.to_unix(clock.now()) if status == "completed" else None,
        "error": error,
        "incomplete_details": None if reason is None else {"reason": reason},
        "model": call.prompt.name,
        "output": said.items if completed else [],
        "output_text": said.text if completed else "",
        **request.told,
        "usage": usage,
    }
    if call.prompt.end_user is not None:
        told["user"] = call.prompt.end_user
    return told


def _passed(call: Call, request: Request, said: "Said", told: Json) -> dict[str, Any]:
    """What an upstream answered to a request for a response, under our id, with our model's name and our price."""
    output = told.get("output")
    output = output if type(output) is list else []
    texts = [
        part["text"]
        for item in output
        if type(item) is dict and type(item.get("content")) is list
        for part in item["content"]
        if type(part) is dict and part.get("type") == "output_text" and type(part.get("text")) is str
    ]
    ours = response(call, request, said, completed=True)
    kept = ("status", "error", "incomplete_details")
    return {
        **ours,
        **{name: told[name] for name in kept if name in told},
        "completed_at": ours["completed_at"] if told.get("status") == "completed" else None,
        "output": output,
        "output_text": "".join(texts),
    }


def show(event: Event, cost_usd: Any) -> dict[str, Any]:
    """``usage`` of a response."""
    return {
        "input_tokens": event.input_tokens,
        "input_tokens_details": {
            "cached_tokens": event.cached_input_tokens,
            "cache_write_tokens": event.cache_write_tokens + event.cache_write_1h_tokens,
        },
        "output_tokens": event.output_tokens,
        "output_tokens_details": {"reasoning_tokens": event.reasoning_tokens},
        "total_tokens": event.input_tokens + event.output_tokens,
        "cost": {"total_cost": wire.number(cost_usd)},
    }


class _Item:
    """An item of the output as it comes in: ``parts`` are texts of a kind, or the one text of a call."""

    def __init__(self, kind: str, item_id: str, place: int) -> None:
        self.kind = kind
        self.id = item_id
        self.place = place
        self.part = ""
        self.text: list[str] = []
        self.content: list[dict[str, Any]] = []
        self.name = ""
        self.call_id = ""
        self.status = "in_progress"

    def shown(self) -> dict[str, Any]:
        """As it stands now."""
        told: dict[str, Any] = {"id": self.id, "type": self.kind, "status": self.status}
        if self.kind == "function_call":
            whole = "" if self.status == "in_progress" else "".join(self.text)
            return {**told, "call_id": self.call_id, "name": self.name, "arguments": whole}
        if self.kind == "reasoning":
            return {**told, "summary": [], "content": list(self.content)}
        return {**told, "role": "assistant", "content": list(self.content)}


_PARTS: Mapping[str, str] = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}


def _part(kind: str, text: str) -> dict[str, Any]:
    made: dict[str, Any] = {"type": kind, _PARTS[kind]: text}
    return made | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})


class Said:
    """What an answer has said so far, and the events that tell of each addition to it."""

    def __init__(self, call_id: str) -> None:
        self.stem = call_id.rpartition("-")[2]
        self.finish = ""
        self.failure: errors.ApiError | None = None
        self._all: list[_Item] = []
        self._open: _Item | None = None
        self._calls: dict[int, _Item] = {}

    @property
    def items(self) -> list[dict[str, Any]]:
        """The output."""
        return [item.shown() for item in self._all]

    @property
    def text(self) -> str:
        """All that was said as text."""
        parts = [part for item in self._all if item.kind == "message" for part in item.content]
        return "".join(part["text"] for part in parts if part["type"] == "output_text")

    @property
    def outcome(self) -> tuple[str, dict[str, Any] | None]:
        """Status and error of the whole."""
        if self.failure is not None:
            return "failed", {"code": "server_error", "message": str(self.failure)}
        if self.finish == INSUFFICIENT:
            return "failed", {"code": "server_error", "message": _BROKE_OFF}
        return ("incomplete" if self.finish in _INCOMPLETE else "completed"), None

    def add(self, told: Json, finish: Any = None) -> list[dict[str, Any]]:
        """Take in a message or a part of one; the events of that."""
        if type(finish) is str and finish:
            self.finish = finish
        found: list[dict[str, Any]] = []
        reasoning = told.get("reasoning") or told.get("reasoning_content")
        for kind, part, text in (
            ("reasoning", "reasoning_text", reasoning),
            ("message", "output_text", _plain(told.get("content"))),
            ("message", "refusal", told.get("refusal")),
        ):
            if type(text) is str and text:
                found += self._say(kind, part, text)
        called = told.get("tool_calls")
        if isinstance(called, list | tuple):
            for place, one in enumerate(called):
                if type(one) is dict:
                    found += self._call(one, place)
        return found

    def close(self) -> list[dict[str, Any]]:
        """Nothing more comes; the events of what was open. An answer without anything is an empty message."""
        found: list[dict[str, Any]] = []
        if not self._all and self.failure is None:
            found += self._begin("message", "msg")
        found += self._close_text()
        for item in self._calls.values():
            item.status = self._status()
            arguments = "".join(item.text)
            at = {"item_id": item.id, "output_index": item.place}
            found.append(
                {"type": "response.function_call_arguments.done", **at, "name": item.name, "arguments": arguments}
            )
            found.append(_done(item))
        self._calls = {}
        return found

    def _status(self) -> str:
        return "completed" if self.failure is None and self.outcome[0] == "completed" else "incomplete"

    def _begin(self, kind: str, prefix: str) -> list[dict[str, Any]]:
        item = _Item(kind, f"{prefix}_{self.stem}{len(self._all) or ''}", len(self._all))
        self._all.append(item)
        if kind != "function_call":
            self._open = item
        return [_added(item)] if kind != "function_call" else []

    def _say(self, kind: str, part: str, text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self._open is None or self._open.kind != kind:
            found += self._close_text()
            found += self._begin(kind, "rs" if kind == "reasoning" else "msg")
        item = self._open
        assert item is not None
        if item.part != part:
            found += self._close_part(item)
            item.part = part
            at = {"item_id": item.id, "output_index": item.place, "content_index": len(item.content)}
            found.append({"type": "response.content_part.added", **at, "part": _part(part, "")})
        item.text.append(text)
        found.append({"type": f"response.{part}.delta", **_at(item), "delta": text, **_logprobs(part)})
        return found

    def _close_part(self, item: _Item) -> list[dict[str, Any]]:
        if not item.part:
            return []
        text, part, at = "".join(item.text), item.part, _at(item)
        made = _part(part, text)
        item.content.append(made)
        item.part, item.text = "", []
        return [
            {"type": f"response.{part}.done", **at, _PARTS[part]: text, **_logprobs(part)},
            {"type": "response.content_part.done", **at, "part": made},
        ]

    def _close_text(self) -> list[dict[str, Any]]:
        item, self._open = self._open, None
        if item is None:
            return []
        found = self._close_part(item)
        item.status = self._status()
        return [*found, _done(item)]

    def _call(self, one: Json, place: int) -> list[dict[str, Any]]:
        index = one.get("index")
        index = index if type(index) is int else place
        function = one.get("function")
        function = function if type(function) is dict else {}
        item = self._calls.get(index)
        found: list[dict[str, Any]] = []
        if item is None:
            found += self._close_text()
            self._begin("function_call", "fc")
            item = self._calls[index] = self._all[-1]
            told_id = one.get("id")
            item.call_id = told_id if type(told_id) is str and told_id else f"call_{self.stem}{index}"
            item.name = _word(function.get("name")) or ""
            found.append(_added(item))
        elif not item.name:
            item.name = _word(function.get("name")) or ""
        arguments = function.get("arguments")
        if type(arguments) is str and arguments:
            item.text.append(arguments)
            at = {"item_id": item.id, "output_index": item.place}
            found.append({"type": "response.function_call_arguments.delta", **at, "delta": arguments})
        return found


def _at(item: _Item) -> dict[str, Any]:
    return {"item_id": item.id, "output_index": item.place, "content_index": len(item.content)}


def _added(item: _Item) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": item.place, "item": item.shown()}


def _done(item: _Item) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": item.place, "item": item.shown()}


def _logprobs(part: str) -> dict[str, Any]:
    return {"logprobs": []} if part == "output_text" else {}


def _plain(content: Any) -> Any:
    """A content's text, however it is written."""
    if type(content) is not list:
        return content
    return "".join(part["text"] for part in content if type(part) is dict and type(part.get("text")) is str)


async def parts(call: Call, request: Request) -> AsyncIterator[bytes]:
    """A stream's events as they go out (contract 5.3)."""
    said = Said(call.id)
    number = -1
    last_passed: Json | None = None
    has_passed = False

    def events(told: Sequence[Json]) -> bytes:
        nonlocal number
        written = []
        for event in told:
            number += 1
            written.append(_event({**event, "sequence_number": number}))
        return b"".join(written)

    begun = response(call, request, said, completed=False)
    yield events([{"type": f"response.{word}", "response": begun} for word in ("created", "in_progress")])
    try:
        async for part in call.chunks():
            passed = part.get(native.NATIVE)
            has_passed = passed is not None
            if passed is not None and passed["type"] in native.LAST:
                # Once it is in the books: it tells what it cost.
                last_passed = passed
            elif passed is not None and passed["type"] not in _BEGINS:
                yield events([passed])
            for choice in part["choices"]:
                delta = choice.get("delta")
                if passed is not None:
                    # Kept for the case that it breaks off.
                    said.add(delta if type(delta) is dict else {})
                elif told := said.add(delta if type(delta) is dict else {}, choice.get("finish_reason")):
                    yield events(told)
    except errors.ApiError as error:
        said.failure = error
    if last_passed is not None and said.failure is None:
        final = _passed(call, request, said, last_passed["response"])
        yield events([{**last_passed, "response": final}])
        return
    told = said.close()
    if has_passed:
        # Items of the upstream's own ids were open.
        told = []
    if said.failure is not None:
        told.append(
            {"type": "error", "code": said.failure.code, "message": str(said.failure), "param": said.failure.param}
        )
    last = response(call, request, said, completed=True)
    yield events([*told, {"type": f"response.{last['status']}", "response": last}])


def _event(told: Json) -> bytes:
    name: str = told["type"]
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(told) + b"\n\n"
