"""``POST /v1/events/litellm``: every call of a batch captured from a LiteLLM 1.106 proxy, and what else one sends.

The captured calls are ``tests/gateway/data/litellm_batch.json``; only their instants are moved to today
where they are posted.
"""

import contextlib
import gzip
import json
import logging
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import releases
from billing.models import Transfer, Wallet
from core import errors, ids
from gateway import litellm
from metering.events import Event, External, Limits, Rejection
from metering.models import Quarantine, RequestLog, UsageRecord
from orgs import externals, keys
from tests.books import Books
from tests.database import ROOT
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.orgs import world
from tests.proofs import proves

PATH = "/v1/events/litellm"
NDJSON = "application/x-ndjson"
CAPTURED = (ROOT / "tests" / "gateway" / "data" / "litellm_batch.json").read_bytes()
LIMITS = Limits(
    events=1000, now=datetime(2026, 11, 21, 7, 0, tzinfo=UTC), age=timedelta(days=35), ahead=timedelta(minutes=5)
)
HASH = ("key", "litellm_proxy_master_key")
PERSON = ("user", "default_user_id")


def read(raw: bytes, *, media_type: str = "application/json", trusted: bool = False) -> Any:
    return litellm.decode(raw, media_type=media_type, limits=LIMITS, trusted=trusted)


def read_one(**told: Any) -> Any:
    """The event of the first captured call with other fields."""
    (item,) = read(json.dumps({**json.loads(CAPTURED)[0], **told}).encode()).items
    return item


def usage(**told: Any) -> dict[str, Any]:
    """The first captured call's metadata with another usage."""
    return {**json.loads(CAPTURED)[0]["metadata"], "usage_object": told}


def at(micros: int) -> datetime:
    """An instant of the captured seconds."""
    return datetime(2026, 11, 21, 6, 50, 42, tzinfo=UTC) + timedelta(microseconds=micros)


