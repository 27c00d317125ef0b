"""Model calls from the hold to the books, whatever the provider or the client does in between."""

import asyncio
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from billing import charges, holds, ledger, wallets
from billing.ledger import Terms
from billing.models import Hold, Wallet
from core import errors, ids
from gateway import calls, channels, health, plane, terms
from metering.models import Attempt, RequestLog, UsageRecord
from tests import doors
from tests.billing.world import rows
from tests.books import Books
from tests.fakes.upstream import Act, Upstream, wait_for
from tests.gateway import callers
from tests.gateway.callers import HELLO, Calling, House, ask, stream
from tests.journeys import neighbours
from tests.journeys.traffic import verify
from tests.orgs import world
from tests.proofs import proves
from tests.server import free_port

# 360 × 0.27 + 640 × 0.07 + 200 × 1.10 millionths of a dollar.
COST = Decimal("0.000362")
# "hello" as a message: 3 for the message, 3 for the reply, one for the role, one for the word; and 15 % for the vendor.
PROMPT = 10
# Each of them one token.
WORDS = [" hello"] * 20


@pytest.fixture(scope="module")
def fake() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def acme(books: Books, fake: Upstream) -> Iterator[House]:
    """An organization with ten dollars whose calls go to the fake."""
    fake.then(Act())
    fake.bodies.clear()
    with callers.gateway():
        callers.channel(fake)
        yield callers.house()


def record(of: House) -> UsageRecord:
    """The newest record, which has captured its hold; nothing else is set aside."""
    callers.settled()
    assert of.records, "nothing was recorded"
    found = of.records[-1]
    assert found.authorization_id is not None
    hold = Hold.objects.get(organization=of.organization, id=found.authorization_id)
    assert (hold.state, hold.record_id) == ("captured", found.pk)
    assert Wallet.objects.get(pk=of.organization.pk).held_usd == 0
    return found


def nothing_billed(of: House, before: int) -> RequestLog:
    """No record, no money set aside, one row in the log of failures."""
    callers.settled()
    assert len(of.records) == before
    assert Wallet.objects.get(pk=of.organization.pk).held_usd == 0
    return RequestLog.objects.get(organization=of.organization)


