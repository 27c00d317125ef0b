"""The desk's pages of what usage comes to: margins, and who used how much."""

import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from psycopg.errors import QueryCanceled

from billing import figures, margins
from core import clock, money
from metering.models import UsageRecord
from orgs.models import Organization
from tests import desk
from tests.billing import world as books
from tests.billing.pages import NASTY, acme, charge, explain_page, root, void
from tests.metering import world as metering

__all__ = ["acme", "root"]

MARGINS = "/admin/metering/usagerecord/margins/"


def test_explanations_and_margins_are_for_those_who_may_see_usage(acme: Organization) -> None:
    record, _ = charge(acme)
    void(acme, "evt_1")
    stranger = desk.clerk("view_transfer", "view_wallet")
    viewer = desk.clerk("view_usagerecord", email="viewer@example.com")
    buyer = desk.clerk("view_providerbill", email="buyer@example.com")
    for place, seer, blind in ((explain_page(record), viewer, buyer), (MARGINS, buyer, viewer)):
        assert stranger.get(place).status_code == 403
        assert blind.get(place).status_code == 403
        assert seer.get(place).status_code == 200
        assert Client().get(place)["Location"].startswith("/admin/login/")
    # What was corrected is for those who may see corrections.
    assert "sent by mistake" not in desk.read(viewer, explain_page(record)).text


def test_margins_are_summed_by_model_and_day_and_leave_the_unknown_apart(root: Client, acme: Organization) -> None:
    books.charge(acme, metering.event(provider_cost_usd=Decimal("0.0001")))
    books.charge(acme, metering.event(model="deepai-chat", routed_model="gpt-4o", provider_cost_usd=Decimal("0.001")))
    books.charge(acme, metering.event(model="gpt-4o"))
    (smart,) = UsageRecord.objects.filter(organization=acme, model="deepai-chat")
    today = clock.now().date()
    period = {"first": f"{today - timedelta(days=1)}", "last": f"{today + timedelta(days=1)}"}
    shown = desk.read(root, MARGINS, **period)
    lines = desk.cells(shown.text)
    # The fixture's three records cost 361.4 millionths each, and nobody said what they cost us.
    known = ["deepseek-chat", "-", "1", "0.000362", "0.0001", "0.000262", "72.37 %", "3", "0.0010842", "0"]
    unknown = ["gpt-4o", "-", "0", "-", "-", "-", "-", "1", "0.0037", "0"]
    assert known in lines
    assert unknown in lines
    assert any(line[1:] == known for line in lines)
    margin = smart.cost_usd - Decimal("0.001")
    (route,) = [line for line in lines if line[:2] == ["deepai-chat", "gpt-4o"]]
    assert route[2:6] == ["1", money.plain(smart.cost_usd), "0.001", money.plain(margin)]
    assert "Of 4 records nobody said what they cost us" in shown.text
    assert next(line for line in lines if line[:1] == ["all"])[2:4] == [
        "2",
        money.plain(smart.cost_usd + Decimal("0.000362")),
    ]
    desk.organization("other")
    assert known in desk.cells(desk.read(root, MARGINS, **period, organization="acme-labs").text)
    assert known not in desk.cells(desk.read(root, MARGINS, **period, organization="other").text)
    assert desk.counting([shown]) == []


def test_margins_are_of_the_last_week_unless_other_days_are_asked_for(root: Client, db: None) -> None:
    shown = desk.read(root, MARGINS)
    first, last = re.findall(r'type="date" name="\w+" value="([0-9-]+)"|name="\w+" value="([0-9-]+)"', shown.text)[:2]
    read = [date.fromisoformat(one or other) for one, other in (first, last)]
    assert read[1] - read[0] == timedelta(days=6)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"first": "2026-01-01", "last": "2026-06-01"}, "A period has 1 to 92 days."),
        ({"first": "2026-01-02", "last": "2026-01-01"}, "A period has 1 to 92 days."),
        ({"first": "0001-01-01", "last": "0001-01-02"}, "A period has 1 to 92 days."),
        ({"first": "9999-12-31", "last": "9999-12-31"}, "A period has 1 to 92 days."),
        ({"first": "x", "last": "2026-01-01"}, "Enter a valid date."),
        ({"first": "2026-01-01", "last": "2026-01-01", "organization": NASTY}, "No organization has that name."),
        ({"first": "2026-01-01", "last": ""}, "This field is required."),
    ],
)
def test_what_is_wrong_with_a_period_is_said_and_nothing_is_summed(
    root: Client, query: dict[str, str], why: str
) -> None:
    shown = desk.read(root, MARGINS, **query)
    assert desk.errors(shown) == [why]
    assert "By model" not in shown.text
    assert "<script>alert" not in shown.text


def test_margins_that_take_too_long_are_said_to(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**_: Any) -> None:
        raise OperationalError("canceling statement due to statement timeout") from QueryCanceled()

    monkeypatch.setattr(margins, "between", slow)
    shown = desk.read(root, MARGINS)
    assert (
        "It could not be worked out, perhaps for a shorter period: The service cannot do this right now" in shown.text
    )


def test_margins_and_explanations_take_the_same_queries_for_many_records(root: Client, acme: Organization) -> None:
    few = [desk.read(root, MARGINS), desk.read(root, explain_page(charge(acme)[0]))]
    desk.use(desk.organization("big"), 60, charges=10)
    big = Organization.objects.get(slug="big")
    many = [desk.read(root, MARGINS), desk.read(root, explain_page(charge(big)[0]))]
    assert [len(page.queries) for page in few] == [len(page.queries) for page in many]


def test_margins_show_names_of_models_as_text(root: Client, acme: Organization) -> None:
    books.charge(acme, metering.event(routed_model=NASTY, provider_cost_usd=Decimal(0)))
    shown = desk.read(root, MARGINS)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown.text
    assert "<script>alert" not in shown.text


def test_sales_of_some_days_are_shown_by_organization(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = desk.organization("acme-labs")
    told = [figures.Customer(acme.pk, acme.slug, figures.Sold(3, Decimal("0.81"), Decimal("0.3")))]
    monkeypatch.setattr(figures, "customers", lambda **asked: told if asked["model"] == "deepseek-chat" else [])
    place = "/admin/metering/usagerecord/sales/"
    shown = desk.read(root, place, first="2026-05-01", last="2026-05-31", model="deepseek-chat")
    assert desk.cells(shown.text)[1] == ["acme-labs", "3", "0.81", "0.30", "0.51", "62.96 %", "records"]
    assert "?organization=acme-labs" in shown.text
    assert "Nothing was used" in desk.read(root, place, first="2026-05-01", last="2026-05-31").text
    assert root.get(place, {"first": "2026-05-02", "last": "2026-05-01"}).status_code == 200
    assert desk.clerk("view_wallet").get(place).status_code == 403
