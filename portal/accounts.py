"""The door of the portal: signing in and out, choosing a password, making an organization."""

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from core import errors
from orgs import audit, organizations, sessions
from orgs.models import User
from portal import desk, invitations


class SignIn(forms.Form):
    """An address and a password."""

    email = forms.EmailField(label="E-mail address", widget=forms.EmailInput(attrs={"autocomplete": "username"}))
    password = forms.CharField(widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}), strip=False)


class Address(forms.Form):
    """Where a letter goes."""

    email = forms.EmailField(label="E-mail address", widget=forms.EmailInput(attrs={"autocomplete": "username"}))


class Password(forms.Form):
    """A new password, typed once where it can be seen by a password manager."""

    password = forms.CharField(
        label="New password", strip=False, help_text="At least 12 characters.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "minlength": 12}),
    )  # fmt: skip


class NewOrganization(forms.Form):
    """What an organization is made of."""

    name = forms.CharField(max_length=organizations.NAME_LENGTH_MAX)
    slug = forms.CharField(
        max_length=63,
        help_text="Lower-case letters, digits and hyphens. Calls name it: X-DeepToken-Org. It stays as it is.",
    )
    time_zone = forms.ChoiceField(
        label="Time zone", initial="UTC", choices=[(zone, zone) for zone in sorted(organizations.zones())],
        help_text="In which its days, months and invoices begin. It stays as it is.",
    )  # fmt: skip


@require_safe
def begin(request: HttpRequest) -> HttpResponse:
    """``GET /`` and ``/portal/``: to where the person begins, or to the door."""
    place = desk.home(request.user) if isinstance(request.user, User) else reverse("portal:sign_in")
    return HttpResponseRedirect(place)


@never_cache
@sensitive_post_parameters("password")
def sign_in(request: HttpRequest) -> HttpResponse:
    """``/portal/sign-in``: by address and password; one answer for a wrong address and a wrong password."""
    form = SignIn(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            user = sessions.authenticate(request, **form.cleaned_data)
        except sessions.SignInRefused:
            form.add_error(None, "This address and password do not belong together.")
        except sessions.SignInLocked as error:
            form.add_error(None, str(error))
        else:
            return _enter(request, user, place=_onward(request, user))
    shown = {"form": form, "next": request.GET.get("next", ""), "sign_up": settings.SIGN_UP}
    return desk.render(request, "sign_in", shown, status=403 if form.errors else 200)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """``POST /portal/sign-out``."""
    sessions.close(request)
    return HttpResponseRedirect(reverse("portal:sign_in"))


def sign_up(request: HttpRequest) -> HttpResponse:
    """``/portal/sign-up``: a letter to a new person; 404 where people are invited only."""
    if not settings.SIGN_UP:
        return desk.refuse(request, errors.NotFound("Ask who runs this installation for an account."))
    return _letter(request, title="Make an account", button="Send the letter")


def forgotten(request: HttpRequest) -> HttpResponse:
    """``/portal/forgotten``: a letter to who has no password any more."""
    return _letter(request, title="Choose a new password", button="Send the letter")


def _letter(request: HttpRequest, *, title: str, button: str) -> HttpResponse:
    form = Address(request.POST or None)
    sent = ""
    if request.method == "POST" and form.is_valid():
        try:
            invitations.ask(email=form.cleaned_data["email"])
        except errors.ApiError as error:
            fault(form, error)
        else:
            sent = form.cleaned_data["email"]
    return desk.render(request, "letter", {"form": form, "title": title, "button": button, "sent": sent})


@never_cache
@sensitive_post_parameters("password")
def welcome(request: HttpRequest, token: str) -> HttpResponse:
    """``/portal/welcome/{token}``: a letter's link; choose a password and be in."""
    try:
        email = invitations.read(token)
        form = Password(request.POST or None)
        if request.method == "POST" and form.is_valid():
            user = invitations.accept(secret=token, password=form.cleaned_data["password"])
            return _enter(request, user, place=desk.home(user))
    except invitations.LinkSpent as error:
        return desk.refuse(request, error, onward=(reverse("portal:forgotten"), "Ask for a new link"))
    except errors.ApiError as error:
        fault(form, error)
    return desk.render(request, "welcome", {"form": form, "email": email})


@never_cache
def organizations_page(request: HttpRequest) -> HttpResponse:
    """``/portal/organizations``: a person's organizations, and a new one."""
    if not isinstance(request.user, User):
        return HttpResponseRedirect(f"{reverse('portal:sign_in')}?next={request.path}")
    form = NewOrganization(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = organizations.create(owner=request.user, by=audit.user(request.user), **form.cleaned_data)
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, f"{made.name} is ready.")
            return HttpResponseRedirect(reverse("portal:overview", args=[made.slug]))
    return desk.render(request, "organizations", {"form": form, "own": desk.own(request.user)})


def nowhere(request: HttpRequest, **_: str) -> HttpResponse:
    """Any other address below ``/portal/``."""
    return desk.refuse(request, errors.NotFound(f"Nothing is at {request.path}."))


def fault(form: forms.Form, error: errors.ApiError) -> None:
    """Show what a verb refused at the field that it is about, by the name it has there, or above the form."""
    field, said = error.param if error.param in form.fields else None, str(error)
    if field is not None and said.startswith(f"{field} "):
        said = f"{form[field].label}{said.removeprefix(field)}"
    elif field is not None and said.startswith(f"{field}: "):
        said = said.removeprefix(f"{field}: ")
        said = said[:1].upper() + said[1:]
    form.add_error(field, said)


def _enter(request: HttpRequest, user: User, *, place: str) -> HttpResponse:
    """Sign in and go on; who has a second factor is asked for its code first."""
    try:
        sessions.open_portal(request, user)
    except sessions.CodeNeeded:
        sessions.begin(request, user)
        place = f"{reverse('admin:code')}?{urlencode({'next': place})}"
    return HttpResponseRedirect(place)


def _onward(request: HttpRequest, user: User) -> str:
    """Where to go after signing in: to the page that asked for it, if it is ours."""
    wanted: Any = request.POST.get("next", "")
    if url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()):
        return str(wanted)
    return desk.home(user)
