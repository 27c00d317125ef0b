"""A price list's JSON, read exactly and with everything odd in its place."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.importers import document
from metering.importers.document import Members, Odd
from metering.importers.drafted import BadSource
from tests.metering.importers import garbage


def test_fractions_are_exact_and_whole_numbers_whole() -> None:
    assert document.read('{"a": 3e-06, "b": 0.1, "c": 7, "d": [true, null, "x"]}') == {
        "a": Decimal("0.000003"),
        "b": Decimal("0.1"),
        "c": 7,
        "d": [True, None, "x"],
    }


@pytest.mark.parametrize(
    "text",
    ["NaN", "Infinity", "-Infinity", "1e99999", "1e-99999", "1e99999999999999999999", "0." + "1" * 50, "9" * 5000],
)
def test_a_number_that_no_price_can_be_is_kept_to_be_named(text: str) -> None:
    (odd,) = document.read(f"[{text}]")
    assert isinstance(odd, Odd)
    assert text.startswith(odd.text)


def test_keys_that_came_twice_are_named() -> None:
    read = document.read('{"a": 1, "b": {"c": 1, "c": 2}, "a": 3}')
    assert isinstance(read, Members)
    assert read.doubled == {"a"}
    assert read["b"].doubled == {"c"}
    assert document.read('{"a": 1}').doubled == frozenset()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not JSON"),
        (b'{"gpt-4o": {"input_cost_per_token": 2.5e', "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7"),
        ("[" * 100_000, "deeper"),
        ("[" * 65 + "]" * 65, "deeper"),
        ('{"a":' * 65 + "1" + "}" * 65, "deeper"),
    ],
)
def test_what_is_no_document_says_why(raw: bytes | str, why: str) -> None:
    with pytest.raises(BadSource, match=why):
        document.read(raw)


def test_a_document_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "BYTES_MAX", 10)
    with pytest.raises(BadSource, match="larger than 10 bytes"):
        document.read(b'["01234567"]')
    assert document.read(b'["012345"]') == ["012345"]


def test_nesting_up_to_the_limit_and_a_byte_order_mark_are_fine() -> None:
    assert document.read(b"\xef\xbb\xbf" + b"[" * 64 + b"]" * 64) is not None


@given(garbage.anything(st.just("a")))
def test_any_json_is_read_or_refused_as_a_whole(text: str) -> None:
    try:
        read = document.read(text)
    except BadSource as refused:
        why = str(refused)
        assert why.startswith("the document is")
    else:
        assert read == document.read(text.encode())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": {"b": [1, {"c": NaN}]}}', ["$.a.b[1].c: NaN is not JSON"]),
        ('[Infinity, -Infinity, 1e400, "NaN"]', ["$[0]: Infinity is not JSON", "$[1]: -Infinity is not JSON"]),
        ('{"gpt-4.1": {"x": 1, "x": 2}}', ['$["gpt-4.1"].x: it stands there more than once']),
        ('{"a": 1, "b": NaN, "a": {"c": 1, "c": 1}}', [
            "$.a: it stands there more than once", "$.a.c: it stands there more than once", "$.b: NaN is not JSON",
        ]),
        ('{"a\\u0000\\"b": NaN}', ['$["a\N{REPLACEMENT CHARACTER}\\"b"]: NaN is not JSON']),
        ('{"a": [1, 2.5, null, true, "x", {}]}', []),
    ],
)  # fmt: skip
def test_faults_are_named_by_their_path(text: str, found: list[str]) -> None:
    faults = [*document.faults(document.read(text))]
    assert [str(fault) for fault in faults] == found
    assert all(fault.grave for fault in faults)
