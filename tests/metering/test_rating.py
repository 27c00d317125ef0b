"""Rating against an oracle in fractions that shares nothing with it but the card's document."""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core import money
from metering import rating
from metering.rating import COUNT_MAX, Counts, Inconsistent, Pools, Unpriced, Window
from tests.proofs import proves

AT = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)  # a Wednesday
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Chatham"]
MINUTE = timedelta(minutes=1)
DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES

# Which rate a pool falls back to where the card names none (decisions 5).
FALLS_BACK = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "cached_image_input": "image_input",
    "cached_audio_input": "audio_input",
}

rates = st.one_of(
    st.sampled_from(["0", "0.27", "1.10", "15", "0.000001"]),
    st.integers(0, 10**9).map(lambda millionths: money.plain(Decimal(millionths).scaleb(-6))),
)
OPTIONAL = [name for name in Pools._fields if name != "input"]
rate_tables = st.fixed_dictionaries({"input": rates}, optional=dict.fromkeys(OPTIONAL, rates))


def clock_time(minute: int) -> str:
    """A minute after some midnight, as the clock shows it."""
    return f"{minute // 60 % 24:02}:{minute % 60:02}"


windows = st.builds(
    lambda zone, days, start, length: {
        "zone": zone, "days": sorted(days), "start": clock_time(start), "end": clock_time(start + length)
    },
    st.sampled_from(ZONES),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, DAY_MINUTES - 1),
    st.integers(1, DAY_MINUTES - 1),
)  # fmt: skip
conditions = st.fixed_dictionaries(
    {},
    optional={
        "service_tier": st.sampled_from(["flex", "priority"]),
        "batch": st.booleans(),
        "above_input_tokens": st.sampled_from([1, 1000, 200_000]),
        "windows": st.lists(windows, min_size=1, max_size=2),
    },
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A card with a base entry, some conditional ones and fees."""
    entries: list[dict[str, Any]] = [{"when": {}, "rates": draw(rate_tables)}]
    for when in draw(st.lists(conditions, max_size=4)):
        rivals = [conditions_of(entry["when"]) for entry in entries]
        if conditions_of(when) not in rivals:
            entries.append({"when": when, "rates": draw(rate_tables)})
    units = draw(st.dictionaries(st.sampled_from(["web_search_requests", "images"]), rates, max_size=2))
    return {"terms": draw(st.permutations(entries)), "units": units, "request": draw(rates)}


def conditions_of(when: Mapping[str, Any]) -> tuple[Any, ...]:
    """When an entry holds, comparable."""
    return (
        when.get("service_tier"),
        when.get("batch", False),
        when.get("above_input_tokens", 0),
        str(when.get("windows") or []),
    )


def holds(when: Mapping[str, Any], counts: Counts, at: datetime) -> bool:
    """The oracle's reading of ``when``."""
    if when.get("service_tier") != counts.service_tier or when.get("batch", False) != counts.batch:
        return False
    threshold = when.get("above_input_tokens", 0)
    if threshold and counts.input_tokens <= threshold:
        return False
    chosen = when.get("windows") or []
    return not chosen or any(in_window(window, at) for window in chosen)


def in_window(window: Mapping[str, Any], at: datetime) -> bool:
    """By minutes of the local week: each of the days opens a stretch of it."""
    local = at.astimezone(ZoneInfo(window["zone"]))
    now = (local.weekday() * 24 + local.hour) * 60 + local.minute
    start, end = (time.fromisoformat(window[name]) for name in ("start", "end"))
    begin, length = start.hour * 60 + start.minute, (end.hour - start.hour) * 60 + end.minute - start.minute
    length += 0 if length > 0 else 24 * 60
    return any((now - day * 24 * 60 - begin) % WEEK_MINUTES < length for day in window["days"])


def oracle(document: Mapping[str, Any], counts: Counts, pools: Mapping[str, int], at: datetime) -> Fraction | None:
    """The cost in dollars, None for what has no price. ``pools`` with reasoning apart."""
    entries = [entry for entry in document["terms"] if holds(entry["when"], counts, at)]
    if not entries:
        return None
    best = max(
        entries, key=lambda entry: (entry["when"].get("above_input_tokens", 0), bool(entry["when"].get("windows")))
    )
    table = dict(best["rates"])
    for name, other in FALLS_BACK.items():
        if name not in table and other in table:
            table[name] = table[other]
    used = dict(pools)
    if "reasoning" not in table:
        used["output"] += used.pop("reasoning")
    total = Fraction(document["request"])
    for name, tokens in used.items():
        if tokens:
            if name not in table:
                return None
            total += Fraction(table[name]) * tokens / 1_000_000
    for name, uses in counts.units.items():
        if uses:
            if name not in document["units"]:
                return None
            total += Fraction(document["units"][name]) * uses
    return total


def ambiguous(document: Mapping[str, Any], counts: Counts, at: datetime) -> bool:
    """Whether two entries are equally specific: which of them wins is the order of the document."""
    ranks = [
        (entry["when"].get("above_input_tokens", 0), bool(entry["when"].get("windows")))
        for entry in document["terms"]
        if holds(entry["when"], counts, at)
    ]
    return bool(ranks) and ranks.count(max(ranks)) > 1


def counted(pools: Mapping[str, int], **more: Any) -> Counts:
    """What a gateway reports for these exclusive pools; ``reasoning`` is part of the output."""
    p = pools
    return Counts(
        input_tokens=sum(p[name] for name in Pools._fields[:8]),
        cached_input_tokens=p["cached_input"] + p["cached_image_input"] + p["cached_audio_input"],
        cache_write_tokens=p["cache_write"],
        cache_write_1h_tokens=p["cache_write_1h"],
        output_tokens=sum(p[name] for name in Pools._fields[8:]),
        reasoning_tokens=p["reasoning"],
        image_input_tokens=p["image_input"] + p["cached_image_input"],
        audio_input_tokens=p["audio_input"] + p["cached_audio_input"],
        cached_image_tokens=p["cached_image_input"],
        cached_audio_tokens=p["cached_audio_input"],
        image_output_tokens=p["image_output"],
        audio_output_tokens=p["audio_output"],
        **more,
    )


tokens = st.one_of(st.just(0), st.just(0), st.integers(0, 300_000))
pool_counts = st.fixed_dictionaries(dict.fromkeys(Pools._fields, tokens))
extras = st.fixed_dictionaries(
    {},
    optional={
        "units": st.dictionaries(st.sampled_from(["web_search_requests", "images"]), st.integers(0, 5), max_size=2),
        "service_tier": st.sampled_from(["flex", "priority"]),
        "batch": st.booleans(),
    },
)
instants = st.integers(0, 4 * WEEK_MINUTES * 60).map(lambda seconds: AT + timedelta(seconds=seconds))


# Invoice lines, which do round, are not there yet.
@proves("W13", guard="costs_are_exact")
@given(document=documents(), pools=pool_counts, more=extras, at=instants)
def test_a_cost_is_what_fractions_say(
    document: dict[str, Any], pools: dict[str, int], more: dict[str, Any], at: datetime
) -> None:
    counts = counted(pools, **more)
    assume(not ambiguous(document, counts, at))
    expected = oracle(document, counts, pools, at)
    card = rating.read_card(document)
    if expected is None:
        with pytest.raises(Unpriced):
            rating.rate(card, counts, at)
    else:
        assert Fraction(rating.rate(card, counts, at).cost_pico, 10**12) == expected


@given(
    table=st.fixed_dictionaries(dict.fromkeys(Pools._fields, rates)),
    pools=pool_counts,
    name=st.sampled_from(Pools._fields),
)
def test_more_tokens_never_cost_less(table: dict[str, str], pools: dict[str, int], name: str) -> None:
    card = rating.read_card({"terms": [{"when": {}, "rates": table}]})
    fewer, more = counted(pools), counted({**pools, name: pools[name] + 1})
    step = rating.rate(card, more, AT).cost_pico - rating.rate(card, fewer, AT).cost_pico
    assert step == Fraction(table[name]) * 10**6


@given(pools=pool_counts)
def test_the_pools_are_the_ones_counted_and_add_up_to_the_totals(pools: dict[str, int]) -> None:
    counts = counted(pools)
    apart = rating.pools(counts, reasoning_apart=True)
    assert apart._asdict() == pools
    together = rating.pools(counts)
    assert together.output == pools["output"] + pools["reasoning"]
    for split in (apart, together):
        assert sum(split[:8]) == counts.input_tokens
        assert sum(split[8:]) == counts.output_tokens
        assert min(split) >= 0


@given(
    counts=st.builds(
        Counts,
        **{
            name: st.integers(0, 12)
            for name in Counts.__struct_fields__
            if name not in {"units", "service_tier", "batch"}
        },
    )
)
def test_counts_either_split_into_pools_that_add_up_or_are_refused(counts: Counts) -> None:
    try:
        split = rating.pools(counts, reasoning_apart=True)
    except Inconsistent as error:
        blamed = error.param
    else:
        assert min(split) >= 0
        assert sum(split[:8]) == counts.input_tokens
        assert sum(split[8:]) == counts.output_tokens
        return
    assert blamed in Counts.__struct_fields__


@pytest.mark.parametrize(
    ("counts", "param"),
    [
        (Counts(input_tokens=10, cached_input_tokens=11), "input_tokens"),
        (Counts(input_tokens=10, cached_input_tokens=6, cache_write_tokens=5), "input_tokens"),
        (Counts(input_tokens=10, cache_write_tokens=6, cache_write_1h_tokens=5), "input_tokens"),
        (Counts(input_tokens=10, image_input_tokens=6, audio_input_tokens=5), "input_tokens"),
        (Counts(input_tokens=10, image_input_tokens=3, cached_input_tokens=8), "input_tokens"),
        (Counts(input_tokens=9, image_input_tokens=5, cached_image_tokens=5), "cached_input_tokens"),
        (Counts(input_tokens=9, cached_input_tokens=5, cached_image_tokens=5), "cached_image_tokens"),
        (Counts(input_tokens=9, cached_input_tokens=5, cached_audio_tokens=5), "cached_audio_tokens"),
        (Counts(output_tokens=5, reasoning_tokens=6), "reasoning_tokens"),
        (Counts(output_tokens=5, image_output_tokens=3, audio_output_tokens=3), "output_tokens"),
        (Counts(output_tokens=5, image_output_tokens=3, reasoning_tokens=3), "reasoning_tokens"),
    ],
)
def test_parts_beyond_their_whole_name_the_count_to_blame(counts: Counts, param: str) -> None:
    with pytest.raises(Inconsistent) as caught:
        rating.pools(counts, reasoning_apart=True)
    assert caught.value.param == param


def card(*entries: dict[str, Any], **parts: Any) -> rating.RateCard:
    """A card of entries told as (when, rates) pairs merged into one dict each."""
    return rating.read_card({"terms": list(entries), **parts})


def entry(when: Mapping[str, Any] | None = None, **table: str) -> dict[str, Any]:
    return {"when": dict(when or {}), "rates": {"input": "1", **table}}


def usd(priced: rating.RateCard, at: datetime = AT, **counts: Any) -> Decimal:
    return money.from_pico(rating.rate(priced, Counts(**counts), at).cost_pico)


def test_the_two_costs_of_the_contract_worked_by_hand() -> None:
    deepseek = card({"when": {}, "rates": {"input": "0.27", "cached_input": "0.07", "output": "1.10"}})
    # (360 × 0.27 + 640 × 0.07 + 200 × 1.10) / 1,000,000 = 362 / 1,000,000
    assert usd(deepseek, input_tokens=1000, cached_input_tokens=640, output_tokens=200) == Decimal("0.000362")
    gpt_4o = card({"when": {}, "rates": {"input": "2.5", "cached_input": "1.25", "output": "10"}})
    # (22 × 2.5 + 8 × 10) / 1,000,000 = 135 / 1,000,000
    assert usd(gpt_4o, input_tokens=22, output_tokens=8) == Decimal("0.000135")


def test_the_largest_counts_are_exact() -> None:
    dear = card(entry(output="99999.999999", input="99999.999999"))
    cost = usd(dear, input_tokens=COUNT_MAX, output_tokens=COUNT_MAX)
    assert Fraction(cost) == 2 * COUNT_MAX * Fraction("99999.999999") / 10**6


def test_free_is_a_rate_of_0_and_unpriced_is_not_free() -> None:
    free = card(entry(input="0", output="0"))
    assert usd(free, input_tokens=5, output_tokens=5) == 0
    text_only = card(entry(output="2"))
    unpriced: dict[str, Any]
    for unpriced in (
        {"input_tokens": 5, "image_input_tokens": 1},
        {"input_tokens": 5, "audio_input_tokens": 1},
        {"output_tokens": 5, "image_output_tokens": 1},
        {"output_tokens": 5, "audio_output_tokens": 1},
        {"units": {"web_search_requests": 1}},
    ):
        with pytest.raises(Unpriced):
            usd(text_only, **unpriced)
    with pytest.raises(Unpriced, match="output"):
        usd(card(entry()), output_tokens=1)


def test_what_was_not_used_needs_no_rate() -> None:
    assert usd(card(entry()), input_tokens=3, units={"web_search_requests": 0}) == Decimal("0.000003")


def test_a_cache_without_a_rate_costs_what_input_costs() -> None:
    plain = card(entry(input="3", output="1"))
    assert usd(plain, input_tokens=10, cached_input_tokens=4, cache_write_tokens=3, cache_write_1h_tokens=2) == Decimal(
        "0.00003"
    )
    written = card(entry(input="3", cache_write="5"))
    assert usd(written, input_tokens=10, cache_write_1h_tokens=10) == Decimal("0.00005")


def test_a_free_cache_is_free_and_not_missing() -> None:
    assert usd(card(entry(input="3", cached_input="0")), input_tokens=10, cached_input_tokens=10) == 0


def test_a_threshold_is_exceeded_not_reached_and_counts_all_input_with_cache() -> None:
    long = card(entry(input="1", output="2"), entry({"above_input_tokens": 200_000}, input="10", output="20"))
    assert usd(long, input_tokens=200_000, output_tokens=1) == Decimal("0.200002")
    # The whole request is priced again, the output too.
    assert usd(long, input_tokens=200_001, output_tokens=1) == Decimal("2.00003")
    assert usd(long, input_tokens=200_001, cached_input_tokens=200_000, output_tokens=0) == Decimal("2.00001")


def test_the_highest_threshold_that_is_exceeded_wins_in_any_order() -> None:
    entries = [entry({"above_input_tokens": limit}, input=price) for limit, price in ((100, "2"), (200, "4"), (0, "1"))]
    for turned in (entries, entries[::-1]):
        steps = card(*turned)
        costs = [usd(steps, input_tokens=count) for count in (100, 101, 200, 201)]
        assert costs == [Decimal(text) for text in ("0.0001", "0.000202", "0.0004", "0.000804")]


def test_tier_and_batch_match_exactly_and_there_is_no_falling_back() -> None:
    tiers = card(
        entry(),
        entry({"service_tier": "flex"}, input="2"),
        entry({"batch": True}, input="3"),
        entry({"service_tier": "flex", "batch": True}, input="4"),
    )
    million: dict[str, Any] = {"input_tokens": 1_000_000}
    assert usd(tiers, **million) == 1
    assert usd(tiers, **million, service_tier="flex") == 2
    assert usd(tiers, **million, batch=True) == 3
    assert usd(tiers, **million, service_tier="flex", batch=True) == 4
    for other in ("priority", "Flex", "flex ", "FLEX"):
        with pytest.raises(Unpriced):
            usd(tiers, **million, service_tier=other)
    with pytest.raises(Unpriced, match="batch"):
        usd(card(entry()), **million, batch=True)


@pytest.mark.parametrize("tier", [None, "", "default", "standard", "auto", "on_demand"])
def test_every_spelling_of_the_ordinary_tier_is_the_base(tier: str | None) -> None:
    assert usd(card(entry()), input_tokens=1_000_000, service_tier=tier) == 1
    assert usd(card(entry({"service_tier": tier})), input_tokens=1_000_000) == 1


@given(window=windows, at=instants)
def test_a_window_holds_when_the_minutes_of_its_week_say_so(window: dict[str, Any], at: datetime) -> None:
    read = rating.read_card({"terms": [entry(), entry({"windows": [window]})]}).terms[0].windows[0]
    assert read.holds(at) == in_window(window, at)


def night(start: str, end: str, *days: int, zone: str = "UTC") -> Window:
    return Window(zone=zone, days=days, start=time.fromisoformat(start), end=time.fromisoformat(end))


def test_a_window_starts_inclusive_and_ends_exclusive_to_the_microsecond() -> None:
    window = night("01:00", "04:00", 2)
    day = datetime(2026, 11, 18, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    assert not window.holds(day.replace(hour=1) - tick)
    assert window.holds(day.replace(hour=1))
    assert window.holds(day.replace(hour=4) - tick)
    assert not window.holds(day.replace(hour=4))
    assert not window.holds(day.replace(hour=2) + timedelta(days=1))


def test_a_window_over_midnight_belongs_to_the_day_it_starts_on() -> None:
    window = night("22:00", "02:00", 4)  # Friday night
    friday = datetime(2026, 11, 20, tzinfo=UTC)
    assert window.holds(friday.replace(hour=22))
    assert window.holds(friday + timedelta(hours=25, minutes=59))
    assert not window.holds(friday + timedelta(hours=26))
    assert not window.holds(friday.replace(hour=1)), "that is Thursday's night"
    assert not window.holds(friday + timedelta(days=1, hours=22))


def test_a_window_until_midnight_ends_there() -> None:
    window = night("18:00", "00:00", 6)  # Sunday evening
    sunday = datetime(2026, 11, 22, tzinfo=UTC)
    assert window.holds(sunday + timedelta(hours=23, minutes=59))
    assert not window.holds(sunday + timedelta(hours=24))


def test_a_window_follows_the_clocks_of_its_zone_over_the_change() -> None:
    window = night("02:00", "03:00", 6, zone="Europe/Berlin")
    # 25 October 2026: 02:30 comes twice, at 00:30 and at 01:30 UTC.
    autumn = datetime(2026, 10, 25, tzinfo=UTC)
    assert window.holds(autumn + timedelta(minutes=30))
    assert window.holds(autumn + timedelta(minutes=90))
    assert not window.holds(autumn + timedelta(minutes=120))
    # 29 March 2026: the hour from 02:00 to 03:00 does not happen.
    spring = datetime(2026, 3, 29, tzinfo=UTC)
    assert not any(window.holds(spring + minute * MINUTE) for minute in range(24 * 60))


def test_a_window_is_one_entry_and_the_rest_of_the_day_the_other() -> None:
    window = {"zone": "UTC", "days": [0, 1, 2, 3, 4, 5, 6], "start": "16:30", "end": "00:30"}
    cheap = card(entry(input="4"), entry({"windows": [window]}, input="1"))
    day = datetime(2026, 11, 18, tzinfo=UTC)
    at = {"16:29": 4, "16:30": 1, "23:59": 1, "00:00": 1, "00:29": 1, "00:30": 4}
    for told, expected in at.items():
        hour, minute = map(int, told.split(":"))
        assert usd(cheap, day.replace(hour=hour, minute=minute), input_tokens=1_000_000) == expected, told


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({}, "terms"),
        ({"terms": []}, "terms"),
        ({"terms": {}}, "terms"),
        ({"terms": ["x"]}, r"terms\[0\]"),
        ({"terms": [{"when": {}}]}, r"terms\[0\]"),
        ({"terms": [{"rates": {}}]}, "input rate"),
        ({"terms": [entry({"batch": True})]}, "without conditions"),
        ({"terms": [entry(), entry()]}, "same conditions"),
        ({"terms": [entry(), entry({"service_tier": "auto"})]}, "same conditions"),
        ({"terms": [entry(), entry({"region": "eu"})]}, "region"),
        ({"terms": [{**entry(), "note": "x"}]}, "note"),
        ({"terms": [entry(video="1")]}, "video"),
        ({"terms": [entry()], "per_call": "1"}, "per_call"),
        ({"terms": [entry(output="-1")]}, "output"),
        ({"terms": [entry(output="0.0000001")]}, "decimals"),
        ({"terms": [entry(output="1e3")]}, "output"),
        ({"terms": [entry(output="NaN")]}, "output"),
        ({"terms": [entry(output="1_0")]}, "output"),
        ({"terms": [{"when": {}, "rates": {"input": 1}}]}, "decimal string"),
        ({"terms": [{"when": {}, "rates": {"input": None}}]}, "decimal string"),
        ({"terms": [entry(output="100000000000")]}, "output"),
        ({"terms": [entry()], "units": {"images": 1}}, "units.images"),
        ({"terms": [entry()], "request": 1}, "request"),
        ({"terms": [entry()], "request": "-1"}, "request"),
        ({"terms": [entry(), entry({"above_input_tokens": "5"})]}, "above_input_tokens"),
        ({"terms": [entry(), entry({"above_input_tokens": -1})]}, "above_input_tokens"),
        ({"terms": [entry(), entry({"above_input_tokens": True})]}, "above_input_tokens"),
        ({"terms": [entry(), entry({"batch": "false"})]}, "batch"),
        ({"terms": [entry(), entry({"service_tier": 5})]}, "service_tier"),
        ({"terms": [entry(), entry({"windows": ["x"]})]}, "windows"),
    ],
)
def test_a_card_that_says_something_unclear_is_refused(document: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=where):
        rating.read_card(document)


