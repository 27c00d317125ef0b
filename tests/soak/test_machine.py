"""Ten thousand acts, one after the other and at once: the long version of ``tests/billing/test_machine.py``.

``SOAK_ACTS`` sets another number. A failure is told with the steps that lead to it.
"""

import os
import time

import pytest

from billing.invariants import server
from tests.billing.machine import Crowd, Machine, cast, play, play_at_once
from tests.books import Books
from tests.clocks import standing_still

ACTS = int(os.environ.get("SOAK_ACTS") or 10_000)
# An example has some thirty acts.
EXAMPLES = ACTS // 20 + 1

pytestmark = [pytest.mark.soak, pytest.mark.one_database]


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the tests never syncs."""
    monkeypatch.setitem(server.SETTINGS, "fsync", {"on", "off"})


def test_books_equal_the_model_for_a_long_time(books: Books, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with standing_still(books) as clock:
        acts = play(cast(Machine, books=books, clock=clock), examples=EXAMPLES)
    with capsys.disabled():
        print(f"\none after the other: {acts} acts, {time.monotonic() - started:.0f} s")
    assert acts >= ACTS


def test_books_equal_the_model_in_some_order_for_a_long_time(books: Books, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with standing_still(books) as clock:
        acts = play_at_once(cast(Crowd, books=books, clock=clock), acts=ACTS)
    with capsys.disabled():
        print(f"\nat once: {acts} acts, {time.monotonic() - started:.0f} s")
    assert acts >= ACTS
