"""The catalog that ships: what it must say, how it is built, and that it loads."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import types as public

from metering import catalog, rating
from metering.management.commands import build_catalog
from metering.models import Price
from metering.rating import Counts

CATALOG: dict[str, Any] = json.loads(build_catalog.CATALOG.read_text())
MODELS: dict[str, dict[str, Any]] = {model["id"]: model for model in CATALOG["models"]}
CONTRACT_IDS = (
    "claude-sonnet-4-6", "claude-sonnet-4-5", "gpt-5.3-codex", "gemini-3-flash", "deepseek-chat", "deepseek-coder",
    "deepailab-dal", "deepai-chat", "deepai-coder", "deepailab-sup", "gpt-4o", "gpt-4o-mini", "deepshi-3.0",
)  # fmt: skip
UNPRICED = {"deepailab-dal", "deepai-coder", "deepailab-sup", "deepshi-3.0", "deepseek-coder"}


def entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every entry of every card, with its model."""
    for model in CATALOG["models"]:
        for price in model["prices"]:
            for term in price["rates"]["terms"]:
                yield model["id"], term


def cost(model: str, at: datetime, counts: Counts) -> Decimal:
    """What a request costs by the shipped catalog, in USD."""
    versions = [
        catalog.Version(price["effective_from"], _instant(price), None, rating.read_card(price["rates"]))
        for price in MODELS[model]["prices"]
    ]
    version = catalog.in_force(versions, at)
    assert version is not None
    return Decimal(rating.rate(version.card, counts, at).cost_pico).scaleb(-12)


