"""Members of organizations and their roles. The only module that writes ``Member`` and ``Role``.

Verbs take ``acting``, the member in whose name they run: they must manage members, and can neither give nor take
away a role that may more than their own. None is who runs the installation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from core import clock, ids
from core.errors import Conflict, NotFound, OutOfRange, PermissionDenied
from orgs import audit, caches, permissions
from orgs.audit import Actor
from orgs.models import Member, Organization, Role, User

OWNER = "owner"

# An organization's id and a person's.
Pair = tuple[UUID, UUID]


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What a process keeps of a membership that holds."""

    id: UUID
    role: str
    permissions: frozenset[str]


@transaction.atomic
def add(*, organization: Organization, user: User, role: str, by: Actor, acting: UUID | None = None) -> Member:
    """Make ``user`` a member.

    Raises ``Conflict`` for one already, ``OutOfRange`` for an unknown role, and ``PermissionDenied``.
    """
    locked = _lock(organization.pk)
    _check_within(locked, acting, _role(role))
    if locked.is_personal:
        raise Conflict("A personal organization has no members but its person.")
    if Member.objects.for_org(locked.pk).filter(user=user, removed_at__isnull=True).exists():
        raise Conflict("This person is a member already.")
    return _join(organization=locked, user=user, role=role, by=by)


@transaction.atomic
def join_personal(*, organization: Organization, user: User, by: Actor) -> Member:
    """Make a person the owner of their own personal organization."""
    assert organization.personal_of_id == user.pk
    return _join(organization=organization, user=user, role=OWNER, by=by)


@transaction.atomic
def change_role(
    *, organization: Organization, member_id: UUID, role: str, by: Actor, acting: UUID | None = None
) -> Member:
    """Give a member another role.

    Raises ``NotFound``, ``OutOfRange`` for an unknown role, ``PermissionDenied``, and ``Conflict`` if it would
    leave the organization without an owner.
    """
    locked = _lock(organization.pk)
    member = _get(locked, member_id)
    before, after = member.role, _role(role)
    _check_within(locked, acting, before, after)
    if before.pk == after.pk:
        return member
    _keep_an_owner(locked, member)
    member.role = after
    member.save(update_fields=["role"])
    audit.note(
        actor=by,
        verb="member.role_changed",
        subject=member,
        organization=locked,
        details={"user": ids.show("user", member.user_id), "from": before.name, "to": after.name},
    )
    caches.bump()
    return member


@transaction.atomic
def remove(*, organization: Organization, member_id: UUID, by: Actor, acting: UUID | None = None) -> None:
    """End a membership; everybody may end their own.

    Raises ``NotFound``, ``PermissionDenied``, and ``Conflict`` for the last owner.
    """
    locked = _lock(organization.pk)
    member = _get(locked, member_id)
    if acting != member.pk:
        _check_within(locked, acting, member.role)
    _keep_an_owner(locked, member)
    member.removed_at = clock.now()
    member.save(update_fields=["removed_at"])
    audit.note(
        actor=by,
        verb="member.removed",
        subject=member,
        organization=locked,
        details={"user": ids.show("user", member.user_id), "role": member.role.name},
    )
    caches.bump()


@transaction.atomic
def define_role(*, name: str, granted: Collection[str], by: Actor) -> Role:
    """Make a role, or replace the permissions of one.

    Raises ``OutOfRange`` for a permission that does not exist and ``Conflict`` for the role
    ``owner``, which is always everything.
    """
    if unknown := sorted(set(granted) - permissions.ALL):
        raise OutOfRange(f"There is no permission {unknown[0][:64]!r}.", param="permissions")
    if not name.strip() or not name.isprintable():
        raise OutOfRange("A role has a name.", param="name")
    if name == OWNER:
        raise Conflict("The role owner has every permission.")
    before = Role.objects.filter(name=name).values_list("permissions", flat=True).first()
    role, created = Role.objects.update_or_create(name=name, defaults={"permissions": sorted(set(granted))})
    verb = "role.created" if created else "role.changed"
    details = {"name": name, "before": before, "permissions": role.permissions}
    audit.note(actor=by, verb=verb, subject=role, details=details)
    caches.bump()
    return role


