"""Bodies that say more than they should, or that only a careless reader takes."""

import json
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db import connection, transaction

from billing import holds, payments
from billing.models import Correction, Hold, Payment, TopUp, Transfer, Wallet
from billing.processor.facts import OPEN
from core import clock, ids
from metering.events import INTERNAL, MEDIA_TYPES, NDJSON
from metering.models import UsageRecord
from ops import endpoints, happenings
from ops.models import OutboxMessage, WebhookDelivery, WebhookEndpoint
from orgs.models import ApiKey
from tests.billing import paying
from tests.billing.paying import fake
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.journeys.test_isolation import (
    AUTHORIZATIONS,
    ENDPOINT,
    ENDPOINTS,
    LITELLM,
    NAMES,
    PAY,
    RELEASE,
    VERIFY,
    VOID,
    Route,
    keyed,
)
from tests.orgs import world
from tests.proofs import proves

__all__ = ["fake"]

# What Stripe posts is bytes that it has signed, kept as they came: tests/billing/test_payment_views.py.
SIGNED = "v1/webhooks/stripe"
POSTS = [route for route in keyed() if "POST" in route.methods and route.path != SIGNED]
TOPUPS, CARDS = "v1/topups", "v1/payment_methods"
# Each of these asks Stripe.
ASKING = {TOPUPS, CARDS, PAY}
ROTATION, PING = f"{ENDPOINT}/rotate_secret", f"{ENDPOINT}/test"
REDELIVERY = f"{ENDPOINT}/deliveries/<str:delivery_id>/redeliver"
HOOKS = {ENDPOINTS, ROTATION, PING, REDELIVERY}
# The paths that post() knows.
KNOWN = {
    "v1/keys", "v1/keys/<str:key_id>/rotate", "v1/events", LITELLM, VOID, "v1/estimate", AUTHORIZATIONS, RELEASE,
    VERIFY, *ASKING, *HOOKS,
}  # fmt: skip
# For every field a value of each kind, so that one of them would fit its column.
VALUES: list[Any] = ["x", 7, True, [], ["x"], {"a": "x"}, "0.01", 1_700_000_000, "2020-01-01T00:00:00Z", None]


def columns() -> list[str]:
    """The names of all fields of all tables, and what serializers call them."""
    models = [
        model
        for app in ("orgs", "ops", "metering", "billing", "gateway")
        for model in apps.get_app_config(app).get_models()
    ]
    fields = [field for model in models for field in model._meta.get_fields()]
    names = INTERNAL | {field.name for field in fields} | {getattr(field, "attname", field.name) for field in fields}
    return sorted(names | {"pk", "organization_slug", "is_superuser", "is_staff", "permissions", "role", "owner"})


def undocumented(route: Route) -> list[str]:
    """The columns that a body of this route does not name."""
    return [name for name in columns() if name not in NAMES["POST", route.path]]


def place(house: House, route: Route) -> str:
    """The path, with what the organization owns in it where it has ids."""
    names = NAMES["POST", route.path]
    own = {name: house.shown(kind)[0] for name in route.parameters if (kind := names[name])}
    return route.place(own[route.parameters[0]] if own else "", own=own)


def whoever(house: House, route: Route) -> Caller:
    """Who may post there; not with the key that is acted on."""
    gateways = {"v1/events", LITELLM, VOID, AUTHORIZATIONS, RELEASE, VERIFY}
    return house.gateway if route.path in gateways else house.callers["owner"]


def good(house: House, route: Route, event_id: str) -> dict[str, Any]:
    """What a body of this route must say."""
    if route.path == "v1/events":
        return neighbours.event(event_id, organization=house.slug)
    if route.path == LITELLM:
        return neighbours.payload(event_id)
    if route.path == VOID:
        return {"reason": "the same every time"}
    if route.path == AUTHORIZATIONS:
        return neighbours.authorization(house)
    if route.path == VERIFY:
        return {"key": house.keys["plain"].secret}
    if route.path == TOPUPS:
        return {"amount_usd": 10, "method": "card"}
    if route.path == ENDPOINTS:
        return {"url": "https://hooks.example.com/tollbook", "events": ["wallet.low"]}
    return {"model": "gpt-4o", "input_tokens": 1} if route.path == "v1/estimate" else {"name": "x"}


