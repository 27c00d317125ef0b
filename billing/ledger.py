"""The ledger: immutable transfers and the wallets they move. The only module that writes either table.

A transfer is one amount from one account to another of the same organization, so it cannot be
unbalanced; its reference is unique, so it cannot be posted twice. The wallet row is the mutex of
everything it owns: it is locked last in a transaction, all wallets of the transaction in one
sorted statement, without keeping children's foreign keys waiting (``FOR NO KEY UPDATE``).
Whoever posts to a wallet first ends the grants whose time is over and begins those whose time has
come, so money that is gone by the clock cannot be spent.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from billing import books, lots
from billing.books import Need, Return, Standing, Step
from billing.lots import Given, Open
from billing.models import Account, TransferKind, Wallet
from core import failpoints, ids, money
from core.bulk import Statement, array, at_once, quoted
from ops import outbox

Level = Wallet.Level
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNIT_SEPARATOR = "\x1f"


class TransferConflict(Exception):
    """A reference was posted before with another amount or account."""


class NotEnough(Exception):
    """The lots that may pay for a move do not cover it, or less is owed than it pays off: ``covered_usd``."""

    def __init__(self, covered_usd: Decimal) -> None:
        super().__init__(f"only {money.plain(covered_usd)} USD can be moved")
        self.covered_usd = covered_usd


class Back(NamedTuple):
    """Money to give back to the grant that paid, for a record or otherwise; without a grant it becomes a new one."""

    grant_id: UUID | None
    amount_usd: Decimal
    record_id: UUID | None = None


class Move(NamedTuple):
    """Money to move into or out of an organization's wallet, or past it, and why. ``amount_usd`` > 0.

    ``reference`` is the cause; a move without one is its own, and its ``id`` must be given.
    Out of the wallet: ``needs`` say for which records (default: none), ``only`` from which kind of
    grant, at most what they hold, ``claw`` from which grant first, whatever has become of it. Into it:
    a grant ``given``, or money ``back`` to grants; with neither it pays off overdraft. Between two
    other accounts it leaves the wallet as it is.
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
    needs: Sequence[Need] = ()
    by_record: bool = False
    only: str | None = None
    claw: UUID | None = None
    given: Given | None = None
    back: Sequence[Back] = ()


class Locked(NamedTuple):
    """A wallet under its lock, as it stands ``now`` by the database's clock."""

    standing: Standing
    held: Decimal
    head: bytes
    credit_limit: Decimal
    low: Decimal
    level: str
    frozen: bool
    mode: str
    enforcement: str
    has_budgets: bool
    next_change: datetime | None
    now: datetime

    @property
    def available(self) -> Decimal:
        """What a hold may take (decisions 2); below zero where more is promised than there is."""
        return self.standing.balance + self.credit_limit - self.held

    @property
    def blocked(self) -> bool:
        """Whether calls are refused whatever they cost."""
        return self.frozen or self.standing.overdraft > self.credit_limit

    @property
    def status(self) -> str:
        """As gateways are told it."""
        return books.status(
            balance=self.standing.balance, overdraft=self.standing.overdraft, credit_limit=self.credit_limit,
            low=self.low, frozen=self.frozen,
        )  # fmt: skip


# The columns of a transfer in the order of its digest, with their types.
_COLUMNS = {
    "id": "uuid", "organization_id": "uuid", "kind": "text", "debit": "text", "credit": "text", "amount_usd": "numeric",
    "reference": "text", "seq": "int8", "balance_after_usd": "numeric", "actor": "text", "reason": "text",
    "created_at": "timestamptz", "digest": "bytea",
}  # fmt: skip
_UNQUOTED = {"uuid", "numeric", "int8"}


