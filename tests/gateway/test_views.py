"""``POST /v1/events`` through HTTP: every form of body, every verdict, field by field (contract 16, 20.17)."""

import gzip
import json
import random
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import zstandard

from billing.models import Transfer, Wallet
from core import ids, money
from metering.models import Quarantine, RequestLog, UsageClaim, UsageRecord
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import EVENTS, Caller, House
from tests.orgs import world

# Every promise holds at both doors.
pytestmark = pytest.mark.usefixtures("both_doors")

NDJSON = "application/x-ndjson"
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with usage and a gateway."""
    return neighbours.house("acme-labs")


@pytest.fixture
def gateway(acme: House) -> Caller:
    """The gateway, which names its organization in the header."""
    return acme.gateway


def event(**told: Any) -> dict[str, Any]:
    """The event of contract 20.17, as good as new."""
    return {
        "event_id": f"gw1-{ids.new()}",
        "request_id": "req_5d0f",
        "occurred_at": int(time.time()),
        "organization": "acme-labs",
        "endpoint": "/v1/chat/completions",
        "source": "api_key",
        "model": "deepseek-chat",
        "routed_model": "deepseek-chat",
        "channel": "deepseek-eu-1",
        "attempts": 1,
        "stream": False,
        "status": 200,
        "finish_reason": "stop",
        "input_tokens": 1000,
        "cached_input_tokens": 640,
        "output_tokens": 200,
        "reasoning_tokens": 0,
        "latency_ms": 912,
        **told,
    }


def balance(of: House) -> Decimal:
    """What the wallet has."""
    wallet = Wallet.objects.get(pk=of.organization.pk)
    return Decimal(wallet.posted_usd - wallet.overdraft_usd)


def test_the_example_of_the_contract_is_priced_recorded_and_debited(acme: House, gateway: Caller) -> None:
    key = ids.show("key", acme.keys["organization"].key.pk)
    before = balance(acme)
    sent = event(api_key_id=key)
    answer = gateway.post(EVENTS, {"events": [sent]})
    assert answer.status_code == 200
    told = answer.json()
    record = acme.records[-1]
    assert told == {
        "object": "list", "created": 1, "duplicates": 0, "quarantined": 0, "conflicts": 0, "rejected": 0, "failed": 0,
        "data": [{
            "event_id": sent["event_id"], "status": "created", "usage_record_id": ids.show("usage", record.pk),
            "cost_usd": Decimal("0.000362"),
        }],
        "wallets": [{"organization": "acme-labs", "balance_usd": Decimal("9.996698"), "status": "active"}],
    }  # fmt: skip
    assert b'"cost_usd":0.000362' in answer.content
    # One figure: the answer's, the record's, the ledger's.
    assert record.cost_usd == Decimal("0.000362") == before - balance(acme)
    assert record.transfer_id is not None
    assert Transfer.objects.get(pk=record.transfer_id).amount_usd == record.cost_usd
    assert (record.api_key_id, record.channel, record.latency_ms) == (
        acme.keys["organization"].key.pk, "deepseek-eu-1", 912,
    )  # fmt: skip


def test_one_event_answers_201_with_its_verdict_at_the_top(acme: House, gateway: Caller) -> None:
    sent = event()
    answer = gateway.post(EVENTS, sent)
    assert answer.status_code == 201
    told = answer.json()
    record = acme.records[-1]
    assert told == {
        "event_id": sent["event_id"], "status": "created", "usage_record_id": ids.show("usage", record.pk),
        "cost_usd": Decimal("0.000362"),
        "wallet": {"organization": "acme-labs", "balance_usd": Decimal("9.996698"), "status": "active"},
    }  # fmt: skip
    assert "deepailab-organization" not in answer.headers
    # What was answered can be read at once.
    assert acme.callers["organization"].get(f"/v1/usage/{told['usage_record_id']}").status_code == 200


def test_the_same_event_again_is_200_with_the_first_answer(acme: House, gateway: Caller) -> None:
    sent = event()
    first = gateway.post(EVENTS, sent).json()
    again = gateway.post(EVENTS, sent)
    assert (again.status_code, again.json()) == (200, {**first, "status": "duplicate"})
    later = gateway.post(EVENTS, {**sent, "latency_ms": 1, "metadata": {"a": "b"}, "channel": "other"})
    assert (later.status_code, later.json()["status"]) == (200, "duplicate")
    assert UsageRecord.objects.filter(event_id=sent["event_id"]).count() == 1


def test_another_story_under_the_same_id_is_409_and_changes_nothing(acme: House, gateway: Caller) -> None:
    sent = event()
    gateway.post(EVENTS, sent)
    before = balance(acme), len(acme.records)
    answer = gateway.post(EVENTS, {**sent, "output_tokens": 201})
    assert answer.status_code == 409
    told = answer.json()
    assert told["error"] == {
        "message": "This event_id was used with other content.", "type": "invalid_request_error", "param": "event_id",
        "code": "conflict", "category": "user_error",
    }  # fmt: skip
    assert (told["event_id"], told["status"]) == (sent["event_id"], "conflict")
    assert "usage_record_id" not in told
    assert answer.headers["X-Gateway-Error-Category"] == "user_error"
    assert answer.headers["x-should-retry"] == "false"
    assert (balance(acme), len(acme.records)) == before


def test_an_unpriced_event_is_202_and_kept(acme: House, gateway: Caller) -> None:
    before = balance(acme)
    sent = event(model="not-in-the-catalog")
    answer = gateway.post(EVENTS, sent)
    assert answer.status_code == 202
    assert answer.json() == {
        "event_id": sent["event_id"], "status": "quarantined",
        "wallet": {"organization": "acme-labs", "balance_usd": Decimal("9.99706"), "status": "active"},
    }  # fmt: skip
    assert "X-Gateway-Error-Category" not in answer.headers
    assert Quarantine.objects.get(event_id=sent["event_id"]).reason == "unpriced"
    assert balance(acme) == before
    again = gateway.post(EVENTS, sent)
    assert (again.status_code, again.json()["status"]) == (202, "quarantined")
    assert gateway.post(EVENTS, {**sent, "output_tokens": 1}).status_code == 409


@pytest.mark.parametrize(
    ("told", "code", "param"),
    [
        ({"input_tokens": -1}, "value_out_of_range", "input_tokens"),
        ({"input_tokens": "1000"}, "invalid_type", "input_tokens"),
        ({"input_tokens": 1.5}, "invalid_type", "input_tokens"),
        ({"event_id": ""}, "value_out_of_range", "event_id"),
        ({"event_id": None}, "missing_required_parameter", "event_id"),
        ({"occurred_at": "yesterday"}, "invalid_type", "occurred_at"),
        ({"occurred_at": 1}, "value_out_of_range", "occurred_at"),
        ({"source": "cli"}, "value_out_of_range", "source"),
        ({"cached_input_tokens": 1001}, "inconsistent_usage", "input_tokens"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata"),
        ({"end_user": "x" * 129}, "value_out_of_range", "end_user"),
    ],
)
def test_a_wrong_event_is_422_with_its_field_and_leaves_nothing(
    acme: House, gateway: Caller, told: dict[str, Any], code: str, param: str
) -> None:
    kept = [model.objects.count() for model in (UsageRecord, UsageClaim, RequestLog, Quarantine)]
    sent = event(**told)
    answer = gateway.post(EVENTS, sent)
    assert answer.status_code == 422
    body = answer.json()
    assert body["status"] == "rejected"
    assert body["event_id"] == (sent["event_id"] if isinstance(sent["event_id"], str) else None)
    error = body["error"]
    assert (error["code"], error["param"], error["category"]) == (code, param, "user_error")
    assert error["message"].endswith(".")
    assert answer.headers["X-Gateway-Error-Category"] == "user_error"
    batch = gateway.post(EVENTS, [event(), sent]).json()
    assert [each["status"] for each in batch["data"]] == ["created", "rejected"]
    assert batch["data"][1]["error"] == {
        "message": error["message"], "type": error["type"], "param": f"events[1].{param}", "code": code,
    }  # fmt: skip
    assert (batch["created"], batch["rejected"]) == (1, 1)
    after = [model.objects.count() for model in (UsageRecord, UsageClaim, RequestLog, Quarantine)]
    assert after == [kept[0] + 1, kept[1] + 1, *kept[2:]]


def test_what_cannot_be_written_now_is_503_and_may_be_sent_again(
    acme: House, gateway: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    def refuse(*_: Any, **__: Any) -> Any:
        raise OperationalError("the database is gone")

    sent = event()
    with monkeypatch.context() as broken:
        broken.setattr("billing.charges._transaction", refuse)
        answer = gateway.post(EVENTS, sent)
        batch = gateway.post(EVENTS, [sent, event()])
    assert answer.status_code == 503
    told = answer.json()
    assert (told["status"], told["error"]["code"], told["error"]["category"]) == (
        "failed", "unavailable", "platform_error",
    )  # fmt: skip
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["X-Gateway-Error-Category"] == "platform_error"
    assert "gone" not in answer.content.decode()
    assert (batch.status_code, batch.json()["failed"]) == (200, 2)
    assert gateway.post(EVENTS, sent).status_code == 201


def test_a_batch_has_a_verdict_for_each_event_in_order_and_every_wallet_once(acme: House, gateway: Caller) -> None:
    other = world.organization("other-inc")
    many = Caller("many", world.service_key().secret)
    first, second = event(), event(organization="other-inc")
    gateway.post(EVENTS, first)
    sent = [
        second, first, {**first, "output_tokens": 1}, event(model="unknown"), {"event_id": "x"}, event(), second,
        {**second, "model": "gpt-4o"}, event(status=500, input_tokens=0, cached_input_tokens=0, output_tokens=0), 7,
    ]  # fmt: skip
    answer = many.post(EVENTS, sent)
    assert answer.status_code == 200
    told = answer.json()
    assert [each["status"] for each in told["data"]] == [
        "created", "duplicate", "conflict", "quarantined", "rejected", "created", "duplicate", "conflict", "created",
        "rejected",
    ]  # fmt: skip
    counts = {"created": 3, "duplicates": 2, "quarantined": 1, "conflicts": 2, "rejected": 2, "failed": 0}
    assert {name: told[name] for name in counts} == counts
    assert [each["event_id"] for each in told["data"][:3]] == [second["event_id"], first["event_id"], first["event_id"]]
    assert told["data"][8]["usage_record_id"] is None
    assert told["data"][8]["cost_usd"] == 0
    assert told["data"][9]["error"]["param"] == "events[9]"
    assert sorted(each["organization"] for each in told["wallets"]) == ["acme-labs", "other-inc"]
    states = {each["organization"]: (each["balance_usd"], each["status"]) for each in told["wallets"]}
    assert states["other-inc"] == (-Decimal("0.000362"), "empty")
    assert Wallet.objects.get(pk=other.pk).overdraft_usd == Decimal("0.000362")


def test_a_failed_request_is_logged_at_no_cost_and_not_listed(acme: House, gateway: Caller) -> None:
    listed = len(acme.records)
    for number, status in enumerate((400, 404, 429, 499)):
        answer = gateway.post(
            EVENTS,
            {"event_id": f"failed-{number}", "model": "gpt-4o", "occurred_at": int(time.time()), "status": status},
        )
        assert (answer.status_code, answer.json()["cost_usd"]) == (201, 0)
    assert len(acme.records) == listed
    assert RequestLog.objects.filter(organization=acme.organization).count() == 4


def cloud(told: dict[str, Any]) -> dict[str, Any]:
    """An event in its envelope."""
    data = {name: value for name, value in told.items() if name not in {"event_id", "occurred_at", "organization"}}
    return {
        "specversion": "1.0", "id": told["event_id"], "source": "/gateway/eu-1", "type": "com.example.llm.usage",
        "time": "2026-01-01T00:00:00Z", "subject": told["organization"], "datacontenttype": "application/json",
        "data": data,
    }  # fmt: skip


FORMS: list[tuple[str, Any, bool]] = [
    ("application/json", lambda events: json.dumps(events[0]), True),
    ("application/json", lambda events: json.dumps({"events": events}), False),
    ("application/json", lambda events: json.dumps(events), False),
    ("application/json; charset=utf-8", lambda events: json.dumps(events), False),
    ("APPLICATION/JSON", lambda events: json.dumps(events), False),
    (NDJSON, lambda events: "\n".join(map(json.dumps, events)), False),
    (NDJSON, lambda events: "\r\n".join(map(json.dumps, events)) + "\r\n\r\n", False),
    (CLOUDEVENT, lambda events: json.dumps({**cloud(events[0]), "time": now()}), True),
    (CLOUDEVENTS, lambda events: json.dumps([{**cloud(each), "time": now()} for each in events]), False),
]


def now() -> str:
    """The present in RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


