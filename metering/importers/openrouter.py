"""OpenRouter's ``GET /api/v1/models``: a list of models, USD a token as decimal strings.

The fields are those of OpenRouter's own SDK (OpenRouterTeam/typescript-sdk, ``src/models``:
``pricing.ts``, ``pricingoverride.ts``). An override holds when all its conditions do:
``min_prompt_tokens`` is exceeded (strictly), the UTC clock is in ``[utc_start, utc_end)`` on one of
``utc_days``; among those that hold the later one wins for each price, and what none states is the
base's. Ids are OpenRouter's: what it charges for a model, which is the vendor's price or near it.

Where the feed is not what its documentation says, the feed wins, as it stood in August 2026:

* ``"0"`` for anything but the prompt and the completion means that nothing is charged apart
  (thinking "for 0" is billed as output), so it is no rate;
* prices come out of floats at times (``0.00000015000000000000002``): ``amounts.without_noise``;
* ``image`` is documented per image and often holds the price of a token: equal to the prompt's it
  is taken for that, any other is a gap; ``image_output`` is documented per image too and is taken
  for a token's price below a tenth of a cent, which no image has ever cost.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from itertools import combinations, product
from typing import Any

from metering import names
from metering.importers import amounts, cards, document
from metering.importers.cards import BASE, Cell, Hours
from metering.importers.document import Members
from metering.importers.drafted import Absurd, BadSource, Drafted, DraftPrice, Findings, Refusal, as_model, kind, shown

SOURCE = "OpenRouter's /api/v1/models"
ROUTE = "openrouter"
DYNAMIC = Decimal(-1)
IMAGE_TOKEN_MAX = Decimal("0.001")
OVERRIDES_MAX = 16

_POOLS = {
    "prompt": "input",
    "completion": "output",
    "input_cache_read": "cached_input",
    "input_cache_write": "cache_write",
    "input_cache_write_1h": "cache_write_1h",
    "internal_reasoning": "reasoning",
    "image_token": "image_input",
    "image": "image_input",
    "image_output": "image_output",
    "audio": "audio_input",
    "audio_output": "audio_output",
    "input_audio_cache": "cached_audio_input",
}
_ALWAYS = ("prompt", "completion")
_CONDITIONS = frozenset({"min_prompt_tokens", "utc_start", "utc_end", "utc_days"})
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,40})?(?:[eE][-+]?[0-9]{1,2})?", re.ASCII)
MIDNIGHT, NOON = "00:00", "12:00"


def read(raw: bytes | str, *, source: str = SOURCE) -> Drafted:
    """Drafts from the answer's body; ``source`` is how the drafts name it. Raises ``BadSource``."""
    body = document.read(raw)
    if not isinstance(body, Members) or not isinstance(body.get("data"), list) or "data" in body.doubled:
        raise BadSource('the document is an object with one list of models, "data"')
    prices: list[DraftPrice] = []
    refused: list[Refusal] = []
    ignored: list[Refusal] = []
    times: dict[str, int] = {}
    for entry in body["data"]:
        if isinstance(entry, Members) and isinstance(entry.get("id"), str):
            times[entry["id"]] = times.get(entry["id"], 0) + 1
    for index, entry in enumerate(body["data"]):
        place = f"data[{index}]"
        if not isinstance(entry, Members):
            refused.append(Refusal(place, f"an object is needed, not {kind(entry)}"))
            continue
        try:
            model = as_model(entry.get("id"))
        except ValueError as error:
            refused.append(Refusal(f"{place}.id", str(error)))
            continue
        findings = Findings(model)
        if model.startswith("~"):
            ignored.append(Refusal(findings.model, "an alias that OpenRouter moves from model to model"))
            continue
        if times[model] > 1:
            findings.refuse("", f"{place} is one of {times[model]} entries with this id")
        prices += _draft(findings, model, entry, source)
        refused += findings.refused
    return Drafted(tuple(prices), tuple(refused), tuple(ignored))


def _draft(findings: Findings, model: str, entry: Members, source: str) -> list[DraftPrice]:
    pricing = entry.get("pricing")
    if not isinstance(pricing, Members):
        findings.refuse("pricing", f"an object is needed, not {kind(pricing)}")
        return []
    for part, members in (("", entry), ("pricing", pricing)):
        for key in sorted(members.doubled):
            findings.refuse(f"{part}.{key}".lstrip("."), "it stands there more than once")
    base = _rates(findings, "pricing", pricing)
    for key in _ALWAYS:
        if pricing.get(key) is None:
            findings.refuse(f"pricing.{key}", "no rate; free is 0")
    units = {}
    request = "0"
    for key, value in pricing.items():
        if value is None or key in _POOLS or key == "overrides":
            continue
        place = f"pricing.{key}"
        try:
            if key == "request":
                request = amounts.each(_usd(findings, place, value))
            elif key == "web_search":
                if fee := _usd(findings, place, value):
                    units["web_search_requests"] = amounts.each(fee)
            elif value not in (0, "0"):
                findings.gap(place, f"{shown(value)} has no place in a rate card")
        except ValueError as error:
            findings.refuse(place, error)
    stated = _overridden(findings, pricing.get("overrides"))
    if findings.refused:
        return []
    by_image = "image_input" not in base and pricing.get("image") not in (None, "0")
    added = cards.add_images(base) if _reads_images(entry) and not by_image else frozenset()
    if added:
        findings.assume("image_input", "images cost what text costs")
    if not any(base.values()):
        findings.assume("", "all rates are 0, which is free and not unknown")
    laid = cards.lay_out({BASE: base, **stated}, units=units, request=request, added=added)
    name = names.parse(f"{ROUTE}/{model}")
    return findings.draft(model, laid.document, source=f"{source}, {model}", name=name, implied=laid.implied)


