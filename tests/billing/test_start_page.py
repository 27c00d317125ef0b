"""The desk's first page: what each person sees, and where each figure leads."""

import json
import re
from datetime import date, timedelta
from decimal import Decimal

import pytest

from billing import figures, start_page
from core import clock
from tests import desk


def tiles(shown: desk.Page) -> dict[str, tuple[str, str]]:
    """What the page's tiles say, and where they lead."""
    found = [*shown.context["waiting"], *shown.context.get("sales", ()), *shown.context["money"]]
    return {tile.name: (tile.figure, tile.place) for tile in found}


@pytest.mark.django_db
def test_every_figure_leads_to_a_page_that_answers() -> None:
    root = desk.superuser()
    acme = desk.organization("acme-labs", usd="10")
    desk.use(acme, 2)
    shown = desk.read(root, "/admin/")
    found = tiles(shown)
    assert found["Owed to customers in usage"][0] == "$9.99"
    assert found["In quarantine"][0] == "2"
    assert found["Verify"][0] == "never run"
    places = {place for _, place in found.values()} | set(
        re.findall(r'href="(/admin/metering/usagerecord/[^"]+)"', shown.text)
    )
    for place in places:
        desk.read(root, place.replace("&amp;", "&"))
    assert len(places) > 40


@pytest.mark.django_db
def test_each_person_sees_the_figures_of_what_they_may_see() -> None:
    shown = desk.read(desk.clerk("view_wallet", "view_dispute"), "/admin/")
    assert list(tiles(shown)) == [
        "Open disputes",
        "Owed to customers in usage",
        "Owed by customers",
        "Set aside by open holds",
    ]
    assert "Sold in the last" not in shown.text
    nothing = desk.read(desk.clerk(email="nobody@example.com"), "/admin/")
    assert tiles(nothing) == {}
    assert "What your role may see" in nothing.text


@pytest.mark.django_db
def test_the_page_takes_the_same_statements_for_many_rows() -> None:
    root = desk.superuser()
    desk.use(desk.organization("acme-labs"), 1)
    few = desk.read(root, "/admin/")
    for number in range(5):
        desk.use(desk.organization(f"more-{number}"), 3)
    many = desk.read(root, "/admin/")
    assert len(many.queries) == len(few.queries)
    # What is left of credit that was bought is a sum over everybody's open grants, which have an index of their own.
    assert [query for query in desk.unkeyed(many.queries) if "WHERE is_open" not in query] == []


@pytest.mark.django_db
def test_the_chart_holds_exact_amounts_of_each_day() -> None:
    day = date(2031, 5, 20)
    one = figures.Sold(3, Decimal("0.810000000001"), Decimal("0.3"))
    chart = start_page._chart(figures.Sales([(day, one)], [("m", one)], one, clock.now()))
    assert chart["labels"] == ["20 May"]
    assert [each["data"] for each in chart["datasets"]] == [["0.810000000001"], ["0.3"], ["0.510000000001"]]
    assert json.loads(json.dumps(chart)) == chart


@pytest.mark.django_db
def test_models_beyond_the_first_are_summed_as_others() -> None:
    models = [(f"model-{place:02}", figures.Sold(1, Decimal(100 - place))) for place in range(14)]
    day = date(2031, 5, 20)
    total = figures.Sold(14, Decimal(1309))
    found = figures.Sales([(day, total)], models, total, clock.now())
    rows = desk.cells(start_page._by_model(found, day, day + timedelta(days=1)))
    assert [row[0] for row in rows[1:]] == [*(f"model-{place:02}" for place in range(12)), "2 others", "all"]
    assert rows[-2][1:3] == ["2", "175.00"]
    assert rows[-1][1:3] == ["14", "1,309.00"]
