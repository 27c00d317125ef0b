"""Compressed bodies: gzip and zstd, never much more than the limit in memory."""

import zlib
from collections.abc import Callable
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


def inflate(raw: bytes, *, encoding: str, limit: int) -> bytes:
    """The decompressed body; work stops at ``limit`` bytes, so a bomb costs no memory.

    Raises ``RequestTooLarge``, ``UnsupportedMediaType`` for another encoding, ``InvalidRequest``
    for data that does not decompress or is cut short.
    """
    if encoding in {"", "identity"}:
        plain = raw
    elif encoding == "gzip":
        plain = _unpack(raw, limit=limit, begin=_gzip, step=_GZIP_STEP, name=encoding)
    elif encoding == "zstd":
        plain = _unpack(raw, limit=limit, begin=_zstd, step=_ZSTD_STEP, name=encoding)
    else:
        raise errors.UnsupportedMediaType("Content-Encoding is gzip, zstd or absent.", param="Content-Encoding")
    if len(plain) > limit:
        raise errors.RequestTooLarge(f"A body has at most {limit} bytes after decompression.")
    return plain


def _gzip() -> _Part:
    return zlib.decompressobj(wbits=31)


def _zstd() -> _Part:
    return zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX).decompressobj()


def _unpack(raw: bytes, *, limit: int, begin: Callable[[], _Part], step: int, name: str) -> bytes:
    """All parts of a body one after the other, until one passes the limit."""
    view = memoryview(raw)
    found: list[bytes] = []
    size = at = parts = 0
    try:
        while at < len(raw) and size <= limit:
            if parts == PARTS_MAX:
                raise errors.InvalidRequest(f"The {name} body has more than {PARTS_MAX} parts.")
            part = begin()
            parts += 1
            while not part.eof and at < len(raw) and size <= limit:
                piece = part.decompress(view[at : at + step])
                at = min(at + step, len(raw)) - len(part.unused_data)
                found.append(piece)
                size += len(piece)
            if not part.eof and size <= limit:
                raise errors.InvalidRequest(f"The {name} body is cut short.")
    except (zlib.error, zstandard.ZstdError) as error:
        raise errors.InvalidRequest(f"The body is not {name}.") from error
    return b"".join(found)
