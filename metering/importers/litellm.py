"""LiteLLM's ``model_prices_and_context_window.json``: an object of models, USD a token as JSON numbers.

A key is a base and suffixes: ``cache_creation_input_token_cost`` × ``_above_1hr`` ×
``_above_200k_tokens`` × ``_flex``, ``_priority``, ``_ultrafast`` or ``_batches``. What the file
leaves open is settled as LiteLLM's own cost calculation settles it
(litellm/litellm_core_utils/llm_cost_calc/utils.py): a threshold is exceeded by the
whole prompt with its cache and re-prices all of it (xAI's is reached); a rate that a tier does not
state is the ordinary one of that length; a step of ``tiered_pricing`` without a cache rate bills
cache as input. Every other key that speaks of cost is a gap, never dropped. ``null`` is no key.
"""

import re
from collections.abc import Mapping
from decimal import Decimal

from metering.importers import amounts, cards, document
from metering.importers.cards import BASE, Cell
from metering.importers.document import Members, Odd
from metering.importers.drafted import BadSource, Drafted, DraftPrice, Findings, Refusal, as_model, kind, shown

SOURCE = "LiteLLM's model_prices_and_context_window.json"
MODES = ("chat", "completion", "embedding", "responses")
EXAMPLE = "sample_spec"

_BASES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "input_cost_per_token_cache_hit": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
    "cache_read_input_audio_token_cost": "cached_audio_input",
    "cache_read_input_image_token_cost": "cached_image_input",
}
_SUFFIX = re.compile(
    r"_above_(?P<length>[1-9][0-9]{0,6})(?P<thousand>k?)_tokens"
    r"|_above_(?P<hour>1hr)"
    r"|_(?P<tier>flex|priority|ultrafast|batches)"
)
# The provider whose thresholds count the token that reaches them.
_INCLUSIVE = "xai"
_SEARCHES = {f"search_context_size_{size}": f"web_search_requests_{size}" for size in ("low", "medium", "high")}
# Unit in our counts, and how many uses the price is for.
_FEES = {
    "code_interpreter_cost_per_session": ("code_interpreter_sessions", 1),
    "file_search_cost_per_1k_calls": ("file_search_requests", 1000),
}
_COSTLY = re.compile(r"cost|pric|fee(?![a-z])|multipl|uplift|surcharge|discount|tariff|billing", re.IGNORECASE)
# Holds multiples of the price by speed and region for some, plain settings for others.
_MULTIPLES = "provider_specific_entry"
_URL = re.compile(r"https?://[!-~]{1,300}")


def read(raw: bytes | str, *, source: str = SOURCE) -> Drafted:
    """Drafts from the file's content; ``source`` is how the drafts name it. Raises ``BadSource``."""
    models = document.read(raw)
    if not isinstance(models, Members):
        raise BadSource(f"the document is an object of models, not {kind(models)}")
    prices: list[DraftPrice] = []
    refused: list[Refusal] = []
    ignored: list[Refusal] = []
    for model, entry in models.items():
        findings = Findings(model)
        if reason := _out_of_scope(model, entry):
            ignored.append(Refusal(findings.model, reason))
            continue
        if model in models.doubled:
            findings.refuse("", "it stands in the document more than once")
        prices += _draft(findings, model, entry, source)
        refused += findings.refused
    return Drafted(tuple(prices), tuple(refused), tuple(ignored))


def _out_of_scope(model: str, entry: object) -> str:
    """Why an entry is no model that a card could price, if it is none."""
    if model == EXAMPLE:
        return "the file's own example"
    if not isinstance(entry, Members):
        return ""
    mode = entry.get("mode")
    if mode is None:
        return "it names no mode"
    if isinstance(mode, str) and mode not in MODES:
        return f"its mode is {shown(mode)}; taken are {', '.join(MODES)}"
    return ""


