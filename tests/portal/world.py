"""People at the customers' pages, for tests."""

from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orgs.models import AuditEntry, Member, Organization, User
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


def seen(of: Organization, email: str) -> Client:
    """A browser of somebody who is a member."""
    return signed_in(User.objects.get(email=email, pk__in=Member.objects.for_org(of.pk).values("user_id")))


def text(answer: Any) -> str:
    """What a page or a file says."""
    return b"".join(answer).decode() if answer.streaming else str(answer.content.decode())


def assert_refused(client: Client, place: str, **told: Any) -> None:
    """A role may not do this: a page that says so, and nothing that the trail would know of."""
    before = AuditEntry.objects.count()
    answer = client.post(place, told)
    assert answer.status_code == 403
    assert "Your role does not allow this" in answer.content.decode()
    assert AuditEntry.objects.count() == before


def count_queries(client: Client, place: str) -> int:
    """How many queries a page takes."""
    with CaptureQueriesContext(connection) as asked:
        assert client.get(place).status_code == 200
    return len(asked)
