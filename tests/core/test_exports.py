import csv
import io
from typing import Any

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django_otp.plugins.otp_totp.models import TOTPDevice

from core import exports, ids
from metering.models import UsageRecord
from orgs.models import ApiKey, Organization, User
from tests import desk
from tests.orgs import world


def exported(client: Client, model: type[Model], **query: str) -> list[dict[str, str]]:
    """The rows of an export, by column."""
    answer = client.get(f"{desk.listing(model)}export/", query)
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/csv")
    assert answer["Content-Disposition"].startswith("attachment;")
    return list(csv.DictReader(io.StringIO(answer.content.decode())))


def test_every_list_can_be_exported_and_no_secret_is_in_it(db: None) -> None:
    acme = desk.organization("acme-labs")
    issued = world.organization_key(acme)
    desk.use(acme, 1)
    client = desk.superuser()
    tried = 0
    for model, page in admin.site._registry.items():
        if isinstance(page, exports.ExportedAdmin):
            if model is TOTPDevice:
                # All of it opens something.
                assert client.get(f"{desk.listing(model)}export/").status_code == 403
                continue
            answer = client.get(f"{desk.listing(model)}export/")
            assert answer.status_code == 200, model
            text = answer.content.decode()
            assert issued.secret not in text
            assert not {"password", "digest", "secret", "sealed_secret"} & set(text.splitlines()[0].split(","))
            tried += 1
    assert tried >= 40


def test_rows_are_spelled_as_the_api_does(db: None) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 1)
    record = UsageRecord.objects.get(organization=acme)
    (row,) = exported(desk.superuser(), UsageRecord, organization="acme-labs")
    assert row["id"] == ids.show("usage", record.pk)
    assert row["organization"] == ids.show("org", acme.pk)
    # 1,200 tokens at $0.27 and 34 at $1.10 a million.
    assert row["cost_usd"] == "0.0003614"
    assert row["recorded_at"] == record.recorded_at.isoformat()
    assert (row["batch"], row["stream"]) == ("false", "")


def test_what_a_spreadsheet_would_run_is_text(db: None) -> None:
    acme = world.organization()
    Organization.objects.filter(pk=acme.pk).update(name="=cmd|' /C calc'!A0")
    (row,) = [row for row in exported(desk.superuser(), Organization) if row["slug"] == "acme-labs"]
    assert row["name"] == "'=cmd|' /C calc'!A0"


def test_it_has_the_rows_of_the_list_and_says_where_it_ends(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for slug in ("first-one", "second-one", "third-one"):
        world.organization(slug)
    client = desk.superuser()
    assert [row["slug"] for row in exported(client, Organization, q="second-one")] == ["second-one"]
    monkeypatch.setattr(exports, "ROWS_MAX", 2)
    rows = exported(client, Organization)
    assert len(rows) == 3
    assert exports.TRUNCATED.startswith(rows[-1]["id"])


def test_who_may_not_see_a_list_cannot_export_it(db: None) -> None:
    world.organization_key(world.organization())
    client = desk.clerk("view_organization")
    assert exported(client, Organization)
    assert client.get(f"{desk.listing(ApiKey)}export/").status_code == 403


@pytest.mark.parametrize("name", ["password", "secret_sealed", "sealed_secret", "digest"])
def test_columns_that_open_something_are_left_out(name: str) -> None:
    column: Any = User._meta.get_field("email").clone()
    column.name = name
    assert not exports.shown(column)
    assert exports.shown(User._meta.get_field("email"))
