"""Charging usage: events in, verdicts out, one transaction (design 2).

A batch of one and of a thousand go the same way: claim the event ids, write the records, debit
the wallets, commit, answer. Claim and debit commit together, so a repeated event is a duplicate
exactly when its first copy was charged. Usage is never refused for lack of funds.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import msgspec
from django.db import Error, transaction

from billing import budgets, distribution, holds, ledger, wallets
from billing.books import Need
from billing.models import Account, TransferKind
from core import failpoints, ids, money
from core.transactions import LOCK_NOT_AVAILABLE, RETRYABLE, retry, sqlstate
from metering import partitions, pricing, quarantine, rating, usage, verdicts
from metering.attribution import Attributed, Orphan
from metering.models import Quarantine, UsageClaim
from metering.usage import Line
from metering.verdicts import Status, Verdict
from orgs import organizations
from orgs.organizations import OrganizationFacts

log = logging.getLogger(__name__)

Item = Attributed | Orphan
Key = tuple[UUID | str, str]
Wallets = dict[UUID, ledger.Locked]
Claiming = Callable[[Sequence[usage.Claim]], Mapping[tuple[UUID, str], usage.Claim]]
State = UsageClaim.State
# The plain strings: an enum's member is looked up anew each time it is named.
_RECORDED, _LOGGED, _QUARANTINED = (state.value for state in (State.RECORDED, State.LOGGED, State.QUARANTINED))
_CREATED = Status.CREATED


def record(
    items: Sequence[Item], *, reported_by: UUID | None, lock_ms: int | None = None, wallets: Wallets | None = None
) -> list[Verdict]:
    """Charge a batch; a verdict for each item, in order. Everything in them is durable on return.

    Never raises for what one event or one organization did: what could not be written now is
    ``failed`` and may be sent again. ``lock_ms``: several organizations together wait no longer for any
    of their wallets; then nothing of them is written and the database's error is raised. ``wallets`` gets where
    those that were charged stand, which is durable too.
    """
    terms = Terms(reported_by, lock_ms, {} if wallets is None else wallets)
    # Ids that all differ need no look at whose they are.
    if len({item.event.event_id for item in items}) == len(items):
        given = _settle_all(items, terms)
        return [given[item.place] for item in items]
    firsts: dict[Key, Item] = {}
    for item in items:
        firsts.setdefault(item.key, item)
    return _copies(items, firsts, _settle_all(list(firsts.values()), terms))


class Terms(NamedTuple):
    """What holds for all transactions of a batch; see ``record``."""

    reported_by: UUID | None
    lock_ms: int | None
    wallets: Wallets


def _settle_all(items: Sequence[Item], terms: Terms) -> dict[int, Verdict]:
    """Verdicts by place of events whose ids all differ."""
    given: dict[int, Verdict] = {}
    for group in together(items):
        given.update(_settle(group, terms))
    return given


def together(items: Sequence[Item]) -> list[Sequence[Item]]:
    """How a batch is taken apart into transactions: on a single database not at all, on a cluster by organization."""
    if not items:
        return []
    return by_organization(items) if distribution.is_spread() else [items]


def by_organization(items: Sequence[Item]) -> list[Sequence[Item]]:
    """A batch taken apart by organization: for a sharded database, and for a group that failed."""
    groups: dict[UUID | None, list[Item]] = {}
    for item in items:
        groups.setdefault(item.organization_id, []).append(item)
    return list(groups.values())


def _copies(items: Sequence[Item], firsts: Mapping[Key, Item], given: Mapping[int, Verdict]) -> list[Verdict]:
    """Verdicts of a batch in which an event id stands more than once; the first copies have theirs.

    A copy that differs from a first one which was refused may still be the story that stands.
    """
    doubtful = {
        item.place: (item.organization_id, item.event.event_id)
        for item in items
        if isinstance(item, Attributed)
        and given[firsts[item.key].place].status is Status.CONFLICT
        and item.fingerprint != firsts[item.key].fingerprint
    }
    standing = usage.standing(list(set(doubtful.values()))) if doubtful else {}
    claims = {place: standing[key] for place, key in doubtful.items() if key in standing}
    return [_told(item, firsts[item.key], given, claims.get(item.place)) for item in items]


def _told(item: Item, first: Item, given: Mapping[int, Verdict], claim: usage.Claim | None) -> Verdict:
    """The verdict of one copy: later copies in a batch are duplicates of the first, or conflicts."""
    verdict = given[first.place]
    event_id = item.event.event_id
    if item is first:
        return verdict
    if verdict.status is Status.FAILED:
        return verdicts.failed(event_id)
    if item.fingerprint != first.fingerprint:
        if claim is not None and claim.fingerprint == item.fingerprint:
            return _verdict(claim, Status.DUPLICATE)
        return verdicts.conflict(event_id)
    if verdict.status is Status.CONFLICT:
        return verdicts.conflict(event_id)
    return verdict._replace(status=Status.DUPLICATE) if verdict.status is Status.CREATED else verdict


def _settle(items: Sequence[Item], terms: Terms) -> dict[int, Verdict]:
    """Write a group in one transaction; if it fails, by organization, then by halves down to the event."""
    try:
        return _write(items, terms)
    except Error as error:
        state = sqlstate(error)
        if terms.lock_ms is not None and state == LOCK_NOT_AVAILABLE and _several(items):
            raise
        # Conflicts of one organization must not hurt another; content at fault is cornered by halves.
        # What is wrong for one part is wrong for each: a database that is gone, full, read-only or
        # shutting down, rights or tables that are missing.
        splittable = state is not None and state[:2] not in {"08", "25", "42", "53", "57"}
        splittable = splittable and not _month_is_missing(error)
        parts: list[Sequence[Item]] = by_organization(items) if splittable else []
        if len(parts) == 1:
            parts = _halves(items) if state not in RETRYABLE else []
        if not parts:
            log.error("%d events could not be written: %s", len(items), error)
            return {item.place: verdicts.failed(item.event.event_id) for item in items}
        log.warning("a group of %d events falls apart: %s", len(items), error)
        given: dict[int, Verdict] = {}
        for part in parts:
            given.update(_settle(part, terms._replace(lock_ms=None)))
        return given


def _several(items: Sequence[Item]) -> bool:
    owner = items[0].organization_id
    # Mostly the very same object, which is quickly told.
    return not all(item.organization_id is owner or item.organization_id == owner for item in items)


def _halves(items: Sequence[Item]) -> list[Sequence[Item]]:
    middle = len(items) // 2
    return [items[:middle], items[middle:]] if middle else []


def _write(items: Sequence[Item], terms: Terms) -> dict[int, Verdict]:
    """The transaction, run again for passing conflicts and once more after making a missing month."""

    def attempt() -> dict[int, Verdict]:
        try:
            given, wallets = _transaction(items, terms, claim=usage.claim_new)
        except usage.Taken:
            given, wallets = _transaction(items, terms, claim=usage.claim)
        failpoints.reach("charge.after_commit")
        terms.wallets.update(wallets)
        return given

    several = _several(items)
    if not several:
        terms = terms._replace(lock_ms=None)
    # Waiting once more for one organization's wallet would keep all the others waiting with it.
    passing = RETRYABLE - {LOCK_NOT_AVAILABLE} if several else RETRYABLE
    try:
        return retry(attempt, passing=passing)
    except Error as error:
        if not _month_is_missing(error) or not _months_are_made():
            raise
    return retry(attempt, passing=passing)


def _months_are_made() -> bool:
    """Make the months that are missing. Where that fails it would fail for each part of a group alike."""
    try:
        partitions.ensure()
    except Error:
        log.exception("a month that is missing could not be made")
        return False
    return True


def _month_is_missing(error: Error) -> bool:
    """23514 without a constraint's name: no partition takes the row."""
    diagnosis = getattr(error.__cause__, "diag", None)
    return sqlstate(error) == "23514" and getattr(diagnosis, "constraint_name", None) is None


