"""Events as gateways send them: bytes to typed structs, one verdict for each.

One bad event never fails its batch: what is wrong with it is its own ``Rejection`` with the
field named by index. Only a body that is not JSON at all, or too many events, fails as a whole
(contract 16, decisions 14).
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import msgspec

from core import errors, money, wire
from metering import rating, tokens
from metering.rating import COUNT_MAX, Counts
from orgs import keys

FINGERPRINT_VERSION = b"\x01"
NDJSON = "application/x-ndjson"
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"
MEDIA_TYPES = ("application/json", NDJSON, CLOUDEVENT, CLOUDEVENTS)
PAIRS_MAX = 16
SMALLINT_MAX = 32_767
# The counts that must be reported, or estimated from a text.
WHOLES = ("input_tokens", "output_tokens")
# Fields of ``Event`` that no gateway sets.
INTERNAL = frozenset({"estimated", "external"})

EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"\A[!-~]+\Z")]
Short = Annotated[str, msgspec.Meta(max_length=128)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Small = Annotated[int, msgspec.Meta(ge=0, le=SMALLINT_MAX)]
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Value = Annotated[str, msgspec.Meta(max_length=512)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_pack = msgspec.msgpack.Encoder().encode
_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_PLACE = re.compile(r" - at (?:`key` in )?`\$(.*)`$")
_AT_MOST = re.compile(r"Expected `int` <= ([0-9]+)")
_MISSING = re.compile(r"required field `(\w+)`")
_EMPTY_LINES = re.compile(rb"\s*\n")
_KEYS_BEGIN = keys.PREFIX.encode()
_PICO = Decimal(1).scaleb(-money.DECIMALS)


@wire.readable
class External(msgspec.Struct, frozen=True):
    """Whom a proxy's report names in its own terms; ``metering.attribution`` finds who that is here.

    ``names`` are (kind, id) pairs of ``orgs.externals``, the first that is known counts. ``client`` is the
    organization that the proxy's own client named: it counts for its members, or where it is ``trusted``.
    """

    names: tuple[tuple[str, str], ...]
    client: str | None = None
    trusted: bool = False


@wire.readable
class Event(Counts, kw_only=True):
    """One finished request (contract 16.2).

    Ours and never the gateway's are ``estimated``: which of the two wholes were counted here, each with
    the digest of the text that it was counted from; and ``external``.
    """

    event_id: EventId
    model: Name
    occurred_at: datetime
    organization: Short | None = None
    api_key_id: Short | None = None
    end_user: Short | None = None
    source: Literal["api_key", "product_call", "dev_tools"] = "api_key"
    routed_model: Short | None = None
    provider: Short | None = None
    channel: Short | None = None
    attempts: Small | None = None
    endpoint: Short | None = None
    stream: bool | None = None
    status: Status | None = None
    finish_reason: Short | None = None
    outcome: Literal["completed", "client_aborted", "upstream_error"] = "completed"
    ttft_ms: Milliseconds | None = None
    latency_ms: Milliseconds | None = None
    request_id: Short | None = None
    service_tier: Short | None = None
    provider_cost_usd: Decimal | None = None
    authorization_id: Short | None = None
    metadata: dict[Label, Value] | None = None
    estimated: dict[str, str] | None = None
    external: External | None = None

    @property
    def usage_source(self) -> str:
        """Who counted: the ``provider``, ``estimated`` here, or ``mixed``."""
        if not self.estimated:
            return "provider"
        return "estimated" if len(self.estimated) == len(WHOLES) else "mixed"

    @property
    def billed(self) -> bool:
        """Whether the request counts as usage; otherwise it is a failure kept at zero cost.

        A 4xx is never billed and a 5xx only with output (decisions 15); a client that hung up
        got what it got, whatever status its gateway wrote down.
        """
        if self.outcome == "client_aborted":
            return True
        status = self.status or 200
        if 400 <= status < 500:
            return False
        failed = status >= 500 or self.outcome == "upstream_error"
        return not failed or self.output_tokens > 0


class Uncounted(NamedTuple):
    """An event and the texts from which its absent counts are to be worked out (``metering.counting``).

    Until then an absent whole is the least that its reported parts allow.
    """

    event: Event
    input: tokens.Text | None
    output: tokens.Text | None


class Rejection(NamedTuple):
    """Why an event was refused; ``error.param`` names the field by index."""

    event_id: str | None
    error: errors.ApiError


class Body(NamedTuple):
    """A decoded request: its events in order, each good or refused, and whether it was one bare event."""

    items: Sequence[Event | Uncounted | Rejection]
    single: bool


class Limits(NamedTuple):
    """What a request may hold, and the acceptance window around ``now``."""

    events: int
    now: datetime
    age: timedelta
    ahead: timedelta

    @property
    def first(self) -> datetime:
        """The earliest instant that an event may carry."""
        return self.now - self.age

    @property
    def last(self) -> datetime:
        """The latest one."""
        return self.now + self.ahead


def decode(raw: bytes, *, media_type: str, limits: Limits) -> Body:
    """Events of a request body.

    Raises ``InvalidJson``, ``InvalidType``, ``TooManyEvents`` or ``UnsupportedMediaType`` when
    the body as a whole cannot be read.
    """
    if media_type == NDJSON:
        lines = Lines()
        lines.feed(raw, limits=limits)
        return lines.finish(limits=limits)
    if media_type not in MEDIA_TYPES:
        raise errors.UnsupportedMediaType(f"Events come as {', '.join(MEDIA_TYPES)}.")
    try:
        value = wire.decode(raw)
    except wire.Malformed as error:
        raise errors.InvalidJson(f"The body is not valid JSON: {error}.") from error
    single = False
    if media_type == CLOUDEVENTS or (media_type == "application/json" and type(value) is list):
        found, place = value, "events[{}]"
    elif media_type == "application/json" and type(value) is dict and "events" in value:
        found, place = value["events"], "events[{}]"
    else:
        found, place, single = [value], "", True
    if type(found) is not list:
        raise errors.InvalidType("events must be an array.", param="events" if place.startswith("e") else None)
    if single and type(value) is not dict:
        raise errors.InvalidType('The body must be an event object, an array or {"events": [...]}.')
    _bound(len(found), limits)
    cloud = media_type in (CLOUDEVENT, CLOUDEVENTS)
    suspect = _is_suspect(raw)
    plain = None if cloud or suspect else _read_all(found, limits)
    if plain is not None:
        return Body(plain, single=single)
    return Body(
        [
            _read(item, place=place.format(index), limits=limits, cloud=cloud, suspect=suspect)
            for index, item in enumerate(found)
        ],
        single=single,
    )


def take(value: dict[str, Any], *, place: str, limits: Limits) -> Event | Rejection:
    """One event whose counts are all reported, from its fields, or why not; ``place`` names it in a refusal."""
    item = _read(value, place=place, limits=limits, cloud=False, suspect=True)
    assert not isinstance(item, Uncounted), "no text is given here"
    return item


class Lines:
    """The events of an NDJSON body as its bytes come in, cut anywhere; of the bytes only an open line is kept."""

    def __init__(self) -> None:
        self._items: list[Event | Uncounted | Rejection] = []
        self._open = bytearray()

    def feed(self, raw: bytes, *, limits: Limits) -> None:
        """Take the next bytes. ``limits`` hold for the lines that end here, whose bodies may take minutes to come.

        Raises ``TooManyEvents`` as soon as a line too many begins.
        """
        at = 0
        while at < len(raw):
            # Millions of empty lines fit into a body.
            empty = None if self._open else _EMPTY_LINES.match(raw, at)
            if empty:
                at = empty.end()
                continue
            end = raw.find(b"\n", at)
            piece = raw[at : len(raw) if end < 0 else end]
            if len(self._items) >= limits.events and piece.strip():
                raise _too_many(limits, "more")
            self._open += piece
            if end < 0:
                return
            self._end(limits)
            at = end + 1

    def finish(self, *, limits: Limits) -> Body:
        """The body ends here, and so does its last line. Raises ``OutOfRange`` if there were none."""
        self._end(limits)
        _bound(len(self._items), limits)
        return Body(self._items, single=False)

    def _end(self, limits: Limits) -> None:
        line, self._open = bytes(self._open), bytearray()
        if line.strip():
            self._items.append(_line(line, index=len(self._items), limits=limits))


def _too_many(limits: Limits, count: int | str) -> errors.TooManyEvents:
    return errors.TooManyEvents(f"A request holds at most {limits.events} events; this one has {count}.")


def _bound(count: int, limits: Limits) -> None:
    if count > limits.events:
        raise _too_many(limits, count)
    if count == 0:
        raise errors.OutOfRange("A request holds at least one event.", param="events")


def _line(line: bytes, *, index: int, limits: Limits) -> Event | Uncounted | Rejection:
    place = f"events[{index}]"
    try:
        value = wire.decode(line)
    except wire.Malformed as error:
        return Rejection(None, errors.InvalidJson(f"{place} is not valid JSON: {error}.", param=place))
    return _read(value, place=place, limits=limits, cloud=False, suspect=_is_suspect(line))


def _read_all(found: list[Any], limits: Limits) -> list[Event] | None:
    """What ``_read`` makes of each where none is refused and all are counted, as nearly always; else None.

    At once, which takes half the time. Instants and costs in ``found`` may have been read afterwards.
    """
    instants: dict[int, datetime] = {}
    first, last = limits.first, limits.last
    try:
        for value in found:
            at = value["occurred_at"]
            instant = instants.get(at) if type(at) is int else None
            if instant is None:
                instant = _instant(at)
                if not first <= instant <= last:
                    return None
                if type(at) is int:
                    instants[at] = instant
            value["occurred_at"] = instant
            if "input_tokens" not in value or "output_tokens" not in value or not INTERNAL.isdisjoint(value):
                return None
            if value.get("provider_cost_usd") is not None:
                value["provider_cost_usd"] = _provider_cost(value["provider_cost_usd"])
        events = msgspec.convert(found, list[Event])
        for event in events:
            _check_counts(event)
    except (LookupError, TypeError, msgspec.ValidationError, errors.ApiError):
        return None
    return events


def _read(value: Any, *, place: str, limits: Limits, cloud: bool, suspect: bool) -> Event | Uncounted | Rejection:
    """One event, or why not."""
    if type(value) is not dict:
        return Rejection(None, errors.InvalidType(f"{place or 'The event'} must be an object.", param=place or None))
    try:
        if cloud:
            value = _from_cloudevent(value)
        event = _convert(value)
        absent = _absent(value)
        item = _uncounted(event, value, absent) if absent else event
        _check(event, limits)
        if suspect:
            _refuse_texts({name: value[name] for name in _REPORTED if name in value}, "")
    except errors.ApiError as error:
        shown = value.get("event_id")
        if error.param:
            error.param = f"{place}.{error.param}" if place else error.param
        return Rejection(shown if type(shown) is str and len(shown) <= 128 else None, error)
    return item


_REPORTED = tuple(name for name in Event.__struct_fields__ if name not in INTERNAL)


def _convert(value: dict[str, Any]) -> Event:
    """Types and ranges of one event. Raises an ``ApiError`` that names the field."""
    fields = (
        {name: field for name, field in value.items() if field is not None} if None in value.values() else value.copy()
    )
    at = fields.get("occurred_at")
    if at is None:
        raise errors.MissingParameter("occurred_at is required.", param="occurred_at")
    fields["occurred_at"] = _instant(at)
    cost = fields.get("provider_cost_usd")
    if cost is not None:
        fields["provider_cost_usd"] = _provider_cost(cost)
    if not INTERNAL.isdisjoint(fields):
        for name in INTERNAL:
            fields.pop(name, None)
    try:
        return msgspec.convert(fields, Event)
    except msgspec.ValidationError as error:
        raise explain_error(str(error)) from error


def _absent(value: dict[str, Any]) -> list[str]:
    """The wholes that were not reported. A reported 0 is a count like any other."""
    return [name for name in WHOLES if value.get(name) is None]


def _uncounted(event: Event, value: dict[str, Any], absent: Collection[str]) -> Event | Uncounted:
    """An event with the texts for its absent counts; a failure that is not billed needs none.

    Raises ``MissingParameter`` when there is no text, else as ``tokens.prompt``.
    """
    prompt = output = None
    if "output_tokens" in absent and value.get("output_text") is not None:
        output = tokens.passage(value["output_text"], param="output_text")
    # A failure with output is billed, and any text is at least one token.
    if not (event.billed or (output and msgspec.structs.replace(event, output_tokens=1).billed)):
        return event
    if "input_tokens" in absent:
        prompt = tokens.prompt(messages=value.get("messages"), text=value.get("input_text"))
        event.input_tokens = least_input(event)
    if "output_tokens" in absent:
        if output is None:
            raise errors.MissingParameter("output_tokens is required, or output_text.", param="output_tokens")
        event.output_tokens = least_output(event)
    return Uncounted(event, prompt, output)


def least_input(counts: Counts) -> int:
    """The fewest input tokens that the reported parts allow. Raises ``OutOfRange``."""
    return _least(
        counts.cached_input_tokens, counts.cache_write_tokens, counts.cache_write_1h_tokens,
        counts.image_input_tokens - counts.cached_image_tokens, counts.audio_input_tokens - counts.cached_audio_tokens,
        whole="input_tokens",
    )  # fmt: skip


def least_output(counts: Counts) -> int:
    """The fewest output tokens that the reported parts allow. Raises ``OutOfRange``."""
    return _least(
        counts.reasoning_tokens, counts.image_output_tokens, counts.audio_output_tokens, whole="output_tokens"
    )


def _least(*parts: int, whole: str) -> int:
    """The least whole of these parts. Raises ``OutOfRange``."""
    if sum(parts) > COUNT_MAX:
        raise errors.OutOfRange(f"The parts of {whole} add up to more than {COUNT_MAX}.", param=whole)
    return sum(parts)


def _check(event: Event, limits: Limits) -> None:
    """What types cannot say. Raises an ``ApiError`` that names the field."""
    if event.occurred_at < limits.first:
        raise errors.OutOfRange(f"occurred_at lies more than {limits.age.days} days back.", param="occurred_at")
    if event.occurred_at > limits.last:
        raise errors.OutOfRange(
            f"occurred_at lies more than {int(limits.ahead.total_seconds())} seconds ahead.", param="occurred_at"
        )
    _check_counts(event)


def _check_counts(event: Event) -> None:
    """Parts lie within their wholes, and maps are small. Raises an ``ApiError`` that names the field."""
    if event.units and len(event.units) > PAIRS_MAX:
        raise errors.OutOfRange(f"units holds at most {PAIRS_MAX} names.", param="units")
    if event.metadata and len(event.metadata) > PAIRS_MAX:
        raise errors.OutOfRange(f"metadata holds at most {PAIRS_MAX} pairs.", param="metadata")
    try:
        rating.split(event, reasoning_apart=True)
    except rating.Inconsistent as error:
        raise errors.InconsistentUsage(f"{error}.", param=error.param) from error


def _instant(value: Any) -> datetime:
    """An aware instant in UTC from Unix seconds or RFC 3339; one that was read before. Raises an ``ApiError``."""
    try:
        if type(value) is datetime:
            return value
        if type(value) is int:
            return _second(value)
        if type(value) is Decimal:
            micros = (value * 1_000_000).to_integral_value(rounding=ROUND_HALF_EVEN)
            return _EPOCH + timedelta(microseconds=int(micros))
        if type(value) is str and _RFC3339.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (OverflowError, ArithmeticError) as error:
        raise errors.OutOfRange("occurred_at is out of range.", param="occurred_at") from error
    except ValueError as error:
        raise _no_instant() from error
    raise _no_instant()


@lru_cache(maxsize=4096)
def _second(value: int) -> datetime:
    """The instant of Unix seconds; a batch has few of them."""
    return _EPOCH + timedelta(seconds=value)


@lru_cache(maxsize=4096)
def _microseconds(at: datetime) -> int:
    """Unix microseconds of an instant; a batch has few of them."""
    return (at - _EPOCH) // _MICROSECOND


def _no_instant() -> errors.InvalidType:
    return errors.InvalidType(
        "occurred_at must be Unix seconds or an RFC 3339 time with its zone.", param="occurred_at"
    )


def _provider_cost(value: Any) -> Decimal:
    """What the provider charged, to the pico-dollar; finer parts come from floats upstream and are rounded away."""
    if type(value) in (int, Decimal) or (type(value) is str and _DECIMAL.fullmatch(value)):
        amount = Decimal(value)
        if 0 <= amount < money.USD_MAX:
            return amount.quantize(_PICO, rounding=ROUND_HALF_EVEN)
        raise errors.OutOfRange("provider_cost_usd is out of range.", param="provider_cost_usd")
    raise errors.InvalidType("provider_cost_usd must be a decimal number or string.", param="provider_cost_usd")


def _from_cloudevent(value: dict[str, Any]) -> dict[str, Any]:
    """The event inside a CloudEvents 1.0 envelope. Raises an ``ApiError`` that names the attribute."""
    if value.get("specversion") != "1.0":
        raise errors.OutOfRange("specversion must be 1.0.", param="specversion")
    for name in ("id", "source"):
        if type(value.get(name)) is not str or not value[name]:
            raise errors.MissingParameter(f"{name} must be a non-empty string.", param=name)
    data = value.get("data")
    if type(data) is not dict:
        raise errors.InvalidType("data must be an object.", param="data")
    # Unique is (source, id) together; the hash keeps it within an event id's 128 characters.
    digest = hashlib.sha256(f"{value['source']}\n{value['id']}".encode()).hexdigest()
    event = {**data, "event_id": f"ce_{digest}"}
    if value.get("time") is not None:
        event["occurred_at"] = value["time"]
    if value.get("subject") is not None:
        event["organization"] = value["subject"]
    return event


def _is_suspect(raw: bytes) -> bool:
    """Whether a text in there may be one that ``_refuse_texts`` refuses; most bodies hold none."""
    # A NUL can only come in through its escape; a single byte is found ten times as fast.
    return (b"\\" in raw and b"\\u0000" in raw) or _KEYS_BEGIN in raw


def _refuse_texts(value: Any, path: str) -> None:
    """PostgreSQL's text holds no NUL, and the books hold no key. Raises ``OutOfRange`` that names the field."""
    if type(value) is str:
        if "\x00" in value:
            raise errors.OutOfRange(f"{path} contains a NUL character.", param=path)
        if keys.mentions(value):
            raise errors.OutOfRange(f"{path} holds an API key, which belongs nowhere; a key has an id.", param=path)
    elif type(value) is dict:
        for name, inner in value.items():
            _refuse_texts(name, path or "event")
            _refuse_texts(inner, f"{path}.{name}" if path else name)
    elif type(value) is list:
        for inner in value:
            _refuse_texts(inner, path)


