"""Authorizations over HTTP: who may, what it may cost, and how the hold ends (contract 17)."""

import json
import logging
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from billing import budgets, holds, wallets
from billing.ledger import Terms
from billing.models import Budget, Hold
from core import clock, ids
from metering.models import UsageRecord
from ops.models import IdempotencyKey
from orgs import caches, keys, members
from orgs.keys import IssuedKey
from orgs.models import Member, Organization, Role, User
from tests import doors
from tests.billing.test_grants import give
from tests.billing.world import rows
from tests.books import Books
from tests.metering.world import told
from tests.orgs import world

# Every promise holds at both doors.
pytestmark = pytest.mark.usefixtures("both_doors")

AUTHORIZATIONS, VERIFY, EVENTS = "/v1/authorizations", "/v1/keys/verify", "/v1/events"
HEADER = "X-DeepToken-Org"
# 1,000 × 0.27 + 200 × 1.10 millionths of a dollar.
COST = Decimal("0.00049")


class Gateway:
    """Somebody's gateway with its service key."""

    def __init__(self, *scopes: str, **options: Any) -> None:
        self.issued = world.service_key(*scopes, **options)
        self.client = doors.client()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return self.client.generic(
            method,
            path,
            "" if body is None else json.dumps(body),
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.issued.secret}", **headers},
        )

    def ask(self, **body: Any) -> Any:
        """An authorization of 1,000 tokens in and 200 out, unless the body says otherwise."""
        asked = {"model": "deepseek-chat", "input_tokens": 1000, "max_output_tokens": 200, **body}
        return self.send("POST", AUTHORIZATIONS, {name: value for name, value in asked.items() if value != "absent"})

    def read(self, shown: str, slug: str | None) -> Any:
        return self.send("GET", f"{AUTHORIZATIONS}/{shown}", **({HEADER: slug} if slug else {}))

    def release(self, shown: str, slug: str, **headers: str) -> Any:
        return self.send("POST", f"{AUTHORIZATIONS}/{shown}/release", **{HEADER: slug, **headers})

    def verify(self, **body: Any) -> Any:
        return self.send("POST", VERIFY, body)


class Scene:
    """acme-labs with a dollar, Ada who owns it, Ben who is a member, and their keys."""

    def __init__(self) -> None:
        self.ada = world.person("ada@example.com")
        self.acme = world.organization("acme-labs", owner=self.ada)
        self.ben = world.member(self.acme, "ben@example.com", "member")
        give(self.acme, 1, "acme's")
        give(world.personal(self.ben.user), 1, "ben's")
        self.key = world.organization_key(self.acme)
        self.bens = world.personal_key(self.ben.user)
        self.gateway = Gateway()

    def change(self, **terms: Any) -> None:
        wallets.change_terms(organization_id=self.acme.pk, terms=Terms(**terms), reason="asked", by=world.BY)


@pytest.fixture
def scene(books: Books) -> Scene:
    return Scene()


def shown(key: IssuedKey) -> str:
    return ids.show("key", key.key.pk)


def refusal(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def held(of: Organization) -> Decimal:
    return wallets.state(of.pk).held_usd


def exact(answer: Any) -> Any:
    return json.loads(answer.content, parse_float=Decimal)


def personal_slug(user: User) -> str:
    return world.personal(user).slug


def ceiling(of: Organization, most: str, *, subject: str, of_id: UUID, window: str = "1d") -> Budget:
    return budgets.set_ceiling(
        organization_id=of.pk, subject=subject, subject_id=of_id, window=window, unit="usd", ceiling=Decimal(most),
        by=world.BY,
    )  # fmt: skip


# The happy path


def test_a_request_is_approved_held_and_captured_by_its_event(scene: Scene) -> None:
    answer = scene.gateway.ask(key=scene.key.secret)
    assert answer.status_code == 201
    made = exact(answer)
    hold = Hold.objects.get()
    assert made == {
        "id": ids.show("auth", hold.pk),
        "object": "authorization",
        "status": "approved",
        "api_key_id": shown(scene.key),
        "organization": "acme-labs",
        "wallet": {"organization": "acme-labs", "status": "low", "available_usd": 1 - COST},
        "model": "deepseek-chat",
        "amount_usd": COST,
        "max_output_tokens": 200,
        "created_at": clock.to_unix(hold.created_at),
        "expires_at": clock.to_unix(hold.expires_at),
        "settled_at": None,
        "usage_record_id": None,
    }
    assert (hold.placed_by, hold.tokens, hold.member_id) == (scene.gateway.issued.key.pk, 1200, None)
    assert hold.expires_at - hold.created_at == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=1))
    sent = told(authorization_id=made["id"], api_key_id=shown(scene.key))
    created = exact(scene.gateway.send("POST", EVENTS, sent))
    assert created["status"] == "created"
    read = exact(scene.gateway.read(made["id"], "acme-labs"))
    hold.refresh_from_db()
    assert read == {
        **made,
        "status": "captured",
        "usage_record_id": created["usage_record_id"],
        "settled_at": clock.to_unix(hold.settled_at),  # type: ignore[arg-type]
        "wallet": {"organization": "acme-labs", "status": "low", "available_usd": 1 - Decimal("0.000362")},
    }


