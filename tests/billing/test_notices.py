"""News as mails: who gets which, what it says, and that it comes once."""

import ast
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import pytest
from django.core import mail as outgoing
from django.db import transaction
from django.test import Client
from pypdf import PdfReader

from billing import dunning, notices, profiles
from billing.models import Invoice
from core import ids
from ops import happenings, mails, outbox
from ops.models import Mail, OutboxMessage
from orgs import members
from orgs.models import Organization
from tests.billing import months, papers
from tests.billing.months import calendar  # noqa: F401
from tests.books import Books
from tests.clocks import Clock
from tests.orgs import world
from tests.proofs import proves
from tests.test_tidy import modules

D = Decimal
AT = datetime(2026, 11, 21, 13, 5, tzinfo=UTC)


@pytest.fixture
def acme(db: None) -> Organization:
    """Two people may manage its billing, one may not."""
    made = world.organization("acme-labs", owner=world.person("owner@acme.example"))
    Organization.objects.filter(pk=made.pk).update(name="Acme Labs", time_zone="Europe/Berlin")
    world.member(made, "second@acme.example", members.OWNER)
    world.member(made, "plain@acme.example", "member")
    made.refresh_from_db()
    return made


def news(of: Organization, kind: str, data: Mapping[str, Any]) -> list[Mail]:
    """The mails that a message becomes."""
    message = OutboxMessage.objects.create(
        organization=of, kind=kind, key=str(ids.new()), data=dict(data), created_at=AT
    )
    with transaction.atomic():
        notices.write(message)
    return list(Mail.objects.filter(key=ids.show("evt", message.pk)).order_by("recipient"))


def about(invoice: Invoice, **more: Any) -> dict[str, Any]:
    """What messages say of a document."""
    return {"invoice_id": papers.shown(invoice), "kind": invoice.kind, "number": invoice.number, **more}


def finance() -> None:
    """Say where finance is."""
    slug = profiles.default_entity().slug
    profiles.set_entity(slug=slug, fields={"email": "finance@tollbook.example"}, by=world.BY)


def read(html: str) -> str:
    """The words of a page; fails for anything that would be fetched or run."""
    words: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"img", "script", "link", "style", "iframe", "object", "form"}, tag
            assert {name for name, _ in attrs} <= {
                "style", "role", "width", "cellpadding", "cellspacing", "border", "align", "href", "lang", "charset",
                "name", "content",
            }  # fmt: skip
            assert "url(" not in str(dict(attrs).get("style"))

        def handle_data(self, data: str) -> None:
            words.append(data)

    Reader().feed(html)
    return " ".join(" ".join(words).split())


@pytest.mark.parametrize(
    ("kind", "unit", "figures", "said"),
    [
        ("budget.near", "usd", ("$8.19", "$10.00"), "is nearly used"),
        ("budget.full", "tokens", ("8 tokens", "10 tokens"), "is used up"),
    ],
)
def test_a_budget_that_runs_out_is_told_to_those_who_manage_billing(
    acme: Organization, kind: str, unit: str, figures: tuple[str, str], said: str
) -> None:
    data = {
        "on": "key", "name": "nightly", "window": "7d", "unit": unit, "ceiling": "10",
        "used": "8.199" if unit == "usd" else "8",
    }  # fmt: skip
    found = news(acme, kind, data)
    assert [each.recipient for each in found] == ["owner@acme.example", "second@acme.example"]
    assert found[0].subject == f"Acme Labs: the budget of nightly {said}"
    for part in (*figures, "rolling 7 days", "until there is room again"):
        assert part in read(found[0].html)
    assert list(notices.payers(acme.pk)) == ["owner@acme.example", "second@acme.example"]


def test_a_wallet_that_runs_low_is_told_to_those_who_manage_billing(acme: Organization) -> None:
    found = news(acme, "wallet.low", {"balance_usd": "3.999999999999", "low_usd": "5"})
    assert [each.recipient for each in found] == ["owner@acme.example", "second@acme.example"]
    # Rounded down: it never looks like more than there is.
    assert found[0].subject == "Acme Labs: $3.99 of credit left"
    assert found[0].text == (
        "The credit of Acme Labs has fallen below its warning line.\n\nOnce nothing is left, calls that need credit are"
        " refused.\n\nBalance: $3.99\nWarning line: $5.00\nAs of: 21 November 2026, 14:05 (Europe/Berlin)\n\n--\nThis"
        " mail is about Acme Labs.\n\n"
    )
    for part in ("$3.99", "$5.00", "21 November 2026, 14:05 (Europe/Berlin)", "Acme Labs"):
        assert part in read(found[0].html)


