"""LiteLLM's ``StandardLoggingPayload`` as an event of ours (contract 16.5). Pure.

Of a payload only what is named here is read; messages, answers, headers and tags are passed over
while the JSON is decoded and never become values. Its fields are optional and of loose types, and
a batch that is refused is lost, because the proxy forgets it: so what a bill does not need is
dropped where it is odd, and a body that is not strictly JSON is read all the same.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, TypeVar

import msgspec

from core import errors, money, wire
from metering import events
from metering.events import NDJSON, Body, Event, External, Limits, Rejection
from metering.rating import COUNT_MAX
from orgs import keys
from orgs.organizations import is_slug

MEDIA_TYPES = ("application/json", NDJSON)
TEXT_MAX = 128
# The client's own header, as the proxy hands it on.
CLIENT_HEADER = "x-deeptoken-org"
# Ids of whom a call is charged to there, the narrowest first, and what kind of external id each is.
NAMES = (
    ("user_api_key_hash", "key"),
    ("user_api_key_user_id", "user"),
    ("user_api_key_team_id", "team"),
    ("user_api_key_org_id", "organization"),
)
_CLIENT_GONE = 499
_AGAIN_MAX = events.SMALLINT_MAX // 2
_MILLI = Decimal(1000)


@wire.readable
class Metadata(msgspec.Struct):
    """Who called, and what was counted."""

    user_api_key_hash: Any = None
    user_api_key_user_id: Any = None
    user_api_key_team_id: Any = None
    user_api_key_org_id: Any = None
    user_api_key_end_user_id: Any = None
    user_api_key_request_route: Any = None
    requester_custom_headers: Any = None
    usage_object: Any = None


@wire.readable
class Hidden(msgspec.Struct):
    """What the proxy notes beside an answer."""

    usage_object: Any = None
    additional_headers: Any = None


@wire.readable
class Choice(msgspec.Struct):
    """A choice without what it says."""

    finish_reason: Any = None


@wire.readable
class Answer(msgspec.Struct):
    """An answer without what it says."""

    usage: Any = None
    service_tier: Any = None
    choices: list[Choice] = []


@wire.readable
class Failure(msgspec.Struct):
    """What went wrong: its kind, not its text."""

    error_code: Any = None
    error_class: Any = None


@wire.readable
class Payload(msgspec.Struct):
    """As much of a payload as is read; what is a part of its own is decoded apart."""

    litellm_call_id: Any = None
    trace_id: Any = None
    call_type: Any = None
    cache_hit: Any = None
    stream: Any = None
    status: Any = None
    custom_llm_provider: Any = None
    startTime: Any = None
    endTime: Any = None
    completionStartTime: Any = None
    model: Any = None
    model_group: Any = None
    model_id: Any = None
    end_user: Any = None
    prompt_tokens: Any = None
    completion_tokens: Any = None
    response_cost: Any = None
    metadata: msgspec.Raw | None = None
    hidden_params: msgspec.Raw | None = None
    response: msgspec.Raw | None = None
    error_information: msgspec.Raw | None = None


S = TypeVar("S", bound=msgspec.Struct)


def _fraction(text: str) -> Decimal | None:
    """A fraction as its digits say; none for one that is no honest number, and would take a while to work with."""
    value = Decimal(text)
    return value if value.adjusted() in wire.EXPONENTS else None


_raw = msgspec.json.Decoder(msgspec.Raw)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {
    shape: msgspec.json.Decoder(shape, float_hook=_fraction)
    for shape in (Payload, Metadata, Hidden, Answer, Failure, Choice)
}


def decode(raw: bytes, *, media_type: str, limits: Limits, trusted: bool) -> Body:
    """The events of a proxy's report; ``trusted``: what its own clients name was checked there.

    The proxy sends an array, a single object, or a line for each, all as ``application/json``. Raises
    ``InvalidJson``, ``InvalidType``, ``OutOfRange``, ``TooManyEvents`` or ``UnsupportedMediaType`` when
    the body as a whole cannot be read.
    """
    if media_type not in MEDIA_TYPES:
        raise errors.UnsupportedMediaType(f"Payloads come as {', '.join(MEDIA_TYPES)}.")
    found, single = _split(raw, lines=media_type == NDJSON)
    if len(found) > limits.events:
        raise errors.TooManyEvents(f"A request holds at most {limits.events} events; this one has {len(found)}.")
    if not found:
        raise errors.OutOfRange("A request holds at least one event.", param="events")
    items = [
        _read(one, place="" if single else f"events[{place}]", limits=limits, trusted=trusted)
        for place, one in enumerate(found)
    ]
    return Body(items, single=single)


def _split(raw: bytes, *, lines: bool) -> tuple[Sequence[Any], bool]:
    """The payloads of a body, each still to be read, and whether it was one alone. Raises an ``ApiError``."""
    text = raw.strip()
    if lines:
        return [line for line in text.splitlines() if line.strip()], False
    parts = [line for line in text.splitlines() if line.strip()]
    # One object may stand on several lines; an object a line has its end on every line.
    if len(parts) > 1 and all(line.startswith(b"{") and line.rstrip().endswith(b"}") for line in parts):
        return parts, False
    try:
        found = _raws.decode(text) if text.startswith(b"[") else _raw.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _careless(text)
    if isinstance(found, list):
        return found, False
    if not text.startswith(b"{"):
        raise errors.InvalidType("The body is a JSON object, an array of them, or one a line.")
    return [found], True


def _careless(text: bytes) -> Any:
    """What Python makes of JSON, the proxy's own reader and writer: NaN, lone surrogates, doubled names.

    A customer can send those through the proxy, and must not spoil the batch for the others. Raises ``InvalidJson``.
    """
    try:
        return json.loads(text, parse_float=_fraction, parse_int=_integer, parse_constant=lambda _: None)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise errors.InvalidJson("The body is not valid JSON.") from error


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= wire.NUMBER_DIGITS_MAX else None


def _shape(shape: type[S], value: Any) -> S:
    """A part of a payload, whatever it turned out to be; nothing of what does not fit. Raises ``InvalidJson``."""
    if isinstance(value, msgspec.Raw | bytes):
        try:
            found: S = _decoders[shape].decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError):
            value = _careless(bytes(value))
        else:
            return found
    if type(value) is not dict:
        return shape()
    told = {name: value[name] for name in shape.__struct_fields__ if name in value}
    if "choices" in told:
        choices = told["choices"]
        told["choices"] = [_shape(Choice, one) for one in choices] if type(choices) is list else []
    return shape(**told)


def _read(one: Any, *, place: str, limits: Limits, trusted: bool) -> Event | Rejection:
    """The event of one payload, or why there is none."""
    try:
        payload = _shape(Payload, one)
        metadata = _shape(Metadata, payload.metadata)
        fields = _fields(payload, metadata)
    except errors.ApiError as error:
        if error.param or place:
            error.param = ".".join(part for part in (place, error.param) if part)
        return Rejection(None, error)
    event = events.take(fields, place=place, limits=limits)
    if isinstance(event, Event):
        event.external = _external(metadata, trusted=trusted)
    return event


def _fields(payload: Payload, metadata: Metadata) -> dict[str, Any]:
    """The fields of the event. Raises an ``ApiError`` that names what is missing, in our words."""
    hidden = _shape(Hidden, payload.hidden_params)
    answer = _shape(Answer, payload.response)
    failed = payload.status == "failure"
    usage = next((each for each in (metadata.usage_object, hidden.usage_object, answer.usage) if each), None)
    fields: dict[str, Any] = {
        # Whose absence is refused keeps its name there.
        "event_id": payload.litellm_call_id,
        "model": _model(payload),
        "occurred_at": payload.startTime,
        "end_user": _text(payload.end_user) or _text(metadata.user_api_key_end_user_id),
        "routed_model": _text(payload.model),
        "provider": _text(payload.custom_llm_provider),
        "channel": _text(payload.model_id),
        "attempts": _attempts(hidden.additional_headers),
        "endpoint": _text(metadata.user_api_key_request_route),
        "stream": payload.stream is True,
        "request_id": _text(payload.trace_id),
        "latency_ms": _milliseconds(payload.startTime, payload.endTime),
        "ttft_ms": _milliseconds(payload.startTime, payload.completionStartTime) if payload.stream is True else None,
        "service_tier": _text(_of(usage, "service_tier")) or _text(answer.service_tier),
        "provider_cost_usd": _cost(payload.response_cost),
        "status": 200,
        **_counts(usage),
    }
    if payload.litellm_call_id is None:
        raise errors.MissingParameter("litellm_call_id is required.", param="litellm_call_id")
    if payload.startTime is None:
        raise errors.MissingParameter("startTime is required.", param="startTime")
    if failed:
        failure = _shape(Failure, payload.error_information)
        fields |= _failure(failure, used=fields.get("output_tokens") or 0)
    elif payload.cache_hit is True:
        fields |= _from_cache(fields)
    else:
        fields["finish_reason"] = _text(answer.choices[0].finish_reason) if answer.choices else None
        fields |= _uncounted(payload, fields)
    return {name: value for name, value in fields.items() if value is not None}


def _model(payload: Payload) -> Any:
    """The public id: of the group that was asked, else the routed model's without its provider.

    Raises ``OutOfRange`` for what no column can hold.
    """
    model = payload.model_group or payload.model
    if type(model) is not str:
        return model
    if not model.isprintable():
        raise errors.OutOfRange("model must be printable.", param="model")
    return model if payload.model_group else model.removeprefix(f"{payload.custom_llm_provider}/")


def _counts(usage: Any) -> dict[str, Any]:
    """Our counts from the proxy's usage: its prompt holds what was cached and what was written to the cache.

    A chat's names for the totals, or the responses API's.
    """
    read, written = _of(usage, "prompt_tokens_details", "input_tokens_details"), _of(usage, "completion_tokens_details")
    read, written = read or {}, written or _of(usage, "output_tokens_details") or {}
    total = _of(read, "cache_creation_tokens", "cache_write_tokens") or _of(usage, "cache_creation_input_tokens") or 0
    split = _of(read, "cache_creation_token_details")
    hour = _of(split, "ephemeral_1h_input_tokens") or 0
    short = _of(split, "ephemeral_5m_input_tokens") or 0
    if type(total) is int and type(hour) is int and type(short) is int:
        # What the split does not explain was written at the short rate, as all of it where there is no split.
        short = max(short, total - hour)
    searches = _of(read, "web_search_requests") or _of(_of(usage, "server_tool_use"), "web_search_requests")
    return {
        "input_tokens": _of(usage, "prompt_tokens", "input_tokens"),
        "output_tokens": _of(usage, "completion_tokens", "output_tokens"),
        "cached_input_tokens": _of(read, "cached_tokens") or _of(usage, "cache_read_input_tokens") or 0,
        "cache_write_tokens": short,
        "cache_write_1h_tokens": hour,
        "reasoning_tokens": _of(written, "reasoning_tokens") or 0,
        "image_input_tokens": _of(read, "image_tokens") or 0,
        "audio_input_tokens": _of(read, "audio_tokens") or 0,
        "image_output_tokens": _of(written, "image_tokens") or 0,
        "audio_output_tokens": _of(written, "audio_tokens") or 0,
        "units": {"web_search_requests": searches} if searches else None,
    }


def _failure(failure: Failure, *, used: Any) -> dict[str, Any]:
    """A call that failed: its status and the class of its error. Output that there was is billed."""
    code = failure.error_code
    status = int(code) if type(code) in (int, str) and str(code).isdecimal() and len(str(code)) == 3 else 500
    if not 400 <= status <= 599:
        status = 500
    gone = status == _CLIENT_GONE and type(used) is int and used > 0
    kind = _text(failure.error_class)
    return {
        "status": status,
        "outcome": "client_aborted" if gone else "upstream_error",
        "metadata": {"error_class": kind} if kind else None,
        "provider_cost_usd": None,
    }


def _from_cache(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A call that the proxy answered from its own cache: it used nothing, and costs nothing."""
    counted = {name: value for name, value in fields.items() if name.endswith("_tokens") and value}
    return {
        **dict.fromkeys(counted, 0),
        "input_tokens": 0,
        "output_tokens": 0,
        "units": None,
        "provider_cost_usd": Decimal(0),
        "metadata": {"cache_hit": "true", **{name: str(value)[:40] for name, value in counted.items()}},
    }


