"""The proof machinery itself: what it calls proven, and everything that it must not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import guards, proofs
from tests.database import ROOT
from tests.proofs import Proof

CONFTEST = """
from tests import proofs
from tests.guards import guard, patched
import product

proofs.CUT_SECONDS = 1

@guard("limit_kept")
def _():
    "The product refuses what is over its limit."
    return patched("product.allowed", lambda count: True)

@guard("nothing_much")
def _():
    "Takes away what no test depends on."
    return patched("product.IDLE", 0)

@guard("misspelt")
def _():
    "Names what does not exist."
    return patched("product.no_such_thing", 0)

@guard("sleeper")
def _():
    "Without it the product hangs."
    return patched("product.WAIT", 60)

@guard("importer")
def _():
    "Without it the product cannot run."
    return patched("product.allowed", None)
"""

PRODUCT = """
IDLE = 1
WAIT = 0

def allowed(count):
    return count <= 3
"""

TESTS = """
import time
import pytest
import product
from hypothesis import given, strategies
from tests.proofs import proves

@proves("I04", guard="limit_kept")
def test_red(): assert not product.allowed(4)

@proves("I05", guard="nothing_much")
def test_green(): assert not product.allowed(4)

@proves("W01", guard="misspelt")
def test_misspelt(): assert product.IDLE

@proves("W02", guard="sleeper")
def test_sleeper(): time.sleep(product.WAIT)

@proves("W03", guard="importer")
def test_broken(): assert not product.allowed(4)

@proves("I09", guard="limit_kept")
def test_always_red(): assert product.allowed(4)

@proves("A01", guard="limit_kept")
@proves("A02", guard="nothing_much")
def test_two_guards(): assert product.IDLE and not product.allowed(4)

@proves("A03", guard="limit_kept")
@pytest.mark.parametrize("count", [4, 0])
def test_parameters(count): assert product.allowed(count) == (count <= 3)

@proves("I14", guard="limit_kept")
@given(strategies.integers(min_value=4, max_value=99))
def test_property(count): assert not product.allowed(count)

@pytest.fixture
def torn():
    raise AssertionError("the fixture fails")

@proves("I15", guard="limit_kept")
def test_fixture(torn): assert not product.allowed(4)

def test_ordinary(): assert product.allowed(3)
"""


class Run:
    """A pytest run of the small product, with what each test came to."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "product.py").write_text(PRODUCT)
        (folder / "test_product.py").write_text(TESTS)
        (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-c", str(folder / "pytest.ini"), "--rootdir", str(folder)),
                *(
                    "-p",
                    "tests.proofs",
                    "-p",
                    "no:django",
                    "-p",
                    "no:randomly",
                    "-rA",
                    "--tb=short",
                    *options,
                    str(folder),
                ),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.output = done.stdout + done.stderr
        found = re.findall(r"^(PASSED|FAILED|ERROR) (?:\S*::)?(\w+(?:\[.*?\])?)(?: - .*)?$", self.output, re.MULTILINE)
        self.outcomes = {test: outcome for outcome, test in found}
        self.results = json.loads((folder / ".pytest_cache" / "d" / "tollbook" / "proofs.json").read_text())

    def row(self, id: str) -> dict[str, Any]:
        """What was written down for an id."""
        (row,) = [row for row in self.results if row["id"] == id]
        return dict(row)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("product"))


def test_a_proof_is_green_with_its_guard_and_red_without(run: Run) -> None:
    assert run.outcomes["test_red"] == "PASSED", run.output
    assert run.outcomes["test_red[without limit_kept]"] == "PASSED"
    assert run.row("I04") | {"how": ""} == {
        "id": "I04",
        "guard": "limit_kept",
        "test": "test_product.py::test_red",
        "with": "passed",
        "without": "red",
        "how": "",
    }
    assert run.row("I04")["how"].startswith("AssertionError")


def test_a_proof_that_stays_green_without_its_guard_fails(run: Run) -> None:
    assert run.outcomes["test_green"] == "PASSED"
    assert run.outcomes["test_green[without nothing_much]"] == "FAILED"
    assert "guard nothing_much is disabled and the proof of I05 stayed green" in run.output
    assert run.row("I05")["without"] == "not red"


def test_a_guard_that_names_nothing_fails_the_proof(run: Run) -> None:
    assert run.outcomes["test_misspelt[without misspelt]"] == "FAILED"
    assert run.row("W01")["without"] == "not red"


def test_a_run_without_its_guard_that_hangs_is_cut_and_fails(run: Run) -> None:
    assert run.outcomes["test_sleeper"] == "PASSED"
    assert run.outcomes["test_sleeper[without sleeper]"] == "FAILED"
    assert "guard sleeper is disabled and the proof of W02 hung for 1 s" in run.output
    assert "in test_sleeper" in run.output


