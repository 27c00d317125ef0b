"""How the OpenAPI document describes the credential and the keys."""

from typing import Any

import pytest
from django.test import Client


@pytest.fixture
def document(db: None, client: Client) -> dict[str, Any]:
    answer = client.get("/v1/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_the_credential_is_a_bearer_key(document: dict[str, Any]) -> None:
    scheme = document["components"]["securitySchemes"]["bearerKey"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/v1/keys", "get", {"200", "400", "401", "403", "422"}),
        ("/v1/keys", "post", {"201", "400", "401", "403", "413", "415", "422"}),
        ("/v1/keys/{key_id}", "delete", {"200", "401", "403", "404"}),
        ("/v1/keys/{key_id}/rotate", "post", {"200", "401", "403", "404", "409"}),
    ],
)
def test_every_operation_on_keys_says_what_it_needs_and_answers(
    document: dict[str, Any], path: str, method: str, statuses: set[str]
) -> None:
    operation = document["paths"][path][method]
    assert operation["security"] == [{"bearerKey": []}]
    assert statuses <= set(operation["responses"])


def test_a_secret_is_in_the_answers_that_issue_one_and_in_no_other(document: dict[str, Any]) -> None:
    with_secret = {
        name for name, shape in document["components"]["schemas"].items() if "secret" in shape.get("properties", {})
    }
    assert with_secret == {"IssuedKey", "IssuedEndpoint"}
