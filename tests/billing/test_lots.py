"""Grants as rows: what is open, what begins later, and what the schema refuses by itself."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.utils import IntegrityError

from billing import lots
from billing.models import Grant, GrantUse
from core import ids
from tests.billing.test_grants import USD, give, now
from tests.billing.world import charge, organization, rows
from tests.books import Books
from tests.metering.world import event


def test_open_lots_stand_in_the_order_they_are_spent_and_those_to_come_by_their_beginning(books: Books) -> None:
    acme, other = organization("acme"), organization("other")
    paid = give(acme, 1, "paid", kind=Grant.Kind.PURCHASED)
    free = give(acme, 1, "free")
    give(acme, USD, "spent", priority=-5)
    charge(acme, event())
    later = give(acme, 1, "later", effective_at=now() + timedelta(hours=2))
    sooner = give(acme, 1, "sooner", effective_at=now() + timedelta(hours=1))
    found = lots.opened([acme.pk, other.pk])
    assert set(found) == {acme.pk}
    assert [lot.id for lot in found[acme.pk].lots] == [free, paid]
    assert [one.id for one in found[acme.pk].waiting] == [sooner, later]


def test_one_query_finds_the_lots_of_many(books: Books, django_assert_num_queries: Any) -> None:
    owners = [organization(f"org-{place}", usd="1") for place in range(5)]
    with django_assert_num_queries(1):
        assert len(lots.opened([owner.pk for owner in owners])) == 5


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("remaining_usd = -0.000000000001", "credit_grant_remaining_in_range"),
        ("remaining_usd = amount_usd + 0.000000000001", "credit_grant_remaining_in_range"),
        ("remaining_usd = 'NaN'", "credit_grant_remaining_in_range"),
        ("amount_usd = 0, remaining_usd = 0", "credit_grant_positive"),
        ("amount_usd = 'NaN'", "credit_grant_positive"),
        ("expires_at = effective_at", "credit_grant_ends_after_it_begins"),
    ],
)
def test_a_grant_that_cannot_be_is_refused(books: Books, change: str, constraint: str) -> None:
    organization("acme", usd="1")
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        rows(f"UPDATE credit_grant SET {change}")


def test_grants_stay_and_their_uses_never_change(books: Books) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event())
    for statement in (
        "DELETE FROM credit_grant", "TRUNCATE credit_grant CASCADE", "DELETE FROM grant_use",
        "UPDATE grant_use SET amount_usd = 1", "TRUNCATE grant_use",
    ):  # fmt: skip
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    assert GrantUse.objects.get().amount_usd == USD


def test_a_use_names_a_transfer_and_a_grant_of_its_own_organization(books: Books) -> None:
    acme, other = organization("acme", usd="1"), organization("other", usd="1")
    charge(acme, event())
    use = GrantUse.objects.get()
    foreign = Grant.objects.get(organization=other)
    with pytest.raises(IntegrityError), transaction.atomic():
        GrantUse.objects.create(
            organization=acme, transfer_id=use.transfer_id, grant_id=foreign.pk, amount_usd=Decimal(1)
        )
    with pytest.raises(IntegrityError), transaction.atomic():
        GrantUse.objects.create(organization=acme, transfer_id=ids.new(), grant_id=use.grant_id, amount_usd=Decimal(1))
