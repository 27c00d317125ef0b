"""Liveness, readiness, the document and its page, and what is not there."""

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from core import views


def test_a_process_that_lives_says_so_without_asking_anything(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.views._database", None)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_ready_is_who_has_a_database_its_tables_and_a_broker(db: None, client: Client) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "checks": {"database": "ok", "broker": "ok"}})


def test_whatever_is_missing_is_named_and_nothing_of_its_inside(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "ok"
    assert answer.json()["checks"]["broker"].startswith("unreachable (")
    assert "127.0.0.1" not in answer.content.decode()
    assert answer.headers["Retry-After"] == "1"

    class Executor:
        def __init__(self, _: Any) -> None:
            self.loader = self
            self.graph = self

        def leaf_nodes(self) -> list[Any]:
            return []

        def migration_plan(self, _: Any) -> list[Any]:
            return [1, 2, 3]

    monkeypatch.setattr("core.views.MigrationExecutor", Executor)
    assert client.get("/readyz").json()["checks"]["database"] == "3 migrations to apply"

    def refuse(_: Any) -> Any:
        raise OperationalError("at secret.example:5432")

    monkeypatch.setattr("core.views.MigrationExecutor", refuse)
    answer = client.get("/readyz")
    assert answer.json()["checks"]["database"] == "unreachable (OperationalError)"
    assert "secret.example" not in answer.content.decode()


def test_the_document_is_made_once_and_is_the_same_for_everybody(client: Client) -> None:
    first = client.get("/v1/openapi.json")
    assert first.headers["Content-Type"] == "application/json"
    assert first.json()["openapi"].startswith("3.1")
    made = views.document.cache_info().misses
    for query in ("?version=2", "?lang=de", "?version=%0d%0aX:%20y"):
        assert client.get(f"/v1/openapi.json{query}").content == first.content
    assert views.document.cache_info().misses == made
    own = client.get("/v1/openapi.json", headers={"Accept": "application/vnd.oai.openapi+json"})
    assert own.headers["Content-Type"] == "application/vnd.oai.openapi+json"
    assert own.content == first.content


def test_the_documents_page_loads_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    text = page.content.decode()
    assert "swagger-ui" in text
    assert "//" not in text.split("<script>")[0].replace("<!-- ", "")


def test_nothing_is_found_where_nothing_is(client: Client) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
        answer = client.generic(method, "/v1/nothing")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
