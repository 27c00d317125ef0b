"""Keys on the wire: what is read from a body and what is shown."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core import clock, ids
from core.errors import InvalidType, MissingParameter, OutOfRange
from orgs.keyring import Wish
from orgs.models import ApiKey
from orgs.serializers import IssuedKeySerializer, KeySerializer, read_wish


def test_a_full_body_is_read_field_by_field() -> None:
    body = {
        "name": "x",
        "scopes": ["a"],
        "models": ["b"],
        "cidrs": ["c"],
        "expires_at": 1_800_000_000,
        "kind": "service",
    }
    assert read_wish(body) == Wish(
        name="x", scopes=["a"], models=["b"], cidrs=["c"], expires_at=datetime(2027, 1, 15, 8, tzinfo=UTC)
    )


def test_absent_and_null_are_the_same() -> None:
    nothing = dict.fromkeys(("scopes", "models", "cidrs", "expires_at"))
    assert (
        read_wish({"name": "x", **nothing})
        == read_wish({"name": "x"})
        == Wish(name="x", scopes=[], models=[], cidrs=[])
    )


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({}, MissingParameter, "name"),
        ({"name": ["x"]}, InvalidType, "name"),
        ({"name": "x", "models": "gpt-5"}, InvalidType, "models"),
        ({"name": "x", "models": ["gpt-5", {}]}, InvalidType, "models[1]"),
        ({"name": "x", "expires_at": False}, InvalidType, "expires_at"),
        ({"name": "x", "expires_at": 253_402_300_800}, OutOfRange, "expires_at"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], error: type[Exception], param: str) -> None:
    with pytest.raises(error) as refusal:
        read_wish(body)
    assert refusal.value.param == param  # type: ignore[attr-defined]


def key(**fields: Any) -> ApiKey:
    return ApiKey(kind="organization", name="x", last_four="abcd", digest=b"d" * 32, **fields)


def test_a_key_is_shown_by_exactly_these_fields() -> None:
    row = key(allowed_models=["gpt-5"])
    shown = KeySerializer(row).data
    assert shown == {
        "id": ids.show("key", row.pk),
        "object": "api_key",
        "kind": "organization",
        "name": "x",
        "last_four": "abcd",
        "status": "active",
        "scopes": [],
        "models": ["gpt-5"],
        "cidrs": [],
        "project_id": None,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": None,
    }
    assert IssuedKeySerializer(row, context={"secret": "s"}).data == {**shown, "secret": "s"}


def test_the_status_says_whether_it_works() -> None:
    now = clock.now()
    assert KeySerializer(key(expires_at=now + timedelta(hours=1))).data["status"] == "active"
    assert KeySerializer(key(expires_at=now - timedelta(seconds=1))).data["status"] == "expired"
    assert KeySerializer(key(expires_at=now, revoked_at=now)).data["status"] == "revoked"
