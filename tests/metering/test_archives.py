"""Archived months: out of the tables and into files that hold every row, at any moment one or the other."""

import gzip
import hashlib
import io
import random
import threading
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, OperationalError, transaction
from django.test import override_settings
from psycopg.errors import IntegrityConstraintViolation

from billing import corrections, invariants
from core import clock, failpoints, ids
from core.errors import Conflict
from core.transactions import sqlstate
from metering import archives, partitions, tasks, usage
from metering.archives import BadArchive, Sum
from metering.models import ArchivedMonth, ArchivedSum
from tests import desk
from tests.billing.corruption import assert_only, broken, corrupt
from tests.billing.world import assert_sound, charge, organization, rows, statuses
from tests.books import Books
from tests.metering import bygone
from tests.metering.bygone import KEEP
from tests.metering.world import event
from tests.nursery import Nursery
from tests.orgs.world import BY
from tests.proofs import proves

AGO = 30
COST = Decimal("0.000362")
# What a file must not lose: what CSV quotes, what a spreadsheet runs, what looks like the end of a COPY.
NASTY = ['"', ",", "\n", "\r\n", "\\.", "\\N", "", " ", "=1+1", "'", "é\u2028漢字", "\t", "a" * 100]


def used(books: Books, *, months: tuple[int, ...] = (AGO,)) -> UUID:
    """An organization with three records of 362 millionths and a failure in each of these months; its id."""
    acme = organization("acme")
    for ago in months:
        bygone.open_month(ago)
        told = bygone.charge(acme, event(), event(), event(), event(status=429), ago=ago)
        assert statuses(told) == ["created"] * 4
    return UUID(str(acme.pk))


def archive(folder: Path) -> list[archives.Done]:
    return archives.archive(folder=folder, keep_months=KEEP)


def assert_guarded() -> None:
    """Partitions and guards are those of the release; only the test server's settings are not."""
    assert broken(server=True).keys() <= {"V35"}


def names(ago: int = AGO) -> tuple[str, str]:
    """The partitions of a month."""
    return partitions.name("usage_record", bygone.month(ago)), partitions.name("request_log", bygone.month(ago))


def test_an_old_month_becomes_two_files_two_rows_and_tables_of_their_own(books: Books, tmp_path: Path) -> None:
    acme = used(books)
    before = {name: rows(f"SELECT count(*) FROM {name}") for name in names()}
    done = archive(tmp_path)
    records, failures = names()
    month = bygone.month(AGO)
    assert done == [
        ("usage_record", month, f"{records}.csv.gz", 3, Decimal("0.001086")),
        ("request_log", month, f"{failures}.csv.gz", 1, Decimal(0)),
    ]
    assert before == {name: rows(f"SELECT count(*) FROM {name}") for name in names()}
    assert not {records, failures} & (partitions.existing("usage_record") | partitions.existing("request_log"))
    assert rows("SELECT count(*) FROM usage_record") == rows("SELECT count(*) FROM request_log") == [(0,)]
    for row in ArchivedMonth.objects.order_by("book"):
        raw = (tmp_path / row.file).read_bytes()
        assert row.sha256 == hashlib.sha256(raw).hexdigest()
        assert (tmp_path / f"{row.file}.sha256").read_text() == f"{row.sha256}  {row.file}\n"
        assert (row.month, row.dropped_at) == (month.date(), None)
        assert (row.first_id, row.end_id) == (ids.floor(month), ids.floor(partitions.month_start(month, plus=1)))
    found = ArchivedSum.objects.order_by("archived__book").values_list(
        "organization_id", "payer_id", "rows", "cost_usd"
    )
    assert list(found) == [(acme, acme, 1, 0), (acme, acme, 3, Decimal("0.001086"))]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".lock", *(f"{name}{end}" for name in names() for end in (".csv.gz", ".csv.gz.sha256"))]
    )
    assert_sound()
    assert_guarded()
    assert archive(tmp_path) == []


def test_a_month_that_is_kept_and_an_empty_one(books: Books, tmp_path: Path) -> None:
    acme = organization("acme")
    for ago in (KEEP, KEEP + 1):
        bygone.open_month(ago)
    bygone.charge(acme, event(), ago=KEEP)
    done = archive(tmp_path)
    assert [(one.book, one.month, one.rows) for one in done] == [
        ("usage_record", bygone.month(KEEP + 1), 0), ("request_log", bygone.month(KEEP + 1), 0),
    ]  # fmt: skip
    assert partitions.months("usage_record")[0] == bygone.month(KEEP)
    assert rows("SELECT count(*) FROM usage_record") == [(1,)]
    assert_sound()


