"""The statement: a wallet's transfers with their running balance, by ``seq``."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Q, QuerySet

from billing.models import Account, Transfer, TransferKind
from core import errors, ids, money
from core.bulk import array

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


def cursor_before(organization_id: UUID, seq: int) -> str | None:
    """The cursor after which the line of that ``seq``, or the next older one, comes first; none for the newest."""
    newer = lines(organization_id).filter(seq__gt=seq).order_by("seq").values_list("id", flat=True).first()
    return None if newer is None else ids.show("tr", newer)


# A transfer's id carries the start of its transaction, and its ``seq`` is given once that has the wallet's lock. So
# the last line before an instant is among the newest by id: more than so many transactions never wait for a wallet.
_AT_ONCE_MAX = 200
_CLOSING = """
    SELECT last.balance_after_usd FROM unnest(%s::uuid[]) WITH ORDINALITY AS edge (bound, place)
    LEFT JOIN LATERAL (
        SELECT near.balance_after_usd FROM (
            SELECT seq, balance_after_usd FROM transfer
            WHERE organization_id = %s AND id < edge.bound AND seq IS NOT NULL ORDER BY id DESC LIMIT %s
        ) near ORDER BY near.seq DESC LIMIT 1
    ) last ON true ORDER BY edge.place
"""


def closing(organization_id: UUID, instants: Sequence[datetime]) -> list[Decimal]:
    """The balance after the last line before each instant, zero before the first. One query."""
    with connection.cursor() as cursor:
        cursor.execute(_CLOSING, [array(map(ids.floor, instants)), organization_id, _AT_ONCE_MAX])
        return [money.ZERO if balance is None else balance for (balance,) in cursor.fetchall()]


def _seq(organization_id: UUID, shown: str) -> int:
    try:
        cursor = lines(organization_id).filter(id=ids.read("tr", shown)).first()
    except ValueError:
        cursor = None
    if cursor is None or cursor.seq is None:
        raise errors.InvalidCursor(param="after")
    return int(cursor.seq)
