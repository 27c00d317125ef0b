from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction

from billing import budgets, grants, ledger, wallets
from billing.books import Lot
from billing.grants import Conditions
from billing.ledger import Move
from billing.models import Account, TransferKind
from billing.wallets import State
from core import clock
from metering import rollups
from orgs.models import Organization
from portal.overview import Forecast, burn_down, forecast, pace_days
from tests.billing.world import charge
from tests.metering import records
from tests.metering.records import record, write
from tests.metering.world import event
from tests.orgs import world
from tests.orgs.world import BY
from tests.portal.world import member, owner, seen, text

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PLACE = "/portal/acme-labs/"


def test_the_forecast_divides_what_is_left_by_the_days_of_late() -> None:
    told = forecast(available_usd=Decimal(30), spent_usd=Decimal(14), over=7, now=NOW)
    assert (told.pace_usd, told.days, told.runs_out) == (2, 15, datetime(2026, 5, 16, 12, tzinfo=UTC))


def lot(remaining: str, ends_in: int | None = None, *, number: int = 1) -> Lot:
    """Credit that ends in so many days."""
    ends = None if ends_in is None else NOW + ends_in * DAY
    return Lot(UUID(int=number), "promotional", Decimal(remaining), expires_at=ends)


@pytest.mark.parametrize(
    ("lots", "available", "days", "unused"),
    [
        # Two dollars a day: of 100 that end in 10 days 80 are never used, and 10 that stay last for 5 days more.
        ([lot("100", 10), lot("10", number=2)], "110", 15, "80"),
        # What is spent first does not end first: 10 are used up in 5 days, and of 20 that end then nothing was used.
        ([lot("10"), lot("20", 5, number=2)], "30", 5, "20"),
        ([lot("10"), lot("20", 4, number=2)], "30", 5, "20"),
        # All of it is used before it ends.
        ([lot("10", 6)], "10", 5, "0"),
        # Nothing is there after its end, but a credit limit of 8.
        ([lot("100", 3)], "108", 7, "94"),
        ([lot("100", 3)], "100", 3, "94"),
        # Five are held for calls under way.
        ([lot("25", 100)], "20", 10, "0"),
        ([lot("10", 1), lot("10", 2, number=2), lot("10", 3, number=3)], "30", 3, "24"),
    ],
)
def test_credit_that_ends_before_it_is_used_is_not_counted_on(
    lots: list[Lot], available: str, days: int, unused: str
) -> None:
    told = forecast(available_usd=Decimal(available), spent_usd=Decimal(14), over=7, now=NOW, lots=lots)
    assert (told.days, told.unused_usd) == (days, Decimal(unused))


@pytest.mark.parametrize(
    ("spent", "over"),
    [([0, 0, 0, 0], 0), ([0, 0, 0, 5], 0), ([0, 0, 3, 0], 1), ([0, 3, 0, 0], 2), ([1] * 30, 7), ([1, *[0] * 29], 7)],
)
def test_the_pace_is_of_the_days_since_the_first_use_and_of_a_week_at_most(spent: list[int], over: int) -> None:
    assert pace_days([Decimal(amount) for amount in spent]) == over


@pytest.mark.parametrize(("available", "spent"), [(0, 7), (-3, 7), (30, 0), (10**9, 1)])
def test_nothing_left_or_nothing_used_has_no_forecast(available: int, spent: int) -> None:
    assert forecast(available_usd=Decimal(available), spent_usd=Decimal(spent), over=7, now=NOW).days is None


def test_an_owner_sees_the_balance_and_who_is_no_member_finds_nothing(db: None) -> None:
    acme = world.organization()
    world.organization("other")
    page = owner(acme).get(PLACE)
    assert page.status_code == 200
    assert "$0.00" in page.content.decode()
    assert owner(acme).get("/portal/other/").status_code == 404
    assert owner(acme).get("/portal/nowhere/").status_code == 404


def test_every_role_may_see_it(db: None) -> None:
    acme = world.organization()
    for role in ("admin", "billing", "member", "viewer"):
        assert member(acme, role).get(PLACE).status_code == 200


# The balance


def state(balance: str) -> State:
    """A wallet that holds so much."""
    left, none = Decimal(balance), Decimal(0)
    return State(
        organization_id=UUID(int=1), balance_usd=left, held_usd=none, overdraft_usd=none, spent_usd=none,
        credit_limit_usd=none, low_usd=none, available_usd=left, status="active", mode="strict", enforcement="strict",
    )  # fmt: skip


