"""The most that a request may cost: every unknown at its dearest, by the pricing of the debit."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from billing import admissions
from billing.admissions import Most
from core import clock, errors
from metering import rules, tokens
from orgs import caches
from orgs.audit import system
from orgs.models import Organization
from tests.billing import world
from tests.metering import world as metering
from tests.metering.test_rules import later

# A Monday; deepseek-v4-pro costs 1.32 and 3.96 from 01:00 to 04:00 and 06:00 to 10:00, half of it otherwise.
PEAK_BEGINS = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
PEAK_ENDS = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
OFF_PEAK, PEAK = Decimal("0.00264"), Decimal("0.00528")


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme")


def ask(owner: Organization, *, seconds: int = 600, **body: Any) -> Most:
    """The worst case of a request of deepseek-chat, unless it names another model."""
    request = admissions.read({"model": metering.MODEL, **body}, admissions.Request)
    model = admissions.find_model(request.model)
    return admissions.most(request, model=model, organization_id=owner.pk, seconds=seconds)


def at(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    monkeypatch.setattr(clock, "now", lambda: now)
    caches.forget_all()


def test_input_and_the_whole_cap_are_priced_at_once(acme: Organization) -> None:
    # 1,000 × 0.27 + 200 × 1.10 = 490 millionths.
    found = ask(acme, input_tokens=1000, max_output_tokens=200)
    assert found == Most("deepseek-chat", 200, 1200, Decimal("0.00049"))


def test_each_choice_may_use_the_cap_and_the_prompt_is_paid_once(acme: Organization) -> None:
    # 1,000 × 0.27 + 3 × 200 × 1.10 = 930 millionths.
    found = ask(acme, input_tokens=1000, max_output_tokens=200, n=3)
    assert found == Most("deepseek-chat", 200, 1600, Decimal("0.00093"))


def test_without_a_cap_the_default_is_held_and_told(acme: Organization, settings: Any) -> None:
    # 4,096 × 1.10 = 4,505.6 millionths.
    assert ask(acme, input_tokens=0) == Most("deepseek-chat", 4096, 4096, Decimal("0.0045056"))
    # A model that makes at most 8,192 is not held for more.
    settings.OUTPUT_TOKENS_DEFAULT = 100_000
    assert ask(acme, input_tokens=0).max_output_tokens == 8192
    # What has no output has no cap.
    assert ask(acme, model="text-embedding-3-small", input_tokens=1_000_000) == Most(
        "text-embedding-3-small", 0, 1_000_000, Decimal("0.02")
    )


def test_no_more_is_held_than_the_model_makes(acme: Organization) -> None:
    # 8,192 × 1.10 = 9,011.2 millionths, and twice that for two choices.
    assert ask(acme, input_tokens=0, max_output_tokens=8193) == Most("deepseek-chat", 8192, 8192, Decimal("0.0090112"))
    assert ask(acme, input_tokens=0, max_output_tokens=2**31 - 1, n=2) == Most(
        "deepseek-chat", 8192, 16_384, Decimal("0.0180224")
    )
    # Of this one the catalog tells no limit.
    assert ask(acme, model="gemma-4-31b-it", input_tokens=0, max_output_tokens=900_000).max_output_tokens == 900_000


def test_cache_writes_for_an_hour_are_what_claudes_input_may_cost(acme: Organization) -> None:
    # 200,000 × 6 + 10 × 15, and above the threshold 200,001 × 12 + 10 × 22.5.
    assert ask(acme, model="claude-sonnet-4-5", input_tokens=200_000, max_output_tokens=10).amount_usd == Decimal(
        "1.20015"
    )
    assert ask(acme, model="claude-sonnet-4-5", input_tokens=200_001, max_output_tokens=10).amount_usd == Decimal(
        "2.400237"
    )


def test_the_tier_asked_for_is_the_tier_priced(acme: Organization) -> None:
    asked: dict[str, Any] = {"model": "gpt-4o", "input_tokens": 1000, "max_output_tokens": 100}
    # 1,000 × 4.25 + 100 × 17, against 1,000 × 2.5 + 100 × 10.
    assert ask(acme, **asked, service_tier="priority").amount_usd == Decimal("0.00595")
    assert ask(acme, **asked, service_tier="auto").amount_usd == Decimal("0.0035")
    # 1,000 × 1.25 + 100 × 5, and two searches at a cent.
    assert ask(acme, **asked, batch=True, units={"web_search_requests": 2}).amount_usd == Decimal("0.02175")


def test_an_alias_is_its_model(acme: Organization) -> None:
    assert ask(acme, model="gpt-4o-2024-08-06", input_tokens=1).model == "gpt-4o"


def test_a_free_model_holds_nothing(acme: Organization) -> None:
    found = ask(acme, model="gemma-4-31b-it", input_tokens=100_000)
    assert found == Most("gemma-4-31b-it", 4096, 104_096, Decimal(0))


@pytest.mark.parametrize(
    ("now", "seconds", "expected"),
    [
        (PEAK_BEGINS - timedelta(seconds=601), 600, OFF_PEAK),
        (PEAK_BEGINS - timedelta(seconds=600), 600, PEAK),
        (PEAK_BEGINS - timedelta(hours=1), 3600, PEAK),
        (PEAK_BEGINS, 1, PEAK),
        # A gateway may have accepted the request up to a minute ago, by its clock.
        (PEAK_ENDS + timedelta(seconds=59), 1, PEAK),
        (PEAK_ENDS + timedelta(seconds=60), 600, OFF_PEAK),
        # The gap between the peaks, and the next one.
        (PEAK_ENDS + timedelta(minutes=50), 3600, OFF_PEAK),
        (PEAK_ENDS + timedelta(minutes=61), 3600, PEAK),
    ],
)
def test_the_dearest_hour_that_the_hold_can_touch_counts(
    acme: Organization, monkeypatch: pytest.MonkeyPatch, now: datetime, seconds: int, expected: Decimal
) -> None:
    at(monkeypatch, now)
    # 1,000 × 0.66 + 1,000 × 1.98 off peak, twice that at peak.
    found = ask(acme, model="deepseek-v4-pro", input_tokens=1000, max_output_tokens=1000, seconds=seconds)
    assert found.amount_usd == expected


def test_a_price_that_comes_into_force_while_the_hold_lasts_counts(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"input_tokens": 1000, "max_output_tokens": 0}
    start = later(minutes=10)
    rules.publish(by=system("tests"), reason="more", effective_from=start, organization=acme, factor=Decimal(2))
    assert ask(acme, **asked, seconds=60).amount_usd == Decimal("0.00027")
    at(monkeypatch, start - timedelta(seconds=30))
    assert ask(acme, **asked, seconds=20).amount_usd == Decimal("0.00027")
    assert ask(acme, **asked, seconds=31).amount_usd == Decimal("0.00054")
    # Nobody else pays more.
    assert ask(world.organization("umbrella"), **asked, seconds=31).amount_usd == Decimal("0.00027")


def test_text_is_counted_with_the_vendors_margin(acme: Organization) -> None:
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    # 3 for the reply, 3 and the role's 1 for the message, 6 for the words: 13, and for DeepSeek 15 % more.
    found = ask(acme, messages=messages, max_output_tokens=0)
    assert (found.tokens, found.amount_usd) == (15, Decimal("0.00000405"))
    assert ask(acme, input_text="Why is the sky blue?", max_output_tokens=0).tokens == 7
    # A count that is told is believed.
    assert ask(acme, messages=messages, input_tokens=1000, max_output_tokens=0).tokens == 1000


def test_what_the_messages_hold_says_what_the_input_may_be(acme: Organization) -> None:
    model = "gpt-realtime"
    text = [{"role": "user", "content": "Hi"}]
    seen = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "low"}}]}]
    # Text at 4, and where there is an image all of it may be one, at 5. 32 for sound only if any may be sound.
    told = [ask(acme, model=model, messages=each, max_output_tokens=0) for each in (text, seen)]
    assert [found.amount_usd / found.tokens for found in told] == [Decimal("0.000004"), Decimal("0.000005")]
    assert ask(acme, model=model, input_tokens=100, max_output_tokens=0).amount_usd == Decimal("0.0032")
    silent = ask(acme, model=model, input_tokens=100, audio_input_tokens=0, image_input_tokens=0, max_output_tokens=0)
    assert silent.amount_usd == Decimal("0.0004")


def test_a_text_is_never_less_than_the_parts_that_are_told(acme: Organization) -> None:
    found = ask(acme, model="gpt-realtime", input_text="Hi", audio_input_tokens=500, max_output_tokens=0)
    # 500 × 32.
    assert (found.tokens, found.amount_usd) == (500, Decimal("0.016"))


UNPRICED: dict[str, dict[str, Any]] = {
    "units": {"units": {"moon_shots": 1}},
    "service_tier": {"service_tier": "platinum"},
    "batch": {"batch": True},
    "audio_input_tokens": {"audio_input_tokens": 1},
    "image_output_tokens": {"image_output_tokens": 1},
}


@pytest.mark.parametrize("param", UNPRICED)
def test_what_has_no_price_is_refused_and_never_held_at_nothing(acme: Organization, param: str) -> None:
    with pytest.raises(errors.OutOfRange) as caught:
        ask(acme, input_tokens=10, max_output_tokens=10, **UNPRICED[param])
    assert caught.value.param == param
    assert "moon_shots" not in str(caught.value)


def test_output_of_a_model_that_has_none_is_refused(acme: Organization) -> None:
    with pytest.raises(errors.OutOfRange, match=r"max_output_tokens\.") as caught:
        ask(acme, model="text-embedding-3-small", input_tokens=1, max_output_tokens=1)
    assert caught.value.param == "max_output_tokens"


def test_a_model_without_a_price_now_is_refused(acme: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC))
    with pytest.raises(errors.OutOfRange, match="has no price") as caught:
        ask(acme, input_tokens=1)
    assert caught.value.param == "model"


def test_a_name_that_is_no_model_is_not_repeated(db: None) -> None:
    with pytest.raises(errors.ModelNotFound) as caught:
        admissions.find_model("dtk_" + "0" * 49)
    assert (caught.value.param, "dtk" in str(caught.value)) == ("model", False)


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"model": None}, errors.MissingParameter, "model"),
        ({"model": 7}, errors.InvalidType, "model"),
        ({}, errors.MissingParameter, "input_tokens"),
        ({"input_tokens": "1"}, errors.InvalidType, "input_tokens"),
        ({"input_tokens": -1}, errors.OutOfRange, "input_tokens"),
        ({"input_tokens": 2**31}, errors.OutOfRange, "input_tokens"),
        ({"input_tokens": 1, "max_output_tokens": Decimal("1.5")}, errors.InvalidType, "max_output_tokens"),
        ({"input_tokens": 1, "n": 0}, errors.OutOfRange, "n"),
        ({"input_tokens": 1, "n": 129}, errors.OutOfRange, "n"),
        ({"input_tokens": 1, "units": {f"u{place}": 1 for place in range(17)}}, errors.OutOfRange, "units"),
        ({"input_tokens": 1, "units": []}, errors.InvalidType, "units"),
        ({"input_tokens": 5, "image_input_tokens": 3, "audio_input_tokens": 3}, errors.InconsistentUsage, None),
        ({"messages": "hello"}, errors.InvalidType, "messages"),
        ({"messages": [], "input_text": "x"}, errors.InvalidRequest, "input_text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            tokens.Uncountable,
            "input_tokens",
        ),
    ],
)
def test_a_wrong_field_is_named(
    acme: Organization, body: dict[str, Any], error: type[errors.ApiError], param: str | None
) -> None:
    with pytest.raises(error) as caught:
        ask(acme, **body)
    assert type(caught.value) is error
    assert caught.value.param == (param or "input_tokens")


def test_a_fortune_is_refused_rather_than_overflowing(acme: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    start = later()
    rates = {"terms": [{"when": {}, "rates": {"input": "1000000000"}}]}
    model = admissions.find_model(metering.MODEL)
    rules.publish(by=system("tests"), reason="dear", effective_from=start, model=model, organization=acme, rates=rates)
    at(monkeypatch, start)
    # 2,000,000,000 tokens at 1,000 dollars each.
    with pytest.raises(errors.OutOfRange, match="more than a wallet can hold"):
        ask(acme, input_tokens=2_000_000_000)


def test_an_organization_that_nobody_knows_is_a_bug(db: None) -> None:
    request = admissions.read({"model": metering.MODEL, "input_tokens": 1}, admissions.Request)
    with pytest.raises(KeyError):
        admissions.most(request, model=admissions.find_model(metering.MODEL), organization_id=UUID(int=7), seconds=1)
