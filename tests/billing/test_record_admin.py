"""The desk's pages of usage records: a cost taken apart, a margin, a void."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from billing import corrections, wallets
from billing.explain import explain
from core import clock, errors, ids
from metering import rules
from metering.models import UsageRecord
from orgs import caches
from orgs.models import AuditEntry, Organization
from tests import desk
from tests.billing import world as books
from tests.billing.pages import NASTY, acme, cells, cells_of_page, charge, explain_page, root
from tests.metering import world as metering
from tests.orgs import world

__all__ = ["acme", "root"]


def test_a_cost_is_taken_apart_into_pools_and_rates(root: Client, acme: Organization) -> None:
    event = metering.event(event_id="apart", provider_cost_usd=Decimal("0.0001"), attempts=3, channel="azure-eu")
    books.charge(acme, event)
    record, transfer = charge(acme, "apart")
    shown = desk.read(root, explain_page(record))
    lines = desk.cells(shown.text)
    for line in (
        ["input", "360", "0.27", "1M tokens", "0.0000972"],
        ["cached input", "640", "0.07", "1M tokens", "0.0000448"],
        ["output", "200", "1.1", "1M tokens", "0.00022"],
        ["in all", "", "", "", "0.000362"],
        ["arithmetic", "360 × 0.27/1M + 640 × 0.07/1M + 200 × 1.1/1M = 0.000362"],
        ["checked", "The parts add up to what was charged."],
        ["rates", "ordinary"],
        ["price version", ids.show("price", record.price_id)],
        ["price rule", "none: the catalog&#x27;s price"],
        ["transfer", str(transfer)],
        ["attempts", "3"],
        ["channel", "azure-eu"],
        ["margin (USD)", "0.000262"],
    ):
        assert line in lines, line
    assert f'<a href="{desk.page(transfer)}">' in shown.text
    assert desk.counting([shown]) == []
    assert desk.unkeyed(shown.queries) == []


def test_a_record_and_its_transfer_lead_to_the_explanation(root: Client, acme: Organization) -> None:
    record, transfer = charge(acme)
    page = desk.read(root, desk.page(record))
    assert desk.buttons(page) == ["Explain the cost", "Void"]
    for shown in (page, desk.read(root, desk.page(transfer)), desk.read(root, desk.page(acme))):
        assert f'href="{explain_page(record)}"' in shown.text


def test_the_rule_and_its_reason_are_part_of_the_explanation(root: Client, acme: Organization) -> None:
    start = clock.now() + timedelta(hours=1)
    rule = rules.publish(
        by=world.BY, reason=f"half {NASTY}", effective_from=start, organization=acme, factor=Decimal("0.5")
    )
    caches.forget_all()
    books.charge(acme, metering.event(event_id="half", occurred_at=start + timedelta(minutes=1)))
    record, _ = charge(acme, "half")
    shown = desk.read(root, explain_page(record))
    lines = desk.cells(shown.text)
    assert ["price rule", str(rule)] in lines
    assert ["it says", "0.5 × the catalog&#x27;s price"] in lines
    assert ["because", "half &lt;script&gt;alert(1)&lt;/script&gt;"] in lines
    assert ["input", "360", "0.135", "1M tokens", "0.0000486"] in lines
    assert "<script>alert" not in shown.text


def test_a_cost_that_does_not_add_up_is_shouted(
    root: Client, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = charge(acme)
    monkeypatch.setattr("billing.record_admin.explain", lambda row: explain(row)._replace(matches=False))
    assert "THE PARTS DO NOT ADD UP TO WHAT WAS CHARGED." in desk.read(root, explain_page(record)).text


def test_a_correction_of_what_is_archived_leads_back_to_its_page(
    root: Client, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = charge(acme)

    def archived(_: UsageRecord) -> None:
        raise errors.Archived("The record that this one corrects is archived.")

    monkeypatch.setattr("billing.record_admin.explain", archived)
    shown = desk.read(root, explain_page(record))
    assert shown.address == desk.page(record)
    assert desk.said(shown) == ["warning: The record that this one corrects is archived."]


def test_an_explanation_is_found_by_both_columns_of_the_key_only(root: Client, acme: Organization) -> None:
    other = desk.organization("other")
    record, _ = charge(acme)
    right = explain_page(record)
    wrong = right.replace(ids.show("org", acme.pk), ids.show("org", other.pk))
    assert (root.get(right).status_code, root.get(wrong).status_code) == (200, 404)
    assert root.get(right.replace(str(record), "usage_x")).status_code == 404


def test_a_margin_is_shown_on_the_record_and_in_the_list(root: Client, acme: Organization) -> None:
    for event_id, cost in (("gain", "0.0001"), ("loss", "0.0005"), ("free", "0"), ("silent", None)):
        books.charge(acme, metering.event(event_id=event_id, provider_cost_usd=None if cost is None else Decimal(cost)))
    corrections.void(organization_id=acme.pk, event_id="gain", reason="x", by=world.BY)
    listed = desk.read(root, desk.listing(UsageRecord), organization="acme-labs")
    assert desk.buttons(listed) == ["Margins", "Sales by organization"]
    # The void has none of its own, and nobody said anything of the fixture's three.
    assert sorted(cells(listed.text, "margin")) == ["-"] * 5 + ["-0.000138", "0.000262", "0.000362"]
    shown = {
        event_id: cells_of_page(desk.read(root, desk.page(charge(acme, event_id)[0])).text, "margin_now")
        for event_id in ("gain", "loss", "silent")
    }
    assert shown == {
        "gain": "0.000262 as charged, -0.0001 with its corrections",
        "loss": "-0.000138",
        "silent": "unknown: nobody said what it cost us",
    }
    back = UsageRecord.objects.get(organization=acme, corrects_id__isnull=False)
    assert cells_of_page(desk.read(root, desk.page(back)).text, "margin_now") == "part of the corrected record&#x27;s"


def test_a_record_is_voided_with_a_reason_and_only_once(db: None) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 1)
    record = UsageRecord.objects.get(organization=acme)
    root = desk.superuser()
    assert "Void" in desk.buttons(desk.read(root, desk.page(record)))
    refused = desk.send(root, desk.page(record, "void"), reason=" ")
    assert desk.errors(refused) == ["This field is required."]
    done = desk.send(root, desk.page(record, "void"), reason="reported by mistake")
    assert desk.said(done) == ["success: Voided: 0.0003614 USD went back."]
    assert wallets.state(acme.pk).balance_usd == 10
    entry = AuditEntry.objects.get(verb="usage.voided")
    assert (entry.actor_label, entry.details["reason"]) == ("root@example.com", "reported by mistake")
    again = desk.send(root, desk.page(record, "void"), reason="once more")
    assert desk.said(again) == ["success: It was voided before."]
    correction = UsageRecord.objects.get(organization=acme, corrects_id=record.pk)
    assert "Void" not in desk.buttons(desk.read(root, desk.page(correction)))


def test_a_record_above_the_limit_is_voided_by_nobody_alone(db: None, settings: Any) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 1)
    settings.MONEY_APPROVAL_USD = 0
    record = UsageRecord.objects.get(organization=acme)
    told = desk.send(desk.superuser(), desk.page(record, "void"), reason="reported by mistake")
    assert desk.said(told)[0].startswith("error: It cost more than 0 USD")
    assert not UsageRecord.objects.filter(organization=acme, corrects_id=record.pk).exists()


def test_who_may_not_move_money_voids_nothing(db: None) -> None:
    acme = desk.organization("acme-labs")
    desk.use(acme, 1)
    record = UsageRecord.objects.get(organization=acme)
    reader = desk.clerk("view_usagerecord")
    assert "Void" not in desk.buttons(desk.read(reader, desk.page(record)))
    assert reader.post(desk.page(record, "void"), {"reason": "mine"}).status_code == 403