def post(
    moves: Sequence[Move],
    *,
    at: datetime,
    released: Mapping[UUID, Decimal] | None = None,
    also: Collection[UUID] = (),
) -> dict[UUID, Locked]:
    """Write each move once, inside the caller's transaction; call it once per transaction, last.

    ``at`` is the transaction's start by the database's clock. A reference posted before is left
    alone; the same reference with another amount or account raises ``TransferConflict``.
    ``released`` lowers what holds reserve in a wallet; the wallets ``also`` named only get what is
    due done to them. Returns where each touched wallet stands afterwards.
    """
    assert connection.in_atomic_block, "ledger.post needs a transaction"
    freed = released or {}
    # By the id's number, which is hashed and compared many times as fast as the id.
    touched = {one.int: one for one in (*(move.organization_id for move in moves), *freed, *also)}
    locked, opened = _lock(touched.values(), with_lots=True)
    failpoints.reach("ledger.after_lock")
    fresh = _unposted(moves)
    entry = _Entry(at, locked, opened)
    entry.settle_all_due()
    for move in fresh:
        entry.make(move)
    return entry.write(freed)


class _Page:
    """One wallet's books while a posting is worked out: as they were found, and as they are by now."""

    __slots__ = ("head", "opened", "organization_id", "standing", "waiting", "wallet")

    def __init__(self, organization_id: UUID, wallet: Locked, opened: Open) -> None:
        self.organization_id = organization_id
        self.wallet = wallet
        self.opened = opened
        self.waiting = list(opened.waiting)
        posted, overdraft, spent, seq, _ = wallet.standing
        self.standing = Standing(posted, overdraft, spent, seq, opened.lots)
        self.head = wallet.head


