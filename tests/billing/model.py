"""What the books of some wallets should hold, told once more in plain Python.

Written from the specification and sharing nothing with the product's arithmetic: fractions instead of
decimals, sums over everything that ever happened instead of counters, one event after the other instead
of batches. Only the names of things are the product's.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

LONG_AGO = datetime.min.replace(tzinfo=UTC)
FOR_EVER = datetime.max.replace(tzinfo=UTC)
SOURCES = {"promotional": "promotions", "purchased": "stripe_clearing", "adjustment": "adjustments"}
# Of two lots that are alike otherwise, what was given is spent before what was paid for.
GIVEN_FIRST = ("promotional", "adjustment", "purchased")
HOURS = {"5h": 5, "1d": 24, "7d": 168}


class Refused(Exception):
    """The act is not allowed; nothing has happened."""


@dataclass(eq=False)
class Lot:
    """Credit of one grant."""

    name: str
    kind: str
    amount: Fraction
    priority: int = 0
    begins: datetime = LONG_AGO
    ends: datetime = FOR_EVER
    models: tuple[str, ...] = ()
    left: Fraction = Fraction(0)
    begun: bool = False


@dataclass(eq=False)
class Wallet:
    """An organization's lots in the order in which they were made, and what people set about it."""

    zone: str = "UTC"
    lots: list[Lot] = field(default_factory=list)
    owed: Fraction = Fraction(0)
    limit: Fraction = Fraction(0)
    frozen: bool = False
    fallback: bool = False
    enforcement: str = "strict"
    accounts: defaultdict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))

    @property
    def open(self) -> list[Lot]:
        """Lots with anything left, in the order in which they are spent."""
        return sorted(
            (lot for lot in self.lots if lot.begun and lot.left),
            key=lambda lot: (lot.priority, lot.ends, GIVEN_FIRST.index(lot.kind), self.lots.index(lot)),
        )

    @property
    def posted(self) -> Fraction:
        """What is there."""
        return sum((lot.left for lot in self.open), Fraction(0))

    @property
    def room(self) -> Fraction:
        """What could be spent before anything is set aside."""
        return self.posted - self.owed + self.limit

    @property
    def blocked(self) -> bool:
        """Whether it pays for no hold at all."""
        return self.frozen or self.owed > self.limit


@dataclass(frozen=True)
class Who:
    """Whose a request is."""

    owner: str
    key: str = ""
    member: str = ""
    project: str = ""


