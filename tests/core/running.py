"""Real processes for tests: `manage.py up` in a folder of its own, and who of it is alive."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.database import ROOT, setting_names
from tests.server import HOST, free_port

# For a machine that is busy with something else; nothing waits this long otherwise.
START_SECONDS = 180
GONE_SECONDS = 60
POLL_SECONDS = 0.02
OUTPUT_BYTES_MAX = 1024 * 1024
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def environment(**chosen: str) -> dict[str, str]:
    """The caller's environment without any setting of the product, and what the test chose."""
    unwanted = {*setting_names(), "HOST", "PORT", "WEB_WORKERS", "WEB_THREADS", "WORKER_PROCESSES"}
    unwanted |= {"TOLLBOOK_PG_BIN", "TOLLBOOK_VALKEY_BIN", "TOLLBOOK_UNDER_MAKE"}
    # Of the `make test` that may be running us.
    unwanted |= {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "PYTHON", "VENV", "UV", "ID", "ARGS", "BENCH_OUT"}
    return {name: value for name, value in os.environ.items() if name not in unwanted} | chosen


@functools.cache
def as_user(uid: int = NOBODY) -> tuple[str, ...]:
    """The start of a command line that runs the rest as another user without rights.

    An interpreter or a checkout below root's own home needs the right to pass through it, no more.
    """
    plain = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    right = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    # Or access(2), by which programs are looked for, would not know of the right.
    through = (*plain, *right, "--securebits=+no_setuid_fixup")
    # Twice: setpriv itself still passes everywhere.
    start = (
        "import subprocess, sys, core.embedded; subprocess.run([sys.executable, '-c', 'import granian'], check=True)"
    )
    for prefix in (plain, through):
        probe = [*prefix, "--", sys.executable, "-c", start]
        if subprocess.run(probe, cwd=ROOT, capture_output=True).returncode == 0:
            return (*prefix, "--")
    pytest.fail(f"user {uid} cannot run {sys.executable} at all")


@contextlib.contextmanager
def folder(*, owner: int | None = None, name: str = "data") -> Iterator[Path]:
    """A data directory that its owner can reach, unlike pytest's own; nothing of it is left."""
    place = Path(tempfile.mkdtemp(prefix="tollbook-up-"))
    place.chmod(0o755)
    data = place / name
    data.mkdir(mode=0o700)
    if owner is not None:
        os.chown(data, owner, -1)
    try:
        yield data
    finally:
        for pid in inside(data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def inside(data_dir: Path) -> dict[int, str]:
    """Living processes that belong to a data directory, with their command lines.

    By working directory (PostgreSQL, Valkey) or by the DATA_DIR they were given (the rest).
    """
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            given = f"DATA_DIR={data_dir}".encode() in (place / "environ").read_bytes().split(b"\0")
            there = data_dir in (place / "cwd").readlink().parents
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if state not in "ZX" and (given or there) and int(place.name) != os.getpid():
            found[int(place.name)] = words
    return found


def wait_until_gone(data_dir: Path, *, seconds: float = GONE_SECONDS) -> dict[int, str]:
    """Who is still there at the end of the wait; nobody, it is hoped."""
    end = time.monotonic() + seconds
    while (left := inside(data_dir)) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return left


class Up:
    """One `up` on a data directory and a port of loopback."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        user: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "manage.py", "up"),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.base_url = f"http://{HOST}:{self.port}"
        self.lines: list[str] = []
        # A file rather than a pipe: nobody has to read it in time.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        chosen = {"DATA_DIR": str(data_dir), "PORT": str(self.port), "PYTHONDONTWRITEBYTECODE": "1", **(settings or {})}
        self.process = subprocess.Popen(
            [*user, *command],
            cwd=ROOT,
            env=environment(**chosen),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def read(self) -> list[str]:
        """Everything it has printed so far, in whole lines."""
        text = os.pread(self._output.fileno(), OUTPUT_BYTES_MAX, 0).decode()
        self.lines = text[: text.rfind("\n") + 1].splitlines()
        return self.lines

    def wait_line(self, part: str) -> "Up":
        """Wait until it has printed a line with ``part``. Fails with all it printed when that does not come."""
        end = time.monotonic() + START_SECONDS
        while not any(part in line for line in self.read()):
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"no {part}:\n" + "\n".join(self.read()))
            time.sleep(POLL_SECONDS)
        return self

    def wait_ready(self) -> "Up":
        """Wait for the READY line."""
        return self.wait_line("READY")

    def wait_end(self) -> int:
        """Wait until it has ended by itself; its exit code."""
        code = self.process.wait(START_SECONDS)
        self.read()
        return code

    @property
    def supervisor(self) -> int:
        """The supervisor's pid, which is not this process's child when make or another user stands between."""
        return int((self.data_dir / "up.lock").read_text())

    def parts(self) -> dict[str, int]:
        """The pids of the supervisor's children by name."""
        names = {
            "/postgres ": "postgres",
            "valkey-server": "valkey",
            "core.web": "web",
            " money@": "worker_money",
            " bulk@": "worker_bulk",
            " beat ": "beat",
            "tests.fakes.stripe": "fake-stripe",
        }
        found: dict[str, int] = {}
        for pid in children(self.supervisor):
            words = inside(self.data_dir).get(pid, "")
            found |= {name: pid for mark, name in names.items() if mark in words}
        return found

    def stop(self) -> int:
        """SIGTERM, as a service manager does; the exit code."""
        self.process.terminate()
        return self.wait_end()

    def __enter__(self) -> "Up":
        return self

    def __exit__(self, *_: object) -> None:
        cut_off = self.process.poll() is None
        if cut_off:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(START_SECONDS)
        self._output.close()
        if cut_off:
            wait_until_gone(self.data_dir)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a GET, fractions as ``Decimal``."""
        request = urllib.request.Request(self.base_url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer, parse_float=Decimal)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error, parse_float=Decimal)

    def ready(self) -> bool:
        """Whether /readyz answers 200 now."""
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, ValueError):
            return False


def children(pid: int) -> list[int]:
    """Living children of a process."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state not in "ZX":
            found.append(int(place.name))
    return found
