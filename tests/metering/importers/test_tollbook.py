"""Our own file: dated prices, each as it stands, and no model with a version that is wrong."""

import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import catalog
from metering.importers import tollbook
from metering.importers.drafted import BadSource, Drafted
from metering.management.commands import build_catalog
from tests.metering.importers import garbage

PRICE: dict[str, Any] = {
    "effective_from": "2026-01-01T00:00:00Z",
    "effective_to": None,
    "source": "https://example.com/pricing",
    "rates": {
        "terms": [
            {"when": {}, "rates": {"input": "3", "output": "15"}},
            {
                "when": {
                    "service_tier": "flex",
                    "batch": True,
                    "above_input_tokens": 200000,
                    "windows": [{"zone": "UTC", "days": [0, 1], "start": "22:00", "end": "06:00"}],
                },
                "rates": {"input": "1.5", "output": "7.5"},
            },
        ],
        "units": {"web_search_requests": "0.01"},
        "request": "0",
    },
}
MODEL: dict[str, Any] = {"id": "m", "owned_by": "acme", "prices": [PRICE]}


def text(*models: Any, **more: Any) -> str:
    return json.dumps({"format": tollbook.FORMAT, "models": models, **more})


def read(place: str, value: Any) -> Drafted:
    """What becomes of the model with one part of its price set to something else; ``absent`` takes it away."""
    model = deepcopy(MODEL)
    *path, last = place.split(".")
    part: Any = model["prices"][0]
    for step in path:
        part = part[int(step) if step.isdigit() else step]
    if value == "absent":
        del part[last]
    else:
        part[last] = value
    return tollbook.read(text(model))


def test_the_format_is_the_catalogs() -> None:
    assert tollbook.FORMAT == catalog.FORMAT


def test_the_shipped_catalog_is_read_whole_and_as_it_stands() -> None:
    raw = build_catalog.CATALOG.read_bytes()
    drafted = tollbook.read(raw)
    document = json.loads(raw)
    assert [(draft.model, draft.rates, draft.source, draft.effective_from) for draft in drafted.prices] == [
        (model["id"], price["rates"], price["source"], datetime.fromisoformat(price["effective_from"]))
        for model in document["models"]
        for price in model["prices"]
    ]
    assert drafted.refused == ()
    assert [note.place for note in drafted.ignored] == [
        model["id"] for model in document["models"] if not model["prices"]
    ]
    assert all(draft.name.vendor for draft in drafted.prices)


def test_a_price_keeps_its_times_its_source_and_its_maker() -> None:
    ended = {**PRICE, "effective_to": "2026-06-01T02:00:00+02:00"}
    later = {**PRICE, "effective_from": "2026-06-01T00:00:00Z"}
    first, second = tollbook.read(text({**MODEL, "prices": [ended, later]})).prices
    assert (first.effective_from, first.effective_to) == (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 6, 1, tzinfo=UTC),
    )
    assert (second.effective_from, second.effective_to) == (datetime(2026, 6, 1, tzinfo=UTC), None)
    assert first.rates == PRICE["rates"]
    assert (first.source, first.name.vendor, first.gaps, first.assumed) == (PRICE["source"], "acme", (), ())


@pytest.mark.parametrize(
    ("place", "value", "where", "why"),
    [
        ("effective_from", "absent", "", "effective_from: a time is a string, not null"),
        ("effective_from", "yesterday", "", "yesterday is not a time"),
        ("effective_from", "2026-01-01T00:00:00", "", "has no zone"),
        ("effective_from", "0001-01-01T00:00:00Z", "", "a year that cannot be meant"),
        ("effective_to", "2026-01-01T00:00:00Z", "", "it ends before it starts"),
        ("effective_to", 7, "", "effective_to: a time is a string, not a number"),
        ("source", "", "", "source: 1 to 1000 printable"),
        ("source", "a\u0000b", "", "source: 1 to 1000 printable"),
        ("source", "absent", "", "source: 1 to 1000 printable"),
        ("rates", None, "", "rates: an object is needed, not null"),
        ("rates", {}, ".rates", "terms: at least one entry is needed"),
        ("rates.terms", {}, ".rates", "terms: dict"),
        ("rates.terms", [7], ".rates", "terms[0]: needs rates"),
        ("rates.terms.0.when", {"service_tier": "x"}, ".rates", "one entry without conditions is needed"),
        ("rates.terms.0.when", 7, ".rates", "terms[0].when: int"),
        ("rates.terms.0.rates.input", "-3", ".rates", "-3 is negative"),
        ("rates.terms.0.rates.input", "NaN", ".rates", "'NaN' is not a decimal number"),
        ("rates.terms.0.rates.input", "0.0000001", ".rates", "more than 6 decimals"),
        ("rates.terms.0.rates.input", 3, ".rates", "a rate is a decimal string, not int"),
        ("rates.terms.0.rates.input", 2.5, "", "2.5 is a number"),
        ("rates.terms.0.rates.input", "absent", ".rates", "an input rate is needed"),
        ("rates.terms.0.rates.tea", "1", ".rates", "unknown parts: tea"),
        ("rates.units", ["x"], ".rates", "units: list"),
        ("rates.units.web_search_requests", -1, ".rates", "a decimal string, not int"),
        ("rates.request", "1e-3", ".rates", "plain digits"),
        ("rates.terms.1.when.windows.0.zone", "America", ".rates", "America"),
        ("rates.terms.1.when.windows.0.zone", "Moon/Base", ".rates", "Moon/Base"),
        ("rates.terms.1.when.windows", 7, ".rates", "terms[1].when.windows: int"),
        ("rates.discount", "1", ".rates", "unknown parts: discount"),
    ],
)
def test_a_wrong_price_is_refused_in_its_place(place: str, value: Any, where: str, why: str) -> None:
    drafted = read(place, value)
    assert drafted.prices == ()
    (refusal,) = drafted.refused
    assert refusal.place == f"m: prices[0]{where}"
    assert why in refusal.reason


