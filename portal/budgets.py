"""Budgets: ceilings on what may be used, how much of each is, and who is told when the balance falls."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_POST, require_safe

from billing import budgets, notices, wallets
from billing.budgets import Standing, Subject, Unit
from billing.ledger import Terms
from billing.models import Budget
from core import clock, errors, ids, money
from orgs import permissions
from orgs.models import ApiKey, Member, Project
from portal import desk
from portal.accounts import fault
from portal.desk import Desk

# Choices of a kind in the form; for a key beyond them there is a link on its page.
CHOICES_MAX: Final = 500

PREFIXES: Final[dict[Subject, str]] = {Subject.PROJECT: "proj", Subject.MEMBER: "mem", Subject.KEY: "key"}
WINDOWS: Final[tuple[tuple[str, str], ...]] = (
    (Budget.Window.MONTH, "a calendar month"),
    (Budget.Window.WEEK, "any 7 days"),
    (Budget.Window.DAY, "any 24 hours"),
    (Budget.Window.FIVE_HOURS, "any 5 hours"),
)
_WARN_HELP: Final = "A mail goes out when so much of it is used, and another one when all of it is."
UNITS: Final[tuple[tuple[str, str], ...]] = ((Unit.USD, "US dollars"), (Unit.TOKENS, "tokens"))


class NewCeiling(forms.Form):
    """A ceiling: on what, in which time, how much."""

    subject_id = forms.ChoiceField(label="On")
    window = forms.ChoiceField(label="In", choices=WINDOWS, help_text="A month begins in the organization’s time zone.")
    unit = forms.ChoiceField(label="Counted in", choices=UNITS)
    ceiling = forms.DecimalField(
        label="At most", widget=forms.TextInput(attrs={"inputmode": "decimal"}),
        help_text="What was used in this time so far counts. Calls beyond it are refused until there is room again.",
    )  # fmt: skip
    warn_percent = forms.IntegerField(label="Mail us at (%)", initial=budgets.WARN_PERCENT, help_text=_WARN_HELP)


class Ceiling(forms.Form):
    """How much a ceiling is, and when people are told."""

    ceiling = forms.DecimalField(label="At most", widget=forms.TextInput(attrs={"inputmode": "decimal"}))
    warn_percent = forms.IntegerField(label="Mail us at (%)", help_text=_WARN_HELP)


class LowMark(forms.Form):
    """Below which balance people are told."""

    low_usd = forms.DecimalField(
        label="Tell us below (USD)", widget=forms.TextInput(attrs={"inputmode": "decimal"}),
        help_text="A mail goes out when the balance falls below this, and when nothing is left. 0: only then.",
    )  # fmt: skip


class Row(NamedTuple):
    """A ceiling as it stands. ``percent`` is what is used and held of it, rounded down, 0 to 100."""

    standing: Standing
    shown: str
    on: str
    kind: str
    window: str
    percent: int
    is_usd: bool


@require_safe
@desk.page(permissions.BILLING_READ)
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/budgets``."""
    found = budgets.standing(here.organization.pk)
    context = {
        "rows": _rows(here, found),
        "now": clock.now(),
        "low_usd": wallets.state(here.organization.pk).low_usd,
        "told": notices.payers(here.organization.pk),
        "manages": here.may(permissions.BILLING_MANAGE),
    }
    return desk.render(request, "budgets", context)


@desk.page(permissions.BILLING_MANAGE)
def new(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/budgets/new``: set a ceiling; ``?for=`` names what it is on."""
    form = NewCeiling(desk.told(request), initial={"subject_id": request.GET.get("for", "")})
    field = form.fields["subject_id"]
    assert isinstance(field, forms.ChoiceField)
    field.choices = _choices(here, wanted=request.GET.get("for", ""))
    if request.method == "POST" and form.is_valid():
        told = form.cleaned_data
        subject, _, shown = told["subject_id"].partition(":")
        # The form has checked that it is one of its choices.
        subject_id = (
            here.organization.pk if subject == Subject.ORGANIZATION else ids.read(PREFIXES[Subject(subject)], shown)
        )
        try:
            budgets.set_ceiling(
                organization_id=here.organization.pk, subject=subject, subject_id=subject_id, window=told["window"],
                unit=told["unit"], ceiling=told["ceiling"],
                warn_percent=told["warn_percent"], by=here.actor,
            )  # fmt: skip
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, "The budget is set.")
            return HttpResponseRedirect(here.place("budgets"))
    return desk.render(request, "budgets_new", {"form": form}, status=422 if form.errors else 200)


@desk.page(permissions.BILLING_MANAGE)
def one(request: HttpRequest, here: Desk, budget_id: str) -> HttpResponse:
    """``…/budgets/{id}``: change how much it is, or end it."""
    found = budgets.find(organization_id=here.organization.pk, shown=budget_id)
    form = Ceiling(
        desk.told(request), initial={"ceiling": money.plain(found.ceiling), "warn_percent": found.warn_percent}
    )
    form.fields["ceiling"].label = f"At most ({'USD' if found.unit == Unit.USD else 'tokens'})"
    if request.method == "POST" and form.is_valid():
        try:
            budgets.set_ceiling(
                organization_id=here.organization.pk, subject=found.subject, subject_id=found.subject_id,
                window=found.window, unit=found.unit, by=here.actor, **form.cleaned_data,
            )  # fmt: skip
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, "The budget is changed.")
            return HttpResponseRedirect(here.place("budgets"))
    (row,) = _rows(here, [each for each in budgets.standing(here.organization.pk) if each.budget.pk == found.pk])
    return desk.render(request, "budgets_one", {"form": form, "row": row}, status=422 if form.errors else 200)


@require_POST
@desk.page(permissions.BILLING_MANAGE)
def end(request: HttpRequest, here: Desk, budget_id: str) -> HttpResponse:
    """``POST …/budgets/{id}/end``: lift a ceiling."""
    found = budgets.find(organization_id=here.organization.pk, shown=budget_id)
    budgets.remove_ceiling(budget_id=found.pk, by=here.actor)
    desk.say(request, "The budget has ended; nothing is held back by it any more.")
    return HttpResponseRedirect(here.place("budgets"))


@desk.page(permissions.BILLING_MANAGE)
def alerts(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/budgets/alerts``: below which balance people are told."""
    low = wallets.state(here.organization.pk).low_usd
    form = LowMark(desk.told(request), initial={"low_usd": money.plain(low)})
    if request.method == "POST" and form.is_valid():
        try:
            wallets.change_terms(
                organization_id=here.organization.pk, terms=Terms(low_usd=form.cleaned_data["low_usd"]),
                reason="set in the portal", by=here.actor,
            )  # fmt: skip
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, "The warning line is set.")
            return HttpResponseRedirect(here.place("budgets"))
    told = notices.payers(here.organization.pk)
    return desk.render(request, "budgets_alerts", {"form": form, "told": told}, status=422 if form.errors else 200)


