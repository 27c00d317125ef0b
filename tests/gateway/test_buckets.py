"""Token buckets: what they let out over any time, and how they tell it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import buckets
from gateway.buckets import MINUTE, Bucket

LIMITS = st.integers(1, 1_000_000_000)
# Draws: after so many microseconds, so much is asked for.
DRAWS = st.lists(st.tuples(st.integers(0, 2 * MINUTE), st.integers(0, 2_000_000_000)), max_size=40)


@pytest.mark.parametrize(
    ("limit", "drawn", "remaining", "reset"),
    # The headers of the contract: one request of 600, 1,200 tokens of 200,000.
    [(600, 1, 599, "100ms"), (200_000, 1_200, 198_800, "360ms"), (60, 60, 0, "1m0s"), (1, 1, 0, "1m0s")],
)
def test_what_is_left_and_when_it_is_full_again(limit: int, drawn: int, remaining: int, reset: str) -> None:
    bucket = buckets.draw(buckets.full(limit, now=7), drawn)
    assert buckets.remaining(bucket) == remaining
    assert buckets.duration(buckets.until_full(bucket, limit)) == reset


@pytest.mark.parametrize(
    ("micros", "told"),
    [
        (0, "0s"), (1, "1ms"), (999_000, "999ms"), (999_001, "1s"), (1_000_000, "1s"), (1_500_000, "1.5s"),
        (59_999_001, "1m0s"), (360_000_000, "6m0s"), (361_250_000, "6m1.25s"), (3_600_000_000, "1h0m0s"),
        (3_661_000_000, "1h1m1s"),
    ],
)  # fmt: skip
def test_durations(micros: int, told: str) -> None:
    assert buckets.duration(micros) == told


def test_seconds_are_whole_and_at_least_one() -> None:
    assert [buckets.seconds(micros) for micros in (0, 1, 1_000_000, 1_000_001)] == [1, 1, 1, 2]


@given(LIMITS, DRAWS)
def test_over_any_time_no_more_comes_out_than_a_bucket_and_what_fills_it(
    limit: int, draws: list[tuple[int, int]]
) -> None:
    bucket, now = buckets.full(limit, now=0), 0
    taken: list[tuple[int, int]] = []
    for after, amount in draws:
        now += after
        bucket = buckets.fill(bucket, limit, now=now)
        if buckets.admits(bucket, limit, amount):
            bucket = buckets.draw(bucket, amount)
            taken.append((now, amount))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            passed = taken[last][0] - taken[first][0]
            largest = max(amount for _, amount in taken[first : last + 1])
            out = sum(amount for _, amount in taken[first : last + 1])
            assert out <= limit + Fraction(passed * limit, MINUTE) + max(0, largest - limit)


@given(LIMITS, st.integers(-(2**40), 2**40), st.integers(0, 2**31), st.integers(0, 1000))
def test_it_admits_when_it_said_that_it_would_and_not_before(limit: int, level: int, amount: int, leaving: int) -> None:
    bucket = buckets.fill(Bucket(level, 0), limit, now=0)
    wait = buckets.until(bucket, limit, amount, leaving=leaving)
    assert buckets.admits(buckets.fill(bucket, limit, now=wait), limit, amount, leaving=leaving)
    if wait:
        assert not buckets.admits(buckets.fill(bucket, limit, now=wait - 1), limit, amount, leaving=leaving)


@given(LIMITS, st.integers(0, 2**50), st.lists(st.integers(0, MINUTE), max_size=20))
def test_filling_in_steps_is_filling_at_once(limit: int, level: int, steps: list[int]) -> None:
    start = buckets.fill(Bucket(level, 0), limit, now=0)
    bucket, now = start, 0
    for step in steps:
        now += step
        bucket = buckets.fill(bucket, limit, now=now)
    assert bucket == buckets.fill(start, limit, now=now)


def test_a_minute_after_it_was_empty_it_is_full() -> None:
    empty = buckets.draw(buckets.full(7, now=0), 7)
    assert buckets.fill(empty, 7, now=MINUTE) == buckets.full(7, now=MINUTE)
    assert buckets.remaining(buckets.fill(empty, 7, now=MINUTE - 1)) == 6


def test_a_clock_that_began_anew_finds_a_full_bucket() -> None:
    assert buckets.fill(Bucket(0, MINUTE + 1000), 5, now=999) == buckets.full(5, now=999)


def test_what_was_written_a_moment_later_is_not_filled() -> None:
    assert buckets.fill(Bucket(3, 1000), 5, now=999) == Bucket(3, 1000)
