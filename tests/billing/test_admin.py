"""The desk's pages of who owes: exact, quick on any number of rows, closed to typing."""

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import OperationalError, connection, transaction
from django.test import Client
from psycopg.errors import QueryCanceled

from billing import corrections, grants, margins, rerating, tasks, wallets
from billing.explain import explain
from billing.models import Correction, Rerating, ReratingShare, Transfer, TransferKind, Wallet
from core import clock, errors, ids, money
from metering import rating, rules, usage
from metering.catalog import Listing, Version
from metering.models import UsageRecord
from orgs import caches
from orgs.models import ApiKey, AuditEntry, Member, Organization, User
from tests import desk
from tests.billing import world as books
from tests.metering import world as metering
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


def made_up(*of: Organization) -> Rerating:
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
    found = re.findall(rf'<t[dh] class="field-{field}\b[^>]*>(.*?)</t[dh]>', text)
    return [re.sub("<[^>]*>", "", cell) for cell in found]


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


def cells_of_page(text: str, field: str) -> str:
    """What a page shows for a field, without markup."""
    found = re.search(rf'field-{field} .*?<div class="readonly[^"]*">(.*?)</div>', text, re.DOTALL)
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
    assert cells_of_page(found.text, "cause") == "welcome:acme-labs"


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
    assert re.findall(r"org_\w+:(usage_\w+)/change/", shown) == [str(row) for row in mine]
    assert len(mine) == 3
    assert desk.page(transfer) in desk.read(root, desk.page(record)).text


def test_a_transfer_of_many_records_shows_the_first_and_says_so(root: Client) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 25)
    shown = desk.read(root, desk.page(charge(acme)[1])).text
    assert len(re.findall(r"org_\w+:(usage_\w+)/change/", shown)) == 20
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
    act = made_up(acme, desk.organization("other"))
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


