"""The real worker on the test's own database, with a broker of its own, for what only a process can show.

    with worker.running(folder=tmp_path, url=books.url) as working:
        working.await_work()
        working.kill9()
        working.start()

It is the product's Celery application with the schedule of its own beat, only that what the product
does every few seconds happens every second, and that a dead worker's lease is over as soon:
``python -m tests.worker``.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from core import processes
from core.embedded import Valkey
from tests import guards
from tests.database import ROOT
from tests.server import STOP_SECONDS, kill_group

READY_SECONDS = 60
POLL_SECONDS = 0.05
PACE = timedelta(seconds=1)
LEASE = timedelta(seconds=2)
OFTEN = ("expire_holds", "settle_grants")


class Worker:
    """One worker's process group: the main process, its two that do the tasks, and its beat."""

    def __init__(self, *, folder: Path, environment: dict[str, str]) -> None:
        self.log_path = folder / "worker.log"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._launched = datetime.now(UTC)

    @property
    def log(self) -> str:
        """Everything the worker has printed, over its restarts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> None:
        """Start and wait until it works; only in the main thread. Raises ``RuntimeError`` with the log."""
        self.launch()
        self.await_work()

    def launch(self) -> None:
        """Start; only in the main thread."""
        assert self._process is None, "the worker runs already"
        self._launched = datetime.now(UTC)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=processes.before_exec(),
            )

    def await_work(self) -> None:
        """Wait until it has done a round of work since it was launched. Raises ``RuntimeError`` with the log."""
        assert self._process is not None, "the worker is not running"
        end = time.monotonic() + READY_SECONDS
        while not self._has_worked(since=self._launched):
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill9()
                raise RuntimeError(f"the worker does not work:\n{self.log}")
            time.sleep(POLL_SECONDS)

    def kill9(self) -> None:
        """Kill every process of the worker at once."""
        process, self._process = self._process, None
        if process is not None:
            kill_group(process.pid)
            process.wait(STOP_SECONDS)

    def _has_worked(self, *, since: datetime) -> bool:
        """Whether a whole round of each task has gone well that began after an instant."""
        with suppress(psycopg.OperationalError), psycopg.connect(self._environment["DATABASE_URL"]) as own:
            found = own.execute("SELECT name FROM job_run WHERE started_at > %s AND ok", [since]).fetchall()
            return {name for (name,) in found} >= set(OFTEN)
        return False


@contextmanager
def running(*, folder: Path, url: str, without: str | None = None) -> Iterator[Worker]:
    """A worker on its way to work on a database; gone afterwards. ``without``: the guard it goes without."""
    with Valkey(data_dir=folder / "broker", durable=False) as broker:
        environment = {
            **os.environ,
            "DATABASE_URL": url,
            "CELERY_BROKER_URL": broker.url(),
            "DJANGO_SETTINGS_MODULE": "core.settings",
            "WITHOUT_GUARD": without or "",
        }
        worker = Worker(folder=folder, environment=environment)
        worker.launch()
        try:
            yield worker
        finally:
            worker.kill9()


def main() -> None:
    """Be the worker until somebody ends it."""
    from core import schedule

    schedule.LEASE = LEASE  # type: ignore[misc]
    for name in OFTEN:
        schedule.JOBS[name] = schedule.JOBS[name]._replace(every=PACE)
    for name in schedule.JOBS.keys() - set(OFTEN):
        del schedule.JOBS[name]
    # Beat's entries follow from the table as it is when this is imported.
    from core.celery import app

    without = os.environ["WITHOUT_GUARD"]
    # As the supervisor starts it; nothing is kept of when what ran last.
    width = ["--concurrency", "2", "--without-mingle", "--without-gossip"]
    # Its children, which do the tasks, are forked in there.
    with guards.in_child(without) if without else nullcontext():
        app.worker_main(["worker", "--beat", "--scheduler", "celery.beat:Scheduler", "--loglevel", "WARNING", *width])


if __name__ == "__main__":
    main()
