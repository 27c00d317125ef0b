"""What every list shares: limit, after, the shape of a page, cells of a CSV."""

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from core import errors, lists

RUNS = "=+-@＝＋－＠"


def request(**query: str) -> Request:
    """A read with a query."""
    return Request(APIRequestFactory().get("/", query))


def test_a_whole_number_is_written_in_plain_digits() -> None:
    assert [lists.integer(text, param="n") for text in ("0", "-7", "007", "9" * 18)] == [0, -7, 7, 10**18 - 1]
    for text in ("", " 1", "1 ", "+1", "1.0", "1e3", "１", "0x1", "1_0", "9" * 19, "--1", "1\n", "nan"):
        with pytest.raises(errors.InvalidType) as refused:
            lists.integer(text, param="n")
        assert refused.value.param == "n"


def test_limit_and_after_have_their_defaults() -> None:
    assert (lists.limit(request()), lists.after(request())) == (20, None)
    assert (lists.limit(request(limit="100")), lists.after(request(after="x"))) == (100, "x")
    assert lists.after(request(after="")) is None
    for wrong in ("0", "101", "-5"):
        with pytest.raises(errors.OutOfRange):
            lists.limit(request(limit=wrong))


def test_of_several_values_the_last_counts() -> None:
    params = {"a": ["1", "2"], "b": [""], "c": []}
    assert [lists.last(params, name) for name in "abcd"] == ["2", "", None, None]
    assert [lists.size(text) for text in (None, "1", "100")] == [20, 1, 100]
    with pytest.raises(errors.InvalidType):
        lists.size("")


def test_a_page_names_its_ends() -> None:
    assert lists.page([{"id": "b"}, {"id": "a"}], has_more=True) == {
        "object": "list", "data": [{"id": "b"}, {"id": "a"}], "first_id": "b", "last_id": "a", "has_more": True,
    }  # fmt: skip
    empty = lists.page([], has_more=False)
    assert (empty["first_id"], empty["last_id"], empty["has_more"]) == (None, None, False)


@given(st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(f"{RUNS};\t\r\n \"',")), max_size=30))
def test_a_cell_holds_its_text_and_no_reader_finds_a_formula_in_it(text: str) -> None:
    made = lists.cell(text)
    assert made.replace("'", "") == text.replace("'", "")
    written = io.StringIO(newline="")
    csv.writer(written).writerow(["first", made, "last"])
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(written.getvalue(), newline=""), delimiter=separator):
            for found in row:
                number = found.lstrip("-").replace(".", "", 1)
                plain = number.isascii() and number.isdecimal()
                assert plain or not found.lstrip(" \u00a0\u3000\u200b\ufeff").startswith(tuple(RUNS)), (found, made)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12))
def test_a_number_is_left_alone(amount: Any) -> None:
    text = format(amount, "f")
    assert lists.cell(text) == text


def test_an_export_is_sent_in_pieces_of_whole_rows() -> None:
    rows = [(number, "x" * 100, None) for number in range(1000)]
    answer = lists.csv_answer("things", ("a", "b", "c"), iter(rows))
    pieces = [piece.decode() for piece in answer.streaming_content]  # type: ignore[union-attr]
    assert len(pieces) > 2
    assert all(piece.endswith("\r\n") for piece in pieces)
    assert "".join(pieces).split("\r\n")[1] == f"0,{'x' * 100},"
    assert "".join(pieces).count("\r\n") == 1001


def test_a_csv_is_never_rendered_as_a_whole() -> None:
    with pytest.raises(AssertionError):
        lists.CsvRenderer().render([])