@transaction.atomic(durable=True)
def _transaction(items: Sequence[Item], terms: Terms, *, claim: Claiming) -> tuple[dict[int, Verdict], Wallets]:
    """Claim, write, debit. Locks in the house's order: claims sorted, then wallets sorted, last."""
    at = usage.started_at(lock_ms=terms.lock_ms)
    stamps = ids.run(at=at)
    orphans = [item for item in items if isinstance(item, Orphan)]
    lines = list(price([item for item in items if isinstance(item, Attributed)], stamps))

    taken = claim([line.claim for line in lines])
    failpoints.reach("charge.after_claims")
    won = [line for line in lines if line.item.key not in taken] if taken else lines
    given = {line.item.place: _created(line) for line in won}
    given.update(_again(lines, taken))
    given.update(_hold(orphans, won, stamps=stamps, at=at, reported_by=terms.reported_by))
    failpoints.reach("charge.after_quarantine")

    wallets = book(won, stamps=stamps, at=at, reported_by=terms.reported_by)
    failpoints.reach("charge.before_commit")
    return given, wallets


def book(won: Sequence[Line], *, stamps: Iterator[UUID], at: datetime, reported_by: UUID | None) -> Wallets:
    """Write the records of claimed lines and charge their wallets, as the last act of the caller's transaction.

    The wallets that were touched, as this leaves them.
    """
    charged = [line for line in won if line.state == _RECORDED]
    failures = [line for line in won if line.state == _LOGGED]
    ended = _end_holds(won)
    failpoints.reach("book.after_holds")
    charged = _paid(charged, ended, at=at)
    # By the id's number, which is hashed ten times as fast as the id.
    by_payer: dict[int, list[Line]] = {}
    for line in charged:
        by_payer.setdefault(line.item.payer_id.int, []).append(line)
    charges = []
    moves = []
    for lines in by_payer.values():
        payer = lines[0].item.payer_id
        move = _charge(payer, lines, next(stamps)) if any(line.cost_pico for line in lines) else None
        charges.append(usage.Charge(payer, move and move.id, lines))
        if move is not None:
            moves.append(move)
    if charges:
        usage.write(charges, at=at, reported_by=reported_by)
        failpoints.reach("book.after_records")
    if failures:
        usage.write_failures(failures, at=at, reported_by=reported_by)
        failpoints.reach("book.after_failures")
    owners = {line.item.organization_id.int: line.item.organization_id for line in charged}
    owners |= {one.freed.organization_id.int: one.freed.organization_id for one in ended.values()}
    if not owners:
        return {}
    locked = ledger.post(moves, at=at, released=holds.reserved(ended.values()), also=owners.values())
    failpoints.reach("book.after_ledger")
    if ended:
        budgets.free(one.freed for one in ended.values())
    limited = {owner for owner, wallet in locked.items() if wallet.has_budgets}
    if limited:
        budgets.count([_counted(line) for line in charged if line.item.organization_id in limited], at=at)
    return locked


