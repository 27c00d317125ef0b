"""The arithmetic of one wallet: any history of spending and receiving, against plain sums."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import books
from billing.books import OVERDRAFT, REVENUE, WALLET, Lot, Need, Return, Standing, Step
from core import money

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NEW = Standing(money.ZERO, money.ZERO, money.ZERO, 0)
# Small sums meet each other often, the largest stay within what the books hold after forty of them.
amounts = st.one_of(st.integers(1, 5), st.integers(1, 10**18)).map(money.from_pico)
acts = st.tuples(st.sampled_from(["charge", "expiry", "grant", "void", "clawback", "fee"]), amounts)
histories = st.lists(acts, max_size=40)


def act(standing: Standing, kind: str, amount: Decimal) -> list[Step]:
    """Usage, credit that expires, credit given, usage given back, a payment taken back, money that passes by."""
    if kind == "clawback":
        return books.claw(standing, amount, kind=kind, to="stripe_clearing", first=UUID(int=1))
    if kind == "fee":
        return [books.pass_by(standing, amount, kind=kind, debit="payment_fees", credit="stripe_clearing")]
    if kind == "charge":
        return books.spend(standing, [Need(amount)], kind=kind, to=REVENUE)
    if kind == "expiry":
        return books.spend(standing, [Need(amount)], kind=kind, to="breakage")
    lot = Lot(UUID(int=standing.seq + 1), books.PROMOTIONAL, amount)
    if kind == "void":
        empty = lot._replace(remaining=money.ZERO)
        return books.give_back(standing, [Return(empty, amount)], kind=kind, at=NOW)
    return books.receive(standing, lot, kind=kind, source="promotions", at=NOW)


def play(history: Sequence[tuple[str, Decimal]]) -> tuple[Standing, list[Step]]:
    """The standing after a history, and all its steps."""
    standing, steps = NEW, []
    for kind, amount in history:
        taken = act(standing, kind, amount)
        steps += taken
        standing = taken[-1].after
    return standing, steps


def total(steps: Sequence[Step], account: str) -> Fraction:
    """What an account received less what it gave."""
    return sum(
        (Fraction(step.amount) * ((step.credit == account) - (step.debit == account)) for step in steps), Fraction(0)
    )


@given(history=histories)
def test_a_wallet_is_the_sum_of_its_transfers(history: list[tuple[str, Decimal]]) -> None:
    standing, steps = play(history)
    assert Fraction(standing.posted) == total(steps, WALLET)
    assert Fraction(standing.overdraft) == -total(steps, OVERDRAFT)
    assert Fraction(standing.spent) == total(steps, REVENUE)
    assert sum((Fraction(lot.remaining) for lot in standing.lots), Fraction(0)) == Fraction(standing.posted)


@given(history=histories)
def test_posted_and_overdraft_are_never_negative_and_never_both_there(history: list[tuple[str, Decimal]]) -> None:
    for step in play(history)[1]:
        assert step.after.overdraft >= 0
        # Between a draw and its charge both stand; at the end of an act at most one does.
        assert step.after.posted >= 0
    standing = NEW
    for kind, amount in history:
        standing = act(standing, kind, amount)[-1].after
        assert standing.posted == 0 or standing.overdraft == 0


@given(history=histories)
def test_steps_are_numbered_without_a_gap(history: list[tuple[str, Decimal]]) -> None:
    standing, steps = play(history)
    assert [step.after.seq for step in steps] == list(range(1, len(steps) + 1))
    assert standing.seq == len(steps)


@given(history=histories)
def test_the_balance_is_what_came_in_less_what_went_out_whatever_the_overdraft_did(
    history: list[tuple[str, Decimal]],
) -> None:
    standing, steps = play(history)
    sign = {"charge": -1, "expiry": -1, "grant": 1, "void": 1, "clawback": -1, "fee": 0}
    assert Fraction(standing.balance) == sum((sign[kind] * Fraction(amount) for kind, amount in history), Fraction(0))
    for before, step in zip([NEW, *(step.after for step in steps)], steps, strict=False):
        if step.kind in {"draw", "repayment"}:
            assert step.after.balance == before.balance


@given(
    history=histories, kind=st.sampled_from(["charge", "expiry", "grant", "void", "clawback", "fee"]), amount=amounts
)
def test_each_act_is_one_transfer_of_its_amount_and_at_most_one_with_the_overdraft(
    history: list[tuple[str, Decimal]], kind: str, amount: Decimal
) -> None:
    steps = act(play(history)[0], kind, amount)
    (own,) = [step for step in steps if step.kind == kind]
    assert own.amount == amount
    assert all(step.amount > 0 and step.debit != step.credit for step in steps)
    assert [step.kind for step in steps] in ([kind], ["draw", kind], [kind, "repayment"])
    assert (WALLET in {own.debit, own.credit}) == (kind != "fee")


@given(history=histories, amount=amounts)
def test_only_what_is_missing_is_drawn_and_only_what_is_owed_is_repaid(
    history: list[tuple[str, Decimal]], amount: Decimal
) -> None:
    standing = play(history)[0]
    drawn = sum(step.amount for step in act(standing, "charge", amount) if step.kind == "draw")
    assert drawn == max(amount - standing.posted, money.ZERO)
    repaid = sum(step.amount for step in act(standing, "grant", amount) if step.kind == "repayment")
    assert repaid == min(amount, standing.overdraft)


def test_a_charge_beyond_the_balance_worked_by_hand() -> None:
    standing = act(NEW, "grant", Decimal("0.5"))[-1].after
    steps = act(standing, "charge", Decimal("0.8"))
    assert [(step.kind, step.debit, step.credit, step.amount) for step in steps] == [
        ("draw", OVERDRAFT, WALLET, Decimal("0.3")),
        ("charge", WALLET, REVENUE, Decimal("0.8")),
    ]
    assert steps[-1].after == Standing(Decimal(0), Decimal("0.3"), Decimal("0.8"), 3)
    assert [use.amount for use in steps[-1].uses] == [Decimal("0.5")]
    repaid = act(steps[-1].after, "grant", Decimal("1"))
    assert [(step.kind, step.amount) for step in repaid] == [("grant", Decimal(1)), ("repayment", Decimal("0.3"))]
    assert repaid[-1].after[:4] == (Decimal("0.7"), Decimal(0), Decimal("0.8"), 5)
    assert [lot.remaining for lot in repaid[-1].after.lots] == [Decimal("0.7")]


@pytest.mark.parametrize("amount", [Decimal(0), Decimal(-1), Decimal("-0.000000000001")])
@pytest.mark.parametrize("kind", ["charge", "grant"])
def test_nothing_and_less_than_nothing_cannot_move(kind: str, amount: Decimal) -> None:
    with pytest.raises(AssertionError):
        act(NEW, kind, amount)


@pytest.mark.parametrize(
    ("balance", "overdraft", "limit", "frozen", "expected"),
    [
        ("5", "0", "0", False, "active"),
        ("4.999999999999", "0", "0", False, "low"),
        ("0.000000000001", "0", "0", False, "low"),
        ("0", "0", "0", False, "empty"),
        ("-1", "1", "0", False, "empty"),
        ("0", "0", "10", False, "low"),
        ("-9.99", "9.99", "10", False, "low"),
        ("-10", "10", "10", False, "empty"),
        ("-10.01", "10.01", "10", False, "empty"),
        ("100", "0", "0", True, "frozen"),
        ("-1", "1", "0", True, "frozen"),
    ],
)
def test_gateways_are_told_to_stop_when_nothing_is_left(
    balance: str, overdraft: str, limit: str, frozen: bool, expected: str
) -> None:
    assert expected == books.status(
        balance=Decimal(balance),
        overdraft=Decimal(overdraft),
        credit_limit=Decimal(limit),
        low=Decimal(5),
        frozen=frozen,
    )


def test_a_payment_taken_back_eats_its_own_lot_then_what_was_paid_then_what_was_given_then_is_owed() -> None:
    own, paid, given, scoped = (
        Lot(UUID(int=3), books.PURCHASED, Decimal(10)),
        Lot(UUID(int=2), books.PURCHASED, Decimal(4)),
        Lot(UUID(int=1), books.PROMOTIONAL, Decimal(2)),
        Lot(UUID(int=4), books.PROMOTIONAL, Decimal(7), models=frozenset({"gpt-4o"})),
    )
    standing = Standing(Decimal(23), money.ZERO, Decimal(5), 9, books.arranged([own, paid, given, scoped]))
    draw, taken = books.claw(standing, Decimal(20), kind="clawback", to="disputes", first=own.id)
    assert (draw.kind, draw.amount, draw.after.overdraft) == ("draw", 4, 4)
    assert (taken.debit, taken.credit, taken.amount) == (WALLET, "disputes", 20)
    assert [(use.lot_id.int, use.amount) for use in taken.uses] == [(3, 10), (2, 4), (1, 2)]
    assert (taken.after.posted, taken.after.overdraft, taken.after.spent, taken.after.seq) == (7, 4, 5, 11)
    assert taken.after.lots == (scoped,)


def test_what_a_dispute_gives_up_returns_to_its_lot_and_is_no_usage_taken_back() -> None:
    empty = Lot(UUID(int=1), books.PURCHASED, money.ZERO)
    standing = Standing(money.ZERO, money.ZERO, Decimal(3), 4)
    (step,) = books.give_back(standing, [Return(empty, Decimal(6))], kind="dispute", at=NOW, source="disputes")
    assert (step.debit, step.credit, step.after.posted, step.after.spent) == ("disputes", WALLET, 6, 3)
    assert [lot.remaining for lot in step.after.lots] == [6]


def test_money_between_two_other_accounts_counts_and_moves_no_balance() -> None:
    standing = Standing(Decimal(5), money.ZERO, Decimal(1), 2)
    step = books.pass_by(standing, Decimal(3), kind="tax", debit="stripe_clearing", credit="taxes")
    assert step.after == standing._replace(seq=3)
    with pytest.raises(AssertionError):
        books.pass_by(standing, Decimal(3), kind="tax", debit=WALLET, credit="taxes")
