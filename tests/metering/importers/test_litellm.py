"""LiteLLM's price file: what it says becomes a card, what a card cannot say is said."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import rating
from metering.importers import litellm
from metering.importers.drafted import BadSource, Drafted, DraftPrice
from metering.names import Name
from metering.rating import Counts
from tests.metering.importers import garbage

TEXT = (Path(__file__).parent / "litellm.json").read_text()
DRAFTED = litellm.read(TEXT)
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def draft(model: str) -> DraftPrice:
    (found,) = (price for price in DRAFTED.prices if price.model == model)
    return found


def terms(price: DraftPrice) -> dict[str, Any]:
    """The rates by condition."""
    return {json.dumps(entry["when"]): entry["rates"] for entry in price.rates["terms"]}


def read(**entry: Any) -> Drafted:
    """What becomes of one entry; a string is JSON as it stands."""
    told = {"mode": '"chat"', "input_cost_per_token": "3e-06", "output_cost_per_token": "1.5e-05"}
    told |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in entry.items()}
    members = ",".join(f"{json.dumps(key)}:{value}" for key, value in told.items() if value != "absent")
    return litellm.read(f'{{"m": {{{members}}}}}')


def usd(model: str, **counts: Any) -> Decimal:
    """What a request would cost by the draft."""
    return Decimal(rating.rate(draft(model).card(), Counts(**counts), NOW).cost_pico).scaleb(-12)


def test_every_draft_of_the_file_is_a_card() -> None:
    assert [price.model for price in DRAFTED.prices] == [
        "claude-sonnet-4-5-20250929", "gpt-4o", "gpt-5.4", "gemini/gemini-2.5-flash", "xai/grok-4.3",
        "dashscope/qwen3-coder-flash", "perplexity/sonar", "text-embedding-3-small",
    ]  # fmt: skip
    assert DRAFTED.refused == ()
    garbage.prove(litellm.read, TEXT)


def test_claude_has_both_cache_writes_and_a_long_context() -> None:
    """https://platform.claude.com/docs/en/about-claude/pricing."""
    price = draft("claude-sonnet-4-5-20250929")
    assert price.rates == {
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
    assert price.name == Name("claude-sonnet-4-5", date="2025-09-29")
    assert price.source == (
        "LiteLLM's model_prices_and_context_window.json, claude-sonnet-4-5-20250929,"
        " https://platform.claude.com/docs/en/about-claude/pricing"
    )
    assert price.gaps == ()
    assert [str(note) for note in price.assumed] == [
        "claude-sonnet-4-5-20250929: image_input: images cost what text costs"
    ]


@pytest.mark.parametrize(
    ("model", "counts", "cost"),
    [
        # 150,000 at 3 and 50,000 cached at 0.3 USD per 1M: exactly 200,000 is not above.
        ("claude-sonnet-4-5-20250929", {"input_tokens": 200_000, "cached_input_tokens": 50_000}, "0.465"),
        # One token more re-prices the whole request, cache and all.
        ("claude-sonnet-4-5-20250929", {"input_tokens": 200_001, "cached_input_tokens": 50_000}, "0.930006"),
        ("claude-sonnet-4-5-20250929", {"input_tokens": 1000, "cache_write_1h_tokens": 1000}, "0.006"),
        ("claude-sonnet-4-5-20250929", {"units": {"web_search_requests": 3}}, "0.03"),
        ("gpt-4o", {"input_tokens": 1_000_000, "output_tokens": 100_000, "batch": True}, "1.75"),
        ("gpt-4o", {"input_tokens": 1_000_000, "service_tier": "priority"}, "4.25"),
        ("gemini/gemini-2.5-flash", {"input_tokens": 1000, "audio_input_tokens": 400}, "0.00058"),
        ("gemini/gemini-2.5-flash", {"output_tokens": 1000, "reasoning_tokens": 900, "batch": True}, "0.00125"),
        ("xai/grok-4.3", {"input_tokens": 199_999}, "0.24999875"),
        ("xai/grok-4.3", {"input_tokens": 200_000}, "0.5"),
        ("dashscope/qwen3-coder-flash", {"input_tokens": 32_000}, "0.0096"),
        ("dashscope/qwen3-coder-flash", {"input_tokens": 40_000, "cached_input_tokens": 40_000}, "0.02"),
        ("perplexity/sonar", {"input_tokens": 1000, "units": {"web_search_requests_high": 1}}, "0.018"),
        ("text-embedding-3-small", {"input_tokens": 1_000_000}, "0.02"),
    ],
)
def test_requests_cost_what_a_hand_computes(model: str, counts: dict[str, Any], cost: str) -> None:
    assert usd(model, **counts) == Decimal(cost)


def test_what_a_card_cannot_say_is_a_gap_and_stays_unpriced() -> None:
    assert [str(gap) for gap in draft("gpt-4o").gaps] == [
        "gpt-4o: regional_processing_uplift_multiplier_eu: 1.1 has no place in a rate card"
    ]
    assert [str(gap) for gap in draft("gemini/gemini-2.5-flash").gaps] == [
        "gemini/gemini-2.5-flash: web_search_billing_unit: searches are charged per_prompt, not by the query"
    ]
    assert [gap.place for gap in draft("perplexity/sonar").gaps] == [
        "perplexity/sonar: citation_cost_per_token",
        "perplexity/sonar: search_context_cost_per_query",
    ]
    with pytest.raises(rating.Unpriced):
        usd("perplexity/sonar", units={"web_search_requests": 1})
    with pytest.raises(rating.Unpriced):
        usd("gemini/gemini-2.5-flash", input_tokens=5, image_input_tokens=5)


def test_what_the_file_leaves_open_is_settled_and_said() -> None:
    price = draft("gpt-5.4")
    assert terms(price)['{"service_tier": "flex", "above_input_tokens": 272000}'] == {
        "input": "5", "cached_input": "0.5", "output": "22.5",
    }  # fmt: skip
    assert [str(note) for note in price.assumed] == [
        "gpt-5.4: flex, above 272000 input tokens: no rate of its own for input, output, cached_input:"
        " a less specific one"
    ]
    long_batch = read(
        input_cost_per_token_batches=1.5e-06, output_cost_per_token_batches=7.5e-06,
        input_cost_per_token_above_128k_tokens=6e-06, cache_read_input_token_cost=0,
    )  # fmt: skip
    assert [str(note) for note in long_batch.prices[0].assumed] == [
        "m: cached_input: 0 is free, though input is not",
        "m: batch: no rates above 128000 input tokens: its rates hold there too",
        "m: above 128000 input tokens: no rate of its own for output, cached_input: a less specific one",
        "m: batch: no rate of its own for cached_input: a less specific one",
    ]
    free = read(input_cost_per_token=0, output_cost_per_token=0)
    assert [str(note) for note in free.prices[0].assumed] == ["m: all rates are 0, which is free and not unknown"]


@pytest.mark.parametrize(
    ("key", "when", "pool"),
    [
        ("input_cost_per_token_above_128k_tokens", {"above_input_tokens": 128_000}, "input"),
        ("input_cost_per_token_above_500_tokens", {"above_input_tokens": 500}, "input"),
        ("output_cost_per_token_flex", {"service_tier": "flex"}, "output"),
        ("output_cost_per_token_ultrafast", {"service_tier": "ultrafast"}, "output"),
        ("output_cost_per_reasoning_token_batches", {"batch": True}, "reasoning"),
        ("cache_creation_input_token_cost_above_1hr", {}, "cache_write_1h"),
        (
            "cache_creation_input_token_cost_above_1hr_above_200k_tokens_priority",
            {"service_tier": "priority", "above_input_tokens": 200_000},
            "cache_write_1h",
        ),
        (
            "cache_creation_input_token_cost_above_200k_tokens_above_1hr",
            {"above_input_tokens": 200_000},
            "cache_write_1h",
        ),
        ("input_cost_per_token_cache_hit", {}, "cached_input"),
        ("input_cost_per_audio_token", {}, "audio_input"),
        ("output_cost_per_audio_token_priority", {"service_tier": "priority"}, "audio_output"),
        ("input_cost_per_image_token", {}, "image_input"),
        ("output_cost_per_image_token", {}, "image_output"),
        ("cache_read_input_audio_token_cost", {}, "cached_audio_input"),
        ("cache_read_input_image_token_cost", {}, "cached_image_input"),
    ],
)
def test_a_key_is_a_base_and_its_suffixes(key: str, when: dict[str, Any], pool: str) -> None:
    (price,) = read(**{key: 7e-06}).prices
    assert terms(price)[json.dumps(when)][pool] == "7"
    assert price.gaps == ()


@pytest.mark.parametrize(
    "key",
    [
        "input_cost_per_token_above_200k_tokens_above_128k_tokens",
        "input_cost_per_token_flex_priority",
        "input_cost_per_token_above_1hr",
        "cache_creation_input_token_cost_above_1hr_above_1hr",
        "input_cost_per_token_above_15s_interval",
        "input_cost_per_token_weekend",
        "input_cost_per_tokens",
        "output_cost_per_image",
        "ocr_cost_per_page",
        "inference_geo_us_multiplier",
        "off_peak_pricing",
        "PriceOfAdmission",
        "batch_discount",
    ],
)
def test_an_unknown_key_that_speaks_of_cost_is_reported(key: str) -> None:
    (price,) = read(**{key: 7e-06}).prices
    assert [gap.place for gap in price.gaps] == [f"m: {key}"]
    assert terms(price) == {"{}": {"input": "3", "output": "15"}}


def test_what_does_not_speak_of_cost_is_no_gap() -> None:
    (price,) = read(
        max_tokens=4096, supports_vision=False, rpm=10, provider_specific_entry={"schema": "v2"}, comment='"x"',
        input_cost_per_image=None, metadata={"notes": "feedback"},
    ).prices  # fmt: skip
    assert price.gaps == ()
    (fast,) = read(provider_specific_entry={"fast": 6.0}).prices
    assert [gap.place for gap in fast.gaps] == ["m: provider_specific_entry"]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("input_cost_per_token", "-3e-06", "negative"),
        ("input_cost_per_token", "NaN", "NaN is not a number a price can have"),
        ("input_cost_per_token", "Infinity", "Infinity is not"),
        ("input_cost_per_token", "1e999", "1e999 is not"),
        ("input_cost_per_token", '"3e-06"', "a number is needed, not a string"),
        ("input_cost_per_token", "true", "a number is needed, not a boolean"),
        ("input_cost_per_token", "[3e-06]", "a number is needed, not an array"),
        ("input_cost_per_token", "8.333333333333334e-08", "more than 6 decimals"),
        ("input_cost_per_token", "3", "is it a price per 1M?"),
        ("output_cost_per_token_priority", "{}", "a number is needed, not an object"),
        ("cache_read_input_token_cost_above_200k_tokens", "-1", "negative"),
        ("input_cost_per_request", "-1", "negative"),
        ("code_interpreter_cost_per_session", '"0.03"', "not a string"),
        ("search_context_cost_per_query", "0.01", "an object is needed"),
        ("search_context_cost_per_query", '{"search_context_size_low": -1}', "negative"),
        ("search_context_cost_per_query", '{"a": 1, "a": 2}', "a stands in it more than once"),
        ("tiered_pricing", "[]", "a list of ranges"),
        ("tiered_pricing", "[1]", "an object is needed"),
        ("tiered_pricing", '[{"range": [0]}]', "two ends"),
        ("tiered_pricing", '[{"range": [0, "x"]}]', "a number is needed"),
        ("tiered_pricing", '[{"range": [10, 0]}]', "no range"),
        ("tiered_pricing", '[{"range": [0.5, 9]}]', "no range"),
        ("tiered_pricing", '[{"range": [0, 10]}, {"range": [20, 30]}]', "without a hole: 10 is followed by 20"),
        ("tiered_pricing", '[{"range": [0, 10], "input_cost_per_token": 4e-06}]', "stated twice"),
        ("tiered_pricing", '[{"range": [0, 10], "input_cost_per_token": -4e-06}]', "negative"),
        ("input_cost_per_token", "absent", "no rate for input"),
        ("output_cost_per_token", "null", "no rate for output"),
        ("mode", "7", "a string is needed, not a number"),
    ],
)  # fmt: skip
def test_a_wrong_price_is_refused_in_its_place(key: str, value: str, why: str) -> None:
    drafted = read(**{key: value})
    assert drafted.prices == ()
    (refusal,) = drafted.refused
    assert refusal.place == f"m: {key}"
    assert why in refusal.reason