@pytest.mark.parametrize(
    "change",
    [{"zone": "Mars/Olympus"}, {"days": []}, {"days": [7]}, {"days": "0"}, {"start": "04:00"}, {"end": "25:00"},
     {"start": 1}, {"zone": ""}, {"days": [True]}, {"until": 0.5}],
    ids=str,
)  # fmt: skip
def test_a_window_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    window = {"zone": "UTC", "days": [0], "start": "01:00", "end": "04:00", **change}
    with pytest.raises(ValueError, match="windows"):
        card(entry(), entry({"windows": [window]}))


@given(millionths=st.integers(0, 10**12))
def test_a_rate_is_whole_pico_dollars_a_token_and_back(millionths: int) -> None:
    rate = money.plain(Decimal(millionths).scaleb(-6))
    pico = rating.per_token(rate)
    assert Fraction(pico, 10**12) == Fraction(rate) / 10**6
    assert rating.per_million(pico) == Decimal(rate)


@pytest.mark.parametrize(
    "document",
    [
        {"terms": [{"when": {"windows": None}, "rates": {"input": "1"}}]},
        {"terms": [{"when": {"windows": 5}, "rates": {"input": "1"}}]},
        {"terms": [{"when": None, "rates": {"input": "1"}}]},
        {"terms": [{"when": {}, "rates": {"input": "1"}}], "units": ["a"]},
        {"terms": [{"when": {}, "rates": {"input": "1"}}], "units": None},
        {"terms": [{"when": {}, "rates": {"input": "1"}}], "request": 0},
        {"terms": [{"when": {}, "rates": {"input": "1"}}], "request": ""},
        {"terms": [{"when": {}, "rates": {"input": "1"}}], "request": False},
        {"terms": "x"},
        [],
    ],
)
def test_a_card_of_the_wrong_shape_is_refused_in_words(document: Any) -> None:
    with pytest.raises(ValueError):
        rating.read_card(document)


