"""Documents about money, and what was paid of them.

The only module that writes ``Invoice``, ``InvoiceLine`` and ``InvoiceSettlement``.

``billing.closing`` works drafts out. Issuing one is a short transaction: tax, number, state, a message. From then on
the document stays as it is and only its open amount changes, by settlements: payments, credit notes, a void, or
giving it up. Each is one transaction of settlement, ledger and document, under the document's lock and then the
wallet's, and counts once for each reference.

What an invoice asks for is the wallet's overdraft, so its net part is paid into the wallet, where it pays the overdraft
off; what is left of it is credit. The tax part is owed beside the wallet: ``receivables`` to ``taxes`` when the
invoice is issued, the account of the payment to ``receivables`` when it is paid.

A payment by card that goes back (``billing.refunds``, ``billing.disputes``) opens the invoice again by as much as it
had paid of it: what it had brought beyond goes back first. The wallet owes that much anew, and the tax is owed anew.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from billing import dunning, grants, ledger, numbers, profiles, rounding, taxes
from billing.corrections import check_reason
from billing.ledger import Move, TransferConflict
from billing.lots import Given
from billing.models import (
    Account,
    BillingProfile,
    Dispute,
    Grant,
    Invoice,
    InvoiceLine,
    InvoiceSettlement,
    LegalEntity,
    Refund,
    TopUp,
    TransferKind,
)
from core import errors, failpoints, ids, money
from core.transactions import retry
from metering.usage import started_at
from ops import approvals, outbox
from orgs import audit
from orgs.audit import Actor

Kind = Invoice.Kind
State = Invoice.State
# Acts that a second person may have to agree to.
GIVE_UP, CREDIT_NOTE = "invoice_give_up", "credit_note"
LineKind = InvoiceLine.Kind
Settled = InvoiceSettlement.Kind

# How many top-ups a run looks for that have no receipt.
CHUNK = 200


class Line(NamedTuple):
    """A line before rounding. Below zero it takes off."""

    kind: str
    exact_usd: Decimal
    text: str = ""
    model: str | None = None
    service_tier: str | None = None
    batch: bool | None = None
    api_key_id: UUID | None = None
    project_id: UUID | None = None
    requests: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None


class Draft(NamedTuple):
    """A document as it would be issued now, before tax. Opening and closing balances are a statement's, in cents."""

    period_id: UUID
    organization_id: UUID
    legal_entity_id: UUID
    kind: str
    starts_at: datetime
    ends_at: datetime
    zone: str
    lines: tuple[Line, ...]
    opening_usd: Decimal | None = None
    closing_usd: Decimal | None = None

    @property
    def exact_usd(self) -> Decimal:
        """What the lines come to."""
        return sum((line.exact_usd for line in self.lines), money.ZERO)

    @property
    def subtotal_usd(self) -> Decimal:
        """That in cents; of a statement what leads from one balance to the other, as both are shown."""
        if self.opening_usd is None or self.closing_usd is None:
            return rounding.to_cents(self.exact_usd)
        return self.closing_usd - self.opening_usd


def write(drafts: Sequence[Draft]) -> int:
    """Write drafts, one for each period, in the caller's transaction, under the locks of their periods.

    A draft that stands as it should is left alone; how many were written.
    """
    standing = {row.period_id: row for row in Invoice.objects.filter(period_id__in=[one.period_id for one in drafts])}
    lines: dict[UUID, list[InvoiceLine]] = {}
    for line in InvoiceLine.objects.filter(invoice_id__in=[row.pk for row in standing.values()]).order_by("place"):
        lines.setdefault(line.invoice_id, []).append(line)
    changed: list[tuple[Invoice, Draft]] = []
    for draft in drafts:
        row = standing.get(draft.period_id)
        if row is None:
            changed.append((Invoice(), draft))
        elif _head(row) != _head_of(draft) or [_told(line) for line in lines.get(row.pk, [])] != _lines_of(draft):
            changed.append((row, draft))
    if changed:
        _replace(changed)
    return len(changed)