PACKINGS: dict[str, Any] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("place", range(len(FORMS)))
def test_every_form_of_body_is_taken_plain_and_compressed(acme: House, gateway: Caller, place: int) -> None:
    media_type, write, single = FORMS[place]
    for encoding, pack in PACKINGS.items():
        raw = pack(write([event(), event()]).encode())
        headers = {"Content-Encoding": encoding} if encoding else {}
        answer = gateway.call("POST", EVENTS, raw=raw, content_type=media_type, headers=headers)
        assert answer.status_code == (201 if single else 200), answer.content
        told = answer.json()
        assert told["status"] == "created" if single else told["created"] == 2


@pytest.mark.parametrize("encoding", ["br", "deflate", "compress", "gzip, gzip", "x-gzip", "zip", "*"])
def test_an_encoding_that_is_not_taken_is_415(gateway: Caller, encoding: str) -> None:
    answer = gateway.call("POST", EVENTS, raw=b"{}", headers={"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["error"]["param"]) == (415, "Content-Encoding")


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(b"[]" * 99)[:-9]),
        ("zstd", b"no zstd"),
        ("gzip", b""),
        ("zstd", b""),
    ],
)
def test_a_body_that_does_not_unpack_is_400(gateway: Caller, encoding: str, raw: bytes) -> None:
    answer = gateway.call("POST", EVENTS, raw=raw, headers={"Content-Encoding": encoding})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", "text/csv", "json", "application/cloudevents"])