def test_a_key_is_named_by_its_id_as_well_as_shown(scene: Scene) -> None:
    by_secret, by_id = (
        exact(scene.gateway.ask(key=scene.key.secret)),
        exact(scene.gateway.ask(api_key_id=shown(scene.key))),
    )
    fresh = {"id", "wallet", "created_at", "expires_at"}
    assert {name: value for name, value in by_secret.items() if name not in fresh} == {
        name: value for name, value in by_id.items() if name not in fresh
    }


def test_a_personal_key_speaks_for_itself_or_for_the_organization_named(scene: Scene) -> None:
    own = exact(scene.gateway.ask(key=scene.bens.secret))
    slug = personal_slug(scene.ben.user)
    assert (own["organization"], own["wallet"]["organization"]) == (slug, slug)
    shared = exact(scene.gateway.ask(key=scene.bens.secret, organization="ACME-labs"))
    assert (shared["organization"], shared["wallet"]["organization"]) == ("acme-labs", "acme-labs")
    # Within one transaction, as here, ids do not rise from hold to hold.
    held = {hold.organization_id: hold for hold in Hold.objects.all()}
    assert held.keys() == {world.personal(scene.ben.user).pk, scene.acme.pk}
    assert held[scene.acme.pk].member_id == scene.ben.pk
    # The header of the gateway's own request is the default, as for events.
    asked = {"key": scene.bens.secret, "model": "deepseek-chat", "input_tokens": 1}
    by_header = scene.gateway.send("POST", AUTHORIZATIONS, asked, **{HEADER: "acme-labs"})
    assert exact(by_header)["organization"] == "acme-labs"
    # What a personal key's holds are read by is what they name.
    assert scene.gateway.read(own["id"], slug).status_code == 200


def test_a_cap_beyond_the_models_own_holds_and_answers_that(scene: Scene) -> None:
    made = exact(scene.gateway.ask(key=scene.key.secret, max_output_tokens=2**31 - 1))
    # 1,000 × 0.27 + 8,192 × 1.10 = 9,281.2 millionths.
    assert (made["max_output_tokens"], made["amount_usd"]) == (8192, Decimal("0.0092812"))
    assert held(scene.acme) == Decimal("0.0092812")


def test_a_null_is_as_absent_and_what_is_unknown_is_dropped(scene: Scene) -> None:
    answer = scene.gateway.ask(
        key=scene.key.secret, api_key_id=None, organization=None, client_ip=None, ttl_seconds=None, n=None, units=None,
        service_tier=None, batch=None, colour={"deep": [1]}, amount_usd=0, status="captured",
    )  # fmt: skip
    assert (answer.status_code, exact(answer)["amount_usd"]) == (201, COST)


def test_the_default_cap_is_answered_and_an_estimate_needs_no_counts(scene: Scene, settings: Any) -> None:
    settings.OUTPUT_TOKENS_DEFAULT = 1000
    asked = {"input_tokens": "absent", "max_output_tokens": "absent"}
    made = exact(scene.gateway.ask(key=scene.key.secret, input_text="Why is the sky blue?", **asked))
    # 7 tokens with DeepSeek's margin, and 1,000 of output.
    assert (made["max_output_tokens"], made["amount_usd"]) == (1000, Decimal("0.00110189"))
    free = exact(scene.gateway.ask(key=scene.key.secret, model="gemma-4-31b-it"))
    assert (free["status"], free["amount_usd"]) == ("approved", 0)


