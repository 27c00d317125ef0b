"""Stripe's events: proven, kept, answered, and only then handled. The only module that writes ``StripeEvent``.

An event says that something happened to an object; what is taken in is the object as it stands when the event is
handled (``billing.settlement``). So events may come twice, late and in any order. The event is marked in the
transaction that takes its effect in: a crash in between leaves it waiting, and the sweep handles it again.
"""

import json
import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from stripe import SignatureVerificationError, WebhookSignature

from billing import payments, settlement
from billing.models import Payment, StripeEvent
from billing.processor import client, customers, facts
from billing.processor.client import Client, InDoubt, Object, Off, Refused
from billing.processor.facts import Mismatch
from core import clock, errors, failpoints, ids
from core.transactions import retry
from ops import jobs, outbox
from orgs import audit
from orgs.audit import Actor

log = logging.getLogger(__name__)

State = StripeEvent.State
TASK = "billing.tasks.handle_stripe_events"

# Stripe's own default, for the past; and the same for the future, which the SDK lets pass.
TOLERANCE = timedelta(seconds=300)
BODY_BYTES_MAX = 1024 * 1024
_STAMP = re.compile(r"(?:^|,)t=([0-9]{1,12})(?:,|$)")

# After a failure it is tried again, ever more rarely; then a person has to look.
FIRST_PAUSE = timedelta(seconds=10)
ATTEMPTS_MAX = 8
# So long nobody else takes up an event that somebody handles.
LEASE = timedelta(minutes=2)
SWEEP = 100
SWEEP_RUN = timedelta(seconds=45)
TRIM_ROWS = 1000
TRIM_ROUNDS_MAX = 1000


class Forged(Exception):
    """A body that Stripe did not send us now. Nothing more is told of it."""


class Waiting(NamedTuple):
    """A stored event and whether it still has to be handled."""

    id: UUID
    waits: bool


def store(raw: bytes, signature: str | None) -> Waiting:
    """Prove an event and keep it, once; whether it still waits, which says nothing of its being new.

    Raises ``Forged``, and ``Off`` where nothing can be proven because payments are switched off.
    """
    if not client.is_on() or not settings.STRIPE_WEBHOOK_SECRETS:
        raise Off
    _prove(raw, signature)
    told = _read(raw)
    kept: Waiting = retry(lambda: _keep(raw, told))
    return kept


def keep_missed(event: Object) -> bool:
    """Keep an event that Stripe told us when it was asked, as if it had come; whether it had not.

    It is handled by the next ``sweep``. What nothing handles, or is not ours, is left.
    """
    if event.get("type") not in HANDLERS or StripeEvent.objects.filter(stripe_id=event.get("id")).exists():
        return False
    raw = json.dumps(event).encode()
    try:
        told = _read(raw)
    except Forged:
        return False
    retry(lambda: _keep(raw, told))
    return True


def _prove(raw: bytes, signature: str | None) -> None:
    """Raise ``Forged`` unless one of our secrets signed these very bytes within the tolerance of now."""
    stamp = _STAMP.search(signature or "")
    if signature is None or stamp is None:
        raise Forged
    if abs(clock.to_unix(clock.now()) - int(stamp[1])) > TOLERANCE.total_seconds():
        raise Forged
    for secret in settings.STRIPE_WEBHOOK_SECRETS:
        try:
            WebhookSignature.verify_header(raw, signature, secret, tolerance=None)
        except (SignatureVerificationError, UnicodeDecodeError):
            continue
        return
    raise Forged


class _Told(NamedTuple):
    stripe_id: str
    kind: str
    object_id: str
    api_version: str
    created: int


