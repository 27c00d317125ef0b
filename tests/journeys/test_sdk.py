"""The official ``openai`` SDK against the API: models, pages of usage, and what it makes of refusals."""

from collections.abc import Iterator
from typing import Any, NoReturn

import httpx2
import openai
import pytest
from openai._base_client import make_request_options
from openai.pagination import SyncCursorPage

from core import errors, ids
from core.wsgi import application
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import House


class Record(openai.BaseModel):
    """A usage record as somebody would model it for the SDK."""

    id: str
    object: str
    model: str
    source: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    created_at: int
    cost_usd: float


class Counting(httpx2.WSGITransport):
    """The product behind HTTP, and how often it was called."""

    calls = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.calls += 1
        return super().handle_request(request)


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with usage."""
    return neighbours.house("acme-labs")


@pytest.fixture
def transport() -> Counting:
    """The way to the product."""
    return Counting(application)


def sdk(secret: str, transport: Counting, **options: Any) -> openai.OpenAI:
    """A client as in every quick start."""
    return openai.OpenAI(
        api_key=secret,
        base_url="http://testserver/v1",
        http_client=httpx2.Client(transport=transport),
        **options,
    )


@pytest.fixture
def client(acme: House, transport: Counting) -> Iterator[openai.OpenAI]:
    """A client with an organization's key."""
    with sdk(acme.keys["organization"].secret, transport) as opened:
        yield opened


def usage(client: openai.OpenAI, **query: Any) -> SyncCursorPage[Record]:
    """A page of ``GET /v1/usage``, as the SDK reads lists."""
    return client.get_api_list(
        "/usage", page=SyncCursorPage[Record], model=Record, options=make_request_options(query=query)
    )


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    listed = client.models.list()
    assert {"gpt-4o", "deepseek-chat", "deepai-chat"} <= {model.id for model in listed}
    assert all((model.object, bool(model.owned_by), model.created > 0) == ("model", True, True) for model in listed)
    found = client.models.retrieve("deepseek-chat")
    assert (found.id, found.object, found.owned_by) == ("deepseek-chat", "model", "deepseek")


def test_the_whole_usage_is_walked_by_cursor(acme: House, client: openai.OpenAI, transport: Counting) -> None:
    neighbours.report(acme, key="organization", count=5, source="product_call")
    for limit in (1, 3, 100):
        transport.calls = 0
        walked = [record.id for record in usage(client, limit=limit)]
        assert walked == [ids.show("usage", each.pk) for each in reversed(acme.records)]
        assert transport.calls == -(-len(walked) // limit)
    filtered = list(usage(client, limit=2, source="product_call"))
    assert len(filtered) == 5
    assert {record.source for record in filtered} == {"product_call"}
    assert list(usage(client, model="no-such-model")) == []


def test_the_header_of_an_organization_is_carried_as_a_default(acme: House, transport: Counting) -> None:
    secret = acme.keys["owner"].secret
    with sdk(secret, transport, default_headers={"X-DeepToken-Org": "acme-labs"}) as named:
        assert len(list(usage(named))) == len(acme.records)
    with sdk(secret, transport) as personal:
        assert list(usage(personal)) == []


REFUSALS: list[tuple[type[errors.ApiError], type[openai.APIStatusError], int]] = [
    (errors.InvalidRequest, openai.BadRequestError, 1),
    (errors.InvalidApiKey, openai.AuthenticationError, 1),
    (errors.InsufficientQuota, openai.APIStatusError, 1),
    (errors.PermissionDenied, openai.PermissionDeniedError, 1),
    (errors.NotFound, openai.NotFoundError, 1),
    (errors.Conflict, openai.ConflictError, 1),
    (errors.OutOfRange, openai.UnprocessableEntityError, 1),
    (errors.InternalError, openai.InternalServerError, 3),
    (errors.Unavailable, openai.InternalServerError, 3),
]


@pytest.mark.parametrize(("raised", "expected", "calls"), REFUSALS, ids=lambda each: getattr(each, "__name__", each))
def test_a_refusal_is_the_exception_that_its_status_means_and_is_repeated_only_where_that_can_help(
    client: openai.OpenAI,
    transport: Counting,
    monkeypatch: pytest.MonkeyPatch,
    raised: type[errors.ApiError],
    expected: type[openai.APIStatusError],
    calls: int,
) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise raised("No.", param="limit", headers={"retry-after-ms": "1"})

    monkeypatch.setattr("metering.views.ModelList.get", refuse)
    with pytest.raises(openai.APIStatusError) as caught:
        client.models.list()
    error = caught.value
    assert type(error) is expected
    assert (error.status_code, error.code, error.param, error.type) == (
        raised.status, raised.code, "limit", raised.type,
    )  # fmt: skip
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert transport.calls == calls


def test_what_really_is_refused_is_raised(acme: House, client: openai.OpenAI, transport: Counting) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("no-such-model")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as cursor:
        usage(client, after="usage_nothing")
    assert (cursor.value.code, cursor.value.param) == ("invalid_cursor", "after")
    with pytest.raises(openai.UnprocessableEntityError):
        usage(client, limit=101)
    with sdk("dtk_wrong", transport) as wrong, pytest.raises(openai.AuthenticationError) as bad:
        wrong.models.list()
    assert bad.value.code == "invalid_api_key"
    with sdk(acme.keys["service"].secret, transport) as gateway, pytest.raises(openai.PermissionDeniedError):
        gateway.models.list()
