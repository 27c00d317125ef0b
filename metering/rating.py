"""Rating: token pools × rates. Pure arithmetic, exact, no rounding.

A rate has at most 6 decimals per 1,000,000 tokens, so per token it is a whole number of
pico-dollars: ``0.27`` USD per 1M is 270,000 pico-dollars a token. A cost is then a sum of
products of integers.

The pools are exclusive and add up to the reported totals (contract 16.2, decisions 5):

* input = uncached text + cached text + cache writes (short, one-hour) + image + audio,
  where cached image and audio are their own pools and part of both the cached and the modality's count;
* output = text + image + audio, and reasoning where a card prices it apart.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from core import money, wire

COUNT_MAX = 2_147_483_647
RATE_DECIMALS = 6
AMOUNTS_KEPT = 4096
# What vendors call their ordinary tier: billed by the card's entry without a tier.
ORDINARY_TIERS = frozenset({"", "default", "standard", "auto", "on_demand"})

Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]


class Inconsistent(ValueError):
    """Parts exceed their whole; ``param`` is the count to blame."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Unpriced(Exception):
    """The card has no rate for something the request used. Free is a rate of 0; this is not free.

    ``param`` is the field that says it was used.
    """

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@wire.readable
class Counts(msgspec.Struct, kw_only=True):
    """What a request used, as billing reads it. Parts are part of ``input_tokens`` or ``output_tokens``."""

    input_tokens: Count = 0
    cached_input_tokens: Count = 0
    cache_write_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    output_tokens: Count = 0
    reasoning_tokens: Count = 0
    image_input_tokens: Count = 0
    audio_input_tokens: Count = 0
    cached_image_tokens: Count = 0
    cached_audio_tokens: Count = 0
    image_output_tokens: Count = 0
    audio_output_tokens: Count = 0
    units: dict[str, Count] = {}
    service_tier: str | None = None
    batch: bool = False


class Pools(NamedTuple):
    """Exclusive token counts, in the order of ``Rates``."""

    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    image_input: int
    audio_input: int
    cached_image_input: int
    cached_audio_input: int
    output: int
    reasoning: int
    image_output: int
    audio_output: int


# The field of ``Counts`` that each pool is cut from.
_COUNTED_AS = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "image_input_tokens",
    "audio_input_tokens", "cached_image_tokens", "cached_audio_tokens", "output_tokens", "reasoning_tokens",
    "image_output_tokens", "audio_output_tokens",
)  # fmt: skip


class Rates(NamedTuple):
    """Pico-dollars a token for each pool; ``None`` where the card prices no such use."""

    input: int | None
    cached_input: int | None
    cache_write: int | None
    cache_write_1h: int | None
    image_input: int | None
    audio_input: int | None
    cached_image_input: int | None
    cached_audio_input: int | None
    output: int | None
    reasoning: int | None
    image_output: int | None
    audio_output: int | None


@wire.readable
class Window(msgspec.Struct, frozen=True):
    """A stretch of the day on some weekdays of a zone: start inclusive, end exclusive, may cross midnight.

    A window that crosses midnight belongs to the weekday on which it starts.
    """

    zone: str
    days: tuple[int, ...]
    start: time
    end: time

    def holds(self, at: datetime) -> bool:
        """Whether the aware instant lies in the window."""
        local = at.astimezone(ZoneInfo(self.zone))
        clock, day = local.time(), local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= clock < self.end
        if clock >= self.start:
            return day in self.days
        return clock < self.end and (day - 1) % 7 in self.days


class Terms(msgspec.Struct, frozen=True):
    """Complete rates and the conditions under which they hold."""

    rates: Rates
    reasoning_apart: bool
    service_tier: str | None
    batch: bool
    above_input_tokens: int
    windows: tuple[Window, ...]


class RateCard(msgspec.Struct, frozen=True):
    """One published price version: terms, the most specific first, and fees by use."""

    terms: tuple[Terms, ...]
    units: Mapping[str, int]
    request: int


