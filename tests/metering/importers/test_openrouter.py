"""OpenRouter's list of models: strings a token, overrides by length and by the hour."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import rating
from metering.importers import openrouter
from metering.importers.drafted import BadSource, Drafted, DraftPrice
from metering.names import Name
from metering.rating import Counts
from tests.metering.importers import garbage

TEXT = (Path(__file__).parent / "openrouter.json").read_text()
DRAFTED = openrouter.read(TEXT)
NOON = datetime(2026, 11, 19, 12, tzinfo=UTC)  # a Thursday


def draft(model: str) -> DraftPrice:
    (found,) = (price for price in DRAFTED.prices if price.model == model)
    return found


def read(*, modalities: Any = ("text",), **pricing: Any) -> Drafted:
    """What becomes of one model with these prices."""
    told = {"prompt": "0.000003", "completion": "0.000015", **pricing}
    model = {"id": "v/m", "architecture": {"input_modalities": modalities}, "pricing": told}
    return openrouter.read(json.dumps({"data": [model]}))


def base(drafted: Drafted) -> dict[str, str]:
    (price,) = drafted.prices
    rates: dict[str, str] = price.rates["terms"][0]["rates"]
    return rates


def usd(model: str, at: datetime = NOON, **counts: Any) -> Decimal:
    """What a request would cost by the draft."""
    return Decimal(rating.rate(draft(model).card(), Counts(**counts), at).cost_pico).scaleb(-12)


def test_every_draft_of_the_list_is_a_card() -> None:
    assert [price.model for price in DRAFTED.prices] == [
        "anthropic/claude-sonnet-4.5", "openai/gpt-4o", "google/gemini-2.5-pro", "deepseek/deepseek-night",
        "google/gemma-4-31b-it:free",
    ]  # fmt: skip
    garbage.prove(openrouter.read, TEXT)
    for price in DRAFTED.prices:
        rating.check_card(price.rates)


def test_a_model_is_named_as_openrouters() -> None:
    price = draft("anthropic/claude-sonnet-4.5")
    assert price.name == Name("claude-sonnet-4-5", vendor="anthropic", route="openrouter")
    assert price.source == "OpenRouter's /api/v1/models, anthropic/claude-sonnet-4.5"
    assert draft("google/gemma-4-31b-it:free").name.variant == "free"


def test_claude_has_both_cache_writes_and_a_long_context() -> None:
    """https://openrouter.ai/anthropic/claude-sonnet-4.5."""
    assert draft("anthropic/claude-sonnet-4.5").rates == {
        "terms": [
            {
                "when": {},
                "rates": {
                    "input": "3", "cached_input": "0.3", "cache_write": "3.75", "cache_write_1h": "6",
                    "image_input": "3", "cached_image_input": "0.3", "output": "15",
                },
            },
            {
                "when": {"above_input_tokens": 200000},
                "rates": {
                    "input": "6", "cached_input": "0.6", "cache_write": "7.5", "cache_write_1h": "12",
                    "image_input": "6", "cached_image_input": "0.6", "output": "22.5",
                },
            },
        ],
        "units": {"web_search_requests": "0.01"},
        "request": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "counts", "cost"),
    [
        ("anthropic/claude-sonnet-4.5", {"input_tokens": 200_000}, "0.6"),
        ("anthropic/claude-sonnet-4.5", {"input_tokens": 200_001}, "1.200006"),
        ("openai/gpt-4o", {"input_tokens": 1000, "cache_write_tokens": 1000}, "0.0025"),
        ("openai/gpt-4o", {"output_tokens": 1000, "reasoning_tokens": 1000}, "0.01"),
        ("google/gemini-2.5-pro", {"output_tokens": 1000, "reasoning_tokens": 900}, "0.01"),
        (
            "google/gemini-2.5-pro",
            {"input_tokens": 300_000, "image_input_tokens": 1000, "output_tokens": 10, "reasoning_tokens": 10},
            "0.75015",
        ),
        ("google/gemma-4-31b-it:free", {"input_tokens": 1000, "output_tokens": 1000}, "0"),
        ("deepseek/deepseek-night", {"input_tokens": 1000}, "0.0016"),
    ],
)
def test_requests_cost_what_a_hand_computes(model: str, counts: dict[str, Any], cost: str) -> None:
    assert usd(model, **counts) == Decimal(cost)


