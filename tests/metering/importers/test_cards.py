"""Rates as lists state them, laid out as entries that inherit nothing."""

from decimal import Decimal
from typing import Any

from metering import rating
from metering.importers import cards
from metering.importers.cards import BASE, Cell, Hours

LONG, FLEX, BATCH = Cell(above_input_tokens=200_000), Cell(service_tier="flex"), Cell(batch=True)
LONG_FLEX = FLEX._replace(above_input_tokens=200_000)


def rates(**told: str) -> dict[str, Decimal]:
    return {pool: Decimal(rate) for pool, rate in told.items()}


def laid(stated: dict[Cell, dict[str, Decimal]]) -> tuple[dict[Cell, Any], dict[Cell, tuple[str, ...]]]:
    """The rates of each entry, and what it inherited."""
    found = cards.lay_out(stated, units={})
    rating.read_card(found.document)
    entries = {str(entry["when"]): entry["rates"] for entry in found.document["terms"]}
    return {cell: entries[str(cell.when())] for cell in stated}, dict(found.inherited)


def test_each_entry_is_complete() -> None:
    entries, inherited = laid(
        {BASE: rates(input="2", cached_input="0.2", output="8"), FLEX: rates(input="1", output="4")}
    )
    assert entries[FLEX] == {"input": "1", "cached_input": "0.2", "output": "4"}
    assert inherited == {FLEX: ("cached_input",)}


def test_a_rate_that_repeats_its_plain_one_follows_it() -> None:
    base = rates(input="2", image_input="2", output="8", reasoning="8", audio_output="20")
    entries, inherited = laid({BASE: base, LONG: rates(input="4", output="12")})
    assert entries[LONG] == {
        "input": "4", "image_input": "4", "output": "12", "reasoning": "12", "audio_output": "20",
    }  # fmt: skip
    assert inherited == {LONG: ("audio_output",)}


def test_a_tier_takes_a_long_contexts_rate_from_the_ordinary_tier_and_else_its_own() -> None:
    stated = {
        BASE: rates(input="2", cached_input="0.2", audio_input="3", output="8"),
        LONG: rates(input="4", cached_input="0.4", output="12"),
        FLEX: rates(input="1", cached_input="0.1", audio_input="1.5", output="4"),
        LONG_FLEX: rates(input="2"),
    }
    entries, inherited = laid(stated)
    assert entries[LONG_FLEX] == {"input": "2", "cached_input": "0.4", "audio_input": "1.5", "output": "12"}
    assert entries[LONG] == {"input": "4", "cached_input": "0.4", "audio_input": "3", "output": "12"}
    assert inherited[LONG_FLEX] == ("output", "cached_input", "audio_input")


def test_a_long_context_of_a_tier_may_stand_without_its_tier() -> None:
    entries, _ = laid({BASE: rates(input="2", output="8"), LONG_FLEX: rates(input="1")})
    assert entries[LONG_FLEX] == {"input": "1", "output": "8"}


def test_images_of_a_vision_model_cost_what_text_costs_unless_told() -> None:
    plain = rates(input="2", cached_input="0.2", output="8")
    assert cards.add_images(plain)
    assert plain == rates(input="2", cached_input="0.2", output="8", image_input="2", cached_image_input="0.2")
    assert not cards.add_images(plain)
    apart = rates(input="2", cached_input="0.2", output="8", image_input="5")
    assert not cards.add_images(apart)
    assert "cached_image_input" not in apart


def test_conditions_are_written_as_a_card_writes_them_and_told_in_words() -> None:
    hours = (Hours((5, 6), "22:00", "00:00"),)
    cell = Cell("priority", True, 1000, hours)
    assert cell.when() == {
        "service_tier": "priority",
        "batch": True,
        "above_input_tokens": 1000,
        "windows": [{"zone": "UTC", "days": [5, 6], "start": "22:00", "end": "00:00"}],
    }
    assert str(cell) == "priority, batch, above 1000 input tokens, 22:00 to 00:00 UTC"
    assert (BASE.when(), str(BASE)) == ({}, "base")
    assert BATCH.when() == {"batch": True}


def test_what_nobody_states_is_named_by_entry() -> None:
    base = rates(input="2", cached_input="0.2", image_input="2", output="8")
    found = cards.lay_out({BASE: base, LONG: rates(input="4"), BATCH: rates(input="1", output="4")}, units={},
                          added={"image_input"})  # fmt: skip
    by_entry = dict(zip([str(entry["when"]) for entry in found.document["terms"]], found.implied, strict=True))
    assert by_entry == {
        "{}": {"image_input"},
        "{'above_input_tokens': 200000}": {"cached_input", "image_input", "output"},
        "{'batch': True}": {"cached_input", "image_input"},
    }
