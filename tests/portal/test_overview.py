from datetime import UTC, datetime
from decimal import Decimal

import pytest

from portal.overview import forecast
from tests.orgs import world
from tests.portal.world import member, owner

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_the_forecast_divides_what_is_left_by_the_days_of_late() -> None:
    told = forecast(available_usd=Decimal(30), spent_usd=Decimal(14), over=7, now=NOW)
    assert (told.pace_usd, told.days, told.runs_out) == (2, 15, datetime(2026, 5, 16, 12, tzinfo=UTC))


@pytest.mark.parametrize(("available", "spent"), [(0, 7), (-3, 7), (30, 0), (10**9, 1)])
def test_nothing_left_or_nothing_used_has_no_forecast(available: int, spent: int) -> None:
    assert forecast(available_usd=Decimal(available), spent_usd=Decimal(spent), over=7, now=NOW).days is None


def test_an_owner_sees_the_balance_and_who_is_no_member_finds_nothing(db: None) -> None:
    acme = world.organization()
    world.organization("other")
    page = owner(acme).get("/portal/acme-labs/")
    assert page.status_code == 200
    assert "$0.00" in page.content.decode()
    assert owner(acme).get("/portal/other/").status_code == 404
    assert owner(acme).get("/portal/nowhere/").status_code == 404


def test_every_role_may_see_it(db: None) -> None:
    acme = world.organization()
    for role in ("admin", "billing", "member", "viewer"):
        assert member(acme, role).get("/portal/acme-labs/").status_code == 200
