"""Months that pass: organizations that use something, time that goes on, periods that close."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from django.db import transaction

from billing import closing, grants, invoices, profiles, wallets
from billing.ledger import Terms
from billing.models import Account, BillingPeriod, Grant, Invoice, InvoiceLine, InvoiceSettlement
from metering import rollups
from metering.verdicts import Status
from orgs.audit import Actor, system
from orgs.models import Organization
from tests.billing.world import assert_all, charge, organization, rows
from tests.clocks import Clock
from tests.metering import records
from tests.metering.world import event

ADA = Actor(kind="user", id="user_ada", label="ada@example.com")
GRACE = Actor(kind="user", id="user_grace", label="grace@example.com")
DAY = timedelta(days=1)
# 1,000,000 × 0.27 USD per 1M tokens.
TOKENS = {"input_tokens": 1_000_000, "cached_input_tokens": 0, "output_tokens": 0}
USD = Decimal("0.27")


def at(text: str) -> datetime:
    """An instant from its ISO text."""
    return datetime.fromisoformat(text)


@pytest.fixture
def calendar(fake_clock: Clock) -> Clock:
    """Time that stands still on a day in May 2031, in whichever year this runs."""
    go_to(fake_clock, "2031-05-20T12:00:00Z")
    records.mark(at("2031-05-20T00:00:00Z"))
    return fake_clock


def go_to(clock: Clock, text: str) -> None:
    """Let time pass until an instant."""
    clock.move(at(text) - clock.at)


def sold(slug: str, *, zone: str = "UTC", limit: str = "1000", **fields: Any) -> Organization:
    """A postpaid organization of a zone, with a credit limit."""
    made = organization(slug)
    Organization.objects.filter(pk=made.pk).update(time_zone=zone)
    profiles.set_profile(organization_id=made.pk, fields={"terms": "postpaid", **fields}, by=ADA)
    wallets.change_terms(
        organization_id=made.pk, terms=Terms(credit_limit_usd=Decimal(limit)), reason="sold", by=system("tests")
    )
    return made


def taxed(country: str) -> None:
    """The first legal entity is of a country that takes 19 %."""
    profiles.default_entity()
    profiles.set_entity(slug="default", fields={"country": country}, by=ADA)
    profiles.set_rate(
        country=country, valid_from=date(2031, 1, 1), percent=Decimal(19), name="VAT", source="law", by=ADA
    )


def use(owner: Organization, *, events: int = 1, **fields: Any) -> None:
    """Usage of 0.27 USD an event, unless it is told otherwise."""
    assert_all(charge(owner, *(event(**{**TOKENS, **fields}) for _ in range(events))), Status.CREATED)


def buy(owner: Organization, usd: str, reference: str = "bought") -> None:
    """Purchased credit."""
    with transaction.atomic():
        grants.give(
            organization_id=owner.pk, kind=Grant.Kind.PURCHASED, amount_usd=Decimal(usd), reference=reference,
            actor="tests", reason="top-up",
        )  # fmt: skip


def fold() -> None:
    """Fold all that is final, in long steps."""
    with mock.patch.object(rollups, "STEP", timedelta(days=40)):
        assert rollups.fold().until is not None


def close(clock: Clock) -> closing.Closed:
    """Close what is over as the jobs would, with the grace passing meanwhile; what was done in all."""
    clock.move(timedelta(minutes=16))
    fold()
    done = closing.Closed()
    while True:
        first = closing.close_due()
        drafts = (
            BillingPeriod.objects.filter(state="drafted").order_by("finalize_at").values_list("finalize_at", flat=True)
        )
        if drafts:
            latest = drafts[len(drafts) - 1]
            assert latest is not None
            clock.move(max(latest - clock.at, timedelta(0)))
        second = closing.finalize_due()
        done = closing.Closed(*(sum(parts) for parts in zip(done, first, second, strict=True)))
        if not any(first) and not any(second):
            return done


def assert_nothing_is_left() -> None:
    """Run again, everything finds nothing to do, and writes nothing."""
    tables = ("billing_period", "invoice", "invoice_line", "invoice_settlement", "number_series", "transfer")
    stand = "; ".join(
        f"SELECT md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM {table} t" for table in tables
    )
    before = [rows(one) for one in stand.split("; ")]
    fold()
    assert (closing.close_due(), closing.finalize_due()) == (closing.Closed(), closing.Closed())
    assert invoices.issue_receipts() == 0
    assert [rows(one) for one in stand.split("; ")] == before


def documents(owner: Organization) -> list[Invoice]:
    """An organization's documents, oldest first."""
    return list(Invoice.objects.filter(organization=owner).order_by("pk"))


def document(owner: Organization) -> Invoice:
    """Its only one."""
    (found,) = documents(owner)
    return found


def lines(of: Invoice) -> list[tuple[str, str, str]]:
    """A document's lines: kind or model, exact amount, cents."""
    found = InvoiceLine.objects.filter(invoice=of).order_by("place")
    return [
        (line.model or line.kind, f"{line.exact_usd:f}".rstrip("0").rstrip("."), f"{line.amount_usd:.2f}")
        for line in found
    ]


def receive(of: Invoice, usd: str, reference: str, source: Account = Account.STRIPE_CLEARING) -> InvoiceSettlement:
    """A payment, in a transaction of its own."""
    with transaction.atomic():
        return invoices.receive(invoice_id=of.pk, amount_usd=Decimal(usd), reference=reference, source=source)


def balances(owner: Organization | UUID) -> dict[str, Decimal]:
    """What an organization's accounts stand at but for wallet and revenue: what came less what went."""
    found = rows(
        "SELECT account, sum(usd) FROM ("
        "SELECT credit AS account, amount_usd AS usd FROM transfer WHERE organization_id = %s"
        " UNION ALL SELECT debit, -amount_usd FROM transfer WHERE organization_id = %s"
        ") t GROUP BY 1 HAVING sum(usd) <> 0",
        *[owner if isinstance(owner, UUID) else owner.pk] * 2,
    )
    return {account: usd for account, usd in found if account not in {"wallet", "revenue"}}


def states(owners: Sequence[Organization]) -> set[str]:
    """In which states these organizations' documents are."""
    return set(Invoice.objects.filter(organization__in=owners).values_list("state", flat=True))
