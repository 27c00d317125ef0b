"""How channels have done lately, as this process has seen it: passive, nobody is asked just to find out.

A channel that fails ``FAILURES_MAX`` times in a row is left alone for a while; then one call may try it, and
its outcome decides. One that says when to come again is left alone until then.
"""

import time
from collections.abc import Callable
from uuid import UUID

FAILURES_MAX = 5
REST_SECONDS = 10.0
REST_SECONDS_MAX = 120.0
# Weight of the latest in the mean of times.
SHARE = 0.2


class _Channel:
    __slots__ = ("calls", "failures", "latency", "probing", "rests", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.rests = 0
        self.until = 0.0
        self.probing = False
        self.calls = 0
        self.latency: float | None = None


class Health:
    """What is known of each channel; in one event loop."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._channels: dict[UUID, _Channel] = {}

    def _of(self, channel_id: UUID) -> _Channel:
        found = self._channels.get(channel_id)
        if found is None:
            found = self._channels[channel_id] = _Channel()
        return found

    def is_open(self, channel_id: UUID, *, limit: int | None) -> bool:
        """Whether a channel may be asked now: it is well, or due to be tried by one, and has a place free."""
        one = self._of(channel_id)
        if limit is not None and one.calls >= limit:
            return False
        if one.until == 0.0:
            return True
        return self._now() >= one.until and not one.probing

    def begin(self, channel_id: UUID) -> None:
        """A call is made."""
        one = self._of(channel_id)
        one.calls += 1
        if one.until:
            one.probing = True

    def succeed(self, channel_id: UUID, *, seconds: float | None) -> None:
        """It began to answer after so many seconds."""
        one = self._of(channel_id)
        one.failures = one.rests = 0
        one.until = 0.0
        one.probing = False
        if seconds is not None:
            one.latency = seconds if one.latency is None else one.latency + SHARE * (seconds - one.latency)

    def fail(self, channel_id: UUID, *, rest: float | None = None) -> None:
        """It did not; ``rest``: it said for how many seconds to leave it alone."""
        one = self._of(channel_id)
        one.failures += 1
        if rest is not None:
            one.until = max(one.until, self._now() + min(rest, REST_SECONDS_MAX))
        elif one.failures >= FAILURES_MAX or one.probing:
            one.until = self._now() + min(REST_SECONDS * 2**one.rests, REST_SECONDS_MAX)
            one.rests = min(one.rests + 1, 8)
        one.probing = False

    def end(self, channel_id: UUID) -> None:
        """A call has ended, well or not."""
        one = self._of(channel_id)
        one.calls -= 1
        one.probing = False

    def latency(self, channel_id: UUID) -> float:
        """Seconds until it begins to answer, on average; one that was never asked is tried first."""
        found = self._of(channel_id).latency
        return 0.0 if found is None else found
