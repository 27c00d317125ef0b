"""Seals: which day, what they keep, when there is none; their export; and what they let a check leave out."""

import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from billing import invariants, seals
from billing.invariants import EVERYTHING, Scope, heads
from billing.invariants.heads import Head
from billing.seals import Sealed
from core import clock, ids
from orgs.models import Organization
from tests.billing.corruption import corrupt, rechain, tamper
from tests.billing.world import assert_sound, charge, organization, rows, side_by_side
from tests.books import Books
from tests.metering.world import COST, event
from tests.proofs import proves

DAY = timedelta(days=1)
PICO = "0.000000000001"


def today() -> date:
    """The day (UTC) by the database's clock."""
    found: date = rows("SELECT (now() AT TIME ZONE 'UTC')::date")[0][0]
    return found


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's clock is a day and an hour ahead, so today is final."""
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + DAY + timedelta(hours=1))


def sealed() -> list[tuple[Any, ...]]:
    """The seals: whose, of which day, at what number, with how much."""
    return rows(
        "SELECT o.slug, h.day, h.seq, h.posted_usd, h.overdraft_usd, h.spent_usd FROM ledger_head h"
        " JOIN organization o ON o.id = h.organization_id ORDER BY o.slug, h.day"
    )


@pytest.mark.parametrize(
    ("at", "day"),
    [
        ("2026-03-01T00:00:59", date(2026, 2, 27)),
        ("2026-03-01T00:01:00", date(2026, 2, 28)),
        ("2026-03-01T23:59:59", date(2026, 2, 28)),
    ],
)
def test_a_day_is_due_a_minute_after_its_end(db: None, monkeypatch: pytest.MonkeyPatch, at: str, day: date) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime.fromisoformat(at).replace(tzinfo=UTC))
    assert seals.due() == day
    with pytest.raises(AssertionError, match="is not final"):
        seals.seal(day + DAY)


def test_a_seal_keeps_where_each_wallet_stands_and_the_next_one_who_moved_since(books: Books, tomorrow: None) -> None:
    acme, idle = organization("acme", usd="2"), organization("idle", usd="3")
    organization("never")
    first, second, third = (today() - DAY * before for before in (2, 1, 0))
    assert seals.seal(first) == Sealed(first, 2)
    charge(acme, event())
    assert seals.seal(second) == Sealed(second, 1)
    assert sealed() == [
        ("acme", first, 1, 2, 0, 0),
        ("acme", second, 2, 2 - Decimal(COST), 0, Decimal(COST)),
        ("idle", first, 1, 3, 0, 0),
    ]
    assert rows("SELECT h.digest = t.digest FROM ledger_head h JOIN transfer t USING (organization_id, seq)") == [
        (True,), (True,), (True,),
    ]  # fmt: skip
    # Nobody moved: nothing to keep, so the day stays open and its check is made again.
    assert seals.seal(third) == Sealed(third, 0)
    assert seals.last_day() == second
    assert idle.pk in {one.organization_id for one in heads.read(exported(books))}
    assert_sound()


def exported(books: Books) -> Path:
    """The heads in a file of their own."""
    path = seals.export(folder=folder(books))
    assert path is not None
    return path


def folder(books: Books) -> Path:
    """A place for a test's files."""
    from django.conf import settings

    return Path(settings.DATA_DIR).joinpath(books.name)


def test_books_that_are_not_clean_are_not_sealed(books: Books, tomorrow: None) -> None:
    acme = organization("acme", usd="2")
    charge(acme, event(event_id="one"))
    corrupt(books, "DELETE FROM usage_claim WHERE event_id = 'one' RETURNING 1")
    with pytest.raises(seals.Unclean, match="is not sealed; V10 claims = records: 1 broken: record") as refused:
        seals.seal(today())
    assert [finding.name for finding in refused.value.broken] == ["V10 claims = records"]
    assert sealed() == []


def test_a_day_is_sealed_by_its_own_records_only(books: Books) -> None:
    acme = organization("acme", usd="2")
    charge(acme, event(event_id="one"))
    corrupt(books, "DELETE FROM usage_claim WHERE event_id = 'one' RETURNING 1")
    # Today is not what yesterday's seal is about.
    assert seals.seal(today() - DAY).wallets == 1


def test_two_that_seal_at_once_leave_one_seal(books: Books, tomorrow: None) -> None:
    for place in range(5):
        organization(f"org-{place}", usd="1")
    day = today()
    done = side_by_side(books, *(lambda: seals.seal(day) for _ in range(4)))
    assert sorted(one.wallets for one in done) == [0, 0, 0, 5]
    assert len(sealed()) == 5
    assert_sound()


def new() -> dict[str, int]:
    """How much each check of what is new has looked at."""
    return {one.name.split()[0]: one.seen for one in invariants.check(seals.since_last())}


def ids_of(findings: list[invariants.Finding]) -> set[str]:
    """The checks that fail."""
    return {one.name.split()[0] for one in findings if not one.ok}


