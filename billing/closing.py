"""Closing periods: what an organization used and moved in one becomes a document.

The only module that writes ``BillingPeriod``.

A period is due once rollups are folded past its end: nothing can be recorded in it any more, for periods go by when a
record was made (decisions 11). Then it is drafted, waits out its grace, is worked out again and finalized, or it
is parked until a person looks at it. Each step is a transaction under the period's row lock and looks at its state
there, so any number of workers may run, and whoever is killed leaves nothing half done. A period is drafted once
the one before it is finalized, and brings the next one with it.

The sums are read in one read-only snapshot, for a chunk of organizations at a time: usage from the rollups, by who
paid, and everything that moved the wallet from the ledger. What was charged must be the same in both to the
last digit, else the period is parked. An organization in whose wallet nothing moved gets no document.

What an invoice asks for is what its wallet owes at the period's end and no earlier invoice asks for: the overdraft
less the open net amounts of earlier invoices. So what is rounded off, a void, or a payment taken back, stands on the
next one (docs/adr/0019-invoices-close-periods.md).
"""

import logging
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction

from billing import invoices, periods, profiles, rounding, taxes
from billing.corrections import check_reason
from billing.invoices import Draft, Line, LineKind
from billing.models import BillingPeriod, BillingProfile, Invoice, TransferKind
from core import clock, errors, failpoints, ids, money
from core.transactions import RETRYABLE, database_now, is_outage, retry, sqlstate
from metering import rollups
from metering.rollups import Paid, Window
from orgs import audit
from orgs.audit import Actor

log = logging.getLogger(__name__)

State = BillingPeriod.State
Kind = TransferKind

# How many organizations are in memory at a time, and from how many due periods a worker picks its own.
CHUNK = 50
PICK_FROM = 1000
# A document of more lines is asked to be grouped otherwise.
LINES_MAX = 1000
# A total may be three times the mean of so many periods before it.
TRAILING = 6
JUMP = 3
# A transfer's id carries the instant that its row does; whoever gave one of its own gave it in this time.
SLACK = timedelta(hours=1)

_CHARGED = {Kind.CHARGE: 1, Kind.RERATE_UP: 1, Kind.VOID: -1, Kind.RERATE_DOWN: -1}
# What else moves a wallet, as statements call it.
_MOVES: dict[str, LineKind] = {
    Kind.TOPUP: LineKind.TOPUP, Kind.GRANT: LineKind.GIVEN, Kind.ADJUSTMENT: LineKind.ADJUSTMENT,
    Kind.REFUND: LineKind.REFUND, Kind.CLAWBACK: LineKind.REFUND, Kind.DISPUTE: LineKind.REFUND,
    Kind.EXPIRY: LineKind.EXPIRY, Kind.WRITE_OFF: LineKind.FORGIVEN, Kind.INVOICE: LineKind.PAYMENT,
}  # fmt: skip


class Closed(NamedTuple):
    """What a run did, in periods."""

    opened: int = 0
    drafted: int = 0
    finalized: int = 0
    parked: int = 0


def told(closed: Closed) -> str:
    """What a run did, for the list of jobs."""
    return ", ".join(f"{name} {count}" for name, count in closed._asdict().items())


def open_missing() -> int:
    """Begin the first period of organizations that have none: the one in which each was made; how many."""
    made = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT o.id, o.created_at, o.time_zone FROM organization o WHERE NOT EXISTS ("
                "SELECT FROM billing_period p WHERE p.organization_id = o.id) ORDER BY o.id LIMIT %s",
                [PICK_FROM],
            )
            found = cursor.fetchall()
        if not found:
            return made
        known = profiles.of_many([row[0] for row in found])
        rows = []
        for owner, created_at, zone in found:
            anchor = known[owner].anchor_day
            first = periods.containing(created_at, anchor_day=anchor, zone=ZoneInfo(zone))
            rows.append(
                BillingPeriod(
                    organization_id=owner, starts_at=first.starts_at, ends_at=first.ends_at, zone=zone,
                    anchor_day=anchor,
                )
            )  # fmt: skip
        # Another worker's are as good.
        BillingPeriod.objects.bulk_create(rows, ignore_conflicts=True)
        made += len(rows)