CHAT = {
    "input_tokens": 2300, "cached_input_tokens": 1920, "output_tokens": 180, "reasoning_tokens": 64,
    "endpoint": "/v1/chat/completions",
}  # fmt: skip
OPENAI = {
    "model": "gpt-4o", "routed_model": "openai/gpt-4o", "provider": "openai",
    "channel": "2a66943e067ab8eb0d462c94cdf7c8c7ecb542f6f63583a52c33bc61c4a4872d",
}  # fmt: skip
# What each captured call is, worked out by hand from the file.
EXPECTED: list[dict[str, Any]] = [
    {
        "event_id": "2c264b3a-cd17-41dd-bb1c-68409bd7dfbf", "request_id": "cbad4ad2-c679-4bb0-96c4-611e713f9469",
        **CHAT, **OPENAI, "occurred_at": at(3_639), "latency_ms": 691, "attempts": 1, "stream": False,
        "end_user": "cust-1", "finish_reason": "stop", "provider_cost_usd": Decimal("0.00515"),
    },
    {
        "event_id": "23b5ada6-4625-4162-a88f-ed9476f15902", "request_id": "167ab204-f4ee-49ef-862d-ae0f722379e6",
        **CHAT, "model": "deepseek-chat", "routed_model": "deepseek/deepseek-chat", "provider": "deepseek",
        "channel": "6d4a611a52d6cc70aa6e9b3e9b69bcd1e8cb920b1d2cf993cde315be75c88044", "occurred_at": at(713_968),
        "latency_ms": 122, "attempts": 1, "stream": False, "finish_reason": "stop",
        "provider_cost_usd": Decimal("0.00023576"),
    },
    {
        "event_id": "40d94fc2-0c9f-4c6b-b0ab-f919549feb80", "request_id": "e07d6703-b4c1-4eb2-8043-b36107c49cbc",
        **CHAT, **OPENAI, "occurred_at": at(858_232), "latency_ms": 80, "ttft_ms": 15, "stream": True,
        "finish_reason": "stop", "provider_cost_usd": Decimal("0.00515"),
    },
    {
        "event_id": "3ce13cfc-5ab1-4f53-a68c-25c53d4f89dd", "request_id": "35d415a0-9469-42fb-bad6-87ffd5920d65",
        **CHAT, **OPENAI, "occurred_at": at(951_308), "latency_ms": 74, "ttft_ms": 10, "stream": True,
        "finish_reason": "stop", "provider_cost_usd": Decimal("0.00515"),
    },
    {
        "event_id": "02aaf9a0-1d71-4d6c-9516-267698b1cbed", "request_id": "7d68bea4-e74c-43fa-9c96-6c6111946ea4",
        "model": "claude-sonnet-4-5", "routed_model": "anthropic/claude-sonnet-4-5", "provider": "anthropic",
        "channel": "fa2e2013f6288e0bd027b822fc6e2f82a9b476ecddc861787087a82500b3124b",
        "input_tokens": 6444, "cached_input_tokens": 4096, "cache_write_tokens": 1024, "cache_write_1h_tokens": 1024,
        "output_tokens": 120, "occurred_at": at(1_042_559), "latency_ms": 5, "attempts": 1, "stream": False,
        "service_tier": "standard", "finish_reason": "stop", "endpoint": "/v1/chat/completions",
        "provider_cost_usd": Decimal("0.0139128"),
    },
    {
        "event_id": "3ed7534a-7f8d-4ef2-b746-9da9bef6964d", "request_id": "fd01f396-631c-441f-883a-718a71751a32",
        "model": "text-embedding-3-small", "routed_model": "openai/text-embedding-3-small", "provider": "openai",
        "channel": "d95ed2b957915eae51a7b5d17201dfe7c79651619e96b27b66626eff6955044d",
        "input_tokens": 12, "output_tokens": 0, "occurred_at": at(1_069_720), "latency_ms": 5, "attempts": 1,
        "stream": False, "endpoint": "/v1/embeddings",
        # 2.4000000000000003e-07 in the file, to the pico-dollar.
        "provider_cost_usd": Decimal("0.00000024"),
    },
    {
        "event_id": "40887230-d9c8-43ee-85fa-b69429595039", "request_id": "18556afa-4c3b-48be-b886-919855a52b06",
        **OPENAI, "input_tokens": 500, "cached_input_tokens": 256, "output_tokens": 40, "occurred_at": at(1_100_142),
        "latency_ms": 32, "attempts": 1, "stream": False, "endpoint": "/v1/responses",
        "provider_cost_usd": Decimal("0.00133"),
    },
    {
        "event_id": "968521c8-4b4d-413d-84d4-61af9ff24f72", "request_id": "886da873-b1fd-47f3-b7d2-78b0afdee6f2",
        "model": "boom", "routed_model": "openai/boom", "provider": "openai",
        "channel": "be35440ebcf0423387084966eab2d641c9c020238c4ae5a55ba2ac56bd802e5d",
        "occurred_at": at(1_163_061), "latency_ms": 5, "stream": False, "status": 500, "outcome": "upstream_error",
        "metadata": {"error_class": "InternalServerError"}, "endpoint": "/v1/chat/completions",
    },
]  # fmt: skip
# What each costs at the catalog's prices: 380 uncached, 1,920 cached, 180 out at 2.50, 1.25 and 10 per 1M, and so on.
COSTS = ["0.00515", "0.000435", "0.00515", "0.00515", "0.0139128", "0.00000024", "0.00133", "0"]
NAMES = (HASH, PERSON)


def test_every_captured_call_is_the_event_that_it_should_be() -> None:
    body = read(CAPTURED)
    assert not body.single
    assert len(body.items) == len(EXPECTED) == 8
    for item, told in zip(body.items, EXPECTED, strict=True):
        wanted = Event(**{"status": 200, **told}, external=External(NAMES, client="acme-labs"))
        assert item == wanted


def test_nothing_of_what_was_said_is_in_an_event() -> None:
    spoken = json.loads(CAPTURED)
    for call in spoken:
        call["messages"] = [{"role": "user", "content": "sesame-open"}]
        call["request_tags"] = ["sesame-open"]
        call["error_str"] = "sesame-open"
        call["error_information"]["error_message"] = "sesame-open"
        call["metadata"]["requester_metadata"] = {"headers": {"x-secret": "sesame-open"}}
        if call["response"].get("choices"):
            call["response"]["choices"][0]["message"]["content"] = "sesame-open"
    body = read(json.dumps(spoken).encode())
    assert body.items == read(CAPTURED).items
    assert "sesame" not in repr(body)


