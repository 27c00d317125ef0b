from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from core import ids
from orgs import projects
from orgs.models import Organization
from tests.metering import records
from tests.metering.records import record, write
from tests.orgs import world
from tests.orgs.world import BY
from tests.portal.world import member, owner, seen, text

PLACE = "/portal/acme-labs/usage"
# A Wednesday, nine in Kathmandu's afternoon a quarter to.
NOON = datetime(2026, 9, 23, 12, tzinfo=UTC)
DAYS = {"period": "days", "first": "2026-09-22", "last": "2026-09-23"}


@pytest.fixture
def acme(db: None) -> Organization:
    """An organization in Kathmandu (UTC + 5:45) with usage on two of its days, all of it folded."""
    acme = world.organization()
    acme.time_zone = "Asia/Kathmandu"
    acme.save()
    ada = world.member(acme, "ada@example.com")
    site = projects.create(organization=acme, name="site", by=BY)
    key = world.organization_key(acme, name="server").key
    records.mark(NOON - timedelta(days=9))
    midnight = datetime(2026, 9, 22, 18, 15, tzinfo=UTC)
    write(
        record(acme.pk, midnight - timedelta(seconds=1), model="gpt-4o", api_key_id=key.id, project_id=site.pk,
            input_tokens=1000, cached_input_tokens=400, output_tokens=50, cost_usd=Decimal("0.25")),
        record(acme.pk, midnight, model="gpt-4o", member_id=ada.pk, input_tokens=7, output_tokens=1,
            cost_usd=Decimal("0.000001")),
        record(acme.pk, midnight, model="deepseek-chat", input_tokens=10, output_tokens=2, cost_usd=Decimal("0.5")),
    )  # fmt: skip
    records.fold(start=NOON - timedelta(days=9), until=NOON)
    return acme


def rows(page: Any) -> list[tuple[str, str, int, int, int, int | None]]:
    """The table: names, costs, requests, input and output tokens, shares."""
    told = page.context["told"]
    return [
        (row.label, str(row.used.cost_usd.normalize()), row.used.requests, row.used.input_tokens,
            row.used.output_tokens, row.percent)
        for row in told.rows
    ]  # fmt: skip


def test_a_periods_usage_is_told_by_model_with_its_sums(acme: Organization) -> None:
    page = owner(acme).get(PLACE, DAYS)
    assert rows(page) == [
        ("deepseek-chat", "0.5", 1, 10, 2, 66),
        ("gpt-4o", "0.250001", 2, 1007, 51, 33),
    ]
    total = page.context["told"].total
    assert (total.requests, total.input_tokens, total.cached_input_tokens, total.output_tokens) == (3, 1017, 400, 53)
    assert total.cost_usd == Decimal("0.750001")
    shown = text(page)
    assert 'title="0.750001 USD">$0.75<' in shown
    assert "22–23 September 2026" in shown
    assert "Days in Asia/Kathmandu" in shown


def test_days_begin_at_the_organizations_midnight(acme: Organization) -> None:
    page = owner(acme).get(PLACE, DAYS)
    assert [(name, total) for name, _, total in page.context["chart"].rows] == [
        ("22 Sep", Decimal("0.25")), ("23 Sep", Decimal("0.500001")),
    ]  # fmt: skip
    assert [(f"{day:%d}", used.requests) for day, _, used in page.context["days"]] == [("23", 2), ("22", 1)]
    assert rows(owner(acme).get(PLACE, {**DAYS, "last": "2026-09-22"})) == [("gpt-4o", "0.25", 1, 1000, 50, 100)]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("key", ["without a key", "server (…{})"]),
        ("project", ["without a project", "site"]),
        ("member", ["nobody in person", "ada@example.com"]),
    ],
)
def test_keys_projects_and_members_are_told_by_name(acme: Organization, by: str, names: list[str]) -> None:
    page = owner(acme).get(PLACE, {**DAYS, "by": by})
    last_four = text(page).partition("server (…")[2][:4]
    assert [row.label for row in page.context["told"].rows] == [name.format(last_four) for name in names]


def test_the_chart_measures_what_was_asked_for(acme: Organization) -> None:
    for show, totals in (("requests", [1, 2]), ("tokens", [1050, 20])):
        page = owner(acme).get(PLACE, {**DAYS, "show": show})
        assert [total for _, _, total in page.context["chart"].rows] == totals