@pytest.mark.parametrize(
    ("at", "tokens", "per_million"),
    [
        (datetime(2026, 11, 20, 23, tzinfo=UTC), 1000, "0.6"),  # Friday night
        (datetime(2026, 11, 21, 1, 29, tzinfo=UTC), 1000, "0.3"),  # Saturday before dawn is Saturday here
        (datetime(2026, 11, 21, 1, 30, tzinfo=UTC), 1000, "0.6"),
        (datetime(2026, 11, 21, 22, tzinfo=UTC), 1000, "0.3"),
        (datetime(2026, 11, 22, 23, 59, tzinfo=UTC), 1000, "0.3"),
        (datetime(2026, 11, 23, 0, 0, tzinfo=UTC), 1000, "0.6"),  # Monday, though the window began on Sunday
        (datetime(2026, 11, 21, 22, tzinfo=UTC), 64_001, "1.2"),  # the later override wins
        (datetime(2026, 11, 20, 12, tzinfo=UTC), 64_001, "1.2"),
    ],
)
def test_windows_hold_on_the_weekday_of_the_moment(at: datetime, tokens: int, per_million: str) -> None:
    expected = Decimal(per_million) * tokens / 1_000_000 + Decimal("0.001")
    assert usd("deepseek/deepseek-night", at, input_tokens=tokens) == expected


def test_later_overrides_win_price_by_price_and_the_rest_is_the_bases() -> None:
    drafted = read(
        input_cache_read="0.0000003",
        overrides=[
            {"min_prompt_tokens": 1000, "prompt": "0.000004", "completion": "0.000016"},
            {"min_prompt_tokens": 500, "prompt": "0.000005"},
        ],
    )
    (price,) = drafted.prices
    assert {entry["when"].get("above_input_tokens", 0): entry["rates"] for entry in price.rates["terms"]} == {
        0: {"input": "3", "cached_input": "0.3", "output": "15"},
        500: {"input": "5", "cached_input": "0.3", "output": "15"},
        1000: {"input": "5", "cached_input": "0.3", "output": "16"},
    }


def test_a_weekday_without_hours_is_the_whole_day() -> None:
    (price,) = read(overrides=[{"utc_days": ["sunday"], "prompt": "0.000001"}]).prices
    card = price.card()
    for at, pico in (
        (datetime(2026, 11, 21, 23, 59, tzinfo=UTC), 3_000_000),
        (datetime(2026, 11, 22, 0, 0, tzinfo=UTC), 1_000_000),
        (datetime(2026, 11, 22, 12, 0, tzinfo=UTC), 1_000_000),
        (datetime(2026, 11, 22, 23, 59, tzinfo=UTC), 1_000_000),
        (datetime(2026, 11, 23, 0, 0, tzinfo=UTC), 3_000_000),
    ):
        assert rating.rate(card, Counts(input_tokens=1), at).cost_pico == pico


def test_two_windows_apart_are_two_entries_and_overlapping_ones_are_refused() -> None:
    morning, noon = {"utc_start": 600, "utc_end": 1200}, {"utc_start": 1200, "utc_end": 0}
    apart = read(overrides=[{**morning, "prompt": "0.000001"}, {**noon, "prompt": "0.000002"}])
    assert [entry["rates"]["input"] for entry in apart.prices[0].rates["terms"]] == ["3", "1", "2"]
    over = read(overrides=[{**morning, "prompt": "0.000001"}, {**noon, "utc_start": 1159, "prompt": "0.000002"}])
    assert [str(refusal) for refusal in over.refused] == [
        "v/m: pricing.overrides: windows that overlap in part cannot be told as entries of a card"
    ]
    weekend, sunday = {**morning, "utc_days": ["saturday", "sunday"]}, {"utc_days": ["sunday"]}
    monday = {"utc_days": ["monday"]}
    for other, refused in ((sunday, True), (monday, False)):
        both = read(overrides=[{**weekend, "prompt": "0.000001"}, {**other, "prompt": "0.000002"}])
        assert bool(both.refused) is refused
        for price in (*apart.prices, *both.prices):
            rating.check_card(price.rates)


