"""The first page: what is left, how fast it goes, when it runs out, what took it, and what needs a look."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch
from django.views.decorators.http import require_safe

from billing import budgets, statement, wallets
from billing.books import Lot
from billing.models import Budget, Wallet
from billing.wallets import State
from core import clock, money
from metering import rollups
from metering.filters import Filters
from metering.rollups import Only
from orgs import permissions
from orgs.models import ApiKey
from portal import charts, credit, days, desk, names, periods, requests, usage
from portal.budgets import WINDOWS, percent
from portal.charts import Trend
from portal.desk import Desk

DAYS: Final = 30
# The forecast goes by as many whole days before today, fewer where the first use is younger.
PACE_DAYS: Final = 7
FORECAST_DAYS_MAX: Final = 3650
# How far ahead the chart draws it.
AHEAD_DAYS: Final = 14
GROUPS_MAX: Final = 50_000
KEYS_SHOWN: Final = 5
REQUESTS_SHOWN: Final = 5
GRANTS_SHOWN: Final = 5
SOON: Final = timedelta(days=30)
DAY: Final = timedelta(days=1)
# A ceiling is near its end from this part on.
NEAR: Final = Decimal("0.8")


class Forecast(NamedTuple):
    """How long what is left lasts at the pace of the last ``over`` days: ``days`` from now; None if none is known.

    ``unused_usd`` is credit that ends before it is used.
    """

    pace_usd: Decimal
    days: int | None
    runs_out: datetime | None
    over: int = PACE_DAYS
    unused_usd: Decimal = money.ZERO


def forecast(
    *, available_usd: Decimal, spent_usd: Decimal, over: int, now: datetime, lots: Sequence[Lot] = ()
) -> Forecast:
    """When ``available_usd`` is used up if days go on as the last ``over`` did, which took ``spent_usd`` together.

    ``lots``: the credit in it, in the order in which it is spent; what ends before it is used is not counted on.
    """
    pace = (spent_usd / over).quantize(Decimal("0.000001")) if over else money.ZERO
    if pace <= 0 or available_usd <= 0:
        return Forecast(pace, None, None, over)
    beyond = available_usd - sum((lot.remaining for lot in lots), money.ZERO)
    ends = sorted({lot.expires_at for lot in lots if lot.expires_at is not None and lot.expires_at > now})
    since, left, unused = now, available_usd, money.ZERO
    days_left = left / pace
    for at, of_lots, ended in ahead(lots, pace=pace, now=now, instants=ends):
        if days_left <= _days(at - now):
            break
        since, left, unused = at, of_lots + beyond, ended
        # Where nothing outlasts this end, it is when all is gone.
        days_left = _days(since - now) + max(left / pace, money.ZERO)
    whole = int(days_left.to_integral_value(ROUND_FLOOR))
    if whole > FORECAST_DAYS_MAX:
        return Forecast(pace, None, None, over, unused)
    return Forecast(pace, whole, now + timedelta(days=whole), over, unused)


def ahead(
    lots: Sequence[Lot], *, pace: Decimal, now: datetime, instants: Sequence[datetime]
) -> Iterator[tuple[datetime, Decimal, Decimal]]:
    """What is left of ``lots`` at each of these rising instants, and what of them ended unused until then.

    A day costs ``pace``; what is left is below zero by what the lots did not cover.
    """
    rest = [lot.remaining for lot in lots]
    since, short, unused = now, money.ZERO, money.ZERO
    for at in instants:
        need = pace * _days(at - since)
        for number, remaining in enumerate(rest):
            taken = min(need, remaining)
            rest[number] -= taken
            need -= taken
        short += need
        for number, lot in enumerate(lots):
            if lot.expires_at is not None and lot.expires_at <= at:
                unused += rest[number]
                rest[number] = money.ZERO
        since = at
        yield at, sum(rest, -short), unused


def _days(stretch: timedelta) -> Decimal:
    return Decimal(stretch // timedelta(microseconds=1)) / (DAY // timedelta(microseconds=1))


def pace_days(spent: Sequence[Decimal]) -> int:
    """How many of the whole days before today tell the pace: those since the first use, ``PACE_DAYS`` at most."""
    idle = next((number for number, amount in enumerate(spent[:-1]) if amount), len(spent) - 1)
    return min(PACE_DAYS, len(spent) - 1 - idle)


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do at the beginning: what, where, and whether it is done. No place: not for this person."""

    label: str
    said: str
    place: str | None
    done: bool


