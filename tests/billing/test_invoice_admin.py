"""The desk's pages of invoicing: everything can be read, and each act calls its verb."""

import html
import re
from decimal import Decimal
from io import BytesIO
from typing import Any
from unittest import mock

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from pypdf import PdfReader

from billing import closing, grants, wallets
from billing.documents.document import Contradiction
from billing.ledger import Terms
from billing.models import (
    BankTransfer,
    BillingPeriod,
    BillingProfile,
    DunningStep,
    Invoice,
    LegalEntity,
    TaxRate,
    Transfer,
)
from billing.money_admin import cause_link
from metering.verdicts import Status
from ops import approvals
from ops.models import Approval
from orgs.models import AuditEntry, Organization
from tests import desk
from tests.billing.months import DAY, GRACE, buy, close, document, documents, fold, go_to, sold, taxed, use
from tests.billing.world import assert_all, organization, record
from tests.clocks import Clock
from tests.metering.world import attributed, event
from tests.orgs import world as people

MODELS: list[Any] = [BankTransfer, BillingPeriod, BillingProfile, DunningStep, Invoice, LegalEntity, TaxRate]


@pytest.fixture
def owing(calendar: Clock) -> Organization:
    """An organization with an invoice of 3.21 USD."""
    taxed("DE")
    acme = sold("acme", country="DE", vat_id="DE1")
    use(acme, events=10)
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    return acme


@pytest.fixture
def root(owing: Organization) -> Client:
    return desk.superuser()


def act(client: Client, row: Any, verb: str, **told: Any) -> str:
    """What the page says after an act."""
    page = f"billing_{row._meta.model_name}_{verb}"
    shown = client.post(reverse(f"admin:{page}", args=[row.pk]), told, follow=True)
    assert shown.status_code == 200
    return shown.content.decode()


def again(row: Invoice) -> Invoice:
    return Invoice.objects.get(pk=row.pk)


def test_every_page_of_invoicing_can_be_read(root: Client, owing: Organization, calendar: Clock) -> None:
    invoice = document(owing)
    act(root, invoice, "bank", amount_usd="1.00", statement_reference="SEPA 1", reason="came in")
    act(root, invoice, "credit", amount_usd="0.50", reason="an outage")
    DunningStep.objects.create(organization=owing, invoice=invoice, step="reminder_1", at=calendar.at)
    for model in MODELS:
        name = f"admin:billing_{model._meta.model_name}"
        listed = desk.read(root, reverse(f"{name}_changelist"))
        assert listed.rows, name
        for row in listed.rows:
            desk.read(root, reverse(f"{name}_change", args=[row.pk]))
    shown = desk.read(root, reverse("admin:billing_invoice_change", args=[invoice.pk])).text
    for text in (
        "TB-2031-000001",
        "deepseek-chat",
        "bank transfer: <a ",
        "3.21",
        "0.51 (VAT 19 %, domestic)",
        "reminder_1",
    ):
        assert text in shown, text
    assert "TB-2031-000002" in desk.read(root, reverse("admin:billing_invoice_changelist")).text
    theirs = desk.read(root, desk.page(owing)).text
    assert desk.page(invoice) in theirs
    periods = reverse("admin:billing_billingperiod_changelist")
    assert f"{periods}?q=acme" in theirs


def test_a_bank_transfer_pays_and_a_large_one_waits(root: Client, owing: Organization, settings: Any) -> None:
    invoice = document(owing)
    assert "were received" in act(
        root, invoice, "bank", amount_usd="1.21", statement_reference="SEPA 1", reason="came in"
    )
    assert again(invoice).open_usd == 2
    settings.MONEY_APPROVAL_USD = 1
    said = act(root, invoice, "bank", amount_usd="2.00", statement_reference="SEPA 2", reason="came in")
    assert "second person" in said
    row = BankTransfer.objects.get(state="waiting")
    assert "waits for a second person" in act(root, row, "carry-out")
    approvals.decide(approval_id=Approval.objects.get().pk, by=GRACE, grant=True)
    assert "Posted: 2 USD" in act(root, row, "carry-out")
    assert again(invoice).state == "paid"


def test_a_credit_note_a_void_and_giving_up(root: Client, owing: Organization, calendar: Clock) -> None:
    invoice = document(owing)
    assert "At most 3.21 USD" in act(root, invoice, "credit", amount_usd="3.22", reason="too much")
    assert "is void" in act(root, invoice, "void", reason="wrong address")
    go_to(calendar, "2031-07-01T00:00:00Z")
    close(calendar)
    desk.come_back(root)
    second = documents(owing)[-1]
    assert "TB-2031-000003" in act(root, second, "credit", amount_usd="1.00", reason="an outage")
    assert "Only an invoice of which nothing" in act(root, second, "void", reason="too late")
    assert "is given up" in act(root, second, "give-up", reason="insolvent")
    assert again(second).state == "uncollectible"


