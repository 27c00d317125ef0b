"""What a list tells over what is in force: taken, kept, followed."""

from typing import Any

from metering import rating
from metering.importers import overlay

BATCH = {"batch": True}
LONG = {"above_input_tokens": 200_000}


def card(*entries: tuple[dict[str, Any], dict[str, str]], request: str = "0", **units: str) -> dict[str, Any]:
    terms = [{"when": when, "rates": rates} for when, rates in entries]
    return {"terms": terms, "units": units, "request": request}


def laid(
    before: dict[str, Any], told: dict[str, Any], *implied: set[str]
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """The rates by conditions, and what was kept."""
    filled = [*implied, *[set()] * (len(told["terms"]) - len(implied))]
    found = overlay.lay_over(before, told, implied=filled)
    rating.check_card(found.document)
    return {str(entry["when"]): entry["rates"] for entry in found.document["terms"]}, found.kept


def test_what_is_told_is_taken_and_what_is_not_stays() -> None:
    before = card(({}, {"input": "3", "cached_input": "0.3", "output": "15"}), (BATCH, {"input": "1.5", "output": "7"}))
    rates, kept = laid(before, card(({}, {"input": "4", "output": "15"})))
    assert rates == {
        "{}": {"input": "4", "cached_input": "0.3", "output": "15"},
        "{'batch': True}": {"input": "1.5", "output": "7"},
    }
    assert kept == ("base: cached_input", "batch: all rates")


def test_a_rate_that_repeated_its_plain_one_follows_it() -> None:
    before = card(({}, {"input": "3", "image_input": "3.00", "audio_input": "9", "output": "15", "reasoning": "15"}))
    rates, kept = laid(before, card(({}, {"input": "4", "output": "16"})))
    assert rates["{}"] == {"input": "4", "output": "16", "image_input": "4", "audio_input": "9", "reasoning": "16"}
    assert kept == ("base: audio_input",)


def test_what_an_importer_filled_in_gives_way_to_what_is_published() -> None:
    before = card(({}, {"input": "0.12", "image_input": "0.47"}))
    told = card(({}, {"input": "0.12", "image_input": "0.12"}))
    assert laid(before, told, {"image_input"})[0]["{}"] == {"input": "0.12", "image_input": "0.47"}
    assert laid(before, told)[0]["{}"] == {"input": "0.12", "image_input": "0.12"}
    silent = card(({}, {"input": "0.12"}))
    assert laid(silent, told, {"image_input"})[0]["{}"] == {"input": "0.12", "image_input": "0.12"}


def test_thinking_at_the_price_of_output_is_no_rate_of_its_own() -> None:
    before, told = (
        card(({}, {"input": "1", "output": "8"})),
        card(({}, {"input": "1", "output": "8", "reasoning": "8"})),
    )
    assert laid(before, told)[0]["{}"] == {"input": "1", "output": "8"}
    apart = card(({}, {"input": "1", "output": "8", "reasoning": "9"}))
    assert laid(before, apart)[0]["{}"] == {"input": "1", "output": "8", "reasoning": "9"}


def test_a_new_entry_takes_what_it_does_not_tell_from_the_entry_that_would_hold_without_it() -> None:
    before = card(({}, {"input": "3", "cached_input": "0.3", "image_input": "3", "output": "15"}))
    told = card(({}, {"input": "4", "cached_input": "0.4", "output": "16"}), (LONG, {"input": "8", "output": "24"}))
    rates, kept = laid(before, told)
    # Of the new base, not of the old one; and images follow the text.
    assert rates[str(LONG)] == {"input": "8", "output": "24", "cached_input": "0.4", "image_input": "8"}
    assert kept == ()


def test_an_entry_of_which_nothing_is_told_is_none() -> None:
    flex = {"service_tier": "flex"}
    before = card(({}, {"input": "3"}), (flex, {"input": "1"}))
    told = card(({}, {"input": "3"}), (flex, {"input": "1"}), ({**flex, **LONG}, {"input": "6"}))
    assert set(laid(before, told, set(), set(), {"input"})[0]) == {"{}", str(flex)}
    assert laid(before, told)[0][str({**flex, **LONG})] == {"input": "6"}
    # Of a tier that nobody has published, even what is filled in is better than nothing.
    priority = {"service_tier": "priority"}
    assert laid(before, card(({}, {"input": "3"}), (priority, {"input": "3"})), set(), {"input"})[0][str(priority)] == {
        "input": "3"
    }


def test_a_threshold_that_differs_by_one_token_is_the_published_one() -> None:
    before = card(({}, {"input": "1"}), ({"above_input_tokens": 199_999}, {"input": "2", "cached_input": "0.2"}))
    rates, kept = laid(before, card(({}, {"input": "1"}), (LONG, {"input": "3"})))
    assert rates == {"{}": {"input": "1"}, "{'above_input_tokens': 199999}": {"input": "3", "cached_input": "0.2"}}
    assert kept == ("above 199999 input tokens: cached_input",)
    rates, _ = laid(before, card(({}, {"input": "1"}), ({"above_input_tokens": 200_001}, {"input": "3"})))
    assert rates["{'above_input_tokens': 199999}"] == {"input": "2", "cached_input": "0.2"}
    assert rates["{'above_input_tokens': 200001}"] == {"input": "3", "cached_input": "0.2"}


def test_every_spelling_of_the_ordinary_tier_is_the_base() -> None:
    rates, kept = laid(card(({"service_tier": "standard"}, {"input": "1"})), card(({}, {"input": "2"})))
    assert rates == {"{'service_tier': 'standard'}": {"input": "2"}}
    assert kept == ()


def test_hours_and_fees_stay_unless_they_are_told() -> None:
    night = {"windows": [{"zone": "UTC", "days": [0, 1], "start": "22:00", "end": "06:00"}]}
    before = card(({}, {"input": "2"}), (night, {"input": "1"}), request="0.01", web_search_requests="0.01", pages="1")
    found = overlay.lay_over(before, card(({}, {"input": "3"}), web_search_requests="0.02"), implied=[set()])
    assert found.document == card(
        ({}, {"input": "3"}), (night, {"input": "1"}), request="0.01", web_search_requests="0.02", pages="1"
    )
    assert found.kept == ("22:00 to 06:00 UTC: all rates", "pages", "request")
    told = card(({}, {"input": "3"}), (night, {"input": "2"}), request="0.02")
    assert overlay.lay_over(before, told, implied=[set(), set()]).document["request"] == "0.02"


def test_a_published_card_may_leave_out_what_is_empty() -> None:
    before = {"terms": [{"rates": {"input": "1"}}]}
    assert overlay.lay_over(before, card(({}, {"input": "2"})), implied=[set()]).document == card(({}, {"input": "2"}))