def test_the_address_of_the_profile_comes_first(acme: Organization) -> None:
    profiles.set_profile(organization_id=acme.pk, fields={"email": "Billing@acme.example"}, by=world.BY)
    (found,) = news(acme, "wallet.empty", {"balance_usd": "-1.001", "low_usd": "5"})
    assert found.recipient == "billing@acme.example"
    # A debt never looks smaller.
    assert "Balance: −$1.01" in found.text


def test_a_personal_wallets_news_go_to_its_person(db: None) -> None:
    ada = world.person("ada@example.com")
    (found,) = news(world.personal(ada), "wallet.low", {"balance_usd": "1", "low_usd": "5"})
    assert found.recipient == "ada@example.com"


@pytest.mark.parametrize("kind", [*notices.SILENT, "a.new.one"])
def test_other_news_become_no_mail(acme: Organization, kind: str) -> None:
    assert news(acme, kind, {"balance_usd": "1", "low_usd": "5"}) == []


def test_what_only_finance_can_act_on_goes_to_finance(acme: Organization) -> None:
    said = {
        "dispute_id": "dispute_1", "payment_id": "pay_1", "amount_usd": "119", "frozen_usd": "73.123456",
        "reason": "fraud",
    }  # fmt: skip
    # Nobody has said where finance is.
    assert news(acme, "dispute.opened", said) == []
    finance()
    (found,) = news(acme, "dispute.opened", said)
    assert (found.recipient, found.subject) == ("finance@tollbook.example", "Dispute opened: Acme Labs, $119.00")
    assert "Frozen: $73.12" in found.text
    assert "Reason: fraud" in found.text
    (closed,) = news(acme, "dispute.closed", {**said, "outcome": "lost"})
    assert closed.text.startswith("A dispute over a payment of Acme Labs was lost.\n\nWhat it paid for was taken back.")
    (parked,) = news(acme, "payment.parked", {"payment_id": "pay_1", "reason": "another currency"})
    (failed,) = news(
        acme,
        "refund.failed",
        {"payment": "pay_1", "refund": "refund_1", "amount_usd": "5", "failure": "closed account"},
    )
    assert {each.recipient for each in (parked, failed)} == {"finance@tollbook.example"}
    assert "Reason: closed account" in failed.text


def test_only_a_top_up_that_nobody_sat_before_is_told_when_it_fails(acme: Organization) -> None:
    said = {"topup_id": "topup_1", "amount_usd": "50", "tax_usd": "9.5", "failure": "card_declined"}
    assert news(acme, "topup.failed", {**said, "automatic": False}) == []
    found = news(acme, "topup.failed", {**said, "automatic": True})
    assert "Amount: $59.50\nReason: card_declined\n" in found[0].text
    stopped = news(acme, "recharge.stopped", {"failure": "card_declined", "failures": 4})
    assert stopped[0].text.startswith("Automatic top-ups are switched off after 4 declines in a row.\n")


def test_an_invoice_is_told_with_its_sums_and_attached(acme: Organization) -> None:
    invoice = papers.invoice(acme)
    found = news(acme, "invoice.finalized", about(invoice))
    assert found[0].subject == "Acme Labs: Invoice TB-2026-000001"
    assert found[0].text.startswith(
        "Your invoice is ready: $1,190.00, due by 16 November 2026. The document is attached as PDF.\n"
        "\nNumber: TB-2026-000001\nPeriod: 1 to 31 January 2026 (UTC)\nSubtotal: $1,000.00\n"
        "VAT 19 % of 1,000.00: $190.00\nTotal: $1,190.00\nDue by: 16 November 2026 (UTC)\n"
    )
    assert found[0].attachments == [{"kind": "invoice_pdf", "key": str(invoice.pk)}]
    name, content, media_type = notices.attachment(str(invoice.pk))
    assert (name, media_type) == ("TB-2026-000001.pdf", "application/pdf")
    assert "TB-2026-000001" in PdfReader(BytesIO(content)).pages[0].extract_text()


