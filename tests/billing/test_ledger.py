"""The ledger on a real database: posted once, never changed, and the wallet is its sum."""

import threading
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection, transaction
from django.db.utils import IntegrityError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger
from billing.ledger import Move, TransferConflict
from billing.lots import Given
from billing.models import Account, Transfer, TransferKind, Wallet
from core import clock, ids
from metering.usage import started_at
from orgs.models import Organization
from tests.billing.world import (
    Standing,
    assert_sound,
    charge,
    organization,
    organizations,
    rows,
    side_by_side,
    standing,
)
from tests.books import Books
from tests.metering.world import event
from tests.proofs import proves

ONE = Decimal(1)


def grant(of: Organization | UUID, usd: Decimal, reference: str | None = None) -> Move:
    """Credit for an organization."""
    owner = of if isinstance(of, UUID) else of.pk
    cause = reference or f"grant:{ids.new()}"
    given = Given(
        ids.new(), owner, "promotional", usd, datetime(2026, 1, 1, tzinfo=UTC), cause, Account.PROMOTIONS, "", ""
    )
    return Move(owner, TransferKind.GRANT, Account.PROMOTIONS, Account.WALLET, usd, cause, given=given)


def usage(of: Organization | UUID, usd: Decimal) -> Move:
    """A charge without a reference of its own, as charging posts it."""
    return Move(
        of if isinstance(of, UUID) else of.pk, TransferKind.CHARGE, Account.WALLET, Account.REVENUE, usd, id=ids.new()
    )


def post(*moves: Move) -> dict[UUID, Any]:
    """Post moves in a transaction of their own."""
    with transaction.atomic():
        told = ledger.post(moves, at=started_at())
    return {owner: Standing(*wallet.standing[:4]) for owner, wallet in told.items()}


acts = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["grant", "charge"]),
            st.integers(1, 4),
            st.sampled_from([None, None, "a", "b"]),
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=6,
)


@pytest.mark.one_database
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=acts)
def test_after_any_history_of_posts_repeated_and_conflicting_the_wallet_is_the_sum_of_its_transfers(
    books: Books, history: list[list[tuple[int, str, int, str | None]]]
) -> None:
    owners = [organization(f"history-{ids.new()}") for _ in range(2)]
    posted: dict[tuple[int, str], int] = {}
    expected: dict[int, int] = defaultdict(int)
    for act in history:
        moves, new, conflict = [], dict(posted), False
        change: dict[int, int] = defaultdict(int)
        for of, kind, usd, reference in act:
            if kind == "charge":
                moves.append(usage(owners[of], Decimal(usd)))
                change[of] -= usd
                continue
            moves.append(grant(owners[of], Decimal(usd), reference))
            if reference is None or (of, reference) not in new:
                change[of] += usd
            if reference is not None:
                conflict |= new.setdefault((of, reference), usd) != usd
        if conflict:
            with pytest.raises(TransferConflict):
                post(*moves)
            continue
        told = post(*moves)
        posted = new
        for of, difference in change.items():
            expected[of] += difference
        for owner in {owners[of] for of, *_ in act}:
            assert told[owner.pk] == standing(owner)
    for of, owner in enumerate(owners):
        assert standing(owner).balance == expected[of]
    # Charges posted here have no usage records.
    assert_sound(but="V09")


def test_a_reference_posted_again_is_left_alone(books: Books) -> None:
    acme = organization("acme")
    first = post(grant(acme, ONE, "a"))
    assert post(grant(acme, ONE, "a")) == first
    assert post(grant(acme, ONE, "a"), grant(acme, ONE, "a")) == first
    assert rows("SELECT count(*) FROM transfer") == [(1,)]


@pytest.mark.parametrize(
    "other",
    [
        {"amount_usd": Decimal(2)},
        {"amount_usd": Decimal("1.000000000001")},
        {"debit": Account.ADJUSTMENTS},
    ],
    ids=str,
)
def test_a_reference_stands_for_one_story(books: Books, other: dict[str, Any]) -> None:
    acme = organization("acme")
    first = grant(acme, ONE, "a")
    post(first)
    before = standing(acme)
    with pytest.raises(TransferConflict):
        post(grant(acme, ONE, "b"), first._replace(**other))
    assert standing(acme) == before
    assert rows("SELECT reference FROM transfer") == [("a",)]
    with pytest.raises(TransferConflict):
        post(grant(acme, ONE, "c"), grant(acme, ONE, "c")._replace(**other))


def test_a_reference_is_one_organizations_and_one_kinds_own(books: Books) -> None:
    acme, umbrella = organization("acme"), organization("umbrella")
    post(grant(acme, ONE, "a"))
    with transaction.atomic():
        ledger.post([grant(umbrella, Decimal(2), "a")], at=started_at())
    assert standing(acme).balance == 1
    assert standing(umbrella).balance == 2