@pytest.mark.parametrize("seconds", [1, 3600])
def test_the_hold_lasts_as_long_as_asked(scene: Scene, seconds: int) -> None:
    scene.gateway.ask(key=scene.key.secret, ttl_seconds=seconds)
    hold = Hold.objects.get()
    assert hold.expires_at - hold.created_at == pytest.approx(timedelta(seconds=seconds), abs=timedelta(seconds=1))


# Refusals


def test_a_wrong_field_is_named_and_nothing_is_held(scene: Scene) -> None:
    secret = scene.key.secret
    cases: list[tuple[dict[str, Any], tuple[int, str, str]]] = [
        ({}, (400, "missing_required_parameter", "key")),
        ({"key": secret, "api_key_id": shown(scene.key)}, (400, "invalid_request", "api_key_id")),
        ({"key": 7}, (400, "invalid_type", "key")),
        ({"api_key_id": ["x"]}, (400, "invalid_type", "api_key_id")),
        ({"key": secret, "model": "absent"}, (400, "missing_required_parameter", "model")),
        ({"key": secret, "model": "gpt-0"}, (400, "model_not_found", "model")),
        ({"key": secret, "model": "x" * 129}, (422, "value_out_of_range", "model")),
        ({"key": secret, "input_tokens": "absent"}, (400, "missing_required_parameter", "input_tokens")),
        ({"key": secret, "input_tokens": -1}, (422, "value_out_of_range", "input_tokens")),
        ({"key": secret, "input_tokens": "12"}, (400, "invalid_type", "input_tokens")),
        ({"key": secret, "max_output_tokens": 1.5}, (400, "invalid_type", "max_output_tokens")),
        ({"key": secret, "ttl_seconds": 0}, (422, "value_out_of_range", "ttl_seconds")),
        ({"key": secret, "ttl_seconds": 3601}, (422, "value_out_of_range", "ttl_seconds")),
        ({"key": secret, "ttl_seconds": "600"}, (400, "invalid_type", "ttl_seconds")),
        ({"key": secret, "client_ip": "not one"}, (422, "value_out_of_range", "client_ip")),
        ({"key": secret, "client_ip": 7}, (400, "invalid_type", "client_ip")),
        ({"key": secret, "organization": "no slug!"}, (403, "org_access_denied", "organization")),
        ({"key": secret, "n": 129}, (422, "value_out_of_range", "n")),
        ({"key": secret, "units": {"moon_shots": 1}}, (422, "value_out_of_range", "units")),
        ({"key": secret, "service_tier": "platinum"}, (422, "value_out_of_range", "service_tier")),
        ({"key": secret, "image_input_tokens": 1}, (422, "value_out_of_range", "image_input_tokens")),
    ]
    for body, expected in cases:
        assert refusal(scene.gateway.ask(**body)) == expected, body
    assert (Hold.objects.count(), held(scene.acme)) == (0, 0)


def test_a_key_that_does_not_work_is_a_401_that_says_whose(scene: Scene) -> None:
    revoked, gone = world.organization_key(scene.acme), world.organization_key(scene.acme)
    expiring = world.organization_key(scene.acme, expires_at=clock.now() + timedelta(hours=1))
    keys.revoke(key_id=revoked.key.pk, by=world.BY)
    keys.delete(key_id=gone.key.pk, by=world.BY)
    rows("UPDATE api_key SET expires_at = now() WHERE id = %s", expiring.key.pk)
    for key in (revoked, gone, expiring, scene.gateway.issued):
        assert refusal(scene.gateway.ask(key=key.secret)) == (401, "invalid_api_key", "key")
        assert refusal(scene.gateway.ask(api_key_id=shown(key))) == (401, "invalid_api_key", "api_key_id")
        assert refusal(scene.gateway.verify(key=key.secret)) == (401, "invalid_api_key", "key")
    for text in ("", "dtk_", keys.new_secret(), "x" * 1000):
        assert refusal(scene.gateway.ask(key=text)) == (401, "invalid_api_key", "key")
    for text in ("", "key_", ids.show("key", ids.new()), ids.show("auth", scene.key.key.pk)):
        assert refusal(scene.gateway.ask(api_key_id=text)) == (401, "invalid_api_key", "api_key_id")


