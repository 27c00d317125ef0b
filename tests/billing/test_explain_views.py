"""``GET /v1/usage/{id}/explain`` through HTTP: what a customer is told of a cost, to the last digit (contract 1)."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from django.db import connection
from django.test import override_settings

from billing import rerating
from core import clock, ids
from metering import partitions, rules, usage
from orgs import caches, members
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import EVENTS, Caller, House
from tests.metering.test_rules import later
from tests.orgs import world


def weekday_at(hour: int) -> int:
    """The last Wednesday before today, at that hour of UTC, in Unix seconds."""
    today = clock.now().astimezone(UTC).replace(hour=hour, minute=0, second=0, microsecond=0)
    wednesday: datetime = today - timedelta(days=(today.weekday() - 2) % 7 or 7)
    return clock.to_unix(wednesday)


class Case(NamedTuple):
    """A request, its cost worked out by hand from the seed's rates, and the rates that held."""

    told: dict[str, Any]
    arithmetic: str
    terms: dict[str, Any]


PLAIN: dict[str, Any] = {"service_tier": None, "batch": False, "above_input_tokens": 0, "windows": []}
PEAK = ["01:00-04:00 UTC on Mon, Tue, Wed, Thu, Fri", "06:00-10:00 UTC on Mon, Tue, Wed, Thu, Fri"]
CASES: dict[str, Case] = {
    "cached": Case(
        {"model": "deepseek-chat", "input_tokens": 1000, "cached_input_tokens": 640, "output_tokens": 200},
        "360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362",
        PLAIN,
    ),
    "cache writes and a fee by use": Case(
        {
            "model": "claude-sonnet-4-6", "input_tokens": 1000, "cached_input_tokens": 100, "cache_write_tokens": 200,
            "cache_write_1h_tokens": 300, "output_tokens": 50, "units": {"web_search_requests": 2},
        },
        "400 × 3/1M + 100 × 0.3/1M + 200 × 3.75/1M + 300 × 6/1M + 50 × 15/1M + 2 × 0.01 = 0.02453",
        PLAIN,
    ),
    "a tier": Case(
        {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100, "service_tier": "priority"},
        "1000 × 4.25/1M + 100 × 17/1M = 0.00595",
        {**PLAIN, "service_tier": "priority"},
    ),
    "batch": Case(
        {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100, "batch": True},
        "1000 × 1.25/1M + 100 × 5/1M = 0.00175",
        {**PLAIN, "batch": True},
    ),
    "a long context": Case(
        {"model": "gemini-2.5-pro", "input_tokens": 200_001, "cached_input_tokens": 1, "output_tokens": 10},
        "200000 × 2.5/1M + 1 × 0.25/1M + 10 × 15/1M = 0.50015025",
        {**PLAIN, "above_input_tokens": 200_000},
    ),
    "nothing": Case(
        {"model": "deepseek-chat", "input_tokens": 0, "output_tokens": 0},
        "0 = 0",
        PLAIN,
    ),
}  # fmt: skip
WINDOWS: dict[str, Case] = {
    "peak": Case(
        {"model": "deepseek-flash", "input_tokens": 1000, "output_tokens": 100, "occurred_at": weekday_at(2)},
        "1000 × 0.3/1M + 100 × 1.2/1M = 0.00042",
        {**PLAIN, "windows": PEAK},
    ),
    "off-peak": Case(
        {"model": "deepseek-flash", "input_tokens": 1000, "output_tokens": 100, "occurred_at": weekday_at(4)},
        "1000 × 0.15/1M + 100 × 0.6/1M = 0.00021",
        PLAIN,
    ),
}


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with 10 USD and a gateway."""
    return neighbours.house("acme-labs")


@pytest.fixture
def caller(acme: House) -> Caller:
    """The organization's own key."""
    return acme.callers["organization"]


def exact(answer: Any) -> Any:
    """The body of a 200, its numbers as they stand there."""
    assert answer.status_code == 200, answer.content
    return json.loads(answer.content, parse_float=Decimal)


def charged(of: House, **told: Any) -> dict[str, Any]:
    """The answer to an event of a minute ago that was just charged."""
    answer = of.gateway.post(EVENTS, neighbours.event(f"explained-{ids.new()}", **told))
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = json.loads(answer.content, parse_float=Decimal)
    return found


def explained(by: Caller, record_id: str) -> Any:
    """What the API says of a record's cost; its arithmetic and its parts must both come to the cost."""
    found = exact(by.get(f"/v1/usage/{record_id}/explain"))
    assert sum(part["cost_usd"] for part in found["parts"]) == found["cost_usd"]
    for part in found["parts"]:
        assert Fraction(part["quantity"]) * Fraction(part["rate_usd"]) / part["per"] == Fraction(part["cost_usd"])
    said, total = found["arithmetic"].split(" = ")
    assert added_up(said) == Fraction(total) == Fraction(found["cost_usd"])
    return found


