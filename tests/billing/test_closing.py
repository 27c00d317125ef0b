"""Closing periods: what becomes of a month."""

from decimal import Decimal

from billing.models import BillingPeriod
from tests.billing.months import (
    USD,
    assert_nothing_is_left,
    at,
    buy,
    close,
    document,
    documents,
    go_to,
    lines,
    receive,
    sold,
    use,
)
from tests.billing.world import assert_sound, organization
from tests.clocks import Clock


def test_a_prepaid_month_becomes_a_statement_of_what_moved(calendar: Clock) -> None:
    acme = organization("acme", usd="5")
    quiet = organization("quiet")
    buy(acme, "20")
    use(acme, events=3)
    go_to(calendar, "2031-06-01T00:00:00Z")
    use(acme)
    done = close(calendar)
    assert (done.opened, done.drafted, done.finalized, done.parked) == (2, 1, 2, 0)
    found = document(acme)
    assert (found.kind, found.state, found.number, found.total_usd) == ("statement", "issued", None, Decimal("24.19"))
    assert (found.opening_usd, found.closing_usd) == (0, Decimal("24.19"))
    assert lines(found) == [("topup", "20", "20.00"), ("given", "5", "5.00"), ("deepseek-chat", "-0.81", "-0.81")]
    assert (found.starts_at, found.ends_at) == (at("2031-05-01T00:00:00Z"), at("2031-06-01T00:00:00Z"))
    assert documents(quiet) == []
    assert BillingPeriod.objects.filter(organization=quiet).count() == 2
    assert_nothing_is_left()


def test_a_postpaid_month_becomes_an_invoice_of_what_is_owed(calendar: Clock) -> None:
    acme = sold("acme")
    buy(acme, "1")
    use(acme, events=10)
    use(acme, input_tokens=10_007)
    go_to(calendar, "2031-06-01T00:00:00Z")
    close(calendar)
    found = document(acme)
    # 10 × 0.27 + 10,007 × 0.27 / 1M − 1
    assert found.exact_usd == Decimal("1.70270189")
    assert lines(found) == [("deepseek-chat", "2.70270189", "2.70"), ("credit", "-1", "-1.00")]
    assert (found.kind, found.state, found.total_usd, found.open_usd) == (
        "invoice",
        "open",
        Decimal("1.70"),
        Decimal("1.70"),
    )
    assert found.number == "TB-2031-000001"
    use(acme)
    receive(found, "1.70", "paid")
    go_to(calendar, "2031-07-01T00:00:00Z")
    close(calendar)
    found = documents(acme)[-1]
    assert lines(found) == [("deepseek-chat", "0.27", "0.27"), ("carried", "0.00270189", "0.00")]
    assert (found.number, found.total_usd) == ("TB-2031-000002", USD)
    assert_nothing_is_left()
    assert_sound()
