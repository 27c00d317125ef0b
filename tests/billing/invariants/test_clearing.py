"""The money that lies at Stripe: each corruption of either side raises its invariant and no other."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from unittest import mock

import pytest
from django.db import transaction

from billing import differences, grants
from billing.models import Difference, Grant
from billing.processor import client, reconciliation
from tests.billing.corruption import assert_only, broken, corrupt
from tests.billing.paying import BY, asked, deliver, paid, paying
from tests.billing.world import assert_sound, organization
from tests.books import Books
from tests.clocks import Clock
from tests.fakes.stripe import StripeFake
from tests.proofs import proves

LATER = timedelta(days=2, hours=1)
PAYMENT = "SELECT id FROM payment WHERE amount_usd = 50"
CHARGE = "WHERE source_id = (SELECT charge_id FROM payment WHERE amount_usd = 50)"


class Settled:
    """Books with a payment, a refund and a lost dispute that Stripe says the same of, three days ago."""

    def __init__(self, fake: StripeFake, clock: Clock) -> None:
        self.fake = fake
        self.clock = clock
        self.acme = organization("acme")
        kept, lost = (paid(fake, self.acme, usd) for usd in ("50", "30"))
        fake.refund(kept.intent_id or "", 500)
        fake.close_dispute(fake.open_dispute(lost.intent_id or ""), won=False)
        deliver(fake)
        assert reconciliation.reconcile() == (4, 0, 0)
        self.wait()

    def wait(self) -> None:
        """Let more time pass than one side may be behind the other."""
        self.clock.move(LATER)
        self.fake.move_clock(LATER)


@pytest.fixture
def settled(books: Books, fake_clock: Clock) -> Iterator[Settled]:
    with paying() as fake:
        made = Settled(fake, fake_clock)
        assert_sound()
        yield made


@proves("V19", guard="payments_at_stripe_are_compared")
@pytest.mark.parametrize(
    ("statement", "about"),
    [
        (f"UPDATE balance_transaction SET amount_cents = 5001, fee_cents = 176 {CHARGE}", PAYMENT),
        ("UPDATE balance_transaction SET currency = 'eur' WHERE kind = 'refund'", "SELECT id FROM refund"),
    ],
    ids=["a cent", "another currency"],
)  # fmt: skip
def test_another_amount_or_currency_at_stripe_is_seen(
    books: Books, settled: Settled, statement: str, about: str
) -> None:
    assert_only("V19", corrupt(books, statement, about))


# A charge like the other, under an id that nobody knows.
STRANGER = (
    "INSERT INTO balance_transaction SELECT gen_random_uuid(), 'txn_x', kind, category, 'ch_x', description, currency,"
    " amount_cents, fee_cents, net_cents, happened_at, available_at, fetched_at FROM balance_transaction"
    f" {CHARGE}"
)


@proves("V19", guard="payments_at_stripe_are_compared")
@proves("V20", guard="clearing_is_stripes_balance")
@pytest.mark.parametrize(
    ("statement", "about"),
    [
        (f"DELETE FROM balance_transaction {CHARGE}", PAYMENT),
        (STRANGER, "SELECT 'ch_x'"),
        ("UPDATE dispute SET stripe_id = 'du_other'", "SELECT id FROM dispute"),
    ],
    ids=["gone from Stripe", "a charge nobody knows", "a dispute of nobody"],
)
def test_what_only_one_side_knows_is_seen(books: Books, settled: Settled, statement: str, about: str) -> None:
    assert_only({"V19", "V20"}, corrupt(books, statement, about))


@proves("V19", guard="payments_at_stripe_are_compared")
def test_a_credit_given_twice_is_seen_after_two_days(settled: Settled) -> None:
    with transaction.atomic():
        grants.give(
            organization_id=settled.acme.pk, kind=Grant.Kind.PURCHASED, amount_usd=Decimal(50), reference="once more",
            actor="tests", reason="the same payment again",
        )  # fmt: skip
    assert_sound()
    settled.wait()
    assert_only({"V19", "V20"}, [str(settled.acme.pk)])


@proves("V20", guard="clearing_is_stripes_balance")
def test_a_payment_that_never_reached_the_books_is_seen_after_two_days(settled: Settled) -> None:
    payment = asked(settled.acme, "20")
    settled.fake.pay(payment.session_id or "")
    # Its events would bring it.
    with mock.patch("billing.processor.inbox.keep_missed", return_value=False):
        assert reconciliation.fetch(client.connect()) == 1
    assert_sound()
    settled.wait()
    found = broken()
    assert found.keys() == {"V19", "V20"}
    assert "nobody: -19.12 USD more" in found["V20"]


@proves("V20", guard="clearing_is_stripes_balance")
def test_a_net_amount_that_is_not_what_came_is_seen(books: Books, settled: Settled) -> None:
    change = f"UPDATE balance_transaction SET net_cents = net_cents - 1 {CHARGE}"
    assert_only("V20", corrupt(books, change, "SELECT organization_id FROM payment WHERE amount_usd = 50"))


def test_what_finance_explained_is_no_violation_until_it_changes(settled: Settled) -> None:
    with transaction.atomic():
        grants.give(
            organization_id=settled.acme.pk, kind=Grant.Kind.PURCHASED, amount_usd=Decimal(7), reference="by hand",
            actor="tests", reason="paid in cash",
        )  # fmt: skip
    settled.wait()
    assert reconciliation.reconcile().open == 1
    assert broken().keys() == {"V19", "V20"}
    row = Difference.objects.get()
    differences.explain(difference_id=row.pk, reason="paid in cash at the desk", by=BY)
    assert_sound()
    Difference.objects.filter(pk=row.pk).update(ours_usd=Decimal(8))
    assert broken().keys() == {"V19", "V20"}


def test_before_the_first_run_there_is_nothing_to_compare(db: None) -> None:
    acme = organization("acme")
    with transaction.atomic():
        grants.give(
            organization_id=acme.pk, kind=Grant.Kind.PURCHASED, amount_usd=Decimal(7), reference="by hand",
            actor="tests", reason="before",
        )  # fmt: skip
    from billing import invariants

    found = {one.name[:3]: one for one in invariants.each()}
    assert (found["V19"].ok, found["V19"].seen) == (True, 0)
    assert (found["V20"].ok, found["V20"].seen) == (True, 0)
