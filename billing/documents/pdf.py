"""A document as PDF: A4, plain, the same bytes for the same document.

Set in DejaVu Sans Condensed, whose digits all have one width; it has the Latin, Greek and Cyrillic letters. What it
lacks (Chinese, Japanese, Korean) and what is written from right to left is printed as ``?``, and a line on the last
page says so: the API has every text in full.
"""

import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from billing.documents.document import (
    TITLES,
    Document,
    Kind,
    Line,
    Party,
    cents,
    check,
    count,
    day,
    dollars,
    exact,
    last_day,
    period,
    taxed,
)

FONTS = Path(__file__).parent / "fonts"
PLAIN, BOLD = "DejaVuSansCondensed", "DejaVuSansCondensed-Bold"
TEXT_CHARS_MAX = 600
ADDRESS_LINES_MAX = 8
LACKING = "A ? may stand for a character that cannot be printed here; the API has every text in full."

# In points, from the lower left corner.
_WIDTH, _HEIGHT = A4
_LEFT, _RIGHT, _TOP, _BOTTOM = 51.0, _WIDTH - 51.0, _HEIGHT - 51.0, 74.0
_INK, _FAINT, _RULE, _WARN = 0.10, 0.42, 0.80, (0.72, 0.11, 0.11)
_SMALL, _BODY, _LARGE, _TITLE = 7.5, 8.5, 13.0, 20.0
_LEADING = 1.36
# Right edges of the columns of numbers; the text takes what is left of the first.
_QUANTITY, _UNIT, _EXACT, _AMOUNT = 316.0, 322.0, 462.0, _RIGHT
_TEXT_WIDTH = 246.0 - _LEFT
_RIGHT_TO_LEFT = {"R", "AL", "AN"}
_LOCK = threading.Lock()

Mark = Callable[[Canvas], None]


@cache
def _letters() -> frozenset[int]:
    """The characters that both faces have. Makes the fonts known to reportlab."""
    faces = []
    for name in (PLAIN, BOLD):
        font = TTFont(name, str(FONTS / f"{name}.ttf"))
        pdfmetrics.registerFont(font)
        faces.append(font.face.charToGlyph.keys())
    return frozenset(faces[0] & faces[1])


def draw(document: Document) -> bytes:
    """The document as PDF. Raises ``Contradiction`` for one that does not add up: it is never printed."""
    check(document)
    # Drawing is work of this process alone, so waiting costs nothing, and reportlab's fonts keep state.
    with _LOCK:
        _letters()
        sheet = _Sheet()
        _head(sheet, document)
        _table(sheet, document)
        _totals(sheet, document)
        _after(sheet, document)
        return _render(sheet, document)


@dataclass
class _Sheet:
    """Pages being laid out: what is drawn on each, and how far down the last one is filled."""

    pages: list[list[Mark]] = field(default_factory=lambda: [[]])
    y: float = _TOP
    lacks: bool = False

    def clean(self, text: str) -> str:
        """Text that the font can carry, without control characters."""
        found = []
        if len(text) > TEXT_CHARS_MAX:
            text = text[: TEXT_CHARS_MAX - 1] + "…"
        for letter in unicodedata.normalize("NFC", text):
            if letter.isspace():
                found.append(" ")
            elif unicodedata.category(letter) in {"Cc", "Cf"}:
                continue
            elif ord(letter) in _letters() and unicodedata.bidirectional(letter) not in _RIGHT_TO_LEFT:
                found.append(letter)
            else:
                found.append("?")
                self.lacks = True
        return "".join(found)

    def text(
        self, x: float, text: str, *, size: float = _BODY, bold: bool = False, ink: float = _INK, right: bool = False,
        most: float | None = None,
    ) -> None:  # fmt: skip
        """One line of text from ``x`` on, or ending there; smaller if it would be wider than ``most``."""
        text, face, place = self.clean(text), BOLD if bold else PLAIN, self.y
        width = pdfmetrics.stringWidth(text, face, size)
        if most is not None and width > most:
            size *= most / width
            width = most
        start = x - width if right else x

        def mark(canvas: Canvas) -> None:
            canvas.setFillGray(ink)
            canvas.setFont(face, size)
            canvas.drawString(start, place, text)

        self.pages[-1].append(mark)

    def warn(self, x: float, text: str, *, size: float) -> None:
        """A word that must be seen, ending at ``x``."""
        place = self.y

        def mark(canvas: Canvas) -> None:
            canvas.setFillColorRGB(*_WARN)
            canvas.setFont(BOLD, size)
            canvas.drawRightString(x, place, text)

        self.pages[-1].append(mark)

    def rule(self, *, left: float = _LEFT, below: float = 0.0, weight: float = 0.5, ink: float = _RULE) -> None:
        """A line across, from ``left`` to the right margin."""
        place = self.y - below

        def mark(canvas: Canvas) -> None:
            canvas.setStrokeGray(ink)
            canvas.setLineWidth(weight)
            canvas.line(left, place, _RIGHT, place)

        self.pages[-1].append(mark)

    def wrapped(self, text: str, width: float, *, size: float = _BODY, bold: bool = False) -> list[str]:
        """Lines no wider than ``width``: broken between words, and within one that is wider itself."""
        face = BOLD if bold else PLAIN
        lines: list[str] = []
        current = ""
        for word in self.clean(text).split():
            joined = f"{current} {word}" if current else word
            if pdfmetrics.stringWidth(joined, face, size) <= width:
                current = joined
                continue
            if current:
                lines.append(current)
            while pdfmetrics.stringWidth(word, face, size) > width:
                fits = len(word) - 1
                while pdfmetrics.stringWidth(word[:fits], face, size) > width:
                    fits -= 1
                lines.append(word[:fits])
                word = word[fits:]
            current = word
        return [*lines, current] if current or not lines else lines

    def paragraph(self, text: str, *, width: float = _RIGHT - _LEFT, size: float = _BODY, ink: float = _INK) -> None:
        """Text over several lines, going on on the next page where this one is full."""
        for part in text.splitlines() or [""]:
            for line in self.wrapped(part, width, size=size):
                self.need(size * _LEADING)
                self.down(size * _LEADING)
                self.text(_LEFT, line, size=size, ink=ink)

    def down(self, points: float) -> None:
        """Go down the page."""
        self.y -= points

    def need(self, points: float) -> bool:
        """Begin a new page unless so much fits on this one; whether it did."""
        if self.y - points >= _BOTTOM:
            return False
        self.pages.append([])
        self.y = _TOP
        return True


