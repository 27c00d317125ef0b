"""The staff's door: the admin's site behind a password, a second factor and a session that ends.

A page of the admin opens only to a session that came through here (``orgs.sessions``); everything else leads to the
sign-in. Somebody without a device enrols one after the password, and reaches nothing before.
"""

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import segno
from django import forms
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters

from core import errors
from core.desk import Desk
from orgs import audit, second_factor, sessions
from orgs.models import User
from orgs.sessions import Step

if TYPE_CHECKING:
    from django.contrib.admin.forms import AdminAuthenticationForm
    from django.forms import TextInput
else:
    # Unfold has no types; what it adds to Django's own is looks.
    from unfold.forms import AuthenticationForm as AdminAuthenticationForm
    from unfold.widgets import UnfoldAdminTextInputWidget as TextInput

CODE_LENGTH_MAX = 64


class SignInForm(AdminAuthenticationForm):
    """E-mail address and password; what is wrong with them is one sentence whatever it is."""

    def clean(self) -> dict[str, Any]:
        """Find the person. A lock-out says until when."""
        assert self.request is not None
        email, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if email and password:
            try:
                self.user_cache = sessions.authenticate(self.request, email=email, password=password, staff=True)
            except errors.ApiError as error:
                raise ValidationError(str(error), code=error.code) from error
        return self.cleaned_data


class CodeForm(forms.Form):
    """A code of an app, or a recovery code."""

    code = forms.CharField(
        max_length=CODE_LENGTH_MAX,
        widget=TextInput(attrs={"autocomplete": "one-time-code", "autofocus": True, "spellcheck": "false"}),
        help_text="Of your authenticator app, or one of your recovery codes.",
    )


class Door(Desk):
    """The admin's site, as ``core.apps.AdminConfig`` names it."""

    login_form = SignInForm

    def has_permission(self, request: HttpRequest) -> bool:
        """Active staff, in a session of the desk, with a second factor."""
        return super().has_permission(request) and sessions.is_admitted(request)

    def get_urls(self) -> list[URLResolver | URLPattern]:
        """With the pages between the password and the desk."""
        return [
            path("sign-in/code/", self.ask_code, name="code"),
            path("sign-in/enrol/", self.enrol, name="enrol"),
            *super().get_urls(),
        ]

    @method_decorator([never_cache, csrf_protect, sensitive_post_parameters()])
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Ask for the password; what it opens is the next page, not the desk."""
        if request.method == "GET" and self.has_permission(request):
            return HttpResponseRedirect(_place(request))
        form = SignInForm(request, data=request.POST if request.method == "POST" else None)
        if form.is_valid():
            step = sessions.begin(request, form.get_user())
            return HttpResponseRedirect(_place(request) if step is Step.DONE else _next(step.value, request))
        here, known = request.get_full_path(), request.user.get_username()
        more = {"app_path": here, "username": known, **(extra_context or {})}
        return self._page(request, "admin/login.html", "Sign in", form=form, **more)

    @method_decorator([never_cache, csrf_protect, sensitive_post_parameters()])
    def ask_code(self, request: HttpRequest) -> HttpResponse:
        """Ask for the code of a device and open the desk."""
        person = sessions.pending(request)
        if person is None:
            return _back(request)
        if sessions.secret(request):
            return HttpResponseRedirect(_next("enrol", request))
        form = CodeForm(request.POST if request.method == "POST" else None)
        status = 200
        if form.is_valid():
            try:
                sessions.finish(request, code=form.cleaned_data["code"])
            except errors.ApiError as error:
                form.add_error("code", str(error))
                status = error.status if isinstance(error, second_factor.CodeTooSoon) else status
            else:
                return HttpResponseRedirect(_place(request))
        return self._page(
            request, "admin/code.html", "Second factor", status=status, form=form, person=person, button="Open the desk"
        )

    @method_decorator([never_cache, csrf_protect, sensitive_post_parameters()])
    def enrol(self, request: HttpRequest) -> HttpResponse:
        """Set up an app for somebody who has none, show the recovery codes once, and open the desk."""
        person = sessions.pending(request)
        if person is None:
            return _back(request)
        if not sessions.secret(request):
            return HttpResponseRedirect(_next("code", request))
        form = CodeForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                codes = sessions.enrol(request, code=form.cleaned_data["code"])
            except second_factor.EnrolledBefore:
                # By another sign-in meanwhile: this one knows the password only, and begins again.
                return _back(request)
            except errors.ApiError as error:
                form.add_error("code", str(error))
            else:
                return self._page(request, "admin/codes.html", "Recovery codes", codes=codes, place=_place(request))
        secret = sessions.secret(request)
        address = second_factor.address(person=person, secret=secret)
        return self._page(
            request,
            "admin/enrol.html",
            "Set up a second factor",
            form=form,
            button="Set up and go on",
            person=person,
            secret=second_factor.written(secret),
            address=address,
            picture=segno.make(address, error="m").svg_data_uri(scale=5, border=4, light="white"),
        )

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """One's own password; other sessions of the person end with it."""
        with transaction.atomic():
            answer = super().password_change(request, extra_context)
            if request.method == "POST" and answer.status_code == 302:
                person = cast(User, request.user)
                audit.note(actor=audit.user(person), verb="user.password_changed", subject=person)
        return answer

    def _page(
        self, request: HttpRequest, template: str, title: str, *, status: int = 200, **context: Any
    ) -> HttpResponse:
        shown = {**self.each_context(request), "title": title, "next": _place(request), **context}
        return TemplateResponse(request, template, shown, status=status)


def _place(request: HttpRequest) -> str:
    """Where somebody wanted to go, if that is a page of ours; else the start page."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    own = url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure())
    return wanted if own else reverse("admin:index")


def _next(name: str, request: HttpRequest) -> str:
    return f"{reverse(f'admin:{name}')}?{urlencode({'next': _place(request)})}"


def _back(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(_next("login", request))
