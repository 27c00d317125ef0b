import re

import pytest

from core import ids
from ops import deliveries, endpoints, signatures
from ops.models import WebhookDelivery, WebhookEndpoint
from orgs.models import AuditEntry
from portal import webhooks
from tests.books import Books
from tests.ops import hooks
from tests.orgs import world
from tests.orgs.test_keys import everything
from tests.portal.world import assert_refused, count_queries, member, owner

PLACE = "/portal/acme-labs/webhooks"
SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{20,}")
ACTS = ("/rotate", "/switch", "/delete", "/test")


def one(of: WebhookEndpoint, act: str = "") -> str:
    return f"{PLACE}/{ids.show('we', of.pk)}{act}"


def test_an_endpoint_is_made_and_its_secret_shown_once_and_kept_nowhere(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    client = owner(world.organization())
    made = client.post(f"{PLACE}/new", {"url": hooks.URL, "events": ["wallet.low", "invoice.paid"]})
    assert (made.status_code, made["Cache-Control"]) == (200, "private, no-store")
    endpoint = WebhookEndpoint.objects.get()
    assert (endpoint.url, endpoint.kinds) == (hooks.URL, ["invoice.paid", "wallet.low"])
    rotated = client.post(one(endpoint, "/rotate"))
    secrets = [SECRET.findall(page.content.decode())[0] for page in (made, rotated)]
    endpoint.refresh_from_db()
    assert endpoints.keys_of(endpoint, at=endpoint.created_at) == [signatures.key_of(each) for each in secrets[::-1]]
    pages = [
        client.get(place).content.decode() for place in (PLACE, one(endpoint), "/portal/acme-labs/members/history")
    ]
    kept = everything(books)
    for secret in secrets:
        plain = signatures.key_of(secret)
        for trace in (secret.removeprefix("whsec_"), plain.hex(), repr(plain)[2:-1]):
            assert not any(trace in told for told in (*pages, kept, caplog.text))


def test_an_endpoint_is_changed_switched_and_deleted(db: None) -> None:
    acme = world.organization()
    endpoint = hooks.endpoint(acme, kinds=["wallet.low"]).endpoint
    client = owner(acme)
    form = client.get(one(endpoint, "/change")).content.decode()
    assert 'value="wallet.low" id="id_events_0" checked' in form
    client.post(one(endpoint, "/change"), {"url": f"{hooks.URL}/new"})
    endpoint.refresh_from_db()
    assert (endpoint.url, endpoint.kinds) == (f"{hooks.URL}/new", [])
    client.post(one(endpoint, "/switch"), {"to": "off"})
    assert "switched off" in client.get(one(endpoint)).content.decode()
    assert "The endpoint is disabled" in client.post(one(endpoint, "/test"), follow=True).content.decode()
    client.post(one(endpoint, "/switch"), {"to": "on"})
    endpoint.refresh_from_db()
    assert endpoint.enabled is True
    assert "The endpoint is deleted." in client.post(one(endpoint, "/delete"), follow=True).content.decode()
    assert client.get(one(endpoint)).status_code == 404


def test_a_test_is_sent_and_what_was_sent_is_sent_again(db: None) -> None:
    acme = world.organization()
    endpoint = hooks.endpoint(acme).endpoint
    client = owner(acme)
    assert "A ping is on its way." in client.post(one(endpoint, "/test"), follow=True).content.decode()
    assert "A ping is on its way to this endpoint." in client.post(one(endpoint, "/test"), follow=True).content.decode()
    delivery = WebhookDelivery.objects.get()
    WebhookDelivery.objects.update(
        state="failed",
        attempts=9,
        status=500,
        excerpt="<b>broken</b>",
        next_attempt_at=None,
        done_at=delivery.created_at,
    )
    page = client.get(one(endpoint)).content.decode()
    assert "failed" in page
    assert "&lt;b&gt;broken&lt;/b&gt;" in page
    again = f"/{ids.show('wd', delivery.pk)}/again"
    assert "It is on its way again." in client.post(one(endpoint, again), follow=True).content.decode()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("pending", 0)


@pytest.mark.parametrize(
    ("told", "field", "said"),
    [
        ({"url": "http://hooks.example.com/"}, "url", "The URL must begin with https://"),
        ({"url": "https://10.0.0.1/"}, "url", "The host must be a full domain name"),
        ({"url": ""}, "url", "This field is required."),
        ({"url": hooks.URL, "events": "wallet.high"}, "events", "is not one of the available choices"),
    ],
)
def test_a_wrong_endpoint_is_told_at_its_field(db: None, told: dict[str, str], field: str, said: str) -> None:
    answer = owner(world.organization()).post(f"{PLACE}/new", told)
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert f'id="id_{field}_error"' in answer.content.decode()
    assert not WebhookEndpoint.objects.exists()


def test_the_eleventh_endpoint_is_refused_above_the_form(db: None) -> None:
    acme = world.organization()
    for _ in range(10):
        hooks.endpoint(acme)
    answer = owner(acme).post(f"{PLACE}/new", {"url": hooks.URL})
    assert "at most 10 webhook endpoints" in answer.content.decode()
    assert WebhookEndpoint.objects.count() == 10


@pytest.mark.parametrize("role", ["billing", "member", "viewer"])
def test_who_does_not_manage_webhooks_sees_and_changes_none(db: None, role: str) -> None:
    acme = world.organization()
    endpoint = hooks.endpoint(acme).endpoint
    delivery = deliveries.ping(endpoint=endpoint, by=world.BY)
    client = member(acme, role)
    assert client.get(PLACE).status_code == client.get(one(endpoint)).status_code == 403
    for act in (*ACTS, "/change", f"/{ids.show('wd', delivery.pk)}/again"):
        assert_refused(client, one(endpoint, act), url=f"{hooks.URL}/evil", to="off")
    assert_refused(client, f"{PLACE}/new", url=hooks.URL)


def test_endpoints_and_deliveries_of_others_are_not_there(db: None) -> None:
    acme, other = world.organization(), world.organization("other")
    theirs, ours = hooks.endpoint(other).endpoint, hooks.endpoint(acme).endpoint
    delivery = ids.show("wd", deliveries.ping(endpoint=theirs, by=world.BY).pk)
    client = owner(acme)
    before = AuditEntry.objects.count()
    for place in (one(theirs), f"{PLACE}/{ids.show('we', ids.new())}", f"{PLACE}/we_1"):
        assert client.get(place).status_code == 404
        for act in (*ACTS, "/change", f"/{delivery}/again"):
            assert client.post(place + act, {"url": hooks.URL}).status_code == 404
    assert client.post(one(ours, f"/{delivery}/again")).status_code == 404
    assert AuditEntry.objects.count() == before


def test_the_pages_take_as_many_queries_for_many_as_for_few_and_deliveries_have_pages(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "ROWS", 3)
    acme = world.organization()
    endpoint = hooks.endpoint(acme).endpoint
    hooks.hand_on(acme)
    client = owner(acme)
    few = [count_queries(client, place) for place in (PLACE, one(endpoint))]
    for place in range(3):
        hooks.hand_on(acme, key=str(place + 2))
    hooks.endpoint(acme)
    assert [count_queries(client, place) for place in (PLACE, one(endpoint))] == few
    after = re.search(r"\?after=(wd_\w{26})", client.get(one(endpoint)).content.decode())
    assert after is not None
    rest = client.get(one(endpoint), {"after": after.group(1)}).content.decode()
    assert rest.count("<tr>") == 2
    assert client.get(one(endpoint), {"after": "wd_1"}).status_code == 400
