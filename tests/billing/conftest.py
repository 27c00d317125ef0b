"""What all tests of the books share: a server that may forget, and the count of corruptions that were seen."""

from typing import Any

import pytest

from billing.invariants import server
from tests.billing import corruption
from tests.billing.months import calendar

__all__ = ["calendar"]


@pytest.fixture(autouse=True)
def _forgetful_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the tests never syncs; a test of its own looks at one that does."""
    monkeypatch.setitem(server.SETTINGS, "fsync", {"on", "off"})


@pytest.fixture(autouse=True)
def _counting(disabled_guard: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without its guard is not about what was seen."""
    monkeypatch.setattr(corruption, "counting", disabled_guard is None)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many corruptions were seen by the check that is there for them, and by no other."""
    if corruption.tried:
        kinds = len({id for ids in corruption.seen for id in ids.split()})
        terminalreporter.write_line(
            f"seeded corruptions: {len(corruption.seen)} of {len(corruption.tried)} seen, by {kinds} checks"
        )