def added_up(said: str) -> Fraction:
    """What a line such as ``360 × 0.27/1M - 1 × 0.1`` comes to."""
    total = Fraction(0)
    for sign, quantity, rate, millions in re.findall(r"(-?) ?(\d+)(?: × ([\d.]+)(/1M)?)?", said):
        term = Fraction(quantity) * Fraction(rate or 1) / (1_000_000 if millions else 1)
        total += -term if sign else term
    return total


def test_a_cost_is_told_with_everything_that_led_to_it(acme: House, caller: Caller) -> None:
    at = clock.to_unix(clock.now()) - 60
    made = charged(
        acme, cached_input_tokens=640, attempts=3, routed_model="deepseek-v4-flash", channel="eu-1",
        provider_cost_usd="0.0001", occurred_at=at,
    )  # fmt: skip
    found = explained(caller, made["usage_record_id"])
    record = acme.records[-1]
    (line,) = caller.get("/v1/wallet/transactions", limit="1").json()["data"]
    assert found == {
        "object": "usage_explanation",
        "id": made["usage_record_id"],
        "model": "deepseek-chat",
        "occurred_at": at,
        "usage_source": "provider",
        "cost_usd": Decimal("0.000362"),
        "net_cost_usd": Decimal("0.000362"),
        "matches": True,
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
        "terms": PLAIN,
        # The seed's price of 2025-01-01.
        "price": {"id": ids.show("price", record.price_id), "effective_from": 1_735_689_600},
        "rule": None,
        "transfer": {
            "id": line["id"], "kind": "charge", "amount_usd": Decimal("0.000362"), "created_at": line["created_at"],
        },
        "attempts": 3,
        "authorization": None,
        "corrects": None,
        "corrections": [],
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES | WINDOWS)
def test_every_kind_of_rate_is_told_by_the_terms_under_which_it_held(acme: House, caller: Caller, name: str) -> None:
    case = (CASES | WINDOWS)[name]
    made = charged(acme, **case.told)
    found = explained(caller, made["usage_record_id"])
    assert (found["arithmetic"], found["terms"], found["matches"]) == (case.arithmetic, case.terms, True)
    assert Decimal(case.arithmetic.split(" = ")[1]) == found["cost_usd"] == made["cost_usd"]
    assert (found["transfer"] is None) == (name == "nothing")


def test_the_transfer_is_that_of_the_whole_batch(acme: House, caller: Caller) -> None:
    told = acme.gateway.post(EVENTS, [neighbours.event(f"batch-{ids.new()}") for _ in range(3)]).json()["data"]
    found = [explained(caller, one["usage_record_id"]) for one in told]
    assert {each["cost_usd"] for each in found} == {Decimal("0.00049")}
    assert {each["transfer"]["amount_usd"] for each in found} == {Decimal("0.00147")}
    assert len({each["transfer"]["id"] for each in found}) == 1


def test_counts_that_came_from_a_text_are_said_to_be_estimates(acme: House, caller: Caller) -> None:
    made = charged(acme, input_tokens=None, input_text="Why is the sky blue?")
    found = explained(caller, made["usage_record_id"])
    # Six tokens by the table and 15 % for another vendor's tokenizer, rounded up.
    assert (found["usage_source"], found["parts"][0]["quantity"]) == ("mixed", 7)
    assert found["arithmetic"] == "7 × 0.27/1M + 200 × 1.1/1M = 0.00022189"


def test_the_rule_of_a_contract_is_told_with_the_rates_that_it_made(acme: House, caller: Caller, settings: Any) -> None:
    starts, ends = later(), later(days=30)
    rule = rules.publish(
        by=world.BY, reason="a contract", effective_from=starts, effective_to=ends, organization=acme.organization,
        factor=Decimal("0.5"),
    )  # fmt: skip
    caches.forget_all()
    settings.EVENT_AHEAD_MAX_SECONDS = 7200
    made = charged(acme, occurred_at=clock.to_unix(later(minutes=1)))
    found = explained(caller, made["usage_record_id"])
    assert found["arithmetic"] == "1000 × 0.135/1M + 200 × 0.55/1M = 0.000245"
    assert found["rule"] == {
        "id": ids.show("rule", rule.pk), "factor": Decimal("0.5"), "effective_from": clock.to_unix(starts),
        "effective_to": clock.to_unix(ends),
    }  # fmt: skip
    assert "a contract" not in str(found)


def test_a_void_is_told_from_both_sides(acme: House, caller: Caller) -> None:
    made = charged(acme, cached_input_tokens=640)
    answer = acme.gateway.post(f"{EVENTS}/{made['event_id']}/void", {"reason": "sent by mistake"})
    assert answer.status_code == 201
    back = answer.json()["usage_record_id"]

    first = explained(caller, made["usage_record_id"])
    assert (first["cost_usd"], first["net_cost_usd"], first["matches"]) == (Decimal("0.000362"), 0, True)
    (correction,) = first["corrections"]
    assert abs(correction.pop("created_at") - clock.now().timestamp()) < 120
    assert correction == {
        "usage_record_id": back, "kind": "void", "cost_usd": Decimal("-0.000362"), "reason": "sent by mistake",
    }  # fmt: skip

    second = explained(caller, back)
    assert second["arithmetic"] == "-360 × 0.27/1M - 640 × 0.07/1M - 200 × 1.1/1M = -0.000362"
    assert [part["quantity"] for part in second["parts"]] == [-360, -640, -200]
    assert (second["corrects"], second["corrections"], second["matches"]) == (made["usage_record_id"], [], True)
    assert (second["transfer"]["kind"], second["transfer"]["amount_usd"]) == ("void", Decimal("0.000362"))
    assert second["transfer"]["id"] != first["transfer"]["id"]