def percent(standing: Standing) -> int:
    """How much of a ceiling is used and held, rounded down, 0 to 100; a ceiling of nothing is full."""
    taken = max(standing.spent + standing.held, money.ZERO)
    if standing.ceiling <= 0 or taken >= standing.ceiling:
        return 100
    return int(taken * 100 // standing.ceiling)


def _rows(here: Desk, found: Collection[Standing]) -> list[Row]:
    names = _names(here, found)
    rows = []
    for each in found:
        budget = each.budget
        on = names.get((budget.subject, budget.subject_id), "–")
        window = dict(WINDOWS)[budget.window]
        rows.append(
            Row(each, ids.show("budget", budget.pk), on, budget.subject, window, percent(each), budget.unit == Unit.USD)
        )
    order = [Subject.ORGANIZATION, Subject.PROJECT, Subject.MEMBER, Subject.KEY]
    return sorted(rows, key=lambda row: (order.index(Subject(row.kind)), row.on.lower()))


def _names(here: Desk, found: Iterable[Standing]) -> Mapping[tuple[str, UUID], str]:
    """What ceilings are on, in words; three queries at most."""
    wanted: dict[str, list[UUID]] = {}
    for each in found:
        wanted.setdefault(each.budget.subject, []).append(each.budget.subject_id)
    names = {(str(Subject.ORGANIZATION), here.organization.pk): f"all of {here.organization.name}"}
    sources = (
        (Subject.PROJECT, Project, "name"),
        (Subject.MEMBER, Member, "user__email"),
        (Subject.KEY, ApiKey, "name"),
    )
    for subject, table, name in sources:
        if subject in wanted:
            rows = table._default_manager.filter(organization=here.organization, pk__in=wanted[subject])
            names |= {(str(subject), key): said for key, said in _called(rows, name)}
    return names


def _choices(here: Desk, *, wanted: str) -> list[tuple[str, object]]:
    """What a ceiling may be on, by kind; ``wanted`` is there if it is the organization's, however many there are."""
    mine = {"organization_id": here.organization.pk}
    parts: list[tuple[str, object]] = [(f"{Subject.ORGANIZATION}:", f"all of {here.organization.name}")]
    sources = (
        (Subject.PROJECT, "Projects", Project.objects.filter(**mine, archived_at=None), "name"),
        (Subject.MEMBER, "Members", Member.objects.filter(**mine, removed_at=None), "user__email"),
        (Subject.KEY, "Keys", ApiKey.objects.filter(**mine, revoked_at=None), "name"),
    )
    for subject, label, rows, name in sources:
        found = _called(rows.order_by("-pk")[:CHOICES_MAX], name)
        kind, _, shown = wanted.partition(":")
        one = _read(kind, shown) if kind == subject else None
        if one is not None and one not in {key for key, _ in found}:
            found += _called(rows.filter(pk=one), name)
        if found:
            options = [(f"{subject}:{ids.show(PREFIXES[subject], key)}", said) for key, said in found]
            parts.append((label, sorted(options, key=lambda option: option[1].lower())))
    return parts


def _called(rows: QuerySet[Any], name: str) -> list[tuple[UUID, str]]:
    """Ids and names; a key's with its last four, for names of keys need not differ."""
    if rows.model is ApiKey:
        return [(key.pk, str(key)) for key in rows]
    return list(rows.values_list("pk", name))


def _read(subject: str, shown: str) -> UUID | None:
    try:
        return ids.read(PREFIXES[Subject(subject)], shown)
    except (ValueError, KeyError):
        return None