def close_due(*, until: datetime | None = None) -> Closed:
    """Draft every period that is over, and open those that follow. Many workers may run it at once.

    What is left at ``until`` waits for the next run.
    """
    opened, drafted, finalized, parked = open_missing(), 0, 0, 0
    while until is None or clock.now() < until:
        chunk = _pick("state = 'open' AND ends_at <= %s", rollups.folded_until())
        if not chunk:
            break
        done = Counter(_draft_all(chunk))
        failpoints.reach("close.after_commit")
        if not done:
            # Others have all of these; what they leave the next run finds.
            break
        drafted += done[State.DRAFTED]
        finalized += done[State.FINALIZED]
        parked += done[State.PARKED]
    return Closed(opened, drafted, finalized, parked)


def finalize_due(*, until: datetime | None = None) -> Closed:
    """Finalize every draft whose grace is over. Many workers may run it at once. ``until`` as in ``close_due``."""
    finalized = parked = 0
    while until is None or clock.now() < until:
        chunk = _pick("state = 'drafted' AND finalize_at <= %s", database_now())
        if not chunk:
            break
        done = Counter(_finalize_all(chunk))
        if not done:
            break
        finalized += done[State.FINALIZED]
        parked += done[State.PARKED]
    return Closed(0, 0, finalized, parked)


def is_over(period: BillingPeriod) -> bool:
    """Whether nothing can be recorded in a period any more: rollups are folded past its end."""
    return bool(period.ends_at <= rollups.folded_until())


def close(*, period_id: UUID, by: Actor) -> BillingPeriod:
    """Close a period that is over now, not at the next run: it is drafted, and the next one is opened.

    Raises ``Conflict`` if it is not open or not over, waits for the one before it, somebody else was faster, or it
    has been parked by it.
    """
    period = _find(period_id)
    if period.state != State.OPEN:
        raise errors.Conflict("Only an open period can be closed.")
    if not is_over(period):
        raise errors.Conflict("Only a period that is over can be closed: something may still be recorded in this one.")
    if period.follows is not None and not _is_finalized(period.organization_id, period.follows):
        raise errors.Conflict("The period before it has to be finalized first.")
    if not _draft_all([period]):
        raise errors.Conflict("Somebody else was faster.")
    with transaction.atomic():
        after = _find(period_id)
        audit.note(
            actor=by, verb="billing_period.closed", subject=after, organization=after.organization,
            details={"before": period.state, "after": after.state, "ends_at": after.ends_at.isoformat()},
        )  # fmt: skip
    return _unless_parked(period_id)


def finalize(*, period_id: UUID, by: Actor) -> BillingPeriod:
    """Finalize a draft now, before its grace is over.

    Raises ``Conflict`` if it is none, somebody else was faster, or it has been parked by it.
    """
    period = _find(period_id)
    done = _finalize_all([period]) if period.state == State.DRAFTED else []
    if not done:
        raise errors.Conflict("Only a draft can be finalized.")
    after = _unless_parked(period_id)
    with transaction.atomic():
        audit.note(
            actor=by, verb="billing_period.finalized", subject=after, organization=after.organization,
            details={"before": period.state, "charged_usd": money.plain(after.charged_usd)},
        )  # fmt: skip
    return after