def test_a_file_read_back_into_a_table_holds_every_row_as_it_was(books: Books, tmp_path: Path) -> None:
    acme = organization("acme")
    bygone.open_month(AGO)
    taken = [
        event(end_user=nasty or None, metadata={"note": nasty, "number": "1e400"}, provider=nasty, endpoint=None)
        for nasty in NASTY
    ]
    taken += [event(units={"images": 3}, input_tokens=0, cached_input_tokens=0, output_tokens=0, model="gpt-4o")]
    told = bygone.charge(acme, *taken, *(event(status=500, request_id=nasty, output_tokens=0) for nasty in NASTY),
        ago=AGO)  # fmt: skip
    assert set(statuses(told)) <= {"created", "quarantined"}
    archive(tmp_path)
    for book, name in zip(partitions.TABLES, names(), strict=True):
        assert rows(f"SELECT count(*) FROM {name}")[0][0] >= len(NASTY)
        with books.connect() as raw:
            raw.execute(f"CREATE TABLE back_{book} (LIKE {book})")
            # As docs/guides/retention.md says.
            with raw.cursor().copy(f"COPY back_{book} FROM STDIN (FORMAT csv, HEADER match)") as copy:
                copy.write(gzip.decompress((tmp_path / f"{name}.csv.gz").read_bytes()))
            for one, other in ((name, f"back_{book}"), (f"back_{book}", name)):
                assert raw.execute(f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other}").fetchall() == []


