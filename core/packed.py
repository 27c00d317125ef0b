"""Fields of a row as PostgreSQL's binary ``COPY`` takes them: four bytes of length, then the value.

The driver can do this too, field by field and row by row; a batch whose rows are joined from ready
pieces takes a fraction of that. Who packs says the column's type by the function called: PostgreSQL
converts nothing here. Formats are those of the types' receive functions.
"""

import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

import psycopg
from psycopg.adapt import PyFormat

from core import money

NULL = b"\xff\xff\xff\xff"
TRUE, FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"

_SMALL = struct.Struct("!ih").pack
_INTEGER = struct.Struct("!ii").pack
_LONG = struct.Struct("!iq").pack
_LENGTH = struct.Struct("!i").pack
_ID_LENGTH = _LENGTH(16)
# Of numeric(24,12): the number of groups of four digits, the first one's weight, the sign, the decimals, the groups.
_USD = struct.Struct("!i10h").pack
_number = psycopg.adapters.get_dumper(Decimal, PyFormat.BINARY)(Decimal).dump
# Timestamps count microseconds from here (PostgreSQL, src/include/datatype/timestamp.h).
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def text(value: str | None) -> bytes:
    """A field of text."""
    if value is None:
        return NULL
    told = value.encode()
    return _LENGTH(len(told)) + told


def binary(value: bytes) -> bytes:
    """A field of bytea; of any type, from the bytes that it is sent as."""
    return _LENGTH(len(value)) + value


def json(value: bytes) -> bytes:
    """A field of jsonb, from JSON text."""
    # Its own version stands first (PostgreSQL, jsonb_recv).
    return _LENGTH(len(value) + 1) + b"\1" + value


def identity(value: UUID) -> bytes:
    """A field of uuid."""
    return _ID_LENGTH + value.int.to_bytes(16, "big")


def optional(value: UUID | None) -> bytes:
    """A field of uuid that may be NULL."""
    return NULL if value is None else identity(value)


def flag(value: bool | None) -> bytes:
    """A field of bool."""
    return NULL if value is None else TRUE if value else FALSE


def small(value: int | None) -> bytes:
    """A field of int2."""
    return NULL if value is None else _SMALL(2, value)


def integer(value: int | None) -> bytes:
    """A field of int4."""
    return NULL if value is None else _INTEGER(4, value)


@lru_cache(maxsize=4096)
def label(value: str | None) -> bytes:
    """A field of text that many rows have alike."""
    return text(value)


@lru_cache(maxsize=4096)
def instant(at: datetime) -> bytes:
    """A field of timestamptz; many rows have the same."""
    return _LONG(8, (at - _EPOCH) // _MICROSECOND)


def numeric(amount: Decimal) -> bytes:
    """A field of numeric, as the driver packs it."""
    told = _number(amount)
    assert told is not None
    return binary(bytes(told))


@lru_cache(maxsize=4096)
def usd(pico: int) -> bytes:
    """A field of numeric, from pico-dollars of at least zero; a cost is written twice."""
    if not 0 <= pico < 10**money.DIGITS:
        return numeric(money.from_pico(pico))
    whole, rest = divmod(pico, money.PICO_PER_USD)
    return _USD(
        20, 6, 2, 0, money.DECIMALS,
        whole // 10**8, whole // 10**4 % 10**4, whole % 10**4, rest // 10**8, rest // 10**4 % 10**4, rest % 10**4,
    )  # fmt: skip