def test_statements_credit_notes_and_payments_are_told_in_their_own_words(acme: Organization) -> None:
    invoice, statement = papers.invoice(acme), papers.statement(acme)
    note = papers.credit_note(invoice, "100.00")
    stated, credited = (news(acme, "invoice.finalized", about(each))[0] for each in (statement, note))
    assert stated.subject == "Acme Labs: Statement"
    assert "Opening balance: $10.00\nChange: −$2.35\nClosing balance: $7.65\n" in stated.text
    assert "This statement is no invoice: nothing is due on it." in stated.text
    assert credited.text.startswith("We have credited $119.00 of invoice TB-2026-000001.")
    assert "Reason: A price was wrong." in credited.text
    papers.pay(invoice, "1190.00", "190.00")
    paid = news(acme, "invoice.paid", about(invoice))
    assert paid[0].subject == "Acme Labs: invoice TB-2026-000001 is paid"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        # Due on 16 November; the legal entity stops after 24 days and freezes after 38.
        ("reminder_1", "If it is not paid, the credit limit ends on 10 December 2026."),
        ("stop", "Its credit limit has ended: calls need prepaid credit until the invoice is paid."),
        ("freeze", "Every call is refused until the invoice is paid."),
    ],
)
def test_a_reminder_says_what_is_open_how_to_pay_it_and_what_comes_next(
    acme: Organization, step: str, said: str
) -> None:
    invoice = papers.invoice(acme)
    papers.pay(invoice, "119.00", "19.00")
    found = news(acme, "invoice.overdue", about(invoice, step=step))
    assert found[0].text.startswith(
        f"Invoice TB-2026-000001 was due by 16 November 2026, and $1,071.00 of it are still open.\n\n{said}\n"
    )
    assert "By bank transfer: IBAN DE02 1203 0000 0000 2020 51, reference TB-2026-000001." in found[0].text


def test_a_reminder_that_comes_after_the_payment_is_not_sent(acme: Organization) -> None:
    invoice = papers.invoice(acme)
    papers.pay(invoice, "1190.00", "190.00")
    assert news(acme, "invoice.overdue", about(invoice, step="reminder_1")) == []


def test_names_are_text_in_a_mail_and_never_markup_or_a_header(acme: Organization) -> None:
    name = "<b>Acme</b>\r\nBcc: thief@evil.example & Co"
    Organization.objects.filter(pk=acme.pk).update(name=name)
    acme.refresh_from_db()
    found = news(acme, "wallet.low", {"balance_usd": "1", "low_usd": "5"})[0]
    assert found.subject == "<b>Acme</b> Bcc: thief@evil.example & Co: $1.00 of credit left"
    assert "<b>" not in found.html
    assert "&lt;b&gt;Acme&lt;/b&gt;" in found.html
    assert "<b>Acme</b>" in found.text


def test_links_are_ours_and_lead_somewhere(acme: Organization, settings: Any) -> None:
    settings.PUBLIC_URL = "https://billing.example.com"
    finance()
    (parked,) = news(acme, "payment.parked", {"payment_id": "pay_1", "reason": "x"})
    (low, _) = news(acme, "wallet.low", {"balance_usd": "1", "low_usd": "5"})
    for each, place in ((parked, "/admin/billing/payment/"), (low, "/portal/acme-labs/credit")):
        assert set(re.findall(r"href=\"([^\"]+)\"", each.html)) == {f"https://billing.example.com{place}"}
    assert "Open the payments: https://billing.example.com/admin/billing/payment/" in parked.text
    settings.PUBLIC_URL = ""
    (parked,) = news(acme, "payment.parked", {"payment_id": "pay_1", "reason": "x"})
    assert "href" not in parked.html


def test_every_notice_of_a_customer_leads_to_a_page_that_they_can_open(acme: Organization, settings: Any) -> None:
    settings.PUBLIC_URL = "https://billing.example.com"
    person = Client()
    person.force_login(
        world.member(acme, "cfo@acme.example", members.OWNER).user, backend="django.contrib.auth.backends.ModelBackend"
    )
    data = about(
        papers.invoice(acme), step="reminder_1", balance_usd="1", low_usd="5", amount_usd="10", tax_usd="0",
        frozen_usd="1", automatic=True, failure="declined", failures=4, url="https://example.com/hook", reason="410",
        unit="usd", window="7d", used="8", ceiling="10", on="key", name="nightly",
    )  # fmt: skip
    told = set()
    for kind in notices.NOTICES:
        for mail in news(acme, kind, data):
            if mail.recipient == "cfo@acme.example":
                for link in re.findall(r"href=\"https://billing.example.com([^\"]+)\"", mail.html):
                    assert person.get(link).status_code == 200, f"{kind} leads to {link}"
                    told.add(kind)
    assert {"wallet.low", "wallet.empty", "topup.failed", "recharge.stopped", "invoice.finalized"} <= told
    assert {"invoice.paid", "invoice.reopened", "invoice.overdue", "webhook_endpoint.disabled", "budget.full"} <= told


def test_every_notice_can_be_read_and_nothing_in_it_is_fetched(acme: Organization) -> None:
    finance()
    invoice = papers.invoice(acme)
    data = about(
        invoice, step="stop", balance_usd="1", low_usd="5", amount_usd="10", tax_usd="0", frozen_usd="1",
        automatic=True, failure="declined", failures=4, url="https://example.com/hook", reason="410", unit="usd",
        window="7d", used="8", ceiling="10", on="key", name="nightly",
    )  # fmt: skip
    for kind in notices.NOTICES:
        found = news(acme, kind, data)
        assert found, kind
        told = read(found[0].html)
        # Both parts say the same.
        for line in filter(None, found[0].text.partition("\n--\n")[0].splitlines()):
            label, _, rest = line.partition(": ")
            assert label in told or line in told, (kind, line)
            assert rest in told, (kind, line)


