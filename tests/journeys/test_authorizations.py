"""Authorizations from many connections at once, against the real server with two workers (``tests.soak`` runs more)."""

from collections.abc import Callable

import pytest

from tests.books import Books
from tests.journeys import admissions
from tests.journeys.admissions import Place
from tests.orgs import world
from tests.proofs import proves
from tests.server import WebServer

RUNS = 3


@proves("W04", guard="holds_are_guarded")
def test_of_two_hundred_at_once_a_wallet_admits_exactly_what_it_covers(books: Books, server: WebServer) -> None:
    gateway = world.service_key("authorizations:write").secret
    for run in range(RUNS):
        admissions.race(books, server, admissions.limited_by_wallet(f"wallet-{run}"), gateway=gateway)


@proves("W04", guard="what_is_held_counts_against_ceilings")
@pytest.mark.parametrize("limited", [admissions.limited_by_key, admissions.limited_by_project])
def test_of_two_hundred_at_once_a_ceiling_admits_exactly_what_fits(
    books: Books, server: WebServer, limited: Callable[[str], Place]
) -> None:
    gateway = world.service_key("authorizations:write").secret
    for run in range(RUNS):
        admissions.race(books, server, limited(f"ceiling-{run}"), gateway=gateway)
