"""Pages of usage: whose records, in which order, in how many queries, and what is read to find them."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from psycopg.types.json import Jsonb

from core import clock, errors, ids
from metering import rollups, usage, usage_pages
from metering.filters import NONE, Filters
from metering.models import UsageRecord
from metering.usage_pages import Scope
from orgs.models import Organization
from orgs.permissions import USAGE_READ_ALL, USAGE_READ_OWN
from orgs.principals import Principal
from tests.billing.world import charge, organization, rows
from tests.books import Books
from tests.journeys import neighbours
from tests.metering import records
from tests.metering.world import event

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
THEN = datetime(2025, 6, 15, 12, tzinfo=UTC)


@pytest.fixture
def acme(books: Books) -> Organization:
    """An organization with seven records, in batches of their own."""
    acme = organization("acme")
    for n in range(7):
        charge(acme, event(event_id=f"e{n}", output_tokens=n))
    charge(organization("umbrella"), event())
    return acme


def everything(of: Organization | UUID) -> Scope:
    """All of an organization's records."""
    return Scope(of if isinstance(of, UUID) else of.pk, None)


ALL = Filters()


def walk(scope: Scope, *, limit: int = 3, ascending: bool = False, matching: Filters = ALL) -> list[UUID]:
    """Ids, page by page."""
    found: list[UUID] = []
    after = None
    for _ in range(1000):
        page = usage_pages.page(
            scope=scope, matching=matching, columns="id", limit=limit, after=after, ascending=ascending
        )
        found += [row[0] for row in page.rows]
        assert len(page.rows) == limit or not page.has_more
        if not page.has_more:
            return found
        after = ids.show("usage", page.rows[-1][0])
    raise AssertionError("the walk has no end")


def names(found: Sequence[UUID]) -> list[str]:
    """Event ids of records."""
    known = dict(UsageRecord.objects.filter(pk__in=found).values_list("pk", "event_id"))
    return [known[each] for each in found]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 100])
def test_a_walk_finds_every_record_once_in_both_directions(acme: Organization, limit: int) -> None:
    told = [f"e{n}" for n in range(7)]
    assert names(walk(everything(acme), limit=limit)) == told[::-1]
    with records.final_until(clock.now() + SECOND):
        assert names(walk(everything(acme), limit=limit, ascending=True)) == told


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("matching", [ALL, Filters(source="api_key"), Filters(source="dev_tools")])
def test_a_cursor_need_not_match_the_filter_but_must_be_the_callers(
    acme: Organization, ascending: bool, matching: Filters
) -> None:
    mine = UsageRecord.objects.filter(organization=acme).order_by("id")[3].pk
    neighbour = UsageRecord.objects.exclude(organization=acme).get().pk
    wrong = [
        ids.show("usage", neighbour), ids.show("usage", ids.new()), ids.show("tr", mine), "", "usage_",
        ids.show("usage", mine).lower(), ids.show("usage", UUID(int=0)), ids.show("usage", UUID(int=(1 << 128) - 1)),
    ]  # fmt: skip

    def after(cursor: str) -> list[str]:
        with records.final_until(clock.now() + SECOND):
            page = usage_pages.page(
                scope=everything(acme), matching=matching, columns="id", limit=9, after=cursor, ascending=ascending
            )
        return names([row[0] for row in page.rows])

    beyond = ["e4", "e5", "e6"] if ascending else ["e2", "e1", "e0"]
    assert after(ids.show("usage", mine)) == ([] if matching.source == "dev_tools" else beyond)
    for cursor in wrong:
        with pytest.raises(errors.InvalidCursor):
            after(cursor)


def principal(of: UUID, *, member_id: UUID | None, permissions: frozenset[str]) -> Principal:
    """Somebody with a key of an organization."""
    return Principal(
        key_id=ids.new(), kind="personal", key_name="k", organization_id=of, organization_slug="acme",  # type: ignore[arg-type]
        is_personal=False, user_id=ids.new(), member_id=member_id, project_id=None, permissions=permissions,
        scopes=frozenset(), models=frozenset(), networks=(), organizations=frozenset(), trust_client_header=False,
    )  # fmt: skip


def test_who_may_not_read_all_usage_reads_a_members(db: None) -> None:
    of, member = ids.new(), ids.new()
    records.mark(THEN)
    records.write(records.record(of, THEN), records.record(of, THEN + SECOND, member_id=member))
    records.write(records.record(ids.new(), THEN, member_id=member))

    def told(member_id: UUID | None, *permissions: str) -> int:
        whose = principal(of, member_id=member_id, permissions=frozenset(permissions))
        return len(json.loads(usage_pages.answer(principal=whose, params={}))["data"])

    assert told(member, USAGE_READ_OWN) == 1
    assert told(ids.new(), USAGE_READ_OWN) == 0
    assert told(member, USAGE_READ_OWN, USAGE_READ_ALL) == told(None, USAGE_READ_ALL) == 2


