"""Doors to documents: the listing, one of them, its lines, its PDF."""

import csv
import io
import json
from datetime import timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from pypdf import PdfReader

from billing.invoice_views import COLUMNS
from billing.models import Invoice
from core import clock, ids
from orgs.models import Organization
from tests.billing import papers
from tests.journeys.neighbours import Caller
from tests.orgs import world
from tests.proofs import proves

D = Decimal
PATH = "/v1/invoices"


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs", owner=world.person("owner@acme.example"))


@pytest.fixture
def caller(acme: Organization) -> Caller:
    """The organization's own key."""
    return Caller("organization", world.organization_key(acme).secret)


def decimals(answer: Any) -> Any:
    """The body, with exact numbers."""
    return json.loads(answer.content, parse_float=Decimal)


def numbers(answer: Any) -> list[str]:
    """The numbers of a page's documents."""
    assert answer.status_code == 200, answer.content
    return [each["number"] for each in answer.json()["data"]]


def test_an_invoice_is_told_to_the_last_digit(acme: Organization, caller: Caller) -> None:
    invoice = papers.invoice(acme)
    papers.pay(invoice, "119.00", "19.00")
    note = papers.credit_note(invoice, "100.00")
    told = decimals(caller.get(f"{PATH}/{papers.shown(invoice)}"))
    rows = {line["model"]: line for line in told.pop("lines")}
    (paid,) = told.pop("settlements")
    issued = clock.to_unix(papers.ISSUED)
    assert told == {
        "id": papers.shown(invoice), "object": "invoice", "kind": "invoice", "number": "TB-2026-000001",
        "status": "open", "currency": "usd", "created_at": issued, "due_at": issued + 14 * 86_400, "settled_at": None,
        "period_start": 1767225600, "period_end": 1769904000, "time_zone": "UTC", "exact_usd": D("1000.004321"),
        "carried_usd": D("0.004321"), "subtotal_usd": 1000, "tax_usd": 190, "total_usd": 1190, "amount_paid_usd": 119,
        "amount_due_usd": 1071, "opening_balance_usd": None, "closing_balance_usd": None, "corrects": None,
        "pdf_path": f"{PATH}/{papers.shown(invoice)}/pdf",
        "seller": {
            "name": "Tollbook GmbH", "address": "Münzstraße 12\n10178 Berlin", "country": "DE",
            "vat_id": "DE123456789", "email": "billing@tollbook.example",
        },
        "buyer": {"name": "acme-labs", "address": "", "country": "PL", "vat_id": "", "email": ""}, "reason": "",
        "tax": {"name": "VAT", "percent": 19, "amount_usd": 190, "treatment": "domestic"},
        "credit_notes": [papers.shown(note)],
    }  # fmt: skip
    assert rows["deepseek-chat"]["exact_usd"] == D("700.003621")
    assert rows["deepseek-chat"]["amount_usd"] == 700
    assert rows["gpt-4o"]["usage_query"] == "model=gpt-4o&start_time=1767225600&end_time=1769904000"
    assert (paid["kind"], paid["text"], paid["amount_usd"], paid["tax_usd"]) == ("payment", "Bank transfer", 119, 19)
    assert decimals(caller.get(f"{PATH}/{papers.shown(note)}"))["corrects"] == papers.shown(invoice)


def test_a_draft_is_shown_to_nobody(acme: Organization, caller: Caller) -> None:
    draft = papers.draft(acme)
    assert caller.get(PATH).json()["data"] == []
    for path in ("", "/pdf"):
        answer = caller.get(f"{PATH}/{papers.shown(draft)}{path}", accept="*/*")
        made_up = caller.get(f"{PATH}/{ids.show('inv', ids.new())}{path}", accept="*/*")
        assert (answer.status_code, answer.content) == (404, made_up.content)
    assert caller.get(PATH, after=papers.shown(draft)).status_code == 400


def test_the_list_is_by_when_they_were_issued_and_pages_lose_none(acme: Organization, caller: Caller) -> None:
    late = papers.draft(acme)
    for days in (1, 2, 2):
        papers.issue(papers.draft(acme), at=papers.ISSUED + timedelta(days=days))
    # Drafted first, issued last.
    papers.issue(late, at=papers.ISSUED + timedelta(days=3))
    assert numbers(caller.get(PATH)) == ["TB-2026-000004", "TB-2026-000003", "TB-2026-000002", "TB-2026-000001"]
    found: list[str] = []
    after = ""
    for _ in range(4):
        page = caller.get(PATH, limit="1", after=after).json()
        assert page["has_more"] is (len(found) < 3)
        found += [each["number"] for each in page["data"]]
        after = page["last_id"]
    assert found == numbers(caller.get(PATH))


