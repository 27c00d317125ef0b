"""The desk's page of organizations: their money, members, keys and latest usage, and how they are found."""

import re
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.test import Client

from billing import grants
from billing.models import Wallet
from core import ids
from metering.models import UsageRecord
from orgs.models import ApiKey, Member, Organization
from tests import desk
from tests.billing.pages import acme, cells, cells_of_page, charge, root
from tests.orgs import world

__all__ = ["acme", "root"]


def test_an_organizations_page_shows_its_wallet_members_keys_and_newest_usage(root: Client, acme: Organization) -> None:
    other = desk.organization("other", usd="4")
    desk.use(other, 30)
    text = desk.read(root, desk.page(acme)).text
    # 10 less three times 1,200 × 0.27 + 34 × 1.10 dollars a million.
    assert cells_of_page(text, "balance") == "9.9989158"
    assert cells_of_page(text, "spent") == "0.0010842"
    assert cells_of_page(text, "status") == "active"
    assert Member.objects.get(organization=acme).user.email in text
    assert f"key of {acme.slug}" in text
    assert "key of other" not in text
    record, transfer = charge(acme)
    for row in (record, transfer, Wallet.objects.get(pk=acme.pk), ApiKey.objects.get(organization=acme)):
        assert desk.page(row) in text
    assert f'href="{desk.listing(UsageRecord)}?organization=acme-labs"' in text
    newest = re.findall(r"org_\w+:(usage_\w+)/change/", desk.read(root, desk.page(other)).text)
    assert newest == [str(row) for row in UsageRecord.objects.filter(organization=other).order_by("-id")[:20]]


def test_an_organization_that_never_had_money_has_a_page_and_a_row(root: Client) -> None:
    fresh = world.organization("fresh")
    assert not Wallet.objects.exists()
    text = desk.read(root, desk.page(fresh)).text
    assert (cells_of_page(text, "balance"), cells_of_page(text, "status")) == ("0", "empty")
    assert "No money has moved yet." in text
    assert cells(desk.read(root, desk.listing(Organization), q="fresh").text, "balance") == ["0"]


@pytest.mark.parametrize("text", ["acme", "ACME-labs", "{org}", "Acme Laboratories", "acme laboratories"])
def test_an_organization_is_found_by_slug_id_and_name(root: Client, acme: Organization, text: str) -> None:
    Organization.objects.filter(pk=acme.pk).update(name="Acme Laboratories")
    desk.organization("other")
    found = desk.read(root, desk.listing(Organization), q=text.format(org=ids.show("org", acme.pk)))
    assert [row.pk for row in found.rows] == [acme.pk]


def test_a_persons_organization_is_found_by_address(root: Client) -> None:
    ada = world.person()
    for model in (Organization, Wallet):
        desk.organization(f"x-{model.__name__.lower()}")
    with transaction.atomic():
        grants.promote(
            organization_id=world.personal(ada).pk, amount_usd=Decimal(1), reference="x", actor="x", reason="x"
        )
    for model in (Organization, Wallet):
        assert [row.pk for row in desk.read(root, desk.listing(model), q="Ada@example.com").rows] == [
            world.personal(ada).pk
        ]


def test_organizations_are_found_through_an_index(root: Client, acme: Organization) -> None:
    for text in ("acme", "ada@example.com", ids.show("org", acme.pk)):
        shown = desk.read(root, desk.listing(Organization), q=text)
        (query,) = [
            each for each in shown.queries if each.startswith('SELECT "organization"."id", "organization"."slug"')
        ]
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {query}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert re.search(r"Index Cond: .*(slug|email|id) ", plan), plan
