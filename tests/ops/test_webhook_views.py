"""Webhook endpoints over HTTP: managed with a key that may, secrets shown once, deliveries listed and repeated."""

from collections.abc import Iterator
from typing import Any

import pytest

from core import ids
from ops import deliveries, endpoints, signatures
from ops.models import WebhookDelivery, WebhookEndpoint
from orgs.models import Organization
from tests.books import Books
from tests.journeys.neighbours import Caller
from tests.ops import hooks
from tests.ops.internet import Answering, Internet, Receiver
from tests.orgs import world
from tests.orgs.test_keys import everything

PATH = "/v1/webhook_endpoints"


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme")


def manager(of: Organization) -> Caller:
    return Caller("manager", world.organization_key(of, scopes=["webhooks:manage"]).secret)


def refusal(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def made(caller: Caller, **told: Any) -> dict[str, Any]:
    answer = caller.post(PATH, {"url": hooks.URL, **told})
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = answer.json()
    return found


def test_an_endpoint_is_made_read_changed_rotated_and_deleted(acme: Organization) -> None:
    caller = manager(acme)
    answer = caller.post(PATH, {"url": hooks.URL, "events": ["wallet.low"], "unknown": 1})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    new = answer.json()
    secret = new.pop("secret")
    row = WebhookEndpoint.objects.get()
    assert new == {
        "id": str(row), "object": "webhook_endpoint", "url": hooks.URL, "events": ["wallet.low"], "enabled": True,
        "disabled_reason": None, "disabled_at": None, "failing_since": None,
        "created_at": ids.milliseconds(row.created_at) // 1000,
    }  # fmt: skip
    one = f"{PATH}/{new['id']}"
    assert caller.get(one).json() == new
    assert caller.get(PATH).json()["data"] == [new]
    changed = caller.call("PATCH", one, body={"events": [], "enabled": False}).json()
    assert (changed["events"], changed["enabled"], changed["disabled_reason"]) == ([], False, "switched off")
    assert caller.call("PATCH", one, body={"url": None, "enabled": True}).json()["url"] == hooks.URL
    rotated = caller.post(f"{one}/rotate_secret")
    assert rotated.headers["Cache-Control"] == "no-store"
    assert signatures.key_of(rotated.json()["secret"]) != signatures.key_of(secret)
    gone = caller.call("DELETE", one)
    assert gone.json() == {"id": new["id"], "object": "webhook_endpoint.deleted", "deleted": True}
    assert caller.get(one).status_code == 404
    assert caller.get(PATH).json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    assert secret not in caller.get(PATH).content.decode()


def test_no_row_and_no_log_line_holds_a_secret(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    caller = manager(world.organization("acme"))
    new = made(caller)
    rotated = caller.post(f"{PATH}/{new['id']}/rotate_secret").json()
    kept = everything(books)
    for secret in (new["secret"], rotated["secret"]):
        plain = signatures.key_of(secret)
        for trace in (secret.removeprefix("whsec_"), plain.hex(), repr(plain)[2:-1]):
            assert trace not in kept
            assert trace not in caplog.text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "missing_required_parameter", "url")),
        ({"url": 1}, (400, "invalid_type", "url")),
        ({"url": "http://hooks.example.com/"}, (422, "value_out_of_range", "url")),
        ({"url": "https://10.0.0.1/"}, (422, "value_out_of_range", "url")),
        ({"url": hooks.URL, "events": "wallet.low"}, (400, "invalid_type", "events")),
        ({"url": hooks.URL, "events": [1]}, (400, "invalid_type", "events[0]")),
        ({"url": hooks.URL, "events": ["wallet.high"]}, (422, "value_out_of_range", "events")),
    ],
)
def test_a_wrong_field_is_named(acme: Organization, body: Any, expected: Any) -> None:
    assert refusal(manager(acme).post(PATH, body)) == expected
    assert not WebhookEndpoint.objects.exists()


def test_enabled_is_a_boolean_and_the_eleventh_is_a_conflict(acme: Organization) -> None:
    caller = manager(acme)
    one = f"{PATH}/{made(caller)['id']}"
    assert refusal(caller.call("PATCH", one, body={"enabled": "no"})) == (400, "invalid_type", "enabled")
    for _ in range(9):
        made(caller)
    assert refusal(caller.post(PATH, {"url": hooks.URL}))[:2] == (409, "too_many_webhook_endpoints")