def test_a_page_is_these_bytes(db: None) -> None:
    of = ids.new()
    first, second = UUID("01977375-f600-7000-8000-000000000001"), UUID("01977375-f600-7000-8000-000000000002")
    told = {
        "model": 'say "ü" \\ \u2028', "source": "dev_tools", "input_tokens": 2_000_000_000,
        "output_tokens": 2_000_000_000, "recorded_at": datetime(2025, 6, 15, 12, 0, 0, 999_999, UTC),
        "occurred_at": datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC),
    }  # fmt: skip
    records.write(
        records.record(of, THEN) | told | {"id": first, "cost_usd": Decimal("0.000000000001"), "transfer_id": first},
        records.record(of, THEN) | told | {"id": second, "cost_usd": Decimal(0)},
    )
    whose = principal(of, member_id=None, permissions=frozenset({USAGE_READ_ALL}))
    row = (
        '"object":"usage_record","model":"say \\"ü\\" \\\\ \u2028","source":"dev_tools","input_tokens":2000000000,'
        '"output_tokens":2000000000,"total_tokens":4000000000,"created_at":1749988800,"occurred_at":-1,"cost_usd":'
    )
    newest, oldest = "usage_01JXSQBXG0E008000000000002", "usage_01JXSQBXG0E008000000000001"
    assert usage_pages.answer(principal=whose, params={"limit": ["2"]}).decode() == (
        f'{{"object":"list","data":[{{"id":"{newest}",{row}0}},{{"id":"{oldest}",{row}0.000000000001}}],'
        f'"first_id":"{newest}","last_id":"{oldest}","has_more":false}}'
    )
    assert (
        usage_pages.answer(principal=whose, params={"limit": ["1"], "order": ["asc"]})
        .decode()
        .startswith(
            f'{{"object":"list","data":[{{"id":"{oldest}",{row}0.000000000001}}],'
            f'"first_id":"{oldest}","last_id":"{oldest}","has_more":true,"complete_until":'
        )
    )


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ("0", "0"), ("0.100000000000", "0.1"), ("100", "100"), ("10.000000000010", "10.00000000001"),
        ("99999999999.999999999999", "99999999999.999999999999"), ("0.000001", "0.000001"), ("-0.5", "-0.5"),
        ("-20", "-20"),
    ],
)  # fmt: skip
def test_a_cost_stands_in_plain_digits(db: None, cost: str, shown: str) -> None:
    of = ids.new()
    made = records.record(of, THEN, cost_usd=Decimal(cost))
    # What a correction takes back is negative.
    made["corrects_id"] = ids.new() if cost.startswith("-") else None
    records.write(made)
    whose = principal(of, member_id=None, permissions=frozenset({USAGE_READ_ALL}))
    assert f'"cost_usd":{shown}}}' in usage_pages.answer(principal=whose, params={}).decode()
    (exported,) = usage_pages.export(principal=whose, params={})
    assert exported[usage_pages.COLUMNS.index("cost_usd")] == shown


# What is final


