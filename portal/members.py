"""Members: who belongs to an organization, what they may do, its projects, and who did what."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from django import forms
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from core import errors, ids
from ops.models import WebhookEndpoint
from orgs import audit, members, permissions, projects
from orgs.models import ApiKey, AuditEntry, Member, Project, Role
from orgs.ratelimits import Limits
from portal import budgets, desk, invitations, keys
from portal.accounts import fault
from portal.desk import Desk

ROWS: Final = 100
HISTORY_ROWS: Final = 50

MEANINGS: Final = {
    permissions.CALLS_MAKE: "make calls",
    permissions.USAGE_READ_OWN: "see their own usage",
    permissions.USAGE_READ_ALL: "see all usage",
    permissions.WALLET_READ: "see the balance",
    permissions.KEYS_MANAGE: "manage keys",
    permissions.MEMBERS_MANAGE: "manage members",
    permissions.BILLING_READ: "see invoices and budgets",
    permissions.BILLING_MANAGE: "top up, set budgets",
    permissions.WEBHOOKS_MANAGE: "manage webhooks",
    permissions.ORGANIZATION_MANAGE: "manage the organization",
}

# What entries of the trail mean; a verb that is not here is shown as it is.
VERBS: Final = {
    "adjustment.asked": "asked for an adjustment",
    "adjustment.posted": "carried out an adjustment",
    "adjustment.refused": "refused an adjustment",
    "bank_transfer.posted": "took in a bank transfer",
    "bank_transfer.recorded": "noted a bank transfer",
    "bank_transfer.refused": "refused a bank transfer",
    "billing_period.closed": "closed a billing period",
    "billing_period.finalized": "finalized a billing period",
    "billing_period.released": "let a billing period go on",
    "billing_profile.set": "changed the billing profile",
    "billing_profile.vat_checked": "checked the VAT id",
    "budget.removed": "ended a budget",
    "budget.set": "set a budget",
    "call_terms.changed": "changed the terms of calls",
    "card.preferred": "made another card the default",
    "card.removed": "removed a card",
    "difference.explained": "explained a difference",
    "external_id.dropped": "took away an external id",
    "external_id.mapped": "added an external id",
    "hold.released": "released a hold",
    "invoice.credited": "issued a credit note",
    "invoice.uncollectible": "gave up an invoice",
    "invoice.void": "voided an invoice",
    "key.deleted": "deleted a key",
    "key.issued": "made a key",
    "key.revoked": "revoked a key",
    "key.rotated": "replaced a key’s secret",
    "member.added": "added a member",
    "member.removed": "removed a member",
    "member.role_changed": "changed a member’s role",
    "mail.sent_again": "sent a mail again",
    "organization.closed": "closed the organization",
    "organization.created": "made the organization",
    "organization.price_group_changed": "changed the price group",
    "organization.reopened": "opened the organization again",
    "payment.given_up": "gave up a payment",
    "payment.looked_at": "looked after a payment",
    "price_rule.ended": "ended a price rule",
    "price_rule.published": "published a price rule",
    "project.archived": "archived a project",
    "project.created": "made a project",
    "project.renamed": "renamed a project",
    "rate_limit.changed": "changed limits",
    "recharge.set": "set automatic top-up",
    "refund.asked": "asked for a refund",
    "refund.granted": "granted a refund",
    "refund.refused": "refused a refund",
    "topup.asked": "asked for a top-up",
    "topup_limit.set": "set the limits of top-ups",
    "unknown_outcome.resolved": "settled a call of unknown outcome",
    "usage.voided": "voided a request",
    "wallet.changed": "changed the wallet’s terms",
    "wallet.frozen": "froze the wallet",
    "wallet.unfrozen": "released the wallet",
    "webhook_delivery.redelivered": "sent a webhook again",
    "webhook_endpoint.changed": "changed a webhook endpoint",
    "webhook_endpoint.created": "made a webhook endpoint",
    "webhook_endpoint.deleted": "deleted a webhook endpoint",
    "webhook_endpoint.disabled": "switched off a webhook endpoint",
    "webhook_endpoint.secret_rotated": "replaced a webhook secret",
    "webhook_endpoint.tested": "tested a webhook endpoint",
}
STAFF: Final = "who runs this installation"
# Ids of what another column names.
_UNTOLD: Final = frozenset({"user", "url", "name", "kind", "project"})


class Invitation(forms.Form):
    """Whom to bring in, and as what."""

    email = forms.EmailField(label="E-mail address")
    role = forms.ChoiceField(widget=forms.RadioSelect)


class ProjectName(forms.Form):
    """What a project is called."""

    name = forms.CharField(max_length=projects.NAME_LENGTH_MAX)


class Row(NamedTuple):
    """A member in the list. ``roles`` are those that whoever looks may give them; none: they may not change it."""

    member: Member
    shown: str
    roles: Sequence[str]
    may_remove: bool


class Entry(NamedTuple):
    """A line of the trail: who, what, on what, and details where a member or a key did it."""

    entry: AuditEntry
    who: str
    what: str
    on: str
    details: Sequence[tuple[str, str]]


@require_safe
@desk.page()
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/members``."""
    listed = Member.objects.for_org(here.organization.pk).filter(removed_at__isnull=True)
    listed = listed.select_related("user", "role").order_by("id")
    after = _read("mem", request.GET.get("after"))
    found = list((listed.filter(pk__gt=after) if after else listed)[: ROWS + 1])
    roles = list(Role.objects.order_by("name"))
    context = {
        "rows": [_row(here, member, roles) for member in found[:ROWS]],
        "after": ids.show("mem", found[ROWS - 1].pk) if len(found) > ROWS else None,
        "earlier": after is not None,
        "manages": here.may(permissions.MEMBERS_MANAGE) and not here.organization.is_personal,
        "roles": [(role.name, _meanings(role)) for role in sorted(roles, key=lambda role: -len(role.permissions))],
    }
    return desk.render(request, "members", context)


