"""What organizations have agreed to for calls whose client hangs up."""

import pytest
from django.test import Client

from core import errors
from gateway import terms
from gateway.models import CallTerms
from orgs.models import AuditEntry, User
from tests.orgs import world

pytestmark = pytest.mark.django_db


def test_without_a_word_the_rest_is_read() -> None:
    assert terms.on_hang_up(world.organization().pk) == "drain"
    assert CallTerms.objects.count() == 0


def test_a_change_holds_at_once_and_is_noted() -> None:
    acme = world.organization()
    terms.change(organization_id=acme.pk, on_hang_up="estimate", reason="asked for", by=world.BY)
    assert terms.on_hang_up(acme.pk) == "estimate"
    entry = AuditEntry.objects.get(verb="call_terms.changed")
    assert entry.details == {"before": "drain", "on_hang_up": "estimate", "reason": "asked for"}
    with pytest.raises(errors.OutOfRange):
        terms.change(organization_id=acme.pk, on_hang_up="free", reason="no", by=world.BY)


def test_the_desk_sets_them(client: Client) -> None:
    acme = world.organization()
    client.force_login(User.objects.create_superuser("ada@example.com"))
    told = {"organization": "acme-labs", "on_hang_up": "estimate", "reason": "asked for"}
    assert client.post("/admin/gateway/callterms/change/", told).status_code == 302
    assert CallTerms.objects.get().organization_id == acme.pk
    assert b"acme-labs" in client.get("/admin/gateway/callterms/").content
    client.post("/admin/gateway/callterms/change/", {**told, "organization": "nobody"})
    assert b"No organization has this slug" in client.get("/admin/gateway/callterms/").content
