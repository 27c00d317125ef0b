"""What was used in a period: by day, told apart by model, key, project or member; as a chart, a table and a file."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.http import require_safe

from core import clock, ids, lists, money
from metering import rollups
from metering.rollups import Only, Sum
from orgs import permissions
from portal import charts, desk, names, periods
from portal.desk import Desk
from portal.periods import Period

# Sums of a day and a group beyond these are not told apart; a chart of them would say nothing anyway.
SUMS_MAX: Final = 50_000
# Groups that the page lists; the file holds all of them.
ROWS_MAX: Final = 500
# A cost below it is more than cents can tell.
CENTS_FROM: Final = Decimal("0.1")
COUNTS: Final = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd")


@dataclass(frozen=True, slots=True)
class Group:
    """A way to tell usage apart: the column, what rows are called, and the parameter that picks one of them."""

    column: str
    label: str
    param: str
    prefix: str
    nobody: str


GROUPS: Final = {
    "model": Group("model", "Model", "model", "", ""),
    "key": Group("api_key_id", "Key", "key", "key", "without a key"),
    "project": Group("project_id", "Project", "project", "proj", "without a project"),
    "member": Group("member_id", "Member", "member", "mem", "nobody in person"),
}
NAMING: Final = {"api_key_id": names.keys, "project_id": names.projects, "member_id": names.members}
MEASURES: Final = {"cost": ("Cost", "$"), "requests": ("Requests", ""), "tokens": ("Tokens", "")}


class Asked(periods.Chosen):
    """What the page shows."""

    by = forms.ChoiceField(label="Told apart by", choices=[(name, one.label) for name, one in GROUPS.items()])
    show = forms.ChoiceField(label="Chart", choices=[(name, label) for name, (label, _) in MEASURES.items()])

    def __init__(self, data: Any, *, today: date, alone: bool) -> None:
        """``alone``: whoever sees only their own usage cannot tell members apart."""
        super().__init__({"period": periods.MONTH, "by": "model", "show": "cost", **data}, today=today)
        if alone:
            by = self.fields["by"]
            assert isinstance(by, forms.ChoiceField)
            by.choices = [(name, one.label) for name, one in GROUPS.items() if name != "member"]


@dataclass(frozen=True, slots=True)
class Used:
    """What was used, in sum."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = money.ZERO

    def plus(self, other: "Used | Sum") -> "Used":
        """Both together."""
        return Used(*(getattr(self, name) + getattr(other, name) for name in COUNTS))

    def measure(self, name: str) -> Decimal:
        """Cost, requests or tokens."""
        if name == "cost":
            return self.cost_usd
        return Decimal(self.requests if name == "requests" else self.input_tokens + self.output_tokens)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: whose or which, where its requests are listed, what was used, its part of the cost."""

    label: str
    place: str
    used: Used
    percent: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """A period's usage. ``by_day`` are a day's sums by name; ``rows`` the groups, the dearest first."""

    period: Period
    total: Used
    by_day: Sequence[tuple[date, dict[str, Used]]]
    rows: Sequence[Row]
    more: int


class TooMany(Exception):
    """There are more groups and days than can be told apart."""


@require_safe
@desk.page(permissions.USAGE_READ_OWN)
def show(request: HttpRequest, here: Desk) -> HttpResponseBase:
    """``GET /portal/{slug}/usage``: the page, or with ``format=csv`` the same by day as a file."""
    today = clock.now().astimezone(here.zone).date()
    form = Asked(request.GET.dict(), today=today, alone=here.scope.member_id is not None)
    if not form.is_valid():
        return desk.render(request, "usage", {"form": form}, status=periods.fault_status(request))
    asked = form.cleaned_data
    group = GROUPS[asked["by"]]
    try:
        sums = read(here, asked["days"], group)
    except TooMany:
        form.add_error("by", "There are too many to tell apart in so many days. Choose fewer days.")
        return desk.render(request, "usage", {"form": form}, status=periods.fault_status(request))
    labels = named(here, group, {each.group[0] for each in sums})
    if request.GET.get("format") == "csv":
        return _file(here, asked["days"], group, sums, labels)
    return _page(request, here, form, report(here, asked["days"], group, sums, labels))


def read(here: Desk, period: Period, group: Group) -> list[Sum]:
    """A period's sums by day and group, as far as this person may see them. Raises ``TooMany``."""
    found = rollups.sums(
        organization_id=here.organization.pk, edges=period.edges(here.zone), by=[group.column],
        only=Only(member_id=here.scope.member_id), rows=SUMS_MAX + 1,
    )  # fmt: skip
    if len(found) > SUMS_MAX:
        raise TooMany
    return found


