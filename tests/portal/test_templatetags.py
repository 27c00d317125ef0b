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
        ("-3.999", "−$3.99"),
        ("0.1", "$0.10"),
        ("0.0999", "$0.0999"),
        ("0.000004800", "$0.0000048"),
        ("0.000123456", "$0.000123"),
        ("0.000000000001", "$0.000000000001"),
        (None, "–"),
    ],
)
def test_dollars_are_cut_down_and_small_ones_keep_what_counts(amount: str | None, shown: str) -> None:
    assert portal.usd(None if amount is None else Decimal(amount)) == shown


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
