"""How much keys and organizations may ask for: requests and tokens a minute, and calls at once (contract 10).

    permit = limits.enter(principal, tokens=estimate)      # raises RateLimited
    ... permit.headers() ...
    limits.leave(permit, tokens=used)

Both a key and its organization may have limits, and all of them must have room. The numbers are
shared by the processes of a machine (``gateway.slots``), so on one machine limits hold exactly: over
any time no more than a full bucket and what it fills with, and what the largest request exceeds
a bucket by. Several machines each take an even part (``LIMIT_MACHINES``), so together never more.

An organization's last half is for keys that have had less than their even part of it in this
minute: who asks all the time cannot keep the others out.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple
from uuid import UUID

from django.conf import settings

from core.errors import RateLimited
from gateway import buckets, slots
from gateway.buckets import Bucket
from gateway.slots import Numbers, Table
from orgs import ratelimits
from orgs.principals import Principal
from orgs.ratelimits import Limits

# Organizations of which a process remembers who asked in the last minutes.
ASKED_MAX = 10_000
# The level of what has no limit: should it be given one, its bucket is full.
_PLENTY = slots.LEVEL_MAX


class Subject(NamedTuple):
    """A key or an organization with limits; ``name`` is that of its slot. ``shared``: among several keys."""

    name: bytes
    limits: Limits
    shared: bool


class _Held(NamedTuple):
    """A subject's slot and what a call has drawn from it."""

    subject: Subject
    place: int


class _Standing(NamedTuple):
    """What the headers tell of one kind of limit."""

    limit: int
    remaining: int
    reset: int


class Permit:
    """The room that a call has taken; ``leave`` gives back what is its to give."""

    __slots__ = ("held", "levels", "subjects", "tokens")

    def __init__(
        self,
        subjects: Sequence[Subject] = (),
        *,
        held: Sequence[_Held] = (),
        levels: Sequence[tuple[Bucket, Bucket]] = (),
        tokens: int = 0,
    ) -> None:
        self.subjects = subjects
        self.held = held
        self.levels = levels
        self.tokens = tokens

    def headers(self) -> dict[str, str]:
        """``x-ratelimit-*`` as it was when the call was let in; once it has ended, with what it used.

        None of what has no limit.
        """
        return _headers(self.subjects, self.levels)


def enter(principal: Principal, *, tokens: int) -> Permit:
    """Let a call in that may use so many tokens. Usually without a query.

    Raises ``RateLimited``, with the headers, if its key or organization has no room; then nothing was taken.
    """
    subjects = subjects_of(principal)
    if not subjects:
        return Permit()
    return admit(table(), subjects, key=principal.key_id, tokens=tokens)


def leave(permit: Permit, *, tokens: int | None = None) -> None:
    """The call has ended and used so many tokens (None: as many as it might have). Told twice, it counts once."""
    if permit.held:
        settle(table(), permit, tokens=tokens)


def subjects_of(principal: Principal) -> list[Subject]:
    """The key and the organization of a principal as far as they have limits, at most one query."""
    assert principal.organization_id is not None, "a service key makes no calls"
    found = ratelimits.find((principal.key_id, principal.organization_id))
    return [
        Subject(_name(each), _part(found[each]), shared=each == principal.organization_id)
        for each in (principal.key_id, principal.organization_id)
        if each in found
    ]


@cache
def table() -> Table:
    """The table of this process."""
    return Table(settings.LIMITS_FILE)


def _name(subject: UUID) -> bytes:
    # Ids begin with the time, so they would crowd together.
    return hashlib.blake2b(subject.bytes, digest_size=16).digest()