def release(*, period_id: UUID, reason: str, by: Actor) -> BillingPeriod:
    """Let a parked period pass: a person has looked at it. What differs from the ledger does not pass all the same.

    It is worked out again and finalized at the next run. Raises ``Conflict`` if it is not parked.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        period = BillingPeriod.objects.select_for_update(no_key=True).filter(pk=period_id).first()
        if period is None or period.state != State.PARKED:
            raise errors.Conflict("Only a parked period can be released.")
        details = {"reason": reason, "parked_for": period.parked_for}
        now = clock.now()
        period.released_at, period.released_by, period.released_for = now, by.label, reason
        period.parked_for = ""
        period.state = State.OPEN if period.drafted_at is None else State.DRAFTED
        period.save()
        audit.note(
            actor=by, verb="billing_period.released", subject=period, organization=period.organization, details=details
        )
        return period


def _unless_parked(period_id: UUID) -> BillingPeriod:
    after = _find(period_id)
    if after.state == State.PARKED:
        raise errors.Conflict(f"It was parked: {after.parked_for}")
    return after


def _is_finalized(organization_id: UUID, ends_at: datetime) -> bool:
    """Whether the period that ended then is."""
    before = BillingPeriod.objects.filter(organization_id=organization_id, ends_at=ends_at)
    return before.filter(state=State.FINALIZED).exists()


def _find(period_id: UUID) -> BillingPeriod:
    found = BillingPeriod.objects.select_related("organization").filter(pk=period_id).first()
    if found is None:
        raise errors.NotFound("There is no such period.", param="period_id")
    return found


def _pick(condition: str, until: datetime) -> list[BillingPeriod]:
    """Some periods to work on. Workers pick at random, so that they seldom work the same one out twice.

    One whose predecessor is not finalized waits for it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM billing_period p WHERE {condition} AND (follows IS NULL OR EXISTS ("
            "SELECT FROM billing_period o WHERE o.organization_id = p.organization_id AND o.ends_at = p.follows"
            " AND o.state = 'finalized')) LIMIT %s",
            [until, PICK_FROM],
        )
        found = [row[0] for row in cursor.fetchall()]
    chosen = random.sample(found, min(CHUNK, len(found)))
    return list(BillingPeriod.objects.filter(pk__in=chosen).order_by("organization_id"))


class Worked(NamedTuple):
    """What a period comes to: its document, if there is one, and why a person should look at it, if one should."""

    period: BillingPeriod
    profile: BillingProfile
    draft: Draft | None
    charged_usd: Decimal
    closing_usd: Decimal
    overdraft_usd: Decimal
    carried_usd: Decimal
    doubts: tuple[str, ...] = ()


def work_out(chunk: Sequence[BillingPeriod]) -> list[Worked]:
    """What these periods come to, all in one snapshot; they are over. A handful of statements, whatever they hold."""
    if not chunk:
        return []
    known = profiles.of_many([period.organization_id for period in chunk])
    with _snapshot():
        assert max(period.ends_at for period in chunk) <= rollups.folded_until(), (
            "a period is worked out once it is over"
        )
        used: dict[UUID, list[Paid]] = {}
        for paid in rollups.paid(
            [_window(period, known[period.organization_id]) for period in chunk], rows=LINES_MAX + 1
        ):
            used.setdefault(paid.payer_id, []).append(paid)
        moved = _moved(chunk)
        before = _before(chunk)
        unpaid = _unpaid(chunk)
        trailing = _trailing(chunk)
    return [
        _work_out(
            period, known[period.organization_id], used.get(period.organization_id, []),
            moved.get(period.organization_id, {}), before.get(period.organization_id, _NOTHING),
            unpaid.get(period.organization_id, money.ZERO), trailing.get(period.organization_id),
        )
        for period in chunk
    ]  # fmt: skip


@contextmanager
def _snapshot() -> Iterator[None]:
    """One moment of the books, for reading only."""
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def _window(period: BillingPeriod, profile: BillingProfile) -> Window:
    grouping = profile.grouping
    return Window(
        period.organization_id, period.starts_at, period.ends_at,
        by_key=grouping == BillingProfile.Grouping.API_KEY, by_project=grouping == BillingProfile.Grouping.PROJECT,
    )  # fmt: skip


_MOVED = """
    SELECT w.owner, t.kind, sum(t.amount_usd) FILTER (WHERE t.credit = 'wallet'),
        sum(t.amount_usd) FILTER (WHERE t.debit = 'wallet')
    FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::uuid[], %s::uuid[])
        AS w (owner, first, beyond, low, high)
    CROSS JOIN LATERAL (
        SELECT kind, debit, credit, amount_usd FROM transfer WHERE organization_id = w.owner
            AND id >= w.low AND id < w.high AND created_at >= w.first AND created_at < w.beyond
            AND 'wallet' IN (debit, credit)
    ) t
    GROUP BY 1, 2
"""


def kinds_of(line: str) -> list[str]:
    """The kinds of transfers that a line sums: one of a statement, or the credit of an invoice; none for usage."""
    aside = {*_CHARGED, Kind.DRAW, Kind.REPAYMENT}
    return [
        kind
        for kind in Kind.values
        if kind not in aside and line in {LineKind.CREDIT, _MOVES.get(kind, LineKind.ADJUSTMENT)}
    ]


class _Flow(NamedTuple):
    """What came into a wallet and went out of it, of one kind."""

    came: Decimal
    went: Decimal

    @property
    def net(self) -> Decimal:
        """What came less what went."""
        return self.came - self.went


def _moved(chunk: Sequence[BillingPeriod]) -> dict[UUID, dict[str, _Flow]]:
    """What moved each organization's wallet in its period, by kind."""
    columns = [
        (
            row.organization_id,
            row.starts_at,
            row.ends_at,
            ids.floor(row.starts_at - SLACK),
            ids.floor(row.ends_at + SLACK),
        )
        for row in chunk
    ]
    found: dict[UUID, dict[str, _Flow]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_MOVED, [list(column) for column in zip(*columns, strict=True)])
        for owner, kind, came, went in cursor.fetchall():
            found.setdefault(owner, {})[kind] = _Flow(came or money.ZERO, went or money.ZERO)
    return found


class _Before(NamedTuple):
    """Where the period before ended."""

    closing_usd: Decimal
    overdraft_usd: Decimal
    carried_usd: Decimal


_NOTHING = _Before(money.ZERO, money.ZERO, money.ZERO)


def _before(chunk: Sequence[BillingPeriod]) -> dict[UUID, _Before]:
    followed = [(row.organization_id, row.follows) for row in chunk if row.follows is not None]
    if not followed:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.organization_id, p.closing_usd, p.overdraft_usd, p.carried_usd FROM billing_period p"
            " JOIN unnest(%s::uuid[], %s::timestamptz[]) AS w (owner, until)"
            " ON p.organization_id = w.owner AND p.ends_at = w.until",
            [list(column) for column in zip(*followed, strict=True)],
        )
        return {row[0]: _Before(*row[1:]) for row in cursor.fetchall()}


