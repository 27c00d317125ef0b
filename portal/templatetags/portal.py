"""How pages tell amounts, numbers and times."""

from datetime import datetime, timedelta
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from zoneinfo import ZoneInfo

from django import template

from core import clock, money

register = template.Library()
# Below this, two decimals would hide what there is.
_SMALL = Decimal("0.1")


@register.filter
def usd(amount: Decimal | None) -> str:
    """Dollars and cents, rounded down, so that a debt never looks smaller, as in mails and at the desk.

    Under ten cents to the first digits that say something.
    """
    if amount is None:
        return "–"
    sign, size = ("−" if amount < 0 else ""), abs(amount)
    if size and size < _SMALL:
        place = Decimal(1).scaleb(max(size.adjusted() - 2, -money.DECIMALS))
        shown = size.quantize(place, rounding=ROUND_UP if sign else ROUND_DOWN)
        return f"{sign}${money.plain(shown)}"
    return f"{sign}${size.quantize(Decimal('0.01'), rounding=ROUND_UP if sign else ROUND_DOWN):,}"


@register.filter
def owed(amount: Decimal) -> str:
    """What is owed, rounded as the balance that it lowers."""
    return usd(-amount).removeprefix("−")


@register.filter
def exact(amount: Decimal | None) -> str:
    """Every digit."""
    return "" if amount is None else f"{money.plain(amount)} USD"


@register.filter
def plain(number: Decimal | None) -> str:
    """A number in plain digits without idle zeros."""
    return "" if number is None else money.plain(number)


@register.filter
def whole(number: int | None) -> str:
    """A whole number with its thousands apart."""
    return "–" if number is None else f"{number:,}"


@register.filter
def tokens(number: Decimal) -> str:
    """Tokens that are kept like money; parts of one only where there are any."""
    return f"{Decimal(money.plain(number)):,f}"


@register.filter
def moment(at: datetime | None, zone: ZoneInfo) -> str:
    """An instant to the second in a zone, which it names."""
    return "–" if at is None else f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


@register.filter
def day(at: datetime | None, zone: ZoneInfo) -> str:
    """A day in a zone."""
    return "–" if at is None else f"{at.astimezone(zone):%-d %B %Y}"


@register.filter
def short_day(at: datetime | None, zone: ZoneInfo) -> str:
    """A day in a zone, for tables."""
    return "–" if at is None else f"{at.astimezone(zone):%-d %b %Y}"


@register.filter
def period(starts: datetime | None, ends: datetime | None) -> str:
    """A time by its days, from instants in their zone: a whole month by its name, ends exclusive."""
    if starts is None or ends is None:
        return "–"
    last = ends - timedelta(microseconds=1)
    if (starts.day, ends.day, starts.year, starts.month) == (1, 1, last.year, last.month):
        return f"{starts:%B %Y}"
    return f"{starts:%-d %b %Y}" if starts.date() == last.date() else f"{starts:%-d %b %Y} – {last:%-d %b %Y}"


@register.filter
def last_day(end: datetime | None, zone: ZoneInfo) -> str:
    """The last day of a time that ends, exclusively, at an instant."""
    return "–" if end is None else day(end - timedelta(microseconds=1), zone)


@register.filter
def past(at: datetime | None) -> bool:
    """Whether an instant, exclusive as ends are, has come."""
    return at is not None and at <= clock.now()


@register.filter
def rate(amount: Decimal | None) -> str:
    """A price with every digit that it has, cents at least."""
    if amount is None:
        return "–"
    sign, size = ("−" if amount < 0 else ""), abs(amount)
    text = money.plain(size)
    decimals = len(text.partition(".")[2])
    return f"{sign}${text}" if decimals >= 2 else f"{sign}${size:.2f}"


@register.filter
def thousands(number: int | None) -> str:
    """A number of tokens in short: ``128K``, ``1.05M``, cut down."""
    if number is None:
        return "–"
    for size, letter in ((1_000_000, "M"), (1000, "K")):
        if number >= size:
            return f"{money.plain((Decimal(number) / size).quantize(Decimal('0.01'), rounding=ROUND_DOWN))}{letter}"
    return str(number)


@register.filter
def spaced(word: str) -> str:
    """A word of the API as people write it."""
    return word.replace("_", " ")


@register.filter
def fixed(amount: Decimal | None, places: int) -> str:
    """An amount with so many decimals, rounded down, so that a column of them stands in line; else 0, it is exact."""
    if amount is None:
        return "–"
    down = ROUND_UP if amount < 0 else ROUND_DOWN
    size = abs(amount).quantize(Decimal(1).scaleb(-places), rounding=down)
    if amount and abs(amount) < Decimal(1).scaleb(-places):
        return rate(amount)
    return f"{'−' if amount < 0 else ''}${size:,}"


@register.filter
def stamp(at: datetime | None, zone: ZoneInfo) -> str:
    """An instant to the second in a zone, for a column whose head names the zone."""
    return "–" if at is None else f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}"
