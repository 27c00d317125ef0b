"""Metering's doors to sums of usage by time: contract 8.1 and 20.16, field by field."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from core import ids
from metering import rollup_views
from orgs.models import Organization
from tests.billing.world import part_of, rows
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller
from tests.metering import records
from tests.metering.records import QUARTER, record, write
from tests.orgs import world

USAGE = "/v1/organization/usage/completions"
COSTS = "/v1/organization/costs"
# A Monday's midnight, 1789948800 in Unix seconds.
MONDAY = datetime(2026, 9, 21, tzinfo=UTC)
START = 1_789_948_800
HOUR = 3600
DAY = 24 * HOUR


@pytest.fixture
def acme(db: None) -> Organization:
    """An organization in whose books nothing is folded since Monday."""
    records.mark(MONDAY)
    return world.organization("acme-labs")


@pytest.fixture
def caller(acme: Organization) -> Caller:
    """The organization's own key."""
    return Caller("organization", world.organization_key(acme).secret)


def page(caller: Caller, path: str = USAGE, **query: Any) -> Any:
    """An answer's JSON."""
    answer = caller.get(path, **{"start_time": START, **query})
    assert answer.status_code == 200, answer.content
    return answer.json()


def told(caller: Caller, *names: str, **query: Any) -> list[list[tuple[Any, ...]]]:
    """Of each bucket, what each result says under these names."""
    return [
        [tuple(one[name] for name in names) for one in bucket["results"]] for bucket in page(caller, **query)["data"]
    ]


