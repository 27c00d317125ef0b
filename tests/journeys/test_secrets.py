"""Keys in use, rightly and wrongly, and a search for them wherever something is kept or said."""

import base64
import hashlib
import json
import logging.config
from typing import Any

import httpx
import pytest
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from core import ids
from core.logs import SECRETS
from orgs import keys
from orgs.models import User
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.journeys.test_envelope import _patterns
from tests.orgs import world
from tests.orgs.test_keys import everything
from tests.proofs import proves
from tests.server import WebServer

# Enough of a secret to be no accident, and what a careless hand may have made of it.
PART = slice(4, 28)


def traces(secret: str) -> list[str]:
    """A secret's random part, plain and encoded."""
    plain = secret[PART]
    return [plain, plain.encode().hex(), base64.b64encode(secret.encode())[:32].decode(), secret[::-1][:24]]


def use(call: Any, house: House, secret: str) -> list[Any]:
    """Every place of a request where a key is, or where somebody puts one by mistake."""
    bearer = {"Authorization": f"Bearer {secret}"}
    event = neighbours.event(f"gw-{ids.new()}", organization=house.slug)
    wrong: list[tuple[str, str, dict[str, str], Any]] = [
        ("GET", "/v1/usage", bearer, None),
        ("GET", "/v1/key", bearer, None),
        ("GET", "/v1/usage", {"Authorization": f"Basic {secret}"}, None),
        ("GET", "/v1/usage", {"Authorization": secret}, None),
        ("GET", "/v1/usage", {"Authorization": f"Bearer {secret}x"}, None),
        ("GET", f"/v1/usage?key={secret}&after={secret}", bearer, None),
        ("GET", f"/v1/usage?model={secret}&source={secret}", bearer, None),
        ("GET", f"/v1/usage?api_key_id={secret}&metadata[k]={secret}", bearer, None),
        ("GET", f"/v1/keys/{secret}", bearer, None),
        ("DELETE", f"/v1/keys/{secret}", bearer, None),
        ("POST", f"/v1/keys/{secret}/rotate", bearer, {}),
        ("GET", f"/v1/usage/{secret}", bearer, None),
        ("GET", f"/{secret}", {}, None),
        ("GET", "/v1/wallet", {**bearer, "X-DeepToken-Org": secret}, None),
        ("GET", "/v1/wallet", {**bearer, "X-Request-Id": secret, "User-Agent": secret, "Referer": secret}, None),
        ("GET", "/v1/wallet", {**bearer, "Cookie": f"key={secret}", "Accept": secret}, None),
        ("POST", "/v1/keys", bearer, {"name": secret}),
        ("POST", "/v1/keys", bearer, {"name": "x", "scopes": [secret]}),
        ("POST", "/v1/keys", bearer, {"name": "x", "models": [f"my {secret}"]}),
        ("POST", "/v1/keys", bearer, {"name": "x", "cidrs": [secret]}),
        ("POST", "/v1/keys", bearer, {secret: secret}),
    ]
    gateway = house.gateway.headers
    fields = ("event_id", "model", "organization", "api_key_id", "end_user", "request_id", "channel", "service_tier")
    wrong += [("POST", "/v1/events", gateway, {**event, name: secret}) for name in fields]
    wrong += [("POST", "/v1/events", gateway, [{**event, name: f"Bearer {secret}"}]) for name in fields]
    wrong += [
        ("POST", "/v1/events", gateway, {**event, "metadata": {"authorization": secret}}),
        ("POST", "/v1/events", gateway, {**event, "metadata": {secret: "x"}}),
        ("POST", "/v1/events", gateway, {**event, "units": {secret: 1}}),
        ("POST", "/v1/events", gateway, {**event, "unknown": secret}),
        ("POST", "/v1/events", {**gateway, "X-DeepToken-Org": secret}, event),
    ]
    return [call(*each) for each in wrong]


def admin_pages(desk: Client) -> str:
    """Every list of the admin and every page of a row, as one text."""
    texts = []
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        texts.append(desk.get(reverse(f"{name}_changelist")).content.decode())
        for row in model._default_manager.all()[:40]:
            texts.append(desk.get(reverse(f"{name}_change", args=[row.pk])).content.decode())
    assert len(texts) > 20
    return "\n".join(texts)


def root() -> Client:
    """Somebody who may see every page of the admin."""
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com", "a long enough password"))
    return client