def without(row: Any, *names: str) -> dict[str, Any]:
    """A row's columns but those that are new in every row."""
    return {name: value for name, value in vars(row).items() if name not in {"_state", *names}}


FRESH_KEY = ("id", "digest", "last_four", "created_at")
FRESH_RECORD = ("id", "event_id", "transfer_id", "recorded_at")
FRESH_TRANSFER = ("id", "seq", "reference", "balance_after_usd", "digest", "created_at")
FRESH_WALLET = ("posted_usd", "spent_usd", "seq", "head")
FRESH_PAYMENT = (
    "id", "subject_id", "request", "session_id", "intent_id", "charge_id", "checkout_url", "called_at", "deadline_at",
    "next_look_at", "created_at", "settled_at",
)  # fmt: skip
FRESH_DELIVERY = ("id", "message_id", "next_attempt_at", "created_at")
FRESH_SESSION = {"id", "url", "created", "expires_at", "setup_intent"}


@proves("A05", guard="bodies_have_their_own_fields")
def test_no_column_is_set_that_a_body_does_not_name(books: Books, fake: StripeFake) -> None:
    ours, theirs = neighbours.house("acme-labs"), neighbours.house("other-inc")
    paying.save_card(fake, ours.organization)
    hostile = [*VALUES, *theirs.shown("key")[:1], str(theirs.organization.pk), theirs.slug, str(theirs.owner.pk)]
    assert {route.path for route in POSTS} == KNOWN, "say in post() what the body of a new path may change"
    for route in POSTS:
        plain = post(fake, ours, route, {})
        everything = dict.fromkeys(undocumented(route))
        assert len(everything) > 50
        for value in hostile[::4] if route.path in ASKING else hostile:
            assert post(fake, ours, route, dict.fromkeys(everything, value)) == plain, (route.path, value)


def post(fake: StripeFake, house: House, route: Route, more: dict[str, Any]) -> list[Any]:
    """What a good body with more in it leaves behind, without what is new every time."""
    caller = whoever(house, route)
    if route.path in ASKING:
        return bought(fake, house, caller, route, more)
    if route.path in HOOKS:
        return hooked(house, caller, route, more)
    wallet = Wallet.objects.get(pk=house.organization.pk)
    if route.path in {"v1/events", LITELLM}:
        at = int(1 + max(each.occurred_at.timestamp() for each in house.records))
        event_id = f"body-{ids.new()}"
        body = neighbours.event(event_id, organization=house.slug, occurred_at=at)
        if route.path == LITELLM:
            body = neighbours.payload(event_id, startTime=at)
        answer = caller.post(place(house, route), {**more, **body})
        assert answer.status_code == 201, answer.content
        record = UsageRecord.objects.get(event_id=event_id)
        assert record.transfer_id is not None
        paid = Transfer.objects.get(pk=record.transfer_id)
        after = Wallet.objects.get(pk=house.organization.pk)
        return [
            without(record, *FRESH_RECORD, "occurred_at"),
            without(paid, *FRESH_TRANSFER),
            without(after, *FRESH_WALLET),
            wallet.posted_usd - after.posted_usd,
            after.seq - wallet.seq,
        ]
    if route.path == VOID:
        return void(house, caller, route, more)
    if route.path in {"v1/estimate", VERIFY}:
        return told(house, caller, route, more)
    if route.path in {AUTHORIZATIONS, RELEASE}:
        return held(house, caller, route, more)
    body = {**more, "name": "the same every time"} if route.path == "v1/keys" else more
    before = set(ApiKey.objects.values_list("pk", flat=True))
    answer = caller.post(place(house, route), body)
    assert answer.status_code in {200, 201}, answer.content
    made = ids.read("key", answer.json()["id"])
    assert (made in before) == (route.path != "v1/keys")
    rows = [without(ApiKey.objects.get(pk=made), *FRESH_KEY), without(wallet)]
    assert set(answer.json()) == {
        "id", "object", "kind", "name", "last_four", "status", "scopes", "models", "cidrs", "project_id", "created_at",
        "expires_at", "secret",
    }  # fmt: skip
    return rows


