"""Where the books and somebody else differ: listed for finance, never set right here. The only module that
writes ``Difference``.

A difference is found again by every comparison until both sides agree, or until finance has said why they do
not; what was said holds for these two amounts only.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from billing.corrections import check_reason
from billing.models import Difference
from core import clock, errors, money
from orgs import audit
from orgs.audit import Actor

Side = Difference.Side
State = Difference.State


class Found(NamedTuple):
    """What a comparison found: of what, and what either side says in dollars; ``None`` where it does not know it."""

    subject: str
    ours_usd: Decimal | None
    theirs_usd: Decimal | None
    detail: str
    organization_id: UUID | None = None


class NotOpen(errors.Conflict):
    """There is nothing left to explain."""

    code = "difference_not_open"
    default = "This difference is not open any more."


@transaction.atomic(durable=True)
def keep(side: Side, found: Sequence[Found], *, about: str = "") -> int:
    """Take in what a comparison found of subjects that begin with ``about``; how many of the differences are open.

    What it does not find any more is over. What finance explained stays so while the amounts are the same.
    """
    now = clock.now()
    rows = Difference.objects.select_for_update(no_key=True).filter(side=side, subject__startswith=about)
    known = {row.subject: row for row in rows}
    for one in found:
        row = known.pop(one.subject, None)
        if row is None:
            Difference.objects.create(
                side=side, subject=one.subject, organization_id=one.organization_id, ours_usd=one.ours_usd,
                theirs_usd=one.theirs_usd, detail=one.detail, found_at=now, changed_at=now,
            )  # fmt: skip
            continue
        same = (row.ours_usd, row.theirs_usd) == (one.ours_usd, one.theirs_usd)
        if same and row.state != State.OVER:
            continue
        row.organization_id = one.organization_id or row.organization_id
        row.ours_usd, row.theirs_usd, row.detail = one.ours_usd, one.theirs_usd, one.detail
        row.state, row.reason, row.explained_by, row.changed_at = State.OPEN, "", "", now
        row.save()
    for row in known.values():
        if row.state != State.OVER:
            row.state, row.changed_at = State.OVER, now
            row.save(update_fields=["state", "changed_at"])
    return Difference.objects.filter(side=side, state=State.OPEN).count()


def explain(*, difference_id: UUID, reason: str, by: Actor) -> Difference:
    """Note why two sides differ. Moves no money. Raises ``NotOpen``, ``OutOfRange`` for no reason."""
    reason = check_reason(reason)
    with transaction.atomic():
        row = Difference.objects.select_for_update(no_key=True).get(pk=difference_id)
        if row.state != State.OPEN:
            raise NotOpen
        row.state, row.reason, row.explained_by, row.changed_at = State.EXPLAINED, reason, by.label, clock.now()
        row.save()
        audit.note(
            actor=by, verb="difference.explained", subject=row, organization=row.organization,
            details={
                "subject": row.subject, "ours_usd": _plain(row.ours_usd), "theirs_usd": _plain(row.theirs_usd),
                "reason": reason,
            },
        )  # fmt: skip
    return row


def _plain(usd: Decimal | None) -> str:
    return "unknown" if usd is None else money.plain(usd)
