"""Holds: money set aside before a request, so that two can never spend the last dollar.

The only module that writes ``Hold``. Placing takes the wallet's lock with one guarded statement
where that decides, and looks closer only where grants of limited scope or time, another mode, or a
refusal ask for it. A hold ends once: captured by its event, released, or expired.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import Error, connection, transaction

from billing import books, budgets, ledger
from billing.books import Need
from billing.budgets import Counted, Freed
from billing.ledger import Locked
from billing.models import Hold, Wallet
from core import errors, ids, money
from core.bulk import Statement, array, at_once, quoted
from core.transactions import retry
from metering.usage import started_at
from orgs import organizations

SECONDS_MAX = 3600
CHUNK = 200
ROUNDS_MAX = 50
State = Hold.State
# As gateways and customers are told it: an open hold is an approved authorization.
STATUS = {state: "approved" if state == State.OPEN else str(state.value) for state in State}
Mode = Wallet.Mode
Enforcement = Wallet.Enforcement

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A request that wants money set aside, at its worst case, for ``seconds``.

    ``sees_wallet``: whoever asks may be told what the organization's wallet has, should it not be enough.
    """

    whose: Counted
    model: str
    max_output_tokens: int
    seconds: int
    fallback_id: UUID | None = None
    placed_by: UUID | None = None
    sees_wallet: bool = False


class Arrived(NamedTuple):
    """An event that names a hold: whose, and the row it will be. ``is_usage`` unless it failed for nothing."""

    organization_id: UUID
    hold_id: UUID
    record_id: UUID
    is_usage: bool


class Settled(NamedTuple):
    """What a hold that has just ended had set aside, and in whose wallet."""

    payer_id: UUID
    amount_usd: Decimal
    freed: Freed


class Placed(NamedTuple):
    """A hold, and the wallet that pays for it as the hold leaves it."""

    hold: Hold
    wallet: Locked


def place(asked: Asked, *, flush: bool = True) -> Placed:
    """Set the worst case aside, inside the caller's transaction, as its last act but the answer.

    Without ``flush`` the commit does not wait for the disk: for a caller that charges the request itself, since
    whatever is on disk has its hold there before it.

    Raises ``OrgWalletEmpty`` or ``InsufficientQuota`` where no wallet covers it, and
    ``BudgetExceeded`` for a ceiling; the caller's transaction must then be rolled back.
    """
    assert connection.in_atomic_block, "a hold needs a transaction"
    assert 0 < asked.seconds <= SECONDS_MAX
    at = started_at(flush=flush)
    whose = asked.whose
    hold = _made(asked, next(ids.run(at=at)))
    # The row first: the wallet's lock is then held for one statement and the commit.
    covered, (rows,) = ledger.reserve_at_once([_reserving([asked])], after=[_inserting([(hold, asked.seconds)])])
    _note_times([hold], rows)
    wallet = covered.get(whose.organization_id)
    counts = wallet is not None and wallet.has_budgets
    if wallet is None:
        hold.payer_id, hold.amount_usd, wallet, counts = _look_closer(asked, hold)
        if hold.amount_usd:
            ledger.reserve({hold.payer_id: hold.amount_usd})
            wallet = wallet._replace(held=wallet.held + hold.amount_usd)
    if counts:
        hold.budget_ids = budgets.reserve(whose, at=at)
    if (hold.payer_id, hold.amount_usd, hold.budget_ids) != (whose.organization_id, whose.usd, []):
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE hold SET payer_id = %s, amount_usd = %s, budget_ids = %s"
                " WHERE organization_id = %s AND id = %s",
                [hold.payer_id, hold.amount_usd, hold.budget_ids, hold.organization_id, hold.id],
            )
    return Placed(hold, wallet)


def place_together(asked: Sequence[Asked], *, lock_ms: int | None = None, flush: bool = True) -> list[Placed | None]:
    """As ``place`` for requests that came side by side, inside the caller's transaction, as its last act.

    ``None`` for those that a closer look must decide; of them nothing is written. No wallet is waited for
    longer than ``lock_ms``; then the database's error is raised.
    """
    assert connection.in_atomic_block, "a hold needs a transaction"
    at = started_at(lock_ms=lock_ms, flush=flush)
    of_each: dict[UUID, list[Asked]] = {}
    for one in asked:
        of_each.setdefault(one.whose.organization_id, []).append(one)
    wallets, _ = ledger.reserve_at_once([_reserving(those) for those in of_each.values()])
    limited = {owner: -_reserving(of_each[owner]).amount_usd for owner, wallet in wallets.items() if wallet.has_budgets}
    if limited:
        # Each counts against ceilings of its own.
        ledger.reserve(limited)
    stamps = ids.run(at=at)
    holds = [
        _made(one, next(stamps))
        if one.whose.organization_id in wallets and one.whose.organization_id not in limited
        else None
        for one in asked
    ]
    made = [(hold, one.seconds) for hold, one in zip(holds, asked, strict=True) if hold is not None]
    if made:
        (rows,) = at_once([_inserting(made)])
        _note_times([hold for hold, _ in made], rows)
    return [None if hold is None else Placed(hold, wallets[hold.organization_id]) for hold in holds]


