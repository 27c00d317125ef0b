"""People at the customers' pages, for tests."""

from django.test import Client

from orgs.models import Organization, User
from tests.orgs import world

PASSWORD = "correct horse battery staple"


def signed_in(user: User) -> Client:
    """A browser in which somebody has signed in."""
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def member(of: Organization, role: str, email: str = "") -> Client:
    """A browser of a new member with a role."""
    joined = world.member(of, email or f"{role}@{of.slug}.example", role)
    return signed_in(joined.user)


def owner(of: Organization) -> Client:
    """A browser of who made the organization."""
    return signed_in(User.objects.get(email=f"owner@{of.slug}.example"))