def windowed(*hours: tuple[str, str], zone: str = "UTC") -> dict[str, Any]:
    entries = [
        {
            "when": {"windows": [{"zone": zone, "days": [0, 1, 2, 3, 4, 5, 6], "start": start, "end": end}]},
            "rates": {"input": str(place + 2)},
        }
        for place, (start, end) in enumerate(hours)
    ]
    return {"terms": [{"when": {}, "rates": {"input": "1"}}, *entries]}


def test_windows_that_overlap_cannot_be_published_and_neighbours_can() -> None:
    rating.check_card(windowed(("01:00", "04:00"), ("04:00", "06:00")))
    for hours in ((("01:00", "04:00"), ("03:59", "06:00")), (("22:00", "02:00"), ("01:00", "03:00"))):
        with pytest.raises(ValueError, match="two entries hold"):
            rating.check_card(windowed(*hours))


def test_windows_that_overlap_for_less_than_a_minute_cannot_be_published_either() -> None:
    with pytest.raises(ValueError, match="on a minute"):
        rating.check_card(windowed(("01:00", "04:00:30"), ("04:00:10", "06:00")))


def test_a_window_whose_time_carries_its_own_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        rating.read_card(windowed(("01:00Z", "04:00Z")))


# What each part of a request may be rated as.
PARTS = {
    "image_input_tokens": ("image_input", "cached_image_input"),
    "audio_input_tokens": ("audio_input", "cached_audio_input"),
    "image_output_tokens": ("image_output",),
    "audio_output_tokens": ("audio_output",),
}
UNITS = ("web_search_requests", "images")


