"""The API against its own OpenAPI document: generated requests, right and wrong, by every kind of key.

The document is the one that clients get. Ids in paths, cursors and filters are real ones half of the
time, bodies of events name a real model and organization, so every operation also succeeds.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from django.http import HttpResponse
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi

from core import ids
from core.wsgi import application
from metering.events import MEDIA_TYPES, NDJSON
from tests.billing import paying
from tests.billing.paying import fake
from tests.books import Books
from tests.fakes.stripe import StripeFake
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.journeys.test_isolation import NAMES, keyed
from tests.orgs import world

__all__ = ["fake"]

POSITIVE, NEGATIVE = 25, 12
# Where whatever the document does not allow is refused. Not in a batch, where each event has its verdict, and
# not among filters on metadata, whose values are always text.
REFUSING = {"GET /v1/keys", "POST /v1/keys", "GET /v1/wallet/transactions"}
# For what a key does not open, and for what has no parameters.
FEW = 4
SPARE_KEYS = 40
SPARE_CARDS = 30
HEADER = "X-DeepToken-Org"
# Three times of four.
MOSTLY = st.sampled_from((True, True, True, False))
CHECKS = [
    checks.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
]
# What the parameters of each operation name.
DOCUMENTED = {
    f"{method} {route.documented}": NAMES[method, route.path] for route in keyed() for method in route.methods
}
EVENTS = "POST /v1/events"
PAYLOADS = "POST /v1/events/litellm"
VOIDS = "POST /v1/events/{event_id}/void"
ESTIMATES = "POST /v1/estimate"
AUTHORIZATIONS = "POST /v1/authorizations"
AUTHORIZATION = "GET /v1/authorizations/{authorization_id}"
RELEASES = "POST /v1/authorizations/{authorization_id}/release"
VERIFICATIONS = "POST /v1/keys/verify"
GATEWAYS = {EVENTS, PAYLOADS, VOIDS, AUTHORIZATIONS, AUTHORIZATION, RELEASES, VERIFICATIONS}
ENDPOINTS = "POST /v1/webhook_endpoints"
CHANGES = "PATCH /v1/webhook_endpoints/{endpoint_id}"
TOPUPS = "POST /v1/topups"
PAYMENTS = "POST /v1/invoices/{invoice_id}/pay"
CARDS = "POST /v1/payment_methods"
RECHARGE = "PUT /v1/wallet/recharge"
WEBHOOK = "POST /v1/webhooks/stripe"
OPEN = {"GET /healthz", "GET /readyz", WEBHOOK}
ACCEPTED = ("application/json", "*/*", "application/problem+json")


class Fuzz:
    """Generated requests of one caller, and how they were answered."""

    def __init__(self, house: House, caller: Caller) -> None:
        self.house, self.caller = house, caller
        self.succeeded: set[str | None] = set()
        self.answers: dict[str, Counter[int]] = {}
        of = house.organization if caller.organization or caller.name != "alone" else world.personal(house.owner)
        # Deletions and rotations hit these, not the keys that callers use.
        spare = [ids.show("key", world.organization_key(of, name="spare").key.pk) for _ in range(SPARE_KEYS)]
        # So do changes and deletions of endpoints, of which there are ten at most.
        changed, *deleted = (neighbours.listen(house, number=number) for number in range(2, 6))
        self.instead = {
            "DELETE": {"key": spare[: len(spare) // 2], "we": deleted},
            "PATCH": {"we": [changed]},
        }
        self.real = {
            "key": spare[len(spare) // 2 :],
            "usage": house.shown("usage"),
            "event": house.shown("event"),
            "tr": house.shown("tr"),
            "org": [house.slug],
            "auth": house.shown("auth"),
            "proj": house.shown("proj"),
            "user": house.shown("user"),
            # The last one is a draft.
            "inv": house.shown("inv")[:-1],
            "we": house.shown("we")[:2],
            "wd": house.shown("wd"),
            "topup": house.shown("topup"),
            "card": house.shown("card"),
        }

    def operations(self) -> list[Any]:
        """Every operation of the document that clients get, each without a credential of its own."""
        schema = schemathesis.openapi.from_wsgi("/v1/openapi.json", application)
        schema.config.generation.update(with_security_parameters=False)
        results: Any = schema.get_all_operations()
        # Model calls are the data plane's, which this does not ask (tests/gateway/test_surfaces.py).
        return [one for result in results if "calls" not in (one := result.ok()).definition.raw["tags"]]

    def run(self, operation: Any, mode: GenerationMode, examples: int, **fixed: Any) -> None:
        """Generate, send, check; raises what schemathesis found. An operation may have nothing to get wrong."""
        answers = self.answers.setdefault(operation.label, Counter())
        offered = operation.definition.raw["responses"][
            "200" if "200" in operation.definition.raw["responses"] else "201"
        ]
        accepted = sorted({*ACCEPTED, *offered["content"]})

        refusing = mode is GenerationMode.NEGATIVE and operation.label in REFUSING
        wanted = [*CHECKS, openapi.negative_data_rejection] if refusing else CHECKS

        @given(data=st.data())
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def each(data: Any) -> None:
            case = data.draw(operation.as_strategy(generation_mode=mode, **fixed))
            headers = {**self.caller.headers, "Accept": data.draw(st.sampled_from(accepted))}
            if mode is GenerationMode.POSITIVE:
                self._seed(case, data)
            answer = case.call(headers=headers)
            answers[answer.status_code] += 1
            if answer.status_code < 300:
                self.succeeded.add(case.media_type)
            case.validate_response(answer, checks=wanted, headers=headers)

        with contextlib.suppress(Unsatisfiable):
            each()

    def _seed(self, case: Any, data: Any) -> None:
        """Real ids in place of generated ones, most of the time."""
        real = {**self.real, **self.instead.get(case.method, {})}
        for name, kind in DOCUMENTED[case.operation.label].items():
            for place in (case.path_parameters, case.query, case.headers):
                if kind in real and name in (place or {}) and data.draw(MOSTLY):
                    place[name] = data.draw(st.sampled_from(real[kind]))
        if "model" in (case.path_parameters or {}) and data.draw(MOSTLY):
            case.path_parameters["model"] = "deepseek-chat"
        if case.operation.label == VOIDS and data.draw(MOSTLY):
            case.body = {"reason": "generated", "organization": self.house.slug}
        if case.operation.label == PAYLOADS and data.draw(MOSTLY):
            case.body = [neighbours.payload(f"fuzz-{ids.new()}")]
        if case.operation.label == ESTIMATES and data.draw(MOSTLY):
            case.body = {"model": "deepseek-chat", "input_tokens": 1000, "max_output_tokens": 200}
        if case.operation.label in {AUTHORIZATION, RELEASES} and data.draw(MOSTLY):
            case.headers[HEADER] = self.house.slug
        if case.operation.label == AUTHORIZATIONS and data.draw(MOSTLY):
            case.body = neighbours.authorization(self.house)
        if case.operation.label == ENDPOINTS and data.draw(MOSTLY):
            case.body = {"url": "https://hooks.example.com/in", "events": ["wallet.low"]}
        if case.operation.label == CHANGES and data.draw(MOSTLY):
            case.body = {"events": [], "enabled": True}
        if case.operation.label == VERIFICATIONS and data.draw(MOSTLY):
            case.body = {"key": self.house.keys["organization"].secret}
        if case.operation.label == TOPUPS and data.draw(MOSTLY):
            case.body = {"amount_usd": 10}
            case.headers["Idempotency-Key"] = f"fuzz-{ids.new()}"
        if case.operation.label == PAYMENTS and data.draw(MOSTLY):
            case.body = {}
            case.headers["Idempotency-Key"] = f"fuzz-{ids.new()}"
        if case.operation.label == CARDS and data.draw(MOSTLY):
            case.body = {"success_url": "https://shop.example/"}
        if case.operation.label == RECHARGE and data.draw(MOSTLY):
            case.body = {"threshold_usd": 5, "amount_usd": 20, "monthly_cap_usd": 100}
        for event, envelope in events(case.body):
            if data.draw(MOSTLY):
                for name in ("time", "subject"):
                    envelope.pop(name, None)
                event.update(neighbours.event(f"fuzz-{ids.new()}", organization=self.house.slug, api_key_id=None))


def can_be_wrong(operation: Any) -> bool:
    """Whether a request can contradict the document at all: ids in a path are any text."""
    raw = operation.definition.raw
    return "requestBody" in raw or any(each["in"] == "query" for each in raw.get("parameters", ()))


def events(body: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The events of a generated body, in whatever shape it has them, each with what it is wrapped in."""
    if isinstance(body, list):
        for inner in body:
            yield from events(inner)
    elif isinstance(body, dict) and isinstance(body.get("data"), dict):
        yield body["data"], body
    elif isinstance(body, dict) and isinstance(body.get("events"), list):
        yield from events(body["events"])
    elif isinstance(body, dict) and "event_id" in body:
        yield body, {}