def named(here: Desk, group: Group, found: Collection[Any]) -> dict[Any, str]:
    """What to call each group."""
    known = [each for each in found if each is not None]
    labels: dict[Any, str] = {each: each for each in known}
    if group.column in NAMING:
        labels = dict(NAMING[group.column](known, of=here.organization))
    labels[None] = group.nobody
    return labels


def report(here: Desk, period: Period, group: Group, sums: Sequence[Sum], labels: dict[Any, str]) -> Report:
    """The sums as the page tells them."""
    by_day: list[tuple[date, dict[str, Used]]] = [
        (edge.astimezone(here.zone).date(), {}) for edge in period.edges(here.zone)[:-1]
    ]
    by_group: dict[Any, Used] = {}
    total = Used()
    for each in sums:
        (key,) = each.group
        of_day = by_day[each.bucket][1]
        of_day[labels[key]] = of_day.get(labels[key], Used()).plus(each)
        by_group[key] = by_group.get(key, Used()).plus(each)
        total = total.plus(each)
    ordered = sorted(by_group.items(), key=lambda item: (-item[1].cost_usd, -item[1].requests, labels[item[0]]))
    rows = [
        Row(labels[key], requests_of(here, period, **{group.param: wanted(group, key)}), used, _percent(used, total))
        for key, used in ordered[:ROWS_MAX]
    ]
    return Report(period, total, by_day, rows, len(ordered) - len(rows))


def wanted(group: Group, key: Any) -> str:
    """How the list of requests is asked for one group: its id as customers see it, or ``none``."""
    if key is None:
        return "none"
    return ids.show(group.prefix, key) if group.prefix else str(key)


def requests_of(here: Desk, period: Period, **more: str) -> str:
    """Where the requests of a period are listed."""
    return f"{here.place('requests')}?{urlencode({**period.query, **more})}"


def _percent(used: Used, total: Used) -> int | None:
    """A part of the cost in whole percent, cut down."""
    return int(used.cost_usd * 100 // total.cost_usd) if total.cost_usd > 0 and used.cost_usd >= 0 else None


def _page(request: HttpRequest, here: Desk, form: Asked, told: Report) -> HttpResponse:
    asked = form.cleaned_data
    label, unit = MEASURES[asked["show"]]
    columns = [
        charts.Column(f"{day:%-d %b}", {name: used.measure(asked["show"]) for name, used in of_day.items()})
        for day, of_day in told.by_day
    ]
    days = [
        (day, requests_of(here, Period(day, day)), sum_of(of_day.values())) for day, of_day in reversed(told.by_day)
    ]
    query = {"by": asked["by"], "show": asked["show"], **told.period.query}
    context = {
        "form": form, "told": told, "period": periods.told(told.period), "group": GROUPS[asked["by"]],
        "chart": charts.stacked(columns, unit=unit), "measure": label, "days": days,
        "places": places([row.used.cost_usd for row in told.rows] + [used.cost_usd for _, _, used in days]),
        "file": f"{here.place('usage')}?{urlencode({**query, 'format': 'csv'})}",
    }  # fmt: skip
    return desk.render(request, "usage", context)


def places(costs: Iterable[Decimal]) -> int:
    """How many decimals the costs of a table have: cents, where they do not hide what there is."""
    return 6 if any(0 < abs(cost) < CENTS_FROM for cost in costs) else 2


def sum_of(parts: Collection[Used]) -> Used:
    """All of them together."""
    total = Used()
    for part in parts:
        total = total.plus(part)
    return total


def _file(here: Desk, period: Period, group: Group, sums: Sequence[Sum], labels: dict[Any, str]) -> HttpResponseBase:
    """Every sum as a line: the day in the organization's zone, the group by name and id, exact costs."""
    edges = period.edges(here.zone)
    heads = ["day", group.param, *([f"{group.param}_id"] if group.prefix else []), *COUNTS]
    rows = (
        (
            edges[each.bucket].astimezone(here.zone).date().isoformat(), labels[each.group[0]],
            *([wanted(group, each.group[0]) if each.group[0] else None] if group.prefix else []),
            each.requests, each.input_tokens, each.cached_input_tokens, each.output_tokens,
            money.plain(each.cost_usd),
        )
        for each in sums
    )  # fmt: skip
    name = f"usage-{here.organization.slug}-{period.first}-{period.last}-by-{group.param}"
    return lists.csv_answer(name, heads, rows)