class Bounds(NamedTuple):
    """The most that a request may use before anybody knows what it uses. Output is of all choices together.

    ``None`` for a part: as much of the whole as there is may be that.
    """

    input_tokens: int
    output_tokens: int
    image_input_tokens: int | None = None
    audio_input_tokens: int | None = None
    image_output_tokens: int | None = None
    audio_output_tokens: int | None = None
    units: Mapping[str, int] = {}
    service_tier: str | None = None
    batch: bool = False


class Rated(msgspec.Struct, frozen=True, gc=False):
    """A cost and the entry of the card that gave it."""

    cost_pico: int
    terms: Terms


_Split = tuple[int, int, int, int, int, int, int, int, int, int, int, int]


def pools(counts: Counts, *, reasoning_apart: bool = False) -> Pools:
    """Split the reported counts into exclusive pools. Raises ``Inconsistent``."""
    return Pools(*split(counts, reasoning_apart=reasoning_apart))


def split(counts: Counts, *, reasoning_apart: bool) -> _Split:
    """``pools`` without their names, which take as long to put on as all the rest. Raises ``Inconsistent``."""
    cached_image, cached_audio = counts.cached_image_tokens, counts.cached_audio_tokens
    cached_text = counts.cached_input_tokens - cached_image - cached_audio
    if cached_text < 0:
        raise Inconsistent("cached_input_tokens", "Cached image and audio tokens exceed cached_input_tokens")
    image = counts.image_input_tokens - cached_image
    if image < 0:
        raise Inconsistent("cached_image_tokens", "cached_image_tokens exceed image_input_tokens")
    audio = counts.audio_input_tokens - cached_audio
    if audio < 0:
        raise Inconsistent("cached_audio_tokens", "cached_audio_tokens exceed audio_input_tokens")
    short, hour = counts.cache_write_tokens, counts.cache_write_1h_tokens
    uncached = counts.input_tokens - counts.cached_input_tokens - short - hour - image - audio
    if uncached < 0:
        raise Inconsistent("input_tokens", "The parts of the input exceed input_tokens")
    image_output, audio_output, reasoning = (
        counts.image_output_tokens, counts.audio_output_tokens, counts.reasoning_tokens,
    )  # fmt: skip
    text = counts.output_tokens - image_output - audio_output
    if text < 0:
        raise Inconsistent("output_tokens", "Image and audio output exceed output_tokens")
    if reasoning > text:
        raise Inconsistent("reasoning_tokens", "reasoning_tokens exceed the text part of output_tokens")
    if not reasoning_apart:
        reasoning = 0
    return (
        uncached, cached_text, short, hour, image, audio, cached_image, cached_audio,
        text - reasoning, reasoning, image_output, audio_output,
    )  # fmt: skip


def choose(card: RateCard, counts: Counts, at: datetime) -> Terms:
    """The entry for the served tier, batch, total input and instant. Raises ``Unpriced``.

    Tier and batch must match exactly; a long-context threshold is exceeded, not reached, and
    counts the whole input with cache.
    """
    tier = ordinary(counts.service_tier)
    for terms in card.terms:
        if (
            terms.service_tier == tier
            and terms.batch == counts.batch
            and (not terms.above_input_tokens or counts.input_tokens > terms.above_input_tokens)
            and (not terms.windows or any(window.holds(at) for window in terms.windows))
        ):
            return terms
    param = "batch" if tier is None else "service_tier"
    raise Unpriced(param, f"no rates for service tier {tier or 'default'}{', batch' if counts.batch else ''}")


def ordinary(tier: str | None) -> str | None:
    """The tier as cards name it: ``None`` for every spelling of the ordinary one."""
    return None if tier is None or tier in ORDINARY_TIERS else tier


def is_base(terms: Terms) -> bool:
    """Whether an entry holds without conditions: the ordinary rates."""
    return terms.service_tier is None and not (terms.batch or terms.above_input_tokens or terms.windows)


def _no_rate(used_tokens: _Split, rates: Rates) -> Unpriced:
    """The refusal for the first pool that was used and has no rate."""
    used = zip(used_tokens, rates, _COUNTED_AS, Pools._fields, strict=True)
    field, pool = next((field, pool) for tokens, price, field, pool in used if tokens and price is None)
    return Unpriced(field, f"no rate for {pool} tokens")


