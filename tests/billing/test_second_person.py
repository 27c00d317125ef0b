"""No money moves beyond the limit by one person, whichever act they choose and however they send it (A14)."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from billing.models import Adjustment, BankTransfer, Invoice, Rerating, Transfer, Wallet
from core import ids
from ops.models import Approval
from orgs.models import Organization, User
from tests import desk
from tests.billing.months import close, document, go_to, sold, taxed, use
from tests.clocks import Clock
from tests.proofs import proves

MONEY = dict.fromkeys(("priority", "begins", "expires_at", "models"), "")


@pytest.fixture
def owing(calendar: Clock, settings: Any) -> Organization:
    """An organization with an invoice of 3.21 USD; every amount is above the limit."""
    taxed("DE")
    acme = sold("acme", country="DE", vat_id="DE1")
    use(acme, events=10)
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    settings.MONEY_APPROVAL_USD = 0
    return acme


def acts(of: Organization) -> dict[str, tuple[str, dict[str, str]]]:
    """Each act that moves money, or lets it be owed: where it is posted to, and with what."""
    wallet: dict[str, Any] = {"args": [of.pk]}
    bill: dict[str, Any] = {"args": [document(of).pk]}
    shown = {**MONEY, "amount_usd": "1", "reason": "as agreed"}
    money = {
        f"money: {kind}": (reverse("admin:billing_wallet_money", **wallet), {**shown, "kind": kind})
        for kind in ("grant", "credit", "debit", "write_off")
    }
    terms = {"mode": "", "enforcement": "", "credit_limit_usd": "5000", "low_usd": "", "reason": "as agreed"}
    bank = {"amount_usd": "1.00", "statement_reference": "SEPA 1", "reason": "came in"}
    return {
        **money,
        "credit limit": (reverse("admin:billing_wallet_terms", **wallet), terms),
        "credit note": (reverse("admin:billing_invoice_credit", **bill), {"amount_usd": "1.00", "reason": "outage"}),
        "give up": (reverse("admin:billing_invoice_give-up", **bill), {"reason": "insolvent"}),
        "bank": (reverse("admin:billing_invoice_bank", **bill), bank),
    }


def books() -> list[Any]:
    """What one person must not have changed."""
    return [
        list(Transfer.objects.order_by("pk").values_list("pk", flat=True)),
        list(Wallet.objects.order_by("pk").values_list("posted_usd", "overdraft_usd", "credit_limit_usd")),
        list(Invoice.objects.order_by("pk").values_list("state", "open_usd", "paid_usd")),
    ]


def alone(person: Client, address: str, told: dict[str, str]) -> None:
    """All that one person can send to get an act done."""
    for _ in range(2):
        person.post(address, told)
    for asked in Approval.objects.filter(decided_at=None):
        person.post(desk.page(asked, "grant"))
    for model in (Adjustment, BankTransfer):
        for row in model.objects.filter(state="waiting"):
            person.post(desk.page(row, "carry-out"))
    person.post(address, told)


@proves("A14", guard="large_amounts_need_two")
def test_one_person_alone_moves_nothing_beyond_the_limit(owing: Organization) -> None:
    root = desk.superuser()
    before = books()
    moved = []
    for name, (address, told) in acts(owing).items():
        alone(root, address, told)
        if books() != before:
            moved.append(name)
            before = books()
    assert moved == []
    # Each of them waits for somebody.
    assert set(Approval.objects.values_list("kind", "granted")) == {
        (kind, None) for kind in ("adjustment", "credit_limit", "credit_note", "invoice_give_up", "bank_transfer")
    }
    # Moving money is a new act each time it is sent: four kinds, three times.
    assert Approval.objects.filter(kind="adjustment").count() == 12


def test_with_a_second_person_each_of_them_is_done(owing: Organization) -> None:
    root = desk.superuser()
    second = desk.Desk()
    second.force_login(User.objects.create_superuser("second@example.com", desk.PASSWORD))
    chosen = {name: sent for name, sent in acts(owing).items() if name != "give up"}
    for name, (address, told) in chosen.items():
        before = books()
        alone(root, address, told)
        for asked in Approval.objects.filter(decided_at=None):
            second.post(desk.page(asked, "grant"))
        alone(root, address, {**told, "statement_reference": "SEPA 2"} if name == "bank" else told)
        assert books() != before, name


def test_a_rerating_waits_too(owing: Organization) -> None:
    from billing import rerating
    from billing.models import ReratingShare
    from core import clock

    root = desk.superuser()
    act = Rerating.objects.create(start=clock.now(), end=clock.now(), reason="wrong price", actor="root@example.com")
    ReratingShare.objects.create(
        rerating=act, organization=owing, records=2, before_usd=Decimal(10), after_usd=Decimal("9.5")
    )
    for _ in range(2):
        root.post(desk.page(act, "apply"))
    asked = Approval.objects.get(kind=rerating.APPROVAL)
    assert asked.details["moves_usd"] == "0.5"
    root.post(desk.page(asked, "grant"))
    assert Rerating.objects.get(pk=act.pk).state == "planned"
    second = desk.Desk()
    second.force_login(User.objects.create_superuser("second@example.com", desk.PASSWORD))
    second.post(desk.page(asked, "grant"))
    root.post(desk.page(act, "apply"))
    assert Rerating.objects.get(pk=act.pk).state == "applying"
    Rerating.objects.filter(pk=act.pk).update(state="applied")
    ReratingShare.objects.update(before_usd=Decimal(10), after_usd=Decimal(12))
    root.post(desk.page(act, "undo"), {"reason": "not so"})
    assert not Rerating.objects.filter(undoes=act).exists()
    assert Approval.objects.get(kind=rerating.UNDO_APPROVAL).subject_id == act.pk
    assert ids.show("rerate", act.pk) in str(Approval.objects.get(kind=rerating.UNDO_APPROVAL).details)