def _read(raw: bytes) -> _Told:
    """What an event is. Raises ``Forged`` for one of another mode or account, or of no shape."""
    try:
        event = json.loads(raw)
        told = _Told(
            event["id"], event["type"], facts.id_of(event["data"]["object"]), event.get("api_version") or "",
            event["created"],
        )  # fmt: skip
        fits = event["object"] == "event" and event["livemode"] is client.is_live()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Forged from error
    if event.get("account") not in {None, settings.STRIPE_ACCOUNT or None} or not fits:
        raise Forged
    if not isinstance(told.created, int) or not all(isinstance(one, str) for one in told[:4]) or not told.stripe_id:
        raise Forged
    return told


@transaction.atomic(durable=True)
def _keep(raw: bytes, told: _Told) -> Waiting:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO stripe_event (id, stripe_id, kind, object_id, api_version, payload, state, outcome, attempts,"
            " happened_at, received_at) VALUES (%s, %s, %s, %s, %s, %s, 'received', '', 0, %s, %s)"
            " ON CONFLICT (stripe_id) DO NOTHING",
            [
                ids.new(), told.stripe_id, told.kind, told.object_id, told.api_version, raw.decode(),
                clock.from_unix(told.created), clock.now(),
            ],
        )  # fmt: skip
    row = StripeEvent.objects.get(stripe_id=told.stripe_id)
    if row.state == State.RECEIVED:
        jobs.wake(TASK)
    return Waiting(row.pk, row.state == State.RECEIVED)


Mark = Callable[[str], None]
Handler = Callable[[Object, Client, Mark], None]


class Strange(Exception):
    """An object that is not ours: another product's on the same account."""


def _of_payment(told: Object, at: Client, mark: Mark, *, intent_id: str = "", session_id: str = "") -> None:
    """Look at the payment that an object belongs to."""
    payment = _payment_of(told, at, intent_id=intent_id, session_id=session_id)
    if payment.request is None:
        raise Mismatch(f"{payment} has not been asked for yet")
    settlement.look_at(payment.pk, at=at, session_id=session_id, intent_id=intent_id, mark=mark)


def _payment_of(told: Object, at: Client, *, intent_id: str, session_id: str) -> Payment:
    """Ours, by what we know of it, by what it carries, or by what its PaymentIntent carries.

    Raises ``Strange`` for what is not ours, ``Mismatch`` for what looks like ours and is not known.
    """
    marked = (told.get("metadata") or {}).get(facts.PAYMENT, "")
    row = payments.find(payment_id=marked, intent_id=intent_id, session_id=session_id)
    if row is not None:
        return row
    stands = told
    if intent_id and not session_id and told.get("object") != "payment_intent":
        stands = at.intent(intent_id)
        marked = marked or (stands.get("metadata") or {}).get(facts.PAYMENT, "")
        row = payments.find(payment_id=marked)
        if row is not None:
            return row
    if marked:
        raise Mismatch(f"{told.get('id')} names payment {marked!r}, which is not known")
    if customers.find(facts.id_of(stands.get("customer"))) is not None:
        raise Mismatch(f"{told.get('id')} is of a customer of ours and names no payment")
    raise Strange


def _intent(told: Object, at: Client, mark: Mark) -> None:
    _of_payment(told, at, mark, intent_id=told["id"])


def _session(told: Object, at: Client, mark: Mark) -> None:
    if told.get("mode") == "payment":
        _of_payment(told, at, mark, session_id=told["id"])
    else:
        _customer_of(told, at, mark)


def _part(told: Object, at: Client, mark: Mark) -> None:
    """A charge, a refund or a dispute."""
    intent_id = facts.id_of(told.get("payment_intent"))
    if not intent_id:
        raise Strange
    _of_payment(told, at, mark, intent_id=intent_id)


def _customer(told: Object, at: Client, mark: Mark) -> None:
    mark(customers.sync(told["id"], at=at))


def _customer_of(told: Object, at: Client, mark: Mark) -> None:
    """A card or what leads to one. A card that was let go names no customer any more; ours knows whose it was."""
    customer = facts.id_of(told.get("customer")) or customers.owner_of_card(told["id"])
    if not customer:
        raise Strange
    mark(customers.sync(customer, at=at))


