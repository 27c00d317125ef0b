"""Closing a month at size: several workers, kills, bounded memory, every record on one document."""

from decimal import Decimal

import pytest

from billing import invariants
from billing.models import BillingPeriod, Invoice, NumberSeries
from tests.billing import many
from tests.billing.corruption import name_of
from tests.billing.months import assert_nothing_is_left, go_to
from tests.billing.world import rows
from tests.books import Books
from tests.clocks import Clock
from tests.nursery import Nursery

# Beside what the interpreter and the product take: a chunk of organizations, not all of them.
GROWTH_MB = 80


def close_all(books: Books, calendar: Clock, nursery: Nursery, *, owners: int, charges: int, records: int) -> None:
    """Two workers at a time; those of the first rounds are killed in the middle of a chunk."""
    # Within a day after the month has ended in every zone, so that graces are over.
    go_to(calendar, "2031-06-03T12:00:00Z")
    many.fill(books.url, organizations=owners, charges=charges, records=records)
    for dies_at, nth in (("close.before_commit", 2), ("close.after_commit", 1), ("issue.after_number", 7)):
        pids = [nursery.start("tests.billing.many:close", dies_at=dies_at, nth=nth) for _ in range(2)]
        ended = [nursery.wait(pid, seconds=1800) for pid in pids]
        assert any(one.died for one in ended), ended
    pids = [nursery.start("tests.billing.many:close") for _ in range(2)]
    results = [nursery.wait(pid, seconds=1800) for pid in pids]
    assert [one.error for one in results] == ["", ""]
    many.close()
    assert max(one.result["grown_mb"] for one in results) < GROWTH_MB, results

    assert BillingPeriod.objects.filter(state="finalized").count() == owners
    assert BillingPeriod.objects.count() == 2 * owners
    assert Invoice.objects.filter(kind="statement", state="issued").count() == owners // 2
    issued = list(
        Invoice.objects.filter(kind="invoice", state="open").order_by("sequence").values_list("sequence", flat=True)
    )
    assert issued == list(range(1, owners // 2 + 1))
    assert NumberSeries.objects.get().last_number == owners // 2
    used = many.USD * charges * records
    assert rows(
        "SELECT count(*), min(charged_usd), max(charged_usd) FROM billing_period WHERE state = 'finalized'"
    ) == [(owners, used, used)]
    told = "SELECT sum(requests), sum(abs(exact_usd)) FROM invoice_line WHERE kind = 'usage'"
    assert rows(told) == [(Decimal(owners * charges * records), used * owners)]
    found = {name_of(one): one for one in invariants.check() if name_of(one) in {"V13", "V15", "V16", "V17", "V18"}}
    assert [one.detail for one in found.values() if not one.ok] == []
    assert_nothing_is_left()


def test_many_close_by_two_workers_that_are_killed(books: Books, calendar: Clock, nursery: Nursery) -> None:
    close_all(books, calendar, nursery, owners=200, charges=4, records=6)


@pytest.mark.soak
def test_ten_thousand_close_with_five_million_records(books: Books, calendar: Clock, nursery: Nursery) -> None:
    close_all(books, calendar, nursery, owners=10_000, charges=10, records=50)
