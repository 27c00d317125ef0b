"""Ceilings. The only module that writes ``Budget`` and ``BudgetSpend``.

Everything that counts runs under the lock of the organization's wallet, so a ceiling is never
passed by two at once. A rolling window is made of five-minute buckets by ``recorded_at`` and
rounded outwards (decisions 7); a calendar month has one bucket and begins in the organization's zone.

People are told when ``warn_percent`` of a ceiling is used, and when all of it is; again only after the use had
fallen by a tenth below that line, so that a rolling window that stays close to it does not tell every few minutes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Model

from billing import ledger
from billing.models import Budget, BudgetSpend
from core import clock, errors, ids, money
from core.bulk import array
from metering import usage
from ops import outbox
from orgs import audit, organizations
from orgs.audit import Actor
from orgs.models import ApiKey, Member, Project

BUCKET = timedelta(minutes=5)
LENGTHS = {
    Budget.Window.FIVE_HOURS: timedelta(hours=5),
    Budget.Window.DAY: timedelta(days=1),
    Budget.Window.WEEK: timedelta(days=7),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WARN_PERCENT = 80
# What was told is told again once the use has been below this part of its line.
QUIET_PERCENT = 90
Subject = Budget.Subject
Unit = Budget.Unit
Level = Budget.Level


class Counted(NamedTuple):
    """What a request counts against ceilings, and whose it is. ``usd`` and ``tokens`` may be negative."""

    organization_id: UUID
    project_id: UUID | None
    member_id: UUID | None
    api_key_id: UUID | None
    usd: Decimal
    tokens: int

    def under(self, subject: str, subject_id: UUID) -> bool:
        """Whether a ceiling on this subject counts it."""
        mine = {
            Subject.ORGANIZATION: self.organization_id,
            Subject.PROJECT: self.project_id,
            Subject.MEMBER: self.member_id,
            Subject.KEY: self.api_key_id,
        }
        return mine[Subject(subject)] == subject_id


class Freed(NamedTuple):
    """What a settled hold no longer reserves under these ceilings."""

    organization_id: UUID
    budget_ids: Sequence[UUID]
    usd: Decimal
    tokens: int


class Live(NamedTuple):
    """A ceiling as it stands under the lock, its window moved up to the present."""

    id: UUID
    organization_id: UUID
    subject: str
    subject_id: UUID
    window: str
    unit: str
    ceiling: Decimal
    spent: Decimal
    held: Decimal
    counted_from: datetime
    warn_percent: int
    level: int

    def amount(self, usd: Decimal, tokens: int) -> Decimal:
        """An amount in the ceiling's unit."""
        return usd if self.unit == Unit.USD else Decimal(tokens)


def starts(window: str, at: datetime, *, time_zone: str) -> datetime:
    """Where the window that ends ``at`` begins: a whole bucket, so never later than its exact beginning."""
    if window == Budget.Window.MONTH:
        local = at.astimezone(ZoneInfo(time_zone))
        return local.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)
    return floor(at - LENGTHS[Budget.Window(window)])


def floor(at: datetime) -> datetime:
    """The start of the five minutes that an instant lies in."""
    return at - (at - _EPOCH) % BUCKET


def bucket(window: str, at: datetime, *, time_zone: str) -> datetime:
    """Where an instant is counted."""
    return starts(window, at, time_zone=time_zone) if window == Budget.Window.MONTH else floor(at)


def falls_out(window: str, start: datetime, *, time_zone: str) -> datetime:
    """When what was counted in the bucket that begins at ``start`` is no longer in the window."""
    if window == Budget.Window.MONTH:
        local = start.astimezone(ZoneInfo(time_zone))
        following = (local.replace(day=28) + timedelta(days=4)).replace(day=1, hour=0, minute=0, fold=0)
        return following.astimezone(UTC)
    return start + LENGTHS[Budget.Window(window)] + BUCKET


