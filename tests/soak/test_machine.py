"""Ten thousand acts, one after the other and at once: the long version of ``tests/billing/test_machine.py``.

``SOAK_ACTS`` sets another number. A failure is told with the steps that lead to it.
"""

import os
import time

import pytest
from hypothesis import Phase

from billing.invariants import server
from tests.billing.machine import Crowd, Machine, cast, play
from tests.books import Books
from tests.clocks import standing_still

ACTS = int(os.environ.get("SOAK_ACTS") or 10_000)
# An example has some thirty acts.
EXAMPLES = ACTS // 20 + 1

pytestmark = [pytest.mark.soak, pytest.mark.one_database]


@pytest.mark.parametrize("machine", [Machine, Crowd])
def test_books_equal_the_model_for_a_long_time(
    books: Books, machine: type[Machine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The server of the tests never syncs.
    monkeypatch.setitem(server.SETTINGS, "fsync", {"on", "off"})
    started = time.monotonic()
    # What happened at once does not happen so again: there is nothing to shrink.
    phases = (Phase.generate,) if machine is Crowd else (Phase.generate, Phase.shrink)
    with standing_still(books) as clock:
        acts = play(cast(machine, books=books, clock=clock), examples=EXAMPLES, phases=phases)
    with capsys.disabled():
        print(f"\n{machine.__name__}: {acts} acts, {time.monotonic() - started:.0f} s")
    assert acts >= ACTS
