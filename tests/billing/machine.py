"""Anything that can happen to wallets, in any order, against a model in plain Python (``tests/billing/model.py``).

After every act the database must hold what the model holds: what is left of each grant, what is owed,
every account's sum, holds and ceilings. Time stands still between the acts, to the microsecond.
``Crowd`` lets several acts happen at once; then the database must hold what the model holds after
the same acts in some order, and every act must have been answered as in that order.
"""

import copy
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from itertools import count
from typing import Any, ClassVar, NamedTuple, TypeVar
from uuid import UUID

from django.db import transaction
from django.test import override_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, FlakyStrategyDefinition
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from billing import adjustments, budgets, corrections, grants, holds, invariants, tracing, wallets
from billing.budgets import Counted
from billing.grants import Conditions
from billing.ledger import Terms, TransferConflict
from billing.models import Correction
from core import errors, ids, money
from core.transactions import retry
from metering.attribution import Attributed
from metering.models import UsageRecord
from metering.usage import started_at
from orgs.audit import system
from orgs.models import Organization
from tests.billing.model import FOR_EVER, Books, Ceiling, Event, Hold, Lot, Wallet, Who
from tests.billing.world import part_of, record, rows, side_by_side
from tests.books import Books as OwnBooks
from tests.clocks import Clock
from tests.metering import world as metering

BY = system("tests")
PICO = Fraction(1, 10**12)
# A million tokens of either cost a dime, so that sums meet each other often; the third is free, the last has no price.
DIME = Fraction(1, 10)
MODELS = ("mistral-small-2506", "text-embedding-ada-002")
FREE, UNPRICED = "gemma-4-31b-it", "deepseek-coder"
SWEEPS_MAX = 10
STEPS = 40
# A crowd plays seed after seed, a few examples of each.
EXAMPLES_A_SEED = 10
SEEDS_MAX = 2_000
ZONES = {"acme": "America/New_York", "beta": "UTC", "ann": "UTC"}
PEOPLE = ("", "", "k1", "k2")

owners = st.sampled_from(("acme", "acme", "beta", "ann"))
dimes = st.integers(1, 12)
seldom = st.sampled_from((False, False, True))
offsets = st.sampled_from((0, 0, 0, 1, -1))
whichever = st.integers(0, 30)
minutes = st.sampled_from((None, 10, 10, 60, 60 * 24))

# Whose, model, millions of tokens, key, what about it, which one (of those before, of the holds), holds, fallback.
Sent = tuple[str, str, int, str, str, int, bool, bool]

# What is told of each kind of act.
CREDIT: dict[str, Any] = {
    "owner": owners, "kind": st.sampled_from(("promotional", "purchased", "purchased", "adjustment")),
    "amount": st.sampled_from((1, 1, 2, 3, 5, 8)), "offset": offsets, "priority": st.sampled_from((0, 0, 0, -1, 1)),
    "begins": st.sampled_from((None, None, 10, 60)),
    "ends": minutes, "models": st.sampled_from(((), (), (), (), (), (), MODELS[:1], MODELS[1:], MODELS)),
}  # fmt: skip
ADJUSTMENT: dict[str, Any] = {
    "owner": owners, "kind": st.sampled_from(("credit", "debit", "refund", "refund", "write_off", "write_off")),
    "amount": dimes, "offset": offsets, "exactly": st.booleans(),
}  # fmt: skip
FREEZE: dict[str, Any] = {"owner": owners, "frozen": st.booleans()}
CEILING: dict[str, Any] = {
    "owner": st.sampled_from(("acme", "acme", "beta")), "of": st.sampled_from(("", "", "k1")),
    "window": st.sampled_from(("5h", "1d", "7d", "month")), "unit": st.sampled_from(("usd", "usd", "tokens")),
    "most": st.integers(1, 30),
}  # fmt: skip
HOLD: dict[str, Any] = {
    "owner": owners, "model": st.sampled_from((*MODELS, *MODELS, FREE)), "amount": st.integers(0, 12),
    "offset": offsets, "exactly": seldom, "seconds": st.sampled_from((60, 600, 3600)), "who": st.sampled_from(PEOPLE),
    "fallback": st.booleans(),
}  # fmt: skip
PLACE: dict[str, Any] = {"place": whichever}
BATCH: dict[str, Any] = {
    "batch": st.lists(
        st.tuples(
            owners, st.sampled_from((*MODELS, *MODELS, *MODELS, FREE, UNPRICED)), st.integers(0, 9),
            st.sampled_from(PEOPLE), st.sampled_from(("new", "new", "new", "new", "failed", "again", "changed")),
            whichever, st.booleans(), st.booleans(),
        ),
        min_size=1, max_size=4,
    )
}  # fmt: skip
EVENT: dict[str, Any] = {
    "owner": owners, "model": st.sampled_from(MODELS), "millions": st.integers(1, 9), "named": st.booleans(),
    "place": whichever,
}  # fmt: skip
SWEEP: dict[str, Any] = {"which": st.sampled_from(("grants", "holds"))}


