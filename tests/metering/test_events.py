"""Reading events: every form of body, and what is wrong with each event, by its place and field."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import clock, errors, ids, wire
from gateway import events as door
from metering import events
from metering.events import Event, Rejection
from metering.rating import COUNT_MAX, Counts
from orgs import keys, principals
from orgs.principals import Principal
from tests.billing.world import counts, organization, rows
from tests.books import Books
from tests.metering.world import COUNTS, accepted, limits, read, refusal, told
from tests.orgs import world
from tests.proofs import proves

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
UNIX = clock.to_unix(NOW)
COUNT_FIELDS = sorted(set(Counts.__struct_fields__) - {"units", "service_tier", "batch"})


def plain(**fields: Any) -> dict[str, Any]:
    """An event at ``NOW``."""
    return told(occurred_at=UNIX, **fields)


def event_ids(value: Any, **options: Any) -> list[str]:
    """The ids of the events of a body, in order; all of them must be taken."""
    found = []
    for item in read(value, now=NOW, **options).items:
        assert isinstance(item, Event), item
        found.append(item.event_id)
    return found


# Bodies


def test_one_event_is_a_body_of_its_own() -> None:
    assert read(plain(event_id="a"), now=NOW).single
    assert event_ids(plain(event_id="a")) == ["a"]


@pytest.mark.parametrize("wrap", [lambda found: {"events": found}, lambda found: found], ids=["events", "array"])
def test_several_events_are_a_batch_even_if_it_is_one(wrap: Callable[[list[Any]], Any]) -> None:
    for names in (["a"], ["a", "b", "c"]):
        value = wrap([plain(event_id=name) for name in names])
        assert event_ids(value) == names
        assert not read(value, now=NOW).single


def test_lines_are_a_batch_and_empty_lines_are_nothing() -> None:
    lines = b"\n\r\n".join(json.dumps(plain(event_id=name)).encode() for name in "abc")
    assert event_ids(lines + b"\n \n", media_type=events.NDJSON) == ["a", "b", "c"]
    assert not read(lines, media_type=events.NDJSON, now=NOW).single
    assert not read(lines.split(b"\n")[0], media_type=events.NDJSON, now=NOW).single


def test_a_broken_line_is_refused_by_its_place_and_the_others_are_taken() -> None:
    good = json.dumps(plain(event_id="a")).encode()
    bad = [b"{", b"[]", b'"x"', b"1", b"\xff", b'{"event_id":"x","event_id":"y"}', b"null"]
    body = read(b"\n".join([good, *bad, good]), media_type=events.NDJSON, now=NOW)
    assert [isinstance(item, Event) for item in body.items] == [True, *[False] * len(bad), True]
    for place, item in enumerate(body.items[1:-1], start=1):
        assert isinstance(item, Rejection)
        assert item.error.param == f"events[{place}]"
        assert f"events[{place}]" in str(item.error)


def cloudevent(**attributes: Any) -> dict[str, Any]:
    """A CloudEvent around an event."""
    data = {name: value for name, value in plain().items() if name not in {"event_id", "occurred_at"}}
    return {
        "specversion": "1.0",
        "type": "llm.request",
        "id": "7",
        "source": "/gateways/1",
        "time": "2026-11-21T08:00:00Z",
        "subject": "acme-labs",
        "data": data,
        **attributes,
    }


def test_a_cloudevent_brings_id_time_and_organization_in_its_envelope() -> None:
    (item,) = read(cloudevent(), media_type=events.CLOUDEVENT, now=NOW).items
    assert isinstance(item, Event)
    digest = hashlib.sha256(b"/gateways/1\n7").hexdigest()
    assert (item.event_id, item.occurred_at, item.organization) == (f"ce_{digest}", NOW, "acme-labs")
    assert item.input_tokens == COUNTS["input_tokens"]


def test_cloudevents_are_unique_by_source_and_id_together() -> None:
    told_apart = [cloudevent(id=id, source=source) for id in ("7", "8") for source in ("/a", "/b")]
    names = event_ids(told_apart, media_type=events.CLOUDEVENTS)
    assert len(set(names)) == 4
    assert {len(name) for name in names} == {len("ce_") + 64}


def test_the_envelope_goes_before_the_data_and_the_data_fills_what_it_lacks() -> None:
    data = {**cloudevent()["data"], "event_id": "inner", "occurred_at": UNIX - 60, "organization": "inner-org"}
    (item,) = read(cloudevent(data=data), media_type=events.CLOUDEVENT, now=NOW).items
    assert isinstance(item, Event)
    assert (item.occurred_at, item.organization) == (NOW, "acme-labs")
    assert item.event_id != "inner"
    bare = {name: value for name, value in cloudevent(data=data).items() if name not in {"time", "subject"}}
    (item,) = read(bare, media_type=events.CLOUDEVENT, now=NOW).items
    assert isinstance(item, Event)
    assert (item.occurred_at, item.organization) == (NOW - timedelta(seconds=60), "inner-org")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"source": None}, "source"),
        ({"source": ["/a"]}, "source"),
        ({"data": None}, "data"),
        ({"data": "x"}, "data"),
        ({"data": {}, "time": None}, "occurred_at"),
        ({"data": {}}, "model"),
        ({"time": "yesterday"}, "occurred_at"),
        ({"subject": 5}, "organization"),
    ],
    ids=str,
)
def test_a_cloudevent_that_lacks_something_names_it(change: dict[str, Any], param: str) -> None:
    assert refusal(cloudevent(**change), media_type=events.CLOUDEVENT, now=NOW).error.param == param
    good, bad = read([cloudevent(), cloudevent(**change)], media_type=events.CLOUDEVENTS, now=NOW).items
    assert isinstance(good, Event)
    assert isinstance(bad, Rejection)
    assert bad.error.param == f"events[1].{param}"


@pytest.mark.parametrize(
    ("value", "raised"),
    [
        (b"{", errors.InvalidJson),
        (b"", errors.InvalidJson),
        (b"\xff\xfe", errors.InvalidJson),
        (b'{"events":[],"events":[]}', errors.InvalidJson),
        (b'{"a":NaN}', errors.InvalidJson),
        (b"1", errors.InvalidType),
        (b'"event"', errors.InvalidType),
        (b"null", errors.InvalidType),
        ({"events": {}}, errors.InvalidType),
        ({"events": None}, errors.InvalidType),
        ({"events": "x"}, errors.InvalidType),
        ([], errors.OutOfRange),
        ({"events": []}, errors.OutOfRange),
    ],
    ids=str,
)
def test_a_body_that_is_no_list_of_events_fails_as_a_whole(value: Any, raised: type[errors.ApiError]) -> None:
    with pytest.raises(raised):
        read(value, now=NOW)


@pytest.mark.parametrize("media_type", ["text/plain", "", "application/xml", "application/json; charset=utf-8"])
def test_another_media_type_is_refused(media_type: str) -> None:
    with pytest.raises(errors.UnsupportedMediaType):
        read(plain(), media_type=media_type, now=NOW)


def test_a_body_of_lines_without_a_line_is_refused() -> None:
    with pytest.raises(errors.OutOfRange):
        read(b"\n\n", media_type=events.NDJSON, now=NOW)


@pytest.mark.parametrize("media_type", [events.NDJSON, "application/json", events.CLOUDEVENTS])
def test_a_request_holds_as_many_events_as_it_may_and_no_more(media_type: str) -> None:
    few = limits(now=NOW)._replace(events=3)

    def body(count: int) -> bytes:
        told_events = [json.dumps(cloudevent(id=str(n)) if "cloud" in media_type else plain()) for n in range(count)]
        text = "\n".join(told_events) if media_type == events.NDJSON else f"[{','.join(told_events)}]"
        return text.encode()

    assert len(events.decode(body(3), media_type=media_type, limits=few).items) == 3
    with pytest.raises(errors.TooManyEvents, match="at most 3"):
        events.decode(body(4), media_type=media_type, limits=few)


# Fields


def test_an_event_needs_four_things_and_the_rest_has_defaults() -> None:
    item = accepted(plain(), now=NOW)
    assert (item.source, item.outcome, item.batch, item.units, item.billed) == ("api_key", "completed", False, {}, True)
    assert (item.api_key_id, item.status, item.metadata, item.provider_cost_usd) == (None, None, None, None)


def test_unknown_fields_are_dropped_and_null_means_absent() -> None:
    item = accepted(plain(colour="red", batch=None, units=None, end_user=None, nested={"a": [1]}), now=NOW)
    assert (item.batch, item.units, item.end_user) == (False, {}, None)
    assert not hasattr(item, "colour")


def test_explicit_zeros_are_believed() -> None:
    item = accepted(plain(input_tokens=0, cached_input_tokens=0, output_tokens=0), now=NOW)
    assert (item.input_tokens, item.output_tokens, item.billed) == (0, 0, True)


@pytest.mark.parametrize("field", ["event_id", "model", "occurred_at", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_missing_field_is_named(field: str, how: str) -> None:
    value = plain(cached_input_tokens=0)
    value = {**value, field: None} if how == "null" else {name: value[name] for name in value if name != field}
    found = refusal(value, now=NOW)
    assert isinstance(found.error, errors.MissingParameter)
    assert found.error.param == field
    assert found.event_id == value.get("event_id")


def test_a_failed_request_needs_no_counts() -> None:
    value = plain(status=502, outcome="upstream_error")
    item = accepted({name: value[name] for name in value if "tokens" not in name}, now=NOW)
    assert (item.billed, item.input_tokens, item.output_tokens) == (False, 0, 0)


WRONG: list[tuple[str, Any, type[errors.ApiError]]] = [
    ("event_id", 7, errors.InvalidType),
    ("event_id", "", errors.OutOfRange),
    ("event_id", "x" * 129, errors.OutOfRange),
    ("event_id", "a b", errors.OutOfRange),
    ("event_id", "é", errors.OutOfRange),
    ("event_id", "a\n", errors.OutOfRange),
    ("event_id", ["a"], errors.InvalidType),
    ("model", "", errors.OutOfRange),
    ("model", "x" * 129, errors.OutOfRange),
    ("model", 4, errors.InvalidType),
    ("organization", 5, errors.InvalidType),
    ("organization", "x" * 129, errors.OutOfRange),
    ("api_key_id", {}, errors.InvalidType),
    ("api_key_id", "x" * 129, errors.OutOfRange),
    ("end_user", "x" * 129, errors.OutOfRange),
    ("source", "web", errors.OutOfRange),
    ("source", 1, errors.InvalidType),
    ("outcome", "failed", errors.OutOfRange),
    ("routed_model", "x" * 129, errors.OutOfRange),
    ("provider", False, errors.InvalidType),
    ("channel", 1, errors.InvalidType),
    ("attempts", -1, errors.OutOfRange),
    ("attempts", 32_768, errors.OutOfRange),
    ("attempts", 1.5, errors.InvalidType),
    ("endpoint", [], errors.InvalidType),
    ("stream", 1, errors.InvalidType),
    ("stream", "true", errors.InvalidType),
    ("status", 99, errors.OutOfRange),
    ("status", 600, errors.OutOfRange),
    ("status", "200", errors.InvalidType),
    ("finish_reason", 1, errors.InvalidType),
    ("ttft_ms", -1, errors.OutOfRange),
    ("latency_ms", COUNT_MAX + 1, errors.OutOfRange),
    ("request_id", "x" * 129, errors.OutOfRange),
    ("service_tier", True, errors.InvalidType),
    ("batch", 0, errors.InvalidType),
    ("batch", "false", errors.InvalidType),
    ("provider_cost_usd", -1, errors.OutOfRange),
    ("provider_cost_usd", "-0.01", errors.OutOfRange),
    ("provider_cost_usd", 100_000_000_000, errors.OutOfRange),
    ("provider_cost_usd", "NaN", errors.InvalidType),
    ("provider_cost_usd", "1_0", errors.InvalidType),
    ("provider_cost_usd", "١", errors.InvalidType),
    ("provider_cost_usd", " 1", errors.InvalidType),
    ("provider_cost_usd", True, errors.InvalidType),
    ("provider_cost_usd", {}, errors.InvalidType),
    ("authorization_id", 1, errors.InvalidType),
    ("units", [], errors.InvalidType),
    ("units", {"images": -1}, errors.OutOfRange),
    ("units", {"images": "1"}, errors.InvalidType),
    ("units", {"images": 1.0}, errors.InvalidType),
    ("units", {f"u{n}": 1 for n in range(17)}, errors.OutOfRange),
    ("metadata", "x", errors.InvalidType),
    ("metadata", {"a": 1}, errors.InvalidType),
    ("metadata", {"a": {"b": "c"}}, errors.InvalidType),
    ("metadata", {"": "x"}, errors.OutOfRange),
    ("metadata", {"x" * 65: "x"}, errors.OutOfRange),
    ("metadata", {"a": "x" * 513}, errors.OutOfRange),
    ("metadata", {f"k{n}": "v" for n in range(17)}, errors.OutOfRange),
]


@pytest.mark.parametrize(("field", "value", "family"), WRONG, ids=lambda part: str(part)[:40])
def test_a_wrong_field_is_named_by_place(field: str, value: Any, family: type[errors.ApiError]) -> None:
    wrong = plain() | {field: value}
    alone = refusal(wrong, now=NOW)
    assert (type(alone.error), alone.error.param) == (family, field)
    assert field in str(alone.error)
    good, bad, other = read([plain(), wrong, plain()], now=NOW).items
    assert isinstance(good, Event)
    assert isinstance(other, Event)
    assert isinstance(bad, Rejection)
    assert bad.error.param == f"events[1].{field}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", "!" * 128),
        ("event_id", "gw1-0198b6f0/77d1:~"),
        ("model", "x" * 128),
        ("end_user", ""),
        ("end_user", "é😀"),
        ("attempts", 32_767),
        ("status", 100),
        ("status", 299),
        ("ttft_ms", COUNT_MAX),
        ("source", "dev_tools"),
        ("outcome", "client_aborted"),
        ("metadata", {f"k{n}": "v" * 512 for n in range(16)}),
        ("units", {f"u{n}": COUNT_MAX for n in range(16)}),
        ("stream", False),
        ("service_tier", ""),
    ],
    ids=lambda part: str(part)[:40],
)
def test_the_widest_values_are_taken(field: str, value: Any) -> None:
    assert getattr(accepted(plain() | {field: value}, now=NOW), field) == value


def test_counts_may_be_as_large_as_the_columns() -> None:
    assert accepted(plain(input_tokens=COUNT_MAX, output_tokens=COUNT_MAX), now=NOW).input_tokens == COUNT_MAX


@pytest.mark.parametrize(
    "field", ["event_id", "model", "organization", "end_user", "channel", "metadata", "units", "request_id"]
)
def test_a_nul_has_no_place_in_any_field(field: str) -> None:
    value = {"metadata": {"a": "\0"}, "units": {"\0": 1}}.get(field, "a\0b")
    found = refusal(plain() | {field: value}, now=NOW)
    assert found.error.param is not None
    assert found.error.param.startswith(field)
    good, bad = read(
        b"\n".join(json.dumps(one).encode() for one in (plain(), plain() | {field: value})),
        media_type=events.NDJSON,
        now=NOW,
    ).items
    assert isinstance(good, Event)
    assert isinstance(bad, Rejection)


def test_a_nul_in_a_field_that_is_dropped_anyway_harms_nothing() -> None:
    assert accepted(plain(note="\0"), now=NOW).event_id


@pytest.mark.parametrize(
    ("told_cost", "kept"),
    [
        ("0.1", "0.1"),
        (0, "0"),
        ("1e-7", "0.0000001"),
        ("0.0000000000005", "0"),
        ("0.0000000000015", "0.000000000002"),
        ("99999999999.999999999999", "99999999999.999999999999"),
    ],
)
def test_what_the_provider_charged_is_kept_to_the_pico_dollar(told_cost: Any, kept: str) -> None:
    assert accepted(plain(provider_cost_usd=told_cost), now=NOW).provider_cost_usd == Decimal(kept)


def test_a_fraction_that_the_provider_charged_never_passes_through_a_float() -> None:
    raw = json.dumps(plain()).replace("}", ', "provider_cost_usd": 0.100000000000000005}').encode()
    (item,) = read(raw, now=NOW).items
    assert isinstance(item, Event)
    assert item.provider_cost_usd == Decimal("0.1")


def test_parts_that_exceed_their_whole_are_refused_with_the_part_to_blame() -> None:
    found = refusal(plain(input_tokens=10, cached_input_tokens=11), now=NOW)
    assert isinstance(found.error, errors.InconsistentUsage)
    assert (found.error.code, found.error.param) == ("inconsistent_usage", "input_tokens")


@pytest.mark.parametrize(
    ("fields", "billed"),
    [
        ({}, True),
        ({"status": 200}, True),
        ({"status": 399}, True),
        ({"status": 400}, False),
        ({"status": 429}, False),
        ({"status": 499}, False),
        ({"status": 500}, True),
        ({"status": 500, "output_tokens": 0}, False),
        ({"status": 599, "output_tokens": 0}, False),
        ({"outcome": "upstream_error"}, True),
        ({"outcome": "upstream_error", "output_tokens": 0}, False),
        ({"outcome": "client_aborted", "output_tokens": 0}, True),
        ({"outcome": "client_aborted", "status": 499}, True),
    ],
    ids=str,
)
def test_a_4xx_is_never_billed_and_a_5xx_only_with_output(fields: dict[str, Any], billed: bool) -> None:
    assert accepted(plain(**fields), now=NOW).billed is billed


# Times


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        (UNIX, NOW),
        (UNIX - 1, NOW - timedelta(seconds=1)),
        ("2026-11-21T08:00:00Z", NOW),
        ("2026-11-21t08:00:00z", NOW),
        ("2026-11-21 08:00:00Z", NOW),
        ("2026-11-21T09:00:00+01:00", NOW),
        ("2026-11-20T23:00:00-09:00", NOW),
        ("2026-11-21T08:00:00.000001Z", NOW + timedelta(microseconds=1)),
        ("2026-11-21T07:59:59.999999Z", NOW - timedelta(microseconds=1)),
    ],
)
def test_an_instant_has_its_zone_or_is_unix_seconds(value: Any, instant: datetime) -> None:
    assert accepted(plain() | {"occurred_at": value}, now=NOW).occurred_at == instant


@given(micros=st.integers(-(10**12), 10**8))
def test_decimal_unix_seconds_are_exact_to_the_microsecond(micros: int) -> None:
    instant = NOW + timedelta(microseconds=micros)
    seconds = Decimal(UNIX) + Decimal(micros).scaleb(-6)
    raw = json.dumps(plain()).replace(f'"occurred_at": {UNIX}', f'"occurred_at": {seconds:f}').encode()
    (item,) = read(raw, now=NOW).items
    assert isinstance(item, Event)
    assert item.occurred_at == instant


WITHOUT_ZONE = [
    "2026-11-21T08:00:00", "2026-11-21 08:00:00", "2026-11-21T08:00:00.5", "2026-11-21", "20261121T080000Z",
    "2026-W47-6T08:00:00Z", "2026-11-21T08:00Z", "2026-11-21T08:00:00+0100", "2026-11-21T08:00:00+01",
    "2026-11-21T08:00:00 Z", "2026-11-21T08:00:00Z\n", " 2026-11-21T08:00:00Z", "２０２６-11-21T08:00:00Z",
    "2026-13-21T08:00:00Z", "2026-02-30T08:00:00Z", "2026-11-21T24:00:01Z", "2026-11-21T08:00:60Z", "now", "",
    str(UNIX),
    "2026-11-21T08:00:00CET", "Sat, 21 Nov 2026 08:00:00 GMT", True, False, [], {}, [UNIX],
]  # fmt: skip


@proves("I08", guard="times_have_their_zone")
def test_a_time_without_its_zone_or_of_another_form_leaves_no_row(db: None) -> None:
    before, reporter = counts(), gateway("acme-labs")
    for value in WITHOUT_ZONE:
        answer = post([plain(organization="acme-labs") | {"occurred_at": value}], reporter)
        assert statuses_of(answer) == ["rejected"], value
        assert answer["data"][0]["error"]["param"] == "events[0].occurred_at", value
    assert counts() == before


BACK, AHEAD, TICK = timedelta(days=35), timedelta(minutes=5), timedelta(microseconds=1)


@proves("I08", guard="events_have_a_window")
def test_no_time_outside_of_the_window_leaves_a_row(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)
    before, reporter = counts(), gateway("acme-labs")
    outside = [NOW - BACK - TICK, NOW + AHEAD + TICK, NOW - BACK * 2, NOW + timedelta(days=1), NOW.replace(year=1999)]
    told_times: list[Any] = [at.isoformat() for at in outside]
    told_times += [0, 1, -1, UNIX * 1000, 10**12, 10**18, -(10**18), 10**39, "0001-01-01T00:00:00Z"]
    told_times += ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
    for value in told_times:
        answer = post([plain(organization="acme-labs") | {"occurred_at": value}], reporter)
        assert statuses_of(answer) == ["rejected"], value
        assert answer["data"][0]["error"]["param"] == "events[0].occurred_at", value
    assert counts() == before


def test_the_window_holds_both_its_ends() -> None:
    for at in (NOW - BACK, NOW + AHEAD):
        assert accepted(plain() | {"occurred_at": at.isoformat()}, now=NOW).occurred_at == at


@given(
    seconds=st.integers(-(10**12), 10**12) | st.integers(-36 * 86_400, 10 * 60),
    offset=st.integers(-23 * 60, 23 * 60),
)
def test_any_instant_is_judged_by_where_it_lies_and_not_by_its_zone(seconds: int, offset: int) -> None:
    inside = -BACK.total_seconds() <= seconds <= AHEAD.total_seconds()
    (by_number,) = read(plain() | {"occurred_at": UNIX + seconds}, now=NOW).items
    assert isinstance(by_number, Event) is inside
    if abs(seconds) < 10**10:
        zone = timedelta(minutes=offset)
        local = (NOW + timedelta(seconds=seconds) + zone).replace(tzinfo=None)
        sign, minutes = ("-", -offset) if offset < 0 else ("+", offset)
        text = f"{local.isoformat()}{sign}{minutes // 60:02}:{minutes % 60:02}"
        (by_text,) = read(plain() | {"occurred_at": text}, now=NOW).items
        assert isinstance(by_text, Event) is inside
        if isinstance(by_number, Event) and isinstance(by_text, Event):
            assert by_text.occurred_at == by_number.occurred_at


# Counts (I09)

# Each stands where a count should be, in JSON.
NO_COUNTS = [
    "-1", "-2147483648", "-9223372036854775809", "2147483648", "4294967296", "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "9" * 40, "-" + "9" * 40, "1.0", "1.5", "0.0", "-0.5", "-0.0", "1e2",
    "1E2", "1e+2", "1e-2", "0e0", "2147483647.0", "1e9", "1e39", "12.000", "0.1", "true", "false", '""', '"0"', '"1"',
    '"12"', '"-1"', '"+1"', '" 7 "', '"7 "', '"1_0"', '"1,000"', '"1e3"', '"1.0"', '"0x10"', '"010"', '"NaN"',
    '"Infinity"', '"null"', '"true"', '"١٢"', '"１２"', '"Ⅻ"', '"½"', '"²"', '"\\u0031"', '"one"', "[]", "[1]",
    "[[1]]", "{}", '{"value":1}', '{"":0}', "[true]", '"1\\u0000"', '"' + "9" * 100 + '"',
]  # fmt: skip
# These are no JSON at all: the body fails before an event is looked at.
NO_JSON = [
    "NaN", "-NaN", "Infinity", "-Infinity", "01", "-01", "00", "+1", "1_000", "0x10", "0b1", "0o7", "1.", ".5", "--1",
    "1e", "1e400", "-1e400", "9" * 41, "9" * 4000, "'1'", "١٢", "１２", "undefined", "None", "1 2", "1n", "",
]  # fmt: skip


def gateway(slug: str) -> Principal:
    """A gateway's key, and an organization that it may report for."""
    organization(slug)
    issued = world.service_key()
    return principals.resolve(key=keys.find([issued.key.pk])[issued.key.pk], header=None)


