"""What a price list says a token or a use costs, as a rate card says it: exactly, or not at all."""

from decimal import Context, Decimal

from core import money
from metering import rating
from metering.importers.document import Odd
from metering.importers.drafted import Absurd, Findings, kind

# The dearest token on sale costs 600 USD per 1M. Beyond this, somebody wrote a price per 1M into a field per token.
RATE_MAX = Decimal(10_000)
# What binary floats leave in the last digits of a price, as a part of it; a double carries 15 to 17 digits.
NOISE = Decimal("1e-12")
# Wider than any number a document may hold, times a million.
_EXACT = Context(prec=100)
_PICO = Decimal(1).scaleb(-money.DECIMALS)


def number(value: object) -> Decimal:
    """A number of a document, as it stands there. Raises ``ValueError``: a string is no number, nor is NaN."""
    if isinstance(value, Odd):
        raise ValueError(f"{value.text} is not a number a price can have")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"a number is needed, not {kind(value)}")
    return Decimal(value)


def without_noise(usd: Decimal, *, findings: Findings, part: str) -> Decimal:
    """USD a token or a use, without what a program's floats added: ``0.00000015000000000000002`` is 0.00000015.

    Only a price that lies within ``NOISE`` of itself from a whole number of pico-dollars (6 decimals per
    1M tokens) is taken for that number, and the findings say so. Any other stays as it is.
    """
    whole = usd.quantize(_PICO, context=_EXACT)
    if whole == usd or abs(whole - usd) > abs(usd) * NOISE:
        return usd
    findings.assume(part, f"{usd:f} is {money.plain(whole)}: what differs is less than {NOISE} of it, a float's noise")
    return whole


def per_million(usd: Decimal) -> Decimal:
    """USD per 1,000,000 tokens of USD a token. Raises ``ValueError`` for what no card holds exactly.

    Below 0 that is ``Absurd``.
    """
    rate = usd.scaleb(6, context=_EXACT)
    _refuse_negative(usd)
    if rate > RATE_MAX:
        raise ValueError(f"{money.plain(usd)} USD a token is more than {RATE_MAX} USD per 1M: is it a price per 1M?")
    if _decimals(rate) > rating.RATE_DECIMALS:
        raise ValueError(
            f"{money.plain(usd)} USD a token is {money.plain(rate)} per 1M: more than {rating.RATE_DECIMALS} decimals"
        )
    return rate


def each(usd: Decimal, *, uses: int = 1) -> str:
    """USD a use, as a card writes it, of USD for 1, 1,000 or any power of ten ``uses``.

    Raises ``ValueError`` for what no card holds exactly, ``Absurd`` below 0.
    """
    fee = usd.scaleb(1 - len(str(uses)), context=_EXACT)
    _refuse_negative(usd)
    if fee >= money.USD_MAX:
        raise ValueError(f"{money.plain(usd)} USD is no fee")
    if _decimals(fee) > money.DECIMALS:
        raise ValueError(f"{money.plain(fee)} USD a use has more than {money.DECIMALS} decimals")
    return money.plain(fee)


def _refuse_negative(usd: Decimal) -> None:
    if usd < 0:
        raise Absurd(f"{money.plain(usd)} is negative")


def _decimals(amount: Decimal) -> int:
    exponent = amount.normalize(context=_EXACT).as_tuple().exponent
    assert isinstance(exponent, int), "a number of a document is finite"
    return -exponent
