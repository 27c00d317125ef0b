"""Who is at the desk: a signed-in person in one of their organizations, and what their role lets them do.

Every page of an organization lives below ``/portal/{slug}/`` and is made by ``page``. Whoever is not a member
gets the same 404 as for an organization that does not exist.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.shortcuts import render as render_template
from django.urls import reverse
from django.utils.cache import patch_cache_control
from django_htmx.http import HttpResponseClientRedirect

from core import errors
from metering.usage_pages import Scope
from orgs import audit, organizations, permissions
from orgs.audit import Actor
from orgs.models import Member, Organization, User

P = ParamSpec("P")


class Place(NamedTuple):
    """An entry of the menu: what it says, the name of its page, and the permission that it takes."""

    label: str
    page: str
    needs: str | None = None


MENU: Final = (
    Place("Overview", "overview"),
    Place("Usage", "usage", permissions.USAGE_READ_OWN),
    Place("Requests", "requests", permissions.USAGE_READ_OWN),
    Place("Keys", "keys"),
    Place("Members", "members"),
    Place("Budgets", "budgets", permissions.BILLING_READ),
    Place("Credit", "credit", permissions.WALLET_READ),
    Place("Invoices", "invoices", permissions.BILLING_READ),
    Place("Webhooks", "webhooks", permissions.WEBHOOKS_MANAGE),
    Place("Models", "models"),
    Place("Quickstart", "quickstart"),
)


@dataclass(frozen=True, slots=True)
class Desk:
    """A person in an organization. ``permissions`` are those of their role there."""

    user: User
    organization: Organization
    member: Member
    permissions: frozenset[str]

    @property
    def actor(self) -> Actor:
        """Who acts, for the audit trail."""
        return audit.user(self.user)

    @property
    def zone(self) -> ZoneInfo:
        """The organization's time zone, in which its days begin and its pages tell times."""
        return ZoneInfo(self.organization.time_zone)

    @property
    def scope(self) -> Scope:
        """The usage records that this person may see: all of the organization's, or only their own."""
        everything = permissions.USAGE_READ_ALL in self.permissions
        return Scope(self.organization.pk, None if everything else self.member.pk)

    def may(self, permission: str) -> bool:
        """Whether their role has a permission."""
        return permission in self.permissions

    def place(self, page: str, *args: object) -> str:
        """The address of a page of this organization, by its name."""
        return reverse(f"portal:{page}", args=[self.organization.slug, *args])


def own(user: User) -> list[Organization]:
    """The open organizations that a person belongs to, shared ones by name, then their own."""
    rows = Organization.objects.filter(
        pk__in=Member.objects.filter(user=user, removed_at__isnull=True).values("organization_id"),
        closed_at__isnull=True,
    )
    return sorted(rows, key=lambda row: (row.is_personal, row.name.lower(), row.slug))


def sit_down(*, user: User, slug: str) -> Desk:
    """A person at the desk of one of their organizations. Raises ``NotFound`` for any other."""
    organization = Organization.objects.filter(slug=slug, closed_at__isnull=True).first()
    member = None
    if organization is not None:
        member = (
            Member.objects.for_org(organization.pk)
            .filter(user=user, removed_at__isnull=True)
            .select_related("role")
            .first()
        )
    if organization is None or member is None:
        raise errors.NotFound
    given = set(member.role.permissions)
    if permissions.USAGE_READ_ALL in given:
        given.add(permissions.USAGE_READ_OWN)
    return Desk(user=user, organization=organization, member=member, permissions=frozenset(given))


View = Callable[Concatenate[HttpRequest, Desk, P], HttpResponseBase]


