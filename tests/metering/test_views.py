"""Metering's doors: usage (contract 8), models (6) and the catalog (7), field by field."""

import copy
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from core import clock, ids
from core.errors import InvalidCursor
from metering import catalog
from metering.models import CatalogModel, UsageRecord
from orgs import members
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.orgs import world

LISTED = {
    "id", "object", "model", "source", "input_tokens", "output_tokens", "total_tokens", "created_at", "occurred_at",
    "cost_usd",
}  # fmt: skip
PAGE = {"object", "data", "first_id", "last_id", "has_more"}


# Every promise holds at both doors.
pytestmark = pytest.mark.usefixtures("both_doors")


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with six records, each of a transaction, and so of an instant, of its own."""
    return neighbours.house("acme-labs")


@pytest.fixture
def caller(acme: House) -> Caller:
    """The organization's own key."""
    return acme.callers["organization"]


@pytest.fixture
def newcomer(books: Books) -> Caller:
    """A key of an organization that has nothing yet."""
    return Caller("newcomer", world.organization_key(world.organization("empty"), scopes=neighbours.MANAGING).secret)


def refusal(answer: Any) -> tuple[int, str, str | None]:
    """Status, code and parameter of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def listed(caller: Caller, **query: Any) -> list[str]:
    """The ids on a page."""
    answer = caller.get("/v1/usage", **query)
    assert answer.status_code == 200, answer.content
    return [each["id"] for each in answer.json()["data"]]


def at(record: UsageRecord, seconds: int, **changed: Any) -> UsageRecord:
    """A copy of a record that was made so many seconds later."""
    moment = clock.now() + timedelta(seconds=seconds)
    made = copy.copy(record)
    made.pk, made.event_id = next(ids.run(at=moment)), f"copy-{ids.new()}"
    made.recorded_at = moment
    for name, value in changed.items():
        setattr(made, name, value)
    made.save(force_insert=True)
    return made


def shown(*records: UsageRecord) -> list[str]:
    """Ids as customers see them."""
    return [ids.show("usage", each.pk) for each in records]


def test_a_page_has_the_fields_of_the_contract_and_exact_costs(acme: House, caller: Caller) -> None:
    neighbours.report(
        acme, key="organization", count=1, model="deepai-chat", input_tokens=30, output_tokens=4, source="product_call"
    )
    neighbours.report(acme, key="organization", count=1, cached_input_tokens=640)
    answer = caller.get("/v1/usage", limit="2")
    page = answer.json()
    assert set(page) == PAGE
    assert all(set(each) == LISTED for each in page["data"])
    newest, second = page["data"]
    told = {name: second[name] for name in LISTED - {"id", "created_at", "occurred_at"}}
    assert told == {
        "object": "usage_record", "model": "deepai-chat", "source": "product_call", "input_tokens": 30,
        "output_tokens": 4, "total_tokens": 34, "cost_usd": Decimal("0.0000138"),
    }  # fmt: skip
    assert (newest["total_tokens"], newest["cost_usd"]) == (1200, Decimal("0.000362"))
    # Plain digits on the wire, never an exponent.
    assert b'"cost_usd":0.0000138' in answer.content
    record = acme.records[-1]
    assert newest["created_at"] == int(record.recorded_at.timestamp())
    assert newest["occurred_at"] == int(record.occurred_at.timestamp())
    assert (page["object"], page["has_more"]) == ("list", True)
    assert (page["first_id"], page["last_id"]) == (newest["id"], second["id"])


def test_the_smallest_cost_there_is_stands_in_plain_digits_everywhere(acme: House, caller: Caller) -> None:
    model = {
        "id": "tiny", "name": "Tiny", "vendor": "V", "brand": "B", "provider": "P", "owned_by": "v",
        "released_at": 1_700_000_000, "prices": [{
            "effective_from": "2020-01-01T00:00:00Z", "source": "a test",
            "rates": {"terms": [{"when": {}, "rates": {"input": "0.000001", "output": "0"}}]},
        }],
    }  # fmt: skip
    catalog.load({"format": catalog.FORMAT, "source": "a test", "date": "2026-01-01", "models": [model]})
    event = neighbours.event("tiny-1", model="tiny", input_tokens=1, output_tokens=0)
    assert b'"cost_usd":0.000000000001' in acme.gateway.post("/v1/events", event).content
    (newest,) = listed(caller, limit="1")
    for path in ("/v1/usage", f"/v1/usage/{newest}"):
        assert b'"cost_usd":0.000000000001' in caller.get(path).content
    assert b",0.000000000001," in caller.get("/v1/usage", accept="text/csv", limit="1").getvalue()
    assert b'"amount_usd":-0.000000000001' in caller.get("/v1/wallet/transactions").content
    entry = next(each for each in caller.get("/v1/models/catalog").json()["data"] if each["id"] == "tiny")
    assert entry["pricing"] == {
        "currency": "USD", "input_per_1m": Decimal("0.000001"), "cached_input_per_1m": Decimal("0.000001"),
        "output_per_1m": 0,
    }  # fmt: skip
    assert b'"input_per_1m":0.000001' in caller.get("/v1/models/catalog?search=tiny").content


def test_an_empty_list_has_nulls(newcomer: Caller) -> None:
    assert newcomer.get("/v1/usage").json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


def test_a_page_holds_twenty_unless_another_size_is_asked_for(acme: House, caller: Caller) -> None:
    neighbours.report(acme, key="organization", count=1)
    for number in range(120 - len(acme.records)):
        at(acme.records[0], number)
    assert len(listed(caller)) == 20
    for limit in (1, 20, 99, 100):
        assert len(listed(caller, limit=str(limit))) == limit


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/wallet/transactions", "/v1/keys"])
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("0", (422, "value_out_of_range")),
        ("-1", (422, "value_out_of_range")),
        ("101", (422, "value_out_of_range")),
        ("999999999999999999", (422, "value_out_of_range")),
        ("abc", (400, "invalid_type")),
        ("", (400, "invalid_type")),
        ("1.0", (400, "invalid_type")),
        ("1e2", (400, "invalid_type")),
        ("+5", (400, "invalid_type")),
        (" 5", (400, "invalid_type")),
        ("0x5", (400, "invalid_type")),
        ("٥", (400, "invalid_type")),
        ("9" * 5000, (400, "invalid_type")),
        ("5\x00", (400, "invalid_type")),
    ],
)
def test_a_limit_that_is_none_is_refused_and_never_clamped(
    newcomer: Caller, path: str, limit: str, expected: tuple[int, str]
) -> None:
    for accept in ("application/json", "*/*" if path == "/v1/keys" else "text/csv"):
        assert refusal(newcomer.get(path, limit=limit, accept=accept)) == (*expected, "limit")


def test_the_cursor_need_not_match_the_filters(acme: House, caller: Caller) -> None:
    neighbours.report(acme, key="organization", count=1, model="gpt-4o")
    neighbours.report(acme, key="organization", count=1)
    *_, older, other, newest = acme.records
    assert listed(caller, model="gpt-4o") == shown(other)
    assert listed(caller, model="gpt-4o", after=shown(newest)[0]) == shown(other)
    assert listed(caller, model="deepseek-chat", after=shown(other)[0], limit="1") == shown(older)
    assert listed(caller, model="gpt-4o", after=shown(older)[0]) == []


def test_an_unknown_cursor_is_one_refusal(acme: House, caller: Caller) -> None:
    theirs = neighbours.house("other-inc").shown("usage")[0]
    answers = {caller.get("/v1/usage", after=after).content for after in (theirs, ids.show("usage", ids.new()), "x")}
    assert len(answers) == 1
    assert refusal(caller.get("/v1/usage", after=theirs)) == (400, InvalidCursor.code, "after")


def test_oldest_first_serves_only_what_is_final_and_says_until_when(acme: House, caller: Caller) -> None:
    young = caller.get("/v1/usage", order="asc").json()
    assert (young["data"], set(young)) == ([], PAGE | {"complete_until"})
    assert 55 <= clock.now().timestamp() - young["complete_until"] <= 65
    old = [at(acme.records[0], -seconds) for seconds in (90, 80, 70)]
    assert listed(caller, order="asc") == shown(*old)
    assert listed(caller, order="asc", limit="2") == shown(*old[:2])
    assert listed(caller, order="asc", after=shown(old[0])[0]) == shown(*old[1:])
    # A cursor that is not final itself is a place like any other.
    assert listed(caller, order="asc", after=shown(acme.records[-1])[0]) == []
    assert "complete_until" not in caller.get("/v1/usage").json()


def test_a_member_sees_their_own_records_and_a_viewer_all(acme: House) -> None:
    mine = [each for each in acme.records if each.member_id == acme.plain.pk]
    assert listed(acme.callers["plain"]) == shown(*reversed(mine))
    for name in ("organization", "owner", "viewer"):
        assert listed(acme.callers[name]) == shown(*reversed(acme.records))
    assert listed(acme.callers["alone"]) == []
    members.remove(organization=acme.organization, member_id=acme.plain.pk, by=world.BY)
    assert refusal(acme.callers["plain"].get("/v1/usage")) == (403, "org_access_denied", "X-DeepToken-Org")


def test_a_deleted_keys_history_stays(acme: House, caller: Caller) -> None:
    made = caller.post("/v1/keys", {"name": "short-lived"}).json()
    event = neighbours.event("of-a-deleted-key", api_key_id=made["id"])
    assert acme.gateway.post("/v1/events", event).status_code == 201
    assert caller.call("DELETE", f"/v1/keys/{made['id']}").status_code == 200
    assert len(listed(caller, api_key_id=made["id"])) == 1


def test_a_record_alone_tells_what_its_request_was_and_not_what_it_cost_us(acme: House, caller: Caller) -> None:
    told = {
        "request_id": "req-1", "end_user": "u", "endpoint": "/v1/chat/completions", "stream": True, "status": 200,
        "finish_reason": "stop", "outcome": "completed", "ttft_ms": 12, "latency_ms": 912, "cached_input_tokens": 640,
        "cache_write_tokens": 0, "cache_write_1h_tokens": 0, "reasoning_tokens": 3, "image_input_tokens": 0,
        "audio_input_tokens": 0, "image_output_tokens": 0, "audio_output_tokens": 0, "units": {}, "batch": False,
        "service_tier": "default", "metadata": {"a": "b"},
    }  # fmt: skip
    inside = {"provider_cost_usd": "0.0001", "routed_model": "secret-model", "channel": "secret-channel", "attempts": 3}
    answer = acme.gateway.post("/v1/events", neighbours.event("alone-1", **told, **inside, provider="secret-provider"))
    path = f"/v1/usage/{answer.json()['usage_record_id']}"
    record = caller.get(path).json()
    assert set(record) == LISTED | set(told) | {"event_id", "api_key_id", "usage_source", "corrects"}
    assert {name: record[name] for name in told} == told
    assert (record["event_id"], record["usage_source"], record["corrects"]) == ("alone-1", "provider", None)
    assert (record["api_key_id"], record["cost_usd"]) == (None, Decimal("0.000362"))
    assert "secret" not in str(record)
    assert {name: record[name] for name in LISTED} == caller.get("/v1/usage", limit="1").json()["data"][0]
    assert refusal(caller.get("/v1/usage/usage_nothing")) == (404, "not_found", "record_id")


def test_a_csv_has_the_columns_and_all_rows_that_match(acme: House, caller: Caller) -> None:
    answer = caller.get("/v1/usage", accept="text/csv")
    lines = answer.getvalue().decode().split("\r\n")
    assert lines[0] == (
        "id,model,source,input_tokens,output_tokens,total_tokens,created_at,occurred_at,cost_usd,api_key_id,end_user,"
        "cached_input_tokens,reasoning_tokens,request_id"
    )
    newest = acme.records[-1]
    key = ids.show("key", newest.api_key_id) if newest.api_key_id else ""
    assert lines[1] == (
        f"{shown(newest)[0]},deepseek-chat,api_key,1000,200,1200,{newest.recorded_at.isoformat()},"
        f"{newest.occurred_at.isoformat()},0.00049,{key},user of acme-labs,0,0,"
    )
    assert len(lines) == 8
    assert lines[-1] == ""
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    limited = caller.get("/v1/usage", accept="text/csv", limit="2", after=shown(newest)[0]).getvalue().decode()
    assert [line[:32] for line in limited.split("\r\n")[1:-1]] == shown(*reversed(acme.records))[1:3]


def test_models_are_listed_as_openais_clients_read_them(newcomer: Caller) -> None:
    answer = newcomer.get("/v1/models").json()
    assert set(answer) == {"object", "data"}
    assert answer["object"] == "list"
    by_id = {each["id"]: each for each in answer["data"]}
    assert list(by_id) == sorted(by_id)
    assert set(by_id["gpt-4o"]) == {"id", "object", "created", "owned_by"}
    # Contract 20.10.
    assert [by_id[each] for each in ("deepai-chat", "deepseek-chat", "gpt-4o")] == [
        {"id": "deepai-chat", "object": "model", "created": 1767225600, "owned_by": "deepailab"},
        {"id": "deepseek-chat", "object": "model", "created": 1735689600, "owned_by": "deepseek"},
        {"id": "gpt-4o", "object": "model", "created": 1715558400, "owned_by": "openai"},
    ]
    assert newcomer.get("/models").json() == answer
    assert newcomer.get("/v1/models/gpt-4o").json() == by_id["gpt-4o"]


def test_a_key_sees_the_models_it_may_call(acme: House) -> None:
    limited = Caller("limited", world.organization_key(acme.organization, models=["gpt-4o", "not-there"]).secret)
    for path in ("/v1/models", "/models"):
        assert [each["id"] for each in limited.get(path).json()["data"]] == ["gpt-4o"]
    assert limited.get("/v1/models/gpt-4o").status_code == 200
    aliased = Caller("aliased", world.organization_key(acme.organization, models=["gpt-5-2025-08-07"]).secret)
    assert [each["id"] for each in aliased.get("/v1/models").json()["data"]] == ["gpt-5"]
    assert aliased.get("/v1/models/gpt-5").status_code == 200
    denied, unknown = limited.get("/v1/models/deepseek-chat"), limited.get("/v1/models/made-up")
    assert refusal(denied) == refusal(unknown) == (404, "model_not_found", "model")
    assert denied.content.replace(b"deepseek-chat", b"made-up") == unknown.content
    # The catalog is the same for all.
    assert len(limited.get("/v1/models/catalog").json()["data"]) > 10


def test_a_retired_model_is_not_offered(newcomer: Caller) -> None:
    CatalogModel.objects.filter(slug="gpt-4o").update(retired_at=clock.now())
    catalog._listings.forget()
    assert "gpt-4o" not in {each["id"] for each in newcomer.get("/v1/models").json()["data"]}
    assert "gpt-4o" not in {each["id"] for each in newcomer.get("/v1/models/catalog").json()["data"]}
    assert refusal(newcomer.get("/v1/models/gpt-4o")) == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", ["made-up", "a/b/c", "GPT-4O", "%00", "x" * 2000, "é", "catalogue", " gpt-4o"])
def test_an_unknown_model_is_a_404_that_names_it(newcomer: Caller, model: str) -> None:
    assert refusal(newcomer.get(f"/v1/models/{model}")) == (404, "model_not_found", "model")


def test_the_catalog_is_not_a_model_of_that_name(newcomer: Caller) -> None:
    answer = newcomer.get("/v1/models/catalog").json()
    assert set(answer) == {"object", "data"}
    assert len(answer["data"]) == CatalogModel.objects.filter(retired_at__isnull=True).count()
    assert "catalog" not in {each["id"] for each in answer["data"]}


# Contract 20.11, and the rest of 7.1.
EXAMPLES: dict[str, dict[str, Any]] = {
    "deepseek-chat": {
        "id": "deepseek-chat",
        "object": "model",
        "name": "DeepSeek Chat",
        "provider": "DeepSeek",
        "vendor": "DeepSeek",
        "brand": "DeepSeek",
        "kind": "vendor_model",
        "category": ["Vendor reasoning"],
        "context_window": 64000,
        "max_output_tokens": 8192,
        "pricing": {
            "currency": "USD",
            "input_per_1m": Decimal("0.27"),
            "cached_input_per_1m": Decimal("0.07"),
            "output_per_1m": Decimal("1.1"),
        },
        "routing": {"mode": "direct"},
        "capabilities": ["tools", "json"],
        "limits": {"max_stop_sequences": 8},
    },
    "deepai-chat": {
        "id": "deepai-chat",
        "object": "model",
        "name": "DeepAI Chat",
        "provider": "DeepAILab",
        "vendor": "DeepAILab",
        "brand": "DeepAI",
        "kind": "smart_route",
        "category": ["Smart route product"],
        "context_window": 64000,
        "max_output_tokens": 8192,
        "pricing": {
            "currency": "USD",
            "input_per_1m": Decimal("0.3"),
            "cached_input_per_1m": Decimal("0.08"),
            "output_per_1m": Decimal("1.2"),
        },
        "routing": {"mode": "smart", "fallback": True},
        "capabilities": ["tools", "json"],
        "limits": {"max_stop_sequences": 4},
    },
}
SEEDED = {
    "claude-sonnet-4-6": ("Anthropic", ["Vendor flagship"], "vendor_model"),
    "gpt-5.3-codex": ("OpenAI", ["Vendor flagship"], "vendor_model"),
    "gemini-3-flash": ("Google", ["Vendor multimodal flagship", "Vendor fast path"], "vendor_model"),
    "deepseek-chat": ("DeepSeek", ["Vendor reasoning"], "vendor_model"),
    "deepailab-dal": ("DeepAILab", ["Smart route product"], "smart_route"),
    "deepai-chat": ("DeepAILab", ["Smart route product"], "smart_route"),
    "deepai-coder": ("DeepAILab", ["Smart route product"], "smart_route"),
    "deepailab-sup": ("DeepAILab", ["System product route"], "system_route"),
    "claude-sonnet-4-5": ("Anthropic", None, "vendor_model"),
    "gpt-4o-mini": ("OpenAI", None, "vendor_model"),
    "gpt-4o": ("OpenAI", None, "vendor_model"),
    "deepshi-3.0": ("Deepshi", None, "vendor_model"),
    "deepseek-coder": ("DeepSeek", None, "vendor_model"),
}


def test_the_rows_of_the_contract_are_in_the_catalog(newcomer: Caller) -> None:
    entries = {each["id"]: each for each in newcomer.get("/v1/models/catalog").json()["data"]}
    for id, (vendor, category, kind) in SEEDED.items():
        assert (entries[id]["vendor"], entries[id]["kind"]) == (vendor, kind), id
        assert category is None or entries[id]["category"] == category, id
    for id, expected in EXAMPLES.items():
        assert entries[id] == expected


@pytest.mark.parametrize(
    ("query", "held"),
    [
        ({"provider": "deepseek"}, lambda each: each["provider"] == "DeepSeek"),
        ({"provider": "DEEPSEEK"}, lambda each: each["provider"] == "DeepSeek"),
        ({"provider": "Deep"}, lambda each: False),
        ({"provider": ""}, lambda each: True),
        ({"search": "deep"}, lambda each: "deep" in f"{each['id']} {each['name']} {each['provider']}".lower()),
        ({"search": "SONNET 4"}, lambda each: "sonnet 4" in each["name"].lower()),
        ({"search": "no such thing"}, lambda each: False),
        ({"search": "%"}, lambda each: False),
        ({"search": "\x00"}, lambda each: False),
        (
            {"search": "chat", "provider": "deepseek"},
            lambda each: each["provider"] == "DeepSeek" and "chat" in f"{each['id']} {each['name']}".lower(),
        ),
    ],
)
def test_the_catalogs_filters(newcomer: Caller, query: dict[str, str], held: Any) -> None:
    everything = newcomer.get("/v1/models/catalog").json()["data"]
    found = newcomer.get("/v1/models/catalog", **query).json()["data"]
    assert found == [each for each in everything if held(each)]
    assert bool(found) == any(map(held, everything))


def test_the_catalog_is_public_only_where_the_operator_opened_it(acme: House, settings: Any) -> None:
    assert refusal(Client().get("/v1/models/catalog")) == (401, "invalid_api_key", None)
    settings.CATALOG_PUBLIC = True
    assert Client().get("/v1/models/catalog").status_code == 200
    bad = Client().get("/v1/models/catalog", headers={"Authorization": "Bearer dtk_wrong"})
    assert refusal(bad) == (401, "invalid_api_key", None)
    assert refusal(Client().get("/v1/models")) == (401, "invalid_api_key", None)


def test_a_viewer_may_not_call_and_so_lists_no_models(acme: House) -> None:
    for path in ("/v1/models", "/models", "/v1/models/gpt-4o"):
        assert refusal(acme.callers["viewer"].get(path)) == (403, "scope_missing", None)
