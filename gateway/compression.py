"""Compressed bodies: gzip and zstd, never much more than the limit in memory."""

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard

from core import errors

# A body may be several gzip members or zstd frames in a row; each costs a decompressor.
PARTS_MAX = 1024
_WINDOW_MAX = 8 * 1024 * 1024
# Bytes given to a decompressor at once, so that what comes out at once stays below some 8 MiB:
# deflate makes at most 1,032 bytes of one, zstd 128 KiB of four.
_GZIP_STEP = 4096
_ZSTD_STEP = 256


class _Part(Protocol):
    """The decompressor of one member or frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, /) -> bytes: ...


class Inflating:
    """The body behind an encoding, as its bytes come in; work stops at ``limit`` bytes, so a bomb costs no memory.

    Raises ``RequestTooLarge``, ``UnsupportedMediaType`` for another encoding, ``InvalidRequest``
    for data that does not decompress or is cut short.
    """

    def __init__(self, *, encoding: str, limit: int) -> None:
        self._name = encoding
        self._limit = limit
        self._size = 0
        self._parts = 0
        self._part: _Part | None = None
        if encoding in {"", "identity"}:
            self._begin: Callable[[], _Part] | None = None
        elif encoding in _PACKINGS:
            self._begin, self._step = _PACKINGS[encoding]
        else:
            raise errors.UnsupportedMediaType("Content-Encoding is gzip, zstd or absent.", param="Content-Encoding")

    def feed(self, raw: bytes) -> Iterator[bytes]:
        """What the next bytes of the body stand for, in pieces that are worked out as they are asked for."""
        if self._begin is None:
            yield self._within(raw)
            return
        view = memoryview(raw)
        at = 0
        try:
            while at < len(raw):
                part = self._part or self._next(self._begin)
                piece = part.decompress(view[at : at + self._step])
                at = min(at + self._step, len(raw)) - len(part.unused_data)
                self._part = None if part.eof else part
                yield self._within(piece)
        except (zlib.error, zstandard.ZstdError) as error:
            raise errors.InvalidRequest(f"The body is not {self._name}.") from error

    def close(self) -> None:
        """The body ends here."""
        if self._part is not None:
            raise errors.InvalidRequest(f"The {self._name} body is cut short.")

    def _next(self, begin: Callable[[], "_Part"]) -> "_Part":
        if self._parts == PARTS_MAX:
            raise errors.InvalidRequest(f"The {self._name} body has more than {PARTS_MAX} parts.")
        self._parts += 1
        return begin()

    def _within(self, piece: bytes) -> bytes:
        self._size += len(piece)
        if self._size > self._limit:
            raise errors.RequestTooLarge(f"A body has at most {self._limit} bytes after decompression.")
        return piece


def inflate(raw: bytes, *, encoding: str, limit: int) -> bytes:
    """The decompressed body. Raises what ``Inflating`` raises."""
    body = Inflating(encoding=encoding, limit=limit)
    plain = b"".join(body.feed(raw))
    body.close()
    return plain


def _gzip() -> _Part:
    return zlib.decompressobj(wbits=31)


def _zstd() -> _Part:
    return zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX).decompressobj()


_PACKINGS: dict[str, tuple[Callable[[], _Part], int]] = {"gzip": (_gzip, _GZIP_STEP), "zstd": (_zstd, _ZSTD_STEP)}
