"""Gateways that post events and do not give up, and the reckoning of what became of their events.

Each gateway is a thread with one connection. It notes every event before it sends it and every
answer when it has one (``tests.acks``), and sends what has no final answer again under the same id.
What the books should then hold is known beforehand, by arithmetic of our own.
"""

import http.client
import json
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from core import ids
from tests.acks import DOUBTFUL, KEPT, AckLog, Answer, Reconciliation, Row, compare
from tests.books import Books
from tests.orgs import world
from tests.server import HOST

MODEL = "deepseek-chat"
# What the catalog asks for it, in pico-dollars a token: 0.27, 0.07 and 1.10 USD a million.
INPUT_PICO, CACHED_PICO, OUTPUT_PICO = 270_000, 70_000, 1_100_000
PICO = Decimal(1).scaleb(-12)

BATCH_MAX = 50
ANSWER_SECONDS = 15
PAUSE_SECONDS = (0.01, 0.05)
POLL_SECONDS = 0.002
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


class Delivery(NamedTuple):
    """What goes in one request. ``hang_up``: the gateway is gone before the first answer."""

    events: tuple[Event, ...]
    shape: str
    hang_up: bool = False

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

    def send(self, method: str, path: str, body: bytes | None = None, *, media_type: str = "application/json") -> None:
        """Send a request. Raises ``OSError`` or ``http.client.HTTPException``."""
        self._connection.request(method, path, body, {**self._headers, "Content-Type": media_type})

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
    """A gateway's key, a reader's key of the first organization, and what each organization was given."""

    service_key: str
    reader_key: str
    granted: dict[str, Decimal]


def cast(*, organizations: int) -> Cast:
    """Organizations by slug. Every third has nothing, every third runs dry on the way, the others have plenty."""
    from django.db import transaction

    from billing import grants

    granted, reader_key = {}, ""
    for place in range(organizations):
        made = world.organization(f"traffic-{place:03}")
        amount = (Decimal(1000), Decimal(0), Decimal("0.05"))[place % 3]
        if amount:
            with transaction.atomic():
                grants.promote(organization_id=made.pk, amount_usd=amount, reference="traffic", actor="", reason="")
        granted[made.slug] = amount
        if place == 0:
            reader_key = world.organization_key(made).secret
    return Cast(world.service_key("events:write").secret, reader_key, granted)


def event(chosen: random.Random, *, slug: str, **fields: Any) -> Event:
    """An event that happened now, with counts by chance."""
    tokens, output = chosen.randint(1, 20_000), chosen.randint(0, 4_000)
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


@dataclass(frozen=True)
class Plan:
    """Every event once, and what each gateway delivers."""

    events: list[Event]
    routes: list[list[Delivery]]


def plan(chosen: random.Random, *, slugs: Sequence[str], events: int, gateways: int) -> Plan:
    """Every event is posted by one gateway, a third of them by another one too, at about the same time."""
    everything = [event(chosen, slug=chosen.choice(slugs)) for _ in range(events)]
    parts = [everything[place::gateways] for place in range(gateways)]
    routes = []
    for place, part in enumerate(parts):
        # The neighbour's third, spread like our own events, so both copies of one meet each other.
        others = chosen.sample(parts[place - 1], len(parts[place - 1]) // 3)
        position = {one.id: number for number, one in enumerate(parts[place - 1])}
        both = [(number, 0, one) for number, one in enumerate(part)]
        both += [(position[one.id], 1, one) for one in others]
        both.sort(key=lambda each: each[:2])
        routes.append(deliveries(chosen, [one for _, _, one in both], hang_up=0.01))
    return Plan(everything, routes)


@dataclass
class Traffic:
    """Gateways under way on their routes against a server that may be killed at any time."""

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
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)

    def _run(self, place: int, route: Sequence[Delivery]) -> None:
        caller = Caller(port=self.port, key=self.service_key)
        chosen = random.Random(place)
        try:
            for delivery in route:
                self._deliver(caller, delivery, chosen)
                with self._lock:
                    self.settled += 1
        except Exception as error:  # noqa: BLE001 - raised again by finish()
            self._errors.append(error)
        finally:
            caller.close()

    def _deliver(self, caller: Caller, delivery: Delivery, chosen: random.Random) -> None:
        """Send until every event has its final answer."""
        left = delivery
        while left.events:
            assert time.monotonic() < self._end, f"no final answer for {len(left.events)} events in time"
            try:
                # Nothing is in doubt that was never sent.
                caller.connect()
                numbers = [self.log.intend(one.id, one.text) for one in left.events]
                caller.send("POST", "/v1/events", left.body(), media_type=MEDIA_TYPES[left.shape])
                if left.hang_up:
                    caller.close()
                    left = left._replace(hang_up=False)
                    continue
                reply = caller.read()
            except (OSError, http.client.HTTPException) as error:
                caller.close()
                with self._lock:
                    self.refused_connections += isinstance(error, ConnectionRefusedError)
                time.sleep(chosen.uniform(*PAUSE_SECONDS))
                continue
            with self._lock:
                self.statuses[reply.status] += 1
            left = left._replace(events=self._note(left, numbers, reply))
            if left.events:
                time.sleep(chosen.uniform(*PAUSE_SECONDS))

    def _note(self, delivery: Delivery, numbers: Sequence[int], reply: Reply) -> tuple[Event, ...]:
        """Write the answers down; the events that have no final one."""
        assert reply.status in {200, 201, 503}, f"{reply.status}: {str(reply.body)[:300]}"
        if reply.status == 503:
            assert int(reply.headers["retry-after"]) >= 1
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


