"""Failpoints: each name has one place, they cost nothing when off, and nothing but tests turns them on."""

import ast
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from core import failpoints
from tests.core.running import environment
from tests.database import ROOT
from tests.test_tidy import Module, module, modules

NAME = "charge.after_claims"


def calls(source: Module) -> Iterator[tuple[str, ast.Call]]:
    """What a module calls of ``core.failpoints``."""
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "failpoints"
        ):
            yield node.func.attr, node


def breaches(source: Module) -> list[str]:
    """Uses of failpoints that are not ``failpoints.reach("a.listed.name")``."""
    if source.name == "core.failpoints":
        return []
    found = []
    for node in ast.walk(source.tree):
        # Only the module itself is imported, so that what is called can be told from its name.
        from_it = isinstance(node, ast.ImportFrom) and node.module == "core.failpoints"
        renamed = isinstance(node, ast.alias) and node.name in {"core.failpoints", "failpoints"} and node.asname
        if from_it or renamed:
            found.append(f"{source.path}: {ast.unparse(node)}")
    for verb, node in calls(source):
        named = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if verb != "reach" or not isinstance(named, ast.Constant) or named.value not in failpoints.NAMES:
            found.append(f"{source.path}:{node.lineno}: {ast.unparse(node)}")
    if "FAILPOINT" in source.text:
        found.append(f"{source.path}: FAILPOINT")
    return found


def reached() -> Counter[str]:
    """How many places of the product say each name."""
    return Counter(
        ast.literal_eval(node.args[0]) for source in modules() for verb, node in calls(source) if verb == "reach"
    )


def test_each_name_is_reached_in_exactly_one_place() -> None:
    assert reached() == Counter(failpoints.NAMES)


def test_the_product_reaches_failpoints_and_never_arms_one() -> None:
    assert [breach for source in modules() for breach in breaches(source)] == []


@pytest.mark.parametrize(
    "text",
    [
        'failpoints.reach("charge.after_nothing")',
        "failpoints.reach(name)",
        "failpoints.reach()",
        f'failpoints.armed("{NAME}", print)',
        "failpoints.from_environment()",
        "from core.failpoints import reach",
        "from core import failpoints as quiet",
        "import core.failpoints as quiet",
        'os.environ["FAILPOINT"]',
    ],
)
def test_another_use_is_seen(text: str) -> None:
    assert breaches(module(text)) != []


def test_the_right_use_passes() -> None:
    assert breaches(module(f'from core import failpoints\nfailpoints.reach("{NAME}")')) == []


def test_a_failpoint_that_nobody_armed_does_nothing() -> None:
    met: list[int] = []
    failpoints.reach(NAME)
    with failpoints.armed(NAME, lambda: met.append(1)):
        failpoints.reach("charge.before_commit")
        failpoints.reach(NAME)
        failpoints.reach(NAME)
    failpoints.reach(NAME)
    assert met == [1, 1]


def test_a_failpoint_acts_the_nth_time_only_whichever_thread_comes() -> None:
    met: list[str] = []
    with failpoints.armed(NAME, lambda: met.append(threading.current_thread().name), nth=3):
        failpoints.reach(NAME)
        for name in ("second", "third", "fourth"):
            thread = threading.Thread(target=failpoints.reach, args=(NAME,), name=name)
            thread.start()
            thread.join()
    assert met == ["third"]


def test_what_a_failpoint_raises_reaches_the_verb_and_disarms_nothing_else() -> None:
    met: list[int] = []

    def fail() -> None:
        raise OSError("deliberate")

    with failpoints.armed(NAME, lambda: met.append(1)):
        with failpoints.armed(NAME, fail), pytest.raises(OSError, match="deliberate"):
            failpoints.reach(NAME)
        failpoints.reach(NAME)
    assert met == [1, 1]


def test_a_name_that_is_not_listed_is_refused() -> None:
    with pytest.raises(LookupError, match=r"charge\.nowhere"), failpoints.armed("charge.nowhere", failpoints.die):
        pytest.fail("armed")
    with failpoints.armed(NAME, list), pytest.raises(AssertionError, match=r"charge\.nowhere"):
        failpoints.reach("charge.nowhere")


REACH = f"""
from core import failpoints
for number in range(3):
    print(number, flush=True)
    failpoints.reach("{NAME}")
print("end")
"""
ARM = "from core import failpoints; failpoints.from_environment()\n"


def run(program: str, failpoint: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=environment(FAILPOINT=failpoint), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("failpoint", "printed"), [(f"{NAME}:exit", "0\n"), (f"{NAME}:exit:2", "0\n1\n")])
def test_a_process_whose_entry_point_asks_dies_where_the_environment_says(failpoint: str, printed: str) -> None:
    done = run(ARM + REACH, failpoint)
    assert (done.returncode, done.stdout, done.stderr) == (137, printed, "")


def test_the_environment_alone_does_nothing() -> None:
    done = run(REACH, f"{NAME}:exit")
    assert (done.returncode, done.stdout) == (0, "0\n1\n2\nend\n")


@pytest.mark.parametrize("failpoint", [NAME, f"{NAME}:explode", f"{NAME}:exit:0", f"{NAME}:exit:x", "nowhere:exit"])
def test_an_environment_that_makes_no_sense_is_refused(failpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILPOINT", failpoint)
    with pytest.raises((ValueError, LookupError)):
        failpoints.from_environment()
    failpoints.reach(NAME)
