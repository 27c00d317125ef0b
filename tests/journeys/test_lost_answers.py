"""A gateway that never hears our answer and sends again (I03): one record, one debit, the first answer's content."""

import http.client
import json
import random
import time
from collections import Counter
from decimal import Decimal
from functools import partial
from typing import Any

from core import ids
from tests.acks import KEPT, AckLog, Answer, Row, compare
from tests.billing.world import assert_sound, organization, rows, standing
from tests.books import Books
from tests.chaos import Chaos, Fault, Speaker, cut
from tests.metering.world import COST, told
from tests.orgs import world
from tests.proofs import proves
from tests.server import HOST, WebServer

GATEWAYS = 3
DELIVERIES = 8
EVENTS = 5
TRIES_MAX = 200


class Fates:
    """What becomes of each connection, by chance: it passes, or the gateway never hears the answer.

    ``late``: the server has answered, which it does only after its commit. ``early``: the server has
    the request and the gateway is gone.
    """

    def __init__(self, *, seed: int) -> None:
        self._chance = random.Random(seed)
        self.met: Counter[str] = Counter()

    def __call__(self, _: int) -> Fault | None:
        """The fault of the next connection."""
        fate = self._chance.choice(["pass", "late", "late", "early"])
        self.met[fate] += 1
        # The last bytes of a body are those of its array.
        faults = {"late": cut(Speaker.SERVER), "early": cut(Speaker.CLIENT, at=b"}]", forward=True)}
        return faults.get(fate)


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
    fates = Fates(seed=7)
    with Chaos((HOST, server.port), choose=fates) as proxy:
        books.together([partial(deliver, proxy.port, key, log, number) for number in range(GATEWAYS)])
    kept = rows("SELECT event_id, id, cost_usd FROM usage_record")
    found = compare(log, [Row(event_id, ids.show("usage", record_id), cost) for event_id, record_id, cost in kept])
    assert found.violations == [], found
    assert found.in_doubt == 0
    assert min(fates.met["late"], fates.met["early"], fates.met["pass"]) > 0, "nothing was lost"
    verdicts = Counter(op.answer.verdict for op in log.operations() if op.answer)
    assert verdicts.keys() <= KEPT
    assert verdicts["duplicate"] > 0, "no answer was lost after its commit"
    assert len(kept) == found.events == GATEWAYS * DELIVERIES * EVENTS
    assert standing(acme).spent == len(kept) * Decimal(COST)
    assert_sound()
