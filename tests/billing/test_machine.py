"""Anything that can happen to wallets, in any order, against a model in plain Python (``tests/billing/model.py``).

After every act the database must hold what the model holds: what is left of each grant, what is owed,
every account's sum, holds and ceilings. Time stands still between the acts, to the microsecond.
A checker that finds nothing proves nothing, so mistakes are planted in the product, one at a time, and
each must be found.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction
from django.test import override_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from billing import adjustments, budgets, corrections, grants, holds, invariants, tracing, wallets
from billing.budgets import Counted
from billing.grants import Conditions
from billing.ledger import Terms, TransferConflict
from billing.models import Correction
from core import errors, ids, money
from metering.attribution import Attributed
from metering.models import UsageRecord
from metering.usage import started_at
from orgs.audit import system
from orgs.models import Organization
from tests.billing.model import FOR_EVER, Books, Ceiling, Event, Hold, Lot, Wallet, Who
from tests.billing.world import part_of, record, rows
from tests.books import Books as OwnBooks
from tests.clocks import Clock, standing_still
from tests.metering import world as metering

BY = system("tests")
PICO = Fraction(1, 10**12)
# A million tokens of either cost a dime, so that sums meet each other often; the third is free, the last has no price.
DIME = Fraction(1, 10)
MODELS = ("mistral-small-2506", "text-embedding-ada-002")
FREE, UNPRICED = "gemma-4-31b-it", "deepseek-coder"
ZONES = {"acme": "America/New_York", "beta": "UTC", "ann": "UTC"}
PEOPLE = ("", "", "k1", "k2")

owners = st.sampled_from(("acme", "acme", "beta", "ann"))
dimes = st.integers(1, 20)
seldom = st.sampled_from((False, False, True))
offsets = st.sampled_from((0, 0, 0, 1, -1))
whichever = st.integers(0, 30)
minutes = st.sampled_from((None, 10, 60, 60 * 24))


def usd(amount: Fraction) -> Any:
    """An amount as the product takes it."""
    pico = amount / PICO
    assert pico.denominator == 1
    return money.from_pico(int(pico))


# Whose, model, millions of tokens, key, what about it, which one (of those before, of the holds), holds, fallback.
Sent = tuple[str, str, int, str, str, int, bool, bool]


class Machine(RuleBasedStateMachine):
    """Acts on three wallets: an organization that may fall back to a person's, another one, and the person's."""

    clock: ClassVar[Clock]
    steps: ClassVar[int]
    broken: ClassVar[list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.model = Books(self.clock.at)
        self.ids: dict[str, UUID] = {}
        self.budgets: dict[Ceiling, UUID] = {}
        self.sent: list[tuple[Attributed, Event]] = []
        self.number = 0
        self.fresh = False
        self.agreed = True
        for name, zone in ZONES.items():
            slug = f"{'personal-' if name == 'ann' else ''}{name}-{ids.new().hex}"
            made = Organization.objects.create(slug=slug, name=name, time_zone=zone)
            self.ids[name] = made.pk
            self.model.wallets[name] = Wallet(zone=zone)
        self.part = {(owner, name): part_of(self.ids[owner]) for owner in ZONES for name in ("k1", "k2")}
        for name, amount in (("acme", 20), ("ann", 10)):
            assert self.give(name, Lot("first", "purchased", amount * DIME, begins=self.clock.at))

    # Time.

    def act(self) -> None:
        """A moment later, unless time has just been moved to a moment of its own."""
        type(self).steps += 1
        if not self.fresh:
            self.clock.move(timedelta(milliseconds=1))
        self.fresh = False
        self.model.now = self.clock.at
        self.number += 1
        self.agreed = False

    @rule(by=st.sampled_from((1, 60, 300, 600, 3600, 5 * 3600, 24 * 3600)))
    def time_passes(self, by: int) -> None:
        self.clock.move(timedelta(seconds=by))

    @rule(late=st.sampled_from((-1, 0, 0, 1)), place=whichever)
    def something_is_about_to_end(self, late: int, place: int) -> None:
        """To the very microsecond at which a grant begins or ends, or a hold ends, or one beside it."""
        changes = {lot.ends for wallet in self.model.wallets.values() for lot in wallet.lots if lot.ends < FOR_EVER}
        changes |= {lot.begins for wallet in self.model.wallets.values() for lot in wallet.lots}
        changes |= {hold.ends for hold in self.model.holds.values()}
        later = self.clock.at + timedelta(milliseconds=2)
        found = sorted(change for change in changes if change > later)
        if found:
            self.clock.move(found[place % min(len(found), 2)] + timedelta(microseconds=late) - self.clock.at)
            self.fresh = True

    @rule(which=st.sampled_from(("grants", "holds")))
    def sweepers_run(self, which: str) -> None:
        self.act()
        if which == "grants":
            sweep(grants.settle_due)
            self.model.sweep()
        else:
            sweep(holds.expire_due)
            self.model.expire()
        self.agree()

    # Credit.

    @rule(
        owner=owners, kind=st.sampled_from(("promotional", "purchased", "purchased", "adjustment")), amount=dimes,
        offset=offsets, priority=st.sampled_from((0, 0, 0, -1, 1)), begins=st.sampled_from((None, None, 10, 60)),
        ends=minutes,
        models=st.sampled_from(((), (), (), MODELS[:1], MODELS[1:], MODELS)),
    )  # fmt: skip
    def credit_is_given(
        self, owner: str, kind: str, amount: int, offset: int, priority: int, begins: int | None, ends: int | None,
        models: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.act()
        start = self.clock.at + timedelta(minutes=begins or 0)
        end = FOR_EVER if ends is None else start + timedelta(minutes=ends)
        name = f"g{self.number}"
        lot = Lot(name, kind, amount * DIME + offset * PICO, priority, start, end, models)
        assert self.give(owner, lot)
        self.agree()

    @precondition(lambda self: any(wallet.lots for wallet in self.model.wallets.values()))
    @rule(place=whichever, change=st.sampled_from((None, None, "amount", "priority", "kind")))
    def credit_is_given_again(self, place: int, change: str | None) -> None:
        self.act()
        known = [
            (owner, lot)
            for owner, wallet in self.model.wallets.items()
            for lot in wallet.lots
            if lot.name.startswith("g")
        ]
        if not known:
            return
        owner, lot = known[place % len(known)]
        other: dict[str, Any] = {"amount": lot.amount + DIME, "priority": lot.priority + 1, "kind": "adjustment"}
        changed = {} if change is None else {change: other[change]}
        self.give(owner, replace(lot, left=Fraction(0), begun=False, **changed))
        self.agree()

    def give(self, owner: str, lot: Lot) -> bool:
        """Give it in both books; whether it was given."""
        conditions = Conditions(lot.priority, lot.begins, None if lot.ends == FOR_EVER else lot.ends, lot.models)
        try:
            with transaction.atomic():
                grants.give(
                    organization_id=self.ids[owner], kind=lot.kind, amount_usd=usd(lot.amount), reference=lot.name,
                    actor="tests", reason="given", conditions=conditions,
                )  # fmt: skip
            given = True
        except TransferConflict:
            given = False
        assert self.model.attempt(lambda books: books.give(owner, replace(lot))) is given
        return given

    @rule(
        owner=owners, kind=st.sampled_from(("credit", "debit", "refund", "refund", "write_off", "write_off")),
        amount=dimes, offset=offsets, exactly=st.booleans(),
    )  # fmt: skip
    def finance_acts(self, owner: str, kind: str, amount: int, offset: int, exactly: bool) -> None:
        self.act()
        wallet = self.model.wallets[owner]
        sought = amount * DIME
        if exactly and kind == "refund":
            sought = sum((lot.left for lot in wallet.open if lot.kind == "purchased"), Fraction(0))
        elif exactly and kind == "write_off":
            sought = wallet.owed
        sought += offset * PICO
        if sought <= 0:
            return
        name = ""
        try:
            act = adjustments.ask(
                organization_id=self.ids[owner], kind=kind, amount_usd=usd(sought), reason="tested", by=BY
            )
            name = f"adjustment:{act.pk}"
        except errors.OutOfRange:
            pass
        does: dict[str, Callable[[Books], None]] = {
            "credit": lambda books: books.give(owner, Lot(name, "adjustment", sought, begins=self.clock.at)),
            "debit": lambda books: books.debit(owner, sought),
            "refund": lambda books: books.refund(owner, sought),
            "write_off": lambda books: books.write_off(owner, sought),
        }
        assert self.model.attempt(does[kind]) == bool(name)
        self.agree()

    # Terms.

    @rule(
        owner=owners, limit=st.sampled_from((0, 0, 3, 10)), frozen=seldom, fallback=st.booleans(),
        enforcement=st.sampled_from(("strict", "strict", "strict", "soft", "off")),
    )  # fmt: skip
    def terms_change(self, owner: str, limit: int, frozen: bool, fallback: bool, enforcement: str) -> None:
        self.act()
        wallet = self.model.wallets[owner]
        wallet.limit, wallet.frozen, wallet.fallback, wallet.enforcement = limit * DIME, frozen, fallback, enforcement
        terms = Terms(
            mode="fallback" if fallback else "strict", enforcement=enforcement, credit_limit_usd=usd(wallet.limit)
        )
        wallets.change_terms(organization_id=self.ids[owner], terms=terms, reason="tested", by=BY)
        (wallets.freeze if frozen else wallets.unfreeze)(organization_id=self.ids[owner], reason="tested", by=BY)
        self.agree()

    @rule(
        owner=st.sampled_from(("acme", "acme", "beta")), of=st.sampled_from(("", "", "k1")),
        window=st.sampled_from(("5h", "1d", "7d", "month")), unit=st.sampled_from(("usd", "usd", "tokens")),
        most=st.integers(1, 30), lifted=seldom,
    )  # fmt: skip
    def a_ceiling_is_set_or_lifted(
        self, owner: str, of: str, window: str, unit: str, most: int, lifted: bool
    ) -> None:  # fmt: skip
        self.act()
        story = owner, of, window, unit
        known = next((one for one in self.model.ceilings if (one.owner, one.of, one.window, one.unit) == story), None)
        if lifted and self.model.ceilings:
            known = known or self.model.ceilings[-1]
            self.model.ceilings.remove(known)
            budgets.remove_ceiling(budget_id=self.budgets.pop(known), by=BY)
        else:
            subject = "key" if of else "organization"
            if known is None:
                known = Ceiling(owner, subject, of, window, unit)
                self.model.ceilings.append(known)
            known.most = most * DIME if unit == "usd" else Fraction(most * 1_000_000)
            made = budgets.set_ceiling(
                organization_id=self.ids[owner], subject=subject,
                subject_id=self.part[owner, of] if of else self.ids[owner],
                window=window, unit=unit, ceiling=usd(known.most), by=BY,
            )  # fmt: skip
            self.budgets[known] = made.pk
        self.agree()

    # Holds.

    @rule(
        owner=owners, model=st.sampled_from((*MODELS, *MODELS, FREE)), amount=st.integers(0, 12), offset=offsets,
        exactly=seldom, seconds=st.sampled_from((60, 600, 3600)), who=st.sampled_from(PEOPLE),
        fallback=st.booleans(),
    )  # fmt: skip
    def a_hold_is_placed(
        self, owner: str, model: str, amount: int, offset: int, exactly: bool, seconds: int, who: str, fallback: bool
    ) -> None:  # fmt: skip
        self.act()
        wanted = (self.model.available(owner) if exactly else amount * DIME) + offset * PICO
        if wanted < 0:
            return
        other = "ann" if fallback and owner == "acme" else ""
        tokens = amount * 1_000_000
        whose = Counted(self.ids[owner], None, None, self.part.get((owner, who)), usd(wanted), tokens)
        id = "refused"
        try:
            with transaction.atomic():
                id = str(holds.place(holds.Asked(whose, model, 100, seconds, self.ids.get(other))).hold.pk)
        except (errors.OrgWalletEmpty, errors.InsufficientQuota, errors.BudgetExceeded):
            pass
        ends = self.clock.at + timedelta(seconds=seconds)

        def place(books: Books) -> None:
            books.place(id, Hold(Who(owner, who), "", model, wanted, tokens, ends, []), fallback=other)

        assert self.model.attempt(place) is (id != "refused")
        self.agree()

    @precondition(lambda self: self.model.holds)
    @rule(place=whichever)
    def a_hold_is_released(self, place: int) -> None:
        self.act()
        id = self.hold(place)
        with transaction.atomic():
            holds.release(organization_id=self.ids[self.model.holds[id].who.owner], hold_id=UUID(id))
        self.model.end(id, "released")
        self.agree()

    def hold(self, place: int) -> str:
        """One of the latest holds."""
        return list(self.model.holds)[-1 - place % min(len(self.model.holds), 6)]

    # Usage.

    @rule(
        batch=st.lists(
            st.tuples(
                owners, st.sampled_from((*MODELS, *MODELS, *MODELS, FREE, UNPRICED)), st.integers(0, 9),
                st.sampled_from(PEOPLE),
                st.sampled_from(("new", "new", "new", "new", "failed", "again", "changed")), whichever, st.booleans(),
                st.booleans(),
            ),
            min_size=1, max_size=4,
        )
    )  # fmt: skip
    def events_arrive(self, batch: list[Sent]) -> None:
        """New ones, with and without the holds that they name, and ones that came before, changed or not."""
        self.arrive(batch)

    def arrive(self, batch: list[Sent]) -> None:
        """Post a batch to both books."""
        self.act()
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
            hold = self.hold(place) if named and self.model.holds else ""
            priced = "unpriced" if model == UNPRICED else "usage"
            event = Event(
                f"{self.number}-{len(items)}", Who(owner, who), model, millions * DIME * (model in MODELS),
                millions * 1_000_000, "failure" if kind == "failed" else priced, hold,
                "ann" if fallback and owner == "acme" else "",
            )  # fmt: skip
            items.append(self.item(event)._replace(place=len(items)))
            told.append(event)
            self.sent.append((items[-1], event))
        verdicts = record(items)
        assert [verdict.status.value for verdict in verdicts] == self.model.charge(told)
        self.agree()

    @rule(owner=owners, model=st.sampled_from(MODELS), millions=st.integers(1, 9), named=st.booleans(), place=whichever)
    def an_event_arrives(self, owner: str, model: str, millions: int, named: bool, place: int) -> None:
        """As it mostly is: one at a time, with what it had set aside, and perhaps somebody else to pay for it."""
        hold = self.hold(place) if named and self.model.holds else ""
        asker = self.model.holds[hold].who if hold else Who(owner)
        self.arrive([(asker.owner, model, millions, asker.key, "new", place, named, asker.owner == "acme")])

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

    @precondition(lambda self: self.model.records)
    @rule(place=whichever)
    def a_charge_is_voided(self, place: int) -> None:
        self.act()
        owner, event_id = self.charged(place)
        corrections.void(organization_id=self.ids[owner], event_id=event_id, reason="tested", by=BY)
        self.model.void(owner, event_id)
        self.agree()

    @precondition(lambda self: self.model.records)
    @rule(place=whichever, cost=st.integers(0, 9))
    def a_charge_is_rated_anew(self, place: int, cost: int) -> None:
        self.act()
        key = owner, event_id = self.charged(place)
        if self.model.records[key].voided:
            return
        difference = cost * DIME - self.model.records[key].cost
        row = UsageRecord.objects.get(organization_id=self.ids[owner], event_id=event_id, corrects_id__isnull=True)
        with transaction.atomic():
            corrections.hold_records(self.ids[owner])
            corrections.post(
                self.ids[owner], [corrections.Change(row, usd(difference), row.price_id, row.rule_id, negate=False)],
                kind=Correction.Kind.RERATING, cause=f"act {self.number}", actor="tests", reason="tested",
                at=started_at(),
            )  # fmt: skip
        self.model.amend(owner, event_id, difference)
        self.agree()

    def charged(self, place: int) -> tuple[str, str]:
        """One of the latest charges, seldom one that was taken back."""
        found = [key for key, one in self.model.records.items() if not one.voided or not place % 10]
        found = found or list(self.model.records)
        return found[-1 - place % min(len(found), 6)]

    # What must hold.

    def agree(self) -> None:
        """The database holds what the model holds."""
        stored, expected = self.stored(), self.expected()
        differing = {part: (stored[part], expected[part]) for part in stored if stored[part] != expected[part]}
        assert not differing, told(differing)
        self.agreed = True

    def expected(self) -> dict[str, Any]:
        """What the model holds."""
        model = self.model
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
                self.budgets[one]: (one.most, model.held_under(one), model.spent(one)) for one in model.ceilings
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
                for owner in {ceiling.owner for ceiling in self.model.ceilings}
                for one in budgets.standing(self.ids[owner])
            },
        }

    def traces(self) -> None:
        """Each record was paid by the grants that the model says, as far as it was not given back."""
        for key, charged in self.model.records.items():
            row = UsageRecord.objects.get(organization_id=self.ids[key[0]], event_id=key[1], corrects_id__isnull=True)
            assert row.payer_id == self.ids[charged.payer]
            paid = tracing.shares(row.payer_id, [row])[row.id]
            assert sorted(map(Fraction, paid.values())) == sorted(amount for amount in charged.paid.values() if amount)

    def teardown(self) -> None:
        """Everything that is due is done, and the books are sound."""
        if not self.agreed:
            return
        self.act()
        sweep(grants.settle_due, holds.expire_due)
        self.model.sweep()
        self.model.expire()
        self.agree()
        self.traces()
        # Examples share a database, so what one broke would be blamed on all after it.
        if not self.broken:
            self.broken.extend(broken_invariants())


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


def sweep(*verbs: Callable[[], int]) -> None:
    """Run sweepers until there is nothing left to do."""
    for verb in verbs:
        while verb():
            pass


def play(clock: Clock, *, examples: int, steps: int, **options: Any) -> int:
    """Let the machine run; how many acts there were."""

    class Played(Machine):
        pass

    Played.clock, Played.steps, Played.broken = clock, 0, []
    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink), **options,
        ),
    )  # fmt: skip
    assert not Played.broken, Played.broken[0]
    return Played.steps


def test_books_equal_the_model_after_every_act(books: OwnBooks) -> None:
    with standing_still(books) as clock:
        acts = play(clock, examples=400, steps=40)
    print(f"{acts} acts")
    assert acts > 500