def test_the_customers_organization_is_theirs_or_refused(scene: Scene) -> None:
    world.organization("other-inc")
    for organization in ("other-inc", "nobody", "personal-x"):
        for key in (scene.key, scene.bens):
            answer = scene.gateway.ask(key=key.secret, organization=organization)
            assert refusal(answer) == (403, "org_access_denied", "organization")
    members.remove(organization=scene.acme, member_id=scene.ben.pk, by=world.BY)
    answer = scene.gateway.ask(key=scene.bens.secret, organization="acme-labs")
    assert refusal(answer) == (403, "org_access_denied", "organization")
    assert answer.headers["x-should-retry"] == "false"


def test_models_networks_and_roles_are_as_at_our_own_door(scene: Scene) -> None:
    limited = world.organization_key(scene.acme, models=["gpt-4o-2024-08-06"], cidrs=["203.0.113.0/24"])
    ask, inside = scene.gateway.ask, {"key": limited.secret, "client_ip": "203.0.113.9"}
    assert refusal(ask(**inside)) == (403, "model_not_allowed", "model")
    assert refusal(ask(**inside, model="gpt-0")) == (400, "model_not_found", "model")
    # An alias on the list is its model, whatever it is called.
    assert [ask(**inside, model=model).status_code for model in ("gpt-4o", "gpt-4o-2024-11-20")] == [201, 201]
    for address in ({}, {"client_ip": "198.51.100.1"}, {"client_ip": "::1"}):
        answer = ask(key=limited.secret, model="gpt-4o", **address)
        assert refusal(answer)[:2] == (403, "ip_not_allowed")
    assert ask(key=limited.secret, model="gpt-4o", client_ip="::ffff:203.0.113.9").status_code == 201
    viewer = Role.objects.get(name="viewer")
    Member.objects.filter(pk=scene.ben.pk).update(role=viewer)
    refused = scene.gateway.ask(key=scene.bens.secret, organization="acme-labs")
    assert refusal(refused)[:2] == (403, "scope_missing")


def test_no_money_is_a_402_in_the_words_of_the_wallet(scene: Scene) -> None:
    scene.change(low_usd=Decimal(0))
    assert scene.gateway.ask(key=scene.key.secret, max_output_tokens=7500, n=120).status_code == 201
    empty = scene.gateway.ask(key=scene.key.secret, max_output_tokens=7500, n=120)
    assert refusal(empty) == (402, "org_wallet_empty", None)
    assert empty.json()["error"]["category"] == "quota_error"
    # 1,000 × 0.27 + 120 × 7,500 × 1.10 = 990,270 millionths, and there was one dollar.
    assert empty.json()["error"]["message"] == (
        "The wallet of organization acme-labs does not cover this request, which may cost up to 0.99027 USD:"
        " 0.00973 USD is available."
    )
    Role.objects.filter(name="member").update(permissions=["calls:make"])
    caches.forget_all()
    blind = scene.gateway.ask(key=scene.bens.secret, organization="acme-labs", max_output_tokens=7500, n=120)
    assert blind.json()["error"]["message"] == (
        "The wallet of organization acme-labs does not cover this request, which may cost up to 0.99027 USD."
    )
    assert "Retry-After" not in empty.headers
    own = scene.gateway.ask(key=scene.bens.secret, max_output_tokens=8000, n=125)
    assert refusal(own) == (402, "insufficient_quota", None)
    wallets.freeze(organization_id=scene.acme.pk, reason="asked", by=world.BY)
    assert "frozen" in scene.gateway.ask(key=scene.key.secret).json()["error"]["message"]


@pytest.mark.one_database
def test_in_fallback_mode_the_callers_own_wallet_is_told_without_what_is_in_it(scene: Scene) -> None:
    scene.change(mode="fallback")
    asked = {"key": scene.bens.secret, "organization": "acme-labs", "max_output_tokens": 8000, "n": 100}
    first, second = exact(scene.gateway.ask(**asked)), exact(scene.gateway.ask(**asked))
    own = personal_slug(scene.ben.user)
    assert first["wallet"]["organization"] == "acme-labs"
    assert second["wallet"] == {"organization": own, "status": "low", "available_usd": None}
    assert second["organization"] == "acme-labs"
    assert refusal(scene.gateway.ask(**asked)) == (402, "insufficient_quota", None)
    sent = told(authorization_id=second["id"], api_key_id=shown(scene.bens), organization="acme-labs")
    assert scene.gateway.send("POST", EVENTS, sent).status_code == 201
    record = UsageRecord.objects.get()
    assert (record.organization_id, record.payer_id) == (scene.acme.pk, world.personal(scene.ben.user).pk)
    # An organization's own key has nobody behind it: there fallback means strict.
    answer = scene.gateway.ask(key=scene.key.secret, max_output_tokens=8000, n=100)
    assert refusal(answer) == (402, "org_wallet_empty", None)


