"""Charts as geometry: what the templates draw as SVG. Pure; amounts stay exact until they become places on a screen."""

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Final, NamedTuple

WIDTH: Final = 720
HEIGHT: Final = 220
# Room for the marks' labels on the left and the names of the columns below.
LEFT: Final = 64
BELOW: Final = 24
ABOVE: Final = 8
# Series beyond these share a colour and a name.
SERIES_MAX: Final = 6
OTHERS: Final = "others"
# Names below the columns, so that they do not overlap.
NAMES_MAX: Final = 8
# A mark is at one of these times a power of ten.
_STEPS: Final = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))


class Bar(NamedTuple):
    """A rectangle: where it stands, which series it is, and what it says when pointed at."""

    x: Decimal
    y: Decimal
    width: Decimal
    height: Decimal
    series: int
    label: str


class Mark(NamedTuple):
    """A line across, with its amount."""

    y: Decimal
    label: str


class Name(NamedTuple):
    """The name of a column, below it."""

    x: Decimal
    label: str


class Chart(NamedTuple):
    """Columns of stacked bars. ``series`` are the names by number; ``rows`` are the same figures as a table."""

    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    names: tuple[Name, ...]
    series: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Decimal, ...], Decimal], ...]
    width: int = WIDTH
    height: int = HEIGHT


class Column(NamedTuple):
    """What happened in a stretch of time: its name, and an amount (at least 0) for each series."""

    name: str
    amounts: dict[str, Decimal]


def stacked(columns: Sequence[Column], *, unit: str = "$") -> Chart:
    """Stacked bars, the largest series lowest; series beyond ``SERIES_MAX`` are drawn as one."""
    series = _series(columns)
    rows = tuple(_row(column, series) for column in columns)
    top = _top(max((total for _, _, total in rows), default=Decimal(0)))
    floor = Decimal(HEIGHT - BELOW)
    room = floor - ABOVE
    pitch = Decimal(WIDTH - LEFT) / max(len(columns), 1)
    bars: list[Bar] = []
    for place, (name, amounts, _) in enumerate(rows):
        y = floor
        for number, amount in enumerate(amounts):
            if not amount:
                continue
            height = _place(amount * room / top)
            y -= height
            bars.append(
                Bar(
                    _place(LEFT + pitch * place + pitch / 8), y, _place(pitch * 3 / 4), height, number,
                    f"{name}, {series[number]}: {shown(amount, unit)}",
                )
            )  # fmt: skip
    every = -(-len(rows) // NAMES_MAX) or 1
    names = tuple(
        Name(_place(LEFT + pitch * place + pitch / 2), row[0]) for place, row in enumerate(rows) if place % every == 0
    )
    marks = tuple(
        Mark(_place(floor - room * part / 4), shown(top * part / 4, unit)) for part in range(0, 5, 2 if not rows else 1)
    )
    return Chart(tuple(bars), marks, names, series, rows)


def shown(amount: Decimal, unit: str = "$") -> str:
    """An amount as a chart tells it: to three digits that count, cents at least for money."""
    if unit != "$":
        return f"{amount:,.0f}{f' {unit}' if unit else ''}"
    if amount and amount < 1:
        exponent = amount.adjusted()
        return f"${amount.quantize(Decimal(1).scaleb(min(exponent - 2, -2))):f}"
    return f"${amount:,.2f}"


def _series(columns: Sequence[Column]) -> tuple[str, ...]:
    """Names by falling sum; those beyond the last colour become one."""
    sums: dict[str, Decimal] = {}
    for column in columns:
        for name, amount in column.amounts.items():
            sums[name] = sums.get(name, Decimal(0)) + amount
    ordered = sorted((name for name in sums if sums[name]), key=lambda name: (-sums[name], name))
    if len(ordered) > SERIES_MAX:
        ordered = [*ordered[: SERIES_MAX - 1], OTHERS]
    return tuple(ordered)


def _row(column: Column, series: Sequence[str]) -> tuple[str, tuple[Decimal, ...], Decimal]:
    total = sum(column.amounts.values(), Decimal(0))
    amounts = [column.amounts.get(name, Decimal(0)) for name in series]
    if series and series[-1] == OTHERS:
        amounts[-1] = total - sum(amounts[:-1], Decimal(0))
    return column.name, tuple(amounts), total


def _top(most: Decimal) -> Decimal:
    """A round amount that nothing exceeds."""
    if most <= 0:
        return Decimal(1)
    power = Decimal(1).scaleb(most.adjusted())
    return next(power * step for step in _STEPS if power * step >= most)


def _place(value: Decimal) -> Decimal:
    """A place on the screen, to a tenth of a unit; a bar of anything is never drawn as nothing."""
    return value.quantize(Decimal("0.1"), rounding=ROUND_CEILING)
