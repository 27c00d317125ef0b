"""When a channel is left alone, and how it comes back."""

from uuid import UUID

from gateway.health import Health

A = UUID(int=1)


class Clock:
    """A clock that is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def one_call(health: Health, *, ok: bool, rest: float | None = None) -> None:
    health.begin(A)
    if ok:
        health.succeed(A, seconds=0.1)
    else:
        health.fail(A, rest=rest)
    health.end(A)


def test_five_failures_in_a_row_rest_a_channel_and_one_call_tries_it() -> None:
    clock = Clock()
    health = Health(now=clock)
    for number in range(5):
        assert health.is_open(A, limit=None), number
        one_call(health, ok=False)
    assert not health.is_open(A, limit=None)
    clock.now += 10
    assert health.is_open(A, limit=None)
    health.begin(A)
    # Half open: one at a time.
    assert not health.is_open(A, limit=None)
    health.fail(A)
    health.end(A)
    clock.now += 10
    assert not health.is_open(A, limit=None), "longer each time"
    clock.now += 10
    one_call(health, ok=True)
    assert health.is_open(A, limit=None)


def test_a_success_in_between_starts_the_count_again() -> None:
    health = Health(now=Clock())
    for _ in range(4):
        one_call(health, ok=False)
    one_call(health, ok=True)
    for _ in range(4):
        one_call(health, ok=False)
    assert health.is_open(A, limit=None)


def test_who_says_when_to_come_again_is_left_alone_until_then() -> None:
    clock = Clock()
    health = Health(now=clock)
    one_call(health, ok=False, rest=7)
    assert not health.is_open(A, limit=None)
    clock.now += 7
    assert health.is_open(A, limit=None)
    one_call(health, ok=False, rest=86_400)
    clock.now += 120
    assert health.is_open(A, limit=None)


def test_a_channel_takes_so_many_at_once() -> None:
    health = Health(now=Clock())
    health.begin(A)
    assert health.is_open(A, limit=2)
    health.begin(A)
    assert not health.is_open(A, limit=2)
    assert health.is_open(A, limit=None)
    health.end(A)
    assert health.is_open(A, limit=2)


def test_the_time_to_begin_is_a_mean_that_leans_to_the_latest() -> None:
    health = Health(now=Clock())
    assert health.latency(A) == 0
    health.succeed(A, seconds=1.0)
    assert health.latency(A) == 1.0
    health.succeed(A, seconds=2.0)
    assert health.latency(A) == 1.2
    health.succeed(A, seconds=None)
    assert health.latency(A) == 1.2
