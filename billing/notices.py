"""News that people get by mail: which message becomes which mail, and to whom.

``NOTICES`` and ``ALARMS`` are the one list, ``SILENT`` says what is left out and why. ``write`` is called with every
message of the outbox, once, inside the transaction that hands it on (``ops.outbox``), and leaves a mail for each person
who is to know; ``ops.mails`` sends them.

Customers' mails go to the address of the billing profile, else to the members who manage billing. What only finance
can act on goes to the legal entity's address; what is about this installation alone, to that of the first legal entity.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.template.loader import render_to_string
from django.urls import resolve

from billing import issued, profiles
from billing.documents import document
from billing.documents.document import TITLES, Document, dollars
from billing.models import BillingProfile, Budget, Invoice
from core import ids, money
from ops import mails
from ops.mails import Attachment
from ops.models import OutboxMessage
from orgs import members, permissions
from orgs.models import Organization

PDF: Final = "invoice_pdf"
SUBJECT_CHARS_MAX = 150


class News(NamedTuple):
    """A message about an organization, and how that is billed."""

    message: OutboxMessage
    organization: Organization
    profile: BillingProfile

    def text(self, name: str) -> str:
        """What the message says under a name; empty if nothing."""
        value = self.message.data.get(name)
        return "" if value is None else str(value)

    def usd(self, name: str) -> Decimal:
        """An amount that the message says."""
        return money.parse(self.text(name))

    @property
    def when(self) -> str:
        """When it happened, in the organization's zone."""
        return moment(self.message.created_at, self.organization.time_zone)