def test_every_row_leads_to_its_requests(acme: Organization) -> None:
    browser = owner(acme)
    for by, listed in (("model", [1, 2]), ("key", [2, 1]), ("project", [2, 1]), ("member", [2, 1])):
        page = browser.get(PLACE, {**DAYS, "by": by})
        assert [len(browser.get(row.place).context["lines"]) for row in page.context["told"].rows] == listed
    assert [len(browser.get(place).context["lines"]) for _, place, _ in page.context["days"]] == [2, 1]


def test_the_file_holds_every_sum_by_day_and_runs_nothing_in_a_spreadsheet(acme: Organization) -> None:
    write(record(acme.pk, NOON, model="=cmd()", cost_usd=Decimal("0.1")))
    answer = owner(acme).get(PLACE, {**DAYS, "format": "csv"})
    assert answer["Content-Disposition"] == (
        'attachment; filename="usage-acme-labs-2026-09-22-2026-09-23-by-model.csv"'
    )
    assert text(answer).splitlines() == [
        "day,model,requests,input_tokens,cached_input_tokens,output_tokens,cost_usd",
        "2026-09-22,gpt-4o,1,1000,400,50,0.25",
        "2026-09-23,'=cmd(),1,0,0,0,0.1",
        "2026-09-23,deepseek-chat,1,10,0,2,0.5",
        "2026-09-23,gpt-4o,1,7,0,1,0.000001",
    ]
    by_member = text(owner(acme).get(PLACE, {**DAYS, "by": "member", "format": "csv"})).splitlines()
    assert by_member[0].startswith("day,member,member_id,requests")
    assert by_member[1] == "2026-09-22,nobody in person,,1,1000,400,50,0.25"
    assert by_member[2].startswith("2026-09-23,ada@example.com,mem_")


def test_markup_in_names_is_text(acme: Organization) -> None:
    evil = "<script>alert(1)</script>"
    key = world.organization_key(acme, name=evil).key
    write(record(acme.pk, NOON, model=evil, api_key_id=key.id, cost_usd=Decimal("0.1")))
    for by in ("model", "key"):
        shown = text(owner(acme).get(PLACE, {**DAYS, "by": by}))
        assert evil not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_a_member_sees_only_what_they_used_and_not_who_else_used_what(acme: Organization) -> None:
    browser = seen(acme, "ada@example.com")
    page = browser.get(PLACE, DAYS)
    assert rows(page) == [("gpt-4o", "0.000001", 1, 7, 1, 100)]
    assert "only what you used" in text(page)
    assert browser.get(PLACE, {**DAYS, "by": "member"}).status_code == 400
    assert "deepseek-chat" not in text(browser.get(PLACE, {**DAYS, "format": "csv"}))


def test_who_may_see_usage_sees_the_page_and_nobody_else(acme: Organization) -> None:
    for role in ("admin", "billing", "viewer", "member"):
        assert member(acme, role).get(PLACE).status_code == 200
    assert owner(world.organization("other")).get(PLACE).status_code == 404


@pytest.mark.parametrize(
    "asked",
    [
        {"period": "century"}, {"by": "secret"}, {"show": "all"}, {"period": "days"}, {**DAYS, "first": "2026-09-24"},
        {**DAYS, "first": "0001-01-01"}, {**DAYS, "first": "2025-09-22"}, {**DAYS, "last": "tomorrow"},
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said_and_nothing_is_shown(acme: Organization, asked: dict[str, str]) -> None:
    page = owner(acme).get(PLACE, asked)
    assert page.status_code == 400
    assert 'role="alert"' in text(page)
    assert "told" not in page.context
    # htmx shows nothing of an answer that is an error.
    assert owner(acme).get(PLACE, asked, headers={"HX-Request": "true"}).status_code == 200


def test_the_number_of_queries_depends_on_nothing(acme: Organization, django_assert_num_queries: Any) -> None:
    browser = owner(acme)
    for count in (3, 300):
        for by, queries in (("model", 7), ("key", 8), ("member", 8), ("project", 8)):
            with django_assert_num_queries(queries):
                browser.get(PLACE, {**DAYS, "by": by})
        made = [
            record(acme.pk, NOON - timedelta(minutes=5 * n), model=f"m{n}", api_key_id=ids.new(), member_id=ids.new())
            for n in range(count)
        ]
        write(*made)