def test_a_ceiling_is_a_403_that_says_when_to_come_back(scene: Scene) -> None:
    ceiling(scene.acme, "0.0005", subject="key", of_id=scene.key.key.pk, window="5h")
    assert scene.gateway.ask(key=scene.key.secret, ttl_seconds=120).status_code == 201
    answer = scene.gateway.ask(key=scene.key.secret)
    assert refusal(answer) == (403, "budget_limit_exceeded", None)
    # When the open hold ends at the latest; the clock of this test's one transaction stands still.
    assert 120 <= int(answer.headers["Retry-After"]) <= 150
    assert held(scene.acme) == COST
    assert scene.gateway.ask(key=world.organization_key(scene.acme).secret).status_code == 201


def test_a_key_without_the_scope_or_of_a_customer_opens_nothing(scene: Scene) -> None:
    reporter = Gateway("events:write")
    for method, path in (
        ("POST", AUTHORIZATIONS), ("POST", VERIFY),
        ("GET", f"{AUTHORIZATIONS}/x"), ("POST", f"{AUTHORIZATIONS}/x/release"),
    ):  # fmt: skip
        assert refusal(reporter.send(method, path, {}))[:2] == (403, "scope_missing")
        customers = doors.client().generic(
            method, path, "{}", content_type="application/json", headers={"Authorization": f"Bearer {scene.key.secret}"}
        )
        assert refusal(customers)[:2] == (403, "permission_denied")


# A gateway that is limited to organizations


def test_a_limited_gateway_learns_nothing_of_other_organizations(scene: Scene) -> None:
    other = world.organization("other-inc")
    give(other, 1, "other's")
    theirs = world.organization_key(other)
    theirs_personal = world.personal_key(world.member(other, "eve@example.com").user)
    limited = Gateway(organizations=[scene.acme.pk])
    assert limited.ask(key=scene.key.secret).status_code == 201
    assert limited.ask(api_key_id=shown(scene.bens), organization="acme-labs").status_code == 201
    # Organizations: a foreign one is as unknown as a made-up one.
    told_of = {refusal(limited.ask(key=scene.key.secret, organization=slug)) for slug in ("other-inc", "nobody")}
    assert told_of == {(403, "org_access_denied", "organization")}
    # Ids of keys: those of others are as unknown as made-up ones, with and without an organization.
    for named in ({}, {"organization": "acme-labs"}):
        ids_of_others = [shown(theirs), shown(theirs_personal), ids.show("key", ids.new())]
        told_of = {refusal(limited.ask(api_key_id=text, **named)) for text in ids_of_others}
        assert told_of == {(401, "invalid_api_key", "api_key_id")}
    # Who shows a key may be told that it is not for here.
    assert refusal(limited.ask(key=theirs.secret)) == (403, "org_access_denied", "organization")
    assert refusal(limited.ask(key=scene.bens.secret)) == (403, "org_access_denied", "organization")
    assert refusal(limited.verify(key=theirs.secret)) == (403, "org_access_denied", "organization")
    hold = exact(scene.gateway.ask(key=theirs.secret))
    for answer in (limited.read(hold["id"], "other-inc"), limited.release(hold["id"], "other-inc")):
        assert refusal(answer) == (403, "org_access_denied", HEADER)
    for answer in (limited.read(hold["id"], "acme-labs"), limited.release(hold["id"], "acme-labs")):
        assert refusal(answer) == (404, "not_found", "authorization_id")
    assert held(other) == COST


# Reading and releasing


def test_who_reads_or_releases_names_the_organization(scene: Scene) -> None:
    made = exact(scene.gateway.ask(key=scene.key.secret))
    for answer in (scene.gateway.read(made["id"], None), scene.gateway.send("POST", f"{AUTHORIZATIONS}/x/release")):
        assert refusal(answer) == (400, "missing_required_parameter", HEADER)
    world.organization("other-inc")
    for slug, text in (
        ("other-inc", made["id"]), ("acme-labs", ids.show("auth", ids.new())), ("acme-labs", "x"),
        ("acme-labs", ids.show("key", ids.read("auth", made["id"]))),
    ):  # fmt: skip
        assert refusal(scene.gateway.read(text, slug)) == (404, "not_found", "authorization_id")
        assert refusal(scene.gateway.release(text, slug)) == (404, "not_found", "authorization_id")
    assert scene.gateway.read(made["id"], "acme-labs").headers["deepailab-organization"] == "acme-labs"