@pytest.mark.parametrize("form", ["array", "ndjson", "lines as json"])
def test_the_three_ways_to_send_a_batch_are_one(form: str) -> None:
    calls = json.loads(CAPTURED)
    lines = b"\n".join(json.dumps(call).encode() for call in calls)
    told = {
        "array": (CAPTURED, "application/json"),
        "ndjson": (lines, NDJSON),
        "lines as json": (lines, "application/json"),
    }
    raw, media_type = told[form]
    assert read(raw, media_type=media_type).items == read(CAPTURED).items
    assert not read(raw, media_type=media_type).single


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_is_one_event(indent: int | None) -> None:
    body = read(json.dumps(json.loads(CAPTURED)[0], indent=indent).encode())
    assert body.single
    assert body.items == read(CAPTURED).items[:1]


def test_what_spoils_strict_json_in_one_call_spoils_no_other() -> None:
    first, second = json.dumps(json.loads(CAPTURED)[0]), json.dumps(json.loads(CAPTURED)[1])
    deep = "[" * 200 + "]" * 200
    for member in ('"odd": NaN', r'"odd": "\ud800"', '"odd": ' + "9" * 5000, f'"odd": {deep}', '"odd": 1, "odd": 2'):
        spoiled = first[:-1] + ", " + member + "}"
        body = read(f"[{spoiled}, {second}]".encode())
        assert body.items == read(CAPTURED).items[:2], member
        assert read(spoiled.encode()).items == body.items[:1], member


def test_a_number_of_money_is_read_from_its_digits_on_the_careless_way_too() -> None:
    first = json.dumps({**json.loads(CAPTURED)[0], "response_cost": 2.4000000000000003e-07})
    (item,) = read((first[:-1] + ', "odd": NaN}').encode()).items
    assert item.provider_cost_usd == Decimal("0.00000024")
    assert item.occurred_at == at(3_639)


def test_a_call_without_its_id_or_its_start_is_refused_by_that_name() -> None:
    for name in ("litellm_call_id", "startTime"):
        item = read_one(**{name: None})
        assert isinstance(item, Rejection)
        assert (item.error.code, item.error.param) == ("missing_required_parameter", name)
    body = read(json.dumps([{}, None, json.loads(CAPTURED)[0]]).encode())
    assert [isinstance(item, Rejection) for item in body.items] == [True, True, False]
    assert body.items[1].error.param == "events[1].litellm_call_id"


def test_the_public_model_is_the_group_or_the_model_without_its_provider() -> None:
    assert read_one(model_group=None).model == "gpt-4o"
    assert read_one(model_group=None, model="gpt-4o").model == "gpt-4o"
    assert read_one(model_group="fast", model="openai/gpt-4o").model == "fast"
    assert (
        read_one(model_group=None, model="meta-llama/llama-3", custom_llm_provider="groq").model == "meta-llama/llama-3"
    )
    assert read_one(model_group="a\x00b").error.param == "model"


def test_counts_come_from_the_first_place_that_has_them() -> None:
    told = {"prompt_tokens": 7, "completion_tokens": 3}
    elsewhere = {"prompt_tokens": 9, "completion_tokens": 9}
    first = read_one(metadata=usage(**told), hidden_params={"usage_object": elsewhere}, response={"usage": elsewhere})
    second = read_one(metadata=usage(), hidden_params={"usage_object": told}, response={"usage": elsewhere})
    third = read_one(metadata=usage(), hidden_params={"usage_object": None}, response={"usage": told})
    assert {(item.input_tokens, item.output_tokens) for item in (first, second, third)} == {(7, 3)}


def test_a_count_of_zero_is_believed_and_an_absent_one_is_not_zero() -> None:
    item = read_one(metadata=usage(prompt_tokens=0, completion_tokens=0), prompt_tokens=99, completion_tokens=99)
    assert (item.input_tokens, item.output_tokens, item.units) == (0, 0, {})
    item = read_one(metadata=usage(prompt_tokens=12, completion_tokens=None), completion_tokens=5)
    assert (item.input_tokens, item.output_tokens) == (12, 5)
    # Nobody counted: a unit that no price knows, so it waits for finance and is not billed as nothing.
    nobody = {"metadata": usage(), "response": {}, "prompt_tokens": 0, "completion_tokens": 0}
    item = read_one(**nobody, call_type="aimage_generation")
    assert (item.input_tokens, item.output_tokens, item.units) == (0, 0, {"aimage_generation": 1})


