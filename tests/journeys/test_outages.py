"""The connection to the database breaks at its worst moment, none is free, or a dead client holds a lock."""

import http.client
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core import ids
from tests.acks import DOUBTFUL, AckLog, Answer, Row, compare
from tests.billing import acts, world
from tests.books import Books
from tests.chaos import Chaos, Fault, Speaker, cut, nothing, socket_of
from tests.journeys import traffic
from tests.journeys.traffic import Caller, Reply
from tests.metering.world import COST, event, told
from tests.nursery import Nursery, wait_until_stopped
from tests.orgs import world as people
from tests.proofs import proves
from tests.server import running

USD = Decimal(COST)


def fault(moment: str) -> Fault:
    """The connection breaks once: before PostgreSQL hears COMMIT, when it has, or when it has done it."""
    if moment == "before":
        return cut(Speaker.CLIENT, at=b"COMMIT\0", times=1)
    if moment == "during":
        return cut(Speaker.CLIENT, at=b"COMMIT\0", forward=True, times=1)
    return cut(Speaker.SERVER, at=b"COMMIT\0", times=1)


# What the repeat of an event may be told then.
AGAIN = {"before": {"created"}, "during": {"created", "duplicate"}, "after": {"duplicate"}}


@proves("D07", guard="event_ids_are_claimed")
def test_a_commit_whose_outcome_is_unknown_is_never_a_failure_for_certain_and_its_repeat_is_harmless(
    books: Books, tmp_path: Path, disabled_guard: str | None
) -> None:
    acme = world.organization("acme", usd="1")
    key = people.service_key().secret
    log = AckLog(tmp_path / "acks")
    with (
        Chaos(socket_of(books.url)) as proxy,
        running(folder=tmp_path, url=proxy.database_url(books.url), without=disabled_guard, WEB_WORKERS="1") as server,
        closing(Caller(port=server.port, key=key)) as caller,
    ):
        for moment in ("after", "before", "during"):
            for count in (1, 3):
                events = [told(event_id=f"{moment}-{count}-{n}", organization="acme") for n in range(count)]
                proxy.fault = fault(moment)
                first = send(caller, log, events)
                # Whether it is written nobody can say, and nobody does.
                assert set(first) <= DOUBTFUL, moment
                proxy.fault = nothing
                again = send(caller, log, events)
                assert set(again) <= AGAIN[moment], moment
                assert set(send(caller, log, events)) == {"duplicate"}
    assert proxy.links > 6
    log.close()
    found = world.rows("SELECT event_id, id, cost_usd FROM usage_record")
    held = compare(AckLog.read(tmp_path / "acks"), [Row(name, ids.show("usage", id), cost) for name, id, cost in found])
    assert held.violations == []
    # Three times one event and three.
    assert (held.events, held.in_doubt, len(found)) == (12, 0, 12)
    assert world.standing(acme).spent == 12 * USD
    world.assert_sound()


def send(caller: Caller, log: AckLog, events: list[dict[str, Any]]) -> list[str]:
    """Post events, one alone or several together, and note what is said; the verdicts' words."""
    numbers = [log.intend(one["event_id"]) for one in events]
    reply = caller.post(json.dumps(events[0] if len(events) == 1 else events).encode())
    verdicts = [reply.body] if len(events) == 1 else reply.body["data"]
    for number, verdict in zip(numbers, verdicts, strict=True):
        log.acknowledge(number, Answer(verdict["status"], verdict.get("usage_record_id"), verdict.get("cost_usd")))
        if verdict["status"] in DOUBTFUL:
            assert verdict["error"]["code"] == "unavailable"
            # It does not claim to know.
            assert "not certain" in verdict["error"]["message"]
    if len(events) == 1 and verdicts[0]["status"] in DOUBTFUL:
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    return [verdict["status"] for verdict in verdicts]


def test_a_void_whose_commit_is_cut_is_put_off_and_its_repeat_is_the_same_void(books: Books, tmp_path: Path) -> None:
    acme = world.organization("acme", usd="1")
    key = people.service_key().secret
    for moment in AGAIN:
        world.charge(acme, event(event_id=moment))
    with (
        Chaos(socket_of(books.url)) as proxy,
        running(folder=tmp_path, url=proxy.database_url(books.url), WEB_WORKERS="1") as server,
        closing(Caller(port=server.port, key=key)) as caller,
    ):
        for moment in AGAIN:
            proxy.fault = fault(moment)
            first = void(caller, moment)
            assert (first.status, first.headers["retry-after"]) == (503, "1")
            proxy.fault = nothing
            # 201 if it is new, 200 if it was done before.
            again = void(caller, moment)
            assert again.status in {"before": {201}, "during": {200, 201}, "after": {200}}[moment]
            assert void(caller, moment).body["usage_record_id"] == again.body["usage_record_id"]
    assert world.standing(acme)[:3] == (Decimal(1), Decimal(0), Decimal(0))
    assert Counter(kind for kind, _ in world.ledger(acme)) == {"grant": 1, "charge": 3, "void": 3}
    world.assert_sound()


