"""How long to wait before what failed is tried again. Pure: no clock, no chance.

Every row that is a task in a queue (a scheduled run, a payment to look at, a message to deliver)
counts its ``attempts`` and is put aside for a person after ``ATTEMPTS_MAX`` of them.
"""

import hashlib
from datetime import timedelta

ATTEMPTS_MAX = 8
FIRST = timedelta(seconds=10)
MOST = timedelta(hours=1)
# The whole range of 64 bits, of which the jitter is a part.
_WHOLE = 1 << 64
# Doubling further than this is beyond any ``most``.
_DOUBLINGS_MAX = 40
_MICROSECOND = timedelta(microseconds=1)


def after(attempts: int, *, first: timedelta = FIRST, most: timedelta = MOST, jitter_seed: object) -> timedelta:
    """The pause after that many failed attempts (at least 1): ``first``, doubled each time, at most ``most``.

    Up to half of it is taken off, by ``jitter_seed`` (what names the row, such as its id) and the
    attempt: rows that failed together come back apart, and the same row always waits the same. More
    than half is left, so no pause is shorter than the one before until ``most`` is reached.
    """
    assert attempts >= 1, "nothing has failed yet"
    assert timedelta(0) < first <= most, "the first pause is the shortest"
    whole = min(most // _MICROSECOND, (first // _MICROSECOND) << min(attempts - 1, _DOUBLINGS_MAX))
    part = int.from_bytes(hashlib.sha256(f"{jitter_seed}\n{attempts}".encode()).digest()[:8], "big")
    return timedelta(microseconds=whole - (whole // 2) * part // _WHOLE)
