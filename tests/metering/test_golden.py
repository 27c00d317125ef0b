"""The golden table: requests at published prices cost what was worked out by hand, in every cell that rating knows.

A cell is pool × tier × window × threshold: one of twelve pools; the ordinary tier, a named one, a
batch, or a batch on a named tier; rates for all hours or for some; the base or a long context.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from metering import catalog, rating
from tests.metering.golden import (
    AGREEMENT,
    CARDS,
    CASES,
    HISTORIES,
    INCONSISTENT,
    UNPRICED,
    Card,
    Case,
    Refusal,
)

TIERS = ("ordinary", "tier", "batch", "batch on a tier")
WINDOWS = ("all hours", "some hours")
THRESHOLDS = ("base", "above")
INPUT_POOLS = rating.Pools._fields[:8]
OUTPUT_POOLS = rating.Pools._fields[8:]
_STEP = re.compile(
    r"(?P<what>\w+)(?: as (?P<rate>\w+))? (?P<count>\d+) × (?P<each>\d+(?:\.\d+)?) = (?P<result>\d+(?:\.\d+)?)"
)
_SUM = re.compile(r"sum (?P<total>\d+(?:\.\d+)?)")


class Cell(NamedTuple):
    """A place in the table."""

    pool: str
    tier: str
    window: str
    threshold: str


class Step(NamedTuple):
    """A line of the paper: a number of tokens or uses of this, at so many µ$ each."""

    what: str
    rate: str
    number: int
    each: Fraction
    result: Fraction


EVERY_CELL = {Cell(*cell) for cell in product(rating.Pools._fields, TIERS, WINDOWS, THRESHOLDS)}


def named(cases: Iterable[Case | Refusal]) -> list[Any]:
    """Parameters with their names as ids."""
    return [pytest.param(case, id=case.name) for case in cases]


def instant(text: str) -> datetime:
    """An aware instant from RFC 3339."""
    return datetime.fromisoformat(text)


def when(case: Case) -> Mapping[str, Any]:
    """The conditions of the entry that has to price a case, as published."""
    conditions: Mapping[str, Any] = case.card.rates["terms"][case.entry]["when"]
    return conditions


def paper(case: Case) -> tuple[list[Step], Fraction]:
    """The steps of a working and its sum in µ$. Nothing else may stand there."""
    *steps, total = case.working.split(", ")
    read = []
    for step in steps:
        found = _STEP.fullmatch(step)
        assert found, step
        rate = found["rate"] or found["what"]
        read.append(Step(found["what"], rate, int(found["count"]), Fraction(found["each"]), Fraction(found["result"])))
    found = _SUM.fullmatch(total)
    assert found, total
    return read, Fraction(found["total"])


def cells(cases: Iterable[Case]) -> Iterator[Cell]:
    """The cells that cases fill: the pools with tokens in them, under the conditions of their entry."""
    for case in cases:
        conditions = when(case)
        tier = TIERS[("service_tier" in conditions) + 2 * conditions.get("batch", False)]
        window = WINDOWS["windows" in conditions]
        threshold = THRESHOLDS["above_input_tokens" in conditions]
        for step in paper(case)[0]:
            if step.what in rating.Pools._fields and step.number:
                yield Cell(step.what, tier, window, threshold)


def published(cases: Iterable[Case]) -> list[Case]:
    """Cases whose price somebody sells at."""
    return [case for case in cases if case.card.published]


@pytest.mark.parametrize("case", named(CASES))
def test_a_request_costs_what_was_worked_out_by_hand(case: Case) -> None:
    rated = rating.rate(rating.read_card(case.card.rates), case.counts, instant(case.at))
    assert Fraction(rated.cost_pico, 10**12) == Fraction(case.usd)
    conditions = when(case)
    assert rated.terms.service_tier == conditions.get("service_tier")
    assert rated.terms.batch == conditions.get("batch", False)
    assert rated.terms.above_input_tokens == conditions.get("above_input_tokens", 0)
    assert len(rated.terms.windows) == len(conditions.get("windows", ()))


@pytest.mark.parametrize("case", named(CASES))
def test_the_order_of_a_cards_entries_does_not_matter(case: Case) -> None:
    turned = {**case.card.rates, "terms": case.card.rates["terms"][::-1]}
    rated = rating.rate(rating.read_card(turned), case.counts, instant(case.at))
    assert Fraction(rated.cost_pico, 10**12) == Fraction(case.usd)


@pytest.mark.parametrize("case", named(CASES))
def test_the_paper_is_right(case: Case) -> None:
    """Each product, the sum, and that counts and rates are those of the case."""
    steps, total = paper(case)
    entry, card = case.card.rates["terms"][case.entry], case.card.rates
    fees = {**card["units"], "request": card["request"]}
    for step in steps:
        assert step.number * step.each == step.result, step
        if step.what in rating.Pools._fields:
            assert step.each == Fraction(entry["rates"][step.rate]), step
            assert step.rate == step.what or step.what not in entry["rates"], step
        else:
            assert step.each == Fraction(fees[step.what]) * 10**6, step
            assert step.number == case.counts.units.get(step.what, 1), step
    assert sum(step.result for step in steps) == total
    assert total == Fraction(case.usd) * 10**6
    tokens = {step.what: step.number for step in steps}
    assert len(tokens) == len(steps)
    assert sum(tokens.get(pool, 0) for pool in INPUT_POOLS) == case.counts.input_tokens
    assert sum(tokens.get(pool, 0) for pool in OUTPUT_POOLS) == case.counts.output_tokens
    charged = {name for name, uses in case.counts.units.items() if uses}
    if card["request"] != "0":
        charged.add("request")
    assert {step.what for step in steps if step.what not in rating.Pools._fields} == charged


@pytest.mark.parametrize("refusal", named(UNPRICED))
def test_what_has_no_rate_has_no_cost(refusal: Refusal) -> None:
    with pytest.raises(rating.Unpriced, match=refusal.says):
        rating.rate(rating.read_card(refusal.card.rates), refusal.counts, instant(refusal.at))


@pytest.mark.parametrize("refusal", named(INCONSISTENT))
def test_counts_that_contradict_each_other_have_no_cost(refusal: Refusal) -> None:
    with pytest.raises(rating.Inconsistent, match=refusal.says) as raised:
        rating.rate(rating.read_card(refusal.card.rates), refusal.counts, instant(refusal.at))
    assert raised.value.param == refusal.param


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history[0].model)
def test_an_instant_chooses_the_version_that_prices_its_cases(history: tuple[Card, ...]) -> None:
    versions = [
        catalog.Version(UUID(int=place), instant(card.since), None, rating.read_card(card.rates))
        for place, card in enumerate(history)
    ]
    for place, card in enumerate(history):
        cases = [case for case in CASES if case.card is card]
        assert cases
        for case in cases:
            version = catalog.in_force(versions, instant(case.at))
            assert version is not None, case.name
            assert version.id == UUID(int=place), case.name


def missing(cases: Iterable[Case], wanted: Collection[Cell] = EVERY_CELL) -> list[Cell]:
    """Wanted cells that no case fills."""
    return sorted(set(wanted) - set(cells(cases)))


def test_every_cell_that_rating_knows_is_covered() -> None:
    assert len(EVERY_CELL) == 12 * 4 * 2 * 2
    assert missing(CASES) == []


def test_a_cell_without_a_case_is_noticed() -> None:
    without = [case for case in CASES if case.card is not AGREEMENT or case.entry != 15]
    assert missing(without) == [
        Cell(pool, "batch on a tier", "some hours", "above") for pool in sorted(rating.Pools._fields)
    ]


def test_published_prices_alone_cover_every_pool_and_each_condition_that_vendors_sell() -> None:
    filled = set(cells(published(CASES)))
    assert {cell.pool for cell in filled} == set(rating.Pools._fields)
    conditions = {(cell.tier, cell.window, cell.threshold) for cell in filled}
    assert conditions >= {
        *product(("ordinary", "tier", "batch"), ("all hours",), THRESHOLDS),
        ("ordinary", "some hours", "base"),
    }


def test_every_condition_and_pool_that_rating_knows_is_in_the_table() -> None:
    """A new pool or condition makes this fail before the table can claim to be complete."""
    assert rating.Rates._fields == rating.Pools._fields
    assert {field for card in CARDS for entry in card.rates["terms"] for field in entry["when"]} == {
        "service_tier", "batch", "above_input_tokens", "windows",
    }  # fmt: skip
    assert set(rating.Terms.__struct_fields__) == {
        "rates", "reasoning_apart", "service_tier", "batch", "above_input_tokens", "windows",
    }  # fmt: skip


def test_at_least_eight_vendors_and_every_price_with_its_source() -> None:
    sold = [card for card in CARDS if card.published]
    assert len({card.vendor for card in sold}) >= 8
    for card in sold:
        assert re.match(r"https://\S+, (read|known|by way of genai-prices)\b", card.source), card.source
    assert {card.vendor for card in CARDS if not card.published} == {"Example"}


def test_every_count_that_contradicts_can_be_the_one_to_blame() -> None:
    assert {refusal.param for refusal in INCONSISTENT} == {
        "input_tokens", "cached_input_tokens", "cached_image_tokens", "cached_audio_tokens", "output_tokens",
        "reasoning_tokens",
    }  # fmt: skip


def test_names_are_given_once() -> None:
    names = [case.name for case in CASES] + [refusal.name for refusal in (*UNPRICED, *INCONSISTENT)]
    assert [name for name in names if names.count(name) > 1] == []