def usd(amount: Fraction) -> Any:
    """An amount as the product takes it."""
    pico = amount / PICO
    assert pico.denominator == 1
    return money.from_pico(int(pico))


class Differs(AssertionError):
    """The product and the model part."""


class Act(NamedTuple):
    """What the product does, for an answer, and how the model does the same in one step or several.

    Each step says whether the model answers as the product did.
    """

    run: Callable[[], Any]
    steps: Sequence[Callable[[Books, Any], bool]]


def always(verb: Callable[[Books], None]) -> Callable[[Books, Any], bool]:
    """What the model does whatever the product answers."""

    def step(books: Books, _: Any) -> bool:
        verb(books)
        return True

    return step


class Machine(RuleBasedStateMachine):
    """Acts on three wallets: an organization that may fall back to a person's, another one, and the person's.

    What is drawn never depends on what happened: rules that find nothing to act on do nothing.
    """

    clock: ClassVar[Clock]
    books: ClassVar[OwnBooks]
    acts: ClassVar[int]
    broken: ClassVar[list[str]]
    differences: ClassVar[list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.model = Books(self.clock.at)
        self.ids: dict[str, UUID] = {}
        self.budgets: dict[tuple[str, ...], UUID] = {}
        self.sent: list[tuple[Attributed, Event]] = []
        self.numbers = count(1)
        self.fresh = False
        self.agreed = True
        for name, zone in ZONES.items():
            slug = f"{'personal-' if name == 'ann' else ''}{name}-{ids.new().hex}"
            made = Organization.objects.create(slug=slug, name=name, time_zone=zone)
            self.ids[name] = made.pk
            self.model.wallets[name] = Wallet(zone=zone)
        self.part = {(owner, name): part_of(self.ids[owner]) for owner in ZONES for name in ("k1", "k2")}
        for name, amount in (("acme", 20), ("ann", 10)):
            self.perform([self._giving(name, Lot("first", "purchased", amount * DIME, begins=self.clock.at))])

    # Time.

    def moment(self) -> None:
        """A moment later, unless time has just been moved to a moment of its own."""
        if not self.fresh:
            self.clock.move(timedelta(milliseconds=1))
        self.fresh = False
        self.model.now = self.clock.at

    @rule(by=st.sampled_from((1, 60, 300, 600, 3600, 5 * 3600, 24 * 3600)))
    def time_passes(self, by: int) -> None:
        self.clock.move(timedelta(seconds=by))

    @rule(late=st.sampled_from((-1, 0, 0, 0, 1)), place=whichever, swept=st.sampled_from(("", "grants", "holds")))
    def something_is_about_to_end(self, late: int, place: int, swept: str) -> None:
        """To the very microsecond at which a grant begins or ends, or a hold ends, or one beside it."""
        changes = {lot.ends for wallet in self.model.wallets.values() for lot in wallet.lots if lot.ends < FOR_EVER}
        changes |= {lot.begins for wallet in self.model.wallets.values() for lot in wallet.lots}
        changes |= {hold.ends for hold in self.model.holds.values() if hold.state == "open"}
        later = self.clock.at + timedelta(milliseconds=2)
        found = sorted(change for change in changes if change > later)
        if found:
            self.clock.move(found[place % min(len(found), 2)] + timedelta(microseconds=late) - self.clock.at)
            self.fresh = True
        if swept:
            self.one(self.sweep, {"which": swept})

    # One act at a time.

    @rule(**SWEEP)
    def sweepers_run(self, **told: Any) -> None:
        self.one(self.sweep, told)

    @rule(**CREDIT)
    def credit_is_given(self, **told: Any) -> None:
        self.one(self.credit, told)

    @rule(place=whichever, change=st.sampled_from((None, None, "amount", "priority", "kind")))
    def credit_is_given_again(self, **told: Any) -> None:
        self.one(self.credit_again, told)

    @rule(**ADJUSTMENT)
    def finance_acts(self, **told: Any) -> None:
        self.one(self.adjustment, told)

    @rule(
        owner=owners, limit=st.sampled_from((0, 0, 3, 10)), frozen=seldom, fallback=st.booleans(),
        enforcement=st.sampled_from(("strict", "strict", "strict", "strict", "soft", "off")),
    )  # fmt: skip
    def terms_change(self, owner: str, frozen: bool, **told: Any) -> None:
        self.one(self.terms, {"owner": owner, **told})
        self.one(self.freeze, {"owner": owner, "frozen": frozen})

    @rule(lifted=seldom, **CEILING)
    def a_ceiling_is_set_or_lifted(self, lifted: bool, **told: Any) -> None:
        self.one(self.no_ceiling if lifted and self.model.ceilings else self.ceiling, told)

    @rule(**HOLD)
    def a_hold_is_placed(self, **told: Any) -> None:
        self.one(self.hold, told)

    @rule(**PLACE)
    def a_hold_is_released(self, **told: Any) -> None:
        self.one(self.release, told)

    @rule(**BATCH)
    def events_arrive(self, **told: Any) -> None:
        """New ones, with and without the holds that they name, and ones that came before, changed or not."""
        self.one(self.arrival, told)

    @rule(**EVENT)
    def an_event_arrives(self, **told: Any) -> None:
        """As it mostly is: one at a time, with what it had set aside, and perhaps somebody else to pay for it."""
        self.one(self.event, told)

    @rule(**PLACE)
    def a_charge_is_voided(self, **told: Any) -> None:
        self.one(self.void, told)

    @rule(cost=st.integers(0, 9), **PLACE)
    def a_charge_is_rated_anew(self, **told: Any) -> None:
        self.one(self.rerating, told)

    def one(self, make: Callable[..., Act | None], told: dict[str, Any]) -> None:
        """Do something, if there is anything to do it to."""
        self.moment()
        act = make(**told)
        if act is not None:
            self.perform([act])

    # What acts are.

    def sweep(self, which: str) -> Act:
        """Whatever is over ends: an organization at a time, so a step of the model for each."""

        def grants_of(owner: str) -> Callable[[Books, Any], bool]:
            return always(lambda books: books.settle(owner))

        def holds_of(owner: str) -> Callable[[Books, Any], bool]:
            return always(lambda books: books.expire(owner))

        if which == "grants":
            return Act(lambda: sweep(grants.settle_due), [grants_of(owner) for owner in self.due_grants()])
        return Act(lambda: sweep(holds.expire_due), [holds_of(owner) for owner in self.due_holds()])

    def due_grants(self) -> list[str]:
        """Whose lots begin or end by now."""
        now = self.model.now
        return [
            name
            for name, wallet in self.model.wallets.items()
            if any(lot.begins <= now if not lot.begun else lot.left and lot.ends <= now for lot in wallet.lots)
        ]

    def due_holds(self) -> list[str]:
        """Whose holds are over by now."""
        over = [one for one in self.model.holds.values() if one.state == "open" and one.ends < self.model.now]
        return sorted({one.who.owner for one in over})

    def credit(
        self, owner: str, kind: str, amount: int, offset: int, priority: int, begins: int | None, ends: int | None,
        models: tuple[str, ...],
    ) -> Act:  # fmt: skip
        """A grant, perhaps for later, for a time, or for certain models."""
        start = self.clock.at + timedelta(minutes=begins or 0)
        end = FOR_EVER if ends is None else start + timedelta(minutes=ends)
        name = f"g{next(self.numbers)}"
        return self._giving(owner, Lot(name, kind, amount * DIME + offset * PICO, priority, start, end, models))

    def credit_again(self, place: int, change: str | None) -> Act | None:
        """A grant that was made before, perhaps told differently."""
        known = [
            (owner, lot)
            for owner, wallet in self.model.wallets.items()
            for lot in wallet.lots
            if lot.name.startswith("g")
        ]
        if not known:
            return None
        owner, lot = known[place % len(known)]
        other: dict[str, Any] = {"amount": lot.amount + DIME, "priority": lot.priority + 1, "kind": "adjustment"}
        changed = {} if change is None else {change: other[change]}
        return self._giving(owner, replace(lot, left=Fraction(0), begun=False, **changed))

    def _giving(self, owner: str, lot: Lot) -> Act:
        conditions = Conditions(lot.priority, lot.begins, None if lot.ends == FOR_EVER else lot.ends, lot.models)

        @transaction.atomic
        def give() -> None:
            grants.give(
                organization_id=self.ids[owner], kind=lot.kind, amount_usd=usd(lot.amount), reference=lot.name,
                actor="tests", reason="given", conditions=conditions,
            )  # fmt: skip

        def run() -> bool:
            try:
                retry(give)
            except TransferConflict:
                return False
            return True

        return Act(run, [lambda books, given: books.attempt(lambda own: own.give(owner, replace(lot))) is given])

    def adjustment(self, owner: str, kind: str, amount: int, offset: int, exactly: bool) -> Act | None:
        """What finance does by hand."""
        wallet = self.model.wallets[owner]
        sought = amount * DIME
        if exactly and kind == "refund":
            sought = sum((lot.left for lot in wallet.open if lot.kind == "purchased"), Fraction(0))
        elif exactly and kind == "write_off":
            sought = wallet.owed
        sought += offset * PICO
        if sought <= 0:
            return None

        def run() -> str:
            try:
                act = retry(
                    lambda: adjustments.ask(
                        organization_id=self.ids[owner], kind=kind, amount_usd=usd(sought), reason="tested", by=BY
                    )
                )
            except errors.OutOfRange:
                return ""
            return f"adjustment:{act.pk}"

        def step(books: Books, name: str) -> bool:
            does: dict[str, Callable[[Books], None]] = {
                "credit": lambda own: own.give(owner, Lot(name, "adjustment", sought, begins=own.now)),
                "debit": lambda own: own.debit(owner, sought),
                "refund": lambda own: own.refund(owner, sought),
                "write_off": lambda own: own.write_off(owner, sought),
            }
            return books.attempt(does[kind]) is bool(name)

        return Act(run, [step])

    def terms(self, owner: str, limit: int, fallback: bool, enforcement: str) -> Act:
        """Who pays, how strictly, and down to where."""
        terms = Terms(
            mode="fallback" if fallback else "strict", enforcement=enforcement, credit_limit_usd=usd(limit * DIME)
        )

        def step(books: Books, _: Any) -> bool:
            wallet = books.wallets[owner]
            wallet.limit, wallet.fallback, wallet.enforcement = limit * DIME, fallback, enforcement
            return True

        return Act(
            lambda: wallets.change_terms(organization_id=self.ids[owner], terms=terms, reason="tested", by=BY), [step]
        )

    def freeze(self, owner: str, frozen: bool) -> Act:
        """A wallet is frozen, or is no more."""
        change = wallets.freeze if frozen else wallets.unfreeze

        def step(books: Books, _: Any) -> bool:
            books.wallets[owner].frozen = frozen
            return True

        return Act(lambda: retry(lambda: change(organization_id=self.ids[owner], reason="tested", by=BY)), [step])

    def ceiling(self, owner: str, of: str, window: str, unit: str, most: int) -> Act:
        """A ceiling is set, or changed."""
        subject = "key" if of else "organization"
        limit = most * DIME if unit == "usd" else Fraction(most * 1_000_000)
        sought = Ceiling(owner, subject, of, window, unit, limit)

        def run() -> None:
            made = budgets.set_ceiling(
                organization_id=self.ids[owner], subject=subject,
                subject_id=self.part[owner, of] if of else self.ids[owner],
                window=window, unit=unit, ceiling=usd(limit), by=BY,
            )  # fmt: skip
            self.budgets[sought.story] = made.pk

        def step(books: Books, _: Any) -> bool:
            known = next((one for one in books.ceilings if one.story == sought.story), None)
            if known is None:
                books.ceilings.append(replace(sought))
            else:
                known.most = limit
            return True

        return Act(run, [step])

    def no_ceiling(self, owner: str, of: str, window: str, unit: str, most: int) -> Act:
        """This ceiling, or else the last one set, is lifted."""
        wanted = Ceiling(owner, "key" if of else "organization", of, window, unit).story
        known = next((one for one in self.model.ceilings if one.story == wanted), self.model.ceilings[-1]).story

        def step(books: Books, _: Any) -> bool:
            books.ceilings = [one for one in books.ceilings if one.story != known]
            return True

        return Act(lambda: budgets.remove_ceiling(budget_id=self.budgets.pop(known), by=BY), [step])

    def hold(
        self, owner: str, model: str, amount: int, offset: int, exactly: bool, seconds: int, who: str, fallback: bool
    ) -> Act | None:
        """Money is set aside for a request."""
        wanted = (self.model.available(owner) if exactly else amount * DIME) + offset * PICO
        if wanted < 0:
            return None
        # Whether the other wallet is touched at all, and so settled, depends on who comes first: it has nothing due.
        other = "ann" if fallback and owner == "acme" and "ann" not in self.due_grants() else ""
        tokens = amount * 1_000_000
        whose = Counted(self.ids[owner], None, None, self.part.get((owner, who)), usd(wanted), tokens)
        asked = holds.Asked(whose, model, 100, seconds, self.ids.get(other))
        ends = self.clock.at + timedelta(seconds=seconds)

        @transaction.atomic
        def place() -> str:
            return str(holds.place(asked).hold.pk)

        def run() -> str:
            try:
                return retry(place)
            except (errors.OrgWalletEmpty, errors.InsufficientQuota, errors.BudgetExceeded):
                return ""

        def step(books: Books, id: str) -> bool:
            hold = Hold(Who(owner, who), "", model, wanted, tokens, ends, [])
            return books.attempt(lambda own: own.place(id, copy.copy(hold), fallback=other)) is bool(id)

        return Act(run, [step])

    def release(self, place: int) -> Act | None:
        """A hold is given up."""
        id = self.some_hold(place)
        if not id:
            return None
        owner = self.ids[self.model.holds[id].who.owner]

        @transaction.atomic
        def release() -> None:
            holds.release(organization_id=owner, hold_id=UUID(id))

        return Act(lambda: retry(release), [always(lambda books: books.end(id, "released"))])

    def some_hold(self, place: int) -> str:
        """One of the latest holds, if there are any."""
        known = sorted(self.model.holds)
        return known[-1 - place % min(len(known), 6)] if known else ""

    def arrival(self, batch: list[Sent]) -> Act:
        """A batch of events."""
        number = next(self.numbers)
        items: list[Attributed] = []
        told: list[Event] = []
        for owner, model, millions, who, kind, place, named, fallback in batch:
            if kind in {"again", "changed"} and self.sent:
                item, event = self.sent[-1 - place % min(len(self.sent), 8)]
                if kind == "changed":
                    event = replace(event, tokens=event.tokens + 1_000_000)
                    item = self.item(event)
                items.append(item._replace(place=len(items)))
                told.append(event)
                continue
            priced = "unpriced" if model == UNPRICED else "usage"
            event = Event(
                f"{number}-{len(items)}", Who(owner, who), model, millions * DIME * (model in MODELS),
                millions * 1_000_000, "failure" if kind == "failed" else priced,
                self.some_hold(place) if named else "", "ann" if fallback and owner == "acme" else "",
            )  # fmt: skip
            items.append(self.item(event)._replace(place=len(items)))
            told.append(event)
            self.sent.append((items[-1], event))
        return Act(
            lambda: [verdict.status.value for verdict in record(items)],
            [lambda books, verdicts: books.charge(told) == verdicts],
        )

    def event(self, owner: str, model: str, millions: int, named: bool, place: int) -> Act:
        """A batch of one, by whoever asked for the hold that it names."""
        hold = self.some_hold(place) if named else ""
        asker = self.model.holds[hold].who if hold else Who(owner)
        return self.arrival([(asker.owner, model, millions, asker.key, "new", place, bool(hold), True)])

    def item(self, event: Event) -> Attributed:
        """An event as the product takes it."""
        made = metering.event(
            event_id=event.id, model=event.model, input_tokens=event.tokens, cached_input_tokens=0,
            output_tokens=0, occurred_at=self.clock.at, status=429 if event.kind == "failure" else 200,
        )  # fmt: skip
        (plain,) = metering.attributed(self.ids[event.who.owner], made)
        return plain._replace(
            api_key_id=self.part.get((event.who.owner, event.who.key)), fallback_id=self.ids.get(event.fallback),
            authorization_id=UUID(event.hold) if event.hold else None,
        )  # fmt: skip

    def void(self, place: int) -> Act | None:
        """A charge is taken back."""
        key = self.charged(place)
        if key is None:
            return None
        owner, event_id = key

        def run() -> bool:
            return corrections.void(organization_id=self.ids[owner], event_id=event_id, reason="tested", by=BY).first

        return Act(run, [lambda books, first: books.void(owner, event_id) is first])

    def rerating(self, place: int, cost: int) -> Act | None:
        """A charge is rated anew."""
        key = self.charged(place)
        if key is None or self.model.records[key].voided:
            return None
        owner, event_id = key
        cause = f"act {next(self.numbers)}"
        difference = cost * DIME - self.model.records[key].cost

        @transaction.atomic
        def run() -> None:
            row = UsageRecord.objects.get(organization_id=self.ids[owner], event_id=event_id, corrects_id__isnull=True)
            corrections.hold_records(self.ids[owner])
            corrections.post(
                self.ids[owner], [corrections.Change(row, usd(difference), row.price_id, row.rule_id, negate=False)],
                kind=Correction.Kind.RERATING, cause=cause, actor="tests", reason="tested", at=started_at(),
            )  # fmt: skip

        return Act(run, [always(lambda books: books.amend(owner, event_id, difference))])

    def charged(self, place: int) -> tuple[str, str] | None:
        """One of the latest charges, if there are any, seldom one that was taken back."""
        found = [key for key, one in self.model.records.items() if not one.voided or not place % 10]
        found = found or list(self.model.records)
        return found[-1 - place % min(len(found), 6)] if found else None

    # What must hold.

    def perform(self, acts: Sequence[Act]) -> None:
        """Let acts happen, all at once, in the product and in the model."""
        type(self).acts += len(acts)
        self.agreed = False
        if len(acts) == 1:
            (act,) = acts
            answer = act.run()
            for step in act.steps:
                if not step(self.model, answer):
                    self.object(f"the product answered {answer!r}, the model otherwise")
            self.agree()
        else:
            answers = side_by_side(self.books, *(act.run for act in acts))
            pending = [(step, answer) for act, answer in zip(acts, answers, strict=True) for step in act.steps]
            stored = self.stored()
            explained = self.explained(self.model, pending, stored)
            if explained is None:
                before = shown(self.expected(self.model))
                self.object(f"no order of {len(acts)} acts on {before} answers {answers} and leaves {shown(stored)}")
            else:
                self.model = explained
        self.agreed = True

    def explained(
        self, model: Books, pending: Sequence[tuple[Callable[[Books, Any], bool], Any]], stored: dict[str, Any]
    ) -> Books | None:
        """The model after the steps in an order that answers as the product did and leaves what is stored."""
        if not pending:
            # Which of two charges found too little is told by who paid for them alone.
            new = model.records.keys() - self.model.records.keys()
            return model if self.expected(model) == stored and not self.misattributed(model, new) else None
        for place, (step, answer) in enumerate(pending):
            after = copy.deepcopy(model)
            if step(after, answer):
                found = self.explained(after, [*pending[:place], *pending[place + 1 :]], stored)
                if found is not None:
                    return found
        return None

    def agree(self) -> None:
        """The database holds what the model holds."""
        stored, expected = self.stored(), self.expected(self.model)
        differing = {part: (stored[part], expected[part]) for part in stored if stored[part] != expected[part]}
        if differing:
            self.object(told(differing))

    def object(self, difference: str) -> None:
        """Note that product and model part. Raises ``Differs``."""
        self.differences.append(difference)
        raise Differs(difference)

    def expected(self, model: Books) -> dict[str, Any]:
        """What a model holds."""
        return {
            "wallets": {
                name: (one.posted, model.held(name), one.owed, one.limit, one.frozen)
                for name, one in model.wallets.items()
            },
            "accounts": {
                name: {account: sum_ for account, sum_ in one.accounts.items() if sum_}
                for name, one in model.wallets.items()
            },
            "grants": {
                (name, lot.name): lot.left if lot.begun else lot.amount
                for name, one in model.wallets.items()
                for lot in one.lots
            },
            "holds": {id: (one.state, one.payer, one.amount) for id, one in model.holds.items()},
            "ceilings": {
                self.budgets[one.story]: (one.most, model.held_under(one), model.spent(one)) for one in model.ceilings
            },
        }

    def stored(self) -> dict[str, Any]:
        """What the database holds."""
        names = {id: name for name, id in self.ids.items()}
        mine = list(names)
        found = {
            names[row[0]]: (*map(Fraction, row[1:5]), row[5])
            for row in rows(
                "SELECT organization_id, posted_usd, held_usd, overdraft_usd, credit_limit_usd, frozen_at IS NOT NULL"
                " FROM wallet WHERE organization_id = ANY(%s)",
                mine,
            )
        }
        nothing = (Fraction(0),) * 4
        accounts: dict[str, dict[str, Fraction]] = {name: {} for name in self.ids}
        for owner, account, amount in rows(
            "SELECT organization_id, account, sum(amount) FROM transfer, LATERAL (VALUES (debit, -amount_usd),"
            " (credit, amount_usd)) AS side (account, amount) WHERE organization_id = ANY(%s) GROUP BY 1, 2",
            mine,
        ):
            if amount:
                accounts[names[owner]][account] = Fraction(amount)
        lots: dict[tuple[str, str], Fraction] = {}
        returned = 0
        for owner, reference, left in rows(
            "SELECT organization_id, reference, remaining_usd FROM credit_grant WHERE organization_id = ANY(%s)"
            " ORDER BY id",
            mine,
        ):
            if reference.partition(":")[0] in {"void", "rerate_down"}:
                returned += 1
                reference = f"returned {returned}"
            lots[names[owner], reference] = Fraction(left)
        return {
            "wallets": {name: found.get(name, (*nothing, False)) for name in self.ids},
            "accounts": accounts,
            "grants": lots,
            "holds": {
                str(id): (state, names[payer], Fraction(amount))
                for id, state, payer, amount in rows(
                    "SELECT id, state, payer_id, amount_usd FROM hold WHERE organization_id = ANY(%s)", mine
                )
            },
            "ceilings": {
                one.budget.pk: (Fraction(one.ceiling), Fraction(one.held), Fraction(one.spent))
                for owner in {story[0] for story in self.budgets}
                for one in budgets.standing(self.ids[owner])
            },
        }

    def misattributed(self, model: Books, keys: Collection[tuple[str, str]]) -> str:
        """The first of these records that was not paid by the grants that a model says, less what was given back."""
        for key in keys:
            charged = model.records[key]
            row = UsageRecord.objects.get(organization_id=self.ids[key[0]], event_id=key[1], corrects_id__isnull=True)
            paid = tracing.shares(row.payer_id, [row])[row.id]
            found = row.payer_id, sorted(map(Fraction, paid.values()))
            wanted = self.ids[charged.payer], sorted(amount for amount in charged.paid.values() if amount)
            if found != wanted:
                return f"{key} was paid by {found}, should be {wanted}"
        return ""

    def teardown(self) -> None:
        """Everything that is due is done, and the books are sound."""
        if not self.agreed:
            return
        for which in ("grants", "holds"):
            self.one(self.sweep, {"which": which})
        if wrong := self.misattributed(self.model, self.model.records.keys()):
            self.object(wrong)
        # Examples share a database, so what one broke would be blamed on all after it.
        if not self.broken:
            self.broken.extend(broken_invariants())


# What may happen at the same time. Amounts that depend on what another act does are told before it.
AT_ONCE = {
    "credit": CREDIT, "adjustment": ADJUSTMENT, "freeze": FREEZE, "ceiling": CEILING, "hold": HOLD, "release": PLACE,
    "arrival": BATCH, "event": EVENT, "void": PLACE, "sweep": SWEEP,
}  # fmt: skip
several = st.lists(
    st.one_of(*(st.tuples(st.just(name), st.fixed_dictionaries(told)) for name, told in AT_ONCE.items())),
    min_size=2, max_size=3,
)  # fmt: skip


class Crowd(Machine):
    """The same acts and rounds of two or three of them, each in a thread of its own."""

    @rule(acts=several, twice=seldom)
    def several_happen_at_once(self, acts: list[tuple[str, dict[str, Any]]], twice: bool) -> None:
        """Also the same act twice, as an impatient client sends it."""
        self.moment()
        # Which of two grants is older would be a matter of ids made in the same millisecond. A void may make one.
        names = [name for name, _ in acts]
        if "void" in names:
            acts = [(name, told) for place, (name, told) in enumerate(acts) if not self.is_second(names, place)]
        made = [getattr(self, name)(**told) for name, told in acts]
        some = [act for act in made if act is not None]
        if twice:
            some = [*some[:1], *some[:2]]
        if some:
            self.perform(some)

    @rule(owner=owners, asked=st.lists(st.fixed_dictionaries(HOLD), min_size=2, max_size=3))
    def holds_are_placed_at_once(self, owner: str, asked: list[dict[str, Any]]) -> None:
        """Of the same wallet."""
        self.moment()
        made = [self.hold(**{**told, "owner": owner}) for told in asked]
        if some := [act for act in made if act is not None]:
            self.perform(some)

    @rule(owner=owners, sent=st.lists(st.fixed_dictionaries(EVENT), min_size=2, max_size=3))
    def events_arrive_at_once(self, owner: str, sent: list[dict[str, Any]]) -> None:
        """Of the same organization, unless they name another one's hold."""
        self.moment()
        self.perform([self.event(**{**told, "owner": owner}) for told in sent])

    @staticmethod
    def is_second(names: Sequence[str], place: int) -> bool:
        """Whether an act may make a grant where the first void of the round may make one."""
        return names[place] in {"credit", "adjustment"} or (names[place] == "void" and "void" in names[:place])


def broken_invariants() -> list[str]:
    """What ``verify`` finds. Years go by here, and nobody prices what waits in quarantine."""
    with override_settings(QUARANTINE_ALERT_DAYS=100_000):
        return [f"{finding.name}: {finding.detail}" for finding in invariants.check() if not finding.ok]


def told(differing: dict[str, tuple[dict[Any, Any], dict[Any, Any]]]) -> str:
    """Where the database and the model part."""
    lines = []
    for part, (stored, expected) in differing.items():
        for key in stored.keys() | expected.keys():
            found, wanted = stored.get(key), expected.get(key)
            if found != wanted:
                lines.append(f"{part} {key}: {shown(found)}, should be {shown(wanted)}")
    return "; ".join(lines)


def shown(value: Any) -> str:
    """A value for people: amounts as decimals."""
    if isinstance(value, Fraction):
        return f"{usd(value)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(one)}' for key, one in sorted(value.items()))}}}"
    return str(value)


def sweep(verb: Callable[[], int]) -> None:
    """Run a sweeper until there is nothing left to do, or until it does nothing about what there is."""
    for _ in range(SWEEPS_MAX):
        if not verb():
            break


M = TypeVar("M", bound=Machine)


def cast(machine: type[M], *, books: OwnBooks, clock: Clock, only: Collection[str] = ()) -> type[M]:
    """A machine of one test's own, in its database and at its time; ``only`` these of its rules, or all."""

    class Cast(machine):  # type: ignore[misc, valid-type]
        pass

    Cast.clock, Cast.books, Cast.acts, Cast.broken, Cast.differences = clock, books, 0, [], []
    rules = {one.function.__name__ for one in machine.setup_state().rules}
    assert rules >= set(only), set(only) - rules
    for name in rules - set(only) if only else ():
        setattr(Cast, name, None)
    return Cast


def play(machine: type[Machine], *, examples: int, phases: Sequence[Phase] = (Phase.generate, Phase.shrink)) -> int:
    """Let a machine run, the same way each time; how many acts there were. Raises what it objects to."""
    _run(machine, examples=examples, phases=phases)
    assert not machine.broken, machine.broken[0]
    return machine.acts


def play_at_once(machine: type[Crowd], *, acts: int) -> int:
    """Let a crowd run until there were so many acts, seed after seed; how many. Raises what it objects to.

    What happens at once does not happen so again, and Hypothesis gives a seed up when it notices.
    """
    for seed in range(SEEDS_MAX):
        if machine.acts >= acts:
            break
        with suppress(FlakyStrategyDefinition):
            _run(machine, examples=EXAMPLES_A_SEED, phases=(Phase.generate,), seed=seed)
        assert not machine.differences, machine.differences[0]
        assert not machine.broken, machine.broken[0]
    return machine.acts


def objections(machine: type[Machine], *, examples: int) -> list[str]:
    """What a machine objects to. What else it raises is raised: a crash is no objection."""
    with suppress(Differs, Flaky):
        _run(machine, examples=examples, phases=(Phase.generate,))
    return machine.differences


def objections_at_once(machine: type[Crowd]) -> list[str]:
    """What a crowd objects to, seed after seed until it does."""
    for seed in range(SEEDS_MAX):
        with suppress(Differs, Flaky):
            _run(machine, examples=EXAMPLES_A_SEED, phases=(Phase.generate,), seed=seed)
        if machine.differences:
            break
    return machine.differences


def _run(machine: type[Machine], *, examples: int, phases: Sequence[Phase], seed: int | None = None) -> None:
    # What ``hypothesis.seed`` sets on a test.
    machine._hypothesis_internal_use_seed = seed
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), report_multiple_bugs=False, phases=phases,
        ),
    )  # fmt: skip