def test_a_draft_is_finalized_and_a_parked_period_released(root: Client, owing: Organization, calendar: Clock) -> None:
    use(owing, events=2)
    profile = BillingProfile.objects.get(pk=owing.pk)
    assert "counts for documents" in act(root, profile, "set", bound_usd="0.1", net_days="30", address="Here 1")
    go_to(calendar, "2031-07-01T00:20:00Z")
    fold()
    assert closing.close_due().parked == 1
    parked = BillingPeriod.objects.get(state="parked")
    desk.come_back(root)
    assert "Released" in act(root, parked, "release", reason="looked at")
    draft = Invoice.objects.get(state="draft")
    assert "Finalized as TB-2031-000002" in act(root, draft, "finalize")
    found = again(draft)
    assert found.buyer["address"] == "Here 1"
    assert found.due_at is not None
    assert found.issued_at is not None
    assert (found.due_at - found.issued_at) // DAY == 30


def test_a_period_is_closed_when_it_is_over(root: Client, owing: Organization, calendar: Clock) -> None:
    use(owing, events=2)
    june = BillingPeriod.objects.get(organization=owing, state="open")
    place = reverse("admin:billing_billingperiod_change", args=[june.pk])
    assert "Close" not in desk.buttons(desk.read(root, place))
    assert "something may still be recorded" in act(root, june, "close")
    go_to(calendar, "2031-07-01T00:20:00Z")
    fold()
    desk.come_back(root)
    assert "Close" in desk.buttons(desk.read(root, place))
    asked = desk.read(root, reverse("admin:billing_billingperiod_close", args=[june.pk])).text
    # 2 × 0.27, and 3.21 less 0.51 of tax are owed from before.
    for text in ("0.54", "3.24", "invoice"):
        assert text in asked, text
    said = act(root, june, "close", reason="the customer asked for their invoice")
    assert "look its draft over" in said
    assert documents(owing)[-1].state == "draft"
    told = AuditEntry.objects.get(verb="billing_period.closed").details
    assert told["reason"] == "the customer asked for their invoice"


def test_profiles_entities_and_rates_are_set_by_forms(root: Client, owing: Organization) -> None:
    profile = BillingProfile.objects.get(pk=owing.pk)
    assert "counts as checked" in act(root, profile, "check", reason="VIES 4711")
    act(root, profile, "set", vat_id="-")
    assert BillingProfile.objects.get(pk=owing.pk).vat_checked_at is None
    assert "country is two capital letters" in act(root, profile, "set", country="de")
    place = reverse("admin:billing_billingprofile_new")
    assert "There is no such" in root.post(place, {"organization": "nobody"}).content.decode()
    root.post(place, {"organization": "acme", "terms": "prepaid"})
    assert BillingProfile.objects.get(pk=owing.pk).terms == "prepaid"
    entity = LegalEntity.objects.get()
    act(root, entity, "set", name="Tollbook GmbH", reminder_days="5, 9")
    assert LegalEntity.objects.get().reminder_days == [5, 9]
    assert "prefix of its numbers stays" in act(root, entity, "set", number_prefix="XX")
    root.post(reverse("admin:billing_legalentity_new"), {"slug": "us", "name": "Tollbook Inc", "number_prefix": "US"})
    assert LegalEntity.objects.count() == 2
    told = {"country": "FR", "valid_from": "2031-01-01", "percent": "20", "name": "TVA", "source": "law"}
    root.post(reverse("admin:billing_taxrate_new"), told)
    assert TaxRate.objects.get(country="FR").percent == Decimal(20)


def test_who_may_only_look_sees_no_buttons(owing: Organization) -> None:
    clerk = desk.clerk("view_invoice")
    place = reverse("admin:billing_invoice_change", args=[document(owing).pk])
    assert "Void" not in desk.read(clerk, place).text
    refused = clerk.post(reverse("admin:billing_invoice_void", args=[document(owing).pk]), {"reason": "no"})
    assert refused.status_code == 403
    assert document(owing).state == "open"


