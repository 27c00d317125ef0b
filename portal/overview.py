"""The first page: what is left, how fast it goes, when it runs out, and what took it."""

from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Final, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from billing import wallets
from core import clock, money
from metering import rollups
from metering.rollups import Only
from orgs import permissions
from portal import charts, days, desk
from portal.desk import Desk

DAYS: Final = 30
# The forecast goes by as many whole days before today.
PACE_DAYS: Final = 7
FORECAST_DAYS_MAX: Final = 3650
GROUPS_MAX: Final = 5000


class Forecast(NamedTuple):
    """How long what is left lasts at the pace of late: ``days`` from now; None if nothing is used, or left."""

    pace_usd: Decimal
    days: int | None
    runs_out: datetime | None


def forecast(*, available_usd: Decimal, spent_usd: Decimal, over: int, now: datetime) -> Forecast:
    """When ``available_usd`` is used up if days go on as the last ``over`` did, which took ``spent_usd`` together."""
    pace = (spent_usd / over).quantize(Decimal("0.000001"))
    if pace <= 0 or available_usd <= 0:
        return Forecast(pace, None, None)
    left = int((available_usd / pace).to_integral_value(ROUND_FLOOR))
    if left > FORECAST_DAYS_MAX:
        return Forecast(pace, None, None)
    return Forecast(pace, left, now + timedelta(days=left))


@require_safe
@desk.page()
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET /portal/{slug}/``."""
    now = clock.now()
    state = wallets.state(here.organization.pk) if here.may(permissions.WALLET_READ) else None
    edges = days.edges(now=now, zone=here.zone, days=DAYS)
    sums = rollups.sums(
        organization_id=here.organization.pk, edges=edges, by=["model"], rows=GROUPS_MAX,
        only=Only(member_id=here.scope.member_id),
    )  # fmt: skip
    columns = [charts.Column(f"{edge.astimezone(here.zone):%-d %b}", {}) for edge in edges[:-1]]
    for each in sums:
        amounts = columns[each.bucket].amounts
        amounts[each.group[0]] = amounts.get(each.group[0], Decimal(0)) + each.cost_usd
    spent = [sum(column.amounts.values(), Decimal(0)) for column in columns]
    context = {
        "state": state,
        "balance": None if state is None else money.display(state.balance_usd),
        "chart": charts.stacked(columns),
        "today_usd": spent[-1],
        "month_usd": sum(spent, Decimal(0)),
        "requests": sum(each.requests for each in sums),
        "forecast": None
        if state is None
        else forecast(
            available_usd=state.available_usd, spent_usd=sum(spent[-1 - PACE_DAYS : -1], Decimal(0)),
            over=PACE_DAYS, now=now,
        ),
    }  # fmt: skip
    return desk.render(request, "overview", context)