def reserve(asked: Counted, *, at: datetime) -> list[UUID]:
    """Reserve what a request may use under every ceiling that counts it; the ceilings.

    The caller holds the lock of the organization's wallet. Raises ``BudgetExceeded`` and has
    then reserved nothing that the caller's transaction keeps.
    """
    live = [one for one in _live([asked.organization_id], at=at) if asked.under(one.subject, one.subject_id)]
    for one in live:
        amount = one.amount(asked.usd, asked.tokens)
        if one.spent + one.held + amount > one.ceiling:
            raise _refusal(one, amount, at=at)
    if live:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE budget SET held = held + new.amount FROM unnest(%s::uuid[], %s::numeric[]) AS new (id, amount)"
                " WHERE budget.id = new.id",
                [array(one.id for one in live), array(one.amount(asked.usd, asked.tokens) for one in live)],
            )
    return [one.id for one in live]


def free(settled: Iterable[Freed]) -> None:
    """Give up what holds reserved under ceilings. The caller holds the locks of the organizations' wallets."""
    usd: dict[UUID, Decimal] = {}
    tokens: dict[UUID, int] = {}
    for one in settled:
        for budget_id in one.budget_ids:
            usd[budget_id] = usd.get(budget_id, money.ZERO) + one.usd
            tokens[budget_id] = tokens.get(budget_id, 0) + one.tokens
    if usd:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE budget SET held = held - CASE unit WHEN 'usd' THEN new.usd ELSE new.tokens END"
                " FROM unnest(%s::uuid[], %s::numeric[], %s::numeric[]) AS new (id, usd, tokens)"
                " WHERE budget.id = new.id",
                [array(usd), array(usd.values()), array(tokens.values())],
            )


def count(entries: Collection[Counted], *, at: datetime) -> None:
    """Count usage recorded ``at`` against every ceiling. The caller holds the locks of the organizations' wallets."""
    sums: dict[tuple[UUID, UUID | None, UUID | None, UUID | None], Counted] = {}
    for one in entries:
        key = one[:4]
        known = sums.get(key)
        sums[key] = one if known is None else known._replace(usd=known.usd + one.usd, tokens=known.tokens + one.tokens)
    added: dict[UUID, Decimal] = {}
    live = {one.id: one for one in _live({key[0] for key in sums}, at=at)}
    for one in sums.values():
        for ceiling in live.values():
            if ceiling.organization_id == one.organization_id and one.under(ceiling.subject, ceiling.subject_id):
                amount = ceiling.amount(one.usd, one.tokens)
                added[ceiling.id] = added.get(ceiling.id, money.ZERO) + amount
    if added:
        _add({live[budget_id]: amount for budget_id, amount in added.items()}, at=at)


def _add(added: Mapping[Live, Decimal], *, at: datetime) -> None:
    zones = organizations.find_ids({one.organization_id for one in added})
    rows = [
        (one, amount, bucket(one.window, at, time_zone=zones[one.organization_id].time_zone))
        for one, amount in added.items()
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO budget_spend (organization_id, budget_id, bucket, amount)"
            " SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[], %s::numeric[])"
            " ON CONFLICT (organization_id, budget_id, bucket) DO UPDATE SET amount = budget_spend.amount"
            " + excluded.amount",
            [
                array(one.organization_id for one, _, _ in rows),
                array(one.id for one, _, _ in rows),
                [start for _, _, start in rows],
                array(amount for _, amount, _ in rows),
            ],
        )
        # Whoever waited for the lock across a window's end counts in the bucket of its own time only.
        inside = [(one, amount) for one, amount, start in rows if start >= one.counted_from]
        cursor.execute(
            "UPDATE budget SET spent = spent + new.amount FROM unnest(%s::uuid[], %s::numeric[]) AS new (id, amount)"
            " WHERE budget.id = new.id",
            [array(one.id for one, _ in inside), array(amount for _, amount in inside)],
        )
    _tell([one._replace(spent=one.spent + amount) for one, amount in inside], at=at)


def _tell(live: Iterable[Live], *, at: datetime) -> None:
    """Keep how close each ceiling is, and leave a message for each that has come closer."""
    crossed = [(one, now) for one in live if (now := _level(one)) != one.level]
    if not crossed:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE budget SET level = new.level FROM unnest(%s::uuid[], %s::int[]) AS new (id, level)"
            " WHERE budget.id = new.id",
            [array(one.id for one, _ in crossed), [int(now) for _, now in crossed]],
        )
    outbox.post_many(
        [
            outbox.Message(
                "budget.full" if now == Level.FULL else "budget.near",
                one.organization_id, f"{one.id}:{floor(at).isoformat()}", _told(one),
            )
            for one, now in crossed
            if now > one.level
        ]
    )  # fmt: skip