def test_a_document_can_be_read_as_a_file_a_draft_too(root: Client, owing: Organization, calendar: Clock) -> None:
    use(owing, events=2)
    go_to(calendar, "2031-07-01T00:20:00Z")
    fold()
    assert closing.close_due().drafted == 1
    desk.come_back(root)
    issued, draft = documents(owing)
    page = desk.read(root, reverse("admin:billing_invoice_change", args=[issued.pk])).text
    assert "PDF" in page
    assert "CSV" in page
    shown = {}
    for row in (issued, draft):
        answer = root.get(reverse("admin:billing_invoice_pdf", args=[row.pk]))
        assert answer.headers["Content-Type"] == "application/pdf"
        (only,) = PdfReader(BytesIO(answer.content)).pages
        shown[row.pk] = only.extract_text()
    assert "TB-2031-000001" in shown[issued.pk]
    assert "DRAFT" not in shown[issued.pk]
    for part in ("DRAFT", "Tollbook", "acme", "tax is added when it is finalized", "0.54"):
        assert part in shown[draft.pk], part
    rows = root.get(reverse("admin:billing_invoice_csv", args=[issued.pk]))
    assert b"TB-2031-000001,invoice,total" in b"".join(rows.streaming_content)  # type: ignore[attr-defined]
    stranger = desk.clerk("view_taxrate")
    for ending in ("pdf", "csv"):
        assert stranger.get(reverse(f"admin:billing_invoice_{ending}", args=[issued.pk])).status_code == 403


def test_a_document_that_does_not_add_up_is_not_printed_and_says_so(root: Client, owing: Organization) -> None:
    invoice = document(owing)
    with mock.patch("billing.issued.document", side_effect=Contradiction("the lines and the subtotal differ")):
        answer = root.get(reverse("admin:billing_invoice_pdf", args=[invoice.pk]))
    assert answer.status_code == 302
    followed = root.get(reverse("admin:billing_invoice_change", args=[invoice.pk])).content.decode()
    assert "It does not add up and is not printed" in followed


def click(client: Client, shown: desk.Page, text: str) -> desk.Page:
    """Follow the first link that says so."""
    found = re.search(rf'<a [^>]*?href="([^"]+)"[^>]*>\s*{text}\s*</a>', shown.text)
    assert found is not None, (shown.address, text)
    return desk.read(client, html.unescape(found[1]))


def test_a_line_leads_to_its_records_and_a_record_to_grant_cause_and_event(root: Client, owing: Organization) -> None:
    with transaction.atomic():
        grants.give(
            organization_id=owing.pk, kind="purchased", amount_usd=Decimal(5), reference=f"topup:{owing.pk}",
            actor="tests", reason="top-up",
        )  # fmt: skip
    use(owing, event_id="evt_last")
    invoice = desk.read(root, reverse("admin:billing_invoice_change", args=[document(owing).pk]))
    records = click(root, invoice, "deepseek-chat")
    # Ten were on the invoice; the one after its end is on no page of it.
    assert len(re.findall(r">usage_\w+</a>", records.text)) == 10
    assert "evt_last" not in click(root, records, r"usage_\w+").text
    newest = desk.read(root, reverse("admin:metering_usagerecord_matching"), organization="acme")
    record = click(root, newest, r"usage_\w+")
    assert "evt_last" in record.text
    assert "recorded, 0.27 USD" in record.text
    explanation = click(root, record, "Explain the cost")
    assert "The parts add up to what was charged." in explanation.text
    transfer = click(root, explanation, r"tr_\w+")
    grant = click(root, transfer, r"grant_\w+")
    assert f'href="/admin/billing/topup/{owing.pk}/change/"' in grant.text
    # 2.70 of the 5 repaid what was owed, 0.27 went for the last request.
    assert "2.03" in grant.text


def test_a_statements_line_leads_to_its_transfers_and_the_carried_one_to_its_document(calendar: Clock) -> None:
    plain, owes = organization("plain", usd="5"), sold("owes")
    buy(plain, "20")
    use(plain, events=2)
    use(owes, input_tokens=13_000)
    for month in ("06", "07"):
        go_to(calendar, f"2031-{month}-01T00:00:00Z")
        close(calendar)
        use(owes, input_tokens=13_000)
    root = desk.superuser()
    shown = desk.read(root, reverse("admin:billing_invoice_change", args=[document(plain).pk])).text
    ways = [html.unescape(way) for way in re.findall(r'href="([^"]+/transfer/between/[^"]+)"', shown)]
    assert len(ways) == 2
    for way, amount in zip(ways, ("20", "5"), strict=True):
        rows = [row for row in desk.cells(desk.read(root, way).text) if row[0].startswith("tr_")]
        assert [row[4] for row in rows] == [amount], way
    # The whole month: what came, and one charge of 0.54.
    period = desk.read(root, reverse("admin:billing_billingperiod_change", args=[document(plain).period_id]))
    rows = desk.cells(click(root, period, "24.46").text)
    assert sorted(row[4] for row in rows if row[0].startswith("tr_")) == ["0.54", "20", "5"]
    assert len(re.findall(r">usage_\w+</a>", click(root, period, "0.54").text)) == 2
    first, second = documents(owes)
    carried = desk.read(root, reverse("admin:billing_invoice_change", args=[second.pk])).text
    assert desk.page(first) in carried