def post(told_events: list[dict[str, Any]] | bytes, reporter: Principal) -> dict[str, Any]:
    """The body of the answer to a batch, as it goes over the wire."""
    raw = told_events if isinstance(told_events, bytes) else json.dumps({"events": told_events}).encode()
    answer = door.receive(raw, media_type="application/json", reporter=reporter)
    found: dict[str, Any] = json.loads(wire.encode(answer.body))
    return found


def statuses_of(answer: dict[str, Any]) -> list[str]:
    return [verdict["status"] for verdict in answer["data"]]


def written(field: str, literal: str) -> str:
    """An event as JSON text with a literal where a count should be."""
    at = clock.to_unix(clock.now())
    value = told(event_id=ids.show("e", ids.new()), organization="acme-labs", occurred_at=at) | {field: "#"}
    return json.dumps(value).replace('"#"', literal if field != "units" else f'{{"images": {literal}}}')


@proves("I09", guard="counts_are_whole_numbers")
def test_what_is_no_whole_count_is_rejected_by_its_field_and_leaves_no_row(db: None) -> None:
    assert len(NO_COUNTS) >= 60
    before, reporter = counts(), gateway("acme-labs")
    for field in (*COUNT_FIELDS, "units"):
        answer = post(f"[{','.join(written(field, literal) for literal in NO_COUNTS)}]".encode(), reporter)
        for place, (literal, verdict) in enumerate(zip(NO_COUNTS, answer["data"], strict=True)):
            assert verdict["status"] == "rejected", f"{field}: {literal}"
            assert verdict["error"]["param"] == f"events[{place}].{field}", literal
    assert counts() == before


