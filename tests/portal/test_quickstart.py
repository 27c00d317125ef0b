import re
from typing import Any

import pytest

from orgs import keys
from orgs.models import ApiKey, Kind, Organization
from tests.orgs import world
from tests.portal.test_credit import text
from tests.portal.world import member, owner, signed_in

PLACE = "/portal/acme-labs/quickstart"


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def test_examples_have_a_place_for_the_key(acme: Organization, settings: Any) -> None:
    settings.PUBLIC_URL = "https://tollbook.example"
    told = text(owner(acme).get(PLACE))
    assert 'curl https://tollbook.example/v1/chat/completions \\ -H "Authorization: Bearer dtk_your_key"' in told
    assert 'OpenAI( base_url="https://tollbook.example/v1", api_key="dtk_your_key",' in told
    assert 'baseURL: "https://tollbook.example/v1", apiKey: "dtk_your_key",' in told
    assert "X-DeepToken-Org: acme-labs" in told


def test_a_key_is_made_shown_once_and_filled_in(acme: Organization) -> None:
    client = owner(acme)
    page = client.post(PLACE, {"name": "first"})
    (secret, *_) = set(re.findall(r"dtk_[0-9A-Za-z]{49}", page.content.decode()))
    made = keys.verify(secret)
    assert (made.kind, made.name, made.organization_id) == (Kind.ORGANIZATION, "first", acme.pk)
    assert page.content.decode().count(secret) == 4
    assert "dtk_your_key" not in page.content.decode()
    assert page["Cache-Control"] == "private, no-store"
    assert secret not in client.get(PLACE).content.decode()


def test_at_ones_own_desk_the_key_is_personal(db: None) -> None:
    person = world.person()
    page = signed_in(person).post(f"/portal/{world.personal(person).slug}/quickstart", {"name": "mine"})
    (secret, *_) = set(re.findall(r"dtk_[0-9A-Za-z]{49}", page.content.decode()))
    made = keys.verify(secret)
    assert (made.kind, made.user_id) == (Kind.PERSONAL, person.pk)


@pytest.mark.parametrize("role", ["member", "viewer", "billing"])
def test_who_does_not_manage_keys_makes_none(acme: Organization, role: str) -> None:
    client = member(acme, role)
    assert client.get(PLACE).status_code == 200
    assert "Make a key" not in text(client.get(PLACE))
    assert client.post(PLACE, {"name": "first"}).status_code == 403
    assert ApiKey.objects.count() == 0


@pytest.mark.parametrize("name", ["", " ", "a" * 101, "dtk_" + "a" * 49])
def test_a_name_that_cannot_be_is_refused_at_its_field(acme: Organization, name: str) -> None:
    page = owner(acme).post(PLACE, {"name": name})
    assert (page.status_code, list(page.context["form"].errors)) == (422, ["name"])
    assert ApiKey.objects.count() == 0


def test_the_page_of_another_organization_is_not_there(acme: Organization) -> None:
    other = owner(world.organization("other"))
    assert (other.get(PLACE).status_code, other.post(PLACE, {"name": "x"}).status_code) == (404, 404)
    assert ApiKey.objects.count() == 0