def _unpaid(chunk: Sequence[BillingPeriod]) -> dict[UUID, Decimal]:
    """What earlier invoices asked for, without tax, and was not settled before each period's end."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT i.organization_id, sum(i.subtotal_usd - coalesce(s.settled, 0))"
            " FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[]) AS w (owner, first, beyond)"
            " JOIN invoice i ON i.organization_id = w.owner AND i.kind = 'invoice' AND i.state <> 'draft'"
            " AND i.ends_at <= w.first AND (i.settled_at IS NULL OR i.settled_at >= w.beyond)"
            " LEFT JOIN LATERAL (SELECT sum(amount_usd - tax_usd) AS settled FROM invoice_settlement"
            " WHERE invoice_id = i.id AND at < w.beyond) s ON true GROUP BY 1",
            [
                [row.organization_id for row in chunk],
                [row.starts_at for row in chunk],
                [row.ends_at for row in chunk],
            ],
        )
        return dict(cursor.fetchall())


def _trailing(chunk: Sequence[BillingPeriod]) -> dict[UUID, Decimal]:
    """The mean of what was charged in the periods before, of those in which anything was."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT w.owner, p.mean FROM unnest(%s::uuid[], %s::timestamptz[]) AS w (owner, first)"
            " CROSS JOIN LATERAL (SELECT avg(charged_usd)::numeric(24,12) AS mean FROM ("
            "SELECT charged_usd FROM billing_period WHERE organization_id = w.owner AND ends_at <= w.first"
            " AND charged_usd > 0 ORDER BY ends_at DESC LIMIT %s) q) p WHERE p.mean IS NOT NULL",
            [[row.organization_id for row in chunk], [row.starts_at for row in chunk], TRAILING],
        )
        return dict(cursor.fetchall())


