"""Keys: what they may do, what they cost, and how they are made, replaced and stopped.

An organization's page shows its own keys to whoever manages them. A personal key belongs to a person's personal
organization and is managed there; elsewhere its person sees it, because with a header it calls for that
organization too.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from django import forms
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from core import clock, errors, ids
from metering import buckets, catalog, rollups
from metering.rollups import Only
from orgs import keyring, keys, permissions, ratelimits
from orgs.keyring import Person, Wish
from orgs.keys import IssuedKey
from orgs.models import ApiKey, Organization, Project
from orgs.ratelimits import Limits
from portal import days, desk
from portal.accounts import fault
from portal.desk import Desk

ROWS: Final = 50
# How far back the list looks for when a key was used last; the longest month is in it.
DAYS: Final = 31
PROJECTS_MAX: Final = 500
EXAMPLE_MODEL: Final = "gpt-4o-mini"

SCOPES: Final = (
    (permissions.KEYS_MANAGE, "make, replace and delete keys"),
    (permissions.BILLING_MANAGE, "top up, set automatic top-up"),
    (permissions.WEBHOOKS_MANAGE, "manage webhook endpoints"),
)


class NewKey(forms.Form):
    """What a key is asked to be."""

    name = forms.CharField(max_length=keys.NAME_LENGTH_MAX, help_text="What it is for, such as “nightly reports”.")
    expires_at = forms.DateField(
        label="Last day", required=False, widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="It stops at the end of that day. Empty: it works until somebody revokes it.",
    )  # fmt: skip
    scopes = forms.MultipleChoiceField(
        label="What it may manage", required=False, widget=forms.CheckboxSelectMultiple,
        choices=[(scope, f"{scope} – {means}") for scope, means in SCOPES],
        help_text="Every key may call models and read usage, wallet and invoices.",
    )  # fmt: skip
    models = forms.CharField(
        label="Only these models", required=False, widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text="One id on a line. Empty: every model.",
    )  # fmt: skip
    cidrs = forms.CharField(
        label="Only from these networks", required=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text="One on a line, such as 203.0.113.0/24. Empty: from anywhere.",
    )  # fmt: skip
    requests = forms.IntegerField(label="Requests a minute", required=False)
    tokens = forms.IntegerField(label="Tokens a minute", required=False)
    concurrency = forms.IntegerField(label="Calls at once", required=False)
    project = forms.ChoiceField(required=False, help_text="Its usage is told apart by it. It stays as it is.")


class KeyLimits(forms.Form):
    """How much a key may ask of the gateway."""

    requests = forms.IntegerField(label="Requests a minute", required=False)
    tokens = forms.IntegerField(label="Tokens a minute", required=False)
    concurrency = forms.IntegerField(label="Calls at once", required=False)


class Used(NamedTuple):
    """What a key cost this month, and the day on which it was used last; None: not for ``DAYS`` days."""

    month_usd: Decimal
    last: date | None


UNUSED: Final = Used(Decimal(0), None)


class Row(NamedTuple):
    """A key in a list. ``limits`` are words, and so is ``state``."""

    key: ApiKey
    shown: str
    state: str
    limits: Sequence[str]
    used: Used
    last_day: date | None


@require_safe
@desk.page()
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/keys``."""
    found: list[ApiKey] = []
    has_more = False
    if here.may(permissions.KEYS_MANAGE):
        found, has_more = keyring.page(principal=_person(here), limit=ROWS, after=request.GET.get("after"))
    own = [] if here.organization.is_personal else _personal(here)
    used = _used(here, [key.pk for key in (*found, *own)])
    limits = ratelimits.stored([key.pk for key in (*found, *own)])
    context = {
        "rows": [_row(here, key, used, limits) for key in found],
        "own": [_row(here, key, used, limits) for key in own],
        "own_place": _own_place(here),
        "after": ids.show("key", found[-1].pk) if has_more else None,
        "earlier": "after" in request.GET,
        "manages": here.may(permissions.KEYS_MANAGE),
    }
    return desk.render(request, "keys", context)


