"""Requests: the newest as they come in, with what each cost, and one taken apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from billing import explain as explanations
from billing import statement
from billing.explain import Explanation
from billing.models import Transfer
from core import clock, errors, ids, lists, money
from metering import catalog, usage, usage_pages
from metering.filters import NONE, Filters
from metering.models import UsageRecord
from metering.usage_pages import Scope
from orgs import permissions
from orgs.models import ApiKey
from portal import days, desk, names, periods
from portal.desk import Desk

PAGE: Final = 50
# How many rows one look at what is new brings at most.
LIVE_MAX: Final = 100
# A record's id says when its transaction began; one that began before the last look may have been written after it.
# Looking back this far finds it, and the page leaves out what it has.
LOOK_BACK: Final = timedelta(seconds=5)
KEYS_MAX: Final = 200
DECIMALS_MIN: Final = 2
MODEL_LENGTH_MAX: Final = 200
SOURCES: Final = {"api_key": "API", "product_call": "Product", "dev_tools": "Developer tools"}
POOLS: Final = {
    "cached": "cached input", "cache_write": "cache write", "cache_write_1h": "cache write, 1 hour",
    explanations.CHARGED_BEFORE: "charged before", explanations.CORRECTED_BEFORE: "corrected before",
    explanations.UNDONE: "taken back",
}  # fmt: skip
_SECONDS_MAX: Final = 253_402_300_799
_COLUMNS: Final = (
    "id, recorded_at, model, api_key_id, input_tokens, cached_input_tokens, output_tokens, cost_usd, latency_ms,"
    " status, outcome, corrects_id"
)


class Asked(periods.Chosen):
    """Which requests are listed. ``key``, ``project`` and ``member`` are ids as customers see them, or ``none``."""

    model = forms.CharField(
        required=False, max_length=MODEL_LENGTH_MAX, widget=forms.TextInput(attrs={"list": "models"})
    )
    key = forms.ChoiceField(required=False)
    source = forms.ChoiceField(required=False, choices=[("", "Any"), *SOURCES.items()])
    project = forms.CharField(required=False, widget=forms.HiddenInput)
    member = forms.CharField(required=False, widget=forms.HiddenInput)
    field_order = ("period", "first", "last", "model", "key", "source", "project", "member")

    def __init__(self, data: Any, *, today: date, keys: Sequence[tuple[str, str]]) -> None:
        """``keys``: those to choose from, by id and name."""
        super().__init__({"period": periods.ANY, **data}, today=today)
        period, key = self.fields["period"], self.fields["key"]
        assert isinstance(period, forms.ChoiceField)
        assert isinstance(key, forms.ChoiceField)
        period.choices = [(periods.ANY, "Any time"), ("1", "Today"), *periods.CHOICES]
        key.choices = [("", "Any"), *keys, ("none", "Without a key")]


@dataclass(frozen=True, slots=True)
class Line:
    """A request in the list. ``said`` and ``tone``: how it went, and how that is coloured."""

    id: str
    place: str
    at: datetime
    model: str
    key: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    latency_ms: int | None
    said: str
    tone: str


@require_safe
@desk.page(permissions.USAGE_READ_OWN)
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET /portal/{slug}/requests``; with ``since`` only the rows that came after it, for the page to put on top."""
    now = clock.now()
    asked_key = request.GET.get("key", "")
    form = Asked(request.GET.dict(), today=now.astimezone(here.zone).date(), keys=_keys(here, asked_key))
    if not form.is_valid():
        return desk.render(request, "requests", {"form": form}, status=periods.fault_status(request))
    matching = read(here, form.cleaned_data)
    since = lists.instant(request.GET.get("since"), param="since", most=_SECONDS_MAX)
    query = {name: value for name, value in request.GET.dict().items() if name in form.fields and value}
    look = f"{here.place('requests')}?{urlencode({**query, 'since': clock.to_unix(now - LOOK_BACK)})}"
    first = here.place("requests") + (f"?{urlencode(query)}" if query else "")
    if since is not None:
        start = since if matching.start is None else max(since, matching.start)
        lines, more = page(here, matching._replace(start=start), limit=LIVE_MAX)
        context: dict[str, Any] = {"lines": lines, "more": more, "look": look, "limit": LIVE_MAX, "first": first}
        return desk.render(request, "requests_new", context)
    after = request.GET.get("after") or None
    lines, more = page(here, matching, limit=PAGE, after=after)
    context = {
        "form": form, "lines": lines, "models": catalog.offered(group=here.organization.price_group),
        "older": f"{here.place('requests')}?{urlencode({**query, 'after': lines[-1].id})}" if more else None,
        "newest": first if after else None,
        # What ended stays as it is, and so does a page further back.
        "look": look if after is None and (matching.end is None or matching.end > now) else None,
        "chips": _chips(here, form.cleaned_data, query), "listed": True,
    }  # fmt: skip
    return desk.render(request, "requests", context)


