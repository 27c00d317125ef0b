"""Credit in lots: who pays first, what ends when, and where money goes back to."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID

import pytest
from django.db import connection, transaction

from billing import corrections, grants, ledger
from billing.grants import Conditions
from billing.ledger import TransferConflict
from billing.models import Account, Grant, GrantUse, Transfer
from metering.verdicts import Status
from orgs.audit import system
from orgs.models import Organization
from tests.billing.corruption import rechain
from tests.billing.world import assert_all, assert_sound, charge, organization, rows, side_by_side, standing
from tests.books import Books
from tests.metering.world import COST, event
from tests.proofs import proves

BY = system("tests")
USD = Decimal(COST)
SOON = timedelta(hours=1)


def now() -> datetime:
    """The database's clock."""
    found: datetime = rows("SELECT clock_timestamp()")[0][0]
    return found


def give(
    owner: Organization,
    usd: str | int | Decimal,
    reference: str,
    *,
    kind: str = Grant.Kind.PROMOTIONAL,
    **conditions: object,
) -> UUID:
    """A grant in a transaction of its own."""
    with transaction.atomic():
        return grants.give(
            organization_id=owner.pk, kind=kind, amount_usd=Decimal(usd), reference=reference, actor="tests",
            reason="given", conditions=Conditions(**conditions),  # type: ignore[arg-type]
        )  # fmt: skip


def left(owner: Organization) -> dict[str, Decimal]:
    """What is left of each grant, by its reference."""
    return {grant.reference: grant.remaining_usd for grant in Grant.objects.filter(organization=owner)}


def elapse(owner: Organization, by: timedelta) -> None:
    """Let time pass for an organization: its grants' beginnings and ends, and what was posted, move back."""
    with transaction.atomic():
        rows("SET LOCAL session_replication_role = replica")
        rows(
            "UPDATE credit_grant SET effective_at = effective_at - %s, expires_at = expires_at - %s"
            " WHERE organization_id = %s",
            by, by, owner.pk,
        )  # fmt: skip
        rows("UPDATE transfer SET created_at = created_at - %s WHERE organization_id = %s", by, owner.pk)
        rows("UPDATE wallet SET next_change = next_change - %s WHERE organization_id = %s", by, owner.pk)
        rechain(connection.connection)


