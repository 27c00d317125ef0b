"""Billing's doors: wallet, statement, credits, balance and the calling key."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.models import Wallet
from core import clock, ids
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.orgs import world

WALLET = {
    "object", "organization", "currency", "balance_usd", "granted_usd", "topped_up_usd", "held_usd", "overdraft_usd",
    "credit_limit_usd", "available_usd", "status", "mode", "enforcement",
}  # fmt: skip
LINE = {"id", "object", "kind", "amount_usd", "balance_after_usd", "reason", "created_at"}


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with 10 USD, of which six records of 0.00049 were paid."""
    return neighbours.house("acme-labs")


@pytest.fixture
def caller(acme: House) -> Caller:
    """The organization's own key."""
    return acme.callers["organization"]


@pytest.fixture
def newcomer(db: None) -> Caller:
    """A key of an organization that has nothing yet."""
    return Caller("newcomer", world.organization_key(world.organization("empty")).secret)


def wallet(of: House, **changed: Any) -> None:
    """Settings of a wallet that staff may change; none of them moves money."""
    Wallet.objects.filter(pk=of.organization.pk).update(**changed)


def spend(of: House, usd: str) -> None:
    """Usage of that much: gpt-4o's output costs 10 USD per 1M tokens."""
    tokens = int(Decimal(usd) * 100_000)
    event = neighbours.event(f"spend-{ids.new()}", model="gpt-4o", input_tokens=0, output_tokens=tokens)
    answer = of.gateway.post("/v1/events", event)
    assert json.loads(answer.content, parse_float=Decimal)["cost_usd"] == Decimal(usd)


def test_a_wallet_tells_what_there_is_to_the_last_digit(acme: House, caller: Caller) -> None:
    answer = caller.get("/v1/wallet")
    assert answer.json() == {
        "object": "wallet", "organization": "acme-labs", "currency": "usd", "balance_usd": Decimal("9.99706"),
        "granted_usd": Decimal("9.99706"), "topped_up_usd": 0, "held_usd": 0, "overdraft_usd": 0, "credit_limit_usd": 0,
        "available_usd": Decimal("9.99706"), "status": "active", "mode": "strict", "enforcement": "strict",
    }  # fmt: skip
    assert b'"balance_usd":9.99706,' in answer.content
    for name in ("owner", "plain", "viewer"):
        assert acme.callers[name].get("/v1/wallet").json() == answer.json()


def test_a_wallet_that_was_never_touched_stands_at_zero(newcomer: Caller) -> None:
    told = newcomer.get("/v1/wallet").json()
    assert set(told) == WALLET
    assert (told["balance_usd"], told["status"]) == (0, "empty")
    assert newcomer.get("/v1/wallet/transactions").json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    assert newcomer.get("/v1/credits").json() == {"data": {"total_credits": 0, "total_usage": 0}}
    assert newcomer.get("/user/balance").json()["is_available"] is False
    csv = newcomer.get("/v1/wallet/transactions", accept="text/csv").getvalue()
    assert csv == b"id,kind,amount_usd,balance_after_usd,reason,created_at\r\n"


def test_a_personal_call_is_charged_to_the_personal_wallet_and_says_so(acme: House) -> None:
    personal = world.personal(acme.owner)
    neighbours.give(personal, "3.5")
    told = acme.callers["alone"].get("/v1/wallet").json()
    assert (told["organization"], told["balance_usd"]) == (None, Decimal("3.5"))
    assert acme.callers["owner"].get("/v1/wallet").json()["balance_usd"] == Decimal("9.99706")


