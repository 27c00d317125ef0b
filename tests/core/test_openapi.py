"""What the document says of every operation."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from drf_spectacular.validation import validate_schema

from core import views
from core.openapi import tidy

# Its credential is the signature.
WEBHOOK = "/v1/webhooks/stripe"
OPEN = {"/healthz", "/readyz", WEBHOOK}
# What moves money and has no id of its own.
ONCE = {
    "/v1/topups",
    "/v1/invoices/{invoice_id}/pay",
    "/v1/authorizations",
    "/v1/authorizations/{authorization_id}/release",
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/responses",
}
ALWAYS = {"x-request-id", "deepailab-processing-ms", "deepailab-version"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation object of each."""
    for path, methods in views.document()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


EVERY = [pytest.param(*each, id=f"{each[1]} {each[0]}") for each in operations()]


def test_the_document_is_valid() -> None:
    validate_schema(views.document())  # type: ignore[no-untyped-call]
    assert len({operation["operationId"] for _, _, operation in operations()}) == len(EVERY)


def told(part: Any) -> Iterator[str]:
    """Every summary and description below a part of the document."""
    if isinstance(part, dict):
        yield from (part[name] for name in ("summary", "description") if isinstance(part.get(name), str))
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from told(inner)


def test_what_it_says_is_for_readers_who_do_not_know_the_code() -> None:
    inside = re.compile(
        r"[Cc]ontract \d|Raises|for the document|``\w+_\w+`` reads|``(?:core|orgs|ops|metering|billing)\."
    )
    words = list(told(views.document()))
    assert len(words) > 300
    assert [each for each in words if inside.search(each)] == []


@pytest.mark.parametrize(("path", "method", "operation"), EVERY)
def test_an_operation_says_what_it_needs_and_what_it_may_refuse(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    keyed = path not in OPEN
    assert operation.get("security") == ([{"bearerKey": []}] if keyed else None)
    headers = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "header"}
    wanted = {"X-DeepToken-Org"} if keyed else {"Stripe-Signature"} if path == WEBHOOK else set()
    assert headers == (wanted | {"Idempotency-Key"} if path in ONCE and method == "post" else wanted)
    statuses = set(operation["responses"])
    assert statuses >= ({"401", "403", "406", "503"} if keyed else {"406"})
    assert statuses & {"200", "201"}
    if "requestBody" in operation:
        assert operation["requestBody"]["required"] is True
        assert statuses >= {"400", "413", "415", "422"}


@pytest.mark.parametrize(("path", "method", "operation"), EVERY)
def test_every_answer_has_its_headers_and_every_refusal_both_forms(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    for status, answer in operation["responses"].items():
        assert set(answer["headers"]) >= ALWAYS
        assert ("X-Gateway-Error-Category" in answer["headers"]) == (status >= "400")
        assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"})
        if status < "400":
            assert "application/json" in answer["content"] or set(answer["content"]) == {"application/pdf"}
            continue
        assert set(answer["content"]) == {"application/json", "application/problem+json"}
        assert answer["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
        assert answer["description"]


def test_what_the_generator_notes_for_itself_is_taken_out() -> None:
    noted = {"a": [{"x-spec-enum-id": "1", "enum": ["b"]}], "x-spec-enum-id": "2"}
    assert tidy(noted, generator=None) == {"a": [{"enum": ["b"]}]}
    assert "x-spec-enum-id" not in str(views.document())


def test_money_is_described_as_the_exact_decimal_that_it_is() -> None:
    schemas = views.document()["components"]["schemas"]
    amounts = [
        field
        for schema in schemas.values()
        for name, field in schema.get("properties", {}).items()
        if name.endswith("_usd") and field.get("type") in ("number", ["number", "null"])
    ]
    assert len(amounts) > 10
    assert {field.get("format") for field in amounts} == {"decimal"}
