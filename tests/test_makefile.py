"""The commands people and scripts type: what they need, what they run, and when they install again."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.running import environment
from tests.database import ROOT

# Answers the checks of the Makefile as the python it plays would; makes "environments" of itself.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
    *version_info*) exit {old} ;;
    *"import ensurepip, venv"*) exit {bare} ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *) exit 0 ;;
esac
"""


class Checkout:
    """A copy of the Makefile and the lock files, with a python that only notes what it is asked."""

    def __init__(self, folder: Path, *, old: int = 0, bare: int = 0) -> None:
        self.folder = folder
        self.log = folder / "log"
        for name in ("Makefile", "constraints.txt", "constraints-dev.txt"):
            shutil.copy(ROOT / name, folder / name)
        self.python = folder / "fake-python"
        self.python.write_text(FAKE_PYTHON.format(log=self.log, old=old, bare=bare))
        self.python.chmod(0o755)

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run make; ``log`` then holds what python was asked."""
        self.log.unlink(missing_ok=True)
        return subprocess.run(
            ["make", f"PYTHON={self.python}", *words],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def asked(self) -> list[str]:
        """What python was asked in the last run."""
        return self.log.read_text().splitlines() if self.log.exists() else []


def test_the_first_start_makes_an_environment_and_installs_what_is_locked(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    done = checkout.make("up")
    assert done.returncode == 0, done.stderr
    asked = checkout.asked()
    assert "-m venv .venv" in asked
    installs = [line for line in asked if "pip install" in line]
    assert len(installs) == 1
    assert "--require-hashes --no-deps -r constraints.txt" in installs[0]
    assert asked[-1] == "manage.py up"


def test_a_second_start_installs_nothing_until_the_lock_file_changes(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    checkout.make("up")
    checkout.make("up")
    assert checkout.asked() == ["manage.py up"]
    # A new date is not a new content.
    os.utime(tmp_path / "constraints.txt")
    checkout.make("up")
    assert checkout.asked() == ["manage.py up"]
    with (tmp_path / "constraints.txt").open("a") as lock:
        lock.write("# changed\n")
    checkout.make("up")
    assert any("pip install" in line for line in checkout.asked())


def test_an_install_that_fails_is_done_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    checkout.make("up")
    inner = tmp_path / ".venv" / "bin" / "python"
    kept = inner.read_text()
    for stamp in (tmp_path / ".venv").glob(".installed*"):
        stamp.unlink()
    inner.write_text(kept.replace("    *) exit 0 ;;", '    *"pip install"*) exit 1 ;;\n    *) exit 0 ;;'))
    failed = checkout.make("up")
    assert failed.returncode != 0
    assert "manage.py up" not in checkout.asked()
    inner.write_text(kept)
    checkout.make("up")
    assert checkout.asked()[-1] == "manage.py up"


def test_a_python_that_is_too_old_or_cannot_make_environments_is_told(tmp_path: Path) -> None:
    for name, options, message in (
        ("old", {"old": 1}, "Tollbook needs Python 3.11 or later"),
        ("bare", {"bare": 1}, "apt-get install python3-venv"),
    ):
        (tmp_path / name).mkdir()
        checkout = Checkout(tmp_path / name, **options)
        done = checkout.make("up")
        assert done.returncode != 0
        assert message in done.stdout
        assert not (tmp_path / name / ".venv").exists()


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["test"], "-m pytest -m not soak"),
        (["test", "ID=I04"], "-m pytest -m I04 and not soak"),
        (["test", "ARGS=-x tests/core"], "-m pytest -m not soak -x tests/core"),
        (["soak"], "-m pytest -m soak"),
        (["bench"], "-m tests.benchmarks"),
        (["demo"], "manage.py demo"),
    ],
)
def test_each_command_runs_its_one_thing_last(words: list[str], runs: str, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    done = checkout.make(*words)
    assert done.returncode == 0, done.stderr
    assert checkout.asked()[-1] == runs


def test_check_looks_at_everything_before_it_tests() -> None:
    seen = subprocess.run(["make", "-n", "check"], cwd=ROOT, env=environment(), capture_output=True, text=True).stdout
    order = ["ruff format --check", "ruff check", "mypy", "lint-imports", "makemigrations --check", "openapi", "pytest"]
    places = [seen.find(step) for step in order]
    assert -1 not in places
    assert places == sorted(places)
    assert "pytest" in seen.strip().splitlines()[-1]
    # The same in three rows side by side, and nothing is left out.
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.find("\nmake static\n") < ci.find("    make grouped ")
    for folder in ("billing", "journeys", "core"):
        assert ci.count(f" --ignore=tests/{folder}") == ci.count(f" tests/{folder}") == 1


@pytest.mark.parametrize(
    ("bare", "summary", "apart", "code", "total"),
    [
        (True, "1 failed, 2 passed", "4 passed", 1, "3 failed, 10 passed"),
        (False, "9 passed, 1 deselected", "4 passed", 0, "31 passed, 3 deselected"),
        (False, "9 passed", "1 failed, 3 passed", 1, "1 failed, 30 passed"),
    ],
)
def test_ci_installs_what_a_bare_machine_lacks_and_ends_on_the_summary(
    bare: bool, summary: str, apart: str, code: int, total: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, body in (
        ("apt-get", f'echo "apt-get $*" >> "{log}"'),
        ("python3", f"exit {int(bare)}"),
        (
            "make",
            f'echo "make $*" >> "{log}"; test "$*" != grouped || {{ echo "{apart}"; exit {int("failed" in apart)}; }}',
        ),
        ("cmp", "exit 0"),
    ):
        (stubs / name).write_text(f"#!/bin/sh\n{body}\n")
    inner = tmp_path / ".venv" / "bin" / "python"
    inner.parent.mkdir(parents=True)
    inner.write_text(f'#!/bin/sh\necho "python $*" >> "{log}"\necho "{summary}"\nexit {int("failed" in summary)}\n')
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    for script in (*stubs.iterdir(), inner):
        script.chmod(0o755)
    done = subprocess.run(
        [tmp_path / ".ci" / "run"],
        env={"PATH": f"{stubs}:{os.defpath}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == code
    installs = ["apt-get update -q", "apt-get install -y -q --no-install-recommends python3-venv"] if bare else []
    ran = log.read_text().splitlines()
    assert ran[: len(installs) + 1] == [*installs, "make static"]
    assert set(ran[len(installs) + 1 :]) == {
        "make grouped",
        "python -m pytest -m not soak --ignore=tests/billing --ignore=tests/journeys --ignore=tests/core",
        "python -m pytest -m not soak tests/billing",
        "python -m pytest -m not soak tests/journeys tests/core",
    }
    assert re.fullmatch(rf"{total} in \d+s", done.stdout.splitlines()[-1])


def test_the_lock_files_agree_and_hash_everything_and_name_no_index() -> None:
    pins: dict[str, dict[str, str]] = {}
    for name in ("constraints.txt", "constraints-dev.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert "index-url" not in text
        blocks = [block for block in text.replace("\\\n", " ").splitlines() if block and not block.startswith("#")]
        assert all("--hash=sha256:" in block for block in blocks)
        pins[name] = dict(block.split()[0].split("==") for block in blocks)
    runtime, development = pins["constraints.txt"], pins["constraints-dev.txt"]
    assert len(runtime) > 20
    assert runtime.items() <= development.items()


def test_what_is_installed_is_what_is_locked() -> None:
    from importlib.metadata import version

    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line and ";" not in line:
            name, _, pinned = line.split()[0].partition("==")
            assert version(name) == pinned, f"{name}: run make test with {sys.executable} again"
