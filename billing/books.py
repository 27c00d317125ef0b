"""The arithmetic of one wallet's books. Pure: no database, no clock.

A wallet's posted money lies in lots, one for each grant of credit. Usage takes from the lots in one
order; what they cannot cover is drawn from the overdraft first, and money that comes in repays the
overdraft first. Draw and repayment leave the balance as it was, so the balance after a transfer is
posted minus overdraft.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import msgspec

from core import money

WALLET = "wallet"
OVERDRAFT = "overdraft"
REVENUE = "revenue"
BREAKAGE = "breakage"

PROMOTIONAL = "promotional"
ADJUSTMENT = "adjustment"
PURCHASED = "purchased"
# Given credit is spent before what was paid for.
_RANKS = {PROMOTIONAL: 0, ADJUSTMENT: 1, PURCHASED: 2}
_NEVER = datetime.max.replace(tzinfo=UTC)


class Lot(NamedTuple):
    """Credit of one grant that is still there. ``models`` empty: it pays for any."""

    id: UUID
    kind: str
    remaining: Decimal
    priority: int = 0
    expires_at: datetime | None = None
    models: frozenset[str] = frozenset()


class Need(msgspec.Struct, frozen=True, gc=False):
    """What one record costs; ``record_id`` is empty for money that leaves for another reason."""

    amount: Decimal
    record_id: UUID | None = None
    model: str = ""


class Use(NamedTuple):
    """What a transfer took from a lot (negative: gave back), and for which records, first and last."""

    lot_id: UUID
    amount: Decimal
    first: UUID | None
    last: UUID | None


class Return(NamedTuple):
    """Money that goes back into the lot that it was taken from."""

    lot: Lot
    amount: Decimal
    record_id: UUID | None = None


class Standing(NamedTuple):
    """Where a wallet stands. ``spent`` is all it ever paid for usage; ``lots`` stand in the order they are spent."""

    posted: Decimal
    overdraft: Decimal
    spent: Decimal
    seq: int
    lots: tuple[Lot, ...] = ()

    @property
    def balance(self) -> Decimal:
        """Posted minus overdraft: what the customer has, or owes."""
        return self.posted - self.overdraft


class Step(NamedTuple):
    """One transfer that touches the wallet, what it did to lots, and the standing after it."""

    kind: str
    debit: str
    credit: str
    amount: Decimal
    after: Standing
    uses: tuple[Use, ...] = ()


class Allocation(NamedTuple):
    """What needs took from lots: the lots left, each need's uses in order, and what no lot could cover."""

    lots: tuple[Lot, ...]
    uses: tuple[Use, ...]
    uncovered: Decimal


def order(lot: Lot) -> tuple[int, datetime, int, UUID]:
    """The one order in which lots are spent: priority, expiring first, given before purchased, oldest first."""
    return lot.priority, lot.expires_at or _NEVER, _RANKS[lot.kind], lot.id


def arranged(lots: Iterable[Lot]) -> tuple[Lot, ...]:
    """The lots with anything left, in the order they are spent."""
    return tuple(sorted((lot for lot in lots if lot.remaining), key=order))


def pays(lot: Lot, model: str) -> bool:
    """Whether a lot's scope covers a model; money that leaves for another reason comes from lots without scope."""
    return not lot.models or model in lot.models


def allocate(needs: Sequence[Need], lots: Sequence[Lot], *, any_scope: bool = False) -> Allocation:
    """Cover needs in their order from lots in theirs. Uses are by need, so a lot may stand in several.

    ``any_scope``: also from lots that do not pay for the needs' models.
    """
    left = [lot.remaining for lot in lots]
    uses: list[Use] = []
    uncovered = money.ZERO
    start = 0
    for need in needs:
        wanted = need.amount
        while start < len(lots) and not left[start]:
            start += 1
        for place in range(start, len(lots)):
            if not wanted:
                break
            if left[place] and (any_scope or pays(lots[place], need.model)):
                taken = min(wanted, left[place])
                left[place] -= taken
                wanted -= taken
                uses.append(Use(lots[place].id, taken, need.record_id, need.record_id))
        uncovered += wanted
    kept = tuple(
        lot if lot.remaining == remaining else lot._replace(remaining=remaining)
        for lot, remaining in zip(lots, left, strict=True)
        if remaining
    )
    return Allocation(kept, tuple(uses), uncovered)


