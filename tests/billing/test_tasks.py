"""Billing's jobs note what they did."""

from billing import tasks
from ops.models import JobRun
from tests.books import Books


def test_the_sweep_of_the_quarantine_says_what_it_charged(books: Books) -> None:
    assert tasks.release_quarantine() == "charged 0, 0 still wait"
    run = JobRun.objects.get(name="release_quarantine")
    assert (run.ok, run.result) == (True, "charged 0, 0 still wait")