def _end_holds(lines: Sequence[Line]) -> dict[UUID, holds.Settled]:
    """End the holds that these events name; by record. What is quarantined may still be charged, so its hold stays."""
    return holds.settle(
        holds.Arrived(line.item.organization_id, line.item.authorization_id, line.record_id, line.state == _RECORDED)
        for line in lines
        if line.item.authorization_id is not None and line.state != _QUARANTINED
    )


def _paid(charged: list[Line], ended: Mapping[UUID, holds.Settled], *, at: datetime) -> list[Line]:
    """The lines with the wallet that pays for each: the hold's, or in fallback mode whichever can."""
    choosing = {
        line.item.organization_id
        for line in charged
        if line.item.fallback_id is not None and line.record_id not in ended
    }
    falling = wallets.falling_back(choosing) if choosing else set()
    if not falling and not ended:
        return charged
    others = {line.item.fallback_id for line in charged if line.item.organization_id in falling}
    left = _reach(charged, ended, others=others, at=at) if falling else {}
    paid = []
    for line in charged:
        payer = line.item.organization_id
        other = line.item.fallback_id
        if line.record_id in ended:
            payer = ended[line.record_id].payer_id
        elif payer in falling and other is not None and left[payer] < line.cost_usd <= left[other]:
            payer = other
        if left:
            left[payer] -= line.cost_usd
        paid.append(line if payer == line.item.payer_id else _paid_by(line, payer))
    return paid


def _paid_by(line: Line, payer: UUID) -> Line:
    return msgspec.structs.replace(line, item=line.item._replace(payer_id=payer))


def _reach(
    charged: Sequence[Line], ended: Mapping[UUID, holds.Settled], *, others: Collection[UUID | None], at: datetime
) -> dict[UUID, Decimal]:
    """What each wallet that may pay has available, under the locks of all that this transaction touches.

    All of them, for one more locked later would break the order. Credit that is over by now is not
    there any more, and what the batch's own holds had set aside is.
    """
    named = {line.item.organization_id for line in charged} | {other for other in others if other is not None}
    for one in ended.values():
        named |= {one.payer_id, one.freed.organization_id}
    freed = holds.reserved(ended.values())
    return {
        organization_id: wallet.available + freed.get(organization_id, money.ZERO)
        for organization_id, wallet in ledger.post([], at=at, also=named).items()
    }


def _counted(line: Line) -> budgets.Counted:
    """What a line counts against ceilings."""
    item = line.item
    tokens = item.event.input_tokens + item.event.output_tokens
    return budgets.Counted(
        item.organization_id, item.project_id, item.member_id, item.api_key_id, line.cost_usd, tokens
    )


