"""A document's lines as rows."""

from decimal import Decimal

from billing.documents import csv
from tests.billing.documents import samples


def test_an_invoices_rows_are_its_lines_its_tax_and_its_total() -> None:
    assert list(csv.rows(samples.invoice())) == [
        ("TB-2026-000001", "invoice", 1, "deepseek-chat", "1,234,567 tokens in (640 cached), 89,012 out", 12345,
         "requests", "700.003621", "700.00"),
        ("TB-2026-000001", "invoice", 2, "gpt-4o", "gpt-4o, batch, key “Production”", 1, "requests", "300.0007",
         "300.00"),
        ("TB-2026-000001", "invoice", "tax", "VAT 19 % of 1,000.00", "", None, "", "190", "190.00"),
        ("TB-2026-000001", "invoice", "total", "", "", None, "", "1190.004321", "1190.00"),
    ]  # fmt: skip


def test_rows_have_the_columns_and_add_up() -> None:
    for document in samples.all_of_them().values():
        rows = [dict(zip(csv.COLUMNS, row, strict=True)) for row in csv.rows(document)]
        *parts, total = rows
        for name in ("exact_usd", "amount_usd"):
            assert sum(Decimal(str(row[name])) for row in parts) == Decimal(str(total[name]))


def test_a_statement_is_named_by_its_id() -> None:
    assert {row[0] for row in csv.rows(samples.statement())} == {"inv_01K6Z7000000000000000000AA"}