def test_a_reference_told_by_many_at_once_is_posted_once(books: Books) -> None:
    acme = organization("acme")
    told = side_by_side(books, *(partial(post, grant(acme, ONE, "a")) for _ in range(6)))
    assert {part[acme.pk] for part in told} == {standing(acme)}
    assert standing(acme).balance == 1
    assert_sound(but="V09")


def test_the_transfer_of_a_move_has_its_id_and_those_beside_it_their_own(books: Books) -> None:
    acme = organization("acme", usd="1")
    move = usage(acme, Decimal(3))
    post(move)
    found = rows("SELECT id, kind, reference FROM transfer WHERE kind <> 'grant' ORDER BY seq")
    assert [kind for _, kind, _ in found] == ["draw", "charge"]
    assert found[1][0] == move.id
    assert found[0][0] != move.id
    assert {reference for _, _, reference in found} == {f"transfer:{move.id}"}


def test_moves_of_one_post_see_what_those_before_them_left(books: Books) -> None:
    acme = organization("acme")
    post(grant(acme, ONE), usage(acme, Decimal(3)), grant(acme, Decimal(5)))
    kinds = rows("SELECT kind, amount_usd, balance_after_usd FROM transfer ORDER BY seq")
    assert kinds == [("grant", 1, 1), ("draw", 2, 1), ("charge", 3, -2), ("grant", 5, 3), ("repayment", 2, 3)]
    assert standing(acme) == Standing(Decimal(3), Decimal(0), Decimal(3), 5)
    assert_sound(but="V09")


def test_posting_needs_a_transaction(books: Books) -> None:
    acme = organization("acme")
    with pytest.raises(AssertionError):
        ledger.post([grant(acme, ONE)], at=clock.now())
    with pytest.raises(AssertionError):
        ledger.lock([acme.pk])


@pytest.mark.one_database
def test_locking_makes_the_wallets_that_are_missing(books: Books) -> None:
    owners = organizations(3)
    post(grant(owners[1], ONE))
    with transaction.atomic():
        found = ledger.lock([owner.pk for owner in owners])
    assert {key: value.standing.posted for key, value in found.items()} == {
        owner.pk: Decimal(place == 1) for place, owner in enumerate(owners)
    }
    assert rows("SELECT count(*) FROM wallet") == [(3,)]
    with transaction.atomic():
        assert ledger.lock([]) == {}


def test_two_who_make_the_same_wallet_at_once_both_find_it(books: Books) -> None:
    acme = organization("acme")
    told = side_by_side(books, *(partial(post, usage(acme, ONE)) for _ in range(6)))
    assert len(told) == 6
    assert standing(acme).balance == -6
    assert_sound(but="V09")


# The balance and its transfers (W14)


CHANGES = [
    "posted_usd = posted_usd + 1",
    "posted_usd = posted_usd - 1",
    "overdraft_usd = overdraft_usd + 1",
    "posted_usd = posted_usd + 1, seq = seq + 1",
    "posted_usd = posted_usd + 1, overdraft_usd = overdraft_usd + 1",
    "seq = seq + 1",
    "seq = seq - 1",
    "seq = 0, posted_usd = 0",
]


@proves("W14", guard="wallets_are_explained")
def test_a_balance_changes_only_with_the_transfer_that_explains_it(books: Books) -> None:
    acme = organization("acme", usd="5")
    charge(acme, event())
    before = standing(acme)
    for change in CHANGES:
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation), books.connect() as raw:
            raw.execute(f"UPDATE wallet SET {change}")
        assert standing(acme) == before, change
    with pytest.raises(IntegrityError):
        Wallet.objects.update(posted_usd=1_000_000)
    wallet = Wallet.objects.get()
    wallet.posted_usd = Decimal(1_000_000)
    with pytest.raises(IntegrityError):
        wallet.save()
    assert standing(acme) == before


@pytest.mark.one_database
def test_a_wallet_begins_empty_and_is_never_removed(books: Books) -> None:
    acme, umbrella = organization("acme", usd="5"), organization("umbrella")
    with pytest.raises(IntegrityError, match="begins empty"):
        Wallet.objects.create(organization=umbrella, posted_usd=1)
    with pytest.raises(IntegrityError, match="append-only"):
        Wallet.objects.filter(pk=acme.pk).delete()
    with pytest.raises(IntegrityError, match="explains"):
        Wallet.objects.filter(pk=acme.pk).update(organization=umbrella)


def test_what_is_no_balance_may_be_set(books: Books) -> None:
    acme = organization("acme", usd="5")
    Wallet.objects.filter(pk=acme.pk).update(credit_limit_usd=100, low_usd=1)
    assert standing(acme).posted == 5


# Locks (W20)