@desk.page(permissions.MEMBERS_MANAGE)
def new(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/members/new``: bring somebody in by their address."""
    form = Invitation(desk.told(request), initial={"role": "member"})
    field = form.fields["role"]
    assert isinstance(field, forms.ChoiceField)
    field.choices = [(role.name, f"{role.name} – {_meanings(role)}") for role in _givable(here, Role.objects.all())]
    if request.method == "POST" and form.is_valid():
        told = form.cleaned_data
        try:
            joined = invitations.bring_in(
                organization=here.organization, email=told["email"], role=told["role"], acting=here.member.pk,
                by=here.actor,
            )  # fmt: skip
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, f"{joined.user.email} is a member now, as {told['role']}. A letter tells them.")
            return HttpResponseRedirect(here.place("members"))
    return desk.render(request, "members_new", {"form": form}, status=422 if form.errors else 200)


@require_POST
@desk.page(permissions.MEMBERS_MANAGE)
def role(request: HttpRequest, here: Desk, member_id: str) -> HttpResponse:
    """``POST …/members/{id}/role``: give a member another role."""
    member = _member(here, member_id)
    try:
        changed = members.change_role(
            organization=here.organization, member_id=member.pk, role=request.POST.get("role", ""), by=here.actor,
            acting=here.member.pk,
        )  # fmt: skip
    except (errors.Conflict, errors.OutOfRange) as error:
        desk.complain(request, error)
    else:
        desk.say(request, f"{member.user.email} is {changed.role.name} now.")
    return HttpResponseRedirect(here.place("members"))


@require_POST
@desk.page(permissions.MEMBERS_MANAGE)
def remove(request: HttpRequest, here: Desk, member_id: str) -> HttpResponse:
    """``POST …/members/{id}/remove``: end a membership."""
    member = _member(here, member_id)
    return _end(request, here, member, said=f"{member.user.email} is no member any more.")


@desk.page()
def leave(request: HttpRequest, here: Desk) -> HttpResponse:
    """``POST …/members/leave``: end one's own membership. Looked at, it is the list with its button."""
    if request.method != "POST":
        return HttpResponseRedirect(here.place("members"))
    return _end(request, here, here.member, said=f"You have left {here.organization.name}.")


def _end(request: HttpRequest, here: Desk, member: Member, *, said: str) -> HttpResponse:
    try:
        members.remove(organization=here.organization, member_id=member.pk, by=here.actor, acting=here.member.pk)
    except errors.Conflict as error:
        desk.complain(request, error)
        return HttpResponseRedirect(here.place("members"))
    desk.say(request, said)
    return HttpResponseRedirect(reverse("portal:home") if member.pk == here.member.pk else here.place("members"))


@desk.page(writes=permissions.KEYS_MANAGE)
def projects_page(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/members/projects``: the projects, and a new one for who manages keys."""
    form = ProjectName(desk.told(request))
    if request.method == "POST" and form.is_valid():
        try:
            made = projects.create(organization=here.organization, name=form.cleaned_data["name"], by=here.actor)
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, f"The project {made.name} is ready.")
            return HttpResponseRedirect(here.place("members-projects"))
    listed = Project.objects.for_org(here.organization.pk).order_by("-id")
    after = _read("proj", request.GET.get("after"))
    found = list((listed.filter(pk__lt=after) if after else listed)[: ROWS + 1])
    context = {
        "form": form,
        "rows": [(each, ids.show("proj", each.pk)) for each in found[:ROWS]],
        "after": ids.show("proj", found[ROWS - 1].pk) if len(found) > ROWS else None,
        "earlier": after is not None,
        "manages": here.may(permissions.KEYS_MANAGE) and not here.organization.is_personal,
    }
    return desk.render(request, "members_projects", context, status=422 if form.errors else 200)


@desk.page(permissions.KEYS_MANAGE)
def project(request: HttpRequest, here: Desk, project_id: str) -> HttpResponse:
    """``…/members/projects/{id}``: rename a project, or archive it."""
    wanted = _read("proj", project_id)
    found = Project.objects.for_org(here.organization.pk).filter(pk=wanted).first() if wanted else None
    if found is None:
        raise errors.NotFound
    if request.method == "POST" and "archive" in request.POST:
        projects.archive(organization=here.organization, project_id=found.pk, by=here.actor)
        desk.say(request, f"The project {found.name} is archived.")
        return HttpResponseRedirect(here.place("members-projects"))
    form = ProjectName(desk.told(request), initial={"name": found.name})
    if request.method == "POST" and form.is_valid():
        name = form.cleaned_data["name"]
        try:
            projects.rename(organization=here.organization, project_id=found.pk, name=name, by=here.actor)
        except errors.ApiError as error:
            fault(form, error)
        else:
            desk.say(request, f"{found.name} is called {name} now.")
            return HttpResponseRedirect(here.place("members-projects"))
    shown = {"form": form, "project": found, "shown": project_id}
    return desk.render(request, "members_project", shown, status=422 if form.errors else 200)


@require_safe
@desk.page(permissions.MEMBERS_MANAGE)
def history(request: HttpRequest, here: Desk) -> HttpResponse:
    """``GET …/members/history``: who did what in this organization."""
    found, has_more = audit.page(
        organization_id=here.organization.pk, limit=HISTORY_ROWS, after=request.GET.get("after")
    )
    context = {
        "entries": _entries(here, found),
        "after": ids.show("aud", found[-1].pk) if has_more else None,
        "earlier": "after" in request.GET,
    }
    return desk.render(request, "members_history", context)


def _entries(here: Desk, found: Sequence[AuditEntry]) -> list[Entry]:
    """Lines of the trail. What staff wrote down for themselves stays with them: no names, no reasons."""
    names = _names(here, found)
    lines = []
    for entry in found:
        ours = entry.actor_kind == "key" or entry.actor_id in names
        who = entry.actor_label if ours else STAFF
        if entry.actor_kind != "user":
            who = f"key {entry.actor_label}" if ours else "Tollbook"
        on = names.get(_subject(entry), "")
        details = _details(entry) if ours else []
        lines.append(Entry(entry, who, VERBS.get(entry.verb, entry.verb), on, details))
    return lines


def _subject(entry: AuditEntry) -> str:
    """The id of what an entry is about; a budget's is that of what it is on."""
    if entry.verb != "budget.set" or entry.details["subject"] == "organization":
        return entry.subject_id
    prefix = {"project": "proj", "member": "mem", "key": "key"}[entry.details["subject"]]
    return ids.show(prefix, UUID(entry.details["subject_id"]))


def _names(here: Desk, found: Sequence[AuditEntry]) -> dict[str, str]:
    """What the people, keys, projects and endpoints in entries are called, by id as shown; four queries."""
    wanted: dict[str, set[UUID]] = {}
    for shown in {each for entry in found for each in (entry.actor_id, _subject(entry))}:
        prefix = shown.partition("_")[0]
        if (key := _read(prefix, shown)) is not None:
            wanted.setdefault(prefix, set()).add(key)
    names: dict[str, str] = {}
    people = Member.objects.for_org(here.organization.pk).filter(
        Q(pk__in=wanted.get("mem", ())) | Q(user__in=wanted.get("user", ()))
    )
    for key, user_id, email in people.values_list("pk", "user_id", "user__email"):
        names |= {ids.show("mem", key): email, ids.show("user", user_id): email}
    sources = (("key", ApiKey, "name"), ("proj", Project, "name"), ("we", WebhookEndpoint, "url"))
    for prefix, table, column in sources:
        rows = table._default_manager.filter(organization=here.organization, pk__in=wanted.get(prefix, ()))
        names |= {ids.show(prefix, key): name for key, name in rows.values_list("pk", column)}
    return names


def _details(entry: AuditEntry) -> list[tuple[str, str]]:
    """Details of an entry in words, without what its other columns say."""
    told = entry.details
    if entry.verb == "rate_limit.changed":
        spelled = ((name, keys.words(Limits(*told[name]))) for name in ("before", "after") if told[name])
        return [(name, ", ".join(limits) or "none") for name, limits in spelled]
    if entry.verb == "budget.set":
        unit = {"usd": "USD", "tokens": "tokens"}[told["unit"]]
        before = [("before", f"{told['before']} {unit}")] if told["before"] else []
        return [("", f"at most {told['ceiling']} {unit} in {dict(budgets.WINDOWS)[told['window']]}"), *before]
    shown = ((name, _told(value)) for name, value in told.items() if name not in _UNTOLD)
    return [(name, text) for name, text in shown if text]


def _told(value: Any) -> str:
    """A detail in words; nothing for nothing."""
    if value is None or value == "" or value == []:
        return ""
    if isinstance(value, list):
        return ", ".join(_told(each) or "none" for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(each) or 'none'}" for name, each in value.items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _row(here: Desk, member: Member, roles: Sequence[Role]) -> Row:
    may = here.may(permissions.MEMBERS_MANAGE) and not here.organization.is_personal and _within(here, member.role)
    givable = [role.name for role in _givable(here, roles)] if may else []
    return Row(member, ids.show("mem", member.pk), givable, may and member.pk != here.member.pk)


def _givable(here: Desk, roles: Iterable[Role]) -> list[Role]:
    """The roles that may no more than one's own, the strongest last."""
    return sorted((role for role in roles if _within(here, role)), key=lambda role: (len(role.permissions), role.name))


def _within(here: Desk, role: Role) -> bool:
    return set(role.permissions) <= here.permissions


def _meanings(role: Role) -> str:
    told = set(role.permissions)
    if permissions.USAGE_READ_ALL in told:
        told.discard(permissions.USAGE_READ_OWN)
    return ", ".join(MEANINGS[each] for each in MEANINGS if each in told)


def _member(here: Desk, shown: str) -> Member:
    """Raises ``NotFound`` for who is no member of this organization."""
    wanted = _read("mem", shown)
    rows = Member.objects.for_org(here.organization.pk).select_related("user", "role")
    found = rows.filter(pk=wanted, removed_at__isnull=True).first() if wanted else None
    if found is None:
        raise errors.NotFound
    return found


def _read(prefix: str, text: str | None) -> UUID | None:
    try:
        return ids.read(prefix, text or "")
    except ValueError:
        return None
