"""Keys managed with a key: nothing is handed on that the managing key does not have itself.

Every read starts from the principal's organization, so a foreign key and a made-up one are the
same: not there.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from core import ids
from core.errors import InvalidCursor, NotFound, ScopeMissing
from orgs import addresses, keys, permissions, projects
from orgs.keys import IssuedKey
from orgs.models import ApiKey, Kind, OfOrganization, Organization, User
from orgs.principals import Principal


@dataclass(frozen=True, slots=True)
class Wish:
    """A key that a customer asks for; empty lists limit nothing. ``project`` is an id on the wire."""

    name: str
    scopes: Collection[str] = ()
    models: Collection[str] = ()
    cidrs: Collection[str] = ()
    expires_at: datetime | None = None
    project: str | None = None


def page(*, principal: Principal, limit: int, after: str | None) -> tuple[list[ApiKey], bool]:
    """Keys of the principal's organization, newest first, and whether more follow.

    ``after`` is the id of the last key of the page before, which may be deleted since. Raises
    ``InvalidCursor``, the same for a foreign id and a made-up one.
    """
    rows = _all(principal)
    listed = rows.filter(deleted_at__isnull=True).order_by("-id")
    if after is not None:
        last = _read(after)
        if last is None or not rows.filter(pk=last).exists():
            raise InvalidCursor(param="after")
        listed = listed.filter(pk__lt=last)
    found = list(listed[: limit + 1])
    return found[:limit], len(found) > limit


def issue(*, principal: Principal, wish: Wish) -> IssuedKey:
    """Make a key in the principal's organization: a personal one in a personal one.

    Limits the principal has and the wish leaves out are inherited. Raises ``ScopeMissing`` for a
    wish beyond them and ``OutOfRange`` for values that are not allowed.
    """
    assert principal.organization_id is not None
    wish = replace(
        wish,
        models=wish.models or principal.models,
        cidrs=wish.cidrs or [str(each) for each in principal.networks],
    )
    networks = keys.networks(wish.cidrs)
    _check_within(principal, scopes=wish.scopes, models=frozenset(wish.models), networks=networks)
    person = User.objects.get(pk=principal.user_id) if principal.user_id else None
    return keys.issue(
        kind=Kind.PERSONAL if principal.is_personal else Kind.ORGANIZATION,
        name=wish.name,
        by=principal.actor,
        organization=Organization.objects.get(pk=principal.organization_id),
        user=person if principal.is_personal else None,
        project_id=_project(principal, wish),
        scopes=wish.scopes,
        models=wish.models,
        cidrs=wish.cidrs,
        expires_at=wish.expires_at,
        created_by=person,
    )


def _project(principal: Principal, wish: Wish) -> UUID | None:
    """The project that a wished key belongs to: the one named, else the principal's own.

    Raises ``OutOfRange`` for one that is not there to be named, ``ScopeMissing`` for another than the principal's.
    """
    if wish.project is None:
        return principal.project_id
    assert principal.organization_id is not None
    found = projects.find_open(organization_id=principal.organization_id, shown=wish.project)
    if principal.project_id not in {None, found.pk}:
        raise ScopeMissing("This key is limited to its project and cannot pass on others.", param="project")
    return found.pk  # type: ignore[no-any-return]


def rotate(*, principal: Principal, key_id: str) -> IssuedKey:
    """Replace the secret of a key of the principal's organization.

    Raises ``NotFound``, ``Conflict`` for a revoked key and ``ScopeMissing`` for a key that may more
    than the principal, whose new secret would hand that on.
    """
    key = _get(principal, key_id)
    _check_within(principal, scopes=key.scopes, models=frozenset(key.allowed_models), networks=keys.networks(key.cidrs))
    return keys.rotate(key_id=key.pk, by=principal.actor)


def delete(*, principal: Principal, key_id: str) -> ApiKey:
    """Delete a key of the principal's organization. Raises ``NotFound``."""
    key = _get(principal, key_id)
    keys.delete(key_id=key.pk, by=principal.actor)
    return key


def _all(principal: Principal) -> OfOrganization[ApiKey]:
    """The keys a principal may see: its organization's, or only its project's."""
    assert principal.organization_id is not None
    rows = ApiKey.objects.for_org(principal.organization_id)
    return rows.filter(project_id=principal.project_id) if principal.project_id else rows


def _get(principal: Principal, key_id: str) -> ApiKey:
    wanted = _read(key_id)
    found = _all(principal).filter(pk=wanted, deleted_at__isnull=True).first() if wanted else None
    if found is None:
        raise NotFound
    return found


def _read(text: str) -> UUID | None:
    try:
        return ids.read("key", text)
    except ValueError:
        return None


def _check_within(
    principal: Principal,
    *,
    scopes: Collection[str],
    models: frozenset[str],
    networks: Collection[addresses.Network],
) -> None:
    """Raise ``ScopeMissing`` if a key so limited could do what the principal may not."""
    excess = permissions.effective(scopes=scopes, role=None) - principal.permissions
    if excess:
        raise ScopeMissing(f"This key lacks {', '.join(sorted(excess))} and cannot pass it on.", param="scopes")
    if principal.models and not (models and models <= principal.models):
        raise ScopeMissing("This key is limited to some models and cannot pass on others.", param="models")
    if principal.networks and not (networks and all(addresses.covered(each, principal.networks) for each in networks)):
        raise ScopeMissing("This key is limited to some networks and cannot pass on others.", param="cidrs")