@dataclass(frozen=True)
class Reckoning:
    """What the books hold of the traffic, beside what the gateways were told."""

    found: Reconciliation
    acknowledged: int
    in_doubt: int
    in_doubt_kept: int
    lost: int
    doubled: int

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} events acknowledged, {self.in_doubt} in doubt on the way"
            f" ({self.in_doubt_kept} of them had been kept), {self.lost} lost, {self.doubled} doubled"
        )


def reckon(books: Books, cast: Cast, traffic: Traffic) -> Reckoning:
    """Hold the gateways' log against records, claims, transfers and wallets.

    Raises ``AssertionError`` unless each event that was acknowledged is recorded and charged exactly
    once, for what it must cost, and every invariant of the books holds.
    """
    with books.connect() as own:
        records = own.execute("SELECT event_id, id, cost_usd, transfer_id FROM usage_record").fetchall()
        claims = own.execute("SELECT event_id, record_id, cost_usd, state FROM usage_claim").fetchall()
        charges = own.execute("SELECT id, amount_usd FROM transfer WHERE kind = 'charge'").fetchall()
        wallets = own.execute(
            "SELECT o.slug, coalesce(w.posted_usd - w.overdraft_usd, 0), coalesce(w.spent_usd, 0)"
            " FROM organization o LEFT JOIN wallet w ON w.organization_id = o.id WHERE o.slug = ANY(%s)",
            [list(cast.granted)],
        ).fetchall()
    log = traffic.log
    found = compare(log, [Row(row[0], ids.show("usage", row[1]), row[2]) for row in records])
    operations = log.operations()
    acknowledged = log.acknowledged()
    doubtful = {one.id for one in operations if one.final is None}
    created = {one.id for one in operations if one.answer and one.answer.verdict == "created"}
    times = Counter(row[0] for row in records)
    told = Reckoning(
        found=found,
        acknowledged=len(acknowledged),
        in_doubt=len(doubtful),
        # Nobody was ever told that they are new, so that answer was lost after the commit.
        in_doubt_kept=len(doubtful - created),
        lost=len(acknowledged - times.keys()),
        doubled=sum(count > 1 for count in times.values()),
    )
    assert not found.violations, str(found)
    events = traffic.plan.events
    assert acknowledged == {one.id for one in events}
    costs = {one.id: one.cost_pico * PICO for one in events}
    assert {row[0]: row[2] for row in records} == costs
    assert sorted(claims) == sorted((row[0], row[1], row[2], "recorded") for row in records)
    by_transfer: dict[Any, Decimal] = {}
    for _, _, cost, transfer in records:
        by_transfer[transfer] = by_transfer.get(transfer, Decimal(0)) + cost
    assert dict(charges) == by_transfer
    spent = dict.fromkeys(cast.granted, Decimal(0))
    for one in events:
        spent[one.organization] += one.cost_pico * PICO
    assert {slug: (balance, gone) for slug, balance, gone in wallets} == {
        slug: (cast.granted[slug] - gone, gone) for slug, gone in spent.items()
    }
    verify()
    return told


def verify() -> None:
    """Every invariant of the books, as ``manage.py verify`` checks them. Raises ``AssertionError``."""
    from django.db import connection

    from billing import invariants

    # This thread's own session may be among what was killed.
    connection.close()
    assert [finding for finding in invariants.check() if not finding.ok] == []
