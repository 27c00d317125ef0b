"""Closing an organization: what is in the way, what stops, what stays."""

from decimal import Decimal

import pytest
from django.db import transaction

from billing import adjustments, closures, grants, holds, refunds, topups
from billing.adjustments import Kind
from billing.budgets import Counted
from billing.models import TopUp
from core import errors
from metering.verdicts import Status
from orgs import keys, organizations, principals
from orgs.audit import Actor
from orgs.models import AuditEntry, Organization
from tests.billing import months, papers
from tests.billing.months import calendar
from tests.billing.paying import deliver, fake, paid
from tests.billing.world import assert_all, assert_sound, charge, standing
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake
from tests.metering.world import COST, event
from tests.orgs import world

__all__ = ["calendar", "fake"]

ADA = Actor(kind="user", id="user_ada", label="ada@example.com")


def close(of: Organization) -> Organization:
    return closures.close(organization_id=of.pk, reason="they have left", by=ADA)


def give(of: Organization, usd: str) -> None:
    with transaction.atomic():
        grants.promote(organization_id=of.pk, amount_usd=Decimal(usd), reference="given", actor="t", reason="given")


def adjust(of: Organization, kind: str, usd: str) -> None:
    adjustments.ask(organization_id=of.pk, kind=kind, amount_usd=Decimal(usd), reason="to close", by=ADA)


def test_the_keys_of_a_closed_organization_stop_and_its_people_are_shut_out_until_it_is_reopened(db: None) -> None:
    ada = world.person()
    acme = world.organization(owner=ada)
    own, personal = world.organization_key(acme), world.personal_key(ada)
    closed = close(acme)
    assert closed.closed_at is not None
    assert organizations.find_ids([acme.pk])[acme.pk].closed
    with pytest.raises(errors.InvalidApiKey):
        keys.verify(own.secret)
    with pytest.raises(errors.OrgAccessDenied):
        principals.identify(secret=personal.secret, header="acme-labs", address=None)
    assert principals.identify(secret=personal.secret, header=None, address=None).is_personal
    again = close(acme)
    assert again.closed_at == closed.closed_at
    closures.reopen(organization_id=acme.pk, reason="they are back", by=ADA)
    closures.reopen(organization_id=acme.pk, reason="they are back", by=ADA)
    assert keys.verify(own.secret).organization_id == acme.pk
    told = AuditEntry.objects.filter(verb__in=("organization.closed", "organization.reopened")).order_by("id")
    assert [(each.verb, each.details["reason"], each.actor_label) for each in told] == [
        ("organization.closed", "they have left", "ada@example.com"),
        ("organization.reopened", "they are back", "ada@example.com"),
    ]


def test_money_that_is_left_or_owed_is_settled_first(books: Books) -> None:
    acme = world.organization()
    give(acme, "0.5")
    with pytest.raises(errors.Conflict, match=r"^acme-labs cannot be closed: 0\.5 USD is left, to be refunded or"):
        close(acme)
    adjust(acme, Kind.DEBIT, "0.5")
    assert_all(charge(acme, event()), Status.CREATED)
    with pytest.raises(errors.Conflict, match=rf"cannot be closed: {COST} USD is owed, to be paid or written off\.$"):
        close(acme)
    adjust(acme, Kind.WRITE_OFF, COST)
    close(acme)
    # Usage that is reported late is charged all the same.
    assert_all(charge(acme, event()), Status.CREATED)
    assert standing(acme).overdraft == Decimal(COST)
    assert_sound()


def test_what_is_under_way_is_all_told_at_once(books: Books) -> None:
    acme = world.organization()
    give(acme, "1")
    with transaction.atomic():
        holds.place(holds.Asked(Counted(acme.pk, None, None, None, Decimal("0.4"), 7), "gpt-4o", 100, 600))
    TopUp.objects.create(organization=acme, amount_usd=Decimal(10))
    adjust(acme, Kind.CREDIT, "501")
    assert_all(charge(acme, event(model="nobody-knows-it")), Status.QUARANTINED)
    assert closures.obstacles(acme.pk) == [
        "1 USD is left, to be refunded or taken out by an adjustment",
        "0.4 USD is held for requests that may be running",
        "top-ups are under way: 1",
        "adjustments wait for a second person: 1",
        "events wait in quarantine: 1",
    ]
    # Of another organization nothing counts.
    assert closures.obstacles(world.organization("umbrella").pk) == []


def test_documents_that_are_not_settled_are_in_the_way(db: None) -> None:
    acme = world.organization()
    papers.issue(papers.draft(acme, kind="statement"))
    papers.draft(acme, kind="statement")
    assert closures.obstacles(acme.pk) == []
    papers.invoice(acme)
    papers.draft(acme)
    assert closures.obstacles(acme.pk) == ["invoices are to be paid: 1", "invoices are drafts: 1"]


def test_a_postpaid_customer_is_closed_when_the_last_invoice_is_paid(calendar: Clock) -> None:
    acme = months.sold("acme")
    months.use(acme, input_tokens=1_010_007)
    months.go_to(calendar, "2031-06-01T00:00:00Z")
    months.close(calendar)
    # 1,010,007 × 0.27 / 1M, of which the invoice asks for the whole cents.
    assert [each.partition(",")[0] for each in closures.obstacles(acme.pk)] == [
        "0.27270189 USD is owed", "invoices are to be paid: 1",
    ]  # fmt: skip
    months.receive(months.document(acme), "0.27", "paid")
    assert closures.obstacles(acme.pk) == ["0.00270189 USD is owed, to be paid or written off"]
    adjust(acme, Kind.WRITE_OFF, "0.00270189")
    close(acme)
    months.go_to(calendar, "2031-07-01T00:00:00Z")
    months.close(calendar)
    assert_sound()


def test_disputes_and_refunds_that_go_on_are_in_the_way(books: Books, fake: StripeFake) -> None:
    acme = world.organization()
    made = paid(fake, acme, "1200")
    refunds.ask(payment_id=made.pk, amount_usd=Decimal(600), reason="they have left", by=ADA)
    refunds.ask(payment_id=made.pk, amount_usd=Decimal(100), reason="they have left", by=ADA)
    assert closures.obstacles(acme.pk)[1:] == ["refunds are under way: 2"]
    fake.open_dispute(made.intent_id or "", amount=1000)
    deliver(fake)
    assert closures.obstacles(acme.pk)[1:] == ["refunds are under way: 2", "disputes are open: 1"]


def test_a_closed_organization_buys_nothing_by_itself(db: None) -> None:
    acme = world.organization()
    topups.set_recharge(
        organization_id=acme.pk, threshold_usd=Decimal(5), amount_usd=Decimal(10), monthly_cap_usd=Decimal(50), by=ADA
    )
    close(acme)
    terms = topups.recharge_of(acme.pk)
    assert terms is not None
    assert (terms.enabled, terms.amount_usd) == (False, 10)
    assert topups.open_due() == []


def test_a_persons_own_organization_is_not_closed(db: None) -> None:
    own = world.personal(world.person())
    with pytest.raises(errors.Conflict, match="make the person inactive"):
        close(own)
    own.refresh_from_db()
    assert own.closed_at is None


def test_closing_needs_a_reason(db: None) -> None:
    acme = world.organization()
    for verb in (closures.close, closures.reopen):
        with pytest.raises(errors.OutOfRange):
            verb(organization_id=acme.pk, reason=" ", by=ADA)
    acme.refresh_from_db()
    assert acme.closed_at is None