def _head(sheet: _Sheet, document: Document) -> None:
    """Who, to whom, what, when."""
    sheet.down(_TITLE)
    sheet.text(_LEFT, TITLES[document.kind], size=_TITLE, bold=True)
    if document.state in {"draft", "void", "uncollectible"}:
        sheet.warn(_RIGHT, document.state.upper(), size=_LARGE)
    sheet.down(14)
    sheet.rule(weight=1, ink=_INK)
    sheet.down(8)
    top = sheet.y
    bottoms = []
    facts_at = 372.0
    for left, label, party in ((_LEFT, "From", document.seller), (210.0, "To", document.buyer)):
        sheet.y = top
        _party(sheet, left, 148.0, label, party)
        bottoms.append(sheet.y)
    sheet.y = top
    for label, told in _facts(document):
        # An id stays in one piece, so that it can be copied.
        lines = sheet.wrapped(told, _RIGHT - facts_at - 62) if " " in told else [told]
        for place, line in enumerate(lines):
            sheet.down(_BODY * _LEADING)
            if place == 0:
                sheet.text(facts_at, label, size=_SMALL, ink=_FAINT)
            sheet.text(facts_at + 62, line, most=_RIGHT - facts_at - 62)
    sheet.y = min(*bottoms, sheet.y) - 18
    said = _summary(document)
    if said:
        sheet.down(_LARGE)
        sheet.text(_LEFT, said, size=_LARGE, bold=True, most=_RIGHT - _LEFT)
        sheet.down(12)
    if document.reason and all(line.text != document.reason for line in document.lines):
        sheet.paragraph(document.reason)
        sheet.down(6)


def _party(sheet: _Sheet, left: float, width: float, label: str, party: Party) -> None:
    """A name and an address."""
    sheet.down(_BODY * _LEADING)
    sheet.text(left, label, size=_SMALL, ink=_FAINT)
    for line in sheet.wrapped(party.name, width, bold=True):
        sheet.down(_BODY * _LEADING)
        sheet.text(left, line, bold=True)
    address = [part for part in party.address.splitlines() if part.strip()][:ADDRESS_LINES_MAX]
    more = [party.country, f"VAT id {party.vat_id}" if party.vat_id else "", party.email]
    for part in (*address, *filter(None, more)):
        for line in sheet.wrapped(part, width):
            sheet.down(_BODY * _LEADING)
            sheet.text(left, line)


def _facts(document: Document) -> list[tuple[str, str]]:
    """What stands at the upper right."""
    found = [("Number", document.number) if document.number else ("Document", document.reference)]
    if document.corrects:
        found.append(("Corrects", document.corrects))
    if document.issued_at is not None:
        found.append(("Date", day(document.issued_at, document.zone)))
    if document.starts_at is not None and document.ends_at is not None:
        if document.starts_at < document.ends_at:
            found.append(("Period", period(document.starts_at, document.ends_at, document.zone)))
        else:
            found.append(("Paid", day(document.starts_at, document.zone)))
    if document.due_at is not None:
        found.append(("Due", last_day(document.due_at, document.zone)))
    return [*found, ("Time zone", document.zone), ("Currency", "US dollar")]


