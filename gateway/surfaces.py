"""How model calls stand in the OpenAPI document.

The data plane serves them, which is no view of Django's, so a hook of the generator's writes them in
(``POSTPROCESSING_HOOKS``). What every keyed operation has in common is taken from one that is there.
"""

from copy import deepcopy
from typing import Any

from billing.admissions import CHOICES_MAX
from gateway import chat, responses
from metering.rating import COUNT_MAX

_MODEL = "/v1/estimate"
_MORE = {
    402: "No money",
    409: "This Idempotency-Key was used before",
    429: "A limit of requests, tokens or calls at once is reached",
    502: "The provider failed, and so did whoever was asked instead",
    504: "The provider did not answer in time",
}
_STREAM = "text/event-stream"

Schema = dict[str, Any]


def add_calls(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """The document with the model calls in it."""
    like = result["paths"].get(_MODEL, {}).get("post")
    if like is None:
        return result
    schemas = result["components"]["schemas"]
    schemas |= {
        "ChatCompletionRequest": chat_request(), "ChatCompletion": chat_answer(),
        "ResponseRequest": response_request(), "Response": response_answer(),
    }  # fmt: skip
    for place, name, asked, told, words in (
        (chat.PATHS[0], "create_chat_completion", "ChatCompletionRequest", "ChatCompletion", "A chat's next message"),
        (chat.PATHS[1], "create_chat_completion_2", "ChatCompletionRequest", "ChatCompletion", "The same"),
        (responses.PATH, "create_response", "ResponseRequest", "Response", "A response, over chat where need be"),
    ):
        result["paths"][place] = {"post": _operation(like, name, asked, told, words)}
    result["paths"] = dict(sorted(result["paths"].items()))
    return result


def _operation(like: Schema, name: str, asked: str, told: str, words: str) -> Schema:
    answers = {status: deepcopy(answer) for status, answer in like["responses"].items() if status != "200"}
    for status, meaning in _MORE.items():
        answers[str(status)] = deepcopy(like["responses"]["400"]) | {"description": meaning}
    answers["429"]["headers"]["Retry-After"] = deepcopy(answers["503"]["headers"]["Retry-After"])
    good = deepcopy(like["responses"]["200"])
    good["content"] = {
        "application/json": {"schema": _ref(told)},
        _STREAM: {"schema": {"type": "string", "description": "With stream: events, as OpenAI sends them"}},
    }
    good["description"] = "The answer; what it cost stands in usage.cost.total_cost and is what was debited"
    for answer in (good, answers["429"]):
        for kind in ("requests", "tokens"):
            for part, shape in (("limit", "integer"), ("remaining", "integer"), ("reset", "string")):
                answer["headers"][f"x-ratelimit-{part}-{kind}"] = {"schema": {"type": shape}}
    key = {
        "in": "header", "name": "Idempotency-Key", "schema": {"type": "string", "maxLength": 255},
        "description": "A call with the same key is made once; a repeat is told so, for answers are not kept",
    }  # fmt: skip
    return {
        "operationId": name,
        "summary": words,
        "description": "Routed, metered and billed. Unknown fields are dropped; the text is neither kept nor logged.",
        "parameters": [*deepcopy(like["parameters"]), key],
        "tags": ["calls"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(asked)}}},
        "security": deepcopy(like["security"]),
        "responses": dict(sorted({"200": good, **answers}.items())),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _one(kind: str, **more: Any) -> Schema:
    """A field that may also be null."""
    return {"type": [kind, "null"], **more}


_NUMBER = "number"


def _sampling() -> Schema:
    return {
        "temperature": _one(_NUMBER, minimum=0, maximum=2),
        "top_p": _one(_NUMBER, minimum=0, maximum=1),
        "stream": _one("boolean"),
        "parallel_tool_calls": _one("boolean"),
        "user": _one("string", description="Opaque; the end user, kept on the usage record"),
    }


def chat_request() -> Schema:
    """The JSON Schema of a chat's request (contract 3)."""
    message = {
        "type": "object",
        "properties": {
            "role": {"type": "string", "enum": list(chat.ROLES)},
            "content": {"type": ["string", "array", "null"], "items": {"type": "object"}},
            "name": _one("string"),
            "tool_call_id": _one("string"),
            "tool_calls": _one("array", items={"type": "object"}),
        },
        "required": ["role"],
    }
    return {
        "type": "object",
        "properties": {
            "model": {"type": "string", "minLength": 1, "maxLength": 128},
            "messages": {"type": "array", "items": message, "minItems": 1, "maxItems": chat.MESSAGES_MAX},
            **_sampling(),
            "stream_options": _one("object", properties={"include_usage": _one("boolean")}),
            "max_tokens": _one("integer", minimum=1, maximum=COUNT_MAX),
            "max_completion_tokens": _one("integer", minimum=1, maximum=COUNT_MAX),
            "stop": {"type": ["string", "array", "null"], "items": {"type": "string"}},
            "seed": _one("integer"),
            "n": _one("integer", minimum=1, maximum=CHOICES_MAX),
            "frequency_penalty": _one(_NUMBER, minimum=-2, maximum=2),
            "presence_penalty": _one(_NUMBER, minimum=-2, maximum=2),
            "logit_bias": _one("object", additionalProperties={"type": _NUMBER, "minimum": -100, "maximum": 100}),
            "logprobs": _one("boolean"),
            "top_logprobs": _one("integer", minimum=0, maximum=chat.TOP_LOGPROBS_MAX),
            "response_format": _one("object", properties={"type": {"type": "string", "enum": list(chat.FORMATS)}}),
            "tools": _one("array", items={"type": "object"}, maxItems=chat.TOOLS_MAX),
            "tool_choice": {"type": ["string", "object", "null"]},
        },
        "required": ["model", "messages"],
    }


