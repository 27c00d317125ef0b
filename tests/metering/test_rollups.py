"""Rollups: folded once, whole or not at all, and what they say is what the records say."""

import io
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import clock, failpoints, ids
from metering import partitions, rollups, tasks, usage
from metering.buckets import window
from metering.rollups import Only
from tests.billing.world import charge, organization, part_of, rows
from tests.books import Books
from tests.metering import records
from tests.metering.records import QUARTER, record, write
from tests.metering.world import event
from tests.nursery import Nursery
from tests.proofs import proves

# A quarter's start.
NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LAST = UUID(int=(1 << 128) - 1)


def floor(at: datetime) -> UUID:
    return ids.floor(at)


# Where the records that match lie


def stretches(of: UUID, **chosen: Any) -> list[tuple[UUID, UUID]] | None:
    asked: dict[str, Any] = {"below": None, "above": None, "rows": 10, "ascending": False, "model": "rare", **chosen}
    return rollups.stretches(organization_id=of, **asked)


@pytest.fixture
def acme(db: None) -> UUID:
    """Four hours from noon, folded: the rare model in the 1st, 2nd, 9th and 16th quarter, others in each."""
    acme, other = (UUID(str(organization(slug).pk)) for slug in ("acme", "other"))
    own = [record(acme, NOON + QUARTER * place, model="common") for place in range(16)]
    rare = [record(acme, NOON + QUARTER * place + MINUTE, model="rare") for place in (0, 1, 1, 8, 15)]
    write(*own, *rare, *(record(other, NOON + QUARTER * place, model="rare") for place in range(16)))
    records.fold(start=NOON, until=NOON + 16 * QUARTER)
    return acme


def quarters(first: int, last: int) -> tuple[UUID, UUID]:
    """Ids of the quarters from one to another, counted from noon; both count."""
    return floor(NOON + QUARTER * first), floor(NOON + QUARTER * (last + 1))


TAIL = (floor(NOON + 16 * QUARTER), LAST)


def test_rare_records_lie_in_their_quarters_and_perhaps_in_what_is_not_folded(acme: UUID) -> None:
    assert stretches(acme) == [(quarters(15, 15)[0], LAST), quarters(8, 8), quarters(0, 1)]
    assert stretches(acme, ascending=True) == [quarters(0, 1), quarters(8, 8), (quarters(15, 15)[0], LAST)]


def test_no_more_quarters_are_named_than_the_rows_need(acme: UUID) -> None:
    # Newest first: one in the 16th, one in the 9th, two in the 2nd.
    assert stretches(acme, rows=1) == [(quarters(15, 15)[0], LAST)]
    assert stretches(acme, rows=2) == [(quarters(15, 15)[0], LAST), quarters(8, 8)]
    assert stretches(acme, rows=4) == [(quarters(15, 15)[0], LAST), quarters(8, 8), quarters(1, 1)]
    assert stretches(acme, rows=3, ascending=True) == [quarters(0, 1)]
    assert stretches(acme, rows=4, ascending=True) == [quarters(0, 1), quarters(8, 8)]


def test_a_quarter_that_the_cursor_cuts_counts_for_nothing(acme: UUID) -> None:
    cut = floor(NOON + QUARTER * 8 + 5 * MINUTE)
    assert stretches(acme, below=cut, rows=1) == [(quarters(8, 8)[0], cut), quarters(1, 1)]
    assert stretches(acme, above=cut, rows=1, ascending=True) == [(cut, quarters(8, 8)[1]), quarters(15, 15)]
    assert stretches(acme, above=cut, below=quarters(14, 14)[1], ascending=True) == [(cut, quarters(8, 8)[1])]


def test_nothing_is_named_where_nothing_matches(acme: UUID) -> None:
    assert stretches(acme, model="unheard-of") == [TAIL]
    assert stretches(acme, model="unheard-of", below=TAIL[0]) == []
    assert stretches(acme, below=quarters(0, 0)[0]) == []
    assert stretches(acme, source="dev_tools", below=TAIL[0], ascending=True) == []
    assert stretches(organization("later").pk, below=TAIL[0]) == []


def test_without_a_filter_there_is_nothing_to_skip(acme: UUID) -> None:
    assert stretches(acme, model=None) is None


def test_any_id_may_be_a_bound(acme: UUID) -> None:
    assert stretches(acme, below=LAST) == [(quarters(15, 15)[0], LAST), quarters(8, 8), quarters(0, 1)]
    assert stretches(acme, above=LAST, ascending=True) == []
    assert stretches(acme, below=UUID(int=0)) == []


