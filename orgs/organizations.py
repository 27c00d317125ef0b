"""People and organizations. The only module that writes ``User`` and ``Organization``."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from uuid import UUID
from zoneinfo import available_timezones

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from core import clock, ids
from core.errors import Conflict, OutOfRange, PermissionDenied
from orgs import audit, caches, members
from orgs.audit import Actor
from orgs.models import SLUG_PATTERN, Organization, User

PERSONAL_PREFIX = "personal-"
NAME_LENGTH_MAX = 100
# What the audit trail tells of a person, as it was and as it is.
TOLD = ("email", "first_name", "last_name", "is_active", "is_staff", "is_superuser")

_SLUG = re.compile(SLUG_PATTERN)
# Names in the zone database that mean no place.
_NO_ZONES = frozenset({"localtime", "Factory", "posixrules"})


@dataclass(frozen=True, slots=True)
class OrganizationFacts:
    """What a process keeps of an organization."""

    id: UUID
    slug: str
    name: str
    time_zone: str
    price_group: str
    personal_of: UUID | None
    closed: bool

    @property
    def is_personal(self) -> bool:
        """Whether it is one person's own."""
        return self.personal_of is not None


def is_slug(text: str) -> bool:
    """Whether ``text`` follows the slug rule: 1 to 63 of a-z, 0-9 and inner hyphens."""
    return _SLUG.fullmatch(text) is not None


@cache
def zones() -> frozenset[str]:
    """Every IANA name of a place's time."""
    return frozenset(available_timezones() - _NO_ZONES)


@transaction.atomic
def create(*, slug: str, owner: User, by: Actor, name: str = "", time_zone: str = "UTC") -> Organization:
    """Make a shared organization whose owner is ``owner``.

    Raises ``OutOfRange`` for a bad slug, name or zone and ``Conflict`` for a slug that is taken.
    """
    if not is_slug(slug) or slug.startswith(PERSONAL_PREFIX):
        raise OutOfRange(
            "slug has 1 to 63 lower-case letters, digits and inner hyphens, and does not start with personal-.",
            param="slug",
        )
    name = name.strip() or slug
    if len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise OutOfRange(f"name has 1 to {NAME_LENGTH_MAX} printable characters.", param="name")
    if time_zone not in zones():
        raise OutOfRange("time_zone must be an IANA name such as Europe/Berlin.", param="time_zone")
    try:
        with transaction.atomic():
            organization = Organization.objects.create(slug=slug, name=name, time_zone=time_zone)
    except IntegrityError as error:
        raise Conflict("This slug is taken.", param="slug") from error
    audit.note(
        actor=by,
        verb="organization.created",
        subject=organization,
        organization=organization,
        details={"slug": slug, "time_zone": time_zone},
    )
    members.add(organization=organization, user=owner, role=members.OWNER, by=by)
    caches.bump()
    return organization


@transaction.atomic
def ensure_user(email: str, *, by: Actor) -> User:
    """The person with that address, made together with the personal organization if new.

    A new person has no password. Raises ``OutOfRange`` for what is no e-mail address.
    """
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError as error:
        raise OutOfRange("email must be an e-mail address.", param="email") from error
    user = User.objects.filter(email=email).first()
    if user is None:
        try:
            with transaction.atomic():
                user = User.objects.create_user(email)
        except IntegrityError:
            # Someone else made the same person in between.
            user = User.objects.get(email=email)
        else:
            audit.note(actor=by, verb="user.created", subject=user)
    ensure_personal(user, by=by)
    return user


@transaction.atomic
def ensure_personal(user: User, *, by: Actor) -> Organization:
    """The personal organization of ``user``, made if it is not there yet."""
    # The lock on the person lets one of two callers make it and the other find it.
    User.objects.select_for_update(no_key=True).get(pk=user.pk)
    organization = Organization.objects.filter(personal_of=user).first()
    if organization is None:
        slug = PERSONAL_PREFIX + ids.show("user", user.pk).removeprefix("user_").lower()
        organization = Organization.objects.create(slug=slug, name=user.email, personal_of=user)
        audit.note(actor=by, verb="organization.created", subject=organization, organization=organization)
        members.join_personal(organization=organization, user=user, by=by)
        caches.bump()
    return organization


