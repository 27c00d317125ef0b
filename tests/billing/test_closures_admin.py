"""Closing an organization at the desk: what is in the way, the act, and who may do it."""

from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from billing.models import Wallet
from orgs.models import AuditEntry, Organization, User
from tests import desk
from tests.billing.test_closures import give
from tests.orgs import world


def page(of: Organization, act: str = "change") -> str:
    return reverse(f"admin:orgs_organization_{act}", args=[of.pk])


def test_finance_closes_an_organization_and_opens_it_again(db: None) -> None:
    root, acme = desk.superuser(), world.organization()
    give(acme, "0.5")
    asked = desk.read(root, page(acme, "close")).text
    assert "0.5 USD is left, to be refunded or taken out by an adjustment" in asked
    refused = root.post(page(acme, "close"), follow=True).content.decode()
    assert "acme-labs cannot be closed: 0.5 USD is left" in refused
    acme.refresh_from_db()
    assert acme.closed_at is None
    umbrella = world.organization("umbrella")
    assert "Nothing." in desk.read(root, page(umbrella, "close")).text
    # To look is not to write: there is no wallet yet.
    assert not Wallet.objects.filter(pk=umbrella.pk).exists()
    assert "umbrella is closed" in root.post(page(umbrella, "close"), follow=True).content.decode()
    shown = desk.read(root, page(umbrella)).text
    assert (page(umbrella, "reopen") in shown, page(umbrella, "close") in shown) == (True, False)
    assert "umbrella is open again" in root.post(page(umbrella, "reopen"), follow=True).content.decode()
    told = AuditEntry.objects.filter(verb__in=("organization.closed", "organization.reopened")).order_by("id")
    assert [(each.verb, each.details["reason"], each.actor_label) for each in told] == [
        ("organization.closed", desk.WHY, "root@example.com"),
        ("organization.reopened", desk.WHY, "root@example.com"),
    ]


def test_a_persons_own_organization_has_no_such_button(db: None) -> None:
    own = world.personal(world.person())
    assert page(own, "close") not in desk.read(desk.superuser(), page(own)).text


def test_who_only_looks_closes_nothing(db: None) -> None:
    acme = world.organization()
    user = User.objects.create_user("sue@example.com", desk.PASSWORD, is_staff=True)
    user.groups.add(Group.objects.get(name="Support"))
    client = Client()
    client.force_login(user)
    assert client.post(page(acme, "close"), {"reason": "because"}).status_code == 403
    user.groups.set([Group.objects.get(name="Finance")])
    assert client.post(page(acme, "close"), {"reason": "because"}).status_code == 302
    acme.refresh_from_db()
    assert acme.closed_at is not None