def spans(answer: Any) -> list[tuple[int, int]]:
    """Where buckets begin and end, in hours after Monday's midnight."""
    return [((one["start_time"] - START) // HOUR, (one["end_time"] - START) // HOUR) for one in answer["data"]]


def example(acme: Organization) -> None:
    """The two requests of the contract's example, a quarter of an hour apart."""
    write(
        record(acme.pk, MONDAY + 40 * QUARTER, input_tokens=1000, cached_input_tokens=640, output_tokens=200,
            cost_usd=Decimal("0.000362")),
        record(acme.pk, MONDAY + 41 * QUARTER, input_tokens=30, output_tokens=4, cost_usd=Decimal("0.0000138")),
    )  # fmt: skip


@pytest.mark.parametrize("folded", [0, 41, 96])
def test_a_day_is_shown_as_the_contract_shows_it(acme: Organization, caller: Caller, folded: int) -> None:
    example(acme)
    if folded:
        records.fold(start=MONDAY, until=MONDAY + folded * QUARTER)
    assert page(caller, end_time=START + DAY) == {
        "object": "page",
        "data": [
            {
                "object": "bucket", "start_time": 1789948800, "end_time": 1790035200,
                "results": [
                    {
                        "object": "organization.usage.completions.result", "input_tokens": 1030,
                        "input_cached_tokens": 640, "output_tokens": 204, "num_model_requests": 2, "project_id": None,
                        "user_id": None, "api_key_id": None, "model": None, "batch": None, "service_tier": None,
                    }
                ],
            }
        ],
        "has_more": False,
        "next_page": None,
    }  # fmt: skip
    answer = caller.get(COSTS, start_time=START, end_time=START + DAY)
    assert answer.json() == {
        "object": "page",
        "data": [
            {
                "object": "bucket", "start_time": 1789948800, "end_time": 1790035200,
                "results": [
                    {
                        "object": "organization.costs.result",
                        "amount": {"value": Decimal("0.0003758"), "currency": "usd"},
                        "line_item": None, "project_id": None, "api_key_id": None, "quantity": None,
                        "quantity_unit": None,
                    }
                ],
            }
        ],
        "has_more": False,
        "next_page": None,
    }  # fmt: skip
    # Plain digits, no idle zeros.
    assert b'"value":0.0003758,' in answer.content


def test_a_bucket_in_which_nothing_was_used_is_there_and_empty(acme: Organization, caller: Caller) -> None:
    example(acme)
    answer = page(caller, end_time=START + DAY, bucket_width="1h")
    assert spans(answer) == [(hour, hour + 1) for hour in range(24)]
    assert [len(one["results"]) for one in answer["data"]] == [0] * 10 + [1] + [0] * 13
    assert answer["data"][10]["results"][0]["num_model_requests"] == 2


def test_minutes_are_read_from_the_records(acme: Organization, caller: Caller) -> None:
    example(acme)
    records.fold(start=MONDAY, until=MONDAY + 96 * QUARTER)
    ten = START + 10 * HOUR
    answer = page(caller, start_time=ten - 30, end_time=ten + 16 * 60, bucket_width="1m")
    assert [one["start_time"] - ten for one in answer["data"]] == [-30, *range(0, 16 * 60, 60)]
    assert [len(one["results"]) for one in answer["data"]] == [0, 1, *[0] * 14, 1]
    assert len(page(caller, bucket_width="1m", limit=1440)["data"]) == 1440


def test_a_start_and_an_end_within_a_quarter_cut_it(acme: Organization, caller: Caller) -> None:
    write(*(record(acme.pk, MONDAY + timedelta(minutes=minute)) for minute in range(60)))
    records.fold(start=MONDAY, until=MONDAY + 4 * QUARTER)
    for first, last in ((0, 60), (7, 52), (20, 29), (15, 30), (14, 16), (59, 60)):
        query = {"start_time": START + 60 * first, "end_time": START + 60 * last}
        assert told(caller, "num_model_requests", **query) == [[(last - first,)]]
    assert told(caller, "num_model_requests", start_time=START + 1, end_time=START + 60) == [[]]
    assert told(caller, "num_model_requests", start_time=START, end_time=START + 1) == [[(1,)]]


def test_usage_counts_as_soon_as_it_was_accepted(books: Books) -> None:
    house = neighbours.house("acme-labs")
    caller = house.callers["owner"]
    midnight = rows("SELECT extract(epoch FROM now())::int8")[0][0] // DAY * DAY - DAY
    before = sum(count for one in told(caller, "num_model_requests", start_time=midnight) for (count,) in one)
    assert before == 6
    neighbours.report(house, key="organization", count=1)
    assert sum(count for one in told(caller, "num_model_requests", start_time=midnight) for (count,) in one) == 7


@pytest.fixture
def mixed(acme: Organization) -> dict[str, Any]:
    """One record for each way in which records are told apart, folded but for the last; their ids on the wire."""
    key, project, member = part_of(acme), part_of(acme, "project"), part_of(acme, "member")
    write(
        record(acme.pk, MONDAY, api_key_id=key, output_tokens=1),
        record(acme.pk, MONDAY, project_id=project, output_tokens=2),
        record(acme.pk, MONDAY, member_id=member, output_tokens=4),
        record(acme.pk, MONDAY, model="other", output_tokens=8),
        record(acme.pk, MONDAY, service_tier="flex", output_tokens=16),
        record(acme.pk, MONDAY + QUARTER, batch=True, output_tokens=32),
    )
    records.fold(start=MONDAY, until=MONDAY + QUARTER)
    (user,) = rows("SELECT user_id FROM member WHERE id = %s", member)[0]
    return {
        "api_key_id": ids.show("key", key), "project_id": ids.show("proj", project), "user_id": ids.show("user", user),
        "model": "other", "service_tier": "flex", "batch": True,
    }  # fmt: skip


PLACES = {"api_key_id": 1, "project_id": 2, "user_id": 4, "model": 8, "service_tier": 16, "batch": 32}
REST = {"model": "gpt-4o", "batch": False}


@pytest.mark.parametrize("name", PLACES)
def test_results_are_told_apart_by_each_field(caller: Caller, mixed: dict[str, Any], name: str) -> None:
    (bucket,) = page(caller, end_time=START + DAY, group_by=name)["data"]
    found = {one[name]: one["output_tokens"] for one in bucket["results"]}
    assert found == {mixed[name]: PLACES[name], REST.get(name): 63 - PLACES[name]}
    assert all(one[other] is None for one in bucket["results"] for other in PLACES if other != name)


@pytest.mark.parametrize("brackets", ["", "[]"])
def test_results_are_told_apart_by_several_fields_and_each_group_stands_once(
    caller: Caller, mixed: dict[str, Any], brackets: str
) -> None:
    assert mixed
    query = {f"group_by{brackets}": ["batch", "model", "batch"], "end_time": START + DAY}
    assert told(caller, "batch", "model", "output_tokens", **query) == [
        [(False, "gpt-4o", 23), (False, "other", 8), (True, "gpt-4o", 32)]
    ]


FILTERS = {"api_key_ids": "api_key_id", "project_ids": "project_id", "user_ids": "user_id", "models": "model"}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_what_they_name(caller: Caller, mixed: dict[str, Any], name: str) -> None:
    value, tokens = mixed[FILTERS[name]], PLACES[FILTERS[name]]
    made_up = {"models": "no-such-model"}.get(name) or ids.show(value.split("_")[0], ids.new())
    query = {"end_time": START + DAY}
    for spelled in (name, f"{name}[]"):
        assert told(caller, "output_tokens", **query, **{spelled: value}) == [[(tokens,)]]
        assert told(caller, "output_tokens", **query, **{spelled: [made_up, value]}) == [[(tokens,)]]
        assert told(caller, "output_tokens", **query, **{spelled: made_up}) == [[]]
    assert told(caller, "output_tokens", **query, **{name: value}, batch="true") == [[]]


def test_batches_are_kept_or_left_out(caller: Caller, mixed: dict[str, Any]) -> None:
    assert mixed
    assert told(caller, "output_tokens", end_time=START + DAY, batch="true") == [[(32,)]]
    assert told(caller, "output_tokens", end_time=START + DAY, batch="false") == [[(31,)]]
    assert told(caller, "output_tokens", end_time=START + DAY, batch="") == [[(63,)]]


def test_costs_are_told_apart_by_line_item_project_and_key(acme: Organization, caller: Caller) -> None:
    key, project = part_of(acme), part_of(acme, "project")
    write(
        record(acme.pk, MONDAY, api_key_id=key, cost_usd=Decimal(1)),
        record(acme.pk, MONDAY, project_id=project, model="other", cost_usd=Decimal("0.5")),
        record(acme.pk, MONDAY, cost_usd=Decimal("-0.25"), corrects_id=UUID(int=1)),
    )
    shown = {"line_item": "other", "project_id": ids.show("proj", project), "api_key_id": ids.show("key", key)}
    for name, value in shown.items():
        (bucket,) = page(caller, COSTS, end_time=START + DAY, group_by=name)["data"]
        found = {one[name]: one["amount"]["value"] for one in bucket["results"]}
        assert (
            found
            == {
                "line_item": {value: Decimal("0.5"), "gpt-4o": Decimal("0.75")},
                "project_id": {value: Decimal("0.5"), None: Decimal("0.75")},
                "api_key_id": {value: 1, None: Decimal("0.25")},
            }[name]
        )
    (bucket,) = page(caller, COSTS, end_time=START + DAY, project_ids=shown["project_id"])["data"]
    assert [one["amount"]["value"] for one in bucket["results"]] == [Decimal("0.5")]


# Zones and pages


def test_days_are_utcs_unless_another_zone_is_named(acme: Organization, caller: Caller) -> None:
    rows("UPDATE organization SET time_zone = 'Asia/Kathmandu' WHERE id = %s", acme.pk)
    write(*(record(acme.pk, MONDAY + timedelta(hours=hour)) for hour in range(48)))
    records.fold(start=MONDAY, until=MONDAY + 150 * QUARTER)
    asked: dict[str, Any] = {"end_time": START + 2 * DAY}
    assert told(caller, "num_model_requests", **asked) == [[(24,)], [(24,)]]
    # Two hours ahead, and five and three quarters.
    assert told(caller, "num_model_requests", **asked, time_zone="Europe/Berlin") == [[(22,)], [(24,)], [(2,)]]
    assert told(caller, "num_model_requests", **asked, time_zone="organization") == [[(19,)], [(24,)], [(5,)]]
    found = page(caller, **asked, time_zone="organization")["data"]
    assert [one["start_time"] - START for one in found] == [0, 18 * HOUR + 900, 42 * HOUR + 900]


def test_a_day_may_have_23_or_25_hours(acme: Organization, caller: Caller) -> None:
    spring, autumn = datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)
    records.mark(spring)
    write(*(record(acme.pk, at + timedelta(hours=hour)) for at in (spring, autumn) for hour in range(30)))
    for at, hours in ((spring, 23), (autumn, 25)):
        start = int(at.timestamp())
        query: dict[str, Any] = {"start_time": start, "end_time": start + 30 * HOUR, "time_zone": "Europe/Berlin"}
        answer = page(caller, **query)
        assert [one["end_time"] - one["start_time"] for one in answer["data"]] == [hours * HOUR, (30 - hours) * HOUR]
        assert told(caller, "num_model_requests", **query) == [[(hours,)], [(30 - hours,)]]
        assert page(caller, COSTS, **query)["data"][0]["end_time"] == start + hours * HOUR


@pytest.mark.parametrize(
    ("path", "width", "usual", "most", "step"),
    [(USAGE, "1d", 7, 31, DAY), (USAGE, "1h", 24, 168, HOUR), (USAGE, "1m", 60, 1440, 60), (COSTS, "1d", 7, 180, DAY)],
)
def test_pages_have_as_many_buckets_as_the_contract_says(
    caller: Caller, path: str, width: str, usual: int, most: int, step: int
) -> None:
    asked: dict[str, Any] = {"bucket_width": width, "end_time": START + (most + 2) * step}
    answer = page(caller, path, **asked)
    assert (len(answer["data"]), answer["has_more"]) == (usual, True)
    answer = page(caller, path, **asked, limit=most)
    assert (len(answer["data"]), answer["has_more"]) == (most, True)
    rest = page(caller, path, **asked, limit=most, page=answer["next_page"])
    assert (len(rest["data"]), rest["has_more"], rest["next_page"]) == (2, False, None)
    assert answer["data"][-1]["end_time"] == rest["data"][0]["start_time"]
    refused = caller.get(path, start_time=START, bucket_width=width, limit=most + 1)
    assert refused.json()["error"]["param"] == "limit"


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_walk_over_the_pages_is_the_whole(acme: Organization, caller: Caller, zone: str, limit: int) -> None:
    write(*(record(acme.pk, MONDAY + timedelta(hours=7 * place, minutes=3)) for place in range(20)))
    records.fold(start=MONDAY, until=MONDAY + 300 * QUARTER)
    asked: dict[str, Any] = {"start_time": START + 1234, "end_time": START + 5 * DAY + 77, "time_zone": zone}
    whole = page(caller, **asked, limit=31)
    assert not whole["has_more"]
    found: list[Any] = []
    following: str | None = ""
    for _ in range(10):
        part = page(caller, **asked, limit=limit, page=following)
        found += part["data"]
        following = part["next_page"]
        if not part["has_more"]:
            break
    assert following is None
    assert found == whole["data"]
    assert sum(one["num_model_requests"] for bucket in found for one in bucket["results"]) == 17


def test_without_an_end_the_last_bucket_is_the_present_one(caller: Caller) -> None:
    (now,) = rows("SELECT extract(epoch FROM now())::int8")[0]
    today = now // DAY * DAY
    answer = page(caller, start_time=today - 2 * DAY)
    # Midnight may come between the two.
    assert [one["start_time"] for one in answer["data"]][:3] == [today - 2 * DAY, today - DAY, today]
    assert {one["end_time"] - one["start_time"] for one in answer["data"]} == {DAY}
    assert not answer["has_more"]
    assert page(caller, start_time=now + 40 * DAY) == {
        "object": "page", "data": [], "has_more": False, "next_page": None,
    }  # fmt: skip


def test_a_page_ends_early_rather_than_hold_too_many_results(
    acme: Organization, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(*(record(acme.pk, MONDAY + timedelta(days=day), model=f"model-{n}") for day in range(4) for n in range(day)))
    monkeypatch.setattr(rollup_views, "RESULTS_MAX", 3)
    asked: dict[str, Any] = {"group_by": "model", "end_time": START + 4 * DAY}
    first = page(caller, **asked)
    assert [len(one["results"]) for one in first["data"]] == [0, 1, 2]
    second = page(caller, **asked, page=first["next_page"])
    assert [len(one["results"]) for one in second["data"]] == [3]
    assert not second["has_more"]
    monkeypatch.setattr(rollup_views, "RESULTS_MAX", 2)
    answer = caller.get(USAGE, start_time=START, **asked, page=first["next_page"])
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "group_by")


# Who sees what, and what is refused


def test_a_member_without_the_right_sees_only_their_own(acme: Organization) -> None:
    plain, viewer = (world.member(acme, f"{name}@acme.example", name) for name in ("member", "viewer"))
    write(
        record(acme.pk, MONDAY, member_id=plain.pk, output_tokens=1, cost_usd=Decimal(1)),
        record(acme.pk, MONDAY, member_id=viewer.pk, output_tokens=2, cost_usd=Decimal(2)),
        record(acme.pk, MONDAY, output_tokens=4, cost_usd=Decimal(4)),
        record(world.organization("other").pk, MONDAY, output_tokens=8),
    )
    records.fold(start=MONDAY, until=MONDAY + QUARTER)
    asked: dict[str, Any] = {"end_time": START + DAY}
    for member, seen in ((plain, 1), (viewer, 7)):
        caller = Caller(member.role.name, world.personal_key(member.user).secret, "acme-labs")
        assert told(caller, "output_tokens", **asked) == [[(seen,)]]
        (bucket,) = page(caller, COSTS, **asked)["data"]
        assert [one["amount"]["value"] for one in bucket["results"]] == [seen]
    caller = Caller("member", world.personal_key(plain.user).secret, "acme-labs")
    assert told(caller, "output_tokens", **asked, user_ids=ids.show("user", viewer.user_id)) == [[]]
    alone = Caller("alone", world.personal_key(plain.user).secret)
    assert told(alone, "output_tokens", **asked) == [[]]


def test_a_service_key_is_refused(db: None) -> None:
    caller = Caller("service", world.service_key().secret)
    assert [caller.get(path, start_time=START).status_code for path in (USAGE, COSTS)] == [403, 403]


@pytest.mark.parametrize(
    ("query", "status", "code", "param"),
    [
        ({"start_time": ""}, 400, "missing_required_parameter", "start_time"),
        ({"start_time": "today"}, 400, "invalid_type", "start_time"),
        ({"start_time": "1.5"}, 400, "invalid_type", "start_time"),
        ({"start_time": "-1"}, 422, "value_out_of_range", "start_time"),
        ({"start_time": "999999999999"}, 422, "value_out_of_range", "start_time"),
        ({"end_time": "soon"}, 400, "invalid_type", "end_time"),
        ({"end_time": str(START)}, 422, "value_out_of_range", "end_time"),
        ({"bucket_width": "1w"}, 422, "value_out_of_range", "bucket_width"),
        ({"limit": "many"}, 400, "invalid_type", "limit"),
        ({"limit": "0"}, 422, "value_out_of_range", "limit"),
        ({"group_by": "end_user"}, 422, "value_out_of_range", "group_by"),
        ({"group_by[]": "api_key_id,project"}, 422, "value_out_of_range", "group_by"),
        ({"group_by": ["api_key_id"] * 101}, 422, "value_out_of_range", "group_by"),
        ({"project_ids": "acme"}, 400, "invalid_type", "project_ids"),
        ({"api_key_ids": ids.show("proj", UUID(int=1))}, 400, "invalid_type", "api_key_ids"),
        ({"time_zone": "Mars/Phobos"}, 422, "value_out_of_range", "time_zone"),
        ({"time_zone": "../etc/localtime"}, 422, "value_out_of_range", "time_zone"),
        ({"time_zone": "localtime"}, 422, "value_out_of_range", "time_zone"),
        ({"page": "next"}, 400, "invalid_cursor", "page"),
        ({"page": "page_"}, 400, "invalid_cursor", "page"),
        ({"page": "page_٣"}, 400, "invalid_cursor", "page"),
        ({"page": f"page_{START}"}, 400, "invalid_cursor", "page"),
        ({"page": f"page_{START + HOUR}"}, 400, "invalid_cursor", "page"),
        ({"page": "page_999999999999"}, 400, "invalid_cursor", "page"),
    ],
)
@pytest.mark.parametrize("path", [USAGE, COSTS])
def test_a_refusal_names_the_parameter(
    caller: Caller, path: str, query: dict[str, Any], status: int, code: str, param: str
) -> None:
    answer = caller.get(path, **{"start_time": START, **query})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        (USAGE, {"batch": "yes"}, "batch"),
        (USAGE, {"user_ids": "ada@example.com"}, "user_ids"),
        (USAGE, {"models": "gpt\0"}, "models"),
        (USAGE, {"group_by": "line_item"}, "group_by"),
        (COSTS, {"bucket_width": "1h"}, "bucket_width"),
        (COSTS, {"group_by": "model"}, "group_by"),
    ],
)
def test_each_operation_refuses_what_only_the_other_takes(
    caller: Caller, path: str, query: dict[str, Any], param: str
) -> None:
    answer = caller.get(path, start_time=START, **query)
    assert answer.status_code in {400, 422}
    assert answer.json()["error"]["param"] == param


def test_an_answer_takes_as_many_queries_whatever_it_shows(
    acme: Organization, caller: Caller, django_assert_num_queries: Any
) -> None:
    asked: dict[str, Any] = {"end_time": START + 31 * DAY, "limit": 31, "group_by": ["model", "user_id"]}
    page(caller, **asked)
    for day in range(3):
        for path in (USAGE, COSTS):
            # Key, organization, its zone (in a transaction nothing is cached), the mark, the sums.
            with django_assert_num_queries(5):
                page(caller, path, **{**asked, "group_by": "api_key_id"}, time_zone="organization")
        with django_assert_num_queries(4):
            page(caller, **asked)
        write(*(record(acme.pk, MONDAY + QUARTER * place, model=f"model-{place}") for place in range(60)))
        records.fold(start=MONDAY, until=MONDAY + (day + 1) * 10 * QUARTER)