@st.composite
def priced_requests(draw: st.DrawFn) -> tuple[dict[str, Any], Counts, rating.Bounds]:
    """A card, a request that it has prices for at any time, and bounds that the request keeps."""
    absent = {pool for part in draw(st.sets(st.sampled_from(sorted(PARTS)))) for pool in PARTS[part]}
    certain = {"input", "output", *(pools[0] for pools in PARTS.values())} - absent
    optional = set(Pools._fields) - certain - absent
    tables = st.fixed_dictionaries(
        dict.fromkeys(sorted(certain), rates), optional=dict.fromkeys(sorted(optional), rates)
    )
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    chosen: list[dict[str, Any]] = draw(st.lists(conditions, max_size=4))
    for when in ({}, *chosen):
        always: dict[str, Any] = {name: when[name] for name in ("service_tier", "batch") if name in when}
        for one in (always, when):
            entries.setdefault(conditions_of(one), {"when": one, "rates": draw(tables)})
    document = {
        "terms": draw(st.permutations(list(entries.values()))),
        "units": draw(st.fixed_dictionaries(dict.fromkeys(UNITS, rates))),
        "request": draw(rates),
    }
    # Of little at a time and with little room to spare, so that nothing else hides a bound that is too low.
    present = st.sampled_from([name for name in Pools._fields if name not in absent])
    counts = st.dictionaries(present, st.integers(1, 300_000), max_size=3)
    pools = {**dict.fromkeys(Pools._fields, 0), **draw(counts)}
    slack = draw(st.one_of(st.just({}), counts))
    units = draw(st.dictionaries(st.sampled_from(UNITS), st.integers(0, 5)))
    spare = draw(st.dictionaries(st.sampled_from(UNITS), st.integers(0, 3)))
    served = draw(st.sampled_from(list(entries.values())))["when"]
    asked = {"service_tier": served.get("service_tier"), "batch": served.get("batch", False)}
    told = set(PARTS) - draw(st.one_of(st.just(set()), st.sets(st.sampled_from(sorted(PARTS)))))
    most = counted({name: pools[name] + slack.get(name, 0) for name in pools})
    bounds = rating.Bounds(
        most.input_tokens,
        most.output_tokens,
        units={name: units.get(name, 0) + spare.get(name, 0) for name in units.keys() | spare},
        **{part: getattr(most, part) for part in told},
        **asked,
    )
    return document, counted(pools, units=units, **asked), bounds


