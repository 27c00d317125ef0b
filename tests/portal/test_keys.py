import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client

from core import clock, ids
from core.errors import InvalidApiKey
from orgs import keys, members, projects, ratelimits
from orgs.models import ApiKey, AuditEntry, Organization
from orgs.ratelimits import Limits
from portal import keys as pages
from tests.billing.world import record
from tests.books import Books
from tests.metering.world import COST, attributed, event
from tests.orgs import world
from tests.orgs.test_keys import everything
from tests.portal.world import assert_refused, count_queries, member, owner, signed_in

PLACE = "/portal/acme-labs/keys"
SECRET = re.compile(r"dtk_[0-9A-Za-z]{49}")


def made(client: Client, place: str = PLACE, **told: object) -> str:
    """The secret of a key that somebody makes by the form."""
    answer = client.post(f"{place}/new", {"name": "ours", **told})
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "private, no-store"
    found = set(SECRET.findall(answer.content.decode()))
    assert len(found) == 1
    return str(found.pop())


def one(key: ApiKey, *more: str) -> str:
    return "/".join((PLACE, ids.show("key", key.pk), *more))


def test_a_key_is_made_with_its_limits_and_works(db: None) -> None:
    acme = world.organization()
    search = projects.create(organization=acme, name="Search", by=world.BY)
    secret = made(
        owner(acme), scopes=["keys:manage"], models="gpt-4o\r\n gpt-4o-mini \r\n", cidrs="203.0.113.0/24",
        requests="600", concurrency="3", project=ids.show("proj", search.pk), expires_at="2035-03-10",
    )  # fmt: skip
    facts = keys.verify(secret)
    assert (facts.kind, facts.organization_id, facts.project_id) == ("organization", acme.pk, search.pk)
    assert (facts.scopes, facts.models) == ({"keys:manage"}, {"gpt-4o", "gpt-4o-mini"})
    assert [str(each) for each in facts.networks] == ["203.0.113.0/24"]
    assert facts.expires_at == datetime(2035, 3, 11, tzinfo=UTC)
    assert ratelimits.stored([facts.id]) == {facts.id: Limits(600, None, 3)}
    listed = owner(acme).get(PLACE).content.decode()
    assert "10 March 2035" in listed
    assert "600 requests/min" in listed


def test_the_last_day_ends_in_the_zone_of_the_organization(db: None) -> None:
    acme = world.organization()
    # On 11 March 2035 clocks in New York go forward at two in the morning.
    Organization.objects.filter(pk=acme.pk).update(time_zone="America/New_York")
    assert keys.verify(made(owner(acme), expires_at="2035-03-11")).expires_at == datetime(2035, 3, 12, 4, tzinfo=UTC)


def test_a_personal_key_is_made_at_home_and_seen_elsewhere(db: None) -> None:
    acme = world.organization()
    ada = world.member(acme, "ada@example.com").user
    client = signed_in(ada)
    secret = made(client, f"/portal/{world.personal(ada).slug}/keys", name="adas own")
    assert keys.verify(secret).user_id == ada.pk
    world.organization_key(acme, name="not for members")
    page = client.get(PLACE).content.decode()
    assert "adas own" in page
    assert "does not manage the keys" in page
    assert "not for members" not in page
    # It is no key of the organization, whoever looks.
    assert client.get(one(ApiKey.objects.get(name="adas own"))).status_code == 403
    assert owner(acme).get(one(ApiKey.objects.get(name="adas own"))).status_code == 404


def test_a_secret_is_shown_once_and_kept_nowhere(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    acme = world.organization()
    client = owner(acme)
    first = made(client)
    key = ApiKey.objects.get()
    rotated = client.post(one(key, "rotate"))
    second = SECRET.findall(rotated.content.decode())[0]
    with pytest.raises(InvalidApiKey):
        keys.verify(first)
    assert keys.verify(second).id == key.pk
    pages = [client.get(place).content.decode() for place in (PLACE, one(key), "/portal/acme-labs/members/history")]
    kept = everything(books)
    for secret in (first, second):
        assert not any(secret[4:28] in told for told in (*pages, kept, caplog.text))


def test_a_revoked_key_stops_stays_listed_is_not_rotated_and_can_be_deleted(db: None) -> None:
    acme = world.organization()
    issued = world.organization_key(acme, name="doomed")
    client = owner(acme)
    assert "doomed is revoked." in client.post(one(issued.key, "revoke"), follow=True).content.decode()
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)
    refused = client.post(one(issued.key, "rotate"), follow=True).content.decode()
    assert "A revoked key cannot be rotated" in refused
    assert SECRET.search(refused) is None
    client.post(one(issued.key, "delete"))
    assert ApiKey.objects.get().deleted_at is not None
    assert client.get(one(issued.key)).status_code == 404


