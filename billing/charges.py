"""Charging usage: events in, verdicts out, one transaction (design 2).

A batch of one and of a thousand go the same way: claim the event ids, write the records, debit
the wallets, commit, answer. Claim and debit commit together, so a repeated event is a duplicate
exactly when its first copy was charged. Usage is never refused for lack of funds.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import Error, transaction

from billing import ledger
from billing.models import Account, TransferKind
from core import ids, money
from core.transactions import RETRYABLE, retry, sqlstate
from metering import catalog, partitions, quarantine, rating, usage, verdicts
from metering.attribution import Attributed, Orphan
from metering.models import Quarantine, UsageClaim
from metering.verdicts import Status, Verdict

log = logging.getLogger(__name__)

Item = Attributed | Orphan
Key = tuple[UUID | str, str]
State = UsageClaim.State


class Priced(NamedTuple):
    """An attributed event and what it costs, or why it cannot be priced."""

    item: Attributed
    model: str
    cost_pico: int
    price_id: UUID | None
    unpriced: str | None


class Plan(NamedTuple):
    """What one attributed event will write if its claim succeeds."""

    priced: Priced
    claim: usage.Claim


def record(items: Sequence[Item], *, reported_by: UUID | None) -> list[Verdict]:
    """Charge a batch; a verdict for each item, in order. Everything in them is durable on return.

    Never raises for what one event or one organization did: what could not be written now is
    ``failed`` and may be sent again.
    """
    firsts: dict[Key, Item] = {}
    for item in items:
        firsts.setdefault(item.key, item)
    given: dict[Key, Verdict] = {}
    for group in together(list(firsts.values())):
        given.update(_settle(group, reported_by=reported_by))
    return [_told(item, firsts[item.key], given[item.key]) for item in items]


def together(items: Sequence[Item]) -> list[Sequence[Item]]:
    """How a batch is taken apart into transactions: on a single database, not at all."""
    return [items] if items else []


def by_organization(items: Sequence[Item]) -> list[Sequence[Item]]:
    """A batch taken apart by organization: for a sharded database, and for a group that failed."""
    groups: dict[UUID | None, list[Item]] = {}
    for item in items:
        groups.setdefault(item.organization_id, []).append(item)
    return list(groups.values())


def _told(item: Item, first: Item, verdict: Verdict) -> Verdict:
    """The verdict of one copy: later copies in a batch are duplicates of the first, or conflicts."""
    if item is first:
        return verdict
    if item.fingerprint != first.fingerprint:
        return verdicts.conflict(item.event.event_id)
    return verdict._replace(status=Status.DUPLICATE) if verdict.status is Status.CREATED else verdict


def _settle(items: Sequence[Item], *, reported_by: UUID | None) -> dict[Key, Verdict]:
    """Write a group in one transaction; if it fails, by organization, then by halves down to the event."""
    try:
        return _write(items, reported_by=reported_by)
    except Error as error:
        state = sqlstate(error)
        # Conflicts of one organization must not hurt another; content at fault is cornered by halves.
        # A database that is gone, full or shutting down is gone for each part as well.
        splittable = state is not None and state[:2] not in {"08", "53", "57"}
        parts: list[Sequence[Item]] = by_organization(items) if splittable else []
        if len(parts) == 1:
            parts = _halves(items) if state not in RETRYABLE else []
        if not parts:
            log.error("%d events could not be written: %s", len(items), error)
            return {item.key: verdicts.failed(item.event.event_id) for item in items}
        log.warning("a group of %d events falls apart: %s", len(items), error)
        given: dict[Key, Verdict] = {}
        for part in parts:
            given.update(_settle(part, reported_by=reported_by))
        return given


def _halves(items: Sequence[Item]) -> list[Sequence[Item]]:
    middle = len(items) // 2
    return [items[:middle], items[middle:]] if middle else []


def _write(items: Sequence[Item], *, reported_by: UUID | None) -> dict[Key, Verdict]:
    """The transaction, run again for passing conflicts and once more after making a missing month."""

    def attempt() -> dict[Key, Verdict]:
        return _transaction(items, reported_by=reported_by)

    try:
        return retry(attempt)
    except Error as error:
        if not _month_is_missing(error):
            raise
    partitions.ensure()
    return retry(attempt)


def _month_is_missing(error: Error) -> bool:
    """23514 without a constraint's name: no partition takes the row."""
    diagnosis = getattr(error.__cause__, "diag", None)
    return sqlstate(error) == "23514" and getattr(diagnosis, "constraint_name", None) is None


@transaction.atomic(durable=True)
def _transaction(items: Sequence[Item], *, reported_by: UUID | None) -> dict[Key, Verdict]:
    """Claim, write, debit. Locks in the house's order: claims sorted, then wallets sorted, last."""
    at = usage.started_at()
    stamps = ids.run(at=at)
    orphans = [item for item in items if isinstance(item, Orphan)]
    plans = [_plan(priced, next(stamps)) for priced in price(item for item in items if isinstance(item, Attributed))]

    free = usage.claim([plan.claim for plan in plans])
    won = [plan for plan in plans if (plan.claim.organization_id, plan.claim.event_id) in free]
    lost = [plan for plan in plans if (plan.claim.organization_id, plan.claim.event_id) not in free]
    given = {plan.priced.item.key: _first(plan) for plan in won}
    given.update(_again(lost))
    given.update(_hold(orphans, won, stamps=stamps, at=at, reported_by=reported_by))

    charged = [plan for plan in won if plan.claim.state == State.RECORDED]
    totals: dict[UUID, int] = {}
    for plan in charged:
        payer = plan.priced.item.payer_id
        totals[payer] = totals.get(payer, 0) + plan.priced.cost_pico
    moves = {payer: _charge(payer, pico, next(stamps)) for payer, pico in totals.items() if pico}
    if charged:
        usage.write((_charged(plan, moves) for plan in charged), at=at, reported_by=reported_by)
    failures = [plan for plan in won if plan.claim.state == State.LOGGED]
    if failures:
        usage.write_failures(
            (usage.Failed(plan.claim.record_id, plan.priced.item, plan.priced.model) for plan in failures),
            at=at,
            reported_by=reported_by,
        )
    if moves:
        ledger.post(list(moves.values()), at=at)
    return given


