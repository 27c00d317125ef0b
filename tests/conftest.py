"""Fixtures of every test: the two kinds of database, and caches that start empty.

* ``db`` (or ``@pytest.mark.django_db``): one shared database, rolled back. For most tests.
* ``books``: a database of the test's own, where it may commit, use threads and child processes,
  and drop constraints. About a twentieth of a second.

Both start from the same template: migrated, seeded with the catalog, made once a run.
"""

import io
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import admitted, quick
from tests import books as own_books
from tests.books import Books
from tests.database import ROOT, Cluster, Server, server_key

pytest_plugins = ("tests.proofs", "tests.server", "tests.grouping", "tests.nursery", "tests.clocks", "tests.doors")

SEED = ROOT / "metering" / "seed" / "catalog.json"
# On a cluster: enough for several nodes, and made quickly.
SHARDS = 4
admitted.install()
quick.install()
_FLUSHING = {"transactional_db", "live_server", "django_db_reset_sequences", "django_db_serialized_rollback"}
_numbers = itertools.count(1)
_template_seconds: list[float] = []


@pytest.fixture(scope="session")
def database_server(request: pytest.FixtureRequest) -> Server:
    """The run's PostgreSQL, started."""
    server = request.config.stash[server_key]
    server.start()
    return server


@pytest.fixture(scope="session")
def template(database_server: Server, django_test_environment: None, django_db_blocker: Any) -> str:
    """The database that every other is a copy of: migrated and seeded, nobody connected."""
    started = time.perf_counter()
    server = database_server

    def fill(database: str) -> None:
        with django_db_blocker.unblock():
            own_books.point(database=database, url=server.url(database))
            fill_database()
            own_books.point(database=server.main, url=server.url(server.main))

    server.create(server.template)
    fill(server.template)
    if isinstance(server, Cluster):
        server.fill = fill
    forget_caches()
    _template_seconds.append(time.perf_counter() - started)
    return server.template


def fill_database() -> None:
    """Migrate and seed the database that Django is led to, and distribute it where it is a cluster's."""
    from django.core.management import call_command
    from django.db import connection

    from billing import distribution

    call_command("migrate", verbosity=0, interactive=False)
    call_command("load_prices", str(SEED), "--publish", verbosity=0, stdout=io.StringIO())
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    distribution.distribute(shards=SHARDS)
    # Asked here, it is no query of the test that would be the first to ask.
    distribution.is_spread()


@pytest.fixture(scope="session")
def django_db_setup(database_server: Server, template: str) -> None:
    """pytest-django's shared database: a copy of the template, no second migration."""
    database_server.create(database_server.main, template=template)


@pytest.fixture
def books(database_server: Server, template: str, django_db_blocker: Any) -> Iterator[Books]:
    """A database of the test's own, dropped afterwards."""
    with django_db_blocker.unblock(), own_books.opened(server=database_server, number=next(_numbers)) as own:
        yield own


@pytest.fixture
def transactional_db() -> None:
    """Refused: it would TRUNCATE books that forbid it."""
    raise pytest.UsageError("use `books`: the books refuse the TRUNCATE that transactional_db ends with")


@pytest.fixture(autouse=True)
def _fresh_caches() -> None:
    """What one test made a process remember must not answer in the next."""
    forget_caches()


def forget_caches() -> None:
    """Empty the in-process caches of the product and of Django."""
    from django.core.cache import cache

    from orgs import caches

    cache.clear()
    caches.forget_all()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse what cannot work, before the first test runs."""
    for item in items:
        refuse_wrong_database(item)


def refuse_wrong_database(item: pytest.Item) -> None:
    """Raises ``pytest.UsageError`` for a test that would flush, or that asks for both kinds of database."""
    fixtures = set(getattr(item, "fixturenames", ()))
    marker = item.get_closest_marker("django_db")
    if fixtures & _FLUSHING or (marker and (marker.args or set(marker.kwargs) - {"databases"})):
        raise pytest.UsageError(f"{item.nodeid}: the books refuse TRUNCATE; use the `books` fixture")
    if "books" in fixtures and (marker or "db" in fixtures):
        raise pytest.UsageError(f"{item.nodeid}: ask for `db` or for `books`, not for both")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the databases cost; above pytest's own last line."""
    if _template_seconds:
        terminalreporter.write_line(f"template database: {_template_seconds[0]:.2f} s")
    if own_books.clones:
        middle = statistics.median(own_books.clones) * 1000
        worst = max(own_books.clones) * 1000
        terminalreporter.write_line(
            f"own databases: {len(own_books.clones)}, median {middle:.0f} ms, slowest {worst:.0f} ms"
        )


@pytest.fixture(autouse=True)
def _ids_of_today() -> Iterator[None]:
    """A test in which the clock went ahead leaves no ids of that future to the next one."""
    from core import ids

    before = ids._last
    yield
    ids._last = before
