"""Documents, periods and numbers: each corruption raises its invariant and no other."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from billing import dunning, invariants, invoices, profiles
from billing.models import Account
from tests import books as own_books
from tests.billing import history
from tests.billing.corruption import assert_only, corrupt, name_of
from tests.billing.months import ADA, at, buy, close, document, documents, go_to, receive, sold, taxed, use
from tests.billing.world import assert_sound, organization, rows
from tests.books import Books
from tests.clocks import standing_still
from tests.database import Server
from tests.metering import records
from tests.proofs import proves


def happen() -> None:
    """Two months: invoices in every state, statements, a credit note, a quiet organization, one that is dunned."""
    with standing_still(own_books.current()) as clock:
        go_to(clock, "2031-05-20T12:00:00Z")
        records.mark(at("2031-05-20T00:00:00Z"))
        taxed("DE")
        postpaid = [sold(f"post-{place}", country="DE", grouping="api_key") for place in range(5)]
        prepaid = organization("pre", usd="5")
        organization("quiet")
        profiles.set_profile(organization_id=prepaid.pk, fields={"country": "DE"}, by=ADA)
        for owner in (*postpaid, prepaid):
            use(owner, input_tokens=3_141_593)
        buy(prepaid, "20")
        go_to(clock, "2031-06-01T00:00:00Z")
        close(clock)
        paid, credited, voided, given_up, _ = (document(owner) for owner in postpaid)
        receive(paid, "1.01", "paid", Account.BANK)
        receive(paid, "9.99", "rest")
        invoices.credit(invoice_id=credited.pk, amount_usd=Decimal("0.50"), reason="tests", by=ADA)
        invoices.void(invoice_id=voided.pk, reason="tests", by=ADA)
        invoices.give_up(invoice_id=given_up.pk, reason="tests", by=ADA)
        for owner in (*postpaid, prepaid):
            use(owner, input_tokens=2_718_282)
        go_to(clock, "2031-07-01T00:00:00Z")
        dunning.run()
        close(clock)
        assert len(documents(postpaid[0])) == 2


@pytest.fixture(scope="module")
def billed(database_server: Server, template: str, django_db_blocker: Any) -> Iterator[Server]:
    """Books with two months closed, to be copied."""
    with django_db_blocker.unblock(), history.template(database_server, happen) as made:
        yield made


@pytest.fixture
def months(billed: Server, django_db_blocker: Any) -> Iterator[Books]:
    """A copy of them, the test's own."""
    with django_db_blocker.unblock(), history.opened(billed) as own:
        yield own


def one(slug: str, table: str = "invoice", *, last: bool = False) -> str:
    """The first, or last, row of an organization in a table."""
    order = "DESC" if last else "ASC"
    return (
        f"id = (SELECT x.id FROM {table} x JOIN organization o ON o.id = x.organization_id WHERE o.slug = '{slug}'"
        f" ORDER BY x.starts_at {order}, x.id {order} LIMIT 1)"
    )


QUIET = one("quiet", "billing_period")
LAST_QUIET = one("quiet", "billing_period", last=True)


def test_months_that_were_closed_are_sound_and_were_looked_at(months: Books) -> None:
    assert_sound()
    seen = {name_of(one): one.seen for one in invariants.check()}
    # Five and four invoices, a credit note; a statement in May and two in June, for what was paid ahead of it.
    assert (seen["V15"], seen["V16"], seen["V17"]) == (13, 21, 10)
    assert seen["V18"] == rows("SELECT count(*) FROM transfer")[0][0] > 30


