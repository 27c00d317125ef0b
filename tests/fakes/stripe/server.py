"""HTTP in front of the fake Stripe: its API below /v1, its pages below /fake."""

import contextlib
import json
import re
import socket
import struct
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.fakes.stripe import calls, money, pages, sessions, wire
from tests.fakes.stripe.errors import Invalid, Refusal
from tests.fakes.stripe.faults import Fault, Faults, Kind
from tests.fakes.stripe.keys import Keys
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.state import API_VERSION, State
from tests.fakes.stripe.webhooks import Webhooks

HOST = "127.0.0.1"
BODY_BYTES_MAX = 1024 * 1024
API_KEY = "sk_test_fake_for_development"
SECRET = "whsec_fake_for_development"


@dataclass(frozen=True)
class Seen:
    """A request to the API as it came in, for a test to look at."""

    method: str
    path: str
    key: str
    params: Json


@dataclass(frozen=True)
class Answer:
    """What goes back: status, body, headers."""

    status: int
    body: bytes
    headers: dict[str, str]


class Reset(Exception):
    """The connection is to be cut."""


class Held(Exception):
    """The call was carried out and its answer is not to be sent."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("no answer")
        self.fault = fault


class StripeFake:
    """A fake Stripe on a loopback port, with its controls.

    ``webhook``: where events are posted by themselves; without it, or with ``held``, they wait for
    ``webhooks.deliver`` and its kin. ``secret``: the webhook's, several separated by commas during a rotation.
    ``keep``: a file that everything but the idempotency keys outlives a restart in.
    """

    def __init__(
        self,
        *,
        webhook: str | None = None,
        secret: str = SECRET,
        api_key: str = API_KEY,
        port: int = 0,
        seed: int | None = None,
        livemode: bool = False,
        held: bool = False,
        keep: Path | None = None,
    ) -> None:
        self.secret = secret
        self.api_key = api_key
        self.state = State(livemode=livemode, seed=seed)
        self.webhooks = Webhooks(self.state, url=webhook, secrets=[one.strip() for one in secret.split(",")])
        self.webhooks.held = held or webhook is None
        self.state.on_event = self.webhooks.on_event
        self.faults = Faults()
        # Every request to /v1 that had the right API key, in order.
        self.requests: list[Seen] = []
        self._keys = Keys(self.state.clock)
        self._port = port
        self._keep = keep
        if keep is not None:
            self.state.bring_back(keep)
        self._server: _Server | None = None
        self._thread: Thread | None = None

    # Life

    def start(self) -> Self:
        """Listen, and post webhooks."""
        self._server = _Server((HOST, self._port), self)
        self.state.base_url = self.base_url
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="fake-stripe", daemon=True)
        self._thread.start()
        self.webhooks.start()
        return self

    def stop(self) -> None:
        """Let go whoever waits, close every connection, end the threads."""
        self.faults.clear()
        self.webhooks.stop()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.cut_all()
            server.server_close()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Where the API is: what ``StripeClient(base_addresses={"api": …})`` takes."""
        assert self._server is not None, "the fake is not running"
        return f"http://{HOST}:{self._server.server_address[1]}"

    def save(self) -> None:
        """Write the file to ``keep``, if there is one."""
        if self._keep is not None:
            with self.state.lock:
                self.state.keep(self._keep)

    # Controls

    def fail(
        self,
        kind: Kind,
        method: str,
        path: str,
        *,
        times: int = 1,
        committed: bool = False,
        seconds: float = 0.0,
    ) -> Fault:
        """Break the next calls of a method and path (a regular expression over the whole path); see ``Fault``."""
        return self.faults.add(Fault(kind, method, re.compile(path), times=times, committed=committed, seconds=seconds))

    def move_clock(self, by: timedelta) -> None:
        """Let time pass at Stripe: keys are forgotten, sessions expire, funds become available."""
        with self.state.lock:
            self.state.clock.move(by)

    @contextlib.contextmanager
    def _acting(self) -> Iterator[State]:
        """Something that no request of ours caused."""
        with self.state.lock:
            before, self.state.request = self.state.request, {"id": None, "idempotency_key": None}
            try:
                yield self.state
            finally:
                self.state.request = before

    def save_card(self, customer: str, number: str = "4242424242424242", *, default: bool = False) -> str:
        """A card of a customer, set up for payments without them; its payment method's id."""
        with self._acting() as state:
            method = money.new_card(state, number)
            money.attach(state, method, state.get(customer, "cus"))
            state.aside[method["id"]]["set_up"] = True
            if default:
                settings = {"invoice_settings": {"default_payment_method": method["id"]}}
                money.update_customer(state, state.get(customer, "cus"), settings)
            return str(method["id"])

    def pay(self, session: str, number: str = "4242424242424242", *, passes: bool = True) -> Json:
        """A person pays (or saves a card) on a session's page; ``passes``: 3-D Secure, if asked for.

        The session afterwards. Raises ``Refusal`` (402) where the page would show that the card was declined.
        """
        with self._acting() as state:
            found = state.get(session, "cs")
            try:
                sessions.pay(state, found, number)
            except sessions.NeedsPerson:
                if passes:
                    sessions.pay(state, found, number, authenticated=True)
                else:
                    sessions.refuse(state, found)
            return state.answer(found, None)

    def authenticate(self, intent: str, *, passed: bool = True) -> Json:
        """A person passes 3-D Secure for a payment that waits for it, or fails. Raises ``Refusal`` (402)."""
        with self._acting() as state:
            return state.answer(money.authenticate(state, state.get(intent, "pi"), passed=passed), None)

    def expire_session(self, session: str) -> None:
        """Close an open page, as its time does."""
        with self._acting() as state:
            sessions.expire(state, state.get(session, "cs"))

    def refund(self, intent: str, amount: int | None = None) -> Json:
        """A refund made in Stripe's dashboard, in cents; all that is left without ``amount``."""
        with self._acting() as state:
            params: Json = {"payment_intent": intent} | ({} if amount is None else {"amount": amount})
            return state.answer(money.new_refund(state, params), None)

    def settle_charges(self) -> int:
        """Stripe says what it kept of the charges that waited for it (``state.balance_waits`` makes them wait)."""
        with self._acting() as state:
            return money.settle_charges(state)

    def settle_refund(self, refund: str) -> None:
        """A refund that waited arrives (``state.refunds_wait`` makes them wait)."""
        with self._acting() as state:
            money.settle_refund(state, state.get(refund, "re"))

    def fail_refund(self, refund: str, *, reason: str = "expired_or_canceled_card") -> None:
        """The bank sends a refund back."""
        with self._acting() as state:
            money.fail_refund(state, state.get(refund, "re"), reason=reason)

    def open_dispute(
        self, intent: str, *, amount: int | None = None, reason: str = "fraudulent", inquiry: bool = False
    ) -> str:
        """The bank disputes a payment; the dispute's id."""
        with self._acting() as state:
            taken = state.objects[state.get(intent, "pi")["latest_charge"]]
            made = money.open_dispute(state, taken, amount=amount, reason=reason, inquiry=inquiry)
            return str(made["id"])

    def escalate_dispute(self, dispute: str) -> None:
        """An inquiry becomes a dispute that takes the money."""
        with self._acting() as state:
            money.escalate_dispute(state, state.get(dispute, "du"))

    def close_dispute(self, dispute: str, *, won: bool) -> None:
        """The bank decides."""
        with self._acting() as state:
            money.close_dispute(state, state.get(dispute, "du"), won=won)

    def charge_fee(self, cents: int, *, description: str = "Fake monthly fee") -> str:
        """Stripe takes a fee that belongs to no payment; the balance transaction's id."""
        with self._acting() as state:
            return str(money.charge_fee(state, cents, description=description)["id"])

    def pay_out(self) -> Json | None:
        """Stripe sends what is available to our bank."""
        with self._acting() as state:
            return money.pay_out(state)

    def balance(self) -> int:
        """What lies at Stripe now, in cents."""
        with self.state.lock:
            return money.balance(self.state)

    # Requests

    def answer(self, method: str, path: str, query: str, headers: dict[str, str], body: str) -> Answer:
        """Answer a request to /v1. Raises ``Reset`` and ``Held``."""
        request_id = f"req_{self.state.secret(14)}"
        base = {"Request-Id": request_id, "Stripe-Version": API_VERSION}
        try:
            self._admit(headers)
            call, id = calls.find(method, path)
            raw = wire.decode(body if method == "POST" else query)
            key = headers.get("idempotency-key", "") if method == "POST" else ""
            self.requests.append(Seen(method, path, key, raw))
            fault = self.faults.take(method, path)
            if fault is not None:
                self._before(fault)
            if method != "POST":
                with self.state.lock:
                    found = self._act(call, id, raw)
                return self._after(fault, Answer(200, _json(found), base))
            return self._post(call, id, raw, path=path, key=key, request_id=request_id, base=base, fault=fault)
        except Refusal as error:
            return Answer(error.status, _json(error.body), base)

    def _admit(self, headers: dict[str, str]) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            raise Refusal(401, message="You did not provide an API key.")
        if key != self.api_key:
            raise Refusal(401, message=f"Invalid API Key provided: {key[:8]}********")
        version = headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise Refusal(400, message=f"Invalid Stripe API version: {version}; this fake speaks {API_VERSION}")
        account = headers.get("stripe-account", self.state.account)
        if account != self.state.account:
            raise Refusal(
                403, message=f"The provided key does not have access to account '{account}'.", code="account_invalid"
            )

    def _act(self, call: calls.Call, id: str, raw: Json) -> Json:
        """Carry a call out; the caller holds the lock."""
        params = wire.check(raw, call.allowed)
        for one in list(self.state.all("cs")):
            sessions.look(self.state, one)
        found = call.act(self.state, params, id)
        return found if found["object"] == "list" else self.state.answer(found, params.get("expand"))

    def _post(
        self,
        call: calls.Call,
        id: str,
        raw: Json,
        *,
        path: str,
        key: str,
        request_id: str,
        base: dict[str, str],
        fault: Fault | None,
    ) -> Answer:
        with self.state.lock:
            kept = self._keys.begin(
                key, endpoint=f"POST {path}", params=json.dumps(raw, sort_keys=True), request_id=request_id
            )
            if kept is not None:
                assert kept.status is not None
                more = {"Idempotent-Replayed": "true", "Original-Request": kept.request_id, "Idempotency-Key": key}
                return self._after(fault, Answer(kept.status, kept.body, base | more))
        if fault is not None and fault.kind == "wait":
            fault.hold()
        with self.state.lock:
            before, self.state.request = self.state.request, {"id": request_id, "idempotency_key": key}
            try:
                status, body = self._execute(call, id, raw, fault)
            except BaseException:
                self._keys.forget(key)
                raise
            finally:
                self.state.request = before
            self._keys.keep(key, status=status, body=body)
        return self._after(fault, Answer(status, body, base | {"Idempotency-Key": key}))

    def _execute(self, call: calls.Call, id: str, raw: Json, fault: Fault | None) -> tuple[int, bytes]:
        """Status and body to keep. Raises ``Invalid``, which is not kept."""
        broken = fault is not None and fault.kind == "sticky_500"
        try:
            if broken:
                assert fault is not None
                if fault.committed:
                    self._act(call, id, raw)
                return 500, _json(_internal().body)
            return 200, _json(self._act(call, id, raw))
        except Invalid:
            raise
        except Refusal as error:
            return error.status, _json(error.body)

    def _before(self, fault: Fault) -> None:
        """What a fault does before a call begins."""
        fault.met.set()
        if fault.kind == "500_once":
            raise _internal()
        if fault.kind == "429":
            raise Refusal(429, message="Too many requests hit the API too quickly.", code="rate_limit")
        if fault.kind == "lost":
            raise Reset
        if fault.kind == "slow":
            time.sleep(fault.seconds)

    def _after(self, fault: Fault | None, answer: Answer) -> Answer:
        """What a fault does to an answer. Raises ``Reset`` and ``Held``."""
        if fault is not None and fault.kind == "reset":
            raise Reset
        if fault is not None and fault.kind == "hang":
            raise Held(fault)
        return answer

    # Pages

    def show(self, path: str, *, form: dict[str, list[str]] | None) -> Answer:
        """A page of the fake's, or a redirect; ``form`` when a button was pressed."""
        act = (form or {}).get("act", [""])[0]
        kind, _, id = path.removeprefix("/fake/").partition("/")
        found = self.state.objects.get(id)
        with self._acting():
            if kind == "pay" and found is not None and found["object"] == "checkout.session":
                return self._pay_page(found, act, card=(form or {}).get("card", [""])[0])
            if kind == "authenticate" and found is not None and found["object"] == "checkout.session":
                return self._session_authentication(found, act)
            if kind == "authenticate" and found is not None and found["object"] == "payment_intent":
                return self._intent_authentication(found, act)
        return _html(404, pages.message("Nothing here", "This fake Stripe has no such page."))

    def _pay_page(self, session: Json, act: str, *, card: str) -> Answer:
        state = self.state
        if sessions.look(state, session)["status"] != "open":
            return _html(410, pages.message("This page is closed", f"The session is {session['status']}."))
        if act == "cancel":
            return _go(session["cancel_url"] or session["success_url"])
        error = ""
        if act == "pay":
            try:
                sessions.pay(state, session, card)
                return _go(_success(session))
            except sessions.NeedsPerson:
                return _go(f"{state.base_url}/fake/authenticate/{session['id']}")
            except Refusal as refusal:
                error = str(refusal)
        return _html(200, pages.checkout(session, lines=state.aside[session["id"]]["lines"], error=error))

    def _session_authentication(self, session: Json, act: str) -> Answer:
        state = self.state
        page = f"{state.base_url}/fake/pay/{session['id']}"
        waits = state.objects.get(session["payment_intent"] or session["setup_intent"] or "")
        if session["status"] != "open" or waits is None or waits["status"] != "requires_action":
            return _go(page)
        if act == "pass":
            try:
                sessions.pay(state, session, "", authenticated=True)
                return _go(_success(session))
            except Refusal as refusal:
                return _html(402, pages.message("Declined", str(refusal)))
        if act == "fail":
            sessions.refuse(state, session)
            return _go(page)
        return _html(200, pages.authenticate(amount=session["amount_total"], action=""))

    def _intent_authentication(self, intent: Json, act: str) -> Answer:
        back = self.state.aside.get(intent["id"], {}).get("return_url") or self.state.base_url
        if intent["status"] == "requires_action" and not act:
            return _html(200, pages.authenticate(amount=intent["amount"], action=""))
        if intent["status"] == "requires_action":
            with contextlib.suppress(Refusal):
                money.authenticate(self.state, intent, passed=act == "pass")
        status = "succeeded" if intent["status"] == "succeeded" else "failed"
        mark = "&" if "?" in back else "?"
        return _go(f"{back}{mark}payment_intent={intent['id']}&redirect_status={status}")


