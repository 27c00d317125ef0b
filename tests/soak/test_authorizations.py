"""Twenty races each for the last of a wallet, of a key's ceiling and of a project's: the long version of
``tests/journeys/test_authorizations.py``.
"""

import time
from collections.abc import Callable

import pytest

from tests.books import Books
from tests.journeys import admissions
from tests.journeys.admissions import FITTING, REQUESTS, Place
from tests.orgs import world
from tests.server import WebServer

RUNS = 20

pytestmark = pytest.mark.soak


@pytest.mark.parametrize(
    "limited", [admissions.limited_by_wallet, admissions.limited_by_key, admissions.limited_by_project]
)
def test_exactly_what_fits_is_admitted_every_time(
    books: Books, server: WebServer, limited: Callable[[str], Place], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = world.service_key("authorizations:write").secret
    started = time.monotonic()
    for run in range(RUNS):
        admissions.race(books, server, limited(f"race-{run}"), gateway=gateway)
    with capsys.disabled():
        took = time.monotonic() - started
        print(f"\n{limited.__name__}: {FITTING} of {REQUESTS} admitted in {RUNS} of {RUNS} races, {took:.0f} s")