def test_the_balance_goes_down_at_the_pace_of_late_until_nothing_is_left() -> None:
    edges = [NOW + number * DAY for number in range(-1, 3)]
    pace = Forecast(Decimal(2), 2, NOW)
    told = burn_down(
        closing=[Decimal(9), Decimal(7)], state=state("5"), expected=pace, lots=[], edges=edges, now=NOW,
        zone=ZoneInfo("UTC"),
    )  # fmt: skip
    assert [spot.label for spot in told.spots] == [
        "30 Apr: $9.00", "1 May: $7.00", "2 May: $5.00", "3 May: about $3.00", "4 May: about $1.00",
        "5 May: about $0.00",
    ]  # fmt: skip
    assert told.rows == (("30 Apr", Decimal(9)), ("1 May", Decimal(7)), ("2 May", Decimal(5)))


def test_the_balance_falls_where_credit_ends() -> None:
    edges = [NOW - DAY, NOW, NOW + DAY]
    told = burn_down(
        closing=[Decimal(9)], state=state("20"), expected=Forecast(Decimal(2), 5, NOW),
        lots=[lot("14", 3), lot("6", number=2)], edges=edges, now=NOW, zone=ZoneInfo("UTC"),
    )  # fmt: skip
    assert [spot.label for spot in told.spots[2:]] == [
        "2 May: about $18.00", "3 May: about $16.00", "4 May: about $6.00", "5 May: about $4.00",
        "6 May: about $2.00", "7 May: about $0.00",
    ]  # fmt: skip


@pytest.mark.parametrize(("balance", "ahead"), [("5", None), ("5", Forecast(Decimal(0), None, None)), ("-1", None)])
def test_without_a_pace_or_with_nothing_left_nothing_is_expected(balance: str, ahead: Forecast | None) -> None:
    told = burn_down(
        closing=[], state=state(balance), expected=ahead, lots=[], edges=[NOW, NOW + DAY], now=NOW,
        zone=ZoneInfo("UTC"),
    )  # fmt: skip
    assert told.ahead == ""


@pytest.fixture
def acme(db: None) -> Organization:
    """An organization with 10 dollars, a dollar used each day since, and a request an hour ago."""
    acme = world.organization()
    now = clock.now()
    records.mark(rollups.floor(now - 40 * DAY))
    grants.promote(organization_id=acme.pk, amount_usd=Decimal(10), reference="given", actor="tests", reason="given")
    for days in range(3, 0, -1):
        at = now - days * DAY
        write(record(acme.pk, at, cost_usd=Decimal(1)))
        with transaction.atomic():
            sides = (TransferKind.CHARGE, Account.WALLET, Account.REVENUE, Decimal(1))
            ledger.post([Move(acme.pk, *sides, f"day {days}", "tests", "")], at=at)
    return acme


def test_balances_are_those_of_the_statement_and_the_forecast_is_drawn_on(acme: Organization) -> None:
    page = owner(acme).get(PLACE)
    # The credit's line came first and carries today's date: before the first charge there was nothing.
    assert [amount for _, amount in page.context["trend"].rows] == [*[0] * 26, 9, 8, 7, 7]
    # A dollar on each of the 3 days since the first use.
    assert page.context["forecast"].pace_usd == 1
    assert page.context["forecast"].days == 7
    shown = text(page)
    assert "7 days" in shown
    assert "at $1.00 a day (mean of the 3 days before today)" in shown
    assert 'class="line ahead"' in shown
    assert page.context["sum_usd"] == 3
    assert 'title="7 USD">$7.00<' in shown


def test_a_member_sees_their_own_usage_and_no_forecast_from_a_part_of_it(acme: Organization) -> None:
    ada = world.member(acme, "ada@example.com")
    write(record(acme.pk, clock.now(), model="adas", member_id=ada.pk, cost_usd=Decimal("0.5")))
    page = seen(acme, "ada@example.com").get(PLACE)
    assert [line.model for line in page.context["lines"]] == ["adas"]
    assert page.context["today_usd"] == Decimal("0.5")
    assert page.context["forecast"] is None
    assert "ceilings" not in page.context
    assert page.context["state"].balance_usd == 7


def test_keys_stand_by_what_they_cost_this_month(db: None) -> None:
    acme = world.organization()
    named = {name: world.organization_key(acme, name=name).key for name in "abcdefg"}
    now = clock.now()
    write(
        *(record(acme.pk, now, api_key_id=key.id, cost_usd=Decimal(n)) for n, key in enumerate(named.values(), 1)),
        record(acme.pk, now - 40 * DAY, api_key_id=named["a"].id, cost_usd=Decimal(99)),
    )
    records.mark(rollups.floor(now - 50 * DAY))
    browser = owner(acme)
    found = browser.get(PLACE).context["top_keys"]
    assert [(label[0], used.cost_usd) for label, _, used in found] == [
        ("g", 7), ("f", 6), ("e", 5), ("d", 4), ("c", 3),
    ]  # fmt: skip
    assert [line.cost_usd for line in browser.get(found[0][1]).context["lines"]] == [7]
    assert len(browser.get(PLACE).context["lines"]) == 5


