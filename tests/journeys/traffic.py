"""Gateways that post events and do not give up, and the reckoning of what became of their events and holds.

Each gateway is a thread with one connection. It notes every event, hold and release before it sends
it and every answer when it has one (``tests.acks``), and sends what has no final answer again under
the same id. For some requests it has money set aside first; of these holds some are captured by
their event, some are given up, some are forgotten. What the books should then hold is known
beforehand, by arithmetic of our own.
"""

import http.client
import json
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Any, Literal, NamedTuple
from uuid import UUID

import psycopg

from core import ids
from tests.acks import DOUBTFUL, KEPT, AckLog, Answer, Reconciliation, Row, compare
from tests.books import Books
from tests.orgs import world
from tests.server import HOST

MODEL = "deepseek-chat"
# What the catalog asks for it, in pico-dollars a token: 0.27, 0.07 and 1.10 USD a million.
INPUT_PICO, CACHED_PICO, OUTPUT_PICO = 270_000, 70_000, 1_100_000
PICO = Decimal(1).scaleb(-12)
PLENTY = Decimal(1000)

BATCH_MAX = 50
# How many of a gateway's own events have a hold where there is plenty, and where there is not, which is mostly refused.
HELD, HELD_OF_LITTLE = 0.25, 0.03
# How many requests give a hold up, and how many forget one.
RELEASED, FORGOTTEN = 0.25, 0.25
# A hold is known by its cap: no event has more output than this, and each hold's cap is its number more.
OUTPUT_MAX = 4_000
FORGOTTEN_SECONDS = (1, 2)
SWEPT_SECONDS = 60
End = Literal["captured", "released", "expired"]
ENDS_WITHOUT_EVENT: tuple[tuple[End, float], ...] = (("released", RELEASED), ("expired", FORGOTTEN))
ANSWER_SECONDS = 15
PAUSE_SECONDS = (0.01, 0.05)
POLL_SECONDS = 0.002
SWEEP_POLL_SECONDS = 0.05
MEDIA_TYPES = {
    "single": "application/json",
    "events": "application/json",
    "array": "application/json",
    "ndjson": "application/x-ndjson",
}


def chance() -> random.Random:
    """Chance that is told, and comes back with ``TRAFFIC_SEED`` when a run is to be repeated."""
    number = int(os.environ.get("TRAFFIC_SEED") or secrets.randbelow(1_000_000))
    print(f"TRAFFIC_SEED={number}")
    return random.Random(number)


class Event(NamedTuple):
    """An event as posted: its JSON text, whose it is, what it must cost."""

    id: str
    organization: str
    text: str
    cost_pico: int


class Ask(NamedTuple):
    """A hold as asked for: its number, its JSON text, what it must set aside, how it must end.

    ``event_id``: the event that captures it. ``hang_up``: the gateway is gone before the first answer.
    """

    number: int
    organization: str
    text: str
    amount_pico: int
    end: End
    event_id: str | None
    hang_up: bool

    @property
    def id(self) -> str:
        """What the gateway's log calls it, and its ``Idempotency-Key``."""
        return f"hold-{self.number}"

    @property
    def release_id(self) -> str:
        """What the gateway's log calls its release."""
        return f"release-{self.number}"


class Delivery(NamedTuple):
    """What goes in one request, and the holds before it. ``hang_up``: the gateway is gone before the first answer."""

    events: tuple[Event, ...]
    shape: str
    hang_up: bool = False
    asks: tuple[Ask, ...] = ()

    def body(self) -> bytes:
        """The request's bytes."""
        texts = [event.text for event in self.events]
        if self.shape == "single":
            return texts[0].encode()
        if self.shape == "ndjson":
            return "\n".join(texts).encode()
        array = f"[{','.join(texts)}]"
        return (array if self.shape == "array" else f'{{"events":{array}}}').encode()