@require_safe
@desk.page()
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET /portal/{slug}/``."""
    now = clock.now()
    of = here.organization.pk
    sees_usage, sees_wallet = here.may(permissions.USAGE_READ_OWN), here.may(permissions.WALLET_READ)
    state = wallets.state(of) if sees_wallet else None
    edges = days.edges(now=now, zone=here.zone, days=DAYS)
    context: dict[str, Any] = {"state": state, "forecast": None}
    spent = [money.ZERO] * DAYS
    if sees_usage:
        lines, _ = requests.page(here, Filters(), limit=REQUESTS_SHOWN)
        dearest = top_keys(here, now=now) if lines else []
        places = usage.places(used.cost_usd for _, _, used in dearest)
        context |= {"lines": lines, "top_keys": dearest, "places": places}
        told = _used(here, edges)
        spent = told.pop("spent")
        context |= told
    if state is not None:
        given = [grant for grant in credit.left(of) if grant.transfer_id is not None]
        over, lots = pace_days(spent), [credit.lot(grant) for grant in given]
        # Whoever sees only a part of the usage cannot tell when the whole is gone, and nothing is used that is frozen.
        if here.scope.member_id is None and state.status != "frozen":
            context["forecast"] = forecast(
                available_usd=state.available_usd, spent_usd=sum(spent[-1 - over : -1], money.ZERO), over=over, now=now,
                lots=lots,
            )  # fmt: skip
        context["trend"] = burn_down(
            closing=statement.closing(of, edges[1:-1]),
            state=state,
            expected=context["forecast"],
            lots=lots,
            edges=edges,
            now=now,
            zone=here.zone,
        )
        soon = [(grant.expires_at, grant.pk, grant) for grant in given if grant.expires_at is not None]
        context["expiring"] = [grant for at, _, grant in sorted(soon) if now < at <= now + SOON][:GRANTS_SHOWN]
    if here.may(permissions.BILLING_READ):
        context["ceilings"] = near(here)
    if sees_usage and not context["lines"]:
        context["steps"] = steps(here, state)
    return desk.render(request, "overview", context)


def _used(here: Desk, edges: list[datetime]) -> dict[str, Any]:
    """Usage of the days between ``edges``: the chart, and what is told of it."""
    sums = rollups.sums(
        organization_id=here.organization.pk, edges=edges, by=["model"], rows=GROUPS_MAX,
        only=Only(member_id=here.scope.member_id),
    )  # fmt: skip
    columns = [charts.Column(f"{edge.astimezone(here.zone):%-d %b}", {}) for edge in edges[:-1]]
    for each in sums:
        amounts = columns[each.bucket].amounts
        amounts[each.group[0]] = amounts.get(each.group[0], money.ZERO) + each.cost_usd
    spent = [sum(column.amounts.values(), money.ZERO) for column in columns]
    return {
        "spent": spent, "chart": charts.stacked(columns), "today_usd": spent[-1], "sum_usd": sum(spent, money.ZERO),
        "requests": sum(each.requests for each in sums),
    }  # fmt: skip


def burn_down(
    *, closing: list[Decimal], state: State, expected: Forecast | None, lots: Sequence[Lot], edges: list[datetime],
    now: datetime, zone: ZoneInfo,
) -> Trend:  # fmt: skip
    """The balance at the end of each day, now, and where it goes at the pace of late, credit that ends counted.

    ``closing``: of the days that ended; ``edges`` as of ``days.edges``.
    """
    names_of = [f"{edge.astimezone(zone):%-d %b}" for edge in edges[:-1]]
    points = list(zip(names_of, [*closing, state.balance_usd], strict=True))
    to_come = []
    if expected is not None and expected.pace_usd > 0 and state.balance_usd > 0:
        today = edges[-2].astimezone(zone).date()
        beyond = state.balance_usd - sum((lot.remaining for lot in lots), money.ZERO)
        instants = {now + DAY * number: number for number in range(1, AHEAD_DAYS + 1)}
        ends = {lot.expires_at for lot in lots if lot.expires_at is not None and now < lot.expires_at <= max(instants)}
        for at, of_lots, _ in ahead(lots, pace=expected.pace_usd, now=now, instants=sorted({*instants, *ends})):
            left = max(of_lots + beyond, money.ZERO)
            if at in instants:
                to_come.append((f"{today + DAY * instants[at]:%-d %b}", left))
                if not left:
                    break
    return charts.trend(points, to_come)


def top_keys(here: Desk, *, now: datetime) -> list[tuple[str, str, usage.Used]]:
    """The keys that cost most this month: names, where their requests are, what they used."""
    group = usage.GROUPS["key"]
    month = periods.named(periods.MONTH, today=now.astimezone(here.zone).date())
    edges = month.edges(here.zone)
    found = rollups.sums(
        organization_id=here.organization.pk, edges=[edges[0], edges[-1]], by=[group.column],
        only=Only(member_id=here.scope.member_id), rows=KEYS_SHOWN, dearest_first=True,
    )  # fmt: skip
    labels = usage.named(here, group, {each.group[0] for each in found})
    return [
        (
            labels[each.group[0]],
            usage.requests_of(here, month, key=usage.wanted(group, each.group[0])),
            usage.Used().plus(each),
        )
        for each in found
    ]


class Near(NamedTuple):
    """A ceiling of which little is left: what it is on, in which time, and how much of it is taken in percent."""

    label: str
    window: str
    percent: int
    standing: budgets.Standing


def near(here: Desk) -> list[Near]:
    """Ceilings of which little is left; the fullest first."""
    found = [one for one in budgets.standing(here.organization.pk) if one.spent + one.held >= one.ceiling * NEAR]
    found.sort(key=lambda one: (one.left, one.budget.pk))
    labels: dict[UUID, str] = {here.organization.pk: "The organization"}
    for subject, naming in (
        (Budget.Subject.KEY, names.keys), (Budget.Subject.MEMBER, names.members),
        (Budget.Subject.PROJECT, names.projects),
    ):  # fmt: skip
        about = [one.budget.subject_id for one in found if one.budget.subject == subject]
        if about:
            labels |= naming(about, of=here.organization)
    return [Near(labels[one.budget.subject_id], dict(WINDOWS)[one.budget.window], percent(one), one) for one in found]


def steps(here: Desk, state: State | None) -> list[Step]:
    """What somebody does before there is anything to see."""
    # Whoever makes none of the organization's calls with one of their own.
    of = {"organization": here.organization} if here.may(permissions.KEYS_MANAGE) else {"user": here.user}
    has_key = ApiKey.objects.filter(**of, revoked_at__isnull=True).exists()
    return [
        Step("Make a key", "It goes into every call, and is shown once.", _place(here, "keys"), has_key),
        Step(
            "Add credit", "Calls are paid from it as they end.",
            _place(here, "credit") if here.may(permissions.BILLING_MANAGE) else None,
            state is not None and (state.can_pay or state.enforcement == Wallet.Enforcement.OFF),
        ),
        Step("Make a call", "The quickstart has one ready to be copied.", _place(here, "quickstart"), False),
    ]  # fmt: skip


def _place(here: Desk, page: str) -> str | None:
    try:
        return here.place(page)
    except NoReverseMatch:
        return None
