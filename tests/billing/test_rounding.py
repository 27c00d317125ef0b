"""Cents: half to even, by largest remainder, and adding up."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rounding import apportion, is_cents, percentage, share, to_cents

amounts = st.integers(-(10**22), 10**22).map(lambda pico: Decimal(pico).scaleb(-12))
CENTS = st.integers(1, 10**12).map(lambda cents: Decimal(cents).scaleb(-2))


@pytest.mark.parametrize(
    ("exact", "cents"),
    [("0.005", "0.00"), ("0.015", "0.02"), ("0.005000000001", "0.01"), ("-0.005", "0.00"), ("-0.015", "-0.02"),
        ("2.675", "2.68"), ("2.665", "2.66"), ("99999999999.994999999999", "99999999999.99")],
)  # fmt: skip
def test_halves_go_to_the_even_cent(exact: str, cents: str) -> None:
    assert to_cents(Decimal(exact)) == Decimal(cents)


@given(st.lists(amounts, max_size=30))
def test_parts_add_up_to_the_rounded_sum_and_each_is_rounded_up_or_down(exact: list[Decimal]) -> None:
    cents = apportion(exact)
    # Against an oracle that counts in fractions.
    assert sum(map(Fraction, cents)) == Fraction(round(sum(map(Fraction, exact)) * 100), 100)
    assert all(abs(Fraction(one) - Fraction(other)) < Fraction(1, 100) for one, other in zip(cents, exact, strict=True))


def test_the_largest_remainders_get_the_missing_cents() -> None:
    exact = [Decimal("0.334"), Decimal("0.338"), Decimal("0.336"), Decimal("-0.008")]
    # The sum is 1.000, the floors are 0.33, 0.33, 0.33 and -0.01: two cents are missing.
    assert apportion(exact) == [Decimal("0.33"), Decimal("0.34"), Decimal("0.34"), Decimal("-0.01")]
    # Of equal remainders the first.
    assert apportion([Decimal("0.005")] * 3) == [Decimal("0.01"), Decimal("0.01"), Decimal("0.00")]
    assert apportion([]) == []


def test_of_half_a_cent_either_neighbour_may_be_meant() -> None:
    exact = [Decimal("0.003"), Decimal("0.002"), Decimal("1")]
    assert apportion(exact) == [Decimal("0.00"), Decimal("0.00"), Decimal("1.00")]
    assert apportion(exact, total=Decimal("1.01")) == [Decimal("0.01"), Decimal("0.00"), Decimal("1.00")]
    with pytest.raises(AssertionError):
        apportion(exact, total=Decimal("1.02"))


@given(whole=CENTS, of=CENTS, cuts=st.lists(CENTS, max_size=6))
def test_shares_of_a_whole_that_is_paid_in_parts_add_up(whole: Decimal, of: Decimal, cuts: list[Decimal]) -> None:
    left, tax = whole, of
    for cut in [*cuts, whole]:
        part = min(cut, left)
        taken = share(part, of=tax, whole=left) if part else Decimal(0)
        assert 0 <= taken <= tax
        left, tax = left - part, tax - taken
    assert (left, tax) == (0, 0)


def test_a_percentage_is_exact_and_rounded_once() -> None:
    assert percentage(Decimal("10.50"), Decimal("19")) == Decimal("2.00")
    assert percentage(Decimal("0.10"), Decimal("25")) == Decimal("0.02")
    assert percentage(Decimal("0.30"), Decimal("25")) == Decimal("0.08")
    assert percentage(Decimal("1234.56"), Decimal("25.5")) == Decimal("314.81")


@pytest.mark.parametrize("text", ["0.001", "NaN", "-0.01", "Infinity", "100000000000"])
def test_what_is_no_amount_in_cents_is_told(text: str) -> None:
    assert not is_cents(Decimal(text))
    assert is_cents(Decimal("0.01"))
