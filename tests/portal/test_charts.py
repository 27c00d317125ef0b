from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal import charts
from portal.charts import Column, stacked, trend

AMOUNTS = st.decimals(min_value=0, max_value=10**6, places=6)
COLUMNS = st.lists(
    st.builds(Column, name=st.text(max_size=5), amounts=st.dictionaries(st.sampled_from("abcdefghij"), AMOUNTS)),
    max_size=40,
)


def test_bars_stand_on_each_other_and_on_the_floor() -> None:
    chart = stacked([Column("1 May", {"a": Decimal(7), "b": Decimal(2)})])
    # 9 of at most 10 on 188 units of height: 169.2, of which 131.6 are a's.
    assert [(bar.y, bar.height, bar.series) for bar in chart.bars] == [
        (Decimal("64.4"), Decimal("131.6"), 0),
        (Decimal("26.8"), Decimal("37.6"), 1),
    ]
    assert chart.bars[0].label == "1 May, a: $7.00"
    assert [mark.label for mark in chart.marks] == ["$0.00", "$2.50", "$5.00", "$7.50", "$10.00"]


def test_more_series_than_colours_become_others_and_nothing_is_lost() -> None:
    amounts = {f"m{number}": Decimal(10 - number) for number in range(8)}
    chart = stacked([Column("1 May", amounts)])
    assert chart.series == ("m0", "m1", "m2", "m3", "m4", charts.OTHERS)
    assert chart.rows == (("1 May", (10, 9, 8, 7, 6, 5 + 4 + 3), 52),)


def test_an_empty_chart_draws_its_floor_only() -> None:
    assert stacked([]).bars == ()
    assert stacked([Column("1 May", {})]).bars == ()


def test_small_amounts_keep_their_digits() -> None:
    assert charts.shown(Decimal("0.000123456")) == "$0.000123"
    assert charts.shown(Decimal("1234.5")) == "$1,234.50"
    assert charts.shown(Decimal(1200), "tokens") == "1,200 tokens"


@pytest.mark.parametrize(
    ("amount", "said"),
    [("6.999", "$6.99"), ("-6.991", "−$7.00"), ("0.9999", "$0.999"), ("0.0009999", "$0.000999"), ("0", "$0.00")],
)
def test_a_chart_says_no_more_than_the_figure_beside_it(amount: str, said: str) -> None:
    assert charts.shown(Decimal(amount)) == said


def test_what_was_taken_back_counts_and_is_not_drawn() -> None:
    chart = stacked([Column("1 May", {"a": Decimal(-3), "b": Decimal(1)})])
    assert [(bar.series, bar.height) for bar in chart.bars] == [(0, Decimal(188))]
    assert chart.series == ("b", "a")
    assert chart.rows == (("1 May", (Decimal(1), Decimal(-3)), Decimal(-2)),)


def test_large_marks_are_short() -> None:
    told: list[tuple[int | str, str]] = [
        (1_200_000, ""),
        (750_000, ""),
        (2_250_000_000, ""),
        (1500, "$"),
        (3_000_000, "$"),
        (-2000, "$"),
    ]
    told += [("0.5", "$"), ("0.0075", "$"), ("-0.25", "$")]
    assert [charts._marked(Decimal(amount), unit) for amount, unit in told] == [
        "1.2M", "750,000", "2.25B", "$1,500", "$3M", "−$2,000", "$0.50", "$0.00750", "−$0.25",
    ]  # fmt: skip


def test_a_trend_goes_on_from_its_last_point_and_says_what_is_expected() -> None:
    told = trend([("1 May", Decimal(4)), ("2 May", Decimal(3))], [("3 May", Decimal(1)), ("4 May", Decimal(0))])
    # Columns of 164 units; 4 of at most 4 on 188 units of height.
    assert told.line == "146.0,8.0 310.0,55.0"
    assert told.ahead == "310.0,55.0 474.0,149.0 638.0,196.0"
    assert [spot.label for spot in told.spots] == [
        "1 May: $4.00", "2 May: $3.00", "3 May: about $1.00", "4 May: about $0.00",
    ]  # fmt: skip
    assert [mark.label for mark in told.marks] == ["$0.00", "$1.00", "$2.00", "$3.00", "$4.00"]
    assert told.zero == 196
    assert told.rows == (("1 May", 4), ("2 May", 3))


def test_a_trend_below_nothing_has_room_for_it() -> None:
    told = trend([("1 May", Decimal(2)), ("2 May", Decimal(-2))])
    assert told.line == "228.0,8.0 556.0,196.0"
    assert told.zero == 102
    assert told.ahead == ""
    assert [mark.label for mark in told.marks][::4] == ["−$2.00", "$0.00", "$2.00"]
    assert told.spots[1].label == "2 May: −$2.00"


def test_a_trend_of_nothing_is_drawn_on_its_floor() -> None:
    assert (trend([]).line, trend([]).ahead) == ("", "")
    assert trend([("1 May", Decimal(0))]).line == "392.0,196.0"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(COLUMNS)
def test_every_bar_lies_inside_the_picture_and_rows_add_up(columns: list[Column]) -> None:
    chart = stacked(columns)
    for bar in chart.bars:
        # Each of at most six bars of a column is rounded up by less than a tenth.
        assert bar.y >= -1
        assert bar.y + bar.height <= charts.HEIGHT
        assert charts.LEFT <= bar.x <= charts.WIDTH
    for row, column in zip(chart.rows, columns, strict=True):
        assert sum(row[1]) == row[2] == sum(column.amounts.values())
