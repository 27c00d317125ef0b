"""The ledger: immutable transfers and the wallets they move. The only module that writes either table.

A transfer is one amount from one account to another of the same organization, so it cannot be
unbalanced; its reference is unique, so it cannot be posted twice. The wallet row is the mutex of
everything it owns: it is locked last in a transaction, all wallets of the transaction in one
sorted statement, without keeping children's foreign keys waiting (``FOR NO KEY UPDATE``).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from billing import books
from billing.models import Account, TransferKind
from core import ids
from core.bulk import array, copy_rows


class TransferConflict(Exception):
    """A reference was posted before with another amount or account."""


class Move(NamedTuple):
    """Money to move into or out of an organization's wallet, and why. ``amount_usd`` > 0.

    ``reference`` is the cause; a move without one is its own, and its ``id`` must be given.
    """

    organization_id: UUID
    kind: TransferKind
    debit: Account
    credit: Account
    amount_usd: Decimal
    reference: str | None = None
    actor: str = ""
    reason: str = ""
    id: UUID | None = None


_COLUMNS = {
    "id": "uuid", "organization_id": "uuid", "kind": "text", "debit": "text", "credit": "text", "amount_usd": "numeric",
    "reference": "text", "seq": "int8", "balance_after_usd": "numeric", "actor": "text", "reason": "text",
    "created_at": "timestamptz",
}  # fmt: skip


def post(moves: Sequence[Move], *, at: datetime) -> dict[UUID, books.Standing]:
    """Write each move once, inside the caller's transaction; call it once per transaction, last.

    ``at`` is the transaction's start by the database's clock. A reference posted before is left
    alone; the same reference with another amount or account raises ``TransferConflict``. Returns
    where each touched wallet stands afterwards.
    """
    assert connection.in_atomic_block, "ledger.post needs a transaction"
    standings = lock({move.organization_id for move in moves})
    fresh = _unposted(moves)
    stamps = ids.run(at=at)
    rows: list[tuple[Any, ...]] = []
    for move in fresh:
        standing = standings[move.organization_id]
        if move.debit == Account.WALLET:
            steps = books.spend(standing, move.amount_usd, kind=move.kind, to=move.credit)
        else:
            assert move.credit == Account.WALLET, "every move so far touches the wallet"
            steps = books.receive(standing, move.amount_usd, kind=move.kind, source=move.debit)
        for step in steps:
            # The move's own transfer carries the id that others refer to; draw and repayment get theirs.
            own = step.kind == move.kind
            rows.append((
                move.id if own and move.id else next(stamps), move.organization_id, step.kind, step.debit, step.credit,
                step.amount, move.reference or f"transfer:{move.id}", step.after.seq, step.after.balance, move.actor,
                move.reason, at,
            ))  # fmt: skip
        standings[move.organization_id] = steps[-1].after
    if rows:
        copy_rows("transfer", _COLUMNS, rows)
        _store({organization: standings[organization] for organization in {move.organization_id for move in fresh}})
    return standings


def lock(organization_ids: Collection[UUID]) -> dict[UUID, books.Standing]:
    """Lock these wallets in id order, making those that do not exist yet; where each stands."""
    assert connection.in_atomic_block, "a lock needs a transaction"
    wanted = sorted(organization_ids)
    found = _lock_existing(wanted)
    if len(found) < len(wanted):
        missing = [organization for organization in wanted if organization not in found]
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO wallet (organization_id, posted_usd, held_usd, overdraft_usd, spent_usd,"
                " credit_limit_usd, low_usd, seq, created_at)"
                " SELECT unnest(%s::uuid[]), 0, 0, 0, 0, 0, 5, 0, now()"
                " ON CONFLICT (organization_id) DO NOTHING",
                [missing],
            )
        found = _lock_existing(wanted)
    return found


def _lock_existing(wanted: Sequence[UUID]) -> dict[UUID, books.Standing]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT organization_id, posted_usd, overdraft_usd, spent_usd, seq FROM wallet"
            " WHERE organization_id = ANY(%s::uuid[]) ORDER BY organization_id FOR NO KEY UPDATE",
            [array(wanted)],
        )
        return {row[0]: books.Standing(*row[1:]) for row in cursor.fetchall()}


def _unposted(moves: Sequence[Move]) -> list[Move]:
    """The moves whose reference is new. Raises ``TransferConflict``."""
    caused = [move for move in moves if move.reference is not None]
    if not caused:
        return list(moves)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.organization_id, t.kind, t.reference, t.debit, t.credit, t.amount_usd FROM transfer t"
            " JOIN unnest(%s::uuid[], %s::text[], %s::text[]) AS wanted (organization_id, kind, reference)"
            " USING (organization_id, kind, reference)",
            [
                [move.organization_id for move in caused],
                [str(move.kind) for move in caused],
                [move.reference for move in caused],
            ],
        )
        posted = {(row[0], row[1], row[2]): row[3:] for row in cursor.fetchall()}
    fresh: list[Move] = []
    for move in moves:
        if move.reference is None:
            fresh.append(move)
            continue
        key = (move.organization_id, str(move.kind), move.reference)
        told = posted.get(key)
        if told is None:
            posted[key] = (str(move.debit), str(move.credit), move.amount_usd)
            fresh.append(move)
        elif told != (str(move.debit), str(move.credit), move.amount_usd):
            raise TransferConflict(f"{move.kind} {move.reference} was posted with other content")
    return fresh


def _store(standings: Mapping[UUID, books.Standing]) -> None:
    """Keep the new standings; the transfers that explain them are already written."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE wallet SET posted_usd = new.posted, overdraft_usd = new.overdraft, spent_usd = new.spent,"
            " seq = new.seq FROM unnest(%s::uuid[], %s::numeric[], %s::numeric[], %s::numeric[], %s::int8[])"
            " AS new (organization_id, posted, overdraft, spent, seq)"
            " WHERE wallet.organization_id = new.organization_id",
            [
                array(standings),
                array(standing.posted for standing in standings.values()),
                array(standing.overdraft for standing in standings.values()),
                array(standing.spent for standing in standings.values()),
                array(standing.seq for standing in standings.values()),
            ],
        )
