"""The statement: lines by ``seq``, and what stood at the end of a day."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import transaction

from billing import ledger, statement
from billing.ledger import Move
from billing.lots import Given
from billing.models import Account, Grant, TransferKind
from core import ids
from orgs.models import Organization
from tests.billing.world import organization

NOON = datetime(2026, 9, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def move(of: Organization, usd: str, at: datetime, reference: str) -> None:
    """Credit given, or a charge where the amount is negative."""
    amount = Decimal(usd)
    told = (abs(amount), reference, "tests", "")
    if amount < 0:
        made = Move(of.pk, TransferKind.CHARGE, Account.WALLET, Account.REVENUE, *told)
    else:
        given = Given(ids.new(), of.pk, Grant.Kind.ADJUSTMENT, amount, at, reference, Account.ADJUSTMENTS, "tests", "")
        made = Move(of.pk, TransferKind.ADJUSTMENT, Account.ADJUSTMENTS, Account.WALLET, *told, given=given)
    with transaction.atomic():
        ledger.post([made], at=at)


def test_a_balance_is_that_after_the_last_line_before_an_instant(db: None) -> None:
    acme, other = organization("acme"), organization("other")
    move(acme, "10", NOON, "a")
    move(other, "99", NOON, "a")
    move(acme, "-2.5", NOON + DAY - timedelta(milliseconds=1), "b")
    move(acme, "-8", NOON + DAY, "c")
    instants = [NOON, NOON + timedelta(seconds=1), NOON + DAY, NOON + DAY + timedelta(seconds=1), NOON + 9 * DAY]
    assert statement.closing(acme.pk, instants) == [0, 10, Decimal("7.5"), Decimal("-0.5"), Decimal("-0.5")]
    assert statement.closing(organization("new").pk, instants) == [0] * 5
    assert statement.closing(acme.pk, []) == []


def test_of_lines_whose_transactions_overlapped_the_last_under_the_lock_counts(db: None) -> None:
    acme = organization("acme")
    move(acme, "10", NOON, "a")
    # The second began before the first, and had the lock after it.
    move(acme, "-1", NOON + timedelta(seconds=2), "b")
    move(acme, "-4", NOON + timedelta(seconds=1), "c")
    assert statement.closing(acme.pk, [NOON + DAY]) == [5]


def test_a_page_can_begin_with_any_line(db: None) -> None:
    acme = organization("acme")
    for number in range(4):
        move(acme, "1", NOON + number * DAY, str(number))
    lines = list(statement.lines(acme.pk))
    assert [line.reference for line in lines] == ["3", "2", "1", "0"]
    for place, line in enumerate(lines):
        assert line.seq is not None
        after = statement.cursor_before(acme.pk, line.seq)
        assert after == (None if place == 0 else ids.show("tr", lines[place - 1].pk))
        assert statement.page(acme.pk, limit=1, after=after).transfers == [line]
