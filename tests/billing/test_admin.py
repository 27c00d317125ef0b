"""The desk's pages of billing together: exact, quick on any number of rows, closed to typing."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import transaction
from django.test import Client

from billing import grants
from billing.models import Correction, Rerating, Transfer, Wallet
from core import money
from metering.models import UsageRecord
from orgs.models import Organization
from tests import desk
from tests.billing.pages import acme, cells, charge, made_up, root, void
from tests.orgs import world

__all__ = ["acme", "root"]

MODELS: list[Any] = [Correction, Organization, Rerating, Transfer, UsageRecord, Wallet]


def test_every_list_view_and_search_answers_and_counts_nothing(root: Client, acme: Organization) -> None:
    void(acme)
    made_up(acme)
    shown = []
    for model in MODELS:
        row = model.objects.first()
        for text in (
            str(row),
            "acme-labs",
            "acme-labs 2",
            "acme-labs welcome:acme-labs",
            "x@example.com",
            "\x00",
            "9" * 99,
        ):
            shown.append(desk.read(root, desk.listing(model), q=text))
        shown += [desk.read(root, desk.listing(model)), desk.read(root, desk.page(row))]
        shown.append(desk.read(root, desk.page(row, "history")))
    assert len(shown) == 60
    assert desk.counting(shown) == []


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_added_changed_or_deleted(root: Client, acme: Organization, model: Any) -> None:
    void(acme)
    made_up(acme)
    row = model.objects.first()
    before = list(model.objects.order_by("pk").values())
    for kind in ("get", "post"):
        assert getattr(root, kind)(desk.listing(model) + "add/").status_code == 403
        assert getattr(root, kind)(desk.page(row, "delete"), {"post": "yes"}).status_code == 403
    assert root.post(desk.page(row), {"posted_usd": "1000000", "amount_usd": "1", "name": "x"}).status_code == 403
    root.post(desk.listing(model), {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"})
    assert list(model.objects.order_by("pk").values()) == before


def test_lists_take_the_same_queries_for_60_rows_as_for_3(root: Client, acme: Organization) -> None:
    desk.organization("second")
    desk.organization("third")
    wallets = desk.read(root, desk.listing(Wallet))
    organizations = desk.read(root, desk.listing(Organization), q="acme")
    transfers = desk.read(root, desk.listing(Transfer), organization="acme-labs")
    assert (len(wallets.rows), len(transfers.rows)) == (3, 4)
    big = desk.organization("big")
    desk.use(big, 60, charges=60)
    for number in range(57):
        desk.organization(f"acme-{number}")
    for model, few, query in (
        (Wallet, wallets, {}),
        (Organization, organizations, {"q": "acme"}),
        (Transfer, transfers, {"organization": "big"}),
    ):
        many = desk.read(root, desk.listing(model), **query)
        assert len(many.rows) == 50
        assert len(many.queries) == len(few.queries), many.queries


def test_pages_take_the_same_queries_for_60_rows_as_for_3(root: Client, acme: Organization) -> None:
    big = desk.organization("big")
    desk.use(big, 60)
    desk.use(world.organization("long"), 60, charges=60)
    for number in range(8):
        world.member(big, f"m{number}@example.com")
        world.organization_key(big, name=f"key {number}")
    long = Organization.objects.get(slug="long")
    rows: list[tuple[Any, Any]] = [
        (acme, big),
        (acme, long),
        (charge(acme)[1], charge(big)[1]),
        (charge(acme)[0], charge(big)[0]),
        (Wallet.objects.get(pk=acme.pk), Wallet.objects.get(pk=long.pk)),
        (made_up(acme), made_up(acme, big, long)),
    ]
    for few, many in rows:
        first, second = desk.read(root, desk.page(few)), desk.read(root, desk.page(many))
        assert len(first.queries) == len(second.queries), second.queries
        assert desk.counting([first, second]) == []


def test_lists_and_pages_read_ranges_of_the_key(root: Client, acme: Organization) -> None:
    record, transfer = charge(acme)
    correction = void(acme)
    for shown in (
        desk.read(root, desk.listing(Transfer), organization="acme-labs"),
        desk.read(root, desk.listing(Transfer), organization="acme-labs", p=str(transfer)),
        desk.read(root, desk.listing(Transfer), q="acme-labs 2"),
        desk.read(root, desk.listing(Transfer), q="acme-labs welcome:acme-labs"),
        desk.read(root, desk.page(transfer)),
        desk.read(root, desk.page(record)),
        desk.read(root, desk.page(correction)),
        desk.read(root, desk.page(acme)),
        desk.read(root, desk.page(Wallet.objects.get(pk=acme.pk))),
    ):
        assert [query for query in shown.queries if desk.KEYED.search(query)]
        assert desk.unkeyed(shown.queries) == [], "\n".join(desk.unkeyed(shown.queries))


def test_staff_who_may_not_see_money_see_none(acme: Organization) -> None:
    client = desk.clerk("view_organization")
    record, transfer = charge(acme)
    shown = desk.read(client, desk.page(acme))
    listed = desk.read(client, desk.listing(Organization))
    assert "acme-labs" in shown.text
    for secret in ("9.9989158", "0.0003614", str(record), str(transfer), f"key of {acme.slug}"):
        assert secret not in shown.text
        assert secret not in listed.text
    assert not [query for query in shown.queries + listed.queries if re.search(r'FROM "(wallet|transfer|usage)', query)]
    for row in (record, transfer, Wallet.objects.get(pk=acme.pk)):
        assert client.get(desk.page(row)).status_code == 403


def test_money_is_shown_in_plain_exact_digits(root: Client, acme: Organization) -> None:
    listed = desk.read(root, desk.listing(Transfer), organization="acme-labs")
    rows = list(Transfer.objects.filter(organization=acme).order_by("-id"))
    assert cells(listed.text, "amount") == [money.plain(row.amount_usd) for row in rows]
    assert cells(listed.text, "balance_after") == [money.plain(row.balance_after_usd) for row in rows]
    assert "0.0003614" in cells(listed.text, "amount")
    assert "10" in cells(listed.text, "amount")
    wallets = desk.read(root, desk.listing(Wallet))
    assert cells(wallets.text, "balance") == ["9.9989158"]
    assert "E-" not in listed.text + wallets.text


def test_names_and_reasons_are_shown_as_text(root: Client) -> None:
    nasty = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    acme = desk.organization("acme-labs")
    Organization.objects.filter(pk=acme.pk).update(name=nasty)
    with transaction.atomic():
        grants.promote(organization_id=acme.pk, amount_usd=Decimal(1), reference=nasty, actor=nasty, reason=nasty)
    desk.report(acme, [desk.event("evt_1", end_user=nasty)])
    record, _ = charge(acme)
    grant = Transfer.objects.get(organization=acme, reference=nasty)
    pages = [desk.read(root, desk.page(row)).text for row in (acme, grant, record, Wallet.objects.get(pk=acme.pk))] + [
        desk.read(root, desk.listing(model), organization="acme-labs").text for model in (Transfer, UsageRecord)
    ]
    pages.append(desk.read(root, desk.listing(Organization), q="acme-labs").text)
    for text in pages:
        assert "<img src=x" not in text
        assert "<script>alert" not in text
    assert sum("&lt;img src=x" in text for text in pages) >= 6


def test_every_table_of_the_product_has_its_page() -> None:
    ours = {"orgs", "ops", "metering", "billing"}
    bare = {
        model.__name__
        for model in apps.get_models()
        if model._meta.app_label in ours and model not in admin.site._registry
    }
    # Parts are shown with what they belong to; the epoch, the horizon and the mark are for processes.
    assert bare == {
        "UsageClaim", "CacheEpoch", "PriceDraftLine", "ReratingShare", "BudgetSpend", "LedgerHead", "ArchivedSum",
        "ClaimHorizon", "UsageRollup", "RollupMark", "InvoiceLine", "InvoiceSettlement", "NumberSeries",
        "ProviderBillLine", "ReconciliationMark", "Attempt",
    }  # fmt: skip
