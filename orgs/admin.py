"""The desk's pages of who."""

import re
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Count, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.text import Truncator
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from core import clock, reasons
from core.admin import Act, ActsAdmin, BooksAdmin, Done, ReadInline, VerbAdmin
from core.markup import NOTHING, as_facts, verbatim
from orgs import audit, externals, keys, members, organizations, permissions, projects, ratelimits, second_factor
from orgs.audit import Actor
from orgs.models import ApiKey, AuditEntry, ExternalId, Member, Organization, Project, RateLimit, Role, User
from orgs.ratelimits import Limits

# How the audit trail writes an act: api_key.revoked.
VERB = re.compile(r"[a-z_]+\.[a-z_]+")
REASON_SHOWN = 100

# What their own apps show: secrets, and rights that come from code (``orgs.roles``).
for _theirs in (Group, TOTPDevice, StaticDevice):
    admin.site.unregister(_theirs)


def actor(request: HttpRequest) -> Actor:
    """The person at the desk."""
    return audit.user(cast(User, request.user))


class NewPersonForm(AdminUserCreationForm[User]):
    """A new person's address and password."""

    class Meta:
        model = User
        fields = ("email",)

    def clean_email(self) -> str:
        """In lower case, so that the form itself finds a person who is there already."""
        return str(self.cleaned_data["email"]).lower()


class PersonForm(UserChangeForm[User]):
    """A person's fields."""

    class Meta:
        model = User
        fields = "__all__"
        field_classes: dict[str, Any] = {}

    def clean_email(self) -> str:
        """In lower case."""
        return str(self.cleaned_data["email"]).lower()


@admin.register(User)
class PersonAdmin(VerbAdmin[User], UserAdmin[User]):
    """People: customers and staff."""

    add_form = NewPersonForm
    form = PersonForm
    change_password_form = reasons.asking(AdminPasswordChangeForm)
    list_display = ("email", "first_name", "last_name", "is_active", "is_staff", "last_login")
    list_filter = ("is_staff", "is_superuser", "is_active")
    search_fields = ("=email",)
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("email", "password", "first_name", "last_name")}),
        ("Rights", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "usable_password", "password1", "password2")}),)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Superusers: whoever makes accounts, or gives them rights, has every right there is."""
        return cast(User, request.user).is_superuser

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Superusers, likewise."""
        return cast(User, request.user).is_superuser

    def get_form(self, request: HttpRequest, obj: User | None = None, change: bool = False, **options: Any) -> Any:
        """A new person's form is another."""
        options.setdefault("form", self.form if obj is not None else self.add_form)
        return super().get_form(request, obj, change=change, **options)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Store which roles and rights somebody has; the trail tells which they had."""
        before = _rights(form.instance)
        super().save_related(request, form, formsets, change)
        after = _rights(form.instance)
        if before != after:
            audit.note(
                actor=actor(request),
                verb="user.rights_changed",
                subject=form.instance,
                details={"before": before, "after": after},
            )

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Set somebody's password, which ends their sessions. It is in the trail; what it is, is not."""
        with transaction.atomic(), reasons.given(request.POST.get("reason", "")):
            answer = super().user_change_password(request, id, form_url)
            if request.method == "POST" and answer.status_code == 302:
                person = User.objects.get(pk=unquote(id))
                audit.note(actor=actor(request), verb="user.password_set", subject=person)
        return answer

    def keep(self, request: HttpRequest, row: User, *, form: ModelForm[User], new: bool) -> User:
        """Store the person; one made inactive loses their keys at once."""
        changed = [name for name in form.changed_data if name != "reason"]
        return organizations.keep_user(row, by=actor(request), changed=changed, new=new)


def _rights(person: User) -> dict[str, list[str]]:
    """Roles and single rights of a person."""
    rights = person.user_permissions.values_list("content_type__app_label", "codename")
    return {
        "roles": sorted(person.groups.values_list("name", flat=True)),
        "rights": sorted(".".join(each) for each in rights),
    }


def _reset_factor(request: HttpRequest, row: TOTPDevice, told: dict[str, Any]) -> Done:
    """Forget a person's devices."""
    second_factor.reset(person=row.user, by=cast(User, request.user), reason=told["reason"])
    return Done(f"{row.user} enrols again at the next sign-in.", place=reverse("admin:otp_totp_totpdevice_changelist"))