def void(caller: Caller, event_id: str) -> Reply:
    """Void an event once."""
    body = json.dumps({"reason": "a test", "organization": "acme"}).encode()
    caller.send("POST", f"/v1/events/{event_id}/void", body)
    return caller.read()


CLIENTS = 10
GIVE_UP_SECONDS = 6


@contextmanager
def locked(books: Books, slug: str) -> Iterator[None]:
    """Somebody holds an organization's wallet."""
    with books.connect() as raw, raw.transaction():
        held = raw.execute(
            "SELECT 1 FROM wallet WHERE organization_id = (SELECT id FROM organization WHERE slug = %s)"
            " FOR NO KEY UPDATE",
            [slug],
        ).fetchall()
        assert len(held) == 1
        yield


def wait_for(books: Books, query: str, *, seconds: float) -> bool:
    """Wait until a query about sessions finds something; whether it did in time."""
    end = time.monotonic() + seconds
    with books.connect() as raw:
        while not raw.execute(query).fetchone():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
    return True


WAITS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@proves("D04", guard="a_pool_is_waited_for_briefly")
def test_when_no_connection_is_free_who_needs_one_is_put_off_and_the_rest_goes_on(
    books: Books, tmp_path: Path, disabled_guard: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "ANSWER_SECONDS", GIVE_UP_SECONDS)
    acme, umbrella = world.organization("acme", usd="1"), world.organization("umbrella", usd="1")
    gateway, reader = people.service_key().secret, people.organization_key(acme).secret

    def ask(path: str) -> tuple[int, bool] | None:
        with closing(Caller(port=server.port, key=reader)) as caller:
            try:
                reply = caller.get(path)
            except (OSError, http.client.HTTPException):
                return None
        return reply.status, int(reply.headers.get("retry-after", "0")) >= 1

    with (
        running(
            folder=tmp_path, url=books.url, without=disabled_guard,
            WEB_WORKERS="1", DATABASE_POOL_MAX="1", LOCK_TIMEOUT_MS="20000", STATEMENT_TIMEOUT_MS="20000",
        ) as server,
        closing(Caller(port=server.port, key=gateway)) as holder,
    ):  # fmt: skip
        with locked(books, "acme"):
            # The one connection there is waits for a wallet.
            holder.send("POST", "/v1/events", json.dumps(told(organization="acme")).encode())
            assert wait_for(books, WAITS, seconds=GIVE_UP_SECONDS)
            answers = books.together([partial(ask, "/v1/usage")] * CLIENTS + [partial(ask, "/healthz")])
            assert answers[:-1] == [(503, True)] * CLIENTS
            assert answers[-1] == (200, False)
            # Other processes have connections of their own.
            assert world.statuses(world.charge(umbrella, event())) == ["created"]
        assert holder.read().status == 201
        assert ask("/v1/usage") == (200, False)
    world.assert_sound()


IDLE_MS, LOCK_MS = 3_000, 100
ZOMBIE = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"


@proves("W19", guard="idle_transactions_are_ended")
@proves("W19", guard="locks_are_waited_for_briefly")
def test_a_client_that_stops_in_its_transaction_keeps_others_waiting_for_seconds_only(
    books: Books, nursery: Nursery, disabled_guard: str | None
) -> None:
    acme = world.organization("acme", usd="1")
    chosen = {"IDLE_IN_TRANSACTION_TIMEOUT_MS": IDLE_MS, "LOCK_TIMEOUT_MS": LOCK_MS}
    call = partial(nursery.start, "tests.billing.acts:charge_one", settings=chosen, without=disabled_guard, slug="acme")
    zombie = call(event_id="zombie", stops_at="charge.before_commit")
    try:
        wait_until_stopped(zombie)
        # Whoever needs the wallet meanwhile is put off, and not for ever.
        assert nursery.wait(call(event_id="other")).result == "failed"
        gone = "SELECT 1 WHERE NOT EXISTS (" + ZOMBIE + ")"
        assert wait_for(books, gone, seconds=2 * IDLE_MS / 1000), "the zombie's transaction is still open"
        assert nursery.wait(call(event_id="other")).result == "created"
    finally:
        os.kill(zombie, signal.SIGCONT)
        woken = nursery.wait(zombie)
    # It finds its session ended, and nothing of its transaction stayed.
    assert woken.result == "failed", woken
    assert world.standing(acme).spent == USD
    assert acts.charge_one("acme", "zombie") == "created"
    assert world.standing(acme).spent == 2 * USD
    world.assert_sound()