_HEAD = ("organization_id", "legal_entity_id", "kind", "starts_at", "ends_at", "zone", "opening_usd", "closing_usd")


def _head(row: Invoice) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in _HEAD)


def _head_of(draft: Draft) -> tuple[Any, ...]:
    return tuple(getattr(draft, name) for name in _HEAD)


def _told(line: InvoiceLine) -> tuple[Line, Decimal]:
    return Line(*(getattr(line, name) for name in Line._fields)), line.amount_usd


def _lines_of(draft: Draft) -> list[tuple[Line, Decimal]]:
    cents = rounding.apportion([line.exact_usd for line in draft.lines], total=draft.subtotal_usd)
    return list(zip(draft.lines, cents, strict=True))


def _replace(changed: Sequence[tuple[Invoice, Draft]]) -> None:
    """Write drafts over what stands of them."""
    new: list[Invoice] = []
    old: list[Invoice] = []
    for row, draft in changed:
        (new if row._state.adding else old).append(row)
        for name in _HEAD:
            setattr(row, name, getattr(draft, name))
        row.period_id = draft.period_id
        row.exact_usd = draft.exact_usd
        row.subtotal_usd = row.total_usd = draft.subtotal_usd
    if old:
        InvoiceLine.objects.filter(invoice_id__in=[row.pk for row in old]).delete()
        Invoice.objects.bulk_update(old, [*_HEAD, "exact_usd", "subtotal_usd", "total_usd"])
    Invoice.objects.bulk_create(new)
    _append_lines((row, _lines_of(draft)) for row, draft in changed)


def _append_lines(lines: Iterable[tuple[Invoice, list[tuple[Line, Decimal]]]]) -> None:
    InvoiceLine.objects.bulk_create(
        InvoiceLine(
            organization_id=row.organization_id, invoice_id=row.pk, place=place, amount_usd=cents, **line._asdict()
        )
        for row, told in lines
        for place, (line, cents) in enumerate(told, start=1)
    )


def issue(invoice: Invoice, *, profile: BillingProfile) -> Invoice:
    """Issue a draft, as the last act of the caller's transaction: tax, ledger, a number, a message.

    ``profile`` names seller and buyer as they are to stand on it. Raises ``taxes.RateMissing``.
    """
    assert invoice.state == State.DRAFT
    at = started_at()
    entity = profile.legal_entity
    invoice.legal_entity = entity
    invoice.seller, invoice.buyer = _seller(entity), _buyer(profile)
    if invoice.kind == Kind.INVOICE:
        tax = taxes.of_profile(profile, amount_usd=invoice.subtotal_usd, day=at.date())
        invoice.tax_usd, invoice.tax_percent = tax.amount_usd, tax.rate_percent
        invoice.tax_name, invoice.tax_treatment = tax.name, tax.treatment
        invoice.total_usd = invoice.subtotal_usd + tax.amount_usd
        invoice.open_usd, invoice.open_tax_usd = invoice.total_usd, invoice.tax_usd
        invoice.due_at = grants.end_of(
            (at + timedelta(days=profile.net_days)).astimezone(ZoneInfo(invoice.zone)).date(), time_zone=invoice.zone
        )
        if tax.amount_usd:
            aside = _aside(invoice, Account.RECEIVABLES, Account.TAXES, tax.amount_usd, f"invoice:{invoice.pk}")
            ledger.post([aside], at=at)
            failpoints.reach("issue.after_ledger")
    invoice.state = State.OPEN if invoice.kind == Kind.INVOICE else State.ISSUED
    invoice.issued_at = at
    if invoice.kind != Kind.STATEMENT:
        number = numbers.give(entity)
        failpoints.reach("issue.after_number")
        invoice.number, invoice.year, invoice.sequence = number.text, number.year, number.sequence
        invoice.issued_at = number.issued_at
    invoice.save()
    _tell(invoice, "invoice.finalized")
    return invoice


def _seller(entity: LegalEntity) -> dict[str, str]:
    names = ("name", "address", "country", "vat_id", "email", "bank_details")
    return {name: getattr(entity, name) for name in names}