def _reserving(asked: Sequence[Asked]) -> ledger.Reserving:
    """What requests of one organization set aside together."""
    return ledger.Reserving(
        asked[0].whose.organization_id,
        sum((one.whose.usd for one in asked), money.ZERO),
        max(one.seconds for one in asked),
    )


def _made(asked: Asked, hold_id: UUID) -> Hold:
    """A hold that its own organization pays for and that counts against no ceiling, not written yet."""
    whose = asked.whose
    return Hold(
        id=hold_id, organization_id=whose.organization_id, payer_id=whose.organization_id,
        api_key_id=whose.api_key_id, member_id=whose.member_id, project_id=whose.project_id,
        placed_by=asked.placed_by, model=asked.model, amount_usd=whose.usd, tokens=whose.tokens,
        max_output_tokens=asked.max_output_tokens, budget_ids=[], state=State.OPEN,
    )  # fmt: skip


_INSERTED = {
    "organization_id": "uuid", "id": "uuid", "payer_id": "uuid", "api_key_id": "uuid", "member_id": "uuid",
    "project_id": "uuid", "placed_by": "uuid", "model": "text", "amount_usd": "numeric", "tokens": "int8",
    "max_output_tokens": "int8",
}  # fmt: skip


def _inserting(made: Sequence[tuple[Hold, int]]) -> Statement:
    """What writes the rows of holds that last so many seconds, and tells when each begins and ends."""
    columns = [[getattr(hold, name) for hold, _ in made] for name in _INSERTED]
    arrays = ", ".join(f"%s::{kind}[]" for kind in _INSERTED.values())
    # The end is an interval on the database's clock, whatever the caller's clock says.
    return Statement(
        f"INSERT INTO hold ({', '.join(_INSERTED)}, budget_ids, state, created_at, expires_at)"
        f" SELECT {', '.join(_INSERTED)}, '{{}}', 'open', at, at + make_interval(secs => seconds)"
        f" FROM unnest({arrays}, %s::int[]) AS new ({', '.join(_INSERTED)}, seconds), clock_timestamp() AS at"
        " RETURNING id, created_at, expires_at",
        [*map(quoted, columns), array(seconds for _, seconds in made)],
    )


def _note_times(written: Iterable[Hold], rows: Iterable[tuple[Any, ...]]) -> None:
    """Note on each hold when it begins and ends, as ``_inserting`` told."""
    times = {row[0]: row[1:] for row in rows}
    for hold in written:
        hold.created_at, hold.expires_at = times[hold.id]


def _look_closer(asked: Asked, hold: Hold) -> tuple[UUID, Decimal, Locked, bool]:
    """Who pays, how much to set aside, that wallet, and whether there are ceilings to count; or the refusal."""
    own = asked.whose.organization_id
    other = asked.fallback_id
    modes = Wallet.objects.filter(pk=own).values_list("mode", flat=True)
    both = other is not None and list(modes) == [Mode.FALLBACK]
    wallets = ledger.post([], at=started_at(), also=[own, other] if both and other else [own])
    wallet = wallets[own]
    if wallet.enforcement == Enforcement.OFF and not wallet.frozen:
        return own, money.ZERO, wallet, False
    if _covers(wallet, own, asked, wallet.enforcement, hold):
        return own, asked.whose.usd, wallet, wallet.has_budgets
    if both and other and _covers(wallets[other], other, asked, wallet.enforcement, hold):
        return other, asked.whose.usd, wallets[other], wallet.has_budgets
    raise _refusal(wallet, asked, personal_too=both)


def _refusal(wallet: Locked, asked: Asked, *, personal_too: bool) -> errors.ApiError:
    """The refusal, with what was needed and, for who may see the organization's wallet, what there is of it.

    What a caller has of their own stays untold: the answer may pass through a gateway of the organization.
    """
    owner = organizations.find_ids([asked.whose.organization_id])[asked.whose.organization_id]
    family = errors.InsufficientQuota if owner.is_personal or personal_too else errors.OrgWalletEmpty
    if wallet.frozen:
        return family("The wallet is frozen.")
    name = "The wallet" if owner.is_personal else f"The wallet of organization {owner.slug}"
    message = f"{name} does not cover this request, which may cost up to {money.plain(asked.whose.usd)} USD"
    if asked.sees_wallet:
        available = max(wallet.available, money.ZERO)
        # Money for other models, or of which too little is left by when the request may end.
        scoped = ", not all of it for this request" if available >= asked.whose.usd > 0 else ""
        message += f": {money.plain(available)} USD is available{scoped}"
    return family(f"{message}. The caller's own wallet does not cover it either." if personal_too else f"{message}.")


