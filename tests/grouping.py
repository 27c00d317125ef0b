"""The suite as on a sharded database (decisions 27): ``TEST_GROUPING=organization python -m pytest``.

Batches are then taken apart by organization, and what Citus refuses fails the test that sent it: a
locking statement that names two organizations, a ``COPY`` with a condition. A test marked
``one_database`` is about transactions over several organizations, which that database does not
have; it always runs as on a single one.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from uuid import UUID

import psycopg
import pytest
from django.test import override_settings

from tests.database import on_cluster

_LOCKING = re.compile(r"\bFOR\s+(?:NO\s+KEY\s+)?(?:UPDATE|SHARE)\b|(?:^|;)\s*UPDATE\b|\)\s*UPDATE\b", re.IGNORECASE)
_UUID = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
_COPY_WHERE = re.compile(r"\bFROM\s+STDIN\b.*\bWHERE\b", re.IGNORECASE | re.DOTALL)
BY_ORGANIZATION = "organization"


@pytest.fixture(autouse=True)
def _grouped(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing, unless the run asks for it."""
    chosen = os.environ.get("TEST_GROUPING", "")
    if chosen not in {"", BY_ORGANIZATION}:
        raise pytest.UsageError(f"TEST_GROUPING={chosen!r} should be {BY_ORGANIZATION!r} or absent")
    one_database = request.node.get_closest_marker("one_database")
    if one_database and on_cluster():
        pytest.skip("a cluster refuses transactions like this test's")
    if not chosen or one_database:
        yield
        return
    with by_organization():
        yield


@contextmanager
def by_organization() -> Iterator[None]:
    """Group by organization and watch every statement that locks or copies. Raises ``AssertionError`` at the end."""
    from billing import charges

    breaches: list[str] = []
    filtered: list[str] = []
    execute = psycopg.Cursor.execute
    copy = psycopg.Cursor.copy

    def watched(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        text = query if isinstance(query, str) else ""
        if _LOCKING.search(text):
            ids = sorted(set(_uuids(params)))
            if len(ids) > 1:
                with self.connection.cursor() as asking:
                    execute(asking, "SELECT count(*) FROM organization WHERE id = ANY(%s)", [ids])
                    row = asking.fetchone()
                if row and next(iter(row if isinstance(row, tuple) else row.values())) > 1:
                    breaches.append(" ".join(text.split())[:500])
        return execute(self, query, params, **options)

    def copied(self: Any, statement: Any, *args: Any, **options: Any) -> Any:
        if isinstance(statement, str) and _COPY_WHERE.search(statement):
            filtered.append(statement)
        return copy(self, statement, *args, **options)

    with (
        # What a connection knows by name is sent as the name alone, which says nothing to the watch.
        override_settings(DATABASE_PREPARE=False),
        mock.patch.object(charges, "together", charges.by_organization),
        mock.patch.object(psycopg.Cursor, "execute", watched),
        mock.patch.object(psycopg.Cursor, "copy", copied),
    ):
        yield
    # Not where it is sent: the product may catch what is raised there.
    assert not breaches, f"a locking statement names two organizations: {breaches[0]}"
    assert not filtered, f"a COPY has a condition: {filtered[0]}"


def _uuids(value: Any) -> Iterable[UUID]:
    """Every UUID in a statement's parameters, also in an array written as text."""
    if isinstance(value, UUID):
        yield value
    elif isinstance(value, str):
        yield from map(UUID, _UUID.findall(value))
    elif isinstance(value, dict):
        yield from _uuids(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _uuids(part)