def _buyer(profile: BillingProfile) -> dict[str, str]:
    told = {name: getattr(profile, name) for name in ("name", "address", "country", "vat_id", "email")}
    return {**told, "name": told["name"] or profile.organization.name}


def _tell(invoice: Invoice, kind: str, **more: str) -> None:
    """Leave a message about a document."""
    data = {
        "invoice_id": ids.show("inv", invoice.pk), "kind": str(invoice.kind), "number": invoice.number,
        "total_usd": money.plain(invoice.total_usd), "open_usd": money.plain(invoice.open_usd),
        "due_at": invoice.due_at and invoice.due_at.isoformat(), **more,
    }  # fmt: skip
    # What was opened again may be paid again, and that is told again.
    key = str(invoice.pk) if invoice.reopened_at is None else f"{invoice.pk}:{invoice.reopened_at.isoformat()}"
    outbox.post(kind=kind, organization_id=invoice.organization_id, key=key, data=data)


def _aside(invoice: Invoice, debit: Account, credit: Account, amount_usd: Decimal, reference: str) -> Move:
    """Tax that moves past the wallet."""
    return Move(
        invoice.organization_id, TransferKind.TAX, debit, credit, amount_usd, reference, "invoices", str(invoice)
    )


def find(invoice_id: UUID) -> Invoice:
    """A document. Raises ``NotFound``."""
    found = Invoice.objects.filter(pk=invoice_id).first()
    if found is None:
        raise errors.NotFound("There is no such invoice.", param="invoice_id")
    return found


def lock(invoice_id: UUID) -> Invoice:
    """An issued invoice, under its lock, which is taken before its wallet's. Raises ``NotFound`` or ``Conflict``."""
    assert connection.in_atomic_block
    found = Invoice.objects.select_for_update(no_key=True).filter(pk=invoice_id).first()
    if found is None:
        raise errors.NotFound("There is no such invoice.", param="invoice_id")
    if found.kind != Kind.INVOICE or found.state == State.DRAFT:
        raise errors.Conflict(f"{found} is no invoice that was issued.")
    return found


def receive(
    *,
    invoice_id: UUID,
    amount_usd: Decimal,
    reference: str,
    source: Account = Account.STRIPE_CLEARING,
    payment_id: UUID | None = None,
    at: datetime | None = None,
    actor: str = "payments",
    reason: str = "",
) -> InvoiceSettlement:
    """Take a payment for an invoice, once per ``reference``, as the last act of the caller's transaction.

    ``amount_usd`` is in cents, with tax. It may be a part, or more than is open: what is beyond becomes credit, as
    does all of it where nothing is open any more. ``at`` is the transaction's start by the database's clock,
    ``payment_id`` the card's payment that this is. Raises ``NotFound``, ``Conflict`` for a draft, ``TransferConflict``
    for a reference that was another payment.
    """
    assert rounding.is_cents(amount_usd), "a payment is in cents"
    assert amount_usd > 0
    invoice = lock(invoice_id)
    known = _known(invoice, reference)
    if known is not None:
        if (known.kind, known.amount_usd + known.over_usd, known.source) != (Settled.PAYMENT, amount_usd, source):
            raise TransferConflict(f"{reference} was another payment")
        return known
    at = at or started_at()
    made = _apply(
        invoice,
        amount_usd,
        reference=reference,
        source=source,
        payment_id=payment_id,
        actor=actor,
        reason=reason,
        at=at,
    )
    tax = made.tax_usd
    moves = []
    if tax:
        moves.append(_aside(invoice, source, Account.RECEIVABLES, tax, reference))
    net = amount_usd - tax
    if net:
        story = reason or f"{invoice} paid"
        given = Given(
            ids.new(), invoice.organization_id, Grant.Kind.PURCHASED, net, at, reference, source, actor, story
        )  # fmt: skip
        moves.append(
            Move(
                invoice.organization_id,
                TransferKind.INVOICE,
                source,
                Account.WALLET,
                net,
                reference,
                actor,
                story,
                given=given,
            )
        )
    ledger.post(moves, at=at)
    failpoints.reach("receive.after_ledger")
    if invoice.state == State.PAID:
        dunning.lift(invoice)
    return made


