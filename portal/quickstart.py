"""Quickstart: the first call in three languages, with a key made right there."""

from typing import Final

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods

from core import errors
from metering import catalog
from orgs import keyring, keys, permissions
from orgs.keyring import Person, Wish
from portal import desk
from portal.accounts import fault
from portal.desk import Desk

PLACEHOLDER: Final = "dtk_your_key"
# The first of these that is on offer stands in the examples; else the first model there is.
MODELS: Final = ("gpt-4o-mini", "gpt-5-mini", "claude-haiku-5-5", "deepseek-chat")


class KeyForm(forms.Form):
    """What a new key is called."""

    name = forms.CharField(label="Name of the key", max_length=keys.NAME_LENGTH_MAX, initial="quickstart")


@require_http_methods(["GET", "HEAD", "POST"])
@desk.page(writes=permissions.KEYS_MANAGE)
@sensitive_variables("secret", "issued")
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``/portal/{slug}/quickstart``: a POST makes a key, which this one answer shows filled in."""
    form = KeyForm(request.POST or None, initial={"name": "quickstart"})
    secret = ""
    if request.method == "POST" and form.is_valid():
        maker = Person(
            organization_id=here.organization.pk, is_personal=here.organization.is_personal, user_id=here.user.pk,
            permissions=here.permissions, actor=here.actor,
        )  # fmt: skip
        try:
            issued = keyring.issue(principal=maker, wish=Wish(name=form.cleaned_data["name"]))
        except errors.ApiError as error:
            fault(form, error)
        else:
            secret = issued.secret
    context = {
        "form": form, "secret": secret, "key": secret or PLACEHOLDER, "model": _model(here),
        "base_url": f"{settings.PUBLIC_URL or request.build_absolute_uri('/').rstrip('/')}/v1",
        "makes": here.may(permissions.KEYS_MANAGE), "calls": here.may(permissions.CALLS_MAKE),
    }  # fmt: skip
    return desk.render(request, "quickstart", context, status=422 if form.errors else 200)


def _model(here: Desk) -> str:
    """A model for the examples."""
    offered = [model.slug for model in catalog.offered(group=here.organization.price_group)]
    return next((slug for slug in MODELS if slug in offered), offered[0] if offered else "gpt-4o-mini")
