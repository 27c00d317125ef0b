"""Re-rating: what a period costs by today's price book, posted as differences. The only module that writes its tables.

``plan`` is the dry run: it writes down, organization by organization, what would change and posts
nothing. ``apply`` posts it in chunks, each a transaction with its own progress, so a run that was
killed goes on where it stopped and no record is corrected twice by one act. ``undo`` is another act,
which takes an applied one's differences back. One that moves more than ``MONEY_APPROVAL_USD`` in all waits until a
second person has granted it, and so does undoing it.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import Error, transaction
from django.db.models import QuerySet

from billing import corrections
from billing.corrections import Change
from billing.models import Correction, Rerating, ReratingShare
from core import clock, errors, failpoints, ids, money
from core.transactions import is_outage, retry
from metering import catalog, pricing, rating, usage
from metering.models import UsageRecord
from ops import approvals, jobs
from orgs import audit, organizations
from orgs.audit import Actor
from orgs.models import Organization

log = logging.getLogger(__name__)

CHUNK = 500
APPROVAL = "rerating"
UNDO_APPROVAL = "rerating_undo"
# Goes on with what was begun.
TASK = "billing.tasks.apply_reratings"


class Outcome(NamedTuple):
    """What an act comes to: records whose cost changes, and the sums before and after."""

    records: int
    before_usd: Decimal
    after_usd: Decimal
    unpriced: int

    @property
    def difference_usd(self) -> Decimal:
        """Positive is owed, negative is given back."""
        return self.after_usd - self.before_usd


def plan(
    *,
    start: datetime,
    end: datetime,
    reason: str,
    by: Actor,
    model_slugs: Collection[str] = (),
    organization_ids: Collection[UUID] = (),
) -> Rerating:
    """Write down what re-rating the period would change; posts nothing. Raises ``OutOfRange``."""
    reason = corrections.check_reason(reason)
    if not start < end <= usage.final_until():
        raise errors.OutOfRange("A period ends after it starts, and at least a minute ago.", param="end")
    unknown = [slug for slug in model_slugs if slug not in catalog.listing().models]
    if unknown:
        raise errors.OutOfRange(f"No model {unknown[0]} is in the catalog.", param="models")
    with transaction.atomic():
        act = Rerating.objects.create(
            start=start, end=end, reason=reason, actor=by.label, model_slugs=sorted(model_slugs),
            organization_ids=sorted(organization_ids),
        )  # fmt: skip
        audit.note(actor=by, verb="rerating.planned", subject=act, details={"reason": reason})
        owners = Organization.objects.order_by("pk")
        if organization_ids:
            owners = owners.filter(pk__in=list(organization_ids))
        for owner in owners.iterator():
            _foresee(act, owner.pk)
    return act


def outcome(act: Rerating) -> Outcome:
    """The sums over all organizations."""
    shares = list(ReratingShare.objects.filter(rerating=act))
    return Outcome(
        sum(share.records for share in shares),
        sum((share.before_usd for share in shares), money.ZERO),
        sum((share.after_usd for share in shares), money.ZERO),
        sum(share.unpriced for share in shares),
    )


def shares(act: Rerating) -> QuerySet[ReratingShare]:
    """What the act means for each organization."""
    return ReratingShare.objects.filter(rerating=act).select_related("organization").order_by("organization__slug")


def begin(act: Rerating, *, by: Actor) -> None:
    """Decide that a planned act is posted; ``resume`` does it. One that was begun before is left as it is.

    Raises ``ApprovalNeeded`` or ``Refused`` for one that moves much and that no second person has granted.
    """
    if Rerating.objects.filter(pk=act.pk, state=Rerating.State.PLANNED).exists():
        _need_second(act, APPROVAL, reason=act.reason, by=by)
    with transaction.atomic():
        locked = Rerating.objects.select_for_update(no_key=True).get(pk=act.pk)
        if locked.state == Rerating.State.PLANNED:
            foreseen = outcome(act)
            # What was foreseen is counted again from what is really posted.
            ReratingShare.objects.filter(rerating=act).update(records=0, before_usd=0, after_usd=0, unpriced=0)
            Rerating.objects.filter(pk=act.pk).update(state=Rerating.State.APPLYING, actor=by.label)
            audit.note(
                actor=by, verb="rerating.applied", subject=act,
                details={
                    "reason": act.reason, "records": foreseen.records, "before_usd": money.plain(foreseen.before_usd),
                    "after_usd": money.plain(foreseen.after_usd),
                },
            )  # fmt: skip
            jobs.wake(TASK)
            failpoints.reach("rerate.before_begin")


def apply(act: Rerating, *, by: Actor, until: datetime | None = None) -> Outcome:
    """Post the differences; goes on where an earlier run stopped, and does nothing when all is posted.

    With ``until`` it stops between two chunks once that instant has passed.
    """
    begin(act, by=by)
    failpoints.reach("rerate.after_begin")
    for share in ReratingShare.objects.filter(rerating=act, finished=False).order_by("organization_id"):
        while not retry(lambda share=share: _apply_some(act, share.pk, by=by)):  # type: ignore[misc]
            failpoints.reach("rerate.after_commit")
            if until is not None and clock.now() >= until:
                return outcome(act)
    Rerating.objects.filter(pk=act.pk, state=Rerating.State.APPLYING).update(
        state=Rerating.State.APPLIED, applied_at=clock.now()
    )
    failpoints.reach("rerate.after_end")
    return outcome(act)


def resume(*, until: datetime) -> int:
    """Go on with the acts that were begun, for who began them, until then; how many are still not done.

    One that cannot go on keeps none of the others waiting; what was wrong with it is raised when all had their turn.
    """
    failed: Exception | None = None
    for act in list(open_acts()):
        if clock.now() >= until:
            break
        try:
            apply(act, by=Actor(kind="user", id="", label=act.actor), until=until)
        except Exception as error:
            log.exception("re-rating %s cannot go on", act)
            if isinstance(error, Error) and is_outage(error):
                raise
            failed = failed or error
    if failed is not None:
        raise failed
    return len(list(open_acts()))


def undo(act: Rerating, *, reason: str, by: Actor) -> Rerating:
    """Take an applied act's differences back by another act, once.

    Raises ``Conflict`` or ``OutOfRange``, and ``ApprovalNeeded`` or ``Refused`` as ``begin`` does.
    """
    back = take_back(act, reason=reason, by=by)
    apply(back, by=by)
    return Rerating.objects.get(pk=back.pk)


def take_back(act: Rerating, *, reason: str, by: Actor) -> Rerating:
    """Decide that an applied act is undone, and make the act for it, which ``resume`` posts. Raises as ``undo``."""
    reason = corrections.check_reason(reason)
    if Rerating.objects.filter(pk=act.pk, state=Rerating.State.APPLIED).exists():
        _need_second(act, UNDO_APPROVAL, reason=reason, by=by)
    with transaction.atomic():
        locked = Rerating.objects.select_for_update(no_key=True).get(pk=act.pk)
        if locked.state != Rerating.State.APPLIED:
            raise errors.Conflict("Only an applied re-rating can be undone.")
        if Rerating.objects.filter(undoes=act).exists():
            raise errors.Conflict("This re-rating was undone before.")
        back = Rerating.objects.create(
            start=act.start, end=act.end, reason=reason, actor=by.label, undoes=act, state=Rerating.State.APPLYING
        )
        ReratingShare.objects.bulk_create(
            ReratingShare(rerating=back, organization_id=share.organization_id)
            for share in ReratingShare.objects.filter(rerating=act, records__gt=0)
        )
        audit.note(actor=by, verb="rerating.undone", subject=act, details={"reason": reason})
        jobs.wake(TASK)
    return back


def _need_second(act: Rerating, kind: str, *, reason: str, by: Actor) -> None:
    """Raise unless a second person agreed, if the act moves more than one person may; to and fro both count."""
    moved = sum((abs(share.after_usd - share.before_usd) for share in shares(act)), money.ZERO)
    if moved <= settings.MONEY_APPROVAL_USD:
        return
    told = {"re-rating": str(act), "moves_usd": money.plain(moved), "reason": reason}
    approvals.need(kind=kind, subject_id=act.pk, by=by, details=told)


def _foresee(act: Rerating, organization_id: UUID) -> None:
    """One organization's share of a plan; none if nothing of it changes."""
    share = ReratingShare(rerating=act, organization_id=organization_id)
    after: UUID | None = None
    while chunk := list(_records(act, organization_id, after)[:CHUNK]):
        _add(share, *_differences(chunk))
        after = chunk[-1].id
    if share.records or share.unpriced:
        share.save(force_insert=True)