def _summary(document: Document) -> str:
    """The one thing that a reader looks for."""
    if document.kind == Kind.INVOICE and document.open_usd > 0 and document.due_at is not None:
        return f"{dollars(document.open_usd)} due by {last_day(document.due_at, document.zone)}"
    if document.kind == Kind.INVOICE and document.state == "paid":
        return f"{dollars(document.total_usd)}, paid"
    if document.kind == Kind.RECEIPT:
        return f"{dollars(document.total_usd)} received"
    if document.kind == Kind.CREDIT_NOTE:
        return f"{dollars(document.total_usd)} credited"
    if document.closing_usd is not None:
        return f"Balance {dollars(document.closing_usd)}"
    return ""


def _columns(sheet: _Sheet) -> None:
    """The table's head."""
    sheet.down(_SMALL * _LEADING)
    for edge, name in ((_QUANTITY, "Quantity"), (_EXACT, "Exact USD"), (_AMOUNT, "Amount USD")):
        sheet.text(edge, name, size=_SMALL, ink=_FAINT, right=True)
    sheet.text(_LEFT, "Description", size=_SMALL, ink=_FAINT)
    sheet.text(_UNIT, "Unit", size=_SMALL, ink=_FAINT)
    sheet.rule(below=4, weight=0.75, ink=_FAINT)
    sheet.down(5)


def _table(sheet: _Sheet, document: Document) -> None:
    """The lines, with the head again on every page."""
    sheet.need(60)
    _columns(sheet)
    point = _EXACT - max((_after_point(line) for line in document.lines), default=0.0)
    if document.opening_usd is not None:
        _balance(sheet, "Opening balance", cents(document.opening_usd))
    for line in document.lines:
        _row(sheet, line, point)
    if not document.lines:
        sheet.down(_BODY * _LEADING)
        sheet.text(_LEFT, "Nothing happened in this period.", ink=_FAINT)
        sheet.down(4)


def _after_point(line: Line) -> float:
    """How wide the decimals of a line's exact amount are, with their point."""
    return _wide("." + exact(line.exact_usd).partition(".")[2])


def _wide(text: str) -> float:
    return float(pdfmetrics.stringWidth(text, PLAIN, _BODY))


def _row(sheet: _Sheet, line: Line, point: float) -> None:
    """One line; never over two pages."""
    texts = sheet.wrapped(line.text, _TEXT_WIDTH)
    details = sheet.wrapped(line.detail, _TEXT_WIDTH, size=_SMALL) if line.detail else []
    height = len(texts) * _BODY * _LEADING + len(details) * _SMALL * _LEADING + 5
    if sheet.need(height):
        _columns(sheet)
    sheet.down(_BODY * _LEADING)
    if line.quantity is not None:
        sheet.text(_QUANTITY, count(line.quantity), right=True, most=_QUANTITY - _LEFT - _TEXT_WIDTH - 6)
        sheet.text(_UNIT, line.unit, most=54)
    whole, _, rest = exact(line.exact_usd).partition(".")
    room = _EXACT - _UNIT - 56
    if _wide(whole) <= room - (_EXACT - point):
        # Under each other by their points.
        sheet.text(point, whole, right=True, ink=_FAINT)
        sheet.text(point, f".{rest}", ink=_FAINT)
    else:
        sheet.text(_EXACT, f"{whole}.{rest}", right=True, most=room, ink=_FAINT)
    sheet.text(_AMOUNT, cents(line.amount_usd), right=True, most=_AMOUNT - _EXACT - 8)
    sheet.text(_LEFT, texts[0])
    for text in texts[1:]:
        sheet.down(_BODY * _LEADING)
        sheet.text(_LEFT, text)
    for text in details:
        sheet.down(_SMALL * _LEADING)
        sheet.text(_LEFT, text, size=_SMALL, ink=_FAINT)
    sheet.rule(below=4, weight=0.35)
    sheet.down(5)


def _balance(sheet: _Sheet, label: str, amount: str) -> None:
    """A balance before or after the lines."""
    sheet.down(_BODY * _LEADING)
    sheet.text(_LEFT, label, bold=True)
    sheet.text(_AMOUNT, amount, bold=True, right=True)
    sheet.rule(below=4, weight=0.35)
    sheet.down(5)


def _totals(sheet: _Sheet, document: Document) -> None:
    """What it comes to. Kept together on one page."""
    rows = _sums(document)
    left = 322.0
    sheet.need(len(rows) * (_BODY * _LEADING + 3) + 20)
    sheet.down(4)
    for label, amount, strong in rows:
        sheet.down(_BODY * _LEADING + 3)
        if strong:
            sheet.rule(left=left, below=-_BODY * _LEADING, weight=0.75, ink=_FAINT)
        sheet.text(left, label, bold=strong, most=130)
        sheet.text(_AMOUNT, amount, bold=strong, right=True, most=88)
    sheet.down(8)