def rate(card: RateCard, counts: Counts, at: datetime) -> Rated:
    """The exact cost of a request that was accepted at ``at``.

    Raises ``Inconsistent`` if the counts contradict each other, ``Unpriced`` if something used
    has no rate.
    """
    terms = choose(card, counts, at)
    used = split(counts, reasoning_apart=terms.reasoning_apart)
    cost = card.request
    # Both have one entry a pool by their types; to have that looked at takes time, a thousand times a batch.
    for tokens, price in zip(used, terms.rates):  # noqa: B905
        if tokens:
            if price is None:
                raise _no_rate(used, terms.rates)
            cost += tokens * price
    for name, uses in counts.units.items() if counts.units else ():
        if uses:
            if name not in card.units:
                raise Unpriced("units", f"no rate for {name}")
            cost += uses * card.units[name]
    return Rated(cost, terms)


def worst_case(card: RateCard, bounds: Bounds, at: datetime) -> int:
    """The most, in pico-dollars, that a request within ``bounds`` can come to by ``rate`` if accepted at ``at``.

    Every input token at the dearest rate that it may be billed at, cache writes for an hour included,
    and every output token likewise. A card may be cheaper above a threshold than just below it, so each
    stretch that the input can end in is tried at its top. Raises ``Unpriced`` for what the bounds let in
    and the card has no rate for.
    """
    tops = {entry.above_input_tokens for entry in card.terms if entry.above_input_tokens < bounds.input_tokens}
    asked = {"service_tier": bounds.service_tier, "batch": bounds.batch}
    dearest = 0
    for tokens in {*tops, bounds.input_tokens}:
        rates = choose(card, Counts(input_tokens=tokens, **asked), at).rates  # type: ignore[arg-type]
        dearest = max(dearest, _most_of_input(rates, bounds, tokens) + _most_of_output(rates, bounds))
    for name, uses in bounds.units.items():
        if uses:
            if name not in card.units:
                raise Unpriced("units", f"no rate for {name}")
            dearest += uses * card.units[name]
    return dearest + card.request


def prices_output(card: RateCard) -> bool:
    """Whether any entry has a rate for output; an embedding has none."""
    return any(
        rate is not None
        for entry in card.terms
        for rate in (entry.rates.output, entry.rates.reasoning, entry.rates.image_output, entry.rates.audio_output)
    )


def _most_of_input(rates: Rates, bounds: Bounds, tokens: int) -> int:
    """The most that so many input tokens can cost."""
    return _most(
        tokens,
        ("input_tokens", _dearest(rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h)),
        ("image_input_tokens", _dearest(rates.image_input, rates.cached_image_input), bounds.image_input_tokens),
        ("audio_input_tokens", _dearest(rates.audio_input, rates.cached_audio_input), bounds.audio_input_tokens),
    )


def _most_of_output(rates: Rates, bounds: Bounds) -> int:
    """The most that the output can cost."""
    return _most(
        bounds.output_tokens,
        ("output_tokens", _dearest(rates.output, rates.reasoning)),
        ("image_output_tokens", rates.image_output, bounds.image_output_tokens),
        ("audio_output_tokens", rates.audio_output, bounds.audio_output_tokens),
    )


def _dearest(*rates: int | None) -> int | None:
    return max((rate for rate in rates if rate is not None), default=None)


def _most(tokens: int, text: tuple[str, int | None], *parts: tuple[str, int | None, int | None]) -> int:
    """The most that tokens can cost if of each part (name, rate, how many; None: any) so many may be, the rest text.

    What has no rate and may be any number is taken not to occur. Raises ``Unpriced``.
    """
    for name, rate, most in parts:
        if rate is None and most and tokens:
            raise Unpriced(name, f"no rate for {name}")
    whole, plain = text
    cost, left = 0, tokens
    priced = [(rate, tokens if most is None else most) for _, rate, most in parts if rate is not None]
    for rate, most in sorted(priced, reverse=True):
        if plain is None or rate > plain:
            taken = min(most, left)
            cost += taken * rate
            left -= taken
    if left and plain is None:
        raise Unpriced(whole, f"no rate for {whole}")
    return cost + left * (plain or 0)


