"""Prices a token and a use, as a card writes them."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import rating
from metering.importers import amounts
from metering.importers.document import Odd


@pytest.mark.parametrize(
    ("usd", "rate"),
    [("3e-06", "3"), ("2.5E-6", "2.5"), ("0.00000028", "0.28"), ("2e-08", "0.02"), ("1e-12", "0.000001"), ("0", "0")],
)
def test_a_price_a_token_is_a_million_times_that_for_a_million(usd: str, rate: str) -> None:
    assert amounts.per_million(Decimal(usd)) == Decimal(rate)


@given(st.integers(0, 10**10))
def test_a_rate_is_to_the_pico_dollar_what_the_list_says(pico: int) -> None:
    rate = amounts.per_million(Decimal(pico).scaleb(-12))
    assert Fraction(rate) == Fraction(pico, 10**6)
    assert rating.per_token(format(rate, "f")) == pico


@pytest.mark.parametrize(
    ("usd", "why"),
    [
        ("1e-13", "0.0000001 per 1M: more than 6 decimals"),
        ("3.0000000000000004e-07", "0.30000000000000004 per 1M: more than 6 decimals"),
        ("-3e-06", "-0.000003 is negative"),
        ("3", "3 USD a token is more than 10000 USD per 1M: is it a price per 1M?"),
    ],
)
def test_a_rate_that_no_card_can_hold_is_refused_and_never_rounded(usd: str, why: str) -> None:
    with pytest.raises(ValueError) as refused:
        amounts.per_million(Decimal(usd))
    assert why in str(refused.value)


@pytest.mark.parametrize(("usd", "uses", "fee"), [("0.01", 1, "0.01"), ("2.5", 1000, "0.0025"), ("0", 1, "0")])
def test_a_fee_is_for_one_use(usd: str, uses: int, fee: str) -> None:
    assert amounts.each(Decimal(usd), uses=uses) == fee


@pytest.mark.parametrize("usd", ["-0.01", "1e-13", "1e30"])
def test_a_fee_that_no_card_can_hold_is_refused(usd: str) -> None:
    with pytest.raises(ValueError, match=r"negative|decimals|no fee"):
        amounts.each(Decimal(usd))


@pytest.mark.parametrize("value", ["3e-06", True, None, [], {}, Odd("NaN")])
def test_only_a_number_is_a_number(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        amounts.number(value)
    assert amounts.number(3) == 3
