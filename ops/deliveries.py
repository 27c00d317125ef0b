"""Messages on their way to customers' endpoints. The only module that writes ``WebhookDelivery``.

A message of the outbox becomes one delivery for each endpoint that wants its kind (``derive``), in the one
transaction that hands the message on. What is promised: **at least once, in no certain order**. A sender that dies
after the receiver said yes is followed by another who sends again, under the same ``webhook-id``.

An attempt is three steps: a turn is taken and committed (``_claim``), the message is sent with no transaction open,
what came of it is recorded. One endpoint is sent to by one sender at a time and gets its oldest due message first.
Endpoints that failed last time have senders of their own (``calm`` False). So a receiver that is slow or down delays
itself.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from core import clock, errors, failpoints, ids, sealing, wire
from core.transactions import database_now, retry
from ops import egress, endpoints, happenings, outbox, signatures
from ops.models import OutboxMessage, WebhookDelivery, WebhookEndpoint
from orgs import audit
from orgs.audit import Actor

log = logging.getLogger(__name__)

State = WebhookDelivery.State

# After each failed attempt, as Standard Webhooks recommends: a little over three days in all.
PAUSES = (
    timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=5),
    timedelta(hours=10), timedelta(hours=14), timedelta(hours=20), timedelta(hours=24),
)  # fmt: skip
# Up to this part of a pause is added, by the delivery's id: what failed together comes back apart.
JITTER_PERCENT = 10
# A turn: longer than any attempt, and how long an endpoint waits after its sender has died.
LEASE = timedelta(seconds=egress.RESOLVE_SECONDS + egress.DEADLINE_SECONDS + 40)
SENDERS = 8
# A run of the job takes no new turn after this.
RUN = timedelta(seconds=20)
KEEP = timedelta(days=30)
TRIM_ROWS = 1000
TRIM_ROUNDS_MAX = 1000
USER_AGENT = "Tollbook-Webhooks/1"

_CANCEL = """
    UPDATE webhook_delivery d SET state = 'canceled', next_attempt_at = NULL, done_at = clock_timestamp()
    FROM webhook_endpoint e
    WHERE e.id = d.endpoint_id AND d.state = 'pending' AND (NOT e.enabled OR e.deleted_at IS NOT NULL)
        AND (d.leased_until IS NULL OR d.leased_until <= clock_timestamp())
"""
_CLAIM = """
    UPDATE webhook_delivery SET attempts = attempts + 1, last_attempt_at = clock_timestamp(),
        leased_until = clock_timestamp() + make_interval(secs => %(lease)s)
    WHERE id = (
        SELECT id FROM webhook_delivery
        WHERE endpoint_id = %(endpoint)s AND state = 'pending' AND next_attempt_at <= clock_timestamp()
        ORDER BY next_attempt_at, id LIMIT 1 FOR NO KEY UPDATE
    ) RETURNING id
"""
_RECORD = """
    UPDATE webhook_delivery SET state = %(state)s, next_attempt_at = %(next)s, done_at = %(done)s, leased_until = NULL,
        status = %(status)s, took_ms = %(took)s, failure = %(failure)s, excerpt = %(excerpt)s
    WHERE id = %(id)s AND state = 'pending' AND attempts = %(attempts)s
