"""JSON in and out, against Python's own reader as a naive oracle."""

import ast
import json
import subprocess
import sys
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import admissions, quotes
from core import wire
from core.wire import DEPTH_MAX, Malformed
from gateway import authorizations
from metering import rating
from metering.events import Event
from tests.database import ROOT
from tests.test_tidy import modules

SPACE = st.sampled_from(["", "", "", " ", "\t", "\n", "\r", " \n "])
LETTERS = ['a', 'b', 'é', '"', ':', '\\', '😀', '/', '\n']  # fmt: skip


@st.composite
def spellings(draw: st.DrawFn, text: str) -> str:
    """A string as JSON, each character plain or escaped."""
    found = []
    for letter in text:
        short = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}.get(letter)
        units = letter.encode("utf-16-be")
        escaped = "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2))
        found.append(draw(st.sampled_from([short or letter, short or letter, escaped])))
    return f'"{"".join(found)}"'


texts = st.text(st.sampled_from(LETTERS), max_size=2).flatmap(spellings)
numbers = st.one_of(
    st.integers(-(10**39), 10**39).map(str),
    st.decimals(-(10**9), 10**9, places=6, allow_nan=False).map(str),
    st.sampled_from(["0", "-0", "1e5", "1E-7", "2.50e+10", "0.0"]),
)
scalars = st.one_of(texts, numbers, st.sampled_from(["true", "false", "null"]))


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An array or an object as text, keys repeated now and then, spaces where JSON allows them."""
    if draw(st.booleans()):
        return "[" + ",".join(draw(st.lists(inner, max_size=4))) + draw(SPACE) + "]"
    members = draw(st.lists(st.tuples(texts, SPACE, SPACE, inner), max_size=4))
    return "{" + draw(SPACE) + ",".join(f"{key}{a}:{b}{value}" for key, a, b, value in members) + "}"


documents = st.recursive(scalars, containers, max_leaves=12)


def oracle(text: str) -> tuple[Any, bool]:
    """The value as Python reads it, and whether some object names a key twice."""
    repeated = False

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated |= len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=collect, parse_float=Decimal), repeated


@given(text=documents)
def test_a_document_is_read_as_python_reads_it_unless_a_key_stands_twice(text: str) -> None:
    value, repeated = oracle(text)
    if repeated:
        with pytest.raises(Malformed, match="stands twice"):
            wire.decode(text.encode())
    else:
        assert wire.decode(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        '{"a" :1,"a":2}',
        '{"a"\t:1,"a"\n:2}',
        '{"a"\r:1,\r"a":2}',
        '{"a":1,"\\u0061":2}',
        '{"\\u0061":1,"\\u0061":2}',
        '{"é":1,"\\u00e9":2}',
        '{"\\/":1,"/":2}',
        '{"\\ud83d\\ude00":1,"😀":2}',
        '[[{"x":{"a":[],"a":[]}}]]',
        '{"x":"\\":","a":1,"a":2}',
        '{"a":{"b":1},"c":"\\":","a":{}}',
        '{"":1,"":2}',
        '{"a":"b:c","a":"b\\":c"}',
        '{"a":1,"b":2,"a" :":"}',
        '{"events":[{"a":1},{"b":2,"b":3}]}',
        '[{"a":1},{"a" : 1, "a" : ":"}]',
    ],
)
def test_a_key_that_stands_twice_is_refused_in_every_spelling(text: str) -> None:
    with pytest.raises(Malformed, match="stands twice"):
        wire.decode(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"a":{"a":{"a":1}}}',
        '[{"a":1},{"a":2}]',
        '{"a":"a\\":1,\\"a\\":2"}',
        '{"a":1,"A":2}',
        '[{"a":"::"},{"a" : {}}]',
        '{"events":[{"a":1,"b":[{"a":":"}]},{"a":1}]}',
        '{"e\\u0301":1,"é":2}',
    ],
)
def test_equal_keys_of_different_objects_and_keys_that_only_look_alike_are_fine(text: str) -> None:
    assert wire.decode(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"nul", b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b"01", b"-01", b"+1", b".5", b"1.", b"1e",
        b"0x10", b"1_000", b"--1", b"'a'", b"{a:1}", b'{"a":1,}', b"[1,]", b"[1 2]", b'{"a" 1}', b"// x\n1", b"1 1",
        b"{", b"[", b'"a', b'"\x01"', b'"\t"', b'"\\x41"', b'"\\u12"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"',
        b'"\xc0\x80"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", '{"a":1}'.encode("utf-16"), b"True", b"None", b'{"a":\x00}',
        b"\x1f\x8b", "١٢".encode(), b"1e5_0",
    ],
)  # fmt: skip
def test_what_is_not_strictly_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        wire.decode(raw)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_has_an_end(opening: str) -> None:
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[opening]
    levels = len(opening.replace('"a":', ""))
    fits = DEPTH_MAX // levels
    inside = "[]" if levels == 1 and opening == "[" else "1"
    deepest = fits - 1 if inside == "[]" else fits
    assert wire.decode((opening * deepest + inside + closing * deepest).encode()) is not None
    for depth in (deepest + 1, 1000, 200_000):
        with pytest.raises(Malformed, match="nesting"):
            wire.decode((opening * depth + inside + closing * depth).encode())


@pytest.mark.parametrize(
    "text", ["9" * 40, "-" + "9" * 40, "0." + "3" * 38, "1e308", "1e-324", "0", "[" + "9" * 40 + "]"]
)
def test_a_number_of_honest_length_is_read_exactly(text: str) -> None:
    assert wire.decode(text.encode()) == json.loads(text, parse_float=Decimal)


@pytest.mark.parametrize(
    "text",
    ["9" * 41, "-" + "1" * 41, "9" * 4000, "0." + "3" * 39, "1e309", "1e-325", "1e400", "-1e400", "1e999999999",
     "0." + "0" * 60 + "1", "1" + "0" * 50 + ".5"],
)  # fmt: skip
@pytest.mark.parametrize("frame", ["{}", "[{}]", '{{"a":{}}}', '{{"a":[1,{}]}}'])
def test_a_number_too_long_to_be_honest_is_refused_wherever_it_stands(text: str, frame: str) -> None:
    with pytest.raises(Malformed, match="number"):
        wire.decode(frame.format(text).encode())


def test_fractions_are_decimals_and_whole_numbers_are_whole() -> None:
    value = wire.decode(b'{"a":0.1,"b":1,"c":1.0,"d":1e2,"e":true}')
    assert {name: type(item) for name, item in value.items()} == {
        "a": Decimal, "b": int, "c": Decimal, "d": Decimal, "e": bool,
    }  # fmt: skip
    assert value["a"] == Decimal("0.1")


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.sampled_from(LETTERS)), inner, max_size=4),
    max_leaves=15,
)


@given(value=plain_values)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert wire.decode(wire.encode(value)) == value
    assert json.loads(wire.encode(value)) == value


@given(amount=st.decimals(-(10**11), 10**11, places=12, allow_nan=False))
def test_decimals_go_out_as_numbers_in_plain_digits(amount: Decimal) -> None:
    text = wire.encode({"cost_usd": wire.number(amount)}).decode()
    digits = text.removeprefix('{"cost_usd":').removesuffix("}")
    assert Decimal(digits) == amount
    assert set(digits) <= set("-.0123456789")


def test_ids_go_out_as_text_and_unknown_types_are_a_bug() -> None:
    value = UUID("0199a5f0-1234-7abc-8def-0123456789ab")
    assert wire.encode({"id": value, "pair": (1, 2)}) == f'{{"id":"{value}","pair":[1,2]}}'.encode()
    with pytest.raises(TypeError, match="no place on the wire"):
        wire.encode(object())


READ_AT_ONCE = """
import sys, threading
import django
django.setup()
import gateway.views
from core import wire
import msgspec

sys.setswitchinterval(1e-6)
THREADS = 16

def read(struct, ready):
    ready.wait()
    for _ in range(20):
        try:
            msgspec.convert({}, struct)
        except msgspec.ValidationError:
            pass

assert len(wire.READABLE) >= 6
for struct in wire.READABLE:
    ready = threading.Barrier(THREADS)
    threads = [threading.Thread(target=read, args=(struct, ready)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("alive")
"""


def test_bodies_that_are_the_first_of_their_kind_may_be_read_by_many_threads_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_AT_ONCE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_every_struct_that_is_read_is_made_readable_when_it_is_imported() -> None:
    read = {
        (source.name, ast.unparse(call.args[1]))
        for source in modules()
        for call in ast.walk(source.tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "msgspec.convert"
    }
    # What ``admissions.read`` is given, by those who call it.
    assert read == {
        ("billing.admissions", "kind"), ("billing.quotes", "Request"), ("metering.events", "Event"),
        ("metering.events", "list[Event]"), ("metering.quarantine", "Event"), ("metering.rating", "Window"),
    }  # fmt: skip
    assert {admissions.Request, quotes.Request, Event, rating.Window, authorizations.Request,
            authorizations.Question} <= wire.READABLE  # fmt: skip