def void(house: House, caller: Caller, route: Route, more: dict[str, Any]) -> list[Any]:
    """What the void of a fresh event leaves behind, without what is new every time."""
    sent = neighbours.event(f"void-{ids.new()}", organization=house.slug)
    assert caller.post(neighbours.EVENTS, sent).status_code == 201
    before = Wallet.objects.get(pk=house.organization.pk)
    answer = caller.post(route.place(sent["event_id"]), {**more, **good(house, route, "")})
    assert answer.status_code == 201, answer.content
    back = UsageRecord.objects.get(event_id=sent["event_id"], corrects_id__isnull=False)
    assert back.transfer_id is not None
    correction, returned = Correction.objects.get(pk=back.pk), Transfer.objects.get(pk=back.transfer_id)
    after = Wallet.objects.get(pk=house.organization.pk)
    return [
        without(back, *FRESH_RECORD, "occurred_at", "corrects_id"),
        without(correction, "id", "record_id", "transfer_id", "created_at"),
        without(returned, *FRESH_TRANSFER),
        without(after, *FRESH_WALLET),
        after.posted_usd - before.posted_usd,
        after.seq - before.seq,
    ]


def told(house: House, caller: Caller, route: Route, more: dict[str, Any]) -> list[Any]:
    """What an answer says that leaves nothing behind."""
    before = rows()
    answer = caller.post(place(house, route), {**more, **good(house, route, "")})
    assert answer.status_code == 200, answer.content
    assert rows() == before
    return [answer.json()]


def held(house: House, caller: Caller, route: Route, more: dict[str, Any]) -> list[Any]:
    """The hold that was placed, or a fresh one that was released, without what is new every time."""
    path, body = route.place(""), {**more, **neighbours.authorization(house, model="deepseek-chat")}
    if route.path == RELEASE:
        path, body = route.place(neighbours.authorize(house)), more
    answer = caller.post(path, body)
    assert answer.status_code in {200, 201}, answer.content
    made = Hold.objects.get(pk=ids.read("auth", answer.json()["id"]))
    wallet = Wallet.objects.get(pk=house.organization.pk)
    # What was held before is in the wallet too.
    changed = [without(made, "id", "created_at", "expires_at", "settled_at"), without(wallet, "held_usd")]
    with transaction.atomic():
        holds.release(organization_id=house.organization.pk, hold_id=made.pk)
    return [*changed, wallet.held_usd, set(answer.json())]


def bought(fake: StripeFake, house: House, caller: Caller, route: Route, more: dict[str, Any]) -> list[Any]:
    """What was asked of Stripe and what came of it: a top-up, an invoice's payment or a page to save a card on."""
    wallet, before = Wallet.objects.get(pk=house.organization.pk), rows()
    answer = send(house, caller, route, {**more, **good(house, route, "")})
    assert answer.status_code in {200, 201}, answer.content
    if route.path == CARDS:
        assert rows() == before
        with fake.state.lock:
            (page,) = (dict(one) for one in fake.state.all("cs") if one["url"] == answer.json()["checkout_url"])
        return [{name: value for name, value in page.items() if name not in FRESH_SESSION}]
    if route.path == TOPUPS:
        topup = TopUp.objects.get(pk=ids.read("topup", answer.json()["id"]))
        made = Payment.objects.get(subject_id=topup.pk)
        credit = [without(topup, "id", "created_at", "settled_at")]
    else:
        made, credit = Payment.objects.get(pk=ids.read("pay", answer.json()["id"])), []
        assert ids.show("inv", made.subject_id) == house.shown("inv")[0]
    assert made.request is not None
    own = {name: value for name, value in made.request.items() if name != "expires_at"}
    asked = json.dumps(own).replace(str(made.pk), "OURS").replace(ids.show("pay", made.pk), "OURS")
    after = Wallet.objects.get(pk=house.organization.pk)
    end(house)
    return [
        *credit,
        asked,
        without(made, *FRESH_PAYMENT),
        without(after, *FRESH_WALLET),
        after.posted_usd - wallet.posted_usd,
        after.seq - wallet.seq,
        set(answer.json()),
    ]


