"""The desk's pages of who owes: exact, quick on any number of rows, closed to typing."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection, transaction
from django.test import Client

from billing import corrections, grants
from billing.models import Correction, Rerating, ReratingShare, Transfer, TransferKind, Wallet
from core import clock, ids, money
from metering.models import UsageRecord
from orgs.models import ApiKey, Member, Organization
from tests import desk
from tests.orgs import world

MODELS: list[Any] = [Correction, Organization, Rerating, Transfer, UsageRecord, Wallet]


@pytest.fixture
def root(db: None) -> Client:
    return desk.superuser()


@pytest.fixture
def acme(db: None) -> Organization:
    made = desk.organization("acme-labs")
    desk.use(made, 3, charges=3)
    return made


def void(of: Organization, event_id: str = "evt_0") -> Correction:
    corrections.void(organization_id=of.pk, event_id=event_id, reason="sent by mistake", by=world.BY)
    return Correction.objects.get(organization=of)


def rerating(*of: Organization) -> Rerating:
    """An act with a share for each organization."""
    now = clock.now()
    act = Rerating.objects.create(start=now, end=now, reason="a late price", actor="tests", model_slugs=[desk.MODEL])
    for each in of:
        ReratingShare.objects.create(
            rerating=act, organization=each, records=1234, before_usd=Decimal("3.5"), after_usd=Decimal("1.25")
        )
    return act


def charge(of: Organization, event_id: str = "evt_1") -> tuple[UsageRecord, Transfer]:
    record = UsageRecord.objects.get(organization=of, event_id=event_id, corrects_id=None)
    assert record.transfer_id is not None
    return record, Transfer.objects.get(organization=of, id=record.transfer_id)


def cells(text: str, field: str) -> list[str]:
    """What a column of a list shows, without markup."""
    found = re.findall(rf'<t[dh] class="field-{field}[^"]*">(.*?)</t[dh]>', text)
    return [re.sub("<[^>]*>", "", cell) for cell in found]


def test_every_list_view_and_search_answers_and_counts_nothing(root: Client, acme: Organization) -> None:
    void(acme)
    rerating(acme)
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
    rerating(acme)
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
        (rerating(acme), rerating(acme, big, long)),
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
    newest = re.findall(r"org_\w+:(usage_\w+)", desk.read(root, desk.page(other)).text)
    assert newest == [str(row) for row in UsageRecord.objects.filter(organization=other).order_by("-id")[:20]]


def cells_of_page(text: str, field: str) -> str:
    """What a page shows for a field, without markup."""
    found = re.search(rf'field-{field}">.*?<div class="readonly">(.*?)</div>', text, re.DOTALL)
    assert found is not None, field
    return re.sub("<[^>]*>", "", found[1]).strip()


def test_an_organization_that_never_had_money_has_a_page_and_a_row(root: Client) -> None:
    fresh = world.organization("fresh")
    assert not Wallet.objects.exists()
    text = desk.read(root, desk.page(fresh)).text
    assert (cells_of_page(text, "balance"), cells_of_page(text, "status")) == ("0", "empty")
    assert "No money has moved yet." in text
    assert cells(desk.read(root, desk.listing(Organization), q="fresh").text, "balance") == ["0"]


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


def test_who_may_see_transfers_but_no_usage_sees_no_usage_on_a_transfer(acme: Organization) -> None:
    client = desk.clerk("view_transfer", "view_wallet")
    record, transfer = charge(acme)
    shown = desk.read(client, desk.page(transfer)).text
    assert "0.0003614" in shown
    assert str(record) not in shown


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


@pytest.mark.parametrize("text", ["{id}", "acme-labs {id}", "acme-labs {seq}", "acme-labs {reference}"])
def test_a_transfer_is_found_by_id_number_and_reference(root: Client, acme: Organization, text: str) -> None:
    desk.use(desk.organization("other"), 2)
    row = Transfer.objects.get(organization=acme, kind=TransferKind.GRANT)
    found = desk.read(root, desk.listing(Transfer), q=text.format(id=row, seq=row.seq, reference=row.reference))
    assert found.address == desk.page(row)
    assert cells_of_page(found.text, "reference") == "welcome:acme-labs"


def test_a_transfer_of_another_organization_is_not_found_under_this_one(root: Client, acme: Organization) -> None:
    other = desk.organization("other")
    theirs = Transfer.objects.get(organization=other)
    for text in (f"acme-labs {theirs}", f"acme-labs {theirs.reference}", "acme-labs 99"):
        assert desk.read(root, desk.listing(Transfer), q=text).address != desk.page(theirs)
    wrong = desk.page(theirs).replace(ids.show("org", other.pk), ids.show("org", acme.pk))
    assert root.get(wrong).status_code == 302


def test_a_transfer_shows_the_records_that_it_charged_and_a_record_its_transfer(root: Client) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 30, charges=10)
    record, transfer = charge(acme, "evt_7")
    shown = desk.read(root, desk.page(transfer)).text
    mine = UsageRecord.objects.filter(organization=acme, transfer_id=transfer.pk).order_by("id")
    assert re.findall(r"org_\w+:(usage_\w+)", shown) == [str(row) for row in mine]
    assert len(mine) == 3
    assert desk.page(transfer) in desk.read(root, desk.page(record)).text


def test_a_transfer_of_many_records_shows_the_first_and_says_so(root: Client) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 25)
    shown = desk.read(root, desk.page(charge(acme)[1])).text
    assert len(re.findall(r"org_\w+:(usage_\w+)", shown)) == 20
    assert "The first 20; there are more." in shown


def test_a_void_is_shown_on_the_record_and_leads_to_its_transfer(root: Client, acme: Organization) -> None:
    correction = void(acme)
    record, _ = charge(acme, "evt_0")
    text = desk.read(root, desk.page(record)).text
    assert "-0.0003614" in text
    assert "sent by mistake" in text
    assert desk.page(correction) in text
    back = Transfer.objects.get(organization=acme, kind=TransferKind.VOID)
    assert back.pk == correction.transfer_id
    shown = desk.read(root, desk.page(correction)).text
    assert desk.page(back) in shown
    assert desk.page(record) in shown
    assert str(correction) in desk.read(root, desk.page(back)).text
    assert [row.pk for row in desk.read(root, desk.listing(Correction), q="acme-labs").rows] == [correction.pk]
    assert [row.pk for row in desk.read(root, desk.listing(Correction), q=str(correction)).rows] == [correction.pk]


def test_a_rerating_shows_what_it_means_for_each_organization(root: Client, acme: Organization) -> None:
    act = rerating(acme, desk.organization("other"))
    text = desk.read(root, desk.page(act)).text
    assert desk.MODEL in text
    assert "1,234" in text
    assert "-2.25" in text
    assert text.count("/admin/orgs/organization/0") == 2
    assert [row.pk for row in desk.read(root, desk.listing(Rerating), q=str(act)).rows] == [act.pk]
    assert desk.read(root, desk.listing(Rerating), q="acme-labs").rows == []


def test_an_overdrawn_wallet_says_so(root: Client) -> None:
    poor = desk.organization("poor", usd="0.0001")
    desk.use(poor, 1)
    shown = desk.read(root, desk.page(Wallet.objects.get(pk=poor.pk))).text
    assert cells_of_page(shown, "balance") == "-0.0002614"
    assert cells_of_page(shown, "overdraft") == "0.0002614"
    assert cells_of_page(shown, "status") == "empty"


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
    # Parts are shown with what they belong to; the epoch is a number for processes.
    assert bare == {"UsageClaim", "CacheEpoch", "PriceDraftLine", "ReratingShare"}