def test_an_overdraft_is_a_negative_balance_and_the_status_tells_gateways_to_stop(acme: House, caller: Caller) -> None:
    def told() -> tuple[Any, ...]:
        state = caller.get("/v1/wallet").json()
        available = caller.get("/user/balance").json()["is_available"]
        return state["balance_usd"], state["overdraft_usd"], state["available_usd"], state["status"], available

    spend(acme, "6")
    assert told() == (Decimal("3.99706"), 0, Decimal("3.99706"), "low", True)
    spend(acme, "5")
    assert told() == (-Decimal("1.00294"), Decimal("1.00294"), 0, "empty", False)
    wallet(acme, credit_limit_usd=Decimal(2))
    assert told() == (-Decimal("1.00294"), Decimal("1.00294"), Decimal("0.99706"), "low", True)
    spend(acme, "1")
    assert told() == (-Decimal("2.00294"), Decimal("2.00294"), 0, "empty", False)
    neighbours.give(acme.organization, "20")
    assert told() == (Decimal("17.99706"), 0, Decimal("19.99706"), "active", True)
    wallet(acme, frozen_at=clock.now())
    assert told() == (Decimal("17.99706"), 0, Decimal("19.99706"), "frozen", False)


def test_the_statement_is_every_movement_newest_first_with_the_balance_after_it(acme: House, caller: Caller) -> None:
    page = caller.get("/v1/wallet/transactions", limit="3").json()
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    assert all(set(line) == LINE for line in page["data"])
    assert (page["object"], page["has_more"], page["first_id"]) == ("list", True, page["data"][0]["id"])
    rest = caller.get("/v1/wallet/transactions", after=page["last_id"]).json()
    assert rest["has_more"] is False
    lines = page["data"] + rest["data"]
    assert [line["id"] for line in lines] == list(reversed(acme.shown("tr")))
    assert [line["kind"] for line in lines] == ["charge"] * 6 + ["grant"]
    assert lines[-1]["amount_usd"] == 10
    assert lines[-1]["reason"] == "welcome"
    after = Decimal(0)
    for line in reversed(lines):
        after += Decimal(str(line["amount_usd"]))
        assert Decimal(str(line["balance_after_usd"])) == after
        assert line["object"] == "wallet_transaction"
        assert abs(line["created_at"] - clock.now().timestamp()) < 120


def test_what_a_draw_and_a_repayment_do_inside_is_not_a_line_of_the_statement(acme: House, caller: Caller) -> None:
    spend(acme, "12")
    neighbours.give(acme.organization, "20", reason="after the overdraft")
    lines = caller.get("/v1/wallet/transactions", limit="2").json()["data"]
    assert [(line["kind"], line["amount_usd"], line["balance_after_usd"]) for line in lines] == [
        ("grant", 20, Decimal("17.99706")),
        ("charge", -12, -Decimal("2.00294")),
    ]
    inner = [ids.show("tr", each.pk) for each in acme.transfers if each.kind in {"draw", "repayment"}]
    assert len(inner) == 2
    for hidden in inner:
        answer = caller.get("/v1/wallet/transactions", after=hidden)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


