"""What a price list says a token or a use costs, as a rate card says it: exactly, or not at all."""

from decimal import Context, Decimal

from core import money
from metering import rating
from metering.importers.document import Odd
from metering.importers.drafted import kind

# The dearest token on sale costs 600 USD per 1M. Beyond this, somebody wrote a price per 1M into a field per token.
RATE_MAX = Decimal(10_000)
# Wider than any number a document may hold, times a million.
_EXACT = Context(prec=100)


def number(value: object) -> Decimal:
    """A number of a document, as it stands there. Raises ``ValueError``: a string is no number, nor is NaN."""
    if isinstance(value, Odd):
        raise ValueError(f"{value.text} is not a number a price can have")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"a number is needed, not {kind(value)}")
    return Decimal(value)


def per_million(usd: Decimal) -> Decimal:
    """USD per 1,000,000 tokens of USD a token. Raises ``ValueError`` for what no card holds exactly."""
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
    """USD a use, as a card writes it, of USD for 1, 1,000 or any power of ten ``uses``. Raises ``ValueError``."""
    fee = usd.scaleb(1 - len(str(uses)), context=_EXACT)
    _refuse_negative(usd)
    if fee >= money.USD_MAX:
        raise ValueError(f"{money.plain(usd)} USD is no fee")
    if _decimals(fee) > money.DECIMALS:
        raise ValueError(f"{money.plain(fee)} USD a use has more than {money.DECIMALS} decimals")
    return money.plain(fee)


def _refuse_negative(usd: Decimal) -> None:
    if usd < 0:
        raise ValueError(f"{money.plain(usd)} is negative")


def _decimals(amount: Decimal) -> int:
    exponent = amount.normalize(context=_EXACT).as_tuple().exponent
    assert isinstance(exponent, int), "a number of a document is finite"
    return -exponent
