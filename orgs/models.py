"""Tables of who: people, organizations, members and roles, keys and limits, external ids, audit trail, cache epoch."""

from typing import Any, ClassVar, TypeVar
from uuid import UUID

from django.contrib.auth.models import AbstractUser, BaseUserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Length, Lower
from django.db.models.lookups import Exact

from core import clock, ids
from core.fields import IdField

# One label of a host name (RFC 1123), in lower case.
SLUG_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DIGEST_BYTES = 32

M = TypeVar("M", bound=models.Model)


class OfOrganization(models.QuerySet[M]):
    """Rows that belong to an organization: every customer's read starts with ``for_org``."""

    def for_org(self, organization_id: UUID) -> "OfOrganization[M]":
        """The rows of one organization and of no other."""
        return self.filter(organization_id=organization_id)


class UserManager(BaseUserManager["User"]):
    """Makes people, who sign in with their e-mail address in lower case."""

    use_in_migrations = True

    def get_by_natural_key(self, username: str | None) -> "User":
        """The person of an e-mail address, whatever its case."""
        return self.get(email=(username or "").lower())

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """A person; without a password nobody can sign in as them."""
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """A person with every right in the admin."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractUser):
    """A person. The e-mail address, in lower case, is the login."""

    id = IdField("user")
    username = None  # type: ignore[assignment]
    email = models.EmailField(unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = UserManager()  # type: ignore[misc,assignment]

    class Meta:
        db_table = "account_user"
        constraints = (models.CheckConstraint(name="user_email_lower", condition=Q(email=Lower(F("email")))),)

    def __str__(self) -> str:
        return self.email


class Organization(models.Model):
    """A billing tenant: own wallet, own keys, own ledger.

    Every person has one *personal* organization (``personal_of``); its slug is
    ``personal-`` and the person's id, so the two kinds never collide.
    """

    id = IdField("org")
    slug = models.TextField(unique=True)
    name = models.TextField()
    time_zone = models.TextField(default="UTC")
    price_group = models.TextField(default="standard", help_text="Whose markups and discounts apply")
    personal_of = models.OneToOneField(User, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(default=clock.now, editable=False)
    closed_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        db_table = "organization"
        constraints = (
            models.CheckConstraint(name="organization_slug_rule", condition=Q(slug__regex=f"^{SLUG_PATTERN}$")),
        )

    def __str__(self) -> str:
        return self.slug

    @property
    def is_personal(self) -> bool:
        """Whether this is one person's own wallet rather than a shared organization."""
        return self.personal_of_id is not None


class Role(models.Model):
    """A named set of permissions; the permissions themselves are code (``orgs.permissions``)."""

    id = IdField("role")
    name = models.TextField(unique=True)
    permissions = ArrayField(models.TextField(), default=list)

    class Meta:
        db_table = "role"

    def __str__(self) -> str:
        return self.name


class Member(models.Model):
    """A person in an organization. Leaving sets ``removed_at``; coming back is a new row."""

    id = IdField("mem")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    role = models.ForeignKey(Role, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=clock.now, editable=False)
    removed_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar[OfOrganization["Member"]] = OfOrganization.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "member"
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "user"), condition=Q(removed_at__isnull=True), name="member_active_once"
            ),
        )

    def __str__(self) -> str:
        return ids.show("mem", self.pk)


class Project(models.Model):
    """A part of an organization that keys may belong to."""

    id = IdField("proj")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    name = models.TextField()
    created_at = models.DateTimeField(default=clock.now, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar[OfOrganization["Project"]] = OfOrganization.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "project"
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "name"), condition=Q(archived_at__isnull=True), name="project_name_once"
            ),
        )

    def __str__(self) -> str:
        return self.name


class Kind(models.TextChoices):
    """Whose key it is."""

    ORGANIZATION = "organization"
    PERSONAL = "personal"
    SERVICE = "service"


class ApiKey(models.Model):
    """A credential. Only the SHA-256 ``digest`` of the secret is kept.

    An organization's key always charges its organization; a personal key charges the
    personal organization of ``user`` unless a header names another; a service key belongs to
    a gateway, and ``organizations`` (empty: all) limits whom it may name.
    """

    id = IdField("key")
    kind = models.TextField(choices=Kind.choices)
    name = models.TextField()
    digest = models.BinaryField(unique=True)
    last_four = models.TextField()
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, related_name="+", db_index=False
    )
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, null=True, related_name="+")
    scopes = ArrayField(models.TextField(), default=list)
    # Empty lists limit nothing.
    allowed_models = ArrayField(models.TextField(), default=list)
    cidrs = ArrayField(models.TextField(), default=list)
    organizations = ArrayField(models.UUIDField(), default=list)
    trust_client_header = models.BooleanField(default=False)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True, editable=False)
    deleted_at = models.DateTimeField(null=True, editable=False)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(default=clock.now, editable=False)

    objects: ClassVar[OfOrganization["ApiKey"]] = OfOrganization.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "api_key"
        verbose_name = "API key"
        constraints = (
            models.CheckConstraint(
                name="api_key_kind",
                condition=(
                    Q(kind=Kind.ORGANIZATION, organization__isnull=False, user__isnull=True)
                    | Q(kind=Kind.PERSONAL, organization__isnull=False, user__isnull=False, project__isnull=True)
                    | Q(kind=Kind.SERVICE, organization__isnull=True, user__isnull=True, project__isnull=True)
                ),
            ),
            models.CheckConstraint(
                name="api_key_service_only",
                condition=Q(kind=Kind.SERVICE) | Q(organizations=[], trust_client_header=False),
            ),
            models.CheckConstraint(
                name="api_key_deleted_is_revoked", condition=Q(deleted_at__isnull=True) | Q(revoked_at__isnull=False)
            ),
            models.CheckConstraint(name="api_key_digest_sha256", condition=Exact(Length("digest"), DIGEST_BYTES)),
        )
        # A customer's list: newest first within the organization.
        indexes = (models.Index(fields=("organization", "-id"), name="api_key_by_organization"),)

    def __str__(self) -> str:
        return f"{self.name} (…{self.last_four})"