@pytest.mark.parametrize("literal", NO_JSON, ids=lambda literal: literal[:20] or "nothing")
def test_a_count_that_is_no_json_fails_the_body(literal: str) -> None:
    for field in ("input_tokens", "units"):
        with pytest.raises(errors.InvalidJson):
            read(f"[{written('output_tokens', '1')},{written(field, literal)}]".encode())


@pytest.mark.parametrize(("literal", "value"), [("0", 0), ("-0", 0), ("1", 1), ("2147483647", COUNT_MAX)])
def test_a_whole_number_in_range_is_a_count(literal: str, value: int) -> None:
    (item,) = read(written("output_tokens", literal).encode()).items
    assert isinstance(item, Event)
    assert item.output_tokens == value


@proves("I09", guard="columns_refuse_negative_counts")
def test_the_columns_refuse_a_negative_count_that_no_correction_explains(books: Books) -> None:
    reporter = gateway("acme-labs")
    post([told(organization="acme-labs"), told(organization="acme-labs", status=429)], reporter)
    with books.connect() as raw:
        for table, fields in (("usage_record", COUNT_FIELDS), ("request_log", ["input_tokens", "output_tokens"])):
            for field in fields:
                assert refused(raw, table, field, -1), f"{table}.{field}"
    assert rows("SELECT count(*) FROM usage_record")[0][0] == 1


