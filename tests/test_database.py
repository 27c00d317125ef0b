"""A run of tests on a server that is given: its databases are made there, and gone afterwards."""

import os
import subprocess
import sys

import psycopg
import pytest

from tests.database import ROOT, Cluster, Server, elsewhere, on_cluster

SECONDS_MAX = 120


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of its own of some tests."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "TEST_GROUPING": "", "TEST_CITUS": "", **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def databases(server: Server) -> set[str]:
    """The databases of a server by name."""
    with psycopg.connect(server.url("postgres")) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


@pytest.fixture
def given(database_server: Server) -> Server:
    """The server of this run, to be given to another."""
    if on_cluster():
        pytest.skip("about a server that is no cluster")
    return database_server


def test_tests_run_on_a_server_that_is_given_and_leave_nothing_there(given: Server) -> None:
    before = databases(given)
    done = run(
        "tests/test_grouping.py",
        "tests/test_books.py::test_threads_start_together_and_their_errors_reach_the_test",
        TEST_DATABASE_URL=given.url("postgres"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "own databases: 1" in done.stdout
    assert databases(given) == before


def test_a_server_that_is_given_as_a_cluster_must_be_one(given: Server) -> None:
    done = run("tests/test_grouping.py", TEST_DATABASE_URL=given.url("postgres"), TEST_CITUS="1")
    assert done.returncode != 0
    assert "has no Citus extension" in done.stdout


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"TEST_CITUS": "yes"}, "TEST_CITUS='yes' should be 1 or absent"),
        ({"TEST_CITUS": "1", "TEST_DATABASE_URL": ""}, "TEST_CITUS=1 needs TEST_DATABASE_URL"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(environment: dict[str, str], complaint: str) -> None:
    done = run("tests/test_grouping.py", **environment)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert complaint in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("coordinator", "worker"),
    [
        ("postgresql://ada:secret@one:5432/postgres", "postgresql://ada:secret@two:5433/postgres"),
        ("postgresql://one/postgres", "postgresql://two:5433/postgres"),
        ("postgresql://ada@one/x?sslmode=require", "postgresql://ada@two:5433/x?sslmode=require"),
        ("postgresql://postgres@%2Frun%2Fpg/x?host=/run&port=1", "postgresql://postgres@two:5433/x"),
    ],
)
def test_a_workers_address_is_the_coordinators_elsewhere(coordinator: str, worker: str) -> None:
    assert elsewhere(coordinator, host="two", port=5433) == worker


def test_a_cluster_is_asked_for_its_nodes_before_anything_is_made(given: Server) -> None:
    cluster = Cluster(given.url("postgres"))
    try:
        with pytest.raises(pytest.UsageError, match="no Citus extension"):
            cluster.start()
    finally:
        cluster.stop()
