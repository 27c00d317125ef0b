"""What is a neighbour's answers like what does not exist: every route, method and parameter there is.

The matrix is made from the URL configuration and the OpenAPI document. A route, method or parameter
that ``NAMES`` does not know fails, so a new one cannot be added without saying what it names.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from billing.models import Hold, Invoice, Transfer, Wallet
from core import ids, views
from metering.models import Quarantine, UsageClaim, UsageRecord
from ops.models import WebhookDelivery, WebhookEndpoint
from orgs import keys
from orgs.models import ApiKey, AuditEntry, Project
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.proofs import proves

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
HEADER = "X-DeepToken-Org"

LITELLM = "v1/events/litellm"
VOID = "v1/events/<path:event_id>/void"
AUTHORIZATIONS = "v1/authorizations"
AUTHORIZATION = "v1/authorizations/<str:authorization_id>"
RELEASE = "v1/authorizations/<str:authorization_id>/release"
VERIFY = "v1/keys/verify"
INVOICE = "v1/invoices/<str:invoice_id>"
PAY = "v1/invoices/<str:invoice_id>/pay"
SUMS = "v1/organization/usage/completions"
COSTS = "v1/organization/costs"
ENDPOINTS = "v1/webhook_endpoints"
ENDPOINT = f"{ENDPOINTS}/<str:endpoint_id>"

# What a parameter names: somebody's object of that kind, or (None) nothing that belongs to anybody.
Names = Mapping[str, str | None]
_PAGE: Names = {"limit": None}
_NEW_KEY: Names = {**dict.fromkeys(("name", "scopes", "models", "cidrs", "expires_at")), "project": "proj"}
_EVENT: Names = {
    "event_id": "event",
    "organization": "org",
    "api_key_id": "key",
    "authorization_id": "auth",
    **dict.fromkeys(
        (
            "model", "occurred_at", "end_user", "source", "routed_model", "provider", "channel", "attempts", "endpoint",
            "stream", "status", "finish_reason", "outcome", "ttft_ms", "latency_ms", "request_id", "input_tokens",
            "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens",
            "image_input_tokens", "audio_input_tokens", "image_output_tokens", "audio_output_tokens",
            "cached_image_tokens", "cached_audio_tokens", "units", "service_tier", "batch", "provider_cost_usd",
            "metadata", "messages", "input_text", "output_text",
            # CloudEvents: (source, id) make the event id, the subject is the organization.
            "id", "time", "subject", "specversion", "type", "datacontenttype",
        )
    ),
}  # fmt: skip
_PAYLOAD: Names = {
    "litellm_call_id": "event",
    **dict.fromkeys(
        (
            "model", "model_group", "model_id", "custom_llm_provider", "call_type", "trace_id", "status", "end_user",
            "startTime", "endTime", "completionStartTime", "stream", "cache_hit", "prompt_tokens", "completion_tokens",
            "response_cost", "metadata", "hidden_params", "error_information", "response",
        )
    ),
}  # fmt: skip
_ESTIMATE: Names = dict.fromkeys(
    (
        "model", "input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens",
        "image_input_tokens", "audio_input_tokens", "cached_image_tokens", "cached_audio_tokens", "output_tokens",
        "max_output_tokens", "reasoning_tokens", "image_output_tokens", "audio_output_tokens", "units", "service_tier",
        "batch", "messages", "tools", "input_text", "output_text",
    )
)  # fmt: skip
_AUTHORIZATION: Names = {
    "api_key_id": "key",
    "organization": "org",
    **dict.fromkeys(
        (
            # Only whoever has a key's secret can name it.
            "key", "model", "service_tier", "batch", "input_tokens", "image_input_tokens", "audio_input_tokens",
            "max_output_tokens", "image_output_tokens", "audio_output_tokens", "n", "units", "messages", "tools",
            "input_text", "client_ip", "ttl_seconds", "Idempotency-Key",
        )
    ),
}  # fmt: skip
_SUMMED: Names = {
    **dict.fromkeys(("start_time", "end_time", "bucket_width", "limit", "page", "time_zone", "group_by")),
    "project_ids": "proj",
    "api_key_ids": "key",
}
# What these do not answer without.
NEEDED: dict[str, Mapping[str, str]] = {
    path: {"start_time": str(int(time.time()) - 86_400), "group_by": "api_key_id"} for path in (SUMS, COSTS)
}
NAMES: dict[tuple[str, str], Names] = {
    ("GET", "healthz"): {},
    ("GET", "readyz"): {},
    ("GET", "models"): {HEADER: "org"},
    ("GET", "user/balance"): {HEADER: "org"},
    ("GET", "v1/credits"): {HEADER: "org"},
    ("GET", "v1/key"): {HEADER: "org"},
    ("GET", "v1/keys"): {HEADER: "org", **_PAGE, "after": "key"},
    ("POST", "v1/keys"): {HEADER: "org", **_NEW_KEY},
    ("DELETE", "v1/keys/<str:key_id>"): {HEADER: "org", "key_id": "key"},
    ("POST", "v1/keys/<str:key_id>/rotate"): {HEADER: "org", "key_id": "key"},
    ("GET", "v1/models"): {HEADER: "org"},
    ("GET", "v1/models/catalog"): {HEADER: "org", "provider": None, "search": None},
    ("GET", "v1/models/<path:model>"): {HEADER: "org", "model": None},
    ("GET", "v1/usage"): {
        HEADER: "org", **_PAGE, "after": "usage", "model": None, "source": None, "api_key_id": "key",
        "start_time": None, "end_time": None, "order": None, "metadata": None,
    },
    ("GET", "v1/usage/<str:record_id>"): {HEADER: "org", "record_id": "usage"},
    ("GET", "v1/usage/<str:record_id>/explain"): {HEADER: "org", "record_id": "usage"},
    ("GET", SUMS): {HEADER: "org", **_SUMMED, "user_ids": "user", "models": None, "batch": None},
    ("GET", COSTS): {HEADER: "org", **_SUMMED},
    ("GET", "v1/invoices"): {
        HEADER: "org", **_PAGE, "after": "inv", "kind": None, "status": None, "start_time": None, "end_time": None,
    },
    ("GET", INVOICE): {HEADER: "org", "invoice_id": "inv"},
    ("GET", f"{INVOICE}/pdf"): {HEADER: "org", "invoice_id": "inv"},
    ("POST", PAY): {
        HEADER: "org", "invoice_id": "inv", "method": None, "payment_method_id": "card", "success_url": None,
        "cancel_url": None, "Idempotency-Key": None,
    },
    ("POST", "v1/estimate"): {HEADER: "org", **_ESTIMATE},
    ("GET", "v1/wallet"): {HEADER: "org"},
    ("GET", "v1/wallet/transactions"): {HEADER: "org", **_PAGE, "after": "tr"},
    ("POST", "v1/events"): {HEADER: "org", **_EVENT},
    ("POST", LITELLM): {HEADER: "org", **_PAYLOAD},
    ("POST", VOID): {HEADER: "org", "event_id": "event", "organization": "org", "reason": None},
    ("POST", AUTHORIZATIONS): {HEADER: "org", **_AUTHORIZATION},
    ("GET", AUTHORIZATION): {HEADER: "org", "authorization_id": "auth"},
    ("POST", RELEASE): {HEADER: "org", "authorization_id": "auth", "Idempotency-Key": None},
    ("GET", ENDPOINTS): {HEADER: "org"},
    ("POST", ENDPOINTS): {HEADER: "org", "url": None, "events": None},
    ("GET", ENDPOINT): {HEADER: "org", "endpoint_id": "we"},
    ("PATCH", ENDPOINT): {HEADER: "org", "endpoint_id": "we", "url": None, "events": None, "enabled": None},
    ("DELETE", ENDPOINT): {HEADER: "org", "endpoint_id": "we"},
    ("POST", f"{ENDPOINT}/rotate_secret"): {HEADER: "org", "endpoint_id": "we"},
    ("POST", f"{ENDPOINT}/test"): {HEADER: "org", "endpoint_id": "we"},
    ("GET", f"{ENDPOINT}/deliveries"): {HEADER: "org", "endpoint_id": "we", **_PAGE, "after": "wd"},
    ("POST", f"{ENDPOINT}/deliveries/<str:delivery_id>/redeliver"): {
        HEADER: "org", "endpoint_id": "we", "delivery_id": "wd",
    },
    ("POST", "v1/topups"): {
        HEADER: "org", "amount_usd": None, "method": None, "payment_method_id": "card", "success_url": None,
        "cancel_url": None, "Idempotency-Key": None,
    },
    ("GET", "v1/topups/<str:topup_id>"): {HEADER: "org", "topup_id": "topup"},
    ("GET", "v1/wallet/recharge"): {HEADER: "org"},
    ("PUT", "v1/wallet/recharge"): {
        HEADER: "org", **dict.fromkeys(("threshold_usd", "amount_usd", "monthly_cap_usd", "enabled")),
    },
    ("GET", "v1/payment_methods"): {HEADER: "org"},
    ("POST", "v1/payment_methods"): {HEADER: "org", "success_url": None, "cancel_url": None},
    ("DELETE", "v1/payment_methods/<str:payment_method_id>"): {HEADER: "org", "payment_method_id": "card"},
    ("POST", "v1/webhooks/stripe"): {"Stripe-Signature": None},
    ("POST", VERIFY): {HEADER: "org", "key": None, "organization": "org", "model": None, "client_ip": None},
}  # fmt: skip
# The admin and the metrics have rights and tests of their own, the document and its page show nobody's data, and a
# payment's page no more than how it went.
NOT_KEYED = {"v1/openapi.json", "docs", "metrics", "billing/cards", "billing/payments/<str:payment_id>", "^.*$"}


class Route(NamedTuple):
    """A path of the URL configuration and what its view takes."""

    path: str
    methods: tuple[str, ...]
    parameters: tuple[str, ...]

    def place(self, text: str, parameter: str = "", own: Mapping[str, str] = MappingProxyType({})) -> str:
        """The path with a parameter (the first, if none is named) filled in, and the others with what is ``own``."""
        named = parameter or "".join(self.parameters[:1])

        def fill(match: re.Match[str]) -> str:
            return quote(text if match[1] == named else own.get(match[1], "none"), safe="")

        return "/" + re.sub(r"<(?:\w+:)?(\w+)>", fill, self.path)

    @property
    def documented(self) -> str:
        """Its path in the OpenAPI document."""
        return "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.path)


def routes() -> list[Route]:
    """Every path outside of the admin and of the portal, where people are signed in (tests/portal/test_desk.py)."""
    return sorted(set(_walk(get_resolver().url_patterns, "")))


def _walk(patterns: Sequence[URLPattern | URLResolver], prefix: str) -> Iterator[Route]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if pattern.namespace not in {"admin", "portal"}:
                yield from _walk(pattern.url_patterns, path)
            continue
        view = getattr(pattern.callback, "cls", None)
        assert view is not None or path in NOT_KEYED, f"{path} is served by something that is no view of DRF"
        taken = () if view is None else tuple(method for method in METHODS if hasattr(view, method.lower()))
        yield Route(path, taken, tuple(pattern.pattern.converters))


def keyed() -> list[Route]:
    """The paths that show or take what belongs to somebody, and those that are open to all."""
    return [route for route in routes() if route.path not in NOT_KEYED]


def documented(document: Any, route: Route, method: str) -> set[str]:
    """The parameters and body fields that the OpenAPI document gives an operation."""
    operation = document["paths"][route.documented][method.lower()]
    found = {each["name"] for each in operation.get("parameters", ())}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        found |= _fields(document, content.get("schema", {}))
    return found


def _fields(document: Any, schema: Any) -> set[str]:
    """Names of the fields of a body, of whatever shape: alternatives, arrays and the wrapper of a batch."""
    if "$ref" in schema:
        return _fields(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    found: set[str] = set()
    for part in (*schema.get("oneOf", ()), *schema.get("anyOf", ()), *schema.get("allOf", ())):
        found |= _fields(document, part)
    if "items" in schema:
        found |= _fields(document, schema["items"])
    for name, inner in schema.get("properties", {}).items():
        wraps = name in {"events", "data"} and ("items" in inner or "properties" in inner or "$ref" in inner)
        # A list of plain texts wraps nothing, whatever it is called.
        found |= (wraps and _fields(document, inner)) or {name}
    return found


@pytest.fixture
def document(db: None) -> Any:
    """The OpenAPI document, as clients get it."""
    return Caller("anybody", "").client.get("/v1/openapi.json").json()


def test_the_table_knows_every_route_and_method() -> None:
    assert {(method, route.path) for route in keyed() for method in route.methods} == set(NAMES)
    assert {route.path for route in routes()} >= NOT_KEYED


def test_the_table_knows_every_parameter_and_field(document: Any) -> None:
    for route in keyed():
        for method in route.methods:
            generated = {*route.parameters, *documented(document, route, method)}
            assert generated == set(NAMES[method, route.path]), (method, route.path)


class Probe(NamedTuple):
    """A caller's request with a place for what it names."""

    caller: Caller
    method: str
    route: Route
    parameter: str
    own: Mapping[str, str] = MappingProxyType({})

    def ask(self, text: str) -> Any:
        """The answer when the parameter says ``text``."""
        in_path = self.parameter in self.route.parameters
        path = self.route.place(text, self.parameter, self.own) if in_path else self.route.place("none")
        if self.parameter == HEADER:
            return self.caller.call(self.method, path, query=self._query(), body=self._body(), headers={HEADER: text})
        if in_path:
            return self.caller.call(self.method, path, body=self._body())
        if self.method == "GET":
            return self.caller.call(self.method, path, query={**self._query(), self.parameter: text})
        return self.caller.call(self.method, path, body={**self._body(), self.parameter: text})

    def _query(self) -> Mapping[str, str]:
        return NEEDED.get(self.route.path, {})

    def _body(self) -> Any:
        if self.method != "POST":
            return None
        if self.route.path == "v1/events":
            return neighbours.event(f"fresh-{ids.new()}", end_user=None)
        if self.route.path == LITELLM:
            return neighbours.payload(f"fresh-{ids.new()}")
        if self.route.path == VOID:
            return {"reason": "a probe"}
        if self.route.path in {"v1/estimate", AUTHORIZATIONS}:
            return {"model": "gpt-4o", "input_tokens": 1, "api_key_id": made_up("key")}
        if self.route.path == VERIFY:
            return {"key": keys.new_secret()}
        if self.route.path == ENDPOINTS:
            return {"url": "https://hooks.probe.example/"}
        return {"name": "made by a probe"}

    def told(self, text: str, markers: Sequence[str]) -> tuple[Any, ...]:
        """What the answer says, without what the probe itself said; fails if it shows anything of a neighbour's."""
        answer = self.ask(text)
        body = answer.getvalue().decode()
        headers = {
            name.lower(): value
            for name, value in answer.headers.items()
            if name.lower() not in {"x-request-id", "deepailab-processing-ms", "content-length"}
        }
        said = (body + json.dumps(headers)).replace(text, "…") if text else body + json.dumps(headers)
        seen = [marker for marker in markers if marker in said]
        assert not seen, f"{self.where} shows {seen} of a neighbour's"
        assert answer.status_code < 500, (self.where, body)
        # What is new in every answer to an event that was taken.
        said = re.sub(r"fresh-[0-9a-f-]{36}|usage_[0-9A-Z]{26}|(?<=\"balance_usd\":)[0-9.]+", "…", said)
        return answer.status_code, said

    @property
    def where(self) -> str:
        """For a message."""
        return f"{self.method} {self.route.path} by {self.caller.name} with {self.parameter}"


