"""The desk's first page: the figures of ``billing.figures``, each for those who may see what it is made of,
and each a way there."""

import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from billing import figures
from core import clock, money
from core.markup import link_to, percent, stamp, table, usd
from metering import quarantine

DAYS: Final = 30
MODELS_SHOWN: Final = 12


class Tile(NamedTuple):
    """A figure: what it is, how it stands, what else to know, and the way to what it is made of.

    ``mark`` is ``good`` or ``bad`` where somebody has to look at it; the words say so too.
    """

    name: str
    figure: str
    note: str
    place: str
    mark: str = ""


def fill(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What the first page shows to this person; unfold asks it by name (``UNFOLD`` in the settings)."""
    seen: Callable[[str], bool] = request.user.has_perm
    context |= {"waiting": list(_waiting(seen)), "money": list(_money(seen)), "days": DAYS}
    # What providers cost us is more than what customers used.
    if seen("billing.view_providerbill"):
        start, end = figures.last_days(DAYS)
        context |= _sales(figures.sales(start=start, end=end), start, end)
    return context


def _list(page: str, **only: str) -> str:
    """The address of a list, narrowed."""
    asked = f"?{urlencode(only)}" if only else ""
    return f"{reverse(f'admin:{page}_changelist')}{asked}"


def _waiting(seen: Callable[[str], bool]) -> Iterator[Tile]:
    """What wants somebody's attention."""
    if seen("billing.view_checkrun"):
        yield _verify(figures.checks())
    if seen("ops.view_jobrun"):
        failing = figures.failing_jobs()
        note = ", ".join(failing) or "every job's newest run went well"
        yield Tile("Failing jobs", f"{len(failing)}", note, _list("ops_jobrun", ok__exact="0"), _bad(failing))
    if seen("metering.view_quarantine"):
        backlog = quarantine.backlog(most=quarantine.COUNTED_MAX)
        more = " or more" if backlog.rows == quarantine.COUNTED_MAX else ""
        place = _list("metering_quarantine", resolved_at__isempty="1")
        note = backlog.told(clock.now()).partition(", ")[2] or "every event was charged"
        yield Tile("In quarantine", f"{backlog.rows:,}{more}", note, place, _bad(backlog.rows))
    if seen("billing.view_dispute"):
        contested = figures.disputes()
        note = f"{_dollars(contested.usd)} contested, {_dollars(contested.frozen_usd)} of credit lies aside"
        place = _list("billing_dispute", state__in="open,inquiry")
        yield Tile("Open disputes", f"{contested.number:,}", note, place, _bad(contested.number))
    if seen("ops.view_approval"):
        asked = figures.questions()
        note = "acts above the limit, until somebody else agrees" if asked else "nobody has to agree to anything"
        yield Tile("Wait for a second person", f"{asked:,}", note, _list("ops_approval", decided_at__isempty="1"))
    if seen("billing.view_difference"):
        apart = figures.differences()
        note = "between our books and Stripe's or a provider's" if apart else "our books and others' agree"
        yield Tile(
            "Unexplained differences", f"{apart:,}", note, _list("billing_difference", state__exact="open"), _bad(apart)
        )


def _bad(found: object) -> str:
    return "bad" if found else "good"


def _verify(checks: figures.Checks) -> Tile:
    place = _list("billing_checkrun")
    if checks.oldest is None:
        return Tile("Verify", "never run", "its job has not run yet", place, "bad")
    when = f"oldest result {stamp(checks.oldest)} UTC"
    if not checks.broken:
        return Tile("Verify", f"{checks.number} hold", when, place, "good")
    figure = f"{len(checks.broken)} of {checks.number} broken"
    return Tile(
        "Verify", figure, f"{'; '.join(checks.broken)}; {when}", _list("billing_checkrun", ok__exact="0"), "bad"
    )


def _money(seen: Callable[[str], bool]) -> Iterator[Tile]:
    """What stands in the books."""
    if seen("billing.view_wallet"):
        all_wallets = figures.wallets()
        place = _list("billing_wallet")
        parts = f"{_dollars(all_wallets.paid_usd)} bought, {_dollars(all_wallets.given_usd)} given"
        yield Tile("Owed to customers in usage", _dollars(all_wallets.posted_usd), parts, place)
        note = f"by {all_wallets.overdrawn:,} of {all_wallets.number:,} wallets; {all_wallets.frozen:,} are frozen"
        owing = _list("billing_wallet", standing="owes")
        yield Tile("Owed by customers", _dollars(all_wallets.overdraft_usd), note, owing)
        holding = _list("billing_wallet", standing="held")
        yield Tile("Set aside by open holds", _dollars(all_wallets.held_usd), "until requests end", holding)
    if seen("billing.view_topup"):
        bought = figures.topups(since=clock.now() - timedelta(days=DAYS))
        note = (
            f"{bought.succeeded:,} paid, {bought.open:,} open, {bought.failed:,} failed; last {DAYS} days, without tax"
        )
        yield Tile("Top-ups", _dollars(bought.usd), note, _list("billing_topup"))


def _dollars(amount: Decimal) -> str:
    """Dollars to the cent, rounded down; below a cent exact."""
    if 0 < abs(amount) < Decimal("0.01"):
        return f"${money.plain(amount)}"
    return f"${Decimal(money.display(amount)):,}"


def _sales(found: figures.Sales, start: date, end: date) -> dict[str, Any]:
    """What was sold, as tiles, a chart and tables."""
    total = found.total
    whole = sales_place(start, end)
    tiles = [
        Tile("Revenue", _dollars(total.revenue_usd), f"{total.requests:,} requests", whole),
        Tile("Provider cost", _dollars(total.provider_cost_usd), "as far as gateways said", whole),
        Tile("Margin", _dollars(total.margin_usd), percent(total.margin_usd, total.revenue_usd) or "of nothing", whole),
    ]
    return {
        "sales": tiles,
        "until": f"{stamp(found.until)} UTC",
        "chart": json.dumps(_chart(found)),
        "chart_options": json.dumps(_OPTIONS),
        "by_day": _by_day(found),
        "by_model": _by_model(found, start, end),
        "margins_place": margins_place(start, end),
    }


def sales_place(start: date, end: date, model: str = "") -> str:
    """Who bought it on these days; ``end`` is the day after the last."""
    asked = {"first": start, "last": end - timedelta(days=1), **({"model": model} if model else {})}
    return f"{reverse('admin:metering_usagerecord_sales')}?{urlencode(asked)}"


def margins_place(start: date, end: date) -> str:
    """What these days' records say of their margins."""
    asked = urlencode({"first": start, "last": end - timedelta(days=1)})
    return f"{reverse('admin:metering_usagerecord_margins')}?{asked}"


def _chart(found: figures.Sales) -> dict[str, Any]:
    """Bars of revenue and cost, a line of the margin; amounts as plain digits, which the chart reads as they are."""

    def amounts(name: str) -> list[str]:
        return [money.plain(getattr(sold, name)) for _, sold in found.days]

    return {
        "labels": [f"{day:%d %b}" for day, _ in found.days],
        "datasets": [
            {"label": "Revenue (USD)", "data": amounts("revenue_usd"), "backgroundColor": "var(--color-primary-500)"},
            {"label": "Provider cost (USD)", "data": amounts("provider_cost_usd"), "backgroundColor": "#f59e0b"},
            {
                "label": "Margin (USD)", "data": amounts("margin_usd"), "type": "line", "borderColor": "#10b981",
                "backgroundColor": "#10b981", "borderWidth": 2, "pointRadius": 2, "tension": 0,
            },
        ],
    }  # fmt: skip


_OPTIONS: Final = {
    "animation": False,
    "responsive": True,
    "maintainAspectRatio": False,
    "interaction": {"mode": "index", "intersect": False},
    "plugins": {"legend": {"align": "end", "labels": {"boxWidth": 12, "color": "#6b7280"}}},
    "scales": {
        "x": {"grid": {"display": False}, "ticks": {"color": "#6b7280", "maxRotation": 0, "autoSkipPadding": 16}},
        "y": {"grid": {"color": "#e5e7eb"}, "border": {"display": False}, "ticks": {"color": "#6b7280"}},
    },
}


def sold_cells(sold: figures.Sold) -> tuple[object, ...]:
    """Requests, revenue, provider cost, margin, and what part of the revenue that is."""
    return (
        f"{sold.requests:,}",
        usd(sold.revenue_usd),
        usd(sold.provider_cost_usd),
        usd(sold.margin_usd),
        percent(sold.margin_usd, sold.revenue_usd),
    )


SOLD_HEADS: Final = ("requests", "revenue (USD)", "provider cost (USD)", "margin (USD)", "of revenue")


def _by_day(found: figures.Sales) -> SafeString:
    rows = [
        (link_to(sales_place(day, day + timedelta(days=1)), day), *sold_cells(sold))
        for day, sold in reversed(found.days)
    ]
    return table(("day (UTC)", *SOLD_HEADS), rows, foot=("all", *sold_cells(found.total)))


def _by_model(found: figures.Sales, start: date, end: date) -> SafeString:
    rows = [
        (link_to(sales_place(start, end, model), model), *sold_cells(sold))
        for model, sold in found.models[:MODELS_SHOWN]
    ]
    if rest := found.models[MODELS_SHOWN:]:
        others = figures.Sold()
        for _, sold in rest:
            others = others.plus(sold)
        rows.append((f"{len(rest)} others", *sold_cells(others)))
    return table(("model", *SOLD_HEADS), rows, foot=("all", *sold_cells(found.total)))
