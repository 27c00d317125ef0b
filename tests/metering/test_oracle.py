"""Rating against a second calculation, for every priced model of the seed catalog and any usage.

The oracle reads the price documents' own strings, counts in fractions and shares nothing with
``metering.rating`` but the type it hands the counts over in. It starts from the exclusive pools and
adds them up to what a gateway reports; rating has to find its way back. They agree exactly, not
within a tolerance, and agree on what has no price.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import rating
from metering.rating import Counts
from tests.database import ROOT
from tests.metering import golden

Document = Mapping[str, Any]

CATALOG: Document = json.loads((ROOT / "metering" / "seed" / "catalog.json").read_text())
PRICED = [model for model in CATALOG["models"] if model["prices"]]
FAMILIES = sorted({model["vendor"] for model in PRICED})

# Pools in the order in which a request is drawn, and what a card charges where it has no rate for one.
INPUT = (
    "input", "cached_input", "cache_write", "cache_write_1h", "image_input", "audio_input", "cached_image_input",
    "cached_audio_input",
)  # fmt: skip
OUTPUT = ("output", "reasoning", "image_output", "audio_output")
INSTEAD = {
    "cached_input": "input", "cache_write": "input", "cache_write_1h": "cache_write",
    "cached_image_input": "image_input", "cached_audio_input": "audio_input", "reasoning": "output",
}  # fmt: skip
UNITS = ("web_search_requests", "file_search_requests", "nobody_prices_this")
ORDINARY = (None, "", "default", "standard", "auto", "on_demand")
WEEK = timedelta(days=7)
# Half hours of the day in UTC at which a window of some card begins or ends, in summer or winter.
EDGES = (0, 1, 2, 3, 4, 6, 8, 12, 20, 22, 32, 33)
COUNT_MAX = 2**31 - 1


class Usage(NamedTuple):
    """A drawn request: tokens in each pool, uses, and how far its input is from a threshold it is brought to."""

    tokens: Mapping[str, int]
    units: Mapping[str, int]
    at: datetime
    ordinary: str | None
    beyond: int


def some(most: int) -> st.SearchStrategy[int]:
    """A number that is often none."""
    return st.one_of(st.just(0), st.integers(0, most))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Small requests, long ones, and ones as large as can be counted, at any instant of some years."""
    most = draw(st.sampled_from((20, 50_000, COUNT_MAX // len(INPUT))))
    tokens = {pool: draw(some(most)) for pool in (*INPUT, *OUTPUT)}
    units = {unit: draw(some(COUNT_MAX)) for unit in UNITS}
    day = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=draw(st.integers(0, 4 * 365)))
    half_hours = draw(st.one_of(st.sampled_from(EDGES), st.integers(0, 47)))
    # At an edge, a microsecond before it, and well after.
    beside = timedelta(microseconds=draw(st.sampled_from((-1, 0, 17 * 60 * 10**6))))
    at = day + half_hours * timedelta(minutes=30) + beside
    return Usage(tokens, units, at, draw(st.sampled_from(ORDINARY)), draw(st.sampled_from((0, 1, 2, 100_000))))


def charged(pool: str, rates: Mapping[str, str]) -> str | None:
    """The rate at which a pool is charged, as published; ``None`` where the card prices no such use."""
    while pool not in rates:
        if pool not in INSTEAD:
            return None
        pool = INSTEAD[pool]
    return rates[pool]


def open_at(window: Document, at: datetime) -> bool:
    """Whether an instant lies in a window: by how long after the window's last start of the week it is."""
    local = at.astimezone(ZoneInfo(window["zone"])).replace(tzinfo=None)
    clock = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    since_monday = timedelta(days=local.weekday()) + clock
    start, end = (timedelta(hours=int(text[:2]), minutes=int(text[3:])) for text in (window["start"], window["end"]))
    length = (end - start) % timedelta(days=1)
    return any((since_monday - (timedelta(days=day) + start)) % WEEK < length for day in window["days"])


def holds(when: Document, tier: str | None, batch: bool, total_input: int, at: datetime) -> bool:
    """Whether the conditions of an entry are met."""
    return (
        when.get("service_tier") == tier
        and when.get("batch", False) == batch
        and total_input > when.get("above_input_tokens", -1)
        and ("windows" not in when or any(open_at(window, at) for window in when["windows"]))
    )


def expected(
    document: Document, tokens: Mapping[str, int], units: Mapping[str, int], tier: str | None, batch: bool, at: datetime
) -> Fraction | None:
    """What the request costs in USD, or ``None`` if something about it has no price."""
    total_input = sum(tokens[pool] for pool in INPUT)
    fitting = [entry for entry in document["terms"] if holds(entry["when"], tier, batch, total_input, at)]
    if not fitting:
        return None
    entry = max(fitting, key=lambda one: (one["when"].get("above_input_tokens", 0), len(one["when"])))
    cost = Fraction(document["request"])
    for pool, number in tokens.items():
        if number:
            rate = charged(pool, entry["rates"])
            if rate is None:
                return None
            cost += number * Fraction(rate) / 1_000_000
    for unit, uses in units.items():
        if uses:
            if unit not in document["units"]:
                return None
            cost += uses * Fraction(document["units"][unit])
    return cost


def reported(tokens: Mapping[str, int], units: Mapping[str, int], tier: str | None, batch: bool) -> Counts:
    """The pools as a gateway reports them: totals and their parts."""
    return Counts(
        input_tokens=sum(tokens[pool] for pool in INPUT),
        cached_input_tokens=tokens["cached_input"] + tokens["cached_image_input"] + tokens["cached_audio_input"],
        cache_write_tokens=tokens["cache_write"],
        cache_write_1h_tokens=tokens["cache_write_1h"],
        image_input_tokens=tokens["image_input"] + tokens["cached_image_input"],
        audio_input_tokens=tokens["audio_input"] + tokens["cached_audio_input"],
        cached_image_tokens=tokens["cached_image_input"],
        cached_audio_tokens=tokens["cached_audio_input"],
        output_tokens=sum(tokens[pool] for pool in OUTPUT),
        reasoning_tokens=tokens["reasoning"],
        image_output_tokens=tokens["image_output"],
        audio_output_tokens=tokens["audio_output"],
        units=dict(units),
        service_tier=tier,
        batch=batch,
    )


def rated(card: rating.RateCard, counts: Counts, at: datetime) -> Fraction | None:
    """What rating says, in USD."""
    try:
        return Fraction(rating.rate(card, counts, at).cost_pico, 10**12)
    except rating.Unpriced:
        return None


def requests(document: Document, usage: Usage) -> Iterator[tuple[Mapping[str, int], Mapping[str, int], Document]]:
    """The usage under the conditions of each entry of a card.

    As drawn; cut to what the entry prices; and that brought to each threshold of the card, at it
    and beyond it, if it is not longer already.
    """
    thresholds = {entry["when"].get("above_input_tokens", 0) for entry in document["terms"]} - {0}
    for entry in document["terms"]:
        yield usage.tokens, usage.units, entry["when"]
        tokens = {pool: n if charged(pool, entry["rates"]) is not None else 0 for pool, n in usage.tokens.items()}
        units = {unit: uses if unit in document["units"] else 0 for unit, uses in usage.units.items()}
        yield tokens, units, entry["when"]
        for threshold in thresholds:
            short = threshold + usage.beyond - sum(tokens[pool] for pool in INPUT)
            if short > 0:
                yield {**tokens, "input": tokens["input"] + short}, units, entry["when"]


def compare(documents: Sequence[Document], usage: Usage) -> int:
    """Rate the usage by every card both ways. The number of requests that had a price."""
    priced = 0
    for document in documents:
        card = rating.read_card(document)
        for tokens, units, when in requests(document, usage):
            tier, batch = when.get("service_tier"), when.get("batch", False)
            counts = reported(tokens, units, usage.ordinary if tier is None else tier, batch)
            cost = expected(document, tokens, units, tier, batch, usage.at)
            assert rated(card, counts, usage.at) == cost, (document, counts, usage.at)
            priced += cost is not None
    return priced


def versions(vendor: str) -> list[Document]:
    """Every price version of a vendor's models."""
    return [price["rates"] for model in PRICED if model["vendor"] == vendor for price in model["prices"]]


@pytest.mark.parametrize("vendor", FAMILIES)
@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(usage=usages())
def test_every_priced_model_costs_what_a_second_calculation_says(vendor: str, usage: Usage) -> None:
    documents = versions(vendor)
    # Cut to what an entry prices, a request has a price: none of the cards is passed over.
    assert compare(documents, usage) >= sum(len(document["terms"]) for document in documents)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(usage=usages())
def test_cards_with_every_condition_cost_what_a_second_calculation_says(usage: Usage) -> None:
    """Zones with daylight saving time, reasoning apart, batches on a tier: what the catalog has none of yet."""
    assert compare([card.rates for card in golden.CARDS], usage) > 0


def test_the_oracle_agrees_with_the_golden_table() -> None:
    """A wrong oracle could agree with wrong rating; it agrees with paper too."""
    for case in golden.CASES:
        tokens = dict.fromkeys((*INPUT, *OUTPUT), 0)
        for step in case.working.split(", ")[:-1]:
            words = step.split()
            if words[0] in tokens:
                tokens[words[0]] = int(words[words.index("×") - 1])
        tier = case.counts.service_tier
        tier = None if tier in ORDINARY else tier
        at = datetime.fromisoformat(case.at)
        assert expected(case.card.rates, tokens, case.counts.units, tier, case.counts.batch, at) == Fraction(case.usd)


def test_every_priced_model_belongs_to_a_family() -> None:
    assert len(PRICED) > 150
    assert sum(len(versions(vendor)) for vendor in FAMILIES) == sum(len(model["prices"]) for model in PRICED)
