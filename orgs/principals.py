"""Whom a request speaks for: a key, and the organization that it is attributed to."""

from dataclasses import dataclass
from uuid import UUID

from core import ids
from core.errors import IpNotAllowed, OrgAccessDenied
from orgs import addresses, keys, members, organizations, permissions
from orgs.audit import Actor
from orgs.keys import KeyFacts
from orgs.members import MemberFacts
from orgs.models import Kind
from orgs.organizations import OrganizationFacts

ORGANIZATION_HEADER = "X-DeepToken-Org"


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified key in its organization.

    ``organization_id`` is who pays; a service key has one only if the request named it.
    ``organization_slug`` is None for a personal organization. ``default_slug`` is what a service
    key's header named, for doors where it is only a default. ``permissions`` are a customer's
    key's; a service key has ``scopes`` and, in ``organizations``, its limits (empty: none).
    ``models`` and ``networks`` are allowlists, empty for all.
    """

    key_id: UUID
    kind: Kind
    key_name: str
    organization_id: UUID | None
    organization_slug: str | None
    is_personal: bool
    user_id: UUID | None
    member_id: UUID | None
    project_id: UUID | None
    permissions: frozenset[str]
    scopes: frozenset[str]
    models: frozenset[str]
    networks: tuple[addresses.Network, ...]
    organizations: frozenset[UUID]
    trust_client_header: bool
    default_slug: str | None = None

    @property
    def is_authenticated(self) -> bool:
        """Always: there is no principal without a key."""
        return True

    @property
    def actor(self) -> Actor:
        """Who acts, for the audit trail."""
        return Actor(kind="key", id=ids.show("key", self.key_id), label=self.key_name)


def identify(
    *, secret: str, header: str | None, address: addresses.Address | None, default_only: bool = False
) -> Principal:
    """The principal behind a secret, an ``X-DeepToken-Org`` header and a client's address.

    Raises ``InvalidApiKey``, ``IpNotAllowed`` or ``OrgAccessDenied``.
    """
    key = keys.verify(secret)
    check_address(key, address)
    return resolve(key=key, header=header, default_only=default_only)


def resolve(*, key: KeyFacts, header: str | None, default_only: bool = False) -> Principal:
    """The principal of a key, under the rules of contract 12 for the header.

    ``default_only``: a service key's header is well-formed but not looked up; events may name
    other organizations and resolve it themselves. Raises ``OrgAccessDenied``, with one answer for
    "no such organization", "not a member" and "not this key's".
    """
    slug = read_slug(header)
    if key.kind == Kind.SERVICE:
        organization = None if slug is None or default_only else _named(slug)
        if organization is not None and not may_name(key.organizations, organization.id):
            raise OrgAccessDenied(param=ORGANIZATION_HEADER)
        return _principal(key, organization, None, default_slug=slug)
    assert key.organization_id is not None
    own = organizations.find_ids((key.organization_id,))[key.organization_id]
    if key.kind == Kind.ORGANIZATION:
        if slug is not None and not is_own(own, slug):
            raise OrgAccessDenied(param=ORGANIZATION_HEADER)
        return _principal(key, own, None)
    assert key.user_id is not None
    organization = own if slug is None else _named(slug)
    member = members.find(organization_id=organization.id, user_id=key.user_id)
    if member is None:
        raise OrgAccessDenied(param=None if slug is None else ORGANIZATION_HEADER)
    return _principal(key, organization, member)


def read_slug(header: str | None) -> str | None:
    """The slug in a header, None if it is absent or empty.

    Raises ``OrgAccessDenied`` for anything but one slug; a header sent twice arrives as ``a,b``.
    """
    # Optional white space around a field's value is not part of it (RFC 9110, 5.5).
    text = header.strip(" \t") if header else ""
    if not text:
        return None
    slug = text.lower()
    if not text.isascii() or not organizations.is_slug(slug):
        raise OrgAccessDenied(param=ORGANIZATION_HEADER)
    return slug


def is_own(organization: OrganizationFacts, slug: str) -> bool:
    """Whether a slug is that of the organization a key belongs to."""
    return organization.slug == slug


def may_name(limits: frozenset[UUID], organization_id: UUID) -> bool:
    """Whether a service key with these limits (empty: none) may speak for an organization."""
    return not limits or organization_id in limits


def check_address(key: KeyFacts, address: addresses.Address | None) -> None:
    """Raise ``IpNotAllowed`` if the key is limited to networks that the client is not in."""
    if key.networks and not addresses.within(address, key.networks):
        raise IpNotAllowed


def _named(slug: str) -> OrganizationFacts:
    organization = organizations.find_slugs((slug,)).get(slug)
    if organization is None or organization.closed:
        raise OrgAccessDenied(param=ORGANIZATION_HEADER)
    return organization


def _principal(
    key: KeyFacts,
    organization: OrganizationFacts | None,
    member: MemberFacts | None,
    *,
    default_slug: str | None = None,
) -> Principal:
    is_personal = organization is not None and organization.is_personal
    allowed: frozenset[str] = frozenset()
    if key.kind != Kind.SERVICE:
        allowed = permissions.effective(scopes=key.scopes, role=member.permissions if member else None)
    return Principal(
        key_id=key.id,
        kind=key.kind,
        key_name=key.name,
        organization_id=organization.id if organization else None,
        organization_slug=organization.slug if organization and not is_personal else None,
        is_personal=is_personal,
        user_id=key.user_id,
        member_id=member.id if member else None,
        project_id=key.project_id,
        permissions=allowed,
        scopes=key.scopes,
        models=key.models,
        networks=key.networks,
        organizations=key.organizations,
        trust_client_header=key.trust_client_header,
        default_slug=default_slug,
    )