def find(*, organization_id: UUID, user_id: UUID) -> MemberFacts | None:
    """The membership of a person in an organization, if it holds; usually without a query."""
    return _by_pair.get((organization_id, user_id))


def find_many(pairs: Collection[Pair]) -> dict[Pair, MemberFacts]:
    """The memberships that hold among pairs of organization and person; at most one query."""
    return _by_pair.get_many(pairs)


def addresses(*, organization_id: UUID, having: str) -> list[str]:
    """E-mail addresses of the active people of an organization whose role has a permission, in order.

    ``billing:manage`` are owners, admins and who does the billing; in a personal organization it is the person.
    """
    rows = Member.objects.for_org(organization_id).filter(
        removed_at__isnull=True, user__is_active=True, role__permissions__contains=[having]
    )
    return sorted(rows.values_list("user__email", flat=True))


def _join(*, organization: Organization, user: User, role: str, by: Actor) -> Member:
    member = Member.objects.create(organization=organization, user=user, role=_role(role))
    audit.note(
        actor=by,
        verb="member.added",
        subject=member,
        organization=organization,
        details={"user": ids.show("user", user.pk), "role": role},
    )
    caches.bump()
    return member


def _lock(organization_id: UUID) -> Organization:
    """The organization's row, locked: it is the mutex of its memberships."""
    return Organization.objects.select_for_update(no_key=True).get(pk=organization_id)


def _get(organization: Organization, member_id: UUID) -> Member:
    rows = Member.objects.for_org(organization.pk).select_related("role")
    member = rows.filter(pk=member_id, removed_at__isnull=True).first()
    if member is None:
        raise NotFound
    return member


def _role(name: str) -> Role:
    role = Role.objects.filter(name=name).first()
    if role is None:
        raise OutOfRange("There is no such role.", param="role")
    return role


def _check_within(organization: Organization, acting: UUID | None, *roles: Role) -> None:
    """Raise ``PermissionDenied`` if the acting member may not give or take one of the roles.

    Needs the organization's lock: under it nobody takes the role away from whom this has just admitted.
    """
    if acting is None:
        return
    rows = Member.objects.for_org(organization.pk).select_related("role")
    member = rows.filter(pk=acting, removed_at__isnull=True).first()
    own = permissions.of_role(member.role.permissions) if member else frozenset()
    if permissions.MEMBERS_MANAGE not in own:
        raise PermissionDenied(f"Your role does not include {permissions.MEMBERS_MANAGE}.")
    for role in roles:
        if excess := sorted(set(role.permissions) - own):
            raise PermissionDenied(
                f"The role {role.name} includes {excess[0]}, which yours does not: you can neither give nor take it.",
                param="role",
            )


def _keep_an_owner(organization: Organization, leaving: Member) -> None:
    """Raise ``Conflict`` if ``leaving`` is the only owner. Needs the organization's lock."""
    if leaving.role.name != OWNER:
        return
    owners = Member.objects.for_org(organization.pk).filter(role__name=OWNER, removed_at__isnull=True)
    if not owners.exclude(pk=leaving.pk).exists():
        raise Conflict("An organization keeps at least one owner.")


def _load(pairs: Collection[Pair]) -> Mapping[Pair, MemberFacts]:
    wanted = Q()
    for organization_id, user_id in pairs:
        wanted |= Q(organization_id=organization_id, user_id=user_id)
    rows = Member.objects.filter(wanted, removed_at__isnull=True).select_related("role")
    return {
        (row.organization_id, row.user_id): MemberFacts(
            id=row.pk, role=row.role.name, permissions=frozenset(row.role.permissions)
        )
        for row in rows
    }


_by_pair: caches.Cached[Pair, MemberFacts] = caches.Cached(_load)