def refused(raw: Any, table: str, field: str, value: int) -> bool:
    """Whether a copy of the table's row with another value in one field is refused by a CHECK."""
    from psycopg.errors import CheckViolation

    change = json.dumps({"id": str(ids.new()), field: value})
    try:
        raw.execute(
            f"INSERT INTO {table} SELECT (jsonb_populate_record(r, %s::jsonb)).* FROM {table} r LIMIT 1", [change]
        )
    except CheckViolation as violation:
        return violation.diag.constraint_name == f"{table}_counts_not_negative"
    return False


# Fingerprints


def fingerprint(**fields: Any) -> bytes:
    return events.fingerprint(accepted(plain(event_id="e") | fields, now=NOW), organization=b"o", key=b"k")


BILLING: dict[str, Any] = {
    "model": "gpt-4o",
    "occurred_at": UNIX - 1,
    "input_tokens": 1001,
    "cached_input_tokens": 639,
    "cache_write_tokens": 1,
    "cache_write_1h_tokens": 1,
    "output_tokens": 201,
    "reasoning_tokens": 1,
    "image_input_tokens": 1,
    "audio_input_tokens": 1,
    "image_output_tokens": 1,
    "audio_output_tokens": 1,
    "units": {"images": 1},
    "service_tier": "flex",
    "batch": True,
    "outcome": "client_aborted",
    "status": 429,
}
LATER: dict[str, Any] = {
    "metadata": {"a": "b"},
    "latency_ms": 5,
    "ttft_ms": 5,
    "routed_model": "other",
    "provider": "other",
    "channel": "other",
    "attempts": 2,
    "provider_cost_usd": "1",
    "request_id": "r",
    "finish_reason": "length",
    "status": 201,
    "end_user": "u",
}