# All that is handled. Whatever else comes is kept and ignored.
HANDLERS: dict[str, Handler] = {
    "checkout.session.completed": _session,
    "checkout.session.async_payment_succeeded": _session,
    "checkout.session.async_payment_failed": _session,
    "checkout.session.expired": _session,
    "payment_intent.created": _intent,
    "payment_intent.processing": _intent,
    "payment_intent.requires_action": _intent,
    "payment_intent.succeeded": _intent,
    "payment_intent.payment_failed": _intent,
    "payment_intent.canceled": _intent,
    "charge.succeeded": _part,
    "charge.updated": _part,
    "charge.failed": _part,
    "charge.refunded": _part,
    "charge.refund.updated": _part,
    "refund.created": _part,
    "refund.updated": _part,
    "refund.failed": _part,
    "charge.dispute.created": _part,
    "charge.dispute.updated": _part,
    "charge.dispute.funds_withdrawn": _part,
    "charge.dispute.funds_reinstated": _part,
    "charge.dispute.closed": _part,
    "setup_intent.succeeded": _customer_of,
    "payment_method.attached": _customer_of,
    "payment_method.updated": _customer_of,
    "payment_method.automatically_updated": _customer_of,
    "payment_method.detached": _customer_of,
    "customer.updated": _customer,
    "customer.deleted": _customer,
}


def handle(event_id: UUID) -> str:
    """Do what an event asks for, if nobody has; how it stands then. Never raises what a later try could mend."""
    row = _claim(event_id)
    if row is None:
        return str(StripeEvent.objects.values_list("state", flat=True).get(pk=event_id))
    handler = HANDLERS.get(row.kind)
    if handler is None:
        _close(row.pk, State.IGNORED, "no such event is handled")
        return State.IGNORED
    told: Object = json.loads(row.payload)["data"]["object"]
    try:
        failpoints.reach("event.before_handling")
        handler(told, client.connect(), lambda outcome: _mark(row.pk, outcome))
    except Strange:
        _close(row.pk, State.IGNORED, "not ours")
    except Mismatch as mismatch:
        _park(row, told, str(mismatch))
    except Exception as error:  # noqa: BLE001 - whatever it is, the event stays and is tried again
        _postpone(row, error)
    return str(StripeEvent.objects.values_list("state", flat=True).get(pk=event_id))


def _claim(event_id: UUID) -> StripeEvent | None:
    """A waiting event, as it is; a lease keeps sweeps from taking it up meanwhile. Two at once do no harm."""
    now = clock.now()
    waiting = StripeEvent.objects.filter(pk=event_id, state=State.RECEIVED)
    if not waiting.update(next_attempt_at=now + LEASE):
        return None
    return waiting.first()


def _mark(event_id: UUID, outcome: str) -> None:
    """Mark an event as done, in the transaction that did it, or after what may be done twice."""
    waiting = StripeEvent.objects.filter(pk=event_id, state=State.RECEIVED)
    waiting.update(state=State.PROCESSED, outcome=outcome, handled_at=clock.now(), next_attempt_at=None)


def _close(event_id: UUID, state: str, outcome: str) -> bool:
    waiting = StripeEvent.objects.filter(pk=event_id, state=State.RECEIVED)
    return bool(waiting.update(state=state, outcome=outcome, handled_at=clock.now(), next_attempt_at=None))


def _park(row: StripeEvent, told: Object, reason: str) -> None:
    """Leave an event, and the payment it is about, to a person, and say so."""
    intent_id = told["id"] if told.get("object") == "payment_intent" else facts.id_of(told.get("payment_intent"))
    session_id = told["id"] if told.get("object") == "checkout.session" else ""
    marked = (told.get("metadata") or {}).get(facts.PAYMENT, "")
    payment = payments.find(payment_id=marked, intent_id=intent_id, session_id=session_id)
    if payment is not None:
        payments.park(payment.pk, reason=reason)

    @transaction.atomic(durable=True)
    def close() -> None:
        if _close(row.pk, State.FAILED, reason):
            _alert(row, reason)

    retry(close)