@proves("A06", guard="only_the_digest_is_stored")
@proves("A06", guard="events_hold_no_keys")
def test_a_key_that_was_used_in_every_way_is_found_nowhere(books: Books, server: WebServer) -> None:
    house = neighbours.house("acme-labs")
    secrets = [each.secret for each in house.keys.values()]
    made = house.callers["owner"].post("/v1/keys", {"name": "made"}).json()
    turned = house.callers["owner"].post(f"/v1/keys/{made['id']}/rotate").json()
    secrets += [made["secret"], turned["secret"]]
    used = [house.keys[kind].secret for kind in ("organization", "owner", "service")] + [turned["secret"]]
    said = []
    with httpx.Client(base_url=server.base_url) as client:

        def call(method: str, path: str, headers: dict[str, str], body: Any) -> httpx.Response:
            return client.request(method, path, headers=headers, json=body)

        for secret in used:
            for answer in use(call, house, secret):
                assert answer.status_code < 500, answer.text
                # Of what the caller said itself, an answer may name a model, its event's id and its request's.
                said.append(answer)
    found = {
        "a table": everything(books),
        "the server's log": server.log,
        "the admin": admin_pages(root()),
        "an answer": "\n".join(each.text for each in said if each.status_code in {401, 403, 405, 406, 415}),
    }
    assert house.owner.email in found["a table"], "the dump is not the whole database"
    assert all(issued.key.name in found["the admin"] for issued in house.keys.values())
    for secret in secrets:
        assert hashlib.sha256(secret.encode()).hexdigest() not in found["the admin"]
        for place, text in found.items():
            assert not [trace for trace in traces(secret) if trace in text], place
            assert not SECRETS.search(text.replace("[redacted]", "")), place


@proves("A06", guard="secrets_are_cut_from_logs")
def test_a_crash_with_a_key_in_its_hands_leaves_none_in_the_log(
    books: Books, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house = neighbours.house("acme-labs")
    secret = house.keys["owner"].secret

    def crash(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"cannot serve {request.headers['Authorization']} at {request.get_full_path()}")

    from django.urls import get_resolver

    for pattern in _patterns(get_resolver().url_patterns):
        view = getattr(pattern.callback, "cls", None)
        if view is not None and hasattr(view, "get"):
            monkeypatch.setattr(view, "get", crash)
    # The handlers as they are in production, writing to what is captured here.
    logging.config.dictConfig(settings.LOGGING)
    for path in ("/v1/usage", "/v1/wallet", f"/v1/usage/{secret}", f"/v1/usage?key={secret}"):
        answer = Caller("owner", secret).get(path)
        assert answer.status_code == 500
        assert secret[PART] not in answer.content.decode()
    written = capfd.readouterr().err
    assert "cannot serve Bearer dtk_[redacted]" in written
    assert "Traceback" in written
    assert not [trace for trace in traces(secret) if trace in written]


def test_an_event_that_holds_a_key_is_rejected_by_its_field_and_others_are_not(db: None) -> None:
    house = neighbours.house("acme-labs")
    secret = house.keys["organization"].secret
    event = neighbours.event("gw-1")
    for name, value in {
        "api_key_id": secret, "end_user": f"user with {secret}", "request_id": secret, "model": secret,
        "metadata": {"key": secret}, "units": {secret: 1}, "organization": secret,
    }.items():  # fmt: skip
        answer = house.gateway.post(neighbours.EVENTS, {**event, name: value})
        assert answer.status_code == 422, (name, answer.content)
        error = answer.json()["error"]
        assert (error["code"], error["param"].partition(".")[0]) == ("value_out_of_range", name)
        assert secret[PART] not in answer.content.decode()
    batch = [{**event, "end_user": secret}, event, {**event, "event_id": "gw-2", "end_user": "dtk_ is no key"}]
    told = house.gateway.post(neighbours.EVENTS, batch).json()
    assert [each["status"] for each in told["data"]] == ["rejected", "created", "created"]
    assert told["data"][0]["error"]["param"] == "events[0].end_user"
    # A field that nobody reads is dropped with whatever is in it.
    assert house.gateway.post(neighbours.EVENTS, {**event, "event_id": "gw-3", "headers": secret}).status_code == 201


def test_the_traces_that_are_searched_for_are_found_where_they_are(books: Books) -> None:
    secret = keys.new_secret()
    for trace in traces(secret):
        assert trace in json.dumps({"a": f"x{trace}y"})
    world.person(f"{secret[PART].lower()}@example.com")
    assert secret[PART].lower() in everything(books)
    assert apps.get_model("orgs", "User") in admin.site._registry