def test_a_release_gives_the_money_back_and_can_be_sent_again(scene: Scene) -> None:
    made = exact(scene.gateway.ask(key=scene.key.secret))
    first, again = (scene.gateway.release(made["id"], "acme-labs") for _ in range(2))
    assert (first.status_code, first.json()["status"]) == (200, "released")
    assert again.json() == first.json()
    assert first.json()["settled_at"] >= made["created_at"]
    assert held(scene.acme) == 0
    # What has ended otherwise stays as it ended.
    other = exact(scene.gateway.ask(key=scene.key.secret))
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 second' WHERE state = 'open'")
    assert scene.gateway.read(other["id"], "acme-labs").json()["status"] == "approved"
    holds.expire_due()
    assert scene.gateway.release(other["id"], "acme-labs").json()["status"] == "expired"


# The Idempotency-Key


def test_a_retry_with_the_same_key_is_the_same_hold(scene: Scene) -> None:
    body = {"key": scene.key.secret, "model": "deepseek-chat", "input_tokens": 1000, "max_output_tokens": 200}

    def send(body: dict[str, Any], name: str = "a", **headers: str) -> Any:
        return scene.gateway.send("POST", AUTHORIZATIONS, body, **{"Idempotency-Key": name, **headers})

    first, again = send(body), send(body)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert Hold.objects.count() == 1
    for other in ({**body, "input_tokens": 1001}, {**body, "organization": "acme-labs"}):
        assert refusal(send(other)) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert refusal(send(body, name="x" * 256)) == (400, "invalid_request", "Idempotency-Key")
    # Another organization's key of the same name is another's.
    own = {**body, "key": scene.bens.secret}
    assert send(own).status_code == 201
    # A refusal keeps nothing: with money there, the same key goes through.
    dear = {**body, "max_output_tokens": 7500, "n": 120}
    assert send(dear, name="b").status_code == 201
    assert refusal(send(dear, name="c"))[:2] == (402, "org_wallet_empty")
    give(scene.acme, 10, "more")
    assert send(dear, name="c").status_code == 201
    assert Hold.objects.count() == 4


def test_a_release_under_a_key_is_answered_again_as_it_was(scene: Scene) -> None:
    made = exact(scene.gateway.ask(key=scene.key.secret))
    first, again = (scene.gateway.release(made["id"], "acme-labs", **{"Idempotency-Key": "r"}) for _ in range(2))
    assert (first.content, again.headers["Idempotent-Replayed"]) == (again.content, "true")


# A key's life and secrecy