@admin.register(TOTPDevice)
class SecondFactorAdmin(ActsAdmin[TOTPDevice]):
    """Who of the staff has a second factor; the secret is shown to nobody."""

    list_display = ("user", "name", "created_at", "last_used_at", "codes_left")
    list_select_related = ("user",)
    search_fields = ("=user__email",)
    fields = ("user", "name", "created_at", "last_used_at", "throttling_failure_count", "codes_left")
    readonly_fields = fields
    acts = (
        Act(
            "reset",
            "Reset",
            "For somebody who has lost phone and codes. Be sure who asks: whoever knows the password enrols next.",
            _reset_factor,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[TOTPDevice]:
        """Without the secret."""
        rows: QuerySet[TOTPDevice] = super().get_queryset(request).defer("key")
        counted: QuerySet[TOTPDevice] = rows.annotate(codes=Count("user__staticdevice__token_set"))
        return counted

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Nobody: a file would hold the secrets."""
        return False

    def may_act(self, request: HttpRequest, act: Act) -> bool:
        """Superusers only, whatever rights somebody was given."""
        return cast(User, request.user).is_superuser and super().may_act(request, act)

    @admin.display(description="recovery codes left")
    def codes_left(self, row: Any) -> int:
        """How many."""
        return int(row.codes)


@admin.register(Group)
class StaffRoleAdmin(BooksAdmin[Group]):
    """Roles of the staff. What each may do is written in ``orgs.roles``; who has one, on the person's page."""

    list_display = ("name",)
    ordering = ("name",)
    fields = ("name", "rights")
    readonly_fields = fields

    @admin.display(description="may")
    def rights(self, row: Group) -> str:
        """What it may do, one right a line."""
        return verbatim("\n".join(f"{each.content_type.app_label}: {each.name}" for each in row.permissions.all()))


class MembersInline(ReadInline):
    """Who belongs to an organization."""

    model = Member
    fields = ("user", "role", "created_at", "removed_at")
    readonly_fields = fields
    ordering = ("removed_at", "-id")
    verbose_name_plural = "members"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With people and roles, in one query."""
        return super().get_queryset(request).select_related("user", "role", "organization")


class KeysInline(ReadInline):
    """An organization's keys."""

    model = ApiKey
    fields = ("name", "kind", "last_four", "status", "expires_at", "created_at")
    readonly_fields = fields
    ordering = ("-id",)
    verbose_name_plural = "keys"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the digest."""
        return super().get_queryset(request).defer("digest").select_related("organization")

    @admin.display
    def status(self, row: ApiKey) -> str:
        """Whether it works."""
        return key_status(row)


@admin.register(Organization)
class OrganizationAdmin(BooksAdmin[Organization]):
    """Organizations with their members and keys."""

    list_display = ("slug", "name", "time_zone", "personal_of", "created_at", "closed_at")
    list_filter = (("personal_of", admin.EmptyFieldListFilter), ("closed_at", admin.EmptyFieldListFilter))
    list_select_related = ("personal_of",)
    search_fields = ("=slug", "=name", "=personal_of__email")
    fields = ("shown_id", "slug", "name", "time_zone", "price_group", "personal_of", "created_at", "closed_at")
    readonly_fields = fields
    inlines = (MembersInline, KeysInline)


def _remove_member(request: HttpRequest, row: Member, _told: dict[str, Any]) -> Done:
    """End a membership."""
    members.remove(organization=row.organization, member_id=row.pk, by=actor(request))
    return Done(f"{row} is no member any more.")


@admin.register(Member)
class MemberAdmin(VerbAdmin[Member]):
    """Memberships. Leaving is an act; the row stays."""

    list_display = ("shown_id", "organization", "user", "role", "created_at", "removed_at")
    list_filter = (("removed_at", admin.EmptyFieldListFilter),)
    list_select_related = ("organization", "user", "role")
    search_fields = ("=organization__slug", "=user__email")
    fields = ("organization", "user", "role", "created_at", "removed_at")
    autocomplete_fields = ("organization", "user")
    acts = (
        Act(
            "remove",
            "Remove from the organization",
            "The person's keys there stop working. The membership stays in the list as one that has ended.",
            _remove_member,
            possible=lambda row: row.removed_at is None,
            many=True,
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Member | None = None) -> tuple[str, ...]:
        """Once made, only the role of a membership can change."""
        return ("created_at", "removed_at") if obj is None else ("organization", "user", "created_at", "removed_at")

    def has_change_permission(self, request: HttpRequest, obj: Member | None = None) -> bool:
        """An ended membership is history."""
        return (obj is None or obj.removed_at is None) and super().has_change_permission(request, obj)

    def keep(self, request: HttpRequest, row: Member, *, form: ModelForm[Member], new: bool) -> Member:
        """Add a member or change a role."""
        by, role = actor(request), row.role.name
        if new:
            return members.add(organization=row.organization, user=row.user, role=role, by=by)
        return members.change_role(organization=row.organization, member_id=row.pk, role=role, by=by)


class RoleForm(forms.ModelForm[Role]):
    """A role is a choice among the permissions that exist."""

    permissions = forms.MultipleChoiceField(
        choices=[(each, each) for each in sorted(permissions.ALL)], widget=forms.CheckboxSelectMultiple, required=False
    )

    class Meta:
        model = Role
        fields = ("name", "permissions")


@admin.register(Role)
class RoleAdmin(VerbAdmin[Role]):
    """Roles: the five that every installation has, and others."""

    form = RoleForm
    list_display = ("name", "permissions")
    ordering = ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Role | None = None) -> tuple[str, ...]:
        """A role keeps its name: memberships point at it."""
        return () if obj is None else ("name",)

    def keep(self, request: HttpRequest, row: Role, *, form: ModelForm[Role], new: bool) -> Role:
        """Make a role or replace its permissions."""
        return members.define_role(name=row.name, granted=row.permissions, by=actor(request))


def _archive_project(request: HttpRequest, row: Project, _told: dict[str, Any]) -> Done:
    """Close a project to new keys."""
    projects.archive(organization=row.organization, project_id=row.pk, by=actor(request))
    return Done(f"{row.name} is archived.")


@admin.register(Project)
class ProjectAdmin(VerbAdmin[Project]):
    """Parts of organizations. Archiving is an act; the row stays."""

    list_display = ("shown_id", "name", "organization", "created_at", "archived_at")
    list_filter = (("archived_at", admin.EmptyFieldListFilter),)
    list_select_related = ("organization",)
    search_fields = ("=name", "=organization__slug")
    fields = ("organization", "name", "created_at", "archived_at")
    autocomplete_fields = ("organization",)
    acts = (
        Act(
            "archive",
            "Archive",
            "It takes no new keys any more, and its name is free again. Keys that it has go on.",
            _archive_project,
            possible=lambda row: row.archived_at is None,
            many=True,
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Project | None = None) -> tuple[str, ...]:
        """Once made, only the name of a project can change."""
        return ("created_at", "archived_at") if obj is None else ("organization", "created_at", "archived_at")

    def has_change_permission(self, request: HttpRequest, obj: Project | None = None) -> bool:
        """An archived project is history."""
        return (obj is None or obj.archived_at is None) and super().has_change_permission(request, obj)

    def keep(self, request: HttpRequest, row: Project, *, form: ModelForm[Project], new: bool) -> Project:
        """Make a project or give it another name."""
        by = actor(request)
        if new:
            return projects.create(organization=row.organization, name=row.name, by=by)
        return projects.rename(organization=row.organization, project_id=row.pk, name=row.name, by=by)


def _revoke_key(request: HttpRequest, row: ApiKey, _told: dict[str, Any]) -> Done:
    """Stop a key."""
    keys.revoke(key_id=row.pk, by=actor(request))
    return Done(f"{row} is revoked.")


@admin.register(ApiKey)
class ApiKeyAdmin(ActsAdmin[ApiKey]):
    """Keys: everything but what they are made of."""

    list_display = ("shown_id", "name", "kind", "organization", "user", "last_four", "status", "created_at")
    list_filter = ("kind", ("revoked_at", admin.EmptyFieldListFilter))
    list_select_related = ("organization", "user")
    search_fields = ("=last_four", "=name", "=organization__slug", "=user__email")
    fields = (
        *("shown_id", "name", "kind", "organization", "user", "project", "last_four", "status"),
        *("scopes", "allowed_models", "cidrs", "organizations", "trust_client_header"),
        *("expires_at", "revoked_at", "deleted_at", "created_by", "created_at"),
    )
    readonly_fields = fields
    acts = (
        Act(
            "revoke",
            "Revoke",
            "It stops working within a second, for good. What was used with it stays.",
            _revoke_key,
            possible=lambda row: row.revoked_at is None,
            many=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        """Without the digest."""
        return super().get_queryset(request).defer("digest")

    @admin.display
    def status(self, row: ApiKey) -> str:
        """Whether it works."""
        return key_status(row)


class MappingForm(forms.Form):
    """An id of another system, and one of ours that it stands for."""

    kind = forms.ChoiceField(choices=ExternalId.Kind.choices)
    value = forms.CharField(
        max_length=externals.VALUE_LENGTH_MAX, help_text="LiteLLM: a key's hash, a user id, a team id or an org id"
    )
    organization = forms.CharField(required=False, help_text="The slug of who pays, or one of the next two")
    user = forms.EmailField(required=False, help_text="A person's address: what they are a member of pays if named")
    api_key = forms.CharField(label="API key", required=False, help_text="A customer's key: key_…")
    reporter = forms.CharField(
        label="reported by", required=False, help_text="Only for what this service key reports: key_…"
    )


def _map_external(request: HttpRequest, _row: None, told: dict[str, Any]) -> Done:
    """Map what the form says."""
    mapped = externals.put_shown(
        kind=told["kind"],
        value=told["value"],
        organization=told["organization"],
        user=told["user"],
        api_key=told["api_key"],
        reporter=told["reporter"],
        by=actor(request),
    )
    return Done(f"Mapped: {mapped}.")


def _drop_external(request: HttpRequest, row: ExternalId, _told: dict[str, Any]) -> Done:
    """Forget a mapping."""
    externals.drop(external_id=row.pk, by=actor(request))
    return Done("Forgotten.", place=reverse("admin:orgs_externalid_changelist"))


@admin.register(ExternalId)
class ExternalIdAdmin(ActsAdmin[ExternalId]):
    """Ids that proxies report, and whom we charge for them."""

    list_display = ("kind", "value", "organization", "user", "api_key", "reporter", "created_at")
    list_filter = ("kind",)
    list_select_related = ("organization", "user", "api_key", "reporter")
    search_fields = ("=value", "=organization__slug", "=user__email")
    fields = ("shown_id", "kind", "value", "organization", "user", "api_key", "reporter", "created_at")
    readonly_fields = fields
    acts = (Act("forget", "Forget", "What is reported of it from now on waits in quarantine.", _drop_external),)
    list_acts = (
        Act("map", "Map an id", "In place of what the id stood for before, from now on.", _map_external, MappingForm),
    )


class LimitsForm(forms.Form):
    """Whose limits, and which; an empty one is none."""

    organization = forms.CharField(required=False, help_text="A slug; or a key, in the next field.")
    api_key = forms.CharField(label="API key", required=False, help_text="A customer's key: key_…")
    requests = forms.IntegerField(required=False, min_value=1, help_text="A minute")
    tokens = forms.IntegerField(required=False, min_value=1, help_text="A minute")
    concurrency = forms.IntegerField(required=False, min_value=1, help_text="Calls at once")


def _put_limits(request: HttpRequest, _row: None, told: dict[str, Any]) -> Done:
    """Set what the form says."""
    subject = ratelimits.find_subject(organization=told["organization"], api_key=told["api_key"])
    limits = Limits(told["requests"], told["tokens"], told["concurrency"])
    ratelimits.put(subject=subject, limits=limits, by=actor(request))
    return Done(f"Set for {subject}.")


@admin.register(RateLimit)
class RateLimitAdmin(ActsAdmin[RateLimit]):
    """How much keys and organizations may ask of the gateway."""

    list_display = ("shown_id", "organization", "api_key", "requests_per_minute", "tokens_per_minute", "concurrency")
    list_select_related = ("organization", "api_key")
    search_fields = ("=organization__slug",)
    fields = list_display
    readonly_fields = fields
    list_acts = (
        Act("set", "Set limits", "In place of the limits before, within a second everywhere.", _put_limits, LimitsForm),
    )


@admin.register(AuditEntry)
class AuditEntryAdmin(BooksAdmin[AuditEntry]):
    """Who did what, when and why; what was before, and what after."""

    list_display = ("at", "organization", "actor_label", "verb", "why", "subject_id", "actor_kind")
    list_filter = (("at", admin.DateFieldListFilter), "actor_kind")
    list_select_related = ("organization",)
    exclude = ("details",)
    readonly_fields = ("what",)
    search_fields = ("=subject_id",)
    search_help_text = (
        "The id of what was changed (key_…, mem_…, org_…), an organization's slug, the e-mail address of who did it, "
        "or what was done (wallet.frozen)."
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEntry], search_term: str
    ) -> tuple[QuerySet[AuditEntry], bool]:
        """By slug, subject, person or act, each through its index."""
        text = search_term.strip()
        if "@" in text:
            person = User.objects.filter(email=text.lower()).first()
            return (queryset.none() if person is None else queryset.filter(actor_id=audit.user(person).id)), False
        if VERB.fullmatch(text):
            return queryset.filter(verb=text), False
        organization = Organization.objects.filter(slug=search_term.strip().lower()).first()
        if organization is not None:
            return queryset.filter(organization_id=organization.pk), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="reason")
    def why(self, row: AuditEntry) -> str:
        """What was said about it, the latest."""
        said = row.details.get("why") or row.details.get("reason") or NOTHING
        return Truncator(str(said)).chars(REASON_SHOWN)

    @admin.display(description="details")
    def what(self, row: AuditEntry) -> str:
        """What changed, as it was written down."""
        return as_facts(row.details) if row.details else NOTHING


def key_status(row: ApiKey) -> str:
    """A key's state in one word."""
    if row.deleted_at is not None:
        return "deleted"
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= clock.now() else "active"
