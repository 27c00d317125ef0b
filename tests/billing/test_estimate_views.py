"""``POST /v1/estimate`` through HTTP: what a request would cost, by the code that debits (contract 1)."""

import json
from decimal import Decimal
from typing import Any

import pytest

from billing.models import Transfer
from core import clock, ids
from metering import rules
from metering.models import RequestLog, UsageClaim, UsageRecord
from orgs import caches
from tests.billing.test_explain_views import CASES, charged, exact, explained
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.metering.test_rules import later
from tests.orgs import world

ESTIMATE = "/v1/estimate"
SKY = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with 10 USD and a gateway."""
    return neighbours.house("acme-labs")


@pytest.fixture
def caller(acme: House) -> Caller:
    """The organization's own key."""
    return acme.callers["organization"]


def test_an_estimate_from_counts_is_told_with_its_parts(acme: House, caller: Caller) -> None:
    found = exact(caller.post(ESTIMATE, {**CASES["cached"].told, "max_output_tokens": 9}))
    price_id = ids.show("price", acme.records[0].price_id)
    assert found == {
        "object": "estimate",
        "model": "deepseek-chat",
        "input_tokens": 1000,
        "output_tokens": 200,
        "usage_source": "reported",
        "cost_usd": Decimal("0.000362"),
        "arithmetic": "360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362",
        "parts": [
            {
                "pool": "input", "quantity": 360, "rate_usd": Decimal("0.27"), "per": 1_000_000,
                "cost_usd": Decimal("0.0000972"),
            },
            {
                "pool": "cached_input", "quantity": 640, "rate_usd": Decimal("0.07"), "per": 1_000_000,
                "cost_usd": Decimal("0.0000448"),
            },
            {
                "pool": "output", "quantity": 200, "rate_usd": Decimal("1.1"), "per": 1_000_000,
                "cost_usd": Decimal("0.00022"),
            },
        ],
        "price_id": price_id,
        "rule_id": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_estimate_is_what_the_same_counts_are_charged(acme: House, caller: Caller, name: str) -> None:
    case = CASES[name]
    for by in (caller, acme.callers["owner"], acme.callers["plain"], acme.gateway, acme.callers["service"]):
        found = exact(by.post(ESTIMATE, case.told))
        assert (by.name, found["arithmetic"]) == (by.name, case.arithmetic)
        assert found["cost_usd"] == Decimal(case.arithmetic.split(" = ")[1])
    made = charged(acme, **case.told)
    assert made["cost_usd"] == found["cost_usd"]
    assert explained(caller, made["usage_record_id"])["parts"] == found["parts"]


@pytest.mark.parametrize("model", ["deepseek-chat", "gpt-4o", "claude-sonnet-4-6"])
@pytest.mark.parametrize(
    "text",
    [
        {"messages": SKY, "output_text": "Rayleigh scattering."},
        {"input_text": "Why is the sky blue?", "output_tokens": 30},
        {"messages": SKY, "cached_input_tokens": 500, "output_text": "x", "reasoning_tokens": 8},
    ],
)
def test_an_estimate_from_text_is_what_the_same_text_is_charged(
    acme: House, caller: Caller, model: str, text: dict[str, Any]
) -> None:
    found = exact(caller.post(ESTIMATE, {"model": model, **text}))
    assert found["usage_source"] == "estimated"
    made = charged(acme, **{"input_tokens": None, "output_tokens": None, "model": model, **text})
    record = acme.records[-1]
    assert (made["cost_usd"], record.input_tokens, record.output_tokens) == (
        found["cost_usd"], found["input_tokens"], found["output_tokens"],
    )  # fmt: skip
    assert found["cost_usd"] > 0


def test_messages_are_counted_with_the_format_of_a_chat_and_the_vendors_margin(caller: Caller) -> None:
    # By the table: 1 + 3 and 1 + 6 for roles and contents, 3 for each message and 3 for the reply.
    counted = {
        model: exact(caller.post(ESTIMATE, {"model": model, "messages": SKY}))["input_tokens"]
        for model in ("gpt-4o", "deepseek-chat", "claude-sonnet-4-6")
    }
    assert counted == {"gpt-4o": 20, "deepseek-chat": 23, "claude-sonnet-4-6": 26}


def test_the_cap_stands_for_an_output_that_nobody_tells(caller: Caller) -> None:
    def output(**told: Any) -> int:
        tokens: int = exact(caller.post(ESTIMATE, {"model": "gpt-4o", "input_tokens": 0, **told}))["output_tokens"]
        return tokens

    assert output() == 0
    assert output(max_output_tokens=500) == 500
    assert output(max_output_tokens=500, output_tokens=0) == 0
    assert output(max_output_tokens=500, output_tokens=None) == 500


def test_an_organizations_own_rates_are_in_its_estimates_and_in_nobody_elses(
    acme: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = rules.publish(
        by=world.BY, reason="half", effective_from=later(), organization=acme.organization, factor=Decimal("0.5")
    )
    then = later(minutes=1)
    monkeypatch.setattr(clock, "now", lambda: then)
    caches.forget_all()
    asked = {
        name: exact(by.post(ESTIMATE, CASES["cached"].told))
        for name, by in {**acme.callers, "gateway": acme.gateway}.items()
    }
    half, whole = Decimal("0.000181"), Decimal("0.000362")
    assert {name: found["cost_usd"] for name, found in asked.items()} == {
        "organization": half, "owner": half, "plain": half, "viewer": half, "gateway": half, "alone": whole,
        "service": whole,
    }  # fmt: skip
    assert asked["gateway"]["rule_id"] == ids.show("rule", rule.pk)
    assert asked["service"]["rule_id"] is None


def test_an_estimate_writes_and_says_nothing_of_the_text(acme: House, caller: Caller) -> None:
    tables = (UsageRecord, UsageClaim, Transfer, RequestLog)
    before = [table.objects.count() for table in tables]
    answer = caller.post(ESTIMATE, {"model": "gpt-4o", "input_text": "my secret", "output_text": "your secret"})
    assert answer.status_code == 200
    assert b"secret" not in answer.content
    assert [table.objects.count() for table in tables] == before


COUNT = "must be an integer of at least 0."


@pytest.mark.parametrize(
    ("told", "status", "code", "param", "message"),
    [
        ({"model": "nobody"}, 400, "model_not_found", "model", "No model with the id nobody is in the catalog."),
        ({"model": None}, 400, "missing_required_parameter", "model", "model is required."),
        ({"model": ""}, 422, "value_out_of_range", "model", "model must be a string of 1 to 128 characters."),
        ({"model": 7}, 400, "invalid_type", "model", "model must be a string of 1 to 128 characters."),
        # In the catalog, without a price.
        ({"model": "deepshi-3.0"}, 422, "value_out_of_range", "model", "deepshi-3.0 has no price."),
        (
            {"service_tier": "turbo"}, 422, "value_out_of_range", "service_tier",
            "gpt-4o: no rates for service tier turbo.",
        ),
        (
            {"model": "deepseek-chat", "batch": True}, 422, "value_out_of_range", "batch",
            "deepseek-chat: no rates for service tier default, batch.",
        ),
        ({"units": {"haircuts": 1}}, 422, "value_out_of_range", "units", "gpt-4o: no rate for haircuts."),
        (
            {"model": "deepseek-chat", "audio_input_tokens": 5}, 422, "value_out_of_range", "audio_input_tokens",
            "deepseek-chat: no rate for audio_input tokens.",
        ),
        (
            {"cached_input_tokens": 11}, 422, "inconsistent_usage", "input_tokens",
            "The parts of the input exceed input_tokens.",
        ),
        (
            {"output_tokens": 1, "reasoning_tokens": 2}, 422, "inconsistent_usage", "reasoning_tokens",
            "reasoning_tokens exceed the text part of output_tokens.",
        ),
        (
            {"input_tokens": None}, 400, "missing_required_parameter", "input_tokens",
            "input_tokens is required, or messages or input_text.",
        ),
        ({"input_tokens": "10"}, 400, "invalid_type", "input_tokens", f"input_tokens {COUNT}"),
        ({"input_tokens": 1.5}, 400, "invalid_type", "input_tokens", f"input_tokens {COUNT}"),
        ({"input_tokens": True}, 400, "invalid_type", "input_tokens", f"input_tokens {COUNT}"),
        ({"input_tokens": -1}, 422, "value_out_of_range", "input_tokens", f"input_tokens {COUNT}"),
        (
            {"input_tokens": 2**31}, 422, "value_out_of_range", "input_tokens",
            "input_tokens must be at most 2147483647.",
        ),
        ({"max_output_tokens": "5"}, 400, "invalid_type", "max_output_tokens", f"max_output_tokens {COUNT}"),
        ({"units": [1]}, 400, "invalid_type", "units", "units must be an object of counts."),
        ({"input_tokens": None, "messages": "hello"}, 400, "invalid_type", "messages", "messages must be an array."),
        (
            {"input_tokens": None, "messages": [{"content": 7}]}, 400, "invalid_type", "messages[0].content",
            "messages[0].content must be a string.",
        ),
        (
            {"input_tokens": None, "messages": SKY, "tools": {}}, 400, "invalid_type", "tools",
            "tools must be an array.",
        ),
        (
            {"input_tokens": None, "input_text": ["x"]}, 400, "invalid_type", "input_text",
            "input_text must be a string.",
        ),
        ({"output_text": 7}, 400, "invalid_type", "output_text", "output_text must be a string."),
    ],
)  # fmt: skip
def test_a_bad_question_is_refused_by_the_name_of_its_field(
    caller: Caller, told: dict[str, Any], status: int, code: str, param: str, message: str
) -> None:
    answer = caller.post(ESTIMATE, {"model": "gpt-4o", "input_tokens": 10, **told})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"], error["message"]) == (status, code, param, message)


def test_who_may_not_read_usage_is_told_no_costs(acme: House) -> None:
    from orgs import members

    members.define_role(name="quiet", granted=["calls:make"], by=world.BY)
    members.change_role(organization=acme.organization, member_id=acme.plain.pk, role="quiet", by=world.BY)
    answer = acme.callers["plain"].post(ESTIMATE, {"model": "gpt-4o", "input_tokens": 10})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")


def test_exact_digits_go_over_the_wire(caller: Caller) -> None:
    answer = caller.post(ESTIMATE, {"model": "deepseek-chat", "input_tokens": 1, "cached_input_tokens": 1})
    assert b'"cost_usd":0.00000007,' in answer.content
    assert json.loads(answer.content)["arithmetic"] == "1 × 0.07/1M = 0.00000007"
