"""Cents: the only place where money is rounded (design 3). Pure.

Amounts round half to even. Parts round so that they add up to their rounded sum: each down, and the cents that
are missing then go to the largest remainders.
"""

from collections.abc import Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

from core import money

CENT = Decimal("0.01")
HALF = Decimal("0.005")
_EXACT = Context(prec=60)


def to_cents(amount: Decimal) -> Decimal:
    """An amount to the cent, half to even."""
    return amount.quantize(CENT, rounding=ROUND_HALF_EVEN, context=_EXACT)


def is_cents(amount: Decimal) -> bool:
    """Whether an amount is a whole number of cents that the books can hold."""
    return money.holds(amount) and to_cents(amount) == amount


def apportion(exact: Sequence[Decimal], *, total: Decimal | None = None) -> list[Decimal]:
    """Each amount in cents, up or down, so that they add up to the sum in cents; of equal remainders the first.

    ``total`` is the sum in cents where the other neighbour of half a cent is meant.
    """
    floors = [amount.quantize(CENT, rounding=ROUND_FLOOR, context=_EXACT) for amount in exact]
    total = to_cents(sum(exact, money.ZERO)) if total is None else total
    assert abs(total - sum(exact, money.ZERO)) <= HALF
    missing = int((total - sum(floors, money.ZERO)).scaleb(2))
    places = sorted(range(len(exact)), key=lambda place: (floors[place] - exact[place], place))
    for place in places[:missing]:
        floors[place] += CENT
    return floors


def share(part: Decimal, *, of: Decimal, whole: Decimal) -> Decimal:
    """How much of ``of`` goes with ``part`` of ``whole``, to the cent; all of it with the whole."""
    if part >= whole:
        return of
    return _cents(Fraction(money.to_pico(of) * money.to_pico(part), money.to_pico(whole)))


def percentage(amount: Decimal, percent: Decimal) -> Decimal:
    """``percent`` of an amount, to the cent."""
    return _cents(Fraction(money.to_pico(amount) * money.to_pico(percent), 100 * money.PICO_PER_USD))


def _cents(pico: Fraction) -> Decimal:
    """Pico-dollars and parts of them, to the cent."""
    # Python rounds a fraction half to even, exactly.
    return _EXACT.multiply(round(pico * Fraction(100, money.PICO_PER_USD)), CENT)