def read(here: Desk, asked: dict[str, Any]) -> Filters:
    """The filters that were asked for. Raises ``InvalidType`` for an id that is none."""
    period = asked["days"]
    start, end = (None, None) if period is None else (days.start(period.first, here.zone), period.edges(here.zone)[-1])
    return Filters(
        model=asked["model"] or None, source=asked["source"] or None,
        api_key_id=_id("key", asked["key"], "key"), project_id=_id("proj", asked["project"], "project"),
        member_id=_id("mem", asked["member"], "member"), start=start, end=end,
    )  # fmt: skip


def _id(prefix: str, text: str, param: str) -> UUID | None:
    if not text:
        return None
    if text == "none":
        return NONE
    try:
        return ids.read(prefix, text)
    except ValueError as error:
        raise errors.InvalidType(f"{param} is not the id of a {param}.", param=param) from error


def page(here: Desk, matching: Filters, *, limit: int, after: str | None = None) -> tuple[list[Line], bool]:
    """The next ``limit`` requests that this person may see, newest first, and whether more follow.

    Raises ``InvalidCursor``. Two queries or three, whatever the size of the books.
    """
    found = usage_pages.page(
        scope=here.scope, matching=matching, columns=_COLUMNS, limit=limit, after=after, ascending=False
    )
    named = names.keys({row[3] for row in found.rows if row[3]}, of=here.organization)
    return [_line(here, row, named) for row in found.rows], found.has_more


def _line(here: Desk, row: tuple[Any, ...], named: dict[UUID, str]) -> Line:
    record_id, at, model, key_id, taken, cached, given, cost_usd, latency_ms, status, outcome, corrects_id = row
    shown = ids.show("usage", record_id)
    said, tone = went(status=status, outcome=outcome, corrects=corrects_id is not None)
    return Line(
        shown, here.place("requests-one", shown), at, model, named.get(key_id, ""), taken, cached, given, cost_usd,
        latency_ms, said, tone,
    )  # fmt: skip


def went(*, status: int | None, outcome: str, corrects: bool) -> tuple[str, str]:
    """How a request went, in a word, and its colour."""
    if corrects:
        return "correction", "warn"
    if outcome == "client_aborted":
        return "hung up", "warn"
    if outcome == "upstream_error" or (status or 0) >= 500:
        return f"{status or ''} broke off".strip(), "bad"
    return str(status or "done"), "good"


