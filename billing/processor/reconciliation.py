"""Stripe's balance held against the books, once a day. The only module that writes ``BalanceTransaction`` and
``ReconciliationMark``.

Every movement of our balance at Stripe is fetched and kept as Stripe tells it, and so are the events that never came.
What the books do not know, or know otherwise, is first looked at anew at Stripe and taken in as any event would have
been: then it was merely late.
What differs all the same is listed for finance (``billing.differences``). Nothing is set right in silence.
"""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db.models import Min

from billing import clearing, differences, payments, settlement
from billing.clearing import Apart
from billing.differences import Found, Side
from billing.models import BalanceTransaction, Dispute, Payment, ReconciliationMark, Refund
from billing.processor import client, facts, inbox
from billing.processor.client import Client, Failure, Object
from billing.processor.facts import Mismatch
from core import clock, money

log = logging.getLogger(__name__)

# Stripe's newest balance transactions come to light a little late.
OVERLAP = timedelta(hours=2)
# Stripe's clock may be ahead of ours.
SKEW = timedelta(minutes=5)
WINDOW = timedelta(days=1)
PAGE = 100
# A day with more pages than that is a fault, not a longer wait.
PAGES_MAX = 5_000
# So long payments are looked at anew in a run; the next one goes on.
LOOKS_RUN = timedelta(minutes=5)
# What Stripe's ids begin with, and how the client calls such an object.
KINDS = {"ch": "charge", "py": "charge", "re": "refund", "pyr": "refund", "du": "dispute", "dp": "dispute"}


class Done(NamedTuple):
    """What a run came to."""

    fetched: int
    looked: int
    open: int


def reconcile() -> Done:
    """Fetch, look again at what is late, list what differs. Raises ``Off``, ``Refused`` or ``InDoubt``."""
    at = client.connect()
    fetched = fetch(at)
    looked = catch_up(at)
    return Done(fetched, looked, compare())


def fetch(at: Client) -> int:
    """Keep the balance transactions since the last run, a day after the other, and events; how many of the first.

    A run that is cut off goes on with the day in which it stopped.
    """
    mark = _mark()
    fetched = 0
    now = clock.now()
    start, end = mark.fetched_until - OVERLAP, now + SKEW
    while start < end:
        until = min(start + WINDOW, end)
        for page in _pages(at, "/v1/balance_transactions", start, until):
            fetched += len(BalanceTransaction.objects.bulk_create(_new(page), ignore_conflicts=True))
        for page in _pages(at, "/v1/events", start, until):
            # Oldest first, as they would have come.
            missed = sum(inbox.keep_missed(event) for event in reversed(page))
            if missed:
                log.warning("%s events of %s never came", missed, start.date())
        done = min(until, now)
        ReconciliationMark.objects.filter(pk=1, fetched_until__lt=done).update(fetched_until=done)
        start = until
    return fetched


def _mark() -> ReconciliationMark:
    """How far we are; the first time, where our payments begin."""
    first: datetime | None = Payment.objects.aggregate(first=Min("created_at"))["first"]
    began = (first or clock.now()) - OVERLAP
    return ReconciliationMark.objects.get_or_create(pk=1, defaults={"began_at": began, "fetched_until": began})[0]


def _pages(at: Client, path: str, start: datetime, until: datetime) -> Iterator[list[Object]]:
    """Pages of a list from an instant to another, newest first; what lies on either may be seen twice."""
    created = {"gte": clock.to_unix(start), "lte": clock.to_unix(until)}
    after: dict[str, str] = {}
    for _ in range(PAGES_MAX):
        page = at.get(path, limit=PAGE, created=created, **after)
        if page["data"]:
            yield page["data"]
        if not page["has_more"]:
            return
        after = {"starting_after": page["data"][-1]["id"]}
    raise client.InDoubt("list_too_long", f"{path} goes on after {PAGES_MAX} pages")


def _new(page: list[Object]) -> list[BalanceTransaction]:
    known = set(
        BalanceTransaction.objects.filter(stripe_id__in=[one["id"] for one in page]).values_list("stripe_id", flat=True)
    )
    now = clock.now()
    return [
        BalanceTransaction(
            stripe_id=one["id"], kind=one["type"], category=one.get("reporting_category") or "",
            source_id=facts.id_of(one.get("source")), description=one.get("description") or "",
            currency=one["currency"], amount_cents=one["amount"], fee_cents=one["fee"], net_cents=one["net"],
            happened_at=clock.from_unix(one["created"]), available_at=clock.from_unix(one["available_on"]),
            fetched_at=now,
        )
        for one in page
        if one["id"] not in known
    ]  # fmt: skip


