"""Documents to print: one of each kind, and the odd ones."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from billing.documents.document import Document, Kind, Line, Movement, Party, Tax

D = Decimal
SELLER = Party(
    name="Tollbook GmbH", address="Münzstraße 12\n10178 Berlin", country="DE", vat_id="DE123456789",
    email="billing@tollbook.example",
)  # fmt: skip
BUYER = Party(
    name="Zażółć Gęślą S.A.", address="ul. Świętokrzyska 7\n00-001 Warszawa", country="PL", vat_id="PL1234567890",
    email="faktury@zazolc.example",
)  # fmt: skip
OCTOBER: dict[str, Any] = {
    "starts_at": datetime(2026, 9, 30, 22, tzinfo=UTC),
    "ends_at": datetime(2026, 10, 31, 23, tzinfo=UTC),
    "zone": "Europe/Berlin",
}


def usage(model: str, requests: int, exact: str, amount: str, **more: Any) -> Line:
    """A line of usage."""
    detail = more.pop("detail", "1,234,567 tokens in (640 cached), 89,012 out")
    return Line(
        text=model, detail=detail, quantity=requests, unit="requests", exact_usd=D(exact), amount_usd=D(amount), **more
    )


def invoice(**changed: Any) -> Document:
    """Two models, German tax, to be paid."""
    made = Document(
        kind=Kind.INVOICE,
        number="TB-2026-000001",
        reference="inv_01K6Z7000000000000000000AA",
        state="open",
        seller=SELLER,
        buyer=BUYER,
        issued_at=datetime(2026, 11, 2, 9, tzinfo=UTC),
        due_at=datetime(2026, 11, 16, 23, tzinfo=UTC),
        lines=(
            usage("deepseek-chat", 12345, "700.003621", "700.00"),
            usage("gpt-4o", 1, "300.0007", "300.00", detail="gpt-4o, batch, key “Production”"),
        ),
        subtotal_usd=D("1000.00"),
        taxes=(Tax(name="VAT", percent=D("19.000"), base_usd=D("1000.00"), amount_usd=D("190.00")),),
        total_usd=D("1190.00"),
        open_usd=D("1190.00"),
        payment="IBAN DE02 1203 0000 0000 2020 51\nBIC BYLADEM1001\nMusterbank",
        pay_url="https://tollbook.example/invoices/inv_01K6Z7000000000000000000AA",
        **OCTOBER,
    )
    return replace(made, **changed)


def reverse_charge() -> Document:
    """Nothing is added, and the document says who owes the tax; part of it was paid."""
    return invoice(
        taxes=(),
        total_usd=D("1000.00"),
        paid_usd=D("400.00"),
        open_usd=D("600.00"),
        notes=("Reverse charge: the recipient is liable for the tax (Article 196, Directive 2006/112/EC).",),
        movements=(
            Movement(at=datetime(2026, 11, 5, tzinfo=UTC), text="Bank transfer RF18 5390", amount_usd=D("-400.00")),
        ),
    )


def credit_note() -> Document:
    """Takes back part of the invoice."""
    return invoice(
        kind=Kind.CREDIT_NOTE,
        number="TB-2026-000002",
        state="issued",
        corrects="invoice TB-2026-000001",
        reason="The price of deepseek-chat was wrong on 3 October.",
        lines=(Line(text="Credit for invoice TB-2026-000001", exact_usd=D("100.00"), amount_usd=D("100.00")),),
        subtotal_usd=D("100.00"),
        taxes=(Tax(name="VAT", percent=D("19"), base_usd=D("100.00"), amount_usd=D("19.00")),),
        total_usd=D("119.00"),
        open_usd=D(0),
        due_at=None,
        payment="",
        pay_url="",
    )


def receipt() -> Document:
    """Of a top-up."""
    return invoice(
        kind=Kind.RECEIPT,
        number="TB-2026-000003",
        state="issued",
        lines=(Line(text="Top-up of prepaid credit", exact_usd=D("50.00"), amount_usd=D("50.00")),),
        subtotal_usd=D("50.00"),
        taxes=(Tax(name="VAT", percent=D("19"), base_usd=D("50.00"), amount_usd=D("9.50")),),
        total_usd=D("59.50"),
        open_usd=D(0),
        due_at=None,
        starts_at=None,
        ends_at=None,
        payment="",
        pay_url="",
    )


def statement() -> Document:
    """Opening, movements of both signs, closing."""
    return invoice(
        kind=Kind.STATEMENT,
        number="",
        state="issued",
        lines=(
            Line(text="Top-ups", exact_usd=D("50.00"), amount_usd=D("50.00")),
            Line(text="Credit given", exact_usd=D("5"), amount_usd=D("5.00")),
            usage("deepseek-chat", 900, "-12.345678901234", "-12.35"),
            Line(text="Carried over", exact_usd=D("-0.001"), amount_usd=D("0.00")),
        ),
        subtotal_usd=D("42.65"),
        taxes=(),
        total_usd=D("42.65"),
        open_usd=D(0),
        due_at=None,
        opening_usd=D("-3.10"),
        closing_usd=D("39.55"),
        payment="",
        pay_url="",
    )


def many(count: int) -> Document:
    """So many lines of a cent and a thousandth each."""
    lines = tuple(
        usage(f"model-{place:03}", 1_000_000 + place, "0.011", "0.01", detail="") for place in range(1, count + 1)
    )
    total = D("0.01") * count
    return invoice(lines=lines, subtotal_usd=total, taxes=(), total_usd=total, open_usd=total)


def long_names() -> Document:
    """Names that are too long for their places, of several scripts, one of them never broken."""
    name = "Gesellschaft für außerordentlich umständliche Bezeichnungen und deren Abkürzung mbH & Co. KG"
    return invoice(
        buyer=Party(name=name, address="東京都千代田区\nΑθήνα 105 57\nМосква\nשלום", country="JP", vat_id="1" * 60),
        lines=(
            usage("a/" + "very-long-model-name-" * 9, 999_999_999_999, "99999999999.123456789012", "99999999999.12"),
            usage("x" * 200, 0, "-1000000000.123456789012", "-1000000000.12"),
            usage("free", 0, "0", "0.00", detail=""),
        ),
        subtotal_usd=D("98999999999.00"),
        taxes=(),
        total_usd=D("98999999999.00"),
        open_usd=D("98999999999.00"),
    )  # fmt: skip


def nothing() -> Document:
    """A statement of a month in which nothing happened."""
    return invoice(
        kind=Kind.STATEMENT, number="", state="issued", lines=(), subtotal_usd=D(0), taxes=(), total_usd=D(0),
        open_usd=D(0), due_at=None, opening_usd=D(0), closing_usd=D(0), payment="", pay_url="",
    )  # fmt: skip


def all_of_them() -> dict[str, Document]:
    """By name."""
    return {
        "invoice": invoice(),
        "paid": invoice(state="paid", open_usd=D(0), paid_usd=D("1190.00"), payment="", pay_url=""),
        "void": invoice(state="void", open_usd=D(0)),
        "draft": invoice(state="draft", number="", issued_at=None, due_at=None, open_usd=D(0), payment="", pay_url=""),
        "reverse_charge": reverse_charge(),
        "credit_note": credit_note(),
        "receipt": receipt(),
        "statement": statement(),
        "many": many(300),
        "long_names": long_names(),
        "nothing": nothing(),
    }