class _Entry:
    """What one posting writes: worked out in memory under the locks, then written set by set."""

    def __init__(self, at: datetime, locked: Mapping[UUID, Locked], opened: Mapping[UUID, Open]) -> None:
        self._at = at
        self._stamps = ids.run(at=at)
        # By the organization's number.
        self._pages = {
            organization.int: _Page(organization, wallet, opened.get(organization, _NOTHING))
            for organization, wallet in locked.items()
        }
        self._rows: list[tuple[Any, ...]] = []
        self._uses: list[tuple[UUID, UUID, UUID, books.Use]] = []
        self._new: dict[tuple[UUID, UUID], tuple[Given, UUID | None]] = {}
        self._begun: dict[tuple[UUID, UUID], UUID] = {}

    def settle_all_due(self) -> None:
        """Begin the grants whose time has come, and end those whose time is over."""
        for page in self._pages.values():
            wallet = page.wallet
            if wallet.next_change is not None and wallet.next_change <= wallet.now:
                self._settle_due(page)

    def _settle_due(self, page: _Page) -> None:
        now = page.wallet.now
        for grant in list(page.waiting):
            if grant.effective_at <= now:
                page.waiting.remove(grant)
                self._begun[page.organization_id, grant.id] = self._begin(page, grant, transfer_id=None)
        for step in books.expire(page.standing, at=now):
            self._end(page, step)

    def make(self, move: Move) -> None:
        """Work one move out."""
        page = self._pages[move.organization_id.int]
        if move.given is not None:
            key = move.organization_id, move.given.id
            if move.given.effective_at > page.wallet.now:
                page.waiting.append(move.given)
                self._new[key] = move.given, None
            else:
                self._new[key] = move.given, self._begin(page, move.given, transfer_id=move.id, kind=move.kind)
            return
        if move.debit == Account.WALLET:
            steps = self._spend(page.standing, move)
        elif move.credit != Account.WALLET:
            steps = [
                books.pass_by(page.standing, move.amount_usd, kind=move.kind, debit=move.debit, credit=move.credit)
            ]
        elif move.back:
            steps = books.give_back(
                page.standing, self._returns(page, move), kind=move.kind, at=page.wallet.now, source=move.debit
            )
        else:
            if move.amount_usd > page.standing.overdraft:
                raise NotEnough(page.standing.overdraft)
            steps = books.forgive(page.standing, move.amount_usd, kind=move.kind, source=move.debit)
        self._take(page, move, steps)

    def _spend(self, standing: Standing, move: Move) -> list[Step]:
        if move.claw is not None:
            return books.claw(standing, move.amount_usd, kind=move.kind, to=move.credit, first=move.claw)
        if move.only is not None:
            covered = sum((lot.remaining for lot in standing.lots if lot.kind == move.only), money.ZERO)
            if covered < move.amount_usd:
                raise NotEnough(covered)
        needs = move.needs or (Need(move.amount_usd),)
        return books.spend(standing, needs, kind=move.kind, to=move.credit, only=move.only, by_record=move.by_record)

    def _returns(self, page: _Page, move: Move) -> list[Return]:
        """The lots that a move gives back to, as they stand now."""
        organization_id = move.organization_id
        standing = {lot.id: lot for lot in page.standing.lots}
        named = {one.grant_id for one in move.back if one.grant_id is not None}
        closed = lots.find(organization_id, named - standing.keys()) if named - standing.keys() else {}
        # What still stands in the row of one that has just ended is on its way to breakage.
        found = standing | {one: lot._replace(remaining=money.ZERO) for one, lot in closed.items()}
        loose = sum((one.amount_usd for one in move.back if one.grant_id is None), money.ZERO)
        returns = [
            Return(found[one.grant_id], one.amount_usd, one.record_id) for one in move.back if one.grant_id is not None
        ]
        if loose:
            assert move.id is not None
            given = Given(
                next(self._stamps), organization_id, books.ADJUSTMENT, loose, self._at, f"{move.kind}:{move.id}",
                Account.REVENUE, move.actor, move.reason,
            )  # fmt: skip
            self._new[organization_id, given.id] = given, move.id
            returns.append(Return(given.lot._replace(remaining=money.ZERO), loose))
        return returns

    def _begin(self, page: _Page, grant: Given, *, transfer_id: UUID | None, kind: str = TransferKind.GRANT) -> UUID:
        """Post a grant; the id of its transfer."""
        steps = books.receive(page.standing, grant.lot, kind=kind, source=grant.source, at=page.wallet.now)
        own = transfer_id or next(self._stamps)
        for step in steps:
            if step.kind == TransferKind.EXPIRY:
                self._end(page, step)
                continue
            made = own if step.kind == kind else next(self._stamps)
            self._append(page, step, made, grant.reference, grant.actor, grant.reason)
        return own

    def _end(self, page: _Page, step: Step) -> None:
        """Post that a grant is over; it ends once, whatever may be given back to it later."""
        self._append(page, step, next(self._stamps), f"end:{step.uses[0].lot_id}", "", "")

    def _take(self, page: _Page, move: Move, steps: Sequence[Step]) -> None:
        cause = move.reference or f"transfer:{move.id}"
        for step in steps:
            # The move's own transfer carries the id that others refer to; draw, repayment and expiry get theirs.
            own = step.kind == move.kind
            reference = f"{cause}/{step.uses[0].lot_id}" if step.kind == TransferKind.EXPIRY else cause
            made = move.id if own and move.id else next(self._stamps)
            self._append(page, step, made, reference, move.actor, move.reason)

    def _append(self, page: _Page, step: Step, transfer_id: UUID, reference: str, actor: str, reason: str) -> None:
        organization_id = page.organization_id
        kind, debit, credit, amount, after, uses = step
        row = (
            transfer_id, organization_id, str(kind), str(debit), str(credit), amount, reference, after.seq,
            after.balance, actor, reason, self._at,
        )  # fmt: skip
        page.head = link(page.head, row)
        page.standing = after
        self._rows.append((*row, page.head))
        for use in uses:
            # A grant made by this posting begins with what was given, so only what left it again is traced.
            if use.amount > 0 or (organization_id, use.lot_id) not in self._new:
                self._uses.append((organization_id, next(self._stamps), transfer_id, use))

    def write(self, released: Mapping[UUID, Decimal]) -> dict[UUID, Locked]:
        """Write transfers, grants, uses and wallets in one message; the wallets as this posting leaves them."""
        if self._new:
            lots.insert(
                (
                    (given, given.amount_usd if transfer is None else self._left(key), transfer)
                    for key, (given, transfer) in self._new.items()
                ),
                at=self._at,
            )
        after = {}
        stored = {}
        for page in self._pages.values():
            organization = page.organization_id
            freed = released.get(organization) if released else None
            wallet = after[organization] = _left_by(page, money.ZERO if freed is None else freed)
            if freed is not None or _has_moved(page.wallet, wallet):
                stored[organization] = wallet
        changed = [one for one in self._changes() if not self._new or one[:2] not in self._new]
        statements = lots.storing(changed, self._begun)
        if self._rows:
            statements.append(_appending(self._rows))
        if self._uses:
            statements.append(lots.tracing(self._uses))
        if stored:
            statements.append(_storing(stored))
        if statements:
            at_once(statements)
        failpoints.reach("ledger.after_wallets")
        _tell({page.organization_id: page.wallet for page in self._pages.values()}, stored)
        return after

    def _left(self, key: tuple[UUID, UUID]) -> Decimal:
        organization_id, grant_id = key
        lots_left = self._pages[organization_id.int].standing.lots
        return next((lot.remaining for lot in lots_left if lot.id == grant_id), money.ZERO)

    def _changes(self) -> Iterator[tuple[UUID, UUID, Decimal]]:
        """What is left of each lot that this posting changed: (organization, grant, amount)."""
        for page in self._pages.values():
            organization_id, before, after = page.organization_id, page.opened.lots, page.standing.lots
            if before is after:
                continue
            if len(before) == len(after) == 1 and before[0].id == after[0].id:
                if before[0].remaining != after[0].remaining:
                    yield organization_id, after[0].id, after[0].remaining
                continue
            had = {lot.id: lot.remaining for lot in before}
            left = {lot.id: lot.remaining for lot in after}
            for lot_id in had.keys() | left.keys():
                if had.get(lot_id) != left.get(lot_id):
                    yield organization_id, lot_id, left.get(lot_id, money.ZERO)
        for organization_id, grant_id in self._begun:
            if not self._left((organization_id, grant_id)):
                yield organization_id, grant_id, money.ZERO


