"""Credit given to an organization. For now a promotional grant is a plain transfer into the wallet."""

from decimal import Decimal
from uuid import UUID

from billing import books, ledger
from billing.models import Account, TransferKind
from metering.usage import started_at


def promote(*, organization_id: UUID, amount_usd: Decimal, reference: str, actor: str, reason: str) -> books.Standing:
    """Give promotional credit, once per ``reference``, as the last act of the caller's transaction.

    Raises ``ledger.TransferConflict`` if the reference was used for another amount.
    """
    assert amount_usd > 0
    move = ledger.Move(
        organization_id, TransferKind.GRANT, Account.PROMOTIONS, Account.WALLET, amount_usd, reference, actor, reason
    )
    return ledger.post([move], at=started_at())[organization_id]
