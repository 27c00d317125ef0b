"""Compressed bodies: taken whole or refused, and a bomb costs neither memory nor time."""

import gzip
import io
import os
import resource
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from core import errors
from gateway.compression import PARTS_MAX, inflate

LIMIT = 8 * 1024 * 1024
MIB = 1024 * 1024


def zstd(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(plain)


def zstd_streamed(plain: bytes) -> bytes:
    """A frame that does not say how long its content is."""
    out = zstandard.ZstdCompressor().compressobj()
    return out.compress(plain) + out.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd}
both = pytest.mark.parametrize("encoding", PACKERS)


@given(parts=st.lists(st.binary(max_size=2000), min_size=1, max_size=4), encoding=st.sampled_from(["gzip", "zstd"]))
def test_a_body_of_one_part_or_several_comes_out_whole(parts: list[bytes], encoding: str) -> None:
    raw = b"".join(PACKERS[encoding](part) for part in parts)
    assert inflate(raw, encoding=encoding, limit=LIMIT) == b"".join(parts)


@both
def test_a_large_body_comes_out_whole(encoding: str) -> None:
    plain = os.urandom(MIB) + b"x" * MIB + os.urandom(MIB)
    assert inflate(PACKERS[encoding](plain), encoding=encoding, limit=LIMIT) == plain


def test_a_frame_without_its_length_and_with_a_checksum_comes_out_whole() -> None:
    plain = os.urandom(300_000)
    assert inflate(zstd_streamed(plain), encoding="zstd", limit=LIMIT) == plain
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    assert inflate(checked, encoding="zstd", limit=LIMIT) == plain


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_a_plain_body_is_left_alone(encoding: str) -> None:
    assert inflate(b"plain", encoding=encoding, limit=5) == b"plain"
    with pytest.raises(errors.RequestTooLarge):
        inflate(b"plain!", encoding=encoding, limit=5)


@pytest.mark.parametrize("encoding", ["deflate", "br", "GZIP", "gzip, gzip", "gzip,zstd", "x-gzip", "compress"])
def test_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(errors.UnsupportedMediaType):
        inflate(gzip.compress(b"x"), encoding=encoding, limit=LIMIT)


@both
@pytest.mark.parametrize("size", [1, 1000, LIMIT])
def test_the_limit_counts_what_comes_out(encoding: str, size: int) -> None:
    raw = PACKERS[encoding](b"x" * size)
    assert len(inflate(raw, encoding=encoding, limit=size)) == size
    with pytest.raises(errors.RequestTooLarge):
        inflate(raw, encoding=encoding, limit=size - 1)


@both
def test_the_limit_counts_all_parts_together(encoding: str) -> None:
    raw = PACKERS[encoding](b"x" * 600) * 3
    assert len(inflate(raw, encoding=encoding, limit=1800)) == 1800
    with pytest.raises(errors.RequestTooLarge):
        inflate(raw, encoding=encoding, limit=1799)


@both
def test_a_body_that_is_cut_short_anywhere_is_refused(encoding: str) -> None:
    raw = PACKERS[encoding](os.urandom(3000) + b"x" * 3000)
    for length in [*range(1, 40), *range(40, len(raw) - 10, 97), *range(len(raw) - 10, len(raw))]:
        with pytest.raises(errors.InvalidRequest):
            inflate(raw[:length], encoding=encoding, limit=LIMIT)
    with pytest.raises(errors.InvalidRequest):
        inflate(raw + raw[:-1], encoding=encoding, limit=LIMIT)


def test_a_frame_of_many_blocks_that_is_cut_between_two_of_them_is_refused() -> None:
    raw = zstd(os.urandom(400_000))
    for length in range(1000, len(raw), 7919):
        with pytest.raises(errors.InvalidRequest, match="cut short"):
            inflate(raw[:length], encoding="zstd", limit=LIMIT)


@both
@pytest.mark.parametrize("raw", [b"{}", b"\x00" * 50, b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x00garbage"])
def test_what_is_not_compressed_so_is_refused(encoding: str, raw: bytes) -> None:
    with pytest.raises(errors.InvalidRequest):
        inflate(raw, encoding=encoding, limit=LIMIT)


@both
def test_anything_behind_the_last_part_is_refused(encoding: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        inflate(PACKERS[encoding](b"{}") + b"trailing", encoding=encoding, limit=LIMIT)


@both
def test_a_flipped_bit_is_noticed(encoding: str) -> None:
    checked = gzip.compress if encoding == "gzip" else zstandard.ZstdCompressor(write_checksum=True).compress
    raw = bytearray(checked(os.urandom(500)))
    raw[len(raw) // 2] ^= 1
    with pytest.raises(errors.InvalidRequest):
        inflate(bytes(raw), encoding=encoding, limit=LIMIT)


def test_the_other_encodings_data_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest):
        inflate(zstd(b"x"), encoding="gzip", limit=LIMIT)
    with pytest.raises(errors.InvalidRequest):
        inflate(gzip.compress(b"x"), encoding="zstd", limit=LIMIT)
    with pytest.raises(errors.InvalidRequest):
        inflate(zlib.compress(b"x"), encoding="gzip", limit=LIMIT)


def gzip_bomb(size: int) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as packed:
        for _ in range(size // MIB):
            packed.write(bytes(MIB))
    return out.getvalue()


def zstd_bomb(size: int) -> bytes:
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    parts = [packer.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, packer.flush()])


@pytest.mark.parametrize(("encoding", "bomb"), [("gzip", gzip_bomb), ("zstd", zstd_bomb)])
def test_a_bomb_stops_at_the_limit_and_costs_no_memory(encoding: str, bomb: Callable[[int], bytes]) -> None:
    raw = bomb(512 * MIB)
    assert len(raw) < MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(errors.RequestTooLarge):
            inflate(raw, encoding=encoding, limit=LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, (
        "in KiB, what tracemalloc cannot see"
    )
    assert time.process_time() - started < 2


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    raw = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    with pytest.raises(errors.InvalidRequest):
        inflate(raw.compress(os.urandom(1000)) + raw.flush(), encoding="zstd", limit=LIMIT)


@both
def test_many_empty_parts_are_refused_before_they_cost_anything(encoding: str) -> None:
    empty = PACKERS[encoding](b"")
    assert inflate(empty * PARTS_MAX, encoding=encoding, limit=LIMIT) == b""
    started = time.process_time()
    with pytest.raises(errors.InvalidRequest, match="parts"):
        inflate(empty * (LIMIT // len(empty)), encoding=encoding, limit=LIMIT)
    assert time.process_time() - started < 1