def _all(properties: Schema, *, also: Schema | None = None) -> Schema:
    """An object that always has these fields."""
    return {"type": "object", "properties": {**properties, **(also or {})}, "required": sorted(properties)}


_COUNT: Schema = {"type": "integer", "minimum": 0}


def _cost() -> Schema:
    return _all({"total_cost": {"type": _NUMBER, "description": "USD, what was debited"}})


def chat_answer() -> Schema:
    """The JSON Schema of a chat's answer (contract 4)."""
    message = _all(
        {"role": {"const": "assistant"}, "content": _one("string"), "refusal": _one("string")},
        also={
            "reasoning": {"type": "string"},
            "reasoning_details": {"type": "array", "items": {"type": "object"}},
            "tool_calls": {"type": "array", "items": {"type": "object"}},
        },
    )
    choice = {"index": _COUNT, "message": message, "logprobs": _one("object"), "finish_reason": {"type": "string"}}
    usage = {
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _COUNT),
        "prompt_tokens_details": _all(dict.fromkeys(("cached_tokens", "cached_read_tokens", "image_tokens"), _COUNT)),
        "completion_tokens_details": _all(dict.fromkeys(("reasoning_tokens", "image_tokens"), _COUNT)),
        **dict.fromkeys(("prompt_cache_hit_tokens", "prompt_cache_miss_tokens"), _COUNT),
        "cost": _cost(),
    }
    return _all({
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string", "description": "As it was asked for"},
        "choices": {"type": "array", "items": _all(choice)},
        "usage": _all(usage),
        "system_fingerprint": {"type": "string"},
    })  # fmt: skip


def response_request() -> Schema:
    """The JSON Schema of a request for a response (contract 5.1)."""
    return {
        "type": "object",
        "description": "previous_response_id, conversation, prompt and background are refused: nothing is kept here.",
        "properties": {
            "model": {"type": "string", "minLength": 1, "maxLength": 128},
            "input": {"type": ["string", "array"], "items": {"type": "object"}, "minItems": 1},
            "instructions": _one("string"),
            **_sampling(),
            "max_output_tokens": _one("integer", minimum=responses.OUTPUT_TOKENS_MIN, maximum=COUNT_MAX),
            "tools": _one("array", items={"type": "object"}, maxItems=chat.TOOLS_MAX, description="Functions"),
            "tool_choice": {"type": ["string", "object", "null"]},
            "text": _one("object", properties={"format": _one("object")}),
            "reasoning": _one("object"),
            "metadata": _one("object", maxProperties=responses.PAIRS_MAX, additionalProperties={"type": "string"}),
            "store": _one("boolean", description="Answered with false"),
        },
        "required": ["model", "input"],
    }


def response_answer() -> Schema:
    """The JSON Schema of a response (contract 5.2)."""
    usage = {
        **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), _COUNT),
        "input_tokens_details": _all(dict.fromkeys(("cached_tokens", "cache_write_tokens"), _COUNT)),
        "output_tokens_details": _all({"reasoning_tokens": _COUNT}),
        "cost": _cost(),
    }
    return _all({
        "id": {"type": "string"},
        "object": {"const": "response"},
        "created_at": {"type": "integer"},
        "completed_at": _one("integer"),
        "status": {"type": "string", "enum": ["completed", "incomplete", "failed", "in_progress"]},
        "error": _one("object"),
        "incomplete_details": _one("object"),
        "instructions": _one("string"),
        "max_output_tokens": _one("integer"),
        "model": {"type": "string", "description": "As it was asked for"},
        "output": {"type": "array", "items": {"type": "object"}},
        "output_text": {"type": "string"},
        "parallel_tool_calls": {"type": "boolean"},
        "previous_response_id": {"type": "null", "description": "Responses are not kept"},
        "reasoning": {"type": "object"},
        "temperature": _one(_NUMBER),
        "text": {"type": "object"},
        "top_p": _one(_NUMBER),
        "tool_choice": {"type": ["string", "object"]},
        "tools": {"type": "array", "items": {"type": "object"}},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "store": {"const": False},
        "truncation": {"const": "disabled"},
        "usage": _all(usage),
    })  # fmt: skip
