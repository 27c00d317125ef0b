"""Compressed bodies: gzip and zstd, never more than the limit in memory."""

import zlib

import zstandard

from core import errors

_CHUNK = 64 * 1024


def inflate(raw: bytes, *, encoding: str, limit: int) -> bytes:
    """The decompressed body; work stops at ``limit`` bytes, so a bomb costs no memory.

    Raises ``RequestTooLarge``, ``UnsupportedMediaType`` for another encoding, ``InvalidRequest``
    for data that does not decompress.
    """
    if encoding in {"", "identity"}:
        plain = raw
    elif encoding == "gzip":
        plain = _gzip(raw, limit)
    elif encoding == "zstd":
        plain = _zstd(raw, limit)
    else:
        raise errors.UnsupportedMediaType("Content-Encoding is gzip, zstd or absent.", param="Content-Encoding")
    if len(plain) > limit:
        raise errors.RequestTooLarge(f"A body has at most {limit} bytes after decompression.")
    return plain


def _gzip(raw: bytes, limit: int) -> bytes:
    plain = b""
    rest = raw
    try:
        # A gzip body may be several members in a row.
        while rest and len(plain) <= limit:
            inflater = zlib.decompressobj(wbits=31)
            plain += inflater.decompress(rest, limit + 1 - len(plain))
            if not inflater.eof:
                if len(plain) <= limit:
                    raise errors.InvalidRequest("The gzip body is cut short.")
                break
            rest = inflater.unused_data
    except zlib.error as error:
        raise errors.InvalidRequest("The body is not gzip.") from error
    return plain


def _zstd(raw: bytes, limit: int) -> bytes:
    parts, size = [], 0
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).stream_reader(raw, read_across_frames=True)
        while size <= limit and (part := reader.read(_CHUNK)):
            parts.append(part)
            size += len(part)
    except zstandard.ZstdError as error:
        raise errors.InvalidRequest("The body is not zstd.") from error
    return b"".join(parts)
