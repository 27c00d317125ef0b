from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from portal import charts
from portal.charts import Column, stacked

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
