"""The desk's menu and policy: every page in its place, for whom it is; nothing inline, nothing from elsewhere."""

import re
from collections import Counter
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import JSONField
from django.template.loader import get_template
from django.test import Client

from core import desk
from core.admin import BooksAdmin
from orgs.models import User
from tests.desk import clerk, read, superuser

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "font-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
}
# Parts of unfold that pages of ours are made of, and in which expressions or styles had to change.
REPLACED = (
    "unfold/layouts/skeleton.html",
    "unfold/helpers/command.html",
    "unfold/helpers/fieldset_row.html",
    "unfold/helpers/messages.html",
    "unfold/helpers/welcomemsg.html",
    "admin/actions.html",
    "drf_spectacular/swagger_ui.html",
)


def entries(client: Client) -> list[str]:
    """What the menu says to somebody, in its order."""
    shown = read(client, "/admin/")
    return [item["title"] for group in shown.context["sidebar_navigation"] for item in group["items"]]


def test_every_page_stands_in_the_menu_once() -> None:
    named = Counter(entry.model for group in desk.MENU.values() for entry in group if not entry.page)
    there = {model._meta.label for model in admin.site._registry}
    assert set(named) == there
    assert set(named.values()) == {1}


@pytest.mark.django_db
def test_the_menu_shows_each_person_what_they_may_see() -> None:
    assert entries(superuser())[:3] == ["Today", "Wallets", "Transfers"]
    assert entries(clerk("view_wallet", "view_quarantine")) == ["Today", "Wallets", "Quarantined events"]
    assert entries(clerk("view_apikey", "view_rerating", email="both@example.com")) == [
        "Today", "Re-ratings", "API keys",
    ]  # fmt: skip
    assert entries(clerk(email="nobody@example.com")) == ["Today"]


@pytest.mark.django_db
def test_where_one_is_stands_out_in_the_menu() -> None:
    shown = read(superuser(), "/admin/billing/wallet/")
    active = [
        item["title"] for group in shown.context["sidebar_navigation"] for item in group["items"] if item["active"]
    ]
    assert active == ["Wallets"]


@pytest.mark.django_db
@pytest.mark.parametrize("place", ["/admin/", "/admin/login/", "/admin/billing/wallet/", "/docs"])
def test_a_page_says_that_it_loads_and_runs_our_own_files_only(place: str) -> None:
    client = superuser() if place != "/admin/login/" else Client()
    answer: Any = client.get(place)
    assert answer.status_code == 200
    assert set(answer["Content-Security-Policy"].split("; ")) == POLICY
    text = answer.content.decode()
    assert re.findall(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son[a-z]+=\"", text) == []
    assert [found for found in re.findall(r"(?:src|href)=\"([^\"]+)\"", text) if "//" in found] == []


@pytest.mark.parametrize("name", REPLACED)
def test_what_replaces_a_part_of_another_package_comes_first(name: str) -> None:
    found: Any = get_template(name)
    assert found.origin.name.endswith(f"core/templates/{name}")


@pytest.mark.django_db
def test_no_page_of_the_books_leaves_a_document_to_be_drawn_with_styles_of_its_own(rf: Any) -> None:
    request = rf.get("/admin/")
    request.user = User.objects.create_superuser("root@example.com", "x")
    drawn = {}
    for model, page in admin.site._registry.items():
        if isinstance(page, BooksAdmin):
            shown = flatten_fieldsets(page.get_fieldsets(request))
            drawn[model.__name__] = [
                field.name for field in model._meta.get_fields() if isinstance(field, JSONField) and field.name in shown
            ]
    assert len(drawn) > 20
    assert {name: fields for name, fields in drawn.items() if fields} == {}
