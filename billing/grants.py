"""Credit given to an organization: promotional, purchased, or an adjustment.

A grant with a later beginning waits outside of the wallet; one with an end moves what is left of it
to breakage then. Both happen when the wallet is next touched, or by ``settle_due``.
"""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from billing import ledger
from billing.ledger import Move, TransferConflict
from billing.lots import Given
from billing.models import Account, Grant, TransferKind
from core import ids, money
from core.transactions import retry
from metering.usage import started_at

CHUNK = 200
Kind = Grant.Kind

# Which account pays for a grant, and what its transfer is called.
_SOURCES: dict[str, tuple[Account, TransferKind]] = {
    Kind.PROMOTIONAL: (Account.PROMOTIONS, TransferKind.GRANT),
    Kind.PURCHASED: (Account.STRIPE_CLEARING, TransferKind.TOPUP),
    Kind.ADJUSTMENT: (Account.ADJUSTMENTS, TransferKind.ADJUSTMENT),
}


class Conditions(NamedTuple):
    """When and for what credit may be used. A lower ``priority`` is spent first; no ``models`` means any."""

    priority: int = 0
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()


ANY = Conditions()


def give(
    *,
    organization_id: UUID,
    kind: str,
    amount_usd: Decimal,
    reference: str,
    actor: str,
    reason: str,
    conditions: Conditions = ANY,
    paid: tuple[Account, TransferKind] | None = None,
) -> UUID:
    """Give credit, once per ``reference``, as the last act of the caller's transaction; the grant's id.

    ``paid``: from which account it comes and what its transfer is called, where that is not the kind's own.
    Raises ``TransferConflict`` if the reference was used for something else.
    """
    assert amount_usd > 0
    at = started_at()
    ledger.lock([organization_id])
    known = _known(organization_id, reference)
    if known is not None:
        _check_same(known, kind, amount_usd, conditions)
        return known.pk  # type: ignore[no-any-return]
    source, transfer_kind = paid or _SOURCES[kind]
    given = Given(
        ids.new(), organization_id, kind, amount_usd, conditions.effective_at or at, reference, source, actor, reason,
        conditions.priority, conditions.expires_at, conditions.models,
    )  # fmt: skip
    move = Move(
        organization_id, transfer_kind, source, Account.WALLET, amount_usd, reference, actor, reason, given=given
    )
    ledger.post([move], at=at)
    return given.id


def _known(organization_id: UUID, reference: str) -> Grant | None:
    return Grant.objects.filter(organization_id=organization_id, reference=reference).first()


def _check_same(known: Grant, kind: str, amount_usd: Decimal, conditions: Conditions) -> None:
    """Raise ``TransferConflict`` unless a grant is what is asked for again."""
    same = (known.kind, known.amount_usd, known.priority, known.expires_at, tuple(known.model_slugs)) == (
        kind, amount_usd, conditions.priority, conditions.expires_at, conditions.models,
    )  # fmt: skip
    if not same or (conditions.effective_at is not None and known.effective_at != conditions.effective_at):
        raise TransferConflict(f"{known.reference} was granted with other content")


def promote(*, organization_id: UUID, amount_usd: Decimal, reference: str, actor: str, reason: str) -> UUID:
    """Give promotional credit for any model and without an end; as ``give``."""
    return give(
        organization_id=organization_id, kind=Kind.PROMOTIONAL, amount_usd=amount_usd, reference=reference,
        actor=actor, reason=reason,
    )  # fmt: skip


def end_of(day: date, *, time_zone: str) -> datetime:
    """The instant at which a calendar day is over in an organization's zone."""
    return datetime.combine(day + timedelta(days=1), time(), ZoneInfo(time_zone))


def settle_due() -> int:
    """End and begin every grant whose time has come; how many wallets were touched. Many workers may run it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT organization_id FROM wallet WHERE next_change <= clock_timestamp() ORDER BY next_change LIMIT %s",
            [CHUNK],
        )
        due = [row[0] for row in cursor.fetchall()]
    for organization_id in due:
        retry(lambda owner=organization_id: _settle(owner))  # type: ignore[misc]
    return len(due)


@transaction.atomic(durable=True)
def _settle(organization_id: UUID) -> None:
    ledger.post([], at=started_at(), also=[organization_id])


class Credit(NamedTuple):
    """What is left in a wallet of credit given (promotions, adjustments), and of credit paid for."""

    given_usd: Decimal
    paid_usd: Decimal


def left(organization_id: UUID) -> Credit:
    """An organization's credit by origin; the overdraft is counted in neither. One query."""
    given = paid = money.ZERO
    rows = Grant.objects.filter(
        organization_id=organization_id, transfer_id__isnull=False, remaining_usd__gt=0
    ).values_list("kind", "remaining_usd")
    for kind, remaining in rows:
        if kind == Kind.PURCHASED:
            paid += remaining
        else:
            given += remaining
    return Credit(given, paid)