def test_a_re_rated_record_names_what_was_posted_and_each_says_how_it_came_about(
    acme: House, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "FINAL_AFTER", timedelta(seconds=-1))
    starts = later()
    with override_settings(EVENT_AHEAD_MAX_SECONDS=7200):
        made = charged(acme, cached_input_tokens=640, occurred_at=clock.to_unix(later(minutes=1)))
    rules.publish(
        by=world.BY, reason="half", effective_from=starts, organization=acme.organization, factor=Decimal("0.5")
    )
    caches.forget_all()
    now = clock.now()
    act = rerating.plan(
        start=now - timedelta(hours=1), end=now + timedelta(milliseconds=500), reason="a wrong price", by=world.BY
    )
    rerating.apply(act, by=world.BY)

    first = explained(caller, made["usage_record_id"])
    assert first["arithmetic"] == "360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362"
    assert (first["rule"], first["net_cost_usd"], first["matches"]) == (None, Decimal("0.000181"), True)
    (correction,) = first["corrections"]
    assert (correction["kind"], correction["cost_usd"], correction["reason"]) == (
        "rerating", Decimal("-0.000181"), "a wrong price",
    )  # fmt: skip
    second = explained(caller, correction["usage_record_id"])
    assert second["arithmetic"] == (
        "360 × 0.135/1M + 640 × 0.035/1M + 200 × 0.55/1M - 1 × 0.000362 = -0.000181"
    )  # fmt: skip
    assert second["parts"][-1] == {
        "pool": "charged_before", "quantity": 1, "rate_usd": Decimal("-0.000362"), "per": 1,
        "cost_usd": Decimal("-0.000362"),
    }  # fmt: skip
    assert (second["corrects"], second["matches"]) == (made["usage_record_id"], True)
    assert second["rule"]["factor"] == Decimal("0.5")


def test_usage_of_a_month_that_was_detached_is_said_to_be_archived(acme: House, caller: Caller) -> None:
    shown = acme.shown("usage")[0]
    month = partitions.month_start(ids.instant(ids.read("usage", shown)))
    with connection.cursor() as cursor:
        for month_there in partitions.months("usage_record"):
            if month_there <= month:
                part = partitions.name("usage_record", month_there)
                cursor.execute(f'ALTER TABLE usage_record DETACH PARTITION "{part}"')
    # Whoever's it is, and whether it ever was: one answer.
    for record_id in (shown, ids.show("usage", ids.floor(month))):
        answer = caller.get(f"/v1/usage/{record_id}/explain")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "archived", "record_id")
        assert "archived" in error["message"]
    answer = caller.get(f"/v1/usage/{ids.show('usage', ids.floor(later(days=40)))}/explain")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "record_id",
    [
        "usage_nothing",
        "none",
        "tr_01K6Z700000000000000000000",
        "usage_7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "%00",
        "%F0%9F%98%80",
    ],
)
def test_what_names_no_record_is_a_404_that_names_the_parameter(acme: House, caller: Caller, record_id: str) -> None:
    answer = caller.get(f"/v1/usage/{record_id}/explain")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "not_found", "record_id")


def test_a_neighbours_record_is_explained_like_a_made_up_one(acme: House, caller: Caller) -> None:
    other = neighbours.house("other-inc")
    answers = [
        caller.get(f"/v1/usage/{record_id}/explain")
        for record_id in (other.shown("usage")[0], ids.show("usage", ids.new()))
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert answers[0].content == answers[1].content


def test_a_member_is_told_of_their_own_usage_and_not_of_other_peoples(acme: House) -> None:
    plain = acme.callers["plain"]
    own = next(record for record in acme.records if record.member_id == acme.plain.pk)
    others = next(record for record in acme.records if record.member_id != acme.plain.pk)
    assert explained(plain, ids.show("usage", own.pk))["cost_usd"] == Decimal("0.00049")
    assert plain.get(f"/v1/usage/{ids.show('usage', others.pk)}/explain").status_code == 404
    assert acme.gateway.get(f"/v1/usage/{ids.show('usage', own.pk)}/explain").status_code == 403


def test_a_transfer_is_told_only_to_who_may_read_the_wallet(acme: House) -> None:
    members.define_role(name="counting", granted=["usage:read_all"], by=world.BY)
    members.change_role(organization=acme.organization, member_id=acme.plain.pk, role="counting", by=world.BY)
    shown = acme.shown("usage")[0]
    assert explained(acme.callers["owner"], shown)["transfer"] is not None
    assert explained(acme.callers["plain"], shown)["transfer"] is None