@dataclass(eq=False)
class Ceiling:
    """A limit on what a part of an organization uses in a window."""

    owner: str
    subject: str
    of: str
    window: str
    unit: str
    most: Fraction = Fraction(0)

    @property
    def story(self) -> tuple[str, ...]:
        """What there is one of at a time."""
        return self.owner, self.subject, self.of, self.window, self.unit

    def covers(self, who: Who) -> bool:
        """Whether it counts a request."""
        return who.owner == self.owner and (self.subject == "organization" or getattr(who, self.subject) == self.of)

    def begins(self, now: datetime, zone: str) -> datetime:
        """The first instant that it still counts: rolling windows are made of whole five minutes."""
        if self.window == "month":
            first = now.astimezone(ZoneInfo(zone)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return first.astimezone(UTC)
        start = now - timedelta(hours=HOURS[self.window])
        return start.replace(minute=start.minute - start.minute % 5, second=0, microsecond=0)


@dataclass(eq=False)
class Hold:
    """Money set aside for a request."""

    who: Who
    payer: str
    model: str
    amount: Fraction
    tokens: int
    ends: datetime
    ceilings: list[Ceiling]
    state: str = "open"


@dataclass(eq=False)
class Record:
    """What was charged for an event: to whom, and which lot paid how much of it by now."""

    who: Who
    payer: str
    model: str
    cost: Fraction
    tokens: int
    paid: dict[Lot, Fraction] = field(default_factory=dict)
    voided: bool = False


@dataclass(frozen=True)
class Event:
    """An event as sent; ``kind`` is ``usage``, ``failure`` or ``unpriced``."""

    id: str
    who: Who
    model: str
    cost: Fraction
    tokens: int
    kind: str = "usage"
    hold: str = ""
    fallback: str = ""


@dataclass(frozen=True)
class Used:
    """An entry of everything that was ever used, as ceilings count it."""

    at: datetime
    who: Who
    usd: Fraction
    tokens: int


class Books:
    """Wallets by name, and everything that happened to them. An act that raises ``Refused`` has done nothing."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.wallets: dict[str, Wallet] = {}
        self.holds: dict[str, Hold] = {}
        self.ceilings: list[Ceiling] = []
        self.used: list[Used] = []
        self.events: dict[tuple[str, str], Event] = {}
        self.records: dict[tuple[str, str], Record] = {}
        self._made = 0

    def attempt(self, act: Callable[["Books"], None]) -> bool:
        """Do something wholly or not at all; whether it was done."""
        try:
            act(copy.deepcopy(self))
        except Refused:
            return False
        act(self)
        return True

    # What is there.

    def held(self, wallet: str) -> Fraction:
        """What open holds keep of a wallet."""
        return sum(
            (one.amount for one in self.holds.values() if one.state == "open" and one.payer == wallet), Fraction()
        )

    def available(self, wallet: str) -> Fraction:
        """What a hold may take."""
        return self.wallets[wallet].room - self.held(wallet)

    def spent(self, ceiling: Ceiling, *, since: datetime | None = None) -> Fraction:
        """What counts against a ceiling now, or what was used since an instant."""
        start = since or ceiling.begins(self.now, self.wallets[ceiling.owner].zone)
        return sum(
            (
                one.usd if ceiling.unit == "usd" else Fraction(one.tokens)
                for one in self.used
                if one.at >= start and ceiling.covers(one.who)
            ),
            Fraction(0),
        )

    def held_under(self, ceiling: Ceiling) -> Fraction:
        """What open holds keep of a ceiling."""
        return sum(
            (
                one.amount if ceiling.unit == "usd" else Fraction(one.tokens)
                for one in self.holds.values()
                if one.state == "open" and ceiling in one.ceilings
            ),
            Fraction(0),
        )

    # What happens of itself, when a wallet is touched.

    def settle(self, name: str) -> None:
        """Begin the lots whose time has come, then end those whose time is over."""
        wallet = self.wallets[name]
        due = [lot for lot in wallet.lots if not lot.begun and lot.begins <= self.now]
        for lot in sorted(due, key=lambda lot: lot.begins):
            self._begin(wallet, lot)
        self._end(wallet)

    def _begin(self, wallet: Wallet, lot: Lot) -> None:
        lot.begun, lot.left = True, lot.amount
        _move(wallet, SOURCES[lot.kind], "wallet", lot.amount)
        self._end(wallet)
        self._repay(wallet)

    def _end(self, wallet: Wallet) -> None:
        for lot in wallet.open:
            if lot.ends <= self.now:
                _move(wallet, "wallet", "breakage", lot.left)
                lot.left = Fraction(0)

    def _repay(self, wallet: Wallet) -> None:
        """Credit for any model pays what is owed, at once."""
        paid = _take(wallet.open, wallet.owed, lambda lot: not lot.models)
        wallet.owed -= sum(paid.values(), Fraction(0))
        _move(wallet, "wallet", "overdraft", sum(paid.values(), Fraction(0)))

    # Credit.

    def give(self, wallet: str, lot: Lot) -> None:
        """Add credit; the same under the same name again changes nothing, another is refused."""
        mine = self.wallets[wallet]
        known = next((one for one in mine.lots if one.name == lot.name), None)
        if known is not None:
            if _story(known) != _story(lot):
                raise Refused
            return
        self.settle(wallet)
        mine.lots.append(lot)
        if lot.begins <= self.now:
            self._begin(mine, lot)

    def refund(self, wallet: str, amount: Fraction) -> None:
        """Pay purchased credit back; nothing else is ever paid back."""
        self.settle(wallet)
        purchased = [lot for lot in self.wallets[wallet].open if lot.kind == "purchased"]
        if sum((lot.left for lot in purchased), Fraction(0)) < amount:
            raise Refused
        _take(purchased, amount)
        _move(self.wallets[wallet], "wallet", "stripe_clearing", amount)

    def debit(self, wallet: str, amount: Fraction) -> None:
        """Take money for no model in particular; what is not there is owed."""
        self.settle(wallet)
        self._spend(wallet, amount, "", "adjustments")

    def write_off(self, wallet: str, amount: Fraction) -> None:
        """Forgive what is owed, at most all of it."""
        self.settle(wallet)
        mine = self.wallets[wallet]
        if amount > mine.owed:
            raise Refused
        _move(mine, "write_offs", "wallet", amount)
        _move(mine, "wallet", "overdraft", amount)
        mine.owed -= amount

    # Holds.

    def place(self, id: str, asked: Hold, *, fallback: str) -> None:
        """Set money aside: from the organization's wallet, or from the personal one where that may pay instead."""
        owner = self.wallets[asked.who.owner]
        self.settle(asked.who.owner)
        if owner.fallback and fallback:
            self.settle(fallback)
        self.holds[id] = asked
        if owner.enforcement == "off" and not owner.frozen:
            asked.payer, asked.amount = asked.who.owner, Fraction(0)
            return
        asked.state = "asked"
        candidates = [asked.who.owner, *([fallback] if owner.fallback and fallback else [])]
        payer = next((name for name in candidates if self._can_pay(name, asked, owner.enforcement)), None)
        if payer is None:
            raise Refused
        asked.payer = payer
        asked.ceilings = [one for one in self.ceilings if one.covers(asked.who)]
        for one in asked.ceilings:
            wanted = asked.amount if one.unit == "usd" else asked.tokens
            if self.spent(one) + self.held_under(one) + wanted > one.most:
                raise Refused
        asked.state = "open"

    def _can_pay(self, name: str, asked: Hold, enforcement: str) -> bool:
        wallet = self.wallets[name]
        if wallet.blocked or not asked.amount:
            return not wallet.blocked
        if enforcement == "soft":
            return wallet.room > 0
        if self.available(name) < asked.amount:
            return False
        # What ends before the hold does is not counted on, and what pays for certain models only for those.
        lasting = copy.deepcopy([lot for lot in wallet.open if lot.ends > asked.ends])
        if len(lasting) == len(wallet.open) and not any(lot.models for lot in lasting):
            return True
        short = Fraction(0)
        # The oldest first, which their ids tell: of those placed at the same time none knew of the other.
        oldest = [one for _, one in sorted(self.holds.items(), key=lambda named: named[0])]
        for one in [*(one for one in oldest if one.state == "open" and one.payer == name), asked]:
            short += one.amount - sum(_take(lasting, one.amount, _pays(one.model)).values(), Fraction(0))
        return wallet.owed + short <= wallet.limit

    def end(self, id: str, state: str) -> None:
        """A hold ends, once."""
        if self.holds[id].state == "open":
            self.holds[id].state = state

    def expire(self, owner: str) -> None:
        """An organization's holds whose time is over end."""
        for id, one in self.holds.items():
            if one.who.owner == owner and one.ends < self.now:
                self.end(id, "expired")

    # Usage.

    def charge(self, events: Sequence[Event]) -> list[str]:
        """The verdict of each event: first the holds end that new ones name, then each is charged after the other."""
        new: dict[tuple[str, str], Event] = {}
        for event in events:
            if (event.who.owner, event.id) not in self.events:
                new.setdefault((event.who.owner, event.id), event)
        captured: dict[str, str] = {}
        # Usage captures its hold; what failed for nothing settles nothing, but nobody waits for it any more.
        for event in sorted(new.values(), key=lambda event: event.kind != "usage"):
            hold = self.holds.get(event.hold)
            if hold is None or event.kind == "unpriced":
                continue
            if hold.who.owner == event.who.owner and hold.state == "open":
                hold.state = "captured" if event.kind == "usage" else "released"
                captured[event.id] = hold.payer
                self.settle(hold.payer)
                self.settle(event.who.owner)
        return [self._charge(event, captured.get(event.id)) for event in events]

    def _charge(self, event: Event, hold_payer: str | None) -> str:
        key = event.who.owner, event.id
        if key in self.events:
            if event != self.events[key]:
                return "conflict"
            return "quarantined" if event.kind == "unpriced" else "duplicate"
        self.events[key] = event
        if event.kind != "usage":
            return "quarantined" if event.kind == "unpriced" else "created"
        self.settle(event.who.owner)
        payer = hold_payer or self._payer(event)
        record = Record(event.who, payer, event.model, event.cost, event.tokens)
        record.paid = self._spend(payer, event.cost, event.model, "revenue")
        self.records[key] = record
        self.used.append(Used(self.now, event.who, event.cost, event.tokens))
        return "created"

    def _payer(self, event: Event) -> str:
        """The organization; if it may fall back and cannot pay but the personal wallet can, that one."""
        own, other = event.who.owner, event.fallback
        if not other or not self.wallets[own].fallback:
            return own
        self.settle(other)
        return other if self.available(own) < event.cost <= self.available(other) else own

    def _spend(self, name: str, amount: Fraction, model: str, account: str) -> dict[Lot, Fraction]:
        """Take money from the lots that pay for a model; what they do not cover is owed."""
        wallet = self.wallets[name]
        paid = _take(wallet.open, amount, _pays(model))
        short = amount - sum(paid.values(), Fraction(0))
        wallet.owed += short
        _move(wallet, "overdraft", "wallet", short)
        _move(wallet, "wallet", account, amount)
        return paid

    def void(self, owner: str, event_id: str) -> bool:
        """Take a charge back, once; whether this was the time."""
        record = self.records[owner, event_id]
        if record.voided:
            return False
        record.voided = True
        self.amend(owner, event_id, -record.cost)
        self.used[-1] = Used(self.now, record.who, self.used[-1].usd, -record.tokens)
        return True

    def amend(self, owner: str, event_id: str, difference: Fraction) -> None:
        """Charge a record's cost anew: more is spent like usage, less goes back to where it came from."""
        record = self.records[owner, event_id]
        self.settle(owner)
        if difference:
            self.settle(record.payer)
        if difference > 0:
            for lot, amount in self._spend(record.payer, difference, record.model, "revenue").items():
                record.paid[lot] = record.paid.get(lot, Fraction(0)) + amount
        elif difference < 0:
            self._give_back(record, -difference)
        record.cost += difference
        self.used.append(Used(self.now, record.who, difference, 0))

    def _give_back(self, record: Record, amount: Fraction) -> None:
        """What nobody had paid for yet is new credit; the rest returns to the lots, to the last that paid first."""
        wallet = self.wallets[record.payer]
        _move(wallet, "revenue", "wallet", amount)
        loose = min(amount, record.cost - sum(record.paid.values(), Fraction(0)))
        if loose:
            self._made += 1
            wallet.lots.append(Lot(f"returned {self._made}", "adjustment", loose, left=loose, begun=True))
        left = amount - loose
        for lot in reversed(list(record.paid)):
            back = min(left, record.paid[lot])
            lot.left += back
            record.paid[lot] -= back
            left -= back
        self._end(wallet)
        self._repay(wallet)


def _take(lots: Iterable[Lot], amount: Fraction, fits: Callable[[Lot], bool] = lambda lot: True) -> dict[Lot, Fraction]:
    """Take up to an amount from the lots that fit, one after the other; what each gave."""
    taken = {}
    for lot in lots:
        part = min(lot.left, amount)
        if part and fits(lot):
            lot.left -= part
            amount -= part
            taken[lot] = part
    return taken


def _pays(model: str) -> Callable[[Lot], bool]:
    return lambda lot: not lot.models or model in lot.models


def _move(wallet: Wallet, debit: str, credit: str, amount: Fraction) -> None:
    wallet.accounts[debit] -= amount
    wallet.accounts[credit] += amount


def _story(lot: Lot) -> tuple[object, ...]:
    return lot.kind, lot.amount, lot.priority, lot.begins, lot.ends, lot.models