def test_nothing_charged_apart_is_no_rate() -> None:
    drafted = read(
        request="0", image="0", web_search="0", internal_reasoning="0", input_cache_read="0", input_cache_write="0",
        discount=0,
    )  # fmt: skip
    assert base(drafted) == {"input": "3", "output": "15"}
    assert drafted.prices[0].rates["units"] == {}
    assert drafted.prices[0].gaps == ()


@pytest.mark.parametrize(
    ("pricing", "rates"),
    [
        ({"image": "0.000003"}, {"image_input": "3"}),
        ({"image_token": "0.000007"}, {"image_input": "7"}),
        ({"image_token": "0.000007", "image": "0.000003"}, {"image_input": "7"}),
        ({"image_output": "0.00003"}, {"image_output": "30"}),
        ({"audio": "0.000006", "input_audio_cache": "0.000001"}, {"audio_input": "6", "cached_audio_input": "1"}),
        ({"audio_output": "0.00002"}, {"audio_output": "20"}),
        ({"internal_reasoning": "0.00002"}, {"reasoning": "20"}),
        ({"input_cache_write_1h": "0.000006"}, {"cache_write_1h": "6"}),
    ],
)
def test_each_price_has_its_pool(pricing: dict[str, str], rates: dict[str, str]) -> None:
    drafted = read(**pricing)
    assert base(drafted) == {"input": "3", "output": "15", **rates}
    assert drafted.prices[0].gaps == ()


def test_images_cost_what_text_costs_unless_they_are_priced_one_by_one() -> None:
    drafted = read(modalities=("text", "image"), input_cache_read="0.0000003")
    assert base(drafted) == {
        "input": "3", "cached_input": "0.3", "image_input": "3", "cached_image_input": "0.3", "output": "15",
    }  # fmt: skip
    assert [str(note) for note in drafted.prices[0].assumed] == ["v/m: image_input: images cost what text costs"]
    assert [str(gap) for gap in draft("openai/gpt-4o").gaps] == [
        "openai/gpt-4o: pricing.image: 0.003613 USD an image has no place in a rate card"
    ]
    with pytest.raises(rating.Unpriced):
        usd("openai/gpt-4o", input_tokens=10, image_input_tokens=10)
    by_token = read(image_output="0.00003")
    assert [str(note) for note in by_token.prices[0].assumed] == [
        "v/m: pricing.image_output: 0.00003 USD is the price of a token, not of an image"
    ]
    by_image = read(image_output="0.04")
    assert [gap.place for gap in by_image.prices[0].gaps] == ["v/m: pricing.image_output"]


def test_an_unknown_price_is_reported() -> None:
    drafted = read(
        video="0.01", discount=0.1, overrides=[{"min_prompt_tokens": 5, "prompt": "0", "moon_phase": "full"}]
    )
    assert [gap.place for gap in drafted.prices[0].gaps] == [
        "v/m: pricing.video", "v/m: pricing.discount", "v/m: pricing.overrides[0].moon_phase",
    ]  # fmt: skip