@desk.page(permissions.KEYS_MANAGE)
def new(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/keys/new``: a form, and after it the key with its secret, which no other page shows."""
    form = NewKey(desk.told(request))
    _offer_projects(form, here)
    if request.method == "POST" and form.is_valid():
        try:
            issued = _issue(here, form.cleaned_data)
        except errors.ApiError as error:
            fault(form, error)
        else:
            return _tell(request, here, issued, said="is ready")
    return desk.render(request, "keys_new", {"form": form}, status=422 if form.errors else 200)


@desk.page(permissions.KEYS_MANAGE)
def one(request: HttpRequest, here: Desk, key_id: str) -> HttpResponse:
    """``…/keys/{id}``: a key; a POST changes its limits."""
    key = keyring.find(principal=_person(here), key_id=key_id)
    limits = ratelimits.stored([key.pk])
    form = KeyLimits(desk.told(request), initial=limits.get(key.pk, Limits())._asdict())
    if request.method == "POST" and form.is_valid():
        try:
            ratelimits.put(subject=key, limits=Limits(**form.cleaned_data), by=here.actor)
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, f"The limits of {key.name} are set.")
            return HttpResponseRedirect(here.place("keys-one", key_id))
    project = None if key.project_id is None else Project.objects.get(pk=key.project_id)
    context = {
        "form": form, "row": _row(here, key, _used(here, [key.pk]), limits), "project": project,
        "may_set_budget": here.may(permissions.BILLING_MANAGE),
    }  # fmt: skip
    return desk.render(request, "keys_one", context, status=422 if form.errors else 200)


@require_POST
@desk.page(permissions.KEYS_MANAGE)
def rotate(request: HttpRequest, here: Desk, key_id: str) -> HttpResponse:
    """``POST …/keys/{id}/rotate``: another secret; the old one stops at once."""
    try:
        issued = keyring.rotate(principal=_person(here), key_id=key_id)
    except (errors.Conflict, errors.PermissionDenied) as error:
        desk.complain(request, error)
        return HttpResponseRedirect(here.place("keys-one", key_id))
    return _tell(request, here, issued, said="has a new secret; the old one has stopped")


@require_POST
@desk.page(permissions.KEYS_MANAGE)
def revoke(request: HttpRequest, here: Desk, key_id: str) -> HttpResponse:
    """``POST …/keys/{id}/revoke``: it stops for good and stays listed."""
    key = keyring.revoke(principal=_person(here), key_id=key_id)
    desk.say(request, f"{key.name} is revoked.")
    return HttpResponseRedirect(here.place("keys"))


@require_POST
@desk.page(permissions.KEYS_MANAGE)
def delete(request: HttpRequest, here: Desk, key_id: str) -> HttpResponse:
    """``POST …/keys/{id}/delete``: it stops for good and leaves the list."""
    key = keyring.delete(principal=_person(here), key_id=key_id)
    desk.say(request, f"{key.name} is deleted.")
    return HttpResponseRedirect(here.place("keys"))


@transaction.atomic
def _issue(here: Desk, told: Mapping[str, Any]) -> IssuedKey:
    """The key that a form asks for, with its limits."""
    wish = Wish(
        name=told["name"], scopes=told["scopes"], models=_lines(told["models"]), cidrs=_lines(told["cidrs"]),
        expires_at=_end_of(told["expires_at"], here), project=told.get("project") or None,
    )  # fmt: skip
    issued = keyring.issue(principal=_person(here), wish=wish)
    limits = Limits(told["requests"], told["tokens"], told["concurrency"])
    if limits != Limits():
        ratelimits.put(subject=issued.key, limits=limits, by=here.actor)
    return issued


def _tell(request: HttpRequest, here: Desk, issued: IssuedKey, *, said: str) -> HttpResponse:
    """The answer that holds a secret. It is no redirect: nothing but this answer ever knows the secret."""
    offered = [model.slug for model in catalog.offered(group=here.organization.price_group)]
    context = {
        "key": issued.key,
        "secret": issued.secret,
        "said": said,
        "place": here.place("keys-one", ids.show("key", issued.key.pk)),
        "base_url": settings.PUBLIC_URL,
        "model": next(iter([*issued.key.allowed_models, *offered]), EXAMPLE_MODEL),
    }
    return desk.render(request, "keys_told", context)


def _person(here: Desk) -> Person:
    return Person(
        organization_id=here.organization.pk, is_personal=here.organization.is_personal, user_id=here.user.pk,
        permissions=here.permissions, actor=here.actor,
    )  # fmt: skip


def _personal(here: Desk) -> list[ApiKey]:
    """A person's own keys that still stand, the newest ``ROWS``."""
    rows = ApiKey.objects.filter(user=here.user, deleted_at__isnull=True, revoked_at__isnull=True)
    return list(rows.order_by("-id")[:ROWS])


def _own_place(here: Desk) -> str | None:
    """Where a person's own keys are managed."""
    slug = Organization.objects.filter(personal_of=here.user).values_list("slug", flat=True).first()
    return None if slug is None else reverse("portal:keys", args=[slug])


def _offer_projects(form: NewKey, here: Desk) -> None:
    """The open projects to choose from; no field where there are none."""
    rows = Project.objects.for_org(here.organization.pk).filter(archived_at__isnull=True)
    found = list(rows.order_by("name").values_list("pk", "name")[:PROJECTS_MAX])
    if found:
        field = form.fields["project"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "none"), *((ids.show("proj", pk), name) for pk, name in found)]
    else:
        del form.fields["project"]


