"""Organizations that are closed: first their money is settled, then nobody calls, buys or signs in for them.

Everything stays in the books. Documents of periods that were open are still made; usage that a gateway reports late
is charged all the same, since nothing that was used is refused.
"""

from collections.abc import Iterator
from uuid import UUID

from django.db import transaction

from billing import ledger, topups, wallets
from billing.corrections import check_reason
from billing.models import Adjustment, Dispute, Invoice, Refund, TopUp
from core import errors, money
from metering import quarantine
from orgs import organizations
from orgs.audit import Actor
from orgs.models import Organization


@transaction.atomic
def close(*, organization_id: UUID, reason: str, by: Actor) -> Organization:
    """Close an organization whose money is settled; one that is closed stays as it is. ``reopen`` undoes it.

    Its keys stop within a second, and it buys nothing by itself any more. Raises ``Conflict`` with all that is in the
    way, ``OutOfRange`` for a reason that cannot be.
    """
    reason = check_reason(reason)
    # What moves money in this wallet is over, or waits for this.
    ledger.lock([organization_id])
    organization = Organization.objects.get(pk=organization_id)
    if organization.closed_at is not None:
        return organization
    if found := obstacles(organization_id):
        raise errors.Conflict(f"{organization} cannot be closed: {'; '.join(found)}.")
    topups.stop_recharge(organization_id=organization_id, by=by)
    return organizations.close(organization=organization, reason=reason, by=by)


@transaction.atomic
def reopen(*, organization_id: UUID, reason: str, by: Actor) -> Organization:
    """Let a closed organization go on as it was, but for what it bought by itself. Raises ``OutOfRange``."""
    organization = Organization.objects.get(pk=organization_id)
    return organizations.reopen(organization=organization, reason=check_reason(reason), by=by)


def obstacles(organization_id: UUID) -> list[str]:
    """What is in the way of closing an organization, in words."""
    return [*_of_wallet(wallets.state(organization_id)), *_of_rows(organization_id)]


def _of_wallet(wallet: wallets.State) -> Iterator[str]:
    """What a wallet has that somebody must get, or owes."""
    if wallet.balance_usd > 0:
        yield f"{money.plain(wallet.balance_usd)} USD is left, to be refunded or taken out by an adjustment"
    if wallet.balance_usd < 0:
        yield f"{money.plain(-wallet.balance_usd)} USD is owed, to be paid or written off"
    if wallet.held_usd:
        yield f"{money.plain(wallet.held_usd)} USD is held for requests that may be running"


def _of_rows(organization_id: UUID) -> Iterator[str]:
    """What is under way. Payments are of top-ups or invoices, which are open as long as they are."""
    of = {"organization_id": organization_id}
    under_way = {
        "top-ups are under way": TopUp.objects.filter(
            **of, state__in=(TopUp.State.PENDING, TopUp.State.PROCESSING, TopUp.State.REQUIRES_ACTION)
        ),
        "invoices are to be paid": Invoice.objects.filter(**of, state=Invoice.State.OPEN, open_usd__gt=0),
        "invoices are drafts": Invoice.objects.filter(
            **of, state=Invoice.State.DRAFT, kind=Invoice.Kind.INVOICE
        ),
        "refunds are under way": Refund.objects.filter(
            **of, state__in=(Refund.State.WAITING, Refund.State.PENDING, Refund.State.CALLED, Refund.State.PROCESSING)
        ),
        "disputes are open": Dispute.objects.filter(**of, state__in=(Dispute.State.INQUIRY, Dispute.State.OPEN)),
        "adjustments wait for a second person": Adjustment.objects.filter(**of, state=Adjustment.State.WAITING),
        "events wait in quarantine": quarantine.open_of(organization_id),
    }  # fmt: skip
    for words, rows in under_way.items():
        if count := rows.count():
            yield f"{words}: {count}"