def merged(uses: Iterable[Use]) -> tuple[Use, ...]:
    """One use for each lot: the sum, from its first record to its last."""
    by_lot: dict[UUID, Use] = {}
    for use in uses:
        known = by_lot.get(use.lot_id)
        by_lot[use.lot_id] = use if known is None else known._replace(amount=known.amount + use.amount, last=use.last)
    return tuple(by_lot.values())


def spend(
    standing: Standing, needs: Sequence[Need], *, kind: str, to: str, only: str | None = None, by_record: bool = False
) -> list[Step]:
    """Take what ``needs`` sum to from the wallet, drawing on the overdraft for what the lots do not cover.

    ``only``: from lots of this kind, whatever models they pay for. ``by_record`` keeps a use for each record
    instead of one for each lot.
    """
    amount = sum((need.amount for need in needs), money.ZERO)
    assert amount > 0
    if only is None and not by_record and standing.lots and _pays_all(standing.lots[0], amount):
        return [_spend_at_once(standing, needs, amount, kind=kind, to=to)]
    payable = [lot for lot in standing.lots if only is None or lot.kind == only]
    allocation = allocate(needs, payable, any_scope=only is not None)
    others = [lot for lot in standing.lots if only is not None and lot.kind != only]
    steps = []
    if allocation.uncovered:
        steps.append(_draw(standing, allocation.uncovered))
        standing = steps[-1].after
    spent = standing.spent + amount if to == REVENUE else standing.spent
    lots = arranged([*allocation.lots, *others]) if others else allocation.lots
    standing = standing._replace(posted=standing.posted - amount, spent=spent, seq=standing.seq + 1, lots=lots)
    uses = allocation.uses if by_record else merged(allocation.uses)
    steps.append(Step(kind, WALLET, to, amount, standing, uses))
    return steps


def _pays_all(lot: Lot, amount: Decimal) -> bool:
    return lot.remaining >= amount and not lot.models


def _spend_at_once(standing: Standing, needs: Sequence[Need], amount: Decimal, *, kind: str, to: str) -> Step:
    """What ``spend`` does where the first lot covers everything, as nearly always: the same step without a search."""
    first, *others = standing.lots
    paid = [need.record_id for need in needs if need.amount]
    kept = () if first.remaining == amount else (first._replace(remaining=first.remaining - amount),)
    spent = standing.spent + amount if to == REVENUE else standing.spent
    after = Standing(standing.posted - amount, standing.overdraft, spent, standing.seq + 1, (*kept, *others))
    return Step(kind, WALLET, to, amount, after, (Use(first.id, amount, paid[0], paid[-1]),))


def receive(standing: Standing, lot: Lot, *, kind: str, source: str, at: datetime) -> list[Step]:
    """Put a new lot into the wallet; an overdraft is repaid from it at once, unless its scope forbids it.

    From a lot that has ended meanwhile nothing is repaid: it goes on to breakage.
    """
    assert lot.remaining > 0
    standing = standing._replace(
        posted=standing.posted + lot.remaining, seq=standing.seq + 1, lots=arranged([*standing.lots, lot])
    )
    return repay([Step(kind, source, WALLET, lot.remaining, standing), *expire(standing, at=at)])


def claw(standing: Standing, amount: Decimal, *, kind: str, to: str, first: UUID) -> list[Step]:
    """Take back what a lot brought in: from that lot first, then from what else was paid for, then from what was given.

    What is not there any more is drawn on the overdraft. Credit that pays for certain models only is left alone.
    """
    assert amount > 0
    lots = sorted(standing.lots, key=lambda lot: (lot.id != first, -_RANKS[lot.kind], order(lot)))
    allocation = allocate([Need(amount)], lots)
    steps = [] if not allocation.uncovered else [_draw(standing, allocation.uncovered)]
    standing = steps[-1].after if steps else standing
    standing = standing._replace(posted=standing.posted - amount, seq=standing.seq + 1, lots=arranged(allocation.lots))
    return [*steps, Step(kind, WALLET, to, amount, standing, merged(allocation.uses))]