class Letter(NamedTuple):
    """A mail before it is written: one sentence that says it all, what else is to be said, figures, a way to act."""

    to: Collection[str]
    subject: str
    said: str
    more: tuple[str, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    action: str = ""
    path: str = ""
    invoice: Invoice | None = None


def write(message: OutboxMessage) -> None:
    """Leave the mails that follow from a message, inside the caller's transaction; once, however often it is called."""
    assert connection.in_atomic_block, "mails are written with the mark on their message"
    letter, name = _letter(message)
    if letter is None or not letter.to:
        return
    subject, text, html = render(letter, name)
    attachments = [] if letter.invoice is None else [{"kind": PDF, "key": str(letter.invoice.pk)}]
    mails.post(
        kind=message.kind, organization_id=message.organization_id, key=about(message), to=letter.to,
        subject=subject, text=text, html=html, attachments=attachments,
    )  # fmt: skip


def _letter(message: OutboxMessage) -> tuple[Letter | None, str]:
    """What is to be said of a message, if anything, and whom it is about."""
    organization = message.organization
    if organization is None:
        alarm = ALARMS.get(message.kind)
        return (None if alarm is None else alarm(message)), "this installation"
    make = NOTICES.get(message.kind)
    news = News(message, organization, profiles.of(organization.pk))
    return (None if make is None else make(news)), organization.name


def about(message: OutboxMessage) -> str:
    """What tells a message's mails from those of any other."""
    return ids.show("evt", message.pk)


def render(letter: Letter, organization: str) -> tuple[str, str, str]:
    """A letter's subject, text and HTML; ``organization`` is the name of whom it is about."""
    # One line, whatever a name holds: a line end in a header would begin another header.
    subject = " ".join(letter.subject.split())[:SUBJECT_CHARS_MAX]
    told = {
        "letter": letter,
        "subject": subject,
        "organization": organization,
        "link": _link(letter.path),
    }
    return subject, render_to_string("mails/letter.txt", told), render_to_string("mails/letter.html", told)


def _link(path: str) -> str:
    """Where a browser finds a page of ours; empty if there is no such page, or nobody said where we are."""
    if not path or not settings.PUBLIC_URL or resolve(path).url_name == "nowhere":
        return ""
    return f"{settings.PUBLIC_URL}{path}"


def attachment(key: str) -> Attachment:
    """The document that a mail names, as it is when the mail is sent."""
    invoice = Invoice.objects.select_related("corrects").get(pk=key)
    return Attachment(f"{issued.file_name(invoice)}.pdf", issued.printed(invoice), "application/pdf")


def payers(organization_id: UUID) -> Collection[str]:
    """Who is told of an organization's money: the address of its billing profile, else who manages billing."""
    email = BillingProfile.objects.filter(pk=organization_id).values_list("email", flat=True).first()
    return [email] if email else members.addresses(organization_id=organization_id, having=permissions.BILLING_MANAGE)


def _billing(news: News) -> Collection[str]:
    """Who pays."""
    return payers(news.organization.pk)


def _finance(news: News) -> Collection[str]:
    """Who sells; nobody until the legal entity has an address, and then the admin is the only place that tells."""
    return [news.profile.legal_entity.email] if news.profile.legal_entity.email else []


def moment(at: datetime, zone: str) -> str:
    """An instant with its zone."""
    return f"{document.moment(at, zone)} ({zone})"


def shown(amount: Decimal) -> str:
    """A balance in cents, rounded down: what is owed never looks smaller, what is there never larger."""
    return dollars(Decimal(money.display(amount)))


def _at(news: News, page: str) -> str:
    """A page of the organization's own people."""
    return f"/portal/{news.organization.slug}/{page}"


def _wallet_low(news: News) -> Letter:
    balance = shown(news.usd("balance_usd"))
    return Letter(
        _billing(news),
        f"{news.organization.name}: {balance} of credit left",
        f"The credit of {news.organization.name} has fallen below its warning line.",
        ("Once nothing is left, calls that need credit are refused.",),
        (("Balance", balance), ("Warning line", shown(news.usd("low_usd"))), ("As of", news.when)),
        "Add credit",
        _at(news, "credit"),
    )


def _wallet_empty(news: News) -> Letter:
    return Letter(
        _billing(news),
        f"{news.organization.name}: no credit left",
        f"{news.organization.name} has nothing left to pay calls with.",
        ("Calls that need credit are refused until there is some.",),
        (("Balance", shown(news.usd("balance_usd"))), ("As of", news.when)),
        "Add credit",
        _at(news, "credit"),
    )


def _budget(news: News) -> Letter:
    """A ceiling that is nearly used, or used up."""
    full = news.message.kind == "budget.full"
    unit = news.text("unit")
    name = news.text("name") or news.organization.name
    amounts = {
        each: shown(news.usd(each)) if unit == Budget.Unit.USD else f"{news.usd(each):,.0f} tokens"
        for each in ("used", "ceiling")
    }
    said = "is used up" if full else "is nearly used"
    return Letter(
        _billing(news),
        f"{news.organization.name}: the budget of {name} {said}",
        f"The budget of the {news.text('on')} {name} {said}.",
        ("Calls that it counts are refused until there is room again." if full else
         "Once it is used up, calls that it counts are refused until there is room again.",),
        (
            ("Used", amounts["used"]), ("At most", amounts["ceiling"]),
            ("In a", Budget.Window(news.text("window")).label), ("As of", news.when),
        ),
        "See the budget",
        _at(news, "budgets"),
    )  # fmt: skip


def _recharge_stopped(news: News) -> Letter:
    return Letter(
        _billing(news),
        f"{news.organization.name}: automatic top-ups are switched off",
        f"Automatic top-ups are switched off after {news.text('failures')} declines in a row.",
        ("Check the saved card and switch them on again; until then the credit runs out.",),
        (("Last reason", news.text("failure") or "none was given"), ("As of", news.when)),
        "Check the card",
        _at(news, "credit/recharge"),
    )


def _topup_failed(news: News) -> Letter | None:
    if not news.message.data.get("automatic"):
        # Somebody sat before the page that said so.
        return None
    total = news.usd("amount_usd") + Decimal(news.text("tax_usd") or 0)
    return Letter(
        _billing(news),
        f"{news.organization.name}: an automatic top-up failed",
        "An automatic top-up did not go through.",
        ("It is tried again after a pause that grows with each decline; after four in a row it is switched off.",),
        (
            ("Amount", dollars(total)), ("Reason", news.text("failure") or "none was given"), ("As of", news.when),
        ),
        "Check the card",
        _at(news, "credit/cards"),
    )  # fmt: skip


def _invoice(news: News) -> Invoice:
    """The document that a message is about."""
    return Invoice.objects.select_related("corrects", "legal_entity", "organization").get(
        organization_id=news.organization.pk, pk=ids.read("inv", news.text("invoice_id"))
    )


def _page(invoice: Invoice) -> str:
    return f"/portal/{invoice.organization.slug}/invoices/{ids.show('inv', invoice.pk)}"


def _finalized(news: News) -> Letter:
    """A document was issued; it is attached."""
    invoice = _invoice(news)
    told = issued.document(invoice)
    name = f"{TITLES[told.kind]} {told.number}".strip()
    said, figures = _SAID[Invoice.Kind(invoice.kind)](told)
    return Letter(
        _billing(news), f"{news.organization.name}: {name}", f"{said} The document is attached as PDF.", told.notes,
        (*_head(told), *figures), "Open it", _page(invoice), invoice,
    )  # fmt: skip


Figures = tuple[tuple[str, str], ...]


def _head(told: Document) -> Figures:
    """Number and period."""
    found = [("Number", told.number)] if told.number else []
    if told.starts_at is not None and told.ends_at is not None and told.starts_at < told.ends_at:
        found.append(("Period", f"{document.period(told.starts_at, told.ends_at, told.zone)} ({told.zone})"))
    return tuple(found)


def _sums(told: Document, label: str) -> Figures:
    """Net, tax and what both come to; the last alone where there is no tax."""
    taxes = tuple((document.taxed(tax), dollars(tax.amount_usd)) for tax in told.taxes)
    net = (("Subtotal", dollars(told.subtotal_usd)),) if taxes else ()
    return (*net, *taxes, (label, dollars(told.total_usd)))


def _due(told: Document) -> str:
    assert told.due_at is not None
    return f"{document.last_day(told.due_at, told.zone)} ({told.zone})"


def _say_invoice(told: Document) -> tuple[str, Figures]:
    assert told.due_at is not None
    said = f"Your invoice is ready: {dollars(told.total_usd)}, due by {document.last_day(told.due_at, told.zone)}."
    return said, (*_sums(told, "Total"), ("Due by", _due(told)))


def _say_statement(told: Document) -> tuple[str, Figures]:
    assert told.opening_usd is not None
    assert told.closing_usd is not None
    figures = (
        ("Opening balance", dollars(told.opening_usd)), ("Change", dollars(told.subtotal_usd)),
        ("Closing balance", dollars(told.closing_usd)),
    )  # fmt: skip
    return "Your statement is ready.", figures


def _say_receipt(told: Document) -> tuple[str, Figures]:
    return f"We have received {dollars(told.total_usd)}. Thank you.", _sums(told, "Paid")


def _say_credit_note(told: Document) -> tuple[str, Figures]:
    said = f"We have credited {dollars(told.total_usd)} of {told.corrects}."
    return said, (*_sums(told, "Credited"), ("Reason", told.reason))


_SAID: Final[Mapping[Invoice.Kind, Callable[[Document], tuple[str, Figures]]]] = {
    Invoice.Kind.INVOICE: _say_invoice,
    Invoice.Kind.STATEMENT: _say_statement,
    Invoice.Kind.RECEIPT: _say_receipt,
    Invoice.Kind.CREDIT_NOTE: _say_credit_note,
}


def _paid(news: News) -> Letter:
    invoice = _invoice(news)
    told = issued.document(invoice)
    return Letter(
        _billing(news), f"{news.organization.name}: invoice {told.number} is paid",
        f"Invoice {told.number} is paid. Thank you.", (), _sums(told, "Total"), "Open it", _page(invoice), invoice,
    )  # fmt: skip


def _reopened(news: News) -> Letter | None:
    invoice = _invoice(news)
    if invoice.state != Invoice.State.OPEN:
        # Paid since.
        return None
    told = issued.document(invoice)
    return Letter(
        _billing(news), f"{news.organization.name}: invoice {told.number} is open again",
        f"A payment of invoice {told.number} was taken back. {dollars(told.open_usd)} of it are open again.",
        (_ahead(invoice, news.message.created_at), *_transfer(told)), (("Open", dollars(told.open_usd)),),
        "Pay it", _page(invoice), invoice,
    )  # fmt: skip


def _void(news: News) -> Letter:
    invoice = _invoice(news)
    return Letter(
        _billing(news), f"{news.organization.name}: invoice {invoice.number} is void",
        f"Invoice {invoice.number} is void. Please do not pay it.",
        ("What it asked for and is still owed stands on a later invoice.",), (), "Open it", _page(invoice), invoice,
    )  # fmt: skip


# What a step of dunning means for whoever gets the mail.
_STOPPED = "Its credit limit has ended: calls need prepaid credit until the invoice is paid."
_FROZEN = "Every call is refused until the invoice is paid."


def _overdue(news: News) -> Letter | None:
    invoice = _invoice(news)
    if invoice.state != Invoice.State.OPEN:
        # Paid since the step was taken.
        return None
    told, step = issued.document(invoice), news.text("step")
    assert told.due_at is not None
    more = {"stop": _STOPPED, "freeze": _FROZEN}.get(step) or _ahead(invoice, news.message.created_at)
    words = {"stop": "credit limit ended", "freeze": "calls are refused"}.get(step, "reminder")
    return Letter(
        _billing(news), f"{news.organization.name}: invoice {told.number} is overdue, {words}",
        f"Invoice {told.number} was due by {document.last_day(told.due_at, told.zone)}, and"
        f" {dollars(told.open_usd)} of it are still open.",
        (more, "If you have paid in the last days, please ignore this mail.", *_transfer(told)),
        (("Open", dollars(told.open_usd)), ("Was due by", _due(told))), "Pay it", _page(invoice), invoice,
    )  # fmt: skip


def _ahead(invoice: Invoice, now: datetime) -> str:
    """What happens next if it is not paid."""
    since = invoice.overdue_from
    assert since is not None
    entity = invoice.legal_entity
    stop, freeze = (since + timedelta(days=days) for days in (entity.stop_days, entity.freeze_days))
    if now < stop:
        return f"If it is not paid, the credit limit ends on {document.day(stop, invoice.zone)}."
    return f"If it is not paid, calls are refused from {document.day(freeze, invoice.zone)} on."


def _transfer(told: Document) -> Iterable[str]:
    """Where a bank transfer goes, in one line each."""
    return (f"By bank transfer: {' · '.join(told.payment.split(chr(10)))}, reference {told.number}.",) * bool(
        told.payment
    )


def _dispute_opened(news: News) -> Letter:
    return Letter(
        _finance(news), f"Dispute opened: {news.organization.name}, {dollars(news.usd('amount_usd'))}",
        f"A payment of {news.organization.name} is disputed with the bank.",
        ("What it paid for is frozen. Answer in Stripe's dashboard before the deadline that it shows.",),
        (
            ("Amount", dollars(news.usd("amount_usd"))), ("Frozen", shown(news.usd("frozen_usd"))),
            ("Reason", news.text("reason")), ("Payment", news.text("payment_id")), ("As of", news.when),
        ),
        "Open the payments", "/admin/billing/payment/",
    )  # fmt: skip


def _dispute_closed(news: News) -> Letter:
    outcome = news.text("outcome")
    more = {"won": "What was frozen is credit of the customer again.", "lost": "What it paid for was taken back."}
    return Letter(
        _finance(news),
        f"Dispute {outcome}: {news.organization.name}, {dollars(news.usd('amount_usd'))}",
        f"A dispute over a payment of {news.organization.name} was {outcome}.",
        tuple(filter(None, [more.get(outcome)])),
        (
            ("Amount", dollars(news.usd("amount_usd"))),
            ("Reason", news.text("reason")),
            ("Payment", news.text("payment_id")),
            ("As of", news.when),
        ),
        "Open the payments",
        "/admin/billing/payment/",
    )


def _given_back(news: News) -> Letter:
    amount = dollars(news.usd("amount_usd"))
    return Letter(
        _billing(news),
        f"{news.organization.name}: {amount} are on their way back to you",
        f"A payment of {amount} came twice or too late. We give it back; you need not do anything.",
        ("Your bank may need some days.",),
        (("Payment", news.text("payment")), ("As of", news.when)),
    )


def _payment_parked(news: News) -> Letter:
    return Letter(
        _finance(news), f"A payment waits for a person: {news.organization.name}",
        "What Stripe says of a payment contradicts what was asked for. Nothing of it is credited until somebody looks.",
        (), (("Payment", news.text("payment_id")), ("Reason", news.text("reason")), ("As of", news.when)),
        "Open the payments", "/admin/billing/payment/",
    )  # fmt: skip


def _refund_failed(news: News) -> Letter:
    return Letter(
        _finance(news), f"A refund failed: {news.organization.name}, {dollars(news.usd('amount_usd'))}",
        "Stripe could not pay a refund out. The amount is credit of the customer again.", (),
        (
            ("Amount", dollars(news.usd("amount_usd"))), ("Payment", news.text("payment")),
            ("Refund", news.text("refund")), ("Reason", news.text("failure")), ("As of", news.when),
        ),
        "Open the payments", "/admin/billing/payment/",
    )  # fmt: skip


def _endpoint_disabled(news: News) -> Letter:
    people = members.addresses(organization_id=news.organization.pk, having=permissions.WEBHOOKS_MANAGE)
    return Letter(
        people or _billing(news), f"{news.organization.name}: a webhook endpoint is disabled",
        "We have stopped sending events to one of your endpoints.",
        ("Once it answers again, enable it and send what it has missed anew.",),
        (
            ("Endpoint", news.text("url")), ("Reason", news.text("reason")), ("As of", news.when),
        ),
        "See the endpoint", _at(news, "webhooks"),
    )  # fmt: skip


NOTICES: Final[Mapping[str, Callable[[News], Letter | None]]] = {
    "wallet.low": _wallet_low,
    "wallet.empty": _wallet_empty,
    "budget.near": _budget,
    "budget.full": _budget,
    "recharge.stopped": _recharge_stopped,
    "topup.failed": _topup_failed,
    "invoice.finalized": _finalized,
    "invoice.paid": _paid,
    "invoice.reopened": _reopened,
    "invoice.void": _void,
    "invoice.overdue": _overdue,
    "dispute.opened": _dispute_opened,
    "dispute.closed": _dispute_closed,
    "refund.automatic": _given_back,
    "payment.parked": _payment_parked,
    "refund.failed": _refund_failed,
    "webhook_endpoint.disabled": _endpoint_disabled,
}


def _job_put_aside(message: OutboxMessage) -> Letter:
    data = message.data
    return Letter(
        _operators(),
        f"A job needs a person: {data['job']}",
        f"The job {data['job']} failed {data['attempts']} times and is put aside.",
        ("Find out why, then let it run again.",),
        (("Period", data["period"]), ("Said", data["result"]), ("As of", moment(message.created_at, "UTC"))),
        "Open the jobs",
        "/admin/ops/jobrun/",
    )


def _event_parked(message: OutboxMessage) -> Letter:
    data = message.data
    return Letter(
        _operators(),
        f"An event of Stripe's needs a person: {data['type']}",
        "An event of Stripe's could not be taken in. It is kept, and can be handled again once the reason is gone.",
        (),
        (("Event", data["event_id"]), ("Reason", data["reason"]), ("As of", moment(message.created_at, "UTC"))),
        "Open the events",
        "/admin/billing/stripeevent/",
    )


def _operators() -> Collection[str]:
    """Who runs this installation, as far as anybody has said."""
    email = profiles.default_entity().email
    return [email] if email else []


# Messages that belong to no organization.
ALARMS: Final[Mapping[str, Callable[[OutboxMessage], Letter]]] = {
    "job.put_aside": _job_put_aside,
    "stripe.event_parked": _event_parked,
}
# What becomes no mail, and why.
SILENT: Final[Mapping[str, str]] = {
    "wallet.recovered": "nobody has to act",
    "topup.succeeded": "its receipt says so",
    "invoice.uncollectible": "it was given up by finance, and the customer is not asked any more",
    "dispute.inquiry": "nothing is frozen yet; Stripe shows it",
}