def estimated(count: int) -> int:
    """Tokens with the vendor's 15 %, rounded up."""
    return -(-count * 115 // 100)


def test_a_stream_has_the_contract_s_shape_and_its_cost_is_the_debit(acme: House, fake: Upstream) -> None:
    heard = stream(acme, stream_options={"include_usage": True})
    assert (heard.status, heard.headers["content-type"]) == (200, "text/event-stream")
    assert heard.headers["deepailab-organization"] == "acme-labs"
    first, *middle, finish, usage, done = heard.events
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert [each["choices"][0]["delta"] for each in middle] == [{"content": "Two "}, {"content": "wallets."}]
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert {each["usage"] is None for each in (first, *middle, finish)} == {True}
    assert usage["choices"] == []
    assert usage["usage"]["cost"] == {"total_cost": Decimal("0.000362")}
    assert done == "[DONE]"
    assert {(each["id"], each["model"], each["object"]) for each in heard.events[:-1]} == {
        (first["id"], "deepseek-chat", "chat.completion.chunk")
    }
    kept = record(acme)
    assert (kept.event_id, kept.cost_usd, kept.stream, kept.outcome) == (first["id"], COST, True, "completed")
    assert kept.request_id == heard.headers["x-request-id"]
    assert fake.bodies[-1]["stream_options"] == {"include_usage": True}


def test_without_being_asked_a_stream_tells_no_usage_and_is_metered_all_the_same(acme: House) -> None:
    heard = stream(acme)
    assert heard.text == "Two wallets."
    assert all("usage" not in each for each in heard.events[:-1])
    assert record(acme).cost_usd == COST


@proves("G01", guard="calls_outlive_their_clients")
def test_who_hangs_up_anywhere_pays_what_the_provider_counts(acme: House, fake: Upstream) -> None:
    before = len(acme.records)
    for point in range(20):
        fake.then(Act(words=WORDS, fault="pause", at=point + 1))
        heard = stream(acme, leave_after=point)
        assert heard.status == 200
        fake.go()
        kept = record(acme)
        assert (kept.outcome, kept.input_tokens, kept.output_tokens, kept.cost_usd, kept.usage_source) == (
            "client_aborted", 1000, 200, COST, "provider",
        ), point  # fmt: skip
        assert len(acme.records) == before + point + 1
    verify()


def test_by_the_other_terms_who_hangs_up_anywhere_pays_what_was_produced(acme: House, fake: Upstream) -> None:
    terms.change(organization_id=acme.organization.pk, on_hang_up="estimate", reason="asked for", by=world.BY)
    before = len(acme.records)
    for words in range(1, 21):
        fake.then(Act(words=WORDS, fault="stall", at=words))
        # The first event is the role's.
        stream(acme, leave_after=words + 1)
        kept = record(acme)
        assert (kept.outcome, kept.input_tokens, kept.output_tokens, kept.usage_source) == (
            "client_aborted", PROMPT, estimated(words), "estimated",
        ), words  # fmt: skip
        assert kept.cost_usd == (PROMPT * 27 * 10 + estimated(words) * 1100) * Decimal("1e-9")
        assert len(acme.records) == before + words
    wait_for(lambda: fake.hung_up >= 20)
    verify()


def test_a_client_that_is_drained_for_too_long_is_billed_what_there_is(
    acme: House, fake: Upstream, settings: Any
) -> None:
    settings.CALL_DRAIN_SECONDS = 0.2
    fake.then(Act(words=WORDS, fault="stall", at=3))
    stream(acme, leave_after=4)
    kept = record(acme)
    assert (kept.outcome, kept.output_tokens, kept.usage_source) == ("client_aborted", estimated(3), "estimated")


def test_who_hangs_up_before_a_whole_answer_pays_what_the_provider_counts(
    acme: House, fake: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "_ALONE_SECONDS", 0)
    for terms_of_it in ("drain", "estimate"):
        terms.change(organization_id=acme.organization.pk, on_hang_up=terms_of_it, reason="asked for", by=world.BY)
        fake.then(Act(fault="pause"))
        fake.bodies.clear()
        calling = Calling(acme.keys["organization"].secret, HELLO)
        wait_for(lambda: fake.bodies)
        calling.hang_up()
        assert calling.wait().status == 0
        fake.go()
        kept = record(acme)
        assert (kept.outcome, kept.cost_usd, kept.usage_source) == ("client_aborted", COST, "provider")


def test_who_hangs_up_before_a_whole_answer_that_never_comes_pays_the_prompt(
    acme: House, fake: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CALL_DRAIN_SECONDS = 0.2
    monkeypatch.setattr(plane, "_ALONE_SECONDS", 0)
    fake.then(Act(fault="stall"))
    cut_before = fake.hung_up
    calling = Calling(acme.keys["organization"].secret, HELLO)
    wait_for(lambda: fake.bodies)
    calling.hang_up()
    assert calling.wait().status == 0
    kept = record(acme)
    assert (kept.outcome, kept.input_tokens, kept.output_tokens, kept.usage_source) == (
        "client_aborted", PROMPT, 0, "estimated",
    )  # fmt: skip
    wait_for(lambda: fake.hung_up > cut_before)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_the_first_channel_cannot_the_second_does_and_one_call_is_billed(
    acme: House, fake: Upstream, streamed: bool
) -> None:
    callers.channel(fake, "second", models={"deepseek-chat": "up-9"}, priority=-1)
    before = len(acme.records)
    faults = [Act(status=500), Act(status=429), Act(fault="reset"), Act(fault="malformed"), Act(fault="error")]
    for number, fault in enumerate(faults):
        calls._health.succeed(channels.board().channels[0].id, seconds=None)
        fake.then(fault, Act())
        heard = stream(acme) if streamed else ask(acme)
        assert heard.status == 200
        kept = record(acme)
        assert len(acme.records) == before + number + 1
        assert (kept.model, kept.routed_model, kept.channel, kept.attempts, kept.cost_usd) == (
            "deepseek-chat", "up-9", "second", 2, COST,
        ), fault  # fmt: skip
        tried = Attempt.objects.filter(event_id=kept.event_id).order_by("number")
        assert [(one.channel, one.outcome == "answered") for one in tried] == [("first", False), ("second", True)]
    verify()


@pytest.mark.parametrize("streamed", [False, True])
def test_what_nobody_answers_is_an_error_that_costs_nothing(acme: House, fake: Upstream, streamed: bool) -> None:
    callers.channel(fake)
    fake.then(Act())
    told: list[tuple[Act, tuple[int, str]]] = [
        (Act(status=500), (502, "upstream_error")),
        (Act(status=401), (502, "upstream_error")),
        (Act(status=429, headers={"Retry-After": "7"}), (502, "upstream_error")),
        (Act(fault="reset"), (502, "upstream_error")),
        (Act(fault="malformed"), (502, "upstream_error")),
        (Act(fault="stall"), (504, "upstream_timeout")),
        (Act(delay=5), (504, "upstream_timeout")),
    ]
    before = len(acme.records)
    for number, (act, expected) in enumerate(told):
        calls._health = health.Health()
        if expected[0] == 504:
            callers.channel(fake, first_byte_ms=150, idle_ms=150)
        fake.then(act)
        heard = stream(acme) if streamed else ask(acme)
        assert heard.code == expected, act
        assert heard.headers["x-should-retry"] == "false"
        assert heard.headers["deepailab-organization"] == "acme-labs"
        callers.settled()
        assert len(acme.records) == before
        logged = RequestLog.objects.filter(organization=acme.organization).order_by("id")
        assert len(logged) == number + 1
        assert logged[number].status == expected[0]
        assert Wallet.objects.get(pk=acme.organization.pk).held_usd == 0
    assert set(Hold.objects.filter(placed_by=None).values_list("state", flat=True)) == {"released"}
    verify()


def test_a_channel_that_nobody_listens_at_is_a_failure_like_any_other(acme: House) -> None:
    channels.keep(
        name="first",
        fields={"base_url": f"http://127.0.0.1:{free_port()}", "models": {"deepseek-chat": "x"}},
        by=world.BY,
    )
    assert ask(acme).code == (502, "upstream_error")
    assert nothing_billed(acme, len(acme.records)).attempts == 1


@pytest.mark.parametrize("fault", ["reset", "malformed", "error", "stall", "truncate"])
def test_a_stream_that_breaks_off_says_so_and_what_came_is_billed(acme: House, fake: Upstream, fault: str) -> None:
    callers.channel(fake, idle_ms=300)
    fake.then(Act(words=WORDS, fault=fault, at=2))
    heard = stream(acme, stream_options={"include_usage": True})
    assert heard.status == 200
    assert heard.text == " hello hello"
    *_, error, done = heard.events
    assert (error["error"]["code"], error["error"]["category"], done) == (
        "upstream_disconnected", "upstream_error", "[DONE]",
    )  # fmt: skip
    kept = record(acme)
    assert (kept.outcome, kept.input_tokens, kept.output_tokens, kept.usage_source) == (
        "upstream_error", PROMPT, estimated(2), "estimated",
    )  # fmt: skip
    verify()


def test_a_line_that_ends_behind_the_last_part_without_saying_so_was_a_whole_answer(
    acme: House, fake: Upstream
) -> None:
    fake.then(Act(done=False))
    assert stream(acme).events[-2]["choices"][0]["finish_reason"] == "stop"
    assert (record(acme).outcome, record(acme).cost_usd) == ("completed", COST)


def test_parts_that_say_nothing_and_counts_without_choices_are_no_fault(acme: House, fake: Upstream) -> None:
    fake.then(Act(deltas=[{"role": "assistant"}] * 40 + [{"content": "Two wallets."}], bare=True))
    heard = stream(acme, stream_options={"include_usage": True})
    assert heard.text == "Two wallets."
    assert (record(acme).cost_usd, record(acme).usage_source) == (COST, "provider")


def test_a_fault_of_ours_is_an_internal_error_and_costs_nothing(acme: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls.Call, "_sent", lambda *_, **__: 1 // 0)
    assert ask(acme).code == (500, "internal_error")
    assert nothing_billed(acme, 0).status == 500


def test_a_provider_without_capacity_and_without_a_token_is_failed_over(acme: House, fake: Upstream) -> None:
    callers.channel(fake, "second", priority=-1)
    empty = {"role": "assistant", "content": ""}
    out = Act(words=[], message=empty, finish="insufficient_system_resource")
    fake.then(out, Act())
    assert ask(acme).told["choices"][0]["finish_reason"] == "stop"
    fake.then(out, Act())
    assert stream(acme).text == "Two wallets."
    assert record(acme).channel == "second"
    # With a part of an answer it is one.
    fake.then(Act(words=["The first"], finish="insufficient_system_resource"))
    assert ask(acme).told["choices"][0]["finish_reason"] == "insufficient_system_resource"


def test_what_the_provider_refuses_about_the_request_is_told_without_our_key(
    acme: House, fake: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_API_KEY", "sk-of-the-operator")
    callers.channel(fake, key_env="FAKE_API_KEY")
    callers.channel(fake, "second", priority=-1)
    fake.then(Act(status=400, error="No such thing, sk-of-the-operator."))
    before = len(acme.records)
    heard = ask(acme)
    assert heard.code == (400, "invalid_request")
    assert heard.told["error"]["message"] == "No such thing, [redacted]."
    assert fake.keys[-1] == "Bearer sk-of-the-operator"
    assert len(fake.bodies) == 1
    assert nothing_billed(acme, before).status == 400


@pytest.mark.parametrize(
    ("usage", "counts", "source"),
    [
        (None, (PROMPT, estimated(3), 0), "estimated"),
        ({"prompt_tokens": 7}, (7, estimated(3), 0), "mixed"),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0, 0), "provider"),
        ({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 900}, (7, 5, 0), "provider"),
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}, (7, 5, 0),
         "provider"),
        ({"prompt_tokens": -1, "completion_tokens": "5"}, (PROMPT, estimated(3), 0), "estimated"),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}, (9, 5, 4), "provider"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_only_what_is_absent_is_estimated(
    acme: House, fake: Upstream, usage: Any, counts: tuple[int, int, int], source: str, streamed: bool
) -> None:
    fake.then(Act(words=WORDS[:3], usage=usage))
    heard = stream(acme, stream_options={"include_usage": True}) if streamed else ask(acme)
    told = heard.events[-2]["usage"] if streamed else heard.told["usage"]
    kept = record(acme)
    assert (kept.input_tokens, kept.output_tokens, kept.cached_input_tokens) == counts
    assert (told["prompt_tokens"], told["completion_tokens"], told["prompt_cache_hit_tokens"]) == counts
    assert kept.usage_source == source
    assert Decimal(str(told["cost"]["total_cost"])) == kept.cost_usd


@proves("G04", guard="a_reported_zero_is_a_count")
def test_a_reported_zero_is_billed_as_zero(acme: House, fake: Upstream) -> None:
    fake.then(Act(usage={"prompt_tokens": 0, "completion_tokens": 0}))
    assert ask(acme).told["usage"]["cost"] == {"total_cost": 0}
    kept = record(acme)
    assert (kept.input_tokens, kept.output_tokens, kept.cost_usd, kept.usage_source) == (0, 0, 0, "provider")


@proves("G02", guard="keys_of_calls_are_looked_up")
def test_a_repeated_key_is_never_a_second_call(acme: House, fake: Upstream) -> None:
    before = len(acme.records)
    assert ask(acme, idempotency_key="once").status == 200
    kept = record(acme)
    again = ask(acme, idempotency_key='"once"')
    assert again.code == (409, "replay_unavailable")
    assert again.headers["x-should-retry"] == "false"
    shown = ids.show("usage", kept.pk)
    assert again.headers["x-usage-record-id"] == shown
    assert shown in again.told["error"]["message"]
    other = ask(acme, {**HELLO, "max_tokens": 5}, idempotency_key="once")
    assert other.code == (422, "idempotency_key_reused")
    assert (len(fake.bodies), len(acme.records)) == (1, before + 1)
    assert ask(acme, idempotency_key="twice").status == 200


def test_a_repeated_key_of_a_call_that_runs_is_told_to_come_again(acme: House, fake: Upstream) -> None:
    fake.then(Act(fault="stall"), Act())
    running = Calling(acme.keys["organization"].secret, {**HELLO, "stream": True}, idempotency_key="once")
    wait_for(lambda: fake.bodies)
    again = ask(acme, {**HELLO, "stream": True}, idempotency_key="once")
    assert again.code == (409, "idempotency_key_in_use")
    assert again.headers["retry-after"] == "1"
    for call in list(calls._open):
        doors._loop().call_soon_threadsafe(call.cut)
    assert running.wait().status == 503
    # It came to nothing, so the key is free.
    assert ask(acme, {**HELLO, "stream": True}, idempotency_key="once").status == 200
    assert len(fake.bodies) == 2


def test_a_key_of_a_call_whose_process_died_makes_no_second_call(acme: House, fake: Upstream) -> None:
    assert ask(acme, idempotency_key="once").status == 200
    callers.settled()
    # As if it had died before the settlement.
    rows("UPDATE call_key SET call_id = 'chatcmpl-unsettled'")
    assert ask(acme, idempotency_key="once").code == (409, "replay_unavailable")
    assert len(fake.bodies) == 1


def test_two_calls_at_once_where_the_wallet_covers_one(acme: House, fake: Upstream) -> None:
    poor = world.organization("poor")
    key = world.organization_key(poor)
    # At most 10 tokens in and 300 out: 10 × 0.27 + 300 × 1.10 millionths.
    neighbours.give(poor, "0.0004")
    fake.then(Act(delay=0.3))
    both = [Calling(key.secret, HELLO) for _ in range(2)]
    told = sorted(one.wait().status for one in both)
    assert told == [200, 402]
    assert len(fake.bodies) == 1
    refused = next(one.heard for one in both if one.heard.status == 402)
    assert refused.code == (402, "org_wallet_empty")
    assert "USD is available." in refused.told["error"]["message"]


def test_where_the_organization_s_wallet_is_empty_the_caller_s_own_may_pay(acme: House, fake: Upstream) -> None:
    person = world.person("ada@poor.example")
    poor = world.organization("poor", owner=person)
    secret = world.personal_key(person).secret
    neighbours.give(world.personal(person), "1")
    refused = Calling(secret, HELLO, x_deeptoken_org="poor").wait()
    assert (refused.code, refused.headers["deepailab-organization"]) == ((402, "org_wallet_empty"), "poor")
    wallets.change_terms(organization_id=poor.pk, terms=Terms(mode="fallback"), reason="try", by=world.BY)
    assert Calling(secret, HELLO, x_deeptoken_org="poor").wait().status == 200
    kept = UsageRecord.objects.get(organization=poor)
    assert (kept.payer_id, kept.cost_usd) == (world.personal(person).pk, COST)
    # Without the header it is the person's own call.
    own = Calling(secret, HELLO).wait()
    assert "deepailab-organization" not in own.headers
    assert UsageRecord.objects.get(organization=world.personal(person)).payer_id == world.personal(person).pk


def test_a_channel_that_is_full_is_passed_over(acme: House, fake: Upstream) -> None:
    callers.channel(fake, concurrency_max=1)
    fake.then(Act(words=WORDS, fault="pause", at=1), Act())
    first = Calling(acme.keys["organization"].secret, {**HELLO, "stream": True})
    wait_for(lambda: first.heard.text == " hello")
    assert ask(acme).code == (503, "no_available_channel")
    callers.channel(fake, "second", priority=-1)
    assert ask(acme).status == 200
    assert record_of_channel(acme, "second").cost_usd == COST
    fake.go()
    assert first.wait().text == " hello" * 20


def record_of_channel(of: House, name: str) -> UsageRecord:
    """The only record of calls that a channel answered."""
    return UsageRecord.objects.get(organization=of.organization, channel=name)


def test_what_is_held_for_is_what_the_provider_may_make(acme: House, fake: Upstream) -> None:
    plain = {name: value for name, value in HELLO.items() if name != "max_tokens"}
    ask(acme, plain)
    assert fake.bodies[-1]["max_tokens"] == 4096
    ask(acme, {**plain, "max_completion_tokens": 20, "max_tokens": 50})
    assert (fake.bodies[-1]["max_completion_tokens"], "max_tokens" in fake.bodies[-1]) == (20, False)
    # The model makes no more than that.
    ask(acme, {**plain, "max_tokens": 1_000_000})
    assert fake.bodies[-1]["max_tokens"] == 8192
    for enforcement in ("soft", "off"):
        wallets.change_terms(
            organization_id=acme.organization.pk, terms=Terms(enforcement=enforcement), reason="try", by=world.BY
        )
        assert ask(acme, plain).status == 200
        assert fake.bodies[-1].keys().isdisjoint({"max_tokens", "max_completion_tokens"})
        assert record(acme).cost_usd == COST


def test_a_channel_may_say_what_its_cap_is_called(acme: House, fake: Upstream) -> None:
    plain = {name: value for name, value in HELLO.items() if name != "max_tokens"}
    for name, other in (("max_completion_tokens", "max_tokens"), ("max_tokens", "max_completion_tokens")):
        callers.channel(fake, cap_name=name)
        for told, cap in ((plain, 4096), ({**plain, "max_tokens": 30}, 30), ({**plain, other: 20}, 20)):
            assert ask(acme, told).status == 200
            assert (fake.bodies[-1].get(name), other in fake.bodies[-1]) == (cap, False)


def test_without_a_channel_nobody_can_be_asked(acme: House, fake: Upstream) -> None:
    assert ask(acme, {**HELLO, "model": "gpt-4o-mini"}).code == (503, "no_available_channel")
    # One that fails again and again is left alone.
    fake.then(Act(status=500))
    told = [ask(acme).code for _ in range(6)]
    assert told == [(502, "upstream_error")] * 5 + [(503, "no_available_channel")]
    assert len(fake.bodies) == 5


@proves("G05", guard="charges_of_calls_are_tried_again")
def test_a_charge_that_cannot_be_written_at_once_is_written_later_and_once(
    acme: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = charges.record, [1, 2, 3]

    def record_later(*args: Any, **options: Any) -> Any:
        if failures:
            failures.pop()
            raise errors.Unavailable
        return real(*args, **options)

    monkeypatch.setattr(charges, "record", record_later)
    monkeypatch.setattr(calls, "SETTLE_DELAYS", (0.01,))
    before = len(acme.records)
    assert ask(acme).status == 200
    assert failures == []
    assert record(acme).cost_usd == COST
    assert len(acme.records) == before + 1


def test_a_client_does_not_wait_for_a_database_that_is_away_and_is_told_what_will_be_debited(
    acme: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, away = charges.record, [True]

    def record_later(*args: Any, **options: Any) -> Any:
        if away:
            raise errors.Unavailable
        return real(*args, **options)

    monkeypatch.setattr(charges, "record", record_later)
    monkeypatch.setattr(calls, "SETTLE_DELAYS", (0.01,))
    monkeypatch.setattr(calls, "SETTLE_WAIT_SECONDS", 0.1)
    assert ask(acme).told["usage"]["cost"] == {"total_cost": Decimal("0.000362")}
    streamed = stream(acme, stream_options={"include_usage": True}).events
    assert streamed[-2]["usage"]["cost"] == {"total_cost": Decimal("0.000362")}
    before = len(acme.records)
    away.clear()
    assert record(acme).cost_usd == COST
    assert len(acme.records) == before + 2


@proves("G06", guard="holds_of_calls_are_renewed")
def test_a_hold_lasts_as_long_as_its_call(
    acme: House, fake: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CALL_HOLD_SECONDS = 1
    monkeypatch.setattr(calls, "_keeper", None)
    fake.then(Act(words=WORDS, fault="pause", at=5))
    running = Calling(acme.keys["organization"].secret, {**HELLO, "stream": True})
    wait_for(lambda: fake.bodies)
    hold = Hold.objects.get(state="open", placed_by=None)
    wait_for(
        lambda: Hold.objects.get(organization=acme.organization, id=hold.pk).expires_at > hold.expires_at, seconds=3
    )
    fake.go()
    assert running.wait().text == " hello" * 20
    assert record(acme).cost_usd == COST


def test_neither_prompt_nor_answer_is_kept_or_logged(
    acme: House, fake: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asked, answered = "the-secret-of-the-prompt", "the-secret-of-the-answer"
    body = {**HELLO, "messages": [{"role": "user", "content": asked}], "user": "cust-1"}
    acts = [
        Act(words=[answered]), Act(words=[answered], usage=None), Act(status=400, error=answered),
        Act(fault="malformed"), Act(words=[answered] * 3, fault="reset", at=1),
    ]  # fmt: skip
    for act in acts:
        fake.then(act)
        ask(acme, body, idempotency_key=f"key-{len(fake.bodies)}")
        ask(acme, {**body, "stream": True})
    callers.settled()
    kept = ""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM \"{table}\" t")
            kept += cursor.fetchone()[0]
    assert "cust-1" in kept
    for text in (asked, answered):
        assert text not in kept
        assert text not in caplog.text


def test_waiting_clients_are_sent_comments(acme: House, fake: Upstream, settings: Any) -> None:
    settings.CALL_KEEP_ALIVE_MS = 50
    fake.then(Act(delay=0.4))
    heard = stream(acme)
    assert heard.body.startswith(b": keep-alive\n\n")
    assert heard.text == "Two wallets."
    # The status is out, so a failure is an event.
    fake.then(Act(delay=0.4, status=500))
    late = stream(acme)
    assert late.status == 200
    assert late.events[0]["error"]["code"] == "upstream_error"
    assert late.events[1] == "[DONE]"
    assert nothing_billed(acme, len(acme.records)).status == 502


def test_a_process_that_stops_bills_what_there_is_and_takes_nothing_more(
    acme: House, fake: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CALL_STOP_SECONDS = 0.1
    monkeypatch.setattr(calls, "_closing", False)
    fake.then(Act(words=WORDS, fault="stall", at=4))
    running = Calling(acme.keys["organization"].secret, {**HELLO, "stream": True})
    wait_for(lambda: running.heard.text == " hello" * 4)
    asyncio.run_coroutine_threadsafe(calls.drain(), doors._loop()).result(20)
    assert running.wait().events[-2]["error"]["code"] == "upstream_disconnected"
    kept = record(acme)
    assert (kept.outcome, kept.output_tokens) == ("upstream_error", estimated(4))
    assert ask(acme).code == (503, "unavailable")
    assert holds.overdue().number == 0


def test_only_the_hold_of_a_call_with_a_key_waits_for_the_disk(
    acme: House, fake: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = ledger.reserve_at_once

    def look(*wanted: Any, **options: Any) -> Any:
        seen.append(rows("SHOW synchronous_commit")[0][0])
        return real(*wanted, **options)

    monkeypatch.setattr(ledger, "reserve_at_once", look)
    ask(acme)
    ask(acme, idempotency_key="once")
    assert seen == ["off", "on"]
    # What is charged always does.
    charged: list[str] = []
    post = ledger.post

    def note(*moves: Any, **options: Any) -> Any:
        charged.append(rows("SHOW synchronous_commit")[0][0])
        return post(*moves, **options)

    monkeypatch.setattr(ledger, "post", note)
    ask(acme)
    callers.settled()
    assert charged == ["on"]
