"""Webhooks: where an organization wants to be told what happens, and what became of it."""

from typing import Any, Final

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_POST, require_safe

from core import errors, ids
from ops import deliveries, egress, endpoints, happenings
from ops.endpoints import Issued
from ops.models import WebhookDelivery, WebhookEndpoint
from orgs import permissions
from portal import desk
from portal.accounts import fault
from portal.desk import Desk

ROWS: Final = 50
_LEVELS: Final = {"succeeded": "good", "pending": "warn", "failed": "bad", "canceled": ""}


class Endpoint(forms.Form):
    """Where to, and what about."""

    url = forms.CharField(
        label="URL", max_length=egress.URL_CHARS_MAX, widget=forms.TextInput(attrs={"inputmode": "url"}),
        help_text="https:// and a name that the internet knows.",
    )  # fmt: skip
    events = forms.MultipleChoiceField(
        label="Only these events", required=False, widget=forms.CheckboxSelectMultiple,
        choices=[(kind, f"{kind} – {means.replace('`', '')}") for kind, means in happenings.KINDS.items()],
        help_text="None chosen: every event, those of later versions too.",
    )  # fmt: skip


@require_safe
@desk.page(permissions.WEBHOOKS_MANAGE)
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/webhooks``: there are ten at most."""
    rows = [(row, ids.show("we", row.pk)) for row in endpoints.of(here.organization.pk)]
    return desk.render(request, "webhooks", {"rows": rows})


@desk.page(permissions.WEBHOOKS_MANAGE)
def new(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/webhooks/new``: a form, and after it the endpoint with its secret, which no other page shows."""
    form = Endpoint(desk.told(request))
    if request.method == "POST" and form.is_valid():
        told = form.cleaned_data
        try:
            issued = endpoints.create(
                organization_id=here.organization.pk, url=told["url"], kinds=told["events"], by=here.actor
            )
        except errors.ApiError as error:
            fault(form, error)
        else:
            return _tell(request, here, issued, said="The endpoint is ready")
    return desk.render(request, "webhooks_new", {"form": form}, status=422 if form.errors else 200)


@require_safe
@desk.page(permissions.WEBHOOKS_MANAGE)
def one(request: HttpRequest, here: Desk, endpoint_id: str) -> HttpResponse:
    """``GET …/webhooks/{id}``: an endpoint and what was sent there."""
    endpoint = _find(here, endpoint_id)
    found, has_more = deliveries.page(endpoint=endpoint, limit=ROWS, after=request.GET.get("after"))
    context = {
        "endpoint": endpoint,
        "shown": endpoint_id,
        "rows": [_row(row) for row in found],
        "after": ids.show("wd", found[-1].pk) if has_more else None,
        "earlier": "after" in request.GET,
        "kept_days": deliveries.KEEP.days,
    }
    return desk.render(request, "webhooks_one", context)


@desk.page(permissions.WEBHOOKS_MANAGE)
def change(request: HttpRequest, here: Desk, endpoint_id: str) -> HttpResponse:
    """``…/webhooks/{id}/change``: another URL or other events."""
    endpoint = _find(here, endpoint_id)
    form = Endpoint(desk.told(request), initial={"url": endpoint.url, "events": endpoint.kinds})
    if request.method == "POST" and form.is_valid():
        told = form.cleaned_data
        try:
            endpoints.change(**_named(here, endpoint), url=told["url"], kinds=told["events"])
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, "The endpoint is changed.")
            return HttpResponseRedirect(here.place("webhooks-one", endpoint_id))
    shown = {"form": form, "endpoint": endpoint, "shown": endpoint_id}
    return desk.render(request, "webhooks_change", shown, status=422 if form.errors else 200)


@require_POST
@desk.page(permissions.WEBHOOKS_MANAGE)
def rotate(request: HttpRequest, here: Desk, endpoint_id: str) -> HttpResponse:
    """``POST …/webhooks/{id}/rotate``: another secret; the old one signs as well for a day."""
    issued = endpoints.rotate(**_named(here, _find(here, endpoint_id)))
    return _tell(request, here, issued, said="The endpoint has a new secret; for a day the old one signs as well")


@require_POST
@desk.page(permissions.WEBHOOKS_MANAGE)
def switch(request: HttpRequest, here: Desk, endpoint_id: str) -> HttpResponse:
    """``POST …/webhooks/{id}/switch``: ``on`` or ``off``."""
    on = request.POST.get("to") == "on"
    endpoints.change(**_named(here, _find(here, endpoint_id)), enabled=on)
    desk.say(request, "The endpoint is on." if on else "The endpoint is off; what waited for it is dropped.")
    return HttpResponseRedirect(here.place("webhooks-one", endpoint_id))


@require_POST
@desk.page(permissions.WEBHOOKS_MANAGE)
def delete(request: HttpRequest, here: Desk, endpoint_id: str) -> HttpResponse:
    """``POST …/webhooks/{id}/delete``: out of use for good."""
    endpoints.delete(**_named(here, _find(here, endpoint_id)))
    desk.say(request, "The endpoint is deleted.")
    return HttpResponseRedirect(here.place("webhooks"))


@require_POST
@desk.page(permissions.WEBHOOKS_MANAGE)
def test(request: HttpRequest, here: Desk, endpoint_id: str) -> HttpResponse:
    """``POST …/webhooks/{id}/test``: a ping to this endpoint alone."""
    endpoint = _find(here, endpoint_id)
    try:
        deliveries.ping(endpoint=endpoint, by=here.actor)
    except errors.Conflict as error:
        desk.complain(request, error)
    else:
        desk.say(request, "A ping is on its way.")
    return HttpResponseRedirect(here.place("webhooks-one", endpoint_id))


@require_POST
@desk.page(permissions.WEBHOOKS_MANAGE)
def again(request: HttpRequest, here: Desk, endpoint_id: str, delivery_id: str) -> HttpResponse:
    """``POST …/webhooks/{id}/{delivery}/again``: send a message once more, under the same id."""
    delivery = deliveries.find(endpoint=_find(here, endpoint_id), shown=delivery_id)
    try:
        deliveries.redeliver(delivery=delivery, by=here.actor)
    except errors.Conflict as error:
        desk.complain(request, error)
    else:
        desk.say(request, "It is on its way again.")
    return HttpResponseRedirect(here.place("webhooks-one", endpoint_id))


def _find(here: Desk, shown: str) -> WebhookEndpoint:
    return endpoints.find(organization_id=here.organization.pk, shown=shown)


def _named(here: Desk, endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {"organization_id": endpoint.organization_id, "endpoint_id": endpoint.pk, "by": here.actor}


def _row(row: WebhookDelivery) -> dict[str, Any]:
    """A delivery with its ids as shown, and the colour of its state."""
    return {
        "delivery": row, "shown": ids.show("wd", row.pk), "message": ids.show("evt", row.message_id),
        "level": _LEVELS[row.state],
    }  # fmt: skip


def _tell(request: HttpRequest, here: Desk, issued: Issued, *, said: str) -> HttpResponse:
    """The answer that holds a secret. It is no redirect: nothing but this answer ever knows the secret."""
    place = here.place("webhooks-one", ids.show("we", issued.endpoint.pk))
    return desk.render(
        request, "webhooks_told", {"endpoint": issued.endpoint, "secret": issued.secret, "said": said, "place": place}
    )
