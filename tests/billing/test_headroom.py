"""Numbers near the end of a smaller column go on; the few that are of one stop there, with nothing half done."""

from billing.models import BillingPeriod, Invoice, NumberSeries
from metering.rating import COUNT_MAX
from metering.verdicts import Status
from tests.billing.corruption import corrupt
from tests.billing.months import close, go_to, sold, use
from tests.billing.world import assert_all, assert_sound, charge, organization, rows
from tests.books import Books
from tests.clocks import Clock
from tests.metering import records
from tests.metering.world import event
from tests.proofs import proves

# What an ``integer`` holds.
END = 2_147_483_647


@proves("D11", guard="counters_are_wide")
def test_a_wallet_has_as_many_transfers_as_it_takes(books: Books) -> None:
    acme = organization("acme", usd="1")
    corrupt(
        books,
        f"UPDATE transfer SET seq = {END - 1} WHERE seq = 1 RETURNING id",
        f"UPDATE wallet SET seq = {END - 1} RETURNING seq",
    )
    for _ in range(3):
        assert_all(charge(acme, event()), Status.CREATED)
    assert rows("SELECT seq FROM transfer ORDER BY seq") == [(END - 1,), (END,), (END + 1,), (END + 2,)]
    # It has no first transfer any more; all else is as it was.
    assert_sound(but="V02")


@proves("D11", guard="sums_of_counts_are_wide")
def test_an_organization_uses_as_many_tokens_as_it_takes(books: Books) -> None:
    assert COUNT_MAX == END
    acme = organization("acme", usd="10000")
    most = {"input_tokens": END, "cached_input_tokens": 0, "output_tokens": 0}
    assert_all(charge(acme, *(event(**most) for _ in range(3))), Status.CREATED)
    records.fold_everything()
    assert rows("SELECT input_tokens FROM usage_rollup") == [(6_442_450_941,)]
    assert_sound()


def test_a_number_beyond_the_last_of_a_year_is_not_given_and_its_invoice_waits_for_a_person(
    books: Books, calendar: Clock
) -> None:
    acme = sold("acme")
    use(acme)
    go_to(calendar, "2031-06-01T00:00:00Z")
    assert close(calendar).finalized == 1
    corrupt(books, f"UPDATE number_series SET last_number = {END} RETURNING last_number")
    use(acme)
    go_to(calendar, "2031-07-01T00:00:00Z")
    assert close(calendar).parked == 1
    assert "integer out of range" in BillingPeriod.objects.get(state="parked").parked_for
    assert [one.number for one in Invoice.objects.order_by("pk")] == ["TB-2031-000001", None]
    assert NumberSeries.objects.get().last_number == END