def _sums(document: Document) -> list[tuple[str, str, bool]]:
    """Labels and amounts below the table, and which of them are strong."""
    if document.kind == Kind.STATEMENT:
        found = [("Change", cents(document.subtotal_usd), False)]
        if document.closing_usd is not None:
            found.append(("Closing balance", cents(document.closing_usd), True))
        return found
    found = [("Subtotal", cents(document.subtotal_usd), False)]
    for tax in document.taxes:
        found.append((taxed(tax), cents(tax.amount_usd), False))
    found.append(("Total USD", cents(document.total_usd), True))
    if document.kind == Kind.INVOICE and document.paid_usd:
        found.append(("Paid", cents(-document.paid_usd), False))
    if document.kind == Kind.INVOICE and document.state != "draft" and document.credited_usd:
        label = {"void": "Void", "uncollectible": "Given up"}.get(document.state, "Credited")
        found.append((label, cents(-document.credited_usd), False))
    if document.kind == Kind.INVOICE and document.state != "draft":
        found.append(("Amount due USD", cents(document.open_usd), True))
    return found


def _after(sheet: _Sheet, document: Document) -> None:
    """What else is to be said: rounding, payments, notes, how to pay."""
    if document.carried_usd:
        rounded = f"Before rounding the lines come to {exact(document.exact_usd)} USD; "
        sheet.paragraph(
            f"{rounded}{exact(document.carried_usd)} USD are carried over to the next document.",
            size=_SMALL, ink=_FAINT,
        )  # fmt: skip
    for note in document.notes:
        sheet.down(6)
        sheet.paragraph(note)
    if document.movements:
        _section(sheet, "Payments and corrections")
        for each in document.movements:
            _movement(sheet, day(each.at, document.zone), each.text, cents(each.amount_usd))
    if document.payment or document.pay_url:
        _section(sheet, "How to pay")
        if document.pay_url:
            sheet.paragraph(f"By card: {document.pay_url}")
        if document.payment:
            sheet.paragraph(document.payment)
            sheet.paragraph(f"Please give the number {document.number} as the reference.")


def _section(sheet: _Sheet, name: str) -> None:
    """A heading with something below it."""
    sheet.need(60)
    sheet.down(24)
    sheet.text(_LEFT, name, bold=True)
    sheet.rule(below=4)
    sheet.down(5)


def _movement(sheet: _Sheet, when: str, text: str, amount: str) -> None:
    """A payment or correction: when, what, how much."""
    lines = sheet.wrapped(text, 270)
    sheet.need(len(lines) * _BODY * _LEADING)
    for place, line in enumerate(lines):
        sheet.down(_BODY * _LEADING)
        if place == 0:
            sheet.text(_LEFT, when)
            sheet.text(_AMOUNT, amount, right=True)
        sheet.text(_LEFT + 110, line)


def _render(sheet: _Sheet, document: Document) -> bytes:
    """The pages, each with its foot."""
    if sheet.lacks:
        sheet.down(6)
        sheet.paragraph(LACKING, size=_SMALL, ink=_FAINT)
    title = f"{sheet.clean(document.seller.name)} · {document.title}"
    # Without a first font of ours, Helvetica would be named in the file and left to the reader to find.
    canvas = Canvas(BytesIO(), pagesize=A4, invariant=1, lang="en", initialFontName=PLAIN)  # type: ignore[arg-type]
    canvas.setTitle(title)
    canvas.setAuthor(sheet.clean(document.seller.name))
    canvas.setSubject(document.reference)
    canvas.setCreator("Tollbook")
    for place, marks in enumerate(sheet.pages, start=1):
        for mark in marks:
            mark(canvas)
        _foot(canvas, title, f"Page {place} of {len(sheet.pages)}")
        canvas.showPage()
    return bytes(canvas.getpdfdata())  # type: ignore[no-untyped-call]


def _foot(canvas: Canvas, left: str, right: str) -> None:
    canvas.setStrokeGray(_RULE)
    canvas.setLineWidth(0.5)
    canvas.line(_LEFT, 56, _RIGHT, 56)
    canvas.setFillGray(_FAINT)
    canvas.setFont(PLAIN, _SMALL)
    room = _RIGHT - _LEFT - pdfmetrics.stringWidth(right, PLAIN, _SMALL) - 12
    while pdfmetrics.stringWidth(left, PLAIN, _SMALL) > room:
        left = left[:-2] + "…"
    canvas.drawString(_LEFT, 44, left)
    canvas.drawRightString(_RIGHT, 44, right)
