"""``verify`` from the schedule: what it keeps, what it says, and what is sealed and exported after it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from billing import invariants, seals, tasks, verification
from billing.invariants import EVERYTHING
from billing.models import CheckRun
from core import clock
from ops.models import JobRun
from tests.billing.corruption import corrupt
from tests.billing.world import charge, organization, rows
from tests.books import Books
from tests.metering.world import event


def kept() -> dict[str, bool]:
    """The last result of each check, by id."""
    return {row.name.split()[0]: row.ok for row in CheckRun.objects.all()}


def job(name: str) -> tuple[bool | None, str]:
    """How a job's last run went, and what it said."""
    row = JobRun.objects.get(pk=name)
    return row.ok, row.result


def test_each_checks_last_result_is_kept(books: Books) -> None:
    before = clock.now()
    charge(organization("acme", usd="1"), event(event_id="one"))
    said = tasks.verify()
    assert said.startswith(f"{len(invariants.CHECKS)} checks passed in ")
    assert job("verify") == (True, said)
    assert kept() == {one.name.split()[0]: True for one in invariants.CHECKS}
    record = CheckRun.objects.get(name="V09 each record charged once")
    assert (record.seen, record.detail, record.everything) == (1, "", True)
    assert before <= record.began_at <= clock.now()
    corrupt(books, "UPDATE wallet SET spent_usd = 9 RETURNING 1")
    with pytest.raises(verification.Broken, match=r"^V01 wallet = transfers: 1 broken: wallet "):
        tasks.verify()
    ok, said = job("verify")
    assert (ok, said.startswith("Broken: V01 wallet = transfers: 1 broken: wallet ")) == (False, True)
    assert [name for name, fine in kept().items() if not fine] == ["V01"]
    corrupt(books, "UPDATE wallet SET spent_usd = 0.000362 RETURNING 1")
    tasks.verify()
    assert all(kept().values())


def test_a_check_that_is_no_more_leaves_the_list(books: Books) -> None:
    CheckRun.objects.create(name="V00 old", ok=False, seen=1, began_at=clock.now(), took_ms=1, everything=True)
    verification.verify(EVERYTHING)
    assert "V00" not in kept()


def test_a_run_of_what_is_new_says_so(books: Books) -> None:
    organization("acme", usd="1")
    day = seals.due()
    assert day is not None
    seals.seal(day)
    tasks.verify()
    assert set(CheckRun.objects.values_list("everything", flat=True)) == {False}


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Today is over, by this process's clock."""
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + timedelta(days=1, hours=1))


def test_the_last_day_is_sealed_once_and_exported(books: Books, tomorrow: None, tmp_path: Path) -> None:
    day = (clock.now() - timedelta(days=1)).date()
    path = tmp_path / "heads" / f"heads-{day}.jsonl"
    with override_settings(LEDGER_HEADS_DIR=tmp_path / "heads"):
        assert tasks.seal_ledger() == "nothing moved since the last seal; nothing to export"
        organization("acme", usd="1")
        assert tasks.seal_ledger() == f"sealed {day}: 1 wallets; exported to {path}"
        assert tasks.seal_ledger() == f"nothing was due; exported to {path}"
        path.unlink()
        assert tasks.seal_ledger() == f"nothing was due; exported to {path}"
    assert path.exists()
    with override_settings(LEDGER_HEADS_DIR=None):
        assert tasks.seal_ledger() == "nothing was due; not exported: LEDGER_HEADS_DIR is not set"


def test_what_is_not_clean_is_not_sealed_and_the_job_says_why(books: Books, tomorrow: None, tmp_path: Path) -> None:
    charge(organization("acme", usd="1"), event(event_id="one"))
    corrupt(books, "UPDATE wallet SET spent_usd = 9 RETURNING 1")
    with override_settings(LEDGER_HEADS_DIR=tmp_path), pytest.raises(seals.Unclean):
        tasks.seal_ledger()
    ok, said = job("seal_ledger")
    assert ok is False
    assert "is not sealed; V01 wallet = transfers: 1 broken: wallet " in said
    assert rows("SELECT count(*) FROM ledger_head") == [(0,)]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails_the_job_and_the_next_run_exports(
    books: Books, tomorrow: None, tmp_path: Path
) -> None:
    organization("acme", usd="1")
    blocked: Any = tmp_path / "file"
    blocked.write_text("in the way")
    with override_settings(LEDGER_HEADS_DIR=blocked), pytest.raises(OSError, match="file"):
        tasks.seal_ledger()
    assert rows("SELECT count(*) FROM ledger_head") == [(1,)]
    with override_settings(LEDGER_HEADS_DIR=tmp_path / "other"):
        assert tasks.seal_ledger().startswith("nothing was due; exported to ")
