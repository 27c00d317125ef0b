"""Proofs by id: a test names the scenario it proves and the guard that makes it true.

    @proves("I04", guard="fingerprint_compared")
    def test_the_same_id_with_another_body_is_a_conflict(books): ...

Such a test runs twice: as it is, and again ``[without fingerprint_compared]``, where it must go red
by an assertion or by the database. A proof that stays green without its guard proves nothing, and
one that merely breaks (a missing name, SQL that cannot run, a hang) does not either: both fail.

Ids are those of ``docs/reliability.md``; each is a pytest marker: ``pytest -m I04``.
``python -m tests.proofs`` writes ``docs/proofs.md`` from what the last runs showed.
"""

import argparse
import fcntl
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = ROOT / "docs" / "reliability.md"
REPORT = ROOT / "docs" / "proofs.md"
# Where pytest keeps what it remembers between runs.
RESULTS = ROOT / ".pytest_cache" / "d" / "tollbook" / "proofs.json"

# Lock and statement timeouts end sooner; this is for what they do not see.
CUT_SECONDS = 30
HOW_CHARS_MAX = 160
FRAMES_SHOWN = 12

F = TypeVar("F", bound=Callable[..., Any])

_ROW = re.compile(r"^\| ([A-Z]\d\d) \| (.+?) \| (.+?) \| (.+?) \|$")
_HEADING = re.compile(r"^## (.+)$")
# Statements that cannot run (class 42) and connections that were cut say nothing about a guard.
_BROKEN_SQL = ("42", "08", "57P")


class Scenario(NamedTuple):
    """A row of docs/reliability.md."""

    id: str
    section: str
    what: str
    guard: str
    proof: str


@cache
def scenarios() -> dict[str, Scenario]:
    """Every scenario and invariant by id, in the document's order."""
    found: dict[str, Scenario] = {}
    section = ""
    for line in SCENARIOS.read_text().splitlines():
        if heading := _HEADING.match(line):
            section = heading[1]
        elif row := _ROW.match(line):
            assert row[1] not in found, f"{row[1]} stands twice in {SCENARIOS.name}"
            found[row[1]] = Scenario(row[1], section, row[2], row[3], row[4])
    return found


def proves(*ids: str, guard: str) -> Callable[[F], F]:
    """Declare that a test proves these ids and that ``guard`` (tests/guards.py) is why it is green."""
    for id in ids:
        if id not in scenarios():
            raise LookupError(f"{id} is no id of {SCENARIOS.name}")

    def mark(test: F) -> F:
        for id in ids:
            test = getattr(pytest.mark, id)(test)
        return cast("F", pytest.mark.proves(*ids, guard=guard)(test))

    return mark


class Proof(NamedTuple):
    """One claim: this test proves this id by this guard."""

    id: str
    guard: str
    test: str


class TooLong(BaseException):
    """A run without its guard was cut; the message holds every thread's stack."""


class Broke(Exception):
    """A run without its guard ended in something that is neither an assertion nor the database's refusal."""


_claims_key = pytest.StashKey[set[Proof]]()
_seen_key = pytest.StashKey[dict[Proof, dict[str, str]]]()
_red_key = pytest.StashKey[str]()
_files_key = pytest.StashKey[set[str]]()


def is_red(error: BaseException) -> bool:
    """Whether an error shows that a guard is missing, rather than that the run broke."""
    import django.db
    import psycopg

    if isinstance(error, BaseExceptionGroup):
        return all(is_red(inner) for inner in error.exceptions)
    if isinstance(error, AssertionError | pytest.fail.Exception):
        return True
    if isinstance(error, django.db.Error | psycopg.Error):
        state = getattr(error if isinstance(error, psycopg.Error) else error.__cause__, "sqlstate", None)
        return state is not None and not state.startswith(_BROKEN_SQL)
    return False