@proves("W20", guard="locks_let_children_in")
def test_rows_that_refer_to_a_locked_row_are_inserted_while_it_is_locked(books: Books) -> None:
    acme = organization("acme")
    with transaction.atomic():
        ledger.lock([acme.pk])
    with books.connect() as raw:
        # Grants and holds will refer to their wallet as this does.
        raw.execute("CREATE TABLE of_wallet (organization_id uuid REFERENCES wallet)")
        raw.execute("SET lock_timeout = '300ms'")
        with transaction.atomic():
            ledger.lock([acme.pk])
            raw.execute("INSERT INTO of_wallet VALUES (%s)", [acme.pk])
        with transaction.atomic():
            Organization.objects.select_for_update(no_key=True).get(pk=acme.pk)
            raw.execute(
                "INSERT INTO project (id, organization_id, name, created_at) VALUES (%s, %s, 'p', now())",
                [ids.new(), acme.pk],
            )
            raw.execute(
                "INSERT INTO transfer (organization_id, id, kind, debit, credit, amount_usd, reference, actor, reason,"
                " created_at, digest) VALUES (%s, %s, 'grant', 'promotions', 'adjustments', 1, 'x', '', '', now(), '')",
                [acme.pk, ids.new()],
            )


def test_a_locked_wallet_keeps_other_writers_waiting(books: Books) -> None:
    acme = organization("acme", usd="1")
    waited = threading.Event()

    def second() -> None:
        rows("SET lock_timeout = '100ms'")
        with suppress(Exception):
            post(usage(acme, ONE))
            return
        waited.set()

    with transaction.atomic():
        ledger.lock([acme.pk])
        books.together([second])
    assert waited.is_set()
    assert standing(acme).balance == 1


# What the schema refuses by itself


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"amount_usd": 0}, "transfer_positive"),
        ({"amount_usd": -1}, "transfer_positive"),
        ({"amount_usd": 100_000_000_000}, "transfer_positive"),
        ({"credit": "promotions"}, "transfer_between_two"),
        ({"seq": None}, "transfer_wallet_has_seq"),
        ({"balance_after_usd": None}, "transfer_wallet_has_seq"),
        ({"reference": "given"}, "transfer_once"),
        ({"seq": 1}, "transfer_seq_once"),
    ],
    ids=str,
)
def test_a_transfer_that_cannot_be_is_refused(books: Books, change: dict[str, Any], constraint: str) -> None:
    acme = organization("acme", usd="1")
    fields = {
        "organization": acme, "kind": "grant", "debit": "promotions", "credit": "wallet", "amount_usd": 1,
        "reference": "other", "seq": 2, "balance_after_usd": 2, "created_at": clock.now(), "digest": b"",
    }  # fmt: skip
    with pytest.raises(IntegrityError, match=constraint):
        Transfer.objects.create(**{**fields, **change})
    assert standing(acme).seq == 1


def test_the_connection_is_usable_after_a_conflict(books: Books) -> None:
    acme = organization("acme")
    post(grant(acme, ONE, "a"))
    with transaction.atomic():
        with pytest.raises(TransferConflict):
            ledger.post([grant(acme, Decimal(2), "a")], at=started_at())
        assert rows("SELECT 1") == [(1,)]
    assert connection.get_autocommit()


def test_a_disputed_payment_is_set_aside_and_returns_to_its_grant_or_is_taken_for_good(books: Books) -> None:
    acme = organization("acme")
    paid = ids.new()
    given = Given(
        paid, acme.pk, "purchased", Decimal(50), datetime(2026, 1, 1, tzinfo=UTC), "topup:1", Account.STRIPE_CLEARING,
        "", "",
    )  # fmt: skip
    topup = Move(
        acme.pk, TransferKind.TOPUP, Account.STRIPE_CLEARING, Account.WALLET, Decimal(50), "topup:1", given=given
    )
    tax = Move(acme.pk, TransferKind.TAX, Account.STRIPE_CLEARING, Account.TAXES, Decimal(10), "topup:1")
    assert post(topup, tax)[acme.pk] == Standing(Decimal(50), Decimal(0), Decimal(0), 2)
    frozen = Move(
        acme.pk, TransferKind.DISPUTE, Account.WALLET, Account.DISPUTES, Decimal(30), "dispute:1/frozen", claw=paid
    )
    withdrawn = Move(
        acme.pk, TransferKind.DISPUTE, Account.DISPUTES, Account.STRIPE_CLEARING, Decimal(30), "dispute:1/withdrawn"
    )
    assert post(frozen, withdrawn)[acme.pk].posted == 20
    assert post(frozen, withdrawn)[acme.pk] == Standing(Decimal(20), Decimal(0), Decimal(0), 4)
    back = Move(
        acme.pk, TransferKind.DISPUTE, Account.DISPUTES, Account.WALLET, Decimal(30), "dispute:1/won",
        back=[ledger.Back(paid, Decimal(30))],
    )  # fmt: skip
    assert post(back)[acme.pk] == Standing(Decimal(50), Decimal(0), Decimal(0), 5)
    lost = Move(
        acme.pk, TransferKind.CLAWBACK, Account.WALLET, Account.STRIPE_CLEARING, Decimal(60), "dispute:2", claw=paid
    )
    assert post(lost)[acme.pk] == Standing(Decimal(0), Decimal(10), Decimal(0), 7)
    assert rows("SELECT remaining_usd FROM credit_grant") == [(0,)]
    assert_sound()
