"""Scheduled jobs and their last run. The only module that writes ``JobRun``."""

from collections.abc import Callable

from core import clock
from ops.models import JobRun


def run(name: str, work: Callable[[], str]) -> str:
    """Do ``work`` and note when it ran and what it said; a failure is noted and raised again."""
    JobRun.objects.update_or_create(
        name=name, defaults={"started_at": clock.now(), "finished_at": None, "ok": None, "result": ""}
    )
    try:
        result = work()
    except Exception as error:
        _finish(name, ok=False, result=f"{type(error).__name__}: {error}")
        raise
    _finish(name, ok=True, result=result)
    return result


def _finish(name: str, *, ok: bool, result: str) -> None:
    JobRun.objects.filter(name=name).update(finished_at=clock.now(), ok=ok, result=result[:2000])
