import pytest

from billing import profiles
from orgs.models import AuditEntry, Organization
from tests.orgs import world
from tests.portal.test_credit import text
from tests.portal.world import member, owner

PROFILE = "/portal/acme-labs/invoices/profile"
GIVEN = {
    "name": "Acme Labs GmbH", "address": "Am Markt 1\r\n10178 Berlin", "country": "de", "vat_id": "DE999999999",
    "email": "billing@acme.example", "grouping": "api_key",
}  # fmt: skip


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def test_who_manages_billing_says_to_whom_documents_go(acme: Organization) -> None:
    client = owner(acme)
    profiles.set_profile(organization_id=acme.pk, fields={"terms": "postpaid", "net_days": 30}, by=world.BY)
    assert client.post(PROFILE, {**GIVEN, "terms": "prepaid", "net_days": "180"})["Location"] == PROFILE
    found = profiles.of(acme.pk)
    # Browsers end lines with CR LF.
    assert (found.name, found.address, found.country) == ("Acme Labs GmbH", "Am Markt 1\n10178 Berlin", "DE")
    assert (found.vat_id, found.email, found.grouping) == ("DE999999999", "billing@acme.example", "api_key")
    # What the seller sets is not to be had by naming it.
    assert (found.terms, found.net_days) == ("postpaid", 30)
    assert AuditEntry.objects.filter(verb="billing_profile.set", actor_label="owner@acme-labs.example").count() == 1


def test_a_vat_id_that_changes_has_to_be_checked_again(acme: Organization) -> None:
    client = owner(acme)
    client.post(PROFILE, GIVEN)
    assert "not checked yet" in text(client.get(PROFILE))
    profiles.record_check(organization_id=acme.pk, how="VIES, answer 7", by=world.BY)
    client.post(PROFILE, {**GIVEN, "name": "Acme"})
    assert "checked on" in text(client.get(PROFILE))
    client.post(PROFILE, {**GIVEN, "vat_id": "DE111111111"})
    assert "not checked yet" in text(client.get(PROFILE))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("country", "Germany"), ("country", "1!"), ("email", "no address"), ("grouping", "day"), ("name", "a\x00b")],
)
def test_what_cannot_be_is_refused_at_its_field(acme: Organization, field: str, wrong: str) -> None:
    answer = owner(acme).post(PROFILE, {**GIVEN, field: wrong})
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, [field])
    assert profiles.of(acme.pk).country == ""


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_who_does_not_manage_billing_changes_nothing(acme: Organization, role: str) -> None:
    client = member(acme, role)
    assert client.get(PROFILE).status_code == (200 if role == "viewer" else 403)
    assert client.post(PROFILE, GIVEN).status_code == 403
    assert profiles.of(acme.pk).name == ""


def test_what_is_typed_is_shown_and_not_run(acme: Organization) -> None:
    owner(acme).post(PROFILE, {**GIVEN, "name": "<script>x</script>", "address": "<b>y</b>\n<i>z</i>"})
    for page in (owner(acme).get(PROFILE).content.decode(), member(acme, "viewer").get(PROFILE).content.decode()):
        assert ("<script>x" in page, "<b>y" in page, "<i>z" in page) == (False, False, False)
        assert "&lt;script&gt;x&lt;/script&gt;" in page