def _apply(
    invoice: Invoice, amount_usd: Decimal, *, reference: str, source: str, payment_id: UUID | None, actor: str,
    reason: str, at: datetime,
) -> InvoiceSettlement:  # fmt: skip
    """Note a payment: as much as is open is paid by it, and the rest became credit."""
    applied = min(amount_usd, invoice.open_usd)
    tax = rounding.share(applied, of=invoice.open_tax_usd, whole=invoice.open_usd) if applied else money.ZERO
    invoice.paid_usd += applied
    invoice.paid_tax_usd += tax
    return _settle(
        invoice, Settled.PAYMENT, applied, tax, over=amount_usd - applied, reference=reference, source=source,
        payment_id=payment_id, actor=actor, reason=reason, at=at,
    )  # fmt: skip


class Back(NamedTuple):
    """What a payment that goes back had paid of its invoice, and the tax in that: both are owed again."""

    opened_usd: Decimal
    tax_usd: Decimal


def take_back(
    *, invoice_id: UUID, payment_id: UUID, amount_usd: Decimal, reference: str, source: Account, actor: str,
    reason: str, at: datetime,
) -> Back:  # fmt: skip
    """Open an invoice again by what a card's payment had paid of it, once per ``reference``; how much that was.

    In the transaction, under the payment's lock, that moves ``amount_usd`` to the account ``source`` afterwards: it
    locks the invoice, which comes before the wallet. What the payment had brought beyond goes back first, and what
    was credited since stays credited: both are credit and open nothing.
    """
    invoice = lock(invoice_id)
    known = _known(invoice, reference)
    if known is not None:
        return Back(-known.amount_usd, -known.tax_usd)
    came = InvoiceSettlement.objects.filter(invoice=invoice, payment_id=payment_id)
    over = max(sum(came.values_list("over_usd", flat=True), money.ZERO), money.ZERO)
    opened = min(amount_usd - min(amount_usd, over), invoice.paid_usd)
    tax = rounding.share(opened, of=invoice.paid_tax_usd, whole=invoice.paid_usd) if opened else money.ZERO
    closed = bool(opened) and invoice.state != State.OPEN
    if closed:
        invoice.state, invoice.settled_at, invoice.reopened_at = State.OPEN, None, at
        dunning.begin_again(invoice, at=at)
    invoice.paid_usd -= opened
    invoice.paid_tax_usd -= tax
    _settle(
        invoice, Settled.RETURN, -opened, -tax, over=opened - amount_usd, reference=reference, source=source,
        payment_id=payment_id, actor=actor, reason=reason, at=at,
    )  # fmt: skip
    if closed:
        _tell(invoice, "invoice.reopened")
    return Back(opened, tax)


def take_again(
    *, invoice_id: UUID, payment_id: UUID, amount_usd: Decimal, reference: str, source: Account, actor: str,
    reason: str, at: datetime,
) -> Decimal:  # fmt: skip
    """Count money that had been taken back as paid once more, once per ``reference``; the tax in it.

    As ``take_back``, before the caller moves ``amount_usd`` from the account ``source``: the tax to ``receivables``
    and all the rest, also what finds nothing open any more, into the wallet.
    """
    invoice = lock(invoice_id)
    known = _known(invoice, reference)
    if known is not None:
        return Decimal(known.tax_usd)
    made = _apply(
        invoice, amount_usd, reference=reference, source=source, payment_id=payment_id, actor=actor, reason=reason,
        at=at,
    )  # fmt: skip
    if invoice.state == State.PAID:
        dunning.lift(invoice)
    return Decimal(made.tax_usd)