def test_the_names_of_the_responses_api_are_understood() -> None:
    item = read_one(
        metadata=usage(
            input_tokens=500, input_tokens_details={"cached_tokens": 256}, output_tokens=40,
            output_tokens_details={"reasoning_tokens": 8},
        )
    )  # fmt: skip
    told = (item.input_tokens, item.cached_input_tokens, item.output_tokens, item.reasoning_tokens)
    assert told == (500, 256, 40, 8)


@pytest.mark.parametrize(
    ("details", "flat", "written"),
    [
        ({"cache_creation_tokens": 2048}, {}, (2048, 0)),
        ({}, {"cache_creation_input_tokens": 2048}, (2048, 0)),
        # The split parts the total; it is not added to it.
        (
            {
                "cache_creation_tokens": 2048,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2048},
            },
            {}, (0, 2048),
        ),
        (
            {
                "cache_creation_tokens": 2048,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 24, "ephemeral_1h_input_tokens": 1000},
            },
            {}, (1048, 1000),
        ),
    ],
)  # fmt: skip
def test_what_was_written_to_the_cache_is_split_by_its_life(
    details: dict[str, Any], flat: dict[str, Any], written: tuple[int, int]
) -> None:
    item = read_one(metadata=usage(prompt_tokens=3000, completion_tokens=1, prompt_tokens_details=details, **flat))
    assert (item.cache_write_tokens, item.cache_write_1h_tokens) == written
    assert item.input_tokens == 3000


def test_other_uses_are_counted() -> None:
    item = read_one(
        metadata=usage(
            prompt_tokens=100, completion_tokens=50,
            prompt_tokens_details={"audio_tokens": 20, "image_tokens": 30, "web_search_requests": 2},
            completion_tokens_details={"audio_tokens": 5, "image_tokens": 6, "reasoning_tokens": 7},
        )
    )  # fmt: skip
    assert (item.audio_input_tokens, item.image_input_tokens, item.units) == (20, 30, {"web_search_requests": 2})
    assert (item.audio_output_tokens, item.image_output_tokens, item.reasoning_tokens) == (5, 6, 7)
    item = read_one(metadata=usage(prompt_tokens=1, completion_tokens=1, server_tool_use={"web_search_requests": 3}))
    assert item.units == {"web_search_requests": 3}


def test_parts_that_exceed_their_whole_are_refused() -> None:
    item = read_one(metadata=usage(prompt_tokens=10, completion_tokens=1, prompt_tokens_details={"cached_tokens": 11}))
    assert isinstance(item, Rejection)
    assert item.error.code == "inconsistent_usage"


@pytest.mark.parametrize(
    ("code", "status"), [("429", 429), ("404", 404), (503, 503), ("", 500), (None, 500), ("quota", 500), ("200", 500)]
)
def test_a_failure_has_its_status_and_the_class_of_its_error(code: Any, status: int) -> None:
    wrong = {"error_code": code, "error_class": "RateLimitError", "error_message": "what was said"}
    item = read_one(status="failure", metadata=usage(), response={}, error_information=wrong)
    assert (item.status, item.outcome, item.billed) == (status, "upstream_error", False)
    assert item.metadata == {"error_class": "RateLimitError"}


def test_output_is_billed_though_the_call_failed_but_never_of_a_4xx() -> None:
    used = usage(prompt_tokens=10, completion_tokens=4)
    assert read_one(status="failure", metadata=used, error_information={"error_code": "500"}).billed
    assert not read_one(status="failure", metadata=used, error_information={"error_code": "400"}).billed
    gone = read_one(status="failure", metadata=used, error_information={"error_code": "499"})
    assert (gone.outcome, gone.billed) == ("client_aborted", True)


def test_an_answer_from_the_proxys_cache_used_nothing() -> None:
    item = read_one(cache_hit=True)
    assert (item.input_tokens, item.cached_input_tokens, item.output_tokens, item.reasoning_tokens) == (0, 0, 0, 0)
    assert (item.provider_cost_usd, item.billed) == (Decimal(0), True)
    assert item.metadata == {
        "cache_hit": "true", "input_tokens": "2300", "cached_input_tokens": "1920", "output_tokens": "180",
        "reasoning_tokens": "64",
    }  # fmt: skip


