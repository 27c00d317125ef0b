"""In-process caches with a short life and an invalidation that reaches every process.

The only module that writes ``CacheEpoch``. Whoever changes something that is cached calls
``bump()`` in the same transaction; every process asks for the epoch at most once in
``CACHE_POLL_MS`` and forgets what it loaded under another one. An entry is tagged with the
epoch that was read *before* it was loaded, so a change that commits in between costs one
reload and never a stale entry.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from time import monotonic
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, transaction
from django.db.models import F

from core import clock
from orgs.models import CacheEpoch

K = TypeVar("K")
V = TypeVar("V")

SIZE_MAX = 20_000
# What does not exist is remembered apart and briefly: made-up keys must not push out real ones.
ABSENT_SIZE_MAX = 5_000
ABSENT_SECONDS_MAX = 2
NEVER = float("-inf")


def bump() -> None:
    """Make every process forget its caches once this transaction has committed.

    Until then this transaction reads past the caches, and so stores nothing that may be rolled
    back; a verb that reads through a cache after its own writes bumps before it does.
    """
    assert connection.in_atomic_block, "caches.bump needs a transaction"
    CacheEpoch.objects.update(value=F("value") + 1)
    transaction.on_commit(_epoch.expire)
    _thread.bumped = True


def earliest_change() -> datetime:
    """From when a change of what processes keep can hold everywhere: two cache lives from now (decisions 5)."""
    return clock.now() + timedelta(seconds=2 * settings.CACHE_SECONDS)


def forget_all() -> None:
    """Empty every cache of this process and ask for the epoch again; for tests and after a fork."""
    _epoch.expire()
    for cache in list(_caches):
        cache.forget()


class _Epoch:
    """The epoch as this process last saw it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = -1
        # When the question began whose answer is ``_value``, and when the last one began.
        self._as_of = NEVER
        self._asking_since = NEVER
        # Rises with every change of this process's own; an older question's answer is not kept.
        self._changes = 0

    def expire(self) -> None:
        """Let the next read ask the database."""
        with self._lock:
            self._changes += 1
            self._as_of = self._asking_since = NEVER

    def current(self) -> int:
        """The epoch, at most two poll intervals old; usually without a query.

        While one thread asks, others go on with the last answer for one more interval, so a
        busy process sends one tiny query per interval rather than one per thread.
        """
        poll = settings.CACHE_POLL_MS / 1000
        began = monotonic()
        if began - self._as_of < poll:
            # Whoever changes both writes the value first, so it is at least as young as that.
            return self._value
        with self._lock:
            age = began - self._as_of
            if age < poll or (age < 2 * poll and began - self._asking_since < poll):
                return self._value
            self._asking_since = began
            changes = self._changes
        try:
            value: int = CacheEpoch.objects.values_list("value", flat=True).get()
        except SynchronousOnlyOperation:
            # An event loop may not ask; whoever does so for it must not take the question for asked.
            with self._lock:
                self._asking_since = NEVER
            raise
        with self._lock:
            if changes == self._changes and began >= self._as_of:
                self._value, self._as_of = value, began
        return value


_epoch = _Epoch()
_thread = threading.local()


def _reads_past() -> bool:
    """Whether this connection's open transaction has bumped: what it sees is not yet true for others.

    A thread that never did has no need to look at its connection, which in an event loop would be made for that.
    """
    return (
        getattr(_thread, "bumped", False)
        and connection.in_atomic_block
        and any(hook[1] == _epoch.expire for hook in connection.run_on_commit)
    )


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    epoch: int
    until: float


class Cached(Generic[K, V]):
    """Values by key, loaded many at a time by ``load_many``, the only way in.

    ``load_many`` gets the missing keys and answers those that exist, in one query. Values must be
    immutable: they are shared between threads.
    """

    def __init__(self, load_many: Callable[[Collection[K]], Mapping[K, V]], *, size_max: int = SIZE_MAX) -> None:
        self._load_many = load_many
        self._size_max = size_max
        self._lock = threading.Lock()
        self._present: dict[K, _Entry[V]] = {}
        self._absent: dict[K, _Entry[None]] = {}
        _caches.add(self)

    def get(self, key: K) -> V | None:
        """The value of one key, or None if there is none."""
        if not _reads_past():
            entry = self._present.get(key)
            if entry is not None and entry.epoch == _epoch.current() and monotonic() < entry.until:
                return entry.value
        return self.get_many((key,)).get(key)

    def get_many(self, keys: Collection[K]) -> dict[K, V]:
        """The values of those keys that exist; every miss is loaded in one call of the loader."""
        if not keys:
            return {}
        if _reads_past():
            return dict(self._load_many(set(keys)))
        epoch = _epoch.current()
        now = monotonic()
        found: dict[K, V] = {}
        missing: set[K] = set()
        for key in keys:
            entry = self._present.get(key)
            if entry is not None and entry.epoch == epoch and now < entry.until:
                found[key] = entry.value
                continue
            absent = self._absent.get(key)
            if absent is None or absent.epoch != epoch or now >= absent.until:
                missing.add(key)
        if missing:
            loaded = self._load_many(missing)
            self._keep(loaded, missing, epoch=epoch, now=now)
            found.update(loaded)
        return found

    def forget(self) -> None:
        """Empty this cache."""
        with self._lock:
            self._present = {}
            self._absent = {}

    def _keep(self, loaded: Mapping[K, V], asked: set[K], *, epoch: int, now: float) -> None:
        """Remember what was loaded and what turned out not to exist; the oldest entries make room."""
        until = now + settings.CACHE_SECONDS
        until_absent = now + min(ABSENT_SECONDS_MAX, settings.CACHE_SECONDS)
        with self._lock:
            for key in asked:
                self._present.pop(key, None)
                self._absent.pop(key, None)
                if key in loaded:
                    self._present[key] = _Entry(loaded[key], epoch, until)
                else:
                    self._absent[key] = _Entry(None, epoch, until_absent)
            _trim(self._present, self._size_max)
            _trim(self._absent, ABSENT_SIZE_MAX)


_caches: "WeakSet[Cached[Any, Any]]" = WeakSet()


def _trim(entries: dict[K, _Entry[V]], size_max: int) -> None:
    """Drop the entries that were stored first until the rest fits."""
    excess = len(entries) - size_max
    if excess > 0:
        for key in list(islice(entries, excess)):
            del entries[key]