def test_without_a_seal_everything_is_new(books: Books) -> None:
    assert seals.since_last() == EVERYTHING
    assert seals.of_day(date(2026, 3, 1)) == Scope(
        UUID("019ca6b1-dc00-0000-0000-000000000000"), UUID("019cabd8-3800-0000-0000-000000000000"), False, True
    )


def test_after_a_seal_only_what_is_new_is_read_and_wallets_are_followed_from_their_heads(books: Books) -> None:
    acme = organization("acme", usd="2")
    charge(acme, event(event_id="one"), event(event_id="two"))
    seals.seal(today() - DAY)
    charge(acme, event(event_id="three"))
    # The seal is of yesterday, so all records of today are new; of the transfers, the one after it.
    seen = new()
    assert {name: seen[name] for name in ("V01", "V02", "V09", "V31", "V32")} == {
        "V01": 1, "V02": 1, "V09": 3, "V31": 1, "V32": 1,
    }  # fmt: skip
    assert ids_of(invariants.check(seals.since_last())) == set()
    corrupt(books, "UPDATE usage_claim SET cost_usd = 1 WHERE event_id = 'one' RETURNING 1")
    assert ids_of(invariants.check(seals.since_last())) == {"V10"}


def test_what_was_wrong_before_the_seal_is_for_a_full_run(books: Books, tomorrow: None) -> None:
    acme = organization("acme", usd="2")
    charge(acme, event(event_id="one"))
    seals.seal(today())
    assert new() | {"V09": 0, "V02": 0, "V10": 0, "V11": 0} == new()
    corrupt(books, "UPDATE usage_claim SET cost_usd = 1 WHERE event_id = 'one' RETURNING 1")
    assert ids_of(invariants.check(seals.since_last())) == set()
    assert ids_of(invariants.check(seals.of_day(today() - DAY))) == set()
    assert ids_of(invariants.check(seals.of_day(today()))) == {"V10"}
    assert ids_of(invariants.check(EVERYTHING)) == {"V10"}


AFTER: list[tuple[str, str]] = [
    ("V01", f"UPDATE wallet SET spent_usd = spent_usd + {PICO}"),
    ("V02", "UPDATE wallet SET seq = seq + 1"),
    ("V03", "UPDATE transfer SET kind = 'refund' WHERE seq = 3"),
    ("V05", f"UPDATE wallet SET overdraft_usd = overdraft_usd + {PICO}"),
    ("V09", "UPDATE usage_record SET transfer_id = gen_random_uuid() WHERE event_id = 'two'"),
    ("V11", "UPDATE usage_record SET input_tokens = 999 WHERE event_id = 'two'"),
    ("V27", "UPDATE usage_record SET payer_id = payer_id, project_id = '00000000-0000-0000-0000-000000000001'"
        " WHERE event_id = 'two'"),
    ("V32", "UPDATE ledger_head SET seq = 99"),
]  # fmt: skip


@pytest.mark.parametrize(("id", "statement"), AFTER)
def test_a_corruption_after_the_seal_is_seen_by_a_run_of_what_is_new(books: Books, id: str, statement: str) -> None:
    acme, other = organization("acme", usd="2"), organization("other")
    charge(acme, event(event_id="one"))
    seals.seal(today() - DAY)
    charge(acme, event(event_id="two"))
    tamper(
        books,
        "INSERT INTO project (id, organization_id, name, created_at) VALUES ('00000000-0000-0000-0000-000000000001',"
        f" '{other.pk}', 'theirs', now()) RETURNING 1",
    )
    corrupt(books, f"{statement} RETURNING 1")
    assert id in ids_of(invariants.check(seals.since_last()))


def test_what_is_exported_is_every_wallets_last_head_with_the_sum_of_the_lines(books: Books, tomorrow: None) -> None:
    assert seals.export(folder=folder(books)) is None
    acme, idle = organization("acme", usd="2"), organization("idle", usd="3.5")
    first, second = today() - DAY, today()
    seals.seal(first)
    charge(acme, event())
    seals.seal(second)
    path = exported(books)
    assert path.name == f"heads-{second}.jsonl"
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    *lines, end = [json.loads(line) for line in path.read_text().splitlines()]
    digests = dict(rows("SELECT organization_id, head FROM wallet"))
    wanted = [
        {
            "organization": ids.show("org", owner.pk), "day": day.isoformat(), "seq": seq,
            "digest": bytes(digests[owner.pk]).hex(), "posted_usd": posted, "overdraft_usd": "0", "spent_usd": spent,
        }
        for owner, day, seq, posted, spent in (
            (acme, second, 2, "1.999638", "0.000362"), (idle, first, 1, "3.5", "0"),
        )
    ]  # fmt: skip
    assert lines == sorted(wanted, key=lambda line: str(line["organization"]))
    assert (end["sealed"], end["heads"], len(end["sha256"])) == (second.isoformat(), 2, 64)
    # Written once: what stands there is not touched again.
    before = path.stat().st_mtime_ns
    assert exported(books) == path
    assert path.stat().st_mtime_ns == before


HEAD = Head(UUID(int=7), date(2026, 3, 1), 12, b"\x01\xff", Decimal("1.5"), Decimal(0), Decimal("0.25"))


