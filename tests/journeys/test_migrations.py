"""A migration that meets a busy table: who waits, for how long, and what is left of it."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
from django.core.management import CommandError, call_command
from django.db import migrations
from django.db.migrations.loader import MigrationLoader

from core.management.commands import prepare
from tests.billing.world import charge, organization, rows, statuses
from tests.books import Books
from tests.journeys.test_outages import WAITS, wait_for
from tests.metering.world import event
from tests.proofs import proves

LOCK_MS = 1_000
# Whoever is held up longer than two seconds, three times in a row, is put off.
SECONDS = 6
COLUMN = (
    "SELECT count(*) FROM information_schema.columns WHERE table_name LIKE 'usage_record%' AND column_name = 'note'"
)


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next release has one more migration, of the busiest table."""
    load = MigrationLoader.load_disk

    def with_one_more(self: Any) -> None:
        load(self)
        last = max(name for app, name in self.disk_migrations if app == "metering")

        class Note(migrations.Migration):
            dependencies: ClassVar = [("metering", last)]
            operations: ClassVar = [migrations.RunSQL("ALTER TABLE usage_record ADD COLUMN note text")]

        self.disk_migrations["metering", "9999_note"] = Note("9999_note", "metering")

    monkeypatch.setattr(MigrationLoader, "load_disk", with_one_more)


@pytest.mark.usefixtures("one_more")
@proves("D10", guard="migrations_wait_briefly")
def test_a_migration_that_meets_a_busy_table_gives_up_and_holds_up_nobody_for_long(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = organization("acme", usd="1")
    # Without the guard it is 0, and stays so.
    monkeypatch.setattr(prepare, "MIGRATION_LOCK_TIMEOUT_MS", min(LOCK_MS, prepare.MIGRATION_LOCK_TIMEOUT_MS))

    def migrate() -> list[str]:
        with pytest.raises(CommandError, match="lock timeout"):
            call_command("prepare", stdout=io.StringIO())
        return []

    def charged() -> list[str]:
        # Behind the migration, which waits for the report.
        assert wait_for(books, WAITS, seconds=SECONDS)
        return statuses(charge(acme, event()))

    with books.connect() as report, report.transaction():
        report.execute("SELECT count(*) FROM usage_record")
        calls: list[Callable[[], list[str]]] = [migrate, *[partial(charged)] * 3]
        assert books.together(calls, seconds=SECONDS) == [[], ["created"], ["created"], ["created"]]
        assert rows(COLUMN) == [(0,)]
        assert rows("SELECT count(*) FROM django_migrations WHERE name = '9999_note'") == [(0,)]
    # Nobody reads any more: it is done, on all months.
    call_command("migrate", interactive=False, verbosity=0)
    assert rows(COLUMN)[0][0] > 3
    assert statuses(charge(acme, event())) == ["created"]