def _known(invoice: Invoice, reference: str) -> InvoiceSettlement | None:
    """What was settled by a reference before. Raises ``TransferConflict`` if it was another document's."""
    known = InvoiceSettlement.objects.filter(organization_id=invoice.organization_id, reference=reference).first()
    if known is not None and known.invoice_id != invoice.pk:
        raise TransferConflict(f"{reference} belongs to another invoice")
    return known


def _settle(
    invoice: Invoice, kind: str, amount: Decimal, tax: Decimal, *, reference: str, actor: str, reason: str,
    at: datetime, over: Decimal = money.ZERO, source: str = "", payment_id: UUID | None = None,
) -> InvoiceSettlement:  # fmt: skip
    """Note what made the open amount smaller, or larger again, and close the document when nothing is open any more."""
    made = InvoiceSettlement.objects.create(
        organization_id=invoice.organization_id, invoice=invoice, kind=kind, amount_usd=amount, tax_usd=tax,
        over_usd=over, source=source, payment_id=payment_id, reference=reference, actor=actor, reason=reason, at=at,
    )  # fmt: skip
    invoice.open_usd -= amount
    invoice.open_tax_usd -= tax
    closed = invoice.state == State.OPEN and not invoice.open_usd
    if closed:
        invoice.state = {Settled.VOID: State.VOID, Settled.WRITE_OFF: State.UNCOLLECTIBLE}.get(
            Settled(kind), State.PAID
        )  # fmt: skip
        invoice.settled_at = at
    moving = ("state", "open_usd", "open_tax_usd", "paid_usd", "paid_tax_usd", "settled_at", "reopened_at")
    invoice.save(update_fields=moving)
    if closed:
        _tell(invoice, f"invoice.{invoice.state}")
    return made


def void(*, invoice_id: UUID, reason: str, by: Actor) -> Invoice:
    """Take an invoice back of which nothing was paid or credited. It keeps its number; nothing else gets it.

    What it asked for is still owed, so the next period's invoice asks for it again; a credit note is what forgives.
    Raises ``NotFound``, ``Conflict``, ``OutOfRange`` for the reason.
    """
    reason = check_reason(reason)

    def act() -> Invoice:
        with transaction.atomic(durable=True):
            invoice = lock(invoice_id)
            if invoice.state == State.VOID:
                return invoice
            if invoice.state != State.OPEN or invoice.open_usd != invoice.total_usd:
                raise errors.Conflict("Only an invoice of which nothing was paid or credited can be voided.")
            _drop(invoice, Settled.VOID, reason=reason, by=by)
            return invoice

    return retry(act)


def _drop(invoice: Invoice, kind: str, *, reason: str, by: Actor, write_off: Decimal = money.ZERO) -> None:
    """Give up what is open of an invoice, with its tax; ``write_off`` of the overdraft goes too."""
    at = started_at()
    before = InvoiceSettlement.objects.filter(invoice=invoice, kind=kind).count()
    reference = f"{kind}:{invoice.pk}" + (f"/{before + 1}" if before else "")
    tax = invoice.open_tax_usd
    moves = [_aside(invoice, Account.TAXES, Account.RECEIVABLES, tax, reference)] if tax else []
    if write_off:
        moves.append(
            Move(
                invoice.organization_id,
                TransferKind.WRITE_OFF,
                Account.WRITE_OFFS,
                Account.WALLET,
                write_off,
                reference,
                by.label,
                reason,
            )
        )
    details = {"number": invoice.number, "open_usd": money.plain(invoice.open_usd), "reason": reason}
    _settle(invoice, kind, invoice.open_usd, tax, reference=reference, actor=by.label, reason=reason, at=at)
    audit.note(
        actor=by, verb=f"invoice.{invoice.state}", subject=invoice, organization=invoice.organization, details=details
    )
    ledger.post(moves, at=at, also=[invoice.organization_id])
    failpoints.reach("drop.after_ledger")
    dunning.lift(invoice)