def test_credit_that_ends_within_a_month_is_told(acme: Organization) -> None:
    now = clock.now()
    for name, end in (("soon", now + 3 * DAY), ("later", now + 29 * DAY), ("far", now + 31 * DAY)):
        with transaction.atomic():
            grants.give(
                organization_id=acme.pk, kind="promotional", amount_usd=Decimal(2), reference=name, actor="tests",
                reason="given", conditions=Conditions(expires_at=end, models=("gpt-4o",)),
            )  # fmt: skip
    page = owner(acme).get(PLACE)
    assert [grant.reference for grant in page.context["expiring"]] == ["soon", "later"]
    assert "Credit that ends soon" in text(page)


def test_budgets_near_their_end_are_told_by_name_to_who_may_read_billing(db: None) -> None:
    acme = world.organization()
    key = world.organization_key(acme, name="server").key
    # A request of 362 millionths is more than four fifths of 450, and less of 500; of nothing nothing is left.
    for subject, subject_id, window, ceiling in (
        ("organization", acme.pk, "7d", "0.00045"), ("organization", acme.pk, "1d", "0.0005"),
        ("key", key.id, "7d", "0"),
    ):  # fmt: skip
        budgets.set_ceiling(
            organization_id=acme.pk, subject=subject, subject_id=subject_id, window=window, unit="usd",
            ceiling=Decimal(ceiling), by=BY,
        )  # fmt: skip
    charge(acme, event())
    page = owner(acme).get(PLACE)
    assert [(label, window, percent, one.left) for label, window, percent, one in page.context["ceilings"]] == [
        (f"server (…{key.last_four})", "any 7 days", 100, 0),
        ("The organization", "any 7 days", 80, Decimal("0.000088")),
    ]
    # A ceiling of nothing is drawn as full, and says what that means.
    assert text(page).count("full: calls are refused") == 1
    assert 'title="0.000088 USD">$0.000088</span> of $0.00045 left' in text(page)
    assert "ceilings" not in member(acme, "member").get(PLACE).context


# The beginning


def test_who_has_used_nothing_sees_three_steps_and_what_is_done_of_them(db: None) -> None:
    acme = world.organization()
    page = owner(acme).get(PLACE)
    assert [(step.label, step.place, step.done) for step in page.context["steps"]] == [
        ("Make a key", "/portal/acme-labs/keys", False),
        ("Add credit", "/portal/acme-labs/credit", False),
        ("Make a call", "/portal/acme-labs/quickstart", False),
    ]
    shown = text(page)
    assert "Begin here" in shown
    assert "calls are refused" not in shown
    assert "Cost by day and model" not in shown
    world.organization_key(acme)
    grants.promote(organization_id=acme.pk, amount_usd=Decimal(1), reference="given", actor="tests", reason="given")
    page = owner(acme).get(PLACE)
    assert [step.done for step in page.context["steps"]] == [True, True, False]
    # A key of the organization is no key of who may not use it.
    assert [step.done for step in member(acme, "member").get(PLACE).context["steps"]] == [False, True, False]
    # Whoever may not pay is not sent to pay.
    assert member(acme, "viewer").get(PLACE).context["steps"][1].place is None
    charge(acme, event())
    assert "steps" not in owner(acme).get(PLACE).context


def test_a_frozen_wallet_has_no_forecast_and_says_so(acme: Organization) -> None:
    wallets.freeze(organization_id=acme.pk, reason="tests", by=BY)
    page = owner(acme).get(PLACE)
    assert page.context["forecast"] is None
    assert "This wallet is frozen" in text(page)


def test_markup_in_names_is_text(acme: Organization) -> None:
    evil = "<script>alert(1)</script>"
    key = world.organization_key(acme, name=evil).key
    write(record(acme.pk, clock.now(), model=evil, api_key_id=key.id, cost_usd=Decimal(5)))
    shown = text(owner(acme).get(PLACE))
    assert evil not in shown
    # Of the model a bar, the legend and a row; of the key two rows.
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5


def test_the_number_of_queries_has_a_bound_that_depends_on_nothing(
    acme: Organization, django_assert_max_num_queries: Any
) -> None:
    browser = owner(acme)
    for count in (3, 300):
        now = clock.now()
        keys = [world.organization_key(acme).key for _ in range(count)]
        write(*(record(acme.pk, now, model=f"m{n}", api_key_id=key.id) for n, key in enumerate(keys)))
        with django_assert_max_num_queries(16):
            browser.get(PLACE)
