"""Two cards and two lists, side by side."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import names, rating
from metering.importers import compare, litellm, openrouter
from metering.importers.compare import Disagreement, Jump
from metering.importers.drafted import Drafted, DraftPrice
from tests.metering.importers.test_litellm import TEXT as LITELLM
from tests.metering.importers.test_openrouter import TEXT as OPENROUTER

RATES = st.integers(0, 10**9).map(lambda pico: format(Decimal(pico).scaleb(-6), "f"))


def document(*entries: tuple[dict[str, Any], dict[str, str]], request: str = "0", **units: str) -> dict[str, Any]:
    terms = [{"when": when, "rates": rates} for when, rates in entries]
    return {"terms": terms, "units": units, "request": request}


def card(*entries: tuple[dict[str, Any], dict[str, str]], request: str = "0", **units: str) -> rating.RateCard:
    return rating.read_card(document(*entries, request=request, **units))


def base(**rates: str) -> tuple[dict[str, Any], dict[str, str]]:
    return {}, rates


def drafted(*drafts: tuple[str, dict[str, Any]], at: datetime | None = None) -> Drafted:
    return Drafted(
        tuple(DraftPrice(model, names.parse(model), rates, "s", effective_from=at) for model, rates in drafts), (), ()
    )


def test_the_largest_jump_is_found_in_either_direction() -> None:
    old = card(base(input="3", cached_input="0.3", output="15"), request="0.01")
    new = card(base(input="6", cached_input="0.03", output="16"), request="0.02")
    jump = compare.jump(old, new)
    assert jump == Jump("cached_input", Decimal("0.3"), Decimal("0.03"))
    assert jump.factor == 10
    assert jump.reaches(10)
    assert not jump.reaches(11)


def test_a_tenfold_jump_is_exact_to_the_last_digit() -> None:
    old = card(base(input="3"))
    for new, reached in (("29.999999", False), ("30", True), ("0.3", True), ("0.300001", False)):
        jump = compare.jump(old, card(base(input=new)))
        assert jump is not None
        assert jump.reaches(10) is reached


def test_from_and_to_free_is_the_largest_jump_of_all() -> None:
    jump = compare.jump(card(base(input="0", output="1")), card(base(input="0.000001", output="100")))
    assert jump == Jump("input", Decimal(0), Decimal("0.000001"))
    assert jump.factor is None
    assert jump.reaches(10**9)


def test_nothing_moved_is_a_factor_of_one_and_so_is_free_to_free() -> None:
    same = card(base(input="0", output="15"), web_search_requests="0.01")
    jump = compare.jump(same, same)
    assert jump is not None
    assert jump.factor == 1
    assert not jump.reaches(2)


def test_what_only_one_of_them_prices_has_not_moved() -> None:
    jump = compare.jump(
        card(base(input="3"), web_search_requests="0.01"),
        card(base(input="3", audio_input="300"), ({"batch": True}, {"input": "300"}), file_search_requests="10"),
    )
    assert jump is not None
    assert jump.factor == 1


def test_an_entry_is_compared_with_what_the_other_card_would_choose() -> None:
    plain = card(base(input="3", output="15"))
    stepped = card(
        base(input="3", output="15"),
        ({"above_input_tokens": 200_000}, {"input": "6", "output": "22.5"}),
        (
            {"windows": [{"zone": "UTC", "days": [0], "start": "01:00", "end": "04:00"}]},
            {"input": "0.75", "output": "15"},
        ),
    )
    for old, new in ((plain, stepped), (stepped, plain)):
        jump = compare.jump(old, new)
        assert jump is not None
        assert jump.place == "input, 01:00 to 04:00 UTC"
        assert jump.factor == 4


def test_thresholds_that_are_reached_and_exceeded_mean_the_same() -> None:
    at = {
        threshold: card(base(input="1"), ({"above_input_tokens": threshold}, {"input": "2"})) for threshold in (9, 10)
    }
    for old, new in ((9, 10), (10, 9)):
        jump = compare.jump(at[old], at[new])
        assert jump is not None
        assert jump.factor == 1


def test_thinking_that_is_not_priced_apart_costs_what_output_costs() -> None:
    jump = compare.jump(card(base(input="1", output="4")), card(base(input="1", output="4", reasoning="40")))
    assert jump == Jump("reasoning", Decimal(4), Decimal(40))


@given(RATES, RATES, RATES, RATES)
def test_a_jump_is_the_largest_quotient(a: str, b: str, c: str, d: str) -> None:
    jump = compare.jump(card(base(input=a, output=b)), card(base(input=c, output=d)))
    assert jump is not None
    pairs = [(Fraction(a), Fraction(c)), (Fraction(b), Fraction(d))]
    moved = [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]]
    if any(low == 0 for low, _ in moved):
        assert jump.factor is None
    else:
        assert jump.factor == max((high / low for low, high in moved), default=1)


def test_disagreements_are_told_by_model_and_pool_beyond_the_limit_only() -> None:
    ours = drafted(("gpt-4o", document(base(input="2.5", output="10"), web_search_requests="0.01")))
    theirs = drafted(("openai/gpt-4o", document(base(input="2.525", output="10.11"), web_search_requests="0.02")))
    assert compare.compare(ours, theirs) == [
        Disagreement("gpt-4o", "openai/gpt-4o", "output", Decimal(10), Decimal("10.11"), Decimal("1.10")),
        Disagreement(
            "gpt-4o", "openai/gpt-4o", "web_search_requests", Decimal("0.01"), Decimal("0.02"), Decimal("100.00")
        ),
    ]
    assert [found.place for found in compare.compare(ours, theirs, limit_percent=Decimal("0.999"))] == [
        "input", "output", "web_search_requests",
    ]  # fmt: skip
    assert compare.compare(ours, theirs, limit_percent=Decimal(100)) == []
    assert compare.compare(ours, ours) == []


def test_a_rate_against_free_disagrees_without_a_percentage() -> None:
    found = compare.compare(
        drafted(("m", document(base(input="0", output="0")))), drafted(("m", document(base(input="1", output="0"))))
    )
    assert [(each.place, each.percent) for each in found] == [("input", None)]


@pytest.mark.parametrize(
    ("one", "other", "compared"),
    [
        ("gpt-4o", "openai/gpt-4o", True),
        ("gpt-4o", "openrouter/openai/gpt-4o", True),
        ("claude-sonnet-4-5", "openrouter/anthropic/claude-sonnet-4.5", True),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("gpt-4o", "gpt-4o-2024-05-13", False),
        ("gpt-4o", "azure/gpt-4o", False),
        ("azure/gpt-4o", "openrouter/openai/gpt-4o", False),
        ("azure/gpt-4o", "azure/eu/gpt-4o", False),
        ("openai/gpt-4o", "acme/gpt-4o", False),
        ("google/gemma-4-31b-it", "google/gemma-4-31b-it:free", False),
    ],
)
def test_only_the_same_model_by_the_same_way_is_compared(one: str, other: str, compared: bool) -> None:
    dear, cheap = document(base(input="2")), document(base(input="1"))
    for left, right in ((one, other), (other, one)):
        assert bool(compare.compare(drafted((left, dear)), drafted((right, cheap)))) is compared


def test_of_several_versions_the_last_to_start_counts() -> None:
    old = drafted(("m", document(base(input="9"))), at=datetime(2026, 1, 1, tzinfo=UTC))
    new = drafted(("m", document(base(input="1"))), at=datetime(2026, 2, 1, tzinfo=UTC))
    both = Drafted((*new.prices, *old.prices), (), ())
    assert compare.compare(both, new) == []
    assert len(compare.compare(both, old)) == 1


def test_two_public_lists_are_set_side_by_side() -> None:
    found = compare.compare(litellm.read(LITELLM), openrouter.read(OPENROUTER))
    assert found == []  # of the same models, only gpt-4o is undated in both, and there they agree
    dearer = LITELLM.replace('"output_cost_per_token": 1e-05', '"output_cost_per_token": 2e-05')
    assert dearer != LITELLM
    (told,) = compare.compare(litellm.read(dearer), openrouter.read(OPENROUTER))
    assert told == Disagreement("gpt-4o", "openai/gpt-4o", "output", Decimal(20), Decimal(10), Decimal("100.00"))


def test_tenfold_jumps_in_a_list_are_seen_against_the_list_before() -> None:
    before = {draft.model: draft.card() for draft in litellm.read(LITELLM).prices}
    entries = json.loads(LITELLM)
    entries["gpt-4o"]["input_cost_per_token_batches"] = 1.25e-05
    after = litellm.read(json.dumps(entries))
    flagged = {}
    for draft in after.prices:
        jump = compare.jump(before[draft.model], draft.card())
        if jump is not None and jump.reaches(10):
            flagged[draft.model] = jump.place
    assert flagged == {"gpt-4o": "input, batch"}


def test_two_cards_of_one_model_are_set_side_by_side() -> None:
    old, new = card(base(input="2", output="10")), card(base(input="2.02", output="100"))
    (found,) = compare.between(old, new, model="gpt-4o", other_model="openai/gpt-4o")
    assert found == Disagreement("gpt-4o", "openai/gpt-4o", "output", Decimal(10), Decimal(100), Decimal("900.00"))
    assert found.jump.reaches(10)
    assert not found._replace(other_usd=Decimal("99.999999")).jump.reaches(10)


def test_a_list_that_is_silent_about_the_cache_does_not_disagree_about_it() -> None:
    told = drafted(("m", document(base(input="2", cached_input="0.2", output="8", reasoning="9"))))
    silent = drafted(("m", document(base(input="2", output="8"))))
    for one, other in ((told, silent), (silent, told)):
        # Thinking that is not priced apart is priced: as output.
        assert [found.place for found in compare.compare(one, other)] == ["reasoning"]
    dearer = drafted(("m", document(base(input="2", cached_input="2", output="8", reasoning="9"))))
    assert [found.place for found in compare.compare(told, dearer)] == ["cached_input"]
