"""Correcting a charge in the open: the record stays, a new one says by how much it was wrong.

The only module that writes ``Correction``. Whoever corrects an organization's records holds its
advisory lock, so the cost that a correction starts from is the cost it changes.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction

from billing import budgets, ledger, tracing
from billing.books import Need
from billing.ledger import Back, Move
from billing.models import Account, Correction, TransferKind
from core import errors, failpoints, ids, money
from core.transactions import retry
from metering import quarantine, usage
from metering.models import UsageClaim, UsageRecord
from orgs import audit
from orgs.audit import Actor

ADVISORY_CLASS = 7002
REASON_MAX = 500
UNKNOWN_EVENT = "No event with that id was accepted for this organization."


class Voided(NamedTuple):
    """A void: the record that takes the charge back (none if nothing was charged), and whether it was news."""

    record_id: UUID | None
    corrects: UUID | None
    cost_usd: Decimal
    first: bool


class Change(NamedTuple):
    """A difference to post on one record; ``negate`` also takes its counts back."""

    record: UsageRecord
    cost_usd: Decimal
    price_id: UUID
    rule_id: UUID | None
    negate: bool


def void(*, organization_id: UUID, event_id: str, reason: str, by: Actor) -> Voided:
    """Take an event's charge back, once; a second void answers the first.

    Raises ``NotFound`` for an event that was never accepted, ``Conflict`` when its month is
    archived, ``OutOfRange`` for a reason that says nothing.
    """
    reason = check_reason(reason)

    def take_back() -> Voided:
        done: Voided = _void(organization_id, event_id, reason, by)
        failpoints.reach("void.after_commit")
        return done

    return retry(take_back)


def check_reason(reason: str) -> str:
    """The reason, trimmed. Raises ``OutOfRange``."""
    reason = reason.strip()
    if not reason or len(reason) > REASON_MAX or "\x00" in reason:
        raise errors.OutOfRange(f"reason says why, in 1 to {REASON_MAX} characters.", param="reason")
    return reason


@transaction.atomic(durable=True)
def _void(organization_id: UUID, event_id: str, reason: str, by: Actor) -> Voided:
    at = usage.started_at()
    hold_records(organization_id)
    claim = _claim(organization_id, event_id)
    if claim is None or claim.state == UsageClaim.State.QUARANTINED:
        held = quarantine.rows_of(organization_id, event_id)
        withdrawn = [row_id for row_id in held if quarantine.withdraw(row_id, at=at)]
        for row_id in withdrawn:
            audit.note(
                actor=by, verb="event.voided", subject=quarantine.row(row_id),
                details={"event_id": event_id, "reason": reason},
            )  # fmt: skip
        failpoints.reach("void.after_withdrawal")
        # Whoever had the row may have charged the event while we waited for it.
        claim = _claim(organization_id, event_id)
        if claim is None and not held:
            raise errors.NotFound(UNKNOWN_EVENT, param="event_id")
        if claim is None or claim.state == UsageClaim.State.QUARANTINED:
            return Voided(None, None, money.ZERO, bool(withdrawn))
    if claim.state == UsageClaim.State.LOGGED:
        return Voided(None, None, money.ZERO, False)
    record = UsageRecord.objects.filter(organization_id=organization_id, id=claim.record_id).first()
    if record is None:
        raise errors.Conflict("The event's month is archived; correct it by an adjustment.", param="event_id")
    told = Correction.objects.filter(organization_id=organization_id, record_id=record.id, cause="void").first()
    if told is not None:
        return Voided(told.id, record.id, told.cost_usd, False)
    cost = -(record.cost_usd + corrected_by([record])[record.id])
    (correction,) = post(
        organization_id,
        [Change(record, cost, record.price_id, record.rule_id, negate=True)],
        kind=Correction.Kind.VOID, cause="void", actor=by.label, reason=reason, at=at,
    )  # fmt: skip
    audit.note(
        actor=by, verb="usage.voided", subject=record, organization=record.organization,
        details={"event_id": event_id, "reason": reason, "cost_usd": money.plain(cost)},
    )  # fmt: skip
    failpoints.reach("void.before_commit")
    return Voided(correction.id, record.id, cost, True)


def _claim(organization_id: UUID, event_id: str) -> usage.Claim | None:
    return usage.standing([(organization_id, event_id)]).get((organization_id, event_id))


def hold_records(organization_id: UUID) -> None:
    """Nobody else corrects this organization's records until the transaction ends."""
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [ADVISORY_CLASS, str(organization_id)])


