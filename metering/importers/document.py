"""A price list's JSON: exact numbers, keys that came twice, and everything odd kept to be named in its place."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from metering.importers.drafted import BadSource, Refusal, shown

BYTES_MAX = 64 * 1024 * 1024
DEPTH_MAX = 64
DIGITS_MAX = 40
# Words that JSON does not know and Python's parser reads.
NO_NUMBERS = frozenset({"NaN", "Infinity", "-Infinity"})
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Odd(NamedTuple):
    """A number that is none for a price: NaN, Infinity, or too long to be honest."""

    text: str


class Members(dict[str, Any]):
    """An object; ``doubled`` names the keys that came more than once."""

    doubled: frozenset[str] = frozenset()


def read(raw: bytes | str) -> Any:
    """The document: ``Members``, lists, str, int, ``Decimal`` for fractions, ``Odd``, bool, None.

    Raises ``BadSource`` where there is no document: cut off, not JSON, not UTF-8, too big or too deep.
    """
    if len(raw) > BYTES_MAX:
        raise BadSource(f"the document is larger than {BYTES_MAX} bytes")
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise BadSource(f"the document is not UTF-8: byte {error.start}") from error
    try:
        value = json.loads(
            text, parse_float=_fraction, parse_int=_integer, parse_constant=Odd, object_pairs_hook=_members
        )
    except json.JSONDecodeError as error:
        raise BadSource(f"the document is not JSON: {error.msg} in line {error.lineno}") from error
    except RecursionError as error:
        raise BadSource(f"the document is nested deeper than {DEPTH_MAX}") from error
    if _is_deeper(value, DEPTH_MAX):
        raise BadSource(f"the document is nested deeper than {DEPTH_MAX}")
    return value


def faults(value: Any, *, path: str = "$") -> Iterator[Refusal]:
    """What makes a document untrustworthy wherever it stands: NaN, Infinity, a key that came twice. By JSON path."""
    if isinstance(value, Odd):
        if value.text in NO_NUMBERS:
            yield Refusal(path, f"{value.text} is not JSON", grave=True)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from faults(inner, path=f"{path}[{index}]")
    elif isinstance(value, Members):
        for key, inner in value.items():
            below = f"{path}.{key}" if _WORD.fullmatch(key) else f"{path}[{json.dumps(shown(key), ensure_ascii=False)}]"
            if key in value.doubled:
                yield Refusal(below, "it stands there more than once", grave=True)
            yield from faults(inner, path=below)


def _fraction(text: str) -> Decimal | Odd:
    if len(text) > DIGITS_MAX:
        return Odd(text[:DIGITS_MAX])
    try:
        value = Decimal(text)
    except ArithmeticError:  # an exponent of twenty digits
        return Odd(text)
    return value if -DIGITS_MAX < value.adjusted() < DIGITS_MAX else Odd(text)


def _integer(text: str) -> int | Odd:
    return int(text) if len(text) <= DIGITS_MAX else Odd(text[:DIGITS_MAX])


def _members(pairs: list[tuple[str, Any]]) -> Members:
    members = Members(pairs)
    if len(members) < len(pairs):
        members.doubled = frozenset(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return members


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether objects and arrays are nested beyond a depth."""
    level = [value]
    for _ in range(depth + 1):
        containers = [outer for outer in level if isinstance(outer, dict | list)]
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return bool(containers)