@pytest.mark.parametrize("field", BILLING)
def test_every_billing_field_makes_another_story(field: str) -> None:
    assert fingerprint(**{field: BILLING[field]}) != fingerprint()


def test_every_count_is_a_billing_field() -> None:
    held = {"image_input_tokens": 3, "audio_input_tokens": 3, "input_tokens": 1006}
    assert fingerprint(**held, cached_image_tokens=1) != fingerprint(**held)
    assert fingerprint(**held, cached_audio_tokens=1) != fingerprint(**held)
    assert set(Counts.__struct_fields__) - {"cached_image_tokens", "cached_audio_tokens"} <= BILLING.keys()


@pytest.mark.parametrize("field", LATER)
def test_what_a_gateway_may_learn_later_is_the_same_story(field: str) -> None:
    assert fingerprint(**{field: LATER[field]}) == fingerprint()


def test_the_same_story_in_other_words_is_the_same_story() -> None:
    assert fingerprint(occurred_at="2026-11-21T09:00:00+01:00") == fingerprint()
    assert fingerprint(service_tier="default") == fingerprint(service_tier=None) == fingerprint(service_tier="auto")
    assert fingerprint(units={"a": 1, "b": 2}) == fingerprint(units={"b": 2, "a": 1})
    assert fingerprint(reasoning_tokens=0) == fingerprint(reasoning_tokens=None)