def test_a_raw_key_is_in_no_answer_log_or_table(
    scene: Scene, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret, made_up = scene.key.secret, keys.new_secret()
    caplog.set_level(logging.DEBUG)
    said = []
    for text in (secret, made_up):
        for body in (
            {"key": text}, {"key": text, "model": text}, {"key": text, "organization": text},
            {"key": text, "client_ip": text},
            {"key": text, "input_tokens": text}, {"key": text, "units": {text: 1}}, {"key": text, "service_tier": text},
            {"api_key_id": text}, {"key": [text]}, {"key": text, "messages": [{"role": "user", "content": [text]}]},
        ):  # fmt: skip
            asked = {"input_tokens": "absent"} if "messages" in body else {}
            said += [scene.gateway.ask(**{**asked, **body}), scene.gateway.verify(**body)]
            said.append(scene.gateway.send("POST", AUTHORIZATIONS, body, **{"Idempotency-Key": "k"}))
        said.append(scene.gateway.send("POST", AUTHORIZATIONS, {"key": text, "model": "gpt-4o", "input_tokens": 1},
                                       **{"Idempotency-Key": ids.show("x", ids.new())}))  # fmt: skip
    assert {answer.status_code for answer in said} == {200, 201, 400, 401, 403, 422}
    texts = [str(answer.headers) + answer.content.decode() for answer in said]
    texts += [caplog.text, *capfd.readouterr()]
    for table in ("hold", "idempotency_key", "audit_entry", "outbox"):
        texts += [str(row) for row in rows(f"SELECT {table}::text FROM {table}")]
    assert IdempotencyKey.objects.exists()
    for text in texts:
        assert secret not in text
        assert made_up not in text


# Verifying without a hold


def test_a_verified_key_says_whose_it_is_and_holds_nothing(scene: Scene, settings: Any) -> None:
    settings.KEY_CACHE_SECONDS = 7
    expires = clock.now().replace(microsecond=0) + timedelta(days=1)
    key = world.organization_key(scene.acme, models=["gpt-4o", "deepseek-chat"], expires_at=expires)
    answer = scene.gateway.verify(key=key.secret, model="gpt-4o", client_ip="203.0.113.9")
    assert answer.status_code == 200
    assert exact(answer) == {
        "api_key_id": shown(key),
        "organization": "acme-labs",
        "wallet": {"organization": "acme-labs", "status": "low", "available_usd": 1},
        "models": ["deepseek-chat", "gpt-4o"],
        "expires_at": clock.to_unix(expires),
        "cache_seconds": 7,
    }
    assert answer.headers["Cache-Control"] == "no-store"
    plain = exact(scene.gateway.verify(key=scene.bens.secret, organization="acme-labs"))
    assert (plain["models"], plain["expires_at"], plain["organization"]) == ([], None, "acme-labs")
    own = exact(scene.gateway.verify(key=scene.bens.secret))
    assert own["organization"] == own["wallet"]["organization"] == personal_slug(scene.ben.user)
    assert Hold.objects.count() == 0


def test_verifying_refuses_who_and_what_as_an_authorization_does(scene: Scene) -> None:
    limited = world.organization_key(scene.acme, models=["gpt-4o"], cidrs=["203.0.113.0/24"])
    inside = {"key": limited.secret, "client_ip": "203.0.113.9"}
    cases: list[tuple[dict[str, Any], tuple[int, str, str | None]]] = [
        ({}, (400, "missing_required_parameter", "key")),
        ({"api_key_id": shown(scene.key)}, (400, "missing_required_parameter", "key")),
        ({"key": None}, (400, "missing_required_parameter", "key")),
        ({"key": limited.secret}, (403, "ip_not_allowed", None)),
        ({**inside, "model": "deepseek-chat"}, (403, "model_not_allowed", "model")),
        ({**inside, "model": "gpt-0"}, (400, "model_not_found", "model")),
        ({**inside, "model": ""}, (422, "value_out_of_range", "model")),
        ({**inside, "organization": "nobody"}, (403, "org_access_denied", "organization")),
        ({**inside, "organization": 7}, (400, "invalid_type", "organization")),
        ({**inside, "client_ip": "x"}, (422, "value_out_of_range", "client_ip")),
    ]
    for body, expected in cases:
        assert refusal(scene.gateway.verify(**body)) == expected, body
    assert scene.gateway.verify(**inside).status_code == 200


@pytest.mark.one_database
def test_an_empty_wallet_is_told_and_not_refused(scene: Scene) -> None:
    broke = world.organization("broke")
    key = world.organization_key(broke)
    wallet = {"organization": "broke", "status": "empty", "available_usd": 0}
    assert exact(scene.gateway.verify(key=key.secret))["wallet"] == wallet
    wallets.freeze(organization_id=broke.pk, reason="asked", by=world.BY)
    assert exact(scene.gateway.verify(key=key.secret))["wallet"]["status"] == "frozen"
    # In fallback mode the wallet that would pay is the one to heed.
    members.add(organization=broke, user=scene.ben.user, role="member", by=world.BY)
    wallets.unfreeze(organization_id=broke.pk, reason="asked", by=world.BY)
    wallets.change_terms(organization_id=broke.pk, terms=Terms(mode="fallback"), reason="asked", by=world.BY)
    found = exact(scene.gateway.verify(key=scene.bens.secret, organization="broke"))
    own = personal_slug(scene.ben.user)
    assert found["wallet"] == {"organization": own, "status": "low", "available_usd": None}
    assert exact(scene.gateway.verify(key=key.secret))["wallet"] == wallet


def test_a_malformed_body_is_read_as_strictly_as_any_other(books: Books) -> None:
    gateway = Gateway()
    for path in (AUTHORIZATIONS, VERIFY):
        for raw in ('{"key": "a", "key": "b"}', "[]", "7", '{"key": NaN}'):
            answer = gateway.client.generic(
                "POST", path, raw, content_type="application/json",
                headers={"Authorization": f"Bearer {gateway.issued.secret}"},
            )  # fmt: skip
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] in {"invalid_json", "invalid_type"}