MADE_UP = {"org": "no-such-organization", "event": "gw1-never-seen"}


def made_up(kind: str) -> str:
    """The id of nothing."""
    return MADE_UP.get(kind) or ids.show(kind, ids.new())


def foreign(kind: str, caller: Caller, ours: House, theirs: House) -> list[str]:
    """Ids of a kind that exist and are not this caller's to see."""
    if kind == "org":
        return [theirs.slug]
    if kind == "event":
        return theirs.shown("event")[:1]
    found = theirs.shown(kind)
    if caller.name == "alone":
        # In the personal organization the shared one is as foreign as any other.
        found += [each for each in ours.shown(kind) if each != ids.show("key", ours.keys["owner"].key.pk)]
    if kind != "key":
        # Of what is alike the first and the last.
        found = [found[0], found[-1]]
    if caller.name == "plain" and kind == "usage":
        found += [ids.show("usage", each.pk) for each in ours.records if each.member_id != ours.plain.pk]
    return found


def hidden_from(caller: Caller, ours: House, theirs: House) -> list[str]:
    """What no answer may show this caller. An own-only member sees the whole statement, but not who caused it."""
    own = ours.shown("tr") if caller.name == "plain" else []
    found = [
        text
        for kind in ("usage", "key", "tr", "auth", "proj", "inv", "we", "wd", "topup", "card")
        for text in foreign(kind, caller, ours, theirs)
    ]
    return [text for text in found if text not in own]


