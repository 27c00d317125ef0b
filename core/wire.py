"""JSON in and out: strict where it comes in, plain decimals where it goes out.

What naive parsers let through is refused here with its own message: duplicate keys, NaN and
Infinity, numbers too long to be honest, nesting deeper than 64, lone surrogates.
"""

import json
from collections.abc import Iterable
from decimal import Decimal
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from core import money

DEPTH_MAX = 64
NUMBER_DIGITS_MAX = 40
# What a double can hold: a score of 1e-300 in a field that is dropped must not cost a whole batch.
EXPONENTS = range(-324, 309)
_INTEGER_MAX = 10**NUMBER_DIGITS_MAX
_OBJECTS = frozenset({dict})
_CONTAINERS = frozenset({dict, list})
_WHITE = b" \t\n\r"
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY_DIGITS = b"0" * (NUMBER_DIGITS_MAX + 1)


class Malformed(ValueError):
    """The bytes are not JSON that we take; the message says why."""


def _number(text: str) -> Decimal:
    """A fraction or exponent literal, exact. Raises ``Malformed`` for one too long or too large."""
    if len(text) > NUMBER_DIGITS_MAX:
        raise Malformed("a number is too long")
    value = Decimal(text)
    if value.adjusted() not in EXPONENTS:
        raise Malformed("a number is out of range")
    return value


_decoder = msgspec.json.Decoder(float_hook=_number)

S = TypeVar("S", bound=type[msgspec.Struct])
# The struct classes whose fields msgspec knows.
READABLE: set[type[msgspec.Struct]] = set()


def readable(struct: S) -> S:
    """A class decorator: have msgspec work out the struct's fields now, while it is imported.

    Left alone it does so when the class is first read, lets other threads run in the middle of that,
    and ends the process with a segmentation fault when one of them reads the same class meanwhile
    (msgspec 0.22): the first requests after a start often come together.
    """
    msgspec.json.Decoder(struct)
    READABLE.add(struct)
    return struct


def decode(raw: bytes) -> Any:
    """The value in ``raw``: dicts, lists, str, int, ``Decimal`` for fractions, bool, None.

    Raises ``Malformed``.
    """
    try:
        value = _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from error
    except UnicodeDecodeError as error:
        raise Malformed("the text is not UTF-8") from error
    except RecursionError as error:
        raise Malformed(f"nesting is deeper than {DEPTH_MAX}") from error
    # Only where so many digits stand in a row can there be a number too long, so most bodies are not searched for one.
    members = _members(value, DEPTH_MAX, bounded=_TOO_MANY_DIGITS not in raw.translate(_DIGITS_AS_ZERO))
    # Every member has a colon, so no more colons than members that were kept: no key came twice. Strings may
    # hold some too; without escapes and white space `":` still occurs exactly once a member. Anything else
    # takes the slow, certain way.
    if raw.count(b":") != members and (b"\\" in raw or raw.translate(None, _WHITE).count(b'":') != members):
        _refuse_duplicate_keys(raw)
    return value


def _members(value: Any, depth: int, *, bounded: bool) -> int:
    """How many object members a value holds. Raises ``Malformed`` beyond the depth or for a number too long.

    ``bounded``: no number is too long.
    """
    if depth == 0:
        raise Malformed(f"nesting is deeper than {DEPTH_MAX}")
    inner: Iterable[Any]
    count = 0
    if type(value) is dict:
        inner = value.values()
        count = len(value)
    elif type(value) is list:
        inner = value
        # A batch: objects without anything in them. Looked through at once, in half the time.
        objects = bounded and depth > 1 and set(map(type, value)) == _OBJECTS
        if objects and _CONTAINERS.isdisjoint(map(type, chain.from_iterable(map(dict.values, value)))):
            return sum(map(len, value))
    else:
        inner = ()
        if type(value) is int and not -_INTEGER_MAX < value < _INTEGER_MAX:
            raise Malformed("a number is too long")
    if bounded and _CONTAINERS.isdisjoint(map(type, inner)):
        return count
    for item in inner:
        kind = type(item)
        if kind is dict or kind is list:
            count += _members(item, depth - 1, bounded=bounded)
        elif kind is int and not -_INTEGER_MAX < item < _INTEGER_MAX:
            raise Malformed("a number is too long")
    return count


def _refuse_duplicate_keys(raw: bytes) -> None:
    """Raise ``Malformed`` if any object of the document names a key twice."""

    def check(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Malformed(f"the key {key[:64]!r} stands twice in one object")
            seen.add(key)

    try:
        json.loads(raw, object_pairs_hook=check, parse_int=len, parse_float=len)
    except RecursionError as error:
        raise Malformed(f"nesting is deeper than {DEPTH_MAX}") from error
    except UnicodeDecodeError as error:
        raise Malformed("the text is not UTF-8") from error


def number(amount: Decimal) -> msgspec.Raw:
    """A decimal as a JSON number in plain digits, never with an exponent."""
    return msgspec.Raw(money.plain(amount).encode())


def _encode_other(value: object) -> object:
    """Types JSON lacks; anything unknown is a bug."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place on the wire")


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)


def encode(value: object) -> bytes:
    """JSON text of a value made of plain types and of ``number(...)``."""
    return _encoder.encode(value)
