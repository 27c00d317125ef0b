"""Money: exact US dollars.

A rate has at most 6 decimals per 1,000,000 tokens, so a rate times a whole number of tokens has
at most 12: every charge is exact and nothing is rounded. The hot path counts whole pico-dollars
(10⁻¹² USD); the database holds ``NUMERIC(24,12)``; code between them holds ``Decimal``.
"""

import re
from decimal import ROUND_FLOOR, Context, Decimal

DECIMALS = 12
DIGITS = 24
PICO_PER_USD = 10**DECIMALS
# Below what NUMERIC(24,12) can hold; NaN fails the comparison, which ``>= 0`` alone would let in.
USD_MAX = Decimal("100000000000")
ZERO = Decimal(0)
# Wide enough that no sum the product makes is ever rounded by the context.
_EXACT = Context(prec=60)
_PICO = Decimal(1).scaleb(-DECIMALS)
# Decimal itself also reads exponents, underscores, spaces and the digits of every script.
_PLAIN = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)


def from_pico(pico: int) -> Decimal:
    """Dollars of a whole number of pico-dollars."""
    return _EXACT.multiply(pico, _PICO)


def to_pico(usd: Decimal) -> int:
    """Whole pico-dollars of an exact amount. Raises ``ValueError`` if it has finer parts."""
    scaled = usd.scaleb(DECIMALS, context=_EXACT)
    whole = int(scaled)
    if whole != scaled:
        raise ValueError(f"{usd} USD has more than {DECIMALS} decimals")
    return whole


def plain(amount: Decimal) -> str:
    """Plain digits without an exponent or idle zeros: ``0.0000138``."""
    text = f"{amount:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def parse(text: str) -> Decimal:
    """An exact amount from plain digits.

    Raises ``ValueError`` for anything but a decimal of at most 12 decimals below ``USD_MAX`` in
    size.
    """
    if _PLAIN.fullmatch(text) is None:
        raise ValueError(f"{text[:64]!r} is not a decimal number in plain digits")
    amount = Decimal(text)
    if not -USD_MAX < amount < USD_MAX:
        raise ValueError(f"{text!r} is not an amount below {USD_MAX} USD")
    to_pico(amount)
    return amount


def holds(amount: Decimal) -> bool:
    """Whether the books can hold it: a number from zero to ``USD_MAX`` with at most 12 decimals."""
    if not amount.is_finite() or not 0 <= amount < USD_MAX:
        return False
    scaled = amount.scaleb(DECIMALS, context=_EXACT)
    return scaled == int(scaled)


def fixed(amount: Decimal) -> str:
    """All 12 decimals, as PostgreSQL writes ``NUMERIC(24,12)``: ``0.000013800000``."""
    return f"{amount:.{DECIMALS}f}"


def display(amount: Decimal) -> str:
    """Two decimals, rounded down (a debt never looks smaller), for a person's eyes only (contract 12.1)."""
    return format(amount.quantize(Decimal("0.01"), rounding=ROUND_FLOOR, context=_EXACT), "f")
