"""Children end with their parents, groups end whole, and root finds somebody else to be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core import processes
from tests.core.running import NOBODY, as_root, folder
from tests.database import ROOT
from tests.server import living

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def eventually(fact: Callable[[], bool], *, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def run_parent(program: str) -> tuple[subprocess.Popen[str], int]:
    """A process of ours that starts a child, and the pid it prints."""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


PARENT = """
import subprocess, sys, time
from core import processes
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]{how})
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "survives"),
    [(", preexec_fn=processes.before_exec(), start_new_session=True", False), (", start_new_session=True", True)],
    ids=["tied", "untied"],
)
def test_a_child_ends_with_a_parent_that_is_killed_only_when_tied_to_it(how: str, survives: bool) -> None:
    parent, child = run_parent(PARENT.format(how=how))
    with parent:
        parent.kill()
    try:
        assert eventually(lambda: gone(child), seconds=1 if survives else 60) is not survives
    finally:
        if not gone(child):
            os.kill(child, signal.SIGKILL)


def test_a_child_whose_parent_is_gone_before_it_asks_ends_at_once() -> None:
    program = (
        "import os; from core import processes; processes.end_with_parent(parent=os.getppid() + 1); print('lives')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")


def test_children_are_refused_outside_the_main_thread() -> None:
    program = (
        "import threading\nfrom core import processes\nmade = []\n"
        "def work():\n try:\n  processes.before_exec()\n except AssertionError as error:\n  made.append(str(error))\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join(); print(made)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "main thread" in done.stdout


def test_a_signal_while_a_child_is_started_does_not_lose_the_child() -> None:
    program = """
import os, signal, subprocess, sys
from core import processes

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
child = None
try:
    with processes.signals_deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        child = subprocess.Popen(["/bin/sleep", "60"], preexec_fn=processes.before_exec())
except KeyboardInterrupt:
    # The child itself hears what its parent held back.
    child.terminate()
    print(child.wait())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(-signal.SIGTERM)], done.stderr


def test_a_group_is_killed_whole_and_its_dead_are_cleared_away() -> None:
    family = f"{sys.executable} -c 'import time; time.sleep(60)' & echo $!; wait"
    parent = subprocess.Popen(["/bin/sh", "-c", family], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert set(living(parent.pid)) == {parent.pid, child}
        assert eventually(lambda: not processes.kill_group(parent.pid) or not living(parent.pid))
    assert living(parent.pid) == []


def test_a_group_that_is_gone_has_nobody_left() -> None:
    child = subprocess.Popen(SLEEP, start_new_session=True)
    child.kill()
    child.wait()
    assert processes.kill_group(child.pid) is False


def test_adopted_dead_are_reaped_and_known_ones_left_to_their_owner() -> None:
    program = """
import os, subprocess, sys, time
from core import processes
processes.adopt_orphans()
known = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
orphan = subprocess.run(["/bin/sh", "-c", "sleep 0.2 & echo $!"], capture_output=True, text=True).stdout.strip()
time.sleep(0.6)
processes.reap({known.pid})
processes.reap({known.pid})
code = known.wait()
processes.reap(set())
print(code, os.path.exists(f"/proc/{orphan}"))
"""
    # capture_output waits for the orphan too: it holds the pipe; by then it is dead and waits to be reaped.
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["7", "False"], done.stderr


def test_it_is_seen_whether_a_process_handles_a_signal() -> None:
    program = "import signal, sys, time; signal.signal({0}, lambda *_: None); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", program.format(int(signal.SIGUSR1))], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert processes.catches(child.pid, signal.SIGUSR1)
        assert not processes.catches(child.pid, signal.SIGUSR2)
        child.kill()
    assert not processes.catches(child.pid, signal.SIGUSR1)


@as_root
def test_root_is_root_to_the_files_and_nobody_to_the_program(tmp_path: Path) -> None:
    identity = processes.unprivileged(folder=tmp_path, program=Path(sys.executable))
    seen = subprocess.run(
        [sys.executable, "-c", "import os; print(os.geteuid()); open('made', 'w').close()"],
        cwd=tmp_path,
        preexec_fn=processes.before_exec(identity=identity),
        capture_output=True,
        text=True,
    )
    assert int(seen.stdout) != 0
    assert (tmp_path / "made").stat().st_uid == identity.owner


@as_root
def test_root_without_user_namespaces_becomes_nobody_and_still_reaches_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError("no namespaces here")

    monkeypatch.setattr(processes, "_namespace", lambda uid, gid: processes.Identity(0, refuse))
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    identity = processes.unprivileged(folder=private, program=Path(sys.executable))
    assert identity.owner == NOBODY
    seen = subprocess.run(
        ["/bin/sh", "-c", "id -u; : > made"],
        cwd=private,
        preexec_fn=processes.before_exec(identity=identity),
        capture_output=True,
        text=True,
    )
    assert seen.stdout.split() == [str(NOBODY)], seen.stderr
    assert (private / "made").stat().st_uid == NOBODY
    # As PostgreSQL looks for its programs, which may lie below root's own home.
    (private / "program").touch(mode=0o755)
    look = f"import os; print(os.access({str(private / 'program')!r}, os.X_OK))"
    looked = subprocess.run(
        [sys.executable, "-c", look],
        preexec_fn=processes.before_exec(identity=identity),
        capture_output=True,
        text=True,
    )
    assert looked.stdout == "True\n", looked.stderr


@as_root
def test_root_becomes_the_owner_of_a_folder_that_is_somebody_elses() -> None:
    with folder(owner=NOBODY) as data:
        identity = processes.unprivileged(folder=data, program=Path("/bin/true"))
        assert identity.owner == NOBODY


@as_root
def test_when_root_can_be_nobody_else_it_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(processes.NotPermitted, match="refuses to run as root"):
        processes.unprivileged(folder=tmp_path, program=Path("/bin/false"))


@pytest.mark.parametrize(("hard", "allowed"), [(400, 300), (200, 200)])
def test_open_files_are_allowed_as_far_as_the_user_may(hard: int, allowed: int) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource; from core import processes;"
            f" resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}));"
            " print(processes.allow_files(300), resource.getrlimit(resource.RLIMIT_NOFILE)[0])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(allowed), str(allowed)]