def test_a_key_without_the_scope_may_nothing(acme: Organization) -> None:
    caller = Caller("plain", world.organization_key(acme).secret)
    row = hooks.endpoint(acme).endpoint
    for method, path in (
        ("GET", PATH), ("POST", PATH), ("GET", f"{PATH}/{row}"), ("PATCH", f"{PATH}/{row}"),
        ("DELETE", f"{PATH}/{row}"), ("POST", f"{PATH}/{row}/rotate_secret"), ("POST", f"{PATH}/{row}/test"),
        ("GET", f"{PATH}/{row}/deliveries"), ("POST", f"{PATH}/{row}/deliveries/{ids.show('wd', ids.new())}/redeliver"),
    ):  # fmt: skip
        assert refusal(caller.call(method, path, body={"url": hooks.URL}))[:2] == (403, "scope_missing")
    assert WebhookEndpoint.objects.get().deleted_at is None


@pytest.fixture
def net(books: Books) -> Iterator[Receiver]:
    with Receiver() as receiver, Internet() as net:
        net.put("hooks.example.com", receiver)
        yield receiver


def test_a_ping_is_sent_listed_and_sent_again(net: Receiver) -> None:
    acme = world.organization("acme")
    caller = manager(acme)
    one = f"{PATH}/{made(caller)['id']}"
    net.behave = lambda _: Answering(500, b"<h1>not yet</h1>")
    pinged = caller.post(f"{one}/test").json()
    assert (pinged["object"], pinged["type"], pinged["status"], pinged["attempts"]) == (
        "webhook_delivery", "ping", "pending", 0,
    )  # fmt: skip
    assert refusal(caller.post(f"{one}/test"))[:2] == (409, "conflict")
    deliveries.send_next()
    listed = caller.get(f"{one}/deliveries", limit=1).json()
    (delivery,) = listed["data"]
    assert (delivery["id"], delivery["message_id"]) == (pinged["id"], net.got[0].headers["webhook-id"])
    assert (delivery["status_code"], delivery["excerpt"], delivery["failure"]) == (500, "<h1>not yet</h1>", None)
    assert delivery["next_attempt_at"] >= delivery["last_attempt_at"]
    assert caller.get(one).json()["failing_since"] is not None
    net.behave = lambda _: Answering(200)
    again = caller.post(f"{one}/deliveries/{delivery['id']}/redeliver")
    assert (again.status_code, again.json()["attempts"]) == (200, 0)
    deliveries.send_next(calm=False)
    assert caller.get(f"{one}/deliveries").json()["data"][0]["status"] == "succeeded"
    assert caller.get(one).json()["failing_since"] is None


def test_deliveries_page_by_id(acme: Organization) -> None:
    caller = manager(acme)
    new = made(caller)
    row = endpoints.find(organization_id=acme.pk, shown=new["id"])
    for number in range(3):
        message = hooks.tell(acme, key=str(number))
        deliveries._add(message, acme.pk, [row.pk])
    newest = [str(each) for each in WebhookDelivery.objects.order_by("-id")]
    page = caller.get(f"{PATH}/{row}/deliveries", limit=2).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (newest[:2], True)
    rest = caller.get(f"{PATH}/{row}/deliveries", limit=2, after=page["last_id"]).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (newest[2:], False)
    wrong = caller.get(f"{PATH}/{row}/deliveries", after=ids.show("wd", ids.new()))
    assert refusal(wrong) == (400, "invalid_cursor", "after")
    assert refusal(caller.get(f"{PATH}/{row}/deliveries", limit=101)) == (422, "value_out_of_range", "limit")
    assert caller.post(f"{PATH}/{row}/deliveries/{ids.show('wd', ids.new())}/redeliver").status_code == 404


def test_a_disabled_endpoint_is_sent_nothing_by_hand_either(acme: Organization) -> None:
    caller = manager(acme)
    one = f"{PATH}/{made(caller)['id']}"
    caller.call("PATCH", one, body={"enabled": False})
    assert refusal(caller.post(f"{one}/test"))[:2] == (409, "webhook_endpoint_disabled")