def test_dynamic_prices_and_rates_too_fine_are_refused_with_their_reason() -> None:
    assert [str(refusal) for refusal in DRAFTED.refused] == [
        "openrouter/auto: pricing.prompt: -1: the price depends on where OpenRouter sends the request",
        "openrouter/auto: pricing.completion: -1: the price depends on where OpenRouter sends the request",
        "google/gemini-2.5-flash: pricing.input_cache_write: 0.00000008333333333333334 USD a token is"
        " 0.08333333333333334 per 1M: more than 6 decimals",
    ]
    assert [str(note) for note in DRAFTED.ignored] == [
        "~anthropic/claude-sonnet-latest: an alias that OpenRouter moves from model to model"
    ]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("prompt", "-0.000003", "negative"),
        ("image", "-0.01", "negative"),
        ("prompt", "NaN", "NaN is not a decimal number"),
        ("prompt", "", "not a decimal number"),
        ("prompt", "١", "not a decimal number"),
        ("prompt", "1_0", "not a decimal number"),
        ("prompt", 0.000003, "a string here, not a number"),
        ("prompt", ["0"], "not an array"),
        ("prompt", None, "no rate; free is 0"),
        ("completion", "3", "is it a price per 1M?"),
        ("completion", "1e-13", "more than 6 decimals"),
        ("input_cache_read", True, "not a boolean"),
        ("request", "-1", "depends on where"),
        ("request", 1, "a string here"),
        ("web_search", "x", "not a decimal number"),
        ("overrides", {}, "a list of at most 16"),
        ("overrides", [{"min_prompt_tokens": 1}] * 17, "a list of at most 16"),
    ],
)
def test_a_wrong_price_is_refused_in_its_place(key: str, value: object, why: str) -> None:
    drafted = read(**{key: value})
    assert drafted.prices == ()
    (refusal,) = drafted.refused
    assert refusal.place == f"v/m: pricing.{key}"
    assert why in refusal.reason


@pytest.mark.parametrize(
    ("override", "why"),
    [
        (7, "an object is needed"),
        ({"prompt": "0.000001"}, "no condition"),
        ({"min_prompt_tokens": 0}, "min_prompt_tokens"),
        ({"min_prompt_tokens": "200000"}, "min_prompt_tokens"),
        ({"min_prompt_tokens": True}, "min_prompt_tokens"),
        ({"utc_start": 100}, "two different times"),
        ({"utc_start": 100, "utc_end": 100}, "two different times"),
        ({"utc_start": 175, "utc_end": 100}, "utc_start: a clock number"),
        ({"utc_start": 100, "utc_end": 2500}, "utc_end: a clock number"),
        ({"utc_start": "01:00", "utc_end": 200}, "utc_start: a clock number"),
        ({"utc_days": []}, "weekdays"),
        ({"utc_days": ["someday"]}, "weekdays"),
        ({"utc_days": "monday"}, "weekdays"),
        ({"utc_days": [[]]}, "weekdays"),
    ],
)
def test_a_wrong_override_is_refused_in_its_place(override: object, why: str) -> None:
    drafted = read(overrides=[override])
    assert drafted.prices == ()
    (refusal,) = drafted.refused
    assert refusal.place == "v/m: pricing.overrides[0]"
    assert why in refusal.reason


def test_entries_that_are_no_models_or_share_an_id_are_refused_and_the_others_are_drafted() -> None:
    good = {"id": "v/good", "pricing": {"prompt": "0", "completion": "0"}}
    twice = {"id": "v/twice", "pricing": {"prompt": "0", "completion": "0"}}
    body = {"data": [7, {"id": 5}, {"id": "a b"}, {"id": "v/none"}, twice, good, twice]}
    drafted = openrouter.read(json.dumps(body))
    assert [price.model for price in drafted.prices] == ["v/good"]
    assert [str(refusal) for refusal in drafted.refused] == [
        "data[0]: an object is needed, not a number",
        "data[1].id: a model id is a string, not a number",
        "data[2].id: a model id has 1 to 200 printable characters and no spaces",
        "v/none: pricing: an object is needed, not null",
        "v/twice: data[4] is one of 2 entries with this id",
        "v/twice: data[6] is one of 2 entries with this id",
    ]
    doubled = '{"id": "v/m", "id": "v/m", "pricing": {"prompt": "0", "completion": "0", "prompt": "0"}}'
    assert [str(refusal) for refusal in openrouter.read(f'{{"data": [{doubled}]}}').refused] == [
        "v/m: id: it stands there more than once",
        "v/m: pricing.prompt: it stands there more than once",
    ]


@pytest.mark.parametrize("raw", ["", "[]", "{}", '{"data": {}}', '{"data": [], "data": []}', TEXT[:-40], "null"])
def test_what_is_no_such_list_is_refused_whole(raw: str) -> None:
    with pytest.raises(BadSource):
        openrouter.read(raw)


