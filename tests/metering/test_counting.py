"""Events that give text where counts are absent: what is counted, what is believed, and that no text stays."""

import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.db import connection

from billing import releases
from metering import attribution, counting, tokens
from metering.events import Event, Rejection, Uncounted, fingerprint
from metering.models import CatalogModel, Quarantine, RequestLog, UsageRecord
from metering.rating import COUNT_MAX
from orgs.models import Organization
from tests.books import Books
from tests.journeys.neighbours import EVENTS, Caller
from tests.metering import world as metering
from tests.orgs import world
from tests.proofs import proves

# Occurs in what is sent and must occur nowhere else.
MARK = "swordfish"
PROMPT = f"Tell me about the {MARK}, please."
ANSWER = f"A {MARK} is a large fish with a long flat bill."
MESSAGES = [{"role": "system", "content": "You know fish."}, {"role": "user", "content": PROMPT}]


def bare(**fields: Any) -> dict[str, Any]:
    """An event that reports no count."""
    told = metering.told(**fields)
    return {name: value for name, value in told.items() if name not in metering.COUNTS or name in fields}


def texts(**fields: Any) -> dict[str, Any]:
    """An event that reports texts instead of counts."""
    return bare(**{"messages": MESSAGES, "output_text": ANSWER, **fields})


def counted(value: dict[str, Any]) -> Event:
    """The one event of a body as charging sees it."""
    (item,) = counting.complete(metering.read(value).items)
    assert isinstance(item, Event), item
    return item


def story(event: Event) -> bytes:
    return fingerprint(event, organization=b"", key=None)