def _alert(row: StripeEvent, reason: str) -> None:
    outbox.post(
        kind="stripe.event_parked", organization_id=None, key=f"{row.pk}:{clock.now().isoformat()}",
        data={"event_id": row.stripe_id, "type": row.kind, "reason": reason},
    )  # fmt: skip


def _postpone(row: StripeEvent, error: Exception) -> None:
    """Try an event again later; after the last time a person has to look."""
    passing = isinstance(error, InDoubt | Refused | Off)
    log.warning("%s could not be handled: %s", row, error, exc_info=None if passing else error)
    attempts = row.attempts + 1
    waiting = StripeEvent.objects.filter(pk=row.pk, state=State.RECEIVED)

    @transaction.atomic(durable=True)
    def note() -> None:
        pause = FIRST_PAUSE * 4 ** (attempts - 1)
        waiting.update(attempts=attempts, next_attempt_at=clock.now() + pause)
        reason = f"{type(error).__name__}: {error}"[:500]
        if attempts >= ATTEMPTS_MAX and _close(row.pk, State.FAILED, reason):
            _alert(row, reason)

    retry(note)


def sweep() -> str:
    """Handle what waits and is due, oldest first; what was done. Many workers may run it."""
    if not client.is_on():
        return "payments are off"
    now = clock.now()
    rows = StripeEvent.objects.filter(state=State.RECEIVED).exclude(next_attempt_at__gt=now).order_by("pk")
    done: dict[str, int] = {}
    for event_id in list(rows.values_list("pk", flat=True)[:SWEEP]):
        if clock.now() >= now + SWEEP_RUN:
            break
        state = handle(event_id)
        done[state] = done.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(done.items())) or "nothing waits"


def replay(*, event_id: UUID, by: Actor) -> str:
    """Handle an event again, whatever became of it: what it asks for is done once all the same; how it stands then.

    Raises ``Conflict`` for one whose body has been emptied.
    """

    @transaction.atomic(durable=True)
    def reopen() -> None:
        row = StripeEvent.objects.select_for_update(no_key=True).get(pk=event_id)
        if not row.payload:
            raise errors.Conflict("What this event said is no longer kept; Stripe's own pages may still show it.")
        before: dict[str, Any] = {"state": str(row.state), "outcome": row.outcome}
        row.state, row.outcome, row.attempts = State.RECEIVED, "", 0
        row.handled_at, row.next_attempt_at = None, clock.now()
        row.save(update_fields=["state", "outcome", "attempts", "handled_at", "next_attempt_at"])
        audit.note(actor=by, verb="stripe_event.replayed", subject=row, details=before)

    retry(reopen)
    return handle(event_id)


def trim(*, at: datetime | None = None) -> int:
    """Empty the bodies of events that were done with ``STRIPE_EVENT_KEEP_DAYS`` before an instant (now); how many.

    The rows stay, so an event that comes again is known. What waits or is parked is left as it came.
    """
    end = (at or clock.now()) - timedelta(days=settings.STRIPE_EVENT_KEEP_DAYS)
    done = StripeEvent.objects.filter(state__in=(State.PROCESSED, State.IGNORED)).exclude(payload="")
    trimmed = 0
    for _ in range(TRIM_ROUNDS_MAX):
        old = done.filter(pk__lt=ids.floor(end), handled_at__lt=end).order_by("pk")
        found = list(old.values_list("pk", flat=True)[:TRIM_ROWS])
        # Asked again when it goes: somebody may replay one of them.
        trimmed += done.filter(pk__in=found).update(payload="")
        if len(found) < TRIM_ROWS:
            break
    return trimmed