def _keys(here: Desk, asked: str) -> list[tuple[str, str]]:
    """Keys to choose from: the organization's newest, and the one that was asked for."""
    found = ApiKey.objects.filter(deleted_at__isnull=True).order_by("-id")
    everyones = here.scope.member_id is None
    # What keys there are is for those who see what was done with them.
    found = found.filter(organization=here.organization) if everyones else found.filter(user=here.user)
    named = [(ids.show("key", key.pk), str(key)) for key in found.select_related("user")[:KEYS_MAX]]
    if everyones and asked and asked != "none" and asked not in dict(named):
        try:
            key_id = ids.read("key", asked)
        except ValueError:
            return named
        named.append((asked, names.keys([key_id], of=here.organization)[key_id]))
    return named


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that no field shows: what it says, and the page without it."""

    label: str
    without: str


def _chips(here: Desk, asked: dict[str, Any], query: dict[str, str]) -> list[Chip]:
    found = []
    for param, prefix, naming in (("project", "proj", names.projects), ("member", "mem", names.members)):
        if not asked[param]:
            continue
        chosen = _id(prefix, asked[param], param)
        assert chosen is not None
        said = "none" if chosen == NONE else naming([chosen], of=here.organization)[chosen]
        rest = {name: value for name, value in query.items() if name != param}
        found.append(Chip(f"{param}: {said}", f"{here.place('requests')}?{urlencode(rest)}"))
    return found


@require_safe
@desk.page(permissions.USAGE_READ_OWN)
def one(request: HttpRequest, here: Desk, record_id: str) -> HttpResponse:
    """``GET /portal/{slug}/requests/{usage_id}``: what is known of a request, and how its cost came about."""
    record = find(here.scope, record_id)
    said, tone = went(status=record.status, outcome=record.outcome, corrects=record.corrects_id is not None)
    context: dict[str, Any] = {
        "record": record, "shown": record_id, "said": said, "tone": tone, "facts": _facts(here, record),
        "metadata": sorted((record.metadata or {}).items()), "units": sorted((record.units or {}).items()),
    }  # fmt: skip
    try:
        found = explanations.explain(record)
    except errors.Archived as error:
        context["archived"] = str(error)
    else:
        context |= _explained(here, found)
    return desk.render(request, "requests_one", context)


def find(scope: Scope, shown: str) -> UsageRecord:
    """A record that this person may see. Raises ``NotFound``, ``Archived`` for a time that is not kept at hand."""
    records = usage.for_caller(scope.organization_id, member_id=scope.member_id)
    record = usage.find(records, shown)
    if record is not None:
        return record
    if usage.is_archived(shown):
        raise errors.Archived("Requests of that month are archived. Ask who runs this installation for them.")
    raise errors.NotFound("There is no request of that id that is open to you.")


def _facts(here: Desk, record: UsageRecord) -> list[tuple[str, str]]:
    """What else is known of a request, as far as it is."""
    of = here.organization
    key = record.api_key_id and names.keys([record.api_key_id], of=of)[record.api_key_id]
    member = record.member_id and names.members([record.member_id], of=of)[record.member_id]
    project = record.project_id and names.projects([record.project_id], of=of)[record.project_id]
    tier = ", ".join(filter(None, (record.service_tier, "batch" if record.batch else None)))
    told = (
        ("Key", key), ("Member", member), ("Project", project), ("End user", record.end_user),
        ("Source", SOURCES.get(record.source, record.source)), ("Endpoint", record.endpoint),
        ("Streamed", None if record.stream is None else "yes" if record.stream else "no"), ("Tier", tier),
        ("Finish reason", record.finish_reason), ("First token after", _ms(record.ttft_ms)),
        ("Done after", _ms(record.latency_ms)), ("Counted by", record.usage_source), ("Event", record.event_id),
        ("Request", record.request_id),
    )  # fmt: skip
    return [(label, str(value)) for label, value in told if value]


def _ms(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else f"{milliseconds:,} ms"


def _explained(here: Desk, found: Explanation) -> dict[str, Any]:
    """How the cost came about, in a page's words. What a transfer moved is for who may read that wallet."""
    record = found.record
    transfer = found.transfer
    if not here.may(permissions.WALLET_READ) or record.payer_id != here.organization.pk:
        transfer = None
    return {
        "found": found,
        "parts": [(POOLS.get(part.pool, part.pool.replace("_", " ")), part) for part in found.parts],
        "places": max([DECIMALS_MIN, *(decimals(part.cost_usd) for part in found.parts)]),
        "arithmetic": explanations.arithmetic(found.parts),
        "price": ids.show("price", found.price.id),
        "rule": found.rule and ids.show("rule", found.rule.id),
        "factor": found.rule and found.rule.factor is not None and money.plain(found.rule.factor),
        "conditions": found.terms and _conditions(found),
        "transfer": transfer,
        "transfer_id": transfer and ids.show("tr", transfer.pk),
        "line": None if transfer is None else _line_of(here, transfer),
        "paid_elsewhere": record.payer_id != here.organization.pk,
        "corrections": [(here.place("requests-one", ids.show("usage", each.pk)), each) for each in found.corrections],
        "corrects": record.corrects_id and here.place("requests-one", ids.show("usage", record.corrects_id)),
    }


def _line_of(here: Desk, transfer: Transfer) -> str:
    """Where the statement begins with a transfer."""
    assert transfer.seq is not None
    after = statement.cursor_before(here.organization.pk, transfer.seq)
    return here.place("credit-statement") + (f"?{urlencode({'after': after})}" if after else "")


def decimals(amount: Decimal) -> int:
    """How many decimals an amount needs."""
    return len(money.plain(amount).partition(".")[2])


def _conditions(found: Explanation) -> str:
    """Which entry of the rate card held, in words."""
    terms = found.terms
    assert terms is not None
    said = [f"tier {terms.service_tier}"] if terms.service_tier is not None else []
    said += ["batch"] if terms.batch else []
    said += [f"more than {terms.above_input_tokens:,} input tokens"] if terms.above_input_tokens else []
    said += ["by the hour"] if terms.windows else []
    return ", ".join(said) or "ordinary"
