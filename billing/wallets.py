"""Reading wallets: what an organization has, and what gateways are told about it."""

from collections.abc import Collection
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from billing import books
from billing.models import Wallet
from core import money


class State(NamedTuple):
    """A wallet as shown. ``balance_usd`` = posted − overdraft; available adds the credit limit, less holds."""

    organization_id: UUID
    balance_usd: Decimal
    held_usd: Decimal
    overdraft_usd: Decimal
    spent_usd: Decimal
    credit_limit_usd: Decimal
    available_usd: Decimal
    status: str


def states(organization_ids: Collection[UUID]) -> dict[UUID, State]:
    """Wallets of these organizations; one never touched stands at zero. One query."""
    found = {wallet.pk: _state(wallet) for wallet in Wallet.objects.filter(pk__in=list(organization_ids))}
    return {
        organization_id: found.get(organization_id) or _state(Wallet(organization_id=organization_id))
        for organization_id in organization_ids
    }


def state(organization_id: UUID) -> State:
    """One organization's wallet."""
    return states([organization_id])[organization_id]


def _state(wallet: Wallet) -> State:
    balance = Decimal(wallet.posted_usd) - Decimal(wallet.overdraft_usd)
    limit = Decimal(wallet.credit_limit_usd)
    return State(
        organization_id=wallet.pk,
        balance_usd=balance,
        held_usd=Decimal(wallet.held_usd),
        overdraft_usd=Decimal(wallet.overdraft_usd),
        spent_usd=Decimal(wallet.spent_usd),
        credit_limit_usd=limit,
        available_usd=max(balance + limit - Decimal(wallet.held_usd), money.ZERO),
        status=books.status(
            balance=balance,
            overdraft=Decimal(wallet.overdraft_usd),
            credit_limit=limit,
            low=Decimal(wallet.low_usd),
            frozen=wallet.frozen_at is not None,
        ),
    )