def test_everything_wrong_with_a_model_is_named_and_the_others_are_drafted() -> None:
    drafted = litellm.read(
        '{"bad": {"mode": "chat", "input_cost_per_token": -1, "output_cost_per_token": NaN, "mode": "chat"},'
        ' "worse": 7, "good": {"mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 1e-06}}'
    )
    assert [price.model for price in drafted.prices] == ["good"]
    assert [str(refusal) for refusal in drafted.refused] == [
        "bad: mode: it stands in the entry more than once",
        "bad: input_cost_per_token: -1 is negative",
        "bad: output_cost_per_token: NaN is not a number a price can have",
        "worse: an object is needed, not a number",
    ]


def test_a_model_that_stands_there_twice_is_refused_whatever_it_says() -> None:
    entry = '{"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06}'
    drafted = litellm.read(f'{{"m": {entry}, "m": {entry}}}')
    assert drafted.prices == ()
    assert [str(refusal) for refusal in drafted.refused] == ["m: it stands in the document more than once"]


@pytest.mark.parametrize("model", ["", "a b", "a\u0000", "\ud800", "x" * 201])
def test_a_model_id_that_no_page_could_show_is_refused(model: str) -> None:
    entry = {"mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0}
    drafted = litellm.read(json.dumps({model: entry}))
    assert drafted.prices == ()
    assert all(str(refusal).isprintable() for refusal in drafted.refused)
    assert len(drafted.refused) == 1


def test_other_modes_and_the_example_are_ignored_with_their_reason() -> None:
    assert [str(note) for note in DRAFTED.ignored] == [
        "sample_spec: the file's own example",
        "dall-e-3: its mode is image_generation; taken are chat, completion, embedding, responses",
        "fireworks-ai-default: it names no mode",
    ]


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b'"x"', b"null", TEXT[: len(TEXT) // 2].encode(), b"\xff\xfe"])
def test_what_is_no_such_file_is_refused_whole(raw: bytes) -> None:
    with pytest.raises(BadSource):
        litellm.read(raw)


@given(
    st.fixed_dictionaries({name: st.integers(0, 10**7) for name in ("input", "cached", "output", "long", "flex")}),
    st.integers(0, 400_000), st.integers(0, 1000), st.booleans(),
)  # fmt: skip
def test_a_drafted_card_costs_what_the_file_says_a_token_costs(
    pico: Mapping[str, int], tokens: int, cached: int, flex: bool
) -> None:
    """Against an oracle that multiplies the file's own numbers as fractions."""
    told = {name: format(Decimal(rate).scaleb(-12), "e") for name, rate in pico.items()}
    (price,) = read(
        input_cost_per_token=told["input"], output_cost_per_token=told["output"],
        cache_read_input_token_cost=told["cached"], cache_read_input_token_cost_flex=told["cached"],
        input_cost_per_token_above_200k_tokens=told["long"], input_cost_per_token_flex=told["flex"],
        input_cost_per_token_above_200k_tokens_flex=told["flex"], output_cost_per_token_flex=told["output"],
    ).prices  # fmt: skip
    cached = min(tokens, cached)
    counts = Counts(
        input_tokens=tokens, cached_input_tokens=cached, output_tokens=9, service_tier="flex" if flex else None
    )
    rate = told["flex"] if flex else told["long"] if tokens > 200_000 else told["input"]
    # A cache rate that only repeats the input's is the input's, at any length.
    held = rate if pico["cached"] == pico["input"] and not flex and tokens > 200_000 else told["cached"]
    expected = Fraction(rate) * (tokens - cached) + Fraction(held) * cached + Fraction(told["output"]) * 9
    assert Fraction(rating.rate(price.card(), counts, NOW).cost_pico, 10**12) == expected


SUFFIXES = ("_above_200k_tokens", "_above_128k_tokens", "_above_1hr", "_flex", "_priority", "_batches", "_weekend")
KEYS = st.one_of(
    st.sampled_from(
        [
            *sorted({key for entry in json.loads(TEXT).values() for key in entry}),
            *litellm._FEES, *litellm._SEARCHES, "range", "input_cost_per_second", "sample_spec",
        ]
    ),
    st.builds(
        lambda base, suffixes: base + "".join(suffixes),
        st.sampled_from(sorted(litellm._BASES)),
        st.lists(st.sampled_from(SUFFIXES), max_size=3),
    ),
)  # fmt: skip
RATES = st.sampled_from(["0", "1e-06", "2.5e-07", "3e-06", "0.00000028", "null"])
ENTRIES = garbage.objects(KEYS, st.integers(0, 9).flatmap(lambda die: RATES if die else garbage.anything(KEYS))).map(
    lambda entry: (
        '{"mode":"chat","input_cost_per_token":1e-06,"output_cost_per_token":2e-06,' + entry.removeprefix("{")
    ).replace(",}", "}")
)


@settings(max_examples=150)
@given(garbage.objects(KEYS | st.text(max_size=8), ENTRIES | garbage.anything(KEYS)))
def test_random_files_give_cards_or_reasons_and_nothing_else(text: str) -> None:
    drafted = garbage.prove(litellm.read, text)
    assert drafted is not None, "an object of models is always read"


@settings(max_examples=150)
@given(garbage.damaged(TEXT))
def test_a_damaged_file_gives_cards_or_reasons_and_nothing_else(raw: bytes) -> None:
    garbage.prove(litellm.read, raw)


def test_prices_that_came_out_of_floats_are_taken_for_what_was_meant_and_it_is_said() -> None:
    drafted = read(
        input_cost_per_token="2.9999999999999997e-06",
        input_cost_per_request="0.010000000000000002",
        search_context_cost_per_query={"search_context_size_low": 0.005000000000000001},
    )
    (price,) = drafted.prices
    assert price.rates == {
        "terms": [{"when": {}, "rates": {"input": "3", "output": "15"}}],
        "units": {"web_search_requests": "0.005"},
        "request": "0.01",
    }
    assert {note.place for note in price.assumed} == {
        "m: input_cost_per_token", "m: input_cost_per_request",
        "m: search_context_cost_per_query.search_context_size_low",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "grave"),
    [
        ("input_cost_per_token", "-3e-06", True),
        ("search_context_cost_per_query", '{"search_context_size_low": -1}', True),
        ("tiered_pricing", '[{"range": [0, 10], "input_cost_per_token": -4e-06}]', True),
        ("input_cost_per_token", "3", False),
        ("input_cost_per_token", "NaN", False),
    ],
)
def test_only_a_negative_price_is_grave(key: str, value: str, grave: bool) -> None:
    assert [refusal.grave for refusal in read(**{key: value}).refused] == [grave]


def test_what_the_file_does_not_state_of_an_entry_is_named() -> None:
    drafted = read(supports_vision=True, cache_read_input_token_cost=3e-07, input_cost_per_token_batches=1.5e-06)
    assert [set(pools) for pools in drafted.prices[0].implied] == [
        {"image_input", "cached_image_input"},
        {"image_input", "cached_image_input", "cached_input", "output"},
    ]
