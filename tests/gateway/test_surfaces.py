"""Model calls in the OpenAPI document: every one that is served, and what they take and answer."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from core import views
from gateway import plane, surfaces
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.gateway import callers
from tests.gateway.callers import House


@pytest.fixture
def acme(books: Books) -> Iterator[House]:
    """An organization whose calls go to a fake."""
    with Upstream() as fake, callers.gateway():
        callers.channel(fake)
        fake.then(Act())
        yield callers.house()


def schema(operation: Any, status: int | None) -> Any:
    """The validator of an operation's body, or of its answer with a status."""
    document = views.document()
    place = operation["requestBody"] if status is None else operation["responses"][str(status)]
    found = place["content"]["application/json"]["schema"]
    return jsonschema.Draft202012Validator({**found, "components": document["components"]})


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": callers.HELLO,
    "/chat/completions": {**callers.HELLO, "temperature": 0.5, "stop": ["a"], "user": None, "unknown": 1},
    "/v1/responses": {"model": "deepseek-chat", "input": "hi", "metadata": {"a": "b"}},
}


def test_every_model_call_that_is_served_is_documented() -> None:
    paths = views.document()["paths"]
    assert set(plane._CALLS) == set(BODIES) <= set(paths)
    for path in BODIES:
        operation = paths[path]["post"]
        assert operation["security"] == [{"bearerKey": []}]
        assert set(operation["responses"]) == {
            "200", "400", "401", "402", "403", "406", "409", "413", "415", "422", "429", "502", "503", "504",
        }  # fmt: skip
        names = [each["name"] for each in operation["parameters"]]
        assert names == ["X-DeepToken-Org", "Idempotency-Key"]
    ids = [one["operationId"] for methods in paths.values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def test_what_is_answered_is_what_the_document_says(acme: House) -> None:
    paths = views.document()["paths"]
    for path, body in BODIES.items():
        operation = paths[path]["post"]
        schema(operation, None).validate(body)
        heard = callers.ask(acme, body, path=path)
        assert heard.status == 200, heard.body
        schema(operation, 200).validate(heard.told)
        named = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
        assert set(heard.told) <= set(views.document()["components"]["schemas"][named]["properties"])
        refused = callers.ask(acme, {**body, "model": None}, path=path)
        schema(operation, refused.status).validate(refused.told)
        assert not schema(operation, None).is_valid({**body, "model": None})
        assert not schema(operation, None).is_valid({**body, "temperature": 3})


def test_a_document_without_the_operation_to_go_by_stays_as_it_is() -> None:
    assert surfaces.add_calls({"paths": {}}) == {"paths": {}}