def price(items: Iterable[Attributed], stamps: Iterator[UUID]) -> Iterator[Line]:
    """What each event costs by the catalog in force when it happened. No query."""
    book = pricing.book()
    batch = list(items)
    ruled = book.has_rules
    owners = organizations.find_ids({item.organization_id for item in batch}) if ruled else {}
    # A batch is of few models and few seconds, so most of its events ask for an offer that was made before.
    offers: dict[tuple[str, UUID | None, datetime], _Offered] = {}
    for item in batch:
        event = item.event
        key = (event.model, item.organization_id if ruled else None, event.occurred_at)
        offered = offers.get(key)
        if offered is None:
            offered = offers[key] = _offered(book, item, owners.get(item.organization_id))
        slug, offer, price_id, rule_id = offered
        if not event.billed:
            yield Line(item, next(stamps), _LOGGED, slug, 0, money.ZERO, None, None, None)
            continue
        pico, unpriced = 0, None
        if offer is None:
            known = book.listing.find(event.model)
            unpriced = f"no price of {slug} at {event.occurred_at}" if known else f"no model {slug}"
        else:
            try:
                pico = rating.rate(offer.card, event, event.occurred_at).cost_pico
            except rating.Unpriced as reason:
                unpriced = str(reason)
        state = _RECORDED if unpriced is None else _QUARANTINED
        yield Line(item, next(stamps), state, slug, pico, money.from_pico(pico), price_id, rule_id, unpriced)


class _Offered(NamedTuple):
    """What a name in an event stands for at an instant: the model's own, and its offer."""

    slug: str
    offer: pricing.Offer | None
    price_id: UUID | None = None
    rule_id: UUID | None = None


def _offered(book: pricing.Book, item: Attributed, owner: OrganizationFacts | None) -> _Offered:
    """What an event's model stands for to its organization; ``owner`` matters only where there are rules."""
    event = item.event
    model = book.listing.find(event.model)
    if model is None:
        return _Offered(event.model, None)
    group = owner.price_group if owner else ""
    offer = book.offer(model, organization_id=item.organization_id, group=group, at=event.occurred_at)
    if offer is None:
        return _Offered(model.slug, None)
    return _Offered(model.slug, offer, offer.version.id, offer.rule.id if offer.rule else None)


def _created(line: Line) -> Verdict:
    """The answer to an event whose claim was free."""
    event_id = line.item.event.event_id
    if line.unpriced is not None:
        return Verdict(event_id, Status.QUARANTINED)
    return Verdict(event_id, _CREATED, line.record_id if line.state == _RECORDED else None, line.cost_usd)


def _verdict(claim: usage.Claim, status: Status) -> Verdict:
    """The answer that a claim stands for."""
    if claim.state == State.QUARANTINED:
        return Verdict(claim.event_id, Status.QUARANTINED)
    record_id = claim.record_id if claim.state == State.RECORDED else None
    return Verdict(claim.event_id, status, record_id, claim.cost_usd)


def _again(lines: Sequence[Line], taken: Mapping[tuple[UUID, str], usage.Claim]) -> dict[int, Verdict]:
    """Answers for events whose id was taken: the first answer again, or a conflict."""
    given: dict[int, Verdict] = {}
    for line in lines if taken else ():
        first = taken.get((line.item.organization_id, line.item.event.event_id))
        if first is not None:
            same = first.fingerprint == line.item.fingerprint
            given[line.item.place] = (
                _verdict(first, Status.DUPLICATE) if same else verdicts.conflict(line.item.event.event_id)
            )
    return given


def _hold(
    orphans: Sequence[Orphan], won: Sequence[Line], *, stamps: Iterator[UUID], at: datetime, reported_by: UUID | None
) -> dict[int, Verdict]:
    """Keep what cannot be charged for finance; verdicts of the orphans (the others have theirs)."""
    held = [
        quarantine.Held(
            line.record_id, line.item.scope, line.item.organization_id, line.item.event, Quarantine.Reason.UNPRICED,
            line.unpriced, line.item.fingerprint,
        )
        for line in won
        if line.unpriced is not None
    ] + [
        quarantine.Held(
            next(stamps), orphan.scope, orphan.organization_id, orphan.event, orphan.reason, orphan.detail,
            orphan.fingerprint,
        )
        for orphan in orphans
    ]  # fmt: skip
    new = quarantine.hold(held, at=at, reported_by=reported_by)
    known = quarantine.stories((orphan.scope, orphan.event.event_id) for orphan in orphans if orphan.key not in new)
    return {
        orphan.place: verdicts.conflict(orphan.event.event_id)
        if known.get((orphan.scope, orphan.event.event_id), orphan.fingerprint) != orphan.fingerprint
        else Verdict(orphan.event.event_id, Status.QUARANTINED)
        for orphan in orphans
    }


def _charge(payer: UUID, lines: Sequence[Line], transfer_id: UUID) -> ledger.Move:
    """One charge for all that a batch costs a wallet; each of its records names it."""
    needs = tuple(Need(line.cost_usd, line.record_id, line.model) for line in lines if line.cost_pico)
    return ledger.Move(
        payer, TransferKind.CHARGE, Account.WALLET, Account.REVENUE,
        money.from_pico(sum(line.cost_pico for line in lines)), id=transfer_id, needs=needs,
        # Mostly the very same object, which is quickly told.
        by_record=any(
            line.item.organization_id is not payer and line.item.organization_id != payer for line in lines
        ),
    )  # fmt: skip