def test_a_run_that_merely_breaks_is_not_red(run: Run) -> None:
    assert run.outcomes["test_broken[without importer]"] == "FAILED"
    assert "guard importer is disabled and the proof of W03 broke: TypeError" in run.output


def test_a_fixture_that_fails_is_not_red(run: Run) -> None:
    assert run.outcomes["test_fixture[without limit_kept]"] == "ERROR"
    assert run.row("I15")["without"] == "not red"
    assert run.row("I15")["with"] == "failed"


def test_a_proof_that_is_red_anyway_is_not_proven(run: Run) -> None:
    assert run.outcomes["test_always_red"] == "FAILED"
    row = run.row("I09")
    assert row["with"] == "failed"
    assert not proofs.proven(row)


def test_each_guard_of_a_proof_has_a_run_of_its_own(run: Run) -> None:
    assert run.outcomes["test_two_guards[without limit_kept]"] == "PASSED"
    assert run.outcomes["test_two_guards[without nothing_much]"] == "PASSED"
    assert proofs.proven(run.row("A01"))
    assert proofs.proven(run.row("A02"))


def test_one_parameter_set_that_stays_green_spoils_the_proof(run: Run) -> None:
    assert run.outcomes["test_parameters[without limit_kept-4]"] == "PASSED"
    assert run.outcomes["test_parameters[without limit_kept-0]"] == "FAILED"
    assert run.row("A03")["without"] == "not red"


def test_a_property_test_can_be_a_proof(run: Run) -> None:
    assert run.outcomes["test_property"] == "PASSED"
    assert run.outcomes["test_property[without limit_kept]"] == "PASSED"
    assert proofs.proven(run.row("I14"))


def test_other_tests_run_once(run: Run) -> None:
    assert [test for test in run.outcomes if test.startswith("test_ordinary")] == ["test_ordinary"]


def test_an_id_selects_both_runs_of_its_proof_and_keeps_earlier_results(tmp_path: Path) -> None:
    Run(tmp_path)
    again = Run(tmp_path, "-m", "I04")
    assert set(again.outcomes) == {"test_red", "test_red[without limit_kept]"}
    assert again.row("A01")["without"] == "red"


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(LookupError, match="I99"):
        proofs.proves("I99", guard="limit_kept")


def test_every_guard_that_is_registered_says_what_it_does() -> None:
    assert all(guard.about for guard in guards.GUARDS.values())
    with pytest.raises(AssertionError, match="does not say"):
        guards.guard("silent")(lambda: guards.patched("os.sep", "/"))


@pytest.mark.parametrize(
    ("error", "red"),
    [
        (AssertionError("2 != 1"), True),
        (psycopg.errors.UniqueViolation("duplicate key"), True),
        (psycopg.errors.DeadlockDetected("deadlock"), True),
        (psycopg.errors.LockNotAvailable("timeout"), True),
        (ExceptionGroup("two", [AssertionError("1"), psycopg.errors.UniqueViolation("2")]), True),
        (ExceptionGroup("two", [AssertionError("1"), KeyError("2")]), False),
        (psycopg.errors.UndefinedTable("no such table"), False),
        (psycopg.errors.InvalidColumnReference("no constraint matches ON CONFLICT"), False),
        (psycopg.OperationalError("the connection is closed"), False),
        (ImportError("no module"), False),
        (AttributeError("no attribute"), False),
    ],
)
def test_only_assertions_and_the_databases_refusals_are_red(error: BaseException, red: bool) -> None:
    assert proofs.is_red(error) is red


def test_the_report_lists_every_id_and_marks_what_is_unproven() -> None:
    text = proofs.render({Proof("I04", "gone", "tests/x.py::test_a"): {"with": "passed", "without": "red"}})
    for id in proofs.scenarios():
        assert re.search(rf"^\| (🟢|🔴) \| {id} \|", text, re.MULTILINE), id
    assert re.search(r"^\| 🟢 \| I04 \|", text, re.MULTILINE)
    assert f"**1 of {len(proofs.scenarios())} are proven.**" in text
    assert "| 🔴 | I05 |" in text


def test_an_id_is_proven_when_none_of_its_proofs_is_wanting() -> None:
    good, bad = {"with": "passed", "without": "red"}, {"with": "passed", "without": "not red"}
    known = {Proof("I04", "a", "t"): good, Proof("I05", "a", "t"): good, Proof("I05", "b", "t"): bad}
    assert proofs.proven_ids(known) == {"I04"}


def test_the_scenarios_are_complete() -> None:
    counts = {"I": 20, "W": 20, "G": 6, "J": 15, "S": 16, "D": 12, "A": 20, "V": 35, "B": 1, "P": 1}
    wanted = [f"{family}{number:02d}" for family, last in counts.items() for number in range(1, last + 1)]
    assert list(proofs.scenarios()) == wanted