def _draft(findings: Findings, model: str, entry: object, source: str) -> list[DraftPrice]:
    try:
        as_model(model)
    except ValueError as error:
        findings.refuse("", error)
    if not isinstance(entry, Members):
        findings.refuse("", f"an object is needed, not {kind(entry)}")
        return []
    if not isinstance(entry["mode"], str):
        findings.refuse("mode", f"a string is needed, not {kind(entry['mode'])}")
    for key in sorted(entry.doubled):
        findings.refuse(key, "it stands in the entry more than once")
    sheet = Sheet(entry, findings)
    base = sheet.stated.setdefault(BASE, {})
    if "input" not in base and "input" not in sheet.unread:
        findings.refuse("input_cost_per_token", "no rate for input; free is 0")
    if "output" not in base and "output" not in sheet.unread and entry["mode"] != "embedding":
        findings.refuse("output_cost_per_token", "no rate for output; free is 0")
    if findings.refused:
        return []
    added = cards.add_images(base) if entry.get("supports_vision") is True else frozenset()
    if added:
        findings.assume("image_input", "images cost what text costs")
    if not any(base.values()):
        findings.assume("", "all rates are 0, which is free and not unknown")
    for pool, plain in cards.PLAIN.items():
        if not base.get(pool, 1) and base.get(plain):
            findings.assume(pool, f"0 is free, though {plain} is not")
    sheet.settle()
    laid = cards.lay_out(sheet.stated, units=sheet.units, request=sheet.request, added=added)
    for cell, pools in laid.inherited.items():
        findings.assume(str(cell), f"no rate of its own for {', '.join(pools)}: a less specific one")
    url = entry.get("source")
    named = f"{source}, {model}"
    if isinstance(url, str) and _URL.fullmatch(url):
        named = f"{named}, {url}"
    return findings.draft(model, laid.document, source=named, implied=laid.implied)


class Sheet:
    """What an entry states: rates by condition and pool in USD per 1M tokens, fees in USD."""

    def __init__(self, entry: Members, findings: Findings) -> None:
        self.findings = findings
        self.stated: dict[Cell, dict[str, Decimal]] = {}
        self.units: dict[str, str] = {}
        self.request = "0"
        self.unread: set[str] = set()
        self.inclusive = entry.get("litellm_provider") == _INCLUSIVE
        for key, value in entry.items():
            if value is None:
                continue
            try:
                self._read(key, value)
            except ValueError as error:
                findings.refuse(key, error)
                if where := _place(key):
                    self.unread.add(where[1])

    def settle(self) -> None:
        """What the file leaves open about long contexts."""
        lengths = sorted(
            cell.above_input_tokens for cell in self.stated if cell.when().keys() == {"above_input_tokens"}
        )
        for cell in [cell for cell in self.stated if cell != BASE and not cell.above_input_tokens]:
            for length in lengths:
                longer = cell._replace(above_input_tokens=length)
                if longer not in self.stated and cell.batch:
                    self.findings.assume(str(cell), f"no rates above {length} input tokens: its rates hold there too")
                elif longer not in self.stated:
                    self.stated[longer] = {}
        if self.inclusive:
            self.stated = {
                cell._replace(above_input_tokens=max(cell.above_input_tokens - 1, 0)): rates
                for cell, rates in self.stated.items()
            }

    def _read(self, key: str, value: object) -> None:
        """Take one key, or say why it is a gap. Raises ``ValueError``."""
        if key == "tiered_pricing":
            self._read_ladder(value)
        elif key == "search_context_cost_per_query":
            self._read_searches(value)
        elif key in _FEES:
            unit, uses = _FEES[key]
            self.units[unit] = amounts.each(self._usd(key, value), uses=uses)
        elif key == "input_cost_per_request":
            self.request = amounts.each(self._usd(key, value))
        elif where := _place(key):
            self._state(*where, amounts.per_million(self._usd(key, value)))
        elif key == "web_search_billing_unit":
            if value != "per_query":
                self.findings.gap(key, f"searches are charged {shown(value)}, not by the query")
        elif _COSTLY.search(key) or (key == _MULTIPLES and _has_numbers(value)):
            self.findings.gap(key, f"{shown(value)} has no place in a rate card")

    def _usd(self, key: str, value: object) -> Decimal:
        """A number of the file without a float's noise. Raises ``ValueError``."""
        return amounts.without_noise(amounts.number(value), findings=self.findings, part=key)

    def _state(self, cell: Cell, pool: str, rate: Decimal) -> None:
        known = self.stated.setdefault(cell, {}).setdefault(pool, rate)
        if known != rate:
            raise ValueError(f"{pool} is stated twice: {known} and {rate} USD per 1M")

    def _read_ladder(self, steps: object) -> None:
        """``tiered_pricing``: rates by ranges of the prompt's length, from 0, without a hole."""
        if not isinstance(steps, list) or not steps:
            raise ValueError(f"a list of ranges is needed, not {kind(steps)}")
        start = Decimal(0)
        pools: dict[str, None] = {}
        for step in steps:
            low, high = _range(step)
            if low != start:
                raise ValueError(f"ranges rise from 0 without a hole: {start} is followed by {low}")
            cell, start = Cell(above_input_tokens=int(low)), high
            for key, value in step.items():
                where = _place(key)
                if value is None:
                    continue
                if where and where[0] == BASE:
                    self._state(cell, where[1], amounts.per_million(self._usd(f"tiered_pricing.{key}", value)))
                elif key != "range" and _COSTLY.search(key):
                    self.findings.gap(f"tiered_pricing.{key}", f"{shown(value)} has no place in a rate card")
            rates = self.stated.setdefault(cell, {})
            pools |= dict.fromkeys(rates)
            for pool, plain in cards.PLAIN.items():
                if pool in pools and plain in rates:
                    rates.setdefault(pool, rates[plain])

    def _read_searches(self, sizes: object) -> None:
        """Web searches by the size of what they put into the context.

        One price for all sizes is the price of a search. Several are units of their own, and a
        search of unknown size stays unpriced: which size is the default differs by vendor.
        """
        fees = {}
        for key, value in _members(sizes).items():
            if value is None:
                continue
            if key in _SEARCHES:
                fees[_SEARCHES[key]] = amounts.each(self._usd(f"search_context_cost_per_query.{key}", value))
            else:
                self.findings.gap(f"search_context_cost_per_query.{key}", f"{shown(value)} has no place in a rate card")
        if len(set(fees.values())) == 1:
            self.units["web_search_requests"] = next(iter(fees.values()))
        elif fees:
            self.units |= fees
            self.findings.gap(
                "search_context_cost_per_query", "it differs by size: a search of unknown size is unpriced"
            )