def page(
    needs: str | None = None, *, writes: str | None = None
) -> Callable[[View[P]], Callable[..., HttpResponseBase]]:
    """Make a view of an organization's page: who is not signed in is asked to, who may not is told so.

    ``needs`` is the permission that the page takes, ``writes`` the one that a POST to it takes. What a verb
    refuses becomes a page that says so; forms catch it themselves and show it at the field.
    """

    def of(view: View[P]) -> Callable[..., HttpResponseBase]:
        @wraps(view)
        def shown(request: HttpRequest, slug: str, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if not isinstance(request.user, User):
                return ask_in(request)
            try:
                desk = sit_down(user=request.user, slug=slug)
                request.desk = desk  # type: ignore[attr-defined]
                for permission in (needs, writes if request.method == "POST" else None):
                    if permission is not None and not desk.may(permission):
                        raise errors.PermissionDenied(
                            f"Your role here, {desk.member.role.name}, does not include {permission}."
                        )
                answer: HttpResponseBase = view(request, desk, *args, **kwargs)
            except errors.ApiError as error:
                answer = refuse(request, error)
            patch_cache_control(answer, private=True, no_store=True)
            return answer

        return shown

    return of


def ask_in(request: HttpRequest) -> HttpResponse:
    """To the door, and from there back to the page that somebody had before them, however this was asked for.

    A part of a page makes no page, and the address of a form that was sent may be one that only takes forms: what
    comes back is the page that both are of.
    """
    door, part = reverse("portal:sign_in"), getattr(request, "htmx", None)
    if part:
        told = redirect_to_login(part.current_url_abs_path or request.get_full_path(), door)
        return HttpResponseClientRedirect(told.url)
    if request.method == "POST":
        messages.warning(request, "You were signed out before this was sent. Sign in and send it once more.")
        return redirect_to_login(_came_from(request), door)
    return redirect_to_login(request.get_full_path(), door)


def _came_from(request: HttpRequest) -> str:
    """The page of ours that a form was on, as the browser tells it; else where everybody begins."""
    told = urlsplit(request.headers.get("Referer", ""))
    if told.netloc != request.get_host() or not told.path.startswith("/portal/"):
        return reverse("portal:home")
    return f"{told.path}?{told.query}" if told.query else told.path


def render(
    request: HttpRequest, template: str, context: Mapping[str, Any] | None = None, *, status: int = 200
) -> HttpResponse:
    """A page from ``portal/{template}.html``, with the menu of the organization that it is about."""
    desk: Desk | None = getattr(request, "desk", None)
    # A form that is shown again is the answer to it: whoever comes back to that page is to see the form itself.
    frame: dict[str, Any] = {"desk": desk, "form_at": request.path if status == 422 else ""}
    if desk is not None:
        here = request.resolver_match.url_name if request.resolver_match else ""
        frame["menu"] = [
            (place, desk.place(place.page), (here or "").split("-")[0] == place.page)
            for place in MENU
            if place.needs is None or desk.may(place.needs)
        ]
        frame["organizations"] = own(desk.user)
    return render_template(request, f"portal/{template}.html", {**frame, **(context or {})}, status=status)


def refuse(request: HttpRequest, error: errors.ApiError, *, onward: tuple[str, str] | None = None) -> HttpResponse:
    """A page that says what was refused; ``onward`` is where it can be mended, and what the link says."""
    told = {"said": str(error), "status": error.status, "onward": onward}
    return render(request, "refused", told, status=error.status)


def told(request: HttpRequest) -> QueryDict | None:
    """What a form was sent with, were it nothing at all; None where none was sent."""
    return request.POST if request.method == "POST" else None


def say(request: HttpRequest, text: str) -> None:
    """A sentence on top of the next page."""
    messages.success(request, text)


def complain(request: HttpRequest, error: errors.ApiError) -> None:
    """What a verb refused, on top of the next page."""
    messages.error(request, str(error))


def home(user: User) -> str:
    """Where a person begins: the first organization of theirs."""
    mine = own(user)
    if not mine:
        mine = [organizations.ensure_personal(user, by=audit.user(user))]
    return reverse("portal:overview", args=[mine[0].slug])
