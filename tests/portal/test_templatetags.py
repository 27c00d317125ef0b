from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from portal.templatetags import portal


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.00"),
        ("1234.567", "$1,234.56"),
        ("-3.991", "−$4.00"),
        ("-3.99", "−$3.99"),
        ("-0.01231", "−$0.0124"),
        ("0.1", "$0.10"),
        ("0.0999", "$0.0999"),
        ("0.000004800", "$0.0000048"),
        ("0.000123456", "$0.000123"),
        ("0.000000000001", "$0.000000000001"),
        (None, "–"),
    ],
)
def test_dollars_are_rounded_down_and_small_ones_keep_what_counts(amount: str | None, shown: str) -> None:
    assert portal.usd(None if amount is None else Decimal(amount)) == shown


def test_what_is_owed_is_told_as_the_balance_is() -> None:
    assert (portal.usd(Decimal("-2.7859")), portal.owed(Decimal("2.7859"))) == ("−$2.79", "$2.79")
    assert portal.owed(Decimal(0)) == "$0.00"


def test_the_exact_amount_has_every_digit() -> None:
    assert portal.exact(Decimal("0.000004800000")) == "0.0000048 USD"
    assert portal.exact(None) == ""


def test_times_are_told_in_the_zone_that_they_name() -> None:
    at = datetime(2026, 7, 1, 22, 30, 5, tzinfo=UTC)
    berlin = ZoneInfo("Europe/Berlin")
    assert portal.moment(at, berlin) == "2026-07-02 00:30:05 CEST"
    assert portal.day(at, berlin) == "2 July 2026"
    assert portal.moment(None, berlin) == portal.day(None, berlin) == portal.whole(None) == "–"
    assert portal.whole(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("amount", "places", "shown"),
    [
        ("1234.5678", 2, "$1,234.56"),
        ("0.000362", 6, "$0.000362"),
        ("1", 6, "$1.000000"),
        ("0", 6, "$0.000000"),
        ("-0.0299", 2, "−$0.03"),
        ("-0.0012", 2, "−$0.0012"),
        ("0.000000072", 6, "$0.000000072"),
        (None, 2, "–"),
    ],
)
def test_a_column_of_amounts_has_one_number_of_decimals(amount: str | None, places: int, shown: str) -> None:
    assert portal.fixed(None if amount is None else Decimal(amount), places) == shown


def test_what_was_given_back_has_its_sign_before_the_dollar() -> None:
    assert portal.rate(Decimal("-0.000362")) == "−$0.000362"


def test_a_column_of_times_leaves_the_zone_to_its_head() -> None:
    assert portal.stamp(datetime(2026, 7, 1, 22, 30, 5, tzinfo=UTC), ZoneInfo("Europe/Berlin")) == "2026-07-02 00:30:05"
    assert portal.stamp(None, ZoneInfo("UTC")) == "–"


def test_prices_have_all_their_digits_and_cents_at_least() -> None:
    told = {"3": "$3.00", "0.5": "$0.50", "0.125": "$0.125", "0.0375": "$0.0375", "0": "$0.00", "0.250000": "$0.25"}
    assert {amount: portal.rate(Decimal(amount)) for amount in told} == told
    assert portal.rate(None) == "–"
    assert portal.plain(Decimal("0.004321000000")) == "0.004321"


def test_numbers_of_tokens_are_short() -> None:
    told = {None: "–", 999: "999", 1000: "1K", 128_000: "128K", 204_800: "204.8K", 1_048_576: "1.04M", 2_000_000: "2M"}
    assert {number: portal.thousands(number) for number in told} == told
    assert portal.spaced("image_input") == "image input"


def test_a_time_that_ends_at_midnight_ends_the_day_before() -> None:
    end = datetime(2026, 7, 31, 22, tzinfo=UTC)
    assert portal.last_day(end, ZoneInfo("Europe/Berlin")) == "31 July 2026"
    assert portal.last_day(None, ZoneInfo("UTC")) == "–"


@pytest.mark.parametrize(
    ("starts", "ends", "shown"),
    [
        ((2026, 2, 1), (2026, 3, 1), "February 2026"),
        ((2026, 12, 1), (2027, 1, 1), "December 2026"),
        ((2026, 1, 1), (2026, 3, 1), "1 Jan 2026 – 28 Feb 2026"),
        ((2026, 1, 31), (2026, 2, 28), "31 Jan 2026 – 27 Feb 2026"),
        ((2026, 1, 5), (2026, 1, 6), "5 Jan 2026"),
    ],
)
def test_a_whole_month_is_told_by_its_name(
    starts: tuple[int, int, int], ends: tuple[int, int, int], shown: str
) -> None:
    assert portal.period(datetime(*starts, tzinfo=UTC), datetime(*ends, tzinfo=UTC)) == shown
    assert portal.period(None, None) == "–"


def test_a_day_in_a_table_is_short() -> None:
    assert portal.short_day(datetime(2026, 7, 31, 22, tzinfo=UTC), ZoneInfo("Europe/Berlin")) == "1 Aug 2026"
    assert portal.short_day(None, ZoneInfo("UTC")) == "–"