@given(asked=priced_requests(), at=instants)
def test_no_request_within_its_bounds_costs_more_than_the_worst_case(
    asked: tuple[dict[str, Any], Counts, rating.Bounds], at: datetime
) -> None:
    document, used, bounds = asked
    card = rating.read_card(document)
    assert rating.rate(card, used, at).cost_pico <= rating.worst_case(card, bounds, at)


def bounded(priced: rating.RateCard, tokens_in: int, tokens_out: int, **more: Any) -> Decimal:
    """The worst case in dollars."""
    return money.from_pico(rating.worst_case(priced, rating.Bounds(tokens_in, tokens_out, **more), AT))


def test_the_worst_case_is_every_token_at_the_dearest_rate_it_may_have() -> None:
    claude = card(entry(input="3", cached_input="0.3", cache_write="3.75", cache_write_1h="6", output="15"))
    # 1,000 × 6 + 200 × 15 = 9,000 millionths.
    assert bounded(claude, 1000, 200) == Decimal("0.009")
    thinking = card(entry(input="1", output="2", reasoning="8"))
    assert bounded(thinking, 0, 100) == Decimal("0.0008")
    assert bounded(card(entry(input="0", output="0")), 10**6, 10**6) == 0
    fees = card(entry(output="0"), units={"web_search_requests": "0.01"}, request="0.5")
    # 1 × 10⁻⁶ + 3 × 0.01 + 0.5
    assert bounded(fees, 1, 0, units={"web_search_requests": 3}) == Decimal("0.530001")