def scaled(card: RateCard, factor_millionths: int) -> RateCard:
    """Every rate times a factor, rounded half-even once: token rates to 6 decimals per 1M, fees to the pico-dollar.

    Both are whole pico-dollars, a token or a use. What the base prices not, the result prices not.
    """

    def times(rate: int) -> int:
        whole, rest = divmod(rate * factor_millionths, 1_000_000)
        return whole + (rest > 500_000 or (rest == 500_000 and whole % 2 == 1))

    terms = tuple(
        msgspec.structs.replace(entry, rates=Rates(*(None if rate is None else times(rate) for rate in entry.rates)))
        for entry in card.terms
    )
    return RateCard(terms, {name: times(fee) for name, fee in card.units.items()}, times(card.request))


def read_card(document: Mapping[str, Any]) -> RateCard:
    """A rate card from its published document. Raises ``ValueError`` that says what is wrong where."""
    if not isinstance(document, Mapping):
        raise ValueError("a rate card is an object")
    entries = _part(document, "terms", list, [])
    if not entries:
        raise ValueError("terms: at least one entry is needed")
    terms = [_read_terms(entry, place=f"terms[{index}]") for index, entry in enumerate(entries)]
    if len({(t.service_tier, t.batch, t.above_input_tokens, t.windows) for t in terms}) != len(terms):
        raise ValueError("terms: two entries hold under the same conditions")
    if not any(map(is_base, terms)):
        raise ValueError("terms: one entry without conditions is needed")
    terms.sort(key=lambda t: (t.above_input_tokens, bool(t.windows)), reverse=True)
    units = {
        name: _usd(value, place=f"units.{name}", decimals=money.DECIMALS)
        for name, value in _part(document, "units", Mapping, {}).items()
    }
    request = _usd(document.get("request", "0"), place="request", decimals=money.DECIMALS)
    unknown = set(document) - {"terms", "units", "request"}
    if unknown:
        raise ValueError(f"unknown parts: {', '.join(sorted(map(str, unknown)))}")
    return RateCard(terms=tuple(terms), units=units, request=request)


def check_card(document: Mapping[str, Any]) -> RateCard:
    """A card that may be published: readable, and no two of its entries hold at one instant. Raises ``ValueError``."""
    card = read_card(document)
    for window in (window for terms in card.terms for window in terms.windows):
        if any(at.second or at.microsecond for at in (window.start, window.end)):
            raise ValueError("terms: a window starts and ends on a minute")
    _refuse_overlaps(card.terms)
    return card


def _part(document: Mapping[str, Any], name: str, kind: type, absent: Any, *, place: str = "") -> Any:
    """A part of a document, ``absent`` if it is not there. Raises ``ValueError`` for another kind."""
    part = document.get(name, absent)
    if not isinstance(part, kind):
        raise ValueError(f"{place}{name}: {type(part).__name__} is not what belongs here")
    return part


# A winter week and a summer week, so that both offsets of a zone are seen.
_WEEKS = (datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 7, 6, tzinfo=UTC))


def _refuse_overlaps(terms: Sequence[Terms]) -> None:
    """Two entries may not both hold at one instant, or their order would decide. Raises ``ValueError``."""
    rivals: dict[tuple[str | None, bool, int], list[Terms]] = {}
    for entry in terms:
        if entry.windows:
            rivals.setdefault((entry.service_tier, entry.batch, entry.above_input_tokens), []).append(entry)
    for entries in rivals.values():
        if len(entries) < 2:
            continue
        # Windows begin on minutes, and where two overlap, one of them begins inside the other.
        for week in _WEEKS:
            for minute in range(7 * 24 * 60):
                at = week + timedelta(minutes=minute)
                if sum(any(window.holds(at) for window in entry.windows) for entry in entries) > 1:
                    raise ValueError(f"terms: two entries hold at {at:%a %H:%M} UTC")