def _instant(price: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(price["effective_from"])


def row(**fields: Any) -> build_catalog.Row:
    return build_catalog.Row(**{"id": "m", "name": "M", "released": date(2026, 1, 1), **fields})


def info(prices: Any, variants: list[public.PriceVariant] | None = None) -> public.ModelInfo:
    return public.ModelInfo(id="m", match=public.ClauseEquals("m"), prices=prices, price_variants=variants)


def price(**rates: Any) -> public.ModelPrice:
    return public.ModelPrice(**{f"{name}_mtok": Decimal(rate) for name, rate in rates.items()})


def test_the_checked_in_catalog_is_what_its_sources_build() -> None:
    built = build_catalog.build()
    assert {**built, "date": CATALOG["date"]} == CATALOG
    assert build_catalog.write(CATALOG) == build_catalog.CATALOG.read_text()


def test_it_names_its_source_and_its_date() -> None:
    assert CATALOG["format"] == catalog.FORMAT
    assert CATALOG["source"].startswith("genai-prices ")
    assert date.fromisoformat(CATALOG["date"]) >= date(2026, 11, 21)
    assert all(price["source"] for model in CATALOG["models"] for price in model["prices"])


def test_models_are_sorted_and_every_name_names_one_model() -> None:
    ids = [model["id"] for model in CATALOG["models"]]
    assert ids == sorted(ids)
    names = Counter(name for model in CATALOG["models"] for name in (model["id"], *model["aliases"]))
    assert [name for name, count in names.items() if count > 1] == []
    assert not {"catalog", ""} & set(names)
    assert [name for name in names if "/" in name or ":" in name or name != name.strip()] == []


def test_it_covers_the_main_vendors() -> None:
    vendors = {model["vendor"] for model in CATALOG["models"]}
    assert {"OpenAI", "Anthropic", "Google", "DeepSeek", "Mistral AI", "xAI", "Cohere", "DeepAILab"} <= vendors
    assert len(MODELS) > 150


def test_every_model_of_the_contract_is_there() -> None:
    assert [name for name in CONTRACT_IDS if name not in MODELS] == []
    assert {name for name, model in MODELS.items() if not model["prices"]} == UNPRICED


def test_deepseek_chat_is_the_contracts_row_to_the_letter() -> None:
    model = dict(MODELS["deepseek-chat"])
    (price,) = model.pop("prices")
    assert price["rates"] == {
        "terms": [{"when": {}, "rates": {"input": "0.27", "cached_input": "0.07", "output": "1.10"}}],
        "units": {},
        "request": "0",
    }
    assert (price["effective_from"], price["effective_to"]) == ("2025-01-01T00:00:00Z", None)
    assert "own rate" in price["source"]
    assert model == {
        "id": "deepseek-chat", "name": "DeepSeek Chat", "vendor": "DeepSeek", "brand": "DeepSeek",
        "provider": "DeepSeek", "owned_by": "deepseek", "kind": "vendor_model", "categories": ["Vendor reasoning"],
        "context_window": 64000, "max_output_tokens": 8192, "capabilities": ["tools", "json"],
        "max_stop_sequences": 8, "encoding": "o200k_base", "aliases": [], "released_at": 1735689600,
    }  # fmt: skip


def test_deepai_chat_is_the_contracts_row_to_the_letter() -> None:
    model = dict(MODELS["deepai-chat"])
    (price,) = model.pop("prices")
    assert price["rates"]["terms"] == [{"when": {}, "rates": {"input": "0.3", "cached_input": "0.08", "output": "1.2"}}]
    assert price["source"] == "this product's own rate"
    assert model == {
        "id": "deepai-chat", "name": "DeepAI Chat", "vendor": "DeepAILab", "brand": "DeepAI",
        "provider": "DeepAILab", "owned_by": "deepailab", "kind": "smart_route", "categories": ["Smart route product"],
        "context_window": 64000, "max_output_tokens": 8192, "capabilities": ["tools", "json"],
        "max_stop_sequences": 4, "encoding": "o200k_base", "aliases": [], "released_at": 1767225600,
    }  # fmt: skip


def test_the_contracts_categories_and_kinds_hold() -> None:
    assert MODELS["claude-sonnet-4-6"]["categories"] == ["Vendor flagship"]
    assert MODELS["gpt-5.3-codex"]["categories"] == ["Vendor flagship"]
    assert MODELS["gemini-3-flash"]["categories"] == ["Vendor multimodal flagship", "Vendor fast path"]
    assert MODELS["deepailab-sup"]["kind"] == "system_route"
    assert MODELS["deepailab-sup"]["categories"] == ["System product route"]
    assert {MODELS[name]["kind"] for name in ("deepailab-dal", "deepai-coder")} == {"smart_route"}
    assert (MODELS["gpt-4o"]["released_at"], MODELS["gpt-4o"]["owned_by"]) == (1715558400, "openai")


@pytest.mark.parametrize(
    ("model", "counts", "usd"),
    [
        ("deepseek-chat", Counts(input_tokens=1000, cached_input_tokens=640, output_tokens=200), "0.000362"),
        ("deepai-chat", Counts(input_tokens=30, output_tokens=4), "0.0000138"),
        ("gpt-4o", Counts(input_tokens=22, output_tokens=8), "0.000135"),
        ("gemini-3-flash", Counts(input_tokens=1000, audio_input_tokens=400, output_tokens=100), "0.001"),
        ("gemma-4-31b-it", Counts(input_tokens=1000, output_tokens=1000), "0"),
    ],
)
def test_requests_cost_what_the_contract_or_a_hand_computes(model: str, counts: Counts, usd: str) -> None:
    assert cost(model, datetime(2026, 11, 20, 12, tzinfo=UTC), counts) == Decimal(usd)


@pytest.mark.parametrize(
    ("at", "usd"),
    [
        (datetime(2026, 8, 16, 15, 59, 59, tzinfo=UTC), "0.14"),
        (datetime(2026, 8, 16, 16, tzinfo=UTC), "0.22"),
        (datetime(2026, 8, 17, 0, 59, 59, tzinfo=UTC), "0.22"),
        (datetime(2026, 8, 17, 1, tzinfo=UTC), "0.44"),
        (datetime(2026, 8, 17, 4, tzinfo=UTC), "0.22"),
        (datetime(2026, 8, 17, 9, 59, 59, tzinfo=UTC), "0.44"),
        (datetime(2026, 8, 22, 2, tzinfo=UTC), "0.44"),  # the last Saturday with peak hours
        (datetime(2026, 8, 29, 2, tzinfo=UTC), "0.22"),
        (datetime(2026, 9, 10, 2, tzinfo=UTC), "0.3"),
        (datetime(2026, 11, 21, 2, tzinfo=UTC), "0.15"),  # a Saturday
    ],
)
def test_peak_hours_follow_the_published_dates_and_weekdays(at: datetime, usd: str) -> None:
    assert cost("deepseek-v4-flash", at, Counts(input_tokens=1_000_000)) == Decimal(usd)


def test_versions_of_a_model_follow_each_other_without_overlap() -> None:
    """A version ends where the next begins, so starts that rise strictly cannot overlap."""
    for model in CATALOG["models"]:
        starts = [_instant(price) for price in model["prices"]]
        assert starts == sorted(set(starts)), model["id"]
        for price, after in zip(model["prices"], model["prices"][1:], strict=False):
            assert price["effective_to"] in (None, after["effective_from"]), model["id"]
            assert price["rates"] != after["rates"], model["id"]
        released = datetime.fromtimestamp(model["released_at"], UTC)
        assert all(start >= released for start in starts), model["id"]


def test_every_rate_is_a_decimal_string_of_at_most_six_decimals() -> None:
    for model, term in entries():
        assert "input" in term["rates"], model
        for pool, rate in term["rates"].items():
            assert isinstance(rate, str), (model, pool)
            exponent = Decimal(rate).as_tuple().exponent
            assert isinstance(exponent, int), (model, pool)
            assert exponent >= -rating.RATE_DECIMALS, (model, pool)


def test_claudes_one_hour_cache_writes_cost_twice_the_input() -> None:
    """https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing."""
    seen = 0
    for model, term in entries():
        if model.startswith("claude-"):
            assert Decimal(term["rates"]["cache_write_1h"]) == 2 * Decimal(term["rates"]["input"]), model
            seen += 1
    assert seen > 40


def test_models_that_read_images_price_them() -> None:
    """An image without a rate would hold every such request back."""
    for name in ("gpt-4o", "claude-sonnet-4-6", "gemini-3-flash"):
        assert all("image_input" in term["rates"] for term in MODELS[name]["prices"][-1]["rates"]["terms"]), name


def test_rates_finer_than_six_decimals_are_refused_and_listed() -> None:
    with pytest.raises(ValueError, match=r"more than 6 decimals: input 0\.0000001, output 1\.0000001"):
        build_catalog._card(info(price(input="0.0000001", output="1.0000001")), date(2026, 1, 1), row())


def test_a_price_by_anything_a_card_cannot_say_is_refused() -> None:
    for prices in (public.ModelPrice(input_video_mtok=Decimal(1)), public.ModelPrice(audio_hours=Decimal(1))):
        with pytest.raises(ValueError, match="has no place in a rate card"):
            build_catalog._card(info(prices), date(2026, 1, 1), row())
    variant = public.PriceVariant(when={"search_type": "fast"}, prices=price(input="1"))
    with pytest.raises(ValueError, match="rates that depend on search_type"):
        build_catalog._card(info(price(input="1"), [variant]), date(2026, 1, 1), row())


def test_dates_hours_tiers_and_thresholds_become_versions_and_entries() -> None:
    night = public.TimeOfDateConstraint(start_time=time(22, 0, tzinfo=UTC), end_time=time(6, 0, tzinfo=UTC))
    later = public.StartDateConstraint(date(2026, 3, 1))
    stepped = public.ModelPrice(input_mtok=public.TieredPrices(Decimal(2), [public.Tier(200_000, Decimal(4))]))
    model = info(
        [
            public.ConditionalPrice(prices=price(input="1")),
            public.ConditionalPrice(later, prices=stepped),
        ],
        [public.PriceVariant(when={"processing": "batch"}, prices=price(input="0.5"), constraint=later)],
    )
    assert build_catalog._days(model, date(2026, 1, 1)) == [date(2026, 1, 1), date(2026, 3, 1)]
    assert build_catalog._card(model, date(2026, 2, 28), row())["terms"] == [{"when": {}, "rates": {"input": "1"}}]
    assert build_catalog._card(model, date(2026, 3, 1), row())["terms"] == [
        {"when": {}, "rates": {"input": "2"}},
        {"when": {"above_input_tokens": 200_000}, "rates": {"input": "4"}},
        {"when": {"batch": True}, "rates": {"input": "0.5"}},
    ]
    by_hour = info(
        [public.ConditionalPrice(prices=price(input="2")), public.ConditionalPrice(night, prices=price(input="1"))]
    )
    assert build_catalog._card(by_hour, date(2026, 1, 1), row())["terms"][1] == {
        "when": {"windows": [{"zone": "UTC", "days": [0, 1, 2, 3, 4, 5, 6], "start": "22:00", "end": "06:00"}]},
        "rates": {"input": "1"},
    }


def test_a_name_that_is_priced_apart_is_no_alias() -> None:
    with pytest.raises(ValueError, match="gpt-4o-2024-05-13 is priced as"):
        build_catalog._derive(
            row(id="gpt-4o", aliases=["gpt-4o-2024-05-13"], taken_from="openai/gpt-4o"), "openai", "gpt-4o", "source"
        )


def test_a_stated_price_that_the_public_one_left_behind_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manifest = build_catalog.MANIFEST.read_text()
    stale = manifest.replace('"input": "0.66", "cached_input": "0.022"', '"input": "0.67", "cached_input": "0.022"')
    assert stale != manifest
    path = tmp_path / "models.json"
    path.write_text(stale)
    monkeypatch.setattr(build_catalog, "MANIFEST", path)
    with pytest.raises(build_catalog.BadData, match="deepseek-v4-pro: the last stated price"):
        build_catalog.build()


@pytest.mark.django_db
def test_the_catalog_is_loaded_and_loading_it_again_changes_nothing() -> None:
    assert Price.objects.count() == sum(len(model["prices"]) for model in CATALOG["models"])
    loaded = catalog.load(CATALOG, publish=True)
    assert (loaded.models_added, loaded.models_changed, loaded.prices_added) == (0, 0, 0)
    assert loaded.prices_known == Price.objects.count()
