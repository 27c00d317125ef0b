"""Refused calls in the log of failed requests: which leave a row, what it says, and that a flood leaves few."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError

from billing import charges, wallets
from billing.models import Hold, Wallet
from core import errors
from gateway import refusals
from gateway.refusals import Kept
from metering import verdicts
from metering.models import RequestLog
from orgs import keys, ratelimits
from orgs.models import Kind
from orgs.ratelimits import Limits
from tests import doors
from tests.books import Books
from tests.fakes.upstream import Act, Upstream, wait_for
from tests.gateway import callers
from tests.gateway.callers import HELLO, Calling, House, ask
from tests.journeys.traffic import verify
from tests.orgs import world


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


def rows(of: House) -> list[RequestLog]:
    """The log of an organization, once all that waits is written."""
    asyncio.run_coroutine_threadsafe(refusals.drain(), doors._loop()).result(doors.SECONDS)
    return list(RequestLog.objects.filter(organization=of.organization).order_by("id"))


def told(row: RequestLog) -> tuple[Any, ...]:
    return row.status, row.metadata["code"], row.model, row.endpoint, row.stream


def test_what_is_refused_before_its_hold_is_in_the_log_at_no_cost(acme: House, fake: Upstream) -> None:
    chat, responses = callers.PATH, "/v1/responses"
    secret = acme.keys["organization"].secret
    said = {"model": "deepseek-chat", "input": "hello"}
    acme.keys["narrow"] = keys.issue(
        kind=Kind.ORGANIZATION, name="narrow", by=world.BY, organization=acme.organization, models=["gpt-4o"]
    )
    codes = [
        ask(acme, {**HELLO, "model": "no-such"}, x_request_id="mine-1").code,
        ask(acme, {**HELLO, "temperature": 3, "stream": True}).code,
        ask(acme, b"{not json").code,
        ask(acme, {**HELLO, "model": secret}).code,
        ask(acme, {**said, "model": "no-such"}, path=responses).code,
        ask(acme, {**said, "background": True}, path=responses).code,
        ask(acme, {**HELLO, "model": "gpt-4o-mini"}).code,
        ask(acme, key="narrow").code,
    ]
    wallets.freeze(organization_id=acme.organization.pk, reason="try", by=world.BY)
    codes.append(ask(acme, {**HELLO, "stream": True}).code)
    codes.append(ask(acme, said, path=responses).code)
    ratelimits.put(subject=acme.keys["narrow"].key, limits=Limits(requests=1), by=world.BY)
    codes += [ask(acme, {**HELLO, "model": "gpt-4o"}, key="narrow").code for _ in range(2)]
    # Whose it would be is not known.
    assert Calling("dtk_nobody", HELLO).wait().code == (401, "invalid_api_key")
    found = rows(acme)
    assert [told(row) for row in found] == [
        (400, "model_not_found", "no-such", chat, None),
        (422, "value_out_of_range", "deepseek-chat", chat, True),
        (400, "invalid_json", "unknown", chat, None),
        (400, "model_not_found", "unknown", chat, None),
        (400, "model_not_found", "no-such", responses, None),
        (400, "unsupported_parameter", "deepseek-chat", responses, None),
        (503, "no_available_channel", "gpt-4o-mini", chat, False),
        (403, "model_not_allowed", "deepseek-chat", chat, False),
        (402, "org_wallet_empty", "deepseek-chat", chat, True),
        (402, "org_wallet_empty", "deepseek-chat", responses, False),
        (402, "org_wallet_empty", "gpt-4o", chat, False),
        (429, "rate_limit_exceeded", "gpt-4o", chat, False),
    ]
    assert [(row.status, row.metadata["code"]) for row in found] == codes
    assert found[0].request_id == "mine-1"
    assert {row.api_key_id for row in found} == {each.key.pk for each in acme.keys.values()}
    assert RequestLog.objects.count() == len(found)
    assert not acme.records
    assert Hold.objects.count() == 0
    wallet = Wallet.objects.get(pk=acme.organization.pk)
    assert (wallet.posted_usd, wallet.held_usd) == (10, 0)
    assert not fake.bodies
    verify()


def test_a_flood_of_refusals_is_a_few_rows_that_say_how_many(acme: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "EACH_A_MINUTE", 3)
    minute = itertools.chain([7] * 51, [8])
    monkeypatch.setattr(refusals, "_minute", lambda at: next(minute))
    for _ in range(50):
        assert ask(acme, {**HELLO, "model": "no-such"}).code == (400, "model_not_found")
    assert ask(acme, {**HELLO, "n": 0}).code == (422, "value_out_of_range")
    assert [(row.status, row.metadata.get("also_refused")) for row in rows(acme)] == [(400, None)] * 3 + [(422, None)]
    ask(acme, {**HELLO, "model": "no-such"})
    assert rows(acme)[-1].metadata == {"code": "model_not_found", "also_refused": "47"}


def test_rows_are_bounded_by_key_by_process_and_by_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "EACH_A_MINUTE", 2)
    monkeypatch.setattr(refusals, "ALL_A_MINUTE", 5)
    monkeypatch.setattr(refusals, "KINDS_MAX", 3)
    one, two, three = (UUID(int=number) for number in (1, 2, 3))
    kept = Kept()

    def enter(key: UUID, code: str = "a", *, minute: int = 1, has_room: bool = True) -> int | None:
        return kept.enter(key, code, minute=minute, has_room=has_room)

    assert [enter(one) for _ in range(4)] == [0, 0, None, None]
    assert [enter(one, "b"), enter(two), enter(two)] == [0, 0, 0]
    assert [enter(three), enter(three, "b"), enter(three, "c")] == [None] * 3
    assert enter(one, minute=2, has_room=False) is None
    assert [enter(one, minute=2), enter(one, minute=2), enter(three, minute=2)] == [3, 0, 1]
    # Of the kind that was one too many nothing is known.
    assert enter(three, "c", minute=2) == 0


def test_a_database_that_is_away_keeps_nobody_waiting_and_has_the_rows_afterwards(
    acme: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "WRITE_SECONDS", 0)
    monkeypatch.setattr(refusals, "AGAIN_SECONDS", 0)
    tried = []
    really = refusals.write

    def write(some: Any) -> None:
        tried.append(len(some))
        if len(tried) < 3:
            raise OperationalError("the server closed the connection")
        really(some)

    monkeypatch.setattr(refusals, "write", write)
    assert ask(acme, {**HELLO, "model": "no-such"}).code == (400, "model_not_found")
    wait_for(lambda: RequestLog.objects.filter(organization=acme.organization).exists())
    assert len(tried) == 3
    # For ever it is not tried.
    monkeypatch.setattr(refusals, "TRIES_MAX", 2)
    tried.clear()

    def fail(some: Any) -> None:
        tried.append(len(some))
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(refusals, "write", fail)
    assert ask(acme, {**HELLO, "model": "no-such"}).code == (400, "model_not_found")
    wait_for(lambda: not refusals._waiting and len(tried) == 3)


def test_what_could_not_be_written_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charges, "record", lambda items, **_: [verdicts.failed("refused-1")])
    with pytest.raises(errors.Unavailable):
        refusals.write([])


def test_what_was_written_as_the_process_stopped_is_not_asked_for_again(
    acme: House, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(acme, {**HELLO, "model": "no-such"}).code == (400, "model_not_found")
    # Written before the pause is over after which it would have been.
    assert len(rows(acme)) == 1

    async def over() -> None:
        assert refusals._writing is not None
        await refusals._writing

    asyncio.run_coroutine_threadsafe(over(), doors._loop()).result(doors.SECONDS)
    assert [record for record in caplog.records if record.name == "gateway.refusals"] == []
    assert len(rows(acme)) == 1
