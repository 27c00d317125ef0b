"""From a month of usage to its invoice, and back from each line to the records, their prices and their transfers."""

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest

from billing import issued, profiles
from billing.documents.document import check
from core import ids
from orgs.models import Organization
from tests.billing import months
from tests.billing.months import calendar  # noqa: F401
from tests.billing.world import assert_sound
from tests.clocks import Clock
from tests.journeys.neighbours import Caller
from tests.orgs import world

D = Decimal
pytestmark = pytest.mark.usefixtures("books")


def caller_of(owner: Organization) -> Caller:
    """The organization's own key."""
    return Caller("organization", world.organization_key(owner).secret)


def told(caller: Caller, path: str) -> Any:
    """A body, with exact numbers."""
    answer = caller.get(path)
    assert answer.status_code == 200, answer.content
    return json.loads(answer.content, parse_float=Decimal)


def test_every_line_of_usage_leads_to_records_that_add_up_to_it_and_to_prices_and_transfers(calendar: Clock) -> None:  # noqa: F811
    owner = months.sold("acme", zone="Europe/Berlin")
    months.taxed("DE")
    profiles.set_profile(organization_id=owner.pk, fields={"country": "DE"}, by=months.ADA)
    months.use(owner, events=3, input_tokens=1_234_567)
    months.use(owner, events=2, model="gpt-4o", input_tokens=77_777)
    months.go_to(calendar, "2031-06-02T12:00:00Z")
    # Of June, so on no line of May's.
    months.use(owner, input_tokens=5)
    months.close(calendar)
    caller = caller_of(owner)
    (listed,) = told(caller, "/v1/invoices?kind=invoice")["data"]
    invoice = told(caller, f"/v1/invoices/{listed['id']}")
    usage = [line for line in invoice["lines"] if line["kind"] == "usage"]
    assert {line["model"]: line["requests"] for line in usage} == {"deepseek-chat": 3, "gpt-4o": 2}
    for line in usage:
        answer = caller.get(f"/v1/usage?{line['usage_query']}", accept="text/csv")
        records = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
        assert len(records) == line["requests"]
        assert sum(D(record["cost_usd"]) for record in records) == line["exact_usd"] > 0
        for record in records:
            explained = told(caller, f"/v1/usage/{record['id']}/explain")
            assert explained["matches"] is True
            assert explained["cost_usd"] == D(record["cost_usd"])
            assert explained["price"]["id"].startswith("price_")
            assert explained["transfer"]["kind"] == "charge"
    assert sum(line["amount_usd"] for line in invoice["lines"]) == invoice["subtotal_usd"]
    # 3 × 1,234,567 × 0.27 + 2 × 77,777 × 2.50, per million.
    assert invoice["exact_usd"] == D("1.38888427")
    check(issued.document(months.document(owner)))
    pdf = caller.get(f"/v1/invoices/{listed['id']}/pdf", accept="application/pdf")
    assert pdf.content.startswith(b"%PDF-")
    assert ids.show("inv", months.document(owner).pk) == listed["id"]


def test_a_statement_adds_up_also_where_half_a_cent_is_left(calendar: Clock) -> None:  # noqa: F811
    owner = world.organization("acme")
    months.buy(owner, "10.01")
    months.go_to(calendar, "2031-06-10T12:00:00Z")
    months.close(calendar)
    # 2,000 × 2.50, per million: the balance is 10.005, of which half a cent cannot be shown.
    months.use(owner, model="gpt-4o", input_tokens=2000)
    months.go_to(calendar, "2031-07-02T12:00:00Z")
    months.close(calendar)
    months.use(owner, model="gpt-4o", input_tokens=4000)
    months.go_to(calendar, "2031-08-02T12:00:00Z")
    months.close(calendar)
    first, second, third = months.documents(owner)
    # The even neighbour of 10.005 is 10.00, and the next one begins there.
    assert (first.closing_usd, second.opening_usd) == (D("10.01"), D("10.01"))
    assert (second.exact_usd, second.subtotal_usd, second.closing_usd) == (D("-0.005"), D("-0.01"), D("10.00"))
    assert (third.opening_usd, third.subtotal_usd, third.closing_usd) == (D("10.00"), D("0.00"), D("10.00"))
    assert_sound()
    for each in (first, second, third):
        assert issued.printed(each).startswith(b"%PDF-")