def hooked(house: House, caller: Caller, route: Route, more: dict[str, Any]) -> list[Any]:
    """What a post about an endpoint leaves of it and of what is on its way there."""
    if route.path == REDELIVERY:
        _, _, _, _, _, shown, _ = place(house, route).split("/")
        WebhookDelivery.objects.filter(pk=ids.read("wd", shown)).update(
            state="failed", attempts=3, status=500, next_attempt_at=None, done_at=clock.now()
        )
    answer = send(house, caller, route, {**more, **(good(house, route, "") if route.path == ENDPOINTS else {})})
    assert answer.status_code in {200, 201}, answer.content
    of = house.organization.pk
    there = WebhookEndpoint.objects.for_org(of).filter(deleted_at=None).order_by("id")
    sent = WebhookDelivery.objects.for_org(of).exclude(state="succeeded").order_by("id")
    left = [
        # Each secret is a fresh one, sealed.
        [without(each, "id", "secret", "old_secret", "old_secret_until", "created_at") for each in there],
        [without(each, *FRESH_DELIVERY) for each in sent],
        [without(each.message, "id", "key", "created_at", "delivered_at") for each in sent.select_related("message")],
        OutboxMessage.objects.exclude(kind=happenings.PING).count(),
        set(answer.json()),
    ]
    end(house)
    return left


def send(house: House, caller: Caller, route: Route, body: dict[str, Any]) -> Any:
    """The answer to a body; under a key of its own where there must be one."""
    headers = {"Idempotency-Key": f"body-{ids.new()}"} if route.path in {TOPUPS, PAY} else {}
    return caller.post(place(house, route), body, headers=headers)


def end(house: House) -> None:
    """Let nothing of a post stay in the way of the next: payments and pings under way, more endpoints than two."""
    of = house.organization.pk
    for row in Payment.objects.filter(organization=of, state__in=OPEN):
        with transaction.atomic():
            assert payments.fail(payments.locked(row.pk), code="expired", message="It was not paid in time.")
    WebhookDelivery.objects.for_org(of).filter(state="pending", message__kind=happenings.PING).update(
        state="succeeded", next_attempt_at=None, done_at=clock.now()
    )
    for each in WebhookEndpoint.objects.for_org(of).filter(deleted_at=None).order_by("id")[2:]:
        endpoints.delete(organization_id=of, endpoint_id=each.pk, by=world.BY)


def hidden(bad: bytes) -> Iterator[bytes]:
    """A literal in fields that nobody reads, at the top and far below."""
    yield b'"unknown": ' + bad
    yield b'"unknown": {"deep": [1, {"er": ' + bad + b"}]}"
    yield b'"metadata": ' + bad


def deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    """A value inside that many others."""
    return opening * depth + b"1" + closing * depth


LITERALS = [
    b"NaN", b"-NaN", b"nan", b"Infinity", b"-Infinity", b"+1", b"01", b"-01", b".5", b"5.", b"1e", b"0x10", b"1_000",
    b"'text'", b"undefined", b"None", b"True", b"1e400", b"-1e400", b"1e-400", b"1e99999999", b"9" * 41,
    b"-" + b"9" * 41, b"9" * 5_000, b"0." + b"1" * 50, b"1." + b"0" * 5_000,
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x41"', b'"a\nb"',
    b'"\x00"', b'"\xff"', b'"\xed\xa0\x80"', b'"unended', b"{", b"[", b"[1,]", b"{,}", b'{"a"}', b'{"a": 1,}',
    b"{1: 2}", b"/* no */ 1", b"1 // no", b"", b"\xef\xbb\xbf1", b"\x0b1", b"\xc2\xa01",
    deep(b"[", b"]", 65), deep(b'{"a":', b"}", 65), deep(b'[{"a":', b"}]", 40), deep(b"[", b"]", 100_000),
    deep(b'{"a":', b"}", 100_000), b"[" * 100_000, b'{"a":' * 100_000,
    b'{"a": 1, "a": 2}', b'{"a": 1, "a": 1}', b'{"a": 1, "\\u0061": 2}', b'[{"b": {"a": 1, "b": 2, "a": 3}}]',
    b'{"": 1, "": 2}', b'{"a" : 1, "a":2}', b'{"a\\/": 1, "a/": 2}',
]  # fmt: skip
WHOLE = [
    b"",
    b" ",
    b"\x00",
    b"{",
    b"}",
    b"{}{}",
    b'{"name": "x"} {"name": "y"}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
]