def give_up(*, invoice_id: UUID, reason: str, by: Actor) -> Invoice:
    """Write off what is open of an invoice: nobody asks for it any more. Its tax is taken back with it.

    Of the overdraft it asked for as much is forgiven as is still owed. Above ``MONEY_APPROVAL_USD`` a second person
    agrees first. Raises ``ApprovalNeeded``, ``Refused``, ``NotFound``, ``Conflict``.
    """
    reason = check_reason(reason)
    found = find(invoice_id)
    if found.state == State.OPEN:
        _need_second(GIVE_UP, found, found.open_usd, reason=reason, by=by)

    def act() -> Invoice:
        with transaction.atomic(durable=True):
            invoice = lock(invoice_id)
            if invoice.state == State.UNCOLLECTIBLE:
                return invoice
            if invoice.state != State.OPEN:
                raise errors.Conflict("Only an open invoice can be given up.")
            if invoice.open_usd > found.open_usd:
                # A payment went back meanwhile, and nobody has agreed to that much.
                raise errors.Conflict("More is open by now than what was to be given up.")
            owed = ledger.lock([invoice.organization_id])[invoice.organization_id].standing.overdraft
            _drop(
                invoice, Settled.WRITE_OFF, reason=reason, by=by,
                write_off=min(owed, invoice.open_usd - invoice.open_tax_usd),
            )  # fmt: skip
            return invoice

    return retry(act)


def credit(*, invoice_id: UUID, amount_usd: Decimal, reason: str, by: Actor) -> Invoice:
    """Take part of an invoice back by a credit note with a number of its own; the note.

    ``amount_usd`` is in cents, with tax, at most what is open plus what was paid and not given back. What is open
    becomes less first; what was paid before becomes credit, its tax too. Above ``MONEY_APPROVAL_USD`` a second
    person agrees first. Raises ``ApprovalNeeded``, ``Refused``, ``OutOfRange``, ``NotFound``, ``Conflict``.
    """
    reason = check_reason(reason)
    if not rounding.is_cents(amount_usd) or not amount_usd:
        raise errors.OutOfRange("amount_usd is more than zero, in cents.", param="amount_usd")
    found = find(invoice_id)
    _check_credit(found, amount_usd)
    _need_second(CREDIT_NOTE, found, amount_usd, reason=reason, by=by)

    def act() -> Invoice:
        with transaction.atomic(durable=True):
            invoice = lock(invoice_id)
            _check_credit(invoice, amount_usd)
            return _credit(invoice, amount_usd, reason=reason, by=by)

    return retry(act)


def _check_credit(invoice: Invoice, amount_usd: Decimal) -> None:
    if invoice.kind != Kind.INVOICE or invoice.state not in {State.OPEN, State.PAID}:
        raise errors.Conflict("A credit note is for an invoice that is open or paid.")
    most = invoice.open_usd + invoice.paid_usd
    if amount_usd > most:
        raise errors.OutOfRange(f"At most {money.plain(most)} USD are left to credit.", param="amount_usd")