def test_images_and_sound_count_at_their_rate_unless_there_are_none() -> None:
    loud = card(entry(input="4", audio_input="32", image_input="5", output="16", audio_output="64"))
    # All of it may be sound: 1,000 × 32 + 100 × 64.
    assert bounded(loud, 1000, 100) == Decimal("0.0384")
    # 1,000 × 4 + 100 × 16.
    silent = {"audio_input_tokens": 0, "image_input_tokens": 0, "audio_output_tokens": 0}
    assert bounded(loud, 1000, 100, **silent) == Decimal("0.0056")
    # 10 × 32 + 200 × 5 + 790 × 4 + 1 × 64 + 99 × 16.
    some = {"audio_input_tokens": 10, "image_input_tokens": 200, "audio_output_tokens": 1}
    assert bounded(loud, 1000, 100, **some) == Decimal("0.006128")


def test_the_worst_case_of_a_long_context_is_the_dearer_side_of_each_threshold() -> None:
    long = card(entry(input="1", output="2"), entry({"above_input_tokens": 1000}, input="3", output="4"))
    assert bounded(long, 1000, 10) == Decimal("0.00102")
    assert bounded(long, 1001, 10) == Decimal("0.003043")
    bulk = card(entry(input="10", output="2"), entry({"above_input_tokens": 1000}, input="1", output="2"))
    # 1,000 tokens at 10 are dearer than 1,001 at 1.
    assert bounded(bulk, 1001, 10) == Decimal("0.01002")


def test_the_worst_case_has_no_price_for_what_the_card_has_none_for() -> None:
    text = card(entry(output="2"))
    for most, param in (
        ({"image_input_tokens": 1}, "image_input_tokens"),
        ({"audio_output_tokens": 1}, "audio_output_tokens"),
        ({"units": {"moon_shots": 1}}, "units"),
        ({"service_tier": "platinum"}, "service_tier"),
        ({"batch": True}, "batch"),
    ):
        with pytest.raises(Unpriced) as caught:
            bounded(text, 10, 10, **most)
        assert caught.value.param == param
    embedding = card(entry())
    assert bounded(embedding, 10, 0) == Decimal("0.00001")
    with pytest.raises(Unpriced) as caught:
        bounded(embedding, 10, 1)
    assert caught.value.param == "output_tokens"
    assert [rating.prices_output(each) for each in (text, embedding)] == [True, False]
