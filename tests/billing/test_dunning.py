"""Dunning: reminders, a stop, a freeze, each once and each taken back on payment."""

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import dunning, invoices, profiles, wallets
from billing.dunning import Step, due_steps, steps
from billing.ledger import Terms
from billing.models import DunningStep, Invoice, LegalEntity, Wallet
from ops.models import OutboxMessage
from orgs.models import Organization
from tests.billing.months import ADA, DAY, at, close, document, documents, go_to, receive, sold, use
from tests.billing.world import assert_sound
from tests.books import Books
from tests.clocks import Clock

DUE = at("2031-06-17T00:00:00Z")


@pytest.fixture
def owing(calendar: Clock) -> tuple[Organization, Invoice]:
    """An organization that owes 2.70 USD since the 17th of June, with a credit limit of 1,000."""
    acme = sold("acme")
    use(acme, events=10)
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    invoice = document(acme)
    assert invoice.due_at == DUE
    return acme, invoice


def terms(owner: Organization) -> tuple[str, Decimal, bool]:
    wallet = Wallet.objects.get(pk=owner.pk)
    return wallet.enforcement, Decimal(wallet.credit_limit_usd), wallet.frozen_at is not None


FREE = ("strict", Decimal(1000), False)
STOPPED = ("strict", Decimal(0), False)
FROZEN = ("strict", Decimal(0), True)


def days(clock: Clock, after: int) -> int:
    """How many steps are taken so many days after the due date."""
    clock.move(max(DUE + after * DAY - clock.at, timedelta(0)))
    return dunning.run()


def taken() -> list[str]:
    return [row.step for row in DunningStep.objects.order_by("id")]


def test_steps_fall_due_one_after_the_other_and_once_each(calendar: Clock, owing: tuple[Organization, Invoice]) -> None:
    acme, _ = owing
    for after, count, state in (
        (0, 0, FREE), (2, 0, FREE), (3, 1, FREE), (3, 0, FREE), (10, 1, FREE), (17, 1, FREE), (23, 0, FREE),
        (24, 1, STOPPED), (24, 0, STOPPED), (37, 0, STOPPED), (38, 1, FROZEN), (100, 0, FROZEN),
    ):  # fmt: skip
        assert days(calendar, after) == count, after
        assert terms(acme) == state, after
    assert taken() == ["reminder_1", "reminder_2", "reminder_3", "stop", "freeze"]
    told = OutboxMessage.objects.filter(kind="invoice.overdue").order_by("id")
    assert [one.data["step"] for one in told] == taken()
    assert told[0].data["open_usd"] == "2.7"


def test_payment_gives_back_what_was_taken(calendar: Clock, owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    days(calendar, 38)
    assert terms(acme) == FROZEN
    receive(invoice, "1.00", "part")
    assert terms(acme) == FROZEN
    receive(invoice, "1.70", "rest")
    assert terms(acme) == FREE
    assert DunningStep.objects.filter(undone_at=None, step__in=("stop", "freeze")).count() == 0
    assert dunning.run() == 0
    assert_sound()


@pytest.mark.parametrize("how", ["void", "credit", "give_up"])
def test_so_does_everything_else_that_settles_it(
    calendar: Clock, owing: tuple[Organization, Invoice], how: str
) -> None:
    acme, invoice = owing
    days(calendar, 38)
    if how == "credit":
        invoices.credit(invoice_id=invoice.pk, amount_usd=invoice.open_usd, reason="tests", by=ADA)
    else:
        getattr(invoices, how)(invoice_id=invoice.pk, reason="tests", by=ADA)
    assert terms(acme) == FREE


def test_a_late_run_sends_one_reminder_and_does_what_is_due(
    calendar: Clock, owing: tuple[Organization, Invoice]
) -> None:
    assert days(calendar, 25) == 2
    assert taken() == ["reminder_3", "stop"]


def test_two_invoices_are_both_paid_before_anything_is_given_back(
    calendar: Clock, owing: tuple[Organization, Invoice]
) -> None:
    acme, first = owing
    use(acme)
    go_to(calendar, "2031-07-01T00:00:00Z")
    close(calendar)
    second = documents(acme)[-1]
    calendar.move(80 * DAY)
    dunning.run()
    assert terms(acme) == FROZEN
    receive(first, "2.70", "first")
    assert terms(acme) == FROZEN
    receive(second, "0.27", "second")
    assert terms(acme) == FREE


def test_terms_that_a_person_set_meanwhile_stay(calendar: Clock, owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    days(calendar, 38)
    wallets.change_terms(organization_id=acme.pk, terms=Terms(credit_limit_usd=Decimal(5)), reason="agreed", by=ADA)
    wallets.unfreeze(organization_id=acme.pk, reason="agreed", by=ADA)
    receive(invoice, "2.70", "paid")
    assert terms(acme) == ("strict", Decimal(5), False)


def test_a_wallet_that_was_frozen_before_stays_frozen(calendar: Clock, owing: tuple[Organization, Invoice]) -> None:
    acme, invoice = owing
    wallets.freeze(organization_id=acme.pk, reason="abuse", by=ADA)
    days(calendar, 38)
    receive(invoice, "2.70", "paid")
    assert terms(acme) == ("strict", Decimal(1000), True)


@pytest.mark.one_database
def test_many_workers_take_each_step_once(books: Books, calendar: Clock, owing: tuple[Organization, Invoice]) -> None:
    calendar.move(DUE + 25 * DAY - calendar.at)
    assert sum(books.together([dunning.run] * 6)) == 2
    assert taken() == ["reminder_3", "stop"]


def test_a_legal_entity_has_its_own_days(db: None) -> None:
    entity = profiles.default_entity()
    assert [step.days for step in steps(entity)] == [3, 10, 17, 24, 38]
    own = LegalEntity(reminder_days=[30], stop_days=20, freeze_days=60)
    assert steps(own) == [Step("stop", 20), Step("reminder_1", 30), Step("freeze", 60)]
    late = DUE + 31 * DAY
    assert [one.name for one in due_steps(own, due_at=DUE, now=late, done=set())] == ["reminder_1", "stop"]
    assert due_steps(own, due_at=DUE, now=late, done={"reminder_1", "stop"}) == []
