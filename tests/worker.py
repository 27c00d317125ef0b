"""The real worker on the test's own database, with a broker of its own, for what only a process can show.

    with worker.running(folder=tmp_path, url=books.url) as working:
        working.await_work()
        working.kill9()
        working.start()

It is the product's Celery application with its own beat, only that what the product does every few
seconds happens every second, that a dead worker's lease is over as soon, and that other jobs than
those are not run unless they are asked for (``found``), and then beat does not wake them: whoever
finds them due does. ``python -m tests.worker``.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from core import failpoints, processes
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

    def __init__(self, *, folder: Path, environment: dict[str, str], broker: Valkey) -> None:
        self.broker = broker
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

    def launch(self, *, failpoint: str = "") -> None:
        """Start; only in the main thread. ``failpoint``: what each process does at one (``core.failpoints``)."""
        assert self._process is None, "the worker runs already"
        self._launched = datetime.now(UTC)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker"],
                cwd=ROOT,
                env={**self._environment, "FAILPOINT": failpoint},
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

    def children(self) -> list[int]:
        """Its processes below the main one: beat, and those that do the tasks."""
        assert self._process is not None, "the worker is not running"
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

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
def running(
    *, folder: Path, url: str, without: str | None = None, found: Sequence[str] = (), failpoint: str = ""
) -> Iterator[Worker]:
    """A worker on its way to work on a database; gone afterwards. ``without``: the guard it goes without.

    ``found``: jobs that it runs as well when they are found due, the sweep among them. ``failpoint``:
    what each of its processes does at one, until it is started again.
    """
    with Valkey(data_dir=folder / "broker", durable=False) as broker:
        environment = {
            **os.environ,
            "DATABASE_URL": url,
            "CELERY_BROKER_URL": broker.url(),
            "DJANGO_SETTINGS_MODULE": "core.settings",
            "WITHOUT_GUARD": without or "",
            "FOUND": " ".join(found),
        }
        worker = Worker(folder=folder, environment=environment, broker=broker)
        worker.launch(failpoint=failpoint)
        try:
            yield worker
        finally:
            worker.kill9()


def main() -> None:
    """Be the worker until somebody ends it."""
    from core import schedule

    schedule.LEASE = LEASE  # type: ignore[misc]
    found = os.environ["FOUND"].split()
    for name in schedule.JOBS.keys() - {*OFTEN, *found}:
        del schedule.JOBS[name]
    half_a_day = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=12)) % timedelta(days=1)
    for name, job in schedule.JOBS.items():
        if name in OFTEN or name == "sweep":
            schedule.JOBS[name] = job._replace(every=PACE)
        else:
            at = timedelta(seconds=half_a_day // timedelta(seconds=1))
            schedule.JOBS[name] = job._replace(every=timedelta(days=1), at=at)
    # Beat's entries follow from the table as it is when this is imported.
    from core.celery import app

    failpoints.from_environment()
    without = os.environ["WITHOUT_GUARD"]
    # As the supervisor starts it; nothing is kept of when what ran last.
    width = ["--concurrency", "2", "--without-mingle", "--without-gossip"]
    # Its children, which do the tasks, are forked in there.
    with guards.in_child(without) if without else nullcontext():
        app.worker_main(["worker", "--beat", "--scheduler", "celery.beat:Scheduler", "--loglevel", "WARNING", *width])


if __name__ == "__main__":
    main()
