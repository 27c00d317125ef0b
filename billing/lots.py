"""Grants as the ledger sees them: lots of credit. The only module that writes ``Grant`` and ``GrantUse``.

Everything here runs under the lock of the wallet that the grants belong to.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from billing import books
from billing.models import Grant, GrantUse
from core.bulk import Statement, array, at_once, copy_rows, quoted


class Given(NamedTuple):
    """A grant to make. ``source`` is the account that pays for it."""

    id: UUID
    organization_id: UUID
    kind: str
    amount_usd: Decimal
    effective_at: datetime
    reference: str
    source: str
    actor: str
    reason: str
    priority: int = 0
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()

    @property
    def lot(self) -> books.Lot:
        """The grant as a lot with all of it left."""
        return books.Lot(self.id, self.kind, self.amount_usd, self.priority, self.expires_at, frozenset(self.models))


class Open(NamedTuple):
    """An organization's lots with anything left, and the grants that have not begun."""

    lots: tuple[books.Lot, ...] = ()
    waiting: tuple[Given, ...] = ()


def opened(organization_ids: Collection[UUID]) -> dict[UUID, Open]:
    """What these organizations have in lots. One query."""
    (rows,) = at_once([asking(organization_ids)])
    return read(rows)


def asking(organization_ids: Collection[UUID]) -> Statement:
    """The query for what these organizations have in lots; ``read`` understands its rows."""
    return Statement(
        "SELECT organization_id, id, kind, remaining_usd, priority, expires_at, model_slugs, transfer_id IS NULL,"
        # Of grants that have begun these say nothing any more, and a timestamp takes time to read.
        " CASE WHEN transfer_id IS NULL THEN effective_at END, reference, source, actor, reason"
        " FROM credit_grant WHERE organization_id = ANY(%s::uuid[]) AND is_open",
        [array(organization_ids)],
    )


def read(rows: Iterable[tuple[Any, ...]]) -> dict[UUID, Open]:
    """The answer to ``asking``: by organization, in the order in which lots are spent and grants begin."""
    found: dict[UUID, tuple[list[books.Lot], list[Given]]] = {}
    for row in rows:
        owner, own, kind, remaining, priority, expires_at, slugs, waits, effective_at, *story = row
        reference, source, actor, reason = story
        lots, waiting = found.setdefault(owner, ([], []))
        if waits:
            waiting.append(
                Given(
                    own, owner, kind, remaining, effective_at, reference, source, actor, reason, priority, expires_at,
                    tuple(slugs),
                )
            )  # fmt: skip
        else:
            lots.append(books.Lot(own, kind, remaining, priority, expires_at, frozenset(slugs)))
    return {
        owner: Open(books.arranged(lots), tuple(sorted(waiting, key=lambda one: (one.effective_at, one.id))))
        for owner, (lots, waiting) in found.items()
    }


def find(organization_id: UUID, grant_ids: Collection[UUID]) -> dict[UUID, books.Lot]:
    """Lots by id, open or not."""
    rows = Grant.objects.filter(organization_id=organization_id, id__in=list(grant_ids))
    return {
        row.id: books.Lot(row.id, row.kind, row.remaining_usd, row.priority, row.expires_at, frozenset(row.model_slugs))
        for row in rows
    }


_GRANT = {
    "organization_id": "uuid", "id": "uuid", "kind": "text", "amount_usd": "numeric", "remaining_usd": "numeric",
    "priority": "int2", "effective_at": "timestamptz", "expires_at": "timestamptz", "model_slugs": "text[]",
    "reference": "text", "source": "text", "transfer_id": "uuid", "actor": "text", "reason": "text",
    "created_at": "timestamptz",
}  # fmt: skip


def insert(grants: Iterable[tuple[Given, Decimal, UUID | None]], *, at: datetime) -> None:
    """Append grants, each with what is left of it by now and the transfer that posted it."""
    copy_rows(
        "credit_grant",
        _GRANT,
        (
            (
                one.organization_id, one.id, one.kind, one.amount_usd, remaining, one.priority, one.effective_at,
                one.expires_at, list(one.models), one.reference, one.source, transfer_id, one.actor, one.reason, at,
            )
            for one, remaining, transfer_id in grants
        ),
    )  # fmt: skip


def storing(
    remaining: Collection[tuple[UUID, UUID, Decimal]], begun: Mapping[tuple[UUID, UUID], UUID]
) -> list[Statement]:
    """What keeps what is left, (organization, grant, amount), and the transfers of those that have begun."""
    statements = []
    if remaining:
        statements.append(
            Statement(
                "UPDATE credit_grant SET remaining_usd = new.remaining"
                " FROM unnest(%s::uuid[], %s::uuid[], %s::numeric[]) AS new (organization_id, id, remaining)"
                " WHERE credit_grant.organization_id = new.organization_id AND credit_grant.id = new.id",
                [array(column) for column in zip(*remaining, strict=True)],
            )
        )
    if begun:
        statements.append(
            Statement(
                "UPDATE credit_grant SET transfer_id = new.transfer"
                " FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[]) AS new (organization_id, id, transfer)"
                " WHERE credit_grant.organization_id = new.organization_id AND credit_grant.id = new.id",
                [
                    array(organization for organization, _ in begun),
                    array(grant for _, grant in begun),
                    array(begun.values()),
                ],
            )
        )
    return statements


def tracing(rows: Sequence[tuple[UUID, UUID, UUID, books.Use]]) -> Statement:
    """What appends what transfers took from lots: (organization, id, transfer, use)."""
    return Statement(
        "INSERT INTO grant_use (organization_id, id, transfer_id, grant_id, amount_usd, first_record_id,"
        " last_record_id) SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::numeric[],"
        " %s::uuid[], %s::uuid[])",
        [
            array(row[0] for row in rows),
            array(row[1] for row in rows),
            array(row[2] for row in rows),
            array(row[3].lot_id for row in rows),
            array(row[3].amount for row in rows),
            quoted(row[3].first for row in rows),
            quoted(row[3].last for row in rows),
        ],
    )


def uses_of(organization_id: UUID, transfer_ids: Collection[UUID]) -> Sequence[GrantUse]:
    """What these transfers took from grants, in the order written."""
    return list(
        GrantUse.objects.filter(organization_id=organization_id, transfer_id__in=list(transfer_ids)).order_by("id")
    )
