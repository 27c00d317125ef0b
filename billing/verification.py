"""Running ``verify`` from the schedule. The only module that writes ``CheckRun``.

The checks read; what they found is written when they are done, one row for each check, and a check that
fails makes the job fail.
"""

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from billing import invariants, seals
from billing.invariants import Finding, Scope
from billing.models import CheckRun
from core import clock


class Broken(Exception):
    """Invariants that do not hold; the message names them and the first of what breaks them."""


class Run(NamedTuple):
    """A finding, and how many milliseconds it took."""

    finding: Finding
    took_ms: int


def verify(scope: Scope) -> list[Run]:
    """Run every check and keep what each found as its last result."""
    began = clock.now()
    with invariants.snapshot():
        runs = list(_timed(scope))
    with transaction.atomic():
        for run in runs:
            finding = run.finding
            CheckRun.objects.update_or_create(
                name=finding.name,
                defaults={
                    "began_at": began, "took_ms": run.took_ms, "ok": finding.ok, "seen": finding.seen,
                    "detail": finding.detail, "everything": scope.whole,
                },
            )  # fmt: skip
        # A check that the release no longer has says nothing any more.
        CheckRun.objects.exclude(name__in=[run.finding.name for run in runs]).delete()
    return runs


def _timed(scope: Scope) -> Iterator[Run]:
    before = monotonic()
    for finding in invariants.each(scope, server=True):
        now = monotonic()
        yield Run(finding, round((now - before) * 1000))
        before = now


def told(runs: Sequence[Run]) -> str:
    """What a run came to. Raises ``Broken`` unless every check passed."""
    broken = [run.finding for run in runs if not run.finding.ok]
    if broken:
        raise Broken("; ".join(f"{one.name}: {one.detail}" for one in broken))
    return f"{len(runs)} checks passed in {sum(run.took_ms for run in runs)} ms"


def seal_due() -> str:
    """Seal the last day that is final, and export the heads; what there was to do. Raises ``Unclean``, ``OSError``."""
    day = seals.due()
    sealed = None if day is None else seals.seal(day)
    if settings.LEDGER_HEADS_DIR is None:
        where = "not exported: LEDGER_HEADS_DIR is not set"
    else:
        path = seals.export(folder=settings.LEDGER_HEADS_DIR)
        where = "nothing to export" if path is None else f"exported to {path}"
    if sealed is None:
        done = "nothing was due"
    elif sealed.wallets:
        done = f"sealed {sealed.day}: {sealed.wallets} wallets"
    else:
        done = "nothing moved since the last seal"
    return f"{done}; {where}"