def test_the_organization_and_the_key_belong_to_the_story() -> None:
    item = accepted(plain(), now=NOW)
    stories = {events.fingerprint(item, organization=o, key=k) for o in (b"a", b"b") for k in (None, b"a", b"b")}
    assert len(stories) == 6


# A batch at once


AWKWARD: dict[str, Any] = {
    "fractions of a second": {"occurred_at": UNIX + 0.25},
    "text for a time": {"occurred_at": "2026-11-21T09:00:00.5+01:00"},
    "true for a time": {"occurred_at": True},
    "no time": {"occurred_at": None},
    "a list for a time": {"occurred_at": [1]},
    "too long ago": {"occurred_at": 1},
    "too far ahead": {"occurred_at": UNIX + 301},
    "a cost": {"provider_cost_usd": "0.25"},
    "a bad cost": {"provider_cost_usd": "a lot"},
    "what is ours": {"estimated": {"input_tokens": "x"}},
    "null for a count": {"cached_input_tokens": None},
    "nulls": {"end_user": None, "metadata": None, "units": None, "stream": None},
    "no input": {"input_tokens": None, "input_text": "so many words"},
    "no output": {"output_tokens": None},
    "a part beyond its whole": {"cached_input_tokens": 1001},
    "too many units": {"units": {f"u{place}": 1 for place in range(17)}},
    "too many pairs": {"metadata": {f"m{place}": "" for place in range(17)}},
    "a count too large": {"input_tokens": COUNT_MAX + 1},
    "a type": {"status": "200"},
    "a field of nobody": {"colour": {"a": [1, {"b": 2}]}},
}