"""


class Outcome(NamedTuple):
    """What came of an attempt; ``status`` is None when nobody answered."""

    status: int | None
    took_ms: int | None = None
    failure: str = ""
    excerpt: str = ""

    @property
    def taken(self) -> bool:
        """Whether the receiver has it."""
        return self.status is not None and 200 <= self.status < 300


def derive(message: OutboxMessage) -> None:
    """A delivery to each endpoint that wants the message, in the transaction that hands it on; one, if called again."""
    if message.organization_id is not None:
        wanted = endpoints.wanting(organization_id=message.organization_id, kind=message.kind)
        _add(message.pk, message.organization_id, wanted)


def _add(message_id: UUID, organization_id: UUID, endpoint_ids: Sequence[UUID]) -> list[WebhookDelivery]:
    now = database_now()
    rows = [
        WebhookDelivery(
            message_id=message_id, organization_id=organization_id, endpoint_id=each, next_attempt_at=now,
            created_at=now,
        )
        for each in endpoint_ids
    ]  # fmt: skip
    return WebhookDelivery.objects.bulk_create(rows, ignore_conflicts=True)


def ping(*, endpoint: WebhookEndpoint, by: Actor) -> WebhookDelivery:
    """Send an endpoint, and it alone, a ``ping``. Raises ``Disabled``, and ``Conflict`` while one is on its way."""
    with transaction.atomic():
        locked = _lock(endpoint)
        under_way = WebhookDelivery.objects.for_org(locked.organization_id).filter(
            endpoint=locked, state=State.PENDING, message__kind=happenings.PING
        )
        if under_way.exists():
            raise errors.Conflict("A ping is on its way to this endpoint.")
        shown = ids.show("we", locked.pk)
        message_id = outbox.post_handed_on(
            kind=happenings.PING, organization_id=locked.organization_id, key=str(ids.new()),
            data={"webhook_endpoint": shown},
        )  # fmt: skip
        (made,) = _add(message_id, locked.organization_id, [locked.pk])
        audit.note(
            actor=by, verb="webhook_endpoint.tested", subject=locked, organization=locked.organization, details={}
        )
    return made


def page(*, endpoint: WebhookEndpoint, limit: int, after: str | None) -> tuple[list[WebhookDelivery], bool]:
    """An endpoint's deliveries with their messages, newest first, and whether more follow. Raises ``InvalidCursor``."""
    rows = WebhookDelivery.objects.for_org(endpoint.organization_id).filter(endpoint=endpoint)
    listed = rows.select_related("message").order_by("-id")
    if after is not None:
        last = _read(after)
        if last is None or not rows.filter(pk=last).exists():
            raise errors.InvalidCursor(param="after")
        listed = listed.filter(pk__lt=last)
    found = list(listed[: limit + 1])
    return found[:limit], len(found) > limit


def find(*, endpoint: WebhookEndpoint, shown: str) -> WebhookDelivery:
    """A delivery to an endpoint by the id that customers see. Raises ``NotFound``."""
    wanted = _read(shown)
    rows = WebhookDelivery.objects.for_org(endpoint.organization_id).filter(endpoint=endpoint)
    found = rows.filter(pk=wanted).first() if wanted else None
    if found is None:
        raise errors.NotFound
    return found


def redeliver(*, delivery: WebhookDelivery, by: Actor) -> WebhookDelivery:
    """Send a message again now, whatever became of it, with all attempts before it. Raises ``Disabled``."""
    with transaction.atomic():
        endpoint = _lock(delivery.endpoint)
        row = WebhookDelivery.objects.select_for_update(no_key=True).get(pk=delivery.pk)
        now, before = database_now(), {"state": row.state, "attempts": row.attempts, "failure": row.failure}
        if row.leased_until is None or row.leased_until <= now:
            row.state, row.attempts, row.next_attempt_at, row.done_at = State.PENDING, 0, now, None
            row.save(update_fields=["state", "attempts", "next_attempt_at", "done_at"])
        audit.note(
            actor=by, verb="webhook_delivery.redelivered", subject=row, organization=endpoint.organization,
            details={"before": before},
        )  # fmt: skip
    return row


def send_due(*, calm: bool, run: timedelta = RUN, senders: int = SENDERS) -> str:
    """Send what is due until nothing is or the run's time is over; what came of it, in words. Any number may run it.

    ``calm``: to endpoints that are well; otherwise to those that are failing.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CANCEL)
        canceled = cursor.rowcount
    ends = clock.now() + run
    with ThreadPoolExecutor(senders, "webhooks") as pool:
        counts = list(pool.map(partial(_send_until, ends), [calm] * senders))
    return (
        f"sent {sum(taken for taken, _ in counts)}, failed {sum(failed for _, failed in counts)}, canceled {canceled}"
    )


def _send_until(ends: datetime, calm: bool) -> tuple[int, int]:
    """One sender: turn after turn; how many were taken and how many not."""
    counts = {True: 0, False: 0}
    try:
        while clock.now() < ends and (outcome := send_next(calm=calm)) is not None:
            counts[outcome.taken] += 1
    finally:
        connection.close()
    return counts[True], counts[False]


def send_next(*, calm: bool = True) -> Outcome | None:
    """One attempt at what is due to endpoints that are well, or (not ``calm``) are failing; None if nothing is."""
    delivery = retry(partial(_claim, calm))
    if delivery is None:
        return None
    assert not connection.in_atomic_block, "nothing is sent inside a transaction"
    outcome = _attempt(delivery)
    failpoints.reach("delivery.after_post")
    retry(partial(_record, delivery, outcome))
    return outcome


@transaction.atomic(durable=True)
def _claim(calm: bool) -> WebhookDelivery | None:
    """Take an endpoint's turn and its oldest due delivery."""
    endpoint_id = endpoints.take(lease=LEASE, calm=calm)
    if endpoint_id is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"endpoint": endpoint_id, "lease": LEASE.seconds})
        found = cursor.fetchone()
    if found is None:
        # Somebody canceled it between two statements; the turn goes back with the transaction.
        transaction.set_rollback(True)
        return None
    return WebhookDelivery.objects.select_related("endpoint", "message", "organization").get(pk=found[0])