def _part(limits: Limits) -> Limits:
    """This machine's part of the limits, at least one."""
    if settings.LIMIT_MACHINES == 1:
        return limits
    return Limits(*(None if limit is None else max(1, limit // settings.LIMIT_MACHINES) for limit in limits))


def admit(counted: Table, subjects: Sequence[Subject], *, key: UUID, tokens: int) -> Permit:
    """Take room for a call from all subjects or from none. Raises ``RateLimited``."""
    with counted.locked():
        # Once nobody else writes: what they wrote is not later than this.
        now = slots.now()
        held: list[_Held] = []
        levels: list[tuple[Bucket, Bucket]] = []
        refusal: tuple[int, str] | None = None
        for subject in subjects:
            place = counted.find(subject.name)
            held.append(_Held(subject, place))
            requests, spent = _levels(counted.read(place), subject.limits, now=now)
            levels.append((requests, spent))
            # At once, so that a slot that was just made is not the longest unused one for the next.
            counted.write(place, Numbers(requests.level, spent.level, max(requests.at, spent.at)))
            wait = _wait(counted, place, subject, requests, spent, key=key, tokens=tokens, now=now)
            if wait is not None and (refusal is None or wait > refusal):
                refusal = wait
        if refusal is None:
            levels = [
                (_drawn_from(requests, each.limits.requests, 1), _drawn_from(spent, each.limits.tokens, tokens))
                for each, (requests, spent) in zip(subjects, levels, strict=True)
            ]
            for (_, place), (requests, spent) in zip(held, levels, strict=True):
                counted.write(place, Numbers(requests.level, spent.level, max(requests.at, spent.at)))
                counted.count(place, 1)
    if refusal is not None:
        micros, what = refusal
        retry = buckets.seconds(micros)
        told = {**_headers(subjects, levels), "Retry-After": str(retry)}
        raise RateLimited(f"The limit of {what} is reached; retry after {retry} s.", headers=told)
    for subject in subjects:
        if subject.shared:
            _drawn.note(subject.name, key, now=now)
    return Permit(subjects, held=held, levels=levels, tokens=tokens)


def settle(counted: Table, permit: Permit, *, tokens: int | None) -> None:
    """Give a call's room back: its place among those at once, and the tokens that it did not use."""
    with counted.locked():
        held, permit.held = permit.held, ()
        if held and tokens is not None:
            more = tokens - permit.tokens
            permit.levels = [
                (requests, _drawn_from(spent, each.limits.tokens, more))
                for each, (requests, spent) in zip(permit.subjects, permit.levels, strict=True)
            ]
        for subject, place in held:
            if not counted.has(place, subject.name):
                # Forgotten meanwhile, so full again.
                continue
            counted.count(place, -1)
            if tokens is not None and subject.limits.tokens is not None:
                numbers = counted.read(place)
                given = (permit.tokens - tokens) * buckets.MINUTE
                most = subject.limits.tokens * buckets.MINUTE
                counted.write(place, numbers._replace(tokens=min(most, numbers.tokens + given)))


def _levels(numbers: Numbers, limits: Limits, *, now: int) -> tuple[Bucket, Bucket]:
    """The buckets of requests and of tokens, filled up to now. Without a limit there is always plenty."""
    levels = []
    for limit, level in ((limits.requests, numbers.requests), (limits.tokens, numbers.tokens)):
        if limit is None:
            levels.append(Bucket(_PLENTY, now))
        elif numbers.at < 0:
            levels.append(buckets.full(limit, now=now))
        else:
            levels.append(buckets.fill(Bucket(level, numbers.at), limit, now=now))
    return levels[0], levels[1]


def _drawn_from(bucket: Bucket, limit: int | None, amount: int) -> Bucket:
    return bucket if limit is None else buckets.draw(bucket, amount)


def _wait(
    counted: Table, place: int, subject: Subject, requests: Bucket, spent: Bucket, *, key: UUID, tokens: int, now: int
) -> tuple[int, str] | None:
    """How long a call has to wait for this subject, in microseconds, and for what; None if it may be made."""
    limits = subject.limits
    waits: list[tuple[int, str]] = []
    leaves = subject.shared and _drawn.has_had_its_part(subject.name, key, limits.requests, now=now)
    if limits.requests is not None:
        leaving = limits.requests // 2 if leaves else 0
        if not buckets.admits(requests, limits.requests, 1, leaving=leaving):
            waits.append((buckets.until(requests, limits.requests, 1, leaving=leaving), "requests a minute"))
    if limits.tokens is not None:
        leaving = limits.tokens // 2 if leaves else 0
        if not buckets.admits(spent, limits.tokens, tokens, leaving=leaving):
            waits.append((buckets.until(spent, limits.tokens, tokens, leaving=leaving), "tokens a minute"))
    if limits.concurrency is not None and counted.open_calls(place) >= limits.concurrency:
        counted.forget_dead(place)
        if counted.open_calls(place) >= limits.concurrency:
            waits.append((0, "calls at once"))
    return max(waits, default=None)


def _headers(subjects: Sequence[Subject], levels: Sequence[tuple[Bucket, Bucket]]) -> dict[str, str]:
    """The six headers, of whichever subject has the least left; none for a kind without a limit."""
    headers: dict[str, str] = {}
    for kind in ("requests", "tokens"):
        standing: list[_Standing] = []
        for subject, (requests, spent) in zip(subjects, levels, strict=True):
            limit = subject.limits.requests if kind == "requests" else subject.limits.tokens
            if limit is not None:
                bucket = requests if kind == "requests" else spent
                standing.append(_Standing(limit, buckets.remaining(bucket), buckets.until_full(bucket, limit)))
        if standing:
            least = min(standing, key=lambda each: (each.remaining, each.limit))
            headers[f"x-ratelimit-limit-{kind}"] = str(least.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(least.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = buckets.duration(least.reset)
    return headers


class Drawn:
    """How often each key of an organization was let in during this minute and the one before, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minutes: OrderedDict[bytes, tuple[int, dict[UUID, int], frozenset[UUID]]] = OrderedDict()

    def note(self, name: bytes, key: UUID, *, now: int) -> None:
        """A call of this key was let in."""
        with self._lock:
            _, here, _ = self._minute(name, now)
            here[key] = here.get(key, 0) + 1

    def has_had_its_part(self, name: bytes, key: UUID, limit: int | None, *, now: int) -> bool:
        """Whether a key has had its even part of this minute, where others ask too.

        The part is that of the limit on requests; without one, of all that were let in.
        """
        with self._lock:
            _, here, before = self._minute(name, now)
            # Who asks is noted, let in or not.
            here.setdefault(key, 0)
            keys = len(here.keys() | before)
            return keys > 1 and here[key] * keys >= (sum(here.values()) + 1 if limit is None else limit)

    def _minute(self, name: bytes, now: int) -> tuple[int, dict[UUID, int], frozenset[UUID]]:
        minute = now // buckets.MINUTE
        found = self._minutes.get(name)
        if found is None or found[0] != minute:
            before = frozenset(found[1]) if found is not None and found[0] == minute - 1 else frozenset()
            found = minute, {}, before
            self._minutes[name] = found
            if len(self._minutes) > ASKED_MAX:
                self._minutes.popitem(last=False)
        self._minutes.move_to_end(name)
        return found


_drawn = Drawn()