def _uncounted(payload: Payload, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What stands for a call whose usage nobody counted, such as an image's: a unit named after the kind of call.

    No price knows it, so finance sees the call and it is never billed as nothing. Where a total is
    missing but not both, the proxy's flat counters say it.
    """
    flat = {"input_tokens": payload.prompt_tokens, "output_tokens": payload.completion_tokens}
    known = {name: fields[name] if fields[name] is not None else (flat[name] or None) for name in flat}
    if any(value is not None for value in known.values()):
        return {name: 0 if value is None else value for name, value in known.items()}
    name = _text(payload.call_type) or "call"
    return {"input_tokens": 0, "output_tokens": 0, "units": {name[:64]: 1}}


def _external(metadata: Metadata, *, trusted: bool) -> External:
    """Whom the proxy charges, and whom its client named."""
    told = ((kind, getattr(metadata, name)) for name, kind in NAMES)
    # One that is cut would stand for others too.
    names = [(kind, _text(name)) for kind, name in told if type(name) is str and len(name) <= TEXT_MAX]
    headers = metadata.requester_custom_headers
    client = _of(headers, CLIENT_HEADER)
    slug = client.strip().lower() if type(client) is str else ""
    return External(
        tuple((kind, name) for kind, name in names if name is not None),
        client=slug if is_slug(slug) else None,
        trusted=trusted,
    )


def _of(value: Any, *names: str) -> Any:
    """The first of an object's members that is there; of what is no object there is none."""
    if type(value) is not dict:
        return None
    return next((value[name] for name in names if value.get(name) is not None), None)


def _text(value: Any) -> str | None:
    """A text for a column: cut to its length; none for what is none, or does not belong in the books."""
    if type(value) is not str or not value or not value.isprintable() or keys.mentions(value):
        return None
    return value[:TEXT_MAX]


def _milliseconds(start: Any, end: Any) -> int | None:
    """Whole milliseconds between two instants in seconds."""
    if type(start) not in (int, Decimal) or type(end) not in (int, Decimal):
        return None
    passed = int((Decimal(end) - Decimal(start)) * _MILLI)
    return passed if 0 <= passed <= COUNT_MAX else None


def _attempts(headers: Any) -> int | None:
    """How often somebody upstream was asked: once, and again for every retry and fallback."""
    attempts = 1
    for name in ("x-litellm-attempted-retries", "x-litellm-attempted-fallbacks"):
        again = _of(headers, name)
        if type(again) is not int or not 0 <= again < _AGAIN_MAX:
            return None
        attempts += again
    return attempts


def _cost(value: Any) -> Decimal | None:
    """What the provider charged, from the digits of the JSON text; for the margin only, so an odd one is dropped."""
    if type(value) not in (int, Decimal):
        return None
    amount = Decimal(value)
    if not 0 <= amount < money.USD_MAX:
        return None
    return amount.quantize(Decimal(1).scaleb(-money.DECIMALS), rounding=ROUND_HALF_EVEN)
