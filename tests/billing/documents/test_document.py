"""What a document says of itself: sums that must hold, and how amounts and days are written."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing.documents import document
from billing.documents.document import Contradiction, Document
from tests.billing.documents import samples

D = Decimal


@pytest.mark.parametrize("name", samples.all_of_them())
def test_the_samples_add_up(name: str) -> None:
    document.check(samples.all_of_them()[name])


@pytest.mark.parametrize(
    "wrong",
    [
        samples.invoice(subtotal_usd=D("1000.01")),
        samples.invoice(total_usd=D("1189.99")),
        samples.invoice(taxes=()),
        samples.invoice(open_usd=D("1190.001")),
        replace(samples.statement(), closing_usd=D("39.56")),
        replace(
            samples.invoice(), taxes=(replace(samples.invoice().taxes[0], percent=D("20")),), total_usd=D("1190.00")
        ),
        replace(
            samples.invoice(),
            lines=(samples.usage("x", 1, "0.001", "999.995"), samples.usage("y", 1, "0.001", "0.005")),
        ),
    ],
)
def test_a_document_that_does_not_add_up_is_found(wrong: Document) -> None:
    with pytest.raises(Contradiction):
        document.check(wrong)


def test_what_is_carried_over_is_what_rounding_left() -> None:
    # 700.003621 + 300.0007 = 1000.004321, of which 1000.00 was asked for.
    assert samples.invoice().carried_usd == D("0.004321")
    assert samples.nothing().carried_usd == 0


@pytest.mark.parametrize(
    ("amount", "printed"),
    [("0", "0.00"), ("1234567.5", "1,234,567.50"), ("-0.01", "−0.01"), ("-1234", "−1,234.00"), ("-0", "0.00")],
)
def test_amounts_asked_for_are_printed_in_cents(amount: str, printed: str) -> None:
    assert document.cents(D(amount)) == printed


def test_an_amount_finer_than_cents_is_not_printed_as_if_it_were_less() -> None:
    with pytest.raises(Contradiction):
        document.cents(D("0.004"))


@pytest.mark.parametrize(
    ("amount", "printed"),
    [
        ("0", "0.00"), ("0.000362", "0.000362"), ("5", "5.00"), ("-1234.5", "−1,234.50"),
        ("99999999999.123456789012", "99,999,999,999.123456789012"), ("0.000000000001", "0.000000000001"),
    ],
)  # fmt: skip
def test_exact_amounts_are_printed_to_the_last_digit(amount: str, printed: str) -> None:
    assert document.exact(D(amount)) == printed


def test_counts_and_rates_are_printed_as_people_write_them() -> None:
    assert document.count(1234567) == "1,234,567"
    assert document.count(-1000) == "−1,000"
    vat = samples.invoice().taxes[0]
    assert document.taxed(vat) == "VAT 19 % of 1,000.00"
    assert document.taxed(replace(vat, percent=D("8.1"), name="MWST")) == "MWST 8.1 % of 1,000.00"
    assert document.taxed(replace(vat, percent=None)) == "VAT of 1,000.00"


def test_what_is_neither_paid_nor_open_was_credited() -> None:
    # 1190.00 asked for, 400.00 paid, 600.00 open.
    assert replace(samples.invoice(), paid_usd=D("400.00"), open_usd=D("600.00")).credited_usd == D("190.00")
    assert samples.reverse_charge().credited_usd == 0


@pytest.mark.parametrize(
    ("zone", "starts_at", "ends_at", "printed"),
    [
        # Summer time ends in October in Berlin: the month has 745 hours.
        ("Europe/Berlin", (2026, 9, 30, 22), (2026, 10, 31, 23), "1 to 31 October 2026"),
        ("Pacific/Kiritimati", (2026, 1, 31, 10), (2026, 2, 28, 10), "1 to 28 February 2026"),
        ("UTC", (2028, 2, 29, 0), (2028, 3, 1, 0), "29 February 2028"),
        ("UTC", (2028, 1, 31, 0), (2028, 2, 29, 0), "31 January to 28 February 2028"),
        ("UTC", (2026, 12, 15, 0), (2027, 1, 15, 0), "15 December 2026 to 14 January 2027"),
        # Clocks in Cairo went from midnight to one: that day began at one.
        ("Africa/Cairo", (2026, 4, 23, 22), (2026, 4, 24, 21), "24 April 2026"),
        ("UTC", (2026, 1, 1, 0), (2026, 1, 15, 13), "1 January 2026, 00:00 to before 15 January 2026, 13:00"),
        # The same instants are no days elsewhere.
        ("Asia/Kolkata", (2026, 1, 1, 0), (2026, 1, 2, 0), "1 January 2026, 05:30 to before 2 January 2026, 05:30"),
    ],
)
def test_periods_are_printed_by_their_days_in_the_zone(
    zone: str, starts_at: tuple[int, ...], ends_at: tuple[int, ...], printed: str
) -> None:
    start, end = (datetime(*at, tzinfo=UTC) for at in (starts_at, ends_at))  # type: ignore[arg-type,misc]
    assert document.period(start, end, zone) == printed


def test_what_is_due_at_midnight_is_due_on_the_day_before() -> None:
    assert document.last_day(datetime(2026, 11, 16, 23, tzinfo=UTC), "Europe/Berlin") == "16 November 2026"
    assert document.day(datetime(2026, 11, 16, 23, tzinfo=UTC), "Europe/Berlin") == "17 November 2026"