def _work_out(
    period: BillingPeriod, profile: BillingProfile, used: Sequence[Paid], moved: dict[str, _Flow], before: _Before,
    unpaid: Decimal, trailing: Decimal | None,
) -> Worked:  # fmt: skip
    """One period's document. Pure."""
    none = _Flow(money.ZERO, money.ZERO)
    charged = sum(((moved[kind].went - moved[kind].came) for kind in _CHARGED if kind in moved), money.ZERO)
    closing = before.closing_usd + sum(
        (flow.net for kind, flow in moved.items() if kind not in {Kind.DRAW, Kind.REPAYMENT}), money.ZERO
    )
    drawn, repaid = moved.get(Kind.DRAW, none).came, moved.get(Kind.REPAYMENT, none).went
    overdraft = before.overdraft_usd + drawn - repaid
    usage = [_usage(paid) for paid in used]
    doubts = _wrong(used, charged)
    carried = money.ZERO
    lines: list[Line] = []
    kind = Invoice.Kind.STATEMENT
    if profile.terms == BillingProfile.Terms.POSTPAID:
        due = overdraft - unpaid
        carried = due
        if rounding.to_cents(due) > 0:
            kind = Invoice.Kind.INVOICE
            lines = _asked(usage, due, before.carried_usd)
            carried = due - rounding.to_cents(due)
    opening_shown = closing_shown = None
    if kind == Invoice.Kind.STATEMENT and (used or moved):
        # The lines lead from one to the other: of half a cent their sum may have another even neighbour.
        opening_shown, closing_shown = rounding.to_cents(before.closing_usd), rounding.to_cents(closing)
        lines = _stated(usage, moved, before.closing_usd - opening_shown)
    worked = Worked(period, profile, None, charged, closing, overdraft, carried, doubts)
    if not lines:
        return worked
    draft = Draft(
        period.pk, period.organization_id, profile.legal_entity_id, kind, period.starts_at, period.ends_at,
        period.zone, tuple(lines), opening_shown, closing_shown,
    )  # fmt: skip
    total = rounding.to_cents(draft.exact_usd) if kind == Invoice.Kind.INVOICE else charged
    if period.released_at is None:
        doubts += _large(profile, max(total, charged), trailing)
    return worked._replace(draft=draft, doubts=doubts)


def _usage(paid: Paid) -> Line:
    return Line(
        LineKind.USAGE, paid.cost_usd, "", paid.model, paid.service_tier, paid.batch, paid.api_key_id, paid.project_id,
        paid.requests, paid.input_tokens, paid.cached_input_tokens, paid.output_tokens,
    )  # fmt: skip


def _asked(usage: Sequence[Line], due: Decimal, carried: Decimal) -> list[Line]:
    """An invoice's lines: usage, less what was paid from credit or moved otherwise, and what was carried over."""
    rest = due - sum((line.exact_usd for line in usage), money.ZERO) - carried
    lines = list(usage)
    if rest:
        lines.append(Line(LineKind.CREDIT, rest))
    if carried:
        lines.append(Line(LineKind.CARRIED, carried))
    return lines


def _stated(usage: Sequence[Line], moved: dict[str, _Flow], carried: Decimal) -> list[Line]:
    """A statement's lines: how the balance went from opening to closing."""
    sums: dict[str, Decimal] = {}
    for kind, flow in moved.items():
        if kind in _CHARGED or kind in {Kind.DRAW, Kind.REPAYMENT}:
            continue
        name = _MOVES.get(kind, LineKind.ADJUSTMENT)
        sums[name] = sums.get(name, money.ZERO) + flow.net
    lines = [Line(name, sums[name]) for name in LineKind.values if name in sums]
    lines += [line._replace(exact_usd=-line.exact_usd) for line in usage]
    if carried:
        lines.append(Line(LineKind.CARRIED, carried))
    return lines