def _phrase(hint: Any) -> str:
    """What a field must be, in words, from its type."""
    text = str(hint)
    phrases = {
        str(rating.Count): "an integer of at least 0",
        str(Milliseconds): "an integer of at least 0",
        str(Small): "an integer of at least 0",
        str(Status): "an HTTP status from 100 to 599",
        str(EventId): "a string of 1 to 128 visible ASCII characters",
        str(Name): "a string of 1 to 128 characters",
        str(Short): "a string of at most 128 characters",
    }
    for shape, words in phrases.items():
        if text == shape or text.startswith(f"typing.Optional[{shape}"):
            return words
    if "Literal" in text:
        options = next(part for part in (hint, *getattr(hint, "__args__", ())) if "Literal" in str(part))
        return f"one of {', '.join(options.__args__)}"
    if "dict" in text:
        return "an object of counts" if "int" in text else "an object of short strings"
    if "bool" in text:
        return "true or false"
    return "a string"


def phrases(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What each field of a struct must be, in words."""
    return {name: _phrase(hint) for name, hint in get_type_hints(struct, include_extras=True).items()}


_MUST_BE = phrases(Event)


def explain_error(message: str, *, must_be: Mapping[str, str] = _MUST_BE) -> errors.ApiError:
    """A ``msgspec`` message as an error of ours: the field, what it must be, type or range."""
    missing = _MISSING.search(message)
    if missing:
        return errors.MissingParameter(f"{missing[1]} is required.", param=missing[1])
    place = _PLACE.search(message)
    path = place[1].lstrip(".") if place else ""
    field = re.split(r"[.\[]", path)[0]
    wrong_type = message.startswith("Expected") and ", got" in message
    family = errors.InvalidType if wrong_type else errors.OutOfRange
    most = _AT_MOST.search(message)
    if most:
        return family(f"{field} must be at most {most[1]}.", param=field or None)
    return family(f"{field} must be {must_be.get(field, 'valid')}.", param=field or None)


def fingerprint(event: Event, *, organization: bytes, key: bytes | None) -> bytes:
    """What makes two events the same story: SHA-256 over the billing fields (decisions 13).

    For a count that was estimated, the text's digest. Not in it: metadata, latency and routing,
    which a gateway may learn later.
    """
    input_told: int | str = event.input_tokens
    output_told: int | str = event.output_tokens
    if event.estimated:
        # An estimate may come out differently tomorrow; the text that it stands for does not.
        input_told = event.estimated.get("input_tokens", input_told)
        output_told = event.estimated.get("output_tokens", output_told)
    units = sorted(event.units.items()) if event.units else []
    told = (
        organization, key, event.model, _microseconds(event.occurred_at),
        input_told, event.cached_input_tokens, event.cache_write_tokens, event.cache_write_1h_tokens,
        output_told, event.reasoning_tokens, event.image_input_tokens, event.audio_input_tokens,
        event.cached_image_tokens, event.cached_audio_tokens, event.image_output_tokens, event.audio_output_tokens,
        units, rating.ordinary(event.service_tier), event.batch, event.outcome, event.billed,
    )  # fmt: skip
    return hashlib.sha256(FINGERPRINT_VERSION + _pack(told)).digest()
