"""Prices a token and a use, as a card writes them."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import rating
from metering.importers import amounts
from metering.importers.document import Odd
from metering.importers.drafted import Absurd, Findings


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


@pytest.mark.parametrize("usd", ["-3e-06", "-1e-30"])
def test_a_negative_price_is_absurd_and_not_only_wrong(usd: str) -> None:
    for read in (amounts.per_million, amounts.each):
        with pytest.raises(Absurd):
            read(Decimal(usd))


@pytest.mark.parametrize(
    ("noisy", "meant"),
    [
        ("0.00000015000000000000002", "0.00000015"),
        ("0.0000029999999999999997", "0.000003"),
        ("3.0000000000000004E-7", "0.0000003"),
        ("0.000001000000000001", "0.000001"),
        ("0.0000009999999999990000001", "0.000001"),
    ],
)
def test_the_noise_of_floats_is_taken_off_and_said(noisy: str, meant: str) -> None:
    findings = Findings("v/m")
    assert amounts.without_noise(Decimal(noisy), findings=findings, part="prompt") == Decimal(meant)
    (note,) = findings.assumed
    assert str(note) == (
        f"v/m: prompt: {Decimal(noisy):f} is {meant}: what differs is less than 1E-12 of it, a float's noise"
    )


@pytest.mark.parametrize(
    "usd",
    [
        "0.00000008333333333333334",  # a third of a quarter: nobody's noise
        "0.0000010000000000011",  # just beyond a trillionth
        "0.0000009999999999989",
        "0.00000015", "0", "1e-12", "-1", "3",
        "1e-13", "4e-13", "1e-30",  # never rounded to free
    ],
)  # fmt: skip
def test_any_other_price_stays_as_it_is(usd: str) -> None:
    findings = Findings("v/m")
    assert amounts.without_noise(Decimal(usd), findings=findings, part="prompt") == Decimal(usd)
    assert findings.assumed == []


@given(st.integers(1, 10**10), st.integers(-(10**6), 10**6))
def test_noise_moves_no_price_by_a_trillionth_of_it(pico: int, parts: int) -> None:
    """``parts`` are millionths of a trillionth of the price."""
    usd = Decimal(pico).scaleb(-12)
    noisy = usd + usd.scaleb(-18) * parts
    heard = amounts.without_noise(noisy, findings=Findings("m"), part="p")
    assert abs(Fraction(heard) - Fraction(noisy)) * 10**12 <= Fraction(noisy)
    assert heard > 0