def _credit(invoice: Invoice, amount_usd: Decimal, *, reason: str, by: Actor) -> Invoice:
    """Write, post and issue a credit note, in the caller's transaction."""
    at = started_at()
    owner = invoice.organization_id
    opened = min(amount_usd, invoice.open_usd)
    open_tax = rounding.share(opened, of=invoice.open_tax_usd, whole=invoice.open_usd) if opened else money.ZERO
    paid = amount_usd - opened
    paid_tax = rounding.share(paid, of=invoice.paid_tax_usd, whole=invoice.paid_usd) if paid else money.ZERO
    net = amount_usd - open_tax - paid_tax
    note = Invoice.objects.create(
        organization_id=owner, legal_entity_id=invoice.legal_entity_id, kind=Kind.CREDIT_NOTE, corrects=invoice,
        starts_at=invoice.starts_at, ends_at=invoice.ends_at, zone=invoice.zone, exact_usd=net, subtotal_usd=net,
        tax_usd=open_tax + paid_tax, total_usd=amount_usd, tax_percent=invoice.tax_percent, tax_name=invoice.tax_name,
        tax_treatment=invoice.tax_treatment, reason=reason, actor=by.label,
    )  # fmt: skip
    _append_lines([(note, [(Line(LineKind.CORRECTION, net, reason), net)])])
    reference = f"credit_note:{note.pk}"
    invoice.paid_usd -= paid
    invoice.paid_tax_usd -= paid_tax
    _settle(
        invoice, Settled.CREDIT, opened, open_tax, over=paid, reference=reference, actor=by.label, reason=reason, at=at
    )
    moves = []
    if open_tax:
        moves.append(_aside(invoice, Account.TAXES, Account.RECEIVABLES, open_tax, reference))
    if paid_tax:
        moves.append(_aside(invoice, Account.TAXES, Account.ADJUSTMENTS, paid_tax, f"{reference}/paid"))
    back = amount_usd - open_tax
    if back:
        given = Given(
            ids.new(), owner, Grant.Kind.ADJUSTMENT, back, at, reference, Account.ADJUSTMENTS, by.label, reason
        )  # fmt: skip
        moves.append(
            Move(
                owner,
                TransferKind.ADJUSTMENT,
                Account.ADJUSTMENTS,
                Account.WALLET,
                back,
                reference,
                by.label,
                reason,
                given=given,
            )
        )
    ledger.post(moves, at=at)
    failpoints.reach("credit.after_ledger")
    if invoice.state == State.PAID:
        dunning.lift(invoice)
    audit.note(
        actor=by, verb="invoice.credited", subject=invoice, organization=invoice.organization,
        details={"amount_usd": money.plain(amount_usd), "reason": reason},
    )  # fmt: skip
    return issue(note, profile=profiles.of(owner))


def _need_second(act: str, invoice: Invoice, amount_usd: Decimal, *, reason: str, by: Actor) -> None:
    """Raise ``ApprovalNeeded`` or ``Refused`` unless a second person agreed to this act, if it needs one."""
    if amount_usd <= settings.MONEY_APPROVAL_USD:
        return
    # One yes is good for one act: what is settled next is another one.
    done = InvoiceSettlement.objects.filter(invoice=invoice).count()
    subject = uuid5(NAMESPACE_OID, f"{act}:{invoice.pk}:{money.plain(amount_usd)}:{done}")
    approvals.need(
        kind=act, subject_id=subject, by=by,
        details={
            "invoice": str(invoice), "organization": invoice.organization.slug,
            "amount_usd": money.plain(amount_usd), "reason": reason,
        },
    )  # fmt: skip


_WITHOUT_RECEIPT = """
    SELECT t.id FROM topup t WHERE t.state = 'succeeded' AND NOT EXISTS (SELECT FROM invoice i WHERE i.topup_id = t.id)
    ORDER BY t.id LIMIT %s
"""


def issue_receipts() -> int:
    """Issue a receipt for each top-up that was paid and has none; how many. Many workers may run it."""
    issued = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_WITHOUT_RECEIPT, [CHUNK])
            found = [row[0] for row in cursor.fetchall()]
        profiles.of_many(set(TopUp.objects.filter(pk__in=found).values_list("organization_id", flat=True)))
        made = sum(retry(lambda topup=topup: _issue_receipt(topup)) for topup in found)  # type: ignore[misc]
        issued += made
        if not made:
            return issued


@transaction.atomic(durable=True)
def _issue_receipt(topup_id: UUID) -> bool:
    """Whether it was we who issued it."""
    topup = TopUp.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=topup_id).first()
    if topup is None or Invoice.objects.filter(topup=topup).exists():
        return False
    profile = profiles.of(topup.organization_id)
    net = rounding.to_cents(topup.amount_usd)
    tax = Decimal(topup.tax_usd)
    receipt = Invoice.objects.create(
        organization_id=topup.organization_id, legal_entity=profile.legal_entity, kind=Kind.RECEIPT, topup=topup,
        zone=profile.organization.time_zone, starts_at=topup.settled_at, ends_at=topup.settled_at,
        exact_usd=topup.amount_usd, subtotal_usd=net, tax_usd=tax, total_usd=net + tax, **_taxed(profile, topup, tax),
    )  # fmt: skip
    _append_lines([(receipt, [(Line(LineKind.TOPUP, topup.amount_usd), net)])])
    issue(receipt, profile=profile)
    failpoints.reach("receipt.before_commit")
    return True


