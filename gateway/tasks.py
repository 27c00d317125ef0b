"""The gateway's jobs: each wakes up, calls one verb, and notes how it went."""

from celery import shared_task

from gateway import outcomes, replays
from ops import jobs


@shared_task
def note_lost_calls() -> str:
    """Tell finance of calls whose process died."""
    return jobs.run("note_lost_calls", lambda: f"noted {outcomes.note_lost()}")


@shared_task
def trim_call_keys() -> str:
    """Forget the keys of calls that are old enough."""
    return jobs.run("trim_call_keys", lambda: f"forgot {replays.trim()}")