def _place(key: str) -> tuple[Cell, str] | None:
    """The entry and the pool that a key prices, each suffix at most once."""
    base = max((base for base in _BASES if key.startswith(base)), key=len, default=None)
    if base is None:
        return None
    cell, pool, rest = BASE, _BASES[base], key.removeprefix(base)
    while rest:
        suffix = _SUFFIX.match(rest)
        if suffix is None:
            return None
        rest = rest[suffix.end() :]
        if suffix["hour"] and pool == "cache_write":
            pool = "cache_write_1h"
        elif suffix["length"] and not cell.above_input_tokens:
            cell = cell._replace(above_input_tokens=int(suffix["length"]) * (1000 if suffix["thousand"] else 1))
        elif suffix["tier"] == "batches" and not cell.batch:
            cell = cell._replace(batch=True)
        elif suffix["tier"] not in (None, "batches") and not cell.service_tier:
            cell = cell._replace(service_tier=suffix["tier"])
        else:
            return None
    return cell, pool


def _range(step: object) -> tuple[Decimal, Decimal]:
    """The two ends of a step of the ladder, whole tokens. Raises ``ValueError``."""
    ends = _members(step).get("range")
    if not isinstance(ends, list) or len(ends) != 2:
        raise ValueError("a range needs its two ends")
    low, high = map(amounts.number, ends)
    if not 0 <= low < high or low != int(low):
        raise ValueError(f"{low} to {high} is no range of tokens")
    return low, high


def _members(value: object) -> Members:
    """An object whose keys came once each. Raises ``ValueError``."""
    if not isinstance(value, Members):
        raise ValueError(f"an object is needed, not {kind(value)}")
    if value.doubled:
        raise ValueError(f"{shown(min(value.doubled))} stands in it more than once")
    return value


def _has_numbers(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(factor, int | Decimal | Odd) for factor in value.values())
