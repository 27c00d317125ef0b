"""Ids: UUIDv7 in the database, ``prefix_`` + 26 Crockford characters on the wire.

Version 7 (RFC 9562, 5.7) puts 48 bits of Unix milliseconds first, so ids sort by the moment
they were made and an id alone is a cursor and a partition key.
"""

import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID, SafeUUID

from core import clock

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {letter: value for value, letter in enumerate(ALPHABET)}
TEXT_LENGTH = 26
# Two letters at a time.
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_BITS = 74
_LOW = (1 << 62) - 1
# Headroom above the random start: a run of ids counts upwards and never leaves its millisecond.
_RUN_MAX = 1 << 24
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_lock = threading.Lock()
_last = 0


def _build(*, ms: int, low: int) -> UUID:
    """Assemble a version 7 id from milliseconds and the 74 free bits."""
    # Its own constructor would look for other ways to be told what to be, a thousand times a batch.
    made = object.__new__(UUID)
    object.__setattr__(made, "int", (ms << 80) | _VERSION | ((low >> 62) << 64) | _VARIANT | (low & _LOW))
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made


def new() -> UUID:
    """A fresh id stamped with this process's clock, above every one it made before (RFC 9562, 6.2)."""
    global _last
    with _lock:
        fresh = _build(ms=milliseconds(clock.now()), low=_random_low())
        if fresh.int <= _last:
            fresh = _above(_last)
        _last = fresh.int
        return fresh


def _above(last: int) -> UUID:
    """The id that follows ``last``: its free bits counted up by one."""
    low = (last >> 64 & 0xFFF) << 62 | last & ((1 << 62) - 1)
    return _build(ms=last >> 80, low=low + 1)


def run(*, at: datetime) -> Iterator[UUID]:
    """Ids that all carry ``at`` (to the millisecond) and rise strictly within the run."""
    first = _build(ms=milliseconds(at), low=_random_low()).int
    make, put, unknown = object.__new__, object.__setattr__, SafeUUID.unknown
    for number in range(first, first + _RUN_MAX):
        made = make(UUID)
        put(made, "int", number)
        put(made, "is_safe", unknown)
        yield made


def _random_low() -> int:
    """The free bits of an id that others may follow."""
    low = secrets.randbits(_RANDOM_BITS)
    # Below the variant's bits there is room for a whole run, so its ids follow each other as numbers do.
    return low - _RUN_MAX if low & _LOW > _LOW - _RUN_MAX else low


def floor(at: datetime) -> UUID:
    """The smallest id value of that millisecond: a bound for ranges, never an object's id."""
    return UUID(int=milliseconds(at) << 80)


def milliseconds(at: datetime) -> int:
    """Whole Unix milliseconds of an aware instant, rounded down."""
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def instant(value: UUID) -> datetime:
    """The instant an id carries, to the millisecond."""
    ms = value.int >> 80
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def show(prefix: str, value: UUID) -> str:
    """The id as customers see it: ``usage_01K6Z7…``."""
    number = value.int
    # The tail's ten letters without a loop, which takes half the time: ids are shown a thousand an answer.
    return (
        f"{prefix}_{_head(number >> 50)}{_PAIRS[number >> 40 & 1023]}{_PAIRS[number >> 30 & 1023]}"
        f"{_PAIRS[number >> 20 & 1023]}{_PAIRS[number >> 10 & 1023]}{_PAIRS[number & 1023]}"
    )


@lru_cache(maxsize=1024)
def _head(number: int) -> str:
    """The letters before the tail: ids that were made together share them."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(70, -1, -10)])


def read(prefix: str, text: str) -> UUID:
    """The id behind its text. Raises ``ValueError`` for another prefix or any other spelling."""
    head, _, body = text.partition("_")
    if head != prefix or len(body) != TEXT_LENGTH or body[0] not in "01234567":
        raise ValueError(f"not a {prefix}_ id")
    number = 0
    for letter in body:
        if letter not in _VALUES:
            raise ValueError(f"not a {prefix}_ id")
        number = number << 5 | _VALUES[letter]
    return UUID(int=number)
