"""The desk's pages of how much: quick on any number of rows, read by the key, never typed into."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError, connection
from django.test import Client, override_settings
from psycopg.errors import QueryCanceled

from core import clock, ids
from core.admin import BooksAdmin
from core.markup import stamp
from metering import admin as pages
from metering import pricebook, quarantine, rating, rules
from metering.models import CatalogModel, Price, PriceDraft, PriceRule, Quarantine, RequestLog, UsageRecord
from ops.models import Approval
from orgs.models import AuditEntry, Organization, User
from tests import desk
from tests.billing import world as books
from tests.metering.world import event
from tests.orgs import world

MODELS: list[Any] = [CatalogModel, Price, PriceDraft, PriceRule, Quarantine, RequestLog, UsageRecord]
BY_ORGANIZATION: list[Any] = [RequestLog, UsageRecord]


@pytest.fixture
def root(db: None) -> Client:
    return desk.superuser()


@pytest.fixture
def acme(db: None) -> Organization:
    made = desk.organization("acme-labs")
    desk.use(made, 3)
    return made


def rule(**told: Any) -> PriceRule:
    at = clock.now() + timedelta(hours=1)
    return rules.publish(by=world.BY, reason="a contract", effective_from=at, **told)


def draft(*slugs: str) -> PriceDraft:
    rates = {"terms": [{"when": {}, "rates": {"input": "7.77", "output": "9.99"}}]}
    at = clock.now() + timedelta(days=1)
    return pricebook.draft(lines=[pricebook.Line(slug, at, rates, "a list") for slug in slugs], source="x", by=world.BY)


def uncounted(shown: list[desk.Page]) -> list[str]:
    """Statements that count rows without end; lines of the drafts on a page, and the first open events, have one."""
    bounded = ('FROM "price_draft_line" WHERE "price_draft_line"."draft_id"', "WITH RECURSIVE named")
    return [query for query in desk.counting(shown) if not any(part in query for part in bounded)]


def contract() -> PriceRule:
    model = CatalogModel.objects.get(slug=desk.MODEL)
    price = Price.objects.filter(model=model).latest("effective_from")
    return rule(organization=Organization.objects.get(slug="acme-labs"), model=model, rates=price.rates)


def test_every_list_view_and_search_answers_and_counts_nothing(root: Client, acme: Organization) -> None:
    contract()
    draft(desk.MODEL)
    shown = []
    for model in MODELS:
        row = model.objects.first()
        searches = [{"q": text} for text in (str(row), "acme-labs", "acme-labs evt_1", "no such thing", "\x00", "%")]
        for query in [{}, *searches, {"organization": "acme-labs"}] if model in BY_ORGANIZATION else [{}, *searches]:
            shown.append(desk.read(root, desk.listing(model), **query))
        shown += [desk.read(root, desk.page(row)), desk.read(root, desk.page(row, "history"))]
    assert len(shown) > 50
    assert uncounted(shown) == []


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_added_changed_or_deleted(root: Client, acme: Organization, model: Any) -> None:
    contract()
    draft(desk.MODEL)
    row = model.objects.first()
    before = list(model.objects.order_by("pk").values())
    for kind in ("get", "post"):
        assert getattr(root, kind)(desk.listing(model) + "add/").status_code == 403
        assert getattr(root, kind)(desk.page(row, "delete"), {"post": "yes"}).status_code == 403
    assert root.post(desk.page(row), {"model": "x", "name": "x", "reason": "x"}).status_code == 403
    root.post(desk.listing(model), {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"})
    assert list(model.objects.order_by("pk").values()) == before


@pytest.mark.parametrize("model", [Quarantine, RequestLog, UsageRecord])
def test_a_list_takes_the_same_queries_for_60_rows_as_for_3(root: Client, acme: Organization, model: Any) -> None:
    big = desk.organization("big")
    few = desk.read(root, desk.listing(model), organization="acme-labs") if model in BY_ORGANIZATION else None
    few = few or desk.read(root, desk.listing(model))
    assert len(few.rows) == 3
    desk.use(big, 60)
    many = desk.read(root, desk.listing(model), **({"organization": "big"} if model in BY_ORGANIZATION else {}))
    assert len(many.rows) == 50
    assert len(many.queries) == len(few.queries), many.queries
    assert uncounted([few, many]) == []


@pytest.mark.parametrize("model", [CatalogModel, Price, PriceRule])
def test_a_list_of_the_catalog_takes_the_same_queries_for_60_rows_as_for_3(root: Client, model: Any) -> None:
    world.organization()
    for _ in range(60 if model is PriceRule else 0):
        contract()
    with mock.patch.object(BooksAdmin, "list_per_page", 3):
        few = desk.read(root, desk.listing(model))
    with mock.patch.object(BooksAdmin, "list_per_page", 60):
        many = desk.read(root, desk.listing(model))
    assert (len(few.rows), len(many.rows)) == (3, 60)
    assert len(few.queries) == len(many.queries), many.queries


@pytest.mark.parametrize("model", BY_ORGANIZATION)
def test_a_list_shows_one_organization_newest_first_and_nothing_until_one_is_chosen(
    root: Client, acme: Organization, model: Any
) -> None:
    desk.use(desk.organization("other"), 2)
    nobody = desk.read(root, desk.listing(model))
    assert nobody.rows == []
    assert "Choose an organization" in nobody.text
    assert not [query for query in nobody.queries if desk.KEYED.search(query)]
    chosen = desk.read(root, desk.listing(model), organization="acme-labs")
    assert [row.pk for row in chosen.rows] == list(
        model.objects.filter(organization=acme).order_by("-id").values_list("id", flat=True)
    )
    assert len(chosen.rows) == 3
    assert desk.read(root, desk.listing(model), organization="nobody").rows == []


@pytest.mark.parametrize("model", BY_ORGANIZATION)
def test_lists_and_pages_read_ranges_of_the_key(root: Client, acme: Organization, model: Any) -> None:
    row = model.objects.first()
    month = f"{row.recorded_at:%Y-%m}"
    for shown in (
        desk.read(root, desk.listing(model), organization="acme-labs"),
        desk.read(root, desk.listing(model), organization="acme-labs", month=month),
        desk.read(root, desk.listing(model), organization="acme-labs", p=str(row)),
        desk.read(root, desk.listing(model), q="acme-labs evt_1"),
        desk.read(root, desk.page(row)),
    ):
        assert [query for query in shown.queries if desk.KEYED.search(query)]
        assert desk.unkeyed(shown.queries) == [], "\n".join(desk.unkeyed(shown.queries))


@pytest.mark.parametrize("model", BY_ORGANIZATION)
def test_a_list_by_key_is_in_the_keys_order_whatever_the_address_says(
    root: Client, acme: Organization, model: Any
) -> None:
    plain = desk.read(root, desk.listing(model), organization="acme-labs")
    for column in range(10):
        sorted_by = desk.read(root, desk.listing(model), organization="acme-labs", o=str(column))
        assert [query for query in sorted_by.queries if desk.KEYED.search(query)] == [
            query for query in plain.queries if desk.KEYED.search(query)
        ]


def test_a_read_that_is_no_range_of_the_key_is_seen(acme: Organization) -> None:
    by_cost = str(UsageRecord.objects.filter(cost_usd=1).query)
    by_key = f"SELECT 1 FROM usage_record WHERE organization_id = '{acme.pk}' ORDER BY id DESC LIMIT 5"
    assert desk.unkeyed(["SELECT 1 FROM usage_record ORDER BY id DESC LIMIT 5", by_cost, by_key]) == [
        "SELECT 1 FROM usage_record ORDER BY id DESC LIMIT 5",
        by_cost,
    ]


def test_older_leads_through_all_rows_once(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.use(desk.organization("big"), 7)
    monkeypatch.setattr(pages.KeyedAdmin, "list_per_page", 3)
    address, seen = f"{desk.listing(UsageRecord)}?organization=big", []
    for _ in range(5):
        shown = desk.read(root, address)
        seen += [row.pk for row in shown.rows]
        older = shown.context["cl"].older
        if older is None:
            break
        address = desk.listing(UsageRecord) + older
    assert seen == list(UsageRecord.objects.order_by("-id").values_list("id", flat=True))
    assert len(seen) == 7
    assert shown.context["cl"].newest == "?organization=big"


def test_a_month_is_a_range_of_ids(root: Client, acme: Organization) -> None:
    month = f"{UsageRecord.objects.latest('id').recorded_at:%Y-%m}"
    assert len(desk.read(root, desk.listing(UsageRecord), organization="acme-labs", month=month).rows) == 3
    assert desk.read(root, desk.listing(UsageRecord), organization="acme-labs", month="2024-02").rows == []
    for wrong in ("2024-13", "0000-01", "1969-12", "x", "２０２４-01"):
        answer = root.get(desk.listing(UsageRecord), {"organization": "acme-labs", "month": wrong})
        assert (answer.status_code, answer["Location"]) == (302, f"{desk.listing(UsageRecord)}?e=1"), wrong


@pytest.mark.parametrize("condition", ["cost_usd__gt", "model", "organization__slug", "event_id", "id__lt"])
def test_a_list_by_key_takes_no_other_condition(root: Client, acme: Organization, condition: str) -> None:
    answer = root.get(desk.listing(UsageRecord), {"organization": "acme-labs", condition: "1"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("text", "organization"),
    [
        ("{id}", ""),
        ("acme-labs {id}", ""),
        ("acme-labs evt_1", ""),
        ("acme-labs:evt_1", ""),
        (" ACME-Labs  evt_1 ", ""),
        ("evt_1", "acme-labs"),
        ("{org} evt_1", ""),
    ],
)
def test_a_record_is_found_by_id_and_by_event(root: Client, acme: Organization, text: str, organization: str) -> None:
    desk.use(desk.organization("other"), 2)
    record = UsageRecord.objects.get(organization=acme, event_id="evt_1")
    text = text.format(id=record, org=ids.show("org", acme.pk))
    found = desk.read(root, desk.listing(UsageRecord), q=text, organization=organization)
    assert found.address == desk.page(record)
    assert str(record) in found.text


def test_an_event_leads_to_where_it_went(root: Client, acme: Organization) -> None:
    failed = RequestLog.objects.get(event_id="failed_1")
    held = Quarantine.objects.get(event_id="unpriced_1")
    for model in BY_ORGANIZATION:
        assert desk.read(root, desk.listing(model), q="acme-labs failed_1").address == desk.page(failed)
        assert desk.read(root, desk.listing(model), q="acme-labs unpriced_1").address == desk.page(held)


def test_an_event_of_a_key_that_nobody_knows_leads_to_quarantine(root: Client, acme: Organization) -> None:
    desk.report(acme, [desk.event("orphan", api_key_id=ids.show("key", ids.new()))])
    held = Quarantine.objects.get(event_id="orphan")
    assert held.reason == Quarantine.Reason.UNKNOWN_KEY
    assert desk.read(root, desk.listing(UsageRecord), q="acme-labs orphan").address == desk.page(held)


def test_a_slug_or_an_address_leads_to_an_organizations_list(root: Client, acme: Organization) -> None:
    wanted = f"{desk.listing(UsageRecord)}?organization=acme-labs"
    for text in ("acme-labs", "Acme-Labs ", ids.show("org", acme.pk)):
        assert desk.read(root, desk.listing(UsageRecord), q=text).address == wanted
    ada = world.person()
    found = desk.read(root, desk.listing(UsageRecord), q="ADA@example.com")
    assert found.address == f"{desk.listing(UsageRecord)}?organization={world.personal(ada).slug}"


def test_an_event_id_alone_asks_for_the_organization(root: Client, acme: Organization) -> None:
    shown = desk.read(root, desk.listing(UsageRecord), q="evt_1")
    assert shown.rows == []
    assert "Nothing found for “evt_1”" in shown.text
    assert "the slug and the event id" in shown.text
    assert not [query for query in shown.queries if "usage_claim" in query or "usage_record" in query]


def test_a_page_is_found_by_both_columns_of_the_key_only(root: Client, acme: Organization) -> None:
    other = desk.organization("other")
    record = UsageRecord.objects.filter(organization=acme)[0]
    right = desk.page(record)
    wrong = [
        right.replace(ids.show("org", acme.pk), ids.show("org", other.pk)),
        right.replace(str(record), ids.show("usage", ids.new())),
        right.replace(f"{ids.show('org', acme.pk)}:", ""),
        right.replace(str(record), "usage_x"),
    ]
    assert root.get(right).status_code == 200
    for address in wrong:
        assert address != right
        assert root.get(address).status_code == 302
        assert "doesn’t exist" in desk.read(root, address).text


def test_a_record_shows_tokens_exact_cost_price_and_claim(root: Client, acme: Organization) -> None:
    record = UsageRecord.objects.get(organization=acme, event_id="evt_1")
    text = desk.read(root, desk.page(record)).text
    # 1,200 × 0.27 + 34 × 1.10 dollars a million.
    assert "0.0003614" in text
    assert "0.000361400000" not in text
    assert "1,200" in text
    assert f"/admin/metering/price/{record.price_id}/change/" in text
    assert f"/admin/orgs/apikey/{record.api_key_id}/change/" in text
    assert re.search(r"recorded, 0\.0003614 USD, fingerprint [0-9a-f]{64}", text)


def test_what_gateways_send_is_shown_as_text(root: Client, acme: Organization) -> None:
    record = UsageRecord.objects.get(organization=acme, event_id="evt_1")
    shown = desk.read(root, desk.page(record)).text
    assert "&lt;b&gt;search&lt;/b&gt;" in shown
    assert "<b>search" not in shown
    held = Quarantine.objects.get(event_id="unpriced_1")
    for text in (desk.read(root, desk.page(held)).text, desk.read(root, desk.listing(Quarantine)).text):
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "<script>alert" not in text


def test_quarantine_is_found_by_id_organization_event_and_model(root: Client, acme: Organization) -> None:
    desk.use(desk.organization("other"), 2)
    held = Quarantine.objects.get(organization=acme, event_id="unpriced_1")
    search = desk.listing(Quarantine)
    assert [row.pk for row in desk.read(root, search, q=str(held)).rows] == [held.pk]
    assert {row.organization_id for row in desk.read(root, search, q="acme-labs").rows} == {acme.pk}
    assert [row.pk for row in desk.read(root, search, q="acme-labs unpriced_1").rows] == [held.pk]
    assert len(desk.read(root, search, q="<script>alert(1)</script>").rows) == 5
    assert desk.read(root, search, q="no such model").rows == []
    assert len(desk.read(root, search, reason="unpriced", resolved_at__isempty="1").rows) == 5
    assert desk.read(root, search, reason="unknown_key").rows == []
    assert "unpriced_1" in desk.read(root, desk.page(held)).text


def test_the_list_of_quarantine_says_what_waits_and_when_it_has_waited_too_long(
    root: Client, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = desk.read(root, desk.listing(Quarantine)).text
    assert "<p>3 wait (0 with nobody to charge), the oldest for 0 d 0 h, worth about " in shown
    assert "Usage has waited" not in shown
    with override_settings(QUARANTINE_ALERT_DAYS=0):
        assert "Usage has waited for more than 0 days" in desk.read(root, desk.listing(Quarantine)).text
    monkeypatch.setattr(quarantine, "COUNTED_MAX", 2)
    assert "<p>Of the first 2, 2 wait (" in desk.read(root, desk.listing(Quarantine)).text


def test_a_page_takes_the_same_queries_for_60_rows_as_for_3(root: Client, acme: Organization) -> None:
    big = desk.organization("big")
    desk.use(big, 60)
    models: list[Any] = [Quarantine, RequestLog, UsageRecord]
    for model in models:
        few, many = (desk.read(root, desk.page(model.objects.filter(organization=of)[0])) for of in (acme, big))
        assert len(few.queries) == len(many.queries)


def test_a_rate_card_is_a_table_of_every_condition() -> None:
    card = rating.read_card(
        {
            "terms": [
                {"when": {}, "rates": {"input": "1.25", "cached_input": "0.125", "output": "10"}},
                {"when": {"batch": True}, "rates": {"input": "0.625", "output": "5"}},
                {"when": {"above_input_tokens": 200_000}, "rates": {"input": "2.5", "output": "15"}},
                {"when": {"service_tier": "flex"}, "rates": {"input": "0.7", "output": "6"}},
            ],
            "units": {"web_search_requests": "0.035"},
            "request": "0.0001",
        }
    )
    text = pages.rate_card(card)
    lines = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in re.findall(r"<tr>(.*?)</tr>", text)]
    assert lines == [
        ["USD per 1M tokens", "input", "cached input", "cache write", "cache write 1h", "output"],
        ["ordinary", "1.25", "0.125", "1.25", "1.25", "10"],
        ["tier flex", "0.7", "0.7", "0.7", "0.7", "6"],
        ["batch", "0.625", "0.625", "0.625", "0.625", "5"],
        ["more than 200,000 input tokens", "2.5", "2.5", "2.5", "2.5", "15"],
        ["fee", "USD each"],
        ["web search requests", "0.035"],
        ["request", "0.0001"],
    ]


@pytest.mark.parametrize(
    ("days", "said"),
    [
        ((0, 1, 2, 3, 4, 5, 6), "daily 01:00-04:00 UTC"),
        ((0, 1, 2, 3, 4), "Mon-Fri 01:00-04:00 UTC"),
        ((5, 6), "Sat Sun 01:00-04:00 UTC"),
        ((0, 2, 4), "Mon Wed Fri 01:00-04:00 UTC"),
    ],
)
def test_hours_are_said_in_words(days: tuple[int, ...], said: str) -> None:
    window = {"zone": "UTC", "days": list(days), "start": "01:00", "end": "04:00"}
    entries = [{"when": {}, "rates": {"input": "1"}}, {"when": {"windows": [window]}, "rates": {"input": "2"}}]
    card = rating.read_card({"terms": entries})
    assert [pages.conditions(terms) for terms in card.terms] == [said, "ordinary"]


def test_a_model_shows_the_price_in_force_and_where_each_version_ends(root: Client) -> None:
    model = CatalogModel.objects.get(slug=desk.MODEL)
    newest = Price.objects.filter(model=model).latest("effective_from")
    now = clock.now()
    # Written past the catalog, which lets nothing start now; the table only forbids changes.
    earlier, later = now - timedelta(days=1), now + timedelta(days=1)
    rates = {"terms": [{"when": {}, "rates": {"input": "7.77", "output": "9.99"}}]}
    started = Price.objects.create(model=model, effective_from=earlier, rates=rates, source="x")
    planned = Price.objects.create(model=model, effective_from=later, rates=rates, source="y")
    text = desk.read(root, desk.page(model)).text
    lines = [line for line in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL) if "price_" in line]
    assert [re.search(r"price_\w+", line)[0] for line in lines][:3] == [str(planned), str(started), str(newest)]  # type: ignore[index]
    assert ["in force" in line for line in lines][:3] == [False, True, False]
    assert stamp(later) in lines[1]
    assert stamp(earlier) in lines[2]
    assert "7.77 / 9.99" in desk.read(root, desk.listing(CatalogModel), q=desk.MODEL).text


def test_a_corrected_price_is_no_longer_in_force_and_ends_with_its_correction(root: Client) -> None:
    model = CatalogModel.objects.get(slug=desk.MODEL)
    wrong = Price.objects.filter(model=model).latest("effective_from")
    rates = {"terms": [{"when": {}, "rates": {"input": "7.77", "output": "9.99"}}]}
    right = Price.objects.create(
        model=model, effective_from=wrong.effective_from, revision=2, active_from=clock.now(), rates=rates, source="x"
    )
    text = desk.read(root, desk.page(model)).text
    lines = [line for line in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL) if "price_" in line][:2]
    assert str(right) in lines[0]
    assert str(wrong) in lines[1]
    assert ["in force" in line for line in lines] == [True, False]
    assert [line.count(stamp(wrong.effective_from)) for line in lines] == [1, 1]


def test_a_draft_shows_its_prices_in_as_many_queries_for_many(root: Client) -> None:
    slugs = list(CatalogModel.objects.values_list("slug", flat=True)[:110])
    small, big = draft(slugs[0]), draft(*slugs)
    few, many = desk.read(root, desk.page(small)), desk.read(root, desk.page(big))
    assert few.text.count("7.77 / 9.99") == 1
    assert many.text.count("7.77 / 9.99") == 100
    assert "The first 100; there are more." in many.text
    assert len(few.queries) == len(many.queries)
    assert [row.pk for row in desk.read(root, desk.listing(PriceDraft), q=str(big)).rows] == [big.pk]


def test_models_are_found_by_alias(root: Client) -> None:
    model = CatalogModel.objects.exclude(aliases=[]).first()
    assert model is not None
    assert model.slug in {row.slug for row in desk.read(root, desk.listing(CatalogModel), q=model.aliases[0]).rows}


def test_price_rules_say_whom_what_and_how_much(root: Client, acme: Organization) -> None:
    own = contract()
    markup = rule(group="standard", factor=Decimal("1.2"))
    text = desk.read(root, desk.listing(PriceRule)).text
    assert "group standard" in text
    assert "1.2 × the catalog" in text
    assert [row.pk for row in desk.read(root, desk.listing(PriceRule), q="acme-labs").rows] == [own.pk]
    assert [row.pk for row in desk.read(root, desk.listing(PriceRule), q="standard").rows] == [markup.pk]
    assert [row.pk for row in desk.read(root, desk.listing(PriceRule), q=str(own)).rows] == [own.pk]
    assert "0.27" in desk.read(root, desk.page(own)).text


def test_staff_see_only_what_they_have_rights_to(acme: Organization) -> None:
    client = desk.clerk("view_quarantine")
    record = UsageRecord.objects.filter(organization=acme)[0]
    assert client.get(desk.listing(Quarantine)).status_code == 200
    for address in (desk.listing(UsageRecord), f"{desk.listing(UsageRecord)}?q={record}", desk.page(record)):
        assert client.get(address).status_code == 403


def test_a_bare_id_is_looked_for_in_one_month(root: Client, acme: Organization) -> None:
    record = UsageRecord.objects.filter(organization=acme)[0]
    found = desk.read(root, desk.listing(UsageRecord), q=str(record))
    (search,) = [
        query for query in found.queries if "usage_record" in query and "LIMIT 1" in query and " IN (" in query
    ]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {search}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert set(re.findall(r"usage_record_\d{4}_\d\d(?= )", plan)) == {f"usage_record_{record.recorded_at:%Y_%m}"}


NASTY = "<script>alert(1)</script>"
DRAFTER = ("view_pricedraft", "change_pricedraft")
ACTS = ("publish", "schedule", "discard")


def change(
    input_rate: str = "0.28", *, start: datetime | None = None, report: str = "", source: str = "x"
) -> PriceDraft:
    """A draft of root's that changes the input rate of the tests' model, which is 0.27."""
    rates = {"terms": [{"when": {}, "rates": {"input": input_rate, "cached_input": "0.07", "output": "1.10"}}]}
    at = start or clock.now() + timedelta(days=1)
    lines = [pricebook.Line(desk.MODEL, at, rates, source)]
    return pricebook.draft(lines=lines, source=source, by=desk.actor(), report=report)


def state(made: PriceDraft) -> str:
    return PriceDraft.objects.get(pk=made.pk).state


def test_a_draft_shows_what_it_changes_in_figures_and_in_words(root: Client) -> None:
    small, big = desk.read(root, desk.page(change())), desk.read(root, desk.page(change("0.54")))
    cells = desk.cells(small.text)
    assert [desk.MODEL, "input", "0.27", "0.28", "+0.01", "+3.7 %", "dearer"] in cells
    # Cache writes have no rate of their own, so they follow the input.
    assert [desk.MODEL, "cache write", "0.27", "0.28", "+0.01", "+3.7 %", "dearer"] in cells
    assert "3 rates of 1 model change. None by more than 10 %: one person may publish them." in small.text
    assert 'class="marked"' not in small.text
    assert [desk.MODEL, "input", "0.27", "0.54", "+0.27", "+100 %", "dearer, beyond the limit"] in desk.cells(big.text)
    assert "3 of them by more than 10 %, or from or to nothing: a second person has to agree." in big.text
    assert big.text.count('<tr class="marked">') == 3


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, "1", "new"),
        ("1", None, "no price any more, beyond the limit"),
        ("0", "1", "was free, beyond the limit"),
        ("1", "0", "becomes free, beyond the limit"),
        ("1", "0.95", "cheaper"),
        ("1", "0.5", "cheaper, beyond the limit"),
        ("1", "1.1", "dearer"),
    ],
)
def test_a_change_is_said_in_words(before: str | None, after: str | None, said: str) -> None:
    read = [None if rate is None else Decimal(rate) for rate in (before, after)]
    text = pages.change_table([pricebook.Change("m", "input", *read)])
    assert desk.cells(text)[1][-1] == said
    assert ("marked" in text) == said.endswith("beyond the limit")


def test_a_draft_with_many_changes_shows_those_beyond_the_limit_first() -> None:
    small = [pricebook.Change(f"small-{number}", "input", Decimal(100), Decimal(101)) for number in range(250)]
    text = pages.change_table([*small, pricebook.Change("big", "input", Decimal(1), Decimal(2))])
    lines = desk.cells(text)
    assert (lines[1][0], lines[2][0], len(lines)) == ("big", "small-0", 201)
    assert "251 rates of 251 models change. 1 of them" in text
    assert "The first 200; there are more." in text


def test_a_draft_that_changes_nothing_says_so(root: Client) -> None:
    assert "Nothing: these prices are those in force." in desk.read(root, desk.page(change("0.27"))).text


def test_what_last_month_would_have_cost_is_worked_out_for_who_asks(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, other = books.organization("acme", usd="1"), books.organization("other", usd="1")
    books.charge(acme, event(), event())
    books.charge(other, event())
    next_month = (clock.now().replace(day=1) + timedelta(days=40)).replace(day=2)
    monkeypatch.setattr(clock, "now", lambda: next_month)
    made = change("0.54", start=next_month + timedelta(days=1))
    plain = desk.read(root, desk.page(made))
    assert not [query for query in plain.queries if "usage_record" in query]
    (place,) = re.findall(r'<a href="([^"]+)">Work it out</a>', plain.text)
    shown = desk.read(root, place)
    cells = desk.cells(shown.text)
    # 360 × 0.27 + 640 × 0.07 + 200 × 1.10 = 362 millionths, and with 0.54 they are 459.2.
    assert ["acme", "2", "0.000724", "0.0009184", "+0.0001944", "+26.85 %"] in cells
    assert ["other", "1", "0.000362", "0.0004592", "+0.0000972", "+26.85 %"] in cells
    assert ["all 2", "3", "0.001086", "0.0013776", "+0.0002916", "+26.85 %"] in cells
    monkeypatch.setattr(pages, "TOUCHED_RECORDS_MAX", 2)
    assert "Last month has more than 2 records of these models." in desk.read(root, place).text


def test_a_month_that_takes_too_long_is_said_and_the_page_stands(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made = change()

    def slow(*_: Any, **__: Any) -> None:
        raise OperationalError("canceling statement due to statement timeout") from QueryCanceled()

    monkeypatch.setattr(pricebook, "touched", slow)
    shown = desk.read(root, f"{desk.page(made)}?{pages.TOUCHED}=1")
    assert "It could not be worked out here: The service cannot do this right now" in shown.text
    assert "0.28" in shown.text


def test_a_small_change_is_published_by_one_person(root: Client) -> None:
    made = change()
    shown = desk.read(root, desk.page(made))
    assert desk.buttons(shown) == ["Publish", "Schedule", "Discard"]
    asked = desk.read(root, desk.page(made, "publish"))
    assert [desk.MODEL, "input", "0.27", "0.28", "+0.01", "+3.7 %", "dearer"] in desk.cells(asked.text)
    assert state(made) == "open"
    done = desk.send(root, desk.page(made, "publish"))
    assert done.address == desk.page(made)
    assert desk.said(done) == ["success: Published: 1 price."]
    assert desk.buttons(done) == []
    assert "What it changes" not in done.text
    settled = PriceDraft.objects.get(pk=made.pk)
    assert (settled.state, settled.settled_by) == ("published", "root@example.com")
    assert Price.objects.filter(source="x").count() == 1
    assert AuditEntry.objects.get(verb="price_draft.published").actor_label == "root@example.com"


def test_a_large_change_waits_for_a_second_person_and_says_where(root: Client) -> None:
    made = change("0.54")
    done = desk.send(root, desk.page(made, "publish"))
    asked = Approval.objects.get()
    assert desk.said(done) == [
        f"warning: This waits until a second person agrees: somebody else grants {asked} under Approvals."
    ]
    assert f'<a href="{desk.page(asked)}">{asked}</a>' in done.text
    assert [str(asked), "root@example.com", stamp(asked.asked_at), "open", "-"] in desk.cells(done.text)
    assert state(made) == "open"
    # Asking again asks nothing new.
    desk.send(root, desk.page(made, "publish"))
    assert Approval.objects.count() == 1

    clerk = desk.clerk("view_approval", "change_approval", "change_pricedraft")
    question = desk.read(clerk, desk.page(asked, "grant"))
    assert f"{desk.MODEL} input: 0.27 to 0.54<br>" in question.text
    assert f'<a href="{desk.page(made)}">{made}</a>' in question.text
    assert str(made) in desk.said(desk.send(clerk, desk.page(asked, "grant")))[0]
    found = desk.read(clerk, desk.listing(Approval), q=str(made))
    assert [row.pk for row in found.rows] == [asked.pk]

    assert desk.said(desk.send(root, desk.page(made, "publish"))) == ["success: Published: 1 price."]
    assert state(made) == "published"


def test_a_refused_draft_stays_unpublished_and_says_who_refused(root: Client) -> None:
    made = change("0.54")
    desk.send(root, desk.page(made, "publish"))
    clerk = desk.clerk("view_approval", "change_approval", "change_pricedraft")
    desk.send(clerk, desk.page(Approval.objects.get(), "refuse"))
    done = desk.send(root, desk.page(made, "publish"))
    assert desk.said(done)[0].startswith("warning: A second person refused this, so it stays as it is")
    assert "refused by clerk@example.com" in done.text
    assert state(made) == "open"
    assert desk.said(desk.send(root, desk.page(made, "discard"))) == ["success: Discarded."]
    assert state(made) == "discarded"
    assert AuditEntry.objects.get(verb="price_draft.discarded").actor_label == "root@example.com"


def test_a_draft_is_scheduled_in_utc(root: Client) -> None:
    made = change()
    done = desk.send(root, desk.page(made, "schedule"), at="2099-12-31T23:30")
    assert desk.said(done) == ["success: It will be published at 2099-12-31 23:30:00 UTC."]
    assert PriceDraft.objects.get().publish_at == datetime(2099, 12, 31, 23, 30, tzinfo=UTC)
    assert (state(made), desk.buttons(done)) == ("scheduled", ["Publish", "Schedule", "Discard"])


def test_a_large_change_is_scheduled_and_still_needs_a_second_person(root: Client) -> None:
    made = change("0.54")
    done = desk.send(root, desk.page(made, "schedule"), at="2099-12-31T23:30")
    (told,) = desk.said(done)
    assert told.startswith("warning: It will be published at 2099-12-31 23:30:00 UTC. But: This waits until a second")
    assert str(Approval.objects.get()) in told
    assert state(made) == "scheduled"


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("2020-01-01T00:00", "A draft is scheduled for later."),
        ("", "This field is required."),
        ("soon", "Enter a valid date/time."),
        ("0001-01-01T00:00", "That is before anything was recorded."),
    ],
)
def test_a_wrong_time_is_said_at_its_field_and_nothing_is_scheduled(root: Client, at: str, why: str) -> None:
    made = change()
    shown = desk.send(root, desk.page(made, "schedule"), at=at)
    assert (shown.address, desk.errors(shown)) == (desk.page(made, "schedule"), [why])
    assert state(made) == "open"


@pytest.mark.parametrize("act", ACTS)
def test_a_settled_draft_has_no_buttons_and_refuses_in_words(root: Client, act: str) -> None:
    made = change()
    desk.send(root, desk.page(made, "discard"))
    assert desk.buttons(desk.read(root, desk.page(made))) == []
    done = desk.send(root, desk.page(made, act), at="2099-12-31T23:30")
    assert desk.said(done) == ["error: This draft is discarded."]
    assert not Price.objects.filter(source="x").exists()


def test_what_the_catalog_refuses_is_a_message_and_nothing_is_published(root: Client) -> None:
    made = change(start=clock.now() - timedelta(hours=1))
    done = desk.send(root, desk.page(made, "publish"))
    (told,) = desk.said(done)
    assert told.startswith(f"error: Refused: {desk.MODEL}: a price is in force at")
    assert state(made) == "open"
    assert not Price.objects.filter(source="x").exists()


@pytest.mark.parametrize("act", ACTS)
def test_who_may_only_see_drafts_has_no_buttons_and_is_refused(root: Client, act: str) -> None:
    made = change()
    viewer = desk.clerk("view_pricedraft")
    shown = desk.read(viewer, desk.page(made))
    assert desk.buttons(shown) == []
    assert "0.28" in shown.text
    assert viewer.get(desk.page(made, act)).status_code == 403
    assert viewer.post(desk.page(made, act), {"at": "2099-12-31T23:30"}).status_code == 403
    assert state(made) == "open"


def test_who_may_change_drafts_has_the_buttons(root: Client) -> None:
    made = change()
    drafter = desk.clerk(*DRAFTER)
    assert desk.buttons(desk.read(drafter, desk.page(made))) == ["Publish", "Schedule", "Discard"]
    assert desk.said(desk.send(drafter, desk.page(made, "discard"))) == ["success: Discarded."]
    assert PriceDraft.objects.get().settled_by == "clerk@example.com"
    # They may not see approvals, and still learn that one is needed.
    other = change("0.54")
    assert desk.said(desk.send(drafter, desk.page(other, "publish")))[0].startswith("warning: This waits until")


def test_a_post_from_another_site_publishes_nothing(root: Client) -> None:
    made = change()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(email="root@example.com"))
    assert strict.post(desk.page(made, "publish")).status_code == 403
    assert state(made) == "open"


def test_a_draft_that_is_not_there_is_not_found(root: Client) -> None:
    for key in (ids.new(), "x", "x%00"):
        assert root.post(f"/admin/metering/pricedraft/{key}/publish/").status_code == 404


def test_what_an_importer_reports_is_shown_as_text(root: Client) -> None:
    made = change("0.54", report=f"refused {NASTY}\n  gap", source=NASTY)
    desk.send(root, desk.page(made, "publish"))
    shown = [desk.read(root, desk.page(made)), desk.read(root, desk.page(made, "publish"))]
    shown += [desk.read(root, desk.listing(PriceDraft)), desk.read(root, desk.page(made, "schedule"))]
    for each in shown:
        assert "<script>alert" not in each.text
    assert "<pre>refused &lt;script&gt;alert(1)&lt;/script&gt;\n  gap</pre>" in shown[0].text
    long = change(report="a" * 30_000)
    text = desk.read(root, desk.page(long)).text
    assert "a" * 20_000 in text
    assert "a" * 20_001 not in text
    assert "It goes on." in text


def test_a_list_of_drafts_counts_their_prices_in_one_query(root: Client) -> None:
    slugs = list(CatalogModel.objects.values_list("slug", flat=True)[:3])
    draft(*slugs)
    few = desk.read(root, desk.listing(PriceDraft))
    for _ in range(10):
        draft(slugs[0])
    many = desk.read(root, desk.listing(PriceDraft))
    assert re.findall(r'class="field-prices [^>]*>(.*?)</td>', many.text) == ["1"] * 10 + ["3"]
    assert (len(few.rows), len(many.rows)) == (1, 11)
    assert len(few.queries) == len(many.queries)


def test_quarantine_says_which_models_are_waited_for_and_leads_to_their_events(
    root: Client, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.report(acme, [desk.event("late", model="gpt-99")])
    shown = desk.read(root, desk.listing(Quarantine))
    lines = desk.cells(shown.text)
    assert ["&lt;script&gt;alert(1)&lt;/script&gt;", "3", "0\xa0minutes"] in lines
    assert ["gpt-99", "1", "0\xa0minutes"] in lines
    (place,) = re.findall(r'<a href="([^"]+)">gpt-99</a>', shown.text)
    assert [row.event_id for row in desk.read(root, place.replace("&amp;", "&")).rows] == ["late"]
    (nasty,) = re.findall(r'<a href="([^"]+)">&lt;script&gt;', shown.text)
    assert len(desk.read(root, nasty.replace("&amp;", "&")).rows) == 3
    monkeypatch.setattr(quarantine, "COUNTED_MAX", 2)
    assert "2 or more" in desk.read(root, desk.listing(Quarantine)).text
    Quarantine.objects.update(resolved_at=clock.now())
    assert "No event waits." in desk.read(root, desk.listing(Quarantine)).text
