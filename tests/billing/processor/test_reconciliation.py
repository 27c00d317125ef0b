"""Stripe's balance against the books: what is late is taken in, what differs is listed and not put right in silence."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from billing import differences, grants, ledger
from billing.ledger import Move
from billing.models import Account, BalanceTransaction, Difference, Dispute, Grant, Refund, StripeCustomer, TransferKind
from billing.processor import client, inbox, reconciliation
from billing.processor.client import InDoubt, Off
from core import errors
from metering.usage import started_at
from ops.models import JobRun
from orgs.models import AuditEntry
from tests.billing.paying import BY, again, asked, at_stripe, cards_of, clearing, deliver, fake, paid, post
from tests.billing.world import assert_sound, organization, rows, standing
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake
from tests.proofs import proves

__all__ = ["fake"]

DAY = timedelta(days=1)


def pass_by(fake: StripeFake, clock: Clock, by: timedelta) -> None:
    """Let time pass here and at Stripe; nobody looks."""
    clock.move(by)
    fake.move_clock(by)


def listed() -> list[tuple[str, str, str]]:
    """Differences: what they are about, what is said of it, how they stand."""
    return [(row.subject.partition(":")[0], row.detail, row.state) for row in Difference.objects.order_by("subject")]


@proves("S14", guard="late_news_is_looked_up")
def test_four_days_without_a_webhook_leave_nothing_unmatched(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    # Known to us, and then nothing more is heard: a refund and a dispute at Stripe, one lost and one won.
    refunded, lost, won = (paid(fake, acme, usd) for usd in ("20", "30", "40"))
    unheard = asked(acme, "60")
    fake.pay(unheard.session_id or "")
    fake.refund(refunded.intent_id or "", 500)
    disputes = [fake.open_dispute(one.intent_id or "") for one in (lost, won)]
    pass_by(fake, fake_clock, 2 * DAY)
    fake.close_dispute(disputes[0], won=False)
    fake.close_dispute(disputes[1], won=True)
    pass_by(fake, fake_clock, 2 * DAY)

    done = reconciliation.reconcile()

    assert (done.looked, done.open) == (4, 0)
    assert listed() == []
    assert again(unheard).state == "succeeded"
    # 20 + 30 + 40 + 60 came, 5 went back, 30 were lost.
    assert standing(acme).posted == 115
    assert clearing() == at_stripe(fake)
    assert sorted(Dispute.objects.values_list("state", flat=True)) == ["lost", "won"]
    assert list(Refund.objects.values_list("state", "amount_usd")) == [("succeeded", Decimal(5))]
    # The events come after all, and change nothing.
    deliver(fake)
    assert standing(acme).posted == 115
    assert reconciliation.reconcile() == (0, 0, 0)
    assert_sound()


@proves("S14", guard="missed_events_are_fetched")
def test_an_event_that_never_came_is_fetched_and_handled(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    paid(fake, acme, "20")
    customer = StripeCustomer.objects.get(organization=acme).stripe_id
    reconciliation.reconcile()
    # No money moves, so no balance transaction tells of it.
    fake.save_card(customer or "", default=True)
    (attached,) = fake.webhooks.events("payment_method.attached")
    pass_by(fake, fake_clock, 4 * DAY)
    reconciliation.reconcile()
    inbox.sweep()
    assert cards_of(acme) == [("4242", True)]
    # It comes after all, and is known.
    assert post(fake, attached) == 200
    assert rows("SELECT count(*) FROM stripe_event WHERE stripe_id = %s AND state = 'processed'", attached) == [(1,)]
    # Nothing that came is fetched again.
    before = rows("SELECT count(*) FROM stripe_event")
    reconciliation.reconcile()
    assert rows("SELECT count(*) FROM stripe_event") == before


def test_a_fee_that_nobody_told_us_is_booked_once(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    fake.state.balance_waits = True
    acme = organization("acme")
    payment = paid(fake, acme, "50")
    assert (payment.state, payment.fee_usd, clearing()) == ("succeeded", None, Decimal(50))
    # No event of it comes.
    fake.settle_charges()
    assert reconciliation.reconcile().looked == 1
    assert (again(payment).fee_usd, clearing()) == (Decimal("1.75"), Decimal("48.25"))
    deliver(fake)
    pass_by(fake, fake_clock, 3 * DAY)
    assert reconciliation.reconcile() == (0, 0, 0)
    assert clearing() == at_stripe(fake)
    assert_sound()


def test_what_was_fetched_is_kept_once_as_stripe_tells_it(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    paid(fake, acme, "50")
    fake.charge_fee(200)
    pass_by(fake, fake_clock, 3 * DAY)
    fake.pay_out()
    at = client.connect()
    assert reconciliation.fetch(at) == 3
    assert reconciliation.fetch(at) == 0
    assert list(
        BalanceTransaction.objects.order_by("happened_at", "kind").values_list(
            "kind", "amount_cents", "fee_cents", "net_cents", "currency"
        )
    ) == [
        ("charge", 5000, 175, 4825, "usd"),
        ("stripe_fee", -200, 0, -200, "usd"),
        ("payout", -4625, 0, -4625, "usd"),
    ]
    # What is between Stripe and us alone is no difference of anybody's.
    assert reconciliation.reconcile() == (0, 0, 0)
    assert clearing() == Decimal("48.25")


def test_a_run_that_is_cut_off_goes_on_where_it_stopped(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    for usd in ("20", "30", "40"):
        paid(fake, acme, usd)
        pass_by(fake, fake_clock, DAY)
    at = client.connect()
    whole = reconciliation.PAGE
    reconciliation.PAGE = 1
    try:
        fake.fail("500_once", "GET", "/v1/balance_transactions", times=1)
        with pytest.raises(InDoubt):
            reconciliation.fetch(at)
        assert BalanceTransaction.objects.count() == 0
        assert reconciliation.fetch(at) == 3
    finally:
        reconciliation.PAGE = whole
    paid(fake, acme, "50")
    asked_before = len(fake.requests)
    assert reconciliation.fetch(at) == 1
    # Not from the beginning again.
    assert len(fake.requests) - asked_before <= 2


def test_money_at_stripe_that_is_none_of_ours_is_listed(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    paid(fake, acme, "20")
    at = client.connect()
    params = {"amount": 700, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True, "off_session": True}
    at.create_intent(params, key="somebody-else")
    assert reconciliation.reconcile().open == 1
    assert listed() == [(listed()[0][0], "at Stripe, not in the books", "open")]
    row = Difference.objects.get()
    assert row.subject.startswith("ch_")
    # 7.00 less 2.9 % and 0.30: 0.20 and 0.30.
    assert (row.organization_id, row.ours_usd, row.theirs_usd) == (None, None, Decimal("6.50"))
    assert standing(acme).posted == 20


def test_money_in_the_books_that_stripe_does_not_know_is_listed_after_two_days(
    books: Books, fake: StripeFake, fake_clock: Clock
) -> None:
    acme = organization("acme")
    paid(fake, acme, "20")
    reconciliation.reconcile()
    with transaction.atomic():
        grants.give(
            organization_id=acme.pk, kind=Grant.Kind.PURCHASED, amount_usd=Decimal(9), reference="typed-in",
            actor="tests", reason="a credit that nobody paid for",
        )  # fmt: skip
    assert reconciliation.reconcile().open == 0
    pass_by(fake, fake_clock, 2 * DAY + timedelta(minutes=1))
    assert reconciliation.reconcile().open == 1
    assert listed() == [("transfer", "in the books, not at Stripe", "open")]
    row = Difference.objects.get()
    assert (row.organization_id, row.ours_usd, row.theirs_usd) == (acme.pk, Decimal(9), None)


def test_another_amount_is_listed_until_finance_says_why(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    payment = paid(fake, acme, "20")
    _book(acme.pk, "1.25", f"payment:{payment.pk}/typed-in")
    pass_by(fake, fake_clock, 3 * DAY)
    assert reconciliation.reconcile().open == 1
    # 20.00 costs 0.58 and 0.30.
    said = "amount 21.25 in the books, 20 at Stripe; fee 0.88 in the books, 0.88 at Stripe"
    assert listed() == [("payment", said, "open")]
    row = Difference.objects.get()
    assert (row.ours_usd, row.theirs_usd) == (Decimal("20.37"), Decimal("19.12"))

    with pytest.raises(errors.OutOfRange):
        differences.explain(difference_id=row.pk, reason=" ", by=BY)
    differences.explain(difference_id=row.pk, reason="typed in twice, see ticket 7", by=BY)
    with pytest.raises(differences.NotOpen):
        differences.explain(difference_id=row.pk, reason="again", by=BY)
    assert reconciliation.reconcile().open == 0
    row.refresh_from_db()
    assert (row.state, row.reason) == ("explained", "typed in twice, see ticket 7")
    (entry,) = AuditEntry.objects.filter(verb="difference.explained")
    assert entry.details["ours_usd"] == "20.37"

    # With another amount it is another story.
    _book(acme.pk, "2", f"payment:{payment.pk}/typed-in-again")
    pass_by(fake, fake_clock, 3 * DAY)
    assert reconciliation.reconcile().open == 1
    row.refresh_from_db()
    assert (row.state, row.reason, row.ours_usd) == ("open", "", Decimal("22.37"))


def test_a_difference_that_is_gone_stays_on_the_list_as_over(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    payment = paid(fake, acme, "20")
    _book(acme.pk, "1.25", f"payment:{payment.pk}/typed-in")
    pass_by(fake, fake_clock, 3 * DAY)
    reconciliation.reconcile()
    _book(acme.pk, "1.25", f"payment:{payment.pk}/taken-out", out=False)
    assert reconciliation.reconcile().open == 0
    assert [state for _, _, state in listed()] == ["over"]


def test_another_currency_is_listed(books: Books, fake: StripeFake, fake_clock: Clock) -> None:
    acme = organization("acme")
    payment = paid(fake, acme, "20")
    with fake.state.lock:
        for one in fake.state.all("txn"):
            one["currency"] = "eur"
    pass_by(fake, fake_clock, 3 * DAY)
    assert reconciliation.reconcile().open == 1
    assert Difference.objects.get().subject == f"payment:{payment.pk}"
    assert Difference.objects.get().detail == "Stripe moved another currency than dollars"


def test_a_payment_whose_amount_was_tampered_with_is_parked_and_listed(
    books: Books, fake: StripeFake, fake_clock: Clock
) -> None:
    acme = organization("acme")
    payment = asked(acme, "20")
    fake.pay(payment.session_id or "")
    with fake.state.lock:
        for prefix in ("pi", "ch", "txn"):
            for one in fake.state.all(prefix):
                one["amount"] = 2100
    assert reconciliation.reconcile().open == 1
    assert [detail for _, detail, _ in listed()] == ["at Stripe, not in the books"]
    assert again(payment).parked
    assert standing(acme).posted == 0


def test_the_job_says_what_it_did_and_that_payments_are_off(db: None) -> None:
    from billing.tasks import reconcile_stripe

    assert reconcile_stripe() == "payments are off"
    assert JobRun.objects.get(name="reconcile_stripe").result == "payments are off"
    with pytest.raises(Off):
        reconciliation.reconcile()


def test_stripe_that_does_not_answer_fails_the_job_and_changes_nothing(books: Books, fake: StripeFake) -> None:
    paid(fake, organization("acme"), "20")
    fake.fail("reset", "GET", "/v1/balance_transactions")
    with pytest.raises(InDoubt):
        reconciliation.told()
    assert BalanceTransaction.objects.count() == 0
    fake.charge_fee(100)
    assert reconciliation.told() == (
        "fetched 2, looked anew at 0 payments, 0 differences are open;"
        " 1 payouts, fees and the like are between Stripe and us alone"
    )


def test_balance_transactions_are_never_changed(books: Books, fake: StripeFake) -> None:
    paid(fake, organization("acme"), "20")
    reconciliation.reconcile()
    for change in ("UPDATE balance_transaction SET net_cents = 0", "DELETE FROM balance_transaction"):
        with pytest.raises(Exception, match="append-only"), transaction.atomic():
            rows(change)


def _book(organization_id: object, usd: str, reference: str, *, out: bool = True) -> None:
    """A transfer between the clearing account and another that is nobody's payment."""
    way = (Account.STRIPE_CLEARING, Account.TAXES) if out else (Account.TAXES, Account.STRIPE_CLEARING)
    with transaction.atomic():
        move = Move(organization_id, TransferKind.TAX, *way, Decimal(usd), reference, "tests", "tests")  # type: ignore[arg-type]
        ledger.post([move], at=started_at())


def test_an_event_is_no_news_to_what_was_reconciled(books: Books, fake: StripeFake) -> None:
    acme = organization("acme")
    payment = asked(acme, "20")
    fake.pay(payment.session_id or "")
    assert reconciliation.reconcile().looked == 1
    assert standing(acme).posted == 20
    deliver(fake)
    inbox.sweep()
    assert standing(acme).posted == 20