def test_what_a_bill_does_not_need_is_dropped_where_it_is_odd() -> None:
    secret = "dtk_" + "0" * 49
    item = read_one(
        end_user=secret, trace_id=7, model_id="a\nb", endTime="soon", response_cost=-1, stream="yes",
        hidden_params="redacted", response="redacted", custom_llm_provider="x" * 300,
    )  # fmt: skip
    assert isinstance(item, Event)
    told = (item.end_user, item.request_id, item.channel, item.latency_ms, item.provider_cost_usd, item.attempts)
    assert told == ("cust-1", None, None, None, None, None)
    assert (item.stream, item.provider, item.finish_reason) == (False, "x" * 128, None)


def test_a_number_that_nobody_means_is_none() -> None:
    first = json.dumps(json.loads(CAPTURED)[0]).encode()
    for name in (b"endTime", b"response_cost"):
        start = first.index(b'"' + name + b'": ') + len(name) + 4
        end = first.index(b",", start)
        for literal in (b"1e999999999", b"1e-999999999"):
            (item,) = read(first[:start] + literal + first[end:]).items
            assert isinstance(item, Event)
            assert None in (item.latency_ms, item.provider_cost_usd)


def test_attempts_are_the_first_and_every_other_one() -> None:
    headers = {"x-litellm-attempted-retries": 2, "x-litellm-attempted-fallbacks": 1}
    assert read_one(hidden_params={"additional_headers": headers}).attempts == 4


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(), st.just("\ud800"), st.just("a\x00"),
    st.just("dtk_" + "0" * 49), st.just([]), st.just({}), st.just([None]), st.just({"a": {"b": []}}),
    st.just("9" * 400),
    st.sampled_from([1e308, -1, 2**31, 0.5, "1e9", "NaN"]),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a payload that is read, down to its leaves."""
    found = [path] if path else []
    inner = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    return found + [place for name, one in inner for place in places(one, (*path, name))]


PLACES = [[place for place in places(call) if place[0] != "model_map_information"] for call in json.loads(CAPTURED)]


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_whatever_stands_anywhere_in_a_call_is_an_event_that_can_be_kept_or_its_own_refusal(data: Any) -> None:
    calls = json.loads(CAPTURED)
    number = data.draw(st.integers(0, len(calls) - 1))
    for place in data.draw(st.lists(st.sampled_from(PLACES[number]), min_size=1, max_size=3)):
        inside = calls[number]
        with contextlib.suppress(LookupError, TypeError):
            for name in place[:-1]:
                inside = inside[name]
            inside[place[-1]] = data.draw(ODD)
    items = read(json.dumps(calls).encode()).items
    assert items[:number] + items[number + 1 :] == [
        item for index, item in enumerate(read(CAPTURED).items) if index != number
    ]
    item = items[number]
    if isinstance(item, Rejection):
        assert item.error.param is not None
        return
    for text in strings(msgspec.to_builtins(item)):
        assert "\x00" not in text.encode().decode()
        assert not keys.mentions(text)
    assert all(count >= 0 for count in (item.input_tokens, item.output_tokens, item.cached_input_tokens))


def strings(value: Any) -> list[str]:
    """Every text in a value, names too."""
    if type(value) is str:
        return [value]
    inner = [*value, *value.values()] if type(value) is dict else value if type(value) in (list, tuple) else ()
    return [text for one in inner for text in strings(one)]


def test_a_body_that_is_none_is_refused_as_a_whole() -> None:
    for raw, kind in (
        (b"", errors.InvalidJson), (b"hello", errors.InvalidJson), (b"[1,", errors.InvalidJson),
        (b'{"a": 1,}', errors.InvalidJson), (b"[]", errors.OutOfRange), (b"7", errors.InvalidType),
        (b'"text"', errors.InvalidType),
    ):  # fmt: skip
        with pytest.raises(kind):
            read(raw)
    with pytest.raises(errors.UnsupportedMediaType):
        read(CAPTURED, media_type="text/csv")
    with pytest.raises(errors.TooManyEvents):
        read(b"[" + b",".join([b"{}"] * 1001) + b"]")


# Through HTTP, at both doors.


def batch(*places: int, **told: Any) -> list[dict[str, Any]]:
    """Captured calls (all, if none are named) as if they had begun a minute ago, under ids of their own."""
    calls = json.loads(CAPTURED)
    now = int(time.time()) - 60
    for call in calls:
        # In the file they begin within two seconds.
        shift = now - 1795243842
        for name in ("startTime", "endTime", "completionStartTime"):
            call[name] = round(call[name] + shift, 6)
    return [{**calls[place], **told} for place in places or range(len(calls))]


@pytest.fixture
def acme(books: Books, both_doors: None) -> House:
    """An organization with usage and a gateway that may speak for no other."""
    return neighbours.house("acme-labs")


def proxy(**options: Any) -> Caller:
    """A proxy that may report for everybody, and names nobody itself."""
    return Caller("proxy", world.service_key(name="proxy", **options).secret)


def said(answer: Any) -> list[str]:
    """The verdicts' words."""
    assert answer.status_code == 200, answer.content
    return [each["status"] for each in answer.json()["data"]]


