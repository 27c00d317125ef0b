"""Money: exact both ways, plain on the wire, and nothing but plain digits in."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import money

PICO_MAX = 10**23
picos = st.integers(-PICO_MAX + 1, PICO_MAX - 1)


@given(pico=picos)
def test_pico_dollars_become_dollars_and_back_without_loss(pico: int) -> None:
    usd = money.from_pico(pico)
    assert Fraction(usd) == Fraction(pico, 10**12)
    assert money.to_pico(usd) == pico


@given(pico=picos, finer=st.integers(1, 9))
def test_parts_finer_than_a_pico_dollar_are_refused_and_never_rounded(pico: int, finer: int) -> None:
    finest = Decimal(pico * 10 + finer).scaleb(-13)
    with pytest.raises(ValueError, match="more than 12 decimals"):
        money.to_pico(finest)
    with pytest.raises(ValueError):
        money.parse(format(finest, "f"))


@given(amount=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20))
def test_plain_text_is_the_same_number_in_plain_digits(amount: Decimal) -> None:
    text = money.plain(amount)
    assert Fraction(text) == Fraction(amount)
    assert set(text) <= set("-.0123456789")
    assert text != "-0"
    assert not ("." in text and text.endswith(("0", ".")))


@given(pico=st.integers(-(10**23) + 1, 10**23 - 1))
def test_what_is_shown_plainly_is_read_back(pico: int) -> None:
    amount = money.from_pico(pico)
    assert money.parse(money.plain(amount)) == amount


@pytest.mark.parametrize(
    "text",
    ["", "-", ".", ".5", "5.", "+1", "1e3", "1E-6", "1_000", " 1", "1 ", "1\n", "١٢", "１２", "NaN", "sNaN", "nan",
     "inf", "Infinity", "-Infinity", "0x10", "1,5", "1.2.3", "--1", "$1", "1e999999999", "9" * 4000],
)  # fmt: skip
def test_only_plain_ascii_digits_are_an_amount(text: str) -> None:
    with pytest.raises(ValueError):
        money.parse(text)


@pytest.mark.parametrize("text", ["100000000000", "-100000000000", "99999999999999", "0.0000000000001"])
def test_an_amount_beyond_what_the_books_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        money.parse(text)


@pytest.mark.parametrize("text", ["0", "-0", "0.000000000001", "99999999999.999999999999", "007.50", "-12.3"])
def test_an_amount_within_what_the_books_hold_is_read_exactly(text: str) -> None:
    assert money.parse(text) == Decimal(text)


@given(pico=st.integers(-(10**20), 10**20))
def test_people_see_cents_rounded_down_so_a_debt_never_looks_smaller(pico: int) -> None:
    exact = Fraction(pico, 10**12)
    shown = money.display(money.from_pico(pico))
    assert Fraction(shown) == Fraction(math.floor(exact * 100), 100)
    assert len(shown.partition(".")[2]) == 2