KEYS = st.sampled_from([*openrouter._POOLS, *sorted(openrouter._CONDITIONS), "request", "web_search", "overrides", "x"])
GOOD = st.sampled_from(['"0"', '"0.000001"', '"0.0000025"', "null"])
CONDITIONS = st.sampled_from(
    [
        '"min_prompt_tokens":200000', '"min_prompt_tokens":100', '"utc_start":100,"utc_end":400',
        '"utc_start":2200,"utc_end":30', '"utc_days":["monday"]', '"utc_days":["sunday","friday"]',
    ]
)  # fmt: skip
PRICES = garbage.objects(
    st.sampled_from([*list(openrouter._POOLS)[2:], "request", "web_search", "x"]),
    st.integers(0, 9).flatmap(lambda die: GOOD if die else garbage.anything(KEYS)),
)
OVERRIDES = garbage.arrays(
    st.builds(lambda when, told: f"{{{when},{told.removeprefix('{')}".replace(",}", "}"), CONDITIONS, PRICES)
)


@st.composite
def lists(draw: st.DrawFn) -> str:
    """Lists of models, the right shape and any prices."""
    models = []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(['"v/m"', '"v/n:free"', '"v/o"', '"v/p"', '"~v/m"', "7", '"\\ud800"']))
        pricing = '"prompt":"0.000001","completion":"0.000002",' + draw(PRICES).removeprefix("{")
        overrides = draw(st.one_of(OVERRIDES, OVERRIDES, garbage.anything(KEYS)))
        told = f'{{"overrides":{overrides},{pricing}'
        models.append(f'{{"id":{name},"architecture":{draw(garbage.anything(KEYS))},"pricing":{told}}}')
    return f'{{"data":[{",".join(models)}]}}'.replace(",}", "}")


@settings(max_examples=150)
@given(lists())
def test_random_lists_give_cards_or_reasons_and_nothing_else(text: str) -> None:
    drafted = garbage.prove(openrouter.read, text)
    assert drafted is not None, "a list of models is always read"


@settings(max_examples=150)
@given(garbage.damaged(TEXT) | garbage.anything(st.just("data")))
def test_damaged_lists_give_cards_or_reasons_and_nothing_else(raw: bytes | str) -> None:
    garbage.prove(openrouter.read, raw)


def test_prices_that_came_out_of_floats_are_taken_for_what_was_meant_and_it_is_said() -> None:
    drafted = read(
        prompt="0.00000015000000000000002", web_search="0.010000000000000002", request="0.0009999999999999999"
    )
    (price,) = drafted.prices
    assert price.rates == {
        "terms": [{"when": {}, "rates": {"input": "0.15", "output": "15"}}],
        "units": {"web_search_requests": "0.01"},
        "request": "0.001",
    }
    assert [note.place for note in price.assumed] == [
        "v/m: pricing.prompt", "v/m: pricing.web_search", "v/m: pricing.request",
    ]  # fmt: skip
    override = read(overrides=[{"min_prompt_tokens": 5, "prompt": "0.0000060000000000000008"}])
    assert [note.place for note in override.prices[0].assumed] == ["v/m: pricing.overrides[0].prompt"]


def test_a_negative_price_is_grave_and_one_that_depends_is_not() -> None:
    grave = {refusal.place: refusal.grave for refusal in (*read(prompt="-0.000003").refused, *DRAFTED.refused)}
    assert grave == {
        "v/m: pricing.prompt": True,
        "openrouter/auto: pricing.prompt": False,
        "openrouter/auto: pricing.completion": False,
        "google/gemini-2.5-flash: pricing.input_cache_write": False,
    }


def test_what_the_list_does_not_state_of_an_entry_is_named() -> None:
    drafted = read(
        modalities=["text", "image"],
        input_cache_read="0.0000003",
        overrides=[{"min_prompt_tokens": 200000, "prompt": "0.000006"}],
    )
    assert [set(pools) for pools in drafted.prices[0].implied] == [
        {"image_input", "cached_image_input"},
        {"image_input", "cached_image_input", "cached_input", "output"},
    ]