def test_a_media_type_that_is_not_taken_is_415(gateway: Caller, media_type: str) -> None:
    answer = gateway.call("POST", EVENTS, raw=json.dumps(event()), content_type=media_type)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_request_holds_a_thousand_events_and_no_more(acme: House, gateway: Caller, settings: Any) -> None:
    settings.EVENTS_MAX = 5
    told = gateway.post(EVENTS, [event() for _ in range(5)])
    assert (told.status_code, told.json()["created"]) == (200, 5)
    for events, refused in (([event() for _ in range(6)], (413, "too_many_events")), ([], (422, "value_out_of_range"))):
        for body in (events, {"events": events}):
            answer = gateway.post(EVENTS, body)
            assert (answer.status_code, answer.json()["error"]["code"]) == refused


def test_the_limit_counts_what_comes_out_of_a_compressed_body(gateway: Caller, settings: Any) -> None:
    settings.BODY_BYTES_MAX = 2000
    small, large = json.dumps(event()).ljust(2000).encode(), json.dumps(event()).ljust(2001).encode()
    for encoding, pack in PACKINGS.items():
        headers = {"Content-Encoding": encoding} if encoding else {}
        assert gateway.call("POST", EVENTS, raw=pack(small), headers=headers).status_code in {200, 201}
        answer = gateway.call("POST", EVENTS, raw=pack(large), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large"), encoding


def test_a_gateway_needs_a_service_key_with_the_scope(acme: House) -> None:
    for name in ("organization", "owner", "plain"):
        answer = acme.callers[name].post(EVENTS, event())
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    other = Caller("other", world.service_key("authorizations:write").secret, "acme-labs")
    answer = other.post(EVENTS, event())
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")


def test_the_header_names_the_organization_of_events_that_name_none(acme: House) -> None:
    anyone = Caller("anyone", world.service_key().secret, "ACME-Labs")
    world.organization("other-inc")
    sent = event()
    del sent["organization"]
    assert anyone.post(EVENTS, sent).json()["wallet"]["organization"] == "acme-labs"
    assert anyone.post(EVENTS, event(organization="other-inc")).json()["wallet"]["organization"] == "other-inc"
    unknown = Caller("unknown", anyone.secret, "no-such").post(EVENTS, {**sent, "event_id": "nobody"})
    assert (unknown.status_code, unknown.json()["status"]) == (202, "quarantined")
    nowhere = Caller("nowhere", anyone.secret).post(EVENTS, {**sent, "event_id": "nobody-2"})
    assert (nowhere.status_code, nowhere.json()["error"]["param"]) == (422, "organization")
    malformed = Caller("malformed", anyone.secret, "a,b").post(EVENTS, sent)
    assert (malformed.status_code, malformed.json()["error"]["code"]) == (403, "org_access_denied")


def test_a_key_implies_its_organization_and_must_not_contradict_it(acme: House) -> None:
    anyone = Caller("anyone", world.service_key().secret)
    other = world.organization("other-inc")
    key = ids.show("key", acme.keys["organization"].key.pk)
    sent = event(api_key_id=key)
    del sent["organization"]
    assert anyone.post(EVENTS, sent).json()["wallet"]["organization"] == "acme-labs"
    conflict = anyone.post(EVENTS, event(api_key_id=key, organization=other.slug))
    assert (conflict.status_code, conflict.json()["error"]["param"]) == (422, "api_key_id")
    unknown = anyone.post(EVENTS, event(api_key_id=ids.show("key", ids.new())))
    assert (unknown.status_code, unknown.json()["status"]) == (202, "quarantined")
    # A revoked key's usage was real.
    acme.callers["owner"].call("DELETE", f"/v1/keys/{key}")
    assert anyone.post(EVENTS, {**sent, "event_id": "after-the-end"}).status_code == 201


def test_random_counts_cost_the_same_in_the_answer_the_record_and_the_ledger(acme: House, gateway: Caller) -> None:
    rates = {
        "deepseek-chat": ("0.27", "0.07", "1.1"),
        "deepai-chat": ("0.3", "0.08", "1.2"),
        "gpt-4o": ("2.5", "1.25", "10"),
    }
    chance = random.Random(20)
    for _ in range(40):
        model = chance.choice(sorted(rates))
        whole, out = chance.choice([0, 1, 7, 10**3, 2**31 - 1]), chance.randrange(10**6)
        cached = chance.randint(0, whole)
        before = balance(acme)
        answer = gateway.post(
            EVENTS, event(model=model, input_tokens=whole, cached_input_tokens=cached, output_tokens=out)
        )
        record = acme.records[-1]
        fresh, again, made = (Fraction(rate) for rate in rates[model])
        expected = ((whole - cached) * fresh + cached * again + out * made) / 1_000_000
        assert Fraction(record.cost_usd) == expected
        assert Fraction(before - balance(acme)) == expected
        assert f'"cost_usd":{money.plain(record.cost_usd)},'.encode() in answer.content
        if record.transfer_id is not None:
            assert Fraction(Transfer.objects.get(pk=record.transfer_id).amount_usd) == expected