def prompt_tokens(percent: int, encoding: str = "o200k_base") -> int:
    """What the messages come to, rounded up."""
    return -(-tokens.count_messages(MESSAGES, encoding=encoding) * percent // 100)


def answer_tokens(percent: int, encoding: str = "o200k_base") -> int:
    return -(-tokens.count_text(ANSWER, encoding=encoding) * percent // 100)


@pytest.fixture
def acme(books: Books) -> Organization:
    return world.organization("acme-labs")


@pytest.fixture
def gateway(acme: Organization) -> Caller:
    return Caller("gateway", world.service_key().secret, acme.slug)


@pytest.fixture
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that is logged at any level holds the mark."""
    caplog.set_level(logging.DEBUG)
    yield
    assert MARK not in caplog.text


def post(gateway: Caller, value: Any, status: int) -> dict[str, Any]:
    """The answer, which tells nobody's text."""
    answer = gateway.post(EVENTS, value)
    assert answer.status_code == status, answer.content
    assert MARK not in answer.content.decode()
    body: dict[str, Any] = answer.json()
    return body


def rows_with(text: str) -> list[str]:
    """Tables of which a row holds a text, whatever the column."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        )
        tables = [name for (name,) in cursor.fetchall()]
        found = []
        for table in tables:
            cursor.execute(f'SELECT count(*) FROM "{table}" t WHERE position(%s in t::text) > 0', [text])
            if cursor.fetchone()[0]:
                found.append(table)
    return found


# What is counted


@pytest.mark.parametrize(
    ("model", "percent", "encoding"),
    [
        ("gpt-4o", 100, "o200k_base"),
        ("gpt-4", 100, "cl100k_base"),
        ("deepseek-chat", 115, "o200k_base"),
        ("gemini-3-flash", 115, "o200k_base"),
        ("claude-sonnet-4-6", 130, "o200k_base"),
        ("deepai-chat", 130, "o200k_base"),
        ("nobody-knows", 130, "o200k_base"),
    ],
)
def test_absent_counts_are_estimated_by_the_model(db: None, model: str, percent: int, encoding: str) -> None:
    event = counted(texts(model=model))
    assert event.input_tokens == prompt_tokens(percent, encoding)
    assert event.output_tokens == answer_tokens(percent, encoding)
    assert event.usage_source == "estimated"


def test_an_alias_counts_as_the_model_it_means(db: None) -> None:
    model = CatalogModel.objects.filter(owned_by="anthropic").exclude(aliases=[]).first()
    assert model is not None
    assert counted(texts(model=model.aliases[0])).input_tokens == prompt_tokens(130)


def test_an_encoding_that_is_not_vendored_falls_back_to_the_default(db: None) -> None:
    CatalogModel.objects.filter(slug="gpt-4").update(encoding="p50k_base")
    assert counted(texts(model="gpt-4")).output_tokens == answer_tokens(100, "o200k_base")


def test_a_plain_text_is_counted_without_the_overhead_of_a_chat(db: None) -> None:
    event = counted(bare(model="gpt-4o", input_text=PROMPT, output_tokens=0))
    assert event.input_tokens == tokens.count_text(PROMPT, encoding="o200k_base")


def test_an_empty_answer_is_no_tokens(db: None) -> None:
    event = counted(bare(messages=MESSAGES, output_text=""))
    assert (event.output_tokens, event.usage_source) == (0, "estimated")


# What is believed


@proves("I18", guard="reported_counts_are_believed")
def test_a_reported_count_wins_over_any_text_and_so_does_a_reported_zero(gateway: Caller) -> None:
    # At 2.50 and 10.00 USD per 1M tokens.
    reported = {(0, 0): "0", (0, 7): "0.00007", (1, 0): "0.0000025", (123_456, 200): "0.31064"}
    for (put_in, put_out), cost in reported.items():
        value = texts(model="gpt-4o", input_tokens=put_in, output_tokens=put_out)
        told = post(gateway, value, 201)
        record = UsageRecord.objects.get(event_id=value["event_id"])
        assert (record.input_tokens, record.output_tokens, record.usage_source) == (put_in, put_out, "provider")
        assert Decimal(str(told["cost_usd"])) == record.cost_usd == Decimal(cost)


@pytest.mark.parametrize("reported", [{"input_tokens": 0}, {"output_tokens": 7}])
def test_one_reported_count_and_one_estimate_are_mixed(db: None, reported: dict[str, int]) -> None:
    event = counted(texts(**reported))
    ((name, value),) = reported.items()
    assert getattr(event, name) == value
    assert event.input_tokens != 0 or event.output_tokens > 0
    assert event.usage_source == "mixed"


def test_null_is_an_absent_count(db: None) -> None:
    assert counted(texts(input_tokens=None, output_tokens=None)).usage_source == "estimated"


def test_an_event_with_its_counts_costs_no_look_at_its_texts() -> None:
    with mock.patch.object(tokens, "Text", side_effect=AssertionError("a text was read")):
        (item,) = metering.read(metering.told(messages=7, input_text=[], output_text={})).items
    assert isinstance(item, Event)
    assert (item.usage_source, item.estimated) == ("provider", None)


@pytest.mark.parametrize("forged", [{"input_tokens": "00"}, {}, [], "estimated", 7, "\x00"])
def test_no_gateway_says_itself_what_was_estimated(db: None, forged: Any) -> None:
    plain = metering.told()
    event = metering.accepted({**plain, "estimated": forged, "usage_source": forged})
    assert (event.usage_source, event.estimated) == ("provider", None)
    assert story(event) == story(metering.accepted(plain))
    assert counted(texts(estimated=forged)).usage_source == "estimated"


def test_an_estimate_is_never_below_the_parts_that_were_reported(db: None) -> None:
    parts = {
        "cached_input_tokens": 900,
        "cache_write_tokens": 50,
        "cache_write_1h_tokens": 40,
        "image_input_tokens": 30,
    }
    output = {"reasoning_tokens": 700, "audio_output_tokens": 20}
    event = counted(texts(**parts, **output))
    assert (event.input_tokens, event.output_tokens) == (1020, 720)
    assert counted(texts(cached_input_tokens=1)).input_tokens == prompt_tokens(115)


def test_cached_images_are_counted_once_in_the_least_whole(db: None) -> None:
    event = counted(texts(cached_input_tokens=800, cached_image_tokens=700, image_input_tokens=750))
    assert event.input_tokens == 850


# What is refused


@pytest.mark.parametrize("absent", ["input_tokens", "output_tokens"])
def test_an_absent_count_without_its_text_is_missing(absent: str) -> None:
    kept: dict[str, Any] = {name: 5 for name in ("input_tokens", "output_tokens") if name != absent}
    other: dict[str, Any] = {"output_text": ANSWER} if absent == "input_tokens" else {"messages": MESSAGES}
    for value in (kept, other, kept | {"messages": None, "input_text": None, "output_text": None}):
        error = metering.refusal(bare(**value)).error
        assert (error.code, error.param) == ("missing_required_parameter", absent)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": {}}, "invalid_type", "messages"),
        ({"messages": []}, "value_out_of_range", "messages"),
        ({"messages": [{"role": "user", "content": {MARK: MARK}}]}, "invalid_type", "messages[0].content"),
        (
            {"messages": [{"content": [{"type": "input_audio", "x": MARK}]}]},
            "missing_required_parameter",
            "input_tokens",
        ),
        ({"messages": None, "input_text": [MARK]}, "invalid_type", "input_text"),
        ({"input_text": MARK}, "invalid_request", "input_text"),
        ({"output_text": [MARK]}, "invalid_type", "output_text"),
        ({"cached_image_tokens": 2, "cached_input_tokens": 2}, "inconsistent_usage", "cached_image_tokens"),
        ({"cached_input_tokens": COUNT_MAX, "cache_write_tokens": 1}, "value_out_of_range", "input_tokens"),
        ({"reasoning_tokens": COUNT_MAX, "image_output_tokens": 1}, "value_out_of_range", "output_tokens"),
    ],
)
def test_a_text_that_cannot_be_counted_is_refused_by_its_place(
    gateway: Caller, silence: None, fields: dict[str, Any], code: str, param: str
) -> None:
    told = post(gateway, {"events": [metering.told(), texts(**fields)]}, 200)
    assert (told["created"], told["rejected"]) == (1, 1)
    error = told["data"][1]["error"]
    assert (error["code"], error["param"]) == (code, f"events[1].{param}")


def test_without_its_tables_nothing_of_a_request_with_text_is_taken(gateway: Caller, silence: None) -> None:
    broken = mock.patch.object(tokens, "_encoder", side_effect=tokens.TableUnusable("the token table is missing"))
    batch = [metering.told(), texts()]
    with broken:
        error = post(gateway, batch, 503)["error"]
        assert error["code"] == "unavailable"
        assert not UsageRecord.objects.exists()
        # Who reports counts needs no table.
        assert post(gateway, [batch[0]], 200)["created"] == 1
    told = post(gateway, batch, 200)
    assert (told["created"], told["duplicates"]) == (1, 1)


# Failures


def test_a_refused_request_is_logged_without_a_count(gateway: Caller) -> None:
    told = post(gateway, texts(status=429), 201)
    assert told["usage_record_id"] is None
    (row,) = RequestLog.objects.all()
    assert (row.input_tokens, row.output_tokens) == (0, 0)


@pytest.mark.parametrize(("answer", "billed"), [(ANSWER, True), ("", False), (None, False)])
def test_a_broken_answer_is_billed_if_there_is_any(db: None, answer: str | None, billed: bool) -> None:
    event = counted(bare(status=502, outcome="upstream_error", messages=MESSAGES, output_text=answer))
    assert event.billed == billed
    assert (event.output_tokens > 0, event.input_tokens > 0) == (billed, billed)
    assert event.usage_source == ("estimated" if billed else "provider")


def test_a_broken_answer_with_text_still_needs_its_input() -> None:
    assert metering.refusal(bare(status=502, output_text=ANSWER)).error.param == "input_tokens"


def test_a_client_that_hung_up_pays_for_what_was_produced(db: None) -> None:
    event = counted(texts(outcome="client_aborted", status=499))
    assert event.billed
    assert event.output_tokens == answer_tokens(115)


# The record, the claim and the quarantine


def test_an_estimate_is_charged_and_marked(gateway: Caller, silence: None) -> None:
    told = post(gateway, texts(model="gpt-4o"), 201)
    (record,) = UsageRecord.objects.all()
    assert (record.input_tokens, record.output_tokens) == (prompt_tokens(100), answer_tokens(100))
    assert record.usage_source == "estimated"
    expected = prompt_tokens(100) * Decimal("0.0000025") + answer_tokens(100) * Decimal("0.00001")
    assert record.cost_usd == Decimal(str(told["cost_usd"])) == expected
    assert rows_with(MARK) == []


def test_the_search_for_text_in_tables_finds_text(gateway: Caller) -> None:
    post(gateway, texts(end_user=MARK.upper()), 201)
    assert "usage_record" in rows_with(MARK.upper())


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/cloudevents+json"])
def test_every_form_of_body_takes_texts(db: None, media_type: str) -> None:
    value = texts(model="gpt-4o")
    envelope = {"specversion": "1.0", "id": "1", "source": "gw", "data": value}
    raw = json.dumps(envelope if "cloudevents" in media_type else value).encode()
    (item,) = counting.complete(metering.read(raw, media_type=media_type).items)
    assert isinstance(item, Event)
    assert item.input_tokens == prompt_tokens(100)


def test_the_same_text_again_is_a_duplicate_and_another_a_conflict(gateway: Caller, silence: None) -> None:
    value = texts(model="gpt-4o")
    first = post(gateway, value, 201)
    again = post(gateway, value, 200)
    assert (again["status"], again["usage_record_id"]) == ("duplicate", first["usage_record_id"])
    # As many tokens, another story.
    other = value | {"output_text": ANSWER.replace("large", "small")}
    assert counted(other).output_tokens == counted(value).output_tokens
    post(gateway, other, 409)
    # Nor is the estimate the same story as that many reported tokens.
    post(gateway, bare(**{**value, "input_tokens": prompt_tokens(100), "output_tokens": answer_tokens(100)}), 409)


def test_the_same_text_is_a_duplicate_even_if_it_would_be_counted_otherwise_today(gateway: Caller) -> None:
    value = texts(model="gpt-4o")
    post(gateway, value, 201)
    with mock.patch.dict(tokens.MARGIN_PERCENT, {"openai": 150}):
        assert counted(value).input_tokens > prompt_tokens(100)
        assert post(gateway, value, 200)["status"] == "duplicate"


def test_quarantine_keeps_the_counts_of_an_unknown_model_and_no_text(gateway: Caller, silence: None) -> None:
    value = texts(model="nobody-knows")
    post(gateway, value, 202)
    (row,) = Quarantine.objects.all()
    assert (row.event["input_tokens"], row.event["output_tokens"]) == (prompt_tokens(130), answer_tokens(130))
    assert not {"messages", "input_text", "output_text"} & set(row.event)
    assert rows_with(MARK) == []
    assert post(gateway, value, 202)["status"] == "quarantined"


def test_an_estimate_that_waited_for_its_organization_is_charged_as_an_estimate(books: Books, silence: None) -> None:
    gateway = Caller("gateway", world.service_key().secret)
    value = texts(model="gpt-4o", organization="late-inc")
    post(gateway, value, 202)
    world.organization("late-inc")
    assert releases.release().charged == 1
    (record,) = UsageRecord.objects.all()
    assert (record.usage_source, record.input_tokens) == ("estimated", prompt_tokens(100))
    # The gateway sends it again: it is the story that was charged.
    assert post(gateway, value, 200)["status"] == "duplicate"
    assert rows_with(MARK) == []


def test_nothing_that_carries_a_text_shows_it() -> None:
    body = metering.read([texts(), metering.told()])
    (uncounted, plain) = body.items
    assert isinstance(uncounted, Uncounted)
    assert isinstance(plain, Event)
    assert MARK not in repr(body) + str(uncounted) + repr(uncounted.event)


def test_attribution_gives_no_text_on(acme: Organization) -> None:
    (outcome, refused) = attribution.attribute(metering.read([texts(), bare()]).items, default_slug=acme.slug)
    assert isinstance(outcome, attribution.Attributed)
    assert type(outcome.event) is Event
    assert isinstance(refused, Rejection)