@proves("V15", guard="documents_are_held_against_the_ledger")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE invoice_line SET amount_usd = amount_usd + 0.01 WHERE place = 1 AND invoice_{one('post-0')}"
            " RETURNING invoice_id"],
        [f"UPDATE invoice_line SET exact_usd = exact_usd + 0.000000000001 WHERE place = 1 AND invoice_{one('pre')}"
            " RETURNING invoice_id"],
        [f"DELETE FROM invoice_line WHERE place = 1 AND invoice_{one('post-1')} RETURNING invoice_id"],
        [f"UPDATE invoice SET subtotal_usd = subtotal_usd - 1, total_usd = total_usd - 1 WHERE {one('post-0')}"
            " RETURNING id"],
        [f"UPDATE invoice SET open_usd = open_usd - 0.01 WHERE {one('post-4')} RETURNING id"],
        [f"UPDATE invoice SET paid_usd = paid_usd - 0.01 WHERE {one('post-0')} RETURNING id"],
        [f"UPDATE invoice SET closing_usd = closing_usd + 1 WHERE {one('pre')} RETURNING id"],
        ["DELETE FROM invoice_settlement WHERE reference = 'paid' RETURNING invoice_id"],
        *([f"UPDATE billing_period SET {name} = {name} + 0.000000000001 WHERE {one('post-3', 'billing_period')}"
            " RETURNING organization_id"] for name in ("charged_usd", "closing_usd", "overdraft_usd", "carried_usd")),
        # A document is lost as if it had never been.
        [f"DELETE FROM invoice_line WHERE invoice_{one('pre')}", f"DELETE FROM invoice WHERE {one('pre')}"
            " RETURNING period_id"],
    ],
)  # fmt: skip
def test_a_document_that_is_not_the_books_is_seen(months: Books, statements: Sequence[str]) -> None:
    assert_only("V15", corrupt(months, *statements))


@proves("V16", guard="periods_are_held_together")
@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE billing_period SET starts_at = starts_at + interval '1 hour', follows = follows + interval '1 hour'"
            f" WHERE {LAST_QUIET} RETURNING id"],
        [f"UPDATE billing_period SET starts_at = starts_at - interval '1 hour', follows = follows - interval '1 hour'"
            f" WHERE {LAST_QUIET} RETURNING id"],
        [f"UPDATE billing_period SET ends_at = ends_at + interval '1 day' WHERE {QUIET}"
            " RETURNING organization_id"],
        [f"DELETE FROM billing_period WHERE {LAST_QUIET} RETURNING organization_id"],
        [f"DELETE FROM billing_period WHERE {QUIET} RETURNING organization_id"],
        ["UPDATE organization SET created_at = created_at - interval '40 days' WHERE slug = 'quiet' RETURNING id"],
    ],
)  # fmt: skip
def test_a_period_that_does_not_tile_is_seen(months: Books, statements: Sequence[str]) -> None:
    assert_only("V16", corrupt(months, *statements))


@proves("V17", guard="numbers_are_counted")
@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE number_series SET last_number = last_number + 1 RETURNING legal_entity_id"],
        ["UPDATE number_series SET last_issued_at = last_issued_at + interval '1 second' RETURNING legal_entity_id"],
        ["UPDATE invoice SET sequence = 99 WHERE sequence = 10 RETURNING legal_entity_id"],
        ["UPDATE invoice SET sequence = 99 WHERE sequence = 5 RETURNING legal_entity_id"],
        ["UPDATE invoice SET year = 2030 WHERE sequence = 5 RETURNING legal_entity_id"],
        ["UPDATE invoice SET issued_at = issued_at + interval '10 days' WHERE sequence = 3 RETURNING legal_entity_id"],
        ["DELETE FROM number_series RETURNING legal_entity_id"],
    ],
)  # fmt: skip
def test_a_number_that_is_missing_or_out_of_turn_is_seen(months: Books, statements: Sequence[str]) -> None:
    assert_only("V17", corrupt(months, *statements))


@proves("V18", guard="transfers_are_looked_for_in_periods")
def test_a_transfer_in_no_period_is_seen(months: Books) -> None:
    names = corrupt(
        months,
        "UPDATE transfer SET created_at = created_at - interval '100 days' WHERE id = ("
        "SELECT id FROM transfer WHERE kind = 'tax' ORDER BY id LIMIT 1) RETURNING id",
    )
    assert_only("V18", names)


def test_a_transfer_in_two_periods_is_seen(months: Books) -> None:
    names = corrupt(
        months,
        "UPDATE billing_period SET starts_at = starts_at - interval '29 days',"
        " follows = follows - interval '29 days' WHERE"
        f" {one('post-0', 'billing_period', last=True)} RETURNING organization_id",
    )
    assert_only({"V16", "V18"}, names)
