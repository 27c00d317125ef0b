"""How pages tell amounts, numbers and times."""

from datetime import datetime
from decimal import ROUND_DOWN, Decimal
from zoneinfo import ZoneInfo

from django import template

from core import money

register = template.Library()
# Below this, two decimals would hide what there is.
_SMALL = Decimal("0.1")


@register.filter
def usd(amount: Decimal | None) -> str:
    """Dollars and cents, cut down; under ten cents to the first digits that say something."""
    if amount is None:
        return "–"
    sign, size = ("−" if amount < 0 else ""), abs(amount)
    if size and size < _SMALL:
        shown = size.quantize(Decimal(1).scaleb(max(size.adjusted() - 2, -money.DECIMALS)), rounding=ROUND_DOWN)
        return f"{sign}${money.plain(shown)}"
    return f"{sign}${size.quantize(Decimal('0.01'), rounding=ROUND_DOWN):,}"


@register.filter
def exact(amount: Decimal | None) -> str:
    """Every digit."""
    return "" if amount is None else f"{money.plain(amount)} USD"


@register.filter
def whole(number: int | None) -> str:
    """A whole number with its thousands apart."""
    return "–" if number is None else f"{number:,}"


@register.filter
def moment(at: datetime | None, zone: ZoneInfo) -> str:
    """An instant to the second in a zone, which it names."""
    return "–" if at is None else f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


@register.filter
def day(at: datetime | None, zone: ZoneInfo) -> str:
    """A day in a zone."""
    return "–" if at is None else f"{at.astimezone(zone):%-d %B %Y}"