@transaction.atomic(durable=True)
def _apply_some(act: Rerating, share_id: int, *, by: Actor) -> bool:
    """Post one chunk of an organization's share with its progress; whether the share is finished."""
    at = usage.started_at()
    share = ReratingShare.objects.select_for_update(no_key=True).get(pk=share_id)
    if share.finished:
        return True
    corrections.hold_records(share.organization_id)
    chunk = list(_records(act, share.organization_id, share.last_record_id)[:CHUNK])
    if not chunk:
        ReratingShare.objects.filter(pk=share_id).update(finished=True)
        return True
    changes, unpriced = _differences(chunk) if act.undoes_id is None else (_backwards(act, chunk), 0)
    _add(share, changes, unpriced)
    share.last_record_id = chunk[-1].id
    share.save(update_fields=["records", "before_usd", "after_usd", "unpriced", "last_record_id"])
    failpoints.reach("rerate.after_progress")
    if changes:
        corrections.post(
            share.organization_id, [change for _, change in changes], kind=Correction.Kind.RERATING,
            cause=ids.show("rerate", act.pk), actor=by.label, reason=act.reason, at=at,
        )  # fmt: skip
    failpoints.reach("rerate.before_commit")
    return False


Found = Sequence[tuple[Decimal, Change]]


def _add(share: ReratingShare, changes: Found, unpriced: int) -> None:
    for before, change in changes:
        share.records += 1
        share.before_usd += before
        share.after_usd += before + change.cost_usd
    share.unpriced += unpriced


