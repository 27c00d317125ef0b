"""Processes that run one function and may die in it, forked from an interpreter that is ready.

    def test_…(books, nursery):
        ended = nursery.run("tests.billing.acts:charge", dies_at="charge.after_claims", slug="acme")
        assert ended.died

A start of the product in a new interpreter takes most of a second, a fork two hundredths. Only
this interpreter forks: it has no threads and no connection of its own. ``python -m tests.nursery``
is what it runs; requests and answers are lines of JSON.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from core import failpoints, processes
from tests import books, guards
from tests.database import ROOT

STOP_SECONDS = 60
RUN_SECONDS = 30
STOPPED_POLL_SECONDS = 0.005


class Ended(NamedTuple):
    """How a process ended: its exit code (negative: the signal), what its function returned or raised.

    ``reached`` are the failpoints that it came to, in order, if that was asked for; ``words`` how
    many statements and commits it said to the database.
    """

    code: int
    result: Any = None
    error: str = ""
    reached: Sequence[str] = ()
    words: int = 0

    @property
    def died(self) -> bool:
        """Whether it died where it was told to, rather than ending or breaking."""
        return self.code == failpoints.EXIT_CODE and not self.error


class Nursery:
    """The interpreter, seen from the tests."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        call: str,
        *,
        dies_at: str = "",
        stops_at: str = "",
        nth: int = 1,
        dies_before_word: int = 0,
        without: str | None = None,
        settings: dict[str, int] | None = None,
        **arguments: Any,
    ) -> int:
        """Start ``module:function`` with these arguments (JSON) in a process on the test's books; its id.

        It dies, or stops, the ``nth`` time it reaches a failpoint, or dies before its n-th
        statement or commit. ``without`` takes a guard's code away; ``settings`` replace numbers of
        ``core.settings`` that a connection to the database is made with.
        """
        failpoint = f"{dies_at}:exit:{nth}" if dies_at else f"{stops_at}:stop:{nth}" if stops_at else ""
        asked = {
            "call": call, "arguments": arguments, "url": books.current().url, "failpoint": failpoint,
            "word": dies_before_word, "without": without, "settings": settings or {},
        }  # fmt: skip
        pid: int = self._ask(asked)["pid"]
        return pid

    def wait(self, pid: int, *, seconds: float = RUN_SECONDS) -> Ended:
        """Wait for the end of a process that was started; it is killed when it takes longer."""
        return Ended(**self._ask({"wait": pid, "seconds": seconds}))

    def run(self, call: str, *, seconds: float = RUN_SECONDS, **chosen: Any) -> Ended:
        """Start, and wait for the end."""
        return self.wait(self.start(call, **chosen), seconds=seconds)

    def close(self) -> None:
        """End the interpreter."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(STOP_SECONDS)
            process.stdout.close()

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        process = self._process or self._open()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the nursery is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _open(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "core.settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=processes.before_exec(on_orphan=signal.SIGKILL),
        )
        return self._process


def wait_until_stopped(pid: int, *, seconds: float = RUN_SECONDS) -> None:
    """Wait until a process has stopped. Raises ``AssertionError`` if it ends instead, or goes on too long."""
    end = time.monotonic() + seconds
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = "X"
        if state == "T":
            return
        assert state not in "ZX", f"process {pid} has ended"
        assert time.monotonic() < end, f"process {pid} does not stop"
        time.sleep(STOPPED_POLL_SECONDS)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """One for the whole run; each process it starts is led to the books of the test that asks."""
    made = Nursery()
    yield made
    made.close()


class _Children:
    """The interpreter, seen from inside: the read end of each child's report."""

    def __init__(self) -> None:
        self._reports: dict[int, IO[bytes]] = {}

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what a line asks."""
        if "wait" in asked:
            return self._wait(asked["wait"], asked["seconds"])
        out, into = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(out)
            processes.end_with_parent(parent=parent)
            _live(asked, into)
        os.close(into)
        self._reports[pid] = os.fdopen(out, "rb")
        return {"pid": pid}

    def _wait(self, pid: int, seconds: float) -> dict[str, Any]:
        """How a child ended. Its report is whole when every copy of the pipe's other end is closed."""
        end = time.monotonic() + seconds
        said = b""
        with self._reports.pop(pid) as report:
            while True:
                ready, _, _ = select.select([report], [], [], max(0.0, end - time.monotonic()))
                if not ready:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    return {"code": -signal.SIGKILL, "error": f"not done after {seconds} s"}
                part = os.read(report.fileno(), 1 << 16)
                if not part:
                    break
                said += part
        _, status = os.waitpid(pid, 0)
        return {**(json.loads(said) if said else {}), "code": os.waitstatus_to_exitcode(status)}


def _live(asked: dict[str, Any], into: int) -> None:
    """A child's whole life."""
    code, told = 1, {}
    try:
        # What is printed must not get between the lines of JSON.
        os.dup2(2, 1)
        module, _, name = asked["call"].partition(":")
        with _as_asked(asked) as told:
            told["result"] = getattr(importlib.import_module(module), name)(**asked["arguments"])
            code = 0
    except BaseException:  # noqa: BLE001 - the report is all that is left of it
        told["error"] = traceback.format_exc()
    finally:
        os.write(into, json.dumps(told, default=str).encode())
        os._exit(code)


@contextlib.contextmanager
def _as_asked(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Led to the books, without a guard, fated; yields what the report begins with."""
    from django.db import connections

    from core import settings

    os.environ.update(DATABASE_URL=asked["url"], FAILPOINT=asked["failpoint"])
    for name, value in asked["settings"].items():
        assert hasattr(settings, name), f"core.settings has no {name}"
        setattr(settings, name, value)
    connections["default"].settings_dict.update(settings._database())
    failpoints.from_environment()
    told: dict[str, Any] = {"reached": [], "words": 0}
    with contextlib.ExitStack() as stack:
        if asked["without"]:
            stack.enter_context(guards.in_child(asked["without"]))
        for name in failpoints.NAMES:
            stack.enter_context(failpoints.armed(name, lambda name=name: told["reached"].append(name)))  # type: ignore[misc]
        _count_words(told, asked["word"])
        yield told


def _count_words(told: dict[str, Any], last: int) -> None:
    """Count statements and commits from now on, and die instead of saying the ``last``."""
    import psycopg

    def counting(send: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            told["words"] += 1
            if told["words"] == last:
                failpoints.die()
            return send(*args, **options)

        return counted

    for owner, name in ((psycopg.Cursor, "execute"), (psycopg.Cursor, "copy"), (psycopg.Connection, "commit")):
        setattr(owner, name, counting(getattr(owner, name)))


def main() -> int:
    """Serve until there is no more to read."""
    import django

    django.setup()
    # What every child would otherwise import again.
    for module in ("core.urls", "tests.billing.acts"):
        importlib.import_module(module)
    children = _Children()
    for line in sys.stdin.buffer:
        print(json.dumps(children.answer(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