def _wrong(used: Sequence[Paid], charged: Decimal) -> tuple[str, ...]:
    """What makes a document wrong, whoever looks at it."""
    if len(used) > LINES_MAX:
        return (f"more than {LINES_MAX} lines of usage",)
    doubts = []
    shown = sum((paid.cost_usd for paid in used), money.ZERO)
    if shown != charged:
        doubts.append(f"usage of {money.plain(shown)} USD, and the ledger charged {money.plain(charged)}")
    apart = Counter((one.model, one.service_tier, one.batch, one.api_key_id, one.project_id) for one in used)
    doubts += [f"{count} lines of {key[0]}" for key, count in apart.items() if count > 1]
    return tuple(doubts)


def _large(profile: BillingProfile, total: Decimal, trailing: Decimal | None) -> tuple[str, ...]:
    """What makes a document look wrong."""
    bound = settings.INVOICE_BOUND_USD if profile.bound_usd is None else profile.bound_usd
    doubts = []
    if total > bound:
        doubts.append(f"{money.plain(total)} USD is above the bound of {money.plain(Decimal(bound))}")
    if trailing is not None and total > max(JUMP * trailing, Decimal(settings.INVOICE_JUMP_FLOOR_USD)):
        mean = money.plain(rounding.to_cents(trailing))
        doubts.append(f"{money.plain(total)} USD is more than {JUMP} times the mean before of {mean}")
    return tuple(doubts)


def _draft_all(chunk: Sequence[BillingPeriod]) -> list[str]:
    """Draft periods together; if that fails one by one, and whichever fails alone is parked for a person."""
    try:
        worked = work_out(chunk)
        failpoints.reach("close.after_snapshot")
        return retry(lambda: _draft(worked))
    except Exception as error:
        if is_outage(error):
            raise
        log.exception("%d periods could not be drafted", len(chunk))
        if len(chunk) == 1:
            parked = _parked(chunk[0].pk, _said(error), State.OPEN)
            if parked is None:
                raise
            return [parked]
        return [state for period in chunk for state in _draft_all([period])]


def _said(error: Exception) -> str:
    """Why a person should look, where nothing better is known."""
    return f"{type(error).__name__}: {error}"[:500]


@transaction.atomic(durable=True)
def _draft(worked: Sequence[Worked]) -> list[str]:
    """Write the drafts of periods that are still open, and open those that follow; the states they are left in."""
    rows = BillingPeriod.objects.select_for_update(no_key=True, skip_locked=True).order_by("pk")
    locked = {row.pk: row for row in rows.filter(pk__in=[one.period.pk for one in worked], state=State.OPEN)}
    mine = [one for one in worked if one.period.pk in locked]
    now = clock.now()
    grace = timedelta(hours=settings.INVOICE_GRACE_HOURS)
    for one in mine:
        period = locked[one.period.pk]
        _keep(period, one)
        period.drafted_at, period.finalize_at = now, period.ends_at + grace
        if one.doubts:
            period.state, period.parked_for = State.PARKED, "; ".join(one.doubts)
        elif one.draft is None:
            # Nothing to look at, so nothing to wait for.
            period.state, period.finalized_at = State.FINALIZED, now
        else:
            period.state = State.DRAFTED
    if not mine:
        return []
    invoices.write([one.draft for one in mine if one.draft is not None and _fits(one.draft)])
    failpoints.reach("close.after_documents")
    _store(locked.values())
    BillingPeriod.objects.bulk_create([_next(one) for one in mine], ignore_conflicts=True)
    failpoints.reach("close.before_commit")
    return [row.state for row in locked.values()]


_STORE = """
    UPDATE billing_period p SET state = w.state, charged_usd = w.charged, closing_usd = w.closing,
        overdraft_usd = w.overdraft, carried_usd = w.carried, parked_for = w.parked_for, drafted_at = w.drafted_at,
        finalize_at = w.finalize_at, finalized_at = w.finalized_at
    FROM unnest(%s::uuid[], %s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::text[],
        %s::timestamptz[], %s::timestamptz[], %s::timestamptz[])
        AS w (id, state, charged, closing, overdraft, carried, parked_for, drafted_at, finalize_at, finalized_at)
    WHERE p.id = w.id
"""


