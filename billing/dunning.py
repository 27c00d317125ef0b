"""What is done about invoices that are overdue: reminders, a stop, a freeze.

The only module that writes ``DunningStep``.

Days count from the end of the due date, by the legal entity's settings. A reminder is a message. The stop takes the
credit limit away and makes holds strict, so that calls need credit that is there; the freeze refuses every call.
Each is one row, once for each invoice, whoever looks and how often; a run that comes late sends only the last of
the reminders that fell due. When the invoice is paid, voided, credited or given up, what was
taken is given back, unless another invoice of the organization still asks for it or somebody changed it since.
An invoice whose payment was taken back begins anew: its days count from then.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from billing import ledger, wallets
from billing.ledger import Terms
from billing.models import DunningStep, Invoice, LegalEntity, Wallet
from core import ids, money
from core.transactions import database_now, retry
from metering.usage import started_at
from ops import outbox
from orgs import audit

STOP = "stop"
FREEZE = "freeze"
CHUNK = 200
BY = audit.system("dunning")


class Step(NamedTuple):
    """A step and after how many days it is due. Pure."""

    name: str
    days: int


def steps(entity: LegalEntity) -> list[Step]:
    """A legal entity's steps in the order they fall due."""
    reminders = [Step(f"reminder_{place}", days) for place, days in enumerate(entity.reminder_days, start=1)]
    found = [*reminders, Step(STOP, entity.stop_days), Step(FREEZE, entity.freeze_days)]
    return sorted(found, key=lambda step: (step.days, step.name))


def due_steps(entity: LegalEntity, *, due_at: datetime, now: datetime, done: set[str]) -> list[Step]:
    """The steps to take now: of the reminders that fell due only the last, and none before one that was taken."""
    fallen = [step for step in steps(entity) if due_at + timedelta(days=step.days) <= now]
    reminders = [step for step in fallen if step.name not in {STOP, FREEZE}]
    acts = [step for step in fallen if step.name in {STOP, FREEZE}]
    return [step for step in [*reminders[-1:], *acts] if step.name not in done]


def run() -> int:
    """Take every step that is due; how many. Many workers may run it."""
    taken = 0
    after = UUID(int=0)
    while True:
        rows = Invoice.objects.filter(state=Invoice.State.OPEN, due_at__lt=database_now(), pk__gt=after).order_by("pk")
        found = list(rows.values_list("pk", flat=True)[:CHUNK])
        if not found:
            return taken
        taken += sum(retry(lambda one=one: _look(one)) for one in found)  # type: ignore[misc]
        after = found[-1]


@transaction.atomic(durable=True)
def _look(invoice_id: UUID) -> int:
    """Take the steps that are due for one invoice."""
    locked = Invoice.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
    invoice = locked.select_related("legal_entity").filter(pk=invoice_id, state=Invoice.State.OPEN).first()
    if invoice is None or invoice.due_at is None:
        return 0
    at = started_at()
    done = set(DunningStep.objects.filter(invoice=invoice, undone_at=None).values_list("step", flat=True))
    assert invoice.overdue_from is not None
    wanted = due_steps(invoice.legal_entity, due_at=invoice.overdue_from, now=at, done=done)
    for step in wanted:
        before = _take(invoice, step)
        DunningStep.objects.create(
            organization_id=invoice.organization_id, invoice=invoice, step=step.name, before=before, at=at
        )
        data = {
            "invoice_id": ids.show("inv", invoice.pk), "number": invoice.number, "step": step.name,
            "open_usd": money.plain(invoice.open_usd), "due_at": invoice.due_at.isoformat(),
        }  # fmt: skip
        key = f"{invoice.pk}:{step.name}"
        if invoice.reopened_at is not None:
            key += f":{invoice.reopened_at.isoformat()}"
        outbox.post(kind="invoice.overdue", organization_id=invoice.organization_id, key=key, data=data)
    return len(wanted)


def _take(invoice: Invoice, step: Step) -> dict[str, object]:
    """Do what a step does to the wallet; its terms of before, where it changed them."""
    owner = invoice.organization_id
    reason = f"{invoice} is overdue"
    if step.name == STOP:
        wallet = ledger.lock([owner])[owner]
        wallets.change_terms(
            organization_id=owner,
            terms=Terms(enforcement=Wallet.Enforcement.STRICT, credit_limit_usd=money.ZERO),
            reason=reason, by=BY,
        )  # fmt: skip
        return {"enforcement": wallet.enforcement, "credit_limit_usd": money.plain(wallet.credit_limit)}
    if step.name == FREEZE:
        wallet = ledger.lock([owner])[owner]
        wallets.freeze(organization_id=owner, reason=reason, by=BY)
        return {"frozen": wallet.frozen}
    return {}


def begin_again(invoice: Invoice, *, at: datetime) -> None:
    """Let an invoice that is opened again be dunned from the first step on, in the caller's transaction."""
    DunningStep.objects.filter(invoice=invoice, undone_at=None).update(undone_at=at)


def lift(invoice: Invoice) -> int:
    """Give back what was taken for an invoice that is not open any more, in the caller's transaction; how many steps.

    The wallet is locked by now, so no other invoice of it is looked at meanwhile.
    """
    taken = list(DunningStep.objects.filter(invoice=invoice, undone_at=None, step__in=(STOP, FREEZE)).order_by("-id"))
    if not taken:
        return 0
    at = started_at()
    owner = invoice.organization_id
    wallet = ledger.lock([owner])[owner]
    for row in taken:
        # Another invoice's step found the terms as this one had left them: it inherits what to give back.
        heir = (
            DunningStep.objects.filter(
                organization_id=owner, step=row.step, undone_at=None, invoice__state=Invoice.State.OPEN
            )
            .exclude(invoice=invoice)
            .order_by("id")
            .first()
        )
        row.undone_at = at
        row.save(update_fields=["undone_at"])
        if heir is not None:
            if heir.pk > row.pk:
                heir.before = row.before
                heir.save(update_fields=["before"])
            continue
        _give_back(row, wallet, reason=f"{invoice} is settled")
    return len(taken)


def _give_back(row: DunningStep, wallet: ledger.Locked, *, reason: str) -> None:
    owner = row.organization_id
    if row.step == FREEZE:
        if wallet.frozen and not row.before["frozen"]:
            wallets.unfreeze(organization_id=owner, reason=reason, by=BY)
        return
    # Who set other terms meanwhile meant those.
    if (wallet.enforcement, wallet.credit_limit) == (Wallet.Enforcement.STRICT, money.ZERO):
        terms = Terms(enforcement=row.before["enforcement"], credit_limit_usd=Decimal(row.before["credit_limit_usd"]))
        wallets.change_terms(organization_id=owner, terms=terms, reason=reason, by=BY)
