"""The worst overdraft after a thousand authorizations at once, against the formula that is promised.

What is owed in the end is at most what requests cost beyond their holds, and what was admitted without
one. A thousand requests ask for a balance that covers a hundred of them.
"""

import random
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import NamedTuple

import pytest

from billing.models import Hold
from core import errors, money
from metering.verdicts import Status
from orgs.models import Organization
from tests.billing.test_holds import change, held, place, usage_of
from tests.billing.world import assert_all, assert_sound, organization, record, side_by_side, standing
from tests.books import Books

ZERO = Decimal(0)
THREADS, TRIES = 16, 1000
# What a request holds: 1,000 × 0.27 + 100 × 1.10 millionths of a dollar; each token of input more costs 0.27.
HELD, TOKEN = Decimal("0.00038"), Decimal("0.00000027")
BALANCE = Decimal("0.038")


class Outcome(NamedTuple):
    """What is owed after each capture, and the holds that were admitted."""

    admitted: list[Hold]
    owed: list[Decimal]

    @property
    def shown(self) -> str:
        """The distribution in dollars."""
        ordered = sorted(self.owed)
        told = (ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1])
        middle, late, worst = map(money.plain, told)
        return f"{len(self.admitted)} of {TRIES} admitted; overdraft p50 {middle}, p99 {late}, worst {worst} USD"


def ask(owner: Organization, times: int) -> list[Hold]:
    """The holds that passed of so many tries."""
    passed = []
    for _ in range(times):
        try:
            passed.append(place(owner, HELD))
        except errors.OrgWalletEmpty:
            continue
    return passed


def settle(owner: Organization, held_and_extra: Sequence[tuple[Hold, int]]) -> list[Decimal]:
    """Charge each hold's event, with so many tokens of input more than its hold knew; what was owed after each."""
    owed = []
    for hold, extra in held_and_extra:
        item = usage_of(hold, input_tokens=1000 + extra, cached_input_tokens=0, output_tokens=100)
        assert_all(record([item]), Status.CREATED)
        owed.append(standing(owner).overdraft)
    return owed


def run(books: Books, owner: Organization, *, longest: int) -> tuple[Outcome, int]:
    """A thousand ask, all that are admitted cost up to ``longest`` tokens more; how it went, and the tokens in all."""
    shares = [TRIES // THREADS + (number < TRIES % THREADS) for number in range(THREADS)]
    admitted = [
        hold for part in side_by_side(books, *(partial(ask, owner, share) for share in shares)) for hold in part
    ]
    chance = random.Random(f"overdraft {longest}")
    work = [(hold, chance.randrange(longest + 1)) for hold in admitted]
    parts = [work[start::THREADS] for start in range(THREADS)]
    owed = [after for told in side_by_side(books, *(partial(settle, owner, part) for part in parts)) for after in told]
    return Outcome(admitted, owed), sum(extra for _, extra in work)


@pytest.mark.parametrize(("limit", "admits", "worst"), [("0", 100, "0.00130545"), ("0.019", 150, "0.02095912")])
def test_strict_admits_what_is_covered_and_owes_what_requests_cost_beyond_their_holds(
    books: Books, capsys: pytest.CaptureFixture[str], limit: str, admits: int, worst: str
) -> None:
    acme = organization("acme", usd=str(BALANCE))
    change(acme, credit_limit_usd=Decimal(limit))
    outcome, tokens = run(books, acme, longest=100)
    assert len(outcome.admitted) == admits
    # Every cent of the balance and of the limit was promised, so nothing softens what came on top.
    assert standing(acme)[:2] == (ZERO, Decimal(limit) + tokens * TOKEN)
    assert max(outcome.owed) == Decimal(limit) + tokens * TOKEN == Decimal(worst)
    # Known beforehand: nobody's prompt is longer by more than a tenth.
    assert max(outcome.owed) <= Decimal(limit) + admits * Decimal("0.000027")
    with capsys.disabled():
        print(f"\nstrict, credit limit {limit}: {outcome.shown}")
    assert held(acme) == 0
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, ZERO)
    assert_sound()


def test_a_hold_that_covers_the_worst_case_leaves_no_overdraft(books: Books) -> None:
    acme = organization("acme", usd=str(BALANCE))
    outcome, _ = run(books, acme, longest=0)
    assert (len(outcome.admitted), max(outcome.owed)) == (100, 0)
    assert standing(acme)[:3] == (ZERO, ZERO, BALANCE)


def test_soft_admits_all_that_ask_before_the_first_is_charged_and_owes_what_had_no_cover(
    books: Books, capsys: pytest.CaptureFixture[str]
) -> None:
    acme = organization("acme", usd=str(BALANCE))
    change(acme, enforcement="soft")
    outcome, tokens = run(books, acme, longest=100)
    assert len(outcome.admitted) == 1000
    # 900 were admitted beyond the balance, at 0.00038 each; and all cost what they cost beyond their holds.
    assert standing(acme)[:2] == (ZERO, Decimal("0.342") + tokens * TOKEN)
    assert max(outcome.owed) == Decimal("0.342") + tokens * TOKEN == Decimal("0.35537175")
    with capsys.disabled():
        print(f"\nsoft: {outcome.shown}")
    # Charged down to its floor, it is let nothing more.
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme)
    assert held(acme) == 0
    assert_sound()
