"""Upstreams that have /responses: what they say is passed on, and counted and billed like any other answer."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from openai.types.responses import Response

from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.gateway import callers
from tests.gateway.callers import House
from tests.gateway.test_responses import WEATHER, ask, events, kinds


@pytest.fixture
def fake() -> Iterator[Upstream]:
    """A provider that has /responses."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def acme(books: Books, fake: Upstream) -> Iterator[House]:
    """An organization whose calls go to the fake's own /responses."""
    with callers.gateway():
        callers.channel(fake, has_responses=True)
        fake.then(Act())
        yield callers.house()


def test_the_request_goes_on_as_it_came_and_is_kept_nowhere(acme: House, fake: Upstream) -> None:
    said = {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    told: dict[str, Any] = {
        "input": [said, {"type": "reasoning", "id": "rs_1"}],
        "tools": [WEATHER], "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}, "temperature": 0.25,
    }  # fmt: skip
    heard = ask(acme, **told, metadata={"mine": "7"}, store=True, unknown=1, max_output_tokens=64)
    assert heard.status == 200, heard.body
    assert fake.bodies[-1] == {**told, "model": "up-1", "max_output_tokens": 64, "store": False}


def test_the_answer_is_the_upstreams_under_our_id_model_and_price(acme: House, fake: Upstream) -> None:
    told = ask(acme, metadata={"mine": "7"}).told
    Response.model_validate(told)
    assert told["id"].startswith("resp_")
    assert told["id"] != "resp_up"
    assert [item["id"] for item in told["output"]] == ["rs_up", "msg_up"]
    assert told["output"][0]["encrypted_content"] == "sealed"
    assert (told["model"], told["output_text"], told["status"]) == ("deepseek-chat", "Two wallets.", "completed")
    assert (told["store"], told["metadata"]) == (False, {"mine": "7"})
    assert told["usage"]["cost"] == {"total_cost": Decimal("0.000362")}
    assert told["usage"]["output_tokens_details"] == {"reasoning_tokens": 64}
    record = acme.records[-1]
    assert (str(record.cost_usd), record.cached_input_tokens, record.reasoning_tokens, record.finish_reason) == (
        "0.000362000000", 640, 64, "stop",
    )  # fmt: skip


def test_the_stream_is_the_upstreams_with_numbers_of_ours_and_the_price_at_its_end(acme: House, fake: Upstream) -> None:
    told = events(ask(acme, stream=True))
    assert kinds(told) == ["created", "in_progress", "output_text.delta", "output_text.delta", "completed"]
    assert [each["item_id"] for each in told[2:4]] == ["msg_up", "msg_up"]
    last = told[-1]["response"]
    assert last["id"] == told[0]["response"]["id"] != "resp_up"
    assert (last["output_text"], last["usage"]["cost"]) == ("Two wallets.", {"total_cost": Decimal("0.000362")})
    assert str(acme.records[-1].cost_usd) == "0.000362000000"
    assert fake.bodies[-1]["stream"] is True
    assert "stream_options" not in fake.bodies[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_an_incomplete_answer_is_billed_and_says_so(acme: House, fake: Upstream, stream: bool) -> None:
    fake.then(Act(finish="incomplete"))
    heard = ask(acme, stream=stream)
    told = events(heard)[-1]["response"] if stream else heard.told
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert acme.records[-1].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_failed_is_asked_of_the_next_over_chat(acme: House, fake: Upstream, stream: bool) -> None:
    callers.channel(fake, "second", priority=-1)
    fake.then(Act(finish="failed", words=[]), Act())
    before = len(acme.records)
    heard = ask(acme, stream=stream)
    assert heard.status == 200
    text = events(heard)[-1]["response"]["output_text"] if stream else heard.told["output_text"]
    assert text == "Two wallets."
    assert ["messages" in body for body in fake.bodies] == [False, True]
    (record,) = acme.records[before:]
    assert (record.channel, record.attempts) == ("second", 2)


def test_one_that_breaks_off_says_so_and_what_came_is_billed(acme: House, fake: Upstream) -> None:
    fake.then(Act(words=["Two ", "more ", "words."], fault="reset", at=2))
    heard = ask(acme, stream=True)
    callers.settled()
    told = events(heard)
    assert kinds(told) == [
        "created", "in_progress", "output_text.delta", "output_text.delta", "error", "failed",
    ]  # fmt: skip
    assert told[-1]["response"]["output_text"] == "Two more "
    record = acme.records[-1]
    assert (record.outcome, record.usage_source) == ("upstream_error", "estimated")
    assert record.output_tokens > 0


def test_a_stream_without_usage_is_counted_from_its_text(acme: House, fake: Upstream) -> None:
    fake.then(Act(usage=None))
    told = events(ask(acme, stream=True))
    record = acme.records[-1]
    assert record.usage_source == "estimated"
    assert told[-1]["response"]["usage"]["output_tokens"] == record.output_tokens > 0


def test_chats_of_such_a_channel_are_still_chats(acme: House, fake: Upstream) -> None:
    assert callers.ask(acme).status == 200
    assert "messages" in fake.bodies[-1]


def test_nonsense_is_no_answer(acme: House, fake: Upstream) -> None:
    fake.then(Act(finish="whatever"))
    assert ask(acme).code == (502, "upstream_error")
    fake.then(Act(words=["x"], fault="malformed", at=0))
    assert ask(acme, stream=True).code == (502, "upstream_error")