@contextmanager
def _unshrunk(item: pytest.Function) -> Iterator[None]:
    """A property test that goes red has done its work with the first counterexample."""
    chosen = getattr(item.obj, "_hypothesis_internal_use_settings", None)
    if chosen is None:
        yield
        return
    from hypothesis import Phase, settings

    item.obj._hypothesis_internal_use_settings = settings(
        chosen, phases=(Phase.explicit, Phase.generate), database=None
    )
    try:
        yield
    finally:
        item.obj._hypothesis_internal_use_settings = chosen


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise ``TooLong`` in the main thread when the block takes longer; elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cut(*_: object) -> None:
        stacks = (
            f"thread {thread}:\n{''.join(traceback.format_stack(frame)[-FRAMES_SHOWN:])}"
            for thread, frame in sys._current_frames().items()
        )
        raise TooLong("\n".join(stacks))

    previous = signal.signal(signal.SIGALRM, cut)
    # Again every second, should something below swallow the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(autouse=True)
def disabled_guard(request: pytest.FixtureRequest) -> str | None:
    """The guard that this run of a proof goes without, if it is such a run."""
    return getattr(request, "param", None)


def pytest_configure(config: pytest.Config) -> None:
    """Make every id a marker."""
    config.addinivalue_line("markers", "proves(*ids, guard): what a test proves and by which guard")
    for scenario in scenarios().values():
        config.addinivalue_line("markers", f"{scenario.id}: {scenario.what}")
    config.stash[_claims_key] = set()
    config.stash[_seen_key] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A proof runs as it is, and once more without each guard it names."""
    from tests.guards import GUARDS

    names = list(dict.fromkeys(mark.kwargs["guard"] for mark in metafunc.definition.iter_markers("proves")))
    for name in names:
        if name not in GUARDS:
            raise LookupError(f"no guard is named {name!r}; tests/guards.py lists them")
    if names:
        ids = [pytest.HIDDEN_PARAM, *(f"without {name}" for name in names)]
        metafunc.parametrize("disabled_guard", [None, *names], ids=ids, indirect=True)


def without(item: pytest.Item) -> str | None:
    """The guard an item goes without."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("disabled_guard") if callspec else None


def claims(item: pytest.Item) -> set[Proof]:
    """What an item proves; a run without a guard is about that guard only."""
    test = item.nodeid.split("[")[0]
    only = without(item)
    return {
        Proof(id, mark.kwargs["guard"], test)
        for mark in item.iter_markers("proves")
        for id in mark.args
        if only in {None, mark.kwargs["guard"]}
    }


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Without its guard a proof must go red."""
    from tests.guards import GUARDS

    name = without(pyfuncitem)
    if name is None:
        return (yield)
    ids = " and ".join(sorted({proof.id for proof in claims(pyfuncitem)}))
    with ExitStack() as stack:
        stack.enter_context(GUARDS[name].disabled())
        stack.enter_context(_unshrunk(pyfuncitem))
        try:
            with deadline(CUT_SECONDS):
                yield
        except (KeyboardInterrupt, pytest.skip.Exception, pytest.exit.Exception):
            raise
        except TooLong as error:
            pytest.fail(f"guard {name} is disabled and the proof of {ids} hung for {CUT_SECONDS} s\n{error}", False)
        except BaseException as error:
            if not is_red(error):
                said = f"{type(error).__name__}: {error}"
                raise Broke(f"guard {name} is disabled and the proof of {ids} broke: {said}") from error
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            pyfuncitem.stash[_red_key] = f"{type(error).__name__}: {first}"[:HOW_CHARS_MAX]
            return True
    pytest.fail(f"guard {name} is disabled and the proof of {ids} stayed green", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how each half of a proof went; of several parameter sets the worst counts."""
    report = yield
    if report.when == "call" or report.failed:
        half = "without" if without(item) else "with"
        red = item.stash.get(_red_key, "")
        word = ("red" if report.passed else "not red") if half == "without" else report.outcome
        for proof in claims(item):
            seen = item.config.stash[_seen_key].setdefault(proof, {})
            if seen.get(half) in {None, "red", "passed"}:
                seen[half] = word
                if red:
                    seen["how"] = red
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember every proof of the collected files, before any is deselected."""
    for item in items:
        config.stash[_claims_key] |= claims(item)
    config.stash[_files_key] = {item.nodeid.split("::")[0] for item in items}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Merge what this run showed into what earlier runs showed."""
    config = session.config
    if not hasattr(config, "cache") or config.option.collectonly:
        return
    assert config.cache is not None
    path = config.cache.mkdir("tollbook") / "proofs.json"
    # Runs side by side may end together.
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _merge(path, config)


