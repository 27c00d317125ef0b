"""What a provider says was used."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from core import wire
from gateway import counts
from metering.events import Event


@pytest.mark.parametrize(
    ("usage", "values", "sound"),
    [
        (None, {}, True),
        ({}, {}, True),
        ([1], {}, True),
        ({"prompt_tokens": 3, "completion_tokens": 0}, {"input_tokens": 3, "output_tokens": 0}, True),
        ({"prompt_tokens": True, "completion_tokens": 2.0}, {}, True),
        ({"prompt_tokens": 2**31, "completion_tokens": 1}, {"output_tokens": 1}, False),
        (
            {"prompt_tokens": 10, "completion_tokens": 5,
             "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 2, "cache_write_tokens": 1},
             "completion_tokens_details": {"reasoning_tokens": 5}},
            {"input_tokens": 10, "output_tokens": 5, "cached_input_tokens": 4, "audio_input_tokens": 2,
             "cache_write_tokens": 1, "reasoning_tokens": 5}, True,
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}},
            {"input_tokens": 10, "output_tokens": 5}, False,
        ),
        ({"input_tokens": 1, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}},
         {"input_tokens": 1, "output_tokens": 2, "cached_input_tokens": 1}, True),
        ({"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": None, "prompt_cache_hit_tokens": 2},
         {"input_tokens": 5, "output_tokens": 5, "cached_input_tokens": 2}, True),
    ],
)  # fmt: skip
def test_only_counts_are_counts(usage: Any, values: dict[str, int], sound: bool) -> None:
    assert counts.read(usage) == (values, sound)


def test_what_is_absent_is_named() -> None:
    assert counts.read({"completion_tokens": 0}).absent == ["input_tokens"]
    assert counts.read(None).absent == ["input_tokens", "output_tokens"]


def test_an_answer_s_usage_is_the_contract_s() -> None:
    event = Event(
        event_id="e", model="m", occurred_at=datetime(2026, 1, 1, tzinfo=UTC), input_tokens=1000, output_tokens=200,
        cached_input_tokens=640,
    )  # fmt: skip
    assert wire.encode(counts.show(event, Decimal("0.000000362"))) == (
        b'{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200,'
        b'"prompt_tokens_details":{"cached_tokens":640,"cached_read_tokens":640,"image_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":0,"image_tokens":0},'
        b'"prompt_cache_hit_tokens":640,"prompt_cache_miss_tokens":360,"cost":{"total_cost":0.000000362}}'
    )
