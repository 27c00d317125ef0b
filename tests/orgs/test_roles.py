"""Roles of the staff: the table is whole, the groups say what it says, and every page and act of the admin obeys it."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.test import Client
from django.urls import URLPattern, URLResolver

from core import ids
from core.admin import BooksAdmin
from orgs import roles
from orgs.models import User
from orgs.roles import AUDITOR, CATALOG, FINANCE, ROLES, SUPPORT, TABLE
from tests import desk
from tests.proofs import proves

# What takes another right than acting on (changing) the model of the page, word for word.
RIGHTS = {
    "billing_wallet_money": "billing.add_adjustment",
    "billing_wallet_ceiling": "billing.change_budget",
    "billing_payment_refund": "billing.add_refund",
    "metering_usagerecord_void": "billing.add_adjustment",
    "billing_providerbill_load": "billing.add_providerbill",
    # Pages that only show.
    "billing_invoice_pdf": "billing.view_invoice",
    "billing_invoice_csv": "billing.view_invoice",
    "billing_transfer_between": "billing.view_transfer",
    "metering_usagerecord_explain": "metering.view_usagerecord",
    "metering_usagerecord_matching": "metering.view_usagerecord",
    "metering_usagerecord_sales": "billing.view_providerbill",
    "metering_usagerecord_margins": "billing.view_providerbill",
}
# Superusers' own, whatever rights somebody has.
SUPERUSERS = {
    "otp_totp_totpdevice_reset",
    "otp_totp_totpdevice_export",
    "auth_user_password_change",
    "orgs_user_change_password",
}
# Pages of everybody at the desk, and of everybody on the way in.
OPEN = {
    "index", "login", "code", "enrol", "logout", "password_change", "password_change_done", "autocomplete", "jsi18n",
    "search", "app_list", "view_on_site",
}  # fmt: skip
# Django's redirects and its last resort, which show nothing.
NAMELESS = {"<path:object_id>/", "(?P<url>.*)$"}


class Place(NamedTuple):
    """An address of the admin, and what it takes: a right, nothing, or to be a superuser."""

    address: str
    methods: tuple[str, ...]
    needs: str | None


def addresses(patterns: Any = None, before: str = "") -> Iterator[tuple[str, str | None]]:
    for pattern in admin.site.urls[0] if patterns is None else patterns:
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, before + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            yield before + str(pattern.pattern), pattern.name


def pages() -> dict[str, admin.ModelAdmin[Any]]:
    return {f"{model._meta.app_label}_{model._meta.model_name}": page for model, page in admin.site._registry.items()}


def places() -> Iterator[Place]:
    """Every address of the admin that belongs to a model. Raises ``AssertionError`` for one that no rule knows."""
    known = pages()
    for address, name in addresses():
        if name is None:
            assert any(address.endswith(each) for each in NAMELESS), f"nobody says who may open {address}"
            continue
        if name in OPEN:
            continue
        if name in SUPERUSERS:
            yield Place(_somewhere(address, "0"), ("GET", "POST"), "superuser")
            continue
        page = next((key for key in sorted(known, key=len, reverse=True) if name.startswith(f"{key}_")), None)
        assert page is not None, f"nobody says who may open {address} ({name})"
        yield _place(address, name, page, known[page], name.removeprefix(f"{page}_"))


def _place(address: str, name: str, page: str, of: admin.ModelAdmin[Any], kind: str) -> Place:
    where = _somewhere(address, _nobody(of))
    app, _, model = page.partition("_")
    for label in TABLE:
        if label.replace(".", "_") == page:
            app, _, model = label.partition(".")
    if name in RIGHTS:
        shows = RIGHTS[name].partition(".")[2].startswith("view_")
        return Place(where, ("GET",) if shows else ("GET", "POST"), RIGHTS[name])
    if kind in {"changelist", "history", "export"} or address.endswith("<path:object_id>/change/"):
        return Place(where, ("GET",), f"{app}.view_{model}")
    if kind == "delete" or (kind == "add" and isinstance(of, BooksAdmin)):
        return Place(where, ("POST",), "nobody")
    if kind == "add":
        return Place(where, ("GET", "POST"), f"{app}.add_{model}")
    acts = {act.name for act in (*getattr(of, "acts", ()), *getattr(of, "list_acts", ()))}
    assert kind in acts, f"nobody says who may open {address} ({name})"
    return Place(where, ("GET", "POST"), f"{app}.change_{model}")


def _somewhere(address: str, key: str) -> str:
    where = "/admin/" + address.replace("<path:object_id>", key).replace("<id>", key)
    assert "<" not in where, where
    return where


def _nobody(page: admin.ModelAdmin[Any]) -> str:
    """How an address names a row that is not there: rights are asked for before rows are."""
    return "0" if page.model._meta.pk.get_internal_type() in {"AutoField", "BigAutoField"} else str(ids.new())


def holder(role: str) -> Client:
    """Somebody of the staff with that role."""
    person = User.objects.create_user(f"{role.split()[0].lower()}@example.com", None, is_staff=True)
    person.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(person)
    return client


def may(role: str, needs: str | None) -> bool:
    """What the table says, read from the table alone."""
    if needs in {"superuser", "nobody", None}:
        return False
    assert needs is not None
    app, _, right = needs.partition(".")
    verb, _, model = right.partition("_")
    row = TABLE[f"{app}.{model}"][ROLES.index(role)]
    return {"view": "v", "add": "a", "change": "c"}[verb] in row


def opened(answer: Any) -> bool:
    """Whether a request was let in: 403 is no; any answer that is neither raises ``AssertionError``."""
    if answer.status_code == 403:
        return False
    assert answer.status_code in {200, 302, 404}, answer.status_code
    assert not answer.get("Location", "").startswith("/admin/login/")
    return True


def wrong(role: str) -> list[str]:
    """Requests of a role that end otherwise than the table says."""
    client = holder(role)
    found = []
    tried = 0
    # What a page looks like is tested elsewhere; here it matters who gets one.
    with mock.patch("django.template.response.SimpleTemplateResponse.rendered_content", ""):
        for place in places():
            for method in place.methods:
                tried += 1
                answer = client.generic(method, place.address)
                if opened(answer) is not may(role, place.needs):
                    found.append(f"{method} {place.address}: {answer.status_code}, needs {place.needs}")
    assert tried > 250
    return found


@pytest.mark.parametrize("role", [FINANCE, CATALOG, AUDITOR])
def test_a_role_opens_what_the_table_says_and_is_refused_everything_else(db: None, role: str) -> None:
    assert wrong(role) == []


@proves("A14", guard="roles_hold_at_every_page")
def test_who_only_sees_does_nothing(db: None) -> None:
    assert wrong(SUPPORT) == []


def test_a_page_that_no_rule_knows_is_seen(db: None) -> None:
    known = list(addresses())
    with (
        mock.patch(f"{__name__}.addresses", return_value=[*known, ("billing/wallet/empty-all/", "billing_wallet_x")]),
        pytest.raises(AssertionError, match="nobody says who may open billing/wallet/empty-all/"),
    ):
        list(places())


def test_the_table_names_every_model_and_no_other() -> None:
    assert {model._meta.label_lower for model in apps.get_models()} == TABLE.keys()


def test_the_groups_say_what_the_table_says_after_the_migrations_alone(db: None) -> None:
    for role in ROLES:
        granted = {
            f"{app}.{codename}"
            for app, codename in Permission.objects.filter(group__name=role).values_list(
                "content_type__app_label", "codename"
            )
        }
        assert granted == roles.rights_of(role), role


def test_applying_again_puts_right_what_somebody_changed(db: None) -> None:
    support = Group.objects.get(name=SUPPORT)
    support.permissions.set(Permission.objects.filter(codename__in=("add_adjustment", "view_wallet")))
    Group.objects.get(name=CATALOG).delete()
    call_command("apply_staff_roles")
    test_the_groups_say_what_the_table_says_after_the_migrations_alone(None)
    assert Group.objects.count() == 4


def test_what_each_role_is_for_stands_in_its_column() -> None:
    rights = {role: roles.rights_of(role) for role in ROLES}
    assert {right for right in rights[AUDITOR] if not re.search(r"\.view_", right)} == set()
    assert {right for right in rights[SUPPORT] if not re.search(r"\.view_", right)} == set()
    shown = {model._meta.label_lower for model in admin.site._registry}
    assert {label for label in shown if "v" not in TABLE[label][ROLES.index(AUDITOR)]} == set()
    closed = {"gateway.view_channel", "gateway.view_route", "billing.view_billingprofile", "billing.view_invoice"}
    assert not rights[SUPPORT] & closed
    assert {"orgs.view_organization", "metering.view_usagerecord", "billing.view_wallet"} <= rights[SUPPORT]
    changes = {right.partition(".")[0] for right in rights[CATALOG] if "view_" not in right}
    assert changes == {"metering", "ops"}
    assert {"billing.add_adjustment", "billing.add_refund", "ops.change_approval"} <= rights[FINANCE]
    for role in ROLES:
        assert not {each for each in rights[role] if re.search(r"\.(add|change|delete)_(user|group|permission)$", each)}
        assert not {each for each in rights[role] if ".delete_" in each}


def test_a_superuser_opens_what_no_role_does(db: None) -> None:
    root = desk.superuser()
    for name in ("gateway_channel", "orgs_user", "auth_group"):
        assert root.get(f"/admin/{name.replace('_', '/', 1)}/").status_code == 200
