"""The statement: a wallet's transfers with their running balance, by ``seq``."""

from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet

from billing.models import Account, Transfer, TransferKind
from core import errors, ids

PAGE = 1000
# A draw and a repayment leave the balance as it was; the line they belong to says it all.
_INNER = (TransferKind.DRAW, TransferKind.REPAYMENT)


class Page(NamedTuple):
    """A page of the statement, and whether more follows."""

    transfers: list[Transfer]
    has_more: bool


def lines(organization_id: UUID) -> QuerySet[Transfer]:
    """Everything that moved the wallet's balance, newest first."""
    return (
        Transfer.objects.filter(organization_id=organization_id, seq__isnull=False)
        .filter(Q(debit=Account.WALLET) | Q(credit=Account.WALLET))
        .exclude(kind__in=_INNER)
        .order_by("-seq")
    )


def page(organization_id: UUID, *, limit: int, after: str | None) -> Page:
    """The next ``limit`` lines older than the one named ``after``. Raises ``InvalidCursor``."""
    found = lines(organization_id)
    if after is not None:
        found = found.filter(seq__lt=_seq(organization_id, after))
    transfers = list(found[: limit + 1])
    return Page(transfers[:limit], len(transfers) > limit)


def every(organization_id: UUID) -> Iterator[Transfer]:
    """All lines, newest first, read page by page."""
    after = None
    while True:
        found = page(organization_id, limit=PAGE, after=after)
        yield from found.transfers
        if not found.has_more:
            return
        after = ids.show("tr", found.transfers[-1].pk)


def _seq(organization_id: UUID, shown: str) -> int:
    try:
        cursor = lines(organization_id).filter(id=ids.read("tr", shown)).first()
    except ValueError:
        cursor = None
    if cursor is None or cursor.seq is None:
        raise errors.InvalidCursor(param="after")
    return int(cursor.seq)
