"""The arithmetic of one wallet's books. Pure: no database, no clock.

A wallet pays from what is posted; what is missing is drawn from the overdraft first, and money
that comes in repays the overdraft first. Draw and repayment leave the balance as it was, so the
balance after a transfer is posted minus overdraft.
"""

from decimal import Decimal
from typing import NamedTuple

from core import money

WALLET = "wallet"
OVERDRAFT = "overdraft"
REVENUE = "revenue"


class Standing(NamedTuple):
    """Where a wallet stands. ``spent`` is all it ever paid for usage."""

    posted: Decimal
    overdraft: Decimal
    spent: Decimal
    seq: int

    @property
    def balance(self) -> Decimal:
        """Posted minus overdraft: what the customer has, or owes."""
        return self.posted - self.overdraft


class Step(NamedTuple):
    """One transfer that touches the wallet, and the standing after it."""

    kind: str
    debit: str
    credit: str
    amount: Decimal
    after: Standing


def spend(standing: Standing, amount: Decimal, *, kind: str, to: str) -> list[Step]:
    """Take ``amount`` > 0 from the wallet, drawing on the overdraft for what it lacks."""
    assert amount > 0
    steps = []
    short = amount - standing.posted
    if short > 0:
        standing = standing._replace(
            posted=standing.posted + short, overdraft=standing.overdraft + short, seq=standing.seq + 1
        )
        steps.append(Step("draw", OVERDRAFT, WALLET, short, standing))
    spent = standing.spent + amount if to == REVENUE else standing.spent
    standing = standing._replace(posted=standing.posted - amount, spent=spent, seq=standing.seq + 1)
    steps.append(Step(kind, WALLET, to, amount, standing))
    return steps


def receive(standing: Standing, amount: Decimal, *, kind: str, source: str) -> list[Step]:
    """Put ``amount`` > 0 into the wallet; an overdraft is repaid from it at once."""
    assert amount > 0
    # Money back from revenue is usage that was not spent after all.
    spent = standing.spent - amount if source == REVENUE else standing.spent
    standing = standing._replace(posted=standing.posted + amount, spent=spent, seq=standing.seq + 1)
    steps = [Step(kind, source, WALLET, amount, standing)]
    repaid = min(standing.posted, standing.overdraft)
    if repaid > 0:
        standing = standing._replace(
            posted=standing.posted - repaid, overdraft=standing.overdraft - repaid, seq=standing.seq + 1
        )
        steps.append(Step("repayment", WALLET, OVERDRAFT, repaid, standing))
    return steps


def status(*, balance: Decimal, overdraft: Decimal, credit_limit: Decimal, low: Decimal, frozen: bool) -> str:
    """``active``, ``low``, ``empty`` or ``frozen``, as gateways are told (contract 16.3)."""
    if frozen:
        return "frozen"
    if overdraft > credit_limit or balance + credit_limit <= money.ZERO:
        return "empty"
    return "low" if balance < low else "active"