def _merge(path: Path, config: pytest.Config) -> None:
    claimed = config.stash[_claims_key]
    files = config.stash.get(_files_key, set())
    known = read(path)
    for proof in list(known):
        file = proof.test.split("::")[0]
        if (file in files and proof not in claimed) or not (config.rootpath / file).exists():
            del known[proof]
    for proof in claimed:
        known.setdefault(proof, {})
    for proof, seen in config.stash[_seen_key].items():
        # A half that this run left out keeps its last result.
        known[proof] = {**known.get(proof, {}), **seen}
    write(path, known)


def read(path: Path) -> dict[Proof, dict[str, str]]:
    """The proofs of earlier runs and how they went."""
    if not path.exists():
        return {}
    return {
        Proof(row["id"], row["guard"], row["test"]): {k: row[k] for k in ("with", "without", "how") if k in row}
        for row in json.loads(path.read_text())
    }


def write(path: Path, known: dict[Proof, dict[str, str]]) -> None:
    """Keep the proofs, sorted; a reader sees the old file or the new one."""
    rows = [{**proof._asdict(), **seen} for proof, seen in sorted(known.items())]
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(rows, indent=1) + "\n")
    fresh.replace(path)


def proven(seen: dict[str, str]) -> bool:
    """Green with the guard, red without it."""
    return seen.get("with") == "passed" and seen.get("without") == "red"


def proven_ids(known: dict[Proof, dict[str, str]]) -> set[str]:
    """Ids that have a proof, and of which no proof is wanting."""
    wanting = {proof.id for proof, seen in known.items() if not proven(seen)}
    return {proof.id for proof in known} - wanting


def render(known: dict[Proof, dict[str, str]]) -> str:
    """docs/proofs.md: every id, its guards and tests, and whether that was seen."""
    from tests.guards import GUARDS

    by_id: dict[str, list[tuple[Proof, dict[str, str]]]] = {}
    for proof, seen in sorted(known.items()):
        by_id.setdefault(proof.id, []).append((proof, seen))
    done = len(proven_ids(known) & scenarios().keys())
    lines = [
        "# Proofs",
        "",
        "Written by `python -m tests.proofs` from the last test runs. A proof is a test that is green as the product",
        "stands and was seen to go red with its guard disabled; the texts are in [reliability.md](reliability.md).",
        "",
        f"**{done} of {len(scenarios())} are proven.** 🟢 proven · 🔴 not proven",
    ]
    section = ""
    for scenario in scenarios().values():
        if scenario.section != section:
            section = scenario.section
            lines += ["", f"## {section}", "", "| | Id | What happens | Guard | Test | Without the guard |"]
            lines += ["|---|---|---|---|---|---|"]
        rows = by_id.get(scenario.id, [])
        for place, (proof, seen) in enumerate(rows):
            mark = "🟢" if proven(seen) else "🔴"
            what = scenario.what if place == 0 else ""
            about = GUARDS[proof.guard].about if proof.guard in GUARDS else "no such guard"
            if seen.get("with") != "passed":
                how = f"with the guard: {seen.get('with', 'not run')}"
            else:
                # Only the kind of error: its text holds ids and counts that change from run to run.
                how = ", ".join(filter(None, (seen.get("without", "not run"), seen.get("how", "").partition(":")[0])))
            lines.append(
                f"| {mark} | {scenario.id} | {what} | `{proof.guard}`: {_cell(about)} | `{proof.test}` | {_cell(how)} |"
            )
        if not rows:
            lines.append(f"| 🔴 | {scenario.id} | {scenario.what} | | **unproven** | |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that cannot end its table cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Write docs/proofs.md, or with ``--check ID …`` say which of these ids are not proven."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=main.__doc__)
    parser.add_argument("--check", nargs="+", metavar="ID", help="exit 1 unless all of these are proven")
    chosen = parser.parse_args()
    known = read(RESULTS)
    done = proven_ids(known)
    if chosen.check:
        missing = [id for id in chosen.check if id not in done]
        if missing:
            print(f"not proven: {' '.join(missing)}")
        return 1 if missing else 0
    REPORT.write_text(render(known))
    print(f"{REPORT.relative_to(ROOT)}: {len(done & scenarios().keys())} of {len(scenarios())} proven")
    return 0


if __name__ == "__main__":
    sys.exit(main())