_NOTHING = Open()


def _left_by(page: _Page, freed: Decimal) -> Locked:
    """A wallet as a posting leaves it; ``freed`` is not held any more."""
    wallet, standing = page.wallet, page.standing
    ends = [lot.expires_at for lot in standing.lots if lot.expires_at is not None]
    return wallet._replace(
        standing=standing,
        held=wallet.held - freed,
        head=page.head,
        level=_level(standing, wallet),
        next_change=min([*ends, *(one.effective_at for one in page.waiting)], default=None),
    )


def _has_moved(before: Locked, after: Locked) -> bool:
    return before.standing.seq != after.standing.seq or before.next_change != after.next_change


def _appending(rows: Sequence[tuple[Any, ...]]) -> Statement:
    """What appends transfers, in the order of ``_COLUMNS``."""
    *plain, digests = zip(*rows, strict=True)
    types = list(_COLUMNS.values())
    arrays = ", ".join(f"%s::{kind}[]" for kind in types[:-1])
    return Statement(
        f"INSERT INTO transfer ({', '.join(_COLUMNS)})"
        f" SELECT {', '.join(f'new.{name}' for name in list(_COLUMNS)[:-1])}, decode(new.digest, 'hex')"
        f" FROM unnest({arrays}, %s::text[]) AS new ({', '.join(_COLUMNS)})",
        [
            *(
                array(values) if kind in _UNQUOTED else quoted(values)
                for kind, values in zip(types, plain, strict=False)
            ),
            quoted(digest.hex() for digest in digests),
        ],
    )


def _storing(stored: Mapping[UUID, Locked]) -> Statement:
    """What keeps the new standings of wallets."""
    wallets = list(stored.values())
    return Statement(
        "UPDATE wallet SET posted_usd = new.posted, overdraft_usd = new.overdraft, spent_usd = new.spent,"
        " seq = new.seq, held_usd = new.held, head = decode(new.head, 'hex'), level = new.level,"
        " has_scoped = new.scoped, next_change = new.next_change"
        " FROM unnest(%s::uuid[], %s::numeric[], %s::numeric[], %s::numeric[], %s::int8[], %s::numeric[],"
        " %s::text[], %s::text[], %s::bool[], %s::timestamptz[])"
        " AS new (organization_id, posted, overdraft, spent, seq, held, head, level, scoped, next_change)"
        " WHERE wallet.organization_id = new.organization_id",
        [
            array(stored),
            array(wallet.standing.posted for wallet in wallets),
            array(wallet.standing.overdraft for wallet in wallets),
            array(wallet.standing.spent for wallet in wallets),
            array(wallet.standing.seq for wallet in wallets),
            array(wallet.held for wallet in wallets),
            quoted(wallet.head.hex() for wallet in wallets),
            quoted(wallet.level for wallet in wallets),
            quoted(any(lot.models for lot in wallet.standing.lots) for wallet in wallets),
            quoted(wallet.next_change for wallet in wallets),
        ],
    )


