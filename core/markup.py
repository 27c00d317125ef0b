"""What pages for people are made of: tables, links, documents. Everything is escaped unless it was made here."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from django.urls import reverse
from django.utils.html import format_html, format_html_join, strip_tags
from django.utils.safestring import SafeString

from core import ids, money

# As Django shows an empty column.
NOTHING = "-"

# What a change in the audit trail says.
_CHANGE = {"before", "after"}
_NUMBER = re.compile(r"[+-]?[0-9][0-9,]*(\.[0-9]+)?( %)?", re.ASCII)


def link(page: str, address: object, text: object) -> SafeString:
    """A link to a row's page; ``page`` is app and model as in ``orgs_apikey``."""
    return link_to(reverse(f"admin:{page}_change", args=[address]), text)


def link_to(place: str, text: object) -> SafeString:
    """A link to an address."""
    return format_html('<a href="{}">{}</a>', place, text)


def refer(page: str, prefix: str, key: UUID | None) -> str:
    """A link that shows the id of the row it leads to."""
    return NOTHING if key is None else link(page, key, ids.show(prefix, key))


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    foot: Sequence[object] | None = None,
    marked: Collection[int] = (),
) -> SafeString:
    """A table; columns of numbers are aligned as such.

    ``foot`` is a last line that sums up. ``marked`` are the places of rows that stand out; what they
    stand out for is said in them, because a colour says nothing to everybody.
    """
    body = [_texts(row) for row in rows]
    kinds = [
        "number" if body and all(_is_number(row[place]) for row in body) else "text" for place in range(len(heads))
    ]
    mark = format_html(' class="{}"', "marked")
    lines = ((mark if place in marked else "", _cells("td", kinds, row)) for place, row in enumerate(body))
    return format_html(
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody>{}</table>",
        format_html_join("", '<th scope="col" class="{}">{}</th>', zip(kinds, heads, strict=True)),
        format_html_join("", "<tr{}>{}</tr>", lines),
        "" if foot is None else format_html("<tfoot><tr>{}</tr></tfoot>", _cells("th", kinds, _texts(foot))),
    )


def _is_number(cell: str) -> bool:
    return cell == NOTHING or bool(_NUMBER.fullmatch(strip_tags(cell)))


def _texts(row: Sequence[object]) -> list[str]:
    # What was made here stays as it is: the text of a safe string is that string.
    return [NOTHING if cell is None else str(cell) for cell in row]


def _cells(tag: str, kinds: Sequence[str], row: Sequence[str]) -> SafeString:
    return format_html_join(
        "", '<{} class="{}">{}</{}>', ((tag, kind, cell, tag) for kind, cell in zip(kinds, row, strict=True))
    )


def paragraphs(*sentences: object) -> SafeString:
    """Sentences, each a paragraph."""
    return format_html_join("", "<p>{}</p>", ((sentence,) for sentence in sentences))


def as_text(document: object) -> str:
    """A JSON document to be read."""
    return NOTHING if document is None else verbatim(json.dumps(document, indent=2, ensure_ascii=False))


def verbatim(text: str) -> SafeString:
    """Text whose lines and spaces mean something."""
    return format_html("<pre>{}</pre>", text)


def as_facts(document: Mapping[str, object]) -> SafeString:
    """A document of a few named things as a person reads it: a line for each, lists one below the other."""
    rows = ((label(name), _fact(value)) for name, value in document.items())
    return format_html(
        '<table class="facts"><tbody>{}</tbody></table>',
        format_html_join("", '<tr><th scope="row">{}</th><td>{}</td></tr>', rows),
    )


def label(name: str) -> str:
    """A name as a person reads it: ``amount_usd`` is an amount (USD)."""
    said = name.replace("_", " ")
    return f"{said[:-4]} (USD)" if said.endswith(" usd") else said


def _fact(value: object) -> object:
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list | dict):
        return value
    if (
        isinstance(value, dict)
        and set(value) == _CHANGE
        and not any(isinstance(each, list | dict) for each in value.values())
    ):
        return f"{_fact(value['before'])} → {_fact(value['after'])}"
    if isinstance(value, dict) or any(isinstance(each, list | dict) for each in value):
        return as_text(value)
    return format_html_join("", "{}<br>", ((each,) for each in value))


def stamp(at: datetime) -> str:
    """An instant to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def usd(amount: Decimal) -> SafeString:
    """Dollars to the cent, rounded down, or all digits where there are no cents; the exact amount on hover."""
    exact = money.plain(amount)
    small = 0 < abs(amount) < Decimal("0.01")
    shown = exact if small else f"{Decimal(money.display(amount)):,}"
    return format_html('<span title="{} USD">{}</span>', exact, shown)


def signed(amount: Decimal) -> str:
    """An amount in plain digits that says in which direction it goes."""
    return f"+{money.plain(amount)}" if amount > 0 else money.plain(amount)


def percent(part: Decimal, whole: Decimal, *, sign: bool = False) -> str | None:
    """A part of a whole in percent with at most two decimals, rounded towards zero; None of nothing."""
    if not whole:
        return None
    share = (part * 10_000 // whole).scaleb(-2)
    return f"{signed(share) if sign else money.plain(share)} %"