def _store(periods_drafted: Collection[BillingPeriod]) -> None:
    """Keep what drafting made of periods: one statement."""
    columns = zip(
        *(
            (
                row.pk, str(row.state), row.charged_usd, row.closing_usd, row.overdraft_usd, row.carried_usd,
                row.parked_for, row.drafted_at, row.finalize_at, row.finalized_at,
            )
            for row in periods_drafted
        ),
        strict=True,
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_STORE, [list(column) for column in columns])


def _fits(draft: Draft) -> bool:
    """Whether a draft can be written: each line is another one, there are not too many, and they add up.

    Those of a statement do not where usage and ledger differ; what is said of its period then is that.
    """
    usage = [line[2:8] for line in draft.lines if line.kind == LineKind.USAGE]
    return len(set(usage)) == len(usage) <= LINES_MAX and abs(draft.subtotal_usd - draft.exact_usd) <= rounding.HALF


def _keep(period: BillingPeriod, worked: Worked) -> None:
    period.charged_usd, period.closing_usd = worked.charged_usd, worked.closing_usd
    period.overdraft_usd, period.carried_usd = worked.overdraft_usd, worked.carried_usd


def _next(worked: Worked) -> BillingPeriod:
    """The period that begins where this one ended, by zone and anchor as they are now."""
    before, profile = worked.period, worked.profile
    zone = profile.organization.time_zone
    found = periods.following(before.ends_at, anchor_day=profile.anchor_day, zone=ZoneInfo(zone))
    return BillingPeriod(
        organization_id=before.organization_id, starts_at=found.starts_at, ends_at=found.ends_at,
        follows=before.ends_at, zone=zone, anchor_day=profile.anchor_day,
    )  # fmt: skip


def _finalize_all(chunk: Sequence[BillingPeriod]) -> list[str]:
    """Work drafts out once more and finalize each in a transaction of its own; the states they are left in."""
    worked = work_out(chunk)
    failpoints.reach("finalize.after_snapshot")
    done = [retry(lambda one=one: _finalize(one)) for one in worked]  # type: ignore[misc]
    return [state for state in done if state is not None]


def _finalize(worked: Worked) -> str | None:
    """Finalize a draft, or park it; none where another worker was faster."""
    try:
        return _finalized(worked)
    except taxes.RateMissing as error:
        return _parked(worked.period.pk, str(error), State.DRAFTED)
    except Exception as error:
        # What may pass is tried again by whoever calls; a database that is gone is gone for all.
        if is_outage(error) or sqlstate(error) in RETRYABLE:
            raise
        log.exception("period %s could not be finalized", worked.period.pk)
        parked = _parked(worked.period.pk, _said(error), State.DRAFTED)
        if parked is None:
            raise
        return parked


@transaction.atomic(durable=True)
def _finalized(worked: Worked) -> str | None:
    period = _locked(worked)
    if period is None:
        return None
    if worked.doubts:
        return _park(period, "; ".join(worked.doubts))
    _keep(period, worked)
    period.state, period.finalized_at = State.FINALIZED, clock.now()
    if worked.draft is not None:
        invoices.write([worked.draft])
        failpoints.reach("finalize.after_draft")
    period.save()
    if worked.draft is not None:
        invoices.issue(Invoice.objects.get(period_id=period.pk), profile=worked.profile)
    failpoints.reach("finalize.before_commit")
    return State.FINALIZED


@transaction.atomic(durable=True)
def _parked(period_id: UUID, why: str, state: str) -> str | None:
    rows = BillingPeriod.objects.select_for_update(no_key=True, skip_locked=True)
    period = rows.filter(pk=period_id, state=state).first()
    return None if period is None else _park(period, why)


def _locked(worked: Worked) -> BillingPeriod | None:
    rows = BillingPeriod.objects.select_for_update(no_key=True, skip_locked=True)
    return rows.filter(pk=worked.period.pk, state=State.DRAFTED).first()


def _park(period: BillingPeriod, why: str) -> str:
    period.state, period.parked_for = State.PARKED, why
    period.save(update_fields=["state", "parked_for"])
    return State.PARKED