def _draw(standing: Standing, short: Decimal) -> Step:
    """What the lots do not cover, drawn on the overdraft."""
    drawn = standing._replace(
        posted=standing.posted + short, overdraft=standing.overdraft + short, seq=standing.seq + 1
    )
    return Step("draw", OVERDRAFT, WALLET, short, drawn)


def pass_by(standing: Standing, amount: Decimal, *, kind: str, debit: str, credit: str) -> Step:
    """Money between two accounts that are not the wallet: it counts among the transfers and changes no balance."""
    assert amount > 0
    assert WALLET not in {debit, credit}
    return Step(kind, debit, credit, amount, standing._replace(seq=standing.seq + 1))


def give_back(
    standing: Standing, returns: Sequence[Return], *, kind: str, at: datetime, source: str = REVENUE
) -> list[Step]:
    """Return money to its lots: usage that is taken back, or what another ``source`` gives up again.

    It goes on to breakage from lots that have expired, and repays the overdraft. A lot that is not open (spent to
    the end, expired) stands in ``returns`` with nothing remaining.
    """
    amount = sum((one.amount for one in returns), money.ZERO)
    assert amount > 0
    lots = {lot.id: lot for lot in standing.lots}
    for one in returns:
        lot = lots.get(one.lot.id, one.lot)
        lots[lot.id] = lot._replace(remaining=lot.remaining + one.amount)
    uses = tuple(Use(one.lot.id, -one.amount, one.record_id, one.record_id) for one in returns)
    unspent = amount if source == REVENUE else money.ZERO
    standing = standing._replace(
        posted=standing.posted + amount, spent=standing.spent - unspent, seq=standing.seq + 1,
        lots=arranged(lots.values()),
    )  # fmt: skip
    steps = [Step(kind, source, WALLET, amount, standing, uses)]
    return repay([*steps, *expire(standing, at=at)])


def forgive(standing: Standing, amount: Decimal, *, kind: str, source: str) -> list[Step]:
    """Pay an overdraft off from another account; ``amount`` is at most what is owed."""
    assert 0 < amount <= standing.overdraft
    received = standing._replace(posted=standing.posted + amount, seq=standing.seq + 1)
    repaid = received._replace(posted=standing.posted, overdraft=standing.overdraft - amount, seq=received.seq + 1)
    return [Step(kind, source, WALLET, amount, received), Step("repayment", WALLET, OVERDRAFT, amount, repaid)]


def expire(standing: Standing, *, at: datetime) -> list[Step]:
    """Move what lots past their end still hold to breakage, a transfer for each."""
    steps = []
    for lot in standing.lots:
        if lot.expires_at is not None and lot.expires_at <= at:
            standing = standing._replace(
                posted=standing.posted - lot.remaining, seq=standing.seq + 1,
                lots=tuple(other for other in standing.lots if other.id != lot.id),
            )  # fmt: skip
            use = Use(lot.id, lot.remaining, None, None)
            steps.append(Step("expiry", WALLET, BREAKAGE, lot.remaining, standing, (use,)))
    return steps


def repay(steps: list[Step]) -> list[Step]:
    """The steps, and a repayment of the overdraft after them from the lots without scope."""
    standing = steps[-1].after
    free = sum((lot.remaining for lot in standing.lots if not lot.models), money.ZERO)
    repaid = min(free, standing.overdraft)
    if repaid <= 0:
        return steps
    allocation = allocate([Need(repaid)], standing.lots)
    standing = standing._replace(
        posted=standing.posted - repaid, overdraft=standing.overdraft - repaid, seq=standing.seq + 1,
        lots=allocation.lots,
    )  # fmt: skip
    return [*steps, Step("repayment", WALLET, OVERDRAFT, repaid, standing, merged(allocation.uses))]


def status(*, balance: Decimal, overdraft: Decimal, credit_limit: Decimal, low: Decimal, frozen: bool) -> str:
    """``active``, ``low``, ``empty`` or ``frozen``, as gateways are told (contract 16.3)."""
    if frozen:
        return "frozen"
    if overdraft > credit_limit or balance + credit_limit <= money.ZERO:
        return "empty"
    return "low" if balance < low else "active"