def until(happened: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def waiting() -> bool:
    """Whether somebody waits for a lock."""
    # Within a transaction the view would keep saying what it said first.
    rows("SELECT pg_stat_clear_snapshot()")
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(rows(query)[0][0])


def test_given_credit_is_spent_before_what_was_paid_for_and_the_oldest_first(books: Books) -> None:
    acme = organization("acme")
    give(acme, USD, "paid", kind=Grant.Kind.PURCHASED)
    give(acme, USD, "first")
    give(acme, USD, "second")
    give(acme, USD, "adjusted", kind=Grant.Kind.ADJUSTMENT)
    spent = []
    for _ in range(4):
        assert_all(charge(acme, event()), Status.CREATED)
        spent.append(sorted(reference for reference, remaining in left(acme).items() if not remaining))
    assert spent == [
        ["first"], ["first", "second"], ["adjusted", "first", "second"], ["adjusted", "first", "paid", "second"],
    ]  # fmt: skip
    assert_sound()


def test_priority_comes_before_all_and_an_end_before_the_kind(books: Books) -> None:
    acme = organization("acme")
    give(acme, USD, "promotional")
    give(acme, USD, "ending", kind=Grant.Kind.PURCHASED, expires_at=now() + SOON)
    give(acme, USD, "urgent", kind=Grant.Kind.PURCHASED, priority=-1)
    order: list[str] = []
    for _ in range(3):
        before = {reference for reference, remaining in left(acme).items() if remaining}
        charge(acme, event())
        order += before - {reference for reference, remaining in left(acme).items() if remaining}
    assert order == ["urgent", "ending", "promotional"]
    assert_sound()


def test_scoped_credit_pays_for_its_models_only_and_the_rest_is_owed(books: Books) -> None:
    acme = organization("acme")
    give(acme, 10, "for others", models=("gemma-4-31b-it",))
    charge(acme, event())
    assert left(acme) == {"for others": 10}
    assert standing(acme)[:2] == (Decimal(10), USD)
    give(acme, 10 * USD, "for all")
    assert left(acme) == {"for others": 10, "for all": 9 * USD}
    assert standing(acme)[:2] == (Decimal(10) + 9 * USD, 0)
    assert_sound()


def test_scoped_credit_pays_for_the_model_that_it_names(books: Books) -> None:
    acme = organization("acme", usd="1")
    give(acme, 10, "scoped", models=(event().model,), priority=-1)
    charge(acme, event(), event())
    assert left(acme) == {"scoped": 10 - 2 * USD, "given": 1}
    assert_sound()


def test_each_debit_is_traced_to_the_grants_that_it_took_from(books: Books) -> None:
    acme = organization("acme")
    first, second = give(acme, USD + USD / 2, "a"), give(acme, 10 * USD, "b")
    verdicts = charge(acme, event(), event(), event())
    ids = [verdict.record_id for verdict in verdicts]
    uses = rows("SELECT grant_id, amount_usd, first_record_id, last_record_id FROM grant_use ORDER BY id")
    assert uses == [(first, USD + USD / 2, ids[0], ids[1]), (second, USD + USD / 2, ids[1], ids[2])]
    assert_sound()


def test_what_is_left_at_the_end_goes_to_breakage_and_cannot_be_spent(books: Books) -> None:
    acme = organization("acme", usd="1")
    give(acme, 5, "ending", expires_at=now() + SOON, priority=-1)
    charge(acme, event())
    assert left(acme) == {"given": 1, "ending": 5 - USD}
    elapse(acme, SOON)
    # Nobody has swept: the charge itself ends what is over.
    charge(acme, event())
    assert left(acme) == {"given": 1 - USD, "ending": 0}
    assert standing(acme)[:3] == (1 - USD, 0, 2 * USD)
    (breakage,) = Transfer.objects.filter(kind="expiry")
    assert (breakage.debit, breakage.credit, breakage.amount_usd) == (Account.WALLET, Account.BREAKAGE, 5 - USD)
    assert_sound()


def test_the_sweep_ends_grants_once_however_many_sweep(books: Books) -> None:
    acme = organization("acme")
    give(acme, 5, "ending", expires_at=now() + SOON)
    assert grants.settle_due() == 0
    elapse(acme, SOON)
    side_by_side(books, *(grants.settle_due for _ in range(6)))
    assert rows("SELECT kind, amount_usd FROM transfer ORDER BY seq") == [("grant", 5), ("expiry", 5)]
    assert left(acme) == {"ending": 0}
    assert grants.settle_due() == 0
    assert_sound()


def test_a_grant_that_begins_later_is_no_money_before(books: Books) -> None:
    acme = organization("acme")
    give(acme, 5, "later", effective_at=now() + SOON, expires_at=now() + 3 * SOON)
    assert rows("SELECT count(*) FROM transfer") == [(0,)]
    assert grants.left(acme.pk) == (0, 0)
    charge(acme, event())
    assert standing(acme)[:2] == (0, USD)
    elapse(acme, SOON)
    assert grants.settle_due() == 1
    assert left(acme) == {"later": 5 - USD}
    assert standing(acme)[:2] == (5 - USD, 0)
    assert rows("SELECT kind FROM transfer ORDER BY seq") == [("draw",), ("charge",), ("grant",), ("repayment",)]
    elapse(acme, 3 * SOON)
    assert grants.settle_due() == 1
    assert standing(acme)[:2] == (0, 0)
    assert_sound()


def test_a_grant_that_ended_before_anybody_looked_begins_and_ends(books: Books) -> None:
    acme = organization("acme")
    give(acme, 5, "missed", effective_at=now() + SOON, expires_at=now() + 2 * SOON)
    elapse(acme, 3 * SOON)
    assert grants.settle_due() == 1
    assert rows("SELECT kind, amount_usd FROM transfer ORDER BY seq") == [("grant", 5), ("expiry", 5)]
    assert standing(acme)[:2] == (0, 0)
    assert_sound()


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("UTC", date(2026, 2, 28), datetime(2026, 3, 1, tzinfo=UTC)),
        ("America/New_York", date(2026, 6, 30), datetime(2026, 7, 1, 4, tzinfo=UTC)),
        ("Asia/Kolkata", date(2026, 12, 31), datetime(2026, 12, 31, 18, 30, tzinfo=UTC)),
        # The day on which clocks go forward has 23 hours, the one on which they go back 25.
        ("Europe/Berlin", date(2026, 3, 29), datetime(2026, 3, 29, 22, tzinfo=UTC)),
        ("Europe/Berlin", date(2026, 10, 25), datetime(2026, 10, 25, 23, tzinfo=UTC)),
    ],
)
def test_a_day_ends_at_midnight_where_the_organization_is(zone: str, day: date, expected: datetime) -> None:
    assert grants.end_of(day, time_zone=zone) == expected


def test_a_void_gives_back_to_the_grants_that_paid_the_last_first(books: Books) -> None:
    acme = organization("acme")
    give(acme, USD / 2, "a")
    give(acme, USD * 2, "b", kind=Grant.Kind.PURCHASED)
    told = event()
    charge(acme, told)
    charge(acme, event())
    assert left(acme) == {"a": 0, "b": USD / 2}
    corrections.void(organization_id=acme.pk, event_id=told.event_id, reason="wrong", by=BY)
    assert left(acme) == {"a": USD / 2, "b": USD}
    assert_sound()