def test_filters_are_of_kind_status_and_half_open_time(acme: Organization, caller: Caller) -> None:
    first = papers.invoice(acme)
    papers.credit_note(first, "10.00")
    papers.statement(acme)
    papers.pay(first, "1190.00", "190.00")
    second = papers.draft(acme)
    papers.issue(second, at=papers.ISSUED + timedelta(seconds=1))
    at = clock.to_unix(papers.ISSUED)
    for query, expected in (
        ({"kind": "credit_note"}, ["TB-2026-000002"]),
        ({"kind": "statement"}, [None]),
        ({"status": "paid"}, ["TB-2026-000001"]),
        ({"status": "open"}, ["TB-2026-000003"]),
        ({"kind": "invoice", "status": ""}, ["TB-2026-000003", "TB-2026-000001"]),
        ({"kind": "invoice", "start_time": str(at), "end_time": str(at + 1)}, ["TB-2026-000001"]),
        ({"start_time": str(at + 1)}, ["TB-2026-000003"]),
        ({"end_time": str(at)}, []),
    ):
        assert numbers(caller.get(PATH, **query)) == expected, query


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"kind": "bill"}, 422, "kind"),
        ({"status": "draft"}, 422, "status"),
        ({"start_time": "now"}, 400, "start_time"),
        ({"end_time": "-1"}, 422, "end_time"),
        ({"limit": "101"}, 422, "limit"),
        ({"after": "inv_x"}, 400, "after"),
    ],
)
def test_a_wrong_query_is_refused_by_name(caller: Caller, query: dict[str, str], status: int, param: str) -> None:
    answer = caller.get(PATH, **query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_the_list_as_csv_has_every_document(acme: Organization, caller: Caller) -> None:
    papers.invoice(acme)
    papers.statement(acme)
    rows = list(csv.DictReader(io.StringIO(caller.get(PATH, accept="text/csv").getvalue().decode())))
    assert [tuple(row) for row in rows] == [COLUMNS, COLUMNS]
    (invoice,) = (row for row in rows if row["kind"] == "invoice")
    assert (invoice["number"], invoice["total_usd"], invoice["amount_due_usd"]) == ("TB-2026-000001", "1190", "1190")
    assert (invoice["created_at"], invoice["period_end"]) == ("2026-11-02T09:00:00+00:00", "2026-02-01T00:00:00+00:00")
    one = csv.DictReader(io.StringIO(caller.get(PATH, accept="text/csv", limit="1").getvalue().decode()))
    assert len(list(one)) == 1


@proves("A12", guard="formulas_are_defused")
def test_an_invoices_lines_as_csv_add_up_and_run_nothing(acme: Organization, caller: Caller) -> None:
    lines = (
        papers.usage("=cmd|' /C calc'!A0", "700.003621", "700.00"),
        papers.other("credit", "-0.003621", "0.00", "@SUM(1)"),
    )
    invoice = papers.invoice(acme, lines=lines)
    answer = caller.get(f"{PATH}/{papers.shown(invoice)}", accept="text/csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="TB-2026-000001.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert [row["text"] for row in rows] == ["'=cmd|' /C calc'!A0", "'@SUM(1)", "VAT 19 % of 700.00", ""]
    assert [row["amount_usd"] for row in rows] == ["700.00", "0.00", "133.00", "833.00"]
    assert [row["exact_usd"] for row in rows] == ["700.003621", "-0.003621", "133", "833"]


def test_the_pdf_is_the_document_and_the_same_each_time(acme: Organization, caller: Caller) -> None:
    invoice = papers.invoice(acme)
    answer = caller.get(f"{PATH}/{papers.shown(invoice)}/pdf", accept="application/pdf")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="TB-2026-000001.pdf"'
    text = PdfReader(BytesIO(answer.content)).pages[0].extract_text()
    assert "TB-2026-000001" in text
    assert "$1,190.00 due by 16 November 2026" in text
    assert caller.get(f"{PATH}/{papers.shown(invoice)}/pdf", accept="*/*").content == answer.content
    assert caller.get(f"{PATH}/{papers.shown(invoice)}/pdf", accept="application/json").status_code == 406
    statement = caller.get(f"{PATH}/{papers.shown(papers.statement(acme))}/pdf", accept="*/*")
    assert statement.headers["Content-Disposition"].startswith('attachment; filename="inv_')


def test_a_neighbours_invoice_is_no_invoice(acme: Organization, caller: Caller) -> None:
    theirs = papers.invoice(world.organization("other-inc"))
    made_up = ids.show("inv", ids.new())
    for path in ("", "/pdf"):
        answers = [caller.get(f"{PATH}/{one}{path}", accept="*/*") for one in (papers.shown(theirs), made_up)]
        assert [each.status_code for each in answers] == [404, 404]
        assert answers[0].content == answers[1].content
    assert caller.get(PATH).json()["data"] == []
    assert caller.get(PATH, after=papers.shown(theirs)).json() == caller.get(PATH, after=made_up).json()


def test_who_may_not_read_bills_reads_none(acme: Organization) -> None:
    invoice = papers.invoice(acme)
    member = world.member(acme, "plain@acme.example", "member")
    plain = Caller("plain", world.personal_key(member.user).secret, "acme-labs")
    answers = [plain.get(path, accept="*/*") for path in (PATH, f"{PATH}/{papers.shown(invoice)}")]
    assert {each.status_code for each in answers} == {403}
    assert Invoice.objects.count() == 1
