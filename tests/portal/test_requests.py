from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from billing import corrections, grants
from core import clock, errors, ids
from metering import partitions, usage
from metering.models import UsageRecord
from orgs.models import Organization
from portal import requests
from tests.billing.world import charge
from tests.metering import records
from tests.metering.records import record, write
from tests.metering.world import event
from tests.orgs import world
from tests.orgs.world import BY
from tests.portal.world import member, owner, seen, signed_in, text

PLACE = "/portal/acme-labs/requests"
NOW = datetime(2026, 9, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def acme(db: None) -> Organization:
    """An organization in Berlin."""
    acme = world.organization()
    acme.time_zone = "Europe/Berlin"
    acme.save()
    records.mark(NOW - timedelta(days=9))
    return acme


def listed(page: Any) -> list[str]:
    """Models of the requests on a page."""
    assert page.status_code == 200, text(page)
    return [line.model for line in page.context["lines"]]


def shown(record_id: UUID) -> str:
    """A record's id as customers see it."""
    return ids.show("usage", record_id)


def test_a_row_tells_when_what_by_which_key_how_much_and_how_it_went(acme: Organization) -> None:
    key = world.organization_key(acme, name="server").key
    (made,) = write(
        record(acme.pk, NOW, model="gpt-4o", api_key_id=key.id, input_tokens=12000, cached_input_tokens=640,
            output_tokens=200, cost_usd=Decimal("0.0123456789"), latency_ms=1530, status=200)
    )  # fmt: skip
    page = owner(acme).get(PLACE)
    (line,) = page.context["lines"]
    assert line.id == shown(made)
    assert (line.key, line.said, line.tone) == (f"server (…{key.last_four})", "200", "good")
    said = text(page)
    for cell in (
        f'id="{shown(made)}"', "2026-09-23 14:00:00", "Time (Europe/Berlin)", ">gpt-4o<", ">12,000<", ">640<", ">200<",
        'title="0.0123456789 USD">$0.012345<', ">1,530 ms<",
    ):  # fmt: skip
        assert cell in said


@pytest.mark.parametrize(
    ("status", "outcome", "corrects", "said"),
    [
        (200, "completed", False, ("200", "good")),
        (None, "completed", False, ("done", "good")),
        (200, "client_aborted", False, ("hung up", "warn")),
        (502, "upstream_error", False, ("502 broke off", "bad")),
        (None, "upstream_error", False, ("broke off", "bad")),
        (200, "completed", True, ("correction", "warn")),
    ],
)
def test_how_a_request_went(status: int | None, outcome: str, corrects: bool, said: tuple[str, str]) -> None:
    assert requests.went(status=status, outcome=outcome, corrects=corrects) == said


def test_pages_follow_each_other_newest_first_and_none_is_left_out(acme: Organization) -> None:
    write(*(record(acme.pk, NOW + n * MINUTE, model=f"m{n:03}") for n in range(120)))
    browser = owner(acme)
    page, found, pages = browser.get(PLACE), [], 1
    assert page.context["newest"] is None
    while True:
        found += listed(page)
        if page.context["older"] is None:
            break
        page = browser.get(page.context["older"])
        pages += 1
        assert page.context["newest"] == PLACE
        # A page further back stays as it is.
        assert page.context["look"] is None
    assert found == [f"m{n:03}" for n in reversed(range(120))]
    assert pages == 3


@pytest.mark.parametrize("after", ["usage_01M80A2186E9ESFWGN9GKYWCZX", "usage_", "x", "1 OR 1=1", "\x00"])
def test_a_cursor_that_is_not_ours_is_refused_with_a_page(acme: Organization, after: str) -> None:
    write(record(acme.pk, NOW))
    (theirs,) = write(record(world.organization("other").pk, NOW))
    for cursor in (after, shown(theirs)):
        page = owner(acme).get(PLACE, {"after": cursor})
        assert page.status_code == 400
        assert "after is not the id of a record in this list" in text(page)


@pytest.fixture
def mixed(acme: Organization) -> Organization:
    """Requests of different keys, models, sources and days; the model says what is different."""
    key = world.organization_key(acme, name="server").key
    write(
        record(acme.pk, NOW, model="plain"),
        record(acme.pk, NOW + MINUTE, model="key", api_key_id=key.id),
        record(acme.pk, NOW + 2 * MINUTE, model="tools", source="dev_tools"),
        # Midnight in Berlin, and the instant before.
        record(acme.pk, datetime(2026, 9, 20, 22, tzinfo=UTC), model="21st"),
        record(acme.pk, datetime(2026, 9, 20, 21, 59, 59, tzinfo=UTC), model="20th"),
    )
    return acme


def test_filters_leave_what_they_name(mixed: Organization) -> None:
    browser = owner(mixed)
    (key,) = [value for value, name in browser.get(PLACE).context["form"].fields["key"].choices if "server" in name]
    for asked, models in (
        ({}, ["tools", "key", "plain", "21st", "20th"]),
        ({"model": " key "}, ["key"]),
        ({"model": "ke"}, []),
        ({"key": key}, ["key"]),
        ({"key": "none"}, ["tools", "plain", "21st", "20th"]),
        ({"source": "dev_tools"}, ["tools"]),
        ({"source": "dev_tools", "model": "key"}, []),
        ({"period": "days", "first": "2026-09-21", "last": "2026-09-21"}, ["21st"]),
        ({"period": "days", "first": "2026-09-20", "last": "2026-09-21"}, ["21st", "20th"]),
    ):
        assert listed(browser.get(PLACE, asked)) == models, asked


def test_a_filter_that_no_field_shows_can_be_seen_and_taken_off(mixed: Organization) -> None:
    page = owner(mixed).get(PLACE, {"project": "none", "model": "key"})
    assert [(chip.label, chip.without) for chip in page.context["chips"]] == [("project: none", f"{PLACE}?model=key")]
    assert owner(mixed).get(PLACE, {"member": "mem_x"}).status_code == 400


def test_names_of_other_organizations_are_not_told_to_who_guesses_ids(mixed: Organization) -> None:
    other = world.organization("other")
    eve = world.member(other, "eve@example.com")
    key = world.organization_key(other, name="theirs").key
    personal = world.personal_key(eve.user, name="evening").key
    said = text(owner(mixed).get(PLACE, {"member": ids.show("mem", eve.pk)}))
    for key_id in (key.id, personal.id):
        said += text(owner(mixed).get(PLACE, {"key": ids.show("key", key_id)}))
    assert not {word for word in ("eve@", "theirs", "evening") if word in said}


def test_what_is_new_comes_alone_and_nothing_else(acme: Organization) -> None:
    now = clock.now()
    write(record(acme.pk, now - timedelta(seconds=30), model="before", status=200))
    browser = owner(acme)
    look = browser.get(PLACE, {"model": "new"}).context["look"]
    assert parse_qs(urlsplit(look).query)["model"] == ["new"]
    nothing = browser.get(look)
    assert 'id="tail"' in text(nothing)
    assert "<tr" not in text(nothing)
    # One that began before the page was read, and was written after it.
    write(record(acme.pk, now - timedelta(seconds=2), model="new"), record(acme.pk, now, model="new"))
    assert listed(browser.get(look)) == ["new", "new"]
    assert "<html" not in text(browser.get(look))
    assert listed(browser.get(f"{PLACE}?since={clock.to_unix(now) - 10}&model=before")) == []


def test_more_than_a_look_shows_is_said(acme: Organization) -> None:
    write(*(record(acme.pk, clock.now(), model="m") for _ in range(4)))
    with mock.patch.object(requests, "LIVE_MAX", 3):
        page = owner(acme).get(PLACE, {"since": clock.to_unix(clock.now()) - 60})
        narrow = owner(acme).get(PLACE, {"since": str(clock.to_unix(clock.now()) - 60), "model": "m", "period": "1"})
    assert len(listed(page)) == 3
    assert "More than 3 came in at once" in text(page)
    # Whoever loads the page again still sees what they chose.
    assert f'<a href="{PLACE}?model=m&amp;period=1">Load the page again</a>' in text(narrow)


@pytest.mark.parametrize("since", ["x", "-1", "1e9", "99999999999999999999"])
def test_a_time_that_is_none_is_refused(acme: Organization, since: str) -> None:
    assert owner(acme).get(PLACE, {"since": since}).status_code in {400, 422}


def test_a_list_that_ends_in_the_past_looks_for_nothing_new(acme: Organization) -> None:
    past = {"period": "days", "first": "2026-09-20", "last": "2026-09-21"}
    assert owner(acme).get(PLACE, past).context["look"] is None
    assert owner(acme).get(PLACE, {"period": "1"}).context["look"] is not None


def test_a_member_finds_their_own_requests_only(acme: Organization) -> None:
    ada, bob = (world.member(acme, f"{name}@example.com") for name in ("ada", "bob"))
    mine, theirs = write(
        record(acme.pk, NOW, model="adas", member_id=ada.pk), record(acme.pk, NOW, model="bobs", member_id=bob.pk)
    )
    browser = seen(acme, "ada@example.com")
    assert listed(browser.get(PLACE)) == ["adas"]
    assert listed(browser.get(PLACE, {"member": ids.show("mem", bob.pk)})) == []
    assert listed(browser.get(PLACE, {"since": clock.to_unix(NOW) - 60})) == ["adas"]
    assert browser.get(PLACE, {"after": shown(theirs)}).status_code == 400
    with mock.patch("billing.explain.explain", side_effect=errors.Archived("kept elsewhere")):
        assert browser.get(f"{PLACE}/{shown(mine)}").status_code == 200
    # One page for a neighbour's, a colleague's and a made-up one.
    for record_id in (shown(theirs), shown(ids.new()), "usage_x", "new"):
        assert browser.get(f"{PLACE}/{record_id}").status_code == 404


def test_every_role_sees_requests_and_no_stranger_does(acme: Organization) -> None:
    (made,) = write(record(acme.pk, NOW))
    for role in ("admin", "billing", "viewer", "member"):
        assert member(acme, role).get(PLACE).status_code == 200
    stranger = owner(world.organization("other"))
    assert stranger.get(PLACE).status_code == 404
    assert stranger.get(f"{PLACE}/{shown(made)}").status_code == 404
    assert stranger.get(f"/portal/other/requests/{shown(made)}").status_code == 404


def test_markup_that_gateways_send_is_text(acme: Organization) -> None:
    evil = "<img src=x onerror=alert(1)>"
    key = world.organization_key(acme, name=evil).key
    (made,) = write(record(acme.pk, NOW, model=evil, api_key_id=key.id, end_user=evil, metadata=None, request_id=evil))
    page = text(owner(acme).get(PLACE, {"model": evil}))
    with mock.patch("billing.explain.explain", side_effect=errors.Archived(evil)):
        page += text(owner(acme).get(f"{PLACE}/{shown(made)}"))
    assert evil not in page
    # In a row and in the field by which it was found; its key; title, facts and what is said on the page of its own.
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 8


def test_the_number_of_queries_has_a_bound_that_depends_on_nothing(
    acme: Organization, django_assert_max_num_queries: Any
) -> None:
    key = world.organization_key(acme).key
    browser = owner(acme)
    for count in (3, 300):
        now = clock.now()
        write(*(record(acme.pk, now, model=f"m{n}", api_key_id=ids.new(), cost_usd=Decimal(1)) for n in range(count)))
        for _ in range(count - 1):
            world.organization_key(acme)
        # In a transaction nothing is cached: of these, four are channels, routes, models and prices.
        with django_assert_max_num_queries(13):
            browser.get(PLACE)
        with django_assert_max_num_queries(16):
            browser.get(PLACE, {"key": ids.show("key", key.id)})
        with django_assert_max_num_queries(9):
            browser.get(PLACE, {"since": clock.to_unix(now) - 60})
    assert len(listed(browser.get(PLACE))) == requests.PAGE


# One request


@pytest.fixture
def charged(db: None) -> Organization:
    """An organization with credit, one of whose two requests of a batch costs 362 millionths."""
    acme = world.organization()
    grants.promote(organization_id=acme.pk, amount_usd=Decimal(1), reference="given", actor="tests", reason="given")
    return acme


def test_a_request_is_taken_apart_to_the_last_digit(charged: Organization) -> None:
    first = event(end_user="ada", latency_ms=1500, metadata={"feature": "search"})
    charge(charged, first, event(model="gpt-4o"))
    made = UsageRecord.objects.get(event_id=first.event_id)
    page = owner(charged).get(f"{PLACE}/{shown(made.pk)}")
    assert page.status_code == 200
    said = text(page)
    assert "360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362" in said
    assert page.context["found"].matches
    assert [name for name, _ in page.context["parts"]] == ["input", "cached input", "output"]
    for cell in ("$0.0000972", "$0.0000448", "$0.0002200", "$0.0003620", ">$0.000362<", "1,500 ms", "search", "ada"):
        assert cell in said, cell
    # What its whole batch cost, on the statement.
    transfer = page.context["transfer"]
    # 360 × 2.5 + 640 × 1.25 + 200 × 10 millionths more.
    assert transfer.amount_usd == Decimal("0.004062")
    assert owner(charged).get(page.context["line"]).context["lines"][0].transfer == transfer


def test_what_a_batch_cost_is_for_who_may_read_the_wallet(charged: Organization) -> None:
    (one,) = charge(charged, event())
    role = world.member(charged, "eve@example.com", "viewer")
    role.role.permissions = ["usage:read_all"]
    role.role.save()
    page = signed_in(role.user).get(f"{PLACE}/{shown(UsageRecord.objects.get(event_id=one.event_id).pk)}")
    assert page.status_code == 200
    assert page.context["transfer"] is None
    assert "On the statement" not in text(page)


def test_a_void_is_shown_with_what_is_left_and_leads_both_ways(charged: Organization) -> None:
    told = event()
    charge(charged, told)
    corrections.void(organization_id=charged.pk, event_id=told.event_id, reason="sent twice", by=BY)
    back = UsageRecord.objects.get(organization_id=charged.pk, corrects_id__isnull=False)
    first = UsageRecord.objects.get(organization_id=charged.pk, corrects_id__isnull=True)
    browser = owner(charged)
    page = browser.get(f"{PLACE}/{shown(first.pk)}")
    assert "sent twice" in text(page)
    assert "$0.00 after corrections" in text(page)
    ((place, _),) = page.context["corrections"]
    other = browser.get(place)
    assert other.context["record"].pk == back.pk
    assert other.context["corrects"] == f"{PLACE}/{shown(first.pk)}"
    assert ">−$0.000362<" in text(other)


def test_a_month_that_is_archived_says_so(acme: Organization) -> None:
    write(record(acme.pk, NOW))
    (first,) = [partitions.months("usage_record")[0]]
    long_ago = shown(ids.floor(first - timedelta(days=1)))
    page = owner(acme).get(f"{PLACE}/{long_ago}")
    assert page.status_code == 404
    assert "archived" in text(page)
    assert usage.is_archived(long_ago)