def link(head: bytes, row: Sequence[Any]) -> bytes:
    """A transfer's digest: SHA-256 over the digest before it and its columns, as ``verify`` derives it in SQL.

    ``row`` stands in the order of the table's ``COPY``, without the digest.
    """
    own, owner, kind, debit, credit, amount, reference, seq, balance, actor, reason, at = row
    told = _UNIT_SEPARATOR.join((
        str(own), str(owner), kind, debit, credit, money.fixed(amount), reference, str(seq), money.fixed(balance),
        actor, reason, str((at - _EPOCH) // _MICROSECOND),
    ))  # fmt: skip
    return hashlib.sha256(head + told.encode()).digest()


def _level(standing: Standing, wallet: Locked) -> str:
    return books.status(
        balance=standing.balance, overdraft=standing.overdraft, credit_limit=wallet.credit_limit, low=wallet.low,
        frozen=False,
    )  # fmt: skip


def _tell(before: Mapping[UUID, Locked], after: Mapping[UUID, Locked]) -> None:
    """Leave an alert for each wallet that crossed a line, once for each crossing."""
    messages = []
    for organization_id, wallet in after.items():
        old = before[organization_id].level
        if wallet.level == old:
            continue
        if wallet.level == Level.EMPTY:
            kind = "wallet.empty"
        else:
            kind = "wallet.low" if wallet.level == Level.LOW and old == Level.ACTIVE else "wallet.recovered"
        data = {"balance_usd": money.plain(wallet.standing.balance), "low_usd": money.plain(wallet.low)}
        messages.append(outbox.Message(kind, organization_id, f"{organization_id}:{wallet.standing.seq}", data))
    if messages:
        outbox.post_many(messages)


def lock(organization_ids: Collection[UUID]) -> dict[UUID, Locked]:
    """Lock these wallets in id order, making those that do not exist yet; where each stands, without its lots."""
    return _lock(organization_ids, with_lots=False)[0]


def _lock(organization_ids: Collection[UUID], *, with_lots: bool) -> tuple[dict[UUID, Locked], dict[UUID, Open]]:
    """The wallets under their locks and what is open in them, read once the locks are held."""
    assert connection.in_atomic_block, "a lock needs a transaction"
    wanted = sorted(organization_ids, key=_number)
    asked = [
        Statement(
            f"SELECT {_STANDING} FROM wallet"
            " WHERE organization_id = ANY(%s::uuid[]) ORDER BY organization_id FOR NO KEY UPDATE",
            [array(wanted)],
        ),
        # The clock is read once the locks are held: whoever waited sees the time at which it was let in.
        Statement("SELECT clock_timestamp()", []),
    ]
    if with_lots:
        asked.append(lots.asking(wanted))
    wallets, [(now,)], *opened = at_once(asked)
    if len(wallets) < len(wanted):
        missing = set(wanted) - {row[0] for row in wallets}
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO wallet (organization_id, posted_usd, held_usd, overdraft_usd, spent_usd,"
                " credit_limit_usd, low_usd, seq, head, mode, enforcement, level, has_scoped, has_budgets, created_at)"
                " SELECT unnest(%s::uuid[]), 0, 0, 0, 0, 0, 5, 0, '', 'strict', 'strict', 'active', false, false, now()"
                " ON CONFLICT (organization_id) DO NOTHING",
                [array(sorted(missing))],
            )
        wallets, [(now,)], *opened = at_once(asked)
    return {row[0]: _locked((*row, now)) for row in wallets}, lots.read(opened[0]) if opened else {}


def _number(of: UUID) -> int:
    """What ids are ordered by, in Python as in the database; far cheaper to compare than the ids."""
    return of.int


_STANDING = (
    "organization_id, posted_usd, overdraft_usd, spent_usd, seq, held_usd, head, credit_limit_usd, low_usd, level,"
    " frozen_at IS NOT NULL, mode, enforcement, has_budgets, next_change"
)


def _locked(row: Sequence[Any]) -> Locked:
    """A row of ``_STANDING`` and the database's clock."""
    return Locked(Standing(*row[1:5]), row[5], bytes(row[6]), *row[7:])


class Reserving(NamedTuple):
    """An amount to set aside in a wallet for ``seconds``."""

    organization_id: UUID
    amount_usd: Decimal
    seconds: int


def reserve_at_once(
    wanted: Sequence[Reserving], *, after: Sequence[Statement] = ()
) -> tuple[dict[UUID, Locked], list[list[tuple[Any, ...]]]]:
    """Set amounts aside, one for each wallet, in one guarded statement; the wallets afterwards, under their locks.

    Also the rows of the statements ``after`` which it runs: they are sent with it and wait for no wallet. A wallet of
    which that cannot be said in one look stays as it is and is missing from the answer: not enough, not strict,
    frozen, grants of limited scope, or one that ends before then.
    """
    ordered = sorted(wanted, key=lambda one: one.organization_id.int)
    asking = Statement(
        "WITH wanted AS (SELECT * FROM unnest(%s::uuid[], %s::numeric[], %s::int[])"
        " AS w (organization_id, amount, seconds)),"
        " locked AS MATERIALIZED (SELECT wallet.organization_id, wanted.amount FROM wallet JOIN wanted"
        " USING (organization_id)"
        " WHERE enforcement = 'strict' AND frozen_at IS NULL AND overdraft_usd <= credit_limit_usd"
        " AND posted_usd - overdraft_usd + credit_limit_usd - held_usd >= wanted.amount"
        " AND NOT has_scoped"
        " AND (next_change IS NULL OR next_change > clock_timestamp() + make_interval(secs => wanted.seconds))"
        " ORDER BY wallet.organization_id FOR NO KEY UPDATE OF wallet)"
        " UPDATE wallet SET held_usd = held_usd + locked.amount FROM locked"
        " WHERE wallet.organization_id = locked.organization_id"
        f" RETURNING {_STANDING.replace('organization_id', 'wallet.organization_id')}, clock_timestamp()",
        [
            array(one.organization_id for one in ordered),
            array(one.amount_usd for one in ordered),
            array(one.seconds for one in ordered),
        ],
    )
    *others, covered = at_once([*after, asking])
    return {row[0]: _locked(row) for row in covered}, others


def reserve(changes: Mapping[UUID, Decimal]) -> None:
    """Add to what holds reserve in wallets that the caller has locked; below zero frees."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE wallet SET held_usd = held_usd + new.amount"
            " FROM unnest(%s::uuid[], %s::numeric[]) AS new (organization_id, amount)"
            " WHERE wallet.organization_id = new.organization_id",
            [array(changes), array(changes.values())],
        )


class Terms(NamedTuple):
    """What of a wallet is set by people; ``None`` leaves it."""

    mode: str | None = None
    enforcement: str | None = None
    credit_limit_usd: Decimal | None = None
    low_usd: Decimal | None = None
    frozen: bool | None = None
    has_budgets: bool | None = None


def set_terms(organization_id: UUID, terms: Terms) -> tuple[Locked, Locked]:
    """Change a wallet's terms under its lock, and alert if they make it cross a line; before and after."""
    before = lock([organization_id])[organization_id]
    chosen = {
        "mode": before.mode if terms.mode is None else terms.mode,
        "enforcement": before.enforcement if terms.enforcement is None else terms.enforcement,
        "credit_limit": before.credit_limit if terms.credit_limit_usd is None else terms.credit_limit_usd,
        "low": before.low if terms.low_usd is None else terms.low_usd,
        "frozen": before.frozen if terms.frozen is None else terms.frozen,
        "has_budgets": before.has_budgets if terms.has_budgets is None else terms.has_budgets,
    }
    after = before._replace(**chosen)  # type: ignore[arg-type]
    after = after._replace(level=_level(after.standing, after))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE wallet SET mode = %s, enforcement = %s, credit_limit_usd = %s, low_usd = %s, has_budgets = %s,"
            " level = %s, frozen_at = CASE WHEN %s THEN coalesce(frozen_at, clock_timestamp()) END"
            " WHERE organization_id = %s",
            [
                after.mode, after.enforcement, after.credit_limit, after.low, after.has_budgets, after.level,
                after.frozen, organization_id,
            ],
        )  # fmt: skip
    _tell({organization_id: before}, {organization_id: after})
    return before, after


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