@transaction.atomic
def keep_user(user: User, *, by: Actor, changed: Collection[str], new: bool) -> User:
    """Store a person who was edited in the admin; ``changed`` names the fields.

    A person made inactive loses their keys at once.
    """
    user.email = user.email.strip().lower()
    stored = User.objects.filter(pk=user.pk).values(*TOLD).first() or dict.fromkeys(TOLD)
    user.save()
    differs = [name for name in TOLD if stored[name] != getattr(user, name)]
    audit.note(
        actor=by,
        verb="user.created" if new else "user.changed",
        subject=user,
        details={
            "changed": sorted(changed),
            "before": {name: stored[name] for name in differs},
            "after": {name: getattr(user, name) for name in differs},
        },
    )
    ensure_personal(user, by=by)
    caches.bump()
    return user


@transaction.atomic
def choose_password(*, email: str, password: str) -> User:
    """Give the person of an address, made if new, a password. Whoever calls has proven that the address is theirs.

    Raises ``OutOfRange`` for a password that is too easy, and ``PermissionDenied`` for a person made inactive.
    """
    user = ensure_user(email, by=audit.system("portal"))
    user = User.objects.select_for_update(no_key=True).get(pk=user.pk)
    if not user.is_active:
        raise PermissionDenied("This account was closed.")
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise OutOfRange(" ".join(error.messages), param="password") from error
    user.set_password(password)
    user.save(update_fields=["password"])
    audit.note(actor=audit.user(user), verb="user.password_chosen", subject=user)
    return user


def check_group(group: str) -> None:
    """Raise ``OutOfRange`` for what is no price group's name."""
    if not is_slug(group):
        raise OutOfRange("group has 1 to 63 lower-case letters, digits and inner hyphens.", param="group")


@transaction.atomic
def set_price_group(*, organization: Organization, group: str, by: Actor) -> None:
    """Put an organization into a group for prices. Raises ``OutOfRange``."""
    check_group(group)
    locked = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    Organization.objects.filter(pk=locked.pk).update(price_group=group)
    audit.note(
        actor=by,
        verb="organization.price_group_changed",
        subject=locked,
        organization=locked,
        details={"before": locked.price_group, "after": group},
    )
    caches.bump()


@transaction.atomic
def close(*, organization: Organization, reason: str, by: Actor) -> Organization:
    """Stop an organization's keys and lock its people out; closing it again changes nothing.

    Whoever calls has seen to its money. Raises ``Conflict`` for a person's own.
    """
    locked = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    if locked.is_personal:
        raise Conflict("A person's own organization ends with their account: make the person inactive.")
    return locked if locked.closed_at is not None else _mark(locked, clock.now(), "closed", reason=reason, by=by)


@transaction.atomic
def reopen(*, organization: Organization, reason: str, by: Actor) -> Organization:
    """Let its keys and people in again; one that is open stays so."""
    locked = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    return locked if locked.closed_at is None else _mark(locked, None, "reopened", reason=reason, by=by)


def _mark(organization: Organization, at: datetime | None, verb: str, *, reason: str, by: Actor) -> Organization:
    before = organization.closed_at
    organization.closed_at = at
    organization.save(update_fields=["closed_at"])
    told = {"reason": reason, "before": _told(before), "after": _told(at)}
    audit.note(actor=by, verb=f"organization.{verb}", subject=organization, organization=organization, details=told)
    caches.bump()
    return organization


def _told(at: datetime | None) -> str:
    return "open" if at is None else f"closed {at.isoformat(timespec='seconds')}"


def find_slugs(slugs: Collection[str]) -> dict[str, OrganizationFacts]:
    """Organizations by slug, closed ones too; usually without a query."""
    return _by_slug.get_many(slugs)


def find_ids(organization_ids: Collection[UUID]) -> dict[UUID, OrganizationFacts]:
    """Organizations by id, closed ones too; usually without a query."""
    return _by_id.get_many(organization_ids)


def _fact(row: Organization) -> OrganizationFacts:
    return OrganizationFacts(
        id=row.pk,
        slug=row.slug,
        name=row.name,
        time_zone=row.time_zone,
        price_group=row.price_group,
        personal_of=row.personal_of_id,
        closed=row.closed_at is not None,
    )


def _load_by_slug(slugs: Collection[str]) -> Mapping[str, OrganizationFacts]:
    return {row.slug: _fact(row) for row in Organization.objects.filter(slug__in=list(slugs))}


def _load_by_id(organization_ids: Collection[UUID]) -> Mapping[UUID, OrganizationFacts]:
    return {row.pk: _fact(row) for row in Organization.objects.filter(pk__in=list(organization_ids))}


_by_slug: caches.Cached[str, OrganizationFacts] = caches.Cached(_load_by_slug)
_by_id: caches.Cached[UUID, OrganizationFacts] = caches.Cached(_load_by_id)
