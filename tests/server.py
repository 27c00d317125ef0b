"""The real web server on the test's own database, for what only a process can show.

    def test_…(books, server):
        httpx.post(f"{server.base_url}/v1/events", …)
        server.kill9()
        server.restart()

In a proof's run without its guard the process goes without it too (``tests.unguarded``).
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import processes
from tests.books import Books
from tests.database import ROOT

HOST = "127.0.0.1"
READY_SECONDS = 30
STOP_SECONDS = 10
POLL_SECONDS = 0.02


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class WebServer:
    """One web server process group on one port; its log is kept over restarts."""

    def __init__(self, *, folder: Path, module: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.base_url = f"http://{HOST}:{self.port}"
        self.log_path = folder / "server.log"
        self._module = module
        self.environment = {**environment, "HOST": HOST, "PORT": str(self.port)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Everything the server has printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The main process's id, which is also its group's."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start and wait for ``/readyz``; only in the main thread. Raises ``RuntimeError`` with the log."""
        assert self._process is None, "the server runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A group of its own: granian's workers outlive a killed main process and keep the port.
                start_new_session=True,
                preexec_fn=processes.before_exec(on_orphan=signal.SIGTERM),
            )
        end = time.monotonic() + READY_SECONDS
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill9()
                raise RuntimeError(f"the server did not become ready:\n{self.log}")
            time.sleep(POLL_SECONDS)

    def ready(self) -> bool:
        """Whether ``/readyz`` answers 200 now."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill9(self) -> None:
        """Kill every process of the server at once; any thread may do it."""
        process, self._process = self._process, None
        if process is None:
            return
        kill_group(process.pid)
        process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Ask it to end, and kill what is left of its group."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        kill_group(process.pid)
        process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """Start again after a kill, or stop and start; same port, same database."""
        self.stop()
        self.start()


def living(group: int) -> list[int]:
    """The processes of a group that have not ended; one that only waits to be reaped has."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything; after it come state, parent, group.
            state, _, its_group = (place / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and (state not in "ZX" or len(_threads(place)) > 1):
            found.append(int(place.name))
    return found


def _threads(place: Path) -> list[Path]:
    """A process's threads. Its first can be gone while others still end, and those hold its sockets open."""
    try:
        return list((place / "task").iterdir())
    except OSError:
        return []


def kill_group(group: int) -> None:
    """Kill a process group and wait until all of it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    end = time.monotonic() + STOP_SECONDS
    while living(group):
        assert time.monotonic() < end, f"processes {living(group)} survive SIGKILL"
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def running(*, folder: Path, url: str, without: str | None = None, **settings: str) -> Iterator[WebServer]:
    """The product behind HTTP on a database, ready; gone afterwards. ``without``: the guard it goes without."""
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "core.settings", **settings}
    module = "core.web"
    if without is not None:
        environment["WITHOUT_GUARD"] = without
        module = "tests.unguarded"
    web = WebServer(folder=folder, module=module, environment=environment)
    web.start()
    try:
        yield web
    finally:
        web.stop()


@pytest.fixture
def server(books: Books, disabled_guard: str | None, tmp_path: Path) -> Iterator[WebServer]:
    """The product behind HTTP on the test's ``books``."""
    with running(folder=tmp_path, url=books.url, without=disabled_guard) as web:
        yield web