class ExternalId(models.Model):
    """What another system calls a key, a person, a team or an organization, and whom we charge for it.

    Written by ``orgs.externals``. Exactly one of ``api_key``, ``user`` and ``organization`` is set.
    ``reporter`` is the service key whose reports it holds for; null holds for all of them.
    """

    class Kind(models.TextChoices):
        KEY = "key"
        USER = "user"
        TEAM = "team"
        ORGANIZATION = "organization"

    id = IdField("ext")
    kind = models.TextField(choices=Kind.choices)
    value = models.TextField()
    reporter = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, related_name="+", db_index=False)
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, related_name="+")
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        db_table = "external_id"
        verbose_name = "external id"
        constraints = (
            models.UniqueConstraint(
                fields=("kind", "value", "reporter"), name="external_id_once", nulls_distinct=False
            ),
            models.CheckConstraint(
                name="external_id_one_target",
                condition=(
                    Q(api_key__isnull=False, user__isnull=True, organization__isnull=True)
                    | Q(api_key__isnull=True, user__isnull=False, organization__isnull=True)
                    | Q(api_key__isnull=True, user__isnull=True, organization__isnull=False)
                ),
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class RateLimit(models.Model):
    """How much a key or an organization may ask of the gateway; null is no limit.

    Written by ``orgs.ratelimits``. Exactly one of ``api_key`` and ``organization`` is set.
    """

    id = IdField("rate")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, related_name="+")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, null=True, related_name="+")
    requests_per_minute = models.IntegerField(null=True)
    tokens_per_minute = models.IntegerField(null=True)
    concurrency = models.IntegerField(null=True, help_text="Calls at once")

    class Meta:
        db_table = "rate_limit"
        constraints = (
            models.UniqueConstraint(fields=("api_key", "organization"), name="rate_limit_once", nulls_distinct=False),
            models.CheckConstraint(
                name="rate_limit_one_subject",
                condition=Q(api_key__isnull=False, organization__isnull=True)
                | Q(api_key__isnull=True, organization__isnull=False),
            ),
            models.CheckConstraint(
                name="rate_limit_positive",
                condition=(Q(requests_per_minute__isnull=True) | Q(requests_per_minute__gt=0))
                & (Q(tokens_per_minute__isnull=True) | Q(tokens_per_minute__gt=0))
                & (Q(concurrency__isnull=True) | Q(concurrency__gt=0)),
            ),
        )

    def __str__(self) -> str:
        return ids.show("rate", self.pk)


class AuditEntry(models.Model):
    """Who did what to what, forever: a trigger refuses any change.

    ``actor_id`` and ``subject_id`` are ids as customers see them; ``details`` never holds a secret.
    """

    append_only: ClassVar[bool] = True

    id = IdField("aud")
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, related_name="+", db_index=False
    )
    actor_kind = models.TextField()
    actor_id = models.TextField()
    actor_label = models.TextField()
    verb = models.TextField()
    subject_type = models.TextField()
    subject_id = models.TextField()
    details = models.JSONField(default=dict)
    at = models.DateTimeField(default=clock.now)

    objects: ClassVar[OfOrganization["AuditEntry"]] = OfOrganization.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "audit_entry"
        verbose_name_plural = "audit entries"
        indexes = (
            models.Index(fields=("organization", "-id"), name="audit_by_organization"),
            models.Index(fields=("subject_id", "-id"), name="audit_by_subject"),
            models.Index(fields=("actor_id", "-id"), name="audit_by_actor"),
            models.Index(fields=("verb", "-id"), name="audit_by_verb"),
        )

    def __str__(self) -> str:
        return f"{self.verb} {self.subject_id}"


class CacheEpoch(models.Model):
    """One row: a number that rises whenever something that processes cache has changed."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    value = models.BigIntegerField(default=0)

    class Meta:
        db_table = "cache_epoch"
        constraints = (models.CheckConstraint(name="cache_epoch_one_row", condition=Q(id=1)),)