def test_the_same_rows_make_the_same_file(books: Books, tmp_path: Path) -> None:
    used(books)
    month = bygone.month(AGO)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        archives._export("usage_record", month, tmp_path / folder / "file")
    assert (tmp_path / "one" / "file").read_bytes() == (tmp_path / "two" / "file").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"0.000362000000", b"0.000363000000", 1),
        lambda text: b"\n".join(text.split(b"\n")[:-2]) + b"\n",
        lambda text: text + text.split(b"\n")[1] + b"\n",
        lambda text: text.replace(b"deepseek-chat", b"deepseek-shat", 1),
        lambda text: text.replace(b"cost_usd", b"cost_eur"),
        lambda text: b"",
        lambda text: text.replace(b"0.000362000000", b"NaN", 1),
    ],
    ids=["a cost", "a row less", "a row more", "a text", "a column", "nothing", "no number"],
)
def test_a_file_that_is_not_the_month_stops_it_from_going(
    books: Books, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    used(books)
    path = tmp_path / f"{names()[0]}.csv.gz"
    archives._export("usage_record", bygone.month(AGO), path)
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    left = path.read_bytes()
    with pytest.raises(BadArchive, match="move it away and run again"):
        archive(tmp_path)
    assert names()[0] in partitions.existing("usage_record")
    assert not ArchivedMonth.objects.exists()
    assert path.read_bytes() == left, "what somebody else may have put there stays"
    path.unlink()
    assert len(archive(tmp_path)) == 2
    assert_sound()


def test_a_file_that_is_cut_or_no_file_of_ours_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    packed = gzip.compress(b"organization_id,id\n" + b"0" * 1000)
    for raw in (packed[:-9], b"no gzip at all", gzip.compress(b"\xff\xfe"), gzip.compress(b'organization_id\n"')):
        path.write_bytes(raw)
        with pytest.raises(BadArchive, match="cannot be read"):
            archives.read(path)


def test_sums_are_by_organization_and_payer_and_exact(tmp_path: Path) -> None:
    one, two, other = (UUID(int=place) for place in (1, 2, 3))
    lines = ["organization_id,cost_usd,note,payer_id"]
    lines += [f'{one},12345678901.123456789012,"a\nb",{one}'] * 3
    lines += [f"{one},-0.000000000001,,{two}", f"{other},0.000000000000,,{other}"]
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    content = archives.read(path)
    assert content.rows == 5
    assert content.sums == {
        (one, one): Sum(3, Decimal("37037036703.370370367036")),
        (one, two): Sum(1, Decimal("-0.000000000001")),
        (other, other): Sum(1, Decimal(0)),
    }


PLACES = [name for name in failpoints.NAMES if name.startswith("archive.") and "drop" not in name]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("nth", [1, 2])
def test_who_dies_at_any_place_leaves_a_month_attached_or_archived_and_the_next_run_finishes(
    books: Books, nursery: Nursery, tmp_path: Path, place: str, nth: int
) -> None:
    used(books)
    before = {book: bygone.ids_of(book) for book in partitions.TABLES}
    ended = nursery.run("tests.metering.bygone:take_out", dies_at=place, nth=nth, folder=str(tmp_path))
    assert ended.died, ended
    out = {row.book for row in ArchivedMonth.objects.all()}
    # The first table went with its commit, the second with its own.
    assert len(out) == nth - (place != "archive.after_commit")
    for book, name in zip(partitions.TABLES, names(), strict=True):
        assert (name in partitions.existing(book)) == (book not in out)
        assert bygone.ids_of(book) == (set() if book in out else before[book])
        assert book not in out or archives.read(tmp_path / f"{name}.csv.gz").rows == len(before[book])
    assert_sound()
    assert_guarded()
    assert len(archive(tmp_path)) == 2 - len(out)
    assert ArchivedMonth.objects.count() == 2
    assert not list(tmp_path.glob("*.new"))
    assert_sound()


def test_who_dies_before_any_word_to_the_database_leaves_a_month_attached_or_archived(
    books: Books, nursery: Nursery, tmp_path: Path
) -> None:
    used(books)
    (tmp_path / "0").mkdir()
    word = 0
    while True:
        word += 1
        ended = nursery.run("tests.metering.bygone:take_out", dies_before_word=word, folder=str(tmp_path))
        if not ended.died:
            break
        for book, name in zip(partitions.TABLES, names(), strict=True):
            archived = ArchivedMonth.objects.filter(book=book).exists()
            assert archived != (name in partitions.existing(book)), f"word {word}"
    assert (ended.code, ArchivedMonth.objects.count()) == (0, 2), ended.error
    assert word > 20
    assert_sound()


def test_a_month_whose_file_is_not_what_was_archived_is_not_dropped(books: Books, tmp_path: Path) -> None:
    used(books)
    archive(tmp_path)
    # The log of failures goes first.
    for name, count in zip(reversed(names()), (1, 3), strict=True):
        path = tmp_path / f"{name}.csv.gz"
        good = path.read_bytes()
        for bad in (good[:-1] + bytes([good[-1] ^ 1]), good + b"\0", b"", None):
            path.unlink() if bad is None else path.write_bytes(bad)
            with pytest.raises(BadArchive, match="is kept in the database"):
                archives.drop(folder=tmp_path)
            assert rows(f"SELECT count(*) FROM {name}") == [(count,)]
            assert not ArchivedMonth.objects.filter(file=path.name, dropped_at__isnull=False).exists()
        path.write_bytes(good)


def test_who_dies_while_dropping_has_dropped_some_and_the_next_run_drops_the_rest(
    books: Books, nursery: Nursery, tmp_path: Path
) -> None:
    used(books)
    archive(tmp_path)
    records, failures = names()
    ended = nursery.run("tests.metering.bygone:drop", dies_at="archive.before_drop", nth=2, folder=str(tmp_path))
    assert ended.died, ended
    assert rows("SELECT to_regclass(%s)::text, to_regclass(%s)::text", records, failures) == [(records, None)]
    assert [one.book for one in archives.drop(folder=tmp_path)] == ["usage_record"]
    assert rows("SELECT to_regclass(%s)::text", records) == [(None,)]
    assert ArchivedMonth.objects.filter(dropped_at__isnull=False).count() == 2
    assert archives.drop(folder=tmp_path) == []
    assert_sound()
    assert_guarded()


def test_a_month_that_is_attached_is_never_dropped(books: Books, tmp_path: Path) -> None:
    used(books)
    archive(tmp_path)
    month = bygone.month(AGO)
    low, high = ids.floor(month), ids.floor(partitions.month_start(month, plus=1))
    rows(f"DROP TRIGGER append_only ON {names()[0]}")
    rows(f"ALTER TABLE usage_record ATTACH PARTITION {names()[0]} FOR VALUES FROM ('{low}') TO ('{high}')")
    with pytest.raises(AssertionError, match="is attached"):
        archives.drop(folder=tmp_path)
    assert rows("SELECT count(*) FROM usage_record") == [(3,)]


def test_what_was_taken_out_refuses_changes_like_the_books(books: Books, tmp_path: Path) -> None:
    used(books)
    archive(tmp_path)
    refused = [
        *(f"{verb} {name}{rest}" for name in names()
            for verb, rest in (("DELETE FROM", ""), ("TRUNCATE", ""), ("UPDATE", " SET source = 'x'"))),
        "DELETE FROM archived_month", "TRUNCATE archived_month CASCADE", "DELETE FROM archived_sum",
        "UPDATE archived_sum SET rows = 7", "TRUNCATE archived_sum",
    ]  # fmt: skip
    with books.connect() as owner:
        for attempt in refused:
            with pytest.raises(IntegrityConstraintViolation, match="append-only"):
                owner.execute(attempt)


def test_a_long_reader_keeps_a_month_attached_and_writers_go_on(
    books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = used(books)
    monkeypatch.setattr(archives, "DETACH_ATTEMPTS_MAX", 3)
    tries: list[str] = []

    def write() -> None:
        # Between two tries nobody waits in front of the writers.
        tries.append(statuses(books.together([lambda: charge(acme, event())])[0])[0])

    monkeypatch.setattr("metering.archives._pause", write)
    with books.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM usage_record")
        with pytest.raises(OperationalError) as refusal:
            archive(tmp_path)
        assert sqlstate(refusal.value) == "55P03"
        assert names()[0] in partitions.existing("usage_record")
        assert not ArchivedMonth.objects.exists()
    assert tries == ["created"] * 2
    assert_sound()
    # Gone between the second try and the third.
    with books.connect() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM usage_record")
        waits = iter((lambda: None, lambda: reader.execute("COMMIT")))
        monkeypatch.setattr("metering.archives._pause", lambda: next(waits)())
        assert len(archive(tmp_path)) == 2
    assert_sound()


@transaction.atomic
def detach() -> None:
    partitions.detach("usage_record", bygone.month(AGO))


def test_a_writer_waits_for_a_month_that_is_going_at_most_as_long_as_it_may_ask(books: Books) -> None:
    assert partitions.DETACH_LOCK_TIMEOUT_MS == 200
    used(books)
    seen: list[str] = []
    with books.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM usage_record")
        with pytest.raises(OperationalError):
            detach()
        with transaction.atomic():
            partitions.wait_at_most(partitions.DETACH_LOCK_TIMEOUT_MS)
            seen += [value for (value,) in rows("SHOW lock_timeout")]
    assert seen == ["200ms"]


def test_two_who_archive_at_once_take_each_month_out_once(books: Books, tmp_path: Path) -> None:
    used(books, months=(AGO, AGO + 1))
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert go_on.wait(30)

    def first() -> int:
        with failpoints.armed("archive.after_write", hold, nth=1):
            return len(archive(tmp_path))

    def second() -> int:
        assert inside.wait(30)
        try:
            with pytest.raises(archives.Busy):
                archive(tmp_path)
            with override_settings(USAGE_KEEP_MONTHS=KEEP, ARCHIVE_DIR=tmp_path):
                assert "Somebody else is archiving" in tasks.archive_months()
        finally:
            go_on.set()
        return 0

    assert books.together([first, second]) == [4, 0]
    assert ArchivedMonth.objects.count() == 4
    assert_sound()


def test_who_archives_into_another_folder_meanwhile_takes_nothing_out_twice(
    books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(books)
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_MS", 100)
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert go_on.wait(30)

    def first() -> int:
        with failpoints.armed("archive.before_detach", hold, nth=1):
            return len(archive(tmp_path / "one"))

    def second() -> int:
        assert inside.wait(30)
        try:
            with pytest.raises(OperationalError) as refusal:
                archive(tmp_path / "two")
        finally:
            go_on.set()
        assert sqlstate(refusal.value) == "55P03"
        return 0

    assert books.together([first, second]) == [2, 0]
    assert archive(tmp_path / "two") == []
    assert ArchivedMonth.objects.count() == 2
    assert_sound()


def test_memory_does_not_grow_with_the_month(books: Books, tmp_path: Path) -> None:
    acme = organization("acme")
    bygone.open_month(AGO)
    bygone.charge(acme, event(metadata={"note": "x" * 200}), ago=AGO)
    month, name = bygone.month(AGO), names()[0]
    low = ids.floor(month)
    peaks = []
    for count in (2_000, 40_000):
        rows("SET session_replication_role = replica")
        rows(
            # Without the OFFSET every column would build the row anew.
            f"INSERT INTO {name} SELECT (made.row).* FROM (SELECT jsonb_populate_record(r, jsonb_build_object('id',"
            f" lpad(to_hex(('x' || left(replace('{low}', '-', ''), 12))::bit(48)::bigint + 1 + {count} + i), 12, '0')"
            f" || '7000800000000000' || lpad(to_hex({count}), 4, '0'))) AS row"
            f" FROM {name} r, generate_series(1, {count}) i WHERE r.ctid = '(0,1)' OFFSET 0) made"
        )
        rows("SET session_replication_role = origin")
        path = tmp_path / f"{count}.csv.gz"
        tracemalloc.start()
        archives._export("usage_record", month, path)
        content = archives.read(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert content.rows > count
    # Twenty times the rows in the same memory; a row here is 600 bytes, so 40,000 of them are 24 MB.
    assert peaks[1] < 2 * peaks[0] < 12_000_000


def test_a_month_with_the_wrong_sums_is_seen(books: Books, tmp_path: Path) -> None:
    used(books)
    archive(tmp_path)
    names_of = corrupt(books, "UPDATE archived_sum SET cost_usd = cost_usd + 0.000000000001 WHERE cost_usd > 0"
        " RETURNING payer_id")  # fmt: skip
    assert_only("V09", names_of)


@proves("V09", guard="transfers_are_held_against_usage")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE archived_sum SET cost_usd = 0 WHERE cost_usd > 0 RETURNING payer_id",
        "UPDATE archived_sum SET payer_id = gen_random_uuid() WHERE cost_usd > 0 RETURNING payer_id",
        "DELETE FROM archived_sum WHERE cost_usd = 0 RETURNING 'request_log'",
        "UPDATE archived_month SET rows = rows + 1 RETURNING book",
        "UPDATE archived_month SET first_id = end_id, end_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'"
        " WHERE book = 'usage_record' RETURNING 'neither attached nor archived'",
    ],
    ids=["a sum", "a payer", "an organization gone", "rows", "another month"],
)
def test_books_that_do_not_agree_with_what_was_archived_are_seen(books: Books, tmp_path: Path, statement: str) -> None:
    used(books)
    archive(tmp_path)
    assert_only("V09", corrupt(books, statement))


def test_what_is_checked_each_hour_looks_at_months_once_and_a_full_check_at_all(books: Books, tmp_path: Path) -> None:
    used(books)
    archive(tmp_path)
    corrupt(books, "UPDATE archived_sum SET cost_usd = cost_usd + 1 WHERE cost_usd > 0 RETURNING 1")
    new = invariants.Scope(first=ids.floor(clock.now() - timedelta(hours=1)), deep=False)
    assert [one.name[:3] for one in invariants.check(new) if not one.ok] == ["V09"]
    later = invariants.Scope(first=ids.floor(clock.now() + timedelta(hours=1)), deep=False)
    assert [one for one in invariants.check(later) if not one.ok] == []
    assert broken().keys() == {"V09"}


def test_a_month_is_not_taken_out_in_the_middle_of_a_check(books: Books, tmp_path: Path) -> None:
    used(books)

    def take_out() -> None:
        rows("SET lock_timeout = '100ms'")
        with pytest.raises(Error) as refusal:
            detach()
        assert sqlstate(refusal.value) == "55P03"

    with invariants.snapshot():
        # Before it has looked at anything.
        books.together([take_out])
        assert [one for one in invariants.each() if not one.ok] == []


def test_claims_answer_for_what_is_archived_and_a_void_says_why_not(books: Books, tmp_path: Path) -> None:
    acme = organization("acme")
    bygone.open_month(AGO)
    sent, failed = event(), event(status=429)
    (first, _) = bygone.charge(acme, sent, failed, ago=AGO)
    archive(tmp_path)
    archives.drop(folder=tmp_path)
    told = charge(acme, sent, failed)
    assert statuses(told) == ["duplicate"] * 2
    assert (told[0].record_id, told[0].cost_usd) == (first.record_id, COST)
    assert first.record_id is not None
    assert usage.is_archived(ids.show("usage", first.record_id))
    with pytest.raises(Conflict, match="archived"):
        corrections.void(organization_id=acme.pk, event_id=sent.event_id, reason="late", by=BY)
    assert_sound()


def test_many_organizations_and_payers_are_summed_apart(books: Books, tmp_path: Path) -> None:
    bygone.open_month(AGO)
    chance = random.Random(5)
    wanted: dict[UUID, int] = {}
    for place in range(7):
        owner = organization(f"org-{place}")
        wanted[owner.pk] = chance.randint(1, 5)
        bygone.charge(owner, *(event() for _ in range(wanted[owner.pk])), ago=AGO, days=place)
    archive(tmp_path)
    found = ArchivedSum.objects.filter(archived__book="usage_record").values_list("payer_id", "rows", "cost_usd")
    assert {owner: (count, usd) for owner, count, usd in found} == {
        owner: (count, COST * count) for owner, count in wanted.items()
    }
    assert_sound()


def test_finance_reads_what_was_archived_and_cannot_change_it(books: Books, tmp_path: Path) -> None:
    used(books)
    archive(tmp_path)
    root = desk.superuser()
    records, failures = ArchivedMonth.objects.order_by("-book")
    listed = desk.read(root, desk.listing(ArchivedMonth))
    assert [row.file for row in listed.rows] == [failures.file, records.file]
    shown = desk.read(root, desk.page(records))
    assert records.sha256 in shown.text
    assert ["acme", "3", "0.001086"] in desk.cells(shown.text)


def told_by(*options: str) -> str:
    out = io.StringIO()
    call_command("archive_months", *options, stdout=out)
    return out.getvalue()


def test_the_command_and_the_job_do_nothing_until_it_is_said_how_much_is_kept(books: Books, tmp_path: Path) -> None:
    used(books)
    with override_settings(ARCHIVE_DIR=tmp_path):
        assert tasks.archive_months() == "off: USAGE_KEEP_MONTHS is not set"
        with pytest.raises(CommandError, match="USAGE_KEEP_MONTHS"):
            told_by()
        assert told_by("--drop") == "Nothing to drop.\n"
    assert names()[0] in partitions.existing("usage_record")


def test_the_command_takes_out_and_drops_in_two_steps(books: Books, tmp_path: Path) -> None:
    used(books)
    records, failures = names()
    with override_settings(ARCHIVE_DIR=tmp_path, USAGE_KEEP_MONTHS=KEEP):
        assert told_by() == (
            f"{records}: 3 rows, 0.001086 USD, taken out to {tmp_path}/{records}.csv.gz\n"
            f"{failures}: 1 rows, 0 USD, taken out to {tmp_path}/{failures}.csv.gz\n"
        )
        assert told_by() == "No month is due.\n"
        path = tmp_path / f"{records}.csv.gz"
        good = path.read_bytes()
        path.write_bytes(b"")
        with pytest.raises(CommandError, match="is kept in the database"):
            told_by("--drop")
        assert rows("SELECT to_regclass(%s)::text, to_regclass(%s)::text", records, failures) == [(records, None)]
        path.write_bytes(good)
        assert told_by("--drop") == f"{records}: 3 rows, 0.001086 USD, dropped, is in {path}\n"


def test_the_job_takes_out_what_is_due_and_says_so(books: Books, tmp_path: Path) -> None:
    used(books)
    records, failures = names()
    with override_settings(ARCHIVE_DIR=tmp_path, USAGE_KEEP_MONTHS=KEEP):
        assert tasks.archive_months() == f"{records}: 3 rows, 0.001086 USD; {failures}: 1 rows, 0 USD"
        assert tasks.archive_months() == "nothing was due"


def test_a_month_that_is_not_in_the_rollups_yet_stays(books: Books, tmp_path: Path) -> None:
    used(books, months=(AGO, AGO + 1))
    rows("UPDATE rollup_mark SET folded_until = %s", bygone.month(AGO) + timedelta(days=9))
    assert {one.month for one in archive(tmp_path)} == {bygone.month(AGO + 1)}
    assert names()[0] in partitions.existing("usage_record")


def test_fewer_than_two_years_cannot_be_asked_for() -> None:
    with pytest.raises(AssertionError):
        archives.due(keep_months=23)