@schemathesis.serializer(NDJSON)
def _lines(context: Any, value: Any) -> Any:
    """How schemathesis sends lines: as they are."""
    return (value if isinstance(value, str) else json.dumps(value)).encode()


@pytest.mark.parametrize("kind", ["organization", "owner", "service"])
def test_generated_requests_are_answered_as_the_document_says(books: Books, fake: StripeFake, kind: str) -> None:
    house = neighbours.house("acme-labs")
    paying.save_card(fake, house.organization, count=SPARE_CARDS)
    caller = house.gateway if kind == "service" else house.callers[kind]
    fuzz = Fuzz(house, caller)
    operations = fuzz.operations()
    assert {operation.label for operation in operations} == set(DOCUMENTED)
    opened = OPEN | GATEWAYS | {ESTIMATES} if kind == "service" else set(DOCUMENTED) - GATEWAYS
    for operation in operations:
        plain = operation.label not in opened or set(DOCUMENTED[operation.label]) <= {HEADER}
        fuzz.run(operation, GenerationMode.POSITIVE, FEW if plain else POSITIVE)
        if not plain and can_be_wrong(operation):
            fuzz.run(operation, GenerationMode.NEGATIVE, NEGATIVE)
    # No signature can be generated.
    fuzz.answers[WEBHOOK][paying.post(fake, fake.webhooks.events()[0])] += 1
    succeeded = {label for label, answers in fuzz.answers.items() if any(200 <= status < 300 for status in answers)}
    assert succeeded == opened
    refused = {status for label in set(DOCUMENTED) - opened for status in fuzz.answers[label]}
    assert refused == {403}