def _success(session: Json) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def _internal() -> Refusal:
    return Refusal(500, kind="api_error", message="An unknown error occurred (this fake was told so).")


def _json(body: Json) -> bytes:
    return json.dumps(body, indent=2).encode()


def _html(status: int, text: str) -> Answer:
    return Answer(status, text.encode(), {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"})


def _go(url: str) -> Answer:
    return Answer(303, b"", {"Location": url})


class _Server(ThreadingHTTPServer):
    """Keeps its connections, to cut them when it ends."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], fake: StripeFake) -> None:
        self.fake = fake
        self._open: set[socket.socket] = set()
        self._guard = Lock()
        super().__init__(address, _Handler)

    def opened(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.discard(connection)

    def cut_all(self) -> None:
        """End every connection, so that its thread ends."""
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our errors; anything else is shown."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "FakeStripe/1"
    sys_version = ""
    disable_nagle_algorithm = True
    # An idle connection is let go after so long.
    timeout = 75
    server: _Server
    connection: socket.socket

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            self._send(Answer(413, b"", {}))
            return
        body = self.rfile.read(length).decode()
        parts = urlsplit(self.path)
        fake = self.server.fake
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            if parts.path.startswith("/fake/"):
                answer = fake.show(parts.path, form=parse_qs(body) if self.command == "POST" else None)
            else:
                answer = fake.answer(self.command, parts.path, parts.query, headers, body)
            if self.command == "POST":
                fake.save()
            self._send(answer)
        except Reset:
            self._cut()
        except Held as held:
            held.fault.met.set()
            self._until_gone(held.fault)
            self._cut()

    def _until_gone(self, fault: Fault) -> None:
        """Say nothing until the test lets go or the client has hung up."""
        self.connection.settimeout(0.05)
        with contextlib.suppress(OSError):
            while not fault.released:
                try:
                    if self.connection.recv(1) == b"":
                        return
                except TimeoutError:
                    continue

    def _cut(self) -> None:
        """Close with a reset, not with a goodbye."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in ({"Content-Type": "application/json"} | answer.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: ``StripeFake.requests`` is the log."""
