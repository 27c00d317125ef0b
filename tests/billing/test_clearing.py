"""Both sides of what lies at Stripe, by rows written by hand."""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction

from billing import clearing, ledger
from billing.ledger import Move
from billing.models import Account, BalanceTransaction, Difference, Payment, ReconciliationMark, TransferKind
from core import clock, ids
from metering.usage import started_at
from orgs.models import Organization
from tests.billing.world import organization

HOUR = timedelta(hours=1)


def begun() -> datetime:
    """Comparing began an hour ago."""
    now = clock.now()
    ReconciliationMark.objects.create(began_at=now - HOUR, fetched_until=now)
    return now


def told(
    kind: str, source: str, cents: int, *, fee: int = 0, currency: str = "usd", at: datetime | None = None
) -> None:
    """A balance transaction."""
    when = at or clock.now()
    BalanceTransaction.objects.create(
        stripe_id=f"txn_{source}_{kind}_{cents}", kind=kind, source_id=source, currency=currency, amount_cents=cents,
        fee_cents=fee, net_cents=cents - fee, happened_at=when, available_at=when,
    )  # fmt: skip


def moved(owner: Organization, usd: str, reference: str, *, kind: TransferKind = TransferKind.TAX) -> None:
    """Money that came to Stripe, or a fee that Stripe kept."""
    way = (Account.STRIPE_CLEARING, Account.TAXES)
    if kind == TransferKind.FEE:
        way = (Account.PAYMENT_FEES, Account.STRIPE_CLEARING)
    with transaction.atomic():
        ledger.post([Move(owner.pk, kind, *way, Decimal(usd), reference, "tests", "tests")], at=started_at())


def payment(owner: Organization, usd: str, *, charge: str, subject: UUID | None = None) -> Payment:
    """A top-up's payment that went through."""
    now = clock.now()
    return Payment.objects.create(
        organization=owner, purpose="topup", subject_id=subject or ids.new(), method="checkout",
        amount_usd=Decimal(usd), received_usd=Decimal(usd), state="succeeded", settled_at=now, deadline_at=now,
        charge_id=charge,
    )  # fmt: skip


def test_nothing_is_compared_before_it_began(db: None) -> None:
    acme = organization("acme")
    moved(acme, "5", "by hand")
    told("charge", "ch_1", 700)
    assert clearing.apart() == []
    begun()
    assert [one.subject.partition(":")[0] for one in clearing.apart()] == ["ch_1", "transfer"]


def test_what_was_before_it_began_is_left_out(db: None) -> None:
    begun()
    told("charge", "ch_1", 700, at=clock.now() - 2 * HOUR)
    assert clearing.apart() == []


def test_a_payments_parts_are_one_subject_on_both_sides(db: None) -> None:
    begun()
    acme = organization("acme")
    subject = ids.new()
    one = payment(acme, "50", charge="ch_1", subject=subject)
    moved(acme, "42", f"topup:{subject}")
    moved(acme, "8", f"payment:{one.pk}/tax")
    moved(acme, "1.75", f"payment:{one.pk}", kind=TransferKind.FEE)
    told("charge", "ch_1", 5000, fee=175)
    assert clearing.apart() == []
    moved(acme, "0.01", f"payment:{one.pk}/more")
    (found,) = clearing.apart()
    assert found[:6] == (
        f"payment:{one.pk}", acme.pk, Decimal("50.01"), Decimal("1.75"), Decimal("50.00"), Decimal("1.75")
    )  # fmt: skip
    assert (found.ours, found.theirs, found.explained) == (Decimal("48.26"), Decimal("48.25"), False)


def test_what_is_between_stripe_and_us_is_no_subject(db: None) -> None:
    begun()
    for kind in clearing.PLATFORM:
        told(kind, "", -100)
    assert clearing.apart() == []
    told("transfer", "tr_1", -100)
    assert [(one.subject, one.ours, one.theirs) for one in clearing.apart()] == [("tr_1", None, Decimal(-1))]


def test_an_amount_that_is_none_in_the_end_is_no_difference(db: None) -> None:
    begun()
    told("refund", "re_1", -500)
    told("refund_failure", "re_1", 500)
    assert clearing.apart() == []
    told("charge", "ch_1", 0, currency="eur")
    assert [one.strange for one in clearing.apart()] == [True]


def test_an_explanation_holds_for_its_two_amounts(db: None) -> None:
    begun()
    told("charge", "ch_1", 700, fee=50)
    row = Difference.objects.create(
        side="stripe", subject="ch_1", theirs_usd=Decimal("6.5"), state="explained", reason="another shop's",
        explained_by="ada",
    )  # fmt: skip
    assert [one.explained for one in clearing.apart()] == [True]
    for changed in ({"theirs_usd": Decimal(7)}, {"theirs_usd": Decimal("6.5"), "ours_usd": Decimal(0)}, {"side": "x"}):
        Difference.objects.filter(pk=row.pk).update(**changed)
        assert [one.explained for one in clearing.apart()] == [False]
