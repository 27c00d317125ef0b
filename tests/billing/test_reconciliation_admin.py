"""The desk's pages of Stripe's balance, providers' bills and the differences."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from billing import differences
from billing.differences import Found, Side
from billing.models import BalanceTransaction, Difference, Payment, ProviderBill
from core import clock, ids
from tests import desk

NASTY = "<script>alert(1)</script>"
LOAD = "admin:billing_providerbill_load"
BILL = "provider,model,period,cost_usd\nopenai,gpt-4o,2026-01,12.5\n"


@pytest.fixture
def root(db: None) -> Client:
    return desk.superuser()


def transaction(source: str = "ch_1") -> BalanceTransaction:
    now = clock.now()
    return BalanceTransaction.objects.create(
        stripe_id=f"txn_{source}", kind="charge", source_id=source, description=NASTY, currency="usd",
        amount_cents=5000, fee_cents=175, net_cents=4825, happened_at=now, available_at=now + timedelta(days=2),
    )  # fmt: skip


def payment(charge: str = "ch_1") -> Payment:
    now = clock.now()
    return Payment.objects.create(
        organization=desk.organization("acme-labs"), purpose="topup", subject_id=ids.new(), method="checkout",
        amount_usd=Decimal(50), received_usd=Decimal(50), state="succeeded", settled_at=now, deadline_at=now,
        charge_id=charge,
    )  # fmt: skip


def difference(subject: str = "ch_1") -> Difference:
    differences.keep(Side.STRIPE, [Found(subject, Decimal("50.01"), Decimal("48.25"), NASTY)])
    return Difference.objects.get(side="stripe")


def load(client: Client, text: str = BILL) -> Any:
    file = SimpleUploadedFile("october.csv", text.encode(), "text/csv")
    return client.post(reverse(LOAD), {"file": file}, follow=True)


def test_lists_pages_and_searches_answer_and_nothing_is_typed_into(root: Client) -> None:
    made = payment()
    load(root)
    rows: list[Any] = [transaction(), difference(f"payment:{made.pk}"), ProviderBill.objects.get()]
    for row in rows:
        model = type(row)
        for text in ("", "ch_1", "x@example.com", "\x00", "9" * 99):
            desk.read(root, desk.listing(model), q=text)
        shown = desk.read(root, desk.page(row))
        assert NASTY not in shown.text
        assert root.post(desk.page(row), {"state": "over"}).status_code == 403
        assert root.get(desk.listing(model) + "add/").status_code == 403
        assert root.post(desk.page(row, "delete"), {"post": "yes"}).status_code == 403
    assert str(made) in desk.read(root, desk.page(rows[0])).text
    assert str(made) in desk.read(root, desk.page(rows[1])).text
    lines = desk.cells(desk.read(root, desk.listing(BalanceTransaction)).text)
    assert any(line[3:6] == ["50 USD", "1.75 USD", "48.25 USD"] for line in lines)
    lines = desk.cells(desk.read(root, desk.page(rows[2])).text)
    assert ["2", "openai", "gpt-4o", "2026-01", "12.5"] in lines


def test_a_difference_is_explained_with_a_reason(root: Client) -> None:
    row = difference()
    assert desk.buttons(desk.read(root, desk.page(row))) == ["Explain"]
    refused = desk.send(root, desk.page(row, "explain"), reason=" ")
    assert "This field is required." in refused.text
    done = desk.send(root, desk.page(row, "explain"), reason="paid in cash, see ticket 7")
    assert desk.said(done) == ["success: Explained. It is open again should either amount change."]
    row.refresh_from_db()
    assert (row.state, row.reason, row.explained_by) == ("explained", "paid in cash, see ticket 7", "root@example.com")
    assert desk.buttons(done) == []
    again = desk.send(root, desk.page(row, "explain"), reason="once more")
    assert desk.said(again) == ["error: This difference is not open any more."]


def test_a_bill_is_loaded_once_and_withdrawn(root: Client) -> None:
    answer = load(root)
    assert "Loaded: october.csv. 1 differences with providers are open." in answer.content.decode()
    assert "This very file was loaded before: october.csv." in load(root).content.decode()
    bill = ProviderBill.objects.get()
    done = desk.send(root, desk.page(bill, "withdraw"), reason="another house's")
    assert desk.said(done) == ["success: Withdrawn. 0 differences with providers are open."]
    assert desk.buttons(done) == []


def test_a_file_that_is_no_bill_is_refused_in_the_form(root: Client) -> None:
    answer = load(root, "provider,model,period,cost_usd\na,m,2026-10,lots\n").content.decode()
    assert "line 2, column cost_usd: &#x27;lots&#x27; is no amount such as 1234.56" in answer
    assert not ProviderBill.objects.exists()


def test_who_may_only_look_does_nothing(db: None) -> None:
    desk.superuser()
    row = difference()
    clerk = desk.clerk("view_difference", "view_providerbill")
    assert desk.buttons(desk.read(clerk, desk.page(row))) == []
    assert clerk.post(desk.page(row, "explain"), {"reason": "x"}).status_code == 403
    assert load(clerk).status_code == 403