def _records(act: Rerating, organization_id: UUID, after: UUID | None) -> QuerySet[UsageRecord]:
    """The records of the period that an act looks at, oldest first: what was charged, not what corrected it."""
    records = UsageRecord.objects.filter(organization_id=organization_id, corrects_id__isnull=True)
    records = usage.created_before(usage.created_from(records, act.start), act.end)
    if act.undoes_id is not None:
        undone = act.undoes
        assert undone is not None
        records = usage.created_before(usage.created_from(records, undone.start), undone.end)
    if act.model_slugs:
        records = records.filter(model__in=act.model_slugs)
    if after is not None:
        records = records.filter(id__gt=after)
    return records.order_by("id")


def _differences(records: Sequence[UsageRecord]) -> tuple[Found, int]:
    """What each record should cost less what it costs with its corrections; and how many cannot be priced."""
    so_far = corrections.corrected_by(records)
    gone = corrections.voided(records)
    changes: list[tuple[Decimal, Change]] = []
    unpriced = 0
    for record in records:
        if record.id in gone:
            continue
        found = _rate(record)
        if found is None:
            unpriced += 1
            continue
        before = record.cost_usd + so_far[record.id]
        cost, price_id, rule_id = found
        if cost != before:
            changes.append((before, Change(record, cost - before, price_id, rule_id, negate=False)))
    return changes, unpriced


def _rate(record: UsageRecord) -> tuple[Decimal, UUID, UUID | None] | None:
    """A record's cost by today's price book, with the versions that say so; None if it has no price there."""
    book = pricing.book()
    model = book.listing.find(record.model)
    owner = organizations.find_ids([record.organization_id])[record.organization_id]
    offer = model and book.offer(model, organization_id=owner.id, group=owner.price_group, at=record.occurred_at)
    if not offer:
        return None
    try:
        rated = rating.rate(offer.card, usage.counts_of(record), record.occurred_at)
    except rating.Unpriced:
        return None
    return money.from_pico(rated.cost_pico), offer.version.id, offer.rule.id if offer.rule else None


def _backwards(act: Rerating, records: Sequence[UsageRecord]) -> Found:
    """The opposite of what the undone act posted on these records, unless they were voided since."""
    assert act.undoes_id is not None
    cause = ids.show("rerate", act.undoes_id)
    posted = {
        one.record_id: one
        for one in Correction.objects.filter(
            organization_id=records[0].organization_id, record_id__in=[record.id for record in records], cause=cause
        )
    }
    so_far, gone = corrections.corrected_by(records), corrections.voided(records)
    return [
        (
            record.cost_usd + so_far[record.id],
            Change(record, -posted[record.id].cost_usd, record.price_id, record.rule_id, negate=False),
        )
        for record in records
        if record.id in posted and record.id not in gone
    ]


def open_acts() -> Iterator[Rerating]:
    """Acts that a crash left half applied."""
    yield from Rerating.objects.filter(state=Rerating.State.APPLYING).order_by("id")