def test_a_price_that_is_wrong_takes_the_models_other_prices_with_it() -> None:
    wrong = {**PRICE, "effective_from": "2026-02-01T00:00:00Z", "source": ""}
    again = {**PRICE, "effective_from": "2026-01-01T01:00:00+01:00"}
    drafted = tollbook.read(
        text({**MODEL, "prices": [PRICE, wrong]}, {**MODEL, "id": "n", "prices": [PRICE, again]}, {**MODEL, "id": "o"})
    )
    assert [draft.model for draft in drafted.prices] == ["o"]
    assert [str(refusal) for refusal in drafted.refused] == [
        "m: prices[1]: source: 1 to 1000 printable characters say where the price is published",
        "n: prices[1]: another price starts at 2026-01-01T01:00:00+01:00",
    ]


def test_entries_that_hold_at_one_instant_are_no_card_to_publish() -> None:
    terms = deepcopy(PRICE["rates"]["terms"])
    terms.append(deepcopy(terms[1]))
    terms[2]["when"]["windows"][0]["start"] = "21:00"
    drafted = read("rates.terms", terms)
    assert [str(refusal) for refusal in drafted.refused] == [
        "m: prices[0].rates: terms: two entries hold at Mon 22:00 UTC"
    ]


def test_models_that_are_none_or_stand_there_twice_are_refused() -> None:
    drafted = tollbook.read(
        text(7, {"id": 5}, MODEL, MODEL, {"id": "p", "prices": 7}, {"id": "q"}, {"id": "r", "prices": []})
    )
    assert drafted.prices == ()
    assert [str(refusal) for refusal in drafted.refused] == [
        "models[0]: an object is needed, not a number",
        "models[1].id: a model id is a string, not a number",
        "m: models[2] is one of several with this id",
        "m: models[3] is one of several with this id",
        "p: prices: a list is needed, not a number",
    ]
    assert [str(note) for note in drafted.ignored] == ["q: it has no price", "r: it has no price"]


def test_keys_that_stand_there_twice_are_refused_where_they_stand() -> None:
    model = json.dumps(MODEL)
    deep = model.replace('"output": "15"', '"output": "15", "output": "16"')
    shallow = model.replace('"owned_by": "acme"', '"owned_by": "acme", "owned_by": "acme"')
    for told, place, key in ((deep, "m: prices[0]", "output"), (shallow, "m: owned_by", "it")):
        drafted = tollbook.read(f'{{"format": "{tollbook.FORMAT}", "models": [{told}]}}')
        assert drafted.prices == ()
        (refusal,) = drafted.refused
        assert refusal.place == place
        assert refusal.reason.startswith(f"{key} stands ")


@pytest.mark.parametrize(
    "raw",
    [
        "", "[]", "{}", '{"format": "tollbook/catalog-2", "models": []}', '{"format": "tollbook/catalog-1"}',
        '{"format": "tollbook/catalog-1", "models": {}}',
        '{"format": "tollbook/catalog-1", "models": [], "models": []}', text(MODEL)[:-3],
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused_whole(raw: str) -> None:
    with pytest.raises(BadSource):
        tollbook.read(raw)


KEYS = st.sampled_from(
    [
        "terms", "when", "rates", "units", "request", "input", "output", "reasoning", "service_tier", "batch",
        "above_input_tokens", "windows", "zone", "days", "start", "end", "effective_from", "effective_to", "source",
    ]
)  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> str:
    """The good model with one place, drawn from all of them, holding something else."""
    model = deepcopy(MODEL)
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [model]
    while waiting:
        part = waiting.pop()
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                waiting.append(part[key])
    part, key = draw(st.sampled_from(places))
    part[key] = "PLACE"
    return text(model).replace('"PLACE"', draw(garbage.anything(KEYS)))


@settings(max_examples=150)
@given(files())
def test_any_part_may_be_anything_and_gives_a_card_or_a_reason(told: str) -> None:
    drafted = garbage.prove(tollbook.read, told)
    assert drafted is None or drafted.prices or drafted.refused or drafted.ignored


@settings(max_examples=150)
@given(garbage.damaged(text(MODEL, {**MODEL, "id": "n"})) | garbage.anything(st.just("models")))
def test_damaged_files_give_cards_or_reasons_and_nothing_else(raw: bytes | str) -> None:
    garbage.prove(tollbook.read, raw)


@pytest.mark.parametrize("prices", [None, 0, "", {}, False])
def test_prices_that_are_no_list_are_refused_even_when_they_are_nothing(prices: Any) -> None:
    drafted = tollbook.read(text({**MODEL, "prices": prices}))
    assert [refusal.place for refusal in drafted.refused] == ["m: prices"]