NASTY = "<script>alert(1)</script>"
DOUBLE = {"terms": [{"when": {}, "rates": {"input": "0.54", "output": "2.20"}}]}
RERATER = ("view_rerating", "change_rerating", "view_reratingshare")


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A switch: from then on the book says twice the price, and a period may end now, as nothing else writes."""

    def switch() -> None:
        price_at = Listing.price_at

        def twice(self: Listing, slug: str, at: datetime) -> Version | None:
            version = price_at(self, slug, at)
            return version and version._replace(card=rating.read_card(DOUBLE))

        monkeypatch.setattr(Listing, "price_at", twice)
        monkeypatch.setattr(usage, "FINAL_AFTER", timedelta(hours=-1))

    return switch


def plan_form(**told: str) -> dict[str, str]:
    """A form for the last hour and the next minutes."""
    now = clock.now()
    period = {
        "start": f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M}",
        "end": f"{now + timedelta(minutes=5):%Y-%m-%dT%H:%M}",
    }
    return {**period, "models": "", "organizations": "", "reason": "a late price", **told}


def planned(by: Client, **told: str) -> Rerating:
    desk.send(by, f"{desk.listing(Rerating)}plan/", **plan_form(**told))
    return Rerating.objects.latest("id")


def test_a_rerating_is_planned_applied_and_undone(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    desk.use(desk.organization("other"), 1)
    doubled()
    assert desk.buttons(desk.read(root, desk.listing(Rerating))) == ["Plan a re-rating"]
    plan = f"{desk.listing(Rerating)}plan/"
    assert 'type="datetime-local"' in desk.read(root, plan).text
    done = desk.send(root, plan, **plan_form())
    act = Rerating.objects.get()
    assert (done.address, desk.said(done)) == (desk.page(act), ["success: A dry run: nothing is posted yet."])
    # Three records and one of 361.4 millionths, which cost twice as much now.
    lines = [["acme-labs", "3", "0.0010842", "0.0021684", "+0.0010842", "0"], ["other", "1", "0.0003614", "0.0007228"]]
    shown = desk.cells(done.text)
    assert [*lines[0], "no"] in shown
    assert [*lines[1], "+0.0003614", "0", "no"] in shown
    assert ["all", "4", "0.0014456", "0.0028912", "+0.0014456", "0", ""] in shown
    assert "planned: a dry run, nothing is posted" in done.text
    assert not Correction.objects.exists()

    asked = desk.read(root, desk.page(act, "apply"))
    assert ["all", "4", "0.0014456", "0.0028912", "+0.0014456", "0", ""] in desk.cells(asked.text)
    assert Rerating.objects.get().state == "planned"
    begun = desk.send(root, desk.page(act, "apply"))
    assert desk.said(begun) == ["success: Begun: a worker posts the differences, and this page follows it."]
    assert "being applied: 0 of 2 organizations done, 0 records corrected so far" in begun.text
    assert '<meta http-equiv="refresh" content="5">' in begun.text
    assert desk.buttons(begun) == []
    assert desk.said(desk.send(root, desk.page(act, "apply"))) == ["warning: It was begun before."]
    assert desk.said(desk.send(root, desk.page(act, "undo"), reason="x")) == [
        "error: Only an applied re-rating can be undone."
    ]

    assert tasks.apply_reratings() == "0 acts still go on"
    applied = desk.read(root, desk.page(act))
    assert [*lines[0], "yes"] in desk.cells(applied.text)
    assert (desk.buttons(applied), "refresh" in applied.text) == (["Undo"], False)
    assert set(Correction.objects.values_list("actor", flat=True)) == {"root@example.com"}
    # 10 less twice three times 361.4 millionths.
    assert Wallet.objects.get(pk=acme.pk).posted_usd == Decimal("9.9978316")

    undone = desk.send(root, desk.page(act, "undo"), reason=f"wrong {NASTY}")
    back = Rerating.objects.get(undoes=act)
    assert undone.address == desk.page(back)
    assert desk.said(undone) == ["success: Begun: this act takes the differences back, and this page follows it."]
    assert f'<a href="{desk.page(act)}">{act}</a>' in undone.text
    assert "wrong &lt;script&gt;" in undone.text
    assert "<script>alert" not in undone.text + desk.read(root, desk.listing(Rerating)).text
    tasks.apply_reratings()
    assert Wallet.objects.get(pk=acme.pk).posted_usd == Decimal("9.9989158")
    after = desk.read(root, desk.page(act))
    assert desk.buttons(after) == []
    assert f'<a href="{desk.page(back)}">{back}</a>' in after.text
    assert desk.said(desk.send(root, desk.page(act, "undo"), reason="again")) == [
        "error: This re-rating was undone before."
    ]
    acts = AuditEntry.objects.filter(verb__startswith="rerating").order_by("id").values_list("verb", "actor_label")
    assert list(acts) == [(f"rerating.{verb}", "root@example.com") for verb in ("planned", "applied", "undone")]


def test_a_rerating_is_narrowed_by_models_and_organizations(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    other = desk.organization("other")
    desk.use(other, 1)
    doubled()
    ada = world.personal(world.person())
    named = f"acme-labs, {ids.show('org', other.pk)}\n ADA@example.com acme-labs"
    act = planned(root, organizations=named, models=f"{desk.MODEL},gpt-4o")
    assert set(act.organization_ids) == {acme.pk, other.pk, ada.pk}
    assert act.model_slugs == [desk.MODEL, "gpt-4o"]
    text = desk.read(root, desk.page(act)).text
    assert cells_of_page(text, "models_text") == f"{desk.MODEL}, gpt-4o"
    assert set(cells_of_page(text, "organizations_text").split(", ")) == {"acme-labs", "other", ada.slug}
    alone = planned(root, organizations="other", models="gpt-4o")
    assert "Nothing changes for anybody." in desk.read(root, desk.page(alone)).text


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"models": "nobody-9"}, "No model nobody-9 is in the catalog."),
        ({"models": NASTY}, "No model &lt;script&gt;alert(1)&lt;/script&gt; is in the catalog."),
        ({"organizations": "acme-labs nobody"}, "No organization is called nobody."),
        ({"organizations": NASTY}, "No organization is called &lt;script&gt;alert(1)&lt;/script&gt;."),
        ({"organizations": " ".join(map(str, range(201)))}, "At most 200 can be named."),
        ({"reason": " "}, "This field is required."),
        ({"reason": "x" * 501}, "Ensure this value has at most 500 characters (it has 501)."),
        ({"start": "2099-01-01T00:00"}, "A period ends after it starts, and at least a minute ago."),
        ({"end": "2099-01-01T00:00"}, "A period ends after it starts, and at least a minute ago."),
        ({"start": "0001-01-01T00:00"}, "That is before anything was recorded."),
        ({"end": "x"}, "Enter a valid date/time."),
        ({"reason": "a\x00b"}, "Null characters are not allowed."),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_at_its_field(
    root: Client, acme: Organization, told: dict[str, str], why: str
) -> None:
    fine = {"start": "2026-01-01T00:00", "end": "2026-01-02T00:00"}
    place = f"{desk.listing(Rerating)}plan/"
    shown = desk.send(root, place, **{**plan_form(**fine), **told})
    assert (shown.address, desk.errors(shown)) == (place, [why])
    assert "<script>alert" not in shown.text
    assert not Rerating.objects.exists()


def test_an_undo_says_why(root: Client, acme: Organization, doubled: Callable[[], None]) -> None:
    doubled()
    act = planned(root)
    rerating.apply(act, by=desk.actor())
    shown = desk.send(root, desk.page(act, "undo"), reason=" ")
    assert (shown.address, desk.errors(shown)) == (desk.page(act, "undo"), ["This field is required."])
    assert not Rerating.objects.filter(undoes=act).exists()


def test_who_may_only_see_reratings_has_no_buttons_and_is_refused(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    doubled()
    act = planned(root)
    viewer = desk.clerk("view_rerating", "view_reratingshare", "add_rerating")
    shown = desk.read(viewer, desk.page(act))
    assert (desk.buttons(shown), desk.buttons(desk.read(viewer, desk.listing(Rerating)))) == ([], [])
    assert "acme-labs" in shown.text
    for place in (f"{desk.listing(Rerating)}plan/", desk.page(act, "apply"), desk.page(act, "undo")):
        assert viewer.get(place).status_code == 403
        assert viewer.post(place, {**plan_form(), "reason": "x"}).status_code == 403
    assert [(row.pk, row.state) for row in Rerating.objects.all()] == [(act.pk, "planned")]


def test_who_may_change_reratings_plans_and_applies_under_their_own_name(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    doubled()
    act = planned(root)
    clerk = desk.clerk(*RERATER)
    assert desk.buttons(desk.read(clerk, desk.page(act))) == ["Apply"]
    desk.send(clerk, desk.page(act, "apply"))
    tasks.apply_reratings()
    # Planned by root; what is posted names who decided that it is.
    assert set(Correction.objects.values_list("actor", flat=True)) == {"clerk@example.com"}
    assert AuditEntry.objects.get(verb="rerating.planned").actor_label == "root@example.com"


def test_a_post_from_another_site_applies_nothing(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    doubled()
    act = planned(root)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(email="root@example.com"))
    assert strict.post(desk.page(act, "apply")).status_code == 403
    assert strict.post(f"{desk.listing(Rerating)}plan/", plan_form()).status_code == 403
    assert Rerating.objects.get().state == "planned"


def test_pages_of_an_act_take_the_same_queries_for_many_organizations(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    for number in range(8):
        desk.use(desk.organization(f"o{number}"), 1)
    doubled()
    everybody = " ".join(["acme-labs", *(f"o{number}" for number in range(8))])
    few, many = planned(root, organizations="acme-labs"), planned(root, organizations=everybody)
    assert ReratingShare.objects.filter(rerating=few).count() == 1
    assert ReratingShare.objects.filter(rerating=many).count() == 9
    for kind in ("change", "apply"):
        first, second = (desk.read(root, desk.page(act, kind)) for act in (few, many))
        assert len(first.queries) == len(second.queries), second.queries


def explain_page(record: UsageRecord) -> str:
    return desk.page(record, "explain")


def test_a_cost_is_taken_apart_into_pools_and_rates(root: Client, acme: Organization) -> None:
    event = metering.event(event_id="apart", provider_cost_usd=Decimal("0.0001"), attempts=3, channel="azure-eu")
    books.charge(acme, event)
    record, transfer = charge(acme, "apart")
    shown = desk.read(root, explain_page(record))
    lines = desk.cells(shown.text)
    for line in (
        ["input", "360", "0.27", "1M tokens", "0.0000972"],
        ["cached input", "640", "0.07", "1M tokens", "0.0000448"],
        ["output", "200", "1.1", "1M tokens", "0.00022"],
        ["in all", "", "", "", "0.000362"],
        ["arithmetic", "360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362"],
        ["checked", "The parts add up to what was charged."],
        ["rates", "ordinary"],
        ["price version", ids.show("price", record.price_id)],
        ["price rule", "none: the catalog&#x27;s price"],
        ["transfer", str(transfer)],
        ["attempts", "3"],
        ["channel", "azure-eu"],
        ["margin (USD)", "0.000262"],
    ):
        assert line in lines, line
    assert f'<a href="{desk.page(transfer)}">' in shown.text
    assert desk.counting([shown]) == []
    assert desk.unkeyed(shown.queries) == []


def test_a_record_and_its_transfer_lead_to_the_explanation(root: Client, acme: Organization) -> None:
    record, transfer = charge(acme)
    page = desk.read(root, desk.page(record))
    assert desk.buttons(page) == ["Explain the cost", "Void"]
    for shown in (page, desk.read(root, desk.page(transfer)), desk.read(root, desk.page(acme))):
        assert f'href="{explain_page(record)}"' in shown.text


def test_the_rule_and_its_reason_are_part_of_the_explanation(root: Client, acme: Organization) -> None:
    start = clock.now() + timedelta(hours=1)
    rule = rules.publish(
        by=world.BY, reason=f"half {NASTY}", effective_from=start, organization=acme, factor=Decimal("0.5")
    )
    caches.forget_all()
    books.charge(acme, metering.event(event_id="half", occurred_at=start + timedelta(minutes=1)))
    record, _ = charge(acme, "half")
    shown = desk.read(root, explain_page(record))
    lines = desk.cells(shown.text)
    assert ["price rule", str(rule)] in lines
    assert ["it says", "0.5 × the catalog&#x27;s price"] in lines
    assert ["because", "half &lt;script&gt;alert(1)&lt;/script&gt;"] in lines
    assert ["input", "360", "0.135", "1M tokens", "0.0000486"] in lines
    assert "<script>alert" not in shown.text


def test_a_void_is_explained_from_both_ends(root: Client, acme: Organization) -> None:
    books.charge(acme, metering.event(event_id="gone", provider_cost_usd=Decimal("0.0001"), channel=NASTY))
    record, _ = charge(acme, "gone")
    corrections.void(organization_id=acme.pk, event_id="gone", reason=NASTY, by=world.BY)
    correction = Correction.objects.get()
    shown = desk.read(root, explain_page(record))
    lines = desk.cells(shown.text)
    assert ["after corrections (USD)", "0"] in lines
    assert ["margin (USD)", "-0.0001"] in lines
    assert any(line[:1] == ["Void"] and line[2] == "-0.000362" for line in lines)
    back = UsageRecord.objects.get(organization=acme, id=correction.pk)
    taken = desk.read(root, explain_page(back))
    assert ["cost (USD)", "-0.000362"] in desk.cells(taken.text)
    assert ["margin (USD)", "-"] in desk.cells(taken.text)
    assert f'<a href="{desk.page(record)}">' in taken.text
    assert "<script>alert" not in shown.text + taken.text
    assert "&lt;script&gt;" in shown.text


def test_a_cost_that_does_not_add_up_is_shouted(
    root: Client, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = charge(acme)
    monkeypatch.setattr("billing.admin.explain", lambda row: explain(row)._replace(matches=False))
    assert "THE PARTS DO NOT ADD UP TO WHAT WAS CHARGED." in desk.read(root, explain_page(record)).text


def test_a_correction_of_what_is_archived_leads_back_to_its_page(
    root: Client, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = charge(acme)

    def archived(_: UsageRecord) -> None:
        raise errors.Archived("The record that this one corrects is archived.")

    monkeypatch.setattr("billing.admin.explain", archived)
    shown = desk.read(root, explain_page(record))
    assert shown.address == desk.page(record)
    assert desk.said(shown) == ["warning: The record that this one corrects is archived."]


def test_explanations_and_margins_are_for_those_who_may_see_usage(acme: Organization) -> None:
    record, _ = charge(acme)
    void(acme, "evt_1")
    stranger = desk.clerk("view_transfer", "view_wallet")
    viewer = desk.clerk("view_usagerecord", email="viewer@example.com")
    buyer = desk.clerk("view_providerbill", email="buyer@example.com")
    for place, seer, blind in ((explain_page(record), viewer, buyer), (MARGINS, buyer, viewer)):
        assert stranger.get(place).status_code == 403
        assert blind.get(place).status_code == 403
        assert seer.get(place).status_code == 200
        assert Client().get(place)["Location"].startswith("/admin/login/")
    # What was corrected is for those who may see corrections.
    assert "sent by mistake" not in desk.read(viewer, explain_page(record)).text


def test_an_explanation_is_found_by_both_columns_of_the_key_only(root: Client, acme: Organization) -> None:
    other = desk.organization("other")
    record, _ = charge(acme)
    right = explain_page(record)
    wrong = right.replace(ids.show("org", acme.pk), ids.show("org", other.pk))
    assert (root.get(right).status_code, root.get(wrong).status_code) == (200, 404)
    assert root.get(right.replace(str(record), "usage_x")).status_code == 404


MARGINS = "/admin/metering/usagerecord/margins/"


def test_a_margin_is_shown_on_the_record_and_in_the_list(root: Client, acme: Organization) -> None:
    for event_id, cost in (("gain", "0.0001"), ("loss", "0.0005"), ("free", "0"), ("silent", None)):
        books.charge(acme, metering.event(event_id=event_id, provider_cost_usd=None if cost is None else Decimal(cost)))
    corrections.void(organization_id=acme.pk, event_id="gain", reason="x", by=world.BY)
    listed = desk.read(root, desk.listing(UsageRecord), organization="acme-labs")
    assert desk.buttons(listed) == ["Margins", "Sales by organization"]
    # The void has none of its own, and nobody said anything of the fixture's three.
    assert sorted(cells(listed.text, "margin")) == ["-"] * 5 + ["-0.000138", "0.000262", "0.000362"]
    shown = {
        event_id: cells_of_page(desk.read(root, desk.page(charge(acme, event_id)[0])).text, "margin_now")
        for event_id in ("gain", "loss", "silent")
    }
    assert shown == {
        "gain": "0.000262 as charged, -0.0001 with its corrections",
        "loss": "-0.000138",
        "silent": "unknown: nobody said what it cost us",
    }
    back = UsageRecord.objects.get(organization=acme, corrects_id__isnull=False)
    assert cells_of_page(desk.read(root, desk.page(back)).text, "margin_now") == "part of the corrected record&#x27;s"


def test_margins_are_summed_by_model_and_day_and_leave_the_unknown_apart(root: Client, acme: Organization) -> None:
    books.charge(acme, metering.event(provider_cost_usd=Decimal("0.0001")))
    books.charge(acme, metering.event(model="deepai-chat", routed_model="gpt-4o", provider_cost_usd=Decimal("0.001")))
    books.charge(acme, metering.event(model="gpt-4o"))
    (smart,) = UsageRecord.objects.filter(organization=acme, model="deepai-chat")
    today = clock.now().date()
    period = {"first": f"{today - timedelta(days=1)}", "last": f"{today + timedelta(days=1)}"}
    shown = desk.read(root, MARGINS, **period)
    lines = desk.cells(shown.text)
    # The fixture's three records cost 361.4 millionths each, and nobody said what they cost us.
    known = ["deepseek-chat", "-", "1", "0.000362", "0.0001", "0.000262", "72.37 %", "3", "0.0010842", "0"]
    unknown = ["gpt-4o", "-", "0", "-", "-", "-", "-", "1", "0.0037", "0"]
    assert known in lines
    assert unknown in lines
    assert any(line[1:] == known for line in lines)
    margin = smart.cost_usd - Decimal("0.001")
    (route,) = [line for line in lines if line[:2] == ["deepai-chat", "gpt-4o"]]
    assert route[2:6] == ["1", money.plain(smart.cost_usd), "0.001", money.plain(margin)]
    assert "Of 4 records nobody said what they cost us" in shown.text
    assert next(line for line in lines if line[:1] == ["all"])[2:4] == [
        "2",
        money.plain(smart.cost_usd + Decimal("0.000362")),
    ]
    desk.organization("other")
    assert known in desk.cells(desk.read(root, MARGINS, **period, organization="acme-labs").text)
    assert known not in desk.cells(desk.read(root, MARGINS, **period, organization="other").text)
    assert desk.counting([shown]) == []


def test_margins_are_of_the_last_week_unless_other_days_are_asked_for(root: Client, db: None) -> None:
    shown = desk.read(root, MARGINS)
    first, last = re.findall(r'type="date" name="\w+" value="([0-9-]+)"|name="\w+" value="([0-9-]+)"', shown.text)[:2]
    read = [date.fromisoformat(one or other) for one, other in (first, last)]
    assert read[1] - read[0] == timedelta(days=6)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"first": "2026-01-01", "last": "2026-06-01"}, "A period has 1 to 92 days."),
        ({"first": "2026-01-02", "last": "2026-01-01"}, "A period has 1 to 92 days."),
        ({"first": "0001-01-01", "last": "0001-01-02"}, "A period has 1 to 92 days."),
        ({"first": "9999-12-31", "last": "9999-12-31"}, "A period has 1 to 92 days."),
        ({"first": "x", "last": "2026-01-01"}, "Enter a valid date."),
        ({"first": "2026-01-01", "last": "2026-01-01", "organization": NASTY}, "No organization has that name."),
        ({"first": "2026-01-01", "last": ""}, "This field is required."),
    ],
)
def test_what_is_wrong_with_a_period_is_said_and_nothing_is_summed(
    root: Client, query: dict[str, str], why: str
) -> None:
    shown = desk.read(root, MARGINS, **query)
    assert desk.errors(shown) == [why]
    assert "By model" not in shown.text
    assert "<script>alert" not in shown.text


def test_margins_that_take_too_long_are_said_to(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**_: Any) -> None:
        raise OperationalError("canceling statement due to statement timeout") from QueryCanceled()

    monkeypatch.setattr(margins, "between", slow)
    shown = desk.read(root, MARGINS)
    assert (
        "It could not be worked out, perhaps for a shorter period: The service cannot do this right now" in shown.text
    )


def test_margins_and_explanations_take_the_same_queries_for_many_records(root: Client, acme: Organization) -> None:
    few = [desk.read(root, MARGINS), desk.read(root, explain_page(charge(acme)[0]))]
    desk.use(desk.organization("big"), 60, charges=10)
    big = Organization.objects.get(slug="big")
    many = [desk.read(root, MARGINS), desk.read(root, explain_page(charge(big)[0]))]
    assert [len(page.queries) for page in few] == [len(page.queries) for page in many]


def test_margins_show_names_of_models_as_text(root: Client, acme: Organization) -> None:
    books.charge(acme, metering.event(routed_model=NASTY, provider_cost_usd=Decimal(0)))
    shown = desk.read(root, MARGINS)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown.text
    assert "<script>alert" not in shown.text


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


def test_a_record_is_voided_with_a_reason_and_only_once(db: None) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 1)
    record = UsageRecord.objects.get(organization=acme)
    root = desk.superuser()
    assert "Void" in desk.buttons(desk.read(root, desk.page(record)))
    refused = desk.send(root, desk.page(record, "void"), reason=" ")
    assert desk.errors(refused) == ["This field is required."]
    done = desk.send(root, desk.page(record, "void"), reason="reported by mistake")
    assert desk.said(done) == ["success: Voided: 0.0003614 USD went back."]
    assert wallets.state(acme.pk).balance_usd == 10
    entry = AuditEntry.objects.get(verb="usage.voided")
    assert (entry.actor_label, entry.details["reason"]) == ("root@example.com", "reported by mistake")
    again = desk.send(root, desk.page(record, "void"), reason="once more")
    assert desk.said(again) == ["success: It was voided before."]
    correction = UsageRecord.objects.get(organization=acme, corrects_id=record.pk)
    assert "Void" not in desk.buttons(desk.read(root, desk.page(correction)))


def test_a_record_above_the_limit_is_voided_by_nobody_alone(db: None, settings: Any) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 1)
    settings.MONEY_APPROVAL_USD = 0
    record = UsageRecord.objects.get(organization=acme)
    told = desk.send(desk.superuser(), desk.page(record, "void"), reason="reported by mistake")
    assert desk.said(told)[0].startswith("error: It cost more than 0 USD")
    assert not UsageRecord.objects.filter(organization=acme, corrects_id=record.pk).exists()


def test_who_may_not_move_money_voids_nothing(db: None) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 1)
    record = UsageRecord.objects.get(organization=acme)
    reader = desk.clerk("view_usagerecord")
    assert "Void" not in desk.buttons(desk.read(reader, desk.page(record)))
    assert reader.post(desk.page(record, "void"), {"reason": "mine"}).status_code == 403
