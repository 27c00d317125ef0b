"""The databases of tests: separate, committed, gone afterwards, and changed by guards."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.db import DEFAULT_DB_ALIAS, IntegrityError, connection, connections, transaction

from tests import books as own_books
from tests import conftest, database, guards
from tests.books import Books
from tests.database import Server, setting_names


def rows(query: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall()) if cursor.description else []


def names_of_databases(books: Books) -> set[str]:
    with books.connect() as raw:
        return {name for (name,) in raw.execute("SELECT datname FROM pg_database")}


@pytest.fixture
def toll(books: Books) -> Books:
    """A small table in the test's own database."""
    rows(
        "CREATE TABLE toll (id int CONSTRAINT toll_once UNIQUE, amount int CONSTRAINT toll_positive CHECK (amount > 0))"
    )
    rows("CREATE UNIQUE INDEX toll_small_once ON toll (amount) WHERE amount < 5")
    rows(
        "CREATE FUNCTION refuse_toll() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'tolls stay' USING ERRCODE = '23514'; END$$"
    )
    rows("CREATE TRIGGER toll_kept BEFORE DELETE ON toll FOR EACH ROW EXECUTE FUNCTION refuse_toll()")
    return books


def test_the_shared_database_is_migrated_and_rolled_back_first_half(db: None) -> None:
    assert rows("SELECT count(*) FROM django_migrations")[0][0] > 0
    assert rows("SELECT to_regclass('left_behind')") == [(None,)]
    rows("CREATE TABLE left_behind (id int)")


def test_the_shared_database_is_migrated_and_rolled_back_second_half(db: None) -> None:
    assert rows("SELECT to_regclass('left_behind')") == [(None,)]
    rows("CREATE TABLE left_behind (id int)")


def test_books_commit_into_a_database_of_their_own(books: Books, database_server: Server) -> None:
    rows("CREATE TABLE kept (id int)")
    with transaction.atomic(durable=True):
        rows("INSERT INTO kept VALUES (1)")
    with books.connect() as raw:
        assert raw.execute("SELECT id FROM kept").fetchall() == [(1,)]
    assert rows("SELECT current_database()") == [(books.name,)]
    assert books.name not in {database_server.main, database_server.template}


def test_every_thread_is_led_to_the_books(books: Books) -> None:
    found = books.together([lambda: rows("SELECT current_database()")[0][0]] * 4)
    assert found == [books.name] * 4


def test_threads_start_together_and_their_errors_reach_the_test(books: Books) -> None:
    def divide() -> None:
        raise KeyError("deliberate")

    with pytest.raises(ExceptionGroup) as caught:
        books.together([divide, lambda: None])
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


def test_a_thread_that_does_not_come_back_fails_the_test(books: Books) -> None:
    hold = threading.Event()
    with pytest.raises(AssertionError, match="together-0"):
        books.together([hold.wait], seconds=0.1)
    hold.set()


def test_a_database_is_dropped_after_its_test_even_when_somebody_is_connected(
    database_server: Server, template: str, django_db_blocker: Any
) -> None:
    with django_db_blocker.unblock():
        with own_books.opened(server=database_server, number=0) as own:
            stray = psycopg.connect(own.url)
            stray.execute("SELECT 1")
            assert own.name in names_of_databases(own)
        with pytest.raises(psycopg.OperationalError):
            stray.execute("SELECT 1")
        stray.close()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(own.url)


def test_the_seeded_rows_come_with_every_copy(books: Books) -> None:
    assert rows("SELECT count(*) FROM role")[0][0] > 0
    assert rows("SELECT count(*) FROM model")[0][0] > 0
    assert rows("SELECT count(*) FROM price")[0][0] > 0


def item(*fixtures: str, marker: pytest.Mark | None = None) -> Any:
    return SimpleNamespace(nodeid="test_it", fixturenames=fixtures, get_closest_marker=lambda name: marker)


@pytest.mark.parametrize("fixture", ["transactional_db", "live_server", "django_db_reset_sequences"])
def test_a_fixture_that_would_flush_is_refused(fixture: str) -> None:
    with pytest.raises(pytest.UsageError, match="refuse TRUNCATE"):
        conftest.refuse_wrong_database(item(fixture))


@pytest.mark.parametrize("mark", [pytest.mark.django_db(True), pytest.mark.django_db(transaction=True)])
def test_a_marker_that_would_flush_is_refused(mark: pytest.MarkDecorator) -> None:
    with pytest.raises(pytest.UsageError, match="refuse TRUNCATE"):
        conftest.refuse_wrong_database(item(marker=mark.mark))


