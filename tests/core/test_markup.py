"""What pages are made of: escaped, aligned, and said in words."""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core import ids, markup

NASTY = "<script>alert(1)</script>\"'"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;"


def cells(text: str) -> list[list[str]]:
    """A table's cells by line."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL) for line in lines]


def test_a_table_escapes_all_but_what_was_made_as_markup() -> None:
    text = markup.table((NASTY,), [(NASTY,), (format_html("<b>{}</b>", NASTY),), (None,)], foot=(NASTY,))
    assert cells(text) == [[ESCAPED], [ESCAPED], [f"<b>{ESCAPED}</b>"], ["-"], [ESCAPED]]
    assert isinstance(text, SafeString)


def test_columns_of_numbers_are_aligned_and_others_are_not() -> None:
    rows = [("a", "1,200", "+0.5", "-3.7 %", "1"), ("b", "-", "-2", "100 %", "one")]
    text = markup.table(("name", "count", "more", "share", "mixed"), rows)
    assert re.findall(r'<th scope="col" class="(\w+)">', text) == ["text", "number", "number", "number", "text"]


def test_rows_that_stand_out_are_marked_by_their_place() -> None:
    text = markup.table(("name",), [("a",), ("b",), ("c",)], marked=[1])
    assert re.findall(r'<tr class="marked">.*?<td[^>]*>(\w)</td>', text) == ["b"]


def test_facts_are_a_line_each_and_lists_one_below_the_other() -> None:
    text = markup.as_facts(
        {
            "rate_now": Decimal("0.5"),
            "open_usd": "1",
            "changes": ["a", NASTY],
            "sure": True,
            "free": 0,
            "none": None,
            "deep": {"a": [1]},
        }
    )
    assert cells(text) == [
        ["rate now", "0.5"],
        ["open (USD)", "1"],
        ["changes", f"a<br>{ESCAPED}<br>"],
        ["sure", "yes"],
        ["free", "0"],
        ["none", "-"],
        ["deep", "<pre>{\n  &quot;a&quot;: [\n    1\n  ]\n}</pre>"],
    ]


def test_a_change_is_told_in_its_order() -> None:
    document = {"credit_limit": {"after": "50", "before": None}, "frozen": {"after": True, "before": False}}
    assert cells(markup.as_facts(document)) == [["credit limit", "- → 50"], ["frozen", "no → yes"]]
    assert NASTY not in markup.as_facts({"name": {"before": NASTY, "after": NASTY}})


def test_names_in_facts_are_escaped_too() -> None:
    assert "<script>" not in markup.as_facts({NASTY: [NASTY], "more": {NASTY: NASTY}})


@pytest.mark.parametrize(
    ("part", "whole", "sign", "said"),
    [
        ("0.01", "0.27", True, "+3.7 %"),
        ("-0.01", "0.27", True, "-3.7 %"),
        ("0.01", "0.27", False, "3.7 %"),
        ("-1", "3", False, "-33.33 %"),
        ("0", "3", True, "0 %"),
        ("1", "0", True, None),
        ("99999999999.999999999999", "0.000000000001", False, "9999999999999999999999900 %"),
    ],
)
def test_a_share_is_exact_to_two_decimals(part: str, whole: str, sign: bool, said: str | None) -> None:
    assert markup.percent(Decimal(part), Decimal(whole), sign=sign) == said


def test_amounts_say_in_which_direction_they_go() -> None:
    assert [markup.signed(Decimal(text)) for text in ("0.50", "-0.5", "0")] == ["+0.5", "-0.5", "0"]


def test_an_instant_is_shown_in_utc() -> None:
    assert markup.stamp(datetime(2026, 11, 1, 0, 30, tzinfo=UTC)) == "2026-11-01 00:30:00"
    assert markup.stamp(datetime(2026, 11, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))) == "2026-10-31 22:30:00"


def test_links_escape_their_text_and_address() -> None:
    assert markup.link_to('/x?a=1&b="', NASTY) == f'<a href="/x?a=1&amp;b=&quot;">{ESCAPED}</a>'
    key = ids.new()
    assert markup.link("orgs_organization", key, "x") == f'<a href="/admin/orgs/organization/{key}/change/">x</a>'
    assert ids.show("org", key) in markup.refer("orgs_organization", "org", key)
    assert markup.refer("orgs_organization", "org", None) == "-"


@pytest.mark.parametrize("document", [{"a": NASTY}, [NASTY], NASTY])
def test_documents_are_text(document: Any) -> None:
    text = markup.as_text(document)
    assert text.startswith("<pre>")
    assert "<script>" not in text
    assert markup.as_text(None) == "-"