def test_a_void_of_one_of_many_gives_back_what_that_one_took(books: Books) -> None:
    acme = organization("acme")
    for place in range(5):
        give(acme, USD * Decimal("0.7"), f"g{place}")
    told = [event() for _ in range(3)]
    charge(acme, *told)
    # 0.7 | 0.3+0.4 | 0.6+0.1.. : the second record took 0.4 of g1, 0.6 of g2.
    assert left(acme) == {"g0": 0, "g1": 0, "g2": 0, "g3": 0, "g4": USD * Decimal("0.5")}
    corrections.void(organization_id=acme.pk, event_id=told[1].event_id, reason="wrong", by=BY)
    assert left(acme) == {
        "g0": 0, "g1": USD * Decimal("0.4"), "g2": USD * Decimal("0.6"), "g3": 0, "g4": USD * Decimal("0.5"),
    }  # fmt: skip
    assert_sound()


def test_what_goes_back_to_a_grant_that_has_ended_goes_on_to_breakage(books: Books) -> None:
    acme = organization("acme")
    give(acme, USD, "ending", expires_at=now() + SOON)
    told = event()
    charge(acme, told)
    elapse(acme, SOON)
    corrections.void(organization_id=acme.pk, event_id=told.event_id, reason="wrong", by=BY)
    assert left(acme) == {"ending": 0}
    assert standing(acme)[:3] == (0, 0, 0)
    assert rows("SELECT kind, credit FROM transfer ORDER BY seq") == [
        ("grant", "wallet"), ("charge", "revenue"), ("void", "wallet"), ("expiry", "breakage"),
    ]  # fmt: skip
    assert_sound()


def test_what_overdraft_paid_comes_back_as_credit_once_the_overdraft_is_repaid(books: Books) -> None:
    acme = organization("acme")
    give(acme, USD / 4, "a")
    told = event()
    charge(acme, told)
    give(acme, USD, "b", kind=Grant.Kind.PURCHASED)
    assert left(acme) == {"a": 0, "b": USD / 4}
    corrections.void(organization_id=acme.pk, event_id=told.event_id, reason="wrong", by=BY)
    found = left(acme)
    assert (found.pop("a"), found.pop("b")) == (USD / 4, USD / 4)
    assert list(found.values()) == [USD * Decimal("0.75")]
    assert standing(acme)[:3] == (USD * Decimal("1.25"), 0, 0)
    assert_sound()


def test_a_void_while_something_is_owed_repays_it(books: Books) -> None:
    acme = organization("acme")
    told = event()
    charge(acme, told, event())
    corrections.void(organization_id=acme.pk, event_id=told.event_id, reason="wrong", by=BY)
    assert standing(acme)[:3] == (0, USD, USD)
    assert_sound()


def test_a_reference_grants_once_and_stands_for_one_story(books: Books) -> None:
    acme = organization("acme")
    first = give(acme, 5, "welcome")
    assert give(acme, 5, "welcome") == first
    for other in (partial(give, acme, 6), partial(give, acme, 5, kind=Grant.Kind.PURCHASED)):
        with pytest.raises(TransferConflict):
            other("welcome")
    with pytest.raises(TransferConflict):
        give(acme, 5, "welcome", priority=1)
    assert standing(acme).posted == 5
    assert_sound()


@proves("W18", guard="grants_have_one_reference")
def test_a_code_redeemed_by_many_at_once_is_granted_once(books: Books) -> None:
    acme = organization("acme")
    told = side_by_side(books, *(partial(give, acme, 5, "once-only") for _ in range(8)))
    assert len(set(told)) == 1
    assert rows("SELECT count(*), sum(amount_usd) FROM credit_grant") == [(1, 5)]
    assert standing(acme).posted == 5
    assert_sound()


@proves("W09", guard="grants_end_under_the_lock")
def test_a_grant_that_ends_while_a_debit_waits_pays_nothing_any_more(books: Books) -> None:
    acme = organization("acme", usd="1")
    give(acme, 5, "ending", expires_at=now() + SOON, priority=-1)
    held = threading.Event()

    def hold() -> None:
        with transaction.atomic():
            ledger.lock([acme.pk])
            held.set()
            until(waiting)
            # The end comes after the debit's transaction has begun and before it gets the lock.
            rows("UPDATE credit_grant SET expires_at = clock_timestamp() WHERE expires_at IS NOT NULL")
            rows("UPDATE wallet SET next_change = clock_timestamp()")

    def debit() -> None:
        assert held.wait(30)
        assert_all(charge(acme, event()), Status.CREATED)

    books.together([hold, debit])
    assert left(acme) == {"given": 1 - USD, "ending": 0}
    assert GrantUse.objects.filter(grant_id=Grant.objects.get(reference="ending").pk).count() == 1
    assert_sound()