def _covers(wallet: Locked, payer_id: UUID, asked: Asked, enforcement: str, hold: Hold) -> bool:
    """Whether a wallet may be counted on for the request until its hold, whose row stands already, ends."""
    if wallet.blocked:
        return False
    if not asked.whose.usd:
        return True
    if enforcement == Enforcement.SOFT:
        return wallet.standing.balance + wallet.credit_limit > 0
    if wallet.available < asked.whose.usd:
        return False
    until = wallet.now + timedelta(seconds=asked.seconds)
    lasting = [lot for lot in wallet.standing.lots if lot.expires_at is None or lot.expires_at > until]
    if len(lasting) == len(wallet.standing.lots) and not any(lot.models for lot in lasting):
        return True
    # Money for certain models, or gone before the end: what is promised already takes its part first.
    needs = [*_promised(payer_id, but=hold), Need(asked.whose.usd, None, asked.model)]
    uncovered = books.allocate(needs, lasting).uncovered
    return wallet.standing.overdraft + uncovered <= wallet.credit_limit


def _promised(payer_id: UUID, *, but: Hold) -> list[Need]:
    """What a wallet's other open holds may still take, oldest first."""
    open_holds = Hold.objects.filter(payer_id=payer_id, state=State.OPEN, amount_usd__gt=0)
    open_holds = open_holds.exclude(organization_id=but.organization_id, id=but.id).order_by("id")
    return [Need(amount, None, model) for amount, model in open_holds.values_list("amount_usd", "model")]


def settle(arrived: Iterable[Arrived]) -> dict[UUID, Settled]:
    """End the open holds that events name; by the event's record, what each had set aside.

    Usage captures its hold, a request that failed for nothing releases it. Inside the caller's
    transaction, before it locks wallets; the caller frees what the holds reserved. A hold that is
    foreign, or has ended already, is left alone.
    """
    chosen: dict[tuple[UUID, UUID], Arrived] = {}
    for one in arrived:
        known = chosen.get((one.organization_id, one.hold_id))
        if known is None or (one.is_usage and not known.is_usage):
            chosen[one.organization_id, one.hold_id] = one
    ordered = [chosen[key] for key in sorted(chosen)]
    if not ordered:
        return {}
    ending = Statement(
        "WITH wanted AS (SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::bool[])"
        " AS w (organization_id, id, record_id, is_usage)),"
        " locked AS MATERIALIZED (SELECT h.organization_id, h.id, w.record_id, w.is_usage FROM hold h JOIN wanted w"
        " USING (organization_id, id) WHERE h.state = 'open' ORDER BY h.organization_id, h.id"
        " FOR NO KEY UPDATE OF h)"
        " UPDATE hold SET state = CASE WHEN locked.is_usage THEN 'captured' ELSE 'released' END,"
        " settled_at = clock_timestamp(), record_id = CASE WHEN locked.is_usage THEN locked.record_id END"
        " FROM locked WHERE hold.organization_id = locked.organization_id AND hold.id = locked.id"
        " RETURNING locked.record_id, hold.payer_id, hold.amount_usd, hold.organization_id, hold.budget_ids,"
        " hold.tokens",
        [
            array(one.organization_id for one in ordered),
            array(one.hold_id for one in ordered),
            array(one.record_id for one in ordered),
            array(one.is_usage for one in ordered),
        ],
    )
    (rows,) = at_once([ending])
    return {row[0]: Settled(row[1], row[2], Freed(row[3], row[4], row[2], row[5])) for row in rows}


@transaction.atomic(durable=True)
def renew(named: Collection[tuple[UUID, UUID]], *, seconds: int) -> int:
    """Let open holds, by (organization, id), last for so many seconds from now, if they would not anyway; how many.

    On a cluster those of one organization at a time.
    """
    assert 0 < seconds <= SECONDS_MAX
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH named AS (SELECT * FROM unnest(%s::uuid[], %s::uuid[]) AS n (organization_id, id)),"
            " locked AS MATERIALIZED (SELECT h.organization_id, h.id FROM hold h JOIN named USING (organization_id, id)"
            " WHERE h.state = 'open' ORDER BY h.organization_id, h.id FOR NO KEY UPDATE OF h)"
            " UPDATE hold SET expires_at = greatest(expires_at, statement_timestamp() + make_interval(secs => %s))"
            " FROM locked WHERE hold.organization_id = locked.organization_id AND hold.id = locked.id",
            [array(organization for organization, _ in named), array(hold for _, hold in named), seconds],
        )
        return int(cursor.rowcount)


