"""A document's lines as rows of a CSV. The cells are made safe by what writes the file (``core.lists``)."""

from collections.abc import Iterator

from billing.documents.document import Document, Line, taxed
from core import money

COLUMNS = ("number", "kind", "line", "text", "detail", "quantity", "unit", "exact_usd", "amount_usd")


def rows(document: Document) -> Iterator[tuple[object, ...]]:
    """Rows of ``COLUMNS``: the lines, then tax and the total, so that a sum over lines and tax is the total.

    Amounts in plain digits: exact to 12 decimals, and in cents as asked for.
    """
    name = document.number or document.reference
    for place, line in enumerate(document.lines, start=1):
        yield name, document.kind.value, place, *_cells(line)
    for tax in document.taxes:
        yield (
            name,
            document.kind.value,
            "tax",
            taxed(tax),
            "",
            None,
            "",
            money.plain(tax.amount_usd),
            f"{tax.amount_usd:.2f}",
        )
    total = document.exact_usd + sum((tax.amount_usd for tax in document.taxes), money.ZERO)
    yield name, document.kind.value, "total", "", "", None, "", money.plain(total), f"{document.total_usd:.2f}"


def _cells(line: Line) -> tuple[object, ...]:
    return (
        line.text, line.detail, line.quantity, line.unit, money.plain(line.exact_usd), f"{line.amount_usd:.2f}",
    )  # fmt: skip