def test_the_captured_batch_is_priced_recorded_and_debited(acme: House) -> None:
    wallet = Wallet.objects.get(pk=acme.organization.pk)
    sent, before = batch(), len(acme.records)
    answer = acme.gateway.post(PATH, sent)
    told = answer.json()
    assert [each["event_id"] for each in told["data"]] == [call["litellm_call_id"] for call in sent]
    assert said(answer) == ["created"] * 8
    assert [Decimal(str(each["cost_usd"])) for each in told["data"]] == [Decimal(cost) for cost in COSTS]
    assert b'"cost_usd":0.00000024' in answer.content
    records = acme.records[before:]
    assert [record.event_id for record in records] == [call["litellm_call_id"] for call in sent[:7]]
    assert [record.cost_usd for record in records] == [Decimal(cost) for cost in COSTS[:7]]
    charge = records[0].transfer_id
    assert charge is not None
    # 3 × 0.00515 + 0.000435 + 0.0139128 + 0.00000024 + 0.00133
    spent = wallet.posted_usd - Wallet.objects.get(pk=acme.organization.pk).posted_usd
    assert spent == Decimal("0.03112804") == Transfer.objects.get(pk=charge).amount_usd
    for record, wanted in zip(records, EXPECTED, strict=False):
        for name in (
            "model", "routed_model", "provider", "channel", "input_tokens", "output_tokens", "stream", "latency_ms",
            "request_id", "provider_cost_usd", "endpoint",
        ):  # fmt: skip
            assert getattr(record, name) == wanted[name], name
        assert record.usage_source == "provider"
    failed = RequestLog.objects.get(event_id="968521c8-4b4d-413d-84d4-61af9ff24f72")
    assert (failed.status, failed.outcome, failed.metadata) == (
        500,
        "upstream_error",
        {"error_class": "InternalServerError"},
    )


def test_a_batch_sent_again_is_all_duplicates(acme: House) -> None:
    sent = batch()
    first = acme.gateway.post(PATH, sent).json()
    wallet = Wallet.objects.get(pk=acme.organization.pk).posted_usd
    again = acme.gateway.post(PATH, sent)
    assert said(again) == ["duplicate"] * 8
    assert [each["cost_usd"] for each in again.json()["data"]] == [each["cost_usd"] for each in first["data"]]
    assert Wallet.objects.get(pk=acme.organization.pk).posted_usd == wallet


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_packed_body_and_lines_are_taken(acme: House, packed: Any) -> None:
    lines = b"\n".join(json.dumps(call).encode() for call in batch(0, 4))
    encoding = "gzip" if packed is gzip.compress else "zstd"
    answer = acme.gateway.call(
        "POST", PATH, raw=packed(lines), content_type="application/json", headers={"Content-Encoding": encoding}
    )
    assert said(answer) == ["created", "created"]


def test_one_call_alone_answers_at_the_top(acme: House) -> None:
    (call,) = batch(0)
    answer = acme.gateway.post(PATH, call)
    told = answer.json()
    assert (answer.status_code, told["status"], told["cost_usd"]) == (201, "created", Decimal("0.00515"))
    assert acme.gateway.post(PATH, call).status_code == 200
    refused = acme.gateway.post(PATH, {**call, "startTime": None})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "startTime")


@proves("I20", guard="calls_of_a_proxy_are_told_apart")
def test_a_call_that_failed_and_was_tried_again_under_its_id_is_charged_once(acme: House) -> None:
    (failed,) = batch(7)
    (good,) = batch(0, litellm_call_id=failed["litellm_call_id"], startTime=failed["startTime"])
    for _ in range(2):
        answer = acme.gateway.post(PATH, [failed, good])
    assert said(answer) == ["duplicate", "duplicate"]
    (record,) = UsageRecord.objects.filter(event_id__startswith=failed["litellm_call_id"])
    assert (record.cost_usd, record.status) == (Decimal("0.00515"), 200)
    assert RequestLog.objects.filter(event_id=failed["litellm_call_id"]).count() == 1


