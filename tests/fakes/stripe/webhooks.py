"""Signed deliveries of events. Part of the fake Stripe.

Events are posted by a thread of their own, or kept for the test to deliver as it likes: in any
order, again, late, forged. Deliveries are compared by their bytes: a body is what was signed.
"""

import contextlib
import hashlib
import hmac
import http.client
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.state import State

POST_SECONDS = 30.0
# A delivery that is not answered 2xx is tried again; Stripe takes hours where this takes seconds.
RETRY_SECONDS = (0.2, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Delivery:
    """One request to the webhook: the raw body and its ``Stripe-Signature``."""

    event_id: str
    body: bytes
    signature: str

    def with_body(self, body: bytes) -> "Delivery":
        """The same signature over other bytes: a forgery."""
        return replace(self, body=body)


def signature(body: bytes, *, secrets: Iterable[str], at: int) -> str:
    """``t=…,v1=…`` with one v1 for each secret, as during a rotation."""
    signed = b"%d.%s" % (at, body)
    marks = [f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}" for secret in secrets]
    return ",".join([f"t={at}", *marks])


class Webhooks:
    """Where events go. ``url`` None or ``held`` True: nowhere by themselves."""

    def __init__(self, state: State, *, url: str | None, secrets: list[str]) -> None:
        self._state = state
        self.url = url
        self.secrets = secrets
        self.held = url is None
        # Each answer of the webhook: (event id, HTTP status, or 0 when nothing answered).
        self.answers: list[tuple[str, int]] = []
        self._queue: list[str] = []
        self._changed = threading.Condition()
        self._busy = False
        self._ending = False
        self._thread: threading.Thread | None = None

    # By itself

    def on_event(self, event: Json) -> None:
        """Queue a new event, unless events are held."""
        if not self.held:
            with self._changed:
                self._queue.append(event["id"])
                self._changed.notify_all()

    def start(self) -> None:
        """Start the thread that posts."""
        self._thread = threading.Thread(target=self._run, name="fake-stripe-webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(POST_SECONDS)

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until everything queued has been delivered or given up."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._queue and not self._busy, seconds), "still posting"

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._ending)
                if self._ending:
                    return
                event_id = self._queue.pop(0)
                self._busy = True
            for pause in (0.0, *RETRY_SECONDS):
                with self._changed:
                    if self._changed.wait_for(lambda: self._ending, pause):
                        return
                if 200 <= self.post(self.sign(event_id)) < 300:
                    break

    # By the test's hand

    def events(self, *kinds: str) -> list[str]:
        """The ids of all events so far, oldest first; only of these types if named."""
        with self._state.lock:
            return [one["id"] for one in self._state.all("evt") if not kinds or one["type"] in kinds]

    def sign(self, event_id: str, *, secrets: Iterable[str] | None = None, late_seconds: int = 0) -> Delivery:
        """A delivery of an event, signed now; ``late_seconds`` ago if it is late, in the future if negative."""
        with self._state.lock:
            event = self._state.objects[event_id]
            at = self._state.clock.now() - late_seconds
        body = json.dumps(event, indent=2).encode()
        chosen = self.secrets if secrets is None else secrets
        return Delivery(event_id, body, signature(body, secrets=chosen, at=at))

    def post(self, delivery: Delivery, *, url: str | None = None) -> int:
        """Post a delivery and return the HTTP status; 0 if nothing answered."""
        target = url or self.url
        assert target is not None, "this fake has no webhook address"
        parts = urlsplit(target)
        status = 0
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=POST_SECONDS)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request(
                "POST",
                parts.path or "/",
                body=delivery.body,
                headers={
                    "Content-Type": "application/json; charset=utf-8",
                    "Stripe-Signature": delivery.signature,
                    "User-Agent": "Stripe/1.0 (fake)",
                },
            )
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        connection.close()
        self.answers.append((delivery.event_id, status))
        return status

    def deliver(self, *event_ids: str) -> list[int]:
        """Post these events in this order, all events in theirs if none is named; the statuses."""
        return [self.post(self.sign(id)) for id in event_ids or self.events()]