def test_an_event_in_every_media_type_is_answered_as_the_document_says(books: Books) -> None:
    house = neighbours.house("acme-labs")
    fuzz = Fuzz(house, house.gateway)
    (operation,) = (each for each in fuzz.operations() if each.label == EVENTS)
    for media_type in operation.get_request_payload_content_types():
        # What is generated need not be an event that can be taken; some more tries find one.
        for examples in (20, 60, 200):
            if media_type not in fuzz.succeeded:
                fuzz.run(operation, GenerationMode.POSITIVE, examples, media_type=media_type)
    assert fuzz.succeeded == set(MEDIA_TYPES)


LIES: dict[str, tuple[str, Callable[..., Any]]] = {
    "a field is missing": ("billing.views.show_wallet", lambda *_: {"object": "wallet"}),
    "the view crashes": ("billing.views.show_wallet", lambda *_: 1 // 0),
    "the status is another": ("core.http.Envelope._own_shape", lambda *_: HttpResponse(b"{}", "application/json", 418)),
    "the media type is another": ("core.http.Envelope._own_shape", lambda *_: HttpResponse(b"{}", "text/plain", 200)),
    "the headers are missing": ("core.http.Envelope.__call__", lambda self, request: self.get_response(request)),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_the_document_does_not_describe_is_found(
    books: Books, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    house = neighbours.house("acme-labs")
    fuzz = Fuzz(house, house.callers["owner"])
    (operation,) = (each for each in fuzz.operations() if each.label == "GET /v1/wallet")
    monkeypatch.setattr(*LIES[lie])
    with pytest.raises(FailureGroup):
        fuzz.run(operation, GenerationMode.POSITIVE, 5)