def test_stretches_take_as_many_queries_whatever_there_is(acme: UUID, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        stretches(acme, rows=100)
    with django_assert_num_queries(2):
        stretches(acme, rows=1, ascending=True)


# Folding


def rolled() -> list[tuple[Any, ...]]:
    """Every rollup: whose, when, of which model, its counts and costs."""
    return rows(
        "SELECT o.slug, starts_at, model, records, requests, input_tokens, cached_input_tokens, output_tokens,"
        " cost_usd, provider_cost_usd FROM usage_rollup JOIN organization o ON o.id = organization_id"
        " ORDER BY 1, 2, 3, service_tier NULLS FIRST, batch, source"
    )


def used() -> list[tuple[Any, ...]]:
    """The same of the records that the mark lies behind, added up by the database as a whole."""
    return rows(
        "SELECT o.slug, to_timestamp(floor(extract(epoch FROM recorded_at) / 900) * 900), model, count(*),"
        " count(*) FILTER (WHERE corrects_id IS NULL) - count(*) FILTER (WHERE input_tokens < 0), sum(input_tokens),"
        " sum(cached_input_tokens), sum(output_tokens), sum(cost_usd), coalesce(sum(provider_cost_usd), 0)"
        " FROM usage_record JOIN organization o ON o.id = organization_id, rollup_mark"
        " WHERE recorded_at < folded_until"
        " GROUP BY 1, 2, 3, service_tier, batch, source ORDER BY 1, 2, 3, service_tier NULLS FIRST, batch, source"
    )


COUNTS = {"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 5}
PICO = Decimal("0.000000000001")


def test_a_quarter_is_summed_by_all_that_tells_usage_apart(db: None) -> None:
    acme = organization("acme").pk
    apart: dict[str, Any] = {
        "api_key_id": UUID(int=1), "member_id": UUID(int=2), "project_id": UUID(int=3), "source": "dev_tools",
        "service_tier": "flex", "batch": True, "model": "other",
    }  # fmt: skip
    usd = {"cost_usd": PICO, "provider_cost_usd": Decimal("0.5")}
    write(
        record(acme, NOON - timedelta(milliseconds=1), **COUNTS),
        record(acme, NOON, **COUNTS, **usd),
        record(acme, NOON + QUARTER - timedelta(milliseconds=1), **COUNTS, **usd),
        *(record(acme, NOON, **COUNTS, **{name: value}) for name, value in apart.items()),
        record(acme, NOON + QUARTER, **COUNTS),
        record(acme, NOON + 2 * QUARTER, **COUNTS),
    )
    records.fold(start=NOON, until=NOON + 2 * QUARTER)
    names = ("api_key_id", "member_id", "project_id", "source", "service_tier", "batch", "model")
    plain = dict(zip(names, (None, None, None, "api_key", None, False, "gpt-4o"), strict=True))
    found = rows(f"SELECT starts_at, records, {', '.join(names)} FROM usage_rollup")
    expected = [(NOON, 2, plain), (NOON + QUARTER, 1, plain)]
    expected += [(NOON, 1, {**plain, name: value}) for name, value in apart.items()]
    assert sorted(found, key=str) == sorted(((at, many, *group.values()) for at, many, group in expected), key=str)
    (whole,) = rows(
        "SELECT records, requests, input_tokens, cached_input_tokens, output_tokens, cost_usd, provider_cost_usd"
        " FROM usage_rollup WHERE records = 2"
    )
    assert whole == (2, 2, 20, 8, 10, 2 * PICO, Decimal(1))
    assert rows("SELECT sum(records), min(place), max(place) FROM usage_rollup") == [(10, 1, 8)]


def test_a_void_takes_its_request_back_and_a_new_price_does_not(db: None) -> None:
    acme = organization("acme").pk
    (first, second) = write(record(acme, NOON, input_tokens=7), record(acme, NOON, units={"searches": 2}))
    write(
        record(acme, NOON, input_tokens=-7, corrects_id=first),
        record(acme, NOON, units={"searches": -2}, corrects_id=second),
        record(acme, NOON, cost_usd=Decimal("-0.5"), corrects_id=first),
    )
    records.fold(start=NOON, until=NOON + QUARTER)
    assert rolled() == [("acme", NOON, "gpt-4o", 5, 0, 0, 0, 0, Decimal("-0.5"), 0)]


def test_only_whole_quarters_are_folded_a_minute_after_their_end(db: None) -> None:
    acme = organization("acme").pk
    write(*(record(acme, NOON + QUARTER * place) for place in range(3)))
    records.mark(NOON)
    for late, quarters in ((timedelta(seconds=59), 1), (timedelta(seconds=60), 2), (QUARTER, 2), (QUARTER + MINUTE, 3)):
        # As if the third quarter began so long ago.
        with records.final_until(NOON + 2 * QUARTER + late - MINUTE):
            assert rollups.fold().until == NOON + quarters * QUARTER
        assert len(rolled()) == quarters
    assert usage.FINAL_AFTER == MINUTE


def test_a_long_rest_is_made_up_for_in_bounded_steps(db: None) -> None:
    acme = organization("acme").pk
    write(*(record(acme, NOON + timedelta(hours=hour)) for hour in range(6)))
    records.mark(NOON)
    with records.final_until(NOON + timedelta(hours=6)):
        assert rollups.fold(seconds=0) == (NOON + timedelta(hours=1), 1)
        assert rollups.fold(seconds=0) == (NOON + timedelta(hours=2), 1)
        assert rollups.fold() == (NOON + timedelta(hours=6), 4)
        assert rollups.fold() == (NOON + timedelta(hours=6), 0)
    assert rolled() == used()
    assert len(rolled()) == 6


def test_a_clock_that_goes_back_moves_no_mark(db: None) -> None:
    records.mark(NOON)
    with records.final_until(NOON - timedelta(days=1)):
        assert rollups.fold() == (NOON, 0)
    assert rollups.folded_until() == NOON


def test_a_quarter_without_rows_is_one_in_which_nothing_was_used(db: None) -> None:
    records.fold(start=NOON, until=NOON + 4 * QUARTER)
    later = organization("later").pk
    write(record(later, NOON + 4 * QUARTER, **COUNTS))
    hour = [NOON + QUARTER * place for place in range(6)]
    (only,) = rollups.sums(organization_id=later, edges=hour, rows=10)
    assert (only.bucket, only.requests) == (4, 1)
    records.fold(start=NOON + 4 * QUARTER, until=NOON + 5 * QUARTER)
    assert rollups.sums(organization_id=later, edges=hour, rows=10) == [only]


def test_a_step_takes_as_many_queries_whatever_it_folds(db: None, django_assert_num_queries: Any) -> None:
    for count in (1, 30):
        of = [organization(f"org-{count}-{place}").pk for place in range(count)]
        write(*(record(one, NOON, model=f"model-{place}") for one in of for place in range(count)))
        records.mark(NOON)
        with records.final_until(NOON + QUARTER), django_assert_num_queries(7):
            rollups.fold()
    assert len(rolled()) == 901


def test_the_job_says_up_to_where_it_folded(db: None) -> None:
    records.mark(NOON)
    with records.final_until(NOON + 8 * QUARTER):
        assert tasks.fold_rollups() == "folded until 2026-11-10 14:00 in 2 steps"
    assert rows("SELECT ok, result FROM job_run WHERE name = 'fold_rollups'") == [
        (True, "folded until 2026-11-10 14:00 in 2 steps")
    ]


def test_quarters_are_counted_again_where_records_came_behind_the_mark(db: None) -> None:
    acme = organization("acme").pk
    write(*(record(acme, NOON + QUARTER * place, **COUNTS) for place in range(8)))
    records.fold(start=NOON, until=NOON + 6 * QUARTER)
    write(*(record(acme, NOON + QUARTER * place, model="late") for place in (0, 3, 7)))
    assert rolled() != used()
    assert rollups.refold(start=NOON + 3 * QUARTER + MINUTE, end=NOON + 5 * QUARTER + MINUTE) == 3
    assert [(at, model) for _, at, model, *_ in rolled() if model == "late"] == [(NOON + 3 * QUARTER, "late")]
    assert rollups.refold(start=NOON + 6 * QUARTER, end=NOON + 9 * QUARTER) == 0
    # Nine days and a half, and six quarters; months that are not attached are left alone.
    told = io.StringIO()
    call_command("refold_rollups", "--since", "2026-11-01T00:00:00+00:00", stdout=told)
    oldest = partitions.months("usage_record")[0]
    assert rollups.refold(start=datetime(2001, 1, 1, tzinfo=UTC), end=oldest + timedelta(hours=1)) == 4
    assert told.getvalue() == "918 quarters of an hour were counted again\n"
    assert rolled() == used()
    assert rollups.folded_until() == NOON + 6 * QUARTER


@pytest.mark.parametrize("since", ["yesterday", "2026-11-01T00:00:00"])
def test_a_time_to_count_again_needs_a_zone(db: None, since: str) -> None:
    with pytest.raises(CommandError, match=since):
        call_command("refold_rollups", "--since", since)


# I19


@pytest.fixture
def day(books: Books) -> Books:
    """Two hours of usage of three organizations, nothing of it folded; the mark at noon."""
    for slug in ("acme", "other", "third"):
        of = organization(slug).pk
        write(*(record(of, NOON + 5 * MINUTE * place, **COUNTS, model=f"model-{place % 3}") for place in range(24)))
    records.mark(NOON)
    return books


END = NOON + 8 * QUARTER


@proves("I19", guard="rollups_are_replaced")
def test_folding_three_times_counts_once(day: Books) -> None:
    for _ in range(3):
        records.fold(start=NOON, until=END)
        assert rolled() == used()
    rollups.refold(start=NOON, end=END)
    assert rolled() == used()
    assert len(rolled()) == 72


@proves("I19", guard="one_run_folds")
def test_of_several_runs_at_once_one_folds(day: Books) -> None:
    inside, others_are_back = threading.Event(), threading.Event()

    def first() -> Any:
        with failpoints.armed("fold.after_rows", wait, nth=1):
            return rollups.fold(seconds=0)

    def wait() -> None:
        inside.set()
        assert others_are_back.wait(20)

    def second() -> Any:
        assert inside.wait(20)
        try:
            return rollups.fold(seconds=0)
        finally:
            others_are_back.set()

    with records.final_until(END):
        assert day.together([first, second]) == [(NOON + timedelta(hours=1), 1), (None, 0)]
        # All at once, until everything is folded.
        found = day.together([rollups.fold] * 4)
        assert sum(one.steps for one in found) <= 1
        rollups.fold()
    assert rollups.folded_until() == END
    assert rolled() == used()


@proves("I19", guard="rows_and_mark_move_together")
def test_a_run_that_is_killed_in_a_step_leaves_nothing_of_it(
    day: Books, nursery: Nursery, disabled_guard: str | None
) -> None:
    folding: dict[str, Any] = {
        "call": "tests.metering.records:fold_on",
        "until": END.isoformat(),
        "without": disabled_guard,
    }
    ended = nursery.run(dies_at="fold.after_rows", nth=2, **folding)
    assert ended.died, ended
    assert rollups.folded_until() == NOON + rollups.STEP
    assert rolled() == used()
    assert len(rolled()) == 36
    with records.final_until(END):
        rollups.fold()
    assert rolled() == used()
    assert len(rolled()) == 72


def test_a_run_that_is_killed_between_steps_is_taken_up_where_it_was(day: Books, nursery: Nursery) -> None:
    ended = nursery.run("tests.metering.records:fold_on", dies_at="fold.after_commit", until=END.isoformat())
    assert ended.died, ended
    assert rollups.folded_until() == NOON + rollups.STEP
    assert rolled() == used()
    with records.final_until(END):
        rollups.fold()
    assert rolled() == used()
    assert len(rolled()) == 72


@proves("I19", guard="only_final_usage_is_folded")
def test_what_commits_late_is_not_skipped(books: Books) -> None:
    acme = organization("acme")
    charge(acme, event(event_id="early"))
    with books.connect() as late, late.transaction():
        late.execute(
            "INSERT INTO usage_record SELECT (jsonb_populate_record(r, jsonb_build_object('event_id', 'late',"
            " 'id', %s::text, 'recorded_at', now()))).* FROM usage_record r",
            [str(next(ids.run(at=clock.now())))],
        )
        rollups.fold()
    start = rollups.floor(clock.now() - timedelta(hours=1))
    (found,) = rollups.sums(organization_id=acme.pk, edges=[start, start + timedelta(hours=3)], rows=2)
    assert (found.requests, found.output_tokens) == (2, 400)


# Sums


def test_sums_take_two_queries_whatever_they_add_up(acme: UUID, django_assert_num_queries: Any) -> None:
    for edges in ([NOON, NOON + MINUTE], [NOON - MINUTE, NOON + QUARTER, NOON + 20 * QUARTER]):
        for by in ([], ["user_id", "model", "batch"]):
            with django_assert_num_queries(2):
                rollups.sums(organization_id=acme, edges=edges, by=by, rows=10)
    with django_assert_num_queries(1):
        rollups.sums(organization_id=acme, edges=[NOON + MINUTE * place for place in range(9)], rows=10)


def test_people_are_told_apart_whatever_their_membership(db: None) -> None:
    acme = organization("acme").pk
    first, again, other = (part_of(acme, "member") for _ in range(3))
    users = dict(rows("SELECT id, user_id FROM member"))
    rows("UPDATE member SET removed_at = now() WHERE id = %s", first)
    rows("UPDATE member SET user_id = %s WHERE id = %s", users[first], again)
    write(*(record(acme, NOON, member_id=member) for member in (first, again, other, None)))
    records.fold(start=NOON, until=NOON + QUARTER)
    asked: dict[str, Any] = {"organization_id": acme, "edges": [NOON, NOON + QUARTER], "by": ["user_id"], "rows": 9}
    found = rollups.sums(**asked)
    assert [(one.group, one.requests) for one in found] == [
        *sorted([((users[first],), 2), ((users[other],), 1)]), ((None,), 1),
    ]  # fmt: skip
    found = rollups.sums(**asked, only=Only(user_ids=[users[first]]))
    assert [(one.group, one.requests) for one in found] == [((users[first],), 2)]
    assert rollups.sums(**asked, only=Only(user_ids=[users[other]], member_id=first)) == []


def test_memberships_are_told_apart_and_the_dearest_can_come_first(db: None) -> None:
    acme = organization("acme").pk
    first, other = sorted(part_of(acme, "member") for _ in range(2))
    write(
        record(acme, NOON, member_id=first, cost_usd=Decimal("0.1")),
        record(acme, NOON, member_id=other, cost_usd=Decimal("0.2")),
        record(acme, NOON, cost_usd=Decimal("0.15")),
    )
    records.fold(start=NOON, until=NOON + QUARTER)
    asked: dict[str, Any] = {"organization_id": acme, "edges": [NOON, NOON + QUARTER], "by": ["member_id"]}
    assert [one.group for one in rollups.sums(**asked, rows=9)] == [(first,), (other,), (None,)]
    dearest = rollups.sums(**asked, rows=2, dearest_first=True)
    assert [(one.group, one.cost_usd) for one in dearest] == [((other,), Decimal("0.2")), ((None,), Decimal("0.15"))]


def test_no_more_sums_come_than_were_asked_for(acme: UUID) -> None:
    edges = [NOON + QUARTER * place for place in range(17)]
    found = rollups.sums(organization_id=acme, edges=edges, by=["model"], rows=3)
    assert [(one.bucket, one.group, one.requests) for one in found] == [
        (0, ("common",), 1), (0, ("rare",), 1), (1, ("common",), 1),
    ]  # fmt: skip


# Two days in which Berlin has one of 25 hours.
AUTUMN = datetime(2026, 10, 24, 12, tzinfo=UTC)
SPAN = timedelta(days=2)
moments = st.integers(0, SPAN // timedelta(seconds=1) * 1000 - 1).map(lambda ms: AUTUMN + timedelta(milliseconds=ms))
KEYS = (None, UUID(int=1), UUID(int=2))


@st.composite
def used_records(draw: st.DrawFn) -> dict[str, Any]:
    """Columns of a record, or of what takes one back."""
    sign = draw(st.sampled_from((1, 1, 1, -1)))
    made = {name: sign * draw(st.integers(1, 2**31 - 1)) for name in COUNTS}
    return {
        "at": draw(moments), **made, "cost_usd": sign * draw(st.integers(1, 10**22)) * PICO,
        "model": draw(st.sampled_from(("a", "b"))), "api_key_id": draw(st.sampled_from(KEYS)),
        "batch": draw(st.booleans()), "corrects_id": None if sign > 0 else UUID(int=9),
    }  # fmt: skip


@pytest.fixture
def autumn(db: None) -> UUID:
    partitions.ensure(at=AUTUMN, ahead=0)
    return UUID(str(organization("acme").pk))


@given(
    made=st.lists(used_records(), max_size=12),
    folded=st.integers(0, SPAN // QUARTER),
    bounds=st.tuples(st.integers(0, 172_800), st.integers(0, 172_800)).filter(lambda pair: pair[0] < pair[1]),
    width=st.sampled_from(("1m", "1h", "1d")),
    zone=st.sampled_from(("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns")),
    by=st.lists(st.sampled_from(("model", "api_key_id", "batch")), unique=True),
    models=st.sampled_from((None, ["a"], ["a", "b", "c"])),
)
@settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_folded_and_young_usage_is_all_usage(
    autumn: UUID,
    made: Sequence[dict[str, Any]],
    folded: int,
    bounds: tuple[int, int],
    width: str,
    zone: str,
    by: Sequence[str],
    models: list[str] | None,
) -> None:
    start, end = (AUTUMN + timedelta(seconds=second) for second in bounds)
    found = window(start=start, end=end, width=width, zone=ZoneInfo(zone), limit=3000)
    assert found is not None
    expected: dict[tuple[Any, ...], list[Any]] = {}
    for one in made:
        if start <= one["at"] < end and one["model"] in (models or ("a", "b")):
            bucket = sum(edge <= one["at"] for edge in found.edges) - 1
            sums = expected.setdefault((bucket, tuple(one[name] for name in by)), [0, 0, 0, 0, Decimal(0)])
            request = -1 if one["corrects_id"] else 1
            for place, value in enumerate((request, *(one[name] for name in COUNTS), one["cost_usd"])):
                sums[place] += value
    before = transaction.savepoint()
    write(*(record(autumn, **one) for one in made))
    records.mark(AUTUMN)
    if folded:
        records.fold(start=AUTUMN, until=AUTUMN + folded * QUARTER)
    seen = rollups.sums(organization_id=autumn, edges=found.edges, by=by, only=Only(models=models), rows=3000)
    transaction.savepoint_rollback(before)
    assert {(one.bucket, one.group): list(one[2:]) for one in seen} == expected
    assert [one.bucket for one in seen] == sorted(one.bucket for one in seen)


def test_sums_stay_the_same_while_everything_is_folded(day: Books) -> None:
    """Read between any two statements of those who fold."""
    (acme,) = rows("SELECT id FROM organization WHERE slug = 'acme'")[0]
    edges = [NOON - MINUTE, NOON + 3 * QUARTER, NOON + 7 * QUARTER, END]

    def read() -> list[Any]:
        return rollups.sums(organization_id=acme, edges=edges, by=["model"], rows=99)

    before, stop, seen = read(), threading.Event(), []

    def reading() -> None:
        while True:
            seen.append(read())
            if stop.is_set():
                return

    def folding() -> None:
        try:
            for _ in range(5):
                records.mark(NOON)
                assert rollups.fold().until == END
        finally:
            stop.set()

    with records.final_until(END), mock.patch.object(rollups, "STEP", QUARTER):
        day.together([folding, reading, reading])
    assert sum(one.requests for one in before) == 24
    assert len(seen) > 1
    assert all(one == before for one in seen)
    assert read() == before


@given(
    made=st.lists(used_records(), max_size=12),
    folded=st.integers(0, SPAN // QUARTER),
    cursor=st.none() | st.integers(0, 11) | moments,
    bound=st.none() | moments,
    count=st.integers(1, 4),
    ascending=st.booleans(),
)
@settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_the_next_records_that_match_lie_in_the_stretches_that_are_named(
    autumn: UUID,
    made: Sequence[dict[str, Any]],
    folded: int,
    cursor: int | datetime | None,
    bound: datetime | None,
    count: int,
    ascending: bool,
) -> None:
    before = transaction.savepoint()
    written = write(*(record(autumn, **one) for one in made))
    records.mark(AUTUMN)
    if folded:
        records.fold(start=AUTUMN, until=AUTUMN + folded * QUARTER)
    after = ids.floor(cursor) if isinstance(cursor, datetime) else None
    if isinstance(cursor, int):
        after = written[cursor % len(written)] if written else None
    until = None if bound is None else ids.floor(bound)
    above, below = (after, until) if ascending else (until, after)
    found = stretches(autumn, model="a", above=above, below=below, rows=count, ascending=ascending)
    transaction.savepoint_rollback(before)
    assert found is not None
    matching = [
        one
        for one, told in zip(written, made, strict=True)
        if told["model"] == "a" and (above is None or one > above) and (below is None or one < below)
    ]
    read = [one for low, high in found for one in sorted(matching, reverse=not ascending) if low <= one < high]
    assert read[:count] == sorted(matching, reverse=not ascending)[:count]
    assert len(read) == len(set(read))