def test_limits_are_changed_and_taken_away(db: None) -> None:
    acme = world.organization()
    key = world.organization_key(acme).key
    assert owner(acme).post(one(key), {"requests": "7", "tokens": "", "concurrency": ""}).status_code == 302
    assert ratelimits.stored([key.pk]) == {key.pk: Limits(7)}
    assert 'value="7"' in owner(acme).get(one(key)).content.decode()
    owner(acme).post(one(key), {})
    assert ratelimits.stored([key.pk]) == {}
    wrong = owner(acme).post(one(key), {"tokens": "-1"})
    assert wrong.status_code == 422
    assert "Tokens a minute lies between 1 and 1000000000" in wrong.content.decode()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"name": "dtk_0123456789abcdef"}, "Name looks like a secret"),
        ({"name": " "}, "This field is required."),
        ({"cidrs": "nonsense"}, ">&#x27;nonsense&#x27; does not appear to be an IPv4 or IPv6 network"),
        ({"models": "x" * 201}, "A model id has 1 to 200"),
        ({"models": "gpt-4o\ngpt-<9>"}, "No model with the id gpt-&lt;9&gt; is in the catalog."),
        ({"requests": "0"}, "Requests a minute lies between 1"),
        ({"expires_at": "2001-01-01"}, "The last day must not be over."),
        ({"scopes": "members:manage"}, "is not one of the available choices"),
        ({"project": "proj_00000000000000000000000000"}, "is not one of the available choices"),
    ],
)
def test_a_wrong_wish_is_told_at_its_field_and_nothing_is_made(db: None, told: dict[str, str], said: str) -> None:
    acme = world.organization()
    projects.create(organization=acme, name="Search", by=world.BY)
    answer = owner(acme).post(f"{PLACE}/new", {"name": "ours", **told})
    assert answer.status_code == 422
    assert said in answer.content.decode()
    (field,) = told
    assert f'id="id_{field}_error"' in answer.content.decode()
    assert not ApiKey.objects.exists()


def test_a_form_that_was_wrong_is_not_sent_again_by_coming_back_to_it(db: None) -> None:
    client = owner(world.organization())
    assert "data-place" not in client.get(f"{PLACE}/new").content.decode()
    wrong = client.post(f"{PLACE}/new", {"name": "ours", "cidrs": "nowhere"})
    assert wrong.status_code == 422
    assert f'<body class="desk" data-place="{PLACE}/new">' in wrong.content.decode()


@pytest.mark.parametrize("role", ["billing", "member", "viewer"])
def test_who_does_not_manage_keys_changes_none(db: None, role: str) -> None:
    acme = world.organization()
    issued = world.organization_key(acme)
    client = member(acme, role)
    for place in ("rotate", "revoke", "delete"):
        assert_refused(client, one(issued.key, place))
    assert_refused(client, one(issued.key), requests="1")
    assert_refused(client, f"{PLACE}/new", name="ours")
    assert keys.verify(issued.secret).id == issued.key.pk
    assert ApiKey.objects.count() == 1


def test_a_role_without_what_every_key_may_makes_none(db: None) -> None:
    acme = world.organization()
    members.define_role(name="keeper", granted=["keys:manage"], by=world.BY)
    client = member(acme, "keeper")
    issued = world.organization_key(acme)
    answer = client.post(f"{PLACE}/new", {"name": "ours"})
    assert answer.status_code == 422
    assert "cannot pass it on" in answer.content.decode()
    assert "cannot pass it on" in client.post(one(issued.key, "rotate"), follow=True).content.decode()
    assert keys.verify(issued.secret).id == issued.key.pk


def test_keys_of_others_are_not_there(db: None) -> None:
    acme, other = world.organization(), world.organization("other")
    issued = world.organization_key(other)
    before = AuditEntry.objects.count()
    for key_id in (ids.show("key", issued.key.pk), ids.show("key", ids.new()), "key_1"):
        assert owner(acme).get(f"{PLACE}/{key_id}").status_code == 404
        for act in ("", "/rotate", "/revoke", "/delete"):
            assert owner(acme).post(f"{PLACE}/{key_id}{act}", {"requests": "1"}).status_code == 404
    assert AuditEntry.objects.count() == before
    assert keys.verify(issued.secret).id == issued.key.pk


def test_nothing_is_changed_by_looking_or_from_another_site(db: None) -> None:
    acme = world.organization()
    issued = world.organization_key(acme)
    for act in ("rotate", "revoke", "delete"):
        assert owner(acme).get(one(issued.key, act)).status_code == 405
    outsider = Client(enforce_csrf_checks=True)
    outsider.force_login(world.person("owner@acme-labs.example"), backend="django.contrib.auth.backends.ModelBackend")
    assert outsider.post(one(issued.key, "revoke")).status_code == 403
    assert keys.verify(issued.secret).id == issued.key.pk


def test_a_name_is_text_on_every_page(db: None) -> None:
    acme = world.organization()
    key = world.organization_key(acme, name="<script>alert(1)</script>\"'").key
    client = owner(acme)
    for place in (PLACE, one(key), "/portal/acme-labs/members/history"):
        page = client.get(place).content.decode()
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;" in page


def test_a_keys_cost_of_the_month_and_its_last_day_are_shown(db: None) -> None:
    acme = world.organization()
    key = world.organization_key(acme).key
    (plain,) = attributed(acme, event())
    record([plain._replace(api_key_id=key.pk)])
    page = owner(acme).get(PLACE).content.decode()
    assert f"{Decimal(COST)} USD" in page
    assert f"{clock.now():%-d %B %Y}" in page
    its_own = owner(acme).get(one(key)).content.decode()
    asked = f"/portal/acme-labs/requests?key={ids.show('key', key.pk)}"
    assert asked in its_own
    assert owner(acme).get(asked).status_code == 200


def test_the_list_takes_as_many_queries_for_many_keys_as_for_one_and_has_pages(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ROWS", 5)
    acme = world.organization()
    world.organization_key(acme)
    client = owner(acme)
    few = count_queries(client, PLACE)
    for place in range(5):
        world.organization_key(acme, name=f"key {place}", expires_at=clock.now() + timedelta(days=1))
    assert count_queries(client, PLACE) == few
    first = client.get(PLACE).content.decode()
    after = re.search(r"\?after=(key_\w{26})", first)
    assert after is not None
    rest = client.get(PLACE, {"after": after.group(1)}).content.decode()
    assert "key 0" in first
    assert "ours" not in first.split("Your personal keys", maxsplit=1)[0]
    assert "ours" in rest
    assert client.get(PLACE, {"after": "key_1"}).status_code == 400