def _rates(findings: Findings, place: str, pricing: Mapping[str, Any]) -> dict[str, Decimal]:
    """USD per 1M tokens by pool; what is no rate is a finding."""
    rates: dict[str, Decimal] = {}
    for key, pool in _POOLS.items():
        value = pricing.get(key)
        if value is None:
            continue
        try:
            usd = _usd(findings, f"{place}.{key}", value)
            if not usd and key not in _ALWAYS:
                continue
            if (key == "image" and value != pricing.get("prompt")) or (
                key == "image_output" and usd >= IMAGE_TOKEN_MAX
            ):
                findings.gap(f"{place}.{key}", f"{shown(value)} USD an image has no place in a rate card")
                continue
            rates.setdefault(pool, amounts.per_million(usd))
            if key == "image_output":
                findings.assume(f"{place}.{key}", f"{value} USD is the price of a token, not of an image")
        except ValueError as error:
            findings.refuse(f"{place}.{key}", error)
    return rates


def _usd(findings: Findings, place: str, value: object) -> Decimal:
    """USD of a decimal string, without a float's noise. Raises ``ValueError``, ``Absurd`` below 0 (but -1)."""
    if not isinstance(value, str):
        raise ValueError(f"a price is a string here, not {kind(value)}")
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a decimal number")
    usd = Decimal(value)
    if usd == DYNAMIC:
        raise ValueError("-1: the price depends on where OpenRouter sends the request")
    if usd < 0:
        raise Absurd(f"{value} is negative")
    return amounts.without_noise(usd, findings=findings, part=place)


def _overridden(findings: Findings, overrides: object) -> dict[Cell, dict[str, Decimal]]:
    """The rates of every combination of conditions that the overrides can make."""
    if overrides is None:
        return {}
    if not isinstance(overrides, list) or len(overrides) > OVERRIDES_MAX:
        findings.refuse("pricing.overrides", f"a list of at most {OVERRIDES_MAX} is needed")
        return {}
    read: list[tuple[Cell, dict[str, Decimal]]] = []
    for index, override in enumerate(overrides):
        place = f"pricing.overrides[{index}]"
        try:
            if not isinstance(override, Members) or override.doubled:
                raise ValueError("an object is needed whose keys stand there once")
            for key in override.keys() - _POOLS.keys() - _CONDITIONS:
                findings.gap(f"{place}.{key}", f"{shown(override[key])} has no place in a rate card")
            cell = _cell(override)
            if cell == BASE:
                raise ValueError("it has no condition")
            read.append((cell, _rates(findings, place, override)))
        except ValueError as error:
            findings.refuse(place, error)
    windows = list(dict.fromkeys(cell.hours for cell, _ in read if cell.hours))
    if any(_overlap(one, other) for one, other in combinations(windows, 2)):
        findings.refuse("pricing.overrides", "windows that overlap in part cannot be told as entries of a card")
    lengths = sorted({cell.above_input_tokens for cell, _ in read} | {0})
    found = {}
    for length, hours in product(lengths, ((), *windows)):
        rates = {
            pool: rate
            for held, overriding in read
            if held.above_input_tokens <= length and held.hours in ((), hours)
            for pool, rate in overriding.items()  # of two for one pool the later stays
        }
        if rates:
            found[Cell(above_input_tokens=length, hours=hours)] = rates
    return found


def _cell(override: Members) -> Cell:
    """The conditions of an override. Raises ``ValueError``."""
    length = override.get("min_prompt_tokens")
    if length is not None and (type(length) is not int or length <= 0):
        raise ValueError(f"min_prompt_tokens: a number of tokens is needed, not {shown(length)}")
    days = override.get("utc_days")
    if days is not None and (not isinstance(days, list) or not days or not all(day in _DAYS for day in days)):
        raise ValueError("utc_days: a list of weekdays is needed")
    on = tuple(index for index, day in enumerate(_DAYS) if days is None or day in days)
    start, end = (_clock(key, override.get(key)) for key in ("utc_start", "utc_end"))
    if (start is None) != (end is None) or (start is not None and start == end):
        raise ValueError("utc_start and utc_end: two different times are needed")
    hours: tuple[Hours, ...] = ()
    if start is not None and end is not None:
        # OpenRouter asks for the weekday of the moment, our cards for the one on which a window starts.
        parts = ((start, end),) if start < end or end == MIDNIGHT else ((start, MIDNIGHT), (MIDNIGHT, end))
        hours = tuple(Hours(on, *part) for part in parts)
    elif days is not None:
        # A window needs two different times, so a whole day is two halves.
        hours = (Hours(on, MIDNIGHT, NOON), Hours(on, NOON, MIDNIGHT))
    return Cell(above_input_tokens=length or 0, hours=hours)


def _clock(key: str, value: object) -> str | None:
    """``HH:MM`` of a clock number such as 1030. Raises ``ValueError``."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= 2400 or value % 100 > 59:
        raise ValueError(f"{key}: a clock number such as 1030 is needed, not {shown(value)}")
    return f"{value // 100 % 24:02}:{value % 100:02}"


def _overlap(one: tuple[Hours, ...], other: tuple[Hours, ...]) -> bool:
    """Whether two windows share an instant; their parts have no midnight inside."""
    return any(set(a.days) & set(b.days) and a.start < _end(b) and b.start < _end(a) for a, b in product(one, other))


def _end(hours: Hours) -> str:
    return "24:00" if hours.end == MIDNIGHT else hours.end


def _reads_images(entry: Members) -> bool:
    architecture = entry.get("architecture")
    modalities = architecture.get("input_modalities") if isinstance(architecture, Members) else None
    return isinstance(modalities, list) and "image" in modalities