def _taxed(profile: BillingProfile, topup: TopUp, tax_usd: Decimal) -> dict[str, Any]:
    """How a top-up's tax was worked out, as its receipt says it; nothing where the rule is another by now."""
    try:
        told = taxes.of_profile(profile, amount_usd=topup.amount_usd, day=topup.created_at.date())
    except taxes.RateMissing:
        return {}
    if told.amount_usd != tax_usd:
        return {}
    return {"tax_percent": told.rate_percent, "tax_name": told.name, "tax_treatment": told.treatment}


_WITHOUT_NOTE = """
    SELECT r.id, NULL::uuid FROM refund r JOIN payment p ON p.id = r.payment_id
        JOIN invoice i ON p.purpose = 'topup' AND i.topup_id = p.subject_id
    WHERE r.state = 'succeeded' AND NOT p.surplus AND NOT EXISTS (SELECT FROM invoice n WHERE n.refund_id = r.id)
    UNION ALL
    SELECT NULL::uuid, d.id FROM dispute d JOIN payment p ON p.id = d.payment_id
        JOIN invoice i ON p.purpose = 'topup' AND i.topup_id = p.subject_id
    WHERE d.state = 'lost' AND NOT p.surplus AND NOT EXISTS (SELECT FROM invoice n WHERE n.dispute_id = d.id)
    LIMIT %s
"""


def issue_notes_of_receipts() -> int:
    """Issue a credit note for each refund and lost dispute of a top-up that has a receipt; how many.

    Many workers may run it.
    """
    issued = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_WITHOUT_NOTE, [CHUNK])
            found = cursor.fetchall()
        made = sum(retry(lambda one=one: _issue_note(*one)) for one in found)  # type: ignore[misc]
        issued += made
        if not made:
            return issued


@transaction.atomic(durable=True)
def _issue_note(refund_id: UUID | None, dispute_id: UUID | None) -> bool:
    """Whether it was we who issued it."""
    rows: QuerySet[Any] = Refund.objects.all() if refund_id else Dispute.objects.all()
    cause = rows.select_for_update(no_key=True, skip_locked=True).filter(pk=refund_id or dispute_id).first()
    known = Q(refund_id=refund_id) if refund_id else Q(dispute_id=dispute_id)
    if cause is None or Invoice.objects.filter(known).exists():
        return False
    reason = "The payment was refunded." if refund_id else "The payment was disputed with the bank, and lost."
    receipt = Invoice.objects.get(kind=Kind.RECEIPT, topup_id=cause.payment.subject_id)
    total, tax = Decimal(cause.amount_usd), Decimal(cause.tax_usd)
    net = total - tax
    note = Invoice.objects.create(
        organization_id=receipt.organization_id, legal_entity_id=receipt.legal_entity_id, kind=Kind.CREDIT_NOTE,
        corrects=receipt, refund_id=refund_id, dispute_id=dispute_id, zone=receipt.zone, starts_at=receipt.starts_at,
        ends_at=receipt.ends_at, exact_usd=net, subtotal_usd=net, tax_usd=tax, total_usd=total,
        tax_treatment=receipt.tax_treatment, reason=reason, actor="invoices",
        **_rate_of(receipt, net=net, tax=tax),
    )  # fmt: skip
    _append_lines([(note, [(Line(LineKind.REFUND, net, "Top-up"), net)])])
    issue(note, profile=profiles.of(receipt.organization_id))
    return True


def _rate_of(receipt: Invoice, *, net: Decimal, tax: Decimal) -> dict[str, Any]:
    """A receipt's rate, as its credit note names it; nothing where the parts that went back rounded otherwise."""
    if abs(rounding.percentage(net, receipt.tax_percent) - tax) >= rounding.CENT:
        return {}
    return {"tax_percent": receipt.tax_percent, "tax_name": receipt.tax_name}
