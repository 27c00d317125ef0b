"""The Idempotency-Key over HTTP, by a view made for it."""

import json
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from rest_framework.request import Request
from rest_framework.views import APIView

from core import errors, ids
from core.money import parse
from core.wire import number
from ops import idempotency, outbox
from ops.models import IdempotencyKey, OutboxMessage
from ops.views import once
from orgs.models import Organization

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


class Gift(APIView):
    """Money moves, as far as the outbox knows."""

    authentication_classes = []
    permission_classes = []
    required = True

    def post(self, request: Request, name: str = "") -> HttpResponse:
        acme = Organization.objects.get(slug="acme")

        def give() -> tuple[int, object]:
            made = ids.show("gift", ids.new())
            outbox.post(kind="gift", organization_id=acme.pk, key=made, data={})
            if request.data["poor"]:  # type: ignore[call-overload]
                raise errors.OrgWalletEmpty("The wallet of organization acme is empty and its mode is strict.")
            return 201, {"id": made, "amount_usd": number(parse("0.0000138"))}

        return once(request, organization_id=acme.pk, organization_slug=acme.slug, work=give, required=self.required)


class Optional(Gift):
    """Where twice is harmless."""

    required = False


urlpatterns = [
    path("v1/gifts", Gift.as_view()),
    path("v1/gifts/<path:name>", Gift.as_view()),
    path("v1/optional", Optional.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _acme(db: None) -> None:
    Organization.objects.create(slug="acme", name="acme")


def give(body: Any = None, *, key: str | None = KEY, to: str = "/v1/gifts") -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    text = body if isinstance(body, str) else json.dumps(body or {"poor": False})
    return Client().post(to, text, content_type="application/json", headers=headers)


def refusal(answer: Any) -> tuple[int, str, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["type"], error["code"], error["param"]


def given() -> int:
    return OutboxMessage.objects.count()


def test_a_repeat_gets_the_same_bytes_under_a_request_id_of_its_own() -> None:
    first = give()
    again = give(key=f'"{KEY}"')
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content.endswith(b'"amount_usd":0.0000138}')
    assert first.content == again.content
    assert first.headers["Content-Type"] == again.headers["Content-Type"] == "application/json"
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert given() == 1


def test_the_spelling_of_the_body_is_not_another_request() -> None:
    assert give('{"poor": false, "note": "a"}').status_code == 201
    assert give('{ "note":"\\u0061",\n"poor":false }').headers["Idempotent-Replayed"] == "true"
    assert given() == 1


def test_the_key_of_another_request_is_422() -> None:
    give()
    refused = give({"poor": False, "note": "a"})
    assert refusal(refused) == (422, "idempotency_error", "idempotency_key_reused", "Idempotency-Key")
    assert given() == 1


def test_a_refusal_is_not_kept_so_the_same_key_works_afterwards() -> None:
    refused = give({"poor": True})
    assert refusal(refused) == (402, "insufficient_quota", "org_wallet_empty", None)
    assert (given(), IdempotencyKey.objects.count()) == (0, 0)
    assert give({"poor": False}).status_code == 201
    assert given() == 1


def test_a_key_that_is_needed_and_missing_is_400_and_so_is_a_malformed_one() -> None:
    missing = ("invalid_request_error", "missing_required_parameter", "Idempotency-Key")
    assert refusal(give(key=None)) == (400, *missing)
    malformed = ("invalid_request_error", "invalid_request", "Idempotency-Key")
    for key in ("", "a b", '"', "x" * 256):
        assert refusal(give(key=key)) == (400, *malformed), key
        assert refusal(give(key=key, to="/v1/optional")) == (400, *malformed), key
    assert given() == 0


def test_where_none_is_needed_each_request_without_one_counts() -> None:
    assert [give(key=None, to="/v1/optional").status_code for _ in range(2)] == [201, 201]
    assert given() == 2
    assert not IdempotencyKey.objects.exists()


def test_a_body_that_is_no_json_is_refused_before_the_key_is_looked_at() -> None:
    give()
    assert refusal(give("{")) == (400, "invalid_request_error", "invalid_json", None)
    assert given() == 1


def test_a_key_belongs_to_its_path_whatever_stands_in_it() -> None:
    places = ["/v1/gifts", "/v1/gifts/a", "/v1/gifts/a%00b", "/v1/gifts/%ff", "/v1/gifts/é%25"]
    first = [give(to=place) for place in places]
    again = [give(to=place) for place in places]
    assert [answer.status_code for answer in first + again] == [201] * 10
    assert [answer.content for answer in first] == [answer.content for answer in again]
    assert given() == 5


def test_while_the_first_is_running_another_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = idempotency._now()
    monkeypatch.setattr(idempotency, "_enter", lambda _: (False, now))
    refused = give()
    assert refusal(refused) == (409, "idempotency_error", "idempotency_key_in_use", "Idempotency-Key")
    assert refused.headers["Retry-After"] == "1"
    # The OpenAI SDK repeats a 409 by itself, which is right here.
    assert "x-should-retry" not in refused.headers
    assert given() == 0