def _used(here: Desk, key_ids: Sequence[UUID]) -> dict[UUID, Used]:
    """What keys used in this organization, from the last ``DAYS`` days."""
    if not key_ids:
        return {}
    now = clock.now()
    edges = days.edges(now=now, zone=here.zone, days=DAYS)
    sums = rollups.sums(
        organization_id=here.organization.pk, edges=edges, by=["api_key_id"], rows=DAYS * len(key_ids),
        only=Only(api_key_ids=key_ids),
    )  # fmt: skip
    month = now.astimezone(here.zone).replace(day=1).date()
    found: dict[UUID, Used] = {}
    for each in sums:
        key_id, on = each.group[0], edges[each.bucket].astimezone(here.zone).date()
        before = found.get(key_id, UNUSED).month_usd
        found[key_id] = Used(before + each.cost_usd if on >= month else before, on)
    return found


def _row(here: Desk, key: ApiKey, used: Mapping[UUID, Used], limits: Mapping[UUID, Limits]) -> Row:
    return Row(
        key, ids.show("key", key.pk), state(key, at=clock.now()), words(limits.get(key.pk, Limits())),
        used.get(key.pk, UNUSED), _last_day(key, here),
    )  # fmt: skip


def _last_day(key: ApiKey, here: Desk) -> date | None:
    """The last day on which a key works; one that stops at midnight does not work on the day that begins then."""
    if key.expires_at is None:
        return None
    return (key.expires_at - timedelta(microseconds=1)).astimezone(here.zone).date()


def state(key: ApiKey, *, at: datetime) -> str:
    """``active``, ``expired`` or ``revoked``."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= at else "active"


def words(limits: Limits) -> list[str]:
    """Limits as pages tell them."""
    told = ((limits.requests, "requests/min"), (limits.tokens, "tokens/min"), (limits.concurrency, "at once"))
    return [f"{number:,} {unit}" for number, unit in told if number is not None]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _end_of(day: date | None, here: Desk) -> datetime | None:
    """Where a day ends in the organization's zone. Raises ``OutOfRange`` for one that is over."""
    if day is None:
        return None
    if day < clock.now().astimezone(here.zone).date() or day.year > 9998:
        raise errors.OutOfRange("The last day must not be over.", param="expires_at")
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=here.zone)
    return buckets.next_day(noon, here.zone)