def seen(item: Any) -> Any:
    """What is to be compared of an item."""
    if isinstance(item, Rejection):
        return (item.event_id, type(item.error), str(item.error), (item.error.param or "").partition(".")[2])
    return item


@pytest.mark.parametrize("awkward", AWKWARD)
def test_an_event_is_read_the_same_among_others_as_alone(awkward: str) -> None:
    odd = plain(event_id="odd") | AWKWARD[awkward]
    before = [plain(event_id=f"e{place}") | {"occurred_at": UNIX - place} for place in range(3)]
    together = read([*before, odd, plain(event_id="last")], now=NOW).items
    alone = [read([one], now=NOW).items[0] for one in (*before, odd, plain(event_id="last"))]
    assert [seen(item) for item in together] == [seen(item) for item in alone]
    for item in (together[0], together[2], together[4]):
        assert isinstance(item, Event)
    assert (together[2].event_id, together[2].occurred_at) == ("e2", NOW - timedelta(seconds=2))  # type: ignore[union-attr]


@pytest.mark.parametrize("other", [None, 7, "occurred_at", ["occurred_at"]])
def test_what_is_no_event_costs_the_others_nothing(other: Any) -> None:
    good, bad = read([plain(event_id="a"), other], now=NOW).items
    assert isinstance(good, Event)
    assert isinstance(bad, Rejection)
    assert bad.error.param == "events[1]"