def _level(one: Live) -> Level:
    """How close a ceiling is: further at once, and back only once it is well below the line."""
    reached = _reached(one.spent, one.ceiling, one.warn_percent)
    kept = _reached(one.spent * 100, one.ceiling * QUIET_PERCENT, one.warn_percent)
    return max(reached, min(Level(one.level), kept))


def _reached(spent: Decimal, ceiling: Decimal, warn_percent: int) -> Level:
    if spent >= ceiling:
        return Level.FULL
    return Level.NEAR if spent * 100 >= ceiling * warn_percent else Level.QUIET


def _told(one: Live) -> dict[str, str]:
    """What a message says of a ceiling."""
    table = _TABLES.get(Subject(one.subject))
    column = "user__email" if one.subject == Subject.MEMBER else "name"
    name = "" if table is None else table._default_manager.values_list(column, flat=True).get(pk=one.subject_id)
    return {
        "budget": ids.show("budget", one.id), "on": one.subject, "name": name, "window": one.window, "unit": one.unit,
        "ceiling": money.plain(one.ceiling), "used": money.plain(one.spent),
    }  # fmt: skip


def _live(organization_ids: Collection[UUID], *, at: datetime) -> list[Live]:
    """The ceilings of these organizations, after taking out what has left their windows."""
    with connection.cursor() as cursor:
        cursor.execute(
            'SELECT id, organization_id, subject, subject_id, "window", unit, ceiling, spent, held, counted_from,'
            " warn_percent, level FROM budget"
            " WHERE organization_id = ANY(%s::uuid[]) AND removed_at IS NULL ORDER BY id",
            [array(organization_ids)],
        )
        live = [Live(*row) for row in cursor.fetchall()]
    zones = organizations.find_ids({one.organization_id for one in live})
    moved = {}
    for one in live:
        start = starts(one.window, at, time_zone=zones[one.organization_id].time_zone)
        if start > one.counted_from:
            moved[one.id] = start
    if not moved:
        return live
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE budget SET counted_from = new.start, spent = spent - coalesce((SELECT sum(amount)"
            " FROM budget_spend s WHERE s.organization_id = budget.organization_id AND s.budget_id = budget.id"
            " AND s.bucket >= budget.counted_from AND s.bucket < new.start), 0)"
            " FROM unnest(%s::uuid[], %s::timestamptz[]) AS new (id, start)"
            " WHERE budget.id = new.id RETURNING budget.id, budget.spent, budget.counted_from",
            [array(moved), list(moved.values())],
        )
        changed = {row[0]: row[1:] for row in cursor.fetchall()}
    return [
        one._replace(spent=changed[one.id][0], counted_from=changed[one.id][1]) if one.id in changed else one
        for one in live
    ]


def _refusal(one: Live, amount: Decimal, *, at: datetime) -> errors.BudgetExceeded:
    """The refusal, with the seconds after which the same request fits, if it ever does."""
    unit = "USD" if one.unit == Unit.USD else "tokens"
    used = f"{money.plain(one.spent)} {unit} used and {money.plain(one.held)} held"
    message = (
        f"The {Budget.Window(one.window).label} ceiling of the {one.subject} is {money.plain(one.ceiling)} {unit}:"
        f" {used}, {money.plain(amount)} asked for."
    )
    fits = _fits_at(one, amount)
    # Rounded up: a request sent then fits.
    after = {} if fits is None else {"Retry-After": str(max(1, -((at - fits) // timedelta(seconds=1))))}
    return errors.BudgetExceeded(message, headers=after)


def _fits_at(one: Live, amount: Decimal) -> datetime | None:
    """When enough has left the window, or been given up by holds at their end, for ``amount`` to fit."""
    if amount > one.ceiling:
        return None
    zone = organizations.find_ids([one.organization_id])[one.organization_id].time_zone
    leaving = [
        (falls_out(one.window, start, time_zone=zone), gone)
        for start, gone in BudgetSpend.objects.filter(
            organization_id=one.organization_id, budget_id=one.id, bucket__gte=one.counted_from
        ).values_list("bucket", "amount")
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT expires_at, CASE WHEN %s THEN amount_usd ELSE tokens END FROM hold"
            " WHERE organization_id = %s AND state = 'open' AND budget_ids @> ARRAY[%s]::uuid[]",
            [one.unit == Unit.USD, one.organization_id, one.id],
        )
        leaving += [(end, Decimal(gone)) for end, gone in cursor.fetchall()]
    over = one.spent + one.held + amount - one.ceiling
    for when, gone in sorted(leaving):
        over -= gone
        if over <= 0:
            return when
    return None


@transaction.atomic
def set_ceiling(
    *,
    organization_id: UUID,
    subject: str,
    subject_id: UUID,
    window: str,
    unit: str,
    ceiling: Decimal,
    warn_percent: int | None = None,
    by: Actor,
) -> Budget:
    """Set a ceiling, or change the one that stands. What was used in its window so far counts; open holds do not.

    ``warn_percent`` (1 to 100) is where people are told, None leaves it; whoever sets a ceiling that is close already
    is not told. Raises ``OutOfRange`` for a ceiling below zero and for a subject that is none of the organization's.
    """
    if not money.holds(ceiling):
        raise errors.OutOfRange("ceiling is zero or more, with at most 12 decimals.", param="ceiling")
    if warn_percent is not None and not 1 <= warn_percent <= 100:
        raise errors.OutOfRange("warn_percent is a whole number from 1 to 100.", param="warn_percent")
    if not _owns(organization_id, subject, subject_id):
        raise errors.OutOfRange(f"The organization has no such {subject}.", param="subject_id")
    at = usage.started_at()
    ledger.set_terms(organization_id, ledger.Terms(has_budgets=True))
    same = {"organization_id": organization_id, "subject": subject, "subject_id": subject_id}
    found = Budget.objects.filter(**same, window=window, unit=unit, removed_at__isnull=True).first()
    before = None if found is None else money.plain(found.ceiling)
    if found is None:
        zone = organizations.find_ids([organization_id])[organization_id].time_zone
        found = Budget.objects.create(
            **same, window=window, unit=unit, ceiling=ceiling, counted_from=starts(window, at, time_zone=zone),
            warn_percent=warn_percent or WARN_PERCENT,
        )  # fmt: skip
        _backfill(found)
        found.refresh_from_db()
    warn = warn_percent or found.warn_percent
    level = _reached(found.spent, ceiling, warn)
    Budget.objects.filter(pk=found.pk).update(ceiling=ceiling, warn_percent=warn, level=level)
    audit.note(
        actor=by, verb="budget.set", subject=found, organization=found.organization,
        details={
            "subject": subject, "subject_id": str(subject_id), "window": window, "unit": unit, "before": before,
            "ceiling": money.plain(ceiling), "warn_percent": warn,
        },
    )  # fmt: skip
    return Budget.objects.get(pk=found.pk)


def _owns(organization_id: UUID, subject: str, subject_id: UUID) -> bool:
    """Whether a subject is the organization or a part of it; what has ended since counts as such."""
    table = _TABLES.get(Subject(subject))
    if table is None:
        return subject_id == organization_id
    return table._default_manager.filter(pk=subject_id, organization_id=organization_id).exists()


def find(*, organization_id: UUID, shown: str) -> Budget:
    """An organization's ceiling that holds, by the id that customers see. Raises ``NotFound``."""
    try:
        wanted = ids.read("budget", shown)
    except ValueError as error:
        raise errors.NotFound from error
    found: Budget | None = Budget.objects.filter(
        pk=wanted, organization_id=organization_id, removed_at__isnull=True
    ).first()
    if found is None:
        raise errors.NotFound
    return found


@transaction.atomic
def remove_ceiling(*, budget_id: UUID, by: Actor) -> None:
    """Lift a ceiling. One lifted before stays as it is."""
    found = Budget.objects.filter(pk=budget_id).first()
    if found is None:
        raise errors.NotFound
    ledger.lock([found.organization_id])
    if not Budget.objects.filter(pk=budget_id, removed_at__isnull=True).update(removed_at=clock.now()):
        return
    if not Budget.objects.filter(organization_id=found.organization_id, removed_at__isnull=True).exists():
        ledger.set_terms(found.organization_id, ledger.Terms(has_budgets=False))
    audit.note(
        actor=by, verb="budget.removed", subject=found, organization=found.organization,
        details={
            "subject": found.subject, "subject_id": str(found.subject_id), "window": found.window, "unit": found.unit,
            "before": money.plain(found.ceiling),
        },
    )  # fmt: skip


_TABLES: dict[Subject, type[Model]] = {Subject.PROJECT: Project, Subject.MEMBER: Member, Subject.KEY: ApiKey}
_COLUMN = {Subject.PROJECT: "project_id", Subject.MEMBER: "member_id", Subject.KEY: "api_key_id"}


def _backfill(made: Budget) -> None:
    """Count what the window already holds, from the records."""
    column = _COLUMN.get(Subject(made.subject))
    chosen = f"AND {column} = %(subject)s" if column else ""
    month = made.window == Budget.Window.MONTH
    place = "%(start)s" if month else "date_bin('5 minutes', recorded_at, timestamptz '1970-01-01 00:00Z')"
    value = "cost_usd" if made.unit == Unit.USD else "input_tokens + output_tokens"
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH counted AS (INSERT INTO budget_spend (organization_id, budget_id, bucket, amount)"
            f" SELECT %(organization)s, %(budget)s, {place}, sum({value}) FROM usage_record"
            f" WHERE organization_id = %(organization)s AND id >= %(first)s {chosen} GROUP BY 3 RETURNING amount)"
            " UPDATE budget SET spent = coalesce((SELECT sum(amount) FROM counted), 0) WHERE id = %(budget)s",
            {
                "organization": made.organization_id, "budget": made.pk, "start": made.counted_from,
                "first": ids.floor(made.counted_from), "subject": made.subject_id,
            },
        )  # fmt: skip


class Standing(NamedTuple):
    """A ceiling and what its window holds now, in its unit."""

    budget: Budget
    ceiling: Decimal
    spent: Decimal
    held: Decimal

    @property
    def left(self) -> Decimal:
        """What may still be asked for; never below zero."""
        return max(self.ceiling - self.spent - self.held, money.ZERO)


def standing(organization_id: UUID) -> list[Standing]:
    """An organization's ceilings as they stand now. Reads only."""
    found = list(Budget.objects.filter(organization_id=organization_id, removed_at__isnull=True).order_by("id"))
    if not found:
        return []
    zone = organizations.find_ids([organization_id])[organization_id].time_zone
    now = clock.now()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT w.id, coalesce(sum(s.amount), 0) FROM unnest(%s::uuid[], %s::timestamptz[]) AS w (id, start)"
            " LEFT JOIN budget_spend s ON s.organization_id = %s AND s.budget_id = w.id AND s.bucket >= w.start"
            " GROUP BY w.id",
            [
                array(one.pk for one in found),
                [starts(one.window, now, time_zone=zone) for one in found],
                organization_id,
            ],
        )
        spent: dict[UUID, Decimal] = dict(cursor.fetchall())
    return [Standing(one, one.ceiling, spent[one.pk], one.held) for one in found]


def tightest(organization_id: UUID, key_id: UUID) -> Standing | None:
    """The ceiling in dollars of a key that has the least left, if it has any."""
    mine = [
        one
        for one in standing(organization_id)
        if one.budget.subject == Subject.KEY and one.budget.subject_id == key_id and one.budget.unit == Unit.USD
    ]
    return min(mine, key=lambda one: one.left, default=None)


def trim() -> int:
    """Delete buckets that no window reaches any more, at most 10,000; how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            # What a ceiling that nobody asks still counts is taken out of it when somebody does.
            "DELETE FROM budget_spend WHERE (organization_id, budget_id, bucket) IN (SELECT s.organization_id,"
            " s.budget_id, s.bucket FROM budget_spend s JOIN budget b ON b.id = s.budget_id"
            " WHERE s.bucket < clock_timestamp() - interval '40 days'"
            " AND (s.bucket < b.counted_from OR b.removed_at IS NOT NULL) LIMIT 10000)"
        )
        deleted: int = cursor.rowcount
        return deleted