def rows() -> dict[str, int]:
    """How many rows each table has."""
    with connection.cursor() as cursor:
        counts = {}
        for model in apps.get_models():
            cursor.execute(f'SELECT count(*) FROM "{model._meta.db_table}"')
            counts[model._meta.db_table] = cursor.fetchone()[0]
        return counts


@proves("A11", guard="json_is_read_strictly")
def test_json_that_only_a_careless_reader_takes_is_refused_everywhere(books: Books) -> None:
    house = neighbours.house("acme-labs")
    before = rows()
    refused = 0
    # What a proxy logs holds its customers' texts, and one of them must not spoil a batch that is sent once only.
    for route in [route for route in POSTS if route.path != LITELLM]:
        caller = whoever(house, route)
        media_types = set(MEDIA_TYPES) - {NDJSON} if route.path == "v1/events" else {"application/json"}
        fields = good(house, route, "gw-1")
        taken = json.dumps(fields).encode()
        for literal in LITERALS:
            for member in hidden(literal):
                body = taken[:-1] + b", " + member + b"}"
                for media_type in media_types:
                    answer = caller.call("POST", place(house, route), raw=body, content_type=media_type)
                    assert answer.status_code == 400, (route.path, literal[:40], answer.content[:200])
                    assert answer.json()["error"]["code"] == "invalid_json", literal[:40]
                    refused += 1
        for name in fields:
            twice = taken[:-1] + b", " + json.dumps({name: fields[name]}).encode()[1:]
            answer = caller.call("POST", place(house, route), raw=twice)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json"), twice
        for body in WHOLE:
            if body == b"" and route.path != "v1/events":
                continue
            answer = caller.call("POST", place(house, route), raw=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json"), body
    assert refused > 500
    assert rows() == before


@proves("A11", guard="json_is_read_strictly")
def test_a_line_that_only_a_careless_reader_takes_is_that_lines_own_refusal(books: Books) -> None:
    house = neighbours.house("acme-labs")
    before = rows()
    good = json.dumps(neighbours.event("gw-1", organization=house.slug)).encode()
    bad = [good[:-1] + b", " + member + b"}" for literal in LITERALS for member in hidden(literal)]
    # A line end inside of a literal ends its line; the halves are no better.
    lines = b"\n".join(line.replace(b"\n", b" ") for line in bad if b"a\nb" not in line)
    assert len(lines) < 8 * 1024 * 1024
    count = lines.count(b"\n") + 1
    answer = house.gateway.call("POST", neighbours.EVENTS, raw=lines, content_type=NDJSON)
    assert answer.status_code == 200, answer.content
    told = answer.json()
    assert (told["rejected"], told["created"], told["quarantined"]) == (count, 0, 0)
    assert {each["error"]["code"] for each in told["data"]} == {"invalid_json"}
    assert rows() == before


def test_what_is_odd_but_json_is_taken(books: Books, fake: StripeFake) -> None:
    house = neighbours.house("acme-labs")
    paying.save_card(fake, house.organization)
    odd = [
        deep(b"[", b"]", 60), b"1e300", b"-1.5E-300", b"9" * 40, b'"\\ud83d\\ude00"', b'"\\u0000"',
        b'"\xf0\x9f\x98\x80"', b'{"a": 1, "A": 2}', b'[{"a": 1}, {"a": 1}]', b' \t\r\n [ ] ', b'""', b"-0", b"0e0",
    ]  # fmt: skip
    for route in POSTS:
        for number, literal in enumerate(odd):
            body = json.dumps(good(house, route, f"odd-{number}")).encode()[:-1] + b', "unknown": ' + literal + b"}"
            headers = {"Idempotency-Key": f"odd-{ids.new()}"} if route.path in {TOPUPS, PAY} else {}
            answer = whoever(house, route).call("POST", place(house, route), raw=body, headers=headers)
            assert answer.status_code in {200, 201}, (route.path, literal, answer.content)
            end(house)