def state_of(house: House) -> list[Any]:
    """Everything that belongs to an organization, in one comparable piece."""
    own = {"organization_id": house.organization.pk}
    own_keys = ApiKey.objects.filter(pk__in=[issued.key.pk for issued in house.keys.values()])
    return [
        sorted(map(str, model_rows))
        for model_rows in (
            own_keys.values_list(),
            UsageRecord.objects.filter(**own).values_list(),
            UsageClaim.objects.filter(**own).values_list(),
            Transfer.objects.filter(**own).values_list(),
            Wallet.objects.filter(**own).values_list(),
            Hold.objects.filter(**own).values_list(),
            Invoice.objects.filter(**own).values_list(),
            Project.objects.filter(**own).values_list(),
            Quarantine.objects.filter(**own).values_list(),
            AuditEntry.objects.filter(**own).values_list(),
            WebhookEndpoint.objects.filter(**own).values_list(),
            WebhookDelivery.objects.filter(**own).values_list(),
        )
    ]


@proves("A01", guard="usage_is_read_within_the_organization")
@proves("A01", guard="members_without_the_right_read_their_own_usage")
@proves("A01", guard="the_statement_is_read_within_the_organization")
@proves("A01", guard="keys_are_read_within_the_organization")
@proves("A01", guard="service_keys_have_limits")
@proves("A01", guard="limited_gateways_report_for_their_own")
@proves("A01", guard="authorizations_are_read_within_the_organization")
@proves("A01", guard="limited_gateways_authorize_for_their_own")
@proves("A01", guard="documents_are_read_within_the_organization")
@proves("A01", guard="endpoints_are_read_within_the_organization")
@proves("A01", guard="deliveries_are_read_within_their_endpoint")
def test_a_neighbours_object_answers_like_a_made_up_one_everywhere(books: Books) -> None:
    ours, theirs = neighbours.house("acme-labs"), neighbours.house("other-inc")
    before, shared = state_of(theirs), theirs.markers
    probed = 0
    for caller in (*ours.callers.values(), ours.gateway):
        markers = [*shared, *hidden_from(caller, ours, theirs)]
        for route in keyed():
            for method in route.methods:
                for parameter, kind in NAMES[method, route.path].items():
                    if kind is None:
                        continue
                    own = {
                        name: ours.shown(other)[0]
                        for name, other in NAMES[method, route.path].items()
                        if name in route.parameters and name != parameter and other is not None
                    }
                    probe = Probe(caller, method, route, parameter, own)
                    expected = probe.told(made_up(kind), markers)
                    for text in foreign(kind, caller, ours, theirs):
                        assert probe.told(text, markers) == expected, f"{probe.where} = {text}"
                        probed += 1
    assert state_of(theirs) == before
    assert probed > 150


