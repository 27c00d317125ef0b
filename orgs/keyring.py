"""Keys managed with a key or by a person: nothing is handed on that whoever manages does not have themselves.

Every read starts from the principal's organization, so a foreign key and a made-up one are the
same: not there.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

from core import ids
from core.errors import InvalidCursor, ModelNotFound, NotFound, ScopeMissing
from orgs import addresses, keys, permissions, projects
from orgs.audit import Actor
from orgs.keys import IssuedKey
from orgs.models import ApiKey, Kind, OfOrganization, Organization, User

# Which of some names are no models; none, as long as nobody who keeps a catalog has told how to know.
Strangers = Callable[[Collection[str]], Sequence[str]]
_strangers: list[Strangers] = [lambda _: ()]


def learn_models(strangers: Strangers) -> None:
    """From now on keys name only these models: told by whoever keeps the catalog, when the process starts."""
    _strangers[0] = strangers


class Manager(Protocol):
    """Whoever manages keys: a key (``principals.Principal``) or a ``Person``. Empty limits limit nothing."""

    @property
    def organization_id(self) -> UUID | None:
        """Whose keys."""

    @property
    def is_personal(self) -> bool:
        """Whether that organization is one person's own."""

    @property
    def user_id(self) -> UUID | None:
        """The person, if there is one behind it."""

    @property
    def project_id(self) -> UUID | None:
        """The only project whose keys they manage."""

    @property
    def permissions(self) -> frozenset[str]:
        """What they may do."""

    @property
    def models(self) -> frozenset[str]:
        """The models that they may call."""

    @property
    def networks(self) -> tuple[addresses.Network, ...]:
        """Where they may call from."""

    @property
    def actor(self) -> Actor:
        """Who acts, for the audit trail."""


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-in person in an organization, with the permissions of their role there."""

    organization_id: UUID
    is_personal: bool
    user_id: UUID
    permissions: frozenset[str]
    actor: Actor
    project_id: UUID | None = None
    models: frozenset[str] = frozenset()
    networks: tuple[addresses.Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """A key that a customer asks for; empty lists limit nothing. ``project`` is an id on the wire."""

    name: str
    scopes: Collection[str] = ()
    models: Collection[str] = ()
    cidrs: Collection[str] = ()
    expires_at: datetime | None = None
    project: str | None = None


def page(*, principal: Manager, limit: int, after: str | None) -> tuple[list[ApiKey], bool]:
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


def issue(*, principal: Manager, wish: Wish) -> IssuedKey:
    """Make a key in the principal's organization: a personal one in a personal one.

    Limits the principal has and the wish leaves out are inherited. Raises ``ScopeMissing`` for a
    wish beyond them, ``ModelNotFound`` for a model that is not in the catalog and ``OutOfRange`` for values that
    are not allowed.
    """
    assert principal.organization_id is not None
    keys.check_models(wish.models)
    # What is inherited was known once; a key whose models have gone still hands them on.
    if strangers := _strangers[0](wish.models):
        raise ModelNotFound(f"No model with the id {strangers[0]} is in the catalog.", param="models")
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


def _project(principal: Manager, wish: Wish) -> UUID | None:
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


def rotate(*, principal: Manager, key_id: str) -> IssuedKey:
    """Replace the secret of a key of the principal's organization.

    Raises ``NotFound``, ``Conflict`` for a revoked key and ``ScopeMissing`` for a key that may more
    than the principal, whose new secret would hand that on.
    """
    key = _get(principal, key_id)
    _check_within(principal, scopes=key.scopes, models=frozenset(key.allowed_models), networks=keys.networks(key.cidrs))
    return keys.rotate(key_id=key.pk, by=principal.actor)


def delete(*, principal: Manager, key_id: str) -> ApiKey:
    """Delete a key of the principal's organization. Raises ``NotFound``."""
    key = _get(principal, key_id)
    keys.delete(key_id=key.pk, by=principal.actor)
    return key


def revoke(*, principal: Manager, key_id: str) -> ApiKey:
    """Stop a key of the principal's organization for good; it stays listed. Raises ``NotFound``."""
    return keys.revoke(key_id=_get(principal, key_id).pk, by=principal.actor)


def find(*, principal: Manager, key_id: str) -> ApiKey:
    """A key of the principal's organization. Raises ``NotFound``."""
    return _get(principal, key_id)


def _all(principal: Manager) -> OfOrganization[ApiKey]:
    """The keys a principal may see: its organization's, or only its project's."""
    assert principal.organization_id is not None
    rows = ApiKey.objects.for_org(principal.organization_id)
    return rows.filter(project_id=principal.project_id) if principal.project_id else rows


def _get(principal: Manager, key_id: str) -> ApiKey:
    wanted = _read(key_id)
    found = _all(principal).filter(pk=wanted, deleted_at__isnull=True).first() if wanted else None
    if found is None:
        raise NotFound("No key with that id is open to this key.", param="key_id")
    return found


def _read(text: str) -> UUID | None:
    try:
        return ids.read("key", text)
    except ValueError:
        return None


def _check_within(
    principal: Manager,
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
