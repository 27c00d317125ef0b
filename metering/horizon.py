"""The horizon: before which instant claims are forgotten, and so events refused.

The only module that writes ``ClaimHorizon``.

A claim may go once no event that it answers for can be accepted any more. So the horizon is announced first, and
only what was announced long enough ago for every process to know it is deleted, by a later run. It never goes
back: a trigger sees to that, and another lets nobody delete a claim in front of it. Raising
``EVENT_AGE_MAX_DAYS`` afterwards does not reach behind it.

Trimming goes round the tables page by page, a few in a transaction, each run from where the last one stopped, once
round in a day. That reads every claim once a day, and needs no index that every event would pay for (docs/adr/0013).
"""

import random
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction

from core import clock
from metering import usage
from metering.models import ClaimHorizon
from orgs import caches

# Longer than any process may answer from its caches (CACHE_SECONDS is at most 300).
KNOWN_AFTER = timedelta(minutes=10)
# A claim that is decided on now is written within a transaction's 30 seconds; days are for clocks and people.
MARGIN_DAYS = 2
# The schedule trims each hour.
RUNS_A_ROUND = 24
_ID = 1


class Trimmed(NamedTuple):
    """What a run did: how many claims it forgot, and what the horizon is from now on."""

    forgotten: int
    horizon: datetime


def _load(keys: Collection[int]) -> Mapping[int, datetime]:
    return dict(ClaimHorizon.objects.filter(pk__in=keys).values_list("pk", "forgotten_before"))


_horizon: caches.Cached[int, datetime] = caches.Cached(_load)


def age_max(now: datetime) -> timedelta:
    """How far back an event may lie: the setting, and never behind the horizon. Usually without a query."""
    window = timedelta(days=settings.EVENT_AGE_MAX_DAYS)
    horizon = _horizon.get(_ID)
    return window if horizon is None else min(window, now - horizon)


def standing() -> datetime:
    """The horizon as this transaction sees it."""
    return ClaimHorizon.objects.values_list("forgotten_before", flat=True).get(pk=_ID)


def trim(*, until: datetime, runs: int = RUNS_A_ROUND) -> Trimmed:
    """Go on round the claims and forget those before the horizon that stands; then announce the next horizon.

    It takes ``runs`` such runs to come round, if none has to stop at its ``until``. Each few pages are a transaction of
    their own. Does nothing while the horizon is too new to be known everywhere.
    """
    row = ClaimHorizon.objects.get(pk=_ID)
    if row.announced_at > clock.now() - KNOWN_AFTER:
        return Trimmed(0, row.forgotten_before)
    # In any order, so that a run that is out of time does not leave out the same parts each time.
    parts = random.sample(range(len(row.places)), len(row.places))
    forgotten = sum(_trim_part(part, row, runs=runs, until=until) for part in parts)
    return Trimmed(forgotten, _announce())


@transaction.atomic(durable=True)
def _announce() -> datetime:
    """Move the horizon to what the settings say, never back. From here on nothing older is accepted."""
    now = clock.now()
    wanted = now - timedelta(days=settings.CLAIM_KEEP_DAYS)
    assert settings.CLAIM_KEEP_DAYS >= settings.EVENT_AGE_MAX_DAYS + MARGIN_DAYS
    if ClaimHorizon.objects.filter(pk=_ID, forgotten_before__lt=wanted).update(
        forgotten_before=wanted, announced_at=now
    ):
        caches.bump()
    return standing()


def _trim_part(part: int, row: ClaimHorizon, *, runs: int, until: datetime) -> int:
    """Trim the next pages of a part, about one in ``runs``; how many claims went."""
    pages = usage.claim_pages(part)
    page = row.places[part] if row.places[part] < pages else 0
    left = -(-pages // runs)
    forgotten = 0
    while left > 0 and clock.now() < until:
        end = min(page + min(usage.CLAIM_PAGES, left), pages)
        forgotten += usage.forget_claims(part, pages=(page, end), before=row.forgotten_before)
        left -= end - page
        page = end if end < pages else 0
    _keep_place(part, page)
    return forgotten


def _keep_place(part: int, page: int) -> None:
    """Remember from which page the next run goes on."""
    with connection.cursor() as cursor:
        # Arrays count from 1.
        cursor.execute("UPDATE claim_horizon SET places[%s] = %s WHERE id = %s", [part + 1, page, _ID])
