"""Pauses grow, stay within bounds and scatter what failed together."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import backoff

SECOND = timedelta(seconds=1)
seeds = st.one_of(st.uuids(), st.text(max_size=20), st.integers())
firsts = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(hours=1))
mosts = st.timedeltas(min_value=timedelta(hours=1), max_value=timedelta(days=3))


@given(attempts=st.integers(1, 10_000), first=firsts, most=mosts, seed=seeds)
def test_a_pause_is_never_longer_than_the_most_nor_shorter_than_half_the_first(
    attempts: int, first: timedelta, most: timedelta, seed: object
) -> None:
    pause = backoff.after(attempts, first=first, most=most, jitter_seed=seed)
    assert first / 2 <= pause <= most


@given(attempts=st.integers(1, 60), first=firsts, most=mosts, seed=seeds)
def test_no_pause_is_shorter_than_the_one_before_until_the_most_is_reached(
    attempts: int, first: timedelta, most: timedelta, seed: object
) -> None:
    sooner = backoff.after(attempts, first=first, most=most, jitter_seed=seed)
    later = backoff.after(attempts + 1, first=first, most=most, jitter_seed=seed)
    if first <= most / 2**attempts:
        assert later >= sooner
    else:
        assert later >= most / 2


@given(attempts=st.integers(1, 20), seed=seeds)
def test_the_same_row_waits_the_same_each_time_it_is_asked(attempts: int, seed: object) -> None:
    assert backoff.after(attempts, jitter_seed=seed) == backoff.after(attempts, jitter_seed=seed)


def test_rows_that_failed_together_come_back_apart() -> None:
    pauses = sorted(backoff.after(1, first=60 * SECOND, jitter_seed=number) for number in range(1000))
    assert len(set(pauses)) == 1000
    # An even spread over 30 s: each of ten parts holds near a hundred.
    parts = [sum(30 + 3 * part <= pause / SECOND < 33 + 3 * part for pause in pauses) for part in range(10)]
    assert sum(parts) == 1000
    assert min(parts) > 60
    assert max(parts) < 140


def test_eight_attempts_last_about_twenty_minutes_as_they_stand() -> None:
    wholes = [10, 20, 40, 80, 160, 320, 640]
    pauses = [backoff.after(attempt, jitter_seed="verify") / SECOND for attempt in range(1, backoff.ATTEMPTS_MAX)]
    assert all(whole / 2 <= pause <= whole for whole, pause in zip(wholes, pauses, strict=True))


def test_what_has_not_failed_has_no_pause() -> None:
    with pytest.raises(AssertionError, match="nothing has failed"):
        backoff.after(0, jitter_seed="verify")
