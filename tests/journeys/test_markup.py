"""Markup in every text that the database holds: every page of the admin and of the portal shows it as text."""

import json
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.db import Error, connection, models, transaction
from django.urls import NoReverseMatch, reverse

from orgs.models import User
from tests import desk
from tests.books import Books
from tests.browser.test_portal import pages as portal_pages
from tests.journeys import neighbours
from tests.portal.world import signed_in
from tests.proofs import proves

PAYLOAD = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}{% now %}"
LIVE = ("<img src=x", "<script>alert(2)")
ESCAPED = "&lt;img src=x"
ROWS = 2
SPOILED_MAX = 50
# Tables and columns whose texts the product itself writes and reads back: none but its own words gets into them.
UNREADABLE = {"cache_epoch", "approval", "password", "time_zone", "zone"}
# Pages at which PAYLOAD must have been seen, so that the reading is of something: the models whose lists or rows
# show a text that people or gateways send in.
SHOWN_MIN = 20


def spoil() -> set[str]:
    """Put markup into every text, and every text inside a document, that takes it; the tables that hold some now."""
    spoiled = set()
    for model in apps.get_models():
        table = model._meta.db_table
        if table.startswith(("django_", "auth_", "axes_", "otp_")) or table in UNREADABLE:
            continue
        for column in model._meta.concrete_fields:
            if column.choices or column.primary_key or column.is_relation or column.column in UNREADABLE:
                continue
            if isinstance(column, models.JSONField | models.TextField | models.CharField) and _write(model, column):
                spoiled.add(table)
    return spoiled


def _write(model: type[models.Model], column: models.Field[Any, Any]) -> bool:
    """Whether any row of a column took the markup."""
    key = model._meta.pk.column
    taken = False
    for pk, text in model._default_manager.values_list("pk", column.attname)[:SPOILED_MAX]:
        changed: Any = _marked(text)
        if changed == text:
            continue
        value: str = json.dumps(changed) if isinstance(column, models.JSONField) else changed
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                # The books refuse changes; whoever wrote such a row wrote it like that.
                cursor.execute("SET LOCAL session_replication_role = replica")
                cursor.execute(
                    f'UPDATE "{model._meta.db_table}" SET "{column.column}" = %s WHERE "{key}" = %s', [value, pk]
                )
                taken = True
        except Error:
            # A column whose rule keeps markup out.
            return taken
    return taken


def _marked(value: object) -> object:
    """A document whose texts hold markup; what reads as a number or an instant stays."""
    if isinstance(value, dict):
        return {name: part if name in UNREADABLE else _marked(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_marked(part) for part in value]
    if not isinstance(value, str) or value[:1].isdigit() or value[:1] == "-":
        return value
    return value + PAYLOAD


def admin_pages() -> Iterator[str]:
    """Lists, rows and what can be done about them."""
    yield reverse("admin:index")
    for model, page in admin.site._registry.items():
        yield desk.listing(model)
        acts = [act.name for act in getattr(page, "acts", ())]
        for row in model._default_manager.order_by("pk")[:ROWS]:
            for kind in ("change", *acts):
                try:
                    yield desk.page(row, kind)
                except NoReverseMatch:
                    continue
        for act in getattr(page, "list_acts", ()):
            yield reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{act.name}")


@proves("A13", guard="pages_escape_what_they_show")
def test_markup_in_any_text_is_text_on_every_page(books: Books) -> None:
    house = neighbours.house("acme-labs")
    desk.use(house.organization, 2)
    client = desk.superuser()
    customer = signed_in(User.objects.get(pk=house.owner.pk))
    spoiled = spoil()
    assert len(spoiled) >= SHOWN_MIN
    shown, broken = set(), []
    for browser, addresses in ((client, list(admin_pages())), (customer, [f"/{page}" for page in portal_pages()])):
        for address in addresses:
            answer = browser.get(address, follow=True)
            text = b"".join(answer) if answer.streaming else answer.content
            if answer.status_code >= 500:
                broken.append(f"{address}: {answer.status_code}")
            if any(mark in text.decode() for mark in LIVE):
                broken.append(f"{address}: markup is alive")
            if ESCAPED in text.decode():
                shown.add("/".join(address.split("/")[:4]))
    assert broken == []
    assert len(shown) >= SHOWN_MIN, sorted(shown)