def catch_up(at: Client) -> int:
    """Look anew at each payment of which the books and Stripe do not say the same; how many those were.

    And at those whose dispute or refund is not at its end: how it ended may be told by no movement of money.
    """
    seen: set[UUID] = set()
    end = clock.now() + LOOKS_RUN
    for payment_id, intent_id in _late(at):
        if clock.now() >= end:
            break
        if payment_id in seen:
            continue
        seen.add(payment_id)
        try:
            settlement.look_at(payment_id, at=at, intent_id=intent_id)
        except Mismatch as mismatch:
            payments.park(payment_id, reason=str(mismatch))
        except Failure as failure:
            log.warning("payment %s could not be looked at: %s", payment_id, failure)
    return len(seen)


def _late(at: Client) -> Iterator[tuple[UUID, str]]:
    """Payments to look at, each with its PaymentIntent if that is news to us."""
    for one in clearing.apart():
        if one.explained:
            continue
        payment, intent_id = _payment_of(one.subject, at)
        if payment is not None and (payment.intent_id or payment.session_id or intent_id):
            yield payment.pk, "" if payment.intent_id else intent_id
    waiting = (
        Dispute.objects.filter(state__in=(Dispute.State.INQUIRY, Dispute.State.OPEN)),
        Refund.objects.filter(state=Refund.State.PROCESSING),
    )
    for rows in waiting:
        for payment_id in rows.values_list("payment_id", flat=True):
            yield payment_id, ""


def _payment_of(subject: str, at: Client) -> tuple[Payment | None, str]:
    """The payment that a subject belongs to, and the id of the PaymentIntent if Stripe had to be asked for it."""
    word, _, key = subject.partition(":")
    if word == "payment":
        return Payment.objects.filter(pk=UUID(key)).first(), ""
    for name, rows in (("refund", Refund.objects), ("dispute", Dispute.objects)):
        if word == name:
            row = rows.select_related("payment").filter(pk=UUID(key)).first()
            return (row.payment if row else None), ""
    kind = KINDS.get(subject.partition("_")[0])
    if kind is None:
        return None, ""
    try:
        told = at.object(kind, subject)
        intent_id = facts.id_of(told.get("payment_intent"))
        if not intent_id:
            return None, ""
        named = (at.intent(intent_id).get("metadata") or {}).get(facts.PAYMENT, "")
    except Failure as failure:
        log.warning("%s could not be looked at: %s", subject, failure)
        return None, ""
    return payments.find(payment_id=named, intent_id=intent_id), intent_id


def compare() -> int:
    """List every subject on which both sides do not agree and should by now; how many differences are open.

    What Stripe has and the books do not know at all is listed at once; it has just been looked for.
    """
    now = clock.now()
    due = [one for one in clearing.apart() if one.at < now - clearing.GRACE or one.our_amount is None]
    return differences.keep(Side.STRIPE, [_found(one) for one in due])


def _found(one: Apart) -> Found:
    if one.strange:
        detail = "Stripe moved another currency than dollars"
    elif one.our_amount is None:
        detail = "at Stripe, not in the books"
    elif one.their_amount is None:
        detail = "in the books, not at Stripe"
    else:
        assert one.our_fee is not None
        assert one.their_fee is not None
        detail = (
            f"amount {money.plain(one.our_amount)} in the books, {money.plain(one.their_amount)} at Stripe;"
            f" fee {money.plain(one.our_fee)} in the books, {money.plain(one.their_fee)} at Stripe"
        )
    return Found(one.subject, one.ours, one.theirs, detail, one.organization_id)


def told() -> str:
    """Run, and say what it came to."""
    if not client.is_on():
        return "payments are off"
    done = reconcile()
    alone = BalanceTransaction.objects.filter(kind__in=clearing.PLATFORM).count()
    return (
        f"fetched {done.fetched}, looked anew at {done.looked} payments, {done.open} differences are open;"
        f" {alone} payouts, fees and the like are between Stripe and us alone"
    )