@proves("I20", guard="calls_of_a_proxy_are_told_apart")
def test_a_client_that_chooses_the_ids_of_its_calls_pays_for_each(acme: House) -> None:
    first, second = batch(0, 2, litellm_call_id="chosen-by-the-client")
    assert said(acme.gateway.post(PATH, [first])) == ["created"]
    for verdict in ("created", "duplicate"):
        answer = acme.gateway.post(PATH, [second])
        assert said(answer) == [verdict]
    assert answer.json()["data"][0]["event_id"].startswith("chosen-by-the-client~")
    assert UsageRecord.objects.filter(event_id__startswith="chosen-by-the-client").count() == 2
    # The same call with another story is still a conflict.
    other = json.loads(json.dumps(first))
    other["metadata"]["usage_object"]["completion_tokens"] = 181
    assert said(acme.gateway.post(PATH, [other])) == ["conflict"]


def test_who_pays_is_whom_the_id_stands_for(acme: House) -> None:
    key = acme.keys["organization"].key
    externals.put(kind="key", value=HASH[1], api_key=key, by=world.BY)
    assert said(proxy().post(PATH, batch(0))) == ["created"]
    record = acme.records[-1]
    assert (record.organization_id, record.api_key_id) == (acme.organization.pk, key.pk)


def test_a_key_comes_before_its_user_and_that_before_team_and_organization(acme: House) -> None:
    other = world.organization("other-inc")
    for kind, value in (("organization", "o1"), ("team", "t1"), ("user", PERSON[1]), ("key", HASH[1])):
        externals.put(kind=kind, value=value, organization=other, by=world.BY)
    named = {"user_api_key_team_id": "t1", "user_api_key_org_id": "o1"}
    caller = proxy()
    for kind, value in (("key", HASH[1]), ("user", PERSON[1]), ("team", "t1"), ("organization", "o1")):
        externals.put(kind=kind, value=value, organization=acme.organization, by=world.BY)
        (call,) = batch(0, litellm_call_id=ids.show("ext", ids.new()))
        call["metadata"] |= named
        assert said(caller.post(PATH, [call])) == ["created"]
        assert acme.records[-1].event_id == call["litellm_call_id"], kind
        found = externals.find_shown(kind=kind, value=value)
        externals.drop(external_id=found.pk, by=world.BY)


def test_a_proxys_own_mapping_comes_before_the_general_one(acme: House) -> None:
    other = world.organization("other-inc")
    issued = world.service_key(name="proxy")
    externals.put(kind="key", value=HASH[1], organization=other, by=world.BY)
    externals.put(kind="key", value=HASH[1], organization=acme.organization, reporter=issued.key, by=world.BY)
    (mine,), (theirs,) = batch(0, litellm_call_id="mine"), batch(0, litellm_call_id="theirs")
    assert said(Caller("proxy", issued.secret).post(PATH, [mine])) == ["created"]
    assert said(proxy().post(PATH, [theirs])) == ["created"]
    owners = dict(UsageRecord.objects.filter(event_id__in=("mine", "theirs")).values_list("event_id", "organization"))
    assert owners == {"mine": acme.organization.pk, "theirs": other.pk}


@proves("A02", guard="clients_of_a_proxy_are_members")
def test_the_clients_own_header_counts_for_members_of_what_it_names(acme: House) -> None:
    stranger = world.person("stranger@example.com")
    caller = proxy()
    externals.put(kind="user", value=PERSON[1], user=acme.plain.user, by=world.BY)
    assert said(caller.post(PATH, batch(0, litellm_call_id="by a member".replace(" ", "-")))) == ["created"]
    externals.put(kind="user", value=PERSON[1], user=stranger, by=world.BY)
    assert said(caller.post(PATH, batch(0, litellm_call_id="by-a-stranger"))) == ["created"]
    member = UsageRecord.objects.get(event_id="by-a-member")
    assert (member.organization_id, member.member_id) == (acme.organization.pk, acme.plain.pk)
    theirs = UsageRecord.objects.get(event_id="by-a-stranger")
    assert theirs.organization_id == world.personal(stranger).pk


