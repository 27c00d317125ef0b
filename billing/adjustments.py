"""Money that finance moves by hand. The only module that writes ``Adjustment``.

Every act has a reason and a person. One above ``MONEY_APPROVAL_USD`` waits until somebody else has
granted it; then it is posted once, whoever carries it out and however often.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing import grants, ledger
from billing.corrections import check_reason
from billing.grants import ANY, Conditions
from billing.ledger import Move
from billing.models import Account, Adjustment, Grant, TransferKind
from core import clock, errors, money
from core.transactions import retry
from metering.usage import started_at
from ops import approvals
from orgs import audit
from orgs.audit import Actor

APPROVAL = "adjustment"
Kind = Adjustment.Kind
State = Adjustment.State


def ask(
    *,
    organization_id: UUID,
    kind: str,
    amount_usd: Decimal,
    reason: str,
    by: Actor,
    conditions: Conditions = ANY,
) -> Adjustment:
    """Ask for money to be moved, and move it if no second person is needed; the act as it stands then.

    Raises ``OutOfRange`` for an amount or a reason that cannot be, for a refund beyond what is left
    of purchased credit, and for a write-off beyond what is owed.
    """
    reason = check_reason(reason)
    if not money.holds(amount_usd) or not amount_usd:
        raise errors.OutOfRange("amount_usd is more than zero and has at most 12 decimals.", param="amount_usd")
    if conditions != ANY and kind != Kind.GRANT:
        raise errors.OutOfRange("Only promotional credit has a priority, a beginning, an end or models.", param="kind")
    if conditions.expires_at is not None and conditions.expires_at <= (conditions.effective_at or clock.now()):
        raise errors.OutOfRange("A grant ends after it begins.", param="expires_at")
    with transaction.atomic():
        act = Adjustment.objects.create(
            organization_id=organization_id, kind=kind, amount_usd=amount_usd, reason=reason, actor=by.label,
            terms=_terms(conditions),
        )  # fmt: skip
        audit.note(actor=by, verb="adjustment.asked", subject=act, organization=act.organization, details=_told(act))
        if amount_usd > settings.MONEY_APPROVAL_USD:
            approvals.ask(kind=APPROVAL, subject_id=act.pk, by=by, details=_told(act))
            return act
        return _post(act, by=by)


def carry_out(*, adjustment_id: UUID, by: Actor) -> Adjustment:
    """Post an act that a second person granted, once; close one that was refused.

    Raises ``ApprovalNeeded`` while nobody has decided, ``OutOfRange`` as ``ask`` does.
    """

    def settle() -> Adjustment:
        with transaction.atomic():
            act = Adjustment.objects.select_for_update(no_key=True).get(pk=adjustment_id)
            if act.state != State.WAITING:
                return act
            decided = approvals.decision(kind=APPROVAL, subject_id=act.pk)
            if decided is None:
                raise approvals.ApprovalNeeded
            return _post(act, by=by) if decided else _close(act, State.REFUSED, by=by)

    return retry(settle)


def _post(act: Adjustment, *, by: Actor) -> Adjustment:
    """Move the money and settle the act, in the caller's transaction."""
    closed = _close(act, State.POSTED, by=by)
    reference = reference_of(act.pk)
    try:
        if act.kind in {Kind.GRANT, Kind.CREDIT}:
            grants.give(
                organization_id=act.organization_id,
                kind=Grant.Kind.PROMOTIONAL if act.kind == Kind.GRANT else Grant.Kind.ADJUSTMENT,
                amount_usd=act.amount_usd, reference=reference, actor=act.actor, reason=act.reason,
                conditions=conditions_of(act.terms),
            )  # fmt: skip
        else:
            ledger.post([_move(act, reference)], at=started_at())
    except ledger.NotEnough as short:
        of_what = "are owed" if act.kind == Kind.WRITE_OFF else "of purchased credit are left to refund"
        raise errors.OutOfRange(f"Only {money.plain(short.covered_usd)} USD {of_what}.", param="amount_usd") from short
    return closed


def reference_of(adjustment_id: UUID) -> str:
    """What the transfers of an act name as their cause."""
    return f"adjustment:{adjustment_id}"


def _move(act: Adjustment, reference: str) -> Move:
    """The transfer of an act that takes from the wallet, or forgives what it owes."""
    owner, amount = act.organization_id, act.amount_usd
    if act.kind == Kind.REFUND:
        # Only what was paid for goes back to a card; what was given never does.
        return Move(
            owner, TransferKind.REFUND, Account.WALLET, Account.STRIPE_CLEARING, amount, reference, act.actor,
            act.reason, only=Grant.Kind.PURCHASED,
        )  # fmt: skip
    if act.kind == Kind.DEBIT:
        return Move(
            owner, TransferKind.ADJUSTMENT, Account.WALLET, Account.ADJUSTMENTS, amount, reference, act.actor,
            act.reason,
        )  # fmt: skip
    return Move(
        owner, TransferKind.WRITE_OFF, Account.WRITE_OFFS, Account.WALLET, amount, reference, act.actor, act.reason
    )


def _close(act: Adjustment, state: str, *, by: Actor) -> Adjustment:
    act.state, act.settled_at = state, clock.now()
    act.save(update_fields=["state", "settled_at"])
    audit.note(actor=by, verb=f"adjustment.{state}", subject=act, organization=act.organization, details=_told(act))
    return act


def _told(act: Adjustment) -> dict[str, Any]:
    """An act as the audit trail and whoever decides read it."""
    return {
        "organization": act.organization.slug, "kind": str(act.kind), "amount_usd": money.plain(act.amount_usd),
        "reason": act.reason, **act.terms,
    }  # fmt: skip


def _terms(conditions: Conditions) -> dict[str, Any]:
    if conditions == ANY:
        return {}
    return {
        "priority": conditions.priority,
        "effective_at": conditions.effective_at and conditions.effective_at.isoformat(),
        "expires_at": conditions.expires_at and conditions.expires_at.isoformat(),
        "models": list(conditions.models),
    }


def conditions_of(terms: Mapping[str, Any]) -> Conditions:
    """A grant's conditions as an act keeps them."""
    if not terms:
        return ANY
    begins, ends = terms["effective_at"], terms["expires_at"]
    return Conditions(
        terms["priority"],
        None if begins is None else datetime.fromisoformat(begins),
        None if ends is None else datetime.fromisoformat(ends),
        tuple(terms["models"]),
    )


def waiting() -> list[UUID]:
    """Acts that wait for a second person, oldest first."""
    return list(Adjustment.objects.filter(state=State.WAITING).order_by("id").values_list("pk", flat=True))