def release(*, organization_id: UUID, hold_id: UUID) -> Hold:
    """Give a hold up, once, inside the caller's transaction; one that has ended stays as it ended.

    Raises ``NotFound``.
    """
    ended = _end([(organization_id, hold_id)], State.RELEASED)
    found = find(organization_id=organization_id, hold_id=hold_id)
    if found is None:
        raise absent()
    _free(ended)
    return found


def expire_due() -> int:
    """End the holds whose time is over, at most ``CHUNK`` of an organization and ``ROUNDS_MAX`` times that; how many.

    Many workers may run it at once. A wallet that cannot be had now keeps the others waiting for nothing:
    they are dealt with, then what went wrong there is raised.
    """
    expired = 0
    failed: dict[UUID, Error] = {}
    for _ in range(ROUNDS_MAX):
        owners = _owners_of_due(leave_out=failed)
        ended = 0
        for owner in owners:
            try:
                ended += retry(lambda owner=owner: _expire(owner))  # type: ignore[misc]
            except Error as error:
                log.warning("holds of %s cannot be ended now: %s", owner, error)
                failed[owner] = error
        expired += ended
        if not ended:
            break
    if failed:
        raise next(iter(failed.values()))
    return expired


def _owners_of_due(*, leave_out: Collection[UUID]) -> list[UUID]:
    """Organizations whose holds have been open beyond their end the longest."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT organization_id FROM (SELECT organization_id, expires_at FROM hold WHERE state = 'open'"
            " AND expires_at < clock_timestamp() AND organization_id <> ALL(%s::uuid[])"
            " ORDER BY expires_at LIMIT %s) AS due GROUP BY organization_id ORDER BY min(expires_at)",
            [array(leave_out), CHUNK],
        )
        return [row[0] for row in cursor.fetchall()]


@transaction.atomic(durable=True)
def _expire(organization_id: UUID) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT organization_id, id FROM hold WHERE organization_id = %s AND state = 'open'"
            " AND expires_at < clock_timestamp() ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED",
            [organization_id, CHUNK],
        )
        due = cursor.fetchall()
    ended = _end(due, State.EXPIRED)
    _free(ended)
    return len(ended)


def _end(named: Collection[tuple[UUID, UUID]], state: str) -> list[Settled]:
    """End these holds if they are open; those that were."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE hold SET state = %s, settled_at = clock_timestamp()"
            " FROM unnest(%s::uuid[], %s::uuid[]) AS named (organization_id, id)"
            " WHERE hold.organization_id = named.organization_id AND hold.id = named.id AND state = 'open'"
            " RETURNING hold.payer_id, hold.amount_usd, hold.organization_id, hold.budget_ids, hold.tokens",
            [state, array(organization for organization, _ in named), array(hold for _, hold in named)],
        )
        return [Settled(row[0], row[1], Freed(row[2], row[3], row[1], row[4])) for row in cursor.fetchall()]


def _free(ended: Sequence[Settled]) -> None:
    """Free what ended holds reserved, under the locks of the wallets concerned."""
    if not ended:
        return
    ledger.lock({one.payer_id for one in ended} | {one.freed.organization_id for one in ended})
    ledger.reserve(reserved(ended, sign=-1))
    budgets.free(one.freed for one in ended)


def reserved(ended: Collection[Settled], *, sign: int = 1) -> Mapping[UUID, Decimal]:
    """What holds had reserved, by wallet."""
    sums: dict[UUID, Decimal] = {}
    for one in ended:
        sums[one.payer_id] = sums.get(one.payer_id, money.ZERO) + sign * one.amount_usd
    return sums


def absent() -> errors.NotFound:
    """The refusal for an authorization that an organization does not have."""
    return errors.NotFound("There is no such authorization.", param="authorization_id")


def find(*, organization_id: UUID, hold_id: UUID) -> Hold | None:
    """An organization's hold."""
    return Hold.objects.filter(organization_id=organization_id, id=hold_id).first()


class Overdue(NamedTuple):
    """How many holds are open beyond their end, and for how long the first of them."""

    number: int
    longest: timedelta


def overdue() -> Overdue:
    """What ``expire_due`` has not come to. Their money stays set aside until it does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), coalesce(max(clock_timestamp() - expires_at), interval '0') FROM hold"
            " WHERE state = 'open' AND expires_at < clock_timestamp()"
        )
        return Overdue(*cursor.fetchone())