@proves("J15", guard="mails_are_told_apart_by_what_they_are_about")
def test_a_message_that_is_handed_on_twice_is_one_mail_each_with_one_pdf(books: Books, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    acme = world.organization("acme-labs", owner=world.person("owner@acme.example"))
    invoice = papers.invoice(acme)
    with transaction.atomic():
        outbox.post(kind="invoice.finalized", organization_id=acme.pk, key=str(invoice.pk), data=about(invoice))
    assert outbox.hand_on() == 1
    mails.send_due()
    # As after a crash that lost the mark on the message.
    OutboxMessage.objects.update(delivered_at=None)
    assert outbox.hand_on() == 1
    mails.send_due(run=timedelta(seconds=5))
    assert len(outgoing.outbox) == 1
    (sent,) = outgoing.outbox
    assert sent.to == ["owner@acme.example"]
    ((name, content, media_type),) = sent.attachments
    assert (name, media_type) == ("TB-2026-000001.pdf", "application/pdf")
    assert isinstance(content, bytes)
    assert "$1,190.00" in PdfReader(BytesIO(content)).pages[0].extract_text()


def test_a_month_that_closes_and_is_not_paid_is_told_by_the_products_own_messages(
    books: Books,
    calendar: Clock,  # noqa: F811
) -> None:
    owner = months.sold("acme", email="books@acme.example")
    months.use(owner, events=10)
    months.go_to(calendar, "2031-06-02T12:00:00Z")
    months.close(calendar)
    invoice = months.document(owner)
    assert invoice.due_at is not None
    # The first reminder, the last, the stop and the freeze fall due 3, 17, 24 and 38 days later.
    for days in (4, 18, 25, 39):
        calendar.move(invoice.due_at + timedelta(days=days) - calendar.at)
        dunning.run()
    outbox.hand_on()
    assert OutboxMessage.objects.filter(delivered_at=None).count() == 0
    found = Mail.objects.filter(recipient="books@acme.example").exclude(kind__startswith="wallet.").order_by("id")
    assert [each.subject for each in found] == [
        f"acme: Invoice {invoice.number}",
        *[f"acme: invoice {invoice.number} is overdue, reminder"] * 2,
        f"acme: invoice {invoice.number} is overdue, credit limit ended",
        f"acme: invoice {invoice.number} is overdue, calls are refused",
    ]
    # 10 × 1,000,000 × 0.27, by a million.
    assert all("$2.70" in each.text for each in found)


def test_every_kind_of_news_is_a_mail_or_said_to_be_none() -> None:
    decided = {*notices.NOTICES, *notices.ALARMS, *notices.SILENT}
    assert len(decided) == len(notices.NOTICES) + len(notices.ALARMS) + len(notices.SILENT)
    assert set(happenings.KINDS) <= decided
    posted = {
        keyword.value.value
        for source in modules()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"outbox.post", "_tell", "outbox.Message"}
        for keyword in [*node.keywords, *(ast.keyword("kind", each) for each in node.args)]
        if keyword.arg == "kind"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
        and "." in keyword.value.value
    }
    assert {"topup.failed", "recharge.stopped", "invoice.finalized", "job.put_aside"} <= posted
    assert posted <= decided


def test_what_is_about_the_installation_goes_to_who_runs_it(db: None) -> None:
    def told(kind: str, data: dict[str, Any]) -> list[Mail]:
        message = OutboxMessage.objects.create(kind=kind, key=str(ids.new()), data=data, created_at=AT)
        with transaction.atomic():
            notices.write(message)
        return list(Mail.objects.filter(key=notices.about(message)))

    job = {"job": "close_periods", "period": "2026-11-21T13:00:00+00:00", "attempts": 8, "result": "KeyError: 'x'"}
    assert told("job.put_aside", job) == []
    finance()
    (aside,) = told("job.put_aside", job)
    assert (aside.recipient, aside.organization_id) == ("finance@tollbook.example", None)
    assert aside.text.startswith("The job close_periods failed 8 times and is put aside.\n")
    assert "Said: KeyError: 'x'\nAs of: 21 November 2026, 13:05 (UTC)\n" in aside.text
    (parked,) = told("stripe.event_parked", {"event_id": "evt_1", "type": "charge.failed", "reason": "another mode"})
    assert "Event: evt_1\nReason: another mode\n" in parked.text
    assert told("another.alarm", {}) == []