def test_the_two_kinds_of_database_do_not_mix() -> None:
    with pytest.raises(pytest.UsageError, match="not for both"):
        conftest.refuse_wrong_database(item("books", "db"))
    with pytest.raises(pytest.UsageError, match="not for both"):
        conftest.refuse_wrong_database(item("books", marker=pytest.mark.django_db.mark))
    conftest.refuse_wrong_database(item("books"))
    conftest.refuse_wrong_database(item("db", marker=pytest.mark.django_db(databases=["default"]).mark))


def test_a_fixture_that_would_flush_fails_when_asked_for_late(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.UsageError, match="TRUNCATE"):
        request.getfixturevalue("transactional_db")


def test_a_constraint_can_be_taken_away(toll: Books) -> None:
    rows("INSERT INTO toll VALUES (1, 9)")
    with pytest.raises(IntegrityError):
        rows("INSERT INTO toll VALUES (1, 8)")
    with guards.without_constraint("toll", "toll_once"), guards.without_constraint("toll", "toll_positive"):
        rows("INSERT INTO toll VALUES (1, -8)")


def test_a_unique_index_can_be_taken_away(toll: Books) -> None:
    rows("INSERT INTO toll VALUES (1, 1)")
    with pytest.raises(IntegrityError):
        rows("INSERT INTO toll VALUES (2, 1)")
    with guards.without_constraint("toll", "toll_small_once"):
        rows("INSERT INTO toll VALUES (2, 1)")


def test_a_trigger_can_be_taken_away(toll: Books) -> None:
    rows("INSERT INTO toll VALUES (1, 9)")
    with pytest.raises(IntegrityError):
        rows("DELETE FROM toll")
    with guards.without_trigger("toll", "toll_kept"):
        rows("DELETE FROM toll")


@pytest.mark.parametrize("builder", [guards.without_constraint, guards.without_trigger])
def test_taking_away_what_is_not_there_is_an_error(toll: Books, builder: Any) -> None:
    with pytest.raises(LookupError, match="nothing named toll_never"), builder("toll", "toll_never"):
        pass


def test_constraints_are_only_taken_from_a_database_of_the_tests_own(db: None) -> None:
    with (
        pytest.raises(RuntimeError, match="ask for the `books` fixture"),
        guards.without_constraint("organization", "organization_slug_rule"),
    ):
        pass


def test_sql_can_be_rewritten_in_all_threads(books: Books) -> None:
    with guards.rewritten("41", "42"):
        assert rows("SELECT 41") == [(42,)]
        assert books.together([lambda: rows("SELECT 41")] * 2) == [[(42,)], [(42,)]]
        with books.connect() as raw:
            assert raw.execute(psycopg.sql.SQL("SELECT {}").format(41)).fetchall() == [(42,)]
            with raw.cursor().copy("COPY (SELECT 41) TO STDOUT") as copy:
                assert [bytes(part) for part in copy] == [b"42\n"]
    assert rows("SELECT 41") == [(41,)]


def test_rewriting_what_is_never_sent_is_an_error(books: Books) -> None:
    with pytest.raises(LookupError, match="never sent"), guards.rewritten("never sent", ""):
        rows("SELECT 1")


def test_settings_of_the_callers_environment_do_not_reach_the_tests() -> None:
    assert {"DATABASE_URL", "SECRET_KEY", "CELERY_BROKER_URL", "HTTPS"} <= setting_names()


def test_one_settings_dict_serves_the_connections_of_all_threads(books: Books) -> None:
    mine = connections[DEFAULT_DB_ALIAS].settings_dict
    (theirs,) = books.together([lambda: connections[DEFAULT_DB_ALIAS].settings_dict])
    assert theirs is mine


def test_the_folder_of_a_killed_run_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    dead, alive = (tmp_path / f"{database.FOLDER_PREFIX}{name}" for name in ("dead", "alive"))
    dead.mkdir()
    alive.mkdir()
    database.hold(dead).close()
    with database.hold(alive):
        database.sweep(tmp_path)
        assert not dead.exists()
        assert alive.exists()


def test_a_setting_for_the_run_is_taken_from_its_test_name_only(database_server: Server) -> None:
    names = ("DATABASE_URL", "DATA_DIR", "CELERY_BROKER_URL", "SECRET_KEY", "ALLOWED_HOSTS", "HTTPS", "LOG_LEVEL")
    shell = dict.fromkeys(names, "postgresql://somewhere/real_books")
    with mock.patch.dict(os.environ, {**shell, "TEST_LOG_LEVEL": "ERROR"}):
        database.prepare(database_server)
        assert "real_books" not in "".join(os.environ[name] for name in database.setting_names() & set(os.environ))
        assert "HTTPS" not in os.environ
        assert os.environ["LOG_LEVEL"] == "ERROR"