def corrected_by(records: Sequence[UsageRecord]) -> dict[UUID, Decimal]:
    """What corrections so far add to each record's cost. One query; records of one organization."""
    sums = dict.fromkeys((record.id for record in records), money.ZERO)
    if records:
        rows = Correction.objects.filter(
            organization_id=records[0].organization_id, record_id__in=list(sums)
        ).values_list("record_id", "cost_usd")
        for record_id, cost in rows:
            sums[record_id] += cost
    return sums


def voided(records: Sequence[UsageRecord]) -> set[UUID]:
    """Which of an organization's records are voided."""
    if not records:
        return set()
    return set(
        Correction.objects.filter(
            organization_id=records[0].organization_id, record_id__in=[record.id for record in records], cause="void"
        ).values_list("record_id", flat=True)
    )


def post(
    organization_id: UUID,
    changes: Sequence[Change],
    *,
    kind: Correction.Kind,
    cause: str,
    actor: str,
    reason: str,
    at: datetime,
) -> list[Correction]:
    """Post differences on records of one organization, inside the caller's transaction, as its last act.

    Each becomes a usage record that names what it corrects; what is owed and what is given back
    are one transfer each and payer. What is given back returns to the grants that paid.
    """
    stamps = ids.run(at=at)
    owed: dict[tuple[UUID, bool], list[Change]] = {}
    for change in changes:
        if change.cost_usd:
            owed.setdefault((change.record.payer_id, change.cost_usd > 0), []).append(change)
    moves: dict[tuple[UUID, bool], Move] = {}
    for key, some in owed.items():
        plain = _move(key, sum((one.cost_usd for one in some), money.ZERO), kind, next(stamps), actor, reason)
        if key[1]:
            needs = tuple(Need(one.cost_usd, one.record.id, one.record.model) for one in some)
            moves[key] = plain._replace(needs=needs, by_record=True)
        else:
            moves[key] = plain._replace(back=_back(key[0], some))
    corrections = []
    for change in changes:
        move = moves.get((change.record.payer_id, change.cost_usd > 0)) if change.cost_usd else None
        corrections.append(
            Correction(
                id=next(stamps),
                organization_id=organization_id,
                record_id=change.record.id,
                kind=kind,
                cause=cause,
                cost_usd=change.cost_usd,
                transfer_id=move.id if move else None,
                actor=actor,
                reason=reason,
                created_at=at,
            )
        )
    Correction.objects.bulk_create(corrections)
    failpoints.reach("correction.after_rows")
    usage.write_corrections(
        (
            usage.Correcting(
                one.id, change.record, one.cost_usd, change.price_id, change.rule_id, one.transfer_id, change.negate
            )
            for change, one in zip(changes, corrections, strict=True)
        ),
        at=at,
    )
    failpoints.reach("correction.after_records")
    locked = ledger.post(list(moves.values()), at=at, also=[organization_id])
    failpoints.reach("correction.after_ledger")
    if locked[organization_id].has_budgets:
        budgets.count([_counted(change) for change in changes], at=at)
    return corrections


def _counted(change: Change) -> budgets.Counted:
    """What a correction adds to ceilings: as the record that it writes, in the window in which it is made."""
    record = change.record
    tokens = -record.total_tokens if change.negate else 0
    return budgets.Counted(
        record.organization_id, record.project_id, record.member_id, record.api_key_id, change.cost_usd, tokens
    )


def _back(payer_id: UUID, changes: Sequence[Change]) -> list[Back]:
    """What goes back to which grant: to the last that paid first, and what none paid for (overdraft) before all."""
    records = [change.record for change in changes]
    shares = tracing.shares(payer_id, records)
    so_far = corrected_by(records)
    back = []
    for change in changes:
        left = -change.cost_usd
        paid = shares[change.record.id]
        net = change.record.cost_usd + so_far[change.record.id]
        loose = min(left, net - sum(paid.values(), money.ZERO))
        if loose > 0:
            back.append(Back(None, loose, change.record.id))
            left -= loose
        for grant_id, amount in reversed(paid.items()):
            taken = min(left, amount)
            if taken > 0:
                back.append(Back(grant_id, taken, change.record.id))
                left -= taken
        # Nothing gives back more than was paid; were it so, the money still belongs to the customer.
        if left > 0:
            back.append(Back(None, left, change.record.id))
    return back


def _move(
    key: tuple[UUID, bool], amount: Decimal, kind: Correction.Kind, transfer_id: UUID, actor: str, reason: str
) -> ledger.Move:
    payer, owed = key
    if owed:
        return ledger.Move(
            payer, TransferKind.RERATE_UP, Account.WALLET, Account.REVENUE, amount, None, actor, reason, transfer_id
        )
    back = TransferKind.VOID if kind == Correction.Kind.VOID else TransferKind.RERATE_DOWN
    return ledger.Move(payer, back, Account.REVENUE, Account.WALLET, -amount, None, actor, reason, transfer_id)
