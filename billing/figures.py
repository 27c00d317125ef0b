"""The figures that finance begins the day with: what was sold and what it cost us, what we owe, what waits.

Reads only. What was sold is read from the rollups, as far as they are folded (``Sales.until``), so no figure
here reads usage records: each takes one statement, however much was used. A UTC day that is folded as a whole
never changes, so it is remembered for a while.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.core.cache import cache
from django.db import connection
from django.db.models import Count, Min, Q, Sum

from billing.models import CheckRun, Difference, Dispute, TopUp, Wallet
from core import clock, errors, ids, money
from metering import rollups
from ops.models import Approval, JobRun

DAYS_MAX = 92
CUSTOMERS_MAX = 500
# A day that is over is read again after so long, for the case that its quarters were folded again by hand.
REMEMBER = timedelta(hours=1)
_KEY = "billing.figures.day.{}"


class Sold(NamedTuple):
    """What customers paid for usage, and what their gateways said that it cost us; net of corrections.

    Where a gateway said nothing, ``provider_cost_usd`` has nothing of it: the margin is at most this.
    """

    requests: int = 0
    revenue_usd: Decimal = money.ZERO
    provider_cost_usd: Decimal = money.ZERO

    @property
    def margin_usd(self) -> Decimal:
        """Revenue less provider cost."""
        return self.revenue_usd - self.provider_cost_usd

    def plus(self, other: "Sold") -> "Sold":
        """Both together."""
        return Sold(
            self.requests + other.requests,
            self.revenue_usd + other.revenue_usd,
            self.provider_cost_usd + other.provider_cost_usd,
        )


class Sales(NamedTuple):
    """What was sold: each day from the first to the last, also those without anything; each model, the largest first.

    ``until`` is the instant before which everything is in it.
    """

    days: list[tuple[date, Sold]]
    models: list[tuple[str, Sold]]
    total: Sold
    until: datetime


_DAYS = """
    SELECT (starts_at AT TIME ZONE 'UTC')::date, model, sum(requests)::int8, sum(cost_usd), sum(provider_cost_usd)
    FROM usage_rollup WHERE starts_at >= %s AND starts_at < %s
    GROUP BY 1, 2
"""


def sales(*, start: date, end: date) -> Sales:
    """What was sold on the UTC days from ``start`` until before ``end``. Raises ``OutOfRange`` for none or too many."""
    _check(start, end)
    wanted = [start + timedelta(days=number) for number in range((end - start).days)]
    until = rollups.folded_until()
    known = _remembered(wanted)
    missing = [day for day in wanted if day not in known]
    if missing:
        known |= _read(missing, until)
    days, models, total = [], dict[str, Sold](), Sold()
    for day in wanted:
        of_day = Sold()
        for model, sold in known[day].items():
            of_day = of_day.plus(sold)
            models[model] = models.get(model, Sold()).plus(sold)
        days.append((day, of_day))
        total = total.plus(of_day)
    return Sales(days, sorted(models.items(), key=_largest), total, until)


def _largest(one: tuple[str, Sold]) -> tuple[Decimal, str]:
    return -one[1].revenue_usd, one[0]


def _remembered(days: Sequence[date]) -> dict[date, dict[str, Sold]]:
    found = cache.get_many([_KEY.format(day) for day in days])
    return {day: found[_KEY.format(day)] for day in days if _KEY.format(day) in found}


def _read(days: Sequence[date], until: datetime) -> dict[date, dict[str, Sold]]:
    """What was sold on these days, from the first to the last in one statement; days that are over are remembered."""
    found: dict[date, dict[str, Sold]] = {day: {} for day in days}
    with connection.cursor() as cursor:
        cursor.execute(_DAYS, [_midnight(days[0]), _midnight(days[-1] + timedelta(days=1))])
        for day, model, *sums in cursor.fetchall():
            if day in found:
                found[day][model] = Sold(*sums)
    over = [day for day in days if _midnight(day + timedelta(days=1)) <= until]
    cache.set_many({_KEY.format(day): found[day] for day in over}, REMEMBER.total_seconds())
    return found


class Customer(NamedTuple):
    """What one organization used, by the name that people know it by."""

    organization_id: UUID
    slug: str
    sold: Sold


_CUSTOMERS = """
    SELECT sold.organization_id, o.slug, sold.requests, sold.revenue, sold.cost FROM (
        SELECT organization_id, sum(requests)::int8 AS requests, sum(cost_usd) AS revenue,
            sum(provider_cost_usd) AS cost
        FROM usage_rollup
        WHERE starts_at >= %(start)s AND starts_at < %(end)s AND (%(model)s = '' OR model = %(model)s)
        GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT %(limit)s
    ) sold JOIN organization o ON o.id = sold.organization_id
    ORDER BY sold.revenue DESC, o.slug
