"""Token buckets: pure arithmetic in whole numbers.

A bucket of ``limit`` a minute holds at most that many and fills evenly: a minute after it was empty
it is full. Time is microseconds of a clock that only goes forward; a level counts in units times
the microseconds of a minute, so nothing is ever rounded.
"""

from typing import NamedTuple

MINUTE = 60_000_000
_SECOND = 1_000_000
_MILLI = 1_000


class Bucket(NamedTuple):
    """How much is in it, and when that was so. A level below zero is owed."""

    level: int
    at: int


def full(limit: int, *, now: int) -> Bucket:
    """A bucket that nobody has drawn from."""
    return Bucket(limit * MINUTE, now)


def fill(bucket: Bucket, limit: int, *, now: int) -> Bucket:
    """The bucket as it is now.

    What somebody has written a moment later stands as it is; what lies further ahead is of another life of
    the clock, which begins anew with the machine: full again.
    """
    if bucket.at > now + MINUTE:
        return full(limit, now=now)
    return Bucket(min(limit * MINUTE, bucket.level + max(0, now - bucket.at) * limit), max(now, bucket.at))


def admits(bucket: Bucket, limit: int, amount: int, *, leaving: int = 0) -> bool:
    """Whether so much may be drawn and ``leaving`` stays in; from a full bucket, more than it holds may be.

    What is drawn beyond the level is owed, so over any time no more comes out than the limit's part of
    it, one full bucket and what the largest draw exceeds a bucket by.
    """
    return bucket.level >= min(amount + leaving, limit) * MINUTE


def draw(bucket: Bucket, amount: int) -> Bucket:
    """The bucket without so much; with a negative amount, with it given back."""
    return bucket._replace(level=bucket.level - amount * MINUTE)


def remaining(bucket: Bucket) -> int:
    """Whole units in it."""
    return max(0, bucket.level // MINUTE)


def until_full(bucket: Bucket, limit: int) -> int:
    """Microseconds until it is full, rounded up."""
    return max(0, -((bucket.level - limit * MINUTE) // limit))


def until(bucket: Bucket, limit: int, amount: int, *, leaving: int = 0) -> int:
    """Microseconds until it admits so much, rounded up."""
    return max(0, -((bucket.level - min(amount + leaving, limit) * MINUTE) // limit))


def duration(micros: int) -> str:
    """As the rate limit headers say it: ``0s``, ``100ms``, ``1.5s``, ``6m0s``, rounded up to milliseconds."""
    millis = -(-micros // _MILLI)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    minutes, millis = divmod(millis, 60_000)
    seconds, millis = divmod(millis, 1000)
    part = f".{millis:03}".rstrip("0") if millis else ""
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}{part}s" if hours else f"{f'{minutes}m' if minutes else ''}{seconds}{part}s"


def seconds(micros: int) -> int:
    """Whole seconds for ``Retry-After``: rounded up, at least 1."""
    return max(1, -(-micros // _SECOND))