def _attempt(delivery: WebhookDelivery) -> Outcome:
    """Sign and send; every way to fail is an outcome."""
    now = clock.now()
    body = body_of(delivery.message, slug=delivery.organization.slug)
    try:
        keys = endpoints.keys_of(delivery.endpoint, at=now)
        signed = signatures.headers(
            keys, message_id=ids.show("evt", delivery.message_id), timestamp=clock.to_unix(now), body=body
        )
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT, **signed}
        answer = egress.post(delivery.endpoint.url, body=body, headers=headers, local=settings.WEBHOOKS_ALLOW_LOCAL)
    except (egress.Refused, egress.Failed, sealing.Unreadable) as error:
        return Outcome(None, failure=str(error))
    return Outcome(answer.status, answer.took_ms, excerpt=answer.excerpt)


def body_of(message: OutboxMessage, *, slug: str) -> bytes:
    """What an endpoint is sent: the same bytes at every attempt. Amounts in ``data`` are decimal texts."""
    return wire.encode(
        {
            "id": ids.show("evt", message.pk),
            "type": message.kind,
            "created_at": clock.to_unix(message.created_at),
            "organization": slug,
            "data": message.data,
        }
    )


@transaction.atomic(durable=True)
def _record(delivery: WebhookDelivery, outcome: Outcome) -> None:
    """What became of an attempt, unless its turn was over and another sender has begun one."""
    now = database_now()
    state, due = _next(delivery, outcome, now)
    # First the endpoint, then its delivery: the order in which they were taken.
    endpoints.settle(endpoint_id=delivery.endpoint_id, status=outcome.status, taken=outcome.taken, at=now)
    with connection.cursor() as cursor:
        cursor.execute(
            _RECORD,
            {
                "id": delivery.pk, "attempts": delivery.attempts, "state": state, "next": due,
                "done": None if state == State.PENDING else now, "status": outcome.status, "took": outcome.took_ms,
                "failure": outcome.failure, "excerpt": outcome.excerpt,
            },
        )  # fmt: skip


def _next(delivery: WebhookDelivery, outcome: Outcome, now: datetime) -> tuple[State, datetime | None]:
    """How a delivery stands after an attempt, and when the next one is due."""
    if outcome.taken:
        return State.SUCCEEDED, None
    if outcome.status == endpoints.GONE:
        return State.CANCELED, None
    if delivery.attempts > len(PAUSES):
        return State.FAILED, None
    return State.PENDING, now + pause(delivery.attempts, seed=delivery.pk)


def pause(attempts: int, *, seed: UUID) -> timedelta:
    """How long to wait after that many failed attempts (1 to 9)."""
    base = PAUSES[attempts - 1]
    # The free bits of an id are as good as dice, and the same row always waits the same.
    return base + base * JITTER_PERCENT * (seed.int % 1000) / 100_000


def trim(*, at: datetime | None = None) -> int:
    """Forget deliveries that ended ``KEEP`` before an instant (now), oldest first; how many."""
    end = (at or database_now()) - KEEP
    trimmed = 0
    for _ in range(TRIM_ROUNDS_MAX):
        old = WebhookDelivery.objects.filter(pk__lt=ids.floor(end), done_at__lt=end).order_by("pk")
        done, _rows = WebhookDelivery.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:TRIM_ROWS])).delete()
        trimmed += done
        if done < TRIM_ROWS:
            break
    return trimmed


def _lock(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    """The endpoint as it is now, locked, so that it is not switched off meanwhile. Raises ``Disabled``."""
    locked: WebhookEndpoint = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint.pk)
    if not locked.enabled or locked.deleted_at is not None:
        raise endpoints.Disabled
    return locked


def _read(shown: str) -> UUID | None:
    try:
        return ids.read("wd", shown)
    except ValueError:
        return None