"""


def customers(*, start: date, end: date, model: str = "") -> list[Customer]:
    """To whom it was sold on these UTC days, of one model or of all: the first ``CUSTOMERS_MAX``, the largest first.

    Raises ``OutOfRange`` for no day or too many.
    """
    _check(start, end)
    values: dict[str, Any] = {
        "start": _midnight(start),
        "end": _midnight(end),
        "model": model,
        "limit": CUSTOMERS_MAX,
    }
    with connection.cursor() as cursor:
        cursor.execute(_CUSTOMERS, values)
        return [Customer(owner, slug, Sold(*sums)) for owner, slug, *sums in cursor.fetchall()]


def _check(start: date, end: date) -> None:
    if not timedelta(0) < end - start <= timedelta(days=DAYS_MAX):
        raise errors.OutOfRange(f"A period has 1 to {DAYS_MAX} days.", param="last")


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


class Wallets(NamedTuple):
    """What all wallets come to.

    ``posted_usd`` is what we owe in usage, ``paid_usd`` the part of it that was bought and ``given_usd`` the rest;
    ``overdraft_usd`` is what customers owe us, ``held_usd`` what open holds reserve.
    """

    number: int
    posted_usd: Decimal
    paid_usd: Decimal
    given_usd: Decimal
    held_usd: Decimal
    overdraft_usd: Decimal
    overdrawn: int
    frozen: int


def wallets() -> Wallets:
    """All wallets together, with the open grants that they are made of."""
    found = Wallet.objects.aggregate(
        number=Count("pk"),
        posted=Sum("posted_usd", default=money.ZERO),
        held=Sum("held_usd", default=money.ZERO),
        overdraft=Sum("overdraft_usd", default=money.ZERO),
        overdrawn=Count("pk", filter=Q(overdraft_usd__gt=0)),
        frozen=Count("pk", filter=Q(frozen_at__isnull=False)),
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(remaining_usd), 0) FROM credit_grant"
            " WHERE is_open AND transfer_id IS NOT NULL AND kind = 'purchased'"
        )
        paid: Decimal = cursor.fetchone()[0]
    return Wallets(
        found["number"], found["posted"], paid, found["posted"] - paid, found["held"], found["overdraft"],
        found["overdrawn"], found["frozen"],
    )  # fmt: skip


class TopUps(NamedTuple):
    """Purchases of credit since an instant: how many succeeded and for how much, without tax; how many else."""

    succeeded: int
    usd: Decimal
    open: int
    failed: int


_OPEN = (TopUp.State.PENDING, TopUp.State.PROCESSING, TopUp.State.REQUIRES_ACTION)


def topups(*, since: datetime) -> TopUps:
    """Those begun since then."""
    found = TopUp.objects.filter(pk__gte=ids.floor(since)).aggregate(
        succeeded=Count("pk", filter=Q(state=TopUp.State.SUCCEEDED)),
        usd=Sum("amount_usd", filter=Q(state=TopUp.State.SUCCEEDED), default=money.ZERO),
        open=Count("pk", filter=Q(state__in=_OPEN)),
        failed=Count("pk", filter=Q(state__in=(TopUp.State.FAILED, TopUp.State.CANCELED))),
    )
    return TopUps(**found)


class Disputes(NamedTuple):
    """Payments that are contested now: how many, for how much, and what of their credit lies aside."""

    number: int
    usd: Decimal
    frozen_usd: Decimal


def disputes() -> Disputes:
    """The open ones, and those that are only asked about."""
    found = Dispute.objects.filter(state__in=(Dispute.State.OPEN, Dispute.State.INQUIRY)).aggregate(
        number=Count("pk"),
        usd=Sum("amount_usd", default=money.ZERO),
        frozen_usd=Sum("frozen_usd", default=money.ZERO),
    )
    return Disputes(**found)


class Checks(NamedTuple):
    """What ``verify`` last found: how many checks there are, which do not hold, and when the oldest result is from."""

    number: int
    broken: list[str]
    oldest: datetime | None


def checks() -> Checks:
    """The last result of each check."""
    found = CheckRun.objects.aggregate(number=Count("pk"), oldest=Min("began_at"))
    broken = CheckRun.objects.filter(ok=False).order_by("name").values_list("name", flat=True)
    return Checks(found["number"], list(broken), found["oldest"])


def failing_jobs() -> list[str]:
    """Jobs whose newest run failed, or that were put aside."""
    return list(JobRun.objects.filter(ok=False).order_by("name").values_list("name", flat=True))


def questions() -> int:
    """How many questions wait for a second person."""
    return Approval.objects.filter(decided_at__isnull=True).count()


def differences() -> int:
    """How many differences with Stripe and providers nobody has explained."""
    return Difference.objects.filter(state=Difference.State.OPEN).count()


def last_days(number: int) -> tuple[date, date]:
    """The UTC days up to today: the first, and the day after the last."""
    today = clock.now().astimezone(UTC).date()
    return today - timedelta(days=number - 1), today + timedelta(days=1)