def test_read_in_order_is_what_the_databases_clock_says_is_final(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    of = ids.new()
    now = usage.started_at()
    old, *_ = records.write(*(records.record(of, now - timedelta(seconds=age)) for age in (61, 59, 1)))
    whose = principal(of, member_id=None, permissions=frozenset({USAGE_READ_ALL}))
    real = clock.now
    for ahead in (-DAY, timedelta(0), DAY):
        monkeypatch.setattr(clock, "now", lambda ahead=ahead: real() + ahead)
        told = json.loads(usage_pages.answer(principal=whose, params={"order": ["asc"]}))
        assert [each["id"] for each in told["data"]] == [ids.show("usage", old)]
        assert told["complete_until"] == clock.to_unix(now - timedelta(seconds=60))
        assert len(json.loads(usage_pages.answer(principal=whose, params={}))["data"]) == 3


# Months


@pytest.fixture
def years(db: None) -> tuple[UUID, list[UUID]]:
    """An organization with a record a week for a year and a half, and the ids of those, oldest first."""
    of = ids.new()
    start = clock.now() - 77 * 7 * DAY
    records.mark(rollups.floor(start))
    made = records.write(
        *(records.record(of, start + n * 7 * DAY, source=("api_key", "dev_tools")[n % 10 == 3]) for n in range(77))
    )
    return of, made


@pytest.mark.parametrize("limit", [1, 5, 76, 77, 100])
def test_a_walk_goes_through_all_months(years: tuple[UUID, list[UUID]], limit: int) -> None:
    of, made = years
    assert walk(everything(of), limit=limit) == made[::-1]
    assert walk(everything(of), limit=limit, ascending=True) == made


@pytest.mark.parametrize("name", ["api_key_id", "project_id", "member_id"])
@pytest.mark.parametrize("folded", [False, True])
def test_what_is_of_a_key_a_project_or_a_member_and_what_is_of_none(db: None, name: str, folded: bool) -> None:
    of = organization("acme").pk
    one, other = ids.new(), ids.new()
    owners = [one, None, other, one, None, one]
    made = records.write(*(records.record(of, THEN + n * SECOND, **{name: each}) for n, each in enumerate(owners)))
    if folded:
        records.fold(start=THEN, until=THEN + timedelta(minutes=15))
    else:
        records.mark(THEN)
    for wanted, places in ((one, [5, 3, 0]), (other, [2]), (NONE, [4, 1]), (ids.new(), [])):
        asked: dict[str, Any] = {name: wanted}
        found = walk(everything(of), limit=2, matching=Filters(**asked))
        assert found == [made[place] for place in places]


def test_times_part_the_months(years: tuple[UUID, list[UUID]]) -> None:
    of, made = years
    start, end = (ids.instant(made[place]) for place in (7, 70))
    for matching, expected in (
        (Filters(start=start), made[7:]),
        (Filters(end=end), made[:70]),
        (Filters(start=start, end=end), made[7:70]),
        (Filters(start=end, end=start), []),
        (Filters(start=start, end=start + SECOND), made[7:8]),
        (Filters(start=clock.from_unix(0), end=clock.from_unix(253_402_300_799)), made),
        (Filters(start=clock.from_unix(253_402_300_799)), []),
        (Filters(end=clock.from_unix(0)), []),
        (Filters(start=start, end=end, source="dev_tools"), made[13:70:10]),
    ):
        assert walk(everything(of), limit=10, matching=matching) == expected[::-1]
        assert walk(everything(of), limit=10, matching=matching, ascending=True) == expected


# Queries, and what they read


@contextmanager
def queries() -> Iterator[list[tuple[str, Any]]]:
    """What is asked of the database in the block."""
    seen: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield seen


def test_a_page_is_one_query_and_a_second_where_the_last_month_does_not_fill_it(
    years: tuple[UUID, list[UUID]],
) -> None:
    of, made = years
    whose = principal(of, member_id=None, permissions=frozenset({USAGE_READ_ALL}))

    def asked(**query: str) -> int:
        with queries() as seen:
            told = json.loads(
                usage_pages.answer(principal=whose, params={name: [each] for name, each in query.items()})
            )
            assert told["data"]
        return len(seen)

    middle = ids.show("usage", made[40])
    assert asked(limit="3") == asked(limit="3", after=middle) == 1
    assert asked(limit="10") == asked(limit="100", after=middle) == 2
    # One more says what is final.
    assert asked(limit="100", order="asc") == asked(limit="3", order="asc", after=middle) == 2
    assert asked(limit="100", order="asc", after=middle) == 3
    # What is common is found in one as well; for what is rare another asks where it is.
    assert asked(limit="2", source="api_key") == asked(limit="2", source="api_key", after=middle) == 1
    assert asked(limit="3", source="dev_tools") == asked(limit="3", source="dev_tools", after=middle) == 3


def test_through_http_a_page_is_that_one_query(books: Books, settings: Any) -> None:
    # What authentication knows is asked for every so often.
    settings.CACHE_POLL_MS = 10_000
    house = neighbours.house("acme-labs")
    caller = house.callers["organization"]
    after = house.shown("usage")[-1]
    caller.get("/v1/usage")
    with queries() as seen:
        assert caller.get("/v1/usage", limit="1", after=after).status_code == 200
    assert [sql.count("FROM usage_record") for sql, _ in seen] == [2]


def rows_read(sql: str, params: Any) -> int:
    """How many records a statement reads, those that it throws away included."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
        return _read(cursor.fetchone()[0][0]["Plan"])


def _read(node: dict[str, Any]) -> int:
    own = 0
    if node.get("Relation Name", "").startswith("usage_record"):
        each = (
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        )
        own = round(each * node["Actual Loops"])
    return own + sum(map(_read, node.get("Plans", [])))


MANY = 200_000
RARE = [10, 100_000, 199_000]
STEP = timedelta(seconds=8)
# Records in a quarter of an hour, both ends counted.
IN_QUARTER = 113
START = datetime(2025, 5, 2, tzinfo=UTC)


@pytest.fixture
def crowd(db: None) -> UUID:
    """An organization with 200,000 records in nineteen days, three of them of one model."""
    of: UUID = organization("crowd").pk
    (template,) = records.write(records.record(of, START))
    columns = ", ".join(name for name in usage.RECORD if name not in {"id", "recorded_at", "model"})
    rows(
        f"INSERT INTO usage_record (id, recorded_at, model, {columns})"
        " SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::int8), 12, '0')"
        " || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, at,"
        f" CASE WHEN n = ANY (%s) THEN 'rare' ELSE 'gpt-4o' END, {columns}"
        f" FROM (SELECT {columns} FROM usage_record WHERE id = %s) r, generate_series(1, %s) n,"
        " LATERAL (SELECT %s + n * %s) t (at)",
        RARE, template, MANY, START, STEP,
    )  # fmt: skip
    rows("ANALYZE usage_record")
    return of


def look(scope: Scope, *, limit: int, ascending: bool, matching: Filters) -> tuple[list[UUID], int]:
    """A page's ids, and how many records were read to find them."""
    with queries() as seen:
        page = usage_pages.page(
            scope=scope, matching=matching, columns="id", limit=limit, after=None, ascending=ascending
        )
    return [row[0] for row in page.rows], sum(rows_read(*one) for one in seen if "FROM usage_record" in one[0])


@pytest.mark.parametrize("ascending", [True, False])
def test_three_rare_records_among_two_hundred_thousand_are_found_in_their_quarters(
    crowd: UUID, ascending: bool
) -> None:
    end = START + timedelta(days=19)
    rare, common = Filters(model="rare", end=end), Filters(model="gpt-4o", end=end)
    records.mark(START)
    told, read = look(everything(crowd), limit=5, ascending=ascending, matching=rare)
    assert len(told) == 3
    assert read > MANY
    # Up to about the 196,875th, so the last of the three is not.
    records.fold(start=START, until=START + timedelta(days=18, hours=5, minutes=30))
    found, read = look(everything(crowd), limit=5, ascending=ascending, matching=rare)
    assert found == told
    # At first some of the nearest, then the quarters of two, and all that is not folded.
    assert 5000 < read <= 2000 + 2 * IN_QUARTER + 3126
    records.fold(start=START, until=end)
    found, read = look(everything(crowd), limit=5, ascending=ascending, matching=rare)
    assert found == told
    assert 2003 <= read <= 2000 + 3 * IN_QUARTER
    # Of what is common, no more than the page.
    _, read = look(everything(crowd), limit=100, ascending=ascending, matching=common)
    assert read == (102 if ascending else 101)


def holds(made: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a record is one of those asked for."""
    at = made["recorded_at"]
    if "metadata" in wanted and made["metadata"] is None:
        return False
    if not wanted.get("start", at) <= at < wanted.get("end", at + SECOND):
        return False
    return all(made[name] == each for name, each in wanted.items() if name not in {"start", "end", "metadata"})


def test_a_filtered_walk_finds_what_a_plain_one_holds(db: None) -> None:
    chosen = random.Random(20)
    of, member, key = organization("acme").pk, ids.new(), ids.new()
    # Across the end of a month.
    start = datetime(2025, 6, 30, 20, tzinfo=UTC)
    made = [
        records.record(
            of, start + timedelta(seconds=chosen.randrange(8 * 3600)), model=chosen.choice(["a", "a", "b", "rare"]),
            source=chosen.choice(["api_key", "api_key", "dev_tools"]),
            api_key_id=chosen.choice([None, None, None, key]), member_id=chosen.choice([None, member]),
            metadata=chosen.choice([None, Jsonb({"team": "x"})]),
        )
        for _ in range(400)
    ]  # fmt: skip
    records.write(*made)
    made.sort(key=lambda one: one["id"])
    asked: list[dict[str, Any]] = [
        {"model": "rare"}, {"model": "a", "source": "dev_tools"}, {"api_key_id": key}, {"member_id": member},
        {"model": "b", "member_id": member, "api_key_id": key}, {"model": "none"},
        {"model": "rare", "start": start + timedelta(hours=1, minutes=7), "end": start + timedelta(hours=5)},
        {"model": "a", "metadata": {"team": "x"}}, {"metadata": {"team": "x"}},
    ]  # fmt: skip
    for folded in (0, 3, 8):
        records.mark(start)
        if folded:
            records.fold(start=start, until=start + timedelta(hours=folded))
        for wanted in asked:
            expected = [one["id"] for one in made if holds(one, wanted)]
            matching = Filters(**{name: each for name, each in wanted.items() if name != "member_id"})
            scope = Scope(of, wanted.get("member_id"))
            for limit in (1, 7, 100):
                assert walk(scope, limit=limit, matching=matching) == expected[::-1], (folded, wanted)
                assert walk(scope, limit=limit, matching=matching, ascending=True) == expected, (folded, wanted)