def test_the_statement_as_csv_is_whole_and_in_plain_digits(acme: House, caller: Caller) -> None:
    neighbours.give(acme.organization, "0.000000000001", reason="the smallest, of all")
    answer = caller.get("/v1/wallet/transactions", accept="text/csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="transactions.csv"'
    header, newest, charge, *_, last = answer.getvalue().decode().split("\r\n")
    assert header == "id,kind,amount_usd,balance_after_usd,reason,created_at"
    assert newest.split(",", 1)[1].startswith('grant,0.000000000001,9.997060000001,"the smallest, of all",2')
    assert charge.split(",")[1:4] == ["charge", "-0.00049", "9.99706"]
    assert datetime.fromisoformat(charge.split(",")[5]).tzinfo is not None
    assert last == ""
    limited = caller.get("/v1/wallet/transactions", accept="text/csv", limit="2", after=newest.split(",")[0])
    assert limited.getvalue().decode().count("\r\n") == 3


def test_a_long_statement_is_exported_page_by_page(
    acme: House, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.views._CSV_CHUNK", 2)
    lines = caller.get("/v1/wallet/transactions", accept="text/csv").getvalue().decode().split("\r\n")
    assert [line.split(",")[0] for line in lines[1:-1]] == list(reversed(acme.shown("tr")))


def test_credits_are_all_that_came_and_all_that_went(acme: House, caller: Caller) -> None:
    assert caller.get("/v1/credits").json() == {"data": {"total_credits": 10, "total_usage": Decimal("0.00294")}}
    spend(acme, "12")
    assert caller.get("/v1/credits").json() == {"data": {"total_credits": 10, "total_usage": Decimal("12.00294")}}


@pytest.mark.parametrize(
    ("given", "shown", "available"),
    [
        ("42.5", "42.50", True),
        ("0.009999999999", "0.00", True),
        ("0.01", "0.01", True),
        ("1234567.899", "1234567.89", True),
    ],
)
def test_a_balance_is_rounded_down_for_the_eye_and_judged_exactly(
    db: None, given: str, shown: str, available: bool
) -> None:
    organization = world.organization("eyes")
    caller = Caller("eyes", world.organization_key(organization).secret)
    neighbours.give(organization, given)
    assert caller.get("/user/balance").json() == {
        "is_available": available,
        "balance_infos": [
            {"currency": "USD", "total_balance": shown, "granted_balance": shown, "topped_up_balance": "0.00"}
        ],
    }


def test_a_debt_never_looks_smaller_than_it_is(acme: House, caller: Caller) -> None:
    spend(acme, "10")
    told = caller.get("/user/balance").json()
    assert told["is_available"] is False
    (info,) = told["balance_infos"]
    assert (info["total_balance"], info["granted_balance"]) == ("-0.01", "0.00")


def test_a_key_tells_what_it_used_today_this_week_and_this_month(
    acme: House, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = caller.get("/v1/key").json()
    assert set(told) == {"data"}
    assert set(told["data"]) == {
        "label", "limit", "limit_remaining", "usage", "usage_daily", "usage_weekly", "usage_monthly", "is_free_tier",
        "expires_at",
    }  # fmt: skip
    assert (told["data"]["label"], told["data"]["limit"], told["data"]["expires_at"]) == (
        "key of acme-labs", None, None,
    )  # fmt: skip
    assert told["data"]["usage_daily"] == told["data"]["usage"] == Decimal("0.00098")
    # Tomorrow the same usage is yesterday's.
    tomorrow = clock.now() + timedelta(days=1)
    monkeypatch.setattr(clock, "now", lambda: tomorrow)
    later = caller.get("/v1/key").json()["data"]
    assert later["usage_daily"] == 0
    assert later["usage_weekly"] == (0 if tomorrow.weekday() == 0 else Decimal("0.00098"))
    assert later["usage_monthly"] == later["usage"] == (0 if tomorrow.day == 1 else Decimal("0.00098"))


def test_a_key_tells_when_it_ends_and_only_its_own_usage(acme: House) -> None:
    ends = clock.now().replace(microsecond=0) + timedelta(days=3)
    fresh = Caller("fresh", world.organization_key(acme.organization, name="fresh", expires_at=ends).secret)
    told = fresh.get("/v1/key").json()["data"]
    assert (told["label"], told["usage"], told["expires_at"]) == ("fresh", 0, int(ends.timestamp()))
    assert datetime.fromtimestamp(told["expires_at"], UTC) == ends
    assert acme.callers["plain"].get("/v1/key").json()["data"]["usage"] == Decimal("0.00098")
    assert acme.callers["alone"].get("/v1/key").json()["data"]["usage"] == 0


def test_who_may_not_read_the_wallet_reads_none_of_it(acme: House) -> None:
    from orgs import members

    members.define_role(name="quiet", granted=["calls:make"], by=world.BY)
    members.change_role(organization=acme.organization, member_id=acme.plain.pk, role="quiet", by=world.BY)
    for path in ("/v1/wallet", "/v1/wallet/transactions", "/v1/credits", "/user/balance"):
        answer = acme.callers["plain"].get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")
    assert acme.callers["plain"].get("/v1/key").status_code == 200
