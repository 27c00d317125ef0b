"""Backups: a dump is good when it was restored and its copy is sound, and what is wrong with another is told."""

import io
import subprocess
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from billing import backups
from billing.invariants.heads import Head
from core.embedded import postgres_bin
from tests.billing.world import charge, organization, rows
from tests.books import Books
from tests.metering.world import event
from tests.proofs import proves


def dump(books: Books, to: Path, *options: str) -> Path:
    """A dump of the books, as the guide to recovery makes it."""
    subprocess.run(
        [postgres_bin() / "pg_dump", "--format=custom", f"--file={to}", *options, books.url], check=True, timeout=60
    )
    return to


def broken(dumped: Path, **more: Any) -> set[str]:
    """The ids of the checks that fail on the copy."""
    return {finding.name.split()[0] for finding in backups.check(dumped, **more) if not finding.ok}


def databases() -> int:
    """How many the server has."""
    return int(rows("SELECT count(*) FROM pg_database")[0][0])


@proves("D09", guard="restored_copies_are_verified")
def test_a_backup_is_good_when_its_copy_is_sound_and_no_sooner(books: Books, tmp_path: Path) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event(), event())
    before = databases()
    whole = dump(books, tmp_path / "whole")
    assert broken(whole) == set()
    # What was exported last is newer: the copy is an old one.
    ahead = Head(acme.pk, date(2026, 11, 21), 100, b"", Decimal(1), Decimal(0), Decimal(0))
    assert broken(whole, exported=[ahead]) == {"V32"}
    # A table was left out, by somebody who found it large.
    assert broken(dump(books, tmp_path / "part", "--exclude-table-data=usage_record_*")) >= {"V09", "V10"}
    assert databases() == before
    assert rows("SELECT count(*) FROM usage_record") == [(2,)]


def test_the_command_says_how_many_checks_passed_and_what_cannot_be_restored(books: Books, tmp_path: Path) -> None:
    told = io.StringIO()
    call_command("check_backup", str(dump(books, tmp_path / "whole")), stdout=told)
    assert "restored; " in told.getvalue()
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "whole").read_bytes()[:5000])
    before = databases()
    for wrong in (cut, tmp_path / "nowhere"):
        with pytest.raises(CommandError, match="cannot be restored: pg_restore: "):
            call_command("check_backup", str(wrong))
    assert databases() == before
    assert connection.settings_dict["NAME"] == books.name
