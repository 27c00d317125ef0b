"""A gateway that never hears our answer and sends again (I03): one record, one debit, the first answer's content."""

import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import partial
from typing import Any

from core import ids
from tests.acks import KEPT, AckLog, Answer, Row, compare
from tests.billing.world import assert_sound, organization, rows, standing
from tests.books import Books
from tests.metering.world import COST, told
from tests.orgs import world
from tests.proofs import proves
from tests.server import HOST, WebServer

GATEWAYS = 3
DELIVERIES = 8
EVENTS = 5
TRIES_MAX = 200
BYTES = 65_536


class Relay:
    """Between gateways and the server: passes every request on, and now and then loses the answer.

    ``late``: the server has answered, which it does only after its commit. ``early``: the server
    has the request and the gateway is gone.
    """

    def __init__(self, *, port: int, seed: int) -> None:
        self._server = port
        self._chance = random.Random(seed)
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.done: Counter[str] = Counter()

    @contextmanager
    def running(self) -> Iterator["Relay"]:
        """Relaying until the end of the block."""
        accepting = threading.Thread(target=self._accept, daemon=True)
        accepting.start()
        try:
            yield self
        finally:
            # Closing alone does not wake a thread that accepts.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            accepting.join(5)

    def _accept(self) -> None:
        while True:
            try:
                gateway, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(gateway,), daemon=True).start()

    def _carry(self, gateway: socket.socket) -> None:
        fate = self._chance.choice(["pass", "late", "late", "early"])
        with gateway, suppress(OSError), socket.create_connection((HOST, self._server), timeout=20) as server:
            server.sendall(_request(gateway))
            if fate == "early":
                gateway.close()
            # The server's answer ends with its connection; reading it is knowing that the commit is done.
            answer = b"".join(iter(lambda: server.recv(BYTES), b""))
            if fate == "pass":
                gateway.sendall(answer)
            self.done[fate] += 1


def _request(gateway: socket.socket) -> bytes:
    """A whole request, by its Content-Length."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += gateway.recv(BYTES)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += gateway.recv(BYTES)
    return head + b"\r\n\r\n" + body


def deliver(port: int, key: str, log: AckLog, number: int) -> None:
    """Post batches and repeat each until it is answered, noting every try."""
    for delivery in range(DELIVERIES):
        events = [told(event_id=f"g{number}-{delivery}-{n}", organization="acme") for n in range(EVENTS)]
        body = json.dumps(events).encode()
        for _ in range(TRIES_MAX):
            noted = [log.intend(event["event_id"], body.decode()) for event in events]
            answer = post(port, key, body)
            if answer is not None:
                for place, verdict in zip(noted, answer["data"], strict=True):
                    log.acknowledge(place, understood(verdict))
                break
            time.sleep(0.01)
        else:
            raise AssertionError(f"no answer in {TRIES_MAX} tries")


def post(port: int, key: str, body: bytes) -> dict[str, Any] | None:
    """The answer to one try, None if it got lost."""
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Connection": "close"}
    try:
        connection.request("POST", "/v1/events", body, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    assert answer.status == 200, text
    found: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return found


def understood(verdict: dict[str, Any]) -> Answer:
    return Answer(verdict["status"], verdict.get("usage_record_id"), verdict.get("cost_usd"))


@proves("I03", guard="event_ids_are_claimed")
def test_a_gateway_that_repeats_until_it_is_answered_is_charged_once_and_told_the_first_answer(
    books: Books, server: WebServer
) -> None:
    acme = organization("acme", usd="1")
    key = world.service_key().secret
    log = AckLog()
    with Relay(port=server.port, seed=7).running() as relay:
        books.together([partial(deliver, relay.port, key, log, number) for number in range(GATEWAYS)])
        # What was given up early is finished before the books are read.
        end = time.monotonic() + 10
        while sum(relay.done.values()) < len(log.operations()) // EVENTS and time.monotonic() < end:
            time.sleep(0.02)
    kept = rows("SELECT event_id, id, cost_usd FROM usage_record")
    found = compare(log, [Row(event_id, ids.show("usage", record_id), cost) for event_id, record_id, cost in kept])
    assert found.violations == [], found
    assert found.in_doubt == 0
    assert min(relay.done["late"], relay.done["early"], relay.done["pass"]) > 0, "the relay lost nothing"
    verdicts = Counter(op.answer.verdict for op in log.operations() if op.answer)
    assert verdicts.keys() <= KEPT
    assert verdicts["duplicate"] > 0, "no answer was lost after its commit"
    assert len(kept) == found.events == GATEWAYS * DELIVERIES * EVENTS
    assert standing(acme).spent == len(kept) * Decimal(COST)
    assert_sound()