class Reply(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: Any


class Caller:
    """A client with one kept connection; a thread has its own."""

    def __init__(self, *, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
        self._headers = {"Authorization": f"Bearer {key}"}

    def connect(self) -> None:
        """Have a connection, the kept one if there is. Raises ``OSError``."""
        if self._connection.sock is None:
            self._connection.connect()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        media_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a request. Raises ``OSError`` or ``http.client.HTTPException``."""
        self._connection.request(
            method, path, body, {**self._headers, "Content-Type": media_type, **(headers or {})}
        )  # fmt: skip

    def read(self) -> Reply:
        """The answer to what was sent last; numbers are exact. Raises like ``send``."""
        answer = self._connection.getresponse()
        raw = answer.read()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        is_json = headers.get("content-type", "").startswith("application/json")
        return Reply(answer.status, headers, json.loads(raw, parse_float=Decimal) if is_json else raw)

    def get(self, path: str) -> Reply:
        """One ``GET``; once more if the server let the kept connection go meanwhile, as clients do."""
        self.send("GET", path)
        try:
            return self.read()
        except http.client.RemoteDisconnected:
            self._connection.close()
            self.send("GET", path)
            return self.read()

    def post(self, body: bytes, *, media_type: str = "application/json") -> Reply:
        """Post events once."""
        self.send("POST", "/v1/events", body, media_type=media_type)
        return self.read()

    def close(self) -> None:
        """Let the connection go; the next request opens another."""
        self._connection.close()


@dataclass(frozen=True)
class Cast:
    """A gateway's key, a reader's key of the first organization, what each organization was given, and its key."""

    service_key: str
    reader_key: str
    granted: dict[str, Decimal]
    keys: dict[str, str]


def cast(*, organizations: int) -> Cast:
    """Organizations by slug. Every third has nothing, every third runs dry on the way, the others have plenty.

    Each has a key with a ceiling that is never reached, so that holds count there too.
    """
    from django.db import transaction

    from billing import budgets, grants

    granted, secrets_of = {}, {}
    for place in range(organizations):
        made = world.organization(f"traffic-{place:03}")
        amount = (PLENTY, Decimal(0), Decimal("0.05"))[place % 3]
        if amount:
            with transaction.atomic():
                grants.promote(organization_id=made.pk, amount_usd=amount, reference="traffic", actor="", reason="")
        granted[made.slug] = amount
        issued = world.organization_key(made)
        secrets_of[made.slug] = issued.secret
        budgets.set_ceiling(
            organization_id=made.pk, subject="key", subject_id=issued.key.pk, window="1d", unit="usd",
            ceiling=Decimal(100_000), by=world.BY,
        )  # fmt: skip
    return Cast(world.service_key().secret, next(iter(secrets_of.values())), granted, secrets_of)


def event(chosen: random.Random, *, slug: str, **fields: Any) -> Event:
    """An event that happened now, with counts by chance."""
    tokens, output = chosen.randint(1, 20_000), chosen.randint(0, OUTPUT_MAX)
    cached = chosen.randint(0, tokens)
    told = {
        "event_id": str(UUID(int=chosen.getrandbits(128), version=4)),
        "occurred_at": int(time.time()),
        "organization": slug,
        "model": MODEL,
        "input_tokens": tokens,
        "cached_input_tokens": cached,
        "output_tokens": output,
        "latency_ms": chosen.randint(1, 9000),
        **fields,
    }
    cost = (
        (told["input_tokens"] - told["cached_input_tokens"]) * INPUT_PICO
        + told["cached_input_tokens"] * CACHED_PICO
        + told["output_tokens"] * OUTPUT_PICO
    )
    return Event(told["event_id"], slug, json.dumps(told), cost)


def deliveries(chosen: random.Random, events: Sequence[Event], *, hang_up: float = 0.0) -> list[Delivery]:
    """The events in requests of one, or of up to ``BATCH_MAX``, in every shape."""
    found: list[Delivery] = []
    start = 0
    while start < len(events):
        size = 1 if chosen.random() < 0.6 else chosen.randint(2, BATCH_MAX)
        part = tuple(events[start : start + size])
        shape = chosen.choice(["single", "single", "events", "array", "ndjson"] if size == 1 else list(MEDIA_TYPES)[1:])
        found.append(Delivery(part, shape, chosen.random() < hang_up))
        start += size
    return found


def ask(
    chosen: random.Random,
    *,
    number: int,
    slug: str,
    key: str,
    end: End,
    event: Event | None = None,
) -> Ask:
    """A hold for an event, or for a request that comes to nothing. Its worst case: all input fresh, all output made."""
    tokens = chosen.randint(1, 20_000) if event is None else json.loads(event.text)["input_tokens"]
    cap = OUTPUT_MAX + number
    told = {"key": key, "organization": slug, "model": MODEL, "input_tokens": tokens, "max_output_tokens": cap}
    if end == "expired":
        told["ttl_seconds"] = chosen.randint(*FORGOTTEN_SECONDS)
    return Ask(
        number, slug, json.dumps(told), tokens * INPUT_PICO + cap * OUTPUT_PICO, end,
        None if event is None else event.id, chosen.random() < 0.15,
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Every event and every hold once, and what each gateway delivers."""

    events: list[Event]
    asks: list[Ask]
    routes: list[list[Delivery]]


def plan(chosen: random.Random, *, cast: Cast, events: int, gateways: int) -> Plan:
    """Every event is posted by one gateway, a third of them by another one too, at about the same time.

    An event with a hold has one gateway: who posts it must know the hold.
    """
    slugs = list(cast.granted)
    rich = [slug for slug in slugs if cast.granted[slug] == PLENTY]
    keys = cast.keys
    everything = [event(chosen, slug=chosen.choice(slugs)) for _ in range(events)]
    parts = [everything[place::gateways] for place in range(gateways)]
    shares = {slug: HELD if slug in rich else HELD_OF_LITTLE for slug in slugs}
    held = [{one.id for one in part if chosen.random() < shares[one.organization]} for part in parts]
    numbers = count(1)
    routes = []
    for place, part in enumerate(parts):
        # The neighbour's third, spread like our own events, so both copies of one meet each other.
        free = [one for one in parts[place - 1] if one.id not in held[place - 1]]
        others = chosen.sample(free, len(free) // 3)
        position = {one.id: number for number, one in enumerate(parts[place - 1])}
        both = [(number, 0, one) for number, one in enumerate(part)]
        both += [(position[one.id], 1, one) for one in others]
        both.sort(key=lambda each: each[:2])
        route = deliveries(chosen, [one for _, _, one in both], hang_up=0.01)
        for at, delivery in enumerate(route):
            asks = [
                ask(
                    chosen,
                    number=next(numbers),
                    slug=one.organization,
                    key=keys[one.organization],
                    end="captured",
                    event=one,
                )
                for one in delivery.events
                if one.id in held[place]
            ]
            for end, share in ENDS_WITHOUT_EVENT:
                if chosen.random() < share:
                    slug = chosen.choice(rich)
                    asks.append(ask(chosen, number=next(numbers), slug=slug, key=keys[slug], end=end))
            route[at] = delivery._replace(asks=tuple(asks))
        routes.append(route)
    return Plan(everything, [one for route in routes for delivery in route for one in delivery.asks], routes)


@dataclass
class Traffic:
    """Gateways under way on their routes against a server that may be killed at any time.

    ``let_pass`` says how far they may go for now; without a word, all the way.
    """

    port: int
    service_key: str
    plan: Plan
    log: AckLog = field(default_factory=AckLog)
    statuses: Counter[int] = field(default_factory=Counter)
    refused_connections: int = 0
    settled: int = 0
    _errors: list[Exception] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gate: threading.Condition = field(default_factory=threading.Condition)
    _pass: float = 1.0
    _end: float = 0.0

    def start(self, *, seconds: float) -> None:
        """Let them go; each gives up, with an error, when that time is over."""
        self._end = time.monotonic() + seconds
        for place, route in enumerate(self.plan.routes):
            work = threading.Thread(target=self._run, args=(place, route), name=f"gateway-{place}", daemon=True)
            self._threads.append(work)
            work.start()

    @property
    def total(self) -> int:
        """Deliveries there are; ``settled`` says how many have their final answers."""
        return sum(map(len, self.plan.routes))

    def over(self) -> bool:
        """Whether no gateway is under way any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def wait_for(self, share: float) -> None:
        """Wait until this share of the deliveries is settled, or nobody is left to settle any."""
        while self.settled < self.total * share and not self.over():
            time.sleep(POLL_SECONDS)

    def let_pass(self, share: float) -> None:
        """Let the gateways go on until this share of the deliveries is settled, and there wait for more."""
        with self._gate:
            self._pass = share
            self._gate.notify_all()

    def finish(self) -> None:
        """Wait for all gateways. Raises ``ExceptionGroup`` of what went wrong with them."""
        for thread in self._threads:
            thread.join(max(0.0, self._end - time.monotonic()) + ANSWER_SECONDS + 5)
        late = [thread.name for thread in self._threads if thread.is_alive()]
        assert not late, f"still under way: {', '.join(late)}"
        if self._errors:
            raise ExceptionGroup(f"{len(self._errors)} gateways failed", self._errors)

    def give_up(self) -> None:
        """Have every gateway stop before its next request."""
        self._end = 0.0
        self.let_pass(1.0)
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)

    def _run(self, place: int, route: Sequence[Delivery]) -> None:
        caller = Caller(port=self.port, key=self.service_key)
        chosen = random.Random(place)
        try:
            for delivery in route:
                with self._gate:
                    self._gate.wait_for(
                        lambda: self.settled < self.total * self._pass, max(0.0, self._end - time.monotonic())
                    )
                self._deliver(caller, delivery, chosen)
                with self._lock:
                    self.settled += 1
        except Exception as error:  # noqa: BLE001 - raised again by finish()
            self._errors.append(error)
        finally:
            caller.close()

    def _deliver(self, caller: Caller, delivery: Delivery, chosen: random.Random) -> None:
        """Have holds, send until every event has its final answer, and give up the holds that are not needed."""
        held = {one.id: self._hold(caller, one, chosen) for one in delivery.asks}
        names = {one.event_id: held[one.id] for one in delivery.asks}
        left = delivery._replace(events=tuple(_naming(one, names.get(one.id)) for one in delivery.events))
        while left.events:
            numbers: list[int] = []

            def send(left: Delivery = left, numbers: list[int] = numbers) -> None:
                numbers += [self.log.intend(one.id, one.text) for one in left.events]
                caller.send("POST", "/v1/events", left.body(), media_type=MEDIA_TYPES[left.shape])

            reply = self._try(caller, send, chosen, hang_up=left.hang_up)
            left = left._replace(hang_up=False)
            if reply is not None:
                left = left._replace(events=self._note(left, numbers, reply))
                if left.events:
                    time.sleep(chosen.uniform(*PAUSE_SECONDS))
        for one in delivery.asks:
            hold_id = held[one.id]
            if one.end == "released" and hold_id is not None:
                self._release(caller, one, hold_id, chosen)

    def _hold(self, caller: Caller, asked: Ask, chosen: random.Random) -> str | None:
        """Ask until there is a final answer; the hold's id, None where no wallet covers it."""
        number, reply = self._insist(
            caller, chosen, id=asked.id, path="/v1/authorizations", text=asked.text, hang_up=asked.hang_up,
            headers={"Idempotency-Key": asked.id},
        )  # fmt: skip
        if reply.status == 402:
            self.log.acknowledge(number, Answer("rejected"))
            return None
        assert reply.status == 201, reply
        assert reply.body["status"] == "approved"
        hold_id: str = reply.body["id"]
        self.log.acknowledge(number, Answer(_verdict(reply), hold_id, reply.body["amount_usd"]))
        return hold_id

    def _release(self, caller: Caller, asked: Ask, hold_id: str, chosen: random.Random) -> None:
        """Give a hold up until it is said to be. Every other time without a key: it is one act all the same."""
        headers = {"X-DeepToken-Org": asked.organization}
        if asked.number % 2:
            headers["Idempotency-Key"] = asked.release_id
        number, reply = self._insist(
            caller, chosen, id=asked.release_id, path=f"/v1/authorizations/{hold_id}/release", headers=headers,
            hang_up=asked.hang_up,
        )  # fmt: skip
        assert reply.status == 200, reply
        assert (reply.body["id"], reply.body["status"]) == (hold_id, "released")
        self.log.acknowledge(number, Answer(_verdict(reply), hold_id, reply.body["amount_usd"]))

    def _insist(
        self,
        caller: Caller,
        chosen: random.Random,
        *,
        id: str,
        path: str,
        headers: dict[str, str],
        text: str = "",
        hang_up: bool,
    ) -> tuple[int, Reply]:
        """Post the same until there is an answer other than "later": the last try's number in the log, and it."""
        while True:
            numbers: list[int] = []

            def send(numbers: list[int] = numbers) -> None:
                numbers.append(self.log.intend(id, text))
                caller.send("POST", path, text.encode() or None, headers=headers)

            reply = self._try(caller, send, chosen, hang_up=hang_up)
            hang_up = False
            if reply is None:
                continue
            # What nobody heard the answer of may still be under way.
            if reply.status != 503 and not (reply.status == 409 and _code(reply) == "idempotency_key_in_use"):
                return numbers[0], reply
            time.sleep(chosen.uniform(*PAUSE_SECONDS))

    def _try(self, caller: Caller, send: Callable[[], None], chosen: random.Random, *, hang_up: bool) -> Reply | None:
        """Send once; the answer, if there is one. Raises ``AssertionError`` when it is too late to try."""
        assert time.monotonic() < self._end, "no final answer in time"
        try:
            # Nothing is in doubt that was never sent.
            caller.connect()
            send()
            if hang_up:
                caller.close()
                return None
            reply = caller.read()
        except (OSError, http.client.HTTPException) as error:
            caller.close()
            with self._lock:
                self.refused_connections += isinstance(error, ConnectionRefusedError)
            time.sleep(chosen.uniform(*PAUSE_SECONDS))
            return None
        with self._lock:
            self.statuses[reply.status] += 1
        if reply.status == 503:
            assert int(reply.headers["retry-after"]) >= 1
        return reply

    def _note(self, delivery: Delivery, numbers: Sequence[int], reply: Reply) -> tuple[Event, ...]:
        """Write the answers down; the events that have no final one."""
        assert reply.status in {200, 201, 503}, f"{reply.status}: {str(reply.body)[:300]}"
        if reply.status == 503 and "status" not in reply.body:
            # Refused as a whole, before or after: as if there had been no answer.
            return delivery.events
        told = [reply.body] if delivery.shape == "single" else reply.body["data"]
        assert [each["event_id"] for each in told] == [one.id for one in delivery.events]
        left = []
        for one, number, each in zip(delivery.events, numbers, told, strict=True):
            assert each["status"] in KEPT | DOUBTFUL, each
            self.log.acknowledge(number, Answer(each["status"], each.get("usage_record_id"), each.get("cost_usd")))
            if each["status"] not in KEPT:
                left.append(one)
        return tuple(left)


def _naming(one: Event, hold_id: str | None) -> Event:
    """The event with the hold that it captures, if it has one."""
    return (
        one if hold_id is None else one._replace(text=json.dumps({**json.loads(one.text), "authorization_id": hold_id}))
    )


def _verdict(reply: Reply) -> str:
    """Whether the answer is the first, or that of an earlier try again."""
    return "duplicate" if "idempotent-replayed" in reply.headers else "created"


def _code(reply: Reply) -> str | None:
    code: str | None = reply.body["error"]["code"]
    return code


@dataclass(frozen=True)
class Reckoning:
    """What the books hold of the traffic, beside what the gateways were told.

    ``held`` says how many holds ended how. Of holds and releases ``held_in_doubt`` were sent without an
    answer on the way, and ``replayed`` answered with what such an earlier try had come to.
    """

    found: Reconciliation
    acknowledged: int
    in_doubt: int
    in_doubt_kept: int
    lost: int
    doubled: int
    held: Counter[str]
    held_in_doubt: int
    replayed: int

    def __str__(self) -> str:
        holds = ", ".join(f"{number} {end}" for end, number in sorted(self.held.items()))
        return (
            f"{self.acknowledged} events acknowledged, {self.in_doubt} in doubt on the way"
            f" ({self.in_doubt_kept} of them had been kept), {self.lost} lost, {self.doubled} doubled;"
            f" holds: {holds}, 0 open; {self.held_in_doubt} of their requests in doubt on the way,"
            f" {self.replayed} answered by what an earlier try had come to"
        )


def kept(own: psycopg.Connection) -> list[Row]:
    """What there is of events, holds and releases, by the ids of the gateways' log."""
    records = own.execute("SELECT event_id, id, cost_usd FROM usage_record").fetchall()
    holds = own.execute("SELECT id, max_output_tokens, amount_usd, state FROM hold").fetchall()
    found = [Row(event_id, ids.show("usage", id), cost) for event_id, id, cost in records]
    for id, cap, amount, state in holds:
        row = Row(f"hold-{cap - OUTPUT_MAX}", ids.show("auth", id), amount)
        found.append(row)
        if state == "released":
            found.append(row._replace(id=f"release-{cap - OUTPUT_MAX}"))
    return found


def await_sweep(books: Books, *, forgotten_too: bool = False) -> None:
    """Wait until the worker has ended every hold whose time is over by now; or until none is open at all.

    Raises ``AssertionError`` if it does not.
    """
    end = time.monotonic() + SWEPT_SECONDS
    open_now = "SELECT count(*) FROM hold WHERE state = 'open' AND (%s OR expires_at < %s)"
    with books.connect() as own:
        now = own.execute("SELECT clock_timestamp()").fetchone()
        assert now is not None
        while True:
            row = own.execute(open_now, [forgotten_too, now[0]]).fetchone()
            assert row is not None
            if not row[0]:
                return
            assert time.monotonic() < end, f"{row[0]} holds are open beyond their end"
            time.sleep(SWEEP_POLL_SECONDS)


def reckon(books: Books, cast: Cast, traffic: Traffic) -> Reckoning:
    """Hold the gateways' log against records, claims, transfers, wallets and holds.

    Raises ``AssertionError`` unless each event that was acknowledged is recorded and charged exactly
    once, for what it must cost, each hold has ended as it must, and every invariant of the books holds.
    """
    log = traffic.log
    operations = log.operations()
    final = {one.id: one.final for one in operations if one.final is not None}
    with books.connect() as own:
        found = compare(log, kept(own))
        assert not found.violations, str(found)
        held = _reckon_holds(own, traffic.plan, final)
        records = own.execute("SELECT event_id, id, cost_usd, transfer_id FROM usage_record").fetchall()
        claims = own.execute("SELECT event_id, record_id, cost_usd, state FROM usage_claim").fetchall()
        charges = own.execute("SELECT id, amount_usd FROM transfer WHERE kind = 'charge'").fetchall()
        wallets = own.execute(
            "SELECT o.slug, coalesce(w.posted_usd - w.overdraft_usd, 0), coalesce(w.spent_usd, 0)"
            " FROM organization o LEFT JOIN wallet w ON w.organization_id = o.id WHERE o.slug = ANY(%s)",
            [list(cast.granted)],
        ).fetchall()
    events = {one.id: one for one in traffic.plan.events}
    acknowledged = log.acknowledged() & events.keys()
    unanswered = {one.id for one in operations if one.final is None}
    doubtful = unanswered & events.keys()
    created = {one.id for one in operations if one.answer and one.answer.verdict == "created"}
    times = Counter(row[0] for row in records)
    told = Reckoning(
        found=found,
        acknowledged=len(acknowledged),
        in_doubt=len(doubtful),
        # Nobody was ever told that they are new, so that answer was lost after the commit.
        in_doubt_kept=len(doubtful - created),
        lost=len(acknowledged - times.keys()),
        doubled=sum(number > 1 for number in times.values()),
        held=held,
        held_in_doubt=len(unanswered - doubtful),
        replayed=sum(final[id].verdict == "duplicate" for id in final.keys() - events.keys()),
    )
    assert acknowledged == events.keys()
    assert {row[0]: row[2] for row in records} == {id: one.cost_pico * PICO for id, one in events.items()}
    assert sorted(claims) == sorted((row[0], row[1], row[2], "recorded") for row in records)
    by_transfer: dict[Any, Decimal] = {}
    for _, _, cost, transfer in records:
        by_transfer[transfer] = by_transfer.get(transfer, Decimal(0)) + cost
    assert dict(charges) == by_transfer
    spent = dict.fromkeys(cast.granted, Decimal(0))
    for one in events.values():
        spent[one.organization] += one.cost_pico * PICO
    assert {slug: (balance, gone) for slug, balance, gone in wallets} == {
        slug: (cast.granted[slug] - gone, gone) for slug, gone in spent.items()
    }
    verify()
    return told


def _reckon_holds(own: psycopg.Connection, plan: Plan, final: Mapping[str, Answer]) -> Counter[str]:
    """How many holds ended how. Raises ``AssertionError`` unless each did as it must and nothing is set aside."""
    placed = [one for one in plan.asks if final[one.id].verdict in KEPT]
    assert {one.release_id for one in placed if one.end == "released"} == {
        id for id in final if id.startswith("release-")
    }
    ended = own.execute(
        "SELECT h.max_output_tokens, o.slug, h.amount_usd, h.state, r.event_id,"
        " h.settled_at >= h.expires_at OR h.state <> 'expired'"
        " FROM hold h JOIN organization o ON o.id = h.organization_id"
        " LEFT JOIN usage_record r ON r.organization_id = h.organization_id AND r.id = h.record_id"
    ).fetchall()
    # Open holds, and ones that nobody was told of, are none of these.
    assert sorted(ended) == sorted(
        (OUTPUT_MAX + one.number, one.organization, one.amount_pico * PICO, one.end, one.event_id, True)
        for one in placed
    )
    named = own.execute("SELECT event_id FROM usage_record WHERE authorization_id IS NOT NULL").fetchall()
    assert {row[0] for row in named} == {one.event_id for one in placed if one.event_id is not None}
    left = own.execute(
        "SELECT (SELECT count(*) FROM wallet WHERE held_usd <> 0), (SELECT count(*) FROM budget WHERE held <> 0)"
    )
    assert left.fetchone() == (0, 0)
    ends: Counter[str] = Counter(one.end for one in placed)
    ends["refused"] = len(plan.asks) - len(placed)
    return ends


def verify() -> None:
    """Every invariant of the books, as ``manage.py verify`` checks them. Raises ``AssertionError``."""
    from django.db import connection

    from billing import invariants

    # This thread's own session may be among what was killed.
    connection.close()
    assert [finding for finding in invariants.check() if not finding.ok] == []
