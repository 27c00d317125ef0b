"""Lists of the admin that stay fast on any number of rows."""

from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core import admin as desk
from core.admin import Acting, BooksAdmin, BoundedPaginator, QuickAdmin, VerbAdmin
from orgs.models import Role


@pytest.mark.django_db
def test_the_paginator_reads_no_more_rows_than_it_shows_pages_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "ROWS_MAX", 12)
    Role.objects.bulk_create([Role(name=f"role {number}") for number in range(30)])
    with CaptureQueriesContext(connection) as seen:
        pages = BoundedPaginator(Role.objects.order_by("name"), 5)
        assert (pages.count, pages.num_pages) == (12, 3)
    assert len(seen) == 1
    assert "COUNT" not in seen[0]["sql"].upper()
    assert seen[0]["sql"].endswith("LIMIT 12")


@pytest.mark.django_db
def test_the_paginator_counts_fewer_rows_exactly() -> None:
    assert BoundedPaginator(Role.objects.order_by("name"), 2).num_pages == 3
    assert BoundedPaginator(["a", "b", "c"], 2).num_pages == 2


def test_every_list_of_the_product_is_quick_and_every_book_closed() -> None:
    ours = {model: page for model, page in admin.site._registry.items() if model.__module__.split(".")[0] != "django"}
    assert len(ours) > 5
    slow = [model.__name__ for model, page in ours.items() if not isinstance(page, QuickAdmin)]
    assert slow == []
    for page in ours.values():
        if isinstance(page, BooksAdmin):
            request: Any = None
            assert not page.has_add_permission(request)
            assert not page.has_change_permission(request)
            assert not page.has_delete_permission(request)


def test_every_act_of_the_desk_asks_why() -> None:
    """The audit trail takes it from there: see ``core.reasons``."""
    found = {}
    for page in admin.site._registry.values():
        if isinstance(page, Acting):
            for act in (*page.acts, *page.list_acts):
                found[f"{page.page}.{act.name}"] = act.asks.base_fields[act.why].required
    assert len(found) > 40
    assert [name for name, required in found.items() if not required] == []


def test_nothing_is_done_from_a_list_or_a_form_in_another_way() -> None:
    """No action of a list but acts, no form that saves but by a verb."""
    for page in admin.site._registry.values():
        assert list(page.actions or ()) == [], page
        assert isinstance(page, (BooksAdmin, VerbAdmin)), page