def _usd(value: object, *, place: str, decimals: int) -> int:
    """Pico-dollars of a decimal string of dollars. Raises ``ValueError`` with the place."""
    if not isinstance(value, str):
        raise ValueError(f"{place}: a rate is a decimal string, not {type(value).__name__}")
    try:
        return _pico(value, decimals)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@lru_cache(AMOUNTS_KEPT)
def _pico(value: str, decimals: int) -> int:
    """Kept: a catalog of hundreds of cards holds few different amounts, and is read again whenever a cache ends."""
    amount = money.parse(value)
    if amount < 0:
        raise ValueError(f"{value} is negative")
    if amount.normalize().as_tuple().exponent < -decimals:  # type: ignore[operator]
        raise ValueError(f"{value} has more than {decimals} decimals")
    return money.to_pico(amount)


def _read_terms(entry: object, *, place: str) -> Terms:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("rates"), Mapping):
        raise ValueError(f"{place}: needs rates")
    when, rates = _part(entry, "when", Mapping, {}, place=f"{place}."), entry["rates"]
    unknown = (set(entry) - {"when", "rates"}) | (set(rates) - set(Rates._fields))
    unknown |= set(when) - {"service_tier", "batch", "above_input_tokens", "windows"}
    if unknown:
        raise ValueError(f"{place}: unknown parts: {', '.join(sorted(unknown))}")
    if "input" not in rates:
        raise ValueError(f"{place}: an input rate is needed; free is 0")
    read: dict[str, int | None] = {
        name: per_token(rates[name], place=f"{place}.rates.{name}") if name in rates else None for name in Rates._fields
    }
    # A vendor that names no cache rate charges cache traffic as input (decisions 5).
    for cached, plain in (
        ("cached_input", "input"), ("cache_write", "input"), ("cache_write_1h", "cache_write"),
        ("cached_image_input", "image_input"), ("cached_audio_input", "audio_input"),
    ):  # fmt: skip
        if read[cached] is None:
            read[cached] = read[plain]
    threshold = when.get("above_input_tokens", 0)
    if type(threshold) is not int or threshold < 0:
        raise ValueError(f"{place}.when.above_input_tokens: a whole number of tokens is needed")
    if type(when.get("batch", False)) is not bool:
        raise ValueError(f"{place}.when.batch: true or false is needed")
    if not isinstance(when.get("service_tier"), str | None):
        raise ValueError(f"{place}.when.service_tier: a string is needed")
    return Terms(
        rates=Rates(**read),
        reasoning_apart=read["reasoning"] is not None,
        service_tier=ordinary(when.get("service_tier")),
        batch=when.get("batch", False),
        above_input_tokens=threshold,
        windows=tuple(
            _read_window(window, place=f"{place}.when.windows")
            for window in _part(when, "windows", list, [], place=f"{place}.when.")
        ),
    )


def per_token(rate: object, *, place: str = "rate") -> int:
    """Pico-dollars a token of a rate in USD per 1,000,000 tokens, at most 6 decimals. Raises ``ValueError``."""
    # USD × 10¹² per 10⁶ tokens: dividing the pico-dollars by a million leaves a whole number.
    return _usd(rate, place=place, decimals=RATE_DECIMALS) // 1_000_000


def per_million(pico: int) -> Decimal:
    """USD per 1,000,000 tokens of a rate in pico-dollars a token."""
    return money.from_pico(pico * 1_000_000)


def _read_window(window: Any, *, place: str) -> Window:
    unknown = set(window) - set(Window.__struct_fields__) if isinstance(window, Mapping) else ()
    if unknown:
        raise ValueError(f"{place}: unknown parts: {', '.join(sorted(unknown))}")
    try:
        hours = {name: time.fromisoformat(window[name]) for name in ("start", "end")}  # HH:MM
        read = msgspec.convert({**window, **hours}, Window)
        ZoneInfo(read.zone)
    except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error
    if read.start.tzinfo is not None or read.end.tzinfo is not None:
        raise ValueError(f"{place}: the zone stands in zone, not in a time")
    if read.start == read.end or not read.days or not set(read.days) <= set(range(7)):
        raise ValueError(f"{place}: a window needs days from 0 (Monday) to 6 and two different times")
    return read