def test_a_file_of_heads_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    for written in ([HEAD, HEAD._replace(seq=13)], []):
        path.write_text(heads.write(written, sealed=date(2026, 3, 2)))
        assert heads.read(path) == written


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"seq": 12', '"seq": 11'), "was changed or cut off"),
        (lambda text: text.replace('"heads": 1', '"heads": 2'), "was changed or cut off"),
        (lambda text: text.splitlines()[0] + "\n", "is no file of exported heads"),
        (lambda text: text + text.splitlines()[0] + "\n", "is no file of exported heads"),
        (lambda text: "", "is no file of exported heads"),
        (lambda text: "[]\n[]\n", "is no file of exported heads"),
        (lambda text: text.replace("org_", "key_"), "is no file of exported heads"),
        (lambda text: text.replace('"1.5"', '"1e9"'), "is no file of exported heads"),
    ],
    ids=["another number", "another count", "cut off", "more lines", "empty", "other JSON", "another id", "no amount"],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "heads"
    path.write_text(change(heads.write([HEAD], sealed=date(2026, 3, 2))))
    with pytest.raises(heads.BadHeads, match=said):
        heads.read(path)
    with pytest.raises(CommandError, match=said):
        call_command("verify", "--heads", str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("verify", "--heads", str(tmp_path / "none"))


def against(path: Path) -> set[str]:
    """The checks that fail where the books are held against exported heads too."""
    return ids_of(invariants.check(more=heads.against(heads.read(path))))


@pytest.fixture
def acme(books: Books, tomorrow: None) -> Organization:
    """An organization whose day was sealed after two grants."""
    made = organization("acme", usd="2")
    organization("other", usd="1")
    charge(made, event())
    seals.seal(today())
    return made


def test_books_stand_by_their_exported_heads_whatever_comes_later(books: Books, acme: Organization) -> None:
    path = exported(books)
    charge(acme, event())
    assert against(path) == set()


@proves("V31", guard="transfers_are_chained")
def test_only_the_exported_heads_know_a_past_that_was_rewritten_with_its_seals(
    books: Books, acme: Organization
) -> None:
    path = exported(books)
    corrupt(books, f"UPDATE transfer SET reason = 'another' WHERE organization_id = '{acme.pk}' RETURNING 1")
    assert_sound()
    assert against(path) == {"V31"}


@proves("V31", guard="transfers_are_chained")
def test_only_the_exported_heads_know_what_a_seal_said(books: Books, acme: Organization) -> None:
    path = exported(books)
    corrupt(books, f"DELETE FROM ledger_head WHERE organization_id = '{acme.pk}' RETURNING 1")
    assert_sound()
    assert against(path) == {"V31"}


@proves("V32", guard="seals_are_compared")
def test_only_the_exported_heads_know_books_that_were_put_back_to_an_older_copy(
    books: Books, acme: Organization
) -> None:
    path = exported(books)
    whose = f"organization_id = '{acme.pk}'"
    corrupt(
        books,
        f"DELETE FROM ledger_head WHERE {whose}",
        f"DELETE FROM usage_claim WHERE {whose}",
        f"DELETE FROM usage_record WHERE {whose}",
        f"DELETE FROM grant_use WHERE {whose}",
        f"DELETE FROM transfer WHERE {whose} AND seq = 2",
        f"UPDATE credit_grant SET remaining_usd = 2 WHERE {whose}",
        f"UPDATE wallet SET posted_usd = 2, spent_usd = 0, seq = 1 WHERE {whose} RETURNING 1",
    )
    assert_sound()
    assert against(path) == {"V32"}


def test_the_command_takes_a_day_everything_and_a_file(books: Books, acme: Organization) -> None:
    path = exported(books)
    other = Organization.objects.get(slug="other")
    with books.connect() as raw:
        raw.execute("SET session_replication_role = replica")
        raw.execute("UPDATE transfer SET actor = 'nobody' WHERE organization_id = %s", (other.pk,))
        rechain(raw)

    def fails(*options: str) -> set[str]:
        told = io.StringIO()
        code: Any = 0
        try:
            call_command("verify", "--json", *options, stdout=told)
        except SystemExit as end:
            code = end.code
        said = json.loads(told.getvalue())
        assert said.keys() == {"ok", "checks"}
        assert all(one.keys() == {"name", "ok", "seen", "detail"} for one in said["checks"])
        assert (said["ok"], code) in {(True, 0), (False, 1)}
        return {one["name"] for one in said["checks"] if not one["ok"]}

    assert fails() == fails("--full") == fails("--day", str(today())) == set()
    assert fails("--heads", str(path)) == {"V31 chain leads to the exported heads"}
    tamper(books, f"UPDATE transfer SET reason = 'x' WHERE organization_id = '{acme.pk}' AND seq = 1 RETURNING 1")
    assert (fails(), fails("--full")) == (set(), {"V31 chain of digests"})
    with pytest.raises(CommandError, match="not allowed with"):
        call_command("verify", "--full", "--day", str(today()))
    with pytest.raises(CommandError, match="'2026-13-01' is no day such as 2026-11-21"):
        call_command("verify", "--day", "2026-13-01")
