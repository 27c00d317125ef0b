"""The watch over statements sees what Citus would refuse, and nothing else."""

import pytest
from django.db import connection, transaction

from billing import charges, ledger
from core.bulk import copy_rows
from orgs.models import Organization
from tests.grouping import by_organization

# Breaches on purpose, which a watch around the whole test would see as well.
pytestmark = pytest.mark.one_database


@pytest.fixture
def two(db: None) -> list[Organization]:
    return [Organization.objects.create(slug=slug, name=slug) for slug in ("acme", "umbrella")]


def test_one_lock_over_two_organizations_is_seen(two: list[Organization]) -> None:
    with pytest.raises(AssertionError, match="FOR NO KEY UPDATE"), by_organization(), transaction.atomic():
        ledger.lock({organization.pk for organization in two})


def test_one_update_over_two_organizations_is_seen(two: list[Organization]) -> None:
    with pytest.raises(AssertionError, match="UPDATE"), by_organization():
        Organization.objects.filter(pk__in=[organization.pk for organization in two]).update(name="x")


def test_a_lock_after_another_and_a_plain_read_are_fine(two: list[Organization]) -> None:
    with by_organization(), transaction.atomic():
        for organization in two:
            ledger.lock({organization.pk})
        assert Organization.objects.filter(pk__in=[organization.pk for organization in two]).count() == 2
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::uuid <> %s::uuid", [two[0].pk, two[1].pk])
            assert cursor.fetchone() == (True,)


def test_batches_are_taken_apart_by_organization() -> None:
    before = charges.together
    with by_organization():
        assert charges.together is charges.by_organization
    assert charges.together is before


def test_a_copy_with_a_condition_is_seen_and_one_without_is_fine(two: list[Organization]) -> None:
    with by_organization(), transaction.atomic():
        copy_rows("cache_epoch", {"id": "int2"}, [])
    with pytest.raises(AssertionError, match="a COPY has a condition"), by_organization(), transaction.atomic():
        copy_rows("cache_epoch", {"id": "int2"}, [], in_order=True)