@proves("A01", guard="usage_is_read_within_the_organization")
@proves("A01", guard="the_statement_is_read_within_the_organization")
@proves("A01", guard="keys_are_read_within_the_organization")
def test_what_a_list_shows_is_the_callers_own(books: Books) -> None:
    ours, theirs = neighbours.house("acme-labs"), neighbours.house("other-inc")
    open_to_all = {route.path for route in keyed() if HEADER not in NAMES[route.methods[0], route.path]}
    assert open_to_all == {"healthz", "readyz", "v1/webhooks/stripe"}
    for caller in ours.callers.values():
        for route in keyed():
            if "GET" not in route.methods or route.parameters:
                continue
            for accept in ("application/json", "text/csv"):
                needed = NEEDED.get(route.path) or {"limit": "100"}
                answer = caller.get(route.place(""), accept=accept, **needed)
                body = answer.getvalue().decode()
                assert not [marker for marker in theirs.markers if marker in body], (caller.name, route.path, accept)
    owner = ours.callers["owner"]
    assert {each["id"] for each in owner.get("/v1/usage").json()["data"]} == set(ours.shown("usage"))
    assert {each["id"] for each in owner.get("/v1/wallet/transactions").json()["data"]} == set(ours.shown("tr"))
    plain = {each["id"] for each in ours.callers["plain"].get("/v1/usage").json()["data"]}
    assert plain == {ids.show("usage", each.pk) for each in ours.records if each.member_id == ours.plain.pk}
    assert plain
    assert plain < set(ours.shown("usage"))


def test_a_method_that_a_path_does_not_take_says_nothing_of_what_exists(books: Books) -> None:
    ours, theirs = neighbours.house("acme-labs"), neighbours.house("other-inc")
    for route in keyed():
        if not route.parameters:
            continue
        for method in ("HEAD", "OPTIONS", *METHODS):
            if method in route.methods:
                continue
            for caller in ours.callers.values():
                kind = NAMES[route.methods[0], route.path][route.parameters[0]]
                if kind is None:
                    continue
                made = caller.call(method, route.place(made_up(kind)))
                for text in theirs.shown(kind):
                    real = caller.call(method, route.place(text))
                    assert (real.status_code, real.content) == (made.status_code, made.content), (method, route.path)


def test_the_walk_sees_a_route_that_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.urls import path

    added = path("v1/secrets/<str:secret_id>", views.Alive.as_view())
    monkeypatch.setattr(get_resolver(), "url_patterns", [added, *get_resolver().url_patterns])
    assert Route("v1/secrets/<str:secret_id>", ("GET",), ("secret_id",)) in keyed()
    with pytest.raises(AssertionError):
        test_the_table_knows_every_route_and_method()