def price(items: Iterable[Attributed]) -> Iterable[Priced]:
    """What each event costs by the catalog in force when it happened. No query."""
    listing = catalog.listing()
    for item in items:
        event = item.event
        model = listing.find(event.model)
        if not event.billed:
            yield Priced(item, model.slug if model else event.model, 0, None, None)
            continue
        version = listing.price_at(model.slug, event.occurred_at) if model else None
        if model is None or version is None:
            why = f"no model {event.model}" if model is None else f"no price of {model.slug} at {event.occurred_at}"
            yield Priced(item, model.slug if model else event.model, 0, None, why)
            continue
        try:
            rated = rating.rate(version.card, event, event.occurred_at)
        except rating.Unpriced as unpriced:
            yield Priced(item, model.slug, 0, version.id, str(unpriced))
        else:
            yield Priced(item, model.slug, rated.cost_pico, version.id, None)


def _plan(priced: Priced, record_id: UUID) -> Plan:
    item = priced.item
    if priced.unpriced is not None:
        state = State.QUARANTINED
    elif item.event.billed:
        state = State.RECORDED
    else:
        state = State.LOGGED
    claim = usage.Claim(
        item.organization_id, item.event.event_id, state.value, record_id, money.from_pico(priced.cost_pico),
        item.fingerprint, item.event.occurred_at,
    )  # fmt: skip
    return Plan(priced, claim)


def _first(plan: Plan) -> Verdict:
    return _verdict(plan.claim, Status.CREATED)


def _verdict(claim: usage.Claim, status: Status) -> Verdict:
    """The answer that a claim stands for."""
    if claim.state == State.QUARANTINED:
        return Verdict(claim.event_id, Status.QUARANTINED)
    record_id = claim.record_id if claim.state == State.RECORDED else None
    return Verdict(claim.event_id, status, record_id, claim.cost_usd)


def _again(lost: Sequence[Plan]) -> dict[Key, Verdict]:
    """Answers for events whose id was taken: the first answer again, or a conflict."""
    standing = usage.claims_of((plan.claim.organization_id, plan.claim.event_id) for plan in lost)
    given = {}
    for plan in lost:
        first = standing[plan.claim.organization_id, plan.claim.event_id]
        same = first.fingerprint == plan.claim.fingerprint
        given[plan.priced.item.key] = (
            _verdict(first, Status.DUPLICATE) if same else verdicts.conflict(plan.claim.event_id)
        )
    return given


def _hold(
    orphans: Sequence[Orphan], won: Sequence[Plan], *, stamps: Iterator[UUID], at: datetime, reported_by: UUID | None
) -> dict[Key, Verdict]:
    """Keep what cannot be charged for finance; verdicts of the orphans (the others have theirs)."""
    held = [
        quarantine.Held(
            plan.claim.record_id, plan.priced.item.scope, plan.claim.organization_id, plan.priced.item.event,
            Quarantine.Reason.UNPRICED, plan.priced.unpriced, plan.claim.fingerprint,
        )
        for plan in won
        if plan.priced.unpriced is not None
    ] + [
        quarantine.Held(
            next(stamps), orphan.scope, orphan.organization_id, orphan.event, orphan.reason, orphan.detail,
            orphan.fingerprint,
        )
        for orphan in orphans
    ]  # fmt: skip
    new = quarantine.hold(held, at=at, reported_by=reported_by)
    known = quarantine.stories(
        (orphan.scope, orphan.event.event_id) for orphan in orphans if (orphan.scope, orphan.event.event_id) not in new
    )
    return {
        orphan.key: verdicts.conflict(orphan.event.event_id)
        if known.get((orphan.scope, orphan.event.event_id), orphan.fingerprint) != orphan.fingerprint
        else Verdict(orphan.event.event_id, Status.QUARANTINED)
        for orphan in orphans
    }


def _charge(payer: UUID, pico: int, transfer_id: UUID) -> ledger.Move:
    """One charge for all that a batch costs a wallet; each of its records names it."""
    return ledger.Move(
        payer, TransferKind.CHARGE, Account.WALLET, Account.REVENUE, money.from_pico(pico),
        id=transfer_id,
    )  # fmt: skip


def _charged(plan: Plan, moves: Mapping[UUID, ledger.Move]) -> usage.Charged:
    priced = plan.priced
    assert priced.price_id is not None
    move = moves.get(priced.item.payer_id) if priced.cost_pico else None
    return usage.Charged(
        plan.claim.record_id, priced.item, priced.model, plan.claim.cost_usd, priced.price_id, move.id if move else None
    )