def test_transfers_of_a_time_are_read_a_page_after_another(root: Client, owing: Organization) -> None:
    place = reverse("admin:billing_transfer_between")
    month = {"organization": "acme", "start": "2031-05-01T00:00:00Z", "end": "2031-07-01T00:00:00Z"}
    for number in range(50):
        buy(owing, "0.01", reference=f"bought {number}")
    first = desk.read(root, place, **month, kind="topup")
    assert len(re.findall(r">tr_\w+</a>", first.text)) == 50
    assert "Older" not in first.text
    first = desk.read(root, place, **month)
    older = click(root, desk.Page(place, first.text.replace('href="?', f'href="{place}?'), [], None), "Older")
    assert len(re.findall(r">tr_\w+</a>", older.text)) > 0
    assert not set(re.findall(r">(tr_\w+)</a>", first.text)) & set(re.findall(r">(tr_\w+)</a>", older.text))
    assert "No transfer matches." in desk.read(root, place, **{**month, "end": "2031-05-02T00:00:00Z"}).text
    for wrong in ({**month, "end": month["start"]}, {**month, "start": "0001-01-01T00:00:00Z"}):
        assert "The end is after the beginning" in desk.read(root, place, **wrong).text
    assert "That is not where a page begins." in desk.read(root, place, **month, after="x").text
    assert desk.clerk("view_invoice").get(place, month).status_code == 403


def test_a_wallet_that_paid_for_somebody_elses_calls_leads_to_their_records(calendar: Clock) -> None:
    acme = organization("acme")
    who = people.member(acme, "ann@acme.example")
    own = people.personal(who.user)
    buy(own, "1")
    told = attributed(acme, event(input_tokens=1_000_000, cached_input_tokens=0, output_tokens=0, event_id="evt_hers"))
    told = [one._replace(member_id=who.pk, fallback_id=own.pk) for one in told]
    wallets.change_terms(organization_id=acme.pk, terms=Terms(mode="fallback"), reason="agreed", by=GRACE)
    assert_all(record(told), Status.CREATED)
    charge = Transfer.objects.get(organization=own, kind="charge")
    assert ">usage_" in desk.read(desk.superuser(), desk.page(charge)).text


def test_records_are_matched_by_model_key_and_time_a_page_after_another(root: Client, owing: Organization) -> None:
    place = reverse("admin:metering_usagerecord_matching")
    use(owing, events=45)
    first = desk.read(root, place, organization="acme", model="deepseek-chat")
    assert len(re.findall(r">usage_\w+</a>", first.text)) == 50
    older = click(root, desk.Page(place, first.text.replace('href="?', f'href="{place}?'), [], None), "Older")
    assert len(re.findall(r">usage_\w+</a>", older.text)) == 5
    assert "No record matches." in desk.read(root, place, organization="acme", model="gpt-4o").text
    month = {"start": "2031-05-01T00:00:00Z", "end": "2031-06-01T00:00:00Z"}
    assert len(re.findall(r">usage_\w+</a>", desk.read(root, place, organization="acme", **month).text)) == 10
    assert "No organization has that name." in desk.read(root, place, organization="nobody").text
    assert "An id begins with key_." in desk.read(root, place, organization="acme", key="proj_1").text
    assert desk.clerk("view_invoice").get(place).status_code == 403


def test_a_reference_leads_to_its_cause_where_that_has_a_page(db: None) -> None:
    key = "01c33c25-ca00-7c7b-854b-beb6cab74e64"
    shown = cause_link(f"topup:{key}")
    assert f"/admin/billing/topup/{key}/change/" in shown
    assert shown.startswith("topup: <a ")
    assert cause_link(f"dispute:{key}/lost").endswith("</a>/lost")
    assert cause_link("<b>welcome</b>") == "<b>welcome</b>"
    assert cause_link("topup:soon") == "topup:soon"