@proves("A02", guard="clients_of_a_proxy_are_not_trusted")
def test_the_clients_own_header_counts_where_the_proxy_is_trusted(acme: House) -> None:
    assert said(proxy(trust_client_header=True).post(PATH, batch(0, litellm_call_id="trusted"))) == ["created"]
    assert acme.records[-1].event_id == "trusted"
    assert said(proxy().post(PATH, batch(0, litellm_call_id="not-trusted"))) == ["quarantined"]


def test_else_our_own_header_says_who_pays(acme: House) -> None:
    caller = proxy()
    caller.organization = "acme-labs"
    assert said(caller.post(PATH, batch(0, litellm_call_id="ours"))) == ["created"]
    assert acme.records[-1].event_id == "ours"
    # What is mapped comes before it.
    other = world.organization("other-inc")
    externals.put(kind="user", value=PERSON[1], organization=other, by=world.BY)
    assert said(caller.post(PATH, batch(0, litellm_call_id="theirs"))) == ["created"]
    assert UsageRecord.objects.get(event_id="theirs").organization_id == other.pk


def test_a_call_of_nobody_known_waits_and_is_charged_once_its_id_is_mapped(acme: House) -> None:
    caller, sent = proxy(), batch(0)
    for _ in range(2):
        assert said(caller.post(PATH, sent)) == ["quarantined"]
    row = Quarantine.objects.get(event_id=sent[0]["litellm_call_id"])
    assert row.detail == "nobody is mapped to key litellm_proxy_master_key, user default_user_id"
    assert "hello" not in json.dumps(row.event)
    assert releases.release().charged == 0
    externals.put(kind="user", value=PERSON[1], user=acme.plain.user, by=world.BY)
    assert releases.release().charged == 1
    record = acme.records[-1]
    assert (record.event_id, record.member_id) == (sent[0]["litellm_call_id"], acme.plain.pk)
    assert record.cost_usd == Decimal("0.00515")
    assert said(caller.post(PATH, sent)) == ["duplicate"]


def test_a_limited_key_charges_nobody_else_by_a_mapping(acme: House) -> None:
    other = world.organization("other-inc")
    externals.put(kind="key", value=HASH[1], organization=other, by=world.BY)
    answer = acme.gateway.post(PATH, batch(0))
    assert said(answer) == ["rejected"]
    assert answer.json()["data"][0]["error"]["code"] == "org_access_denied"


def test_an_answer_from_the_proxys_cache_is_a_record_that_costs_nothing(acme: House) -> None:
    assert said(acme.gateway.post(PATH, batch(0, cache_hit=True))) == ["created"]
    record = acme.records[-1]
    assert (record.cost_usd, record.total_tokens, record.provider_cost_usd) == (0, 0, 0)
    assert record.metadata["input_tokens"] == "2300"


def test_what_nobody_counted_waits_for_finance(acme: House) -> None:
    (call,) = batch(0, call_type="aimage_generation", prompt_tokens=0, completion_tokens=0, response={})
    call["metadata"]["usage_object"] = None
    assert said(acme.gateway.post(PATH, [call])) == ["quarantined"]


def test_nothing_of_what_was_said_is_kept_or_logged(acme: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sent = batch()
    for call in sent:
        call["messages"] = [{"role": "user", "content": "sesame-open"}]
        call["error_str"] = call["error_information"]["error_message"] = "sesame-open"
        call["metadata"]["requester_metadata"] = {"headers": {"authorization": "sesame-open"}}
    # One is refused, one waits, one conflicts.
    sent[1]["startTime"] = "sesame-open"
    sent[2]["model_group"] = "no-such-model"
    answer = acme.gateway.post(PATH, sent)
    assert said(answer)[:3] == ["created", "rejected", "quarantined"]
    kept = [*UsageRecord.objects.values(), *RequestLog.objects.values(), *Quarantine.objects.values()]
    assert "sesame" not in repr(kept) + caplog.text + answer.content.decode()


def test_only_a_gateways_key_may_report(acme: House) -> None:
    assert acme.callers["owner"].post(PATH, batch(0)).status_code == 403
    assert Caller("anybody", "dtk_wrong").post(PATH, batch(0)).status_code == 401
    assert acme.gateway.call("POST", PATH, raw=b"<xml/>", content_type="text/xml").status_code == 415
