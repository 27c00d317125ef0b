"""Charts as geometry: what the templates draw as SVG. Pure; amounts stay exact until they become places on a screen."""

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_UP, Decimal
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
# The highest mark is at one of these times a power of ten; quarters of them have two decimals at most.
_STEPS: Final = tuple(map(Decimal, (1, 2, 3, 4, 5, 6, 8, 10)))


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


class Trend(NamedTuple):
    """A line through amounts that were, and one on to those that may come; ``spots`` tell the amounts when pointed at.

    ``line`` and ``ahead`` are points of an SVG polyline. ``zero`` is where nothing is.
    """

    line: str
    ahead: str
    spots: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    names: tuple[Name, ...]
    zero: Decimal
    rows: tuple[tuple[str, Decimal], ...]
    width: int = WIDTH
    height: int = HEIGHT


class Column(NamedTuple):
    """What happened in a stretch of time: its name, and an amount for each series.

    An amount below 0, where more was taken back than used, counts in the rows and is not drawn.
    """

    name: str
    amounts: dict[str, Decimal]


def stacked(columns: Sequence[Column], *, unit: str = "$") -> Chart:
    """Stacked bars, the largest series lowest; series beyond ``SERIES_MAX`` are drawn as one."""
    series = _series(columns)
    rows = tuple(_row(column, series) for column in columns)
    top = _top(max((sum(filter(_is_drawn, amounts), Decimal(0)) for _, amounts, _ in rows), default=Decimal(0)))
    floor = Decimal(HEIGHT - BELOW)
    room = floor - ABOVE
    pitch = Decimal(WIDTH - LEFT) / max(len(columns), 1)
    bars: list[Bar] = []
    for place, (name, amounts, _) in enumerate(rows):
        y = floor
        for number, amount in enumerate(amounts):
            if not _is_drawn(amount):
                continue
            height = _place(amount * room / top)
            y -= height
            bars.append(
                Bar(
                    _place(LEFT + pitch * place + pitch / 8), y, _place(pitch * 3 / 4), height, number,
                    f"{name}, {series[number]}: {shown(amount, unit)}",
                )
            )  # fmt: skip
    marks = tuple(
        Mark(_place(floor - room * part / 4), _marked(top * part / 4, unit))
        for part in range(0, 5, 2 if not rows else 1)
    )
    return Chart(tuple(bars), marks, _names([row[0] for row in rows]), series, rows)


def trend(points: Sequence[tuple[str, Decimal]], ahead: Sequence[tuple[str, Decimal]] = ()) -> Trend:
    """A line through ``points``, and on from the last of them through what is expected; in dollars, also below 0."""
    every = [*points, *ahead]
    amounts = [amount for _, amount in every]
    step = _top(max(map(abs, amounts), default=Decimal(0))) / 4
    low = -_steps(max(-min(amounts, default=Decimal(0)), Decimal(0)), step)
    high = max(_steps(max(amounts, default=Decimal(0)), step), low + 1)
    floor = Decimal(HEIGHT - BELOW)
    scale = (floor - ABOVE) / (step * (high - low))
    pitch = Decimal(WIDTH - LEFT) / max(len(every), 1)

    def place(number: int) -> str:
        return f"{_place(LEFT + pitch * number + pitch / 2)},{_place(floor - (amounts[number] - step * low) * scale)}"

    places = [place(number) for number in range(len(every))]
    spots = tuple(
        Bar(
            _place(LEFT + pitch * number), Decimal(ABOVE), _place(pitch), floor - ABOVE, 0,
            f"{name}: {'about ' if number >= len(points) else ''}{shown(amount)}",
        )
        for number, (name, amount) in enumerate(every)
    )  # fmt: skip
    marks = tuple(
        Mark(_place(floor - step * (part - low) * scale), _marked(step * part, "$")) for part in range(low, high + 1)
    )
    return Trend(
        " ".join(places[: len(points)]), " ".join(places[len(points) - 1 :]) if points and ahead else "", spots, marks,
        _names([name for name, _ in every]), _place(floor + step * low * scale), tuple(points),
    )  # fmt: skip


def _steps(amount: Decimal, step: Decimal) -> int:
    """How many steps reach an amount."""
    return int((amount / step).to_integral_value(ROUND_CEILING))


def _is_drawn(amount: Decimal) -> bool:
    return amount > 0


def _names(names: Sequence[str]) -> tuple[Name, ...]:
    """Names below columns, as many as there is room for."""
    pitch = Decimal(WIDTH - LEFT) / max(len(names), 1)
    every = -(-len(names) // NAMES_MAX) or 1
    return tuple(
        Name(_place(LEFT + pitch * place + pitch / 2), name) for place, name in enumerate(names) if place % every == 0
    )


def _marked(amount: Decimal, unit: str) -> str:
    """An amount beside a line, in the little room that is there."""
    for power, letter in ((9, "B"), (6, "M")):
        if abs(amount) >= Decimal(1).scaleb(power):
            short = f"{amount.scaleb(-power):.2f}".rstrip("0").rstrip(".")
            return f"{'$' if unit == '$' else ''}{short}{letter}".replace("$-", "−$")
    if unit == "$" and abs(amount) >= 1000:
        return f"${amount:,.0f}".replace("$-", "−$")
    if unit == "$" and amount == round(amount, 2):
        return f"${amount:.2f}".replace("$-", "−$")
    return shown(amount, unit)


def shown(amount: Decimal, unit: str = "$") -> str:
    """An amount as a chart tells it: to three digits that count, cents at least for money, which is rounded down."""
    if unit != "$":
        return f"{amount:,.0f}{f' {unit}' if unit else ''}"
    size, sign = abs(amount), "−" if amount < 0 else ""
    small = size and size < 1
    place = Decimal(1).scaleb(min(size.adjusted() - 2, -2) if small else -2)
    return f"{sign}${size.quantize(place, rounding=ROUND_UP if sign else ROUND_DOWN):,f}"


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
