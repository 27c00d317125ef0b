"""People, organizations and keys for tests."""

from typing import Any

from orgs import audit, keys, members, organizations
from orgs.keys import IssuedKey
from orgs.models import Kind, Member, Organization, User

BY = audit.system("tests")


def person(email: str = "ada@example.com") -> User:
    """A person with the personal organization that comes with one."""
    return organizations.ensure_user(email, by=BY)


def personal(user: User) -> Organization:
    """A person's own organization."""
    return Organization.objects.get(personal_of=user)


def organization(slug: str = "acme-labs", *, owner: User | None = None) -> Organization:
    """A shared organization."""
    return organizations.create(slug=slug, owner=owner or person(f"owner@{slug}.example"), by=BY)


def member(of: Organization, email: str, role: str = "member") -> Member:
    """A new member of an organization."""
    return members.add(organization=of, user=person(email), role=role, by=BY)


def organization_key(of: Organization, **options: Any) -> IssuedKey:
    """An organization's own key."""
    return keys.issue(kind=Kind.ORGANIZATION, name=options.pop("name", "ours"), by=BY, organization=of, **options)


def personal_key(user: User, **options: Any) -> IssuedKey:
    """A person's key."""
    name = options.pop("name", "mine")
    return keys.issue(kind=Kind.PERSONAL, name=name, by=BY, organization=personal(user), user=user, **options)


def service_key(*scopes: str, **options: Any) -> IssuedKey:
    """A gateway's key; everything a gateway may do if no scopes are named."""
    chosen = scopes or ("events:write", "authorizations:write")
    return keys.issue(kind=Kind.SERVICE, name=options.pop("name", "gateway"), by=BY, scopes=chosen, **options)
